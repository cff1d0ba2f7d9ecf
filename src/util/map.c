#include "util/map.h"

#include <string.h>

struct fl_map_slot {
    const char *key; /* NULL: free */
    uint32_t len, value;
    uint64_t hash;
};

uint64_t fl_hash_bytes(const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    h ^= h >> 32; /* FNV leaves the low bits weak, and they choose the slot */
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

static struct fl_map_slot *find(const fl_map *m, const char *key, size_t len, uint64_t hash) {
    for (uint32_t i = (uint32_t)hash;; i++) {
        struct fl_map_slot *s = &m->slots[i & (m->n_slots - 1)];
        if (!s->key || (s->hash == hash && s->len == len && !memcmp(s->key, key, len))) return s;
    }
}

static bool rehash(fl_map *m) {
    fl_map bigger = {.n_slots = m->n_slots ? m->n_slots * 2 : 64};
    if (!bigger.n_slots) return false;
    bigger.slots = fl_alloc_array(bigger.n_slots, sizeof(*bigger.slots));
    if (!bigger.slots) return false;
    for (uint32_t i = 0; i < m->n_slots; i++) {
        struct fl_map_slot *s = &m->slots[i];
        if (s->key) *find(&bigger, s->key, s->len, s->hash) = *s;
    }
    fl_free(m->slots);
    m->slots = bigger.slots;
    m->n_slots = bigger.n_slots;
    return true;
}

fl_map_result fl_map_put(fl_map *m, const char *key, size_t len, uint32_t value) {
    if (len > UINT32_MAX) return FL_MAP_NOMEM;
    if (m->n_used * 2 >= m->n_slots && !rehash(m)) return FL_MAP_NOMEM;
    uint64_t hash = fl_hash_bytes(key, len);
    struct fl_map_slot *s = find(m, key, len, hash);
    if (s->key) return FL_MAP_EXISTS;
    char *copy = fl_arena_alloc(&m->keys, len + 1);
    if (!copy) return FL_MAP_NOMEM;
    memcpy(copy, key, len);
    *s = (struct fl_map_slot){copy, (uint32_t)len, value, hash};
    m->n_used++;
    return FL_MAP_NEW;
}

void fl_map_set(fl_map *m, const char *key, size_t len, uint32_t value) {
    find(m, key, len, fl_hash_bytes(key, len))->value = value;
}

bool fl_map_get(const fl_map *m, const char *key, size_t len, uint32_t *value) {
    if (!m->n_slots) return false;
    const struct fl_map_slot *s = find(m, key, len, fl_hash_bytes(key, len));
    if (!s->key) return false;
    *value = s->value;
    return true;
}

void fl_map_free(fl_map *m) {
    fl_free(m->slots);
    fl_arena_free(&m->keys);
    *m = (fl_map){0};
}
