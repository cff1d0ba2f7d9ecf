/* hf_config.h - config.json and generation_config.json of a Llama. */
#ifndef FL_FORMATS_HF_CONFIG_H
#define FL_FORMATS_HF_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "util/dtype.h"
#include "util/err.h"

enum { FL_MAX_EOS = 16 };

typedef enum { FL_ROPE_DEFAULT, FL_ROPE_LINEAR, FL_ROPE_LLAMA3 } fl_rope_type;

typedef struct fl_rope_config {
    fl_rope_type type;
    double theta;
    double factor;                            /* LINEAR, LLAMA3 */
    double low_freq_factor, high_freq_factor; /* LLAMA3 */
    int64_t original_max_position;            /* LLAMA3 */
} fl_rope_config;

typedef struct fl_config {
    char architecture[64]; /* the first of architectures */
    int64_t vocab_size;    /* V */
    int64_t hidden_size;   /* D */
    int64_t ffn_size;      /* F, intermediate_size */
    int64_t n_layers, n_heads, n_kv_heads;
    int64_t head_dim; /* E; may differ from hidden_size / n_heads */
    int64_t max_position;
    double rms_norm_eps;
    fl_rope_config rope;
    bool tied;                     /* tie_word_embeddings */
    bool attention_bias, mlp_bias; /* attention_bias: q, k, v and o */
    fl_dtype dtype;                /* torch_dtype: BF16, F16 or F32 */
    bool dtype_of_weights;         /* torch_dtype is absent or "auto": dtype is F32 until
                                      fl_inventory_take has seen the weights */
    int32_t bos_id, pad_id;        /* -1: none */
    int32_t eos_ids[FL_MAX_EOS];   /* union of config.json and generation_config.json */
    int n_eos;
} fl_config;

/* Sampling defaults; has_* false: the key is absent. */
typedef struct fl_generation_config {
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, max_new_tokens;
    bool has_temperature, has_top_p, has_min_p, has_repetition_penalty, has_top_k,
        has_max_new_tokens;
    bool do_sample, has_do_sample;
} fl_generation_config;

/* Reads dir/config.json and, when present, dir/generation_config.json.  Every size is
 * checked against a stated maximum; another architecture, activation or RoPE type is
 * FL_E_UNSUPPORTED by name.  Values that no generation depends on (bos, pad, defaults of
 * sampling) are ignored with a warning where they make no sense. */
int fl_config_load(fl_config *out, fl_generation_config *gen, const char *dir, fl_err *err);

/* The same from the text of a config.json alone; `name` opens the messages. */
int fl_config_parse(fl_config *out, const char *text, const char *name, fl_err *err);

#endif
