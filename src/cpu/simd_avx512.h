/* simd_avx512.h - from tile bytes and stored numbers to zmm registers.  For *_avx512.c. */
#ifndef FL_CPU_SIMD_AVX512_H
#define FL_CPU_SIMD_AVX512_H

#include <immintrin.h>

#include "cpu/cpu_priv.h"
#include "cpu/simd.h"

void cpu_dot_avx512(const cpu_dot *d);                                   /* dot */
void cpu_expand_avx512(const cpu_expand *e);                             /* gemm */
void cpu_gemm_avx512(const cpu_gemm *g);                                 /* gemm */
void cpu_mix_avx512(const cpu_mix *x);                                   /* attend */
float cpu_softmax_avx512(float *s, int64_t n, float factor, float *max); /* attend */

/* E4M3 to BF16, 64 codes at a time, as high and low bytes.
 *
 * A code of sign s, exponent e3..e0 > 0 and mantissa m is s, e + 120, m as BF16, and e + 120 is
 * e3, !e3, !e3, !e3, !e3, e2, e1, e0: no carries, each bit one bit of the code or its
 * complement, a single GF2P8AFFINEQB for each byte.  The eight codes with exponent 0 (subnormals,
 * zero) are not like that, and neither is NaN: theirs come from tables. */
typedef struct e4m3_lut {
    __m512i hi0, hi1, lo0, lo1; /* all 128 */
    __m512i small_hi, small_lo; /* of the first eight, in every 128 bits */
    bool nan;                   /* may occur */
} e4m3_lut;

extern const uint8_t cpu_e4m3_hi[128], cpu_e4m3_lo[128]; /* dot_avx512.c */

INLINE e4m3_lut load_lut(bool nan) {
    const __m512i hi0 = _mm512_loadu_si512(cpu_e4m3_hi), lo0 = _mm512_loadu_si512(cpu_e4m3_lo);
    return (e4m3_lut){hi0,
                      _mm512_loadu_si512(cpu_e4m3_hi + 64),
                      lo0,
                      _mm512_loadu_si512(cpu_e4m3_lo + 64),
                      _mm512_broadcast_i32x4(_mm512_castsi512_si128(hi0)),
                      _mm512_broadcast_i32x4(_mm512_castsi512_si128(lo0)),
                      nan};
}

/* One group of an E4M3 or BF16 tile as BF16 pairs: (k0,k1) and (k2,k3) of 16 outer rows. */
INLINE void load_pairs(__m512i pair[2], const uint8_t *group, fl_dtype t, const e4m3_lut *lut) {
    if (t == FL_DTYPE_BF16) {
        pair[0] = _mm512_loadu_si512(group);
        pair[1] = _mm512_loadu_si512(group + 64);
        return;
    }
    const __m512i code = _mm512_loadu_si512(group), sign = _mm512_set1_epi8((char)0x80);
    __m512i hi, lo;
    if (lut->nan) {
        hi = _mm512_permutex2var_epi8(lut->hi0, code, lut->hi1);
        lo = _mm512_permutex2var_epi8(lut->lo0, code, lut->lo1);
        hi = _mm512_ternarylogic_epi64(hi, code, sign, 0xf8); /* hi | (code & sign) */
    } else {
        const __mmask64 small = _mm512_testn_epi8_mask(code, _mm512_set1_epi8(0x78));
        /* Byte 7-i of the matrix: which bits of the code make bit i. */
        hi = _mm512_gf2p8affine_epi64_epi8(code, _mm512_set1_epi64(0x1020404040404080), 0x3c);
        lo = _mm512_gf2p8affine_epi64_epi8(code, _mm512_set1_epi64(0x01020408), 0);
        if (small) {
            const __m512i mantissa = _mm512_and_si512(code, _mm512_set1_epi8(7));
            hi = _mm512_mask_shuffle_epi8(hi, small, lut->small_hi, mantissa);
            lo = _mm512_mask_shuffle_epi8(lo, small, lut->small_lo, mantissa);
            hi = _mm512_ternarylogic_epi64(hi, code, sign, 0xf8);
        }
    }
    pair[0] = _mm512_unpacklo_epi8(lo, hi);
    pair[1] = _mm512_unpackhi_epi8(lo, hi);
}

/* Pair p of groups of a unit of 2:4 weights: pairs as above of the first and the second group.
 * The bytes of a BF16 pair are picked from the row's two kept numbers, or are zero. */
