/* What happens to a row of logits: prompt log-probabilities, parking, or a token. */
#include <math.h>
#include <string.h>

#include "engine/engine_priv.h"
#include "util/mem.h"

static int32_t vocab_of(const fl_request *r) {
    return (int32_t)fl_model_config(r->engine->model)->vocab_size;
}

/* The k likeliest of a row with their log-probabilities. */
static void fill_top(fl_sampler_work *work, fl_top *out, const float *logits, int32_t n, int64_t k,
                     double lse) {
    int32_t ids[FL_MAX_LOGPROBS];
    float values[FL_MAX_LOGPROBS];
    fl_top_list top = {(int32_t)(k < n ? k : n), ids, values};
    if (k <= 0 || fl_topk(work, logits, n, &top, NULL)) return;
    for (int64_t i = 0; i < k; i++)
        out[i] = i < n ? (fl_top){ids[i], fl_logprob(values[i], lse)} : (fl_top){-1, -INFINITY};
}

static void score_prompt(fl_request *r, int64_t position, const float *logits) {
    const int64_t k = r->params.prompt_logprobs;
    const double lse = fl_logsumexp(logits, vocab_of(r));
    r->prompt_logprob[position] = fl_logprob(logits[r->prompt[position]], lse);
    if (k > 0)
        fill_top(r->engine->sampling, r->prompt_top + position * k, logits, vocab_of(r), k, lse);
    r->n_prompt_scored = position + 1;
}

static bool ends_with(const fl_choice *c, const int32_t *ids, size_t n) {
    if ((int64_t)n > c->n_output) return false;
    return !n || !memcmp(c->output + c->n_output - (int64_t)n, ids, n * sizeof(*ids));
}

/* Ids that may not be chosen now; true when there are any. */
static bool ban(const fl_choice *c, float *row) {
    const fl_request *r = c->request;
    const fl_engine *e = r->engine;
    bool any = false;
    if (c->n_output < r->params.min_tokens) {
        for (int i = 0; i < e->n_eos; i++) row[e->eos[i]] = -INFINITY;
        for (size_t i = 0; i < r->params.stop_token_ids.n; i++)
            row[r->params.stop_token_ids.ids[i]] = -INFINITY;
        any = true;
    }
    for (size_t i = 0; i < r->n_bad; i++) {
        const fl_id_list *w = &r->bad[i];
        if (!ends_with(c, w->ids, w->n - 1)) continue;
        row[w->ids[w->n - 1]] = -INFINITY;
        any = true;
    }
    return any;
}

static bool may_ban(const fl_choice *c) {
    return c->request->n_bad || c->n_output < c->request->params.min_tokens;
}

/* Choose from `row`; log-probabilities are those of `raw`. */
static int choose(fl_choice *c, fl_sampler_work *work, const float *row, const float *raw,
                  fl_err *err) {
    const fl_request *r = c->request;
    const int32_t n = vocab_of(r);
    const fl_history h = {r->prompt, (size_t)r->n_prompt, c->output, (size_t)c->n_output};
    fl_sampler_share_work(c->sampler, work);
    fl_sampler_seek(c->sampler, (uint64_t)c->n_output);
    int rc = fl_sampler_sample(c->sampler, row, n, &h, &c->pick.id, NULL, err);
    if (rc) return rc;
    if (r->params.logprobs >= 0) {
        const double lse = fl_logsumexp(raw, n);
        c->pick.logprob = fl_logprob(raw[c->pick.id], lse);
        fill_top(work, c->pick.top, raw, n, r->params.logprobs, lse);
    }
    c->pick.ready = true;
    return FL_OK;
}

static void sample(fl_choice *c, const float *logits) {
    fl_request *r = c->request;
    fl_engine *e = r->engine;
    const size_t bytes = (size_t)vocab_of(r) * sizeof(*logits);
    const float *row = logits;
    if (r->params.policy) {
        memcpy(c->row, logits, bytes);
        ban(c, c->row);
        c->pick.ready = true; /* commit parks it */
        return;
    }
    if (may_ban(c)) {
        memcpy(e->row, logits, bytes);
        if (ban(c, e->row)) row = e->row;
    }
    if (choose(c, e->sampling, row, logits, &r->error)) c->pick.ready = false;
}

