/* fp8llm.describe(dir): what a checkpoint directory is, from its JSON files, the headers of its
 * weight files and its scales; no weight is read. */
#include <string.h>

#include "binding/binding.h"
#include "binding/l_model.h"
#include "formats/checkpoint.h"
#include "formats/inventory.h"
#include "formats/quant_check.h"
#include "formats/scale_summary.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/json.h"
#include "util/log.h"
#include "util/mem.h"

#define FL_MT_DESCRIPTION "fp8llm.description"

typedef struct description { /* in a box while Lua copies it, for Lua may raise */
    fl_config config;
    fl_quant_plan plan;
    fl_err refusal; /* why the plan is no plan; code FL_OK: it is one */
    bool chat_template;
    fl_checkpoint *checkpoint;
    fl_bytes warnings; /* each ended by NUL */
} description;

static void description_free(void *object) {
    description *d = object;
    if (!d) return;
    fl_checkpoint_close(d->checkpoint);
    fl_quant_plan_free(&d->plan);
    fl_bytes_free(&d->warnings);
    fl_free(d);
}

static void on_warning(void *ctx, fl_log_level level, const char *msg) {
    description *d = ctx;
    if (level <= FL_LOG_WARN) fl_bytes_put(&d->warnings, msg, strlen(msg) + 1);
}

/* A file of its own, or a member of tokenizer_config.json. */
static int find_template(description *d, const char *dir, fl_err *err) {
    enum { MAX_BYTES = 512 << 20 };
    fl_json *doc = NULL;
    char *file = fl_path_join(dir, "chat_template.jinja");
    char *config = fl_path_join(dir, "tokenizer_config.json");
    int rc = file && config ? FL_OK : fl_fail(err, FL_E_NOMEM, "%s", dir);
    if (!rc) d->chat_template = fl_file_exists(file);
    if (!rc && !d->chat_template && fl_file_exists(config) &&
        !fl_json_load(&doc, config, MAX_BYTES, NULL))
        d->chat_template = fl_json_get(fl_json_root(doc), "chat_template") != NULL;
    fl_json_free(doc);
    fl_free(file);
    fl_free(config);
    return rc;
}

static int read_files(description *d, const char *dir, fl_err *err) {
    fl_generation_config gen;
    int rc;
    if ((rc = fl_config_load(&d->config, &gen, dir, err)) || (rc = find_template(d, dir, err)))
        return rc;
    if (fl_quant_plan_load(&d->plan, dir, &d->refusal) == FL_E_NOMEM) {
        *err = d->refusal;
        return FL_E_NOMEM;
    }
    if ((rc = fl_checkpoint_open(&d->checkpoint, dir, err))) return rc;
    if (!d->refusal.code &&
        (rc = fl_inventory_take(d->checkpoint, &d->config, &d->plan, &d->refusal)) == FL_E_NOMEM) {
        *err = d->refusal;
        return rc;
    }
    if (!d->refusal.code) fl_quant_cross_check(d->checkpoint, &d->plan);
    if (d->warnings.failed) return fl_fail(err, FL_E_NOMEM, "%s: warnings", dir);
    return FL_OK;
}

static void push_plan(lua_State *L, const fl_quant_plan *p) {
    static const char *const act[] = {"none", "static", "token", "group"};
    lua_newtable(L);
    fl_set_string(L, "flavour", fl_quant_flavour_name(p->flavour));
    fl_set_string(L, "activations", p->mixed ? "mixed" : act[p->act]);
    fl_set_bool(L, "kv_fp8", p->kv_fp8);
    fl_set_bool(L, "declared_2of4", p->sparse24);
    if (p->act_scale_ub > 0) fl_set_number(L, "activation_scale_ub", p->act_scale_ub);
    if (!p->block_k) return;
    fl_set_number(L, "block_rows", (double)p->block_n);
    fl_set_number(L, "block_columns", (double)p->block_k);
}

static void push_summary(lua_State *L, const fl_scale_summary *s) {
    lua_createtable(L, 0, 6);
    fl_set_number(L, "min", s->min);
    fl_set_number(L, "median", s->median);
    fl_set_number(L, "max", s->max);
    fl_set_number(L, "count", (double)s->n);
    fl_set_number(L, "zeros", (double)s->zeros);
    fl_set_number(L, "broken", (double)s->broken);
}

