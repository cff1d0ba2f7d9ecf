/* str.format: replacement fields, and the format specification of Python's format(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_run.h"

enum { MAX_WIDTH = 10000, MAX_PRECISION = 1000, FLOAT_COST = 4096, MAX_NESTING = 2 };

/* [[fill]align][sign][z][#][0][width][grouping][.precision][type] */
typedef struct spec {
    fl_tstr fill;
    char align; /* < > = ^, 0: as the value has it */
    char sign;  /* + - or blank */
    bool alternate, zeros;
    int64_t width, precision; /* -1: not given */
    char grouping;            /* , _ or 0 */
    char type;                /* 0: not given */
} spec;

static bool is_digit(const fl_tstr *s, size_t i) {
    return i < s->len && s->data[i] >= '0' && s->data[i] <= '9';
}

static bool all_digits(const fl_tstr *s) {
    size_t i = 0;
    while (is_digit(s, i)) i++;
    return i == s->len;
}

static bool read_number(fl_trun *r, const fl_tstr *s, size_t *i, int64_t max, int64_t *out) {
    *out = 0;
    for (; is_digit(s, *i); ++*i) {
        *out = *out * 10 + (s->data[*i] - '0');
        if (*out > max) return fl_t_fail(r, FL_E_LIMIT, "format: more than %lld", (long long)max);
    }
    return true;
}

static bool is_one_of(const fl_tstr *s, size_t i, const char *set) {
    return i < s->len && s->data[i] && strchr(set, s->data[i]);
}

static bool read_spec(fl_trun *r, const fl_tstr *s, spec *out) {
    uint32_t cp;
    size_t i = 0, n = s->len ? fl_tstr_next(s, 0, &cp) : 0;
    *out = (spec){.fill = {.data = " ", .len = 1, .trusted = true}, .width = -1, .precision = -1};
    if (n && is_one_of(s, n, "<>=^")) {
        out->fill = (fl_tstr){.data = s->data, .len = n, .trusted = s->trusted && !s->mask};
        out->align = s->data[n];
        i = n + 1;
    } else if (is_one_of(s, 0, "<>=^")) {
        out->align = s->data[i++];
    }
    if (is_one_of(s, i, "+- ")) out->sign = s->data[i++];
    if (is_one_of(s, i, "z")) i++;
    if (is_one_of(s, i, "#")) out->alternate = s->data[i++];
    if (is_one_of(s, i, "0")) out->zeros = s->data[i++];
    if (is_digit(s, i) && !read_number(r, s, &i, MAX_WIDTH, &out->width)) return false;
    if (is_one_of(s, i, ",_")) out->grouping = s->data[i++];
    if (is_one_of(s, i, ".")) {
        i++;
        if (!is_digit(s, i)) return fl_t_fail(r, FL_E_ARG, "format: the precision is missing");
        if (!read_number(r, s, &i, MAX_PRECISION, &out->precision)) return false;
    }
    if (i < s->len) out->type = s->data[i++];
    return i == s->len || fl_t_fail(r, FL_E_ARG, "format: invalid specification");
}

static bool wrong_type(fl_trun *r, const spec *f, const fl_tv *v) {
    return fl_t_fail(r, FL_E_ARG, "format: type '%c' does not go with '%s'",
                     f->type < ' ' ? '?' : f->type, fl_tv_type_name(v));
}

static bool put_fill(fl_trun *r, fl_ttext *t, const spec *f, int64_t n) {
    bool ok = true;
    while (ok && n-- > 0) ok = fl_ttext_put_str(r, t, &f->fill);
    return ok;
}

