/* Sampling on a device against src/engine/sampler.c: the same token for the same row, parameters,
 * seed and draw.  The one thing that may differ is which token is the last inside top_p, when the
 * sum of the tokens before one is within 1e-5 of top_p; then the row does not count. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "ref_backend.h"
#include "tap.h"
#include "util/num.h"

static const fl_backend_ops *ops;

enum { MOST_ROWS = 64, MOST_EDITS = 64, MOST_VOCAB = 4100, WORDS = (MOST_VOCAB + 31) / 32 };

typedef struct row_case {
    fl_sampler_params p;
    uint64_t draw;
    int32_t prompt[8], output[24], allowed[40];
    fl_logit_bias bias[4];
    bool logprob;
} row_case;

/* Device memory of the op. */
typedef struct rig {
    fl_backend *be;
    fl_sample s;
    int64_t n, stride;
    float *logits;
} rig;

static void *device(fl_backend *be, int64_t bytes) {
    void *p;
    if (ops->mem_new(be, &p, (uint64_t)bytes, NULL)) exit(2);
    return p;
}

static fl_tensor words_of(const void *p, int64_t bytes) {
    return fl_tensor_1d((void *)(uintptr_t)p, FL_DTYPE_I32, bytes / 4);
}

static void rig_new(rig *r, int64_t n, int64_t stride) {
    r->be = ref_open(ops, NULL, 1, MOST_ROWS);
    r->n = n;
    r->stride = stride;
    r->logits = ref_alloc((size_t)(MOST_ROWS * stride) * sizeof(float));
    r->s.logits = fl_tensor_2d(device(r->be, MOST_ROWS * stride * 4), FL_DTYPE_F32, MOST_ROWS, n);
    r->s.logits.stride = stride;
    r->s.rows = device(r->be, MOST_ROWS * (int64_t)sizeof(fl_sample_row));
    r->s.edits = device(r->be, MOST_ROWS * MOST_EDITS * (int64_t)sizeof(fl_sample_edit));
    r->s.mask = fl_tensor_2d(device(r->be, MOST_ROWS * WORDS * 4), FL_DTYPE_I32, MOST_ROWS, WORDS);
    r->s.out = device(r->be, MOST_ROWS * (int64_t)sizeof(fl_sampled));
}

static void rig_free(rig *r) {
    void *memory[] = {r->s.logits.data, (void *)(uintptr_t)r->s.rows, r->s.edits, r->s.mask.data,
                      r->s.out};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) ops->mem_free(r->be, memory[i]);
    ops->close(r->be);
    free(r->logits);
}

/* ---- a case as the device gets it ---- */

static fl_sample_edit *edit_of(fl_sample_edit *e, int32_t *n, int32_t id) {
    for (int32_t i = 0; i < *n; i++)
        if (e[i].id == id) return &e[i];
    e[*n] = (fl_sample_edit){.id = id, .count = -1};
    return &e[(*n)++];
}

static int32_t make_edits(fl_sample_edit *e, const row_case *c, bool penalties) {
    int32_t n = 0;
    for (size_t i = 0; i < c->p.n_bias; i++)
        edit_of(e, &n, c->bias[i].id)->bias = fmaxf(-100, fminf(100, c->bias[i].bias));
    for (size_t i = 0; penalties && i < 8; i++) {
        fl_sample_edit *d = edit_of(e, &n, c->prompt[i]);
        if (d->count < 0) d->count = 0;
    }
    for (size_t i = 0; penalties && i < 24; i++) {
        fl_sample_edit *d = edit_of(e, &n, c->output[i]);
        d->count = d->count < 0 ? 1 : d->count + 1;
    }
    return n;
}

static void send(rig *r, const row_case *c, int64_t rows) {
    static fl_sample_row row[MOST_ROWS];
    static fl_sample_edit edits[MOST_ROWS * MOST_EDITS];
    static uint32_t mask[MOST_ROWS * WORDS];
    memset(mask, 0, sizeof(mask));
    for (int64_t i = 0; i < rows; i++) {
        const fl_sampler_params *p = &c[i].p;
        bool penalties =
            p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0;
        fl_sampler *sampler;
        if (fl_sampler_new(&sampler, p, NULL) || !fl_sampler_describe(sampler, MOST_VOCAB, &row[i]))
            exit(2);
        fl_sampler_free(sampler);
        row[i].first_edit = (int32_t)i * MOST_EDITS;
        row[i].n_edits = make_edits(edits + i * MOST_EDITS, &c[i], penalties);
        row[i].logprob = c[i].logprob;
        row[i].draw = c[i].draw;
        for (size_t k = 0; k < p->n_allowed; k++)
            mask[i * WORDS + p->allowed[k] / 32] |= 1u << p->allowed[k] % 32;
    }
    fl_tensor to[] = {words_of(r->s.rows, sizeof(row)), words_of(r->s.edits, sizeof(edits)),
                      words_of(r->s.mask.data, sizeof(mask)),
                      words_of(r->s.logits.data, rows * r->stride * 4)};
    const void *from[] = {row, edits, mask, r->logits};
    for (int i = 0; i < 4; i++) ops->write(r->be, &to[i], from[i], NULL);
}

