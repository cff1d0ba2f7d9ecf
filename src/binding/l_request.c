/* Class request: reading what an engine makes of it. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "binding/l_engine.h"
#include "util/mem.h"
#include "util/notice.h"

typedef struct lua_request {
    fl_request *request; /* NULL until submitted */
    fl_update update;    /* reused by every read */
    int fd;              /* of fd(), or -1 */
} lua_request;

void *fl_l_request_state(fl_err *err) {
    lua_request *s = fl_alloc(sizeof(*s));
    if (s)
        s->fd = -1;
    else
        fl_fail(err, FL_E_NOMEM, "request");
    return s;
}

void fl_l_request_fill(void *state, fl_request *r) {
    ((lua_request *)state)->request = r;
}

static lua_request *check_at(lua_State *L, int idx) {
    lua_request *s = fl_box_check(L, idx, FL_MT_REQUEST);
    fl_err err;
    if (fl_engine_check_owner(fl_request_engine(s->request), &err)) fl_raise(L, "%s", err.msg);
    return s;
}

static lua_request *check_state(lua_State *L) {
    return check_at(L, 1);
}

fl_request *fl_check_request(lua_State *L, int idx) {
    return check_at(L, idx)->request;
}

static void push_numbers(lua_State *L, const float *v, int64_t n) {
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushnumber(L, (lua_Number)v[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
}

/* For each token a list of {id, logprob}. */
static void push_tops(lua_State *L, const fl_top *top, int64_t n, int64_t k) {
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_createtable(L, (int)k, 0);
        for (int64_t j = 0; j < k && top[i * k + j].id >= 0; j++) {
            lua_createtable(L, 2, 0);
            lua_pushinteger(L, top[i * k + j].id);
            lua_rawseti(L, -2, 1);
            lua_pushnumber(L, (lua_Number)top[i * k + j].logprob);
            lua_rawseti(L, -2, 2);
            lua_rawseti(L, -2, (int)j + 1);
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
}

static void push_usage(lua_State *L, fl_request *r) {
    fl_usage u;
    fl_request_usage(r, &u);
    lua_createtable(L, 0, 6);
    fl_set_number(L, "prompt_tokens", (double)u.prompt_tokens);
    fl_set_number(L, "completion_tokens", (double)u.completion_tokens);
    fl_set_number(L, "cached_tokens", (double)u.cached_tokens);
    fl_set_number(L, "queue_s", u.queue_s);
    fl_set_number(L, "first_token_s", u.first_token_s);
    fl_set_number(L, "total_s", u.total_s);
}

/* fin, reason (the id or text that ended it) and, with an error, message and code. */
static void set_finish(lua_State *L, fl_request *r, const fl_update *u) {
    lua_pushstring(L, fl_finish_name(u->finish));
    lua_setfield(L, -2, "fin");
    if (u->stop_id >= 0)
        lua_pushinteger(L, u->stop_id);
    else if (u->stop_text.data)
        lua_pushlstring(L, u->stop_text.data, u->stop_text.len);
    else
        lua_pushnil(L);
    lua_setfield(L, -2, "reason");
    if (u->finish != FL_FINISH_ERROR) return;
    lua_pushstring(L, fl_request_error(r)->msg);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, fl_code_name(fl_request_error(r)->code));
    lua_setfield(L, -2, "code");
}

/* {t = ids, d = text, i = completion, lp = logprobs, top = alternatives, fin = ...} */
static void push_update(lua_State *L, fl_request *r, const fl_update *u) {
    const fl_params *p = fl_request_params(r);
    lua_createtable(L, 0, 8);
    fl_push_ids(L, u->ids, (size_t)u->n);
    lua_setfield(L, -2, "t");
    lua_pushlstring(L, u->text.data ? u->text.data : "", u->text.len);
    lua_setfield(L, -2, "d");
    fl_set_number(L, "i", (double)u->index);
    if (p->logprobs >= 0) {
        push_numbers(L, u->logprob, u->n);
        lua_setfield(L, -2, "lp");
    }
    if (u->n_top) {
        push_tops(L, u->top, u->n, u->n_top);
        lua_setfield(L, -2, "top");
    }
    if (u->finish) set_finish(L, r, u);
}

/* A call that reads: it owns the request's buffers meanwhile, so that a finalizer that reads too
 * does not write over them. */
static fl_call *begin_read(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_REQUEST);
    lua_request *s = check_state(L);
    c->update = s->update;
    s->update = (fl_update){0};
    return c;
}

static void end_read(fl_call *c) {
    lua_request *s = c->object;
    const fl_update unused = s->update;
    s->update = c->update;
    c->update = unused;
    fl_call_end(c);
}

/* req:poll() -> event | false (nothing yet) | nil (all read) */
static int l_poll(lua_State *L) {
    fl_read_result result;
    fl_err err;
    fl_call *c = begin_read(L);
    lua_request *s = c->object;
    fl_notice_clear(s->fd);
    if (fl_request_read(s->request, &c->update, &result, &err)) return fl_push_err(L, &err);
    if (result != FL_READ_NONE) fl_notice_set(s->fd);
    if (result == FL_READ_UPDATE)
        push_update(L, s->request, &c->update);
    else if (result == FL_READ_NONE)
        lua_pushboolean(L, false);
    else
        lua_pushnil(L);
    end_read(c);
    return 1;
}

/* req:wait([ms]) -> true when poll would not say false */
static int l_wait(lua_State *L) {
    int64_t ms = lua_isnoneornil(L, 2) ? -1 : fl_check_int(L, 2);
    lua_pushboolean(L, fl_request_wait(fl_check_request(L, 1), ms));
    return 1;
}

/* The next piece of text and its event; nothing at the end. */
static int next_piece(lua_State *L) {
    lua_settop(L, 1);
    for (;;) {
        lua_request *s = check_state(L);
        fl_request_wait(s->request, -1);
        fl_push_function(L, l_poll, "request:pieces");
        lua_pushvalue(L, 1);
        lua_call(L, 1, 3);
        if (!lua_istable(L, 2)) {
            if (lua_isstring(L, 3)) return fl_raise(L, "%s", lua_tostring(L, 3));
            if (lua_isnil(L, 2)) return 0;
            lua_settop(L, 1);
            continue;
        }
        lua_settop(L, 2);
        lua_getfield(L, 2, "d");
        lua_insert(L, 2);
        return 2;
    }
}

/* for piece, event in req:pieces() do */
static int l_pieces(lua_State *L) {
    check_state(L);
    fl_push_function(L, next_piece, "request:pieces");
    lua_pushvalue(L, 1);
    return 2;
}

static int push_choice(lua_State *L, fl_call *c, int64_t i, fl_err *err) {
    fl_request *r = ((lua_request *)c->object)->request;
    int rc = fl_request_result(r, i, &c->update, err);
    if (rc) return rc;
    push_update(L, r, &c->update);
    lua_rawseti(L, -2, (int)i + 1);
    return FL_OK;
}

/* req:result() waits for the end -> {choices = {event, ...}, usage = {...}} where each
 * event holds the whole completion, whatever was read before */
static int l_result(lua_State *L) {
    fl_call *c = begin_read(L);
    fl_request *r = ((lua_request *)c->object)->request;
    const fl_params *p = fl_request_params(r);
    fl_err err;
    fl_request_wait_end(r);
    lua_createtable(L, 0, 4);
    lua_createtable(L, (int)p->n, 0);
    for (int64_t i = 0; i < p->n; i++) {
        if (push_choice(L, c, i, &err)) return fl_push_err(L, &err);
    }
    lua_setfield(L, -2, "choices");
    push_usage(L, r);
    lua_setfield(L, -2, "usage");
    const fl_top *top;
    int64_t n;
    const float *logprob = fl_request_prompt_logprobs(r, &top, &n);
    if (logprob) {
        push_numbers(L, logprob, n);
        lua_setfield(L, -2, "prompt_logprobs");
    }
    if (logprob && p->prompt_logprobs > 0) {
        push_tops(L, top, n, p->prompt_logprobs);
        lua_setfield(L, -2, "prompt_top");
    }
    end_read(c);
    return 1;
}

/* req:fd() -> a file descriptor, readable while poll would not say false */
static int l_fd(lua_State *L) {
    lua_request *s = check_state(L);
    fl_err err;
    if (s->fd < 0 && fl_notice_open(&s->fd, &err)) return fl_push_err(L, &err);
    fl_request_watch(s->request, s->fd);
    lua_pushinteger(L, s->fd);
    return 1;
}

static int l_usage(lua_State *L) {
    push_usage(L, fl_check_request(L, 1));
    return 1;
}

static int l_cancel(lua_State *L) {
    fl_request_cancel(fl_check_request(L, 1));
    return 0;
}

static void destroy(void *request) {
    lua_request *s = request;
    if (s->fd >= 0) {
        fl_request_watch(s->request, -1);
        close(s->fd);
    }
    fl_request_unref(s->request);
    fl_update_free(&s->update);
    fl_free(s);
}

static void describe(void *request, char out[FL_DESCRIPTION]) {
    fl_request *r = ((lua_request *)request)->request;
    fl_usage u;
    fl_request_usage(r, &u);
    snprintf(out, FL_DESCRIPTION, "%lld tokens after %lld, %s", (long long)u.completion_tokens,
             (long long)u.prompt_tokens, fl_request_ended(r) ? "ended" : "running");
}

static const luaL_Reg methods[] = {
    {"poll", l_poll},     {"wait", l_wait},   {"pieces", l_pieces},
    {"result", l_result}, {"usage", l_usage}, {"steps", fl_l_request_steps},
    {"cancel", l_cancel}, {"fd", l_fd},       {NULL, NULL}};

void fl_register_request(lua_State *L) {
    static const fl_class_type type = {FL_MT_REQUEST, destroy, describe};
    fl_class(L, &type, methods, NULL);
}
