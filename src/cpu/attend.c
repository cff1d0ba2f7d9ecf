/* attend.c - attention over the paged cache.
 *
 * Work item: up to CPU_VECS query vectors (rows x heads) of one sequence that share one kv
 * head.  An item walks over chunks of CPU_CHUNK positions, fixed by absolute position; each
 * chunk gives (max, sum, weighted values) per vector, and these are combined in order of
 * position.  Computing an item's chunks one after the other or side by side is therefore
 * the same arithmetic, and a vector never sees which others are in its item. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/mem.h"

enum { MAX_E_TILES = FL_MAX_HEAD_DIM / CPU_TILE };

/* Result of one chunk, or of all up to here, for one vector. */
typedef struct partial {
    float max, sum;
    float value[FL_MAX_HEAD_DIM];
} partial;

struct cpu_attend_scratch {
    _Alignas(64) float query[CPU_VECS * FL_MAX_HEAD_DIM]; /* F32 or BF16 */
    _Alignas(64) float score[CPU_VECS * CPU_CHUNK];
    _Alignas(64) float acc[CPU_VECS * MAX_E_TILES * 2 * CPU_TILE];
    _Alignas(64) uint8_t tail[MAX_E_TILES * 4 * 128];
    partial total[CPU_VECS], chunk[CPU_VECS];
};

typedef struct attend_job {
    fl_backend *be;
    const fl_tensor *out, *q;
    const fl_kv_layer *kv;
    const fl_batch *b;
    const int32_t *pos, *row_start;
    float factor;  /* of q.k before the softmax */
    int64_t ratio; /* query heads to a kv head */
    int64_t n_items, k_groups, e_tiles;
    fl_dtype x_dtype;
    int64_t first_chunk, n_chunks; /* of this round, when chunks are computed side by side */
    atomic_llong next;
} attend_job;

typedef struct item {
    int64_t seq, g, first, n; /* vectors first .. first+n-1 of the sequence: row*ratio + head */
} item;

int cpu_attend_open(fl_backend *be, fl_err *err) {
    size_t members = (size_t)fl_team_size(be->team);
    be->scratch = fl_alloc_aligned(members * sizeof(*be->scratch), 64);
    be->block_start = fl_alloc_array((size_t)be->max_rows + 1, sizeof(int64_t));
    /* At most 2*members - 1 items side by side: their totals and at least four chunks each. */
    be->partial_bytes = (int64_t)(sizeof(partial) * CPU_VECS * (members * 10 + 200));
    be->partial = fl_map_pages((size_t)be->partial_bytes);
    if (!be->scratch || !be->block_start || !be->partial)
        return fl_fail(err, FL_E_NOMEM, "attention workspace for %zu threads", members);
    return FL_OK;
}

void cpu_attend_close(fl_backend *be) {
    fl_free_aligned(be->scratch);
    fl_free(be->block_start);
    fl_unmap_pages(be->partial, (size_t)be->partial_bytes);
}

static item find_item(const attend_job *j, int64_t index) {
    const int64_t *start = j->be->block_start;
    int64_t block = index / j->kv->shape.heads, lo = 0, hi = j->b->n_seqs;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (start[mid] <= block)
            lo = mid;
        else
            hi = mid;
    }
    item it = {.seq = lo, .g = index % j->kv->shape.heads, .first = (block - start[lo]) * CPU_VECS};
    int64_t all = (j->row_start[lo + 1] - j->row_start[lo]) * j->ratio;
    it.n = fl_min_i64(CPU_VECS, all - it.first);
    return it;
}

static int64_t vec_row(const attend_job *j, const item *it, int64_t i) {
    return j->row_start[it->seq] + (it->first + i) / j->ratio;
}

static int64_t vec_head(const attend_job *j, const item *it, int64_t i) {
    return it->g * j->ratio + (it->first + i) % j->ratio;
}

static int64_t last_chunk(const attend_job *j, const item *it) {
    return j->pos[vec_row(j, it, it->n - 1)] / CPU_CHUNK;
}

/* How many of the chunk's positions vector i attends to; 0: the chunk is in its future. */
static int64_t visible(const attend_job *j, const item *it, int64_t i, int64_t chunk) {
    int64_t n = j->pos[vec_row(j, it, i)] + 1 - chunk * CPU_CHUNK;
    return fl_max_i64(fl_min_i64(n, CPU_CHUNK), 0);
}

