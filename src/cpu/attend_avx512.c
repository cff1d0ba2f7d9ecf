/* attend_avx512.c - the two parts of attention that linear does not have. */
#include <math.h>

#include "cpu/simd_avx512.h"

enum { MIX_ROWS = 8 };

INLINE void mix_block(const cpu_mix *x, int64_t row, int64_t tile, const int rows, fl_dtype t) {
    const int64_t bytes = cpu_group_bytes(t);
    const e4m3_lut lut = load_lut(true);
    float *at = x->acc + (row * x->n_tiles + tile) * 2 * CPU_TILE;
    __m512 acc[MIX_ROWS][2];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int h = 0; h < 2; h++)
            acc[m][h] = _mm512_loadu_ps(at + (m * x->n_tiles * 2 + h) * CPU_TILE);
    }
    for (int64_t g = x->group_begin; g < x->group_end; g++) {
        __m512 col[CPU_GROUP];
        load_columns(col, x->block[g / 4] + (tile * 4 + g % 4) * bytes, t, &lut);
        UNROLL
        for (int m = 0; m < rows; m++) {
            const float *p = x->p + (row + m) * x->ldp + 4 * g;
            UNROLL
            for (int k = 0; k < CPU_GROUP; k++)
                acc[m][k / 2] =
                    _mm512_fmadd_ps(_mm512_set1_ps(p[k ^ 1]), col[k ^ 1], acc[m][k / 2]);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int h = 0; h < 2; h++)
            _mm512_storeu_ps(at + (m * x->n_tiles * 2 + h) * CPU_TILE, acc[m][h]);
    }
}

INLINE void mix_rows(const cpu_mix *x, int64_t row, const int rows, fl_dtype t) {
    for (int64_t tile = 0; tile < x->n_tiles; tile++) mix_block(x, row, tile, rows, t);
}

INLINE void mix_form(const cpu_mix *x, fl_dtype t) {
    for (int64_t row = 0, n; row < x->m; row += n) {
        n = x->m - row;
        if (n >= MIX_ROWS)
            mix_rows(x, row, (int)(n = MIX_ROWS), t);
        else if (n >= 6)
            mix_rows(x, row, (int)(n = 6), t);
        else if (n >= 4)
            mix_rows(x, row, (int)(n = 4), t);
        else if (n == 3)
            mix_rows(x, row, 3, t);
        else if (n == 2)
            mix_rows(x, row, 2, t);
        else
            mix_rows(x, row, 1, t);
    }
}

void cpu_mix_avx512(const cpu_mix *x) {
    if (x->dtype == FL_DTYPE_E4M3)
        mix_form(x, FL_DTYPE_E4M3);
    else if (x->dtype == FL_DTYPE_BF16)
        mix_form(x, FL_DTYPE_BF16);
    else
        mix_form(x, FL_DTYPE_F16);
}

float cpu_softmax_avx512(float *s, int64_t n, float factor, float *max) {
    const __m512 f = _mm512_set1_ps(factor), low = _mm512_set1_ps(-INFINITY);
    __m512 top = low, sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_mask_mul_ps(low, lanes(i, n), _mm512_loadu_ps(s + i), f);
        _mm512_storeu_ps(s + i, v);
        top = _mm512_max_ps(v, top); /* the operand order that ignores NaN */
    }
    *max = _mm512_reduce_max_ps(top);
    top = _mm512_set1_ps(*max);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = exp16(_mm512_sub_ps(_mm512_loadu_ps(s + i), top));
        v = _mm512_maskz_mov_ps(lanes(i, n), v);
        _mm512_storeu_ps(s + i, v);
        sum = _mm512_add_ps(sum, v);
    }
    return _mm512_reduce_add_ps(sum);
}
