#include "formats/linear_source.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/stored_tensor.h"
#include "util/file.h"
#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

enum { MAX_NAME = 512 };

/* Where a linear's rows are. */
typedef struct place {
    const fl_checkpoint *ck;
    const fl_quant_plan *plan; /* of this linear */
    const char *module;
    int64_t first, n, all, k; /* rows [first, first+n) of `all` */
    int part, parts;          /* of the linears stored together */
    fl_stored_tensor weight;
} place;

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

static int find_stored(fl_stored_tensor *out, bool *found, const fl_checkpoint *ck,
                       const char *module, const char *suffix, fl_err *err) {
    char name[MAX_NAME];
    int n = snprintf(name, sizeof(name), "%s.%s", module, suffix);
    *found = false;
    return n > 0 && n < MAX_NAME ? fl_stored_tensor_find(out, found, ck, name, err) : FL_OK;
}

/* weight_scale_inv is a dequantisation scale like the others, whatever its name says. */
const char *const fl_weight_scale_names[] = {"weight_scale", "weight_scale_inv", NULL};
const char *const fl_input_scale_names[] = {"input_scale", "act_scale", "activation_scale", NULL};

static int need_float(const fl_st_tensor *t, fl_err *err) {
    if (fl_st_is_float(t->dtype)) return FL_OK;
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need F64, F32, BF16 or F16", t->file,
                   t->name, fl_dtype_name(t->dtype));
}

static int bad_scale(const fl_st_tensor *t, int64_t i, float v, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT,
                   "%s: %s: element %lld is %g, a scale must be finite and above 0", t->file,
                   t->name, (long long)i, (double)v);
}

/* ---- weight scales ---- */

/* Which element of a scale tensor belongs to (row, block): row / row_step * row_stride + block *
 * column_stride, rows counted in the tensor as stored. */
typedef struct scale_layout {
    int64_t row_step, row_stride, column_stride, offset;
} scale_layout;

/* [rows, columns] of blocks, as modelopt also writes it: [rows,1,columns,1]. */
static bool is_block_shape(const fl_st_tensor *s, int64_t rows, int64_t columns) {
    if (s->ndim == 2) return s->dim[0] == rows && s->dim[1] == columns;
    return s->ndim == 4 && s->dim[0] == rows && s->dim[1] == 1 && s->dim[2] == columns &&
           s->dim[3] == 1;
}

static int find_layout(scale_layout *out, int64_t *w_block, const fl_st_tensor *s, const place *p,
                       fl_err *err) {
    char shape[160], wshape[160];
    const int64_t count = fl_st_numel(s), blocks = fl_div_up(p->k, FL_ACT_GROUP_K);
    const int64_t step = p->plan->block_n ? p->plan->block_n : FL_ACT_GROUP_K;
    *w_block = 0;
    *out = (scale_layout){.row_step = 1};
    if (count == 1) return FL_OK;
    if (count == p->all && (s->ndim == 1 || (s->ndim == 2 && s->dim[1] == 1))) {
        out->row_stride = 1;
        return FL_OK;
    }
    if (count == p->parts && s->ndim == 1) {
        out->offset = p->part;
        return FL_OK;
    }
    if (is_block_shape(s, fl_div_up(p->all, step), blocks)) {
        *w_block = FL_ACT_GROUP_K;
        *out = (scale_layout){.row_step = step, .row_stride = blocks, .column_stride = 1};
        return FL_OK;
    }
    return fl_fail(err, FL_E_FORMAT,
                   "%s: %s: shape %s is neither one scale nor one for each row or block of %lld x "
                   "%d of %s %s",
                   s->file, s->name, fl_st_shape(shape, s), (long long)step, FL_ACT_GROUP_K,
                   p->weight.t.name, fl_st_shape(wshape, &p->weight.t));
}

/* Columns [from, to) of a row are +0 or -0. */
static bool all_zero(const fl_linear_source *s, int64_t row, int64_t from, int64_t to) {
    const int64_t bytes = fl_dtype_bytes(s->dtype);
    const uint8_t *p = s->data + (row * s->k + from) * bytes;
    unsigned any = 0;
    for (int64_t i = 1; i <= (to - from) * bytes; i++, p++)
        any |= i % bytes ? *p : *p & 0x7fu; /* the sign is in the last byte */
    return !any;
}

