/* Recording and replaying ops on a backend that can, and the steps of a model that are recorded:
 * the same bits as op by op, for every number of rows.  A backend that cannot has nothing to test
 * but that a model runs without. */
#include <stdlib.h>
#include <string.h>

#include "model/graphs.h"
#include "model/step.h"
#include "ref_backend.h"
#include "tap.h"

static const fl_backend_ops *ops;

/* ---- the ops ---- */

enum { T = 3, D = 48 };

typedef struct rig { /* one norm, whose result is read */
    fl_backend *be;
    fl_norm norm;
    fl_act out;
} rig;

static fl_tensor on_device(fl_backend *be, int64_t rows, int64_t n) {
    void *p = NULL;
    if (ops->mem_new(be, &p, (uint64_t)(rows * n * 2), NULL)) exit(2);
    return fl_tensor_2d(p, FL_DTYPE_BF16, rows, n);
}

static void rig_new(rig *r) {
    r->be = ref_open(ops, NULL, 1, T);
    r->out.x = on_device(r->be, T, D);
    r->norm = (fl_norm){.residual = on_device(r->be, T, D),
                        .weight = on_device(r->be, 1, D),
                        .out = &r->out,
                        .eps = 1e-5f};
    r->norm.weight = fl_tensor_1d(r->norm.weight.data, FL_DTYPE_BF16, D);
}

static void rig_free(rig *r) {
    ops->mem_free(r->be, r->out.x.data);
    ops->mem_free(r->be, r->norm.residual.data);
    ops->mem_free(r->be, r->norm.weight.data);
    ops->close(r->be);
}

static void fill(const rig *r, const fl_tensor *t, uint64_t seed) {
    uint16_t host[T * D];
    ref_fill(host, FL_DTYPE_BF16, T * D, 1.0, seed);
    ops->write(r->be, t, host, NULL);
}

static bool same(const rig *r, const fl_tensor *t, const uint16_t *want) {
    uint16_t host[T * D];
    return !ops->read(r->be, host, t, NULL) && !memcmp(host, want, sizeof(host));
}

static void test_replay(void) {
    static const uint16_t zeros[T * D];
    uint16_t want[2][T * D];
    fl_recording *rec = NULL;
    rig r;
    rig_new(&r);
    fill(&r, &r.norm.weight, 1);
    for (uint64_t i = 0; i < 2; i++) {
        fill(&r, &r.norm.residual, 2 + i);
        ops->norm(r.be, &r.norm, NULL);
        ops->read(r.be, want[i], &r.out.x, NULL);
    }
    ops->write(r.be, &r.out.x, zeros, NULL);
    bool ok = !ops->record(r.be, NULL) && !ops->norm(r.be, &r.norm, NULL) &&
              !ops->record_end(r.be, &rec, NULL);
    check(ok && same(&r, &r.out.x, zeros), "what is recorded is not run");
    for (uint64_t i = 0; ok && i < 2; i++) {
        fill(&r, &r.norm.residual, 2 + i);
        check(!ops->replay(r.be, rec, NULL) && same(&r, &r.out.x, want[i]),
              "replay %d reads what the memory holds then", (int)i);
    }
    if (rec) ops->recording_free(r.be, rec);
    rig_free(&r);
}

