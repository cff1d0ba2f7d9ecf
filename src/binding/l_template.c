/* Class template: chat templates, alone or with the tokenizer that they were made for. */
#include <stdio.h>
#include <string.h>

#include "binding/binding.h"
#include "binding/lua_json.h"
#include "text/chat.h"
#include "text/chat_messages.h"
#include "util/mem.h"

typedef struct template_box {
    fl_template *t;
    fl_template *with_tools; /* NULL, or the one to take when tools are given */
    fl_tokenizer *tokenizer; /* NULL: encode is not possible */
    fl_tokenizer_ctx *ctx;
} template_box;

static void destroy(void *template) {
    template_box *b = template;
    fl_template_unref(b->t);
    fl_template_unref(b->with_tools);
    fl_tokenizer_ctx_free(b->ctx);
    fl_tokenizer_unref(b->tokenizer);
    fl_free(b);
}

static int parse(fl_template **out, const char *source, fl_err *err) {
    return source ? fl_template_parse(out, source, strlen(source), err) : FL_OK;
}

static int box_fill(void **box, const char *source, size_t n, fl_tokenizer *tokenizer,
                    const char *with_tools, fl_err *err) {
    template_box *b = fl_alloc(sizeof(*b));
    int rc;
    if (!b) return fl_fail(err, FL_E_NOMEM, "no memory for a template");
    if (tokenizer) b->tokenizer = fl_tokenizer_ref(tokenizer);
    if ((rc = fl_template_parse(&b->t, source, n, err)) ||
        (rc = parse(&b->with_tools, with_tools, err)) ||
        (tokenizer && (rc = fl_tokenizer_ctx_new(&b->ctx, tokenizer, err)))) {
        destroy(b);
        return rc;
    }
    *box = b;
    return FL_OK;
}

int fl_push_template(lua_State *L, fl_tokenizer *t, const char *name) {
    void **box = fl_box_new(L, FL_MT_TEMPLATE);
    const char *source = fl_tokenizer_chat_template(t, name);
    fl_err err;
    if (!source) {
        fl_fail(&err, FL_E_ARG, "the tokenizer has no chat template%s%s", name ? " named " : "",
                name ? name : "");
        return fl_push_err(L, &err);
    }
    const char *with_tools = name ? NULL : fl_tokenizer_chat_template(t, "tool_use");
    return box_fill(box, source, strlen(source), t, with_tools, &err) ? fl_push_err(L, &err) : 1;
}

/* fp8llm.template(source [, tokenizer]) or fp8llm.template(tokenizer [, name]) -> template */
static int l_new(lua_State *L) {
    size_t n;
    fl_err err;
    lua_settop(L, 2);
    if (lua_type(L, 1) != LUA_TSTRING) {
        const char *name = lua_isnil(L, 2) ? NULL : fl_check_string(L, 2);
        fl_call *c = fl_call_begin(L, 1, FL_MT_TOKENIZER);
        int n_results = fl_push_template(L, fl_check_tokenizer(L, 1), name);
        fl_call_end(c);
        return n_results;
    }
    const char *source = lua_tolstring(L, 1, &n);
    void **box = fl_box_new(L, FL_MT_TEMPLATE);
    fl_tokenizer *tokenizer = lua_isnoneornil(L, 2) ? NULL : fl_check_tokenizer(L, 2);
    return box_fill(box, source, n, tokenizer, NULL, &err) ? fl_push_err(L, &err) : 1;
}

/* ---- one call ---------------------------------------------------------------------- */

typedef struct call {
    fl_arena *arena;
    fl_jv messages;
    fl_jv_member *members; /* the variables of the template */
    uint32_t n_members, cap_members;
    bool has_tools, continue_final;
    time_t now;
} call;

