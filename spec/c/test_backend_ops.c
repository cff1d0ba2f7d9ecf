/* Every op but linear and attention, on every instruction set of this machine, against
 * ref_backend.c.  Those two are in test_backend_linear.c and test_backend_attend.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linear_case.h"
#include "tap.h"
#include "util/mem.h"

static const fl_backend_ops *ops;
static const char *isa;

static int64_t allocations, fail_at; /* fail_at 0: none fails */
static bool count_allocations(void *ctx, size_t bytes) {
    (void)ctx;
    (void)bytes;
    return ++allocations != fail_at; /* 0: none fails */
}

/* ---- row ops ---- */

static const int64_t widths[] = {1, 7, 16, 33, 48, 100, 576, 1531};
enum { N_WIDTHS = sizeof(widths) / sizeof(widths[0]) };

static fl_act make_act(fl_dtype t, int64_t rows, int64_t n) {
    return (fl_act){.x = ref_tensor(t, rows, n),
                    .q = ref_tensor(FL_DTYPE_E4M3, rows, n),
                    .q_scale = ref_tensor(FL_DTYPE_F32, rows, fl_act_groups(n))};
}

static void free_act(fl_act *a) {
    free(a->x.data);
    free(a->q.data);
    free(a->q_scale.data);
}

/* Codes and scales must be the ones that f32 arithmetic gives, exactly. */
static int64_t quant_errors(const fl_act *a, const fl_linear *next) {
    const int64_t n = a->x.dim[1], len = next->act == FL_ACT_GROUP ? 128 : n;
    const float *scales = a->q_scale.data;
    int64_t bad = 0;
    for (int64_t t = 0; t < a->x.dim[0]; t++) {
        for (int64_t k = 0; k < n; k += len) {
            int64_t end = k + len < n ? k + len : n;
            float top = 0.0f, scale = next->x_scale;
            for (int64_t i = k; i < end; i++)
                top = fmaxf(top, fabsf((float)ref_get(a->x.data, a->x.dtype, t * n + i)));
            if (next->act == FL_ACT_TOKEN && next->x_scale_ub > 0.0f)
                top = fminf(top, next->x_scale_ub);
            if (next->act != FL_ACT_STATIC) scale = fmaxf(top / 448.0f, 1.0f / (448.0f * 512.0f));
            bad += *scales++ != scale;
            for (int64_t i = k; i < end; i++) {
                float x = (float)ref_get(a->x.data, a->x.dtype, t * n + i);
                float v = next->act == FL_ACT_STATIC ? x * (1.0f / scale) : x / scale;
                bad += ((uint8_t *)a->q.data)[t * n + i] != ref_e4m3((double)v);
            }
        }
    }
    return bad;
}

static int64_t norm_errors(const fl_tensor *old, const fl_norm *n) {
    int64_t bad = 0, d = old->dim[1];
    fl_dtype t = old->dtype;
    double *r = ref_alloc((size_t)d * sizeof(double));
    for (int64_t row = 0; row < old->dim[0]; row++) {
        for (int64_t i = 0; i < d; i++) {
            double want = ref_get(old->data, t, row * d + i);
            if (n->delta.dtype) want += ref_get(n->delta.data, t, row * d + i);
            r[i] = ref_get(n->residual.data, t, row * d + i);
            bad += !ref_close(t, r[i], want, fabs(want) * 0x1p-24);
        }
        double inv = ref_inv_rms(r, d, (double)n->eps);
        for (int64_t i = 0; i < d; i++) {
            double unit = r[i] * inv, w = ref_get(n->weight.data, t, i);
            double slack = fabs(unit * w) * (ref_unit(t) * 1.01 + (double)(d + 8) * 0x1p-24) +
                           ref_tiny(t) * fabs(w);
            bad += !ref_close(t, ref_get(n->out->x.data, t, row * d + i), unit * w, slack);
        }
    }
    free(r);
    return bad;
}

