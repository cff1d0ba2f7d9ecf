/* The engine process's socket: every way in which a client can ask, leave, lag or lie. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "fixture.h"
#include "serve/openai_request.h"
#include "serve/serve.h"
#include "tap.h"
#include "util/mem.h"
#include "util/utf8.h"

static const char dir[] = "build/spec/serve";
static const char path[] = "build/spec/serve/engine.sock";

static fl_model *model;
static fl_engine *engine;
static fl_tokenizer *tokenizer;
static fl_template *chat;

typedef struct client {
    int fd;
    char *data; /* read and not handed out */
    size_t len, cap, at;
    char *line; /* the last line */
} client;

static client client_new(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    client c = {.fd = socket(AF_UNIX, SOCK_STREAM, 0), .cap = 1 << 22};
    const struct timeval ten_seconds = {10, 0};
    c.data = malloc(c.cap);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &ten_seconds, sizeof(ten_seconds));
    if (!c.data || connect(c.fd, (const struct sockaddr *)&a, sizeof(a))) {
        printf("# %s: %s\n", path, strerror(errno));
        exit(1);
    }
    return c;
}

static void client_free(client *c) {
    if (c->fd >= 0) close(c->fd);
    free(c->data);
}

static void put(client *c, const char *text) {
    while (*text) {
        ssize_t n = send(c->fd, text, strlen(text), MSG_NOSIGNAL);
        if (n < 0) return; /* refused and closed: the answer tells */
        text += n;
    }
}

/* The body as it is, counted. */
static void put_body(client *c, const char *op, const char *body) {
    char head[256];
    snprintf(head, sizeof(head), "%zu {\"op\":\"%s\"}\n", strlen(body), op);
    put(c, head);
    put(c, body);
}

/* The next line, or "" at the end. */
static const char *get(client *c) {
    for (;;) {
        char *end = memchr(c->data + c->at, '\n', c->len - c->at);
        if (end) {
            c->line = c->data + c->at;
            *end = 0;
            c->at = (size_t)(end - c->data) + 1;
            return c->line;
        }
        memmove(c->data, c->data + c->at, c->len - c->at);
        c->len -= c->at;
        c->at = 0;
        ssize_t n = recv(c->fd, c->data + c->len, c->cap - c->len, 0);
        if (n <= 0) return "";
        c->len += (size_t)n;
    }
}

/* Lines up to the one that ends a generation; that one stays in c->line. */
static int get_all(client *c, fl_bytes *text) {
    for (int lines = 1;; lines++) {
        const char *line = get(c), *d;
        if (!*line || strstr(line, "{\"error\"")) return -1;
        if (text && (d = strstr(line, ",\"d\":\""))) {
            d += 6;
            fl_bytes_put(text, d, strlen(d) - 2);
        }
        if (strstr(line, "\"usage\"")) return lines;
    }
}

#define SPECIAL         "<|end|>"
#define SPECIAL_AS_TEXT "7"
#define MARKED          "\"key\":{\"name\":\"eve\",\"parse_special\":false},"

static bool has(const char *line, const char *part) {
    return strstr(line, part) != NULL;
}

static void setup(void) {
    char command[256];
    fl_err err = {0, ""};
    const fl_model_options options = {.threads = 1, .kv_tokens = 1 << 16};
    const fl_engine_options few_unread = {.max_unread = 64};
    snprintf(command, sizeof(command), "luajit spec/support/tiny_model.lua %s", dir);
    int rc = system(command);
    if (!rc) rc = fl_model_load(&model, dir, &options, &err);
    if (!rc) rc = fl_tokenizer_load(&tokenizer, dir, &err);
    const char *source = rc ? "" : fl_tokenizer_chat_template(tokenizer, NULL);
    if (!rc) rc = fl_template_parse(&chat, source, strlen(source), &err);
    if (!rc) rc = fl_engine_new(&engine, model, tokenizer, &few_unread, &err);
    if (rc) {
        printf("# setup: %s\n", err.msg);
        exit(1);
    }
}

