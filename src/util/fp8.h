/* fp8.h - the numeric truth: E4M3, BF16 and F16 to and from f32, scale rules.
 *
 * E4M3 is the OCP "fn" format: S.EEEE.MMM, bias 7, no infinity, NaN = 0x7F/0xFF,
 * largest 448, smallest subnormal 2^-9.  Every E4M3 value is exact in BF16, F16
 * and f32, and every product of two is exact in BF16.  Source: OCP 8-bit
 * Floating Point Specification 1.0, checked against cuda_fp8.h. */
#ifndef FL_UTIL_FP8_H
#define FL_UTIL_FP8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FL_E4M3_MAX 448.0f
#define FL_E4M3_NAN 0x7f

/* Smallest dynamic activation scale: rows of zeros stay finite (vLLM, FBGEMM). */
#define FL_ACT_SCALE_MIN (1.0f / (448.0f * 512.0f))

static inline uint32_t fl_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

static inline float fl_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static inline float fl_bf16_to_f32(uint16_t h) {
    return fl_bits_f32((uint32_t)h << 16);
}

/* Round to nearest even; NaN stays NaN (quiet). */
static inline uint16_t fl_f32_to_bf16(float x) {
    uint32_t u = fl_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* x rounded to the nearest BF16, as an f32. */
static inline float fl_bf16_round(float x) {
    return fl_bf16_to_f32(fl_f32_to_bf16(x));
}

float fl_f16_to_f32(uint16_t h);
uint16_t fl_f32_to_f16(float x); /* round to nearest even, overflow to infinity */

float fl_e4m3_to_f32(uint8_t q);
uint8_t fl_f32_to_e4m3(float x);  /* round to nearest even, saturates at +-448, NaN -> 0x7F */
const float *fl_e4m3_table(void); /* 256 entries: code -> f32 */

/* Dequantisation scale (real = code * scale) of a row or tensor whose largest
 * magnitude is amax. */
static inline float fl_act_scale(float amax) {
    float s = amax / FL_E4M3_MAX;
    return s > FL_ACT_SCALE_MIN ? s : FL_ACT_SCALE_MIN;
}
static inline float fl_weight_scale(float amax) {
    return amax > 0.0f ? amax / FL_E4M3_MAX : 1.0f;
}

/* Number of bytes with code 0x7F or 0xFF. */
size_t fl_e4m3_count_nan(const uint8_t *q, size_t n);

#endif
