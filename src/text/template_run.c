/* What every part of a rendering needs: limits, failure, text that grows. */
#include "text/template_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool fl_t_fail(fl_trun *r, int code, const char *fmt, ...) {
    char message[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    fl_fail(r->err, code, "template line %d: %s", r->line, message);
    return false;
}

bool fl_t_undefined(fl_trun *r, const fl_tv *v) {
    int n = v->name ? (int)(v->name->len > 80 ? 80 : v->name->len) : 0;
    if (!v->name) return fl_t_fail(r, FL_E_ARG, "the value is undefined");
    return fl_t_fail(r, FL_E_ARG,
                     v->is_attribute ? "attribute '%.*s' is undefined" : "'%.*s' is undefined", n,
                     v->name->data);
}

bool fl_t_charge(fl_trun *r, size_t bytes) {
    r->steps += bytes / 16 + 1;
    if (r->steps <= r->max_steps) return true;
    return fl_t_fail(r, FL_E_LIMIT, "more than %llu steps", (unsigned long long)r->max_steps);
}

bool fl_t_enter(fl_trun *r) {
    if (++r->depth <= FL_T_EVAL_DEPTH) return true;
    return fl_t_fail(r, FL_E_LIMIT, "nested deeper than %d levels", FL_T_EVAL_DEPTH);
}

void *fl_t_alloc(fl_trun *r, size_t bytes) {
    void *p = fl_arena_alloc(&r->arena, bytes);
    if (p) return p;
    if (bytes > r->arena.limit - r->arena.used) {
        fl_t_fail(r, FL_E_LIMIT, "needs more than %zu bytes of memory", r->arena.limit);
    } else {
        fl_t_fail(r, FL_E_NOMEM, "no memory for %zu bytes", bytes);
    }
    return NULL;
}

/* From "all bytes alike" to one mask byte for each. */
static bool start_mask(fl_trun *r, fl_ttext *t) {
    uint8_t *mask = fl_bytes_reserve(&t->mask, t->data.len);
    if (!mask) return fl_t_fail(r, FL_E_NOMEM, "no memory for %zu bytes", t->data.len);
    memset(mask, t->trusted, t->data.len);
    t->mixed = true;
    return true;
}

bool fl_ttext_put(fl_trun *r, fl_ttext *t, const char *p, size_t n, const uint8_t *mask,
                  bool trusted) {
    if (!n) return true;
    if (!fl_t_charge(r, n)) return false;
    if (n > r->max_output - t->data.len)
        return fl_t_fail(r, FL_E_LIMIT, "text longer than %zu bytes", r->max_output);
    if (!t->data.len) t->trusted = trusted;
    if (!t->mixed && (mask || trusted != t->trusted) && !start_mask(r, t)) return false;
    if (t->mixed) {
        uint8_t *m = fl_bytes_reserve(&t->mask, n);
        if (m && mask) memcpy(m, mask, n);
        if (m && !mask) memset(m, trusted, n);
    }
    fl_bytes_put(&t->data, p, n);
    if (t->data.failed || t->mask.failed)
        return fl_t_fail(r, FL_E_NOMEM, "no memory for %zu bytes", t->data.len + n);
    return true;
}

bool fl_ttext_puts(fl_trun *r, fl_ttext *t, const char *s) {
    return fl_ttext_put(r, t, s, strlen(s), NULL, true);
}

bool fl_ttext_put_part(fl_trun *r, fl_ttext *t, const fl_tstr *s, size_t from, size_t to) {
    return fl_ttext_put(r, t, s->data + from, to - from, s->mask ? s->mask + from : NULL,
                        s->trusted);
}

bool fl_ttext_put_str(fl_trun *r, fl_ttext *t, const fl_tstr *s) {
    return fl_ttext_put_part(r, t, s, 0, s->len);
}

void fl_ttext_free(fl_ttext *t) {
    fl_bytes_free(&t->data);
    fl_bytes_free(&t->mask);
}

bool fl_ttext_finish(fl_trun *r, fl_ttext *t, bool ok, fl_tv *out) {
    size_t n = t->data.len;
    fl_tstr *s = ok ? fl_t_alloc(r, sizeof(*s)) : NULL;
    char *data = s ? fl_t_alloc(r, n) : NULL;
    uint8_t *mask = data && t->mixed ? fl_t_alloc(r, n) : NULL;
    ok = data && (mask || !t->mixed);
    if (ok) {
        if (n) memcpy(data, t->data.data, n);
        if (mask) memcpy(mask, t->mask.data, n);
        *s = (fl_tstr){.data = data, .len = n, .mask = mask, .trusted = n ? t->trusted : true};
        *out = fl_tv_string(s);
    }
    fl_ttext_free(t);
    return ok;
}

bool fl_tv_keep_markup(fl_trun *r, bool markup, fl_tv *v) {
    if (!markup || v->kind != FL_TV_STRING || v->string->markup) return true;
    fl_tstr *s = fl_t_alloc(r, sizeof(*s));
    if (!s) return false;
    *s = *v->string;
    s->room = NULL; /* what grows there is not marked */
    s->markup = true;
    v->string = s;
    return true;
}
