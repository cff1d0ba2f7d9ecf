/* Global functions, and the methods of everything but strings. */
#include <math.h>
#include <string.h>

#include "text/template_run.h"

const fl_tfunction *fl_t_find(const fl_tfunction *table, const char *name, size_t n) {
    for (; table->name; table++)
        if (strlen(table->name) == n && !memcmp(table->name, name, n)) return table;
    return NULL;
}

/* ---- functions --------------------------------------------------------------------- */

static bool g_range(fl_trun *r, fl_tcall *c, fl_tv *out) {
    int64_t start = 0, stop, step = 1, span;
    bool one = c->arg[1].kind == FL_TV_ABSENT;
    if (!fl_tv_need_int(r, &c->arg[one ? 0 : 1], &stop) ||
        (!one && !fl_tv_need_int(r, &c->arg[0], &start)) ||
        (c->arg[2].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[2], &step)))
        return false;
    if (!step) return fl_t_fail(r, FL_E_ARG, "range: the step must not be zero");
    fl_tlist *l = fl_tlist_new(r, 0);
    if (!l) return false;
    *l = (fl_tlist){.start = start, .stop = stop, .step = step};
    if (step > 0 ? stop > start : stop < start) {
        if (step == INT64_MIN || __builtin_sub_overflow(stop, start, &span) || span == INT64_MIN)
            return fl_t_fail(r, FL_E_LIMIT, "range: longer than %d", FL_T_MAX_RANGE);
        if (step < 0) span = -span;
        l->n = (size_t)((span - 1) / (step < 0 ? -step : step)) + 1;
    }
    if (l->n > FL_T_MAX_RANGE)
        return fl_t_fail(r, FL_E_LIMIT, "range: longer than %d", FL_T_MAX_RANGE);
    *out = fl_tv_list(FL_TV_RANGE, l);
    return true;
}

/* dict(...) and namespace(...): a mapping or pairs, then keywords. */
static bool fill_dict(fl_trun *r, fl_tcall *c, fl_tdict *d) {
    const fl_targs *a = c->all;
    const fl_tlist *items;
    if (a->n_positional > 1)
        return fl_t_fail(r, FL_E_ARG, "%s takes 1 argument, got %zu", c->function->name,
                         a->n_positional);
    const fl_tv *from = a->n_positional ? &a->positional[0] : NULL;
    if (from && from->kind == FL_TV_DICT) {
        for (uint32_t i = 0; i < from->dict->n; i++)
            if (!fl_tdict_set(r, d, from->dict->entries[i].key, from->dict->entries[i].value))
                return false;
    } else if (from) {
        if (!fl_tv_items(r, from, &items)) return false;
        for (size_t i = 0; i < items->n; i++) {
            const fl_tlist *pair;
            if (!fl_tv_items(r, &items->items[i], &pair)) return false;
            if (pair->n != 2)
                return fl_t_fail(r, FL_E_ARG, "%s: pairs expected", c->function->name);
            if (!fl_tdict_set(r, d, pair->items[0], pair->items[1])) return false;
        }
    }
    for (size_t i = 0; i < a->n_keywords; i++)
        if (!fl_tdict_set(r, d, fl_tv_string(a->keys[i]), a->keywords[i])) return false;
    return true;
}

static bool g_dict(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    *out = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    return d && fill_dict(r, c, d);
}

bool fl_t_may_set(fl_trun *r, const fl_tstr *name) {
    return !name->len || *name->data != '_' ||
           fl_t_fail(r, FL_E_ARG, "a namespace has no names that start with _, such as '%.*s'",
                     name->len > 40 ? 40 : (int)name->len, name->data);
}

static bool g_namespace(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    *out = (fl_tv){.kind = FL_TV_NAMESPACE, .dict = d};
    if (!d || !fill_dict(r, c, d)) return false;
    for (uint32_t i = 0; i < d->n; i++)
        if (d->entries[i].key.kind == FL_TV_STRING && !fl_t_may_set(r, d->entries[i].key.string))
            return false;
    return true;
}

static bool g_raise_exception(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    (void)out;
    if (!fl_tv_str(r, &c->arg[0], &s)) return false;
    return fl_t_fail(r, FL_E_ARG, "%.*s", s->len > 800 ? 800 : (int)s->len, s->data);
}

