#include "quant/observer.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

/* PIECE: elements converted at once, fits the first-level cache. */
enum { PIECE = 2048, LANES = 4, CANDIDATES = 80 };

typedef struct job {
    const fl_weight *w;
    int64_t n, k;
    float *scales;
    double *errors; /* MSE of one scale for the tensor: [n,CANDIDATES]; else NULL */
    uint8_t *codes;
    atomic_bool not_finite;
} job;

/* A part of the weight that one thread works on; it has one scale. */
typedef struct tile {
    int64_t row, row_end, column, column_end;
    float *scale;
} tile;

static int64_t blocks(int64_t n) {
    return fl_div_up(n, FL_QUANT_BLOCK);
}

static int64_t tile_count(const job *j) {
    return j->w->grain == FL_GRAIN_BLOCK ? blocks(j->n) * blocks(j->k) : j->n;
}

static tile tile_at(const job *j, int64_t i) {
    if (j->w->grain != FL_GRAIN_BLOCK)
        return (tile){i, i + 1, 0, j->k, &j->scales[j->w->grain == FL_GRAIN_TENSOR ? 0 : i]};
    int64_t across = blocks(j->k);
    int64_t row = i / across * FL_QUANT_BLOCK, column = i % across * FL_QUANT_BLOCK;
    return (tile){row, fl_min_i64(row + FL_QUANT_BLOCK, j->n), column,
                  fl_min_i64(column + FL_QUANT_BLOCK, j->k), &j->scales[i]};
}

void fl_weight_scale_shape(int64_t dim[2], const fl_weight *w) {
    const int64_t *d = w->tensor->dim;
    dim[0] = w->grain == FL_GRAIN_TENSOR ? 1 : w->grain == FL_GRAIN_CHANNEL ? d[0] : blocks(d[0]);
    dim[1] = w->grain == FL_GRAIN_BLOCK ? blocks(d[1]) : 1;
}

/* n elements from `first` as f32, from data of any alignment. */
static void load(float *out, const fl_st_tensor *w, int64_t first, int64_t n) {
    if (w->dtype == FL_DTYPE_F32) {
        memcpy(out, w->data + first * 4, (size_t)n * 4);
        return;
    }
    uint16_t half[PIECE];
    memcpy(half, w->data + first * 2, (size_t)n * 2);
    if (w->dtype == FL_DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) out[i] = fl_bf16_to_f32(half[i]);
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = fl_f16_to_f32(half[i]);
    }
}

/* x: n values of a row, a multiple of 4; the earlier one wins a tie. */
static void prune(float *x, const float *sumsq, int64_t n) {
    for (int64_t i = 0; i < n; i += 4) {
        float score[4];
        for (int a = 0; a < 4; a++)
            score[a] = fabsf(x[i + a]) * (sumsq ? sqrtf(sumsq[i + a]) : 1.0f);
        for (int a = 0; a < 4; a++) {
            int better = 0;
            for (int b = 0; b < 4; b++)
                better += score[b] > score[a] || (score[b] == score[a] && b < a);
            if (better >= 2) x[i + a] = 0.0f;
        }
    }
}

static float largest(const float *x, int64_t n) {
    uint32_t max = 0; /* bits of magnitudes compare like these; NaN and infinity are above all */
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = fl_f32_bits(x[i]) & 0x7fffffffu;
        max = bits > max ? bits : max;
    }
    return fl_bits_f32(max);
}

/* The weight as it will be, a piece of a row at a time. */
typedef void (*piece_fn)(job *j, void *state, const float *x, int64_t first, int64_t n);

static void each_piece(job *j, const tile *t, piece_fn fn, void *state) {
    float x[PIECE + LANES];
    for (int64_t row = t->row; row < t->row_end; row++) {
        for (int64_t c = t->column; c < t->column_end; c += PIECE) {
            int64_t n = fl_min_i64(PIECE, t->column_end - c), first = row * j->k + c;
            load(x, j->w->tensor, first, n);
            if (j->w->prune) {
                if (!isfinite(largest(x, n))) atomic_store(&j->not_finite, true);
                prune(x, j->w->sumsq ? j->w->sumsq + c : NULL, n);
            }
            memset(x + n, 0, LANES * sizeof(*x));
            fn(j, state, x, first, n);
        }
    }
}

/* ---- the largest magnitude ---- */

static void absmax_piece(job *j, void *state, const float *x, int64_t first, int64_t n) {
    float *max = state, top = largest(x, n);
    (void)first;
    if (!isfinite(top)) atomic_store(&j->not_finite, true);
    if (top > *max) *max = top;
}

