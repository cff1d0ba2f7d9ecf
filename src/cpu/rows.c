/* rows.c - the ops that work on one row at a time. */
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/fp8.h"

/* Below this many elements waking the team costs more than it saves. */
enum { SERIAL_ELEMENTS = 16384 };

int cpu_check_rows(const fl_backend *be, const char *op, int64_t rows, fl_err *err) {
    if (rows >= 1 && rows <= be->max_rows) return FL_OK;
    return fl_fail(err, FL_E_LIMIT, "%s: %lld rows, the backend was opened for 1..%lld", op,
                   (long long)rows, (long long)be->max_rows);
}

void cpu_for_rows(fl_backend *be, int64_t rows, int64_t width, fl_range_fn fn, void *ctx) {
    int64_t grain = fl_max_i64(fl_div_up(rows, 4 * fl_team_size(be->team)),
                               SERIAL_ELEMENTS / 2 / fl_max_i64(width, 1));
    if (rows * width <= SERIAL_ELEMENTS) grain = rows;
    fl_team_for(be->team, rows, grain, fn, ctx);
}

static void quant_groups(const fl_backend *be, const fl_act *a, int64_t row) {
    const fl_tensor *x = &a->x;
    const int64_t n = x->dim[1], bytes = fl_dtype_bytes(x->dtype);
    const uint8_t *in = cpu_row(x, row);
    uint8_t *q = cpu_row(&a->q, row);
    float *scale = (float *)a->q_scale.data + row * fl_act_groups(n);
    for (int64_t k = 0; k < n; k += FL_ACT_GROUP_K, scale++) {
        int64_t len = fl_min_i64(FL_ACT_GROUP_K, n - k);
        *scale = fl_act_scale(be->isa->absmax(in + k * bytes, x->dtype, len));
        be->isa->quantize(q + k, in + k * bytes, x->dtype, len, *scale, true);
    }
}

static void quant_row(const fl_backend *be, const fl_act *a, const fl_linear *next, int64_t row) {
    if (!next || next->act == FL_ACT_NONE) return;
    if (next->act == FL_ACT_GROUP) {
        quant_groups(be, a, row);
        return;
    }
    const fl_tensor *x = &a->x;
    int64_t n = x->dim[1];
    float *scale = (float *)a->q_scale.data + row;
    bool token = next->act == FL_ACT_TOKEN;
    if (token) {
        float top = be->isa->absmax(cpu_row(x, row), x->dtype, n);
        if (next->x_scale_ub > 0.0f && top > next->x_scale_ub) top = next->x_scale_ub;
        *scale = fl_act_scale(top);
    } else {
        *scale = next->x_scale;
    }
    be->isa->quantize(cpu_row(&a->q, row), cpu_row(x, row), x->dtype, n,
                      token ? *scale : 1.0f / next->x_scale, token);
}

typedef struct row_job {
    fl_backend *be;
    const fl_norm *norm;
    fl_act *act;
    const fl_linear *next;
    const fl_tensor *in, *out;
    const int32_t *rows;
    atomic_uint top; /* bits of the largest magnitude: they order like the numbers */
} row_job;

static void norm_rows(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    const fl_norm *n = j->norm;
    for (int64_t row = begin; row < end; row++) {
        cpu_norm_row r = {.out = cpu_row(&n->out->x, row),
                          .residual = cpu_row(&n->residual, row),
                          .delta = n->delta.dtype ? cpu_row(&n->delta, row) : NULL,
                          .weight = n->weight.data,
                          .dtype = n->residual.dtype,
                          .n = n->residual.dim[1],
                          .eps = n->eps};
        j->be->isa->norm(&r);
        quant_row(j->be, n->out, n->next, row);
    }
}

int cpu_norm(fl_backend *be, const fl_norm *n, fl_err *err) {
    const fl_tensor *r = &n->residual;
    int rc = cpu_check_rows(be, "norm", r->dim[0], err);
    if (rc || (rc = fl_check_norm(n, err))) return rc;
    row_job job = {.be = be, .norm = n};
    cpu_for_rows(be, r->dim[0], r->dim[1], norm_rows, &job);
    return FL_OK;
}

static void quant_rows(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    for (int64_t row = begin; row < end; row++) quant_row(j->be, j->act, j->next, row);
}

int cpu_quant(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err) {
    int rc = cpu_check_rows(be, "quant", a->x.dim[0], err);
    if (rc || (rc = fl_check_quant("quant", a, next, err))) return rc;
    row_job job = {.be = be, .act = a, .next = next};
    if (next && next->act != FL_ACT_NONE)
        cpu_for_rows(be, a->x.dim[0], a->x.dim[1], quant_rows, &job);
    return FL_OK;
}

