/* Turns of the engine: take what is new, schedule, step, commit.  Its thread makes them and sleeps
 * when idle; whoever waits for a policy's next step makes those that follow its own answers. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine/engine_priv.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/num.h"

/* How long to sleep when pages are missing that a sequence may give back. */
static const double POLL_S = 5e-3;
/* So long the turn after a policy's answer is left to whoever waits for the next step. */
static const double OWED_S = 20e-3;
/* So long after an answer the thread dozes: wakes each OWED_S, to see whether one is owed a turn. */
static const double DOZE_S = 1.0;

static bool before(const fl_choice *a, const fl_choice *b) {
    const fl_request *x = a->request, *y = b->request;
    if (x->params.priority != y->params.priority) return x->params.priority < y->params.priority;
    if (x->arrival != y->arrival) return x->arrival < y->arrival;
    return a->index < b->index;
}

static int grow(fl_engine *e, int64_t need, fl_err *err) {
    if (need <= e->cap_active) return FL_OK;
    int64_t cap = fl_max_i64(need, 2 * e->cap_active);
    fl_choice **active = fl_grow(e->active, (size_t)cap * sizeof(*active));
    if (active) e->active = active;
    fl_sched_item *items = fl_grow(e->items, (size_t)cap * sizeof(*items));
    if (items) e->items = items;
    fl_choice **scheduled = fl_grow(e->scheduled, (size_t)cap * sizeof(*scheduled));
    if (scheduled) e->scheduled = scheduled;
    fl_step_entry *entries = fl_grow(e->entries, (size_t)cap * sizeof(*entries));
    if (entries) e->entries = entries;
    fl_step_draw *draws = fl_grow(e->draws, (size_t)cap * sizeof(*draws));
    if (draws) e->draws = draws;
    if (!active || !items || !scheduled || !entries || !draws)
        return fl_fail(err, FL_E_NOMEM, "engine: %lld completions", (long long)need);
    e->cap_active = cap;
    return FL_OK;
}

static void fail_request(fl_engine *e, fl_request *r, const fl_err *err) {
    r->error = *err;
    for (int64_t i = 0; i < r->params.n; i++) fl_choice_finish(&r->choice[i], FL_FINISH_ERROR);
    fl_engine_notify(e, r);
}

static void unqueue(fl_engine *e, fl_request *r) {
    e->n_queued -= r->params.n;
    r->share->n_queued -= r->params.n;
}

/* The queue's requests join the active completions, in the order they should be served. */
static void take_queue(fl_engine *e) {
    while (e->queue) {
        fl_request *r = e->queue;
        fl_err err;
        e->queue = r->next;
        if (!e->queue) e->queue_end = &e->queue;
        if (grow(e, e->n_active + r->params.n, &err)) {
            fail_request(e, r, &err);
            unqueue(e, r);
            fl_share_leave(e, r->share);
            fl_request_drop(r);
            continue;
        }
        for (int64_t k = 0; k < r->params.n; k++) {
            int64_t at = e->n_active++;
            for (; at && before(&r->choice[k], e->active[at - 1]); at--)
                e->active[at] = e->active[at - 1];
            e->active[at] = &r->choice[k];
        }
        r->n_active = r->params.n;
    }
}

static void release_pages(fl_choice *c) {
    if (c->seq) fl_sequence_close(c->seq);
    fl_sequence_unref(c->seq);
    c->seq = NULL;
}

/* Cancelled, late and silent ones end here. */
static void check_clock(fl_engine *e) {
    const double now = fl_now();
    for (int64_t i = 0; i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        fl_request *r = c->request;
        const double silence = now - c->parked_at;
        fl_finish why = FL_FINISH_NONE;
        if (c->finish) continue;
        if (atomic_load(&r->cancelled) || (e->closing && !e->draining))
            why = FL_FINISH_CANCELLED;
        else if (r->deadline > 0 && now >= r->deadline)
            why = FL_FINISH_TIMEOUT;
        else if (c->parked && silence * 1e3 > (double)e->options.policy_timeout_ms) {
            fl_fail(&r->error, FL_E_CANCELLED, "policy: silent for more than %lld ms",
                    (long long)e->options.policy_timeout_ms);
            why = FL_FINISH_ERROR;
        }
        if (!why) continue;
        fl_choice_finish(c, why);
        fl_engine_notify(e, r);
    }
}

