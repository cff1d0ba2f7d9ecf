/* Arithmetic on arrays: checked here for all of them, done by the device, or for host memory here,
 * a block of doubles at a time. */
#include <math.h>
#include <string.h>

#include "backend/array.h"
#include "util/fp8.h"
#include "util/num.h"

enum { BLOCK = 256 };

/* ---- the ops of users' tensors (backend.h) in host memory ---- */

/* x[i] = x[i] op b[i] */
static void map_block(fl_map_op op, double *x, const double *b, double number, int64_t n) {
    switch (op) {
    case FL_MAP_ADD:
        for (int64_t i = 0; i < n; i++) x[i] += b[i];
        break;
    case FL_MAP_MUL:
        for (int64_t i = 0; i < n; i++) x[i] *= b[i];
        break;
    case FL_MAP_COPY:
        memcpy(x, b, (size_t)n * sizeof(*x));
        break;
    case FL_MAP_FILL:
        for (int64_t i = 0; i < n; i++) x[i] = b[i] != 0.0 ? number : x[i];
        break;
    }
}

static void fill(double *out, double v, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = v;
}

static void host_map(const fl_tensor_map *m) {
    double x[BLOCK], b[BLOCK];
    const bool tensor = m->b.dtype != FL_DTYPE_NONE;
    if (!tensor) fill(b, m->number, fl_min_i64(BLOCK, m->n));
    for (int64_t at = 0, len; at < m->n; at += len) {
        len = fl_min_i64(BLOCK, m->n - at);
        if (tensor) { /* as far as one run, or one repeated element, of b goes */
            const int64_t in_row = at % m->row,
                          first = at / m->row * m->per_row + in_row / m->group;
            len = fl_min_i64(len, m->row - in_row);
            if (m->group > 1) len = fl_min_i64(len, m->group - in_row % m->group);
            fl_tensor_load(b, &m->b, first, m->group > 1 ? 1 : len);
            if (m->group > 1) fill(b, b[0], len);
        }
        if (m->op != FL_MAP_COPY) fl_tensor_load(x, &m->x, at, len);
        map_block(m->op, x, b, m->number, len);
        fl_tensor_store(&m->t, x, at, len);
    }
}

/* Three passes over a row of any length without memory of its own. */
static void softmax_row(const fl_tensor *t, int64_t first, int64_t n, double temperature) {
    double x[BLOCK], max = -INFINITY, sum = 0.0;
    for (int pass = 0; pass < 3; pass++) {
        for (int64_t at = 0; at < n; at += BLOCK) {
            int64_t len = fl_min_i64(BLOCK, n - at);
            fl_tensor_load(x, t, first + at, len);
            for (int64_t i = 0; i < len; i++) {
                if (pass == 0)
                    max = x[i] > max || isnan(x[i]) ? x[i] : max;
                else if (pass == 1)
                    sum += exp((x[i] - max) / temperature);
                else
                    x[i] = exp((x[i] - max) / temperature) / sum;
            }
            if (pass == 2) fl_tensor_store(t, x, first + at, len);
        }
    }
}

/* NaN when an element is not finite. */
static float absmax(const fl_tensor *t, int64_t first, int64_t n) {
    double x[BLOCK], max = 0.0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t len = fl_min_i64(BLOCK, n - at);
        fl_tensor_load(x, t, first + at, len);
        for (int64_t i = 0; i < len; i++) {
            if (!isfinite(x[i])) return NAN;
            max = fmax(max, fabs(x[i]));
        }
    }
    return (float)max;
}

static void encode_run(uint8_t *q, const fl_tensor *t, int64_t first, int64_t n, float scale) {
    double x[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t len = fl_min_i64(BLOCK, n - at);
        fl_tensor_load(x, t, first + at, len);
        for (int64_t i = 0; i < len; i++) q[first + at + i] = fl_f32_to_e4m3((float)x[i] / scale);
    }
}