static void silu_rows(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    const fl_tensor *x = &j->act->x;
    int64_t f = x->dim[1];
    for (int64_t row = begin; row < end; row++) {
        const uint8_t *gate = cpu_row(j->in, row);
        const uint8_t *up = gate + f * fl_dtype_bytes(j->in->dtype);
        j->be->isa->silu_mul(cpu_row(x, row), gate, up, x->dtype, f);
        quant_row(j->be, j->act, j->next, row);
    }
}

int cpu_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                 fl_err *err) {
    const fl_tensor *x = &out->x;
    int rc = cpu_check_rows(be, "silu_mul", x->dim[0], err);
    if (rc || (rc = fl_check_silu_mul(out, gate_up, next, err))) return rc;
    row_job job = {.be = be, .act = out, .next = next, .in = gate_up};
    cpu_for_rows(be, x->dim[0], 4 * x->dim[1], silu_rows, &job);
    return FL_OK;
}

static void gather_rows(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    size_t bytes = (size_t)(j->out->dim[1] * fl_dtype_bytes(j->out->dtype));
    for (int64_t i = begin; i < end; i++)
        memcpy(cpu_row(j->out, i), cpu_row(j->in, j->rows[i]), bytes);
}

int cpu_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows,
               fl_err *err) {
    row_job job = {.be = be, .in = x, .out = out, .rows = rows->data};
    int rc = cpu_check_rows(be, "gather", out->dim[0], err);
    if (rc || (rc = fl_check_gather(out, x, rows, err))) return rc;
    for (int64_t i = 0; i < out->dim[0]; i++) {
        if (job.rows[i] < 0 || job.rows[i] >= x->dim[0])
            return fl_fail(err, FL_E_ARG, "gather: row %d outside [0,%lld)", job.rows[i],
                           (long long)x->dim[0]);
    }
    cpu_for_rows(be, out->dim[0], out->dim[1], gather_rows, &job);
    return FL_OK;
}

static void absmax_rows(void *ctx, int64_t begin, int64_t end) {
    row_job *j = ctx;
    float top = 0.0f;
    for (int64_t row = begin; row < end; row++) {
        float v = j->be->isa->absmax(cpu_row(j->in, row), j->in->dtype, j->in->dim[1]);
        if (v > top) top = v;
    }
    unsigned seen = atomic_load(&j->top);
    while (fl_f32_bits(top) > seen &&
           !atomic_compare_exchange_weak(&j->top, &seen, fl_f32_bits(top)))
        continue;
}

int cpu_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    float *top = out->data;
    int rc = cpu_check_rows(be, "absmax", x->dim[0], err);
    if (rc) return rc;
    row_job job = {.be = be, .in = x};
    atomic_init(&job.top, fl_f32_bits(*top > 0.0f ? *top : 0.0f));
    cpu_for_rows(be, x->dim[0], x->dim[1], absmax_rows, &job);
    *top = fl_bits_f32(atomic_load(&job.top));
    return FL_OK;
}

enum { SUMSQ_COLUMNS = 256 };

/* Pieces of columns, not of rows: every sum is made by one member, in the order of the rows. */
static void sumsq_columns(void *ctx, int64_t begin, int64_t end) {
    const row_job *j = ctx;
    const int64_t width = j->in->dim[1], bytes = fl_dtype_bytes(j->in->dtype);
    float x[SUMSQ_COLUMNS];
    for (int64_t first = begin * SUMSQ_COLUMNS; first < fl_min_i64(end * SUMSQ_COLUMNS, width);
         first += SUMSQ_COLUMNS) {
        int64_t n = fl_min_i64(SUMSQ_COLUMNS, width - first);
        float *sum = (float *)j->out->data + first;
        for (int64_t row = 0; row < j->in->dim[0]; row++) {
            j->be->isa->to_f32(x, (uint8_t *)cpu_row(j->in, row) + first * bytes, j->in->dtype, n);
            for (int64_t i = 0; i < n; i++) sum[i] += x[i] * x[i];
        }
    }
}

int cpu_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    int rc = cpu_check_rows(be, "sumsq", x->dim[0], err);
    if (rc) return rc;
    if (out->dim[0] != x->dim[1])
        return fl_fail(err, FL_E_ARG, "sumsq: %lld columns into %lld sums", (long long)x->dim[1],
                       (long long)out->dim[0]);
    row_job job = {.be = be, .in = x, .out = out};
    cpu_for_rows(be, fl_div_up(x->dim[1], SUMSQ_COLUMNS), x->dim[0] * SUMSQ_COLUMNS, sumsq_columns,
                 &job);
    return FL_OK;
}