/* The op on the first rows; logits must be as they were. */
static bool run(rig *r, const row_case *c, int64_t rows, fl_sampled *out) {
    fl_sample s = r->s;
    float *after = ref_alloc((size_t)(rows * r->stride) * sizeof(float));
    fl_tensor from = words_of(s.out, rows * (int64_t)sizeof(*out));
    fl_tensor x = words_of(s.logits.data, rows * r->stride * 4);
    fl_err err = {0};
    s.logits.dim[0] = rows;
    send(r, c, rows);
    bool ok = !ops->sample(r->be, &s, &err) && !ops->read(r->be, out, &from, &err) &&
              !ops->read(r->be, after, &x, &err) &&
              !memcmp(after, r->logits, (size_t)(rows * r->stride) * sizeof(float));
    if (err.code) printf("# %s\n", err.msg);
    free(after);
    return ok;
}

/* ---- what the CPU says ---- */

static int host_sample(const row_case *c, const float *x, int32_t n, int32_t *id, float *logprob) {
    const fl_history h = {c->prompt, 8, c->output, 24};
    fl_sampler *s;
    fl_err err;
    int rc = fl_sampler_new(&s, &c->p, &err);
    if (rc) return rc;
    fl_sampler_seek(s, c->draw);
    rc = fl_sampler_sample(s, x, n, &h, id, logprob, &err);
    fl_sampler_free(s);
    return rc;
}

static int descending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Whether a token's place is within 1e-5 of the edge of top_p. */
static bool near_edge(const row_case *c, const float *x, int32_t n) {
    const fl_history h = {c->prompt, 8, c->output, 24};
    static float row[MOST_VOCAB];
    static double w[MOST_VOCAB];
    fl_sampler_params p = c->p;
    fl_sampler *s;
    double sum = 0, before = 0;
    p.top_p = 1;
    if (fl_sampler_new(&s, &p, NULL)) return false;
    memcpy(row, x, (size_t)n * sizeof(float));
    int rc = fl_sampler_process(s, row, n, &h, NULL);
    fl_sampler_free(s);
    float top = row[fl_argmax(row, n)];
    for (int32_t i = 0; i < n; i++) sum += w[i] = exp((double)row[i] - (double)top);
    qsort(w, (size_t)n, sizeof(*w), descending);
    bool near = false;
    for (int32_t i = 0; i < n && !rc; i++) {
        near |= fabs(before / sum - (double)c->p.top_p) < 1e-5;
        before += w[i];
    }
    return near;
}

/* ---- random cases ---- */

static double uniform(uint64_t *state) {
    return (double)(ref_random(state) >> 11) * 0x1p-53;
}
static int32_t below(uint64_t *state, int64_t n) {
    return (int32_t)(ref_random(state) % (uint64_t)n);
}

/* Rows of different shapes: peaked, flat, on a coarse grid (ties), with -inf. */
static void make_row(float *x, int32_t n, int shape, uint64_t seed) {
    ref_fill(x, FL_DTYPE_F32, n, shape == 1 ? 0.01 : shape == 0 ? 8.0 : 2.0, seed);
    for (int32_t i = 0; i < n; i++) {
        if (shape == 2) x[i] = rintf(x[i] * 2.0f) / 2.0f;
        if (shape == 3 && i % 3) x[i] = -INFINITY;
    }
}