/* Ops that may not be recorded are refused, and spoil nothing. */
static void test_refused(void) {
    uint16_t host[T * D] = {0};
    fl_recording *rec = NULL;
    fl_linear *lin;
    fl_linear_spec spec = {.part = {{host, 16}}, .n_parts = 1, .k = 3, .dtype = FL_DTYPE_BF16};
    void *p;
    fl_err err;
    rig r;
    rig_new(&r);
    check(ops->record_end(r.be, &rec, &err) == FL_E_ARG, "no end without a beginning: %s", err.msg);
    check(!ops->record(r.be, &err) && ops->record(r.be, &err) == FL_E_ARG, "once: %s", err.msg);
    const struct {
        const char *op;
        int rc;
    } refused[] = {
        {"write", ops->write(r.be, &r.out.x, host, &err)},
        {"read", ops->read(r.be, host, &r.out.x, &err)},
        {"copy", ops->copy(r.be, r.out.x.data, r.norm.residual.data, 16, &err)},
        {"sync", ops->sync(r.be, &err)},
        {"mem_new", ops->mem_new(r.be, &p, 64, &err)},
        {"linear_new", ops->linear_new(r.be, &lin, &spec, &err)},
        {"replay", ops->replay(r.be, rec, &err)},
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        check(refused[i].rc == FL_E_ARG, "%s is not recorded", refused[i].op);
    check(!ops->norm(r.be, &r.norm, &err) && !ops->record_end(r.be, &rec, &err) &&
              !ops->replay(r.be, rec, &err) && !ops->sync(r.be, &err),
          "and the recording is whole");
    if (rec) ops->recording_free(r.be, rec);
    rig_free(&r);
}

static void test_dropped(void) {
    fl_recording *rec = NULL;
    fl_err err;
    rig r;
    rig_new(&r);
    fl_norm wrong = r.norm;
    wrong.weight.dim[0] = D - 1;
    int rc = ops->record(r.be, &err);
    check(!rc && ops->norm(r.be, &wrong, &err) == FL_E_ARG, "arguments are checked: %s", err.msg);
    check(!ops->record_end(r.be, NULL, &err), "a recording is dropped");
    check(!ops->record(r.be, &err) && !ops->norm(r.be, &r.norm, &err) &&
              !ops->record_end(r.be, &rec, &err) && !ops->replay(r.be, rec, &err) &&
              !ops->sync(r.be, &err),
          "the next one works");
    if (rec) ops->recording_free(r.be, rec);
    rig_free(&r);
}

/* ---- the steps of a model ---- */

enum { VOCAB = 96, MOST = 258 };

#define SHAPE(layers)                                                                              \
    "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"                       \
    "\"num_hidden_layers\":" layers ",\"num_attention_heads\":4,\"num_key_value_heads\":2,"        \
    "\"vocab_size\":96,\"max_position_embeddings\":320,\"rms_norm_eps\":1e-5,"                     \
    "\"torch_dtype\":\"bfloat16\""
static const char *const flavours[][2] = {
    {"BF16", SHAPE("2") "}"},
    {"FP8", SHAPE("2") ",\"quantization_config\":{\"quant_method\":\"fp8\","
                       "\"activation_scheme\":\"dynamic\"}}"},
    {"BF16", SHAPE("1") "}"},
};

typedef struct runner { /* a model and sequences of it */
    fl_model *model;
    fl_sequence *seq[MOST];
    int64_t n;
    float *rows; /* [MOST,VOCAB] of the last step */
} runner;

typedef struct place {
    float *row;
} place;

static void keep(void *ctx, int member, int64_t i, const float *logits) {
    (void)member;
    (void)i;
    memcpy(((place *)ctx)->row, logits, VOCAB * sizeof(float));
}

static void runner_new(runner *r, const char *device, const char *config, bool graphs,
                       int64_t max_rows) {
    fl_model_options o = {.device = device,
                          .context = max_rows,
                          .kv_tokens = MOST * 32,
                          .max_step_rows = max_rows,
                          .load_format = FL_LOAD_DUMMY,
                          .config_json = config,
                          .threads = 1,
                          .no_prefix_cache = true,
                          .no_graphs = !graphs};
    fl_err err;
    *r = (runner){.rows = ref_alloc(MOST * VOCAB * sizeof(float))};
    if (!fl_model_load(&r->model, "dummy", &o, &err)) return;
    printf("Bail out! %s\n", err.msg);
    exit(2);
}

static void runner_free(runner *r) {
    for (int64_t i = 0; i < r->n; i++) fl_sequence_unref(r->seq[i]);
    fl_model_unref(r->model);
    free(r->rows);
}

/* n sequences with 1 to 3 tokens. */
static bool begin(runner *r, int64_t n) {
    fl_err err;
    bool ok = n <= fl_step_max_seqs(r->model) || !fl_step_reserve_seqs(r->model, n, &err);
    for (; ok && r->n < n; r->n++) {
        const int32_t ids[3] = {(int32_t)r->n % VOCAB, 5, 4};
        ok = !fl_sequence_new(&r->seq[r->n], r->model, &err) &&
             !fl_sequence_feed(r->seq[r->n], ids, n > 100 ? 1 : 1 + r->n % 3, NULL, &err);
    }
    return ok;
}

/* One token for each of n sequences, from `first` on. */
static bool step(runner *r, int64_t first, int64_t n, int64_t round) {
    fl_step_entry e[MOST];
    place places[MOST];
    int32_t ids[MOST];
    fl_err err;
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((i * 7 + round * 13) % VOCAB);
        places[i] = (place){r->rows + i * VOCAB};
        e[i] = (fl_step_entry){
            .seq = r->seq[first + i], .ids = &ids[i], .n = 1, .on_row = keep, .ctx = &places[i]};
    }
    return !fl_step(r->model, e, n, NULL, &err);
}

