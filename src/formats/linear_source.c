#include "formats/linear_source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "util/file.h"
#include "util/fp8.h"
#include "util/json.h"
#include "util/log.h"
#include "util/mem.h"

enum { MAX_NAME = 512, MAX_CONFIG_BYTES = 16 << 20 };

/* The tensor module + suffix; NULL: absent. */
static const fl_st_tensor *part(const fl_checkpoint *ck, const char *module, const char *suffix) {
    char name[MAX_NAME];
    int n = snprintf(name, sizeof(name), "%s.%s", module, suffix);
    return n > 0 && n < MAX_NAME ? fl_checkpoint_find(ck, name) : NULL;
}

/* The first that exists of a NULL-terminated list of spellings. */
static const fl_st_tensor *any_part(const fl_checkpoint *ck, const char *module,
                                    const char *const *suffixes) {
    const fl_st_tensor *t = NULL;
    for (; *suffixes && !t; suffixes++) t = part(ck, module, *suffixes);
    return t;
}

/* weight_scale_inv is a dequantisation scale like the others, whatever its name says. */
static const char *const weight_scale_names[] = {"weight_scale", "weight_scale_inv", NULL};
static const char *const input_scale_names[] = {"input_scale", "act_scale", "activation_scale",
                                                NULL};

static bool is_float(fl_dtype t) {
    return t == FL_DTYPE_F32 || t == FL_DTYPE_BF16 || t == FL_DTYPE_F16;
}

static int need_float(const fl_st_tensor *t, fl_err *err) {
    if (is_float(t->dtype)) return FL_OK;
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need F32, BF16 or F16", t->file,
                   t->name, fl_dtype_name(t->dtype));
}

static int bad_scale(const fl_st_tensor *t, int64_t i, float v, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT,
                   "%s: %s: element %lld is %g, a scale must be finite and above 0", t->file,
                   t->name, (long long)i, (double)v);
}

static bool all_zero_codes(const fl_st_tensor *w, int64_t row, int64_t rows) {
    const uint8_t *p = w->data + row * w->dim[1];
    unsigned any = 0;
    for (int64_t i = 0; i < rows * w->dim[1]; i++) any |= p[i] & 0x7fu;
    return !any;
}

/* A scale of 0 is what some writers give a weight that is all zero: 1 does as well. */
static int read_weight_scale(float *out, const fl_st_tensor *s, const fl_st_tensor *w,
                             fl_err *err) {
    int64_t n = w->dim[0], count = fl_st_numel(s);
    bool per_row = count == n && (s->ndim == 1 || (s->ndim == 2 && s->dim[1] == 1));
    char shape[160], wshape[160];
    int rc = need_float(s, err);
    if (rc) return rc;
    if (count != 1 && !per_row)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %s: shape %s is neither one scale nor one for each row of %s %s",
                       s->file, s->name, fl_st_shape(shape, s), w->name, fl_st_shape(wshape, w));
    for (int64_t i = 0; i < count; i++) {
        float v = fl_st_value(s, i);
        if (v == 0.0f && all_zero_codes(w, i, count == 1 ? n : 1)) v = 1.0f;
        if (!isfinite(v) || v <= 0.0f) return bad_scale(s, i, v, err);
        out[i] = v;
    }
    for (int64_t i = count; i < n; i++) out[i] = out[0];
    return FL_OK;
}

static int read_one_scale(float *out, const fl_st_tensor *s, fl_err *err) {
    char shape[160];
    int rc = need_float(s, err);
    if (rc) return rc;
    if (fl_st_numel(s) != 1)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: shape %s, only one scale is supported",
                       s->file, s->name, fl_st_shape(shape, s));
    *out = fl_st_value(s, 0);
    return isfinite(*out) ? FL_OK : bad_scale(s, 0, *out, err);
}

static int read_bias(fl_linear_source *s, const fl_st_tensor *b, int64_t n, fl_err *err) {
    char shape[160];
    int rc = need_float(b, err);
    if (rc) return rc;
    if (b->ndim != 1 || b->dim[0] != n)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, need [%lld]", b->file, b->name,
                       fl_st_shape(shape, b), (long long)n);
    if (!(s->bias = fl_alloc_array((size_t)n, sizeof(float))))
        return fl_fail(err, FL_E_NOMEM, "%s: %s", b->file, b->name);
    for (int64_t i = 0; i < n; i++) {
        s->bias[i] = fl_st_value(b, i);
        if (!isfinite(s->bias[i]))
            return fl_fail(err, FL_E_FORMAT, "%s: %s: element %lld is %g", b->file, b->name,
                           (long long)i, (double)s->bias[i]);
    }
    return FL_OK;
}

/* Symmetric schemes only: a zero point may be stored, but must be zero. */
static int check_zero_points(const fl_checkpoint *ck, const char *module, fl_err *err) {
    static const char *const names[] = {"weight_zero_point", "input_zero_point"};
    for (int k = 0; k < 2; k++) {
        const fl_st_tensor *z = part(ck, module, names[k]);
        if (!z) continue;
        unsigned any = 0, mask = z->dtype == FL_DTYPE_E4M3 ? 0x7f : 0xff; /* -0 is zero too */
        for (uint64_t i = 0; i < z->bytes; i++) any |= z->data[i] & mask;
        if (any)
            return fl_fail(err, FL_E_UNSUPPORTED,
                           "%s: %s: not zero; only symmetric quantization is supported", z->file,
                           z->name);
    }
    return FL_OK;
}

