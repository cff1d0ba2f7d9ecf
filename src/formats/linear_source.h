/* linear_source.h - one linear of a checkpoint, whatever the flavour calls its tensors.
 *
 * Scales of any float dtype and of shape [], [1], [n] or [n,1] become one f32 per row. */
#ifndef FL_FORMATS_LINEAR_SOURCE_H
#define FL_FORMATS_LINEAR_SOURCE_H

#include "formats/checkpoint.h"
#include "formats/quant_config.h"

typedef struct fl_linear_source {
    const fl_st_tensor *weight; /* [n,k] E4M3, BF16, F16 or F32 */
    float *w_scale;             /* [n] f32, real = code * w_scale; NULL unless E4M3 */
    float *bias;                /* [n] f32 or NULL */
    fl_act_scheme act;          /* NONE unless E4M3 */
    float x_scale;              /* FL_ACT_STATIC */
    float x_scale_ub;           /* 0: none */
} fl_linear_source;

/* module: "model.layers.0.self_attn.q_proj".  Checks shapes against n and k, scales for
 * NaN, infinity, zero and sign, E4M3 data for NaN codes (one pass over the weight).  A
 * bias is read when the checkpoint has one.  Free with fl_linear_source_free. */
int fl_linear_source_open(fl_linear_source *out, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const char *module, int64_t n, int64_t k, fl_err *err);
void fl_linear_source_free(fl_linear_source *s);

/* KV scales of one layer under every known spelling; 1 when absent, the other one's
 * when only one is there. */
int fl_kv_scales_read(float *k_scale, float *v_scale, const fl_checkpoint *ck, int64_t layer,
                      fl_err *err);

/* Log what the plan and the tensors disagree about; each kind once.  The tensors win. */
void fl_quant_cross_check(const fl_checkpoint *ck, const fl_quant_plan *plan);

#endif
