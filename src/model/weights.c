#include "model/weights.h"

#include <stdio.h>
#include <string.h>

#include "formats/linear_source.h"
#include "formats/quant_check.h"
#include "formats/sparse24.h"
#include "formats/stored_tensor.h"
#include "util/file.h"
#include "util/fp8.h"
#include "util/log.h"
#include "util/mem.h"
#include "util/num.h"

typedef struct loader {
    fl_weights *w;
    const fl_weights_request *r;
    size_t not_sparse; /* linears that were to be 2:4, and what was wrong with the first */
    char first_break[200];
} loader;

/* One projection below "model.layers.N.": its rows, and the module that may hold them together
 * with those of its neighbours in the same list. */
typedef struct part_want {
    const char *module;
    int64_t rows;
} part_want;

typedef struct fused_want {
    const char *fused; /* NULL: always stored by themselves */
    const char *bias_key;
    int64_t k;
    int n;
    part_want part[FL_MAX_LINEAR_PARTS];
} fused_want;

static bool same_input(const fl_linear_source *a, const fl_linear_source *b) {
    return a->dtype == b->dtype && a->act == b->act && a->w_block == b->w_block &&
           fl_f32_bits(a->x_scale) == fl_f32_bits(b->x_scale) &&
           fl_f32_bits(a->x_scale_ub) == fl_f32_bits(b->x_scale_ub);
}

/* values of all parts end to end, `width` for each row; parts without them contribute zeros */
static float *join(float *const *values, const fl_linear_spec *spec, int64_t n, int64_t width) {
    float *all = fl_alloc_array((size_t)n, (size_t)width * sizeof(*all));
    if (!all) return NULL;
    int64_t at = 0;
    for (int i = 0; i < spec->n_parts; i++) {
        size_t count = (size_t)(spec->part[i].rows * width);
        if (values[i]) memcpy(all + at, values[i], count * sizeof(*all));
        at += (int64_t)count;
    }
    return all;
}

static int make_linear(loader *l, fl_linear **out, const fl_linear_source *src, int n_parts,
                       fl_err *err) {
    fl_linear_spec spec = {.n_parts = n_parts,
                           .k = src[0].k,
                           .dtype = src[0].dtype,
                           .act = src[0].act,
                           .w_block = src[0].w_block,
                           .x_scale = src[0].x_scale,
                           .x_scale_ub = src[0].x_scale_ub,
                           .sparse24 = true,
                           .release = fl_file_release};
    float *scales[FL_MAX_LINEAR_PARTS] = {0}, *biases[FL_MAX_LINEAR_PARTS] = {0};
    float *scale = NULL, *bias = NULL;
    bool has_scale = false, has_bias = false;
    int64_t n = 0;
    for (int i = 0; i < n_parts; i++) {
        spec.part[i] = (fl_linear_part){src[i].data, src[i].n};
        spec.sparse24 &= src[i].sparse24;
        scales[i] = src[i].w_scale;
        biases[i] = src[i].bias;
        has_scale |= scales[i] != NULL;
        has_bias |= biases[i] != NULL;
        n += spec.part[i].rows;
    }
    int rc = FL_OK;
    const int64_t width = spec.w_block ? fl_div_up(spec.k, spec.w_block) : 1;
    if ((has_scale && !(scale = join(scales, &spec, n, width))) ||
        (has_bias && !(bias = join(biases, &spec, n, 1)))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s: scales", src[0].name);
        goto done;
    }
    spec.w_scale = scale;
    spec.bias = bias;
    rc = l->r->ops->linear_new(l->r->be, out, &spec, err);
    if (rc) goto done;
    l->w->bytes += (*out)->bytes;
    l->w->bytes_per_token += (*out)->bytes - (*out)->dense_bytes;
    l->w->n_parameters += n * spec.k;
done:
    fl_free(scale);
    fl_free(bias);
    return rc;
}

/* Whether the weight keeps to the pattern that was declared for it; what does not runs dense, as
 * do rows that end inside a byte of the bitmask. */
static bool obeys_2of4(loader *l, const fl_linear_source *s, const char *module) {
    if (s->k % 8) return false;
    int64_t at = fl_sparse24_first_break(s->data, s->dtype, s->n * s->k);
    if (at < 0) return true;
    if (!fl_sparsity_covers(l->r->checkpoint, module) || l->not_sparse++) return false;
    snprintf(l->first_break, sizeof(l->first_break), "%.120s: row %lld, columns %lld to %lld",
             s->name, (long long)(at * 4 / s->k), (long long)(at * 4 % s->k),
             (long long)(at * 4 % s->k + 3));
    return false;
}

