#include "engine/sampler.h"

#include <math.h>
#include <string.h>

#include "engine/sampler_stats.h"
#include "util/mem.h"
#include "util/rng.h"

#define GREEDY_BELOW 1e-5f /* vLLM's _SAMPLING_EPS */
#define BIAS_LIMIT   100.0f
#define ALL_TIES     INT64_MAX

/* The row while stages run.  x is the caller's row until the first stage that writes;
 * once a stage has dropped tokens, the m survivors are ids[], v[] (ids ascending) and x
 * is out of date until scatter(). */
typedef struct row {
    const float *x;
    int32_t n;
    bool own;        /* x may be written                                            */
    bool listed;     /* ids, v, m hold the survivors                                */
    bool blocks_old; /* block_max does not belong to x                              */
    float max;       /* of x, when !blocks_old                                      */
    int32_t m;
} row;

struct fl_sampler {
    fl_sampler_params p; /* bias and allowed owned                                  */
    uint64_t draw;       /* tokens drawn so far                                     */
    /* Work space for n <= cap, all made at once. */
    int32_t cap;
    float *x, *v, *w, *block_max;
    int32_t *ids, *count; /* count is all 0 between uses                            */
};

static const fl_stage default_order[] = {
    FL_STAGE_ALLOWED, FL_STAGE_BIAS,  FL_STAGE_PENALTIES, FL_STAGE_TEMPERATURE,
    FL_STAGE_MIN_P,   FL_STAGE_TOP_K, FL_STAGE_TOP_P,
};

static const char *const stage_names[FL_STAGE_COUNT] = {
    [FL_STAGE_ALLOWED] = "allowed",     [FL_STAGE_BIAS] = "bias",
    [FL_STAGE_PENALTIES] = "penalties", [FL_STAGE_TEMPERATURE] = "temperature",
    [FL_STAGE_MIN_P] = "min_p",         [FL_STAGE_TOP_K] = "top_k",
    [FL_STAGE_TOP_P] = "top_p",
};

const char *fl_stage_name(fl_stage stage) {
    return stage_names[stage];
}

bool fl_stage_from_name(const char *name, fl_stage *out) {
    for (int i = 0; i < FL_STAGE_COUNT; i++) {
        if (strcmp(stage_names[i], name)) continue;
        *out = (fl_stage)i;
        return true;
    }
    return false;
}

void fl_sampler_params_init(fl_sampler_params *p) {
    *p = (fl_sampler_params){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
}

static int out_of_range(const char *field, double value, const char *range, fl_err *err) {
    if (isnan(value)) return fl_fail(err, FL_E_ARG, "%s: nan is not in %s", field, range);
    return fl_fail(err, FL_E_ARG, "%s: %g is not in %s", field, value, range);
}

/* Whether the stage does anything under these parameters. */
static bool stage_active(const fl_sampler_params *p, fl_stage stage) {
    switch (stage) {
    case FL_STAGE_ALLOWED:
        return p->allowed != NULL;
    case FL_STAGE_BIAS:
        return p->n_bias > 0;
    case FL_STAGE_PENALTIES:
        return p->repetition_penalty != 1.0f || p->frequency_penalty != 0.0f ||
               p->presence_penalty != 0.0f;
    case FL_STAGE_TEMPERATURE:
        return p->temperature != 1.0f;
    case FL_STAGE_MIN_P:
        return p->min_p > 0.0f;
    case FL_STAGE_TOP_K:
        return p->top_k > 0;
    case FL_STAGE_TOP_P:
        return p->top_p < 1.0f;
    case FL_STAGE_COUNT:
        break;
    }
    return false;
}

static int check_order(const fl_sampler_params *p, fl_err *err) {
    bool listed[FL_STAGE_COUNT] = {false};
    if (!p->n_order) return FL_OK;
    if (p->n_order > FL_STAGE_COUNT)
        return fl_fail(err, FL_E_ARG, "order: %zu stages, at most %d", p->n_order, FL_STAGE_COUNT);
    for (size_t i = 0; i < p->n_order; i++) {
        if ((unsigned)p->order[i] >= FL_STAGE_COUNT)
            return fl_fail(err, FL_E_ARG, "order: %d is not a stage", (int)p->order[i]);
        if (listed[p->order[i]])
            return fl_fail(err, FL_E_ARG, "order: '%s' twice", stage_names[p->order[i]]);
        listed[p->order[i]] = true;
    }
    for (int s = 0; s < FL_STAGE_COUNT; s++) {
        if (!listed[s] && stage_active(p, (fl_stage)s))
            return fl_fail(err, FL_E_ARG, "order: lacks '%s', which has parameters set",
                           stage_names[s]);
    }
    return FL_OK;
}

static int check_params(const fl_sampler_params *p, fl_err *err) {
    /* Written so that NaN fails. */
    if (!(p->temperature >= 0.0f && p->temperature < INFINITY))
        return out_of_range("temperature", (double)p->temperature, "[0, inf)", err);
    if (p->top_k < -1) return out_of_range("top_k", p->top_k, "[-1, 2147483647]", err);
    if (!(p->top_p > 0.0f && p->top_p <= 1.0f))
        return out_of_range("top_p", (double)p->top_p, "(0, 1]", err);
    if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
        return out_of_range("min_p", (double)p->min_p, "[0, 1]", err);
    if (!(p->repetition_penalty > 0.0f && p->repetition_penalty < INFINITY))
        return out_of_range("repetition_penalty", (double)p->repetition_penalty, "(0, inf)", err);
    if (!(p->frequency_penalty >= -2.0f && p->frequency_penalty <= 2.0f))
        return out_of_range("frequency_penalty", (double)p->frequency_penalty, "[-2, 2]", err);
    if (!(p->presence_penalty >= -2.0f && p->presence_penalty <= 2.0f))
        return out_of_range("presence_penalty", (double)p->presence_penalty, "[-2, 2]", err);
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0)
            return out_of_range("logit_bias id", p->bias[i].id, "[0, vocab)", err);
        if (isnan(p->bias[i].bias))
            return fl_fail(err, FL_E_ARG, "logit_bias of id %d is nan", (int)p->bias[i].id);
    }
    if (p->allowed && !p->n_allowed)
        return fl_fail(err, FL_E_ARG, "allowed_token_ids: empty, at least one id needed");
    for (size_t i = 0; i < p->n_allowed; i++) {
        if (p->allowed[i] < 0)
            return out_of_range("allowed_token_ids", p->allowed[i], "[0, vocab)", err);
    }
    return check_order(p, err);
}