static void make_case(row_case *c, int32_t n, uint64_t *state) {
    static const float temperatures[] = {0, 0.3f, 0.7f, 1, 1, 1.9f};
    memset(c, 0, sizeof(*c));
    fl_sampler_params_init(&c->p);
    c->p.has_seed = true;
    c->p.temperature = temperatures[below(state, 6)];
    if (below(state, 2))
        c->p.top_k = (int32_t[]){1, 2, 5, 40, n - 1, n, n + 5, -1}[below(state, 8)];
    if (below(state, 2))
        c->p.top_p = (float[]){1e-6f, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f}[below(state, 6)];
    if (below(state, 3) == 0) c->p.min_p = (float[]){0.01f, 0.1f, 1}[below(state, 3)];
    if (below(state, 3) == 0)
        c->p.repetition_penalty = (float[]){0.8f, 1.1f, 1.5f}[below(state, 3)];
    if (below(state, 3) == 0) c->p.frequency_penalty = (float)(uniform(state) * 4 - 2);
    if (below(state, 3) == 0) c->p.presence_penalty = (float)(uniform(state) * 4 - 2);
    for (int i = 0; i < 8; i++) c->prompt[i] = below(state, n);
    for (int i = 0; i < 24; i++) c->output[i] = below(state, i % 2 ? n : fl_min_i64(n, 5));
    if (below(state, 3) == 0) {
        c->p.bias = c->bias;
        c->p.n_bias = (size_t)fl_min_i64(n, 4);
        for (size_t i = 0; i < c->p.n_bias; i++) /* distinct */
            c->bias[i] = (fl_logit_bias){(int32_t)((i + 1) * (size_t)n / 5 % (size_t)n),
                                         (float[]){-200, 5, 300, -3}[below(state, 4)]};
        for (size_t i = 1; i < c->p.n_bias; i++)
            if (c->bias[i].id == c->bias[i - 1].id) c->p.n_bias = i;
    }
    if (below(state, 3) == 0) {
        c->p.allowed = c->allowed;
        c->p.n_allowed = 40;
        for (int i = 0; i < 40; i++) c->allowed[i] = below(state, n);
    }
    c->p.seed = ref_random(state);
    c->draw = below(state, 2) ? ref_random(state) : (uint64_t)below(state, 100);
    c->logprob = below(state, 2);
}

typedef struct tally {
    int64_t rows, greedy, wrong, edges, logprobs;
    double worst;
} tally;

static void compare(tally *t, const row_case *c, const float *x, int32_t n, const fl_sampled *got) {
    int32_t id = -9;
    float logprob = 0;
    int rc = host_sample(c, x, n, &id, &logprob);
    t->rows++;
    t->greedy += c->p.temperature < 1e-5f;
    if (rc) {
        t->wrong += got->id >= 0;
        return;
    }
    if (id != got->id) {
        bool edge = c->p.temperature >= 1e-5f && c->p.top_p < 1 && near_edge(c, x, n);
        t->edges += edge;
        t->wrong += !edge;
        if (!edge)
            printf("# n %d: %d, want %d: t %g k %d p %g min %g bias %zu allowed %zu\n", n, got->id,
                   id, (double)c->p.temperature, c->p.top_k, (double)c->p.top_p, (double)c->p.min_p,
                   c->p.n_bias, c->p.n_allowed);
    } else if (c->logprob) {
        double off = fabs((double)got->logprob - (double)logprob);
        t->logprobs++;
        if (isfinite(logprob)) t->worst = fmax(t->worst, off);
        t->wrong += isfinite(logprob) ? !(off < 1e-5) : got->logprob != logprob;
    }
}

static void test_random(int32_t n, int64_t stride, int rounds, uint64_t seed) {
    static row_case cases[MOST_ROWS];
    fl_sampled out[MOST_ROWS];
    tally t = {0};
    rig r = {0};
    bool ran = true;
    rig_new(&r, n, stride);
    for (int round = 0; round < rounds; round++) {
        for (int64_t i = 0; i < MOST_ROWS; i++) {
            make_case(&cases[i], n, &seed);
            make_row(r.logits + i * stride, n, (int)i % 4, seed + (uint64_t)i);
        }
        ran &= run(&r, cases, MOST_ROWS, out);
        for (int64_t i = 0; i < MOST_ROWS; i++)
            compare(&t, &cases[i], r.logits + i * stride, n, &out[i]);
    }
    check(
        ran && !t.wrong && t.edges * 100 <= t.rows,
        "%d tokens: %lld rows as on the CPU (%lld greedy, %lld at the edge of top_p, %lld wrong), "
        "%lld log-probabilities within %.1e",
        (int)n, (long long)t.rows, (long long)t.greedy, (long long)t.edges, (long long)t.wrong,
        (long long)t.logprobs, t.worst);
    rig_free(&r);
}

