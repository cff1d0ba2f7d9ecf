/* Expressions: tree -> value. */
#include <string.h>

#include "text/template_run.h"

static bool is_one_of(const fl_tstr *name, const char *const *names) {
    while (*names && !fl_tstr_is(name, *names)) names++;
    return *names != NULL;
}

/* Attributes that Python's objects have and that the sandbox hides: they are undefined even
 * where a dict has such a key. */
static bool is_hidden(const fl_tv *v, const fl_tstr *name) {
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const of_list[] = {"append", "clear",   "extend", "insert", "pop",
                                          "remove", "reverse", "sort",   NULL};
    if (name->len > 4 && !memcmp(name->data, "__", 2)) return true;
    return (v->kind == FL_TV_DICT && is_one_of(name, of_dict)) ||
           (v->kind == FL_TV_LIST && is_one_of(name, of_list));
}

static bool loop_attribute(const fl_tloop *l, const fl_tstr *name, fl_tv *out) {
    size_t n = l->items->n, i = l->index;
    if (fl_tstr_is(name, "index")) {
        *out = fl_tv_int((int64_t)i + 1);
    } else if (fl_tstr_is(name, "index0")) {
        *out = fl_tv_int((int64_t)i);
    } else if (fl_tstr_is(name, "first")) {
        *out = fl_tv_bool(i == 0);
    } else if (fl_tstr_is(name, "last")) {
        *out = fl_tv_bool(i + 1 >= n);
    } else if (fl_tstr_is(name, "length")) {
        *out = fl_tv_int((int64_t)n);
    } else if (fl_tstr_is(name, "revindex")) {
        *out = fl_tv_int((int64_t)n - (int64_t)i);
    } else if (fl_tstr_is(name, "revindex0")) {
        *out = fl_tv_int((int64_t)n - (int64_t)i - 1);
    } else if (fl_tstr_is(name, "previtem")) {
        *out = i ? l->items->items[i - 1] : fl_tv_undefined(name, true);
    } else if (fl_tstr_is(name, "nextitem")) {
        *out = i + 1 < n ? l->items->items[i + 1] : fl_tv_undefined(name, true);
    } else if (fl_tstr_is(name, "depth")) {
        *out = fl_tv_int(l->depth);
    } else if (fl_tstr_is(name, "depth0")) {
        *out = fl_tv_int(l->depth - 1);
    } else {
        return false;
    }
    return true;
}

static bool number_attribute(const fl_tv *v, const fl_tstr *name, fl_tv *out) {
    const bool real = fl_tstr_is(name, "real"), imag = fl_tstr_is(name, "imag");
    if (v->kind == FL_TV_FLOAT) {
        *out = fl_tv_float(real ? v->number : 0);
        return real || imag;
    }
    *out = fl_tv_int(real || fl_tstr_is(name, "numerator") ? fl_tv_whole(v) : imag ? 0 : 1);
    return real || imag || fl_tstr_is(name, "numerator") || fl_tstr_is(name, "denominator");
}

static bool cycler_attribute(const fl_tv *v, const fl_tstr *name, fl_tv *out) {
    if (fl_tstr_is(name, "current")) {
        *out = v->list->items[v->list->taken];
    } else if (fl_tstr_is(name, "pos")) {
        *out = fl_tv_int((int64_t)v->list->taken);
    } else if (fl_tstr_is(name, "items")) {
        *out = fl_tv_list(FL_TV_TUPLE, v->list);
    } else {
        return false;
    }
    return true;
}

/* Attributes of values that are no methods; *out is kept where there is none. */
static bool plain_attribute(fl_trun *r, const fl_tv *v, const fl_tstr *name, fl_tv *out) {
    fl_tv found = *out;
    bool is = false;
    if (fl_tv_is_number(v)) {
        is = number_attribute(v, name, &found);
    } else if (v->kind == FL_TV_CYCLER) {
        is = cycler_attribute(v, name, &found);
    } else if (v->kind == FL_TV_TUPLE && v->list->label) {
        const bool grouper = fl_tstr_is(name, "grouper");
        is = grouper || fl_tstr_is(name, "list");
        found = v->list->items[!grouper];
    } else if (v->kind == FL_TV_RANGE) {
        const bool start = fl_tstr_is(name, "start"), stop = fl_tstr_is(name, "stop");
        is = start || stop || fl_tstr_is(name, "step");
        found = fl_tv_int(start ? v->list->start : stop ? v->list->stop : v->list->step);
    } else if (v->kind == FL_TV_SELF) {
        const fl_tnode *block = fl_t_find_block(r->t, name);
        is = block != NULL;
        found = (fl_tv){.kind = FL_TV_BLOCK, .block = block};
    }
    if (is) *out = found;
    return is;
}