enum { MAX_DATE_FORMAT = 254 }; /* bytes */

/* What transformers' clock, which knows no time zone, makes of a format, for the C library. The "!" behind it tells an
 * empty result from one that does not fit. */
static void strftime_format(const fl_tstr *s, char *out) {
    for (size_t i = 0; i < s->len; i++) {
        const char next = s->data[i] == '%' && i + 1 < s->len ? s->data[i + 1] : 0;
        if (next == 'f') {
            memcpy(out, "000000", 6);
            out += 6;
        } else if (next != 'Z' && next != 'z') {
            *out++ = s->data[i];
            if (next) *out++ = next;
        }
        i += next != 0;
    }
    memcpy(out, "!", 2);
}

static bool g_strftime_now(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    char format[3 * MAX_DATE_FORMAT + 2], text[4096];
    struct tm tm;
    if (!fl_tv_need_string(r, &c->arg[0], "strftime_now", &s)) return false;
    if (s->len > MAX_DATE_FORMAT)
        return fl_t_fail(r, FL_E_LIMIT, "strftime_now: format longer than %d", MAX_DATE_FORMAT);
    strftime_format(s, format);
    size_t n = localtime_r(&r->now, &tm) ? strftime(text, sizeof(text), format, &tm) : 0;
    if (!n)
        return fl_t_fail(r, FL_E_LIMIT, "strftime_now: the date does not fit %zu bytes",
                         sizeof(text));
    return fl_tv_text(r, text, n - 1, out);
}

static bool g_cycler(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, c->all->n_positional);
    if (!l) return false;
    l->n = c->all->n_positional;
    if (!l->n || c->all->n_keywords)
        return fl_t_fail(r, FL_E_ARG, "cycler: at least one item, without names");
    memcpy(l->items, c->all->positional, l->n * sizeof(fl_tv));
    *out = fl_tv_list(FL_TV_CYCLER, l);
    return true;
}

static bool g_joiner(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr comma = {.data = ", ", .len = 2, .trusted = true};
    fl_tlist *l = fl_tlist_new(r, 1);
    if (!l) return false;
    l->items[l->n++] = c->arg[0].kind == FL_TV_ABSENT ? fl_tv_string(&comma) : c->arg[0];
    *out = fl_tv_list(FL_TV_JOINER, l);
    return true;
}

/* Text without meaning, for layouts. */
static bool g_lipsum(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const char *const words[] = {"lorem", "ipsum", "dolor", "sit",     "amet",   "elit",
                                        "morbi", "nulla", "vitae", "quisque", "mauris", "augue"};
    int64_t n = 5, least = 20, most = 100;
    const bool html = c->arg[1].kind == FL_TV_ABSENT || fl_tv_truth(&c->arg[1]);
    fl_ttext t = {0};
    if ((c->arg[0].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[0], &n)) ||
        (c->arg[2].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[2], &least)) ||
        (c->arg[3].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[3], &most)))
        return false;
    if (least >= most) return fl_t_fail(r, FL_E_ARG, "lipsum: min must be less than max");
    bool ok = true;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = (!i || fl_ttext_puts(r, &t, html ? "\n" : "\n\n")) &&
             (!html || fl_ttext_puts(r, &t, "<p>"));
        for (int64_t k = 0; ok && k < least; k++)
            ok = (!k || fl_ttext_puts(r, &t, " ")) &&
                 fl_ttext_puts(r, &t, words[(size_t)(i * 7 + k * 5 + k / 12) % 12]);
        ok = ok && fl_ttext_puts(r, &t, html ? ".</p>" : ".");
    }
    return fl_ttext_finish(r, &t, ok, out) && fl_tv_keep_markup(r, html, out);
}

const fl_tfunction *fl_t_global(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"cycler", "*", g_cycler},
        {"dict", "*", g_dict},
        {"joiner", "sep=", g_joiner},
        {"lipsum", "n= html= min= max=", g_lipsum},
        {"namespace", "*", g_namespace},
        {"raise_exception", "message", g_raise_exception},
        {"range", ". .= .=", g_range},
        {"strftime_now", "format", g_strftime_now},
        {NULL, NULL, NULL},
    };
    return fl_t_find(table, name, n);
}

/* ---- dicts ------------------------------------------------------------------------- */

