/* Text forms of template values: str and repr as Python prints them, JSON as transformers'
 * tojson does, and the % operator of strings. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"
#include "util/utf8.h"

enum { MAX_WIDTH = 1000, FLOAT_COST = 1024 /* bytes copied in the time that a float takes */ };

static bool put_number(fl_trun *r, fl_ttext *t, const fl_tv *v, bool json) {
    fl_bytes b = {0};
    if (v->kind == FL_TV_FLOAT && !fl_t_charge(r, FLOAT_COST)) return false;
    if (v->kind == FL_TV_INT) {
        fl_bytes_printf(&b, "%lld", (long long)v->integer);
    } else if (json || isfinite(v->number)) {
        fl_jv_write_float(&b, v->number);
    } else {
        fl_bytes_puts(&b, isnan(v->number) ? "nan" : v->number < 0 ? "-inf" : "inf");
    }
    bool ok = b.failed ? fl_t_fail(r, FL_E_NOMEM, "no memory for a number")
                       : fl_ttext_put(r, t, b.data, b.len, NULL, true);
    fl_bytes_free(&b);
    return ok;
}

static bool trusted_at(const fl_tstr *s, size_t i) {
    return s->mask ? s->mask[i] : s->trusted;
}

/* What str.isprintable says no to. */
static bool needs_escape(uint32_t cp) {
    uint32_t category;
    if (cp < 0x7f) return cp < 0x20;
    category = fl_uc_prop(cp) & FL_UC_CATEGORY_MASK;
    return category >= FL_UC_ZS;
}

bool fl_t_is_printable(uint32_t cp) {
    return !needs_escape(cp);
}

/* Python's escape of cp into out; 0: it stands for itself. */
static int repr_escape(char *out, uint32_t cp, char quote) {
    if (cp == (uint32_t)quote || cp == '\\') return snprintf(out, 16, "\\%c", (char)cp);
    if (cp == '\n') return snprintf(out, 16, "\\n");
    if (cp == '\r') return snprintf(out, 16, "\\r");
    if (cp == '\t') return snprintf(out, 16, "\\t");
    if (!needs_escape(cp)) return 0;
    return snprintf(out, 16,
                    cp < 0x100     ? "\\x%02x"
                    : cp < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                    (unsigned)cp);
}

static int json_escape(char out[16], uint32_t cp, bool ascii) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (found) return snprintf(out, 16, "\\%c", to[found - from]);
    if (cp >= 0x20 && (!ascii || cp < 0x7f)) return 0;
    if (cp < 0x10000) return snprintf(out, 16, "\\u%04x", (unsigned)cp);
    cp -= 0x10000;
    return snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + (unsigned)(cp >> 10),
                    0xdc00 + (unsigned)(cp & 0x3ff));
}

/* s between quotes, each character escaped by repr_escape (quote ') or json_escape. */
static bool put_quoted(fl_trun *r, fl_ttext *t, const fl_tstr *s, bool json, bool ascii) {
    char quote = '"', escape[16];
    size_t plain = 0, n;
    uint32_t cp;
    bool ok = fl_t_charge(r, 4 * s->len);
    if (!json && (!memchr(s->data, '\'', s->len) || memchr(s->data, '"', s->len))) quote = '\'';
    ok = ok && fl_ttext_put(r, t, &quote, 1, NULL, true);
    for (size_t i = 0; ok && i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        int k = json ? json_escape(escape, cp, ascii) : repr_escape(escape, cp, quote);
        if (!k) continue;
        ok = fl_ttext_put_part(r, t, s, plain, i) &&
             fl_ttext_put(r, t, escape, (size_t)k, NULL, trusted_at(s, i));
        plain = i + n;
    }
    return ok && fl_ttext_put_part(r, t, s, plain, s->len) &&
           fl_ttext_put(r, t, &quote, 1, NULL, true);
}