static void host_encode(const fl_encode *e) {
    const int64_t n = e->x.dim[1], len = e->group ? e->group : n;
    const int64_t groups = e->group ? (n + len - 1) / len : 1;
    for (int64_t i = 0; i < e->x.dim[0] * groups; i++) {
        int64_t k = i % groups * len, at = i / groups * n + k, here = fl_min_i64(len, n - k);
        float amax = absmax(&e->x, at, here);
        e->scale[i] = isnan(amax) ? NAN : e->weight ? fl_weight_scale(amax) : fl_act_scale(amax);
        if (!isnan(amax)) encode_run(e->q, &e->x, at, here, e->scale[i]);
    }
}

/* ---- wherever they are ---- */

static int map(const fl_array *t, const fl_tensor_map *m, fl_err *err) {
    const fl_device *d = fl_array_device(t);
    if (d) return d->ops->map(d->be, m, err);
    host_map(m);
    return FL_OK;
}

static bool same_shape(const fl_tensor *a, const fl_tensor *b) {
    return a->ndim == b->ndim && !memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof(*a->dim));
}

/* Whether b goes with t element by element, or with every row. */
static int check_match(const fl_array *t, const fl_array *b, fl_err *err) {
    char st[96], sb[96];
    if (same_shape(&t->t, &b->t) ||
        (b->t.ndim == 1 && t->t.ndim > 1 && b->t.dim[0] == t->t.dim[t->t.ndim - 1]))
        return FL_OK;
    return fl_fail(err, FL_E_ARG, "tensor: shape %s does not go with %s", fl_array_shape(sb, b),
                   fl_array_shape(st, t));
}

int fl_array_apply(fl_array *t, fl_map_op op, const fl_array *b, double number, fl_err *err) {
    fl_array *own = NULL;
    const int64_t n = fl_array_numel(t), period = fl_array_numel(b);
    int rc;
    if ((rc = fl_array_writable(t, err)) || (rc = check_match(t, b, err)) || !n) return rc;
    /* A row of t itself would change under its own operation: take a copy. */
    if (b->storage == t->storage && period != n) {
        if ((rc = fl_array_copy(&own, b, fl_array_device(b), b->t.dtype, err))) return rc;
        b = own;
    }
    const fl_tensor_map m = {.op = op,
                             .t = t->t,
                             .x = t->t,
                             .b = b->t,
                             .n = n,
                             .row = period,
                             .group = 1,
                             .number = number};
    rc = map(t, &m, err);
    fl_array_free(own);
    return rc;
}

int fl_array_apply_number(fl_array *t, fl_map_op op, double number, fl_err *err) {
    const fl_tensor_map m = {
        .op = op, .t = t->t, .x = t->t, .n = fl_array_numel(t), .number = number};
    int rc = fl_array_writable(t, err);
    return rc ? rc : map(t, &m, err);
}

int fl_array_apply_at(fl_array *t, fl_map_op op, int64_t at, double number, fl_err *err) {
    void *data = (char *)t->t.data + at * fl_dtype_bytes(t->t.dtype);
    const fl_tensor one = fl_tensor_1d(data, t->t.dtype, 1);
    const fl_tensor_map m = {.op = op, .t = one, .x = one, .n = 1, .number = number};
    int rc = fl_array_writable(t, err);
    return rc ? rc : map(t, &m, err);
}

int fl_array_softmax(fl_array *t, double temperature, fl_err *err) {
    const fl_device *d = fl_array_device(t);
    const int64_t total = fl_array_numel(t), n = t->t.ndim ? t->t.dim[t->t.ndim - 1] : 1;
    int rc = fl_array_writable(t, err);
    if (rc) return rc;
    if (!(temperature > 0.0 && temperature < INFINITY))
        return fl_fail(err, FL_E_ARG, "softmax: temperature %g is not in (0, inf)", temperature);
    if (t->t.dtype == FL_DTYPE_I32)
        return fl_fail(err, FL_E_ARG, "softmax: an i32 tensor holds no probabilities");
    if (!total) return FL_OK;
    const fl_tensor rows = fl_tensor_2d(t->t.data, t->t.dtype, total / n, n);
    if (d) return d->ops->softmax(d->be, &rows, temperature, err);
    for (int64_t first = 0; first < total; first += n) softmax_row(&rows, first, n, temperature);
    return FL_OK;
}

/* ---- FP8 ---- */

