/* Messages prepared for a template, and texts cut behind the last message. */
#include <string.h>

#include "tap.h"
#include "text/chat_messages.h"

static const char loops[] =
    "{% for m in messages %}{% for p in m.content %}x{% endfor %}{% endfor %}";
static const char plain[] = "{% for m in messages %}{{ m.content }}{% endfor %}";

/* messages -> what the template gets, or the error. */
static const struct {
    const char *template, *messages, *want;
} cases[] = {
    {plain, "[]", "[]"},
    {plain, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":\"a\"}]"},
    {plain, "[{\"role\":\"assistant\"}]", "[{\"role\":\"assistant\",\"content\":null}]"},
    {plain, "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"text\":\"b\"},\"c\"]}]",
     "[{\"content\":\"a\\nb\\nc\"}]"},
    {loops, "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]",
     "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
    {plain,
     "[{\"content\":\"\",\"tool_calls\":[{\"id\":1,\"function\":{\"name\":\"f\",\"arguments\":"
     "\"{\\\"b\\\": 1.0, \\\"a\\\": [2]}\"}}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"id\":1,\"function\":{\"name\":\"f\",\"arguments\":"
     "{\"b\":1.0,\"a\":[2]}}}]}]"},
    {plain, "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":\"\"}},{\"x\":1}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{}}},{\"x\":1}]}]"},
    {plain, "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{\"k\":1}}}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{\"k\":1}}}]}]"},
    {plain, "[{\"content\":\"\",\"tool_calls\":null}]", "[{\"content\":\"\",\"tool_calls\":null}]"},
    {plain, "{\"role\":\"user\"}", "messages: not a list"},
    {plain, "[1]", "messages[0]: not an object"},
    {plain, "[{},{\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]",
     "messages[1]: content[0]: type 'image_url' is not text"},
    {plain, "[{\"tool_calls\":[{\"function\":{\"arguments\":\"{x\"}}]}]",
     "messages[0]: tool_calls[0].function.arguments: line 1, column 2: object key expected"},
};

static int prepare(const char *source, const char *messages, fl_bytes *out, fl_err *err) {
    fl_arena arena = {0};
    fl_template *t = NULL;
    fl_jv v, prepared;
    int rc = fl_template_parse(&t, source, strlen(source), err);
    if (!rc) rc = fl_jv_parse(&v, &arena, messages, strlen(messages), "messages", err);
    if (!rc) rc = fl_chat_prepare(&prepared, &v, t, &arena, err);
    if (!rc) fl_jv_write(out, &prepared);
    fl_template_unref(t);
    fl_arena_free(&arena);
    return rc;
}

static void preparing(void) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int rc = prepare(cases[i].template, cases[i].messages, &out, &err);
        const char *got = rc ? err.msg : fl_bytes_cstr(&out);
        check(!strcmp(got, cases[i].want) && rc == err.code, "%s is prepared as %s (%s)",
              cases[i].messages, cases[i].want, got);
        fl_bytes_free(&out);
    }
}

/* The text is cut behind the last message's content; NULL: it is not there. */
static const struct {
    const char *text, *messages, *want;
} cuts[] = {
    {"<a>Hi<e><b>Sure, <e>", "[{\"content\":\"Hi\"},{\"content\":\"Sure, \"}]",
     "<a>Hi<e><b>Sure, "},
    {"<a>Hi<e><b>Sure,<e>", "[{\"content\":\"Sure, \"}]", "<a>Hi<e><b>Sure,"},
    {"<a>x<e><b>x<e>", "[{\"content\":\"x\"},{\"content\":\" \\nx\"}]", "<a>x<e><b>x"},
    {"<b>part two<e>", "[{\"content\":[{\"text\":\"part one\"},{\"text\":\"part two\"}]}]",
     "<b>part two"},
    {"<b>other<e>", "[{\"content\":\"x\"}]", NULL},
    {"x", "[{\"content\":\"much longer\"}]", NULL},
    {"<b>x<e>", "[{\"content\":null}]", NULL},
    {"<b>x<e>", "[]", NULL},
};

static void cutting(void) {
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        fl_arena arena = {0};
        fl_bytes text = {0};
        fl_err err = {0};
        fl_jv v;
        fl_bytes_puts(&text, cuts[i].text);
        int rc = fl_jv_parse(&v, &arena, cuts[i].messages, strlen(cuts[i].messages), "m", &err);
        if (!rc) rc = fl_chat_cut_after_final(&text, &v, &err);
        if (cuts[i].want) {
            check(!rc && !strcmp(fl_bytes_cstr(&text), cuts[i].want), "%s goes on behind %s",
                  cuts[i].text, cuts[i].want);
        } else {
            check(rc == FL_E_ARG && err.msg[0], "%s: %s", cuts[i].text, err.msg);
        }
        fl_bytes_free(&text);
        fl_arena_free(&arena);
    }
}

static bool fail_after(void *left, size_t bytes) {
    (void)bytes;
    return (*(int *)left)-- > 0;
}

static void no_memory(void) {
    int64_t live = fl_mem_live();
    int allowed = 0, rc = FL_E_NOMEM;
    bool clean = true;
    for (; rc && clean && allowed < 100; allowed++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int left = allowed;
        fl_mem_set_hook(fail_after, &left);
        rc = prepare(plain, cases[5].messages, &out, &err);
        fl_mem_set_hook(NULL, NULL);
        fl_bytes_free(&out);
        clean = (rc == FL_OK || rc == FL_E_NOMEM) && fl_mem_live() == live;
    }
    check(clean && !rc, "each of %d failing allocations is reported and undone", allowed - 1);
}

int main(void) {
    preparing();
    cutting();
    no_memory();
    return tap_done();
}