void fl_engine_on_row(void *choice, int64_t i, const float *logits) {
    fl_choice *c = choice;
    fl_request *r = c->request;
    const int64_t position = fl_sequence_length(c->seq) + i + 1; /* of the token it predicts */
    if (position < r->n_prompt) {
        if (c->index == 0 && position >= r->n_prompt_scored) score_prompt(r, position, logits);
        return;
    }
    if (position < r->n_prompt + c->n_output) return; /* computed again after a preemption */
    sample(c, logits);
    /* The first row of a prompt serves all completions of it. */
    bool first = c->index == 0 && c->n_output == 0;
    for (int64_t k = 1; first && k < r->params.n; k++) sample(&r->choice[k], logits);
}

int fl_choice_commit(fl_choice *c, fl_err *err) {
    c->pick.ready = false;
    if (!c->request->params.policy)
        return fl_choice_append(c, c->pick.id, c->pick.logprob, c->pick.top, err);
    c->parked = true;
    c->handed = false;
    c->ticket++;
    c->parked_at = fl_engine_now();
    pthread_cond_broadcast(&c->request->engine->parked);
    return FL_OK;
}

/* ---- answers of policies ---- */

static bool hand_parked(fl_engine *e, fl_request *only, fl_parked *out) {
    bool found = false;
    for (int64_t i = 0; !found && i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        if (!c->parked || c->handed || (only && c->request != only)) continue;
        c->handed = found = true;
        c->request->handles++;
        atomic_fetch_add(&c->request->refs, 1);
        *out = (fl_parked){c->request, c->index, c->ticket, c->row, vocab_of(c->request)};
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
        pthread_cond_wait(&e->parked, &e->lock);
        found = hand_parked(e, only, out);
    }
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
    fl_fail(err, FL_E_ARG, "stale step: answered already, or the request has ended (%s)",
            fl_finish_name(c->finish));
    return NULL;
}

/* Ends the parking with c->pick. */
static int answer(fl_engine *e, fl_choice *c, fl_err *err) {
    c->parked = false;
    c->pick.ready = false;
    int rc = fl_choice_append(c, c->pick.id, c->pick.logprob, c->pick.top, err);
    if (rc) return rc;
    c->request->last_token_at = fl_engine_now();
    if (!(c->request->first_token_at > 0)) c->request->first_token_at = c->request->last_token_at;
    e->stats.output_tokens++;
    fl_engine_notify(e, c->request);
    pthread_cond_signal(&e->work);
    return FL_OK;
}

int fl_parked_accept(const fl_parked *p, int32_t id, int32_t *chosen, float *logprob, fl_err *err) {
    fl_engine *e = p->request->engine;
    int rc = FL_OK;
    if (id >= p->n)
        return fl_fail(err, FL_E_ARG, "accept: token id %d, vocabulary has %d", id, p->n);
    pthread_mutex_lock(&e->lock);
    fl_choice *c = still_parked(p, err);
    if (!c)
        rc = FL_E_ARG;
    else if (id < 0)
        rc = choose(c, e->answering, c->row, c->row, err);
    else {
        c->pick.id = id;
        const double lse = fl_logsumexp(c->row, p->n);
        c->pick.logprob = fl_logprob(c->row[id], lse);
        fill_top(e->answering, c->pick.top, c->row, p->n, p->request->params.logprobs, lse);
    }
    if (!rc) {
        if (chosen) *chosen = c->pick.id;
        if (logprob) *logprob = c->pick.logprob;
        rc = answer(e, c, err);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

int fl_parked_stop(const fl_parked *p, fl_finish why, fl_err *err) {
    fl_engine *e = p->request->engine;
    pthread_mutex_lock(&e->lock);
    fl_choice *c = still_parked(p, err);
    if (c) {
        if (why == FL_FINISH_ERROR)
            fl_fail(&c->request->error, FL_E_CANCELLED, "policy: a step was left unanswered");
        fl_choice_finish(c, why);
        fl_engine_notify(e, c->request);
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return c ? FL_OK : FL_E_ARG;
}
