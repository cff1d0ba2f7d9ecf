/* share.h - the engine's time divided between keys: whose turn it is.
 *
 * Each key that has requests here has a share; requests of nobody have one together.  A share
 * counts the tokens that steps have run for it, and whoever has had fewest comes first.  One that
 * arrives begins with as many as the least served has had: what was not used is not saved up.
 * Private to src/engine; with the engine's lock held. */
#ifndef FL_ENGINE_SHARE_H
#define FL_ENGINE_SHARE_H

#include "engine/request.h"

typedef struct fl_share {
    struct fl_share *next;
    int64_t n_requests; /* in the queue or active */
    int64_t n_queued;   /* completions of those not begun */
    double served;      /* tokens */
    int64_t number;     /* while a step is scheduled: which it is, */
    int64_t n_listed;   /* and how many of its completions have their place */
    size_t len;
    char name[];
} fl_share;

/* The share of a key, with one more request; NULL: no memory. */
fl_share *fl_share_enter(fl_engine *e, const fl_text *key);
void fl_share_leave(fl_engine *e, fl_share *s); /* one request fewer; without any it ends */

/* Puts the n completions, which are in the order of priority and arrival, in that in which they
 * are served: first the first of each key, the least served key before the others, then the second
 * of each, and so on.  One key's order stays as it is. */
void fl_share_order(fl_engine *e, fl_choice **list, int64_t n);

#endif