static void absmax_tiles(void *ctx, int64_t begin, int64_t end) {
    job *j = ctx;
    for (int64_t i = begin; i < end; i++) {
        tile t = tile_at(j, i);
        float max = 0.0f;
        each_piece(j, &t, absmax_piece, &max);
        if (j->w->grain != FL_GRAIN_TENSOR) {
            *t.scale = max;
            continue;
        }
        /* the scale that all tiles share: magnitudes only grow */
        uint32_t seen = __atomic_load_n((uint32_t *)t.scale, __ATOMIC_RELAXED);
        while (fl_f32_bits(max) > seen &&
               !__atomic_compare_exchange_n((uint32_t *)t.scale, &seen, fl_f32_bits(max), true,
                                            __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
    }
}

/* ---- the smallest error ---- */

/* Four numbers at a time, in the compilers' own vector type: left to itself gcc -O2 makes
 * scalar code of this, six times as slow. */
typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));

static inline ivec pick(ivec mask, ivec yes, ivec no) {
    return (yes & mask) | (no & ~mask);
}

static inline vec smaller(vec a, float b) {
    vec all = {b, b, b, b};
    return (vec)pick(a < all, (ivec)a, (ivec)all);
}

/* x rounded to E4M3: adding 1.5 * 2^(e+20) leaves three bits below the leading one of x, or
 * multiples of 2^-9.  0 <= x <= 448. */
static inline vec round_e4m3(vec x) {
    const ivec least = {121, 121, 121, 121};
    ivec e = (ivec)x >> 23;
    e = pick(e > least, e, least);
    vec big = (vec)(((e + 20) << 23) | 0x400000);
    return (x + big) - big;
}

/* d^2.4 as a^2 * a^-0.8 with a = d^2; a^-0.2 by Newton's method, to about 1e-6. */
static inline vec pow24(vec d) {
    vec a = d * d;
    vec guess = 1.2779e9f - 0.2f * __builtin_convertvector((ivec)a, vec);
    vec z = (vec) __builtin_convertvector(guess, ivec);
    for (int i = 0; i < 3; i++) z += z * (1.0f - a * z * (z * z) * (z * z)) * 0.2f;
    return (a * z) * (a * z) * (z * z);
}

typedef struct search {
    float unit; /* 1 / (amax / 448) */
    double *error;
} search;

static float shrink(int candidate) {
    return 1.0f - (float)candidate / 100.0f;
}

/* In units of the scale of p = 1: the same powers are summed for every weight. */
static void error_piece(job *j, void *state, const float *x, int64_t first, int64_t n) {
    const search *s = state;
    float y[PIECE + LANES];
    (void)j;
    (void)first;
    for (int64_t i = 0; i < n + LANES - 1; i++) y[i] = fabsf(x[i]) * s->unit;
    for (int c = 0; c < CANDIDATES; c++) {
        const float p = shrink(c), inverse = 1.0f / p;
        vec sum = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            vec v;
            memcpy(&v, y + i, sizeof(v));
            sum += pow24(round_e4m3(smaller(v * inverse, FL_E4M3_MAX)) * p - v);
        }
        for (int l = 0; l < LANES; l++) s->error[c] += (double)sum[l];
    }
}

/* The first of the smallest: nearest to no shrinking. */
static float best(const double *error) {
    int at = 0;
    for (int c = 1; c < CANDIDATES; c++) at = error[c] < error[at] ? c : at;
    return shrink(at);
}

static void error_tiles(void *ctx, int64_t begin, int64_t end) {
    job *j = ctx;
    for (int64_t i = begin; i < end; i++) {
        tile t = tile_at(j, i);
        double own[CANDIDATES] = {0};
        search s = {FL_E4M3_MAX / *t.scale, j->errors ? j->errors + i * CANDIDATES : own};
        if (!(*t.scale > 0.0f) || !isfinite(s.unit)) continue;
        each_piece(j, &t, error_piece, &s);
        if (!j->errors) *t.scale *= best(own);
    }
}

static int64_t grain_of(const job *j) {
    int64_t elements = j->w->grain == FL_GRAIN_BLOCK ? FL_QUANT_BLOCK * FL_QUANT_BLOCK : j->k;
    return fl_max_i64(1, 16384 / fl_max_i64(1, elements));
}

/* scales hold the largest magnitudes; multiply them by the best p. */
static int shrink_scales(job *j, fl_team *team, fl_err *err) {
    const bool shared = j->w->grain == FL_GRAIN_TENSOR;
    if (shared) {
        j->errors = fl_alloc_array((size_t)j->n, CANDIDATES * sizeof(*j->errors));
        if (!j->errors) return fl_fail(err, FL_E_NOMEM, "%s: errors", j->w->tensor->name);
    }
    fl_team_for(team, tile_count(j), grain_of(j), error_tiles, j);
    if (shared) {
        double sum[CANDIDATES] = {0};
        for (int64_t i = 0; i < j->n; i++)
            for (int c = 0; c < CANDIDATES; c++) sum[c] += j->errors[i * CANDIDATES + c];
        j->scales[0] *= best(sum);
    }
    fl_free(j->errors);
    return FL_OK;
}

