/* The values of a template: strings with provenance, lists, ordered dicts, and how they
 * come from JSON.  All live in the arena of the rendering. */
#include <math.h>
#include <string.h>

#include "text/template_run.h"
#include "util/utf8.h"

enum { SMALL_DICT = 8 };

/* A string under construction by repeated +: the newest string of a room may grow in place,
 * the older ones keep seeing their own prefix. */
struct fl_tbuf {
    char *data;
    uint8_t *mask; /* NULL while all bytes are alike */
    size_t used, cap;
};

bool fl_tstr_is(const fl_tstr *s, const char *text) {
    return s->len == strlen(text) && !memcmp(s->data, text, s->len);
}

size_t fl_tstr_next(const fl_tstr *s, size_t i, uint32_t *cp) {
    if ((uint8_t)s->data[i] < 0x80) {
        *cp = (uint8_t)s->data[i];
        return 1;
    }
    int n = fl_utf8_decode(s->data + i, s->len - i, cp, NULL);
    if (n > 0) return (size_t)n;
    *cp = 0xfffd;
    return 1;
}

bool fl_tv_text(fl_trun *r, const char *p, size_t n, fl_tv *out) {
    fl_tstr *s = fl_t_alloc(r, sizeof(*s));
    char *data = s ? fl_t_alloc(r, n) : NULL;
    if (!data) return false;
    if (n) memcpy(data, p, n);
    *s = (fl_tstr){.data = data, .len = n, .trusted = true};
    *out = fl_tv_string(s);
    return true;
}

bool fl_tstr_slice(fl_trun *r, const fl_tstr *s, size_t from, size_t to, fl_tv *out) {
    fl_tstr *part = fl_t_alloc(r, sizeof(*part));
    if (!part) return false;
    *part = (fl_tstr){.data = s->data + from,
                      .len = to - from,
                      .mask = s->mask ? s->mask + from : NULL,
                      .trusted = s->trusted,
                      .markup = s->markup};
    *out = fl_tv_string(part);
    return true;
}

static void copy_mask(uint8_t *to, const fl_tstr *s) {
    if (s->mask) {
        memcpy(to, s->mask, s->len);
    } else {
        memset(to, s->trusted, s->len);
    }
}

/* A room that begins with a copy of s. */
static struct fl_tbuf *new_room(fl_trun *r, const fl_tstr *s, size_t cap) {
    struct fl_tbuf *room = fl_t_alloc(r, sizeof(*room));
    if (!room || !(room->data = fl_t_alloc(r, cap)) || !fl_t_charge(r, s->len)) return NULL;
    memcpy(room->data, s->data, s->len);
    room->used = s->len;
    room->cap = cap;
    return room;
}

bool fl_tstr_concat(fl_trun *r, const fl_tstr *a, const fl_tstr *b, fl_tv *out) {
    if (!a->len || !b->len) {
        *out = fl_tv_string(a->len ? a : b);
        return true;
    }
    bool mixed = a->mask || b->mask || a->trusted != b->trusted;
    size_t total = a->len + b->len;
    struct fl_tbuf *room = a->room;
    if (total > r->max_output)
        return fl_t_fail(r, FL_E_LIMIT, "text longer than %zu bytes", r->max_output);
    if (!fl_t_charge(r, b->len)) return false;
    if (!room || a->len != room->used || b->len > room->cap - room->used)
        room = new_room(r, a, a->room ? 2 * total : total + 16);
    if (room && mixed && !room->mask) {
        if (!(room->mask = fl_t_alloc(r, room->cap))) return false;
        copy_mask(room->mask, a);
    }
    fl_tstr *s = room ? fl_t_alloc(r, sizeof(*s)) : NULL;
    if (!s) return false;
    memcpy(room->data + room->used, b->data, b->len);
    if (mixed) copy_mask(room->mask + room->used, b);
    room->used = total;
    *s = (fl_tstr){.data = room->data,
                   .len = total,
                   .mask = mixed ? room->mask : NULL,
                   .room = room,
                   .trusted = a->trusted};
    *out = fl_tv_string(s);
    return true;
}

bool fl_tstr_length(fl_trun *r, const fl_tstr *s, int64_t *out) {
    *out = 0;
    for (size_t i = 0; i < s->len; i++) *out += ((uint8_t)s->data[i] & 0xc0) != 0x80;
    return fl_t_charge(r, s->len);
}

size_t fl_tstr_offset(const fl_tstr *s, size_t n_chars) {
    size_t i = 0;
    for (; n_chars && i < s->len; n_chars--) {
        i++;
        while (i < s->len && ((uint8_t)s->data[i] & 0xc0) == 0x80) i++;
    }
    return i;
}