static const char *const names[] = {"tiny", "alias", NULL};
static const char *const policies[] = {"first", NULL};

static int64_t request_bytes = 100000; /* of servers that are started */

static fl_server *start_at(const char *at, fl_engine *e) {
    const fl_server_options o = {.path = at,
                                 .names = names,
                                 .policies = policies,
                                 .max_connections = 8,
                                 .max_request_bytes = request_bytes,
                                 .drain_ms = 20000,
                                 .tokenizer = tokenizer,
                                 .chat = chat};
    fl_server *s = NULL;
    fl_err err = {0, ""};
    if (fl_server_new(&s, e, model, &o, &err)) printf("# server: %s\n", err.msg);
    return s;
}

static fl_server *start(fl_engine *e) {
    return start_at(path, e);
}

/* ---- what is said ---- */

static void test_refusals(void) {
    static const struct {
        const char *op, *body, *code, *param, *says;
    } cases[] = {
        {"completion", "{\"prompt\":\"a", "FORMAT", NULL, "string without end"},
        {"completion", "[]", "ARG", NULL, "JSON object"},
        {"completion", "", "FORMAT", NULL, "body: line 1"},
        {"completion", "{}", "ARG", "prompt", "need a string"},
        {"completion", "{\"prompt\":null}", "ARG", "prompt", "need a string"},
        {"completion", "{\"prompt\":{}}", "ARG", "prompt", "need a string"},
        {"completion", "{\"prompt\":[]}", "ARG", "prompt", "empty"},
        {"completion", "{\"prompt\":[1,\"a\"]}", "ARG", "prompt", "element 1"},
        {"completion", "{\"prompt\":[[1],\"a\"]}", "ARG", "prompt", "texts and lists"},
        {"completion", "{\"prompt\":[1,272]}", "ARG", "prompt", "272"},
        {"completion", "{\"prompt\":[[1],[-1]]}", "ARG", "prompt", "element 0"},
        {"completion", "{\"prompt\":\"a\",\"temperature\":\"hot\"}", "ARG", "temperature", "hot"},
        {"completion", "{\"prompt\":\"a\",\"temperature\":1e999}", "ARG", "temperature", "number"},
        {"completion", "{\"prompt\":\"a\",\"max_tokens\":0}", "ARG", "max_tokens", "echo"},
        {"completion", "{\"prompt\":\"a\",\"n\":129}", "ARG", "n", "128"},
        {"completion", "{\"prompt\":\"a\",\"n\":2,\"best_of\":3}", "ARG", "best_of", "n"},
        {"completion", "{\"prompt\":\"a\",\"suffix\":\"b\"}", "ARG", "suffix", "not offered"},
        {"completion", "{\"prompt\":\"a\",\"stream\":1}", "ARG", "stream", "true or false"},
        {"completion", "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}", "ARG",
         "stream_options", "stream"},
        {"completion", "{\"prompt\":\"a\",\"logit_bias\":{\"999\":1}}", "ARG", "logit_bias", "272"},
        {"completion", "{\"prompt\":\"a\",\"model\":\"other\"}", "ARG", "model", "other"},
        {"completion", "{\"prompt\":\"a\",\"model\":7}", "ARG", "model", "string"},
        {"completion", "{\"prompt\":\"a\",\"policy\":\"second\"}", "ARG", "policy", "second"},
        {"completion", "{\"prompt\":\"a\",\"policy\":true}", "ARG", "policy", "name"},
        {"completion", "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", "ARG",
         "response_format", "text"},
        {"completion", /* the message quotes it, and is cut in the middle of a character */
         "{\"prompt\":\"a\",\"temperature\":"
         "\"\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"
         "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"
         "\u00e9\u00e9"
         "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"
         "\u00e9\u00e9\"}",
         "ARG", "temperature", "number"},
        {"chat", "{}", "ARG", "messages", "list"},
        {"chat", "{\"messages\":[]}", "ARG", "messages", "at least one"},
        {"chat", "{\"messages\":[1]}", "ARG", "messages", "messages[0]"},
        {"chat", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "UNSUPPORTED", "messages", "image_url"},
        {"chat", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"top_logprobs\":2}", "ARG",
         "top_logprobs", "logprobs"},
        {"chat",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,\"top_logprobs\":"
         "65}",
         "ARG", "top_logprobs", "64"},
        {"chat", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":3}", "ARG",
         "logprobs", "true or false"},
        {"chat",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tool_choice\":\"required\"}",
         "ARG", "tool_choice", "auto and none"},
        {"chat",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template_kwargs\":{"
         "\"messages\":1}}",
         "ARG", "chat_template_kwargs", "reserved"},
        {"tokenize", "{}", "ARG", "prompt", "text"},
        {"detokenize", "{\"tokens\":[0,9999]}", "ARG", "tokens", "element 1"},
        {"detokenize", "{\"tokens\":3}", "ARG", "tokens", "list"},
        {"nothing", "{}", "ARG", "op", "nothing"},
    };
    client c = client_new();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char code[64], param[64];
        put_body(&c, cases[i].op, cases[i].body);
        const char *line = get(&c);
        snprintf(code, sizeof(code), "{\"error\":{\"code\":\"%s\"", cases[i].code);
        snprintf(param, sizeof(param), "\"param\":\"%s\"", cases[i].param ? cases[i].param : "");
        bool ok = has(line, code) && has(line, cases[i].says) && fl_utf8_valid(line, strlen(line));
        ok = ok && (cases[i].param ? has(line, param) : !has(line, "\"param\""));
        check(ok, "%s %.60s: %s names %s", cases[i].op, cases[i].body, cases[i].code,
              cases[i].param ? cases[i].param : "nothing");
        if (!ok) printf("# %s\n", line);
    }
    client_free(&c);
}

