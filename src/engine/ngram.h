/* ngram.h - guesses at the next tokens: what followed the same words earlier in the text
 * ("prompt lookup", Saxena 2023).
 *
 * A guess costs nothing but the rows of the step that checks it.  It is one definite token
 * per place, so that drawing from the model's own distribution and keeping the guess while
 * it equals the draw is exact rejection sampling: it is accepted with the probability the
 * model gives it, and what replaces it has the distribution of the rest. */
#ifndef FL_ENGINE_NGRAM_H
#define FL_ENGINE_NGRAM_H

#include "engine/sampler.h"

typedef struct fl_ngram {
    int64_t min, max; /* tokens that must, and at most need, be equal; 1 <= min <= max */
} fl_ngram;

/* Up to n tokens that may follow the history, into out; how many.  The longest match wins,
 * among equal ones the latest; a match near the end goes on into its own guess. */
int64_t fl_ngram_guess(const fl_ngram *g, const fl_history *h, int32_t *out, int64_t n);

#endif
