#include "text/chat_messages.h"

#include <string.h>

#include "text/unicode.h"

/* The blank tells whether the template trims what it is given. */
static const char mark[] = "CONTINUE_FINAL_MESSAGE_TAG ";
enum { MARK = sizeof(mark) - 1, MORE_MEMBERS = 2 /* that a message or a function may get */ };

static int no_memory(fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "messages: no memory");
}

static bool is_text(const fl_jv *v) {
    return v && v->kind == FL_JV_STRING;
}

static bool text_is(const fl_jv *v, const char *text) {
    return is_text(v) && v->string.len == strlen(text) &&
           !memcmp(v->string.data, text, v->string.len);
}

static fl_jv text_value(const char *text) {
    return (fl_jv){.kind = FL_JV_STRING, .string = {text, strlen(text)}};
}

static fl_jv empty_object(void) {
    return (fl_jv){.kind = FL_JV_OBJECT};
}

static fl_jv_member *find(const fl_jv *object, const char *key) {
    for (uint32_t i = 0; object && object->kind == FL_JV_OBJECT && i < object->n; i++)
        if (text_is(&object->members[i].key, key)) return (fl_jv_member *)&object->members[i];
    return NULL;
}

/* *object becomes a copy of itself with room for more members. */
static int own(fl_jv *object, fl_arena *arena, fl_err *err) {
    fl_jv_member *m = fl_arena_alloc(arena, ((size_t)object->n + MORE_MEMBERS) * sizeof(*m));
    if (!m) return no_memory(err);
    if (object->n) memcpy(m, object->members, object->n * sizeof(*m));
    object->members = m;
    return FL_OK;
}

/* In an object of our own. */
static void set(fl_jv *object, const char *key, fl_jv value) {
    fl_jv_member *m = find(object, key);
    if (!m) m = (fl_jv_member *)&object->members[object->n++];
    *m = (fl_jv_member){text_value(key), value};
}

static void drop(fl_jv *object, const fl_jv_member *m) {
    fl_jv_member *members = (fl_jv_member *)object->members;
    size_t i = (size_t)(m - members);
    memmove(&members[i], &members[i + 1], (object->n - i - 1) * sizeof(*members));
    object->n--;
}

/* ---- tool calls -------------------------------------------------------------------- */

/* Templates get a value; a model that has written broken JSON must not end its chat. */
static int prepare_arguments(fl_jv *arguments, fl_arena *arena, fl_err *err) {
    fl_jv value = empty_object();
    if (arguments->kind == FL_JV_OBJECT || (arguments->kind == FL_JV_ARRAY && arguments->n))
        return FL_OK;
    if (is_text(arguments)) {
        fl_err why = {0};
        int rc = fl_jv_parse(&value, arena, arguments->string.data, arguments->string.len,
                             "arguments", &why);
        if (rc && rc != FL_E_FORMAT) return fl_fail(err, rc, "%s", why.msg);
        if (rc) value = empty_object();
    }
    *arguments = value;
    return FL_OK;
}

static int prepare_call(fl_jv *call, fl_arena *arena, fl_err *err) {
    int rc;
    if (call->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, ": not an object");
    const fl_jv_member *m = find(call, "function");
    if (!m) return FL_OK;
    fl_jv function = m->value;
    if (function.kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, ".function: not an object");
    const fl_jv_member *given = find(&function, "arguments");
    fl_jv arguments = given ? given->value : empty_object();
    if ((rc = prepare_arguments(&arguments, arena, err))) return fl_fail_in(err, ".function.");
    if ((rc = own(call, arena, err)) || (rc = own(&function, arena, err))) return rc;
    set(&function, "arguments", arguments);
    set(call, "function", function);
    return FL_OK;
}

static int prepare_calls(fl_jv *message, fl_arena *arena, fl_err *err) {
    fl_jv_member *m = find(message, "tool_calls");
    if (!m) return FL_OK;
    if (m->value.kind != FL_JV_ARRAY) return fl_fail(err, FL_E_ARG, "tool_calls: need a list");
    if (!m->value.n) {
        drop(message, m);
        return FL_OK;
    }
    fl_jv *calls = fl_arena_alloc(arena, m->value.n * sizeof(*calls));
    if (!calls) return no_memory(err);
    for (uint32_t i = 0; i < m->value.n; i++) {
        calls[i] = m->value.items[i];
        if (prepare_call(&calls[i], arena, err)) return fl_fail_in(err, "tool_calls[%u]", i);
    }
    m->value.items = calls;
    return FL_OK;
}

