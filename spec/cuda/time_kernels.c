/* time_kernels.c - times of the ops of the CUDA backend, each many times in one recorded graph, which
 * is replayed: what a launch costs the host does not count.  Run by the GPU kit (spec/cuda/kit.sh).
 *
 *     time_kernels [cuda:N] [small]
 *
 * One line an op and number of rows, fields between tabs:
 *     kernel NAME ROWS US MB GB/S PART
 * US is the time of one op, MB what it must read and write (each byte once, weights and cache
 * included), PART the share of the bandwidth that copies reached in this run.  The shapes are those
 * of Llama 3 8B; `small` takes tiny ones, for an emulated GPU.  Weights rotate over 200 MB, so that no
 * cache holds them.  Ends with TAP: one test for each group of ops, failed when one of them failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/bandwidth.h"
#include "ref_backend.h"
#include "tap.h"
#include "util/clock.h"
#include "util/dtype.h"
#include "util/num.h"

enum { PAGE = 32, MAX_COPIES = 64, SEQS = 256 };

typedef struct sizes {
    int64_t d, h, g, e, f, v;    /* hidden, heads, KV heads, head dim, ffn, vocabulary */
    int64_t rotate, cache;       /* bytes of weights to rotate over; most bytes of a KV cache */
    int64_t rows[9], context[4]; /* 0 ends */
    double pass;                 /* seconds of one measurement, at least */
} sizes;

static const sizes large = {4096,
                            32,
                            8,
                            128,
                            14336,
                            128256,
                            200 << 20,
                            8ll << 30,
                            {1, 2, 4, 8, 16, 32, 64, 256},
                            {1024, 8192, 131072},
                            3e-3};
static const sizes tiny = {64, 2, 1, 32, 96, 512, 1 << 16, 1 << 20, {1, 2, 8, 16}, {64}, 0};

static const fl_backend_ops *ops;
static fl_backend *be;
static const sizes *z;
static double bandwidth;
static int failures;

/* ---- memory ---- */

static void give_up(const char *what, const fl_err *err) {
    printf("not ok %d - %s: %s\n1..%d\n", tap_count + 1, what, err->msg, tap_count + 1);
    exit(1);
}

static void *memory(int64_t bytes) {
    void *p = NULL;
    fl_err err = {0};
    if (ops->mem_new(be, &p, (uint64_t)bytes, &err)) give_up("memory", &err);
    return p;
}

static fl_tensor place(fl_dtype t, int64_t a, int64_t b) {
    return fl_tensor_2d(memory(a * b * fl_dtype_bytes(t)), t, a, b);
}

/* Numbers as activations and weights have; a piece of them, again and again. */
static void fill(const fl_tensor *t) {
    enum { PIECE = 1 << 16 };
    static uint8_t bits16[PIECE], codes[PIECE];
    const int64_t bytes = t->dim[0] * t->stride * fl_dtype_bytes(t->dtype);
    if (!bits16[1]) {
        ref_fill(bits16, FL_DTYPE_BF16, PIECE / 2, 1.0, 1);
        ref_fill(codes, FL_DTYPE_E4M3, PIECE, 1.0, 2);
    }
    const uint8_t *from = t->dtype == FL_DTYPE_E4M3 ? codes : bits16;
    for (int64_t at = 0; at < bytes; at += PIECE) {
        fl_tensor part =
            fl_tensor_1d((uint8_t *)t->data + at, FL_DTYPE_E4M3, fl_min_i64(PIECE, bytes - at));
        fl_err err = {0};
        if (ops->write(be, &part, from, &err)) give_up("write", &err);
    }
}

static fl_tensor filled(fl_dtype t, int64_t a, int64_t b) {
    fl_tensor x = place(t, a, b);
    fill(&x);
    return x;
}

static fl_tensor floats(int64_t n, float value) {
    float *host = ref_alloc((size_t)n * sizeof(*host));
    fl_tensor t = place(FL_DTYPE_F32, 1, n);
    for (int64_t i = 0; i < n; i++) host[i] = value;
    ops->write(be, &t, host, NULL);
    free(host);
    return t;
}

static fl_tensor ints(const int32_t *from, int64_t n) {
    fl_tensor t = fl_tensor_1d(memory(n * 4), FL_DTYPE_I32, n);
    ops->write(be, &t, from, NULL);
    return t;
}

