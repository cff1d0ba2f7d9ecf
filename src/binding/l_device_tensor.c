/* Tensors on a GPU: the methods of tensors (l_tensor.c), computed there.  What only looks at values
 * (totable, argmax, topk) reads them back first; linear packs its weight from host memory, as
 * models do when they are loaded. */
#include <string.h>

#include "backend/device_tensor.h"
#include "binding/l_tensor.h"

#define OPEN_DEVICES "fp8llm.devices"

static int close_device(lua_State *L) {
    void **box = fl_box_raw(L, 1, FL_MT_DEVICE);
    fl_device_unref(*box);
    *box = NULL;
    return 0;
}

/* The open device of that name: once for each Lua state, kept until it ends. */
static int find_device(lua_State *L, const char *name, fl_device **out, fl_err *err) {
    const char *key = strcmp(name, "cuda") ? name : "cuda:0";
    lua_getfield(L, LUA_REGISTRYINDEX, OPEN_DEVICES);
    lua_getfield(L, -1, key);
    void **box = lua_isnil(L, -1) ? NULL : fl_box_raw(L, -1, FL_MT_DEVICE);
    if (!box) {
        box = fl_box_new(L, FL_MT_DEVICE);
        int rc = fl_device_open((fl_device **)box, key, err);
        if (rc) return rc;
        lua_setfield(L, -3, key);
    }
    *out = *box;
    return FL_OK;
}

static fl_device_tensor **box_new(lua_State *L) {
    return (fl_device_tensor **)fl_box_new(L, FL_MT_DEVICE_TENSOR);
}
static fl_device_tensor *check(lua_State *L, int idx) {
    return fl_box_check(L, idx, FL_MT_DEVICE_TENSOR);
}
static const char *name_of(const fl_device_tensor *t) {
    return fl_device_name(fl_device_of(t));
}

const char *fl_device_tensor_test(lua_State *L, int idx) {
    const fl_device_tensor *t = fl_box_test(L, idx, FL_MT_DEVICE_TENSOR);
    return t ? name_of(t) : NULL;
}

/* The tensor at idx when it is on the device of t; anything else raises. */
static fl_device_tensor *check_beside(lua_State *L, int idx, const fl_device_tensor *t) {
    fl_device_tensor *b = fl_box_test(L, idx, FL_MT_DEVICE_TENSOR);
    if (!b && fl_box_test(L, idx, FL_MT_TENSOR))
        luaL_error(L, "tensors on %s and on cpu: bring both to one device with to()", name_of(t));
    if (!b) b = check(L, idx);
    if (strcmp(name_of(b), name_of(t)))
        luaL_error(L, "tensors on %s and on %s: bring both to one device with to()", name_of(t),
                   name_of(b));
    return b;
}

static int new_result(lua_State *L, int rc, fl_device_tensor *const *box, const fl_err *err) {
    if (rc) return fl_push_err(L, err);
    fl_tensor_account(L, &(*box)->t);
    return 1;
}

/* The end of an in-place method: misuse raises, what the device says is returned. */
static int in_place(lua_State *L, int rc, const fl_err *err) {
    if (rc == FL_E_ARG) return luaL_error(L, "%s", err->msg);
    if (rc) return fl_push_err(L, err);
    lua_settop(L, 1);
    return 1;
}

int fl_tensor_to_device(lua_State *L, const fl_host_tensor *t, const char *name) {
    fl_device *d;
    fl_err err;
    int rc = find_device(L, name, &d, &err);
    if (rc) return fl_push_err(L, &err);
    fl_device_tensor **box = box_new(L);
    rc = fl_device_tensor_upload(box, d, t, &err);
    return new_result(L, rc, box, &err);
}

/* Pushes the values of t as a tensor on the host. */
static int push_host(lua_State *L, const fl_device_tensor *t, fl_err *err) {
    fl_host_tensor **box = fl_tensor_box_new(L);
    return fl_device_tensor_download(box, t, err);
}

