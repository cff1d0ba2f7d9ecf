#include "formats/sparse24.h"

#include <string.h>

/* Bit i: value i of the group at p is not zero, whatever its sign. */
static unsigned nonzero(const uint8_t *p, int64_t bytes) {
    unsigned bits = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned low = bytes == 2 ? p[2 * i] : 0u, high = p[(int64_t)i * bytes + bytes - 1];
        if (low | (high & 0x7fu)) bits |= 1u << i;
    }
    return bits;
}

static unsigned count(unsigned nibble) {
    return (unsigned)__builtin_popcount(nibble);
}

int64_t fl_sparse24_first_break(const void *values, fl_dtype t, int64_t n) {
    const uint8_t *p = values;
    const int64_t bytes = fl_dtype_bytes(t);
    for (int64_t group = 0; group < n / 4; group++, p += 4 * bytes) {
        if (count(nonzero(p, bytes)) > 2) return group;
    }
    return -1;
}

bool fl_sparse24_pack(void *kept, uint8_t *bitmask, const void *row, fl_dtype t, int64_t k) {
    const uint8_t *p = row;
    uint8_t *out = kept;
    const int64_t bytes = fl_dtype_bytes(t);
    for (int64_t c = 0; c < k; c += 4, p += 4 * bytes) {
        unsigned bits = nonzero(p, bytes);
        if (count(bits) > 2) return false;
        for (unsigned i = 0; count(bits) < 2; i++) bits |= 1u << i;
        for (unsigned i = 0; i < 4; i++) {
            if (!(bits >> i & 1u)) continue;
            memcpy(out, p + i * bytes, (size_t)bytes);
            out += bytes;
        }
        uint8_t *byte = &bitmask[c / 8];
        *byte = (uint8_t)(c % 8 ? *byte | bits << 4 : bits);
    }
    return true;
}

bool fl_sparse24_unpack(void *row, const void *kept, const uint8_t *bitmask, fl_dtype t,
                        int64_t k) {
    const uint8_t *in = kept;
    uint8_t *p = row;
    const int64_t bytes = fl_dtype_bytes(t);
    memset(row, 0, (size_t)(k * bytes));
    for (int64_t c = 0; c < k; c += 4, p += 4 * bytes) {
        unsigned bits = bitmask[c / 8] >> (c % 8) & 0xfu;
        if (count(bits) != 2) return false;
        for (unsigned i = 0; i < 4; i++) {
            if (!(bits >> i & 1u)) continue;
            memcpy(p + i * bytes, in, (size_t)bytes);
            in += bytes;
        }
    }
    return true;
}
