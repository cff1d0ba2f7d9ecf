/* Class model: fp8llm.load and what a loaded model offers. */
#include <stdio.h>
#include <string.h>

#include "binding/binding.h"
#include "binding/l_engine.h"
#include "binding/l_model.h"
#include "binding/l_tensor.h"
#include "model/paths.h"
#include "model/sequence.h"
#include "text/tokenizer.h"
#include "util/mem.h"

/* What the box holds: the model, and its tokenizer once somebody asked for it. */
typedef struct lua_model {
    fl_model *model;
    fl_tokenizer *tokenizer;
} lua_model;

fl_model *fl_check_model(lua_State *L, int idx) {
    lua_model *m = fl_box_check(L, idx, FL_MT_MODEL);
    return m->model;
}

static const char *const load_options[] = {"device",
                                           "isa",
                                           "threads",
                                           "context",
                                           "kv",
                                           "kv_tokens",
                                           "max_step_rows",
                                           "tp",
                                           "progress",
                                           "prefix_cache",
                                           "load_format",
                                           "config_json",
                                           "time_ops",
                                           "graphs",
                                           "gpu_memory_utilization",
                                           "batch_invariant",
                                           "sparse_prefill",
                                           NULL};

enum { PROGRESS = 3 }; /* where l_load keeps the function, or nil */

/* The loader calls this on the thread that called fp8llm.load.  An error must not unwind through
 * the loader: one inside the function is dropped, and what is done outside of it raises none. */
static void on_progress(void *ctx, double fraction) {
    lua_State *L = ctx;
    lua_pushvalue(L, PROGRESS);
    lua_pushnumber(L, fraction);
    if (lua_pcall(L, 1, 0, 0)) lua_pop(L, 1);
}

/* Which of the words (NULL-terminated, the default first) option `key` is. */
static int read_word(lua_State *L, const char *key, const char *const *words, int *out,
                     fl_err *err) {
    const char *word = words[0];
    fl_opt_string(L, 2, key, &word);
    for (*out = 0; words[*out]; ++*out) {
        if (!strcmp(words[*out], word)) return FL_OK;
    }
    return fl_fail(err, FL_E_ARG, "%s: need %s, %s%s%s, got '%.60s'", key, words[0], words[1],
                   words[2] ? " or " : "", words[2] ? words[2] : "", word);
}

static int read_words(lua_State *L, fl_model_options *o, fl_err *err) {
    static const char *const kv[] = {"auto", "bf16", "fp8", NULL};
    static const fl_kv_choice kv_choice[] = {FL_KV_AUTO, FL_KV_BF16, FL_KV_FP8};
    static const char *const sparse[] = {"compressed", "dense", NULL};
    static const char *const format[] = {"auto", "dummy", NULL};
    int word = 0, rc = read_word(L, "kv", kv, &word, err);
    if (rc) return rc;
    o->kv = kv_choice[word];
    if ((rc = read_word(L, "sparse_prefill", sparse, &word, err))) return rc;
    o->sparse_dense = word == 1;
    if ((rc = read_word(L, "load_format", format, &word, err))) return rc;
    o->load_format = word == 1 ? FL_LOAD_DUMMY : FL_LOAD_FILES;
    fl_opt_string(L, 2, "config_json", &o->config_json);
    if (o->config_json && !o->load_format)
        return fl_fail(err, FL_E_ARG, "config_json: needs load_format dummy");
    return FL_OK;
}

