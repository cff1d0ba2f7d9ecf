/* holders.h - who has the pages of a model's KV pool: engines, and sequences that a program feeds by
 * hand.  They share one pool, so each must be able to say whom it waits for, and an engine that has
 * waited longer must get what others give back before they take it again.  Thread-safe. */
#ifndef FL_MODEL_HOLDERS_H
#define FL_MODEL_HOLDERS_H

#include <stdatomic.h>

#include "model/sequence.h"

/* An engine, from join to leave. */
typedef struct fl_holder {
    /* Called with the model's lock held when another one claims pages while `unread` says that this
     * one sleeps on pages that it would give up. */
    void (*wanted)(void *ctx);
    void *ctx;
    atomic_bool unread;
    /* The model's: */
    int64_t claim;   /* pages it waits for, beyond those it has; 0: none */
    uint64_t ticket; /* of the claim: lower is older */
    struct fl_holder *next;
} fl_holder;

void fl_holder_join(fl_model *m, fl_holder *h);  /* zero but for wanted and ctx */
void fl_holder_leave(fl_model *m, fl_holder *h); /* its sequences are closed */
/* Count the pages of s, and of what is forked from it, as those of h. */
void fl_holder_adopt(fl_holder *h, fl_sequence *s);

/* Wait for so many pages more (0: no longer); a claim that goes on keeps its age.  Pages in all that
 * others have claimed before: they are not for h, even when they are free.  What sequences of the
 * program hold nobody can wait for, so claims that cannot be met for their sake do not count. */
int64_t fl_holder_claim(fl_model *m, fl_holder *h, int64_t pages);

typedef struct fl_holdings { /* pages; one that several kinds share counts as the first of these */
    int64_t pages, free;
    int64_t own;       /* of the holder that asks */
    int64_t engines;   /* of the others */
    int64_t sequences; /* fed by hand */
    int64_t n_sequences;
} fl_holdings;
void fl_holdings_get(fl_model *m, const fl_holder *own, fl_holdings *out);

#endif
