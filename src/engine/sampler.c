#include "engine/sampler.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/sampler_stats.h"
#include "util/mem.h"
#include "util/rng.h"

#define ALL_TIES INT64_MAX

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

/* What may be long.  Never changes, so that the samplers of all completions share it. */
typedef struct lists {
    atomic_int refs;
    fl_logit_bias *bias;
    int32_t *allowed; /* without repetitions */
    uint32_t *bits;   /* of allowed, up to the largest id; or NULL */
    int32_t allowed_max;
} lists;

struct fl_sampler {
    fl_sampler_params p;   /* bias and allowed are those of `lists`               */
    lists *lists;          /* counted                                             */
    uint64_t draw;         /* number of the next draw                             */
    fl_sampler_work *work; /* own_work, or borrowed                               */
    fl_sampler_work *own_work;
    const uint32_t *mask; /* borrowed, or NULL                                   */
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

static void lists_unref(lists *l) {
    if (!l || atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1) return;
    fl_free(l->bias);
    fl_free(l->allowed);
    fl_free(l->bits);
    fl_free(l);
}

/* The ids as bits, so that a row is passed once however long the list; and each once. */
static size_t take_allowed(lists *l, const fl_sampler_params *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->n_allowed; i++) {
        uint32_t *word = &l->bits[p->allowed[i] / 32];
        const uint32_t bit = 1u << (p->allowed[i] % 32);
        if (!(*word & bit)) l->allowed[n++] = p->allowed[i];
        *word |= bit;
    }
    return n;
}

static int lists_new(fl_sampler *s, const fl_sampler_params *p, fl_err *err) {
    lists *l = s->lists = fl_alloc(sizeof(*l));
    if (!l) return fl_fail(err, FL_E_NOMEM, "sampler: %zu bytes", sizeof(*l));
    atomic_init(&l->refs, 1);
    for (size_t i = 0; i < p->n_allowed; i++)
        if (p->allowed[i] > l->allowed_max) l->allowed_max = p->allowed[i];
    if (p->n_bias)
        l->bias = (fl_logit_bias *)(void *)fl_memdup(p->bias, p->n_bias * sizeof(*p->bias));
    if (p->allowed) {
        l->allowed = fl_alloc_array(p->n_allowed, sizeof(*l->allowed));
        l->bits = fl_alloc_array((size_t)l->allowed_max / 32 + 1, sizeof(*l->bits));
    }
    if ((p->n_bias && !l->bias) || (p->allowed && (!l->allowed || !l->bits)))
        return fl_fail(err, FL_E_NOMEM, "sampler: %zu biases, %zu allowed ids", p->n_bias,
                       p->n_allowed);
    s->p.bias = l->bias;
    s->p.allowed = l->allowed;
    if (p->allowed) s->p.n_allowed = take_allowed(l, p);
    return FL_OK;
}

int fl_sampler_new(fl_sampler **out, const fl_sampler_params *p, fl_err *err) {
    int rc;
    if ((rc = check_params(p, err))) return rc;
    fl_sampler *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "sampler: %zu bytes", sizeof(*s));
    s->p = *p;
    if (!s->p.n_order) {
        memcpy(s->p.order, default_order, sizeof(default_order));
        s->p.n_order = FL_STAGE_COUNT;
    }
    rc = lists_new(s, p, err);
    if (!rc && !p->has_seed) rc = fl_random_seed(&s->p.seed, err);
    if (rc) {
        fl_sampler_free(s);
        return rc;
    }
    s->p.has_seed = true;
    *out = s;
    return FL_OK;
}

int fl_sampler_like(fl_sampler **out, const fl_sampler *other, const uint64_t *seed, fl_err *err) {
    fl_sampler *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "sampler: %zu bytes", sizeof(*s));
    s->p = other->p;
    s->lists = other->lists;
    atomic_fetch_add_explicit(&s->lists->refs, 1, memory_order_relaxed);
    if (seed) s->p.seed = *seed;
    int rc = seed ? FL_OK : fl_random_seed(&s->p.seed, err);
    if (rc)
        fl_sampler_free(s);
    else
        *out = s;
    return rc;
}

