/* simd_avx2.h - from tile bytes and stored numbers to ymm registers.  For *_avx2.c.
 *
 * A ymm register holds half of a tile's outer rows: half 0 or 1. */
#ifndef FL_CPU_SIMD_AVX2_H
#define FL_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "cpu/cpu_priv.h"
#include "cpu/simd.h"

void cpu_dot_avx2(const cpu_dot *d);                                   /* dot */
void cpu_expand_avx2(const cpu_expand *e);                             /* gemm */
void cpu_gemm_avx2(const cpu_gemm *g);                                 /* gemm */
void cpu_mix_avx2(const cpu_mix *x);                                   /* attend */
float cpu_softmax_avx2(float *s, int64_t n, float factor, float *max); /* attend */

/* What load_columns leaves to the caller: E4M3 columns are real values / 256. */
#define E4M3_COLUMN_SCALE 256.0f

/* E4M3 codes in the high bytes of 16-bit words as F16 of value / 256: the bits only move,
 * subnormals included.  NaN codes become NaN if asked for; else they read as 480. */
INLINE __m256i e4m3_to_f16(__m256i w, const bool nan) {
    __m256i h = _mm256_and_si256(_mm256_srai_epi16(w, 1), _mm256_set1_epi16((short)0xbf80));
    if (!nan) return h;
    const __m256i ones = _mm256_set1_epi16(0x3f80);
    __m256i all = _mm256_cmpeq_epi16(_mm256_and_si256(h, ones), ones);
    return _mm256_or_si256(h, _mm256_and_si256(all, _mm256_set1_epi16(0x7e00)));
}

/* E4M3 codes, (k0,k1) of 8 rows in the low lane and (k2,k3) in the high one, as f32. */
INLINE void codes_to_columns(__m256 w[CPU_GROUP], __m256i code, const bool nan) {
    __m256i even = e4m3_to_f16(_mm256_slli_epi16(code, 8), nan), odd = e4m3_to_f16(code, nan);
    w[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(even));
    w[1] = _mm256_cvtph_ps(_mm256_castsi256_si128(odd));
    w[2] = _mm256_cvtph_ps(_mm256_extracti128_si256(even, 1));
    w[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(odd, 1));
}

/* BF16 pairs of 8 rows as the f32 columns of their first and second number. */
INLINE void pair_to_columns(__m256 w[2], __m256i pair) {
    w[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
    w[1] = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000u)));
}

/* One group of half a tile as f32: column k of 8 outer rows in w[k]. */
INLINE void load_columns(__m256 w[CPU_GROUP], const uint8_t *group, int half, fl_dtype t,
                         const bool nan) {
    if (t == FL_DTYPE_E4M3) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(group + 32 * half));
        codes_to_columns(w, _mm256_permute4x64_epi64(v, 0xd8), nan);
    } else if (t == FL_DTYPE_F16) {
        UNROLL
        for (int k = 0; k < CPU_GROUP; k++)
            w[k] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(group + 32 * k + 16 * half)));
    } else {
        UNROLL
        for (int i = 0; i < 2; i++)
            pair_to_columns(w + 2 * i,
                            _mm256_loadu_si256((const __m256i *)(group + 64 * i + 32 * half)));
    }
}

/* The sum of block b of a row and half a tile, or of all columns (s is NULL), into y, where the
 * tile begins. */
INLINE void put_sum(float *y, __m256 sum, const cpu_scales *s, int64_t row, int64_t tile, int64_t b,
                    const int half) {
    y += half * 8;
    if (s) {
        __m256 scale = _mm256_loadu_ps(s->w + tile * s->w_tile + b * s->w_block + half * 8);
        scale = _mm256_mul_ps(scale, _mm256_set1_ps(s->x[row * s->x_row + b * s->x_block]));
        sum = _mm256_fmadd_ps(sum, scale, b ? _mm256_loadu_ps(y) : _mm256_setzero_ps());
    }
    _mm256_storeu_ps(y, sum);
}

/* The same from group 2*p + i of a unit of 2:4 weights.  Which of the row's two kept numbers
 * goes where, or a zero, is looked up by name. */
