/* rope_store and attend on every instruction set of this machine: against ref_backend.c, and
 * bit-identical however the rows of a sequence are split over steps, batches and threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref_backend.h"
#include "tap.h"
#include "util/mem.h"
#include "util/num.h"

static const fl_backend_ops *ops;
static const char *isa;

typedef struct attend_case {
    int64_t heads, kv_heads, head_dim, page_tokens, length; /* of the sequence under test */
    fl_dtype act, cache;
} attend_case;

#define BF16 FL_DTYPE_BF16
#define F16  FL_DTYPE_F16
#define E4M3 FL_DTYPE_E4M3

static const attend_case cases[] = {
    {1, 1, 2, 16, 1, BF16, BF16},     {2, 1, 8, 16, 19, BF16, BF16},
    {3, 1, 20, 32, 50, F16, F16},     {6, 2, 24, 48, 70, BF16, E4M3},
    {7, 1, 80, 16, 45, BF16, BF16},   {4, 4, 16, 64, 260, F16, E4M3},
    {9, 3, 64, 256, 300, BF16, BF16}, {5, 5, 64, 16, 290, BF16, E4M3},
    {40, 1, 32, 64, 33, BF16, BF16},  {4, 2, 128, 512, 530, F16, F16},
    {2, 1, 256, 16, 40, BF16, BF16},  {16, 1, 128, 64, 41, BF16, E4M3},
    {16, 2, 96, 16, 70, F16, E4M3},   {2, 2, 200, 32, 35, F16, F16},
    {3, 1, 256, 48, 50, BF16, E4M3},  {3, 1, 160, 16, 50, F16, E4M3},
    {8, 1, 128, 16, 75, BF16, BF16},
};

enum { MAX_POS = 2048, MAX_ROWS = 128, SEQ_PAGES = MAX_POS / 16 };

/* One test world: a sequence of known q, k, v, and a cache that may hold others as well. */
typedef struct world {
    const attend_case *c;
    fl_backend *be;
    fl_kv_layer kv;
    fl_tensor q, k, v; /* whole sequence, [length, heads, head_dim], act dtype */
    float *cos_sin;
    int32_t pages[2][SEQ_PAGES];
    fl_tensor out;         /* whole sequence */
    const fl_linear *next; /* of attend */
    int64_t misquantized;  /* codes and scales that are not those of the op quant */
} world;

static fl_tensor tensor3(fl_dtype t, int64_t a, int64_t b, int64_t c) {
    fl_tensor x = ref_tensor(t, a, b * c);
    return fl_tensor_3d(x.data, t, a, b, c);
}

static fl_tensor rows_of(const fl_tensor *t, int64_t first, int64_t n) {
    fl_tensor part = *t;
    part.data = (uint8_t *)t->data + first * t->stride * fl_dtype_bytes(t->dtype);
    part.dim[0] = n;
    return part;
}

static fl_act act_of(const fl_tensor *x, int64_t rows) {
    const int64_t width = fl_tensor_row_len(x);
    fl_act a = {fl_tensor_2d(x->data, x->dtype, rows, width), ref_tensor(E4M3, rows, width),
                ref_tensor(FL_DTYPE_F32, rows, fl_act_groups(width))};
    return a;
}

/* Codes and scales of `a`, whose x is given, that differ from those that quant gives. */
static int64_t differences(world *w, const fl_act *a) {
    const int64_t rows = a->x.dim[0], width = a->x.dim[1];
    const int64_t scales = w->next->act == FL_ACT_GROUP ? rows * a->q_scale.dim[1] : rows;
    fl_act again = act_of(&a->x, rows);
    int64_t bad = !!ops->quant(w->be, &again, w->next, NULL);
    bad += !!memcmp(again.q.data, a->q.data, (size_t)(rows * width));
    bad += !!memcmp(again.q_scale.data, a->q_scale.data, (size_t)scales * sizeof(float));
    free(again.q.data);
    free(again.q_scale.data);
    return bad;
}

