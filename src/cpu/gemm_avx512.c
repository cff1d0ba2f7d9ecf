/* gemm_avx512.c - product sums over tiles, with f32 FMA or with BF16 dot products.
 *
 * VDPBF16PS adds two exact products to an f32.  It reads subnormal BF16 numbers as zero;
 * images of E4M3 are never subnormal, and weights or activations below 2^-126 do not show. */
#include "cpu/simd_avx512.h"

enum {
    DOT_ROWS = 12, /* 24 accumulators and 4 columns, nearly all 32 registers; 8 rows where
                      the tables of E4M3 are needed beside them */
    PREFETCH_BYTES = 4096,
};

/* 0..7 subnormal: m * 2^-9; then 8 mantissas an exponent, exponent 120 above E4M3's. */
#define NORMAL8(e)    NORMAL2(e, 0), NORMAL2(e, 2), NORMAL2(e, 4), NORMAL2(e, 6)
#define NORMAL2(e, m) BYTE((e) + 120, m), BYTE((e) + 120, (m) + 1)
#define ALL_CODES                                                                                  \
    BYTE(0, 0), BYTE(118, 0), BYTE(119, 0), BYTE(119, 4), BYTE(120, 0), BYTE(120, 2),              \
        BYTE(120, 4), BYTE(120, 6), NORMAL8(1), NORMAL8(2), NORMAL8(3), NORMAL8(4), NORMAL8(5),    \
        NORMAL8(6), NORMAL8(7), NORMAL8(8), NORMAL8(9), NORMAL8(10), NORMAL8(11), NORMAL8(12),     \
        NORMAL8(13), NORMAL8(14), NORMAL2(15, 0), NORMAL2(15, 2), NORMAL2(15, 4), BYTE(135, 6),    \
        BYTE(255, 4) /* NaN */
#define BYTE(exponent, m) (uint8_t)((exponent) >> 1)
const uint8_t cpu_e4m3_hi[128] = {ALL_CODES};
#undef BYTE
#define BYTE(exponent, m) (uint8_t)((((exponent)&1) << 7) | ((m) << 4))
const uint8_t cpu_e4m3_lo[128] = {ALL_CODES};
#undef BYTE

/* Two BF16 activations in every lane. */
INLINE __m512bh broadcast_pair(const uint16_t *x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* The rows of one kernel; `rows` and `t` are constants in each instance. */
typedef struct block {
    const cpu_dot *d;
    int64_t row;
    int rows;
    fl_dtype t;
} block;

INLINE void add_pairs(__m512 acc[][2][2], const block *b, int tile, int64_t g, const uint8_t *p,
                      const e4m3_lut *lut) {
    __m512i pair[2];
    load_pairs(pair, p, b->t, lut);
    UNROLL
    for (int m = 0; m < b->rows; m++) {
        const uint16_t *x = (const uint16_t *)b->d->x + (b->row + m) * b->d->ldx + 4 * g;
        UNROLL
        for (int h = 0; h < 2; h++)
            acc[m][tile][h] =
                _mm512_dpbf16_ps(acc[m][tile][h], (__m512bh)pair[h], broadcast_pair(x + 2 * h));
    }
}

INLINE void add_columns(__m512 acc[][2][2], const block *b, int tile, int64_t g, const uint8_t *p,
                        const e4m3_lut *lut) {
    __m512 col[CPU_GROUP];
    load_columns(col, p, b->t, lut);
    UNROLL
    for (int m = 0; m < b->rows; m++) {
        const float *x = (const float *)b->d->x + (b->row + m) * b->d->ldx + 4 * g;
        UNROLL
        for (int k = 0; k < CPU_GROUP; k++)
            acc[m][tile][k / 2] =
                _mm512_fmadd_ps(_mm512_set1_ps(x[k ^ 1]), col[k ^ 1], acc[m][tile][k / 2]);
    }
}

INLINE void dot_block(const cpu_dot *d, int64_t row, int64_t tile, const int rows, const int tiles,
                      fl_dtype t, const bool pairs) {
    const int64_t bytes = cpu_group_bytes(t), tile_bytes = d->groups * bytes;
    const block b = {d, row, rows, t};
    const uint8_t *w = d->w + tile * tile_bytes;
    const e4m3_lut lut = load_lut(d->w_nan);
    __m512 acc[DOT_ROWS][2][2];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < tiles; i++) acc[m][i][0] = acc[m][i][1] = _mm512_setzero_ps();
    }
    /* Past the end of its tile the prefetch goes on in the tile that is read next: of two
     * read side by side, not the neighbour but the one after it. */
    const int64_t split = d->groups - PREFETCH_BYTES / bytes, jump = (tiles - 1) * tile_bytes;
    for (int64_t g = 0; g < d->groups; g++) {
        int64_t ahead = PREFETCH_BYTES + (g < split ? 0 : jump);
        UNROLL
        for (int i = 0; i < tiles; i++) {
            const uint8_t *p = w + i * tile_bytes + g * bytes;
            _mm_prefetch((const char *)(p + ahead), _MM_HINT_T0);
            if (bytes > 64) _mm_prefetch((const char *)(p + ahead + 64), _MM_HINT_T0);
            if (pairs)
                add_pairs(acc, &b, i, g, p, &lut);
            else
                add_columns(acc, &b, i, g, p, &lut);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < tiles; i++)
            _mm512_storeu_ps(d->y + (row + m) * d->ldy + (tile + i) * CPU_TILE,
                             _mm512_add_ps(acc[m][i][0], acc[m][i][1]));
    }
}

