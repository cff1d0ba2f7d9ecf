/* Template source -> tokens, with the white space rules of transformers' environment:
 * trim_blocks, lstrip_blocks, one newline at the end of the source dropped. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_run.h"
#include "util/decimal.h"
#include "util/utf8.h"

enum { MAX_BRACKETS = 200, MAX_NUMBER = 60 };

typedef struct lexer {
    fl_tparser *p;
    const char *s;
    size_t n, at;
    int line;
    bool line_start; /* the last tag took the rest of its line: text starts a line */
} lexer;

/* Move on, counting lines. */
static void advance(lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->s[x->at] == '\n';
}

static bool add_token(lexer *x, fl_ttoken t) {
    fl_tparser *p = x->p;
    if (p->n_tokens == p->cap_tokens) {
        size_t cap = p->cap_tokens ? p->cap_tokens * 2 : 256;
        fl_ttoken *grown = fl_grow(p->tokens, cap * sizeof(*grown));
        if (!grown) {
            fl_fail(p->err, FL_E_NOMEM, "template: no memory for %zu tokens", cap);
            return false;
        }
        p->tokens = grown;
        p->cap_tokens = cap;
    }
    t.line = x->line;
    p->tokens[p->n_tokens++] = t;
    return true;
}

static size_t skip_space(const lexer *x, size_t i) {
    fl_tstr source = {.data = x->s, .len = x->n};
    uint32_t cp;
    while (i < x->n) {
        size_t k = fl_tstr_next(&source, i, &cp);
        if (!fl_uc_is_str_space(cp)) break;
        i += k;
    }
    return i;
}

/* Start of the white space that ends at `end`, not before `from`. */
static size_t back_over_space(const lexer *x, size_t from, size_t end) {
    fl_tstr source = {.data = x->s, .len = x->n};
    uint32_t cp;
    while (end > from) {
        size_t i = end - 1;
        while (i > from && ((uint8_t)x->s[i] & 0xc0) == 0x80) i--;
        fl_tstr_next(&source, i, &cp);
        if (!fl_uc_is_str_space(cp)) break;
        end = i;
    }
    return end;
}

static bool starts_with(const lexer *x, size_t i, const char *text) {
    size_t n = strlen(text);
    return x->n - i >= n && !memcmp(x->s + i, text, n);
}

/* End of the text [x->at, tag) once the tag's sign and lstrip_blocks have cut it. */
static size_t cut_text(const lexer *x, size_t tag, char sign, bool is_output) {
    if (sign == '-') return back_over_space(x, x->at, tag);
    if (sign == '+' || is_output) return tag;
    size_t start = tag;
    while (start > x->at && x->s[start - 1] != '\n') start--;
    bool at_line_start = start > x->at || x->line_start;
    return at_line_start && back_over_space(x, start, tag) == start ? start : tag;
}

static bool add_text(lexer *x, size_t end) {
    fl_ttoken t = {.kind = FL_TT_DATA, .data = x->s + x->at, .len = end - x->at};
    return end == x->at || add_token(x, t);
}

/* Behind a closing tag whose last byte is before i. */
static void close_tag(lexer *x, size_t i, char sign, bool trim_newline) {
    if (sign == '-') {
        i = skip_space(x, i);
    } else if (trim_newline && sign != '+' && i < x->n && x->s[i] == '\n') {
        i++;
    }
    advance(x, i);
    x->line_start = i > 0 && x->s[i - 1] == '\n';
}

static bool lex_comment(lexer *x) {
    size_t start = x->at;
    const char *end = memmem(x->s + start, x->n - start, "#}", 2);
    if (!end) return fl_t_syntax(x->p, x->line, "comment without end");
    size_t i = (size_t)(end - x->s);
    close_tag(x, i + 2, i > start ? x->s[i - 1] : 0, true);
    return true;
}

/* A tag holding only `word`, at s[i] behind "{%" and its sign: 0, or the place behind
 * "%}" with the sign before it in *sign. */
