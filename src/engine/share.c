#include "engine/share.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine_priv.h"
#include "util/mem.h"

fl_share *fl_share_enter(fl_engine *e, const fl_text *key) {
    fl_share *s = e->shares;
    while (s && (s->len != key->len || (s->len && memcmp(s->name, key->data, s->len) != 0)))
        s = s->next;
    if (!s) {
        if (!(s = fl_alloc(sizeof(*s) + key->len + 1))) return NULL;
        for (const fl_share *other = e->shares; other; other = other->next)
            if (other == e->shares || other->served < s->served) s->served = other->served;
        if (key->len) memcpy(s->name, key->data, key->len);
        s->len = key->len;
        s->next = e->shares;
        e->shares = s;
        e->n_shares++;
    }
    s->n_requests++;
    return s;
}

void fl_share_leave(fl_engine *e, fl_share *s) {
    fl_share **at = &e->shares;
    if (--s->n_requests) return;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    e->n_shares--;
    fl_free(s);
}

static int64_t class_of(const fl_choice *c) {
    const fl_request *r = c->request;
    return r->engine->options.priority_between_keys ? r->params.priority : 0;
}

static int compare(const void *x, const void *y) {
    const fl_choice *a = *(fl_choice *const *)x, *b = *(fl_choice *const *)y;
    const fl_share *s = a->request->share, *t = b->request->share;
    if (class_of(a) != class_of(b)) return class_of(a) < class_of(b) ? -1 : 1;
    if (a->place != b->place) return a->place < b->place ? -1 : 1;
    if (s->served != t->served) return s->served < t->served ? -1 : 1;
    return s->number < t->number ? -1 : 1;
}

void fl_share_order(fl_engine *e, fl_choice **list, int64_t n) {
    int64_t number = 0;
    if (e->n_shares < 2) return;
    for (fl_share *s = e->shares; s; s = s->next) {
        s->number = number++;
        s->n_listed = 0;
    }
    for (int64_t i = 0; i < n; i++) list[i]->place = list[i]->request->share->n_listed++;
    qsort(list, (size_t)n, sizeof(*list), compare);
}
