/* bandwidth.h - the roofs of this machine's processors: how fast they read memory, which
 * bounds decoding, and how fast they multiply, which bounds prompts and large batches. */
#ifndef FL_BACKEND_BANDWIDTH_H
#define FL_BACKEND_BANDWIDTH_H

#include <stdint.h>

#include "util/err.h"

enum { FL_BANDWIDTH_MIN = 1 << 20 }; /* below a mebibyte the time is mostly waking threads */

/* Bytes per second that `threads` threads (0: one per physical core) read sequentially, each
 * its own share of one buffer of `bytes`; the best of several passes over at least a quarter
 * of a second.  A buffer that fits the last-level cache measures that cache: give the number
 * of bytes that the program to be judged reads.
 * FL_E_ARG below FL_BANDWIDTH_MIN; FL_E_NOMEM. */
int fl_read_bandwidth(double *bytes_per_second, int threads, uint64_t bytes, fl_err *err);

/* Multiplications and additions a second that `threads` threads (0: one per physical core) make
 * together out of registers: f32 fused multiply-add or, where they are more, products of
 * BF16 pairs.  Half a second at most.  In src/cpu. */
int fl_flop_peak(double *flops, int threads, fl_err *err);

#endif
