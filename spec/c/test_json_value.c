/* Reading and writing JSON values: kinds, order, escapes, numbers, limits, errors. */
#include <locale.h>
#include <string.h>

#include "text/json_value.h"

#include "tap.h"

/* text -> what fl_jv_write makes of it, or the end of the error message. */
static const struct {
    const char *text, *want;
} good[] = {
    {"null", "null"},
    {" [ true , false ]  ", "[true,false]"},
    {"{\"b\":1,\"a\":{\"z\":[],\"y\":{}}}", "{\"b\":1,\"a\":{\"z\":[],\"y\":{}}}"},
    {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}"},
    {"[1, 1.0, -0, -0.0, 1e2, 0.1]", "[1,1.0,0,-0.0,100.0,0.1]"},
    {"[9223372036854775807,-9223372036854775808]", "[9223372036854775807,-9223372036854775808]"},
    {"[9223372036854775808,-9223372036854775809]",
     "[9.223372036854776e+18,-9.223372036854776e+18]"},
    {"[9007199254740993]", "[9007199254740993]"},
    {"[1e22,1e16,1e15,123456789012345680.0]",
     "[1e+22,1e+16,1000000000000000.0,1.2345678901234568e+17]"},
    {"[1e-4,1e-5,1e-7,0.00012,1.5e-310]", "[0.0001,1e-05,1e-07,0.00012,1.5e-310]"},
    {"[5e-324,1.7976931348623157e308,1e999,-1e999]",
     "[5e-324,1.7976931348623157e+308,Infinity,-Infinity]"},
    {"[NaN,Infinity,-Infinity]", "[NaN,Infinity,-Infinity]"},
    {"[0.30000000000000004,2.5,100.25]", "[0.30000000000000004,2.5,100.25]"},
    {"\"\\u00e9\\n\\t\\\"\\\\\\/\\b\\f\\r\"", "\"\xc3\xa9\\n\\t\\\"\\\\/\\b\\f\\r\""},
    {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
    {"\"\\ud83d x \\udc00\"", "\"\xef\xbf\xbd x \xef\xbf\xbd\""},
    {"\"a\\u0000b\\u001f\"", "\"a\\u0000b\\u001f\""},
};

static const struct {
    const char *text, *message;
} wrong[] = {
    {"", "t: line 1, column 1: unexpected end"},
    {"[1,\n 2,]", "t: line 2, column 4: value expected"},
    {"[1 2]", "t: line 1, column 4: ',' or ']' expected"},
    {"{\"a\" 1}", "t: line 1, column 6: ':' expected"},
    {"{a:1}", "t: line 1, column 2: object key expected"},
    {"{\"a\":1", "t: line 1, column 7: unexpected end"},
    {"{\"a\":1]", "t: line 1, column 7: ',' or '}' expected"},
    {"\"abc", "t: line 1, column 2: string without end"},
    {"\"abc\\\"", "t: line 1, column 2: string without end"},
    {"\"a\nb\"", "t: line 1, column 3: control character in a string"},
    {"\"\\x\"", "t: line 1, column 3: invalid escape in a string"},
    {"\"\\u12g4\"", "t: line 1, column 3: invalid escape in a string"},
    {"01", "t: line 1, column 1: value expected"},
    {"1.", "t: line 1, column 1: value expected"},
    {"1e+", "t: line 1, column 1: value expected"},
    {"-", "t: line 1, column 1: value expected"},
    {"nul", "t: line 1, column 1: value expected"},
    {"1 2", "t: line 1, column 3: text after the value"},
    {"\"\xff\"", "t: not valid UTF-8"},
};

static void tables(void) {
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        fl_arena arena = {0};
        fl_bytes out = {0};
        fl_err err = {0};
        fl_jv v;
        int rc = fl_jv_parse(&v, &arena, good[i].text, strlen(good[i].text), "t", &err);
        if (!rc) fl_jv_write(&out, &v);
        check(!rc && !strcmp(fl_bytes_cstr(&out), good[i].want), "%s reads and writes as %s (%s%s)",
              good[i].text, good[i].want, fl_bytes_cstr(&out), err.msg);
        fl_bytes_free(&out);
        fl_arena_free(&arena);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        fl_arena arena = {0};
        fl_err err = {0};
        fl_jv v;
        int rc = fl_jv_parse(&v, &arena, wrong[i].text, strlen(wrong[i].text), "t", &err);
        check(rc == FL_E_FORMAT && !strcmp(err.msg, wrong[i].message), "refused: %s (%s)",
              wrong[i].message, err.msg);
        fl_arena_free(&arena);
    }
}

