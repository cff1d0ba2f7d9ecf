/* observe.h - calibration: measurements of a layer's activations, taken inside a step.
 * Without fl_model_observe_begin the calls of a step do nothing. */
#ifndef FL_MODEL_OBSERVE_H
#define FL_MODEL_OBSERVE_H

#include "model/model_priv.h"

/* x: [T,K] as the linears of `input` read it, x->x before FP8 and x->q for `next`. */
int fl_observe_input(fl_model *m, int64_t layer, fl_observed input, fl_act *x,
                     const fl_linear *next, fl_err *err);

/* Keys and values of a step; r is what rope_store is about to get. */
int fl_observe_kv(fl_model *m, int64_t layer, const fl_rope *r, const fl_batch *b, fl_err *err);

bool fl_observing(const fl_model *m);
void fl_observe_free(fl_model *m);

#endif