int fl_sampler_new(fl_sampler **out, const fl_sampler_params *p, fl_err *err) {
    int rc;
    if ((rc = check_params(p, err))) return rc;
    fl_sampler *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "sampler: %zu bytes", sizeof(*s));
    s->p = *p;
    s->p.bias = NULL;
    s->p.allowed = NULL;
    if (!s->p.n_order) {
        memcpy(s->p.order, default_order, sizeof(default_order));
        s->p.n_order = FL_STAGE_COUNT;
    }
    if ((p->n_bias && !(s->p.bias = (fl_logit_bias *)(void *)fl_memdup(
                            p->bias, p->n_bias * sizeof(*p->bias)))) ||
        (p->allowed && !(s->p.allowed = (int32_t *)(void *)fl_memdup(
                             p->allowed, p->n_allowed * sizeof(*p->allowed))))) {
        rc = fl_fail(err, FL_E_NOMEM, "sampler: %zu biases, %zu allowed ids", p->n_bias,
                     p->n_allowed);
        goto done;
    }
    if (!p->has_seed && (rc = fl_random_seed(&s->p.seed, err))) goto done;
    s->p.has_seed = true;
    *out = s;
    s = NULL;
done:
    fl_sampler_free(s);
    return rc;
}

int fl_sampler_clone(fl_sampler **out, const fl_sampler *s, fl_err *err) {
    int rc = fl_sampler_new(out, &s->p, err);
    if (!rc) (*out)->draw = s->draw;
    return rc;
}

static void drop_work(fl_sampler *s) {
    fl_free(s->x);
    fl_free(s->v);
    fl_free(s->w);
    fl_free(s->block_max);
    fl_free(s->ids);
    fl_free(s->count);
    s->x = s->v = s->w = s->block_max = NULL;
    s->ids = s->count = NULL;
    s->cap = 0;
}

void fl_sampler_free(fl_sampler *s) {
    if (!s) return;
    drop_work(s);
    fl_free(s->p.bias);
    fl_free(s->p.allowed);
    fl_free(s);
}

