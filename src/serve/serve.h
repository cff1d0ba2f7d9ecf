/* serve.h - an engine behind a unix socket: lines of JSON, one connection a generation.
 *
 * A client sends a line and reads lines until the answer is complete; then it may send the
 * next one.  Closing the connection cancels what it runs.
 *
 *   {"op": "chat", "body": {...}}         body: an OpenAI request; also op "completion"
 *   27 {"op": "chat", "key": {...}}       ... or: the 27 bytes after the line are the body, as they came
 *   {"op": "tokenize" | "detokenize" | "tokenizer_info" | "info" | "stats" | "health"}
 *
 * key = {"name", "max_running", "tokens_per_minute"}: on whose account, 0 or absent = no limit;
 * max_running counts completions, n of each prompt.  Keys take turns.  "parse_special": false in it:
 * special tokens in prompts are text.
 * A generation is answered by
 *   {"start": {"stream", "include_usage", "continuous_usage_stats", "return_token_ids",
 *              "return_tokens_as_token_ids", "choices", "prompt_tokens", "model", "request_id"}}
 * (model: the name the client used; request_id: only if it gave one), and then events
 *   {"i": choice, "t": [ids], "lp": [...], "s": [texts], "top": [[[id, lp, text], ...], ...],
 *    "d": "text"}
 * with "prompt": {"t", "lp", "s", "top"} before "t" in a choice's first event, when asked for; with
 * "fin": "stop", "reason": id or text there at the end of a choice, and "usage": {...} at the end of
 * all; one event a choice when not streaming.  Members come in this order, so that
 * the most frequent event is {"i":0,"t":[1],"d":"x"}.  lp, s and top only when asked for; a token's
 * text that is no UTF-8 is the list of its bytes.  Anything else is answered by one object, and a
 * refusal by
 *   {"error": {"code", "message", "param", "retry_after"}}.
 *
 * Two threads: one owns all sockets and sleeps in epoll, one reads bodies, applies chat templates
 * and tokenizes.  All signals are blocked in both. */
#ifndef FL_SERVE_SERVE_H
#define FL_SERVE_SERVE_H

#include "engine/engine.h"
#include "engine/prompt.h"

typedef struct fl_server fl_server;

typedef struct fl_server_options {
    const char *path;                /* of the socket, at most 90 bytes; NULL: exchange.h     */
    const char *notify;              /* NULL, or the address where systemd awaits READY=1     */
    const char *const *names;        /* NULL-terminated: the model's for clients; NULL = any  */
    const char *const *policies;     /* NULL-terminated or NULL: what clients may choose      */
    const char *const *row_policies; /* those of them that get whole rows of logits */
    int64_t max_connections;         /* 0: 1024                                               */
    int64_t max_request_bytes;       /* of an answer that is not streamed, too; 0: 16 MiB     */
    int64_t drain_ms;                /* how long a stop lets generations finish; 0: 30000     */
    bool has_temperature;            /* where neither a request nor the model says one:       */
    double temperature;              /* in [0, 100]; else OpenAI's 1                          */
    bool signals;                    /* SIGTERM and SIGINT stop it; blocked in the caller     */
    fl_tokenizer *tokenizer;         /* NULL: requests of ids only; these three are counted   */
    fl_template *chat;               /* of the two, as in fl_prompter */
    fl_template *chat_with_tools;
} fl_server_options;

/* One server an engine.  Copies the options.  The socket appears under its path when everything is
 * ready, replacing one that a crash left; FL_E_BUSY, naming the process: somebody listens there.
 * Until the server ends, fl_engine_next_parked waits for requests to come. */
int fl_server_new(fl_server **out, fl_engine *e, fl_model *m, const fl_server_options *o,
                  fl_err *err);
/* drain: generations may finish, within drain_ms.  Joins the threads.  NULL is fine. */
void fl_server_free(fl_server *s, bool drain);

#endif
