/* pack.c - weights from row-major host memory into tiles, and single rows back out. */
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/fp8.h"
#include "util/mem.h"

enum { PACK_COLS = 256, PACK_BYTES = 1 << 20 };

typedef struct pack_job {
    const fl_linear_spec *spec;
    cpu_packed *packed;
    int64_t n;
    fl_dtype dtype; /* of the tiles */
} pack_job;

/* Address of row `row` of the fused source. */
static const uint8_t *source_row(const fl_linear_spec *s, int64_t row) {
    int part = 0;
    while (row >= s->part[part].rows) row -= s->part[part++].rows;
    return (const uint8_t *)s->part[part].data + row * s->k * fl_dtype_bytes(s->dtype);
}

/* n columns of one row from column k on, as the tile's type; zeros up to PACK_COLS. */
static void load_cols(uint8_t *dst, const pack_job *j, int64_t row, int64_t k, int64_t n) {
    int64_t size = fl_dtype_bytes(j->dtype), have = row < j->n ? n : 0;
    const uint8_t *src = have ? source_row(j->spec, row) : NULL;
    if (have && j->spec->dtype == FL_DTYPE_F32) {
        for (int64_t i = 0; i < n; i++) {
            float x;
            memcpy(&x, src + (k + i) * 4, sizeof(x));
            uint16_t h = fl_f32_to_bf16(x);
            memcpy(dst + i * 2, &h, sizeof(h));
        }
    } else if (have) {
        memcpy(dst, src + k * size, (size_t)(n * size));
    }
    memset(dst + have * size, 0, (size_t)((PACK_COLS - have) * size));
}

static void interleave_e4m3(uint8_t *out, const uint8_t *in, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, out += 64) {
        for (int r = 0; r < CPU_TILE; r++) {
            const uint8_t *src = in + r * PACK_COLS + g * 4;
            uint8_t *dst = out + r / 4 * 16 + r % 4 * 2;
            memcpy(dst, src, 2);
            memcpy(dst + 8, src + 2, 2);
        }
    }
}

static void interleave_bf16(uint8_t *out, const uint8_t *in, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, out += 128) {
        for (int r = 0; r < CPU_TILE; r++) {
            const uint8_t *src = in + (r * PACK_COLS + g * 4) * 2;
            memcpy(out + r * 4, src, 4);
            memcpy(out + 64 + r * 4, src + 4, 4);
        }
    }
}

static void interleave_f16(uint8_t *out, const uint8_t *in, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, out += 128) {
        for (int r = 0; r < CPU_TILE; r++) {
            const uint8_t *src = in + (r * PACK_COLS + g * 4) * 2;
            for (int k = 0; k < CPU_GROUP; k++) memcpy(out + k * 32 + r * 2, src + k * 2, 2);
        }
    }
}

/* Eight codes at a time: a byte with all low seven bits set overflows into its top bit. */
static bool has_nan_code(const uint8_t *q, int64_t n) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu, ones = 0x0101010101010101u;
    uint64_t hit = 0;
    for (; n >= 8; n -= 8, q += 8) {
        uint64_t v;
        memcpy(&v, q, sizeof(v));
        hit |= ((v & low) + ones) & ~low;
    }
    return hit || fl_e4m3_count_nan(q, (size_t)n);
}

static void pack_tile(const pack_job *j, int64_t tile) {
    uint8_t cols[CPU_TILE * PACK_COLS * 2];
    const int64_t k = j->spec->k, size = fl_dtype_bytes(j->dtype);
    uint8_t *out = j->packed->tile + tile * j->packed->groups * cpu_group_bytes(j->dtype);
    for (int64_t k0 = 0; k0 < k; k0 += PACK_COLS) {
        int64_t n = fl_min_i64(PACK_COLS, k - k0), groups = fl_div_up(n, CPU_GROUP);
        for (int r = 0; r < CPU_TILE; r++)
            load_cols(cols + r * PACK_COLS * size, j, tile * CPU_TILE + r, k0, n);
        if (j->dtype == FL_DTYPE_E4M3)
            interleave_e4m3(out, cols, groups);
        else if (j->dtype == FL_DTYPE_F16)
            interleave_f16(out, cols, groups);
        else
            interleave_bf16(out, cols, groups);
        out += groups * cpu_group_bytes(j->dtype);
    }
    if (j->dtype != FL_DTYPE_E4M3) return;
    for (int64_t row = tile * CPU_TILE; row < fl_min_i64((tile + 1) * CPU_TILE, j->n); row++) {
        /* A scale of NaN makes the whole output NaN, so that no kernel has to look for
         * NaN codes in weights. */
        if (has_nan_code(source_row(j->spec, row), k))
            j->packed->w_scale[row] = fl_bits_f32(0x7fc00000u);
    }
}

