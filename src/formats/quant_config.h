/* quant_config.h - how a checkpoint says it was quantized, as one plan.
 *
 * Whether one linear is quantized is decided by its tensors' dtype (E4M3 with a scale),
 * never by ignore lists; the plan only tells the activation scheme and cross-checks. */
#ifndef FL_FORMATS_QUANT_CONFIG_H
#define FL_FORMATS_QUANT_CONFIG_H

#include <stdbool.h>

#include "formats/checkpoint.h"
#include "util/err.h"

typedef enum {
    FL_QUANT_NONE,
    FL_QUANT_AUTOFP8,            /* quant_method "fp8" */
    FL_QUANT_COMPRESSED_TENSORS, /* quant_method "compressed-tensors" */
    FL_QUANT_MODELOPT,           /* hf_quant_config.json or quant_method "modelopt" */
    FL_QUANT_FBGEMM,             /* quant_method "fbgemm_fp8" */
} fl_quant_flavour;

typedef struct fl_quant_plan {
    fl_quant_flavour flavour;
    fl_act_scheme act;        /* of quantized linears */
    int64_t block_n, block_k; /* block scales; 0: per tensor or per row */
    float act_scale_ub;       /* FBGEMM; 0: none */
    bool kv_fp8;              /* the checkpoint declares an FP8 KV cache */
    bool sparse24;            /* the checkpoint declares 2:4 sparsity */
} fl_quant_plan;

/* From dir/config.json (and side files).  A scheme we do not run is FL_E_UNSUPPORTED
 * with its name. */
int fl_quant_plan_load(fl_quant_plan *out, const char *dir, fl_err *err);
const char *fl_quant_flavour_name(fl_quant_flavour f); /* "autofp8", "none", ... */

/* One linear of the checkpoint, whatever the flavour calls its tensors. */
typedef struct fl_linear_source {
    const fl_st_tensor *weight; /* [n,k] E4M3, BF16, F16 or F32 */
    float *w_scale;             /* [n] f32, real = code * w_scale; NULL unless E4M3 */
    float *bias;                /* [n] f32 or NULL */
    fl_act_scheme act;
    float x_scale;    /* FL_ACT_STATIC */
    float x_scale_ub; /* 0: none */
} fl_linear_source;

/* module: "model.layers.0.self_attn.q_proj".  Checks shapes against n and k, scales for
 * NaN, infinity, zero and sign, E4M3 data for NaN codes.  Free with fl_linear_source_free. */
int fl_linear_source_open(fl_linear_source *out, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const char *module, int64_t n, int64_t k, fl_err *err);
void fl_linear_source_free(fl_linear_source *s);

/* KV scales of one layer under every known spelling; 1 when absent. */
int fl_kv_scales_read(float *k_scale, float *v_scale, const fl_checkpoint *ck, int64_t layer,
                      fl_err *err);

#endif
