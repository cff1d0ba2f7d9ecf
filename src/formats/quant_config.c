#include "formats/quant_config.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "util/file.h"
#include "util/json.h"
#include "util/log.h"
#include "util/mem.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

const char *fl_quant_flavour_name(fl_quant_flavour f) {
    switch (f) {
    case FL_QUANT_NONE:
        return "none";
    case FL_QUANT_AUTOFP8:
        return "autofp8";
    case FL_QUANT_COMPRESSED_TENSORS:
        return "compressed-tensors";
    case FL_QUANT_MODELOPT:
        return "modelopt";
    case FL_QUANT_FBGEMM:
        return "fbgemm";
    }
    return "unknown";
}

static int refuse(fl_json_scope s, const char *key, const char *value, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s \"%.80s\" is not supported",
                   fl_json_name(s.doc), s.path, key, value);
}

static int unsupported(fl_json_scope s, const char *key, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s: %s is not supported", fl_json_name(s.doc),
                   s.path, key, what);
}

static int malformed(fl_json_scope s, const char *key, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT, "%s: %s%s: %s", fl_json_name(s.doc), s.path, key, what);
}

/* A KV cache we cannot make is no reason to refuse: the model keeps BF16 keys and values. */
static void warn_kv(fl_json_scope s, const char *scheme) {
    fl_log(FL_LOG_WARN, "%s: KV cache scheme %.80s is not supported, keys and values stay BF16",
           fl_json_name(s.doc), scheme);
}

/* One axis of a block; columns are those of an activation group. */
static int read_block_side(int64_t *out, fl_json_scope s, const char *key, const fl_json_node *v,
                           bool columns, fl_err *err) {
    int64_t n = 0;
    if (!fl_json_is_int(v, &n) || n < 1 || n > 1 << 20)
        return malformed(s, key, "need two sizes from 1 to 1048576", err);
    if (columns && n != FL_ACT_GROUP_K)
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %s%s: blocks of %lld columns, only %d is supported",
                       fl_json_name(s.doc), s.path, key, (long long)n, FL_ACT_GROUP_K);
    *out = n;
    return FL_OK;
}

/* [rows, columns], or "128x128" in older files. */
static int read_block(int64_t *n, int64_t *k, fl_json_scope s, const char *key, fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, key), *rows = fl_json_first(v);
    if (fl_json_string(v)) {
        if (strcmp(fl_json_string(v), "128x128")) return refuse(s, key, fl_json_string(v), err);
        *n = *k = FL_ACT_GROUP_K;
        return FL_OK;
    }
    if (!fl_json_is_array(v) || fl_json_size(v) != 2)
        return malformed(s, key, "need two sizes from 1 to 1048576", err);
    int rc = read_block_side(n, s, key, rows, false, err);
    return rc ? rc : read_block_side(k, s, key, fl_json_next(rows), true, err);
}

/* quant_method "fp8": AutoFP8, and block FP8 when weight_block_size is there. */
static int plan_autofp8(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *scheme = NULL;
    int rc = fl_json_read_string(s, "activation_scheme", &scheme, err);
    if (rc) return rc;
    const bool block = fl_json_get(s.object, "weight_block_size") != NULL;
    if (!scheme) return malformed(s, "activation_scheme", "missing", err);
    if (block && (rc = read_block(&p->block_n, &p->block_k, s, "weight_block_size", err)))
        return rc;
    if (!strcmp(scheme, "static"))
        p->act = FL_ACT_STATIC;
    else if (!strcmp(scheme, "dynamic"))
        p->act = block ? FL_ACT_GROUP : FL_ACT_TOKEN;
    else
        return refuse(s, "activation_scheme", scheme, err);
    if (block && p->act == FL_ACT_STATIC)
        return unsupported(s, "activation_scheme", "static with weight_block_size", err);
    p->flavour = FL_QUANT_AUTOFP8;
    p->kv_fp8 = fl_json_get(s.object, "kv_cache_scheme") != NULL; /* a string here: "static" */
    return FL_OK;
}

/* quant_method "fbgemm_fp8": rows of weights and tokens have their own scales, the largest
 * magnitude of a token is taken as at most activation_scale_ub. */
static int plan_fbgemm(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    double ub = 1200.0;
    int rc = fl_json_read_number(s, "activation_scale_ub", 1e-6, 1e30, &ub, err);
    p->flavour = FL_QUANT_FBGEMM;
    p->act = FL_ACT_TOKEN;
    p->act_scale_ub = (float)ub;
    return rc;
}

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
    if (fl_json_string(dynamic)) return refuse(s, "dynamic", fl_json_string(dynamic), err);
    if ((rc = fl_json_read_bool(s, "dynamic", &a->dynamic, err))) return rc;
    if (!a->strategy)
        a->strategy = a->group_size > 0 ? "group" : a->group_size < 0 ? "channel" : "tensor";
    return FL_OK;
}

