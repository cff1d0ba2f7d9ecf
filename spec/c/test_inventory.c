/* What becomes of each tensor, and what only tensors show of a model; the files of whole models are
 * in spec/lua/checkpoint_forms_spec.lua. */
#include "formats/inventory.h"

#include <string.h>

#include "parts.h"
#include "tap.h"
#include "util/log.h"

static char warnings[2048];

static void keep_warning(fl_log_level level, const char *msg) {
    if (level == FL_LOG_WARN && strlen(warnings) + strlen(msg) < sizeof(warnings))
        strcat(warnings, msg);
}

static const part parts[MAX_PARTS] = {
    {"lm_head.weight", "F16", "[2,2]", 4, {1, 2, 3, 4}},
    {"norm.weight", "F16", "[2]", 2, {1, 1}},
    {"layers.0.input_layernorm.weight", "F16", "[2]", 2, {1, 1}},
    {"layers.0.self_attn.q_proj.weight", "F16", "[2,2]", 4, {1, 2, 3, 4}},
    {"layers.0.self_attn.v_proj.v_bias", "F32", "[1]", 1, {2}},
    {"layers.0.self_attn.rotary_emb.inv_freq", "F32", "[1]", 1, {2}},
    {"layers.1.mlp.up_proj.weight", "F16", "[1]", 1, {2}}};

static const struct {
    const char *name;
    fl_tensor_use use;
} uses[] = {{"model.embed_tokens.weight", FL_TENSOR_READ},
            {"model.norm.weight", FL_TENSOR_READ},
            {"model.layers.0.input_layernorm.weight", FL_TENSOR_READ},
            {"model.layers.0.self_attn.q_proj.weight", FL_TENSOR_READ},
            {"model.layers.0.self_attn.v_proj.v_bias", FL_TENSOR_UNNEEDED},
            {"model.layers.0.self_attn.rotary_emb.inv_freq", FL_TENSOR_UNNEEDED},
            {"model.layers.1.mlp.up_proj.weight", FL_TENSOR_IGNORED}};

static int take(fl_checkpoint **ck, fl_config *c, fl_quant_plan *plan, const char *dir) {
    *c = (fl_config){.n_layers = 1, .tied = true, .dtype_of_weights = true, .dtype = FL_DTYPE_F32};
    *plan = (fl_quant_plan){.flavour = FL_QUANT_NONE, .kv_fp8 = true};
    int rc = fl_checkpoint_open(ck, dir, NULL);
    return rc ? rc : fl_inventory_take(*ck, c, plan, NULL);
}

static int take_once(void *ctx) {
    fl_checkpoint *ck = NULL;
    fl_config c;
    fl_quant_plan plan;
    int rc = take(&ck, &c, &plan, ctx);
    fl_checkpoint_close(ck);
    return rc;
}

int main(void) {
    fixture f;
    fl_checkpoint *ck = NULL;
    fl_config c;
    fl_quant_plan plan;
    fixture_new(&f);
    write_parts(&f, parts);
    fl_log_set_sink(keep_warning);
    if (check(!take(&ck, &c, &plan, f.dir), "a tied model of a head alone, without prefixes")) {
        check(c.dtype == FL_DTYPE_F16 && !plan.kv_fp8, "its type, and its keys stay plain");
        check(strstr(warnings, "v_bias: offsets of an FP8 KV cache") &&
                  strstr(warnings, "keys and values stay F16") &&
                  strstr(warnings,
                         "1 tensors are not used (first model.layers.1.mlp.up_proj.weight): "
                         "config.json has fewer layers"),
              "%s", warnings);
        for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
            const fl_st_tensor *t = fl_checkpoint_find(ck, uses[i].name);
            const char *why = NULL;
            check(t && !strcmp(t->name, uses[i].name) &&
                      fl_tensor_use_of(ck, &c, &plan, t, &why) == uses[i].use &&
                      (uses[i].use == FL_TENSOR_READ) == !why,
                  "%s %s", uses[i].name, why ? why : "is read");
        }
    }
    fl_checkpoint_close(ck);
    check(fixture_sweep(take_once, f.dir) > 10, "every failing allocation is FL_E_NOMEM");
    fl_log_set_sink(NULL);
    fixture_free(&f);
    return tap_done();
}
