/* Class engine: many requests of one model, and what its policies park. */
#include <stdio.h>
#include <string.h>

#include "binding/l_engine.h"
#include "binding/l_model.h"
#include "binding/lua_json.h"
#include "engine/prompt.h"
#include "serve/exchange.h"
#include "serve/serve.h"
#include "util/mem.h"

typedef struct lua_engine {
    fl_engine *engine;
    fl_tokenizer *tokenizer; /* NULL: the model has none */
    fl_tokenizer_ctx *ctx;
    fl_template *chat, *chat_with_tools;
    fl_model *model;
    fl_server *server; /* NULL: listens nowhere */
    fl_desk *desk;     /* for OpenAI requests of this program */
} lua_engine;

fl_engine *fl_check_engine(lua_State *L, int idx) {
    lua_engine *b = fl_box_check(L, idx, FL_MT_ENGINE);
    fl_err err;
    if (fl_engine_check_owner(b->engine, &err)) fl_raise(L, "%s", err.msg);
    return b->engine;
}

static void destroy(void *engine) {
    lua_engine *b = engine;
    if (!b) return;
    fl_server_free(b->server, false);
    if (b->engine) fl_engine_close(b->engine, false);
    if (b->engine) fl_engine_leave(b->engine);
    fl_desk_unref(b->desk);
    fl_model_unref(b->model);
    fl_engine_unref(b->engine);
    fl_tokenizer_ctx_free(b->ctx);
    fl_tokenizer_unref(b->tokenizer);
    fl_template_unref(b->chat);
    fl_template_unref(b->chat_with_tools);
    fl_free(b);
}

static int parse_template(fl_template **out, const fl_tokenizer *t, const char *name, fl_err *err) {
    const char *source = fl_tokenizer_chat_template(t, name);
    return source ? fl_template_parse(out, source, strlen(source), err) : FL_OK;
}

/* A model without a tokenizer serves requests of ids. */
static int open_text(lua_engine *b, fl_tokenizer *t, fl_err *err) {
    if (!t) return FL_OK;
    b->tokenizer = fl_tokenizer_ref(t);
    int rc = fl_tokenizer_ctx_new(&b->ctx, t, err);
    if (!rc) rc = parse_template(&b->chat, t, NULL, err);
    if (!rc) rc = parse_template(&b->chat_with_tools, t, "tool_use", err);
    return rc;
}

enum { MAX_NAMES = 64 };

/* A list of at most MAX_NAMES strings as a NULL-terminated array that the stack keeps. */
static const char *const *names_option(lua_State *L, int idx, const char *key) {
    static const char *const none[] = {NULL};
    size_t n;
    if (!fl_opt_push(L, idx, key)) return none;
    if (!lua_istable(L, -1)) fl_raise(L, "option '%s': list of strings expected", key);
    return fl_check_strings(L, -1, key, MAX_NAMES, &n);
}

static const char *const engine_options[] = {"max_running",
                                             "max_queued",
                                             "max_step_tokens",
                                             "max_unread",
                                             "page_timeout_ms",
                                             "policy_timeout_ms",
                                             "max_policy_rows",
                                             "num_speculative_tokens",
                                             "prompt_lookup_min",
                                             "prompt_lookup_max",
                                             "priority_between_keys",
                                             "names",
                                             NULL};

static int open_desk(lua_engine *b, const char *const *names, fl_err *err) {
    const fl_server_options o = {.names = names,
                                 .tokenizer = b->tokenizer,
                                 .chat = b->chat,
                                 .chat_with_tools = b->chat_with_tools};
    return fl_desk_new(&b->desk, b->engine, b->model, &o, err);
}

