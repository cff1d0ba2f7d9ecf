/* Errors that are the caller's mistake, by the name of the function that found them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "binding/binding.h"

enum { MESSAGE = 1024, TYPE_NAME = 64 };

/* The running function's. */
static const char *name_of(lua_State *L) {
    const int own = lua_upvalueindex(1);
    return lua_type(L, own) == LUA_TSTRING ? lua_tostring(L, own) : "fp8llm";
}

/* "number", or the class of an object. */
static const char *type_name(lua_State *L, int idx, char out[TYPE_NAME]) {
    snprintf(out, TYPE_NAME, "%s", luaL_typename(L, idx));
    if (!luaL_getmetafield(L, idx, "__name")) return out;
    if (lua_type(L, -1) == LUA_TSTRING) snprintf(out, TYPE_NAME, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return out;
}

static int raise_as(lua_State *L, const char *name, const char *message) {
    luaL_where(L, 1);
    lua_pushfstring(L, "%s: %s", name, message);
    lua_concat(L, 2);
    return lua_error(L);
}

/* A method may look at its arguments before it takes its object; what is wrong with that comes first. */
static void check_self(lua_State *L) {
    char mt[64], what[MESSAGE], got[TYPE_NAME];
    const char *name = name_of(L), *colon = strchr(name, ':');
    if (!colon) return;
    const int class = (int)(colon - name);
    snprintf(mt, sizeof(mt), "fp8llm.%.*s", class, name);
    void *const *box = lua_type(L, 1) == LUA_TUSERDATA ? lua_touserdata(L, 1) : NULL;
    bool same = false;
    if (box && lua_getmetatable(L, 1)) {
        luaL_getmetatable(L, mt);
        same = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    if (same && *box) return;
    if (same)
        snprintf(what, sizeof(what), "the %.*s is closed", class, name);
    else
        snprintf(what, sizeof(what), "bad self (%s expected, got %s; is it called with a colon?)",
                 mt, type_name(L, 1, got));
    raise_as(L, name, what);
}

int fl_raise(lua_State *L, const char *format, ...) {
    char message[MESSAGE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    check_self(L);
    return raise_as(L, name_of(L), message);
}

int fl_arg_error(lua_State *L, int idx, const char *what) {
    const bool method = strchr(name_of(L), ':') != NULL;
    return fl_raise(L, "bad argument #%d (%s)", idx - method, what);
}

static void type_error(lua_State *L, int idx, const char *want) {
    char what[256], got[TYPE_NAME];
    snprintf(what, sizeof(what), "%s expected, got %s", want, type_name(L, idx, got));
    fl_arg_error(L, idx, what);
}

void fl_check_type(lua_State *L, int idx, int type) {
    if (lua_type(L, idx) != type) type_error(L, idx, lua_typename(L, type));
}

const char *fl_check_text(lua_State *L, int idx, size_t *n) {
    fl_check_type(L, idx, LUA_TSTRING);
    return lua_tolstring(L, idx, n);
}

double fl_check_number(lua_State *L, int idx) {
    fl_check_type(L, idx, LUA_TNUMBER);
    return (double)lua_tonumber(L, idx);
}

bool fl_check_bool(lua_State *L, int idx, bool absent) {
    if (lua_isnoneornil(L, idx)) return absent;
    fl_check_type(L, idx, LUA_TBOOLEAN);
    return lua_toboolean(L, idx);
}

void *fl_check_udata(lua_State *L, int idx, const char *mt) {
    void *box = lua_type(L, idx) == LUA_TUSERDATA ? lua_touserdata(L, idx) : NULL;
    if (!box || !lua_getmetatable(L, idx)) {
        type_error(L, idx, mt);
        return NULL;
    }
    luaL_getmetatable(L, mt);
    const bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    if (!same) type_error(L, idx, mt);
    return box;
}

int fl_check_option(lua_State *L, int idx, const char *absent, const char *const *words) {
    char what[256];
    size_t at = 0;
    const char *word = lua_isnoneornil(L, idx) ? absent : fl_check_string(L, idx);
    for (int i = 0; words[i]; i++) {
        if (!strcmp(words[i], word)) return i;
    }
    for (int i = 0; words[i] && at < sizeof(what) / 2; i++)
        at += (size_t)snprintf(what + at, sizeof(what) - at, i ? " or %s" : "%s", words[i]);
    snprintf(what + at, sizeof(what) - at, " expected, got '%.60s'", word);
    return fl_arg_error(L, idx, what);
}
