/* l_tensor.h - tensors for the other class files.  To return one:
 *
 *     fl_array **box = fl_tensor_box_new(L);
 *     if (fl_array_view(box, &shape, &keep, &err)) return fl_push_err(L, &err);
 *     return 1; */
#ifndef FL_BINDING_L_TENSOR_H
#define FL_BINDING_L_TENSOR_H

#include "backend/array.h"
#include "binding/binding.h"
#include "formats/safetensors.h"

static inline fl_array **fl_tensor_box_new(lua_State *L) {
    return (fl_array **)fl_box_new(L, FL_MT_TENSOR);
}
/* The tensor at idx; anything else raises. */
fl_array *fl_tensor_check(lua_State *L, int idx);
/* The same for one on the device of t. */
fl_array *fl_tensor_check_beside(lua_State *L, int idx, const fl_array *t);
/* A vector of f32 in host memory at idx, else raises. */
fl_array *fl_tensor_check_row(lua_State *L, int idx);

fl_dtype fl_check_dtype(lua_State *L, int idx);         /* "f32", "bf16", "f16", "e4m3", "i32" */
const char *fl_lua_dtype(fl_dtype dtype, char out[16]); /* "e4m3", "i64": as Lua spells it */

/* The tensor in *box, on top of the stack, as the result of a method that made its storage (the
 * collector is told of memory it cannot see); or the error. */
int fl_tensor_result(lua_State *L, int rc, fl_array *const *box, const fl_err *err);

/* A read-only copy of a tensor in a file, whose data the caller checks (fl_safetensors_check). */
int fl_tensor_of_file(fl_array **out, const fl_st_tensor *st, fl_err *err);

/* Methods in l_tensor_fp8.c, listed in the class by l_tensor.c. */
int fl_l_quantize(lua_State *L);
int fl_l_dequantize(lua_State *L);
int fl_l_linear(lua_State *L);

/* l_devices.c: the open device called "cpu", "cuda" or "cuda:N", one for each Lua state, which keeps
 * it. */
int fl_find_device(lua_State *L, const char *name, fl_device **out, fl_err *err);

#endif