static bool macro_attribute(fl_trun *r, const fl_tnode *macro, const fl_tstr *name, fl_tv *out,
                            bool *found) {
    if (fl_tstr_is(name, "name")) {
        *out = macro->name ? fl_tv_string(&macro->name->text) : fl_tv_none();
    } else if (fl_tstr_is(name, "arguments")) {
        fl_tlist *l = fl_tlist_new(r, macro->n_kids);
        if (!l) return false;
        for (uint32_t i = 0; i < macro->n_kids; i++)
            l->items[i] = fl_tv_string(&macro->kids[i]->name->text);
        l->n = macro->n_kids;
        *out = fl_tv_list(FL_TV_TUPLE, l);
    } else if (fl_tstr_is(name, "caller")) {
        *out = fl_tv_bool(macro->uses & 1 << FL_T_CALLER);
    } else if (fl_tstr_is(name, "catch_varargs")) {
        *out = fl_tv_bool(macro->uses & 1 << FL_T_VARARGS);
    } else if (fl_tstr_is(name, "catch_kwargs")) {
        *out = fl_tv_bool(macro->uses & 1 << FL_T_KWARGS);
    } else {
        *found = false;
    }
    return true;
}

bool fl_t_python_attribute(fl_trun *r, const fl_tv *v, const fl_tstr *name, fl_tv *out,
                           bool *found) {
    *found = true;
    *out = fl_tv_undefined(name, true);
    if (is_hidden(v, name)) return true;
    if (v->kind == FL_TV_LOOP && loop_attribute(v->loop, name, out)) return true;
    if (plain_attribute(r, v, name, out)) return true;
    if (v->kind == FL_TV_NAMESPACE) {
        fl_tv *value = fl_tdict_get(r, v->dict, name);
        if (value) *out = *value;
        *found = value != NULL;
        return true;
    }
    if (v->kind == FL_TV_MACRO) return macro_attribute(r, v->macro->node, name, out, found);
    const fl_tfunction *f = fl_t_method(v, name->data, name->len);
    *found = f != NULL;
    if (!f) return true;
    fl_tmethod *m = fl_t_alloc(r, sizeof(*m));
    if (!m) return false;
    *m = (fl_tmethod){.self = *v, .function = f};
    *out = (fl_tv){.kind = FL_TV_METHOD, .method = m};
    return true;
}

bool fl_t_attribute(fl_trun *r, const fl_tv *v, const fl_tstr *name, fl_tv *out) {
    bool found;
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    if (!fl_t_python_attribute(r, v, name, out, &found)) return false;
    if (found || v->kind != FL_TV_DICT) return true;
    fl_tv *value = fl_tdict_get(r, v->dict, name);
    if (value) *out = *value;
    return fl_t_charge(r, 0);
}

/* v[key] for an integer; *found: it is inside. */
static bool index_item(fl_trun *r, const fl_tv *v, int64_t i, fl_tv *out, bool *found) {
    int64_t n;
    *found = false;
    if (v->kind != FL_TV_STRING && v->kind != FL_TV_RANGE && !fl_tv_is_sequence(v)) return true;
    if (!fl_tv_length(r, v, &n)) return false;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return true;
    *found = true;
    if (v->kind == FL_TV_RANGE) {
        *out = fl_tv_int(v->list->start + i * v->list->step);
    } else if (v->kind != FL_TV_STRING) {
        *out = v->list->items[i];
    } else {
        uint32_t cp;
        size_t at = fl_tstr_offset(v->string, (size_t)i);
        return fl_tstr_slice(r, v->string, at, at + fl_tstr_next(v->string, at, &cp), out);
    }
    return true;
}