/* model:engine{max_running=, max_queued=, ...} -> engine | nil, message, CODE */
int fl_l_engine_new(lua_State *L) {
    fl_engine_options o = {0};
    int64_t *const field[] = {
        &o.max_running,       &o.max_queued,        &o.max_step_tokens, &o.max_unread,
        &o.page_timeout_ms,   &o.policy_timeout_ms, &o.max_policy_rows, &o.num_speculative_tokens,
        &o.prompt_lookup_min, &o.prompt_lookup_max};
    fl_tokenizer *t = NULL;
    fl_err err;
    lua_settop(L, 2);
    fl_opt_only(L, 2, engine_options);
    for (size_t i = 0; i < sizeof(field) / sizeof(field[0]); i++)
        fl_opt_int(L, 2, engine_options[i], field[i]);
    fl_opt_bool(L, 2, "priority_between_keys", &o.priority_between_keys);
    const char *const *names = names_option(L, 2, "names");
    void **box = fl_box_new(L, FL_MT_ENGINE);
    const int at = lua_gettop(L);
    fl_model_child(L, at, fl_check_model(L, 1));
    fl_model *m = fl_check_model(L, 1);
    if (fl_model_tokenizer(L, 1, &t, &err) && err.code != FL_E_IO) return fl_push_err(L, &err);
    lua_engine *b = fl_alloc(sizeof(*b));
    int rc = b ? open_text(b, t, &err) : fl_fail(&err, FL_E_NOMEM, "engine");
    if (!rc) rc = fl_engine_new(&b->engine, m, t, &o, &err);
    if (!rc) b->model = fl_model_ref(m);
    if (!rc) rc = open_desk(b, names, &err);
    if (rc) {
        destroy(b);
        return fl_push_err(L, &err);
    }
    *box = b;
    lua_pushvalue(L, at);
    return 1;
}

/* The request's members and those of its `sampler` table as one object. */
static int merge_sampler(fl_jv *request, fl_arena *arena, fl_err *err) {
    const fl_jv *sampler = fl_jv_get(request, "sampler");
    uint32_t n = 0;
    if (!sampler || sampler->kind == FL_JV_NULL || !sampler->n) return FL_OK;
    if (sampler->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "sampler: need a table");
    fl_jv_member *all = fl_arena_alloc(arena, (request->n + sampler->n) * sizeof(*all));
    if (!all) return fl_fail(err, FL_E_NOMEM, "sampler");
    for (uint32_t i = 0; i < request->n; i++) {
        if (&request->members[i].value != sampler) all[n++] = request->members[i];
    }
    for (uint32_t i = 0; i < sampler->n; i++) all[n++] = sampler->members[i];
    request->members = all;
    request->n = n;
    return FL_OK;
}

static int read_own(const fl_prompter *p, fl_jv *request, bool lua, fl_submission *s,
                    fl_params *params, fl_err *err) {
    const fl_params_source source = {.object = request,
                                     .others = fl_prompt_members,
                                     .strict = true,
                                     .lua = lua,
                                     .arena = &s->arena};
    int rc = merge_sampler(request, &s->arena, err);
    if (!rc) rc = fl_params_read(params, &source, err);
    fl_prompter prompter = *p;
    if (!rc && params->truncate_prompt_tokens) prompter.context = 0; /* a longer text is cut */
    if (!rc) rc = fl_prompt_encode(&prompter, request, &s->arena, &s->ids, &s->n_ids, err);
    s->params = params;
    return rc;
}

/* The members of `defaults` that the request does not have, then its own; a line's custom_id is its
 * reader's. */
static int add_defaults(fl_jv *request, const fl_jv *defaults, fl_arena *arena, fl_err *err) {
    if (request->kind != FL_JV_OBJECT || defaults->kind != FL_JV_OBJECT) return FL_OK;
    fl_jv_member *all = fl_arena_alloc(arena, (request->n + defaults->n + 1) * sizeof(*all));
    uint32_t n = 0;
    if (!all) return fl_fail(err, FL_E_NOMEM, "request");
    for (uint32_t i = 0; i < defaults->n; i++) {
        const fl_jv *own = fl_jv_get(request, defaults->members[i].key.string.data);
        if (!own || own->kind == FL_JV_NULL) all[n++] = defaults->members[i];
    }
    for (uint32_t i = 0; i < request->n; i++) {
        const fl_jv_member *m = &request->members[i];
        if (m->value.kind != FL_JV_NULL && strcmp(m->key.string.data, "custom_id") != 0)
            all[n++] = *m;
    }
    request->members = all;
    request->n = n;
    return FL_OK;
}