/* Leaves `progress` at PROGRESS, and behind it what the options are made of. */
static int read_load_options(lua_State *L, fl_model_options *o, fl_err *err) {
    int64_t tp = 1;
    bool prefix_cache = true, graphs = true;
    fl_opt_only(L, 2, load_options);
    if (!fl_opt_push(L, 2, "progress")) lua_pushnil(L);
    if (!lua_isnil(L, PROGRESS)) {
        if (!lua_isfunction(L, PROGRESS))
            fl_raise(L, "option 'progress': function expected, got %s", luaL_typename(L, PROGRESS));
        o->progress = on_progress;
        o->progress_ctx = L;
    }
    fl_opt_string(L, 2, "device", &o->device);
    fl_opt_string(L, 2, "isa", &o->isa);
    fl_opt_int(L, 2, "context", &o->context);
    fl_opt_int(L, 2, "kv_tokens", &o->kv_tokens);
    fl_opt_int(L, 2, "max_step_rows", &o->max_step_rows);
    fl_opt_int(L, 2, "tp", &tp);
    fl_opt_bool(L, 2, "prefix_cache", &prefix_cache);
    fl_opt_bool(L, 2, "time_ops", &o->time_ops);
    fl_opt_bool(L, 2, "graphs", &graphs);
    fl_opt_bool(L, 2, "batch_invariant", &o->batch_invariant);
    o->no_prefix_cache = !prefix_cache;
    o->no_graphs = !graphs;
    int rc = read_words(L, o, err);
    if (!rc) rc = fl_opt_gpu_part(L, 2, &o->gpu_memory_utilization, err);
    if (!rc) rc = fl_opt_threads(L, 2, &o->threads, err);
    if (!rc && tp != 1)
        rc = fl_fail(err, FL_E_ARG, "tp: a model runs on one device, need 1, got %lld",
                     (long long)tp);
    return rc;
}

/* fp8llm.load(dir, options) -> model | nil, message, CODE */
static int l_load(lua_State *L) {
    fl_model_options options = {0};
    fl_err err;
    fl_check_string(L, 1);
    lua_settop(L, 2);
    if (read_load_options(L, &options, &err)) return fl_push_err(L, &err);
    if (!options.config_json && !fl_find_model(L, 1)) return 3;
    /* The collector sees a few bytes of a model: those that nobody has any more go now, engines that
     * only they had in the second round. */
    lua_gc(L, LUA_GCCOLLECT, 0);
    lua_gc(L, LUA_GCCOLLECT, 0);
    const char *dir = lua_tostring(L, 1);
    void **box = fl_box_new(L, FL_MT_MODEL);
    lua_model *m = fl_alloc(sizeof(*m));
    if (!m) {
        fl_fail(&err, FL_E_NOMEM, "%s", dir);
        return fl_push_err(L, &err);
    }
    if (fl_model_load(&m->model, dir, &options, &err)) {
        fl_free(m);
        return fl_push_err(L, &err);
    }
    *box = m;
    return 1;
}

static void destroy(void *model) {
    lua_model *m = model;
    fl_tokenizer_unref(m->tokenizer);
    fl_model_unref(m->model);
    fl_free(m);
}

/* The directory's name, or the hub's for one in its cache: .../models--ORG--NAME/snapshots/COMMIT */
static void name_of(const char *dir, char *out, size_t n) {
    const char *in_cache = strstr(dir, "/models--"), *end = dir + strlen(dir);
    while (end > dir + 1 && end[-1] == '/') end--;
    const char *begin = end;
    while (begin > dir && begin[-1] != '/') begin--;
    if (in_cache && strstr(in_cache, "/snapshots/")) {
        begin = in_cache + strlen("/models--");
        end = strchr(begin, '/');
    }
    snprintf(out, n, "%.*s", (int)(end - begin), begin);
    char *dashes = in_cache ? strstr(out, "--") : NULL;
    if (!dashes) return;
    *dashes = '/';
    memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
}

/* "SmolLM2-135M-Instruct-FP8, 135M, autofp8 static, cpu" */
static void describe(void *object, char out[FL_DESCRIPTION]) {
    const fl_model *m = ((lua_model *)object)->model;
    fl_model_info info;
    char name[128], count[32];
    fl_model_info_get(m, &info);
    name_of(fl_model_dir(m), name, sizeof(name));
    const double n = (double)info.n_parameters;
    if (n < 1e9)
        snprintf(count, sizeof(count), "%.3gM", n / 1e6);
    else
        snprintf(count, sizeof(count), "%.3gB", n / 1e9);
    const bool plain = !strcmp(info.quantization, "none");
    snprintf(out, FL_DESCRIPTION, "%s, %s, %s, %s", name, count,
             plain ? fl_dtype_name(fl_model_config(m)->dtype) : info.quantization,
             info.backend.name);
}

