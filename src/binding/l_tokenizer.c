/* Classes tokenizer and stream. */
#include <stdio.h>
#include <string.h>

#include "binding/binding.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "util/mem.h"

/* ---- tokenizer ---- */

typedef struct tokenizer_box {
    fl_tokenizer *t;
    fl_tokenizer_ctx *ctx;
} tokenizer_box;

static void destroy(void *tokenizer) {
    tokenizer_box *b = tokenizer;
    fl_tokenizer_ctx_free(b->ctx);
    fl_tokenizer_unref(b->t);
    fl_free(b);
}

/* Takes over the reference to t, also when it fails. */
static int box_fill(void **box, fl_tokenizer *t, fl_err *err) {
    tokenizer_box *b = fl_alloc(sizeof(*b));
    if (!b) {
        fl_tokenizer_unref(t);
        return fl_fail(err, FL_E_NOMEM, "no memory for a tokenizer");
    }
    b->t = t;
    int rc = fl_tokenizer_ctx_new(&b->ctx, t, err);
    if (rc) {
        destroy(b);
    } else {
        *box = b;
    }
    return rc;
}

/* fp8llm.tokenizer(dir) -> tokenizer */
static int l_load(lua_State *L) {
    if (!fl_find_model(L, 1)) return 3;
    const char *dir = lua_tostring(L, 1);
    void **box = fl_box_new(L, FL_MT_TOKENIZER);
    fl_tokenizer *t;
    fl_err err;
    int rc = fl_tokenizer_load(&t, dir, &err);
    if (!rc) rc = box_fill(box, t, &err);
    return rc ? fl_push_err(L, &err) : 1;
}

void fl_push_tokenizer(lua_State *L, fl_tokenizer *t) {
    void **box = fl_box_new(L, FL_MT_TOKENIZER);
    fl_err err;
    if (box_fill(box, fl_tokenizer_ref(t), &err)) fl_raise(L, "%s", err.msg);
}

fl_tokenizer *fl_check_tokenizer(lua_State *L, int idx) {
    return ((tokenizer_box *)fl_box_check(L, idx, FL_MT_TOKENIZER))->t;
}

static tokenizer_box *check(lua_State *L) {
    return fl_box_check(L, 1, FL_MT_TOKENIZER);
}

/* One entry of the parse_special list on top of the stack; -1: not a token of ours. */
static int32_t special_entry(lua_State *L, const fl_tokenizer *t, int i) {
    if (lua_type(L, -1) == LUA_TSTRING) {
        size_t n;
        const char *s = lua_tolstring(L, -1, &n);
        return fl_tokenizer_id(t, s, n);
    }
    if (lua_type(L, -1) != LUA_TNUMBER)
        fl_raise(L, "option 'parse_special': entry %d: id or string expected, got %s", i,
                 luaL_typename(L, -1));
    int64_t id = fl_check_int(L, -1);
    return id >= 0 && id < fl_tokenizer_size(t) ? (int32_t)id : -1;
}

static int read_policy(const char *name, fl_special_policy *out, fl_err *err) {
    static const char *const names[] = {"none", "all", "reject"};
    static const fl_special_policy policies[] = {FL_SPECIAL_NONE, FL_SPECIAL_ALL,
                                                 FL_SPECIAL_REJECT};
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = policies[i];
        return FL_OK;
    }
    return fl_fail(err, FL_E_ARG, "parse_special: need none, all, reject or a list, got '%.60s'",
                   name);
}

/* parse_special = "none" | "all" | "reject" | {id or string, ...}; the list stays on the Lua
 * stack. */