static bool view(fl_trun *r, const fl_tcall *c, const char *label, fl_tv *out) {
    const fl_tdict *d = c->self.dict;
    fl_tlist *l = fl_t_charge(r, d->n * sizeof(fl_tv)) ? fl_tlist_new(r, d->n) : NULL;
    if (!l) return false;
    l->label = label;
    for (uint32_t i = 0; i < d->n; i++, l->n++) {
        const fl_tentry *e = &d->entries[i];
        char what = label[5]; /* dict_keys, dict_values, dict_items */
        if (what == 'i' && !fl_tv_pair(r, e->key, e->value, &l->items[i])) return false;
        if (what != 'i') l->items[i] = what == 'k' ? e->key : e->value;
    }
    *out = fl_tv_list(FL_TV_VIEW, l);
    return true;
}

static bool d_items(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return view(r, c, "dict_items", out);
}
static bool d_keys(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return view(r, c, "dict_keys", out);
}
static bool d_values(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return view(r, c, "dict_values", out);
}

static bool d_get(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tv *found;
    if (!fl_tdict_find(r, c->self.dict, &c->arg[0], &found)) return false;
    *out = found ? *found : c->arg[1].kind == FL_TV_ABSENT ? fl_tv_none() : c->arg[1];
    return true;
}

static bool d_fromkeys(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    const fl_tlist *keys;
    if (!d || !fl_tv_items(r, &c->arg[0], &keys)) return false;
    const fl_tv value = c->arg[1].kind == FL_TV_ABSENT ? fl_tv_none() : c->arg[1];
    for (size_t i = 0; i < keys->n; i++)
        if (!fl_tdict_set(r, d, keys->items[i], value)) return false;
    *out = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    return true;
}

static bool copy(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    *out = c->self; /* nothing can change it */
    return true;
}

/* ---- lists, tuples, ranges --------------------------------------------------------- */

static bool items_of(fl_trun *r, const fl_tcall *c, const fl_tlist **out) {
    return fl_tv_items(r, &c->self, out);
}

static bool l_count(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *l;
    int64_t n = 0;
    bool same;
    if (!items_of(r, c, &l)) return false;
    for (size_t i = 0; i < l->n; i++) {
        if (!fl_tv_equal(r, &l->items[i], &c->arg[0], &same)) return false;
        n += same;
    }
    *out = fl_tv_int(n);
    return true;
}

/* index(value, start, stop) */
static bool l_index(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *l;
    int64_t start = 0, stop = INT64_MAX;
    bool same;
    if (!items_of(r, c, &l) ||
        (c->arg[1].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[1], &start)) ||
        (c->arg[2].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[2], &stop)))
        return false;
    const int64_t n = (int64_t)l->n;
    if (start < 0) start = start < -n ? 0 : start + n;
    if (stop < 0) stop = stop < -n ? 0 : stop + n;
    for (int64_t i = start; i < n && i < stop; i++) {
        if (!fl_tv_equal(r, &l->items[i], &c->arg[0], &same)) return false;
        if (!same) continue;
        *out = fl_tv_int(i);
        return true;
    }
    return fl_t_fail(r, FL_E_ARG, "the value is not in the list");
}

/* ---- cyclers and numbers ----------------------------------------------------------- */

static bool c_next(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tlist *l = c->self.list;
    (void)r;
    *out = l->items[l->taken];
    l->taken = (l->taken + 1) % l->n;
    return true;
}

static bool c_reset(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    c->self.list->taken = 0;
    *out = fl_tv_none();
    return true;
}

static uint64_t magnitude(const fl_tv *v) {
    const int64_t i = fl_tv_whole(v);
    return i < 0 ? -(uint64_t)i : (uint64_t)i;
}

static bool n_bit_length(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const uint64_t u = magnitude(&c->self);
    (void)r;
    *out = fl_tv_int(u ? 64 - __builtin_clzll(u) : 0);
    return true;
}

static bool n_bit_count(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    *out = fl_tv_int(__builtin_popcountll(magnitude(&c->self)));
    return true;
}

static bool n_conjugate(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    *out = c->self.kind == FL_TV_BOOL ? fl_tv_int(c->self.boolean) : c->self;
    return true;
}

static bool n_is_integer(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    *out = fl_tv_bool(isfinite(c->self.number) && c->self.number == floor(c->self.number));
    return true;
}

