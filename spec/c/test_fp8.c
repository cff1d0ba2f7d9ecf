/* util/fp8: every code of E4M3, F16 and BF16, rounding against the definition, NaN counting. */
#include "util/fp8.h"

#include <math.h>

#include "tap.h"

/* The definition: S.EEEE.MMM, bias 7, no infinity, NaN 0x7F and 0xFF. */
static double e4m3_value(int code) {
    int exp = code >> 3 & 15, man = code & 7;
    double v = exp ? ldexp(8 + man, exp - 10) : ldexp(man, -9);
    return code & 128 ? -v : v;
}

static void test_e4m3_codes(void) {
    int wrong = 0, wrong_back = 0;
    for (int c = 0; c < 256; c++) {
        bool nan = (c & 127) == 127;
        float v = fl_e4m3_to_f32((uint8_t)c);
        wrong += nan ? !isnan(v) : (double)v != e4m3_value(c) || !signbit(v) != !(c & 128);
        wrong += nan ? !isnan(fl_e4m3_table()[c]) : fl_e4m3_table()[c] != v;
        wrong_back += !nan && fl_f32_to_e4m3(v) != c;
    }
    check(!wrong, "256 E4M3 codes decode as defined");
    check(!wrong_back, "254 finite E4M3 values encode to their code");
}

/* Between neighbours a < b: a's side goes to a, b's side to b, the middle to the even code. */
static void test_e4m3_rounding(void) {
    int wrong = 0;
    for (int c = 0; c < 126; c++) {
        float a = (float)e4m3_value(c), b = (float)e4m3_value(c + 1), mid = (a + b) / 2;
        wrong += fl_f32_to_e4m3(nextafterf(mid, a)) != c;
        wrong += fl_f32_to_e4m3(nextafterf(mid, b)) != c + 1;
        wrong += fl_f32_to_e4m3(mid) != (c % 2 ? c + 1 : c);
        wrong += fl_f32_to_e4m3(-mid) != ((c % 2 ? c + 1 : c) | 128);
    }
    check(!wrong, "between neighbours E4M3 rounds to nearest, ties to even");
    static const struct {
        float x;
        uint8_t code;
    } ends[] = {{448, 0x7e},      {464, 0x7e},        {465, 0x7e},     {-1e30f, 0xfe},
                {INFINITY, 0x7e}, {-INFINITY, 0xfe},  {NAN, 0x7f},     {0, 0},
                {-0.0f, 0x80},    {0x1p-10f, 0},      {0x1.8p-10f, 1}, {0x1.8p-9f, 2},
                {0x1.fp-7f, 8},   {-0x1p-149f, 0x80}, {0x1p-9f, 1},    {1, 0x38}};
    wrong = 0;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        wrong += fl_f32_to_e4m3(ends[i].x) != ends[i].code;
    check(!wrong, "E4M3 saturates, keeps NaN and zero's sign, rounds subnormals");
}

static void test_half_formats(void) {
    int wrong = 0;
    for (uint32_t c = 0; c < 65536; c++) {
        uint16_t h = (uint16_t)c;
        int exp = h >> 10 & 31, man = h & 1023;
        double v = exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24);
        float f = fl_f16_to_f32(h), b = fl_bf16_to_f32(h);
        if (exp < 31) wrong += (double)fabsf(f) != v || fl_f32_to_f16(f) != h;
        if (exp == 31) wrong += man ? !isnan(f) : !isinf(f) || fl_f32_to_f16(f) != h;
        wrong += isnan(b) ? !isnan(fl_bf16_round(b)) : fl_f32_to_bf16(b) != h;
    }
    check(!wrong, "65536 codes of F16 and of BF16 go to f32 and back");
    wrong = 0;
    for (uint32_t c = 0; c < 0x7bff; c++) { /* positive neighbours in F16 and in BF16 */
        float a = fl_f16_to_f32((uint16_t)c), b = fl_f16_to_f32((uint16_t)(c + 1)),
              mid = (a + b) / 2;
        wrong += fl_f32_to_f16(mid) != (c % 2 ? c + 1 : c) ||
                 fl_f32_to_f16(nextafterf(mid, a)) != c ||
                 fl_f32_to_f16(nextafterf(mid, b)) != c + 1;
        uint32_t half = (c << 16) + 0x8000u; /* halfway in the bits is halfway in value */
        wrong += fl_f32_to_bf16(fl_bits_f32(half)) != (c % 2 ? c + 1 : c) ||
                 fl_f32_to_bf16(fl_bits_f32(half - 1)) != c ||
                 fl_f32_to_bf16(fl_bits_f32(half + 1)) != c + 1;
    }
    check(!wrong, "F16 and BF16 round to nearest, ties to even");
    check(fl_f32_to_f16(65519) == 0x7bff && fl_f32_to_f16(65520) == 0x7c00 &&
              fl_f32_to_f16(-1e10f) == 0xfc00,
          "F16 overflows to infinity");
}

static void test_count_nan(void) {
    uint8_t q[300];
    int wrong = 0;
    for (size_t i = 0; i < sizeof(q); i++) q[i] = (uint8_t)(i * 37 + i / 256 * 5);
    for (size_t from = 0; from < 20; from++) {
        for (size_t n = 0; from + n <= sizeof(q); n++) {
            size_t want = 0;
            for (size_t i = from; i < from + n; i++) want += q[i] == 0x7f || q[i] == 0xff;
            wrong += fl_e4m3_count_nan(q + from, n) != want;
        }
    }
    check(!wrong, "NaN codes are counted at every offset and length");
}

int main(void) {
    test_e4m3_codes();
    test_e4m3_rounding();
    test_half_formats();
    test_count_nan();
    return tap_done();
}
