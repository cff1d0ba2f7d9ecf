/* Filters that lay text out or write it for other formats: truncate, wordwrap, striptags, ... */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_run.h"
#include "util/utf8.h"

/* An optional whole number. */
static bool number_or(fl_trun *r, const fl_tv *v, int64_t fallback, int64_t *out) {
    *out = fallback;
    return fl_tv_is_absent(v) || fl_tv_need_int(r, v, out);
}

static bool truth_or(const fl_tv *v, bool fallback) {
    return v->kind == FL_TV_ABSENT ? fallback : fl_tv_truth(v);
}

static bool f_center(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    int64_t width;
    return fl_tv_str(r, &c->self, &s) && number_or(r, &c->arg[0], 80, &width) &&
           fl_tstr_pad(r, s, width, NULL, FL_T_PAD_BOTH, out);
}

static bool f_format(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s;
    const fl_targs *a = c->all;
    fl_tlist list = {.items = a->positional, .n = a->n_positional};
    fl_tv args = fl_tv_list(FL_TV_TUPLE, &list);
    if (a->n_keywords) {
        fl_tdict *d = fl_tdict_new(r);
        if (a->n_positional)
            return fl_t_fail(r, FL_E_ARG, "format: arguments with and without names");
        for (size_t i = 0; d && i < a->n_keywords; i++)
            if (!fl_tdict_set(r, d, fl_tv_string(a->keys[i]), a->keywords[i])) return false;
        if (!d) return false;
        args = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    }
    return fl_tv_str(r, &c->self, &s) && fl_tv_percent(r, s, &args, out);
}

static bool f_pprint(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return fl_t_pformat(r, &c->self, out);
}

static bool f_filesizeformat(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const char prefixes[] = "kMGTPEZY";
    const bool binary = fl_tv_truth(&c->arg[0]);
    const double base = binary ? 1024 : 1000;
    char text[64];
    fl_tv v, none = fl_tv_none();
    const fl_targs or_none = {.positional = &none, .n_positional = 1};
    if (!fl_t_call_builtin(r, fl_t_filter("float", 5), &c->self, &or_none, &v)) return false;
    if (v.kind == FL_TV_NONE)
        return fl_t_fail(r, FL_E_ARG, "filesizeformat: number expected, got '%s'",
                         fl_tv_type_name(&c->self));
    double unit = base;
    int i = 0;
    if (v.number == 1) return fl_tv_text(r, "1 Byte", 6, out);
    if (!(v.number >= base)) {
        int n = snprintf(text, sizeof(text), "%.0f Bytes", trunc(v.number));
        return fl_tv_text(r, text, (size_t)n, out);
    }
    for (; i < 7 && v.number >= unit * base; i++) unit *= base;
    int n = snprintf(text, sizeof(text), "%.1f %c%sB", v.number / unit,
                     binary && !i ? 'K' : prefixes[i], binary ? "i" : "");
    for (int k = 0; k < n; k++)
        if (text[k] == ',') text[k] = '.';
    return fl_tv_text(r, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1, out);
}

static bool f_truncate(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr dots = {.data = "...", .len = 3, .trusted = true};
    const fl_tstr *s, *end = &dots;
    int64_t length, leeway, n, n_end;
    fl_tv head;
    if (!number_or(r, &c->arg[0], 255, &length) || !number_or(r, &c->arg[3], 5, &leeway) ||
        (c->arg[2].kind != FL_TV_ABSENT && !fl_tv_need_string(r, &c->arg[2], "truncate", &end)) ||
        !fl_tv_length(r, &c->self, &n) || !fl_tstr_length(r, end, &n_end))
        return false;
    if (length < n_end || leeway < 0)
        return fl_t_fail(r, FL_E_ARG, "truncate: needs a length of %lld at least",
                         (long long)n_end);
    if (n <= length || n - length <= leeway) { /* whatever it is */
        *out = c->self;
        return true;
    }
    if (!fl_tv_need_string(r, &c->self, "truncate", &s)) return false;
    size_t to = fl_tstr_offset(s, (size_t)(length - n_end)), blank = to;
    if (!fl_tv_truth(&c->arg[1])) {
        while (blank > 0 && s->data[blank - 1] != ' ') blank--;
        if (blank) to = blank - 1;
    }
    return fl_tstr_slice(r, s, 0, to, &head) && fl_tstr_concat(r, head.string, end, out);
}