static void begin(fl_engine *e, fl_request *r) {
    if (r->begun) return;
    unqueue(e, r);
    r->begun = true;
    r->begun_at = fl_now();
    fl_histogram_add(&e->stats.queue_s, r->begun_at - r->submitted_at, 1);
}

/* Finished completions leave, and their requests with the last of them. */
static void sweep(fl_engine *e) {
    int64_t kept = 0;
    for (int64_t i = 0; i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        fl_request *r = c->request;
        if (!c->finish) {
            e->active[kept++] = c;
            continue;
        }
        release_pages(c);
        if (--r->n_active) continue;
        begin(e, r);
        e->stats.finished++;
        fl_histogram_add(&e->stats.total_s, fl_now() - r->submitted_at, 1);
        fl_share_leave(e, r->share);
        fl_request_drop(r);
    }
    e->n_active = kept;
    if (!kept) pthread_cond_broadcast(&e->parked);
}

/* Tokens of prompt and output together. */
static int64_t known(const fl_choice *c) {
    return c->request->n_prompt + c->n_output;
}

/* Too far ahead of its reader.  Draining waits for no reader: it may be the one who drains; and a
 * policy has seen every token. */
static bool is_paused(const fl_engine *e, const fl_choice *c) {
    const fl_request *r = c->request;
    if (c->finish || r->params.policy || r->wants_all || e->draining) return false;
    return fl_choice_unread(c) >= e->options.max_unread;
}

static bool wants_rows(const fl_engine *e, const fl_choice *c) {
    if (c->finish || c->parked || is_paused(e, c)) return false;
    /* Later completions start from the pages of the first one's prompt. */
    return c->index == 0 || c->n_output > 0 || c->request->choice[0].finish;
}

/* Guesses at what follows, behind the output; how many.  No more than can still be needed or
 * than the reader may be left behind. */
static int64_t guess(const fl_engine *e, fl_choice *c) {
    const fl_request *r = c->request;
    const fl_ngram g = {r->params.prompt_lookup_min, r->params.prompt_lookup_max};
    int64_t most = fl_min_i64(r->params.num_speculative_tokens, r->max_output - c->n_output - 1);
    if (!r->wants_all && !e->draining)
        most = fl_min_i64(most, e->options.max_unread - fl_choice_unread(c) - 1);
    if (most <= 0 || !c->n_output || !fl_choice_room(c, most + 1)) return 0;
    const fl_history h = {r->prompt, (size_t)r->n_prompt, c->output, (size_t)c->n_output};
    return fl_ngram_guess(&g, &h, c->output + c->n_output, most);
}

/* Everybody who wants rows or holds pages, as the scheduler sees them; how many. */
static int64_t list_items(fl_engine *e) {
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        if (c->seq || wants_rows(e, c)) e->scheduled[n++] = c;
    }
    fl_share_order(e, e->scheduled, n);
    for (int64_t i = 0; i < n; i++) {
        fl_choice *c = e->scheduled[i];
        const bool wants = wants_rows(e, c);
        fl_sched_item it = {.share = c->request->share->number,
                            .running = c->seq != NULL,
                            .parked = !wants,
                            .paused = is_paused(e, c)};
        if (c->seq) {
            it.length = fl_sequence_length(c->seq);
            fl_step_pages_of(c->seq, &it.pages, &it.shared_tail);
        }
        it.pending = fl_max_i64(known(c) - it.length, 1);
        if (wants && c->seq && it.pending == 1) it.guesses = guess(e, c);
        e->items[i] = it;
    }
    return n;
}

