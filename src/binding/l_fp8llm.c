/* The module table: require "fp8llm". */
#include "binding/binding.h"
#include "binding/l_engine.h"
#include "util/mem.h"
#include "util/version.h"

/* fp8llm._live() -> C blocks alive, for leak tests. */
static int l_live(lua_State *L) {
    fl_push_number(L, (double)fl_mem_live());
    return 1;
}

static const luaL_Reg functions[] = {{"_live", l_live}, {NULL, NULL}};

int luaopen_fp8llm(lua_State *L);

__attribute__((visibility("default"))) int luaopen_fp8llm(lua_State *L) {
    lua_newtable(L);
    fl_set_functions(L, functions);
    fl_register_calls(L);
    fl_register_measure(L);
    fl_register_schedule(L);
    fl_register_model(L);
    fl_register_sequence(L);
    fl_register_describe(L);
    fl_register_devices(L);
    fl_register_engine(L);
    fl_register_request(L);
    fl_register_step(L);
    fl_register_exchange(L);
    fl_register_quantize(L);
    fl_register_tokenizer(L);
    fl_register_template(L);
    fl_register_tensor(L);
    fl_register_safetensors(L);
    fl_register_sampler(L);
    fl_register_supervise(L);
    fl_register_stream(L);
    lua_pushliteral(L, FL_VERSION);
    lua_setfield(L, -2, "_VERSION");
    return 1;
}
