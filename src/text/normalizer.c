#include "text/normalizer.h"

#include <string.h>

enum { BASE_STEPS = 1000000, STEPS_PER_BYTE = 1000 };

void fl_normalizer_deinit(fl_normalizer *z) {
    for (int i = 0; i < z->n; i++) fl_regex_free(z->steps[i].regex);
    z->n = 0;
}

void fl_normal_text_free(fl_normal_text *t) {
    fl_bytes_free(&t->s);
    fl_bytes_free(&t->trusted);
    fl_bytes_free(&t->origin);
}

/* One step on its way from `in` to *out. */
typedef struct pass {
    fl_text in;
    const uint32_t *in_origin; /* NULL: the input itself */
    bool origins;
    fl_normal_text *out;
} pass;

static bool trusted_at(const fl_text *t, size_t i) {
    i += t->at;
    return t->trusted[i / 8] >> (i % 8) & 1;
}

/* Note what is known of n bytes that are about to be put. */
static void note(pass *p, size_t n, bool trusted, size_t from) {
    fl_normal_text *o = p->out;
    for (size_t i = o->s.len; p->in.trusted && i < o->s.len + n; i++) {
        if (i % 8 == 0) fl_bytes_putc(&o->trusted, '\0');
        if (!o->trusted.failed && trusted) o->trusted.data[i / 8] |= (char)(1 << (i % 8));
    }
    const uint32_t origin = p->in_origin && from < p->in.n ? p->in_origin[from] : (uint32_t)from;
    for (size_t i = 0; p->origins && i < n; i++) fl_bytes_put(&o->origin, &origin, sizeof(origin));
}

static void copy(pass *p, size_t begin, size_t end) {
    for (size_t i = begin; (p->in.trusted || p->origins) && i < end; i++) {
        note(p, 1, p->in.trusted && trusted_at(&p->in, i), i);
        fl_bytes_putc(&p->out->s, p->in.s[i]);
    }
    if (!p->in.trusted && !p->origins) fl_bytes_put(&p->out->s, p->in.s + begin, end - begin);
}

static void put_instead(pass *p, const fl_normal_step *step, size_t begin, size_t end) {
    bool trusted = p->in.trusted && begin < end;
    for (size_t i = begin; trusted && i < end; i++) trusted = trusted_at(&p->in, i);
    if (p->in.trusted || p->origins) note(p, step->n, trusted, begin);
    fl_bytes_put(&p->out->s, step->text, step->n);
}

static void replace_byte(pass *p, const fl_normal_step *step) {
    const char *s = p->in.s;
    size_t done = 0;
    for (const char *hit; done < p->in.n && (hit = memchr(s + done, step->byte, p->in.n - done));) {
        size_t at = (size_t)(hit - s);
        copy(p, done, at);
        put_instead(p, step, at, at + 1);
        done = at + 1;
    }
    copy(p, done, p->in.n);
}

static int replace(pass *p, const fl_normal_step *step, fl_err *err) {
    int64_t steps = BASE_STEPS + (int64_t)p->in.n * STEPS_PER_BYTE;
    fl_regex_scan scan = {.regex = step->regex, .s = p->in.s, .n = p->in.n, .steps = &steps};
    size_t done = 0, begin, end;
    int rc;
    while ((rc = fl_regex_next(&scan, &begin, &end)) > 0) {
        copy(p, done, begin);
        put_instead(p, step, begin, end);
        done = end;
    }
    if (rc) return fl_fail(err, rc, "normalizer: too many steps on %zu bytes of text", p->in.n);
    copy(p, done, p->in.n);
    return FL_OK;
}

static int run_step(pass *p, const fl_normal_step *step, fl_err *err) {
    int rc = FL_OK;
    p->out->s.limit = UINT32_MAX; /* what origins can count to */
    if (!step->regex) {
        if (p->in.n) put_instead(p, step, 0, 0);
        copy(p, 0, p->in.n);
    } else if (step->byte) {
        replace_byte(p, step);
    } else if (p->in.n) {
        rc = replace(p, step, err);
    }
    const fl_normal_text *o = p->out;
    if (!rc && (o->s.failed || o->trusted.failed || o->origin.failed))
        rc = fl_fail(err, FL_E_NOMEM, "no memory to normalise text");
    return rc;
}

int fl_normalize(const fl_normalizer *z, const fl_text *text, bool origins, fl_normal_text *out,
                 fl_err *err) {
    fl_normal_text before = {0};
    pass p = {.in = *text, .origins = origins, .out = out};
    int rc = FL_OK;
    for (int i = 0; i < z->n && !rc; i++) {
        if (i) {
            fl_normal_text_free(&before);
            before = *out;
            *out = (fl_normal_text){0};
            p.in = (fl_text){before.s.data ? before.s.data : "", before.s.len,
                             text->trusted ? (const uint8_t *)before.trusted.data : NULL, 0,
                             text->first};
            if (origins) p.in_origin = (const uint32_t *)(const void *)before.origin.data;
        }
        rc = run_step(&p, &z->steps[i], err);
    }
    fl_normal_text_free(&before);
    return rc;
}