static world make_world(const attend_case *c, int threads, bool identity) {
    world w = {.c = c};
    fl_err err;
    fl_backend_params p = {.threads = threads, .max_rows = MAX_ROWS, .isa = isa};
    if (ops->open(&w.be, &p, &err)) check(false, "opens: %s", err.msg);
    w.kv.shape = (fl_kv_shape){c->kv_heads, c->head_dim, c->page_tokens, c->cache};
    w.kv.k_scale = c->cache == E4M3 ? 0.0125f : 1.0f;
    w.kv.v_scale = c->cache == E4M3 ? 0.02f : 1.0f;
    int64_t used = fl_div_up(c->length, c->page_tokens), n_pages = 2 * used;
    uint64_t bytes = ops->kv_page_bytes(w.be, &w.kv.shape) * (uint64_t)n_pages;
    ops->mem_new(w.be, &w.kv.data, bytes, NULL);
    /* What earlier owners of a page left behind, NaN included, must not matter. */
    memset(w.kv.data, 0xff, bytes);
    for (int64_t i = 0; i < used; i++) {
        w.pages[0][i] = (int32_t)(n_pages - 1 - 2 * i);
        w.pages[1][i] = (int32_t)(2 * i);
    }
    w.q = tensor3(c->act, c->length, c->heads, c->head_dim);
    w.k = tensor3(c->act, c->length, c->kv_heads, c->head_dim);
    w.v = tensor3(c->act, c->length, c->kv_heads, c->head_dim);
    w.out = tensor3(c->act, c->length, c->heads, c->head_dim);
    ref_fill(w.q.data, c->act, c->length * c->heads * c->head_dim, 1.0, 1);
    ref_fill(w.k.data, c->act, c->length * c->kv_heads * c->head_dim, 1.0, 2);
    ref_fill(w.v.data, c->act, c->length * c->kv_heads * c->head_dim, 1.0, 3);
    w.cos_sin = ref_alloc((size_t)(c->length * c->head_dim) * sizeof(float));
    for (int64_t i = 0; i < c->length * c->head_dim / 2; i++) {
        int64_t pos = i / (c->head_dim / 2), j = i % (c->head_dim / 2);
        double a = (double)pos * pow(10000.0, -2.0 * (double)j / (double)c->head_dim);
        float *row = w.cos_sin + pos * c->head_dim;
        row[j] = identity ? 1.0f : (float)cos(a);
        row[c->head_dim / 2 + j] = identity ? 0.0f : (float)sin(a);
    }
    return w;
}

static void free_world(world *w) {
    ops->mem_free(w->be, w->kv.data);
    ops->close(w->be);
    free(w->q.data);
    free(w->k.data);
    free(w->v.data);
    free(w->out.data);
    free(w->cos_sin);
}

/* One step: rows [first, first+n) of the sequence, beside row `other` of a copy of it when
 * other >= 0.  A copy is a second sequence on pages of its own. */
