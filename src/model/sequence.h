/* sequence.h - one growing list of tokens and its pages of the KV cache. */
#ifndef FL_MODEL_SEQUENCE_H
#define FL_MODEL_SEQUENCE_H

#include "model/kv.h"
#include "model/model.h"

typedef struct fl_sequence fl_sequence;

/* Reference-counted; holds a reference on the model until it is closed.  close gives the pages back
 * at once (feeding is then FL_E_ARG); ids and logits stay readable until the last unref. */
int fl_sequence_new(fl_sequence **out, fl_model *m, fl_err *err);
fl_sequence *fl_sequence_ref(fl_sequence *s);
void fl_sequence_unref(fl_sequence *s);
void fl_sequence_close(fl_sequence *s);
/* A second sequence with the same history; pages are shared until one of them writes. */
int fl_sequence_fork(fl_sequence **out, fl_sequence *s, fl_err *err);
/* Keep the first n tokens, 0 <= n <= length. */
int fl_sequence_rewind(fl_sequence *s, int64_t n, fl_err *err);
int64_t fl_sequence_length(const fl_sequence *s);
/* Tokens of the first feed, which penalties treat as the prompt; the rest is output. */
int64_t fl_sequence_prompt_length(const fl_sequence *s);
const int32_t *fl_sequence_ids(const fl_sequence *s); /* length ids; valid until the next call */
fl_model *fl_sequence_model(const fl_sequence *s);    /* borrowed; NULL: closed */

typedef struct fl_prefix { /* what a sequence begins with */
    const int32_t *ids;    /* [n] */
    int64_t n;
    const void *salt; /* only pages made under the same one are shared */
    size_t salt_len;
    /* Not NULL: only pages with scores of at least n_top alternatives will do, and the last
     * token found is left to run again, for the scores of the next one.  Called for each page
     * with the position of its first token, with the model's lock held. */
    void (*on_scores)(void *ctx, int64_t position, const fl_kv_scores *scores);
    void *ctx;
    int32_t n_top;
} fl_prefix;
/* Give an empty sequence the cached pages that the prefix begins with; returns how many of
 * its tokens need not run, less than n.  feed does this itself, with an empty salt. */
int64_t fl_sequence_adopt(fl_sequence *s, const fl_prefix *p);
/* Keep scores with full page i of the sequence while it can be found; taken over. */
void fl_sequence_score_page(fl_sequence *s, int64_t i, fl_kv_scores *scores);

/* Append n >= 1 ids and compute the logits after the last one.  On failure the sequence
 * is as before.  FL_E_ARG: id outside the vocabulary; FL_E_LIMIT: context or KV pool full.
 * *logits: [vocab] f32, owned by the sequence, overwritten by its next feed. */
int fl_sequence_feed(fl_sequence *s, const int32_t *ids, int64_t n, const float **logits,
                     fl_err *err);
/* Receives the logits of row i, V floats, valid during the call.  Called on the thread that runs
 * the step, with the model's lock held: no call into the model. */
typedef void (*fl_row_fn)(void *ctx, int64_t i, const float *logits);
/* Like feed, and hands out what predicts each id: on_row(ctx, i, logits before ids[i]).
 * The first id of an empty sequence is predicted by nothing. */
int fl_sequence_feed_rows(fl_sequence *s, const int32_t *ids, int64_t n, fl_row_fn on_row,
                          void *ctx, fl_err *err);

#endif
