/* sparse24.h - 2:4 sparsity: at most two of every four neighbouring values of a row are not
 * zero, and the bytes of the sparse-24-bitmask layout.
 *
 * Bitmask of a row of k values: bit c%8 of byte c/8 (lowest first) is 1 when value c is kept;
 * each nibble has exactly two bits.  Compressed: the kept values in column order, k/2 of them.
 * A kept value may be zero: groups with fewer than two others are filled up.  k is a multiple
 * of 4; the last nibble of an odd number of groups is 0.  Example: [0,a,0,b,c,0,0,d] -> 0x9A and a,b,c,d. */
#ifndef FL_FORMATS_SPARSE24_H
#define FL_FORMATS_SPARSE24_H

#include <stdbool.h>
#include <stdint.h>

#include "util/dtype.h"

/* The first group of four in n values (a multiple of 4; E4M3, BF16, F16 or F32, any alignment)
 * with more than two that are not +0 or -0; -1: none. */
int64_t fl_sparse24_first_break(const void *values, fl_dtype t, int64_t n);

/* One row of k values -> k/2 values and k/8 bytes.  False: the row breaks the pattern. */
bool fl_sparse24_pack(void *kept, uint8_t *bitmask, const void *row, fl_dtype t, int64_t k);

/* And back, +0 where nothing was kept.  False: a nibble does not have two bits. */
bool fl_sparse24_unpack(void *row, const void *kept, const uint8_t *bitmask, fl_dtype t, int64_t k);

#endif
