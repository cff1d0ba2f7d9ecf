/* The worker: reads a request, and answers it or starts its generation. */
#include <string.h>

#include "serve/serve_priv.h"
#include "util/clock.h"
#include "util/mem.h"

enum { MINUTE = 60, MAX_KEY_BYTES = 128, LIST_MIB = 256 };

typedef struct envelope {
    const char *op;
    fl_jv body;
    bool has_body;
    fl_text key; /* {NULL, 0}: none */
    int64_t max_running, tokens_per_minute;
    bool parse_special; /* false: texts of this key hold no special tokens */
} envelope;

static int read_limit(const fl_jv *key, const char *name, int64_t *out, fl_err *err) {
    const fl_jv *v = fl_jv_get(key, name);
    if (!v) return FL_OK;
    if (v->kind != FL_JV_INT || v->integer < 0)
        return fl_fail(err, FL_E_ARG, "key: %s: need an integer of at least 0", name);
    *out = v->integer;
    return FL_OK;
}

static int read_key(envelope *e, const fl_jv *key, fl_err *err) {
    const fl_jv *name = fl_jv_get(key, "name");
    if (!name || name->kind != FL_JV_STRING || !name->string.len ||
        name->string.len > MAX_KEY_BYTES)
        return fl_fail(err, FL_E_ARG, "key: name: need a text of 1 to %d bytes", MAX_KEY_BYTES);
    e->key = (fl_text){name->string.data, name->string.len};
    const fl_jv *special = fl_jv_get(key, "parse_special");
    if (special && special->kind != FL_JV_BOOL)
        return fl_fail(err, FL_E_ARG, "key: parse_special: need true or false");
    if (special) e->parse_special = special->boolean;
    int rc = read_limit(key, "max_running", &e->max_running, err);
    return rc ? rc : read_limit(key, "tokens_per_minute", &e->tokens_per_minute, err);
}

/* All but a body after the line. */
static int read_envelope_line(envelope *e, const fl_conn *c, fl_arena *arena, fl_err *err) {
    fl_jv v;
    int rc = fl_jv_parse(&v, arena, c->in.data + c->count, c->line - c->count, "request", err);
    if (rc) return rc;
    const fl_jv *op = fl_jv_get(&v, "op"), *key = fl_jv_get(&v, "key");
    const fl_jv *body = fl_jv_get(&v, "body");
    if (!op || op->kind != FL_JV_STRING) return fl_fail(err, FL_E_ARG, "request: need an op");
    *e = (envelope){.op = op->string.data, .has_body = body || c->count, .parse_special = true};
    if (body && !c->count) e->body = *body;
    return key ? read_key(e, key, err) : FL_OK;
}

static int read_envelope(envelope *e, const fl_conn *c, fl_arena *arena, fl_err *err) {
    int rc = read_envelope_line(e, c, arena, err);
    if (rc || !c->count) return rc;
    return fl_jv_parse(&e->body, arena, c->in.data + c->line, c->body, "body", err);
}

/* With the lock held; NULL: no memory. */
static fl_account *find_account(fl_server *s, const fl_text *name) {
    fl_account *a = s->accounts;
    while (a && (strlen(a->name) != name->len || memcmp(a->name, name->data, name->len) != 0))
        a = a->next;
    if (a || !(a = fl_alloc(sizeof(*a) + name->len + 1))) return a;
    memcpy(a->name, name->data, name->len);
    a->next = s->accounts;
    s->accounts = a;
    return a;
}

/* completions: that would run beside those that do */
static int check_limits(fl_account *a, const envelope *e, int64_t completions, fl_refusal *why) {
    const double now = fl_now();
    if (now - a->minute_began >= MINUTE) {
        a->minute_began = now;
        a->tokens = 0;
    }
    if (e->max_running && a->running + completions > e->max_running) {
        why->retry_after = 1;
        return fl_fail(&why->err, FL_E_BUSY,
                       "key: %lld completions of '%s' are running, %lld more asked for, limit %lld",
                       (long long)a->running, a->name, (long long)completions,
                       (long long)e->max_running);
    }
    if (e->tokens_per_minute && a->tokens >= e->tokens_per_minute) {
        why->retry_after = 1 + (int64_t)(a->minute_began + MINUTE - now);
        return fl_fail(&why->err, FL_E_BUSY, "key: %lld tokens of '%s' in this minute, limit %lld",
                       (long long)a->tokens, a->name, (long long)e->tokens_per_minute);
    }
    return FL_OK;
}

