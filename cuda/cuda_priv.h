/* cuda_priv.h - the CUDA backend's own state; only C files of this folder include it. */
#ifndef FL_CUDA_CUDA_PRIV_H
#define FL_CUDA_CUDA_PRIV_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <sys/types.h>

#include "backend/check.h"
#include "cuda/kernels.h"

enum {
    CUDA_STAGES = 2,
    CUDA_STAGE_BYTES = 8 << 20,
    CUDA_WORKSPACE_BYTES = 32 << 20, /* of cuBLASLt */
    CUDA_PARTS_BYTES = 32 << 20,     /* of attention's splits */
    CUDA_TOPS = 64 << 10,
};

/* Pinned host memory that copies pass through: a part is filled again when its event has come. */
typedef struct cuda_stage {
    uint8_t *host;
    cudaEvent_t free;
} cuda_stage;

struct fl_backend {
    int device, cc; /* cc: 89, 90, ... */
    int processors;
    pid_t owner; /* CUDA does not survive a fork */
    int64_t max_rows;
    bool batch_invariant, sparse_dense; /* as in fl_backend_params */
    char name[64];
    cudaStream_t stream;
    cublasLtHandle_t blas;
    void *workspace; /* of cuBLASLt */
    cuda_stage stage[CUDA_STAGES];
    int next_stage;
    cuda_fault *fault, *fault_host; /* device memory, pinned copy */
    float *parts;                   /* attention: CUDA_PARTS_BYTES */
    float *product; /* linear: f32 results that wait for their scales                          */
    int64_t product_floats;
    cuda_scale_args unscaled; /* the product of the last linear, and where it belongs: the next op
                                 takes it, or it is scaled before that op                       */
    int64_t shared_bytes;     /* that a block may have                                           */
    float *tops;              /* block.c: largest magnitudes, CUDA_TOPS floats                  */
    struct cuda_plan *plans;  /* of all shapes, newest first */
    bool recording;           /* the stream is being captured */
};

/* FL_E_NOMEM or FL_E_DEVICE with CUDA's words when e is an error; `what` names the call. */
int cuda_check(const fl_backend *be, cudaError_t e, const char *what, fl_err *err);
/* Makes the device current and settles; FL_E_DEVICE in a child after a fork.  Every call that
 * reads or writes device memory begins with this or cuda_enter. */
int cuda_current(fl_backend *be, const char *what, fl_err *err);
/* The same, and checks that 1 <= rows <= max_rows. */
int cuda_enter(fl_backend *be, const char *op, int64_t rows, fl_err *err);
/* Makes the device current; FL_E_ARG while a step is being recorded. */
int cuda_outside(fl_backend *be, const char *op, fl_err *err);
/* Device memory, not zeroed. */
int cuda_alloc(const fl_backend *be, void **out, uint64_t bytes, fl_err *err);
void cuda_mem_free(fl_backend *be, void *p);
/* `rows` dense rows of `bytes` host bytes (read before this returns) to rows that begin `pitch`
 * bytes apart on the device; what lies between keeps what it held. */
int cuda_upload(fl_backend *be, void *dst, int64_t pitch, const void *src, int64_t bytes,
                int64_t rows, fl_err *err);

/* A stage to fill; what it held before has been copied.  Then it must be sent. */
int cuda_stage_take(fl_backend *be, cuda_stage **out, fl_err *err);
int cuda_stage_send(fl_backend *be, cuda_stage *s, void *dst, int64_t bytes, fl_err *err);

/* linear.c, linear_plan.c */
int cuda_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err);
const cuda_weight *cuda_weight_of(const fl_linear *lin);
void cuda_linear_free(fl_backend *be, fl_linear *lin);
int cuda_linear(fl_backend *be, const fl_tensor *out, const fl_act *x, const fl_linear *lin,
                fl_err *err);
const char *cuda_linear_path(fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                             const fl_tensor *x);
/* A product that waits for its scales gets them. */
int cuda_settle(fl_backend *be, fl_err *err);
/* The product that t is to become, which is then the caller's to scale; y NULL: t is complete,
 * once settled. */
cuda_unscaled cuda_take_unscaled(fl_backend *be, const fl_tensor *t);
int cuda_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table, const fl_tensor *ids,
               fl_err *err);

/* One shape of cuBLASLt's product, planned for row counts 16, 32, ... */
typedef struct cuda_plan cuda_plan;
typedef struct cuda_plan_key {
    int64_t n, k, ldw;
    cudaDataType_t in, out;
    bool vectors; /* scales are vectors over rows and columns; else scalars, or 1           */
} cuda_plan_key;
/* *out: NULL when cuBLASLt can have nothing for this shape. */
int cuda_plan_get(fl_backend *be, const cuda_plan **out, const cuda_plan_key *key, fl_err *err);
void cuda_plans_free(fl_backend *be);

typedef struct cuda_product {
    const void *w, *x;
    void *out;
    const float *w_scale, *x_scale; /* NULL: 1 */
    int64_t ldx, ldo, rows;
} cuda_product;
/* Whether the plan has an algorithm for so many rows, and out and x, of which only addresses and
 * strides are looked at, are aligned as it was promised.  p may be NULL: it has not. */
bool cuda_plan_takes(const cuda_plan *p, int64_t rows, const fl_tensor *out, const fl_tensor *x);
/* FL_E_DEVICE, with status, shape and scale mode, when cuBLASLt refuses what it had offered. */
int cuda_plan_run(fl_backend *be, const cuda_plan *plan, const cuda_product *p, fl_err *err);

/* ops.c */
/* How rows of `a` become E4M3 for `next`. */
int cuda_quant_for(cuda_quant *out, const char *op, const fl_act *a, const fl_linear *next,
                   fl_err *err);
int cuda_norm(fl_backend *be, const fl_norm *n, fl_err *err);
int cuda_quantize(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err);
int cuda_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                  fl_err *err);
int cuda_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows,
                fl_err *err);
int cuda_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err);
int cuda_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err);

int cuda_sample(fl_backend *be, const fl_sample *s, fl_err *err);

/* tensor.c */
int cuda_map(fl_backend *be, const fl_tensor_map *m, fl_err *err);
int cuda_softmax(fl_backend *be, const fl_tensor *t, double temperature, fl_err *err);
int cuda_encode(fl_backend *be, const fl_encode *e, fl_err *err);

/* block.c */
int cuda_block_open(fl_backend *be, fl_err *err);
int cuda_attn_block(fl_backend *be, const fl_attn_block *a, bool *done, fl_err *err);
int cuda_mlp_block(fl_backend *be, const fl_mlp_block *a, bool *done, fl_err *err);

/* attend.c */
cuda_rope_args cuda_rope_args_of(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv,
                                 const fl_batch *b);
uint64_t cuda_kv_page_bytes(fl_backend *be, const fl_kv_shape *shape);
int cuda_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                    fl_err *err);
int cuda_attend(fl_backend *be, fl_act *out, const fl_tensor *q, const fl_kv_layer *kv,
                const fl_batch *b, float scale, const fl_linear *next, fl_err *err);

/* record.c */
int cuda_record(fl_backend *be, fl_err *err);
int cuda_record_end(fl_backend *be, fl_recording **out, fl_err *err);
int cuda_replay(fl_backend *be, fl_recording *r, fl_err *err);
void cuda_recording_free(fl_backend *be, fl_recording *r);

#endif
