#include "engine/prompt.h"

#include <string.h>

#include "text/chat_messages.h"

const char *const fl_prompt_members[] = {"prompt",
                                         "ids",
                                         "messages",
                                         "tools",
                                         "documents",
                                         "add_special_tokens",
                                         "parse_special",
                                         "add_generation_prompt",
                                         "continue_final_message",
                                         "chat_template_kwargs",
                                         NULL};

static int bool_member(const fl_jv *request, const char *name, bool *out, fl_err *err) {
    const fl_jv *v = fl_jv_get(request, name);
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind != FL_JV_BOOL) return fl_fail(err, FL_E_ARG, "%s: need true or false", name);
    *out = v->boolean;
    return FL_OK;
}

static const fl_jv *member(const fl_jv *request, const char *name) {
    const fl_jv *v = fl_jv_get(request, name);
    return v && v->kind != FL_JV_NULL ? v : NULL;
}

static int copy_ids(const fl_jv *list, const char *name, fl_arena *arena, int32_t **ids, size_t *n,
                    fl_err *err) {
    *ids = fl_arena_alloc(arena, (list->n + 1) * sizeof(**ids));
    if (!*ids) return fl_fail(err, FL_E_NOMEM, "%s: %u ids", name, list->n);
    for (uint32_t i = 0; i < list->n; i++) {
        const fl_jv *v = &list->items[i];
        if (v->kind != FL_JV_INT || v->integer < 0 || v->integer > INT32_MAX)
            return fl_fail(err, FL_E_ARG, "%s: element %u is no token id", name, i);
        (*ids)[i] = (int32_t)v->integer;
    }
    *n = list->n;
    return FL_OK;
}

static int keep(const fl_ids *ids, fl_arena *arena, const int32_t **out, size_t *n, fl_err *err) {
    int32_t *copy = fl_arena_alloc(arena, (ids->len + 1) * sizeof(*copy));
    if (!copy) return fl_fail(err, FL_E_NOMEM, "prompt: %zu tokens", ids->len);
    if (ids->len) memcpy(copy, ids->data, ids->len * sizeof(*copy));
    *out = copy;
    *n = ids->len;
    return FL_OK;
}

/* The tokens of a text, as long as they can be the prompt of a completion. */
static int encode(const fl_prompter *p, const char *text, size_t n, fl_encode_options *o,
                  fl_ids *ids, fl_err *err) {
    bool too_many = false;
    o->max_ids = p->context > 1 ? (size_t)p->context - 1 : 0;
    o->too_many = &too_many;
    o->stop = p->stop;
    int rc = fl_tokenizer_encode(p->tokenizer, p->ctx, text, n, o, ids, err);
    if (!too_many) return rc;
    return fl_fail(
        err, rc,
        "prompt: more than %lld tokens, but this model's maximum context length is %lld tokens, "
        "one of them for the completion",
        (long long)p->context - 1, (long long)p->context);
}

static int encode_text(const fl_prompter *p, const fl_jv *request, const fl_jv *text, fl_ids *ids,
                       fl_err *err) {
    fl_encode_options o = {.add_special_tokens = true};
    bool parse_special = false;
    int rc = bool_member(request, "add_special_tokens", &o.add_special_tokens, err);
    if (!rc) rc = bool_member(request, "parse_special", &parse_special, err);
    if (rc) return rc;
    if (parse_special) o.special = FL_SPECIAL_ALL;
    if (!p->tokenizer) return fl_fail(err, FL_E_ARG, "prompt: text needs a tokenizer");
    return encode(p, text->string.data, text->string.len, &o, ids, err);
}

static fl_jv_member named(const char *name, fl_jv value) {
    return (fl_jv_member){{.kind = FL_JV_STRING, .string = {name, strlen(name)}}, value};
}

/* A list that is given and not empty: clients send empty ones for none. */
static const fl_jv *list_member(const fl_jv *request, const char *name) {
    const fl_jv *v = member(request, name);
    return v && !(v->kind == FL_JV_ARRAY && !v->n) ? v : NULL;
}

