#include "quant/quantize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"
#include "formats/safetensors_write.h"
#include "model/model.h"
#include "quant/calibrate.h"
#include "quant/observer.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

static const size_t MAX_SIDE_FILE_BYTES = (size_t)256 << 20;

/* Copied unchanged when present. */
static const char *const side_files[] = {"generation_config.json",
                                         "tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "tokenizer.model",
                                         "vocab.json",
                                         "merges.txt",
                                         "chat_template.jinja",
                                         "LICENSE",
                                         "LICENSE.txt",
                                         NULL};

/* The decoder linears, and which calibrated input each one reads. */
static const struct {
    const char *suffix;
    fl_observed input;
} linears[] = {{".self_attn.q_proj", FL_OBSERVED_QKV},  {".self_attn.k_proj", FL_OBSERVED_QKV},
               {".self_attn.v_proj", FL_OBSERVED_QKV},  {".self_attn.o_proj", FL_OBSERVED_O},
               {".mlp.gate_proj", FL_OBSERVED_GATE_UP}, {".mlp.up_proj", FL_OBSERVED_GATE_UP},
               {".mlp.down_proj", FL_OBSERVED_DOWN}};
enum { N_LINEARS = sizeof(linears) / sizeof(linears[0]) };

typedef enum { COPY, CODES, WEIGHT_SCALE, INPUT_SCALE } item_kind;

typedef struct item { /* one tensor of the new checkpoint, parallel to job.specs */
    item_kind kind;
    const fl_st_tensor *source;
    float scale; /* of the weight, or of the input */
} item;

typedef struct job {
    const char *src, *dst;
    const fl_quantize_options *o;
    fl_config config;
    fl_checkpoint *checkpoint;
    fl_calibration calibration;
    fl_team *team;
    char *tmp; /* dst.tmp */
    fl_arena names;
    item *items;
    fl_st_spec *specs;
    size_t n;
    fl_quantize_report report;
} job;

static void report_progress(void *ctx, double fraction) {
    const job *j = ctx;
    if (j->o->progress) j->o->progress(j->o->progress_ctx, "calibrate", fraction);
}

static int calibrate(job *j, fl_err *err) {
    fl_model *m;
    fl_calibration_source src = {j->o->calibrate, j->o->samples, j->o->max_length, report_progress,
                                 j};
    int64_t context = j->o->max_length ? j->o->max_length : 2048;
    fl_model_options options = {.device = j->o->device,
                                .threads = j->o->threads,
                                .context = fl_min_i64(context, j->config.max_position),
                                .no_prefix_cache = true,
                                .kv = FL_KV_BF16};
    int rc = fl_model_load(&m, j->src, &options, err);
    if (rc) return rc;
    rc = fl_calibrate(&j->calibration, m, &src, err);
    fl_model_unref(m);
    j->report.samples = j->calibration.samples;
    j->report.tokens = j->calibration.tokens;
    return rc;
}

/* "model.layers.3.mlp.up_proj.weight" -> its calibrated input, or -1: not a decoder linear. */
static int64_t input_slot(const job *j, const char *name) {
    long long layer;
    int used = 0;
    if (sscanf(name, "model.layers.%lld%n", &layer, &used) != 1 || layer < 0 ||
        layer >= j->config.n_layers)
        return -1;
    for (int i = 0; i < N_LINEARS; i++) {
        size_t k = strlen(linears[i].suffix);
        if (!strncmp(name + used, linears[i].suffix, k) && !strcmp(name + used + k, ".weight"))
            return layer * FL_OBSERVED + linears[i].input;
    }
    return -1;
}

static void add_item(job *j, const char *name, fl_dtype dtype, item it) {
    fl_st_spec *s = &j->specs[j->n];
    *s = (fl_st_spec){.name = name, .dtype = dtype};
    if (it.kind == COPY || it.kind == CODES) {
        s->ndim = it.source->ndim;
        memcpy(s->dim, it.source->dim, sizeof(s->dim));
    }
    uint64_t bytes = (uint64_t)fl_dtype_bytes(dtype);
    for (int i = 0; i < s->ndim; i++) bytes *= (uint64_t)s->dim[i];
    j->report.bytes_out += bytes;
    j->items[j->n++] = it;
}

