/* Operators on template values, as Python defines them. */
#include <math.h>
#include <string.h>

#include "text/template_run.h"
#include "util/num.h"

const char *fl_tv_type_name(const fl_tv *v) {
    static const char *const names[] = {"Undefined",
                                        "NoneType",
                                        "bool",
                                        "int",
                                        "float",
                                        "str",
                                        "list",
                                        "tuple",
                                        "dict",
                                        "Namespace",
                                        "dict view",
                                        "range",
                                        "generator",
                                        "Macro",
                                        "function",
                                        "method",
                                        "LoopContext",
                                        "bytes",
                                        "Cycler",
                                        "Joiner",
                                        "TemplateReference",
                                        "BlockReference",
                                        "nothing"};
    return v->kind == FL_TV_VIEW ? v->list->label : names[v->kind];
}

bool fl_tv_truth(const fl_tv *v) {
    switch (v->kind) {
    case FL_TV_UNDEFINED:
    case FL_TV_NONE:
    case FL_TV_ABSENT:
        return false;
    case FL_TV_BOOL:
        return v->boolean;
    case FL_TV_INT:
        return v->integer != 0;
    case FL_TV_FLOAT:
        return v->number != 0;
    case FL_TV_STRING:
    case FL_TV_BYTES:
        return v->string->len > 0;
    case FL_TV_LIST:
    case FL_TV_TUPLE:
    case FL_TV_VIEW:
    case FL_TV_RANGE:
        return v->list->n > 0;
    case FL_TV_DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

static bool lists_equal(fl_trun *r, const fl_tlist *a, const fl_tlist *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++)
        if (!fl_tv_equal(r, &a->items[i], &b->items[i], out)) return false;
    return true;
}

static bool dicts_equal(fl_trun *r, const fl_tdict *a, const fl_tdict *b, bool *out) {
    fl_tv *other;
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) {
        if (!fl_tdict_find(r, b, &a->entries[i].key, &other)) return false;
        *out = other != NULL;
        if (other && !fl_tv_equal(r, &a->entries[i].value, other, out)) return false;
    }
    return true;
}

bool fl_tv_equal(fl_trun *r, const fl_tv *a, const fl_tv *b, bool *out) {
    bool ok = true;
    if (fl_tv_is_number(a) && fl_tv_is_number(b)) {
        *out = fl_tv_is_whole(a) && fl_tv_is_whole(b) ? fl_tv_whole(a) == fl_tv_whole(b)
                                                      : fl_tv_number(a) == fl_tv_number(b);
        return fl_t_charge(r, 0);
    }
    *out = false;
    if (a->kind != b->kind) return fl_t_charge(r, 0);
    switch (a->kind) {
    case FL_TV_UNDEFINED:
    case FL_TV_NONE:
        *out = true;
        return true;
    case FL_TV_STRING:
    case FL_TV_BYTES:
        *out = a->string->len == b->string->len;
        if (!*out) return fl_t_charge(r, 0);
        *out = !memcmp(a->string->data, b->string->data, a->string->len);
        return fl_t_charge(r, a->string->len);
    case FL_TV_LIST:
    case FL_TV_TUPLE:
    case FL_TV_VIEW:
    case FL_TV_DICT:
        if (!fl_t_enter(r) || !fl_t_charge(r, 0)) return false;
        ok = a->kind == FL_TV_DICT ? dicts_equal(r, a->dict, b->dict, out)
                                   : lists_equal(r, a->list, b->list, out);
        r->depth--;
        return ok;
    case FL_TV_RANGE:
        *out = a->list->n == b->list->n && (!a->list->n || a->list->start == b->list->start) &&
               (a->list->n < 2 || a->list->step == b->list->step);
        return true;
    default:
        *out = a->list == b->list;
        return true;
    }
}

static bool in_order(char op, int order) {
    return op == '<' ? order < 0 : op == '>' ? order > 0 : op == 'l' ? order <= 0 : order >= 0;
}

