/* Class exchange: the lines that answer an OpenAI request of this program.  lua/fp8llm/answer.lua makes events
 * of them; nothing else uses it. */
#include "binding/l_engine.h"
#include "serve/exchange.h"

static void destroy(void *x) {
    fl_exchange_free(x);
}

/* Held, so that what runs in the middle frees nothing under the call. */
static fl_call *begin(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_EXCHANGE);
    fl_err err;
    if (fl_exchange_check_owner(c->object, &err)) fl_raise(L, "%s", err.msg);
    return c;
}

/* exchange:read() -> lines that are new, "" for none yet, whether nothing comes after them
 * | nil, message, CODE */
static int l_read(lua_State *L) {
    bool over;
    fl_err err;
    fl_call *c = begin(L);
    if (fl_exchange_read(c->object, &c->text, &over, &err)) return fl_push_err(L, &err);
    lua_pushlstring(L, c->text.len ? c->text.data : "", c->text.len);
    lua_pushboolean(L, over);
    fl_call_end(c);
    return 2;
}

/* exchange:wait([ms]) -> true when there is something to read, or nothing will come */
static int l_wait(lua_State *L) {
    const int64_t ms = lua_isnoneornil(L, 2) ? -1 : fl_check_int(L, 2);
    fl_call *c = begin(L);
    lua_pushboolean(L, fl_exchange_wait(c->object, ms));
    fl_call_end(c);
    return 1;
}

/* exchange:fd() -> readable while there is something to read, or nothing will come */
static int l_fd(lua_State *L) {
    int fd;
    fl_err err;
    fl_call *c = begin(L);
    if (fl_exchange_fd(c->object, &fd, &err)) return fl_push_err(L, &err);
    lua_pushinteger(L, fd);
    fl_call_end(c);
    return 1;
}

static int l_rewind(lua_State *L) {
    fl_call *c = begin(L);
    fl_exchange_rewind(c->object);
    fl_call_end(c);
    return 0;
}

static int l_cancel(lua_State *L) {
    fl_call *c = begin(L);
    fl_exchange_cancel(c->object);
    fl_call_end(c);
    return 0;
}

static const luaL_Reg methods[] = {{"read", l_read},     {"wait", l_wait}, {"rewind", l_rewind},
                                   {"cancel", l_cancel}, {"fd", l_fd},     {NULL, NULL}};

void fl_register_exchange(lua_State *L) {
    static const fl_class_type type = {FL_MT_EXCHANGE, destroy, NULL};
    fl_class(L, &type, methods, NULL);
}
