#include "backend/op_times.h"

#include <string.h>

#include "util/clock.h"
#include "util/mem.h"
#include "util/num.h"

enum { MAX_ENTRIES = 64 };

struct fl_backend { /* of this file; `inner` is another backend's */
    const fl_backend_ops *ops;
    fl_backend *inner;
    fl_op_time entry[MAX_ENTRIES];
    int n;
    int32_t *positions; /* [cap] */
    int64_t cap;
};

typedef struct work { /* what one call does */
    const char *op;
    int64_t rows, n, k;
    fl_dtype dtype;
    double bytes, flops;
} work;

static fl_op_time *find(fl_backend *be, const work *w) {
    for (int i = 0; i < be->n; i++) {
        fl_op_time *t = &be->entry[i];
        if (t->n == w->n && t->k == w->k && t->dtype == w->dtype && !strcmp(t->op, w->op)) return t;
    }
    if (be->n == MAX_ENTRIES) return NULL;
    fl_op_time *t = &be->entry[be->n++];
    *t = (fl_op_time){.op = w->op, .n = w->n, .k = w->k, .dtype = w->dtype};
    return t;
}

/* The op that began at `begin` has returned rc. */
static int count(fl_backend *be, double begin, int rc, const work *w, fl_err *err) {
    if (!rc) rc = be->ops->sync(be->inner, err);
    fl_op_time *t = rc ? NULL : find(be, w);
    if (!t) return rc;
    t->calls++;
    t->rows += (uint64_t)w->rows;
    t->seconds += fl_now() - begin;
    t->bytes += w->bytes;
    t->flops += w->flops;
    return rc;
}

static double tensor_bytes(const fl_tensor *t) {
    if (t->dtype == FL_DTYPE_NONE) return 0;
    return (double)(t->dim[0] * fl_tensor_row_len(t)) * (double)fl_dtype_bytes(t->dtype);
}

/* Bytes of an activation in the form that the next linear reads. */
static double act_bytes(const fl_act *a, const fl_linear *next) {
    return next && next->act != FL_ACT_NONE ? tensor_bytes(&a->q) : tensor_bytes(&a->x);
}

static double quantized_bytes(const fl_act *a, const fl_linear *next) {
    return next && next->act != FL_ACT_NONE ? tensor_bytes(&a->q) : 0;
}

static int t_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table,
                   const fl_tensor *ids, fl_err *err) {
    const work w = {"embed",      out->dim[0],           table->n, table->k,
                    table->dtype, 2 * tensor_bytes(out), 0};
    const double t = fl_now();
    return count(be, t, be->ops->embed(be->inner, out, table, ids, err), &w, err);
}

static int t_norm(fl_backend *be, const fl_norm *n, fl_err *err) {
    const work w = {.op = "norm",
                    .rows = n->residual.dim[0],
                    .bytes = 2 * tensor_bytes(&n->residual) + tensor_bytes(&n->delta) +
                             tensor_bytes(&n->weight) + tensor_bytes(&n->out->x) +
                             quantized_bytes(n->out, n->next)};
    const double t = fl_now();
    return count(be, t, be->ops->norm(be->inner, n, err), &w, err);
}

static int t_quant(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err) {
    const work w = {.op = "quant",
                    .rows = a->x.dim[0],
                    .bytes =
                        next->act == FL_ACT_NONE ? 0 : tensor_bytes(&a->x) + tensor_bytes(&a->q)};
    const double t = fl_now();
    return count(be, t, be->ops->quant(be->inner, a, next, err), &w, err);
}

static int t_linear(fl_backend *be, const fl_tensor *out, const fl_act *x, const fl_linear *lin,
                    fl_err *err) {
    const double rows = (double)out->dim[0];
    const work w = {.op = "linear",
                    .rows = out->dim[0],
                    .n = lin->n,
                    .k = lin->k,
                    .dtype = lin->dtype,
                    .bytes = (double)lin->bytes + act_bytes(x, lin) + tensor_bytes(out),
                    .flops = 2 * rows * (double)lin->n * (double)lin->k};
    const double t = fl_now();
    return count(be, t, be->ops->linear(be->inner, out, x, lin, err), &w, err);
}

static int t_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                        fl_err *err) {
    const double stored = (double)fl_dtype_bytes(kv->shape.dtype) / fl_dtype_bytes(r->k.dtype);
    const work w = {.op = "rope_store",
                    .rows = b->n_rows,
                    .bytes = 2 * tensor_bytes(&r->q) +
                             (1 + stored) * (tensor_bytes(&r->k) + tensor_bytes(&r->v))};
    const double t = fl_now();
    return count(be, t, be->ops->rope_store(be->inner, r, kv, b, err), &w, err);
}

