#include "text/pretok.h"

#include <string.h>

#include "text/unicode.h"
#include "util/bytes.h"

enum { BASE_STEPS = 1000000, STEPS_PER_BYTE = 1000 };

static const char META[] = "\xe2\x96\x81"; /* U+2581 */
enum { META_BYTES = 3 };

const char fl_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static const char pattern_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

int fl_pattern_init(fl_pattern *p, const char *text, size_t n, fl_err *err) {
    *p = (fl_pattern){.kind = FL_PATTERN_REGEX};
    if (n == strlen(fl_pattern_gpt2) && !memcmp(text, fl_pattern_gpt2, n)) {
        p->kind = FL_PATTERN_GPT2;
    } else if (n == strlen(pattern_llama3) && !memcmp(text, pattern_llama3, n)) {
        p->kind = FL_PATTERN_LLAMA3;
    } else {
        return fl_regex_compile(&p->regex, text, n, err);
    }
    return FL_OK;
}

void fl_pretok_deinit(fl_pretok *p) {
    for (int i = 0; i < p->n; i++) fl_regex_free(p->stages[i].pattern.regex);
    p->n = 0;
}

/* ---- matchers by hand: the end of the match that starts at i < n ---- */

static inline size_t run_end(const char *s, size_t i, size_t n, uint8_t class) {
    size_t bytes;
    while (i < n && fl_uc_class_at(s + i, &bytes) == class) i += bytes;
    return i;
}

static inline char ascii_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c | 32) : c;
}