/* The request at 2, JSON text or a table, with the defaults at 4. */
static int request_value(lua_State *L, fl_arena *arena, fl_jv *request, fl_err *err) {
    fl_jv defaults = {.kind = FL_JV_OBJECT};
    size_t n;
    const char *text = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &n) : NULL;
    int rc = text ? fl_jv_parse(request, arena, text, n, "request", err)
                  : fl_lua_to_jv(L, 2, arena, request, err);
    if (!rc && !text && request->kind == FL_JV_ARRAY && !request->n) request->kind = FL_JV_OBJECT;
    if (!rc && !lua_isnil(L, 4)) rc = fl_lua_to_jv(L, 4, arena, &defaults, err);
    return rc || (!text && !defaults.n) ? rc : add_defaults(request, &defaults, arena, err);
}

/* Everything up to the submission; the arena is this function's until it returns FL_OK. */
static int read_request(lua_State *L, fl_call *c, fl_submission *s, fl_params *params,
                        fl_err *err) {
    const lua_engine *b = c->object;
    const fl_prompter prompter = {.tokenizer = b->tokenizer,
                                  .ctx = b->ctx,
                                  .chat = b->chat,
                                  .chat_with_tools = b->chat_with_tools,
                                  .context = fl_engine_capacity(b->engine)};
    fl_jv request;
    int rc = request_value(L, &c->arena, &request, err); /* which may raise */
    s->arena = c->arena;
    c->arena = (fl_arena){0};
    if (!rc) rc = read_own(&prompter, &request, lua_type(L, 2) == LUA_TTABLE, s, params, err);
    if (rc) fl_arena_free(&s->arena);
    return rc;
}

static int submit_own(lua_State *L) {
    fl_submission s = {0};
    fl_params params;
    fl_request *r;
    fl_err err;
    void **box = fl_box_new(L, FL_MT_REQUEST);
    const int at = lua_gettop(L);
    void *state = fl_l_request_state(&err);
    if (!state) return fl_push_err(L, &err);
    *box = state;
    fl_call *c = fl_call_begin(L, 1, FL_MT_ENGINE);
    int rc = read_request(L, c, &s, &params, &err);
    if (!rc) rc = fl_engine_submit(((lua_engine *)c->object)->engine, &r, &s, &err);
    if (rc) return fl_push_err(L, &err);
    fl_l_request_fill(state, r);
    fl_call_end(c);
    lua_settop(L, at);
    return 1;
}

/* The body at 2 as JSON text; a table is written as such first. */
static int body_text(lua_State *L, fl_call *c, const char **text, size_t *n, fl_err *err) {
    fl_jv body;
    if ((*text = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, n) : NULL)) return FL_OK;
    int rc = fl_lua_to_jv(L, 2, &c->arena, &body, err);
    if (rc) return rc;
    if (body.kind == FL_JV_ARRAY && !body.n) body.kind = FL_JV_OBJECT;
    fl_jv_write(&c->text, &body);
    *text = c->text.data;
    *n = c->text.len;
    return c->text.failed ? fl_fail(err, FL_E_NOMEM, "body") : FL_OK;
}

/* The body goes over the desk; fp8llm.answer, in Lua, reads what comes of it. */
static int submit_openai(lua_State *L, const char *kind) {
    fl_exchange *x;
    fl_err err;
    size_t n;
    const char *text;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "fp8llm.answer");
    lua_call(L, 1, 1);
    void **box = fl_box_new(L, FL_MT_EXCHANGE);
    const int at = lua_gettop(L);
    fl_call *c = fl_call_begin(L, 1, FL_MT_ENGINE);
    int rc = body_text(L, c, &text, &n, &err);
    if (!rc) rc = fl_exchange_new(&x, ((lua_engine *)c->object)->desk, kind, text, n, &err);
    if (rc) return fl_push_err(L, &err);
    *box = x;
    fl_call_end(c);
    lua_settop(L, at);
    lua_pushvalue(L, 3);
    lua_call(L, 2, LUA_MULTRET);
    return lua_gettop(L) - 4;
}

const char *const fl_request_kinds[] = {"own", "completion", "chat", NULL};

/* eng:submit(request, "own", defaults) -> request | nil, message, CODE
 * eng:submit(body of an OpenAI request, "completion" | "chat") -> answer | nil, message, CODE, param
 * Both as tables, or as JSON text. */