/* "a.b.weight" with its last part replaced. */
static const char *sibling(job *j, const char *name, const char *leaf) {
    size_t stem = strlen(name) - strlen("weight"), n = stem + strlen(leaf) + 1;
    char *s = fl_arena_alloc(&j->names, n);
    if (s) snprintf(s, n, "%.*s%s", (int)stem, name, leaf);
    return s;
}

static int add_linear(job *j, const fl_st_tensor *t, int64_t slot, fl_err *err) {
    const char *weight_scale = sibling(j, t->name, "weight_scale");
    const char *input_scale = sibling(j, t->name, "input_scale");
    float absmax;
    if (!weight_scale || !input_scale) return fl_fail(err, FL_E_NOMEM, "%s", t->name);
    int rc = fl_weight_absmax(&absmax, t, j->team, err);
    if (rc) return rc;
    item it = {.kind = CODES, .source = t, .scale = fl_weight_scale(absmax)};
    add_item(j, t->name, FL_DTYPE_E4M3, it);
    it.kind = WEIGHT_SCALE;
    add_item(j, weight_scale, FL_DTYPE_F32, it);
    it.kind = INPUT_SCALE;
    it.scale = fl_act_scale(j->calibration.absmax[slot]);
    add_item(j, input_scale, FL_DTYPE_F32, it);
    j->report.linears++;
    return FL_OK;
}

static int plan(job *j, fl_err *err) {
    const size_t n = fl_checkpoint_count(j->checkpoint);
    j->items = fl_alloc_array(n * 3, sizeof(*j->items));
    j->specs = fl_alloc_array(n * 3, sizeof(*j->specs));
    if (!j->items || !j->specs) return fl_fail(err, FL_E_NOMEM, "%s: %zu tensors", j->src, n);
    for (size_t i = 0; i < n; i++) {
        const fl_st_tensor *t = fl_checkpoint_at(j->checkpoint, i);
        int64_t slot = input_slot(j, t->name);
        if (slot < 0) {
            add_item(j, t->name, t->dtype, (item){.kind = COPY, .source = t});
        } else {
            int rc = add_linear(j, t, slot, err);
            if (rc) return rc;
        }
        if (j->o->progress)
            j->o->progress(j->o->progress_ctx, "measure", (double)(i + 1) / (double)n);
    }
    return FL_OK;
}

static int put_item(job *j, fl_st_writer *w, const item *it, fl_err *err) {
    if (it->kind == WEIGHT_SCALE || it->kind == INPUT_SCALE)
        return fl_st_writer_put(w, &it->scale, sizeof(it->scale), err);
    int rc;
    if (it->kind == COPY) {
        rc = fl_st_writer_put(w, it->source->data, it->source->bytes, err);
    } else {
        size_t n = (size_t)fl_st_numel(it->source);
        uint8_t *codes = fl_map_pages(n);
        if (!codes) return fl_fail(err, FL_E_NOMEM, "%s: %zu bytes", it->source->name, n);
        rc = fl_weight_encode(codes, it->source, it->scale, j->team, err);
        if (!rc) rc = fl_st_writer_put(w, codes, n, err);
        fl_unmap_pages(codes, n);
    }
    fl_file_release(it->source->data, it->source->bytes);
    return rc;
}

static int write_tensors(job *j, fl_err *err) {
    fl_st_writer *w;
    int rc = fl_st_writer_new(&w, j->tmp, j->specs, j->n, 0, err);
    if (rc) return rc;
    size_t next;
    for (size_t done = 0; (next = fl_st_writer_next(w, NULL)) < j->n; done++) {
        if ((rc = put_item(j, w, &j->items[next], err))) {
            fl_st_writer_abort(w);
            return rc;
        }
        if (j->o->progress)
            j->o->progress(j->o->progress_ctx, "write", (double)(done + 1) / (double)j->n);
    }
    return fl_st_writer_finish(w, err);
}

