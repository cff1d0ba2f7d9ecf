/* The FP8 methods of tensors: quantize, dequantize, linear. */
#include <string.h>

#include "binding/l_tensor.h"

static int one_of(lua_State *L, int opts, const char *key, const char *const *names, int fallback) {
    const char *value;
    if (!fl_opt_string(L, opts, key, &value)) return fallback;
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], value)) return i;
    }
    return fl_raise(L, "option '%s': '%s' is none of its values", key, value);
}

/* t:quantize{scheme="token"|"tensor"|"channel"|"group"} -> e4m3 tensor, f32 scales */
int fl_l_quantize(lua_State *L) {
    static const char *const known[] = {"scheme", NULL};
    static const char *const schemes[] = {"tensor", "channel", "token", "group", NULL};
    fl_err err;
    fl_opt_only(L, 2, known);
    fl_quant_scheme scheme = (fl_quant_scheme)one_of(L, 2, "scheme", schemes, FL_QUANT_TOKEN);
    fl_array **q = fl_tensor_box_new(L), **scale = fl_tensor_box_new(L);
    int rc = fl_array_quantize(q, scale, fl_tensor_check(L, 1), scheme, &err);
    return fl_tensor_result(L, rc, q, &err) == 1 ? 2 : 3;
}

/* The tensor at idx, which is on the device of t, or the number there as a tensor beside t in `box`;
 * NULL when absent. */
static const fl_array *tensor_or_number(lua_State *L, int idx, const fl_array *t, fl_array **box,
                                        fl_err *err, int *rc) {
    const int64_t one = 1;
    *rc = FL_OK;
    if (lua_isnoneornil(L, idx)) return NULL;
    if (lua_type(L, idx) != LUA_TNUMBER) return fl_tensor_check_beside(L, idx, t);
    double v = (double)lua_tonumber(L, idx);
    *rc = fl_array_new(box, fl_array_device(t), FL_DTYPE_F32, &one, 1, err);
    if (!*rc) *rc = fl_array_apply_number(*box, FL_MAP_COPY, v, err);
    return *box;
}

/* q:dequantize(scale [, dtype]) -> f32 tensor, or of that type */
int fl_l_dequantize(lua_State *L) {
    fl_err err;
    int rc;
    fl_tensor_check(L, 1);
    lua_settop(L, 3);
    fl_dtype dtype = lua_isnoneornil(L, 3) ? FL_DTYPE_F32 : fl_check_dtype(L, 3);
    fl_array **number = fl_tensor_box_new(L), **box = fl_tensor_box_new(L);
    const fl_array *q = fl_tensor_check(L, 1);
    const fl_array *scale = tensor_or_number(L, 2, q, number, &err, &rc);
    if (rc) return fl_push_err(L, &err);
    if (!scale) fl_arg_error(L, 2, "scale expected: a tensor or a number");
    return fl_tensor_result(L, fl_array_dequantize(box, q, scale, dtype, &err), box, &err);
}

/* Push the member of the options table, a tensor, a number or nil; where it is. */
static int tensor_option(lua_State *L, int opts, const char *key) {
    if (!fl_opt_push(L, opts, key)) lua_pushnil(L);
    int idx = lua_gettop(L), type = lua_type(L, idx);
    if (type != LUA_TNIL && type != LUA_TNUMBER && !fl_box_test(L, idx, FL_MT_TENSOR))
        fl_raise(L, "option '%s': tensor expected, got %s", key, luaL_typename(L, idx));
    return idx;
}

/* x:linear(w, {scale=, bias=, act="none"|"static"|"token"|"group", x_scale=,
 *              out="f32"|"bf16"|"f16"}) */
int fl_l_linear(lua_State *L) {
    static const char *const known[] = {"scale", "bias", "act", "x_scale", "out", NULL};
    static const char *const acts[] = {"none", "static", "token", "group", NULL};
    static const char *const outs[] = {"f32", "bf16", "f16", NULL};
    static const fl_dtype out_dtypes[] = {FL_DTYPE_F32, FL_DTYPE_BF16, FL_DTYPE_F16};
    fl_err err;
    int rc;
    double x_scale = 0.0;
    fl_array_linear l = {0};
    fl_tensor_check_beside(L, 2, fl_tensor_check(L, 1));
    lua_settop(L, 3);
    fl_opt_only(L, 3, known);
    l.act = (fl_act_scheme)one_of(L, 3, "act", acts, FL_ACT_NONE);
    l.out = out_dtypes[one_of(L, 3, "out", outs, 0)];
    bool has_scale = fl_opt_number(L, 3, "x_scale", &x_scale);
    if (has_scale != (l.act == FL_ACT_STATIC))
        return fl_raise(L, "option 'x_scale' goes with act = 'static', and only with it");
    l.x_scale = (float)x_scale;
    const int scale = tensor_option(L, 3, "scale"), bias = tensor_option(L, 3, "bias");
    fl_device *d = fl_array_device(fl_tensor_check(L, 1));
    if (!d && fl_find_device(L, "cpu", &d, &err)) return fl_push_err(L, &err);
    fl_array **numbers[2] = {fl_tensor_box_new(L), fl_tensor_box_new(L)};
    fl_array **box = fl_tensor_box_new(L);
    l.x = fl_tensor_check(L, 1);
    l.w = fl_tensor_check_beside(L, 2, l.x);
    l.w_scale = tensor_or_number(L, scale, l.x, numbers[0], &err, &rc);
    if (!rc) l.bias = tensor_or_number(L, bias, l.x, numbers[1], &err, &rc);
    if (rc) return fl_push_err(L, &err);
    return fl_tensor_result(L, fl_array_linear_run(box, d, &l, &err), box, &err);
}
