#include "serve/openai_request.h"

#include <string.h>

enum { MAX_REQUEST_ID = 128 }; /* bytes, as of the header X-Request-Id */

/* Members that would change the answer, and that nothing here acts upon. */
static const char *const not_offered[] = {"suffix",          "structured_outputs",
                                          "guided_json",     "guided_regex",
                                          "guided_choice",   "guided_grammar",
                                          "use_beam_search", "chat_template",
                                          "functions",       "function_call",
                                          "audio",           "logits_processors",
                                          "prompt_embeds",   NULL};

typedef struct reading {
    fl_openai_request *out;
    const fl_jv *body;
    const char **field;
    fl_err *err;
} reading;

static const fl_jv *member(const fl_jv *body, const char *name) {
    const fl_jv *v = fl_jv_get(body, name);
    return v && v->kind != FL_JV_NULL ? v : NULL;
}

static int refuse(const reading *r, const char *name, const char *why) {
    *r->field = name;
    return fl_fail(r->err, FL_E_ARG, "%s: %s", name, why);
}

static void put(reading *r, const char *name, fl_jv value) {
    r->out->members[r->out->n_members++] =
        (fl_jv_member){{.kind = FL_JV_STRING, .string = {name, strlen(name)}}, value};
}

static void put_int(reading *r, const char *name, int64_t value) {
    put(r, name, (fl_jv){.kind = FL_JV_INT, .integer = value});
}

static int read_bool(const reading *r, const fl_jv *object, const char *name, bool *out) {
    const fl_jv *v = member(object, name);
    *out = false;
    if (!v) return FL_OK;
    if (v->kind != FL_JV_BOOL) return refuse(r, name, "need true or false");
    *out = v->boolean;
    return FL_OK;
}

/* Names are C strings from here on: one with a NUL in it must not pass as what stands before that. */
static bool has_nul(const fl_jv *string) {
    return memchr(string->string.data, '\0', string->string.len) != NULL;
}

/* Clients send empty texts, lists and objects for members that their caller has not set. */
static bool is_empty(const fl_jv *v) {
    return (v->kind == FL_JV_STRING && !v->string.len) ||
           ((v->kind == FL_JV_ARRAY || v->kind == FL_JV_OBJECT) && !v->n);
}

/* A member that is given and says something. */
static const fl_jv *filled(const fl_jv *body, const char *name) {
    const fl_jv *v = member(body, name);
    return v && !is_empty(v) ? v : NULL;
}

/* The same of a name: only an empty text says nothing. */
static const fl_jv *name_of(const fl_jv *body, const char *name) {
    const fl_jv *v = member(body, name);
    return v && (v->kind != FL_JV_STRING || v->string.len) ? v : NULL;
}

static bool is_false(const fl_jv *v) {
    return v->kind == FL_JV_BOOL && !v->boolean;
}

static int check_offered(const reading *r) {
    for (const char *const *name = not_offered; *name; name++) {
        const fl_jv *v = filled(r->body, *name);
        if (v && !is_false(v)) return refuse(r, *name, "not offered");
    }
    const fl_jv *format = filled(r->body, "response_format");
    if (format && !fl_jv_is(fl_jv_get(format, "type"), "text"))
        return refuse(r, "response_format", "only {\"type\": \"text\"} is offered");
    const fl_jv *choice = filled(r->body, "tool_choice");
    if (choice && !fl_jv_is(choice, "auto") && !fl_jv_is(choice, "none"))
        return refuse(r, "tool_choice", "only auto and none are offered");
    const fl_jv *best = member(r->body, "best_of"), *n = member(r->body, "n");
    const int64_t completions = n && n->kind == FL_JV_INT ? n->integer : 1;
    if (best && !(best->kind == FL_JV_INT && best->integer == completions))
        return refuse(r, "best_of", "only as many as n are offered");
    return FL_OK;
}

