/* What the configuration says of modules, against the tensors: every kind of list, every warning. */
#include "formats/quant_check.h"

#include <string.h>

#include "parts.h"
#include "tap.h"
#include "util/log.h"

#define LINEAR "model.layers.0.mlp.down_proj"
static const fl_quant_plan frozen = {.flavour = FL_QUANT_COMPRESSED_TENSORS, .frozen = true};

static char warnings[2048];

static void keep_warning(fl_log_level level, const char *msg) {
    size_t n = strlen(warnings);
    if (level == FL_LOG_WARN) snprintf(warnings + n, sizeof(warnings) - n, "%s; ", msg);
}

typedef struct check_case {
    const char *what;
    const fl_quant_plan *plan;
    part parts[MAX_PARTS];
    const char *says[2]; /* all that is said */
    const char *config, *side;
} check_case;

#define IGNORE(list) "{\"quantization_config\":{\"ignore\":[" list "]}}"
#define LISTED       "1 modules listed as not quantized have F8_E4M3 weights (first x.weight)"

static const check_case cases[] = {
    {"nothing to say", &dynamic, {Q, S}, {NULL, NULL}, NULL, NULL},
    {"a plain model", &plain, {{"x.weight", "F32", "[2]", 2, {0}}}, {NULL, NULL}, NULL, NULL},
    {"FP8 without a plan",
     &plain,
     {Q, S},
     {"1 weights are F8_E4M3 (first x.weight)", NULL},
     NULL,
     NULL},
    {"ignored but FP8",
     &dynamic,
     {Q, S},
     {"1 modules listed as not quantized have F8_E4M3 weights (first x.weight)", NULL},
     "{\"quantization_config\":{\"ignored_layers\":[\"lm_head\",\"re:.*y\",5,\"x\"]}}",
     NULL},
    {"ignored and plain",
     &dynamic,
     {Q, S},
     {NULL, NULL},
     "{\"quantization_config\":{\"ignore\":[\"lm_head\"]}}",
     NULL},
    {"no list", &dynamic, {Q, S}, {NULL, NULL}, "{\"quantization_config\":{\"ignore\":7}}", NULL},
    {"a plan without FP8, scales left over",
     &fixed,
     {{"x.weight", "F32", "[2]", 2, {0}},
      {"x.weight_scale", "F32", "[]", 1, {1}},
      {"y.weight_scale", "F32", "[]", 1, {1}}},
     {"(autofp8), but no weight is F8_E4M3",
      "2 scales of weights that are not F8_E4M3 are ignored (first x.weight_scale)"},
     NULL,
     NULL},
    {"FP8 in compressed form without a plan",
     &plain,
     {{"x.compressed", "F8_E4M3", "[1]", 1, {1}}, {"x.weight_scale", "F32", "[]", 1, {1}}},
     {"1 weights are F8_E4M3 (first x.compressed)", NULL},
     NULL,
     NULL},
    {"an expression names it", &dynamic, {Q, S}, {LISTED, NULL}, IGNORE("\"re:[xy]$\""), NULL},
    {"an expression names another", &dynamic, {Q, S}, {NULL, NULL}, IGNORE("\"re:y\""), NULL},
    {"an expression has to match from the start",
     &dynamic,
     {{"ax.weight", "F8_E4M3", "[1]", 1, {1}}, {"ax.weight_scale", "F32", "[]", 1, {1}}},
     {NULL, NULL},
     IGNORE("\"re:x\""),
     NULL},
    {"a broken expression",
     &dynamic,
     {Q, S},
     {"config.json: names no module: ", NULL},
     IGNORE("\"re:(a\",\"lm_head\""),
     NULL},
    {"a class name", &dynamic, {Q, S}, {LISTED, NULL}, IGNORE("\"Linear\""), NULL},
    {"the older place of the list",
     &dynamic,
     {Q, S},
     {LISTED, NULL},
     "{\"compression_config\":{\"quantization_config\":{\"ignore\":[\"x\"]}}}",
     NULL},
    {"modelopt's side file, with a wildcard",
     &dynamic,
     {Q, S},
     {LISTED, NULL},
     "{}",
     "{\"quantization\":{\"exclude_modules\":[\"*x*\"]}}"},
    {"a linear that is plain but not listed",
     &dynamic,
     {Q, S, {LINEAR ".weight", "BF16", "[1]", 1, {1}}},
     {"1 linears not listed as left out are not F8_E4M3 (first " LINEAR
      ".weight): running them as BF16",
      NULL},
     IGNORE("\"lm_head\""),
     NULL},
    {"a linear that is plain and listed by a part of its name",
     &dynamic,
     {Q, S, {LINEAR ".weight", "BF16", "[1]", 1, {1}}},
     {NULL, NULL},
     IGNORE("\"down_proj\""),
     NULL},
    {"a frozen model has plain weights and scales",
     &frozen,
     {{"x.weight", "BF16", "[1]", 1, {1}}, {"x.weight_scale", "F32", "[]", 1, {1}}},
     {NULL, NULL},
     NULL,
     NULL},
};

