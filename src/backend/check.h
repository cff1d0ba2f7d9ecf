/* check.h - what every backend asks of the operands of an op before it runs it: shapes and types
 * that disagree are FL_E_ARG, what no backend knows FL_E_UNSUPPORTED, with the values.  Only
 * descriptions are read, never data: they may be in the memory of a device.  Any thread. */
#ifndef FL_BACKEND_CHECK_H
#define FL_BACKEND_CHECK_H

#include "backend/backend.h"

enum { FL_MAX_HEAD_DIM = 256, FL_KV_PAGE_MULTIPLE = 16 };

/* *n: rows of all parts.  k may be up to max_k. */
int fl_check_linear_spec(const fl_linear_spec *s, int64_t max_k, int64_t *n, fl_err *err);
/* The fields for reading that follow from the spec; bytes, sparse24 and packed are left. */
fl_linear fl_linear_of_spec(const fl_linear_spec *s, int64_t n);

/* x as `lin` expects it, for as many rows as out has; *in: what it reads, x.x or x.q. */
int fl_check_linear(const fl_tensor *out, const fl_act *x, const fl_linear *lin,
                    const fl_tensor **in, fl_err *err);
/* The FP8 side of `a` is there for `next`, which may be NULL; `op` names the caller. */
int fl_check_quant(const char *op, const fl_act *a, const fl_linear *next, fl_err *err);
int fl_check_norm(const fl_norm *n, fl_err *err);
int fl_check_silu_mul(const fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                      fl_err *err);
int fl_check_gather(const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows, fl_err *err);
int fl_check_rope(const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b, fl_err *err);
int fl_check_attend(const fl_tensor *out, const fl_tensor *q, const fl_kv_layer *kv,
                    const fl_batch *b, fl_err *err);

#endif