static bool put_repr_list(fl_trun *r, fl_ttext *t, const fl_tlist *l, const char *open,
                          const char *close) {
    bool ok = fl_ttext_puts(r, t, open);
    for (size_t i = 0; ok && i < l->n; i++)
        ok = (!i || fl_ttext_puts(r, t, ", ")) && fl_ttext_put_repr(r, t, &l->items[i]);
    return ok && fl_ttext_puts(r, t, close);
}

static bool put_repr_dict(fl_trun *r, fl_ttext *t, const fl_tdict *d) {
    bool ok = fl_ttext_puts(r, t, "{");
    fl_tsort *sorted = r->sorted_repr ? fl_t_alloc(r, d->n * sizeof(*sorted)) : NULL;
    for (uint32_t i = 0; sorted && i < d->n; i++)
        sorted[i] = (fl_tsort){d->entries[i].key, d->entries[i].value};
    if (r->sorted_repr && (!sorted || !fl_tv_sort_keys(r, sorted, d->n))) return false;
    for (uint32_t i = 0; ok && i < d->n; i++) {
        const fl_tv *key = sorted ? &sorted[i].key : &d->entries[i].key;
        const fl_tv *value = sorted ? &sorted[i].value : &d->entries[i].value;
        ok = (!i || fl_ttext_puts(r, t, ", ")) && fl_ttext_put_repr(r, t, key) &&
             fl_ttext_puts(r, t, ": ") && fl_ttext_put_repr(r, t, value);
    }
    return ok && fl_ttext_puts(r, t, "}");
}

static bool put_repr_range(fl_trun *r, fl_ttext *t, const fl_tlist *l) {
    char text[80];
    int n =
        snprintf(text, sizeof(text), "range(%lld, %lld", (long long)l->start, (long long)l->stop);
    if (l->step != 1)
        n += snprintf(text + n, sizeof(text) - (size_t)n, ", %lld", (long long)l->step);
    return fl_ttext_put(r, t, text, (size_t)n, NULL, true) && fl_ttext_puts(r, t, ")");
}

static bool put_repr_macro(fl_trun *r, fl_ttext *t, const fl_tnode *macro) {
    if (!macro->name) return fl_ttext_puts(r, t, "<Macro anonymous>");
    return fl_ttext_puts(r, t, "<Macro ") && put_quoted(r, t, &macro->name->text, false, false) &&
           fl_ttext_puts(r, t, ">");
}

static bool put_repr_bytes(fl_trun *r, fl_ttext *t, const fl_tstr *s) {
    char escape[16];
    const char quote = memchr(s->data, '\'', s->len) && !memchr(s->data, '"', s->len) ? '"' : '\'';
    bool ok = fl_ttext_puts(r, t, "b") && fl_ttext_put(r, t, &quote, 1, NULL, true);
    for (size_t i = 0; ok && i < s->len; i++) {
        const uint8_t c = (uint8_t)s->data[i];
        int n = c < 0x80 ? repr_escape(escape, c, quote) : snprintf(escape, 16, "\\x%02x", c);
        ok = n ? fl_ttext_put(r, t, escape, (size_t)n, NULL, trusted_at(s, i))
               : fl_ttext_put_part(r, t, s, i, i + 1);
    }
    return ok && fl_ttext_put(r, t, &quote, 1, NULL, true);
}

static bool put_repr_container(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    switch (v->kind) {
    case FL_TV_LIST:
        return put_repr_list(r, t, v->list, "[", "]");
    case FL_TV_TUPLE:
        return put_repr_list(r, t, v->list, "(", v->list->n == 1 ? ",)" : ")");
    case FL_TV_VIEW:
        return fl_ttext_puts(r, t, v->list->label) && put_repr_list(r, t, v->list, "([", "])");
    case FL_TV_DICT:
        return put_repr_dict(r, t, v->dict);
    case FL_TV_NAMESPACE:
        return fl_ttext_puts(r, t, "<Namespace ") && put_repr_dict(r, t, v->dict) &&
               fl_ttext_puts(r, t, ">");
    case FL_TV_RANGE:
        return put_repr_range(r, t, v->list);
    case FL_TV_MACRO:
        return put_repr_macro(r, t, v->macro->node);
    case FL_TV_BYTES:
        return put_repr_bytes(r, t, v->string);
    default:
        return fl_ttext_puts(r, t, "<") && fl_ttext_puts(r, t, fl_tv_type_name(v)) &&
               fl_ttext_puts(r, t, ">");
    }
}