int fl_sampler_clone(fl_sampler **out, const fl_sampler *s, fl_err *err) {
    int rc = fl_sampler_like(out, s, &s->p.seed, err);
    if (!rc) (*out)->draw = s->draw;
    return rc;
}

const fl_sampler_params *fl_sampler_settings(const fl_sampler *s) {
    return &s->p;
}

const uint32_t *fl_sampler_allowed(const fl_sampler *s, int32_t *words) {
    *words = s->lists->bits ? s->lists->allowed_max / 32 + 1 : 0;
    return s->lists->bits;
}

bool fl_sampler_describe(const fl_sampler *s, int32_t n, fl_sample_row *out) {
    const fl_sampler_params *p = &s->p;
    *out = (fl_sample_row){.mode =
                               p->temperature < FL_GREEDY_BELOW ? FL_SAMPLE_GREEDY : FL_SAMPLE_DRAW,
                           .masked = s->lists->bits != NULL,
                           .temperature = p->temperature,
                           .repetition = p->repetition_penalty,
                           .frequency = p->frequency_penalty,
                           .presence = p->presence_penalty,
                           .top_k = p->top_k,
                           .top_p = p->top_p,
                           .min_p = p->min_p,
                           .seed = p->seed};
    return p->n_order == FL_STAGE_COUNT &&
           !memcmp(p->order, default_order, sizeof(default_order)) && !s->mask &&
           (!s->lists->bits || s->lists->allowed_max < n);
}

void fl_sampler_free(fl_sampler *s) {
    if (!s) return;
    fl_sampler_work_free(s->own_work);
    lists_unref(s->lists);
    fl_free(s);
}

void fl_sampler_share_work(fl_sampler *s, fl_sampler_work *w) {
    s->work = w;
}

void fl_sampler_set_mask(fl_sampler *s, const uint32_t *mask) {
    s->mask = mask;
}

void fl_sampler_seek(fl_sampler *s, uint64_t draw) {
    s->draw = draw;
}

static int bad_row(const float *x, int32_t n, fl_err *err) {
    int32_t i = 0;
    while (i < n - 1 && !isnan(x[i]) && x[i] != INFINITY) i++;
    return fl_fail(err, FL_E_ARG, "logits: id %d is %s", (int)i, isnan(x[i]) ? "nan" : "inf");
}

static int check_max(const row *r, fl_err *err) {
    if (r->max == INFINITY) return bad_row(r->x, r->n, err);
    if (r->max == -INFINITY)
        return fl_fail(err, FL_E_ARG, "logits: all %d tokens are -inf, none is left", (int)r->n);
    return FL_OK;
}

/* Bring block_max and max up to date. */
static int measure(fl_sampler *s, row *r, fl_err *err) {
    bool nan;
    if (!r->blocks_old) return FL_OK;
    r->max = fl_row_max(r->x, r->n, s->work->block_max, &nan);
    r->blocks_old = false;
    return nan ? bad_row(r->x, r->n, err) : check_max(r, err);
}

static float list_max(const fl_sampler *s, const row *r) {
    return fl_row_max(s->work->v, r->m, NULL, NULL);
}

/* The full row, writable and up to date. */
static float *writable(fl_sampler *s, row *r) {
    if (!r->own) {
        memcpy(s->work->x, r->x, (size_t)r->n * sizeof(*s->work->x));
        r->x = s->work->x;
        r->own = true;
    }
    r->blocks_old = true;
    return (float *)r->x; /* ours, or process()'s caller's */
}

static void scatter(fl_sampler *s, row *r) {
    float *x = writable(s, r);
    for (int32_t i = 0; i < r->n; i++) x[i] = -INFINITY;
    for (int32_t j = 0; j < r->m; j++) x[s->work->ids[j]] = s->work->v[j];
}

static void gather(fl_sampler *s, row *r) {
    int32_t m = 0;
    for (int32_t j = 0; j < r->m; j++) {
        float value = r->x[s->work->ids[j]];
        if (value == -INFINITY) continue;
        s->work->ids[m] = s->work->ids[j];
        s->work->v[m++] = value;
    }
    r->m = m;
}