/* Bytes of 's 't 're 've 'm 'll 'd at s + i, where an apostrophe is; 0: none. */
static size_t contraction(const char *s, size_t i, size_t n, bool ignore_case) {
    char a = i + 1 < n ? s[i + 1] : '\0', b = i + 2 < n ? s[i + 2] : '\0';
    if (ignore_case) {
        if (a == '\xc5' && b == '\xbf') return 3; /* U+017F folds to s */
        a = ascii_lower(a);
        b = ascii_lower(b);
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* \s+(?!\S)|\s+ : all white space but the last character, unless the text ends. */
static size_t spaces_end(const char *s, size_t i, size_t n) {
    size_t last = i, at = i, bytes;
    while (at < n && (fl_uc_class_at(s + at, &bytes) & FL_UC_SPACE)) {
        last = at;
        at += bytes;
    }
    return at == n || last == i ? at : last;
}

static size_t gpt2_end(const char *s, size_t i, size_t n) {
    size_t bytes, skip = 0;
    if (s[i] == '\'' && (skip = contraction(s, i, n, false))) return i + skip;
    uint8_t class = fl_uc_class_at(s + i, &bytes);
    if (s[i] == ' ' && i + 1 < n) {
        class = fl_uc_class_at(s + i + 1, &bytes);
        skip = 1;
    }
    if (class & FL_UC_SPACE) return spaces_end(s, i, n);
    return run_end(s, i + skip + bytes, n, class);
}

static size_t newlines_end(const char *s, size_t i, size_t n) {
    while (i < n && (s[i] == '\r' || s[i] == '\n')) i++;
    return i;
}

/* \s*[\r\n]+ : up to the last line end of the white space at i; 0: it has none. */
static size_t line_ends_end(const char *s, size_t i, size_t n) {
    size_t end = 0, bytes;
    for (uint8_t class; i < n && ((class = fl_uc_class_at(s + i, &bytes)) & FL_UC_SPACE);) {
        i += bytes;
        if (class == FL_UC_NEWLINE) end = i;
    }
    return end;
}

static size_t llama3_end(const char *s, size_t i, size_t n) {
    size_t bytes, next_bytes = 0, end;
    uint8_t class = fl_uc_class_at(s + i, &bytes);
    if (class == FL_UC_LETTER) return run_end(s, i + bytes, n, FL_UC_LETTER);
    if (class == FL_UC_NUMBER) {
        end = i + bytes;
        for (int k = 1; k < 3 && end < n && fl_uc_class_at(s + end, &bytes) == FL_UC_NUMBER; k++)
            end += bytes;
        return end;
    }
    if (s[i] == '\'' && (end = contraction(s, i, n, true))) return i + end;
    uint8_t next = i + bytes < n ? fl_uc_class_at(s + i + bytes, &next_bytes) : FL_UC_SPACE;
    if (class != FL_UC_NEWLINE && next == FL_UC_LETTER)
        return run_end(s, i + bytes + next_bytes, n, FL_UC_LETTER);
    if (class == FL_UC_OTHER || (s[i] == ' ' && next == FL_UC_OTHER))
        return newlines_end(s, run_end(s, i + bytes, n, FL_UC_OTHER), n);
    end = line_ends_end(s, i, n);
    return end ? end : spaces_end(s, i, n);
}

/* ---- stages ---- */

typedef struct runner {
    const fl_pretok *pretok;
    fl_word_fn word;
    void *ctx;
    int64_t steps;
    fl_err *err;
} runner;

typedef struct piece {
    const char *s;
    size_t n;
    bool at_start;
} piece;

static int run_stage(runner *r, int stage, piece p);

static inline int pass_on(runner *r, int stage, const piece *p, size_t begin, size_t end) {
    piece part = {p->s + begin, end - begin, p->at_start && !begin};
    if (begin == end) return FL_OK;
    if (stage + 1 == r->pretok->n) return r->word(r->ctx, part.s, part.n, r->err);
    return run_stage(r, stage + 1, part);
}

/* Puts matches and gaps together as the behavior of a Split says. */
typedef struct splitter {
    runner *r;
    int stage;
    const piece *p;
    size_t begin, end; /* what is held back: it may grow */
    bool holds, last;  /* last: the part before was a match */
} splitter;

static int let_go(splitter *s) {
    if (!s->holds) return FL_OK;
    s->holds = false;
    return pass_on(s->r, s->stage, s->p, s->begin, s->end);
}

static int take_part(splitter *s, size_t begin, size_t end, bool match) {
    const fl_stage *st = &s->r->pretok->stages[s->stage];
    bool join = false;
    match = match != st->invert;
    switch (st->behavior) {
    case FL_SPLIT_ISOLATED:
        return pass_on(s->r, s->stage, s->p, begin, end);
    case FL_SPLIT_REMOVED:
        return match ? FL_OK : pass_on(s->r, s->stage, s->p, begin, end);
    case FL_SPLIT_PREVIOUS:
        join = match && !s->last;
        break;
    case FL_SPLIT_NEXT:
        join = !match && s->last;
        break;
    case FL_SPLIT_CONTIGUOUS:
        join = match == s->last;
        break;
    }
    if (s->holds && !join) {
        int rc = let_go(s);
        if (rc) return rc;
    }
    if (!s->holds) s->begin = begin;
    s->end = end;
    s->holds = true;
    s->last = match;
    return FL_OK;
}

static int split_by_regex(splitter *s, const fl_pattern *pattern) {
    const piece *p = s->p;
    fl_regex_scan scan = {.regex = pattern->regex, .s = p->s, .n = p->n, .steps = &s->r->steps};
    size_t done = 0, begin, end;
    int rc;
    while ((rc = fl_regex_next(&scan, &begin, &end)) > 0) {
        if (done < begin && (rc = take_part(s, done, begin, false))) return rc;
        if ((rc = take_part(s, begin, end, true))) return rc;
        done = end;
    }
    if (rc)
        return fl_fail(s->r->err, rc, "split pattern: too many steps on %zu bytes of text", p->n);
    return done < p->n ? take_part(s, done, p->n, false) : FL_OK;
}

static int split(runner *r, int stage, const piece *p) {
    const fl_stage *st = &r->pretok->stages[stage];
    splitter s = {.r = r, .stage = stage, .p = p};
    const bool gpt2 = st->pattern.kind == FL_PATTERN_GPT2;
    int rc = FL_OK;
    if (st->pattern.kind == FL_PATTERN_REGEX) {
        rc = split_by_regex(&s, &st->pattern);
        return rc ? rc : let_go(&s);
    }
    for (size_t begin = 0, end; begin < p->n && !rc; begin = end) {
        end = gpt2 ? gpt2_end(p->s, begin, p->n) : llama3_end(p->s, begin, p->n);
        rc = take_part(&s, begin, end, true);
    }
    return rc ? rc : let_go(&s);
}

/* The reference takes this one class from its language's library, which is at Unicode 17: 13
 * numbers that the tables do not have. */
static bool number_at(const char *s, size_t *bytes) {
    uint8_t class = fl_uc_class_at(s, bytes);
    if (*bytes < 4 || class == FL_UC_NUMBER) return class == FL_UC_NUMBER;
    uint32_t cp = fl_uc_get(s, bytes);
    return (cp >= 0x11de0 && cp <= 0x11de9) || (cp >= 0x16ff4 && cp <= 0x16ff6);
}

static int split_digits(runner *r, int stage, const piece *p) {
    bool alone = r->pretok->stages[stage].kind == FL_STAGE_DIGITS;
    int rc = FL_OK;
    for (size_t begin = 0, end, bytes; begin < p->n && !rc; begin = end) {
        bool number = number_at(p->s + begin, &bytes);
        end = begin + bytes;
        while (end < p->n && !(number && alone) && number_at(p->s + end, &bytes) == number)
            end += bytes;
        rc = pass_on(r, stage, p, begin, end);
    }
    return rc;
}

static int prefix(runner *r, int stage, const piece *p) {
    if (p->s[0] == ' ') return pass_on(r, stage, p, 0, p->n);
    fl_bytes text = {0};
    fl_bytes_putc(&text, ' ');
    fl_bytes_put(&text, p->s, p->n);
    piece whole = {text.data, text.len, p->at_start};
    int rc = text.failed ? fl_fail(r->err, FL_E_NOMEM, "no memory to split text")
                         : pass_on(r, stage, &whole, 0, whole.n);
    fl_bytes_free(&text);
    return rc;
}

static bool meta_at(const char *s, size_t i, size_t n) {
    return n - i >= META_BYTES && !memcmp(s + i, META, META_BYTES);
}

static int cut_before_meta(runner *r, int stage, const piece *p) {
    int rc = FL_OK;
    for (size_t begin = 0, end; begin < p->n && !rc; begin = end) {
        for (end = begin + 1; end < p->n && !meta_at(p->s, end, p->n);) end++;
        rc = pass_on(r, stage, p, begin, end);
    }
    return rc;
}

static int metaspace(runner *r, int stage, const piece *p) {
    const fl_stage *st = &r->pretok->stages[stage];
    fl_bytes text = {0};
    bool has_one = p->s[0] == ' ' || meta_at(p->s, 0, p->n);
    if (!has_one &&
        (st->prepend == FL_PREPEND_ALWAYS || (st->prepend == FL_PREPEND_FIRST && p->at_start)))
        fl_bytes_put(&text, META, META_BYTES);
    for (size_t i = 0; i < p->n; i++)
        fl_bytes_put(&text, p->s[i] == ' ' ? META : p->s + i, p->s[i] == ' ' ? META_BYTES : 1);
    piece whole = {text.data, text.len, p->at_start};
    int rc = text.failed ? fl_fail(r->err, FL_E_NOMEM, "no memory to split text")
             : st->cut   ? cut_before_meta(r, stage, &whole)
                         : pass_on(r, stage, &whole, 0, whole.n);
    fl_bytes_free(&text);
    return rc;
}

static int run_stage(runner *r, int stage, piece p) {
    switch (r->pretok->stages[stage].kind) {
    case FL_STAGE_SPLIT:
        return split(r, stage, &p);
    case FL_STAGE_DIGITS:
    case FL_STAGE_DIGIT_RUNS:
        return split_digits(r, stage, &p);
    case FL_STAGE_PREFIX:
        return prefix(r, stage, &p);
    case FL_STAGE_METASPACE:
        return metaspace(r, stage, &p);
    }
    return FL_OK;
}

int fl_pretok_run(const fl_pretok *p, const char *s, size_t n, bool at_start, fl_word_fn word,
                  void *ctx, fl_err *err) {
    runner r = {p, word, ctx, BASE_STEPS, err};
    r.steps += (int64_t)n * STEPS_PER_BYTE;
    if (!p->n) return word(ctx, s, n, err);
    return run_stage(&r, 0, (piece){s, n, at_start});
}