static size_t match_tag(const lexer *x, size_t i, const char *word, char *sign) {
    i = skip_space(x, i);
    if (!starts_with(x, i, word)) return 0;
    i = skip_space(x, i + strlen(word));
    *sign = i < x->n && (x->s[i] == '-' || x->s[i] == '+') ? x->s[i] : 0;
    i += *sign != 0;
    return starts_with(x, i, "%}") ? i + 2 : 0;
}

/* Text up to {% endraw %}; x->at is behind {% raw %}. */
static bool lex_raw(lexer *x) {
    for (size_t i = x->at; i < x->n;) {
        const char *found = memmem(x->s + i, x->n - i, "{%", 2);
        if (!found) break;
        size_t tag = (size_t)(found - x->s);
        char open = tag + 2 < x->n ? x->s[tag + 2] : 0, close;
        bool has_sign = open == '-' || open == '+';
        size_t end = match_tag(x, tag + 2 + has_sign, "endraw", &close);
        if (end) {
            if (!add_text(x, cut_text(x, tag, has_sign ? open : 0, false))) return false;
            close_tag(x, end, close, true);
            return true;
        }
        i = tag + 2;
    }
    return fl_t_syntax(x->p, x->line, "raw block without end");
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The escape behind a backslash at s[*i]; appends to *out at most as many bytes as it read
 * plus one. */
static bool unescape(lexer *x, const char *s, size_t n, size_t *i, char **out) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = s[*i];
    const char *found = c ? strchr(from, c) : NULL;
    int n_hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t cp = 0;
    ++*i;
    if (found) {
        *(*out)++ = to[found - from];
    } else if (n_hex) {
        for (; n_hex && *i < n && hex_value(s[*i]) >= 0; n_hex--, ++*i)
            cp = (cp & 0xfffffff) << 4 | (uint32_t)hex_value(s[*i]);
        if (n_hex || cp > 0x10ffff)
            return fl_t_syntax(x->p, x->line, "invalid \\%c escape in a string", c);
        *out += fl_utf8_encode(*out, cp >= 0xd800 && cp < 0xe000 ? 0xfffd : cp);
    } else if (c >= '0' && c <= '7') {
        cp = (uint32_t)(c - '0');
        for (int k = 0; k < 2 && *i < n && s[*i] >= '0' && s[*i] <= '7'; k++, ++*i)
            cp = cp * 8 + (uint32_t)(s[*i] - '0');
        *out += fl_utf8_encode(*out, cp);
    } else if (c == 'N') {
        return fl_t_syntax(x->p, x->line,
                           "\\N: characters by name are not supported, write \\uXXXX");
    } else if (c != '\n') {
        *(*out)++ = '\\';
        *(*out)++ = c;
    }
    return true;
}

static bool lex_string(lexer *x) {
    const char *s = x->s;
    size_t start = x->at + 1, end = start, i = start;
    while (end < x->n && s[end] != s[x->at]) end += s[end] == '\\' ? 2 : 1;
    if (end >= x->n) return fl_t_syntax(x->p, x->line, "string without end");
    /* The longest growth is \7 -> 1 byte, \x -> error, unknown escapes keep their length. */
    char *text = fl_t_tree_alloc(x->p, end - start + 4), *out = text;
    if (!text) return false;
    while (i < end) {
        if (s[i] != '\\') {
            *out++ = s[i++];
            continue;
        }
        i++;
        if (!unescape(x, s, end, &i, &out)) return false;
    }
    fl_ttoken t = {.kind = FL_TT_STRING, .data = text, .len = (size_t)(out - text)};
    if (!add_token(x, t)) return false;
    advance(x, end + 1);
    return true;
}

/* End of digits of the base from i on, single underscores between them allowed. */
static size_t skip_digits(const lexer *x, size_t i, int base) {
    for (;;) {
        size_t d = i + (i < x->n && x->s[i] == '_');
        int v = d < x->n ? hex_value(x->s[d]) : -1;
        if (v < 0 || v >= base) return i;
        i = d + 1;
    }
}

static bool is_digit(const lexer *x, size_t i) {
    return i < x->n && x->s[i] >= '0' && x->s[i] <= '9';
}

