/* Requests that generate nothing: counting tokens, facts, figures. */
#include <string.h>

#include "serve/serve_priv.h"
#include "util/mem.h"

static int answer_health(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    (void)body;
    int rc = fl_engine_check_device(s->engine, &why->err);
    if (!rc) fl_bytes_puts(out, "{\"status\":\"ok\"}\n");
    return rc;
}

static void put_names(fl_bytes *out, const char *key, char *const *names) {
    fl_bytes_printf(out, "\"%s\":[", key);
    for (size_t i = 0; names[i]; i++) {
        if (i) fl_bytes_putc(out, ',');
        fl_put_text(out, names[i], strlen(names[i]));
    }
    fl_bytes_puts(out, "],");
}

/* Sampling of requests that say nothing, where that is known. */
static void put_sampling(fl_bytes *out, const fl_generation_config *g) {
    const bool greedy = g->has_do_sample && !g->do_sample;
    const struct {
        const char *name;
        bool has;
        double value;
    } member[] = {
        {"temperature", g->has_temperature || greedy, greedy ? 0 : g->temperature},
        {"top_p", g->has_top_p, g->top_p},
        {"top_k", g->has_top_k, (double)g->top_k},
        {"min_p", g->has_min_p, g->min_p},
        {"repetition_penalty", g->has_repetition_penalty, g->repetition_penalty},
        {"max_new_tokens", g->has_max_new_tokens, (double)g->max_new_tokens},
    };
    const char *comma = "";
    fl_bytes_puts(out, ",\"sampling\":{");
    for (size_t i = 0; i < sizeof(member) / sizeof(member[0]); i++) {
        if (!member[i].has) continue;
        fl_bytes_printf(out, "%s\"%s\":%.10g", comma, member[i].name, member[i].value);
        comma = ",";
    }
    fl_bytes_puts(out, "}}\n");
}

static int answer_info(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    (void)body;
    (void)why;
    fl_bytes_putc(out, '{');
    put_names(out, "names", s->names);
    put_names(out, "policies", s->policies);
    fl_bytes_puts(out, "\"quantization\":");
    fl_put_text(out, s->info.quantization, strlen(s->info.quantization));
    fl_bytes_printf(out,
                    ",\"context\":%lld,\"kv_tokens\":%lld,\"parameters\":%lld,\"vocab_size\":%lld",
                    (long long)s->info.context, (long long)s->info.kv_tokens,
                    (long long)s->info.n_parameters, (long long)s->vocab);
    put_sampling(out, &s->generation);
    return FL_OK;
}

/* {"count", "sum", "n": [how many up to each bound]} */
static void put_histogram(fl_bytes *out, const char *name, const fl_histogram *h) {
    uint64_t n = 0;
    fl_bytes_printf(out, ",\"%s\":{\"count\":%llu,\"sum\":%.6f,\"n\":[", name,
                    (unsigned long long)h->count, h->sum);
    for (int i = 0; i < FL_HISTOGRAM_BOUNDS; i++) {
        n += h->bucket[i];
        fl_bytes_printf(out, i ? ",%llu" : "%llu", (unsigned long long)n);
    }
    fl_bytes_puts(out, "]}");
}

static void put_bounds(fl_bytes *out) {
    fl_bytes_puts(out, "{\"le\":[");
    for (int i = 0; i < FL_HISTOGRAM_BOUNDS; i++)
        fl_bytes_printf(out, i ? ",%.9g" : "%.9g", fl_histogram_bound(i));
    fl_bytes_putc(out, ']');
}

