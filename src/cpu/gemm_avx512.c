/* gemm_avx512.c - product sums of many rows over expanded tiles: each column of weights that was
 * loaded meets six rows, each number of a row both tiles. */
#include "cpu/simd_avx512.h"

enum { GEMM_ROWS = 6 }; /* 24 accumulators, 2 columns, 1 activation */

typedef __m512 sums[GEMM_ROWS][CPU_GEMM_TILES][2]; /* row, tile, accumulator */

/* A group of F32 tiles. */
INLINE void add_columns(sums acc, const float *x, int64_t ldx, const uint8_t *w, int64_t tile_bytes,
                        const int rows, const int tiles) {
    UNROLL
    for (int k = 0; k < CPU_GROUP; k++) {
        __m512 col[CPU_GEMM_TILES];
        UNROLL
        for (int i = 0; i < tiles; i++) col[i] = _mm512_loadu_ps(w + i * tile_bytes + (k ^ 1) * 64);
        UNROLL
        for (int m = 0; m < rows; m++) {
            const __m512 v = _mm512_set1_ps(x[m * ldx + (k ^ 1)]);
            UNROLL
            for (int i = 0; i < tiles; i++)
                acc[m][i][k / 2] = _mm512_fmadd_ps(v, col[i], acc[m][i][k / 2]);
        }
    }
}

/* A group of BF16 tiles. */
INLINE void add_pairs(sums acc, const uint16_t *x, int64_t ldx, const uint8_t *w,
                      int64_t tile_bytes, const int rows, const int tiles) {
    UNROLL
    for (int h = 0; h < 2; h++) {
        __m512bh pair[CPU_GEMM_TILES];
        UNROLL
        for (int i = 0; i < tiles; i++)
            pair[i] = (__m512bh)_mm512_loadu_si512(w + i * tile_bytes + h * 64);
        UNROLL
        for (int m = 0; m < rows; m++) {
            const __m512bh v = broadcast_pair(x + m * ldx + 2 * h);
            UNROLL
            for (int i = 0; i < tiles; i++)
                acc[m][i][h] = _mm512_dpbf16_ps(acc[m][i][h], pair[i], v);
        }
    }
}

INLINE void load_sums(sums acc, const cpu_gemm *g, int64_t row, const int rows, const int tiles) {
    const float *at = g->acc + row * CPU_GEMM_TILES * 2 * CPU_TILE;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < 2 * tiles; i++)
            acc[m][i / 2][i % 2] =
                g->first ? _mm512_setzero_ps()
                         : _mm512_loadu_ps(at + (m * CPU_GEMM_TILES * 2 + i) * CPU_TILE);
    }
}

INLINE void keep_sums(const cpu_gemm *g, int64_t row, const int rows, const int tiles, sums acc) {
    float *at = g->acc + row * CPU_GEMM_TILES * 2 * CPU_TILE;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < 2 * tiles; i++)
            _mm512_storeu_ps(at + (m * CPU_GEMM_TILES * 2 + i) * CPU_TILE, acc[m][i / 2][i % 2]);
    }
}

INLINE void put_sums(const cpu_gemm *g, int64_t row, const int rows, const int tiles, sums acc) {
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < tiles; i++)
            put_sum(g->y + (row + m) * g->ldy + i * CPU_TILE,
                    _mm512_add_ps(acc[m][i][0], acc[m][i][1]), g->scales, row + m, i, g->block);
    }
}