static fl_act act_of(int64_t rows, int64_t width) {
    return (fl_act){filled(FL_DTYPE_BF16, rows, width), filled(FL_DTYPE_E4M3, rows, width),
                    floats(rows * fl_act_groups(width), 0.01f)};
}

static fl_act first_rows(fl_act a, int64_t n) {
    a.x.dim[0] = a.q.dim[0] = a.q_scale.dim[0] = n;
    a.q_scale.dim[1] = fl_act_groups(a.x.dim[1]);
    a.q_scale.stride = a.q_scale.dim[1];
    return a;
}

static void give_back(fl_tensor t) {
    ops->mem_free(be, t.data);
}
static void give_back_act(fl_act a) {
    give_back(a.x);
    give_back(a.q);
    give_back(a.q_scale);
}

/* ---- measuring ---- */

typedef struct op {
    const char *name;
    int (*run)(const struct op *o, int i, fl_err *err); /* the i-th of a recording */
    void *of;
    int64_t rows;
    double bytes;
    int copies; /* in one recording */
    bool plain; /* cannot be recorded */
} op;

static int run_all(const op *o, fl_err *err) {
    int rc = FL_OK;
    for (int i = 0; i < o->copies && !rc; i++) rc = o->run(o, i, err);
    return rc;
}

/* Replays, or plain runs, for a while; seconds of one op, the best of three. */
static int measure(const op *o, fl_recording *rec, double *seconds, fl_err *err) {
    *seconds = 1e30;
    for (int pass = 0; pass < 3; pass++) {
        const double t0 = fl_now();
        double t = t0;
        int n = 0, rc = FL_OK;
        do {
            rc = rec ? ops->replay(be, rec, err) : run_all(o, err);
            n++;
            if (rc || (n % 8 == 0 && (rc = ops->sync(be, err)))) return rc;
            t = fl_now();
        } while (t - t0 < z->pass);
        if ((rc = ops->sync(be, err))) return rc;
        t = (fl_now() - t0) / n / o->copies;
        if (t < *seconds) *seconds = t;
    }
    return FL_OK;
}

static void report(const op *o, double seconds) {
    const double rate = o->bytes / seconds;
    printf("kernel\t%s\t%lld\t%.2f\t%.3f\t%.0f\t%.3f\n", o->name, (long long)o->rows, 1e6 * seconds,
           o->bytes / 1e6, rate / 1e9, rate / bandwidth);
    fflush(stdout);
}

static void time_op(const op *o) {
    fl_recording *rec = NULL;
    double seconds = 0;
    fl_err err = {0};
    int rc = o->run(o, 0, &err); /* loads what a recording must not load */
    if (!rc) rc = ops->sync(be, &err);
    if (!rc && !o->plain && ops->record) {
        rc = ops->record(be, &err);
        if (!rc) rc = run_all(o, &err);
        fl_err end = {0};
        const int ended = ops->record_end(be, rc ? NULL : &rec, &end);
        if (!rc && ended) {
            rc = ended;
            err = end;
        }
        if (!rc) rc = ops->replay(be, rec, &err);
        if (!rc) rc = ops->sync(be, &err);
    }
    if (!rc) rc = measure(o, rec, &seconds, &err);
    if (rec) ops->recording_free(be, rec);
    if (!rc) {
        report(o, seconds);
        return;
    }
    failures++;
    printf("# %s, %lld rows: %s\n", o->name, (long long)o->rows, err.msg);
    fflush(stdout);
}

/* ---- linears ---- */

typedef struct form {
    const char *name;
    fl_dtype dtype;
    fl_act_scheme act;
    int64_t block;
    bool sparse24, per_row;
} form;

static const form forms[] = {
    {"static", FL_DTYPE_E4M3, FL_ACT_STATIC, 0, false, false},
    {"token", FL_DTYPE_E4M3, FL_ACT_TOKEN, 0, false, true},
    {"2of4", FL_DTYPE_E4M3, FL_ACT_TOKEN, 0, true, true},
    {"block", FL_DTYPE_E4M3, FL_ACT_GROUP, FL_ACT_GROUP_K, false, true},
    {"bf16", FL_DTYPE_BF16, FL_ACT_NONE, 0, false, false},
};
enum { FORMS = sizeof(forms) / sizeof(forms[0]) };

/* Of each 4 values the last two become zero. */
static void prune(uint8_t *w, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++)
        if (i % 4 > 1) w[i] = 0;
}

