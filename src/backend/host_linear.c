/* y = x @ w^T for host tensors, through whatever backend is given. */
#include "backend/host_tensor.h"
#include "util/num.h"

typedef struct linear_run {
    const fl_backend_ops *ops;
    fl_backend *be;
    const fl_host_linear *l;
    int64_t rows, n, k;
    bool blocks; /* w_scale is [N,blocks] */
    fl_dtype act_dtype;
    fl_host_tensor *x, *w_scale, *bias; /* brought to the types the backend takes */
    fl_linear *lin;
    void *mem[4]; /* backend memory of act.x, act.q, act.q_scale, out */
} linear_run;

static int check_vector(const char *name, const fl_host_tensor *t, int64_t n, bool or_one,
                        fl_err *err) {
    int64_t have = fl_host_tensor_numel(t);
    if (have == n || (or_one && have == 1)) return FL_OK;
    return fl_fail(err, FL_E_ARG, "linear: %s has %lld elements for %lld outputs", name,
                   (long long)have, (long long)n);
}

static int check(linear_run *r, fl_err *err) {
    const fl_host_linear *l = r->l;
    const fl_tensor *x = &l->x->t, *w = &l->w->t;
    char sx[96], sw[96];
    int rc = FL_OK;
    if (w->ndim != 2 || x->ndim < 1 || x->ndim > 2 || x->dim[x->ndim - 1] != w->dim[1])
        return fl_fail(err, FL_E_ARG, "linear: input %s does not go with weight %s",
                       fl_host_shape(sx, l->x), fl_host_shape(sw, l->w));
    r->rows = x->ndim == 2 ? x->dim[0] : 1;
    r->n = w->dim[0];
    r->k = w->dim[1];
    r->act_dtype = x->dtype == FL_DTYPE_F16 ? FL_DTYPE_F16 : FL_DTYPE_BF16;
    if (x->dtype == FL_DTYPE_I32 || w->dtype == FL_DTYPE_I32)
        return fl_fail(err, FL_E_ARG, "linear: i32 tensors are not multiplied");
    if (l->out != FL_DTYPE_F32 && l->out != r->act_dtype)
        return fl_fail(err, FL_E_ARG, "linear: output %s, this input gives F32 or %s",
                       fl_dtype_name(l->out), fl_dtype_name(r->act_dtype));
    if (w->dtype != FL_DTYPE_E4M3 && (l->w_scale || l->act != FL_ACT_NONE))
        return fl_fail(err, FL_E_ARG, "linear: scale and act need an e4m3 weight, this is %s",
                       fl_dtype_name(w->dtype));
    const int64_t blocks = fl_act_groups(r->k);
    r->blocks = l->w_scale && l->w_scale->t.ndim == 2 && l->w_scale->t.dim[0] == r->n &&
                l->w_scale->t.dim[1] == blocks;
    if (l->w_scale && !r->blocks) rc = check_vector("scale", l->w_scale, r->n, true, err);
    if (!rc && l->bias) rc = check_vector("bias", l->bias, r->n, false, err);
    return rc;
}

/* t as F32 with n elements, one element repeated. */
static int as_vector(fl_host_tensor **out, const fl_host_tensor *t, int64_t n, fl_err *err) {
    double value;
    int rc;
    if (t && fl_host_tensor_numel(t) == n) return fl_host_tensor_convert(out, t, FL_DTYPE_F32, err);
    if ((rc = fl_host_tensor_new(out, FL_DTYPE_F32, &n, 1, err))) return rc;
    if (t)
        fl_host_tensor_load(&value, t, 0, 1);
    else
        value = 1.0;
    return fl_host_tensor_apply_number(*out, FL_HOST_COPY, value, err);
}