static int answer_stats(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    fl_engine_stats e;
    (void)body;
    (void)why;
    fl_engine_stats_get(s->engine, &e);
    pthread_mutex_lock(&s->lock);
    const fl_server_stats own = s->stats;
    pthread_mutex_unlock(&s->lock);
    const struct {
        const char *name;
        double value;
    } number[] = {
        {"connections", (double)own.connections},
        {"generations", (double)own.generations},
        {"operations", (double)own.requests},
        {"refused", (double)own.refused},
        {"busy", (double)own.busy},
        {"running", (double)e.running},
        {"queued", (double)e.queued},
        {"parked", (double)e.parked},
        {"kv_pages", (double)e.kv_pages},
        {"kv_pages_used", (double)e.kv_pages_used},
        {"requests", (double)e.requests},
        {"finished", (double)e.finished},
        {"steps", (double)e.steps},
        {"preemptions", (double)e.preemptions},
        {"prompt_tokens", (double)e.prompt_tokens},
        {"cached_tokens", (double)e.cached_tokens},
        {"output_tokens", (double)e.output_tokens},
        {"prefix_queries", (double)e.prefix_queries},
        {"prefix_hits", (double)e.prefix_hits},
        {"draft_tokens", (double)e.draft_tokens},
        {"accepted_tokens", (double)e.accepted_tokens},
        {"device_tokens", (double)e.device_tokens},
        {"schedule_s", e.schedule_s},
        {"sample_s", e.sample_s},
    };
    put_bounds(out);
    for (size_t i = 0; i < sizeof(number) / sizeof(number[0]); i++)
        fl_bytes_printf(out, ",\"%s\":%.15g", number[i].name, number[i].value);
    put_histogram(out, "step_s", &e.step_s);
    put_histogram(out, "queue_s", &e.queue_s);
    put_histogram(out, "first_token_s", &e.first_token_s);
    put_histogram(out, "inter_token_s", &e.inter_token_s);
    put_histogram(out, "total_s", &e.total_s);
    put_histogram(out, "policy_s", &e.policy_s);
    fl_bytes_puts(out, "}\n");
    return FL_OK;
}

static int need_tokenizer(const fl_server *s, fl_refusal *why) {
    return s->prompter.tokenizer
               ? FL_OK
               : fl_fail(&why->err, FL_E_UNSUPPORTED, "the model has no tokenizer");
}

static const fl_jv *member(const fl_jv *body, const char *name) {
    const fl_jv *v = body ? fl_jv_get(body, name) : NULL;
    return v && v->kind != FL_JV_NULL ? v : NULL;
}

static void put_token_texts(fl_bytes *out, const fl_tokenizer *t, const int32_t *ids, size_t n) {
    fl_bytes_puts(out, ",\"token_strs\":[");
    for (size_t i = 0; i < n; i++) {
        size_t length = 0;
        const char *piece = fl_tokenizer_piece(t, ids[i], &length);
        if (i) fl_bytes_putc(out, ',');
        fl_put_text(out, piece, length);
    }
    fl_bytes_putc(out, ']');
}

/* The ids of the body's prompt as /v1/completions and /v1/chat/completions would read it. */
static int encode_prompt(fl_server *s, const fl_jv *body, fl_arena *arena, const int32_t **ids,
                         size_t *n, fl_err *err) {
    static const char name[] = "parse_special";
    fl_jv object = *body;
    fl_jv_member *members = fl_arena_alloc(arena, (body->n + 1) * sizeof(*members));
    if (!members) return fl_fail(err, FL_E_NOMEM, "body: %u members", body->n);
    members[0] = (fl_jv_member){{.kind = FL_JV_STRING, .string = {name, strlen(name)}},
                                {.kind = FL_JV_BOOL, .boolean = true}};
    if (body->n) memcpy(members + 1, body->members, body->n * sizeof(*members));
    if (!member(body, name)) { /* the first of a name is the one that counts */
        object.members = members;
        object.n++;
    }
    fl_prompter any_length = s->prompter;
    any_length.context = 0;
    return fl_prompt_encode(&any_length, &object, arena, ids, n, err);
}

/* {"prompt": text, "add_special_tokens": true, "parse_special": true} or {"messages": [...], ...},
 * and "return_token_strs". */
