#include "quant/calibrate.h"

#include <string.h>

#include "model/sequence.h"
#include "quant/observer.h"
#include "text/chat.h"
#include "text/chat_messages.h"
#include "util/file.h"
#include "util/mem.h"
#include "util/num.h"
#include "util/terminal.h"

enum { DEFAULT_SAMPLES = 512, DEFAULT_LENGTH = 2048 };
static const size_t MAX_FILE_BYTES = (size_t)1 << 30;

typedef struct reader {
    const fl_calibration_source *src;
    fl_model *model;
    fl_tokenizer *tokenizer;
    fl_tokenizer_ctx *ctx;
    fl_template *tmpl; /* NULL until the first line with messages */
    fl_sequence *sequence;
    int64_t max_length, longest; /* tokens of a line: at most, and found */
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

/* The members of the line with its messages as templates expect them. */
static int prepare(fl_jv *out, const reader *r, const fl_jv *line, const fl_jv *messages,
                   fl_arena *arena, fl_err *err) {
    fl_jv prepared;
    int rc = fl_chat_prepare(&prepared, messages, r->tmpl, arena, err);
    if (rc) return rc;
    fl_jv_member *m = fl_arena_alloc(arena, line->n * sizeof(*m));
    if (!m) return fl_fail(err, FL_E_NOMEM, "messages");
    for (uint32_t i = 0; i < line->n; i++) {
        m[i] = line->members[i];
        if (&line->members[i].value == messages) m[i].value = prepared;
    }
    *out = (fl_jv){.kind = FL_JV_OBJECT, .n = line->n, .members = m};
    return FL_OK;
}

static int encode_line(reader *r, const fl_jv *line, fl_arena *arena, fl_ids *ids, fl_err *err) {
    const fl_jv *text = fl_jv_get(line, "text");
    fl_jv values;
    int rc;
    if (text && text->kind == FL_JV_STRING) {
        fl_encode_options o = {.add_special_tokens = true};
        return fl_tokenizer_encode(r->tokenizer, r->ctx, text->string.data, text->string.len, &o,
                                   ids, err);
    }
    const fl_jv *messages = fl_jv_get(line, "messages");
    if (!messages || messages->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_FORMAT, "need a member \"messages\" (list) or \"text\" (string)");
    if ((rc = need_template(r, err)) || (rc = prepare(&values, r, line, messages, arena, err)))
        return rc;
    return fl_chat_encode(r->tokenizer, r->ctx, r->tmpl, &values, 0, ids, err);
}

static int read_line(reader *r, fl_ids *ids, const char *text, size_t n, int64_t line_no,
                     fl_err *err) {
    fl_arena arena = {0};
    fl_jv line;
    int rc = fl_jv_parse(&line, &arena, text, n, r->src->path, err);
    if (!rc) rc = encode_line(r, &line, &arena, ids, err);
    if ((int64_t)ids->len > r->max_length) ids->len = (size_t)r->max_length;
    if ((int64_t)ids->len > r->longest) r->longest = (int64_t)ids->len;
    fl_arena_free(&arena);
    return rc ? fl_fail_in(err, "%s:%lld: ", r->src->path, (long long)line_no) : FL_OK;
}

static bool blank(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r", s[i])) i++;
    return i == n;
}

/* *samples: [*n], to be freed by the caller also after a failure. */
static int read_file(reader *r, fl_ids **samples, int64_t *n, fl_err *err) {
    char *text;
    size_t size, at = 0, lines = 1;
    int rc = fl_file_read(&text, &size, r->src->path, MAX_FILE_BYTES, err);
    if (rc) return rc;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    const int64_t want = r->src->samples ? r->src->samples : DEFAULT_SAMPLES;
    const int64_t most = fl_min_i64(want, (int64_t)lines);
    if (!(*samples = fl_alloc_array((size_t)most, sizeof(**samples))))
        rc = fl_fail(err, FL_E_NOMEM, "%s: %lld samples", r->src->path, (long long)most);
    for (int64_t line_no = 1; !rc && at < size && *n < most; line_no++) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t len = end ? (size_t)(end - (text + at)) : size - at;
        if (!blank(text + at, len))
            rc = read_line(r, &(*samples)[(*n)++], text + at, len, line_no, err);
        at += len + 1;
    }
    if (!rc && !r->longest) rc = fl_fail(err, FL_E_FORMAT, "%s: no samples", r->src->path);
    fl_free(text);
    return rc;
}

