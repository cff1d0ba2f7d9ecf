/* fp8llm.devices(): what fp8llm.load can run on here. */
#include "backend/backend.h"
#include "binding/binding.h"

static void push_device(lua_State *L, const char *device, const fl_backend_info *info) {
    lua_createtable(L, 0, 4);
    lua_pushstring(L, device);
    lua_setfield(L, -2, "device");
    lua_pushstring(L, info->name);
    lua_setfield(L, -2, "name");
    fl_push_number(L, (double)info->mem_free);
    lua_setfield(L, -2, "mem_free");
    fl_push_number(L, (double)info->mem_total);
    lua_setfield(L, -2, "mem_total");
}

/* fp8llm.devices() -> { {device="cpu", name=..., mem_free=bytes, mem_total=bytes}, ... } */
static int l_devices(lua_State *L) {
    static const char *const kinds[] = {"cpu", "cuda"};
    int n = 0;
    lua_newtable(L);
    for (int i = 0; i < 2; i++) {
        const fl_backend_ops *ops;
        const fl_backend_params p = {.max_rows = 1};
        fl_backend *be;
        fl_backend_info info;
        if (fl_backend_find(&ops, kinds[i], NULL) || ops->open(&be, &p, NULL)) continue;
        ops->info(be, &info);
        ops->close(be);
        push_device(L, kinds[i], &info);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static const luaL_Reg functions[] = {{"devices", l_devices}, {NULL, NULL}};

void fl_register_devices(lua_State *L) {
    fl_set_functions(L, functions);
}