static bool put_text(fl_trun *r, fl_ttext *t, const spec *f, const fl_tstr *s) {
    int64_t n;
    fl_tv text = fl_tv_string(s);
    if ((f->type && f->type != 's') || f->align == '=' || f->sign || f->alternate || f->grouping)
        return wrong_type(r, f, &text);
    if (f->precision >= 0 &&
        !fl_tstr_slice(r, s, 0, fl_tstr_offset(s, (size_t)f->precision), &text))
        return false;
    if (!fl_tstr_length(r, text.string, &n)) return false;
    spec own = *f;
    if (f->zeros && !f->align) own.fill = (fl_tstr){.data = "0", .len = 1, .trusted = true};
    int64_t room = f->width > n ? f->width - n : 0;
    int64_t left = f->align == '>' ? room : f->align == '^' ? room / 2 : 0;
    return put_fill(r, t, &own, left) && fl_ttext_put_str(r, t, text.string) &&
           put_fill(r, t, &own, room - left);
}

/* A number in parts: sign and prefix, whole digits, what is behind them. */
typedef struct number {
    char sign[4];
    char digits[MAX_PRECISION + 400];
    const char *rest; /* into digits' text */
    size_t n_whole;
} number;

/* The whole digits with separators, at least `width` characters of zeros and digits. */
static bool put_grouped(fl_trun *r, fl_ttext *t, const spec *f, const number *x, int64_t width) {
    int64_t every = f->grouping && f->type && strchr("boxX", f->type) ? 4 : 3;
    int64_t n = (int64_t)x->n_whole;
    bool ok = true;
    while (n + (f->grouping ? (n - 1) / every : 0) < width) n++;
    for (int64_t i = n; ok && i-- > 0;) {
        char c = i < (int64_t)x->n_whole ? x->digits[x->n_whole - 1 - (size_t)i] : '0';
        ok = fl_ttext_put(r, t, &c, 1, NULL, true);
        if (ok && f->grouping && i && i % every == 0)
            ok = fl_ttext_put(r, t, &f->grouping, 1, NULL, true);
    }
    return ok;
}

static bool put_number(fl_trun *r, fl_ttext *t, const spec *f, const number *x) {
    fl_ttext body = {0};
    fl_tv text;
    const bool zeros = f->zeros && !f->align;
    const bool inner = zeros || f->align == '=';
    const bool fills = zeros || (inner && f->fill.len == 1 && *f->fill.data == '0');
    int64_t beside = (int64_t)(strlen(x->sign) + strlen(x->rest)), n;
    spec own = *f;
    if (!put_grouped(r, &body, f, x, fills ? f->width - beside : 0) ||
        !fl_ttext_puts(r, &body, x->rest)) {
        fl_ttext_free(&body);
        return false;
    }
    if (!fl_ttext_finish(r, &body, true, &text)) return false;
    n = (int64_t)(text.string->len + strlen(x->sign));
    int64_t room = f->width > n ? f->width - n : 0;
    int64_t left = inner || f->align == '<' ? 0 : f->align == '^' ? room / 2 : room;
    int64_t middle = inner ? room : 0;
    if (zeros) own.fill = (fl_tstr){.data = "0", .len = 1, .trusted = true};
    return put_fill(r, t, &own, left) && fl_ttext_puts(r, t, x->sign) &&
           put_fill(r, t, &own, middle) && fl_ttext_put_str(r, t, text.string) &&
           put_fill(r, t, &own, room - left - middle);
}

static void set_sign(number *x, const spec *f, bool negative, const char *prefix) {
    char sign = negative ? '-' : f->sign == '-' ? 0 : f->sign;
    snprintf(x->sign, sizeof(x->sign), "%.*s%s", sign != 0, &sign, prefix);
}

static bool put_whole(fl_trun *r, fl_ttext *t, const spec *f, const fl_tv *v) {
    const int64_t i = fl_tv_whole(v);
    uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;
    const char type = f->type ? f->type : 'd';
    const unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'd' || type == 'n' ? 10 : 16;
    number x;
    char prefix[3] = {'0', type, '\0'};
    size_t at = sizeof(x.digits) - 1;
    if (f->precision >= 0 || (f->grouping == ',' && base != 10)) return wrong_type(r, f, v);
    x.digits[at] = '\0';
    x.rest = &x.digits[at];
    do x.digits[--at] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
    while (u /= base);
    x.n_whole = sizeof(x.digits) - 1 - at;
    memmove(x.digits, x.digits + at, x.n_whole);
    set_sign(&x, f, i < 0, f->alternate && base != 10 ? prefix : "");
    return put_number(r, t, f, &x);
}

