/* ops.c - the ops on single rows: check shapes, fill in what the kernels take, launch. */
#include "cuda/cuda_priv.h"

int cuda_quant_for(cuda_quant *out, const char *op, const fl_act *a, const fl_linear *next,
                   fl_err *err) {
    *out = (cuda_quant){.act = FL_ACT_NONE};
    int rc = fl_check_quant(op, a, next, err);
    if (rc || !next || next->act == FL_ACT_NONE) return rc;
    *out = (cuda_quant){.q = a->q.data,
                        .q_scale = a->q_scale.data,
                        .ld = a->q.stride,
                        .groups = fl_act_groups(next->k),
                        .act = next->act,
                        .x_scale = next->x_scale,
                        .x_scale_ub = next->x_scale_ub};
    return FL_OK;
}

int cuda_norm(fl_backend *be, const fl_norm *n, fl_err *err) {
    const fl_tensor *r = &n->residual, *out = &n->out->x;
    bool delta = n->delta.dtype != FL_DTYPE_NONE;
    cuda_norm_args a = {.residual = r->data,
                        .out = out->data,
                        .delta = delta ? n->delta.data : NULL,
                        .weight = n->weight.data,
                        .ld_residual = r->stride,
                        .ld_delta = delta ? n->delta.stride : 0,
                        .ld_out = out->stride,
                        .t = r->dim[0],
                        .n = r->dim[1],
                        .eps = n->eps,
                        .dtype = r->dtype};
    if (delta) a.unscaled = cuda_take_unscaled(be, &n->delta);
    int rc = cuda_enter(be, "norm", a.t, err);
    if (rc || (rc = cuda_quant_for(&a.quant, "norm", n->out, n->next, err))) return rc;
    if ((rc = fl_check_norm(n, err))) return rc;
    return cuda_check(be, fl_cuda_norm(&a, be->stream), "norm", err);
}

int cuda_quantize(fl_backend *be, fl_act *act, const fl_linear *next, fl_err *err) {
    cuda_quant_args a = {.x = act->x.data,
                         .ld = act->x.stride,
                         .t = act->x.dim[0],
                         .n = act->x.dim[1],
                         .dtype = act->x.dtype};
    int rc = cuda_enter(be, "quant", a.t, err);
    if (rc || (rc = cuda_quant_for(&a.quant, "quant", act, next, err))) return rc;
    if (a.quant.act == FL_ACT_NONE) return FL_OK;
    return cuda_check(be, fl_cuda_quant(&a, be->stream), "quant", err);
}

int cuda_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                  fl_err *err) {
    const fl_tensor *x = &out->x;
    cuda_silu_args a = {.in = gate_up->data,
                        .out = x->data,
                        .ld_in = gate_up->stride,
                        .ld_out = x->stride,
                        .t = x->dim[0],
                        .n = x->dim[1],
                        .dtype = x->dtype,
                        .unscaled = cuda_take_unscaled(be, gate_up)};
    int rc = cuda_enter(be, "silu_mul", a.t, err);
    if (rc || (rc = cuda_quant_for(&a.quant, "silu_mul", out, next, err))) return rc;
    if ((rc = fl_check_silu_mul(out, gate_up, next, err))) return rc;
    return cuda_check(be, fl_cuda_silu_mul(&a, be->stream), "silu_mul", err);
}

int cuda_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows,
                fl_err *err) {
    cuda_rows_args a = {.x = x->data,
                        .out = out->data,
                        .index = rows->data,
                        .ldx = x->stride,
                        .ldo = out->stride,
                        .t = out->dim[0],
                        .n = out->dim[1],
                        .limit = x->dim[0],
                        .dtype = out->dtype,
                        .fault = be->fault};
    int rc = cuda_enter(be, "gather", a.t, err);
    if (rc || (rc = fl_check_gather(out, x, rows, err))) return rc;
    return cuda_check(be, fl_cuda_gather(&a, be->stream), "gather", err);
}

static cuda_quant_args rows_of(const fl_tensor *x) {
    return (cuda_quant_args){
        .x = x->data, .ld = x->stride, .t = x->dim[0], .n = x->dim[1], .dtype = x->dtype};
}

int cuda_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    cuda_quant_args a = rows_of(x);
    int rc = cuda_enter(be, "absmax", a.t, err);
    return rc ? rc : cuda_check(be, fl_cuda_absmax(out->data, &a, be->stream), "absmax", err);
}

int cuda_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    cuda_quant_args a = rows_of(x);
    int rc = cuda_enter(be, "sumsq", a.t, err);
    if (rc) return rc;
    if (out->dim[0] != a.n)
        return fl_fail(err, FL_E_ARG, "sumsq: %lld columns into %lld sums", (long long)a.n,
                       (long long)out->dim[0]);
    return cuda_check(be, fl_cuda_sumsq(out->data, &a, be->stream), "sumsq", err);
}

int cuda_sample(fl_backend *be, const fl_sample *s, fl_err *err) {
    const fl_tensor *x = &s->logits, *mask = &s->mask;
    cuda_sample_args a = {.logits = x->data,
                          .ld = x->stride,
                          .ld_mask = mask->stride,
                          .t = x->dim[0],
                          .n = x->dim[1],
                          .rows = s->rows,
                          .edits = s->edits,
                          .mask = mask->data,
                          .out = s->out};
    int rc = cuda_enter(be, "sample", a.t, err);
    if (rc) return rc;
    if (x->dtype != FL_DTYPE_F32 || a.n < 1 || a.n > FL_SAMPLE_MAX_VOCAB || mask->dim[0] < a.t ||
        mask->dim[1] * 32 < a.n)
        return fl_fail(err, FL_E_ARG,
                       "sample: logits [%lld,%lld] %s, limit %d columns; mask of %lld",
                       (long long)a.t, (long long)a.n, fl_dtype_name(x->dtype), FL_SAMPLE_MAX_VOCAB,
                       (long long)(mask->dim[1] * 32));
    return cuda_check(be, fl_cuda_sample(&a, be->stream), "sample", err);
}