/* Three rounds of steps over `counts` rows each, on both, with the same bits. */
static void test_steps(const char *device, const char *const flavour[2], const int64_t *counts,
                       int n_counts, int64_t max_rows) {
    runner a, b;
    runner_new(&a, device, flavour[1], true, max_rows);
    runner_new(&b, device, flavour[1], false, max_rows);
    /* The second round records, the third replays.  What is not recorded needs one. */
    const int64_t rounds = counts[0] > FL_GRAPH_ROWS ? 1 : 3;
    int64_t wrong = 0, most = 0, done = 0;
    for (int i = 0; i < n_counts; i++) most = counts[i] > most ? counts[i] : most;
    for (int64_t round = 0; round < rounds; round++) {
        if (round == 1) most++; /* more sequences: the buffers of steps move */
        bool ok = begin(&a, most) && begin(&b, most);
        for (int i = 0; i < n_counts && ok; i++) {
            const int64_t n = counts[i], first = (most - n) / 2;
            ok = step(&a, first, n, round) && step(&b, first, n, round);
            for (int64_t t = 0; t < n; t++)
                wrong += memcmp(a.rows + t * VOCAB, b.rows + t * VOCAB, VOCAB * 4) != 0;
        }
        if (!ok) break;
        done++;
    }
    check(!wrong && done == rounds,
          "%s, up to %lld rows of %lld: the same bits recorded and not (%lld wrong)", flavour[0],
          (long long)most, (long long)max_rows, (long long)wrong);
    runner_free(&a);
    runner_free(&b);
}

/* ---- tokens drawn by the device ---- */

enum { DRAWS = 3 };

typedef struct drawn { /* what an entry got: a token, or a row */
    int32_t id;        /* -1: none */
    bool row;
    float logits[VOCAB];
} drawn;

static void keep_token(void *ctx, const fl_sampled *token) {
    ((drawn *)ctx)->id = token->id;
}

static void keep_logits(void *ctx, int member, int64_t i, const float *logits) {
    drawn *d = ctx;
    (void)member;
    (void)i;
    d->row = true;
    memcpy(d->logits, logits, sizeof(d->logits));
}

static bool draw_step(runner *r, const fl_step_draw *const *draw, int64_t n_each, drawn *out) {
    static const int32_t ids[2] = {3, 5};
    fl_step_entry e[DRAWS];
    fl_err err;
    for (int64_t i = 0; i < DRAWS; i++) {
        out[i] = (drawn){.id = -1};
        e[i] = (fl_step_entry){.seq = r->seq[i],
                               .ids = ids,
                               .n = n_each,
                               .first_row = n_each - 1,
                               .on_row = keep_logits,
                               .ctx = &out[i],
                               .draw = draw[i],
                               .on_sampled = keep_token};
    }
    return !fl_step(r->model, e, DRAWS, NULL, &err);
}

static int32_t best_of(const float *x, const fl_step_draw *d) {
    int32_t best = -1;
    for (int32_t i = 0; i < VOCAB; i++) {
        float v = x[i] + (d->row.n_edits && d->edits->id == i ? d->edits->bias : 0.0f);
        const bool may =
            !d->row.masked || (i / 32 < d->n_allowed && d->allowed[i / 32] >> i % 32 & 1);
        const float top =
            best < 0 ? 0.0f
                     : x[best] + (d->row.n_edits && d->edits->id == best ? d->edits->bias : 0.0f);
        if (may && (best < 0 || v > top)) best = i;
    }
    return best;
}