typedef struct seen { /* tokens that the sequences have, that the rows look at */
    double cached, pairs;
} seen;

static int look(fl_backend *be, const fl_batch *b, seen *out, fl_err *err) {
    const fl_tensor pos = fl_tensor_1d(b->pos.data, FL_DTYPE_I32, b->n_rows);
    if (b->n_rows > be->cap) {
        int32_t *grown = fl_grow(be->positions, (size_t)b->n_rows * sizeof(*grown));
        if (!grown)
            return fl_fail(err, FL_E_NOMEM, "op times: %lld positions", (long long)b->n_rows);
        be->positions = grown;
        be->cap = b->n_rows;
    }
    int rc = be->ops->read(be->inner, be->positions, &pos, err);
    *out = (seen){0};
    for (int64_t i = 0; i < b->n_rows && !rc; i++) {
        /* Positions go on by one inside a sequence: a row that is not followed so is its last. */
        bool last = i + 1 == b->n_rows || be->positions[i + 1] != be->positions[i] + 1;
        out->pairs += be->positions[i] + 1;
        if (last) out->cached += be->positions[i] + 1;
    }
    return rc;
}

static double token_bytes(const fl_kv_layer *kv) {
    return 2.0 * (double)(kv->shape.heads * kv->shape.head_dim) * fl_dtype_bytes(kv->shape.dtype);
}

static int t_attend(fl_backend *be, fl_act *out, const fl_tensor *q, const fl_kv_layer *kv,
                    const fl_batch *b, float scale, const fl_linear *next, fl_err *err) {
    seen s;
    int rc = look(be, b, &s, err);
    if (rc) return rc;
    const work w = {.op = "attend",
                    .rows = b->n_rows,
                    .bytes = s.cached * token_bytes(kv) + tensor_bytes(q) + tensor_bytes(&out->x) +
                             quantized_bytes(out, next),
                    .flops = 4 * s.pairs * (double)fl_tensor_row_len(q)};
    const double t = fl_now();
    return count(be, t, be->ops->attend(be->inner, out, q, kv, b, scale, next, err), &w, err);
}

static int t_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up, const fl_linear *next,
                      fl_err *err) {
    const work w = {.op = "silu_mul",
                    .rows = gate_up->dim[0],
                    .bytes =
                        tensor_bytes(gate_up) + tensor_bytes(&out->x) + quantized_bytes(out, next)};
    const double t = fl_now();
    return count(be, t, be->ops->silu_mul(be->inner, out, gate_up, next, err), &w, err);
}

static int t_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x, const fl_tensor *rows,
                    fl_err *err) {
    const work w = {.op = "gather", .rows = out->dim[0], .bytes = 2 * tensor_bytes(out)};
    const double t = fl_now();
    return count(be, t, be->ops->gather(be->inner, out, x, rows, err), &w, err);
}

static int t_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    const work w = {.op = "absmax", .rows = x->dim[0], .bytes = tensor_bytes(x)};
    const double t = fl_now();
    return count(be, t, be->ops->absmax(be->inner, out, x, err), &w, err);
}

static int t_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    const work w = {.op = "sumsq", .rows = x->dim[0], .bytes = tensor_bytes(x)};
    const double t = fl_now();
    return count(be, t, be->ops->sumsq(be->inner, out, x, err), &w, err);
}

/* ---- half layers: what the linears and the cache hold, and what goes in and out ---- */

static double norm_bytes(const fl_norm *n) {
    return 2 * tensor_bytes(&n->residual) + tensor_bytes(&n->delta) + tensor_bytes(&n->weight);
}

static double linears_flops(const fl_linear *a, const fl_linear *b, int64_t rows) {
    return 2.0 * (double)rows * ((double)a->n * (double)a->k + (double)b->n * (double)b->k);
}

static int t_attn_block(fl_backend *be, const fl_attn_block *a, bool *done, fl_err *err) {
    const int64_t rows = a->batch->n_rows;
    seen s;
    *done = false;
    if (!be->ops->attn_block) return FL_OK;
    int rc = look(be, a->batch, &s, err);
    if (rc) return rc;
    const work w = {.op = "attn_block",
                    .rows = rows,
                    .bytes = norm_bytes(&a->norm) + (double)(a->norm.next->bytes + a->o->bytes) +
                             s.cached * token_bytes(a->kv),
                    .flops = linears_flops(a->norm.next, a->o, rows) +
                             4 * s.pairs * (double)fl_tensor_row_len(&a->rope.q)};
    const double t = fl_now();
    rc = be->ops->attn_block(be->inner, a, done, err);
    return *done ? count(be, t, rc, &w, err) : rc;
}