/* Few rows: their sums are few chains of dependent additions, so two tiles at once. */
INLINE void dot_rows(const cpu_dot *d, int64_t row, const int rows, fl_dtype t, const bool pairs) {
    int64_t tile = 0;
    if (rows <= 2) {
        for (; tile + 2 <= d->n_tiles; tile += 2) dot_block(d, row, tile, rows, 2, t, pairs);
    }
    for (; tile < d->n_tiles; tile++) dot_block(d, row, tile, rows, 1, t, pairs);
}

/* Blocks of 12, 8, 6, 4, 3, 2 or 1 rows: an instance of the kernel for each. */
INLINE void dot_form(const cpu_dot *d, fl_dtype t, const bool pairs) {
    const bool wide = pairs || t != FL_DTYPE_E4M3;
    for (int64_t row = 0, n; row < d->m; row += n) {
        n = d->m - row;
        if (n >= DOT_ROWS && wide)
            dot_rows(d, row, (int)(n = DOT_ROWS), t, pairs);
        else if (n >= 8)
            dot_rows(d, row, (int)(n = 8), t, pairs);
        else if (n >= 6)
            dot_rows(d, row, (int)(n = 6), t, pairs);
        else if (n >= 4)
            dot_rows(d, row, (int)(n = 4), t, pairs);
        else if (n == 3)
            dot_rows(d, row, 3, t, pairs);
        else if (n == 2)
            dot_rows(d, row, 2, t, pairs);
        else
            dot_rows(d, row, 1, t, pairs);
    }
}

void cpu_dot_avx512(const cpu_dot *d) {
    if (d->x_dtype == FL_DTYPE_BF16) {
        if (d->w_dtype == FL_DTYPE_E4M3)
            dot_form(d, FL_DTYPE_E4M3, true);
        else
            dot_form(d, FL_DTYPE_BF16, true);
    } else if (d->w_dtype == FL_DTYPE_E4M3) {
        dot_form(d, FL_DTYPE_E4M3, false);
    } else if (d->w_dtype == FL_DTYPE_BF16) {
        dot_form(d, FL_DTYPE_BF16, false);
    } else {
        dot_form(d, FL_DTYPE_F16, false);
    }
}

void cpu_expand_avx512(uint8_t *dst, const uint8_t *src, int64_t groups) {
    const e4m3_lut lut = load_lut(false);
    for (int64_t g = 0; g < groups; g++) {
        __m512i pair[2];
        load_pairs(pair, src + g * 64, FL_DTYPE_E4M3, &lut);
        _mm512_storeu_si512(dst + g * 128, pair[0]);
        _mm512_storeu_si512(dst + g * 128 + 64, pair[1]);
    }
}
