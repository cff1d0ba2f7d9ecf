/* linear.c - y = x w^T: bring x into the form the kernel wants, then share out the tiles. */
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/mem.h"

enum {
    MANY_ROWS = 9, /* from so many rows on it pays to expand tiles */
    ROWS = 24,     /* rows and tiles of one call of `dot`: its result stays in L1 */
    TILES = 8,
    STREAM_BYTES = 256 << 10, /* weights a member takes at a time when rows are few */
    STRETCH = 48, /* groups that are expanded at a time: both tiles stay in L1 as all rows pass */
};

typedef struct linear_job {
    fl_backend *be;
    const fl_tensor *out, *x; /* x: the E4M3 codes, or the plain activation */
    const float *q_scale;     /* NULL: 1 */
    const fl_linear *lin;
    fl_dtype panel_dtype;
    int64_t row, rows; /* of the current panel */
    bool many, blocks;
    void *picks; /* or NULL */
    atomic_llong next;
} linear_job;

/* What a member needs for many rows. */
typedef struct many_work {
    _Alignas(64) float tile[CPU_GEMM_TILES * STRETCH * CPU_GROUP * CPU_TILE];
    float acc[CPU_PANEL_ROWS * CPU_GEMM_TILES * 2 * CPU_TILE];
    float y[CPU_PANEL_ROWS * CPU_GEMM_TILES * CPU_TILE];
} many_work;

/* Replace the mapping *at of *have bytes by one of `need`, unless it is large enough. */
static bool grow(uint8_t **at, int64_t *have, int64_t need) {
    if (need <= *have) return true;
    uint8_t *p = fl_map_pages((size_t)need);
    if (!p) return false;
    fl_unmap_pages(*at, (size_t)*have);
    *at = p;
    *have = need;
    return true;
}

static bool can_expand(const fl_backend *be, const fl_linear *lin) {
    return be->isa->gemm && (be->isa->gemm_plain || lin->dtype == FL_DTYPE_E4M3 || lin->sparse24);
}

static bool can_pick(const fl_backend *be, const fl_linear *lin) {
    return be->isa->picks && lin->dtype == FL_DTYPE_E4M3 && lin->sparse24;
}

static int64_t picks_bytes(const cpu_packed *p) {
    return p->groups / 2 * CPU_PICKS * (int64_t)sizeof(float);
}

int cpu_linear_reserve(fl_backend *be, const fl_linear *lin, fl_err *err) {
    const cpu_packed *p = lin->packed;
    be->panel_rows = fl_min_i64(be->max_rows, CPU_PANEL_ROWS);
    int64_t panel = be->panel_rows * p->groups * CPU_GROUP * (int64_t)sizeof(float);
    int64_t work = 0;
    if (can_expand(be, lin) && be->panel_rows >= MANY_ROWS)
        work = (int64_t)sizeof(many_work) * fl_team_size(be->team);
    if (can_pick(be, lin)) work = fl_max_i64(work, picks_bytes(p));
    if (!grow(&be->panel, &be->panel_bytes, panel) || !grow(&be->work, &be->work_bytes, work))
        return fl_fail(err, FL_E_NOMEM, "linear: workspace of %lld bytes for %lld rows",
                       (long long)(panel + work), (long long)be->panel_rows);
    return FL_OK;
}

static void prepare_row(const linear_job *j, int64_t r) {
    const cpu_packed *p = j->lin->packed;
    int64_t ld = p->groups * CPU_GROUP, k = j->lin->k;
    const void *src = cpu_row(j->x, j->row + r);
    if (j->panel_dtype == FL_DTYPE_BF16) {
        uint16_t *dst = (uint16_t *)j->be->panel + r * ld;
        j->be->isa->to_bf16(dst, src, j->x->dtype, k);
        for (int64_t i = k; i < ld; i++) dst[i] = 0;
    } else {
        float *dst = (float *)j->be->panel + r * ld;
        j->be->isa->to_f32(dst, src, j->x->dtype, k);
        for (int64_t i = k; i < ld; i++) dst[i] = 0.0f;
    }
}

/* The only row of the panel as picks.  False: it has numbers that are not finite, whose product
 * with a zero weight must show. */
static bool make_picks(const linear_job *j) {
    const cpu_packed *p = j->lin->packed;
    const bool pairs = j->panel_dtype == FL_DTYPE_BF16;
    bool finite = true;
    for (int64_t g = 0; g < p->groups; g++) {
        uint32_t *at = (uint32_t *)j->picks + g / 2 * CPU_PICKS + g % 2 * 8, v[4];
        for (int i = 0; i < 4; i++) {
            if (pairs)
                v[i] = (uint32_t)((uint16_t *)j->be->panel)[4 * g + i] << 16;
            else
                memcpy(&v[i], (float *)j->be->panel + 4 * g + i, sizeof(v[i]));
            finite &= (v[i] & 0x7f800000u) != 0x7f800000u;
        }
        /* Names: (0,1) (0,2) (0,3) (1,2) (1,3) (2,3).  A pair: first kept number in the low half. */
        const int low = pairs ? 16 : 0;
        const uint32_t x0 = v[0] >> low, x1 = v[1] >> low, x2 = v[2], x3 = v[3];
        const uint32_t both0 = pairs ? x0 | v[1] : x0, both1 = pairs ? v[2] >> 16 | x3 : x3;
        at[0] = both0;
        at[1] = at[2] = x0;
        at[3] = at[4] = x1;
        at[17] = at[19] = x2;
        at[18] = at[20] = x3;
        at[21] = both1;
        at[5] = at[16] = 0;
    }
    return finite;
}

