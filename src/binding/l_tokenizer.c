/* Classes tokenizer and stream. */
#include <string.h>

#include "binding/binding.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "util/mem.h"

/* ---- tokenizer ---- */

typedef struct tokenizer_box {
    fl_tokenizer *t;
    fl_tokenizer_ctx *ctx;
    /* Results on their way to Lua: owned here because any push may raise. */
    fl_ids ids;
    fl_bytes text;
} tokenizer_box;

static void box_free(tokenizer_box *b) {
    if (!b) return;
    fl_tokenizer_ctx_free(b->ctx);
    fl_tokenizer_unref(b->t);
    fl_ids_free(&b->ids);
    fl_bytes_free(&b->text);
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
        box_free(b);
    } else {
        *box = b;
    }
    return rc;
}

/* fp8llm.tokenizer(dir) -> tokenizer */
static int l_load(lua_State *L) {
    const char *dir = luaL_checkstring(L, 1);
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
    if (box_fill(box, fl_tokenizer_ref(t), &err)) luaL_error(L, "%s", err.msg);
}

fl_tokenizer *fl_check_tokenizer(lua_State *L, int idx) {
    return ((tokenizer_box *)fl_box_check(L, idx, FL_MT_TOKENIZER))->t;
}

static tokenizer_box *check(lua_State *L) {
    return fl_box_check(L, 1, FL_MT_TOKENIZER);
}

static int l_close(lua_State *L) {
    void **box = fl_box_raw(L, 1, FL_MT_TOKENIZER);
    box_free(*box);
    *box = NULL;
    return 0;
}

/* One entry of the parse_special list on top of the stack; -1: not a token of ours. */
static int32_t special_entry(lua_State *L, const fl_tokenizer *t, int i) {
    if (lua_type(L, -1) == LUA_TSTRING) {
        size_t n;
        const char *s = lua_tolstring(L, -1, &n);
        return fl_tokenizer_id(t, s, n);
    }
    if (lua_type(L, -1) != LUA_TNUMBER)
        luaL_error(L, "option 'parse_special': entry %d: id or string expected, got %s", i,
                   luaL_typename(L, -1));
    int64_t id = fl_check_int(L, -1);
    return id >= 0 && id < fl_tokenizer_size(t) ? (int32_t)id : -1;
}

static fl_special_policy check_policy(lua_State *L, const char *name) {
    static const char *const names[] = {"none", "all", "reject"};
    static const fl_special_policy policies[] = {FL_SPECIAL_NONE, FL_SPECIAL_ALL,
                                                 FL_SPECIAL_REJECT};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) return policies[i];
    luaL_error(L,
               "option 'parse_special': \"none\", \"all\", \"reject\" or a list expected, got '%s'",
               name);
    return FL_SPECIAL_NONE;
}

/* parse_special = "none" | "all" | "reject" | {id or string, ...}; the list stays on the Lua
 * stack. */
