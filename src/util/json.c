#include "util/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "util/decimal.h"
#include "util/file.h"
#include "util/mem.h"
#include "util/utf8.h"

/* Python's reader stops at about 990 levels. */
enum { MAX_DEPTH = 900, FREE_VALUES = 65536, BYTES_A_VALUE = 4 };

typedef enum { IS_NULL, IS_FALSE, IS_TRUE, IS_NUMBER, IS_STRING, IS_ARRAY, IS_OBJECT } kind;

/* The values of a document stand in one array in the order of its text: the first item of a
 * container stands behind it. */
struct fl_json_node {
    const char *key; /* NULL in arrays */
    union {
        double number;
        const char *text;
        bool any; /* a container that has items */
    };
    uint32_t next; /* how many nodes further on; 0: the last of its container */
    uint8_t kind;
};

struct fl_json {
    fl_json_node *nodes;
    size_t n;
    char *text; /* the document's own copy: strings end and lose their escapes in place */
    char *name;
};

typedef struct reader {
    fl_json *doc;
    char *at, *end;
    int depth;
} reader;

static int line_of(const char *text, size_t at) {
    int line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    return line;
}

/* What fl_fail needs to be told while the text is as it was: control characters, how deep it
 * nests, and how many values there may be (containers, and items behind a comma). */
static int scan(const char *s, size_t n, const char *name, size_t *values, fl_err *err) {
    int depth = 0;
    bool in_string = false;
    *values = 1;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '"') in_string = false;
            if ((unsigned char)s[i] < 0x20)
                return fl_fail(err, FL_E_FORMAT,
                               "%s: line %d: control character 0x%02x in a string", name,
                               line_of(s, i), (unsigned)s[i]);
            i += s[i] == '\\';
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            ++*values;
            if (++depth > MAX_DEPTH)
                return fl_fail(err, FL_E_LIMIT, "%s: line %d: nested deeper than %d levels", name,
                               line_of(s, i), MAX_DEPTH);
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        } else if (s[i] == ',') {
            ++*values;
        } else if (s[i] == '\0') {
            return fl_fail(err, FL_E_FORMAT, "%s: line %d: NUL byte outside a string", name,
                           line_of(s, i));
        }
    }
    return FL_OK;
}

static int check_count(size_t values, size_t n, const char *name, fl_err *err) {
    if (values <= FREE_VALUES + n / BYTES_A_VALUE) return FL_OK;
    return fl_fail(err, FL_E_LIMIT,
                   "%s: more than %zu values in %zu bytes: no model's file is like this", name,
                   FREE_VALUES + n / BYTES_A_VALUE, n);
}

int fl_json_check_size(const char *text, size_t n, const char *name, fl_err *err) {
    size_t values;
    int rc = scan(text, n, name, &values, err);
    return rc ? rc : check_count(values, n, name, err);
}

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

/* Four hexadecimal digits at p, or -1. */
static int32_t hex4(const char *p, const char *end) {
    static const char hex[] = "0123456789abcdef";
    int32_t v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char *d = p[i] ? strchr(hex, p[i] >= 'A' && p[i] <= 'F' ? p[i] | 32 : p[i]) : NULL;
        if (!d) return -1;
        v = v * 16 + (int32_t)(d - hex);
    }
    return v;
}

/* r->at is behind the backslash; writes fewer bytes than it reads. */
static bool read_escape(reader *r, char **out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found = r->at < r->end && *r->at ? strchr(from, *r->at) : NULL;
    if (found) {
        *(*out)++ = to[found - from];
        r->at++;
        return true;
    }
    int32_t cp = r->at < r->end && *r->at == 'u' ? hex4(r->at + 1, r->end) : -1;
    if (cp < 0) return false;
    r->at += 5;
    if (cp >= 0xd800 && cp < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
        const int32_t low = hex4(r->at + 2, r->end);
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
            r->at += 6;
        }
    }
    if (!cp || (cp >= 0xd800 && cp < 0xe000)) cp = 0xfffd; /* no C string, no UTF-8 holds it */
    *out += fl_utf8_encode(*out, (uint32_t)cp);
    return true;
}

/* r->at is at the opening quote.  NULL: malformed. */
static const char *read_string(reader *r) {
    char *start = ++r->at, *p = start;
    while (r->at < r->end && *r->at != '"') {
        if (*r->at != '\\') {
            *p++ = *r->at++;
            continue;
        }
        r->at++;
        if (!read_escape(r, &p)) return NULL;
    }
    if (r->at >= r->end) return NULL;
    r->at++;
    *p = '\0'; /* at the latest where the closing quote stood */
    return start;
}