static void test_norm(fl_dtype t, int64_t d, fl_act_scheme act) {
    enum { T = 5 };
    fl_backend *be = ref_open(ops, isa, 2, T);
    fl_act out = make_act(t, T, d);
    fl_linear next = {.k = d, .act = act, .x_scale = 0.013f};
    fl_norm n = {.residual = ref_tensor(t, T, d),
                 .weight = ref_tensor(t, d, 1),
                 .out = &out,
                 .next = &next,
                 .eps = 1e-5f};
    fl_tensor old = ref_tensor(t, T, d);
    n.weight.dim[0] = d;
    ref_fill(old.data, t, T * d, 1.5, 5);
    ref_fill(n.weight.data, t, d, 1.0, 6);
    int64_t bad = 0;
    for (int with_delta = 0; with_delta < 2; with_delta++) {
        if (with_delta) n.delta = ref_tensor(t, T, d);
        if (with_delta) ref_fill(n.delta.data, t, T * d, 0.1, 7);
        memcpy(n.residual.data, old.data, (size_t)(T * d * 2));
        if (ops->norm(be, &n, NULL)) bad++;
        bad += norm_errors(&old, &n) + quant_errors(&out, &next);
    }
    check(!bad, "%s: norm %s D=%lld act %d (%lld wrong)", isa, fl_dtype_name(t), (long long)d,
          (int)act, (long long)bad);
    free(old.data);
    free(n.residual.data);
    free(n.weight.data);
    free(n.delta.data);
    free_act(&out);
    ops->close(be);
}

static void test_silu(fl_dtype t, int64_t f, fl_act_scheme act) {
    enum { T = 3 };
    fl_backend *be = ref_open(ops, isa, 2, T);
    fl_act out = make_act(t, T, f);
    fl_linear next = {.k = f, .act = act, .x_scale = 0.3f, .x_scale_ub = f == 48 ? 2.0f : 0.0f};
    fl_tensor in = ref_tensor(t, T, 2 * f);
    ref_fill(in.data, t, T * 2 * f, 4.0, 8);
    for (int64_t i = 0; i < f; i++) ref_set(in.data, t, i, 220.0 * ((double)i / (double)f - 0.5));
    int64_t bad = !!ops->silu_mul(be, &out, &in, &next, NULL);
    for (int64_t row = 0; row < T; row++) {
        for (int64_t i = 0; i < f; i++) {
            double want = ref_silu(ref_get(in.data, t, row * 2 * f + i)) *
                          ref_get(in.data, t, row * 2 * f + f + i);
            bad += !ref_close(t, ref_get(out.x.data, t, row * f + i), want,
                              fabs(want) * 0x1p-21 + 1e-36);
        }
    }
    bad += quant_errors(&out, &next);
    check(!bad, "%s: silu_mul %s F=%lld act %d (%lld wrong)", isa, fl_dtype_name(t), (long long)f,
          (int)act, (long long)bad);
    free(in.data);
    free_act(&out);
    ops->close(be);
}

/* Every BF16 number goes through quantization: all rounding cases, infinities, NaN. */
static void test_quant_all(void) {
    fl_backend *be = ref_open(ops, isa, 2, 256);
    fl_act a = make_act(FL_DTYPE_BF16, 256, 256);
    fl_linear next = {.k = 256, .act = FL_ACT_STATIC, .x_scale = 1.0f};
    for (int i = 0; i < 65536; i++) ((uint16_t *)a.x.data)[i] = (uint16_t)i;
    ops->quant(be, &a, &next, NULL);
    int bad = 0;
    for (int i = 0; i < 65536; i++) {
        double x = ref_get(a.x.data, FL_DTYPE_BF16, i);
        bad += ((uint8_t *)a.q.data)[i] != ref_e4m3(x);
    }
    check(!bad, "%s: all 65536 BF16 numbers quantize as the format says (%d wrong)", isa, bad);
    fl_act h = make_act(FL_DTYPE_F16, 256, 256);
    for (int i = 0; i < 65536; i++) ((uint16_t *)h.x.data)[i] = (uint16_t)i;
    next.x_scale = 0x1p-9f;
    ops->quant(be, &h, &next, NULL);
    bad = 0;
    for (int i = 0; i < 65536; i++) {
        double x = ref_get(h.x.data, FL_DTYPE_F16, i) * 512.0;
        bad += ((uint8_t *)h.q.data)[i] != ref_e4m3(x);
    }
    check(!bad, "%s: all 65536 F16 numbers quantize as the format says (%d wrong)", isa, bad);
    free_act(&a);
    free_act(&h);
    ops->close(be);
}