static int read_special(lua_State *L, const fl_tokenizer *t, fl_encode_options *o, fl_err *err) {
    if (lua_isnoneornil(L, 3)) return FL_OK;
    lua_getfield(L, 3, "parse_special");
    if (lua_isnil(L, -1)) return FL_OK;
    if (lua_type(L, -1) == LUA_TSTRING) {
        o->special = check_policy(L, lua_tostring(L, -1));
        return FL_OK;
    }
    if (!lua_istable(L, -1))
        luaL_error(L, "option 'parse_special': string or list expected, got %s",
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
    tokenizer_box *b = check(L);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    fl_encode_options o = {.add_special_tokens = true};
    fl_err err;
    fl_opt_only(L, 3, known);
    fl_opt_bool(L, 3, "add_special_tokens", &o.add_special_tokens);
    fl_opt_bool(L, 3, "strict", &o.strict);
    b->ids.len = 0;
    int rc = read_special(L, b->t, &o, &err);
    if (!rc) rc = fl_tokenizer_encode(b->t, b->ctx, text, n, &o, &b->ids, &err);
    if (rc) return fl_push_err(L, &err);
    fl_push_ids(L, b->ids.data, b->ids.len);
    fl_ids_free(&b->ids);
    return 1;
}

/* tok:decode(ids, {skip_special_tokens=false}) -> text */
static int l_decode(lua_State *L) {
    static const char *const known[] = {"skip_special_tokens", NULL};
    tokenizer_box *b = check(L);
    bool skip = false;
    size_t n;
    fl_err err;
    fl_opt_only(L, 3, known);
    fl_opt_bool(L, 3, "skip_special_tokens", &skip);
    const int32_t *ids = fl_check_ids(L, 2, &n);
    fl_bytes_free(&b->text);
    int rc = fl_tokenizer_decode(b->t, ids, n, skip, &b->text, &err);
    if (rc) {
        fl_bytes_free(&b->text);
        return fl_push_err(L, &err);
    }
    lua_pushlstring(L, b->text.data ? b->text.data : "", b->text.len);
    fl_bytes_free(&b->text);
    return 1;
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
    tokenizer_box *b = check(L);
    size_t n;
    const char *s = luaL_checklstring(L, 2, &n);
    return push_id(L, fl_tokenizer_id(b->t, s, n));
}

static int push_text(lua_State *L, const char *s, size_t n) {
    if (s) {
        lua_pushlstring(L, s, n);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

static int32_t check_id(lua_State *L, int idx) {
    int64_t id = fl_check_int(L, idx);
    return id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
}

/* tok:piece(id) -> the token as tokenizer.json writes it, or nil */
static int l_piece(lua_State *L) {
    tokenizer_box *b = check(L);
    size_t n;
    const char *s = fl_tokenizer_piece(b->t, check_id(L, 2), &n);
    return push_text(L, s, n);
}

/* tok:bytes(id) -> what the token stands for, maybe part of a character, or nil */
static int l_bytes(lua_State *L) {
    tokenizer_box *b = check(L);
    size_t n;
    const char *s = fl_tokenizer_bytes(b->t, check_id(L, 2), &n);
    return push_text(L, s, n);
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
    tokenizer_box *b = check(L);
    lua_pushstring(L, fl_tokenizer_chat_template(b->t, luaL_optstring(L, 2, NULL)));
    return 1; /* lua_pushstring pushes nil for NULL */
}

/* ---- stream ---- */

typedef struct stream {
    fl_tokenizer *t;
    fl_detok detok;
    fl_bytes text;
} stream;

/* tok:stream{skip_special_tokens=false} -> stream */
static int l_stream(lua_State *L) {
    static const char *const known[] = {"skip_special_tokens", NULL};
    tokenizer_box *b = check(L);
    bool skip = false;
    fl_opt_only(L, 2, known);
    fl_opt_bool(L, 2, "skip_special_tokens", &skip);
    void **box = fl_box_new(L, FL_MT_STREAM);
    stream *s = *box = fl_alloc(sizeof(*s));
    if (!s) {
        fl_err err;
        fl_fail(&err, FL_E_NOMEM, "no memory for a stream");
        return fl_push_err(L, &err);
    }
    s->t = fl_tokenizer_ref(b->t);
    fl_detok_init(&s->detok, s->t, skip);
    return 1;
}

static int push_stream_text(lua_State *L, stream *s) {
    fl_err err;
    if (s->text.failed) {
        fl_bytes_free(&s->text);
        fl_fail(&err, FL_E_NOMEM, "no memory to decode");
        return fl_push_err(L, &err);
    }
    lua_pushlstring(L, s->text.data ? s->text.data : "", s->text.len);
    return 1;
}

/* stream:push(id) -> the text that id completes, maybe "" */
static int l_stream_push(lua_State *L) {
    stream *s = fl_box_check(L, 1, FL_MT_STREAM);
    fl_err err;
    s->text.len = 0;
    if (fl_detok_push(&s->detok, check_id(L, 2), &s->text, &err)) return fl_push_err(L, &err);
    return push_stream_text(L, s);
}

/* stream:finish() -> what is left; the stream can start a new text */
static int l_stream_finish(lua_State *L) {
    stream *s = fl_box_check(L, 1, FL_MT_STREAM);
    s->text.len = 0;
    fl_detok_finish(&s->detok, &s->text);
    fl_detok_init(&s->detok, s->t, s->detok.skip_special);
    return push_stream_text(L, s);
}

static int l_stream_gc(lua_State *L) {
    void **box = fl_box_raw(L, 1, FL_MT_STREAM);
    stream *s = *box;
    *box = NULL;
    if (!s) return 0;
    fl_tokenizer_unref(s->t);
    fl_bytes_free(&s->text);
    fl_free(s);
    return 0;
}

void fl_register_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {{"encode", l_encode}, {"decode", l_decode},
                                       {"id", l_id},         {"piece", l_piece},
                                       {"bytes", l_bytes},   {"bos", l_bos},
                                       {"eos", l_eos},       {"chat_template", l_chat_template},
                                       {"stream", l_stream}, {"close", l_close},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__len", l_len}, {NULL, NULL}};
    static const luaL_Reg stream_methods[] = {
        {"push", l_stream_push}, {"finish", l_stream_finish}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"tokenizer", l_load}, {NULL, NULL}};
    fl_class(L, FL_MT_TOKENIZER, methods, meta, l_close);
    fl_class(L, FL_MT_STREAM, stream_methods, NULL, l_stream_gc);
    fl_set_functions(L, functions);
}
