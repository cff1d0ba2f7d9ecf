/* binding.h - what every userdata class of the Lua module shares.
 *
 * Rules: create the box first, then fill it (Lua may raise at any push); a wrong
 * argument type raises; everything the world can cause returns nil, message, "CODE".
 * No C thread calls Lua.
 *
 * Code of the caller's may run in the middle of a method: an __index where an option is read, and
 * a finalizer where anything is made in Lua (a string, a table, a userdata), since that may run the
 * collector.  It may close any object or use it for something else.  So a method either takes its
 * objects (fl_box_check) when all arguments have been read and everything has been made, and pushes
 * nothing but numbers and booleans after that; or it holds its object with an fl_call, which also
 * owns what the method is about to push. */
#ifndef FL_BINDING_BINDING_H
#define FL_BINDING_BINDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "binding/compat.h"
#include "engine/request.h"
#include "text/tokenizer.h"
#include "util/bytes.h"
#include "util/err.h"
#include "util/mem.h"

#define FL_MT_MODEL       "fp8llm.model"
#define FL_MT_SEQUENCE    "fp8llm.sequence"
#define FL_MT_TOKENIZER   "fp8llm.tokenizer"
#define FL_MT_STREAM      "fp8llm.stream"
#define FL_MT_TEMPLATE    "fp8llm.template"
#define FL_MT_SAMPLER     "fp8llm.sampler"
#define FL_MT_TENSOR      "fp8llm.tensor"
#define FL_MT_SAFETENSORS "fp8llm.safetensors"

enum { FL_DESCRIPTION = 256 };

typedef struct fl_class_type {
    const char *name;              /* of the metatable in the registry */
    void (*destroy)(void *object); /* NULL: no close, and a __gc of its own; no fl_call either */
    /* What tostring says of an open object behind the name of its class; NULL: nothing more. */
    void (*describe)(void *object, char out[FL_DESCRIPTION]);
} fl_class_type;

/* A box is a full userdata holding one object, NULL until it exists and again after close().
 * fl_box_new pushes it; where the result points is written when the object exists. */
void **fl_box_new(lua_State *L, const char *mt);
void *fl_box_check(lua_State *L, int idx, const char *mt); /* raises on wrong type or closed */
void **fl_box_raw(lua_State *L, int idx, const char *mt);  /* may hold NULL */
void *fl_box_test(lua_State *L, int idx, const char *mt);  /* NULL: another type or closed */
/* Empty the box at idx, if it holds anything: the object is destroyed now, or with the last call
 * that holds it. */
void fl_box_close(lua_State *L, int idx, const char *mt);
void fl_box_empty(void *userdata); /* the same for any box */

/* One call of a method: it keeps the object of the box at idx alive, closed or not, and frees what
 * it owns.  fl_call_begin pushes it and raises as fl_box_check does; fl_call_end ends it, and where
 * an error or an early return passes that by, the collector does. */
typedef struct fl_call {
    void *object;
    fl_arena arena;
    fl_bytes text, bits;
    fl_ids ids;
    fl_update update;
    const fl_class_type *type;     /* of the object */
    struct fl_box *box;            /* NULL: closed meanwhile */
    struct fl_call *next, *before; /* a ring of all calls that hold the object */
} fl_call;
fl_call *fl_call_begin(lua_State *L, int idx, const char *mt);
void fl_call_end(fl_call *c);

/* A whole number below 2^53 as an integer, which Lua 5.3 and 5.4 tell from 5.0. */
void fl_push_number(lua_State *L, double v);
/* Members of the table on top of the stack. */
void fl_set_number(lua_State *L, const char *key, double v);
void fl_set_string(lua_State *L, const char *key, const char *v);
void fl_set_bool(lua_State *L, const char *key, bool v);

int fl_push_err(lua_State *L, const fl_err *err); /* nil, message, "CODE"; returns 3 */

/* Create the metatable of a class: methods through __index, close among them unless they bring one,
 * __gc, and other metamethods (may be NULL) set directly.  methods NULL: only __gc, for objects that
 * callers never see.  type: static. */
void fl_class(lua_State *L, const fl_class_type *type, const luaL_Reg *methods,
              const luaL_Reg *meta);
