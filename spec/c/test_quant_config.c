/* The quantization plan: every flavour's spelling, what is run and what is refused by name. */
#include "formats/quant_config.h"

#include <string.h>

#include "fixture.h"
#include "tap.h"
#include "util/log.h"

static char warning[1024];

static void keep_warning(fl_log_level level, const char *msg) {
    if (level == FL_LOG_WARN) snprintf(warning, sizeof(warning), "%s", msg);
}

#define QC(members)   "{\"quantization_config\":{" members "}}"
#define AUTOFP8       "\"quant_method\":\"fp8\","
#define CT            "\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\","
#define GROUPS(inner) CT "\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"]," inner "}}"
#define ARGS(strategy, dynamic)                                                                    \
    "{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"" strategy               \
    "\",\"dynamic\":" dynamic ",\"group_size\":null,\"observer\":\"mse\"}"
#define W_TENSOR  "\"weights\":" ARGS("tensor", "false")
#define W_CHANNEL "\"weights\":" ARGS("channel", "false")
#define X_STATIC  "\"input_activations\":" ARGS("tensor", "false")
#define X_TOKEN   "\"input_activations\":" ARGS("token", "true")
#define MODELOPT  "\"quant_method\":\"modelopt\","
#define X_GROUP   "\"input_activations\":" ARGS_GROUP("128")
#define W_BLOCK(size)                                                                              \
    "\"weights\":{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"block\","    \
    "\"dynamic\":false,\"block_structure\":" size "}"
#define ARGS_GROUP(size)                                                                           \
    "{\"num_bits\":8,\"type\":\"float\",\"symmetric\":true,\"strategy\":\"group\","                \
    "\"dynamic\":true,\"group_size\":" size "}"
#define BLOCK_PLAN .block_n = 128, .block_k = 128
#define SIDE(members)                                                                              \
    "{\"producer\":{\"name\":\"modelopt\",\"version\":\"0.15.1\"},\"quantization\":{" members "}}"

#define LAYER0   "\"model.layers.0."
#define Q_STATIC "{\"dtype\":\"fp8_e4m3\",\"is_dynamic\":false,\"qscheme\":\"per_tensor\"}"
#define Q_TOKEN                                                                                    \
    "{\"dtype\":\"fp8_e4m3\",\"is_dynamic\":true,\"qscheme\":\"per_channel\",\"ch_axis\":1}"
#define Q_WEIGHT "\"weight\":" Q_STATIC
#define QUARK(global)                                                                              \
    "\"quant_method\":\"quark\",\"exclude\":[\"lm_head\"],\"export\":{\"kv_cache_group\":[]},"     \
    "\"global_quant_config\":{" global "}"
#define ATTENTION "\"targets\":[\"LlamaAttention\"],\"weights\":null," X_STATIC

typedef struct plan_case {
    const char *config, *side; /* side: hf_quant_config.json or NULL */
    fl_quant_plan want;
    const char *warns; /* in the warning; NULL: none */
} plan_case;

#define PLAN(f, a) .flavour = FL_QUANT_##f, .act = FL_ACT_##a

