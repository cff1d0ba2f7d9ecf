/* util/json: strict parsing, errors with line numbers, queries and checked getters. */
#include "util/json.h"

#include <math.h>
#include <string.h>

#include "fixture.h"
#include "tap.h"
#include "util/mem.h"

static void test_refused(void) {
    static const struct {
        const char *text;
        int code;
        const char *says;
    } cases[] = {
        {"", FL_E_FORMAT, "f.json: line 1: not valid JSON"},
        {" \n ", FL_E_FORMAT, "f.json: line 2: not valid JSON"},
        {"{\"a\":1,}", FL_E_FORMAT, "line 1: not valid JSON"},
        {"{\"a\":1,\n\"b\"\n:}", FL_E_FORMAT, "line 3: not valid JSON"},
        {"{\"a\" 1}", FL_E_FORMAT, "not valid JSON"},
        {"[1 2]", FL_E_FORMAT, "not valid JSON"},
        {"[1,2", FL_E_FORMAT, "not valid JSON"},
        {"\"abc", FL_E_FORMAT, "not valid JSON"},
        {"\"a\\", FL_E_FORMAT, "not valid JSON"},
        {"nul", FL_E_FORMAT, "not valid JSON"},
        {"{} {}", FL_E_FORMAT, "not valid JSON"},
        {"{}x", FL_E_FORMAT, "not valid JSON"},
        {"[01]", FL_E_FORMAT, "not valid JSON at byte 1 of 4"},
        {"[1.]", FL_E_FORMAT, "not valid JSON"},
        {"[.5]", FL_E_FORMAT, "not valid JSON"},
        {"[+1]", FL_E_FORMAT, "not valid JSON"},
        {"[1e]", FL_E_FORMAT, "not valid JSON"},
        {"[\f1]", FL_E_FORMAT, "not valid JSON"},
        {"[-NaN]", FL_E_FORMAT, "not valid JSON"},
        {"[\"\\u12g4\"]", FL_E_FORMAT, "not valid JSON"},
        {"{'a':1}", FL_E_FORMAT, "not valid JSON"},
        {"\"\xff\"", FL_E_FORMAT, "not valid UTF-8"},
        {"\"\xed\xa0\x80\"", FL_E_FORMAT, "not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_json *doc;
        fl_err e = {0};
        int rc = fl_json_parse(&doc, cases[i].text, strlen(cases[i].text), "f.json", &e);
        check(rc == cases[i].code && !doc && strstr(e.msg, cases[i].says), "refused: %s", e.msg);
    }
    fl_json *doc;
    fl_err e = {0};
    check(fl_json_parse(&doc, "{}\0", 3, "f.json", &e) == FL_E_FORMAT && strstr(e.msg, "NUL"),
          "a NUL byte after the value: %s", e.msg);
    check(fl_json_parse(&doc, "\"a\0b\"", 5, "f.json", &e) == FL_E_FORMAT && !doc,
          "a NUL byte in a string: %s", e.msg);
    check(fl_json_parse(&doc, "\"a\nb\"", 5, "f.json", &e) == FL_E_FORMAT && !doc,
          "a line feed in a string: %s", e.msg);
}

static int parse_nested(int levels, fl_err *e) {
    char text[2000];
    fl_json *doc;
    memset(text, '[', (size_t)levels);
    memset(text + levels, ']', (size_t)levels);
    int rc = fl_json_parse(&doc, text, 2 * (size_t)levels, "f.json", e);
    fl_json_free(doc);
    return rc;
}

static void test_depth(void) {
    fl_err e = {0};
    check(parse_nested(900, &e) == FL_OK, "900 levels are read %s", e.msg);
    check(parse_nested(901, &e) == FL_E_LIMIT, "901 levels are refused: %s", e.msg);
    fl_json *doc;
    static const char in_string[] = "\"\\\"[[[[{{{{\"";
    check(!fl_json_parse(&doc, in_string, strlen(in_string), "f.json", &e),
          "brackets in strings do not nest");
    fl_json_free(doc);
}

/* Text that Python's json.loads takes, and what it makes of it. */
static void test_python(void) {
    static const struct {
        const char *text, *string; /* member "a" */
        double number;
    } cases[] = {
        {"{\"a\": 1, \"a\": 2}", NULL, 2},
        {"{\"a\": {\"b\": 1}, \"c\": 0, \"a\": \"x\"}", "x", 0},
        {"{\"\\u0061\": 3}", NULL, 3},
        {"{\"a\": Infinity}", NULL, INFINITY},
        {"{\"a\": -Infinity}", NULL, -INFINITY},
        {"{\"a\": 1e400}", NULL, INFINITY},
        {"{\"a\": -0.5e-1}", NULL, -0.05},
        {"{\"a\": 123456789012345678901234567890}", NULL, 123456789012345678901234567890.0},
        {"{\"a\": \"\\ud83d\\ude00\"}", "\xf0\x9f\x98\x80", 0},
        {"{\"a\": \"\\ud83dx\"}", "\xef\xbf\xbdx", 0},
        {"{\"a\": \"\\ud83d\\u0041\"}",
         "\xef\xbf\xbd"
         "A",
         0},
        {"{\"a\": \"x\\u0000y\"}", "x\xef\xbf\xbdy", 0},
        {"{\"a\": \"\\\\\\u0000\"}", "\\\xef\xbf\xbd", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_json *doc;
        fl_err e = {0};
        double v = 0;
        if (!check(!fl_json_parse(&doc, cases[i].text, strlen(cases[i].text), "f.json", &e),
                   "Python reads %s too %s", cases[i].text, e.msg))
            continue;
        const fl_json_node *a = fl_json_get(fl_json_root(doc), "a");
        const char *s = fl_json_string(a);
        check(cases[i].string ? s && !strcmp(s, cases[i].string)
                              : fl_json_is_number(a, &v) && v == cases[i].number,
              "%s: as Python", cases[i].text);
        fl_json_free(doc);
    }
    static const char null_last[] = "{\"a\": 1, \"a\": null}";
    fl_json *doc;
    double v;
    if (!check(!fl_json_parse(&doc, null_last, strlen(null_last), "f.json", NULL), "two members"))
        return;
    check(!fl_json_get(fl_json_root(doc), "a") && fl_json_member(fl_json_root(doc), "a"),
          "the last of two members counts, be it null");
    fl_json_free(doc);
    check(!fl_json_parse(&doc, "NaN", 3, "f.json", NULL) &&
              fl_json_is_number(fl_json_root(doc), &v) && v != v,
          "NaN is a number");
    fl_json_free(doc);
}

static bool add_bytes(void *ctx, size_t bytes) {
    *(size_t *)ctx += bytes;
    return true;
}

/* item, again and again, in a list. */
static void test_memory_of(const char *item, int code) {
    const size_t n = 1 << 20, len = strlen(item);
    char *text = fl_alloc(n + len + 4), *p = text;
    fl_json *doc;
    fl_err e = {0};
    size_t taken = 0;
    for (*p++ = '['; p < text + n; p += len) memcpy(p, item, len);
    p[-1] = ']'; /* in place of the last comma */
    fl_mem_set_hook(add_bytes, &taken);
    int rc = fl_json_parse(&doc, text, (size_t)(p - text), "f.json", &e);
    fl_mem_set_hook(NULL, NULL);
    check(rc == code && taken <= 8 * n, "a megabyte of %s: %zu bytes, %s", item, taken, e.msg);
    fl_json_free(doc);
    fl_free(text);
}

static void test_memory(void) {
    test_memory_of("0,", FL_E_LIMIT);
    test_memory_of("[],", FL_E_LIMIT);
    test_memory_of("{},", FL_E_LIMIT);
    test_memory_of("\"\",", FL_E_LIMIT);
    test_memory_of("123,", FL_OK);
    test_memory_of("\"a\",", FL_OK);
    test_memory_of("{\"a\":1},", FL_OK);
    test_memory_of("[\"\\u0001\",\"bc\"],", FL_OK);
}

static const char sample[] =
    " {\"i\":7, \"big\":9007199254740992, \"huge\":1e300, \"f\":0.5, \"neg\":-3,"
    "\"s\":\"a\\u00e9\\n\\\\u0000\", \"t\":true, \"n\":null, \"a\":[1,[],{}], "
    "\"o\":{\"x\":1}}\r\n\t ";

static void test_queries(const fl_json *doc) {
    const fl_json_node *root = fl_json_root(doc);
    int64_t i = 0;
    double d = 0;
    bool b = false;
    check(!strcmp(fl_json_name(doc), "f.json") && fl_json_is_object(root) &&
              fl_json_size(root) == 10,
          "an object of ten");
    check(fl_json_is_int(fl_json_get(root, "i"), &i) && i == 7, "an integer");
    check(fl_json_is_int(fl_json_get(root, "big"), &i) && i == INT64_C(1) << 53, "2^53");
    check(!fl_json_is_int(fl_json_get(root, "huge"), &i), "1e300 is no integer");
    check(!fl_json_is_int(fl_json_get(root, "f"), &i) &&
              fl_json_is_number(fl_json_get(root, "f"), &d) && d == 0.5,
          "a fraction is a number, not an integer");
    check(fl_json_is_bool(fl_json_get(root, "t"), &b) && b &&
              !fl_json_is_bool(fl_json_get(root, "i"), &b),
          "true is a boolean, 7 is not");
    check(!strcmp(fl_json_string(fl_json_get(root, "s")), "a\xc3\xa9\n\\u0000"),
          "escapes in a string");
    check(!fl_json_string(fl_json_get(root, "i")) && !fl_json_string(NULL), "no string, no text");
    check(!fl_json_get(root, "n") && !fl_json_get(root, "I") && !fl_json_get(NULL, "i") &&
              !fl_json_get(fl_json_get(root, "a"), "i"),
          "null, another case, no object: absent");
    const fl_json_node *a = fl_json_get(root, "a");
    check(fl_json_is_array(a) && fl_json_size(a) == 3 && !fl_json_key(fl_json_first(a)) &&
              fl_json_is_array(fl_json_next(fl_json_first(a))) &&
              !fl_json_first(fl_json_get(root, "i")),
          "an array, walked");
}

static void test_getters(const fl_json *doc) {
    fl_json_scope s = {doc, fl_json_root(doc), "top."};
    fl_err e = {0};
    int64_t i = 42;
    double d = 1.25;
    bool b = true;
    const char *t = "default";
    check(!fl_json_read_int(s, "absent", 0, 9, &i, &e) && i == 42 &&
              !fl_json_read_int(s, "n", 0, 9, &i, &e) && i == 42 &&
              !fl_json_read_number(s, "n", 0, 1, &d, &e) && d == 1.25 &&
              !fl_json_read_bool(s, "n", &b, &e) && b && !fl_json_read_string(s, "n", &t, &e) &&
              !strcmp(t, "default"),
          "absent and null leave the default");
    check(!fl_json_read_int(s, "i", 7, 7, &i, &e) && i == 7 &&
              !fl_json_read_number(s, "f", 0.5, 0.5, &d, &e) && d == 0.5 &&
              !fl_json_read_bool(s, "t", &b, &e) && b && !fl_json_read_string(s, "s", &t, &e) &&
              t[0] == 'a',
          "values at their bounds are read");
    check(fl_json_read_int(s, "i", 8, 9, &i, &e) == FL_E_FORMAT &&
              !strcmp(e.msg, "f.json: top.i: need an integer in [8, 9], got 7"),
          "%s", e.msg);
    check(fl_json_read_int(s, "f", 0, 9, &i, &e) == FL_E_FORMAT, "%s", e.msg);
    check(fl_json_read_number(s, "huge", 0, 1, &d, &e) == FL_E_FORMAT, "%s", e.msg);
    check(fl_json_read_number(s, "s", 0, 1, &d, &e) == FL_E_FORMAT, "%s", e.msg);
    check(fl_json_read_bool(s, "a", &b, &e) == FL_E_FORMAT &&
              !strcmp(e.msg, "f.json: top.a: need true or false, got [1,[],{}]"),
          "%s", e.msg);
    check(fl_json_read_string(s, "o", &t, &e) == FL_E_FORMAT &&
              !strcmp(e.msg, "f.json: top.o: need a string, got {\"x\":1}"),
          "%s", e.msg);
    check(i == 7 && d == 0.5 && b && t[0] == 'a', "a refused value is not stored");
}

static void test_load(void) {
    fixture f;
    fl_json *doc;
    fl_err e = {0};
    fixture_new(&f);
    fixture_text(&f, "x.json", "{\"a\":1}");
    check(!fl_json_load(&doc, fixture_path(&f, "x.json"), 7, &e),
          "a file of the size that is allowed");
    fl_json_free(doc);
    check(fl_json_load(&doc, fixture_path(&f, "x.json"), 6, &e) == FL_E_LIMIT && !doc,
          "too large: %s", e.msg);
    check(fl_json_load(&doc, fixture_path(&f, "y.json"), 6, &e) == FL_E_IO && !doc, "missing: %s",
          e.msg);
    fixture_free(&f);
}

static int parse_once(void *ctx) {
    fl_json *doc;
    int rc = fl_json_parse(&doc, ctx, strlen(ctx), "f.json", NULL);
    fl_json_free(doc);
    return rc;
}

int main(void) {
    fl_json *doc;
    fl_err e = {0};
    test_refused();
    test_depth();
    if (check(!fl_json_parse(&doc, sample, strlen(sample), "f.json", &e), "the sample %s", e.msg)) {
        test_queries(doc);
        test_getters(doc);
        fl_json_free(doc);
    }
    test_python();
    test_memory();
    test_load();
    char text[] = "{}";
    check(fixture_sweep(parse_once, text) == 4, "every failing allocation of ours is FL_E_NOMEM");
    return tap_done();
}