static int l_clone(lua_State *L) {
    fl_err err;
    const fl_device_tensor *t = check(L, 1);
    fl_device_tensor **box = box_new(L);
    int rc = fl_device_tensor_convert(box, t, t->t.dtype, &err);
    return new_result(L, rc, box, &err);
}

/* t:to("bf16"), t:to("cpu") or t:to("cuda:1"): always a copy */
static int l_to(lua_State *L) {
    fl_err err;
    const fl_device_tensor *t = check(L, 1);
    const char *what = luaL_checkstring(L, 2);
    lua_settop(L, 2);
    if (!strncmp(what, "cuda", 4) && strcmp(strcmp(what, "cuda") ? what : "cuda:0", name_of(t))) {
        if (push_host(L, t, &err)) return fl_push_err(L, &err);
        return fl_tensor_to_device(L, fl_tensor_check(L, 3), what);
    }
    if (!strcmp(what, "cpu")) return push_host(L, t, &err) ? fl_push_err(L, &err) : 1;
    fl_dtype dtype = strncmp(what, "cuda", 4) ? fl_check_dtype(L, 2) : t->t.dtype;
    fl_device_tensor **box = box_new(L);
    int rc = fl_device_tensor_convert(box, t, dtype, &err);
    return new_result(L, rc, box, &err);
}

static int l_row(lua_State *L) {
    fl_err err;
    const fl_device_tensor *t = check(L, 1);
    int64_t i = fl_check_int(L, 2);
    fl_device_tensor **box = box_new(L);
    int rc = fl_device_tensor_row(box, t, i - 1, &err);
    if (rc == FL_E_NOMEM) return fl_push_err(L, &err);
    if (rc) luaL_argerror(L, 2, err.msg);
    return 1;
}

/* ---- looking at them ---- */

static int l_shape(lua_State *L) {
    fl_tensor_push_shape(L, &check(L, 1)->t);
    return 1;
}
static int l_dtype(lua_State *L) {
    char name[16];
    lua_pushstring(L, fl_lua_dtype(check(L, 1)->t.dtype, name));
    return 1;
}
static int l_device(lua_State *L) {
    lua_pushstring(L, name_of(check(L, 1)));
    return 1;
}
static int l_len(lua_State *L) {
    const fl_tensor *t = &check(L, 1)->t;
    lua_pushinteger(L, t->ndim ? (lua_Integer)t->dim[0] : 1);
    return 1;
}
static int l_address(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)(uintptr_t)check(L, 1)->t.data);
    return 1;
}

static int l_tostring(lua_State *L) {
    char dims[96], name[16];
    const fl_device_tensor *t = *fl_box_raw(L, 1, FL_MT_DEVICE_TENSOR);
    if (!t)
        lua_pushliteral(L, "tensor (closed)");
    else
        lua_pushfstring(L, "tensor %s %s on %s", fl_lua_dtype(t->t.dtype, name),
                        fl_tensor_shape(dims, &t->t), name_of(t));
    return 1;
}

static int l_get(lua_State *L) {
    fl_err err;
    double v;
    const fl_device_tensor *t = check(L, 1);
    int64_t at = fl_tensor_check_index(L, &t->t, lua_gettop(L) - 1);
    if (fl_device_tensor_load(&v, t, at, &err)) return fl_push_err(L, &err);
    fl_tensor_push_element(L, t->t.dtype, v);
    return 1;
}

static int l_set(lua_State *L) {
    fl_err err;
    fl_device_tensor *t = check(L, 1);
    int last = lua_gettop(L);
    double v = (double)luaL_checknumber(L, last < 2 ? 2 : last);
    int64_t at = fl_tensor_check_index(L, &t->t, last - 2);
    return in_place(L, fl_device_tensor_store(t, v, at, &err), &err);
}