static int answer_tokenize(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    fl_arena arena = {0};
    const int32_t *ids = NULL;
    size_t n = 0;
    int rc = need_tokenizer(s, why);
    if (rc) return rc;
    const fl_jv *messages = member(body, "messages"), *texts = member(body, "return_token_strs");
    if (!messages && !member(body, "prompt")) {
        why->param = "prompt";
        return fl_fail(&why->err, FL_E_ARG, "prompt: need a text, or messages");
    }
    why->param = messages ? "messages" : "prompt";
    rc = encode_prompt(s, body, &arena, &ids, &n, &why->err);
    if (!rc) {
        fl_bytes_printf(out, "{\"count\":%zu,\"max_model_len\":%lld,\"tokens\":[", n,
                        (long long)s->info.context);
        fl_put_ids(out, ids, (int64_t)n);
        fl_bytes_putc(out, ']');
        if (texts && texts->kind == FL_JV_BOOL && texts->boolean)
            put_token_texts(out, s->prompter.tokenizer, ids, n);
        fl_bytes_puts(out, "}\n");
    }
    fl_arena_free(&arena);
    return rc;
}

/* {"tokens": [ids]} */
static int answer_detokenize(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    const fl_jv *tokens = member(body, "tokens");
    const fl_tokenizer *t = s->prompter.tokenizer;
    fl_bytes text = {0};
    int rc = need_tokenizer(s, why);
    if (rc) return rc;
    why->param = "tokens";
    if (!tokens || tokens->kind != FL_JV_ARRAY)
        return fl_fail(&why->err, FL_E_ARG, "tokens: need a list of ids");
    int32_t *ids = fl_alloc_array(tokens->n + 1, sizeof(*ids));
    if (!ids) return fl_fail(&why->err, FL_E_NOMEM, "tokens: %u", tokens->n);
    for (uint32_t i = 0; !rc && i < tokens->n; i++) {
        const fl_jv *v = &tokens->items[i];
        if (v->kind != FL_JV_INT || v->integer < 0 || v->integer >= fl_tokenizer_rows(t))
            rc = fl_fail(&why->err, FL_E_ARG, "tokens: element %u is no id below %d", i,
                         fl_tokenizer_rows(t));
        else
            ids[i] = (int32_t)v->integer;
    }
    if (!rc) rc = fl_tokenizer_decode(t, ids, tokens->n, false, &text, &why->err);
    if (!rc && text.failed) rc = fl_fail(&why->err, FL_E_NOMEM, "tokens: their text");
    if (!rc) {
        fl_bytes_puts(out, "{\"prompt\":");
        fl_put_text(out, text.data, text.len);
        fl_bytes_puts(out, "}\n");
    }
    fl_bytes_free(&text);
    fl_free(ids);
    return rc;
}

/* The named special tokens and the chat template. */
static int answer_tokenizer_info(fl_server *s, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    const fl_tokenizer *t = s->prompter.tokenizer;
    int rc = need_tokenizer(s, why);
    (void)body;
    if (rc) return rc;
    const char *source = fl_tokenizer_chat_template(t, NULL);
    fl_bytes_printf(out, "{\"vocab_size\":%d,\"chat_template\":", fl_tokenizer_size(t));
    if (source)
        fl_put_text(out, source, strlen(source));
    else
        fl_bytes_puts(out, "null");
    for (size_t i = 0; i < fl_tokenizer_n_named(t); i++) {
        const char *value, *name = fl_tokenizer_named(t, i, &value);
        fl_bytes_putc(out, ',');
        fl_put_text(out, name, strlen(name));
        fl_bytes_putc(out, ':');
        fl_put_text(out, value, strlen(value));
    }
    fl_bytes_puts(out, "}\n");
    return FL_OK;
}

int fl_answer(fl_server *s, const char *op, const fl_jv *body, fl_bytes *out, fl_refusal *why) {
    static const struct {
        const char *op;
        int (*answer)(fl_server *, const fl_jv *, fl_bytes *, fl_refusal *);
    } answers[] = {
        {"health", answer_health},         {"info", answer_info},
        {"stats", answer_stats},           {"tokenize", answer_tokenize},
        {"detokenize", answer_detokenize}, {"tokenizer_info", answer_tokenizer_info},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (!strcmp(op, answers[i].op)) return answers[i].answer(s, body, out, why);
    }
    why->param = "op";
    return fl_fail(&why->err, FL_E_ARG, "op: '%.40s' is not known", op);
}
