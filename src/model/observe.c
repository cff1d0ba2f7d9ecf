#include "model/observe.h"

#include "util/fp8.h"
#include "util/mem.h"

int64_t fl_observed_column(const fl_config *c, fl_observed input) {
    const int64_t widths[FL_OBSERVED_INPUTS] = {c->hidden_size, c->n_heads * c->head_dim,
                                                c->hidden_size, c->ffn_size};
    int64_t column = 0;
    for (int i = 0; i < (int)input && i < FL_OBSERVED_INPUTS; i++) column += widths[i];
    return column;
}

bool fl_observing(const fl_model *m) {
    return m->observed.absmax.dtype != FL_DTYPE_NONE;
}

static int observe_absmax(fl_model *m, int64_t layer, fl_observed which, const fl_tensor *x,
                          fl_err *err) {
    float *slot = (float *)m->observed.absmax.data + layer * FL_OBSERVED + which;
    fl_tensor out = fl_tensor_1d(slot, FL_DTYPE_F32, 1);
    return m->ops->absmax(m->be, &out, x, err);
}

/* x->q and its scale by the rule, on the host.  wide, half: room for x. */
static int requantize(fl_model *m, fl_act *x, float scale, float *wide, uint16_t *half,
                      fl_err *err) {
    const int64_t rows = x->x.dim[0], n = rows * x->x.dim[1];
    const bool f16 = x->x.dtype == FL_DTYPE_F16;
    int rc = m->ops->read(m->be, half, &x->x, err);
    if (rc) return rc;
    for (int64_t i = 0; i < n; i++)
        wide[i] = f16 ? fl_f16_to_f32(half[i]) : fl_bf16_to_f32(half[i]);
    m->observed.rule->encode((uint8_t *)half, wide, n, scale);
    if ((rc = m->ops->write(m->be, &x->q, half, err))) return rc;
    for (int64_t i = 0; i < rows; i++) wide[i] = scale;
    return m->ops->write(m->be, &x->q_scale, wide, err);
}

static int follow_rule(fl_model *m, int64_t layer, fl_observed input, fl_act *x, fl_err *err) {
    float *slot = (float *)m->observed.absmax.data + layer * FL_OBSERVED + input, amax;
    const size_t n = (size_t)(x->x.dim[0] * x->x.dim[1]);
    fl_tensor in = fl_tensor_1d(slot, FL_DTYPE_F32, 1);
    float *wide = fl_alloc_array(n, sizeof(*wide));
    uint16_t *half = fl_alloc_array(n, sizeof(*half));
    int rc = wide && half ? m->ops->read(m->be, &amax, &in, err)
                          : fl_fail(err, FL_E_NOMEM, "calibration");
    if (!rc) rc = requantize(m, x, m->observed.rule->scale_of(amax), wide, half, err);
    fl_free(wide);
    fl_free(half);
    return rc;
}

int fl_observe_input(fl_model *m, int64_t layer, fl_observed input, fl_act *x,
                     const fl_linear *next, fl_err *err) {
    if (!fl_observing(m)) return FL_OK;
    float *sums = (float *)m->observed.sumsq.data + layer * m->observed.sumsq.dim[1] +
                  fl_observed_column(&m->config, input);
    fl_tensor out = fl_tensor_1d(sums, FL_DTYPE_F32, x->x.dim[1]);
    int rc = observe_absmax(m, layer, input, &x->x, err);
    if (rc || (rc = m->ops->sumsq(m->be, &out, &x->x, err))) return rc;
    if (!m->observed.rule || next->act != FL_ACT_STATIC) return FL_OK;
    return follow_rule(m, layer, input, x, err);
}

/* Rotated keys exist only inside the cache, in the backend's own layout; queries are rotated in
 * place.  So the keys of a copy take the place of the queries once; what this stores in the
 * cache is what the step stores again. */
int fl_observe_kv(fl_model *m, int64_t layer, const fl_rope *r, const fl_batch *b, fl_err *err) {
    if (!fl_observing(m)) return FL_OK;
    const fl_config *c = &m->config;
    const int64_t h = c->n_heads, g = c->n_kv_heads, e = c->head_dim, t = b->n_rows;
    fl_tensor from = fl_rows(m->scratch.qkv, t), qkv = fl_rows(m->observed.qkv, t);
    uint64_t bytes = (uint64_t)(t * qkv.dim[1] * fl_dtype_bytes(qkv.dtype));
    fl_rope copy = *r;
    copy.q = fl_heads(&qkv, h, g, e);
    fl_tensor k = fl_columns(&qkv, h * e, g * e), v = fl_columns(&qkv, (h + g) * e, g * e);
    int rc;
    if ((rc = m->ops->copy(m->be, qkv.data, from.data, bytes, err)) ||
        (rc = m->ops->rope_store(m->be, &copy, &m->kv[layer], b, err)) ||
        (rc = observe_absmax(m, layer, FL_OBSERVED_K, &k, err)))
        return rc;
    return observe_absmax(m, layer, FL_OBSERVED_V, &v, err);
}

void fl_observe_free(fl_model *m) {
    fl_tensor *all[] = {&m->observed.absmax, &m->observed.sumsq, &m->observed.qkv};
    for (int i = 0; i < 3; i++) {
        m->ops->mem_free(m->be, all[i]->data);
        *all[i] = (fl_tensor){0};
    }
}

static int reserve(fl_model *m, fl_tensor *out, fl_dtype t, int64_t rows, int64_t columns,
                   fl_err *err) {
    void *data;
    int rc = m->ops->mem_new(m->be, &data, (uint64_t)(rows * columns * fl_dtype_bytes(t)), err);
    if (!rc) *out = fl_tensor_2d(data, t, rows, columns);
    return rc;
}

int fl_model_observe_begin(fl_model *m, const fl_input_rule *rule, fl_err *err) {
    const fl_config *c = &m->config;
    const fl_tensor *qkv = &m->scratch.qkv;
    int rc;
    pthread_mutex_lock(&m->lock);
    fl_observe_free(m);
    m->observed.rule = rule;
    if ((rc = reserve(m, &m->observed.absmax, FL_DTYPE_F32, c->n_layers, FL_OBSERVED, err)) ||
        (rc = reserve(m, &m->observed.sumsq, FL_DTYPE_F32, c->n_layers,
                      fl_observed_column(c, FL_OBSERVED_INPUTS), err)) ||
        (rc = reserve(m, &m->observed.qkv, qkv->dtype, qkv->dim[0], qkv->dim[1], err)))
        fl_observe_free(m);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int fl_model_observe_end(fl_model *m, float *absmax, float *sumsq, fl_err *err) {
    int rc;
    pthread_mutex_lock(&m->lock);
    if (!fl_observing(m))
        rc = fl_fail(err, FL_E_ARG, "observe: not begun");
    else if (!(rc = m->ops->read(m->be, absmax, &m->observed.absmax, err)))
        rc = m->ops->read(m->be, sumsq, &m->observed.sumsq, err);
    fl_observe_free(m);
    pthread_mutex_unlock(&m->lock);
    return rc;
}
