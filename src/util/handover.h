/* handover.h - what it costs that one thread wakes another and sleeps until it is woken by it. */
#ifndef FL_UTIL_HANDOVER_H
#define FL_UTIL_HANDOVER_H

#include "util/err.h"

/* Processor seconds of both threads together for one hand-over and the one back, the mean of
 * `rounds` >= 1: nothing but a lock, a flag and two condition variables. */
int fl_handover_cost(double *out, int rounds, fl_err *err);

#endif
