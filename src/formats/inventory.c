#include "formats/inventory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/linear_source.h"
#include "formats/stored_tensor.h"
#include "util/log.h"

enum { MAX_NAME = 512, MAX_REASONS = 32 };

typedef struct look { /* at one tensor */
    const fl_checkpoint *ck;
    const fl_config *c;
    const fl_quant_plan *plan;
    const fl_st_tensor *t;
    const char **why;
} look;

static fl_tensor_use say(const look *l, fl_tensor_use use, const char *why) {
    *l->why = why;
    return use;
}

/* What follows prefix in name; NULL: it does not begin so. */
static const char *after(const char *name, const char *prefix) {
    const size_t n = strlen(prefix);
    return strncmp(name, prefix, n) ? NULL : name + n;
}

static bool one_of(const char *word, const char *const *list) {
    for (; *list; list++)
        if (!strcmp(word, *list)) return true;
    return false;
}

static const fl_st_tensor *find(const fl_checkpoint *ck, const char *module, const char *leaf) {
    char name[MAX_NAME];
    int n = snprintf(name, sizeof(name), "%s.%s", module, leaf);
    return n > 0 && n < MAX_NAME ? fl_checkpoint_find(ck, name) : NULL;
}

/* Whether this leaf is the first of the spellings that the module has. */
static bool is_first(const look *l, const char *module, const char *leaf,
                     const char *const *spellings) {
    for (; *spellings; spellings++) {
        if (!strcmp(*spellings, leaf)) return true;
        if (find(l->ck, module, *spellings)) return false;
    }
    return false;
}

/* Every element has this value; false for types that have none. */
static bool all_are(const fl_st_tensor *t, float value) {
    const int64_t n = fl_st_numel(t);
    if (value == 0.0f) {
        unsigned any = 0, sign = t->dtype == FL_DTYPE_E4M3 ? 0x7f : 0xff;
        for (uint64_t i = 0; i < t->bytes; i++) any |= t->data[i] & sign;
        if (!any) return true;
    }
    if (!fl_st_is_float(t->dtype)) return false;
    for (int64_t i = 0; i < n; i++)
        if (fl_st_value(t, i) != value) return false;
    return true;
}

static const char *const weight_forms[] = {"weight",
                                           "compressed",
                                           "bitmask",
                                           "shape",
                                           "row_offsets",
                                           "weight.compressed",
                                           "weight.bitmask",
                                           "weight.shape",
                                           "weight.row_offsets",
                                           NULL};

/* ".bias" and, compressed the old way, its pieces. */
static bool is_bias(const char *leaf) {
    return !strcmp(leaf, "bias") || after(leaf, "bias.") != NULL;
}

static fl_tensor_use look_at_bias(const look *l, bool wanted) {
    if (wanted) return FL_TENSOR_READ;
    if (all_are(l->t, 0.0f)) return say(l, FL_TENSOR_UNNEEDED, "a bias that is zero");
    return say(l, FL_TENSOR_IGNORED, "config.json says that there is no such bias");
}

/* A tensor that we do not know beside a weight or in attention: neutral, or refused when its name
 * is that of a factor or an offset. */
static fl_tensor_use look_at_stranger(const look *l, const char *leaf) {
    if (strstr(leaf, "zero_point") || strstr(leaf, "bias") || strstr(leaf, "offset")) {
        if (all_are(l->t, 0.0f)) return say(l, FL_TENSOR_UNNEEDED, "an offset of zero");
        if (strstr(leaf, "zero_point"))
            return say(l, FL_TENSOR_REFUSED, "not zero; only symmetric quantization is supported");
        return say(l, FL_TENSOR_REFUSED, "an offset that is not zero is not applied here");
    }
    if (strstr(leaf, "scale")) {
        if (all_are(l->t, 1.0f)) return say(l, FL_TENSOR_UNNEEDED, "a factor of one");
        return say(l, FL_TENSOR_REFUSED, "a factor of this kind is not applied here");
    }
    if (strstr(leaf, "lora") || strstr(leaf, "g_idx"))
        return say(l, FL_TENSOR_REFUSED, "weights in this form are not read here");
    return say(l, FL_TENSOR_IGNORED, "no part of a Llama");
}

