/* y = x @ w^T for arrays, through the kernels of whatever device x is on. */
#include "backend/array.h"
#include "util/num.h"

typedef struct linear_run {
    fl_device *d;
    const fl_array_linear *l;
    int64_t rows, n, k;
    bool blocks; /* w_scale is [N,blocks] */
    fl_dtype act_dtype;
    fl_array *w, *w_scale, *bias;  /* in host memory, of the types the backend takes */
    fl_array *x, *q, *q_scale, *y; /* where x is; q and q_scale: one call's */
    fl_linear *lin;
} linear_run;

static int check_vector(const char *name, const fl_array *t, int64_t n, bool or_one, fl_err *err) {
    int64_t have = fl_array_numel(t);
    if (have == n || (or_one && have == 1)) return FL_OK;
    return fl_fail(err, FL_E_ARG, "linear: %s has %lld elements for %lld outputs", name,
                   (long long)have, (long long)n);
}

static int check(linear_run *r, fl_err *err) {
    const fl_array_linear *l = r->l;
    const fl_tensor *x = &l->x->t, *w = &l->w->t;
    char sx[96], sw[96];
    int rc = FL_OK;
    if (w->ndim != 2 || x->ndim < 1 || x->ndim > 2 || x->dim[x->ndim - 1] != w->dim[1])
        return fl_fail(err, FL_E_ARG, "linear: input %s does not go with weight %s",
                       fl_array_shape(sx, l->x), fl_array_shape(sw, l->w));
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

/* t in host memory as F32 with n elements, one element repeated. */
static int as_vector(fl_array **out, const fl_array *t, int64_t n, fl_err *err) {
    double value = 1.0;
    int rc;
    if (t && fl_array_numel(t) == n) return fl_array_copy(out, t, NULL, FL_DTYPE_F32, err);
    if (t && (rc = fl_array_get(&value, t, 0, err))) return rc;
    if ((rc = fl_array_new(out, NULL, FL_DTYPE_F32, &n, 1, err))) return rc;
    return fl_array_apply_number(*out, FL_MAP_COPY, value, err);
}

static int pack(linear_run *r, fl_err *err) {
    const fl_array_linear *l = r->l;
    const fl_tensor *w = &l->w->t;
    bool fp8 = w->dtype == FL_DTYPE_E4M3;
    int rc = FL_OK;
    int64_t scales = r->blocks ? r->n * fl_act_groups(r->k) : r->n;
    if (fl_array_device(l->w)) {
        if ((rc = fl_array_copy(&r->w, l->w, NULL, w->dtype, err))) return rc;
        w = &r->w->t;
    }
    if (fp8 && (rc = as_vector(&r->w_scale, l->w_scale, scales, err))) return rc;
    if (l->bias && (rc = as_vector(&r->bias, l->bias, r->n, err))) return rc;
    fl_linear_spec spec = {.part = {{.data = w->data, .rows = r->n}},
                           .n_parts = 1,
                           .k = r->k,
                           .dtype = w->dtype,
                           .w_scale = fp8 ? r->w_scale->t.data : NULL,
                           .w_block = r->blocks ? FL_ACT_GROUP_K : 0,
                           .bias = r->bias ? r->bias->t.data : NULL,
                           .act = l->act,
                           .x_scale = l->x_scale};
    return r->d->ops->linear_new(r->d->be, &r->lin, &spec, err);
}

/* x in the type it is multiplied in, room for its codes, and y. */
static int prepare(linear_run *r, fl_err *err) {
    const int64_t rows = fl_min_i64(r->rows, FL_DEVICE_ROWS);
    const int64_t q[2] = {rows, r->k}, q_scale[2] = {rows, fl_act_groups(r->k)};
    const int64_t y[2] = {r->rows, r->n};
    const bool vector = r->l->x->t.ndim == 1;
    fl_device *where = fl_array_device(r->l->x);
    int rc = fl_array_copy(&r->x, r->l->x, where, r->act_dtype, err);
    if (!rc) rc = fl_array_new(&r->q, r->d, FL_DTYPE_E4M3, q, 2, err);
    if (!rc) rc = fl_array_new(&r->q_scale, r->d, FL_DTYPE_F32, q_scale, 2, err);
    if (!rc) rc = fl_array_new(&r->y, where, r->l->out, vector ? y + 1 : y, vector ? 1 : 2, err);
    return rc;
}

/* Rows [first, first + rows) of an array of rows of n elements. */
static fl_tensor rows_of(const fl_array *t, int64_t first, int64_t rows, int64_t n) {
    void *data = (char *)t->t.data + first * n * fl_dtype_bytes(t->t.dtype);
    return fl_tensor_2d(data, t->t.dtype, rows, n);
}

static int run_rows(linear_run *r, int64_t first, fl_err *err) {
    const fl_device *d = r->d;
    const int64_t rows = fl_min_i64(FL_DEVICE_ROWS, r->rows - first);
    const fl_tensor out = rows_of(r->y, first, rows, r->n);
    fl_act a = {.x = rows_of(r->x, first, rows, r->k), .q = r->q->t, .q_scale = r->q_scale->t};
    int rc = FL_OK;
    if (r->l->act != FL_ACT_NONE) rc = d->ops->quant(d->be, &a, r->lin, err);
    return rc ? rc : d->ops->linear(d->be, &out, &a, r->lin, err);
}

int fl_array_linear_run(fl_array **out, fl_device *d, const fl_array_linear *l, fl_err *err) {
    linear_run r = {.d = d, .l = l};
    int rc;
    if ((rc = check(&r, err)) || (rc = pack(&r, err)) || (rc = prepare(&r, err))) goto done;
    for (int64_t row = 0; row < r.rows && !rc; row += FL_DEVICE_ROWS) rc = run_rows(&r, row, err);
    if (rc || (rc = d->ops->sync(d->be, err))) goto done;
    *out = r.y;
    r.y = NULL;
done:
    if (r.lin) d->ops->linear_free(d->be, r.lin);
    fl_array *const own[] = {r.w, r.w_scale, r.bias, r.x, r.q, r.q_scale, r.y};
    for (int i = 0; i < (int)(sizeof(own) / sizeof(*own)); i++) fl_array_free(own[i]);
    return rc;
}