static bool read_word(reader *r, fl_json_node *v) {
    static const struct {
        const char *word;
        kind kind;
        double number;
    } words[] = {{"null", IS_NULL, 0},
                 {"true", IS_TRUE, 0},
                 {"false", IS_FALSE, 0},
                 {"NaN", IS_NUMBER, NAN},
                 {"Infinity", IS_NUMBER, INFINITY},
                 {"-Infinity", IS_NUMBER, -INFINITY}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const size_t n = strlen(words[i].word);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].word, n) != 0) continue;
        v->kind = words[i].kind;
        v->number = words[i].number;
        r->at += n;
        return true;
    }
    bool whole;
    const char *end = fl_decimal_end(r->at, r->end, &whole);
    if (!end) return false;
    v->kind = IS_NUMBER;
    v->number = fl_decimal_value(r->at, end);
    r->at = (char *)(uintptr_t)end;
    return true;
}

static bool read_value(reader *r, const char *key);

/* A key and its value, or one item. */
static bool read_item(reader *r, bool object) {
    const char *key = NULL;
    skip_space(r);
    if (!object) return read_value(r, NULL);
    if (r->at >= r->end || *r->at != '"' || !(key = read_string(r))) return false;
    skip_space(r);
    if (r->at >= r->end || *r->at != ':') return false;
    r->at++;
    return read_value(r, key);
}

/* The items of the container that is the last node so far. */
static bool read_items(reader *r, bool object) {
    const size_t container = r->doc->n - 1;
    const char close = object ? '}' : ']';
    size_t last = 0;
    r->at++;
    skip_space(r);
    bool more = r->at >= r->end || *r->at != close;
    r->doc->nodes[container].any = more;
    while (more) {
        const size_t item = r->doc->n;
        if (!read_item(r, object)) return false;
        if (last) r->doc->nodes[last].next = (uint32_t)(item - last);
        last = item;
        skip_space(r);
        if (r->at >= r->end) return false;
        more = *r->at == ',';
        if (!more && *r->at != close) return false;
        r->at += more;
    }
    r->at++;
    return true;
}

/* The scan has bounded how deep this goes and how many nodes there are. */
static bool read_value(reader *r, const char *key) {
    skip_space(r);
    if (r->at >= r->end) return false;
    fl_json_node *v = &r->doc->nodes[r->doc->n++];
    const bool object = *r->at == '{';
    v->key = key;
    if (object || *r->at == '[') {
        v->kind = object ? IS_OBJECT : IS_ARRAY;
        return read_items(r, object);
    }
    if (*r->at != '"') return read_word(r, v);
    v->kind = IS_STRING;
    return (v->text = read_string(r)) != NULL;
}

/* Lines are counted in what is left of the text: no line feed has been overwritten. */
static int not_json(const char *text, size_t at, size_t n, const char *name, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT, "%s: line %d: not valid JSON at byte %zu of %zu", name,
                   line_of(text, at), at, n);
}

static int read_document(fl_json *doc, size_t n, fl_err *err) {
    size_t values;
    int rc;
    if (!fl_utf8_valid(doc->text, n))
        return fl_fail(err, FL_E_FORMAT, "%s: not valid UTF-8", doc->name);
    if ((rc = scan(doc->text, n, doc->name, &values, err)) ||
        (rc = check_count(values, n, doc->name, err)))
        return rc;
    if (values >= UINT32_MAX || !(doc->nodes = fl_alloc_array(values, sizeof(*doc->nodes))))
        return fl_fail(err, FL_E_NOMEM, "%s: no memory for %zu values", doc->name, values);
    reader r = {.doc = doc, .at = doc->text, .end = doc->text + n};
    if (n >= 3 && !memcmp(doc->text, "\xef\xbb\xbf", 3)) r.at += 3; /* some editors' mark */
    const bool good = read_value(&r, NULL);
    skip_space(&r);
    return good && r.at == r.end
               ? FL_OK
               : not_json(doc->text, (size_t)(r.at - doc->text), n, doc->name, err);
}

/* Takes text, which ends in a NUL after n bytes. */
static int make_document(fl_json **out, char *text, size_t n, const char *name, fl_err *err) {
    int rc;
    fl_json *doc = fl_alloc(sizeof(*doc));
    *out = NULL;
    if (!doc) {
        fl_free(text);
        return fl_fail(err, FL_E_NOMEM, "%s", name);
    }
    doc->text = text;
    if (!text || !(doc->name = fl_strdup(name))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", name);
    } else if (!(rc = read_document(doc, n, err))) {
        *out = doc;
        return FL_OK;
    }
    fl_json_free(doc);
    return rc;
}

int fl_json_parse(fl_json **out, const char *text, size_t n, const char *name, fl_err *err) {
    return make_document(out, fl_memdup(text, n), n, name, err);
}

int fl_json_load(fl_json **out, const char *path, size_t max_bytes, fl_err *err) {
    char *text;
    size_t n;
    *out = NULL;
    int rc = fl_file_read(&text, &n, path, max_bytes, err);
    return rc ? rc : make_document(out, text, n, path, err);
}

void fl_json_free(fl_json *doc) {
    if (!doc) return;
    fl_free(doc->nodes);
    fl_free(doc->text);
    fl_free(doc->name);
    fl_free(doc);
}

const fl_json_node *fl_json_root(const fl_json *doc) {
    return doc->nodes;
}
const char *fl_json_name(const fl_json *doc) {
    return doc->name;
}

