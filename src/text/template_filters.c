/* Filters on single values: text, numbers, JSON.  Those on sequences are in
 * template_sequence.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"
#include "util/decimal.h"

/* ---- text -------------------------------------------------------------------------- */

static bool change_case(fl_trun *r, const fl_tcall *c, fl_tcase how, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_str(r, &c->self, &s) && fl_tstr_case(r, s, how, out);
}
static bool f_upper(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_UPPER, out);
}
static bool f_lower(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_LOWER, out);
}
static bool f_capitalize(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_CAPITALIZE, out);
}
static bool f_title(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_TITLE_WORDS, out);
}

static bool f_string(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    if (!fl_tv_str(r, &c->self, &s)) return false;
    *out = fl_tv_string(s);
    return true;
}

static bool f_trim(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    return fl_tv_str(r, &c->self, &s) &&
           fl_tstr_strip(r, s, &c->arg[0], FL_T_LEFT | FL_T_RIGHT, out);
}

static bool f_replace(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s, *from, *to;
    int64_t max = -1;
    return fl_tv_str(r, &c->self, &s) && fl_tv_str(r, &c->arg[0], &from) &&
           fl_tv_str(r, &c->arg[1], &to) &&
           (fl_tv_is_absent(&c->arg[2]) || fl_tv_need_int(r, &c->arg[2], &max)) &&
           fl_tstr_replace(r, s, from, to, max, out);
}

/* A width in blanks, or the string itself. */
static bool indentation(fl_trun *r, const fl_tv *v, const fl_tstr **out) {
    char blanks[FL_T_MAX_INDENT];
    int64_t n;
    fl_tv text;
    if (v->kind == FL_TV_STRING) {
        *out = v->string;
        return true;
    }
    if (!fl_tv_need_int(r, v, &n)) return false;
    if (n > FL_T_MAX_INDENT)
        return fl_t_fail(r, FL_E_LIMIT, "indented by more than %d", FL_T_MAX_INDENT);
    memset(blanks, ' ', sizeof(blanks));
    if (!fl_tv_text(r, blanks, n > 0 ? (size_t)n : 0, &text)) return false;
    *out = text.string;
    return true;
}

static bool f_indent(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tv width = c->arg[0].kind == FL_TV_ABSENT ? fl_tv_int(4) : c->arg[0];
    bool first = fl_tv_truth(&c->arg[1]), blank = fl_tv_truth(&c->arg[2]), ok = true;
    const fl_tstr *s, *by;
    fl_ttext t = {0};
    if (!fl_tv_need_string(r, &c->self, "indent", &s) || !indentation(r, &width, &by)) return false;
    for (size_t i = 0, next = 0; ok && (i < s->len || i == 0); i = next) {
        size_t end = fl_tstr_line(s, i, &next);
        bool indent = i == 0 ? first : blank || end > i;
        ok = (i == 0 || fl_ttext_puts(r, &t, "\n")) && (!indent || fl_ttext_put_str(r, &t, by)) &&
             fl_ttext_put_part(r, &t, s, i, end);
        /* A text that ends with its line end keeps an empty line behind it. */
        if (ok && next == s->len && end < next) ok = fl_ttext_puts(r, &t, "\n");
        if (ok && next == s->len && end < next && blank) ok = fl_ttext_put_str(r, &t, by);
        if (next == 0) break;
    }
    return fl_ttext_finish(r, &t, ok, out);
}

static bool f_forceescape(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const fl_tstr *s;
    fl_ttext t = {0};
    size_t plain = 0;
    bool ok = fl_tv_str(r, &c->self, &s);
    for (size_t i = 0; ok && i < s->len; i++) {
        const char *found = s->data[i] ? strchr("&<>'\"", s->data[i]) : NULL;
        if (!found) continue;
        const char *entity = entities[found - "&<>'\""];
        ok = fl_ttext_put_part(r, &t, s, plain, i) &&
             fl_ttext_put(r, &t, entity, strlen(entity), NULL, s->mask ? s->mask[i] : s->trusted);
        plain = i + 1;
    }
    ok = ok && fl_ttext_put_part(r, &t, s, plain, s->len);
    return fl_ttext_finish(r, &t, ok, out) && fl_tv_keep_markup(r, true, out);
}

