#include "mirror_ops.h"

#include <stdlib.h>
#include <string.h>

#include "ref_backend.h"
#include "util/num.h"

typedef struct memory { /* of mem_new: the host's, the device's, and what the device last got */
    uint8_t *host, *device, *known;
    uint64_t bytes;
    struct memory *next;
} memory;

struct fl_backend {
    fl_backend *dev;
    memory *all;
};

static const fl_backend_ops *device;

static fl_tensor bytes_at(void *p, uint64_t n) {
    return fl_tensor_1d(p, FL_DTYPE_E4M3, (int64_t)n);
}

/* ---- memory ---- */

static memory *holder(fl_backend *be, const void *p) {
    memory *m = be->all;
    while (m && ((const uint8_t *)p < m->host || (const uint8_t *)p >= m->host + m->bytes))
        m = m->next;
    return m;
}

static uint8_t *device_address(memory *m, const void *p) {
    return m->device + ((const uint8_t *)p - m->host);
}

static void push(fl_backend *be, memory *m) { /* what a test wrote directly */
    fl_tensor t = bytes_at(m->device, m->bytes);
    if (!memcmp(m->host, m->known, m->bytes)) return;
    device->write(be->dev, &t, m->host, NULL);
    memcpy(m->known, m->host, m->bytes);
}

static void pull(fl_backend *be, memory *m) {
    fl_tensor t = bytes_at(m->device, m->bytes);
    device->read(be->dev, m->host, &t, NULL);
    memcpy(m->known, m->host, m->bytes);
}

static int mirror_mem_new(fl_backend *be, void **out, uint64_t bytes, fl_err *err) {
    void *p;
    int rc = device->mem_new(be->dev, &p, bytes, err);
    if (rc) return rc;
    memory *m = ref_alloc(sizeof(*m));
    *m = (memory){aligned_alloc(64, fl_round_up(bytes + 1, 64)), p, ref_alloc(bytes), bytes,
                  be->all};
    be->all = m;
    pull(be, m);
    *out = m->host;
    return FL_OK;
}

static void mirror_mem_free(fl_backend *be, void *p) {
    memory **at = &be->all;
    if (!p) {
        device->mem_free(be->dev, NULL);
        return;
    }
    while ((*at)->host != p) at = &(*at)->next;
    memory *m = *at;
    *at = m->next;
    device->mem_free(be->dev, m->device);
    free(m->host);
    free(m->known);
    free(m);
}

static int mirror_write(fl_backend *be, const fl_tensor *dst, const void *src, fl_err *err) {
    memory *m = holder(be, dst->data);
    fl_tensor t = *dst;
    push(be, m);
    t.data = device_address(m, dst->data);
    int rc = device->write(be->dev, &t, src, err);
    pull(be, m);
    return rc;
}

static int mirror_read(fl_backend *be, void *dst, const fl_tensor *src, fl_err *err) {
    memory *m = holder(be, src->data);
    fl_tensor t = *src;
    push(be, m);
    t.data = device_address(m, src->data);
    return device->read(be->dev, dst, &t, err);
}

static int mirror_copy(fl_backend *be, void *dst, const void *src, uint64_t bytes, fl_err *err) {
    memory *to = holder(be, dst), *from = holder(be, src);
    push(be, to);
    push(be, from);
    int rc = device->copy(be->dev, device_address(to, dst), device_address(from, src), bytes, err);
    pull(be, to);
    return rc;
}

/* ---- operands ---- */

static int64_t span(const fl_tensor *t) { /* bytes from the first element to behind the last */
    if (!t->dim[0]) return 0;
    return ((t->dim[0] - 1) * t->stride + fl_tensor_row_len(t)) * fl_dtype_bytes(t->dtype);
}

