/* linear.c - weights in device memory, and which way a product takes: cuBLASLt for many rows
 * where it knows the types and scales, linear_tiles.cu for many rows of 2:4, with scales of
 * blocks or groups, or of a number that cuBLASLt refuses, linear_rows.cu for few rows and the
 * rest.  With batch_invariant a linear has one way for all numbers of rows: linear_tiles.cu, or
 * linear_rows.cu where that cannot.  path_of decides, from what was planned when the weights were
 * loaded; what it has chosen and then fails is an error, never another way. */
#include <string.h>

#include "cuda/cuda_priv.h"
#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

enum {
    FEW_ROWS =
        FL_CUDA_FEW_ROWS, /* up to so many rows every weight is read once by the rows kernel */
    GROUP = 4,            /* of 2:4 */
    PRODUCT_FLOATS = 16 << 20,
};

typedef struct cuda_packed {
    cuda_weight w;
    bool uniform;               /* all scales are the same number */
    const cuda_plan *direct[3]; /* scales and type of the result inside cuBLASLt, or NULL  */
    const cuda_plan *product;   /* f32 without scales, or NULL                           */
    cuda_weight many; /* what products of many rows take: w, or 2:4 once more without its form */
    void *data, *places, *scale, *bias, *dense;
} cuda_packed;

