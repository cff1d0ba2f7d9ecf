#include "engine/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "tap.h"

/* Values are made from the table of fields itself: a field of a type without a rule here
 * fails, so that none can be forgotten. */

static const char *const types[] = {"null",   "true",     "7",         "7.5",
                                    "-1e308", "\"text\"", "[[\"x\"]]", "{\"1\":\"x\"}"};
/* Which of these each type of field refuses. */
typedef struct rule {
    const char *type, *refused; /* a '1' for each refused entry of types[] */
} rule;
static const rule rules[] = {
    {"integer", "01011111"},
    {"number", "01001111"},
    {"boolean", "00111111"},
    {"string", "01111011"},
    {"string or list of strings", "01111011"},
    {"list of ids", "01111111"},
    {"object of id to bias", "01111111"},
    {"list of stages", "01111111"},
};
enum { N_TYPES = sizeof(types) / sizeof(types[0]), N_RULES = sizeof(rules) / sizeof(rules[0]) };

static fl_err err;
static fl_params params;

/* Read {"name": value}; the code. */
static int read_value(const char *name, const char *value) {
    fl_arena arena = {0};
    fl_bytes text = {0};
    fl_jv object;
    const char *field = NULL;
    fl_bytes_puts(&text, "{\"");
    fl_bytes_puts(&text, name);
    fl_bytes_puts(&text, "\":");
    fl_bytes_puts(&text, value);
    fl_bytes_puts(&text, "}");
    err = (fl_err){0};
    int rc = fl_jv_parse(&object, &arena, text.data, text.len, "test", &err);
    const fl_params_source source = {
        .object = &object, .strict = true, .arena = &arena, .field = &field};
    if (rc) {
        check(false, "%s: the test's own JSON: %s", name, err.msg);
    } else {
        rc = fl_params_read(&params, &source, &err);
        if (rc && (!field || strcmp(field, name) || strncmp(err.msg, name, strlen(name))))
            check(false, "%s: refused as %s: %s", name, field ? field : "nothing", err.msg);
    }
    fl_bytes_free(&text);
    fl_arena_free(&arena);
    return rc;
}

static const char *number(double v) {
    static char text[32];
    snprintf(text, sizeof(text), v == floor(v) ? "%.0f" : "%.9g", v);
    return text;
}