static int reserve(fl_sampler *s, int32_t n, fl_err *err) {
    if (n <= s->cap) return FL_OK;
    drop_work(s);
    s->x = fl_alloc_array((size_t)n, sizeof(*s->x));
    s->v = fl_alloc_array((size_t)n, sizeof(*s->v));
    s->w = fl_alloc_array((size_t)n, sizeof(*s->w));
    s->block_max = fl_alloc_array((size_t)fl_row_blocks(n), sizeof(*s->block_max));
    s->ids = fl_alloc_array((size_t)n, sizeof(*s->ids));
    s->count = fl_alloc_array((size_t)n, sizeof(*s->count));
    if (!s->x || !s->v || !s->w || !s->block_max || !s->ids || !s->count) {
        drop_work(s);
        return fl_fail(err, FL_E_NOMEM, "sampler: work space for %d logits", (int)n);
    }
    s->cap = n;
    return FL_OK;
}

static int bad_row(const float *x, int32_t n, fl_err *err) {
    int32_t i = 0;
    while (i < n - 1 && !isnan(x[i]) && x[i] != INFINITY) i++;
    return fl_fail(err, FL_E_ARG, "logits: id %d is %s", (int)i, isnan(x[i]) ? "nan" : "inf");
}

/* Bring block_max and max up to date. */
static int measure(fl_sampler *s, row *r, fl_err *err) {
    bool nan;
    if (!r->blocks_old) return FL_OK;
    r->max = fl_row_max(r->x, r->n, s->block_max, &nan);
    if (nan || r->max == INFINITY) return bad_row(r->x, r->n, err);
    if (r->max == -INFINITY)
        return fl_fail(err, FL_E_ARG, "logits: all %d tokens are -inf, none is left", (int)r->n);
    r->blocks_old = false;
    return FL_OK;
}

static float list_max(const fl_sampler *s, const row *r) {
    return fl_row_max(s->v, r->m, NULL, NULL);
}

/* The full row, writable and up to date. */
static float *writable(fl_sampler *s, row *r) {
    if (!r->own) {
        memcpy(s->x, r->x, (size_t)r->n * sizeof(*s->x));
        r->x = s->x;
        r->own = true;
    }
    r->blocks_old = true;
    return (float *)r->x; /* ours, or process()'s caller's */
}

static void scatter(fl_sampler *s, row *r) {
    float *x = writable(s, r);
    for (int32_t i = 0; i < r->n; i++) x[i] = -INFINITY;
    for (int32_t j = 0; j < r->m; j++) x[s->ids[j]] = s->v[j];
}

static void gather(fl_sampler *s, row *r) {
    int32_t m = 0;
    for (int32_t j = 0; j < r->m; j++) {
        float value = r->x[s->ids[j]];
        if (value == -INFINITY) continue;
        s->ids[m] = s->ids[j];
        s->v[m++] = value;
    }
    r->m = m;
}

/* Keep the tokens of the full row that are >= threshold. */
static void make_list(fl_sampler *s, row *r, float threshold) {
    r->m = fl_row_collect(r->x, r->n, s->block_max, threshold, s->ids);
    for (int32_t j = 0; j < r->m; j++) s->v[j] = r->x[s->ids[j]];
    r->listed = true;
}

/* Keep the listed tokens > v, and the first `ties` of those == v. */
static void cut_list(fl_sampler *s, row *r, float v, int64_t ties) {
    int32_t m = 0;
    for (int32_t j = 0; j < r->m; j++) { /* no branch: which token stays is hard to predict */
        float value = s->v[j];
        bool tie = value == v;
        s->ids[m] = s->ids[j];
        s->v[m] = value;
        m += (value > v) | (tie & (ties > 0));
        ties -= tie;
    }
    r->m = m;
}

static int check_ids(const char *what, const int32_t *ids, size_t count, int32_t n, fl_err *err) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= n)
            return fl_fail(err, FL_E_ARG, "%s: id %d is outside the vocabulary of %d", what,
                           (int)ids[i], (int)n);
    }
    return FL_OK;
}

static int stage_allowed(fl_sampler *s, float *x, int32_t n, fl_err *err) {
    int rc = check_ids("allowed_token_ids", s->p.allowed, s->p.n_allowed, n, err);
    if (rc) return rc;
    for (size_t i = 0; i < s->p.n_allowed; i++) s->count[s->p.allowed[i]] = 1;
    for (int32_t i = 0; i < n; i++) {
        if (!s->count[i]) x[i] = -INFINITY;
    }
    for (size_t i = 0; i < s->p.n_allowed; i++) s->count[s->p.allowed[i]] = 0;
    return FL_OK;
}

static int stage_bias(fl_sampler *s, float *x, int32_t n, fl_err *err) {
    for (size_t i = 0; i < s->p.n_bias; i++) {
        fl_logit_bias b = s->p.bias[i];
        int rc = check_ids("logit_bias", &b.id, 1, n, err);
        if (rc) return rc;
        x[b.id] += fmaxf(-BIAS_LIMIT, fminf(BIAS_LIMIT, b.bias));
    }
    return FL_OK;
}