/* "4-bit int, strategy group" and why not. */
static int refuse_args(fl_json_scope s, const ct_args *a, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%lld-bit %s, strategy %s%s%s is not supported",
                   fl_json_name(s.doc), s.path, (long long)a->num_bits, a->type, a->strategy,
                   a->symmetric ? "" : ", asymmetric", a->dynamic ? ", dynamic" : "");
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
    if (!fl_json_is_object(v)) return malformed(group, key, "not an object", err);
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
    return rc ? rc : refuse(s, "format", *out, err);
}

/* Whether a model of this format is stored before its weights were made E4M3. */
static bool is_frozen(const char *format) {
    return !strcmp(format, "dense") || !strcmp(format, "fakequant");
}

/* Weights: FP8 by tensor, channel or block, known when loading. */
static int read_ct_weights(fl_quant_plan *g, fl_json_scope s, const ct_args *w, fl_err *err) {
    const bool block = !strcmp(w->strategy, "block");
    if (!is_fp8(w) || w->dynamic ||
        (strcmp(w->strategy, "tensor") && strcmp(w->strategy, "channel") && !block))
        return refuse_args(s, w, err);
    if (!block) return FL_OK;
    return read_block(&g->block_n, &g->block_k, s, "block_structure", err);
}

/* Inputs: plain, static, or dynamic by token or by group of 128.  A dynamic scale of the whole
 * tensor is made by token, as vLLM does: results must not depend on the batch. */
static int read_ct_inputs(fl_quant_plan *g, fl_json_scope s, const ct_args *x, fl_err *err) {
    const bool tensor = !strcmp(x->strategy, "tensor"), token = !strcmp(x->strategy, "token");
    const bool group = !strcmp(x->strategy, "group") && x->group_size == FL_ACT_GROUP_K;
    if (!is_fp8(x) || !(tensor || ((token || group) && x->dynamic))) return refuse_args(s, x, err);
    g->act = group ? FL_ACT_GROUP : x->dynamic ? FL_ACT_TOKEN : FL_ACT_STATIC;
    return FL_OK;
}

/* One group into act and block sizes. */
static int read_ct_group(fl_quant_plan *g, fl_json_scope s, fl_err *err) {
    int rc;
    ct_args w, x, y;
    bool has_w, has_x, has_y;
    const char *format;
    char path[240];
    fl_json_scope in;
    if ((rc = read_group_args(&w, &has_w, s, "weights", path, &in, err))) return rc;
    if (!has_w) return malformed(s, "weights", "missing", err);
    if ((rc = read_ct_weights(g, in, &w, err))) return rc;
    if ((rc = read_group_args(&y, &has_y, s, "output_activations", path, &in, err))) return rc;
    if (has_y) return refuse_args(in, &y, err);
    if ((rc = read_group_args(&x, &has_x, s, "input_activations", path, &in, err))) return rc;
    if (has_x && (rc = read_ct_inputs(g, in, &x, err))) return rc;
    if ((rc = read_ct_format(&format, s, err))) return rc;
    g->frozen = is_frozen(format);
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
        return refuse(s, "config_groups:", name, err);
    }
    return FL_OK;
}

/* Groups may differ in how weights are scaled, which the tensors show, not in anything else. */
static int merge_ct_group(fl_quant_plan *p, const fl_quant_plan *g, fl_json_scope s, fl_err *err) {
    const bool first = p->flavour == FL_QUANT_NONE;
    if (!first && p->act != g->act)
        return unsupported(s, "config_groups", "more than one activation scheme", err);
    if (p->block_n && g->block_n && p->block_n != g->block_n)
        return unsupported(s, "config_groups", "more than one block size", err);
    p->flavour = FL_QUANT_COMPRESSED_TENSORS;
    p->act = g->act;
    p->frozen |= g->frozen;
    if (g->block_n) p->block_n = g->block_n;
    if (g->block_k) p->block_k = g->block_k;
    return FL_OK;
}

static int read_ct_groups(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const fl_json_node *groups = fl_json_get(s.object, "config_groups");
    if (groups && !fl_json_is_object(groups))
        return malformed(s, "config_groups", "not an object", err);
    for (const fl_json_node *g = fl_json_first(groups); g; g = fl_json_next(g)) {
        int rc;
        fl_quant_plan one = {.flavour = FL_QUANT_NONE};
        char path[200];
        snprintf(path, sizeof(path), "%sconfig_groups.%.60s.", s.path, fl_json_key(g));
        fl_json_scope in = {s.doc, g, path};
        if (fl_json_is_array(g))
            rc = read_ct_preset(&one, s, fl_json_key(g), err);
        else if (fl_json_is_object(g))
            rc = read_ct_group(&one, in, err);
        else
            rc = malformed(s, "config_groups", "a group is not an object", err);
        if (rc || (rc = merge_ct_group(p, &one, s, err))) return rc;
    }
    return FL_OK;
}

