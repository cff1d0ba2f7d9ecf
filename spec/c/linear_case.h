/* linear_case.h - a linear with random weights and activations, and what it must give. */
#ifndef FL_SPEC_LINEAR_CASE_H
#define FL_SPEC_LINEAR_CASE_H

#include "ref_backend.h"

typedef struct linear_case {
    int64_t t, n, k;
    fl_dtype w;
    fl_act_scheme act;
    fl_dtype x, out;
    bool bias;
    int parts;
    int64_t w_block;
    bool sparse24;  /* of every four values two or fewer are not zero */
    bool one_scale; /* the scales of w are all the same number */
} linear_case;

#define E4M3 FL_DTYPE_E4M3
#define BF16 FL_DTYPE_BF16
#define F16  FL_DTYPE_F16
#define F32  FL_DTYPE_F32

typedef struct linear_data {
    const linear_case *c;
    void *w;
    float *w_scale, *bias; /* w_scale [n,scales of a row] */
    fl_linear_spec spec;
    fl_act x;        /* x filled, q and q_scale not */
    bool short_sums; /* FP8 tensor cores: sums of products keep 13 fraction bits */
} linear_data;

linear_data make_linear(const linear_case *c);
void free_linear(linear_data *d);

/* Elements of out [t,n] that are not within the error bound of f32 sums over d.x. */
int64_t linear_errors(const linear_data *d, const fl_tensor *out);
/* Floats from the scales of one row of d.x.q_scale to the next. */
int64_t linear_scale_stride(const linear_case *c);

#endif