static int read_special(lua_State *L, const fl_tokenizer *t, fl_encode_options *o, fl_err *err) {
    if (!fl_opt_push(L, 3, "parse_special")) return FL_OK;
    if (lua_type(L, -1) == LUA_TSTRING) return read_policy(lua_tostring(L, -1), &o->special, err);
    if (!lua_istable(L, -1))
        fl_raise(L, "option 'parse_special': string or list expected, got %s",
                 luaL_typename(L, -1));
    int list = lua_gettop(L);
    size_t n = lua_rawlen(L, list);
    int32_t *ids = lua_newuserdata(L, (n + 1) * sizeof(*ids));
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, list, (int)i + 1);
        ids[i] = special_entry(L, t, (int)i + 1);
        lua_pop(L, 1);
        if (ids[i] < 0)
            return fl_fail(err, FL_E_ARG, "parse_special: entry %d is not a token", (int)i + 1);
    }
    o->special = FL_SPECIAL_LIST;
    o->list = ids;
    o->n_list = n;
    return FL_OK;
}

/* tok:encode(text, {add_special_tokens=true, parse_special="none", strict=false}) -> ids */
static int l_encode(lua_State *L) {
    static const char *const known[] = {"add_special_tokens", "parse_special", "strict", NULL};
    size_t n;
    const char *text = fl_check_text(L, 2, &n);
    lua_settop(L, 3);
    fl_call *c = fl_call_begin(L, 1, FL_MT_TOKENIZER);
    const tokenizer_box *b = c->object;
    fl_encode_options o = {.add_special_tokens = true};
    fl_err err;
    fl_opt_only(L, 3, known);
    fl_opt_bool(L, 3, "add_special_tokens", &o.add_special_tokens);
    fl_opt_bool(L, 3, "strict", &o.strict);
    int rc = read_special(L, b->t, &o, &err);
    if (!rc) rc = fl_tokenizer_encode(b->t, b->ctx, text, n, &o, &c->ids, &err);
    if (!rc) fl_push_ids(L, c->ids.data, c->ids.len);
    fl_call_end(c);
    return rc ? fl_push_err(L, &err) : 1;
}

/* tok:decode(ids, {skip_special_tokens=false}) -> text */
static int l_decode(lua_State *L) {
    static const char *const known[] = {"skip_special_tokens", NULL};
    bool skip = false;
    size_t n;
    fl_err err;
    lua_settop(L, 3);
    fl_opt_only(L, 3, known);
    fl_opt_bool(L, 3, "skip_special_tokens", &skip);
    const int32_t *ids = fl_check_ids(L, 2, &n);
    fl_call *c = fl_call_begin(L, 1, FL_MT_TOKENIZER);
    int rc = fl_tokenizer_decode(check(L)->t, ids, n, skip, &c->text, &err);
    if (!rc) lua_pushlstring(L, c->text.data ? c->text.data : "", c->text.len);
    fl_call_end(c);
    return rc ? fl_push_err(L, &err) : 1;
}

