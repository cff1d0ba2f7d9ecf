/* fp8llm.quantize{...}: make an FP8 checkpoint. */
#include "binding/binding.h"
#include "quant/quantize.h"

static const char *const known[] = {"src",
                                    "dst",
                                    "scheme",
                                    "format",
                                    "observer",
                                    "sparse",
                                    "sparse_method",
                                    "sparse_format",
                                    "kv",
                                    "compat",
                                    "ignore",
                                    "calibrate",
                                    "samples",
                                    "max_length",
                                    "device",
                                    "threads",
                                    "progress",
                                    "max_shard_bytes",
                                    "gpu_memory_utilization",
                                    NULL};

enum { MAX_IGNORED = 1 << 20 };

/* A string or a list of them -> an array that lives in a userdata left on the stack. */
static void read_ignore(lua_State *L, fl_quantize_options *o) {
    if (!fl_opt_push(L, 1, "ignore")) return;
    if (lua_type(L, -1) == LUA_TSTRING) {
        lua_createtable(L, 1, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
    }
    if (!lua_istable(L, -1)) fl_raise(L, "option 'ignore': string or list of strings expected");
    o->ignore = fl_check_strings(L, -1, "option 'ignore'", MAX_IGNORED, &o->n_ignore);
}

enum { REPORT = 2, PROGRESS = 3 }; /* where l_quantize keeps l_report and the function */

typedef struct progress {
    const char *phase;
    double fraction;
} progress;

static int l_report(lua_State *L) {
    const progress *p = lua_touserdata(L, 2);
    lua_settop(L, 1);
    lua_pushstring(L, p->phase);
    lua_pushnumber(L, p->fraction);
    lua_call(L, 2, 0);
    return 0;
}

/* Runs on the thread that called fp8llm.quantize.  An error must not unwind through C: what is done
 * outside of lua_pcall raises none. */
static void on_progress(void *ctx, const char *phase, double fraction) {
    lua_State *L = ctx;
    progress p = {phase, fraction};
    lua_pushvalue(L, REPORT);
    lua_pushvalue(L, PROGRESS);
    lua_pushlightuserdata(L, &p);
    if (lua_pcall(L, 2, 0, 0)) lua_pop(L, 1);
}

/* fp8llm.quantize{src=, dst=, scheme=, calibrate=, ...} -> report | nil, message, CODE */
static int l_quantize(lua_State *L) {
    fl_quantize_options o = {0};
    fl_quantize_report report;
    const char *src = NULL, *dst = NULL;
    int64_t shard = 0;
    fl_err err;
    fl_check_type(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_pushcfunction(L, l_report);
    if (!fl_opt_push(L, 1, "progress")) lua_pushnil(L);
    if (!lua_isnil(L, PROGRESS)) {
        if (!lua_isfunction(L, PROGRESS))
            fl_raise(L, "option 'progress': function expected, got %s", luaL_typename(L, PROGRESS));
        o.progress = on_progress;
        o.progress_ctx = L;
    }
    fl_opt_only(L, 1, known);
    if (!fl_opt_string(L, 1, "src", &src)) fl_raise(L, "option 'src': string expected");
    if (!fl_opt_string(L, 1, "dst", &dst)) fl_raise(L, "option 'dst': string expected");
    lua_pushstring(L, src);
    if (!fl_find_model(L, lua_gettop(L))) return 3;
    src = lua_tostring(L, -1);
    const struct {
        const char *key, **word;
    } words[] = {{"scheme", &o.scheme},
                 {"format", &o.format},
                 {"observer", &o.observer},
                 {"sparse", &o.sparse},
                 {"sparse_method", &o.sparse_method},
                 {"sparse_format", &o.sparse_format},
                 {"kv", &o.kv},
                 {"calibrate", &o.calibrate},
                 {"device", &o.device}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        fl_opt_string(L, 1, words[i].key, words[i].word);
    fl_opt_bool(L, 1, "compat", &o.compat);
    read_ignore(L, &o);
    fl_opt_int(L, 1, "samples", &o.samples);
    fl_opt_int(L, 1, "max_length", &o.max_length);
    fl_opt_int(L, 1, "max_shard_bytes", &shard);
    o.max_shard_bytes = (uint64_t)shard;
    int rc = fl_opt_gpu_part(L, 1, &o.gpu_memory_utilization, &err);
    if (!rc) rc = fl_opt_threads(L, 1, &o.threads, &err);
    if (!rc && shard < 0)
        rc = fl_fail(&err, FL_E_ARG, "max_shard_bytes: need a positive number, got %lld",
                     (long long)shard);
    if (!rc) rc = fl_quantize(&report, src, dst, &o, &err);
    if (rc) return fl_push_err(L, &err);
    lua_createtable(L, 0, 6);
    const struct {
        const char *key;
        double value;
    } members[] = {{"linears", (double)report.linears},   {"ignored", (double)report.ignored},
                   {"samples", (double)report.samples},   {"tokens", (double)report.tokens},
                   {"bytes_in", (double)report.bytes_in}, {"bytes_out", (double)report.bytes_out}};
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        fl_push_number(L, (double)members[i].value);
        lua_setfield(L, -2, members[i].key);
    }
    return 1;
}

void fl_register_quantize(lua_State *L) {
    static const luaL_Reg functions[] = {{"quantize", l_quantize}, {NULL, NULL}};
    fl_set_functions(L, functions);
}
