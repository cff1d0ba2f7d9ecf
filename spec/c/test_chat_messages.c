/* Messages prepared for a template, and texts cut behind the last message. */
#include <string.h>

#include "tap.h"
#include "text/chat_messages.h"

static const char loops[] =
    "{% for m in messages %}{% for p in m.content %}x{% endfor %}{% endfor %}";
static const char both[] = "{% for m in messages %}{% if m.content is string %}{{ m.content }}"
                           "{% else %}{% for p in m['content'] %}x{% endfor %}{% endif %}"
                           "{% endfor %}";
static const char plain[] = "{% for m in messages %}{{ m.content }}{% endfor %}";

/* messages -> what the template gets, or the error. */
static const struct {
    const char *template, *messages, *want;
} cases[] = {
    {plain, "[]", "[]"},
    {plain, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":\"a\"}]"},
    /* content that is absent or null */
    {plain, "[{\"role\":\"assistant\"}]", "[{\"role\":\"assistant\",\"content\":\"\"}]"},
    {plain, "[{\"role\":\"assistant\",\"content\":null}]",
     "[{\"role\":\"assistant\",\"content\":\"\"}]"},
    {both, "[{\"role\":\"assistant\",\"content\":null}]",
     "[{\"role\":\"assistant\",\"content\":\"\"}]"},
    {loops, "[{\"role\":\"assistant\",\"content\":null}]",
     "[{\"role\":\"assistant\",\"content\":[]}]"},
    {plain, "[{\"role\":\"user\"}]", "[{\"role\":\"user\",\"content\":\"\"}]"},
    {plain, "[{\"role\":\"user\",\"content\":null}]",
     "messages[0]: content: null, but a message of role 'user' needs a text"},
    {plain, "[{},{\"role\":\"tool\",\"content\":null}]",
     "messages[1]: content: null, but a message of role 'tool' needs a text"},
    {plain, "[{\"role\":\"user\",\"content\":7}]",
     "messages[0]: content: need a text or a list of parts"},
    /* members that clients send as null */
    {plain,
     "[{\"content\":\"a\",\"refusal\":null,\"name\":null,\"role\":\"assistant\",\"audio\":null,"
     "\"function_call\":null,\"tool_calls\":null}]",
     "[{\"content\":\"a\",\"role\":\"assistant\"}]"},
    {plain, "[{\"content\":\"a\",\"tool_calls\":[]}]", "[{\"content\":\"a\"}]"},
    {plain, "[{\"content\":\"a\",\"reasoning\":\"r\"}]",
     "[{\"content\":\"a\",\"reasoning\":\"r\",\"reasoning_content\":\"r\"}]"},
    {plain, "[{\"content\":\"a\",\"reasoning\":\"r\",\"reasoning_content\":\"c\"}]",
     "[{\"content\":\"a\",\"reasoning\":\"r\",\"reasoning_content\":\"c\"}]"},
    /* lists of parts */
    {plain, "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"text\":\"b\"},\"c\"]}]",
     "[{\"content\":\"a\\nb\\nc\"}]"},
    {plain,
     "[{\"content\":[{\"type\":\"text\",\"text\":\"\"},{\"type\":\"text\",\"text\":null},"
     "{\"type\":\"refusal\",\"refusal\":\"no\"},{\"type\":\"input_text\",\"text\":\"b\"}]}]",
     "[{\"content\":\"no\\nb\"}]"},
    {plain, "[{\"content\":[]}]", "[{\"content\":\"\"}]"},
    {loops, "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]",
     "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
    {loops, "[{\"content\":[\"a\",{\"type\":\"output_text\",\"text\":\"b\"}]}]",
     "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]"},
    {loops, "[{\"content\":\"a\"}]", "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]"},
    {both, "[{\"content\":\"a\"}]", "[{\"content\":\"a\"}]"},
    {loops, "[{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},\"b\"]}]",
     "[{\"role\":\"tool\",\"content\":\"a\\nb\"}]"},
    {plain, "[{},{\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]",
     "messages[1]: content[0]: type 'image_url' is not text"},
    {plain, "[{\"content\":[{\"type\":\"text\",\"text\":[1]}]}]",
     "messages[0]: content[0]: text: need a text"},
    {plain, "[{\"content\":[{}]}]", "messages[0]: content[0]: text: need a text"},
    {plain, "[{\"content\":[5]}]", "messages[0]: content[0]: need an object with a text"},
    /* tool calls */
    {plain,
     "[{\"content\":\"\",\"tool_calls\":[{\"id\":1,\"function\":{\"name\":\"f\",\"arguments\":"
     "\"{\\\"b\\\": 1.0, \\\"a\\\": [2]}\"}}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"id\":1,\"function\":{\"name\":\"f\",\"arguments\":"
     "{\"b\":1.0,\"a\":[2]}}}]}]"},
    {plain,
     "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"arguments\":\"\"}}"
     ","
     "{\"function\":{\"arguments\":null}},{\"function\":{}},{\"function\":{\"arguments\":\" \"}},"
     "{\"function\":{\"arguments\":\"{x\"}},{\"function\":{\"arguments\":7}},{\"x\":1}]}]",
     "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{}}},"
     "{\"function\":{\"arguments\":{}}},{\"function\":{\"arguments\":{}}},"
     "{\"function\":{\"arguments\":{}}},{\"function\":{\"arguments\":{}}},"
     "{\"function\":{\"arguments\":{}}},{\"x\":1}]}]"},
    {plain, "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{\"k\":1}}}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":{\"k\":1}}}]}]"},
    {plain, "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":\"[1]\"}}]}]",
     "[{\"content\":\"\",\"tool_calls\":[{\"function\":{\"arguments\":[1]}}]}]"},
    {plain, "[{\"tool_calls\":{}}]", "messages[0]: tool_calls: need a list"},
    {plain, "[{\"tool_calls\":[1]}]", "messages[0]: tool_calls[0]: not an object"},
    {plain, "[{\"tool_calls\":[{\"function\":\"f\"}]}]",
     "messages[0]: tool_calls[0].function: not an object"},
    {plain, "{\"role\":\"user\"}", "messages: not a list"},
    {plain, "[1]", "messages[0]: not an object"},
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

/* How the prompt ends with continue_final_message, as transformers ends it; NULL: refused. */
static const char turns[] = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>\n{% endfor %}";
static const char trims[] =
    "{% for m in messages %}<{{ m.role }}>\n\n{{ m.content|trim }}<e>{% endfor %}";
static const char thinks[] = "{% for m in messages %}<b>{{ m.content.split('</think>')[-1] }}<e>"
                             "{% endfor %}";
static const struct {
    const char *template, *messages, *want;
} ends[] = {
    {turns, "[{\"role\":\"u\",\"content\":\"Hi\"},{\"role\":\"a\",\"content\":\"Sure, \"}]",
     "<u>Hi<e>\n<a>Sure, "},
    {trims, "[{\"role\":\"a\",\"content\":\"Sure, \"}]", "<a>\n\nSure,"},
    {trims, "[{\"role\":\"a\",\"content\":\"\\u3000x\\u00a0\\u001f\"}]", "<a>\n\nx"},
    /* the text stands in what the template writes behind it, too */
    {turns, "[{\"role\":\"a\",\"content\":\"e\"}]", "<a>e"},
    {turns, "[{\"role\":\"a\",\"content\":\"<e>\\n\"}]", "<a><e>\n"},
    {turns, "[{\"role\":\"a\",\"content\":\"\"}]", "<a>"},
    {turns, "[{\"role\":\"a\",\"content\":null}]", NULL},
    {turns, "[{\"role\":\"assistant\",\"content\":null}]", "<assistant>"},
    {trims, "[{\"role\":\"a\",\"content\":\" \"}]", "<a>"},
    {turns, "[{\"role\":\"a\",\"content\":\"CONTINUE_FINAL_MESSAGE_TAG \"}]",
     "<a>CONTINUE_FINAL_MESSAGE_TAG "},
    {turns, "[{\"role\":\"a\",\"content\":[{\"text\":\"one\"},{\"text\":\"two \"}]}]",
     "<a>one\ntwo "},
    {"{% for m in messages %}{% for p in m.content %}<p>{{ p.text }}</p>{% endfor %}{% endfor %}",
     "[{\"content\":[{\"text\":\"one\"},{\"text\":\"p\"}]}]", "<p>one</p><p>p"},
    {thinks, "[{\"content\":\"a</think>b\"}]", NULL},
    {"<b>other<e>", "[{\"content\":\"x\"}]", NULL},
    {"", "[{\"content\":\"x\"}]", NULL},
    {turns, "[{\"content\":[]},{\"role\":\"a\",\"content\":[]}]", "<><e>\n<a>"},
    {turns, "[]", NULL},
};

static int render_to_mark(const char *source, const char *messages, fl_bytes *out, fl_err *err) {
    fl_arena arena = {0};
    fl_template *t = NULL;
    fl_jv v, prepared;
    int rc = fl_template_parse(&t, source, strlen(source), err);
    if (!rc) rc = fl_jv_parse(&v, &arena, messages, strlen(messages), "messages", err);
    if (!rc) rc = fl_chat_prepare(&prepared, &v, t, &arena, err);
    if (!rc) rc = fl_chat_mark_final(&prepared, &arena, err);
    if (!rc) {
        const fl_jv_member member = {
            {.kind = FL_JV_STRING, .string = {"messages", strlen("messages")}}, prepared};
        const fl_jv values = {.kind = FL_JV_OBJECT, .n = 1, .members = &member};
        const fl_template_context context = {.values = &values};
        rc = fl_template_render(t, &context, out, NULL, err);
    }
    if (!rc) rc = fl_chat_cut_at_mark(out, &prepared, err);
    fl_template_unref(t);
    fl_arena_free(&arena);
    return rc;
}

static void going_on(void) {
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int rc = render_to_mark(ends[i].template, ends[i].messages, &out, &err);
        const char *got = rc ? err.msg : fl_bytes_cstr(&out);
        check(ends[i].want ? !rc && !strcmp(got, ends[i].want) : rc == FL_E_ARG && err.msg[0],
              "%s through %s goes on behind %s (%s)", ends[i].messages, ends[i].template,
              ends[i].want ? ends[i].want : "nothing", got);
        fl_bytes_free(&out);
    }
}

static bool fail_after(void *left, size_t bytes) {
    (void)bytes;
    return (*(int *)left)-- > 0;
}

typedef int (*through)(const char *source, const char *messages, fl_bytes *out, fl_err *err);

static void no_memory(through run, const char *source, const char *messages) {
    int64_t live = fl_mem_live();
    int allowed = 0, rc = FL_E_NOMEM;
    bool clean = true;
    for (; rc && clean && allowed < 200; allowed++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int left = allowed;
        fl_mem_set_hook(fail_after, &left);
        rc = run(source, messages, &out, &err);
        fl_mem_set_hook(NULL, NULL);
        fl_bytes_free(&out);
        clean = (rc == FL_OK || rc == FL_E_NOMEM) && fl_mem_live() == live;
    }
    check(clean && !rc, "each of %d failing allocations is reported and undone", allowed - 1);
}

int main(void) {
    static const char all[] =
        "[{\"content\":\"a\",\"name\":null,\"reasoning\":\"r\"},{\"content\":[\"b\",\"c\"],"
        "\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"k\\\":[1]}\"}}]}]";
    preparing();
    going_on();
    no_memory(prepare, plain, all);
    no_memory(prepare, loops, all);
    no_memory(render_to_mark, turns, all);
    return tap_done();
}