const fl_json_node *fl_json_member(const fl_json_node *object, const char *key) {
    const fl_json_node *found = NULL;
    if (!fl_json_is_object(object)) return NULL;
    for (const fl_json_node *v = fl_json_first(object); v; v = fl_json_next(v))
        if (!strcmp(v->key, key)) found = v;
    return found;
}
const fl_json_node *fl_json_get(const fl_json_node *object, const char *key) {
    const fl_json_node *item = fl_json_member(object, key);
    return item && item->kind != IS_NULL ? item : NULL;
}
const fl_json_node *fl_json_first(const fl_json_node *container) {
    if (!fl_json_is_object(container) && !fl_json_is_array(container)) return NULL;
    return container->any ? container + 1 : NULL;
}
const fl_json_node *fl_json_next(const fl_json_node *item) {
    return item->next ? item + item->next : NULL;
}
const char *fl_json_key(const fl_json_node *item) {
    return item->key;
}
const char *fl_json_string(const fl_json_node *item) {
    return item && item->kind == IS_STRING ? item->text : NULL;
}
bool fl_json_is_object(const fl_json_node *item) {
    return item && item->kind == IS_OBJECT;
}
bool fl_json_is_array(const fl_json_node *item) {
    return item && item->kind == IS_ARRAY;
}

bool fl_json_is_bool(const fl_json_node *item, bool *out) {
    if (!item || (item->kind != IS_TRUE && item->kind != IS_FALSE)) return false;
    *out = item->kind == IS_TRUE;
    return true;
}

bool fl_json_is_number(const fl_json_node *item, double *out) {
    if (!item || item->kind != IS_NUMBER) return false;
    *out = item->number;
    return true;
}

bool fl_json_is_int(const fl_json_node *item, int64_t *out) {
    double v;
    if (!fl_json_is_number(item, &v) || v != floor(v) || !(fabs(v) <= 0x1p53)) return false;
    *out = (int64_t)v;
    return true;
}

size_t fl_json_size(const fl_json_node *container) {
    size_t n = 0;
    for (const fl_json_node *i = fl_json_first(container); i; i = fl_json_next(i)) n++;
    return n;
}

/* The value as JSON, as much of it as fits; returns what snprintf would. */
static size_t show(char *out, size_t size, const fl_json_node *v) {
    static const char *const words[] = {"null", "false", "true"};
    const bool object = fl_json_is_object(v);
    if (size < 4) return 0;
    if (v->kind == IS_STRING) return (size_t)snprintf(out, size, "\"%s\"", v->text);
    if (v->kind == IS_NUMBER) return (size_t)snprintf(out, size, "%.15g", v->number);
    if (v->kind < IS_NUMBER) return (size_t)snprintf(out, size, "%s", words[v->kind]);
    size_t n = (size_t)snprintf(out, size, object ? "{" : "[");
    for (const fl_json_node *i = fl_json_first(v); i && n < size; i = fl_json_next(i)) {
        if (i->key) n += (size_t)snprintf(out + n, size - n, "\"%s\":", i->key);
        if (n < size) n += show(out + n, size - n, i);
        if (n < size && i->next) n += (size_t)snprintf(out + n, size - n, ",");
    }
    if (n < size) n += (size_t)snprintf(out + n, size - n, object ? "}" : "]");
    return n;
}

static int mismatch(fl_json_scope s, const char *key, const char *want, fl_err *err) {
    char got[61] = "";
    show(got, sizeof(got), fl_json_get(s.object, key));
    return fl_fail(err, FL_E_FORMAT, "%s: %s%s: need %s, got %s", s.doc->name, s.path, key, want,
                   got);
}

int fl_json_read_int(fl_json_scope s, const char *key, int64_t min, int64_t max, int64_t *out,
                     fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    int64_t v;
    char want[80];
    if (!item) return FL_OK;
    snprintf(want, sizeof(want), "an integer in [%lld, %lld]", (long long)min, (long long)max);
    if (!fl_json_is_int(item, &v) || v < min || v > max) return mismatch(s, key, want, err);
    *out = v;
    return FL_OK;
}

int fl_json_read_number(fl_json_scope s, const char *key, double min, double max, double *out,
                        fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    double v;
    char want[80];
    if (!item) return FL_OK;
    snprintf(want, sizeof(want), "a number in [%g, %g]", min, max);
    if (!fl_json_is_number(item, &v) || !(v >= min && v <= max)) return mismatch(s, key, want, err);
    *out = v;
    return FL_OK;
}

int fl_json_read_bool(fl_json_scope s, const char *key, bool *out, fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    int64_t v;
    if (!item || fl_json_is_bool(item, out)) return FL_OK;
    if (!fl_json_is_int(item, &v) || (v != 0 && v != 1))
        return mismatch(s, key, "true or false", err);
    *out = v == 1;
    return FL_OK;
}

int fl_json_read_string(fl_json_scope s, const char *key, const char **out, fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    if (!item) return FL_OK;
    if (!fl_json_string(item)) return mismatch(s, key, "a string", err);
    *out = fl_json_string(item);
    return FL_OK;
}
