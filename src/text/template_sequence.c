/* Filters on sequences and dicts. */
#include <string.h>

#include "text/template_run.h"

static bool is_digits(const char *p, size_t n) {
    size_t i = 0;
    while (i < n && p[i] >= '0' && p[i] <= '9') i++;
    return n > 0 && n < 18 && i == n;
}

/* v.a.b or v[1] for an attribute argument "a.b" or 1; `instead` (may be NULL) stands in for
 * every step that is undefined. */
static bool attribute_of(fl_trun *r, fl_tv v, const fl_tv *attribute, const fl_tv *instead,
                         fl_tv *out) {
    fl_tv number = *attribute;
    const fl_tstr *path = NULL;
    if (!fl_tv_is_whole(attribute) && !fl_tv_need_string(r, attribute, "attribute", &path))
        return false;
    *out = v;
    for (size_t i = 0, end; i <= (path ? path->len : 0); i = end + 1) {
        const char *dot = path ? memchr(path->data + i, '.', path->len - i) : NULL;
        fl_tv key = number;
        end = dot ? (size_t)(dot - path->data) : path ? path->len : 0;
        if (path && !fl_tstr_slice(r, path, i, end, &key)) return false;
        if (path && is_digits(path->data + i, end - i)) {
            key = fl_tv_int(0);
            for (size_t k = i; k < end; k++) key.integer = key.integer * 10 + (path->data[k] - '0');
        }
        v = *out;
        if (!fl_t_item(r, &v, &key, out)) return false;
        if (out->kind == FL_TV_UNDEFINED && instead && !fl_tv_is_absent(instead)) *out = *instead;
    }
    return true;
}

/* What sort, unique, min and max compare: text without case unless asked for. */
static bool sort_key(fl_trun *r, fl_tv v, const fl_tv *attribute, bool with_case, fl_tv *out) {
    *out = v;
    if (!fl_tv_is_absent(attribute) && !attribute_of(r, v, attribute, NULL, out)) return false;
    if (out->kind != FL_TV_STRING || with_case) return true;
    v = *out;
    return fl_tstr_case(r, v.string, FL_T_LOWER, out);
}

static bool generator(fl_tlist *l, fl_tv *out) {
    *out = fl_tv_list(FL_TV_GENERATOR, l);
    return l != NULL;
}

/* ---- whole sequences --------------------------------------------------------------- */

static bool f_length(fl_trun *r, fl_tcall *c, fl_tv *out) {
    int64_t n;
    if (!fl_tv_length(r, &c->self, &n)) return false;
    *out = fl_tv_int(n);
    return true;
}

static bool f_list(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    if (!fl_tv_items(r, &c->self, &items)) return false;
    *out = fl_tv_list(FL_TV_LIST, (fl_tlist *)items); /* lists do not change: no copy */
    return true;
}

static bool f_first(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    if (c->self.kind == FL_TV_GENERATOR) { /* takes only one */
        fl_tlist *l = c->self.list;
        *out = l->taken < l->n ? l->items[l->taken++] : fl_tv_undefined(NULL, false);
        return true;
    }
    if (!fl_tv_items(r, &c->self, &items)) return false;
    *out = items->n ? items->items[0] : fl_tv_undefined(NULL, false);
    return true;
}

static bool f_last(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    if (c->self.kind == FL_TV_GENERATOR)
        return fl_t_fail(r, FL_E_ARG, "last: a generator cannot be reversed");
    if (!fl_tv_items(r, &c->self, &items)) return false;
    *out = items->n ? items->items[items->n - 1] : fl_tv_undefined(NULL, false);
    return true;
}

static bool f_reverse(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    fl_ttext t = {0};
    bool ok = true;
    if (!fl_tv_items(r, &c->self, &items)) return false;
    if (c->self.kind == FL_TV_STRING) {
        for (size_t i = items->n; ok && i-- > 0;)
            ok = fl_ttext_put_str(r, &t, items->items[i].string);
        return fl_ttext_finish(r, &t, ok, out);
    }
    fl_tlist *l = fl_tlist_new(r, items->n);
    for (size_t i = items->n; l && i-- > 0;) l->items[l->n++] = items->items[i];
    return generator(l, out) && fl_t_charge(r, items->n * sizeof(fl_tv));
}

