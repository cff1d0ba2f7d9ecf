/* Does the binding survive when Lua runs out of memory at any point?  Runs a script again
 * and again in a fresh state whose allocator refuses its n-th request, n = 0, 1, 2, ...
 * until the script gets through.  After every run the state is closed and no C block may
 * be left.  TAP; built once per Lua version.
 *
 *     alloc_test SCRIPT MODEL_DIR */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>

#include "../c/tap.h"
#include "util/mem.h"

int luaopen_fp8llm(lua_State *L);

typedef struct budget {
    long left; /* requests granted before one is refused; < 0: no limit */
    bool refused;
} budget;

static void *limited(void *ctx, void *p, size_t old, size_t size) {
    budget *b = ctx;
    if (size == 0) {
        free(p);
        return NULL;
    }
    if (p && size <= old) return realloc(p, size); /* Lua relies on shrinking */
    if (b->left == 0) {
        b->refused = true;
        return NULL;
    }
    if (b->left > 0) b->left--;
    return realloc(p, size);
}

static bool core_refuses(void *ctx, size_t bytes) {
    (void)bytes;
    budget *b = ctx;
    if (b->left == 0) {
        b->refused = true;
        return false;
    }
    if (b->left > 0) b->left--;
    return true;
}

/* Not io: without memory half way through it, Lua 5.1 closes stdout. */
static void open_libraries(lua_State *L) {
    static const luaL_Reg libraries[] = {{"", luaopen_base},
                                         {LUA_LOADLIBNAME, luaopen_package},
                                         {LUA_TABLIBNAME, luaopen_table},
                                         {LUA_STRLIBNAME, luaopen_string},
                                         {LUA_MATHLIBNAME, luaopen_math},
                                         {NULL, NULL}};
    for (const luaL_Reg *l = libraries; l->func; l++) {
#if LUA_VERSION_NUM < 502
        lua_pushcfunction(L, l->func);
        lua_pushstring(L, l->name);
        lua_call(L, 1, 0);
#else
        luaL_requiref(L, *l->name ? l->name : "_G", l->func, 1);
        lua_pop(L, 1);
#endif
    }
}

static int run(lua_State *L) {
    const char *const *argv = lua_touserdata(L, 1);
    open_libraries(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_fp8llm);
    lua_setfield(L, -2, "fp8llm");
    if (luaL_loadfile(L, argv[1])) return lua_error(L);
    lua_pushstring(L, argv[2]);
    lua_call(L, 1, 0);
    return 0;
}

/* Lua 5.1 allocates to push a C function, and nothing protects that but lua_cpcall. */
static int call_run(lua_State *L, const char **argv) {
#if LUA_VERSION_NUM < 502
    return lua_cpcall(L, run, argv);
#else
    lua_pushcfunction(L, run);
    lua_pushlightuserdata(L, argv);
    return lua_pcall(L, 1, 0, 0);
#endif
}

/* Lua 5.4 grows its stack before it calls a finalizer; when it cannot, it drops the object with a
 * warning and nothing of ours is called.  The other versions prove that ours free everything. */
static bool dropped;
#if LUA_VERSION_NUM >= 504
static void note_dropped(void *ctx, const char *message, int continued) {
    (void)ctx;
    (void)message;
    (void)continued;
    dropped = true;
}
#endif

/* Lua 5.2 and 5.3 drop such an object without a word.  There finalizers wait for the end of the
 * state, when memory is granted again: every object is still seen to be freed. */
static const bool finalizers_wait = LUA_VERSION_NUM == 502 || LUA_VERSION_NUM == 503;

/* One run; true when the script got through.  `in_core`: the C core's allocator is the
 * one that refuses, and the script must cope (it gets nil, message, "NOMEM"). */
static bool attempt(const char **argv, long granted, bool in_core, bool *refused) {
    budget lua = {in_core ? -1 : granted, false}, core = {granted, false};
    if (in_core) fl_mem_set_hook(core_refuses, &core);
    lua_State *L = lua_newstate(limited, &lua);
    bool through = false;
    dropped = false;
    if (L) {
#if LUA_VERSION_NUM >= 504
        lua_setwarnf(L, note_dropped, NULL);
#endif
        if (finalizers_wait) lua_gc(L, LUA_GCSTOP, 0);
        int rc = call_run(L, argv);
        through = rc == 0;
        if (rc && !lua.refused && !core.refused) printf("# %s\n", lua_tostring(L, -1));
        if (finalizers_wait) lua.left = -1;
        lua_close(L);
    }
    fl_mem_set_hook(NULL, NULL);
    *refused = lua.refused || core.refused;
    return through;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: alloc_test SCRIPT MODEL_DIR\n");
        return 2;
    }
    bool refused;
    check(attempt((const char **)argv, -1, false, &refused), "the script runs with enough memory");
    int64_t live = fl_mem_live();
    check(live == 0, "and leaves nothing behind (%lld blocks)", (long long)live);
    for (int in_core = 0; in_core < 2; in_core++) {
        const char *who = in_core ? "the core's" : "Lua's";
        long n = 0, leaks = 0, surprises = 0;
        for (bool through = false; n < 200000; n++) {
            live = fl_mem_live();
            through = attempt((const char **)argv, n, in_core, &refused);
            leaks += fl_mem_live() != live && !dropped;
            if (!refused) {
                surprises += !through;
                break;
            }
        }
        check(n > 20, "%s allocator was refused at %ld places", who, n);
        check(leaks == 0, "no block was lost in %ld of them", leaks);
        check(surprises == 0, "and the script gets through when nothing is refused");
    }
    return tap_done();
}