static bool compare_lists(fl_trun *r, char op, const fl_tlist *a, const fl_tlist *b, bool *out) {
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        if (!fl_tv_equal(r, &a->items[i], &b->items[i], &same)) return false;
        if (!same) return fl_tv_compare(r, op, &a->items[i], &b->items[i], out);
    }
    *out = in_order(op, (a->n > b->n) - (a->n < b->n));
    return true;
}

bool fl_tv_compare(fl_trun *r, char op, const fl_tv *a, const fl_tv *b, bool *out) {
    if (fl_tv_is_whole(a) && fl_tv_is_whole(b)) {
        int64_t x = fl_tv_whole(a), y = fl_tv_whole(b);
        *out = in_order(op, (x > y) - (x < y));
        return fl_t_charge(r, 0);
    }
    if (fl_tv_is_number(a) && fl_tv_is_number(b)) {
        double x = fl_tv_number(a), y = fl_tv_number(b);
        *out = !isnan(x) && !isnan(y) && in_order(op, (x > y) - (x < y));
        return fl_t_charge(r, 0);
    }
    if (a->kind == FL_TV_STRING && b->kind == FL_TV_STRING) {
        size_t x = a->string->len, y = b->string->len, n = x < y ? x : y;
        int order = n ? memcmp(a->string->data, b->string->data, n) : 0;
        *out = in_order(op, order ? order : (x > y) - (x < y));
        return fl_t_charge(r, n);
    }
    if (fl_tv_is_sequence(a) && a->kind == b->kind) {
        if (!fl_t_enter(r) || !fl_t_charge(r, 0)) return false;
        bool ok = compare_lists(r, op, a->list, b->list, out);
        r->depth--;
        return ok;
    }
    if (a->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, a);
    if (b->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, b);
    return fl_t_fail(r, FL_E_ARG, "'%s' and '%s' cannot be ordered", fl_tv_type_name(a),
                     fl_tv_type_name(b));
}

/* Merge sort of a[0..n) with room for n more behind it. */
static bool merge_sort(fl_trun *r, fl_tsort *a, fl_tsort *room, size_t n, bool reverse) {
    size_t half = n / 2, i = 0, j = half;
    if (n < 2) return true;
    if (!merge_sort(r, a, room, half, reverse) || !merge_sort(r, a + half, room, n - half, reverse))
        return false;
    for (size_t k = 0; k < n; k++) {
        bool right = i == half;
        if (i < half && j < n) {
            const fl_tv *x = &a[i].key, *y = &a[j].key;
            if (!(reverse ? fl_tv_compare(r, '<', x, y, &right)
                          : fl_tv_compare(r, '<', y, x, &right)))
                return false;
        }
        room[k] = right ? a[j++] : a[i++];
    }
    memcpy(a, room, n * sizeof(*a));
    return true;
}

bool fl_tv_sort(fl_trun *r, fl_tsort *a, size_t n, bool reverse) {
    fl_tsort *room = fl_t_alloc(r, n * sizeof(*room));
    return room && merge_sort(r, a, room, n, reverse);
}

bool fl_tv_sort_keys(fl_trun *r, fl_tsort *a, size_t n) {
    bool texts = true, numbers = true;
    for (size_t i = 0; i < n; i++) {
        texts &= a[i].key.kind == FL_TV_STRING;
        numbers &= fl_tv_is_number(&a[i].key);
    }
    return !(texts || numbers) || fl_tv_sort(r, a, n, false);
}

bool fl_tv_need_int(fl_trun *r, const fl_tv *v, int64_t *out) {
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    if (!fl_tv_is_whole(v))
        return fl_t_fail(r, FL_E_ARG, "integer expected, got '%s'", fl_tv_type_name(v));
    *out = fl_tv_whole(v);
    return true;
}

static bool overflow(fl_trun *r) {
    return fl_t_fail(r, FL_E_LIMIT, "integer does not fit 64 bits");
}

