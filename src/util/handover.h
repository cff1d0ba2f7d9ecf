/* handover.h - what it costs that one thread wakes another and sleeps until it is woken by it. */
#ifndef FL_UTIL_HANDOVER_H
#define FL_UTIL_HANDOVER_H

#include "util/err.h"

typedef struct fl_handover {
    int rounds;    /* >= 1 */
    double work_s; /* what the woken thread computes before it hands back, while the other sleeps */
} fl_handover;

/* Processor seconds of both threads together for one hand-over and the one back, the mean of all
 * rounds and without the work: nothing but a lock, a flag and two condition variables.  The
 * scheduler puts threads on one core or two, which differs much, by how long they work and sleep. */
int fl_handover_cost(double *out, const fl_handover *h, fl_err *err);

#endif
