#include "formats/quant_config_priv.h"

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
    case FL_QUANT_QUARK:
        return "quark";
    }
    return "unknown";
}

int fl_quant_refuse(fl_json_scope s, const char *key, const char *value, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s \"%.80s\" is not supported",
                   fl_json_name(s.doc), s.path, key, value);
}

int fl_quant_unsupported(fl_json_scope s, const char *key, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s: %s is not supported", fl_json_name(s.doc),
                   s.path, key, what);
}

int fl_quant_malformed(fl_json_scope s, const char *key, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT, "%s: %s%s: %s", fl_json_name(s.doc), s.path, key, what);
}

/* A KV cache we cannot make is no reason to refuse: the model keeps BF16 keys and values. */
void fl_quant_warn_kv(fl_json_scope s, const char *scheme) {
    fl_log(FL_LOG_WARN, "%s: KV cache scheme %.80s is not supported, keys and values stay BF16",
           fl_json_name(s.doc), scheme);
}

/* One axis of a block; columns are those of an activation group. */
static int read_block_side(int64_t *out, fl_json_scope s, const char *key, const fl_json_node *v,
                           bool columns, fl_err *err) {
    int64_t n = 0;
    if (!fl_json_is_int(v, &n) || n < 1 || n > 1 << 20)
        return fl_quant_malformed(s, key, "need two sizes from 1 to 1048576", err);
    if (columns && n != FL_ACT_GROUP_K)
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %s%s: blocks of %lld columns, only %d is supported",
                       fl_json_name(s.doc), s.path, key, (long long)n, FL_ACT_GROUP_K);
    *out = n;
    return FL_OK;
}

/* [rows, columns], or "128x128" in older files. */
int fl_quant_read_block(int64_t *n, int64_t *k, fl_json_scope s, const char *key, fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, key), *rows = fl_json_first(v);
    if (fl_json_string(v)) {
        if (strcmp(fl_json_string(v), "128x128"))
            return fl_quant_refuse(s, key, fl_json_string(v), err);
        *n = *k = FL_ACT_GROUP_K;
        return FL_OK;
    }
    if (!fl_json_is_array(v) || fl_json_size(v) != 2)
        return fl_quant_malformed(s, key, "need two sizes from 1 to 1048576", err);
    int rc = read_block_side(n, s, key, rows, false, err);
    return rc ? rc : read_block_side(k, s, key, fl_json_next(rows), true, err);
}

