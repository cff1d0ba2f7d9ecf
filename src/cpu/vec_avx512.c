/* vec_avx512.c - row operations, and the AVX-512 table. */
#include <math.h>

#include "cpu/simd_avx512.h"

#define FOR16(i, n) for (int64_t i = 0; i < (n); i += 16)

INLINE void convert(void *dst, fl_dtype to, const void *src, fl_dtype from, int64_t n) {
    FOR16(i, n) store16(dst, to, i, lanes(i, n), load16(src, from, i, lanes(i, n)));
}

/* As fl_f32_to_e4m3. */
INLINE __m128i e4m3_codes(__m512 x) {
    const __m512i one = _mm512_set1_epi32(1);
    __m512i u = _mm512_castps_si512(x), mag = _mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff));
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(u, 24), _mm512_set1_epi32(0x80));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(mag, 20), one);
    __m512i code =
        _mm512_add_epi32(_mm512_add_epi32(mag, odd), _mm512_set1_epi32(0x7ffff - 0x3c000000));
    code = _mm512_srli_epi32(code, 20);
    __m512 shifted = _mm512_add_ps(_mm512_castsi512_ps(mag), _mm512_set1_ps(0x1p14f));
    __mmask16 small = _mm512_cmplt_epi32_mask(mag, _mm512_set1_epi32(0x3c800000));
    code = _mm512_mask_sub_epi32(code, small, _mm512_castps_si512(shifted),
                                 _mm512_set1_epi32(0x46800000));
    __mmask16 large = _mm512_cmpge_epi32_mask(mag, _mm512_set1_epi32(0x43e80000));
    code = _mm512_mask_mov_epi32(code, large, _mm512_set1_epi32(0x7e));
    code = _mm512_or_si512(code, sign);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi8(_mm512_mask_mov_epi32(code, nan, _mm512_set1_epi32(0x7f)));
}

INLINE void quantize_form(uint8_t *q, const void *x, fl_dtype t, int64_t n, float scale,
                          const bool divide) {
    const __m512 s = _mm512_set1_ps(scale);
    FOR16(i, n) {
        __m512 v = load16(x, t, i, lanes(i, n));
        v = divide ? _mm512_div_ps(v, s) : _mm512_mul_ps(v, s);
        _mm_mask_storeu_epi8(q + i, lanes(i, n), e4m3_codes(v));
    }
}

INLINE float absmax_form(const void *x, fl_dtype t, int64_t n) {
    __m512 top = _mm512_setzero_ps();
    FOR16(i, n) top = _mm512_max_ps(_mm512_abs_ps(load16(x, t, i, lanes(i, n))), top);
    return _mm512_reduce_max_ps(top);
}

INLINE void norm_form(const cpu_norm_row *r, fl_dtype t) {
    __m512 sum = _mm512_setzero_ps();
    FOR16(i, r->n) {
        __mmask16 m = lanes(i, r->n);
        __m512 v = load16(r->residual, t, i, m);
        if (r->delta) {
            v = round16(_mm512_add_ps(v, load16(r->delta, t, i, m)), t);
            store16(r->residual, t, i, m, v);
        }
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    float inv = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)r->n + r->eps);
    FOR16(i, r->n) {
        __mmask16 m = lanes(i, r->n);
        __m512 v = _mm512_mul_ps(load16(r->residual, t, i, m), _mm512_set1_ps(inv));
        store16(r->out, t, i, m, _mm512_mul_ps(round16(v, t), load16(r->weight, t, i, m)));
    }
}

INLINE void silu_form(void *out, const void *gate, const void *up, fl_dtype t, int64_t n) {
    const __m512 one = _mm512_set1_ps(1.0f);
    FOR16(i, n) {
        __mmask16 m = lanes(i, n);
        __m512 g = load16(gate, t, i, m);
        __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), g));
        __m512 s = _mm512_div_ps(g, _mm512_add_ps(one, e));
        store16(out, t, i, m, _mm512_mul_ps(s, load16(up, t, i, m)));
    }
}

INLINE void finish_form(const cpu_finish *f, fl_dtype t) {
    for (int64_t m = 0; m < f->m; m++) {
        const float *y = f->y + m * f->ldy;
        const __m512 s = _mm512_set1_ps(f->x_scale ? f->x_scale[m] : 1.0f);
        FOR16(i, f->n) {
            const __mmask16 k = lanes(i, f->n);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(k, y + i), s);
            if (f->w_scale) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(k, f->w_scale + i));
            if (f->bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(k, f->bias + i));
            store16((uint8_t *)f->out + m * f->out_bytes, t, i, k, v);
        }
    }
}

#include "cpu/vec_types.inc"

static void to_bf16(uint16_t *dst, const void *src, fl_dtype t, int64_t n) {
    if (t == FL_DTYPE_BF16)
        __builtin_memcpy(dst, src, (size_t)n * 2);
    else
        convert(dst, FL_DTYPE_BF16, src, FL_DTYPE_E4M3, n);
}

#define SHARED                                                                                     \
    .picks = true, .dot = cpu_dot_avx512, .expand = cpu_expand_avx512, .gemm = cpu_gemm_avx512,    \
    .mix = cpu_mix_avx512, .softmax = cpu_softmax_avx512, .to_f32 = to_f32, .to_bf16 = to_bf16,    \
    .from_f32 = from_f32, .quantize = quantize, .absmax = absmax, .norm = norm,                    \
    .silu_mul = silu_mul, .finish = finish

const cpu_isa cpu_isa_avx512 = {.name = "avx512", SHARED};
const cpu_isa cpu_isa_avx512_bf16 = {.name = "avx512_bf16", .bf16_dot = true, SHARED};
