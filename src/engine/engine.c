#include "engine/engine.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine_priv.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/notice.h"
#include "util/num.h"
#include "util/thread.h"

static int set_options(fl_engine *e, const fl_engine_options *o, fl_err *err) {
    static const fl_engine_options none;
    const fl_engine_options *g = o ? o : &none;
    const struct {
        const char *name;
        int64_t given, fallback, max, *out;
    } fields[] = {
        {"max_running", g->max_running, 256, 4096, &e->options.max_running},
        {"max_queued", g->max_queued, 1024, 1 << 20, &e->options.max_queued},
        {"max_step_tokens", g->max_step_tokens, fl_step_max_rows(e->model),
         fl_step_max_rows(e->model), &e->options.max_step_tokens},
        {"max_unread", g->max_unread, 4096, 1 << 30, &e->options.max_unread},
        {"page_timeout_ms", g->page_timeout_ms, 10000, 1 << 30, &e->options.page_timeout_ms},
        {"policy_timeout_ms", g->policy_timeout_ms, 30000, 1 << 30, &e->options.policy_timeout_ms},
        {"max_policy_rows", g->max_policy_rows, 64, 4096, &e->options.max_policy_rows},
        {"num_speculative_tokens", g->num_speculative_tokens, 0, FL_MAX_GUESSES,
         &e->options.num_speculative_tokens},
        {"prompt_lookup_min", g->prompt_lookup_min, 2, FL_MAX_GUESSES,
         &e->options.prompt_lookup_min},
        {"prompt_lookup_max", g->prompt_lookup_max, 4, FL_MAX_GUESSES,
         &e->options.prompt_lookup_max},
    };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].given < 0 || fields[i].given > fields[i].max)
            return fl_fail(err, FL_E_ARG, "%s: %lld, need 1 to %lld", fields[i].name,
                           (long long)fields[i].given, (long long)fields[i].max);
        *fields[i].out = fields[i].given ? fields[i].given : fields[i].fallback;
    }
    e->options.priority_between_keys = g->priority_between_keys;
    if (e->options.prompt_lookup_min > e->options.prompt_lookup_max)
        return fl_fail(err, FL_E_ARG, "prompt_lookup_min: %lld is more than prompt_lookup_max %lld",
                       (long long)e->options.prompt_lookup_min,
                       (long long)e->options.prompt_lookup_max);
    return FL_OK;
}

static void collect_eos(fl_engine *e) {
    const fl_config *c = fl_model_config(e->model);
    int32_t own = e->tokenizer ? fl_tokenizer_eos(e->tokenizer) : -1;
    for (int i = 0; i < c->n_eos; i++) {
        e->eos[e->n_eos++] = c->eos_ids[i];
        if (c->eos_ids[i] == own) own = -1;
    }
    if (own >= 0) e->eos[e->n_eos++] = own;
}

static int new_sampling(fl_engine *e, size_t vocab, fl_err *err) {
    const int n = fl_step_members(e->model);
    int rc = FL_OK;
    if (!(e->sampling = fl_alloc_array((size_t)n, sizeof(*e->sampling))))
        return fl_fail(err, FL_E_NOMEM, "engine: sampling on %d threads", n);
    for (; e->n_sampling < n && !rc; e->n_sampling++) {
        fl_sampling *s = &e->sampling[e->n_sampling];
        rc = fl_sampler_work_new(&s->work, (int32_t)vocab, err);
        if (!rc && !(s->row = fl_alloc_array(vocab, sizeof(*s->row))))
            rc = fl_fail(err, FL_E_NOMEM, "engine: a row of %zu", vocab);
    }
    return rc;
}

static void free_sampling(fl_engine *e) {
    for (int i = 0; i < e->n_sampling; i++) {
        fl_sampler_work_free(e->sampling[i].work);
        fl_free(e->sampling[i].row);
    }
    fl_free(e->sampling);
}