static int read_stream(const reading *r) {
    fl_openai_request *o = r->out;
    int rc = read_bool(r, r->body, "stream", &o->stream);
    if (!rc) rc = read_bool(r, r->body, "return_token_ids", &o->return_token_ids);
    if (!rc)
        rc = read_bool(r, r->body, "return_tokens_as_token_ids", &o->return_tokens_as_token_ids);
    const fl_jv *options = filled(r->body, "stream_options");
    if (rc || !options) return rc;
    if (options->kind != FL_JV_OBJECT) return refuse(r, "stream_options", "need an object");
    if (!o->stream) return refuse(r, "stream_options", "only with stream");
    rc = read_bool(r, options, "include_usage", &o->include_usage);
    if (!rc) rc = read_bool(r, options, "continuous_usage_stats", &o->continuous_usage_stats);
    return rc;
}

static int read_names(const reading *r) {
    const fl_jv *model = name_of(r->body, "model"), *policy = name_of(r->body, "policy");
    const fl_jv *id = filled(r->body, "request_id");
    if (model && model->kind != FL_JV_STRING) return refuse(r, "model", "need a string");
    if (model && has_nul(model))
        return refuse(r, "model", "a name with \\u0000 is not served here");
    if (policy && (policy->kind != FL_JV_STRING || has_nul(policy)))
        return refuse(r, "policy", "need the name of a policy");
    if (id && (id->kind != FL_JV_STRING || !id->string.len || id->string.len > MAX_REQUEST_ID))
        return refuse(r, "request_id", "need a string of 1 to 128 bytes");
    r->out->model = model ? model->string.data : NULL;
    if (policy) r->out->policy = (fl_text){policy->string.data, policy->string.len};
    if (id) r->out->request_id = (fl_text){id->string.data, id->string.len};
    return FL_OK;
}

static bool listed(const char *const *names, const char *name) {
    for (; *names; names++) {
        if (!strcmp(*names, name)) return true;
    }
    return false;
}

/* Whether the member is copied as it is: known, and not called differently here. */
static bool same(const char *name, fl_openai_kind kind) {
    static const char *const ours[] = {"logprobs", "max_tokens",        "echo",          "ids",
                                       "policy",   "policy_candidates", "policy_logits", NULL};
    static const char *const chat[] = {"messages",
                                       "tools",
                                       "documents",
                                       "add_generation_prompt",
                                       "continue_final_message",
                                       "chat_template_kwargs",
                                       NULL};
    fl_param_info info;
    if (listed(ours, name)) return false;
    if (listed(chat, name)) return kind == FL_OPENAI_CHAT;
    if (!strcmp(name, "add_special_tokens")) return kind == FL_OPENAI_COMPLETION;
    for (int i = 0; fl_params_field(i, &info); i++) {
        if (!strcmp(name, info.name)) return true;
    }
    return false;
}

bool fl_openai_knows(fl_openai_kind kind, const char *name) {
    /* Read here, or without a meaning for one who asks a model of their own. */
    static const char *const others[] = {"model",
                                         "stream",
                                         "stream_options",
                                         "logprobs",
                                         "max_tokens",
                                         "n",
                                         "best_of",
                                         "policy",
                                         "request_id",
                                         "return_token_ids",
                                         "return_tokens_as_token_ids",
                                         "response_format",
                                         "user",
                                         "metadata",
                                         "store",
                                         "service_tier",
                                         "safety_identifier",
                                         "prompt_cache_key",
                                         NULL};
    static const char *const chat[] = {"top_logprobs",       "max_completion_tokens",
                                       "tool_choice",        "parallel_tool_calls",
                                       "reasoning_effort",   "modalities",
                                       "prediction",         "verbosity",
                                       "web_search_options", NULL};
    static const char *const completion[] = {"prompt", "echo", "add_special_tokens",
                                             "parse_special", NULL};
    return same(name, kind) || listed(others, name) || listed(not_offered, name) ||
           listed(kind == FL_OPENAI_CHAT ? chat : completion, name);
}

