#include "quant/calibrate.h"

#include <string.h>

#include "model/sequence.h"
#include "text/chat.h"
#include "util/file.h"
#include "util/mem.h"
#include "util/num.h"

enum { DEFAULT_SAMPLES = 512, DEFAULT_LENGTH = 2048 };
static const size_t MAX_FILE_BYTES = (size_t)1 << 30;

typedef struct reader {
    const fl_calibration_source *src;
    fl_model *model;
    fl_tokenizer *tokenizer;
    fl_tokenizer_ctx *ctx;
    fl_template *tmpl; /* NULL until the first line with messages */
    fl_sequence *sequence;
} reader;

static int need_template(reader *r, fl_err *err) {
    if (r->tmpl) return FL_OK;
    const char *source = fl_tokenizer_chat_template(r->tokenizer, NULL);
    if (!source)
        return fl_fail(err, FL_E_FORMAT, "%s: no chat template for the messages of %s",
                       fl_model_dir(r->model), r->src->path);
    int rc = fl_template_parse(&r->tmpl, source, strlen(source), err);
    return rc ? fl_fail_in(err, "%s: chat template: ", fl_model_dir(r->model)) : FL_OK;
}

static int encode_line(reader *r, const fl_jv *line, fl_ids *ids, fl_err *err) {
    const fl_jv *text = fl_jv_get(line, "text");
    int rc;
    if (text && text->kind == FL_JV_STRING) {
        fl_encode_options o = {.add_special_tokens = true};
        return fl_tokenizer_encode(r->tokenizer, r->ctx, text->string.data, text->string.len, &o,
                                   ids, err);
    }
    const fl_jv *messages = fl_jv_get(line, "messages");
    if (!messages || messages->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_FORMAT, "need a member \"messages\" (list) or \"text\" (string)");
    if ((rc = need_template(r, err))) return rc;
    return fl_chat_encode(r->tokenizer, r->ctx, r->tmpl, line, 0, ids, err);
}

static int run_line(reader *r, const char *text, size_t n, int64_t line_no, int64_t *tokens,
                    fl_err *err) {
    fl_arena arena = {0};
    fl_ids ids = {0};
    fl_jv line;
    int rc = fl_jv_parse(&line, &arena, text, n, r->src->path, err);
    if (!rc) rc = encode_line(r, &line, &ids, err);
    if (!rc && ids.len) {
        fl_model_info info;
        fl_model_info_get(r->model, &info);
        int64_t want = r->src->max_length ? r->src->max_length : DEFAULT_LENGTH;
        int64_t len = fl_min_i64((int64_t)ids.len, fl_min_i64(want, info.context));
        rc = fl_sequence_rewind(r->sequence, 0, err);
        if (!rc) rc = fl_sequence_feed(r->sequence, ids.data, len, NULL, err);
        *tokens += len;
    }
    fl_ids_free(&ids);
    fl_arena_free(&arena);
    return rc ? fl_fail_in(err, "%s:%lld: ", r->src->path, (long long)line_no) : FL_OK;
}

static bool blank(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r", s[i])) i++;
    return i == n;
}

static int run_file(reader *r, const char *text, size_t size, fl_calibration *out, fl_err *err) {
    const int64_t most = r->src->samples ? r->src->samples : DEFAULT_SAMPLES;
    size_t at = 0;
    for (int64_t line_no = 1; at < size && out->samples < most; line_no++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end ? (size_t)(end - (text + at)) : size - at;
        if (!blank(text + at, n)) {
            int rc = run_line(r, text + at, n, line_no, &out->tokens, err);
            if (rc) return rc;
            out->samples++;
        }
        at += n + 1;
        double by_bytes = (double)at / (double)size, by_count = (double)out->samples / (double)most;
        if (r->src->progress)
            r->src->progress(r->src->progress_ctx, by_bytes > by_count ? by_bytes : by_count);
    }
    if (!out->tokens) return fl_fail(err, FL_E_FORMAT, "%s: no samples", r->src->path);
    return FL_OK;
}

void fl_calibration_free(fl_calibration *c) {
    fl_free(c->absmax);
    fl_free(c->sumsq);
    *c = (fl_calibration){0};
}

int fl_calibrate(fl_calibration *out, fl_model *m, const fl_calibration_source *src, fl_err *err) {
    reader r = {.src = src, .model = m};
    char *text = NULL;
    size_t size;
    int rc;
    *out = (fl_calibration){0};
    const fl_config *c = fl_model_config(m);
    const size_t layers = (size_t)c->n_layers,
                 columns = (size_t)fl_observed_column(c, FL_OBSERVED_INPUTS);
    if ((rc = fl_file_read(&text, &size, src->path, MAX_FILE_BYTES, err))) goto done;
    if ((rc = fl_tokenizer_load(&r.tokenizer, fl_model_dir(m), err))) goto done;
    if ((rc = fl_tokenizer_ctx_new(&r.ctx, r.tokenizer, err))) goto done;
    if ((rc = fl_sequence_new(&r.sequence, m, err))) goto done;
    out->absmax = fl_alloc_array(layers * FL_OBSERVED, sizeof(float));
    out->sumsq = fl_alloc_array(layers * columns, sizeof(float));
    if (!out->absmax || !out->sumsq) {
        rc = fl_fail(err, FL_E_NOMEM, "calibration");
        goto done;
    }
    if ((rc = fl_model_observe_begin(m, err))) goto done;
    if ((rc = run_file(&r, text, size, out, err))) goto done;
    rc = fl_model_observe_end(m, out->absmax, out->sumsq, err);
done:
    if (rc) fl_calibration_free(out);
    fl_sequence_unref(r.sequence);
    fl_template_unref(r.tmpl);
    fl_tokenizer_ctx_free(r.ctx);
    fl_tokenizer_unref(r.tokenizer);
    fl_free(text);
    return rc;
}