/* Also reads what the tensor holds when it is a scale. */
static int push_tensor(lua_State *L, const description *d, const fl_st_tensor *t, fl_err *err) {
    fl_scale_summary s;
    const char *why;
    const bool scale = fl_is_scale(t);
    if (scale) {
        int rc = fl_scale_summarize(&s, t, err);
        if (rc) return rc;
    }
    lua_createtable(L, 0, 8);
    if (fl_tensor_use_of(d->checkpoint, &d->config, &d->plan, t, &why) != FL_TENSOR_READ)
        fl_set_string(L, "unused", why);
    fl_set_string(L, "name", t->name);
    fl_set_string(L, "file", t->file);
    fl_set_string(L, "dtype", fl_dtype_name(t->dtype));
    fl_set_number(L, "bytes", (double)t->bytes);
    lua_createtable(L, t->ndim, 0);
    for (int i = 0; i < t->ndim; i++) {
        lua_pushinteger(L, (lua_Integer)t->dim[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "shape");
    if (!scale) return FL_OK;
    push_summary(L, &s);
    lua_setfield(L, -2, "scale");
    return FL_OK;
}

static int push_tensors(lua_State *L, const description *d, fl_err *err) {
    const fl_checkpoint *ck = d->checkpoint;
    const size_t n = fl_checkpoint_count(ck);
    /* Of a file of many gigabytes a few scales are read: not what lies beside them. */
    for (size_t i = 0; i < n; i++)
        fl_file_no_readahead(fl_checkpoint_at(ck, i)->data, (size_t)fl_checkpoint_at(ck, i)->bytes);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        int rc = push_tensor(L, d, fl_checkpoint_at(ck, i), err);
        if (rc) return rc;
        lua_rawseti(L, -2, (int)i + 1);
    }
    return FL_OK;
}

static void push_warnings(lua_State *L, const fl_bytes *b) {
    int n = 0;
    lua_newtable(L);
    for (size_t at = 0; at < b->len; at += strlen(b->data + at) + 1) {
        lua_pushstring(L, b->data + at);
        lua_rawseti(L, -2, ++n);
    }
}

/* fp8llm.describe(dir) -> table | nil, message, CODE */
static int l_describe(lua_State *L) {
    if (!fl_find_model(L, 1)) return 3;
    const char *dir = lua_tostring(L, 1);
    fl_err err;
    int rc;
    void **box = fl_box_new(L, FL_MT_DESCRIPTION);
    description *d = *box = fl_alloc(sizeof(*d));
    if (!d) {
        fl_fail(&err, FL_E_NOMEM, "%s", dir);
        return fl_push_err(L, &err);
    }
    const int bottom = lua_gettop(L);
    fl_log_capture(on_warning, d);
    rc = read_files(d, dir, &err);
    fl_log_capture(NULL, NULL);
    if (rc) goto done;
    lua_newtable(L);
    fl_push_config(L, &d->config);
    lua_setfield(L, -2, "config");
    fl_set_string(L, "architecture", d->config.architecture);
    fl_set_bool(L, "chat_template", d->chat_template);
    push_plan(L, &d->plan);
    lua_setfield(L, -2, "quantization");
    if (d->refusal.code) fl_set_string(L, "refused", d->refusal.msg);
    push_warnings(L, &d->warnings);
    lua_setfield(L, -2, "warnings");
    if ((rc = fl_checkpoint_check(d->checkpoint, push_tensors(L, d, &err), &err))) goto done;
    lua_setfield(L, -2, "tensors");
done:
    *box = NULL;
    description_free(d);
    if (!rc) return 1;
    lua_settop(L, bottom);
    return fl_push_err(L, &err);
}

void fl_register_describe(lua_State *L) {
    static const luaL_Reg functions[] = {{"describe", l_describe}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_DESCRIPTION, description_free, NULL};
    fl_class(L, &type, NULL, NULL);
    fl_set_functions(L, functions);
}
