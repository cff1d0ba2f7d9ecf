#include "backend/array.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

typedef struct fl_storage {
    atomic_int refs;
    fl_device *device; /* NULL: host memory */
    fl_keep keep;      /* release NULL: `own` is ours to free */
    void *own;
} fl_storage;

static void storage_unref(fl_storage *s) {
    if (atomic_fetch_sub(&s->refs, 1) > 1) return;
    if (s->keep.release) s->keep.release(s->keep.ctx);
    if (s->device)
        s->device->ops->mem_free(s->device->be, s->own);
    else
        fl_free_aligned(s->own);
    fl_device_unref(s->device);
    fl_free(s);
}

/* ---- what they are ---- */

bool fl_array_dtype_ok(fl_dtype dtype) {
    return dtype >= FL_DTYPE_F32 && dtype <= FL_DTYPE_I32;
}

int64_t fl_array_numel(const fl_array *t) {
    int64_t n = 1;
    for (int i = 0; i < t->t.ndim; i++) n *= t->t.dim[i];
    return n;
}

fl_device *fl_array_device(const fl_array *t) {
    return t->storage->device;
}

const char *fl_array_device_name(const fl_array *t) {
    return t->storage->device ? t->storage->device->name : "cpu";
}

int fl_array_writable(const fl_array *t, fl_err *err) {
    if (!t->storage->keep.read_only) return FL_OK;
    return fl_fail(err, FL_E_ARG, "tensor: read-only, clone() it to change it");
}

const char *fl_array_shape(char out[96], const fl_array *t) {
    int n = snprintf(out, 96, "[");
    for (int i = 0; i < t->t.ndim; i++)
        n += snprintf(out + n, (size_t)(96 - n), "%s%lld", i ? "," : "", (long long)t->t.dim[i]);
    snprintf(out + n, (size_t)(96 - n), "]");
    return out;
}

/* ---- making them ---- */

/* Fill t's shape; *bytes gets its size. */
static int set_shape(fl_tensor *t, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                     uint64_t *bytes, fl_err *err) {
    uint64_t n = 1;
    if (!fl_array_dtype_ok(dtype))
        return fl_fail(err, FL_E_UNSUPPORTED, "tensor: elements of type %s are not computed with",
                       fl_dtype_name(dtype));
    if (ndim < 0 || ndim > FL_MAX_DIMS)
        return fl_fail(err, FL_E_ARG, "tensor: %d dimensions, at most %d", (int)ndim, FL_MAX_DIMS);
    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 0)
            return fl_fail(err, FL_E_ARG, "tensor: dimension %d is %lld", i + 1, (long long)dim[i]);
        if (!fl_mul_u64(n, (uint64_t)dim[i], &n) || n > INT64_MAX / 8)
            return fl_fail(err, FL_E_NOMEM, "tensor: the first %d dimensions are too large", i + 1);
        t->dim[i] = dim[i];
    }
    t->dtype = dtype;
    t->ndim = ndim;
    t->stride = ndim ? fl_tensor_row_len(t) : 1;
    *bytes = n * (uint64_t)fl_dtype_bytes(dtype);
    return FL_OK;
}

/* An array on a new storage with one reference and no memory yet. */
static fl_array *array_with_storage(void) {
    fl_array *t = fl_alloc(sizeof(*t));
    if (!t) return NULL;
    t->storage = fl_alloc(sizeof(*t->storage));
    if (!t->storage) {
        fl_free(t);
        return NULL;
    }
    atomic_init(&t->storage->refs, 1);
    return t;
}

static int reserve(fl_storage *s, fl_device *d, uint64_t bytes, fl_err *err) {
    if (d) {
        s->device = fl_device_ref(d);
        return d->ops->mem_new(d->be, &s->own, bytes, err);
    }
    s->own = fl_alloc_aligned((size_t)(bytes ? bytes : 1), 64);
    if (!s->own) return fl_fail(err, FL_E_NOMEM, "tensor: %llu bytes", (unsigned long long)bytes);
    memset(s->own, 0, (size_t)bytes);
    return FL_OK;
}

int fl_array_new(fl_array **out, fl_device *d, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                 fl_err *err) {
    fl_tensor shape = {0};
    uint64_t bytes;
    int rc = set_shape(&shape, dtype, dim, ndim, &bytes, err);
    if (rc) return rc;
    fl_array *t = array_with_storage();
    if (!t) return fl_fail(err, FL_E_NOMEM, "tensor: %llu bytes", (unsigned long long)bytes);
    if ((rc = reserve(t->storage, d, bytes, err))) {
        fl_array_free(t);
        return rc;
    }
    t->t = shape;
    t->t.data = t->storage->own;
    *out = t;
    return FL_OK;
}

int fl_array_view(fl_array **out, const fl_tensor *view, const fl_keep *keep, fl_err *err) {
    fl_tensor shape = {0};
    uint64_t bytes;
    int rc = set_shape(&shape, view->dtype, view->dim, view->ndim, &bytes, err);
    if (rc) return rc;
    fl_array *t = array_with_storage();
    if (!t) return fl_fail(err, FL_E_NOMEM, "tensor: a view");
    t->t = shape;
    t->t.data = view->data;
    t->storage->keep = *keep;
    *out = t;
    return FL_OK;
}

