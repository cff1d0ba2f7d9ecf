/* The passes over a row of logits: every instruction set gives the bits of the plain form, and
 * the race of the sampler is that of its definition. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler_stats.h"
#include "tap.h"
#include "util/rng.h"

enum { LONGEST = 49152 + 3, BLOCKS = LONGEST / FL_ROW_BLOCK + 1 };

static float row[LONGEST + 1];

static uint32_t state = 1;
static uint32_t next(void) {
    uint32_t words[4];
    fl_philox(words, (uint32_t[4]){state++, 0, 0, 0}, 99);
    return words[0];
}

static float uniform(float low, float high) {
    return low + (high - low) * fl_uniform(next());
}

static const char *const shapes[] = {"flat",     "spread",   "far apart", "mostly -inf",
                                     "all -inf", "with NaN", "with +inf", "zeros and denormals"};
enum { FLAT, SPREAD, FAR, MASKED, NOTHING, NANS, INFINITE, ZEROS, SHAPES };

static float element(int shape) {
    switch (shape) {
    case FLAT:
        return uniform(-0.5f, 0.5f);
    case SPREAD:
        return uniform(-20.0f, 10.0f);
    case FAR:
        return uniform(-200.0f, 100.0f);
    case MASKED:
        return next() % 50 ? -INFINITY : uniform(-5.0f, 5.0f);
    case NOTHING:
        return -INFINITY;
    case NANS:
        return next() % 97 ? uniform(-9.0f, 9.0f) : next() % 2 ? NAN : -NAN;
    case INFINITE:
        return next() % 97 ? uniform(-9.0f, 9.0f) : next() % 2 ? INFINITY : -INFINITY;
    default:
        return next() % 3 ? next() % 2 ? 0.0f : -0.0f : uniform(-1e-38f, 1e-38f);
    }
}

static const int32_t lengths[] = {1, 7, 8, 9, 63, 64, 65, 127, 128, 200, 1000, LONGEST};
enum { N_LENGTHS = sizeof(lengths) / sizeof(*lengths) };

typedef struct passes { /* what the passes of one form make of a row */
    float max, block_max[BLOCKS], weight[LONGEST], scaled[LONGEST];
    bool nan;
    double sum, sum_only;
    int32_t block[BLOCKS], n_found; /* contenders */
    uint32_t words[BLOCKS + 1][FL_ROW_BLOCK];
} passes;

static void run(const fl_row_form *f, const float *x, int32_t n, passes *p) {
    memset(p, 0, sizeof(*p));
    p->max = f->max(x, n, p->block_max, &p->nan);
    const float max = p->max > -INFINITY && p->max < INFINITY ? p->max : 3.0f;
    p->sum = f->exp(x, n, max, p->weight);
    p->sum_only = f->exp(x, n, max, NULL);
    f->scale(p->scaled, x, n, 0.7f);
    float most[BLOCKS];
    const fl_row_race r = {most, fl_row_blocks(n), 0x123456789abcdefu, ((uint64_t)n << 33) + 5};
    for (int32_t b = 0; b < r.blocks; b++) most[b] = next() % 3 ? uniform(0.0f, 1e-2f) : 0.0f;
    for (int32_t b = 0; (b = f->contender(&r, b, 0.3, p->words[p->n_found])) < r.blocks; b++)
        p->block[p->n_found++] = b;
    memset(p->words[p->n_found], 0, sizeof(*p->words)); /* of no meaning */
}

static void test_forms(void) {
    static passes plain, fast;
    const fl_row_form *f, *last = NULL;
    int n = 0;
    for (; (f = fl_row_form_at(n)); n++) last = f;
    check(last && !strcmp(last->name, "plain"), "the last of %d forms is the plain one", n);
    for (int i = 0; i < n - 1; i++) {
        for (int shape = 0; shape < SHAPES; shape++) {
            int wrong = 0;
            for (int l = 0; l < N_LENGTHS; l++) {
                float *x = row + l % 2; /* not aligned */
                for (int32_t k = 0; k < lengths[l]; k++) x[k] = element(shape);
                const uint32_t before = state;
                run(last, x, lengths[l], &plain);
                state = before;
                run(fl_row_form_at(i), x, lengths[l], &fast);
                wrong += memcmp(&plain, &fast, sizeof(plain)) != 0;
            }
            check(!wrong, "%s: the bits of the plain form, %s", fl_row_form_at(i)->name,
                  shapes[shape]);
        }
    }
}

static uint32_t word_of(int32_t id, uint64_t draw, uint64_t seed) {
    uint32_t words[4];
    const uint32_t counter[4] = {(uint32_t)id / 4, (uint32_t)draw, (uint32_t)(draw >> 32), 0};
    fl_philox(words, counter, seed);
    return words[id % 4];
}

static double key_of(uint32_t word, float weight) {
    return -log1p(-((double)word + 0.5) * 0x1p-32) / (double)weight;
}