/* The next known tokens of c and guesses, as many as it has rows; fewer where prompt and output meet. */
static void fill_entry(fl_step_entry *entry, fl_choice *c, const fl_sched_item *it) {
    const fl_request *r = c->request;
    const int64_t length = fl_sequence_length(c->seq), left = r->n_prompt - length;
    c->n_picks = 0;
    c->n_guesses = it->guesses ? it->rows - 1 : 0;
    /* The cache may have had most of them. */
    const int64_t rows = fl_min_i64(it->rows, known(c) + c->n_guesses - length);
    *entry = (fl_step_entry){.seq = c->seq, .on_row = fl_engine_on_row, .ctx = c};
    if (left > 0) {
        entry->ids = r->prompt + length;
        entry->n = fl_min_i64(rows, left);
    } else {
        entry->ids = c->output - left;
        entry->n = rows;
    }
    bool scoring = r->params.prompt_logprobs >= 0 && left > 0 && c->index == 0;
    bool last = length + entry->n >= known(c);
    entry->first_row = scoring || c->n_guesses ? 0 : last ? entry->n - 1 : entry->n;
}

/* A page of the prompt from the cache: its scores are those of the request. */
static void take_scores(void *choice, int64_t position, const fl_kv_scores *scores) {
    fl_request *r = ((fl_choice *)choice)->request;
    const int64_t k = r->params.prompt_logprobs;
    memcpy(r->prompt_logprob + position, scores->logprob, sizeof(scores->logprob));
    for (int64_t i = 0; k && i < FL_KV_PAGE_TOKENS; i++)
        memcpy(r->prompt_top + (position + i) * k, scores->top + i * scores->n_top,
               (size_t)k * sizeof(*scores->top));
    r->n_prompt_scored = fl_max_i64(r->n_prompt_scored, position + FL_KV_PAGE_TOKENS);
}

/* What was scored of the prompt goes to its full pages, for later requests. */
static void offer_scores(fl_choice *c) {
    fl_request *r = c->request;
    const int64_t k = r->params.prompt_logprobs, p = FL_KV_PAGE_TOKENS;
    for (; (r->n_pages_scored + 1) * p <= r->n_prompt_scored; r->n_pages_scored++) {
        const int64_t first = r->n_pages_scored * p;
        if (first + p > fl_sequence_length(c->seq)) return;
        fl_kv_scores *s = fl_alloc(sizeof(*s) + (size_t)(k * p) * sizeof(*s->top));
        if (!s) return; /* only a later request could have used them */
        s->n_top = (int32_t)k;
        memcpy(s->logprob, r->prompt_logprob + first, sizeof(s->logprob));
        if (k) memcpy(s->top, r->prompt_top + first * k, (size_t)(k * p) * sizeof(*s->top));
        fl_sequence_score_page(c->seq, r->n_pages_scored, s);
    }
}

/* A new sequence starts with what the cache has of its prompt. */
static void adopt_prefix(fl_engine *e, fl_choice *c) {
    fl_request *r = c->request;
    /* Scores are wanted until the first completion has been through the prompt once. */
    const bool scoring = r->params.prompt_logprobs >= 0 && r->n_prompt_scored < r->n_prompt;
    if (fl_sequence_length(c->seq)) return;
    const fl_prefix prefix = {.ids = r->prompt,
                              .n = fl_min_i64(r->n_prompt, known(c)),
                              .salt = r->params.cache_salt.data,
                              .salt_len = r->params.cache_salt.len,
                              .on_scores = scoring && c->index == 0 ? take_scores : NULL,
                              .ctx = c,
                              .n_top = (int32_t)fl_max_i64(r->params.prompt_logprobs, 0)};
    int64_t cached = fl_sequence_adopt(c->seq, &prefix);
    if (c->n_output) return; /* after a preemption: the usage has been counted */
    r->n_pages_scored = fl_max_i64(cached / FL_KV_PAGE_TOKENS, r->n_pages_scored);
    r->cached_tokens = cached;
    e->stats.cached_tokens += (uint64_t)cached;
}

static void fail_choice(fl_engine *e, fl_choice *c, const fl_err *err) {
    c->request->error = *err;
    fl_choice_finish(c, FL_FINISH_ERROR);
    fl_engine_notify(e, c->request);
}

