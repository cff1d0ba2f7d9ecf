#include "util/fp8.h"

float fl_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
    if (exp == 31) return fl_bits_f32(sign | 0x7f800000u | (man << 13));
    if (exp) return fl_bits_f32(sign | ((exp + 112) << 23) | (man << 13));
    float tiny = (float)man * 0x1p-24f;
    return fl_bits_f32(sign | fl_f32_bits(tiny));
}

uint16_t fl_f32_to_f16(float x) {
    uint32_t u = fl_f32_bits(x), sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to inf */
    if (mag < 0x38800000u) {
        /* Adding 0.5 places the f16 subnormal unit (2^-24) in the last bit: the FPU rounds. */
        float shifted = fl_bits_f32(mag) + 0.5f;
        return (uint16_t)(sign | (fl_f32_bits(shifted) - 0x3f000000u));
    }
    uint32_t rounded = mag + 0xfffu + ((mag >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float fl_e4m3_to_f32(uint8_t q) {
    uint32_t sign = (uint32_t)(q & 0x80u) << 24, exp = (q >> 3) & 15u, man = q & 7u;
    if ((q & 0x7fu) == 0x7fu) return fl_bits_f32(sign | 0x7fc00000u);
    if (exp) return fl_bits_f32(sign | ((exp + 120) << 23) | (man << 20));
    return fl_bits_f32(sign | fl_f32_bits((float)man * 0x1p-9f));
}

uint8_t fl_f32_to_e4m3(float x) {
    uint32_t u = fl_f32_bits(x), sign = (u >> 24) & 0x80u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return FL_E4M3_NAN;
    if (mag >= 0x43e80000u) return (uint8_t)(sign | 0x7eu); /* 464: halfway to the missing 480 */
    if (mag < 0x3c800000u) {
        /* Below 2^-6 the unit is 2^-9; adding 2^14 makes it the last bit of the sum. */
        float shifted = fl_bits_f32(mag) + 0x1p14f;
        return (uint8_t)(sign | (fl_f32_bits(shifted) - 0x46800000u));
    }
    uint32_t rounded = mag + 0x7ffffu + ((mag >> 20) & 1u);
    return (uint8_t)(sign | ((rounded - 0x3c000000u) >> 20));
}

static float table[256];

/* Filled before main or at dlopen: read-only afterwards, so no lock is needed. */
__attribute__((constructor)) static void fill_table(void) {
    for (int i = 0; i < 256; i++) table[i] = fl_e4m3_to_f32((uint8_t)i);
}

const float *fl_e4m3_table(void) {
    return table;
}

/* Eight codes at a time: the low seven bits plus one reach bit 7 only from 0x7F. */
size_t fl_e4m3_count_nan(const uint8_t *q, size_t n) {
    size_t count = 0, i = 0;
    for (; n - i >= 8; i += 8) {
        uint64_t codes;
        memcpy(&codes, q + i, sizeof(codes));
        codes = (codes & 0x7f7f7f7f7f7f7f7fu) + 0x0101010101010101u;
        codes &= 0x8080808080808080u;
        if (codes) count += (size_t)__builtin_popcountll(codes);
    }
    for (; i < n; i++) count += (q[i] & 0x7fu) == 0x7fu;
    return count;
}
