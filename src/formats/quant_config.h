/* quant_config.h - how a checkpoint says it was quantized, as one plan.
 *
 * Whether one linear is quantized is decided by its tensors' dtype (E4M3 with a scale,
 * linear_source.h), never by ignore lists; the plan only tells the activation scheme and
 * cross-checks. */
#ifndef FL_FORMATS_QUANT_CONFIG_H
#define FL_FORMATS_QUANT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "util/dtype.h"
#include "util/err.h"

typedef enum {
    FL_QUANT_NONE,
    FL_QUANT_AUTOFP8,            /* quant_method "fp8" */
    FL_QUANT_COMPRESSED_TENSORS, /* quant_method "compressed-tensors" */
    FL_QUANT_MODELOPT,           /* hf_quant_config.json or quant_method "modelopt" */
    FL_QUANT_FBGEMM,             /* quant_method "fbgemm_fp8" */
    FL_QUANT_QUARK,              /* quant_method "quark" */
} fl_quant_flavour;

typedef struct fl_quant_rules fl_quant_rules; /* quant_rules.h */

typedef struct fl_quant_plan {
    fl_quant_flavour flavour;
    fl_act_scheme act;        /* of quantized linears; with rules that of the first */
    int64_t block_n, block_k; /* block scales, block_k 128; 0: per tensor or per row */
    float act_scale_ub;       /* FBGEMM; 0: none */
    bool kv_fp8;              /* the checkpoint declares an FP8 KV cache */
    bool sparse24;            /* the checkpoint declares 2:4 sparsity */
    bool frozen;              /* weights are stored plain beside their scales: made E4M3 at load */
    bool mixed;               /* linears differ in how their inputs are quantized */
    fl_quant_rules *rules;    /* NULL: all linears are alike */
} fl_quant_plan;

/* From dir/config.json (and side files).  A scheme we do not run is FL_E_UNSUPPORTED
 * with its name, unless it concerns no linear.  Free with fl_quant_plan_free. */
int fl_quant_plan_load(fl_quant_plan *out, const char *dir, fl_err *err);
/* The same from the text of a config.json alone; `name` opens the messages. */
int fl_quant_plan_parse(fl_quant_plan *out, const char *text, const char *name, fl_err *err);
void fl_quant_plan_free(fl_quant_plan *p);

/* The plan for one linear: act, blocks, bounds and `frozen` are its own.  flavour FL_QUANT_NONE:
 * nothing is said of it, its scales show the scheme.  `rules` stays the plan's. */
fl_quant_plan fl_quant_plan_of(const fl_quant_plan *p, const char *module);
const char *fl_quant_flavour_name(fl_quant_flavour f); /* "autofp8", "none", ... */

#endif