static bool f_join(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    const fl_tstr *separator = NULL;
    fl_ttext t = {0};
    bool ok = fl_tv_items(r, &c->self, &items) &&
              (c->arg[0].kind == FL_TV_ABSENT || fl_tv_str(r, &c->arg[0], &separator));
    for (size_t i = 0; ok && i < items->n; i++) {
        fl_tv v = items->items[i];
        ok = (fl_tv_is_absent(&c->arg[1]) ||
              attribute_of(r, items->items[i], &c->arg[1], NULL, &v)) &&
             (!i || !separator || fl_ttext_put_str(r, &t, separator)) &&
             fl_ttext_put_value(r, &t, &v);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

static bool f_items(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_targs none = {0};
    fl_tv view;
    if (c->self.kind == FL_TV_UNDEFINED) return generator(fl_tlist_new(r, 0), out);
    if (c->self.kind != FL_TV_DICT)
        return fl_t_fail(r, FL_E_ARG, "items: dict expected, got '%s'", fl_tv_type_name(&c->self));
    return fl_t_call_builtin(r, fl_t_method(&c->self, "items", 5), &c->self, &none, &view) &&
           generator(view.list, out);
}

static bool f_sum(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    *out = c->arg[1].kind == FL_TV_ABSENT ? fl_tv_int(0) : c->arg[1];
    if (!fl_tv_items(r, &c->self, &items)) return false;
    for (size_t i = 0; i < items->n; i++) {
        fl_tv v = items->items[i], sum = *out;
        if (!fl_tv_is_absent(&c->arg[0]) && !attribute_of(r, items->items[i], &c->arg[0], NULL, &v))
            return false;
        if (!fl_tv_binary(r, '+', &sum, &v, out)) return false;
    }
    return true;
}

/* ---- order ------------------------------------------------------------------------- */

/* A tuple, because equal parts of tuples need no order; `attribute` may name several: "a,b". */
static bool multi_key(fl_trun *r, fl_tv v, const fl_tv *attribute, bool with_case, fl_tv *out) {
    const fl_tstr *names = attribute->kind == FL_TV_STRING ? attribute->string : NULL;
    fl_tlist *l = fl_tlist_new(r, 0);
    for (size_t i = 0, end = 0; l && i <= (names ? names->len : 0); i = end + 1) {
        const char *comma = names ? memchr(names->data + i, ',', names->len - i) : NULL;
        fl_tv name = *attribute, key;
        end = comma ? (size_t)(comma - names->data) : names ? names->len : 0;
        if ((names && !fl_tstr_slice(r, names, i, end, &name)) ||
            !sort_key(r, v, &name, with_case, &key) || !fl_tlist_push(r, l, key))
            return false;
    }
    *out = fl_tv_list(FL_TV_TUPLE, l);
    return l != NULL;
}

static bool sorted_list(fl_trun *r, fl_tsort *a, size_t n, const fl_tv *reverse, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, n);
    if (!l || !fl_tv_sort(r, a, n, fl_tv_truth(reverse))) return false;
    for (size_t i = 0; i < n; i++) l->items[l->n++] = a[i].value;
    *out = fl_tv_list(FL_TV_LIST, l);
    return true;
}

static bool f_sort(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    if (!fl_tv_items(r, &c->self, &items)) return false;
    fl_tsort *a = fl_t_alloc(r, items->n * sizeof(*a));
    for (size_t i = 0; a && i < items->n; i++) {
        a[i].value = items->items[i];
        if (!multi_key(r, a[i].value, &c->arg[2], fl_tv_truth(&c->arg[1]), &a[i].key)) return false;
    }
    return a && sorted_list(r, a, items->n, &c->arg[0], out);
}

static bool f_dictsort(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *by;
    bool by_value = false, with_case = fl_tv_truth(&c->arg[0]);
    if (c->arg[1].kind != FL_TV_ABSENT) {
        if (!fl_tv_need_string(r, &c->arg[1], "dictsort", &by)) return false;
        by_value = fl_tstr_is(by, "value");
        if (!by_value && !fl_tstr_is(by, "key"))
            return fl_t_fail(r, FL_E_ARG, "dictsort: by must be key or value");
    }
    if (c->self.kind == FL_TV_UNDEFINED) return fl_t_undefined(r, &c->self);
    if (c->self.kind != FL_TV_DICT)
        return fl_t_fail(r, FL_E_ARG, "dictsort: dict expected, got '%s'",
                         fl_tv_type_name(&c->self));
    const fl_tdict *d = c->self.dict;
    fl_tv absent = {.kind = FL_TV_ABSENT};
    fl_tsort *a = fl_t_alloc(r, d->n * sizeof(*a));
    for (uint32_t i = 0; a && i < d->n; i++) {
        const fl_tentry *e = &d->entries[i];
        if (!fl_tv_pair(r, e->key, e->value, &a[i].value) ||
            !sort_key(r, by_value ? e->value : e->key, &absent, with_case, &a[i].key))
            return false;
    }
    return a && sorted_list(r, a, d->n, &c->arg[2], out);
}

static bool f_unique(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    fl_tlist *l = fl_tlist_new(r, 0);
    fl_tdict *seen = fl_tdict_new(r);
    if (!l || !seen || !fl_tv_items(r, &c->self, &items)) return false;
    for (size_t i = 0; i < items->n; i++) {
        fl_tv key, *found;
        if (!sort_key(r, items->items[i], &c->arg[1], fl_tv_truth(&c->arg[0]), &key) ||
            !fl_tdict_find(r, seen, &key, &found))
            return false;
        if (found) continue;
        if (!fl_tdict_set(r, seen, key, key) || !fl_tlist_push(r, l, items->items[i])) return false;
    }
    return generator(l, out);
}

static bool extreme(fl_trun *r, const fl_tcall *c, char better, fl_tv *out) {
    const fl_tlist *items;
    fl_tv best, key;
    bool is;
    *out = fl_tv_undefined(NULL, false);
    if (!fl_tv_items(r, &c->self, &items)) return false;
    for (size_t i = 0; i < items->n; i++) {
        if (!sort_key(r, items->items[i], &c->arg[1], fl_tv_truth(&c->arg[0]), &key)) return false;
        if (i && !fl_tv_compare(r, better, &key, &best, &is)) return false;
        if (i && !is) continue;
        best = key;
        *out = items->items[i];
    }
    return true;
}

static bool f_min(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return extreme(r, c, '<', out);
}
static bool f_max(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return extreme(r, c, '>', out);
}

/* ---- groups ------------------------------------------------------------------------ */

/* The items with their values of an attribute, in the order of these. */
static bool keyed_items(fl_trun *r, const fl_tcall *c, bool with_case, fl_tsort **out, size_t *n) {
    const fl_tlist *items;
    if (!fl_tv_items(r, &c->self, &items)) return false;
    fl_tsort *a = fl_t_alloc(r, items->n * sizeof(*a));
    for (size_t i = 0; a && i < items->n; i++) {
        fl_tv key;
        a[i].value = items->items[i];
        if (!attribute_of(r, items->items[i], &c->arg[0], &c->arg[1], &key)) return false;
        a[i].key = key;
        if (key.kind == FL_TV_STRING && !with_case &&
            !fl_tstr_case(r, key.string, FL_T_LOWER, &a[i].key))
            return false;
    }
    *out = a;
    *n = items->n;
    return a && fl_tv_sort(r, a, items->n, false);
}

/* (grouper, list) tuples. */
static bool f_groupby(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const bool with_case = fl_tv_truth(&c->arg[2]);
    fl_tlist *groups = fl_tlist_new(r, 0), *members = NULL;
    fl_tsort *a;
    size_t n;
    if (!groups || !keyed_items(r, c, with_case, &a, &n)) return false;
    for (size_t i = 0; i < n; i++) {
        bool same = false;
        if (i && !fl_tv_equal(r, &a[i - 1].key, &a[i].key, &same)) return false;
        if (!same) {
            fl_tv grouper, group;
            if (!attribute_of(r, a[i].value, &c->arg[0], &c->arg[1], &grouper) ||
                !(members = fl_tlist_new(r, 0)) ||
                !fl_tv_pair(r, grouper, fl_tv_list(FL_TV_LIST, members), &group) ||
                !fl_tlist_push(r, groups, group))
                return false;
            group.list->label = "group";
        }
        if (!fl_tlist_push(r, members, a[i].value)) return false;
    }
    *out = fl_tv_list(FL_TV_LIST, groups);
    return true;
}

static bool fill(fl_trun *r, fl_tlist *l, const fl_tv *with, int64_t n) {
    bool ok = true;
    while (ok && n-- > 0) ok = fl_t_charge(r, 0) && fl_tlist_push(r, l, *with);
    return ok;
}

static bool f_batch(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    fl_tlist *rows = fl_tlist_new(r, 0), *row = NULL;
    int64_t size;
    if (!rows || !fl_tv_need_int(r, &c->arg[0], &size) || !fl_tv_items(r, &c->self, &items))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        if (!row || (int64_t)row->n == size) {
            if (!(row = fl_tlist_new(r, 0)) || !fl_tlist_push(r, rows, fl_tv_list(FL_TV_LIST, row)))
                return false;
        }
        if (!fl_tlist_push(r, row, items->items[i])) return false;
    }
    if (row && !fl_tv_is_absent(&c->arg[1]) && !fill(r, row, &c->arg[1], size - (int64_t)row->n))
        return false;
    return generator(rows, out);
}