/* The variables of the chat template: those of the request, then chat_template_kwargs. */
static int variables(const fl_jv *request, fl_jv messages, bool generate, fl_arena *arena,
                     fl_jv *out, fl_err *err) {
    static const fl_jv none = {.kind = FL_JV_NULL};
    const fl_jv *tools = list_member(request, "tools");
    const fl_jv *documents = list_member(request, "documents");
    const fl_jv *more = member(request, "chat_template_kwargs");
    if (more && more->kind == FL_JV_ARRAY && !more->n) more = NULL; /* an empty Lua table */
    if (more && more->kind != FL_JV_OBJECT)
        return fl_fail(err, FL_E_ARG, "chat_template_kwargs: need an object");
    const uint32_t extra = more ? more->n : 0;
    fl_jv_member *m = fl_arena_alloc(arena, (4 + extra) * sizeof(*m));
    if (!m) return fl_fail(err, FL_E_NOMEM, "messages");
    m[0] = named("messages", messages);
    m[1] = named("tools", tools ? *tools : none);
    m[2] = named("documents", documents ? *documents : none);
    m[3] = named("add_generation_prompt", (fl_jv){.kind = FL_JV_BOOL, .boolean = generate});
    for (uint32_t i = 0; i < extra; i++) {
        for (int k = 0; k < 4; k++) {
            const char *name = m[k].key.string.data;
            if (fl_jv_is(&more->members[i].key, name))
                return fl_fail(err, FL_E_ARG, "chat_template_kwargs: '%s' is reserved", name);
        }
        m[4 + i] = more->members[i];
    }
    *out = (fl_jv){.kind = FL_JV_OBJECT, .n = 4 + extra, .members = m};
    return FL_OK;
}

static int encode_chat(const fl_prompter *p, const fl_jv *request, const fl_jv *messages,
                       fl_arena *arena, fl_ids *ids, fl_err *err) {
    const fl_jv *tools = list_member(request, "tools");
    const fl_template *t = tools && p->chat_with_tools ? p->chat_with_tools : p->chat;
    bool generate = true, go_on = false;
    fl_jv prepared, values;
    fl_bytes text = {0}, bits = {0};
    int rc = bool_member(request, "add_generation_prompt", &generate, err);
    if (!rc) rc = bool_member(request, "continue_final_message", &go_on, err);
    if (rc) return rc;
    if (!t || !p->tokenizer)
        return fl_fail(err, FL_E_ARG, "messages: the model has no chat template");
    if ((rc = fl_chat_prepare(&prepared, messages, t, arena, err))) return rc;
    if (go_on && (rc = fl_chat_mark_final(&prepared, arena, err))) return rc;
    if ((rc = variables(request, prepared, generate && !go_on, arena, &values, err))) return rc;
    rc = fl_chat_render(p->tokenizer, t, &values, 0, &text, &bits, err);
    if (!rc && go_on) rc = fl_chat_cut_at_mark(&text, &prepared, err);
    if (!rc) {
        fl_encode_options o = {.special = FL_SPECIAL_ALL, .trusted = (const uint8_t *)bits.data};
        rc = encode(p, text.data, text.len, &o, ids, err);
    }
    fl_bytes_free(&text);
    fl_bytes_free(&bits);
    return rc;
}

int fl_prompt_encode(const fl_prompter *p, const fl_jv *request, fl_arena *arena,
                     const int32_t **ids, size_t *n, fl_err *err) {
    const fl_jv *list = member(request, "ids"), *prompt = member(request, "prompt");
    const fl_jv *messages = member(request, "messages");
    fl_ids encoded = {0};
    int32_t *copied = NULL;
    int rc;
    if (!list + !prompt + !messages != 2)
        return fl_fail(err, FL_E_ARG, "prompt: need one of ids, prompt, messages");
    if (list && list->kind != FL_JV_ARRAY) return fl_fail(err, FL_E_ARG, "ids: need a list");
    if (messages && messages->kind != FL_JV_ARRAY)
        return fl_fail(err, FL_E_ARG, "messages: need a list");
    if (prompt && prompt->kind == FL_JV_ARRAY)
        list = prompt;
    else if (prompt && prompt->kind != FL_JV_STRING)
        return fl_fail(err, FL_E_ARG, "prompt: need a text or a list of ids");
    if (list) {
        rc = copy_ids(list, prompt ? "prompt" : "ids", arena, &copied, n, err);
        *ids = copied;
        return rc;
    }
    rc = messages ? encode_chat(p, request, messages, arena, &encoded, err)
                  : encode_text(p, request, prompt, &encoded, err);
    if (!rc) rc = keep(&encoded, arena, ids, n, err);
    fl_ids_free(&encoded);
    return rc;
}
