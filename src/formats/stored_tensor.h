/* stored_tensor.h - a tensor X of a checkpoint, whichever of these ways it is stored:
 *
 *   dense              X
 *   sparse-24-bitmask  M.compressed [n,k/2], M.bitmask U8 [n,ceil(k/8)], M.shape I64 (n,k): sparse24.h
 *   sparse-bitmask     M.compressed [kept], M.bitmask U8 [n,ceil(k/8)], M.row_offsets I64 [n] (of
 *                      each row's first value in M.compressed), M.shape I64; same order of bits
 *
 * where X is M.weight; compressed-tensors up to 0.8 wrote X.compressed and so on instead, and
 * did so to vectors too (n is then 1, and shape one number). */
#ifndef FL_FORMATS_STORED_TENSOR_H
#define FL_FORMATS_STORED_TENSOR_H

#include <stdbool.h>

#include "formats/checkpoint.h"

typedef struct fl_stored_tensor {
    fl_st_tensor t;                     /* X; compressed: data is NULL, name is M.compressed's */
    const fl_st_tensor *kept, *bitmask; /* NULL: dense */
    const fl_st_tensor *row_offsets;    /* NULL: dense, or two of every four values are kept */
} fl_stored_tensor;

/* *found false: no X in any form.  The pieces' types and shapes are checked against each
 * other; compressed tensors have one or two dimensions. */
int fl_stored_tensor_find(fl_stored_tensor *out, bool *found, const fl_checkpoint *ck,
                          const char *name, fl_err *err);

/* Rows [first, first+n) of a compressed X, dense, into out; a vector is one row.  Checks the
 * bits of these rows.  Reading them again reads the file again. */
int fl_stored_tensor_unpack(void *out, const fl_stored_tensor *s, int64_t first, int64_t n,
                            fl_err *err);

/* Elements [first, first+n) of a vector X of F32, BF16 or F16, as f32. */
int fl_stored_tensor_floats(float *out, const fl_stored_tensor *s, int64_t first, int64_t n,
                            fl_err *err);

#endif