static fl_linear *linear_of(const form *f, int64_t n, int64_t k) {
    const int64_t bytes = n * k * fl_dtype_bytes(f->dtype),
                  blocks = f->block ? fl_act_groups(k) : 1;
    uint8_t *w = ref_alloc((size_t)bytes);
    float *scale = ref_alloc((size_t)(n * blocks) * sizeof(*scale));
    fl_linear *lin = NULL;
    fl_err err = {0};
    ref_fill(w, f->dtype, fl_min_i64(bytes, 1 << 20) / fl_dtype_bytes(f->dtype), 1.0, 3);
    for (int64_t at = 1 << 20; at < bytes; at += 1 << 20)
        memcpy(w + at, w, (size_t)fl_min_i64(1 << 20, bytes - at));
    if (f->sparse24) prune(w, bytes);
    for (int64_t i = 0; i < n * blocks; i++)
        scale[i] = f->per_row ? 0.01f + 1e-6f * (float)i : 0.01f;
    const fl_linear_spec spec = {.part = {{w, n}},
                                 .n_parts = 1,
                                 .k = k,
                                 .dtype = f->dtype,
                                 .w_scale = f->dtype == FL_DTYPE_E4M3 ? scale : NULL,
                                 .w_block = f->block,
                                 .act = f->act,
                                 .x_scale = 0.01f,
                                 .sparse24 = f->sparse24};
    if (ops->linear_new(be, &lin, &spec, &err)) give_up("linear", &err);
    free(w);
    free(scale);
    return lin;
}

typedef struct turning { /* linears that take turns */
    fl_linear *lin[MAX_COPIES];
    int n;
    fl_act x;
    fl_tensor out;
} turning;

static int run_linear(const op *o, int i, fl_err *err) {
    const turning *t = o->of;
    const fl_act x = first_rows(t->x, o->rows);
    fl_tensor out = t->out;
    out.dim[0] = o->rows;
    return ops->linear(be, &out, &x, t->lin[i % t->n], err);
}

static void time_linear(const form *f, const char *of, int64_t n, int64_t k, fl_dtype out_type) {
    char name[96];
    const int64_t most = z->rows[0] ? 256 : 1;
    turning t = {.x = act_of(most, k), .out = place(out_type, most, n)};
    const double x_bytes = (double)k * (f->act == FL_ACT_NONE ? 2 : 1);
    int64_t bytes = 0;
    while (t.n < MAX_COPIES && (t.n == 0 || bytes < z->rotate)) {
        t.lin[t.n++] = linear_of(f, n, k);
        bytes += (int64_t)t.lin[0]->bytes;
    }
    for (int i = 0; z->rows[i]; i++) {
        const int64_t rows = z->rows[i];
        fl_tensor out = t.out, x = f->act == FL_ACT_NONE ? t.x.x : t.x.q;
        out.dim[0] = x.dim[0] = rows;
        snprintf(name, sizeof(name), "linear %s %s [%lld,%lld] by %s", f->name, of, (long long)n,
                 (long long)k, ops->linear_path ? ops->linear_path(be, t.lin[0], &out, &x) : "?");
        const op o = {.name = name,
                      .run = run_linear,
                      .of = &t,
                      .rows = rows,
                      .bytes = (double)t.lin[0]->bytes +
                               (double)rows * (x_bytes + (double)(n * fl_dtype_bytes(out_type))),
                      .copies = (int)fl_max_i64(t.n, 4)};
        time_op(&o);
    }
    for (int i = 0; i < t.n; i++) ops->linear_free(be, t.lin[i]);
    give_back_act(t.x);
    give_back(t.out);
}

static void time_linears(void) {
    for (int i = 0; i < FORMS; i++) {
        time_linear(&forms[i], "qkv", (z->h + 2 * z->g) * z->e, z->d, FL_DTYPE_BF16);
        time_linear(&forms[i], "o", z->d, z->h * z->e, FL_DTYPE_BF16);
        time_linear(&forms[i], "gate_up", 2 * z->f, z->d, FL_DTYPE_BF16);
        time_linear(&forms[i], "down", z->d, z->f, FL_DTYPE_BF16);
    }
    time_linear(&forms[FORMS - 1], "head", z->v, z->d, FL_DTYPE_F32);
}

/* ---- rows ---- */

typedef struct rows_of {
    fl_tensor residual, delta, weight, gate_up, index, wide, sums;
    fl_act normed, ffn;
    fl_linear *next, *table;
} rows_of;

