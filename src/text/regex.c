#include "text/regex.h"

#include <stdbool.h>
#include <string.h>

#include "text/unicode.h"
#include "util/mem.h"

enum { MAX_PATTERN_BYTES = 8192, MAX_DEPTH = 16, MAX_REPEAT = 1000, NO_MAX = -1 };

typedef struct range {
    uint32_t low, high;
    struct range *next;
} range;

typedef struct set { /* one character: any of the parts, or none when negated */
    uint32_t categories;
    bool space, not_space, negated;
    range *ranges;
    bool ascii[128]; /* the answer for ASCII, filled when the set is complete */
} set;

typedef enum { ITEM_SET, ITEM_GROUP, ITEM_LOOK, ITEM_LINE_END } item_kind;

typedef struct item {
    item_kind kind;
    bool negated;    /* ITEM_LOOK */
    bool possessive; /* ITEM_SET */
    int min, max;    /* repetitions; a group's max is 1 */
    set *set;
    struct alternative *alternatives;
    struct item *next;
} item;

typedef struct alternative {
    item *first;
    struct alternative *next;
} alternative;

struct fl_regex {
    alternative *alternatives;
    fl_arena nodes;
};

/* ---- compile ---- */

typedef struct parser {
    const char *start, *at, *end;
    fl_arena *nodes;
    fl_err *err;
    bool ignore_case;
    int depth;
} parser;

static int refuse(const parser *p, int code, const char *what) {
    return fl_fail(p->err, code, "regular expression, byte %lld: %s", (long long)(p->at - p->start),
                   what);
}

static int no_memory(const parser *p) {
    return fl_fail(p->err, FL_E_NOMEM, "no memory for a regular expression");
}

static bool next_is(const parser *p, char c) {
    return p->at < p->end && *p->at == c;
}

static bool take(parser *p, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

static uint32_t take_code_point(parser *p) {
    size_t n;
    uint32_t cp = fl_uc_get(p->at, &n);
    p->at += n;
    return cp;
}

static int add_range(parser *p, set *s, uint32_t low, uint32_t high) {
    range *r = fl_arena_alloc(p->nodes, sizeof(*r));
    if (!r) return no_memory(p);
    *r = (range){low, high, s->ranges};
    s->ranges = r;
    return FL_OK;
}

static int add_code_point(parser *p, set *s, uint32_t cp) {
    int rc = add_range(p, s, cp, cp);
    if (rc || !p->ignore_case) return rc;
    if (cp > 127) return refuse(p, FL_E_UNSUPPORTED, "non-ASCII character under (?i");
    uint32_t lower = cp | 32;
    if (lower < 'a' || lower > 'z') return FL_OK;
    if ((rc = add_range(p, s, cp ^ 32, cp ^ 32))) return rc;
    /* U+017F and U+212A fold to s and k */
    if (lower == 's') return add_range(p, s, 0x17f, 0x17f);
    if (lower == 'k') return add_range(p, s, 0x212a, 0x212a);
    return FL_OK;
}

/* Behind \p or \P. */
static int parse_property(parser *p, set *s, bool negated) {
    if (!take(p, "{")) return refuse(p, FL_E_UNSUPPORTED, "\\p without braces");
    const char *name = p->at, *close = memchr(name, '}', (size_t)(p->end - name));
    if (!close) return refuse(p, FL_E_FORMAT, "\\p{ without }");
    if (*name == '^') {
        name++;
        negated = !negated;
    }
    uint32_t categories = fl_uc_categories(name, (size_t)(close - name));
    if (!categories) return refuse(p, FL_E_UNSUPPORTED, "property that is no general category");
    s->categories |= negated ? ~categories : categories;
    p->at = close + 1;
    return FL_OK;
}

static int parse_hex(parser *p, int digits, uint32_t *cp) {
    *cp = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        char c = p->at < p->end ? *p->at : ' ', lower = (char)(c | 32);
        if (c >= '0' && c <= '9') {
            *cp = *cp * 16 + (uint32_t)(c - '0');
        } else if (lower >= 'a' && lower <= 'f') {
            *cp = *cp * 16 + (uint32_t)(lower - 'a' + 10);
        } else {
            return refuse(p, FL_E_FORMAT, "hex digit expected");
        }
    }
    if (*cp >= 0xd800 && *cp < 0xe000) return refuse(p, FL_E_FORMAT, "surrogate");
    if (digits == 2 && *cp > 127) return refuse(p, FL_E_UNSUPPORTED, "\\x above 7f");
    return FL_OK;
}