/* A scale of 0 is what some writers give a weight that is all zero: 1 does as well. */
static int read_weight_scale(fl_linear_source *s, const fl_st_tensor *t, const place *p,
                             fl_err *err) {
    scale_layout at;
    int rc = need_float(t, err);
    if (rc || (rc = find_layout(&at, &s->w_block, t, p, err))) return rc;
    const int64_t width = s->w_block ? s->w_block : s->k, blocks = fl_div_up(s->k, width);
    if (!(s->w_scale = fl_alloc_array((size_t)s->n, (size_t)blocks * sizeof(float))))
        return fl_fail(err, FL_E_NOMEM, "%s: %s", t->file, t->name);
    for (int64_t row = 0; row < s->n; row++) {
        for (int64_t b = 0; b < blocks; b++) {
            int64_t i =
                at.offset + (p->first + row) / at.row_step * at.row_stride + b * at.column_stride;
            float v = fl_st_value(t, i);
            if (v == 0.0f && all_zero(s, row, b * width, fl_min_i64((b + 1) * width, s->k)))
                v = 1.0f;
            if (!isfinite(v) || v <= 0.0f) return bad_scale(t, i, v, err);
            s->w_scale[row * blocks + b] = v;
        }
    }
    return FL_OK;
}

/* One scale, or that of this part of linears stored together. */
static int read_one_scale(float *out, const fl_st_tensor *s, int part, int parts, fl_err *err) {
    char shape[160];
    int rc = need_float(s, err);
    int64_t count = fl_st_numel(s), i = count == 1 ? 0 : part;
    if (rc) return rc;
    if (count != 1 && (count != parts || s->ndim != 1))
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: shape %s, only one scale is supported",
                       s->file, s->name, fl_st_shape(shape, s));
    *out = fl_st_value(s, i);
    return isfinite(*out) ? FL_OK : bad_scale(s, i, *out, err);
}

/* ---- bias ---- */

static int read_bias(fl_linear_source *s, const place *p, const char *key, fl_err *err) {
    fl_stored_tensor b;
    bool found;
    char shape[160];
    int rc = find_stored(&b, &found, p->ck, p->module, "bias", err);
    if (rc) return rc;
    if (!found && key)
        return fl_fail(err, FL_E_FORMAT, "%s: %s.bias is missing, config.json has %s true", s->file,
                       p->module, key);
    if (!found) return FL_OK;
    if ((rc = need_float(&b.t, err))) return rc;
    if (b.t.ndim != 1 || b.t.dim[0] != p->all)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, need [%lld]", b.t.file, b.t.name,
                       fl_st_shape(shape, &b.t), (long long)p->all);
    if (!(s->bias = fl_alloc_array((size_t)s->n, sizeof(float))))
        return fl_fail(err, FL_E_NOMEM, "%s: %s", b.t.file, b.t.name);
    if ((rc = fl_stored_tensor_floats(s->bias, &b, p->first, s->n, err))) return rc;
    for (int64_t i = 0; i < s->n; i++) {
        if (!isfinite(s->bias[i]))
            return fl_fail(err, FL_E_FORMAT, "%s: %s: element %lld is %g", b.t.file, b.t.name,
                           (long long)(p->first + i), (double)s->bias[i]);
    }
    return FL_OK;
}

/* ---- weight ---- */

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
        {"qweight", "GPTQ or AWQ weights"},
        {"weight_blocks", "MXFP4 weights"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const fl_st_tensor *t = part(ck, module, known[i].suffix);
        if (t)
            return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: %s are not supported", t->file, t->name,
                           known[i].scheme);
    }
    return fl_fail(err, FL_E_FORMAT, "%s: %s.weight is missing", fl_checkpoint_dir(ck), module);
}

static int check_dtype(const fl_st_tensor *w, fl_err *err) {
    switch (w->dtype) {
    case FL_DTYPE_E4M3:
    case FL_DTYPE_BF16:
    case FL_DTYPE_F16:
    case FL_DTYPE_F32:
        return FL_OK;
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
}

/* The module's own weight, or the one its rows are fused into. */
static int find_place(place *p, const fl_linear_want *w, fl_err *err) {
    bool found;
    char shape[160];
    p->module = w->module;
    p->n = p->all = w->n;
    p->k = w->k;
    p->parts = 1;
    int rc = find_stored(&p->weight, &found, p->ck, w->module, "weight", err);
    if (rc) return rc;
    if (!found && w->fused) {
        if ((rc = find_stored(&p->weight, &found, p->ck, w->fused, "weight", err))) return rc;
        if (found) {
            p->module = w->fused;
            p->first = w->fused_row;
            p->all = w->fused_n;
            p->part = w->part;
            p->parts = w->parts;
        }
    }
    if (!found) return explain_missing(p->ck, w->module, err);
    const fl_st_tensor *t = &p->weight.t;
    if ((rc = check_dtype(t, err))) return rc;
    if (t->ndim != 2 || t->dim[0] != p->all || t->dim[1] != p->k)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, config.json makes it [%lld,%lld]",
                       t->file, t->name, fl_st_shape(shape, t), (long long)p->all, (long long)p->k);
    return FL_OK;
}