static void check_seed(const fl_param_info *f) {
    static const struct {
        const char *value;
        bool taken;
    } cases[] = {{"0", true},
                 {"-2", true},
                 {"9007199254740993", true},
                 {"9223372036854775807", true},
                 {"-9223372036854775808", true},
                 {"9223372036854775808", false},
                 {"-9223372036854777856", false},
                 {"1e30", false},
                 {"1.5", false},
                 {"\"1\"", false},
                 {"5.0", true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int rc = read_value(f->name, cases[i].value);
        check(rc == (cases[i].taken ? FL_OK : FL_E_ARG), "%s: %s is %s", f->name, cases[i].value,
              cases[i].taken ? "taken" : "refused");
    }
}

static void check_number(const fl_param_info *f, bool whole) {
    if (!strcmp(f->name, "seed")) {
        check_seed(f);
        return;
    }
    const double below = whole ? f->min - 1 : f->min - 1e-3 * fmax(1, fabs(f->min));
    const double above = whole ? f->max + 1 : f->max + 1e-3 * fmax(1, fabs(f->max));
    check(read_value(f->name, number(below)) == FL_E_ARG && strstr(err.msg, "need"),
          "%s: refuses %s, below its minimum: %s", f->name, number(below), err.msg);
    check(read_value(f->name, number(above)) == FL_E_ARG && strstr(err.msg, "need"),
          "%s: refuses %s, above its maximum", f->name, number(above));
    int rc = read_value(f->name, number(f->min));
    check(!rc, "%s: takes its minimum %s", f->name, number(f->min));
    rc = read_value(f->name, number(f->max));
    check(!rc, "%s: takes its maximum %s", f->name, number(f->max));
    check(read_value(f->name, "NaN") == FL_E_ARG && read_value(f->name, "Infinity") == FL_E_ARG,
          "%s: refuses NaN and Infinity", f->name);
}

/* The code for a list of n items, each `item` (with %d: 1, 2, ...). */
static int read_list(const char *name, const char *open, const char *item, double n) {
    fl_bytes text = {0};
    fl_bytes_puts(&text, open);
    for (int i = 0; i < (int)n; i++) {
        char one[64];
        snprintf(one, sizeof(one), item, i + 1);
        if (i) fl_bytes_puts(&text, ",");
        fl_bytes_puts(&text, one);
    }
    fl_bytes_puts(&text, *open == '[' ? "]" : "}");
    int rc = read_value(name, fl_bytes_cstr(&text));
    fl_bytes_free(&text);
    return rc;
}

static void check_list(const fl_param_info *f, const char *open, const char *item) {
    if (f->min > 0)
        check(read_list(f->name, open, item, f->min - 1) == FL_E_ARG, "%s: refuses %.0f items",
              f->name, f->min - 1);
    check(read_list(f->name, open, item, f->max + 1) == FL_E_ARG, "%s: refuses %.0f items", f->name,
          f->max + 1);
    int rc = read_list(f->name, open, item, f->min);
    check(!rc, "%s: takes %.0f items", f->name, f->min);
    rc = read_list(f->name, open, item, f->max);
    check(!rc, "%s: takes %.0f items", f->name, f->max);
}

static void check_ids(const fl_param_info *f) {
    check_list(f, "[", "%d");
    check(read_value(f->name, "[-1]") == FL_E_ARG, "%s: refuses id -1", f->name);
    check(read_value(f->name, "[2147483648]") == FL_E_ARG, "%s: refuses id 2^31", f->name);
    check(read_value(f->name, "[0, 2147483647]") == FL_OK, "%s: takes ids 0 and 2^31-1", f->name);
}

static void check_bias(const fl_param_info *f) {
    check_list(f, "{", "\"%d\":1");
    check(read_value(f->name, "{\"1\":-100.5}") == FL_E_ARG, "%s: refuses -100.5", f->name);
    check(read_value(f->name, "{\"1\":101}") == FL_E_ARG, "%s: refuses 101", f->name);
    check(read_value(f->name, "{\"1\":-100,\"2\":100}") == FL_OK, "%s: takes -100 and 100",
          f->name);
    check(read_value(f->name, "{\"-1\":0}") == FL_E_ARG &&
              read_value(f->name, "{\"2147483648\":0}") == FL_E_ARG &&
              read_value(f->name, "{\"x\":0}") == FL_E_ARG,
          "%s: refuses names that are no ids", f->name);
}

static void check_texts(const fl_param_info *f) {
    char text[1100], item[1200];
    check_list(f, "[", "\"w%d\"");
    check(!read_value(f->name, "\"\"") && !read_value(f->name, "[\"\"]"),
          "%s: takes empty texts for none", f->name);
    for (int n = 1024; n <= 1025; n++) {
        memset(text, 'x', (size_t)n);
        text[n] = 0;
        snprintf(item, sizeof(item), "[\"%s\"]", text);
        check((read_value(f->name, item) == FL_E_ARG) == (n > 1024), "%s: a text of %d bytes",
              f->name, n);
    }
}

static void check_text(const fl_param_info *f) {
    char text[1024] = "\"";
    for (int n = (int)f->max; n <= (int)f->max + 1; n++) {
        memset(text + 1, 'x', (size_t)n);
        memcpy(text + 1 + n, "\"", 2);
        check((read_value(f->name, text) == FL_E_ARG) == (n > (int)f->max), "%s: %d bytes", f->name,
              n);
    }
    check(read_value(f->name, "\"\"") == FL_OK, "%s: takes an empty text", f->name);
}

static void check_stages(const fl_param_info *f) {
    check(read_value(f->name, "[]") == FL_E_ARG, "%s: refuses no stages", f->name);
    check(read_list(f->name, "[", "\"top_k\"", f->max + 1) == FL_E_ARG, "%s: refuses %.0f stages",
          f->name, f->max + 1);
    check(read_value(f->name, "[\"no_stage\"]") == FL_E_ARG, "%s: refuses another name", f->name);
    check(read_value(f->name, "[\"top_p\",\"top_k\"]") == FL_OK, "%s: takes two stages", f->name);
}

static void check_limits(const fl_param_info *f) {
    if (!strcmp(f->type, "integer") || !strcmp(f->type, "number"))
        check_number(f, !strcmp(f->type, "integer"));
    else if (!strcmp(f->type, "string"))
        check_text(f);
    else if (!strcmp(f->type, "string or list of strings"))
        check_texts(f);
    else if (!strcmp(f->type, "list of ids"))
        check_ids(f);
    else if (!strcmp(f->type, "object of id to bias"))
        check_bias(f);
    else if (!strcmp(f->type, "list of stages"))
        check_stages(f);
    else
        check(!strcmp(f->type, "boolean") && read_value(f->name, "true") == FL_OK &&
                  read_value(f->name, "false") == FL_OK,
              "%s: takes true and false", f->name);
}

static void check_types(const fl_param_info *f) {
    const rule *r = NULL;
    for (int i = 0; i < N_RULES; i++) {
        if (!strcmp(rules[i].type, f->type)) r = &rules[i];
    }
    if (!check(r != NULL, "%s: its type '%s' has a rule", f->name, f->type)) return;
    for (int i = 0; i < N_TYPES; i++) {
        if (r->refused[i] != '1') continue; /* whether it is in range is another question */
        check(read_value(f->name, types[i]) == FL_E_ARG, "%s: refuses %s", f->name, types[i]);
    }
    check(read_value(f->name, "null") == FL_OK, "%s: null counts as absent", f->name);
}

static void test_object(void) {
    fl_arena arena = {0};
    fl_jv v = {0};
    const fl_params_source source = {.object = &v, .strict = true, .arena = &arena};
    const fl_params_source loose = {.object = &v, .arena = &arena};
    check(fl_params_read(&params, &source, &err) == FL_E_ARG, "a request is an object");
    const char text[] = "{\"bogus\": 1}", order[] = "{\"min_tokens\": 5, \"max_tokens\": 4}";
    fl_jv_parse(&v, &arena, text, sizeof(text) - 1, "test", &err);
    check(fl_params_read(&params, &source, &err) == FL_E_ARG && strstr(err.msg, "bogus"),
          "a member that is no field is refused by name");
    check(fl_params_read(&params, &loose, &err) == FL_OK, "or ignored, when not strict");
    fl_jv_parse(&v, &arena, order, sizeof(order) - 1, "test", &err);
    check(fl_params_read(&params, &source, &err) == FL_E_ARG && strstr(err.msg, "max_tokens 4"),
          "min_tokens above max_tokens: both are named");
    fl_arena_free(&arena);
}

static int read_all(void *ctx) {
    static const char text[] = "{\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[1],\"logit_bias\":"
                               "{\"3\":1},\"allowed_token_ids\":[3],\"cache_salt\":\"s\"}";
    fl_arena arena = {0};
    fl_jv v;
    (void)ctx;
    int rc = fl_jv_parse(&v, &arena, text, sizeof(text) - 1, "test", &err);
    const fl_params_source source = {.object = &v, .strict = true, .arena = &arena};
    if (!rc) rc = fl_params_read(&params, &source, &err);
    fl_arena_free(&arena);
    return rc;
}

int main(void) {
    fl_param_info f;
    for (int i = 0; fl_params_field(i, &f); i++) {
        check_types(&f);
        check_limits(&f);
    }
    test_object();
    check(fixture_sweep(read_all, NULL) > 0, "without memory: FL_E_NOMEM, and nothing stays");
    return tap_done();
}