bool fl_t_item(fl_trun *r, const fl_tv *v, const fl_tv *key, fl_tv *out) {
    bool found = false;
    fl_tv *value = NULL;
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    if (v->kind == FL_TV_DICT) {
        if (fl_tv_is_hashable(key) && !fl_tdict_find(r, v->dict, key, &value)) return false;
        if (value) {
            *out = *value;
            return true;
        }
    } else if (fl_tv_is_whole(key)) {
        if (!index_item(r, v, fl_tv_whole(key), out, &found)) return false;
        if (found) return true;
    }
    *out = fl_tv_undefined(NULL, true);
    if (key->kind != FL_TV_STRING) return true;
    return fl_t_python_attribute(r, v, key->string, out, &found);
}

/* A bound of a slice over n items, counted from the end when negative, kept in range. */
static bool slice_bound(fl_trun *r, const fl_tnode *e, int64_t n, int64_t step, int64_t absent,
                        int64_t *out) {
    fl_tv v = fl_tv_none();
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    if (e && !fl_t_eval(r, e, &v)) return false;
    *out = absent;
    if (v.kind == FL_TV_NONE) return true;
    if (!fl_tv_need_int(r, &v, out)) return false;
    if (*out < 0) *out = *out < -n ? low : *out + n;
    *out = *out < low ? low : *out > high ? high : *out;
    return true;
}

static bool slice_string(fl_trun *r, const fl_tstr *s, int64_t start, int64_t stop, int64_t step,
                         fl_tv *out) {
    fl_tv whole = fl_tv_string(s);
    const fl_tlist *chars;
    fl_ttext t = {0};
    bool ok = true;
    if (step == 1) {
        size_t from = fl_tstr_offset(s, (size_t)start);
        size_t to = stop > start ? fl_tstr_offset(s, (size_t)stop) : from;
        return fl_tstr_slice(r, s, from, to, out);
    }
    if (!fl_tv_items(r, &whole, &chars)) return false;
    for (int64_t i = start; ok && (step > 0 ? i < stop : i > stop); i += step)
        ok = fl_ttext_put_str(r, &t, chars->items[i].string);
    return fl_ttext_finish(r, &t, ok, out);
}

/* A range that goes from range[start] to range[stop]. */
static bool slice_range(fl_trun *r, const fl_tlist *from, int64_t start, int64_t stop, int64_t step,
                        fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, 0);
    if (!l) return false;
    /* Unsigned: the ends of a short range may lie outside of int64. */
    l->start = (int64_t)((uint64_t)from->start + (uint64_t)start * (uint64_t)from->step);
    l->stop = (int64_t)((uint64_t)from->start + (uint64_t)stop * (uint64_t)from->step);
    l->step = (int64_t)((uint64_t)from->step * (uint64_t)step);
    int64_t span = step > 0 ? stop - start : start - stop, by = step > 0 ? step : -step;
    l->n = span > 0 ? (size_t)((span + by - 1) / by) : 0;
    *out = fl_tv_list(FL_TV_RANGE, l);
    return true;
}

static bool slice(fl_trun *r, const fl_tv *v, const fl_tnode *s, fl_tv *out) {
    int64_t n, step = 1, start, stop;
    fl_tv v_step = fl_tv_none();
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    if (v->kind != FL_TV_STRING && v->kind != FL_TV_RANGE && !fl_tv_is_sequence(v))
        return fl_t_fail(r, FL_E_ARG, "'%s' cannot be sliced", fl_tv_type_name(v));
    if (s->d && !fl_t_eval(r, s->d, &v_step)) return false;
    if (v_step.kind != FL_TV_NONE && !fl_tv_need_int(r, &v_step, &step)) return false;
    if (!step) return fl_t_fail(r, FL_E_ARG, "slice step cannot be zero");
    if (!fl_tv_length(r, v, &n)) return false;
    /* A step of n or more takes one item either way, and cannot overflow i += step. */
    step = step > n + 1 ? n + 1 : step < -n - 1 ? -n - 1 : step;
    if (!slice_bound(r, s->b, n, step, step > 0 ? 0 : n - 1, &start) ||
        !slice_bound(r, s->c, n, step, step > 0 ? n : -1, &stop))
        return false;
    if (v->kind == FL_TV_STRING) return slice_string(r, v->string, start, stop, step, out);
    if (v->kind == FL_TV_RANGE) return slice_range(r, v->list, start, stop, step, out);
    fl_tlist *l = fl_tlist_new(r, 0);
    bool ok = l != NULL;
    for (int64_t i = start; ok && (step > 0 ? i < stop : i > stop); i += step)
        ok = fl_t_charge(r, 0) && fl_tlist_push(r, l, v->list->items[i]);
    *out = fl_tv_list(v->kind, l);
    return ok;
}

