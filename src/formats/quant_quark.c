/* AMD Quark: a scheme for all layers, others by name or type, and layers whose outputs are the KV
 * cache. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "formats/quant_config_priv.h"

/* One tensor of a scheme; a list of several is quantized more than once. */
typedef struct quark_args {
    bool found, dynamic;
    const char *dtype, *qscheme;
} quark_args;

static int read_args(quark_args *a, fl_json_scope layer, const char *key, fl_err *err) {
    const fl_json_node *v = fl_json_get(layer.object, key);
    char path[320];
    *a = (quark_args){.found = v != NULL, .dtype = "?", .qscheme = "?"};
    if (fl_json_is_array(v) && fl_json_size(v) == 1) v = fl_json_first(v);
    if (!v) return FL_OK;
    if (fl_json_is_array(v))
        return fl_quant_unsupported(layer, key, "quantizing in more than one step", err);
    if (!fl_json_is_object(v)) return fl_quant_malformed(layer, key, "not an object", err);
    snprintf(path, sizeof(path), "%s%s.", layer.path, key);
    const fl_json_scope in = {layer.doc, v, path};
    int rc;
    if ((rc = fl_json_read_string(in, "dtype", &a->dtype, err)) ||
        (rc = fl_json_read_string(in, "qscheme", &a->qscheme, err)))
        return rc;
    return fl_json_read_bool(in, "is_dynamic", &a->dynamic, err);
}

static int refuse_args(fl_json_scope layer, const char *key, const quark_args *a, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s: %.40s, %.40s%s is not supported",
                   fl_json_name(layer.doc), layer.path, key, a->dtype, a->qscheme,
                   a->dynamic ? ", dynamic" : "");
}

/* Inputs with dynamic scales are quantized token by token, whatever qscheme says, as vLLM does. */
static int read_scheme(fl_quant_plan *p, bool *plain, bool kv, fl_json_scope layer, fl_err *err) {
    quark_args w, x, y;
    int rc;
    if ((rc = read_args(&w, layer, "weight", err)) ||
        (rc = read_args(&x, layer, "input_tensors", err)) ||
        (rc = read_args(&y, layer, "output_tensors", err)))
        return rc;
    *plain = !w.found && !x.found && (kv || !y.found);
    if (*plain) return FL_OK;
    if (!w.found)
        return fl_quant_unsupported(layer, "weight", "null beside quantized activations", err);
    if (strcmp(w.dtype, "fp8_e4m3") || w.dynamic ||
        (strcmp(w.qscheme, "per_tensor") && strcmp(w.qscheme, "per_channel")))
        return refuse_args(layer, "weight", &w, err);
    if (y.found && !kv) return refuse_args(layer, "output_tensors", &y, err);
    p->act = !x.found ? FL_ACT_NONE : x.dynamic ? FL_ACT_TOKEN : FL_ACT_STATIC;
    if (x.found && (strcmp(x.dtype, "fp8_e4m3") || (!x.dynamic && strcmp(x.qscheme, "per_tensor"))))
        return refuse_args(layer, "input_tensors", &x, err);
    return FL_OK;
}

/* Whether the outputs of these layers are keys and values, or queries quantized along with them. */
static bool makes_kv(const char *name, const fl_json_node *group) {
    if (strstr(name, "q_proj") || strstr(name, "qkv")) return fl_json_first(group) != NULL;
    for (const fl_json_node *v = fl_json_first(group); v; v = fl_json_next(v)) {
        const char *pattern = fl_json_string(v);
        if (pattern && (!strcmp(pattern, name) || !fnmatch(pattern, name, 0))) return true;
    }
    return false;
}

static int add_layer(fl_quant_rules *r, fl_rule_kind kind, const char *name,
                     const fl_json_node *group, fl_json_scope layer, fl_err *err) {
    fl_quant_plan one = {.flavour = FL_QUANT_QUARK};
    fl_err why = {0};
    bool plain = false;
    if (fl_json_is_object(layer.object))
        read_scheme(&one, &plain, makes_kv(name, group), layer, &why);
    else
        fl_quant_malformed(layer, "", "not an object", &why);
    return plain ? FL_OK : fl_quant_rules_add(r, kind, name, &one, &why, err);
}

/* The members of layer_quant_config or layer_type_quant_config. */
static int add_layers(fl_quant_rules *r, fl_json_scope s, const char *key,
                      const fl_json_node *group, fl_err *err) {
    const fl_json_node *layers = fl_json_get(s.object, key);
    const bool by_type = !strcmp(key, "layer_type_quant_config");
    for (const fl_json_node *v = fl_json_first(layers); v; v = fl_json_next(v)) {
        const char *name = fl_json_key(v);
        char path[320];
        if (!name || fl_json_member(layers, name) != v || (by_type && !strstr(name, "Linear")))
            continue;
        snprintf(path, sizeof(path), "%s%s.%.150s.", s.path, key, name);
        int rc = add_layer(r, by_type ? FL_RULE_LINEAR : FL_RULE_GLOB, name, group,
                           (fl_json_scope){s.doc, v, path}, err);
        if (rc) return rc;
    }
    return FL_OK;
}

static int add_all(fl_quant_rules *r, fl_json_scope s, const fl_json_node *group, fl_err *err) {
    const fl_json_node *global = fl_json_get(s.object, "global_quant_config");
    char path[120];
    snprintf(path, sizeof(path), "%sglobal_quant_config.", s.path);
    int rc =
        global ? add_layer(r, FL_RULE_LINEAR, "", group, (fl_json_scope){s.doc, global, path}, err)
               : FL_OK; /* before the types, of which the later counts */
    if (rc || (rc = add_layers(r, s, "layer_type_quant_config", group, err))) return rc;
    return add_layers(r, s, "layer_quant_config", group, err);
}

/* The type of the first layer of the group that says what its outputs are. */
static void read_kv(fl_quant_plan *p, fl_json_scope s, const fl_json_node *group) {
    static const char *const keys[] = {"layer_quant_config", "kv_cache_quant_config"};
    for (int i = 0; i < 2; i++) {
        const fl_json_node *layers = fl_json_get(s.object, keys[i]);
        for (const fl_json_node *v = fl_json_first(layers); v; v = fl_json_next(v)) {
            const fl_json_node *y = fl_json_get(v, "output_tensors");
            if (!fl_json_key(v) || !fl_json_is_object(y) || strstr(fl_json_key(v), "q_proj") ||
                !makes_kv(fl_json_key(v), group))
                continue;
            const char *dtype = fl_json_string(fl_json_get(y, "dtype"));
            const char *qscheme = fl_json_string(fl_json_get(y, "qscheme"));
            bool dynamic = false;
            fl_json_is_bool(fl_json_get(y, "is_dynamic"), &dynamic);
            p->kv_fp8 = dtype && !strcmp(dtype, "fp8_e4m3") && !dynamic && qscheme &&
                        !strcmp(qscheme, "per_tensor");
            if (!p->kv_fp8) fl_quant_warn_kv(s, dtype ? dtype : "without a dtype");
            return;
        }
    }
}

int fl_quant_plan_quark(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const fl_json_node *group = fl_json_get(fl_json_get(s.object, "export"), "kv_cache_group");
    fl_quant_rules *rules;
    int rc = fl_quant_rules_new(&rules, err);
    if (rc) return rc;
    if ((rc = add_all(rules, s, group, err))) {
        fl_quant_rules_free(rules);
        return rc;
    }
    if ((rc = fl_quant_settle(p, FL_QUANT_QUARK, rules, s, err))) return rc;
    read_kv(p, s, group);
    return FL_OK;
}