/* A copy of t on the device, as far from 16 bytes of alignment as the test's is. */
static fl_tensor lend(fl_backend *be, const fl_tensor *t) {
    fl_tensor d = *t;
    void *p;
    if (t->dtype == FL_DTYPE_NONE) return d;
    int64_t off = (int64_t)((uintptr_t)t->data % 16), bytes = span(t);
    device->mem_new(be->dev, &p, (uint64_t)(bytes + 16), NULL);
    d.data = (uint8_t *)p + off;
    if (!bytes) return d;
    fl_tensor raw = bytes_at(d.data, (uint64_t)bytes);
    device->write(be->dev, &raw, t->data, NULL);
    return d;
}

static void drop(fl_backend *be, const fl_tensor *d) {
    if (d->dtype != FL_DTYPE_NONE)
        device->mem_free(be->dev, (void *)((uintptr_t)d->data & ~(uintptr_t)15));
}

/* The rows of d back into t; then d is gone. */
static void give_back(fl_backend *be, const fl_tensor *t, const fl_tensor *d) {
    int64_t row = fl_tensor_row_len(t) * fl_dtype_bytes(t->dtype);
    if (t->dtype == FL_DTYPE_NONE) return;
    uint8_t *dense = ref_alloc((size_t)(row * t->dim[0]) + 1);
    if (row && t->dim[0]) device->read(be->dev, dense, d, NULL);
    for (int64_t i = 0; i < t->dim[0]; i++)
        memcpy((uint8_t *)t->data + i * t->stride * fl_dtype_bytes(t->dtype), dense + i * row,
               (size_t)row);
    free(dense);
    drop(be, d);
}

static fl_act lend_act(fl_backend *be, const fl_act *a) {
    return (fl_act){lend(be, &a->x), lend(be, &a->q), lend(be, &a->q_scale)};
}

static void give_back_act(fl_backend *be, const fl_act *a, const fl_act *d) {
    give_back(be, &a->x, &d->x);
    give_back(be, &a->q, &d->q);
    give_back(be, &a->q_scale, &d->q_scale);
}

static void drop_act(fl_backend *be, const fl_act *d) {
    drop(be, &d->x);
    drop(be, &d->q);
    drop(be, &d->q_scale);
}

static int wait(fl_backend *be, int rc, fl_err *err) {
    return rc ? rc : device->sync(be->dev, err);
}

/* ---- ops ---- */

static int mirror_open(fl_backend **out, const fl_backend_params *p, fl_err *err) {
    fl_backend_params mine = *p;
    fl_backend *dev;
    mine.isa = NULL;
    int rc = device->open(&dev, &mine, err);
    if (rc) return rc;
    *out = ref_alloc(sizeof(**out));
    (*out)->dev = dev;
    return FL_OK;
}
static void mirror_close(fl_backend *be) {
    if (be) device->close(be->dev);
    free(be);
}
static void mirror_info(fl_backend *be, fl_backend_info *out) {
    device->info(be->dev, out);
}
static int mirror_sync(fl_backend *be, fl_err *err) {
    return device->sync(be->dev, err);
}
static int mirror_linear_new(fl_backend *be, fl_linear **out, const fl_linear_spec *s,
                             fl_err *err) {
    return device->linear_new(be->dev, out, s, err);
}
static void mirror_linear_free(fl_backend *be, fl_linear *l) {
    device->linear_free(be->dev, l);
}
static uint64_t mirror_kv_page_bytes(fl_backend *be, const fl_kv_shape *s) {
    return device->kv_page_bytes(be->dev, s);
}

static int mirror_embed(fl_backend *be, const fl_tensor *out, const fl_linear *table,
                        const fl_tensor *ids, fl_err *err) {
    fl_tensor o = lend(be, out), i = lend(be, ids);
    int rc = wait(be, device->embed(be->dev, &o, table, &i, err), err);
    give_back(be, out, &o);
    drop(be, &i);
    return rc;
}

static int mirror_norm(fl_backend *be, const fl_norm *n, fl_err *err) {
    fl_norm d = *n;
    fl_act out = lend_act(be, n->out);
    d.residual = lend(be, &n->residual);
    d.delta = lend(be, &n->delta);
    d.weight = lend(be, &n->weight);
    d.out = &out;
    int rc = wait(be, device->norm(be->dev, &d, err), err);
    give_back(be, &n->residual, &d.residual);
    give_back_act(be, n->out, &out);
    drop(be, &d.delta);
    drop(be, &d.weight);
    return rc;
}

