#include "binding/lua_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/utf8.h"

enum { MAX_DEPTH = 200 };

typedef struct converter {
    lua_State *L;
    fl_arena *arena;
    fl_err *err;
    int depth, jsontype; /* jsontype: where the string "__jsontype" is */
} converter;

static int convert(converter *c, int idx, fl_jv *out);

static int no_memory(const converter *c) {
    return fl_fail(c->err, FL_E_NOMEM, "no memory for the value");
}

/* A copy with U+FFFD for every invalid part: at most three bytes for one. */
static int repair(converter *c, const char *s, size_t n, fl_jv *out) {
    if (n > SIZE_MAX / 4) return no_memory(c);
    char *data = fl_arena_alloc(c->arena, 3 * n + 1), *p = data;
    if (!data) return no_memory(c);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int k = fl_utf8_decode(s + i, n - i, &cp, NULL);
        p += fl_utf8_encode(p, k > 0 ? cp : 0xfffd);
        i += (size_t)abs(k);
    }
    *out = (fl_jv){.kind = FL_JV_STRING, .string = {data, (size_t)(p - data)}};
    return FL_OK;
}

static int convert_string(converter *c, int idx, fl_jv *out) {
    size_t n;
    const char *s = lua_tolstring(c->L, idx, &n);
    if (!fl_utf8_valid(s, n)) return repair(c, s, n, out);
    char *data = fl_arena_alloc(c->arena, n + 1);
    if (!data) return no_memory(c);
    memcpy(data, s, n);
    *out = (fl_jv){.kind = FL_JV_STRING, .string = {data, n}};
    return FL_OK;
}

static void convert_number(converter *c, int idx, fl_jv *out) {
    double v = (double)lua_tonumber(c->L, idx);
#if LUA_VERSION_NUM >= 503
    bool whole = lua_isinteger(c->L, idx);
    int64_t i = whole ? (int64_t)lua_tointeger(c->L, idx) : 0;
#else
    bool whole = v == floor(v) && fabs(v) < 0x1p63;
    int64_t i = whole ? (int64_t)v : 0;
#endif
    *out = whole ? (fl_jv){.kind = FL_JV_INT, .integer = i}
                 : (fl_jv){.kind = FL_JV_FLOAT, .number = v};
}

/* __jsontype of the table's metatable: 'a'rray, 'o'bject, 'n'ull, or 0. */
static char marked_type(const converter *c, int idx) {
    lua_State *L = c->L;
    char type = 0;
    if (!lua_getmetatable(L, idx)) return 0;
    if (lua_istable(L, -1)) {
        lua_pushvalue(L, c->jsontype);
        lua_rawget(L, -2);
        if (lua_type(L, -1) == LUA_TSTRING) type = *lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return type;
}

/* The path before a message stops growing before it pushes the message out. */
static bool is_short(const converter *c) {
    return strlen(c->err->msg) < 200;
}

static int convert_array(converter *c, int idx, size_t n, fl_jv *out) {
    fl_jv *items = fl_arena_alloc(c->arena, n * sizeof(*items));
    if (!items) return no_memory(c);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(c->L, idx, (int)i + 1);
        int rc = convert(c, lua_gettop(c->L), &items[i]);
        lua_pop(c->L, 1);
        if (rc && is_short(c)) fl_fail_in(c->err, "[%zu]: ", i + 1);
        if (rc) return rc;
    }
    *out = (fl_jv){.kind = FL_JV_ARRAY, .n = (uint32_t)n, .items = items};
    return FL_OK;
}

static int by_key(const void *a, const void *b) {
    const fl_jv *x = &((const fl_jv_member *)a)->key, *y = &((const fl_jv_member *)b)->key;
    size_t n = x->string.len < y->string.len ? x->string.len : y->string.len;
    int order = memcmp(x->string.data, y->string.data, n);
    return order ? order : (x->string.len > y->string.len) - (x->string.len < y->string.len);
}

/* A whole number >= 0, as in {[128009] = -100}. */
static bool is_id(lua_State *L, int idx) {
    if (lua_type(L, idx) != LUA_TNUMBER) return false;
    double v = (double)lua_tonumber(L, idx);
    return v >= 0 && v <= 0x1p53 && v == floor(v);
}

