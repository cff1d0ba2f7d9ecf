#include "model/forward.h"

#include <math.h>

#include "model/observe.h"

/* y = x @ w for a fused projection.  x is already quantized for the first part. */
static int project(fl_model *m, const fl_tensor *y, fl_act *x, const fl_fused *w, fl_err *err) {
    int rc;
    for (int i = 0; i < w->n; i++) {
        fl_tensor out = fl_columns(y, w->column[i], w->lin[i]->n);
        if (i && (rc = m->ops->quant(m->be, x, w->lin[i], err))) return rc;
        if ((rc = m->ops->linear(m->be, &out, x, w->lin[i], err))) return rc;
    }
    return FL_OK;
}

/* Whether half a layer may be one call: it begins and ends with one linear each, and nobody looks
 * at what lies between. */
static bool whole(const fl_model *m, const fl_fused *first, const fl_fused *last) {
    return m->ops->attn_block && first->n == 1 && last->n == 1 && !fl_observing(m);
}

/* Norm, attention and its output projection.  norm->delta, to be added first, becomes what is to
 * be added next, or absent when all is in the residual.  T rows; H, G, E of the config. */
static int attention(fl_model *m, int64_t layer, fl_norm *norm, const fl_batch *b, fl_err *err) {
    const fl_config *c = &m->config;
    const fl_layer *w = &m->weights.layers[layer];
    const fl_backend_ops *ops = m->ops;
    const int64_t t = b->n_rows, h = c->n_heads, g = c->n_kv_heads, e = c->head_dim;
    fl_act *x = norm->out, y = fl_act_rows(m->scratch.attended, t);
    fl_tensor qkv = fl_rows(m->scratch.qkv, t), delta = fl_rows(m->scratch.delta, t);
    fl_tensor q = fl_heads(&qkv, 0, h, e);
    fl_rope rope = {q, fl_heads(&qkv, h, g, e), fl_heads(&qkv, h + g, g, e), m->cos_sin};
    const float scale = 1.0f / sqrtf((float)e);
    bool done = false;
    int rc = FL_OK;
    norm->weight = w->attn_norm;
    norm->next = w->qkv.lin[0];
    if (whole(m, &w->qkv, &w->o)) {
        const fl_attn_block all = {*norm, rope, &m->kv[layer], b, scale, &y, w->o.lin[0]};
        rc = ops->attn_block(m->be, &all, &done, err);
    }
    if (!rc && !done) rc = ops->norm(m->be, norm, err);
    norm->delta = done ? (fl_tensor){0} : delta;
    if (rc || done) return rc;
    if ((rc = fl_observe_input(m, layer, FL_OBSERVED_QKV, x, w->qkv.lin[0], err))) return rc;
    if ((rc = project(m, &qkv, x, &w->qkv, err))) return rc;
    if ((rc = fl_observe_kv(m, layer, &rope, b, err))) return rc;
    if ((rc = ops->rope_store(m->be, &rope, &m->kv[layer], b, err))) return rc;
    if ((rc = ops->attend(m->be, &y, &q, &m->kv[layer], b, scale, w->o.lin[0], err))) return rc;
    if ((rc = fl_observe_input(m, layer, FL_OBSERVED_O, &y, w->o.lin[0], err))) return rc;
    return project(m, &delta, &y, &w->o, err);
}

/* The same with SwiGLU. */
static int feed_forward(fl_model *m, int64_t layer, fl_norm *norm, const fl_batch *b, fl_err *err) {
    const fl_layer *w = &m->weights.layers[layer];
    fl_act *x = norm->out, y = fl_act_rows(m->scratch.ffn, b->n_rows);
    fl_tensor gate_up = fl_rows(m->scratch.gate_up, b->n_rows);
    fl_tensor delta = fl_rows(m->scratch.delta, b->n_rows);
    bool done = false;
    int rc = FL_OK;
    norm->weight = w->ffn_norm;
    norm->next = w->gate_up.lin[0];
    if (whole(m, &w->gate_up, &w->down)) {
        const fl_mlp_block all = {*norm, &y, w->down.lin[0]};
        rc = m->ops->mlp_block(m->be, &all, &done, err);
    }
    if (!rc && !done) rc = m->ops->norm(m->be, norm, err);
    norm->delta = done ? (fl_tensor){0} : delta;
    if (rc || done) return rc;
    rc = fl_observe_input(m, layer, FL_OBSERVED_GATE_UP, x, w->gate_up.lin[0], err);
    if (rc) return rc;
    if ((rc = project(m, &gate_up, x, &w->gate_up, err))) return rc;
    if ((rc = m->ops->silu_mul(m->be, &y, &gate_up, w->down.lin[0], err))) return rc;
    if ((rc = fl_observe_input(m, layer, FL_OBSERVED_DOWN, &y, w->down.lin[0], err))) return rc;
    return project(m, &delta, &y, &w->down, err);
}

int fl_forward_layers(fl_model *m, const fl_batch *b, fl_err *err) {
    const fl_backend_ops *ops = m->ops;
    fl_act x = fl_act_rows(m->scratch.normed, b->n_rows);
    fl_norm norm = {.residual = fl_rows(m->scratch.residual, b->n_rows),
                    .out = &x,
                    .eps = (float)m->config.rms_norm_eps};
    fl_tensor ids = fl_rows(b->ids, b->n_rows);
    int rc = ops->embed(m->be, &norm.residual, m->weights.embed, &ids, err);
    for (int64_t i = 0; !rc && i < m->config.n_layers; i++) {
        rc = attention(m, i, &norm, b, err);
        if (!rc) rc = feed_forward(m, i, &norm, b, err);
    }
    if (rc) return rc;
    norm.weight = m->weights.norm;
    norm.next = NULL;
    return ops->norm(m->be, &norm, err);
}

int fl_forward_head(fl_model *m, const fl_batch *b, const int32_t *rows, int64_t n, fl_err *err) {
    fl_act in = fl_act_rows(m->scratch.head_in, n);
    fl_tensor hidden = fl_rows(m->scratch.normed.x, b->n_rows);
    fl_tensor index = fl_rows(m->scratch.rows, n), logits = fl_rows(m->scratch.logits, n);
    int rc;
    if ((rc = m->ops->write(m->be, &index, rows, err))) return rc;
    if ((rc = m->ops->gather(m->be, &in.x, &hidden, &index, err))) return rc;
    if ((rc = m->ops->quant(m->be, &in, m->weights.head, err))) return rc;
    return m->ops->linear(m->be, &logits, &in, m->weights.head, err);
}

int fl_forward_head_all(fl_model *m, const fl_batch *b, fl_err *err) {
    fl_act in = fl_act_rows(m->scratch.normed, b->n_rows);
    fl_tensor logits = fl_rows(m->scratch.logits, b->n_rows);
    int rc = m->ops->quant(m->be, &in, m->weights.head, err);
    return rc ? rc : m->ops->linear(m->be, &logits, &in, m->weights.head, err);
}
