/* What the files beside tokenizer.json say: named special tokens and chat templates. */
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

/* Add name -> text unless the name is there. */
static bool list_add(fl_tokenizer *t, fl_named_list *list, const char *name, const fl_jv *text) {
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

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* Every member "..._token" that is a string or an object with "content". */
static int read_named(fl_tokenizer *t, const fl_jv *root, const char *path, fl_err *err) {
    for (uint32_t i = 0; root->kind == FL_JV_OBJECT && i < root->n; i++) {
        const fl_jv_member *m = &root->members[i];
        const fl_jv *text =
            m->value.kind == FL_JV_OBJECT ? fl_jv_get(&m->value, "content") : &m->value;
        if (!ends_with(m->key.string.data, "_token") || !text || text->kind != FL_JV_STRING)
            continue;
        if (!list_add(t, &t->named, m->key.string.data, text)) return no_memory(path, err);
    }
    return FL_OK;
}

/* chat_template: a string, or a list of {name, template}. */
static int read_templates(fl_tokenizer *t, const fl_jv *root, const char *path, fl_err *err) {
    const fl_jv *v = fl_jv_get(root, "chat_template");
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind == FL_JV_STRING)
        return list_add(t, &t->templates, "default", v) ? FL_OK : no_memory(path, err);
    if (v->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_FORMAT, "%s: chat_template is neither text nor a list", path);
    for (uint32_t i = 0; i < v->n; i++) {
        const fl_jv *name = fl_jv_get(&v->items[i], "name");
        const fl_jv *text = fl_jv_get(&v->items[i], "template");
        if (!name || name->kind != FL_JV_STRING || !text || text->kind != FL_JV_STRING)
            return fl_fail(err, FL_E_FORMAT, "%s: chat_template %u has no name or no template",
                           path, i);
        if (!list_add(t, &t->templates, name->string.data, text)) return no_memory(path, err);
    }
    return FL_OK;
}

static int32_t id_of_named(const fl_tokenizer *t, const char *name) {
    for (size_t i = 0; i < t->named.n; i++)
        if (!strcmp(t->named.items[i].name, name))
            return fl_tokenizer_id(t, t->named.items[i].text, strlen(t->named.items[i].text));
    return -1;
}

/* Early Llama-3 files have no template for BOS: the config asks for it instead. */
static void add_affix(fl_affix *affix, int32_t id, bool front) {
    if (id < 0 || affix->n == FL_MAX_AFFIX) return;
    for (int i = 0; i < affix->n; i++)
        if (affix->ids[i] == id) return;
    if (front) memmove(affix->ids + 1, affix->ids, (size_t)affix->n * sizeof(affix->ids[0]));
    affix->ids[front ? 0 : affix->n] = id;
    affix->n++;
}

typedef int (*file_reader)(fl_tokenizer *t, const fl_jv *root, const char *path, fl_err *err);

/* Read dir/name with `read`; no such file is fine. */
static int with_file(fl_tokenizer *t, const char *dir, const char *name, file_reader read,
                     fl_err *err) {
    fl_arena arena = {0};
    fl_jv root;
    int rc = FL_OK;
    char *path = fl_path_join(dir, name);
    if (!path) return no_memory(dir, err);
    if (fl_file_exists(path)) {
        rc = fl_jv_load(&root, &arena, path, err);
        if (!rc) rc = read(t, &root, path, err);
    }
    fl_arena_free(&arena);
    fl_free(path);
    return rc;
}

static int read_tokenizer_config(fl_tokenizer *t, const fl_jv *root, const char *path,
                                 fl_err *err) {
    bool bos = false, eos = false;
    int rc;
    if ((rc = read_named(t, root, path, err)) || (rc = read_templates(t, root, path, err)) ||
        (rc = fl_jv_bool(root, "add_bos_token", &bos, path, err)) ||
        (rc = fl_jv_bool(root, "add_eos_token", &eos, path, err)))
        return rc;
    if (bos) add_affix(&t->prefix, id_of_named(t, "bos_token"), true);
    if (eos) add_affix(&t->suffix, id_of_named(t, "eos_token"), false);
    return FL_OK;
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
        if (!list_add(t, &t->templates, name, &v)) rc = no_memory(path, err);
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

int fl_tokenizer_read_config(fl_tokenizer *t, const char *dir, fl_err *err) {
    int rc;
    /* The first to name a template or a token wins: highest priority first. */
    if ((rc = read_template_file(t, dir, "chat_template.jinja", "default", err)) ||
        (rc = read_template_dir(t, dir, err)) ||
        (rc = with_file(t, dir, "tokenizer_config.json", read_tokenizer_config, err)) ||
        (rc = with_file(t, dir, "special_tokens_map.json", read_named, err)))
        return rc;
    t->bos = id_of_named(t, "bos_token");
    t->eos = id_of_named(t, "eos_token");
    t->pad = id_of_named(t, "pad_token");
    return FL_OK;
}
