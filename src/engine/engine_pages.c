/* Waiting for KV pages, which other engines of the model and sequences fed by hand hold too: whoever
 * waits has a claim that others respect, and what nobody gives back in time is an error that says who
 * has it. */
#include "engine/engine_priv.h"
#include "util/clock.h"
#include "util/num.h"

static int64_t pages_of(int64_t tokens) {
    return fl_div_up(tokens, FL_KV_PAGE_TOKENS);
}

int64_t fl_engine_free_pages(fl_engine *e, const fl_step_pool *pool) {
    const int64_t claimed = fl_holder_claim(e->model, &e->holder, e->holder.claim);
    return fl_max_i64(pool->free_pages - claimed, 0);
}

/* Pages it lacks to go on, after fl_schedule; 0: none, or it waits for something else. */
static int64_t lacks(const fl_sched_item *it, const fl_sched_limits *l, int64_t running) {
    if (it->parked || it->rows) return 0;
    if (!it->running && running >= l->max_running) return 0;
    const int64_t held = it->preempt ? 0 : it->pages;
    const int64_t need = pages_of(it->length + it->pending) - held + (it->shared_tail ? 1 : 0);
    return need > l->free_pages ? need : 0;
}

static void fail_waiting(fl_engine *e, fl_choice *c, int64_t total) {
    const double now = fl_now();
    fl_holdings h;
    if (!(c->lacking_since > 0)) c->lacking_since = now;
    if ((now - c->lacking_since) * 1e3 < (double)e->options.page_timeout_ms) return;
    fl_holdings_get(e->model, &e->holder, &h);
    if (total <= h.pages - h.sequences) return; /* the requests of engines end */
    fl_fail(&c->request->error, FL_E_LIMIT,
            "kv: no page left for a request that needs %lld of %lld: %lld sequences of the program "
            "hold "
            "%lld, other engines %lld; waited %lld ms for a sequence to be closed",
            (long long)total, (long long)h.pages, (long long)h.n_sequences, (long long)h.sequences,
            (long long)h.engines, (long long)e->options.page_timeout_ms);
    fl_choice_finish(c, FL_FINISH_ERROR);
    fl_engine_notify(e, c->request);
    fl_engine_call(e); /* the next turn sweeps it */
}

void fl_engine_claim_pages(fl_engine *e, int64_t n_items, const fl_sched_limits *limits) {
    int64_t running = 0, claim = 0;
    for (int64_t i = 0; i < n_items; i++) running += e->items[i].running && !e->items[i].preempt;
    for (int64_t i = 0; i < n_items; i++) {
        const fl_sched_item *it = &e->items[i];
        const int64_t need = claim ? 0 : lacks(it, limits, running);
        if (need) { /* the first in the order: the others wait behind it */
            claim = need;
            fail_waiting(e, e->scheduled[i], pages_of(it->length + it->pending));
        } else {
            e->scheduled[i]->lacking_since = 0;
        }
    }
    fl_holder_claim(e->model, &e->holder, claim);
}

bool fl_engine_has_all(fl_engine *e, const fl_choice *c) {
    fl_holdings h;
    int64_t held;
    bool shared_tail;
    fl_step_pages_of(c->seq, &held, &shared_tail);
    fl_holdings_get(e->model, &e->holder, &h);
    return h.own + h.free == h.pages && h.free < 1 + shared_tail;
}

bool fl_engine_must_yield(fl_engine *e) {
    return fl_holder_claim(e->model, &e->holder, e->holder.claim) > 0;
}