static void test_embed(fl_dtype w, fl_dtype x, int64_t w_block, bool sparse24) {
    static const linear_case c = {.t = 4, .n = 53, .k = 300, .w = BF16, .parts = 1};
    linear_case mine = c;
    mine.w = w;
    mine.x = x;
    mine.w_block = w_block;
    mine.sparse24 = sparse24;
    mine.k = 304;
    fl_backend *be = ref_open(ops, isa, 2, 4);
    linear_data d = make_linear(&mine);
    fl_linear *table = NULL;
    fl_tensor out = ref_tensor(x, mine.t, mine.k);
    int32_t ids[] = {52, 0, 17, 31};
    fl_tensor id = fl_tensor_1d(ids, FL_DTYPE_I32, mine.t);
    fl_err err;
    ops->linear_new(be, &table, &d.spec, NULL);
    int64_t bad = !!ops->embed(be, &out, table, &id, NULL);
    for (int64_t i = 0; i < mine.t * mine.k; i++) {
        int32_t row = ids[i / mine.k];
        double want = ref_get(d.w, w, row * mine.k + i % mine.k);
        if (w == FL_DTYPE_E4M3)
            want *= (double)d.w_scale[w_block ? row * 3 + i % mine.k / 128 : row];
        bad += !ref_close(x, ref_get(out.data, x, i), want, fabs(want) * 0x1p-24);
    }
    check(!bad, "%s: embed %s%s into %s (%lld wrong)", isa, fl_dtype_name(w),
          sparse24 ? " 2:4" : "", fl_dtype_name(x), (long long)bad);
    ids[2] = 53;
    check(ops->embed(be, &out, table, &id, &err) == FL_E_ARG && strstr(err.msg, "53"),
          "%s: an id outside the table is refused by name", isa);
    ids[2] = 17;
    check(!ops->embed(be, &out, table, &id, &err) && !ops->sync(be, &err),
          "%s: ... and told once: the next one is fine", isa);
    ops->linear_free(be, table);
    ops->close(be);
    free_linear(&d);
    free(out.data);
}

/* Also of a part of the columns: the rows are then not contiguous. */
static void test_sumsq(fl_backend *be, const fl_tensor *x) {
    enum { MOST = 700 };
    float sum[MOST];
    fl_tensor wide = ref_tensor(x->dtype, 5, MOST), part = *x;
    ref_fill(wide.data, x->dtype, 5 * MOST, 1.0, 21);
    part.dim[1] -= 4;
    const fl_tensor *each[] = {x, &part, &wide};
    for (int c = 0; c < 3; c++) {
        const fl_tensor *t = each[c];
        fl_tensor out = fl_tensor_1d(sum, FL_DTYPE_F32, t->dim[1]);
        int64_t bad = 0;
        for (int64_t k = 0; k < t->dim[1]; k++) sum[k] = 0.5f;
        bad += ops->sumsq(be, &out, t, NULL) != FL_OK;
        for (int64_t k = 0; k < t->dim[1]; k++) {
            double want = 0.5;
            for (int64_t row = 0; row < t->dim[0]; row++) {
                double v = ref_get(t->data, t->dtype, row * t->stride + k);
                want += v * v;
            }
            bad += !ref_close(FL_DTYPE_F32, sum[k], want, want * (double)t->dim[0] * 0x1p-23);
        }
        check(!bad, "%s: sumsq of [%lld,%lld] adds to what is there (%lld wrong)", isa,
              (long long)t->dim[0], (long long)t->dim[1], (long long)bad);
    }
    fl_tensor out = fl_tensor_1d(sum, FL_DTYPE_F32, 3);
    check(ops->sumsq(be, &out, x, NULL) == FL_E_ARG, "%s: sumsq of another width is refused", isa);
    free(wide.data);
}

