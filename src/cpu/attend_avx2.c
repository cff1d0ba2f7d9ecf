/* attend_avx2.c - the two parts of attention that linear does not have. */
#include <math.h>

#include "cpu/simd_avx2.h"

enum { MIX_ROWS = 4 };

INLINE void mix_block(const cpu_mix *x, int64_t row, int64_t tile, int half, const int rows,
                      fl_dtype t) {
    const int64_t bytes = cpu_group_bytes(t);
    float *at = x->acc + (row * x->n_tiles + tile) * 2 * CPU_TILE + 8 * half;
    const __m256 scale = _mm256_set1_ps(E4M3_COLUMN_SCALE);
    __m256 acc[MIX_ROWS][2];
    for (int m = 0; m < rows; m++) {
        for (int h = 0; h < 2; h++)
            acc[m][h] = _mm256_loadu_ps(at + (m * x->n_tiles * 2 + h) * CPU_TILE);
    }
    for (int64_t g = x->group_begin; g < x->group_end; g++) {
        __m256 col[CPU_GROUP];
        load_columns(col, x->block[g / 4] + (tile * 4 + g % 4) * bytes, half, t, true);
        for (int k = 0; k < CPU_GROUP && t == FL_DTYPE_E4M3; k++)
            col[k] = _mm256_mul_ps(col[k], scale);
        for (int m = 0; m < rows; m++) {
            const float *p = x->p + (row + m) * x->ldp + 4 * g;
            for (int k = 0; k < CPU_GROUP; k++)
                acc[m][k / 2] =
                    _mm256_fmadd_ps(_mm256_broadcast_ss(p + (k ^ 1)), col[k ^ 1], acc[m][k / 2]);
        }
    }
    for (int m = 0; m < rows; m++) {
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(at + (m * x->n_tiles * 2 + h) * CPU_TILE, acc[m][h]);
    }
}

INLINE void mix_form(const cpu_mix *x, fl_dtype t) {
    for (int64_t row = 0; row < x->m; row += MIX_ROWS) {
        for (int64_t i = 0; i < 2 * x->n_tiles; i++) {
            switch (fl_min_i64(MIX_ROWS, x->m - row)) {
            case 1:
                mix_block(x, row, i / 2, i % 2, 1, t);
                break;
            case 2:
                mix_block(x, row, i / 2, i % 2, 2, t);
                break;
            case 3:
                mix_block(x, row, i / 2, i % 2, 3, t);
                break;
            default:
                mix_block(x, row, i / 2, i % 2, 4, t);
                break;
            }
        }
    }
}

void cpu_mix_avx2(const cpu_mix *x) {
    if (x->dtype == FL_DTYPE_E4M3)
        mix_form(x, FL_DTYPE_E4M3);
    else if (x->dtype == FL_DTYPE_BF16)
        mix_form(x, FL_DTYPE_BF16);
    else
        mix_form(x, FL_DTYPE_F16);
}

float cpu_softmax_avx2(float *s, int64_t n, float factor, float *max) {
    const __m256 f = _mm256_set1_ps(factor);
    __m256 top = _mm256_set1_ps(-INFINITY), sum = _mm256_setzero_ps();
    /* Up to the next multiple of 16: lanes that weigh nothing. */
    int64_t end = (int64_t)fl_round_up((uint64_t)n, CPU_TILE);
    for (int64_t i = n; i < end; i++) s[i] = 0.0f;
    for (int64_t i = 0; i < end; i += 8)
        _mm256_storeu_ps(s + i, _mm256_mul_ps(_mm256_loadu_ps(s + i), f));
    for (int64_t i = n; i < end; i++) s[i] = -INFINITY;
    /* The operand order that ignores NaN. */
    for (int64_t i = 0; i < end; i += 8) top = _mm256_max_ps(_mm256_loadu_ps(s + i), top);
    *max = max8(top);
    top = _mm256_set1_ps(*max);
    for (int64_t i = 0; i < end; i += 8)
        _mm256_storeu_ps(s + i, exp8(_mm256_sub_ps(_mm256_loadu_ps(s + i), top)));
    for (int64_t i = n; i < end; i++) s[i] = 0.0f;
    for (int64_t i = 0; i < end; i += 8) sum = _mm256_add_ps(sum, _mm256_loadu_ps(s + i));
    return sum8(sum);
}
