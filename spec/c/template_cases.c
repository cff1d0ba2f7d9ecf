#include "template_cases.h"

#include <stdio.h>
#include <string.h>

#include "util/file.h"

enum { DEFAULT_NOW = 1720256707, MAX_FILE = 1 << 30 };

int template_cases_load(template_cases *c, const char *path, fl_err *err) {
    size_t n;
    *c = (template_cases){0};
    int rc = fl_file_read(&c->text, &n, path, MAX_FILE, err);
    if (!rc) rc = fl_jv_parse(&c->root, &c->arena, c->text, n, path, err);
    const fl_jv *sources = fl_jv_get(&c->root, "templates");
    c->cases = fl_jv_get(&c->root, "cases");
    if (rc || !sources || !c->cases) return rc ? rc : FL_E_FORMAT;
    c->templates = fl_alloc_array(sources->n, sizeof(*c->templates));
    c->errors = fl_alloc_array(sources->n, sizeof(*c->errors));
    if (!c->templates || !c->errors) return FL_E_NOMEM;
    for (c->n_templates = 0; c->n_templates < sources->n; c->n_templates++) {
        const fl_jv *s = &sources->items[c->n_templates];
        fl_template_parse(&c->templates[c->n_templates], s->string.data, s->string.len,
                          &c->errors[c->n_templates]);
    }
    return FL_OK;
}

void template_cases_free(template_cases *c) {
    for (uint32_t i = 0; i < c->n_templates; i++) fl_template_unref(c->templates[i]);
    fl_free(c->templates);
    fl_free(c->errors);
    fl_free(c->text);
    fl_arena_free(&c->arena);
}

static const char *text_of(const fl_jv *object, const char *key) {
    const fl_jv *v = fl_jv_get(object, key);
    return v && v->kind == FL_JV_STRING ? v->string.data : "";
}

const char *template_case_name(const template_cases *c, uint32_t i) {
    return text_of(&c->cases->items[i], "name");
}

static const fl_jv *of_case(const template_cases *c, uint32_t i, const char *key) {
    const fl_jv *own = fl_jv_get(&c->cases->items[i], key);
    return own ? own : fl_jv_get(&c->root, key);
}

/* The texts around their first difference. */
static void explain(char *why, size_t n, const fl_jv *want, const fl_bytes *got) {
    size_t i = 0;
    while (i < want->string.len && i < got->len && want->string.data[i] == got->data[i]) i++;
    size_t from = i > 30 ? i - 30 : 0;
    snprintf(why, n, "at byte %zu: want '%.80s', got '%.80s'", i, want->string.data + from,
             from < got->len ? got->data + from : "");
}

bool template_case_agrees(const template_cases *c, uint32_t i, char *why, size_t n) {
    const fl_jv *one = &c->cases->items[i];
    const fl_jv *want = fl_jv_get(one, "out"), *now = of_case(c, i, "now");
    int64_t at = fl_jv_get(one, "t")->integer;
    fl_template_context context = {.values = of_case(c, i, "ctx"),
                                   .now = now ? (time_t)now->integer : DEFAULT_NOW};
    fl_bytes out = {0};
    fl_err err = c->errors[at];
    bool same;
    int rc = c->templates[at] ? fl_template_render(c->templates[at], &context, &out, NULL, &err)
                              : err.code;
    fl_bytes_cstr(&out);
    if (want) {
        same = !rc && out.len == want->string.len && !memcmp(out.data, want->string.data, out.len);
        if (rc) snprintf(why, n, "want text, got error '%.200s'", err.msg);
        if (!rc && !same) explain(why, n, want, &out);
    } else {
        const char *message = text_of(one, "msg");
        bool raised = !strcmp(text_of(one, "err"), "raise");
        same = rc && (!raised || rc == FL_E_FORMAT || strstr(err.msg, message));
        snprintf(why, n, "want error '%.200s', got '%.200s'", message, rc ? err.msg : out.data);
    }
    fl_bytes_free(&out);
    return same;
}
