/* backend.h - the one interface between the model and the hardware.
 *
 * A backend is one device: one GPU, or one CPU thread team.  Ops on one backend run
 * in call order and are asynchronous to the host until sync() or read() returns.
 * One thread at a time may call into a backend.  Nothing is allocated, opened or
 * planned inside a forward op: open() and linear_new() reserve what the ops need.
 *
 * Letters in shapes: T rows in this step, S sequences in this step, D hidden,
 * F ffn width, V vocab, H query heads, G kv heads, E head dim, P tokens per page,
 * N/K outer and inner width of a linear.
 *
 * "act dtype" is BF16 or F16 (the model's): type of residual, norm weights and all
 * activations.  Ops compute in f32 and round to the act dtype once, at the store,
 * except where a line below says otherwise.
 *
 * Invariance: a row's result depends on that row and on its own sequence only, never
 * on T, S, the other rows, or the number of threads (reduction orders over K and
 * over the KV pages are fixed by index).  A GPU may break it in linear, where few and many
 * rows go different ways, unless batch_invariant is set.
 *
 * spec/c/test_backend_ops.c checks every entry of every backend against the double
 * precision reference in spec/c/ref_backend.c. */
#ifndef FL_BACKEND_BACKEND_H
#define FL_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/sample.h"
#include "backend/tensor.h"
#include "util/err.h"

enum { FL_BACKEND_ABI = 5 }; /* bump on any change to this file; both objects must match */

typedef struct fl_backend fl_backend;
typedef struct fl_recording fl_recording; /* the backend's own */
typedef struct fl_team fl_team;           /* util/thread.h */

typedef struct fl_backend_params {
    int device;           /* GPU ordinal; ignored by the CPU backend                         */
    int threads;          /* CPU: team size, 0 = physical cores                              */
    int64_t max_rows;     /* largest T of any op, > 0                                        */
    const char *isa;      /* CPU: "scalar", "avx2", "avx512", "avx512_bf16"; NULL = best    */
    bool batch_invariant; /* GPU: a linear's rows do not depend on T either; see below      */
    bool sparse_dense;    /* GPU: 2:4 weights are kept dense as well, for products of many
                             rows; the CPU refuses it (FL_E_ARG)                            */
} fl_backend_params;

typedef struct fl_backend_info {
    char name[64]; /* "CPU avx512, 2 threads"                                            */
    uint64_t mem_free, mem_total;
    bool own_memory; /* nothing but the models on it needs its memory                        */
} fl_backend_info;

/* One projection y[T,N] = x[T,K] @ w[N,K]^T, packed by linear_new.  The fields are for
 * reading only. */
typedef struct fl_linear {
    int64_t n, k;
    fl_dtype dtype;       /* of the packed weight: E4M3, BF16 or F16                        */
    fl_act_scheme act;    /* what `linear` expects in fl_act: NONE -> x, else q and q_scale */
    float x_scale;        /* FL_ACT_STATIC: real = code * x_scale                           */
    float x_scale_ub;     /* FL_ACT_TOKEN: upper bound on a row's absmax; 0 = none          */
    int64_t w_block;      /* as in fl_linear_spec                                           */
    bool sparse24;        /* packed without the zeros                                       */
    uint64_t bytes;       /* backend memory held, of it                                     */
    uint64_t dense_bytes; /* what sparse_dense adds                                      */
    void *packed;         /* the backend's own                                              */
} fl_linear;

typedef struct fl_linear_part { /* rows that follow each other in the fused weight       */
    const void *data;           /* host, [rows,K] row-major, any alignment               */
    int64_t rows;
} fl_linear_part;

enum { FL_MAX_LINEAR_PARTS = 3 };