/* The method of the same name of a copy on the host, with the same arguments. */
static int on_host(lua_State *L, const char *method) {
    fl_err err;
    const int top = lua_gettop(L);
    if (push_host(L, check(L, 1), &err)) return fl_push_err(L, &err);
    lua_getfield(L, -1, method);
    lua_insert(L, 1);
    lua_replace(L, 2); /* the copy in place of the tensor */
    lua_call(L, top, LUA_MULTRET);
    return lua_gettop(L);
}
static int l_totable(lua_State *L) {
    return on_host(L, "totable");
}
static int l_argmax(lua_State *L) {
    return on_host(L, "argmax");
}
static int l_topk(lua_State *L) {
    return on_host(L, "topk");
}

/* ---- changing them ---- */

static int apply(lua_State *L, fl_map_op op) {
    fl_err err;
    fl_device_tensor *t = check(L, 1);
    int rc = lua_type(L, 2) == LUA_TNUMBER
                 ? fl_device_tensor_apply_number(t, op, (double)lua_tonumber(L, 2), &err)
                 : fl_device_tensor_apply(t, op, check_beside(L, 2, t), 0.0, &err);
    return in_place(L, rc, &err);
}
static int l_add(lua_State *L) {
    return apply(L, FL_MAP_ADD);
}
static int l_mul(lua_State *L) {
    return apply(L, FL_MAP_MUL);
}
static int l_copy(lua_State *L) {
    return apply(L, FL_MAP_COPY);
}

static int l_softmax(lua_State *L) {
    fl_err err;
    fl_device_tensor *t = check(L, 1);
    double temperature = (double)luaL_optnumber(L, 2, 1);
    return in_place(L, fl_device_tensor_softmax(t, temperature, &err), &err);
}

/* t:add_at(id, v): on a row of logits; id is a token id, so it is index - 1 */
static int l_add_at(lua_State *L) {
    fl_err err;
    double x, v = (double)luaL_checknumber(L, 3);
    int64_t id = fl_check_int(L, 2);
    fl_device_tensor *t = check(L, 1);
    fl_tensor_check_id(L, &t->t, id);
    int rc = fl_device_tensor_load(&x, t, id, &err);
    if (!rc) rc = fl_device_tensor_store(t, x + v, id, &err);
    return in_place(L, rc, &err);
}

/* t:mask_fill(mask, value): where a tensor is not 0, or at the listed (flat) indices */
static int l_mask_fill(lua_State *L) {
    fl_err err;
    fl_device_tensor *t = check(L, 1);
    double value = (double)luaL_checknumber(L, 3);
    if (!lua_istable(L, 2)) {
        const fl_device_tensor *mask = check_beside(L, 2, t);
        return in_place(L, fl_device_tensor_apply(t, FL_MAP_FILL, mask, value, &err), &err);
    }
    const int64_t total = fl_tensor_numel(&t->t);
    int rc = FL_OK;
    for (int pass = 0; pass < 2; pass++) { /* nothing changes when an index is wrong */
        for (int i = 1; i <= (int)lua_rawlen(L, 2) && !rc; i++) {
            int64_t at = fl_tensor_list_index(L, 2, i, total);
            if (pass) rc = fl_device_tensor_store(t, value, at, &err);
        }
    }
    return in_place(L, rc, &err);
}

/* ---- FP8 ---- */

static int l_quantize(lua_State *L) {
    fl_err err;
    const fl_device_tensor *t = check(L, 1);
    fl_quant_scheme scheme = fl_tensor_quant_scheme(L, 2);
    fl_device_tensor **q = box_new(L), **scale = box_new(L);
    if (fl_device_tensor_quantize(q, scale, t, scheme, &err)) return fl_push_err(L, &err);
    return 2;
}