static bool n_ratio(fl_trun *r, fl_tcall *c, fl_tv *out) {
    int exponent;
    if (fl_tv_is_whole(&c->self))
        return fl_tv_pair(r, fl_tv_int(fl_tv_whole(&c->self)), fl_tv_int(1), out);
    double d = c->self.number;
    if (!isfinite(d)) return fl_t_fail(r, FL_E_ARG, "as_integer_ratio: not finite");
    d = frexp(d, &exponent);
    for (; d != floor(d); exponent--) d *= 2;
    if (d == 0) exponent = 0;
    if (exponent > 8 || exponent < -62)
        return fl_t_fail(r, FL_E_LIMIT, "integer does not fit 64 bits");
    const int64_t whole = exponent > 0 ? (int64_t)ldexp(d, exponent) : (int64_t)d;
    return fl_tv_pair(r, fl_tv_int(whole), fl_tv_int(exponent < 0 ? (int64_t)1 << -exponent : 1),
                      out);
}

/* ---- loops ------------------------------------------------------------------------- */

static bool loop_cycle(fl_trun *r, fl_tcall *c, fl_tv *out) {
    if (!c->all->n_positional) return fl_t_fail(r, FL_E_ARG, "cycle needs arguments");
    *out = c->all->positional[c->self.loop->index % c->all->n_positional];
    return true;
}

static bool loop_changed(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, c->all->n_positional);
    bool same;
    if (!l) return false;
    l->n = c->all->n_positional;
    if (l->n) memcpy(l->items, c->all->positional, l->n * sizeof(fl_tv));
    fl_tv now = fl_tv_list(FL_TV_TUPLE, l);
    if (!fl_tv_equal(r, &c->self.loop->last_changed, &now, &same)) return false;
    c->self.loop->last_changed = now;
    *out = fl_tv_bool(!same);
    return true;
}

static const fl_tfunction of_dict[] = {
    {"copy", "", copy},     {"fromkeys", ". .=", d_fromkeys},
    {"get", ". .=", d_get}, {"items", "", d_items},
    {"keys", "", d_keys},   {"values", "", d_values},
    {NULL, NULL, NULL},
};
static const fl_tfunction of_list[] = {
    {"copy", "", copy},
    {"count", ".", l_count},
    {"index", ". .= .=", l_index},
    {NULL, NULL, NULL},
};
static const fl_tfunction of_loop[] = {
    {"changed", "*", loop_changed},
    {"cycle", "*", loop_cycle},
    {NULL, NULL, NULL},
};
static const fl_tfunction of_cycler[] = {
    {"next", "", c_next},
    {"reset", "", c_reset},
    {NULL, NULL, NULL},
};
static const fl_tfunction of_int[] = {
    {"as_integer_ratio", "", n_ratio},
    {"bit_count", "", n_bit_count},
    {"bit_length", "", n_bit_length},
    {"conjugate", "", n_conjugate},
    {NULL, NULL, NULL},
};
static const fl_tfunction of_float[] = {
    {"as_integer_ratio", "", n_ratio},
    {"conjugate", "", n_conjugate},
    {"is_integer", "", n_is_integer},
    {NULL, NULL, NULL},
};

const fl_tfunction *fl_t_method(const fl_tv *self, const char *name, size_t n) {
    switch (self->kind) {
    case FL_TV_STRING:
        return fl_t_string_method(name, n);
    case FL_TV_BYTES:
        return fl_t_bytes_method(name, n);
    case FL_TV_DICT:
        return fl_t_find(of_dict, name, n);
    case FL_TV_LIST:
        return fl_t_find(of_list, name, n);
    case FL_TV_TUPLE:
    case FL_TV_RANGE:
        return fl_t_find(of_list + 1, name, n); /* no copy */
    case FL_TV_LOOP:
        return fl_t_find(of_loop, name, n);
    case FL_TV_CYCLER:
        return fl_t_find(of_cycler, name, n);
    case FL_TV_INT:
    case FL_TV_BOOL:
        return fl_t_find(of_int, name, n);
    case FL_TV_FLOAT:
        return fl_t_find(of_float, name, n);
    case FL_TV_FUNCTION: /* dict.fromkeys */
        return self->function->run == g_dict ? fl_t_find(of_dict + 1, name, n == 8 ? n : 0) : NULL;
    default:
        return NULL;
    }
}
