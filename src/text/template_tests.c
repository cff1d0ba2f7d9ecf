/* The tests of Jinja: what may stand behind `is`. */
#include <string.h>

#include "text/template_run.h"

static bool answer(bool is, fl_tv *out) {
    *out = fl_tv_bool(is);
    return true;
}

static bool kind_is(const fl_tcall *c, fl_tv_kind kind, fl_tv *out) {
    return answer(c->self.kind == kind, out);
}

static bool t_defined(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return answer(c->self.kind != FL_TV_UNDEFINED, out);
}
static bool t_undefined(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_UNDEFINED, out);
}
static bool t_none(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_NONE, out);
}
static bool t_boolean(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_BOOL, out);
}
static bool t_true(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return answer(c->self.kind == FL_TV_BOOL && c->self.boolean, out);
}
static bool t_false(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return answer(c->self.kind == FL_TV_BOOL && !c->self.boolean, out);
}
static bool t_integer(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_INT, out);
}
static bool t_float(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_FLOAT, out);
}
static bool t_number(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return answer(fl_tv_is_number(&c->self), out);
}
static bool t_string(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_STRING, out);
}
static bool t_mapping(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return kind_is(c, FL_TV_DICT, out);
}

static bool t_sequence(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    int k = c->self.kind;
    return answer(k == FL_TV_STRING || k == FL_TV_LIST || k == FL_TV_TUPLE || k == FL_TV_DICT ||
                      k == FL_TV_RANGE || k == FL_TV_UNDEFINED,
                  out);
}

static bool t_iterable(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    int k = c->self.kind;
    return answer(k == FL_TV_STRING || k == FL_TV_LIST || k == FL_TV_TUPLE || k == FL_TV_DICT ||
                      k == FL_TV_RANGE || k == FL_TV_UNDEFINED || k == FL_TV_VIEW ||
                      k == FL_TV_GENERATOR || k == FL_TV_LOOP,
                  out);
}

static bool t_callable(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    int k = c->self.kind;
    return answer(k == FL_TV_MACRO || k == FL_TV_FUNCTION || k == FL_TV_METHOD || k == FL_TV_LOOP ||
                      k == FL_TV_UNDEFINED || k == FL_TV_JOINER || k == FL_TV_BLOCK,
                  out);
}

static bool t_escaped(fl_trun *r, fl_tcall *c, fl_tv *out) {
    (void)r;
    return answer(c->self.kind == FL_TV_STRING && c->self.string->markup, out);
}

static bool remainder_is(fl_trun *r, const fl_tv *v, const fl_tv *by, int64_t want, fl_tv *out) {
    fl_tv rest, wanted = fl_tv_int(want);
    bool is;
    if (!fl_tv_binary(r, '%', v, by, &rest) || !fl_tv_equal(r, &rest, &wanted, &is)) return false;
    return answer(is, out);
}

static bool t_odd(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tv two = fl_tv_int(2);
    return remainder_is(r, &c->self, &two, 1, out);
}
static bool t_even(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tv two = fl_tv_int(2);
    return remainder_is(r, &c->self, &two, 0, out);
}
static bool t_divisibleby(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return remainder_is(r, &c->self, &c->arg[0], 0, out);
}

static bool t_lower(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_str(r, &c->self, &s) && answer(fl_tstr_is_cased(s, false), out);
}
static bool t_upper(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_str(r, &c->self, &s) && answer(fl_tstr_is_cased(s, true), out);
}

static bool t_eq(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_equal(r, &c->self, &c->arg[0], &is) && answer(is, out);
}
static bool t_ne(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_equal(r, &c->self, &c->arg[0], &is) && answer(!is, out);
}
static bool t_lt(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_compare(r, '<', &c->self, &c->arg[0], &is) && answer(is, out);
}
static bool t_gt(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_compare(r, '>', &c->self, &c->arg[0], &is) && answer(is, out);
}
static bool t_le(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_compare(r, 'l', &c->self, &c->arg[0], &is) && answer(is, out);
}
static bool t_ge(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_compare(r, 'g', &c->self, &c->arg[0], &is) && answer(is, out);
}
static bool t_in(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    return fl_tv_contains(r, &c->arg[0], &c->self, &is) && answer(is, out);
}

/* The same object: for values that Python keeps once, equal is the same. */
static bool t_sameas(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tv *a = &c->self, *b = &c->arg[0];
    bool is = a->kind == b->kind;
    if (is && a->kind > FL_TV_STRING) is = a->list == b->list;
    if (is && a->kind <= FL_TV_STRING && !fl_tv_equal(r, a, b, &is)) return false;
    return answer(is, out);
}

static bool t_filter(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_need_string(r, &c->self, "filter", &s) &&
           answer(fl_t_filter(s->data, s->len) != NULL, out);
}
static bool t_test(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_need_string(r, &c->self, "test", &s) &&
           answer(fl_t_test(s->data, s->len) != NULL, out);
}

const fl_tfunction *fl_t_test(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"!=", ".", t_ne},
        {"<", ".", t_lt},
        {"<=", ".", t_le},
        {"==", ".", t_eq},
        {">", ".", t_gt},
        {">=", ".", t_ge},
        {"boolean", "", t_boolean},
        {"callable", "", t_callable},
        {"defined", "", t_defined},
        {"divisibleby", "num", t_divisibleby},
        {"eq", ".", t_eq},
        {"equalto", ".", t_eq},
        {"escaped", "", t_escaped},
        {"even", "", t_even},
        {"false", "", t_false},
        {"filter", "", t_filter},
        {"float", "", t_float},
        {"ge", ".", t_ge},
        {"greaterthan", ".", t_gt},
        {"gt", ".", t_gt},
        {"in", "seq", t_in},
        {"integer", "", t_integer},
        {"iterable", "", t_iterable},
        {"le", ".", t_le},
        {"lessthan", ".", t_lt},
        {"lower", "", t_lower},
        {"lt", ".", t_lt},
        {"mapping", "", t_mapping},
        {"ne", ".", t_ne},
        {"none", "", t_none},
        {"number", "", t_number},
        {"odd", "", t_odd},
        {"sameas", "other", t_sameas},
        {"sequence", "", t_sequence},
        {"string", "", t_string},
        {"test", "", t_test},
        {"true", "", t_true},
        {"undefined", "", t_undefined},
        {"upper", "", t_upper},
        {NULL, NULL, NULL},
    };
    return fl_t_find(table, name, n);
}
