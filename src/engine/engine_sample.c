/* What happens to a row of logits: prompt log-probabilities, parking, or a token. */
#include <math.h>
#include <string.h>

#include "engine/engine_priv.h"
#include "util/num.h"

static int32_t vocab_of(const fl_request *r) {
    return r->engine->vocab;
}

static void put_top(const fl_scored_row *row, const fl_top_list *top, fl_top *out, int64_t k) {
    for (int32_t i = 0; i < k; i++)
        out[i] = i < top->n ? (fl_top){top->id[i], fl_logprob(top->logit[i], row->lse)}
                            : (fl_top){-1, -INFINITY};
}

void fl_engine_fill_top(fl_sampler_work *work, const fl_scored_row *row, fl_top *out, int64_t k) {
    int32_t ids[FL_MAX_LOGPROBS];
    float values[FL_MAX_LOGPROBS];
    fl_top_list top = {(int32_t)(k < row->n ? k : row->n), ids, values};
    if (k > 0 && !fl_topk(work, row->logits, row->n, &top, NULL)) put_top(row, &top, out, k);
}

static void score_prompt(fl_request *r, fl_sampler_work *work, int64_t position,
                         const float *logits) {
    const int64_t k = r->params.prompt_logprobs;
    const fl_scored_row row = {logits, vocab_of(r), fl_logsumexp(logits, vocab_of(r))};
    r->prompt_logprob[position] = fl_logprob(logits[r->prompt[position]], row.lse);
    fl_engine_fill_top(work, &row, r->prompt_top + position * k, k);
    r->n_prompt_scored = position + 1;
}

static bool ends_with(const int32_t *output, int64_t n_output, const int32_t *ids, size_t n) {
    if ((int64_t)n > n_output) return false;
    return !n || !memcmp(output + n_output - (int64_t)n, ids, n * sizeof(*ids));
}

bool fl_choice_banned(const fl_choice *c, int64_t n_output, fl_ban_fn fn, void *ctx) {
    const fl_request *r = c->request;
    const fl_engine *e = r->engine;
    bool go_on = true;
    if (n_output < r->params.min_tokens) {
        for (int i = 0; i < e->n_eos && go_on; i++) go_on = fn(ctx, e->eos[i]);
        for (size_t i = 0; i < r->params.stop_token_ids.n && go_on; i++)
            go_on = fn(ctx, r->params.stop_token_ids.ids[i]);
    }
    for (size_t i = 0; i < r->n_bad && go_on; i++) {
        const fl_id_list *w = &r->bad[i];
        if (ends_with(c->output, n_output, w->ids, w->n - 1)) go_on = fn(ctx, w->ids[w->n - 1]);
    }
    return go_on;
}

typedef struct banned_row {
    float *row;
    bool any;
} banned_row;

static bool ban_in_row(void *ctx, int32_t id) {
    banned_row *b = ctx;
    b->row[id] = -INFINITY;
    return b->any = true;
}

static bool may_ban(const fl_choice *c, int64_t n_output) {
    return c->request->n_bad || n_output < c->request->params.min_tokens;
}

/* What is shown of the row that is sampled: candidates of a policy, or alternatives. */
static fl_top_list wanted(fl_choice *c, const float *row, const float *raw, int32_t *ids,
                          float *values) {
    const fl_params *p = &c->request->params;
    const int32_t vocab = vocab_of(c->request);
    if (p->policy) {
        c->candidate.n = (int32_t)fl_min_i64(p->policy_candidates, vocab);
        return c->candidate;
    }
    const int64_t k = row == raw ? fl_max_i64(p->logprobs, 0) : 0;
    return (fl_top_list){(int32_t)fl_min_i64(k, vocab), ids, values};
}

/* Token j of the step from `row`; its log-probability is that of `raw`. */
static int choose(fl_choice *c, fl_sampler_work *work, int64_t j, const float *row,
                  const float *raw) {
    const fl_request *r = c->request;
    const int32_t n = vocab_of(r);
    const fl_history h = {r->prompt, (size_t)r->n_prompt, c->output, (size_t)(c->n_output + j)};
    fl_pick *pick = &c->pick[j];
    fl_sampler_share_work(c->sampler, work);
    fl_sampler_seek(c->sampler, (uint64_t)(c->n_output + j));
    int32_t ids[FL_MAX_LOGPROBS];
    float values[FL_MAX_LOGPROBS];
    fl_top_list top = wanted(c, row, raw, ids, values);
    int rc = fl_sampler_sample_top(c->sampler, row, n, &h, &top, &pick->id, &c->error);
    if (rc || r->params.logprobs < 0) return rc;
    const fl_scored_row scored = {raw, n, fl_logsumexp(raw, n)};
    pick->logprob = fl_logprob(raw[pick->id], scored.lse);
    if (top.id == ids && top.n)
        put_top(&scored, &top, pick->top, r->params.logprobs);
    else
        fl_engine_fill_top(work, &scored, pick->top, r->params.logprobs);
    return FL_OK;
}

static void sample(fl_choice *c, const fl_sampling *s, int64_t j, const float *logits) {
    const fl_request *r = c->request;
    const float *row = logits;
    int rc = FL_OK;
    if (may_ban(c, c->n_output + j)) {
        memcpy(s->row, logits, (size_t)vocab_of(r) * sizeof(*logits));
        banned_row b = {s->row, false};
        fl_choice_banned(c, c->n_output + j, ban_in_row, &b);
        if (b.any) row = s->row;
    }
    if (r->params.policy) fl_policy_keep(c, row, logits);
    if (!r->params.policy_logits) rc = choose(c, s->work, j, row, logits);
    c->n_picks = rc ? 0 : j + 1;
}

/* Whether the guesses before place j of the step were right. */
static bool still_right(const fl_choice *c, int64_t j) {
    return c->n_picks == j && (!j || c->pick[j - 1].id == c->output[c->n_output + j - 1]);
}

/* Completions of one request come here at the same time, on several threads: what is the
 * request's belongs to the first of them. */
void fl_engine_on_row(void *choice, int member, int64_t i, const float *logits) {
    fl_choice *c = choice;
    fl_request *r = c->request;
    const fl_sampling *s = &r->engine->sampling[member];
    const int64_t position = fl_sequence_length(c->seq) + i + 1; /* of the token it predicts */
    const int64_t j = position - r->n_prompt - c->n_output;
    if (position < r->n_prompt) {
        if (c->index == 0 && position >= r->n_prompt_scored)
            score_prompt(r, s->work, position, logits);
        return;
    }
    if (j < 0 || !r->max_output) return; /* computed again after a preemption, or not wanted */
    if (!still_right(c, j)) return;
    sample(c, s, j, logits);
    /* The first row of a prompt serves all completions of it. */
    bool first = c->index == 0 && c->n_output == 0;
    for (int64_t k = 1; first && k < r->params.n; k++) sample(&r->choice[k], s, 0, logits);
}

int fl_choice_commit(fl_choice *c, fl_err *err) {
    int rc = FL_OK;
    if (c->request->params.policy) {
        fl_policy_park(c);
        return FL_OK;
    }
    for (int64_t j = 0; !rc && !c->finish && j < c->n_picks; j++)
        rc = fl_choice_append(c, &c->pick[j], err);
    /* What was computed for wrong guesses is forgotten; the last token has yet to run. */
    if (!rc && !c->finish && c->n_guesses)
        rc = fl_sequence_rewind(c->seq, c->request->n_prompt + c->n_output - 1, err);
    return rc;
}
