/* compressed-tensors: groups of targets with their arguments. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "formats/quant_config_priv.h"
#include "util/log.h"

/* QuantizationArgs of compressed-tensors, with its defaults. */
typedef struct ct_args {
    const char *type, *strategy;
    int64_t num_bits, group_size;
    bool symmetric, dynamic;
} ct_args;

static int read_ct_args(ct_args *a, fl_json_scope s, fl_err *err) {
    int rc;
    *a = (ct_args){.type = "int", .num_bits = 8, .symmetric = true};
    const fl_json_node *dynamic = fl_json_get(s.object, "dynamic");
    if ((rc = fl_json_read_string(s, "type", &a->type, err)) ||
        (rc = fl_json_read_string(s, "strategy", &a->strategy, err)) ||
        (rc = fl_json_read_int(s, "num_bits", 1, 64, &a->num_bits, err)) ||
        (rc = fl_json_read_int(s, "group_size", -1, 1 << 20, &a->group_size, err)) ||
        (rc = fl_json_read_bool(s, "symmetric", &a->symmetric, err)))
        return rc;
    if (fl_json_string(dynamic)) return fl_quant_refuse(s, "dynamic", fl_json_string(dynamic), err);
    if ((rc = fl_json_read_bool(s, "dynamic", &a->dynamic, err))) return rc;
    if (!a->strategy)
        a->strategy = a->group_size > 0 ? "group" : a->group_size < 0 ? "channel" : "tensor";
    return FL_OK;
}

/* "4-bit int, strategy group" and why not; beside: what the inputs are, NULL: nothing. */
static int refuse_args(fl_json_scope s, const ct_args *a, const ct_args *beside, fl_err *err) {
    char with[120] = "";
    if (beside)
        snprintf(with, sizeof(with), " for inputs of %lld-bit %.20s (W%lld%sA%s%lld)",
                 (long long)beside->num_bits, beside->type, (long long)a->num_bits,
                 strcmp(a->type, "float") ? "" : "FP", strcmp(beside->type, "float") ? "" : "FP",
                 (long long)beside->num_bits);
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%lld-bit %s, strategy %s%s%s%s is not supported",
                   fl_json_name(s.doc), s.path, (long long)a->num_bits, a->type, a->strategy,
                   a->symmetric ? "" : ", asymmetric", a->dynamic ? ", dynamic" : "", with);
}

static bool is_fp8(const ct_args *a) {
    return a->num_bits == 8 && a->symmetric && !strcmp(a->type, "float");
}

/* One of the objects of a group; *found false when it is absent or null. */
static int read_group_args(ct_args *a, bool *found, fl_json_scope group, const char *key,
                           char path[240], fl_json_scope *inner, fl_err *err) {
    const fl_json_node *v = fl_json_get(group.object, key);
    *found = v != NULL;
    if (!v) return FL_OK;
    if (!fl_json_is_object(v)) return fl_quant_malformed(group, key, "not an object", err);
    snprintf(path, 240, "%s%s: ", group.path, key);
    *inner = (fl_json_scope){group.doc, v, path};
    return read_ct_args(a, *inner, err);
}

/* `format` of the whole model or of a group; "" when absent. */
static int read_ct_format(const char **out, fl_json_scope s, fl_err *err) {
    static const char *const known[] = {
        "", "float-quantized", "naive-quantized", "mixed-precision", "dense", "fakequant"};
    *out = "";
    int rc = fl_json_read_string(s, "format", out, err);
    for (size_t i = 0; !rc && i < sizeof(known) / sizeof(known[0]); i++) {
        if (!strcmp(*out, known[i])) return FL_OK;
    }
    return rc ? rc : fl_quant_refuse(s, "format", *out, err);
}

/* Whether a model of this format is stored before its weights were made E4M3. */
static bool is_frozen(const char *format) {
    return !strcmp(format, "dense") || !strcmp(format, "fakequant");
}

/* Weights: FP8 by tensor, channel or block, known when loading. */
static int read_ct_weights(fl_quant_plan *g, fl_json_scope s, const ct_args *w,
                           const ct_args *inputs, fl_err *err) {
    const bool block = !strcmp(w->strategy, "block");
    if (!is_fp8(w) || w->dynamic ||
        (strcmp(w->strategy, "tensor") && strcmp(w->strategy, "channel") && !block))
        return refuse_args(s, w, inputs, err);
    if (!block) return FL_OK;
    return fl_quant_read_block(&g->block_n, &g->block_k, s, "block_structure", err);
}

