/* The FP8 methods of tensors: quantize, dequantize, linear. */
#include <string.h>

#include "binding/l_tensor.h"

static int one_of(lua_State *L, int opts, const char *key, const char *const *names, int fallback) {
    const char *value;
    if (!fl_opt_string(L, opts, key, &value)) return fallback;
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], value)) return i;
    }
    return luaL_error(L, "option '%s': '%s' is none of its values", key, value);
}

fl_quant_scheme fl_tensor_quant_scheme(lua_State *L, int opts) {
    static const char *const known[] = {"scheme", NULL};
    static const char *const schemes[] = {"tensor", "channel", "token", "group", NULL};
    fl_opt_only(L, opts, known);
    return (fl_quant_scheme)one_of(L, opts, "scheme", schemes, FL_QUANT_TOKEN);
}

/* t:quantize{scheme="token"|"tensor"|"channel"|"group"} -> e4m3 tensor, f32 scales */
int fl_l_quantize(lua_State *L) {
    fl_err err;
    const fl_host_tensor *t = fl_tensor_check(L, 1);
    fl_quant_scheme scheme = fl_tensor_quant_scheme(L, 2);
    fl_host_tensor **q = fl_tensor_box_new(L), **scale = fl_tensor_box_new(L);
    if (fl_host_tensor_quantize(q, scale, t, scheme, &err)) return fl_push_err(L, &err);
    return 2;
}

/* The tensor or number at idx as a tensor; NULL when absent.  A box is pushed for a number. */
static const fl_host_tensor *tensor_or_number(lua_State *L, int idx, fl_err *err, int *rc) {
    int64_t one = 1;
    *rc = FL_OK;
    if (lua_isnoneornil(L, idx)) return NULL;
    if (lua_type(L, idx) != LUA_TNUMBER) return fl_tensor_check(L, idx);
    double v = (double)lua_tonumber(L, idx);
    fl_host_tensor **box = fl_tensor_box_new(L);
    if ((*rc = fl_host_tensor_new(box, FL_DTYPE_F32, &one, 1, err))) return NULL;
    fl_host_tensor_store(*box, &v, 0, 1);
    return *box;
}

/* q:dequantize(scale [, dtype]) -> f32 tensor, or of that type */
int fl_l_dequantize(lua_State *L) {
    fl_err err;
    int rc;
    const fl_host_tensor *q = fl_tensor_check(L, 1);
    fl_dtype dtype = lua_isnoneornil(L, 3) ? FL_DTYPE_F32 : fl_check_dtype(L, 3);
    luaL_checkany(L, 2);
    const fl_host_tensor *scale = tensor_or_number(L, 2, &err, &rc);
    if (rc) return fl_push_err(L, &err);
    if (!scale) luaL_argerror(L, 2, "scale expected: a tensor or a number");
    fl_host_tensor **box = fl_tensor_box_new(L);
    if (fl_host_tensor_dequantize(box, q, scale, dtype, &err)) return fl_push_err(L, &err);
    return 1;
}

/* One backend for each Lua state, opened when first needed. */
typedef struct holder {
    const fl_backend_ops *ops;
    fl_backend *be;
} holder;

#define FL_MT_BACKEND "fp8llm.backend"

static int close_holder(lua_State *L) {
    holder *h = lua_touserdata(L, 1);
    if (h->be) h->ops->close(h->be);
    h->be = NULL;
    return 0;
}

static int open_backend(lua_State *L, holder **out, fl_err *err) {
    fl_backend_params p = {.max_rows = FL_HOST_LINEAR_ROWS};
    int rc;
    lua_getfield(L, LUA_REGISTRYINDEX, FL_MT_BACKEND ".open");
    holder *h = lua_touserdata(L, -1);
    if (!h) {
        h = lua_newuserdata(L, sizeof(*h));
        *h = (holder){0};
        if (luaL_newmetatable(L, FL_MT_BACKEND)) {
            lua_pushcfunction(L, close_holder);
            lua_setfield(L, -2, "__gc");
        }
        lua_setmetatable(L, -2);
        lua_setfield(L, LUA_REGISTRYINDEX, FL_MT_BACKEND ".open");
    }
    if (!h->be &&
        ((rc = fl_backend_find(&h->ops, "cpu", err)) || (rc = h->ops->open(&h->be, &p, err))))
        return rc;
    *out = h;
    return FL_OK;
}

/* The member of the options table as a tensor; kept alive by what it leaves on the stack. */
static const fl_host_tensor *tensor_option(lua_State *L, int opts, const char *key, fl_err *err,
                                           int *rc) {
    *rc = FL_OK;
    if (lua_isnoneornil(L, opts)) return NULL;
    lua_getfield(L, opts, key);
    int idx = lua_gettop(L), type = lua_type(L, idx);
    if (type != LUA_TNIL && type != LUA_TNUMBER && !fl_box_test(L, idx, FL_MT_TENSOR))
        luaL_error(L, "option '%s': tensor expected, got %s", key, luaL_typename(L, idx));
    return tensor_or_number(L, idx, err, rc);
}

int fl_tensor_linear(lua_State *L, const fl_backend_ops *ops, fl_backend *be) {
    static const char *const known[] = {"scale", "bias", "act", "x_scale", "out", NULL};
    static const char *const acts[] = {"none", "static", "token", "group", NULL};
    static const char *const outs[] = {"f32", "bf16", "f16", NULL};
    static const fl_dtype out_dtypes[] = {FL_DTYPE_F32, FL_DTYPE_BF16, FL_DTYPE_F16};
    fl_err err;
    int rc;
    double x_scale = 0.0;
    fl_host_linear l = {.x = fl_tensor_check(L, 1), .w = fl_tensor_check(L, 2)};
    fl_opt_only(L, 3, known);
    l.act = (fl_act_scheme)one_of(L, 3, "act", acts, FL_ACT_NONE);
    l.out = out_dtypes[one_of(L, 3, "out", outs, 0)];
    bool has_scale = fl_opt_number(L, 3, "x_scale", &x_scale);
    if (has_scale != (l.act == FL_ACT_STATIC))
        return luaL_error(L, "option 'x_scale' goes with act = 'static', and only with it");
    l.x_scale = (float)x_scale;
    l.w_scale = tensor_option(L, 3, "scale", &err, &rc);
    if (rc) return fl_push_err(L, &err);
    l.bias = tensor_option(L, 3, "bias", &err, &rc);
    if (rc) return fl_push_err(L, &err);
    fl_host_tensor **box = fl_tensor_box_new(L);
    if (fl_host_linear_run(box, ops, be, &l, &err)) return fl_push_err(L, &err);
    return 1;
}

/* x:linear(w, {scale=, bias=, act="none"|"static"|"token"|"group", x_scale=, out="f32"|"bf16"}) */
int fl_l_linear(lua_State *L) {
    fl_err err;
    holder *h;
    fl_tensor_check(L, 1);
    fl_tensor_check(L, 2);
    lua_settop(L, 3);
    if (open_backend(L, &h, &err)) return fl_push_err(L, &err);
    return fl_tensor_linear(L, h->ops, h->be);
}
