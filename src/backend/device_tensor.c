#include "backend/device_tensor.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

#include "util/mem.h"
#include "util/num.h"

struct fl_device {
    atomic_int refs;
    const fl_backend_ops *ops;
    fl_backend *be;
    char name[16];
};

typedef struct fl_device_storage {
    atomic_int refs;
    fl_device *device;
    void *data;
} fl_device_storage;

/* ---- devices ---- */

int fl_device_open(fl_device **out, const char *name, fl_err *err) {
    fl_backend_params p = {.max_rows = FL_HOST_LINEAR_ROWS};
    const fl_backend_ops *ops;
    int rc = fl_backend_device(&ops, &p.device, name, err);
    if (rc) return rc;
    if (!ops->map) return fl_fail(err, FL_E_ARG, "device: '%s' has no tensors of its own", name);
    fl_device *d = fl_alloc(sizeof(*d));
    if (!d) return fl_fail(err, FL_E_NOMEM, "%s", name);
    if ((rc = ops->open(&d->be, &p, err))) {
        fl_free(d);
        return rc;
    }
    atomic_init(&d->refs, 1);
    d->ops = ops;
    snprintf(d->name, sizeof(d->name), "%s:%d", ops->name, p.device);
    *out = d;
    return FL_OK;
}

fl_device *fl_device_ref(fl_device *d) {
    atomic_fetch_add(&d->refs, 1);
    return d;
}

void fl_device_unref(fl_device *d) {
    if (!d || atomic_fetch_sub(&d->refs, 1) > 1) return;
    d->ops->close(d->be);
    fl_free(d);
}

const char *fl_device_name(const fl_device *d) {
    return d->name;
}
const fl_backend_ops *fl_device_ops(const fl_device *d) {
    return d->ops;
}
fl_backend *fl_device_backend(const fl_device *d) {
    return d->be;
}
fl_device *fl_device_of(const fl_device_tensor *t) {
    return t->storage->device;
}

/* ---- tensors ---- */

static uint64_t bytes_of(const fl_tensor *t) {
    return (uint64_t)(fl_tensor_numel(t) * fl_dtype_bytes(t->dtype));
}

/* All of t as one row of elements. */
static fl_tensor flat(const fl_tensor *t) {
    return fl_tensor_1d(t->data, t->dtype, fl_tensor_numel(t));
}

/* Zeros of `shape`'s dimensions in a type. */
static int tensor_new(fl_device_tensor **out, fl_device *d, const fl_tensor *shape, fl_dtype dtype,
                      fl_err *err) {
    fl_device_tensor *t = fl_alloc(sizeof(*t));
    fl_device_storage *s = t ? fl_alloc(sizeof(*s)) : NULL;
    if (!s) {
        fl_free(t);
        return fl_fail(err, FL_E_NOMEM, "tensor");
    }
    t->t = *shape;
    t->t.dtype = dtype;
    int rc = d->ops->mem_new(d->be, &s->data, bytes_of(&t->t), err);
    if (rc) {
        fl_free(s);
        fl_free(t);
        return rc;
    }
    atomic_init(&s->refs, 1);
    s->device = fl_device_ref(d);
    t->t.data = s->data;
    t->storage = s;
    *out = t;
    return FL_OK;
}

void fl_device_tensor_free(fl_device_tensor *t) {
    if (!t) return;
    fl_device_storage *s = t->storage;
    fl_free(t);
    if (atomic_fetch_sub(&s->refs, 1) > 1) return;
    s->device->ops->mem_free(s->device->be, s->data);
    fl_device_unref(s->device);
    fl_free(s);
}

int fl_device_tensor_upload(fl_device_tensor **out, fl_device *d, const fl_host_tensor *t,
                            fl_err *err) {
    fl_device_tensor *mine;
    int rc = tensor_new(&mine, d, &t->t, t->t.dtype, err);
    if (rc) return rc;
    const fl_tensor all = flat(&mine->t);
    if (all.dim[0]) rc = d->ops->write(d->be, &all, t->t.data, err);
    if (rc)
        fl_device_tensor_free(mine);
    else
        *out = mine;
    return rc;
}

