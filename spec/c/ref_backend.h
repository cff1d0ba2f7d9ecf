/* ref_backend.h - what every op of a backend must compute, in double and in the plainest way.
 *
 * Rounding is done here from the definition of each type (nearest, ties to even), without
 * util/fp8.h.  Arrays are dense and row-major.  Also: random test data, and opened backends. */
#ifndef FL_SPEC_REF_BACKEND_H
#define FL_SPEC_REF_BACKEND_H

#include "backend/backend.h"

/* x rounded to type t (F32, BF16, F16), overflow to infinity. */
double ref_round(fl_dtype t, double x);
/* Nearest E4M3 code, ties to the even one, saturating; found by search over all codes. */
uint8_t ref_e4m3(double x);
double ref_e4m3_value(uint8_t code);
double ref_get(const void *data, fl_dtype t, int64_t i);
void ref_set(void *data, fl_dtype t, int64_t i, double x); /* rounds */

/* Largest relative error of one rounding to t, and the spacing of its subnormals. */
double ref_unit(fl_dtype t);
double ref_tiny(fl_dtype t);
/* |got - want| within one rounding to t of a value known to +-slack. */
bool ref_close(fl_dtype t, double got, double want, double slack);

/* y = sum_k x[k]*w[k]; *mag = sum_k |x[k]*w[k]|. */
double ref_dot(const double *x, const double *w, int64_t k, double *mag);
double ref_silu(double x);
/* 1 / sqrt(mean(x^2) + eps) */
double ref_inv_rms(const double *x, int64_t n, double eps);
void ref_rotate(double *x, int64_t n, const float *cos_sin);
/* out[e] = softmax(scale * q.k) v over n positions; k, v: [n, stride]; mag[e]: the same sum
 * over |v|; returns max over positions of scale * sum |q*k|. */
double ref_attend(double *out, double *mag, const double *q, const double *k, const double *v,
                  int64_t n, int64_t stride, int64_t head_dim, double scale);

/* Test data: n numbers, about normal with the given spread (E4M3: any finite code), the same
 * for the same seed. */
void ref_fill(void *data, fl_dtype t, int64_t n, double spread, uint64_t seed);
uint64_t ref_random(uint64_t *state);

/* The backend that argv[1] names: "cpu" when there is none, or "cuda", then behind host memory
 * (mirror_ops.h).  Ends the program when it is not there. */
const fl_backend_ops *ref_ops(int argc, char **argv);
bool ref_is_cpu(const fl_backend_ops *ops);
/* A backend on each instruction set: for (isa = NULL; ref_next_isa(ops, &isa);) ...  Those that
 * this machine lacks are named in a line of TAP and passed over.  A GPU has one, "sm_90". */
bool ref_next_isa(const fl_backend_ops *ops, const char **isa);
/* Ends the program when it cannot be opened. */
fl_backend *ref_open(const fl_backend_ops *ops, const char *isa, int threads, int64_t max_rows);

/* Zeroed [a,b] tensor in test memory (never freed: tests are short). */
fl_tensor ref_tensor(fl_dtype t, int64_t a, int64_t b);
void *ref_alloc(size_t bytes);

#endif