static int new_sequence(fl_engine *e, fl_choice *c, fl_err *err) {
    int rc = fl_sequence_new(&c->seq, e->model, err);
    if (!rc) fl_holder_adopt(&e->holder, c->seq);
    return rc;
}

/* Turn the schedule into entries; how many.  Preempted ones give their pages back. */
static int64_t make_entries(fl_engine *e, int64_t n_items, fl_err *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < n_items; i++) {
        fl_choice *c = e->scheduled[i];
        if (e->items[i].preempt) {
            release_pages(c);
            e->stats.preemptions++;
        }
        if (!e->items[i].rows) continue;
        if (!c->seq && new_sequence(e, c, err)) {
            fail_request(e, c->request, err);
            continue;
        }
        begin(e, c->request);
        if (fl_policy_prepare(c, err)) {
            fail_choice(e, c, err);
            continue;
        }
        adopt_prefix(e, c);
        fill_entry(&e->entries[n++], c, &e->items[i]);
    }
    return n;
}

void fl_engine_count_tokens(fl_engine *e, fl_choice *c, int64_t n, double now) {
    fl_request *r = c->request;
    if (!(r->first_token_at > 0)) {
        r->first_token_at = now;
        fl_histogram_add(&e->stats.first_token_s, now - r->submitted_at, 1);
    }
    if (c->last_token_at > 0)
        fl_histogram_add(&e->stats.inter_token_s, (now - c->last_token_at) / (double)n,
                         (uint64_t)n);
    r->last_token_at = c->last_token_at = now;
    e->stats.output_tokens += (uint64_t)n;
}

static void commit(fl_engine *e, fl_choice *c) {
    fl_request *r = c->request;
    fl_err err = c->error;
    const int64_t before = c->n_output;
    if (c->finish) return;
    if (!r->max_output) {
        fl_choice_finish(c, FL_FINISH_LENGTH); /* only the prompt was wanted */
    } else if (!c->n_picks || fl_choice_commit(c, &err)) {
        fail_choice(e, c, &err);
        return;
    }
    e->stats.draft_tokens += (uint64_t)c->n_guesses;
    if (c->n_guesses) e->stats.accepted_tokens += (uint64_t)(c->n_output - before - 1);
    if (c->n_output > before) fl_engine_count_tokens(e, c, c->n_output - before, fl_now());
    fl_engine_notify(e, r);
}

static int64_t n_running(const fl_engine *e) {
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_active; i++) n += e->active[i]->seq != NULL;
    return n;
}

/* The prompt is in the first completion's pages: the others share them from here, as many as may
 * run.  The rest has its first token and waits like one that was preempted. */
static void fork_others(fl_engine *e, fl_choice *first) {
    fl_request *r = first->request;
    int64_t room = r->params.n > 1 ? e->options.max_running - n_running(e) : 0;
    for (int64_t k = 1; k < r->params.n; k++) {
        fl_err err;
        if (room-- > 0 && fl_sequence_fork(&r->choice[k].seq, first->seq, &err))
            fail_choice(e, &r->choice[k], &err);
        else
            commit(e, &r->choice[k]);
    }
}

static void commit_all(fl_engine *e, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const fl_step_entry *entry = &e->entries[i];
        fl_choice *c = entry->ctx;
        const int64_t length = fl_sequence_length(c->seq);
        c->request->share->served += (double)entry->n;
        if (length <= c->request->n_prompt) e->stats.prompt_tokens += (uint64_t)entry->n;
        if (c->index == 0 && c->request->prompt_logprob) offer_scores(c);
        if (length < known(c)) continue; /* in the middle of a prompt */
        bool first = c->index == 0 && c->n_output == 0;
        if (first) fork_others(e, c);
        commit(e, c);
    }
}

/* The pool was fuller than the schedule knew (a sequence took pages, or those of a preempted
 * branch were shared): make room and let the next schedule try again.  Only one that holds
 * all there is cannot go on. */
