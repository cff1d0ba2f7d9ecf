/* Fields of a request that is a Lua table: a name nobody knows and a value of the wrong type are mistakes
 * of the program.  What a value may be beyond that, the readers of requests say. */
#include <stdio.h>
#include <string.h>

#include "binding/l_engine.h"
#include "engine/prompt.h"
#include "serve/openai_request.h"

enum { BOOL = 1, NUMBER = 2, STRING = 4, TABLE = 8, NUMBERS = 16, STRINGS = 32, ANY = 64 };

typedef struct typed {
    const char *name;
    int types;
} typed;

/* What params.h has no line for. */
static const typed prompt_fields[] = {{"prompt", STRING | TABLE},
                                      {"ids", NUMBERS},
                                      {"messages", TABLE},
                                      {"tools", TABLE},
                                      {"documents", TABLE},
                                      {"add_special_tokens", BOOL},
                                      {"parse_special", BOOL},
                                      {"add_generation_prompt", BOOL},
                                      {"continue_final_message", BOOL},
                                      {"chat_template_kwargs", TABLE},
                                      {"sampler", TABLE},
                                      {NULL, 0}};
static const typed openai_fields[] = {{"logprobs", BOOL | NUMBER},
                                      {"top_logprobs", NUMBER},
                                      {"max_completion_tokens", NUMBER},
                                      {"model", STRING},
                                      {"policy", STRING},
                                      {"tool_choice", STRING | TABLE},
                                      {"parallel_tool_calls", BOOL},
                                      {"response_format", TABLE},
                                      {"best_of", NUMBER},
                                      {"user", STRING},
                                      {"metadata", TABLE},
                                      {"request_id", STRING},
                                      {"stream", BOOL},
                                      {"stream_options", TABLE},
                                      {"return_token_ids", BOOL},
                                      {"return_tokens_as_token_ids", BOOL},
                                      {NULL, 0}};

static int find(const typed *list, const char *name) {
    for (; list->name; list++) {
        if (!strcmp(list->name, name)) return list->types;
    }
    return 0;
}

static int of_table(const char *name) {
    static const typed types[] = {{"integer", NUMBER},
                                  {"number", NUMBER},
                                  {"boolean", BOOL},
                                  {"string", STRING},
                                  {"string or list of strings", STRING | STRINGS},
                                  {"list of ids", NUMBERS},
                                  {"list of stages", STRINGS},
                                  {"object of id to bias", TABLE},
                                  {NULL, 0}};
    fl_param_info info;
    for (int i = 0; fl_params_field(i, &info); i++) {
        if (!strcmp(info.name, name)) return find(types, info.type);
    }
    return 0;
}

/* The types that the field may have; 0: there is no such field. */
static int types_of(const char *name, fl_request_kind kind) {
    const fl_openai_kind openai = kind == FL_REQUEST_CHAT ? FL_OPENAI_CHAT : FL_OPENAI_COMPLETION;
    const bool own = kind == FL_REQUEST_OWN;
    if (!own && !fl_openai_knows(openai, name)) return 0;
    int types = own ? 0 : find(openai_fields, name);
    if (!types) types = of_table(name);
    if (!types) types = find(prompt_fields, name);
    return types || own ? types : ANY;
}

static const char *type_words(int types, char out[64]) {
    static const typed words[] = {
        {"boolean", BOOL}, {"number", NUMBER},           {"string", STRING},
        {"table", TABLE},  {"list of numbers", NUMBERS}, {"list of strings", STRINGS},
        {NULL, 0}};
    int at = 0;
    out[0] = '\0';
    for (const typed *w = words; w->name; w++) {
        if (types & w->types)
            at += snprintf(out + at, 64 - (size_t)at, "%s%s", at ? " or " : "", w->name);
    }
    return out;
}

/* The first element of the list on top of the stack that is not of that type; 0: all are. */
static int odd_one(lua_State *L, int type) {
    const int n = (int)lua_rawlen(L, -1);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        const bool same = lua_type(L, -1) == type;
        lua_pop(L, 1);
        if (!same) return i;
    }
    return 0;
}

/* JSON's null, which says that the field is absent: see fp8llm.json. */
static bool is_null(lua_State *L) {
    if (lua_type(L, -1) == LUA_TLIGHTUSERDATA) return !lua_touserdata(L, -1);
    if (!lua_istable(L, -1) || !luaL_getmetafield(L, -1, "__jsontype")) return false;
    const bool null = lua_type(L, -1) == LUA_TSTRING && *lua_tostring(L, -1) == 'n';
    lua_pop(L, 1);
    return null;
}

/* The value on top of the stack against what its field may be. */
static bool fits(lua_State *L, const char *name, int types, char out[FL_DESCRIPTION]) {
    static const int bit[] = {
        [LUA_TBOOLEAN] = BOOL, [LUA_TNUMBER] = NUMBER, [LUA_TSTRING] = STRING};
    char words[64];
    const int type = lua_type(L, -1), lists = types & (NUMBERS | STRINGS);
    int odd = 0;
    if ((types & ANY) || is_null(L)) return true;
    if (type == LUA_TTABLE && lists) {
        odd = odd_one(L, lists == NUMBERS ? LUA_TNUMBER : LUA_TSTRING);
        if (!odd) return true;
        lua_rawgeti(L, -1, odd);
        snprintf(out, FL_DESCRIPTION, "field '%s': element %d: %s expected, got %s", name, odd,
                 lists == NUMBERS ? "number" : "string", luaL_typename(L, -1));
        lua_pop(L, 1);
        return false;
    }
    if (type == LUA_TTABLE ? (types & TABLE) != 0 : type <= LUA_TSTRING && (types & bit[type]))
        return true;
    snprintf(out, FL_DESCRIPTION, "field '%s': %s expected, got %s", name, type_words(types, words),
             luaL_typename(L, -1));
    return false;
}

/* Name and value on top of the stack. */
static bool member_fits(lua_State *L, fl_request_kind kind, char out[FL_DESCRIPTION]) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    const int types = name ? types_of(name, kind) : 0;
    if (!name)
        snprintf(out, FL_DESCRIPTION, "a %s is no name of a field", luaL_typename(L, -2));
    else if (!types)
        snprintf(out, FL_DESCRIPTION, "unknown field '%.100s'", name);
    if (!types || !fits(L, name, types, out)) return false;
    if (strcmp(name, "sampler") != 0 || !lua_istable(L, -1)) return true;
    return fl_request_fits(L, -1, kind, out);
}

bool fl_request_fits(lua_State *L, int idx, fl_request_kind kind, char out[FL_DESCRIPTION]) {
    idx = lua_absindex(L, idx);
    luaL_checkstack(L, LUA_MINSTACK, "request");
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        if (member_fits(L, kind, out)) continue;
        lua_pop(L, 2);
        return false;
    }
    return true;
}

/* fp8llm._misuse(request, kind) -> what is wrong with a table as such a request, or nil */
int fl_l_misuse(lua_State *L) {
    char what[FL_DESCRIPTION];
    fl_check_type(L, 1, LUA_TTABLE);
    const int kind = fl_check_option(L, 2, fl_request_kinds[0], fl_request_kinds);
    if (fl_request_fits(L, 1, (fl_request_kind)kind, what)) return 0;
    lua_pushstring(L, what);
    return 1;
}
