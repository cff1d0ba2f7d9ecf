/* step.h - one forward pass over the next tokens of several sequences. */
#ifndef FL_MODEL_STEP_H
#define FL_MODEL_STEP_H

#include "model/sequence.h"

enum { FL_STEP_EDITS = 1 << 15 }; /* of all draws of a step; those beyond are not drawn */

/* How the one row an entry wants may become a token on the device (backend/sample.h). */
typedef struct fl_step_draw {
    fl_sample_row row;           /* first_edit is the step's own                           */
    const fl_sample_edit *edits; /* [row.n_edits]                                          */
    const uint32_t *allowed;     /* row.masked: bits of ids, [n_allowed]; those beyond are 0 */
    int32_t n_allowed;
} fl_step_draw;

/* The logits after row i of an entry.  An entry's rows come in order; those of others may come at
 * the same time on other threads, of which 0 <= member < fl_step_members is one. */
typedef void (*fl_step_row_fn)(void *ctx, int member, int64_t i, const float *logits);

typedef struct fl_step_entry {
    fl_sequence *seq;   /* each at most once in a step                                    */
    const int32_t *ids; /* [n] tokens to append                                           */
    int64_t n;          /* >= 1                                                           */
    int64_t first_row;  /* rows first_row .. n-1 are given to on_row; n = none            */
    fl_step_row_fn on_row;
    void *ctx;
    /* NULL, or first_row is n - 1 and on_sampled gets the token in place of on_row, unless the
     * device cannot draw it (or finds that no token is left): then on_row gets its logits. */
    const fl_step_draw *draw;
    void (*on_sampled)(void *ctx, const fl_sampled *token);
} fl_step_entry;

/* Appends every entry's ids to its sequence, or, on failure, none.  All sequences belong
 * to m; at most fl_step_max_rows tokens in all and fl_step_max_seqs entries.  FL_E_ARG: id
 * outside the vocabulary, closed sequence; FL_E_LIMIT: context or KV pool full; FL_E_DEVICE: the
 * device has failed, and every later step of m says the same.  err is not NULL.  *rows_s (may be
 * NULL): seconds in which rows were with on_row and on_sampled. */
int fl_step(fl_model *m, const fl_step_entry *e, int64_t n, double *rows_s, fl_err *err);
int fl_step_members(const fl_model *m); /* >= 1 */

/* For a scheduler: the pool, pages a sequence holds, and whether the page its next token goes
 * to is shared (and will be copied). */
typedef struct fl_step_pool {
    int64_t pages, free_pages;
    uint64_t prefix_queries, prefix_hits; /* pages looked for, found */
} fl_step_pool;
void fl_step_pool_get(fl_model *m, fl_step_pool *out);
void fl_step_pages_of(const fl_sequence *s, int64_t *held, bool *shared_tail);

bool fl_step_draws(const fl_model *m); /* the device can */
int64_t fl_step_max_rows(const fl_model *m);
int64_t fl_step_max_seqs(const fl_model *m);
/* Make room for more sequences in a step (they start at 1).  Not during a step. */
int fl_step_reserve_seqs(fl_model *m, int64_t n, fl_err *err);

#endif