/* One more element of the array on the top of the stack. */
static void push_paths(void *ctx, const fl_linear_paths *p) {
    lua_State *L = ctx;
    luaL_checkstack(L, 4, "paths");
    lua_newtable(L);
    fl_set_string(L, "linear", p->linear);
    fl_set_number(L, "count", (double)p->count);
    fl_set_number(L, "n", (double)p->n);
    fl_set_number(L, "k", (double)p->k);
    fl_set_string(L, "dtype", fl_dtype_name(p->dtype));
    lua_newtable(L);
    for (int i = 0; i < p->n_steps; i++) {
        lua_newtable(L);
        fl_set_number(L, "rows", (double)p->step[i].rows);
        fl_set_string(L, "path", p->step[i].path);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "steps");
    lua_rawseti(L, -2, (int)lua_rawlen(L, -2) + 1);
}

static int l_info(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_MODEL);
    fl_model *m = ((lua_model *)c->object)->model;
    fl_model_info info;
    fl_model_info_get(m, &info);
    lua_newtable(L);
    fl_set_string(L, "dir", fl_model_dir(m));
    fl_set_string(L, "device", info.backend.name);
    fl_set_string(L, "quantization", info.quantization);
    fl_set_string(L, "kv_dtype", fl_dtype_name(info.kv_dtype));
    fl_set_number(L, "weight_bytes", (double)info.weight_bytes);
    fl_set_number(L, "kv_bytes", (double)info.kv_bytes);
    fl_set_number(L, "scratch_bytes", (double)info.scratch_bytes);
    fl_set_number(L, "memory_planned", (double)info.memory_planned);
    fl_set_number(L, "memory_budget", (double)info.memory_budget);
    fl_set_number(L, "bytes_per_token", (double)info.bytes_per_token);
    fl_set_number(L, "context", info.context);
    fl_set_number(L, "kv_tokens", info.kv_tokens);
    fl_set_number(L, "parameters", info.n_parameters);
    fl_set_number(L, "kv_pages_free", info.kv_pages_free);
    fl_set_number(L, "prefix_queries", (double)info.prefix_queries);
    fl_set_number(L, "prefix_hits", (double)info.prefix_hits);
    fl_set_number(L, "prefix_evictions", (double)info.prefix_evictions);
    lua_newtable(L);
    fl_model_paths(m, push_paths, L);
    lua_setfield(L, -2, "paths");
    fl_call_end(c);
    return 1;
}

void fl_push_config(lua_State *L, const fl_config *c) {
    lua_newtable(L);
    fl_set_number(L, "vocab_size", c->vocab_size);
    fl_set_number(L, "hidden_size", c->hidden_size);
    fl_set_number(L, "intermediate_size", c->ffn_size);
    fl_set_number(L, "num_hidden_layers", c->n_layers);
    fl_set_number(L, "num_attention_heads", c->n_heads);
    fl_set_number(L, "num_key_value_heads", c->n_kv_heads);
    fl_set_number(L, "head_dim", c->head_dim);
    fl_set_number(L, "max_position_embeddings", c->max_position);
    fl_set_number(L, "rms_norm_eps", c->rms_norm_eps);
    fl_set_number(L, "rope_theta", c->rope.theta);
    fl_set_bool(L, "tie_word_embeddings", c->tied);
    fl_set_string(L, "torch_dtype", fl_dtype_name(c->dtype));
    fl_set_number(L, "bos_token_id", c->bos_id);
    fl_push_ids(L, c->eos_ids, (size_t)c->n_eos);
    lua_setfield(L, -2, "eos_token_ids");
}

static int l_config(lua_State *L) {
    const fl_config config = *fl_model_config(fl_check_model(L, 1));
    fl_push_config(L, &config);
    return 1;
}