bool fl_ttext_put_repr(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    bool ok;
    if (v->kind == FL_TV_STRING && v->string->markup)
        return fl_ttext_puts(r, t, "Markup(") && put_quoted(r, t, v->string, false, false) &&
               fl_ttext_puts(r, t, ")");
    if (v->kind == FL_TV_STRING) return put_quoted(r, t, v->string, false, false);
    if (v->kind == FL_TV_UNDEFINED) return fl_ttext_puts(r, t, "Undefined");
    if (v->kind < FL_TV_STRING) return fl_ttext_put_value(r, t, v);
    if (!fl_t_enter(r)) return false;
    ok = put_repr_container(r, t, v);
    r->depth--;
    return ok;
}

bool fl_ttext_put_ascii(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    fl_ttext plain = {0};
    fl_tv text;
    size_t n;
    uint32_t cp;
    if (!fl_ttext_finish(r, &plain, fl_ttext_put_repr(r, &plain, v), &text)) return false;
    const fl_tstr *s = text.string;
    bool ok = true;
    for (size_t i = 0; ok && i < s->len; i += n) {
        char escape[16];
        n = fl_tstr_next(s, i, &cp);
        if (cp < 0x80) {
            ok = fl_ttext_put_part(r, t, s, i, i + n);
            continue;
        }
        int k = snprintf(escape, sizeof(escape),
                         cp < 0x100     ? "\\x%02x"
                         : cp < 0x10000 ? "\\u%04x"
                                        : "\\U%08x",
                         (unsigned)cp);
        ok = fl_ttext_put(r, t, escape, (size_t)k, NULL, trusted_at(s, i));
    }
    return ok;
}

bool fl_ttext_put_value(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    switch (v->kind) {
    case FL_TV_UNDEFINED:
        return true;
    case FL_TV_NONE:
        return fl_ttext_puts(r, t, "None");
    case FL_TV_BOOL:
        return fl_ttext_puts(r, t, v->boolean ? "True" : "False");
    case FL_TV_INT:
    case FL_TV_FLOAT:
        return put_number(r, t, v, false);
    case FL_TV_STRING:
        return fl_ttext_put_str(r, t, v->string);
    default:
        return fl_ttext_put_repr(r, t, v);
    }
}

bool fl_tv_str(fl_trun *r, const fl_tv *v, const fl_tstr **out) {
    fl_ttext t = {0};
    fl_tv s = *v;
    if (v->kind != FL_TV_STRING && !fl_ttext_finish(r, &t, fl_ttext_put_value(r, &t, v), &s))
        return false;
    *out = s.string;
    return true;
}

static bool put_newline(fl_trun *r, fl_ttext *t, const fl_tjson *o, int level) {
    bool ok = !o->indent || fl_ttext_puts(r, t, "\n");
    for (int i = 0; ok && o->indent && i < level; i++) ok = fl_ttext_put_str(r, t, o->indent);
    return ok;
}

static bool put_json_list(fl_trun *r, fl_ttext *t, const fl_tlist *l, const fl_tjson *o,
                          int level) {
    if (!l->n) return fl_ttext_puts(r, t, "[]");
    bool ok = fl_ttext_puts(r, t, "[");
    for (size_t i = 0; ok && i < l->n; i++) {
        ok = (!i || fl_ttext_put_str(r, t, o->item_separator)) && put_newline(r, t, o, level + 1) &&
             fl_ttext_put_json(r, t, &l->items[i], o, level + 1);
    }
    return ok && put_newline(r, t, o, level) && fl_ttext_puts(r, t, "]");
}

