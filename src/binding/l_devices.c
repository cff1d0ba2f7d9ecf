/* fp8llm.devices(): what fp8llm.load can run on here. */
#include <stdio.h>

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

enum { MAX_DEVICES = 16 };

static int look_at(const fl_backend_ops *ops, int ordinal, fl_backend_info *info) {
    const fl_backend_params p = {.device = ordinal, .max_rows = 1};
    fl_backend *be;
    int rc = ops->open(&be, &p, NULL);
    if (rc) return rc;
    ops->info(be, info);
    ops->close(be);
    return FL_OK;
}

/* fp8llm.devices() -> { {device="cpu", name=..., mem_free=bytes, mem_total=bytes}, ... } */
static int l_devices(lua_State *L) {
    const fl_backend_ops *ops;
    fl_backend_info info;
    int n = 0;
    lua_newtable(L);
    if (!fl_backend_find(&ops, "cpu", NULL) && !look_at(ops, 0, &info)) {
        push_device(L, "cpu", &info);
        lua_rawseti(L, -2, ++n);
    }
    if (fl_backend_find(&ops, "cuda", NULL)) return 1;
    for (int i = 0; i < MAX_DEVICES; i++) {
        char device[32];
        if (look_at(ops, i, &info)) continue; /* not there, too old, or without memory left */
        snprintf(device, sizeof(device), "cuda:%d", i);
        push_device(L, device, &info);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static const luaL_Reg functions[] = {{"devices", l_devices}, {NULL, NULL}};

void fl_register_devices(lua_State *L) {
    fl_set_functions(L, functions);
}
