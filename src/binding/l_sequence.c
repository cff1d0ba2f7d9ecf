/* Class sequence: one growing list of tokens, fed by hand. */
#include <stdio.h>

#include "binding/l_model.h"
#include "binding/l_tensor.h"
#include "engine/score.h"

static fl_sequence *check_sequence(lua_State *L) {
    return fl_box_check(L, 1, FL_MT_SEQUENCE);
}

/* model:sequence() -> sequence | nil, message, CODE */
int fl_l_sequence_new(lua_State *L) {
    fl_sequence *s;
    fl_err err;
    void **box = fl_box_new(L, FL_MT_SEQUENCE);
    fl_model_child(L, -1, fl_check_model(L, 1));
    if (fl_sequence_new(&s, fl_check_model(L, 1), &err)) return fl_push_err(L, &err);
    *box = s;
    return 1;
}

static int l_fork(lua_State *L) {
    fl_sequence *copy;
    fl_err err;
    void **box = fl_box_new(L, FL_MT_SEQUENCE);
    fl_model_child(L, -1, fl_sequence_model(check_sequence(L)));
    if (fl_sequence_fork(&copy, check_sequence(L), &err)) return fl_push_err(L, &err);
    *box = copy;
    return 1;
}

static int l_rewind(lua_State *L) {
    const int64_t n = fl_check_int(L, 2);
    fl_err err;
    if (fl_sequence_rewind(check_sequence(L), n, &err)) return fl_push_err(L, &err);
    lua_settop(L, 1);
    return 1;
}

static int l_length(lua_State *L) {
    fl_push_number(L, (double)fl_sequence_length(check_sequence(L)));
    return 1;
}

static int l_prompt_length(lua_State *L) {
    fl_push_number(L, (double)fl_sequence_prompt_length(check_sequence(L)));
    return 1;
}

static int l_ids(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_SEQUENCE);
    fl_push_ids(L, fl_sequence_ids(c->object), (size_t)fl_sequence_length(c->object));
    fl_call_end(c);
    return 1;
}

/* One id or a table of ids at idx; the block stays on the stack. */
static const int32_t *check_tokens(lua_State *L, int idx, size_t *n) {
    if (lua_type(L, idx) != LUA_TNUMBER) return fl_check_ids(L, idx, n);
    int64_t id = fl_check_int(L, idx);
    int32_t *one = lua_newuserdata(L, sizeof(*one));
    *one = id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
    *n = 1;
    return one;
}

static void release_sequence(void *s) {
    fl_sequence_unref(s);
}

/* seq:feed(ids | id) -> logits [vocab] f32, a view that the next feed overwrites */
static int l_feed(lua_State *L) {
    size_t n;
    const float *logits;
    fl_err err;
    const int32_t *ids = check_tokens(L, 2, &n);
    fl_array **box = fl_tensor_box_new(L);
    fl_sequence *s = check_sequence(L);
    if (fl_sequence_feed(s, ids, (int64_t)n, &logits, &err)) return fl_push_err(L, &err);
    int64_t vocab = fl_model_config(fl_sequence_model(s))->vocab_size;
    fl_tensor view = fl_tensor_1d((void *)(uintptr_t)logits, FL_DTYPE_F32, vocab);
    fl_keep keep = {.release = release_sequence, .ctx = fl_sequence_ref(s)};
    if (!fl_array_view(box, &view, &keep, &err)) return 1;
    fl_sequence_unref(s);
    return fl_push_err(L, &err);
}

/* seq:score(ids) -> logprobs [n] f32, greedy: table of booleans */
static int l_score(lua_State *L) {
    size_t n;
    fl_err err;
    const int32_t *ids = check_tokens(L, 2, &n);
    bool *greedy = lua_newuserdata(L, n + 1);
    fl_array **box = fl_tensor_box_new(L);
    int64_t dim = (int64_t)n;
    if (fl_array_new(box, NULL, FL_DTYPE_F32, &dim, 1, &err)) return fl_push_err(L, &err);
    if (fl_score(check_sequence(L), ids, dim, (*box)->t.data, greedy, &err))
        return fl_push_err(L, &err);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushboolean(L, greedy[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 2;
}

/* The pages go back at once; ids and logits stay for views. */
static void destroy(void *s) {
    fl_sequence_close(s);
    fl_sequence_unref(s);
}

static void describe(void *s, char out[FL_DESCRIPTION]) {
    snprintf(out, FL_DESCRIPTION, "%lld tokens", (long long)fl_sequence_length(s));
}

static const luaL_Reg methods[] = {{"feed", l_feed},
                                   {"score", l_score},
                                   {"fork", l_fork},
                                   {"rewind", l_rewind},
                                   {"ids", l_ids},
                                   {"length", l_length},
                                   {"prompt_length", l_prompt_length},
                                   {NULL, NULL}};
static const luaL_Reg meta[] = {{"__len", l_length}, {NULL, NULL}};

void fl_register_sequence(lua_State *L) {
    static const fl_class_type type = {FL_MT_SEQUENCE, destroy, describe};
    fl_class(L, &type, methods, meta);
}
