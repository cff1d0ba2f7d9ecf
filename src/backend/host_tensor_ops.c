/* Arithmetic on host tensors, a block of doubles at a time. */
#include <math.h>
#include <string.h>

#include "backend/host_tensor.h"
#include "util/fp8.h"
#include "util/num.h"

enum { BLOCK = 256 };

static int64_t last_dim(const fl_host_tensor *t) {
    return t->t.ndim ? t->t.dim[t->t.ndim - 1] : 1;
}

static bool same_shape(const fl_tensor *a, const fl_tensor *b) {
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++) {
        if (a->dim[i] != b->dim[i]) return false;
    }
    return true;
}

int fl_tensor_match(int64_t *period, const fl_tensor *t, const fl_tensor *b, fl_err *err) {
    char st[96], sb[96];
    *period = fl_tensor_numel(b);
    if (same_shape(t, b) || (b->ndim == 1 && t->ndim > 1 && b->dim[0] == t->dim[t->ndim - 1]))
        return FL_OK;
    return fl_fail(err, FL_E_ARG, "tensor: shape %s does not go with %s", fl_tensor_shape(sb, b),
                   fl_tensor_shape(st, t));
}

/* Row-major steps over t and b together: *period is how many elements of b there are
 * before it repeats. */
static int match(int64_t *period, const fl_host_tensor *t, const fl_host_tensor *b, fl_err *err) {
    int rc = fl_host_tensor_writable(t, err);
    return rc ? rc : fl_tensor_match(period, &t->t, &b->t, err);
}

/* t[i] = f(t[i], b[i], number); b NULL: number alone. */
typedef void (*block_fn)(double *t, const double *b, double number, int64_t n);

static void run_blocks(fl_host_tensor *t, const fl_host_tensor *b, int64_t period, double number,
                       block_fn f) {
    double x[BLOCK], y[BLOCK];
    int64_t n = fl_host_tensor_numel(t), at = 0, in_b = 0;
    while (at < n) {
        int64_t len = fl_min_i64(BLOCK, n - at);
        if (b) {
            len = fl_min_i64(len, period - in_b);
            fl_host_tensor_load(y, b, in_b, len);
            in_b = in_b + len == period ? 0 : in_b + len;
        }
        fl_host_tensor_load(x, t, at, len);
        f(x, b ? y : NULL, number, len);
        fl_host_tensor_store(t, x, at, len);
        at += len;
    }
}

static void add(double *t, const double *b, double number, int64_t n) {
    for (int64_t i = 0; i < n; i++) t[i] += b ? b[i] : number;
}
static void mul(double *t, const double *b, double number, int64_t n) {
    for (int64_t i = 0; i < n; i++) t[i] *= b ? b[i] : number;
}
static void copy(double *t, const double *b, double number, int64_t n) {
    for (int64_t i = 0; i < n; i++) t[i] = b ? b[i] : number;
}
static void fill_where(double *t, const double *mask, double number, int64_t n) {
    for (int64_t i = 0; i < n; i++) t[i] = mask[i] != 0.0 ? number : t[i];
}

static const block_fn functions[] = {
    [FL_HOST_ADD] = add, [FL_HOST_MUL] = mul, [FL_HOST_COPY] = copy};

int fl_host_tensor_apply(fl_host_tensor *t, fl_host_op op, const fl_host_tensor *b, fl_err *err) {
    fl_host_tensor *own = NULL;
    int64_t period;
    int rc = match(&period, t, b, err);
    if (rc) return rc;
    /* A row of t itself would change under its own operation: take a copy. */
    if (b->storage == t->storage && !same_shape(&t->t, &b->t)) {
        if ((rc = fl_host_tensor_convert(&own, b, b->t.dtype, err))) return rc;
        b = own;
    }
    run_blocks(t, b, period, 0.0, functions[op]);
    fl_host_tensor_free(own);
    return FL_OK;
}

int fl_host_tensor_apply_number(fl_host_tensor *t, fl_host_op op, double b, fl_err *err) {
    int rc = fl_host_tensor_writable(t, err);
    if (!rc) run_blocks(t, NULL, 0, b, functions[op]);
    return rc;
}

int fl_host_tensor_mask_fill(fl_host_tensor *t, const fl_host_tensor *mask, double value,
                             fl_err *err) {
    int64_t period;
    int rc = match(&period, t, mask, err);
    if (!rc && mask->storage == t->storage && !same_shape(&t->t, &mask->t))
        rc = fl_fail(err, FL_E_ARG, "mask_fill: the mask is a part of the tensor");
    if (!rc) run_blocks(t, mask, period, value, fill_where);
    return rc;
}

/* Three passes over a row of any length without memory of its own. */
static void softmax_row(fl_host_tensor *t, int64_t first, int64_t n, double temperature) {
    double x[BLOCK], max = -INFINITY, sum = 0.0;
    for (int pass = 0; pass < 3; pass++) {
        for (int64_t at = 0; at < n; at += BLOCK) {
            int64_t len = fl_min_i64(BLOCK, n - at);
            fl_host_tensor_load(x, t, first + at, len);
            for (int64_t i = 0; i < len; i++) {
                if (pass == 0)
                    max = x[i] > max || isnan(x[i]) ? x[i] : max;
                else if (pass == 1)
                    sum += exp((x[i] - max) / temperature);
                else
                    x[i] = exp((x[i] - max) / temperature) / sum;
            }
            if (pass == 2) fl_host_tensor_store(t, x, first + at, len);
        }
    }
}