/* Text that is safe already stays. */
static bool f_escape(fl_trun *r, fl_tcall *c, fl_tv *out) {
    *out = c->self;
    if (c->self.kind == FL_TV_STRING && c->self.string->markup) return true;
    return f_forceescape(r, c, out);
}

static bool f_safe(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return f_string(r, c, out) && fl_tv_keep_markup(r, true, out);
}

static bool f_wordcount(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    int64_t n = 0;
    bool inside = false;
    uint32_t cp;
    if (!fl_tv_str(r, &c->self, &s)) return false;
    for (size_t i = 0; i < s->len;) {
        i += fl_tstr_next(s, i, &cp);
        bool word = fl_t_is_word_char(cp);
        n += word && !inside;
        inside = word;
    }
    *out = fl_tv_int(n);
    return fl_t_charge(r, 4 * s->len);
}

static bool f_tojson(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr comma = {.data = ", ", .len = 2, .trusted = true};
    static const fl_tstr comma_only = {.data = ",", .len = 1, .trusted = true};
    static const fl_tstr colon = {.data = ": ", .len = 2, .trusted = true};
    const fl_tv *separators = &c->arg[2];
    fl_tjson o = {.ascii = fl_tv_truth(&c->arg[0]), .sort = fl_tv_truth(&c->arg[3])};
    fl_ttext t = {0};
    if (!fl_tv_is_absent(&c->arg[1]) && !indentation(r, &c->arg[1], &o.indent)) return false;
    o.item_separator = o.indent ? &comma_only : &comma;
    o.key_separator = &colon;
    if (!fl_tv_is_absent(separators)) {
        if (!fl_tv_is_sequence(separators) || separators->list->n != 2)
            return fl_t_fail(r, FL_E_ARG, "tojson: two separators expected");
        const fl_tv *two = separators->list->items;
        if (!fl_tv_need_string(r, &two[0], "tojson", &o.item_separator) ||
            !fl_tv_need_string(r, &two[1], "tojson", &o.key_separator))
            return false;
    }
    return fl_ttext_finish(r, &t, fl_ttext_put_json(r, &t, &c->self, &o, 0), out);
}

/* ---- numbers ----------------------------------------------------------------------- */

/* Decimal text as Python's float reads it. */
static bool parse_float(const fl_tstr *s, double *out) {
    char buf[80];
    size_t n = 0, i = 0, digits = 0;
    bool negative = s->len && s->data[0] == '-';
    if (s->len && (s->data[0] == '-' || s->data[0] == '+')) i++;
    fl_tstr rest = {.data = s->data + i, .len = s->len - i};
    if (fl_tstr_is(&rest, "inf") || fl_tstr_is(&rest, "nan")) {
        *out = rest.data[0] == 'n' ? NAN : negative ? -INFINITY : INFINITY;
        return true;
    }
    if (rest.len > 60 || !rest.len) return false;
    buf[n++] = '0'; /* ".5" and "5." are not JSON: the number is written as 05.0 less its zeros */
    for (; i < s->len && s->data[i] >= '0' && s->data[i] <= '9'; i++, digits++)
        if (n > 1 || s->data[i] != '0') buf[n++] = s->data[i];
    size_t start = n > 1;
    if (i < s->len && s->data[i] == '.') {
        buf[n++] = s->data[i++];
        for (; i < s->len && s->data[i] >= '0' && s->data[i] <= '9'; i++, digits++)
            buf[n++] = s->data[i];
        if (buf[n - 1] == '.') buf[n++] = '0';
    }
    for (; i < s->len; i++) buf[n++] = s->data[i]; /* the exponent; the number must end there */
    bool whole;
    if (!digits || fl_decimal_end(buf + start, buf + n, &whole) != buf + n) return false;
    *out = fl_decimal_value(buf + start, buf + n);
    if (negative) *out = -*out;
    return true;
}

