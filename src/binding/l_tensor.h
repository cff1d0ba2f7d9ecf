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
static inline fl_host_tensor *fl_tensor_check(lua_State *L, int idx) {
    return fl_box_check(L, idx, FL_MT_TENSOR);
}
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

#endif