static int charge(fl_server *s, fl_generation *g, const envelope *e, int64_t completions,
                  fl_refusal *why) {
    int rc = FL_OK;
    pthread_mutex_lock(&s->lock);
    fl_account *a = e->key.data ? find_account(s, &e->key) : NULL;
    if (e->key.data)
        rc = a ? check_limits(a, e, completions, why) : fl_fail(&why->err, FL_E_NOMEM, "key");
    if (!rc && a) a->running += completions;
    if (!rc) {
        g->account = a;
        g->completions = completions;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* Prefixes are shared within a key only, and there among equal salts. */
static int salt(fl_submission *s, fl_params *p, const fl_text *key, fl_err *err) {
    if (!key->data) return FL_OK;
    const size_t n = key->len + 1 + p->cache_salt.len;
    char *both = fl_arena_alloc(&s->arena, n);
    if (!both) return fl_fail(err, FL_E_NOMEM, "cache_salt");
    memcpy(both, key->data, key->len);
    if (p->cache_salt.len) memcpy(both + key->len + 1, p->cache_salt.data, p->cache_salt.len);
    p->cache_salt = (fl_text){both, n};
    return FL_OK;
}

static bool listed(char *const *names, const char *name) {
    for (; *names; names++) {
        if (!strcmp(*names, name)) return true;
    }
    return false;
}

static int submit(fl_server *s, fl_generation *g, const fl_openai_request *o, const envelope *e,
                  fl_refusal *why) {
    fl_params params = {0};
    int64_t planned = 0;
    for (uint32_t i = 0; i < o->n_prompts; i++) {
        fl_submission one = {.key = e->key, .like = i ? g->requests[0] : NULL};
        int rc = fl_openai_prompt(&one, &params, o, i, &s->prompter, &why->param, &why->err);
        if (!rc && !i) {
            params.policy_logits = params.policy && listed(s->row_policies, o->policy.data);
            rc = salt(&one, &params, &e->key, &why->err);
        }
        if (rc) {
            fl_arena_free(&one.arena);
            return rc;
        }
        if ((rc = fl_engine_submit(s->engine, &g->requests[i], &one, &why->err))) {
            if (rc == FL_E_BUSY) why->retry_after = 1;
            if (rc == FL_E_ARG || rc == FL_E_LIMIT) why->param = fl_openai_param(o, &why->err);
            return rc;
        }
        g->n_requests = i + 1;
        g->n = params.n;
        if ((planned += fl_request_planned(g->requests[i])) > FL_MAX_REQUEST_BYTES) {
            why->param = "prompt";
            return fl_fail(&why->err, FL_E_LIMIT,
                           "prompt: the log-probabilities or echoes of %u would take more than %d "
                           "MiB",
                           o->n_prompts, FL_MAX_REQUEST_BYTES >> 20);
        }
        if (!o->stream) fl_request_collect(g->requests[i]);
    }
    g->n_unfinished = g->n_requests * g->n;
    g->written = fl_alloc_array((size_t)g->n_unfinished, sizeof(*g->written));
    return g->written ? FL_OK : fl_fail(&why->err, FL_E_NOMEM, "request");
}

static int check_names(const fl_server *s, const fl_openai_request *o, fl_refusal *why) {
    if (o->model && s->names[0] && !listed(s->names, o->model)) {
        why->param = "model";
        return fl_fail(&why->err, FL_E_ARG, "model: '%.80s' is not served here", o->model);
    }
    if (o->policy.data && !listed(s->policies, o->policy.data)) {
        why->param = "policy";
        return fl_fail(&why->err, FL_E_ARG, "policy: '%.80s' is not offered", o->policy.data);
    }
    return FL_OK;
}

static const char *bool_text(bool v) {
    return v ? "true" : "false";
}

static void put_start(fl_bytes *out, const fl_server *s, const fl_openai_request *o,
                      const fl_generation *g) {
    const char *model = o->model ? o->model : s->names[0] ? s->names[0] : "";
    int64_t tokens = 0, n;
    for (int64_t i = 0; i < g->n_requests; i++) {
        fl_request_prompt(g->requests[i], &n);
        tokens += n;
    }
    fl_bytes_printf(out,
                    "{\"start\":{\"stream\":%s,\"include_usage\":%s,\"continuous_usage_stats\":%s,"
                    "\"return_token_ids\":%s,\"return_tokens_as_token_ids\":%s,"
                    "\"choices\":%lld,\"prompt_tokens\":%lld,\"model\":",
                    bool_text(o->stream), bool_text(o->include_usage),
                    bool_text(o->continuous_usage_stats), bool_text(o->return_token_ids),
                    bool_text(o->return_tokens_as_token_ids), (long long)g->n_unfinished,
                    (long long)tokens);
    fl_put_text(out, model, strlen(model));
    if (o->request_id.data) {
        fl_bytes_puts(out, ",\"request_id\":");
        fl_put_text(out, o->request_id.data, o->request_id.len);
    }
    fl_bytes_puts(out, "}}\n");
}

/* Tokens that reading a request costs its key when no generation counts them: about those of a
 * prompt of its length. */
static int64_t reading_cost(const fl_conn *c) {
    enum { TOKEN_BYTES = 4 };
    return (int64_t)(c->line + c->body) / TOKEN_BYTES;
}

static int generate(fl_server *s, fl_conn *c, fl_openai_kind kind, const envelope *e,
                    fl_arena *arena, fl_refusal *why) {
    fl_generation *g = &c->generation;
    fl_openai_request o;
    if (!e->has_body) return fl_fail(&why->err, FL_E_ARG, "body: need a JSON object");
    int rc = fl_openai_read(&o, kind, &e->body, &s->generation, arena, &why->param, &why->err);
    if (!rc) rc = check_names(s, &o, why);
    if (!rc) rc = charge(s, g, e, o.completions, why);
    if (rc) return rc;
    if (o.completions > FL_MAX_COMPLETIONS) {
        why->param = "n";
        rc = fl_fail(&why->err, FL_E_ARG, "n: %lld completions of %u prompts, at most %d",
                     (long long)o.completions, o.n_prompts, FL_MAX_COMPLETIONS);
        fl_generation_end(s, g);
        return rc;
    }
    g->stream = o.stream;
    g->return_token_ids = o.return_token_ids;
    g->requests = fl_alloc_array(o.n_prompts, sizeof(fl_request *));
    rc = g->requests ? submit(s, g, &o, e, why) : fl_fail(&why->err, FL_E_NOMEM, "request");
    if (rc) {
        pthread_mutex_lock(&s->lock);
        if (g->account && rc != FL_E_BUSY) g->account->tokens += reading_cost(c);
        pthread_mutex_unlock(&s->lock);
        fl_generation_end(s, g);
        return rc;
    }
    pthread_mutex_lock(&s->lock);
    s->stats.generations++;
    pthread_mutex_unlock(&s->lock);
    put_start(&c->out, s, &o, g);
    return FL_OK;
}

void fl_generation_end(fl_server *s, fl_generation *g) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < g->n_requests; i++) {
        fl_usage u;
        fl_request_usage(g->requests[i], &u);
        tokens += u.prompt_tokens + u.completion_tokens;
        fl_request_unref(g->requests[i]);
    }
    pthread_mutex_lock(&s->lock);
    if (g->n_requests && g->written) s->stats.generations--;
    if (g->account) {
        g->account->running -= g->completions;
        g->account->tokens += tokens;
    }
    pthread_mutex_unlock(&s->lock);
    fl_free(g->requests);
    fl_free(g->written);
    fl_update_free(&g->update);
    *g = (fl_generation){0};
}