/* quant_method "fp8": AutoFP8, and block FP8 when weight_block_size is there. */
static int plan_autofp8(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *scheme = NULL;
    int rc = fl_json_read_string(s, "activation_scheme", &scheme, err);
    if (rc) return rc;
    const bool block = fl_json_get(s.object, "weight_block_size") != NULL;
    if (!scheme) return fl_quant_malformed(s, "activation_scheme", "missing", err);
    if (block && (rc = fl_quant_read_block(&p->block_n, &p->block_k, s, "weight_block_size", err)))
        return rc;
    if (!strcmp(scheme, "static"))
        p->act = FL_ACT_STATIC;
    else if (!strcmp(scheme, "dynamic"))
        p->act = block ? FL_ACT_GROUP : FL_ACT_TOKEN;
    else
        return fl_quant_refuse(s, "activation_scheme", scheme, err);
    if (block && p->act == FL_ACT_STATIC)
        return fl_quant_unsupported(s, "activation_scheme", "static with weight_block_size", err);
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

/* {} and null are written for "none".  The format is known again from the tensors. */
static int read_sparsity(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    int rc;
    char path[80];
    const char *format = "dense", *structure = "unstructured";
    const fl_json_node *v = fl_json_get(s.object, "sparsity_config");
    if (!v) return FL_OK;
    if (!fl_json_is_object(v))
        return fl_quant_malformed(s, "sparsity_config", "not an object", err);
    snprintf(path, sizeof(path), "%ssparsity_config.", s.path);
    fl_json_scope in = {s.doc, v, path};
    if ((rc = fl_json_read_string(in, "format", &format, err)) ||
        (rc = fl_json_read_string(in, "sparsity_structure", &structure, err)))
        return rc;
    const bool bitmask24 = !strcmp(format, "sparse-24-bitmask");
    if (strcmp(format, "dense") && strcmp(format, "sparse-bitmask") && !bitmask24)
        return fl_quant_refuse(in, "format", format, err);
    p->sparse24 = bitmask24 || !strcmp(structure, "2:4");
    return FL_OK;
}

/* ---- modelopt ----
 *
 * What modelopt writes and vLLM reads:
 *   in hf_quant_config.json "quantization" holds quant_algo, kv_cache_quant_algo and
 *   exclude_modules; in config.json quantization_config holds quant_algo, kv_cache_scheme and
 *   ignore, or the "quantization" object of the other file;
 *   quant_method is "modelopt" or begins with it, or is absent beside producer.name "modelopt";
 *   letters of algorithms may be small; kv_cache_scheme is an object or a name. */

/* An algorithm of all linears or of one. */
static int read_algorithm(fl_quant_plan *p, fl_json_scope s, const char *key, const char *algo,
                          fl_err *err) {
    if (!strcasecmp(algo, "FP8"))
        p->act = FL_ACT_STATIC;
    else if (!strcasecmp(algo, "FP8_PER_CHANNEL_PER_TOKEN"))
        p->act = FL_ACT_TOKEN;
    else if (!strcasecmp(algo, "FP8_PB_WO")) /* weights only */
        p->block_n = p->block_k = FL_ACT_GROUP_K;
    else
        return fl_quant_refuse(s, key, algo, err);
    return FL_OK;
}

/* quantized_layers of MIXED_PRECISION: the name of each linear with its own algorithm. */
static int read_quantized_layers(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    static const char key[] = "quantized_layers";
    const fl_json_node *layers = fl_json_get(s.object, key);
    fl_quant_rules *rules;
    int rc;
    if (!fl_json_is_object(layers))
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %squant_algo \"MIXED_PRECISION\" is not supported without %s",
                       fl_json_name(s.doc), s.path, key);
    if ((rc = fl_quant_rules_new(&rules, err))) return rc;
    for (const fl_json_node *v = fl_json_first(layers); v && !rc; v = fl_json_next(v)) {
        fl_quant_plan one = {.flavour = FL_QUANT_MODELOPT};
        fl_err why = {0};
        char path[320];
        snprintf(path, sizeof(path), "%s%s.%.200s.", s.path, key, fl_json_key(v));
        const fl_json_scope in = {s.doc, v, path};
        const char *algo = fl_json_string(fl_json_get(v, "quant_algo"));
        if (!algo)
            fl_quant_malformed(in, "quant_algo", "missing or no name", &why);
        else
            read_algorithm(&one, in, "quant_algo", algo, &why);
        rc = fl_quant_rules_add(rules, FL_RULE_NAME, fl_json_key(v), &one, &why, err);
    }
    if (!rc) return fl_quant_settle(p, FL_QUANT_MODELOPT, rules, s, err);
    fl_quant_rules_free(rules);
    return rc;
}

static int plan_modelopt(fl_quant_plan *p, fl_json_scope s, const char *method, fl_err *err) {
    int rc;
    const char *algo = NULL, *kv = NULL;
    char path[80];
    const fl_json_node *nested = fl_json_get(s.object, "quantization");
    if (fl_json_is_object(nested)) {
        snprintf(path, sizeof(path), "%squantization.", s.path);
        s = (fl_json_scope){s.doc, nested, path};
    }
    if ((rc = fl_json_read_string(s, "quant_algo", &algo, err)) ||
        (rc = fl_json_read_string(s, "kv_cache_quant_algo", &kv, err)))
        return rc;
    if (kv) {
        p->kv_fp8 = !strcasecmp(kv, "FP8");
        if (!p->kv_fp8) fl_quant_warn_kv(s, kv);
    } else if ((rc = fl_quant_read_kv(p, s, err))) {
        return rc;
    }
    /* Without an algorithm the KV cache alone is quantized, unless something else says more. */
    if (!algo && strcasecmp(method, "modelopt"))
        return fl_quant_refuse(s, "quant_method", method, err);
    if (!algo && fl_json_first(fl_json_get(s.object, "config_groups")))
        return fl_quant_malformed(s, "quant_algo", "missing beside config_groups", err);
    if (!algo) return FL_OK;
    if (!strcasecmp(algo, "MIXED_PRECISION")) return read_quantized_layers(p, s, err);
    if ((rc = read_algorithm(p, s, "quant_algo", algo, err))) return rc;
    p->flavour = FL_QUANT_MODELOPT;
    return FL_OK;
}

/* Whose section this is; NULL: it does not say. */
static const char *method_of(fl_json_scope s) {
    const char *method = fl_json_string(fl_json_get(s.object, "quant_method"));
    const fl_json_node *producer = fl_json_get(s.object, "producer");
    /* Older compression_config sections have the method one level down. */
    const fl_json_node *nested = fl_json_get(s.object, "quantization_config");
    if (!method) method = fl_json_string(fl_json_get(nested, "quant_method"));
    if (!method && fl_json_first(fl_json_get(s.object, "sparsity_config")))
        method = "compressed-tensors";
    return method ? method : fl_json_string(fl_json_get(producer, "name"));
}