/* Room for all values in a type; the caller makes it s->owned. */
static uint8_t *new_values(const fl_linear_source *s, fl_dtype dtype, size_t *bytes, fl_err *err) {
    *bytes = (size_t)(s->n * s->k * fl_dtype_bytes(dtype));
    uint8_t *p = fl_map_pages(*bytes);
    if (!p) fl_fail(err, FL_E_NOMEM, "%s: %s: %zu bytes", s->file, s->name, *bytes);
    return p;
}

static int read_values(fl_linear_source *s, const place *p, fl_err *err) {
    const fl_st_tensor *t = &p->weight.t;
    s->file = t->file;
    s->name = t->name;
    s->dtype = t->dtype;
    s->n = p->n;
    s->k = p->k;
    s->sparse24 = p->plan->sparse24 || (p->weight.kept && !p->weight.row_offsets);
    if (t->data) {
        s->data = t->data + p->first * p->k * fl_dtype_bytes(t->dtype);
        return FL_OK;
    }
    if (!(s->owned = new_values(s, t->dtype, &s->owned_bytes, err))) return FL_E_NOMEM;
    s->data = s->owned;
    return fl_stored_tensor_unpack(s->owned, &p->weight, p->first, p->n, err);
}

/* Plain weights beside the scales they were to be stored with: the division is made in the
 * type of both, as compressed-tensors makes it. */
static int encode(fl_linear_source *s, fl_dtype scale_dtype, fl_err *err) {
    const fl_st_tensor plain = {.data = s->data, .dtype = s->dtype};
    const int64_t blocks = s->w_block ? fl_div_up(s->k, s->w_block) : 1;
    const fl_dtype in = s->dtype == scale_dtype ? scale_dtype : FL_DTYPE_F32;
    size_t bytes;
    uint8_t *codes = new_values(s, FL_DTYPE_E4M3, &bytes, err);
    if (!codes) return FL_E_NOMEM;
    for (int64_t i = 0; i < s->n * s->k; i++) {
        const int64_t row = i / s->k, b = s->w_block ? i % s->k / s->w_block : 0;
        float q = fl_st_value(&plain, i) / s->w_scale[row * blocks + b];
        if (in == FL_DTYPE_BF16) q = fl_bf16_round(q);
        if (in == FL_DTYPE_F16) q = fl_f16_to_f32(fl_f32_to_f16(q));
        codes[i] = fl_f32_to_e4m3(q);
    }
    if (!s->owned) fl_file_release(s->data, (size_t)(s->n * s->k * fl_dtype_bytes(s->dtype)));
    fl_unmap_pages(s->owned, s->owned_bytes);
    s->data = s->owned = codes;
    s->owned_bytes = bytes;
    s->dtype = FL_DTYPE_E4M3;
    return FL_OK;
}

/* The scheme of the plan; a checkpoint without one shows it by its scales. */
static int read_activation(fl_linear_source *s, const place *p, fl_err *err) {
    const fl_st_tensor *x = any_part(p->ck, p->module, fl_input_scale_names);
    s->act = p->plan->act;
    if (p->plan->flavour == FL_QUANT_NONE)
        s->act = x ? FL_ACT_STATIC : s->w_block ? FL_ACT_GROUP : FL_ACT_TOKEN;
    if (s->act == FL_ACT_TOKEN) s->x_scale_ub = p->plan->act_scale_ub;
    if (s->act != FL_ACT_STATIC) return FL_OK;
    if (!x)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %s.input_scale is missing, the activation scheme is static", s->file,
                       p->module);
    int rc = read_one_scale(&s->x_scale, x, p->part, p->parts, err);
    if (!rc && s->x_scale <= 0.0f) rc = bad_scale(x, 0, s->x_scale, err);
    return rc;
}

static int read_quantized(fl_linear_source *s, const place *p, fl_err *err) {
    int rc;
    const fl_st_tensor *scale = any_part(p->ck, p->module, fl_weight_scale_names);
    if (s->dtype != FL_DTYPE_E4M3 && !(p->plan->frozen && scale)) return FL_OK;
    if (!scale)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: F8_E4M3 without %s.weight_scale", s->file,
                       s->name, p->module);
    if ((rc = read_weight_scale(s, scale, p, err)) ||
        (rc = check_zero_points(p->ck, p->module, err)) || (rc = read_activation(s, p, err)))
        return rc;
    if (s->dtype != FL_DTYPE_E4M3 && (rc = encode(s, scale->dtype, err))) return rc;
    const size_t all = (size_t)(s->n * s->k), nan = fl_e4m3_count_nan(s->data, all);
    if (nan)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: %zu of %zu values are NaN", s->file, s->name, nan,
                       all);
    return FL_OK;
}