static int add_variable(call *c, fl_jv key, fl_jv value, fl_err *err) {
    uint32_t i = 0;
    while (i < c->n_members && strcmp(c->members[i].key.string.data, key.string.data) != 0) i++;
    if (i == c->cap_members) {
        uint32_t cap = c->cap_members ? c->cap_members * 2 : 16;
        fl_jv_member *grown = fl_arena_alloc(c->arena, cap * sizeof(*grown));
        if (!grown) return fl_fail(err, FL_E_NOMEM, "no memory for the variables");
        if (c->n_members) memcpy(grown, c->members, c->n_members * sizeof(*grown));
        c->members = grown;
        c->cap_members = cap;
    }
    c->members[i] = (fl_jv_member){key, value};
    c->n_members += i == c->n_members;
    return FL_OK;
}

static fl_jv text_value(const char *s) {
    return (fl_jv){.kind = FL_JV_STRING, .string = {s, strlen(s)}};
}

/* Messages or a whole context, as a Lua value or as JSON text. */
static int read_messages(lua_State *L, call *c, fl_err *err) {
    fl_jv v;
    size_t n;
    const char *text = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &n) : NULL;
    int rc = text ? fl_jv_parse(&v, c->arena, text, n, "messages", err)
                  : fl_lua_to_jv(L, 2, c->arena, &v, err);
    if (rc) return text ? rc : fl_fail_in(err, "messages");
    for (uint32_t i = 0; v.kind == FL_JV_OBJECT && i < v.n; i++)
        if ((rc = add_variable(c, v.members[i].key, v.members[i].value, err))) return rc;
    const fl_jv *of_context = fl_jv_get(&v, "messages");
    c->messages = of_context ? *of_context : v;
    return FL_OK;
}

/* Options are variables of the template, but for those that say how to render. */
static int read_option(lua_State *L, call *c, const char *key, fl_err *err) {
    fl_jv v;
    size_t n;
    int rc;
    if (!strcmp(key, "continue_final_message")) {
        c->continue_final = lua_toboolean(L, -1);
        return FL_OK;
    }
    if (!strcmp(key, "now")) {
        const double now = (double)lua_tonumber(L, -1);
        if (!(now >= -0x1p53 && now <= 0x1p53))
            return fl_fail(err, FL_E_ARG, "now: need seconds since 1970, got %.10g", now);
        c->now = (time_t)now;
        return FL_OK;
    }
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    bool json = text && *text == '[' && (!strcmp(key, "tools") || !strcmp(key, "documents"));
    rc = json ? fl_jv_parse(&v, c->arena, text, n, key, err)
              : fl_lua_to_jv(L, -1, c->arena, &v, err);
    if (rc) return json ? rc : fl_fail_in(err, "%.60s: ", key);
    size_t len = strlen(key) + 1;
    char *name = fl_arena_alloc(c->arena, len); /* the caller's may go while others are read */
    if (!name) return fl_fail(err, FL_E_NOMEM, "no memory for the variables");
    return add_variable(c, text_value(memcpy(name, key, len)), v, err);
}

static int read_options(lua_State *L, call *c, fl_err *err) {
    static const char *const always[] = {"tools", "documents"}; /* none rather than undefined */
    for (size_t i = 0; i < 2; i++) {
        int rc = add_variable(c, text_value(always[i]), (fl_jv){.kind = FL_JV_NULL}, err);
        if (rc) return rc;
    }
    fl_jv no = {.kind = FL_JV_BOOL};
    int rc = add_variable(c, text_value("add_generation_prompt"), no, err);
    if (rc || (rc = read_messages(L, c, err)) || lua_isnoneornil(L, 3)) return rc;
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
        if ((rc = read_option(L, c, lua_tostring(L, -2), err))) {
            lua_pop(L, 2);
            return rc;
        }
    }
    return FL_OK;
}

/* Wrong types raise, before anything is allocated. */
static void check_options(lua_State *L) {
    if (lua_type(L, 2) != LUA_TSTRING) fl_check_type(L, 2, LUA_TTABLE);
    if (lua_isnoneornil(L, 3)) return;
    fl_check_type(L, 3, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        if (!key) fl_raise(L, "option name expected, got %s", luaL_typename(L, -2));
        if (!strcmp(key, "messages")) fl_raise(L, "option 'messages': it is the first argument");
        if (!strcmp(key, "now") && lua_type(L, -1) != LUA_TNUMBER)
            fl_raise(L, "option 'now': number expected, got %s", luaL_typename(L, -1));
        if (strcmp(key, "continue_final_message") && strcmp(key, "add_generation_prompt")) continue;
        if (!lua_isboolean(L, -1))
            fl_raise(L, "option '%s': boolean expected, got %s", key, luaL_typename(L, -1));
    }
}

