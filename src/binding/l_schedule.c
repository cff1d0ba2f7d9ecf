/* fp8llm.schedule: the engine's scheduler by itself, for simulations. */
#include "binding/binding.h"
#include "engine/scheduler.h"

/* Products of two of them are taken. */
static int64_t get_int(lua_State *L, int idx, const char *key) {
    int64_t v = 0;
    fl_opt_int(L, idx, key, &v);
    if (v > INT32_MAX / 2) fl_raise(L, "'%s': at most %d expected", key, INT32_MAX / 2);
    return v;
}

static bool get_bool(lua_State *L, int idx, const char *key) {
    bool v = false;
    fl_opt_bool(L, idx, key, &v);
    return v;
}

/* The item on top of the stack. */
static fl_sched_item read_item(lua_State *L) {
    const int i = lua_gettop(L);
    fl_check_type(L, i, LUA_TTABLE);
    return (fl_sched_item){.share = get_int(L, i, "share"),
                           .running = get_bool(L, i, "running"),
                           .parked = get_bool(L, i, "parked"),
                           .paused = get_bool(L, i, "paused"),
                           .shared_tail = get_bool(L, i, "shared_tail"),
                           .length = get_int(L, i, "length"),
                           .pending = get_int(L, i, "pending"),
                           .pages = get_int(L, i, "pages")};
}

static fl_sched_limits read_limits(lua_State *L, int idx) {
    fl_sched_limits l = {.max_rows = get_int(L, idx, "max_rows"),
                         .max_seqs = get_int(L, idx, "max_seqs"),
                         .max_running = get_int(L, idx, "max_running"),
                         .free_pages = get_int(L, idx, "free_pages"),
                         .page_tokens = get_int(L, idx, "page_tokens")};
    if (l.max_rows < 0 || l.max_seqs < 0 || l.max_running < 0 || l.free_pages < 0 ||
        l.page_tokens < 1)
        fl_arg_error(L, idx,
                     "max_rows, max_seqs, max_running, free_pages >= 0 and page_tokens "
                     ">= 1 expected");
    return l;
}

/* fp8llm.schedule(items, limits) -> items, each with rows and preempt of the next step */
static int l_schedule(lua_State *L) {
    fl_check_type(L, 1, LUA_TTABLE);
    fl_check_type(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    const fl_sched_limits limits = read_limits(L, 2);
    const int n = (int)lua_rawlen(L, 1);
    fl_sched_item *items = lua_newuserdata(L, ((size_t)n + 1) * sizeof(*items));
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 1, i + 1);
        items[i] = read_item(L);
        if (items[i].length < 0 || items[i].pages < 0 || items[i].pending < 1)
            fl_raise(L, "item %d: length and pages >= 0, pending >= 1 expected", i + 1);
        lua_pop(L, 1);
    }
    fl_schedule(items, n, &limits);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 1, i + 1);
        lua_pushinteger(L, (lua_Integer)items[i].rows);
        lua_setfield(L, -2, "rows");
        lua_pushboolean(L, items[i].preempt);
        lua_setfield(L, -2, "preempt");
        lua_pop(L, 1);
    }
    lua_settop(L, 1);
    return 1;
}

static const luaL_Reg functions[] = {{"schedule", l_schedule}, {NULL, NULL}};

void fl_register_schedule(lua_State *L) {
    fl_set_functions(L, functions);
}
