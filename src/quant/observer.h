/* observer.h - scales and E4M3 codes of weights: what each scale covers, how it is chosen, in
 * which arithmetic, and 2:4 pruning on the way. */
#ifndef FL_QUANT_OBSERVER_H
#define FL_QUANT_OBSERVER_H

#include <stdbool.h>

#include "formats/safetensors.h"
#include "util/thread.h"

enum { FL_QUANT_BLOCK = 128 }; /* rows and columns of a block; those at the edge may be smaller */

typedef enum { FL_GRAIN_TENSOR, FL_GRAIN_CHANNEL, FL_GRAIN_BLOCK } fl_grain;

/* F32: scale = amax / 448, code = e4m3(w / scale); one rounding each.
 * The other two repeat the BF16 steps of a tool for BF16 weights, bit for bit:
 * AUTOFP8: m = bf16(bf16(1 / amax) * 448), code = e4m3(bf16(w * m)), scale = f32(1) / m;
 * COMPRESSED_TENSORS: scale = bf16(amax / 448), code = e4m3(bf16(w / scale)). */
typedef enum {
    FL_ARITHMETIC_F32,
    FL_ARITHMETIC_AUTOFP8,
    FL_ARITHMETIC_COMPRESSED_TENSORS,
} fl_arithmetic;

typedef struct fl_weight {
    const fl_st_tensor *tensor; /* [n,k] BF16, F16 or F32                                     */
    fl_grain grain;
    fl_arithmetic arithmetic;
    bool mse;           /* the scale p * amax / 448, p = 1, 0.99, ... 0.21, with the smallest
                           sum of |error|^2.4 (llm-compressor 0.3), instead of p = 1          */
    bool prune;         /* of every four neighbours in a row the two with the smaller scores
                           become 0: |w| * sqrt(sumsq of the column) (Wanda), or |w|          */
    const float *sumsq; /* [k], or NULL: |w| */
} fl_weight;

/* How many scales there are, as rows and columns: [1,1], [n,1] or [blocks,blocks]. */
void fl_weight_scale_shape(int64_t dim[2], const fl_weight *w);

/* Scale of a weight or of an input whose largest magnitude is amax. */
float fl_arithmetic_scale(fl_arithmetic a, float amax);
/* n codes of values that share a scale; x and codes may not overlap. */
void fl_arithmetic_encode(fl_arithmetic a, uint8_t *codes, const float *x, int64_t n, float scale);

/* FL_E_UNSUPPORTED: dtype or shape that this cannot be done to; FL_E_FORMAT: NaN or infinity. */
int fl_weight_measure(float *scales, const fl_weight *w, fl_team *team, fl_err *err);

/* codes: [n,k] E4M3, saturating.  scales: of fl_weight_measure. */
void fl_weight_encode(uint8_t *codes, const fl_weight *w, const float *scales, fl_team *team);

#endif