static bool put_character(fl_trun *r, fl_ttext *t, const spec *f, const fl_tv *v) {
    const fl_tv text = fl_tv_string(&(fl_tstr){.data = "%c", .len = 2, .trusted = true});
    fl_tv one;
    spec own = *f;
    own.type = 's';
    if (!f->align) own.align = '>';
    return fl_tv_percent(r, text.string, v, &one) && put_text(r, t, &own, one.string);
}

/* Without a type: repr, or with a precision like g, but a number with a point always. */
static void write_general(char *out, size_t n, double d, int precision, bool point) {
    char exponent[MAX_PRECISION + 400];
    snprintf(exponent, sizeof(exponent), "%.*e", precision - 1, d);
    const int at = (int)strtol(strchr(exponent, 'e') + 1, NULL, 10);
    if (!point || at + 1 != precision) {
        snprintf(out, n, "%.*g", precision, d);
        return;
    }
    char *e = strchr(exponent, 'e'), *zero = e; /* an integer in full is written with exponent */
    while (zero > exponent && zero[-1] == '0' && memchr(exponent, '.', (size_t)(e - exponent)))
        zero--;
    if (zero > exponent && zero[-1] == '.') zero--;
    snprintf(out, n, "%.*s%s", (int)(zero - exponent), exponent, e);
}

static void write_float(char *out, size_t n, double d, const spec *f) {
    char conversion[8];
    const int precision = f->precision < 0 ? 6 : (int)f->precision;
    if (!f->type && f->precision < 0) {
        fl_bytes b = {0};
        fl_jv_write_float(&b, d);
        snprintf(out, n, "%s", fl_bytes_cstr(&b));
        fl_bytes_free(&b);
    } else if (!f->type) {
        write_general(out, n, d, precision ? precision : 1, true);
    } else {
        char type = f->type == '%' ? 'f' : f->type == 'n' ? 'g' : f->type;
        snprintf(conversion, sizeof(conversion), "%%%s.*%c", f->alternate ? "#" : "", type);
        snprintf(out, n, conversion, precision, d); /* a conversion of the list in put_float */
    }
    for (char *p = out; *p; p++) /* the locale may have another decimal point */
        if (*p == ',') *p = '.';
    if (!f->type && !strpbrk(out, ".e")) strncat(out, ".0", n - strlen(out) - 1);
}

static bool put_float(fl_trun *r, fl_ttext *t, const spec *f, const fl_tv *v) {
    double d = fl_tv_number(v);
    number x;
    if (f->type && !strchr("eEfFgGn%", f->type)) return wrong_type(r, f, v);
    if (!fl_t_charge(r, FLOAT_COST)) return false;
    if (f->type == '%') d *= 100;
    const bool upper = f->type && strchr("EFG", f->type);
    if (isfinite(d)) {
        write_float(x.digits, sizeof(x.digits) - 1, fabs(d), f);
        x.n_whole = strspn(x.digits, "0123456789");
    } else {
        snprintf(x.digits, sizeof(x.digits), "%s",
                 isnan(d) ? upper ? "NAN" : "nan"
                 : upper  ? "INF"
                          : "inf");
        x.n_whole = 0;
    }
    if (f->type == '%') strcat(x.digits, "%");
    x.rest = x.digits + x.n_whole;
    set_sign(&x, f, signbit(d) && !isnan(d), "");
    return put_number(r, t, f, &x);
}

