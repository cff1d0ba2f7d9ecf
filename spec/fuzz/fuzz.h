/* fuzz.h - for the libFuzzer targets here, each a file fuzz_NAME.c: make fuzz [SECONDS=60].
 * The first inputs of a target are in seeds/NAME. */
#ifndef FL_SPEC_FUZZ_H
#define FL_SPEC_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Ends the process with the line that found the fault; not assert, which NDEBUG silences. */
#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) fuzz_fault(#cond, __LINE__);                                                  \
    } while (0)
_Noreturn void fuzz_fault(const char *cond, int line);

#endif