fl_tlist *fl_tlist_new(fl_trun *r, size_t cap) {
    fl_tlist *l = fl_t_alloc(r, sizeof(*l));
    if (!l || (cap && !(l->items = fl_t_alloc(r, cap * sizeof(*l->items))))) return NULL;
    l->cap = cap;
    return l;
}

bool fl_tlist_push(fl_trun *r, fl_tlist *l, fl_tv v) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        fl_tv *items = fl_t_alloc(r, cap * sizeof(*items));
        if (!items || !fl_t_charge(r, l->n)) return false;
        if (l->n) memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = v;
    return true;
}

bool fl_tv_pair(fl_trun *r, fl_tv a, fl_tv b, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, 2);
    if (!l) return false;
    l->items[0] = a;
    l->items[1] = b;
    l->n = 2;
    *out = fl_tv_list(FL_TV_TUPLE, l);
    return true;
}

fl_tdict *fl_tdict_new(fl_trun *r) {
    return fl_t_alloc(r, sizeof(fl_tdict));
}

bool fl_tv_is_hashable(const fl_tv *v) {
    if (v->kind == FL_TV_LIST || v->kind == FL_TV_DICT || v->kind == FL_TV_VIEW) return false;
    for (size_t i = 0; v->kind == FL_TV_TUPLE && i < v->list->n; i++)
        if (!fl_tv_is_hashable(&v->list->items[i])) return false;
    return true;
}

/* Values that are equal have the same hash: 1, 1.0 and true are. */
static uint64_t hash_of(const fl_tv *v) {
    uint64_t h = 0;
    int64_t whole;
    switch (v->kind) {
    case FL_TV_STRING:
        return fl_hash_bytes(v->string->data, v->string->len);
    case FL_TV_BOOL:
    case FL_TV_INT:
        whole = fl_tv_whole(v);
        return fl_hash_bytes(&whole, sizeof(whole));
    case FL_TV_FLOAT:
        if (v->number == floor(v->number) && fabs(v->number) < 0x1p62) {
            whole = (int64_t)v->number;
            return fl_hash_bytes(&whole, sizeof(whole));
        }
        return fl_hash_bytes(&v->number, sizeof(v->number));
    case FL_TV_TUPLE:
        for (size_t i = 0; i < v->list->n; i++) h = h * 31 + hash_of(&v->list->items[i]);
        return h;
    case FL_TV_NONE:
    case FL_TV_UNDEFINED:
        return v->kind;
    default:
        return fl_hash_bytes(&v->list, sizeof(v->list));
    }
}

/* The entry whose key is the string [data, len), or -1. */
static int64_t find_string(fl_trun *r, const fl_tdict *d, const char *data, size_t len,
                           uint64_t hash) {
    uint32_t at = d->slots ? (uint32_t)hash & (d->n_slots - 1) : 0;
    for (uint32_t probes = 0; probes <= d->n; probes++) {
        uint32_t i = d->slots ? d->slots[at] - 1 : probes;
        if (d->slots ? !d->slots[at] : probes == d->n) return -1;
        const fl_tentry *e = &d->entries[i];
        if (e->hash == hash && e->key.kind == FL_TV_STRING && e->key.string->len == len &&
            !memcmp(e->key.string->data, data, len))
            return i;
        at = (at + 1) & (d->n_slots - 1);
        r->steps += probes > 8; /* keys made to collide are paid for */
    }
    return -1;
}

static bool find_entry(fl_trun *r, const fl_tdict *d, const fl_tv *key, uint64_t hash,
                       int64_t *out) {
    *out = -1;
    if (!fl_t_charge(r, key->kind == FL_TV_STRING ? key->string->len : 0)) return false;
    if (key->kind == FL_TV_STRING) {
        *out = find_string(r, d, key->string->data, key->string->len, hash);
        return true;
    }
    uint32_t at = d->slots ? (uint32_t)hash & (d->n_slots - 1) : 0;
    for (uint32_t probes = 0; d->slots ? d->slots[at] != 0 : probes < d->n; probes++) {
        uint32_t i = d->slots ? d->slots[at] - 1 : probes;
        bool same = false;
        if (d->entries[i].hash == hash && !fl_tv_equal(r, &d->entries[i].key, key, &same))
            return false;
        if (same) {
            *out = i;
            return true;
        }
        at = (at + 1) & (d->n_slots - 1);
        r->steps += probes > 8;
    }
    return true;
}

static void add_slot(fl_tdict *d, uint32_t i) {
    uint32_t at = (uint32_t)d->entries[i].hash & (d->n_slots - 1);
    while (d->slots[at]) at = (at + 1) & (d->n_slots - 1);
    d->slots[at] = i + 1;
}