static void load_queries(const attend_job *j, const item *it, struct cpu_attend_scratch *s) {
    int64_t n = j->kv->shape.head_dim, ld = j->k_groups * CPU_GROUP;
    memset(s->query, 0, (size_t)(it->n * ld * fl_dtype_bytes(j->x_dtype)));
    for (int64_t i = 0; i < it->n; i++) {
        const uint8_t *q = cpu_row(j->q, vec_row(j, it, i));
        q += vec_head(j, it, i) * n * fl_dtype_bytes(j->q->dtype);
        if (j->x_dtype == FL_DTYPE_BF16)
            j->be->isa->to_bf16((uint16_t *)s->query + i * ld, q, j->q->dtype, n);
        else
            j->be->isa->to_f32(s->query + i * ld, q, j->q->dtype, n);
    }
}

/* Scores of vectors [v0, n) against the first `len` positions of the chunk; block[] gets the
 * value block of each 16 of them. */
static void score_chunk(const attend_job *j, const item *it, struct cpu_attend_scratch *s,
                        int64_t v0, int64_t chunk, const uint8_t **block) {
    const fl_kv_layer *kv = j->kv;
    const int32_t *pages = (const int32_t *)j->b->pages.data + it->seq * j->b->pages.stride;
    const int64_t per_page = kv->shape.page_tokens / CPU_TILE, ld = j->k_groups * CPU_GROUP;
    const int64_t n_tiles = fl_div_up(visible(j, it, it->n - 1, chunk), CPU_TILE);
    for (int64_t i = 0; i < n_tiles;) {
        int64_t tile = chunk * CPU_CHUNK_TILES + i, page = pages[tile / per_page];
        int64_t run = fl_min_i64(per_page - tile % per_page, n_tiles - i);
        cpu_dot d = {.w = cpu_kv_keys(kv, page, it->g, tile % per_page),
                     .n_tiles = run,
                     .groups = j->k_groups,
                     .w_dtype = kv->shape.dtype,
                     .x_dtype = j->x_dtype,
                     .w_nan = true,
                     .x = (uint8_t *)s->query + v0 * ld * fl_dtype_bytes(j->x_dtype),
                     .ldx = ld,
                     .m = it->n - v0,
                     .y = s->score + v0 * CPU_CHUNK + i * CPU_TILE,
                     .ldy = CPU_CHUNK};
        j->be->isa->dot(&d);
        for (int64_t r = 0; r < run; r++)
            block[i + r] = cpu_kv_values(kv, page, it->g, tile % per_page + r);
        i += run;
    }
}

/* A group of which only `n` positions are visible.  The others may hold anything, even NaN,
 * so they are not multiplied by zero but replaced. */
static void mix_tail(const attend_job *j, const cpu_mix *all, int64_t group, int64_t n,
                     uint8_t *tail) {
    const int64_t bytes = cpu_group_bytes(all->dtype), size = fl_dtype_bytes(all->dtype);
    for (int64_t t = 0; t < all->n_tiles; t++) {
        uint8_t *dst = tail + t * 4 * bytes;
        memcpy(dst, all->block[group / 4] + (t * 4 + group % 4) * bytes, (size_t)bytes);
        for (int64_t k = n; k < CPU_GROUP; k++) {
            for (int64_t r = 0; r < CPU_TILE; r++) {
                uint8_t *at = dst + cpu_tile_offset(all->dtype, r, k);
                if (size == 2)
                    memset(at, 0, 2); /* of known sizes, or each is a call */
                else
                    *at = 0;
            }
        }
    }
    const uint8_t *block = tail;
    cpu_mix x = *all;
    x.block = &block;
    x.group_begin = 0;
    x.group_end = 1;
    x.p += group * CPU_GROUP;
    j->be->isa->mix(&x);
}