/* X.weight is absent: say what is there in its place. */
static int explain_missing(const fl_checkpoint *ck, const char *module, fl_err *err) {
    static const struct {
        const char *suffix, *scheme;
    } known[] = {
        {"weight_packed", "packed 4-bit or smaller weights"},
        {"compressed", "compressed 2:4 sparse weights (sparse-24-bitmask)"},
        {"weight.compressed", "bitmask-compressed weights (sparse-bitmask)"},
        {"qweight", "GPTQ or AWQ weights"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const fl_st_tensor *t = part(ck, module, known[i].suffix);
        if (t)
            return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: %s are not supported", t->file, t->name,
                           known[i].scheme);
    }
    return fl_fail(err, FL_E_FORMAT, "%s: %s.weight is missing", fl_checkpoint_dir(ck), module);
}

static int check_weight(const fl_st_tensor *w, int64_t n, int64_t k, fl_err *err) {
    char shape[160];
    switch (w->dtype) {
    case FL_DTYPE_E4M3:
    case FL_DTYPE_BF16:
    case FL_DTYPE_F16:
    case FL_DTYPE_F32:
        break;
    case FL_DTYPE_E4M3FNUZ:
    case FL_DTYPE_E5M2FNUZ:
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %s: %s has another bias and another NaN than F8_E4M3 and is not "
                       "supported",
                       w->file, w->name, fl_dtype_name(w->dtype));
    default:
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %s: weights of dtype %s are not supported, only F8_E4M3, BF16, F16 "
                       "and F32",
                       w->file, w->name, fl_dtype_name(w->dtype));
    }
    if (w->ndim != 2 || w->dim[0] != n || w->dim[1] != k)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, config.json makes it [%lld,%lld]",
                       w->file, w->name, fl_st_shape(shape, w), (long long)n, (long long)k);
    return FL_OK;
}

/* The scheme of the plan; a checkpoint without one shows it by having an input scale. */
static int read_activation(fl_linear_source *s, const fl_checkpoint *ck, const fl_quant_plan *plan,
                           const char *module, fl_err *err) {
    const fl_st_tensor *x = any_part(ck, module, input_scale_names);
    s->act = plan->act;
    if (plan->flavour == FL_QUANT_NONE) s->act = x ? FL_ACT_STATIC : FL_ACT_TOKEN;
    if (s->act == FL_ACT_TOKEN) s->x_scale_ub = plan->act_scale_ub;
    if (s->act != FL_ACT_STATIC) return FL_OK;
    if (!x)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %s.input_scale is missing, the activation scheme is static",
                       s->weight->file, module);
    int rc = read_one_scale(&s->x_scale, x, err);
    if (!rc && s->x_scale <= 0.0f) rc = bad_scale(x, 0, s->x_scale, err);
    return rc;
}

static int read_quantized(fl_linear_source *s, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const char *module, fl_err *err) {
    int rc;
    const fl_st_tensor *w = s->weight, *scale = any_part(ck, module, weight_scale_names);
    if (!scale)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: F8_E4M3 without %s.weight_scale", w->file,
                       w->name, module);
    if (!(s->w_scale = fl_alloc_array((size_t)w->dim[0], sizeof(float))))
        return fl_fail(err, FL_E_NOMEM, "%s: %s", scale->file, scale->name);
    if ((rc = read_weight_scale(s->w_scale, scale, w, err)) ||
        (rc = check_zero_points(ck, module, err)) ||
        (rc = read_activation(s, ck, plan, module, err)))
        return rc;
    size_t nan = fl_e4m3_count_nan(w->data, (size_t)w->bytes);
    if (nan)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: %zu of %llu values are NaN", w->file, w->name,
                       nan, (unsigned long long)w->bytes);
    return FL_OK;
}

int fl_linear_source_open(fl_linear_source *out, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const char *module, int64_t n, int64_t k, fl_err *err) {
    int rc;
    fl_linear_source s = {.act = FL_ACT_NONE};
    *out = s;
    if (!(s.weight = part(ck, module, "weight"))) return explain_missing(ck, module, err);
    if ((rc = check_weight(s.weight, n, k, err))) return rc;
    const fl_st_tensor *bias = part(ck, module, "bias");
    if (bias && (rc = read_bias(&s, bias, n, err))) goto done;
    if (s.weight->dtype == FL_DTYPE_E4M3 && (rc = read_quantized(&s, ck, plan, module, err)))
        goto done;
    *out = s;
    s = (fl_linear_source){0};
done:
    fl_linear_source_free(&s);
    return rc;
}

void fl_linear_source_free(fl_linear_source *s) {
    fl_free(s->w_scale);
    fl_free(s->bias);
    *s = (fl_linear_source){0};
}