static const plan_case plans[] = {
    {"{}", NULL, {PLAN(NONE, NONE)}, NULL},
    {"{\"quantization_config\":null}", NULL, {PLAN(NONE, NONE)}, NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"static\",\"ignored_layers\":[\"lm_head\"]"),
     NULL,
     {PLAN(AUTOFP8, STATIC)},
     NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\""), NULL, {PLAN(AUTOFP8, TOKEN)}, NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"static\",\"kv_cache_scheme\":\"static\""),
     NULL,
     {PLAN(AUTOFP8, STATIC), .kv_fp8 = true},
     NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\",\"weight_block_size\":null"),
     NULL,
     {PLAN(AUTOFP8, TOKEN)},
     NULL},
    {QC(AUTOFP8
        "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[64,128],\"fmt\":\"e4m3\""),
     NULL,
     {PLAN(AUTOFP8, GROUP), .block_n = 64, .block_k = 128},
     NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"static\",\"sparsity_config\":{\"sparsity_structure\":"
                "\"2:4\"}"),
     NULL,
     {PLAN(AUTOFP8, STATIC), .sparse24 = true},
     NULL},
    {QC(GROUPS(W_BLOCK("[128,128]") "," X_GROUP)),
     NULL,
     {PLAN(COMPRESSED_TENSORS, GROUP), BLOCK_PLAN},
     NULL},
    {QC(GROUPS(W_BLOCK("\"128x128\"") "," X_TOKEN)),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), BLOCK_PLAN},
     NULL},
    {QC(CT "\"config_groups\":{\"FP8_BLOCK\":[\"Linear\"]}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, GROUP), BLOCK_PLAN},
     NULL},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"dense\",\"config_groups\":{\"a\":"
        "{" W_TENSOR "," X_STATIC "}}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, STATIC), .frozen = true},
     NULL},
    {QC("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"a\":{" W_TENSOR "}}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE), .frozen = true},
     NULL},
    {QC(GROUPS(W_TENSOR) ",\"quantization_status\":\"frozen\""),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE), .frozen = true},
     NULL},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"mixed-precision\",\"config_groups\":{"
        "\"a\":{\"format\":\"float-quantized\"," W_CHANNEL "," X_TOKEN "},"
        "\"b\":{\"format\":\"naive-quantized\"," W_BLOCK("[128,128]") "," X_TOKEN "}}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), BLOCK_PLAN},
     NULL},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"sparsity_config\":{\"format\":\"sparse-24-bitmask\","
                                      "\"sparsity_structure\":\"0:0\"}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), .sparse24 = true},
     NULL},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"sparsity_config\":{\"format\":\"sparse-bitmask\","
                                      "\"sparsity_structure\":\"unstructured\"}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN)},
     NULL},
    {QC("\"quant_method\":\"fbgemm_fp8\",\"activation_scale_ub\":800.0"),
     NULL,
     {PLAN(FBGEMM, TOKEN), .act_scale_ub = 800},
     NULL},
    {QC("\"quant_method\":\"fbgemm_fp8\""),
     NULL,
     {PLAN(FBGEMM, TOKEN), .act_scale_ub = 1200},
     NULL},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"kv_cache_scheme\":null,\"ignore\":[\"lm_head\"],"
                                      "\"sparsity_config\":{}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN)},
     NULL},
    {QC(GROUPS(W_TENSOR "," X_STATIC) ",\"kv_cache_scheme\":" ARGS("tensor", "false")),
     NULL,
     {PLAN(COMPRESSED_TENSORS, STATIC), .kv_fp8 = true},
     NULL},
    {QC(GROUPS(W_TENSOR ",\"input_activations\":" ARGS("tensor", "true"))),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN)},
     NULL},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":null,\"output_activations\":null")),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE)},
     NULL},
    {QC(GROUPS("\"weights\":{\"type\":\"float\",\"num_bits\":8,\"group_size\":-1}")),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE)},
     NULL},
    {QC(CT "\"config_groups\":{\"FP8_DYNAMIC\":[\"Linear\"]}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN)},
     NULL},
    {QC(CT "\"config_groups\":{\"FP8\":[\"Linear\"]}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, STATIC)},
     NULL},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"sparsity_config\":{\"format\":\"dense\","
                                      "\"sparsity_structure\":\"2:4\"}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), .sparse24 = true},
     NULL},
    {QC(GROUPS(W_TENSOR) ",\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"int\"}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE)},
     "KV cache scheme of 8-bit int"},
    {"{\"compression_config\":{\"quantization_config\":{" GROUPS(
         W_CHANNEL "," X_TOKEN) "},\"sparsity_config\":{\"format\":\"dense\",\"sparsity_"
                                "structure\":\"2:4\"}}}",
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), .sparse24 = true},
     NULL},
    {"{\"compression_config\":{\"sparsity_config\":{\"format\":\"dense\",\"sparsity_structure\":"
     "\"2:4\"}}}",
     NULL,
     {PLAN(NONE, NONE), .sparse24 = true},
     NULL},
    {QC(MODELOPT "\"quant_algo\":\"FP8\",\"kv_cache_scheme\":{\"dynamic\":false,\"num_bits\":8,"
                 "\"type\":\"float\"}"),
     NULL,
     {PLAN(MODELOPT, STATIC), .kv_fp8 = true},
     NULL},
    {QC(MODELOPT "\"quant_algo\":\"fp8_per_channel_per_token\""),
     NULL,
     {PLAN(MODELOPT, TOKEN)},
     NULL},
    {"{}",
     SIDE("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"FP8\",\"exclude_modules\":[\"lm_"
          "head\"]"),
     {PLAN(MODELOPT, STATIC), .kv_fp8 = true},
     NULL},
    {"{}",
     SIDE("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":null"),
     {PLAN(MODELOPT, STATIC)},
     NULL},
    {"{}",
     SIDE("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"NVFP4\""),
     {PLAN(MODELOPT, STATIC)},
     "KV cache scheme NVFP4"},
    {"{}", SIDE("\"quant_algo\":null"), {PLAN(NONE, NONE)}, NULL},
    {"{}", SIDE("\"quant_algo\":\"FP8_PB_WO\""), {PLAN(MODELOPT, NONE), BLOCK_PLAN}, NULL},
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"Linear\"]," W_CHANNEL "," X_TOKEN "},"
           "\"b\":{" ATTENTION "}},\"kv_cache_scheme\":" ARGS("tensor", "false")),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN), .kv_fp8 = true},
     NULL},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"dense\",\"config_groups\":{\"a\":"
        "{" ATTENTION "}},\"kv_cache_scheme\":" ARGS("tensor", "false")),
     NULL,
     {PLAN(NONE, NONE), .kv_fp8 = true},
     NULL},
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[],\"weights\":{\"num_bits\":4}}}"),
     NULL,
     {PLAN(NONE, NONE)},
     NULL},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"
        "\"a\":{\"targets\":[\"re:.*experts.*\"],\"weights\":{\"num_bits\":4}}}"),
     NULL,
     {PLAN(NONE, NONE)},
     NULL},
    {QC(GROUPS("\"weights\":null,\"input_activations\":null")), NULL, {PLAN(NONE, NONE)}, NULL},
    {QC(CT "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":4}},\"a\":{" W_TENSOR "," X_TOKEN
           "}}"),
     NULL,
     {PLAN(COMPRESSED_TENSORS, TOKEN)},
     NULL},
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4}}},"
           "\"ignore\":[\"re:.*_proj\",\"lm_head\"]"),
     NULL,
     {PLAN(NONE, NONE)},
     NULL},
    {QC(GROUPS(W_TENSOR) ",\"kv_cache_scheme\":" ARGS("attn_head", "false")),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE)},
     "strategy attn_head, a scale for each head is not supported"},
    {QC(GROUPS(W_TENSOR) ",\"kv_cache_scheme\":\"static\""),
     NULL,
     {PLAN(COMPRESSED_TENSORS, NONE)},
     "KV cache scheme static"},
    {"{\"quantization_config\":{}}", NULL, {PLAN(NONE, NONE)}, NULL},
    {QC(MODELOPT "\"quant_algo\":\"FP8\",\"kv_cache_scheme\":\"FP8\""),
     NULL,
     {PLAN(MODELOPT, STATIC), .kv_fp8 = true},
     NULL},
    {QC(MODELOPT "\"quant_algo\":\"FP8\",\"kv_cache_scheme\":\"NVFP4\""),
     NULL,
     {PLAN(MODELOPT, STATIC)},
     "KV cache scheme NVFP4"},
    {QC(MODELOPT "\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"fp8\""),
     NULL,
     {PLAN(MODELOPT, STATIC), .kv_fp8 = true},
     NULL},
    {QC(MODELOPT "\"quantization\":{\"quant_algo\":\"fp8\",\"kv_cache_quant_algo\":\"FP8\"}"),
     NULL,
     {PLAN(MODELOPT, STATIC), .kv_fp8 = true},
     NULL},
    {QC("\"quant_method\":\"MODELOPT_FP8\",\"quant_algo\":\"FP8\""),
     NULL,
     {PLAN(MODELOPT, STATIC)},
     NULL},
    {QC("\"producer\":{\"name\":\"modelopt\"},\"quant_algo\":\"FP8\""),
     NULL,
     {PLAN(MODELOPT, STATIC)},
     NULL},
    {QC(MODELOPT "\"kv_cache_scheme\":\"FP8\""), NULL, {PLAN(NONE, NONE), .kv_fp8 = true}, NULL},
    {QC(QUARK(Q_WEIGHT ",\"input_tensors\":" Q_STATIC ",\"output_tensors\":null")),
     NULL,
     {PLAN(QUARK, STATIC)},
     NULL},
    {QC(QUARK(Q_WEIGHT ",\"input_tensors\":" Q_TOKEN)), NULL, {PLAN(QUARK, TOKEN)}, NULL},
    {QC(QUARK(Q_WEIGHT ",\"input_tensors\":null")), NULL, {PLAN(QUARK, NONE)}, NULL},
    {QC("\"quant_method\":\"quark\",\"export\":{\"kv_cache_group\":[\"*k_proj\",\"*v_proj\"]},"
        "\"global_quant_config\":{" Q_WEIGHT ",\"input_tensors\":" Q_STATIC "},"
        "\"layer_quant_config\":{\"*k_proj\":{" Q_WEIGHT ",\"input_tensors\":" Q_STATIC
        ",\"output_tensors\":" Q_STATIC "},\"*v_proj\":{" Q_WEIGHT ",\"input_tensors\":" Q_STATIC
        ",\"output_tensors\":" Q_STATIC "}}"),
     NULL,
     {PLAN(QUARK, STATIC), .kv_fp8 = true},
     NULL},
    {QC(AUTOFP8 "\"activation_scheme\":\"static\""),
     SIDE("\"quant_algo\":\"NVFP4\""),
     {PLAN(AUTOFP8, STATIC)},
     "quant_algo \"NVFP4\" is not supported: ignored"},
    {QC(MODELOPT "\"quant_algo\":\"FP8\""),
     SIDE("\"quant_algo\":\"FP8\""),
     {PLAN(MODELOPT, STATIC)},
     NULL},
    {QC(MODELOPT "\"quant_algo\":\"FP8\""),
     SIDE("\"quant_algo\":\"FP8\",\"kv_cache_quant_algo\":\"FP8\""),
     {PLAN(MODELOPT, STATIC)},
     "hf_quant_config.json: differs from config.json (modelopt)"},
};

