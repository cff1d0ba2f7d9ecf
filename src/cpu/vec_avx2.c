/* vec_avx2.c - row operations, and the AVX2 table. */
#include <math.h>

#include "cpu/simd_avx2.h"

#define FOR8(i, n) for (int64_t i = 0; i < (n); i += 8)

INLINE void convert(void *dst, fl_dtype to, const void *src, fl_dtype from, int64_t n) {
    FOR8(i, n) store8(dst, to, i, n, load8(src, from, i, n));
}

INLINE __m256i choose(__m256i mask, __m256i yes, __m256i no) {
    return _mm256_blendv_epi8(no, yes, mask);
}

/* As fl_f32_to_e4m3; eight codes in the low 64 bits. */
INLINE __m128i e4m3_codes(__m256 x) {
    const __m256i low_byte = _mm256_set1_epi32(0x0c080400);
    __m256i u = _mm256_castps_si256(x), mag = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(u, 24), _mm256_set1_epi32(0x80));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(mag, 20), _mm256_set1_epi32(1));
    __m256i code =
        _mm256_add_epi32(_mm256_add_epi32(mag, odd), _mm256_set1_epi32(0x7ffff - 0x3c000000));
    code = _mm256_srli_epi32(code, 20);
    __m256 shifted = _mm256_add_ps(_mm256_castsi256_ps(mag), _mm256_set1_ps(0x1p14f));
    __m256i tiny = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x46800000));
    code = choose(_mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), mag), tiny, code);
    code = choose(_mm256_cmpgt_epi32(mag, _mm256_set1_epi32(0x43e7ffff)), _mm256_set1_epi32(0x7e),
                  code);
    code = _mm256_or_si256(code, sign);
    code = choose(_mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)), _mm256_set1_epi32(0x7f),
                  code);
    code = _mm256_shuffle_epi8(code, low_byte);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
}

INLINE void quantize_form(uint8_t *q, const void *x, fl_dtype t, int64_t n, float scale,
                          const bool divide) {
    const __m256 s = _mm256_set1_ps(scale);
    FOR8(i, n) {
        __m256 v = load8(x, t, i, n);
        v = divide ? _mm256_div_ps(v, s) : _mm256_mul_ps(v, s);
        int64_t code = _mm_cvtsi128_si64(e4m3_codes(v));
        memcpy(q + i, &code, (size_t)fl_min_i64(8, n - i));
    }
}

INLINE float absmax_form(const void *x, fl_dtype t, int64_t n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 top = _mm256_setzero_ps();
    FOR8(i, n) top = _mm256_max_ps(_mm256_andnot_ps(sign, load8(x, t, i, n)), top);
    return max8(top);
}

INLINE void norm_form(const cpu_norm_row *r, fl_dtype t) {
    __m256 sum = _mm256_setzero_ps();
    FOR8(i, r->n) {
        __m256 v = load8(r->residual, t, i, r->n);
        if (r->delta) {
            v = round8(_mm256_add_ps(v, load8(r->delta, t, i, r->n)), t);
            store8(r->residual, t, i, r->n, v);
        }
        sum = _mm256_fmadd_ps(v, v, sum);
    }
    float inv = 1.0f / sqrtf(sum8(sum) / (float)r->n + r->eps);
    FOR8(i, r->n) {
        __m256 v = _mm256_mul_ps(load8(r->residual, t, i, r->n), _mm256_set1_ps(inv));
        v = _mm256_mul_ps(round8(v, t), load8(r->weight, t, i, r->n));
        store8(r->out, t, i, r->n, v);
    }
}

INLINE void silu_form(void *out, const void *gate, const void *up, fl_dtype t, int64_t n) {
    const __m256 one = _mm256_set1_ps(1.0f);
    FOR8(i, n) {
        __m256 g = load8(gate, t, i, n);
        __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));
        __m256 s = _mm256_div_ps(g, _mm256_add_ps(one, e));
        store8(out, t, i, n, _mm256_mul_ps(s, load8(up, t, i, n)));
    }
}

INLINE void finish_form(const cpu_finish *f, fl_dtype t) {
    for (int64_t m = 0; m < f->m; m++) {
        const float *y = f->y + m * f->ldy;
        const __m256 s = _mm256_set1_ps(f->x_scale ? f->x_scale[m] : 1.0f);
        FOR8(i, f->n) {
            __m256 v = _mm256_mul_ps(load8(y, FL_DTYPE_F32, i, f->n), s);
            if (f->w_scale) v = _mm256_mul_ps(v, load8(f->w_scale, FL_DTYPE_F32, i, f->n));
            if (f->bias) v = _mm256_add_ps(v, load8(f->bias, FL_DTYPE_F32, i, f->n));
            store8((uint8_t *)f->out + m * f->out_bytes, t, i, f->n, v);
        }
    }
}

#include "cpu/vec_types.inc"

const cpu_isa cpu_isa_avx2 = {
    .name = "avx2",
    .picks = true,
    .dot = cpu_dot_avx2,
    .expand = cpu_expand_avx2,
    .gemm = cpu_gemm_avx2,
    .gemm_plain = true,
    .mix = cpu_mix_avx2,
    .softmax = cpu_softmax_avx2,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .quantize = quantize,
    .absmax = absmax,
    .norm = norm,
    .silu_mul = silu_mul,
    .finish = finish,
};
