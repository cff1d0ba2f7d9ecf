#include "model/model.h"

#include <stdio.h>
#include <string.h>

#include "formats/dummy_checkpoint.h"
#include "formats/inventory.h"
#include "formats/linear_source.h"
#include "formats/quant_check.h"
#include "model/model_priv.h"
#include "model/observe.h"
#include "model/paths.h"
#include "model/rope.h"
#include "model/step.h"
#include "util/file.h"
#include "util/log.h"
#include "util/mem.h"
#include "util/num.h"

enum {
    DEFAULT_CONTEXT = 8192,
    DEFAULT_STEP_ROWS = 256,
    MAX_STEP_ROWS = 65536,
    KV_CONTEXTS = 256, /* more sequences of full length than an engine runs by itself */
};
static const double DEFAULT_PART = 0.9; /* of a GPU's memory: the rest is for its driver */

static int open_backend(fl_model *m, const fl_model_options *o, int64_t rows, fl_err *err) {
    const char *device = o->device && strcmp(o->device, "auto") ? o->device : "cpu";
    fl_backend_params p = {.threads = o->threads,
                           .max_rows = rows,
                           .isa = o->isa,
                           .batch_invariant = o->batch_invariant,
                           .sparse_dense = o->sparse_dense};
    int rc = fl_backend_device(&m->ops, &p.device, device, err);
    if (!rc) rc = m->ops->open(&m->be, &p, err);
    if (!rc) m->graphs.offered = m->ops->record != NULL;
    if (!rc && o->time_ops) {
        rc = fl_op_times_begin(&m->ops, &m->be, err);
        m->times_ops = !rc;
    }
    m->graphs.on = m->graphs.offered && !o->time_ops && !o->no_graphs;
    return rc;
}

bool fl_model_op_time(const fl_model *m, int i, fl_op_time *out) {
    return m->times_ops && fl_op_times_get(m->be, i, out);
}
void fl_model_op_times_reset(fl_model *m) {
    if (m->times_ops) fl_op_times_reset(m->be);
}

static int64_t range_option(const char *name, int64_t v, int64_t fallback, int64_t max, int *rc,
                            fl_err *err) {
    if (v < 0 || v > max) {
        *rc =
            fl_fail(err, FL_E_ARG, "%s: %lld, need 1 to %lld", name, (long long)v, (long long)max);
        return 0;
    }
    return v ? v : fallback;
}

static fl_kv_shape kv_shape(const fl_model *m, fl_kv_choice choice) {
    const fl_config *c = &m->config;
    bool fp8 = choice == FL_KV_FP8 || (choice == FL_KV_AUTO && m->plan.kv_fp8);
    return (fl_kv_shape){.heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .page_tokens = FL_KV_PAGE_TOKENS,
                         .dtype = fp8                        ? FL_DTYPE_E4M3
                                  : c->dtype == FL_DTYPE_F16 ? FL_DTYPE_F16
                                                             : FL_DTYPE_BF16};
}

/* Pages that belong to nobody, after those of the pool. */
static int64_t spare_pages(const fl_model *m) {
    return m->graphs.on ? FL_GRAPH_PAGES : 0;
}

/* Bytes of n pages of all layers. */
static int kv_bytes(uint64_t *out, const fl_model *m, int64_t n_pages, fl_err *err) {
    if (fl_mul_u64(m->kv_page_bytes, (uint64_t)n_pages, out) &&
        fl_mul_u64(*out, (uint64_t)m->config.n_layers, out))
        return FL_OK;
    return fl_fail(err, FL_E_NOMEM, "kv_tokens: %lld pages are too many", (long long)n_pages);
}

static int plan_memory(fl_model *m, const fl_model_options *o, const fl_scratch_shape *shape,
                       int64_t n_pages, fl_err *err) {
    const double part = o->gpu_memory_utilization > 0 ? o->gpu_memory_utilization : DEFAULT_PART;
    fl_memory_plan *p = &m->memory;
    fl_backend_info info;
    int rc = kv_bytes(&p->kv, m, n_pages + spare_pages(m), err);
    m->ops->info(m->be, &info);
    p->total = info.mem_total;
    p->free = info.mem_free;
    p->budget = fl_memory_budget(&info, part);
    p->weights = fl_memory_of_weights(m->checkpoint, &m->config, &m->plan, o->sparse_dense);
    p->activations = fl_scratch_bytes(shape) + (uint64_t)(m->context * m->config.head_dim) * 4;
    p->kv_tokens = n_pages * FL_KV_PAGE_TOKENS;
    return rc ? rc : fl_memory_plan_check(p, m->dir, info.name, err);
}

