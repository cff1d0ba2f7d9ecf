/* The op linear, on every instruction set of this machine: scales of rows and of blocks, 2:4,
 * and that a row is the same bits however it was computed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linear_case.h"
#include "tap.h"
#include "util/mem.h"

static const fl_backend_ops *ops;
static const char *isa;
static bool batch_invariant, sparse_dense; /* of every backend that is opened */

static fl_backend *open_backend(int threads, int64_t rows) {
    fl_backend *be = NULL;
    fl_err err = {0};
    fl_backend_params p = {.threads = threads,
                           .max_rows = rows,
                           .isa = isa,
                           .batch_invariant = batch_invariant,
                           .sparse_dense = sparse_dense};
    if (ops->open(&be, &p, &err)) check(false, "%s: opens: %s", isa, err.msg);
    return be;
}

/* What a linear was opened with, for the names of tests. */
static const char *how(void) {
    return batch_invariant ? ", batch_invariant" : sparse_dense ? ", also dense" : "";
}

static int64_t allocations;
static bool count_allocations(void *ctx, size_t bytes) {
    (void)ctx;
    (void)bytes;
    allocations++;
    return true;
}

static const linear_case linear_cases[] = {
    {1, 1, 1, E4M3, FL_ACT_STATIC, BF16, F32, false, .parts = 1},
    {1, 16, 4, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1},
    {2, 17, 5, E4M3, FL_ACT_TOKEN, BF16, BF16, true, .parts = 1},
    {3, 33, 31, E4M3, FL_ACT_NONE, BF16, F32, true, .parts = 2},
    {3, 33, 31, E4M3, FL_ACT_NONE, F16, F16, false, .parts = 2},
    {4, 50, 63, BF16, FL_ACT_NONE, BF16, BF16, true, .parts = 3},
    {5, 31, 66, BF16, FL_ACT_NONE, F16, F32, false, .parts = 1},
    {6, 47, 65, F16, FL_ACT_NONE, F16, F16, true, .parts = 2},
    {7, 19, 130, F16, FL_ACT_NONE, BF16, F32, false, .parts = 1},
    {11, 40, 257, F32, FL_ACT_NONE, BF16, F32, false, .parts = 1},
    {12, 300, 259, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 3},
    {13, 128, 512, E4M3, FL_ACT_STATIC, F16, F16, false, .parts = 1},
    {25, 144, 96, BF16, FL_ACT_NONE, BF16, F32, false, .parts = 1},
    {37, 160, 100, E4M3, FL_ACT_TOKEN, BF16, F32, true, .parts = 2},
    {21, 96, 64, E4M3, FL_ACT_TOKEN, BF16, BF16, true, .parts = 2},
    {23, 48, 700, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1},
    {300, 48, 24, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 1},
    {1, 1536, 576, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 2},
    {9, 960, 576, BF16, FL_ACT_NONE, BF16, BF16, false, .parts = 3},
    {2, 4096, 1024, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1},
    {1, 1, 1, E4M3, FL_ACT_GROUP, BF16, F32, true, .parts = 1, .w_block = 128},
    {1, 1536, 576, E4M3, FL_ACT_GROUP, BF16, BF16, false, .parts = 2, .w_block = 128},
    {300, 50, 200, E4M3, FL_ACT_GROUP, BF16, F32, true, .parts = 3, .w_block = 128},
    {70, 130, 208, E4M3, FL_ACT_GROUP, BF16, F32, true, .parts = 2, .w_block = 128},
    {9, 65, 384, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1, .w_block = 128},
    {37, 40, 272, E4M3, FL_ACT_GROUP, F16, F16, false, .parts = 1},
    {70, 130, 208, E4M3, FL_ACT_TOKEN, BF16, F32, true, .parts = 2, .sparse24 = true},
    {30, 70, 400, E4M3, FL_ACT_GROUP, BF16, BF16, false, .parts = 1, .w_block = 128,
     .sparse24 = true},
    {30, 50, 1000, E4M3, FL_ACT_TOKEN, F16, F16, false, .parts = 1, .w_block = 128,
     .sparse24 = true},
    {1, 1536, 576, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 2, .sparse24 = true},
    {300, 47, 40, E4M3, FL_ACT_STATIC, BF16, BF16, true, .parts = 2, .sparse24 = true},
    {64, 90, 392, BF16, FL_ACT_NONE, BF16, F32, true, .parts = 3, .sparse24 = true},
    {2, 33, 264, F32, FL_ACT_NONE, BF16, F32, false, .parts = 1, .sparse24 = true},
    {5, 33, 264, F16, FL_ACT_NONE, F16, F16, false, .parts = 1, .sparse24 = true},
    {5, 33, 260, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1, .sparse24 = true},
    {13, 48, 64, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 3, .one_scale = true},
    {21, 32, 80, E4M3, FL_ACT_STATIC, F16, F32, false, .parts = 1, .one_scale = true},
    {12, 32, 64, E4M3, FL_ACT_STATIC, BF16, BF16, true, .parts = 1, .one_scale = true},
};

