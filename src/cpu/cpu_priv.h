/* cpu_priv.h - inside of the CPU backend.
 *
 * The tile.  Everything that is multiplied - weights, cached keys, cached values - lies in
 * tiles of 16 outer rows x K, K in groups of 4 columns (zero padded), so that a SIMD lane
 * owns one outer row and no sum ever crosses lanes.  Bytes of one group:
 *   E4M3   64: line of 16 rows x (k0,k1) and (k2,k3), the two pairs of rows 4i..4i+3 in
 *              16-byte lane i, so that one byte unpack yields the BF16 pairs (k0,k1) of
 *              all rows and the other (k2,k3);
 *   BF16  128: line of 16 rows x (k0,k1), line of 16 rows x (k2,k3);
 *   F16   128: 16 rows of k0, of k1, of k2, of k3; F32, which nothing is stored as, 256.
 * Weights: outer row = output row, K = input column.  Keys: outer row = position,
 * K = head dim.  Values: outer row = head dim, K = position.
 *
 * Weights that obey 2:4 keep two of four columns.  Their tiles are runs of units of 8 groups
 * (32 columns): 64 bytes that name the kept columns, then the kept numbers.
 *   names    4 pairs of groups x 16 rows: first group's entry of cpu_kept in the low nibble,
 *            second group's + 8 in the high one;
 *   E4M3 4x64: per pair of groups, both kept codes of both groups, where the unpacks above
 *            yield the first group's BF16 pairs of all rows and the second group's;
 *   BF16 8x64: per group 16 rows x both kept numbers.
 * Kernels put the zeros back in registers, so that their sums are those of dense tiles.
 *
 * The sum.  Every product sum over K uses two f32 accumulators per outer row: one takes
 * k = 1, 0, 5, 4, 9, 8 ..., the other 3, 2, 7, 6 ..., and they are added at the end.  That
 * is what VDPBF16PS does with pairs (odd element first, rounding after each of the two
 * fused additions), so that it and f32 FMA are interchangeable on normal numbers.  No kernel
 * does it otherwise: a result does not depend on how many rows were computed together.
 * Where blocks of columns have their own scales this holds for each block, and the results of
 * the blocks are scaled and added in order, fused. */
#ifndef FL_CPU_PRIV_H
#define FL_CPU_PRIV_H

#include "backend/check.h"
#include "util/num.h"
#include "util/thread.h"

enum {
    CPU_TILE = 16,        /* outer rows of a tile */
    CPU_GROUP = 4,        /* columns of a group */
    CPU_UNIT = 8,         /* groups of a unit of 2:4 weights */
    CPU_NAMES = 64,       /* bytes that name the kept columns of a unit */
    CPU_CHUNK = 256,      /* positions of one softmax chunk, counted from position 0 */
    CPU_CHUNK_TILES = 16, /* CPU_CHUNK / CPU_TILE */
    CPU_VECS = 32,        /* query vectors that share one pass over keys and values */
    CPU_PANEL_ROWS = 256, /* activation rows prepared at a time in a linear */
};

static inline int64_t cpu_group_bytes(fl_dtype t) {
    return t == FL_DTYPE_E4M3 ? 64 : t == FL_DTYPE_F32 ? 256 : 128;
}

static inline int64_t cpu_unit_bytes(fl_dtype t) {
    return CPU_NAMES + CPU_UNIT * cpu_group_bytes(t) / 2;
}

/* The unit that group g of a 2:4 tile is in, and which of its pairs of groups that is. */
static inline const uint8_t *cpu_unit_of(const uint8_t *tile, fl_dtype t, int64_t g) {
    return tile + (uint64_t)g / CPU_UNIT * (uint64_t)cpu_unit_bytes(t);
}
static inline int64_t cpu_pair_of(int64_t g) {
    return (int64_t)((uint64_t)g % CPU_UNIT / 2);
}