static void test_cross_check(const fixture *f) {
    fl_log_set_sink(keep_warning);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_checkpoint *ck;
        warnings[0] = '\0';
        write_parts(f, cases[i].parts);
        fixture_remove(f, "config.json");
        fixture_remove(f, "hf_quant_config.json");
        if (cases[i].config) fixture_text(f, "config.json", cases[i].config);
        if (cases[i].side) fixture_text(f, "hf_quant_config.json", cases[i].side);
        if (fl_checkpoint_open(&ck, f->dir, NULL)) continue;
        fl_quant_cross_check(ck, cases[i].plan);
        size_t lines = 0, want = 0;
        bool ok = true;
        for (const char *p = warnings; *p; p++) lines += *p == ';';
        for (; want < 2 && cases[i].says[want]; want++)
            ok &= strstr(warnings, cases[i].says[want]) != NULL;
        check(ok && lines == want, "cross-check: %s: %s", cases[i].what, warnings);
        fl_checkpoint_close(ck);
    }
    fl_log_set_sink(NULL);
}

static void test_sparsity(const fixture *f) {
    static const struct {
        const char *config;
        bool covers;
    } cases24[] = {
        {"{}", true},
        {"{\"quantization_config\":{\"sparsity_config\":{\"ignore\":[\"lm_head\"]}}}", true},
        {"{\"quantization_config\":{\"sparsity_config\":{\"ignore\":[\"x\"]}}}", false},
        {"{\"quantization_config\":{\"sparsity_config\":{\"ignore\":[\"re:x.*\"]}}}", false},
        {"{\"quantization_config\":{\"sparsity_config\":{\"targets\":[\"Linear\"]}}}", true},
        {"{\"quantization_config\":{\"sparsity_config\":{\"targets\":[]}}}", true},
        {"{\"quantization_config\":{\"sparsity_config\":{\"targets\":[\"y\"]}}}", false},
        {"{\"compression_config\":{\"sparsity_config\":{\"targets\":[\"y\",\"x\"]}}}", true},
    };
    static const part parts[MAX_PARTS] = {Q, S};
    fl_checkpoint *ck;
    write_parts(f, parts);
    if (fl_checkpoint_open(&ck, f->dir, NULL)) return;
    for (size_t i = 0; i < sizeof(cases24) / sizeof(cases24[0]); i++) {
        fixture_text(f, "config.json", cases24[i].config);
        check(fl_sparsity_covers(ck, "x") == cases24[i].covers, "2:4 of x: %s", cases24[i].config);
    }
    fl_checkpoint_close(ck);
}

int main(void) {
    fixture f;
    fixture_new(&f);
    test_cross_check(&f);
    test_sparsity(&f);
    fixture_free(&f);
    return tap_done();
}