static int mirror_quant(fl_backend *be, fl_act *a, const fl_linear *next, fl_err *err) {
    fl_act d = lend_act(be, a);
    int rc = wait(be, device->quant(be->dev, &d, next, err), err);
    give_back_act(be, a, &d);
    return rc;
}

/* What is lent is as far from 16 bytes of alignment as the test's operands. */
static const char *mirror_linear_path(fl_backend *be, const fl_linear *lin, const fl_tensor *out,
                                      const fl_tensor *x) {
    return device->linear_path ? device->linear_path(be->dev, lin, out, x) : NULL;
}

static int mirror_linear(fl_backend *be, const fl_tensor *out, const fl_act *x,
                         const fl_linear *lin, fl_err *err) {
    fl_act d = lend_act(be, x);
    fl_tensor o = lend(be, out);
    int rc = wait(be, device->linear(be->dev, &o, &d, lin, err), err);
    give_back(be, out, &o);
    drop(be, &d.x);
    drop(be, &d.q);
    drop(be, &d.q_scale);
    return rc;
}

static fl_batch lend_batch(fl_backend *be, const fl_batch *b) {
    fl_batch d = *b;
    d.pos = lend(be, &b->pos);
    d.slot = lend(be, &b->slot);
    d.row_start = lend(be, &b->row_start);
    d.pages = lend(be, &b->pages);
    return d;
}

static void drop_batch(fl_backend *be, const fl_batch *d) {
    drop(be, &d->pos);
    drop(be, &d->slot);
    drop(be, &d->row_start);
    drop(be, &d->pages);
}

static fl_kv_layer lend_kv(fl_backend *be, const fl_kv_layer *kv) {
    fl_kv_layer d = *kv;
    memory *m = holder(be, kv->data);
    push(be, m);
    d.data = device_address(m, kv->data);
    return d;
}

static int mirror_rope_store(fl_backend *be, const fl_rope *r, const fl_kv_layer *kv,
                             const fl_batch *b, fl_err *err) {
    fl_rope d = {lend(be, &r->q), lend(be, &r->k), lend(be, &r->v), lend(be, &r->cos_sin)};
    fl_batch batch = lend_batch(be, b);
    fl_kv_layer cache = lend_kv(be, kv);
    int rc = wait(be, device->rope_store(be->dev, &d, &cache, &batch, err), err);
    give_back(be, &r->q, &d.q);
    drop(be, &d.k);
    drop(be, &d.v);
    drop(be, &d.cos_sin);
    drop_batch(be, &batch);
    return rc;
}

static int mirror_attend(fl_backend *be, fl_act *out, const fl_tensor *q, const fl_kv_layer *kv,
                         const fl_batch *b, float scale, const fl_linear *next, fl_err *err) {
    fl_act o = lend_act(be, out);
    fl_tensor x = lend(be, q);
    fl_batch batch = lend_batch(be, b);
    fl_kv_layer cache = lend_kv(be, kv);
    int rc = wait(be, device->attend(be->dev, &o, &x, &cache, &batch, scale, next, err), err);
    give_back_act(be, out, &o);
    drop(be, &x);
    drop_batch(be, &batch);
    return rc;
}

static int mirror_silu_mul(fl_backend *be, fl_act *out, const fl_tensor *gate_up,
                           const fl_linear *next, fl_err *err) {
    fl_act d = lend_act(be, out);
    fl_tensor in = lend(be, gate_up);
    int rc = wait(be, device->silu_mul(be->dev, &d, &in, next, err), err);
    give_back_act(be, out, &d);
    drop(be, &in);
    return rc;
}

static int mirror_gather(fl_backend *be, const fl_tensor *out, const fl_tensor *x,
                         const fl_tensor *rows, fl_err *err) {
    fl_tensor o = lend(be, out), in = lend(be, x), r = lend(be, rows);
    int rc = wait(be, device->gather(be->dev, &o, &in, &r, err), err);
    give_back(be, out, &o);
    drop(be, &in);
    drop(be, &r);
    return rc;
}

