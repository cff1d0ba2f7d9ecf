/* A layer of a model by single ops: the same bits whether the host waits after each op, so that
 * every tensor is complete, or not, so that a backend may leave work to the op that follows; and
 * the same bits by the ops that are half a layer, where the backend has them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linear_case.h"
#include "tap.h"

static const fl_backend_ops *ops;

typedef struct layer_case {
    const char *name;
    fl_dtype act, cache, w;
    fl_act_scheme scheme;
    int64_t w_block;
    bool bias, sparse24;
    int64_t hidden, heads, kv_heads, head_dim, ffn;
} layer_case;

static const layer_case cases[] = {
    {"static", BF16, BF16, E4M3, FL_ACT_STATIC, 0, false, false, 64, 4, 2, 16, 96},
    {"static with biases", F16, E4M3, E4M3, FL_ACT_STATIC, 0, true, false, 48, 3, 1, 16, 80},
    {"token", BF16, E4M3, E4M3, FL_ACT_TOKEN, 0, false, false, 80, 2, 1, 24, 112},
    {"token with biases", BF16, BF16, E4M3, FL_ACT_TOKEN, 0, true, false, 64, 4, 4, 16, 64},
    {"blocks", BF16, BF16, E4M3, FL_ACT_GROUP, 128, false, false, 256, 4, 2, 64, 144},
    {"groups of 2:4", F16, F16, E4M3, FL_ACT_GROUP, 0, false, true, 144, 3, 3, 48, 272},
    {"token 2:4", BF16, BF16, E4M3, FL_ACT_TOKEN, 0, true, true, 64, 4, 2, 16, 96},
    {"BF16", BF16, BF16, BF16, FL_ACT_NONE, 0, true, false, 64, 4, 2, 16, 96},
    {"F16", F16, E4M3, F16, FL_ACT_NONE, 0, false, false, 72, 3, 1, 24, 104},
    {"weights of FP8 alone", BF16, BF16, E4M3, FL_ACT_NONE, 0, false, false, 64, 4, 2, 16, 96},
    {"BF16 for F16", F16, F16, BF16, FL_ACT_NONE, 0, false, false, 64, 4, 2, 16, 96},
    {"odd", BF16, BF16, E4M3, FL_ACT_TOKEN, 0, true, false, 65, 3, 1, 10, 33},
    {"wide", F16, F16, E4M3, FL_ACT_GROUP, 128, false, false, 2184, 1, 1, 16, 40},
    {"wide token", BF16, BF16, E4M3, FL_ACT_TOKEN, 0, false, false, 40, 1, 1, 16, 2100},
};

enum {
    PAGE = 16,
    PAGES = 4,
    SEQS = 2,
    FIRST_POS = 5,
    LAYERS = 2,
    MAX_T = 40,
    FEW_ROWS = 8,
    N_NARROW = 12
};

typedef struct world {
    const layer_case *c;
    fl_backend *be;
    int64_t t;
    fl_linear *qkv, *o, *gate_up, *down;
    fl_tensor residual, delta, norm_weight, qkv_out, gate_up_out, cos_sin;
    fl_act normed, attended, ffn;
    fl_kv_layer kv;
    fl_batch batch;
    void *memory[32];
    int n_memory;
} world;

static fl_tensor place(world *w, fl_dtype t, int64_t a, int64_t b) {
    fl_tensor x = fl_tensor_2d(NULL, t, a, b);
    ops->mem_new(w->be, &x.data, (uint64_t)(a * b * fl_dtype_bytes(t)), NULL);
    w->memory[w->n_memory++] = x.data;
    return x;
}

static fl_tensor place_random(world *w, fl_dtype t, int64_t a, int64_t b, uint64_t seed) {
    fl_tensor x = place(w, t, a, b);
    void *host = ref_alloc((size_t)(a * b * fl_dtype_bytes(t)));
    ref_fill(host, t, a * b, 1.0, seed);
    ops->write(w->be, &x, host, NULL);
    free(host);
    return x;
}

static fl_tensor place_ints(world *w, const int32_t *from, int64_t n) {
    fl_tensor x = place(w, FL_DTYPE_I32, 1, n);
    x = fl_tensor_1d(x.data, FL_DTYPE_I32, n);
    ops->write(w->be, &x, from, NULL);
    return x;
}

static fl_act place_act(world *w, int64_t width) {
    return (fl_act){place(w, w->c->act, w->t, width), place(w, E4M3, w->t, width),
                    place(w, F32, w->t, fl_act_groups(width))};
}

static fl_linear *pack(world *w, int64_t n, int64_t k) {
    const layer_case *c = w->c;
    const linear_case shape = {.t = 1,
                               .n = n,
                               .k = k,
                               .w = c->w,
                               .act = c->scheme,
                               .x = c->act,
                               .bias = c->bias,
                               .parts = 1,
                               .w_block = c->w_block,
                               .sparse24 = c->sparse24};
    fl_linear *out = NULL;
    fl_err err = {0};
    linear_data d = make_linear(&shape);
    if (ops->linear_new(w->be, &out, &d.spec, &err)) printf("# %s\n", err.msg);
    free_linear(&d);
    return out;
}

/* Rows of two sequences that begin at a position of their own. */
static void make_batch(world *w) {
    int32_t pos[MAX_T], slot[MAX_T], pages[SEQS * PAGES], start[SEQS + 1] = {0};
    const int64_t half = w->t - w->t / 2;
    for (int64_t i = 0; i < SEQS * PAGES; i++) pages[i] = (int32_t)(SEQS * PAGES - 1 - i);
    for (int64_t i = 0; i < w->t; i++) {
        int64_t seq = i >= half, p = FIRST_POS + i - seq * half;
        pos[i] = (int32_t)p;
        slot[i] = (int32_t)(pages[seq * PAGES + p / PAGE] * PAGE + p % PAGE);
    }
    w->batch.n_rows = w->t;
    w->batch.n_seqs = w->t > 1 ? SEQS : 1;
    w->batch.max_pages = PAGES;
    start[1] = (int32_t)half;
    start[2] = (int32_t)w->t;
    w->batch.pos = place_ints(w, pos, w->t);
    w->batch.slot = place_ints(w, slot, w->t);
    w->batch.row_start = place_ints(w, start, w->batch.n_seqs + 1);
    w->batch.pages = place_ints(w, pages, SEQS * PAGES);
    w->batch.pages = fl_tensor_2d(w->batch.pages.data, FL_DTYPE_I32, w->batch.n_seqs, PAGES);
}