static void copy_same(reading *r) {
    const bool no_tools = fl_jv_is(member(r->body, "tool_choice"), "none");
    for (uint32_t i = 0; i < r->body->n; i++) {
        const fl_jv_member *m = &r->body->members[i];
        if (has_nul(&m->key) || !same(m->key.string.data, r->out->kind)) continue;
        if (no_tools && fl_jv_is(&m->key, "tools")) continue;
        r->out->members[r->out->n_members++] = *m;
    }
}

/* What the model's publisher recommends, where the body says nothing. */
static void put_defaults(reading *r, const fl_generation_config *g) {
    const struct {
        const char *name;
        bool has;
        double value;
    } numbers[] = {
        {"temperature", g->has_temperature || (g->has_do_sample && !g->do_sample),
         g->has_do_sample && !g->do_sample ? 0 : g->temperature},
        {"top_p", g->has_top_p, g->top_p},
        {"min_p", g->has_min_p, g->min_p},
        {"repetition_penalty", g->has_repetition_penalty, g->repetition_penalty},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (numbers[i].has && !member(r->body, numbers[i].name))
            put(r, numbers[i].name, (fl_jv){.kind = FL_JV_FLOAT, .number = numbers[i].value});
    }
    if (g->has_top_k && !member(r->body, "top_k")) put_int(r, "top_k", g->top_k);
}

static int read_chat(reading *r) {
    const fl_jv *top = member(r->body, "top_logprobs"), *max;
    bool logprobs;
    int rc = read_bool(r, r->body, "logprobs", &logprobs);
    if (rc) return rc;
    const fl_jv *messages = member(r->body, "messages");
    if (!messages || messages->kind != FL_JV_ARRAY || !messages->n)
        return refuse(r, "messages", "need a list of at least one message");
    const bool some = top && !(top->kind == FL_JV_INT && !top->integer);
    if (some && !logprobs) return refuse(r, "top_logprobs", "only with logprobs true");
    if (top && (top->kind != FL_JV_INT || top->integer < 0 || top->integer > FL_MAX_LOGPROBS)) {
        *r->field = "top_logprobs";
        return fl_fail(r->err, FL_E_ARG, "top_logprobs: need an integer in [0, %d]",
                       FL_MAX_LOGPROBS);
    }
    if (logprobs) put_int(r, "logprobs", top ? top->integer : 0);
    if (!(max = member(r->body, "max_completion_tokens"))) max = member(r->body, "max_tokens");
    if (max) put(r, "max_tokens", *max);
    r->out->n_prompts = 1;
    return FL_OK;
}

/* A text, a list of ids, or a list of either. */
static int read_prompts(reading *r) {
    const fl_jv *prompt = member(r->body, "prompt");
    fl_openai_request *o = r->out;
    if (!prompt || (prompt->kind != FL_JV_STRING && prompt->kind != FL_JV_ARRAY))
        return refuse(r, "prompt", "need a string, a list of token ids, or a list of those");
    if (prompt->kind == FL_JV_ARRAY && !prompt->n) return refuse(r, "prompt", "is empty");
    bool one = prompt->kind == FL_JV_STRING ||
               (prompt->items[0].kind != FL_JV_STRING && prompt->items[0].kind != FL_JV_ARRAY);
    o->prompts = one ? prompt : prompt->items;
    o->n_prompts = one ? 1 : prompt->n;
    if (o->n_prompts > FL_MAX_PROMPTS) {
        *r->field = "prompt";
        return fl_fail(r->err, FL_E_ARG, "prompt: a list of %u, at most %d", o->n_prompts,
                       FL_MAX_PROMPTS);
    }
    for (uint32_t i = 1; i < o->n_prompts; i++) {
        if (o->prompts[i].kind != o->prompts[0].kind)
            return refuse(r, "prompt", "texts and lists of ids in one list");
    }
    return FL_OK;
}