static void kinds_and_lookup(void) {
    static const char text[] = "{\"i\":1,\"f\":1.0,\"s\":\"a\\u0000b\",\"n\":null}";
    fl_arena arena = {0};
    fl_jv v;
    check(!fl_jv_parse(&v, &arena, "1e27", 3, "t", NULL) && v.number == 100,
          "an exponent ends where the text ends");
    check(!fl_jv_parse(&v, &arena, text, strlen(text), "t", NULL), "an object is read");
    check(fl_jv_get(&v, "i")->kind == FL_JV_INT, "1 is an integer");
    check(fl_jv_get(&v, "f")->kind == FL_JV_FLOAT, "1.0 is a float");
    check(fl_jv_get(&v, "s")->string.len == 3 && !fl_jv_get(&v, "s")->string.data[3],
          "a NUL inside a string is kept and the string is terminated");
    check(fl_jv_get(&v, "n")->kind == FL_JV_NULL, "null is a value");
    check(!fl_jv_get(&v, "x") && !fl_jv_get(fl_jv_get(&v, "i"), "i") && !fl_jv_get(NULL, "i"),
          "an absent member, a member of a number and of nothing are NULL");
    fl_arena_free(&arena);
}

static void limits(void) {
    fl_arena arena = {0};
    fl_bytes text = {0};
    fl_err err = {0};
    fl_jv v;
    for (int i = 0; i < 200; i++) fl_bytes_putc(&text, '[');
    for (int i = 0; i < 200; i++) fl_bytes_putc(&text, ']');
    check(!fl_jv_parse(&v, &arena, text.data, text.len, "t", &err), "200 levels are read");
    fl_bytes_free(&text);
    for (int i = 0; i < 100000; i++) fl_bytes_putc(&text, '[');
    check(fl_jv_parse(&v, &arena, text.data, text.len, "t", &err) == FL_E_LIMIT,
          "100,000 levels are refused: %s", err.msg);
    fl_bytes_free(&text);
    for (int i = 0; i < 1001; i++) fl_bytes_putc(&text, '1');
    check(fl_jv_parse(&v, &arena, text.data, text.len, "t", &err) == FL_E_LIMIT,
          "a number of 1,001 digits is refused: %s", err.msg);
    fl_bytes_free(&text);
    fl_bytes_putc(&text, '{');
    for (int i = 0; i < 5000; i++) fl_bytes_printf(&text, "\"k%d\":%d,", i % 4000, i);
    fl_bytes_puts(&text, "\"last\":1}");
    bool ok = !fl_jv_parse(&v, &arena, text.data, text.len, "t", &err);
    check(ok && v.n == 4001 && fl_jv_get(&v, "k999")->integer == 4999 &&
              fl_jv_get(&v, "k1000")->integer == 1000 && v.members[0].value.integer == 4000,
          "a large object keeps the first place and the last value of repeated keys");
    fl_bytes_free(&text);
    fl_arena_free(&arena);
}

static bool fail_after(void *left, size_t bytes) {
    (void)bytes;
    return (*(int *)left)-- > 0;
}

static void no_memory(void) {
    fl_bytes text = {0};
    fl_bytes_putc(&text, '[');
    for (int i = 0; i < 3000; i++) fl_bytes_printf(&text, "{\"a\":\"%0100d\",\"b\":[1,2]},", i);
    fl_bytes_puts(&text, "{\"a0\":0");
    for (int i = 1; i < 40; i++) fl_bytes_printf(&text, ",\"a%d\":%d", i, i);
    fl_bytes_puts(&text, "}]");
    int64_t live = fl_mem_live();
    int allowed = 0, rc = FL_E_NOMEM;
    bool clean = true;
    for (; rc && allowed < 1000; allowed++) {
        fl_arena arena = {0};
        fl_jv v;
        int left = allowed;
        fl_mem_set_hook(fail_after, &left);
        rc = fl_jv_parse(&v, &arena, text.data, text.len, "t", NULL);
        fl_mem_set_hook(NULL, NULL);
        clean = clean && (rc == FL_OK || rc == FL_E_NOMEM);
        fl_arena_free(&arena);
        clean = clean && fl_mem_live() == live;
    }
    check(clean && !rc && allowed > 5, "each of %d failing allocations is reported and undone",
          allowed - 1);
    fl_bytes_free(&text);
}

int main(void) {
    tables();
    kinds_and_lookup();
    limits();
    no_memory();
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8") || setlocale(LC_NUMERIC, "fr_FR.UTF-8")) tables();
    return tap_done();
}