static const cudaDataType out_types[] = {CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
static int out_index(fl_dtype t) {
    return t == FL_DTYPE_BF16 ? 0 : t == FL_DTYPE_F16 ? 1 : 2;
}

static cudaDataType type_of(fl_dtype t) {
    return t == FL_DTYPE_E4M3   ? CUDA_R_8F_E4M3
           : t == FL_DTYPE_BF16 ? CUDA_R_16BF
           : t == FL_DTYPE_F16  ? CUDA_R_16F
                                : CUDA_R_32F;
}

/* ---- weights to the device ---- */

static void pack_dense(uint8_t *dst, int64_t pitch, const uint8_t *src, const fl_linear_spec *s) {
    int64_t bytes = s->k * fl_dtype_bytes(s->dtype);
    if (s->dtype == FL_DTYPE_F32) {
        bytes = s->k * 2;
        for (int64_t i = 0; i < s->k; i++) {
            float f;
            memcpy(&f, src + 4 * i, sizeof(f));
            uint16_t h = fl_f32_to_bf16(f);
            memcpy(dst + 2 * i, &h, sizeof(h));
        }
    } else
        memcpy(dst, src, (size_t)bytes);
    memset(dst + bytes, 0, (size_t)(pitch - bytes));
}

/* Codes and places of 4 columns; false: more than two are not zero. */
static bool keep_two(uint8_t kept[2], unsigned *places, const uint8_t *four) {
    int at[GROUP], n = 0;
    for (int i = 0; i < GROUP; i++)
        if (four[i] & 0x7f) at[n++] = i;
    if (n > 2) return false;
    if (n == 0) at[n++] = 0;
    if (n == 1) { /* beside a zero, in order */
        at[1] = at[0] == 3 ? 3 : at[0] + 1;
        at[0] = at[0] == 3 ? 2 : at[0];
    }
    kept[0] = four[at[0]];
    kept[1] = four[at[1]];
    *places = (unsigned)(at[0] | at[1] << 2);
    return true;
}

/* A row: ld / 2 codes to kept, ld / 16 words to places. */
static bool pack_sparse(uint8_t *kept, uint16_t *places, const uint8_t *src, int64_t k,
                        int64_t ld) {
    memset(kept, 0, (size_t)(ld / 2));
    memset(places, 0, (size_t)(ld / 16) * sizeof(*places));
    for (int64_t g = 0; g < k / GROUP; g++) {
        unsigned where;
        if (!keep_two(kept + 2 * g, &where, src + g * GROUP)) return false;
        places[g / 4] = (uint16_t)(places[g / 4] | where << g % 4 * 4);
    }
    return true;
}

typedef struct upload {
    fl_backend *be;
    const fl_linear_spec *spec;
    cuda_packed *p;
    int64_t first; /* row of the fused weight where the part begins */
} upload;

/* Rows [begin, end) of a part through one stage (and for 2:4 a second one). */
static int upload_rows(const upload *u, const uint8_t *src, int64_t begin, int64_t end,
                       fl_err *err) {
    const cuda_weight *w = &u->p->w;
    int64_t row_bytes = u->spec->k * fl_dtype_bytes(u->spec->dtype), rows = end - begin;
    int64_t pitch = w->sparse24 ? w->ld / 2 : w->ld * fl_dtype_bytes(w->dtype);
    int64_t at = u->first + begin, word = w->ld / 16;
    cuda_stage *codes, *where = NULL;
    int rc = cuda_stage_take(u->be, &codes, err);
    if (rc || (w->sparse24 && (rc = cuda_stage_take(u->be, &where, err)))) return rc;
    for (int64_t i = 0; i < rows; i++) {
        const uint8_t *row = src + (begin + i) * row_bytes;
        if (!w->sparse24)
            pack_dense(codes->host + i * pitch, pitch, row, u->spec);
        else if (!pack_sparse(codes->host + i * pitch, (uint16_t *)(void *)where->host + i * word,
                              row, w->k, w->ld))
            return fl_fail(err, FL_E_ARG,
                           "linear [%lld,%lld]: row %lld has more than 2 of 4 values, 2:4",
                           (long long)w->n, (long long)w->k, (long long)(at + i));
    }
    rc = cuda_stage_send(u->be, codes, (uint8_t *)u->p->data + at * pitch, rows * pitch, err);
    if (!rc && where)
        rc = cuda_stage_send(u->be, where, (uint8_t *)u->p->places + at * word * 2, rows * word * 2,
                             err);
    if (!rc && u->spec->release)
        u->spec->release(src + begin * row_bytes, (size_t)(rows * row_bytes));
    return rc;
}

static int upload_weights(fl_backend *be, cuda_packed *p, const fl_linear_spec *s, fl_err *err) {
    upload u = {.be = be, .spec = s, .p = p};
    int64_t most = CUDA_STAGE_BYTES / (p->w.ld * fl_dtype_bytes(p->w.dtype));
    int rc = FL_OK;
    for (int i = 0; i < s->n_parts && !rc; u.first += s->part[i++].rows) {
        for (int64_t r = 0; r < s->part[i].rows && !rc; r += most)
            rc = upload_rows(&u, s->part[i].data, r, fl_min_i64(r + most, s->part[i].rows), err);
    }
    return rc;
}

static int upload_floats(fl_backend *be, void **out, const float *src, int64_t n, fl_linear *lin,
                         fl_err *err) {
    int64_t bytes = n * (int64_t)sizeof(float);
    int rc = cuda_alloc(be, out, (uint64_t)bytes, err);
    lin->bytes += (uint64_t)bytes;
    return rc ? rc : cuda_upload(be, *out, bytes, src, bytes, 1, err);
}

static int allocate(fl_backend *be, fl_linear *lin, const fl_linear_spec *s, fl_err *err) {
    cuda_packed *p = lin->packed;
    cuda_weight *w = &p->w;
    uint64_t bytes, codes = (uint64_t)(w->sparse24 ? w->ld / 2 : w->ld * fl_dtype_bytes(w->dtype));
    int rc;
    if (!fl_mul_u64(codes, (uint64_t)w->n, &bytes) || bytes > INT64_MAX / 2)
        return fl_fail(err, FL_E_ARG, "linear: [%lld,%lld] is too large", (long long)w->n,
                       (long long)w->k);
    if ((rc = cuda_alloc(be, &p->data, bytes, err))) return rc;
    lin->bytes = bytes;
    if (w->sparse24) {
        bytes = (uint64_t)(w->n * w->ld / 8);
        if ((rc = cuda_alloc(be, &p->places, bytes, err))) return rc;
        lin->bytes += bytes;
    }
    if (s->w_scale) {
        int64_t scales = w->n * w->blocks;
        if ((rc = upload_floats(be, &p->scale, s->w_scale, scales, lin, err))) return rc;
        p->uniform = true;
        for (int64_t i = 1; i < scales; i++)
            p->uniform = p->uniform && s->w_scale[i] == s->w_scale[0];
    }
    if (s->bias && (rc = upload_floats(be, &p->bias, s->bias, w->n, lin, err))) return rc;
    w->data = p->data;
    w->places = p->places;
    w->scale = p->scale;
    w->bias = p->bias;
    return FL_OK;
}

/* All columns of a 2:4 weight as well. */
static int add_dense(fl_backend *be, fl_linear *lin, const fl_linear_spec *s, fl_err *err) {
    cuda_packed *p = lin->packed, dense = *p;
    fl_linear_spec again = *s;
    again.release = NULL;
    dense.w.sparse24 = false;
    lin->dense_bytes = (uint64_t)(p->w.n * p->w.ld);
    int rc = cuda_alloc(be, &p->dense, lin->dense_bytes, err);
    if (rc) return rc;
    lin->bytes += lin->dense_bytes;
    dense.data = p->dense;
    p->many = dense.w;
    p->many.data = p->dense;
    return upload_weights(be, &dense, &again, err);
}

/* ---- plans ---- */

static int reserve_product(fl_backend *be, int64_t n, fl_err *err) {
    int64_t rows = fl_min_i64(be->max_rows, fl_max_i64(PRODUCT_FLOATS / n, 1));
    void *more;
    if (n * rows <= be->product_floats) return FL_OK;
    int rc = cuda_alloc(be, &more, (uint64_t)(n * rows) * sizeof(float), err);
    if (rc) return rc;
    if (be->product) cudaFree(be->product);
    be->product = more;
    be->product_floats = n * rows;
    return FL_OK;
}

/* cuBLASLt makes 16-bit numbers of 16-bit ones only of the same type. */
static bool direct_type(fl_dtype in, int i) {
    return in == FL_DTYPE_E4M3 || out_types[i] == type_of(in) || out_types[i] == CUDA_R_32F;
}

/* Whether some number of rows has no direct product: then it goes through f32. */
static bool needs_product(const fl_backend *be, const cuda_packed *p) {
    const fl_tensor any = {0};
    for (int64_t rows = FEW_ROWS + 1; rows < 2 * be->max_rows; rows *= 2)
        for (int i = 0; i < 3; i++)
            if (direct_type(p->w.dtype, i) &&
                !cuda_plan_takes(p->direct[i], fl_min_i64(rows, be->max_rows), &any, &any))
                return true;
    return false;
}

/* What cuBLASLt can do for this linear, asked now: nothing is planned inside a step. */
static int make_plans(fl_backend *be, const fl_linear *lin, fl_err *err) {
    cuda_packed *p = lin->packed;
    bool fp8 = lin->dtype == FL_DTYPE_E4M3;
    bool blocks = lin->w_block || lin->act == FL_ACT_GROUP;
    if (be->max_rows <= FEW_ROWS || be->batch_invariant || blocks || p->many.sparse24 ||
        (fp8 && lin->act == FL_ACT_NONE))
        return FL_OK;
    cuda_plan_key key = {.n = lin->n, .k = lin->k, .ldw = p->w.ld, .in = type_of(lin->dtype)};
    bool scalars = !fp8 || (lin->act == FL_ACT_STATIC && (p->uniform || !p->scale));
    bool vectors = fp8 && !scalars && be->cc == 90 && p->scale;
    int rc = FL_OK;
    for (int i = 0; i < 3 && !p->bias && (scalars || vectors) && !rc; i++) {
        key.out = out_types[i];
        key.vectors = vectors;
        if (direct_type(lin->dtype, i)) rc = cuda_plan_get(be, &p->direct[i], &key, err);
    }
    key.out = CUDA_R_32F;
    key.vectors = false;
    if (!rc) rc = cuda_plan_get(be, &p->product, &key, err);
    if (!rc && p->product && needs_product(be, p)) rc = reserve_product(be, lin->n, err);
    return rc;
}

int cuda_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err) {
    int64_t n = 0;
    int rc = fl_check_linear_spec(spec, CUDA_STAGE_BYTES / 4, &n, err);
    if (rc || (rc = cuda_outside(be, "linear_new", err))) return rc;
    fl_linear *lin = fl_alloc(sizeof(*lin));
    cuda_packed *p = lin ? fl_alloc(sizeof(*p)) : NULL;
    if (!p) {
        fl_free(lin);
        return fl_fail(err, FL_E_NOMEM, "linear");
    }
    *lin = fl_linear_of_spec(spec, n);
    lin->packed = p;
    lin->sparse24 = spec->sparse24 && spec->k % 8 == 0 && lin->dtype == FL_DTYPE_E4M3;
    uint64_t align = 16 / (uint64_t)fl_dtype_bytes(lin->dtype);
    p->w = (cuda_weight){.n = n,
                         .k = spec->k,
                         .ld = (int64_t)fl_round_up((uint64_t)spec->k, align),
                         .blocks = spec->w_block ? fl_act_groups(spec->k) : 1,
                         .dtype = lin->dtype,
                         .sparse24 = lin->sparse24};
    if ((rc = allocate(be, lin, spec, err))) goto done;
    p->many = p->w;
    if ((lin->sparse24 && be->sparse_dense && (rc = add_dense(be, lin, spec, err))) ||
        (rc = upload_weights(be, p, spec, err)) || (rc = make_plans(be, lin, err)))
        goto done;
    *out = lin;
    lin = NULL;
done:
    cuda_linear_free(be, lin);
    return rc;
}

