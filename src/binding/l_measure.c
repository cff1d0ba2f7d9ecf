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
    int threads = 0, rc = fl_opt_threads(L, 1, &threads, &err);
    fl_opt_int(L, 1, "bytes", &bytes);
    fl_opt_string(L, 1, "device", &device);
    if (!rc && bytes < 0)
        rc = fl_fail(&err, FL_E_ARG, "bytes: need a positive number, got %lld", (long long)bytes);
    if (!rc) rc = open_device(&be, &ops, device, 1, &err);
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
    int threads = 0, rc = fl_opt_threads(L, 1, &threads, &err);
    fl_opt_string(L, 1, "device", &device);
    fl_opt_string(L, 1, "dtype", &dtype);
    fl_opt_int(L, 1, "size", &size);
    const bool fp8 = !strcmp(dtype, "fp8");
    if (!rc && !fp8 && strcmp(dtype, "bf16"))
        rc = fl_fail(&err, FL_E_ARG, "dtype: need fp8 or bf16, got '%.60s'", dtype);
    if (!rc && (size < 16 || size > FL_DEVICE_PEAK_MAX || size % 16))
        rc = fl_fail(&err, FL_E_ARG, "size: need a multiple of 16 up to %d, got %lld",
                     FL_DEVICE_PEAK_MAX, (long long)size);
    if (!rc) rc = open_device(&be, &ops, device, size, &err);
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
    fl_opt_number(L, 1, "work", &work);
    const fl_handover h = {(int)rounds, work};
    int rc = FL_OK;
    if (rounds < 1 || rounds > 1000000)
        rc = fl_fail(&err, FL_E_ARG, "rounds: need 1 to 1000000, got %lld", (long long)rounds);
    if (!rc && !(work >= 0 && work <= 1))
        rc = fl_fail(&err, FL_E_ARG, "work: need 0 to 1 second, got %.10g", work);
    if (!rc) rc = fl_handover_cost(&cost, &h, &err);
    if (rc) return fl_push_err(L, &err);
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
