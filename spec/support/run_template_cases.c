/* Renders many templates and compares with what Jinja2 made of them.
 *
 *     make test-templates CASES=cases.json
 *
 * cases.json: {"templates": [source, ...], "cases": [{"name", "t": index of the template,
 * "ctx": variables, and "out": text, or "err": kind and "msg": text, and "now": unix time
 * (UTC), by default 1720256707}, ...]}.  Both failing counts as equal; the message is
 * compared when the template itself raised it ("err": "raise"). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template.h"
#include "util/file.h"

enum { DEFAULT_NOW = 1720256707, MAX_SHOWN = 200 };

static const char *text_of(const fl_jv *object, const char *key) {
    const fl_jv *v = fl_jv_get(object, key);
    return v && v->kind == FL_JV_STRING ? v->string.data : "";
}

static int shown;

static void show(const fl_jv *c, const char *what, const char *want, const char *got) {
    if (shown++ >= MAX_SHOWN) return;
    printf("%s: %s\n  want: %.200s\n  got:  %.200s\n", text_of(c, "name"), what, want, got);
}

/* First difference of two texts, with some context. */
static void show_difference(const fl_jv *c, const fl_jv *want, const fl_bytes *got) {
    size_t i = 0;
    while (i < want->string.len && i < got->len && want->string.data[i] == got->data[i]) i++;
    size_t from = i > 40 ? i - 40 : 0;
    show(c, "text differs", want->string.data + from, got->data ? got->data + from : "");
}

static bool agrees(const fl_jv *c, const fl_template *t, fl_err *parse_error) {
    const fl_jv *want = fl_jv_get(c, "out"), *now = fl_jv_get(c, "now");
    fl_template_context context = {.values = fl_jv_get(c, "ctx"), .now = DEFAULT_NOW};
    fl_bytes out = {0};
    fl_err err = *parse_error;
    bool same;
    if (now && now->kind == FL_JV_INT) context.now = (time_t)now->integer;
    int rc = t ? fl_template_render(t, &context, &out, NULL, &err) : err.code;
    fl_bytes_cstr(&out);
    if (want) {
        same = !rc && out.len == want->string.len && !memcmp(out.data, want->string.data, out.len);
        if (rc) show(c, "we fail", "text", err.msg);
        if (!rc && !same) show_difference(c, want, &out);
    } else {
        const char *message = text_of(c, "msg");
        bool raised = !strcmp(text_of(c, "err"), "raise");
        same = rc != 0 && (!raised || rc == FL_E_FORMAT || strstr(err.msg, message));
        if (!rc) show(c, "only Jinja2 fails", message, out.data ? out.data : "");
        if (rc && !same) show(c, "message differs", message, err.msg);
    }
    fl_bytes_free(&out);
    return same;
}

int main(int argc, char **argv) {
    fl_arena arena = {0};
    fl_err err = {0};
    fl_jv root;
    char *text = NULL;
    size_t n, n_same = 0, n_cases;
    setenv("TZ", "UTC", 1);
    if (argc != 2) {
        fprintf(stderr, "usage: run_template_cases cases.json\n");
        return 2;
    }
    if (fl_file_read(&text, &n, argv[1], (size_t)1 << 30, &err) ||
        fl_jv_parse(&root, &arena, text, n, argv[1], &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    const fl_jv *sources = fl_jv_get(&root, "templates"), *cases = fl_jv_get(&root, "cases");
    fl_template **templates = calloc(sources->n, sizeof(fl_template *));
    fl_err *errors = calloc(sources->n, sizeof(fl_err));
    for (uint32_t i = 0; i < sources->n; i++)
        fl_template_parse(&templates[i], sources->items[i].string.data,
                          sources->items[i].string.len, &errors[i]);
    n_cases = cases->n;
    for (uint32_t i = 0; i < n_cases; i++) {
        int64_t at = fl_jv_get(&cases->items[i], "t")->integer;
        n_same += agrees(&cases->items[i], templates[at], &errors[at]);
    }
    printf("%zu of %zu cases agree\n", n_same, n_cases);
    for (uint32_t i = 0; i < sources->n; i++) fl_template_unref(templates[i]);
    free(templates);
    free(errors);
    fl_arena_free(&arena);
    fl_free(text);
    return n_same != n_cases;
}