/* The draws of one row, one after the other: what the CPU draws, and in its proportions. */
static void test_draws(void) {
    enum { N = 5, ROUNDS = 32 };
    static row_case cases[MOST_ROWS];
    fl_sampled out[MOST_ROWS];
    static const float row[N] = {0.5f, 1.5f, -0.5f, 1.0f, -2.0f};
    double sum = 0, chi = 0, seen[N] = {0};
    tally t = {0};
    bool ran = true;
    rig r = {0};
    rig_new(&r, N, N);
    for (int64_t i = 0; i < MOST_ROWS; i++) memcpy(r.logits + i * N, row, sizeof(row));
    for (int64_t round = 0; round < ROUNDS; round++) {
        for (int64_t i = 0; i < MOST_ROWS; i++) {
            memset(&cases[i], 0, sizeof(cases[i]));
            fl_sampler_params_init(&cases[i].p);
            cases[i].p.has_seed = true;
            cases[i].p.seed = 42;
            cases[i].draw = (uint64_t)(round * MOST_ROWS + i);
        }
        ran &= run(&r, cases, MOST_ROWS, out);
        for (int64_t i = 0; i < MOST_ROWS; i++) {
            compare(&t, &cases[i], row, N, &out[i]);
            if (out[i].id >= 0 && out[i].id < N) seen[out[i].id]++;
        }
    }
    for (int i = 0; i < N; i++) sum += exp((double)row[i]);
    for (int i = 0; i < N; i++) {
        const double want = ROUNDS * MOST_ROWS * exp((double)row[i]) / sum;
        chi += (seen[i] - want) * (seen[i] - want) / want;
    }
    check(ran && !t.wrong && chi < 18.5,
          "%d draws of one row (%lld wrong, chi-square %.1f of 18.5)", ROUNDS * MOST_ROWS,
          (long long)t.wrong, chi);
    rig_free(&r);
}

/* Rows that have no token, rows that nobody wants, and what is no row. */
static void test_failures(void) {
    enum { N = 40 };
    static row_case cases[6];
    fl_sampled out[6];
    rig r = {0};
    fl_err err;
    rig_new(&r, N, N);
    for (int i = 0; i < 6; i++) {
        fl_sampler_params_init(&cases[i].p);
        cases[i].p.has_seed = true;
        cases[i].logprob = true;
        for (int k = 0; k < N; k++) r.logits[i * N + k] = i == 1 ? -INFINITY : (float)(k % 7);
    }
    r.logits[0 * N + 33] = NAN;
    r.logits[2 * N + 39] = INFINITY;
    cases[2].p.temperature = 0;
    cases[3].p.temperature = 1e-4f;
    r.logits[3 * N + 1] = 3e38f;
    cases[4].p.n_allowed = 1;
    cases[4].p.allowed = cases[4].allowed;
    cases[4].allowed[0] = 39;
    cases[4].p.n_bias = 1;
    cases[4].p.bias = cases[4].bias;
    cases[4].bias[0] = (fl_logit_bias){39, 100};
    r.logits[4 * N + 39] = -INFINITY;
    bool ok = run(&r, cases, 6, out);
    check(ok && out[0].id == FL_SAMPLED_BAD && out[2].id == FL_SAMPLED_BAD &&
              out[3].id == FL_SAMPLED_BAD,
          "NaN, +inf, and what a small temperature makes of a logit");
    check(ok && out[1].id == FL_SAMPLED_NOTHING && out[4].id == FL_SAMPLED_NOTHING,
          "no token is left");
    check(ok && out[5].id >= 0 && out[5].logprob < 0, "a row beside them");
    const fl_sample_row none[2] = {{.mode = FL_SAMPLE_NONE}, {.mode = FL_SAMPLE_GREEDY}};
    const fl_sampled mark[2] = {{.id = 77}, {.id = 77}};
    fl_tensor rows = words_of(r.s.rows, sizeof(none)), results = words_of(r.s.out, sizeof(mark));
    fl_sample s = r.s;
    s.logits.dim[0] = 2;
    ops->write(r.be, &rows, none, NULL);
    ops->write(r.be, &results, mark, NULL);
    ok = !ops->sample(r.be, &s, NULL) && !ops->read(r.be, out, &results, NULL);
    check(ok && out[0].id == 77 && out[1].id == FL_SAMPLED_NOTHING, "a row that is not sampled");
    s.logits.dim[1] = FL_SAMPLE_MAX_VOCAB + 1;
    check(ops->sample(r.be, &s, &err) == FL_E_ARG, "%s", err.msg);
    s.logits.dim[1] = N;
    s.mask.dim[1] = 1;
    check(ops->sample(r.be, &s, &err) == FL_E_ARG, "%s", err.msg);
    rig_free(&r);
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "cpu";
    fl_err err;
    if (fl_backend_find(&ops, name, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    if (!ops->sample) {
        printf("1..0 # SKIP %s does not sample\n", name);
        return 0;
    }
    test_random(1, 1, 1, 1);
    test_random(7, 8, 2, 2);
    test_random(300, 304, 6, 3);
    test_random(4099, 4100, 2, 4);
    test_draws();
    test_failures();
    return tap_done();
}
