#include "formats/module_pattern.h"

#include <limits.h>
#include <string.h>

enum {
    MAX_PATTERN = 512,
    MAX_NESTING = 16,
    MAX_REPEAT = 1000,
    MAX_STEPS = 1000000,
    MAX_DEPTH = 5000
};

/* The expression behind "re:", NULL: a plain name. */
static const char *expression(const char *pattern) {
    return strncmp(pattern, "re:", 3) ? NULL : pattern + 3;
}

/* ---- reading ----  These are used on checked patterns, so that every part is complete. */

/* Behind '[' to behind ']'. */
static const char *set_end(const char *p) {
    if (*p == '^') p++;
    do {
        if (*p == '\\' && p[1]) p++;
        if (*p) p++;
    } while (*p && *p != ']');
    return *p ? p + 1 : p;
}

static const char *atom_end(const char *p) {
    if (*p == '\\') return p + 2;
    if (*p == '[') return set_end(p + 1);
    if (*p != '(') return p + 1;
    for (int depth = 0; *p;) {
        depth += (*p == '(') - (*p == ')');
        p = *p == '(' || *p == ')' ? p + 1 : atom_end(p);
        if (!depth) break;
    }
    return p;
}

typedef struct repeat {
    int min, max;
    bool lazy;
} repeat;

static int number(const char **p) {
    int n = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++) n = n > MAX_REPEAT ? n : n * 10 + (**p - '0');
    return n;
}

static repeat read_repeat(const char **at) {
    const char *p = *at;
    repeat r = {1, 1, false};
    if (*p == '*' || *p == '+' || *p == '?') {
        r.min = *p == '+';
        r.max = *p == '?' ? 1 : INT_MAX;
        p++;
    } else if (*p == '{') {
        p++;
        r.min = r.max = number(&p);
        if (*p == ',') {
            p++;
            r.max = *p == '}' ? INT_MAX : number(&p);
        }
        p++;
    } else {
        return r;
    }
    r.lazy = *p == '?';
    *at = p + r.lazy;
    return r;
}

/* ---- the check ---- */

static int refuse(const char *pattern, const char *at, int code, const char *what, fl_err *err) {
    return fl_fail(err, code, "pattern '%.100s', byte %d: %s", pattern, (int)(at - pattern), what);
}

static int check_brace(const char *pattern, const char *p, fl_err *err) {
    const char *at = p + 1;
    int min = number(&at), max = min;
    if (at == p + 1) return refuse(pattern, p, FL_E_FORMAT, "a number must follow {", err);
    if (*at == ',') {
        at++;
        max = *at == '}' ? INT_MAX : number(&at);
    }
    if (*at != '}') return refuse(pattern, p, FL_E_FORMAT, "'{' without '}'", err);
    if (max < min) return refuse(pattern, p, FL_E_FORMAT, "more at least than at most", err);
    if (min > MAX_REPEAT || (max != INT_MAX && max > MAX_REPEAT))
        return refuse(pattern, p, FL_E_LIMIT, "more than 1000 repetitions", err);
    return FL_OK;
}

/* One atom without its quantifier; groups only open and close. */
static int check_atom(const char *pattern, const char *p, fl_err *err) {
    static const char letters[] = "dDwWsSntr";
    if (strchr("*+?{", *p)) return refuse(pattern, p, FL_E_FORMAT, "nothing to repeat", err);
    if (*p == '[') {
        const char *end = set_end(p + 1);
        if (end[-1] != ']' || end - p < 3)
            return refuse(pattern, p, FL_E_FORMAT, "'[' without ']'", err);
    }
    if (*p == '(' && p[1] == '?' && p[2] != ':')
        return refuse(pattern, p, FL_E_UNSUPPORTED, "only (?:..) of the special groups", err);
    if (*p != '\\') return FL_OK;
    char c = p[1];
    if (!c) return refuse(pattern, p, FL_E_FORMAT, "backslash at the end", err);
    bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (word && !strchr(letters, c))
        return refuse(pattern, p, FL_E_UNSUPPORTED, "unknown escape", err);
    return FL_OK;
}

int fl_module_pattern_check(const char *pattern, fl_err *err) {
    int depth = 0, rc;
    const char *p = expression(pattern);
    if (!*pattern || (p && !*p)) return refuse(pattern, pattern, FL_E_FORMAT, "empty", err);
    if (!p) return FL_OK;
    if (strlen(p) > MAX_PATTERN)
        return refuse(pattern, pattern, FL_E_LIMIT, "longer than 512 bytes", err);
    while (*p) {
        const char *next = p + 1;
        if ((rc = check_atom(pattern, p, err))) return rc;
        depth += (*p == '(') - (*p == ')');
        if (depth < 0) return refuse(pattern, p, FL_E_FORMAT, "')' without '('", err);
        if (depth > MAX_NESTING)
            return refuse(pattern, p, FL_E_LIMIT, "groups nested too deeply", err);
        if (*p == '(') {
            p += p[1] == '?' ? 3 : 1;
            continue;
        }
        if (*p == '\\' || *p == '[') next = atom_end(p);
        bool repeats = !strchr("|^$", *p);
        p = next;
        if (!repeats || !*p || !strchr("*+?{", *p)) continue;
        if (*p == '{' && (rc = check_brace(pattern, p, err))) return rc;
        read_repeat(&p);
    }
    if (depth) return refuse(pattern, p, FL_E_FORMAT, "'(' without ')'", err);
    return FL_OK;
}

