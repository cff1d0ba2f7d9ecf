#include "quant/quantize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/inventory.h"
#include "formats/module_pattern.h"
#include "formats/quant_config.h"
#include "formats/safetensors_write.h"
#include "formats/sparse24.h"
#include "model/model.h"
#include "quant/calibrate.h"
#include "quant/observer.h"
#include "quant/others.h"
#include "quant/recipe.h"
#include "quant/side_files.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/fp8.h"
#include "util/json.h"
#include "util/mem.h"
#include "util/num.h"
#include "util/terminal.h"

static const size_t MAX_SIDE_FILE_BYTES = (size_t)256 << 20;

/* The decoder linears, and which calibrated input each one reads. */
static const struct {
    const char *suffix;
    fl_observed input;
} linears[] = {{".self_attn.q_proj", FL_OBSERVED_QKV},  {".self_attn.k_proj", FL_OBSERVED_QKV},
               {".self_attn.v_proj", FL_OBSERVED_QKV},  {".self_attn.o_proj", FL_OBSERVED_O},
               {".mlp.gate_proj", FL_OBSERVED_GATE_UP}, {".mlp.up_proj", FL_OBSERVED_GATE_UP},
               {".mlp.down_proj", FL_OBSERVED_DOWN}};
enum { N_LINEARS = sizeof(linears) / sizeof(linears[0]) };

typedef enum { COPY, CODES, KEPT, BITMASK, SCALES, SHAPE } item_kind;

typedef struct item { /* one tensor of the new checkpoint, parallel to job.specs */
    item_kind kind;
    fl_weight weight;    /* COPY: only its tensor                     */
    const float *scales; /* of the weight; SCALES: what is written    */
    int64_t n;           /* of them                                   */
} item;

typedef struct job {
    const char *src, *dst;
    const fl_quantize_options *o;
    fl_recipe recipe;
    fl_config config;
    fl_checkpoint *checkpoint;
    fl_calibration calibration;
    fl_team *team;
    char *tmp;      /* dst.tmp */
    fl_arena block; /* names and scales */
    item *items;
    fl_st_spec *specs;
    size_t n;
    const char **skipped; /* modules that stay as they are, for the configuration */
    size_t n_skipped;
    bool *matched; /* which patterns have named something */
    fl_quantize_report report;
} job;

static void report_progress(void *ctx, double fraction) {
    const job *j = ctx;
    if (j->o->progress) j->o->progress(j->o->progress_ctx, "calibrate", fraction);
}

/* AutoFP8 measures inputs while it computes with quantized weights and inputs, on padded lines. */
static bool as_autofp8(const job *j) {
    return j->recipe.arithmetic == FL_ARITHMETIC_AUTOFP8;
}

static int calibrate(job *j, const char *dir, fl_err *err) {
    fl_model *m;
    fl_calibration_source src = {.path = j->o->calibrate,
                                 .samples = j->o->samples,
                                 .max_length = j->o->max_length,
                                 .autofp8 = as_autofp8(j),
                                 .progress = report_progress,
                                 .progress_ctx = j};
    int64_t context = j->o->max_length ? j->o->max_length : 2048;
    fl_model_options options = {.device = j->o->device,
                                .threads = j->o->threads,
                                .context = fl_min_i64(context, j->config.max_position),
                                .gpu_memory_utilization = j->o->gpu_memory_utilization,
                                .max_step_rows = as_autofp8(j) ? context : 0,
                                .no_prefix_cache = true,
                                .kv = FL_KV_BF16};
    options.kv_tokens = options.context; /* one conversation at a time */
    int rc = fl_model_load(&m, dir, &options, err);
    if (rc) return rc;
    fl_calibration_free(&j->calibration);
    rc = fl_calibrate(&j->calibration, m, &src, err);
    fl_model_unref(m);
    j->report.samples = j->calibration.samples;
    j->report.tokens = j->calibration.tokens;
    return rc;
}

/* "model.layers.3.mlp.up_proj.weight": the layer and the linear; false: not a decoder linear. */
static bool find_linear(const job *j, const char *name, int64_t *layer, int *which) {
    long long number;
    int used = 0;
    if (sscanf(name, "model.layers.%lld%n", &number, &used) != 1 || number < 0 ||
        number >= j->config.n_layers)
        return false;
    for (*which = 0; *which < N_LINEARS; (*which)++) {
        size_t k = strlen(linears[*which].suffix);
        *layer = number;
        if (!strncmp(name + used, linears[*which].suffix, k) && !strcmp(name + used + k, ".weight"))
            return true;
    }
    return false;
}

