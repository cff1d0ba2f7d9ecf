/* pack.c - weights from row-major host memory into tiles, and single rows back out. */
#include <stdatomic.h>
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
    bool sparse24;
    atomic_llong broken; /* a row that breaks 2:4; -1: none */
} pack_job;

const int8_t cpu_kept[8][CPU_GROUP] = {{0, 1, -1, -1},   {0, -1, 1, -1},  {0, -1, -1, 1},
                                       {-1, 0, 1, -1},   {-1, 0, -1, 1},  {-1, -1, 0, 1},
                                       {-1, -1, -1, -1}, {-1, -1, -1, -1}};

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

/* Bit k: column k of a group is not zero. -> entry of cpu_kept that keeps those; -1: too many */
static const int8_t name_of[16] = {0, 0, 0, 0, 5, 1, 3, -1, 5, 2, 4, -1, 5, -1, -1, -1};

/* One group of one row; the name goes into a nibble. */
static bool keep_group(uint8_t *name, uint8_t *kept, const uint8_t *in, int64_t size, int shift) {
    int nonzero = 0, slot = 0;
    for (int k = 0; k < CPU_GROUP; k++) {
        const uint8_t *v = in + k * size;
        bool zero = !(v[size - 1] & 0x7f) && (size == 1 || !v[0]);
        nonzero |= !zero << k;
    }
    int which = name_of[nonzero];
    if (which < 0) return false;
    *name = (uint8_t)(*name | (which + 2 * shift) << shift);
    for (int k = 0; k < CPU_GROUP; k++) {
        if (cpu_kept[which][k] >= 0) memcpy(kept + size * slot++, in + k * size, (size_t)size);
    }
    return true;
}

