/* array.h - users' tensors: they own, or share, what they show, in host memory or on a device.
 *
 * An array is a contiguous typed view of a storage.  Storages are counted: a view (row,
 * file, logits of a sequence) keeps its storage alive whatever is freed first.  Counting is
 * thread-safe, the elements are not protected.
 *
 * Element types: F32, BF16, F16, E4M3, I32.  0 to 4 dimensions; 0 = one element.
 * Arithmetic is done in double and rounded once to the element type: to nearest even,
 * E4M3 and I32 saturate, NaN becomes 0 in I32.  A device gives the same values, but for softmax,
 * which is f32 there (relative error below 1e-5).
 *
 * Operations of two arrays want them on one device; the caller sees to it.  All functions:
 * FL_E_NOMEM; FL_E_DEVICE when the device fails. */
#ifndef FL_BACKEND_ARRAY_H
#define FL_BACKEND_ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/device.h"

typedef struct fl_array {
    fl_tensor t; /* data: address in the device's memory; in host memory it may be read freely,
                    and is aligned to the element */
    struct fl_storage *storage;
} fl_array;

/* Whose memory a view shows.  release(ctx) is called once, when the last array on it is
 * freed, from whatever thread does that; not at all when fl_array_view fails. */
typedef struct fl_keep {
    void (*release)(void *ctx);
    void *ctx;
    bool read_only;
} fl_keep;

/* Zeroed, 64-byte aligned; d NULL: host memory.  FL_E_ARG: more than 4 dimensions or one below 0. */
int fl_array_new(fl_array **out, fl_device *d, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                 fl_err *err);
/* Of host memory: t must be contiguous (stride is set here) and its data aligned to its element. */
int fl_array_view(fl_array **out, const fl_tensor *t, const fl_keep *keep, fl_err *err);
/* Index i (from 0) of the first dimension, sharing the storage. */
int fl_array_row(fl_array **out, const fl_array *t, int64_t i, fl_err *err);
/* A copy with its own storage on d (NULL: host memory), in that element type. */
int fl_array_copy(fl_array **out, const fl_array *t, fl_device *d, fl_dtype dtype, fl_err *err);
void fl_array_free(fl_array *t); /* NULL is fine */

fl_device *fl_array_device(const fl_array *t);       /* borrowed; NULL: host memory */
const char *fl_array_device_name(const fl_array *t); /* "cpu", "cuda:0" */
int64_t fl_array_numel(const fl_array *t);
const char *fl_array_shape(char out[96], const fl_array *t); /* "[2,3]"; "[]": no dimensions */
bool fl_array_dtype_ok(fl_dtype dtype);                      /* one of the five */

/* Elements [first, first + n) in row-major order, to and from double; of host memory. */
void fl_tensor_load(double *out, const fl_tensor *t, int64_t first, int64_t n);
void fl_tensor_store(const fl_tensor *t, const double *in, int64_t first, int64_t n);
/* Element `at`, wherever it is. */
int fl_array_get(double *out, const fl_array *t, int64_t at, fl_err *err);

/* ---- operations in place: FL_E_ARG when t is read-only or shapes disagree ---- */

/* Before writing to t.data. */
int fl_array_writable(const fl_array *t, fl_err *err);

/* t = t op b; FILL: t = number where b is not 0.  b has t's shape, or t's last dimension (then it
 * meets every row). */
int fl_array_apply(fl_array *t, fl_map_op op, const fl_array *b, double number, fl_err *err);
int fl_array_apply_number(fl_array *t, fl_map_op op, double number, fl_err *err);
/* Of element `at` alone. */
int fl_array_apply_at(fl_array *t, fl_map_op op, int64_t at, double number, fl_err *err);
/* softmax(row / temperature) of every row of the last dimension; temperature > 0. */
int fl_array_softmax(fl_array *t, double temperature, fl_err *err);

/* ---- FP8 ---- */

typedef enum {
    FL_QUANT_TENSOR,  /* one scale: absmax / 448                                           */
    FL_QUANT_CHANNEL, /* one per row: absmax / 448; 1 for a row of zeros                   */
    FL_QUANT_TOKEN,   /* one per row as activations have it: at least 1 / (448 * 512)      */
    FL_QUANT_GROUP,   /* as TOKEN, one for each FL_ACT_GROUP_K elements of a row           */
} fl_quant_scheme;

/* q [same shape, E4M3] and scale [1], [rows] or [rows,groups] F32, element = q * scale.  A row is an index
 * of the first dimension; a vector is one row.  FL_E_ARG: an element is NaN or infinite. */
int fl_array_quantize(fl_array **q, fl_array **scale, const fl_array *t, fl_quant_scheme scheme,
                      fl_err *err);
/* out = q * scale; scale has one element, one per row, or one per group of a row. */
int fl_array_dequantize(fl_array **out, const fl_array *q, const fl_array *scale, fl_dtype dtype,
                        fl_err *err);

/* y = x @ w^T + bias through a backend's kernels.  w, w_scale and bias may be anywhere. */
typedef struct fl_array_linear {
    const fl_array *x;       /* [T,K] or [K]; rounded to BF16 unless F16                   */
    const fl_array *w;       /* [N,K], not I32                                             */
    const fl_array *w_scale; /* E4M3 only: [1], [N] or, for blocks of FL_ACT_GROUP_K
                                columns, [N,blocks]; NULL = 1                              */
    const fl_array *bias;    /* [N], or NULL                                               */
    fl_act_scheme act;       /* NONE, or any for E4M3 weights                              */
    float x_scale;           /* STATIC                                                     */
    fl_dtype out;            /* F32, or the type x was rounded to                          */
} fl_array_linear;

/* *out: [T,N] or [N], where x is; d: x's device, or for host memory an open "cpu".  Packs w, from
 * host memory, on every call. */
int fl_array_linear_run(fl_array **out, fl_device *d, const fl_array_linear *l, fl_err *err);

#endif