enum { DONE = -1 }; /* in count: this id has had its penalties */

static void penalize(fl_sampler *s, float *x, int32_t id) {
    int32_t count = s->count[id];
    if (count == DONE) return;
    float v = x[id];
    v = v > 0.0f ? v / s->p.repetition_penalty : v * s->p.repetition_penalty;
    v -= s->p.frequency_penalty * (float)count;
    if (count > 0) v -= s->p.presence_penalty;
    x[id] = v;
    s->count[id] = DONE;
}

static int stage_penalties(fl_sampler *s, float *x, int32_t n, const fl_history *h, fl_err *err) {
    int rc;
    if (!h) return FL_OK;
    if ((rc = check_ids("prompt", h->prompt, h->n_prompt, n, err)) ||
        (rc = check_ids("output", h->output, h->n_output, n, err)))
        return rc;
    for (size_t i = 0; i < h->n_output; i++) s->count[h->output[i]]++;
    for (size_t i = 0; i < h->n_output; i++) penalize(s, x, h->output[i]);
    for (size_t i = 0; i < h->n_prompt; i++) penalize(s, x, h->prompt[i]);
    for (size_t i = 0; i < h->n_output; i++) s->count[h->output[i]] = 0;
    for (size_t i = 0; i < h->n_prompt; i++) s->count[h->prompt[i]] = 0;
    return FL_OK;
}

/* The stages that look at single ids work on the full row. */
static int stage_on_ids(fl_sampler *s, row *r, fl_stage stage, const fl_history *h, fl_err *err) {
    int rc = FL_OK;
    if (r->listed) scatter(s, r);
    float *x = writable(s, r);
    if (stage == FL_STAGE_ALLOWED)
        rc = stage_allowed(s, x, r->n, err);
    else if (stage == FL_STAGE_BIAS)
        rc = stage_bias(s, x, r->n, err);
    else
        rc = stage_penalties(s, x, r->n, h, err);
    if (rc || (rc = measure(s, r, err))) return rc;
    if (r->listed) gather(s, r);
    return FL_OK;
}

static int stage_temperature(fl_sampler *s, row *r, fl_err *err) {
    if (r->listed) {
        fl_row_scale(s->v, r->m, s->p.temperature);
        return list_max(s, r) < INFINITY ? FL_OK : bad_row(s->v, r->m, err);
    }
    fl_row_scale(writable(s, r), r->n, s->p.temperature);
    return measure(s, r, err);
}

static void stage_min_p(fl_sampler *s, row *r) {
    float max = r->listed ? list_max(s, r) : r->max;
    float threshold = (float)((double)max + log((double)s->p.min_p));
    if (r->listed)
        cut_list(s, r, threshold, ALL_TIES);
    else
        make_list(s, r, threshold);
}

static void stage_top_k(fl_sampler *s, row *r) {
    double above, k = (double)s->p.top_k;
    if (!r->listed) make_list(s, r, fl_row_bound(s->block_max, r->n, s->p.top_k));
    if (r->m > s->p.top_k) cut_list(s, r, fl_row_select(s->v, NULL, r->m, k, &above), ALL_TIES);
}

static void stage_top_p(fl_sampler *s, row *r) {
    double p = (double)s->p.top_p, above;
    float max = r->listed ? list_max(s, r) : r->max;
    double sum = fl_row_exp(r->listed ? s->v : r->x, r->listed ? r->m : r->n, max, NULL);
    if (!r->listed) {
        /* Tokens of weight below (1 - p) * sum / n hold less than 1 - p together, so the
         * others hold at least p: none of them is wanted.  0.99 covers rounding. */
        double least = 0.99 * (1.0 - p) * sum / (double)r->n;
        make_list(s, r, (float)((double)max + log(least)));
    }
    fl_row_exp(s->v, r->m, max, s->w);
    float edge = fl_row_select(s->v, s->w, r->m, p * sum, &above);
    /* Of n equal tokens on the edge, the j-th stays while above + j * weight < p * sum. */
    float edge_weight;
    fl_row_exp(&edge, 1, max, &edge_weight);
    double ties = edge_weight > 0.0f ? ceil((p * sum - above) / (double)edge_weight) : 1e9;
    cut_list(s, r, edge, ties < 1.0 ? 1 : ties < 1e9 ? (int64_t)ties : ALL_TIES);
}