int fl_engine_new(fl_engine **out, fl_model *m, fl_tokenizer *t, const fl_engine_options *o,
                  fl_err *err) {
    fl_engine *e = fl_alloc(sizeof(*e));
    if (!e) return fl_fail(err, FL_E_NOMEM, "engine");
    atomic_init(&e->refs, 1);
    e->fd = e->attached = -1;
    e->model = fl_model_ref(m);
    e->holder.wanted = fl_engine_pages_wanted;
    e->holder.ctx = e;
    fl_holder_join(m, &e->holder);
    e->tokenizer = t ? fl_tokenizer_ref(t) : NULL;
    e->owner = getpid();
    e->queue_end = &e->queue;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->parked, NULL);
    /* Asked once: the model's lock, which info takes, is busy while the engine steps. */
    fl_model_info info;
    fl_model_info_get(m, &info);
    e->capacity = fl_min_i64(info.context, info.kv_tokens);
    collect_eos(e);
    int rc = set_options(e, o, err);
    const size_t vocab = (size_t)fl_model_config(m)->vocab_size;
    e->vocab = (int32_t)vocab;
    if (!rc) rc = new_sampling(e, vocab, err);
    if (!rc) rc = fl_sampler_work_new(&e->answering, (int32_t)vocab, err);
    if (!rc && fl_step_draws(m) && !(e->edits = fl_alloc_array(FL_STEP_EDITS, sizeof(*e->edits))))
        rc = fl_fail(err, FL_E_NOMEM, "engine: %d edits of logits", FL_STEP_EDITS);
    if (!rc) {
        int64_t seqs = fl_min_i64(e->options.max_running, e->options.max_step_tokens);
        rc = fl_step_reserve_seqs(m, seqs, err);
    }
    if (!rc) rc = fl_notice_open(&e->fd, err);
    if (rc) {
        fl_engine_unref(e);
        return rc;
    }
    *out = e;
    return FL_OK;
}

void fl_engine_leave(fl_engine *e) {
    fl_model *m = e->model;
    if (!m) return;
    if (e->owner == getpid()) fl_holder_leave(m, &e->holder);
    e->model = NULL;
    fl_model_unref(m);
}

fl_engine *fl_engine_ref(fl_engine *e) {
    atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
    return e;
}

void fl_engine_unref(fl_engine *e) {
    if (!e || atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1) return;
    if (e->fd >= 0) close(e->fd);
    if (e->owner == getpid()) { /* in a forked child it would wait for the parent's sleepers */
        pthread_mutex_destroy(&e->lock);
        pthread_cond_destroy(&e->work);
        pthread_cond_destroy(&e->parked);
    }
    fl_tokenizer_unref(e->tokenizer);
    fl_engine_leave(e);
    fl_free(e->active);
    fl_free(e->items);
    fl_free(e->scheduled);
    fl_free(e->entries);
    fl_free(e->draws);
    fl_free(e->edits);
    free_sampling(e);
    fl_sampler_work_free(e->answering);
    fl_free(e);
}

int fl_engine_fd(const fl_engine *e) {
    return e->fd;
}

void fl_engine_clear_fd(fl_engine *e) {
    pthread_mutex_lock(&e->lock);
    fl_notice_clear(e->fd);
    e->fd_set = false;
    pthread_mutex_unlock(&e->lock);
}

void fl_engine_call(fl_engine *e) {
    e->called = true;
    pthread_cond_signal(&e->work);
}

void fl_engine_notify(fl_engine *e, fl_request *r) {
    pthread_cond_broadcast(&r->news);
    fl_notice_set(e->attached);
    fl_notice_set(r->watch);
    if (e->fd_set) return; /* one call for all the news until somebody looks */
    e->fd_set = true;
    fl_notice_set(e->fd);
}

void fl_engine_attach(fl_engine *e, int fd) {
    pthread_mutex_lock(&e->lock);
    e->attached = fd;
    pthread_cond_broadcast(&e->parked);
    pthread_mutex_unlock(&e->lock);
}

int fl_engine_check_owner(const fl_engine *e, fl_err *err) {
    if (e->owner == getpid()) return FL_OK;
    return fl_fail(err, FL_E_DEVICE, "engine: made in process %d, this is %d after a fork",
                   (int)e->owner, (int)getpid());
}

int fl_engine_check_device(fl_engine *e, fl_err *err) {
    pthread_mutex_lock(&e->lock);
    int rc = e->failure.code ? fl_fail(err, FL_E_DEVICE, "%s", e->failure.msg) : FL_OK;
    pthread_mutex_unlock(&e->lock);
    return rc;
}

