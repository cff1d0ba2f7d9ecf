/* Class step: a parked completion that a policy in Lua decides. */
#include <string.h>

#include "binding/l_engine.h"
#include "binding/l_tensor.h"
#include "util/mem.h"

typedef struct lua_step {
    fl_parked parked; /* request: one handle */
    bool answered;
} lua_step;

static lua_step *check_step(lua_State *L) {
    return fl_box_check(L, 1, FL_MT_STEP);
}

/* Iterator: the next parked completion of the engine or request at 1. */
static int next_step(lua_State *L) {
    fl_request *only = fl_box_test(L, 1, FL_MT_REQUEST) ? fl_check_request(L, 1) : NULL;
    fl_engine *e = only ? fl_request_engine(only) : fl_check_engine(L, 1);
    void **box = fl_box_new(L, FL_MT_STEP);
    lua_step *s = fl_alloc(sizeof(*s));
    if (!s) return luaL_error(L, "no memory for a step");
    *box = s;
    return fl_engine_next_parked(e, only, &s->parked) ? 1 : 0;
}

/* for step in req:steps() do */
int fl_l_request_steps(lua_State *L) {
    fl_check_request(L, 1);
    lua_pushcfunction(L, next_step);
    lua_pushvalue(L, 1);
    return 2;
}

/* for step in eng:steps() do ... until no request is left */
int fl_l_engine_steps(lua_State *L) {
    fl_check_engine(L, 1);
    lua_pushcfunction(L, next_step);
    lua_pushvalue(L, 1);
    return 2;
}

static int accept_id(lua_State *L, int32_t id) {
    lua_step *s = check_step(L);
    int32_t chosen;
    float logprob;
    fl_err err;
    if (fl_parked_accept(&s->parked, id, &chosen, &logprob, &err)) return fl_push_err(L, &err);
    s->answered = true;
    lua_pushinteger(L, chosen);
    lua_pushnumber(L, (lua_Number)logprob);
    return 2;
}

/* step:accept(id) -> id, logprob */
static int l_accept(lua_State *L) {
    int64_t id = fl_check_int(L, 2);
    if (id < 0 || id > INT32_MAX) luaL_argerror(L, 2, "token id expected");
    return accept_id(L, (int32_t)id);
}

/* step:sample() -> id, logprob: the request's own sampler on the row as it is now */
static int l_sample(lua_State *L) {
    return accept_id(L, -1);
}

/* step:stop() ends the completion */
static int l_stop(lua_State *L) {
    lua_step *s = check_step(L);
    fl_err err;
    if (fl_parked_stop(&s->parked, FL_FINISH_STOP, &err)) return fl_push_err(L, &err);
    s->answered = true;
    lua_pushboolean(L, true);
    return 1;
}

/* step:fail() ends the completion with an error; nothing when it has been answered */
static int l_fail(lua_State *L) {
    lua_step *s = check_step(L);
    if (!s->answered) fl_parked_stop(&s->parked, FL_FINISH_ERROR, NULL);
    s->answered = true;
    return 0;
}

static void release_request(void *r) {
    fl_request_unref(r);
}

/* step.logits: the row, writable until the answer */
static int l_logits(lua_State *L) {
    lua_step *s = check_step(L);
    fl_err err;
    fl_host_tensor **box = fl_tensor_box_new(L);
    fl_tensor row = fl_tensor_1d(s->parked.row, FL_DTYPE_F32, s->parked.n);
    const fl_keep keep = {release_request, fl_request_ref(s->parked.request), false};
    if (!fl_host_tensor_view(box, &row, &keep, &err)) return 1;
    fl_request_unref(s->parked.request);
    return fl_push_err(L, &err);
}

/* step:history() -> ids of the prompt, ids of the completion so far */
static int l_history(lua_State *L) {
    lua_step *s = check_step(L);
    fl_history h;
    fl_parked_history(&s->parked, &h);
    fl_push_ids(L, h.prompt, h.n_prompt);
    fl_push_ids(L, h.output, h.n_output);
    return 2;
}

/* step:index() -> which completion of its request, from 0 */
static int l_index(lua_State *L) {
    lua_pushnumber(L, (lua_Number)check_step(L)->parked.index);
    return 1;
}

/* step:arrival() -> number of its request, in the order of submission, from 0 */
static int l_arrival(lua_State *L) {
    lua_pushnumber(L, (lua_Number)fl_request_arrival(check_step(L)->parked.request));
    return 1;
}

/* step:policy() -> name of the policy a socket client chose, or nil */
static int l_policy(lua_State *L) {
    const fl_text *name = &fl_request_params(check_step(L)->parked.request)->policy_name;
    if (name->data)
        lua_pushlstring(L, name->data, name->len);
    else
        lua_pushnil(L);
    return 1;
}

/* A step that nobody answered and nobody can answer any more ends its completion. */
static int l_gc(lua_State *L) {
    void **box = fl_box_raw(L, 1, FL_MT_STEP);
    lua_step *s = *box;
    *box = NULL;
    if (!s) return 0;
    if (s->parked.request && !s->answered) fl_parked_stop(&s->parked, FL_FINISH_ERROR, NULL);
    fl_request_unref(s->parked.request);
    fl_free(s);
    return 0;
}

/* logits is a member, everything else a method. */
static int l_get(lua_State *L) {
    const char *key = luaL_checkstring(L, 2);
    if (!strcmp(key, "logits")) return l_logits(L);
    lua_getfield(L, lua_upvalueindex(1), key);
    return 1;
}

static const luaL_Reg methods[] = {
    {"accept", l_accept}, {"sample", l_sample},   {"stop", l_stop},
    {"index", l_index},   {"history", l_history}, {"arrival", l_arrival},
    {"policy", l_policy}, {"fail", l_fail},       {NULL, NULL}};

void fl_register_step(lua_State *L) {
    fl_class(L, FL_MT_STEP, methods, NULL, l_gc);
    luaL_getmetatable(L, FL_MT_STEP);
    lua_getfield(L, -1, "__index");
    lua_pushcclosure(L, l_get, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