static fl_tensor cut(fl_tensor t, int64_t rows) {
    t.dim[0] = rows;
    return t;
}

static int run_norm(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    fl_act out = first_rows(r->normed, o->rows);
    const fl_norm n = {
        cut(r->residual, o->rows), cut(r->delta, o->rows), r->weight, &out, r->next, 1e-5f};
    (void)i;
    return ops->norm(be, &n, err);
}
static int run_quant(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    fl_act a = first_rows(r->normed, o->rows);
    (void)i;
    return ops->quant(be, &a, r->next, err);
}
static int run_silu(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    fl_act out = first_rows(r->ffn, o->rows);
    const fl_tensor in = cut(r->gate_up, o->rows);
    (void)i;
    return ops->silu_mul(be, &out, &in, r->next, err);
}
static int run_embed(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    const fl_tensor out = cut(r->residual, o->rows), ids = cut(r->index, o->rows);
    (void)i;
    return ops->embed(be, &out, r->table, &ids, err);
}
static int run_gather(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    const fl_tensor out = cut(r->normed.x, o->rows), index = cut(r->index, o->rows);
    (void)i;
    return ops->gather(be, &out, &r->residual, &index, err);
}
static int run_absmax(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    fl_tensor out = fl_tensor_1d(r->sums.data, FL_DTYPE_F32, 1), x = cut(r->residual, o->rows);
    (void)i;
    return ops->absmax(be, &out, &x, err);
}
static int run_sumsq(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    fl_tensor out = fl_tensor_1d(r->sums.data, FL_DTYPE_F32, z->d), x = cut(r->residual, o->rows);
    (void)i;
    return ops->sumsq(be, &out, &x, err);
}
static int run_map(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    const fl_tensor t = cut(r->wide, o->rows);
    const fl_tensor_map m = {.op = FL_MAP_MUL, .t = t, .x = t, .n = o->rows * z->v, .number = 1.0};
    (void)i;
    return ops->map(be, &m, err);
}
static int run_softmax(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    const fl_tensor t = cut(r->wide, o->rows);
    (void)i;
    return ops->softmax(be, &t, 1.0, err);
}
static int run_encode(const op *o, int i, fl_err *err) {
    const rows_of *r = o->of;
    const fl_encode e = {
        .x = cut(r->residual, o->rows), .q = r->normed.q.data, .scale = r->normed.q_scale.data};
    (void)i;
    return ops->encode(be, &e, err);
}

static void time_rows(void) {
    enum { MOST = 256 };
    int32_t index[MOST];
    for (int i = 0; i < MOST; i++) index[i] = i * 7 % 251;
    const form token = forms[1];
    rows_of r = {.residual = filled(FL_DTYPE_BF16, MOST, z->d),
                 .delta = filled(FL_DTYPE_BF16, MOST, z->d),
                 .weight = filled(FL_DTYPE_BF16, 1, z->d),
                 .gate_up = filled(FL_DTYPE_BF16, MOST, 2 * z->f),
                 .wide = filled(FL_DTYPE_F32, MOST, z->v),
                 .sums = floats(z->d, 0),
                 .index = ints(index, MOST),
                 .normed = act_of(MOST, z->d),
                 .ffn = act_of(MOST, z->f),
                 .next = linear_of(&token, 64, z->d),
                 .table = linear_of(&forms[FORMS - 1], z->v, z->d)};
    fl_linear *after_ffn = linear_of(&token, 64, z->f), *after_norm = r.next;
    r.weight = fl_tensor_1d(r.weight.data, FL_DTYPE_BF16, z->d);
    const double d = (double)z->d, f = (double)z->f, v = (double)z->v;
    const op each[] = {
        {"norm + quant", run_norm, &r, 0, 11 * d, 32, false},
        {"quant", run_quant, &r, 0, 3 * d, 32, false},
        {"silu_mul + quant", run_silu, &r, 0, 7 * f, 32, false},
        {"embed", run_embed, &r, 0, 4 * d, 32, false},
        {"gather", run_gather, &r, 0, 4 * d, 32, false},
        {"absmax", run_absmax, &r, 0, 2 * d, 32, false},
        {"sumsq", run_sumsq, &r, 0, 2 * d, 32, false},
        {"map", run_map, &r, 0, 8 * v, 8, true},
        {"softmax", run_softmax, &r, 0, 16 * v, 8, true},
        {"encode", run_encode, &r, 0, 3 * d, 8, true},
    };
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++)
        for (int j = 0; z->rows[j]; j++) {
            op o = each[i];
            o.rows = z->rows[j];
            o.bytes *= (double)o.rows;
            r.next = o.run == run_silu ? after_ffn : after_norm;
            time_op(&o);
        }
    fl_linear *linears[] = {after_norm, after_ffn, r.table};
    for (int i = 0; i < 3; i++) ops->linear_free(be, linears[i]);
    const fl_tensor all[] = {r.residual, r.delta, r.weight, r.gate_up, r.wide, r.sums, r.index};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) give_back(all[i]);
    give_back_act(r.normed);
    give_back_act(r.ffn);
}

