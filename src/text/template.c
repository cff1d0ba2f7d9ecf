#include "text/template.h"

#include <stdatomic.h>
#include <string.h>

#include "text/template_run.h"

enum { DEFAULT_STEPS = 2000000, DEFAULT_ARENA_BYTES = 64 << 20, DEFAULT_OUTPUT_BYTES = 16 << 20 };

int fl_template_parse(fl_template **out, const char *source, size_t n, fl_err *err) {
    fl_err local = {0};
    fl_template *t = NULL;
    fl_tparser p = {.err = err ? err : &local};
    *out = NULL;
    if (n > FL_T_MAX_SOURCE)
        return fl_fail(err, FL_E_LIMIT, "template: %zu bytes, at most %d are read", n,
                       FL_T_MAX_SOURCE);
    if (!(t = fl_alloc(sizeof(*t)))) return fl_fail(err, FL_E_NOMEM, "template: no memory");
    t->refs = 1;
    t->arena.limit = FL_T_MAX_TREE;
    p.t = t;
    int rc = fl_t_lex(&p, source, n) && fl_t_parse(&p) ? FL_OK : p.err->code;
    fl_free(p.tokens);
    fl_map_free(&p.names);
    if (rc) {
        fl_template_unref(t);
    } else {
        *out = t;
    }
    return rc;
}

fl_template *fl_template_ref(fl_template *t) {
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void fl_template_unref(fl_template *t) {
    if (!t || atomic_fetch_sub(&t->refs, 1) > 1) return;
    fl_arena_free(&t->arena);
    fl_free(t);
}

bool fl_template_takes_parts(const fl_template *t) {
    return t->takes_parts;
}

bool fl_template_takes_text(const fl_template *t) {
    return t->takes_text;
}

static const fl_jv *member(const fl_jv *object, const fl_tstr *name) {
    for (uint32_t i = 0; object && object->kind == FL_JV_OBJECT && i < object->n; i++) {
        const fl_jv *key = &object->members[i].key;
        if (key->string.len == name->len && !memcmp(key->string.data, name->data, name->len))
            return &object->members[i].value;
    }
    return NULL;
}

/* What each name of the template means before the template sets anything. */
static bool set_globals(fl_trun *r, const fl_template_context *c) {
    const fl_template *t = r->t;
    if (!(r->globals = fl_t_alloc(r, t->n_names * sizeof(*r->globals)))) return false;
    for (uint32_t i = 0; i < t->n_names; i++) {
        const fl_tstr *name = &t->names[i]->text;
        const fl_jv *value = member(c->values, name), *trusted = member(c->trusted, name);
        const fl_tfunction *function = fl_t_global(name->data, name->len);
        if (!fl_t_charge(r, (c->values ? c->values->n : 0) + (c->trusted ? c->trusted->n : 0)))
            return false;
        if (t->blocks && fl_tstr_is(name, "self")) {
            r->globals[i] = (fl_tv){.kind = FL_TV_SELF};
        } else if (value || trusted) {
            if (!fl_tv_from_json(r, value ? value : trusted, !value, &r->globals[i])) return false;
        } else if (function) {
            r->globals[i] = (fl_tv){.kind = FL_TV_FUNCTION, .function = function};
        } else {
            r->globals[i] = fl_tv_undefined(name, false);
        }
    }
    return true;
}

static bool render(fl_trun *r, const fl_template_context *c) {
    fl_tscope *root = NULL;
    if (!set_globals(r, c) || !(root = fl_t_alloc(r, sizeof(*root)))) return false;
    r->scope = r->root = root;
    if (!fl_t_exec(r, r->t->body)) return false;
    return r->flow == FL_T_NEXT || fl_t_fail(r, FL_E_FORMAT, "break outside of a loop");
}

/* One bit for each byte of the text. */
static void put_bits(fl_bytes *out, const fl_ttext *t) {
    size_t n = t->data.len;
    uint8_t *bits = fl_bytes_reserve(out, (n + 7) / 8);
    if (!bits) return;
    memset(bits, !t->mixed && t->trusted ? 0xff : 0, (n + 7) / 8);
    for (size_t i = 0; t->mixed && i < n; i++)
        bits[i / 8] |= (uint8_t)((t->mask.data[i] != 0) << i % 8);
}

int fl_template_render(const fl_template *t, const fl_template_context *c, fl_bytes *out,
                       fl_bytes *trusted_bits, fl_err *err) {
    fl_err local = {0};
    fl_ttext text = {0};
    fl_trun r = {.t = t, .err = err ? err : &local, .out = &text, .line = 1};
    r.max_steps = c->limits.steps ? c->limits.steps : DEFAULT_STEPS;
    r.max_output = c->limits.output_bytes ? c->limits.output_bytes : DEFAULT_OUTPUT_BYTES;
    r.arena.limit = c->limits.arena_bytes ? c->limits.arena_bytes : DEFAULT_ARENA_BYTES;
    r.now = c->now ? c->now : time(NULL);
    int rc = render(&r, c) ? FL_OK : r.err->code;
    if (!rc) {
        fl_bytes_put(out, text.data.data, text.data.len);
        if (trusted_bits) put_bits(trusted_bits, &text);
        if (out->failed || (trusted_bits && trusted_bits->failed))
            rc = fl_fail(err, FL_E_NOMEM, "template: no memory for %zu bytes", text.data.len);
    }
    fl_ttext_free(&text);
    fl_arena_free(&r.arena);
    return rc;
}