static int plan_from(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *method = NULL;
    int rc = fl_json_read_string(s, "quant_method", &method, err);
    if (rc || !fl_json_first(s.object)) return rc; /* {} stands for none */
    if (!(method = method_of(s))) return fl_quant_malformed(s, "quant_method", "missing", err);
    if ((rc = read_sparsity(p, s, err))) return rc;
    if (!strcasecmp(method, "fp8")) return plan_autofp8(p, s, err);
    if (!strcasecmp(method, "fbgemm_fp8")) return plan_fbgemm(p, s, err);
    if (!strcasecmp(method, "compressed-tensors") || !strcasecmp(method, "compressed_tensors"))
        return fl_quant_plan_ct(p, s, err);
    if (!strncasecmp(method, "modelopt", 8)) return plan_modelopt(p, s, method, err);
    if (!strcasecmp(method, "quark")) return fl_quant_plan_quark(p, s, err);
    return fl_quant_refuse(s, "quant_method", method, err);
}

/* ---- schemes of single linears ---- */

enum { MOST_LAYERS = 1024 };

typedef struct trial { /* of rules on the linears of a model */
    const fl_quant_rules *rules;
    fl_json_scope section;
    fl_quant_plan first; /* flavour NONE: none yet */
    bool mixed;
    fl_err *err;
} trial;

static int try_module(trial *t, const char *module) {
    fl_err refusal;
    const fl_quant_plan *p = fl_quant_rules_find(t->rules, module, &refusal);
    if (!p || fl_section_ignores(t->section.object, module)) return FL_OK;
    if (refusal.code) return fl_fail(t->err, refusal.code, "%s", refusal.msg);
    if (t->first.flavour == FL_QUANT_NONE) t->first = *p;
    t->mixed |= t->first.act != p->act;
    return FL_OK;
}

static int try_linears(trial *t) {
    static const char *const linears[] = {
        "self_attn.q_proj",   "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_proj",
        "mlp.up_proj",        "mlp.gate_up_proj", "mlp.down_proj"};
    const fl_json_scope root = {t->section.doc, fl_json_root(t->section.doc), ""};
    int64_t layers = MOST_LAYERS; /* where it is another file that says how many */
    char module[96];
    fl_json_read_int(root, "num_hidden_layers", 1, MOST_LAYERS, &layers, NULL);
    for (int64_t i = 0; i < layers; i++) {
        for (size_t k = 0; k < sizeof(linears) / sizeof(linears[0]); k++) {
            snprintf(module, sizeof(module), "model.layers.%lld.%s", (long long)i, linears[k]);
            int rc = try_module(t, module);
            if (rc) return rc;
        }
    }
    return try_module(t, "lm_head");
}

int fl_quant_settle(fl_quant_plan *p, fl_quant_flavour flavour, fl_quant_rules *rules,
                    fl_json_scope s, fl_err *err) {
    trial t = {.rules = rules, .section = s, .err = err};
    int rc = try_linears(&t);
    if (rc || t.first.flavour == FL_QUANT_NONE) {
        fl_quant_rules_free(rules);
        return rc;
    }
    p->flavour = flavour;
    p->act = t.first.act;
    p->block_n = t.first.block_n;
    p->block_k = t.first.block_k;
    p->mixed = t.mixed;
    p->frozen |= t.first.frozen;
    p->rules = rules;
    return FL_OK;
}

fl_quant_plan fl_quant_plan_of(const fl_quant_plan *p, const char *module) {
    fl_quant_plan one = *p;
    if (!p->rules) return one;
    const fl_quant_plan *scheme = fl_quant_rules_find(p->rules, module, NULL);
    one.flavour = scheme ? p->flavour : FL_QUANT_NONE;
    one.act = scheme ? scheme->act : FL_ACT_NONE;
    one.block_n = scheme ? scheme->block_n : 0;
    one.block_k = scheme ? scheme->block_k : 0;
    one.act_scale_ub = scheme ? scheme->act_scale_ub : 0;
    one.frozen = scheme && scheme->frozen;
    return one;
}

void fl_quant_plan_free(fl_quant_plan *p) {
    fl_quant_rules_free(p->rules);
    p->rules = NULL;
}

/* ---- files ---- */

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
        if (!fl_json_is_object(v))
            return fl_quant_malformed(*out, keys[i][0], "not an object", err);
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
    if (fl_json_is_object(fl_json_get(s.object, "quantization")))
        rc = plan_modelopt(p, s, "modelopt", err);
    else
        rc = fl_quant_malformed(s, "quantization", "missing or not an object", err);
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
    if (rc)
        fl_quant_plan_free(&p);
    else
        *out = p;
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
    fl_quant_plan_free(&side);
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
    if (rc) fl_quant_plan_free(&p);
    fl_json_free(doc);
    fl_free(side);
    fl_free(path);
    return rc;
}