static bool eval_item(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tv object, key;
    if (!fl_t_eval(r, n->a, &object)) return false;
    if (n->b->kind == FL_TN_SLICE) return slice(r, &object, n->b, out);
    return fl_t_eval(r, n->b, &key) && fl_t_item(r, &object, &key, out);
}

static bool eval_unary(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tv v;
    if (!fl_t_eval(r, n->a, &v)) return false;
    if (n->op == '!') {
        *out = fl_tv_bool(!fl_tv_truth(&v));
        return true;
    }
    if (v.kind == FL_TV_UNDEFINED) return fl_t_undefined(r, &v);
    if (!fl_tv_is_number(&v))
        return fl_t_fail(r, FL_E_ARG, "'%s' has no sign", fl_tv_type_name(&v));
    if (v.kind == FL_TV_FLOAT) {
        *out = fl_tv_float(n->op == '-' ? -v.number : v.number);
        return true;
    }
    fl_tv zero = fl_tv_int(0);
    return fl_tv_binary(r, (char)n->op, &zero, &v, out);
}

static bool eval_compare(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tv left, right;
    bool is = true;
    if (!fl_t_eval(r, n->a, &left)) return false;
    for (uint32_t i = 0; is && i < n->n_kids; i++, left = right) {
        char op = (char)n->kids[i]->op;
        if (!fl_t_eval(r, n->kids[i]->a, &right)) return false;
        if (op == '=' || op == '!') {
            if (!fl_tv_equal(r, &left, &right, &is)) return false;
        } else if (op == 'n' || op == 'N') {
            if (!fl_tv_contains(r, &right, &left, &is)) return false;
        } else if (!fl_tv_compare(r, op, &left, &right, &is)) {
            return false;
        }
        if (op == '!' || op == 'N') is = !is;
    }
    *out = fl_tv_bool(is);
    return true;
}

static bool eval_list(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tlist *l = fl_tlist_new(r, n->n_kids);
    for (uint32_t i = 0; l && i < n->n_kids; i++, l->n++)
        if (!fl_t_eval(r, n->kids[i], &l->items[i])) return false;
    *out = fl_tv_list(n->kind == FL_TN_LIST ? FL_TV_LIST : FL_TV_TUPLE, l);
    return l != NULL;
}

static bool eval_dict(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    fl_tv key, value;
    for (uint32_t i = 0; d && i < n->n_kids; i += 2) {
        if (!fl_t_eval(r, n->kids[i], &key) || !fl_t_eval(r, n->kids[i + 1], &value) ||
            !fl_tdict_set(r, d, key, value))
            return false;
    }
    *out = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    return d != NULL;
}

/* ---- calls ------------------------------------------------------------------------- */

static bool room_for_args(fl_trun *r, fl_targs *a, size_t n_positional, size_t n_keywords) {
    if (n_positional > FL_T_MAX_ARGS || n_keywords > FL_T_MAX_ARGS)
        return fl_t_fail(r, FL_E_LIMIT, "more than %d arguments", FL_T_MAX_ARGS);
    return (a->positional = fl_t_alloc(r, n_positional * sizeof(fl_tv))) &&
           (a->keys = fl_t_alloc(r, n_keywords * sizeof(fl_tstr *))) &&
           (a->keywords = fl_t_alloc(r, n_keywords * sizeof(fl_tv)));
}

static bool add_keyword(fl_trun *r, fl_targs *a, const fl_tstr *key, fl_tv v) {
    for (size_t i = 0; i < a->n_keywords; i++)
        if (a->keys[i]->len == key->len && !memcmp(a->keys[i]->data, key->data, key->len))
            return fl_t_fail(r, FL_E_ARG, "keyword argument '%.*s' given twice", (int)key->len,
                             key->data);
    a->keys[a->n_keywords] = key;
    a->keywords[a->n_keywords++] = v;
    return true;
}

