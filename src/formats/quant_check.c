#include "formats/quant_check.h"

#include <string.h>

#include "formats/module_pattern.h"
#include "formats/quant_rules.h"
#include "util/file.h"
#include "util/json.h"
#include "util/log.h"
#include "util/mem.h"

enum { MAX_NAME = 512, MAX_CONFIG_BYTES = 16 << 20, MAX_LISTS = 8 };

/* The lists of modules that are not quantized. */
typedef struct ignore_lists {
    fl_json *config, *side;
    const fl_json_node *list[MAX_LISTS];
    int n;
} ignore_lists;

/* NULL without the file, the memory or valid JSON: there is nothing to compare with then. */
static fl_json *open_json(const fl_checkpoint *ck, const char *name) {
    fl_json *doc = NULL;
    char *path = fl_path_join(fl_checkpoint_dir(ck), name);
    if (path && fl_file_exists(path) && fl_json_load(&doc, path, MAX_CONFIG_BYTES, NULL))
        doc = NULL;
    fl_free(path);
    return doc;
}

/* The quantization section of config.json, wherever that generation of tools put it. */
static const fl_json_node *section_of(const fl_json *config) {
    const fl_json_node *root = config ? fl_json_root(config) : NULL;
    const fl_json_node *s = fl_json_get(root, "quantization_config");
    return s ? s : fl_json_get(root, "compression_config");
}

static void add_lists(ignore_lists *l, const fl_json_node *section) {
    for (size_t i = 0; fl_ignore_keys[i] && l->n < MAX_LISTS; i++) {
        const fl_json_node *v = fl_json_get(section, fl_ignore_keys[i]);
        if (fl_json_is_array(v)) l->list[l->n++] = v;
    }
}

static void open_lists(ignore_lists *l, const fl_checkpoint *ck) {
    *l = (ignore_lists){.config = open_json(ck, "config.json")};
    const fl_json_node *section = section_of(l->config);
    const fl_json_node *nested = fl_json_get(section, "quantization_config");
    add_lists(l, nested ? nested : section);
    if (section || !(l->side = open_json(ck, "hf_quant_config.json"))) return;
    add_lists(l, fl_json_get(fl_json_root(l->side), "quantization"));
}

static void close_lists(ignore_lists *l) {
    fl_json_free(l->config);
    fl_json_free(l->side);
}

static bool is_ignored(const ignore_lists *l, const char *module) {
    for (int i = 0; i < l->n; i++) {
        if (fl_module_in_list(l->list[i], module)) return true;
    }
    return false;
}

/* Some engines take each entry as a part of a name. */
static bool may_be_ignored(const ignore_lists *l, const char *module) {
    for (int i = 0; i < l->n; i++) {
        for (const fl_json_node *v = fl_json_first(l->list[i]); v; v = fl_json_next(v)) {
            if (fl_json_string(v) && strstr(module, fl_json_string(v))) return true;
        }
    }
    return is_ignored(l, module);
}

/* The first expression of the lists that cannot be read. */
static void warn_patterns(const ignore_lists *l) {
    fl_err e = {0};
    for (int i = 0; i < l->n; i++) {
        for (const fl_json_node *v = fl_json_first(l->list[i]); v; v = fl_json_next(v)) {
            const char *p = fl_json_string(v);
            if (!p || strncmp(p, "re:", 3) || !fl_module_pattern_check(p, &e)) continue;
            fl_log(FL_LOG_WARN, "%s: names no module: %s",
                   fl_json_name(l->side ? l->side : l->config), e.msg);
            return;
        }
    }
}

/* name without suffix into module; false when it does not end in it. */
static bool strip(char module[MAX_NAME], const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    if (n <= k || n - k >= MAX_NAME || strcmp(name + n - k, suffix)) return false;
    memcpy(module, name, n - k);
    module[n - k] = '\0';
    return true;
}

/* The module whose weight t is, in any form. */
static bool weight_of(char module[MAX_NAME], const fl_st_tensor *t) {
    return strip(module, t->name, ".weight.compressed") || strip(module, t->name, ".compressed") ||
           strip(module, t->name, ".weight");
}

