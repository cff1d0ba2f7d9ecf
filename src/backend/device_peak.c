/* The roofs of a device, through nothing but its backend's ops. */

#include "backend/bandwidth.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/num.h"

enum { PASSES = 5, PASS_BYTES = 1 << 30, MAX_COPIES = 16, PRODUCTS = 4 };
static const double LEAST_SECONDS = 0.25;

typedef struct work { /* ops that are asked for together, then waited for */
    const fl_backend_ops *ops;
    fl_backend *be;
    int (*run)(const struct work *w, fl_err *err);
    int count;     /* runs of a pass */
    double amount; /* of one run: bytes, or multiplications and additions */
    void *to, *from;
    uint64_t bytes;
    fl_tensor out;
    fl_act in;
    fl_linear *lin;
} work;

static int run_copy(const work *w, fl_err *err) {
    return w->ops->copy(w->be, w->to, w->from, w->bytes, err);
}
static int run_product(const work *w, fl_err *err) {
    return w->ops->linear(w->be, &w->out, &w->in, w->lin, err);
}

/* The best of several passes: what else the machine does only makes one slower. */
static int measure(double *rate, const work *w, fl_err *err) {
    const double begin = fl_now();
    double t = begin;
    int rc = w->ops->sync(w->be, err);
    *rate = 0;
    for (int pass = 0; !rc && (pass < PASSES || t - begin < LEAST_SECONDS); pass++) {
        const double t0 = fl_now();
        for (int i = 0; i < w->count && !rc; i++) rc = w->run(w, err);
        if (!rc) rc = w->ops->sync(w->be, err);
        t = fl_now();
        const double now = w->count * w->amount / (t - t0);
        if (!rc && now > *rate) *rate = now;
    }
    return rc;
}

int fl_device_bandwidth(double *bytes_per_second, const fl_backend_ops *ops, fl_backend *be,
                        uint64_t bytes, fl_err *err) {
    if (bytes < FL_BANDWIDTH_MIN || bytes > INT64_MAX / 4)
        return fl_fail(err, FL_E_ARG, "bytes: %llu, at least %d expected",
                       (unsigned long long)bytes, FL_BANDWIDTH_MIN);
    work w = {.ops = ops, .be = be, .run = run_copy, .bytes = bytes, .amount = 2.0 * (double)bytes};
    w.count = (int)fl_min_i64(fl_max_i64(PASS_BYTES / (int64_t)bytes, 1), MAX_COPIES);
    int rc = ops->mem_new(be, &w.to, bytes, err);
    if (!rc) rc = ops->mem_new(be, &w.from, bytes, err);
    if (!rc) rc = measure(bytes_per_second, &w, err);
    ops->mem_free(be, w.to);
    ops->mem_free(be, w.from);
    return rc;
}

/* Small numbers of either sign in a type, as weights have: a product of zeros takes less power. */
static void fill(uint8_t *p, uint64_t bytes, fl_dtype dtype) {
    uint32_t state = 1;
    for (uint64_t i = 0; i < bytes; i++) {
        const uint8_t r = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
        p[i] = dtype == FL_DTYPE_E4M3 || i % 2 == 0 ? r & 0xb7 : (r & 0x80) | 0x3c;
    }
}

typedef struct operands {
    void *x, *scale, *out;
    uint8_t *host;
} operands;

static int make_operands(operands *o, work *w, fl_dtype dtype, int64_t n, fl_err *err) {
    const uint64_t bytes = (uint64_t)(n * n * fl_dtype_bytes(dtype));
    const bool fp8 = dtype == FL_DTYPE_E4M3;
    const float one = 1;
    if (!(o->host = fl_alloc((size_t)bytes)))
        return fl_fail(err, FL_E_NOMEM, "%llu bytes of weights", (unsigned long long)bytes);
    fill(o->host, bytes, dtype);
    const fl_linear_spec spec = {.part = {{o->host, n}},
                                 .n_parts = 1,
                                 .k = n,
                                 .dtype = dtype,
                                 .act = fp8 ? FL_ACT_STATIC : FL_ACT_NONE,
                                 .x_scale = 1};
    int rc = w->ops->linear_new(w->be, &w->lin, &spec, err);
    if (!rc) rc = w->ops->mem_new(w->be, &o->x, bytes, err);
    if (!rc) rc = w->ops->mem_new(w->be, &o->scale, (uint64_t)n * sizeof(float), err);
    if (!rc) rc = w->ops->mem_new(w->be, &o->out, (uint64_t)(n * n) * 2, err);
    if (rc) return rc;
    const fl_tensor x = fl_tensor_2d(o->x, dtype, n, n);
    const fl_tensor scale = fl_tensor_1d(o->scale, FL_DTYPE_F32, 1);
    w->in = (fl_act){.x = x, .q = x, .q_scale = fl_tensor_2d(o->scale, FL_DTYPE_F32, n, 1)};
    w->out = fl_tensor_2d(o->out, FL_DTYPE_BF16, n, n);
    rc = w->ops->write(w->be, &x, o->host, err);
    return rc ? rc : w->ops->write(w->be, &scale, &one, err);
}

int fl_device_flop_peak(double *flops, const fl_backend_ops *ops, fl_backend *be, fl_dtype dtype,
                        int64_t size, fl_err *err) {
    operands o = {0};
    if (dtype != FL_DTYPE_E4M3 && dtype != FL_DTYPE_BF16)
        return fl_fail(err, FL_E_ARG, "dtype: %s, E4M3 or BF16 expected", fl_dtype_name(dtype));
    if (size < 16 || size > FL_DEVICE_PEAK_MAX || size % 16)
        return fl_fail(err, FL_E_ARG, "size: %lld, a multiple of 16 up to %d expected",
                       (long long)size, FL_DEVICE_PEAK_MAX);
    const double edge = (double)size;
    work w = {.ops = ops,
              .be = be,
              .run = run_product,
              .count = PRODUCTS,
              .amount = 2 * edge * edge * edge};
    int rc = make_operands(&o, &w, dtype, size, err);
    if (!rc) rc = measure(flops, &w, err);
    if (w.lin) ops->linear_free(be, w.lin);
    ops->mem_free(be, o.x);
    ops->mem_free(be, o.scale);
    ops->mem_free(be, o.out);
    fl_free(o.host);
    return rc;
}