int fl_device_tensor_download(fl_host_tensor **out, const fl_device_tensor *t, fl_err *err) {
    const fl_device *d = fl_device_of(t);
    const fl_tensor all = flat(&t->t);
    fl_host_tensor *mine;
    int rc = fl_host_tensor_new(&mine, t->t.dtype, t->t.dim, t->t.ndim, err);
    if (rc) return rc;
    if (all.dim[0]) rc = d->ops->read(d->be, mine->t.data, &all, err);
    if (rc)
        fl_host_tensor_free(mine);
    else
        *out = mine;
    return rc;
}

int fl_device_tensor_convert(fl_device_tensor **out, const fl_device_tensor *t, fl_dtype dtype,
                             fl_err *err) {
    fl_device *d = fl_device_of(t);
    fl_device_tensor *mine;
    int rc = tensor_new(&mine, d, &t->t, dtype, err);
    if (rc) return rc;
    if (dtype == t->t.dtype)
        rc = d->ops->copy(d->be, mine->t.data, t->t.data, bytes_of(&t->t), err);
    else
        rc = fl_device_tensor_apply(mine, FL_MAP_COPY, t, 0.0, err);
    if (rc)
        fl_device_tensor_free(mine);
    else
        *out = mine;
    return rc;
}

int fl_device_tensor_row(fl_device_tensor **out, const fl_device_tensor *t, int64_t i,
                         fl_err *err) {
    fl_device_tensor *row = fl_alloc(sizeof(*row));
    if (!row) return fl_fail(err, FL_E_NOMEM, "tensor: a view");
    int rc = fl_tensor_row(&row->t, &t->t, i, err);
    if (rc) {
        fl_free(row);
        return rc;
    }
    row->storage = t->storage;
    atomic_fetch_add(&row->storage->refs, 1);
    *out = row;
    return FL_OK;
}

/* Element `at` as a tensor of its own. */
static fl_tensor element(const fl_device_tensor *t, int64_t at) {
    return fl_tensor_1d((char *)t->t.data + at * fl_dtype_bytes(t->t.dtype), t->t.dtype, 1);
}

int fl_device_tensor_load(double *out, const fl_device_tensor *t, int64_t at, fl_err *err) {
    const fl_device *d = fl_device_of(t);
    const fl_tensor one = element(t, at);
    fl_host_tensor *host;
    int rc = fl_host_tensor_new(&host, one.dtype, one.dim, 1, err);
    if (rc) return rc;
    if (!(rc = d->ops->read(d->be, host->t.data, &one, err))) fl_host_tensor_load(out, host, 0, 1);
    fl_host_tensor_free(host);
    return rc;
}

int fl_device_tensor_store(fl_device_tensor *t, double v, int64_t at, fl_err *err) {
    const fl_device *d = fl_device_of(t);
    const fl_map m = {.op = FL_MAP_COPY, .t = element(t, at), .n = 1, .number = v};
    return d->ops->map(d->be, &m, err);
}

/* ---- arithmetic ---- */

int fl_device_tensor_apply(fl_device_tensor *t, fl_map_op op, const fl_device_tensor *b,
                           double number, fl_err *err) {
    fl_device *d = fl_device_of(t);
    fl_device_tensor *own = NULL;
    int64_t period, n = fl_tensor_numel(&t->t);
    int rc = fl_tensor_match(&period, &t->t, &b->t, err);
    if (rc || !n) return rc;
    /* A row of t itself would change under its own operation: take a copy. */
    if (b->storage == t->storage && period != n) {
        if ((rc = fl_device_tensor_convert(&own, b, b->t.dtype, err))) return rc;
        b = own;
    }
    const fl_map m = {
        .op = op, .t = t->t, .b = b->t, .n = n, .row = period, .group = 1, .number = number};
    rc = d->ops->map(d->be, &m, err);
    fl_device_tensor_free(own);
    return rc;
}

int fl_device_tensor_apply_number(fl_device_tensor *t, fl_map_op op, double b, fl_err *err) {
    fl_device *d = fl_device_of(t);
    const fl_map m = {.op = op, .t = t->t, .n = fl_tensor_numel(&t->t), .number = b};
    return d->ops->map(d->be, &m, err);
}

/* t as a matrix of rows of n elements. */
static fl_tensor as_rows(const fl_tensor *t, int64_t rows, int64_t n) {
    return fl_tensor_2d(t->data, t->dtype, rows, n);
}