/* Twice the room, and above SMALL_DICT an index with twice that. */
static bool grow_dict(fl_trun *r, fl_tdict *d) {
    if (d->n > UINT32_MAX / 8) return fl_t_fail(r, FL_E_LIMIT, "dict too large");
    uint32_t cap = d->cap ? d->cap * 2 : 4;
    fl_tentry *entries = fl_t_alloc(r, cap * sizeof(*entries));
    if (!entries || !fl_t_charge(r, d->n * sizeof(*entries))) return false;
    if (d->n) memcpy(entries, d->entries, d->n * sizeof(*entries));
    d->entries = entries;
    d->cap = cap;
    if (cap <= SMALL_DICT) return true;
    if (!(d->slots = fl_t_alloc(r, 2 * cap * sizeof(*d->slots)))) return false;
    d->n_slots = 2 * cap;
    for (uint32_t i = 0; i < d->n; i++) add_slot(d, i);
    return true;
}

bool fl_tdict_set(fl_trun *r, fl_tdict *d, fl_tv key, fl_tv value) {
    int64_t at;
    if (!fl_tv_is_hashable(&key))
        return fl_t_fail(r, FL_E_ARG, "unhashable type: '%s'", fl_tv_type_name(&key));
    uint64_t hash = hash_of(&key);
    if (!find_entry(r, d, &key, hash, &at)) return false;
    if (at >= 0) {
        d->entries[at].value = value;
        return true;
    }
    if (d->n == d->cap && !grow_dict(r, d)) return false;
    d->entries[d->n] = (fl_tentry){key, value, hash};
    if (d->slots) add_slot(d, d->n);
    d->n++;
    return true;
}

bool fl_tdict_find(fl_trun *r, const fl_tdict *d, const fl_tv *key, fl_tv **out) {
    int64_t at;
    *out = NULL;
    if (!fl_tv_is_hashable(key))
        return fl_t_fail(r, FL_E_ARG, "unhashable type: '%s'", fl_tv_type_name(key));
    if (!find_entry(r, d, key, hash_of(key), &at)) return false;
    if (at >= 0) *out = &d->entries[at].value;
    return true;
}

fl_tv *fl_tdict_get(fl_trun *r, const fl_tdict *d, const fl_tstr *key) {
    int64_t at = find_string(r, d, key->data, key->len, fl_hash_bytes(key->data, key->len));
    return at < 0 ? NULL : &d->entries[at].value;
}

static bool string_from_json(fl_trun *r, const fl_jv *j, bool trusted, fl_tv *out) {
    fl_tstr *s = fl_t_alloc(r, sizeof(*s));
    if (!s) return false;
    *s = (fl_tstr){.data = j->string.data, .len = j->string.len, .trusted = trusted};
    *out = fl_tv_string(s);
    return true;
}

static bool array_from_json(fl_trun *r, const fl_jv *j, bool trusted, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, j->n);
    for (uint32_t i = 0; l && i < j->n; i++, l->n++)
        if (!fl_tv_from_json(r, &j->items[i], trusted, &l->items[i])) return false;
    *out = fl_tv_list(FL_TV_LIST, l);
    return l != NULL;
}

static bool object_from_json(fl_trun *r, const fl_jv *j, bool trusted, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    fl_tv key, value;
    for (uint32_t i = 0; d && i < j->n; i++) {
        if (!string_from_json(r, &j->members[i].key, trusted, &key) ||
            !fl_tv_from_json(r, &j->members[i].value, trusted, &value) ||
            !fl_tdict_set(r, d, key, value))
            return false;
    }
    *out = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    return d != NULL;
}

bool fl_tv_from_json(fl_trun *r, const fl_jv *j, bool trusted, fl_tv *out) {
    bool ok = true;
    switch (j->kind) {
    case FL_JV_NULL:
        *out = fl_tv_none();
        return true;
    case FL_JV_BOOL:
        *out = fl_tv_bool(j->boolean);
        return true;
    case FL_JV_INT:
        *out = fl_tv_int(j->integer);
        return true;
    case FL_JV_FLOAT:
        *out = fl_tv_float(j->number);
        return true;
    case FL_JV_STRING:
        return string_from_json(r, j, trusted, out);
    case FL_JV_ARRAY:
    case FL_JV_OBJECT:
        if (!fl_t_enter(r) || !fl_t_charge(r, 0)) return false;
        ok = j->kind == FL_JV_ARRAY ? array_from_json(r, j, trusted, out)
                                    : object_from_json(r, j, trusted, out);
        r->depth--;
    }
    return ok;
}
