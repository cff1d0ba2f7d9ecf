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
    uint8_t sign = signbit(f) ? 0x80 : 0;
    int e;
    if (f != f) return 0x7f;
    f = fabsf(f);
    if (f >= 464.0f) return sign | 0x7e; /* halfway to the code after 448, which does not exist */
    frexpf(f, &e);
    int unit = e - 4 < -9 ? -9 : e - 4; /* of the last of 4 significant bits; subnormals: 2^-9 */
    f = ldexpf(rintf(ldexpf(f, -unit)), unit);
    if (f > 448.0f) return sign | 0x7e;
    if (f < 0x1p-6f) return sign | (uint8_t)(f * 512.0f);
    frexpf(f, &e);
    return sign | (uint8_t)((e + 6) << 3 | ((int)ldexpf(f, 4 - e) & 7));
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