static void test_envelopes(void) {
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"{\"op\":7}\n", "need an op"},
        {"{\"op\":\"chat\"}\n", "body: need"},
        {"\n", "request: line"},
        {"{\"op\":\"chat\",\"body\":{},\"key\":{}}\n", "key: name"},
        {"{\"op\":\"chat\",\"body\":{},\"key\":{\"name\":\"a\",\"max_running\":-1}}\n",
         "max_running"},
        {"{\"op\":\"tokenize\",\"body\":{\"prompt\":\"hello\"}}\n", "\"tokens\":[256,259,111]"},
        {"{\"op\":\"health\"}\n", "\"ok\""},
    };
    client c = client_new();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put(&c, cases[i].line);
        const int n = (int)strcspn(cases[i].line, "\n");
        check(has(get(&c), cases[i].says), "the line %.*s gets: %s", n, cases[i].line,
              cases[i].says);
    }
    client_free(&c);
}

static void test_framing(void) {
    const char pair[] = "18 {\"op\":\"tokenize\"}\n{\"prompt\":\"hello\"}{\"op\":\"health\"}\n";
    client c = client_new();
    for (const char *p = pair; *p; p++) {
        const char one[2] = {*p, 0};
        put(&c, one);
    }
    check(has(get(&c), "[256,259,111]"), "a request that comes byte by byte is answered");
    check(has(get(&c), "\"ok\""), "what follows a counted body is the next request");
    put(&c, pair);
    bool both = has(get(&c), "[256,259,111]") && has(get(&c), "\"ok\"");
    check(both, "two requests at once are answered in order");
    client_free(&c);

    c = client_new();
    put(&c, "999999999 {\"op\":\"chat\"}\n");
    check(has(get(&c), "LIMIT") && !*get(&c),
          "a body beyond the limit is refused, and that ends it");
    client_free(&c);

    c = client_new();
    char *junk = malloc(300001);
    memset(junk, 'x', 300000);
    junk[300000] = 0;
    put(&c, junk);
    check(has(get(&c), "LIMIT") && !*get(&c),
          "a line beyond the limit is refused, and that ends it");
    client_free(&c);
    free(junk);
}

