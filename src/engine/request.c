#include "engine/engine_priv.h"

#include <string.h>
#include <unistd.h>

#include "util/mem.h"
#include "util/num.h"

const char *fl_finish_name(fl_finish f) {
    static const char *const name[] = {"none", "stop", "length", "cancelled", "timeout", "error"};
    return name[f];
}

static void choice_free(fl_choice *c) {
    fl_sequence_unref(c->seq);
    fl_sampler_free(c->sampler);
    fl_free(c->output);
    fl_free(c->logprob);
    fl_free(c->top);
    fl_policy_deinit(c);
    fl_free(c->pick);
    fl_free(c->pick_top);
    fl_bytes_free(&c->text);
}

/* With a seed, completion i of a request draws from seed + i, so that they differ. */
static int new_sampler(fl_choice *c, const fl_request *r, int64_t i, fl_err *err) {
    const fl_sampler_params *p = &r->params.sampler;
    const fl_request *first = r->like ? r->like : r;
    const uint64_t seed = p->seed + (uint64_t)i;
    if (c == first->choice) return fl_sampler_new(&c->sampler, p, err);
    return fl_sampler_like(&c->sampler, first->choice->sampler, p->has_seed ? &seed : NULL, err);
}

static int choice_init(fl_choice *c, fl_request *r, fl_engine *e, int64_t i, fl_err *err) {
    const fl_params *p = &r->params;
    c->request = r;
    c->index = i;
    c->stop_id = -1;
    const int64_t picks = 1 + p->num_speculative_tokens, k = fl_max_i64(p->logprobs, 0);
    c->pick = fl_alloc_array((size_t)picks, sizeof(*c->pick));
    c->pick_top = fl_alloc_array((size_t)(picks * k), sizeof(fl_top));
    if (!c->pick || !c->pick_top) return fl_fail(err, FL_E_NOMEM, "request");
    for (int64_t j = 0; j < picks; j++) c->pick[j].top = c->pick_top + j * k;
    int rc = new_sampler(c, r, i, err);
    return rc ? rc : fl_policy_init(c, e, err);
}

/* What the request leaves to the engine; guesses are nothing for one whose tokens come from
 * elsewhere. */
static int settle(fl_params *p, const fl_engine_options *o, fl_err *err) {
    if (p->policy && p->num_speculative_tokens > 0)
        return fl_fail(err, FL_E_ARG, "num_speculative_tokens: %lld, but a policy takes no guesses",
                       (long long)p->num_speculative_tokens);
    if (p->num_speculative_tokens < 0) p->num_speculative_tokens = o->num_speculative_tokens;
    if (p->policy) p->num_speculative_tokens = 0;
    if (p->prompt_lookup_min < 0) p->prompt_lookup_min = o->prompt_lookup_min;
    if (p->prompt_lookup_max < 0) p->prompt_lookup_max = o->prompt_lookup_max;
    if (p->prompt_lookup_min > p->prompt_lookup_max)
        return fl_fail(err, FL_E_ARG, "prompt_lookup_min: %lld is more than prompt_lookup_max %lld",
                       (long long)p->prompt_lookup_min, (long long)p->prompt_lookup_max);
    if (p->echo && p->logprobs > p->prompt_logprobs) p->prompt_logprobs = p->logprobs;
    if (!p->max_tokens && !p->echo && p->prompt_logprobs < 0)
        return fl_fail(err, FL_E_ARG, "max_tokens: 0, need echo or prompt_logprobs with it");
    return FL_OK;
}

