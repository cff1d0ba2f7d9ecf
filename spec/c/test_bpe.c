/* Words of every length against the definition: join the pair of the lowest rank, leftmost first, until none is left;
 * with vocabularies as training makes them and with ones whose merges are in any order. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fixture.h"
#include "tap.h"
#include "text/bpe.h"
#include "util/mem.h"

enum { LETTERS = 4, MERGES = 300, MOST = 6000 };

static uint64_t draws = 1;
static uint32_t pick(uint32_t n) {
    draws = draws * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(draws >> 33) % n;
}

typedef struct merge {
    int32_t left, right, merged;
} merge;
static merge merges[MERGES];

/* trained: each merge joins tokens that are there; else their order says nothing. again: merges may make tokens that
 * are there already, letters too. */
static void make(fl_bpe *b, bool trained, bool again) {
    const fl_vocab *none = NULL;
    int32_t n_tokens = LETTERS;
    fl_bpe_init(b, none, MERGES);
    b->byte_level = true;
    for (int i = 0; i < LETTERS; i++) b->byte_id['a' + i] = i;
    for (uint32_t i = 0; i < MERGES; i++) {
        const int32_t made = again && !pick(3) ? (int32_t)pick((uint32_t)n_tokens) : n_tokens++;
        merges[i] = (merge){(int32_t)pick((uint32_t)(made < n_tokens - 1 ? n_tokens : made)),
                            (int32_t)pick((uint32_t)(made < n_tokens - 1 ? n_tokens : made)), made};
        for (uint32_t k = 0; k < i; k++) { /* a pair has one merge */
            if (merges[k].left == merges[i].left && merges[k].right == merges[i].right)
                merges[i].left = merges[i].right = -2 - (int32_t)i;
        }
    }
    for (uint32_t i = 0; !trained && i < MERGES; i++) {
        const uint32_t k = pick(MERGES);
        const merge other = merges[k];
        merges[k] = merges[i];
        merges[i] = other;
    }
    for (uint32_t i = 0; i < MERGES; i++)
        fl_bpe_add_merge(b, merges[i].left, merges[i].right, merges[i].merged, i);
}

static uint32_t rank_of(int32_t left, int32_t right) {
    for (uint32_t i = 0; i < MERGES; i++)
        if (merges[i].left == left && merges[i].right == right) return i;
    return MERGES;
}

static size_t by_definition(int32_t *ids, const char *word, size_t n) {
    static uint32_t ranks[MOST];
    for (size_t i = 0; i < n; i++) ids[i] = word[i] - 'a';
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == MERGES) break;
        ids[best] = merges[ranks[best]].merged;
        n--;
        memmove(&ids[best + 1], &ids[best + 2], (n - best - 1) * sizeof(*ids));
        memmove(&ranks[best], &ranks[best + 1], (n - best) * sizeof(*ranks));
        if (best + 1 < n) ranks[best] = rank_of(ids[best], ids[best + 1]);
        if (best) ranks[best - 1] = rank_of(ids[best - 1], ids[best]);
    }
    return n;
}

static void test_definition(bool trained, bool again) {
    static const size_t lengths[] = {1, 2, 31, 33, 500, 4095, 4096, 5999};
    static char word[MOST];
    static int32_t expected[MOST];
    fl_bpe_scratch *scratch = fl_bpe_scratch_new();
    int wrong = 0, joined = 0;
    for (int trial = 0; trial < 24; trial++) {
        fl_bpe b;
        make(&b, trained, again);
        const size_t n = lengths[trial % 8];
        const uint32_t letters = 1 + pick(LETTERS);
        for (size_t i = 0; i < n; i++) word[i] = (char)('a' + pick(letters));
        fl_ids got = {0};
        fl_err err;
        fl_bpe_scratch_free(scratch);
        scratch = fl_bpe_scratch_new(); /* another vocabulary */
        const int rc = fl_bpe_encode(&b, scratch, word, n, &got, &err);
        const size_t count = by_definition(expected, word, n);
        wrong +=
            rc || got.len != count || memcmp(got.data, expected, count * sizeof(*expected)) != 0;
        joined += count < n;
        fl_free(got.data);
        fl_bpe_deinit(&b);
    }
    fl_bpe_scratch_free(scratch);
    check(!wrong && joined > 8, "%s merges%s: %d of 24 words are not as defined",
          trained ? "trained" : "unordered",
          again ? ", some of whose tokens are there already" : "", wrong);
}

static double seconds_of(const fl_bpe *b, fl_bpe_scratch *scratch, const char *word, size_t n) {
    struct timespec t[2];
    fl_ids got = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t[0]);
    fl_bpe_encode(b, scratch, word, n, &got, NULL);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t[1]);
    fl_free(got.data);
    return (double)(t[1].tv_sec - t[0].tv_sec) + 1e-9 * (double)(t[1].tv_nsec - t[0].tv_nsec);
}

/* Four times the word takes about four times as long, whatever it is made of. */
static void test_growth(void) {
    enum { LONG = 1 << 20 };
    char *word = malloc(LONG);
    double worst = 0;
    for (uint32_t letters = 1; letters <= LETTERS; letters++) {
        fl_bpe b;
        make(&b, true, false);
        fl_bpe_scratch *scratch = fl_bpe_scratch_new();
        for (size_t i = 0; i < LONG; i++) word[i] = (char)('a' + pick(letters));
        seconds_of(&b, scratch, word, LONG);
        double quarter = 1e9, whole = 1e9;
        for (int i = 0; i < 3; i++) {
            const double q = seconds_of(&b, scratch, word, LONG / 4),
                         w = seconds_of(&b, scratch, word, LONG);
            if (q < quarter) quarter = q;
            if (w < whole) whole = w;
        }
        if (whole / quarter > worst) worst = whole / quarter;
        fl_bpe_scratch_free(scratch);
        fl_bpe_deinit(&b);
    }
    check(worst < 10, "four times the word takes %.1f times as long", worst);
    free(word);
}

static int encode_long(void *ctx) {
    static char word[5000];
    fl_bpe_scratch *scratch = fl_bpe_scratch_new();
    fl_ids got = {0};
    fl_err err;
    memset(word, 'a', sizeof(word));
    const int rc =
        scratch ? fl_bpe_encode(ctx, scratch, word, sizeof(word), &got, &err) : FL_E_NOMEM;
    fl_free(got.data);
    fl_bpe_scratch_free(scratch);
    return rc;
}

int main(void) {
    test_definition(true, false);
    test_definition(false, false);
    test_definition(true, true);
    test_definition(false, true);
    test_growth();
    fl_bpe b;
    make(&b, false, true);
    check(fixture_sweep(encode_long, &b) > 5, "a long word without memory is an error");
    fl_bpe_deinit(&b);
    return tap_done();
}