/* ---- attention ---- */

typedef struct attention {
    fl_kv_layer kv;
    fl_batch batch;
    fl_tensor qkv, cos_sin, ids;
    fl_act out;
    fl_linear *next;
} attention;

static fl_tensor heads_of(const fl_tensor *t, int64_t first, int64_t n) {
    fl_tensor v = *t;
    v.data = (uint8_t *)t->data + first * z->e * 2;
    v.dim[1] = n;
    v.dim[2] = z->e;
    v.ndim = 3;
    return v;
}

/* `seqs` sequences of `context` tokens, of which the last `each` are in this step. */
static attention attention_of(fl_dtype cache, int64_t seqs, int64_t each, int64_t context) {
    const int64_t pages = fl_div_up(context, PAGE), rows = seqs * each;
    attention a = {.kv = {.shape = {z->g, z->e, PAGE, cache}, .k_scale = 1, .v_scale = 1}};
    int32_t *host = ref_alloc((size_t)(seqs * pages + 3 * rows + seqs + 1) * sizeof(*host));
    int32_t *table = host, *pos = table + seqs * pages, *slot = pos + rows, *start = slot + rows;
    for (int64_t i = 0; i < seqs * pages; i++)
        table[i] = (int32_t)(i * 7919 % (seqs * pages)); /* scattered; 7919 is prime */
    for (int64_t s = 0; s <= seqs; s++) start[s] = (int32_t)(s * each);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t p = context - each + i % each;
        pos[i] = (int32_t)p;
        slot[i] = (int32_t)(table[i / each * pages + p / PAGE] * PAGE + p % PAGE);
    }
    a.kv.data = memory((int64_t)ops->kv_page_bytes(be, &a.kv.shape) * seqs * pages);
    a.batch = (fl_batch){.n_rows = rows,
                         .n_seqs = seqs,
                         .max_pages = pages,
                         .pos = ints(pos, rows),
                         .slot = ints(slot, rows),
                         .row_start = ints(start, seqs + 1),
                         .pages = ints(table, seqs * pages)};
    a.batch.pages = fl_tensor_2d(a.batch.pages.data, FL_DTYPE_I32, seqs, pages);
    a.qkv = filled(FL_DTYPE_BF16, rows, (z->h + 2 * z->g) * z->e);
    a.cos_sin = place(FL_DTYPE_F32, context, z->e);
    fill(&a.cos_sin);
    a.out = act_of(rows, z->h * z->e);
    a.next = linear_of(&forms[1], 64, z->h * z->e);
    free(host);
    return a;
}

static void attention_free(attention *a) {
    const fl_tensor all[] = {a->batch.pos,   a->batch.slot, a->batch.row_start,
                             a->batch.pages, a->qkv,        a->cos_sin};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) give_back(all[i]);
    ops->mem_free(be, a->kv.data);
    give_back_act(a->out);
    ops->linear_free(be, a->next);
}

static int run_rope(const op *o, int i, fl_err *err) {
    const attention *a = o->of;
    const fl_rope r = {heads_of(&a->qkv, 0, z->h), heads_of(&a->qkv, z->h, z->g),
                       heads_of(&a->qkv, z->h + z->g, z->g), a->cos_sin};
    (void)i;
    return ops->rope_store(be, &r, &a->kv, &a->batch, err);
}
static int run_attend(const op *o, int i, fl_err *err) {
    attention *a = o->of;
    const fl_tensor q = heads_of(&a->qkv, 0, z->h);
    (void)i;
    return ops->attend(be, &a->out, &q, &a->kv, &a->batch, 0.088f, a->next, err);
}