int fl_array_row(fl_array **out, const fl_array *t, int64_t i, fl_err *err) {
    char shape[96];
    if (t->t.ndim < 1 || i < 0 || i >= t->t.dim[0])
        return fl_fail(err, FL_E_ARG, "tensor: no row %lld in shape %s", (long long)i + 1,
                       fl_array_shape(shape, t));
    fl_array *row = fl_alloc(sizeof(*row));
    if (!row) return fl_fail(err, FL_E_NOMEM, "tensor: a view");
    row->t = (fl_tensor){.dtype = t->t.dtype, .ndim = t->t.ndim - 1};
    for (int d = 0; d < row->t.ndim; d++) row->t.dim[d] = t->t.dim[d + 1];
    row->t.stride = row->t.ndim ? fl_tensor_row_len(&row->t) : 1;
    row->t.data = (char *)t->t.data + i * fl_tensor_row_len(&t->t) * fl_dtype_bytes(t->t.dtype);
    row->storage = t->storage;
    atomic_fetch_add(&row->storage->refs, 1);
    *out = row;
    return FL_OK;
}

void fl_array_free(fl_array *t) {
    if (!t) return;
    storage_unref(t->storage);
    fl_free(t);
}

/* ---- copying ---- */

/* All of t as one row of elements. */
static fl_tensor flat(const fl_array *t) {
    return fl_tensor_1d(t->t.data, t->t.dtype, fl_array_numel(t));
}

/* The elements of t, as they are, into `copy`; not from one device to another. */
static int move(const fl_array *copy, const fl_array *t, fl_err *err) {
    const fl_device *to = fl_array_device(copy), *from = fl_array_device(t);
    const fl_tensor src = flat(t), dst = flat(copy);
    const int64_t bytes = src.dim[0] * fl_dtype_bytes(src.dtype);
    if (!bytes) return FL_OK;
    if (to && from) return to->ops->copy(to->be, dst.data, src.data, (uint64_t)bytes, err);
    if (to) return to->ops->write(to->be, &dst, src.data, err);
    if (from) return from->ops->read(from->be, dst.data, &src, err);
    memcpy(dst.data, src.data, (size_t)bytes);
    return FL_OK;
}

int fl_array_copy(fl_array **out, const fl_array *t, fl_device *d, fl_dtype dtype, fl_err *err) {
    fl_device *from = fl_array_device(t);
    const bool same_type = dtype == t->t.dtype;
    fl_array *copy = NULL;
    int rc;
    /* In two steps: converted where it is, and from device to device through the host. */
    if (d != from && (!same_type || (d && from))) {
        rc = fl_array_copy(&copy, t, same_type ? NULL : from, dtype, err);
        if (!rc) rc = fl_array_copy(out, copy, d, dtype, err);
        fl_array_free(copy);
        return rc;
    }
    if ((rc = fl_array_new(&copy, d, dtype, t->t.dim, t->t.ndim, err))) return rc;
    rc = same_type ? move(copy, t, err) : fl_array_apply(copy, FL_MAP_COPY, t, 0.0, err);
    if (rc)
        fl_array_free(copy);
    else
        *out = copy;
    return rc;
}

/* ---- elements ---- */

void fl_tensor_load(double *out, const fl_tensor *t, int64_t first, int64_t n) {
    const uint8_t *p = (const uint8_t *)t->data + first * fl_dtype_bytes(t->dtype);
    const float *e4m3 = fl_e4m3_table();
    switch (t->dtype) {
    case FL_DTYPE_F32:
        for (int64_t i = 0; i < n; i++) out[i] = (double)((const float *)(const void *)p)[i];
        break;
    case FL_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = (double)fl_bf16_to_f32(((const uint16_t *)(const void *)p)[i]);
        break;
    case FL_DTYPE_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = (double)fl_f16_to_f32(((const uint16_t *)(const void *)p)[i]);
        break;
    case FL_DTYPE_E4M3:
        for (int64_t i = 0; i < n; i++) out[i] = (double)e4m3[p[i]];
        break;
    default:
        for (int64_t i = 0; i < n; i++) out[i] = (double)((const int32_t *)(const void *)p)[i];
        break;
    }
}

static int32_t to_i32(double x) {
    if (isnan(x)) return 0;
    return x <= INT32_MIN ? INT32_MIN : x >= INT32_MAX ? INT32_MAX : (int32_t)rint(x);
}

void fl_tensor_store(const fl_tensor *t, const double *in, int64_t first, int64_t n) {
    uint8_t *p = (uint8_t *)t->data + first * fl_dtype_bytes(t->dtype);
    switch (t->dtype) {
    case FL_DTYPE_F32:
        for (int64_t i = 0; i < n; i++) ((float *)(void *)p)[i] = (float)in[i];
        break;
    case FL_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)(void *)p)[i] = fl_f32_to_bf16((float)in[i]);
        break;
    case FL_DTYPE_F16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)(void *)p)[i] = fl_f32_to_f16((float)in[i]);
        break;
    case FL_DTYPE_E4M3:
        for (int64_t i = 0; i < n; i++) p[i] = fl_f32_to_e4m3((float)in[i]);
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((int32_t *)(void *)p)[i] = to_i32(in[i]);
        break;
    }
}

int fl_array_get(double *out, const fl_array *t, int64_t at, fl_err *err) {
    const fl_device *d = fl_array_device(t);
    fl_tensor one = flat(t);
    uint32_t bits;
    if (d) {
        one.data = (char *)one.data + at * fl_dtype_bytes(one.dtype);
        one.dim[0] = 1;
        int rc = d->ops->read(d->be, &bits, &one, err);
        if (rc) return rc;
        one.data = &bits;
        at = 0;
    }
    fl_tensor_load(out, &one, at, 1);
    return FL_OK;
}