/* Sampling defaults of generation_config.json; absent keys are absent. */
static int l_generation_config(lua_State *L) {
    const fl_generation_config copy = *fl_model_generation_config(fl_check_model(L, 1)), *g = &copy;
    lua_newtable(L);
    if (g->has_temperature) fl_set_number(L, "temperature", g->temperature);
    if (g->has_top_p) fl_set_number(L, "top_p", g->top_p);
    if (g->has_min_p) fl_set_number(L, "min_p", g->min_p);
    if (g->has_repetition_penalty) fl_set_number(L, "repetition_penalty", g->repetition_penalty);
    if (g->has_top_k) fl_set_number(L, "top_k", g->top_k);
    if (g->has_max_new_tokens) fl_set_number(L, "max_new_tokens", g->max_new_tokens);
    if (g->has_do_sample) fl_set_bool(L, "do_sample", g->do_sample);
    return 1;
}

/* registry[&children] = {[fl_model *] = set of the boxes that closing the model closes}; sets are weak. */
static const char children;

static void push_weak_table(lua_State *L) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

static void push_children(lua_State *L) {
    lua_pushlightuserdata(L, (void *)(uintptr_t)&children);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

void fl_model_child(lua_State *L, int idx, fl_model *m) {
    idx = lua_absindex(L, idx);
    push_children(L);
    lua_pushlightuserdata(L, m);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        push_weak_table(L);
        lua_pushlightuserdata(L, m);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_pushvalue(L, idx);
    lua_pushboolean(L, true);
    lua_rawset(L, -3);
    lua_pop(L, 2);
}

/* model:close(): with the sequences and engines made of it, so that its memory goes back now. */
static int l_close(lua_State *L) {
    lua_model *m = *fl_box_raw(L, 1, FL_MT_MODEL);
    if (!m) return 0;
    push_children(L);
    lua_pushlightuserdata(L, m->model);
    lua_rawget(L, -2);
    if (lua_istable(L, -1)) {
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) fl_box_empty(lua_touserdata(L, -2));
        lua_pushlightuserdata(L, m->model);
        lua_pushnil(L);
        lua_rawset(L, -4);
    }
    fl_box_close(L, 1, FL_MT_MODEL);
    return 0;
}

static int need_tokenizer(lua_model *m, fl_err *err) {
    return m->tokenizer ? FL_OK : fl_tokenizer_load(&m->tokenizer, fl_model_dir(m->model), err);
}

int fl_model_tokenizer(lua_State *L, int idx, fl_tokenizer **out, fl_err *err) {
    lua_model *m = fl_box_check(L, idx, FL_MT_MODEL);
    int rc = need_tokenizer(m, err);
    *out = m->tokenizer;
    return rc;
}

static int l_tokenizer(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_MODEL);
    lua_model *m = c->object;
    fl_err err;
    if (need_tokenizer(m, &err)) return fl_push_err(L, &err);
    fl_push_tokenizer(L, m->tokenizer);
    fl_call_end(c);
    return 1;
}

/* model:template(name) -> the model's chat template */
static int l_template(lua_State *L) {
    const char *name = lua_isnoneornil(L, 2) ? NULL : fl_check_string(L, 2);
    fl_call *c = fl_call_begin(L, 1, FL_MT_MODEL);
    lua_model *m = c->object;
    fl_err err;
    int n_results =
        need_tokenizer(m, &err) ? fl_push_err(L, &err) : fl_push_template(L, m->tokenizer, name);
    fl_call_end(c);
    return n_results;
}