/* One chunk for vectors [v0, n) of an item; out[i] of vector i. */
static void attend_chunk(const attend_job *j, const item *it, struct cpu_attend_scratch *s,
                         int64_t chunk, partial *out) {
    const uint8_t *block[CPU_CHUNK_TILES];
    int64_t v0 = 0, acc_len = j->e_tiles * 2 * CPU_TILE;
    while (!visible(j, it, v0, chunk)) v0++;
    score_chunk(j, it, s, v0, chunk, block);
    for (int64_t i = v0; i < it->n; i++)
        out[i].sum = j->be->isa->softmax(s->score + i * CPU_CHUNK, visible(j, it, i, chunk),
                                         j->factor, &out[i].max);
    memset(s->acc, 0, (size_t)(it->n * acc_len) * sizeof(float));
    int64_t shared = visible(j, it, v0, chunk) / CPU_GROUP;
    cpu_mix x = {.block = block,
                 .group_end = shared,
                 .n_tiles = j->e_tiles,
                 .dtype = j->kv->shape.dtype,
                 .p = s->score + v0 * CPU_CHUNK,
                 .ldp = CPU_CHUNK,
                 .m = it->n - v0,
                 .acc = s->acc + v0 * acc_len};
    j->be->isa->mix(&x);
    for (int64_t i = v0; i < it->n; i++) {
        int64_t n = visible(j, it, i, chunk);
        x.m = 1;
        x.group_begin = shared;
        x.group_end = n / CPU_GROUP;
        x.p = s->score + i * CPU_CHUNK;
        x.acc = s->acc + i * acc_len;
        if (x.group_begin < x.group_end) j->be->isa->mix(&x);
        if (n % CPU_GROUP) mix_tail(j, &x, n / CPU_GROUP, n % CPU_GROUP, s->tail);
        for (int64_t t = 0; t < j->e_tiles; t++) {
            const float *acc = x.acc + t * 2 * CPU_TILE;
            float *value = out[i].value + t * CPU_TILE;
            for (int r = 0; r < CPU_TILE; r++) value[r] = acc[r] + acc[CPU_TILE + r];
        }
    }
}

/* total and then chunk, in this order, for the vectors that see the chunk. */
static void combine(const attend_job *j, const item *it, int64_t chunk, partial *total,
                    const partial *part) {
    for (int64_t i = 0; i < it->n; i++) {
        if (!visible(j, it, i, chunk)) continue;
        partial *t = &total[i];
        const partial *p = &part[i];
        if (chunk == 0) {
            t->max = p->max;
            t->sum = p->sum;
            memcpy(t->value, p->value, (size_t)(j->e_tiles * CPU_TILE) * sizeof(float));
            continue;
        }
        float max = p->max > t->max ? p->max : t->max;
        float a = expf(t->max - max), b = expf(p->max - max);
        t->max = max;
        t->sum = t->sum * a + p->sum * b;
        for (int64_t e = 0; e < j->e_tiles * CPU_TILE; e++)
            t->value[e] = t->value[e] * a + p->value[e] * b;
    }
}

static void write_item(const attend_job *j, const item *it, partial *total) {
    int64_t n = j->kv->shape.head_dim;
    for (int64_t i = 0; i < it->n; i++) {
        float f = j->kv->v_scale / total[i].sum;
        for (int64_t e = 0; e < n; e++) total[i].value[e] *= f;
        uint8_t *out = cpu_row(j->out, vec_row(j, it, i));
        out += vec_head(j, it, i) * n * fl_dtype_bytes(j->out->dtype);
        j->be->isa->from_f32(out, j->out->dtype, total[i].value, n);
    }
}

/* Whole items, the longest (last) first. */
static void item_member(void *arg, int member, int members) {
    (void)members;
    attend_job *j = arg;
    struct cpu_attend_scratch *s = &j->be->scratch[member];
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (i >= j->n_items) return;
        item it = find_item(j, j->n_items - 1 - i);
        load_queries(j, &it, s);
        for (int64_t c = 0; c <= last_chunk(j, &it); c++) {
            attend_chunk(j, &it, s, c, s->chunk);
            combine(j, &it, c, s->total, s->chunk);
        }
        write_item(j, &it, s->total);
    }
}

static partial *side_total(const attend_job *j, int64_t item_index) {
    return (partial *)j->be->partial + item_index * CPU_VECS;
}

static partial *side_chunk(const attend_job *j, int64_t item_index, int64_t i) {
    return side_total(j, j->n_items + item_index * j->n_chunks + i);
}

static void side_member(void *arg, int member, int members) {
    (void)members;
    attend_job *j = arg;
    struct cpu_attend_scratch *s = &j->be->scratch[member];
    for (;;) {
        int64_t u = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (u >= j->n_items * j->n_chunks) return;
        int64_t index = u / j->n_chunks, i = u % j->n_chunks, chunk = j->first_chunk + i;
        item it = find_item(j, index);
        if (chunk > last_chunk(j, &it)) continue;
        load_queries(j, &it, s);
        attend_chunk(j, &it, s, chunk, side_chunk(j, index, i));
    }
}

