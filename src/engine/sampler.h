/* sampler.h - from a row of logits to a token, in vLLM's order and meaning.
 *
 * Order: logprobs of the raw row; allowed ids; logit_bias; repetition, frequency,
 * presence penalty; greedy stops here; temperature, min_p, top_k, top_p, draw.
 * Draws are Gumbel-max over philox4x32-10 keyed by the seed, so a seed gives the same
 * tokens on every machine and for any batch. */
#ifndef FL_ENGINE_SAMPLER_H
#define FL_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_logit_bias {
    int32_t id;
    float bias; /* added; clamped to [-100, 100]; -inf not needed: use allowed ids */
} fl_logit_bias;

typedef struct fl_sampler_params {
    float temperature;        /* >= 0; below 1e-5 greedy                        default 1   */
    int32_t top_k;            /* 0 or -1: off                                   default 0   */
    float top_p;              /* (0, 1]                                         default 1   */
    float min_p;              /* [0, 1]                                         default 0   */
    float repetition_penalty; /* > 0; prompt and output                         default 1   */
    float frequency_penalty;  /* [-2, 2]; output only                           default 0   */
    float presence_penalty;   /* [-2, 2]; output only                           default 0   */
    uint64_t seed;
    bool has_seed;       /* false: seeded from the system                              */
    fl_logit_bias *bias; /* n_bias entries, or NULL                                    */
    size_t n_bias;
    int32_t *allowed; /* n_allowed ids, or NULL = all                               */
    size_t n_allowed;
} fl_sampler_params;

void fl_sampler_params_init(fl_sampler_params *p); /* the defaults */

typedef struct fl_sampler fl_sampler;

/* Copies params.  FL_E_ARG names the field, its value and its range. */
int fl_sampler_new(fl_sampler **out, const fl_sampler_params *p, fl_err *err);
int fl_sampler_clone(fl_sampler **out, const fl_sampler *s, fl_err *err);
void fl_sampler_free(fl_sampler *s);

typedef struct fl_history { /* what penalties look at */
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *output;
    size_t n_output;
} fl_history;

/* Applies everything up to and including temperature, min_p, top_k, top_p to logits[0..n)
 * in place (removed tokens become -inf).  Greedy keeps the row after penalties. */
int fl_sampler_process(fl_sampler *s, float *logits, int32_t n, const fl_history *h, fl_err *err);
/* Process a copy of the row, choose, advance the random stream.  logprob: of the chosen
 * token under the raw row.  FL_E_ARG when no token is left or the row holds NaN. */
int fl_sampler_sample(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                      int32_t *id, float *logprob, fl_err *err);

/* Row statistics, vectorised. */
float fl_logsumexp(const float *logits, int32_t n);
int32_t fl_argmax(const float *logits, int32_t n); /* lowest index among equals */
/* The k largest, descending, ties by lower id; ids and values have room for k <= n. */
int fl_topk(const float *logits, int32_t n, int32_t k, int32_t *ids, float *values, fl_err *err);

#endif