/* Keep the tokens of the full row that are >= threshold. */
static void make_list(fl_sampler *s, row *r, float threshold) {
    r->m = fl_row_collect(r->x, r->n, s->work->block_max, threshold, s->work->ids);
    for (int32_t j = 0; j < r->m; j++) s->work->v[j] = r->x[s->work->ids[j]];
    r->listed = true;
}

/* Keep the listed tokens > v, and the first `ties` of those == v. */
static void cut_list(fl_sampler *s, row *r, float v, int64_t ties) {
    int32_t m = 0;
    for (int32_t j = 0; j < r->m; j++) { /* no branch: which token stays is hard to predict */
        float value = s->work->v[j];
        bool tie = value == v;
        s->work->ids[m] = s->work->ids[j];
        s->work->v[m] = value;
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

/* -inf for the ids without a bit; those from the end of the mask on have none. */
static void apply_mask(float *x, int32_t n, const uint32_t *mask, int32_t words) {
    for (int32_t w = 0, start = 0; start < n; w++, start += 32) {
        const uint32_t bits = w < words ? mask[w] : 0;
        const int32_t end = n - start < 32 ? n : start + 32;
        if (bits == UINT32_MAX) continue;
        for (int32_t i = start; i < end; i++) x[i] = bits >> (i - start) & 1 ? x[i] : -INFINITY;
    }
}

static int stage_allowed(fl_sampler *s, float *x, int32_t n, fl_err *err) {
    const lists *l = s->lists;
    int rc = check_ids("allowed_token_ids", &l->allowed_max, 1, n, err);
    if (!rc) apply_mask(x, n, l->bits, l->allowed_max / 32 + 1);
    return rc;
}

static int stage_bias(fl_sampler *s, float *x, int32_t n, fl_err *err) {
    for (size_t i = 0; i < s->p.n_bias; i++) {
        fl_logit_bias b = s->p.bias[i];
        int rc = check_ids("logit_bias", &b.id, 1, n, err);
        if (rc) return rc;
        x[b.id] += fmaxf(-FL_BIAS_LIMIT, fminf(FL_BIAS_LIMIT, b.bias));
    }
    return FL_OK;
}

enum { DONE = -1 }; /* in count: this id has had its penalties */

static void penalize(fl_sampler *s, float *x, int32_t id) {
    int32_t count = s->work->count[id];
    if (count == DONE) return;
    float v = x[id];
    v = v > 0.0f ? v / s->p.repetition_penalty : v * s->p.repetition_penalty;
    v -= s->p.frequency_penalty * (float)count;
    if (count > 0) v -= s->p.presence_penalty;
    x[id] = v;
    s->work->count[id] = DONE;
}

static int stage_penalties(fl_sampler *s, float *x, int32_t n, const fl_history *h, fl_err *err) {
    int rc;
    if (!h) return FL_OK;
    if ((rc = check_ids("prompt", h->prompt, h->n_prompt, n, err)) ||
        (rc = check_ids("output", h->output, h->n_output, n, err)))
        return rc;
    for (size_t i = 0; i < h->n_output; i++) s->work->count[h->output[i]]++;
    for (size_t i = 0; i < h->n_output; i++) penalize(s, x, h->output[i]);
    for (size_t i = 0; i < h->n_prompt; i++) penalize(s, x, h->prompt[i]);
    for (size_t i = 0; i < h->n_output; i++) s->work->count[h->output[i]] = 0;
    for (size_t i = 0; i < h->n_prompt; i++) s->work->count[h->prompt[i]] = 0;
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
    const fl_sampler_work *k = s->work;
    const float t = s->p.temperature;
    if (r->listed) {
        fl_row_scale(k->v, k->v, r->m, t);
        return list_max(s, r) < INFINITY ? FL_OK : bad_row(k->v, r->m, err);
    }
    float *x = r->own ? (float *)r->x : k->x; /* ours, or process()'s caller's */
    fl_row_scale(x, r->x, r->n, t);
    /* Division keeps the order, so the largest stay the largest. */
    fl_row_scale(k->block_max, k->block_max, fl_row_blocks(r->n), t);
    r->max /= t;
    r->x = x;
    r->own = true;
    return check_max(r, err);
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
    if (!r->listed) make_list(s, r, fl_row_bound(s->work->block_max, r->n, s->p.top_k));
    if (r->m > s->p.top_k)
        cut_list(s, r, fl_row_select(s->work->v, NULL, r->m, k, &above), ALL_TIES);
}

static void stage_top_p(fl_sampler *s, row *r) {
    double p = (double)s->p.top_p, above;
    float max = r->listed ? list_max(s, r) : r->max;
    double sum = fl_row_exp(r->listed ? s->work->v : r->x, r->listed ? r->m : r->n, max, NULL);
    if (!r->listed) {
        /* Tokens of weight below (1 - p) * sum / n hold less than 1 - p together, so the
         * others hold at least p: none of them is wanted.  0.99 covers rounding. */
        double least = 0.99 * (1.0 - p) * sum / (double)r->n;
        make_list(s, r, (float)((double)max + log(least)));
    }
    fl_row_exp(s->work->v, r->m, max, s->work->w);
    float edge = fl_row_select(s->work->v, s->work->w, r->m, p * sum, &above);
    /* Of n equal tokens on the edge, the j-th stays while above + j * weight < p * sum. */
    float edge_weight;
    fl_row_exp(&edge, 1, max, &edge_weight);
    double ties = edge_weight > 0.0f ? ceil((p * sum - above) / (double)edge_weight) : 1e9;
    cut_list(s, r, edge, ties < 1.0 ? 1 : ties < 1e9 ? (int64_t)ties : ALL_TIES);
}

/* Whatever the order of the stages, the mask comes first. */
static int use_mask(fl_sampler *s, row *r, fl_err *err) {
    if (r->listed) scatter(s, r);
    float *x = writable(s, r);
    apply_mask(x, r->n, s->mask, (r->n + 31) / 32);
    int rc = measure(s, r, err);
    if (!rc && r->listed) gather(s, r);
    return rc;
}

/* Run the stages over r, which starts as the raw row with its maxima measured. */
static int run_stages(fl_sampler *s, row *r, const fl_history *h, fl_err *err) {
    bool greedy = s->p.temperature < FL_GREEDY_BELOW;
    int rc = s->mask ? use_mask(s, r, err) : FL_OK;
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

static int need_work(fl_sampler *s, int32_t n, fl_err *err) {
    if (s->work) return fl_sampler_work_reserve(s->work, n, err);
    int rc = fl_sampler_work_new(&s->own_work, n, err);
    if (!rc) s->work = s->own_work;
    return rc;
}

static int begin(fl_sampler *s, row *r, const float *logits, int32_t n, fl_err *err) {
    int rc;
    if (n < 1) return fl_fail(err, FL_E_ARG, "logits: %d tokens", (int)n);
    if ((rc = need_work(s, n, err))) return rc;
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

static void enter(race *t, int32_t id, float weight, uint32_t word) {
    double u = ((double)word + 0.5) * 0x1p-32;
    if (u > (double)weight * t->best) return; /* -log1p(-u) >= u: no logarithm needed */
    double key = -log1p(-u) / (double)weight;
    if (key < t->best || (key == t->best && id < t->winner)) {
        t->best = key;
        t->winner = id;
    }
}

static void enter_alone(race *t, int32_t id, float weight) {
    /* u >= 2^-33: most tokens are out before a number is drawn. */
    if (!(weight > 0.0f) || (double)weight * t->best < 0x1p-33) return;
    if (t->group != id >> 2) {
        uint32_t counter[4] = {(uint32_t)id >> 2, (uint32_t)t->draw, (uint32_t)(t->draw >> 32), 0};
        fl_philox(t->word, counter, t->seed);
        t->group = id >> 2;
    }
    enter(t, id, weight, t->word[id & 3]);
}

/* All tokens of a row; weights are needed only where the random numbers leave a chance. */
static void enter_row(race *t, const row *r, const fl_sampler_work *k) {
    const int32_t blocks = fl_row_blocks(r->n);
    const fl_row_race all = {k->w, blocks, t->seed, t->draw};
    uint32_t words[FL_ROW_BLOCK];
    float w[FL_ROW_BLOCK];
    fl_row_exp(k->block_max, blocks, r->max, k->w);
    for (int32_t b = 0; (b = fl_row_contender(&all, b, t->best, words)) < blocks; b++) {
        const int32_t first = b * FL_ROW_BLOCK, rest = r->n - first;
        const int32_t m = rest < FL_ROW_BLOCK ? rest : FL_ROW_BLOCK;
        fl_row_exp(r->x + first, m, r->max, w);
        for (int32_t i = 0; i < m; i++) enter(t, first + i, w[i], words[i]);
    }
}

static void enter_list(race *t, const row *r, const fl_sampler_work *k, float max) {
    fl_row_exp(k->v, r->m, max, k->w);
    for (int32_t j = 0; j < r->m; j++) enter_alone(t, k->ids[j], k->w[j]);
}

static int32_t draw(fl_sampler *s, const row *r) {
    const fl_sampler_work *k = s->work;
    race t = {.seed = s->p.seed, .draw = s->draw++, .group = -1, .winner = -1, .best = INFINITY};
    const float max = r->listed ? list_max(s, r) : r->max;
    /* The likeliest token first, so that `best` is small from the start; its weight is e^0. */
    if (r->listed) {
        enter_alone(&t, k->ids[fl_row_argmax(k->v, r->m, NULL, max)], 1.0f);
        enter_list(&t, r, k, max);
    } else {
        enter_alone(&t, fl_row_argmax(r->x, r->n, k->block_max, max), 1.0f);
        enter_row(&t, r, k);
    }
    return t.winner;
}

static int32_t choose(fl_sampler *s, row *r) {
    if (s->p.temperature >= FL_GREEDY_BELOW) return draw(s, r);
    s->draw++;
    if (!r->listed) return fl_row_argmax(r->x, r->n, s->work->block_max, r->max);
    return s->work->ids[fl_row_argmax(s->work->v, r->m, NULL, list_max(s, r))];
}

int fl_sampler_sample_top(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                          fl_top_list *top, int32_t *id, fl_err *err) {
    row r;
    int rc = begin(s, &r, logits, n, err);
    if (!rc && top->n) rc = fl_row_top(s->work, logits, n, top, err);
    if (!rc) rc = run_stages(s, &r, h, err);
    if (!rc) *id = choose(s, &r);
    return rc;
}

int fl_sampler_sample(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                      int32_t *id, float *logprob, fl_err *err) {
    fl_top_list none = {0, NULL, NULL};
    int rc = fl_sampler_sample_top(s, logits, n, h, &none, id, err);
    if (!rc && logprob) *logprob = fl_logprob(logits[*id], fl_logsumexp(logits, n));
    return rc;
}

int fl_sampler_sample_list(fl_sampler *s, const fl_logit_list *list, const fl_history *h,
                           int32_t *id, fl_err *err) {
    int rc = need_work(s, list->vocab, err);
    if (rc) return rc;
    row r = {.x = s->work->x, .n = list->vocab, .own = true, .listed = true, .blocks_old = true};
    for (int32_t i = 0; i < list->n; i++) {
        const float v = list->logit[i];
        if (isnan(v) || v == INFINITY) return bad_row(list->logit, list->n, err);
        if (list->id[i] < 0 || list->id[i] >= list->vocab || (i && list->id[i] <= list->id[i - 1]))
            return fl_fail(err, FL_E_ARG, "candidates: id %d out of order", (int)list->id[i]);
        if (v == -INFINITY) continue;
        s->work->ids[r.m] = list->id[i];
        s->work->v[r.m++] = v;
    }
    if (!r.m) return fl_fail(err, FL_E_ARG, "candidates: none is left of %d", (int)list->n);
    if ((rc = run_stages(s, &r, h, err))) return rc;
    *id = choose(s, &r);
    return FL_OK;
}