/* Pages for what is left of the budget now that all else is there; `least` where the device shares
 * its memory with the machine. */
static int pages_that_fit(int64_t *out, const fl_model *m, int64_t least, fl_err *err) {
    const fl_memory_plan *p = &m->memory;
    fl_backend_info info;
    uint64_t page;
    int rc = kv_bytes(&page, m, 1, err);
    m->ops->info(m->be, &info);
    *out = least;
    if (rc || !info.own_memory) return rc;
    const uint64_t taken = p->free > info.mem_free ? p->free - info.mem_free : 0;
    const uint64_t left = p->budget > taken ? p->budget - taken : 0;
    const int64_t most = KV_CONTEXTS * fl_div_up(m->context, FL_KV_PAGE_TOKENS);
    const int64_t fit = (int64_t)(left / page) - spare_pages(m);
    *out = fl_min_i64(fl_min_i64(fit, most), INT32_MAX / FL_KV_PAGE_TOKENS);
    if (fit >= least) return FL_OK;
    return fl_fail(err, FL_E_NOMEM,
                   "%s: KV cache of %lld tokens needs %llu bytes, %s has %llu left for it", m->dir,
                   (long long)(least * FL_KV_PAGE_TOKENS), (unsigned long long)p->kv, info.name,
                   (unsigned long long)left);
}

static int make_kv(fl_model *m, const fl_kv_shape *shape, int64_t n_pages, fl_err *err) {
    const fl_config *c = &m->config;
    const bool fp8 = shape->dtype == FL_DTYPE_E4M3;
    const int64_t pages = n_pages + spare_pages(m);
    const uint64_t layer_bytes = m->kv_page_bytes * (uint64_t)pages;
    int64_t without = 0; /* layers whose KV scales are not in the checkpoint */
    int rc = kv_bytes(&m->kv_bytes, m, pages, err);
    if (rc || (rc = fl_kv_pool_init(&m->pool, n_pages, err))) return rc;
    if (!(m->kv = fl_alloc_array((size_t)c->n_layers, sizeof(*m->kv))))
        return fl_fail(err, FL_E_NOMEM, "kv: %lld layers", (long long)c->n_layers);
    if ((rc = m->ops->mem_new(m->be, &m->kv_data, m->kv_bytes, err))) return rc;
    for (int64_t i = 0; i < c->n_layers; i++) {
        m->kv[i] = (fl_kv_layer){(char *)m->kv_data + (uint64_t)i * layer_bytes, *shape, 1, 1};
        if (!fp8) continue;
        bool found;
        rc = fl_kv_scales_read(&m->kv[i].k_scale, &m->kv[i].v_scale, &found, m->checkpoint, i, err);
        if (rc) return rc;
        without += !found;
    }
    if (without)
        fl_log(FL_LOG_WARN,
               "%s: %lld of %lld layers have no KV scales and store keys and values "
               "as E4M3 with scale 1",
               m->dir, (long long)without, (long long)c->n_layers);
    return FL_OK;
}

static int make_rope(fl_model *m, fl_err *err) {
    const int64_t e = m->config.head_dim;
    float *host = fl_alloc_array((size_t)m->context, (size_t)e * sizeof(*host));
    if (!host) return fl_fail(err, FL_E_NOMEM, "rope table of %lld", (long long)m->context);
    void *data = NULL;
    int rc = fl_rope_table(host, &m->config.rope, e, m->context, err);
    if (!rc) rc = m->ops->mem_new(m->be, &data, (uint64_t)(m->context * e) * sizeof(*host), err);
    if (!rc) {
        m->cos_sin = fl_tensor_2d(data, FL_DTYPE_F32, m->context, e);
        rc = m->ops->write(m->be, &m->cos_sin, host, err);
    }
    fl_free(host);
    return rc;
}

