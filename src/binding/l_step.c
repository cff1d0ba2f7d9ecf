/* Class step: a parked completion that a policy in Lua decides. */
#include <stdio.h>
#include <string.h>

#include "binding/l_engine.h"
#include "binding/l_tensor.h"
#include "util/mem.h"

typedef struct lua_step {
    fl_parked parked; /* request: NULL after the answer */
    int logits;       /* LUA_NOREF, or the tensor that shows the row */
} lua_step;

static lua_step *check_step(lua_State *L) {
    return fl_box_check(L, 1, FL_MT_STEP);
}

/* What it shows is gone with the answer: using it then is a mistake of the caller's. */
static lua_step *check_open(lua_State *L) {
    lua_step *s = check_step(L);
    if (!s->parked.request) fl_raise(L, "stale step: it has been answered");
    return s;
}

/* Iterator: the next parked completion of the engine or request at 1. */
static int next_step(lua_State *L) {
    void **box = fl_box_new(L, FL_MT_STEP);
    lua_step *s = fl_alloc(sizeof(*s));
    if (!s) return fl_raise(L, "no memory for a step");
    s->logits = LUA_NOREF;
    *box = s;
    fl_request *only = fl_box_test(L, 1, FL_MT_REQUEST) ? fl_check_request(L, 1) : NULL;
    fl_engine *e = only ? fl_request_engine(only) : fl_check_engine(L, 1);
    return fl_engine_next_parked(e, only, &s->parked) ? 1 : 0;
}

/* for step in req:steps() do */
int fl_l_request_steps(lua_State *L) {
    fl_check_request(L, 1);
    fl_push_function(L, next_step, "request:steps");
    lua_pushvalue(L, 1);
    return 2;
}

/* for step in eng:steps() do ... until no request is left */
int fl_l_engine_steps(lua_State *L) {
    fl_check_engine(L, 1);
    fl_push_function(L, next_step, "engine:steps");
    lua_pushvalue(L, 1);
    return 2;
}

/* The tensor of the row is closed, so that nobody reads the next row by it, and before the answer,
 * after which the engine looks whether anybody still holds the row.  Lua may raise in the last call
 * only, when everything of ours is done. */
