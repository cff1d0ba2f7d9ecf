/* E4M3, BF16 and F16 against the definitions of the formats. */
#include <math.h>

#include "ref_backend.h"
#include "tap.h"
#include "util/fp8.h"

static bool same(float a, double b) {
    return isnan(b) ? isnan(a) : (double)a == b && !signbit(a) == !signbit(b);
}

static void test_e4m3_decode(void) {
    static const struct {
        uint8_t code;
        double value;
    } named[] = {{0x00, 0.0},    {0x80, -0.0},  {0x01, 0x1p-9}, {0x07, 7 * 0x1p-9}, {0x08, 0x1p-6},
                 {0x38, 1.0},    {0xb8, -1.0},  {0x3c, 1.5},    {0x40, 2.0},        {0x7e, 448.0},
                 {0xfe, -448.0}, {0x78, 256.0}, {0x77, 240.0},  {0x7f, NAN},        {0xff, NAN}};
    int bad = 0;
    for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++)
        bad += !same(fl_e4m3_to_f32(named[i].code), named[i].value);
    check(!bad, "named E4M3 codes have their values");
    for (int c = 0; c < 256; c++) {
        bad += !same(fl_e4m3_to_f32((uint8_t)c), ref_e4m3_value((uint8_t)c));
        bad += !same(fl_e4m3_table()[c], ref_e4m3_value((uint8_t)c));
    }
    check(!bad, "all 256 codes and the table follow S.EEEE.MMM with bias 7");
}

static void test_e4m3_encode(void) {
    static const struct {
        float x;
        uint8_t code;
        const char *why;
    } cases[] = {
        {0.0f, 0x00, "zero"},
        {-0.0f, 0x80, "minus zero"},
        {0x1p-10f, 0x00, "half the smallest: tie to even zero"},
        {-0x1p-10f, 0x80, "the same, negative"},
        {0x1.000002p-10f, 0x01, "just above that tie"},
        {3 * 0x1p-10f, 0x02, "tie between subnormals 1 and 2"},
        {15 * 0x1p-10f, 0x08, "tie between the largest subnormal and the smallest normal"},
        {0x1p-6f, 0x08, "smallest normal"},
        {1.0625f, 0x38, "tie to even downwards"},
        {1.1875f, 0x3a, "tie to even upwards"},
        {448.0f, 0x7e, "largest"},
        {463.99997f, 0x7e, "below the tie with the missing 480"},
        {464.0f, 0x7e, "that tie"},
        {465.0f, 0x7e, "above: saturates"},
        {1e30f, 0x7e, "far above"},
        {-INFINITY, 0xfe, "minus infinity"},
        {NAN, 0x7f, "NaN"},
        {-NAN, 0x7f, "NaN of either sign"},
        {0x1p-140f, 0x00, "an f32 subnormal"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t code = fl_f32_to_e4m3(cases[i].x);
        check(code == cases[i].code, "%g -> 0x%02x: %s (got 0x%02x)", (double)cases[i].x,
              cases[i].code, cases[i].why, code);
    }
    int bad = 0;
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) { /* bits at random, all magnitudes that matter */
        uint64_t r = ref_random(&seed);
        uint32_t exponent = 110 + (uint32_t)(r >> 32) % 30;
        float x = fl_bits_f32((uint32_t)(r & 0x807fffffu) | exponent << 23);
        bad += fl_f32_to_e4m3(x) != ref_e4m3((double)x);
    }
    check(!bad, "20000 random numbers go to the nearest code (%d wrong)", bad);
    for (int c = 0; c < 256; c++)
        bad += (c & 0x7f) != 0x7f && fl_f32_to_e4m3(fl_e4m3_to_f32((uint8_t)c)) != c;
    check(!bad, "every finite code survives decoding and encoding");
}

static void test_e4m3_products(void) {
    int bad = 0;
    for (int a = 0; a < 256; a++) {
        for (int b = 0; b < 256; b++) {
            double p = ref_e4m3_value((uint8_t)a) * ref_e4m3_value((uint8_t)b);
            if (!isnan(p)) bad += (double)fl_bf16_round((float)p) != p;
        }
    }
    check(!bad, "every product of two finite codes is exact in BF16");
}

static void test_16_bit(void) {
    int bad_f16 = 0, bad_bf16 = 0;
    for (int i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        double f16 = ref_get(&h, FL_DTYPE_F16, 0), bf16 = ref_get(&h, FL_DTYPE_BF16, 0);
        bad_f16 += !same(fl_f16_to_f32(h), f16);
        bad_bf16 += !same(fl_bf16_to_f32(h), bf16);
        if (!isnan(f16)) bad_f16 += fl_f32_to_f16(fl_f16_to_f32(h)) != h;
        if (!isnan(bf16)) bad_bf16 += fl_f32_to_bf16(fl_bf16_to_f32(h)) != h;
    }
    check(!bad_f16, "all 65536 F16 codes decode, and encode back");
    check(!bad_bf16, "all 65536 BF16 codes decode, and encode back");
    uint64_t seed = 2;
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)ref_random(&seed);
        if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;     /* a BF16 tie */
        if (i % 4 == 1) bits = (bits & 0x8fffe000u) + 0x30001000u; /* an F16 tie, or nearly */
        float x = fl_bits_f32(bits);
        if (isnan(x)) continue;
        bad_f16 += !same(fl_f16_to_f32(fl_f32_to_f16(x)), ref_round(FL_DTYPE_F16, (double)x));
        bad_bf16 += !same(fl_bf16_round(x), ref_round(FL_DTYPE_BF16, (double)x));
    }
    check(!bad_f16 && !bad_bf16, "200000 random numbers round to the nearest F16 and BF16");
    check(fl_f32_to_f16(65519.996f) == 0x7bff && fl_f32_to_f16(65520.0f) == 0x7c00,
          "F16 overflows from 65520 on");
    check(isnan(fl_f16_to_f32(fl_f32_to_f16(NAN))) && isnan(fl_bf16_round(NAN)) &&
              isnan(fl_bf16_round(fl_bits_f32(0x7f800001u))),
          "NaN stays NaN, also one with only low bits");
}

static void test_scales(void) {
    check(fl_act_scale(0.0f) == 1.0f / (448.0f * 512.0f), "a row of zeros has the smallest scale");
    check(fl_act_scale(448.0f) == 1.0f && fl_act_scale(1.0f) == 1.0f / 448.0f,
          "an activation scale is absmax / 448");
    check(fl_weight_scale(0.0f) == 1.0f && fl_weight_scale(896.0f) == 2.0f,
          "a weight scale is absmax / 448, or 1");
    const uint8_t q[] = {0x7f, 0x7e, 0xff, 0x00, 0xfe};
    check(fl_e4m3_count_nan(q, 5) == 2 && fl_e4m3_count_nan(q, 0) == 0, "NaN codes are counted");
}

/* The loop takes eight bytes at a time: every offset and every rest. */
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
    test_count_nan();
    test_e4m3_decode();
    test_e4m3_encode();
    test_e4m3_products();
    test_16_bit();
    test_scales();
    return tap_done();
}