/* Bytes of a tile; groups of 2:4 tiles are whole units. */
static inline int64_t cpu_tile_bytes(fl_dtype t, int64_t groups, bool sparse24) {
    return sparse24 ? groups / CPU_UNIT * cpu_unit_bytes(t) : groups * cpu_group_bytes(t);
}

/* cpu_kept[name][k]: which of the two kept numbers column k of a group is, -1: none (zero). */
extern const int8_t cpu_kept[8][CPU_GROUP];

/* Byte offset of outer row r, column k inside a 2:4 tile; -1: zero. */
static inline int64_t cpu_kept_offset(const uint8_t *tile, fl_dtype t, int64_t r, int64_t k) {
    int64_t group = k / CPU_GROUP, at = group / CPU_UNIT * cpu_unit_bytes(t);
    int64_t pair = group % CPU_UNIT / 2, second = group % 2;
    int slot = cpu_kept[tile[at + pair * CPU_TILE + r] >> second * 4 & 7][k % CPU_GROUP];
    if (slot < 0) return -1;
    at += CPU_NAMES + pair * cpu_group_bytes(t);
    if (t == FL_DTYPE_E4M3) return at + r / 4 * 16 + second * 8 + r % 4 * 2 + slot;
    return at + second * 64 + r * 4 + slot * 2;
}

/* Byte offset of outer row r, column k inside a tile. */
static inline int64_t cpu_tile_offset(fl_dtype t, int64_t r, int64_t k) {
    int64_t group = k / CPU_GROUP, i = k % CPU_GROUP;
    if (t == FL_DTYPE_E4M3) return group * 64 + r / 4 * 16 + i / 2 * 8 + r % 4 * 2 + i % 2;
    if (t == FL_DTYPE_F16) return group * 128 + i * 32 + r * 2;
    return group * 128 + i / 2 * 64 + r * 4 + i % 2 * 2;
}

/* Scales of blocks of columns: x[m * x_row + b * x_block] * w[tile * w_tile + b * w_block + r]. */
typedef struct cpu_scales {
    const float *x, *w;
    int64_t x_row, x_block, w_tile, w_block;
    int64_t groups; /* of a block; of units of 2:4 weights whole ones */
} cpu_scales;

/* y[m][16*tile + r] = sum over k of x[m][k] * w[tile][r][k], or with `scales` the sum over
 * blocks of that times the scales of the block. */
typedef struct cpu_dot {
    const uint8_t *w; /* n_tiles tiles of `groups` groups, one after the other */
    int64_t n_tiles, groups;
    fl_dtype w_dtype, x_dtype; /* x: F32, or BF16 if the isa has bf16_dot */
    bool sparse24;             /* w: 2:4 tiles, whole units, E4M3 or BF16 */
    bool w_nan;                /* E4M3 tiles may hold NaN (weights do not: pack.c) */
    const void *x;             /* [m, 4*groups] */
    int64_t ldx, m;            /* elements from row to row; rows */
    float *y;
    int64_t ldy;
    const cpu_scales *scales; /* NULL: none */
    const void *picks; /* only if the isa has `picks`, for one row times E4M3 2:4 tiles, or NULL */
} cpu_dot;

/* With one row it is cheaper to pick x than to put back zeros.  For each pair of groups: entry
 * [sum][8 * second + name] is what goes into that accumulator, columns 0 and 1 or 2 and 3.
 *   F32 x:  one number: of column 0 or 1 that the first kept number meets, of column 2 or 3
 *           that the second one meets, or 0; what a group that keeps (0,1) or (2,3) adds besides
 *           is the kernel's to add;
 *   BF16 x: the pair that both kept numbers meet, 0 where that belongs to the other sum. */
enum { CPU_PICKS = 2 * 16 };

/* Groups between two scalings. */
static inline int64_t cpu_dot_span(const cpu_dot *d) {
    return d->scales ? d->scales->groups : d->groups;
}

/* Groups of a tile, of whole units if it is 2:4, as a dense tile of type `to`, F32 or BF16: the
 * form `gemm` wants. */
