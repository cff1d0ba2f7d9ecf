/* linear_source.h - one linear of a checkpoint, whatever the flavour calls its tensors and
 * however they are stored.
 *
 * Scales of any float dtype and of shape [], [1], [n], [n,1], [blocks of rows, blocks of columns]
 * or, where linears are stored fused, one for each of them, become f32 for every row. */
#ifndef FL_FORMATS_LINEAR_SOURCE_H
#define FL_FORMATS_LINEAR_SOURCE_H

#include "formats/checkpoint.h"
#include "formats/quant_config.h"

/* What config.json makes of one linear. */
typedef struct fl_linear_want {
    const char *module; /* "model.layers.0.self_attn.q_proj" */
    int64_t n, k;
    const char *bias_key; /* of config.json, when it requires a bias */
    bool no_bias;         /* one that is there all the same is not the model's */
    /* Where the rows lie when there is no such module: in `fused` ("...qkv_proj") of fused_n
     * rows, from fused_row on, as number `part` of `parts`.  NULL: nowhere. */
    const char *fused;
    int64_t fused_row, fused_n;
    int part, parts;
} fl_linear_want;

typedef struct fl_linear_source {
    const char *file, *name; /* of the tensor with the weight's values, for messages */
    const uint8_t *data; /* [n,k] row-major, any alignment; in the checkpoint's mapping or owned */
    fl_dtype dtype;      /* E4M3, BF16, F16 or F32 */
    int64_t n, k;
    int64_t w_block;   /* columns that share a scale: 128, or 0 = all k */
    float *w_scale;    /* [n, ceil(k / w_block)], real = code * w_scale; NULL unless E4M3 */
    bool sparse24;     /* 2:4 by the way it is stored, or declared so: then yet to be checked */
    float *bias;       /* [n] f32 or NULL */
    fl_act_scheme act; /* NONE unless E4M3 */
    float x_scale;     /* FL_ACT_STATIC */
    float x_scale_ub;  /* 0: none */
    void *owned;       /* data, when it had to be made */
    size_t owned_bytes;
} fl_linear_source;

/* Checks shapes against n and k, scales for NaN, infinity, zero and sign, E4M3 data for NaN
 * codes (one pass over the weight).  Compressed weights are unpacked, and those of a plan with
 * `frozen` made E4M3 by their scales.  A bias is read when the checkpoint has one.  Free with
 * fl_linear_source_free. */
int fl_linear_source_open(fl_linear_source *out, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const fl_linear_want *want, fl_err *err);
void fl_linear_source_free(fl_linear_source *s);

/* The spellings of scales below a linear, and those of the KV cache and of offsets that an affine
 * cache has below "...self_attn"; the first that is there counts.  NULL ends each. */
extern const char *const fl_weight_scale_names[], *const fl_input_scale_names[];
extern const char *const fl_k_scale_names[], *const fl_v_scale_names[];
extern const char *const fl_kv_offset_names[];

/* KV scales of one layer under every known spelling; 1 when absent, the other one's
 * when only one is there.  *found false: the layer has none above 0.  FL_E_UNSUPPORTED: a scale
 * for each head, or offsets that are not 0. */
int fl_kv_scales_read(float *k_scale, float *v_scale, bool *found, const fl_checkpoint *ck,
                      int64_t layer, fl_err *err);

#endif
