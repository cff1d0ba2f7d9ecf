/* sampler_stats.h - passes over one row of logits, the costly half of the sampler.
 *
 * Vectors of eight floats (GCC's vector extension, also clang's): compiled for SSE2 or
 * NEON alike, on x86 also for AVX2 and AVX-512, chosen at run time.  Every sum has one fixed
 * order, so results do not depend on the instruction set.  Used by sampler.c only. */
#ifndef FL_ENGINE_SAMPLER_STATS_H
#define FL_ENGINE_SAMPLER_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/sampler.h"

struct fl_sampler_work { /* for n <= cap, all made at once */
    int32_t cap;
    float *x, *v, *w, *block_max;
    int32_t *ids, *count; /* count is all 0 between uses */
};
int fl_sampler_work_reserve(fl_sampler_work *w, int32_t n, fl_err *err);

enum { FL_ROW_BLOCK = 64 }; /* elements per entry of block_max */

static inline int32_t fl_row_blocks(int32_t n) {
    return n / FL_ROW_BLOCK + (n % FL_ROW_BLOCK != 0);
}

/* Largest element.  block_max (may be NULL) gets the maximum of each FL_ROW_BLOCK
 * elements.  *has_nan (may be NULL): some element is NaN; such are left out. */
float fl_row_max(const float *x, int32_t n, float *block_max, bool *has_nan);
/* Index of the first element equal to the row's maximum; 0 when there is none. */
int32_t fl_row_argmax(const float *x, int32_t n, const float *block_max, float max);
/* Sum of exp(x[i] - max); w (may be NULL, may be x) gets the terms.  Terms below e^-87
 * are 0. */
double fl_row_exp(const float *x, int32_t n, float max, float *w);
/* to[i] = x[i] / divisor; to may be x. */
void fl_row_scale(float *to, const float *x, int32_t n, float divisor);

typedef struct fl_row_race { /* see the race in sampler.h */
    const float *weight;     /* [blocks] the largest in each FL_ROW_BLOCK tokens */
    int32_t blocks;
    uint64_t seed, draw;
} fl_row_race;
/* The first block from b on that may hold a token with a key of at most `best`, and the random
 * numbers of its tokens; `blocks` when there is none. */
int32_t fl_row_contender(const fl_row_race *r, int32_t b, double best,
                         uint32_t words[FL_ROW_BLOCK]);

/* The four passes above for one instruction set; all forms give the same bits. */
typedef struct fl_row_form {
    const char *name;
    float (*max)(const float *x, int32_t n, float *block_max, bool *has_nan);
    double (*exp)(const float *x, int32_t n, float max, float *w);
    void (*scale)(float *to, const float *x, int32_t n, float divisor);
    int32_t (*contender)(const fl_row_race *r, int32_t b, double best, uint32_t *words);
} fl_row_form;
/* Those this machine runs, the best first, which is in use; NULL after the last. */
const fl_row_form *fl_row_form_at(int i);

/* Ids of all elements >= threshold and > -inf, ascending; returns how many. */
int32_t fl_row_collect(const float *x, int32_t n, const float *block_max, float threshold,
                       int32_t *ids);

/* The element value v with weight(x > v) < target <= weight(x >= v); the smallest
 * element when even all of them do not reach target.  w NULL: every element weighs 1.
 * *above = weight(x > v).  n >= 1.  Three passes, no sorting. */
float fl_row_select(const float *x, const float *w, int32_t n, double target, double *above);
/* fl_topk of a row whose block maxima are in w->block_max, without NaN; 1 <= out->n <= n. */
int fl_row_top(fl_sampler_work *w, const float *x, int32_t n, fl_top_list *out, fl_err *err);
/* A lower bound of the k-th largest element: k blocks have a maximum that is at least the
 * k-th largest block maximum.  -inf when k is larger than the number of blocks. */
float fl_row_bound(const float *block_max, int32_t n, int32_t k);

#endif