/* Source rows [begin, end) are in the tiles: give their bytes back, part by part. */
static void release_rows(const fl_linear_spec *s, int64_t begin, int64_t end) {
    int64_t first = 0, row_bytes = s->k * fl_dtype_bytes(s->dtype);
    for (int i = 0; i < s->n_parts; first += s->part[i++].rows) {
        int64_t b = fl_max_i64(begin - first, 0), e = fl_min_i64(end - first, s->part[i].rows);
        if (b < e)
            s->release((const uint8_t *)s->part[i].data + b * row_bytes,
                       (size_t)((e - b) * row_bytes));
    }
}

static void pack_range(void *ctx, int64_t begin, int64_t end) {
    const pack_job *j = ctx;
    for (int64_t tile = begin; tile < end; tile++) pack_tile(j, tile);
    if (j->spec->release) release_rows(j->spec, begin * CPU_TILE, fl_min_i64(end * CPU_TILE, j->n));
}

static int check_spec(const fl_linear_spec *s, int64_t *n, fl_err *err) {
    if (s->n_parts < 1 || s->n_parts > FL_MAX_LINEAR_PARTS)
        return fl_fail(err, FL_E_ARG, "linear: %d parts, limit %d", s->n_parts,
                       FL_MAX_LINEAR_PARTS);
    for (int i = 0; i < s->n_parts; i++) {
        if (s->part[i].rows < 1 || s->part[i].rows > INT32_MAX)
            return fl_fail(err, FL_E_ARG, "linear: part %d has %lld rows", i,
                           (long long)s->part[i].rows);
        *n += s->part[i].rows;
    }
    if (s->k < 1 || s->k > INT32_MAX)
        return fl_fail(err, FL_E_ARG, "linear: input width %lld", (long long)s->k);
    if (s->dtype != FL_DTYPE_E4M3 && s->dtype != FL_DTYPE_BF16 && s->dtype != FL_DTYPE_F16 &&
        s->dtype != FL_DTYPE_F32)
        return fl_fail(err, FL_E_UNSUPPORTED, "linear: weights of type %s",
                       fl_dtype_name(s->dtype));
    if (s->dtype != FL_DTYPE_E4M3 && (s->act != FL_ACT_NONE || s->w_scale))
        return fl_fail(err, FL_E_ARG, "linear: %s weights with a scale or FP8 activations",
                       fl_dtype_name(s->dtype));
    if (s->act != FL_ACT_NONE && s->act != FL_ACT_STATIC && s->act != FL_ACT_TOKEN)
        return fl_fail(err, FL_E_UNSUPPORTED, "linear: activation scheme %d on the CPU",
                       (int)s->act);
    if (s->w_block && (s->w_block != FL_ACT_GROUP_K || s->dtype != FL_DTYPE_E4M3))
        return fl_fail(err, FL_E_ARG, "linear: %s weights with a scale for each %lld columns",
                       fl_dtype_name(s->dtype), (long long)s->w_block);
    if (s->w_block) return fl_fail(err, FL_E_UNSUPPORTED, "linear: block scales on the CPU");
    if (s->act == FL_ACT_STATIC && !(s->x_scale > 0.0f && s->x_scale < 1e30f))
        return fl_fail(err, FL_E_ARG, "linear: input scale %g", (double)s->x_scale);
    return FL_OK;
}

/* n values, then zeros up to a whole tile; all ones when src is NULL. */
static float *row_vector(const float *src, int64_t n, int64_t n_tiles) {
    float *v = fl_alloc_array((size_t)(n_tiles * CPU_TILE), sizeof(float));
    for (int64_t i = 0; v && i < n; i++) v[i] = src ? src[i] : 1.0f;
    return v;
}

static int reserve(cpu_packed *p, const fl_linear_spec *s, int64_t n, fl_dtype dtype, fl_err *err) {
    p->groups = fl_div_up(s->k, CPU_GROUP);
    p->n_tiles = fl_div_up(n, CPU_TILE);
    uint64_t tile_bytes = (uint64_t)(p->groups * cpu_group_bytes(dtype));
    if (!fl_mul_u64(tile_bytes, (uint64_t)p->n_tiles, &p->tile_bytes))
        return fl_fail(err, FL_E_ARG, "linear: [%lld,%lld] is too large", (long long)n,
                       (long long)s->k);
    p->tile = fl_map_pages(p->tile_bytes);
    if (dtype == FL_DTYPE_E4M3) p->w_scale = row_vector(s->w_scale, n, p->n_tiles);
    if (s->bias) p->bias = row_vector(s->bias, n, p->n_tiles);
    if (!p->tile || (dtype == FL_DTYPE_E4M3 && !p->w_scale) || (s->bias && !p->bias))
        return fl_fail(err, FL_E_NOMEM, "linear: %llu bytes for [%lld,%lld]",
                       (unsigned long long)p->tile_bytes, (long long)n, (long long)s->k);
    return FL_OK;
}

