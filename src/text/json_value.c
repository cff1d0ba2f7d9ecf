#include "text/json_value.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/decimal.h"
#include "util/map.h"
#include "util/utf8.h"

enum { MAX_DEPTH = 200, MAX_NUMBER_CHARS = 1000, SMALL_OBJECT = 16 };

typedef struct reader {
    const char *text, *at, *end;
    const char *name;
    fl_arena *arena;
    fl_err *err;
    char *strings;   /* where the next one goes: all of them take less than the text does */
    uint32_t *sizes; /* items of each container, in the order of their opening brackets */
    size_t n_sizes, cap_sizes, next_size;
} reader;

static int bad(const reader *r, int code, const char *what) {
    int line = 1;
    const char *start = r->text;
    for (const char *p = r->text; p < r->at; p++) {
        if (*p != '\n') continue;
        line++;
        start = p + 1;
    }
    return fl_fail(r->err, code, "%s: line %d, column %lld: %s", r->name, line,
                   (long long)(r->at - start) + 1, what);
}

static int no_memory(const reader *r) {
    return fl_fail(r->err, FL_E_NOMEM, "%s: no memory for the JSON value", r->name);
}

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

/* What containers there are and how many items each of them has at most, so that their memory can
 * be taken at once; whether this is JSON is seen later. */
static int count_items(reader *r) {
    size_t open[MAX_DEPTH] = {0}; /* index of each container that is open */
    int depth = 0;
    for (const char *p = r->text; p < r->end; p++) {
        if (*p == '"') {
            for (p++; p < r->end && *p != '"'; p++) p += *p == '\\';
        } else if (*p == '[' || *p == '{') {
            if (depth == MAX_DEPTH) {
                r->at = p;
                return bad(r, FL_E_LIMIT, "nested deeper than 200 levels");
            }
            if (r->n_sizes == r->cap_sizes) {
                size_t cap = r->cap_sizes ? r->cap_sizes * 2 : 64;
                uint32_t *grown = fl_grow(r->sizes, cap * sizeof(*grown));
                if (!grown) return no_memory(r);
                r->sizes = grown;
                r->cap_sizes = cap;
            }
            open[depth++] = r->n_sizes;
            r->sizes[r->n_sizes++] = 1;
        } else if (*p == ',' && depth) {
            r->sizes[open[depth - 1]]++;
        } else if ((*p == ']' || *p == '}') && depth) {
            depth--;
        }
    }
    return FL_OK;
}

/* Four hexadecimal digits at p, or -1. */
static int32_t hex4(const char *p, const char *end) {
    int32_t v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int c = p[i] | 32;
        if (p[i] >= '0' && p[i] <= '9') {
            v = v * 16 + (p[i] - '0');
        } else if (c >= 'a' && c <= 'f') {
            v = v * 16 + (c - 'a' + 10);
        } else {
            return -1;
        }
    }
    return v;
}

/* r->at is behind the backslash; writes at most 4 bytes, fewer than it reads. */
static int read_escape(reader *r, char **out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found = r->at < r->end && *r->at ? strchr(from, *r->at) : NULL;
    if (found) {
        *(*out)++ = to[found - from];
        r->at++;
        return FL_OK;
    }
    int32_t cp = r->at < r->end && *r->at == 'u' ? hex4(r->at + 1, r->end) : -1;
    if (cp < 0) return bad(r, FL_E_FORMAT, "invalid escape in a string");
    r->at += 5;
    if (cp >= 0xd800 && cp < 0xe000) {
        int32_t low = -1;
        if (cp < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u')
            low = hex4(r->at + 2, r->end);
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
            r->at += 6;
        } else {
            cp = 0xfffd; /* a surrogate without its partner is no character */
        }
    }
    *out += fl_utf8_encode(*out, (uint32_t)cp);
    return FL_OK;
}