static void combine_member(void *arg, int member, int members) {
    attend_job *j = arg;
    for (int64_t index = member; index < j->n_items; index += members) {
        item it = find_item(j, index);
        int64_t last = last_chunk(j, &it), end = j->first_chunk + j->n_chunks;
        for (int64_t c = j->first_chunk; c < end && c <= last; c++)
            combine(j, &it, c, side_total(j, index), side_chunk(j, index, c - j->first_chunk));
        if (last >= j->first_chunk && last < end) write_item(j, &it, side_total(j, index));
    }
}

/* Few items and long ones (one sequence decoding): all members work on the same items. */
static void run_side_by_side(attend_job *j, int64_t n_chunks) {
    int64_t room = j->be->partial_bytes / (int64_t)(sizeof(partial) * CPU_VECS);
    j->n_chunks = fl_min_i64((room - j->n_items) / j->n_items, n_chunks);
    for (; j->first_chunk < n_chunks; j->first_chunk += j->n_chunks) {
        atomic_store(&j->next, 0);
        fl_team_run(j->be->team, side_member, j);
        fl_team_run(j->be->team, combine_member, j);
    }
}

static int check(const attend_job *j, fl_err *err) {
    const fl_kv_shape *s = &j->kv->shape;
    const fl_batch *b = j->b;
    int rc = cpu_check_rows(j->be, "attend", b->n_rows, err);
    if (rc || (rc = fl_check_attend(j->out, j->q, j->kv, b, err))) return rc;
    if (b->n_seqs < 1 || b->n_seqs > b->n_rows || j->row_start[0] != 0 ||
        j->row_start[b->n_seqs] != b->n_rows)
        return fl_fail(err, FL_E_ARG, "attend: %lld sequences in %lld rows", (long long)b->n_seqs,
                       (long long)b->n_rows);
    for (int64_t i = 0; i < b->n_seqs; i++) {
        if (j->row_start[i] >= j->row_start[i + 1])
            return fl_fail(err, FL_E_ARG, "attend: sequence %lld has no rows", (long long)i);
        for (int64_t t = j->row_start[i]; t < j->row_start[i + 1]; t++) {
            if (j->pos[t] < 0 || j->pos[t] / s->page_tokens >= b->max_pages ||
                (t > j->row_start[i] && j->pos[t] <= j->pos[t - 1]))
                return fl_fail(err, FL_E_ARG, "attend: row %lld at position %d, %lld pages of %lld",
                               (long long)t, j->pos[t], (long long)b->max_pages,
                               (long long)s->page_tokens);
        }
    }
    return FL_OK;
}

int cpu_attend(fl_backend *be, fl_act *out, const fl_tensor *q, const fl_kv_layer *kv,
               const fl_batch *b, float scale, const fl_linear *next, fl_err *err) {
    attend_job j = {.be = be,
                    .out = &out->x,
                    .q = q,
                    .kv = kv,
                    .b = b,
                    .pos = b->pos.data,
                    .row_start = b->row_start.data,
                    .factor = scale * kv->k_scale,
                    .x_dtype = FL_DTYPE_F32};
    int rc = check(&j, err);
    if (rc) return rc;
    j.ratio = q->dim[1] / kv->shape.heads;
    j.k_groups = fl_div_up(kv->shape.head_dim, CPU_GROUP);
    j.e_tiles = fl_div_up(kv->shape.head_dim, CPU_TILE);
    if (be->isa->bf16_dot && q->dtype == FL_DTYPE_BF16 && kv->shape.dtype != FL_DTYPE_F16)
        j.x_dtype = FL_DTYPE_BF16;
    int64_t blocks = 0, last = 0;
    for (int64_t i = 0; i < b->n_seqs; i++) {
        int64_t rows = j.row_start[i + 1] - j.row_start[i];
        be->block_start[i] = blocks;
        blocks += fl_div_up(rows * j.ratio, CPU_VECS);
        last = fl_max_i64(last, j.pos[j.row_start[i + 1] - 1]);
    }
    be->block_start[b->n_seqs] = blocks;
    j.n_items = blocks * kv->shape.heads;
    atomic_init(&j.next, 0);
    int members = fl_team_size(be->team);
    if (members > 1 && j.n_items < 2 * members && last >= CPU_CHUNK)
        run_side_by_side(&j, last / CPU_CHUNK + 1);
    else
        fl_team_run(be->team, item_member, &j);
    return next ? cpu_quant(be, out, next, err) : FL_OK;
}
