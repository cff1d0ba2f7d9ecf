#include "util/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "util/file.h"
#include "util/mem.h"
#include "util/utf8.h"

enum { MAX_DEPTH = 100 };

struct fl_json {
    cJSON *root;
    char *name;
};

static int line_of(const char *text, size_t at) {
    int line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    return line;
}

/* What cJSON does not check: depth within our limit, control characters in strings (a NUL,
 * escaped or not, would cut the string there). */
static int scan(const char *s, size_t n, const char *name, fl_err *err) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '"') in_string = false;
            if ((unsigned char)s[i] < 0x20)
                return fl_fail(err, FL_E_FORMAT,
                               "%s: line %d: control character 0x%02x in a string", name,
                               line_of(s, i), (unsigned)s[i]);
            if (s[i] != '\\') continue;
            if (n - i >= 6 && !memcmp(s + i + 1, "u0000", 5))
                return fl_fail(err, FL_E_FORMAT, "%s: line %d: \\u0000 in a string", name,
                               line_of(s, i));
            i++;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > MAX_DEPTH)
                return fl_fail(err, FL_E_LIMIT, "%s: line %d: nested deeper than %d levels", name,
                               line_of(s, i), MAX_DEPTH);
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        } else if (s[i] == '\0') {
            return fl_fail(err, FL_E_FORMAT, "%s: line %d: NUL byte outside a string", name,
                           line_of(s, i));
        }
    }
    return FL_OK;
}

int fl_json_parse(fl_json **out, const char *text, size_t n, const char *name, fl_err *err) {
    int rc;
    *out = NULL;
    if (!fl_utf8_valid(text, n)) return fl_fail(err, FL_E_FORMAT, "%s: not valid UTF-8", name);
    if ((rc = scan(text, n, name, err))) return rc;
    fl_json *doc = fl_alloc(sizeof(*doc));
    if (!doc || !(doc->name = fl_strdup(name))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", name);
        goto done;
    }
    const char *end = text;
    doc->root = cJSON_ParseWithLengthOpts(text, n, &end, false);
    size_t at = (size_t)(end - text);
    while (doc->root && at < n && strchr(" \t\r\n", text[at])) at++;
    if (!doc->root || at < n) {
        rc = fl_fail(err, FL_E_FORMAT, "%s: line %d: not valid JSON at byte %zu of %zu", name,
                     line_of(text, at < n ? at : n), at, n);
        goto done;
    }
    *out = doc;
    doc = NULL;
done:
    fl_json_free(doc);
    return rc;
}

int fl_json_load(fl_json **out, const char *path, size_t max_bytes, fl_err *err) {
    char *text;
    size_t n;
    *out = NULL;
    int rc = fl_file_read(&text, &n, path, max_bytes, err);
    if (rc) return rc;
    rc = fl_json_parse(out, text, n, path, err);
    fl_free(text);
    return rc;
}

void fl_json_free(fl_json *doc) {
    if (!doc) return;
    cJSON_Delete(doc->root);
    fl_free(doc->name);
    fl_free(doc);
}

const fl_json_node *fl_json_root(const fl_json *doc) {
    return doc->root;
}
const char *fl_json_name(const fl_json *doc) {
    return doc->name;
}

const fl_json_node *fl_json_get(const fl_json_node *object, const char *key) {
    const cJSON *item =
        cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}
const fl_json_node *fl_json_first(const fl_json_node *container) {
    return cJSON_IsObject(container) || cJSON_IsArray(container) ? container->child : NULL;
}
const fl_json_node *fl_json_next(const fl_json_node *item) {
    return item->next;
}
const char *fl_json_key(const fl_json_node *item) {
    return item->string;
}
const char *fl_json_string(const fl_json_node *item) {
    return cJSON_IsString(item) ? item->valuestring : NULL;
}
bool fl_json_is_object(const fl_json_node *item) {
    return cJSON_IsObject(item);
}
bool fl_json_is_array(const fl_json_node *item) {
    return cJSON_IsArray(item);
}

bool fl_json_is_bool(const fl_json_node *item, bool *out) {
    if (!cJSON_IsBool(item)) return false;
    *out = cJSON_IsTrue(item);
    return true;
}

bool fl_json_is_number(const fl_json_node *item, double *out) {
    if (!cJSON_IsNumber(item)) return false;
    *out = item->valuedouble;
    return true;
}

bool fl_json_is_int(const fl_json_node *item, int64_t *out) {
    double v;
    if (!fl_json_is_number(item, &v) || v != floor(v) || fabs(v) > 0x1p53) return false;
    *out = (int64_t)v;
    return true;
}

size_t fl_json_size(const fl_json_node *container) {
    size_t n = 0;
    for (const fl_json_node *i = fl_json_first(container); i; i = fl_json_next(i)) n++;
    return n;
}

static int mismatch(fl_json_scope s, const char *key, const char *want, fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    char *got = cJSON_PrintUnformatted(item);
    int rc = fl_fail(err, FL_E_FORMAT, "%s: %s%s: need %s, got %.60s", s.doc->name, s.path, key,
                     want, got ? got : "?");
    cJSON_free(got);
    return rc;
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
    if (!item || fl_json_is_bool(item, out)) return FL_OK;
    return mismatch(s, key, "true or false", err);
}

int fl_json_read_string(fl_json_scope s, const char *key, const char **out, fl_err *err) {
    const fl_json_node *item = fl_json_get(s.object, key);
    if (!item) return FL_OK;
    if (!fl_json_string(item)) return mismatch(s, key, "a string", err);
    *out = fl_json_string(item);
    return FL_OK;
}