static void test_gather_absmax(void) {
    enum { T = 6, D = 45 };
    fl_backend *be = ref_open(ops, isa, 2, T);
    fl_tensor x = ref_tensor(FL_DTYPE_BF16, T, D), out = ref_tensor(FL_DTYPE_BF16, 3, D);
    int32_t rows[] = {5, 0, 3};
    fl_tensor r = fl_tensor_1d(rows, FL_DTYPE_I32, 3);
    float top = 0.0f, want = 0.0f;
    fl_tensor a = fl_tensor_1d(&top, FL_DTYPE_F32, 1);
    ref_fill(x.data, FL_DTYPE_BF16, T * D, 1.0, 9);
    int bad = !!ops->gather(be, &out, &x, &r, NULL);
    for (int i = 0; i < 3; i++)
        bad += !!memcmp((uint16_t *)out.data + i * D, (uint16_t *)x.data + rows[i] * D, D * 2);
    check(!bad, "%s: gather copies the named rows", isa);
    for (int64_t i = 0; i < T * D; i++)
        want = fmaxf(want, fabsf((float)ref_get(x.data, FL_DTYPE_BF16, i)));
    ops->absmax(be, &a, &x, NULL);
    check(top == want, "%s: absmax %g is %g", isa, (double)top, (double)want);
    top = 100.0f;
    ops->absmax(be, &a, &x, NULL);
    check(top == 100.0f, "%s: absmax keeps what was larger", isa);
    test_sumsq(be, &x);
    free(x.data);
    free(out.data);
    ops->close(be);
}

/* ---- memory and failure ---- */