/* ---- generations ---- */

static const char greedy[] = "{\"prompt\":\"hello\",\"max_tokens\":40,\"temperature\":0,\"ignore_"
                             "eos\":true,\"stream\":%s,\"n\":%d}";

static void test_generation(void) {
    char body[512];
    fl_bytes streamed = {0}, whole = {0};
    client c = client_new();
    snprintf(body, sizeof(body), greedy, "true", 1);
    put_body(&c, "completion", body);
    check(has(get(&c), "{\"start\":{\"stream\":true,"), "the answer begins with what was asked");
    int lines = get_all(&c, &streamed);
    check(lines > 0 && has(c.line, "\"fin\":\"length\"") && has(c.line, "\"completion_tokens\":40"),
          "a stream ends with the usage");
    snprintf(body, sizeof(body), greedy, "false", 1);
    put_body(&c, "completion", body);
    get(&c);
    check(get_all(&c, &whole) == 1, "without streaming there is one event");
    check(streamed.len && streamed.len == whole.len &&
              !memcmp(streamed.data, whole.data, whole.len),
          "its text is that of the stream");
    put_body(&c, "completion",
             "{\"prompt\":[\"hello\",\"abc\"],\"max_tokens\":1,\"n\":2,\"echo\":true,"
             "\"logprobs\":1,\"temperature\":0}");
    check(has(get(&c), "\"choices\":4,\"prompt_tokens\":6"), "two prompts twice are four choices");
    check(has(get(&c), "{\"i\":0,\"fin\":\"length\",\"t\":[256,259,111,") &&
              has(c.line, "\"lp\":[null,-") && has(c.line, "\"s\":[\"he\",\"ll\",\"o\",") &&
              has(c.line, "\"d\":\"hello"),
          "echo puts the prompt before the completion, with log-probabilities");
    get(&c);
    check(has(get(&c), "{\"i\":2,\"fin\":\"length\",\"t\":[97,98,99,") &&
              has(get(&c), "\"completion_tokens\":4"),
          "the second prompt's choices follow, the usage is of all");
    put_body(&c, "completion", "{\"prompt\":[97],\"echo\":true,\"max_tokens\":0,\"logprobs\":0}");
    get(&c);
    check(has(get(&c), "\"t\":[97],\"lp\":[null],\"s\":[\"a\"],\"d\":\"a\"}"),
          "echo with max_tokens 0 shows the prompt alone");
    client_free(&c);
    fl_bytes_free(&streamed);
    fl_bytes_free(&whole);
}

static int64_t running(void) {
    fl_engine_stats st;
    fl_engine_stats_get(engine, &st);
    return st.running + st.queued;
}

static bool idle_within(int ms) {
    const struct timespec one_ms = {0, 1000000};
    for (; ms && running(); ms--) nanosleep(&one_ms, NULL);
    return !running();
}

static const char endless[] =
    "{\"prompt\":\"hello\",\"ignore_eos\":true,\"max_tokens\":500,\"stream\":true,\"n\":%d}";

/* Closed while it is prepared, before the first event, in the middle, and when there is nothing
 * to write yet. */