static int load(const fixture *f, const char *config, const char *side, fl_quant_plan *p,
                fl_err *e) {
    fixture_text(f, "config.json", config);
    fixture_remove(f, "hf_quant_config.json");
    if (side) fixture_text(f, "hf_quant_config.json", side);
    *e = (fl_err){0};
    warning[0] = '\0';
    return fl_quant_plan_load(p, f->dir, e);
}

static bool same_plan(const fl_quant_plan *a, const fl_quant_plan *b) {
    return a->flavour == b->flavour && a->act == b->act && a->block_n == b->block_n &&
           a->block_k == b->block_k && a->act_scale_ub == b->act_scale_ub &&
           a->kv_fp8 == b->kv_fp8 && a->sparse24 == b->sparse24 && a->frozen == b->frozen;
}

static void test_plans(const fixture *f) {
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        const plan_case *c = &plans[i];
        fl_quant_plan p;
        fl_err e;
        int rc = load(f, c->config, c->side, &p, &e);
        bool warned = c->warns ? strstr(warning, c->warns) != NULL : !warning[0];
        check(!rc && same_plan(&p, &c->want) && warned, "%s%s: %s, scheme %d %s%s", c->config,
              c->side ? c->side : "", fl_quant_flavour_name(p.flavour), (int)p.act, e.msg, warning);
        if (!rc) fl_quant_plan_free(&p);
    }
}

