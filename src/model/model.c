#include "model/model.h"

#include <stdio.h>
#include <string.h>

#include "formats/dummy_checkpoint.h"
#include "formats/linear_source.h"
#include "formats/quant_check.h"
#include "model/model_priv.h"
#include "model/observe.h"
#include "model/rope.h"
#include "model/step.h"
#include "util/file.h"
#include "util/log.h"
#include "util/mem.h"
#include "util/num.h"

enum { DEFAULT_CONTEXT = 8192, DEFAULT_STEP_ROWS = 256, MAX_STEP_ROWS = 65536 };

static int open_backend(fl_model *m, const fl_model_options *o, int64_t rows, fl_err *err) {
    const char *device = o->device && strcmp(o->device, "auto") ? o->device : "cpu";
    fl_backend_params p = {.threads = o->threads, .max_rows = rows, .isa = o->isa};
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

static int check_memory(const fl_model *m, uint64_t need, fl_err *err) {
    fl_backend_info info;
    m->ops->info(m->be, &info);
    if (!info.mem_free || need <= info.mem_free) return FL_OK;
    return fl_fail(err, FL_E_NOMEM, "%s: needs %llu MiB, %s has %llu MiB free", m->dir,
                   (unsigned long long)(need >> 20), info.name,
                   (unsigned long long)(info.mem_free >> 20));
}

static int make_kv(fl_model *m, fl_kv_choice choice, int64_t n_pages, fl_err *err) {
    const fl_config *c = &m->config;
    int64_t without = 0; /* layers whose KV scales are not in the checkpoint */
    bool fp8 = choice == FL_KV_FP8 || (choice == FL_KV_AUTO && m->plan.kv_fp8);
    fl_kv_shape shape = {.heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .page_tokens = FL_KV_PAGE_TOKENS,
                         .dtype = fp8                        ? FL_DTYPE_E4M3
                                  : c->dtype == FL_DTYPE_F16 ? FL_DTYPE_F16
                                                             : FL_DTYPE_BF16};
    m->kv_page_bytes = m->ops->kv_page_bytes(m->be, &shape);
    uint64_t layer_bytes, pages = (uint64_t)n_pages + (m->graphs.on ? FL_GRAPH_PAGES : 0);
    if (!fl_mul_u64(m->kv_page_bytes, pages, &layer_bytes) ||
        !fl_mul_u64(layer_bytes, (uint64_t)c->n_layers, &m->kv_bytes))
        return fl_fail(err, FL_E_NOMEM, "kv_tokens: %lld pages are too many", (long long)n_pages);
    int rc = check_memory(m, m->kv_bytes, err);
    if (rc || (rc = fl_kv_pool_init(&m->pool, n_pages, err))) return rc;
    if (!(m->kv = fl_alloc_array((size_t)c->n_layers, sizeof(*m->kv))))
        return fl_fail(err, FL_E_NOMEM, "kv: %lld layers", (long long)c->n_layers);
    if ((rc = m->ops->mem_new(m->be, &m->kv_data, m->kv_bytes, err))) return rc;
    for (int64_t i = 0; i < c->n_layers; i++) {
        m->kv[i] = (fl_kv_layer){(char *)m->kv_data + (uint64_t)i * layer_bytes, shape, 1, 1};
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
    fl_quant_cross_check(m->checkpoint, &m->plan);
    return FL_OK;
}

static void name_quantization(fl_model *m) {
    static const char *const act[] = {"weight-only", "static", "dynamic", "block"};
    const char *flavour = fl_quant_flavour_name(m->plan.flavour);
    bool plain = m->plan.flavour == FL_QUANT_NONE;
    snprintf(m->quantization, sizeof(m->quantization), "%s%s%s", flavour, plain ? "" : " ",
             plain ? "" : act[m->plan.act]);
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
    if ((rc = check_memory(m, fl_checkpoint_bytes(m->checkpoint), err))) return rc;
    fl_weights_request want = {m->ops,   m->be,       m->checkpoint,  c,
                               &m->plan, o->progress, o->progress_ctx};
    if ((rc = fl_weights_load(&m->weights, &want, err))) return rc;
    if ((rc = make_kv(m, o->kv, fl_div_up(kv_tokens, FL_KV_PAGE_TOKENS), err))) return rc;
    m->prefix_cache = !o->no_prefix_cache;
    if ((rc = make_rope(m, err))) return rc;
    fl_scratch_shape shape = {
        .config = c,
        .act_dtype = m->weights.act_dtype,
        .max_rows = rows,
        .max_pages = fl_div_up(m->context, FL_KV_PAGE_TOKENS),
        .head_rows = fl_vocab_rows(m->checkpoint, c, c->tied ? "model.embed_tokens" : "lm_head"),
        .logit_rows = fl_max_i64(FL_LOGIT_ROWS, m->graphs.offered ? fl_graph_most_rows(rows) : 0)};
    if ((rc = fl_scratch_init(&m->scratch, &shape, m->ops, m->be, err))) return rc;
    return fl_step_reserve_seqs(m, 1, err);
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
    if ((rc = build(m, opt, err))) goto done;
    fl_log(FL_LOG_INFO, "%s: %s, %lld layers, kv %s", dir, m->quantization,
           (long long)m->config.n_layers, fl_dtype_name(m->kv[0].shape.dtype));
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
    *out = (fl_model_info){.weight_bytes = m->weights.bytes,
                           .kv_bytes = m->kv_bytes,
                           .scratch_bytes = m->scratch.bytes,
                           .bytes_per_token = m->weights.bytes_per_token,
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