static bool put_formatted(fl_trun *r, fl_ttext *t, const fl_tstr *format, const fl_tv *v) {
    spec f;
    if (!format->len) return fl_ttext_put_value(r, t, v);
    if (!read_spec(r, format, &f)) return false;
    if (v->kind == FL_TV_STRING) return put_text(r, t, &f, v->string);
    if (v->kind == FL_TV_FLOAT) return put_float(r, t, &f, v);
    if (!fl_tv_is_whole(v))
        return fl_t_fail(r, FL_E_ARG, "format: '%s' takes no specification", fl_tv_type_name(v));
    if (f.type == 'c') return put_character(r, t, &f, v);
    return f.type && strchr("eEfFgG%", f.type)   ? put_float(r, t, &f, v)
           : f.type && !strchr("bdnoxX", f.type) ? wrong_type(r, &f, v)
                                                 : put_whole(r, t, &f, v);
}

/* ---- replacement fields ------------------------------------------------------------ */

typedef struct source {   /* what fields name */
    const fl_targs *args; /* NULL: names are keys of the dict only */
    const fl_tdict *dict;
    int64_t next; /* {} takes this one */
    bool numbered, automatic;
} source;

/* {0}, {} or {name}, without what follows it. */
static bool first_of_field(fl_trun *r, source *src, const fl_tstr *name, fl_tv *out) {
    int64_t i = 0;
    size_t at = 0;
    const bool digits = name->len && all_digits(name);
    if (name->len && !digits) {
        for (size_t k = 0; src->args && k < src->args->n_keywords; k++) {
            const fl_tstr *key = src->args->keys[k];
            if (key->len != name->len || memcmp(key->data, name->data, name->len) != 0) continue;
            *out = src->args->keywords[k];
            return true;
        }
        const fl_tv *found = src->dict ? fl_tdict_get(r, src->dict, name) : NULL;
        if (found) *out = *found;
        return found || fl_t_fail(r, FL_E_ARG, "format: no argument named '%.*s'",
                                  name->len > 40 ? 40 : (int)name->len, name->data);
    }
    if (digits && !read_number(r, name, &at, FL_T_MAX_ARGS, &i)) return false;
    if (!digits) i = src->next++;
    *(digits ? &src->numbered : &src->automatic) = true;
    if (src->numbered && src->automatic)
        return fl_t_fail(r, FL_E_ARG, "format: numbered fields beside fields without a number");
    if (!src->args || (size_t)i >= src->args->n_positional)
        return fl_t_fail(r, FL_E_ARG, "format: argument %lld is missing", (long long)i);
    *out = src->args->positional[i];
    return true;
}

/* The value of a field such as 0.name[key]. */
static bool field_value(fl_trun *r, source *src, const fl_tstr *field, fl_tv *out) {
    size_t i = 0, end;
    fl_tv part, v;
    while (i < field->len && field->data[i] != '.' && field->data[i] != '[') i++;
    const fl_tstr first = {.data = field->data, .len = i};
    if (!first_of_field(r, src, &first, out)) return false;
    for (; i < field->len; i = end) {
        const bool item = field->data[i] == '[';
        const char *close = memchr(field->data + i, ']', field->len - i);
        if (!item && field->data[i] != '.')
            return fl_t_fail(r, FL_E_ARG, "format: only . and [ may follow ]");
        if (item && !close) return fl_t_fail(r, FL_E_ARG, "format: ] is missing");
        end = item ? (size_t)(close - field->data) : i + 1;
        while (!item && end < field->len && field->data[end] != '.' && field->data[end] != '[')
            end++;
        if (end == i + 1) return fl_t_fail(r, FL_E_ARG, "format: an attribute without a name");
        if (!fl_tstr_slice(r, field, i + 1, end, &part)) return false;
        v = *out;
        if (item && all_digits(part.string)) {
            int64_t n;
            size_t at = 0;
            if (!read_number(r, part.string, &at, INT32_MAX, &n)) return false;
            part = fl_tv_int(n);
        }
        if (!(item ? fl_t_item(r, &v, &part, out) : fl_t_attribute(r, &v, part.string, out)))
            return false;
        end += item;
    }
    return true;
}