/* Inputs: plain, static, or dynamic by token or by group of 128.  A dynamic scale of the whole
 * tensor is made by token, as vLLM does: results must not depend on the batch. */
static int read_ct_inputs(fl_quant_plan *g, fl_json_scope s, const ct_args *x, fl_err *err) {
    const bool tensor = !strcmp(x->strategy, "tensor"), token = !strcmp(x->strategy, "token");
    const bool group = !strcmp(x->strategy, "group") && x->group_size == FL_ACT_GROUP_K;
    if (!is_fp8(x) || !(tensor || ((token || group) && x->dynamic)))
        return refuse_args(s, x, NULL, err);
    g->act = group ? FL_ACT_GROUP : x->dynamic ? FL_ACT_TOKEN : FL_ACT_STATIC;
    return FL_OK;
}

/* One group into act and block sizes; *plain: it quantizes nothing that a linear has. */
static int read_ct_group(fl_quant_plan *g, bool *plain, fl_json_scope s, fl_err *err) {
    int rc;
    ct_args w, x, y;
    bool has_w, has_x, has_y;
    const char *format;
    char w_path[240], x_path[240], y_path[240];
    fl_json_scope w_in, x_in, y_in;
    if ((rc = read_group_args(&w, &has_w, s, "weights", w_path, &w_in, err)) ||
        (rc = read_group_args(&x, &has_x, s, "input_activations", x_path, &x_in, err)) ||
        (rc = read_group_args(&y, &has_y, s, "output_activations", y_path, &y_in, err)))
        return rc;
    *plain = !has_w && !has_x && !has_y;
    if (*plain) return FL_OK;
    if (!has_w) return fl_quant_malformed(s, "weights", "missing beside activations", err);
    if ((rc = read_ct_weights(g, w_in, &w, has_x ? &x : NULL, err))) return rc;
    if (has_y) return refuse_args(y_in, &y, NULL, err);
    if (has_x && (rc = read_ct_inputs(g, x_in, &x, err))) return rc;
    if ((rc = read_ct_format(&format, s, err))) return rc;
    g->frozen |= is_frozen(format);
    return FL_OK;
}

/* A group may also be a preset's name with the list of its targets. */
static int read_ct_preset(fl_quant_plan *g, fl_json_scope s, const char *name, fl_err *err) {
    if (!strcmp(name, "FP8")) {
        g->act = FL_ACT_STATIC;
    } else if (!strcmp(name, "FP8_DYNAMIC")) {
        g->act = FL_ACT_TOKEN;
    } else if (!strcmp(name, "FP8_BLOCK")) {
        g->act = FL_ACT_GROUP;
        g->block_n = g->block_k = FL_ACT_GROUP_K;
    } else {
        return fl_quant_refuse(s, "config_groups:", name, err);
    }
    return FL_OK;
}

static int add_target(fl_quant_rules *r, const char *target, const fl_quant_plan *scheme,
                      const fl_err *why, fl_err *err) {
    fl_rule_kind kind = FL_RULE_NAME;
    if (!strncmp(target, "re:", 3)) kind = FL_RULE_PATTERN;
    if (!strcmp(target, "Linear")) kind = FL_RULE_LINEAR;
    return fl_quant_rules_add(r, kind, target, scheme, why, err);
}

/* A scheme and whom it concerns; attention, an embedding or nobody are no linear's business.
 * Without targets it is everybody. */
static int add_ct_group(fl_quant_rules *r, const fl_quant_plan *scheme, const fl_json_node *targets,
                        const fl_err *why, fl_err *err) {
    if (fl_json_string(targets)) return add_target(r, fl_json_string(targets), scheme, why, err);
    if (!targets) return add_target(r, "Linear", scheme, why, err);
    for (const fl_json_node *v = fl_json_first(targets); v; v = fl_json_next(v)) {
        const char *target = fl_json_string(v);
        int rc = target ? add_target(r, target, scheme, why, err) : FL_OK;
        if (rc) return rc;
    }
    return FL_OK;
}

