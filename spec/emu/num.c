#include "num.h"

#include <stdlib.h>

float emu_e4m3_table[256];
uint16_t emu_e4m3_half[256];
uint32_t *emu_half_table;

float emu_e4m3_value(uint8_t code) {
    int e = code >> 3 & 15, m = code & 7;
    float f = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
    if (e == 15 && m == 7) f = NAN;
    return code & 0x80 ? -f : f;
}

uint8_t emu_e4m3_from(float f) {
    uint32_t sign = emu_bits(f) >> 24 & 0x80, u = emu_bits(f) & 0x7fffffff;
    if (f != f) return 0x7f;
    if (emu_f32(u) < 0x1p-6f) return (uint8_t)(sign | (uint32_t)rintf(emu_f32(u) * 512.0f));
    u = (u + 0x7ffff + (u >> 20 & 1)) >> 20; /* 3 bits of the fraction, ties to even */
    u -= (127 - 7) << 3;
    return (uint8_t)(sign | (u > 0x7e ? 0x7e : u));
}

double emu_real(uint64_t v, emu_type t) {
    double d;
    switch (t) {
    case T_F32:
        return (double)emu_f32((uint32_t)v);
    case T_F16:
        return (double)emu_half_value((uint16_t)v);
    case T_BF16:
        return (double)emu_bf16_value((uint16_t)v);
    default:
        memcpy(&d, &v, 8);
        return d;
    }
}

uint64_t emu_real_bits(double d, emu_type t, bool ftz) {
    uint64_t v;
    switch (t) {
    case T_F32:
        return emu_bits(ftz ? emu_flush((float)d) : (float)d);
    case T_F16:
        return emu_half_from((float)d);
    case T_BF16:
        return emu_bf16_from((float)d);
    default:
        memcpy(&v, &d, 8);
        return v;
    }
}

void emu_num_init(void) {
    if (emu_half_table) return;
    uint32_t *half = malloc(65536 * sizeof(*half));
    for (int i = 0; i < 256; i++) {
        emu_e4m3_table[i] = emu_e4m3_value((uint8_t)i);
        emu_e4m3_half[i] = emu_half_from(emu_e4m3_table[i]);
    }
    for (int i = 0; i < 65536; i++) half[i] = emu_bits(emu_half_value((uint16_t)i));
    emu_half_table = half;
}
