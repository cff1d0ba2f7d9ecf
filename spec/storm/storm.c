/* A storm over one model: clients that submit and then read, cancel, go away, run late, ask for
 * nonsense or answer a policy wrongly, while sequences take pages and engines are closed and
 * made anew; two engines share the pages with the sequences, and no request fails for lack of them; and a policy nearly alone on an engine of its own, whose steps it makes itself.  In
 * the end every page and every block of memory is back, undisturbed requests had the tokens and
 * log-probabilities they have alone, and (from a minute on) memory was flat.
 *
 *     storm MODEL_DIR REQUESTS SECONDS [SEED]
 *
 * It ends when so many requests were submitted and so long has passed.  TAP. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../c/tap.h"
#include "engine/engine.h"
#include "engine/prompt.h"
#include "model/step.h"
#include "util/mem.h"
#include "util/rng.h"

enum { CLIENTS = 6, FEEDER = CLIENTS, CLOSER, SOLOIST, HECKLER, THREADS };
enum { SLOTS = 6, KNOWN = 16, OUTPUT = 24, KV_TOKENS = 1024, MAX_SAMPLES = 4096 };

typedef enum {
    PLAIN,    /* read to its end and compared */
    PIECES,   /* the same, read bit by bit */
    CANCELS,  /* cancelled, queued or running */
    LEAVES,   /* nobody holds it any more */
    LATE,     /* a deadline it cannot keep */
    NONSENSE, /* refused parameters */
    POLICY,   /* answered rightly, wrongly or not at all */
    CHOICES,  /* several completions */
    SCORES,   /* log-probabilities of the prompt */
    KINDS
} kind;
static const char *const kind_name[KINDS] = {"plain",    "pieces", "cancels", "leaves", "late",
                                             "nonsense", "policy", "choices", "scores"};

typedef struct answer {
    int32_t ids[OUTPUT];
    float logprob[OUTPUT];
} answer;

typedef struct storm {
    fl_model *model;
    fl_tokenizer *tokenizer;
    pthread_mutex_t lock; /* covers the next three */
    fl_engine *engine, *stage;
    fl_request *solo; /* the one that is answered on the stage, or NULL */
    answer known[KNOWN];
    uint64_t seed;
    long requests;
    double begin, seconds;
    atomic_bool over;
    atomic_long submitted, refused_full, wrong, odd_errors, engines;
    atomic_long ended[KINDS][FL_FINISH_ERROR + 1];
    atomic_long preemptions, stale_refused, fed, solos, heckled;
} storm;

