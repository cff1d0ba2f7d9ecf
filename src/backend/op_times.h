/* op_times.h - how long each op of a backend takes: a backend that passes every call on to
 * another one and keeps count.  It records no steps and leaves the choice of tokens to the
 * host.  It waits after each op, so that what is counted is that op's;
 * a device that works asynchronously loses what it would have overlapped. */
#ifndef FL_BACKEND_OP_TIMES_H
#define FL_BACKEND_OP_TIMES_H

#include "backend/backend.h"

typedef struct fl_op_time {
    const char *op; /* "linear"                                                          */
    int64_t n, k;   /* of a linear or embed, its shape; else 0                            */
    fl_dtype dtype; /* of its weight; else FL_DTYPE_NONE                                  */
    uint64_t calls, rows;
    double seconds;
    /* What the op must at least read and write once (weights as packed, activations, the
     * cache of every sequence), and its multiplications and additions (linear, attend). */
    double bytes, flops;
} fl_op_time;

/* Replaces *ops and *be, which is then owned by what replaces it. */
int fl_op_times_begin(const fl_backend_ops **ops, fl_backend **be, fl_err *err);
/* Entry i since the last reset, in the order of first use; false past the last. */
bool fl_op_times_get(const fl_backend *be, int i, fl_op_time *out);
void fl_op_times_reset(fl_backend *be);

#endif