/* A key that the operator marked: prompts are read as text, and asking for more is refused. */
static int forbid_special(envelope *e, fl_arena *arena, fl_refusal *why) {
    static const char name[] = "parse_special";
    const fl_jv *asked = fl_jv_get(&e->body, name);
    if (e->parse_special || !e->has_body || e->body.kind != FL_JV_OBJECT) return FL_OK;
    if (asked && asked->kind == FL_JV_BOOL && asked->boolean) {
        why->param = name;
        return fl_fail(&why->err, FL_E_ARG, "parse_special: not offered to '%.*s'", (int)e->key.len,
                       e->key.data);
    }
    if (asked && asked->kind != FL_JV_NULL) return FL_OK;
    fl_jv_member *members = fl_arena_alloc(arena, (e->body.n + 1) * sizeof(*members));
    if (!members) return fl_fail(&why->err, FL_E_NOMEM, "body: %u members", e->body.n);
    members[0] = (fl_jv_member){{.kind = FL_JV_STRING, .string = {name, strlen(name)}},
                                {.kind = FL_JV_BOOL, .boolean = false}};
    if (e->body.n) memcpy(members + 1, e->body.members, e->body.n * sizeof(*members));
    e->body.members = members; /* the first of a name is the one that counts */
    e->body.n++;
    return FL_OK;
}