typedef struct client {
    storm *s;
    int number;
    uint64_t draws;
    fl_tokenizer_ctx *ctx;
    struct slot {
        fl_request *request;
        kind kind;
        int known; /* whose request it is, or -1 */
    } slot[SLOTS];
    fl_update update;
} client;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void nap(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static int64_t pick(client *c, int64_t n) {
    uint32_t r[4];
    const uint32_t counter[4] = {(uint32_t)c->draws, (uint32_t)(c->draws >> 32),
                                 (uint32_t)c->number, 0};
    c->draws++;
    fl_philox(r, counter, c->s->seed);
    return (int64_t)(r[0] % (uint32_t)n);
}

/* ---- requests as JSON ---- */

static const char *const nonsense[] = {"{\"ids\":[1],\"temperature\":-1}",
                                       "{\"ids\":[1],\"max_tokens\":0}",
                                       "{\"ids\":[99999]}",
                                       "{\"ids\":[]}",
                                       "{}",
                                       "{\"ids\":[1],\"bogus\":1}",
                                       "{\"ids\":[1],\"stop\":[5]}",
                                       "{\"ids\":[1],\"n\":129}",
                                       "{\"ids\":[1],\"logit_bias\":{\"x\":1}}",
                                       "{\"prompt\":\"a\",\"ids\":[1]}",
                                       "{\"ids\":[1],\"stop_token_ids\":[5000]}",
                                       "{\"messages\":[{\"role\":1}]}"};
enum { NONSENSES = sizeof(nonsense) / sizeof(nonsense[0]) };

static void put_prompt(fl_bytes *b, int family, int length) {
    fl_bytes_puts(b, "\"ids\":[");
    for (int k = 1; k <= length; k++)
        fl_bytes_printf(b, "%s%d", k > 1 ? "," : "", (family * k * 7 + k) % 250);
    fl_bytes_puts(b, "]");
}

static void put_known(fl_bytes *b, int i) {
    put_prompt(b, i % 5, 3 + i * 9);
    fl_bytes_printf(b, ",\"seed\":%d,\"max_tokens\":%d,\"logprobs\":0,\"ignore_eos\":true", i + 1,
                    OUTPUT);
    if (i % 3 == 1) fl_bytes_puts(b, ",\"temperature\":0");
    if (i % 3 == 2) fl_bytes_puts(b, ",\"top_k\":20,\"repetition_penalty\":1.2");
}

static void put_any(client *c, fl_bytes *b, kind k) {
    if (pick(c, 4))
        put_prompt(b, (int)pick(c, 5), 1 + (int)pick(c, 180));
    else
        fl_bytes_printf(b, "\"prompt\":\"the %d lines on the hill\"", (int)pick(c, 1000));
    fl_bytes_printf(b, ",\"max_tokens\":%d,\"seed\":%d", 1 + (int)pick(c, 60), (int)pick(c, 1000));
    if (pick(c, 2)) fl_bytes_puts(b, ",\"ignore_eos\":true");
    if (!pick(c, 3)) fl_bytes_puts(b, ",\"stop\":[\"e\",\"in the\"]");
    if (!pick(c, 4)) fl_bytes_puts(b, ",\"bad_words\":[\"on\"],\"min_tokens\":1");
    if (!pick(c, 4)) fl_bytes_printf(b, ",\"cache_salt\":\"s%d\"", (int)pick(c, 2));
    if (!pick(c, 4)) fl_bytes_printf(b, ",\"priority\":%d", (int)pick(c, 3));
    if (k == LATE) fl_bytes_printf(b, ",\"timeout_ms\":%d", 1 + (int)pick(c, 6));
    if (k == POLICY)
        fl_bytes_printf(b, ",\"policy\":true,\"policy_logits\":%s", pick(c, 2) ? "true" : "false");
    if (k == CHOICES) fl_bytes_printf(b, ",\"n\":%d", 2 + (int)pick(c, 3));
    if (k == SCORES) fl_bytes_puts(b, ",\"prompt_logprobs\":2,\"logprobs\":3");
}

static int submit(client *c, fl_engine *e, fl_request **out, const char *text, size_t n,
                  fl_err *err) {
    static const char *const keys[] = {NULL, "ann", "bob"};
    const fl_prompter prompter = {.tokenizer = c->s->tokenizer, .ctx = c->ctx};
    fl_submission s = {.key.data = keys[pick(c, 3)]};
    s.key.len = s.key.data ? strlen(s.key.data) : 0;
    fl_params params;
    fl_jv object;
    int rc = fl_jv_parse(&object, &s.arena, text, n, "storm", err);
    const fl_params_source source = {
        .object = &object, .others = fl_prompt_members, .strict = true, .arena = &s.arena};
    if (!rc) rc = fl_params_read(&params, &source, err);
    if (!rc) rc = fl_prompt_encode(&prompter, &object, &s.arena, &s.ids, &s.n_ids, err);
    s.params = &params;
    if (!rc)
        rc = fl_engine_submit(e, out, &s, err);
    else
        fl_arena_free(&s.arena);
    if (rc || !pick(c, 2)) return rc;
    /* Now and then its twin, whose lists are the first one's, goes in its place. */
    fl_request *first = *out;
    fl_submission twin = {.like = first, .key = s.key};
    int64_t n_ids;
    const int32_t *ids = fl_request_prompt(first, &n_ids);
    int32_t *copy = fl_arena_alloc(&twin.arena, (size_t)n_ids * sizeof(*copy));
    if (copy) memcpy(copy, ids, (size_t)n_ids * sizeof(*copy));
    twin.ids = copy;
    twin.n_ids = copy ? (size_t)n_ids : 0;
    rc = fl_engine_submit(e, out, &twin, err);
    fl_request_unref(first);
    return rc;
}

/* The request whose answer is known, with more members before its own. */
static int submit_known(client *c, fl_engine *e, fl_request **out, const char *members, int known,
                        fl_err *err) {
    fl_bytes text = {0};
    fl_bytes_printf(&text, "{%s", members);
    put_known(&text, known);
    fl_bytes_puts(&text, "}");
    int rc = submit(c, e, out, text.data, text.len, err);
    fl_bytes_free(&text);
    return rc;
}

static fl_engine *current(storm *s) {
    pthread_mutex_lock(&s->lock);
    fl_engine *e = fl_engine_ref(s->engine);
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* ---- what becomes of a request ---- */

static void compare(client *c, const struct slot *slot) {
    const fl_update *u = &c->update;
    const answer *a = &c->s->known[slot->known];
    if (u->finish != FL_FINISH_LENGTH) return;
    if (u->n != OUTPUT || memcmp(u->ids, a->ids, sizeof(a->ids)) ||
        memcmp(u->logprob, a->logprob, sizeof(a->logprob)))
        atomic_fetch_add(&c->s->wrong, 1);
}

/* All completions have ended: count them, compare the known ones, let go. */
static void settle(client *c, struct slot *slot) {
    fl_request *r = slot->request;
    fl_err err;
    for (int64_t i = 0; i < fl_request_params(r)->n; i++) {
        if (fl_request_result(r, i, &c->update, &err) || !c->update.finish) {
            atomic_fetch_add(&c->s->wrong, 1);
            continue;
        }
        atomic_fetch_add(&c->s->ended[slot->kind][c->update.finish], 1);
        if (slot->known >= 0) compare(c, slot);
        if (c->update.finish != FL_FINISH_ERROR || slot->kind == POLICY) continue;
        /* Nothing may go wrong: who lacks pages waits for the other engine and the feeder. */
        if (!atomic_fetch_add(&c->s->odd_errors, 1))
            printf("# %s: %s\n", kind_name[slot->kind], fl_request_error(r)->msg);
    }
    fl_request_unref(r);
    slot->request = NULL;
}

/* Right answers mostly; sometimes a broken row, an old ticket, an end, or silence. */
static void run_policy(client *c, fl_engine *e, fl_request *r) {
    fl_parked p;
    fl_err err;
    while (fl_engine_next_parked(e, r, &p)) {
        const int64_t way = pick(c, 40);
        int rc = FL_OK;
        const fl_parked_choice own = {-1, NULL}, any = {(int32_t)pick(c, p.vocab), NULL};
        fl_pick got;
        if (way == 0 && p.row) fl_row_logits(p.row)[pick(c, p.vocab)] = __builtin_nanf("");
        if (way == 1) nap(25000); /* beyond policy_timeout_ms */
        if (way == 2)
            rc = fl_parked_stop(&p, FL_FINISH_STOP, &err);
        else
            rc = fl_parked_answer(&p, way & 1 ? &any : &own, &got, &err);
        if (rc && way == 0) fl_parked_stop(&p, FL_FINISH_ERROR, NULL);
        if (way > 30 && fl_parked_answer(&p, &own, &got, &err) == FL_E_CANCELLED)
            atomic_fetch_add(&c->s->stale_refused, 1);
        fl_parked_release(&p);
    }
}

static void begin(client *c, struct slot *slot) {
    fl_bytes text = {0};
    fl_err err;
    fl_engine *e = current(c->s);
    slot->kind = (kind)pick(c, KINDS);
    slot->known = slot->kind <= PIECES ? (int)pick(c, KNOWN) : -1;
    fl_bytes_puts(&text, "{");
    if (slot->kind <= PIECES)
        put_known(&text, slot->known);
    else
        put_any(c, &text, slot->kind);
    fl_bytes_puts(&text, "}");
    const char *bad = nonsense[pick(c, NONSENSES)];
    int rc = slot->kind == NONSENSE ? submit(c, e, &slot->request, bad, strlen(bad), &err)
                                    : submit(c, e, &slot->request, text.data, text.len, &err);
    if (rc) slot->request = NULL;
    atomic_fetch_add(&c->s->submitted, rc != FL_E_LIMIT);
    if (slot->kind == NONSENSE) {
        if (rc == FL_E_ARG)
            atomic_fetch_add(&c->s->ended[NONSENSE][FL_FINISH_ERROR], 1);
        else
            atomic_fetch_add(&c->s->wrong, 1);
    } else if (rc == FL_E_BUSY) {
        atomic_fetch_add(&c->s->refused_full, 1);
        nap(2000);
    } else if (rc && rc != FL_E_CANCELLED) {
        if (!atomic_fetch_add(&c->s->odd_errors, 1)) printf("# submit: %s\n", err.msg);
    }
    if (!rc && slot->kind == LEAVES && pick(c, 2)) {
        fl_request_unref(slot->request);
        slot->request = NULL;
        atomic_fetch_add(&c->s->ended[LEAVES][FL_FINISH_CANCELLED], 1);
    }
    if (!rc && slot->kind == POLICY) {
        run_policy(c, e, slot->request);
        settle(c, slot);
    }
    fl_engine_unref(e);
    fl_bytes_free(&text);
}

/* Read what there is; true when all has been read. */
static bool read_some(client *c, struct slot *slot, int64_t ms) {
    fl_read_result result = FL_READ_NONE;
    fl_err err;
    fl_request_wait(slot->request, ms);
    do {
        if (fl_request_read(slot->request, &c->update, &result, &err)) {
            atomic_fetch_add(&c->s->wrong, 1);
            return true;
        }
    } while (result == FL_READ_UPDATE && pick(c, 3));
    return result == FL_READ_DONE;
}

static void go_on(client *c, struct slot *slot) {
    switch (slot->kind) {
    case LEAVES:
        if (pick(c, 2)) read_some(c, slot, pick(c, 4));
        fl_request_unref(slot->request);
        slot->request = NULL;
        atomic_fetch_add(&c->s->ended[LEAVES][FL_FINISH_CANCELLED], 1);
        return;
    case CANCELS:
        if (pick(c, 3)) read_some(c, slot, pick(c, 4));
        fl_request_cancel(slot->request);
        fl_request_wait_end(slot->request);
        settle(c, slot);
        return;
    case PIECES:
    case CHOICES:
        if (read_some(c, slot, pick(c, 3))) settle(c, slot);
        return;
    case PLAIN:
        fl_request_wait_end(slot->request);
        settle(c, slot);
        return;
    default:
        if (read_some(c, slot, 20)) settle(c, slot);
    }
}

static bool more(storm *s) {
    return atomic_load(&s->submitted) < s->requests || now() - s->begin < s->seconds;
}

static void *client_run(void *arg) {
    client *c = arg;
    while (more(c->s)) {
        struct slot *slot = &c->slot[pick(c, SLOTS)];
        if (slot->request)
            go_on(c, slot);
        else
            begin(c, slot);
    }
    for (int i = 0; i < SLOTS; i++) {
        while (c->slot[i].request) go_on(c, &c->slot[i]);
    }
    return NULL;
}

/* Sequences beside the engine, which take and give pages of the same pool. */
static void *feeder_run(void *arg) {
    client *c = arg;
    while (!atomic_load(&c->s->over)) {
        fl_sequence *a = NULL, *b = NULL;
        int32_t ids[200];
        const float *logits;
        fl_err err;
        const int64_t n = 1 + pick(c, 200);
        for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)pick(c, 250);
        if (!fl_sequence_new(&a, c->s->model, &err) &&
            !fl_sequence_feed(a, ids, n, &logits, &err) && !fl_sequence_fork(&b, a, &err) &&
            !fl_sequence_feed(b, ids, 1, &logits, &err))
            atomic_fetch_add(&c->s->fed, 1);
        nap(pick(c, 4000));
        if (pick(c, 2)) fl_sequence_close(a);
        fl_sequence_unref(a);
        fl_sequence_unref(b);
        nap(pick(c, 20000));
    }
    return NULL;
}

static int open_engine(storm *s, fl_engine **out, fl_err *err) {
    const fl_engine_options o = {.max_running = 24,
                                 .max_queued = 12,
                                 .max_unread = 16,
                                 .policy_timeout_ms = 10,
                                 .num_speculative_tokens = 4,
                                 .prompt_lookup_min = 1};
    atomic_fetch_add(&s->engines, 1);
    return fl_engine_new(out, s->model, s->tokenizer, &o, err);
}

/* Closes the engine under everybody's feet and opens the next one. */
static void *closer_run(void *arg) {
    client *c = arg;
    while (!atomic_load(&c->s->over)) {
        fl_engine *next, *old;
        fl_engine_stats stats;
        fl_err err;
        nap(100000 + pick(c, 300000));
        if (open_engine(c->s, &next, &err)) continue;
        pthread_mutex_lock(&c->s->lock);
        old = c->s->engine;
        c->s->engine = next;
        pthread_mutex_unlock(&c->s->lock);
        fl_engine_close(old, pick(c, 2));
        fl_engine_stats_get(old, &stats);
        if (stats.running || stats.queued || stats.parked || stats.requests != stats.finished)
            atomic_fetch_add(&c->s->wrong, 1);
        atomic_fetch_add(&c->s->preemptions, (long)stats.preemptions);
        fl_engine_unref(old);
    }
    return NULL;
}

/* ---- a policy alone with the sleeping thread of its engine, but for a heckler ---- */

static fl_engine *stage(storm *s) {
    pthread_mutex_lock(&s->lock);
    fl_engine *e = fl_engine_ref(s->stage);
    pthread_mutex_unlock(&s->lock);
    return e;
}

static void show(storm *s, fl_request *r) {
    pthread_mutex_lock(&s->lock);
    s->solo = r;
    pthread_mutex_unlock(&s->lock);
}

/* The known answers, token by token, are what their request has without a policy. */
static void *soloist_run(void *arg) {
    client *c = arg;
    while (!atomic_load(&c->s->over)) {
        struct slot slot = {NULL, POLICY, (int)pick(c, KNOWN)};
        fl_engine *e = stage(c->s);
        fl_parked p;
        fl_err err;
        if (!submit_known(c, e, &slot.request, "\"policy\":true,", slot.known, &err)) {
            const fl_parked_choice own = {-1, NULL};
            const int64_t leave = pick(c, 2) ? -1 : pick(c, OUTPUT);
            fl_pick got;
            show(c->s, slot.request);
            for (int64_t i = 0; i != leave && fl_engine_next_parked(e, slot.request, &p); i++) {
                if (!pick(c, 10)) nap(pick(c, 3000));
                fl_parked_answer(&p, &own, &got, &err);
                fl_parked_release(&p);
            }
            show(c->s, NULL);
            if (leave >= 0) nap(pick(c, 3000)); /* an answer is owed a turn */
            if (leave >= 0 && pick(c, 2)) fl_request_cancel(slot.request);
            atomic_fetch_add(&c->s->solos, 1);
            fl_request_wait_end(slot.request);
            settle(c, &slot);
        }
        fl_engine_unref(e);
    }
    return NULL;
}

static void *heckler_run(void *arg) {
    client *c = arg;
    storm *s = c->s;
    while (!atomic_load(&s->over)) {
        nap(pick(c, 8000));
        const int64_t way = pick(c, 12);
        pthread_mutex_lock(&s->lock);
        fl_request *r = s->solo ? fl_request_ref(s->solo) : NULL;
        pthread_mutex_unlock(&s->lock);
        fl_engine *e = stage(s), *next;
        struct slot slot = {NULL, PLAIN, (int)pick(c, KNOWN)};
        fl_err err;
        if (way == 0 && r) fl_request_cancel(r);
        if (way == 1 && r) fl_request_wait(r, pick(c, 3));
        if (way == 2 && !open_engine(s, &next, &err)) {
            pthread_mutex_lock(&s->lock);
            s->stage = next;
            pthread_mutex_unlock(&s->lock);
            fl_engine_close(e, pick(c, 2));
            fl_engine_unref(e);
        }
        if (way > 8 && !submit_known(c, e, &slot.request, "", slot.known, &err)) {
            if (way == 9) fl_request_cancel(slot.request);
            fl_request_wait_end(slot.request);
            settle(c, &slot);
        }
        atomic_fetch_add(&s->heckled, 1);
        fl_request_unref(r);
        fl_engine_unref(e);
    }
    return NULL;
}

static bool learn(client *c) {
    fl_err err;
    for (int i = 0; i < KNOWN; i++) {
        fl_request *r;
        int rc = submit_known(c, c->s->engine, &r, "", i, &err);
        if (rc) return check(false, "alone: %s", err.msg);
        fl_request_wait_end(r);
        rc = fl_request_result(r, 0, &c->update, &err);
        fl_request_unref(r);
        if (rc || c->update.n != OUTPUT) return check(false, "alone: %d tokens", (int)c->update.n);
        memcpy(c->s->known[i].ids, c->update.ids, sizeof(c->s->known[i].ids));
        memcpy(c->s->known[i].logprob, c->update.logprob, sizeof(c->s->known[i].logprob));
    }
    return true;
}

/* ---- memory over time ---- */

static long resident_kb(void) {
    long pages = 0, all;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
    if (f) fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Sample until the clients are done; the largest of the second and of the last quarter. */
static void watch_memory(storm *s) {
    static long sample[MAX_SAMPLES];
    int n = 0;
    while (more(s)) {
        nap(250000);
        if (n < MAX_SAMPLES) sample[n++] = resident_kb();
    }
    long early = 0, late = 0;
    for (int i = n / 4; i < n / 2; i++) early = sample[i] > early ? sample[i] : early;
    for (int i = n - n / 4; i < n; i++) late = sample[i] > late ? sample[i] : late;
    printf("# resident: at most %ld kB in the second quarter, %ld kB in the last\n", early, late);
    if (s->seconds >= 60)
        check(late <= early + early / 20, "memory is flat over %.0f s: %ld kB, then %ld kB",
              s->seconds, early, late);
}

static void run_threads(storm *s, client *clients) {
    static void *(*const run[THREADS])(void *) = {[FEEDER] = feeder_run,
                                                  [CLOSER] = closer_run,
                                                  [SOLOIST] = soloist_run,
                                                  [HECKLER] = heckler_run};
    pthread_t thread[THREADS];
    s->begin = now();
    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, run[i] ? run[i] : client_run, &clients[i]);
    watch_memory(s);
    for (int i = 0; i < CLIENTS; i++) pthread_join(thread[i], NULL);
    atomic_store(&s->over, true);
    for (int i = CLIENTS; i < THREADS; i++) pthread_join(thread[i], NULL);
    printf("# %.1f s\n", now() - s->begin);
}

static void report(storm *s) {
    for (int k = 0; k < KINDS; k++) {
        long sum = 0;
        printf("# %-8s", kind_name[k]);
        for (int f = FL_FINISH_STOP; f <= FL_FINISH_ERROR; f++) {
            long n = atomic_load(&s->ended[k][f]);
            printf("  %s %ld", fl_finish_name((fl_finish)f), n);
            sum += n;
        }
        printf("\n");
        check(sum > 0, "%ld requests of kind '%s' ended", sum, kind_name[k]);
    }
    check(atomic_load(&s->submitted) >= s->requests, "%ld requests", atomic_load(&s->submitted));
    check(!atomic_load(&s->wrong), "%ld wrong tokens, codes or counts", atomic_load(&s->wrong));
    check(!atomic_load(&s->odd_errors), "%ld errors, the pool being full or not",
          atomic_load(&s->odd_errors));
    check(atomic_load(&s->preemptions) > 0, "the pool was full: %ld preemptions",
          atomic_load(&s->preemptions));
    check(atomic_load(&s->stale_refused) > 0, "%ld stale answers refused",
          atomic_load(&s->stale_refused));
    check(atomic_load(&s->solos) > 0 && atomic_load(&s->heckled) > 0,
          "%ld policies on an engine of their own, heckled %ld times", atomic_load(&s->solos),
          atomic_load(&s->heckled));
    printf("# %ld engines, %ld refused by a full queue, %ld sequences fed beside\n",
           atomic_load(&s->engines), atomic_load(&s->refused_full), atomic_load(&s->fed));
}

static int open_all(storm *s, const char *dir, client *clients, fl_err *err) {
    const fl_model_options o = {
        .threads = 2, .context = 256, .kv_tokens = KV_TOKENS, .max_step_rows = 48};
    int rc = fl_model_load(&s->model, dir, &o, err);
    if (!rc) rc = fl_tokenizer_load(&s->tokenizer, dir, err);
    if (!rc) rc = open_engine(s, &s->engine, err);
    if (!rc) rc = open_engine(s, &s->stage, err);
    for (int i = 0; i < THREADS; i++) {
        clients[i].s = s;
        clients[i].number = i;
        if (!rc) rc = fl_tokenizer_ctx_new(&clients[i].ctx, s->tokenizer, err);
    }
    return rc;
}

int main(int argc, char **argv) {
    static storm s;
    static client clients[THREADS];
    fl_err err;
    if (argc < 4) {
        fprintf(stderr, "usage: storm MODEL_DIR REQUESTS SECONDS [SEED]\n");
        return 2;
    }
    const int64_t live = fl_mem_live();
    s.requests = atol(argv[2]);
    s.seconds = atof(argv[3]);
    s.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    pthread_mutex_init(&s.lock, NULL);
    if (open_all(&s, argv[1], clients, &err)) {
        check(false, "%s", err.msg);
        return tap_done();
    }
    if (learn(&clients[0])) run_threads(&s, clients);
    fl_engine_close(s.engine, false);
    fl_engine_close(s.stage, false);
    report(&s);
    fl_step_pool pool;
    fl_step_pool_get(s.model, &pool);
    check(pool.free_pages == pool.pages, "every page is back: %d of %d", (int)pool.free_pages,
          (int)pool.pages);
    for (int i = 0; i < THREADS; i++) {
        fl_update_free(&clients[i].update);
        fl_tokenizer_ctx_free(clients[i].ctx);
    }
    fl_engine_unref(s.engine);
    fl_engine_unref(s.stage);
    fl_tokenizer_unref(s.tokenizer);
    fl_model_unref(s.model);
    check(fl_mem_live() == live, "every block is back: %lld left",
          (long long)(fl_mem_live() - live));
    return tap_done();
}