static bool has_fp8_weight(const fl_checkpoint *ck, const char *module) {
    static const char *const leaves[] = {".weight", ".compressed", ".weight.compressed"};
    char name[MAX_NAME];
    for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
        if (strlen(module) + strlen(leaves[i]) >= MAX_NAME) return false;
        strcpy(stpcpy(name, module), leaves[i]);
        const fl_st_tensor *t = fl_checkpoint_find(ck, name);
        if (t) return t->dtype == FL_DTYPE_E4M3;
    }
    return false;
}

typedef struct tally { /* how many there are, and the first */
    size_t n;
    const fl_st_tensor *first;
} tally;

static void count(tally *t, const fl_st_tensor *one) {
    if (!t->n++) t->first = one;
}

static bool is_plain(fl_dtype t) {
    return t == FL_DTYPE_BF16 || t == FL_DTYPE_F16 || t == FL_DTYPE_F32;
}

static bool is_layer_linear(const char *module) {
    size_t n = strlen(module);
    return !strncmp(module, "model.layers.", 13) && n > 5 && !strcmp(module + n - 5, "_proj");
}

void fl_quant_cross_check(const fl_checkpoint *ck, const fl_quant_plan *plan) {
    tally fp8 = {0}, idle = {0}, listed = {0}, unlisted = {0};
    ignore_lists lists;
    char module[MAX_NAME];
    open_lists(&lists, ck);
    for (size_t i = 0; i < fl_checkpoint_count(ck); i++) {
        const fl_st_tensor *t = fl_checkpoint_at(ck, i);
        if (weight_of(module, t)) {
            const bool quantized = t->dtype == FL_DTYPE_E4M3;
            if (quantized) count(&fp8, t);
            if (quantized && is_ignored(&lists, module)) count(&listed, t);
            if (is_plain(t->dtype) && is_layer_linear(module) && !may_be_ignored(&lists, module) &&
                (!plan->rules || fl_quant_rules_find(plan->rules, module, NULL)))
                count(&unlisted, t);
        } else if ((strip(module, t->name, ".weight_scale") ||
                    strip(module, t->name, ".weight_scale_inv")) &&
                   !has_fp8_weight(ck, module)) {
            count(&idle, t);
        }
    }
    const char *dir = fl_checkpoint_dir(ck);
    if (plan->flavour == FL_QUANT_NONE && fp8.n)
        fl_log(FL_LOG_WARN,
               "%s: config.json tells of no quantization, but %zu weights are F8_E4M3 "
               "(first %s): running them as FP8",
               dir, fp8.n, fp8.first->name);
    if (plan->flavour != FL_QUANT_NONE && !fp8.n && !plan->frozen)
        fl_log(FL_LOG_WARN, "%s: quantized by config.json (%s), but no weight is F8_E4M3", dir,
               fl_quant_flavour_name(plan->flavour));
    if (plan->flavour != FL_QUANT_NONE && fp8.n && unlisted.n && !plan->frozen)
        fl_log(FL_LOG_WARN,
               "%s: %zu linears not listed as left out are not F8_E4M3 (first %s): running them "
               "as %s",
               dir, unlisted.n, unlisted.first->name, fl_dtype_name(unlisted.first->dtype));
    if (idle.n && !plan->frozen)
        fl_log(FL_LOG_WARN, "%s: %zu scales of weights that are not F8_E4M3 are ignored (first %s)",
               dir, idle.n, idle.first->name);
    if (listed.n)
        fl_log(FL_LOG_WARN,
               "%s: %zu modules listed as not quantized have F8_E4M3 weights (first %s): "
               "running them as FP8",
               dir, listed.n, listed.first->name);
    warn_patterns(&lists);
    close_lists(&lists);
}

bool fl_sparsity_covers(const fl_checkpoint *ck, const char *module) {
    fl_json *config = open_json(ck, "config.json");
    const fl_json_node *s = fl_json_get(section_of(config), "sparsity_config");
    const fl_json_node *targets = fl_json_get(s, "targets");
    bool covers = !fl_module_in_list(fl_json_get(s, "ignore"), module) &&
                  (!fl_json_first(targets) || fl_module_in_list(targets, module));
    fl_json_free(config);
    return covers;
}
