#include "model/kv.h"

#include <assert.h>
#include <string.h>

#include "util/mem.h"
#include "util/rng.h"

int fl_kv_pool_init(fl_kv_pool *p, int64_t n_pages, fl_err *err) {
    *p = (fl_kv_pool){.n_pages = n_pages, .n_free = n_pages, .n_empty = n_pages};
    p->newest = p->oldest = -1;
    p->n_slots = 64;
    while (p->n_slots < 2 * (uint64_t)n_pages) p->n_slots *= 2;
    p->pages = fl_alloc_array((size_t)n_pages, sizeof(*p->pages));
    p->free = fl_alloc_array((size_t)n_pages, sizeof(*p->free));
    p->table = fl_alloc_array((size_t)p->n_slots, sizeof(*p->table));
    if (!p->pages || !p->free || !p->table) {
        fl_kv_pool_deinit(p);
        return fl_fail(err, FL_E_NOMEM, "kv: %lld pages", (long long)n_pages);
    }
    /* The lowest page is on top, so that a lone sequence gets neighbouring pages. */
    for (int64_t i = 0; i < n_pages; i++) p->free[i] = (int32_t)(n_pages - 1 - i);
    for (uint64_t i = 0; i < p->n_slots; i++) p->table[i] = -1;
    int rc = fl_random_seed(&p->key, err);
    if (rc) fl_kv_pool_deinit(p);
    return rc;
}

void fl_kv_pool_deinit(fl_kv_pool *p) {
    for (int64_t i = 0; p->pages && i < p->n_pages; i++) fl_free(p->pages[i].scores);
    fl_free(p->pages);
    fl_free(p->free);
    fl_free(p->table);
    *p = (fl_kv_pool){0};
}

/* ---- the list of pages that are published but unreferenced ---- */

static void list_add(fl_kv_pool *p, int32_t page) {
    fl_kv_page *g = &p->pages[page];
    g->newer = -1;
    g->older = p->newest;
    if (p->newest >= 0)
        p->pages[p->newest].newer = page;
    else
        p->oldest = page;
    p->newest = page;
}

static void list_remove(fl_kv_pool *p, int32_t page) {
    const fl_kv_page *g = &p->pages[page];
    if (g->newer >= 0)
        p->pages[g->newer].older = g->older;
    else
        p->newest = g->older;
    if (g->older >= 0)
        p->pages[g->older].newer = g->newer;
    else
        p->oldest = g->newer;
}

/* ---- the table of published pages ---- */

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ (h >> 32);
}

static uint64_t slot_of(const fl_kv_pool *p, uint64_t hash) {
    return hash & (p->n_slots - 1);
}

static int32_t *find_slot(const fl_kv_pool *p, uint64_t hash) {
    uint64_t i = slot_of(p, hash);
    while (p->table[i] >= 0 && p->pages[p->table[i]].hash != hash) i = (i + 1) & (p->n_slots - 1);
    return &p->table[i];
}

/* Linear probing without tombstones: later entries of the run move up into the hole. */
static void close_hole(fl_kv_pool *p, uint64_t hole) {
    const uint64_t mask = p->n_slots - 1;
    for (uint64_t i = (hole + 1) & mask; p->table[i] >= 0; i = (i + 1) & mask) {
        uint64_t home = slot_of(p, p->pages[p->table[i]].hash);
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        p->table[hole] = p->table[i];
        hole = i;
    }
    p->table[hole] = -1;
}

void fl_kv_page_unpublish(fl_kv_pool *p, int32_t page) {
    fl_kv_page *g = &p->pages[page];
    if (!g->hash) return;
    int32_t *slot = find_slot(p, g->hash);
    assert(*slot == page);
    close_hole(p, (uint64_t)(slot - p->table));
    g->hash = 0;
    fl_free(g->scores);
    g->scores = NULL;
}

void fl_kv_page_publish(fl_kv_pool *p, int32_t page, uint64_t parent, const int32_t *ids) {
    const uint64_t hash = fl_kv_chain(p, parent, ids);
    fl_kv_page *g = &p->pages[page];
    assert(g->refs > 0);
    int32_t *slot = find_slot(p, hash);
    if (*slot >= 0 || g->hash) return;
    *slot = page;
    g->parent = parent;
    g->hash = hash;
    memcpy(g->ids, ids, sizeof(g->ids));
}

uint64_t fl_kv_root(const fl_kv_pool *p, const void *salt, size_t n) {
    const uint8_t *b = salt;
    uint64_t h = mix(p->key + n);
    for (size_t i = 0; i < n; i++) h = mix(h ^ (b[i] + 1));
    return h;
}

uint64_t fl_kv_chain(const fl_kv_pool *p, uint64_t parent, const int32_t *ids) {
    uint64_t h = mix(parent ^ p->key);
    for (int i = 0; i < FL_KV_PAGE_TOKENS; i++) h = mix(h ^ ((uint64_t)(uint32_t)ids[i] + p->key));
    return h ? h : 1;
}

/* The page published for these ids after `parent`, or -1. */
static int32_t published(const fl_kv_pool *p, uint64_t parent, const int32_t *ids) {
    int32_t page = *find_slot(p, fl_kv_chain(p, parent, ids));
    if (page < 0) return -1;
    const fl_kv_page *g = &p->pages[page];
    return g->parent == parent && !memcmp(g->ids, ids, sizeof(g->ids)) ? page : -1;
}

void fl_kv_page_score(fl_kv_pool *p, uint64_t parent, const int32_t *ids, fl_kv_scores *scores) {
    int32_t page = published(p, parent, ids);
    fl_kv_page *g = page < 0 ? NULL : &p->pages[page];
    if (!g || (g->scores && g->scores->n_top >= scores->n_top)) {
        fl_free(scores);
        return;
    }
    fl_free(g->scores);
    g->scores = scores;
}

int32_t fl_kv_page_find(fl_kv_pool *p, uint64_t parent, const int32_t *ids) {
    p->queries++;
    int32_t page = published(p, parent, ids);
    if (page < 0) return -1;
    fl_kv_page *g = &p->pages[page];
    if (g->refs++ == 0) {
        list_remove(p, page);
        p->n_free--;
    }
    p->hits++;
    return page;
}

/* ---- references ---- */

int32_t fl_kv_page_alloc(fl_kv_pool *p) {
    if (!p->n_free) return -1;
    int32_t page;
    if (p->n_empty) {
        page = p->free[--p->n_empty];
    } else {
        page = p->oldest;
        list_remove(p, page);
        fl_kv_page_unpublish(p, page);
        p->evictions++;
    }
    p->n_free--;
    p->pages[page].refs = 1;
    return page;
}

void fl_kv_page_ref(fl_kv_pool *p, int32_t page) {
    assert(p->pages[page].refs > 0);
    p->pages[page].refs++;
}

void fl_kv_page_unref(fl_kv_pool *p, int32_t page) {
    assert(p->pages[page].refs > 0);
    if (--p->pages[page].refs) return;
    p->n_free++;
    if (p->pages[page].hash)
        list_add(p, page);
    else
        p->free[p->n_empty++] = page;
}