static int convert_key(converter *c, int idx, fl_jv *out) {
    if (lua_type(c->L, idx) == LUA_TSTRING) return convert_string(c, idx, out);
    char *text = fl_arena_alloc(c->arena, 24);
    if (!text) return no_memory(c);
    int n = snprintf(text, 24, "%.0f", (double)lua_tonumber(c->L, idx));
    *out = (fl_jv){.kind = FL_JV_STRING, .string = {text, (size_t)n}};
    return FL_OK;
}

static int convert_object(converter *c, int idx, size_t n, fl_jv *out) {
    fl_jv_member *members = fl_arena_alloc(c->arena, n * sizeof(*members));
    size_t i = 0;
    int rc = members ? FL_OK : no_memory(c);
    if (rc) return rc;
    for (lua_pushnil(c->L); lua_next(c->L, idx); lua_pop(c->L, 1), i++) {
        int top = lua_gettop(c->L);
        if ((rc = convert_key(c, top - 1, &members[i].key)) == FL_OK &&
            (rc = convert(c, top, &members[i].value)) != FL_OK && is_short(c))
            fl_fail_in(c->err, "%.60s: ", members[i].key.string.data);
        if (!rc) continue;
        lua_pop(c->L, 2);
        return rc;
    }
    qsort(members, n, sizeof(*members), by_key);
    *out = (fl_jv){.kind = FL_JV_OBJECT, .n = (uint32_t)n, .members = members};
    return FL_OK;
}

static int convert_table(converter *c, int idx, fl_jv *out) {
    lua_State *L = c->L;
    char mark = marked_type(c, idx);
    size_t n = 0, n_list = lua_rawlen(L, idx), n_names = 0, n_ids = 0;
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        n++;
        n_names += lua_type(L, -2) == LUA_TSTRING;
        n_ids += is_id(L, -2);
    }
    if (n > INT32_MAX / 4) return fl_fail(c->err, FL_E_LIMIT, "table of %zu members", n);
    if (!n && mark == 'n') {
        *out = (fl_jv){.kind = FL_JV_NULL};
        return FL_OK;
    }
    if (n_names != n && n_ids != n && n_list != n)
        return fl_fail(c->err, FL_E_ARG,
                       "a table that is no list and has not only names or only ids");
    if (!n && mark == 'o') return convert_object(c, idx, 0, out);
    return n_list == n ? convert_array(c, idx, n, out) : convert_object(c, idx, n, out);
}

static int convert(converter *c, int idx, fl_jv *out) {
    lua_State *L = c->L;
    int rc;
    *out = (fl_jv){.kind = FL_JV_NULL};
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
        return FL_OK;
    case LUA_TBOOLEAN:
        *out = (fl_jv){.kind = FL_JV_BOOL, .boolean = lua_toboolean(L, idx)};
        return FL_OK;
    case LUA_TNUMBER:
        convert_number(c, idx, out);
        return FL_OK;
    case LUA_TSTRING:
        return convert_string(c, idx, out);
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, idx)) return FL_OK;
        break;
    case LUA_TTABLE:
        if (++c->depth > MAX_DEPTH)
            return fl_fail(c->err, FL_E_ARG, "nested deeper than %d levels", MAX_DEPTH);
        if (!lua_checkstack(L, 8)) return no_memory(c);
        rc = convert_table(c, idx, out);
        c->depth--;
        return rc;
    default:
        break;
    }
    return fl_fail(c->err, FL_E_ARG, "a %s has no JSON form", lua_typename(L, lua_type(L, idx)));
}

int fl_lua_to_jv(lua_State *L, int idx, fl_arena *arena, fl_jv *out, fl_err *err) {
    converter c = {.L = L, .arena = arena, .err = err, .jsontype = lua_gettop(L) + 1};
    idx = lua_absindex(L, idx);
    lua_pushliteral(L, "__jsontype");
    int rc = convert(&c, idx, out);
    lua_pop(L, 1);
    return rc;
}
