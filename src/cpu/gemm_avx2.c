/* gemm_avx2.c - product sums of many rows over expanded tiles: each column of weights that was
 * loaded meets three rows, each number of a row both halves of the tile. */
#include "cpu/simd_avx2.h"

enum { GEMM_ROWS = 3 }; /* 12 accumulators, 2 half columns, 1 activation */

typedef __m256 sums[GEMM_ROWS][2][2]; /* row, half tile, accumulator */

INLINE void add_columns(sums acc, const float *x, int64_t ldx, const float *w, const int rows) {
    UNROLL
    for (int k = 0; k < CPU_GROUP; k++) {
        const __m256 low = _mm256_loadu_ps(w + (k ^ 1) * 16);
        const __m256 high = _mm256_loadu_ps(w + (k ^ 1) * 16 + 8);
        UNROLL
        for (int m = 0; m < rows; m++) {
            const __m256 v = _mm256_broadcast_ss(x + m * ldx + (k ^ 1));
            acc[m][0][k / 2] = _mm256_fmadd_ps(v, low, acc[m][0][k / 2]);
            acc[m][1][k / 2] = _mm256_fmadd_ps(v, high, acc[m][1][k / 2]);
        }
    }
}

/* Where the accumulators of a row, a tile and a half lie; the second one CPU_TILE further. */
INLINE float *kept(const cpu_gemm *g, int64_t row, int64_t tile, int half) {
    return g->acc + (row * CPU_GEMM_TILES + tile) * 2 * CPU_TILE + half * 8;
}

INLINE void put_sums(const cpu_gemm *g, int64_t row, int64_t tile, const int rows, sums acc) {
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256 sum = _mm256_add_ps(acc[m][h][0], acc[m][h][1]);
            if (g->e4m3) sum = _mm256_mul_ps(sum, _mm256_set1_ps(E4M3_COLUMN_SCALE));
            put_sum(g->y + (row + m) * g->ldy + tile * CPU_TILE, sum, g->scales, row + m, tile,
                    g->block, h);
        }
    }
}

INLINE void rows_block(const cpu_gemm *g, int64_t row, int64_t tile, const int rows) {
    const float *w = (const float *)(g->w + tile * g->tile_bytes);
    const float *x = (const float *)g->x + row * g->ldx;
    sums acc;
    UNROLL
    for (int i = 0; i < 4 * rows; i++) {
        const float *from = kept(g, row + i / 4, tile, i / 2 % 2) + i % 2 * CPU_TILE;
        acc[i / 4][i / 2 % 2][i % 2] = g->first ? _mm256_setzero_ps() : _mm256_loadu_ps(from);
    }
    for (int64_t i = 0; i < g->groups; i++)
        add_columns(acc, x + 4 * i, g->ldx, w + i * CPU_GROUP * CPU_TILE, rows);
    if (g->last) {
        put_sums(g, row, tile, rows, acc);
        return;
    }
    UNROLL
    for (int i = 0; i < 4 * rows; i++)
        _mm256_storeu_ps(kept(g, row + i / 4, tile, i / 2 % 2) + i % 2 * CPU_TILE,
                         acc[i / 4][i / 2 % 2][i % 2]);
}

void cpu_gemm_avx2(const cpu_gemm *g) {
    for (int64_t tile = 0; tile < g->n_tiles; tile++) {
        int64_t row = 0;
        for (; g->m - row >= GEMM_ROWS; row += GEMM_ROWS) rows_block(g, row, tile, GEMM_ROWS);
        if (g->m - row == 2) rows_block(g, row, tile, 2);
        if (g->m - row == 1) rows_block(g, row, tile, 1);
    }
    /* What is read next comes while the last results are stored. */
    for (int64_t i = 0; i < g->ahead_bytes; i += 64)
        _mm_prefetch((const char *)g->ahead + i, _MM_HINT_T1);
}

INLINE void expand_form(const cpu_expand *e, fl_dtype t, const bool sparse) {
    /* E4M3 stays divided by 256: the sums then round alike, however small the activations. */
    for (int64_t g = 0; g < e->groups; g++) {
        float *dst = (float *)e->dst + g * CPU_GROUP * CPU_TILE;
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256 col[CPU_GROUP];
            if (sparse)
                load_kept(col, cpu_unit_of(e->src, t, g), cpu_pair_of(g), g % 2 != 0, h, t);
            else
                load_columns(col, e->src + g * cpu_group_bytes(t), h, t, false);
            UNROLL
            for (int k = 0; k < CPU_GROUP; k++)
                _mm256_storeu_ps(dst + k * CPU_TILE + 8 * h, col[k]);
        }
    }
}

void cpu_expand_avx2(const cpu_expand *e) {
    if (e->dtype == FL_DTYPE_F16)
        expand_form(e, FL_DTYPE_F16, false);
    else if (e->sparse24 && e->dtype == FL_DTYPE_E4M3)
        expand_form(e, FL_DTYPE_E4M3, true);
    else if (e->sparse24)
        expand_form(e, FL_DTYPE_BF16, true);
    else if (e->dtype == FL_DTYPE_E4M3)
        expand_form(e, FL_DTYPE_E4M3, false);
    else
        expand_form(e, FL_DTYPE_BF16, false);
}