/* ---- content ----------------------------------------------------------------------- */

/* The text of a part; NULL in *out: the part says nothing. */
static int part_text(const fl_jv *part, const fl_jv **out, fl_err *err) {
    static const char *const types[][2] = {{"text", "text"},
                                           {"input_text", "text"},
                                           {"output_text", "text"},
                                           {"refusal", "refusal"},
                                           {"thinking", "thinking"}};
    const fl_jv *type = fl_jv_get(part, "type");
    *out = NULL;
    if (is_text(part)) {
        *out = part;
        return FL_OK;
    }
    if (part->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "need an object with a text");
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (type && !text_is(type, types[i][0])) continue;
        const fl_jv *text = fl_jv_get(part, types[i][1]);
        if (is_text(text)) *out = text;
        if (is_text(text) || (type && (!text || text->kind == FL_JV_NULL))) return FL_OK;
        return fl_fail(err, FL_E_ARG, "%s: need a text", types[i][1]);
    }
    return fl_fail(err, FL_E_UNSUPPORTED, "type '%.40s' is not text",
                   is_text(type) ? type->string.data : "?");
}

/* The texts of a list of parts; *n of them. */
static int part_texts(const fl_jv *content, fl_arena *arena, const fl_jv ***out, uint32_t *n,
                      fl_err *err) {
    *n = 0;
    if (!(*out = fl_arena_alloc(arena, (content->n + 1) * sizeof(**out)))) return no_memory(err);
    for (uint32_t i = 0; i < content->n; i++) {
        if (part_text(&content->items[i], &(*out)[*n], err))
            return fl_fail_in(err, "content[%u]: ", i);
        *n += (*out)[*n] != NULL;
    }
    return FL_OK;
}

/* One string; empty parts leave no line of their own. */
static int join_texts(const fl_jv **texts, uint32_t n, fl_arena *arena, fl_jv *out, fl_err *err) {
    size_t total = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) total += texts[i]->string.len + 1;
    char *data = fl_arena_alloc(arena, total + 1);
    if (!data) return no_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        const size_t len = texts[i]->string.len;
        if (at && len) data[at++] = '\n';
        if (len) memcpy(data + at, texts[i]->string.data, len);
        at += len;
    }
    *out = (fl_jv){.kind = FL_JV_STRING, .string = {data, at}};
    return FL_OK;
}

/* [{"type": "text", "text": ...}, ...] */
static int list_texts(const fl_jv **texts, uint32_t n, fl_arena *arena, fl_jv *out, fl_err *err) {
    fl_jv *items = fl_arena_alloc(arena, (n + 1) * sizeof(*items));
    if (!items) return no_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        items[i] = empty_object();
        int rc = own(&items[i], arena, err);
        if (rc) return rc;
        set(&items[i], "type", text_value("text"));
        set(&items[i], "text", *texts[i]);
    }
    *out = (fl_jv){.kind = FL_JV_ARRAY, .n = n, .items = items};
    return FL_OK;
}

static int check_null(const fl_jv *role, fl_err *err) {
    if (!role || text_is(role, "assistant") || text_is(role, "function")) return FL_OK;
    return fl_fail(err, FL_E_ARG, "content: null, but a message of role '%.40s' needs a text",
                   is_text(role) ? role->string.data : "?");
}

static int prepare_content(fl_jv *message, const fl_template *t, fl_arena *arena, fl_err *err) {
    const fl_jv *role = fl_jv_get(message, "role");
    const fl_jv_member *m = find(message, "content");
    const fl_jv **texts, *one = m ? &m->value : NULL;
    fl_jv content;
    uint32_t n = 1;
    int rc = m && one->kind == FL_JV_NULL ? check_null(role, err) : FL_OK;
    if (rc) return rc;
    const bool given = m && one->kind != FL_JV_NULL;
    const bool listed = fl_template_takes_parts(t) && !text_is(role, "tool");
    if (given && !is_text(one) && one->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_ARG, "content: need a text or a list of parts");
    if (is_text(one) && !(listed && !fl_template_takes_text(t))) return FL_OK;
    texts = &one;
    if (!given) n = 0;
    if (given && !is_text(one) && (rc = part_texts(one, arena, &texts, &n, err))) return rc;
    const bool as_list = listed && (given || !fl_template_takes_text(t));
    rc = as_list ? list_texts(texts, n, arena, &content, err)
                 : join_texts(texts, n, arena, &content, err);
    if (!rc) set(message, "content", content);
    return rc;
}

