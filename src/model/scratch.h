/* scratch.h - every buffer of a step, named; one backend allocation, made at load. */
#ifndef FL_MODEL_SCRATCH_H
#define FL_MODEL_SCRATCH_H

#include "backend/backend.h"
#include "formats/hf_config.h"

enum { FL_LOGIT_ROWS = 32 }; /* rows of logits computed at once, at least */

typedef struct fl_scratch {
    void *block;
    uint64_t bytes;
    int64_t max_rows, max_pages;
    fl_tensor residual; /* [T,D]                                       */
    fl_tensor delta;    /* [T,D] output of o and down                  */
    fl_act normed;      /* [T,D] input of qkv, gate_up                 */
    fl_tensor qkv;      /* [T,(H+2G)*E]                                */
    fl_act attended;    /* [T,H*E] input of o                          */
    fl_tensor gate_up;  /* [T,2F]                                      */
    fl_act ffn;         /* [T,F] input of down                         */
    int64_t logit_rows; /* L: rows of logits computed at once          */
    fl_act head_in;     /* [L,D] gathered rows                         */
    fl_tensor logits;   /* [L,V] f32                                   */
    fl_tensor rows;     /* [L] i32                                     */
    fl_tensor draws;    /* [] i32: L fl_sample_row, FL_STEP_EDITS fl_sample_edit; absent where
                           the backend does not sample, as the next two */
    fl_tensor mask;     /* [L,ceil(V / 32)] i32                        */
    fl_tensor sampled;  /* [L,2] i32: fl_sampled                       */
} fl_scratch;

typedef struct fl_scratch_shape {
    const fl_config *config;
    fl_dtype act_dtype;
    int64_t max_rows, max_pages;
    int64_t head_rows;  /* N of the head: >= vocab_size */
    int64_t logit_rows; /* >= FL_LOGIT_ROWS */
    int64_t edits;      /* of draws; 0: none is drawn */
} fl_scratch_shape;

uint64_t fl_scratch_bytes(const fl_scratch_shape *s);
int fl_scratch_init(fl_scratch *out, const fl_scratch_shape *s, const fl_backend_ops *ops,
                    fl_backend *be, fl_err *err);

/* The first n rows of a buffer. */
static inline fl_tensor fl_rows(fl_tensor t, int64_t n) {
    t.dim[0] = n;
    return t;
}
/* n columns from the first of a [T,C] buffer; the same as heads: [T,n,E]. */
static inline fl_tensor fl_columns(const fl_tensor *t, int64_t first, int64_t n) {
    fl_tensor v = *t;
    v.data = (char *)t->data + first * fl_dtype_bytes(t->dtype);
    v.dim[1] = n;
    return v;
}
static inline fl_tensor fl_heads(const fl_tensor *t, int64_t first, int64_t n, int64_t head_dim) {
    fl_tensor v = fl_columns(t, first * head_dim, n);
    v.dim[2] = head_dim;
    v.ndim = 3;
    return v;
}
static inline fl_act fl_act_rows(fl_act a, int64_t n) {
    return (fl_act){fl_rows(a.x, n), fl_rows(a.q, n), fl_rows(a.q_scale, n)};
}

#endif