static int check_ids(const char *field, const int32_t *ids, size_t n, int64_t vocab, fl_err *err) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return fl_fail(err, FL_E_ARG, "%s: token id %d, vocabulary has %lld", field, ids[i],
                           (long long)vocab);
    }
    return FL_OK;
}

/* What the request may come to in memory beside its tokens, refused before any is taken. */
static int plan(const fl_engine *e, const fl_submission *s, const fl_params *p, int64_t *bytes,
                fl_err *err) {
    enum { TOKEN_TEXT = 8 }; /* bytes, about */
    const int64_t n_ids = (int64_t)s->n_ids, left = e->capacity - n_ids;
    const int64_t output = p->max_tokens >= 0 ? fl_min_i64(p->max_tokens, left) : left;
    const int64_t top = (int64_t)sizeof(fl_top), score = (int64_t)sizeof(float);
    const int64_t alternatives =
        p->echo ? fl_max_i64(p->logprobs, p->prompt_logprobs) : p->prompt_logprobs;
    /* All factors have bounds: n 2^7, logprobs 2^6, tokens 2^31. */
    *bytes = alternatives >= 0 ? n_ids * (score + alternatives * top) : 0;
    if (p->logprobs >= 0) *bytes += p->n * output * (score + p->logprobs * top);
    if (p->echo) *bytes += p->n * n_ids * TOKEN_TEXT;
    if (*bytes <= FL_MAX_REQUEST_BYTES) return FL_OK;
    return fl_fail(err, FL_E_LIMIT,
                   "%s: n %lld with %lld tokens of prompt and up to %lld of output would take "
                   "%lld MiB, at most %d",
                   p->logprobs >= 0          ? "logprobs"
                   : p->prompt_logprobs >= 0 ? "prompt_logprobs"
                                             : "echo",
                   (long long)p->n, (long long)n_ids, (long long)output, (long long)(*bytes >> 20),
                   FL_MAX_REQUEST_BYTES >> 20);
}

int64_t fl_engine_capacity(const fl_engine *e) {
    return e->capacity;
}

static int check_submission(const fl_engine *e, const fl_submission *s, const fl_params *p,
                            fl_err *err) {
    const int64_t vocab = e->vocab, most = e->capacity - 1;
    if (!s->n_ids) return fl_fail(err, FL_E_ARG, "prompt: no tokens");
    if ((int64_t)s->n_ids > most)
        return fl_fail(
            err, FL_E_LIMIT,
            "prompt: %zu tokens, but this model's maximum context length is %lld tokens, "
            "one of them for the completion",
            s->n_ids, (long long)e->capacity);
    int rc = check_ids("prompt", s->ids, s->n_ids, vocab, err);
    if (rc || s->like) return rc; /* whose lists have been looked at */
    if (!rc)
        rc = check_ids("stop_token_ids", p->stop_token_ids.ids, p->stop_token_ids.n, vocab, err);
    if (!rc)
        rc = check_ids("allowed_token_ids", p->sampler.allowed, p->sampler.n_allowed, vocab, err);
    for (size_t i = 0; !rc && i < p->sampler.n_bias; i++)
        rc = check_ids("logit_bias", &p->sampler.bias[i].id, 1, vocab, err);
    if (rc) return rc;
    if (p->stop.n && !e->tokenizer)
        return fl_fail(err, FL_E_ARG, "stop: needs a tokenizer, the model has none");
    return FL_OK;
}

static int64_t output_limit(const fl_engine *e, const fl_request *r) {
    int64_t left = e->capacity - r->n_prompt;
    return r->params.max_tokens >= 0 ? fl_min_i64(r->params.max_tokens, left) : left;
}

/* The ids of one spelling of a bad word, into the request's arena. */
static int add_bad_word(fl_engine *e, fl_request *r, fl_tokenizer_ctx *ctx, const char *text,
                        size_t n, fl_err *err) {
    const fl_encode_options plain = {0};
    fl_ids ids = {0};
    int rc = fl_tokenizer_encode(e->tokenizer, ctx, text, n, &plain, &ids, err);
    int32_t *copy = rc ? NULL : fl_arena_alloc(&r->arena, (ids.len + 1) * sizeof(*copy));
    if (!rc && !copy) rc = fl_fail(err, FL_E_NOMEM, "bad_words");
    if (!rc && ids.len) {
        memcpy(copy, ids.data, ids.len * sizeof(*copy));
        r->bad[r->n_bad++] = (fl_id_list){copy, ids.len};
    }
    fl_ids_free(&ids);
    return rc;
}