static bool put_json_key(fl_trun *r, fl_ttext *t, const fl_tv *key, const fl_tjson *o) {
    if (key->kind == FL_TV_STRING) return put_quoted(r, t, key->string, true, o->ascii);
    if (!fl_tv_is_number(key) && key->kind != FL_TV_NONE)
        return fl_t_fail(r, FL_E_ARG, "'%s' cannot be a key in JSON", fl_tv_type_name(key));
    return fl_ttext_puts(r, t, "\"") && fl_ttext_put_json(r, t, key, o, 0) &&
           fl_ttext_puts(r, t, "\"");
}

static bool put_json_dict(fl_trun *r, fl_ttext *t, const fl_tdict *d, const fl_tjson *o,
                          int level) {
    if (!d->n) return fl_ttext_puts(r, t, "{}");
    fl_tsort *members = fl_t_alloc(r, d->n * sizeof(*members));
    bool ok = members && fl_ttext_puts(r, t, "{");
    for (uint32_t i = 0; ok && i < d->n; i++)
        members[i] = (fl_tsort){d->entries[i].key, d->entries[i].value};
    if (ok && o->sort) ok = fl_tv_sort(r, members, d->n, false);
    for (uint32_t i = 0; ok && i < d->n; i++) {
        ok = (!i || fl_ttext_put_str(r, t, o->item_separator)) && put_newline(r, t, o, level + 1) &&
             put_json_key(r, t, &members[i].key, o) && fl_ttext_put_str(r, t, o->key_separator) &&
             fl_ttext_put_json(r, t, &members[i].value, o, level + 1);
    }
    return ok && put_newline(r, t, o, level) && fl_ttext_puts(r, t, "}");
}

bool fl_ttext_put_json(fl_trun *r, fl_ttext *t, const fl_tv *v, const fl_tjson *o, int level) {
    bool ok;
    switch (v->kind) {
    case FL_TV_NONE:
        return fl_ttext_puts(r, t, "null");
    case FL_TV_BOOL:
        return fl_ttext_puts(r, t, v->boolean ? "true" : "false");
    case FL_TV_INT:
    case FL_TV_FLOAT:
        return put_number(r, t, v, true);
    case FL_TV_STRING:
        return put_quoted(r, t, v->string, true, o->ascii);
    case FL_TV_LIST:
    case FL_TV_TUPLE:
    case FL_TV_DICT:
        if (!fl_t_enter(r)) return false;
        ok = v->kind == FL_TV_DICT ? put_json_dict(r, t, v->dict, o, level)
                                   : put_json_list(r, t, v->list, o, level);
        r->depth--;
        return ok;
    default:
        return fl_t_fail(r, FL_E_ARG, "'%s' cannot be written as JSON", fl_tv_type_name(v));
    }
}

/* One conversion of a % format: %(key)-08.3f */
typedef struct conversion {
    const fl_tstr *key; /* NULL: the next argument */
    bool left, zero, plus, blank, alternate;
    int width, precision; /* precision -1: none */
    char type;
} conversion;

static int small_number(const fl_tstr *s, size_t *i) {
    int n = 0;
    for (; *i < s->len && s->data[*i] >= '0' && s->data[*i] <= '9' && n <= MAX_WIDTH; ++*i)
        n = n * 10 + (s->data[*i] - '0');
    return n;
}

/* A width or precision: digits, or * for one that the arguments give. */
static bool read_size(fl_trun *r, const fl_tstr *s, size_t *i, const fl_tv *args, size_t *used,
                      int64_t *out) {
    if (*i >= s->len || s->data[*i] != '*') {
        *out = small_number(s, i);
        return true;
    }
    ++*i;
    if (args->kind != FL_TV_TUPLE || *used >= args->list->n)
        return fl_t_fail(r, FL_E_ARG, "* in a format needs an integer");
    return fl_tv_need_int(r, &args->list->items[(*used)++], out);
}