static const char *const k_scale_names[] = {"k_scale",
                                            "k_proj.k_scale",
                                            "k_proj.output_scale",
                                            "qkv_proj.k_scale",
                                            "attn.k_scale",
                                            "kv_scale",
                                            NULL};
static const char *const v_scale_names[] = {"v_scale",
                                            "v_proj.v_scale",
                                            "v_proj.output_scale",
                                            "qkv_proj.v_scale",
                                            "attn.v_scale",
                                            "kv_scale",
                                            NULL};

/* 0: absent, or not above 0, which stands for "not set". */
static int read_kv_scale(float *out, const fl_checkpoint *ck, const char *module,
                         const char *const *names, fl_err *err) {
    const fl_st_tensor *t = any_part(ck, module, names);
    *out = 0.0f;
    if (!t) return FL_OK;
    int rc = read_one_scale(out, t, err);
    *out = fmaxf(*out, 0.0f);
    return rc;
}

int fl_kv_scales_read(float *k_scale, float *v_scale, const fl_checkpoint *ck, int64_t layer,
                      fl_err *err) {
    int rc;
    float k, v;
    char module[64];
    snprintf(module, sizeof(module), "model.layers.%lld.self_attn", (long long)layer);
    if ((rc = read_kv_scale(&k, ck, module, k_scale_names, err)) ||
        (rc = read_kv_scale(&v, ck, module, v_scale_names, err)))
        return rc;
    if (k == 0.0f) k = v != 0.0f ? v : 1.0f;
    if (v == 0.0f) v = k;
    *k_scale = k;
    *v_scale = v;
    return FL_OK;
}

/* name without suffix into module; false when it does not end in it. */
static bool strip(char module[MAX_NAME], const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    if (n <= k || n - k >= MAX_NAME || strcmp(name + n - k, suffix)) return false;
    memcpy(module, name, n - k);
    module[n - k] = '\0';
    return true;
}

/* Modules that config.json lists by name as left unquantized, but whose weight is E4M3. */
static size_t count_ignored_fp8(const fl_checkpoint *ck, const fl_json_node *root,
                                const fl_st_tensor **first) {
    static const char *const keys[] = {"ignored_layers", "modules_to_not_convert", "ignore"};
    const fl_json_node *section = fl_json_get(root, "quantization_config");
    size_t n = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const fl_json_node *v = fl_json_first(fl_json_get(section, keys[i]));
        for (; v; v = fl_json_next(v)) {
            const fl_st_tensor *w =
                fl_json_string(v) ? part(ck, fl_json_string(v), "weight") : NULL;
            if (w && w->dtype == FL_DTYPE_E4M3 && !n++) *first = w;
        }
    }
    return n;
}

static void check_ignored(const fl_checkpoint *ck) {
    fl_json *doc = NULL;
    const fl_st_tensor *first = NULL;
    char *path = fl_path_join(fl_checkpoint_dir(ck), "config.json");
    /* Without the file or the memory there is nothing to compare with. */
    if (path && !fl_json_load(&doc, path, MAX_CONFIG_BYTES, NULL)) {
        size_t n = count_ignored_fp8(ck, fl_json_root(doc), &first);
        if (n)
            fl_log(FL_LOG_WARN,
                   "%s: %zu modules listed as not quantized have F8_E4M3 weights (first %s): "
                   "running them as FP8",
                   path, n, first->name);
    }
    fl_json_free(doc);
    fl_free(path);
}

void fl_quant_cross_check(const fl_checkpoint *ck, const fl_quant_plan *plan) {
    const fl_st_tensor *fp8 = NULL, *idle = NULL; /* first FP8 weight, first unused scale */
    size_t n_fp8 = 0, n_idle = 0;
    char module[MAX_NAME];
    for (size_t i = 0; i < fl_checkpoint_count(ck); i++) {
        const fl_st_tensor *t = fl_checkpoint_at(ck, i), *w;
        if (t->dtype == FL_DTYPE_E4M3 && strip(module, t->name, ".weight") && !n_fp8++) fp8 = t;
        if (!strip(module, t->name, ".weight_scale")) continue;
        w = part(ck, module, "weight");
        if ((!w || w->dtype != FL_DTYPE_E4M3) && !n_idle++) idle = t;
    }
    const char *dir = fl_checkpoint_dir(ck);
    if (plan->flavour == FL_QUANT_NONE && fp8)
        fl_log(FL_LOG_WARN,
               "%s: config.json tells of no quantization, but %zu weights are F8_E4M3 "
               "(first %s): running them as FP8",
               dir, n_fp8, fp8->name);
    if (plan->flavour != FL_QUANT_NONE && !fp8)
        fl_log(FL_LOG_WARN, "%s: quantized by config.json (%s), but no weight is F8_E4M3", dir,
               fl_quant_flavour_name(plan->flavour));
    if (idle)
        fl_log(FL_LOG_WARN, "%s: %zu scales of weights that are not F8_E4M3 are ignored (first %s)",
               dir, n_idle, idle->name);
    check_ignored(ck);
}