static int copy_file(job *j, const char *name, fl_err *err) {
    char *from = fl_path_join(j->src, name), *to = fl_path_join(j->tmp, name), *data = NULL;
    size_t n;
    int rc = FL_OK;
    if (!from || !to)
        rc = fl_fail(err, FL_E_NOMEM, "%s", name);
    else if (fl_file_exists(from)) {
        rc = fl_file_read(&data, &n, from, MAX_SIDE_FILE_BYTES, err);
        if (!rc) rc = fl_file_write(to, data, n, err);
    }
    fl_free(from);
    fl_free(to);
    fl_free(data);
    return rc;
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
    fl_bytes_puts(&out, ",\n  \"quantization_config\": {\n    \"quant_method\": \"fp8\",\n"
                        "    \"activation_scheme\": \"static\",\n"
                        "    \"ignored_layers\": [\n      \"lm_head\"\n    ]\n  }\n}\n");
    rc = out.failed ? fl_fail(err, FL_E_NOMEM, "config.json")
                    : fl_file_write(to, out.data, out.len, err);
done:
    fl_bytes_free(&out);
    fl_free(from);
    fl_free(to);
    fl_free(text);
    return rc;
}

static int write_all(job *j, fl_err *err) {
    int rc;
    if ((rc = fl_dir_remove(j->tmp, err)) || (rc = fl_dir_make(j->tmp, err))) return rc;
    if ((rc = write_tensors(j, err)) || (rc = write_config(j, err))) return rc;
    for (int i = 0; side_files[i]; i++) {
        if ((rc = copy_file(j, side_files[i], err))) return rc;
    }
    if (rename(j->tmp, j->dst)) return fl_fail(err, FL_E_IO, "%s: %s", j->dst, strerror(errno));
    return FL_OK;
}

static int check_request(job *j, fl_err *err) {
    const fl_quantize_options *o = j->o;
    fl_quant_plan existing;
    fl_generation_config gen;
    int rc;
    if (!o->scheme || strcmp(o->scheme, "fp8-static"))
        return fl_fail(err, FL_E_UNSUPPORTED, "scheme: '%s', need fp8-static",
                       o->scheme ? o->scheme : "");
    if (!o->calibrate)
        return fl_fail(err, FL_E_ARG, "calibrate: scheme fp8-static needs a JSONL file");
    if (o->samples < 0 || o->max_length < 0)
        return fl_fail(err, FL_E_ARG, "samples and max_length: need 1 or more, got %lld and %lld",
                       (long long)o->samples, (long long)o->max_length);
    if (fl_file_exists(j->dst)) return fl_fail(err, FL_E_ARG, "%s: exists already", j->dst);
    if ((rc = fl_config_load(&j->config, &gen, j->src, err))) return rc;
    if ((rc = fl_quant_plan_load(&existing, j->src, err))) return rc;
    if (existing.flavour != FL_QUANT_NONE)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: is quantized already (%s)", j->src,
                       fl_quant_flavour_name(existing.flavour));
    return FL_OK;
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
    if ((rc = calibrate(&j, err))) goto done;
    if ((rc = fl_checkpoint_open(&j.checkpoint, src, err))) goto done;
    j.report.bytes_in = fl_checkpoint_bytes(j.checkpoint);
    if ((rc = plan(&j, err))) goto done;
    if ((rc = write_all(&j, err)))
        fl_dir_remove(j.tmp, NULL);
    else
        *out = j.report;
done:
    fl_checkpoint_close(j.checkpoint);
    fl_team_free(j.team);
    fl_arena_free(&j.names);
    fl_calibration_free(&j.calibration);
    fl_free(j.items);
    fl_free(j.specs);
    fl_free(j.tmp);
    return rc;
}
