/* Philox4x32-10 against the published known-answer vectors of Random123 (its file
 * tests/kat_vectors, lines "philox4x32 10"). */
#include "tap.h"
#include "util/rng.h"

static const struct {
    const char *name;
    uint32_t counter[4];
    uint64_t key; /* word 0 is the low half */
    uint32_t want[4];
} vectors[] = {
    {"zeros", {0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {"ones",
     {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     0xffffffffffffffff,
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {"digits of pi",
     {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     0x299f31d0a4093822,
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

int main(void) {
    for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++) {
        uint32_t out[4];
        bool same = true;
        fl_philox(out, vectors[i].counter, vectors[i].key);
        for (int k = 0; k < 4; k++) same = same && out[k] == vectors[i].want[k];
        check(same, "philox4x32-10, %s: %08x %08x %08x %08x", vectors[i].name, out[0], out[1],
              out[2], out[3]);
    }
    check(fl_uniform(0) > 0.0f, "the smallest uniform is above 0");
    check(fl_uniform(0xffffffff) < 1.0f, "the largest uniform is below 1");
    check(fl_uniform(0x80000000) == 0.5f + 0x1p-24f, "the middle is where it should be");
    uint64_t a = 0, b = 0;
    check(!fl_random_seed(&a, NULL) && !fl_random_seed(&b, NULL) && a != b,
          "two seeds from the system differ");
    return tap_done();
}
