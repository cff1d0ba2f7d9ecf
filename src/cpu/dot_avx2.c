/* dot_avx2.c - product sums of few rows over tiles in f32, AVX2 with FMA and F16C. */
#include "cpu/simd_avx2.h"

enum {
    DOT_ROWS = 4, /* 8 accumulators, 4 columns, 1 activation: 13 of 16 registers */
    PREFETCH_BYTES = 2048,
};

/* A form of the kernel; all members are constants in each instance. */
typedef struct form {
    fl_dtype t;
    bool nan;    /* NaN codes are looked for */
    bool sparse; /* 2:4 tiles */
    int rows;
    bool picks; /* 2:4 tiles of E4M3, one row */
} form;

typedef __m256 sums[DOT_ROWS][4][2]; /* row, half tile, accumulator */

INLINE void add_columns(sums acc, const cpu_dot *d, int64_t row, const int rows, const int h,
                        int64_t g, const __m256 col[CPU_GROUP]) {
    const float *x = (const float *)d->x + row * d->ldx + 4 * g;
    UNROLL
    for (int m = 0; m < rows; m++, x += d->ldx) {
        UNROLL
        for (int k = 0; k < CPU_GROUP; k++)
            acc[m][h][k / 2] =
                _mm256_fmadd_ps(_mm256_broadcast_ss(x + (k ^ 1)), col[k ^ 1], acc[m][h][k / 2]);
    }
}

/* Pair of groups g, g+1 with picks, of half a tile. */
INLINE void add_picked(__m256 acc[2], const cpu_dot *d, const int half, int64_t g,
                       const uint8_t *unit) {
    const float *picks = (const float *)d->picks + (g >> 1) * CPU_PICKS;
    const int64_t p = cpu_pair_of(g);
    const __m256i seven = _mm256_set1_epi32(7);
    __m256i name =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(unit + p * CPU_TILE + 8 * half)));
    __m256 w[4]; /* both kept numbers of the first group, of the second */
    load_columns(w, unit + CPU_NAMES + p * 64, half, FL_DTYPE_E4M3, false);
    UNROLL
    for (int i = 0; i < 2; i++) {
        const float *x = (const float *)d->x + 4 * (g + i);
        __m256i which = _mm256_and_si256(i ? _mm256_srli_epi32(name, 4) : name, seven);
        __m256i both0 = _mm256_cmpeq_epi32(which, _mm256_setzero_si256());
        __m256i both1 = _mm256_cmpeq_epi32(which, _mm256_set1_epi32(5));
        __m256 x0 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(picks + 8 * i), which);
        __m256 x1 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(picks + 16 + 8 * i), which);
        __m256 also0 = _mm256_and_ps(_mm256_broadcast_ss(x + 1), _mm256_castsi256_ps(both0));
        __m256 also1 = _mm256_and_ps(_mm256_broadcast_ss(x + 2), _mm256_castsi256_ps(both1));
        acc[0] = _mm256_fmadd_ps(also0, w[2 * i + 1], acc[0]);
        acc[0] = _mm256_fmadd_ps(x0, w[2 * i], acc[0]);
        acc[1] = _mm256_fmadd_ps(x1, w[2 * i + 1], acc[1]);
        acc[1] = _mm256_fmadd_ps(also1, w[2 * i], acc[1]);
    }
}

/* Group g, or pair of groups g, g+1 of 2:4 weights, of half a tile; w: the tile. */
INLINE void add_group(sums acc, const cpu_dot *d, int64_t row, const form f, const int h,
                      const int half, int64_t g, const uint8_t *w) {
    __m256 col[CPU_GROUP];
    if (!f.sparse) {
        load_columns(col, w + g * cpu_group_bytes(f.t), half, f.t, f.nan);
        add_columns(acc, d, row, f.rows, h, g, col);
        return;
    }
    const uint8_t *unit = cpu_unit_of(w, f.t, g);
    if (f.picks) {
        add_picked(acc[0][h], d, half, g, unit);
        return;
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        load_kept(col, unit, cpu_pair_of(g), i, half, f.t);
        add_columns(acc, d, row, f.rows, h, g + i, col);
    }
}