static world make_world(const layer_case *c, fl_dtype cache_dtype, int64_t t) {
    world w = {.c = c, .be = ref_open(ops, NULL, 1, MAX_T), .t = t};
    const int64_t q = c->heads * c->head_dim, all = (c->heads + 2 * c->kv_heads) * c->head_dim;
    w.residual = place_random(&w, c->act, t, c->hidden, 1);
    w.norm_weight = place_random(&w, c->act, 1, c->hidden, 2);
    w.norm_weight = fl_tensor_1d(w.norm_weight.data, c->act, c->hidden);
    w.cos_sin = place_random(&w, F32, PAGE * PAGES, c->head_dim, 3);
    w.delta = place_random(&w, c->act, t, c->hidden, 4);
    w.qkv_out = place(&w, c->act, t, all);
    w.gate_up_out = place(&w, c->act, t, 2 * c->ffn);
    w.normed = place_act(&w, c->hidden);
    w.attended = place_act(&w, q);
    w.ffn = place_act(&w, c->ffn);
    w.qkv = pack(&w, all, c->hidden);
    w.o = pack(&w, c->hidden, q);
    w.gate_up = pack(&w, 2 * c->ffn, c->hidden);
    w.down = pack(&w, c->hidden, c->ffn);
    w.kv = (fl_kv_layer){.shape = {c->kv_heads, c->head_dim, PAGE, cache_dtype},
                         .k_scale = cache_dtype == E4M3 ? 0.25f : 1.0f,
                         .v_scale = cache_dtype == E4M3 ? 0.5f : 1.0f};
    uint64_t bytes = ops->kv_page_bytes(w.be, &w.kv.shape) * SEQS * PAGES;
    w.kv.data = place(&w, E4M3, 1, (int64_t)bytes).data;
    make_batch(&w);
    return w;
}

static void free_world(world *w) {
    fl_linear *each[] = {w->qkv, w->o, w->gate_up, w->down};
    for (int i = 0; i < 4; i++) ops->linear_free(w->be, each[i]);
    for (int i = 0; i < w->n_memory; i++) ops->mem_free(w->be, w->memory[i]);
    ops->close(w->be);
}

static int settled(const world *w, bool wait, int rc, fl_err *err) {
    return rc || !wait ? rc : ops->sync(w->be, err);
}

static fl_tensor heads_of(const world *w, int64_t first, int64_t n) {
    const int64_t dim = w->c->head_dim;
    fl_tensor t = w->qkv_out;
    t.data = (uint8_t *)t.data + first * dim * 2;
    t.dim[1] = n;
    t.dim[2] = dim;
    t.ndim = 3;
    return t;
}

static int by_ops(world *w, bool wait, fl_err *err) {
    const layer_case *c = w->c;
    fl_norm norm = {w->residual, w->delta, w->norm_weight, &w->normed, NULL, 1e-5f};
    const int64_t h = c->heads, g = c->kv_heads;
    fl_rope rope = {heads_of(w, 0, h), heads_of(w, h, g), heads_of(w, h + g, g), w->cos_sin};
    int rc = FL_OK;
    for (int i = 0; i < LAYERS && !rc; i++) {
        norm.next = w->qkv;
        rc = settled(w, wait, ops->norm(w->be, &norm, err), err);
        if (!rc) rc = ops->linear(w->be, &w->qkv_out, &w->normed, w->qkv, err);
        if (!rc) rc = settled(w, wait, rc, err);
        if (!rc) rc = ops->rope_store(w->be, &rope, &w->kv, &w->batch, err);
        if (!rc)
            rc = ops->attend(w->be, &w->attended, &rope.q, &w->kv, &w->batch, 0.25f, w->o, err);
        if (!rc) rc = ops->linear(w->be, &w->delta, &w->attended, w->o, err);
        norm.next = w->gate_up;
        if (!rc) rc = settled(w, wait, rc, err);
        if (!rc) rc = ops->norm(w->be, &norm, err);
        if (!rc) rc = ops->linear(w->be, &w->gate_up_out, &w->normed, w->gate_up, err);
        if (!rc) rc = settled(w, wait, rc, err);
        if (!rc) rc = ops->silu_mul(w->be, &w->ffn, &w->gate_up_out, w->down, err);
        if (!rc) rc = ops->linear(w->be, &w->delta, &w->ffn, w->down, err);
        if (!rc) rc = settled(w, wait, rc, err);
    }
    norm.next = NULL;
    return rc ? rc : ops->norm(w->be, &norm, err);
}