static int step(world *w, int64_t first, int64_t n, int64_t other, fl_err *err) {
    int32_t pos[MAX_ROWS + 1], slot[MAX_ROWS + 1], start[3] = {0};
    int64_t P = w->c->page_tokens, t = 0, S = other >= 0 ? 2 : 1;
    int32_t *table = ref_alloc(2 * SEQ_PAGES * sizeof(int32_t));
    fl_tensor q = tensor3(w->c->act, n + 1, w->c->heads, w->c->head_dim), out = q;
    fl_tensor k = tensor3(w->c->act, n + 1, w->c->kv_heads, w->c->head_dim), v = k;
    v.data = ref_alloc((size_t)((n + 1) * v.stride * 2));
    out.data = ref_alloc((size_t)((n + 1) * out.stride * 2));
    for (int64_t s = 0; s < S; s++) {
        /* The other sequence comes first in the batch. */
        bool main_one = s == S - 1;
        memcpy(table + s * SEQ_PAGES, w->pages[!main_one], sizeof(w->pages[0]));
        for (int64_t i = 0; i < (main_one ? n : 1); i++, t++) {
            int64_t p = main_one ? first + i : other;
            pos[t] = (int32_t)p;
            slot[t] = (int32_t)(w->pages[!main_one][p / P] * P + p % P);
            memcpy(rows_of(&q, t, 1).data, rows_of(&w->q, p, 1).data, (size_t)q.stride * 2);
            memcpy(rows_of(&k, t, 1).data, rows_of(&w->k, p, 1).data, (size_t)k.stride * 2);
            memcpy(rows_of(&v, t, 1).data, rows_of(&w->v, p, 1).data, (size_t)v.stride * 2);
        }
        start[s + 1] = (int32_t)t;
    }
    fl_batch b = {.n_rows = t,
                  .n_seqs = S,
                  .max_pages = SEQ_PAGES,
                  .pos = fl_tensor_1d(pos, FL_DTYPE_I32, t),
                  .slot = fl_tensor_1d(slot, FL_DTYPE_I32, t),
                  .row_start = fl_tensor_1d(start, FL_DTYPE_I32, S + 1),
                  .pages = fl_tensor_2d(table, FL_DTYPE_I32, S, SEQ_PAGES)};
    fl_rope r = {.q = rows_of(&q, 0, t),
                 .k = k,
                 .v = v,
                 .cos_sin = fl_tensor_2d(w->cos_sin, FL_DTYPE_F32, w->c->length, w->c->head_dim)};
    int rc = ops->rope_store(w->be, &r, &w->kv, &b, err);
    float scale = (float)(1.0 / sqrt((double)w->c->head_dim));
    fl_act result = act_of(&out, t);
    if (!rc) rc = ops->attend(w->be, &result, &r.q, &w->kv, &b, scale, w->next, err);
    if (!rc && w->next) w->misquantized += differences(w, &result);
    free(result.q.data);
    free(result.q_scale.data);
    memcpy(rows_of(&w->out, first, n).data, rows_of(&out, t - n, n).data,
           (size_t)(n * out.stride) * 2);
    free(q.data);
    free(k.data);
    free(v.data);
    free(out.data);
    free(table);
    return rc;
}

/* What the cache holds for x: rounded, or quantized with one f32 division. */
static double cached(double x, fl_dtype cache, float scale) {
    if (cache != E4M3) return ref_round(cache, x);
    return ref_e4m3_value(ref_e4m3((double)((float)x / scale))) * (double)scale;
}

static int64_t attend_errors(const world *w, bool identity) {
    const attend_case *c = w->c;
    int64_t E = c->head_dim, ratio = c->heads / c->kv_heads, stride = c->kv_heads * E, bad = 0;
    size_t bytes = (size_t)(c->length * stride) * sizeof(double);
    double *k = ref_alloc(bytes), *v = ref_alloc(bytes), q[256], out[256], mag[256];
    for (int64_t i = 0; i < c->length * stride; i++) {
        k[i] = ref_get(w->k.data, c->act, i);
        v[i] = cached(ref_get(w->v.data, c->act, i), c->cache, w->kv.v_scale);
    }
    for (int64_t i = 0; i < c->length * c->kv_heads; i++)
        ref_rotate(k + i * E, E, w->cos_sin + i / c->kv_heads * E);
    for (int64_t i = 0; i < c->length * stride; i++)
        k[i] = cached(ref_round(c->act, k[i]), c->cache, w->kv.k_scale);
    int64_t hop = c->length > 100 ? 37 : 3;
    /* A GPU rounds weights to the act dtype for its tensor cores, and sums them as rounded. */
    double rounding = ref_is_cpu(ops) ? 0.0 : 2.0 * ref_unit(c->act);
    for (int64_t t = c->length - 1; t >= 0; t -= hop) {
        for (int64_t h = 0; h < c->heads; h++) {
            for (int64_t e = 0; e < E; e++)
                q[e] = ref_get(w->q.data, c->act, (t * c->heads + h) * E + e);
            ref_rotate(q, E, w->cos_sin + t * E);
            for (int64_t e = 0; e < E; e++) q[e] = ref_round(c->act, q[e]);
            double score = ref_attend(out, mag, q, k + h / ratio * E, v + h / ratio * E, t + 1,
                                      stride, E, 1.0 / sqrt((double)E));
            for (int64_t e = 0; e < E; e++) {
                /* Rounding of scores and weights; with angles, of a key near a tie as well. */
                double slack = mag[e] * (score * (double)(E + 8) * 0x1p-23 + 0x1p-19 + rounding);
                if (!identity) slack += mag[e] * 0.05;
                double got = ref_get(w->out.data, c->act, (t * c->heads + h) * E + e);
                bad += !ref_close(c->act, got, out[e], slack);
            }
        }
    }
    free(k);
    free(v);
    return bad;
}

