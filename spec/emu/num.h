/* num.h - the number formats of PTX: E4M3, BF16, F16 and f32 bits. */
#ifndef EMU_NUM_H
#define EMU_NUM_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "ptx.h"

/* Nearest, ties to even, saturating at 448; NaN is 0x7f (cvt.rn.satfinite.e4m3x2.f32). */
uint8_t emu_e4m3_from(float f);
float emu_e4m3_value(uint8_t code);

extern float emu_e4m3_table[256]; /* filled by emu_num_init */
extern uint16_t emu_e4m3_half[256];
extern uint32_t *emu_half_table; /* [65536] f16 -> bits of f32 */
void emu_num_init(void);

static inline float emu_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t emu_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float emu_flush(float f) {
    return fabsf(f) < 1.17549435e-38f ? copysignf(0.0f, f) : f;
}
static inline float emu_half_value(uint16_t h) {
    _Float16 x;
    memcpy(&x, &h, 2);
    return (float)x;
}
static inline uint16_t emu_half_from(float f) {
    _Float16 x = (_Float16)f;
    uint16_t h;
    memcpy(&h, &x, 2);
    return f != f ? 0x7fff : h;
}
static inline float emu_bf16_value(uint16_t h) {
    return emu_f32((uint32_t)h << 16);
}
static inline uint16_t emu_bf16_from(float f) {
    uint32_t u = emu_bits(f);
    return f != f ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* A register's bits as a number of type F16, BF16, F32 or F64, and back; ftz: subnormal f32 are
 * zero.  To F16 and BF16 through f32, which rounds an f64 twice: emu_cvt refuses that. */
double emu_real(uint64_t bits, emu_type t);
uint64_t emu_real_bits(double d, emu_type t, bool ftz);

#endif