static void test_leaving(void) {
    char body[256];
    snprintf(body, sizeof(body), endless, 16);
    for (int phase = 0; phase < 3; phase++) {
        client c = client_new();
        put_body(&c, "completion", body);
        for (int i = 0; i < phase * 2; i++) get(&c);
        client_free(&c);
        check(idle_within(500), "a client that leaves in phase %d frees its slots", phase);
    }
    client c = client_new();
    put_body(&c, "completion",
             "{\"prompt\":\"hello\",\"ignore_eos\":true,\"max_tokens\":500,\"n\":128}");
    get(&c);
    client_free(&c);
    check(idle_within(200), "... also when it waits for the whole answer");
    c = client_new();
    put(&c, "50 {\"op\":\"chat\"}\n{\"mess");
    client_free(&c);
    c = client_new();
    put(&c, "{\"op\":\"stats\"}\n");
    check(has(get(&c), "\"generations\":0,"), "nothing of them is left");
    client_free(&c);
}

/* Until the engine makes no more tokens: how many it has made since `before`. */
static uint64_t made_since(uint64_t before) {
    const struct timespec a_while = {0, 150000000};
    fl_engine_stats now, then;
    fl_engine_stats_get(engine, &now);
    do {
        then = now;
        nanosleep(&a_while, NULL);
        fl_engine_stats_get(engine, &now);
    } while (now.output_tokens != then.output_tokens);
    return now.output_tokens - before;
}

static void test_lagging(void) {
    fl_engine_stats st;
    char body[256];
    fl_engine_stats_get(engine, &st);
    snprintf(body, sizeof(body), endless, 128);
    client c = client_new();
    put_body(&c, "completion", body);
    const uint64_t made = made_since(st.output_tokens);
    check(made > 1000 && made < 40000, "a reader that lags makes the engine wait");
    get(&c);
    const int lines = get_all(&c, NULL);
    check(lines > 128, "... gets everything, in %d events", lines);
    check(has(c.line, "\"completion_tokens\":64000"), "... all 64000 tokens");
    client_free(&c);
}

static bool product(client *c, const char *key, int prompts, int n, const char *code) {
    fl_bytes line = {0};
    fl_bytes_printf(
        &line, "{\"op\":\"completion\",%s\"body\":{\"max_tokens\":1,\"n\":%d,\"prompt\":[", key, n);
    for (int i = 0; i < prompts; i++) fl_bytes_puts(&line, i ? ",\"a\"" : "\"a\"");
    fl_bytes_puts(&line, "]}}\n");
    put(c, fl_bytes_cstr(&line));
    fl_bytes_free(&line);
    if (!has(get(c), code)) return check(false, "%s", c->line);
    return !has(c->line, "\"start\"") || get_all(c, NULL) > 0;
}

/* What counts is completions, however they are asked for. */
static void test_products(client *c) {
    static const char one[] = "\"key\":{\"name\":\"eve\",\"max_running\":1},";
    static const char four[] = "\"key\":{\"name\":\"eve\",\"max_running\":4},";
    fl_engine_stats before, after;
    fl_engine_stats_get(engine, &before);
    check(product(c, one, 64, 128, "BUSY"), "8192 completions of a key that may run one");
    check(product(c, one, 1, 2, "BUSY") && product(c, one, 2, 1, "BUSY"), "two of them as well");
    check(product(c, "", 64, 128, "8192 completions"), "8192 are too many for anybody");
    fl_engine_stats_get(engine, &after);
    check(before.requests == after.requests, "nothing of them was begun");
    check(product(c, one, 1, 1, "start") && product(c, four, 2, 2, "start"), "the others run");
    check(product(c, four, 1, 4, "start"), "and are given back when they have ended");
}