int fl_device_tensor_softmax(fl_device_tensor *t, double temperature, fl_err *err) {
    fl_device *d = fl_device_of(t);
    const int64_t total = fl_tensor_numel(&t->t), n = t->t.ndim ? t->t.dim[t->t.ndim - 1] : 1;
    if (!(temperature > 0.0 && temperature < INFINITY))
        return fl_fail(err, FL_E_ARG, "softmax: temperature %g is not in (0, inf)", temperature);
    if (t->t.dtype == FL_DTYPE_I32)
        return fl_fail(err, FL_E_ARG, "softmax: an i32 tensor holds no probabilities");
    if (!total) return FL_OK;
    const fl_tensor rows = as_rows(&t->t, total / n, n);
    return d->ops->softmax(d->be, &rows, temperature, err);
}

/* A scale that is NaN stands for a value that cannot be quantized. */
static int check_scales(const fl_device_tensor *scale, fl_err *err) {
    fl_host_tensor *host;
    int rc = fl_device_tensor_download(&host, scale, err);
    if (rc) return rc;
    const float *s = host->t.data;
    for (int64_t i = 0; i < fl_tensor_numel(&host->t) && !rc; i++) {
        if (isnan(s[i]))
            rc = fl_fail(err, FL_E_ARG, "quantize: group %lld has a NaN or an infinity",
                         (long long)i + 1);
    }
    fl_host_tensor_free(host);
    return rc;
}

int fl_device_tensor_quantize(fl_device_tensor **q_out, fl_device_tensor **scale_out,
                              const fl_device_tensor *t, fl_quant_scheme scheme, fl_err *err) {
    fl_device *d = fl_device_of(t);
    const bool group = scheme == FL_QUANT_GROUP;
    const int64_t total = fl_tensor_numel(&t->t);
    const int64_t rows = scheme == FL_QUANT_TENSOR || t->t.ndim < 2 ? 1 : t->t.dim[0];
    const int64_t n = rows ? total / rows : 0;
    const fl_tensor shape = group ? fl_tensor_2d(NULL, FL_DTYPE_F32, rows, fl_act_groups(n))
                                  : fl_tensor_1d(NULL, FL_DTYPE_F32, rows);
    fl_device_tensor *q = NULL, *scale = NULL;
    int rc;
    if ((rc = tensor_new(&q, d, &t->t, FL_DTYPE_E4M3, err)) ||
        (rc = tensor_new(&scale, d, &shape, FL_DTYPE_F32, err)))
        goto done;
    const fl_encode e = {.x = as_rows(&t->t, rows, n),
                         .q = q->t.data,
                         .scale = scale->t.data,
                         .group = group ? FL_ACT_GROUP_K : 0,
                         .weight = scheme == FL_QUANT_TENSOR || scheme == FL_QUANT_CHANNEL};
    if ((rc = d->ops->encode(d->be, &e, err)) || (rc = check_scales(scale, err))) goto done;
    *q_out = q;
    *scale_out = scale;
    q = scale = NULL;
done:
    fl_device_tensor_free(q);
    fl_device_tensor_free(scale);
    return rc;
}

/* Codes are exact in every type but E4M3's own products, so copy and multiply rounds once. */
int fl_device_tensor_dequantize(fl_device_tensor **out, const fl_device_tensor *q,
                                const fl_device_tensor *scale, fl_dtype dtype, fl_err *err) {
    fl_device *d = fl_device_of(q);
    fl_device_tensor *y;
    const int64_t rows = q->t.ndim >= 2 ? q->t.dim[0] : 1, total = fl_tensor_numel(&q->t);
    const int64_t n = rows ? total / rows : 0, scales = fl_tensor_numel(&scale->t);
    const int64_t groups = scale->t.ndim == 2 ? fl_act_groups(n) : 1;
    if (scales != 1 && scales != rows * groups)
        return fl_fail(err, FL_E_ARG, "dequantize: %lld scales for %lld rows", (long long)scales,
                       (long long)rows);
    int rc = fl_device_tensor_convert(&y, q, dtype, err);
    if (rc) return rc;
    const fl_map m = {.op = FL_MAP_MUL,
                      .t = y->t,
                      .b = scale->t,
                      .n = total,
                      .row = scales == 1 ? fl_max_i64(total, 1) : n,
                      .per_row = scales == 1 ? 0 : groups,
                      .group = scales == 1  ? fl_max_i64(total, 1)
                               : groups > 1 ? FL_ACT_GROUP_K
                                            : n};
    if (total) rc = d->ops->map(d->be, &m, err);
    if (rc)
        fl_device_tensor_free(y);
    else
        *out = y;
    return rc;
}