static bool power(fl_trun *r, int64_t a, int64_t b, fl_tv *out) {
    int64_t v = 1;
    if (b < 0) {
        if (!a) return fl_t_fail(r, FL_E_ARG, "division by zero");
        *out = fl_tv_float(pow((double)a, (double)b));
        return true;
    }
    if (a == -1 || a == 0 || a == 1) b = b ? 2 - b % 2 : 0; /* same result, few rounds */
    for (; b; b--)
        if (__builtin_mul_overflow(v, a, &v)) return overflow(r);
    *out = fl_tv_int(v);
    return true;
}

static bool whole_arithmetic(fl_trun *r, char op, int64_t a, int64_t b, fl_tv *out) {
    int64_t v = 0;
    bool over = false;
    if (op == '^') return power(r, a, b, out);
    if (op == 'i' || op == '%') {
        if (!b) return fl_t_fail(r, FL_E_ARG, "division by zero");
        if (b == -1) { /* INT64_MIN / -1 traps */
            over = op == 'i' && __builtin_sub_overflow((int64_t)0, a, &v);
        } else {
            int64_t rest = a % b;
            bool down = rest && (rest < 0) != (b < 0); /* Python rounds towards minus infinity */
            v = op == '%' ? rest + (down ? b : 0) : a / b - down;
        }
    } else if (op == '+') {
        over = __builtin_add_overflow(a, b, &v);
    } else if (op == '-') {
        over = __builtin_sub_overflow(a, b, &v);
    } else {
        over = __builtin_mul_overflow(a, b, &v);
    }
    *out = fl_tv_int(v);
    return !over || overflow(r);
}

static bool float_arithmetic(fl_trun *r, char op, double a, double b, fl_tv *out) {
    double v = 0;
    if ((op == '/' || op == 'i' || op == '%') && b == 0)
        return fl_t_fail(r, FL_E_ARG, "division by zero");
    switch (op) {
    case '+':
        v = a + b;
        break;
    case '-':
        v = a - b;
        break;
    case '*':
        v = a * b;
        break;
    case '/':
        v = a / b;
        break;
    case '^':
        v = pow(a, b);
        break;
    default:
        v = fmod(a, b);
        if (v && (v < 0) != (b < 0)) v += b;
        if (op == 'i') v = floor((a - v) / b + 0.5);
    }
    *out = fl_tv_float(v);
    return true;
}

static bool repeat_string(fl_trun *r, const fl_tstr *s, int64_t n, fl_tv *out) {
    fl_ttext t = {0};
    bool ok = true;
    if (n > 0 && s->len > r->max_output / (uint64_t)n)
        return fl_t_fail(r, FL_E_LIMIT, "text longer than %zu bytes", r->max_output);
    for (int64_t i = 0; ok && s->len && i < n; i++) ok = fl_ttext_put_str(r, &t, s);
    return fl_ttext_finish(r, &t, ok, out);
}

static bool join_lists(fl_trun *r, uint8_t kind, const fl_tlist *a, const fl_tlist *b, fl_tv *out) {
    fl_tlist *l =
        fl_t_charge(r, (a->n + b->n) * sizeof(*a->items)) ? fl_tlist_new(r, a->n + b->n) : NULL;
    if (!l) return false;
    if (a->n) memcpy(l->items, a->items, a->n * sizeof(*l->items));
    if (b->n) memcpy(l->items + a->n, b->items, b->n * sizeof(*l->items));
    l->n = a->n + b->n;
    *out = fl_tv_list(kind, l);
    return true;
}