/* Each word as it stands and after a blank, as it would begin a text or go on with one. */
static int add_bad_words(fl_engine *e, fl_request *r, fl_err *err) {
    const fl_text_list *words = &r->params.bad_words;
    fl_tokenizer_ctx *ctx;
    if (!words->n) return FL_OK;
    if (r->like) {
        r->bad = r->like->bad;
        r->n_bad = r->like->n_bad;
        return FL_OK;
    }
    if (!e->tokenizer) return fl_fail(err, FL_E_ARG, "bad_words: needs a tokenizer");
    r->bad = fl_arena_alloc(&r->arena, 2 * words->n * sizeof(*r->bad));
    if (!r->bad) return fl_fail(err, FL_E_NOMEM, "bad_words");
    int rc = fl_tokenizer_ctx_new(&ctx, e->tokenizer, err);
    if (rc) return rc;
    for (size_t i = 0; !rc && i < words->n; i++) {
        char spaced[FL_MAX_STOP_BYTES + 1] = " ";
        const fl_text *w = &words->items[i];
        memcpy(spaced + 1, w->data, w->len);
        rc = add_bad_word(e, r, ctx, w->data, w->len, err);
        if (!rc && w->data[0] != ' ') rc = add_bad_word(e, r, ctx, spaced, w->len + 1, err);
    }
    fl_tokenizer_ctx_free(ctx);
    return rc;
}

/* With echo the prompt's text comes before the output's. */
static int put_prompt_text(fl_choice *c, const fl_request *r, fl_err *err) {
    const int64_t known = r->params.echo ? r->n_prompt : 0;
    for (int64_t i = 0; i < known; i++) {
        /* The model's vocabulary may be padded beyond the tokenizer's: such ids have no text. */
        if (r->prompt[i] >= fl_tokenizer_size(c->detok.tokenizer)) continue;
        int rc = fl_detok_push(&c->detok, r->prompt[i], &c->text, err);
        if (rc) return rc;
    }
    c->text_start = c->text.len;
    return c->text.failed ? fl_fail(err, FL_E_NOMEM, "echo of %zu bytes", c->text.len) : FL_OK;
}

static int prepare(fl_engine *e, fl_request *r, fl_err *err) {
    r->max_output = output_limit(e, r);
    r->submitted_at = fl_now();
    if (r->params.timeout_ms > 0)
        r->deadline = r->submitted_at + (double)r->params.timeout_ms * 1e-3;
    for (int64_t i = 0; e->tokenizer && i < r->params.n; i++) {
        fl_detok_init(&r->choice[i].detok, e->tokenizer, r->params.skip_special_tokens);
        int rc = put_prompt_text(&r->choice[i], r, err);
        if (rc) return rc;
    }
    return add_bad_words(e, r, err);
}

/* The last so many ids, when the request asks for that. */
static void truncate_prompt(fl_submission *s, const fl_params *p) {
    int64_t keep = p->truncate_prompt_tokens;
    if (keep < 1 || (int64_t)s->n_ids <= keep) return;
    s->ids += (int64_t)s->n_ids - keep;
    s->n_ids = (size_t)keep;
}

static int start_thread(fl_engine *e, fl_err *err) {
    if (e->started) return FL_OK;
    int rc = fl_thread_start(&e->thread, fl_engine_thread, e, "fp8-engine", err);
    if (rc) return rc;
    e->started = true;
    return FL_OK;
}

/* A full queue still takes from a key that has less than its part of it. */
static int check_queue(const fl_engine *e, const fl_share *s, int64_t n, fl_err *err) {
    const int64_t most = e->options.max_queued;
    if (!e->n_queued || e->n_queued + n <= most || s->n_queued + n <= most / e->n_shares)
        return FL_OK;
    return fl_fail(err, FL_E_BUSY, "queue: %lld completions wait, limit %lld",
                   (long long)e->n_queued, (long long)most);
}