static void test_attend(const attend_case *c, bool identity) {
    world w = make_world(c, 2, identity);
    fl_err err = {0};
    int rc = 0;
    for (int64_t i = 0; i < c->length && !rc; i += 40)
        rc = step(&w, i, fl_min_i64(40, c->length - i), -1, &err);
    int64_t bad = rc ? -1 : attend_errors(&w, identity);
    check(!bad, "%s: attend H=%lld G=%lld E=%lld P=%lld n=%lld %s cache %s%s: %lld off %s", isa,
          (long long)c->heads, (long long)c->kv_heads, (long long)c->head_dim,
          (long long)c->page_tokens, (long long)c->length, fl_dtype_name(c->act),
          fl_dtype_name(c->cache), identity ? "" : ", turned", (long long)bad, err.msg);
    free_world(&w);
}

/* The same sequence prefilled in chunks of different sizes, decoded row by row, alone and
 * beside another sequence, on 1 to 3 threads: always the same bits. */
static void test_splits(const attend_case *c) {
    static const struct {
        int threads;
        int64_t chunk;
        bool company;
    } ways[] = {{1, 128, false}, {2, 37, false}, {3, 1, false}, {2, 5, true}, {3, 128, true}};
    void *first = NULL;
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        world w = make_world(c, ways[i].threads, false);
        int rc = 0;
        int64_t most = ways[i].company ? ways[i].chunk - 1 : ways[i].chunk;
        for (int64_t t = 0, n; t < c->length && !rc; t += n) {
            n = fl_min_i64(most, c->length - t);
            rc = step(&w, t, n, ways[i].company ? t / 2 : -1, NULL);
        }
        bytes = (size_t)(c->length * w.out.stride) * 2;
        if (!first) {
            first = ref_alloc(bytes);
            memcpy(first, w.out.data, bytes);
        }
        check(!rc && !memcmp(first, w.out.data, bytes),
              "%s: E=%lld n=%lld cache %s in steps of %lld%s on %d threads: same bits", isa,
              (long long)c->head_dim, (long long)c->length, fl_dtype_name(c->cache),
              (long long)most, ways[i].company ? " with company" : "", ways[i].threads);
        free_world(&w);
    }
    free(first);
}

/* What the next linear wants is there, in few rows and in all at once. */
static void test_quantized(const attend_case *c, fl_act_scheme act) {
    const int64_t width = c->heads * c->head_dim;
    fl_linear next = {.n = 8, .k = width, .dtype = E4M3, .act = act, .x_scale = 0.01f};
    for (int64_t chunk = 7; chunk <= c->length; chunk += c->length - 7) {
        world w = make_world(c, 2, false);
        fl_err err = {0};
        int rc = 0;
        w.next = &next;
        for (int64_t t = 0; t < c->length && !rc; t += chunk)
            rc = step(&w, t, fl_min_i64(chunk, c->length - t), -1, &err);
        check(!rc && !w.misquantized,
              "%s: attend quantizes %lld heads of %lld as quant does, scheme %d, %lld rows: "
              "%lld steps differ %s",
              isa, (long long)c->heads, (long long)c->head_dim, (int)act, (long long)chunk,
              (long long)w.misquantized, err.msg);
        free_world(&w);
    }
}

