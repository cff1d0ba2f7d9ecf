#include "backend/host_tensor.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

typedef struct fl_storage {
    atomic_int refs;
    fl_keep keep; /* release NULL: `own` is ours to free */
    void *own;
} fl_storage;

static void storage_unref(fl_storage *s) {
    if (atomic_fetch_sub(&s->refs, 1) > 1) return;
    if (s->keep.release) s->keep.release(s->keep.ctx);
    fl_free_aligned(s->own);
    fl_free(s);
}

bool fl_host_dtype_ok(fl_dtype dtype) {
    return dtype >= FL_DTYPE_F32 && dtype <= FL_DTYPE_I32;
}

int64_t fl_tensor_numel(const fl_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->dim[i];
    return n;
}

int64_t fl_host_tensor_numel(const fl_host_tensor *t) {
    return fl_tensor_numel(&t->t);
}

bool fl_host_tensor_read_only(const fl_host_tensor *t) {
    return t->storage->keep.read_only;
}

const char *fl_tensor_shape(char out[96], const fl_tensor *t) {
    int n = snprintf(out, 96, "[");
    for (int i = 0; i < t->ndim; i++)
        n += snprintf(out + n, (size_t)(96 - n), "%s%lld", i ? "," : "", (long long)t->dim[i]);
    snprintf(out + n, (size_t)(96 - n), "]");
    return out;
}

const char *fl_host_shape(char out[96], const fl_host_tensor *t) {
    return fl_tensor_shape(out, &t->t);
}

/* Fill t's shape; *bytes gets its size. */
static int set_shape(fl_tensor *t, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                     uint64_t *bytes, fl_err *err) {
    uint64_t n = 1;
    if (!fl_host_dtype_ok(dtype))
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

/* A tensor on a new storage with one reference. */
static fl_host_tensor *tensor_with_storage(void) {
    fl_host_tensor *t = fl_alloc(sizeof(*t));
    if (!t) return NULL;
    t->storage = fl_alloc(sizeof(*t->storage));
    if (!t->storage) {
        fl_free(t);
        return NULL;
    }
    atomic_init(&t->storage->refs, 1);
    return t;
}

int fl_host_tensor_new(fl_host_tensor **out, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                       fl_err *err) {
    fl_tensor shape = {0};
    uint64_t bytes;
    int rc = set_shape(&shape, dtype, dim, ndim, &bytes, err);
    if (rc) return rc;
    fl_host_tensor *t = tensor_with_storage();
    if (t) t->storage->own = fl_alloc_aligned((size_t)(bytes ? bytes : 1), 64);
    if (!t || !t->storage->own) {
        fl_host_tensor_free(t);
        return fl_fail(err, FL_E_NOMEM, "tensor: %llu bytes", (unsigned long long)bytes);
    }
    memset(t->storage->own, 0, (size_t)bytes);
    t->t = shape;
    t->t.data = t->storage->own;
    *out = t;
    return FL_OK;
}

int fl_host_tensor_view(fl_host_tensor **out, const fl_tensor *view, const fl_keep *keep,
                        fl_err *err) {
    fl_tensor shape = {0};
    uint64_t bytes;
    int rc = set_shape(&shape, view->dtype, view->dim, view->ndim, &bytes, err);
    if (rc) return rc;
    fl_host_tensor *t = tensor_with_storage();
    if (!t) return fl_fail(err, FL_E_NOMEM, "tensor: a view");
    t->t = shape;
    t->t.data = view->data;
    t->storage->keep = *keep;
    *out = t;
    return FL_OK;
}

int fl_tensor_row(fl_tensor *out, const fl_tensor *t, int64_t i, fl_err *err) {
    char shape[96];
    if (t->ndim < 1 || i < 0 || i >= t->dim[0])
        return fl_fail(err, FL_E_ARG, "tensor: no row %lld in shape %s", (long long)i + 1,
                       fl_tensor_shape(shape, t));
    *out = (fl_tensor){.dtype = t->dtype, .ndim = t->ndim - 1};
    for (int d = 0; d < out->ndim; d++) out->dim[d] = t->dim[d + 1];
    out->stride = out->ndim ? fl_tensor_row_len(out) : 1;
    out->data = (char *)t->data + i * fl_tensor_row_len(t) * fl_dtype_bytes(t->dtype);
    return FL_OK;
}

int fl_host_tensor_row(fl_host_tensor **out, const fl_host_tensor *t, int64_t i, fl_err *err) {
    fl_host_tensor *row = fl_alloc(sizeof(*row));
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

void fl_host_tensor_free(fl_host_tensor *t) {
    if (!t) return;
    storage_unref(t->storage);
    fl_free(t);
}

void fl_host_tensor_load(double *out, const fl_host_tensor *t, int64_t first, int64_t n) {
    const uint8_t *p = (const uint8_t *)t->t.data + first * fl_dtype_bytes(t->t.dtype);
    const float *e4m3 = fl_e4m3_table();
    switch (t->t.dtype) {
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

void fl_host_tensor_store(fl_host_tensor *t, const double *in, int64_t first, int64_t n) {
    uint8_t *p = (uint8_t *)t->t.data + first * fl_dtype_bytes(t->t.dtype);
    switch (t->t.dtype) {
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

int fl_host_tensor_writable(const fl_host_tensor *t, fl_err *err) {
    if (!fl_host_tensor_read_only(t)) return FL_OK;
    return fl_fail(err, FL_E_ARG, "tensor: read-only, clone() it to change it");
}

int fl_host_tensor_convert(fl_host_tensor **out, const fl_host_tensor *t, fl_dtype dtype,
                           fl_err *err) {
    fl_host_tensor *copy = NULL;
    int rc = fl_host_tensor_new(&copy, dtype, t->t.dim, t->t.ndim, err);
    if (rc) return rc;
    int64_t n = fl_host_tensor_numel(t);
    if (dtype == t->t.dtype) {
        if (n) memcpy(copy->t.data, t->t.data, (size_t)(n * fl_dtype_bytes(dtype)));
    } else {
        rc = fl_host_tensor_apply(copy, FL_HOST_COPY, t, err);
    }
    if (rc)
        fl_host_tensor_free(copy);
    else
        *out = copy;
    return rc;
}
