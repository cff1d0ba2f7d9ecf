/* The filter pprint: values as Python's pprint lays them out, 80 columns wide. */
#include <string.h>

#include "text/template_run.h"

enum { WIDTH = 80 };

static bool pformat(fl_trun *r, fl_ttext *t, const fl_tv *v, int64_t indent, int64_t allowance,
                    int level);

static bool repr_of(fl_trun *r, const fl_tv *v, fl_tv *out, int64_t *n) {
    fl_ttext t = {0};
    return fl_ttext_finish(r, &t, fl_ttext_put_repr(r, &t, v), out) &&
           fl_tstr_length(r, out->string, n);
}

static bool new_line(fl_trun *r, fl_ttext *t, int64_t indent) {
    bool ok = fl_ttext_puts(r, t, "\n");
    for (int64_t i = 0; ok && i < indent; i++) ok = fl_ttext_puts(r, t, " ");
    return ok;
}

static bool put_list(fl_trun *r, fl_ttext *t, const fl_tlist *l, const char *open,
                     const char *close, int64_t indent, int64_t allowance, int level) {
    bool ok = fl_ttext_puts(r, t, open);
    for (size_t i = 0; ok && i < l->n; i++) {
        const bool last = i + 1 == l->n;
        const int64_t behind = last ? allowance + (int64_t)strlen(close) : 1;
        ok = pformat(r, t, &l->items[i], indent + 1, behind, level) &&
             (last || (fl_ttext_puts(r, t, ",") && new_line(r, t, indent + 1)));
    }
    return ok && fl_ttext_puts(r, t, close);
}

static bool put_dict(fl_trun *r, fl_ttext *t, const fl_tdict *d, int64_t indent, int64_t allowance,
                     int level) {
    fl_tsort *members = fl_t_alloc(r, d->n * sizeof(*members));
    bool ok = members && fl_ttext_puts(r, t, "{");
    for (uint32_t i = 0; ok && i < d->n; i++)
        members[i] = (fl_tsort){d->entries[i].key, d->entries[i].value};
    ok = ok && fl_tv_sort_keys(r, members, d->n);
    for (uint32_t i = 0; ok && i < d->n; i++) {
        const bool last = i + 1 == d->n;
        fl_tv key;
        int64_t n;
        ok = repr_of(r, &members[i].key, &key, &n) && fl_ttext_put_str(r, t, key.string) &&
             fl_ttext_puts(r, t, ": ") &&
             pformat(r, t, &members[i].value, indent + n + 3, last ? allowance + 1 : 1, level) &&
             (last || (fl_ttext_puts(r, t, ",") && new_line(r, t, indent + 1)));
    }
    return ok && fl_ttext_puts(r, t, "}");
}

/* Pieces of a long text, each a literal on a line of its own. */
typedef struct pieces {
    fl_tlist *list; /* of texts */
    int64_t width;  /* of a line; the last one is `allowance` narrower */
    int64_t allowance;
} pieces;

/* A word with the blanks behind it, from i on. */
static size_t word_end(const fl_tstr *s, size_t i) {
    uint32_t cp;
    bool blank = false;
    while (i < s->len) {
        size_t n = fl_tstr_next(s, i, &cp);
        if (!fl_uc_is_str_space(cp) && blank) break;
        blank |= fl_uc_is_str_space(cp);
        i += n;
    }
    return i;
}

static bool push_repr(fl_trun *r, pieces *p, const fl_tstr *s, size_t from, size_t to) {
    fl_tv part, text;
    int64_t n;
    return fl_tstr_slice(r, s, from, to, &part) && repr_of(r, &part, &text, &n) &&
           fl_tlist_push(r, p->list, text);
}

/* The line s[from..to) of the text in words. */
static bool split_line(fl_trun *r, pieces *p, const fl_tstr *s, size_t from, size_t to, bool last) {
    const fl_tstr line = {.data = s->data, .len = to, .mask = s->mask, .trusted = s->trusted};
    size_t begin = from, current = from;
    for (size_t i = from, end; i < to; i = end) {
        fl_tv part, text;
        int64_t n;
        end = word_end(&line, i);
        if (!fl_tstr_slice(r, s, begin, end, &part) || !repr_of(r, &part, &text, &n)) return false;
        if (n > p->width - (last && end == to ? p->allowance : 0)) {
            if (current > begin && !push_repr(r, p, s, begin, current)) return false;
            begin = i;
        }
        current = end;
    }
    return current == begin || push_repr(r, p, s, begin, current);
}

static bool put_string(fl_trun *r, fl_ttext *t, const fl_tstr *s, int64_t indent, int64_t allowance,
                       int level) {
    const bool top = level == 1;
    pieces p = {fl_tlist_new(r, 0), WIDTH - indent - top, allowance + top};
    bool ok = p.list != NULL;
    for (size_t i = 0, next; ok && i < s->len; i = next) {
        fl_tv part, text;
        int64_t n;
        fl_tstr_line(s, i, &next);
        const bool last = next == s->len;
        ok = fl_tstr_slice(r, s, i, next, &part) && repr_of(r, &part, &text, &n) &&
             (n <= p.width - (last ? p.allowance : 0) ? fl_tlist_push(r, p.list, text)
                                                      : split_line(r, &p, s, i, next, last));
    }
    const bool several = ok && p.list->n > 1;
    ok = ok && (!several || !top || fl_ttext_puts(r, t, "("));
    for (size_t i = 0; ok && i < p.list->n; i++)
        ok =
            (!i || new_line(r, t, indent + top)) && fl_ttext_put_str(r, t, p.list->items[i].string);
    return ok && (!several || !top || fl_ttext_puts(r, t, ")"));
}

static bool pformat(fl_trun *r, fl_ttext *t, const fl_tv *v, int64_t indent, int64_t allowance,
                    int level) {
    fl_tv text;
    int64_t n;
    bool ok;
    if (!repr_of(r, v, &text, &n)) return false;
    if (n <= WIDTH - indent - allowance) return fl_ttext_put_str(r, t, text.string);
    if (!fl_t_enter(r)) return false;
    level++;
    switch (v->kind) {
    case FL_TV_DICT:
        ok = put_dict(r, t, v->dict, indent, allowance, level);
        break;
    case FL_TV_LIST:
        ok = put_list(r, t, v->list, "[", "]", indent, allowance, level);
        break;
    case FL_TV_TUPLE:
        ok = put_list(r, t, v->list, "(", v->list->n == 1 ? ",)" : ")", indent, allowance, level);
        break;
    case FL_TV_STRING:
        ok = put_string(r, t, v->string, indent, allowance, level);
        break;
    default:
        ok = fl_ttext_put_str(r, t, text.string);
    }
    r->depth--;
    return ok;
}

bool fl_t_pformat(fl_trun *r, const fl_tv *v, fl_tv *out) {
    const bool outer = r->sorted_repr;
    fl_ttext t = {0};
    r->sorted_repr = true;
    bool ok = pformat(r, &t, v, 0, 0, 0);
    r->sorted_repr = outer;
    return fl_ttext_finish(r, &t, ok, out);
}
