/* lua_json.h - Lua values as JSON values. */
#ifndef FL_BINDING_LUA_JSON_H
#define FL_BINDING_LUA_JSON_H

#include "binding/compat.h"
#include "text/json_value.h"

/* The value at idx.  Tables with elements 1..n are arrays, also the empty one; others are
 * objects, their keys sorted: all names, or all whole numbers, which become their digits.
 * A metatable with __jsontype "array", "object" or "null" decides for empty tables; a NULL
 * light userdata (cjson.null) is null too.  Numbers are integers when Lua says so (5.3 on)
 * or when they are whole.  Strings that are not UTF-8 get U+FFFD for each bad part.
 * Everything is copied into the arena.  Raises only where Lua has no memory, and before it takes
 * any of the arena; FL_E_ARG names what cannot be JSON. */
int fl_lua_to_jv(lua_State *L, int idx, fl_arena *arena, fl_jv *out, fl_err *err);

#endif