static int pad(const reader *r, fl_ids *ids, fl_err *err) {
    int32_t id = fl_tokenizer_eos(r->tokenizer);
    if (id < 0)
        return fl_fail(err, FL_E_FORMAT, "%s: no end token to pad with", fl_model_dir(r->model));
    while ((int64_t)ids->len < r->longest) {
        if (!fl_ids_push(ids, id)) return fl_fail(err, FL_E_NOMEM, "%s", r->src->path);
    }
    return FL_OK;
}

static int run_samples(reader *r, fl_ids *samples, int64_t n, fl_calibration *out, fl_err *err) {
    for (int64_t i = 0; i < n; i++) {
        int rc = r->src->autofp8 ? pad(r, &samples[i], err) : FL_OK;
        if (!rc && samples[i].len) {
            int64_t len = (int64_t)samples[i].len;
            rc = fl_sequence_rewind(r->sequence, 0, err);
            if (!rc) rc = fl_sequence_feed(r->sequence, samples[i].data, len, NULL, err);
            out->tokens += len;
        }
        if (rc || (rc = fl_interrupt_check(err))) return rc;
        out->samples++;
        if (r->src->progress) r->src->progress(r->src->progress_ctx, (double)(i + 1) / (double)n);
    }
    return FL_OK;
}

/* Read all, then run: padding needs the longest. */
static int run_file(reader *r, fl_calibration *out, fl_err *err) {
    const int64_t want = r->src->max_length ? r->src->max_length : DEFAULT_LENGTH;
    fl_model_info info;
    fl_ids *samples = NULL;
    int64_t n = 0;
    fl_model_info_get(r->model, &info);
    r->max_length = fl_min_i64(want, info.context);
    int rc = read_file(r, &samples, &n, err);
    if (!rc) rc = run_samples(r, samples, n, out, err);
    for (int64_t i = 0; i < n; i++) fl_ids_free(&samples[i]);
    fl_free(samples);
    return rc;
}

void fl_calibration_free(fl_calibration *c) {
    fl_free(c->absmax);
    fl_free(c->sumsq);
    *c = (fl_calibration){0};
}

static float autofp8_scale(float amax) {
    return fl_arithmetic_scale(FL_ARITHMETIC_AUTOFP8, amax);
}

static void autofp8_encode(uint8_t *codes, const float *x, int64_t n, float scale) {
    fl_arithmetic_encode(FL_ARITHMETIC_AUTOFP8, codes, x, n, scale);
}

static const fl_input_rule autofp8_rule = {autofp8_scale, autofp8_encode};

int fl_calibrate(fl_calibration *out, fl_model *m, const fl_calibration_source *src, fl_err *err) {
    reader r = {.src = src, .model = m};
    int rc;
    *out = (fl_calibration){0};
    const fl_config *c = fl_model_config(m);
    const size_t layers = (size_t)c->n_layers,
                 columns = (size_t)fl_observed_column(c, FL_OBSERVED_INPUTS);
    if ((rc = fl_tokenizer_load(&r.tokenizer, fl_model_dir(m), err))) goto done;
    if ((rc = fl_tokenizer_ctx_new(&r.ctx, r.tokenizer, err))) goto done;
    if ((rc = fl_sequence_new(&r.sequence, m, err))) goto done;
    out->absmax = fl_alloc_array(layers * FL_OBSERVED, sizeof(float));
    out->sumsq = fl_alloc_array(layers * columns, sizeof(float));
    if (!out->absmax || !out->sumsq) {
        rc = fl_fail(err, FL_E_NOMEM, "calibration");
        goto done;
    }
    if ((rc = fl_model_observe_begin(m, src->autofp8 ? &autofp8_rule : NULL, err))) goto done;
    if ((rc = run_file(&r, out, err))) goto done;
    rc = fl_model_observe_end(m, out->absmax, out->sumsq, err);
done:
    if (rc) fl_calibration_free(out);
    fl_sequence_unref(r.sequence);
    fl_template_unref(r.tmpl);
    fl_tokenizer_ctx_free(r.ctx);
    fl_tokenizer_unref(r.tokenizer);
    return rc;
}