static int answer(fl_server *s, fl_conn *c, const envelope *e, fl_refusal *why) {
    int rc = FL_OK;
    pthread_mutex_lock(&s->lock);
    fl_account *a = e->key.data ? find_account(s, &e->key) : NULL;
    if (e->key.data) rc = a ? check_limits(a, e, 0, why) : fl_fail(&why->err, FL_E_NOMEM, "key");
    if (!rc && a) a->tokens += reading_cost(c);
    pthread_mutex_unlock(&s->lock);
    return rc ? rc : fl_answer(s, e->op, e->has_body ? &e->body : NULL, &c->out, why);
}

void fl_job_run(fl_server *s, fl_conn *c) {
    fl_arena arena = {.limit = (size_t)LIST_MIB << 20};
    fl_refusal why = {.param = NULL};
    envelope e;
    const size_t before = c->out.len;
    int rc = read_envelope(&e, c, &arena, &why.err);
    const bool chat = !rc && !strcmp(e.op, "chat");
    /* Ops that make tokens are the worker's, whose prompter it is (fl_job_quick has none of them). */
    if (chat || (!rc && (!strcmp(e.op, "completion") || !strcmp(e.op, "tokenize"))))
        s->prompter.stop = &c->gone;
    if (!rc) rc = forbid_special(&e, &arena, &why);
    if (!rc && chat)
        rc = generate(s, c, FL_OPENAI_CHAT, &e, &arena, &why);
    else if (!rc && !strcmp(e.op, "completion"))
        rc = generate(s, c, FL_OPENAI_COMPLETION, &e, &arena, &why);
    else if (!rc)
        rc = answer(s, c, &e, &why);
    if (rc) {
        c->out.len = before;
        fl_put_error(&c->out, &why);
        pthread_mutex_lock(&s->lock);
        s->stats.refused += rc != FL_E_BUSY;
        s->stats.busy += rc == FL_E_BUSY;
        pthread_mutex_unlock(&s->lock);
    }
    fl_arena_free(&arena);
}

bool fl_job_quick(fl_server *s, fl_conn *c) {
    enum { SHORT = 256 };
    static const char *const quick[] = {"health", "info", "stats"};
    fl_arena arena = {0};
    envelope e;
    bool found = false;
    if (c->count || c->line > SHORT) return false;
    const int rc = read_envelope(&e, c, &arena, NULL);
    for (size_t i = 0; !rc && i < sizeof(quick) / sizeof(quick[0]); i++)
        found |= !strcmp(e.op, quick[i]);
    fl_arena_free(&arena);
    if (!found) return false;
    pthread_mutex_lock(&s->lock);
    s->stats.requests++;
    pthread_mutex_unlock(&s->lock);
    fl_job_run(s, c);
    return true;
}

void fl_job_queue(fl_server *s, fl_conn *c) {
    fl_arena arena = {0};
    envelope e = {.op = NULL};
    /* Without a count the line is the body as well, and too long to be read here. */
    const bool known = c->count && !read_envelope_line(&e, c, &arena, NULL) && e.key.data;
    c->queued = NULL;
    pthread_mutex_lock(&s->lock);
    c->payer = known ? find_account(s, &e.key) : NULL;
    *s->todo_end = c;
    s->todo_end = &c->queued;
    s->stats.requests++;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    fl_arena_free(&arena);
}

static uint64_t *turn_of(fl_server *s, const fl_conn *c) {
    return c->payer ? &c->payer->turn : &s->nobodys_turn;
}

/* Accounts take turns, so that one with many large requests delays another by one of them at most:
 * the first request of the account that has waited longest for its turn.  With the lock held. */
static fl_conn *take_job(fl_server *s) {
    fl_conn **best = &s->todo;
    for (fl_conn **at = best; *at; at = &(*at)->queued) {
        if (*turn_of(s, *at) < *turn_of(s, *best)) best = at;
    }
    fl_conn *c = *best;
    if (!(*best = c->queued)) s->todo_end = best;
    *turn_of(s, c) = ++s->turn;
    return c;
}

/* Waits for a connection with a request; NULL: the server ends. */
static fl_conn *next_job(fl_server *s) {
    pthread_mutex_lock(&s->lock);
    while (!s->todo && !s->quit) pthread_cond_wait(&s->work, &s->lock);
    fl_conn *c = s->quit ? NULL : take_job(s);
    pthread_mutex_unlock(&s->lock);
    return c;
}

void *fl_job_thread(void *server) {
    fl_server *s = server;
    for (fl_conn *c; (c = next_job(s));) {
        if (!atomic_load(&c->gone)) fl_job_run(s, c); /* nobody waits for the answer any more */
        pthread_mutex_lock(&s->lock);
        c->queued = s->done;
        s->done = c;
        pthread_mutex_unlock(&s->lock);
        fl_server_wake(s);
    }
    return NULL;
}