int fl_request_new(fl_request **out, fl_engine *e, const fl_submission *s, fl_err *err) {
    fl_request *r = fl_alloc(sizeof(*r));
    fl_arena arena = s->arena;
    if (!r) {
        fl_arena_free(&arena);
        return fl_fail(err, FL_E_NOMEM, "request");
    }
    atomic_init(&r->refs, 1);
    r->watch = -1;
    r->arena = arena;
    r->like = s->like;
    if (r->like) atomic_fetch_add(&r->like->refs, 1);
    r->params = r->like ? r->like->params : *s->params;
    int rc = r->like ? FL_OK : settle(&r->params, &e->options, err);
    r->prompt = s->ids;
    r->n_prompt = (int64_t)s->n_ids;
    pthread_cond_init(&r->news, NULL);
    pthread_cond_init(&r->ended, NULL);
    const int64_t k = r->params.prompt_logprobs;
    r->choice = fl_alloc_array((size_t)r->params.n, sizeof(*r->choice));
    if (k >= 0) {
        r->prompt_logprob = fl_alloc_array(s->n_ids, sizeof(float));
        r->prompt_top = fl_alloc_array(s->n_ids * (size_t)k, sizeof(fl_top));
    }
    if (!rc && (!r->choice || (k >= 0 && (!r->prompt_logprob || !r->prompt_top))))
        rc = fl_fail(err, FL_E_NOMEM, "request of %zu tokens", s->n_ids);
    for (int64_t i = 0; !rc && i < k; i++)
        r->prompt_top[i].id = -1; /* nothing predicts the first */
    for (int64_t i = 0; !rc && i < r->params.n; i++) rc = choice_init(&r->choice[i], r, e, i, err);
    if (rc) {
        fl_request_drop(r);
        return rc;
    }
    r->handles = 1;
    r->engine = fl_engine_ref(e);
    *out = r;
    return FL_OK;
}

void fl_request_drop(fl_request *r) {
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    fl_engine *e = r->engine;
    for (int64_t i = 0; r->choice && i < r->params.n; i++) choice_free(&r->choice[i]);
    fl_free(r->choice);
    fl_free(r->prompt_logprob);
    fl_free(r->prompt_top);
    if (!e || e->owner == getpid()) {
        pthread_cond_destroy(&r->news);
        pthread_cond_destroy(&r->ended);
    }
    fl_arena_free(&r->arena);
    if (e) atomic_fetch_sub(&e->planned, r->planned);
    if (r->like) fl_request_drop(r->like);
    fl_free(r);
    fl_engine_unref(e);
}

int64_t fl_request_planned(const fl_request *r) {
    return r->planned;
}

bool fl_choice_is_end(const fl_choice *c, int32_t id) {
    const fl_id_list *stops = &c->request->params.stop_token_ids;
    const fl_engine *e = c->request->engine;
    for (size_t i = 0; i < stops->n; i++) {
        if (stops->ids[i] == id) return true;
    }
    for (int i = 0; !c->request->params.ignore_eos && i < e->n_eos; i++) {
        if (e->eos[i] == id) return true;
    }
    return false;
}

/* An echo comes with the first token, when its log-probabilities are complete. */
static bool shows_prompt(const fl_choice *c) {
    return c->n_output || c->finish == FL_FINISH_LENGTH || c->finish == FL_FINISH_STOP;
}

static int64_t echoed(const fl_choice *c) {
    return c->request->params.echo && shows_prompt(c) ? c->request->n_prompt : 0;
}

int64_t fl_choice_unread(const fl_choice *c) {
    return echoed(c) + c->n_output - c->seen_tokens;
}

void fl_choice_finish(fl_choice *c, fl_finish why) {
    if (c->finish) return;
    c->finish = why;
    c->released = shows_prompt(c) ? c->text.len : 0;
    c->parked = false;
    fl_policy_end(c);
    c->request->n_done++;
    pthread_cond_broadcast(&c->request->engine->parked);
    if (c->request->n_done == c->request->params.n) pthread_cond_broadcast(&c->request->ended);
}

bool fl_choice_room(fl_choice *c, int64_t n) {
    const fl_params *p = &c->request->params;
    if (c->n_output + n <= c->cap) return true;
    int64_t cap = fl_max_i64(c->n_output + n, c->cap ? c->cap * 2 : 32);
    int32_t *output = fl_grow(c->output, (size_t)cap * sizeof(*output));
    if (output) c->output = output;
    if (!output) return false;
    if (p->logprobs >= 0) {
        float *logprob = fl_grow(c->logprob, (size_t)cap * sizeof(*logprob));
        if (logprob) c->logprob = logprob;
        if (!logprob) return false;
    }
    if (p->logprobs > 0) {
        fl_top *top = fl_grow(c->top, (size_t)(cap * p->logprobs) * sizeof(*top));
        if (top) c->top = top;
        if (!top) return false;
    }
    c->cap = cap;
    return true;
}