static void relieve(fl_engine *e, int64_t n, const fl_err *err) {
    fl_choice *first = e->entries[0].ctx;
    for (int64_t i = e->n_active - 1; i >= 0; i--) {
        fl_choice *c = e->active[i];
        if (c == first || !c->seq) continue;
        release_pages(c);
        e->stats.preemptions++;
        return;
    }
    if (n == 1 && fl_engine_has_all(e, first)) fail_choice(e, first, err);
}

static void look_at_pool(fl_engine *e, fl_step_pool *pool) {
    fl_step_pool_get(e->model, pool);
    e->stats.kv_pages = pool->pages;
    e->stats.kv_pages_used = pool->pages - pool->free_pages;
    e->stats.prefix_queries = pool->prefix_queries;
    e->stats.prefix_hits = pool->prefix_hits;
}

/* The device is lost: everybody who runs or waits is told, and fl_engine_submit tells the rest. */
static void fail_all(fl_engine *e, const fl_err *err) {
    e->failure = *err;
    take_queue(e);
    for (int64_t i = 0; i < e->n_active; i++)
        if (!e->active[i]->finish) fail_choice(e, e->active[i], err);
}

/* One step with the lock released meanwhile.  false: nothing could run. */
static bool run_step(fl_engine *e) {
    fl_err err;
    fl_step_pool pool;
    const double t0 = fl_now();
    look_at_pool(e, &pool);
    fl_sched_limits limits = {.max_rows = e->options.max_step_tokens,
                              .max_seqs = fl_step_max_seqs(e->model),
                              .max_running = e->options.max_running,
                              .free_pages = fl_engine_free_pages(e, &pool),
                              .page_tokens = FL_KV_PAGE_TOKENS};
    int64_t n_items = list_items(e);
    fl_schedule(e->items, n_items, &limits);
    fl_engine_claim_pages(e, n_items, &limits);
    int64_t n = make_entries(e, n_items, &err);
    if (!n) return false;
    const double t1 = fl_now();
    double sample_s;
    e->n_drawn = 0;
    pthread_mutex_unlock(&e->lock);
    fl_engine_plan_draws(e, n);
    int rc = fl_step(e->model, e->entries, n, &sample_s, &err);
    pthread_mutex_lock(&e->lock);
    const double t2 = fl_now();
    if (!rc)
        commit_all(e, n);
    else if (rc == FL_E_LIMIT)
        relieve(e, n, &err);
    else if (rc == FL_E_DEVICE)
        fail_all(e, &err);
    else
        for (int64_t i = 0; i < n; i++) fail_choice(e, e->entries[i].ctx, &err);
    const double t3 = fl_now();
    e->stats.steps++;
    e->stats.device_tokens += (uint64_t)e->n_drawn;
    e->stats.schedule_s += t1 - t0 + t3 - t2;
    e->stats.sample_s += sample_s;
    fl_histogram_add(&e->stats.step_s, t3 - t0, 1);
    return true;
}

/* Without the lock, which whoever wakes wants first of all. */
static void tell_parked(fl_engine *e) {
    if (!e->has_parked) return;
    e->has_parked = false;
    pthread_mutex_unlock(&e->lock);
    pthread_cond_broadcast(&e->parked);
    pthread_mutex_lock(&e->lock);
}

/* A lone completion that cannot get one more page will never get it, unless somebody else has pages:
 * then it waits, and gives up its own where the other has waited longer. */
static bool fail_stuck(fl_engine *e) {
    fl_choice *stuck = NULL;
    for (int64_t i = 0; i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        if (!c->seq) continue;
        if (stuck || !wants_rows(e, c)) return false;
        stuck = c;
    }
    fl_err err;
    if (!stuck) return false;
    if (fl_engine_must_yield(e)) {
        release_pages(stuck);
        e->stats.preemptions++;
        return true;
    }
    if (!fl_engine_has_all(e, stuck)) return false;
    fl_fail(&err, FL_E_LIMIT, "kv: no page left after %lld tokens",
            (long long)fl_sequence_length(stuck->seq));
    fail_choice(e, stuck, &err);
    return true;
}

