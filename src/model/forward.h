/* forward.h - the transformer as a list of backend ops.  The caller holds the model's
 * lock and has written the batch into the scratch tensors. */
#ifndef FL_MODEL_FORWARD_H
#define FL_MODEL_FORWARD_H

#include "model/model_priv.h"

/* All layers and the final norm: scratch.normed.x [T,D] holds the result. */
int fl_forward_layers(fl_model *m, const fl_batch *b, fl_err *err);

/* Head of n <= scratch.logit_rows of those rows: scratch.logits [n, head rows] f32. */
int fl_forward_head(fl_model *m, const fl_batch *b, const int32_t *rows, int64_t n, fl_err *err);

/* The same of all rows of the batch, without a list of them: forward ops only. */
int fl_forward_head_all(fl_model *m, const fl_batch *b, fl_err *err);

#endif
