#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void fuzz_fault(const char *cond, int line) {
    fprintf(stderr, "line %d: not true: %s\n", line, cond);
    abort();
}
