/* sample.h - what the backends' `sample` reads and writes in device memory, when rows of logits
 * become tokens there.  The meaning is that of engine/sampler.h in its default order, with the same
 * random numbers; only C types, so that kernels can include it. */
#ifndef FL_BACKEND_SAMPLE_H
#define FL_BACKEND_SAMPLE_H

#include <stdint.h>

enum { FL_SAMPLE_NONE, FL_SAMPLE_GREEDY, FL_SAMPLE_DRAW }; /* mode: nothing is done with the row */

enum { FL_SAMPLE_MAX_VOCAB = 1 << 19 };

typedef struct fl_sample_row {
    int32_t mode;
    int32_t first_edit, n_edits; /* its part of the edits                                  */
    int32_t masked;              /* not 0: only ids whose bit is set in its row of the mask */
    float temperature;           /* > 0; of a DRAW                                         */
    float repetition, frequency, presence; /* of the edits' penalties                      */
    int32_t top_k;                         /* <= 0: off                                     */
    float top_p;                           /* 1: off                                        */
    float min_p;                           /* 0: off                                        */
    int32_t logprob;                       /* not 0: wanted                                 */
    uint64_t seed, draw;                   /* philox: key, counter                          */
} fl_sample_row;

/* Of one id of a row; ids of a row are distinct. */
typedef struct fl_sample_edit {
    int32_t id;
    float bias;    /* added to the logit before penalties; -inf: never chosen              */
    int32_t count; /* -1: no penalties; else how often the id is in the output             */
    float logit;   /* the device's own                                                     */
} fl_sample_edit;

enum {
    FL_SAMPLED_NOTHING = -1, /* no token is left                                           */
    FL_SAMPLED_BAD = -2,     /* the row holds NaN or +inf                                  */
};
typedef struct fl_sampled {
    int32_t id;    /* or one of the above                                                  */
    float logprob; /* under the row as it came, when it was wanted                         */
} fl_sampled;

#endif
