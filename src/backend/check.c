#include "backend/check.h"

#include "util/dtype.h"

int fl_check_linear_spec(const fl_linear_spec *s, int64_t max_k, int64_t *n, fl_err *err) {
    if (s->n_parts < 1 || s->n_parts > FL_MAX_LINEAR_PARTS)
        return fl_fail(err, FL_E_ARG, "linear: %d parts, limit %d", s->n_parts,
                       FL_MAX_LINEAR_PARTS);
    for (int i = 0; i < s->n_parts; i++) {
        if (s->part[i].rows < 1 || s->part[i].rows > INT32_MAX)
            return fl_fail(err, FL_E_ARG, "linear: part %d has %lld rows", i,
                           (long long)s->part[i].rows);
        *n += s->part[i].rows;
    }
    if (s->k < 1 || s->k > max_k)
        return fl_fail(err, FL_E_ARG, "linear: input width %lld, limit %lld", (long long)s->k,
                       (long long)max_k);
    if (s->dtype != FL_DTYPE_E4M3 && s->dtype != FL_DTYPE_BF16 && s->dtype != FL_DTYPE_F16 &&
        s->dtype != FL_DTYPE_F32)
        return fl_fail(err, FL_E_UNSUPPORTED, "linear: weights of type %s",
                       fl_dtype_name(s->dtype));
    if (s->dtype != FL_DTYPE_E4M3 && (s->act != FL_ACT_NONE || s->w_scale))
        return fl_fail(err, FL_E_ARG, "linear: %s weights with a scale or FP8 activations",
                       fl_dtype_name(s->dtype));
    if (s->w_block && (s->w_block != FL_ACT_GROUP_K || s->dtype != FL_DTYPE_E4M3))
        return fl_fail(err, FL_E_ARG, "linear: %s weights with a scale for each %lld columns",
                       fl_dtype_name(s->dtype), (long long)s->w_block);
    if (s->act == FL_ACT_STATIC && !(s->x_scale > 0.0f && s->x_scale < 1e30f))
        return fl_fail(err, FL_E_ARG, "linear: input scale %g", (double)s->x_scale);
    return FL_OK;
}

fl_linear fl_linear_of_spec(const fl_linear_spec *s, int64_t n) {
    return (fl_linear){.n = n,
                       .k = s->k,
                       .dtype = s->dtype == FL_DTYPE_F32 ? FL_DTYPE_BF16 : s->dtype,
                       .act = s->act,
                       .x_scale = s->x_scale,
                       .x_scale_ub = s->x_scale_ub,
                       .w_block = s->w_block};
}

int fl_check_linear(const fl_tensor *out, const fl_act *x, const fl_linear *lin,
                    const fl_tensor **in_out, fl_err *err) {
    const fl_tensor *in = lin->act == FL_ACT_NONE ? &x->x : &x->q;
    int64_t rows = out->dim[0];
    if (in->dim[0] < rows || in->dim[1] != lin->k || out->dim[1] != lin->n)
        return fl_fail(err, FL_E_ARG, "linear [%lld,%lld]: input [%lld,%lld], output [%lld,%lld]",
                       (long long)lin->n, (long long)lin->k, (long long)in->dim[0],
                       (long long)in->dim[1], (long long)rows, (long long)out->dim[1]);
    if (lin->act == FL_ACT_GROUP && x->q_scale.dim[1] != fl_act_groups(lin->k))
        return fl_fail(err, FL_E_ARG, "linear: %lld scales a row for %lld columns",
                       (long long)x->q_scale.dim[1], (long long)lin->k);
    *in_out = in;
    return FL_OK;
}

int fl_check_quant(const char *op, const fl_act *a, const fl_linear *next, fl_err *err) {
    if (!next || next->act == FL_ACT_NONE) return FL_OK;
    if (a->q.dim[0] < a->x.dim[0] || a->q.dim[1] != a->x.dim[1] || next->k != a->x.dim[1])
        return fl_fail(err, FL_E_ARG, "%s: activation width %lld, FP8 width %lld, next linear %lld",
                       op, (long long)a->x.dim[1], (long long)a->q.dim[1], (long long)next->k);
    if (next->act == FL_ACT_GROUP && a->q_scale.dim[1] != fl_act_groups(next->k))
        return fl_fail(err, FL_E_ARG, "%s: %lld scales a row for %lld columns", op,
                       (long long)a->q_scale.dim[1], (long long)next->k);
    return FL_OK;
}

static bool same_shape(const fl_tensor *a, const fl_tensor *b) {
    return a->dim[0] == b->dim[0] && a->dim[1] == b->dim[1];
}

