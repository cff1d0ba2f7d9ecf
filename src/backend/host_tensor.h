/* host_tensor.h - tensors in host memory that own, or share, what they show.
 *
 * A host tensor is a contiguous typed view of a storage.  Storages are counted: a view
 * (row, file, logits of a sequence) keeps its storage alive whatever is freed first.
 * Counting is thread-safe, the elements are not protected.
 *
 * Element types: F32, BF16, F16, E4M3, I32.  0 to 4 dimensions; 0 = one element.
 * Arithmetic is done in double and rounded once to the element type: to nearest even,
 * E4M3 and I32 saturate, NaN becomes 0 in I32. */
#ifndef FL_BACKEND_HOST_TENSOR_H
#define FL_BACKEND_HOST_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"

typedef struct fl_host_tensor {
    fl_tensor t; /* data: host pointer, aligned to the element; may be read freely         */
    struct fl_storage *storage;
} fl_host_tensor;

/* Whose memory a view shows.  release(ctx) is called once, when the last tensor on it is
 * freed, from whatever thread does that; not at all when fl_host_tensor_view fails. */
typedef struct fl_keep {
    void (*release)(void *ctx);
    void *ctx;
    bool read_only;
} fl_keep;

/* Zeroed, 64-byte aligned.  FL_E_ARG: more than 4 dimensions or one below 0; FL_E_NOMEM. */
int fl_host_tensor_new(fl_host_tensor **out, fl_dtype dtype, const int64_t *dim, int32_t ndim,
                       fl_err *err);
/* t must be contiguous (stride is set here) and its data aligned to its element. */
int fl_host_tensor_view(fl_host_tensor **out, const fl_tensor *t, const fl_keep *keep, fl_err *err);
/* Index i (from 0) of the first dimension, sharing the storage. */
int fl_host_tensor_row(fl_host_tensor **out, const fl_host_tensor *t, int64_t i, fl_err *err);
/* A copy with its own storage, in another element type if so. */
int fl_host_tensor_convert(fl_host_tensor **out, const fl_host_tensor *t, fl_dtype dtype,
                           fl_err *err);
void fl_host_tensor_free(fl_host_tensor *t); /* NULL is fine */

int64_t fl_host_tensor_numel(const fl_host_tensor *t);
bool fl_host_tensor_read_only(const fl_host_tensor *t);
bool fl_host_dtype_ok(fl_dtype dtype); /* one of the five */
/* "[2,3]", "[]" for no dimensions. */
const char *fl_host_shape(char out[96], const fl_host_tensor *t);
const char *fl_tensor_shape(char out[96], const fl_tensor *t);
int64_t fl_tensor_numel(const fl_tensor *t);
/* Index i (from 0) of the first dimension. */
int fl_tensor_row(fl_tensor *out, const fl_tensor *t, int64_t i, fl_err *err);
/* Whether b goes with t element by element, or (one dimension, t's last) with every row; *period:
 * elements of b before it repeats. */
int fl_tensor_match(int64_t *period, const fl_tensor *t, const fl_tensor *b, fl_err *err);

/* Elements [first, first + n) in row-major order, to and from double. */
void fl_host_tensor_load(double *out, const fl_host_tensor *t, int64_t first, int64_t n);
void fl_host_tensor_store(fl_host_tensor *t, const double *in, int64_t first, int64_t n);

/* ---- operations in place: FL_E_ARG when t is read-only or shapes disagree ---- */

/* Before writing through store() or t->data. */
int fl_host_tensor_writable(const fl_host_tensor *t, fl_err *err);

typedef enum { FL_HOST_ADD, FL_HOST_MUL, FL_HOST_COPY } fl_host_op;
/* t = t op b.  b has t's shape, or t's last dimension (then it meets every row). */
int fl_host_tensor_apply(fl_host_tensor *t, fl_host_op op, const fl_host_tensor *b, fl_err *err);
int fl_host_tensor_apply_number(fl_host_tensor *t, fl_host_op op, double b, fl_err *err);
/* t = value where mask (of t's shape, or of its last dimension) is not 0. */
int fl_host_tensor_mask_fill(fl_host_tensor *t, const fl_host_tensor *mask, double value,
                             fl_err *err);
/* softmax(row / temperature) of every row of the last dimension; temperature > 0. */
int fl_host_tensor_softmax(fl_host_tensor *t, double temperature, fl_err *err);

/* ---- FP8 ---- */

typedef enum {
    FL_QUANT_TENSOR,  /* one scale: absmax / 448                                           */
    FL_QUANT_CHANNEL, /* one per row: absmax / 448; 1 for a row of zeros                   */
    FL_QUANT_TOKEN,   /* one per row as activations have it: at least 1 / (448 * 512)      */
    FL_QUANT_GROUP,   /* as TOKEN, one for each FL_ACT_GROUP_K elements of a row           */
} fl_quant_scheme;

/* q [same shape, E4M3] and scale [1], [rows] or [rows,groups] F32, element = q * scale.  A row is an index
 * of the first dimension; a vector is one row.  FL_E_ARG: an element is NaN or infinite. */
int fl_host_tensor_quantize(fl_host_tensor **q, fl_host_tensor **scale, const fl_host_tensor *t,
                            fl_quant_scheme scheme, fl_err *err);
/* out = q * scale; scale has one element, one per row, or one per group of a row. */
int fl_host_tensor_dequantize(fl_host_tensor **out, const fl_host_tensor *q,
                              const fl_host_tensor *scale, fl_dtype dtype, fl_err *err);

/* y = x @ w^T + bias through a backend's kernels. */
typedef struct fl_host_linear {
    const fl_host_tensor *x;       /* [T,K] or [K]; rounded to BF16 unless F16                   */
    const fl_host_tensor *w;       /* [N,K], not I32                                             */
    const fl_host_tensor *w_scale; /* E4M3 only: [1], [N] or, for blocks of FL_ACT_GROUP_K
                                      columns, [N,blocks]; NULL = 1                        */
    const fl_host_tensor *bias;    /* [N], or NULL                                         */
    fl_act_scheme act;             /* NONE, or any for E4M3 weights                        */
    float x_scale;                 /* STATIC                                               */
    fl_dtype out;                  /* F32, or the type x was rounded to                    */
} fl_host_linear;

enum { FL_HOST_LINEAR_ROWS = 256 }; /* max_rows the backend must have been opened with */

/* *out: [T,N] or [N].  Packs w on every call. */
int fl_host_linear_run(fl_host_tensor **out, const fl_backend_ops *ops, fl_backend *be,
                       const fl_host_linear *l, fl_err *err);

#endif