int fl_linear_source_open(fl_linear_source *out, const fl_checkpoint *ck, const fl_quant_plan *plan,
                          const fl_linear_want *want, fl_err *err) {
    int rc;
    fl_linear_source s = {.act = FL_ACT_NONE};
    fl_quant_plan own = fl_quant_plan_of(plan, want->module);
    if (own.flavour == FL_QUANT_NONE && want->fused) own = fl_quant_plan_of(plan, want->fused);
    place p = {.ck = ck, .plan = &own};
    *out = s;
    if ((rc = find_place(&p, want, err)) || (rc = read_values(&s, &p, err)) ||
        (!want->no_bias && (rc = read_bias(&s, &p, want->bias_key, err))) ||
        (rc = read_quantized(&s, &p, err)))
        goto done;
    *out = s;
    s = (fl_linear_source){0};
done:
    fl_linear_source_free(&s);
    return rc;
}

void fl_linear_source_free(fl_linear_source *s) {
    fl_unmap_pages(s->owned, s->owned_bytes);
    fl_free(s->w_scale);
    fl_free(s->bias);
    *s = (fl_linear_source){0};
}

/* ---- KV scales ---- */

const char *const fl_k_scale_names[] = {"k_scale",
                                        "k_proj.k_scale",
                                        "k_proj.output_scale",
                                        "qkv_proj.k_scale",
                                        "attn.k_scale",
                                        "kv_scale",
                                        NULL};
const char *const fl_v_scale_names[] = {"v_scale",
                                        "v_proj.v_scale",
                                        "v_proj.output_scale",
                                        "qkv_proj.v_scale",
                                        "attn.v_scale",
                                        "kv_scale",
                                        NULL};

/* An affine cache stores (key - offset) / scale. */
const char *const fl_kv_offset_names[] = {"k_proj.k_bias",
                                          "v_proj.v_bias",
                                          "k_bias",
                                          "v_bias",
                                          "k_zero_point",
                                          "v_zero_point",
                                          "k_proj.k_zero_point",
                                          "v_proj.v_zero_point",
                                          NULL};

static int check_offsets(const fl_checkpoint *ck, const char *module, fl_err *err) {
    for (int i = 0; fl_kv_offset_names[i]; i++) {
        const fl_st_tensor *t = part(ck, module, fl_kv_offset_names[i]);
        unsigned any = 0;
        for (uint64_t b = 0; t && b < t->bytes; b++) any |= t->data[b];
        if (any)
            return fl_fail(err, FL_E_UNSUPPORTED,
                           "%s: %s: offsets of an FP8 KV cache are not supported", t->file,
                           t->name);
    }
    return FL_OK;
}

/* 0: absent, or not above 0, which stands for "not set". */
static int read_kv_scale(float *out, const fl_checkpoint *ck, const char *module,
                         const char *const *names, fl_err *err) {
    const fl_st_tensor *t = any_part(ck, module, names);
    char shape[160];
    *out = 0.0f;
    if (!t) return FL_OK;
    if (fl_st_numel(t) > 1)
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %s: shape %s, a KV scale for each head is not supported, only one for "
                       "a layer",
                       t->file, t->name, fl_st_shape(shape, t));
    int rc = read_one_scale(out, t, 0, 1, err);
    *out = fmaxf(*out, 0.0f);
    return rc;
}

int fl_kv_scales_read(float *k_scale, float *v_scale, bool *found, const fl_checkpoint *ck,
                      int64_t layer, fl_err *err) {
    int rc;
    float k, v;
    char module[64];
    snprintf(module, sizeof(module), "model.layers.%lld.self_attn", (long long)layer);
    if ((rc = check_offsets(ck, module, err)) ||
        (rc = read_kv_scale(&k, ck, module, fl_k_scale_names, err)) ||
        (rc = read_kv_scale(&v, ck, module, fl_v_scale_names, err)))
        return rc;
    *found = k != 0.0f || v != 0.0f;
    if (k == 0.0f) k = v != 0.0f ? v : 1.0f;
    if (v == 0.0f) v = k;
    *k_scale = k;
    *v_scale = v;
    return FL_OK;
}