static int l_submit(lua_State *L) {
    char what[FL_DESCRIPTION];
    if (!lua_isnoneornil(L, 3)) fl_check_string(L, 3);
    if (lua_type(L, 2) != LUA_TSTRING) fl_check_type(L, 2, LUA_TTABLE);
    if (!lua_isnoneornil(L, 4)) fl_check_type(L, 4, LUA_TTABLE);
    lua_settop(L, 4);
    int kind = 0;
    const char *name = lua_isnil(L, 3) ? fl_request_kinds[0] : lua_tostring(L, 3);
    while (fl_request_kinds[kind] && strcmp(fl_request_kinds[kind], name) != 0) kind++;
    if (!fl_request_kinds[kind]) {
        fl_err err;
        fl_fail(&err, FL_E_ARG, "kind: need own, completion or chat, got '%.60s'", name);
        return fl_push_err(L, &err);
    }
    for (int i = 2; i <= 4; i += 2) {
        if (lua_istable(L, i) && !fl_request_fits(L, i, (fl_request_kind)kind, what))
            return fl_raise(L, "%s", what);
    }
    return kind ? submit_openai(L, fl_request_kinds[kind]) : submit_own(L);
}

static const char *const listen_options[] = {
    "names",   "row_policies",      "policies", "max_connections",     "notify",
    "signals", "max_request_bytes", "drain_ms", "temperature_default", NULL};

/* eng:listen(path, {names=, policies=, ...}) -> true | nil, message, CODE */
static int l_listen(lua_State *L) {
    static const char unix_prefix[] = "unix:";
    const char *path = fl_check_string(L, 2);
    fl_server_options o = {0};
    fl_err err;
    lua_settop(L, 3);
    fl_opt_only(L, 3, listen_options);
    o.names = names_option(L, 3, "names");
    o.policies = names_option(L, 3, "policies");
    o.row_policies = names_option(L, 3, "row_policies");
    fl_opt_int(L, 3, "max_connections", &o.max_connections);
    fl_opt_int(L, 3, "max_request_bytes", &o.max_request_bytes);
    fl_opt_int(L, 3, "drain_ms", &o.drain_ms);
    fl_opt_string(L, 3, "notify", &o.notify);
    fl_opt_bool(L, 3, "signals", &o.signals);
    o.has_temperature = fl_opt_number(L, 3, "temperature_default", &o.temperature);
    if (!strncmp(path, unix_prefix, sizeof(unix_prefix) - 1)) path += sizeof(unix_prefix) - 1;
    o.path = path;
    fl_check_engine(L, 1); /* raises in a forked child, which has no such engine */
    lua_engine *b = fl_box_check(L, 1, FL_MT_ENGINE);
    o.tokenizer = b->tokenizer;
    o.chat = b->chat;
    o.chat_with_tools = b->chat_with_tools;
    if (b->server) {
        fl_fail(&err, FL_E_ARG, "listen: this engine listens already");
        return fl_push_err(L, &err);
    }
    if (fl_server_new(&b->server, b->engine, b->model, &o, &err)) return fl_push_err(L, &err);
    lua_pushboolean(L, true);
    return 1;
}

/* {count, sum, le = {bound, ...}, n = {how many up to it, ...}} */
static void set_histogram(lua_State *L, const char *key, const fl_histogram *h) {
    uint64_t n = 0;
    lua_createtable(L, 0, 4);
    fl_set_number(L, "count", (double)h->count);
    fl_set_number(L, "sum", h->sum);
    lua_createtable(L, FL_HISTOGRAM_BOUNDS, 0);
    lua_createtable(L, FL_HISTOGRAM_BOUNDS, 0);
    for (int i = 0; i < FL_HISTOGRAM_BOUNDS; i++) {
        n += h->bucket[i];
        lua_pushnumber(L, (lua_Number)fl_histogram_bound(i));
        lua_rawseti(L, -3, i + 1);
        fl_push_number(L, (double)n);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -3, "n");
    lua_setfield(L, -2, "le");
    lua_setfield(L, -2, key);
}

