#include "quant/others.h"

#include <stdio.h>
#include <string.h>

#include "util/log.h"

/* Linears that vLLM, TensorRT-LLM and SGLang run as one. */
static const char *const together[][3] = {
    {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    {"mlp.gate_proj", "mlp.up_proj", NULL}};

static bool is_skipped(const char *const *skipped, size_t n, int64_t layer, const char *leaf) {
    char module[96];
    snprintf(module, sizeof(module), "model.layers.%lld.%s", (long long)layer, leaf);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(skipped[i], module)) return true;
    return false;
}

/* Some of those that run as one are quantized, and some are not. */
static void warn_of_torn(const char *dst, const fl_config *c, const char *const *skipped,
                         size_t n) {
    for (int64_t layer = 0; n > 1 && layer < c->n_layers; layer++) {
        for (int k = 0; k < 2; k++) {
            int some = 0, all = 0;
            for (; all < 3 && together[k][all]; all++)
                some += is_skipped(skipped, n, layer, together[k][all]);
            if (!some || some == all) continue;
            fl_log(FL_LOG_WARN,
                   "%s: layer %lld: of %s and its neighbours some are quantized and some are "
                   "not: vLLM, SGLang and TensorRT-LLM, which run them as one, refuse that",
                   dst, (long long)layer, together[k][0]);
            return;
        }
    }
}

/* Sizes that kernels of FP8 products cannot do. */
static void warn_of_sizes(const char *dst, const fl_recipe *r, const fl_config *c) {
    const int64_t unit = r->grain == FL_GRAIN_BLOCK ? 128 : 16;
    const int64_t sizes[] = {c->hidden_size, c->ffn_size, c->n_heads * c->head_dim,
                             c->n_kv_heads * c->head_dim};
    static const char *const names[] = {"hidden_size", "intermediate_size", "rows of q_proj",
                                        "rows of k_proj"};
    for (int i = 0; i < 4; i++) {
        if (sizes[i] % unit == 0) continue;
        fl_log(FL_LOG_WARN,
               "%s: %s %lld is no multiple of %lld: vLLM and SGLang refuse such FP8 weights", dst,
               names[i], (long long)sizes[i], (long long)unit);
        return;
    }
}

void fl_warn_of_others(const char *dst, const fl_recipe *r, const fl_config *c,
                       const char *const *skipped, size_t n) {
    warn_of_torn(dst, c, skipped, n);
    warn_of_sizes(dst, r, c);
    if (r->bitmask)
        fl_log(FL_LOG_WARN,
               "%s: 2:4 weights as bitmask: vLLM before 0.7 and from 0.19 on does not read them",
               dst);
    else if (r->prune && r->format == FL_QUANT_COMPRESSED_TENSORS)
        fl_log(FL_LOG_WARN, "%s: sparsity_config 2:4: vLLM from 0.19 on does not read it", dst);
    if (r->kv && r->format == FL_QUANT_AUTOFP8)
        fl_log(FL_LOG_WARN,
               "%s: vLLM uses the KV scales of this format only with --kv-cache-dtype fp8", dst);
}
