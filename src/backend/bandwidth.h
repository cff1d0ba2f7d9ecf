/* bandwidth.h - the roofs of this machine's processors and devices: how fast they read memory,
 * which bounds decoding, and how fast they multiply, which bounds prompts and large batches. */
#ifndef FL_BACKEND_BANDWIDTH_H
#define FL_BACKEND_BANDWIDTH_H

#include <stdint.h>

#include "backend/backend.h"

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

/* The same of an open backend, through its ops, the best of several passes over at least a quarter
 * of a second each.  Bandwidth: what `copy` reads and writes of two buffers of `bytes`.  Peak:
 * multiplications and additions of `linear` on [size,size] weights of E4M3 (one static scale) or
 * BF16 and `size` rows, for which the backend must have been opened; size is a multiple of 16.
 * FL_E_ARG for other sizes, FL_E_NOMEM, FL_E_DEVICE. */
enum { FL_DEVICE_PEAK_MAX = 16384 };
int fl_device_bandwidth(double *bytes_per_second, const fl_backend_ops *ops, fl_backend *be,
                        uint64_t bytes, fl_err *err);
int fl_device_flop_peak(double *flops, const fl_backend_ops *ops, fl_backend *be, fl_dtype dtype,
                        int64_t size, fl_err *err);

#endif