/* s[*i] is behind the %. */
static bool read_conversion(fl_trun *r, const fl_tstr *s, size_t *i, const fl_tv *args,
                            size_t *used, conversion *c) {
    int64_t width, precision = -1;
    fl_tv key;
    *c = (conversion){.precision = -1};
    if (*i < s->len && s->data[*i] == '(') {
        const char *close = memchr(s->data + *i, ')', s->len - *i);
        if (!close) return fl_t_fail(r, FL_E_ARG, "incomplete format key");
        if (!fl_tstr_slice(r, s, *i + 1, (size_t)(close - s->data), &key)) return false;
        c->key = key.string;
        *i = (size_t)(close - s->data) + 1;
    }
    for (bool more = true; more && *i < s->len; *i += more) {
        char f = s->data[*i];
        c->left |= f == '-';
        c->zero |= f == '0';
        c->plus |= f == '+';
        c->blank |= f == ' ';
        c->alternate |= f == '#';
        more = f && strchr("-0+ #", f);
    }
    if (!read_size(r, s, i, args, used, &width)) return false;
    if (*i < s->len && s->data[*i] == '.') {
        ++*i;
        if (!read_size(r, s, i, args, used, &precision)) return false;
        if (precision < 0) precision = 0;
    }
    if (width > MAX_WIDTH || width < -MAX_WIDTH || precision > MAX_WIDTH)
        return fl_t_fail(r, FL_E_LIMIT, "format wider than %d", MAX_WIDTH);
    c->left |= width < 0;
    c->width = (int)(width < 0 ? -width : width);
    c->precision = (int)precision;
    while (*i < s->len && s->data[*i] && strchr("hlL", s->data[*i])) ++*i; /* as in C: no meaning */
    if (*i >= s->len) return fl_t_fail(r, FL_E_ARG, "incomplete format");
    c->type = s->data[(*i)++];
    return true;
}

static bool put_formatted_number(fl_trun *r, fl_ttext *t, const conversion *c, const fl_tv *v) {
    char spec[32], out[MAX_WIDTH + 400];
    bool whole = strchr("diuxXo", c->type) != NULL;
    int n, precision = c->precision;
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    if (!fl_t_charge(r, whole ? 0 : 4 * FLOAT_COST)) return false;
    if (!fl_tv_is_number(v) || (strchr("xXo", c->type) && !fl_tv_is_whole(v)) ||
        (whole && v->kind == FL_TV_FLOAT && !(fabs(v->number) < 0x1p62)))
        return fl_t_fail(r, FL_E_ARG, "%%%c format: a number is required, not %s", c->type,
                         fl_tv_type_name(v));
    snprintf(spec, sizeof(spec), "%%%s%s%s%s%s*.*%s%c", c->left ? "-" : "", c->zero ? "0" : "",
             c->plus ? "+" : "", c->blank ? " " : "", c->alternate ? "#" : "", whole ? "ll" : "",
             c->type == 'u' ? 'd' : c->type);
    if (whole) {
        int64_t i = v->kind == FL_TV_FLOAT ? (int64_t)v->number : fl_tv_whole(v);
        n = snprintf(out, sizeof(out), spec, c->width, precision, (long long)i);
    } else {
        n = snprintf(out, sizeof(out), spec, c->width, precision, fl_tv_number(v));
        for (int i = 0; i < n; i++) /* the locale may have another decimal point */
            if (out[i] == ',') out[i] = '.';
    }
    return fl_ttext_put(r, t, out, (size_t)n, NULL, true);
}

/* A character, or its number. */
static bool put_character(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    char utf8[4];
    int64_t n = 0;
    if (v->kind == FL_TV_STRING) {
        if (!fl_tstr_length(r, v->string, &n)) return false;
        return n == 1 ? fl_ttext_put_str(r, t, v->string)
                      : fl_t_fail(r, FL_E_ARG, "%%c needs one character");
    }
    if (!fl_tv_need_int(r, v, &n)) return false;
    if (n < 0 || n > 0x10ffff || (n >= 0xd800 && n < 0xe000))
        return fl_t_fail(r, FL_E_ARG, "%%c: %lld is no character", (long long)n);
    return fl_ttext_put(r, t, utf8, (size_t)fl_utf8_encode(utf8, (uint32_t)n), NULL, true);
}

