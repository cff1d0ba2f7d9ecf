/* The filter urlize: words that are addresses become links. */
#include <stdlib.h>
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"
#include "util/utf8.h"

/* Part of a text. */
typedef struct span {
    const char *p;
    size_t n;
} span;

static char lower(char c) {
    return (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return lower(c) >= 'a' && lower(c) <= 'z';
}

static bool starts(span s, const char *with) {
    const size_t n = strlen(with);
    return s.n >= n && !memcmp(s.p, with, n);
}

/* In capital letters too; `with` is in small ones. */
static bool starts_any_case(span s, const char *with) {
    const size_t n = strlen(with);
    size_t i = 0;
    while (i < n && i < s.n && lower(s.p[i]) == with[i]) i++;
    return i == n;
}

static span from(span s, size_t i) {
    return (span){s.p + i, s.n - i};
}

static const char *last_of(span s, char c) {
    for (size_t i = s.n; i-- > 0;)
        if (s.p[i] == c) return s.p + i;
    return NULL;
}

/* How many characters at the start are letters, digits, '_' or one of `more`; *bytes: their length. */
static size_t word_run(span s, const char *more, size_t *bytes) {
    size_t count = 0, i = 0;
    while (i < s.n) {
        size_t step = 0;
        const uint32_t cp = fl_uc_get(s.p + i, &step);
        if (!fl_t_is_word_char(cp) && !(cp && cp < 0x80 && strchr(more, (int)cp))) break;
        i += step;
        count++;
    }
    *bytes = i;
    return count;
}

/* Labels between dots, of `least` characters at least and `most` at most, up to *last. */
static bool has_labels(span host, size_t least, size_t most, span *last) {
    for (;;) {
        size_t bytes;
        const size_t n = word_run(host, "%-", &bytes);
        if (bytes == host.n) {
            *last = host;
            return true;
        }
        if (host.p[bytes] != '.' || n < least || n > most) return false;
        host = from(host, bytes + 1);
    }
}

/* The last label of a host behind http:// or www. */
static bool is_top_level(span label) {
    size_t bytes, i = 0;
    if (starts_any_case(label, "xn--")) {
        const size_t n = word_run(from(label, 4), "%", &bytes);
        if (n >= 2 && n <= 59 && bytes == label.n - 4) return true;
    }
    while (i < label.n && is_letter(label.p[i])) i++;
    return i == label.n && i >= 2 && i <= 63;
}

static bool is_bare_host(span host) {
    static const char *const known[] = {"com", "net", "int", "edu", "gov", "org", "info", "mil"};
    span last;
    if (!has_labels(host, 2, 63, &last) || last.p == host.p) return false;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (last.n == strlen(known[i]) && starts_any_case(last, known[i])) return true;
    return false;
}

static bool is_ipv4(span host) {
    size_t i = 0;
    for (int part = 0; part < 4; part++) {
        const size_t start = i + (part > 0);
        if (part && (i >= host.n || host.p[i] != '.')) return false;
        for (i = start; i < host.n && is_digit(host.p[i]); i++) {
        }
        if (i == start || i - start > 3) return false;
    }
    return i == host.n;
}

/* [..]: two groups of at most four hexadecimal digits, each with its colon, and at most six more, whose colons may
 * be missing. */
static bool is_ipv6(span host) {
    size_t groups = 0, run = 0, colons = 0;
    if (host.n < 4 || host.p[0] != '[' || host.p[host.n - 1] != ']') return false;
    for (size_t i = 1; i + 1 < host.n; i++) {
        const char c = host.p[i];
        if (c != ':') {
            if (!is_digit(c) && !(is_letter(c) && lower(c) <= 'f')) return false;
            run++;
            continue;
        }
        if (++colons <= 2 && run > 4) return false;
        if (colons > 2) groups += run ? (run + 3) / 4 : 1;
        run = 0;
    }
    return colons >= 2 && groups + (run + 3) / 4 <= 6;
}

/* Where the host ends: at a port, a path, a query, a fragment; rest_ok: what follows is that. */
static span host_of(span s, bool *rest_ok) {
    size_t end = 0, i;
    if (s.n && s.p[0] == '[') {
        while (end < s.n && s.p[end] != ']') end++;
        end += end < s.n;
    } else {
        while (end < s.n && !strchr(":/?#", s.p[end])) end++;
    }
    i = end;
    if (i < s.n && s.p[i] == ':') {
        const size_t start = ++i;
        while (i < s.n && is_digit(s.p[i])) i++;
        *rest_ok = i > start && i - start <= 5;
    } else {
        *rest_ok = true;
    }
    *rest_ok = *rest_ok && (i == s.n || (s.p[i] && strchr("/?#", s.p[i])));
    return (span){s.p, end};
}

static bool is_web_address(span s) {
    const size_t scheme = starts_any_case(s, "https://")  ? 8
                          : starts_any_case(s, "http://") ? 7
                                                          : 0;
    const bool www = !scheme && starts_any_case(s, "www.");
    bool ok;
    span last;
    const span host = host_of(from(s, scheme), &ok);
    if (!ok || !host.n) return false;
    if (scheme && (is_ipv4(host) || is_ipv6(host))) return true;
    if ((scheme || www) && has_labels(from(host, www ? 4 : 0), 1, SIZE_MAX, &last) &&
        is_top_level(last))
        return true;
    return !scheme && is_bare_host(host);
}

static bool is_mail_address(span s) {
    const char *at = last_of(s, '@');
    if (!at || at == s.p) return false;
    const span domain = from(s, (size_t)(at - s.p) + 1);
    const char *dot = last_of(domain, '.');
    size_t bytes;
    if (!dot || dot == domain.p) return false;
    const span last = from(domain, (size_t)(dot - domain.p) + 1);
    word_run(last, "", &bytes);
    if (!last.n || bytes != last.n || strchr(".-", domain.p[0])) return false;
    word_run(domain, ".-", &bytes);
    return bytes == domain.n;
}

/* How a word is told from the brackets and stops around it. */
static size_t opening(span s) {
    return s.n && (s.p[0] == '(' || s.p[0] == '<') ? 1 : starts(s, "&lt;") ? 4 : 0;
}

static size_t closing(span s) {
    if (s.n && strchr(")>.,", s.p[s.n - 1]) && s.p[s.n - 1]) return 1;
    return s.n >= 4 && !memcmp(s.p + s.n - 4, "&gt;", 4) ? 4 : 0;
}

static size_t count_of(span s, const char *what) {
    const size_t n = strlen(what);
    size_t count = 0;
    for (size_t i = 0; i + n <= s.n;) {
        const bool here = !memcmp(s.p + i, what, n);
        count += here;
        i += here ? n : 1;
    }
    return count;
}

/* The word without what surrounds it; closing brackets that it opened itself stay. */
static span middle_of(span word) {
    static const char *const pairs[][2] = {{"(", ")"}, {"<", ">"}, {"&lt;", "&gt;"}};
    span m = word;
    for (size_t n; (n = opening(m));) m = from(m, n);
    for (size_t n; (n = closing(m));) m.n -= n;
    for (size_t i = 0; i < 3; i++) {
        const char *const close = pairs[i][1];
        const size_t opened = count_of(m, pairs[i][0]);
        if (opened <= count_of(m, close)) continue;
        for (size_t k = 0; k < opened; k++) {
            const char *end = word.p + word.n, *found = m.p + m.n;
            found = memmem(found, (size_t)(end - found), close, strlen(close));
            if (!found) break;
            m.n = (size_t)(found - m.p) + strlen(close);
        }
    }
    return m;
}

typedef struct links {
    const fl_tstr *s;            /* the escaped text */
    const fl_tstr *rel, *target; /* escaped; NULL: none */
    const fl_tlist *schemes;     /* NULL: none */
    int64_t limit;               /* characters that are shown, -1: all */
} links;

static bool put_span(fl_trun *r, fl_ttext *t, const links *l, span s) {
    const size_t at = (size_t)(s.p - l->s->data);
    return fl_ttext_put_part(r, t, l->s, at, at + s.n);
}

static bool put_attribute(fl_trun *r, fl_ttext *t, const char *name, const fl_tstr *value) {
    return !value || !value->len ||
           (fl_ttext_puts(r, t, name) && fl_ttext_put_str(r, t, value) &&
            fl_ttext_puts(r, t, "\""));
}

static bool put_shown(fl_trun *r, fl_ttext *t, const links *l, span s) {
    size_t at = 0;
    int64_t n = 0;
    while (at < s.n && (l->limit < 0 || n < l->limit)) {
        size_t step = 0;
        (void)fl_uc_get(s.p + at, &step);
        at += step;
        n++;
    }
    return put_span(r, t, l, (span){s.p, at}) && (at == s.n || fl_ttext_puts(r, t, "..."));
}

static bool put_link(fl_trun *r, fl_ttext *t, const links *l, const char *before, span s,
                     span shown, bool web) {
    return fl_ttext_puts(r, t, "<a href=\"") && fl_ttext_puts(r, t, before) &&
           put_span(r, t, l, s) && fl_ttext_puts(r, t, "\"") &&
           (!web || (put_attribute(r, t, " rel=\"", l->rel) &&
                     put_attribute(r, t, " target=\"", l->target))) &&
           fl_ttext_puts(r, t, ">") && put_shown(r, t, l, shown) && fl_ttext_puts(r, t, "</a>");
}

static bool has_scheme(const links *l, span s) {
    for (size_t i = 0; l->schemes && i < l->schemes->n; i++) {
        const fl_tstr *scheme = l->schemes->items[i].string;
        if (s.n > scheme->len && !memcmp(s.p, scheme->data, scheme->len)) return true;
    }
    return false;
}

static bool put_word(fl_trun *r, fl_ttext *t, const links *l, span word) {
    const span m = middle_of(word);
    links whole = *l;
    whole.limit = -1;
    bool ok = put_span(r, t, l, (span){word.p, (size_t)(m.p - word.p)});
    if (is_web_address(m)) {
        const bool full = starts(m, "https://") || starts(m, "http://");
        ok = ok && put_link(r, t, l, full ? "" : "https://", m, m, true);
    } else if (starts(m, "mailto:") && is_mail_address(from(m, 7))) {
        ok = ok && put_link(r, t, &whole, "", m, from(m, 7), false);
    } else if (!starts(m, "@") && !starts(m, "www.") && !memchr(m.p, ':', m.n) &&
               is_mail_address(m)) {
        ok = ok && put_link(r, t, &whole, "mailto:", m, m, false);
    } else if (has_scheme(l, m)) {
        ok = ok && put_link(r, t, &whole, "", m, m, true);
    } else {
        ok = ok && put_span(r, t, l, m);
    }
    return ok && put_span(r, t, l, from(word, (size_t)(m.p + m.n - word.p)));
}

static bool escaped(fl_trun *r, const fl_tv *v, const fl_tstr **out) {
    const fl_targs none = {0};
    fl_tv text;
    if (!fl_t_call_builtin(r, fl_t_filter("escape", 6), v, &none, &text)) return false;
    *out = text.string;
    return true;
}

/* The words of `rel`, nofollow and noopener: each once, in the order of the alphabet. */
static bool rel_words(fl_trun *r, const fl_tv *rel, bool nofollow, const fl_tstr **out) {
    const fl_targs none = {0};
    fl_tv words, text, separator;
    const fl_targs by_blank = {.positional = &separator, .n_positional = 1};
    const fl_tstr *given;
    fl_ttext t = {0};
    bool ok = true;
    if (!fl_tv_is_absent(rel))
        ok = fl_tv_need_string(r, rel, "urlize", &given) && fl_ttext_put_str(r, &t, given);
    ok =
        ok && (!nofollow || fl_ttext_puts(r, &t, " nofollow")) && fl_ttext_puts(r, &t, " noopener");
    if (!fl_ttext_finish(r, &t, ok, &text) || !fl_tv_text(r, " ", 1, &separator)) return false;
    fl_tv by_case = fl_tv_bool(true);
    const fl_targs exact = {.positional = &by_case, .n_positional = 1};
    fl_tv sort_args[2] = {fl_tv_bool(false), fl_tv_bool(true)};
    const fl_targs sorted = {.positional = sort_args, .n_positional = 2};
    return fl_t_call_builtin(r, fl_t_string_method("split", 5), &text, &none, &words) &&
           fl_t_call_builtin(r, fl_t_filter("unique", 6), &words, &exact, &words) &&
           fl_t_call_builtin(r, fl_t_filter("sort", 4), &words, &sorted, &words) &&
           fl_t_call_builtin(r, fl_t_filter("join", 4), &words, &by_blank, &text) &&
           escaped(r, &text, out);
}

/* A name of two characters or more, a colon, at most two slashes. */
static bool is_scheme(const fl_tstr *s) {
    size_t bytes, n = word_run((span){s->data, s->len}, ".+-", &bytes);
    const span rest = from((span){s->data, s->len}, bytes);
    return n >= 2 && rest.n >= 1 && rest.n <= 3 && !memcmp(rest.p, "://", rest.n);
}

static bool read_schemes(fl_trun *r, const fl_tv *v, const fl_tlist **out) {
    const fl_tstr *scheme;
    if (fl_tv_is_absent(v)) return true;
    if (!fl_tv_items(r, v, out)) return false;
    for (size_t i = 0; i < (*out)->n; i++) {
        if (!fl_tv_need_string(r, &(*out)->items[i], "urlize", &scheme)) return false;
        if (!is_scheme(scheme))
            return fl_t_fail(r, FL_E_ARG, "urlize: '%.*s' is no URI scheme",
                             scheme->len > 100 ? 100 : (int)scheme->len, scheme->data);
    }
    return true;
}

/* Where white space starts or ends behind byte i. */
static size_t next_change(const fl_tstr *s, size_t i, bool blank) {
    uint32_t cp;
    while (i < s->len) {
        const size_t step = fl_tstr_next(s, i, &cp);
        if (fl_uc_is_str_space(cp) != blank) break;
        i += step;
    }
    return i;
}

bool fl_t_urlize(fl_trun *r, fl_tcall *c, fl_tv *out) {
    links l = {.limit = -1};
    fl_ttext t = {0};
    bool ok = true;
    if (!escaped(r, &c->self, &l.s) || !rel_words(r, &c->arg[3], fl_tv_truth(&c->arg[1]), &l.rel) ||
        !read_schemes(r, &c->arg[4], &l.schemes))
        return false;
    if (!fl_tv_is_absent(&c->arg[0])) {
        if (!fl_tv_need_int(r, &c->arg[0], &l.limit)) return false;
        if (l.limit < 0) l.limit = 0;
    }
    if (!fl_tv_is_absent(&c->arg[2]) && !escaped(r, &c->arg[2], &l.target)) return false;
    ok = fl_t_charge(r, 16 * l.s->len);
    for (size_t i = 0; ok && i < l.s->len;) {
        const size_t blanks = next_change(l.s, i, true), end = next_change(l.s, blanks, false);
        ok = fl_ttext_put_part(r, &t, l.s, i, blanks) &&
             put_word(r, &t, &l, (span){l.s->data + blanks, end - blanks});
        i = end;
    }
    return fl_ttext_finish(r, &t, ok, out) && fl_tv_keep_markup(r, r->autoescape, out);
}
