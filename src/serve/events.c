/* Events of a generation: what the engine has made since the last ones. */
#include <math.h>
#include <string.h>

#include "serve/serve_priv.h"

/* JSON has no infinity: a token that could not be chosen gets what vLLM writes. */
static void put_logprob(fl_bytes *out, float v) {
    fl_bytes_printf(out, "%.9g", isfinite(v) ? (double)v : -9999.0);
}

static void put_top(fl_bytes *out, const fl_tokenizer *t, const fl_top *top, int64_t n) {
    fl_bytes_putc(out, '[');
    for (int64_t i = 0; i < n && top[i].id >= 0; i++) {
        fl_bytes_printf(out, i ? ",[%d," : "[%d,", top[i].id);
        put_logprob(out, top[i].logprob);
        fl_bytes_putc(out, ',');
        fl_put_token(out, t, top[i].id);
        fl_bytes_putc(out, ']');
    }
    fl_bytes_putc(out, ']');
}

typedef struct run { /* tokens that an event shows */
    const int32_t *ids;
    const float *logprob; /* NULL: not asked for */
    const fl_top *top;    /* [n * n_top] */
    int64_t n, n_top;
    bool opens; /* with the first of a prompt: nothing stands before it, so nothing predicts it */
} run;

typedef enum { TOKENS, LOGPROBS, TEXTS, TOPS } column;

static void put_cell(fl_bytes *out, const fl_tokenizer *t, const run *r, int64_t i, column what) {
    if (what == TOKENS)
        fl_bytes_printf(out, "%d", r->ids[i]);
    else if (what == TEXTS)
        fl_put_token(out, t, r->ids[i]);
    else if (r->opens && !i)
        fl_bytes_puts(out, "null");
    else if (what == LOGPROBS)
        put_logprob(out, r->logprob[i]);
    else
        put_top(out, t, r->top + i * r->n_top, r->n_top);
}

static void put_run(fl_bytes *out, const fl_tokenizer *t, const run *r) {
    static const char *const name[] = {"\"t\":[", ",\"lp\":[", ",\"s\":[", ",\"top\":["};
    const column last = !r->logprob ? TOKENS : r->n_top ? TOPS : TEXTS;
    for (column what = TOKENS; what <= last; what++) {
        fl_bytes_puts(out, name[what]);
        for (int64_t i = 0; i < r->n; i++) {
            if (i) fl_bytes_putc(out, ',');
            put_cell(out, t, r, i, what);
        }
        fl_bytes_putc(out, ']');
    }
}

static void put_usage(fl_bytes *out, const fl_generation *g) {
    fl_usage all = {0};
    for (int64_t i = 0; i < g->n_requests; i++) {
        fl_usage u;
        fl_request_usage(g->requests[i], &u);
        all.prompt_tokens += u.prompt_tokens;
        all.completion_tokens += u.completion_tokens;
        all.cached_tokens += u.cached_tokens;
        if (!i || u.first_token_s < all.first_token_s) all.first_token_s = u.first_token_s;
        if (u.total_s > all.total_s) all.total_s = u.total_s;
    }
    fl_bytes_printf(out,
                    "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,"
                    "\"cached_tokens\":%lld,\"first_token_s\":%.6f,\"total_s\":%.6f},",
                    (long long)all.prompt_tokens, (long long)all.completion_tokens,
                    (long long)all.cached_tokens, all.first_token_s, all.total_s);
}

/* The end of text has no reason of its own; other ids and texts that stop say which it was. */
static bool is_reason(const fl_request *r, const fl_tokenizer *t, int32_t id) {
    return id >= 0 && (!t || id != fl_tokenizer_eos(t) || fl_request_params(r)->ignore_eos);
}

static void put_finish(fl_bytes *out, const fl_tokenizer *t, fl_generation *g, fl_request *r,
                       const fl_update *u) {
    fl_bytes_printf(out, "\"fin\":\"%s\",", fl_finish_name(u->finish));
    if (is_reason(r, t, u->stop_id)) fl_bytes_printf(out, "\"reason\":%d,", u->stop_id);
    if (u->stop_text.data) {
        fl_bytes_puts(out, "\"reason\":");
        fl_put_text(out, u->stop_text.data, u->stop_text.len);
        fl_bytes_putc(out, ',');
    }
    if (u->finish == FL_FINISH_ERROR) {
        const fl_err *err = fl_request_error(r);
        fl_bytes_printf(out, "\"code\":\"%s\",\"message\":", fl_code_name(err->code));
        fl_put_text(out, err->msg, strlen(err->msg));
        fl_bytes_putc(out, ',');
    }
    if (--g->n_unfinished == 0) put_usage(out, g);
}