static void test_memory(void) {
    fl_backend *be = ref_open(ops, isa, 1, 1);
    float src[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
    void *p = NULL;
    ops->mem_new(be, &p, 4096, NULL);
    bool zero = true;
    for (int i = 0; i < 4096; i++) zero = zero && !((uint8_t *)p)[i];
    check(p && (uintptr_t)p % 64 == 0 && zero, "%s: memory is aligned and zeroed", isa);
    fl_tensor t = fl_tensor_2d(p, FL_DTYPE_F32, 2, 3);
    t.stride = 10;
    ops->write(be, &t, src, NULL);
    check(((float *)p)[10] == 4.0f && ((float *)p)[3] == 0.0f, "%s: write follows the stride", isa);
    ops->read(be, back, &t, NULL);
    check(!memcmp(src, back, sizeof(src)), "%s: read gives back what was written", isa);
    ops->copy(be, (uint8_t *)p + 1024, p, 12, NULL);
    check(((float *)p)[258] == 3.0f, "%s: copy copies", isa);
    ops->mem_free(be, p);
    ops->mem_free(be, NULL);
    fl_backend_info info;
    ops->info(be, &info);
    check(strstr(info.name, isa) && info.mem_total >= info.mem_free && info.mem_free > 0,
          "%s: info says \"%s\"", isa, info.name);
    ops->close(be);
}

static void test_allocation_failure(int64_t w_block, bool sparse24) {
    const linear_case c = {1,
                           20,
                           32,
                           E4M3,
                           FL_ACT_STATIC,
                           BF16,
                           F32,
                           true,
                           .parts = 1,
                           .w_block = w_block,
                           .sparse24 = sparse24};
    linear_data d = make_linear(&c);
    int64_t live = fl_mem_live();
    bool clean = true;
    fl_mem_set_hook(count_allocations, NULL);
    for (fail_at = 1; fail_at < 100; fail_at++) {
        fl_backend *be = NULL;
        fl_linear *lin = NULL;
        void *p = NULL;
        fl_backend_params params = {.threads = 2, .max_rows = 16, .isa = isa};
        fl_err err;
        allocations = 0;
        int rc = ops->open(&be, &params, &err);
        if (!rc) rc = ops->linear_new(be, &lin, &d.spec, &err);
        if (!rc) rc = ops->mem_new(be, &p, 100, &err);
        if (be) ops->mem_free(be, p);
        if (be) ops->linear_free(be, lin);
        ops->close(be);
        clean = clean && fl_mem_live() == live && (!rc || rc == FL_E_NOMEM);
        if (!rc) break;
    }
    fl_mem_set_hook(NULL, NULL);
    check(clean && fail_at > 5 && fail_at < 100, "%s: each of %lld allocations may fail", isa,
          (long long)fail_at - 1);
    fail_at = 0;
    free_linear(&d);
}

static void test_refusals(void) {
    fl_backend *be = NULL;
    fl_err err;
    fl_backend_params p = {.max_rows = 4, .isa = "avx1024"};
    if (ref_is_cpu(ops))
        check(ops->open(&be, &p, &err) == FL_E_ARG && strstr(err.msg, "avx1024"), "unknown isa: %s",
              err.msg);
    p.isa = NULL;
    p.max_rows = 0;
    check(ops->open(&be, &p, &err) == FL_E_ARG && strstr(err.msg, "max_rows"), "max_rows 0: %s",
          err.msg);
    static const linear_case c = {5, 20, 30, E4M3, FL_ACT_STATIC, BF16, F32, false, .parts = 1};
    linear_data d = make_linear(&c);
    fl_linear *lin = NULL;
    fl_tensor out = ref_tensor(FL_DTYPE_F32, 5, 20);
    be = ref_open(ops, isa, 1, 4);
    ops->linear_new(be, &lin, &d.spec, &err);
    check(ops->linear(be, &out, &d.x, lin, &err) == FL_E_LIMIT, "too many rows: %s", err.msg);
    out.dim[0] = 4;
    out.dim[1] = 21;
    check(ops->linear(be, &out, &d.x, lin, &err) == FL_E_ARG, "wrong width: %s", err.msg);
    fl_linear *bad = NULL;
    d.spec.w_block = 64;
    check(ops->linear_new(be, &bad, &d.spec, &err) == FL_E_ARG && !bad, "blocks of 64: %s",
          err.msg);
    d.spec.w_block = 0;
    d.spec.dtype = FL_DTYPE_I32;
    check(ops->linear_new(be, &bad, &d.spec, &err) == FL_E_UNSUPPORTED && !bad, "I32: %s", err.msg);
    ops->linear_free(be, lin);
    ops->close(be);
    free_linear(&d);
    free(out.data);
}

int main(int argc, char **argv) {
    ops = ref_ops(argc, argv);
    test_refusals();
    for (isa = NULL; ref_next_isa(ops, &isa);) {
        for (int w = 0; w < N_WIDTHS; w++) {
            static const fl_act_scheme acts[] = {FL_ACT_STATIC, FL_ACT_TOKEN, FL_ACT_GROUP};
            test_norm(FL_DTYPE_BF16, widths[w], acts[w % 3]);
            test_norm(FL_DTYPE_F16, widths[w], acts[(w + 1) % 3]);
            test_silu(FL_DTYPE_BF16, widths[w], acts[(w + 2) % 3]);
            test_silu(FL_DTYPE_F16, widths[w], acts[w % 3]);
        }
        test_quant_all();
        test_embed(FL_DTYPE_BF16, FL_DTYPE_BF16, 0, false);
        test_embed(FL_DTYPE_F16, FL_DTYPE_F16, 0, false);
        test_embed(FL_DTYPE_E4M3, FL_DTYPE_BF16, 0, false);
        test_embed(FL_DTYPE_E4M3, FL_DTYPE_BF16, 128, true);
        test_embed(FL_DTYPE_BF16, FL_DTYPE_F16, 0, true);
        test_gather_absmax();
        test_memory();
        if (!ref_is_cpu(ops))
            continue; /* allocates in an object of its own, out of the hook's reach */
        test_allocation_failure(0, false);
        test_allocation_failure(128, true);
    }
    return tap_done();
}
