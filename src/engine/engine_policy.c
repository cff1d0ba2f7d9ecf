/* Policies: completions that wait for somebody outside to choose their next token. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine_priv.h"
#include "util/clock.h"
#include "util/mem.h"

struct fl_row {
    atomic_int refs;
    fl_engine *engine; /* counted */
    float logits[];    /* [V] */
};

fl_row *fl_row_ref(fl_row *r) {
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void fl_row_unref(fl_row *r) {
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    atomic_fetch_sub(&r->engine->n_rows, 1);
    fl_engine_unref(r->engine);
    fl_free(r);
}

float *fl_row_logits(fl_row *r) {
    return r->logits;
}

static int32_t vocab_of(const fl_request *r) {
    return r->engine->vocab;
}

/* Log-probabilities of any id need the row, candidates do not. */
static bool needs_row(const fl_params *p) {
    return p->policy_logits || p->logprobs >= 0;
}

static int row_new(fl_row **out, fl_engine *e, fl_err *err) {
    const size_t vocab = (size_t)e->vocab;
    if (atomic_fetch_add(&e->n_rows, 1) >= e->options.max_policy_rows) {
        atomic_fetch_sub(&e->n_rows, 1);
        return fl_fail(err, FL_E_BUSY, "policy: %lld rows of logits are in use, limit %lld",
                       (long long)atomic_load(&e->n_rows), (long long)e->options.max_policy_rows);
    }
    fl_row *r = fl_alloc(sizeof(*r) + vocab * sizeof(float));
    if (!r) {
        atomic_fetch_sub(&e->n_rows, 1);
        return fl_fail(err, FL_E_NOMEM, "policy: a row of %zu", vocab);
    }
    atomic_init(&r->refs, 1);
    r->engine = fl_engine_ref(e);
    *out = r;
    return FL_OK;
}

int fl_policy_init(fl_choice *c, fl_engine *e, fl_err *err) {
    const fl_params *p = &c->request->params;
    if (!p->policy) return FL_OK;
    if (!p->policy_logits) {
        const size_t n = (size_t)p->policy_candidates;
        c->candidate =
            (fl_top_list){0, fl_alloc_array(n, sizeof(int32_t)), fl_alloc_array(n, sizeof(float))};
        if (!c->candidate.id || !c->candidate.logit)
            return fl_fail(err, FL_E_NOMEM, "policy: %zu candidates", n);
    }
    if (!needs_row(p)) return FL_OK;
    if (p->n > e->options.max_policy_rows)
        return fl_fail(err, FL_E_LIMIT, "n: %lld completions need a row of logits each, limit %lld",
                       (long long)p->n, (long long)e->options.max_policy_rows);
    return row_new(&c->row, e, err);
}

/* The row of an ended completion is for others, unless a step still shows it. */
void fl_policy_end(fl_choice *c) {
    if (!c->finish || c->handed) return;
    fl_row_unref(c->row);
    c->row = NULL;
}

void fl_policy_deinit(fl_choice *c) {
    fl_free(c->candidate.id);
    fl_free(c->candidate.logit);
    fl_row_unref(c->row);
}

int fl_policy_prepare(fl_choice *c, fl_err *err) {
    if (!c->row || atomic_load_explicit(&c->row->refs, memory_order_acquire) == 1) return FL_OK;
    fl_row *fresh;
    int rc = row_new(&fresh, c->request->engine, err);
    if (rc) return rc;
    fl_row_unref(c->row);
    c->row = fresh;
    return FL_OK;
}

void fl_policy_keep(fl_choice *c, const float *row, const float *raw) {
    const size_t bytes = (size_t)vocab_of(c->request) * sizeof(*row);
    if (c->row) memcpy(c->row->logits, c->request->params.policy_logits ? row : raw, bytes);
}

void fl_policy_park(fl_choice *c) {
    c->parked = true;
    c->handed = false;
    c->ticket++;
    c->parked_at = fl_now();
    c->request->engine->has_parked = true;
}

static bool hand_parked(fl_engine *e, fl_request *only, fl_parked *out) {
    bool found = false;
    for (int64_t i = 0; !found && i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        if (!c->parked || c->handed || (only && c->request != only)) continue;
        const fl_params *p = &c->request->params;
        c->handed = found = true;
        c->request->handles++;
        atomic_fetch_add(&c->request->refs, 1);
        *out = (fl_parked){.request = c->request,
                           .index = c->index,
                           .ticket = c->ticket,
                           .vocab = vocab_of(c->request),
                           .row = p->policy_logits ? c->row : NULL,
                           .candidates = c->candidate};
    }
    return found;
}

static bool may_park(const fl_engine *e, const fl_request *only) {
    if (only) return only->n_done < only->params.n;
    return e->n_active || e->queue || e->attached >= 0;
}

bool fl_engine_next_parked(fl_engine *e, fl_request *only, fl_parked *out) {
    pthread_mutex_lock(&e->lock);
    bool found = hand_parked(e, only, out);
    while (!found && may_park(e, only)) {
        if (!fl_engine_drive(e)) {
            if (e->owed) fl_engine_call(e);
            pthread_cond_wait(&e->parked, &e->lock);
        }
        found = hand_parked(e, only, out);
    }
    if (e->owed) fl_engine_call(e);
    pthread_mutex_unlock(&e->lock);
    return found;
}

void fl_parked_history(const fl_parked *p, fl_history *out) {
    const fl_choice *c = &p->request->choice[p->index];
    *out = (fl_history){p->request->prompt, (size_t)p->request->n_prompt, c->output,
                        (size_t)c->n_output};
}

static fl_choice *still_parked(const fl_parked *p, fl_err *err) {
    fl_choice *c = &p->request->choice[p->index];
    if (c->parked && c->ticket == p->ticket) return c;
    fl_fail(err, FL_E_CANCELLED, "step: its completion has ended (%s)", fl_finish_name(c->finish));
    return NULL;
}

/* The log-probabilities of the picked id, from the row as it is now. */
static void score_pick(fl_choice *c) {
    const fl_params *p = &c->request->params;
    if (p->logprobs < 0) return;
    const int32_t n = vocab_of(c->request);
    const fl_scored_row row = {c->row->logits, n, fl_logsumexp(c->row->logits, n)};
    c->pick->logprob = fl_logprob(row.logits[c->pick->id], row.lse);
    fl_engine_fill_top(c->request->engine->answering, &row, c->pick->top, p->logprobs);
}

static int by_id(const void *pa, const void *pb) {
    const fl_top *a = pa, *b = pb;
    return (a->id > b->id) - (a->id < b->id);
}

/* From the candidates with the logits of the answer. */
static int sample_candidates(fl_choice *c, const float *logit, const fl_history *h, fl_err *err) {
    fl_top sorted[FL_MAX_CANDIDATES];
    int32_t id[FL_MAX_CANDIDATES];
    float value[FL_MAX_CANDIDATES];
    const int32_t n = c->candidate.n;
    for (int32_t i = 0; i < n; i++) sorted[i] = (fl_top){c->candidate.id[i], logit[i]};
    qsort(sorted, (size_t)n, sizeof(*sorted), by_id);
    for (int32_t i = 0; i < n; i++) {
        id[i] = sorted[i].id;
        value[i] = sorted[i].logprob;
    }
    const fl_logit_list list = {id, value, n, vocab_of(c->request)};
    return fl_sampler_sample_list(c->sampler, &list, h, &c->pick->id, err);
}

/* The answer's token into c->pick. */
static int pick(fl_choice *c, const fl_parked_choice *a, fl_err *err) {
    const fl_request *r = c->request;
    const fl_history h = {r->prompt, (size_t)r->n_prompt, c->output, (size_t)c->n_output};
    int rc = FL_OK;
    if (a->id < 0 && !a->logits && !r->params.policy_logits) return FL_OK; /* picked already */
    fl_sampler_share_work(c->sampler, r->engine->answering);
    fl_sampler_seek(c->sampler, (uint64_t)c->n_output);
    if (a->id >= 0)
        c->pick->id = a->id;
    else if (a->logits)
        rc = sample_candidates(c, a->logits, &h, err);
    else
        rc =
            fl_sampler_sample(c->sampler, c->row->logits, vocab_of(r), &h, &c->pick->id, NULL, err);
    if (!rc) score_pick(c);
    return rc;
}

/* Ends the parking with c->pick. */
static int answer(fl_engine *e, fl_choice *c, fl_err *err) {
    const double now = fl_now();
    fl_err why;
    c->parked = c->handed = false;
    e->answered_at = now;
    int rc = fl_choice_append(c, c->pick, &why);
    if (rc) {
        fl_fail(err, rc, "%s", why.msg);
        c->request->error = why;
        fl_choice_finish(c, FL_FINISH_ERROR);
    } else {
        fl_histogram_add(&e->stats.policy_s, now - c->parked_at, 1);
        fl_engine_count_tokens(e, c, 1, now);
    }
    fl_engine_notify(e, c->request);
    fl_engine_answered(e);
    return rc;
}

int fl_parked_answer(const fl_parked *p, const fl_parked_choice *a, fl_pick *chosen, fl_err *err) {
    fl_engine *e = p->request->engine;
    int rc = fl_engine_check_owner(e, err);
    if (rc) return rc;
    if (a->id >= p->vocab)
        return fl_fail(err, FL_E_ARG, "accept: token id %d, vocabulary has %d", a->id, p->vocab);
    pthread_mutex_lock(&e->lock);
    fl_choice *c = still_parked(p, err);
    rc = c ? pick(c, a, err) : FL_E_CANCELLED;
    if (!rc) {
        *chosen = *c->pick;
        rc = answer(e, c, err);
    }
    const bool call = e->called;
    pthread_mutex_unlock(&e->lock);
    if (call) pthread_cond_signal(&e->work); /* here: it would wake only to wait for the lock */
    return rc;
}

int fl_parked_stop(const fl_parked *p, fl_finish why, fl_err *err) {
    fl_engine *e = p->request->engine;
    int rc = fl_engine_check_owner(e, err);
    if (rc) return rc;
    pthread_mutex_lock(&e->lock);
    fl_choice *c = still_parked(p, err);
    if (c) {
        if (why == FL_FINISH_ERROR)
            fl_fail(&c->request->error, FL_E_CANCELLED, "policy: a step was left unanswered");
        c->handed = false;
        fl_choice_finish(c, why);
        fl_engine_notify(e, c->request);
        fl_engine_call(e);
    }
    pthread_mutex_unlock(&e->lock);
    return c ? FL_OK : FL_E_CANCELLED;
}

void fl_parked_release(fl_parked *p) {
    fl_request *r = p->request;
    if (!r) return;
    fl_choice *c = &r->choice[p->index];
    p->request = NULL;
    if (r->engine->owner == getpid()) { /* in a forked child the lock may be held for ever */
        pthread_mutex_lock(&r->engine->lock);
        if (c->ticket == p->ticket) {
            c->handed = false;
            fl_policy_end(c);
        }
        pthread_mutex_unlock(&r->engine->lock);
    }
    fl_request_unref(r);
}
