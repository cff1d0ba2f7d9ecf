#include "binding/binding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "util/file.h"

typedef struct fl_box {
    void *object; /* first: fl_box_new returns where it is */
    const fl_class_type *type;
    fl_call *calls; /* one of the ring of calls that hold the object */
} fl_box;

void **fl_box_new(lua_State *L, const char *mt) {
    fl_box *box = lua_newuserdata(L, sizeof(*box));
    luaL_getmetatable(L, mt);
    lua_rawgeti(L, -1, 1);
    *box = (fl_box){.type = lua_touserdata(L, -1)}; /* before the metatable: __gc sees no garbage */
    lua_pop(L, 1);
    lua_setmetatable(L, -2);
    return &box->object;
}

void **fl_box_raw(lua_State *L, int idx, const char *mt) {
    return fl_check_udata(L, idx, mt);
}

void *fl_box_check(lua_State *L, int idx, const char *mt) {
    fl_box *box = fl_check_udata(L, idx, mt);
    if (!box->object) fl_raise(L, "the %s is closed", fl_class_name(mt));
    return box->object;
}

void *fl_box_test(lua_State *L, int idx, const char *mt) {
    fl_box *box = lua_touserdata(L, idx);
    if (!box || !lua_getmetatable(L, idx)) return NULL;
    luaL_getmetatable(L, mt);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same ? box->object : NULL;
}

void fl_box_empty(void *userdata) {
    fl_box *box = userdata;
    void *object = box->object;
    fl_call *first = box->calls, *c = first;
    box->object = NULL;
    box->calls = NULL;
    if (!object) return;
    if (!c) {
        box->type->destroy(object);
        return;
    }
    do {
        c->box = NULL; /* the ring owns the object now */
        c = c->next;
    } while (c != first);
}

void fl_box_close(lua_State *L, int idx, const char *mt) {
    fl_box_empty(fl_check_udata(L, idx, mt));
}

#define FL_MT_CALL "fp8llm.call"

fl_call *fl_call_begin(lua_State *L, int idx, const char *mt) {
    idx = lua_absindex(L, idx);
    fl_call *c = lua_newuserdata(L, sizeof(*c));
    *c = (fl_call){0};
    luaL_getmetatable(L, FL_MT_CALL);
    lua_setmetatable(L, -2);
    void *object = fl_box_check(L, idx, mt);
    fl_box *box = lua_touserdata(L, idx);
    *c = (fl_call){.object = object, .type = box->type, .box = box, .next = c, .before = c};
    if (box->calls) {
        c->next = box->calls;
        c->before = box->calls->before;
        c->before->next = c->next->before = c;
    }
    box->calls = c;
    return c;
}

void fl_call_end(fl_call *c) {
    fl_call *next = c->next == c ? NULL : c->next;
    if (c->object && next) {
        c->before->next = next;
        next->before = c->before;
    }
    if (c->object && c->box)
        c->box->calls = next;
    else if (c->object && !next)
        c->type->destroy(c->object);
    fl_arena_free(&c->arena);
    fl_bytes_free(&c->text);
    fl_bytes_free(&c->bits);
    fl_ids_free(&c->ids);
    fl_update_free(&c->update);
    *c = (fl_call){0};
}

static int l_call_gc(lua_State *L) {
    fl_call_end(fl_check_udata(L, 1, FL_MT_CALL));
    return 0;
}