/* First stop text that ends behind byte `from` of the text; the earliest match wins.  What stands before
 * was looked at, or is not to be (min_tokens), and may have been read. */
static const fl_text *find_stop(const fl_choice *c, size_t from, size_t *at) {
    const fl_text_list *stops = &c->request->params.stop;
    const fl_text *found = NULL;
    for (size_t i = 0; i < stops->n; i++) {
        const fl_text *s = &stops->items[i];
        const size_t before = s->len - 1;
        size_t begin = from > c->text_start + before ? from - before : c->text_start;
        if (c->text.len < begin + s->len) continue;
        const char *hit = memmem(c->text.data + begin, c->text.len - begin, s->data, s->len);
        size_t offset = hit ? (size_t)(hit - c->text.data) : 0;
        if (!hit || (found && offset >= *at)) continue;
        found = s;
        *at = offset;
    }
    return found;
}

/* How much of the text may be shown: not the beginning of what may become a stop text, and
 * no part of a character. */
static size_t releasable(const fl_choice *c) {
    const fl_text_list *stops = &c->request->params.stop;
    size_t keep = 0;
    for (size_t i = 0; i < stops->n; i++) {
        const fl_text *s = &stops->items[i];
        const size_t output = c->text.len - c->text_start;
        for (size_t k = s->len - 1 < output ? s->len - 1 : output; k > keep; k--) {
            if (!memcmp(c->text.data + c->text.len - k, s->data, k)) keep = k;
        }
    }
    size_t end = c->text.len - keep;
    while (end && end < c->text.len && ((uint8_t)c->text.data[end] & 0xc0) == 0x80) end--;
    return end;
}

static int append_text(fl_choice *c, int32_t id, fl_err *err) {
    size_t before = c->text.len, at = 0;
    int rc;
    /* The model's vocabulary may be padded beyond the tokenizer's: such ids have no text. */
    if (!c->detok.tokenizer || id >= fl_tokenizer_size(c->detok.tokenizer)) return FL_OK;
    if ((rc = fl_detok_push(&c->detok, id, &c->text, err))) return rc;
    if (c->text.failed) return fl_fail(err, FL_E_NOMEM, "text of %zu bytes", before);
    const fl_params *p = &c->request->params;
    const fl_text *stop =
        p->stop.n && c->n_output > p->min_tokens ? find_stop(c, before, &at) : NULL;
    if (stop) {
        c->text.len = at + (p->include_stop ? stop->len : 0);
        c->stop_text = stop;
        fl_choice_finish(c, FL_FINISH_STOP);
    } else {
        c->released = releasable(c);
    }
    return FL_OK;
}

int fl_choice_append(fl_choice *c, const fl_pick *pick, fl_err *err) {
    const fl_request *r = c->request;
    int rc;
    if (!fl_choice_room(c, 1))
        return fl_fail(err, FL_E_NOMEM, "%lld tokens", (long long)c->n_output);
    const int64_t at = c->n_output++, k = r->params.logprobs;
    c->output[at] = pick->id;
    if (c->logprob) c->logprob[at] = pick->logprob;
    if (c->top) memcpy(c->top + at * k, pick->top, (size_t)k * sizeof(*c->top));
    bool end = fl_choice_is_end(c, pick->id);
    /* What ends the text belongs to it only when the caller says so, be it a text or an id. */
    if ((!end || r->params.include_stop) && (rc = append_text(c, pick->id, err))) return rc;
    if (end && !c->finish) {
        c->stop_id = pick->id;
        fl_choice_finish(c, FL_FINISH_STOP);
    }
    if (!c->finish && c->n_output >= r->max_output) {
        if (c->detok.tokenizer) fl_detok_finish(&c->detok, &c->text);
        fl_choice_finish(c, FL_FINISH_LENGTH);
    }
    return FL_OK;
}