/* Add functions of the module to the table on top of the stack. */
void fl_set_functions(lua_State *L, const luaL_Reg *functions);
/* Push any other function: name as users know it, "request:pieces". */
void fl_push_function(lua_State *L, lua_CFunction fn, const char *name);
const char *fl_class_name(const char *mt); /* "fp8llm.model" -> "model" */

/* Raising (raise.c).  What is wrong in the caller's program raises, and the message begins with where
 * and with the name of the function, which each function of ours has as its first upvalue.  These
 * return never; int is for `return`. */
int fl_raise(lua_State *L, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fl_arg_error(lua_State *L, int idx, const char *what); /* idx counts the self of a method */
/* Arguments: of exactly that type, or they raise. */
void fl_check_type(lua_State *L, int idx, int type);
const char *fl_check_text(lua_State *L, int idx, size_t *n); /* any bytes */
double fl_check_number(lua_State *L, int idx);
bool fl_check_bool(lua_State *L, int idx, bool absent); /* nil or none: `absent` */
void *fl_check_udata(lua_State *L, int idx, const char *mt);
/* Which of the words (NULL-terminated) it is; nil or none: `absent`. */
int fl_check_option(lua_State *L, int idx, const char *absent, const char *const *words);

/* Members of the options table at idx (nil or none: all absent); an __index of the caller's may run,
 * see above.  Wrong types raise and name the member; absent members leave *out alone and return
 * false. */
bool fl_opt_number(lua_State *L, int idx, const char *key, double *out);
bool fl_opt_int(lua_State *L, int idx, const char *key, int64_t *out); /* must be whole */
bool fl_opt_bool(lua_State *L, int idx, const char *key, bool *out);
/* Leaves the string on the stack, so that it lives as long as the method runs; one with a NUL in it
 * raises. */
bool fl_opt_string(lua_State *L, int idx, const char *key, const char **out);
/* gpu_memory_utilization, in (0,1], and threads, 0 to 4096: else FL_E_ARG. */
int fl_opt_gpu_part(lua_State *L, int idx, double *out, fl_err *err);
int fl_opt_threads(lua_State *L, int idx, int *out, fl_err *err);
/* Push member `key`, or nothing when it is absent (false). */
bool fl_opt_push(lua_State *L, int idx, const char *key);
/* Raise on members of the table that are not in `known` (NULL-terminated). */
void fl_opt_only(lua_State *L, int idx, const char *const *known);

const char *fl_check_string(lua_State *L, int idx); /* one with a NUL in it raises */
int64_t fl_check_int(lua_State *L, int idx);        /* a whole number, else raises */
/* Sequence of integers at idx -> userdata block pushed on the stack (so that Lua frees it),
 * *n elements.  Raises on anything else. */
int32_t *fl_check_ids(lua_State *L, int idx, size_t *n);
void fl_push_ids(lua_State *L, const int32_t *ids, size_t n);
/* List of at most `most` strings at idx, called `what` in errors -> a NULL-terminated array, which with
 * its strings lives in a userdata pushed on the stack; *n of them.  Raises on anything else. */
const char **fl_check_strings(lua_State *L, int idx, const char *what, size_t most, size_t *n);

/* The name of a model at idx, a string that names something on the disk or org/name of the hub's
 * cache, becomes its directory; false: nil, message, code are pushed.  Runs Lua (lua/fp8llm/hub.lua). */
bool fl_find_model(lua_State *L, int idx);

/* Push a tokenizer object with a new reference to t; raises when there is no memory.  The caller
 * holds t. */
void fl_push_tokenizer(lua_State *L, fl_tokenizer *t);
fl_tokenizer *fl_check_tokenizer(lua_State *L, int idx); /* raises; not owned */

/* Push a template object for the chat template called `name` (NULL: the default), with the
 * tokenizer, which the caller holds; or nil, message, code.  Returns the number of results. */
int fl_push_template(lua_State *L, fl_tokenizer *t, const char *name);

/* One per class file, after fl_register_calls; the module table is on top of the stack. */
void fl_register_calls(lua_State *L);
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
void fl_register_stream(lua_State *L);

#endif