static void time_one_attention(fl_dtype cache, int64_t seqs, int64_t each, int64_t context) {
    char name[96];
    const double bytes = (double)(2 * z->g * z->e * fl_dtype_bytes(cache)),
                 rows = (double)(seqs * each);
    if (bytes * (double)(seqs * context) > (double)z->cache) return;
    attention a = attention_of(cache, seqs, each, context);
    const double others = rows * (double)(z->h * z->e) * 5;
    snprintf(name, sizeof(name), "attend %s, %lld tokens%s", fl_dtype_name(cache),
             (long long)context, each > 1 ? ", a prompt" : "");
    const op attend = {name, run_attend, &a, seqs * each, bytes * (double)(seqs * context) + others,
                       8,    false};
    const op rope = {
        "rope_store", run_rope, &a, seqs * each, rows * (double)((z->h + 2 * z->g) * z->e) * 4,
        32,           false};
    if (each == 1 && cache == FL_DTYPE_BF16 && context == z->context[0]) time_op(&rope);
    time_op(&attend);
    attention_free(&a);
}

static void time_attention(void) {
    for (int c = 0; z->context[c]; c++)
        for (int kind = 0; kind < 2; kind++) {
            const fl_dtype cache = kind ? FL_DTYPE_E4M3 : FL_DTYPE_BF16;
            for (int i = 0; z->rows[i]; i++)
                time_one_attention(cache, z->rows[i], 1, z->context[c]);
            if (z->context[c] <= 8192)
                time_one_attention(cache, 1, fl_min_i64(z->context[c], 256), z->context[c]);
        }
}

/* ---- half layers of few rows ---- */

typedef struct half {
    attention a;
    fl_norm norm;
    fl_act normed, ffn;
    fl_linear *first, *last;
    fl_tensor gate_up;
} half;

static int run_attn_block(const op *o, int i, fl_err *err) {
    half *h = o->of;
    bool done = false;
    fl_norm norm = h->norm;
    norm.next = h->first;
    const fl_rope r = {heads_of(&h->a.qkv, 0, z->h), heads_of(&h->a.qkv, z->h, z->g),
                       heads_of(&h->a.qkv, z->h + z->g, z->g), h->a.cos_sin};
    const fl_attn_block b = {norm, r, &h->a.kv, &h->a.batch, 0.088f, &h->a.out, h->last};
    int rc = ops->attn_block(be, &b, &done, err);
    (void)i;
    return rc || done ? rc : fl_fail(err, FL_E_UNSUPPORTED, "these operands are for single ops");
}
static int run_mlp_block(const op *o, int i, fl_err *err) {
    half *h = o->of;
    bool done = false;
    fl_norm norm = h->norm;
    norm.next = h->first;
    const fl_mlp_block b = {norm, &h->ffn, h->last};
    int rc = ops->mlp_block(be, &b, &done, err);
    (void)i;
    return rc || done ? rc : fl_fail(err, FL_E_UNSUPPORTED, "these operands are for single ops");
}

static void time_half(const form *f, int64_t rows, bool mlp) {
    char name[96];
    half h = {.a = attention_of(FL_DTYPE_BF16, rows, 1, z->context[0]),
              .normed = act_of(rows, z->d)};
    h.norm = (fl_norm){.residual = filled(FL_DTYPE_BF16, rows, z->d),
                       .weight = filled(FL_DTYPE_BF16, 1, z->d),
                       .out = &h.normed,
                       .eps = 1e-5f};
    h.norm.weight = fl_tensor_1d(h.norm.weight.data, FL_DTYPE_BF16, z->d);
    if (mlp) h.ffn = act_of(rows, z->f);
    h.first = linear_of(f, mlp ? 2 * z->f : (z->h + 2 * z->g) * z->e, z->d);
    h.last = linear_of(f, z->d, mlp ? z->f : z->h * z->e);
    snprintf(name, sizeof(name), "%s %s%s", mlp ? "mlp_block" : "attn_block", f->name,
             mlp ? "" : ", 1024 tokens");
    const double cache = mlp ? 0 : (double)(rows * z->context[0] * 2 * z->g * z->e * 2);
    const op o = {name,
                  mlp ? run_mlp_block : run_attn_block,
                  &h,
                  rows,
                  (double)(h.first->bytes + h.last->bytes) + cache,
                  4,
                  false};
    time_op(&o);
    ops->linear_free(be, h.first);
    ops->linear_free(be, h.last);
    give_back(h.norm.residual);
    give_back(h.norm.weight);
    give_back_act(h.normed);
    if (mlp) give_back_act(h.ffn);
    attention_free(&h.a);
}