/* Whole numbers as Python's int reads them; INT64_MAX or INT64_MIN: too large. */
static bool parse_int(const fl_tstr *s, int64_t base, int64_t *out) {
    char buf[72];
    char *end;
    size_t n = 0, start = 0;
    if (!s->len || s->len > 70) return false;
    for (size_t i = 0; i < s->len; i++)
        if (s->data[i] != '_') buf[n++] = s->data[i];
    buf[n] = '\0';
    size_t sign = buf[0] == '-' || buf[0] == '+';
    char mark = buf[sign] == '0' ? (char)(buf[sign + 1] | 32) : 0;
    if ((base == 2 && mark == 'b') || (base == 8 && mark == 'o')) {
        buf[sign + 1] = buf[sign];
        if (sign) buf[1] = buf[0];
        start = 1;
    }
    if (fl_uc_is_str_space((uint8_t)buf[sign]) || (sign && strchr("+-", buf[1]))) return false;
    long long v = strtoll(buf + start, &end, (int)base);
    *out = v;
    return end == buf + n;
}

static bool float_to_int(double d, int64_t *out) {
    if (!isfinite(d)) return false;
    *out = fabs(d) < 0x1p63 ? (int64_t)d : INT64_MAX;
    return true;
}

static bool f_int(fl_trun *r, fl_tcall *c, fl_tv *out) {
    int64_t v = 0, base = 10;
    double d;
    bool ok = false;
    if (c->arg[1].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[1], &base)) return false;
    if (base < 0 || base == 1 || base > 36) return fl_t_fail(r, FL_E_ARG, "int: invalid base");
    if (c->self.kind == FL_TV_UNDEFINED) return fl_t_undefined(r, &c->self);
    if (fl_tv_is_whole(&c->self)) {
        v = fl_tv_whole(&c->self);
        ok = true;
    } else if (c->self.kind == FL_TV_FLOAT) {
        ok = float_to_int(c->self.number, &v);
    } else if (c->self.kind == FL_TV_STRING) {
        fl_tv s, white = fl_tv_none();
        if (!fl_tstr_strip(r, c->self.string, &white, FL_T_LEFT | FL_T_RIGHT, &s)) return false;
        ok = parse_int(s.string, base, &v) || (parse_float(s.string, &d) && float_to_int(d, &v));
    }
    if (ok && (v == INT64_MAX || v == INT64_MIN))
        return fl_t_fail(r, FL_E_LIMIT, "integer does not fit 64 bits");
    *out = ok ? fl_tv_int(v) : c->arg[0].kind == FL_TV_ABSENT ? fl_tv_int(0) : c->arg[0];
    return true;
}

static bool f_float(fl_trun *r, fl_tcall *c, fl_tv *out) {
    double d = 0;
    bool ok = false;
    if (c->self.kind == FL_TV_UNDEFINED) return fl_t_undefined(r, &c->self);
    if (fl_tv_is_number(&c->self)) {
        d = fl_tv_number(&c->self);
        ok = true;
    } else if (c->self.kind == FL_TV_STRING) {
        fl_tv s, white = fl_tv_none();
        if (!fl_tstr_strip(r, c->self.string, &white, FL_T_LEFT | FL_T_RIGHT, &s)) return false;
        ok = parse_float(s.string, &d);
    }
    *out = ok || c->arg[0].kind == FL_TV_ABSENT ? fl_tv_float(d) : c->arg[0];
    return true;
}

static bool f_abs(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tv zero = fl_tv_int(0);
    if (c->self.kind == FL_TV_FLOAT) {
        *out = fl_tv_float(fabs(c->self.number));
        return true;
    }
    if (!fl_tv_is_whole(&c->self))
        return fl_t_fail(r, FL_E_ARG, "abs: number expected, got '%s'", fl_tv_type_name(&c->self));
    return fl_tv_binary(r, fl_tv_whole(&c->self) < 0 ? '-' : '+', &zero, &c->self, out);
}

