#include "text/regex.h"

#include <limits.h>
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
    bool space, not_space, word, not_word, negated;
    bool alone; /* an escape that stands outside of [] */
    range *ranges;
    struct set *inner, *next; /* sets among the parts, and the next of those */
    struct set *also;         /* behind &&: the character must be of that one, too */
    bool ascii[128];          /* the answer for ASCII, filled when the set is complete */
} set;

typedef enum {
    ITEM_SET,
    ITEM_GROUP,
    ITEM_LOOK,
    ITEM_BEHIND,
    ITEM_LINE_START,
    ITEM_LINE_END,
    ITEM_HERE /* ends a look behind: where that began */
} item_kind;

typedef struct width {
    int min, max;
} width;

typedef struct item {
    item_kind kind;
    bool negated;    /* ITEM_LOOK, ITEM_BEHIND */
    bool possessive; /* ITEM_SET */
    int min, max;    /* repetitions; a group's max is 1 */
    width behind;    /* ITEM_BEHIND: characters that the alternatives match */
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
    case 'D':
        s->categories |= ~(1u << FL_UC_ND);
        return FL_OK;
    case 'w':
        s->word = true;
        return FL_OK;
    case 'W':
        s->not_word = true;
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

/* \w of the reference engine has no Join_Control; outside of [] it has those numbers of Latin-1
 * that are no digits. */
static bool is_word(uint32_t cp, bool alone) {
    if (alone && (cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || (cp >= 0xbc && cp <= 0xbe)))
        return true;
    return cp != 0x200c && cp != 0x200d && fl_uc_is_word(cp);
}

static bool set_test(const set *s, uint32_t cp) {
    uint8_t prop = fl_uc_prop(cp);
    bool white = prop & FL_UC_WHITE_SPACE;
    bool in = s->categories >> (prop & FL_UC_CATEGORY_MASK) & 1;
    in = in || (s->space && white) || (s->not_space && !white);
    if (!in && (s->word || s->not_word)) in = is_word(cp, s->alone) ? s->word : s->not_word;
    for (const range *r = s->ranges; r && !in; r = r->next) in = cp >= r->low && cp <= r->high;
    for (const set *i = s->inner; i && !in; i = i->next) in = set_test(i, cp);
    if (s->also) in = in && set_test(s->also, cp);
    return in != s->negated;
}

static int parse_set(parser *p, set *s);

/* Behind a '[': ":name:]", where other text that begins with ':' is a set like others. */
static bool is_named_class(const parser *p) {
    const char *at = p->at;
    if (at == p->end || *at++ != ':') return false;
    if (at < p->end && *at == '^') at++;
    while (at < p->end && *at >= 'a' && *at <= 'z') at++;
    return p->end - at >= 2 && at[0] == ':' && at[1] == ']';
}

/* Behind the '[' of a set among the parts of s. */
static int parse_inner(parser *p, set *s) {
    set *inner = fl_arena_alloc(p->nodes, sizeof(*inner));
    if (!inner) return no_memory(p);
    if (is_named_class(p)) return refuse(p, FL_E_UNSUPPORTED, "[:name:] in a set");
    if (++p->depth > MAX_DEPTH) return refuse(p, FL_E_LIMIT, "sets nested too deeply");
    int rc = parse_set(p, inner);
    p->depth--;
    inner->next = s->inner;
    s->inner = inner;
    return rc;
}

/* One member of [...]: a class, a character or a range. */
static int parse_member(parser *p, set *s) {
    uint32_t low, high;
    bool is_class = false;
    int rc;
    if (take(p, "[")) return parse_inner(p, s);
    if (take(p, "\\")) {
        if ((rc = parse_escape(p, s, &is_class, &low)) || is_class) return rc;
    } else {
        low = take_code_point(p);
    }
    if (!next_is(p, '-') || p->end - p->at < 2 || p->at[1] == ']') return add_code_point(p, s, low);
    p->at++;
    if (next_is(p, '[')) return refuse(p, FL_E_UNSUPPORTED, "range that ends in a set");
    if (take(p, "\\")) {
        if ((rc = parse_escape(p, s, &is_class, &high))) return rc;
    } else {
        high = take_code_point(p);
    }
    if (is_class || high < low) return refuse(p, FL_E_FORMAT, "bad range");
    if (p->ignore_case) return refuse(p, FL_E_UNSUPPORTED, "range under (?i");
    return add_range(p, s, low, high);
}

/* Behind '['.  && binds less than the parts between: [a-z&&[^c]d] is a-z and (not c, or d). */
static int parse_set(parser *p, set *s) {
    s->negated = take(p, "^");
    if (next_is(p, ']')) return refuse(p, FL_E_UNSUPPORTED, "']' first in a set");
    const char *operand = p->at;
    for (set *part = s; !next_is(p, ']');) {
        if (p->at >= p->end) return refuse(p, FL_E_FORMAT, "'[' without ']'");
        if (!take(p, "&&")) {
            int rc = parse_member(p, part);
            if (rc) return rc;
            continue;
        }
        if (p->at - operand == 2 || next_is(p, ']') || next_is(p, '&'))
            return refuse(p, FL_E_UNSUPPORTED, "&& without two sides");
        operand = p->at;
        part = part->also = fl_arena_alloc(p->nodes, sizeof(*part));
        if (!part) return no_memory(p);
    }
    p->at++;
    return FL_OK;
}

static int parse_alternatives(parser *p, alternative **out);

/* How many characters the alternatives match; false: no bound. */
static bool widths(const alternative *a, width *out) {
    *out = (width){INT_MAX, 0};
    for (; a; a = a->next) {
        int64_t min = 0, max = 0;
        for (const item *it = a->first; it; it = it->next) {
            width one = {1, 1};
            if (it->kind == ITEM_GROUP && !widths(it->alternatives, &one)) return false;
            if (it->kind != ITEM_GROUP && it->kind != ITEM_SET) one = (width){0, 0};
            if (it->kind == ITEM_SET && it->max == NO_MAX) return false;
            min += (int64_t)one.min * it->min;
            max += (int64_t)one.max * it->max;
        }
        if (max > INT_MAX) return false;
        if (min < out->min) out->min = (int)min;
        if (max > out->max) out->max = (int)max;
    }
    return true;
}

/* Behind '('. */
static int parse_group(parser *p, item *it) {
    bool saved = p->ignore_case;
    it->kind = ITEM_GROUP;
    if (take(p, "?!")) {
        it->kind = ITEM_LOOK;
        it->negated = true;
    } else if (take(p, "?=")) {
        it->kind = ITEM_LOOK;
    } else if (take(p, "?<!")) {
        it->kind = ITEM_BEHIND;
        it->negated = true;
    } else if (take(p, "?<=")) {
        it->kind = ITEM_BEHIND;
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
    if (it->kind == ITEM_BEHIND &&
        (!widths(it->alternatives, &it->behind) || it->behind.max > MAX_REPEAT))
        return refuse(p, FL_E_UNSUPPORTED, "look behind over any number of characters");
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
        return refuse(p, FL_E_UNSUPPORTED, "repeated group or anchor");
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
    if (take(p, "^")) {
        it->kind = ITEM_LINE_START;
        return parse_quantifier(p, it);
    }
    if (*p->at && strchr("*+?{", *p->at))
        return refuse(p, FL_E_UNSUPPORTED, "quantifier of nothing");
    set *s = it->set = fl_arena_alloc(p->nodes, sizeof(*s));
    if (!s) return no_memory(p);
    uint32_t cp = 0;
    bool is_class = false;
    if (take(p, "[")) {
        rc = parse_set(p, s);
        is_class = true;
    } else if (take(p, "\\")) {
        s->alone = true;
        rc = parse_escape(p, s, &is_class, &cp);
    } else if (take(p, ".")) {
        rc = add_range(p, s, '\n', '\n');
        s->negated = is_class = true;
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
    if (!rc) {
        *out = r;
        r = NULL;
    }
    fl_regex_free(r);
    return rc;
}

/* One item for each character. */
static int literal_items(parser *p, alternative *a) {
    for (item **tail = &a->first; p->at < p->end; tail = &(*tail)->next) {
        item *it = *tail = fl_arena_alloc(p->nodes, sizeof(*it));
        set *s = it ? it->set = fl_arena_alloc(p->nodes, sizeof(*s)) : NULL;
        if (!s) return no_memory(p);
        it->min = it->max = 1;
        uint32_t cp = take_code_point(p);
        int rc = add_range(p, s, cp, cp);
        if (rc) return rc;
        if (cp < 128) s->ascii[cp] = true;
    }
    return FL_OK;
}

int fl_regex_literal(fl_regex **out, const char *text, size_t n, fl_err *err) {
    *out = NULL;
    if (n > MAX_PATTERN_BYTES)
        return fl_fail(err, FL_E_LIMIT, "pattern of %zu bytes, at most %d", n, MAX_PATTERN_BYTES);
    fl_regex *r = fl_alloc(sizeof(*r));
    if (!r) return fl_fail(err, FL_E_NOMEM, "no memory for a pattern");
    parser p = {.start = text, .at = text, .end = text + n, .nodes = &r->nodes, .err = err};
    r->alternatives = fl_arena_alloc(&r->nodes, sizeof(*r->alternatives));
    int rc = r->alternatives ? literal_items(&p, r->alternatives) : no_memory(&p);
    if (rc) {
        fl_regex_free(r);
    } else {
        *out = r;
    }
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
    size_t here; /* where the innermost look behind began */
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

/* Whether the alternatives match something that ends at `at`. */
static bool match_behind(matcher *m, const item *it, size_t at) {
    static const item stop = {.kind = ITEM_HERE};
    const rest end = {&stop, NULL};
    const size_t saved = m->here;
    size_t from = at;
    bool found = false;
    m->here = at;
    for (int chars = 0; !found && m->steps > 0; chars++) {
        if (chars >= it->behind.min) found = match_any(m, it->alternatives, &end, from) != NO_MATCH;
        if (!from || chars == it->behind.max) break;
        from = fl_uc_back(m->s, from);
        m->steps--;
    }
    m->here = saved;
    return found;
}

/* Whether a condition that takes no character holds. */
static bool holds(matcher *m, const item *it, size_t at) {
    switch (it->kind) {
    case ITEM_LOOK:
        return (match_any(m, it->alternatives, NULL, at) != NO_MATCH) != it->negated;
    case ITEM_BEHIND:
        return match_behind(m, it, at) != it->negated;
    case ITEM_LINE_START:
        return !at || (m->s[at - 1] == '\n' && at < m->n);
    case ITEM_LINE_END:
        return at == m->n || m->s[at] == '\n';
    default:
        return at == m->here;
    }
}

static size_t match_items(matcher *m, const item *it, const rest *after, size_t at) {
    for (;; it = it->next) {
        while (!it && after) {
            it = after->it;
            after = after->outer;
        }
        if (!it) return at;
        if (m->steps <= 0) return NO_MATCH;
        if (it->kind == ITEM_GROUP) {
            rest here = {it->next, after};
            size_t end = match_any(m, it->alternatives, &here, at);
            if (end != NO_MATCH || it->min) return end;
        } else if (it->kind != ITEM_SET) {
            if (!holds(m, it, at)) return NO_MATCH;
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

int fl_regex_next(fl_regex_scan *scan, size_t *begin, size_t *end) {
    matcher m = {scan->s, scan->n, *scan->steps, 0};
    int found = 0;
    for (size_t at = scan->from, bytes; at <= m.n && m.steps > 0 && !found; at += bytes) {
        size_t to = match_any(&m, scan->regex->alternatives, NULL, at);
        bytes = 1;
        if (at < m.n) fl_uc_get(m.s + at, &bytes);
        /* nothing may be matched once only, and not where a match has just ended */
        found = m.steps > 0 && to != NO_MATCH && !(to == at && scan->any && to == scan->last);
        if (!found) continue;
        *begin = at;
        *end = scan->from = scan->last = to;
        scan->any = true;
    }
    *scan->steps = m.steps;
    return m.steps > 0 ? found : FL_E_LIMIT;
}
