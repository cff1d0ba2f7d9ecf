#include "engine/scheduler.h"

#include <stddef.h>

#include "util/num.h"

enum { KEPT_ROWS = 4 }; /* one row of so many is kept for prompts of another share */

typedef struct state {
    fl_sched_item *items;
    int64_t n, rows_left, seqs_left, free_pages, running;
    const fl_sched_limits *limits;
} state;

static int64_t pages_of(const state *s, int64_t tokens) {
    return fl_div_up(tokens, s->limits->page_tokens);
}

/* Pages that `rows` more tokens take from the pool. */
static int64_t cost(const state *s, const fl_sched_item *it, int64_t rows) {
    int64_t grown = pages_of(s, it->length + rows) - it->pages;
    return fl_max_i64(grown, 0) + (it->shared_tail ? 1 : 0);
}

static void preempt(state *s, fl_sched_item *it) {
    it->preempt = true;
    s->free_pages += it->pages;
    s->running--;
}

/* Take pages for `self`: from the last running branch behind it that has no rows yet, else
 * from the last one before it that waits for its reader. */
static bool preempt_for(state *s, int64_t self) {
    for (int64_t i = s->n - 1; i >= 0; i--) {
        fl_sched_item *it = &s->items[i];
        if (i == self || (i < self && !it->paused)) continue;
        if (!it->running || it->preempt || it->rows || !it->pages) continue;
        preempt(s, it);
        return true;
    }
    return false;
}

static void grant(state *s, fl_sched_item *it, int64_t rows) {
    s->free_pages -= cost(s, it, rows);
    s->rows_left -= rows;
    s->seqs_left--;
    it->rows = rows;
}

/* What a share holds of slots or pages. */
static int64_t held(const state *s, int64_t share, bool pages) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const fl_sched_item *it = &s->items[i];
        if (it->share == share && it->running && !it->preempt) n += pages ? it->pages : 1;
    }
    return n;
}

/* The last branch that has to give its place to one of `share`, which needs so much more than it
 * has; NULL: none has more than is its due. */
static fl_sched_item *richer(const state *s, int64_t share, int64_t need, bool pages) {
    const int64_t own = held(s, share, pages) + need;
    for (int64_t i = s->n - 1; i >= 0; i--) {
        fl_sched_item *it = &s->items[i];
        if (it->share == share || !it->running || it->preempt || (pages && !it->pages)) continue;
        if (held(s, it->share, pages) - (pages ? it->pages : 1) >= own) return it;
    }
    return NULL;
}

/* The first that waits for what others have too much of gets it; all of it or nothing. */
static void share_out(state *s) {
    int64_t i = 0;
    while (i < s->n && (s->items[i].running || s->items[i].parked)) i++;
    if (i == s->n) return;
    const fl_sched_item *it = &s->items[i];
    const int64_t need = cost(s, it, it->pending), before = s->free_pages;
    fl_sched_item *victim = NULL;
    if (s->running >= s->limits->max_running && (victim = richer(s, it->share, 1, false)))
        preempt(s, victim);
    if (s->running >= s->limits->max_running) return;
    while (s->free_pages < need && (victim = richer(s, it->share, need, true))) preempt(s, victim);
    if (s->free_pages >= need || s->free_pages == before) return;
    for (int64_t k = 0; k < s->n; k++) { /* in vain */
        if (!s->items[k].preempt) continue;
        s->items[k].preempt = false;
        s->running++;
    }
    s->free_pages = before;
}

static bool has_room(const state *s, int64_t pages) {
    return s->running < s->limits->max_running && s->free_pages >= pages;
}

/* The first prompt; decodes of other shares after it keep clear of the last rows, if it can use
 * them in this step. */
static int64_t first_prompt(const state *s) {
    int64_t i = 0;
    while (i < s->n && (s->items[i].parked || (s->items[i].running && s->items[i].pending == 1)))
        i++;
    if (i == s->n || s->items[i].running) return i;
    return has_room(s, cost(s, &s->items[i], s->items[i].pending)) ? i : s->n;
}