/* What is wrong with a group is told when a linear turns out to be in it. */
static int read_ct_groups(fl_quant_rules *r, const fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const fl_json_node *groups = fl_json_get(s.object, "config_groups");
    int rc = FL_OK;
    if (groups && !fl_json_is_object(groups))
        return fl_quant_malformed(s, "config_groups", "not an object", err);
    for (const fl_json_node *g = fl_json_first(groups); g && !rc; g = fl_json_next(g)) {
        fl_quant_plan one = {.flavour = FL_QUANT_COMPRESSED_TENSORS, .frozen = p->frozen};
        fl_err why = {0};
        bool plain = false;
        char path[200];
        snprintf(path, sizeof(path), "%sconfig_groups.%.60s.", s.path, fl_json_key(g));
        const fl_json_scope in = {s.doc, g, path};
        if (fl_json_member(groups, fl_json_key(g)) != g) continue; /* a later one replaces it */
        if (fl_json_is_array(g))
            read_ct_preset(&one, s, fl_json_key(g), &why);
        else if (fl_json_is_object(g))
            read_ct_group(&one, &plain, in, &why);
        else
            fl_quant_malformed(s, "config_groups", "a group is not an object", &why);
        if (plain) continue;
        rc = add_ct_group(r, &one, fl_json_is_array(g) ? g : fl_json_get(g, "targets"), &why, err);
    }
    return rc;
}

/* Why an FP8 cache of this scheme is not made. */
static void warn_scheme(fl_json_scope s, const ct_args *a) {
    char text[120];
    const char *what = !is_fp8(a)                          ? ""
                       : a->dynamic                        ? ", dynamic"
                       : !strcmp(a->strategy, "attn_head") ? ", a scale for each head"
                                                           : ", not one scale for all";
    snprintf(text, sizeof(text), "of %lld-bit %.20s, strategy %.20s%s%s", (long long)a->num_bits,
             a->type, a->strategy, a->symmetric ? "" : ", asymmetric", what);
    fl_quant_warn_kv(s, text);
}

int fl_quant_read_kv(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, "kv_cache_scheme");
    ct_args a;
    char path[80];
    if (!v) return FL_OK;
    if (fl_json_string(v)) {
        p->kv_fp8 = !strcasecmp(fl_json_string(v), "FP8");
        if (!p->kv_fp8) fl_quant_warn_kv(s, fl_json_string(v));
        return FL_OK;
    }
    if (!fl_json_is_object(v))
        return fl_quant_malformed(s, "kv_cache_scheme", "neither an object nor a name", err);
    snprintf(path, sizeof(path), "%skv_cache_scheme.", s.path);
    fl_json_scope in = {s.doc, v, path};
    int rc = read_ct_args(&a, in, err);
    if (rc) return rc;
    p->kv_fp8 = is_fp8(&a) && !a.dynamic && !strcmp(a.strategy, "tensor");
    if (!p->kv_fp8) warn_scheme(s, &a);
    return FL_OK;
}

/* One rule for all linears needs no rules. */
static int settle_ct(fl_quant_plan *p, fl_quant_rules *r, bool only_linear, fl_json_scope s,
                     fl_err *err) {
    int rc = fl_quant_settle(p, FL_QUANT_COMPRESSED_TENSORS, r, s, err);
    if (!rc && only_linear) fl_quant_plan_free(p);
    return rc;
}

/* quant_method "compressed-tensors". */
int fl_quant_plan_ct(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    int rc;
    char path[80];
    const char *format, *status = "compressed";
    fl_quant_rules *rules;
    fl_err bad_format = {0};
    const fl_json_node *nested = fl_json_get(s.object, "quantization_config");
    if (nested) {
        if (!fl_json_is_object(nested))
            return fl_quant_malformed(s, "quantization_config", "not an object", err);
        snprintf(path, sizeof(path), "%squantization_config.", s.path);
        s = (fl_json_scope){s.doc, nested, path};
    }
    read_ct_format(&format, s, &bad_format);
    if ((rc = fl_json_read_string(s, "quantization_status", &status, err))) return rc;
    const bool groups = fl_json_first(fl_json_get(s.object, "config_groups")) != NULL;
    fl_quant_plan model = {
        .frozen = groups && (!*format || is_frozen(format) || strcmp(status, "compressed") != 0)};
    const fl_json_node *transform = fl_json_get(s.object, "transform_config");
    if (fl_json_first(transform))
        return fl_quant_unsupported(s, "transform_config", "a rotation of the weights", err);
    if ((rc = fl_quant_rules_new(&rules, err))) return rc;
    if ((rc = read_ct_groups(rules, &model, s, err))) {
        fl_quant_rules_free(rules);
        return rc;
    }
    const bool only_linear =
        fl_quant_rules_count(rules) == 1 && fl_quant_rules_find(rules, "Linear", NULL);
    if ((rc = settle_ct(p, rules, only_linear, s, err))) return rc;
    if (bad_format.code && (p->flavour != FL_QUANT_NONE || !groups))
        return fl_fail(err, bad_format.code, "%s", bad_format.msg);
    return fl_quant_read_kv(p, s, err);
}
