/* What the vector units of this machine can do at best: chains of multiply-adds that never
 * leave the registers, long enough side by side to hide their latency. */

#include "backend/bandwidth.h"
#include "cpu/cpu_priv.h"
#include "util/clock.h"

enum { CHAINS = 10, ROUNDS = 20000 }; /* a round: one instruction of each chain */

typedef struct kernel {
    const char *isa; /* that has the instruction; NULL: any */
    double flops;    /* of one instruction */
    void (*run)(int64_t rounds);
} kernel;

#if defined(__x86_64__)
/* Ten chains; zeros stay zeros, and take as long as other numbers. */
#define LOOP(instruction, reg)                                                                     \
    __asm__ volatile("vzeroall\n\t"                                                                \
                     "1:\n\t" instruction " %%" reg "0, %%" reg "1, %%" reg "2\n\t" instruction    \
                     " %%" reg "0, %%" reg "1, %%" reg "3\n\t" instruction " %%" reg "0, %%" reg   \
                     "1, %%" reg "4\n\t" instruction " %%" reg "0, %%" reg "1, %%" reg             \
                     "5\n\t" instruction " %%" reg "0, %%" reg "1, %%" reg "6\n\t" instruction     \
                     " %%" reg "0, %%" reg "1, %%" reg "7\n\t" instruction " %%" reg "0, %%" reg   \
                     "1, %%" reg "8\n\t" instruction " %%" reg "0, %%" reg "1, %%" reg             \
                     "9\n\t" instruction " %%" reg "0, %%" reg "1, %%" reg "10\n\t" instruction    \
                     " %%" reg "0, %%" reg "1, %%" reg "11\n\tdec %0\n\tjnz 1b"                    \
                     : "+r"(rounds)                                                                \
                     :                                                                             \
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",     \
                       "xmm9", "xmm10", "xmm11", "cc")

static void fma_256(int64_t rounds) {
    LOOP("vfmadd231ps", "ymm");
    __asm__ volatile("vzeroupper");
}
static void fma_512(int64_t rounds) {
    LOOP("vfmadd231ps", "zmm");
    __asm__ volatile("vzeroupper");
}
static void bf16_512(int64_t rounds) {
    LOOP("vdpbf16ps", "zmm");
    __asm__ volatile("vzeroupper");
}
#endif

/* Four floats at a time, as every x86-64 has them. */
static void plain(int64_t rounds) {
    typedef float four __attribute__((vector_size(16)));
    four x[CHAINS] = {{0}};
    volatile float seen = 0;
    const four a = {0.5f, 0.5f, 0.5f, 0.5f};
    for (int64_t i = 0; i < rounds; i++) {
        for (int k = 0; k < CHAINS; k++) x[k] = x[k] * a + a;
    }
    for (int k = 0; k < CHAINS; k++) seen = seen + x[k][0];
}

static const kernel kernels[] = {
#if defined(__x86_64__)
    {"avx512_bf16", 64, bf16_512},
    {"avx512", 32, fma_512},
    {"avx2", 16, fma_256},
#endif
    {NULL, 8, plain}};
enum { N_KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static void run_member(void *ctx, int member, int members) {
    const kernel *k = ctx;
    (void)member;
    (void)members;
    k->run(ROUNDS);
}

/* The best of several passes. */
static double measure(fl_team *team, const kernel *k) {
    const double work = k->flops * CHAINS * ROUNDS * fl_team_size(team);
    double best = 0, begin = fl_now(), t = begin;
    while (t - begin < 0.1) {
        const double t0 = fl_now();
        fl_team_run(team, run_member, (void *)(uintptr_t)k);
        t = fl_now();
        if (work / (t - t0) > best) best = work / (t - t0);
    }
    return best;
}

int fl_flop_peak(double *flops, int threads, fl_err *err) {
    fl_team *team;
    const cpu_isa *isa;
    int rc = fl_team_new(&team, threads, err);
    if (rc) return rc;
    *flops = 0;
    for (int i = 0; i < N_KERNELS; i++) {
        if (kernels[i].isa && cpu_isa_find(&isa, kernels[i].isa, NULL)) continue;
        const double rate = measure(team, &kernels[i]);
        if (rate > *flops) *flops = rate;
    }
    fl_team_free(team);
    return FL_OK;
}
