/* kernels.h - the launchers of the kernels, as the C side of the backend sees them.
 *
 * A launcher checks nothing but what decides between kernels, puts one or two launches on the
 * stream and returns the error of the launch.  Tensors are device memory. */
#ifndef FL_CUDA_KERNELS_H
#define FL_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend/sample.h"
#include "util/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A product that waits for its scales, and what they are. */
typedef struct cuda_unscaled {
    const float *y; /* [T,n]; NULL: there is none                                           */
    const float *x_scale, *w_scale, *bias; /* [T], [n], [n], or NULL                        */
    int64_t n;
} cuda_unscaled;

/* An index that points outside its table: the first one is kept here until the host looks. */
typedef struct cuda_fault {
    int32_t set, op, index, value;
} cuda_fault;
enum { CUDA_FAULT_EMBED = 1, CUDA_FAULT_GATHER, CUDA_FAULT_ROPE };

/* Rows that become E4M3. */
typedef struct cuda_quant {
    uint8_t *q;     /* [T,n] codes, rows ld apart                                           */
    float *q_scale; /* [T], or [T,groups] with FL_ACT_GROUP                                 */
    int64_t ld, groups;
    fl_act_scheme act; /* NONE: nothing is done                                             */
    float x_scale, x_scale_ub;
} cuda_quant;

typedef struct cuda_norm_args {
    void *residual, *out;
    const void *delta, *weight; /* delta: NULL = none                                       */
    int64_t ld_residual, ld_delta, ld_out, t, n;
    float eps;
    fl_dtype dtype;
    cuda_quant quant;
    cuda_unscaled unscaled; /* in place of delta                                            */
} cuda_norm_args;
cudaError_t fl_cuda_norm(const cuda_norm_args *a, cudaStream_t s);

typedef struct cuda_silu_args {
    const void *in; /* [T,2n] gate, up */
    void *out;
    int64_t ld_in, ld_out, t, n;
    fl_dtype dtype;
    cuda_quant quant;
    cuda_unscaled unscaled; /* in place of in                                               */
} cuda_silu_args;
cudaError_t fl_cuda_silu_mul(const cuda_silu_args *a, cudaStream_t s);

typedef struct cuda_quant_args {
    const void *x;
    int64_t ld, t, n;
    fl_dtype dtype;
    cuda_quant quant;
} cuda_quant_args;
cudaError_t fl_cuda_quant(const cuda_quant_args *a, cudaStream_t s);

/* A weight in device memory: rows padded with zeros to ld elements (16 bytes).
 * sparse24: data holds the two kept codes of each 4 columns (ld / 2 a row), places where they
 * stand, 2 bits each in order, 16 bits for 16 columns (ld / 16 a row). */
typedef struct cuda_weight {
    const void *data;
    const uint16_t *places;
    const float *scale;       /* [n] or [n,blocks]; NULL: 1                                       */
    const float *bias;        /* [n], or NULL                                                     */
    int64_t n, k, ld, blocks; /* blocks: scales of a row                                    */
    fl_dtype dtype;
    bool sparse24;
} cuda_weight;

typedef struct cuda_linear_args {
    cuda_weight w;
    const void *x;        /* [t,k] */
    const float *x_scale; /* NULL: 1; else x_groups a row */
    void *out;
    int64_t ldx, ldo, t, x_groups;
    fl_dtype x_dtype, out_dtype;
} cuda_linear_args;
cudaError_t fl_cuda_linear_rows(const cuda_linear_args *a, cudaStream_t s);

/* Any number of rows on tensor cores, the same bits for each.  cudaErrorNotSupported, with nothing
 * launched, unless x has the type of the weight and k, ldx and x are multiples of 16 bytes. */
cudaError_t fl_cuda_linear_tiles(const cuda_linear_args *a, cudaStream_t s);

typedef struct cuda_scale_args {
    cuda_unscaled in;
    void *out;
    int64_t ldo, t;
    fl_dtype dtype;
} cuda_scale_args;
cudaError_t fl_cuda_scale_rows(const cuda_scale_args *a, cudaStream_t s);

typedef struct cuda_rows_args { /* embed and gather */
    cuda_weight table;
    const void *x;
    void *out;
    const int32_t *index;
    int64_t ldx, ldo, t, n, limit; /* limit: rows of x or of the table */
    fl_dtype dtype;
    cuda_fault *fault;
} cuda_rows_args;
/* cudaErrorNoKernelImageForDevice when this build has no code for the current device. */
cudaError_t fl_cuda_probe(void);
cudaError_t fl_cuda_embed(const cuda_rows_args *a, cudaStream_t s);
cudaError_t fl_cuda_gather(const cuda_rows_args *a, cudaStream_t s);

cudaError_t fl_cuda_absmax(float *out, const cuda_quant_args *a, cudaStream_t s);
cudaError_t fl_cuda_sumsq(float *out, const cuda_quant_args *a, cudaStream_t s);