/* "prompt": its ids and log-probabilities, when they were asked for and no echo shows them. */
static void put_prompt(fl_bytes *out, const fl_tokenizer *t, const fl_generation *g,
                       fl_request *r) {
    const fl_params *p = fl_request_params(r);
    if (p->echo || (p->prompt_logprobs < 0 && !g->return_token_ids)) return;
    run prompt = {.opens = true, .n_top = p->prompt_logprobs > 0 ? p->prompt_logprobs : 0};
    int64_t n;
    prompt.ids = fl_request_prompt(r, &prompt.n);
    prompt.logprob = fl_request_prompt_logprobs(r, &prompt.top, &n);
    fl_bytes_puts(out, "\"prompt\":{");
    put_run(out, t, &prompt);
    fl_bytes_puts(out, "},");
}

static void put_event(fl_server *s, fl_conn *c, int64_t k, const fl_update *u) {
    fl_generation *g = &c->generation;
    fl_request *r = g->requests[k];
    const fl_params *p = fl_request_params(r);
    const int64_t choice = k * g->n + u->index;
    const bool first = !g->written[choice];
    const run new = {u->ids,          p->logprobs < 0 ? NULL : u->logprob, u->top, u->n, u->n_top,
                     first && p->echo};
    g->written[choice] = true;
    fl_bytes_printf(&c->out, "{\"i\":%lld,", (long long)choice);
    if (first && u->n) put_prompt(&c->out, s->tokenizer, g, r);
    if (u->finish) put_finish(&c->out, s->tokenizer, g, r, u);
    put_run(&c->out, s->tokenizer, &new);
    fl_bytes_puts(&c->out, ",\"d\":");
    fl_put_text(&c->out, u->text.data, u->text.len);
    fl_bytes_puts(&c->out, "}\n");
}

/* Everything that request k has for its reader. */
static void write_news(fl_server *s, fl_conn *c, int64_t k) {
    fl_generation *g = &c->generation;
    while (c->out.len < FL_SERVE_OUT_BYTES) {
        fl_read_result result;
        if (fl_request_read(g->requests[k], &g->update, &result, NULL)) c->out.failed = true;
        if (c->out.failed || result != FL_READ_UPDATE) return;
        put_event(s, c, k, &g->update);
    }
}

/* One whole completion.  Whoever reads an answer that is not streamed holds all of it, and nginx
 * before that: it may be as large as a request. */
static void put_whole(fl_server *s, fl_conn *c, int64_t k) {
    fl_generation *g = &c->generation;
    const size_t before = c->out.len;
    c->out.limit = before + (size_t)(s->max_request_bytes - g->bytes);
    put_event(s, c, k, &g->update);
    c->out.limit = 0;
    g->bytes += (int64_t)(c->out.len - before);
    if (!c->out.failed) return;
    fl_refusal why = {.param = "logprobs"};
    fl_fail(&why.err, FL_E_LIMIT,
            "logprobs: the answer has more than %lld bytes; ask for a stream, or for less",
            (long long)s->max_request_bytes);
    c->out.failed = false;
    c->out.len = before;
    fl_put_error(&c->out, &why);
    g->too_large = true;
}

/* All completions of request k, once it has ended. */
static void write_whole(fl_server *s, fl_conn *c, int64_t k) {
    fl_generation *g = &c->generation;
    if (g->written[(k + 1) * g->n - 1] || !fl_request_ended(g->requests[k])) return;
    for (int64_t i = 0; i < g->n && c->out.len < FL_SERVE_OUT_BYTES; i++) {
        if (g->written[k * g->n + i]) continue;
        if (fl_request_result(g->requests[k], i, &g->update, NULL)) c->out.failed = true;
        if (!c->out.failed) put_whole(s, c, k);
        if (c->out.failed || g->too_large) return;
    }
}

bool fl_events_write(fl_server *s, fl_conn *c) {
    fl_generation *g = &c->generation;
    for (int64_t k = 0; k < g->n_requests && !g->too_large; k++) {
        if (g->stream)
            write_news(s, c, k);
        else
            write_whole(s, c, k);
    }
    return g->n_unfinished == 0 || g->too_large;
}