/* Steps of which some rows are drawn and others read, recorded and not, against rows alone. */
static void test_draws(const char *device) {
    static fl_sample_edit many[FL_STEP_EDITS];
    static const uint32_t some[] = {0x80, 0x10010}, few[] = {0x2};
    const fl_sample_edit plus = {.id = 11, .bias = 90, .count = -1},
                         minus = {.id = 11, .bias = -90, .count = -1};
    const fl_sample_row greedy = {.mode = FL_SAMPLE_GREEDY},
                        masked = {.mode = FL_SAMPLE_GREEDY, .masked = 1};
    const fl_step_draw plain = {.row = greedy};
    fl_step_draw up = {.row = greedy, .edits = &plus}, down = {.row = greedy, .edits = &minus};
    fl_step_draw full = {.row = greedy, .edits = many};
    const fl_step_draw in_some = {.row = masked, .allowed = some, .n_allowed = 2},
                       in_few = {.row = masked, .allowed = few, .n_allowed = 1};
    const struct {
        const char *name;
        const fl_step_draw *draw[DRAWS];
        int rows; /* bits of the entries that get a row */
    } cases[] = {
        {"all", {&plain, &up, &down}, 0},
        {"some", {&up, NULL, &plain}, 2},
        {"none", {NULL, NULL, NULL}, 7},
        {"of masks", {&in_some, &down, &in_few}, 0},
        {"of other masks", {&in_few, &in_some, &plain}, 0},
        {"more edits than fit", {&full, &up, &plain}, 2},
    };
    static drawn got[DRAWS], want[DRAWS];
    static const fl_step_draw *const rows[DRAWS];
    runner a, b;
    up.row.n_edits = down.row.n_edits = 1;
    full.row.n_edits = FL_STEP_EDITS;
    for (int i = 0; i < FL_STEP_EDITS; i++) many[i].id = -1; /* no id: nothing happens */
    runner_new(&a, device, flavours[2][1], true, 44);
    runner_new(&b, device, flavours[2][1], false, 44);
    bool ok = begin(&a, DRAWS) && begin(&b, DRAWS);
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]) && ok; c++) {
        int64_t wrong = 0;
        for (int64_t n_each = 1; n_each < 3 && ok; n_each++) {
            ok = draw_step(&a, cases[c].draw, n_each, got) && draw_step(&b, rows, n_each, want);
            for (int i = 0; i < DRAWS; i++) {
                const bool row = cases[c].rows >> i & 1;
                wrong += got[i].row != row || !want[i].row;
                wrong += row ? memcmp(got[i].logits, want[i].logits, sizeof(want[i].logits)) != 0
                             : got[i].id != best_of(want[i].logits, cases[c].draw[i]);
            }
        }
        check(ok && !wrong, "%s drawn (%lld wrong)", cases[c].name, (long long)wrong);
    }
    runner_free(&a);
    runner_free(&b);
}

static void test_buckets(void) {
    bool used[FL_GRAPH_ROWS + 1] = {false};
    int64_t wrong = 0, buckets = 0;
    for (int64_t n = 1; n <= FL_GRAPH_ROWS; n++) {
        const int64_t rows = fl_graph_rows(n, FL_GRAPH_ROWS);
        wrong += rows < n || rows - n >= 32 || (n <= 8 && rows != n) || (n > 8 && rows < 16) ||
                 fl_graph_rows(rows, FL_GRAPH_ROWS) != rows || fl_graph_rows(n, n) != n;
        for (int64_t p = 8; p < n; p *= 2) wrong += n <= 2 * p && rows > 2 * p;
        buckets += !used[rows];
        used[rows] = true;
    }
    check(!wrong && buckets == FL_GRAPH_BUCKETS, "%lld buckets (%lld wrong)", (long long)buckets,
          (long long)wrong);
}

int main(int argc, char **argv) {
    static const int64_t few[] = {2, 9, 33, 3}, many[] = {257};
    const char *device = argc > 1 ? argv[1] : "cpu";
    fl_err err;
    if (fl_backend_find(&ops, device, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    test_buckets();
    for (size_t i = 0; i < 2; i++) test_steps(device, flavours[i], few, 4, 44);
    if (ops->record) {
        test_replay();
        test_refused();
        test_dropped();
        if (ops->sample) test_draws(device);
        test_steps(device, flavours[2], many, 1, 300); /* 257 rows are more than is recorded */
    }
    return tap_done();
}