/* Rows of a head where values of position `at` are not finite, by kv head 0 and dim 1: wrong ones. */
static int64_t spoilt_rows(const world *w, const void *whole, int64_t at) {
    const int64_t H = w->c->heads, E = w->c->head_dim, bytes = E * 2;
    int64_t bad = 0;
    for (int64_t i = 0; i < w->c->length * H; i++) {
        const uint8_t *row = (const uint8_t *)w->out.data + i * bytes;
        if (i / H < at || i % H >= H / w->c->kv_heads)
            bad += !!memcmp(row, (const uint8_t *)whole + i * bytes, (size_t)bytes);
        else
            bad += isfinite(ref_get(row, w->c->act, 1));
    }
    return bad;
}

/* A value that is no finite number shows in the rows that look at it, and in no row before them,
 * though they are computed side by side. */
static void test_spoilt(const attend_case *c, int64_t at, double value) {
    world whole = make_world(c, 2, false), w = make_world(c, 2, false);
    fl_err err = {0};
    int rc = 0;
    ref_set(w.v.data, c->act, at * c->kv_heads * c->head_dim + 1, value);
    for (int64_t t = 0; t < c->length && !rc; t += 45) {
        rc = step(&whole, t, fl_min_i64(45, c->length - t), -1, &err);
        if (!rc) rc = step(&w, t, fl_min_i64(45, c->length - t), -1, &err);
    }
    int64_t bad = rc ? -1 : spoilt_rows(&w, whole.out.data, at);
    check(!bad, "%s: %g among the values of position %lld, E=%lld, cache %s: %lld rows wrong %s",
          isa, value, (long long)at, (long long)c->head_dim, fl_dtype_name(c->cache),
          (long long)bad, err.msg);
    free_world(&whole);
    free_world(&w);
}

/* rope_store turns q and rounds once; it is the q that the caller sees. */
static void test_rotation(fl_dtype act) {
    attend_case c = {3, 1, 20, 16, 9, act, act};
    world w = make_world(&c, 1, false);
    fl_tensor q = tensor3(act, c.length, 3, 20);
    int32_t pos[9], start[2] = {0, 9};
    memcpy(q.data, w.q.data, (size_t)(9 * 60) * 2);
    for (int i = 0; i < 9; i++) pos[i] = i;
    fl_tensor at = fl_tensor_1d(pos, FL_DTYPE_I32, 9);
    fl_batch b = {.n_rows = 9, .n_seqs = 1, .max_pages = 1, .pos = at, .slot = at};
    b.row_start = fl_tensor_1d(start, FL_DTYPE_I32, 2);
    fl_rope r = {
        .q = q, .k = w.k, .v = w.v, .cos_sin = fl_tensor_2d(w.cos_sin, FL_DTYPE_F32, 9, 20)};
    int bad = !!ops->rope_store(w.be, &r, &w.kv, &b, NULL);
    for (int64_t i = 0; i < 27; i++) {
        double x[20], size = 0.0;
        for (int e = 0; e < 20; e++) x[e] = ref_get(w.q.data, act, i * 20 + e);
        for (int e = 0; e < 20; e++) size = fmax(size, fabs(x[e]));
        ref_rotate(x, 20, w.cos_sin + i / 3 * 20);
        for (int e = 0; e < 20; e++)
            bad += !ref_close(act, ref_get(q.data, act, i * 20 + e), x[e], size * 0x1p-22);
    }
    check(!bad, "%s: rotation of %s rounds once (%d off)", isa, fl_dtype_name(act), bad);
    free(q.data);
    free_world(&w);
}

/* The last row of a context of 131072 tokens: alone on one thread, and with all the threads
 * on its chunks; and against the reference. */