/* ---- wordwrap: Python's textwrap --------------------------------------------------- */

typedef struct wrapper {
    fl_trun *r;
    fl_ttext *out;
    const fl_tstr *s, *newline;
    uint32_t *cp; /* the characters of a line, and where they begin in s */
    size_t *at;
    size_t n;
    int64_t width;
    bool break_long, break_hyphens, wrote;
} wrapper;

static bool is_blank(uint32_t cp) {
    return cp == ' ' || (cp >= '\t' && cp <= '\r');
}
static bool is_letter(uint32_t cp) {
    return cp == '_' ||
           (fl_t_is_word_char(cp) && (fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) != FL_UC_ND);
}
static bool is_word_punct(uint32_t cp) {
    return fl_t_is_word_char(cp) || (cp && cp < 0x80 && strchr("!\"'&.,?", (int)cp));
}

/* The end of a dash of two or more that stands at i in front of a word, or 0. */
static size_t long_dash(const wrapper *w, size_t i) {
    size_t end = i;
    while (end < w->n && w->cp[end] == '-') end++;
    return end - i >= 2 && end < w->n && fl_t_is_word_char(w->cp[end]) ? end : 0;
}

/* Whether a word may be broken behind the hyphen at i. */
static bool breaks_behind(const wrapper *w, size_t i, size_t start) {
    const uint32_t *c = w->cp;
    if (c[i] != '-' || i <= start) return false;
    const bool two = i >= 2 && is_letter(c[i - 1]) && is_letter(c[i - 2]);
    const bool joined = i >= 3 && c[i - 2] == '-' && is_letter(c[i - 3]) && is_word_punct(c[i - 1]);
    if (!two && !joined) return false;
    size_t k = i + 1;
    if (k >= w->n || !is_letter(c[k++])) return false;
    k += k < w->n && c[k] == '-';
    return k < w->n && is_letter(c[k]);
}

/* End of the piece that starts at i: blanks, a dash between words, a word or a part of one. */
static size_t piece_end(const wrapper *w, size_t i) {
    size_t end = i;
    while (end < w->n && is_blank(w->cp[end])) end++;
    if (end > i) return end;
    if (w->break_hyphens && i && is_word_punct(w->cp[i - 1]) && (end = long_dash(w, i))) return end;
    for (end = i + 1; end < w->n && !is_blank(w->cp[end]); end++) {
        if (!w->break_hyphens) continue;
        if (breaks_behind(w, end, i)) return end + 1;
        if (is_word_punct(w->cp[end - 1]) && long_dash(w, end)) return end;
    }
    return end;
}

static bool is_space_only(const wrapper *w, size_t from, size_t to) {
    while (from < to && fl_uc_is_str_space(w->cp[from])) from++;
    return from == to;
}

static bool put_line(wrapper *w, size_t from, size_t to) {
    if (w->wrote && !fl_ttext_put_str(w->r, w->out, w->newline)) return false;
    w->wrote = true;
    return fl_ttext_put_part(w->r, w->out, w->s, w->at[from], w->at[to]);
}

/* Where a piece that is too long for a line is broken. */
static size_t break_at(const wrapper *w, size_t start, size_t from, size_t end) {
    size_t room = (size_t)w->width - (from - start), hyphen = from + room;
    if (!w->break_long) return from > start ? from : end;
    if (!w->break_hyphens || end - from <= room) return from + room < end ? from + room : end;
    while (hyphen > from + 1 && w->cp[hyphen - 1] != '-') hyphen--;
    bool other = false;
    for (size_t i = from; i + 1 < hyphen; i++) other |= w->cp[i] != '-';
    return hyphen > from + 1 && other ? hyphen : from + room;
}

