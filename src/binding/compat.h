/* compat.h - one source for LuaJIT and PUC Lua 5.1, 5.2, 5.3, 5.4.  LuaJIT and PUC 5.1
 * share one binary, so only functions of PUC 5.1 may be called there. */
#ifndef FL_BINDING_COMPAT_H
#define FL_BINDING_COMPAT_H

#include <lauxlib.h>
#include <lua.h>

#if LUA_VERSION_NUM < 502
#define lua_rawlen(L, i)   lua_objlen((L), (i))
#define lua_absindex(L, i) ((i) < 0 && (i) > LUA_REGISTRYINDEX ? lua_gettop(L) + (i) + 1 : (i))
#endif

#endif