static bool add_number(lexer *x, size_t end, int base, bool is_float) {
    char buf[MAX_NUMBER + 1];
    size_t n = 0;
    int64_t v = 0;
    for (size_t i = x->at + (base != 10 ? 2 : 0); i < end; i++) {
        if (x->s[i] == '_') continue;
        if (n == MAX_NUMBER) return fl_t_syntax(x->p, x->line, "number too long");
        buf[n++] = x->s[i];
    }
    buf[n] = '\0';
    fl_ttoken t = {.kind = FL_TT_NUMBER};
    if (is_float) {
        size_t zeros = strspn(buf, "0"); /* 00.5 is a number here, not in JSON */
        if (zeros && buf[zeros] >= '0' && buf[zeros] <= '9') zeros++;
        const char *text = buf + (zeros ? zeros - 1 : 0);
        t.value = fl_tv_float(fl_decimal_value(text, text + strlen(text)));
    } else {
        for (size_t i = 0; i < n; i++) {
            if (__builtin_mul_overflow(v, (int64_t)base, &v) ||
                __builtin_add_overflow(v, (int64_t)hex_value(buf[i]), &v))
                return fl_t_syntax(x->p, x->line, "integer does not fit 64 bits");
        }
        t.value = fl_tv_int(v);
    }
    if (!add_token(x, t)) return false;
    x->at = end;
    return true;
}

static bool lex_number(lexer *x) {
    size_t i = x->at;
    char kind = x->s[i] == '0' && i + 1 < x->n ? (char)(x->s[i + 1] | 32) : 0;
    int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    if (base != 10) {
        size_t end = skip_digits(x, i + 2, base);
        if (end > i + 2) return add_number(x, end, base, false);
    }
    size_t whole = skip_digits(x, i, 10), end = whole;
    if (i == 0 || x->s[i - 1] != '.') { /* a.0.1 are two integers */
        if (end < x->n && x->s[end] == '.' && is_digit(x, end + 1))
            end = skip_digits(x, end + 1, 10);
        size_t e = end;
        if (e < x->n && (x->s[e] | 32) == 'e') {
            e++;
            e += e < x->n && (x->s[e] == '+' || x->s[e] == '-');
            if (is_digit(x, e)) end = skip_digits(x, e, 10);
        }
    }
    if (end > whole) return add_number(x, end, 10, true);
    if (x->s[i] == '0') whole = i + strspn(x->s + i, "0");
    return add_number(x, whole, 10, false);
}

static bool is_name_byte(char c) {
    uint8_t lower = (uint8_t)(c | 32);
    return (lower >= 'a' && lower <= 'z') || c == '_' || (uint8_t)c >= 0x80;
}

static bool lex_name(lexer *x) {
    size_t end = x->at;
    while (end < x->n && (is_name_byte(x->s[end]) || is_digit(x, end))) end++;
    fl_ttoken t = {.kind = FL_TT_NAME, .data = x->s + x->at, .len = end - x->at};
    if (!add_token(x, t)) return false;
    x->at = end;
    return true;
}

static bool lex_operator(lexer *x, char *brackets, int *n_brackets) {
    static const struct {
        char text[3], op;
    } two[] = {{"//", 'i'}, {"**", '^'}, {"==", 'e'}, {"!=", '!'}, {">=", 'g'}, {"<=", 'l'}};
    char c = x->s[x->at];
    fl_ttoken t = {.kind = FL_TT_OPERATOR, .data = x->s + x->at, .len = 1, .op = (uint8_t)c};
    for (size_t i = 0; i < sizeof(two) / sizeof(two[0]); i++) {
        if (!starts_with(x, x->at, two[i].text)) continue;
        t.len = 2;
        t.op = (uint8_t)two[i].op;
    }
    if (t.len == 1 && (!c || !strchr("+-/*%~[](){}><=.:|,;", c)))
        return fl_t_syntax(x->p, x->line, "unexpected character '%c'", c < 32 ? '?' : c);
    if (strchr("([{", c)) {
        if (*n_brackets == MAX_BRACKETS) {
            fl_fail(x->p->err, FL_E_LIMIT, "template line %d: more than %d open brackets", x->line,
                    MAX_BRACKETS);
            return false;
        }
        brackets[(*n_brackets)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!*n_brackets || brackets[--*n_brackets] != c)
            return fl_t_syntax(x->p, x->line, "unexpected '%c'", c);
    }
    if (!add_token(x, t)) return false;
    x->at += t.len;
    return true;
}

