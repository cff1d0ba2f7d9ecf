/* settings.h - what the environment asks of the emulated machine; see README.md. */
#ifndef EMU_SETTINGS_H
#define EMU_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct emu_settings {
    int arch;          /* EMU_ARCH: 80, 89, 90, 100, 120: which PTX, and what the devices claim  */
    int devices;       /* EMU_DEVICES                                                            */
    int driver;        /* EMU_DRIVER: the cudaError_t that every device call returns, 0 = works  */
    uint64_t seed;     /* EMU_SEED: orders of blocks, warps, streams and graph nodes           */
    uint64_t memory;   /* EMU_MEMORY_MB: of one device, in bytes here                          */
    int64_t fail_at;   /* EMU_FAIL_AT: the n-th allocation of memory or streams fails          */
    int hang_seconds;  /* EMU_HANG: how long a wait may last in which nothing can run        */
    int64_t lt_refuse; /* EMU_LT_REFUSE: cuBLASLt offers nothing for so many columns of B       */
    uint64_t lt_fail;  /* EMU_LT_FAIL: the n-th cublasLtMatmul gives status 15 (not supported)   */
    uint64_t fail_launch;   /* EMU_FAIL_LAUNCH: the n-th kernel that runs fails, and its device */
    bool race, init, grace; /* EMU_CHECK: a comma-separated list of these                    */
    bool trunc13;           /* EMU_MMA=13bit: mma truncates its sums                          */
    bool leaks, quiet;      /* EMU_LEAKS, EMU_QUIET                                          */
    const char *cover, *stats; /* EMU_COVER, EMU_STATS: files that counts are appended to    */
} emu_settings;

const emu_settings *emu_get(void);

/* One line on stderr that starts with "EMU". */
void emu_report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, then abort: the emulator does not know what it was given. */
void emu_stop(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

uint32_t emu_random(uint64_t *state);

#endif
