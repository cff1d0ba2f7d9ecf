/* kv.c - the inside of a KV page, and writing into it.
 *
 * Page: for each head the keys of all positions, then the values; 16 positions make one
 * key tile (rows = positions, columns = head dim) and one value block (tiles whose rows are
 * head dims and whose columns are the 16 positions). */
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/fp8.h"

static int64_t key_tile_bytes(const fl_kv_shape *s) {
    return fl_div_up(s->head_dim, CPU_GROUP) * cpu_group_bytes(s->dtype);
}

static int64_t value_block_bytes(const fl_kv_shape *s) {
    return fl_div_up(s->head_dim, CPU_TILE) * (CPU_TILE / CPU_GROUP) * cpu_group_bytes(s->dtype);
}

static int64_t head_bytes(const fl_kv_shape *s) {
    return s->page_tokens / CPU_TILE * (key_tile_bytes(s) + value_block_bytes(s));
}

uint64_t cpu_kv_page_bytes(fl_backend *be, const fl_kv_shape *shape) {
    (void)be;
    return (uint64_t)(shape->heads * head_bytes(shape));
}

uint8_t *cpu_kv_keys(const fl_kv_layer *kv, int64_t page, int64_t g, int64_t tile) {
    const fl_kv_shape *s = &kv->shape;
    return (uint8_t *)kv->data + (page * s->heads + g) * head_bytes(s) + tile * key_tile_bytes(s);
}

uint8_t *cpu_kv_values(const fl_kv_layer *kv, int64_t page, int64_t g, int64_t tile) {
    const fl_kv_shape *s = &kv->shape;
    return cpu_kv_keys(kv, page, g, s->page_tokens / CPU_TILE) + tile * value_block_bytes(s);
}

typedef struct store_job {
    const cpu_isa *isa;
    const fl_rope *r;
    const fl_kv_layer *kv;
    const int32_t *pos, *slot;
    int64_t n_q; /* query heads */
} store_job;

/* x[j], x[j + n/2] turned by the angle whose cosines, then sines, are in cs. */
static void rotate(float *x, const float *cs, int64_t n) {
    int64_t half = n / 2;
    for (int64_t j = 0; j < half; j++) {
        float a = x[j], b = x[j + half], c = cs[j], s = cs[half + j];
        x[j] = a * c - b * s;
        x[j + half] = b * c + a * s;
    }
}

/* n numbers of type t as the cache keeps them. */
static void encode(const store_job *j, uint8_t *codes, const void *src, fl_dtype t, float scale) {
    int64_t n = j->kv->shape.head_dim;
    float x[FL_MAX_HEAD_DIM];
    if (j->kv->shape.dtype == FL_DTYPE_E4M3) {
        j->isa->quantize(codes, src, t, n, scale, true);
    } else if (j->kv->shape.dtype == t) {
        memcpy(codes, src, (size_t)(n * fl_dtype_bytes(t)));
    } else {
        j->isa->to_f32(x, src, t, n);
        j->isa->from_f32(codes, j->kv->shape.dtype, x, n);
    }
}

/* A number of one or two bytes: a copy of a size that varies is a call. */
static inline void put(uint8_t *dst, const uint8_t *src, int64_t size) {
    if (size == 2)
        memcpy(dst, src, 2);
    else
        *dst = *src;
}

static void store_head(const store_job *j, const uint8_t *k, const uint8_t *v, int64_t slot,
                       int64_t g) {
    const fl_kv_shape *s = &j->kv->shape;
    const int64_t page = slot / s->page_tokens, offset = slot % s->page_tokens;
    const int64_t size = fl_dtype_bytes(s->dtype), at = offset % CPU_TILE;
    const int64_t run = CPU_TILE / CPU_GROUP * cpu_group_bytes(s->dtype);
    uint8_t *key = cpu_kv_keys(j->kv, page, g, offset / CPU_TILE);
    uint8_t *value = cpu_kv_values(j->kv, page, g, offset / CPU_TILE);
    /* Also the padding of k, zeros: a score must not meet what the page held before. */
    for (int64_t e = 0; e < (int64_t)fl_round_up((uint64_t)s->head_dim, CPU_GROUP); e++)
        put(key + cpu_tile_offset(s->dtype, at, e), k + e * size, size);
    for (int64_t e = 0; e < s->head_dim; e++)
        put(value + e / CPU_TILE * run + cpu_tile_offset(s->dtype, e % CPU_TILE, at), v + e * size,
            size);
}

static void store_rows(void *ctx, int64_t begin, int64_t end) {
    const store_job *j = ctx;
    const int64_t n = j->kv->shape.head_dim;
    const fl_dtype t = j->r->q.dtype;
    float x[FL_MAX_HEAD_DIM];
    uint8_t k[FL_MAX_HEAD_DIM * 2], key[FL_MAX_HEAD_DIM * 2] = {0}, value[FL_MAX_HEAD_DIM * 2];
    for (int64_t row = begin; row < end; row++) {
        const float *cs = (const float *)j->r->cos_sin.data + j->pos[row] * j->r->cos_sin.stride;
        for (int64_t h = 0; h < j->n_q; h++) {
            uint8_t *q = (uint8_t *)cpu_row(&j->r->q, row) + h * n * 2;
            j->isa->to_f32(x, q, t, n);
            rotate(x, cs, n);
            j->isa->from_f32(q, t, x, n);
        }
        for (int64_t g = 0; g < j->kv->shape.heads; g++) {
            j->isa->to_f32(x, (uint8_t *)cpu_row(&j->r->k, row) + g * n * 2, t, n);
            rotate(x, cs, n);
            j->isa->from_f32(k, t, x, n);
            encode(j, key, k, t, j->kv->k_scale);
            encode(j, value, (uint8_t *)cpu_row(&j->r->v, row) + g * n * 2, t, j->kv->v_scale);
            store_head(j, key, value, j->slot[row], g);
        }
    }
}

int cpu_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv, const fl_batch *b,
                   fl_err *err) {
    store_job job = {be->isa, r, kv, b->pos.data, b->slot.data, r->q.dim[1]};
    int rc = cpu_check_rows(be, "rope_store", b->n_rows, err);
    if (rc || (rc = fl_check_rope(r, kv, b, err))) return rc;
    for (int64_t i = 0; i < b->n_rows; i++) {
        if (job.pos[i] < 0 || job.pos[i] >= r->cos_sin.dim[0] || job.slot[i] < 0)
            return fl_fail(err, FL_E_ARG, "rope_store: row %lld: position %d of %lld, slot %d",
                           (long long)i, job.pos[i], (long long)r->cos_sin.dim[0], job.slot[i]);
    }
    int64_t width = (r->q.dim[1] + 4 * kv->shape.heads) * kv->shape.head_dim;
    cpu_for_rows(be, b->n_rows, width, store_rows, &job);
    return FL_OK;
}