/* Those whose readers lag keep nothing that somebody else has waited for. */
static void leave_unread(fl_engine *e) {
    bool asked = false;
    for (int64_t i = 0; i < e->n_active; i++) {
        fl_choice *c = e->active[i];
        if (!c->seq || !is_paused(e, c)) continue;
        if (!asked && !fl_engine_must_yield(e)) return;
        asked = true;
        release_pages(c);
        e->stats.preemptions++;
    }
}

static bool anybody_wants_rows(const fl_engine *e) {
    for (int64_t i = 0; i < e->n_active; i++)
        if (wants_rows(e, e->active[i])) return true;
    return false;
}

/* false: nothing could run. */
static bool make_turn(fl_engine *e) {
    e->driven = true;
    e->owed = false;
    take_queue(e);
    check_clock(e);
    sweep(e);
    leave_unread(e);
    const bool ran = run_step(e) || fail_stuck(e);
    e->driven = false; /* before: whom it wakes may make the next turn */
    tell_parked(e);
    return ran;
}

/* Seconds until the clock alone can change something; INFINITY: never. */
static double patience(const fl_engine *e) {
    const double now = fl_now();
    double until = e->dozing ? now + OWED_S : INFINITY;
    if (e->driven || e->owed) return OWED_S;
    for (int64_t i = 0; i < e->n_active; i++) {
        const fl_choice *c = e->active[i];
        if (wants_rows(e, c)) return POLL_S; /* it lacks pages, which a sequence may give back */
        if (c->request->deadline > 0) until = fmin(until, c->request->deadline);
        if (c->parked)
            until = fmin(until, c->parked_at + (double)e->options.policy_timeout_ms * 1e-3);
    }
    return fmax(until - now, 0.0) + 1e-3;
}

/* Until called or out of patience: true then. */
static bool wait_for_call(fl_engine *e) {
    struct timespec until;
    const double s = patience(e);
    if (s == INFINITY) return pthread_cond_wait(&e->work, &e->lock) != 0;
    clock_gettime(CLOCK_REALTIME, &until);
    const int64_t ns = until.tv_nsec + (int64_t)(s * 1e9);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    return pthread_cond_timedwait(&e->work, &e->lock, &until) == ETIMEDOUT;
}

static bool has_unread(const fl_engine *e) {
    for (int64_t i = 0; i < e->n_active; i++)
        if (e->active[i]->seq && is_paused(e, e->active[i])) return true;
    return false;
}

/* Without the lock, which whoever claims may not wait for: a call that comes just before the thread
 * sleeps is lost, and repeated by the next turn of the one that waits. */
void fl_engine_pages_wanted(void *engine) {
    fl_engine *e = engine;
    atomic_store(&e->wanted, true);
    pthread_cond_signal(&e->work);
}

static void sleep_for_work(fl_engine *e) {
    bool late = false;
    e->asleep = true;
    atomic_store(&e->holder.unread, has_unread(e));
    while (e->driven || !(e->called || late || atomic_exchange(&e->wanted, false))) {
        e->dozing = e->n_active && fl_now() - e->answered_at < DOZE_S;
        late = wait_for_call(e);
    }
    atomic_store(&e->holder.unread, false);
    e->asleep = false;
}

/* Most likely the caller waits for the next step at once, and makes it: where nothing else is to be
 * done and the thread will look after it, it is not called. */
void fl_engine_answered(fl_engine *e) {
    int64_t wanting = 0;
    for (int64_t i = 0; i < e->n_active; i++) wanting += wants_rows(e, e->active[i]);
    if (wanting == 1 && (!e->asleep || e->dozing))
        e->owed = true;
    else
        e->called = true;
}

bool fl_engine_drive(fl_engine *e) {
    if (!e->owed || e->driven || e->called) return false;
    make_turn(e);
    if (e->called || e->queue || anybody_wants_rows(e)) fl_engine_call(e);
    return true;
}

void *fl_engine_thread(void *engine) {
    fl_engine *e = engine;
    bool ran = true;
    pthread_mutex_lock(&e->lock);
    while (!e->closing || e->n_active || e->queue) {
        if (!ran || e->driven || (e->owed && !e->called)) sleep_for_work(e);
        e->called = false;
        ran = make_turn(e);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}