static void decode(state *s) {
    const int64_t prompt = first_prompt(s), kept = s->limits->max_rows / KEPT_ROWS;
    for (int64_t i = 0; i < s->n && s->rows_left && s->seqs_left; i++) {
        fl_sched_item *it = &s->items[i];
        if (i > prompt && it->share != s->items[prompt].share &&
            (s->rows_left <= kept || s->seqs_left == 1))
            continue;
        if (!it->running || it->parked || it->preempt || it->pending != 1) continue;
        while (cost(s, it, 1) > s->free_pages && preempt_for(s, i)) {
        }
        if (cost(s, it, 1) <= s->free_pages) {
            grant(s, it, 1);
        } else if (s->running > 1) { /* nobody behind to take from: it waits itself */
            preempt(s, it);
        }
    }
}

/* The largest chunk of its prompt that rows and pages allow. */
static int64_t chunk(const state *s, const fl_sched_item *it) {
    int64_t rows = fl_min_i64(it->pending, s->rows_left);
    int64_t spare = s->free_pages - (it->shared_tail ? 1 : 0);
    if (spare < 0) return 0;
    return fl_min_i64(rows, (it->pages + spare) * s->limits->page_tokens - it->length);
}

static void prefill(state *s) {
    for (int64_t i = 0; i < s->n && s->rows_left && s->seqs_left; i++) {
        fl_sched_item *it = &s->items[i];
        if (!it->running || it->parked || it->preempt || it->rows || it->pending == 1) continue;
        while (chunk(s, it) <= 0 && preempt_for(s, i)) {
        }
        int64_t rows = chunk(s, it);
        if (rows > 0) grant(s, it, rows);
    }
}

/* Branches that wait for their readers leave to one that could run; true when any did. */
static bool make_room(state *s, int64_t pages) {
    bool any = false;
    for (int64_t i = s->n - 1; i >= 0 && !has_room(s, pages); i--) {
        fl_sched_item *it = &s->items[i];
        if (!it->running || !it->paused || it->preempt) continue;
        preempt(s, it);
        any = true;
    }
    return any;
}

/* In order and without overtaking, so that a large prompt is not passed by for ever.  A
 * branch comes in when its whole prompt fits, or when nothing else runs. */
static void admit(state *s) {
    for (int64_t i = 0; i < s->n && s->rows_left && s->seqs_left; i++) {
        fl_sched_item *it = &s->items[i];
        if (it->running || it->parked) continue;
        const int64_t pages = cost(s, it, it->pending);
        if (make_room(s, pages) || (s->running && !has_room(s, pages))) return;
        int64_t rows = chunk(s, it);
        if (rows <= 0) return;
        s->running++;
        grant(s, it, rows);
    }
}

/* What nobody else wants. */
static void speculate(state *s) {
    for (int64_t i = 0; i < s->n && s->rows_left; i++) {
        fl_sched_item *it = &s->items[i];
        if (!it->rows || it->pending != 1 || it->guesses <= 0) continue;
        int64_t rows = fl_min_i64(it->guesses, s->rows_left);
        const int64_t taken = cost(s, it, it->rows);
        while (rows && cost(s, it, it->rows + rows) - taken > s->free_pages) rows--;
        s->free_pages -= cost(s, it, it->rows + rows) - taken;
        s->rows_left -= rows;
        it->rows += rows;
    }
}

void fl_schedule(fl_sched_item *items, int64_t n, const fl_sched_limits *limits) {
    state s = {.items = items,
               .n = n,
               .rows_left = limits->max_rows,
               .seqs_left = limits->max_seqs,
               .free_pages = limits->free_pages,
               .limits = limits};
    bool preempted = false;
    for (int64_t i = 0; i < n; i++) {
        items[i].rows = 0;
        items[i].preempt = false;
        s.running += items[i].running;
    }
    share_out(&s);
    decode(&s);
    prefill(&s);
    for (int64_t i = 0; i < n; i++) preempted |= items[i].preempt;
    if (preempted) return; /* what was just taken is not given away in the same step */
    admit(&s);
    speculate(&s);
}