/* Columns of row r, whole units, into units that are zero.  False: breaks 2:4. */
static bool keep_row(uint8_t *out, const uint8_t *in, int64_t r, int64_t units, fl_dtype t) {
    const int64_t size = fl_dtype_bytes(t);
    for (int64_t g = 0; g < units * CPU_UNIT; g++, in += CPU_GROUP * size) {
        int64_t pair = g % CPU_UNIT / 2, second = g % 2;
        uint8_t *unit = out + g / CPU_UNIT * cpu_unit_bytes(t);
        uint8_t *kept = unit + CPU_NAMES + pair * cpu_group_bytes(t);
        kept += t == FL_DTYPE_E4M3 ? r / 4 * 16 + second * 8 + r % 4 * 2 : second * 64 + r * 4;
        if (!keep_group(unit + pair * CPU_TILE + r, kept, in, size, (int)second * 4)) return false;
    }
    return true;
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

/* cols: 16 rows of PACK_COLS values, n of them from column k0 on.  Returns bytes written. */
static int64_t write_cols(uint8_t *out, pack_job *j, int64_t tile, const uint8_t *cols, int64_t n) {
    int64_t groups = fl_div_up(n, CPU_GROUP), units = fl_div_up(groups, CPU_UNIT);
    if (j->sparse24) {
        for (int r = 0; r < CPU_TILE; r++) {
            const uint8_t *row = cols + r * PACK_COLS * fl_dtype_bytes(j->dtype);
            if (!keep_row(out, row, r, units, j->dtype))
                atomic_store(&j->broken, tile * CPU_TILE + r);
        }
        return units * cpu_unit_bytes(j->dtype);
    }
    if (j->dtype == FL_DTYPE_E4M3)
        interleave_e4m3(out, cols, groups);
    else if (j->dtype == FL_DTYPE_F16)
        interleave_f16(out, cols, groups);
    else
        interleave_bf16(out, cols, groups);
    return groups * cpu_group_bytes(j->dtype);
}

static void pack_tile(pack_job *j, int64_t tile) {
    uint8_t cols[CPU_TILE * PACK_COLS * 2];
    const int64_t k = j->spec->k, size = fl_dtype_bytes(j->dtype), blocks = j->packed->w_blocks;
    uint8_t *out = j->packed->tile + tile * j->packed->stride;
    for (int64_t k0 = 0; k0 < k; k0 += PACK_COLS) {
        int64_t n = fl_min_i64(PACK_COLS, k - k0);
        for (int r = 0; r < CPU_TILE; r++)
            load_cols(cols + r * PACK_COLS * size, j, tile * CPU_TILE + r, k0, n);
        out += write_cols(out, j, tile, cols, n);
    }
    if (j->dtype != FL_DTYPE_E4M3) return;
    float *scale = j->packed->w_scale + tile * blocks * CPU_TILE;
    for (int64_t r = 0; r < fl_min_i64(CPU_TILE, j->n - tile * CPU_TILE); r++) {
        int64_t row = tile * CPU_TILE + r;
        const float *w_scale = j->spec->w_scale ? j->spec->w_scale + row * blocks : NULL;
        for (int64_t b = 0; b < blocks; b++) scale[b * CPU_TILE + r] = w_scale ? w_scale[b] : 1.0f;
        /* A scale of NaN makes the whole output NaN, so that no kernel has to look for
         * NaN codes in weights. */
        if (has_nan_code(source_row(j->spec, row), k)) scale[r] = fl_bits_f32(0x7fc00000u);
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
    pack_job *j = ctx;
    for (int64_t tile = begin; tile < end; tile++) pack_tile(j, tile);
    if (j->spec->release) release_rows(j->spec, begin * CPU_TILE, fl_min_i64(end * CPU_TILE, j->n));
}

/* Memory of the tiles and the vectors beside them, which are zero up to a whole tile. */
static int reserve(fl_linear *lin, const fl_linear_spec *s, fl_err *err) {
    cpu_packed *p = lin->packed;
    const bool scaled = lin->dtype == FL_DTYPE_E4M3;
    p->groups = fl_div_up(lin->k, CPU_GROUP);
    if (lin->sparse24) p->groups = fl_div_up(p->groups, CPU_UNIT) * CPU_UNIT;
    p->stride = cpu_tile_bytes(lin->dtype, p->groups, lin->sparse24);
    p->n_tiles = fl_div_up(lin->n, CPU_TILE);
    p->w_blocks = lin->w_block ? fl_act_groups(lin->k) : 1;
    if (!fl_mul_u64((uint64_t)p->stride, (uint64_t)p->n_tiles, &p->tile_bytes))
        return fl_fail(err, FL_E_ARG, "linear: [%lld,%lld] is too large", (long long)lin->n,
                       (long long)lin->k);
    const size_t rows = (size_t)(p->n_tiles * CPU_TILE), scales = rows * (size_t)p->w_blocks;
    p->tile = fl_map_pages(p->tile_bytes);
    if (scaled) p->w_scale = fl_alloc_array(scales, sizeof(float));
    if (s->bias) p->bias = fl_alloc_array(rows, sizeof(float));
    if (!p->tile || (scaled && !p->w_scale) || (s->bias && !p->bias))
        return fl_fail(err, FL_E_NOMEM, "linear: %llu bytes for [%lld,%lld]",
                       (unsigned long long)p->tile_bytes, (long long)lin->n, (long long)lin->k);
    if (s->bias) memcpy(p->bias, s->bias, (size_t)lin->n * sizeof(float));
    lin->bytes = p->tile_bytes + sizeof(float) * ((scaled ? scales : 0) + (s->bias ? rows : 0));
    return FL_OK;
}

int cpu_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *spec, fl_err *err) {
    int64_t n = 0;
    int rc = fl_check_linear_spec(spec, INT32_MAX, &n, err);
    if (rc) return rc;
    fl_linear *lin = fl_alloc(sizeof(*lin));
    cpu_packed *p = lin ? fl_alloc(sizeof(*p)) : NULL;
    if (!p) {
        fl_free(lin);
        return fl_fail(err, FL_E_NOMEM, "linear");
    }
    *lin = fl_linear_of_spec(spec, n);
    lin->packed = p;
    lin->sparse24 = spec->sparse24 && spec->k % 8 == 0 && lin->dtype != FL_DTYPE_F16;
    if ((rc = reserve(lin, spec, err)) || (rc = cpu_linear_reserve(be, lin, err))) goto done;
    pack_job job = {
        .spec = spec, .packed = p, .n = n, .dtype = lin->dtype, .sparse24 = lin->sparse24};
    atomic_init(&job.broken, -1);
    int64_t tile_bytes = CPU_TILE * spec->k * fl_dtype_bytes(spec->dtype);
    fl_team_for(be->team, p->n_tiles, fl_max_i64(PACK_BYTES / tile_bytes, 1), pack_range, &job);
    long long broken = atomic_load(&job.broken);
    if (broken >= 0) {
        rc = fl_fail(err, FL_E_ARG, "linear [%lld,%lld]: row %lld has more than 2 of 4 values, 2:4",
                     (long long)n, (long long)spec->k, broken);
        goto done;
    }
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
    const bool sparse = j->table->sparse24;
    const cpu_isa *isa = j->be->isa;
    for (int64_t row = begin; row < end; row++) {
        int64_t id = j->ids[row], r = id % CPU_TILE;
        const uint8_t *tile = p->tile + id / CPU_TILE * p->stride;
        const float *scale = NULL;
        if (p->w_scale) scale = p->w_scale + id / CPU_TILE * p->w_blocks * CPU_TILE + r;
        uint8_t *out = cpu_row(j->out, row);
        for (int64_t k = 0; k < j->table->k; k += PACK_COLS) {
            int64_t n = fl_min_i64(PACK_COLS, j->table->k - k), size = fl_dtype_bytes(t);
            uint8_t codes[PACK_COLS * 2] = {0};
            float x[PACK_COLS];
            for (int64_t i = 0; i < n; i++) {
                int64_t at =
                    sparse ? cpu_kept_offset(tile, t, r, k + i) : cpu_tile_offset(t, r, k + i);
                if (at >= 0) memcpy(codes + i * size, tile + at, (size_t)size);
            }
            isa->to_f32(x, codes, t, n);
            for (int64_t i = 0; scale && i < n; i++)
                x[i] *= scale[p->w_blocks > 1 ? (k + i) / FL_ACT_GROUP_K * CPU_TILE : 0];
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