static const fl_st_tensor *weight_of(const look *l, const char *module) {
    static const char *const forms[] = {"weight", "compressed", "weight.compressed"};
    const fl_st_tensor *t = NULL;
    for (int i = 0; i < 3 && !t; i++) t = find(l->ck, module, forms[i]);
    return t;
}

/* A tensor of a linear that is there. */
static fl_tensor_use look_at_linear(const look *l, const char *module, const char *leaf,
                                    bool bias) {
    const fl_st_tensor *w = weight_of(l, module);
    const fl_quant_plan own = fl_quant_plan_of(l->plan, module);
    const bool quantized = w && (w->dtype == FL_DTYPE_E4M3 || own.frozen);
    if (!w || one_of(leaf, weight_forms))
        return FL_TENSOR_READ; /* the loader says what is missing */
    if (is_bias(leaf)) return look_at_bias(l, bias);
    if (one_of(leaf, fl_weight_scale_names)) {
        if (!quantized) return say(l, FL_TENSOR_UNNEEDED, "a scale of a weight that is no F8_E4M3");
        if (is_first(l, module, leaf, fl_weight_scale_names)) return FL_TENSOR_READ;
        return say(l, FL_TENSOR_IGNORED, "the same scale has another name too");
    }
    if (one_of(leaf, fl_input_scale_names)) {
        if (!quantized) return say(l, FL_TENSOR_UNNEEDED, "a scale of a linear that is no F8_E4M3");
        const bool read = own.flavour == FL_QUANT_NONE || own.act == FL_ACT_STATIC;
        if (!read) return say(l, FL_TENSOR_IGNORED, "inputs have no static scale by config.json");
        if (is_first(l, module, leaf, fl_input_scale_names)) return FL_TENSOR_READ;
        return say(l, FL_TENSOR_IGNORED, "the same scale has another name too");
    }
    if (!strcmp(leaf, "output_scale"))
        return say(l, FL_TENSOR_IGNORED, "outputs are not quantized here");
    if (!strcmp(leaf, "weight_shape"))
        return say(l, FL_TENSOR_UNNEEDED, "the weight has its shape");
    return look_at_stranger(l, leaf);
}

/* self_attn.X of what the KV cache is made with; false: it is none of that. */
static bool look_at_kv(const look *l, const char *attention, const char *rest, fl_tensor_use *use) {
    static const char *const unquantized[] = {"q_scale",           "attn.q_scale",
                                              "q_proj.q_scale",    "q_proj.output_scale",
                                              "prob_scale",        "attn.prob_scale",
                                              "prob_output_scale", "attn.prob_output_scale",
                                              "q_zero_point",      NULL};
    const bool k = one_of(rest, fl_k_scale_names), v = one_of(rest, fl_v_scale_names);
    *use = FL_TENSOR_READ;
    if (one_of(rest, unquantized)) {
        *use = say(l, FL_TENSOR_UNNEEDED, "queries and probabilities are not quantized here");
        return true;
    }
    if (!k && !v && !one_of(rest, fl_kv_offset_names)) return false;
    if (!l->plan->kv_fp8)
        *use = say(l, FL_TENSOR_UNNEEDED, "keys and values are not FP8");
    else if ((k && !is_first(l, attention, rest, fl_k_scale_names)) ||
             (v && !is_first(l, attention, rest, fl_v_scale_names)))
        *use = k && v ? say(l, FL_TENSOR_UNNEEDED, "keys and values have scales of their own")
                      : say(l, FL_TENSOR_IGNORED, "the same scale has another name too");
    return true;
}

static const struct {
    const char *module, *fused;
    bool mlp;
} linears[] = {{"self_attn.q_proj", "self_attn.qkv_proj", false},
               {"self_attn.k_proj", "self_attn.qkv_proj", false},
               {"self_attn.v_proj", "self_attn.qkv_proj", false},
               {"self_attn.o_proj", NULL, false},
               {"mlp.gate_proj", "mlp.gate_up_proj", true},
               {"mlp.up_proj", "mlp.gate_up_proj", true},
               {"mlp.down_proj", NULL, true},
               {"self_attn.qkv_proj", NULL, false},
               {"mlp.gate_up_proj", NULL, true}};
