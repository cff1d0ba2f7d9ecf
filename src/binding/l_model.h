/* l_model.h - what the files of the model and sequence classes share. */
#ifndef FL_BINDING_L_MODEL_H
#define FL_BINDING_L_MODEL_H

#include "binding/binding.h"
#include "model/model.h"
#include "text/tokenizer.h"

fl_model *fl_check_model(lua_State *L, int idx); /* raises on wrong type or closed */
/* The model's tokenizer, loaded on first use and kept; borrowed. */
int fl_model_tokenizer(lua_State *L, int idx, fl_tokenizer **out, fl_err *err);

/* The box at idx, of a sequence or an engine, is closed with the model.  Runs the collector. */
void fl_model_child(lua_State *L, int idx, fl_model *m);

int fl_l_sequence_new(lua_State *L); /* model:sequence() */
int fl_l_score(lua_State *L);        /* model:score(context, choices) */

/* The table of model:config(). */
void fl_push_config(lua_State *L, const fl_config *c);

#endif
