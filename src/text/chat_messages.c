#include "text/chat_messages.h"

#include <string.h>

static int no_memory(fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "messages: no memory");
}

static bool is_text(const fl_jv *v) {
    return v && v->kind == FL_JV_STRING;
}

/* A copy of an object with room for one more member. */
static fl_jv_member *copy_members(const fl_jv *object, fl_arena *arena) {
    fl_jv_member *m = fl_arena_alloc(arena, ((size_t)object->n + 1) * sizeof(*m));
    if (m && object->n) memcpy(m, object->members, object->n * sizeof(*m));
    return m;
}

static fl_jv_member *find(fl_jv_member *members, uint32_t n, const char *key) {
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(members[i].key.string.data, key)) return &members[i];
    return NULL;
}

/* The call with its function's arguments as a value, when they are JSON text. */
static int prepare_call(fl_jv *call, fl_arena *arena, fl_err *err) {
    const fl_jv *function = fl_jv_get(call, "function");
    const fl_jv *arguments = fl_jv_get(function, "arguments");
    fl_jv value;
    if (!is_text(arguments)) return FL_OK;
    if (!arguments->string.len) {
        value = (fl_jv){.kind = FL_JV_OBJECT};
    } else {
        int rc = fl_jv_parse(&value, arena, arguments->string.data, arguments->string.len,
                             "arguments", err);
        if (rc) return rc == FL_E_FORMAT && err ? (err->code = FL_E_ARG) : rc;
    }
    fl_jv_member *of_call = copy_members(call, arena), *of_function;
    if (!of_call || !(of_function = copy_members(function, arena))) return no_memory(err);
    find(of_function, function->n, "arguments")->value = value;
    fl_jv changed = {.kind = FL_JV_OBJECT, .n = function->n, .members = of_function};
    find(of_call, call->n, "function")->value = changed;
    call->members = of_call;
    return FL_OK;
}

static int prepare_calls(fl_jv *calls, fl_arena *arena, fl_err *err) {
    if (calls->kind != FL_JV_ARRAY) return FL_OK;
    fl_jv *items = fl_arena_alloc(arena, calls->n * sizeof(*items));
    if (!items) return no_memory(err);
    for (uint32_t i = 0; i < calls->n; i++) {
        items[i] = calls->items[i];
        int rc = prepare_call(&items[i], arena, err);
        if (rc) return fl_fail_in(err, "tool_calls[%u].function.", i);
    }
    calls->items = items;
    return FL_OK;
}

/* The text parts of a content list as one string. */
static int join_parts(fl_jv *content, fl_arena *arena, fl_err *err) {
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < content->n; i++) {
        const fl_jv *part = &content->items[i], *type = fl_jv_get(part, "type");
        const fl_jv *text = part->kind == FL_JV_STRING ? part : fl_jv_get(part, "text");
        if (!is_text(text) || (is_text(type) && strcmp(type->string.data, "text") != 0))
            return fl_fail(err, FL_E_UNSUPPORTED, "content[%u]: type '%.40s' is not text", i,
                           is_text(type) ? type->string.data : "?");
        n += text->string.len + 1;
    }
    char *data = fl_arena_alloc(arena, n + 1);
    if (!data) return no_memory(err);
    for (uint32_t i = 0; i < content->n; i++) {
        const fl_jv *part = &content->items[i];
        const fl_jv *text = part->kind == FL_JV_STRING ? part : fl_jv_get(part, "text");
        if (i) data[at++] = '\n';
        memcpy(data + at, text->string.data, text->string.len);
        at += text->string.len;
    }
    *content = (fl_jv){.kind = FL_JV_STRING, .string = {data, at}};
    return FL_OK;
}

static int prepare_message(fl_jv *message, bool joined, fl_arena *arena, fl_err *err) {
    int rc;
    if (message->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "not an object");
    fl_jv_member *members = copy_members(message, arena);
    if (!members) return no_memory(err);
    fl_jv_member *content = find(members, message->n, "content");
    fl_jv_member *calls = find(members, message->n, "tool_calls");
    message->members = members;
    if (!content) {
        members[message->n++] =
            (fl_jv_member){.key = {.kind = FL_JV_STRING, .string = {"content", strlen("content")}}};
    } else if (joined && content->value.kind == FL_JV_ARRAY) {
        if ((rc = join_parts(&content->value, arena, err))) return rc;
    }
    return calls ? prepare_calls(&calls->value, arena, err) : FL_OK;
}

int fl_chat_prepare(fl_jv *out, const fl_jv *messages, const fl_template *t, fl_arena *arena,
                    fl_err *err) {
    if (messages->kind != FL_JV_ARRAY) return fl_fail(err, FL_E_ARG, "messages: not a list");
    bool joined = !fl_template_takes_parts(t);
    fl_jv *items = fl_arena_alloc(arena, messages->n * sizeof(*items));
    if (!items) return no_memory(err);
    for (uint32_t i = 0; i < messages->n; i++) {
        items[i] = messages->items[i];
        if (prepare_message(&items[i], joined, arena, err))
            return fl_fail_in(err, "messages[%u]: ", i);
    }
    *out = (fl_jv){.kind = FL_JV_ARRAY, .n = messages->n, .items = items};
    return FL_OK;
}

static const char *skip_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r'))) p++;
    return p;
}

static const char *back_over_space(const char *p, const char *end) {
    while (end > p && (end[-1] == ' ' || (end[-1] >= '\t' && end[-1] <= '\r'))) end--;
    return end;
}

/* Where the last message's content ends in text: templates may have trimmed it. */
int fl_chat_cut_after_final(fl_bytes *text, const fl_jv *messages, fl_err *err) {
    const fl_jv *last =
        messages->kind == FL_JV_ARRAY && messages->n ? &messages->items[messages->n - 1] : NULL;
    const fl_jv *content = fl_jv_get(last, "content");
    if (content && content->kind == FL_JV_ARRAY && content->n)
        content = fl_jv_get(&content->items[content->n - 1], "text");
    if (!is_text(content))
        return fl_fail(err, FL_E_ARG, "continue_final_message: the last message has no text");
    const char *end = content->string.data + content->string.len;
    const char *start = skip_space(content->string.data, end), *stop = back_over_space(start, end);
    size_t n = (size_t)(stop - start), at = text->len;
    for (at = text->len >= n ? text->len - n + 1 : 0; at-- > 0;)
        if (!memcmp(text->data + at, start, n)) break;
    if (at == SIZE_MAX)
        return fl_fail(err, FL_E_ARG,
                       "continue_final_message: the template does not write the last message");
    size_t whole = (size_t)(end - start); /* with the white space behind it, where it is kept */
    bool kept = whole <= text->len - at && !memcmp(text->data + at, start, whole);
    text->len = at + (kept ? whole : n);
    return FL_OK;
}