static int no_memory(const char *name, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory", name);
}

/* Another tensor of the linear whose weight is called so: its last `cut` bytes replaced. */
static const char *sibling(job *j, const char *weight, size_t cut, const char *leaf) {
    size_t stem = strlen(weight) - cut, n = stem + strlen(leaf) + 1;
    char *s = fl_arena_alloc(&j->block, n);
    if (s) snprintf(s, n, "%.*s%s", (int)stem, weight, leaf);
    return s;
}

static const size_t weight_len = sizeof("weight") - 1;

/* name: NULL when there was no memory for it. */
static int add(job *j, const char *name, fl_dtype dtype, item it, const int64_t *dim, int ndim,
               fl_err *err) {
    if (!name) return no_memory(it.weight.tensor->name, err);
    fl_st_spec *s = &j->specs[j->n];
    *s = (fl_st_spec){.name = name, .dtype = dtype, .ndim = ndim};
    uint64_t bytes = (uint64_t)fl_dtype_bytes(dtype);
    for (int i = 0; i < ndim; i++) {
        s->dim[i] = dim[i];
        bytes *= (uint64_t)dim[i];
    }
    j->report.bytes_out += bytes;
    j->items[j->n++] = it;
    return FL_OK;
}

/* BF16 only where the codes were made with the rounded scale. */
static fl_dtype scale_dtype(const job *j) {
    return j->recipe.arithmetic == FL_ARITHMETIC_COMPRESSED_TENSORS ? FL_DTYPE_BF16 : FL_DTYPE_F32;
}

/* A scale of an activation, beside the weight t. */
static int add_scale(job *j, const fl_st_tensor *t, const char *name, float value, fl_err *err) {
    const int64_t one = 1;
    float *scale = fl_arena_alloc(&j->block, sizeof(*scale));
    if (!scale) return no_memory(t->name, err);
    *scale = value;
    item it = {.kind = SCALES, .weight.tensor = t, .scales = scale, .n = 1};
    return add(j, name, scale_dtype(j), it, &one, j->recipe.format == FL_QUANT_COMPRESSED_TENSORS,
               err);
}

static int add_weight_scale(job *j, item it, const int64_t dim[2], fl_err *err) {
    const char *name = it.weight.tensor->name;
    const bool block = it.weight.grain == FL_GRAIN_BLOCK;
    const fl_quant_flavour format = j->recipe.format;
    int ndim = it.weight.grain == FL_GRAIN_TENSOR ? 0 : 2;
    if (format == FL_QUANT_COMPRESSED_TENSORS && ndim == 0) ndim = 1;
    if (format == FL_QUANT_MODELOPT && ndim == 2) ndim = 1;
    const char *leaf = block && format == FL_QUANT_AUTOFP8 ? "weight_scale_inv" : "weight_scale";
    it.kind = SCALES;
    return add(j, sibling(j, name, weight_len, leaf), scale_dtype(j), it, dim, ndim, err);
}

/* The weight itself: one tensor, or the three of the bitmask layout. */
static int add_codes(job *j, item it, fl_err *err) {
    const fl_st_tensor *t = it.weight.tensor;
    const int64_t kept[] = {t->dim[0], t->dim[1] / 2}, mask[] = {t->dim[0], t->dim[1] / 8};
    const int64_t shape[] = {2, 1};
    int rc;
    it.kind = CODES;
    if (!j->recipe.bitmask) return add(j, t->name, FL_DTYPE_E4M3, it, t->dim, t->ndim, err);
    it.kind = KEPT;
    if ((rc = add(j, sibling(j, t->name, weight_len, "compressed"), FL_DTYPE_E4M3, it, kept, 2,
                  err)))
        return rc;
    it.kind = BITMASK;
    if ((rc = add(j, sibling(j, t->name, weight_len, "bitmask"), FL_DTYPE_U8, it, mask, 2, err)))
        return rc;
    it.kind = SHAPE;
    return add(j, sibling(j, t->name, weight_len, "shape"), FL_DTYPE_I64, it, shape, 2, err);
}