typedef struct cpu_expand {
    uint8_t *dst;
    const uint8_t *src;
    int64_t groups;
    fl_dtype dtype, to;
    bool sparse24;
} cpu_expand;

enum { CPU_GEMM_TILES = 2 };

/* The sum of `dot` for many rows, a stretch of columns at a time: between stretches its two
 * accumulators of each output lie in acc. */
typedef struct cpu_gemm {
    const uint8_t *w;                    /* tiles of type x_dtype, made by `expand` */
    int64_t tile_bytes, n_tiles, groups; /* from tile to tile; <= CPU_GEMM_TILES; of the stretch */
    fl_dtype x_dtype;                    /* F32, or BF16 if the isa has bf16_dot */
    bool e4m3;                           /* what the tiles were */
    const void *x;                       /* [m, 4*groups] */
    int64_t ldx, m;                      /* elements from row to row; rows */
    bool first, last; /* stretch: acc is not read; y is written in place of acc */
    float *acc;       /* [m][CPU_GEMM_TILES][2][16] */
    float *y;         /* [m, 16*n_tiles] */
    int64_t ldy;
    const cpu_scales *scales; /* NULL, or of the block `block` that first and last enclose */
    int64_t block;
    const uint8_t *ahead; /* what is read next */
    int64_t ahead_bytes;
} cpu_gemm;

/* acc[m][tile][0..1][r] += sum over k of p[m][k] * v[tile][r][k], k in whole groups, the two
 * accumulators as above.  The columns come in blocks of 16 (4 groups) from different pages. */
typedef struct cpu_mix {
    const uint8_t *const *block;    /* block[i]: columns 16*i..16*i+15 of all tiles */
    int64_t group_begin, group_end; /* counted from block[0] */
    int64_t n_tiles;                /* a block holds n_tiles runs of 4 groups */
    fl_dtype dtype;
    const float *p;
    int64_t ldp, m;
    float *acc; /* [m][n_tiles][2][16] */
} cpu_mix;

/* out[m][i] = (y[m][i] * x_scale[m]) * w_scale[i] + bias[i], rounded to type t */
typedef struct cpu_finish {
    const float *y;
    int64_t ldy, m, n;
    const float *x_scale, *w_scale, *bias; /* or NULL */
    void *out;
    int64_t out_bytes; /* from row to row */
    fl_dtype t;        /* BF16 F16 F32 */
} cpu_finish;

typedef struct cpu_norm_row { /* as fl_norm, one row; delta NULL: absent */
    void *out, *residual;
    const void *delta, *weight;
    fl_dtype dtype;
    int64_t n;
    float eps;
} cpu_norm_row;

/* One instruction set.  Chosen once, in open. */
typedef struct cpu_isa {
    const char *name; /* "avx512" */
    bool bf16_dot;    /* dot takes BF16 x, with E4M3 and BF16 tiles; has to_bf16 */
    bool picks;       /* dot takes picks */
    void (*dot)(const cpu_dot *d);
    bool gemm_plain; /* gemm is faster than dot for dense BF16 and F16 tiles too */
    /* The sums of `dot`, bit for bit, and faster when rows are many.  NULL: not faster. */
    void (*expand)(const cpu_expand *e);
    void (*gemm)(const cpu_gemm *g);
    void (*mix)(const cpu_mix *x);
    /* s[i] = exp(s[i]*factor - max), max over i < n of s[i]*factor; zeros up to the next
     * multiple of 16.  Returns the sum. */
    float (*softmax)(float *s, int64_t n, float factor, float *max);
    void (*to_f32)(float *dst, const void *src, fl_dtype t, int64_t n);     /* E4M3 BF16 F16 F32 */
    void (*to_bf16)(uint16_t *dst, const void *src, fl_dtype t, int64_t n); /* E4M3, BF16 */
    void (*from_f32)(void *dst, fl_dtype t, const float *src, int64_t n);   /* BF16 F16 F32 */
    /* q = E4M3 of x * scale, or of x / scale */
    void (*quantize)(uint8_t *q, const void *x, fl_dtype t, int64_t n, float scale, bool divide);
    float (*absmax)(const void *x, fl_dtype t, int64_t n); /* NaN counts as 0 */
    void (*norm)(const cpu_norm_row *r);
    void (*silu_mul)(void *out, const void *gate, const void *up, fl_dtype t, int64_t n);
    void (*finish)(const cpu_finish *f);
} cpu_isa;

