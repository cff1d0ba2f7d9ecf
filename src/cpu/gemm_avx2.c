/* gemm_avx2.c - product sums over tiles in f32, AVX2 with FMA and F16C. */
#include "cpu/simd_avx2.h"

enum {
    DOT_ROWS = 4, /* 8 accumulators, 4 columns, 1 activation: 13 of 16 registers */
    PREFETCH_BYTES = 2048,
};

/* `rows` rows x `halves` half tiles, from half `first` (0 or 1) of a tile on. */
INLINE void dot_block(const cpu_dot *d, int64_t row, int64_t tile, const int first, const int rows,
                      const int halves, fl_dtype t, const bool nan) {
    const int64_t bytes = cpu_group_bytes(t), tile_bytes = d->groups * bytes;
    const uint8_t *w = d->w + tile * tile_bytes;
    __m256 acc[DOT_ROWS][4][2];
    for (int m = 0; m < rows; m++) {
        for (int h = 0; h < halves; h++) acc[m][h][0] = acc[m][h][1] = _mm256_setzero_ps();
    }
    for (int64_t g = 0; g < d->groups; g++) {
        for (int h = 0; h < halves; h++) {
            const uint8_t *p = w + (first + h) / 2 * tile_bytes + g * bytes;
            if (!((first + h) & 1)) {
                _mm_prefetch((const char *)(p + PREFETCH_BYTES), _MM_HINT_T0);
                if (t != FL_DTYPE_E4M3)
                    _mm_prefetch((const char *)(p + PREFETCH_BYTES + 64), _MM_HINT_T0);
            }
            __m256 col[CPU_GROUP];
            load_columns(col, p, (first + h) & 1, t, nan);
            for (int m = 0; m < rows; m++) {
                const float *x = (const float *)d->x + (row + m) * d->ldx + 4 * g;
                for (int k = 0; k < CPU_GROUP; k++)
                    acc[m][h][k / 2] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + (k ^ 1)), col[k ^ 1],
                                                       acc[m][h][k / 2]);
            }
        }
    }
    for (int m = 0; m < rows; m++) {
        for (int h = 0; h < halves; h++) {
            __m256 sum = _mm256_add_ps(acc[m][h][0], acc[m][h][1]);
            if (t == FL_DTYPE_E4M3 || d->expanded)
                sum = _mm256_mul_ps(sum, _mm256_set1_ps(E4M3_COLUMN_SCALE));
            _mm256_storeu_ps(d->y + (row + m) * d->ldy + tile * CPU_TILE + (first + h) * 8, sum);
        }
    }
}

/* The fewer the rows, the more columns at once: always 8 independent sums if possible. */
INLINE void dot_rows(const cpu_dot *d, int64_t row, const int rows, fl_dtype t, const bool nan) {
    int64_t tile = 0;
    if (rows == 1) {
        for (; tile + 2 <= d->n_tiles; tile += 2) dot_block(d, row, tile, 0, 1, 4, t, nan);
    }
    for (; tile < d->n_tiles; tile++) {
        if (rows <= 2) {
            dot_block(d, row, tile, 0, rows, 2, t, nan);
        } else {
            dot_block(d, row, tile, 0, rows, 1, t, nan);
            dot_block(d, row, tile, 1, rows, 1, t, nan);
        }
    }
}

INLINE void dot_form(const cpu_dot *d, fl_dtype t, const bool nan) {
    for (int64_t row = 0; row < d->m; row += DOT_ROWS) {
        switch (fl_min_i64(DOT_ROWS, d->m - row)) {
        case 1:
            dot_rows(d, row, 1, t, nan);
            break;
        case 2:
            dot_rows(d, row, 2, t, nan);
            break;
        case 3:
            dot_rows(d, row, 3, t, nan);
            break;
        default:
            dot_rows(d, row, 4, t, nan);
            break;
        }
    }
}

void cpu_dot_avx2(const cpu_dot *d) {
    if (d->w_dtype == FL_DTYPE_BF16)
        dot_form(d, FL_DTYPE_BF16, false);
    else if (d->w_dtype == FL_DTYPE_F16)
        dot_form(d, FL_DTYPE_F16, false);
    else if (d->w_nan)
        dot_form(d, FL_DTYPE_E4M3, true);
    else
        dot_form(d, FL_DTYPE_E4M3, false);
}

void cpu_expand_avx2(uint8_t *dst, const uint8_t *src, int64_t groups) {
    /* Still divided by 256: the sums then round alike, however small the activations. */
    for (int64_t g = 0; g < groups; g++, src += 64, dst += 128) {
        for (int half = 0; half < 2; half++) {
            __m256 col[CPU_GROUP];
            load_columns(col, src, half, FL_DTYPE_E4M3, false);
            for (int i = 0; i < 2; i++) {
                __m256i even = _mm256_castps_si256(col[2 * i]);
                __m256i odd = _mm256_castps_si256(col[2 * i + 1]);
                __m256i pair = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
                _mm256_storeu_si256((__m256i *)(dst + 64 * i + 32 * half), pair);
            }
        }
    }
}