static int push_id(lua_State *L, int32_t id) {
    if (id >= 0) {
        lua_pushinteger(L, id);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

/* tok:id(piece) -> id or nil */
static int l_id(lua_State *L) {
    size_t n;
    const char *s = fl_check_text(L, 2, &n);
    return push_id(L, fl_tokenizer_id(check(L)->t, s, n));
}

typedef const char *text_of_id(const fl_tokenizer *t, int32_t id, size_t *n);

static int push_text(lua_State *L, text_of_id *text, int32_t id) {
    size_t n;
    fl_call *c = fl_call_begin(L, 1, FL_MT_TOKENIZER);
    const char *s = text(check(L)->t, id, &n);
    if (s) {
        lua_pushlstring(L, s, n);
    } else {
        lua_pushnil(L);
    }
    fl_call_end(c);
    return 1;
}

static int32_t check_id(lua_State *L, int idx) {
    int64_t id = fl_check_int(L, idx);
    return id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
}

/* tok:piece(id) -> the token as tokenizer.json writes it, or nil */
static int l_piece(lua_State *L) {
    return push_text(L, fl_tokenizer_piece, check_id(L, 2));
}

/* tok:bytes(id) -> what the token stands for, maybe part of a character, or nil */
static int l_bytes(lua_State *L) {
    return push_text(L, fl_tokenizer_bytes, check_id(L, 2));
}

/* #tok -> largest id + 1 */
static int l_len(lua_State *L) {
    lua_pushinteger(L, fl_tokenizer_size(check(L)->t));
    return 1;
}

static int l_bos(lua_State *L) {
    return push_id(L, fl_tokenizer_bos(check(L)->t));
}

static int l_eos(lua_State *L) {
    return push_id(L, fl_tokenizer_eos(check(L)->t));
}

/* tok:chat_template([name]) -> source or nil */
static int l_chat_template(lua_State *L) {
    const char *name = lua_isnoneornil(L, 2) ? NULL : fl_check_string(L, 2);
    fl_call *c = fl_call_begin(L, 1, FL_MT_TOKENIZER);
    lua_pushstring(L, fl_tokenizer_chat_template(check(L)->t, name)); /* nil for NULL */
    fl_call_end(c);
    return 1;
}

/* ---- stream ---- */

typedef struct stream {
    fl_tokenizer *t;
    fl_detok detok;
} stream;

/* tok:stream{skip_special_tokens=false} -> stream */
static int l_stream(lua_State *L) {
    static const char *const known[] = {"skip_special_tokens", NULL};
    bool skip = false;
    fl_opt_only(L, 2, known);
    fl_opt_bool(L, 2, "skip_special_tokens", &skip);
    void **box = fl_box_new(L, FL_MT_STREAM);
    fl_tokenizer *t = check(L)->t;
    stream *s = fl_alloc(sizeof(*s));
    if (!s) {
        fl_err err;
        fl_fail(&err, FL_E_NOMEM, "no memory for a stream");
        return fl_push_err(L, &err);
    }
    s->t = fl_tokenizer_ref(t);
    fl_detok_init(&s->detok, s->t, skip);
    *box = s;
    return 1;
}

/* The end of a call: its text is the result. */
static int push_stream_text(lua_State *L, fl_call *c) {
    fl_err err;
    int n_results = 1;
    if (c->text.failed) {
        fl_fail(&err, FL_E_NOMEM, "no memory to decode");
        n_results = fl_push_err(L, &err);
    } else {
        lua_pushlstring(L, c->text.data ? c->text.data : "", c->text.len);
    }
    fl_call_end(c);
    return n_results;
}

/* stream:push(id) -> the text that id completes, maybe "" */
static int l_stream_push(lua_State *L) {
    const int32_t id = check_id(L, 2);
    fl_err err;
    fl_call *c = fl_call_begin(L, 1, FL_MT_STREAM);
    stream *s = c->object;
    if (fl_detok_push(&s->detok, id, &c->text, &err)) return fl_push_err(L, &err);
    return push_stream_text(L, c);
}

/* stream:finish() -> what is left; the stream can start a new text */
static int l_stream_finish(lua_State *L) {
    fl_call *c = fl_call_begin(L, 1, FL_MT_STREAM);
    stream *s = c->object;
    fl_detok_finish(&s->detok, &c->text);
    fl_detok_init(&s->detok, s->t, s->detok.skip_special);
    return push_stream_text(L, c);
}

static void destroy_stream(void *object) {
    stream *s = object;
    fl_tokenizer_unref(s->t);
    fl_free(s);
}

static void describe(void *tokenizer, char out[FL_DESCRIPTION]) {
    const tokenizer_box *b = tokenizer;
    snprintf(out, FL_DESCRIPTION, "%d tokens", (int)fl_tokenizer_size(b->t));
}

void fl_register_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {{"encode", l_encode}, {"decode", l_decode},
                                       {"id", l_id},         {"piece", l_piece},
                                       {"bytes", l_bytes},   {"bos", l_bos},
                                       {"eos", l_eos},       {"chat_template", l_chat_template},
                                       {"stream", l_stream}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {NULL, NULL}};
    static const luaL_Reg stream_methods[] = {
        {"push", l_stream_push}, {"finish", l_stream_finish}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"tokenizer", l_load}, {NULL, NULL}};
    static const fl_class_type type = {FL_MT_TOKENIZER, destroy, describe};
    static const fl_class_type stream_type = {FL_MT_STREAM, destroy_stream, NULL};
    fl_class(L, &type, methods, meta);
    fl_class(L, &stream_type, stream_methods, NULL);
    fl_set_functions(L, functions);
}
