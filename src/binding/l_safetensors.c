/* .safetensors files.  Tensors are read-only views of the mapped file and keep it mapped
 * after close(). */
#include <stdatomic.h>
#include <string.h>

#include "binding/l_tensor.h"
#include "util/mem.h"

typedef struct file {
    atomic_int refs;
    fl_safetensors *st;
    char *path;
} file;

static void file_unref(void *ctx) {
    file *f = ctx;
    if (!f || atomic_fetch_sub(&f->refs, 1) > 1) return;
    fl_safetensors_close(f->st);
    fl_free(f->path);
    fl_free(f);
}

static int file_open(file **out, const char *path, fl_err *err) {
    file *f = fl_alloc(sizeof(*f));
    if (!f) return fl_fail(err, FL_E_NOMEM, "%s", path);
    atomic_init(&f->refs, 1);
    int rc = (f->path = fl_strdup(path)) ? fl_safetensors_open(&f->st, path, err)
                                         : fl_fail(err, FL_E_NOMEM, "%s", path);
    if (rc)
        file_unref(f);
    else
        *out = f;
    return rc;
}

int fl_tensor_of_file(fl_array **out, const fl_st_tensor *st, const fl_keep *keep, fl_err *err) {
    fl_tensor t = {.data = (void *)(uintptr_t)st->data, .dtype = st->dtype, .ndim = st->ndim};
    int rc;
    if (st->ndim > FL_MAX_DIMS)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: %d dimensions, tensors have at most %d",
                       st->file, st->name, (int)st->ndim, FL_MAX_DIMS);
    memcpy(t.dim, st->dim, (size_t)st->ndim * sizeof(*t.dim));
    int64_t align = fl_array_dtype_ok(st->dtype) ? fl_dtype_bytes(st->dtype) : 1;
    if ((uintptr_t)st->data % (uintptr_t)align) {
        if (!(rc = fl_array_new(out, NULL, t.dtype, t.dim, t.ndim, err))) {
            memcpy((*out)->t.data, st->data, (size_t)st->bytes);
            keep->release(keep->ctx);
        }
    } else {
        rc = fl_array_view(out, &t, keep, err);
    }
    if (rc) fl_fail_in(err, "%s: %s: ", st->file, st->name);
    return rc;
}

/* fp8llm.safetensors(path) */
static int l_safetensors(lua_State *L) {
    fl_err err;
    const char *path = fl_check_string(L, 1);
    file **box = (file **)fl_box_new(L, FL_MT_SAFETENSORS);
    if (file_open(box, path, &err)) return fl_push_err(L, &err);
    return 1;
}

static const fl_st_tensor *find(lua_State *L, file **f, fl_err *err) {
    const char *name = fl_check_string(L, 2);
    *f = fl_box_check(L, 1, FL_MT_SAFETENSORS);
    const fl_st_tensor *st = fl_safetensors_find((*f)->st, name);
    if (!st) fl_fail(err, FL_E_ARG, "%s: no tensor '%s'", (*f)->path, name);
    return st;
}

static int l_file_tensor(lua_State *L) {
    fl_err err;
    file *f;
    fl_check_string(L, 2);
    fl_array **box = fl_tensor_box_new(L);
    const fl_st_tensor *st = find(L, &f, &err);
    if (!st) return fl_push_err(L, &err);
    atomic_fetch_add(&f->refs, 1);
    fl_keep keep = {file_unref, f, true};
    if (fl_tensor_of_file(box, st, &keep, &err)) {
        file_unref(f);
        return fl_push_err(L, &err);
    }
    return 1;
}

static int l_names(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_SAFETENSORS);
    const file *f = c->object;
    size_t n = fl_safetensors_count(f->st);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushstring(L, fl_safetensors_at(f->st, i)->name);
        lua_rawseti(L, -2, (int)i + 1);
    }
    fl_call_end(c);
    return 1;
}

/* st:info(name) -> {dtype = "e4m3", shape = {...}, file = base name} */
static int l_info(lua_State *L) {
    fl_err err;
    char dtype[16];
    file *f;
    fl_check_string(L, 2);
    fl_call *c = fl_call_begin(L, 1, FL_MT_SAFETENSORS);
    const fl_st_tensor *st = find(L, &f, &err);
    if (!st) return fl_push_err(L, &err);
    lua_createtable(L, 0, 3);
    lua_pushstring(L, fl_lua_dtype(st->dtype, dtype));
    lua_setfield(L, -2, "dtype");
    lua_pushstring(L, st->file);
    lua_setfield(L, -2, "file");
    lua_createtable(L, st->ndim, 0);
    for (int i = 0; i < st->ndim; i++) {
        lua_pushinteger(L, (lua_Integer)st->dim[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
    fl_call_end(c);
    return 1;
}

static int l_len(lua_State *L) {
    const file *f = fl_box_check(L, 1, FL_MT_SAFETENSORS);
    lua_pushinteger(L, (lua_Integer)fl_safetensors_count(f->st));
    return 1;
}

void fl_register_safetensors(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"tensor", l_file_tensor}, {"names", l_names}, {"info", l_info}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"safetensors", l_safetensors}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_SAFETENSORS, file_unref};
    fl_class(L, &type, methods, meta);
    fl_set_functions(L, functions);
}