static void time_halves(void) {
    const int of[] = {0, 1, 2, 4};
    if (!ops->attn_block) return;
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
        for (int j = 0; z->rows[j] && z->rows[j] <= 8; j++)
            for (int mlp = 0; mlp < 2; mlp++) time_half(&forms[of[i]], z->rows[j], mlp);
}

/* ---- tokens ---- */

static int run_sample(const op *o, int i, fl_err *err) {
    fl_sample s = *(const fl_sample *)o->of;
    s.logits = cut(s.logits, o->rows);
    s.mask = cut(s.mask, o->rows);
    (void)i;
    return ops->sample(be, &s, err);
}

static void time_sampling(void) {
    enum { MOST = 256 };
    static const struct {
        const char *name;
        int mode, top_k;
        float top_p;
        double passes;
    } kinds[] = {{"sample greedy", FL_SAMPLE_GREEDY, 0, 1, 1},
                 {"sample drawn", FL_SAMPLE_DRAW, 0, 1, 2},
                 {"sample top_p 0.9", FL_SAMPLE_DRAW, 0, 0.9f, 6},
                 {"sample top_k 40", FL_SAMPLE_DRAW, 40, 1, 5}};
    fl_sample d = {.logits = filled(FL_DTYPE_F32, MOST, z->v),
                   .mask = place(FL_DTYPE_I32, MOST, fl_div_up(z->v, 32))};
    float *row = ref_alloc((size_t)z->v * sizeof(*row));
    for (int64_t i = 0; i < MOST; i++) { /* logits of a model: most of them far below the best */
        fl_tensor one = fl_tensor_1d((float *)d.logits.data + i * z->v, FL_DTYPE_F32, z->v);
        ref_fill(row, FL_DTYPE_F32, z->v, 3.0, (uint64_t)i + 9);
        ops->write(be, &one, row, NULL);
        if (z->v < 1000 && i > 20) break;
    }
    free(row);
    fl_sample_row *rows = ref_alloc(MOST * sizeof(*rows));
    fl_tensor where = fl_tensor_1d(memory(MOST * (int64_t)sizeof(*rows)), FL_DTYPE_E4M3,
                                   MOST * (int64_t)sizeof(*rows));
    d.rows = where.data;
    d.edits = memory(64);
    d.out = memory(MOST * (int64_t)sizeof(fl_sampled));
    for (size_t k = 0; ops->sample && k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        for (int i = 0; i < MOST; i++)
            rows[i] = (fl_sample_row){.mode = kinds[k].mode,
                                      .temperature = 0.8f,
                                      .repetition = 1,
                                      .top_k = kinds[k].top_k,
                                      .top_p = kinds[k].top_p,
                                      .seed = 7,
                                      .draw = (uint64_t)i};
        ops->write(be, &where, rows, NULL);
        for (int j = 0; z->rows[j]; j++) {
            const op o = {kinds[k].name,
                          run_sample,
                          &d,
                          z->rows[j],
                          kinds[k].passes * 4 * (double)(z->v * z->rows[j]),
                          4,
                          false};
            time_op(&o);
        }
    }
    free(rows);
    give_back(d.logits);
    give_back(d.mask);
    give_back(where);
    ops->mem_free(be, d.edits);
    ops->mem_free(be, d.out);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {{"half layers", time_halves},
                  {"linears", time_linears},
                  {"attention", time_attention},
                  {"sampling", time_sampling},
                  {"rows", time_rows}};
    const char *device = argc > 1 ? argv[1] : "cuda";
    fl_backend_params p = {.max_rows = 2048};
    fl_backend_info info;
    fl_err err = {0};
    z = argc > 2 && !strcmp(argv[2], "small") ? &tiny : &large;
    if (fl_backend_device(&ops, &p.device, device, &err) || ops->open(&be, &p, &err))
        give_up(device, &err);
    ops->info(be, &info);
    if (fl_device_bandwidth(&bandwidth, ops, be, z == &tiny ? FL_BANDWIDTH_MIN : 1 << 30, &err))
        give_up("bandwidth", &err);
    printf("# %s: copies move %.0f GB/s\n", info.name, bandwidth / 1e9);
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        failures = 0;
        groups[i].run();
        check(failures == 0, "kernel times: %s", groups[i].name);
    }
    ops->close(be);
    return tap_done();
}