/* Text, and what of it is trusted, into the call. */
static int render(lua_State *L, fl_call *own, fl_err *err) {
    call c = {.arena = &own->arena};
    const template_box *of = own->object;
    fl_jv messages;
    int rc = read_options(L, &c, err);
    if (rc) return rc;
    for (uint32_t i = 0; i < c.n_members; i++)
        if (fl_jv_is(&c.members[i].key, "tools"))
            c.has_tools = c.members[i].value.kind != FL_JV_NULL;
    const fl_template *t = c.has_tools && of->with_tools ? of->with_tools : of->t;
    if ((rc = fl_chat_prepare(&messages, &c.messages, t, &own->arena, err)) ||
        (c.continue_final && (rc = fl_chat_mark_final(&messages, &own->arena, err))) ||
        (rc = add_variable(&c, text_value("messages"), messages, err)))
        return rc;
    fl_jv values = {.kind = FL_JV_OBJECT, .n = c.n_members, .members = c.members};
    if (of->tokenizer) {
        rc = fl_chat_render(of->tokenizer, t, &values, c.now, &own->text, &own->bits, err);
    } else {
        fl_template_context context = {.values = &values, .now = c.now};
        rc = fl_template_render(t, &context, &own->text, NULL, err);
    }
    if (!rc && c.continue_final) rc = fl_chat_cut_at_mark(&own->text, &messages, err);
    return rc;
}

static fl_call *start_call(lua_State *L) {
    lua_settop(L, 3);
    check_options(L);
    return fl_call_begin(L, 1, FL_MT_TEMPLATE);
}

/* t:render(messages, {add_generation_prompt=false, tools=..., ...}) -> text */
static int l_render(lua_State *L) {
    fl_call *own = start_call(L);
    fl_err err;
    int n_results = 1;
    if (render(L, own, &err)) {
        n_results = fl_push_err(L, &err);
    } else {
        lua_pushlstring(L, own->text.data ? own->text.data : "", own->text.len);
    }
    fl_call_end(own);
    return n_results;
}

/* t:encode(messages, options as render) -> ids */
static int l_encode(lua_State *L) {
    fl_call *own = start_call(L);
    const template_box *of = own->object;
    fl_err err;
    int n_results = 1;
    if (!of->tokenizer) fl_arg_error(L, 1, "the template has no tokenizer");
    int rc = render(L, own, &err);
    if (!rc) {
        const fl_encode_options o = {.special = FL_SPECIAL_ALL,
                                     .trusted = own->bits.data ? (const uint8_t *)own->bits.data
                                                               : (const uint8_t *)""};
        rc = fl_tokenizer_encode(of->tokenizer, of->ctx, own->text.data ? own->text.data : "",
                                 own->text.len, &o, &own->ids, &err);
    }
    if (rc) {
        n_results = fl_push_err(L, &err);
    } else {
        fl_push_ids(L, own->ids.data, own->ids.len);
    }
    fl_call_end(own);
    return n_results;
}

static void describe(void *template, char out[FL_DESCRIPTION]) {
    const template_box *b = template;
    snprintf(out, FL_DESCRIPTION, "%s tokenizer%s", b->tokenizer ? "with a" : "without a",
             b->with_tools ? ", another one for tools" : "");
}

static const luaL_Reg methods[] = {{"render", l_render}, {"encode", l_encode}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"template", l_new}, {NULL, NULL}};

void fl_register_template(lua_State *L) {
    static const fl_class_type type = {FL_MT_TEMPLATE, destroy, describe};
    fl_class(L, &type, methods, NULL);
    fl_set_functions(L, functions);
}