typedef struct fl_linear_spec {
    fl_linear_part part[FL_MAX_LINEAR_PARTS];
    int n_parts;
    int64_t k;
    fl_dtype dtype;       /* of the data: E4M3, BF16, F16, or F32 (rounded to BF16)       */
    const float *w_scale; /* host [N,ceil(K / w_block)], or [N] when w_block is 0:
                             real = code * w_scale; NULL = 1; NULL unless E4M3           */
    int64_t w_block;      /* columns that share a scale: FL_ACT_GROUP_K, or 0 = all of K  */
    const float *bias;    /* host [N] f32, or NULL                                       */
    fl_act_scheme act;    /* NONE unless dtype is E4M3; any scheme with any w_block      */
    float x_scale, x_scale_ub;
    void (*release)(const void *p, size_t n); /* called on source bytes no longer needed;
                                                 may be NULL; from any team member       */
    bool sparse24; /* at most 2 of every 4 values along K are not zero (the data itself is
                      dense): the backend may hold less.  Same results.  The CPU packs E4M3
                      (0.625 byte a weight) and BF16 or F32 (1.125) when K % 8 == 0 and refuses
                      (FL_E_ARG) data that break the pattern; F16 stays dense            */
} fl_linear_spec;

/* An activation and, when the next linear wants it, its FP8 form. */
typedef struct fl_act {
    fl_tensor x;       /* [T,K] act dtype                                                */
    fl_tensor q;       /* [T,K] E4M3; buffer always present, filled when act != NONE      */
    fl_tensor q_scale; /* f32, buffer of [T,ceil(K / FL_ACT_GROUP_K)] always present.  GROUP:
                          filled whole; TOKEN and STATIC (x_scale): the first T elements */
} fl_act;

/* residual += delta (f32 sum, rounded to the act dtype); then
 * out.x = weight * round(residual * rsqrt(mean(residual^2) + eps)), rounded again;
 * then out.q from out.x as next->act wants.  Rounding points are those of the Hugging
 * Face LlamaRMSNorm. */
typedef struct fl_norm {
    fl_tensor residual; /* [T,D] in/out                                                  */
    fl_tensor delta;    /* [T,D], or absent; undefined afterwards                        */
    fl_tensor weight;   /* [D] act dtype                                                 */
    fl_act *out;
    const fl_linear *next; /* NULL: no quantization                                      */
    float eps;
} fl_norm;

typedef struct fl_kv_shape {
    int64_t heads, head_dim; /* G, E                                                     */
    int64_t page_tokens;     /* P, a multiple of 16                                      */
    fl_dtype dtype;          /* the act dtype, or E4M3                                   */
} fl_kv_shape;

typedef struct fl_kv_layer { /* one layer of the paged cache; page i starts at i*kv_page_bytes */
    void *data;
    fl_kv_shape shape;
    float k_scale, v_scale; /* E4M3: stored = sat(x / scale), used = code * scale; else 1 */
} fl_kv_layer;

/* The ragged step.  Rows of one sequence are consecutive.  All tensors are i32. */
typedef struct fl_batch {
    int64_t n_rows, n_seqs, max_pages; /* T, S                                           */
    fl_tensor ids;                     /* [T]                                            */
    fl_tensor pos;                     /* [T] position inside its sequence               */
    fl_tensor slot;                    /* [T] page * P + offset where k,v of the row go   */
    fl_tensor row_start;               /* [S+1] first row of each sequence; last = T      */
    fl_tensor pages;                   /* [S,max_pages] page table                       */
} fl_batch;

/* A row at position p attends to positions 0..p of its sequence. */

typedef struct fl_rope {
    fl_tensor q;       /* [T,H,E] in/out, may be strided                                 */
    fl_tensor k, v;    /* [T,G,E] in, may be strided; undefined afterwards               */
    fl_tensor cos_sin; /* [max_pos,E] f32: E/2 cosines, then E/2 sines                    */
} fl_rope;

/* Arithmetic on users' tensors: contiguous, F32, BF16, F16, E4M3 or I32, in double, rounded once as
 * array.h says.  t[i] = x[i] op b, where b is number, or element i / row * per_row + i % row / group
 * of b; COPY: b; FILL: number where b's element is not 0, else x[i]. */
typedef enum { FL_MAP_ADD, FL_MAP_MUL, FL_MAP_COPY, FL_MAP_FILL } fl_map_op;

typedef struct fl_tensor_map {
    fl_map_op op;
    fl_tensor t, x, b; /* any shape; x may be t; b absent: number                        */
    int64_t n;         /* elements of t and x                                            */
    int64_t row, per_row, group;
    double number;
} fl_tensor_map;

