/* Samplers. */
#include <stdio.h>
#include <string.h>

#include "binding/l_tensor.h"
#include "engine/sampler.h"
#include "model/sequence.h"

static fl_sampler *check_sampler(lua_State *L, int idx) {
    return fl_box_check(L, idx, FL_MT_SAMPLER);
}

static void float_option(lua_State *L, const char *key, float *out) {
    double v;
    if (fl_opt_number(L, 1, key, &v)) *out = (float)v;
}

static int read_top_k(lua_State *L, fl_sampler_params *p, fl_err *err) {
    int64_t k;
    if (!fl_opt_int(L, 1, "top_k", &k)) return FL_OK;
    if (k < -1 || k > INT32_MAX)
        return fl_fail(err, FL_E_ARG, "top_k: %lld is not in [-1, 2147483647]", (long long)k);
    p->top_k = (int32_t)k;
    return FL_OK;
}

/* Push member `key` of the options when it is a table; absent: nothing pushed, false. */
static bool push_table(lua_State *L, const char *key) {
    if (!fl_opt_push(L, 1, key)) return false;
    if (!lua_istable(L, -1))
        fl_raise(L, "option '%s': table expected, got %s", key, luaL_typename(L, -1));
    return true;
}

/* logit_bias = {[id] = bias, ...}; leaves its blocks on the stack */
static int read_bias(lua_State *L, fl_sampler_params *p, fl_err *err) {
    if (!push_table(L, "logit_bias")) return FL_OK;
    int table = lua_gettop(L);
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TNUMBER || lua_type(L, -1) != LUA_TNUMBER)
            fl_raise(L, "option 'logit_bias': [token id] = number expected, got [%s] = %s",
                     luaL_typename(L, -2), luaL_typename(L, -1));
        n++;
    }
    p->bias = lua_newuserdata(L, (n + 1) * sizeof(*p->bias));
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TNUMBER || p->n_bias == n)
            fl_raise(L, "option 'logit_bias': changed while it was read");
        double id = (double)lua_tonumber(L, -2);
        if (!(id >= 0 && id <= INT32_MAX) || id != (double)(int32_t)id)
            return fl_fail(err, FL_E_ARG, "logit_bias: %.17g is not a token id", id);
        p->bias[p->n_bias++] = (fl_logit_bias){(int32_t)id, (float)lua_tonumber(L, -1)};
    }
    return FL_OK;
}

static void read_allowed(lua_State *L, fl_sampler_params *p) {
    if (push_table(L, "allowed_token_ids")) p->allowed = fl_check_ids(L, -1, &p->n_allowed);
}