const cuda_weight *cuda_weight_of(const fl_linear *lin) {
    return &((const cuda_packed *)lin->packed)->w;
}

void cuda_linear_free(fl_backend *be, fl_linear *lin) {
    if (!lin) return;
    cuda_packed *p = lin->packed;
    void *memory[] = {p->data, p->places, p->scale, p->bias, p->dense};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++) cuda_mem_free(be, memory[i]);
    fl_free(p);
    fl_free(lin);
}

/* ---- products that wait for their scales ---- */

int cuda_settle(fl_backend *be, fl_err *err) {
    cuda_scale_args a = be->unscaled;
    if (!a.in.y) return FL_OK;
    be->unscaled = (cuda_scale_args){0};
    return cuda_check(be, fl_cuda_scale_rows(&a, be->stream), "linear", err);
}

cuda_unscaled cuda_take_unscaled(fl_backend *be, const fl_tensor *t) {
    const cuda_scale_args a = be->unscaled;
    if (!a.in.y || a.out != t->data || a.ldo != t->stride || a.t != t->dim[0] ||
        a.in.n != fl_tensor_row_len(t) || a.dtype != t->dtype)
        return (cuda_unscaled){0};
    be->unscaled = (cuda_scale_args){0};
    return a.in;
}

/* ---- which way ---- */

