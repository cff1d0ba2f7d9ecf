/* scheduler.h - who runs in the next step: a pure function of the branches' state, with no
 * clock, no memory and no device, so that tests and simulations can drive it.
 *
 * Order: branches that decode one token first, then prompts in chunks, then admission of
 * waiting branches, each in the order given (the engine's is that of share.h).
 * Rows and pages that are left check guesses.  When the pool is full the last running branch
 * is preempted: it gives its pages back and waits to be computed again.  Where none is
 * behind, one whose reader lags leaves: else a caller that waits for another request before
 * it reads this one would wait for ever.
 *
 * Between shares: the first of those that wait takes the place of the last running branch of
 * a share that still has more than its own after that, in branches or in pages; and decodes of
 * other shares leave some rows to prompts before them. */
#ifndef FL_ENGINE_SCHEDULER_H
#define FL_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct fl_sched_item {
    int64_t share;    /* whose it is: any number for each key                         */
    bool running;     /* admitted: holds pages, counts against max_running           */
    bool parked;      /* waits for a policy: holds pages, gets no rows                */
    bool paused;      /* parked, and by its own reader: leaves when others need room    */
    int64_t length;   /* tokens in the cache                                          */
    int64_t pending;  /* known tokens that are not: 1 = decode, more = prompt; >= 1   */
    int64_t guesses;  /* rows it would like beside the one of a decode; taken if left  */
    int64_t pages;    /* held; those that only this branch holds come back            */
    bool shared_tail; /* the page its next token goes to must be copied first        */
    /* the answer */
    int64_t rows; /* of the next step; 0 = none                                      */
    bool preempt; /* give the pages back now                                         */
} fl_sched_item;

typedef struct fl_sched_limits {
    int64_t max_rows;    /* tokens of a step                                         */
    int64_t max_seqs;    /* branches of a step                                       */
    int64_t max_running; /* branches that may hold pages                             */
    int64_t free_pages;
    int64_t page_tokens;
} fl_sched_limits;

/* Fills rows and preempt.  items: in the order they should be served. */
void fl_schedule(fl_sched_item *items, int64_t n, const fl_sched_limits *limits);

#endif