int fl_check_norm(const fl_norm *n, fl_err *err) {
    const fl_tensor *r = &n->residual, *out = &n->out->x;
    if (!same_shape(r, out) || n->weight.dim[0] != r->dim[1] ||
        (n->delta.dtype && !same_shape(r, &n->delta)))
        return fl_fail(err, FL_E_ARG, "norm: residual [%lld,%lld], output [%lld,%lld], weight %lld",
                       (long long)r->dim[0], (long long)r->dim[1], (long long)out->dim[0],
                       (long long)out->dim[1], (long long)n->weight.dim[0]);
    return fl_check_quant("norm", n->out, n->next, err);
}

int fl_check_silu_mul(const fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                      fl_err *err) {
    const fl_tensor *x = &out->x;
    if (gate_up->dim[0] != x->dim[0] || gate_up->dim[1] != 2 * x->dim[1] ||
        gate_up->dtype != x->dtype)
        return fl_fail(err, FL_E_ARG, "silu_mul: input [%lld,%lld] %s, output [%lld,%lld] %s",
                       (long long)gate_up->dim[0], (long long)gate_up->dim[1],
                       fl_dtype_name(gate_up->dtype), (long long)x->dim[0], (long long)x->dim[1],
                       fl_dtype_name(x->dtype));
    return fl_check_quant("silu_mul", out, next, err);
}

int fl_check_gather(const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows, fl_err *err) {
    if (out->dim[1] != x->dim[1] || out->dtype != x->dtype || rows->dim[0] != out->dim[0] ||
        fl_dtype_bytes(x->dtype) != 2)
        return fl_fail(err, FL_E_ARG, "gather: %lld rows into [%lld,%lld] %s, source width %lld %s",
                       (long long)rows->dim[0], (long long)out->dim[0], (long long)out->dim[1],
                       fl_dtype_name(out->dtype), (long long)x->dim[1], fl_dtype_name(x->dtype));
    return FL_OK;
}

static int check_cache(const char *op, const fl_kv_layer *kv, fl_dtype act, fl_err *err) {
    const fl_kv_shape *s = &kv->shape;
    if (s->dtype != act && s->dtype != FL_DTYPE_E4M3)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: KV cache of type %s beside %s", op,
                       fl_dtype_name(s->dtype), fl_dtype_name(act));
    if (s->heads < 1 || s->page_tokens < FL_KV_PAGE_MULTIPLE ||
        s->page_tokens % FL_KV_PAGE_MULTIPLE)
        return fl_fail(err, FL_E_ARG, "%s: %lld kv heads, pages of %lld tokens (not times %d)", op,
                       (long long)s->heads, (long long)s->page_tokens, FL_KV_PAGE_MULTIPLE);
    if (s->head_dim < 2 || s->head_dim % 2 || s->head_dim > FL_MAX_HEAD_DIM)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: head_dim %lld, need an even number up to %d", op,
                       (long long)s->head_dim, FL_MAX_HEAD_DIM);
    return FL_OK;
}

int fl_check_rope(const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b, fl_err *err) {
    int rc = check_cache("rope_store", kv, r->q.dtype, err);
    if (rc) return rc;
    const fl_tensor *each[] = {&r->q, &r->k, &r->v};
    for (int i = 0; i < 3; i++) {
        const fl_tensor *t = each[i];
        if (t->dim[0] < b->n_rows || t->dim[2] != kv->shape.head_dim || t->dtype != r->q.dtype ||
            (i && t->dim[1] != kv->shape.heads))
            return fl_fail(err, FL_E_ARG,
                           "rope_store: %c is [%lld,%lld,%lld] %s; %lld rows, cache [%lld,%lld]",
                           "qkv"[i], (long long)t -> dim[0], (long long)t -> dim[1],
                           (long long)t -> dim[2], fl_dtype_name(t->dtype), (long long)b -> n_rows,
                           (long long)kv -> shape.heads, (long long)kv->shape.head_dim);
    }
    return FL_OK;
}

int fl_check_attend(const fl_tensor *out, const fl_tensor *q, const fl_kv_layer *kv,
                    const fl_batch *b, fl_err *err) {
    int rc = check_cache("attend", kv, q->dtype, err);
    if (rc) return rc;
    if (q->dim[0] < b->n_rows || out->dim[0] < b->n_rows || q->dim[2] != kv->shape.head_dim ||
        out->dim[1] != q->dim[1] * q->dim[2] || q->dim[1] % kv->shape.heads ||
        q->dtype != out->dtype)
        return fl_fail(err, FL_E_ARG,
                       "attend: q [%lld,%lld,%lld], out [%lld,%lld], "
                       "cache [%lld,%lld], %lld rows",
                       (long long)q->dim[0], (long long)q->dim[1], (long long)q->dim[2],
                       (long long)out->dim[0], (long long)out->dim[1], (long long)kv->shape.heads,
                       (long long)kv->shape.head_dim, (long long)b->n_rows);
    return FL_OK;
}
