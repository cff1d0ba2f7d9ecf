#include "model/weights.h"

#include <stdio.h>
#include <string.h>

#include "formats/linear_source.h"
#include "util/file.h"
#include "util/fp8.h"
#include "util/log.h"
#include "util/mem.h"

typedef struct loader {
    fl_weights *w;
    const fl_weights_request *r;
} loader;

/* One part of a fused projection as the config requires it. */
typedef struct part_want {
    const char *module; /* below "model.layers.N." */
    int64_t rows;
} part_want;

static bool same_input(const fl_linear_source *a, const fl_linear_source *b) {
    return a->weight->dtype == b->weight->dtype && a->act == b->act &&
           fl_f32_bits(a->x_scale) == fl_f32_bits(b->x_scale) &&
           fl_f32_bits(a->x_scale_ub) == fl_f32_bits(b->x_scale_ub);
}

/* values of all parts end to end; parts without them contribute zeros */
static float *join(float *const *values, const fl_linear_spec *spec, int64_t n) {
    float *all = fl_alloc_array((size_t)n, sizeof(*all));
    if (!all) return NULL;
    int64_t at = 0;
    for (int i = 0; i < spec->n_parts; i++) {
        size_t rows = (size_t)spec->part[i].rows;
        if (values[i]) memcpy(all + at, values[i], rows * sizeof(*all));
        at += spec->part[i].rows;
    }
    return all;
}

static int make_linear(loader *l, fl_linear **out, const fl_linear_source *src, int n_parts,
                       fl_err *err) {
    fl_linear_spec spec = {.n_parts = n_parts,
                           .k = src[0].weight->dim[1],
                           .dtype = src[0].weight->dtype,
                           .act = src[0].act,
                           .x_scale = src[0].x_scale,
                           .x_scale_ub = src[0].x_scale_ub,
                           .release = fl_file_release};
    float *scales[FL_MAX_LINEAR_PARTS] = {0}, *biases[FL_MAX_LINEAR_PARTS] = {0};
    float *scale = NULL, *bias = NULL;
    bool has_scale = false, has_bias = false;
    int64_t n = 0;
    for (int i = 0; i < n_parts; i++) {
        spec.part[i] = (fl_linear_part){src[i].weight->data, src[i].weight->dim[0]};
        scales[i] = src[i].w_scale;
        biases[i] = src[i].bias;
        has_scale |= scales[i] != NULL;
        has_bias |= biases[i] != NULL;
        n += spec.part[i].rows;
    }
    int rc = FL_OK;
    if ((has_scale && !(scale = join(scales, &spec, n))) ||
        (has_bias && !(bias = join(biases, &spec, n)))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s: scales", src[0].weight->name);
        goto done;
    }
    spec.w_scale = scale;
    spec.bias = bias;
    rc = l->r->ops->linear_new(l->r->be, out, &spec, err);
    if (rc) goto done;
    l->w->bytes += (*out)->bytes;
    l->w->bytes_per_token += (*out)->bytes;
    l->w->n_parameters += n * spec.k;
done:
    fl_free(scale);
    fl_free(bias);
    return rc;
}

static int load_fused(loader *l, fl_fused *out, const char *prefix, const part_want *want, int n,
                      int64_t k, fl_err *err) {
    fl_linear_source src[FL_MAX_LINEAR_PARTS] = {0};
    int rc = FL_OK;
    for (int i = 0; i < n; i++) {
        char module[128];
        snprintf(module, sizeof(module), "%s%s", prefix, want[i].module);
        rc = fl_linear_source_open(&src[i], l->r->checkpoint, l->r->plan, module, want[i].rows, k,
                                   err);
        if (rc) goto done;
    }
    int64_t column = 0;
    for (int i = 0; i < n;) {
        int end = i + 1;
        while (end < n && same_input(&src[i], &src[end])) end++;
        if ((rc = make_linear(l, &out->lin[out->n], &src[i], end - i, err))) goto done;
        out->column[out->n++] = column;
        for (; i < end; i++) column += want[i].rows;
    }
done:
    for (int i = 0; i < n; i++) fl_linear_source_free(&src[i]);
    return rc;
}