static const float *channel_squares(const job *j, int64_t layer, fl_observed input) {
    if (!j->recipe.wanda) return NULL;
    return j->calibration.sumsq + layer * fl_observed_column(&j->config, FL_OBSERVED_INPUTS) +
           fl_observed_column(&j->config, input);
}

static int add_linear(job *j, const fl_st_tensor *t, int64_t layer, fl_observed input,
                      fl_err *err) {
    const fl_recipe *r = &j->recipe;
    item it = {.weight = {.tensor = t,
                          .grain = r->grain,
                          .arithmetic = r->arithmetic,
                          .mse = r->mse,
                          .prune = r->prune,
                          .sumsq = channel_squares(j, layer, input)}};
    int64_t dim[2];
    char shape[160];
    int rc;
    if (t->ndim != 2 || t->dim[0] < 1 || t->dim[1] < 1)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: shape %s, a linear has two dimensions", t->file,
                       t->name, fl_st_shape(shape, t));
    fl_weight_scale_shape(dim, &it.weight);
    it.n = dim[0] * dim[1];
    float *scales = fl_arena_alloc(&j->block, (size_t)it.n * sizeof(*scales));
    if (!scales) return no_memory(t->name, err);
    if ((rc = fl_weight_measure(scales, &it.weight, j->team, err))) return rc;
    fl_file_release(t->data, t->bytes);
    it.scales = scales;
    if ((rc = add_codes(j, it, err)) || (rc = add_weight_scale(j, it, dim, err))) return rc;
    j->report.linears++;
    if (r->act != FL_ACT_STATIC) return FL_OK;
    float amax = j->calibration.absmax[layer * FL_OBSERVED + input];
    float scale = r->arithmetic == FL_ARITHMETIC_F32 ? fl_act_scale(amax)
                                                     : fl_arithmetic_scale(r->arithmetic, amax);
    return add_scale(j, t, sibling(j, t->name, weight_len, "input_scale"), scale, err);
}

/* Scales of the KV cache, one for the keys and one for the values of a layer. */
static int add_kv_scale(job *j, const fl_st_tensor *t, int64_t layer, bool keys, fl_err *err) {
    const bool modelopt = j->recipe.format == FL_QUANT_MODELOPT;
    const size_t cut = modelopt ? weight_len : sizeof("k_proj.weight") - 1;
    float amax =
        j->calibration.absmax[layer * FL_OBSERVED + (keys ? FL_OBSERVED_K : FL_OBSERVED_V)];
    return add_scale(j, t, sibling(j, t->name, cut, keys ? "k_scale" : "v_scale"),
                     fl_arithmetic_scale(j->recipe.arithmetic, amax), err);
}

/* Whether a pattern names this module; all that do are marked as used. */
static bool ignored(job *j, const char *module) {
    bool any = false;
    for (size_t i = 0; i < j->o->n_ignore; i++) {
        if (!fl_module_pattern_match(j->o->ignore[i], module)) continue;
        any = j->matched[i] = true;
    }
    return any;
}

static int plan_tensor(job *j, const fl_st_tensor *t, fl_err *err) {
    int64_t layer;
    int which, rc;
    if (!find_linear(j, t->name, &layer, &which))
        return add(j, t->name, t->dtype, (item){.kind = COPY, .weight.tensor = t}, t->dim, t->ndim,
                   err);
    const char *module = sibling(j, t->name, sizeof(".weight") - 1, "");
    if (!module) return no_memory(t->name, err);
    bool keys = !strcmp(linears[which].suffix, ".self_attn.k_proj");
    bool values = !strcmp(linears[which].suffix, ".self_attn.v_proj");
    if (j->recipe.kv && (keys || values) && (rc = add_kv_scale(j, t, layer, keys, err))) return rc;
    if (!ignored(j, module)) return add_linear(j, t, layer, linears[which].input, err);
    j->skipped[j->n_skipped++] = module;
    j->report.ignored++;
    return add(j, t->name, t->dtype, (item){.kind = COPY, .weight.tensor = t}, t->dim, t->ndim,
               err);
}