static int open_part(loader *l, fl_linear_source *out, const char *prefix, const fused_want *want,
                     int i, fl_err *err) {
    char module[128], fused[128];
    snprintf(module, sizeof(module), "%s%s", prefix, want->part[i].module);
    snprintf(fused, sizeof(fused), "%s%s", prefix, want->fused ? want->fused : "");
    fl_linear_want w = {.module = module,
                        .n = want->part[i].rows,
                        .k = want->k,
                        .bias_key = want->bias_key,
                        .no_bias = !want->bias_key,
                        .fused = want->fused ? fused : NULL,
                        .part = i,
                        .parts = want->n};
    for (int p = 0; p < want->n; p++) {
        if (p == i) w.fused_row = w.fused_n;
        w.fused_n += want->part[p].rows;
    }
    int rc = fl_linear_source_open(out, l->r->checkpoint, l->r->plan, &w, err);
    if (!rc && out->sparse24) out->sparse24 = obeys_2of4(l, out, module);
    return rc;
}

static int load_fused(loader *l, fl_fused *out, const char *prefix, const fused_want *want,
                      fl_err *err) {
    fl_linear_source src[FL_MAX_LINEAR_PARTS] = {0};
    const int n = want->n;
    int rc = FL_OK;
    for (int i = 0; i < n; i++) {
        if ((rc = open_part(l, &src[i], prefix, want, i, err))) goto done;
    }
    int64_t column = 0;
    for (int i = 0; i < n;) {
        int end = i + 1;
        while (end < n && same_input(&src[i], &src[end])) end++;
        if ((rc = make_linear(l, &out->lin[out->n], &src[i], end - i, err))) goto done;
        out->column[out->n++] = column;
        for (; i < end; i++) column += want->part[i].rows;
    }
done:
    for (int i = 0; i < n; i++) fl_linear_source_free(&src[i]);
    return rc;
}

static int find_vector(fl_stored_tensor *out, const fl_checkpoint *ck, const char *name, int64_t n,
                       fl_err *err) {
    bool found;
    char shape[160];
    int rc = fl_stored_tensor_find(out, &found, ck, name, err);
    const fl_st_tensor *t = &out->t;
    if (rc) return rc;
    if (!found) return fl_fail(err, FL_E_FORMAT, "%s: %s: missing", fl_checkpoint_dir(ck), name);
    if (t->ndim != 1 || t->dim[0] != n)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s does not match hidden_size %lld",
                       t->file, name, fl_st_shape(shape, t), (long long)n);
    if (!fl_st_is_float(t->dtype))
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need BF16, F16, F32 or F64",
                       t->file, name, fl_dtype_name(t->dtype));
    return FL_OK;
}

/* A vector of n values in the act dtype, in backend memory. */
static int load_vector(loader *l, fl_tensor *out, const char *name, int64_t n, fl_err *err) {
    fl_stored_tensor stored;
    void *data;
    int rc = find_vector(&stored, l->r->checkpoint, name, n, err);
    if (rc) return rc;
    float *values = fl_alloc_array((size_t)n, sizeof(*values));
    uint16_t *host = fl_alloc_array((size_t)n, sizeof(*host));
    if (!values || !host) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", name);
        goto done;
    }
    if ((rc = fl_stored_tensor_floats(values, &stored, 0, n, err))) goto done;
    for (int64_t i = 0; i < n; i++)
        host[i] =
            l->w->act_dtype == FL_DTYPE_F16 ? fl_f32_to_f16(values[i]) : fl_f32_to_bf16(values[i]);
    if ((rc = l->r->ops->mem_new(l->r->be, &data, (uint64_t)n * 2, err))) goto done;
    *out = fl_tensor_1d(data, l->w->act_dtype, n);
    rc = l->r->ops->write(l->r->be, out, host, err);
    l->w->bytes += (uint64_t)n * 2;
    l->w->bytes_per_token += (uint64_t)n * 2;
    l->w->n_parameters += n;
done:
    fl_free(values);
    fl_free(host);
    return rc;
}

static int load_layer(loader *l, int64_t i, fl_err *err) {
    const fl_config *c = l->r->config;
    fl_layer *y = &l->w->layers[i];
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const char *attn = c->attention_bias ? "attention_bias" : NULL;
    const char *mlp = c->mlp_bias ? "mlp_bias" : NULL;
    const fused_want qkv = {
        "self_attn.qkv_proj",
        attn,
        c->hidden_size,
        3,
        {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}}};
    const fused_want o = {NULL, attn, q, 1, {{"self_attn.o_proj", c->hidden_size}}};
    const fused_want gate_up = {"mlp.gate_up_proj",
                                mlp,
                                c->hidden_size,
                                2,
                                {{"mlp.gate_proj", c->ffn_size}, {"mlp.up_proj", c->ffn_size}}};
    const fused_want down = {NULL, mlp, c->ffn_size, 1, {{"mlp.down_proj", c->hidden_size}}};
    char prefix[64], name[128];
    int rc;
    snprintf(prefix, sizeof(prefix), "model.layers.%lld.", (long long)i);
    snprintf(name, sizeof(name), "%sinput_layernorm.weight", prefix);
    if ((rc = load_vector(l, &y->attn_norm, name, c->hidden_size, err))) return rc;
    if ((rc = load_fused(l, &y->qkv, prefix, &qkv, err))) return rc;
    if ((rc = load_fused(l, &y->o, prefix, &o, err))) return rc;
    snprintf(name, sizeof(name), "%spost_attention_layernorm.weight", prefix);
    if ((rc = load_vector(l, &y->ffn_norm, name, c->hidden_size, err))) return rc;
    if ((rc = load_fused(l, &y->gate_up, prefix, &gate_up, err))) return rc;
    return load_fused(l, &y->down, prefix, &down, err);
}