static bool repeat_list(fl_trun *r, uint8_t kind, const fl_tlist *a, int64_t n, fl_tv *out) {
    uint64_t items, bytes;
    if (n < 0) n = 0;
    if (!fl_mul_u64(a->n, (uint64_t)n, &items) || !fl_mul_u64(items, sizeof(*a->items), &bytes) ||
        bytes > r->arena.limit)
        return fl_t_fail(r, FL_E_LIMIT, "needs more than %zu bytes of memory", r->arena.limit);
    fl_tlist *l = fl_t_charge(r, bytes) ? fl_tlist_new(r, items) : NULL;
    if (!l) return false;
    for (; l->n < items; l->n += a->n) memcpy(l->items + l->n, a->items, a->n * sizeof(*a->items));
    *out = fl_tv_list(kind, l);
    return true;
}

/* Text that is marked as safe escapes what is added to it. */
static bool add_strings(fl_trun *r, const fl_tv *a, const fl_tv *b, fl_tv *out) {
    const fl_targs none = {0};
    fl_tv x = *a, y = *b;
    const bool markup = a->string->markup || b->string->markup;
    if (markup && (!fl_t_call_builtin(r, fl_t_filter("escape", 6), a, &none, &x) ||
                   !fl_t_call_builtin(r, fl_t_filter("escape", 6), b, &none, &y)))
        return false;
    return fl_tstr_concat(r, x.string, y.string, out) && fl_tv_keep_markup(r, markup, out);
}

/* Text and sequences: + and * and %.  *done: it was such a case. */
static bool sequence_arithmetic(fl_trun *r, char op, const fl_tv *a, const fl_tv *b, fl_tv *out,
                                bool *done) {
    *done = true;
    if (op == '+' && a->kind == FL_TV_STRING && b->kind == FL_TV_STRING)
        return add_strings(r, a, b, out);
    if (op == '+' && fl_tv_is_sequence(a) && a->kind == b->kind)
        return join_lists(r, a->kind, a->list, b->list, out);
    if (op == '%' && a->kind == FL_TV_STRING) return fl_tv_percent(r, a->string, b, out);
    if (op == '*' && fl_tv_is_whole(a)) { /* 3 * "ab" */
        const fl_tv *swap = a;
        a = b;
        b = swap;
    }
    if (op == '*' && fl_tv_is_whole(b) && a->kind == FL_TV_STRING)
        return repeat_string(r, a->string, fl_tv_whole(b), out);
    if (op == '*' && fl_tv_is_whole(b) && fl_tv_is_sequence(a))
        return repeat_list(r, a->kind, a->list, fl_tv_whole(b), out);
    *done = false;
    return true;
}

bool fl_tv_binary(fl_trun *r, char op, const fl_tv *a, const fl_tv *b, fl_tv *out) {
    bool done;
    if (op == '~') {
        const fl_tstr *x, *y;
        return fl_tv_str(r, a, &x) && fl_tv_str(r, b, &y) && fl_tstr_concat(r, x, y, out);
    }
    if (fl_tv_is_number(a) && fl_tv_is_number(b)) {
        if (op != '/' && fl_tv_is_whole(a) && fl_tv_is_whole(b))
            return whole_arithmetic(r, op, fl_tv_whole(a), fl_tv_whole(b), out);
        return float_arithmetic(r, op, fl_tv_number(a), fl_tv_number(b), out);
    }
    if (!sequence_arithmetic(r, op, a, b, out, &done)) return false;
    if (done) return true;
    if (a->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, a);
    if (b->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, b);
    return fl_t_fail(r, FL_E_ARG, "'%s' and '%s' do not go with %s", fl_tv_type_name(a),
                     fl_tv_type_name(b),
                     op == 'i'   ? "//"
                     : op == '^' ? "**"
                                 : (char[]){op, '\0'});
}

static bool find_in_list(fl_trun *r, const fl_tlist *l, size_t *i, const fl_tv *item, bool *out) {
    *out = false;
    while (!*out && *i < l->n)
        if (!fl_tv_equal(r, &l->items[(*i)++], item, out)) return false;
    return true;
}