typedef enum path { PATH_ROWS, PATH_TILES, PATH_DIRECT, PATH_PRODUCT } path;

static bool tiles_take(const cuda_weight *w, const fl_tensor *x) {
    int64_t each = 16 / fl_dtype_bytes(w->dtype);
    return x->dtype == w->dtype && w->k % each == 0 && x->stride % each == 0 &&
           (uintptr_t)x->data % 16 == 0;
}

/* Rows whose f32 results have room. */
static int64_t product_rows(const fl_backend *be, const cuda_packed *p) {
    return be->product_floats / p->w.n;
}

/* All pieces of an f32 product have an algorithm. */
static bool product_takes(const fl_backend *be, const cuda_packed *p, int64_t rows,
                          const fl_tensor *x) {
    const int64_t most = product_rows(be, p);
    const fl_tensor out = {.data = be->product, .stride = p->w.n};
    return most > 0 && (rows < most || cuda_plan_takes(p->product, most, &out, x)) &&
           (rows % most == 0 || cuda_plan_takes(p->product, rows % most, &out, x));
}

/* Of out and x the types, addresses and strides count. */
static path path_of(const fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                    const fl_tensor *x) {
    const cuda_packed *p = lin->packed;
    const int64_t rows = out->dim[0];
    const bool many = rows > FEW_ROWS, blocks = lin->w_block || lin->act == FL_ACT_GROUP;
    const cuda_weight *w = many ? &p->many : &p->w;
    if (be->batch_invariant || (many && (blocks || w->sparse24)))
        return tiles_take(w, x) ? PATH_TILES : PATH_ROWS;
    if (!many) return PATH_ROWS;
    if (x->dtype == lin->dtype) {
        if (cuda_plan_takes(p->direct[out_index(out->dtype)], rows, out, x)) return PATH_DIRECT;
        if (product_takes(be, p, rows, x)) return PATH_PRODUCT;
    }
    return tiles_take(w, x) ? PATH_TILES : PATH_ROWS;
}

