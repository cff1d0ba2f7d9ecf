/* Tensors, in host memory or on a device.  In-place methods return the tensor; misuse of one (an
 * index or shape that does not fit, a read-only tensor) raises, as does a wrong type.  Indices are
 * 1-based; only add_at takes a token id, which is index - 1. */
#include "binding/l_tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/sampler.h"

/* From this size on the collector is told about memory it cannot see. */
enum { GC_VISIBLE_BYTES = 32 << 10, DEVICE_NAME = 96 };

static const struct {
    const char *name;
    fl_dtype dtype;
} dtypes[] = {{"f32", FL_DTYPE_F32},   {"bf16", FL_DTYPE_BF16}, {"f16", FL_DTYPE_F16},
              {"e4m3", FL_DTYPE_E4M3}, {"i32", FL_DTYPE_I32},   {NULL, FL_DTYPE_NONE}};

const char *fl_lua_dtype(fl_dtype dtype, char out[16]) {
    for (int i = 0; dtypes[i].name; i++) {
        if (dtypes[i].dtype == dtype) return dtypes[i].name;
    }
    const char *name = fl_dtype_name(dtype);
    size_t i = 0;
    for (; i < 15 && name[i]; i++)
        out[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
    out[i] = '\0';
    return out;
}

static fl_dtype dtype_from(const char *name) {
    int i = 0;
    while (dtypes[i].name && strcmp(dtypes[i].name, name)) i++;
    return dtypes[i].dtype;
}

fl_dtype fl_check_dtype(lua_State *L, int idx) {
    fl_dtype dtype = dtype_from(fl_check_string(L, idx));
    if (!dtype) fl_arg_error(L, idx, "element type expected: f32, bf16, f16, e4m3 or i32");
    return dtype;
}

fl_array *fl_tensor_check(lua_State *L, int idx) {
    return fl_box_check(L, idx, FL_MT_TENSOR);
}

fl_array *fl_tensor_check_beside(lua_State *L, int idx, const fl_array *t) {
    fl_array *b = fl_tensor_check(L, idx);
    if (fl_array_device(b) != fl_array_device(t))
        fl_raise(L, "tensors on %s and on %s: bring both to one device with to()",
                 fl_array_device_name(t), fl_array_device_name(b));
    return b;
}

/* The tensor at idx, whose elements can be reached. */
static fl_array *check_host(lua_State *L, int idx) {
    fl_array *t = fl_tensor_check(L, idx);
    if (fl_array_device(t))
        fl_raise(L, "a tensor on cpu is needed, argument %d is on %s: to(\"cpu\") copies it", idx,
                 fl_array_device_name(t));
    return t;
}

int fl_tensor_result(lua_State *L, int rc, fl_array *const *box, const fl_err *err) {
    if (rc) return fl_push_err(L, err);
    int64_t bytes = fl_array_numel(*box) * fl_dtype_bytes((*box)->t.dtype);
    if (bytes >= GC_VISIBLE_BYTES) lua_gc(L, LUA_GCSTEP, (int)fmin((double)(bytes >> 10), 1 << 20));
    return 1;
}

/* The end of an in-place method: the tensor itself, at index 1.  Misuse raises. */
static int in_place(lua_State *L, int rc, const fl_err *err) {
    if (rc == FL_E_ARG) return fl_raise(L, "%s", err->msg);
    if (rc) return fl_push_err(L, err);
    lua_settop(L, 1);
    return 1;
}

/* fl_raise knows no 64-bit integers. */
static int raise_range(lua_State *L, const char *what, int64_t value, int64_t min, int64_t max) {
    fl_err err;
    fl_fail(&err, FL_E_ARG, "%s %lld is not in [%lld, %lld]", what, (long long)value,
            (long long)min, (long long)max);
    return fl_raise(L, "%s", err.msg);
}

static void push_number(lua_State *L, fl_dtype dtype, double v) {
    if (dtype == FL_DTYPE_I32)
        lua_pushinteger(L, (lua_Integer)v);
    else
        lua_pushnumber(L, (lua_Number)v);
}

/* Of a tensor in host memory. */
static void push_element(lua_State *L, const fl_array *t, int64_t at) {
    double v;
    fl_tensor_load(&v, &t->t, at, 1);
    push_number(L, t->t.dtype, v);
}

fl_array *fl_tensor_check_row(lua_State *L, int idx) {
    fl_array *t = check_host(L, idx);
    if (t->t.ndim != 1 || t->t.dtype != FL_DTYPE_F32 || t->t.dim[0] > INT32_MAX)
        fl_arg_error(L, idx, "a vector of f32 expected");
    return t;
}

/* ---- making tensors ---- */

typedef struct shape {
    int64_t dim[FL_MAX_DIMS];
    int32_t ndim;
} shape;

/* {2, 3} */
static shape check_shape(lua_State *L, int idx) {
    shape s = {.ndim = (int32_t)lua_rawlen(L, idx)};
    if (s.ndim > FL_MAX_DIMS) fl_arg_error(L, idx, "at most 4 dimensions");
    for (int i = 0; i < s.ndim; i++) {
        lua_rawgeti(L, idx, i + 1);
        double v = lua_type(L, -1) == LUA_TNUMBER ? (double)lua_tonumber(L, -1) : 0.5;
        if (v != floor(v) || fabs(v) > 0x1p53) fl_arg_error(L, idx, "dimensions are whole numbers");
        s.dim[i] = (int64_t)v;
        lua_pop(L, 1);
    }
    return s;
}

/* {{1, 2, 3}, {4, 5, 6}}: as deep as the first elements are. */
static shape infer_shape(lua_State *L, int idx) {
    shape s = {.ndim = 0};
    int top = lua_gettop(L);
    lua_pushvalue(L, idx);
    while (lua_istable(L, -1)) {
        if (s.ndim == FL_MAX_DIMS) fl_arg_error(L, idx, "at most 4 dimensions");
        s.dim[s.ndim++] = (int64_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
    }
    lua_settop(L, top);
    return s;
}

static void store_numbers(lua_State *L, int idx, fl_array *t, int64_t first, int64_t n) {
    if ((int64_t)lua_rawlen(L, idx) != n)
        fl_raise(L, "%d values where the shape has %d", (int)lua_rawlen(L, idx), (int)n);
    for (int64_t i = 0; i < n; i++) {
        lua_rawgeti(L, idx, (int)i + 1);
        if (lua_type(L, -1) != LUA_TNUMBER)
            fl_raise(L, "value %d: number expected, got %s", (int)i + 1, luaL_typename(L, -1));
        double v = (double)lua_tonumber(L, -1);
        fl_tensor_store(&t->t, &v, first + i, 1);
        lua_pop(L, 1);
    }
}

/* Fill [first, first + n) from the nested table at idx, n elements at dimension d. */
static void store_nested(lua_State *L, int idx, fl_array *t, int d, int64_t first, int64_t n) {
    if (!lua_istable(L, idx))
        fl_raise(L, "dimension %d: table expected, got %s", d + 1, luaL_typename(L, idx));
    if (d == t->t.ndim - 1) {
        store_numbers(L, idx, t, first, n);
        return;
    }
    int64_t rows = t->t.dim[d];
    if ((int64_t)lua_rawlen(L, idx) != rows)
        fl_raise(L, "dimension %d: %d tables where the shape has %d", d + 1,
                 (int)lua_rawlen(L, idx), (int)rows);
    for (int64_t i = 0; i < rows; i++) {
        lua_rawgeti(L, idx, (int)i + 1);
        store_nested(L, lua_gettop(L), t, d + 1, first + i * (n / rows), n / rows);
        lua_pop(L, 1);
    }
}

static bool first_is_table(lua_State *L, int idx) {
    lua_rawgeti(L, idx, 1);
    bool table = lua_istable(L, -1);
    lua_pop(L, 1);
    return table;
}

/* fp8llm.tensor(dtype, {rows, columns, ...} [, values]) zeros, or values: flat, row by row,
 * or nested; fp8llm.tensor(dtype, {{...}, ...}) takes the shape from nested values. */
static int l_tensor(lua_State *L) {
    fl_err err;
    fl_dtype dtype = fl_check_dtype(L, 1);
    fl_check_type(L, 2, LUA_TTABLE);
    if (!lua_isnoneornil(L, 3)) fl_check_type(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    bool nested = first_is_table(L, 2);
    shape s = nested ? infer_shape(L, 2) : check_shape(L, 2);
    fl_array **box = fl_tensor_box_new(L);
    if (fl_array_new(box, NULL, dtype, s.dim, s.ndim, &err)) return fl_push_err(L, &err);
    int64_t n = fl_array_numel(*box);
    if (nested)
        store_nested(L, 2, *box, 0, 0, n);
    else if (!lua_isnil(L, 3) && s.ndim > 1 && first_is_table(L, 3))
        store_nested(L, 3, *box, 0, 0, n);
    else if (!lua_isnil(L, 3))
        store_numbers(L, 3, *box, 0, n);
    return fl_tensor_result(L, FL_OK, box, &err);
}

/* A copy of the tensor at 1 as what a method returns: of another type (none: the same), on d (NULL:
 * in host memory) or where it is. */
static int copied(lua_State *L, fl_dtype dtype, fl_device *const *d) {
    fl_err err;
    fl_array **box = fl_tensor_box_new(L);
    const fl_array *t = fl_tensor_check(L, 1);
    int rc = fl_array_copy(box, t, d ? *d : fl_array_device(t), dtype ? dtype : t->t.dtype, &err);
    return fl_tensor_result(L, rc, box, &err);
}

static int l_clone(lua_State *L) {
    return copied(L, FL_DTYPE_NONE, NULL);
}

/* t:to("bf16"), t:to("cpu") or t:to("cuda:0"): always a copy */
static int l_to(lua_State *L) {
    fl_err err;
    const char *what = fl_check_string(L, 2);
    fl_dtype dtype = dtype_from(what);
    fl_device *d = NULL;
    fl_tensor_check(L, 1);
    if (dtype) return copied(L, dtype, NULL);
    if (!strncmp(what, "cuda", 4)) {
        if (fl_find_device(L, what, &d, &err)) return fl_push_err(L, &err);
    } else if (strcmp(what, "cpu")) {
        fl_arg_error(L, 2, "element type or device expected");
    }
    return copied(L, FL_DTYPE_NONE, &d);
}

static int l_row(lua_State *L) {
    fl_err err;
    int64_t i = fl_check_int(L, 2);
    fl_array **box = fl_tensor_box_new(L);
    int rc = fl_array_row(box, fl_tensor_check(L, 1), i - 1, &err);
    if (rc == FL_E_NOMEM) return fl_push_err(L, &err);
    if (rc) fl_arg_error(L, 2, err.msg);
    return 1;
}

/* ---- looking at them ---- */

static int l_shape(lua_State *L) {
    const fl_tensor t = fl_tensor_check(L, 1)->t;
    lua_createtable(L, t.ndim, 0);
    for (int i = 0; i < t.ndim; i++) {
        lua_pushinteger(L, (lua_Integer)t.dim[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int l_dtype(lua_State *L) {
    char name[16];
    lua_pushstring(L, fl_lua_dtype(fl_tensor_check(L, 1)->t.dtype, name));
    return 1;
}

static int l_device(lua_State *L) {
    char name[DEVICE_NAME];
    snprintf(name, sizeof(name), "%s", fl_array_device_name(fl_tensor_check(L, 1)));
    lua_pushstring(L, name);
    return 1;
}

static int l_len(lua_State *L) {
    const fl_array *t = fl_tensor_check(L, 1);
    lua_pushinteger(L, t->t.ndim ? (lua_Integer)t->t.dim[0] : 1);
    return 1;
}

static int l_address(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)(uintptr_t)check_host(L, 1)->t.data);
    return 1;
}

static void describe(void *tensor, char out[FL_DESCRIPTION]) {
    char dims[96], name[16], device[DEVICE_NAME] = "";
    const fl_array *t = tensor;
    if (fl_array_device(t)) snprintf(device, sizeof(device), " on %s", fl_array_device_name(t));
    const char *dtype = fl_lua_dtype(t->t.dtype, name);
    snprintf(out, FL_DESCRIPTION, "%s %s%s", dtype, fl_array_shape(dims, t), device);
}

/* The element that arguments 2, 3, ... name: one index for each dimension. */
static int64_t check_index(lua_State *L, const fl_tensor *t, int n_args) {
    int64_t at = 0;
    if (n_args != t->ndim)
        fl_raise(L, "%d indices for a tensor of %d dimensions", n_args, (int)t->ndim);
    for (int d = 0; d < t->ndim; d++) {
        int64_t i = fl_check_int(L, d + 2);
        if (i < 1 || i > t->dim[d]) raise_range(L, "index", i, 1, t->dim[d]);
        at = at * t->dim[d] + i - 1;
    }
    return at;
}

static int l_get(lua_State *L) {
    fl_err err;
    double v;
    const fl_array *t = fl_tensor_check(L, 1); /* stays: indices are numbers, which make nothing */
    int64_t at = check_index(L, &t->t, lua_gettop(L) - 1);
    if (fl_array_get(&v, t, at, &err)) return fl_push_err(L, &err);
    push_number(L, t->t.dtype, v);
    return 1;
}

static int l_set(lua_State *L) {
    fl_err err;
    fl_array *t = fl_tensor_check(L, 1);
    int last = lua_gettop(L);
    double v = fl_check_number(L, last < 2 ? 2 : last);
    int64_t at = check_index(L, &t->t, last - 2);
    return in_place(L, fl_array_apply_at(t, FL_MAP_COPY, at, v, &err), &err);
}

static void push_nested(lua_State *L, const fl_array *t, int d, int64_t first, int64_t n) {
    int64_t rows = t->t.dim[d];
    luaL_checkstack(L, 3, "tensor");
    lua_createtable(L, (int)rows, 0);
    for (int64_t i = 0; i < rows; i++) {
        if (d == t->t.ndim - 1)
            push_element(L, t, first + i);
        else
            push_nested(L, t, d + 1, first + i * (n / rows), n / rows);
        lua_rawseti(L, -2, (int)i + 1);
    }
}

/* t itself when it is so already, or a copy in a box pushed on the stack. */
static const fl_array *on_host(lua_State *L, const fl_array *t, fl_dtype dtype, fl_err *err) {
    if (!fl_array_device(t) && t->t.dtype == dtype) return t;
    fl_array **box = fl_tensor_box_new(L);
    return fl_array_copy(box, t, NULL, dtype, err) ? NULL : *box;
}

/* Nested tables; a number when there are no dimensions */
static int l_totable(lua_State *L) {
    fl_err err;
    fl_call *c = fl_call_begin(L, 1, FL_MT_TENSOR);
    const fl_array *t = c->object;
    if (!(t = on_host(L, t, t->t.dtype, &err))) return fl_push_err(L, &err);
    if (t->t.ndim)
        push_nested(L, t, 0, 0, fl_array_numel(t));
    else
        push_element(L, t, 0);
    fl_call_end(c);
    return 1;
}

/* The vector that the call holds as f32 in host memory. */
static const fl_array *vector_as_f32(lua_State *L, const fl_call *c, fl_err *err) {
    const fl_array *t = c->object;
    if (t->t.ndim != 1 || t->t.dim[0] < 1 || t->t.dim[0] > INT32_MAX)
        fl_arg_error(L, 1, "a vector with elements expected; row(i) takes one out of a matrix");
    return on_host(L, t, FL_DTYPE_F32, err);
}

/* t:argmax() -> index, value: the largest element, the first of equals */
static int l_argmax(lua_State *L) {
    fl_err err;
    fl_call *c = fl_call_begin(L, 1, FL_MT_TENSOR);
    const fl_array *t = vector_as_f32(L, c, &err);
    if (!t) return fl_push_err(L, &err);
    int32_t at = fl_argmax(t->t.data, (int32_t)t->t.dim[0]);
    lua_pushinteger(L, (lua_Integer)at + 1);
    push_element(L, t, at);
    fl_call_end(c);
    return 2;
}

/* t:topk(k) -> indices, values: descending, equal values by index */
static int l_topk(lua_State *L) {
    fl_err err;
    int64_t k = fl_check_int(L, 2);
    fl_call *c = fl_call_begin(L, 1, FL_MT_TENSOR);
    const fl_array *t = vector_as_f32(L, c, &err);
    if (!t) return fl_push_err(L, &err);
    if (k < 1 || k > t->t.dim[0]) raise_range(L, "topk:", k, 1, t->t.dim[0]);
    int32_t *ids = lua_newuserdata(L, (size_t)k * (sizeof(*ids) + sizeof(float)));
    float *values = (float *)(void *)(ids + k);
    fl_top_list top = {(int32_t)k, ids, values};
    int rc = fl_topk(NULL, t->t.data, (int32_t)t->t.dim[0], &top, &err);
    fl_call_end(c);
    if (rc) return fl_push_err(L, &err);
    lua_createtable(L, (int)k, 0);
    lua_createtable(L, (int)k, 0);
    for (int i = 0; i < (int)k; i++) {
        lua_pushinteger(L, (lua_Integer)ids[i] + 1);
        lua_rawseti(L, -3, i + 1);
        lua_pushnumber(L, (lua_Number)values[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 2;
}

/* ---- changing them ---- */

static int apply(lua_State *L, fl_map_op op) {
    fl_err err;
    fl_array *t = fl_tensor_check(L, 1);
    int rc = lua_type(L, 2) == LUA_TNUMBER
                 ? fl_array_apply_number(t, op, (double)lua_tonumber(L, 2), &err)
                 : fl_array_apply(t, op, fl_tensor_check_beside(L, 2, t), 0.0, &err);
    return in_place(L, rc, &err);
}

static int l_add(lua_State *L) {
    return apply(L, FL_MAP_ADD);
}
static int l_mul(lua_State *L) {
    return apply(L, FL_MAP_MUL);
}
/* t:copy(x): the values of a tensor or a number, rounded to t's type */
static int l_copy(lua_State *L) {
    return apply(L, FL_MAP_COPY);
}

static int l_softmax(lua_State *L) {
    fl_err err;
    fl_array *t = fl_tensor_check(L, 1);
    double temperature = lua_isnoneornil(L, 2) ? 1 : fl_check_number(L, 2);
    return in_place(L, fl_array_softmax(t, temperature, &err), &err);
}

/* t:add_at(id, v): on a row of logits; id is a token id, so it is index - 1 */
static int l_add_at(lua_State *L) {
    fl_err err;
    double v = fl_check_number(L, 3);
    int64_t id = fl_check_int(L, 2);
    fl_array *t = fl_tensor_check(L, 1);
    if (t->t.ndim != 1) fl_arg_error(L, 1, "a vector expected");
    if (id < 0 || id >= t->t.dim[0]) raise_range(L, "add_at: token id", id, 0, t->t.dim[0] - 1);
    return in_place(L, fl_array_apply_at(t, FL_MAP_ADD, id, v, &err), &err);
}

/* t:mask_fill(mask, value): where a tensor is not 0, or at the listed (flat) indices */
static int l_mask_fill(lua_State *L) {
    fl_err err;
    fl_array *t = fl_tensor_check(L, 1);
    double value = fl_check_number(L, 3);
    if (!lua_istable(L, 2)) {
        const fl_array *mask = fl_tensor_check_beside(L, 2, t);
        return in_place(L, fl_array_apply(t, FL_MAP_FILL, mask, value, &err), &err);
    }
    const int64_t total = fl_array_numel(t);
    int rc = fl_array_writable(t, &err);
    for (int pass = 0; pass < 2 && !rc; pass++) { /* nothing changes when an index is wrong */
        for (int i = 1; i <= (int)lua_rawlen(L, 2) && !rc; i++) {
            lua_rawgeti(L, 2, i);
            int64_t at = fl_check_int(L, -1);
            lua_pop(L, 1);
            if (at < 1 || at > total) raise_range(L, "mask_fill: index", at, 1, total);
            if (pass) rc = fl_array_apply_at(t, FL_MAP_COPY, at - 1, value, &err);
        }
    }
    return in_place(L, rc, &err);
}

static void destroy(void *t) {
    fl_array_free(t);
}

void fl_register_tensor(lua_State *L) {
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
                                       {"quantize", fl_l_quantize},
                                       {"dequantize", fl_l_dequantize},
                                       {"linear", fl_l_linear},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"tensor", l_tensor}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_TENSOR, destroy, describe};
    fl_class(L, &type, methods, meta);
    fl_set_functions(L, functions);
}