/* Behind a backslash.  A class is added to s and *is_class set, else *cp is the character. */
static int parse_escape(parser *p, set *s, bool *is_class, uint32_t *cp) {
    static const char from[] = "rntfv", to[] = "\r\n\t\f\v";
    if (p->at >= p->end) return refuse(p, FL_E_FORMAT, "backslash at the end");
    uint32_t c = take_code_point(p);
    *is_class = true;
    switch (c) {
    case 's':
        s->space = true;
        return FL_OK;
    case 'S':
        s->not_space = true;
        return FL_OK;
    case 'd':
        s->categories |= 1u << FL_UC_ND;
        return FL_OK;
    case 'p':
    case 'P':
        return parse_property(p, s, c == 'P');
    default:
        break;
    }
    *is_class = false;
    *cp = c;
    if (c == 'x' || c == 'u') return parse_hex(p, c == 'x' ? 2 : 4, cp);
    const char *found = c && c < 128 ? strchr(from, (int)c) : NULL;
    if (found) {
        *cp = (uint32_t)to[found - from];
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
        return refuse(p, FL_E_UNSUPPORTED, "unknown escape");
    }
    return FL_OK;
}

static bool set_test(const set *s, uint32_t cp) {
    uint8_t prop = fl_uc_prop(cp);
    bool white = prop & FL_UC_WHITE_SPACE;
    bool in = s->categories >> (prop & FL_UC_CATEGORY_MASK) & 1;
    in = in || (s->space && white) || (s->not_space && !white);
    for (const range *r = s->ranges; r && !in; r = r->next) in = cp >= r->low && cp <= r->high;
    return in != s->negated;
}

/* One member of [...]: a class, a character or a range. */
static int parse_member(parser *p, set *s) {
    uint32_t low, high;
    bool is_class = false;
    int rc;
    if (next_is(p, '[') || (p->end - p->at > 1 && !memcmp(p->at, "&&", 2)))
        return refuse(p, FL_E_UNSUPPORTED, "set inside a set");
    if (take(p, "\\")) {
        if ((rc = parse_escape(p, s, &is_class, &low)) || is_class) return rc;
    } else {
        low = take_code_point(p);
    }
    if (!next_is(p, '-') || p->end - p->at < 2 || p->at[1] == ']') return add_code_point(p, s, low);
    p->at++;
    if (take(p, "\\")) {
        if ((rc = parse_escape(p, s, &is_class, &high))) return rc;
    } else {
        high = take_code_point(p);
    }
    if (is_class || high < low) return refuse(p, FL_E_FORMAT, "bad range");
    if (p->ignore_case) return refuse(p, FL_E_UNSUPPORTED, "range under (?i");
    return add_range(p, s, low, high);
}

/* Behind '['. */
static int parse_set(parser *p, set *s) {
    bool negated = take(p, "^");
    if (next_is(p, ']')) return refuse(p, FL_E_UNSUPPORTED, "']' first in a set");
    while (!next_is(p, ']')) {
        if (p->at >= p->end) return refuse(p, FL_E_FORMAT, "'[' without ']'");
        int rc = parse_member(p, s);
        if (rc) return rc;
    }
    p->at++;
    s->negated = negated;
    return FL_OK;
}

static int parse_alternatives(parser *p, alternative **out);

/* Behind '('. */
static int parse_group(parser *p, item *it) {
    bool saved = p->ignore_case;
    it->kind = ITEM_GROUP;
    if (take(p, "?!")) {
        it->kind = ITEM_LOOK;
        it->negated = true;
    } else if (take(p, "?=")) {
        it->kind = ITEM_LOOK;
    } else if (take(p, "?i:")) {
        p->ignore_case = true;
    } else if (!take(p, "?:") && next_is(p, '?')) {
        return refuse(p, FL_E_UNSUPPORTED, "unknown kind of group");
    }
    if (++p->depth > MAX_DEPTH) return refuse(p, FL_E_LIMIT, "groups nested too deeply");
    int rc = parse_alternatives(p, &it->alternatives);
    if (rc) return rc;
    p->depth--;
    if (!take(p, ")")) return refuse(p, FL_E_FORMAT, "'(' without ')'");
    p->ignore_case = saved;
    return FL_OK;
}