static void test_long_context(void) {
    enum { MOST = 131072, E = 16, P = 256, STEP = 1024 };
    /* Emulating a GPU takes a thousand times as long; it has no threads to differ. */
    const int64_t N = ref_is_cpu(ops) ? MOST : 16384;
    const int most_threads = ref_is_cpu(ops) ? 3 : 1;
    static uint16_t *k, *v, q[E]; /* the same for all instruction sets */
    static double want[E], mag[E];
    uint16_t out[3][E];
    int32_t pos[STEP], pages[MOST / P], start[2] = {0, STEP};
    float angle[E] = {1, 1, 1, 1, 1, 1, 1, 1};
    if (!k) {
        double *kd = ref_alloc((size_t)(N * E) * 8), *vd = ref_alloc((size_t)(N * E) * 8), qd[E];
        k = ref_alloc((size_t)(N * E) * 2);
        v = ref_alloc((size_t)(N * E) * 2);
        ref_fill(k, BF16, N * E, 2.0, 11);
        ref_fill(v, BF16, N * E, 1.0, 12);
        ref_fill(q, BF16, E, 2.0, 13);
        for (int64_t i = 0; i < N * E; i++) kd[i] = ref_get(k, BF16, i);
        for (int64_t i = 0; i < N * E; i++) vd[i] = ref_get(v, BF16, i);
        for (int e = 0; e < E; e++) qd[e] = ref_get(q, BF16, e);
        ref_attend(want, mag, qd, kd, vd, N, E, E, 0.25);
        free(kd);
        free(vd);
    }
    for (int i = 0; i < N / P; i++) pages[i] = (int32_t)(N / P) - 1 - i;
    fl_batch b = {.n_seqs = 1, .max_pages = N / P};
    b.row_start = fl_tensor_1d(start, FL_DTYPE_I32, 2);
    b.pages = fl_tensor_2d(pages, FL_DTYPE_I32, 1, N / P);
    for (int threads = 1; threads <= most_threads; threads++) {
        fl_backend *be = NULL;
        fl_backend_params p = {.threads = threads, .max_rows = STEP, .isa = isa};
        fl_kv_layer kv = {.shape = {1, E, P, BF16}, .k_scale = 1.0f, .v_scale = 1.0f};
        ops->open(&be, &p, NULL);
        ops->mem_new(be, &kv.data, ops->kv_page_bytes(be, &kv.shape) * (uint64_t)(N / P), NULL);
        for (int64_t t = 0; t < N; t += STEP) {
            int32_t slot[STEP], none[STEP] = {0};
            for (int32_t i = 0; i < STEP; i++)
                slot[i] = pages[(t + i) / P] * P + (int32_t)((t + i) % P);
            fl_tensor kt = fl_tensor_3d(k + t * E, BF16, STEP, 1, E), vt = kt, qt = kt;
            vt.data = v + t * E;
            qt.dim[1] = 0;
            fl_rope r = {
                .q = qt, .k = kt, .v = vt, .cos_sin = fl_tensor_2d(angle, FL_DTYPE_F32, 1, E)};
            b.n_rows = start[1] = STEP;
            b.pos = fl_tensor_1d(none, FL_DTYPE_I32, STEP); /* not turned */
            b.slot = fl_tensor_1d(slot, FL_DTYPE_I32, STEP);
            ops->rope_store(be, &r, &kv, &b, NULL);
        }
        pos[0] = (int32_t)(N - 1);
        b.n_rows = start[1] = 1;
        b.pos = fl_tensor_1d(pos, FL_DTYPE_I32, 1);
        fl_tensor qt = fl_tensor_3d(q, BF16, 1, 1, E), ot = qt;
        ot.data = out[threads - 1];
        fl_act result = {.x = fl_tensor_2d(ot.data, BF16, 1, E)};
        ops->attend(be, &result, &qt, &kv, &b, 0.25f, NULL, NULL);
        ops->mem_free(be, kv.data);
        ops->close(be);
    }
    double room = ref_is_cpu(ops) ? 0x1p-15 : 0x1p-12; /* rounded weights, of many positions */
    int bad = 0;
    for (int e = 0; e < E; e++)
        bad += !ref_close(BF16, ref_get(out[0], BF16, e), want[e], mag[e] * room);
    check(!bad, "%s: %lld positions agree with the reference (%d off)", isa, (long long)N, bad);
    if (most_threads < 3) return;
    check(!memcmp(out[0], out[1], sizeof(q)) && !memcmp(out[0], out[2], sizeof(q)),
          "%s: 131072 positions give the same bits on 1, 2 and 3 threads", isa);
}

static int64_t allocations;
static bool count_allocation(void *ctx, size_t bytes) {
    (void)ctx;
    (void)bytes;
    allocations++;
    return true;
}

