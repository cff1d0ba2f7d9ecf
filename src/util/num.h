/* num.h - arithmetic on sizes that come from files or from users. */
#ifndef FL_UTIL_NUM_H
#define FL_UTIL_NUM_H

#include <stdbool.h>
#include <stdint.h>

/* *out = a * b; false on overflow (then *out is unspecified). */
static inline bool fl_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* *out = a + b; false on overflow (then *out is unspecified). */
static inline bool fl_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* Smallest multiple of align (a power of two) that is >= n. */
static inline uint64_t fl_round_up(uint64_t n, uint64_t align) {
    return (n + align - 1) & ~(align - 1);
}

static inline int64_t fl_min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t fl_max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static inline int64_t fl_div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

#endif