/* The first element of t that cannot be quantized. */
static int not_finite(const fl_array *t, fl_err *err) {
    fl_array *host = NULL;
    double v = 0.0;
    int64_t i = 0;
    int rc = fl_array_copy(&host, t, NULL, t->t.dtype, err);
    if (rc) return rc;
    for (bool found = false; !found && i < fl_array_numel(t); i++) {
        fl_tensor_load(&v, &host->t, i, 1);
        found = !isfinite(v);
    }
    fl_array_free(host);
    return fl_fail(err, FL_E_ARG, "quantize: element %lld is %s", (long long)i,
                   isnan(v)  ? "NaN"
                   : v > 0.0 ? "inf"
                             : "-inf");
}

/* A scale that is NaN stands for an element that is not finite. */
static int check_scales(const fl_array *scale, const fl_array *t, fl_err *err) {
    fl_array *host = NULL;
    int rc = fl_array_copy(&host, scale, NULL, FL_DTYPE_F32, err);
    if (rc) return rc;
    const float *s = host->t.data;
    for (int64_t i = 0; i < fl_array_numel(host) && !rc; i++) {
        if (isnan(s[i])) rc = not_finite(t, err);
    }
    fl_array_free(host);
    return rc;
}

/* Rows of t for scales, of *n elements each; a vector is one. */
static int64_t scaled_rows(const fl_array *t, int64_t *n) {
    const int64_t rows = t->t.ndim >= 2 ? t->t.dim[0] : 1;
    *n = rows ? fl_array_numel(t) / rows : 0;
    return rows;
}

int fl_array_quantize(fl_array **q_out, fl_array **scale_out, const fl_array *t,
                      fl_quant_scheme scheme, fl_err *err) {
    fl_device *d = fl_array_device(t);
    fl_array *q = NULL, *scale = NULL;
    const bool group = scheme == FL_QUANT_GROUP;
    int64_t n, rows = scaled_rows(t, &n);
    if (scheme == FL_QUANT_TENSOR) {
        n *= rows;
        rows = 1;
    }
    const int64_t shape[2] = {rows, fl_act_groups(n)};
    int rc;
    if ((rc = fl_array_new(&q, d, FL_DTYPE_E4M3, t->t.dim, t->t.ndim, err)) ||
        (rc = fl_array_new(&scale, d, FL_DTYPE_F32, shape, group ? 2 : 1, err)))
        goto done;
    const fl_encode e = {.x = fl_tensor_2d(t->t.data, t->t.dtype, rows, n),
                         .q = q->t.data,
                         .scale = scale->t.data,
                         .group = group ? FL_ACT_GROUP_K : 0,
                         .weight = scheme == FL_QUANT_TENSOR || scheme == FL_QUANT_CHANNEL};
    if (!d)
        host_encode(&e);
    else if ((rc = d->ops->encode(d->be, &e, err)))
        goto done;
    if ((rc = check_scales(scale, t, err))) goto done;
    *q_out = q;
    *scale_out = scale;
    q = scale = NULL;
done:
    fl_array_free(q);
    fl_array_free(scale);
    return rc;
}

int fl_array_dequantize(fl_array **out, const fl_array *q, const fl_array *scale, fl_dtype dtype,
                        fl_err *err) {
    fl_array *y;
    int64_t n, rows = scaled_rows(q, &n);
    const int64_t scales = fl_array_numel(scale), total = rows * n;
    const int64_t groups = scale->t.ndim == 2 ? fl_act_groups(n) : 1;
    if (scales != 1 && scales != rows * groups)
        return fl_fail(err, FL_E_ARG, "dequantize: %lld scales for %lld rows", (long long)scales,
                       (long long)rows);
    int rc = fl_array_new(&y, fl_array_device(q), dtype, q->t.dim, q->t.ndim, err);
    if (rc) return rc;
    fl_tensor_map m = {.op = FL_MAP_MUL, .t = y->t, .x = q->t, .b = scale->t, .n = total};
    m.row = scales == 1 ? total : n;
    m.per_row = scales == 1 ? 0 : groups;
    m.group = scales == 1 || groups == 1 ? m.row : FL_ACT_GROUP_K;
    if (total) rc = map(y, &m, err);
    if (rc)
        fl_array_free(y);
    else
        *out = y;
    return rc;
}