static int t_mlp_block(fl_backend *be, const fl_mlp_block *a, bool *done, fl_err *err) {
    const int64_t rows = a->norm.residual.dim[0];
    const work w = {.op = "mlp_block",
                    .rows = rows,
                    .bytes = norm_bytes(&a->norm) + (double)(a->norm.next->bytes + a->down->bytes),
                    .flops = linears_flops(a->norm.next, a->down, rows)};
    const double t = fl_now();
    *done = false;
    if (!be->ops->mlp_block) return FL_OK;
    int rc = be->ops->mlp_block(be->inner, a, done, err);
    return *done ? count(be, t, rc, &w, err) : rc;
}

/* ---- passed on ---- */

static void t_close(fl_backend *be) {
    if (!be) return;
    be->ops->close(be->inner);
    fl_free(be->positions);
    fl_free(be);
}
static void t_info(fl_backend *be, fl_backend_info *out) {
    be->ops->info(be->inner, out);
}
static int t_mem_new(fl_backend *be, void **out, uint64_t bytes, fl_err *err) {
    return be->ops->mem_new(be->inner, out, bytes, err);
}
static void t_mem_free(fl_backend *be, void *p) {
    be->ops->mem_free(be->inner, p);
}
static int t_write(fl_backend *be, const fl_tensor *dst, const void *src, fl_err *err) {
    return be->ops->write(be->inner, dst, src, err);
}
static int t_read(fl_backend *be, void *dst, const fl_tensor *src, fl_err *err) {
    return be->ops->read(be->inner, dst, src, err);
}
static int t_copy(fl_backend *be, void *dst, const void *src, uint64_t bytes, fl_err *err) {
    return be->ops->copy(be->inner, dst, src, bytes, err);
}
static int t_sync(fl_backend *be, fl_err *err) {
    return be->ops->sync(be->inner, err);
}
static int t_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err) {
    return be->ops->linear_new(be->inner, out, spec, err);
}
static const char *t_linear_path(fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                                 const fl_tensor *x) {
    return be->ops->linear_path ? be->ops->linear_path(be->inner, lin, out, x) : NULL;
}
static void t_linear_free(fl_backend *be, fl_linear *lin) {
    be->ops->linear_free(be->inner, lin);
}
static uint64_t t_kv_page_bytes(fl_backend *be, const fl_kv_shape *shape) {
    return be->ops->kv_page_bytes(be->inner, shape);
}
static fl_team *t_team(fl_backend *be) {
    return be->ops->team ? be->ops->team(be->inner) : NULL;
}

static const fl_backend_ops timed = {.abi = FL_BACKEND_ABI,
                                     .name = "timed",
                                     .close = t_close,
                                     .info = t_info,
                                     .mem_new = t_mem_new,
                                     .mem_free = t_mem_free,
                                     .write = t_write,
                                     .read = t_read,
                                     .copy = t_copy,
                                     .sync = t_sync,
                                     .linear_new = t_linear_new,
                                     .linear_free = t_linear_free,
                                     .embed = t_embed,
                                     .norm = t_norm,
                                     .quant = t_quant,
                                     .linear = t_linear,
                                     .linear_path = t_linear_path,
                                     .rope_store = t_rope_store,
                                     .attend = t_attend,
                                     .silu_mul = t_silu_mul,
                                     .gather = t_gather,
                                     .absmax = t_absmax,
                                     .sumsq = t_sumsq,
                                     .attn_block = t_attn_block,
                                     .mlp_block = t_mlp_block,
                                     .kv_page_bytes = t_kv_page_bytes,
                                     .team = t_team};

int fl_op_times_begin(const fl_backend_ops **ops, fl_backend **be, fl_err *err) {
    fl_backend *t = fl_alloc(sizeof(*t));
    if (!t) return fl_fail(err, FL_E_NOMEM, "op times");
    t->ops = *ops;
    t->inner = *be;
    *ops = &timed;
    *be = t;
    return FL_OK;
}

bool fl_op_times_get(const fl_backend *be, int i, fl_op_time *out) {
    if (i < 0 || i >= be->n) return false;
    *out = be->entry[i];
    return true;
}

void fl_op_times_reset(fl_backend *be) {
    be->n = 0;
}
