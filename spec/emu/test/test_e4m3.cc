// The emulator's E4M3 conversions against the host code of cuda_fp8.h: every code, every f16,
// every boundary between two codes with its neighbours, and f32 numbers a fixed step apart.
#include <cuda_fp8.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

extern "C" {
float emu_e4m3_value(uint8_t code);
uint8_t emu_e4m3_from(float f);
}

static int count, failed;
static void check(bool ok, const char *what, long n) {
    printf("%s %d - %s (%ld)\n", ok ? "ok" : "not ok", ++count, what, n);
    failed += !ok;
}

static long differs(float f) {
    return __nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3) != emu_e4m3_from(f);
}

int main() {
    long bad = 0, n = 0;
    for (int i = 0; i < 256; i++) {
        __half_raw h = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)i, __NV_E4M3);
        float a = __half2float(__half(h)), b = emu_e4m3_value((uint8_t)i);
        bool same = a == b && std::signbit(a) == std::signbit(b);
        bad += !(same || (a != a && b != b));
    }
    check(!bad, "all 256 codes have NVIDIA's value", bad);
    for (int i = 0; i < 65536; i++) {
        uint16_t bits = (uint16_t)i;
        __half h;
        memcpy(&h, &bits, 2);
        bad += differs(__half2float(h));
    }
    check(!bad, "all 65536 f16 numbers convert as NVIDIA's code does", bad);
    for (int i = 0; i < 255; i++) {
        float a = emu_e4m3_value((uint8_t)i), b = emu_e4m3_value((uint8_t)(i + 1)), half = (a + b) / 2;
        bad += differs(half) + differs(nextafterf(half, 1e9f)) + differs(nextafterf(half, -1e9f));
    }
    const float edges[] = {448.f, 463.9f, 464.f, 465.f, 1e30f, INFINITY, -INFINITY, NAN, 0.f, -0.f, 0x1p-10f, 0x1p-149f};
    for (float f : edges) bad += differs(f);
    check(!bad, "ties, saturation, infinities, NaN and zeros convert as NVIDIA's code does", bad);
    for (uint64_t u = 0; u < 1ull << 32; u += 1021, n++) {
        uint32_t v = (uint32_t)u;
        float f;
        memcpy(&f, &v, 4);
        bad += differs(f);
    }
    check(!bad, "f32 numbers of every exponent convert as NVIDIA's code does", n);
    printf("1..%d\n", count);
    return failed != 0;
}