/* Sums of rows [row, row + m) of the step and columns [n0, n0 + n) -> out. */
static void finish(const linear_job *j, int64_t row, int64_t m, int64_t n0, int64_t n,
                   const float *y, int64_t ldy) {
    const cpu_packed *p = j->lin->packed;
    const int64_t size = fl_dtype_bytes(j->out->dtype);
    const cpu_finish f = {.y = y,
                          .ldy = ldy,
                          .m = m,
                          .n = n,
                          .x_scale = j->q_scale && !j->blocks ? j->q_scale + row : NULL,
                          .w_scale = p->w_scale && !j->blocks ? p->w_scale + n0 : NULL,
                          .bias = p->bias ? p->bias + n0 : NULL,
                          .out = (uint8_t *)cpu_row(j->out, row) + n0 * size,
                          .out_bytes = j->out->stride * size,
                          .t = j->out->dtype};
    j->be->isa->finish(&f);
}

/* Scales of the blocks, from row `row` of the step and tile `tile` on. */
static cpu_scales block_scales(const linear_job *j, int64_t row, int64_t tile) {
    static const float one = 1.0f;
    const cpu_packed *p = j->lin->packed;
    cpu_scales s = {.x = &one,
                    .w = p->w_scale + tile * p->w_blocks * CPU_TILE,
                    .w_tile = p->w_blocks * CPU_TILE,
                    .w_block = p->w_blocks > 1 ? CPU_TILE : 0,
                    .groups = FL_ACT_GROUP_K / CPU_GROUP};
    if (j->q_scale) {
        s.x_row = j->lin->act == FL_ACT_GROUP ? fl_act_groups(j->lin->k) : 1;
        s.x_block = j->lin->act == FL_ACT_GROUP;
        s.x = j->q_scale + row * s.x_row;
    }
    return s;
}

/* Tiles [tile, tile + tiles), at most TILES, for all rows. */
static void run_rows(const linear_job *j, int64_t tile, int64_t tiles) {
    const cpu_packed *p = j->lin->packed;
    int64_t ld = p->groups * CPU_GROUP, x_bytes = fl_dtype_bytes(j->panel_dtype);
    int64_t n0 = tile * CPU_TILE, n = fl_min_i64(tiles * CPU_TILE, j->lin->n - n0);
    _Alignas(64) float y[ROWS * TILES * CPU_TILE];
    for (int64_t r = 0; r < j->rows; r += ROWS) {
        cpu_scales scales;
        if (j->blocks) scales = block_scales(j, j->row + r, tile);
        cpu_dot d = {.w = p->tile + tile * p->stride,
                     .n_tiles = tiles,
                     .groups = p->groups,
                     .w_dtype = j->lin->dtype,
                     .x_dtype = j->panel_dtype,
                     .sparse24 = j->lin->sparse24,
                     .x = j->be->panel + r * ld * x_bytes,
                     .ldx = ld,
                     .m = fl_min_i64(ROWS, j->rows - r),
                     .y = y,
                     .ldy = TILES * CPU_TILE,
                     .scales = j->blocks ? &scales : NULL,
                     .picks = j->picks};
        j->be->isa->dot(&d);
        finish(j, j->row + r, d.m, n0, n, y, d.ldy);
    }
}

/* The stretch of g that begins at group `begin`, for all rows. */
static void run_stretch(const linear_job *j, many_work *work, cpu_gemm *g, int64_t tile,
                        int64_t begin) {
    const cpu_packed *p = j->lin->packed;
    const fl_linear *lin = j->lin;
    const uint8_t *src =
        p->tile + tile * p->stride + cpu_tile_bytes(lin->dtype, begin, lin->sparse24);
    g->tile_bytes = g->groups * cpu_group_bytes(j->panel_dtype);
    g->w = (const uint8_t *)work->tile;
    for (int64_t i = 0; i < g->n_tiles; i++) {
        cpu_expand e = {.dst = (uint8_t *)work->tile + i * g->tile_bytes,
                        .src = src + i * p->stride,
                        .groups = g->groups,
                        .dtype = lin->dtype,
                        .to = j->panel_dtype,
                        .sparse24 = lin->sparse24};
        j->be->isa->expand(&e);
    }
    g->x = j->be->panel + begin * CPU_GROUP * fl_dtype_bytes(j->panel_dtype);
    j->be->isa->gemm(g);
}