static int mirror_attn_block(fl_backend *be, const fl_attn_block *a, bool *done, fl_err *err) {
    fl_attn_block d = *a;
    fl_act normed = lend_act(be, a->norm.out), between = lend_act(be, a->attended);
    fl_batch batch = lend_batch(be, a->batch);
    fl_kv_layer cache = lend_kv(be, a->kv);
    fl_tensor *each[] = {&d.norm.residual, &d.norm.delta, &d.norm.weight, &d.rope.q,
                         &d.rope.k,        &d.rope.v,     &d.rope.cos_sin};
    for (int i = 0; i < 7; i++) *each[i] = lend(be, each[i]);
    d.norm.out = &normed;
    d.attended = &between;
    d.batch = &batch;
    d.kv = &cache;
    int rc = wait(be, device->attn_block(be->dev, &d, done, err), err);
    give_back(be, &a->norm.residual, &d.norm.residual);
    for (int i = 1; i < 7; i++) drop(be, each[i]);
    drop_act(be, &normed);
    drop_act(be, &between);
    drop_batch(be, &batch);
    return rc;
}

static int mirror_mlp_block(fl_backend *be, const fl_mlp_block *a, bool *done, fl_err *err) {
    fl_mlp_block d = *a;
    fl_act normed = lend_act(be, a->norm.out), between = lend_act(be, a->ffn);
    fl_tensor *each[] = {&d.norm.residual, &d.norm.delta, &d.norm.weight};
    for (int i = 0; i < 3; i++) *each[i] = lend(be, each[i]);
    d.norm.out = &normed;
    d.ffn = &between;
    int rc = wait(be, device->mlp_block(be->dev, &d, done, err), err);
    give_back(be, &a->norm.residual, &d.norm.residual);
    for (int i = 1; i < 3; i++) drop(be, each[i]);
    drop_act(be, &normed);
    drop_act(be, &between);
    return rc;
}

typedef int collect_fn(fl_backend *, const fl_tensor *, const fl_tensor *, fl_err *);
static int collect(collect_fn *fn, fl_backend *be, const fl_tensor *out, const fl_tensor *x,
                   fl_err *err) {
    fl_tensor o = lend(be, out), in = lend(be, x);
    int rc = wait(be, fn(be->dev, &o, &in, err), err);
    give_back(be, out, &o);
    drop(be, &in);
    return rc;
}
static int mirror_absmax(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    return collect(device->absmax, be, out, x, err);
}
static int mirror_sumsq(fl_backend *be, const fl_tensor *out, const fl_tensor *x, fl_err *err) {
    return collect(device->sumsq, be, out, x, err);
}

const fl_backend_ops *mirror_ops(const fl_backend_ops *of) {
    static const fl_backend_ops ops = {
        .abi = FL_BACKEND_ABI,
        .name = "mirror",
        .open = mirror_open,
        .close = mirror_close,
        .info = mirror_info,
        .mem_new = mirror_mem_new,
        .mem_free = mirror_mem_free,
        .write = mirror_write,
        .read = mirror_read,
        .copy = mirror_copy,
        .sync = mirror_sync,
        .linear_new = mirror_linear_new,
        .linear_free = mirror_linear_free,
        .embed = mirror_embed,
        .norm = mirror_norm,
        .quant = mirror_quant,
        .linear = mirror_linear,
        .linear_path = mirror_linear_path,
        .rope_store = mirror_rope_store,
        .attend = mirror_attend,
        .silu_mul = mirror_silu_mul,
        .gather = mirror_gather,
        .absmax = mirror_absmax,
        .sumsq = mirror_sumsq,
        .attn_block = mirror_attn_block,
        .mlp_block = mirror_mlp_block,
        .kv_page_bytes = mirror_kv_page_bytes,
    };
    device = of;
    return &ops;
}
