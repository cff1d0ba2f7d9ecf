/* The chat templates: in files of their own and in tokenizer_config.json. */
#include <string.h>

#include "text/tokenizer_internal.h"
#include "util/file.h"

enum { MAX_TEMPLATE_BYTES = 4 << 20 };

static int no_memory(const char *path, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory for the tokenizer", path);
}

static const char *keep(fl_tokenizer *t, const char *s, size_t n) {
    char *copy = fl_arena_alloc(&t->strings, n + 1);
    if (copy && n) memcpy(copy, s, n);
    return copy;
}

bool fl_named_list_add(fl_tokenizer *t, fl_named_list *list, const char *name, const fl_jv *text) {
    for (size_t i = 0; i < list->n; i++)
        if (!strcmp(list->items[i].name, name)) return true;
    fl_named_text *grown = fl_grow(list->items, (list->n + 1) * sizeof(*grown));
    if (!grown) return false;
    list->items = grown;
    fl_named_text item = {keep(t, name, strlen(name)),
                          keep(t, text->string.data, text->string.len)};
    if (!item.name || !item.text) return false;
    list->items[list->n++] = item;
    return true;
}

/* chat_template: a string, or a list of {name, template}. */
static int read_templates(fl_tokenizer *t, const fl_jv *root, const char *path, fl_err *err) {
    const fl_jv *v = fl_jv_get(root, "chat_template");
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind == FL_JV_STRING)
        return fl_named_list_add(t, &t->templates, "default", v) ? FL_OK : no_memory(path, err);
    if (v->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_FORMAT, "%s: chat_template is neither text nor a list", path);
    for (uint32_t i = 0; i < v->n; i++) {
        const fl_jv *name = fl_jv_get(&v->items[i], "name");
        const fl_jv *text = fl_jv_get(&v->items[i], "template");
        if (!name || name->kind != FL_JV_STRING || !text || text->kind != FL_JV_STRING)
            return fl_fail(err, FL_E_FORMAT, "%s: chat_template %u has no name or no template",
                           path, i);
        if (!fl_named_list_add(t, &t->templates, name->string.data, text))
            return no_memory(path, err);
    }
    return FL_OK;
}

static int read_config(fl_tokenizer *t, const char *dir, fl_err *err) {
    fl_arena arena = {0};
    fl_jv root;
    int rc = FL_OK;
    char *path = fl_path_join(dir, "tokenizer_config.json");
    if (!path) return no_memory(dir, err);
    if (fl_file_exists(path)) {
        rc = fl_jv_load(&root, &arena, path, err);
        if (!rc) rc = read_templates(t, &root, path, err);
    }
    fl_arena_free(&arena);
    fl_free(path);
    return rc;
}

/* A template in a file of its own; file_name NULL: none. */
static int read_template_file(fl_tokenizer *t, const char *dir, const char *file, const char *name,
                              fl_err *err) {
    char *path = fl_path_join(dir, file), *text = NULL;
    size_t n;
    int rc = FL_OK;
    if (!path) return no_memory(dir, err);
    if (fl_file_exists(path) && !(rc = fl_file_read(&text, &n, path, MAX_TEMPLATE_BYTES, err))) {
        fl_jv v = {.kind = FL_JV_STRING, .string = {text, n}};
        if (!fl_named_list_add(t, &t->templates, name, &v)) rc = no_memory(path, err);
    }
    fl_free(text);
    fl_free(path);
    return rc;
}

/* additional_chat_templates/NAME.jinja */
static int read_template_dir(fl_tokenizer *t, const char *dir, fl_err *err) {
    char *folder = fl_path_join(dir, "additional_chat_templates"), **names = NULL;
    size_t n = 0;
    int rc = FL_OK;
    if (!folder) return no_memory(dir, err);
    if (fl_dir_exists(folder)) rc = fl_dir_list(&names, &n, folder, ".jinja", err);
    for (size_t i = 0; i < n && !rc; i++) {
        char *name = fl_memdup(names[i], strlen(names[i]) - strlen(".jinja"));
        rc = name ? read_template_file(t, folder, names[i], name, err) : no_memory(folder, err);
        fl_free(name);
    }
    fl_free(names);
    fl_free(folder);
    return rc;
}

int fl_tokenizer_read_templates(fl_tokenizer *t, const char *dir, fl_err *err) {
    int rc;
    /* The first to name a template wins: highest priority first. */
    if ((rc = read_template_file(t, dir, "chat_template.jinja", "default", err)) ||
        (rc = read_template_dir(t, dir, err)))
        return rc;
    return read_config(t, dir, err);
}