static bool wrap_line(wrapper *w) {
    bool first = true;
    for (size_t i = 0; i < w->n;) {
        size_t start = i, end = piece_end(w, i);
        if (!first && is_space_only(w, i, end)) {
            start = i = end;
            if (i == w->n) break;
        }
        size_t last = i; /* start of the last piece of the line */
        while (i < w->n && (end = piece_end(w, i)) - start <= (size_t)w->width) {
            last = i;
            i = end;
        }
        if (i < w->n && end - i > (size_t)w->width) {
            size_t to = break_at(w, start, i, end);
            if (to > i || w->break_long) last = i; /* what is broken off ends the line */
            i = to;
        }
        size_t stop = i > last && is_space_only(w, last, i) ? last : i;
        if (!fl_t_charge(w->r, 16 * (i - start))) return false;
        if (stop > start) {
            if (!put_line(w, start, stop)) return false;
            first = false;
        }
    }
    return true;
}

/* One line of the text, s[from..to); an empty one stays. */
static bool wrap_part(wrapper *w, size_t from, size_t to, bool first_line) {
    w->n = 0;
    for (size_t i = from; i < to; w->n++) {
        w->at[w->n] = i;
        i += fl_tstr_next(w->s, i, &w->cp[w->n]);
    }
    w->at[w->n] = to;
    w->wrote = false;
    return (first_line || fl_ttext_put_str(w->r, w->out, w->newline)) && wrap_line(w);
}

