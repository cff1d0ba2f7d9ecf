/* fl_scale_summarize on each dtype, with values no loader takes, and without memory. */
#include "formats/scale_summary.h"

#include <math.h>
#include <string.h>

#include "fixture.h"
#include "tap.h"
#include "util/fp8.h"

static const float values[] = {0.5f, 0.0f, 2.0f, -1.0f, INFINITY, 0.25f, NAN, -0.0f};
enum { N = sizeof(values) / sizeof(values[0]) };

static fl_st_tensor tensor(fl_dtype dtype, const void *data, int64_t n) {
    return (fl_st_tensor){.name = "x.weight_scale",
                          .file = "f",
                          .data = data,
                          .bytes = (uint64_t)(n * fl_dtype_bytes(dtype)),
                          .dim = {n},
                          .ndim = 1,
                          .dtype = dtype};
}

static void test_dtypes(void) {
    static const fl_dtype dtypes[] = {FL_DTYPE_F32, FL_DTYPE_BF16, FL_DTYPE_F16};
    for (int d = 0; d < 3; d++) {
        uint16_t half[N];
        for (int i = 0; i < N; i++)
            half[i] = d == 1 ? fl_f32_to_bf16(values[i]) : fl_f32_to_f16(values[i]);
        fl_st_tensor t = tensor(dtypes[d], d ? (const void *)half : values, N);
        fl_scale_summary s = {0};
        fl_err err = {0};
        int rc = fl_scale_summarize(&s, &t, &err);
        check(!rc && s.min == 0.25f && s.median == 0.5f && s.max == 2.0f, "%s: %g %g %g",
              fl_dtype_name(dtypes[d]), (double)s.min, (double)s.median, (double)s.max);
        check(s.n == N && s.zeros == 2 && s.broken == 3, "%lld zeros, %lld broken of %lld",
              (long long)s.zeros, (long long)s.broken, (long long)s.n);
    }
}

static void test_edges(void) {
    static const float zero[2];
    fl_st_tensor t = tensor(FL_DTYPE_F32, zero, 2);
    fl_scale_summary s;
    fl_err err = {0};
    check(!fl_scale_summarize(&s, &t, &err) && s.zeros == 2 && s.max == 0.0f, "only zeros");
    t = tensor(FL_DTYPE_E4M3, zero, 8);
    check(fl_scale_summarize(&s, &t, &err) == FL_E_UNSUPPORTED && strstr(err.msg, "F8_E4M3"), "%s",
          err.msg);
    t.name = "x.weight_scale_inv";
    check(fl_is_scale(&t), "%s is a scale", t.name);
    t.name = "x.scaled";
    check(!fl_is_scale(&t), "%s is none", t.name);
}

static int step(void *ctx) {
    fl_scale_summary s;
    return fl_scale_summarize(&s, ctx, NULL);
}

int main(void) {
    test_dtypes();
    test_edges();
    fl_st_tensor t = tensor(FL_DTYPE_F32, values, N);
    int n = fixture_sweep(step, &t);
    check(n == 1, "its one allocation may fail");
    return tap_done();
}