static int enqueue(fl_engine *e, fl_request *r, const fl_text *key, fl_err *err) {
    int rc = FL_OK;
    fl_share *share = NULL;
    pthread_mutex_lock(&e->lock);
    if (e->closing)
        rc = fl_fail(err, FL_E_CANCELLED, "engine is closed");
    else if (e->failure.code)
        rc = fl_fail(err, FL_E_DEVICE, "engine: %s", e->failure.msg);
    else if (!(share = fl_share_enter(e, key)))
        rc = fl_fail(err, FL_E_NOMEM, "request");
    if (!rc) rc = check_queue(e, share, r->params.n, err);
    if (!rc) rc = start_thread(e, err);
    if (rc && share) fl_share_leave(e, share);
    if (!rc) {
        r->share = share;
        share->n_queued += r->params.n;
        r->arrival = e->n_submitted++;
        atomic_fetch_add(&r->refs, 1); /* the queue's */
        *e->queue_end = r;
        e->queue_end = &r->next;
        e->n_queued += r->params.n;
        e->stats.requests++;
        fl_engine_call(e);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

int fl_engine_submit(fl_engine *e, fl_request **out, fl_submission *s, fl_err *err) {
    fl_request *r;
    const fl_params *p = s->like ? &s->like->params : s->params;
    int64_t bytes = 0;
    truncate_prompt(s, p);
    int rc = fl_engine_check_owner(e, err);
    if (!rc) rc = check_submission(e, s, p, err);
    if (!rc) rc = plan(e, s, p, &bytes, err);
    if (!rc && bytes && atomic_load(&e->planned) + bytes > FL_MAX_PLANNED_BYTES)
        rc = fl_fail(err, FL_E_BUSY, "logprobs: those of other requests take all memory they may");
    if (rc) {
        fl_arena_free(&s->arena);
        return rc;
    }
    if ((rc = fl_request_new(&r, e, s, err))) return rc;
    r->planned = bytes;
    atomic_fetch_add(&e->planned, bytes);
    if ((rc = prepare(e, r, err)) || (rc = enqueue(e, r, &s->key, err))) {
        fl_request_unref(r);
        return rc;
    }
    *out = r;
    return FL_OK;
}

void fl_request_cancel(fl_request *r) {
    fl_engine *e = r->engine;
    atomic_store(&r->cancelled, true);
    pthread_mutex_lock(&e->lock);
    fl_engine_call(e);
    pthread_mutex_unlock(&e->lock);
}

fl_request *fl_request_ref(fl_request *r) {
    pthread_mutex_lock(&r->engine->lock);
    r->handles++;
    pthread_mutex_unlock(&r->engine->lock);
    atomic_fetch_add(&r->refs, 1);
    return r;
}

fl_engine *fl_request_engine(const fl_request *r) {
    return r->engine;
}
uint64_t fl_request_arrival(const fl_request *r) {
    return r->arrival;
}

void fl_request_unref(fl_request *r) {
    if (!r) return;
    fl_engine *e = r->engine;
    if (e->owner == getpid()) { /* in a forked child the lock may be held for ever */
        pthread_mutex_lock(&e->lock);
        if (--r->handles == 0 && r->n_done < r->params.n) {
            atomic_store(&r->cancelled, true);
            fl_engine_call(e);
        }
        pthread_mutex_unlock(&e->lock);
    }
    fl_request_drop(r);
}

void fl_engine_close(fl_engine *e, bool drain) {
    if (e->owner != getpid()) return; /* its thread is the parent's */
    pthread_mutex_lock(&e->lock);
    bool join = e->started;
    e->closing = true;
    e->draining = drain;
    e->started = false;
    fl_engine_call(e);
    pthread_mutex_unlock(&e->lock);
    if (join) pthread_join(e->thread, NULL);
}

static bool is_behind(const fl_request *r) {
    for (int64_t i = 0; i < r->params.n; i++)
        if (fl_choice_unread(&r->choice[i]) >= r->engine->options.max_unread) return true;
    return false;
}

int fl_request_read(fl_request *r, fl_update *u, fl_read_result *result, fl_err *err) {
    pthread_mutex_lock(&r->engine->lock);
    const bool behind = is_behind(r);
    int rc = fl_request_take(r, u, result, err);
    if (behind) fl_engine_call(r->engine);
    pthread_mutex_unlock(&r->engine->lock);
    return rc;
}

int fl_request_result(fl_request *r, int64_t index, fl_update *u, fl_err *err) {
    if (index < 0 || index >= r->params.n)
        return fl_fail(err, FL_E_ARG, "result: completion %lld of %lld", (long long)index,
                       (long long)r->params.n);
    pthread_mutex_lock(&r->engine->lock);
    fl_choice *c = &r->choice[index];
    const int64_t tokens = c->seen_tokens;
    const size_t bytes = c->seen_bytes;
    const bool finish_seen = c->finish_seen;
    c->seen_tokens = 0;
    c->seen_bytes = 0;
    int rc = fl_choice_take(c, u, err);
    c->seen_tokens = tokens;
    c->seen_bytes = bytes;
    c->finish_seen = finish_seen;
    pthread_mutex_unlock(&r->engine->lock);
    return rc;
}

bool fl_request_wait(fl_request *r, int64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t ns = until.tv_nsec + (ms > 0 ? ms % 1000 * 1000000 : 0);
    until.tv_sec += (ms > 0 ? ms / 1000 : 0) + ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&r->engine->lock);
    int rc = 0;
    bool news;
    while (!(news = fl_request_has_news(r) || r->n_done == r->params.n) && !rc) {
        if (ms < 0)
            rc = pthread_cond_wait(&r->news, &r->engine->lock);
        else
            rc = pthread_cond_timedwait(&r->news, &r->engine->lock, &until);
    }
    pthread_mutex_unlock(&r->engine->lock);
    return news;
}

void fl_request_wait_end(fl_request *r) {
    pthread_mutex_lock(&r->engine->lock);
    r->wants_all = true;
    fl_engine_call(r->engine);
    while (r->n_done < r->params.n) pthread_cond_wait(&r->ended, &r->engine->lock);
    pthread_mutex_unlock(&r->engine->lock);
}

void fl_request_collect(fl_request *r) {
    pthread_mutex_lock(&r->engine->lock);
    r->wants_all = true;
    fl_engine_call(r->engine);
    pthread_mutex_unlock(&r->engine->lock);
}

void fl_request_watch(fl_request *r, int fd) {
    fl_engine *e = r->engine;
    if (e->owner != getpid()) return; /* in a forked child the lock may be held for ever */
    pthread_mutex_lock(&e->lock);
    r->watch = fd;
    pthread_mutex_unlock(&e->lock);
    fl_notice_set(fd);
}

bool fl_request_ended(fl_request *r) {
    pthread_mutex_lock(&r->engine->lock);
    bool ended = r->n_done == r->params.n;
    pthread_mutex_unlock(&r->engine->lock);
    return ended;
}

void fl_request_usage(fl_request *r, fl_usage *out) {
    pthread_mutex_lock(&r->engine->lock);
    *out = (fl_usage){.prompt_tokens = r->n_prompt, .cached_tokens = r->cached_tokens};
    for (int64_t i = 0; i < r->params.n; i++) out->completion_tokens += r->choice[i].n_output;
    if (r->begun_at > 0) out->queue_s = r->begun_at - r->submitted_at;
    if (r->first_token_at > 0) out->first_token_s = r->first_token_at - r->submitted_at;
    if (r->last_token_at > 0) out->total_s = r->last_token_at - r->submitted_at;
    pthread_mutex_unlock(&r->engine->lock);
}

const fl_params *fl_request_params(const fl_request *r) {
    return &r->params;
}
const int32_t *fl_request_prompt(const fl_request *r, int64_t *n) {
    *n = r->n_prompt;
    return r->prompt;
}
const fl_err *fl_request_error(const fl_request *r) {
    return &r->error;
}

const float *fl_request_prompt_logprobs(fl_request *r, const fl_top **top, int64_t *n) {
    *top = r->prompt_top;
    *n = r->prompt_logprob ? r->n_prompt : 0;
    return r->prompt_logprob;
}

/* With the lock held: the thread is not joined before `started` is cleared under it. */
static double thread_seconds(const fl_engine *e) {
    clockid_t clock;
    struct timespec t;
    if (!e->started || pthread_getcpuclockid(e->thread, &clock) || clock_gettime(clock, &t))
        return 0;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void fl_engine_stats_get(fl_engine *e, fl_engine_stats *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->thread_s = thread_seconds(e);
    out->queued = e->n_queued;
    out->running = out->parked = 0;
    for (int64_t i = 0; i < e->n_active; i++) {
        out->running += e->active[i]->seq != NULL;
        out->parked += e->active[i]->parked;
    }
    pthread_mutex_unlock(&e->lock);
}