/* Rows as E4M3 in groups of `group` columns (0: whole rows) with a scale each: absmax / 448, at
 * least 1 / (448 * 512), or with `weight` 1 where that is 0; NaN for a group that has a NaN or an
 * infinity.  x of any of the types above. */
typedef struct fl_encode {
    fl_tensor x;  /* [T,n] */
    uint8_t *q;   /* [T,n] backend memory */
    float *scale; /* [T,groups] backend memory */
    int64_t group;
    bool weight;
} fl_encode;

typedef struct fl_sample {
    fl_tensor logits;          /* [R,V] f32; changed meanwhile, in the end as they were */
    const fl_sample_row *rows; /* [R] device memory, as the rest                        */
    fl_sample_edit *edits;
    fl_tensor mask;  /* [R,ceil(V / 32)] i32; read where rows[i].masked                  */
    fl_sampled *out; /* [R]; of rows that are sampled                                    */
} fl_sample;

/* Half a layer in one call, as few-row steps of a GPU want it: residual becomes residual + delta +
 * what the half computes, with the rounding points and bits of the single ops.  What lies between
 * (norm.out, rope.q, k and v, attended, ffn) is undefined afterwards. */
typedef struct fl_attn_block { /* norm, linear norm.next, rope_store, attend, linear o */
    fl_norm norm;
    fl_rope rope; /* q, k and v: columns of what norm.next gives, in this order             */
    const fl_kv_layer *kv;
    const fl_batch *batch;
    float scale;
    fl_act *attended;   /* [T,H*E] */
    const fl_linear *o; /* -> [T,D] */
} fl_attn_block;

typedef struct fl_mlp_block { /* norm, linear norm.next, silu_mul, linear down */
    fl_norm norm;
    fl_act *ffn;           /* [T,F] */
    const fl_linear *down; /* -> [T,D] */
} fl_mlp_block;