static bool f_slice(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    fl_tlist *rows = fl_tlist_new(r, 0);
    int64_t n;
    if (!rows || !fl_tv_need_int(r, &c->arg[0], &n) || !fl_tv_items(r, &c->self, &items))
        return false;
    if (n < 1) return n ? generator(rows, out) : fl_t_fail(r, FL_E_ARG, "division by zero");
    const int64_t each = (int64_t)items->n / n, longer = (int64_t)items->n % n;
    for (int64_t i = 0, at = 0; i < n; i++) {
        fl_tlist *row = fl_tlist_new(r, 0);
        const int64_t end = at + each + (i < longer);
        if (!row || !fl_t_charge(r, 0)) return false;
        for (; at < end; at++)
            if (!fl_tlist_push(r, row, items->items[at])) return false;
        if ((i >= longer && !fl_tv_is_absent(&c->arg[1]) && !fill(r, row, &c->arg[1], 1)) ||
            !fl_tlist_push(r, rows, fl_tv_list(FL_TV_LIST, row)))
            return false;
    }
    return generator(rows, out);
}

/* Any of them; which one changes with the clock and the work done so far. */
static bool f_random(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    const uint64_t seed[] = {(uint64_t)r->now, r->steps};
    if (!fl_tv_items(r, &c->self, &items)) return false;
    *out = items->n ? items->items[fl_hash_bytes(seed, sizeof(seed)) % items->n]
                    : fl_tv_undefined(NULL, false);
    return true;
}