/* model:eos() -> ids that end a text: config.json, generation_config.json, tokenizer */
static int l_eos(lua_State *L) {
    lua_model *m = fl_box_check(L, 1, FL_MT_MODEL);
    const fl_config *c = fl_model_config(m->model);
    int32_t ids[FL_MAX_EOS + 1], n = c->n_eos;
    fl_err err;
    memcpy(ids, c->eos_ids, (size_t)n * sizeof(*ids));
    /* A model without a tokenizer still has its ids. */
    const int32_t id = need_tokenizer(m, &err) ? -1 : fl_tokenizer_eos(m->tokenizer);
    bool known = id < 0;
    for (int i = 0; i < n; i++) known = known || ids[i] == id;
    if (!known) ids[n++] = id;
    fl_push_ids(L, ids, (size_t)n);
    return 1;
}

/* model:tensor(name) -> read-only copy of the checkpoint's tensor */
static int l_tensor(lua_State *L) {
    const char *name = fl_check_string(L, 2);
    fl_err err;
    fl_array **box = fl_tensor_box_new(L);
    fl_model *m = fl_check_model(L, 1);
    const fl_st_tensor *t = fl_checkpoint_find(fl_model_checkpoint(m), name);
    if (!t) {
        fl_fail(&err, FL_E_ARG, "%s: no tensor '%s'", fl_model_dir(m), name);
        return fl_push_err(L, &err);
    }
    int rc = fl_tensor_of_file(box, t, &err);
    rc = fl_checkpoint_check(fl_model_checkpoint(m), rc, &err);
    return fl_tensor_result(L, rc, box, &err);
}

/* model:op_times() -> {{op=, n=, k=, dtype=, calls=, rows=, seconds=, bytes=, flops=}, ...} since
 * the last call; empty without time_ops */
static int l_op_times(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_MODEL);
    fl_model *m = ((lua_model *)c->object)->model;
    fl_op_time t;
    lua_newtable(L);
    for (int i = 0; fl_model_op_time(m, i, &t); i++) {
        lua_createtable(L, 0, 9);
        fl_set_string(L, "op", t.op);
        fl_set_number(L, "n", t.n);
        fl_set_number(L, "k", t.k);
        if (t.dtype != FL_DTYPE_NONE) fl_set_string(L, "dtype", fl_dtype_name(t.dtype));
        fl_set_number(L, "calls", (double)t.calls);
        fl_set_number(L, "rows", (double)t.rows);
        fl_set_number(L, "seconds", t.seconds);
        fl_set_number(L, "bytes", t.bytes);
        fl_set_number(L, "flops", t.flops);
        lua_rawseti(L, -2, i + 1);
    }
    fl_model_op_times_reset(m);
    fl_call_end(c);
    return 1;
}

static const luaL_Reg methods[] = {{"info", l_info},
                                   {"op_times", l_op_times},
                                   {"config", l_config},
                                   {"generation_config", l_generation_config},
                                   {"tokenizer", l_tokenizer},
                                   {"template", l_template},
                                   {"eos", l_eos},
                                   {"tensor", l_tensor},
                                   {"sequence", fl_l_sequence_new},
                                   {"engine", fl_l_engine_new},
                                   {"score", fl_l_score},
                                   {"close", l_close},
                                   {NULL, NULL}};

/* Methods that fp8llm.text has in Lua: found when one of them is first asked for, and Lua functions, so
 * that they may yield. */
static int l_text_method(lua_State *L) {
    lua_settop(L, 2);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "fp8llm.text");
    lua_call(L, 1, 1);
    for (lua_pushnil(L); lua_next(L, 3);) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, 1);
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, 1);
    return 1;
}

static void add_text_methods(lua_State *L) {
    luaL_getmetatable(L, FL_MT_MODEL);
    lua_getfield(L, -1, "__index");
    lua_createtable(L, 0, 1);
    fl_push_function(L, l_text_method, "model");
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_pop(L, 2);
}

static const luaL_Reg functions[] = {{"load", l_load}, {NULL, NULL}};

void fl_register_model(lua_State *L) {
    static const fl_class_type type = {FL_MT_MODEL, destroy, describe};
    fl_class(L, &type, methods, NULL);
    add_text_methods(L);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&children);
    lua_newtable(L);
    lua_rawset(L, LUA_REGISTRYINDEX);
    fl_set_functions(L, functions);
}
