/* rng.h - philox4x32-10: counter-based random numbers, the same on CPU and GPU.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef FL_UTIL_RNG_H
#define FL_UTIL_RNG_H

#include <stdint.h>

#include "util/err.h"

/* out = philox4x32-10(counter, key).  key = seed; counter is the caller's. */
void fl_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key);

/* Uniform in (0, 1): never 0 and never 1.  23 bits: with 24 the + 0.5 would not fit into
 * a float and the largest value would round to 1. */
static inline float fl_uniform(uint32_t bits) {
    return ((float)(bits >> 9) + 0.5f) * 0x1p-23f;
}

/* A seed nobody can guess, from the operating system. */
int fl_random_seed(uint64_t *out, fl_err *err);

#endif