int cpu_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err) {
    int64_t n = 0;
    int rc = check_spec(spec, &n, err);
    if (rc) return rc;
    fl_linear *lin = fl_alloc(sizeof(*lin));
    cpu_packed *p = lin ? fl_alloc(sizeof(*p)) : NULL;
    if (!p) {
        fl_free(lin);
        return fl_fail(err, FL_E_NOMEM, "linear");
    }
    *lin = (fl_linear){.n = n,
                       .k = spec->k,
                       .dtype = spec->dtype == FL_DTYPE_F32 ? FL_DTYPE_BF16 : spec->dtype,
                       .act = spec->act,
                       .x_scale = spec->x_scale,
                       .x_scale_ub = spec->x_scale_ub,
                       .packed = p};
    if ((rc = reserve(p, spec, n, lin->dtype, err)) || (rc = cpu_linear_reserve(be, lin, err)))
        goto done;
    pack_job job = {spec, p, n, lin->dtype};
    int64_t tile_bytes = CPU_TILE * spec->k * fl_dtype_bytes(spec->dtype);
    fl_team_for(be->team, p->n_tiles, fl_max_i64(PACK_BYTES / tile_bytes, 1), pack_range, &job);
    lin->bytes = p->tile_bytes + (uint64_t)(p->n_tiles * CPU_TILE) * sizeof(float) *
                                     (uint64_t)(!!p->w_scale + !!p->bias);
    *out = lin;
    lin = NULL;
done:
    cpu_linear_free(be, lin);
    return rc;
}

void cpu_linear_free(fl_backend *be, fl_linear *lin) {
    (void)be;
    if (!lin) return;
    cpu_packed *p = lin->packed;
    fl_unmap_pages(p->tile, p->tile_bytes);
    fl_free(p->w_scale);
    fl_free(p->bias);
    fl_free(p);
    fl_free(lin);
}

typedef struct embed_job {
    fl_backend *be;
    const fl_tensor *out;
    const fl_linear *table;
    const int32_t *ids;
} embed_job;

static void embed_rows(void *ctx, int64_t begin, int64_t end) {
    const embed_job *j = ctx;
    const cpu_packed *p = j->table->packed;
    const fl_dtype t = j->table->dtype;
    const cpu_isa *isa = j->be->isa;
    for (int64_t row = begin; row < end; row++) {
        int64_t id = j->ids[row], r = id % CPU_TILE;
        const uint8_t *tile = p->tile + id / CPU_TILE * p->groups * cpu_group_bytes(t);
        uint8_t *out = cpu_row(j->out, row);
        for (int64_t k = 0; k < j->table->k; k += PACK_COLS) {
            int64_t n = fl_min_i64(PACK_COLS, j->table->k - k), size = fl_dtype_bytes(t);
            uint8_t codes[PACK_COLS * 2];
            float x[PACK_COLS];
            for (int64_t i = 0; i < n; i++)
                memcpy(codes + i * size, tile + cpu_tile_offset(t, r, k + i), (size_t)size);
            isa->to_f32(x, codes, t, n);
            for (int64_t i = 0; p->w_scale && i < n; i++) x[i] *= p->w_scale[id];
            isa->from_f32(out + k * fl_dtype_bytes(j->out->dtype), j->out->dtype, x, n);
        }
    }
}

int cpu_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table, const fl_tensor *ids,
              fl_err *err) {
    embed_job job = {be, out, table, ids->data};
    int rc = cpu_check_rows(be, "embed", out->dim[0], err);
    if (rc) return rc;
    if (out->dim[1] != table->k || ids->dim[0] != out->dim[0])
        return fl_fail(err, FL_E_ARG, "embed: %lld ids, output [%lld,%lld], table width %lld",
                       (long long)ids->dim[0], (long long)out->dim[0], (long long)out->dim[1],
                       (long long)table->k);
    for (int64_t i = 0; i < out->dim[0]; i++) {
        if (job.ids[i] < 0 || job.ids[i] >= table->n)
            return fl_fail(err, FL_E_ARG, "embed: id %d outside [0,%lld)", job.ids[i],
                           (long long)table->n);
    }
    cpu_for_rows(be, out->dim[0], table->k, embed_rows, &job);
    return FL_OK;
}