static int check_plan(const job *j, fl_err *err) {
    const fl_quantize_report *r = &j->report;
    long long found = r->linears + r->ignored, all = j->config.n_layers * N_LINEARS;
    for (size_t i = 0; i < j->o->n_ignore; i++) {
        if (!j->matched[i])
            return fl_fail(err, FL_E_ARG, "ignore: '%.100s' names no linear of %s", j->o->ignore[i],
                           j->src);
    }
    if (found != all)
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %lld linears called as in a Llama, config.json makes it %lld", j->src,
                       found, all);
    return FL_OK;
}

static int plan(job *j, fl_err *err) {
    enum { MOST = 6 }; /* tensors that one becomes */
    const size_t n = fl_checkpoint_count(j->checkpoint);
    j->items = fl_alloc_array(n, MOST * sizeof(*j->items));
    j->specs = fl_alloc_array(n, MOST * sizeof(*j->specs));
    j->skipped = fl_alloc_array(n + 1, sizeof(*j->skipped));
    j->matched = fl_alloc_array(j->o->n_ignore, sizeof(*j->matched));
    if (!j->items || !j->specs || !j->skipped || !j->matched) return no_memory(j->src, err);
    ignored(j, j->skipped[j->n_skipped++] = "lm_head");
    for (size_t i = 0; i < n; i++) {
        int rc = plan_tensor(j, fl_checkpoint_at(j->checkpoint, i), err);
        if (rc || (rc = fl_interrupt_check(err))) return rc;
        if (j->o->progress)
            j->o->progress(j->o->progress_ctx, "measure", (double)(i + 1) / (double)n);
    }
    return check_plan(j, err);
}

static int put_scales(fl_st_writer *w, const item *it, fl_dtype dtype, fl_err *err) {
    if (dtype == FL_DTYPE_F32)
        return fl_st_writer_put(w, it->scales, (size_t)it->n * sizeof(float), err);
    int rc = FL_OK;
    for (int64_t i = 0; !rc && i < it->n; i++) {
        uint16_t half = fl_f32_to_bf16(it->scales[i]);
        rc = fl_st_writer_put(w, &half, sizeof(half), err);
    }
    return rc;
}

/* One half of the bitmask layout, row by row. */
static int put_packed(fl_st_writer *w, const item *it, const uint8_t *codes, fl_err *err) {
    const fl_st_tensor *t = it->weight.tensor;
    const int64_t k = t->dim[1];
    uint8_t *kept = fl_alloc((size_t)(k / 2 + k / 8));
    if (!kept) return no_memory(t->name, err);
    uint8_t *mask = kept + k / 2;
    int rc = FL_OK;
    for (int64_t row = 0; !rc && row < t->dim[0]; row++) {
        if (!fl_sparse24_pack(kept, mask, codes + row * k, FL_DTYPE_E4M3, k))
            rc = fl_fail(err, FL_E_FORMAT, "%s: row %lld is not 2:4", t->name, (long long)row);
        else if (it->kind == KEPT)
            rc = fl_st_writer_put(w, kept, (size_t)(k / 2), err);
        else
            rc = fl_st_writer_put(w, mask, (size_t)(k / 8), err);
    }
    fl_free(kept);
    return rc;
}

static int put_codes(job *j, fl_st_writer *w, const item *it, fl_err *err) {
    const fl_st_tensor *t = it->weight.tensor;
    size_t n = (size_t)fl_st_numel(t);
    uint8_t *codes = fl_map_pages(n);
    if (!codes) return fl_fail(err, FL_E_NOMEM, "%s: %zu bytes", t->name, n);
    fl_weight_encode(codes, &it->weight, it->scales, j->team);
    int rc = it->kind == CODES ? fl_st_writer_put(w, codes, n, err) : put_packed(w, it, codes, err);
    fl_unmap_pages(codes, n);
    return rc;
}

static int put_item(job *j, fl_st_writer *w, size_t i, fl_err *err) {
    const item *it = &j->items[i];
    const fl_st_tensor *t = it->weight.tensor;
    if (it->kind == SCALES) return put_scales(w, it, j->specs[i].dtype, err);
    if (it->kind == SHAPE) return fl_st_writer_put(w, t->dim, 2 * sizeof(t->dim[0]), err);
    int rc =
        it->kind == COPY ? fl_st_writer_put(w, t->data, t->bytes, err) : put_codes(j, w, it, err);
    fl_file_release(t->data, t->bytes);
    return rc;
}