/* The values behind * and ** of a call, in the order of the kids. */
static bool eval_stars(fl_trun *r, const fl_tnode *call, const fl_tlist **list,
                       const fl_tdict **dict) {
    fl_tv v;
    for (uint32_t i = 0; i < call->n_kids; i++) {
        const fl_tnode *k = call->kids[i];
        if (k->kind != FL_TN_STAR) continue;
        if (k->op == '*' ? *list != NULL : *dict != NULL)
            return fl_t_fail(r, FL_E_ARG, "more than one * argument");
        if (!fl_t_eval(r, k->a, &v)) return false;
        if (k->op == '*') {
            if (!fl_tv_items(r, &v, list)) return false;
        } else if (v.kind == FL_TV_DICT) {
            *dict = v.dict;
        } else {
            return fl_t_fail(r, FL_E_ARG, "argument behind ** must be a dict, not '%s'",
                             fl_tv_type_name(&v));
        }
    }
    return true;
}

/* extra: room for so many more keywords. */
static bool eval_args(fl_trun *r, const fl_tnode *call, size_t extra, fl_targs *a) {
    const fl_tlist *list = NULL;
    const fl_tdict *dict = NULL;
    *a = (fl_targs){0};
    if (!call->n_kids && !extra) return true;
    if (!eval_stars(r, call, &list, &dict) ||
        !room_for_args(r, a, call->n_kids + (list ? list->n : 0),
                       call->n_kids + (dict ? dict->n : 0) + extra))
        return false;
    for (uint32_t i = 0; i < call->n_kids; i++) {
        const fl_tnode *k = call->kids[i];
        fl_tv v;
        if (k->kind == FL_TN_STAR) continue;
        if (!fl_t_eval(r, k->kind == FL_TN_PARAM ? k->a : k, &v)) return false;
        if (k->kind != FL_TN_PARAM) {
            a->positional[a->n_positional++] = v;
        } else if (!add_keyword(r, a, &k->name->text, v)) {
            return false;
        }
    }
    for (size_t i = 0; list && i < list->n; i++) a->positional[a->n_positional++] = list->items[i];
    for (uint32_t i = 0; dict && i < dict->n; i++) {
        if (dict->entries[i].key.kind != FL_TV_STRING)
            return fl_t_fail(r, FL_E_ARG, "keywords must be strings");
        if (!add_keyword(r, a, dict->entries[i].key.string, dict->entries[i].value)) return false;
    }
    return true;
}

static bool give_argument(fl_trun *r, fl_tcall *c, int slot, const char *name, size_t n,
                          size_t *n_used) {
    const fl_targs *a = c->all;
    if ((size_t)slot < a->n_positional) c->arg[slot] = a->positional[slot];
    for (size_t i = 0; i < a->n_keywords; i++) {
        if (a->keys[i]->len != n || memcmp(a->keys[i]->data, name, n) != 0) continue;
        if (c->arg[slot].kind != FL_TV_ABSENT)
            return fl_t_fail(r, FL_E_ARG, "%s: argument '%.*s' given twice", c->function->name,
                             (int)n, name);
        c->arg[slot] = a->keywords[i];
        ++*n_used;
    }
    return true;
}

bool fl_t_call_builtin(fl_trun *r, const fl_tfunction *f, const fl_tv *self, const fl_targs *args,
                       fl_tv *out) {
    fl_tcall c = {.function = f, .self = *self, .all = args};
    size_t n_used = 0;
    int n_params = 0;
    if (!fl_t_charge(r, 0)) return false;
    if (*f->params == '*') return f->run(r, &c, out);
    for (int i = 0; i < FL_T_MAX_PARAMS; i++) c.arg[i].kind = FL_TV_ABSENT;
    for (const char *p = f->params; *p; n_params++) {
        size_t n = strcspn(p, " ="), name = p[n] == '=';
        if (!give_argument(r, &c, n_params, p, n, &n_used)) return false;
        if (!name && c.arg[n_params].kind == FL_TV_ABSENT)
            return fl_t_fail(r, FL_E_ARG, "%s: argument %d is missing", f->name, n_params + 1);
        p += n + name;
        p += *p == ' ';
    }
    if (args->n_positional > (size_t)n_params)
        return fl_t_fail(r, FL_E_ARG, "%s takes %d arguments, got %zu", f->name, n_params,
                         args->n_positional);
    if (n_used < args->n_keywords) return fl_t_fail(r, FL_E_ARG, "%s: unknown keyword", f->name);
    return f->run(r, &c, out);
}