/* ---- map and select ---------------------------------------------------------------- */

/* A filter or test that was named in the arguments, and the arguments behind the name. */
typedef struct inner_call {
    const fl_tfunction *function; /* NULL: none was named */
    fl_targs args;
} inner_call;

static bool inner_function(fl_trun *r, const fl_tcall *c, size_t name_at, bool filter,
                           inner_call *out) {
    const fl_tstr *name;
    *out = (inner_call){.args = *c->all};
    if (name_at >= c->all->n_positional) return true;
    if (!fl_tv_need_string(r, &c->all->positional[name_at], c->function->name, &name)) return false;
    out->function = filter ? fl_t_filter(name->data, name->len) : fl_t_test(name->data, name->len);
    if (!out->function)
        return fl_t_fail(r, FL_E_ARG, "no %s named '%.*s'", filter ? "filter" : "test",
                         name->len > 40 ? 40 : (int)name->len, name->data);
    out->args.positional += name_at + 1;
    out->args.n_positional -= name_at + 1;
    return true;
}

/* map and select give nothing for anything false, even what cannot be iterated. */
static bool source_items(fl_trun *r, const fl_tv *v, const fl_tlist **out) {
    if (fl_tv_truth(v)) return fl_tv_items(r, v, out);
    *out = fl_tlist_new(r, 0);
    return *out != NULL;
}