static bool put_formatted_text(fl_trun *r, fl_ttext *t, const conversion *c, const fl_tv *v) {
    fl_ttext plain = {0};
    fl_tv text;
    int64_t n_chars;
    bool ok = c->type == 's'   ? fl_ttext_put_value(r, &plain, v)
              : c->type == 'a' ? fl_ttext_put_ascii(r, &plain, v)
              : c->type == 'c' ? put_character(r, &plain, v)
                               : fl_ttext_put_repr(r, &plain, v);
    if (!fl_ttext_finish(r, &plain, ok, &text)) return false;
    size_t end = text.string->len;
    if (c->precision >= 0) end = fl_tstr_offset(text.string, (size_t)c->precision);
    if (!fl_tstr_slice(r, text.string, 0, end, &text) || !fl_tstr_length(r, text.string, &n_chars))
        return false;
    if (c->left) ok = fl_ttext_put_str(r, t, text.string);
    for (int64_t i = n_chars; ok && i < c->width; i++) ok = fl_ttext_puts(r, t, " ");
    return ok && (c->left || fl_ttext_put_str(r, t, text.string));
}

static bool put_conversion(fl_trun *r, fl_ttext *t, const conversion *c, const fl_tv *v) {
    if (c->type && strchr("srac", c->type)) return put_formatted_text(r, t, c, v);
    if (c->type && strchr("diufFeEgGxXo", c->type)) return put_formatted_number(r, t, c, v);
    return fl_t_fail(r, FL_E_ARG, "format character '%c' is not supported",
                     c->type < ' ' ? '?' : c->type);
}

/* The value that a conversion formats. */
static bool format_argument(fl_trun *r, const conversion *c, const fl_tv *args, size_t *used,
                            fl_tv *out) {
    if (c->key) {
        fl_tv *found = args->kind == FL_TV_DICT ? fl_tdict_get(r, args->dict, c->key) : NULL;
        if (!found) return fl_t_fail(r, FL_E_ARG, "format key not found");
        *out = *found;
        *used = SIZE_MAX / 2;
        return true;
    }
    size_t n = args->kind == FL_TV_TUPLE ? args->list->n : 1;
    if (*used >= n) return fl_t_fail(r, FL_E_ARG, "not enough arguments for format string");
    *out = args->kind == FL_TV_TUPLE ? args->list->items[*used] : *args;
    ++*used;
    return true;
}

bool fl_tv_percent(fl_trun *r, const fl_tstr *format, const fl_tv *args, fl_tv *out) {
    fl_ttext t = {0};
    size_t i = 0, used = 0;
    bool ok = true;
    while (ok && i < format->len) {
        const char *percent = memchr(format->data + i, '%', format->len - i);
        size_t end = percent ? (size_t)(percent - format->data) : format->len;
        conversion c;
        fl_tv v;
        ok = fl_ttext_put_part(r, &t, format, i, end);
        i = end + 1;
        if (!ok || !percent || !(ok = read_conversion(r, format, &i, args, &used, &c))) break;
        ok = c.type == '%'
                 ? fl_ttext_puts(r, &t, "%")
                 : format_argument(r, &c, args, &used, &v) && put_conversion(r, &t, &c, &v);
    }
    size_t n = args->kind == FL_TV_TUPLE ? args->list->n : 1;
    const bool keeps = args->kind == FL_TV_UNDEFINED || args->kind == FL_TV_LIST ||
                       args->kind == FL_TV_DICT || args->kind == FL_TV_RANGE ||
                       args->kind == FL_TV_BYTES; /* what has items may be left over */
    if (ok && used < n && !keeps)
        ok = fl_t_fail(r, FL_E_ARG, "not all arguments converted during string formatting");
    return fl_ttext_finish(r, &t, ok, out);
}
