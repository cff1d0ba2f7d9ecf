/* sequence_priv.h - the inside of fl_sequence, for src/model only. */
#ifndef FL_MODEL_SEQUENCE_PRIV_H
#define FL_MODEL_SEQUENCE_PRIV_H

#include "model/holders.h"
#include "model/model_priv.h"
#include "model/sequence.h"

struct fl_sequence {
    atomic_int refs;
    fl_model *model;
    int32_t *ids;    /* [model context]                                         */
    int32_t *pages;  /* [pages of the context] page table                       */
    uint64_t *chain; /* [pages of the context + 1] hash of the tokens before page i */
    float *logits;   /* [V], from the first feed on                             */
    int64_t length, n_pages, prompt_length;
    int64_t n_pages_before; /* of the running step: what a failure goes back to */
    int64_t logits_at;      /* the length `logits` belongs to; 0: none              */
    bool closed;
    const fl_holder *holder;    /* NULL: a program feeds it by hand */
    fl_sequence *newer, *older; /* in the model's list */
};

void fl_sequence_enlist(fl_sequence *s); /* join and leave that list; with the lock held */
void fl_sequence_delist(fl_sequence *s);
/* fl_holdings_get with the lock held. */
void fl_holdings_look(const fl_model *m, const fl_holder *own, fl_holdings *out);

/* All three: the caller holds the model's lock. */

/* Pages for n tokens after the present length; the page they begin in is copied when it is
 * shared.  FL_E_LIMIT: no free page; what was reserved until then stays. */
int fl_sequence_reserve(fl_sequence *s, int64_t n, fl_err *err);
/* Give back the pages beyond the first `keep`. */
void fl_sequence_drop_pages(fl_sequence *s, int64_t keep);
/* n more tokens have their keys and values in the pages. */
void fl_sequence_extend(fl_sequence *s, const int32_t *ids, int64_t n);

#endif