const char *cuda_linear_path(fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                             const fl_tensor *x) {
    static const char *const names[] = {"rows", "tiles", "cublaslt", "cublaslt-f32"};
    return names[path_of(be, lin, out, x)];
}

/* ---- the product ---- */

static int direct(fl_backend *be, const cuda_linear_args *a, const cuda_packed *p, fl_err *err) {
    const cuda_product m = {.w = a->w.data,
                            .x = a->x,
                            .out = a->out,
                            .w_scale = a->w.scale,
                            .x_scale = a->x_scale,
                            .ldx = a->ldx,
                            .ldo = a->ldo,
                            .rows = a->t};
    return cuda_plan_run(be, p->direct[out_index(a->out_dtype)], &m, err);
}

/* In f32: the next op applies the scales, or a kernel when not all rows have room. */
static int product(fl_backend *be, const cuda_linear_args *a, const cuda_packed *p, fl_err *err) {
    int64_t most = product_rows(be, p), bytes = fl_dtype_bytes(a->x_dtype);
    int rc = FL_OK;
    for (int64_t t = 0; t < a->t && !rc; t += most) {
        const cuda_product m = {.w = a->w.data,
                                .x = (const uint8_t *)a->x + t * a->ldx * bytes,
                                .out = be->product,
                                .ldx = a->ldx,
                                .ldo = a->w.n,
                                .rows = fl_min_i64(most, a->t - t)};
        if ((rc = cuda_plan_run(be, p->product, &m, err))) return rc;
        be->unscaled =
            (cuda_scale_args){.in = {.y = be->product,
                                     .x_scale = a->x_scale ? a->x_scale + t : NULL,
                                     .w_scale = a->w.scale,
                                     .bias = a->w.bias,
                                     .n = a->w.n},
                              .out = (uint8_t *)a->out + t * a->ldo * fl_dtype_bytes(a->out_dtype),
                              .ldo = a->ldo,
                              .t = m.rows,
                              .dtype = a->out_dtype};
        if (m.rows < a->t) rc = cuda_settle(be, err);
    }
    return rc;
}

int cuda_linear(fl_backend *be, const fl_tensor *out, const fl_act *x, const fl_linear *lin,
                fl_err *err) {
    const cuda_packed *p = lin->packed;
    const fl_tensor *in;
    int64_t rows = out->dim[0];
    int rc = cuda_enter(be, "linear", rows, err);
    if (rc || (rc = fl_check_linear(out, x, lin, &in, err))) return rc;
    cuda_linear_args a = {.w = rows > FEW_ROWS ? p->many : p->w,
                          .x = in->data,
                          .x_scale = lin->act != FL_ACT_NONE ? x->q_scale.data : NULL,
                          .out = out->data,
                          .ldx = in->stride,
                          .ldo = out->stride,
                          .t = rows,
                          .x_groups = lin->act == FL_ACT_GROUP ? fl_act_groups(lin->k) : 1,
                          .x_dtype = in->dtype,
                          .out_dtype = out->dtype};
    switch (path_of(be, lin, out, in)) {
    case PATH_DIRECT:
        return direct(be, &a, p, err);
    case PATH_PRODUCT:
        return product(be, &a, p, err);
    case PATH_TILES:
        return cuda_check(be, fl_cuda_linear_tiles(&a, be->stream), "linear", err);
    default:
        return cuda_check(be, fl_cuda_linear_rows(&a, be->stream), "linear", err);
    }
}

int cuda_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table, const fl_tensor *ids,
               fl_err *err) {
    const cuda_packed *p = table->packed;
    cuda_rows_args a = {.table = p->w,
                        .out = out->data,
                        .index = ids->data,
                        .ldo = out->stride,
                        .t = out->dim[0],
                        .n = table->k,
                        .limit = table->n,
                        .dtype = out->dtype,
                        .fault = be->fault};
    int rc = cuda_enter(be, "embed", a.t, err);
    if (rc) return rc;
    if (out->dim[1] != table->k || ids->dim[0] != a.t)
        return fl_fail(err, FL_E_ARG, "embed: %lld ids, output [%lld,%lld], table width %lld",
                       (long long)ids->dim[0], (long long)a.t, (long long)out->dim[1],
                       (long long)table->k);
    return cuda_check(be, fl_cuda_embed(&a, be->stream), "embed", err);
}