bool fl_t_call(fl_trun *r, const fl_tv *callee, const fl_targs *args, fl_tv *out) {
    fl_tv self = fl_tv_none();
    switch (callee->kind) {
    case FL_TV_FUNCTION:
        return fl_t_call_builtin(r, callee->function, &self, args, out);
    case FL_TV_METHOD:
        return fl_t_call_builtin(r, callee->method->function, &callee->method->self, args, out);
    case FL_TV_MACRO:
        return fl_t_call_macro(r, callee->macro, args, out);
    case FL_TV_LOOP:
        if (args->n_positional != 1)
            return fl_t_fail(r, FL_E_ARG, "loop takes 1 argument, got %zu", args->n_positional);
        return fl_t_recurse(r, callee->loop, &args->positional[0], out);
    case FL_TV_JOINER:
        if (args->n_positional || args->n_keywords)
            return fl_t_fail(r, FL_E_ARG, "a joiner takes no arguments");
        if (!callee->list->taken++) return fl_tv_text(r, "", 0, out);
        callee->list->taken = 1;
        *out = callee->list->items[0];
        return true;
    case FL_TV_BLOCK:
        return fl_t_call_block(r, callee->block, out);
    case FL_TV_UNDEFINED:
        return fl_t_undefined(r, callee);
    default:
        return fl_t_fail(r, FL_E_ARG, "'%s' cannot be called", fl_tv_type_name(callee));
    }
}

bool fl_t_eval_call(fl_trun *r, const fl_tnode *n, const fl_tv *caller, fl_tv *out) {
    static const fl_tstr name = {.data = "caller", .len = 6, .trusted = true};
    fl_tv callee;
    fl_targs args;
    return fl_t_eval(r, n->a, &callee) && eval_args(r, n, caller != NULL, &args) &&
           (!caller || add_keyword(r, &args, &name, *caller)) && fl_t_call(r, &callee, &args, out);
}

static bool eval_builtin(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tv input;
    fl_targs args;
    const fl_tstr *name = &n->name->text;
    if (n->a) {
        if (!fl_t_eval(r, n->a, &input)) return false;
    } else {
        input = *r->block_text;
    }
    if (!n->function)
        return fl_t_fail(r, FL_E_FORMAT, "no %s named '%.*s'",
                         n->kind == FL_TN_FILTER ? "filter" : "test",
                         name->len > 40 ? 40 : (int)name->len, name->data);
    return eval_args(r, n, 0, &args) && fl_t_call_builtin(r, n->function, &input, &args, out);
}

static bool eval_node(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tv a, b;
    switch (n->kind) {
    case FL_TN_CONST:
        *out = n->value;
        return true;
    case FL_TN_NAME:
        *out = fl_t_variable(r, n->name);
        return true;
    case FL_TN_ATTRIBUTE:
        return fl_t_eval(r, n->a, &a) && fl_t_attribute(r, &a, &n->name->text, out);
    case FL_TN_ITEM:
        return eval_item(r, n, out);
    case FL_TN_CALL:
        return fl_t_eval_call(r, n, NULL, out);
    case FL_TN_FILTER:
    case FL_TN_TEST:
        return eval_builtin(r, n, out);
    case FL_TN_UNARY:
        return eval_unary(r, n, out);
    case FL_TN_BINARY:
        return fl_t_eval(r, n->a, &a) && fl_t_eval(r, n->b, &b) &&
               fl_tv_binary(r, (char)n->op, &a, &b, out);
    case FL_TN_AND:
    case FL_TN_OR:
        if (!fl_t_eval(r, n->a, out)) return false;
        return fl_tv_truth(out) == (n->kind == FL_TN_OR) || fl_t_eval(r, n->b, out);
    case FL_TN_CONDITIONAL:
        if (!fl_t_eval(r, n->b, &a)) return false;
        if (fl_tv_truth(&a)) return fl_t_eval(r, n->a, out);
        *out = fl_tv_undefined(NULL, false);
        return !n->c || fl_t_eval(r, n->c, out);
    case FL_TN_COMPARE:
        return eval_compare(r, n, out);
    case FL_TN_LIST:
    case FL_TN_TUPLE:
        return eval_list(r, n, out);
    case FL_TN_DICT:
        return eval_dict(r, n, out);
    default:
        return fl_t_fail(r, FL_E_ARG, "slice outside of [ ]");
    }
}

bool fl_t_eval(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    r->line = n->line;
    if (!fl_t_charge(r, 0) || !fl_t_enter(r)) return false;
    bool ok = eval_node(r, n, out);
    r->depth--;
    return ok;
}