/* Run the stages over r, which starts as the raw row with its maxima measured. */
static int run_stages(fl_sampler *s, row *r, const fl_history *h, fl_err *err) {
    bool greedy = s->p.temperature < GREEDY_BELOW;
    int rc = FL_OK;
    for (size_t i = 0; i < s->p.n_order && !rc; i++) {
        fl_stage stage = s->p.order[i];
        if (!stage_active(&s->p, stage)) continue;
        switch (stage) {
        case FL_STAGE_ALLOWED:
        case FL_STAGE_BIAS:
        case FL_STAGE_PENALTIES:
            rc = stage_on_ids(s, r, stage, h, err);
            break;
        case FL_STAGE_TEMPERATURE:
            if (!greedy) rc = stage_temperature(s, r, err);
            break;
        case FL_STAGE_MIN_P:
            if (!greedy) stage_min_p(s, r);
            break;
        case FL_STAGE_TOP_K:
            if (!greedy) stage_top_k(s, r);
            break;
        case FL_STAGE_TOP_P:
            if (!greedy) stage_top_p(s, r);
            break;
        case FL_STAGE_COUNT:
            break;
        }
    }
    return rc;
}

static int begin(fl_sampler *s, row *r, const float *logits, int32_t n, fl_err *err) {
    int rc;
    if (n < 1) return fl_fail(err, FL_E_ARG, "logits: %d tokens", (int)n);
    if ((rc = reserve(s, n, err))) return rc;
    *r = (row){.x = logits, .n = n, .blocks_old = true};
    return measure(s, r, err);
}

int fl_sampler_process(fl_sampler *s, float *logits, int32_t n, const fl_history *h, fl_err *err) {
    row r;
    int rc = begin(s, &r, logits, n, err);
    if (rc) return rc;
    r.own = true;
    if ((rc = run_stages(s, &r, h, err))) return rc;
    if (r.listed) scatter(s, &r);
    return FL_OK;
}

/* The race of sampler.h: keeps the winner so far. */
typedef struct race {
    uint64_t seed, draw;
    uint32_t word[4];
    int32_t group; /* word belongs to ids 4 * group ... */
    int32_t winner;
    double best;
} race;

static void enter(race *t, int32_t id, float weight) {
    /* -log1p(-u) >= u >= 2^-33: most tokens are out before a number is drawn, nearly all
     * before a logarithm is taken. */
    if ((double)weight * t->best < 0x1p-33) return;
    if (t->group != id >> 2) {
        uint32_t counter[4] = {(uint32_t)id >> 2, (uint32_t)t->draw, (uint32_t)(t->draw >> 32), 0};
        fl_philox(t->word, counter, t->seed);
        t->group = id >> 2;
    }
    double u = ((double)t->word[id & 3] + 0.5) * 0x1p-32;
    if (u > (double)weight * t->best) return;
    double key = -log1p(-u) / (double)weight;
    if (key < t->best || (key == t->best && id < t->winner)) {
        t->best = key;
        t->winner = id;
    }
}

static int32_t draw(fl_sampler *s, const row *r) {
    race t = {.seed = s->p.seed, .draw = s->draw++, .group = -1, .winner = -1, .best = INFINITY};
    const float *x = r->listed ? s->v : r->x;
    int32_t m = r->listed ? r->m : r->n;
    float max = r->listed ? list_max(s, r) : r->max;
    fl_row_exp(x, m, max, s->w);
    /* The likeliest token first, so that `best` is small from the start. */
    int32_t top = fl_row_argmax(x, m, r->listed ? NULL : s->block_max, max);
    enter(&t, r->listed ? s->ids[top] : top, s->w[top]);
    for (int32_t j = 0; j < m; j++) {
        if (s->w[j] > 0.0f) enter(&t, r->listed ? s->ids[j] : j, s->w[j]);
    }
    return t.winner;
}

int fl_sampler_sample(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                      int32_t *id, float *logprob, fl_err *err) {
    row r;
    int rc = begin(s, &r, logits, n, err);
    if (rc) return rc;
    double raw_max = (double)r.max;
    if ((rc = run_stages(s, &r, h, err))) return rc;
    bool greedy = s->p.temperature < GREEDY_BELOW;
    *id = greedy ? fl_row_argmax(r.x, n, s->block_max, r.max) : draw(s, &r);
    if (logprob) {
        double sum = fl_row_exp(logits, n, (float)raw_max, NULL);
        *logprob = fl_logprob(logits[*id], raw_max + log(sum));
    }
    return FL_OK;
}