/* {} and null are written for "none".  The format is known again from the tensors. */
static int read_sparsity(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    int rc;
    char path[80];
    const char *format = "dense", *structure = "unstructured";
    const fl_json_node *v = fl_json_get(s.object, "sparsity_config");
    if (!v) return FL_OK;
    if (!fl_json_is_object(v)) return malformed(s, "sparsity_config", "not an object", err);
    snprintf(path, sizeof(path), "%ssparsity_config.", s.path);
    fl_json_scope in = {s.doc, v, path};
    if ((rc = fl_json_read_string(in, "format", &format, err)) ||
        (rc = fl_json_read_string(in, "sparsity_structure", &structure, err)))
        return rc;
    const bool bitmask24 = !strcmp(format, "sparse-24-bitmask");
    if (strcmp(format, "dense") && strcmp(format, "sparse-bitmask") && !bitmask24)
        return refuse(in, "format", format, err);
    p->sparse24 = bitmask24 || !strcmp(structure, "2:4");
    return FL_OK;
}

static int read_ct_kv(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, "kv_cache_scheme");
    ct_args a;
    char path[80];
    if (!v) return FL_OK;
    if (!fl_json_is_object(v)) return malformed(s, "kv_cache_scheme", "not an object", err);
    snprintf(path, sizeof(path), "%skv_cache_scheme.", s.path);
    fl_json_scope in = {s.doc, v, path};
    int rc = read_ct_args(&a, in, err);
    if (rc) return rc;
    p->kv_fp8 = is_fp8(&a) && !a.dynamic && !strcmp(a.strategy, "tensor");
    if (!p->kv_fp8) warn_kv(s, a.type);
    return FL_OK;
}

/* quant_method "compressed-tensors". */
static int plan_compressed_tensors(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    int rc;
    char path[80];
    const char *format, *status = "compressed";
    const fl_json_node *nested = fl_json_get(s.object, "quantization_config");
    if (nested) {
        if (!fl_json_is_object(nested))
            return malformed(s, "quantization_config", "not an object", err);
        snprintf(path, sizeof(path), "%squantization_config.", s.path);
        s = (fl_json_scope){s.doc, nested, path};
    }
    if ((rc = read_ct_format(&format, s, err)) ||
        (rc = fl_json_read_string(s, "quantization_status", &status, err)))
        return rc;
    const fl_json_node *transform = fl_json_get(s.object, "transform_config");
    if (fl_json_first(transform))
        return unsupported(s, "transform_config", "a rotation of the weights", err);
    if ((rc = read_ct_groups(p, s, err))) return rc;
    if (p->flavour != FL_QUANT_NONE)
        p->frozen |= !*format || is_frozen(format) || strcmp(status, "compressed") != 0;
    return read_ct_kv(p, s, err);
}

/* modelopt: `s` holds quant_algo; in config.json or hf_quant_config.json. */
static int plan_modelopt(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    int rc;
    const char *algo = NULL, *kv = NULL;
    if ((rc = fl_json_read_string(s, "quant_algo", &algo, err)) ||
        (rc = fl_json_read_string(s, "kv_cache_quant_algo", &kv, err)))
        return rc;
    if (kv) {
        p->kv_fp8 = !strcasecmp(kv, "FP8");
        if (!p->kv_fp8) warn_kv(s, kv);
    } else if ((rc = read_ct_kv(p, s, err))) {
        return rc;
    }
    if (!algo) return FL_OK;
    if (!strcasecmp(algo, "FP8"))
        p->act = FL_ACT_STATIC;
    else if (!strcasecmp(algo, "FP8_PER_CHANNEL_PER_TOKEN"))
        p->act = FL_ACT_TOKEN;
    else if (!strcasecmp(algo, "FP8_PB_WO")) /* weights only */
        p->block_n = p->block_k = FL_ACT_GROUP_K;
    else
        return refuse(s, "quant_algo", algo, err);
    p->flavour = FL_QUANT_MODELOPT;
    return FL_OK;
}

