/* draws.h - rows of a step that become tokens on the device: their parameters go there before the
 * rows are computed, and only tokens come back. */
#ifndef FL_MODEL_DRAWS_H
#define FL_MODEL_DRAWS_H

#include "model/model_priv.h"
#include "model/step.h"

/* Before row j of n is computed for entry[j]: what the device needs to draw it, if it can.  Rows up
 * to `rows` are nobody's. */
int fl_draws_write(fl_model *m, const fl_step_entry *const *entry, int64_t n, int64_t rows,
                   fl_err *err);
/* Some row of those written last is drawn. */
bool fl_draws_any(const fl_model *m);
/* Rows [0, rows) of scratch.logits; a forward op. */
int fl_draws_run(fl_model *m, int64_t rows, fl_err *err);
/* The tokens of rows [0, n) into m->step.sampled; of a row that was not drawn, an id below 0. */
int fl_draws_read(fl_model *m, int64_t n, fl_err *err);

#endif