void fl_register_calls(lua_State *L) {
    luaL_newmetatable(L, FL_MT_CALL);
    lua_pushcfunction(L, l_call_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
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

/* A function of ours, which knows its name: see raise.c. */
void fl_push_function(lua_State *L, lua_CFunction fn, const char *name) {
    lua_pushstring(L, name);
    lua_pushcclosure(L, fn, 1);
}

/* Into the table on top of the stack: "load" becomes the member load, called prefix .. "load". */
static void set_functions(lua_State *L, const char *prefix, const luaL_Reg *functions) {
    for (; functions->name; functions++) { /* luaL_setfuncs is missing in PUC 5.1 */
        lua_pushfstring(L, "%s%s", prefix, functions->name);
        lua_pushcclosure(L, functions->func, 1);
        lua_setfield(L, -2, functions->name);
    }
}

void fl_set_functions(lua_State *L, const luaL_Reg *functions) {
    set_functions(L, "fp8llm.", functions);
}

/* "fp8llm.model" -> "model" */
const char *fl_class_name(const char *mt) {
    return strrchr(mt, '.') + 1;
}

/* Upvalues: its name, the name of the metatable. */
static int l_close(lua_State *L) {
    fl_box_close(L, 1, lua_tostring(L, lua_upvalueindex(2)));
    return 0;
}

static void push_close(lua_State *L, const fl_class_type *type) {
    lua_pushfstring(L, "%s:close", fl_class_name(type->name));
    lua_pushstring(L, type->name);
    lua_pushcclosure(L, l_close, 2);
}

/* Upvalues: its name, the name of the metatable. */
static int l_tostring(lua_State *L) {
    char what[FL_DESCRIPTION] = "";
    const char *mt = lua_tostring(L, lua_upvalueindex(2));
    const fl_box *box = fl_check_udata(L, 1, mt);
    if (box->object && box->type->describe) box->type->describe(box->object, what);
    lua_pushfstring(L, "%s%s%s", mt, box->object && !*what ? "" : ": ",
                    box->object ? what : "closed");
    return 1;
}

static void push_tostring(lua_State *L, const fl_class_type *type) {
    lua_pushfstring(L, "%s.__tostring", fl_class_name(type->name));
    lua_pushstring(L, type->name);
    lua_pushcclosure(L, l_tostring, 2);
}

void fl_class(lua_State *L, const fl_class_type *type, const luaL_Reg *methods,
              const luaL_Reg *meta) {
    char prefix[64];
    luaL_newmetatable(L, type->name);
    lua_pushlightuserdata(L, (void *)(uintptr_t)type);
    lua_rawseti(L, -2, 1);
    if (type->destroy) {
        push_close(L, type);
        lua_setfield(L, -2, "__gc");
    }
    if (methods) {
        snprintf(prefix, sizeof(prefix), "%s:", fl_class_name(type->name));
        lua_newtable(L);
        if (type->destroy) {
            push_close(L, type);
            lua_setfield(L, -2, "close");
        }
        set_functions(L, prefix, methods);
        lua_setfield(L, -2, "__index");
        push_tostring(L, type);
        lua_setfield(L, -2, "__tostring");
    }
    snprintf(prefix, sizeof(prefix), "%s.", fl_class_name(type->name));
    if (meta) set_functions(L, prefix, meta);
    lua_pushstring(L, type->name);
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "locked");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

bool fl_opt_push(lua_State *L, int idx, const char *key) {
    if (lua_isnoneornil(L, idx)) return false;
    fl_check_type(L, idx, LUA_TTABLE);
    luaL_checkstack(L, LUA_MINSTACK, "options");
    lua_getfield(L, idx, key);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

static void wrong_type(lua_State *L, const char *key, const char *want) {
    fl_raise(L, "option '%s': %s expected, got %s", key, want, luaL_typename(L, -1));
}

bool fl_opt_number(lua_State *L, int idx, const char *key, double *out) {
    if (!fl_opt_push(L, idx, key)) return false;
    if (lua_type(L, -1) != LUA_TNUMBER) wrong_type(L, key, "number");
    *out = (double)lua_tonumber(L, -1);
    lua_pop(L, 1);
    return true;
}

int fl_opt_gpu_part(lua_State *L, int idx, double *out, fl_err *err) {
    if (!fl_opt_number(L, idx, "gpu_memory_utilization", out) || (*out > 0 && *out <= 1))
        return FL_OK;
    return fl_fail(err, FL_E_ARG, "gpu_memory_utilization: need more than 0, at most 1, got %.10g",
                   *out);
}

int fl_opt_threads(lua_State *L, int idx, int *out, fl_err *err) {
    int64_t threads = 0;
    fl_opt_int(L, idx, "threads", &threads);
    if (threads < 0 || threads > 4096)
        return fl_fail(err, FL_E_ARG, "threads: need 0 to 4096, got %lld", (long long)threads);
    *out = (int)threads;
    return FL_OK;
}

bool fl_opt_int(lua_State *L, int idx, const char *key, int64_t *out) {
    double v;
    if (!fl_opt_number(L, idx, key, &v)) return false;
    if (v != floor(v) || fabs(v) > 0x1p53) fl_raise(L, "option '%s': whole number expected", key);
    *out = (int64_t)v;
    return true;
}

bool fl_opt_bool(lua_State *L, int idx, const char *key, bool *out) {
    if (!fl_opt_push(L, idx, key)) return false;
    if (!lua_isboolean(L, -1)) wrong_type(L, key, "boolean");
    *out = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return true;
}

bool fl_opt_string(lua_State *L, int idx, const char *key, const char **out) {
    if (!fl_opt_push(L, idx, key)) return false;
    size_t n;
    if (lua_type(L, -1) != LUA_TSTRING) wrong_type(L, key, "string");
    *out = lua_tolstring(L, -1, &n);
    if (strlen(*out) != n) fl_raise(L, "option '%s': a string without NUL expected", key);
    return true;
}

void fl_opt_only(lua_State *L, int idx, const char *const *known) {
    if (lua_isnoneornil(L, idx)) return;
    fl_check_type(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        int i = 0;
        while (key && known[i] && strcmp(known[i], key)) i++;
        if (!key || !known[i]) fl_raise(L, "unknown option '%s'", key ? key : luaL_typename(L, -2));
    }
}

const char *fl_check_string(lua_State *L, int idx) {
    size_t n;
    const char *s = fl_check_text(L, idx, &n);
    if (strlen(s) != n) fl_arg_error(L, idx, "a string without NUL expected");
    return s;
}

bool fl_find_model(lua_State *L, int idx) {
    const char *name = fl_check_string(L, idx);
    if (fl_file_exists(name)) return true;
    idx = lua_absindex(L, idx);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "fp8llm.hub");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "find");
    lua_pushvalue(L, idx);
    lua_call(L, 1, 3);
    if (!lua_isstring(L, -3)) return false;
    lua_pop(L, 2);
    lua_replace(L, idx);
    lua_pop(L, 1);
    return true;
}

int64_t fl_check_int(lua_State *L, int idx) {
    double v = fl_check_number(L, idx);
    if (v != floor(v) || fabs(v) > 0x1p53) fl_arg_error(L, idx, "whole number expected");
    return (int64_t)v;
}

int32_t *fl_check_ids(lua_State *L, int idx, size_t *n) {
    fl_check_type(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    *n = lua_rawlen(L, idx);
    if (*n > INT32_MAX / 8) fl_arg_error(L, idx, "too many token ids");
    int32_t *ids = lua_newuserdata(L, (*n + 1) * sizeof(*ids));
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, idx, (int)i + 1);
        double v = lua_type(L, -1) == LUA_TNUMBER ? (double)lua_tonumber(L, -1) : 0.5;
        if (v != floor(v) || v < 0 || v > INT32_MAX) {
            fl_raise(L, "token id %d: whole number in [0, 2147483647] expected, got %s", (int)i + 1,
                     luaL_typename(L, -1));
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

const char **fl_check_strings(lua_State *L, int idx, const char *what, size_t most, size_t *n) {
    fl_check_type(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    size_t bytes = 0, used = 0, len;
    *n = lua_rawlen(L, idx);
    if (*n > most) fl_raise(L, "%s: at most %d strings expected", what, (int)most);
    for (size_t i = 0; i < *n; i++, bytes += len + 1) {
        lua_rawgeti(L, idx, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            fl_raise(L, "%s: list of strings expected, got %s", what, luaL_typename(L, -1));
        const char *s = lua_tolstring(L, -1, &len);
        if (strlen(s) != len) fl_raise(L, "%s: string %d has a NUL in it", what, (int)i + 1);
        lua_pop(L, 1);
    }
    const char **list = lua_newuserdata(L, (*n + 1) * sizeof(*list) + bytes);
    char *text = (char *)(list + *n + 1);
    for (size_t i = 0; i < *n; i++, used += len + 1) {
        lua_rawgeti(L, idx, (int)i + 1);
        const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
        if (!s || len >= bytes - used) fl_raise(L, "%s: changed while it was read", what);
        list[i] = memcpy(text + used, s, len + 1);
        lua_pop(L, 1);
    }
    list[*n] = NULL;
    return list;
}