/* r->at is at the opening quote. */
static int read_string(reader *r, fl_jv *out) {
    const char *start = ++r->at, *close = start;
    while (close < r->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= r->end) return bad(r, FL_E_FORMAT, "string without end");
    char *data = r->strings, *p = data;
    while (r->at < close) {
        if ((uint8_t)*r->at < 0x20) return bad(r, FL_E_FORMAT, "control character in a string");
        if (*r->at != '\\') {
            *p++ = *r->at++;
            continue;
        }
        r->at++;
        int rc = read_escape(r, &p);
        if (rc) return rc;
    }
    r->at = close + 1;
    *p = '\0';
    r->strings = p + 1;
    *out = (fl_jv){.kind = FL_JV_STRING, .string = {data, (size_t)(p - data)}};
    return FL_OK;
}

static int read_number(reader *r, fl_jv *out) {
    const char *start = r->at, *whole = start + (*start == '-');
    bool is_int;
    const char *p = fl_decimal_end(start, r->end, &is_int);
    if (!p) return bad(r, FL_E_FORMAT, "value expected");
    if (p - start > MAX_NUMBER_CHARS)
        return bad(r, FL_E_LIMIT, "number longer than 1000 characters");
    int64_t v = 0;
    for (const char *d = whole; is_int && d < p; d++) {
        is_int = !__builtin_mul_overflow(v, (int64_t)10, &v) &&
                 !__builtin_sub_overflow(v, (int64_t)(*d - '0'), &v);
    }
    is_int = is_int && (*start == '-' || v != INT64_MIN);
    *out = is_int ? (fl_jv){.kind = FL_JV_INT, .integer = *start == '-' ? v : -v}
                  : (fl_jv){.kind = FL_JV_FLOAT, .number = fl_decimal_value(start, p)};
    r->at = p;
    return FL_OK;
}

static int read_word(reader *r, fl_jv *out) {
    static const struct {
        const char *word;
        fl_jv value;
    } words[] = {
        {"null", {.kind = FL_JV_NULL}},
        {"true", {.kind = FL_JV_BOOL, .boolean = true}},
        {"false", {.kind = FL_JV_BOOL, .boolean = false}},
        {"NaN", {.kind = FL_JV_FLOAT, .number = NAN}},
        {"Infinity", {.kind = FL_JV_FLOAT, .number = INFINITY}},
        {"-Infinity", {.kind = FL_JV_FLOAT, .number = -INFINITY}},
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        size_t n = strlen(words[i].word);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].word, n) != 0) continue;
        *out = words[i].value;
        r->at += n;
        return FL_OK;
    }
    return read_number(r, out);
}

static bool same_key(const fl_jv *a, const fl_jv *b) {
    return a->string.len == b->string.len && !memcmp(a->string.data, b->string.data, a->string.len);
}

/* Members of one name become one, with the place of the first and the value of the last.  Returns
 * how many remain, or a negative code. */
static int64_t unique_members(const reader *r, fl_jv_member *members, uint32_t n) {
    uint32_t kept = 0, n_slots = 0, *slots = NULL;
    size_t probes = 0;
    int64_t rc;
    if (n > SMALL_OBJECT) {
        for (n_slots = 64; n_slots < n * 2; n_slots *= 2) continue;
        slots = fl_alloc_array(n_slots, sizeof(*slots));
        if (!slots) return no_memory(r);
    }
    for (uint32_t i = 0; i < n; i++) {
        const fl_jv_member one = members[i];
        uint32_t at = 0;
        if (slots) {
            uint32_t h = (uint32_t)fl_hash_bytes(one.key.string.data, one.key.string.len);
            for (h &= n_slots - 1; slots[h]; h = (h + 1) & (n_slots - 1), probes++)
                if (same_key(&members[slots[h] - 1].key, &one.key)) break;
            at = slots[h] ? slots[h] - 1 : kept;
            slots[h] = at + 1;
        } else {
            while (at < kept && !same_key(&members[at].key, &one.key)) at++;
        }
        /* Keys made to collide in the hash would cost n * n. */
        if (probes > 64 * (size_t)n) {
            rc = bad(r, FL_E_LIMIT, "object keys collide too often");
            goto done;
        }
        if (at == kept) members[kept++].key = one.key;
        members[at].value = one.value;
    }
    rc = kept;
done:
    fl_free(slots);
    return rc;
}

