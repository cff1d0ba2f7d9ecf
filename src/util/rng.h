/* rng.h - philox4x32-10: counter-based random numbers, the same on CPU and GPU.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef FL_UTIL_RNG_H
#define FL_UTIL_RNG_H

#include <stdint.h>

/* out = philox4x32-10(counter, key).  key = seed; counter is the caller's. */
void fl_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key);

/* Uniform in (0, 1): never 0 and never 1. */
static inline float fl_uniform(uint32_t bits) {
    return ((float)(bits >> 8) + 0.5f) * 0x1p-24f;
}

#endif