typedef struct refused_case {
    const char *config, *side;
    int code;
    const char *says;
} refused_case;

static const refused_case refused[] = {
    {"", NULL, FL_E_FORMAT, "config.json: line 1"},
    {"[]", NULL, FL_E_FORMAT, "config.json: not a JSON object"},
    {"{\"quantization_config\":\"fp8\"}", NULL, FL_E_FORMAT, "quantization_config: not an object"},
    {QC("\"bits\":4"), NULL, FL_E_FORMAT, "quantization_config.quant_method: missing"},
    {QC("\"quant_method\":8"), NULL, FL_E_FORMAT, "quantization_config.quant_method"},
    {QC("\"quant_method\":\"gptq\",\"bits\":4"), NULL, FL_E_UNSUPPORTED, "quant_method \"gptq\""},
    {QC("\"quant_method\":\"awq\""), NULL, FL_E_UNSUPPORTED, "\"awq\""},
    {QC("\"quant_method\":\"bitsandbytes\""), NULL, FL_E_UNSUPPORTED, "\"bitsandbytes\""},
    {QC("\"quant_method\":\"mxfp4\""), NULL, FL_E_UNSUPPORTED, "\"mxfp4\""},
    {QC("\"quant_method\":\"modelopt_fp4\""), NULL, FL_E_UNSUPPORTED, "\"modelopt_fp4\""},
    {QC(AUTOFP8 "\"x\":0"), NULL, FL_E_FORMAT, "activation_scheme: missing"},
    {QC(AUTOFP8 "\"activation_scheme\":\"sometimes\""), NULL, FL_E_UNSUPPORTED,
     "activation_scheme \"sometimes\""},
    {QC(AUTOFP8 "\"activation_scheme\":1"), NULL, FL_E_FORMAT, "activation_scheme: need a string"},
    {QC(AUTOFP8 "\"activation_scheme\":\"static\",\"weight_block_size\":[128,128]"), NULL,
     FL_E_UNSUPPORTED, "activation_scheme: static with weight_block_size"},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,64]"), NULL,
     FL_E_UNSUPPORTED, "weight_block_size: blocks of 64 columns, only 128"},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128]"), NULL, FL_E_FORMAT,
     "weight_block_size: need two sizes"},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[0,128]"), NULL,
     FL_E_FORMAT, "weight_block_size: need two sizes"},
    {QC(AUTOFP8 "\"activation_scheme\":\"dynamic\",\"weight_block_size\":{\"a\":1}"), NULL,
     FL_E_FORMAT, "weight_block_size: need two sizes"},
    {QC("\"quant_method\":\"fbgemm_fp8\",\"activation_scale_ub\":-1"), NULL, FL_E_FORMAT,
     "activation_scale_ub"},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"int-quantized\""), NULL,
     FL_E_UNSUPPORTED, "format \"int-quantized\""},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\""), NULL,
     FL_E_UNSUPPORTED, "\"pack-quantized\""},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\""), NULL,
     FL_E_UNSUPPORTED, "\"nvfp4-pack-quantized\""},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"marlin-24\""), NULL, FL_E_UNSUPPORTED,
     "\"marlin-24\""},
    {QC(GROUPS("\"weights\":{\"num_bits\":8,\"strategy\":\"channel\"}")), NULL, FL_E_UNSUPPORTED,
     "config_groups.group_0.weights: 8-bit int, strategy channel"},
    {QC(GROUPS("\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":128}")), NULL,
     FL_E_UNSUPPORTED, "4-bit int, strategy group"},
    {QC(GROUPS("\"weights\":{\"num_bits\":8,\"type\":\"float\",\"symmetric\":false}")), NULL,
     FL_E_UNSUPPORTED, "asymmetric"},
    {QC(GROUPS("\"weights\":" ARGS("block", "false"))), NULL, FL_E_FORMAT,
     "weights: block_structure: need two sizes"},
    {QC(GROUPS(W_BLOCK("\"64x64\""))), NULL, FL_E_UNSUPPORTED, "block_structure \"64x64\""},
    {QC(GROUPS("\"weights\":" ARGS("tensor_group", "false"))), NULL, FL_E_UNSUPPORTED,
     "strategy tensor_group"},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":" ARGS_GROUP("64"))), NULL, FL_E_UNSUPPORTED,
     "input_activations: 8-bit float, strategy group"},
    {QC(GROUPS(W_CHANNEL ",\"format\":\"nvfp4-pack-quantized\"")), NULL, FL_E_UNSUPPORTED,
     "config_groups.group_0.format \"nvfp4-pack-quantized\""},
    {QC(GROUPS("\"weights\":" ARGS("tensor", "true"))), NULL, FL_E_UNSUPPORTED, "dynamic"},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":" ARGS("group", "true"))), NULL, FL_E_UNSUPPORTED,
     "input_activations: 8-bit float, strategy group"},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":" ARGS("token", "false"))), NULL, FL_E_UNSUPPORTED,
     "input_activations: 8-bit float, strategy token"},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":" ARGS("tensor", "\"local\""))), NULL,
     FL_E_UNSUPPORTED, "dynamic \"local\""},
    {QC(GROUPS(W_CHANNEL ",\"input_activations\":{\"strategy\":\"token\",\"dynamic\":true}")), NULL,
     FL_E_UNSUPPORTED, "input_activations: 8-bit int, strategy token, dynamic"},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN ",\"output_activations\":" ARGS("tensor", "false"))), NULL,
     FL_E_UNSUPPORTED, "output_activations"},
    {QC(GROUPS("\"weights\":[]")), NULL, FL_E_FORMAT, "weights: not an object"},
    {QC(CT "\"config_groups\":{\"group_0\":5}"), NULL, FL_E_FORMAT, "config_groups"},
    {QC(CT "\"config_groups\":[]"), NULL, FL_E_FORMAT, "config_groups: not an object"},
    {QC(CT "\"config_groups\":{\"NVFP4\":[\"Linear\"]}"), NULL, FL_E_UNSUPPORTED, "\"NVFP4\""},
    {QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"sparsity_config\":{\"format\":\"marlin-24\"}"), NULL,
     FL_E_UNSUPPORTED, "quantization_config.sparsity_config.format \"marlin-24\""},
    {"{\"compression_config\":{\"quantization_config\":{\"format\":\"int-quantized\",\"quant_"
     "method\":"
     "\"compressed-tensors\"}}}",
     NULL, FL_E_UNSUPPORTED, "compression_config.quantization_config.format \"int-quantized\""},
    {QC(GROUPS(W_TENSOR) ",\"transform_config\":{\"config_groups\":{}}"), NULL, FL_E_UNSUPPORTED,
     "a rotation of the weights"},
    {QC(GROUPS(W_TENSOR) ",\"kv_cache_scheme\":{\"num_bits\":\"8\"}"), NULL, FL_E_FORMAT,
     "kv_cache_scheme.num_bits"},
    {QC(GROUPS(W_TENSOR) ",\"sparsity_config\":[]"), NULL, FL_E_FORMAT,
     "sparsity_config: not an object"},
    {QC(GROUPS(W_TENSOR) ",\"quantization_config\":[]"), NULL, FL_E_FORMAT,
     "quantization_config: not an object"},
    {QC(MODELOPT "\"quant_algo\":\"NVFP4\""), NULL, FL_E_UNSUPPORTED, "quant_algo \"NVFP4\""},
    {QC(MODELOPT "\"quant_algo\":\"MIXED_PRECISION\""), NULL, FL_E_UNSUPPORTED,
     "\"MIXED_PRECISION\" is not supported without quantized_layers"},
    {QC(MODELOPT "\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{" LAYER0
                 "mlp.up_proj\":{\"quant_algo\":\"NVFP4\"}}"),
     NULL, FL_E_UNSUPPORTED, "quantized_layers.model.layers.0.mlp.up_proj.quant_algo \"NVFP4\""},
    {QC(MODELOPT "\"quant_algo\":\"FP8_PB_REAL\""), NULL, FL_E_UNSUPPORTED, "\"FP8_PB_REAL\""},
    {QC(MODELOPT "\"config_groups\":{\"group_0\":{" W_TENSOR "}}"), NULL, FL_E_FORMAT,
     "quant_algo: missing beside config_groups"},
    {QC(GROUPS("\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":128}," X_TOKEN)), NULL,
     FL_E_UNSUPPORTED, "4-bit int, strategy group for inputs of 8-bit float (W4AFP8)"},
    {QC("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{"
        "\"a\":{\"weights\":{\"num_bits\":4,\"type\":\"int\",\"group_size\":128}," X_TOKEN "}}"),
     NULL, FL_E_UNSUPPORTED, "(W4AFP8)"},
    {QC(GROUPS("\"weights\":null," X_STATIC)), NULL, FL_E_FORMAT,
     "config_groups.group_0.weights: missing"},
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"Linear\"]," W_TENSOR "," X_TOKEN "},"
           "\"b\":{\"targets\":[\"re:.*up_proj\"],\"weights\":{\"num_bits\":4,\"type\":\"int\"}}}"),
     NULL, FL_E_UNSUPPORTED, "config_groups.b.weights: 4-bit int"},
    {QC(QUARK("\"weight\":{\"dtype\":\"int8\",\"qscheme\":\"per_tensor\"}")), NULL,
     FL_E_UNSUPPORTED, "global_quant_config.weight: int8, per_tensor"},
    {QC(QUARK("\"weight\":{\"dtype\":\"fp8_e4m3\",\"qscheme\":\"per_group\"}")), NULL,
     FL_E_UNSUPPORTED, "fp8_e4m3, per_group"},
    {QC(QUARK("\"weight\":[{\"dtype\":\"fp8_e4m3\"},{\"dtype\":\"int4\"}]")), NULL,
     FL_E_UNSUPPORTED, "more than one step"},
    {QC(QUARK(Q_WEIGHT ",\"output_tensors\":" Q_STATIC)), NULL, FL_E_UNSUPPORTED,
     "global_quant_config.output_tensors: fp8_e4m3, per_tensor"},
    {QC(QUARK("\"weight\":null,\"input_tensors\":" Q_STATIC)), NULL, FL_E_UNSUPPORTED,
     "weight: null beside quantized activations"},
    {"{}", "{", FL_E_FORMAT, "hf_quant_config.json: line 1"},
    {"{}", "{}", FL_E_FORMAT, "hf_quant_config.json: quantization: missing"},
    {"{}", "[]", FL_E_FORMAT, "hf_quant_config.json: quantization: missing"},
    {"{}", SIDE("\"quant_algo\":\"W4A8_AWQ\""), FL_E_UNSUPPORTED,
     "hf_quant_config.json: quantization.quant_algo \"W4A8_AWQ\""},
    {"{}", SIDE("\"quant_algo\":\"W4A16_MXFP4\""), FL_E_UNSUPPORTED, "\"W4A16_MXFP4\""},
    {"{}", SIDE("\"quant_algo\":8"), FL_E_FORMAT, "quantization.quant_algo"},
};

