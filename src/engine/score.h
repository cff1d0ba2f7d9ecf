/* score.h - how likely a text is, token by token. */
#ifndef FL_ENGINE_SCORE_H
#define FL_ENGINE_SCORE_H

#include "model/sequence.h"

/* Append ids to the sequence, as fl_sequence_feed does, and tell for all i logprob[i] = log p(ids[i]
 * | everything before it) and whether that id was the most likely one (greedy, may be NULL).
 * The numbers are those of a request's logprobs, bit for bit.  The first id of an empty sequence has
 * logprob 0, there being nothing to predict it from. */
int fl_score(fl_sequence *s, const int32_t *ids, int64_t n, float *logprob, bool *greedy,
             fl_err *err);

#endif