static void test_keys(void) {
    const char first[] =
        "{\"op\":\"completion\",\"key\":{\"name\":\"ann\",\"max_running\":32},\"body\":"
        "{\"prompt\":\"a\",\"stream\":true,\"ignore_eos\":true,\"n\":32}}\n";
    const char limited[] =
        "{\"op\":\"completion\",\"key\":{\"name\":\"bob\",\"tokens_per_minute\":3},"
        "\"body\":{\"prompt\":\"a\",\"max_tokens\":2,\"ignore_eos\":true}}\n";
    client a = client_new(), b = client_new();
    put(&a, first);
    check(has(get(&a), "\"start\""), "the first request of a key runs");
    put(&b, first);
    check(has(get(&b), "\"BUSY\"") && has(b.line, "\"retry_after\":1"),
          "the second is told to come again");
    client_free(&a);
    idle_within(500);
    test_products(&b);
    put(&b, limited);
    check(has(get(&b), "\"start\"") && get_all(&b, NULL) == 1, "another key is not concerned");
    put(&b, limited);
    check(has(get(&b), "3 tokens of 'bob'") && has(b.line, "\"retry_after\":"),
          "a minute's tokens are counted exactly");
    put(&b, "{\"op\":\"tokenize\",\"key\":{\"name\":\"bob\",\"tokens_per_minute\":3},"
            "\"body\":{\"prompt\":\"a\"}}\n");
    check(has(get(&b), "tokens of 'bob'"), "and counting others' is no way around them");
    put(&b, "{\"op\":\"completion\",\"key\":{\"name\":\"dan\",\"tokens_per_minute\":3},"
            "\"body\":{\"prompt\":[99999999]}}\n");
    check(has(get(&b), "99999999"), "a prompt that is refused");
    put(&b, "{\"op\":\"completion\",\"key\":{\"name\":\"dan\",\"tokens_per_minute\":3},"
            "\"body\":{\"prompt\":[1],\"max_tokens\":1}}\n");
    check(has(get(&b), "tokens of 'dan'"), "is charged");
    client_free(&b);
}

/* Special tokens in prompts: seen in completions and in the counting of them, unless the body or the
 * operator's mark on the key says otherwise, and never in what a message says. */
