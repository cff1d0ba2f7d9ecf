#include "formats/sparse24.h"

#include <string.h>

/* Bit i: value i of the group at p is not zero, whatever its sign (in its last byte). */
static unsigned nonzero(const uint8_t *p, int64_t bytes) {
    unsigned bits = 0;
    for (unsigned i = 0; i < 4; i++, p += bytes) {
        unsigned any = p[bytes - 1] & 0x7fu;
        for (int64_t k = 0; k < bytes - 1; k++) any |= p[k];
        if (any) bits |= 1u << i;
    }
    return bits;
}

static unsigned count(unsigned bits) {
    return (unsigned)__builtin_popcount(bits);
}

/* A group of E4M3 at once: adding 0x7f carries a byte that is not zero into its top bit. */
static bool breaks_e4m3(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return count(((v & 0x7f7f7f7fu) + 0x7f7f7f7fu) & 0x80808080u) > 2;
}

int64_t fl_sparse24_first_break(const void *values, fl_dtype t, int64_t n) {
    const uint8_t *p = values;
    const int64_t bytes = fl_dtype_bytes(t);
    for (int64_t group = 0; group < n / 4; group++, p += 4 * bytes) {
        if (t == FL_DTYPE_E4M3 && !breaks_e4m3(p)) continue;
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
    for (int64_t c = 0; c < k; c += 4, p += 4 * bytes, in += 2 * bytes) {
        unsigned bits = bitmask[c / 8] >> (c % 8) & 0xfu;
        if (count(bits) != 2) return false;
        int64_t first = __builtin_ctz(bits), second = 31 - __builtin_clz(bits);
        if (bytes == 1) {
            p[first] = in[0];
            p[second] = in[1];
            continue;
        }
        memcpy(p + first * bytes, in, (size_t)bytes);
        memcpy(p + second * bytes, in + bytes, (size_t)bytes);
    }
    return true;
}