bool fl_tv_contains(fl_trun *r, const fl_tv *c, const fl_tv *item, bool *out) {
    size_t i = 0;
    fl_tv *found;
    *out = false;
    switch (c->kind) {
    case FL_TV_STRING:
        if (item->kind != FL_TV_STRING)
            return fl_t_fail(r, FL_E_ARG, "'in <string>' needs a string, got '%s'",
                             fl_tv_type_name(item));
        *out =
            memmem(c->string->data, c->string->len, item->string->data, item->string->len) != NULL;
        return fl_t_charge(r, c->string->len + item->string->len);
    case FL_TV_DICT:
        if (!fl_tdict_find(r, c->dict, item, &found)) return false;
        *out = found != NULL;
        return true;
    case FL_TV_LIST:
    case FL_TV_TUPLE:
    case FL_TV_VIEW:
        return find_in_list(r, c->list, &i, item, out);
    case FL_TV_GENERATOR:
        return find_in_list(r, c->list, &c->list->taken, item, out);
    case FL_TV_UNDEFINED:
        return true;
    case FL_TV_RANGE: {
        const fl_tlist *l = c->list, *items;
        if (!l->n || !fl_tv_is_number(item)) return true;
        return fl_tv_items(r, c, &items) && find_in_list(r, items, &i, item, out);
    }
    default:
        return fl_t_fail(r, FL_E_ARG, "'%s' cannot be searched with in", fl_tv_type_name(c));
    }
}

static bool characters(fl_trun *r, const fl_tstr *s, fl_tlist *l) {
    uint32_t cp;
    fl_tv v;
    for (size_t i = 0, n; i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        if (!fl_t_charge(r, 0) || !fl_tstr_slice(r, s, i, i + n, &v) || !fl_tlist_push(r, l, v))
            return false;
    }
    return true;
}

bool fl_tv_items(fl_trun *r, const fl_tv *v, const fl_tlist **out) {
    fl_tlist *l = NULL;
    bool ok = true;
    if (fl_tv_is_sequence(v) || v->kind == FL_TV_VIEW) {
        *out = v->list;
        return fl_t_charge(r, 0);
    }
    if (!(l = fl_tlist_new(r, 0)) || !fl_t_charge(r, 0)) return false;
    switch (v->kind) {
    case FL_TV_GENERATOR:
        l->n = v->list->n - v->list->taken;
        if (l->n) l->items = v->list->items + v->list->taken;
        v->list->taken = v->list->n;
        break;
    case FL_TV_DICT:
        for (uint32_t i = 0; ok && i < v->dict->n; i++)
            ok = fl_t_charge(r, 0) && fl_tlist_push(r, l, v->dict->entries[i].key);
        break;
    case FL_TV_RANGE:
        for (size_t i = 0; ok && i < v->list->n; i++)
            ok = fl_t_charge(r, 0) &&
                 fl_tlist_push(r, l, fl_tv_int(v->list->start + (int64_t)i * v->list->step));
        break;
    case FL_TV_STRING:
        ok = characters(r, v->string, l);
        break;
    case FL_TV_UNDEFINED:
        break;
    default:
        return fl_t_fail(r, FL_E_ARG, "'%s' is not iterable", fl_tv_type_name(v));
    }
    *out = l;
    return ok;
}

bool fl_tv_length(fl_trun *r, const fl_tv *v, int64_t *out) {
    switch (v->kind) {
    case FL_TV_BYTES:
        *out = (int64_t)v->string->len;
        return true;
    case FL_TV_STRING:
        return fl_tstr_length(r, v->string, out);
    case FL_TV_LIST:
    case FL_TV_TUPLE:
    case FL_TV_VIEW:
    case FL_TV_RANGE:
        *out = (int64_t)v->list->n;
        return true;
    case FL_TV_DICT:
        *out = v->dict->n;
        return true;
    case FL_TV_LOOP:
        *out = (int64_t)v->loop->items->n;
        return true;
    case FL_TV_UNDEFINED:
        *out = 0;
        return true;
    default:
        return fl_t_fail(r, FL_E_ARG, "'%s' has no length", fl_tv_type_name(v));
    }
}