void fl_update_free(fl_update *u) {
    fl_free(u->ids);
    fl_free(u->logprob);
    fl_free(u->top);
    fl_bytes_free(&u->text);
    *u = (fl_update){0};
}

static int room(fl_update *u, int64_t n, int64_t n_top, fl_err *err) {
    const int64_t cap = fl_max_i64(n, 32), cap_top = cap * n_top;
    if (n <= u->cap && cap_top <= u->cap_top && u->ids) return FL_OK;
    int32_t *ids = fl_grow(u->ids, (size_t)cap * sizeof(*ids));
    if (ids) u->ids = ids;
    float *logprob = fl_grow(u->logprob, (size_t)cap * sizeof(*logprob));
    if (logprob) u->logprob = logprob;
    fl_top *top = cap_top <= u->cap_top && u->top
                      ? u->top
                      : fl_grow(u->top, (size_t)fl_max_i64(cap_top, 1) * sizeof(*top));
    if (top) u->top = top;
    if (!ids || !logprob || !top) return fl_fail(err, FL_E_NOMEM, "%lld new tokens", (long long)n);
    u->cap = cap;
    u->cap_top = fl_max_i64(cap_top, u->cap_top);
    return FL_OK;
}

/* Token i of what a reader sees: of the prompt, with echo, then of the output. */
static void take_token(const fl_choice *c, int64_t i, fl_update *u, int64_t at) {
    const fl_request *r = c->request;
    const int64_t n_prompt = echoed(c), k = u->n_top, o = i - n_prompt;
    const bool prompt = i < n_prompt;
    u->ids[at] = prompt ? r->prompt[i] : c->output[o];
    if (c->request->params.logprobs >= 0)
        u->logprob[at] = prompt ? r->prompt_logprob[i] : c->logprob[o];
    if (k)
        memcpy(u->top + at * k,
               prompt ? r->prompt_top + i * r->params.prompt_logprobs : c->top + o * k,
               (size_t)k * sizeof(*u->top));
}

int fl_choice_take(fl_choice *c, fl_update *u, fl_err *err) {
    const fl_params *p = &c->request->params;
    const int64_t n = fl_choice_unread(c);
    int rc = room(u, n, fl_max_i64(p->logprobs, 0), err);
    if (rc) return rc;
    u->text.len = 0;
    if (c->released > c->seen_bytes)
        fl_bytes_put(&u->text, c->text.data + c->seen_bytes, c->released - c->seen_bytes);
    if (u->text.failed) return fl_fail(err, FL_E_NOMEM, "%zu bytes of text", c->released);
    u->index = c->index;
    u->n = n;
    u->n_top = p->logprobs > 0 ? p->logprobs : 0;
    for (int64_t i = 0; i < n; i++) take_token(c, c->seen_tokens + i, u, i);
    u->finish = c->finish;
    u->stop_id = c->stop_id;
    u->stop_text = c->stop_text ? *c->stop_text : (fl_text){NULL, 0};
    c->seen_tokens += n;
    c->seen_bytes = c->released;
    c->finish_seen = c->finish != FL_FINISH_NONE;
    return FL_OK;
}

static bool has_news(const fl_choice *c) {
    return fl_choice_unread(c) > 0 || c->seen_bytes < c->released || (c->finish && !c->finish_seen);
}

bool fl_request_has_news(const fl_request *r) {
    for (int64_t i = 0; i < r->params.n; i++) {
        if (has_news(&r->choice[i])) return true;
    }
    return false;
}

int fl_request_take(fl_request *r, fl_update *u, fl_read_result *result, fl_err *err) {
    bool all_seen = true;
    for (int64_t i = 0; i < r->params.n; i++) {
        fl_choice *c = &r->choice[i];
        if (has_news(c)) {
            *result = FL_READ_UPDATE;
            return fl_choice_take(c, u, err);
        }
        all_seen = all_seen && c->finish_seen;
    }
    *result = all_seen ? FL_READ_DONE : FL_READ_NONE;
    return FL_OK;
}
