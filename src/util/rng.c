#include "util/rng.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

void fl_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

int fl_random_seed(uint64_t *out, fl_err *err) {
    ssize_t n = getrandom(out, sizeof(*out), 0);
    if (n == (ssize_t)sizeof(*out)) return FL_OK;
    return fl_fail(err, FL_E_IO, "getrandom: %s", n < 0 ? strerror(errno) : "too few bytes");
}