static const fl_tv *keyword(const fl_tcall *c, const char *name) {
    for (size_t i = 0; i < c->all->n_keywords; i++)
        if (fl_tstr_is(c->all->keys[i], name)) return &c->all->keywords[i];
    return NULL;
}

static bool f_map(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    inner_call call;
    const fl_tv *attribute = c->all->n_positional ? NULL : keyword(c, "attribute");
    if (!source_items(r, &c->self, &items) || !inner_function(r, c, 0, true, &call)) return false;
    if (!attribute && !call.function) return fl_t_fail(r, FL_E_ARG, "map: no filter is named");
    fl_tlist *l = fl_tlist_new(r, items->n);
    for (size_t i = 0; l && i < items->n; i++, l->n++) {
        if (!(attribute
                  ? attribute_of(r, items->items[i], attribute, keyword(c, "default"), &l->items[i])
                  : fl_t_call_builtin(r, call.function, &items->items[i], &call.args,
                                      &l->items[i])))
            return false;
    }
    return generator(l, out);
}

static bool select_items(fl_trun *r, const fl_tcall *c, bool by_attribute, bool wanted,
                         fl_tv *out) {
    const fl_tlist *items;
    inner_call call;
    fl_tlist *l = fl_tlist_new(r, 0);
    if (by_attribute && !c->all->n_positional)
        return fl_t_fail(r, FL_E_ARG, "%s: no attribute is named", c->function->name);
    if (!l || !source_items(r, &c->self, &items) ||
        !inner_function(r, c, by_attribute, false, &call))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        fl_tv v = items->items[i], is;
        if (by_attribute && !attribute_of(r, items->items[i], &c->all->positional[0], NULL, &v))
            return false;
        is = v;
        if (!fl_t_charge(r, 0) ||
            (call.function && !fl_t_call_builtin(r, call.function, &v, &call.args, &is)) ||
            (fl_tv_truth(&is) == wanted && !fl_tlist_push(r, l, items->items[i])))
            return false;
    }
    return generator(l, out);
}

static bool f_select(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return select_items(r, c, false, true, out);
}
static bool f_reject(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return select_items(r, c, false, false, out);
}
static bool f_selectattr(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return select_items(r, c, true, true, out);
}
static bool f_rejectattr(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return select_items(r, c, true, false, out);
}

const fl_tfunction *fl_t_sequence_filter(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"batch", "linecount fill_with=", f_batch},
        {"count", "", f_length},
        {"dictsort", "case_sensitive= by= reverse=", f_dictsort},
        {"first", "", f_first},
        {"groupby", "attribute default= case_sensitive=", f_groupby},
        {"items", "", f_items},
        {"join", "d= attribute=", f_join},
        {"last", "", f_last},
        {"length", "", f_length},
        {"list", "", f_list},
        {"map", "*", f_map},
        {"max", "case_sensitive= attribute=", f_max},
        {"min", "case_sensitive= attribute=", f_min},
        {"random", "", f_random},
        {"reject", "*", f_reject},
        {"rejectattr", "*", f_rejectattr},
        {"reverse", "", f_reverse},
        {"select", "*", f_select},
        {"selectattr", "*", f_selectattr},
        {"slice", "slices fill_with=", f_slice},
        {"sort", "reverse= case_sensitive= attribute=", f_sort},
        {"sum", "attribute= start=", f_sum},
        {"unique", "case_sensitive= attribute=", f_unique},
        {NULL, NULL, NULL},
    };
    return fl_t_find(table, name, n);
}