static void test_refusals(void) {
    attend_case c = {2, 1, 16, 16, 20, BF16, BF16};
    world w = make_world(&c, 2, true);
    fl_err err;
    int64_t before = fl_mem_live();
    fl_mem_set_hook(count_allocation, NULL);
    step(&w, 0, 20, -1, &err);
    fl_mem_set_hook(NULL, NULL);
    check(allocations == 0 && fl_mem_live() == before, "%s: a step allocates nothing", isa);
    w.kv.shape.page_tokens = 24;
    check(step(&w, 0, 1, -1, &err) == FL_E_ARG && strstr(err.msg, "24"), "%s: %s", isa, err.msg);
    w.kv.shape.page_tokens = 16;
    w.kv.shape.head_dim = 18;
    check(step(&w, 0, 1, -1, &err) == FL_E_ARG && strstr(err.msg, "18"), "%s: %s", isa, err.msg);
    w.kv.shape.dtype = F16;
    check(step(&w, 0, 1, -1, &err) == FL_E_UNSUPPORTED, "%s: %s", isa, err.msg);
    w.kv.shape.dtype = BF16;
    w.kv.shape.head_dim = 514;
    check(step(&w, 0, 1, -1, &err) == FL_E_UNSUPPORTED, "%s: %s", isa, err.msg);
    attend_case shorter = c;
    shorter.length = 10;
    w.c = &shorter;
    w.kv.shape.head_dim = 16;
    check(step(&w, 12, 1, -1, &err) == FL_E_ARG && strstr(err.msg, "12"), "%s: %s", isa, err.msg);
    free_world(&w);
}

int main(int argc, char **argv) {
    static const attend_case split_cases[] = {
        {3, 1, 20, 48, 550, BF16, BF16},   {4, 2, 16, 16, 300, BF16, E4M3},
        {2, 2, 24, 32, 300, F16, F16},     {8, 8, 8, 16, 300, BF16, BF16},
        {16, 1, 128, 64, 280, BF16, E4M3}, {3, 1, 256, 16, 270, F16, F16},
    };
    static const attend_case quantized[] = {
        {3, 1, 20, 48, 9, BF16, BF16},
        {9, 3, 64, 16, 9, F16, F16},
        {2, 1, 128, 16, 8, BF16, E4M3},
        {65, 65, 8, 16, 16, BF16, BF16}, /* 16 rows fill a GPU without splits */
    };
    static const struct {
        attend_case c;
        int64_t at;
    } spoilt[] = {
        {{6, 2, 24, 16, 42, BF16, BF16}, 17},   {{3, 1, 20, 48, 30, BF16, E4M3}, 7},
        {{16, 1, 128, 16, 40, F16, E4M3}, 33},  {{3, 1, 160, 16, 25, F16, F16}, 19},
        {{2, 1, 16, 64, 290, BF16, BF16}, 262}, /* rows before it end in the split before */
    };
    ops = ref_ops(argc, argv);
    for (isa = NULL; ref_next_isa(ops, &isa);) {
        allocations = 0;
        for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) test_attend(&cases[n], true);
        test_attend(&cases[6], false);
        for (size_t n = 0; n < sizeof(split_cases) / sizeof(split_cases[0]); n++)
            test_splits(&split_cases[n]);
        for (size_t n = 0; n < sizeof(quantized) / sizeof(quantized[0]); n++)
            for (int act = FL_ACT_NONE; act <= FL_ACT_GROUP; act++)
                test_quantized(&quantized[n], (fl_act_scheme)act);
        for (size_t n = 0; n < sizeof(spoilt) / sizeof(spoilt[0]); n++) {
            test_spoilt(&spoilt[n].c, spoilt[n].at, (double)NAN);
            if (spoilt[n].c.cache != E4M3) test_spoilt(&spoilt[n].c, spoilt[n].at, -INFINITY);
        }
        test_rotation(BF16);
        test_rotation(F16);
        test_long_context();
        test_refusals();
    }
    return tap_done();
}