/* ---- matching ---- */

static bool escape_matches(char kind, char c) {
    bool digit = c >= '0' && c <= '9';
    bool word = digit || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    bool space = c == ' ' || (c >= '\t' && c <= '\r');
    switch (kind) {
    case 'd':
        return digit;
    case 'D':
        return !digit;
    case 'w':
        return word;
    case 'W':
        return !word;
    case 's':
        return space;
    case 'S':
        return !space;
    case 'n':
        return c == '\n';
    case 't':
        return c == '\t';
    case 'r':
        return c == '\r';
    default:
        return c == kind;
    }
}

static bool set_matches(const char *p, char c) {
    const char *end = set_end(p) - 1;
    bool negated = *p == '^', in = false;
    for (p += negated; p < end; p++) {
        if (*p == '\\') {
            in |= escape_matches(*++p, c);
        } else if (p[1] == '-' && p + 2 < end) {
            in |=
                (unsigned char)c >= (unsigned char)p[0] && (unsigned char)c <= (unsigned char)p[2];
            p += 2;
        } else {
            in |= c == *p;
        }
    }
    return in != negated;
}

static bool char_matches(const char *p, char c) {
    if (!c) return false;
    if (*p == '.') return c != '\n';
    if (*p == '\\') return escape_matches(p[1], c);
    if (*p == '[') return set_matches(p + 1, c);
    return *p == c;
}

typedef struct matcher {
    const char *text;
    int steps, depth;
} matcher;

/* What follows when the inside of a group has matched. */
typedef struct group {
    const char *body, *body_end, *rest, *rest_end;
    repeat times;
    int count;
    const char *entered; /* where this round began */
    const struct group *outer;
} group;

static bool alternatives(matcher *m, const char *p, const char *end, const char *s,
                         const group *inside);
static bool sequence(matcher *m, const char *p, const char *end, const char *s,
                     const group *inside);

static bool another_round(matcher *m, const group *g, const char *s) {
    group next = *g;
    next.count++;
    next.entered = s;
    return alternatives(m, g->body, g->body_end, s, &next);
}

/* Behind g->count rounds of a group: more of them, or on with what follows. */
static bool after_round(matcher *m, const group *g, const char *s) {
    /* a round that took nothing would go on for ever */
    bool more =
        g->count < g->times.max && (g->count < g->times.min || s != g->entered || !g->count);
    bool enough = g->count >= g->times.min;
    if (g->times.lazy && enough && sequence(m, g->rest, g->rest_end, s, g->outer)) return true;
    if (more && another_round(m, g, s)) return true;
    return !g->times.lazy && enough && sequence(m, g->rest, g->rest_end, s, g->outer);
}

static bool repeated_char(matcher *m, const char *atom, repeat r, const char *p, const char *end,
                          const char *s, const group *inside) {
    int n = 0;
    while (n < r.min && char_matches(atom, s[n])) n++;
    if (n < r.min) return false;
    if (r.lazy) {
        while (!sequence(m, p, end, s + n, inside)) {
            if (n >= r.max || !char_matches(atom, s[n])) return false;
            n++;
        }
        return true;
    }
    while (n < r.max && char_matches(atom, s[n])) n++;
    for (; n >= r.min; n--) {
        if (sequence(m, p, end, s + n, inside)) return true;
    }
    return false;
}

static bool one_step(matcher *m, const char *p, const char *end, const char *s,
                     const group *inside) {
    if (p == end) return !inside || after_round(m, inside, s);
    if (*p == '^') return s == m->text && sequence(m, p + 1, end, s, inside);
    if (*p == '$') return !*s && sequence(m, p + 1, end, s, inside);
    const char *behind = atom_end(p), *close = behind;
    repeat r = read_repeat(&behind);
    if (*p != '(') return repeated_char(m, p, r, behind, end, s, inside);
    group g = {.body = p[1] == '?' ? p + 3 : p + 1,
               .body_end = close - 1,
               .rest = behind,
               .rest_end = end,
               .times = r,
               .entered = s,
               .outer = inside};
    return after_round(m, &g, s);
}

static bool sequence(matcher *m, const char *p, const char *end, const char *s,
                     const group *inside) {
    if (m->steps-- <= 0 || m->depth >= MAX_DEPTH) return false;
    m->depth++;
    bool ok = one_step(m, p, end, s, inside);
    m->depth--;
    return ok;
}

static bool alternatives(matcher *m, const char *p, const char *end, const char *s,
                         const group *inside) {
    for (;;) {
        const char *bar = p;
        while (bar < end && *bar != '|') bar = atom_end(bar);
        if (sequence(m, p, bar, s, inside)) return true;
        if (bar == end) return false;
        p = bar + 1;
    }
}

bool fl_module_pattern_match(const char *pattern, const char *module) {
    const char *p = expression(pattern);
    if (!p) return !strcmp(pattern, module);
    matcher m = {.text = module, .steps = MAX_STEPS};
    return alternatives(&m, p, p + strlen(p), module, NULL);
}
