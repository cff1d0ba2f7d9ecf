#include "model/holders.h"

#include "model/sequence_priv.h"
#include "util/num.h"

enum { OWN = 1, ENGINE = 2, SEQUENCE = 4 };

void fl_holder_join(fl_model *m, fl_holder *h) {
    pthread_mutex_lock(&m->lock);
    h->next = m->holders;
    m->holders = h;
    pthread_mutex_unlock(&m->lock);
}

void fl_holder_leave(fl_model *m, fl_holder *h) {
    pthread_mutex_lock(&m->lock);
    fl_holder **at = &m->holders;
    while (*at && *at != h) at = &(*at)->next;
    if (*at) *at = h->next;
    pthread_mutex_unlock(&m->lock);
}

void fl_holder_adopt(fl_holder *h, fl_sequence *s) {
    pthread_mutex_lock(&s->model->lock);
    s->holder = h;
    pthread_mutex_unlock(&s->model->lock);
}

void fl_sequence_enlist(fl_sequence *s) {
    fl_model *m = s->model;
    s->newer = NULL;
    s->older = m->sequences;
    if (s->older) s->older->newer = s;
    m->sequences = s;
}

void fl_sequence_delist(fl_sequence *s) {
    if (s->older) s->older->newer = s->newer;
    if (s->newer)
        s->newer->older = s->older;
    else if (s->model->sequences == s)
        s->model->sequences = s->older;
    s->newer = s->older = NULL;
}

static int kind_of(const fl_sequence *s, const fl_holder *own) {
    if (!s->holder) return SEQUENCE;
    return s->holder == own ? OWN : ENGINE;
}

void fl_holdings_look(const fl_model *m, const fl_holder *own, fl_holdings *out) {
    const fl_kv_pool *p = &m->pool;
    *out = (fl_holdings){.pages = p->n_pages, .free = p->n_free};
    for (const fl_sequence *s = m->sequences; s; s = s->older) {
        const int kind = kind_of(s, own);
        out->n_sequences += kind == SEQUENCE && s->n_pages;
        for (int64_t i = 0; i < s->n_pages; i++) p->pages[s->pages[i]].holders |= (uint8_t)kind;
    }
    for (const fl_sequence *s = m->sequences; s; s = s->older) {
        for (int64_t i = 0; i < s->n_pages; i++) { /* each page is counted once: then it is clear */
            uint8_t *kinds = &p->pages[s->pages[i]].holders;
            if (*kinds & OWN)
                out->own++;
            else if (*kinds & ENGINE)
                out->engines++;
            else if (*kinds)
                out->sequences++;
            *kinds = 0;
        }
    }
}

void fl_holdings_get(fl_model *m, const fl_holder *own, fl_holdings *out) {
    pthread_mutex_lock(&m->lock);
    fl_holdings_look(m, own, out);
    pthread_mutex_unlock(&m->lock);
}

static int64_t claimed_before(const fl_model *m, const fl_holder *h) {
    int64_t sum = 0;
    for (const fl_holder *o = m->holders; o; o = o->next) {
        if (o == h || !o->claim || (h->claim && h->ticket < o->ticket)) continue;
        fl_holdings all;
        fl_holdings_look(m, o, &all);
        if (o->claim <= all.free + all.engines) sum += o->claim;
    }
    return sum;
}

int64_t fl_holder_claim(fl_model *m, fl_holder *h, int64_t pages) {
    pthread_mutex_lock(&m->lock);
    if (pages && !h->claim) h->ticket = ++m->last_ticket;
    h->claim = pages;
    for (fl_holder *o = m->holders; pages && o; o = o->next)
        if (o != h && atomic_load(&o->unread)) o->wanted(o->ctx);
    const int64_t before = claimed_before(m, h);
    pthread_mutex_unlock(&m->lock);
    return before;
}