static int read_completion(reading *r) {
    const fl_jv *logprobs = member(r->body, "logprobs"), *echo = member(r->body, "echo");
    const fl_jv *max = member(r->body, "max_tokens");
    int rc = read_prompts(r);
    if (rc) return rc;
    if (max)
        put(r, "max_tokens", *max);
    else
        put_int(r, "max_tokens", 16);
    if (echo) put(r, "echo", *echo);
    /* What clients of this route expect: their prompts are written with special tokens. */
    const fl_jv *special = member(r->body, "parse_special");
    put(r, "parse_special", special ? *special : (fl_jv){.kind = FL_JV_BOOL, .boolean = true});
    if (logprobs && !is_false(logprobs)) put(r, "logprobs", *logprobs);
    return FL_OK;
}

/* What n is wrong is told by whoever reads it. */
static void count_completions(reading *r) {
    const fl_jv *n = member(r->body, "n");
    double each = n && n->kind == FL_JV_INT ? (double)n->integer : 1;
    if (n && n->kind == FL_JV_FLOAT) each = n->number;
    if (!(each >= 1 && each <= FL_MAX_N)) each = 1;
    r->out->completions = (int64_t)each * r->out->n_prompts;
}

int fl_openai_read(fl_openai_request *out, fl_openai_kind kind, const fl_jv *body,
                   const fl_generation_config *defaults, fl_arena *arena, const char **field,
                   fl_err *err) {
    *out = (fl_openai_request){.kind = kind};
    *field = NULL;
    if (body->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "body: need a JSON object");
    /* Everything of the body, the model's five defaults, and the few that are renamed. */
    out->members = fl_arena_alloc(arena, (body->n + 16) * sizeof(*out->members));
    if (!out->members) return fl_fail(err, FL_E_NOMEM, "body: %u members", body->n);
    reading r = {out, body, field, err};
    copy_same(&r);
    int rc = check_offered(&r);
    if (!rc) rc = read_stream(&r);
    if (!rc) rc = read_names(&r);
    if (!rc) rc = kind == FL_OPENAI_CHAT ? read_chat(&r) : read_completion(&r);
    if (!rc) count_completions(&r);
    if (!rc && defaults) put_defaults(&r, defaults);
    return rc;
}

/* As in "messages[2]: ...". */
const char *fl_openai_param(const fl_openai_request *r, const fl_err *err) {
    const size_t n = strspn(err->msg, "abcdefghijklmnopqrstuvwxyz_");
    for (uint32_t i = 0; n && i < r->n_members; i++) {
        const fl_jv *key = &r->members[i].key;
        if (key->string.len == n && !memcmp(key->string.data, err->msg, n)) return key->string.data;
    }
    return r->kind == FL_OPENAI_CHAT ? "messages" : "prompt";
}

static int set_policy(fl_params *p, const fl_text *name, fl_arena *arena, fl_err *err) {
    char *copy = fl_arena_alloc(arena, name->len + 1);
    if (!copy) return fl_fail(err, FL_E_NOMEM, "policy");
    memcpy(copy, name->data, name->len);
    p->policy = true;
    p->policy_name = (fl_text){copy, name->len};
    return FL_OK;
}

int fl_openai_prompt(fl_submission *s, fl_params *params, const fl_openai_request *r, uint32_t i,
                     const fl_prompter *p, const char **field, fl_err *err) {
    const fl_jv object = {
        .kind = FL_JV_OBJECT, .n = r->n_members + (r->prompts != NULL), .members = r->members};
    if (r->prompts)
        r->members[r->n_members] =
            (fl_jv_member){{.kind = FL_JV_STRING, .string = {"prompt", 6}}, r->prompts[i]};
    const fl_params_source source = {.object = &object, .arena = &s->arena, .field = field};
    int rc = i ? FL_OK : fl_params_read(params, &source, err);
    if (rc) return rc;
    fl_prompter prompter = *p;
    if (params->truncate_prompt_tokens) prompter.context = 0; /* a longer text is cut */
    *field = NULL;
    s->params = params;
    if (!i && r->policy.data && (rc = set_policy(params, &r->policy, &s->arena, err))) return rc;
    rc = fl_prompt_encode(&prompter, &object, &s->arena, &s->ids, &s->n_ids, err);
    if (rc) *field = fl_openai_param(r, err);
    return rc;
}