enum { N_LINEARS = sizeof(linears) / sizeof(linears[0]), FIRST_FUSED = 7 };

/* A fused linear is read for those of its parts that are not there themselves. */
static bool is_fused_read(const look *l, const char *layer, int which) {
    char module[128];
    for (int i = 0; i < FIRST_FUSED; i++) {
        if (!linears[i].fused || strcmp(linears[i].fused, linears[which].module)) continue;
        snprintf(module, sizeof(module), "%s.%s", layer, linears[i].module);
        if (!weight_of(l, module)) return true;
    }
    return false;
}

static bool ends_in(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

/* layer: "model.layers.3", rest: what follows the dot behind it. */
static fl_tensor_use look_in_layer(const look *l, const char *layer, const char *rest) {
    static const char *const norms[] = {"input_layernorm.", "post_attention_layernorm."};
    char module[128];
    fl_tensor_use use;
    const char *inner = after(rest, "self_attn.");
    snprintf(module, sizeof(module), "%s.self_attn", layer);
    if (inner && look_at_kv(l, module, inner, &use)) return use;
    for (int i = 0; i < 2; i++) {
        const char *leaf = after(rest, norms[i]);
        if (leaf) return one_of(leaf, weight_forms) ? FL_TENSOR_READ : look_at_bias(l, false);
    }
    for (int i = 0; i < N_LINEARS; i++) {
        const char *leaf = after(rest, linears[i].module);
        if (!leaf || *leaf != '.') continue;
        if (i >= FIRST_FUSED && !is_fused_read(l, layer, i))
            return say(l, FL_TENSOR_IGNORED, "its parts are there themselves");
        snprintf(module, sizeof(module), "%s.%s", layer, linears[i].module);
        return look_at_linear(l, module, leaf + 1,
                              linears[i].mlp ? l->c->mlp_bias : l->c->attention_bias);
    }
    if (strstr(rest, "norm.")) /* q_norm, k_norm, those before and behind a feed-forward part */
        return say(l, FL_TENSOR_REFUSED, "a Llama has no such norm");
    if (inner) return look_at_stranger(l, inner);
    return say(l, FL_TENSOR_IGNORED, "no part of a Llama");
}

bool fl_tensor_unneeded(const char *name) {
    static const char *const ends[] = {"rotary_emb.inv_freq",
                                       "rotary_emb.cos_cached",
                                       "rotary_emb.sin_cached",
                                       "rotary_emb.original_inv_freq",
                                       "attn.masked_bias",
                                       "self_attn.bias_mask",
                                       "rope.freqs",
                                       "position_ids",
                                       NULL};
    for (int i = 0; ends[i]; i++)
        if (ends_in(name, ends[i])) return true;
    return false;
}

fl_tensor_use fl_tensor_use_of(const fl_checkpoint *ck, const fl_config *c,
                               const fl_quant_plan *plan, const fl_st_tensor *t, const char **why) {
    const look l = {ck, c, plan, t, why};
    const char *leaf, *rest = after(t->name, "model.layers.");
    char layer[64];
    *why = NULL;
    if (fl_tensor_unneeded(t->name))
        return say(&l, FL_TENSOR_UNNEEDED, "positions are calculated from config.json");
    if (rest) {
        char *end;
        const long number = strtol(rest, &end, 10);
        if (end > rest && *end == '.' && number >= 0) {
            if (number >= c->n_layers)
                return say(&l, FL_TENSOR_IGNORED, "config.json has fewer layers");
            snprintf(layer, sizeof(layer), "model.layers.%ld", number);
            return look_in_layer(&l, layer, end + 1);
        }
    }
    if ((leaf = after(t->name, "model.embed_tokens.")))
        return look_at_linear(&l, "model.embed_tokens", leaf, false);
    if ((leaf = after(t->name, "lm_head.")))
        return c->tied ? say(&l, FL_TENSOR_UNNEEDED, "config.json ties the head to the embedding")
                       : look_at_linear(&l, "lm_head", leaf, false);
    if ((leaf = after(t->name, "model.norm.")))
        return one_of(leaf, weight_forms) ? FL_TENSOR_READ : look_at_bias(&l, false);
    return say(&l, FL_TENSOR_IGNORED, "no part of a Llama");
}

/* ---- what only the tensors show ---- */

static const fl_st_tensor *stored(const fl_checkpoint *ck, const char *name) {
    fl_stored_tensor s;
    bool found;
    if (fl_stored_tensor_find(&s, &found, ck, name, NULL) || !found) return NULL;
    return s.kept ? s.kept : fl_checkpoint_find(ck, name);
}

/* A tied model may store either of the two, or both. */
static int settle_tied(fl_checkpoint *ck, const fl_config *c, fl_err *err) {
    const bool embedding = stored(ck, "model.embed_tokens.weight") != NULL;
    const bool head = stored(ck, "lm_head.weight") != NULL;
    if (!c->tied || embedding || !head) return FL_OK;
    return fl_checkpoint_rename(ck, "lm_head.", "model.embed_tokens.", err);
}

static void settle_dtype(const fl_checkpoint *ck, fl_config *c) {
    static const char *const names[] = {"model.embed_tokens.weight", "model.norm.weight"};
    for (int i = 0; i < 2 && c->dtype_of_weights; i++) {
        const fl_st_tensor *t = stored(ck, names[i]);
        if (!t || (t->dtype != FL_DTYPE_BF16 && t->dtype != FL_DTYPE_F16)) continue;
        c->dtype = t->dtype;
        return;
    }
}

/* An FP8 cache that cannot be made as the checkpoint wants it is not made at all. */
static void settle_kv(const fl_checkpoint *ck, const fl_config *c, fl_quant_plan *plan) {
    for (int64_t i = 0; plan->kv_fp8 && i < c->n_layers; i++) {
        float k, v;
        bool found;
        fl_err why;
        if (fl_kv_scales_read(&k, &v, &found, ck, i, &why) != FL_E_UNSUPPORTED) continue;
        fl_log(FL_LOG_WARN, "%s: %s: keys and values stay %s", fl_checkpoint_dir(ck), why.msg,
               c->dtype == FL_DTYPE_F16 ? "F16" : "BF16");
        plan->kv_fp8 = false;
    }
}

/* ---- all of them ---- */

typedef struct reason {
    const char *why;
    size_t n;
    const fl_st_tensor *first;
} reason;

static void count(reason reasons[MAX_REASONS], const char *why, const fl_st_tensor *t) {
    for (int i = 0; i < MAX_REASONS; i++) {
        if (reasons[i].n && strcmp(reasons[i].why, why)) continue;
        if (!reasons[i].n++) reasons[i] = (reason){why, 1, t};
        return;
    }
}

int fl_inventory_take(fl_checkpoint *ck, fl_config *c, fl_quant_plan *plan, fl_err *err) {
    reason reasons[MAX_REASONS] = {0};
    int rc = settle_tied(ck, c, err);
    if (rc) return rc;
    settle_dtype(ck, c);
    settle_kv(ck, c, plan);
    for (size_t i = 0; i < fl_checkpoint_count(ck); i++) {
        const fl_st_tensor *t = fl_checkpoint_at(ck, i);
        const char *why;
        fl_tensor_use use = fl_tensor_use_of(ck, c, plan, t, &why);
        if (use == FL_TENSOR_REFUSED)
            return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: %s", t->file, t->name, why);
        if (use == FL_TENSOR_IGNORED) count(reasons, why, t);
    }
    for (int i = 0; i < MAX_REASONS && reasons[i].n; i++)
        fl_log(FL_LOG_WARN, "%s: %zu tensors are not used (first %s): %s", fl_checkpoint_dir(ck),
               reasons[i].n, reasons[i].first->name, reasons[i].why);
    return FL_OK;
}