INLINE void rows_block(const cpu_gemm *g, int64_t row, const uint8_t **ahead, const int rows,
                       const int tiles, const bool pairs) {
    const int64_t group_bytes = cpu_group_bytes(pairs ? FL_DTYPE_BF16 : FL_DTYPE_F32);
    const uint8_t *w = g->w, *next = *ahead, *end = g->ahead + g->ahead_bytes;
    const void *x = (const uint8_t *)g->x + row * g->ldx * (pairs ? 2 : 4);
    sums acc;
    load_sums(acc, g, row, rows, tiles);
    for (int64_t i = 0; i < g->groups; i++, w += group_bytes) {
        if (next < end) {
            _mm_prefetch((const char *)next, _MM_HINT_T1);
            next += 64;
        }
        if (pairs)
            add_pairs(acc, (const uint16_t *)x + 4 * i, g->ldx, w, g->tile_bytes, rows, tiles);
        else
            add_columns(acc, (const float *)x + 4 * i, g->ldx, w, g->tile_bytes, rows, tiles);
    }
    *ahead = next;
    if (g->last)
        put_sums(g, row, rows, tiles, acc);
    else
        keep_sums(g, row, rows, tiles, acc);
}

INLINE void gemm_form(const cpu_gemm *g, const int tiles, const bool pairs) {
    const uint8_t *ahead = g->ahead;
    int64_t row = 0;
    for (; g->m - row >= GEMM_ROWS; row += GEMM_ROWS)
        rows_block(g, row, &ahead, GEMM_ROWS, tiles, pairs);
    switch (g->m - row) {
    case 5:
        rows_block(g, row, &ahead, 5, tiles, pairs);
        break;
    case 4:
        rows_block(g, row, &ahead, 4, tiles, pairs);
        break;
    case 3:
        rows_block(g, row, &ahead, 3, tiles, pairs);
        break;
    case 2:
        rows_block(g, row, &ahead, 2, tiles, pairs);
        break;
    case 1:
        rows_block(g, row, &ahead, 1, tiles, pairs);
    }
}

void cpu_gemm_avx512(const cpu_gemm *g) {
    const bool pairs = g->x_dtype == FL_DTYPE_BF16;
    if (g->n_tiles == 1 && pairs)
        gemm_form(g, 1, true);
    else if (g->n_tiles == 1)
        gemm_form(g, 1, false);
    else if (pairs)
        gemm_form(g, 2, true);
    else
        gemm_form(g, 2, false);
}

INLINE void store_group(uint8_t *dst, const __m512i pair[2], const bool f32) {
    __m512 col[CPU_GROUP];
    if (f32) pairs_to_columns(col, pair);
    UNROLL
    for (int k = 0; f32 && k < CPU_GROUP; k++) _mm512_storeu_ps(dst + k * 64, col[k]);
    UNROLL
    for (int i = 0; !f32 && i < 2; i++) _mm512_storeu_si512(dst + i * 64, pair[i]);
}

INLINE void expand_form(const cpu_expand *e, fl_dtype t, const bool sparse, const bool f32) {
    const int64_t bytes = cpu_group_bytes(f32 ? FL_DTYPE_F32 : FL_DTYPE_BF16);
    const e4m3_lut lut = load_lut(false);
    for (int64_t g = 0; g < e->groups; g += sparse ? 2 : 1) {
        uint8_t *dst = e->dst + g * bytes;
        __m512i pair[2][2];
        if (sparse) {
            load_kept(pair, cpu_unit_of(e->src, t, g), cpu_pair_of(g), t, &lut);
            store_group(dst + bytes, pair[1], f32);
        } else {
            load_pairs(pair[0], e->src + g * cpu_group_bytes(t), t, &lut);
        }
        store_group(dst, pair[0], f32);
    }
}

INLINE void expand_to(const cpu_expand *e, const bool f32) {
    const bool e4m3 = e->dtype == FL_DTYPE_E4M3;
    if (e4m3 && e->sparse24)
        expand_form(e, FL_DTYPE_E4M3, true, f32);
    else if (e4m3)
        expand_form(e, FL_DTYPE_E4M3, false, f32);
    else
        expand_form(e, FL_DTYPE_BF16, true, f32);
}

void cpu_expand_avx512(const cpu_expand *e) {
    if (e->to == FL_DTYPE_F32)
        expand_to(e, true);
    else
        expand_to(e, false);
}