static void test_special(void) {
    static const struct {
        const char *op, *key, *body, *answer, *what;
    } cases[] = {
        {"completion", "", "\"prompt\":\"" SPECIAL "\"", "\"prompt_tokens\":1,", "by default"},
        {"completion", "", "\"prompt\":\"" SPECIAL "\",\"parse_special\":false",
         "\"prompt_tokens\":" SPECIAL_AS_TEXT ",", "not when the body says so"},
        {"completion", "", "\"prompt\":[\"" SPECIAL "\",\"" SPECIAL "\"],\"parse_special\":null",
         "\"prompt_tokens\":2,", "in each of a list"},
        {"completion", MARKED, "\"prompt\":\"" SPECIAL "\"",
         "\"prompt_tokens\":" SPECIAL_AS_TEXT ",", "not for a marked key"},
        {"completion", MARKED, "\"prompt\":\"" SPECIAL "\",\"parse_special\":null",
         "\"prompt_tokens\":" SPECIAL_AS_TEXT ",", "... which says null"},
        {"completion", MARKED, "\"prompt\":\"a\",\"parse_special\":true",
         "parse_special: not offered to 'eve'", "... which is told so when it asks"},
        {"completion", "", "\"prompt\":\"a\",\"parse_special\":1", "parse_special: need true",
         "a number"},
        {"tokenize", "", "\"prompt\":\"" SPECIAL "\"", "\"count\":1,", "counted alike"},
        {"tokenize", "", "\"prompt\":\"" SPECIAL "\",\"parse_special\":false",
         "\"count\":" SPECIAL_AS_TEXT ",", "... as the body says"},
        {"tokenize", MARKED, "\"prompt\":\"" SPECIAL "\"", "\"count\":" SPECIAL_AS_TEXT ",",
         "... and the mark"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[400];
        client c = client_new();
        snprintf(line, sizeof(line), "{\"op\":\"%s\",%s\"body\":{%s,\"max_tokens\":1}}\n",
                 cases[i].op, cases[i].key, cases[i].body);
        put(&c, line);
        if (!check(has(get(&c), cases[i].answer), "special tokens, %s: %s", cases[i].op,
                   cases[i].what))
            printf("# %s\n", c.line);
        client_free(&c);
    }
}

/* A client, once the server has noticed that everybody else has left. */
static client client_alone(void) {
    const struct timespec one_ms = {0, 1000000};
    for (;;) {
        client c = client_new();
        put(&c, "{\"op\":\"stats\"}\n");
        if (has(get(&c), "\"connections\":1,")) return c;
        client_free(&c); /* it may have been one too many itself */
        nanosleep(&one_ms, NULL);
    }
}

static void test_too_many(void) {
    client all[9] = {client_alone()};
    for (int i = 1; i < 9; i++) all[i] = client_new();
    check(has(get(&all[8]), "connections, limit 8"), "one connection too many is told so");
    put(&all[7], "{\"op\":\"health\"}\n");
    check(has(get(&all[7]), "ok"), "the others are served");
    for (int i = 0; i < 9; i++) client_free(&all[i]);
}

/* Requests that are not whole yet take memory as well: of eight times the largest, the next is refused. */
static void test_waiting(void) {
    enum { BODY = 1000000 };
    char head[64], *body = malloc(BODY), said[128];
    client all[8];
    int refused = 0;
    request_bytes = BODY / 4;
    fl_server *s = start(engine);
    memset(body, ' ', BODY);
    body[BODY / 4 - 10] = 0;
    snprintf(head, sizeof(head), "%d {\"op\":\"tokenize\"}\n", BODY / 4);
    for (int i = 0; i < 8; i++) {
        all[i] = client_new();
        put(&all[i], head);
        put(&all[i], body);
    }
    snprintf(said, sizeof(said), "wait, limit %d", 2 * BODY);
    for (int i = 0; i < 8; i++) {
        const struct timeval tenth = {0, 100000};
        setsockopt(all[i].fd, SOL_SOCKET, SO_RCVTIMEO, &tenth, sizeof(tenth));
        refused += has(get(&all[i]), "\"BUSY\"") && has(all[i].line, said);
        client_free(&all[i]);
    }
    check(refused > 0 && refused < 8, "%d of 8 large requests at a time are refused", refused);
    fl_server_free(s, false);
    free(body);
    request_bytes = 100000;
}

/* What is not streamed is held whole by who reads it. */
static void test_large_answer(void) {
    client c = client_alone();
    put_body(&c, "completion", "{\"prompt\":\"a\",\"n\":2,\"max_tokens\":100,\"logprobs\":64}");
    check(has(get(&c), "\"start\""), "an answer that will be too large begins");
    const char *line = get(&c);
    while (*line && !has(line, "\"error\"")) line = get(&c);
    check(has(line, "logprobs: the answer has more than 100000 bytes"), "and is refused then");
    put_body(&c, "completion", "{\"prompt\":\"a\",\"max_tokens\":1}");
    check(has(get(&c), "\"start\"") && get_all(&c, NULL) == 1, "its connection serves on");
    client_free(&c);
}

/* ---- the server's own life ---- */

static void *serve_policies(void *steps) {
    fl_parked p;
    while (fl_engine_next_parked(engine, NULL, &p)) {
        const fl_text *name = &fl_request_params(p.request)->policy_name;
        *(int *)steps += name->len == 5 && !memcmp(name->data, "first", 5);
        const fl_parked_choice a = {65, NULL};
        fl_pick got;
        fl_parked_answer(&p, &a, &got, NULL);
        fl_parked_release(&p);
    }
    return NULL;
}

static void test_policy(void) {
    fl_server *s = start(engine);
    pthread_t thread;
    int steps = 0;
    pthread_create(&thread, NULL, serve_policies, &steps);
    for (int i = 0; i < 2; i++) {
        client c = client_new();
        put_body(&c, "completion", "{\"prompt\":\"a\",\"policy\":\"first\",\"max_tokens\":3}");
        get(&c);
        check(get_all(&c, NULL) == 1 && has(c.line, "\"d\":\"AAA\""),
              "a policy chooses the tokens");
        client_free(&c);
    }
    fl_server_free(s, false);
    pthread_join(thread, NULL);
    check(steps == 6, "and knows its name; it waits between requests until the server ends");
}

static void *end_server(void *s) {
    fl_server_free(s, true);
    return NULL;
}

static void test_takeover(void) {
    fl_server *old = start(engine);
    fl_engine *engine2 = NULL;
    char body[256];
    client c = client_new();
    snprintf(body, sizeof(body), endless, 8);
    put_body(&c, "completion", body);
    get(&c);
    fl_engine_new(&engine2, model, tokenizer, NULL, NULL);
    check(!start(engine2), "a socket on which a server listens is not taken");
    char path2[128];
    snprintf(path2, sizeof(path2), "%s.new", path);
    fl_server *new = start_at(path2, engine2);
    check(new && !rename(path2, path), "... but an operator may put another one in its place");
    client d = client_new();
    pthread_t ending;
    pthread_create(&ending, NULL, end_server, old);
    check(get_all(&c, NULL) > 8 && has(c.line, "\"completion_tokens\":4000"),
          "a server that ends lets its generations finish");
    pthread_join(ending, NULL);
    put(&d, "{\"op\":\"health\"}\n");
    check(has(get(&d), "ok"), "the one that took over serves on");
    check(!access(path, F_OK), "... and its socket is still there");
    client_free(&c);
    client_free(&d);
    fl_server_free(new, false);
    fl_engine_close(engine2, false);
    fl_engine_unref(engine2);
    check(!access(path, F_OK), "what a server left behind ...");
    fl_server *again = start(engine);
    check(again != NULL, "... is no obstacle to the next");
    fl_server_free(again, false);
    check(access(path, F_OK) != 0, "which takes its socket away");
    FILE *f = fopen(path, "w");
    check(f && !fclose(f) && !start(engine) && !access(path, F_OK), "a file is never replaced");
    unlink(path);
}

static int make_server(void *ctx) {
    const fl_server_options o = {
        .path = path, .names = names, .tokenizer = tokenizer, .chat = chat};
    fl_server *s = NULL;
    fl_err err;
    (void)ctx;
    int rc = fl_server_new(&s, engine, model, &o, &err);
    if (!rc) fl_server_free(s, false);
    return rc;
}

static int read_body(void *text) {
    fl_arena arena = {0};
    fl_submission s = {0};
    fl_openai_request r;
    fl_params params;
    const char *field;
    fl_err err;
    fl_jv body;
    int rc = fl_jv_parse(&body, &arena, text, strlen(text), "body", &err);
    if (!rc) rc = fl_openai_read(&r, FL_OPENAI_COMPLETION, &body, NULL, &arena, &field, &err);
    const fl_prompter ids_only = {0};
    if (!rc) rc = fl_openai_prompt(&s, &params, &r, 0, &ids_only, &field, &err);
    fl_arena_free(&s.arena);
    fl_arena_free(&arena);
    return rc;
}

static void test_memory(void) {
    char body[] = "{\"prompt\":[1,2],\"stop\":[\"a\"],\"policy\":\"p\",\"logit_bias\":{\"1\":2}}";
    check(fixture_sweep(make_server, NULL) > 5,
          "a server that gets no memory leaves nothing behind");
    check(fixture_sweep(read_body, body) > 2, "nor does a body");
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    setup();
    fl_server *s = start(engine);
    test_refusals();
    test_envelopes();
    test_framing();
    test_generation();
    test_leaving();
    test_lagging();
    test_keys();
    test_special();
    test_too_many();
    test_large_answer();
    fl_server_free(s, false);
    test_waiting();
    test_policy();
    test_takeover();
    test_memory();
    fl_engine_close(engine, false);
    fl_engine_unref(engine);
    fl_template_unref(chat);
    fl_tokenizer_unref(tokenizer);
    fl_model_unref(model);
    return tap_done();
}
