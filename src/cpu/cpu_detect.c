/* cpu_detect.c - which instruction set this machine can run.  The only place that asks. */
#include <string.h>

#include "cpu/cpu_priv.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    OS_AVX = 0x6,     /* XCR0: xmm, ymm state saved by the operating system */
    OS_AVX512 = 0xe6, /* ... and mask registers, zmm */
};

static unsigned long long os_state(void) {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((unsigned long long)hi << 32) | lo;
}

static bool runs_avx2(void) {
    const unsigned need1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need1) != need1) return false;
    if ((os_state() & OS_AVX) != OS_AVX) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool runs_avx512(void) {
    const unsigned need_b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    unsigned a, b, c, d;
    if (!runs_avx2() || (os_state() & OS_AVX512) != OS_AVX512) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (b & need_b) == need_b && (c & bit_AVX512VBMI) && (c & bit_GFNI);
}

static bool runs_avx512_bf16(void) {
    unsigned a, b, c, d;
    if (!runs_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || a < 1) return false;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVX512BF16);
}

/* AMD (Zen 4 and later) starts as many VDPBF16PS as FMAs, with twice the products in each.
 * Emerald Rapids starts one every other cycle but two FMAs every cycle (measured: 1.40 and
 * 5.58 a nanosecond at 3 GHz), half the products; f32 FMA is the better way there. */
static bool prefers_bf16_dot(void) {
    unsigned a, b, c, d;
    return runs_avx512_bf16() && __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
}
#else
static bool runs_avx2(void) {
    return false;
}
static bool runs_avx512(void) {
    return false;
}
static bool runs_avx512_bf16(void) {
    return false;
}
static bool prefers_bf16_dot(void) {
    return false;
}
#endif

static bool runs_anywhere(void) {
    return true;
}

/* In order of preference. */
static const struct {
    const cpu_isa *isa;
    bool (*runs)(void), (*best)(void);
    const char *needs;
} known[] = {
    {&cpu_isa_avx512_bf16, runs_avx512_bf16, prefers_bf16_dot, "AVX512F BW VL DQ VBMI GFNI BF16"},
    {&cpu_isa_avx512, runs_avx512, runs_avx512, "AVX512F BW VL DQ VBMI GFNI"},
    {&cpu_isa_avx2, runs_avx2, runs_avx2, "AVX2 FMA F16C"},
    {&cpu_isa_scalar, runs_anywhere, runs_anywhere, ""},
};

int cpu_isa_find(const cpu_isa **out, const char *name, fl_err *err) {
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (name && strcmp(name, known[i].isa->name)) continue;
        if (name ? known[i].runs() : known[i].best()) {
            *out = known[i].isa;
            return FL_OK;
        }
        if (name)
            return fl_fail(err, FL_E_UNSUPPORTED, "isa %s: this machine lacks one of %s", name,
                           known[i].needs);
    }
    return fl_fail(err, FL_E_ARG, "isa: '%s' is not scalar, avx2, avx512 or avx512_bf16", name);
}