static int read_dummy(fl_model *m, const char *dir, const char *config_json, fl_err *err) {
    int rc;
    if (config_json) {
        if ((rc = fl_config_parse(&m->config, config_json, dir, err)) ||
            (rc = fl_quant_plan_parse(&m->plan, config_json, dir, err)))
            return rc;
    } else {
        if ((rc = fl_config_load(&m->config, &m->generation, dir, err)) ||
            (rc = fl_quant_plan_load(&m->plan, dir, err)))
            return rc;
    }
    return fl_checkpoint_dummy(&m->checkpoint, dir, &m->config, &m->plan, err);
}

static int read_files(fl_model *m, const char *dir, const fl_model_options *o, fl_err *err) {
    int rc;
    if (o->load_format == FL_LOAD_DUMMY) return read_dummy(m, dir, o->config_json, err);
    if (!fl_dir_exists(dir)) return fl_fail(err, FL_E_IO, "%s: no such directory", dir);
    rc = fl_config_load(&m->config, &m->generation, dir, err);
    if (rc == FL_E_IO) { /* no config.json: a folder of GGUF or .pth files is told so */
        fl_err other;
        if (fl_checkpoint_open(&m->checkpoint, dir, &other) == FL_E_UNSUPPORTED)
            return fl_fail(err, other.code, "%s", other.msg);
    }
    if (rc || (rc = fl_quant_plan_load(&m->plan, dir, err))) return rc;
    if ((rc = fl_checkpoint_open(&m->checkpoint, dir, err))) return rc;
    if ((rc = fl_inventory_take(m->checkpoint, &m->config, &m->plan, err))) return rc;
    fl_quant_cross_check(m->checkpoint, &m->plan);
    return FL_OK;
}

static void name_quantization(fl_model *m) {
    static const char *const act[] = {"weight-only", "static", "dynamic", "block"};
    const char *flavour = fl_quant_flavour_name(m->plan.flavour);
    bool plain = m->plan.flavour == FL_QUANT_NONE;
    snprintf(m->quantization, sizeof(m->quantization), "%s%s%s", flavour, plain ? "" : " ",
             plain           ? ""
             : m->plan.mixed ? "mixed"
                             : act[m->plan.act]);
}

/* Everything of the model but its KV pages, in the order of the plan. */
static int build_parts(fl_model *m, const fl_model_options *o, const fl_scratch_shape *shape,
                       fl_err *err) {
    fl_weights_request want = {m->ops,   m->be,       m->checkpoint,  &m->config,
                               &m->plan, o->progress, o->progress_ctx};
    int rc;
    if ((rc = fl_weights_load(&m->weights, &want, err)) || (rc = make_rope(m, err)) ||
        (rc = fl_scratch_init(&m->scratch, shape, m->ops, m->be, err)))
        return rc;
    return fl_step_reserve_seqs(m, 1, err);
}

static int build(fl_model *m, const fl_model_options *o, fl_err *err) {
    const fl_config *c = &m->config;
    int rc = FL_OK;
    int64_t context = fl_min_i64(c->max_position, DEFAULT_CONTEXT);
    m->context = range_option("context", o->context, context, c->max_position, &rc, err);
    if (rc) return rc;
    int64_t rows =
        range_option("max_step_rows", o->max_step_rows, DEFAULT_STEP_ROWS, MAX_STEP_ROWS, &rc, err);
    int64_t kv_tokens = rc ? 0
                           : range_option("kv_tokens", o->kv_tokens, m->context,
                                          INT32_MAX - FL_KV_PAGE_TOKENS, &rc, err);
    if (rc) return rc;
    rows = fl_min_i64(rows, m->context);
    if ((rc = open_backend(m, o, fl_max_i64(rows, FL_LOGIT_ROWS), err))) return rc;
    m->prefix_cache = !o->no_prefix_cache;
    const fl_scratch_shape shape = {
        .config = c,
        .act_dtype = c->dtype == FL_DTYPE_F16 ? FL_DTYPE_F16 : FL_DTYPE_BF16,
        .max_rows = rows,
        .max_pages = fl_div_up(m->context, FL_KV_PAGE_TOKENS),
        .head_rows = fl_vocab_rows(m->checkpoint, c, c->tied ? "model.embed_tokens" : "lm_head"),
        .edits = m->ops->sample && c->vocab_size <= FL_SAMPLE_MAX_VOCAB ? FL_STEP_EDITS : 0,
        .logit_rows = fl_max_i64(FL_LOGIT_ROWS, m->graphs.offered ? fl_graph_most_rows(rows) : 0)};
    const fl_kv_shape kv = kv_shape(m, o->kv);
    int64_t pages = fl_div_up(kv_tokens, FL_KV_PAGE_TOKENS);
    m->kv_page_bytes = m->ops->kv_page_bytes(m->be, &kv);
    if ((rc = plan_memory(m, o, &shape, pages, err)) || (rc = build_parts(m, o, &shape, err)))
        return rc;
    if (!o->kv_tokens && (rc = pages_that_fit(&pages, m, pages, err))) return rc;
    return make_kv(m, &kv, pages, err);
}