static void close_logits(lua_State *L, int *logits) {
    const int ref = *logits;
    if (ref == LUA_NOREF) return;
    *logits = LUA_NOREF;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    fl_array **box = lua_touserdata(L, -1);
    fl_array_free(*box);
    *box = NULL;
    lua_pop(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
}

static int answer(lua_State *L, lua_step *s, const fl_parked_choice *a) {
    fl_pick chosen;
    fl_err err;
    const bool logprobs = fl_request_params(s->parked.request)->logprobs >= 0;
    close_logits(L, &s->logits);
    if (fl_parked_answer(&s->parked, a, &chosen, &err)) return fl_push_err(L, &err);
    fl_parked_release(&s->parked);
    lua_pushinteger(L, chosen.id);
    if (!logprobs) return 1;
    lua_pushnumber(L, (lua_Number)chosen.logprob);
    return 2;
}

/* step:accept(id) -> id, its log-probability when the request has logprobs */
static int l_accept(lua_State *L) {
    lua_step *s = check_open(L);
    int64_t id = fl_check_int(L, 2);
    if (id < 0 || id > INT32_MAX) fl_arg_error(L, 2, "token id expected");
    const fl_parked_choice a = {(int32_t)id, NULL};
    return answer(L, s, &a);
}

/* step:sample() -> id [, logprob]: the request's own sampler, from the row as it is now
 * step:sample(logits): from the candidates, with these logits */
static int l_sample(lua_State *L) {
    lua_step *s = check_open(L);
    float logit[FL_MAX_CANDIDATES];
    const int32_t n = s->parked.candidates.n;
    fl_parked_choice a = {-1, NULL};
    if (!lua_isnoneornil(L, 2)) {
        fl_check_type(L, 2, LUA_TTABLE);
        if (!n || (int32_t)lua_rawlen(L, 2) != n)
            return fl_raise(L, "%d logits for %d candidates", (int)lua_rawlen(L, 2), n);
        for (int32_t i = 0; i < n; i++) {
            lua_rawgeti(L, 2, i + 1);
            if (lua_type(L, -1) != LUA_TNUMBER)
                return fl_raise(L, "logit %d: number expected, got %s", i + 1,
                                luaL_typename(L, -1));
            logit[i] = (float)lua_tonumber(L, -1);
            lua_pop(L, 1);
        }
        a.logits = logit;
    }
    return answer(L, s, &a);
}

/* step:stop() ends the completion */
static int l_stop(lua_State *L) {
    lua_step *s = check_open(L);
    fl_err err;
    close_logits(L, &s->logits);
    if (fl_parked_stop(&s->parked, FL_FINISH_STOP, &err)) return fl_push_err(L, &err);
    fl_parked_release(&s->parked);
    lua_pushboolean(L, true);
    return 1;
}

/* step:fail() ends the completion with an error; nothing when it has been answered */
static int l_fail(lua_State *L) {
    lua_step *s = check_step(L);
    close_logits(L, &s->logits);
    if (s->parked.request) fl_parked_stop(&s->parked, FL_FINISH_ERROR, NULL);
    fl_parked_release(&s->parked);
    return 0;
}

/* step:candidates() -> ids, logits: the likeliest, descending */
static int l_candidates(lua_State *L) {
    int32_t id[FL_MAX_CANDIDATES];
    float logit[FL_MAX_CANDIDATES];
    const fl_top_list *c = &check_open(L)->parked.candidates;
    const int32_t n = c->n;
    if (!n) return fl_raise(L, "the request has policy_logits: see step.logits");
    memcpy(id, c->id, (size_t)n * sizeof(*id));
    memcpy(logit, c->logit, (size_t)n * sizeof(*logit));
    fl_push_ids(L, id, (size_t)n);
    lua_createtable(L, n, 0);
    for (int32_t i = 0; i < n; i++) {
        lua_pushnumber(L, (lua_Number)logit[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 2;
}

static void release_row(void *row) {
    fl_row_unref(row);
}

/* step.logits: the row, writable until the answer */
static int l_logits(lua_State *L) {
    fl_err err;
    if (!check_open(L)->parked.row) return fl_raise(L, "logits: the request has no policy_logits");
    if (check_open(L)->logits != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, check_open(L)->logits);
        return 1;
    }
    fl_array **box = fl_tensor_box_new(L);
    lua_step *s = check_open(L); /* here: to make the box may have run a finalizer that answers */
    if (s->logits != LUA_NOREF) return fl_raise(L, "logits: shown to a finalizer meanwhile");
    lua_pushvalue(L, -1);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    fl_tensor row = fl_tensor_1d(fl_row_logits(s->parked.row), FL_DTYPE_F32, s->parked.vocab);
    const fl_keep keep = {release_row, fl_row_ref(s->parked.row), false};
    if (fl_array_view(box, &row, &keep, &err)) {
        fl_row_unref(s->parked.row);
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        return fl_push_err(L, &err);
    }
    s->logits = ref;
    return 1;
}

/* step:history() -> ids of the prompt, ids of the completion so far */
static int l_history(lua_State *L) {
    fl_history h;
    fl_parked_history(&check_open(L)->parked, &h);
    const size_t n_prompt = h.n_prompt, n_output = h.n_output;
    int32_t *ids = lua_newuserdata(L, (n_prompt + n_output + 1) * sizeof(*ids));
    fl_parked_history(&check_open(L)->parked, &h); /* as it was, or answered: that raises */
    if (n_prompt) memcpy(ids, h.prompt, n_prompt * sizeof(*ids));
    if (n_output) memcpy(ids + n_prompt, h.output, n_output * sizeof(*ids));
    fl_push_ids(L, ids, n_prompt);
    fl_push_ids(L, ids + n_prompt, n_output);
    return 2;
}

/* step:index() -> which completion of its request, from 0 */
static int l_index(lua_State *L) {
    fl_push_number(L, (double)check_open(L)->parked.index);
    return 1;
}

/* step:arrival() -> number of its request, in the order of submission, from 0 */
static int l_arrival(lua_State *L) {
    fl_push_number(L, (double)fl_request_arrival(check_open(L)->parked.request));
    return 1;
}

/* step:policy() -> name of the policy a socket client chose, or nil */
static int l_policy(lua_State *L) {
    const fl_text *name = &fl_request_params(check_open(L)->parked.request)->policy_name;
    const size_t n = name->len;
    if (!name->data) {
        lua_pushnil(L);
        return 1;
    }
    char *copy = lua_newuserdata(L, n + 1);
    memcpy(copy, fl_request_params(check_open(L)->parked.request)->policy_name.data, n);
    lua_pushlstring(L, copy, n);
    return 1;
}

/* A step that nobody answered and nobody can answer any more ends its completion. */
static int l_gc(lua_State *L) {
    void **box = fl_box_raw(L, 1, FL_MT_STEP);
    lua_step *s = *box;
    *box = NULL;
    if (!s) return 0;
    if (s->parked.request) fl_parked_stop(&s->parked, FL_FINISH_ERROR, NULL);
    fl_parked_release(&s->parked);
    int logits = s->logits;
    fl_free(s);
    close_logits(L, &logits);
    return 0;
}

/* logits is a member, everything else a method. */
static int l_get(lua_State *L) {
    const char *key = fl_check_string(L, 2);
    if (!strcmp(key, "logits")) return l_logits(L);
    lua_getfield(L, lua_upvalueindex(2), key);
    return 1;
}

static void describe(void *step, char out[FL_DESCRIPTION]) {
    const lua_step *s = step;
    if (s->parked.request)
        snprintf(out, FL_DESCRIPTION, "completion %lld of request %llu, waits for its answer",
                 (long long)s->parked.index,
                 (unsigned long long)fl_request_arrival(s->parked.request));
    else
        snprintf(out, FL_DESCRIPTION, "answered");
}

static const luaL_Reg methods[] = {{"accept", l_accept},   {"sample", l_sample},
                                   {"stop", l_stop},       {"candidates", l_candidates},
                                   {"index", l_index},     {"history", l_history},
                                   {"arrival", l_arrival}, {"policy", l_policy},
                                   {"fail", l_fail},       {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", l_gc}, {NULL, NULL}};

void fl_register_step(lua_State *L) {
    static const fl_class_type type = {FL_MT_STEP, NULL, describe};
    fl_class(L, &type, methods, meta);
    luaL_getmetatable(L, FL_MT_STEP);
    lua_pushliteral(L, "step.__index");
    lua_getfield(L, -2, "__index");
    lua_pushcclosure(L, l_get, 2);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
