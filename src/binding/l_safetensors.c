/* .safetensors files.  Tensors are copies: a file may change while its mapping is read, and what is
 * handed out must not. */
#include <stdio.h>
#include <string.h>

#include "binding/l_tensor.h"
#include "util/mem.h"

typedef struct file {
    fl_safetensors *st;
    char *path;
} file;

static void destroy(void *object) {
    file *f = object;
    fl_safetensors_close(f->st);
    fl_free(f->path);
    fl_free(f);
}

static int file_open(file **out, const char *path, fl_err *err) {
    file *f = fl_alloc(sizeof(*f));
    if (!f) return fl_fail(err, FL_E_NOMEM, "%s", path);
    int rc = (f->path = fl_strdup(path)) ? fl_safetensors_open(&f->st, path, err)
                                         : fl_fail(err, FL_E_NOMEM, "%s", path);
    if (rc)
        destroy(f);
    else
        *out = f;
    return rc;
}

int fl_tensor_of_file(fl_array **out, const fl_st_tensor *st, fl_err *err) {
    fl_tensor t = {.dtype = st->dtype, .ndim = st->ndim};
    if (st->ndim > FL_MAX_DIMS)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: %d dimensions, tensors have at most %d",
                       st->file, st->name, (int)st->ndim, FL_MAX_DIMS);
    memcpy(t.dim, st->dim, (size_t)st->ndim * sizeof(*t.dim));
    const fl_keep keep = {fl_free_aligned, fl_alloc_aligned((size_t)st->bytes + 1, 64), true};
    if (!keep.ctx)
        return fl_fail(err, FL_E_NOMEM, "%s: %s: %llu bytes", st->file, st->name,
                       (unsigned long long)st->bytes);
    memcpy(keep.ctx, st->data, (size_t)st->bytes);
    t.data = keep.ctx;
    int rc = fl_array_view(out, &t, &keep, err);
    if (!rc) return FL_OK;
    fl_free_aligned(keep.ctx);
    return fl_fail_in(err, "%s: %s: ", st->file, st->name);
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
    int rc = fl_safetensors_check(f->st, fl_tensor_of_file(box, st, &err), &err);
    return fl_tensor_result(L, rc, box, &err);
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

static void describe(void *object, char out[FL_DESCRIPTION]) {
    const file *f = object;
    snprintf(out, FL_DESCRIPTION, "%.200s, %zu tensors", f->path, fl_safetensors_count(f->st));
}

void fl_register_safetensors(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"tensor", l_file_tensor}, {"names", l_names}, {"info", l_info}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"safetensors", l_safetensors}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_SAFETENSORS, destroy, describe};
    fl_class(L, &type, methods, meta);
    fl_set_functions(L, functions);
}
