/* fp8llm.devices(): what fp8llm.load can run on here; and the devices that tensors are on. */
#include <stdio.h>

#include "binding/l_tensor.h"

#define FL_MT_DEVICE "fp8llm.device"
#define OPEN_DEVICES "fp8llm.devices"

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

static void destroy(void *device) {
    fl_device_unref(device);
}

int fl_find_device(lua_State *L, const char *name, fl_device **out, fl_err *err) {
    const fl_backend_ops *ops;
    const int top = lua_gettop(L);
    int ordinal, rc = fl_backend_device(&ops, &ordinal, name, err);
    if (rc) return rc;
    lua_getfield(L, LUA_REGISTRYINDEX, OPEN_DEVICES);
    lua_pushfstring(L, "%s:%d", ops->name, ordinal);
    lua_pushvalue(L, -1);
    lua_rawget(L, top + 1);
    void **box = lua_touserdata(L, -1);
    if (!box) {
        lua_pop(L, 1);
        box = fl_box_new(L, FL_MT_DEVICE);
        if ((rc = fl_device_open((fl_device **)box, ops, ordinal, err))) return rc;
        lua_rawset(L, top + 1);
    }
    *out = *box;
    lua_settop(L, top);
    return FL_OK;
}

static const luaL_Reg functions[] = {{"devices", l_devices}, {NULL, NULL}};

void fl_register_devices(lua_State *L) {
    fl_set_functions(L, functions);
    static const fl_class_type type = {FL_MT_DEVICE, destroy, NULL};
    fl_class(L, &type, NULL, NULL);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, OPEN_DEVICES);
}