static bool f_wordwrap(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr newline = {.data = "\n", .len = 1, .trusted = true};
    fl_ttext t = {0};
    wrapper w = {.r = r, .out = &t, .newline = &newline};
    w.break_long = truth_or(&c->arg[1], true);
    w.break_hyphens = truth_or(&c->arg[3], true);
    if (!fl_tv_need_string(r, &c->self, "wordwrap", &w.s) ||
        !number_or(r, &c->arg[0], 79, &w.width) ||
        (!fl_tv_is_absent(&c->arg[2]) && !fl_tv_need_string(r, &c->arg[2], "wordwrap", &w.newline)))
        return false;
    if (w.width <= 0 && w.s->len) return fl_t_fail(r, FL_E_ARG, "wordwrap: the width must be > 0");
    if (w.width > INT32_MAX) w.width = INT32_MAX;
    if (!(w.cp = fl_t_alloc(r, (w.s->len + 1) * sizeof(*w.cp))) ||
        !(w.at = fl_t_alloc(r, (w.s->len + 1) * sizeof(*w.at))))
        return false;
    bool ok = true;
    for (size_t i = 0, next; ok && i < w.s->len; i = next) {
        size_t end = fl_tstr_line(w.s, i, &next);
        ok = wrap_part(&w, i, end, i == 0);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

/* ---- HTML and URLs ----------------------------------------------------------------- */

/* The entities that HTML text is written with; all others stay as they are. */
static const struct {
    const char *name;
    uint32_t cp;
} entities[] = {
    {"amp", '&'},      {"lt", '<'},       {"gt", '>'},        {"quot", '"'},     {"apos", '\''},
    {"nbsp", 0xa0},    {"iexcl", 0xa1},   {"cent", 0xa2},     {"pound", 0xa3},   {"yen", 0xa5},
    {"sect", 0xa7},    {"copy", 0xa9},    {"laquo", 0xab},    {"reg", 0xae},     {"deg", 0xb0},
    {"plusmn", 0xb1},  {"para", 0xb6},    {"middot", 0xb7},   {"raquo", 0xbb},   {"frac12", 0xbd},
    {"iquest", 0xbf},  {"Auml", 0xc4},    {"Ouml", 0xd6},     {"times", 0xd7},   {"Uuml", 0xdc},
    {"szlig", 0xdf},   {"agrave", 0xe0},  {"auml", 0xe4},     {"ccedil", 0xe7},  {"egrave", 0xe8},
    {"eacute", 0xe9},  {"ntilde", 0xf1},  {"ouml", 0xf6},     {"divide", 0xf7},  {"uuml", 0xfc},
    {"ndash", 0x2013}, {"mdash", 0x2014}, {"lsquo", 0x2018},  {"rsquo", 0x2019}, {"ldquo", 0x201c},
    {"rdquo", 0x201d}, {"bull", 0x2022},  {"hellip", 0x2026}, {"euro", 0x20ac},  {"trade", 0x2122},
    {"larr", 0x2190},  {"rarr", 0x2192},  {"minus", 0x2212},  {"le", 0x2264},    {"ge", 0x2265},
    {"ne", 0x2260},    {"infin", 0x221e},
};

/* The character of the entity at s[i] = '&'; *end is behind it.  0: none. */
static uint32_t entity(const fl_tstr *s, size_t i, size_t *end) {
    const char *close = memchr(s->data + i, ';', s->len - i < 32 ? s->len - i : 32);
    char name[32];
    if (!close) return 0;
    size_t n = (size_t)(close - s->data) - i - 1;
    memcpy(name, s->data + i + 1, n);
    name[n] = '\0';
    *end = i + n + 2;
    if (*name == '#') {
        char *rest;
        const bool hex = (name[1] | 32) == 'x';
        const unsigned long cp = strtoul(name + 1 + hex, &rest, hex ? 16 : 10);
        if (rest == name + 1 + hex || *rest) return 0;
        return !cp || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000) ? 0xfffd : (uint32_t)cp;
    }
    for (size_t k = 0; k < sizeof(entities) / sizeof(entities[0]); k++)
        if (!strcmp(entities[k].name, name)) return entities[k].cp;
    return 0;
}

static bool unescape(fl_trun *r, fl_ttext *t, const fl_tstr *s) {
    size_t plain = 0, end;
    char utf8[4];
    for (size_t i = 0; i < s->len; i++) {
        uint32_t cp = s->data[i] == '&' ? entity(s, i, &end) : 0;
        if (!cp) continue;
        if (!fl_ttext_put_part(r, t, s, plain, i) ||
            !fl_ttext_put(r, t, utf8, (size_t)fl_utf8_encode(utf8, cp), NULL, false))
            return false;
        plain = end;
        i = end - 1;
    }
    return fl_ttext_put_part(r, t, s, plain, s->len);
}

/* The text without what stands between two marks. */
static bool without(fl_trun *r, const fl_tstr *s, const char *open, const char *close, fl_tv *out) {
    const size_t n_open = strlen(open), n_close = strlen(close);
    fl_ttext t = {0};
    size_t i = 0;
    bool ok = fl_t_charge(r, s->len);
    while (ok && i < s->len) {
        const char *from = memmem(s->data + i, s->len - i, open, n_open);
        const char *to =
            from ? memmem(from, s->len - (size_t)(from - s->data), close, n_close) : NULL;
        if (!to) break;
        ok = fl_ttext_put_part(r, &t, s, i, (size_t)(from - s->data));
        i = (size_t)(to - s->data) + n_close;
    }
    return fl_ttext_finish(r, &t, ok && fl_ttext_put_part(r, &t, s, i, s->len), out);
}

static bool f_striptags(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr blank = {.data = " ", .len = 1, .trusted = true};
    const fl_tstr *s;
    const fl_targs none = {0};
    fl_tv text, words, joined, separator = fl_tv_string(&blank);
    const fl_targs by_blank = {.positional = &separator, .n_positional = 1};
    fl_ttext t = {0};
    if (!fl_tv_str(r, &c->self, &s) || !without(r, s, "<!--", "-->", &text) ||
        !without(r, text.string, "<", ">", &text) ||
        !fl_t_call_builtin(r, fl_t_string_method("split", 5), &text, &none, &words) ||
        !fl_t_call_builtin(r, fl_t_filter("join", 4), &words, &by_blank, &joined))
        return false;
    return fl_ttext_finish(r, &t, unescape(r, &t, joined.string), out);
}

static bool put_quoted_url(fl_trun *r, fl_ttext *t, const fl_tv *v, bool query) {
    const fl_tstr *s;
    char hex[4];
    bool ok = fl_tv_str(r, v, &s);
    for (size_t i = 0; ok && i < s->len; i++) {
        const uint8_t c = (uint8_t)s->data[i];
        const bool keeps = ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') ||
                           (c && strchr(query ? "_.-~" : "_.-~/", c));
        if (keeps && c < 0x80) {
            ok = fl_ttext_put_part(r, t, s, i, i + 1);
        } else if (query && c == ' ') {
            ok = fl_ttext_puts(r, t, "+");
        } else {
            snprintf(hex, sizeof(hex), "%%%02X", c);
            ok = fl_ttext_put(r, t, hex, 3, NULL, true);
        }
    }
    return ok;
}

/* Text, or a dict or list of pairs for a query. */
static bool f_urlencode(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    const fl_targs none = {0};
    fl_tv pairs = c->self;
    fl_ttext t = {0};
    bool ok = true;
    const bool query = pairs.kind == FL_TV_DICT || fl_tv_is_sequence(&pairs) ||
                       pairs.kind == FL_TV_GENERATOR || pairs.kind == FL_TV_VIEW;
    if (!query) return fl_ttext_finish(r, &t, put_quoted_url(r, &t, &pairs, false), out);
    if (pairs.kind == FL_TV_DICT &&
        !fl_t_call_builtin(r, fl_t_filter("items", 5), &c->self, &none, &pairs))
        return false;
    if (!fl_tv_items(r, &pairs, &items)) return false;
    for (size_t i = 0; ok && i < items->n; i++) {
        const fl_tlist *pair;
        ok = fl_tv_items(r, &items->items[i], &pair) &&
             (pair->n == 2 || fl_t_fail(r, FL_E_ARG, "urlencode: pairs expected")) &&
             (!i || fl_ttext_puts(r, &t, "&")) && put_quoted_url(r, &t, &pair->items[0], true) &&
             fl_ttext_puts(r, &t, "=") && put_quoted_url(r, &t, &pair->items[1], true);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

static bool put_escaped(fl_trun *r, fl_ttext *t, const fl_tv *v) {
    const fl_targs none = {0};
    fl_tv text;
    return fl_t_call_builtin(r, fl_t_filter("escape", 6), v, &none, &text) &&
           fl_ttext_put_str(r, t, text.string);
}

static bool f_xmlattr(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const bool autospace = truth_or(&c->arg[0], true);
    fl_ttext t = {0};
    bool ok = c->self.kind == FL_TV_DICT ||
              fl_t_fail(r, FL_E_ARG, "xmlattr: dict expected, got '%s'", fl_tv_type_name(&c->self));
    uint32_t cp;
    for (uint32_t i = 0; ok && i < c->self.dict->n; i++) {
        const fl_tentry *e = &c->self.dict->entries[i];
        const fl_tstr *key;
        if (e->value.kind == FL_TV_NONE || e->value.kind == FL_TV_UNDEFINED) continue;
        ok = fl_tv_need_string(r, &e->key, "xmlattr", &key);
        for (size_t k = 0; ok && k < key->len;) {
            k += fl_tstr_next(key, k, &cp);
            if (fl_uc_is_str_space(cp) || (cp && cp < 0x80 && strchr("/>=", (int)cp)))
                ok = fl_t_fail(r, FL_E_ARG, "xmlattr: a name with a blank, '/', '>' or '='");
        }
        ok = ok && (!(t.data.len || autospace) || fl_ttext_puts(r, &t, " ")) &&
             put_escaped(r, &t, &e->key) && fl_ttext_puts(r, &t, "=\"") &&
             put_escaped(r, &t, &e->value) && fl_ttext_puts(r, &t, "\"");
    }
    return fl_ttext_finish(r, &t, ok, out);
}

const fl_tfunction *fl_t_text_filter(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"center", "width=", f_center},
        {"filesizeformat", "binary=", f_filesizeformat},
        {"format", "*", f_format},
        {"pprint", "", f_pprint},
        {"striptags", "", f_striptags},
        {"truncate", "length= killwords= end= leeway=", f_truncate},
        {"urlencode", "", f_urlencode},
        {"urlize", "trim_url_limit= nofollow= target= rel= extra_schemes=", fl_t_urlize},
        {"wordwrap", "width= break_long_words= wrapstring= break_on_hyphens=", f_wordwrap},
        {"xmlattr", "autospace=", f_xmlattr},
        {NULL, NULL, NULL},
    };
    return fl_t_find(table, name, n);
}