static int write_tensors(job *j, fl_err *err) {
    fl_st_writer *w;
    int rc = fl_st_writer_new(&w, j->tmp, j->specs, j->n, j->o->max_shard_bytes, err);
    if (rc) return rc;
    size_t next;
    for (size_t done = 0; (next = fl_st_writer_next(w, NULL)) < j->n; done++) {
        rc = fl_checkpoint_check(j->checkpoint, put_item(j, w, next, err), err);
        if (rc || (rc = fl_interrupt_check(err))) {
            fl_st_writer_abort(w);
            return rc;
        }
        if (j->o->progress)
            j->o->progress(j->o->progress_ctx, "write", (double)(done + 1) / (double)j->n);
    }
    return fl_st_writer_finish(w, err);
}

/* config.json as it is, with one member more: text in, text out, nothing reformatted. */
static int write_config(job *j, fl_err *err) {
    char *from = fl_path_join(j->src, "config.json"), *to = fl_path_join(j->tmp, "config.json");
    char *text = NULL;
    size_t n;
    fl_bytes out = {0};
    int rc = from && to ? fl_file_read(&text, &n, from, MAX_SIDE_FILE_BYTES, err)
                        : fl_fail(err, FL_E_NOMEM, "config.json");
    if (rc) goto done;
    /* The loader has parsed it: its last closing brace ends the object. */
    while (n && text[n - 1] != '}') n--;
    n--;
    while (n && strchr(" \t\r\n", text[n - 1])) n--;
    fl_bytes_put(&out, text, n);
    fl_bytes_puts(&out, ",\n  \"quantization_config\": ");
    fl_recipe_config(&out, &j->recipe, j->skipped, j->n_skipped);
    fl_bytes_puts(&out, "\n}\n");
    rc = out.failed ? fl_fail(err, FL_E_NOMEM, "config.json")
                    : fl_file_write(to, out.data, out.len, err);
done:
    fl_bytes_free(&out);
    fl_free(from);
    fl_free(to);
    fl_free(text);
    return rc;
}

static int write_side_file(job *j, fl_err *err) {
    if (j->recipe.format != FL_QUANT_MODELOPT) return FL_OK;
    char *to = fl_path_join(j->tmp, "hf_quant_config.json");
    fl_bytes out = {0};
    fl_recipe_side_file(&out, &j->recipe, j->skipped, j->n_skipped);
    int rc = !to || out.failed ? no_memory("hf_quant_config.json", err)
                               : fl_file_write(to, out.data, out.len, err);
    fl_bytes_free(&out);
    fl_free(to);
    return rc;
}

static int write_all(job *j, fl_err *err) {
    int rc;
    if ((rc = fl_dir_remove(j->tmp, err)) || (rc = fl_dir_make(j->tmp, err))) return rc;
    if ((rc = write_tensors(j, err)) || (rc = write_config(j, err)) ||
        (rc = write_side_file(j, err)))
        return rc;
    return fl_side_files_copy(j->src, j->tmp, err);
}

static void free_plan(job *j) {
    fl_arena_free(&j->block);
    fl_free(j->items);
    fl_free(j->specs);
    fl_free(j->skipped);
    fl_free(j->matched);
    j->items = NULL;
    j->specs = NULL;
    j->skipped = NULL;
    j->matched = NULL;
    j->n = j->n_skipped = 0;
    j->report = (fl_quantize_report){.samples = j->report.samples, .tokens = j->report.tokens};
}

static int make(job *j, fl_err *err) {
    int rc;
    free_plan(j);
    j->report.bytes_in = fl_checkpoint_bytes(j->checkpoint);
    if ((rc = plan(j, err))) return rc;
    return write_all(j, err);
}

/* For AutoFP8 the first one only serves to measure the inputs of quantized linears. */
static int make_calibrated(job *j, fl_err *err) {
    int rc;
    if ((rc = make(j, err))) return rc;
    if (j->recipe.calibrate && as_autofp8(j)) {
        if ((rc = calibrate(j, j->tmp, err)) || (rc = make(j, err))) return rc;
    }
    if (rename(j->tmp, j->dst)) return fl_fail(err, FL_E_IO, "%s: %s", j->dst, strerror(errno));
    fl_warn_of_others(j->dst, &j->recipe, &j->config, j->skipped, j->n_skipped);
    return FL_OK;
}