extern const cpu_isa cpu_isa_scalar, cpu_isa_avx2, cpu_isa_avx512, cpu_isa_avx512_bf16;

/* NULL name: best this machine can run.  FL_E_ARG: unknown name; FL_E_UNSUPPORTED: the
 * processor or the operating system lacks it. */
int cpu_isa_find(const cpu_isa **out, const char *name, fl_err *err);

struct fl_backend {
    fl_team *team;
    const cpu_isa *isa;
    int64_t max_rows;
    /* linear: the activations of up to CPU_PANEL_ROWS rows in the form `dot` wants */
    uint8_t *panel;
    int64_t panel_rows, panel_bytes;
    uint8_t *work;      /* linear's own of each member */
    int64_t work_bytes; /* of all members */
    /* attend */
    struct cpu_attend_scratch *scratch; /* one per team member */
    int64_t *block_start;               /* [max_rows + 1] */
    float *partial;                     /* results of chunks computed side by side */
    int64_t partial_bytes;
};

typedef struct cpu_packed {
    uint8_t *tile; /* fl_map_pages */
    uint64_t tile_bytes;
    int64_t groups, n_tiles;
    int64_t stride;   /* bytes of a tile */
    int64_t w_blocks; /* scales of a row */
    float *w_scale;   /* [n_tiles,w_blocks,16], or NULL */
    float *bias;      /* [16*n_tiles], or NULL */
} cpu_packed;

/* pack.c */
int cpu_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err);
void cpu_linear_free(fl_backend *be, fl_linear *lin);
int cpu_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table, const fl_tensor *ids,
              fl_err *err);

/* linear.c */
int cpu_linear_reserve(fl_backend *be, const fl_linear *lin, fl_err *err);
int cpu_linear(fl_backend *be, const fl_tensor *out, const fl_act *x, const fl_linear *lin,
               fl_err *err);

/* rows.c: ops that work on one row at a time */
int cpu_norm(fl_backend *be, const fl_norm *n, fl_err *err);
int cpu_quant(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err);
int cpu_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                 fl_err *err);
int cpu_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows,
               fl_err *err);
int cpu_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err);
int cpu_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err);
int cpu_check_rows(const fl_backend *be, const char *op, int64_t rows, fl_err *err);
/* Run fn over [0, rows), in parallel when rows * width elements are worth waking the team. */
void cpu_for_rows(fl_backend *be, int64_t rows, int64_t width, fl_range_fn fn, void *ctx);

/* kv.c: the inside of a page.  Head g: keys of all positions, then values. */
uint64_t cpu_kv_page_bytes(fl_backend *be, const fl_kv_shape *shape);
uint8_t *cpu_kv_keys(const fl_kv_layer *kv, int64_t page, int64_t g, int64_t tile);
uint8_t *cpu_kv_values(const fl_kv_layer *kv, int64_t page, int64_t g, int64_t tile);
int cpu_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                   fl_err *err);

/* attend.c */
int cpu_attend_open(fl_backend *be, fl_err *err);
void cpu_attend_close(fl_backend *be);
int cpu_attend(fl_backend *be, fl_act *out, const fl_tensor *q, const fl_kv_layer *kv,
               const fl_batch *b, float scale, const fl_linear *next, fl_err *err);

static inline void *cpu_row(const fl_tensor *t, int64_t i) {
    return (uint8_t *)t->data + i * t->stride * fl_dtype_bytes(t->dtype);
}

#endif