/* done: the backend did all halves; false with FL_OK when it did none. */
static int by_halves(world *w, bool *done, fl_err *err) {
    const int64_t h = w->c->heads, g = w->c->kv_heads;
    fl_norm norm = {w->residual, w->delta, w->norm_weight, &w->normed, NULL, 1e-5f};
    fl_rope rope = {heads_of(w, 0, h), heads_of(w, h, g), heads_of(w, h + g, g), w->cos_sin};
    int rc = FL_OK;
    *done = true;
    for (int i = 0; i < LAYERS && !rc && *done; i++) {
        norm.next = w->qkv;
        const fl_attn_block a = {norm, rope, &w->kv, &w->batch, 0.25f, &w->attended, w->o};
        rc = ops->attn_block(w->be, &a, done, err);
        norm.delta = (fl_tensor){0};
        norm.next = w->gate_up;
        const fl_mlp_block b = {norm, &w->ffn, w->down};
        if (!rc && *done) rc = ops->mlp_block(w->be, &b, done, err);
    }
    norm.next = NULL;
    return rc || !*done ? rc : ops->norm(w->be, &norm, err);
}

/* What a step leaves: residual, normed rows, the cache. */
typedef struct result {
    uint8_t *bytes;
    int64_t n;
} result;

static void take(result *r, fl_backend *be, const fl_tensor *t) {
    int64_t n = t->dim[0] * fl_tensor_row_len(t) * fl_dtype_bytes(t->dtype);
    ops->read(be, r->bytes + r->n, t, NULL);
    r->n += n;
}

static result results(const world *w) {
    uint64_t cache = ops->kv_page_bytes(w->be, &w->kv.shape) * SEQS * PAGES;
    fl_tensor kv = fl_tensor_1d(w->kv.data, E4M3, (int64_t)cache);
    result r = {.bytes = ref_alloc((size_t)cache + (1 << 19))};
    take(&r, w->be, &w->residual);
    take(&r, w->be, &w->normed.x);
    take(&r, w->be, &kv);
    return r;
}

static void test_waiting(const layer_case *c, int64_t t) {
    result r[2];
    fl_err err = {0};
    int rc = FL_OK;
    for (int wait = 0; wait < 2; wait++) {
        world w = make_world(c, c->cache, t);
        if (!rc) rc = by_ops(&w, wait, &err);
        r[wait] = results(&w);
        free_world(&w);
    }
    check(!rc && !memcmp(r[0].bytes, r[1].bytes, (size_t)r[0].n),
          "%s, %lld rows: waiting for each op changes nothing %s", c->name, (long long)t, err.msg);
    free(r[0].bytes);
    free(r[1].bytes);
}

/* FP8 weights for activations that are not, and weights of another type than the activations,
 * are for the single ops. */
static bool has_halves(const layer_case *c) {
    return c->w == E4M3 ? c->scheme != FL_ACT_NONE : c->w == c->act;
}

static void test_halves(const layer_case *c, fl_dtype cache, int64_t t) {
    result r[2];
    fl_err err = {0};
    bool done = false;
    int rc = FL_OK;
    for (int halves = 0; halves < 2; halves++) {
        world w = make_world(c, cache, t);
        if (!rc) rc = halves ? by_halves(&w, &done, &err) : by_ops(&w, false, &err);
        r[halves] = results(&w);
        free_world(&w);
    }
    bool same = !memcmp(r[0].bytes, r[1].bytes, (size_t)r[0].n);
    check(!rc && done == has_halves(c) && (same || !done),
          "%s, cache %s, %lld rows: halves of a layer %s %s", c->name, fl_dtype_name(cache),
          (long long)t, done ? "give what the ops give" : "are left to the ops", err.msg);
    free(r[0].bytes);
    free(r[1].bytes);
}

int main(int argc, char **argv) {
    fl_err err;
    if (fl_backend_find(&ops, argc > 1 ? argv[1] : "cpu", &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        test_waiting(&cases[i], 20);
        test_waiting(&cases[i], 3);
        for (int64_t t = 1; t <= FEW_ROWS && ops->attn_block; t += i < N_NARROW ? 1 : 3)
            test_halves(&cases[i], (i + (size_t)t) % 2 ? E4M3 : cases[i].act, t);
    }
    return tap_done();
}