/* write_config adds a member; null counts as none for the loader, but it is there. */
static int check_config(const job *j, fl_err *err) {
    fl_json *doc = NULL;
    char *path = fl_path_join(j->src, "config.json");
    int rc = path ? fl_json_load(&doc, path, MAX_SIDE_FILE_BYTES, err) : no_memory(j->src, err);
    const fl_json_node *v = rc ? NULL : fl_json_first(fl_json_root(doc));
    for (; !rc && v; v = fl_json_next(v)) {
        if (!strcmp(fl_json_key(v), "quantization_config"))
            rc = fl_fail(err, FL_E_UNSUPPORTED, "%s: has a quantization_config already", path);
    }
    fl_json_free(doc);
    fl_free(path);
    return rc;
}

/* A device that is not there is told before anything is read, calibration or not. */
static int check_device(const char *name, fl_err *err) {
    const fl_backend_ops *ops;
    fl_backend *be;
    fl_backend_params params = {.threads = 1, .max_rows = 1};
    int rc = fl_backend_device(&ops, &params.device, name, err);
    if (!rc && !(rc = ops->open(&be, &params, err))) ops->close(be);
    return rc;
}

static int check_request(job *j, fl_err *err) {
    const fl_quantize_options *o = j->o;
    fl_quant_plan existing;
    fl_generation_config gen;
    int rc;
    if ((rc = fl_recipe_read(&j->recipe, o, err))) return rc;
    for (size_t i = 0; i < o->n_ignore; i++) {
        if ((rc = fl_module_pattern_check(o->ignore[i], err))) return fl_fail_in(err, "ignore: ");
    }
    if (o->samples < 0 || o->max_length < 0)
        return fl_fail(err, FL_E_ARG, "samples and max_length: need 1 or more, got %lld and %lld",
                       (long long)o->samples, (long long)o->max_length);
    if (o->device && strcmp(o->device, "auto") && (rc = check_device(o->device, err))) return rc;
    if (fl_file_exists(j->dst)) return fl_fail(err, FL_E_ARG, "%s: exists already", j->dst);
    if ((rc = fl_config_load(&j->config, &gen, j->src, err))) return rc;
    if ((rc = fl_quant_plan_load(&existing, j->src, err))) return rc;
    fl_quant_plan_free(&existing);
    if (existing.flavour != FL_QUANT_NONE)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: is quantized already (%s)", j->src,
                       fl_quant_flavour_name(existing.flavour));
    return check_config(j, err);
}

/* dst without trailing slashes, plus ".tmp" */
static char *temporary_name(const char *dst) {
    size_t n = strlen(dst);
    while (n > 1 && dst[n - 1] == '/') n--;
    char *tmp = fl_alloc(n + 5);
    if (tmp) snprintf(tmp, n + 5, "%.*s.tmp", (int)n, dst);
    return tmp;
}

int fl_quantize(fl_quantize_report *out, const char *src, const char *dst,
                const fl_quantize_options *o, fl_err *err) {
    job j = {.src = src, .dst = dst, .o = o};
    int rc;
    if ((rc = check_request(&j, err))) goto done;
    if (!(j.tmp = temporary_name(dst))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dst);
        goto done;
    }
    if ((rc = fl_team_new(&j.team, o->threads, err))) goto done;
    if (j.recipe.calibrate && (rc = calibrate(&j, src, err))) goto done;
    fl_quant_plan plain = {.flavour = FL_QUANT_NONE};
    if ((rc = fl_checkpoint_open(&j.checkpoint, src, err)) ||
        (rc = fl_inventory_take(j.checkpoint, &j.config, &plain, err)))
        goto done;
    fl_interrupt_hold(); /* what is half written is removed before an interrupt ends the process */
    if ((rc = fl_checkpoint_check(j.checkpoint, make_calibrated(&j, err), err)))
        fl_dir_remove(j.tmp, NULL);
    else
        *out = j.report;
    fl_interrupt_release();
done:
    fl_checkpoint_close(j.checkpoint);
    fl_team_free(j.team);
    free_plan(&j);
    fl_calibration_free(&j.calibration);
    fl_free(j.tmp);
    return rc;
}
