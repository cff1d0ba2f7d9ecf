/* binding.h - what every userdata class of the Lua module shares.
 *
 * Rules: create the box first, then fill it (Lua may raise at any push); a wrong
 * argument type raises; everything the world can cause returns nil, message, "CODE".
 * No C thread calls Lua. */
#ifndef FL_BINDING_BINDING_H
#define FL_BINDING_BINDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "binding/compat.h"
#include "util/err.h"

#define FL_MT_MODEL       "fp8llm.model"
#define FL_MT_SEQUENCE    "fp8llm.sequence"
#define FL_MT_TOKENIZER   "fp8llm.tokenizer"
#define FL_MT_STREAM      "fp8llm.stream"
#define FL_MT_TEMPLATE    "fp8llm.template"
#define FL_MT_SAMPLER     "fp8llm.sampler"
#define FL_MT_TENSOR      "fp8llm.tensor"
#define FL_MT_SAFETENSORS "fp8llm.safetensors"

struct fl_tokenizer;

/* A box is a full userdata holding one pointer, NULL until the object exists and again
 * after close().  fl_box_new pushes it. */
void **fl_box_new(lua_State *L, const char *mt);
void *fl_box_check(lua_State *L, int idx, const char *mt); /* raises on wrong type or closed */
void **fl_box_raw(lua_State *L, int idx, const char *mt);  /* for close and __gc: may hold NULL */
void *fl_box_test(lua_State *L, int idx, const char *mt);  /* NULL: another type or closed */

/* A whole number below 2^53 as an integer, which Lua 5.3 and 5.4 tell from 5.0. */
void fl_push_number(lua_State *L, double v);
/* Members of the table on top of the stack. */
void fl_set_number(lua_State *L, const char *key, double v);
void fl_set_string(lua_State *L, const char *key, const char *v);
void fl_set_bool(lua_State *L, const char *key, bool v);

int fl_push_err(lua_State *L, const fl_err *err); /* nil, message, "CODE"; returns 3 */

/* Create metatable mt: methods through __index, __gc = gc, and other metamethods (may be
 * NULL) set directly. */
void fl_class(lua_State *L, const char *mt, const luaL_Reg *methods, const luaL_Reg *meta,
              lua_CFunction gc);
/* Add functions to the table on top of the stack. */
void fl_set_functions(lua_State *L, const luaL_Reg *functions);

/* Members of the options table at idx (nil or none: all absent).  Wrong types raise and
 * name the member; absent members leave *out alone and return false. */
bool fl_opt_number(lua_State *L, int idx, const char *key, double *out);
bool fl_opt_int(lua_State *L, int idx, const char *key, int64_t *out); /* must be whole */
bool fl_opt_bool(lua_State *L, int idx, const char *key, bool *out);
/* *out lives as long as the table keeps the string. */
bool fl_opt_string(lua_State *L, int idx, const char *key, const char **out);
/* gpu_memory_utilization, in (0,1] */
void fl_opt_gpu_part(lua_State *L, int idx, double *out);
/* Raise on members of the table that are not in `known` (NULL-terminated). */
void fl_opt_only(lua_State *L, int idx, const char *const *known);

int64_t fl_check_int(lua_State *L, int idx); /* a whole number, else raises */
/* Sequence of integers at idx -> userdata block pushed on the stack (so that Lua frees it),
 * *n elements.  Raises on anything else. */
int32_t *fl_check_ids(lua_State *L, int idx, size_t *n);
void fl_push_ids(lua_State *L, const int32_t *ids, size_t n);

/* Push a tokenizer object with a new reference to t; raises when there is no memory. */
void fl_push_tokenizer(lua_State *L, struct fl_tokenizer *t);
struct fl_tokenizer *fl_check_tokenizer(lua_State *L, int idx); /* raises; not owned */

/* Push a template object for the chat template called `name` (NULL: the default), with the
 * tokenizer; or nil, message, code.  Returns the number of results. */
int fl_push_template(lua_State *L, struct fl_tokenizer *t, const char *name);

/* One per class file; the module table is on top of the stack. */
void fl_register_model(lua_State *L);
void fl_register_sequence(lua_State *L);
void fl_register_tokenizer(lua_State *L);
void fl_register_template(lua_State *L);
void fl_register_sampler(lua_State *L);
void fl_register_tensor(lua_State *L);
void fl_register_safetensors(lua_State *L);
void fl_register_quantize(lua_State *L);
void fl_register_devices(lua_State *L);
void fl_register_measure(lua_State *L);
void fl_register_describe(lua_State *L);
void fl_register_schedule(lua_State *L);
void fl_register_supervise(lua_State *L);

#endif