static int read_value(reader *r, fl_jv *out);

static int read_member(reader *r, fl_jv_member *out) {
    int rc;
    skip_space(r);
    if (r->at >= r->end || *r->at != '"') return bad(r, FL_E_FORMAT, "object key expected");
    if ((rc = read_string(r, &out->key))) return rc;
    skip_space(r);
    if (r->at >= r->end || *r->at != ':') return bad(r, FL_E_FORMAT, "':' expected");
    r->at++;
    return read_value(r, &out->value);
}

static int read_container(reader *r, fl_jv *out) {
    const bool object = *r->at++ == '{';
    const char close = object ? '}' : ']';
    const uint32_t most = r->sizes[r->next_size++];
    uint32_t n = 0;
    fl_jv_member *members = NULL;
    fl_jv *items = NULL;
    if (most > UINT32_MAX / 4) return bad(r, FL_E_LIMIT, "too many items");
    skip_space(r);
    bool more = r->at >= r->end || *r->at != close;
    const size_t bytes = most * (more ? object ? sizeof(*members) : sizeof(*items) : 0);
    void *block = fl_arena_alloc(r->arena, bytes);
    if (!block) return no_memory(r);
    if (object)
        members = block;
    else
        items = block;
    while (more) {
        int rc = object ? read_member(r, &members[n]) : read_value(r, &items[n]);
        if (rc) return rc;
        n++;
        skip_space(r);
        if (r->at >= r->end) return bad(r, FL_E_FORMAT, "unexpected end");
        more = *r->at == ',';
        if (!more && *r->at != close)
            return bad(r, FL_E_FORMAT, object ? "',' or '}' expected" : "',' or ']' expected");
        r->at += more;
    }
    r->at++;
    const int64_t kept = object ? unique_members(r, members, n) : n;
    if (kept < 0) return (int)kept;
    *out = (fl_jv){.kind = object ? FL_JV_OBJECT : FL_JV_ARRAY, .n = (uint32_t)kept};
    if (object)
        out->members = members;
    else
        out->items = items;
    return FL_OK;
}

static int read_value(reader *r, fl_jv *out) {
    skip_space(r);
    if (r->at >= r->end) return bad(r, FL_E_FORMAT, "unexpected end");
    if (*r->at == '{' || *r->at == '[') return read_container(r, out);
    return *r->at == '"' ? read_string(r, out) : read_word(r, out);
}

int fl_jv_parse(fl_jv *out, fl_arena *arena, const char *text, size_t n, const char *name,
                fl_err *err) {
    reader r = {
        .text = text, .at = text, .end = text + n, .name = name, .arena = arena, .err = err};
    fl_jv v;
    *out = (fl_jv){.kind = FL_JV_NULL};
    if (!fl_utf8_valid(text, n)) return fl_fail(err, FL_E_FORMAT, "%s: not valid UTF-8", name);
    int rc = count_items(&r);
    if (!rc && !(r.strings = fl_arena_alloc(arena, n))) rc = no_memory(&r);
    if (!rc) rc = read_value(&r, &v);
    if (!rc) {
        skip_space(&r);
        if (r.at < r.end) rc = bad(&r, FL_E_FORMAT, "text after the value");
    }
    if (!rc) *out = v;
    fl_free(r.sizes);
    return rc;
}

bool fl_jv_is(const fl_jv *v, const char *text) {
    const size_t n = strlen(text);
    return v && v->kind == FL_JV_STRING && v->string.len == n && !memcmp(v->string.data, text, n);
}

const fl_jv *fl_jv_get(const fl_jv *object, const char *key) {
    if (!object || object->kind != FL_JV_OBJECT) return NULL;
    for (uint32_t i = 0; i < object->n; i++) {
        if (fl_jv_is(&object->members[i].key, key)) return &object->members[i].value;
    }
    return NULL;
}

