#include "settings.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static emu_settings settings;

static uint64_t number(const char *name, uint64_t otherwise) {
    const char *s = getenv(name);
    return s && *s ? strtoull(s, NULL, 0) : otherwise;
}

static void read_environment(void) {
    const char *check = getenv("EMU_CHECK"), *mma = getenv("EMU_MMA");
    settings = (emu_settings){
        .arch = (int)number("EMU_ARCH", 89),
        .devices = (int)number("EMU_DEVICES", 1),
        .driver = (int)number("EMU_DRIVER", 0),
        .seed = number("EMU_SEED", 1),
        .memory = number("EMU_MEMORY_MB", 8192) << 20,
        .fail_at = (int64_t)number("EMU_FAIL_AT", 0),
        .hang_seconds = (int)number("EMU_HANG", 10),
        .lt_refuse = (int64_t)number("EMU_LT_REFUSE", -1),
        .lt_fail = number("EMU_LT_FAIL", 0),
        .fail_launch = number("EMU_FAIL_LAUNCH", 0),
        .race = !check || strstr(check, "race"),
        .init = !check || strstr(check, "init"),
        .grace = !check || strstr(check, "grace"),
        .trunc13 = mma && !strcmp(mma, "13bit"),
        .leaks = number("EMU_LEAKS", 0) != 0,
        .quiet = number("EMU_QUIET", 0) != 0,
        .cover = getenv("EMU_COVER"),
        .stats = getenv("EMU_STATS"),
    };
    int a = settings.arch;
    if (a != 80 && a != 89 && a != 90 && a != 100 && a != 120)
        emu_stop("EMU_ARCH is %d; 80, 89, 90, 100 and 120 are known", a);
    if (mma && !settings.trunc13) emu_stop("EMU_MMA is %s; only 13bit is known", mma);
}

const emu_settings *emu_get(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_environment);
    return &settings;
}

static void line(const char *fmt, va_list ap) {
    char text[1024];
    vsnprintf(text, sizeof(text), fmt, ap);
    fprintf(stderr, "EMU: %s\n", text);
}

void emu_report(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    line(fmt, ap);
    va_end(ap);
}

void emu_stop(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    line(fmt, ap);
    va_end(ap);
    abort();
}

uint32_t emu_random(uint64_t *state) {
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}