/* Embedding or head: rows may exceed vocab_size (padding); plain or E4M3 by dtype. */
static int load_vocab(loader *l, fl_linear **out, const char *module, fl_err *err) {
    const fl_config *c = l->r->config;
    char name[64];
    fl_stored_tensor t;
    bool found;
    snprintf(name, sizeof(name), "%s.weight", module);
    int rc = fl_stored_tensor_find(&t, &found, l->r->checkpoint, name, err);
    if (rc) return rc;
    if (!found && out == &l->w->head)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %s: missing; config.json has tie_word_embeddings false, true would "
                       "use the embedding",
                       fl_checkpoint_dir(l->r->checkpoint), name);
    const fl_linear_want want = {.module = module,
                                 .n = fl_vocab_rows(l->r->checkpoint, c, module),
                                 .k = c->hidden_size,
                                 .no_bias = true};
    fl_linear_source src = {0};
    rc = fl_linear_source_open(&src, l->r->checkpoint, l->r->plan, &want, err);
    src.sparse24 = false; /* rows are read one by one, too */
    if (!rc) rc = make_linear(l, out, &src, 1, err);
    fl_linear_source_free(&src);
    return rc;
}

int64_t fl_vocab_rows(const fl_checkpoint *ck, const fl_config *c, const char *module) {
    char name[64];
    fl_stored_tensor s;
    bool found;
    snprintf(name, sizeof(name), "%s.weight", module);
    if (fl_stored_tensor_find(&s, &found, ck, name, NULL) || !found || s.t.ndim != 2)
        return c->vocab_size;
    return fl_max_i64(s.t.dim[0], c->vocab_size);
}

int fl_weights_load(fl_weights *out, const fl_weights_request *r, fl_err *err) {
    const fl_config *c = r->config;
    loader l = {.w = out, .r = r};
    int rc;
    *out = (fl_weights){.ops = r->ops, .be = r->be, .n_layers = c->n_layers};
    out->act_dtype = c->dtype == FL_DTYPE_F16 ? FL_DTYPE_F16 : FL_DTYPE_BF16;
    if (!(out->layers = fl_alloc_array((size_t)c->n_layers, sizeof(*out->layers)))) {
        rc = fl_fail(err, FL_E_NOMEM, "%lld layers", (long long)c->n_layers);
        goto done;
    }
    if ((rc = load_vocab(&l, &out->embed, "model.embed_tokens", err))) goto done;
    if (c->tied) {
        out->head = out->embed;
    } else {
        out->bytes_per_token = 0; /* decoding gathers one row of a separate embedding */
        if ((rc = load_vocab(&l, &out->head, "lm_head", err))) goto done;
    }
    for (int64_t i = 0; i < c->n_layers; i++) {
        if (r->progress) r->progress(r->progress_ctx, (double)i / (double)c->n_layers);
        if ((rc = load_layer(&l, i, err))) goto done;
    }
    rc = load_vector(&l, &out->norm, "model.norm.weight", c->hidden_size, err);
    if (!rc && l.not_sparse)
        fl_log(FL_LOG_WARN, "%s: %zu linears are not 2:4 as declared and run dense (first %s)",
               fl_checkpoint_dir(r->checkpoint), l.not_sparse, l.first_break);
done:
    if (rc) fl_weights_free(out);
    return rc;
}

static void free_fused(fl_weights *w, fl_fused *f) {
    for (int i = 0; i < f->n; i++) w->ops->linear_free(w->be, f->lin[i]);
}

void fl_weights_free(fl_weights *w) {
    if (!w->be) return;
    for (int64_t i = 0; w->layers && i < w->n_layers; i++) {
        fl_layer *y = &w->layers[i];
        fl_fused *const fused[] = {&y->qkv, &y->o, &y->gate_up, &y->down};
        for (int k = 0; k < 4; k++) free_fused(w, fused[k]);
        w->ops->mem_free(w->be, y->attn_norm.data);
        w->ops->mem_free(w->be, y->ffn_norm.data);
    }
    fl_free(w->layers);
    w->ops->mem_free(w->be, w->norm.data);
    if (w->head != w->embed) w->ops->linear_free(w->be, w->head);
    w->ops->linear_free(w->be, w->embed);
    *w = (fl_weights){0};
}