/* q:dequantize(scale [, dtype]) -> f32 tensor, or of that type */
static int l_dequantize(lua_State *L) {
    fl_err err;
    const fl_device_tensor *q = check(L, 1);
    fl_dtype dtype = lua_isnoneornil(L, 3) ? FL_DTYPE_F32 : fl_check_dtype(L, 3);
    fl_device_tensor **box;
    int rc;
    if (lua_type(L, 2) == LUA_TNUMBER) {
        box = box_new(L);
        rc = fl_device_tensor_convert(box, q, dtype, &err);
        if (!rc)
            rc = fl_device_tensor_apply_number(*box, FL_MAP_MUL, (double)(float)lua_tonumber(L, 2),
                                               &err);
    } else {
        const fl_device_tensor *scale = check_beside(L, 2, q);
        box = box_new(L);
        rc = fl_device_tensor_dequantize(box, q, scale, dtype, &err);
    }
    return new_result(L, rc, box, &err);
}

/* Replaces the device tensors of x's device among the members of the table at idx by copies on
 * the host, in a new table there. */
static int host_options(lua_State *L, int idx, const fl_device_tensor *x, fl_err *err) {
    if (!lua_istable(L, idx)) return FL_OK;
    lua_newtable(L);
    const int copy = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        const int value = lua_gettop(L);
        lua_pushvalue(L, value - 1);
        if (lua_isuserdata(L, value)) {
            int rc = push_host(L, check_beside(L, value, x), err);
            if (rc) return rc;
        } else {
            lua_pushvalue(L, value);
        }
        lua_settable(L, copy);
    }
    lua_replace(L, idx);
    return FL_OK;
}

/* x:linear(w, options): see l_tensor_fp8.c */
static int l_linear(lua_State *L) {
    fl_err err;
    const fl_device_tensor *x = check(L, 1), *w = check_beside(L, 2, x);
    fl_device *d = fl_device_of(x);
    lua_settop(L, 3);
    lua_pushvalue(L, 1); /* keeps x, and with it the device */
    lua_insert(L, 1);
    if (host_options(L, 4, x, &err) || push_host(L, x, &err)) return fl_push_err(L, &err);
    lua_replace(L, 2);
    if (push_host(L, w, &err)) return fl_push_err(L, &err);
    lua_replace(L, 3);
    lua_remove(L, 1);
    if (fl_tensor_linear(L, fl_device_ops(d), fl_device_backend(d)) != 1) return 3;
    fl_device_tensor **box = box_new(L);
    int rc = fl_device_tensor_upload(box, d, fl_tensor_check(L, -2), &err);
    return new_result(L, rc, box, &err);
}

static int l_close(lua_State *L) {
    fl_device_tensor **box = (fl_device_tensor **)fl_box_raw(L, 1, FL_MT_DEVICE_TENSOR);
    fl_device_tensor_free(*box);
    *box = NULL;
    return 0;
}

void fl_register_device_tensor(lua_State *L) {
    static const luaL_Reg methods[] = {{"shape", l_shape},
                                       {"dtype", l_dtype},
                                       {"device", l_device},
                                       {"get", l_get},
                                       {"set", l_set},
                                       {"row", l_row},
                                       {"topk", l_topk},
                                       {"argmax", l_argmax},
                                       {"totable", l_totable},
                                       {"address", l_address},
                                       {"clone", l_clone},
                                       {"to", l_to},
                                       {"add", l_add},
                                       {"mul", l_mul},
                                       {"copy", l_copy},
                                       {"softmax", l_softmax},
                                       {"add_at", l_add_at},
                                       {"mask_fill", l_mask_fill},
                                       {"close", l_close},
                                       {"quantize", l_quantize},
                                       {"dequantize", l_dequantize},
                                       {"linear", l_linear},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {"__tostring", l_tostring}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    fl_class(L, FL_MT_DEVICE_TENSOR, methods, meta, l_close);
    fl_class(L, FL_MT_DEVICE, none, NULL, close_device);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, OPEN_DEVICES);
}
