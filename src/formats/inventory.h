/* inventory.h - what becomes of every tensor of a checkpoint.
 *
 * A tensor is read by the loader, known not to be needed, or told of, as transformers tells of
 * it and goes on; one that would change results in a way that is not made here is refused. */
#ifndef FL_FORMATS_INVENTORY_H
#define FL_FORMATS_INVENTORY_H

#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"

typedef enum {
    FL_TENSOR_READ,
    FL_TENSOR_UNNEEDED, /* `why` says what makes up for it */
    FL_TENSOR_IGNORED,  /* `why` says what is missing for it */
    FL_TENSOR_REFUSED,
} fl_tensor_use;

/* *why: a phrase that lives for ever; NULL for tensors that are read.  Looks into biases, zero
 * points and scales, which may be there and neutral, never into weights. */
fl_tensor_use fl_tensor_use_of(const fl_checkpoint *ck, const fl_config *c,
                               const fl_quant_plan *plan, const fl_st_tensor *t, const char **why);

/* Whether nobody needs a tensor of this name, in whatever model. */
bool fl_tensor_unneeded(const char *name);

/* Settles what only the tensors show: which of embedding and head a tied model stores, the type of
 * a model that leaves it to the weights, and that keys and values stay BF16 (kv_fp8 becomes
 * false) where their scales are of a kind that is not made.  Then FL_E_UNSUPPORTED for the
 * first tensor that is refused, and a warning for each reason that others are ignored. */
int fl_inventory_take(fl_checkpoint *ck, fl_config *c, fl_quant_plan *plan, fl_err *err);

#endif