/* Digits of v (finite, not negative) without point, at most 17; value = 0.d1d2... * 10^exponent. */
static int shortest_digits(char out[24], double v, int *exponent) {
    char buf[48];
    int n = 0;
    /* A number of at most 15 digits comes back from 15 digits, with zeros behind; only
     * subnormal numbers hold less than that. */
    for (int precision = v < DBL_MIN ? 0 : DBL_DIG - 1; precision < 17; precision++) {
        snprintf(buf, sizeof(buf), "%.*e", precision, v);
        if (strtod(buf, NULL) == v) break;
    }
    for (const char *p = buf; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') out[n++] = *p; /* not the point, which the locale chooses */
    while (n > 1 && out[n - 1] == '0') n--;
    *exponent = (int)strtol(strchr(buf, 'e') + 1, NULL, 10) + 1;
    out[n] = '\0';
    return n;
}

void fl_jv_write_float(fl_bytes *out, double v) {
    char d[24];
    int exponent;
    if (isnan(v)) {
        fl_bytes_puts(out, "NaN");
        return;
    }
    if (signbit(v)) fl_bytes_putc(out, '-');
    if (isinf(v)) {
        fl_bytes_puts(out, "Infinity");
        return;
    }
    int n = shortest_digits(d, fabs(v), &exponent);
    if (exponent > 16 || exponent < -3) {
        fl_bytes_printf(out, "%c%s%se%c%02d", d[0], n > 1 ? "." : "", d + 1,
                        exponent > 0 ? '+' : '-', abs(exponent - 1));
    } else if (exponent <= 0) {
        fl_bytes_printf(out, "0.%.*s%s", -exponent, "000", d);
    } else if (n > exponent) {
        fl_bytes_printf(out, "%.*s.%s", exponent, d, d + exponent);
    } else {
        fl_bytes_printf(out, "%s%.*s.0", d, exponent - n, "0000000000000000");
    }
}

static void write_string(fl_bytes *out, const fl_jv *v) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    fl_bytes_putc(out, '"');
    for (size_t i = 0; i < v->string.len; i++) {
        char c = v->string.data[i];
        const char *found = c ? strchr(from, c) : NULL;
        if (found) {
            fl_bytes_printf(out, "\\%c", to[found - from]);
        } else if ((uint8_t)c < 0x20) {
            fl_bytes_printf(out, "\\u%04x", (unsigned)(uint8_t)c);
        } else {
            fl_bytes_putc(out, c);
        }
    }
    fl_bytes_putc(out, '"');
}

void fl_jv_write(fl_bytes *out, const fl_jv *v) {
    switch (v->kind) {
    case FL_JV_NULL:
        fl_bytes_puts(out, "null");
        return;
    case FL_JV_BOOL:
        fl_bytes_puts(out, v->boolean ? "true" : "false");
        return;
    case FL_JV_INT:
        fl_bytes_printf(out, "%lld", (long long)v->integer);
        return;
    case FL_JV_FLOAT:
        fl_jv_write_float(out, v->number);
        return;
    case FL_JV_STRING:
        write_string(out, v);
        return;
    case FL_JV_ARRAY:
        fl_bytes_putc(out, '[');
        for (uint32_t i = 0; i < v->n; i++) {
            if (i) fl_bytes_putc(out, ',');
            fl_jv_write(out, &v->items[i]);
        }
        fl_bytes_putc(out, ']');
        return;
    case FL_JV_OBJECT:
        fl_bytes_putc(out, '{');
        for (uint32_t i = 0; i < v->n; i++) {
            if (i) fl_bytes_putc(out, ',');
            write_string(out, &v->members[i].key);
            fl_bytes_putc(out, ':');
            fl_jv_write(out, &v->members[i].value);
        }
        fl_bytes_putc(out, '}');
        return;
    }
}