/* Two tiles, or one, for all of many rows; `more`: the member goes on with the next two. */
static void run_pair(const linear_job *j, many_work *work, int64_t tile, int64_t tiles, bool more) {
    const cpu_packed *p = j->lin->packed;
    const int64_t span = j->blocks ? FL_ACT_GROUP_K / CPU_GROUP : STRETCH;
    const int64_t n0 = tile * CPU_TILE, n = fl_min_i64(tiles * CPU_TILE, j->lin->n - n0);
    cpu_scales scales;
    if (j->blocks) scales = block_scales(j, j->row, tile);
    cpu_gemm g = {.n_tiles = tiles,
                  .x_dtype = j->panel_dtype,
                  .e4m3 = j->lin->dtype == FL_DTYPE_E4M3,
                  .ldx = p->groups * CPU_GROUP,
                  .m = j->rows,
                  .acc = work->acc,
                  .y = work->y,
                  .ldy = CPU_GEMM_TILES * CPU_TILE,
                  .scales = j->blocks ? &scales : NULL};
    for (int64_t begin = 0; begin < p->groups; begin += span, g.block++) {
        g.groups = fl_min_i64(span, p->groups - begin);
        g.first = j->blocks || !begin;
        g.last = j->blocks || begin + span >= p->groups;
        g.ahead = p->tile;
        if (more) {
            g.ahead += (tile + tiles) * p->stride + tiles * p->stride * begin / p->groups;
            g.ahead_bytes = tiles * p->stride * g.groups / p->groups;
        }
        run_stretch(j, work, &g, tile, begin);
    }
    finish(j, j->row, j->rows, n0, n, g.y, g.ldy);
}

static void run_tiles(const linear_job *j, int64_t begin, int64_t end, int member) {
    const int64_t most = j->many ? CPU_GEMM_TILES : TILES;
    for (int64_t tile = begin; tile < end; tile += most) {
        const int64_t tiles = fl_min_i64(most, end - tile);
        if (j->many)
            run_pair(j, (many_work *)j->be->work + member, tile, tiles, tile + 2 * most <= end);
        else
            run_rows(j, tile, tiles);
    }
}

/* How many of the tiles that are left a member takes.  Few rows: long sequential reads; many: the
 * longer the more are left, and pairs at last, so that the members finish together. */
static int64_t next_grain(const linear_job *j, int64_t left, int members) {
    const cpu_packed *p = j->lin->packed;
    if (j->many) return fl_max_i64(left / (4 * members) * CPU_GEMM_TILES, CPU_GEMM_TILES);
    int64_t share = fl_div_up(p->n_tiles, 4 * members);
    return fl_max_i64(fl_min_i64(fl_max_i64(STREAM_BYTES / p->stride, TILES), share), 1);
}

static void linear_member(void *arg, int member, int members) {
    linear_job *j = arg;
    const cpu_packed *p = j->lin->packed;
    for (int64_t r = member; r < j->rows; r += members) prepare_row(j, r);
    if (j->picks && member == 0 && !make_picks(j)) j->picks = NULL;
    fl_team_barrier(j->be->team);
    for (;;) {
        long long begin = atomic_load_explicit(&j->next, memory_order_relaxed), grain;
        do {
            if (begin >= p->n_tiles) return;
            grain = next_grain(j, p->n_tiles - begin, members);
        } while (!atomic_compare_exchange_weak_explicit(
            &j->next, &begin, begin + grain, memory_order_relaxed, memory_order_relaxed));
        run_tiles(j, begin, fl_min_i64(begin + grain, p->n_tiles), member);
    }
}

/* The type the kernels get x in. */
static fl_dtype choose_panel(const linear_job *j) {
    bool bf16 =
        j->be->isa->bf16_dot && j->lin->dtype != FL_DTYPE_F16 && j->x->dtype != FL_DTYPE_F16;
    return bf16 ? FL_DTYPE_BF16 : FL_DTYPE_F32;
}

int cpu_linear(fl_backend *be, const fl_tensor *out, const fl_act *x, const fl_linear *lin,
               fl_err *err) {
    bool fp8 = lin->act != FL_ACT_NONE;
    const fl_tensor *in;
    int64_t rows = out->dim[0];
    int rc = cpu_check_rows(be, "linear", rows, err);
    if (rc || (rc = fl_check_linear(out, x, lin, &in, err))) return rc;
    linear_job j = {.be = be,
                    .out = out,
                    .x = in,
                    .q_scale = fp8 ? x->q_scale.data : NULL,
                    .lin = lin,
                    .blocks = lin->w_block || lin->act == FL_ACT_GROUP};
    for (; j.row < rows; j.row += be->panel_rows) {
        j.rows = fl_min_i64(be->panel_rows, rows - j.row);
        j.panel_dtype = choose_panel(&j);
        j.many = can_expand(be, lin) && j.rows >= MANY_ROWS;
        j.picks = can_pick(be, lin) && j.rows == 1 ? be->work : NULL;
        atomic_init(&j.next, 0);
        fl_team_run(be->team, linear_member, &j);
    }
    return FL_OK;
}