int fl_host_tensor_softmax(fl_host_tensor *t, double temperature, fl_err *err) {
    int rc = fl_host_tensor_writable(t, err);
    if (rc) return rc;
    if (!(temperature > 0.0 && temperature < INFINITY))
        return fl_fail(err, FL_E_ARG, "softmax: temperature %g is not in (0, inf)", temperature);
    if (t->t.dtype == FL_DTYPE_I32)
        return fl_fail(err, FL_E_ARG, "softmax: an i32 tensor holds no probabilities");
    int64_t n = last_dim(t), total = fl_host_tensor_numel(t);
    for (int64_t first = 0; first < total; first += n) softmax_row(t, first, n, temperature);
    return FL_OK;
}

/* ---- FP8 ---- */

static int64_t n_rows(const fl_host_tensor *t) {
    return t->t.ndim >= 2 ? t->t.dim[0] : 1;
}

static int absmax(float *out, const fl_host_tensor *t, int64_t first, int64_t n, fl_err *err) {
    double x[BLOCK], max = 0.0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t len = fl_min_i64(BLOCK, n - at);
        fl_host_tensor_load(x, t, first + at, len);
        for (int64_t i = 0; i < len; i++) {
            if (!isfinite(x[i]))
                return fl_fail(err, FL_E_ARG, "quantize: element %lld is %g",
                               (long long)(first + at + i + 1), x[i]);
            max = fmax(max, fabs(x[i]));
        }
    }
    *out = (float)max;
    return FL_OK;
}

static void quantize_row(fl_host_tensor *q, const fl_host_tensor *t, int64_t first, int64_t n,
                         float scale) {
    double x[BLOCK];
    uint8_t *codes = (uint8_t *)q->t.data + first;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t len = fl_min_i64(BLOCK, n - at);
        fl_host_tensor_load(x, t, first + at, len);
        for (int64_t i = 0; i < len; i++) codes[at + i] = fl_f32_to_e4m3((float)x[i] / scale);
    }
}

int fl_host_tensor_quantize(fl_host_tensor **q_out, fl_host_tensor **scale_out,
                            const fl_host_tensor *t, fl_quant_scheme scheme, fl_err *err) {
    fl_host_tensor *q = NULL, *scale = NULL;
    int64_t rows = scheme == FL_QUANT_TENSOR ? 1 : n_rows(t);
    const bool group = scheme == FL_QUANT_GROUP, act = group || scheme == FL_QUANT_TOKEN;
    int64_t total = fl_host_tensor_numel(t), n = rows ? total / rows : 0;
    int64_t len = group ? FL_ACT_GROUP_K : n, shape[2] = {rows, group ? fl_act_groups(n) : 1};
    int rc;
    if ((rc = fl_host_tensor_new(&q, FL_DTYPE_E4M3, t->t.dim, t->t.ndim, err)) ||
        (rc = fl_host_tensor_new(&scale, FL_DTYPE_F32, shape, group ? 2 : 1, err)))
        goto done;
    for (int64_t i = 0; i < rows * shape[1]; i++) {
        int64_t k = i % shape[1] * len, at = i / shape[1] * n + k, here = fl_min_i64(len, n - k);
        float amax, *s = (float *)scale->t.data + i;
        if ((rc = absmax(&amax, t, at, here, err))) goto done;
        *s = act ? fl_act_scale(amax) : fl_weight_scale(amax);
        quantize_row(q, t, at, here, *s);
    }
    *q_out = q;
    *scale_out = scale;
    q = scale = NULL;
done:
    fl_host_tensor_free(q);
    fl_host_tensor_free(scale);
    return rc;
}

int fl_host_tensor_dequantize(fl_host_tensor **out, const fl_host_tensor *q,
                              const fl_host_tensor *scale, fl_dtype dtype, fl_err *err) {
    fl_host_tensor *y = NULL;
    double x[BLOCK], s;
    int64_t rows = n_rows(q), n_scales = fl_host_tensor_numel(scale);
    int64_t total = fl_host_tensor_numel(q), n = rows ? total / rows : 0;
    int64_t groups = scale->t.ndim == 2 ? fl_act_groups(n) : 1;
    int64_t len = groups > 1 ? FL_ACT_GROUP_K : n;
    int rc;
    if (n_scales != 1 && n_scales != rows * groups)
        return fl_fail(err, FL_E_ARG, "dequantize: %lld scales for %lld rows", (long long)n_scales,
                       (long long)rows);
    if ((rc = fl_host_tensor_new(&y, dtype, q->t.dim, q->t.ndim, err))) return rc;
    for (int64_t at = 0; at < total;) {
        int64_t row = at / n, group = at % n / len;
        int64_t here = fl_min_i64(fl_min_i64(len - at % n % len, n - at % n), BLOCK);
        fl_host_tensor_load(&s, scale, n_scales == 1 ? 0 : row * groups + group, 1);
        fl_host_tensor_load(x, q, at, here);
        for (int64_t i = 0; i < here; i++) x[i] *= s;
        fl_host_tensor_store(y, x, at, here);
        at += here;
    }
    *out = y;
    return FL_OK;
}
