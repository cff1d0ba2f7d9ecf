/* weights.h - the checkpoint's tensors, packed and fused for the backend. */
#ifndef FL_MODEL_WEIGHTS_H
#define FL_MODEL_WEIGHTS_H

#include "backend/backend.h"
#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"

/* Projections of one input, side by side in the output columns.  Normally one linear;
 * parts whose dtype, scheme or static input scale differ stay separate, so that no
 * weight is ever requantized. */
typedef struct fl_fused {
    fl_linear *lin[FL_MAX_LINEAR_PARTS];
    int64_t column[FL_MAX_LINEAR_PARTS]; /* first output column of lin[i] */
    int n;
} fl_fused;

typedef struct fl_layer {
    fl_tensor attn_norm, ffn_norm; /* [D] act dtype */
    fl_fused qkv;                  /* -> [T, (H+2G)*E] */
    fl_fused o;                    /* [T, H*E] -> [T,D] */
    fl_fused gate_up;              /* -> [T, 2F] */
    fl_fused down;                 /* [T,F] -> [T,D] */
} fl_layer;

typedef struct fl_weights {
    const fl_backend_ops *ops;
    fl_backend *be;
    fl_dtype act_dtype; /* BF16 or F16 */
    fl_linear *embed;   /* [V,D]; when tied also the head */
    fl_linear *head;    /* == embed when tied */
    fl_tensor norm;     /* [D] */
    fl_layer *layers;   /* [n_layers] */
    int64_t n_layers, n_parameters;
    uint64_t bytes;           /* packed */
    uint64_t bytes_per_token; /* read for one decoded token */
} fl_weights;

typedef struct fl_weights_request {
    const fl_backend_ops *ops;
    fl_backend *be;
    const fl_checkpoint *checkpoint;
    const fl_config *config;
    const fl_quant_plan *plan;
    void (*progress)(void *ctx, double fraction);
    void *progress_ctx;
} fl_weights_request;

/* Rows of the embedding or the head: vocab_size, or more when the tensor is padded. */
int64_t fl_vocab_rows(const fl_checkpoint *ck, const fl_config *c, const char *module);

/* On failure nothing is left allocated. */
int fl_weights_load(fl_weights *out, const fl_weights_request *r, fl_err *err);
void fl_weights_free(fl_weights *w);

#endif