static int parse_number(parser *p, int *out) {
    if (p->at >= p->end || *p->at < '0' || *p->at > '9')
        return refuse(p, FL_E_UNSUPPORTED, "number expected in {..}");
    for (*out = 0; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++) {
        *out = *out * 10 + (*p->at - '0');
        if (*out > MAX_REPEAT) return refuse(p, FL_E_LIMIT, "more than 1000 repetitions");
    }
    return FL_OK;
}

static int parse_quantifier(parser *p, item *it) {
    int rc;
    bool counted = false;
    it->min = it->max = 1;
    if (take(p, "*")) {
        it->min = 0;
        it->max = NO_MAX;
    } else if (take(p, "+")) {
        it->max = NO_MAX;
    } else if (take(p, "?")) {
        it->min = 0;
    } else if (take(p, "{")) {
        counted = true;
        if ((rc = parse_number(p, &it->min))) return rc;
        it->max = it->min;
        if (take(p, ",")) {
            it->max = NO_MAX;
            if (!next_is(p, '}') && (rc = parse_number(p, &it->max))) return rc;
        }
        if (!take(p, "}")) return refuse(p, FL_E_FORMAT, "'{' without '}'");
        if (it->max != NO_MAX && it->max < it->min) return refuse(p, FL_E_FORMAT, "bad {..}");
    } else {
        return FL_OK;
    }
    if (next_is(p, '?')) return refuse(p, FL_E_UNSUPPORTED, "lazy quantifier");
    /* in the reference engine's syntax x{1,2}+ repeats x{1,2} */
    if (counted && next_is(p, '+'))
        return refuse(p, FL_E_UNSUPPORTED, "quantifier of a quantifier");
    it->possessive = take(p, "+");
    if (it->kind == ITEM_SET) return FL_OK;
    if (it->kind != ITEM_GROUP || it->max != 1 || it->possessive)
        return refuse(p, FL_E_UNSUPPORTED, "repeated group or '$'");
    return FL_OK;
}

static int parse_item(parser *p, item *it) {
    int rc = FL_OK;
    if (take(p, "(")) {
        rc = parse_group(p, it);
        return rc ? rc : parse_quantifier(p, it);
    }
    if (take(p, "$")) {
        it->kind = ITEM_LINE_END;
        return parse_quantifier(p, it);
    }
    if (*p->at && strchr("*+?{^.", *p->at))
        return refuse(p, FL_E_UNSUPPORTED, "anchor, '.' or quantifier of nothing");
    set *s = it->set = fl_arena_alloc(p->nodes, sizeof(*s));
    if (!s) return no_memory(p);
    uint32_t cp = 0;
    bool is_class = false;
    if (take(p, "[")) {
        rc = parse_set(p, s);
        is_class = true;
    } else if (take(p, "\\")) {
        rc = parse_escape(p, s, &is_class, &cp);
    } else {
        cp = take_code_point(p);
    }
    if (!rc && !is_class) rc = add_code_point(p, s, cp);
    if (rc) return rc;
    for (uint32_t c = 0; c < 128; c++) s->ascii[c] = set_test(s, c);
    return parse_quantifier(p, it);
}

static int parse_alternatives(parser *p, alternative **out) {
    alternative **last = out;
    do {
        alternative *a = *last = fl_arena_alloc(p->nodes, sizeof(*a));
        if (!a) return no_memory(p);
        last = &a->next;
        for (item **tail = &a->first; p->at < p->end && *p->at != '|' && *p->at != ')';) {
            item *it = fl_arena_alloc(p->nodes, sizeof(*it));
            if (!it) return no_memory(p);
            int rc = parse_item(p, it);
            if (rc) return rc;
            *tail = it;
            tail = &it->next;
        }
    } while (take(p, "|"));
    return FL_OK;
}

static bool can_be_empty(const alternative *a) {
    for (; a; a = a->next) {
        const item *it = a->first;
        while (it && (it->min == 0 || it->kind == ITEM_LOOK || it->kind == ITEM_LINE_END ||
                      (it->kind == ITEM_GROUP && can_be_empty(it->alternatives))))
            it = it->next;
        if (!it) return true;
    }
    return false;
}

