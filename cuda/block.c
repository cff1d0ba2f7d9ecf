/* block.c - half a layer for few rows in two products with attention between them, when types,
 * shapes and shared memory are those that block_rows.cu knows; else the caller takes single ops. */
#include "backend/check.h"
#include "cuda/cuda_priv.h"
#include "util/num.h"

enum {
    WARPS = 8,
    BLOCKS_EACH = 4,         /* blocks for each multiprocessor, at most                        */
    STATIC_SHARED = 1 << 10, /* more than the kernels have beside their rows                  */
};

int cuda_block_open(fl_backend *be, fl_err *err) {
    size_t shared = (size_t)(be->shared_bytes - STATIC_SHARED);
    int rc = cuda_check(be, fl_cuda_block_open(shared), "shared memory", err);
    return rc ? rc : cuda_alloc(be, (void **)&be->tops, CUDA_TOPS * sizeof(float), err);
}

static void weigh(cuda_block_args *a, const fl_linear *lin) {
    a->w = *cuda_weight_of(lin);
    a->ld_shared = (int64_t)fl_round_up((uint64_t)lin->k, 16);
    a->act = lin->act;
    a->x_scale = lin->x_scale;
    a->x_scale_ub = lin->x_scale_ub;
    a->x_groups = lin->act == FL_ACT_GROUP ? fl_act_groups(lin->k) : 1;
}

/* Pairs of columns to blocks: every warp has one, and no more blocks than the device takes at
 * once, since each makes all input rows. */
static void share(const fl_backend *be, cuda_block_args *a, int64_t units) {
    int64_t most = fl_min_i64((int64_t)be->processors * BLOCKS_EACH, CUDA_TOPS / FL_CUDA_FEW_ROWS);
    a->units = units;
    a->units_each = (int64_t)fl_round_up((uint64_t)fl_div_up(units, most), WARPS);
}

/* Whether a kernel exists for these rows and this linear; with batch_invariant few rows have none. */
static bool fits(const fl_backend *be, int64_t rows, fl_dtype act, const fl_linear *lin) {
    bool fp8 = lin->dtype == FL_DTYPE_E4M3;
    int64_t groups = lin->act == FL_ACT_GROUP ? fl_act_groups(lin->k) : 1;
    int64_t row = (int64_t)fl_round_up((uint64_t)lin->k, 16) * fl_dtype_bytes(lin->dtype);
    return rows <= FL_CUDA_FEW_ROWS && !be->batch_invariant &&
           (fp8 ? lin->act != FL_ACT_NONE : lin->dtype == act) &&
           rows * (row + groups * (int64_t)sizeof(float)) <= be->shared_bytes - STATIC_SHARED;
}

/* The product that begins with the norm. */
static cuda_block_args first_product(const fl_norm *n) {
    bool delta = n->delta.dtype != FL_DTYPE_NONE;
    cuda_block_args a = {.x = n->residual.data,
                         .delta = delta ? n->delta.data : NULL,
                         .norm_weight = n->weight.data,
                         .ldx = n->residual.stride,
                         .ld_delta = delta ? n->delta.stride : 0,
                         .t = n->residual.dim[0],
                         .eps = n->eps,
                         .dtype = n->residual.dtype};
    weigh(&a, n->next);
    return a;
}

/* The product that ends in the residual. */
static cuda_block_args last_product(const fl_norm *n, const fl_tensor *x, const fl_linear *lin) {
    bool delta = n->delta.dtype != FL_DTYPE_NONE;
    cuda_block_args a = {.x = x->data,
                         .delta = delta ? n->delta.data : NULL,
                         .out = n->residual.data,
                         .ldx = x->stride,
                         .ld_delta = delta ? n->delta.stride : 0,
                         .ldo = n->residual.stride,
                         .t = n->residual.dim[0],
                         .dtype = n->residual.dtype,
                         .end = CUDA_END_RESIDUAL};
    weigh(&a, lin);
    return a;
}

static bool same_width(const fl_norm *n, const fl_tensor *x, const fl_linear *last) {
    return n->next->k == n->residual.dim[1] && last->n == n->residual.dim[1] &&
           last->k == x->dim[1] && x->dim[0] == n->residual.dim[0] && x->dtype == n->residual.dtype;
}

int cuda_attn_block(fl_backend *be, const fl_attn_block *b, bool *done, fl_err *err) {
    const fl_norm *n = &b->norm;
    const fl_tensor *residual = &n->residual, *q = &b->rope.q;
    const int64_t rows = residual->dim[0], heads = q->dim[1] + 2 * b->rope.k.dim[1];
    *done = false;
    if (!fits(be, rows, residual->dtype, n->next) || !fits(be, rows, residual->dtype, b->o) ||
        !same_width(n, &b->attended->x, b->o) || n->next->n != heads * q->dim[2] ||
        b->batch->n_rows != rows || q->dtype != residual->dtype)
        return FL_OK;
    int rc = cuda_enter(be, "attn_block", rows, err);
    if (rc || (rc = fl_check_norm(n, err)) ||
        (rc = fl_check_rope(&b->rope, b->kv, b->batch, err)) ||
        (rc = fl_check_attend(&b->attended->x, q, b->kv, b->batch, err)))
        return rc;
    cuda_block_args qkv = first_product(n), o = last_product(n, &b->attended->x, b->o);
    qkv.end = CUDA_END_QKV;
    qkv.rope = cuda_rope_args_of(be, &b->rope, b->kv, b->batch);
    share(be, &qkv, heads * (q->dim[2] / 2));
    share(be, &o, fl_div_up(b->o->n, 2));
    *done = true;
    if ((rc = cuda_check(be, fl_cuda_block_rows(&qkv, be->stream), "attn_block", err)) ||
        (rc = cuda_attend(be, b->attended, q, b->kv, b->batch, b->scale, NULL, err)))
        return rc;
    return cuda_check(be, fl_cuda_block_rows(&o, be->stream), "attn_block", err);
}

int cuda_mlp_block(fl_backend *be, const fl_mlp_block *b, bool *done, fl_err *err) {
    const fl_norm *n = &b->norm;
    const fl_tensor *ffn = &b->ffn->x;
    const int64_t rows = n->residual.dim[0];
    const fl_dtype act = n->residual.dtype;
    *done = false;
    if (!fits(be, rows, act, n->next) || !fits(be, rows, act, b->down) ||
        !same_width(n, ffn, b->down) || n->next->n != 2 * ffn->dim[1])
        return FL_OK;
    int rc = cuda_enter(be, "mlp_block", rows, err);
    if (rc || (rc = fl_check_norm(n, err))) return rc;
    cuda_block_args gate_up = first_product(n), down = last_product(n, ffn, b->down);
    gate_up.end = CUDA_END_SWIGLU;
    gate_up.out = ffn->data;
    gate_up.ldo = ffn->stride;
    share(be, &gate_up, ffn->dim[1]);
    share(be, &down, fl_div_up(b->down->n, 2));
    if (down.act == FL_ACT_TOKEN) {
        gate_up.tops_out = be->tops;
        down.tops = be->tops;
        down.n_tops = (int)fl_div_up(gate_up.units, gate_up.units_each);
    }
    *done = true;
    rc = cuda_check(be, fl_cuda_block_rows(&gate_up, be->stream), "mlp_block", err);
    return rc ? rc : cuda_check(be, fl_cuda_block_rows(&down, be->stream), "mlp_block", err);
}