/* ---- scales and codes ---- */

float fl_arithmetic_scale(fl_arithmetic a, float amax) {
    if (a == FL_ARITHMETIC_AUTOFP8) {
        /* 448 / amax is a product with the reciprocal in torch; both are BF16 */
        float inverse = fl_bf16_round(1.0f / fmaxf(amax, fl_bf16_round(1e-12f)));
        return 1.0f / fl_bf16_round(inverse * FL_E4M3_MAX);
    }
    if (a == FL_ARITHMETIC_COMPRESSED_TENSORS)
        return fmaxf(fl_bf16_round(amax / FL_E4M3_MAX), FLT_EPSILON);
    return fmaxf(fl_weight_scale(amax), FLT_MIN); /* never 0 from a tiny amax */
}

static int check(const fl_weight *w, fl_err *err) {
    const fl_st_tensor *t = w->tensor;
    char shape[160];
    if (t->dtype != FL_DTYPE_F32 && t->dtype != FL_DTYPE_BF16 && t->dtype != FL_DTYPE_F16)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need BF16, F16 or F32", t->file,
                       t->name, fl_dtype_name(t->dtype));
    if (w->arithmetic != FL_ARITHMETIC_F32 && t->dtype != FL_DTYPE_BF16)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, compat repeats BF16 arithmetic",
                       t->file, t->name, fl_dtype_name(t->dtype));
    if (t->ndim != 2)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, need two dimensions", t->file, t->name,
                       fl_st_shape(shape, t));
    if (w->prune && t->dim[1] % 8)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: shape %s, 2:4 needs a multiple of 8 columns",
                       t->file, t->name, fl_st_shape(shape, t));
    return FL_OK;
}

static job job_of(const fl_weight *w) {
    return (job){.w = w, .n = w->tensor->dim[0], .k = w->tensor->dim[1]};
}

int fl_weight_measure(float *scales, const fl_weight *w, fl_team *team, fl_err *err) {
    int rc = check(w, err);
    if (rc) return rc;
    job j = job_of(w);
    int64_t dim[2];
    fl_weight_scale_shape(dim, w);
    j.scales = scales;
    memset(scales, 0, (size_t)(dim[0] * dim[1]) * sizeof(*scales));
    fl_team_for(team, tile_count(&j), grain_of(&j), absmax_tiles, &j);
    if (atomic_load(&j.not_finite))
        return fl_fail(err, FL_E_FORMAT, "%s: %s: holds NaN or infinity", w->tensor->file,
                       w->tensor->name);
    if (w->mse && (rc = shrink_scales(&j, team, err))) return rc;
    for (int64_t i = 0; i < dim[0] * dim[1]; i++)
        scales[i] = fl_arithmetic_scale(w->arithmetic, scales[i]);
    return FL_OK;
}

void fl_arithmetic_encode(fl_arithmetic a, uint8_t *codes, const float *x, int64_t n, float scale) {
    switch (a) {
    case FL_ARITHMETIC_F32:
        for (int64_t i = 0; i < n; i++) codes[i] = fl_f32_to_e4m3(x[i] / scale);
        break;
    case FL_ARITHMETIC_AUTOFP8: {
        const float m = fl_bf16_round(1.0f / scale); /* what scale was made of, exactly */
        for (int64_t i = 0; i < n; i++) codes[i] = fl_f32_to_e4m3(fl_bf16_round(x[i] * m));
        break;
    }
    case FL_ARITHMETIC_COMPRESSED_TENSORS:
        for (int64_t i = 0; i < n; i++) codes[i] = fl_f32_to_e4m3(fl_bf16_round(x[i] / scale));
        break;
    }
}

static void encode_piece(job *j, void *state, const float *x, int64_t first, int64_t n) {
    fl_arithmetic_encode(j->w->arithmetic, j->codes + first, x, n, *(const float *)state);
}

static void encode_tiles(void *ctx, int64_t begin, int64_t end) {
    job *j = ctx;
    for (int64_t i = begin; i < end; i++) {
        tile t = tile_at(j, i);
        each_piece(j, &t, encode_piece, t.scale);
    }
}

void fl_weight_encode(uint8_t *codes, const fl_weight *w, const float *scales, fl_team *team) {
    job j = job_of(w);
    j.codes = codes;
    j.scales = (float *)(uintptr_t)scales; /* only read */
    fl_team_for(team, tile_count(&j), grain_of(&j), encode_tiles, &j);
}