int fl_model_load(fl_model **out, const char *dir, const fl_model_options *opt, fl_err *err) {
    static const fl_model_options defaults;
    int rc;
    if (!opt) opt = &defaults;
    fl_model *m = fl_alloc(sizeof(*m));
    if (!m) return fl_fail(err, FL_E_NOMEM, "%s", dir);
    atomic_init(&m->refs, 1);
    pthread_mutex_init(&m->lock, NULL);
    if (!(m->dir = fl_strdup(dir))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    if ((rc = read_files(m, dir, opt, err))) goto done;
    name_quantization(m);
    if ((rc = fl_checkpoint_check(m->checkpoint, build(m, opt, err), err))) goto done;
    fl_log(FL_LOG_INFO, "%s: %s, %lld layers, kv %s", dir, m->quantization,
           (long long)m->config.n_layers, fl_dtype_name(m->kv[0].shape.dtype));
    fl_model_log_paths(m);
    *out = m;
    m = NULL;
done:
    fl_model_unref(m);
    return rc;
}

fl_model *fl_model_ref(fl_model *m) {
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void fl_model_unref(fl_model *m) {
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1) return;
    if (m->be) {
        fl_graphs_clear(m);
        fl_weights_free(&m->weights);
        fl_step_buffers_free(m);
        m->ops->mem_free(m->be, m->scratch.block);
        m->ops->mem_free(m->be, m->cos_sin.data);
        m->ops->mem_free(m->be, m->kv_data);
        fl_observe_free(m);
        m->ops->close(m->be);
    }
    fl_kv_pool_deinit(&m->pool);
    fl_checkpoint_close(m->checkpoint);
    fl_quant_plan_free(&m->plan);
    pthread_mutex_destroy(&m->lock);
    fl_free(m->kv);
    fl_free(m->dir);
    fl_free(m);
}

const char *fl_model_dir(const fl_model *m) {
    return m->dir;
}
const fl_config *fl_model_config(const fl_model *m) {
    return &m->config;
}
const fl_generation_config *fl_model_generation_config(const fl_model *m) {
    return &m->generation;
}
const fl_quant_plan *fl_model_quant_plan(const fl_model *m) {
    return &m->plan;
}
const fl_checkpoint *fl_model_checkpoint(const fl_model *m) {
    return m->checkpoint;
}

void fl_model_info_get(const fl_model *m, fl_model_info *out) {
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&m->lock;
    pthread_mutex_lock(lock);
    *out =
        (fl_model_info){.weight_bytes = m->weights.bytes,
                        .kv_bytes = m->kv_bytes,
                        .scratch_bytes = m->scratch.bytes,
                        .bytes_per_token = m->weights.bytes_per_token,
                        .memory_planned = m->memory.weights + m->memory.activations + m->memory.kv,
                        .memory_budget = m->memory.budget,
                        .context = m->context,
                        .kv_tokens = m->pool.n_pages * FL_KV_PAGE_TOKENS,
                        .kv_pages_free = m->pool.n_free,
                        .prefix_queries = m->pool.queries,
                        .prefix_hits = m->pool.hits,
                        .prefix_evictions = m->pool.evictions,
                        .n_parameters = m->weights.n_parameters,
                        .kv_dtype = m->kv[0].shape.dtype,
                        .quantization = m->quantization};
    pthread_mutex_unlock(lock);
    m->ops->info(m->be, &out->backend);
}
