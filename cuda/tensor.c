/* tensor.c - the ops on users' tensors: check, fill in what the kernels take, launch. */
#include "cuda/cuda_priv.h"

enum { MOST_BLOCKS = INT32_MAX, THREADS = 256 };

static int check_type(const char *op, const fl_tensor *t, fl_err *err) {
    if (t->dtype >= FL_DTYPE_F32 && t->dtype <= FL_DTYPE_I32) return FL_OK;
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: elements of type %s", op, fl_dtype_name(t->dtype));
}

static int check_count(const char *op, int64_t blocks, fl_err *err) {
    if (blocks >= 0 && blocks <= MOST_BLOCKS) return FL_OK;
    return fl_fail(err, FL_E_LIMIT, "%s: %lld blocks of threads, limit %d", op, (long long)blocks,
                   MOST_BLOCKS);
}

static const int map_ops[] = {[FL_MAP_ADD] = CUDA_MAP_ADD,
                              [FL_MAP_MUL] = CUDA_MAP_MUL,
                              [FL_MAP_COPY] = CUDA_MAP_COPY,
                              [FL_MAP_FILL] = CUDA_MAP_FILL};

int cuda_map(fl_backend *be, const fl_tensor_map *m, fl_err *err) {
    const bool tensor = m->b.dtype != FL_DTYPE_NONE;
    int rc = cuda_current(be, "map", err);
    if (rc || (rc = check_type("map", &m->t, err)) || (rc = check_type("map", &m->x, err)) ||
        (tensor && (rc = check_type("map", &m->b, err))) ||
        (rc = check_count("map", m->n / THREADS + 1, err)))
        return rc;
    if (tensor && (m->row < 1 || m->group < 1 || m->per_row < 0))
        return fl_fail(err, FL_E_ARG, "map: rows of %lld elements in groups of %lld",
                       (long long)m->row, (long long)m->group);
    const cuda_map_args a = {.t = m->t.data,
                             .x = m->x.data,
                             .b = tensor ? m->b.data : NULL,
                             .n = m->n,
                             .row = m->row,
                             .per_row = m->per_row,
                             .group = m->group,
                             .number = m->number,
                             .op = map_ops[m->op],
                             .t_dtype = m->t.dtype,
                             .x_dtype = m->x.dtype,
                             .b_dtype = m->b.dtype};
    return cuda_check(be, fl_cuda_map(&a, be->stream), "map", err);
}

int cuda_softmax(fl_backend *be, const fl_tensor *t, double temperature, fl_err *err) {
    int rc = cuda_current(be, "softmax", err);
    if (rc || (rc = check_type("softmax", t, err)) || (rc = check_count("softmax", t->dim[0], err)))
        return rc;
    return cuda_check(be,
                      fl_cuda_softmax(t->data, t->dtype, t->dim[0], t->dim[1],
                                      (float)(1.0 / temperature), be->stream),
                      "softmax", err);
}

int cuda_encode(fl_backend *be, const fl_encode *e, fl_err *err) {
    const int64_t groups = e->group ? (e->x.dim[1] + e->group - 1) / e->group : 1;
    int rc = cuda_current(be, "encode", err);
    if (rc || (rc = check_type("encode", &e->x, err)) ||
        (rc = check_count("encode", e->x.dim[0] * groups, err)))
        return rc;
    const cuda_encode_args a = {.x = e->x.data,
                                .q = e->q,
                                .scale = e->scale,
                                .rows = e->x.dim[0],
                                .n = e->x.dim[1],
                                .group = e->group ? e->group : e->x.dim[1],
                                .groups = groups,
                                .dtype = e->x.dtype,
                                .weight = e->weight};
    return cuda_check(be, fl_cuda_encode(&a, be->stream), "encode", err);
}