static void test_linear(const linear_case *c) {
    fl_backend *be = open_backend(2, c->t);
    linear_data d = make_linear(c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(c->out, c->t, c->n);
    fl_err err = {0};
    d.short_sums = !ref_is_cpu(ops);
    int rc = ops->linear_new(be, &lin, &d.spec, &err);
    allocations = 0;
    fl_mem_set_hook(count_allocations, NULL);
    if (!rc) rc = ops->quant(be, &d.x, lin, &err);
    if (!rc) rc = ops->linear(be, &out, &d.x, lin, &err);
    fl_mem_set_hook(NULL, NULL);
    if (allocations) check(false, "%s: a linear allocates nothing", isa);
    int64_t bad = rc ? -1 : linear_errors(&d, &out);
    check(!bad,
          "%s: linear T=%lld N=%lld K=%lld %s act %d x %s out %s%s: %lld outside the bound %s", isa,
          (long long)c->t, (long long)c->n, (long long)c->k, fl_dtype_name(c->w), (int)c->act,
          fl_dtype_name(c->x), fl_dtype_name(c->out), how(), (long long)bad, err.msg);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    free(out.data);
}

/* The output as columns of a wider buffer, as one of several linears of one input: the same bits,
 * and nothing beside them. */
static void test_columns(const linear_case *c) {
    enum { BEFORE = 16, AFTER = 32 };
    const int64_t bytes = fl_dtype_bytes(c->out), wide = BEFORE + c->n + AFTER;
    fl_backend *be = open_backend(2, c->t);
    linear_data d = make_linear(c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(c->out, c->t, c->n), all = ref_tensor(c->out, c->t, wide);
    const size_t total = (size_t)(c->t * wide * bytes);
    uint8_t *want = ref_alloc(total);
    memset(want, 0x3c, total);
    memcpy(all.data, want, total);
    fl_tensor columns = all;
    columns.data = (uint8_t *)all.data + BEFORE * bytes;
    columns.dim[1] = c->n;
    int rc = ops->linear_new(be, &lin, &d.spec, NULL);
    if (!rc) rc = ops->quant(be, &d.x, lin, NULL);
    if (!rc) rc = ops->linear(be, &out, &d.x, lin, NULL);
    if (!rc) rc = ops->linear(be, &columns, &d.x, lin, NULL);
    for (int64_t t = 0; t < c->t; t++)
        memcpy(want + (t * wide + BEFORE) * bytes, (uint8_t *)out.data + t * c->n * bytes,
               (size_t)(c->n * bytes));
    check(!rc && !memcmp(all.data, want, total),
          "%s: %lld rows of %s act %d block %lld into columns of a wider buffer", isa,
          (long long)c->t, fl_dtype_name(c->w), (int)c->act, (long long)c->w_block);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    free(out.data);
    free(all.data);
    free(want);
}

/* The way that so many rows take, "" where there is one. */
static const char *path_of(fl_backend *be, const fl_linear *lin, fl_tensor out, fl_tensor x,
                           int64_t rows) {
    out.dim[0] = x.dim[0] = rows;
    const char *path = ops->linear_path ? ops->linear_path(be, lin, &out, &x) : NULL;
    return path ? path : "";
}

/* Rows computed in steps of all sizes, against `all`, which one step gave (or now gives).  A GPU
 * may have several ways unless it is batch_invariant: those steps count that take the same. */
static int64_t differing_rows(const linear_case *c, int threads, uint8_t *all, bool fill) {
    static const int64_t steps[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 24, 25, 37, 300};
    int64_t differ = 0, row_bytes = c->n * fl_dtype_bytes(c->out);
    fl_backend *be = open_backend(threads, c->t);
    linear_data d = make_linear(c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(c->out, c->t, c->n);
    ops->linear_new(be, &lin, &d.spec, NULL);
    ops->quant(be, &d.x, lin, NULL);
    if (fill) ops->linear(be, &out, &d.x, lin, NULL);
    if (fill) memcpy(all, out.data, (size_t)(c->t * row_bytes));
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        out.dim[0] = steps[i];
        const fl_tensor x = lin->act == FL_ACT_NONE ? d.x.x : d.x.q;
        if (strcmp(path_of(be, lin, out, x, steps[i]), path_of(be, lin, out, x, c->t))) {
            differ += batch_invariant;
            continue;
        }
        for (int64_t t = 0; t + steps[i] <= c->t; t += 3 * steps[i]) {
            fl_act part = d.x;
            part.x.data = (uint8_t *)part.x.data + t * c->k * fl_dtype_bytes(c->x);
            part.q.data = (uint8_t *)part.q.data + t * c->k;
            part.q_scale.data = (float *)part.q_scale.data + t * linear_scale_stride(c);
            ops->linear(be, &out, &part, lin, NULL);
            differ += !!memcmp(out.data, all + t * row_bytes, (size_t)(steps[i] * row_bytes));
        }
    }
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    free(out.data);
    return differ;
}

/* *known: what the instruction sets with fused multiply-add gave so far. */
static void test_linear_invariance(const linear_case *c, uint8_t **known) {
    bool fused = strcmp(isa, "scalar") != 0, first = !fused || !*known;
    size_t bytes = (size_t)(c->t * c->n * fl_dtype_bytes(c->out));
    uint8_t *all = first ? ref_alloc(bytes) : *known;
    int64_t differ = 0;
    for (int threads = 1; threads <= (ref_is_cpu(ops) ? 3 : 1); threads++)
        differ += differing_rows(c, threads, all, first && threads == 1);
    check(!differ,
          "%s: rows of %s%s act %d block %lld x %s are the same bits for any T, thread count%s%s",
          isa, fl_dtype_name(c->w), c->sparse24 ? " 2:4" : "", (int)c->act, (long long)c->w_block,
          fl_dtype_name(c->x), fused ? " and fused instruction set" : "", how());
    if (fused)
        *known = all;
    else
        free(all);
}

/* A NaN or infinite activation stays visible; a NaN weight code spoils its output only. */
static void test_linear_nan(void) {
    static const linear_case c = {3, 40, 70, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1};
    fl_backend *be = open_backend(2, 4);
    linear_data d = make_linear(&c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(FL_DTYPE_BF16, c.t, c.n);
    ((uint16_t *)d.x.x.data)[1 * c.k + 69] = 0x7fc0;
    ((uint8_t *)d.spec.part[0].data)[17 * c.k + 3] = 0xff;
    ops->linear_new(be, &lin, &d.spec, NULL);
    ops->quant(be, &d.x, lin, NULL);
    ops->linear(be, &out, &d.x, lin, NULL);
    int wrong = 0;
    for (int64_t i = 0; i < c.t * c.n; i++) {
        bool nan = isnan(ref_get(out.data, FL_DTYPE_BF16, i));
        wrong += nan != (i / c.n == 1 || i % c.n == 17);
    }
    check(((uint8_t *)d.x.q.data)[c.k + 69] == 0x7f, "%s: NaN quantizes to 0x7F", isa);
    check(!wrong, "%s: NaN passes through linear, and only where it belongs (%d)", isa, wrong);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    free(out.data);
}

static _Atomic int64_t released;
static void count_release(const void *p, size_t n) {
    (void)p;
    released += (int64_t)n;
}

static void test_packing(void) {
    static const linear_case c = {1, 2000, 700, F32, FL_ACT_NONE, BF16, F32, false, .parts = 3};
    fl_backend *be = open_backend(2, 1);
    linear_data d = make_linear(&c);
    fl_linear *lin = NULL;
    d.spec.release = count_release;
    released = 0;
    ops->linear_new(be, &lin, &d.spec, NULL);
    check(released == c.n * c.k * 4, "%s: every source byte is released once", isa);
    check(lin && lin->dtype == FL_DTYPE_BF16, "%s: F32 weights are kept as BF16", isa);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
}

/* Every pair of scales and activations, dense and 2:4, for 1 to 17 rows and 1 or 2 threads. */
static void test_combination(const linear_case *base) {
    int64_t bad = 0;
    for (int64_t t = 1; t <= 17; t++) {
        linear_case c = *base;
        c.t = t;
        c.n = 15 + 2 * t;
        c.k = c.sparse24 ? 8 * (13 + t) : 107 + 3 * t;
        c.bias = t % 2;
        fl_backend *be = open_backend(1 + (int)(t % 3 > 0), t);
        linear_data d = make_linear(&c);
        fl_linear *lin = NULL;
        fl_tensor out = ref_tensor(c.out, c.t, c.n);
        d.short_sums = !ref_is_cpu(ops);
        if (ops->linear_new(be, &lin, &d.spec, NULL) || ops->quant(be, &d.x, lin, NULL) ||
            ops->linear(be, &out, &d.x, lin, NULL))
            bad++;
        else
            bad += linear_errors(&d, &out);
        if (lin) ops->linear_free(be, lin);
        ops->close(be);
        free_linear(&d);
        free(out.data);
    }
    check(!bad, "%s: 1 to 17 rows of %s%s act %d block %lld x %s (%lld wrong)", isa,
          fl_dtype_name(base->w), base->sparse24 ? " 2:4" : "", (int)base->act,
          (long long)base->w_block, fl_dtype_name(base->x), (long long)bad);
}

static void test_combinations(void) {
    for (int i = 0; i < 32; i++) {
        linear_case c = {.w = E4M3, .x = i & 1 ? F16 : BF16, .out = i & 2 ? F32 : BF16, .parts = 1};
        c.act = (fl_act_scheme)(i >> 3);
        c.w_block = i & 2 ? 128 : 0;
        c.sparse24 = i & 4;
        if (c.out != F32) c.out = c.x;
        test_combination(&c);
    }
    for (int i = 0; i < 6; i++) {
        static const fl_dtype weights[] = {BF16, F32, F16};
        test_combination(&(linear_case){.w = weights[i / 2],
                                        .x = i % 2 ? F16 : BF16,
                                        .out = F32,
                                        .parts = 1,
                                        .sparse24 = true});
    }
}

/* What a linear gives for c with `sparse24` or without; its bytes. */
static void *run_packed(const linear_case *c, bool sparse24, int64_t rows, uint64_t *bytes) {
    fl_backend *be = open_backend(2, c->t);
    linear_data d = make_linear(c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(c->out, rows, c->n);
    d.spec.sparse24 = sparse24;
    if (ops->linear_new(be, &lin, &d.spec, NULL) || lin->sparse24 != sparse24 ||
        ops->quant(be, &d.x, lin, NULL) || ops->linear(be, &out, &d.x, lin, NULL))
        check(false, "%s: 2:4 %d runs", isa, sparse24);
    *bytes = lin ? lin->bytes : 0;
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    return out.data;
}

static void test_sparse(const linear_case *c, double want) {
    uint64_t dense = 0, packed = 0;
    int64_t bad = 0;
    /* A GPU multiplies more rows in another order, and holds only E4M3 in less. */
    int64_t most = ref_is_cpu(ops) ? c->t : 8;
    for (int64_t rows = 1; rows <= most; rows += rows < 12 ? 1 : c->t - 12) {
        void *a = run_packed(c, false, rows, &dense), *b = run_packed(c, true, rows, &packed);
        bad += !!memcmp(a, b, (size_t)(rows * c->n * fl_dtype_bytes(c->out)));
        free(a);
        free(b);
    }
    check(!bad, "%s: 2:4 of %s act %d block %lld gives the bits of dense", isa, fl_dtype_name(c->w),
          (int)c->act, (long long)c->w_block);
    double beside = c->w == E4M3 ? 4.0 * (double)(c->n * (c->w_block ? c->k / 128 : 1)) : 0.0;
    double ratio = ((double)packed - beside) / ((double)dense - beside);
    check(fabs(ratio - want) < 1e-9, "%s: 2:4 of %s takes %.4f of dense", isa, fl_dtype_name(c->w),
          ratio);
}

static void test_sparse_refusal(void) {
    static const linear_case c = {
        1, 40, 64, E4M3, FL_ACT_TOKEN, BF16, F32, .parts = 2, .sparse24 = true};
    fl_backend *be = open_backend(2, 1);
    linear_data d = make_linear(&c);
    fl_linear *lin = NULL;
    fl_err err;
    memset((uint8_t *)d.spec.part[1].data + 13 * c.k + 8, 0x38, 3);
    check(ops->linear_new(be, &lin, &d.spec, &err) == FL_E_ARG && !lin && strstr(err.msg, "row 33"),
          "%s: three of four are not 2:4: %s", isa, err.msg);
    ops->close(be);
    free_linear(&d);
}

/* An infinite activation times a zero weight is NaN, also where the zero is not stored. */
static void test_sparse_infinity(fl_dtype x) {
    const linear_case c = {1, 40, 64, E4M3, FL_ACT_NONE, x, F32, .parts = 1, .sparse24 = true};
    fl_backend *be = open_backend(2, 1);
    linear_data d = make_linear(&c);
    fl_tensor out[2] = {ref_tensor(F32, 1, c.n), ref_tensor(F32, 1, c.n)};
    int wrong = 0, nan = 0;
    ref_set(d.x.x.data, x, 37, (double)INFINITY);
    for (int i = 0; i < 2; i++) {
        fl_linear *lin = NULL;
        d.spec.sparse24 = i;
        ops->linear_new(be, &lin, &d.spec, NULL);
        ops->linear(be, &out[i], &d.x, lin, NULL);
        ops->linear_free(be, lin);
    }
    for (int64_t n = 0; n < c.n; n++) {
        double a = ref_get(out[0].data, F32, n), b = ref_get(out[1].data, F32, n);
        nan += isnan(a);
        wrong += isnan(a) ? !isnan(b) : a != b;
    }
    check(!wrong && nan && nan < c.n, "%s: an infinite %s times 2:4 shows as with dense (%d, %d)",
          isa, fl_dtype_name(x), wrong, nan);
    ops->close(be);
    free_linear(&d);
    free(out[0].data);
    free(out[1].data);
}

/* One way for all numbers of rows, where a GPU has several of each. */
static void test_batch_invariant(void) {
    static const linear_case cases[] = {
        {37, 130, 272, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 1},
        {37, 90, 256, E4M3, FL_ACT_TOKEN, BF16, F32, true, .parts = 2},
        {37, 90, 208, E4M3, FL_ACT_GROUP, F16, F32, true, .parts = 1, .w_block = 128},
        {37, 90, 272, E4M3, FL_ACT_STATIC, BF16, F32, true, .parts = 2, .sparse24 = true},
        {37, 90, 400, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1, .w_block = 128,
         .sparse24 = true},
        {37, 90, 264, E4M3, FL_ACT_NONE, BF16, F32, false, .parts = 1, .sparse24 = true},
        {37, 90, 264, BF16, FL_ACT_NONE, BF16, F32, true, .parts = 1},
        {37, 90, 136, F16, FL_ACT_NONE, F16, F16, false, .parts = 1},
        {37, 90, 40, BF16, FL_ACT_NONE, F16, F32, false, .parts = 1},
    };
    batch_invariant = true;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t *known = NULL;
        test_linear(&cases[i]);
        test_linear_invariance(&cases[i], &known);
        free(known);
    }
    for (size_t i = 0; i < sizeof(linear_cases) / sizeof(linear_cases[0]); i++)
        if (!ref_is_cpu(ops)) test_linear(&linear_cases[i]);
    batch_invariant = false;
}

/* 2:4 weights that a GPU keeps dense as well. */
static void test_sparse_dense(void) {
    static const linear_case cases[] = {
        {3, 96, 256, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 3, .sparse24 = true},
        {37, 96, 256, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 2, .sparse24 = true},
        {37, 96, 272, E4M3, FL_ACT_TOKEN, BF16, BF16, true, .parts = 1, .sparse24 = true},
        {37, 96, 272, E4M3, FL_ACT_GROUP, BF16, F32, false, .parts = 1, .w_block = 128,
         .sparse24 = true},
        {37, 90, 40, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1, .sparse24 = true},
    };
    fl_backend *be = NULL;
    fl_err err = {0};
    fl_backend_params p = {.threads = 1, .max_rows = 40, .isa = isa, .sparse_dense = true};
    p.batch_invariant = !ref_is_cpu(ops);
    check(ops->open(&be, &p, &err) == FL_E_ARG && strstr(err.msg, "sparse_prefill"), "%s: %s", isa,
          err.msg);
    if (ref_is_cpu(ops)) return;
    sparse_dense = true;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) test_linear(&cases[i]);
    linear_data d = make_linear(&cases[1]);
    fl_linear *lin = NULL;
    be = open_backend(1, 40);
    ops->linear_new(be, &lin, &d.spec, NULL);
    check(lin && lin->sparse24 && lin->dense_bytes == 96 * 256 &&
              lin->bytes == 96 * 256 / 8 * 13 + 96 * 4,
          "%s: 2:4 that is also dense takes 1.625 bytes a weight", isa);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    sparse_dense = false;
}

int main(int argc, char **argv) {
    static const linear_case same_cases[] = {
        {37, 333, 259, E4M3, FL_ACT_TOKEN, BF16, F32, false, .parts = 1},
        {37, 333, 259, E4M3, FL_ACT_NONE, F16, F32, false, .parts = 1},
        {37, 333, 259, E4M3, FL_ACT_NONE, BF16, F32, true, .parts = 1},
        {37, 333, 259, BF16, FL_ACT_NONE, BF16, F32, false, .parts = 1},
        {37, 333, 259, BF16, FL_ACT_NONE, F16, F32, false, .parts = 1},
        {37, 333, 259, F16, FL_ACT_NONE, F16, F32, false, .parts = 1},
        {300, 40, 90, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 1},
        {37, 111, 259, E4M3, FL_ACT_GROUP, BF16, F32, true, .parts = 1, .w_block = 128},
        {37, 111, 300, E4M3, FL_ACT_GROUP, BF16, F32, true, .parts = 1},
        {37, 111, 264, E4M3, FL_ACT_TOKEN, BF16, F32, true, .parts = 1, .w_block = 128,
         .sparse24 = true},
        {37, 111, 264, E4M3, FL_ACT_STATIC, F16, F32, false, .parts = 1, .sparse24 = true},
        {37, 111, 264, BF16, FL_ACT_NONE, BF16, F32, false, .parts = 1, .sparse24 = true},
        {37, 111, 264, BF16, FL_ACT_NONE, F16, F32, false, .parts = 1, .sparse24 = true},
    };
    static const linear_case column_cases[] = {
        {3, 64, 96, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 1},
        {20, 64, 96, E4M3, FL_ACT_STATIC, BF16, BF16, false, .parts = 1},
        {20, 64, 96, E4M3, FL_ACT_TOKEN, BF16, BF16, false, .parts = 1},
        {20, 64, 96, BF16, FL_ACT_NONE, BF16, BF16, false, .parts = 1},
        {20, 64, 128, E4M3, FL_ACT_GROUP, BF16, BF16, false, .parts = 1, .w_block = 128},
    };
    static const struct {
        linear_case c;
        double ratio;
    } sparse_cases[] = {
        {{37, 48, 640, E4M3, FL_ACT_TOKEN, BF16, F32, .parts = 3}, 0.625},
        {{37, 48, 640, E4M3, FL_ACT_NONE, F16, F16, .parts = 1}, 0.625},
        {{37, 48, 384, E4M3, FL_ACT_GROUP, BF16, BF16, .parts = 1, .w_block = 128}, 0.625},
        {{37, 48, 640, BF16, FL_ACT_NONE, BF16, F32, .parts = 1}, 0.5625},
        {{37, 48, 640, BF16, FL_ACT_NONE, F16, F32, .parts = 1}, 0.5625},
    };
    enum { N_SAME = sizeof(same_cases) / sizeof(same_cases[0]) };
    uint8_t *known[N_SAME] = {NULL};
    ops = ref_ops(argc, argv);
    for (isa = NULL; ref_next_isa(ops, &isa);) {
        for (size_t c = 0; c < sizeof(linear_cases) / sizeof(linear_cases[0]); c++)
            test_linear(&linear_cases[c]);
        for (size_t c = 0; c < sizeof(column_cases) / sizeof(column_cases[0]); c++)
            test_columns(&column_cases[c]);
        test_combinations();
        for (size_t c = 0; c < N_SAME; c++) test_linear_invariance(&same_cases[c], &known[c]);
        for (size_t c = 0; c < sizeof(sparse_cases) / sizeof(sparse_cases[0]); c++) {
            linear_case mine = sparse_cases[c].c;
            if (mine.w != E4M3 && !ref_is_cpu(ops)) continue;
            mine.sparse24 = true;
            test_sparse(&mine, sparse_cases[c].ratio);
        }
        test_batch_invariant();
        test_sparse_dense();
        test_sparse_refusal();
        test_sparse_infinity(BF16);
        test_sparse_infinity(F16);
        test_linear_nan();
        test_packing();
    }
    for (size_t c = 0; c < N_SAME; c++) free(known[c]);
    return tap_done();
}
