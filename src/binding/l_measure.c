/* Clocks and the roofs of the machine, for benchmarks written in Lua. */
#include <time.h>

#include "backend/bandwidth.h"
#include "binding/binding.h"

/* fp8llm.clock() -> seconds on a clock that only goes forward */
static int l_clock(lua_State *L) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    lua_pushnumber(L, (lua_Number)t.tv_sec + 1e-9 * (lua_Number)t.tv_nsec);
    return 1;
}

/* fp8llm.read_bandwidth{threads=0, bytes=268435456} -> bytes per second */
static int l_read_bandwidth(lua_State *L) {
    static const char *const known[] = {"threads", "bytes", NULL};
    int64_t threads = 0, bytes = 256 << 20;
    double rate;
    fl_err err;
    fl_opt_only(L, 1, known);
    fl_opt_int(L, 1, "threads", &threads);
    fl_opt_int(L, 1, "bytes", &bytes);
    if (threads < 0 || threads > 4096) luaL_error(L, "option 'threads': 0 to 4096 expected");
    if (bytes < 0) luaL_error(L, "option 'bytes': a positive number expected");
    if (fl_read_bandwidth(&rate, (int)threads, (uint64_t)bytes, &err)) return fl_push_err(L, &err);
    lua_pushnumber(L, (lua_Number)rate);
    return 1;
}

/* fp8llm.flop_peak{threads=0} -> multiplications and additions per second */
static int l_flop_peak(lua_State *L) {
    static const char *const known[] = {"threads", NULL};
    int64_t threads = 0;
    double rate;
    fl_err err;
    fl_opt_only(L, 1, known);
    fl_opt_int(L, 1, "threads", &threads);
    if (threads < 0 || threads > 4096) luaL_error(L, "option 'threads': 0 to 4096 expected");
    if (fl_flop_peak(&rate, (int)threads, &err)) return fl_push_err(L, &err);
    lua_pushnumber(L, (lua_Number)rate);
    return 1;
}

/* fp8llm.thread_clock() -> seconds of processor time of the calling thread */
static int l_thread_clock(lua_State *L) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    lua_pushnumber(L, (lua_Number)t.tv_sec + 1e-9 * (lua_Number)t.tv_nsec);
    return 1;
}

void fl_register_measure(lua_State *L) {
    static const luaL_Reg functions[] = {{"clock", l_clock},
                                         {"thread_clock", l_thread_clock},
                                         {"read_bandwidth", l_read_bandwidth},
                                         {"flop_peak", l_flop_peak},
                                         {NULL, NULL}};
    fl_set_functions(L, functions);
}