INLINE void load_kept(__m256 w[CPU_GROUP], const uint8_t *unit, int64_t p, const int i,
                      const int half, fl_dtype t) {
    const uint8_t *names = unit + p * CPU_TILE + 8 * half;
    const uint8_t *value = unit + CPU_NAMES + p * cpu_group_bytes(t) + 32 * half;
    if (t == FL_DTYPE_E4M3) {
        /* Entries 0..5: even columns (k0, k2), 8..13: odd ones. */
        const __m256i slot =
            _mm256_setr_epi8(0, 0, 0, -1, -1, -1, -1, -1, 1, -1, -1, 0, 0, -1, -1, -1,  /* k0, k1 */
                             -1, 1, -1, 1, -1, 0, -1, -1, -1, -1, 1, -1, 1, 1, -1, -1); /* k2, k3 */
        const __m256i spread = _mm256_setr_epi64x(0x0303020201010000, 0x0707060605050404,
                                                  0x0303020201010000, 0x0707060605050404);
        const __m256i row = _mm256_setr_epi64x(0x0606040402020000, 0x0e0e0c0c0a0a0808,
                                               0x0606040402020000, 0x0e0e0c0c0a0a0808);
        int64_t word;
        memcpy(&word, names, sizeof(word));
        __m256i name = _mm256_shuffle_epi8(_mm256_set1_epi64x(word), spread);
        if (i) name = _mm256_srli_epi16(name, 4);
        /* Low four bits and the eighth count: even columns + 0, odd ones + 8. */
        name = _mm256_xor_si256(name, _mm256_set1_epi16(i ? 0x0008 : (short)0x8880));
        __m256i from = _mm256_or_si256(_mm256_shuffle_epi8(slot, name), row);
        __m256i kept = _mm256_loadu_si256((const __m256i *)value);
        kept = i ? _mm256_permute4x64_epi64(kept, 0xdd) : _mm256_permute4x64_epi64(kept, 0x88);
        codes_to_columns(w, _mm256_shuffle_epi8(kept, from), false);
        return;
    }
    const __m256i low = _mm256_setr_epi32(0x03020100, (int)0x80800100, (int)0x80800100, 0x01008080,
                                          0x01008080, -1, -1, -1);
    const __m256i high = _mm256_setr_epi32(-1, (int)0x80800302, 0x03028080, (int)0x80800302,
                                           0x03028080, 0x03020100, -1, -1);
    const __m256i lane = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                           0x08080808, 0x0c0c0c0c);
    __m256i name = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)names));
    if (i) name = _mm256_srli_epi32(name, 4); /* low three bits count */
    __m256i kept = _mm256_loadu_si256((const __m256i *)(value + 64 * i));
    __m256i first = _mm256_or_si256(_mm256_permutevar8x32_epi32(low, name), lane);
    __m256i second = _mm256_or_si256(_mm256_permutevar8x32_epi32(high, name), lane);
    pair_to_columns(w, _mm256_shuffle_epi8(kept, first));
    pair_to_columns(w + 2, _mm256_shuffle_epi8(kept, second));
}

/* 8 numbers of type t, all readable. */
INLINE __m256 load8_whole(const void *p, fl_dtype t) {
    if (t == FL_DTYPE_F32) return _mm256_loadu_ps(p);
    if (t == FL_DTYPE_E4M3) {
        __m256i b = _mm256_cvtepu8_epi16(_mm_loadl_epi64(p));
        __m256i h = e4m3_to_f16(_mm256_slli_epi16(b, 8), true);
        return _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                             _mm256_set1_ps(E4M3_COLUMN_SCALE));
    }
    __m128i h = _mm_loadu_si128(p);
    if (t == FL_DTYPE_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE int64_t elem_bytes(fl_dtype t) {
    return t == FL_DTYPE_F32 ? 4 : t == FL_DTYPE_E4M3 ? 1 : 2;
}

/* Elements i..i+7 of an array of n; beyond n zeros. */
INLINE __m256 load8(const void *array, fl_dtype t, int64_t i, int64_t n) {
    const uint8_t *p = (const uint8_t *)array + i * elem_bytes(t);
    if (n - i >= 8) return load8_whole(p, t);
    uint8_t part[32] = {0};
    memcpy(part, p, (size_t)((n - i) * elem_bytes(t)));
    return load8_whole(part, t);
}

/* Round to nearest even; eight BF16 numbers in the low 128 bits. */
INLINE __m128i bf16_bits(__m256 x) {
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    r = _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(quiet), nan));
    r = _mm256_srli_epi32(r, 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0xd8);
    return _mm256_castsi256_si128(r);
}

INLINE void store8(void *array, fl_dtype t, int64_t i, int64_t n, __m256 x) {
    uint8_t *p = (uint8_t *)array + i * elem_bytes(t), part[32];
    uint8_t *to = n - i >= 8 ? p : part;
    if (t == FL_DTYPE_F32)
        _mm256_storeu_ps((float *)to, x);
    else if (t == FL_DTYPE_F16)
        _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    else
        _mm_storeu_si128((__m128i *)to, bf16_bits(x));
    if (to == part) memcpy(p, part, (size_t)((n - i) * elem_bytes(t)));
}

/* x as it reads back after a store as type t. */
INLINE __m256 round8(__m256 x, fl_dtype t) {
    if (t == FL_DTYPE_F16) return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16_bits(x)), 16));
}

/* Always in the same order. */
INLINE float sum8(__m256 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

INLINE float max8(__m256 x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* 2^n, |n| <= 126 */
INLINE __m256 power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* e^x within 1.5 ulp: x = n ln2 + r with |r| <= ln2/2, Taylor series of e^r to r^7 (remainder
 * 0.1 ulp).  0 below -150, infinity above 128*ln2, NaN stays. */
INLINE __m256 exp8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-150.0f), x); /* the operand order that keeps NaN */
    x = _mm256_min_ps(_mm256_set1_ps(150.0f), x);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    static const float inverse_factorial[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6,
                                              1.0f / 2,   1.0f,       1.0f};
    __m256 e = _mm256_set1_ps(1.0f / 5040);
    for (int i = 0; i < 7; i++) e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(inverse_factorial[i]));
    /* In two steps: 2^n itself may lie outside the exponent's range. */
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    e = _mm256_mul_ps(e, power_of_2(half));
    return _mm256_mul_ps(e, power_of_2(_mm256_sub_epi32(whole, half)));
}

#endif
