/* 2:4 groups and the bitmask layout. */
#include "formats/sparse24.h"

#include <string.h>

#include "tap.h"

static void test_example(void) {
    const uint8_t row[8] = {0, 1, 0, 2, 3, 0, 0, 4};
    uint8_t kept[4], mask, back[8];
    check(fl_sparse24_pack(kept, &mask, row, FL_DTYPE_E4M3, 8), "the example row packs");
    check(mask == 0x9a, "its bitmask is 0x%02x", mask);
    check(!memcmp(kept, "\1\2\3\4", 4), "kept values in column order");
    check(fl_sparse24_unpack(back, kept, &mask, FL_DTYPE_E4M3, 8) && !memcmp(back, row, 8),
          "and back");
}

/* Every pattern of zeros in one group, zeros of both signs, one and two bytes a value. */
static void test_all_groups(void) {
    int bad = 0;
    for (unsigned zero = 0; zero <= 0x80; zero += 0x80) {
        for (unsigned bits = 0; bits < 16; bits++) {
            uint8_t row[8] = {0}, kept[4], mask = 0, back[8];
            uint8_t wide[16] = {0}, wide_kept[8], wide_mask = 0, wide_back[16];
            for (unsigned i = 0; i < 4; i++) {
                row[4 + i] = (uint8_t)(bits >> i & 1 ? 0x31 + i : zero);
                wide[8 + 2 * i] = (uint8_t)(bits >> i & 1 ? 0x31 + i : 0);
                wide[8 + 2 * i + 1] = (uint8_t)zero;
            }
            bool fits = __builtin_popcount(bits) <= 2;
            bad += fl_sparse24_first_break(row, FL_DTYPE_E4M3, 8) != (fits ? -1 : 1);
            bad += fl_sparse24_first_break(wide, FL_DTYPE_BF16, 8) != (fits ? -1 : 1);
            bad += fl_sparse24_pack(kept, &mask, row, FL_DTYPE_E4M3, 8) != fits;
            bad += fl_sparse24_pack(wide_kept, &wide_mask, wide, FL_DTYPE_BF16, 8) != fits;
            if (!fits) continue;
            bad += __builtin_popcount(mask & 15) != 2 || __builtin_popcount(mask >> 4) != 2;
            bad += !fl_sparse24_unpack(back, kept, &mask, FL_DTYPE_E4M3, 8);
            bad += !fl_sparse24_unpack(wide_back, wide_kept, &wide_mask, FL_DTYPE_BF16, 8);
            for (unsigned i = 0; i < 8; i++) {
                bad += (back[i] | 0x80) != (row[i] | 0x80);
                bad += wide_back[2 * i] != wide[2 * i];
            }
        }
    }
    check(!bad, "all 16 groups, both zeros, E4M3 and BF16 (%d wrong)", bad);
}

static void test_bad_nibbles(void) {
    const uint8_t kept[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t row[8];
    int bad = 0;
    for (unsigned mask = 0; mask < 256; mask++) {
        uint8_t byte = (uint8_t)mask;
        bool fits = __builtin_popcount(mask & 15) == 2 && __builtin_popcount(mask >> 4) == 2;
        bad += fl_sparse24_unpack(row, kept, &byte, FL_DTYPE_E4M3, 8) != fits;
    }
    check(!bad, "a nibble without exactly two bits is refused (%d wrong)", bad);
}

int main(void) {
    test_example();
    test_all_groups();
    test_bad_nibbles();
    return tap_done();
}
