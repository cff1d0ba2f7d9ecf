/* Storage and views of arrays, FP8 scales, and failing allocations.  What the
 * operations compute is in spec/lua/tensor_spec.lua. */
#include <math.h>
#include <string.h>

#include "backend/array.h"
#include "tap.h"
#include "util/fp8.h"
#include "util/mem.h"

static int released;

static void count_release(void *ctx) {
    (void)ctx;
    released++;
}

static void test_views(void) {
    float data[6] = {1, 2, 3, 4, 5, 6};
    fl_tensor shape = fl_tensor_2d(data, FL_DTYPE_F32, 2, 3);
    fl_keep keep = {count_release, NULL, true};
    fl_array *t = NULL, *row = NULL, *element = NULL, *bad = NULL;
    fl_err err;
    if (!check(!fl_array_view(&t, &shape, &keep, &err), "a view of outside memory")) return;
    check(!fl_array_row(&row, t, 1, &err) && row->t.data == data + 3, "a row of it");
    check(!fl_array_row(&element, row, 2, &err) && element->t.ndim == 0, "an element of it");
    fl_array_free(t);
    fl_array_free(row);
    check(released == 0, "memory is kept while one view lives");
    double v;
    fl_tensor_load(&v, &element->t, 0, 1);
    check(v == 6.0, "and still read");
    check(fl_array_writable(element, &err) == FL_E_ARG, "read-only is inherited");
    check(fl_array_apply_number(element, FL_MAP_ADD, 1.0, &err) == FL_E_ARG && data[5] == 6,
          "refused: %s", err.msg);
    fl_array_free(element);
    check(released == 1, "released once, with the last view");

    shape.dtype = FL_DTYPE_I64;
    check(fl_array_view(&bad, &shape, &keep, &err) == FL_E_UNSUPPORTED && !bad, "refused: %s",
          err.msg);
    int64_t dims[5] = {1, 1, 1, 1, 1}, huge[2] = {INT64_MAX, 3}, negative = -1;
    check(fl_array_new(&bad, NULL, FL_DTYPE_F32, dims, 5, &err) == FL_E_ARG, "refused: %s",
          err.msg);
    check(fl_array_new(&bad, NULL, FL_DTYPE_F32, huge, 2, &err) == FL_E_NOMEM, "refused: %s",
          err.msg);
    check(fl_array_new(&bad, NULL, FL_DTYPE_F32, &negative, 1, &err) == FL_E_ARG, "refused: %s",
          err.msg);
    check(released == 1, "a view that was not made releases nothing");
}

/* Every finite code survives quantizing its own values with scale 1 (absmax 448). */
static void test_codes_round_trip(void) {
    int64_t n = 256;
    fl_array *t = NULL, *q = NULL, *scale = NULL, *back = NULL;
    if (fl_array_new(&t, NULL, FL_DTYPE_F32, &n, 1, NULL)) return;
    float *x = t->t.data;
    for (int i = 0; i < 256; i++) x[i] = (i & 127) == 127 ? 0.0f : fl_e4m3_to_f32((uint8_t)i);
    bool ok = !fl_array_quantize(&q, &scale, t, FL_QUANT_TENSOR, NULL) &&
              !fl_array_dequantize(&back, q, scale, FL_DTYPE_F32, NULL);
    ok = ok && *(float *)scale->t.data == 1.0f && !memcmp(back->t.data, x, 256 * sizeof(*x));
    check(ok, "all e4m3 values survive quantize and dequantize");
    fl_array_free(t);
    fl_array_free(q);
    fl_array_free(scale);
    fl_array_free(back);
}

static long allowance;
static bool allow(void *ctx, size_t bytes) {
    (void)ctx, (void)bytes;
    return allowance-- > 0;
}

enum { KEPT = 8 };

static int everything(fl_array *kept[KEPT], const fl_backend_ops *ops) {
    int64_t dim[2] = {3, 64}, n = 3;
    fl_device *cpu = NULL;
    fl_err err;
    int rc;
    if ((rc = fl_array_new(&kept[0], NULL, FL_DTYPE_F32, dim, 2, &err)) ||
        (rc = fl_array_apply_number(kept[0], FL_MAP_ADD, 2.0, &err)) ||
        (rc = fl_array_row(&kept[1], kept[0], 1, &err)) ||
        (rc = fl_array_apply(kept[0], FL_MAP_ADD, kept[1], 0.0, &err)) ||
        (rc = fl_array_copy(&kept[2], kept[0], NULL, FL_DTYPE_BF16, &err)) ||
        (rc = fl_array_quantize(&kept[3], &kept[4], kept[0], FL_QUANT_CHANNEL, &err)) ||
        (rc = fl_array_dequantize(&kept[5], kept[3], kept[4], FL_DTYPE_F16, &err)) ||
        (rc = fl_array_new(&kept[6], NULL, FL_DTYPE_BF16, &n, 1, &err)) ||
        (rc = fl_device_open(&cpu, ops, 0, &err)))
        return rc;
    fl_array_linear l = {.x = kept[2],
                         .w = kept[3],
                         .w_scale = kept[4],
                         .bias = kept[6],
                         .act = FL_ACT_TOKEN,
                         .out = FL_DTYPE_F32};
    rc = fl_array_linear_run(&kept[7], cpu, &l, &err);
    fl_device_unref(cpu);
    return rc;
}

static void test_failing_allocations(void) {
    const fl_backend_ops *ops;
    int64_t before = fl_mem_live();
    int rc = FL_E_NOMEM, n = 0;
    bool clean = !fl_backend_find(&ops, "cpu", NULL);
    float first = 0.0f;
    fl_mem_set_hook(allow, NULL);
    for (; clean && rc && n < 300; n++) {
        fl_array *kept[KEPT] = {NULL};
        allowance = n;
        rc = everything(kept, ops);
        if (!rc) first = *(float *)kept[7]->t.data;
        for (int i = 0; i < KEPT; i++) fl_array_free(kept[i]);
        clean = (rc == FL_OK || rc == FL_E_NOMEM) && fl_mem_live() == before;
    }
    fl_mem_set_hook(NULL, NULL);
    check(clean && rc == FL_OK && n > 25, "%d failing allocations: NOMEM, nothing leaks", n - 1);
    check(fabsf(first - 64 * 16.0f) < 0.5f, "and then the right product: %g", (double)first);
}

int main(void) {
    test_views();
    test_codes_round_trip();
    test_failing_allocations();
    return tap_done();
}