static int plan_from(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *method = NULL;
    int rc = fl_json_read_string(s, "quant_method", &method, err);
    if (rc) return rc;
    /* Older compression_config sections have the method one level down. */
    const fl_json_node *nested = fl_json_get(s.object, "quantization_config");
    if (!method) method = fl_json_string(fl_json_get(nested, "quant_method"));
    if (!method && fl_json_first(fl_json_get(s.object, "sparsity_config")))
        method = "compressed-tensors";
    if (!method) return malformed(s, "quant_method", "missing", err);
    if ((rc = read_sparsity(p, s, err))) return rc;
    if (!strcmp(method, "fp8")) return plan_autofp8(p, s, err);
    if (!strcmp(method, "fbgemm_fp8")) return plan_fbgemm(p, s, err);
    if (!strcmp(method, "compressed-tensors")) return plan_compressed_tensors(p, s, err);
    if (!strcmp(method, "modelopt")) return plan_modelopt(p, s, err);
    return refuse(s, "quant_method", method, err);
}

/* The quantization section of config.json; a NULL object when there is none. */
static int find_section(fl_json_scope *out, const fl_json *doc, fl_err *err) {
    static const char *const keys[][2] = {{"quantization_config", "quantization_config."},
                                          {"compression_config", "compression_config."}};
    *out = (fl_json_scope){doc, fl_json_root(doc), ""};
    if (!fl_json_is_object(out->object))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    for (int i = 0; i < 2; i++) {
        const fl_json_node *v = fl_json_get(fl_json_root(doc), keys[i][0]);
        if (!v) continue;
        if (!fl_json_is_object(v)) return malformed(*out, keys[i][0], "not an object", err);
        *out = (fl_json_scope){doc, v, keys[i][1]};
        return FL_OK;
    }
    out->object = NULL;
    return FL_OK;
}

/* hf_quant_config.json, where modelopt wrote its scheme before it used config.json. */
static int plan_from_side_file(fl_quant_plan *p, const char *path, fl_err *err) {
    fl_json *doc;
    int rc = fl_json_load(&doc, path, MAX_CONFIG_BYTES, err);
    if (rc) return rc;
    fl_json_scope s = {doc, fl_json_root(doc), ""};
    s.object = fl_json_get(s.object, "quantization");
    if (fl_json_is_object(s.object)) {
        s.path = "quantization.";
        rc = plan_modelopt(p, s, err);
    } else {
        rc = malformed(s, "quantization", "missing or not an object", err);
    }
    fl_json_free(doc);
    return rc;
}

int fl_quant_plan_parse(fl_quant_plan *out, const char *text, const char *name, fl_err *err) {
    fl_json *doc;
    fl_json_scope s;
    fl_quant_plan p = {.flavour = FL_QUANT_NONE};
    int rc = fl_json_parse(&doc, text, strlen(text), name, err);
    if (rc) return rc;
    rc = find_section(&s, doc, err);
    if (!rc && s.object) rc = plan_from(&p, s, err);
    if (!rc) *out = p;
    fl_json_free(doc);
    return rc;
}

/* config.json has decided; the side file of the same tool should say the same. */
static int compare_side_file(const fl_quant_plan *p, const char *path, fl_err *err) {
    fl_quant_plan side = {.flavour = FL_QUANT_NONE};
    fl_err e = {0};
    if (!fl_file_exists(path)) return FL_OK;
    int rc = plan_from_side_file(&side, path, &e);
    if (rc == FL_E_NOMEM) return fl_fail(err, rc, "%s", e.msg);
    if (rc)
        fl_log(FL_LOG_WARN, "%s: ignored for what config.json says", e.msg);
    else if (side.flavour != p->flavour || side.act != p->act || side.kv_fp8 != p->kv_fp8 ||
             side.block_k != p->block_k)
        fl_log(FL_LOG_WARN, "%s: differs from config.json (%s), which decides", path,
               fl_quant_flavour_name(p->flavour));
    return FL_OK;
}

int fl_quant_plan_load(fl_quant_plan *out, const char *dir, fl_err *err) {
    int rc;
    fl_json *doc = NULL;
    fl_json_scope s;
    fl_quant_plan p = {.flavour = FL_QUANT_NONE};
    char *path = fl_path_join(dir, "config.json");
    char *side = fl_path_join(dir, "hf_quant_config.json");
    if (!path || !side) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    if ((rc = fl_json_load(&doc, path, MAX_CONFIG_BYTES, err)) || (rc = find_section(&s, doc, err)))
        goto done;
    if (!s.object) {
        if (fl_file_exists(side)) rc = plan_from_side_file(&p, side, err);
    } else if (!(rc = plan_from(&p, s, err))) {
        rc = compare_side_file(&p, side, err);
    }
    if (!rc) *out = p;
done:
    fl_json_free(doc);
    fl_free(side);
    fl_free(path);
    return rc;
}