/* No block that could win is left out, hardly one that could not is returned, with its words. */
static void test_contenders(void) {
    enum { N = 4096, N_BLOCKS = N / FL_ROW_BLOCK };
    int missed = 0, idle = 0, wrong = 0, returned = 0;
    for (uint64_t draw = 0; draw < 200; draw++) {
        const double best = (double)uniform(0.0f, 1.0f);
        uint32_t words[FL_ROW_BLOCK];
        float most[N_BLOCKS];
        for (int b = 0; b < N_BLOCKS; b++)
            most[b] = draw % 5 ? uniform(0.0f, 1.0f) / (float)(1u << next() % 31) : 0x1p-32f;
        const fl_row_race r = {most, N_BLOCKS, draw * draw << 40 | draw, draw << 31};
        int32_t b = 0, found = fl_row_contender(&r, 0, best, words);
        for (; b < N_BLOCKS; b++) {
            bool may = false, nearly = false;
            for (int32_t i = 0; i < FL_ROW_BLOCK; i++) {
                const uint32_t word = word_of(b * FL_ROW_BLOCK + i, r.draw, r.seed);
                const double key = key_of(word, most[b]);
                may |= key <= best;
                /* A key is at least its number, which decides, and seldom twice as large. */
                nearly |= ((double)word - 0.5) * 0x1p-32 / (double)most[b] <= 1.002 * best;
                wrong += b == found && words[i] != word;
            }
            missed += may && b != found;
            if (b != found) continue;
            idle += !nearly;
            returned++;
            found = fl_row_contender(&r, b + 1, best, words);
        }
        wrong += found != N_BLOCKS;
    }
    check(!missed, "no block with a key of at most the best is left out");
    check(!idle && returned > 100, "all %d returned have a number small enough", returned);
    check(!wrong, "with the random numbers of their tokens, then the number of blocks");
}

/* Of seed 0: the 17,698th token's number of draw 255,060 is 0, the smallest; found by trying. */
static void test_smallest_number(void) {
    enum { ID = 17698, BLOCK = ID / FL_ROW_BLOCK };
    const uint64_t draw = 255060;
    float most[BLOCK + 1];
    for (int b = 0; b <= BLOCK; b++) most[b] = 0x1p-33f;
    const fl_row_race r = {most, BLOCK + 1, 0, draw};
    uint32_t words[FL_ROW_BLOCK];
    for (int i = 0; fl_row_form_at(i); i++) {
        const char *name = fl_row_form_at(i)->name;
        check(fl_row_form_at(i)->contender(&r, 0, 1.0, words) == BLOCK &&
                  words[ID % FL_ROW_BLOCK] == 0,
              "%s: the number 0 wins with a weight of 2^-33", name);
        check(fl_row_form_at(i)->contender(&r, 0, 0.99, words) == BLOCK + 1,
              "%s: and not with 1 %% less", name);
    }
}

static int32_t naive_winner(const float *x, int32_t n, uint64_t seed, uint64_t draw) {
    const float max = fl_row_max(x, n, NULL, NULL);
    int32_t winner = -1;
    double best = INFINITY;
    for (int32_t id = 0; id < n; id++) {
        float weight;
        fl_row_exp(x + id, 1, max, &weight);
        if (!(weight > 0.0f)) continue;
        const double key = key_of(word_of(id, draw, seed), weight);
        if (key < best) {
            best = key;
            winner = id;
        }
    }
    return winner;
}

/* Every token of a row that is drawn at each temperature. */
static void test_draws(void) {
    static float scaled[LONGEST];
    static const float temperatures[] = {1.0f, 0.7f, 3.0f};
    for (int shape = FLAT; shape <= MASKED; shape++) {
        int wrong = 0, runs = 0;
        for (int l = 0; l < N_LENGTHS; l++) {
            const int32_t n = lengths[l];
            for (int32_t i = 0; i < n; i++) row[i] = element(shape);
            row[next() % (uint32_t)n] = 4.0f; /* never all -inf */
            for (int t = 0; t < 3; t++) {
                fl_sampler_params p;
                fl_sampler *s = NULL;
                fl_sampler_params_init(&p);
                p.temperature = temperatures[t];
                p.seed = (uint64_t)next() << 20;
                p.has_seed = true;
                fl_row_scale(scaled, row, n, p.temperature);
                if (fl_sampler_new(&s, &p, NULL)) break;
                for (uint64_t draw = 0; draw < (n > 1000 ? 2u : 20u); draw++, runs++) {
                    int32_t id = -1;
                    wrong += fl_sampler_sample(s, row, n, NULL, &id, NULL, NULL) != FL_OK ||
                             id != naive_winner(scaled, n, p.seed, draw);
                }
                fl_sampler_free(s);
            }
        }
        check(!wrong && runs > 600, "%d draws from rows %s: the smallest key of all tokens", runs,
              shapes[shape]);
    }
}

/* A temperature may push logits out of range: the row is judged as it is then. */
static void test_temperature_out_of_range(void) {
    static const struct {
        const char *says;
        float row[3];
    } cases[] = {{"id 1 is inf", {1.0f, 3e38f, 2.0f}}, {"none is left", {-3e38f, -2e38f, -3e38f}}};
    for (int i = 0; i < 2; i++) {
        fl_sampler_params p;
        fl_sampler *s = NULL;
        fl_err err = {0};
        int32_t id;
        fl_sampler_params_init(&p);
        p.temperature = 0.1f;
        (void)fl_sampler_new(&s, &p, NULL);
        check(fl_sampler_sample(s, cases[i].row, 3, NULL, &id, NULL, &err) == FL_E_ARG &&
                  strstr(err.msg, cases[i].says),
              "temperature 0.1: %s", err.msg);
        fl_sampler_free(s);
    }
}

int main(void) {
    test_forms();
    test_contenders();
    test_smallest_number();
    test_draws();
    test_temperature_out_of_range();
    return tap_done();
}