/* The inside of {{ }} or {% %} and the closing tag. */
static bool lex_code(lexer *x, bool is_output) {
    const char *close = is_output ? "}}" : "%}";
    char brackets[MAX_BRACKETS];
    int n_brackets = 0;
    bool ok = true;
    while (ok) {
        advance(x, skip_space(x, x->at));
        if (x->at >= x->n) return fl_t_syntax(x->p, x->line, "tag without '%s'", close);
        char c = x->s[x->at];
        char sign = c == '-' || (c == '+' && !is_output) ? c : 0;
        if (!n_brackets && starts_with(x, x->at + (sign != 0), close)) {
            fl_ttoken t = {.kind = is_output ? FL_TT_OUTPUT_END : FL_TT_BLOCK_END};
            if (!add_token(x, t)) return false;
            close_tag(x, x->at + (sign != 0) + 2, sign, !is_output);
            return true;
        }
        if (c == '\'' || c == '"') {
            ok = lex_string(x);
        } else if (is_digit(x, x->at)) {
            ok = lex_number(x);
        } else if (is_name_byte(c)) {
            ok = lex_name(x);
        } else {
            ok = lex_operator(x, brackets, &n_brackets);
        }
    }
    return false;
}

/* Text, then one tag.  *more: not at the end yet. */
static bool lex_one(lexer *x, bool *more) {
    size_t tag = x->at;
    while (tag + 1 < x->n && !(x->s[tag] == '{' && strchr("{%#", x->s[tag + 1]) && x->s[tag + 1]))
        tag++;
    *more = tag + 1 < x->n;
    if (!*more) {
        bool ok = add_text(x, x->n);
        advance(x, x->n);
        return ok;
    }
    char kind = x->s[tag + 1], sign = tag + 2 < x->n ? x->s[tag + 2] : 0;
    if (sign != '-' && sign != '+') sign = 0;
    if (!add_text(x, cut_text(x, tag, sign, kind == '{'))) return false;
    advance(x, tag + 2 + (sign != 0));
    if (kind == '#') return lex_comment(x);
    char close;
    size_t raw = kind == '%' ? match_tag(x, x->at, "raw", &close) : 0;
    if (raw && close != '+') {
        close_tag(x, raw, close, false);
        return lex_raw(x);
    }
    fl_ttoken t = {.kind = kind == '{' ? FL_TT_OUTPUT_BEGIN : FL_TT_BLOCK_BEGIN};
    return add_token(x, t) && lex_code(x, kind == '{');
}

/* A copy with every line end as \n, without the last one. */
static char *normalize(fl_tparser *p, const char *source, size_t n, size_t *out_n) {
    char *s = fl_t_tree_alloc(p, n + 1);
    size_t k = 0;
    for (size_t i = 0; s && i < n; i++) {
        s[k++] = source[i] == '\r' ? '\n' : source[i];
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') i++;
    }
    *out_n = k && s[k - 1] == '\n' ? k - 1 : k;
    return s;
}

bool fl_t_lex(fl_tparser *p, const char *source, size_t n) {
    lexer x = {.p = p, .line = 1, .line_start = true};
    if (!fl_utf8_valid(source, n)) {
        fl_fail(p->err, FL_E_FORMAT, "template: not valid UTF-8");
        return false;
    }
    if (!(x.s = normalize(p, source, n, &x.n))) return false;
    for (bool more = true; more;)
        if (!lex_one(&x, &more)) return false;
    return add_token(&x, (fl_ttoken){.kind = FL_TT_END});
}