/* Inside a KV page: keys, then values, each [heads][page_tokens][padded]; head
 * dims are padded with zeros to a multiple of 16. */
typedef struct cuda_kv {
    uint8_t *data;
    int64_t page_bytes;
    int heads, head_dim, padded, page_tokens;
    fl_dtype dtype;
    float k_scale, v_scale;
} cuda_kv;

typedef struct cuda_rope_args {
    void *q;
    const void *k, *v;
    int64_t ldq, ldk, ldv, ld_table, max_pos, t;
    const float *cos_sin;
    const int32_t *pos, *slot;
    int n_heads;
    fl_dtype dtype;
    cuda_kv kv;
    cuda_fault *fault;
    cuda_unscaled unscaled; /* q, k and v side by side: q is only written                   */
} cuda_rope_args;
cudaError_t fl_cuda_rope_store(const cuda_rope_args *a, cudaStream_t s);

typedef struct cuda_attend_args {
    const void *q;
    void *out;
    float *parts; /* [t,heads,splits,padded + 2] when the splits run apart                  */
    int64_t ldq, ldo, t, n_seqs, max_pages;
    const int32_t *pos, *row_start, *pages;
    int n_heads, splits, split_tokens;
    bool apart; /* one block a split, then a merge; else one block for all                  */
    float scale;
    fl_dtype dtype;
    cuda_kv kv;
    cuda_quant quant; /* of out, by the merge                                               */
} cuda_attend_args;
cudaError_t fl_cuda_attend(const cuda_attend_args *a, cudaStream_t s);
cudaError_t fl_cuda_attend_merge(const cuda_attend_args *a, cudaStream_t s); /* of splits apart */

/* ---- users' tensors: see fl_tensor_map and fl_encode ---- */

enum { CUDA_MAP_ADD, CUDA_MAP_MUL, CUDA_MAP_COPY, CUDA_MAP_FILL };

typedef struct cuda_map_args {
    void *t;
    const void *x, *b; /* b NULL: number */
    int64_t n, row, per_row, group;
    double number;
    int op;
    fl_dtype t_dtype, x_dtype, b_dtype;
} cuda_map_args;
cudaError_t fl_cuda_map(const cuda_map_args *a, cudaStream_t s);

/* rows of n elements, in place; inverse: 1 / temperature */
cudaError_t fl_cuda_softmax(void *t, fl_dtype dtype, int64_t rows, int64_t n, float inverse,
                            cudaStream_t s);

typedef struct cuda_encode_args {
    const void *x;
    uint8_t *q;
    float *scale; /* [rows,groups] */
    int64_t rows, n, group, groups;
    fl_dtype dtype;
    bool weight;
} cuda_encode_args;
cudaError_t fl_cuda_encode(const cuda_encode_args *a, cudaStream_t s);

typedef struct cuda_sample_args {
    float *logits; /* [t,n] */
    int64_t ld, ld_mask, t, n;
    const fl_sample_row *rows;
    fl_sample_edit *edits;
    const uint32_t *mask;
    fl_sampled *out;
} cuda_sample_args;
cudaError_t fl_cuda_sample(const cuda_sample_args *a, cudaStream_t s);

/* One product of few rows with what is around it in a layer: its rows are x [t,k], or the norm of
 * x + delta, quantized as act says. */
enum { FL_CUDA_FEW_ROWS = 8 };
typedef enum cuda_block_end {
    CUDA_END_QKV,      /* rope: queries to rope.q, keys and values to the cache            */
    CUDA_END_RESIDUAL, /* out [t,n] = out + delta + result                                 */
    CUDA_END_SWIGLU,   /* out [t,n / 2] = silu(result of column j) * column j + n / 2      */
} cuda_block_end;

typedef struct cuda_block_args {
    cuda_weight w;
    const void *x, *delta, *norm_weight; /* norm_weight NULL: x as it is; delta may be NULL */
    void *out;
    int64_t ldx, ld_delta, ldo, t;
    int64_t ld_shared; /* k rounded up to 16: elements of an input row in shared memory     */
    float eps;
    fl_act_scheme act;
    float x_scale, x_scale_ub;
    int64_t x_groups;  /* scales of a row                                                   */
    const float *tops; /* [n_tops,t]: the largest of a column is the row's largest magnitude */
    int n_tops;        /* tops NULL: each block looks for it                                */
    float *tops_out;   /* [blocks,t] of what each block stored, or NULL                     */
    int64_t units, units_each; /* pairs of columns; of a block                              */
    cuda_block_end end;
    fl_dtype dtype;
    cuda_rope_args rope;
} cuda_block_args;
cudaError_t fl_cuda_block_rows(const cuda_block_args *a, cudaStream_t s);
/* Once: blocks may have so many bytes of dynamic shared memory. */
cudaError_t fl_cuda_block_open(size_t shared);

#ifdef __cplusplus
}
#endif
#endif
