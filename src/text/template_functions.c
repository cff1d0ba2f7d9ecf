/* Global functions, and the methods of everything but strings. */
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

static bool g_namespace(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    *out = (fl_tv){.kind = FL_TV_NAMESPACE, .dict = d};
    return d && fill_dict(r, c, d);
}

static bool g_raise_exception(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    (void)out;
    if (!fl_tv_str(r, &c->arg[0], &s)) return false;
    return fl_t_fail(r, FL_E_ARG, "%.*s", s->len > 800 ? 800 : (int)s->len, s->data);
}

static bool g_strftime_now(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    char format[256], text[4096];
    struct tm tm;
    if (!fl_tv_need_string(r, &c->arg[0], "strftime_now", &s)) return false;
    if (s->len > sizeof(format) - 2)
        return fl_t_fail(r, FL_E_LIMIT, "strftime_now: format longer than %zu", sizeof(format) - 2);
    memcpy(format, s->data, s->len);
    memcpy(format + s->len, "!", 2); /* an empty result and none that fits differ then */
    size_t n = localtime_r(&r->now, &tm) ? strftime(text, sizeof(text), format, &tm) : 0;
    if (!n)
        return fl_t_fail(r, FL_E_LIMIT, "strftime_now: the date does not fit %zu bytes",
                         sizeof(text));
    return fl_tv_text(r, text, n - 1, out);
}

const fl_tfunction *fl_t_global(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"dict", "*", g_dict},
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

static bool copy(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    *out = c->self; /* nothing can change it */
    return true;
}

/* ---- lists, tuples, loops ---------------------------------------------------------- */

static bool l_count(fl_trun *r, fl_tcall *c, fl_tv *out) {
    int64_t n = 0;
    bool same;
    for (size_t i = 0; i < c->self.list->n; i++) {
        if (!fl_tv_equal(r, &c->self.list->items[i], &c->arg[0], &same)) return false;
        n += same;
    }
    *out = fl_tv_int(n);
    return true;
}

static bool l_index(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool same;
    for (size_t i = 0; i < c->self.list->n; i++) {
        if (!fl_tv_equal(r, &c->self.list->items[i], &c->arg[0], &same)) return false;
        if (!same) continue;
        *out = fl_tv_int((int64_t)i);
        return true;
    }
    return fl_t_fail(r, FL_E_ARG, "the value is not in the list");
}

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

const fl_tfunction *fl_t_method(const fl_tv *self, const char *name, size_t n) {
    static const fl_tfunction of_dict[] = {
        {"copy", "", copy},   {"get", ". .=", d_get},   {"items", "", d_items},
        {"keys", "", d_keys}, {"values", "", d_values}, {NULL, NULL, NULL},
    };
    static const fl_tfunction of_list[] = {
        {"copy", "", copy},
        {"count", ".", l_count},
        {"index", ".", l_index},
        {NULL, NULL, NULL},
    };
    static const fl_tfunction of_loop[] = {
        {"changed", "*", loop_changed},
        {"cycle", "*", loop_cycle},
        {NULL, NULL, NULL},
    };
    switch (self->kind) {
    case FL_TV_STRING:
        return fl_t_string_method(name, n);
    case FL_TV_DICT:
        return fl_t_find(of_dict, name, n);
    case FL_TV_LIST:
        return fl_t_find(of_list, name, n);
    case FL_TV_TUPLE:
        return fl_t_find(of_list + 1, name, n); /* no copy */
    case FL_TV_LOOP:
        return fl_t_find(of_loop, name, n);
    default:
        return NULL;
    }
}
