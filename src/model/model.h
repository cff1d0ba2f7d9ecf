/* model.h - a loaded Llama: weights, KV pool and the step function.
 *
 * A model is reference-counted.  One lock serialises steps: sequences of one model may
 * be used from several threads, each sequence from one at a time. */
#ifndef FL_MODEL_MODEL_H
#define FL_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/op_times.h"
#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"

typedef enum { FL_KV_AUTO, FL_KV_BF16, FL_KV_FP8 } fl_kv_choice;

typedef enum { FL_LOAD_FILES, FL_LOAD_DUMMY } fl_load_format;

typedef struct fl_model_options {
    const char *device;            /* "cpu", "cuda", "cuda:N", "auto" (NULL) = "cpu"              */
    const char *isa;               /* CPU instruction set, NULL = best                          */
    int threads;                   /* CPU; 0 = physical cores                                   */
    int64_t context;               /* longest sequence; 0 = min(max_position, 8192)             */
    int64_t kv_tokens;             /* tokens in the KV pool; 0 = context, on a GPU what fits      */
    double gpu_memory_utilization; /* part of a GPU's memory the model may take; 0 = 0.9  */
    int64_t max_step_rows;         /* rows of one step; 0 = 256                                 */
    fl_kv_choice kv;
    fl_load_format load_format; /* DUMMY: random weights (dummy_checkpoint.h), no weight files   */
    const char *config_json;    /* with DUMMY: a config.json's text; dir is then only a name     */
    bool no_prefix_cache;       /* full KV pages are not shared by later sequences           */
    bool batch_invariant;       /* as in fl_backend_params                                  */
    bool sparse_dense;          /* as in fl_backend_params                                  */
    bool no_graphs;             /* never record a step (graphs.h)                           */
    bool time_ops;              /* count the backend's ops; see fl_model_op_time             */
    void (*progress)(void *ctx, double fraction); /* may be NULL; called while loading  */
    void *progress_ctx;
} fl_model_options;

typedef struct fl_model fl_model;

int fl_model_load(fl_model **out, const char *dir, const fl_model_options *opt, fl_err *err);
fl_model *fl_model_ref(fl_model *m);
void fl_model_unref(fl_model *m);

const char *fl_model_dir(const fl_model *m);
const fl_config *fl_model_config(const fl_model *m);
const fl_generation_config *fl_model_generation_config(const fl_model *m);
const fl_quant_plan *fl_model_quant_plan(const fl_model *m);
const fl_checkpoint *fl_model_checkpoint(const fl_model *m);

typedef struct fl_model_info {
    fl_backend_info backend;
    uint64_t weight_bytes;    /* packed weights                                     */
    uint64_t kv_bytes;        /* KV pool                                            */
    uint64_t scratch_bytes;   /* activations of one step                            */
    uint64_t bytes_per_token; /* weights read for one decoded token (no KV)         */
    uint64_t memory_planned;  /* what loading was to take, and                      */
    uint64_t memory_budget;   /* could take: memory_plan.h                          */
    int64_t context, kv_tokens;
    int64_t kv_pages_free; /* unused, or kept only for later prefixes            */
    uint64_t prefix_queries, prefix_hits, prefix_evictions; /* pages                    */
    int64_t n_parameters;
    fl_dtype kv_dtype;
    const char *quantization; /* "autofp8 static", "none"                           */
} fl_model_info;
void fl_model_info_get(const fl_model *m, fl_model_info *out);

/* With time_ops: entry i of what the backend's ops took since the last reset (op_times.h),
 * false past the last.  Not during a step. */
bool fl_model_op_time(const fl_model *m, int i, fl_op_time *out);
void fl_model_op_times_reset(fl_model *m);

/* Calibration: what the steps since observe_begin have shown of each distinct input of a
 * layer's linears, and of what goes into the KV cache. */
typedef enum {
    FL_OBSERVED_QKV,                    /* input of q, k, v     */
    FL_OBSERVED_O,                      /* input of o           */
    FL_OBSERVED_GATE_UP,                /* input of gate, up    */
    FL_OBSERVED_DOWN,                   /* input of down        */
    FL_OBSERVED_INPUTS,                 /* end of the inputs    */
    FL_OBSERVED_K = FL_OBSERVED_INPUTS, /* keys as stored: after RoPE */
    FL_OBSERVED_V,
    FL_OBSERVED /* slots of a layer */
} fl_observed;

/* The sums of squares of a layer lie side by side: the first column of one input's;
 * FL_OBSERVED_INPUTS: columns of a layer. */
int64_t fl_observed_column(const fl_config *c, fl_observed input);

/* How the input of a static linear is quantized, for tools whose own arithmetic counts. */
typedef struct fl_input_rule {
    float (*scale_of)(float amax);
    void (*encode)(uint8_t *codes, const float *x, int64_t n, float scale);
} fl_input_rule;

/* rule NULL: linears compute as they do otherwise.  Else static inputs are quantized by the rule,
 * which is kept, with the scale of the largest magnitude seen so far, that of the step included. */
int fl_model_observe_begin(fl_model *m, const fl_input_rule *rule, fl_err *err);
/* Ends the observation.  On the host, f32: absmax [n_layers,FL_OBSERVED], the largest
 * magnitudes; sumsq [n_layers, columns], the sum of squares of every input channel. */
int fl_model_observe_end(fl_model *m, float *absmax, float *sumsq, fl_err *err);

#endif