/* The sums of block b, or of all columns, into y of half a tile. */
INLINE void put_block(const cpu_dot *d, int64_t row, int64_t tile, const int half, const form f,
                      int64_t b, sums acc, const int h) {
    UNROLL
    for (int m = 0; m < f.rows; m++) {
        __m256 sum = _mm256_add_ps(acc[m][h][0], acc[m][h][1]);
        if (f.t == FL_DTYPE_E4M3) sum = _mm256_mul_ps(sum, _mm256_set1_ps(E4M3_COLUMN_SCALE));
        put_sum(d->y + (row + m) * d->ldy + tile * CPU_TILE, sum, d->scales, row + m, tile, b,
                half);
    }
}

/* f.rows rows x `halves` half tiles, from half `first` (0 or 1) of a tile on. */
INLINE void dot_block(const cpu_dot *d, int64_t row, int64_t tile, const int first,
                      const int halves, const form f) {
    const int64_t tile_bytes = cpu_tile_bytes(f.t, d->groups, f.sparse);
    const int64_t bytes = f.sparse ? cpu_unit_bytes(f.t) / (CPU_UNIT / 2) : cpu_group_bytes(f.t);
    const int64_t span = cpu_dot_span(d), step = f.sparse ? 2 : 1;
    const uint8_t *w = d->w + tile * tile_bytes, *ahead = w + PREFETCH_BYTES;
    for (int64_t begin = 0, b = 0; begin < d->groups; begin += span, b++) {
        sums acc;
        UNROLL
        for (int m = 0; m < f.rows; m++) {
            UNROLL
            for (int h = 0; h < halves; h++) acc[m][h][0] = acc[m][h][1] = _mm256_setzero_ps();
        }
        for (int64_t g = begin; g < fl_min_i64(begin + span, d->groups); g += step) {
            UNROLL
            for (int h = 0; h < halves; h++) {
                const uint8_t *p = ahead + (first + h) / 2 * tile_bytes;
                if (!((first + h) & 1)) {
                    _mm_prefetch((const char *)p, _MM_HINT_T0);
                    if (bytes > 64) _mm_prefetch((const char *)(p + 64), _MM_HINT_T0);
                    if (bytes > 128) _mm_prefetch((const char *)(p + 128), _MM_HINT_T0);
                }
                add_group(acc, d, row, f, h, (first + h) & 1, g, w + (first + h) / 2 * tile_bytes);
            }
            ahead += bytes;
        }
        UNROLL
        for (int h = 0; h < halves; h++)
            put_block(d, row, tile + (first + h) / 2, (first + h) & 1, f, b, acc, h);
    }
}

/* The fewer the rows, the more columns at once: always 8 independent sums if possible. */
INLINE void dot_rows(const cpu_dot *d, int64_t row, const form f) {
    int64_t tile = 0;
    if (f.rows == 1) {
        for (; tile + 2 <= d->n_tiles; tile += 2) dot_block(d, row, tile, 0, 4, f);
    }
    for (; tile < d->n_tiles; tile++) {
        if (f.rows <= 2) {
            dot_block(d, row, tile, 0, 2, f);
        } else {
            dot_block(d, row, tile, 0, 1, f);
            dot_block(d, row, tile, 1, 1, f);
        }
    }
}

INLINE void dot_form(const cpu_dot *d, fl_dtype t, const bool nan, const bool sparse) {
    if (d->picks && sparse && t == FL_DTYPE_E4M3) {
        dot_rows(d, 0, (form){t, nan, true, 1, true});
        return;
    }
    for (int64_t row = 0; row < d->m; row += DOT_ROWS) {
        switch (fl_min_i64(DOT_ROWS, d->m - row)) {
        case 1:
            dot_rows(d, row, (form){t, nan, sparse, 1, false});
            break;
        case 2:
            dot_rows(d, row, (form){t, nan, sparse, 2, false});
            break;
        case 3:
            dot_rows(d, row, (form){t, nan, sparse, 3, false});
            break;
        default:
            dot_rows(d, row, (form){t, nan, sparse, 4, false});
            break;
        }
    }
}

void cpu_dot_avx2(const cpu_dot *d) {
    const bool e4m3 = d->w_dtype == FL_DTYPE_E4M3;
    if (d->w_dtype == FL_DTYPE_F16)
        dot_form(d, FL_DTYPE_F16, false, false);
    else if (d->sparse24 && e4m3)
        dot_form(d, FL_DTYPE_E4M3, false, true);
    else if (d->sparse24)
        dot_form(d, FL_DTYPE_BF16, false, true);
    else if (!e4m3)
        dot_form(d, FL_DTYPE_BF16, false, false);
    else if (d->w_nan)
        dot_form(d, FL_DTYPE_E4M3, true, false);
    else
        dot_form(d, FL_DTYPE_E4M3, false, false);
}
