#include "binding/binding.h"

#include <math.h>
#include <string.h>

void **fl_box_new(lua_State *L, const char *mt) {
    void **box = lua_newuserdata(L, sizeof(*box));
    *box = NULL; /* before the metatable: __gc must never see garbage */
    luaL_getmetatable(L, mt);
    lua_setmetatable(L, -2);
    return box;
}

void **fl_box_raw(lua_State *L, int idx, const char *mt) {
    return luaL_checkudata(L, idx, mt);
}

void *fl_box_check(lua_State *L, int idx, const char *mt) {
    void **box = luaL_checkudata(L, idx, mt);
    if (!*box) luaL_argerror(L, idx, "object is closed");
    return *box;
}

void *fl_box_test(lua_State *L, int idx, const char *mt) {
    void **box = lua_touserdata(L, idx);
    if (!box || !lua_getmetatable(L, idx)) return NULL;
    luaL_getmetatable(L, mt);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same ? *box : NULL;
}

void fl_push_number(lua_State *L, double v) {
    if (v == floor(v) && fabs(v) < 9007199254740992.0)
        lua_pushinteger(L, (lua_Integer)v);
    else
        lua_pushnumber(L, (lua_Number)v);
}

void fl_set_number(lua_State *L, const char *key, double v) {
    fl_push_number(L, v);
    lua_setfield(L, -2, key);
}

void fl_set_string(lua_State *L, const char *key, const char *v) {
    lua_pushstring(L, v);
    lua_setfield(L, -2, key);
}

void fl_set_bool(lua_State *L, const char *key, bool v) {
    lua_pushboolean(L, v);
    lua_setfield(L, -2, key);
}

int fl_push_err(lua_State *L, const fl_err *err) {
    lua_pushnil(L);
    lua_pushstring(L, err->msg);
    lua_pushstring(L, fl_code_name(err->code));
    return 3;
}

void fl_set_functions(lua_State *L, const luaL_Reg *functions) {
    for (; functions->name; functions++) { /* luaL_setfuncs is missing in PUC 5.1 */
        lua_pushcfunction(L, functions->func);
        lua_setfield(L, -2, functions->name);
    }
}

void fl_class(lua_State *L, const char *mt, const luaL_Reg *methods, const luaL_Reg *meta,
              lua_CFunction gc) {
    luaL_newmetatable(L, mt);
    lua_newtable(L);
    fl_set_functions(L, methods);
    lua_setfield(L, -2, "__index");
    if (meta) fl_set_functions(L, meta);
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
    lua_pushstring(L, mt);
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "locked");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

/* Push member `key` of the options table; false and nothing pushed when absent. */
static bool push_option(lua_State *L, int idx, const char *key) {
    if (lua_isnoneornil(L, idx)) return false;
    luaL_checktype(L, idx, LUA_TTABLE);
    lua_getfield(L, idx, key);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

static void wrong_type(lua_State *L, const char *key, const char *want) {
    luaL_error(L, "option '%s': %s expected, got %s", key, want, luaL_typename(L, -1));
}

bool fl_opt_number(lua_State *L, int idx, const char *key, double *out) {
    if (!push_option(L, idx, key)) return false;
    if (lua_type(L, -1) != LUA_TNUMBER) wrong_type(L, key, "number");
    *out = (double)lua_tonumber(L, -1);
    lua_pop(L, 1);
    return true;
}

void fl_opt_gpu_part(lua_State *L, int idx, double *out) {
    if (fl_opt_number(L, idx, "gpu_memory_utilization", out) && !(*out > 0 && *out <= 1))
        luaL_error(L, "option 'gpu_memory_utilization': more than 0, at most 1 expected");
}

bool fl_opt_int(lua_State *L, int idx, const char *key, int64_t *out) {
    double v;
    if (!fl_opt_number(L, idx, key, &v)) return false;
    if (v != floor(v) || fabs(v) > 0x1p53) luaL_error(L, "option '%s': whole number expected", key);
    *out = (int64_t)v;
    return true;
}

bool fl_opt_bool(lua_State *L, int idx, const char *key, bool *out) {
    if (!push_option(L, idx, key)) return false;
    if (!lua_isboolean(L, -1)) wrong_type(L, key, "boolean");
    *out = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return true;
}

bool fl_opt_string(lua_State *L, int idx, const char *key, const char **out) {
    if (!push_option(L, idx, key)) return false;
    if (lua_type(L, -1) != LUA_TSTRING) wrong_type(L, key, "string");
    *out = lua_tostring(L, -1);
    lua_pop(L, 1);
    return true;
}

void fl_opt_only(lua_State *L, int idx, const char *const *known) {
    if (lua_isnoneornil(L, idx)) return;
    luaL_checktype(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        int i = 0;
        while (key && known[i] && strcmp(known[i], key)) i++;
        if (!key || !known[i])
            luaL_error(L, "unknown option '%s'", key ? key : luaL_typename(L, -2));
    }
}

int64_t fl_check_int(lua_State *L, int idx) {
    double v = (double)luaL_checknumber(L, idx);
    if (v != floor(v) || fabs(v) > 0x1p53) luaL_argerror(L, idx, "whole number expected");
    return (int64_t)v;
}

int32_t *fl_check_ids(lua_State *L, int idx, size_t *n) {
    luaL_checktype(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    *n = lua_rawlen(L, idx);
    if (*n > INT32_MAX / 8) luaL_argerror(L, idx, "too many token ids");
    int32_t *ids = lua_newuserdata(L, (*n + 1) * sizeof(*ids));
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, idx, (int)i + 1);
        double v = lua_type(L, -1) == LUA_TNUMBER ? (double)lua_tonumber(L, -1) : 0.5;
        if (v != floor(v) || v < 0 || v > INT32_MAX) {
            luaL_error(L, "token id %d: whole number in [0, 2147483647] expected, got %s",
                       (int)i + 1, luaL_typename(L, -1));
        }
        ids[i] = (int32_t)v;
        lua_pop(L, 1);
    }
    return ids;
}

void fl_push_ids(lua_State *L, const int32_t *ids, size_t n) {
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
}