static int l_stats(lua_State *L) {
    fl_engine_stats s;
    fl_engine_stats_get(fl_check_engine(L, 1), &s);
    const struct {
        const char *name;
        double value;
    } number[] = {
        {"running", (double)s.running},
        {"queued", (double)s.queued},
        {"parked", (double)s.parked},
        {"kv_pages", (double)s.kv_pages},
        {"kv_pages_used", (double)s.kv_pages_used},
        {"requests", (double)s.requests},
        {"finished", (double)s.finished},
        {"steps", (double)s.steps},
        {"preemptions", (double)s.preemptions},
        {"prompt_tokens", (double)s.prompt_tokens},
        {"cached_tokens", (double)s.cached_tokens},
        {"output_tokens", (double)s.output_tokens},
        {"prefix_queries", (double)s.prefix_queries},
        {"prefix_hits", (double)s.prefix_hits},
        {"draft_tokens", (double)s.draft_tokens},
        {"accepted_tokens", (double)s.accepted_tokens},
        {"device_tokens", (double)s.device_tokens},
        {"thread_s", s.thread_s},
        {"schedule_s", s.schedule_s},
        {"sample_s", s.sample_s},
    };
    lua_createtable(L, 0, 24);
    for (size_t i = 0; i < sizeof(number) / sizeof(number[0]); i++)
        fl_set_number(L, number[i].name, number[i].value);
    set_histogram(L, "step_s", &s.step_s);
    set_histogram(L, "queue_s", &s.queue_s);
    set_histogram(L, "first_token_s", &s.first_token_s);
    set_histogram(L, "inter_token_s", &s.inter_token_s);
    set_histogram(L, "total_s", &s.total_s);
    set_histogram(L, "policy_s", &s.policy_s);
    return 1;
}

/* fp8llm.request_fields() -> {{name =, type =, min =, max =, default =, doc =}, ...} */
static int l_request_fields(lua_State *L) {
    fl_param_info f;
    lua_newtable(L);
    for (int i = 0; fl_params_field(i, &f); i++) {
        lua_createtable(L, 0, 6);
        lua_pushstring(L, f.name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, f.type);
        lua_setfield(L, -2, "type");
        lua_pushstring(L, f.doc);
        lua_setfield(L, -2, "doc");
        fl_set_number(L, "min", f.min);
        fl_set_number(L, "max", f.max);
        if (f.has_default && !strcmp(f.type, "boolean"))
            lua_pushboolean(L, f.fallback != 0);
        else if (f.has_default)
            fl_push_number(L, f.fallback);
        else
            lua_pushnil(L);
        lua_setfield(L, -2, "default");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int l_fd(lua_State *L) {
    lua_pushinteger(L, fl_engine_fd(fl_check_engine(L, 1)));
    return 1;
}

static int l_clear_fd(lua_State *L) {
    fl_engine_clear_fd(fl_check_engine(L, 1));
    return 0;
}

/* eng:close([drain]) */
static int l_close(lua_State *L) {
    lua_engine *b = *fl_box_raw(L, 1, FL_MT_ENGINE);
    const bool drain = fl_check_bool(L, 2, false);
    if (b && drain) {
        fl_server_free(b->server, true);
        b->server = NULL;
        fl_engine_close(b->engine, true);
    }
    fl_box_close(L, 1, FL_MT_ENGINE);
    return 0;
}

/* eng:map(list, fn): fp8llm.batch, in Lua, does it. */
static int l_map(lua_State *L) {
    fl_check_engine(L, 1);
    fl_check_type(L, 2, LUA_TTABLE);
    fl_check_type(L, 3, LUA_TFUNCTION);
    lua_settop(L, 3);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "fp8llm.batch");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "map");
    lua_replace(L, -2);
    lua_insert(L, 1);
    lua_call(L, 3, 1);
    return 1;
}

static void describe(void *engine, char out[FL_DESCRIPTION]) {
    const lua_engine *b = engine;
    fl_engine_stats s;
    fl_engine_stats_get(b->engine, &s);
    snprintf(out, FL_DESCRIPTION, "%lld running, %lld queued%s", (long long)s.running,
             (long long)s.queued, b->server ? ", listening" : "");
}

static const luaL_Reg methods[] = {
    {"submit", l_submit},         {"listen", l_listen},     {"map", l_map},
    {"steps", fl_l_engine_steps}, {"stats", l_stats},       {"fd", l_fd},
    {"close", l_close},           {"clear_fd", l_clear_fd}, {NULL, NULL}};

void fl_register_engine(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"request_fields", l_request_fields}, {"_misuse", fl_l_misuse}, {NULL, NULL}};
    fl_set_functions(L, functions);
    static const fl_class_type type = {FL_MT_ENGINE, destroy, describe};
    fl_class(L, &type, methods, NULL);
}
