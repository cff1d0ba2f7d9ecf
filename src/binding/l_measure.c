/* Clocks and the roofs of the machine, for benchmarks written in Lua. */
#include <string.h>
#include <time.h>

#include "backend/bandwidth.h"
#include "binding/binding.h"
#include "util/clock.h"
#include "util/handover.h"

/* fp8llm.clock() -> seconds on a clock that only goes forward */
static int l_clock(lua_State *L) {
    lua_pushnumber(L, (lua_Number)fl_now());
    return 1;
}

/* Open the device that option `device` names; NULL in *be for the CPU, which has ways of its own. */
static int open_device(fl_backend **be, const fl_backend_ops **ops, const char *device,
                       int64_t rows, fl_err *err) {
    fl_backend_params p = {.max_rows = rows};
    *be = NULL;
    if (!strcmp(device, "cpu") || !strcmp(device, "auto")) return FL_OK;
    int rc = fl_backend_device(ops, &p.device, device, err);
    return rc ? rc : (*ops)->open(be, &p, err);
}

static int read_threads(lua_State *L) {
    int64_t threads = 0;
    fl_opt_int(L, 1, "threads", &threads);
    if (threads < 0 || threads > 4096) fl_raise(L, "option 'threads': 0 to 4096 expected");
    return (int)threads;
}

/* fp8llm.read_bandwidth{threads=0, bytes=268435456, device="cpu"} -> bytes per second */
static int l_read_bandwidth(lua_State *L) {
    static const char *const known[] = {"threads", "bytes", "device", NULL};
    const fl_backend_ops *ops;
    const char *device = "cpu";
    int64_t bytes = 256 << 20;
    fl_backend *be;
    double rate;
    fl_err err;
    fl_opt_only(L, 1, known);
    const int threads = read_threads(L);
    fl_opt_int(L, 1, "bytes", &bytes);
    fl_opt_string(L, 1, "device", &device);
    if (bytes < 0) fl_raise(L, "option 'bytes': a positive number expected");
    int rc = open_device(&be, &ops, device, 1, &err);
    if (!rc) {
        rc = be ? fl_device_bandwidth(&rate, ops, be, (uint64_t)bytes, &err)
                : fl_read_bandwidth(&rate, threads, (uint64_t)bytes, &err);
        if (be) ops->close(be);
    }
    if (rc) return fl_push_err(L, &err);
    lua_pushnumber(L, (lua_Number)rate);
    return 1;
}

/* fp8llm.flop_peak{threads=0, device="cpu", dtype="fp8", size=8192} -> multiplications and
 * additions per second */
static int l_flop_peak(lua_State *L) {
    static const char *const known[] = {"threads", "device", "dtype", "size", NULL};
    const fl_backend_ops *ops;
    const char *device = "cpu", *dtype = "fp8";
    int64_t size = 8192;
    fl_backend *be;
    double rate;
    fl_err err;
    fl_opt_only(L, 1, known);
    const int threads = read_threads(L);
    fl_opt_string(L, 1, "device", &device);
    fl_opt_string(L, 1, "dtype", &dtype);
    fl_opt_int(L, 1, "size", &size);
    const bool fp8 = !strcmp(dtype, "fp8");
    if (!fp8 && strcmp(dtype, "bf16")) fl_raise(L, "option 'dtype': fp8 or bf16 expected");
    if (size < 16 || size > FL_DEVICE_PEAK_MAX || size % 16)
        fl_raise(L, "option 'size': a multiple of 16 up to %d expected", FL_DEVICE_PEAK_MAX);
    int rc = open_device(&be, &ops, device, size, &err);
    if (!rc) {
        rc = be ? fl_device_flop_peak(&rate, ops, be, fp8 ? FL_DTYPE_E4M3 : FL_DTYPE_BF16, size,
                                      &err)
                : fl_flop_peak(&rate, threads, &err);
        if (be) ops->close(be);
    }
    if (rc) return fl_push_err(L, &err);
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

/* fp8llm.handover_cost{rounds=1000, work=0} -> seconds of processor time, of both threads, for one
 * of them to wake the other and to sleep until that, after `work` seconds of its own, wakes it */
static int l_handover_cost(lua_State *L) {
    static const char *const known[] = {"rounds", "work", NULL};
    int64_t rounds = 1000;
    double cost, work = 0;
    fl_err err;
    fl_opt_only(L, 1, known);
    fl_opt_int(L, 1, "rounds", &rounds);
    if (rounds < 1 || rounds > 1000000) fl_raise(L, "option 'rounds': 1 to 1000000 expected");
    fl_opt_number(L, 1, "work", &work);
    if (!(work >= 0 && work <= 1)) fl_raise(L, "option 'work': 0 to 1 second expected");
    const fl_handover h = {(int)rounds, work};
    if (fl_handover_cost(&cost, &h, &err)) return fl_push_err(L, &err);
    lua_pushnumber(L, (lua_Number)cost);
    return 1;
}

void fl_register_measure(lua_State *L) {
    static const luaL_Reg functions[] = {{"clock", l_clock},
                                         {"thread_clock", l_thread_clock},
                                         {"read_bandwidth", l_read_bandwidth},
                                         {"flop_peak", l_flop_peak},
                                         {"handover_cost", l_handover_cost},
                                         {NULL, NULL}};
    fl_set_functions(L, functions);
}
