/* dummy_checkpoint.h - the tensors that a checkpoint of a configuration would have, with random
 * values: to measure speed and memory of a shape whose weights are not at hand.
 *
 * Weights are normally distributed with standard deviation 0.02, E4M3 codes use their whole range
 * as quantized ones do, scales fit them; norms are 1, biases 0.  2:4 is stored dense.  All weights
 * of a kind show the same few megabytes again and again, so no copy of the model exists. */
#ifndef FL_FORMATS_DUMMY_CHECKPOINT_H
#define FL_FORMATS_DUMMY_CHECKPOINT_H

#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"

/* name: what fl_checkpoint_dir returns.  plan says which flavour the linears of the layers have;
 * embeddings and head are plain, in config->dtype. */
int fl_checkpoint_dummy(fl_checkpoint **out, const char *name, const fl_config *config,
                        const fl_quant_plan *plan, fl_err *err);

#endif
