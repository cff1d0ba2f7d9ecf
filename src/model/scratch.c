#include "model/scratch.h"

#include "util/num.h"

/* Hands out 64-byte aligned pieces; with base 0 it only measures. */
typedef struct cursor {
    uintptr_t base;
    uint64_t used;
} cursor;

static fl_tensor take(cursor *c, fl_dtype dtype, int64_t a, int64_t b) {
    fl_tensor t = fl_tensor_2d((void *)(c->base + c->used), dtype, a, b);
    c->used += fl_round_up((uint64_t)(a * b * fl_dtype_bytes(dtype)), 64);
    return t;
}

static fl_tensor take_1d(cursor *c, fl_dtype dtype, int64_t n) {
    fl_tensor t = take(c, dtype, 1, n);
    return fl_tensor_1d(t.data, dtype, n);
}

static fl_act take_act(cursor *c, fl_dtype dtype, int64_t rows, int64_t width) {
    fl_act a;
    a.x = take(c, dtype, rows, width);
    a.q = take(c, FL_DTYPE_E4M3, rows, width);
    a.q_scale = take(c, FL_DTYPE_F32, rows, fl_act_groups(width));
    return a;
}

static void lay_out(fl_scratch *out, const fl_scratch_shape *s, cursor *c) {
    const fl_config *g = s->config;
    const int64_t t = s->max_rows, d = g->hidden_size;
    out->residual = take(c, s->act_dtype, t, d);
    out->delta = take(c, s->act_dtype, t, d);
    out->normed = take_act(c, s->act_dtype, t, d);
    out->qkv = take(c, s->act_dtype, t, (g->n_heads + 2 * g->n_kv_heads) * g->head_dim);
    out->attended = take_act(c, s->act_dtype, t, g->n_heads * g->head_dim);
    out->gate_up = take(c, s->act_dtype, t, 2 * g->ffn_size);
    out->ffn = take_act(c, s->act_dtype, t, g->ffn_size);
    out->logit_rows = s->logit_rows;
    out->head_in = take_act(c, s->act_dtype, s->logit_rows, d);
    out->logits = take(c, FL_DTYPE_F32, s->logit_rows, s->head_rows);
    out->rows = take_1d(c, FL_DTYPE_I32, s->logit_rows);
    if (s->edits) {
        const int64_t bytes = s->logit_rows * (int64_t)sizeof(fl_sample_row) +
                              s->edits * (int64_t)sizeof(fl_sample_edit);
        out->draws = take_1d(c, FL_DTYPE_I32, bytes / (int64_t)sizeof(int32_t));
        out->mask = take(c, FL_DTYPE_I32, s->logit_rows, fl_div_up(s->head_rows, 32));
        out->sampled = take(c, FL_DTYPE_I32, s->logit_rows, 2);
    }
    out->bytes = c->used;
    out->max_rows = s->max_rows;
    out->max_pages = s->max_pages;
}

uint64_t fl_scratch_bytes(const fl_scratch_shape *s) {
    fl_scratch measured = {0};
    cursor c = {0, 0};
    lay_out(&measured, s, &c);
    return c.used;
}

int fl_scratch_init(fl_scratch *out, const fl_scratch_shape *s, const fl_backend_ops *ops,
                    fl_backend *be, fl_err *err) {
    void *block;
    int rc = ops->mem_new(be, &block, fl_scratch_bytes(s), err);
    if (rc) return rc;
    cursor c = {(uintptr_t)block, 0};
    lay_out(out, s, &c);
    out->block = block;
    return FL_OK;
}