/* A vector of n values in the act dtype, in backend memory. */
static int load_vector(loader *l, fl_tensor *out, const char *name, int64_t n, fl_err *err) {
    const fl_st_tensor *t = fl_checkpoint_find(l->r->checkpoint, name);
    char shape[160];
    if (!t)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: missing", fl_checkpoint_dir(l->r->checkpoint),
                       name);
    if (t->ndim != 1 || t->dim[0] != n)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s does not match hidden_size %lld",
                       t->file, name, fl_st_shape(shape, t), (long long)n);
    if (t->dtype != FL_DTYPE_BF16 && t->dtype != FL_DTYPE_F16 && t->dtype != FL_DTYPE_F32)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need BF16, F16 or F32", t->file,
                       name, fl_dtype_name(t->dtype));
    uint16_t *host = fl_alloc_array((size_t)n, sizeof(*host));
    if (!host) return fl_fail(err, FL_E_NOMEM, "%s", name);
    for (int64_t i = 0; i < n; i++) {
        float v = fl_st_value(t, i);
        host[i] = l->w->act_dtype == FL_DTYPE_F16 ? fl_f32_to_f16(v) : fl_f32_to_bf16(v);
    }
    void *data;
    int rc = l->r->ops->mem_new(l->r->be, &data, (uint64_t)n * 2, err);
    if (!rc) {
        *out = fl_tensor_1d(data, l->w->act_dtype, n);
        rc = l->r->ops->write(l->r->be, out, host, err);
    }
    l->w->bytes += (uint64_t)n * 2;
    l->w->bytes_per_token += (uint64_t)n * 2;
    l->w->n_parameters += n;
    fl_free(host);
    return rc;
}

static int load_layer(loader *l, int64_t i, fl_err *err) {
    const fl_config *c = l->r->config;
    fl_layer *y = &l->w->layers[i];
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const part_want qkv[] = {
        {"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    const part_want o[] = {{"self_attn.o_proj", c->hidden_size}};
    const part_want gate_up[] = {{"mlp.gate_proj", c->ffn_size}, {"mlp.up_proj", c->ffn_size}};
    const part_want down[] = {{"mlp.down_proj", c->hidden_size}};
    char prefix[64], name[128];
    int rc;
    snprintf(prefix, sizeof(prefix), "model.layers.%lld.", (long long)i);
    snprintf(name, sizeof(name), "%sinput_layernorm.weight", prefix);
    if ((rc = load_vector(l, &y->attn_norm, name, c->hidden_size, err))) return rc;
    if ((rc = load_fused(l, &y->qkv, prefix, qkv, 3, c->hidden_size, err))) return rc;
    if ((rc = load_fused(l, &y->o, prefix, o, 1, q, err))) return rc;
    snprintf(name, sizeof(name), "%spost_attention_layernorm.weight", prefix);
    if ((rc = load_vector(l, &y->ffn_norm, name, c->hidden_size, err))) return rc;
    if ((rc = load_fused(l, &y->gate_up, prefix, gate_up, 2, c->hidden_size, err))) return rc;
    return load_fused(l, &y->down, prefix, down, 1, c->ffn_size, err);
}

/* Embedding or head: rows may exceed vocab_size (padding); plain or E4M3 by dtype. */
static int load_vocab(loader *l, fl_linear **out, const char *module, fl_err *err) {
    const fl_config *c = l->r->config;
    char name[64];
    snprintf(name, sizeof(name), "%s.weight", module);
    const fl_st_tensor *t = fl_checkpoint_find(l->r->checkpoint, name);
    int64_t rows = t && t->ndim == 2 && t->dim[0] > c->vocab_size ? t->dim[0] : c->vocab_size;
    if (!t && out == &l->w->head)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %s: missing; config.json has tie_word_embeddings false, true would "
                       "use the embedding",
                       fl_checkpoint_dir(l->r->checkpoint), name);
    fl_linear_source src = {0};
    int rc = fl_linear_source_open(&src, l->r->checkpoint, l->r->plan, module, rows, c->hidden_size,
                                   err);
    if (!rc) rc = make_linear(l, out, &src, 1, err);
    fl_linear_source_free(&src);
    return rc;
}

int fl_weights_load(fl_weights *out, const fl_weights_request *r, fl_err *err) {
    const fl_config *c = r->config;
    loader l = {out, r};
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