/* ---- messages ---------------------------------------------------------------------- */

/* Clients send every member that their library knows. */
static void drop_nulls(fl_jv *message) {
    for (uint32_t i = message->n; i-- > 0;) {
        const fl_jv_member *m = &message->members[i];
        if (m->value.kind == FL_JV_NULL && !text_is(&m->key, "content")) drop(message, m);
    }
}

static void name_reasoning(fl_jv *message) {
    static const char *const names[] = {"thinking", "reasoning"};
    for (size_t i = 0; i < 2 && !find(message, "reasoning_content"); i++) {
        const fl_jv_member *m = find(message, names[i]);
        if (m && is_text(&m->value)) set(message, "reasoning_content", m->value);
    }
}

static int prepare_message(fl_jv *message, const fl_template *t, fl_arena *arena, fl_err *err) {
    if (message->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "not an object");
    int rc = own(message, arena, err);
    if (rc) return rc;
    drop_nulls(message);
    if ((rc = prepare_content(message, t, arena, err))) return rc;
    name_reasoning(message);
    return prepare_calls(message, arena, err);
}

int fl_chat_prepare(fl_jv *out, const fl_jv *messages, const fl_template *t, fl_arena *arena,
                    fl_err *err) {
    if (messages->kind != FL_JV_ARRAY) return fl_fail(err, FL_E_ARG, "messages: not a list");
    fl_jv *items = fl_arena_alloc(arena, messages->n * sizeof(*items));
    if (!items) return no_memory(err);
    for (uint32_t i = 0; i < messages->n; i++) {
        items[i] = messages->items[i];
        if (prepare_message(&items[i], t, arena, err)) return fl_fail_in(err, "messages[%u]: ", i);
    }
    *out = (fl_jv){.kind = FL_JV_ARRAY, .n = messages->n, .items = items};
    return FL_OK;
}

/* ---- the end of the last message --------------------------------------------------- */

/* The text of prepared content: the content itself, or that of its last part; NULL: none. */
static fl_jv *last_text(const fl_jv *messages) {
    if (messages->kind != FL_JV_ARRAY || !messages->n) return NULL;
    const fl_jv_member *m = find(&messages->items[messages->n - 1], "content");
    fl_jv *content = m ? (fl_jv *)&m->value : NULL;
    if (content && content->kind == FL_JV_ARRAY && content->n)
        content = (fl_jv *)fl_jv_get(&content->items[content->n - 1], "text");
    return is_text(content) ? content : NULL;
}

int fl_chat_mark_final(fl_jv *messages, fl_arena *arena, fl_err *err) {
    fl_jv *text = last_text(messages);
    if (!text)
        return fl_fail(err, FL_E_ARG, "continue_final_message: the last message has no text");
    char *data = fl_arena_alloc(arena, text->string.len + MARK + 1);
    if (!data) return no_memory(err);
    if (text->string.len) memcpy(data, text->string.data, text->string.len);
    memcpy(data + text->string.len, mark, MARK);
    *text = (fl_jv){.kind = FL_JV_STRING, .string = {data, text->string.len + MARK}};
    return FL_OK;
}

static size_t back_over_space(const char *text, size_t end) {
    while (end) {
        size_t n, i = fl_uc_back(text, end);
        if (!fl_uc_is_str_space(fl_uc_get(text + i, &n))) break;
        end = i;
    }
    return end;
}

static size_t skip_space(const char *text, size_t end) {
    size_t i = 0, n;
    while (i < end && fl_uc_is_str_space(fl_uc_get(text + i, &n))) i += n;
    return i;
}

int fl_chat_cut_at_mark(fl_bytes *text, const fl_jv *messages, fl_err *err) {
    const fl_jv *final = last_text(messages);
    const size_t seen = MARK - 1; /* a template that trims takes the blank */
    const char *data = final->string.data;
    const size_t stop = back_over_space(data, final->string.len - MARK);
    const size_t start = skip_space(data, stop);
    size_t at = text->len >= seen ? text->len - seen + 1 : 0;
    bool found = false;
    while (!found && at-- > 0) found = !memcmp(text->data + at, mark, seen);
    if (!found || (stop > start && !memmem(text->data, text->len, data + start, stop - start)))
        return fl_fail(err, FL_E_ARG,
                       "continue_final_message: the template does not write the last message");
    const bool kept = text->len - at >= MARK && text->data[at + seen] == ' ';
    text->len = kept ? at : back_over_space(text->data, at);
    return FL_OK;
}