/* order = {"bias", "penalties", ...} */
static int read_order(lua_State *L, fl_sampler_params *p, fl_err *err) {
    if (!push_table(L, "order")) return FL_OK;
    size_t n = lua_rawlen(L, -1);
    if (n < 1 || n > FL_STAGE_COUNT)
        return fl_fail(err, FL_E_ARG, "order: %zu stages, 1 to %d expected", n, FL_STAGE_COUNT);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            fl_raise(L, "option 'order': names expected, got %s", luaL_typename(L, -1));
        if (!fl_stage_from_name(lua_tostring(L, -1), &p->order[i]))
            return fl_fail(err, FL_E_ARG, "order: no stage '%s'", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    p->n_order = n;
    return FL_OK;
}

/* fp8llm.sampler{...}: members, ranges and defaults are those of fl_sampler_params */
static int l_sampler(lua_State *L) {
    static const char *const known[] = {"temperature",
                                        "top_p",
                                        "top_k",
                                        "min_p",
                                        "repetition_penalty",
                                        "frequency_penalty",
                                        "presence_penalty",
                                        "logit_bias",
                                        "allowed_token_ids",
                                        "seed",
                                        "order",
                                        NULL};
    fl_err err;
    int64_t seed = -1; /* vLLM's word for "none" */
    fl_sampler_params p;
    fl_sampler_params_init(&p);
    fl_opt_only(L, 1, known);
    float_option(L, "temperature", &p.temperature);
    float_option(L, "top_p", &p.top_p);
    float_option(L, "min_p", &p.min_p);
    float_option(L, "repetition_penalty", &p.repetition_penalty);
    float_option(L, "frequency_penalty", &p.frequency_penalty);
    float_option(L, "presence_penalty", &p.presence_penalty);
    fl_opt_int(L, 1, "seed", &seed);
    p.has_seed = seed != -1;
    p.seed = (uint64_t)seed;
    read_allowed(L, &p);
    if (read_top_k(L, &p, &err) || read_bias(L, &p, &err) || read_order(L, &p, &err))
        return fl_push_err(L, &err);
    fl_sampler **box = (fl_sampler **)fl_box_new(L, FL_MT_SAMPLER);
    if (fl_sampler_new(box, &p, &err)) return fl_push_err(L, &err);
    return 1;
}

/* nil, a sequence, or {prompt = ids, output = ids}; leaves its blocks on the stack.  A sequence is
 * read where it is: nothing may be made in Lua until that is done. */
static const fl_history *check_history(lua_State *L, int idx, fl_history *h) {
    static const char *const known[] = {"prompt", "output", NULL};
    *h = (fl_history){0};
    if (lua_isnoneornil(L, idx)) return NULL;
    if (!lua_istable(L, idx)) {
        const fl_sequence *s = fl_box_check(L, idx, FL_MT_SEQUENCE);
        size_t n = (size_t)fl_sequence_length(s);
        h->prompt = fl_sequence_ids(s);
        h->n_prompt = (size_t)fl_sequence_prompt_length(s);
        h->output = n > h->n_prompt ? h->prompt + h->n_prompt : NULL;
        h->n_output = n - h->n_prompt;
        return h;
    }
    fl_opt_only(L, idx, known);
    if (fl_opt_push(L, idx, "prompt")) h->prompt = fl_check_ids(L, -1, &h->n_prompt);
    if (fl_opt_push(L, idx, "output")) h->output = fl_check_ids(L, -1, &h->n_output);
    return h;
}

/* smp:sample(logits [, history]) -> id, logprob under the logits as given */
static int l_sample(lua_State *L) {
    fl_err err;
    fl_history room;
    int32_t id;
    float logprob;
    const fl_history *h = check_history(L, 3, &room);
    fl_sampler *s = check_sampler(L, 1);
    const fl_array *t = fl_tensor_check_row(L, 2);
    if (fl_sampler_sample(s, t->t.data, (int32_t)t->t.dim[0], h, &id, &logprob, &err))
        return fl_push_err(L, &err);
    lua_pushinteger(L, id);
    lua_pushnumber(L, (lua_Number)logprob);
    return 2;
}

/* smp:process(logits [, history]) -> logits, changed in place up to the draw */
static int l_process(lua_State *L) {
    fl_err err;
    fl_history room;
    const fl_history *h = check_history(L, 3, &room);
    fl_sampler *s = check_sampler(L, 1);
    fl_array *t = fl_tensor_check_row(L, 2);
    if (fl_array_writable(t, &err)) return fl_raise(L, "%s", err.msg);
    if (fl_sampler_process(s, t->t.data, (int32_t)t->t.dim[0], h, &err))
        return fl_push_err(L, &err);
    lua_settop(L, 2);
    return 1;
}

static int l_clone(lua_State *L) {
    fl_err err;
    fl_sampler **box = (fl_sampler **)fl_box_new(L, FL_MT_SAMPLER);
    if (fl_sampler_clone(box, check_sampler(L, 1), &err)) return fl_push_err(L, &err);
    return 1;
}

static void destroy(void *s) {
    fl_sampler_free(s);
}

static void describe(void *sampler, char out[FL_DESCRIPTION]) {
    const fl_sampler_params *p = fl_sampler_settings(sampler);
    snprintf(out, FL_DESCRIPTION, "temperature %g, top_p %g, top_k %d, seed %llu",
             (double)p->temperature, (double)p->top_p, (int)p->top_k, (unsigned long long)p->seed);
}

void fl_register_sampler(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"sample", l_sample}, {"process", l_process}, {"clone", l_clone}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"sampler", l_sampler}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_SAMPLER, destroy, describe};
    fl_class(L, &type, methods, NULL);
    fl_set_functions(L, functions);
}