/* Python's round of an int is an int; halves go to the even multiple of the power of ten. */
static bool round_whole(fl_trun *r, int64_t v, int64_t precision, fl_tv *out) {
    int64_t unit = 1;
    *out = fl_tv_int(precision < -18 ? 0 : v);
    if (precision >= 0 || precision < -18) return true;
    for (int64_t i = precision; i < 0; i++) unit *= 10;
    int64_t quotient = v / unit, rest = v % unit;
    const int64_t sign = rest < 0 ? -1 : 1, twice = rest * sign - (unit - rest * sign);
    if (twice > 0 || (twice == 0 && quotient % 2)) quotient += sign;
    if (__builtin_mul_overflow(quotient, unit, &v))
        return fl_t_fail(r, FL_E_LIMIT, "round: the number does not fit 64 bits");
    *out = fl_tv_int(v);
    return true;
}

static bool f_round(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr common = {.data = "common", .len = 6};
    int64_t precision = 0;
    const fl_tstr *method = &common;
    char text[400];
    if (c->arg[0].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[0], &precision)) return false;
    if (c->arg[1].kind != FL_TV_ABSENT && !fl_tv_need_string(r, &c->arg[1], "round", &method))
        return false;
    if (!fl_tv_is_number(&c->self))
        return fl_t_fail(r, FL_E_ARG, "round: number expected, got '%s'",
                         fl_tv_type_name(&c->self));
    bool up = fl_tstr_is(method, "ceil"), down = fl_tstr_is(method, "floor");
    if (!up && !down && !fl_tstr_is(method, "common"))
        return fl_t_fail(r, FL_E_ARG, "round: method must be common, ceil or floor");
    double v = fl_tv_number(&c->self), scale = pow(10, (double)precision);
    if (!isfinite(v)) {
        *out = c->self;
    } else if (up || down) {
        *out = fl_tv_float((up ? ceil(v * scale) : floor(v * scale)) / scale);
    } else if (fl_tv_is_whole(&c->self)) {
        return round_whole(r, fl_tv_whole(&c->self), precision, out);
    } else if (precision < 0 || precision > 60) {
        *out = precision > 60 ? c->self : fl_tv_float(nearbyint(v * scale) / scale);
    } else { /* printf rounds the exact value, as Python does */
        if (!fl_t_charge(r, 8 * sizeof(text))) return false;
        int n = snprintf(text, sizeof(text), "%.*f", (int)precision, v);
        for (int i = 0; i < n; i++)
            if (text[i] == ',') text[i] = '.';
        *out = fl_tv_float(fl_decimal_value(text, text + n));
    }
    return true;
}

/* ---- anything ---------------------------------------------------------------------- */

static bool f_default(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr empty = {.data = "", .trusted = true};
    bool missing =
        c->self.kind == FL_TV_UNDEFINED || (fl_tv_truth(&c->arg[1]) && !fl_tv_truth(&c->self));
    (void)r;
    *out = !missing ? c->self : c->arg[0].kind == FL_TV_ABSENT ? fl_tv_string(&empty) : c->arg[0];
    return true;
}

static bool f_attr(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *name;
    bool found;
    if (c->self.kind == FL_TV_UNDEFINED) return fl_t_undefined(r, &c->self);
    return fl_tv_need_string(r, &c->arg[0], "attr", &name) &&
           fl_t_python_attribute(r, &c->self, name, out, &found);
}

const fl_tfunction *fl_t_filter(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"abs", "", f_abs},
        {"attr", "name", f_attr},
        {"capitalize", "", f_capitalize},
        {"d", "default_value= boolean=", f_default},
        {"default", "default_value= boolean=", f_default},
        {"e", "", f_escape},
        {"escape", "", f_escape},
        {"float", "default=", f_float},
        {"forceescape", "", f_forceescape},
        {"indent", "width= first= blank=", f_indent},
        {"int", "default= base=", f_int},
        {"lower", "", f_lower},
        {"replace", "old new count=", f_replace},
        {"round", "precision= method=", f_round},
        {"safe", "", f_safe},
        {"string", "", f_string},
        {"title", "", f_title},
        {"tojson", "ensure_ascii= indent= separators= sort_keys=", f_tojson},
        {"trim", "chars=", f_trim},
        {"upper", "", f_upper},
        {"wordcount", "", f_wordcount},
        {NULL, NULL, NULL},
    };
    const fl_tfunction *f = fl_t_find(table, name, n);
    if (!f) f = fl_t_sequence_filter(name, n);
    return f ? f : fl_t_text_filter(name, n);
}
