/* l_engine.h - what the files of the engine, request and step classes share. */
#ifndef FL_BINDING_L_ENGINE_H
#define FL_BINDING_L_ENGINE_H

#include "binding/binding.h"
#include "engine/engine.h"

#define FL_MT_ENGINE   "fp8llm.engine"
#define FL_MT_REQUEST  "fp8llm.request"
#define FL_MT_EXCHANGE "fp8llm.exchange"
#define FL_MT_STEP     "fp8llm.step"

fl_engine *fl_check_engine(lua_State *L, int idx);

/* What a request's box holds, made before the request so that nothing is lost. */
void *fl_l_request_state(fl_err *err);
void fl_l_request_fill(void *state, fl_request *r); /* takes over the reference */

typedef enum { FL_REQUEST_OWN, FL_REQUEST_COMPLETION, FL_REQUEST_CHAT } fl_request_kind;
extern const char *const fl_request_kinds[]; /* their names, NULL-terminated */
/* Whether the table at idx has known fields of the right types only; else what is wrong. */
bool fl_request_fits(lua_State *L, int idx, fl_request_kind kind, char out[FL_DESCRIPTION]);
int fl_l_misuse(lua_State *L); /* fp8llm._misuse(request, kind) */

int fl_l_engine_new(lua_State *L);    /* model:engine{...} */
int fl_l_engine_steps(lua_State *L);  /* eng:steps() */
int fl_l_request_steps(lua_State *L); /* req:steps() */
fl_request *fl_check_request(lua_State *L, int idx);

void fl_register_engine(lua_State *L);
void fl_register_request(lua_State *L);
void fl_register_step(lua_State *L);
void fl_register_exchange(lua_State *L);

#endif