typedef struct fl_backend_ops {
    uint32_t abi;     /* FL_BACKEND_ABI of the backend's build                           */
    const char *name; /* "cpu", "cuda"                                                   */

    int (*open)(fl_backend **out, const fl_backend_params *p, fl_err *err);
    void (*close)(fl_backend *be);
    void (*info)(fl_backend *be, fl_backend_info *out);

    /* memory: 64-byte aligned, zeroed; the caller owns it until mem_free */
    int (*mem_new)(fl_backend *be, void **out, uint64_t bytes, fl_err *err);
    void (*mem_free)(fl_backend *be, void *p);
    int (*write)(fl_backend *be, const fl_tensor *dst, const void *src, fl_err *err);
    int (*read)(fl_backend *be, void *dst, const fl_tensor *src, fl_err *err);
    int (*copy)(fl_backend *be, void *dst, const void *src, uint64_t bytes, fl_err *err);
    int (*sync)(fl_backend *be, fl_err *err);

    /* weights: pack once, in parallel; *out is freed by linear_free */
    int (*linear_new)(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err);
    void (*linear_free)(fl_backend *be, fl_linear *lin);

    /* forward */
    int (*embed)(fl_backend *be, const fl_tensor *out /*[T,D]*/, const fl_linear *table /*N=V,K=D*/,
                 const fl_tensor *ids /*[T] i32*/, fl_err *err);
    int (*norm)(fl_backend *be, const fl_norm *n, fl_err *err);
    int (*quant)(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err);
    /* out act dtype or f32, may be strided: (sum_k x*w) in f32, * q_scale[t] * w_scale[n], +
     * bias[n].
     * With w_block or GROUP: sum over blocks b of FL_ACT_GROUP_K columns, in order, of
     * (f32 sum of the block) * (q_scale[t,b] * w_scale[n,b]), + bias[n] */
    int (*linear)(fl_backend *be, const fl_tensor *out /*[T,N]*/, const fl_act *x,
                  const fl_linear *lin, fl_err *err);
    /* Optional; NULL, or gives NULL, where a linear has one way.  The name of the way that `linear` takes with
     * these operands, of which types, rows, strides and addresses are looked at, not the data. */
    const char *(*linear_path)(fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                               const fl_tensor *x /* fl_act.x, or .q with lin->act */);
    int (*rope_store)(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                      fl_err *err); /* rotate q,k (j with j+E/2), round; append k,v at slot */
    /* out.x, rounded once; then out.q as next->act wants.  next NULL: no quantization */
    int (*attend)(fl_backend *be, fl_act *out /*[T,H*E]*/, const fl_tensor *q /*[T,H,E]*/,
                  const fl_kv_layer *kv, const fl_batch *b, float scale, const fl_linear *next,
                  fl_err *err);
    /* out.x = round(silu(gate) * up), one rounding; then out.q as next->act wants.  gate_up is
     * undefined afterwards */
    int (*silu_mul)(fl_backend *be, fl_act *out /*[T,F]*/, const fl_tensor *gate_up /*[T,2F]*/,
                    const fl_linear *next, fl_err *err);
    int (*gather)(fl_backend *be, const fl_tensor *out /*[S,D]*/, const fl_tensor *x /*[T,D]*/,
                  const fl_tensor *rows /*[S] i32*/, fl_err *err);
    int (*absmax)(fl_backend *be, const fl_tensor *out /*[1] f32, max with what is there*/,
                  const fl_tensor *x /*[T,K]*/, fl_err *err);
    /* out[k] += sum over t, in order, of x[t][k]^2 */
    int (*sumsq)(fl_backend *be, const fl_tensor *out /*[K] f32*/, const fl_tensor *x /*[T,K]*/,
                 fl_err *err);

    /* Optional, both or neither: NULL where single ops are as good.  *done false: nothing was
     * done, these operands are for the single ops. */
    int (*attn_block)(fl_backend *be, const fl_attn_block *a, bool *done, fl_err *err);
    int (*mlp_block)(fl_backend *be, const fl_mlp_block *a, bool *done, fl_err *err);

    uint64_t (*kv_page_bytes)(fl_backend *be, const fl_kv_shape *shape); /* k and v together */

    /* Optional: rows of logits become tokens (sample.h); a forward op */
    int (*sample)(fl_backend *be, const fl_sample *s, fl_err *err);

    /* Optional, all four or none: NULL when the backend has nothing to gain.  Between record and
     * record_end the forward ops check their arguments and are noted, not run; every other op
     * gives FL_E_ARG.  replay runs what was noted, in call order with other ops: the same ops on
     * the same addresses and shapes, with what the memory holds then; so an op may decide by
     * shapes on the host, but by contents (ids, positions, page tables) only on the device.
     * A recording is freed before any memory or linear it uses.  record_end ends the recording
     * also when it, or an op before it, failed; out NULL: what was noted is dropped. */
    int (*record)(fl_backend *be, fl_err *err);
    int (*record_end)(fl_backend *be, fl_recording **out, fl_err *err);
    int (*replay)(fl_backend *be, fl_recording *r, fl_err *err);
    void (*recording_free)(fl_backend *be, fl_recording *r);

    /* Optional, all three or none: NULL where users' tensors are host memory. */
    int (*map)(fl_backend *be, const fl_tensor_map *m, fl_err *err);
    /* t [T,n]: softmax(row / temperature) in f32 */
    int (*softmax)(fl_backend *be, const fl_tensor *t, double temperature, fl_err *err);
    int (*encode)(fl_backend *be, const fl_encode *e, fl_err *err);

    /* Optional; NULL, or gives NULL, unless memory is the host's: between ops the caller may then
     * read it in place, and run work of its own on these threads. */
    fl_team *(*team)(fl_backend *be);
} fl_backend_ops;

/* Operations of backend "cpu" or "cuda".  CUDA lives in fp8llm_cuda.so beside this
 * library; FL_E_DEVICE when that file, its ABI or the driver does not fit. */
int fl_backend_find(const fl_backend_ops **out, const char *name, fl_err *err);
/* The same for a device as users name it: "cpu", "cuda" or "cuda:N"; *ordinal is N, else 0. */
int fl_backend_device(const fl_backend_ops **out, int *ordinal, const char *device, fl_err *err);

const fl_backend_ops *fl_backend_cpu(void); /* src/cpu */

#endif