static void test_refused(const fixture *f) {
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const refused_case *r = &refused[i];
        fl_quant_plan p;
        fl_err e;
        int rc = load(f, r->config, r->side, &p, &e);
        check(rc == r->code && strstr(e.msg, r->says), "%s%s: %s", r->config,
              r->side ? r->side : "", e.msg);
    }
}

/* What single linears get. */
static const struct {
    const char *config;
    bool mixed;
    struct {
        const char *module;
        fl_quant_flavour flavour;
        fl_act_scheme act;
        int64_t block_n;
    } of[4];
} schemes[] = {
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"re:.*self_attn.*\"]," W_TENSOR "," X_STATIC
           "},"
           "\"b\":{\"targets\":[\"re:.*mlp.*\"]," W_CHANNEL "," X_TOKEN "}}"),
     true,
     {{"model.layers.0.self_attn.q_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_STATIC, 0},
      {"model.layers.9.mlp.up_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_TOKEN, 0},
      {"lm_head", FL_QUANT_NONE, FL_ACT_NONE, 0}}},
    /* exact names, then expressions in the order of the alphabet, then classes */
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"Linear\"]," W_CHANNEL "," X_TOKEN "},"
           "\"b\":{\"targets\":[\"re:.*up_proj\"]," W_BLOCK(
               "[128,128]") "," X_GROUP "},"
                            "\"c\":{\"targets\":[\"model.layers.1.mlp.up_proj\"]," W_TENSOR "},"
                            "\"d\":{\"targets\":[\"re:.*mlp.*\"]," W_TENSOR "," X_STATIC "}}"),
     true,
     {{"model.layers.0.self_attn.q_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_TOKEN, 0},
      {"model.layers.0.mlp.up_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_STATIC, 0},
      {"model.layers.1.mlp.up_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_NONE, 0},
      {"lm_head", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_TOKEN, 0}}},
    {QC(CT "\"config_groups\":{\"a\":{\"targets\":[\"re:.*down_proj\"]," W_BLOCK(
         "[64,128]") "," X_GROUP
                     "},\"b\":{\"targets\":[\"Linear\"]," W_BLOCK("[128,128]") "," X_GROUP "}}"),
     false,
     {{"model.layers.0.mlp.down_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_GROUP, 64},
      {"model.layers.0.mlp.up_proj", FL_QUANT_COMPRESSED_TENSORS, FL_ACT_GROUP, 128}}},
    {QC(MODELOPT "\"quant_algo\":\"MIXED_PRECISION\",\"quantized_layers\":{" LAYER0
                 "mlp.up_proj\":{\"quant_algo\":\"FP8\"}," LAYER0
                 "mlp.down_proj\":{\"quant_algo\":\"fp8_pb_wo\"}," LAYER0
                 "self_attn.o_proj\":{\"quant_algo\":\"FP8_PER_CHANNEL_PER_TOKEN\"},"
                 "\"vision.0\":{\"quant_algo\":\"NVFP4\"}}"),
     true,
     {{"model.layers.0.mlp.up_proj", FL_QUANT_MODELOPT, FL_ACT_STATIC, 0},
      {"model.layers.0.mlp.down_proj", FL_QUANT_MODELOPT, FL_ACT_NONE, 128},
      {"model.layers.0.self_attn.o_proj", FL_QUANT_MODELOPT, FL_ACT_TOKEN, 0},
      {"model.layers.1.mlp.up_proj", FL_QUANT_NONE, FL_ACT_NONE, 0}}},
    {QC("\"quant_method\":\"quark\",\"global_quant_config\":{" Q_WEIGHT
        ",\"input_tensors\":" Q_STATIC "},\"layer_quant_config\":{\"*.o_proj\":{" Q_WEIGHT
        ",\"input_tensors\":" Q_TOKEN "},\"*_proj\":{" Q_WEIGHT "}}"),
     true,
     {{"model.layers.0.self_attn.o_proj", FL_QUANT_QUARK, FL_ACT_TOKEN, 0},
      {"model.layers.0.self_attn.q_proj", FL_QUANT_QUARK, FL_ACT_NONE, 0},
      {"lm_head", FL_QUANT_QUARK, FL_ACT_STATIC, 0}}},
};

static void test_schemes(const fixture *f) {
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        fl_quant_plan p;
        fl_err e;
        if (!check(!load(f, schemes[i].config, NULL, &p, &e) && p.mixed == schemes[i].mixed,
                   "schemes of single linears %zu %s", i, e.msg))
            continue;
        for (int k = 0; k < 4 && schemes[i].of[k].module; k++) {
            const fl_quant_plan own = fl_quant_plan_of(&p, schemes[i].of[k].module);
            check(own.flavour == schemes[i].of[k].flavour && own.act == schemes[i].of[k].act &&
                      own.block_n == schemes[i].of[k].block_n,
                  "schemes %zu: %s", i, schemes[i].of[k].module);
        }
        fl_quant_plan_free(&p);
    }
}

static int load_once(void *ctx) {
    const fixture *f = ctx;
    fl_quant_plan p;
    int rc = fl_quant_plan_load(&p, f->dir, NULL);
    if (!rc) fl_quant_plan_free(&p);
    return rc;
}

int main(void) {
    static const char channel_token[] =
        QC(GROUPS(W_CHANNEL "," X_TOKEN) ",\"kv_cache_scheme\":" ARGS(
            "tensor", "false") ",\"sparsity_config\":{\"format\":\"dense\"}");
    fixture f;
    fixture_new(&f);
    fl_log_set_sink(keep_warning);
    test_plans(&f);
    test_schemes(&f);
    test_refused(&f);
    fixture_text(&f, "config.json", "{}");
    fixture_text(&f, "hf_quant_config.json", SIDE("\"quant_algo\":\"FP8\""));
    check(fixture_sweep(load_once, &f) > 4, "every failing allocation is FL_E_NOMEM");
    fixture_remove(&f, "hf_quant_config.json");
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        fixture_text(&f, "config.json", schemes[i].config);
        check(fixture_sweep(load_once, &f) > 6, "schemes %zu: every failing allocation", i);
    }
    int n_refused = fixture_flip(&f, "config.json", channel_token, load_once, &f);
    check(n_refused > 2000, "bit flips of config.json: %d of %zu are refused", n_refused,
          8 * strlen(channel_token));
    fixture_free(&f);
    return tap_done();
}
