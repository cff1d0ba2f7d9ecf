/* sampler.h - from a row of logits to a token, in vLLM's order and meaning.
 *
 * Default order: logprobs of the raw row; allowed ids; logit_bias; repetition,
 * frequency, presence penalty; greedy stops here; temperature, min_p, top_k, top_p,
 * draw.  `order` gives another one, e.g. llama.cpp's: bias, penalties, top_k, top_p,
 * min_p, temperature.  It changes when a stage runs, never what it means.
 *
 * Meaning, with p = softmax of the row as the stage finds it:
 *   repetition  ids of prompt and output: logit > 0 ? logit / r : logit * r
 *   frequency   logit -= f * (times the id is in the output)
 *   presence    logit -= q when the id is in the output
 *   min_p       keeps p >= min_p * max(p)
 *   top_k       keeps logit >= the k-th largest: all ties of the k-th stay
 *   top_p       in descending order (ties: lower id first) keeps a token when the
 *               tokens before it hold less than top_p: the one that crosses it stays
 *
 * The draw is an exponential race (= Gumbel-max): the kept token with the smallest
 * -log1p(-u) / p wins, ties to the lower id, where
 *   u = (word + 0.5) / 2^32
 *   word = philox4x32-10(counter {id / 4, draw, draw >> 32, 0}, key = seed)[id % 4]
 * and draw counts the tokens chosen so far.  A token's number depends on seed, draw and
 * id only, so a seed gives the same tokens on every machine and in any batch. */
#ifndef FL_ENGINE_SAMPLER_H
#define FL_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/sample.h"
#include "util/err.h"

#define FL_GREEDY_BELOW 1e-5f /* vLLM's _SAMPLING_EPS */
#define FL_BIAS_LIMIT   100.0f

typedef struct fl_logit_bias {
    int32_t id;
    float bias; /* added; clamped to [-100, 100]; -inf not needed: use allowed ids */
} fl_logit_bias;

typedef enum {
    FL_STAGE_ALLOWED,
    FL_STAGE_BIAS,
    FL_STAGE_PENALTIES,
    FL_STAGE_TEMPERATURE,
    FL_STAGE_MIN_P,
    FL_STAGE_TOP_K,
    FL_STAGE_TOP_P,
    FL_STAGE_COUNT
} fl_stage;

/* "allowed", "bias", "penalties", "temperature", "min_p", "top_k", "top_p". */
const char *fl_stage_name(fl_stage stage);
bool fl_stage_from_name(const char *name, fl_stage *out);

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
    /* n_order stages, each at most once; n_order 0: the default.  A stage may be left
     * out when its parameters are at their defaults. */
    fl_stage order[FL_STAGE_COUNT];
    size_t n_order;
} fl_sampler_params;

void fl_sampler_params_init(fl_sampler_params *p); /* the defaults */

/* One thread at a time.  Works in rows of its own, made by its first use, or in shared ones. */
typedef struct fl_sampler fl_sampler;

/* Rows of n logits that samplers of one thread may share. */
typedef struct fl_sampler_work fl_sampler_work;
int fl_sampler_work_new(fl_sampler_work **out, int32_t n, fl_err *err);
void fl_sampler_work_free(fl_sampler_work *w);

/* Copies params.  FL_E_ARG names the field, its value and its range. */
int fl_sampler_new(fl_sampler **out, const fl_sampler_params *p, fl_err *err);
const fl_sampler_params *fl_sampler_settings(const fl_sampler *s); /* its seed among them */
/* Bits of the allowed ids, *words of them, ids beyond being not allowed; NULL: all are. */
const uint32_t *fl_sampler_allowed(const fl_sampler *s, int32_t *words);
/* What a device does to a row of n tokens in place of s, but for edits and draw; false: s needs
 * what it lacks (another order, a mask), or would fail. */
bool fl_sampler_describe(const fl_sampler *s, int32_t n, fl_sample_row *out);
/* Same parameters but the seed (NULL: one from the system), from the first draw.  Shares the lists
 * of `other`, which may be in use on another thread meanwhile. */
int fl_sampler_like(fl_sampler **out, const fl_sampler *other, const uint64_t *seed, fl_err *err);
/* Same parameters, same seed, same place in the random stream. */
int fl_sampler_clone(fl_sampler **out, const fl_sampler *s, fl_err *err);
void fl_sampler_free(fl_sampler *s);
void fl_sampler_share_work(fl_sampler *s, fl_sampler_work *w); /* borrowed while s lives */
/* Bit id % 32 of mask[id / 32] says whether an id may be chosen, before all stages; borrowed
 * until changed, one word for each 32 ids of the row; NULL: all may. */
void fl_sampler_set_mask(fl_sampler *s, const uint32_t *mask);
/* The next draw has this number; they count from 0. */
void fl_sampler_seek(fl_sampler *s, uint64_t draw);

typedef struct fl_history { /* what penalties look at */
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *output;
    size_t n_output;
} fl_history;

/* Applies everything up to and including temperature, min_p, top_k, top_p to logits[0..n)
 * in place (removed tokens become -inf).  Greedy keeps the row after penalties.  h may be
 * NULL: no history.  Errors as sample; on failure the row is as far as it got. */
int fl_sampler_process(fl_sampler *s, float *logits, int32_t n, const fl_history *h, fl_err *err);
/* Process a copy of the row, choose, advance the random stream.  logprob (may be NULL): of
 * the chosen token under the raw row.  FL_E_ARG when no token is left, when the row holds
 * NaN or +inf, or when an id of bias, allowed or history is outside [0, n). */
int fl_sampler_sample(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                      int32_t *id, float *logprob, fl_err *err);

typedef struct fl_top_list { /* room for the n largest of a row */
    int32_t n;
    int32_t *id;
    float *logit;
} fl_top_list;
/* As sample, and the top->n largest of the row as given, for less than they cost alone.
 * top->n <= n; 0: none wanted. */
int fl_sampler_sample_top(fl_sampler *s, const float *logits, int32_t n, const fl_history *h,
                          fl_top_list *top, int32_t *id, fl_err *err);

typedef struct fl_logit_list { /* a row whose other tokens are all -inf */
    const int32_t *id;         /* [n] ascending */
    const float *logit;
    int32_t n, vocab;
} fl_logit_list;
/* As sample, without the work of a whole row. */
int fl_sampler_sample_list(fl_sampler *s, const fl_logit_list *list, const fl_history *h,
                           int32_t *id, fl_err *err);

/* Row statistics, vectorised.  -inf is an ordinary value; NaN is not expected. */
double fl_logsumexp(const float *logits, int32_t n);
/* Log-probability of a token with this logit in a row with this logsumexp. */
static inline float fl_logprob(float logit, double lse) {
    return (float)((double)logit - lse);
}
int32_t fl_argmax(const float *logits, int32_t n); /* lowest index among equals; n >= 1 */
/* The k largest, descending, ties by lower id.  w NULL: work rows of its own.  FL_E_ARG: out->n outside
 * [1, n], or NaN in the row. */
int fl_topk(fl_sampler_work *w, const float *logits, int32_t n, fl_top_list *out, fl_err *err);

#endif