static bool convert(fl_trun *r, char how, fl_tv *v) {
    fl_ttext t = {0};
    if (!how) return true;
    if (!strchr("sra", how)) return fl_t_fail(r, FL_E_ARG, "format: conversion '%c'", how);
    bool ok = how == 's'   ? fl_ttext_put_value(r, &t, v)
              : how == 'a' ? fl_ttext_put_ascii(r, &t, v)
                           : fl_ttext_put_repr(r, &t, v);
    return fl_ttext_finish(r, &t, ok, v);
}

static bool expand(fl_trun *r, fl_ttext *t, const fl_tstr *s, source *src, int depth);

/* End of the field that starts behind s[i] = '{': its closing brace. */
static size_t end_of_field(const fl_tstr *s, size_t i) {
    int open = 1;
    bool bracket = false, name = true;
    for (; i < s->len; i++) {
        const char c = s->data[i];
        if (name && c == '[') bracket = true;
        if (bracket) {
            bracket = c != ']';
            continue;
        }
        if (c == '!' || c == ':') name = false;
        open += (c == '{') - (c == '}');
        if (!open) break;
    }
    return i;
}

static bool put_field(fl_trun *r, fl_ttext *t, const fl_tstr *s, source *src, int depth) {
    size_t name = 0;
    bool bracket = false;
    char how = 0;
    fl_tv v, field, format;
    fl_ttext expanded = {0};
    for (; name < s->len; name++) {
        const char c = s->data[name];
        if (!bracket && (c == '!' || c == ':')) break;
        if (c == '{' && !bracket) return fl_t_fail(r, FL_E_ARG, "format: unexpected { in a field");
        bracket = c == '[' || (bracket && c != ']');
    }
    size_t i = name;
    if (i < s->len && s->data[i] == '!') {
        if (i + 1 >= s->len || (i + 2 < s->len && s->data[i + 2] != ':'))
            return fl_t_fail(r, FL_E_ARG, "format: : expected behind the conversion");
        how = s->data[i + 1];
        i += 2;
    }
    i += i < s->len;
    if (!fl_tstr_slice(r, s, 0, name, &field) || !field_value(r, src, field.string, &v) ||
        !convert(r, how, &v) || !fl_tstr_slice(r, s, i, s->len, &format))
        return false;
    bool ok = expand(r, &expanded, format.string, src, depth - 1);
    return fl_ttext_finish(r, &expanded, ok, &format) && put_formatted(r, t, format.string, &v);
}

static bool expand(fl_trun *r, fl_ttext *t, const fl_tstr *s, source *src, int depth) {
    size_t plain = 0, i = 0;
    if (depth < 0) return fl_t_fail(r, FL_E_ARG, "format: fields nested too deep");
    while (i < s->len) {
        const char c = s->data[i];
        if (c != '{' && c != '}') {
            i++;
            continue;
        }
        if (!fl_ttext_put_part(r, t, s, plain, i)) return false;
        if (i + 1 < s->len && s->data[i + 1] == c) {
            plain = i + 1;
            i += 2;
            continue;
        }
        const size_t end = end_of_field(s, i + 1);
        fl_tv field;
        if (c == '}' || end >= s->len)
            return fl_t_fail(r, FL_E_ARG, "format: a single '%c' in the text", c);
        if (!fl_tstr_slice(r, s, i + 1, end, &field) || !put_field(r, t, field.string, src, depth))
            return false;
        plain = i = end + 1;
    }
    return fl_ttext_put_part(r, t, s, plain, s->len);
}

bool fl_t_format_method(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const bool map = !strcmp(c->function->name, "format_map");
    source src = {.args = map ? NULL : c->all};
    fl_ttext t = {0};
    if (map && c->arg[0].kind != FL_TV_DICT)
        return fl_t_fail(r, FL_E_ARG, "format_map: dict expected, got '%s'",
                         fl_tv_type_name(&c->arg[0]));
    if (map) src.dict = c->arg[0].dict;
    bool ok = expand(r, &t, c->self.string, &src, MAX_NESTING);
    return fl_ttext_finish(r, &t, ok, out);
}