static int pack(linear_run *r, fl_err *err) {
    const fl_host_linear *l = r->l;
    bool fp8 = l->w->t.dtype == FL_DTYPE_E4M3;
    int rc = FL_OK;
    int64_t scales = r->blocks ? r->n * fl_act_groups(r->k) : r->n;
    if (fp8 && (rc = as_vector(&r->w_scale, l->w_scale, scales, err))) return rc;
    if (l->bias && (rc = as_vector(&r->bias, l->bias, r->n, err))) return rc;
    fl_linear_spec spec = {.part = {{.data = l->w->t.data, .rows = r->n}},
                           .n_parts = 1,
                           .k = r->k,
                           .dtype = l->w->t.dtype,
                           .w_scale = fp8 ? r->w_scale->t.data : NULL,
                           .w_block = r->blocks ? FL_ACT_GROUP_K : 0,
                           .bias = r->bias ? r->bias->t.data : NULL,
                           .act = l->act,
                           .x_scale = l->x_scale};
    return r->ops->linear_new(r->be, &r->lin, &spec, err);
}

static int reserve(linear_run *r, fl_err *err) {
    int64_t rows = fl_min_i64(r->rows, FL_HOST_LINEAR_ROWS), k = r->k;
    int64_t bytes[4] = {rows * k * fl_dtype_bytes(r->act_dtype), rows * k,
                        rows * fl_act_groups(k) * (int64_t)sizeof(float),
                        rows * r->n * fl_dtype_bytes(r->l->out)};
    for (int i = 0; i < 4; i++) {
        int rc = r->ops->mem_new(r->be, &r->mem[i], (uint64_t)bytes[i], err);
        if (rc) return rc;
    }
    return FL_OK;
}

/* Rows [first, first + rows): up, quantize, multiply, back. */
static int run_rows(linear_run *r, fl_host_tensor *y, int64_t first, int64_t rows, fl_err *err) {
    int rc;
    fl_act a = {.x = fl_tensor_2d(r->mem[0], r->act_dtype, rows, r->k),
                .q = fl_tensor_2d(r->mem[1], FL_DTYPE_E4M3, rows, r->k),
                .q_scale = fl_tensor_2d(r->mem[2], FL_DTYPE_F32, rows, fl_act_groups(r->k))};
    fl_tensor out = fl_tensor_2d(r->mem[3], r->l->out, rows, r->n);
    const char *src = (const char *)r->x->t.data + first * r->k * fl_dtype_bytes(r->act_dtype);
    char *dst = (char *)y->t.data + first * r->n * fl_dtype_bytes(r->l->out);
    if ((rc = r->ops->write(r->be, &a.x, src, err))) return rc;
    if (r->l->act != FL_ACT_NONE && (rc = r->ops->quant(r->be, &a, r->lin, err))) return rc;
    if ((rc = r->ops->linear(r->be, &out, &a, r->lin, err))) return rc;
    return r->ops->read(r->be, dst, &out, err);
}

int fl_host_linear_run(fl_host_tensor **out, const fl_backend_ops *ops, fl_backend *be,
                       const fl_host_linear *l, fl_err *err) {
    linear_run r = {.ops = ops, .be = be, .l = l};
    fl_host_tensor *y = NULL;
    int rc;
    if ((rc = check(&r, err)) || (rc = fl_host_tensor_convert(&r.x, l->x, r.act_dtype, err)) ||
        (rc = pack(&r, err)) || (rc = reserve(&r, err)))
        goto done;
    int64_t dim[2] = {r.rows, r.n};
    bool vector = l->x->t.ndim == 1;
    if ((rc = fl_host_tensor_new(&y, l->out, vector ? dim + 1 : dim, vector ? 1 : 2, err)))
        goto done;
    for (int64_t row = 0; row < r.rows && !rc; row += FL_HOST_LINEAR_ROWS)
        rc = run_rows(&r, y, row, fl_min_i64(FL_HOST_LINEAR_ROWS, r.rows - row), err);
    if (rc) goto done;
    *out = y;
    y = NULL;
done:
    for (int i = 0; i < 4; i++) ops->mem_free(be, r.mem[i]);
    if (r.lin) ops->linear_free(be, r.lin);
    fl_host_tensor_free(r.x);
    fl_host_tensor_free(r.w_scale);
    fl_host_tensor_free(r.bias);
    fl_host_tensor_free(y);
    return rc;
}