int fl_regex_compile(fl_regex **out, const char *pattern, size_t n, fl_err *err) {
    *out = NULL;
    if (n > MAX_PATTERN_BYTES)
        return fl_fail(err, FL_E_LIMIT, "regular expression of %zu bytes, at most %d", n,
                       MAX_PATTERN_BYTES);
    fl_regex *r = fl_alloc(sizeof(*r));
    if (!r) return fl_fail(err, FL_E_NOMEM, "no memory for a regular expression");
    parser p = {
        .start = pattern, .at = pattern, .end = pattern + n, .nodes = &r->nodes, .err = err};
    int rc = parse_alternatives(&p, &r->alternatives);
    if (!rc && p.at < p.end) rc = refuse(&p, FL_E_FORMAT, "')' without '('");
    if (!rc && can_be_empty(r->alternatives))
        rc = refuse(&p, FL_E_UNSUPPORTED, "it can match the empty string");
    if (!rc) {
        *out = r;
        r = NULL;
    }
    fl_regex_free(r);
    return rc;
}

void fl_regex_free(fl_regex *r) {
    if (!r) return;
    fl_arena_free(&r->nodes);
    fl_free(r);
}

/* ---- match ---- */

typedef struct matcher {
    const char *s;
    size_t n;
    int64_t steps;
} matcher;

/* What follows the group we are in. */
typedef struct rest {
    const item *it;
    const struct rest *outer;
} rest;

#define NO_MATCH SIZE_MAX

static inline bool set_at(const set *s, const char *p, size_t *n) {
    if ((uint8_t)*p < 0x80) {
        *n = 1;
        return s->ascii[(uint8_t)*p];
    }
    return set_test(s, fl_uc_get(p, n));
}

static size_t match_items(matcher *m, const item *it, const rest *after, size_t at);

static size_t match_any(matcher *m, const alternative *a, const rest *after, size_t at) {
    size_t end = NO_MATCH;
    for (; a && end == NO_MATCH; a = a->next) end = match_items(m, a->first, after, at);
    return end;
}

/* Take as many as there are; *count tells how many. */
static size_t match_set(matcher *m, const item *it, size_t at, int64_t *count) {
    size_t n;
    for (*count = 0; at < m->n && *count != it->max && set_at(it->set, m->s + at, &n); at += n)
        ++*count;
    m->steps -= *count + 1;
    return at;
}

static size_t match_items(matcher *m, const item *it, const rest *after, size_t at) {
    for (;; it = it->next) {
        while (!it && after) {
            it = after->it;
            after = after->outer;
        }
        if (!it) return at;
        if (m->steps <= 0) return NO_MATCH;
        if (it->kind == ITEM_LOOK) {
            bool found = match_any(m, it->alternatives, NULL, at) != NO_MATCH;
            if (found == it->negated) return NO_MATCH;
        } else if (it->kind == ITEM_LINE_END) {
            if (at < m->n && m->s[at] != '\n') return NO_MATCH;
        } else if (it->kind == ITEM_GROUP) {
            rest here = {it->next, after};
            size_t end = match_any(m, it->alternatives, &here, at);
            if (end != NO_MATCH || it->min) return end;
        } else {
            int64_t count;
            at = match_set(m, it, at, &count);
            if (count < it->min) return NO_MATCH;
            if (it->possessive || (!it->next && !after)) continue;
            for (; count > it->min; count--, m->steps--) {
                size_t end = match_items(m, it->next, after, at);
                if (end != NO_MATCH || m->steps <= 0) return end;
                at = fl_uc_back(m->s, at);
            }
        }
    }
}

int fl_regex_find(const fl_regex *r, const char *s, size_t n, size_t *begin, size_t *end,
                  int64_t *steps) {
    matcher m = {s, n, *steps};
    int found = 0;
    for (size_t at = *begin, bytes; at < n && m.steps > 0 && !found; at += bytes) {
        *end = match_any(&m, r->alternatives, NULL, at);
        found = *end != NO_MATCH;
        *begin = at;
        fl_uc_get(s + at, &bytes);
    }
    *steps = m.steps;
    return m.steps > 0 ? found : FL_E_LIMIT;
}