INLINE void load_kept(__m512i pair[2][2], const uint8_t *unit, int64_t p, fl_dtype t,
                      const e4m3_lut *lut) {
    const __m512i low = _mm512_broadcast_i64x4(_mm256_setr_epi32(
        0x03020100, (int)0x80800100, (int)0x80800100, 0x01008080, 0x01008080, -1, -1, -1));
    const __m512i high = _mm512_broadcast_i64x4(_mm256_setr_epi32(
        -1, (int)0x80800302, 0x03028080, (int)0x80800302, 0x03028080, 0x03020100, -1, -1));
    const __m512i lane = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    const uint8_t *value = unit + CPU_NAMES + p * cpu_group_bytes(t);
    __m512i kept[2], name;
    name = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(unit + p * CPU_TILE)));
    load_pairs(kept, value, t, lut);
    UNROLL
    for (int i = 0; i < 2; i++) {
        __m512i which = i ? _mm512_srli_epi32(name, 4) : name; /* low four bits count */
        __m512i first = _mm512_permutexvar_epi32(which, low);
        __m512i second = _mm512_permutexvar_epi32(which, high);
        pair[i][0] = _mm512_shuffle_epi8(kept[i], _mm512_or_si512(first, lane));
        pair[i][1] = _mm512_shuffle_epi8(kept[i], _mm512_or_si512(second, lane));
    }
}

/* Two BF16 activations in every lane. */
INLINE __m512bh broadcast_pair(const uint16_t *x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* The sum of block b of a row and a tile, or of all columns (s is NULL), into y. */
INLINE void put_sum(float *y, __m512 sum, const cpu_scales *s, int64_t row, int64_t tile,
                    int64_t b) {
    if (s) {
        __m512 scale = _mm512_loadu_ps(s->w + tile * s->w_tile + b * s->w_block);
        scale = _mm512_mul_ps(scale, _mm512_set1_ps(s->x[row * s->x_row + b * s->x_block]));
        sum = _mm512_fmadd_ps(sum, scale, b ? _mm512_loadu_ps(y) : _mm512_setzero_ps());
    }
    _mm512_storeu_ps(y, sum);
}

/* BF16 pairs as f32: column k of 16 outer rows in w[k]. */
INLINE void pairs_to_columns(__m512 w[CPU_GROUP], const __m512i pair[2]) {
    UNROLL
    for (int i = 0; i < 2; i++) {
        w[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(pair[i], 16));
        w[2 * i + 1] =
            _mm512_castsi512_ps(_mm512_and_si512(pair[i], _mm512_set1_epi32((int)0xffff0000u)));
    }
}

/* One group as f32. */
INLINE void load_columns(__m512 w[CPU_GROUP], const uint8_t *group, fl_dtype t,
                         const e4m3_lut *lut) {
    if (t == FL_DTYPE_F16) {
        UNROLL
        for (int k = 0; k < CPU_GROUP; k++)
            w[k] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(group + 32 * k)));
        return;
    }
    __m512i pair[2];
    load_pairs(pair, group, t, lut);
    pairs_to_columns(w, pair);
}

/* 16 numbers of type t from element i on; lanes outside the mask are 0 and not read. */
INLINE __m512 load16(const void *p, fl_dtype t, int64_t i, __mmask16 m) {
    if (t == FL_DTYPE_F32) return _mm512_maskz_loadu_ps(m, (const float *)p + i);
    if (t == FL_DTYPE_E4M3) {
        /* As F16 the bits mean value * 2^-8, subnormals included; only NaN differs. */
        __m256i b = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(m, (const uint8_t *)p + i));
        __m256i mag = _mm256_and_si256(b, _mm256_set1_epi16(0x7f));
        __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
        __mmask16 nan = _mm256_cmpeq_epi16_mask(mag, _mm256_set1_epi16(0x7f));
        mag = _mm256_mask_set1_epi16(_mm256_slli_epi16(mag, 7), nan, 0x7e00);
        return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(mag, sign)), _mm512_set1_ps(256.0f));
    }
    __m256i h = _mm256_maskz_loadu_epi16(m, (const uint16_t *)p + i);
    if (t == FL_DTYPE_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Round to nearest even.  Not VCVTNEPS2BF16: that one flushes subnormal numbers. */
INLINE __m256i bf16_bits(__m512 x) {
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

INLINE void store16(void *p, fl_dtype t, int64_t i, __mmask16 m, __m512 x) {
    if (t == FL_DTYPE_F32) {
        _mm512_mask_storeu_ps((float *)p + i, m, x);
        return;
    }
    __m256i h = t == FL_DTYPE_F16 ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : bf16_bits(x);
    _mm256_mask_storeu_epi16((uint16_t *)p + i, m, h);
}

/* x as it reads back after a store as type t. */
INLINE __m512 round16(__m512 x, fl_dtype t) {
    if (t == FL_DTYPE_F16) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16_bits(x)), 16));
}

/* The lanes of a vector starting at i that lie before n. */
INLINE __mmask16 lanes(int64_t i, int64_t n) {
    return n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1);
}

/* e^x within 1.5 ulp: x = n ln2 + r with |r| <= ln2/2, Taylor series of e^r to r^7 (remainder
 * 0.1 ulp).  0 below -150, infinity above 128*ln2, NaN stays. */
INLINE __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x); /* the operand order that keeps NaN */
    x = _mm512_min_ps(_mm512_set1_ps(150.0f), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    static const float inverse_factorial[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6,
                                              1.0f / 2,   1.0f,       1.0f};
    __m512 e = _mm512_set1_ps(1.0f / 5040);
    for (int i = 0; i < 7; i++) e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(inverse_factorial[i]));
    return _mm512_scalef_ps(e, n);
}

#endif
