/* l_tensor.h - tensors for the other class files.  To return one:
 *
 *     fl_host_tensor **box = fl_tensor_box_new(L);
 *     if (fl_host_tensor_view(box, &shape, &keep, &err)) return fl_push_err(L, &err);
 *     return 1; */
#ifndef FL_BINDING_L_TENSOR_H
#define FL_BINDING_L_TENSOR_H

#include "backend/host_tensor.h"
#include "binding/binding.h"
#include "formats/safetensors.h"

static inline fl_host_tensor **fl_tensor_box_new(lua_State *L) {
    return (fl_host_tensor **)fl_box_new(L, FL_MT_TENSOR);
}
/* The tensor at idx, which is in host memory; anything else raises. */
fl_host_tensor *fl_tensor_check(lua_State *L, int idx);
/* A vector of f32 at idx, else raises. */
fl_host_tensor *fl_tensor_check_row(lua_State *L, int idx);

fl_dtype fl_check_dtype(lua_State *L, int idx);         /* "f32", "bf16", "f16", "e4m3", "i32" */
const char *fl_lua_dtype(fl_dtype dtype, char out[16]); /* "e4m3", "i64": as Lua spells it */

/* A read-only view of a tensor in a file; a copy when it is not aligned.  keep->release
 * must be set and counts as fl_host_tensor_view says (called at once after a copy). */
int fl_tensor_of_file(fl_host_tensor **out, const fl_st_tensor *st, const fl_keep *keep,
                      fl_err *err);

/* Methods in l_tensor_fp8.c, listed in the class by l_tensor.c. */
int fl_l_quantize(lua_State *L);
int fl_l_dequantize(lua_State *L);
int fl_l_linear(lua_State *L);
/* linear of the host tensors at 1 and 2 with the options at 3, on that backend: 1, or 3 values of
 * an error. */
int fl_tensor_linear(lua_State *L, const fl_backend_ops *ops, fl_backend *be);
fl_quant_scheme fl_tensor_quant_scheme(lua_State *L, int opts);

/* l_device_tensor.c: t on the device of that name, or an error; the device of the tensor at idx,
 * NULL when it is on the host or no tensor. */
int fl_tensor_to_device(lua_State *L, const fl_host_tensor *t, const char *name);
const char *fl_device_tensor_test(lua_State *L, int idx);

/* What both kinds of tensors read and push. */
void fl_tensor_account(lua_State *L, const fl_tensor *t); /* a new one: the collector counts it */
void fl_tensor_push_shape(lua_State *L, const fl_tensor *t);
void fl_tensor_push_element(lua_State *L, fl_dtype dtype, double v);
/* The element that arguments 2, 3, ... name: one index for each dimension. */
int64_t fl_tensor_check_index(lua_State *L, const fl_tensor *t, int n_args);
void fl_tensor_check_id(lua_State *L, const fl_tensor *t, int64_t id); /* of add_at */
/* Entry i of the list of flat indices at idx, from 0. */
int64_t fl_tensor_list_index(lua_State *L, int idx, int i, int64_t total);

#endif
