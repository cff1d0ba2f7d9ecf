/* attend.c - the inside of a KV page, and how attention is cut into splits. */
#include "cuda/cuda_priv.h"
#include "util/num.h"

enum {
    SPLIT_TOKENS = 256, /* at least: fewer positions are not worth a merge                 */
    MAX_SPLITS = 64,
    SPLIT_STEP = 64,    /* splits are whole tiles of attend_tiles.cu                       */
    BLOCK_QUERIES = 16, /* of attend_tiles.cu, at least                                    */
    FULL = 4,           /* so many blocks a processor fill the device                      */
};

static cuda_kv kv_args(const fl_kv_layer *kv) {
    const fl_kv_shape *s = &kv->shape;
    int64_t padded = (int64_t)fl_round_up((uint64_t)s->head_dim, 16);
    return (cuda_kv){.data = kv->data,
                     .page_bytes =
                         2 * s->heads * s->page_tokens * padded * fl_dtype_bytes(s->dtype),
                     .heads = (int)s->heads,
                     .head_dim = (int)s->head_dim,
                     .padded = (int)padded,
                     .page_tokens = (int)s->page_tokens,
                     .dtype = s->dtype,
                     .k_scale = kv->k_scale,
                     .v_scale = kv->v_scale};
}

uint64_t cuda_kv_page_bytes(fl_backend *be, const fl_kv_shape *shape) {
    fl_kv_layer kv = {.shape = *shape};
    (void)be;
    return (uint64_t)kv_args(&kv).page_bytes;
}

/* The product that q, k and v side by side are to become. */
static cuda_unscaled take_qkv(fl_backend *be, const fl_rope *r) {
    const int64_t heads = r->q.dim[1], kv_heads = r->k.dim[1], dim = r->q.dim[2];
    const int64_t bytes = fl_dtype_bytes(r->q.dtype);
    const uint8_t *q = r->q.data;
    fl_tensor all = fl_tensor_2d(r->q.data, r->q.dtype, r->q.dim[0], (heads + 2 * kv_heads) * dim);
    all.stride = r->q.stride;
    if (r->k.stride != all.stride || r->v.stride != all.stride ||
        (const uint8_t *)r->k.data != q + heads * dim * bytes ||
        (const uint8_t *)r->v.data != q + (heads + kv_heads) * dim * bytes)
        return (cuda_unscaled){0};
    return cuda_take_unscaled(be, &all);
}

cuda_rope_args cuda_rope_args_of(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv,
                                 const fl_batch *b) {
    return (cuda_rope_args){.q = r->q.data,
                            .k = r->k.data,
                            .v = r->v.data,
                            .ldq = r->q.stride,
                            .ldk = r->k.stride,
                            .ldv = r->v.stride,
                            .ld_table = r->cos_sin.stride,
                            .max_pos = r->cos_sin.dim[0],
                            .t = b->n_rows,
                            .cos_sin = r->cos_sin.data,
                            .pos = b->pos.data,
                            .slot = b->slot.data,
                            .n_heads = (int)r->q.dim[1],
                            .dtype = r->q.dtype,
                            .kv = kv_args(kv),
                            .fault = be->fault};
}

int cuda_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                    fl_err *err) {
    cuda_unscaled unscaled = take_qkv(be, r);
    int rc = cuda_enter(be, "rope_store", b->n_rows, err);
    if (rc || (rc = fl_check_rope(r, kv, b, err))) return rc;
    cuda_rope_args a = cuda_rope_args_of(be, r, kv, b);
    a.unscaled = unscaled;
    return cuda_check(be, fl_cuda_rope_store(&a, be->stream), "rope_store", err);
}

/* Splits depend on the width of the page table alone, so that a row's sums do not depend on
 * the step it is in. */
static void choose_splits(cuda_attend_args *a) {
    int64_t longest = a->max_pages * a->kv.page_tokens;
    a->split_tokens = (int)fl_max_i64(
        SPLIT_TOKENS, (int64_t)fl_round_up((uint64_t)fl_div_up(longest, MAX_SPLITS), SPLIT_STEP));
    a->splits = (int)fl_div_up(longest, a->split_tokens);
}

/* Splits run apart while sequences alone do not fill the device and the parts fit. */
static bool splits_apart(const fl_backend *be, const cuda_attend_args *a) {
    int64_t row = (int64_t)a->n_heads * a->splits * (a->kv.head_dim + 2);
    int64_t blocks = a->t * a->n_heads / BLOCK_QUERIES + a->n_seqs * a->kv.heads;
    return a->splits > 1 && blocks < (int64_t)FULL * be->processors &&
           row * a->t * (int64_t)sizeof(float) <= CUDA_PARTS_BYTES;
}

int cuda_attend(fl_backend *be, fl_act *result, const fl_tensor *q, const fl_kv_layer *kv,
                const fl_batch *b, float scale, const fl_linear *next, fl_err *err) {
    const fl_tensor *out = &result->x;
    int rc = cuda_enter(be, "attend", b->n_rows, err);
    if (rc || (rc = fl_check_attend(out, q, kv, b, err))) return rc;
    if (q->stride % 2 || (uintptr_t)q->data % 4) /* head_dim is even as well */
        return fl_fail(err, FL_E_ARG, "attend: rows of q are %lld elements apart, not a times 2",
                       (long long)q->stride);
    cuda_attend_args a = {.q = q->data,
                          .out = out->data,
                          .ldq = q->stride,
                          .ldo = out->stride,
                          .t = b->n_rows,
                          .n_seqs = b->n_seqs,
                          .max_pages = b->max_pages,
                          .pos = b->pos.data,
                          .row_start = b->row_start.data,
                          .pages = b->pages.data,
                          .n_heads = (int)q->dim[1],
                          .scale = scale * kv->k_scale * 1.44269504f, /* powers of 2, not of e */
                          .dtype = q->dtype,
                          .kv = kv_args(kv)};
    a.parts = be->parts;
    choose_splits(&a);
    a.apart = splits_apart(be, &a);
    if ((rc = cuda_quant_for(&a.quant, "attend", result, next, err)) ||
        (rc = cuda_check(be, fl_cuda_attend(&a, be->stream), "attend", err)))
        return rc;
    return next && !a.apart ? cuda_quantize(be, result, next, err) : FL_OK;
}
