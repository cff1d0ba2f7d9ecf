#include "model/sequence.h"

#include <math.h>
#include <string.h>

#include "model/sequence_priv.h"
#include "model/step.h"
#include "util/mem.h"
#include "util/num.h"

int fl_sequence_new(fl_sequence **out, fl_model *m, fl_err *err) {
    fl_sequence *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "sequence");
    atomic_init(&s->refs, 1);
    s->model = fl_model_ref(m);
    s->ids = fl_alloc_array((size_t)m->context, sizeof(*s->ids));
    s->pages = fl_alloc_array((size_t)m->scratch.max_pages, sizeof(*s->pages));
    s->chain = fl_alloc_array((size_t)m->scratch.max_pages + 1, sizeof(*s->chain));
    if (!s->ids || !s->pages || !s->chain) {
        fl_sequence_unref(s);
        return fl_fail(err, FL_E_NOMEM, "sequence of %lld tokens", (long long)m->context);
    }
    s->chain[0] = fl_kv_root(&m->pool, "", 0);
    pthread_mutex_lock(&m->lock);
    fl_sequence_enlist(s);
    pthread_mutex_unlock(&m->lock);
    *out = s;
    return FL_OK;
}

fl_sequence *fl_sequence_ref(fl_sequence *s) {
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void fl_sequence_drop_pages(fl_sequence *s, int64_t keep) {
    while (s->n_pages > keep) fl_kv_page_unref(&s->model->pool, s->pages[--s->n_pages]);
}

/* Keep the first n tokens. */
static void truncate_to(fl_sequence *s, int64_t n) {
    pthread_mutex_lock(&s->model->lock);
    s->length = n;
    s->prompt_length = fl_min_i64(s->prompt_length, n);
    fl_sequence_drop_pages(s, fl_div_up(n, FL_KV_PAGE_TOKENS));
    pthread_mutex_unlock(&s->model->lock);
}

void fl_sequence_close(fl_sequence *s) {
    if (s->closed) return;
    truncate_to(s, 0);
    s->closed = true;
    fl_model *m = s->model;
    pthread_mutex_lock(&m->lock);
    fl_sequence_delist(s);
    pthread_mutex_unlock(&m->lock);
    s->model = NULL;
    fl_model_unref(m);
}

void fl_sequence_unref(fl_sequence *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    fl_sequence_close(s);
    fl_free(s->ids);
    fl_free(s->pages);
    fl_free(s->chain);
    fl_free(s->logits);
    fl_free(s);
}

static size_t logits_bytes(const fl_sequence *s) {
    return (size_t)s->model->config.vocab_size * sizeof(*s->logits);
}

static int need_logits(fl_sequence *s, fl_err *err) {
    if (!s->logits && !(s->logits = fl_alloc(logits_bytes(s))))
        return fl_fail(err, FL_E_NOMEM, "sequence: %zu bytes of logits", logits_bytes(s));
    return FL_OK;
}

static int check_open(const fl_sequence *s, fl_err *err) {
    return s->closed ? fl_fail(err, FL_E_ARG, "sequence is closed") : FL_OK;
}

int fl_sequence_fork(fl_sequence **out, fl_sequence *s, fl_err *err) {
    fl_sequence *f;
    int rc = check_open(s, err);
    if (rc || (rc = fl_sequence_new(&f, s->model, err))) return rc;
    memcpy(f->ids, s->ids, (size_t)s->length * sizeof(*f->ids));
    memcpy(f->pages, s->pages, (size_t)s->n_pages * sizeof(*f->pages));
    memcpy(f->chain, s->chain, (size_t)(s->n_pages + 1) * sizeof(*f->chain));
    if (s->logits) {
        if ((rc = need_logits(f, err))) {
            fl_sequence_unref(f);
            return rc;
        }
        memcpy(f->logits, s->logits, logits_bytes(s));
    }
    pthread_mutex_lock(&s->model->lock);
    f->length = s->length;
    f->n_pages = s->n_pages;
    f->prompt_length = s->prompt_length;
    f->logits_at = s->logits_at;
    f->holder = s->holder;
    for (int64_t i = 0; i < f->n_pages; i++) fl_kv_page_ref(&s->model->pool, f->pages[i]);
    pthread_mutex_unlock(&s->model->lock);
    *out = f;
    return FL_OK;
}

int fl_sequence_rewind(fl_sequence *s, int64_t n, fl_err *err) {
    int rc = check_open(s, err);
    if (rc) return rc;
    if (n < 0 || n > s->length)
        return fl_fail(err, FL_E_ARG, "rewind: %lld, need 0 to %lld", (long long)n,
                       (long long)s->length);
    truncate_to(s, n);
    return FL_OK;
}

int64_t fl_sequence_length(const fl_sequence *s) {
    return s->length;
}
int64_t fl_sequence_prompt_length(const fl_sequence *s) {
    return s->prompt_length;
}
const int32_t *fl_sequence_ids(const fl_sequence *s) {
    return s->ids;
}
fl_model *fl_sequence_model(const fl_sequence *s) {
    return s->model;
}

static int no_page(const fl_sequence *s, fl_err *err) {
    fl_holdings h;
    if (s->holder) /* an engine looks itself who has them */
        return fl_fail(err, FL_E_LIMIT, "kv: no free page of %lld",
                       (long long)s->model->pool.n_pages);
    fl_holdings_look(s->model, s->holder, &h);
    return fl_fail(
        err, FL_E_LIMIT,
        "kv: %lld pages of %d tokens are all in use: engines hold %lld, %lld sequences %lld",
        (long long)h.pages, FL_KV_PAGE_TOKENS, (long long)h.engines, (long long)h.n_sequences,
        (long long)h.sequences);
}

/* The page that is written next must be this sequence's alone: copy it when shared. */
static int own_page(fl_sequence *s, int64_t i, fl_err *err) {
    fl_model *m = s->model;
    if (i >= s->n_pages) return FL_OK;
    if (m->pool.pages[s->pages[i]].refs == 1) {
        fl_kv_page_unpublish(&m->pool, s->pages[i]);
        return FL_OK;
    }
    int32_t old = s->pages[i], copy = fl_kv_page_alloc(&m->pool);
    if (copy < 0) return no_page(s, err);
    for (int64_t layer = 0; layer < m->config.n_layers; layer++) {
        char *base = m->kv[layer].data;
        int rc = m->ops->copy(m->be, base + (uint64_t)copy * m->kv_page_bytes,
                              base + (uint64_t)old * m->kv_page_bytes, m->kv_page_bytes, err);
        if (rc) {
            fl_kv_page_unref(&m->pool, copy);
            return rc;
        }
    }
    fl_kv_page_unref(&m->pool, old);
    s->pages[i] = copy;
    return FL_OK;
}

int fl_sequence_reserve(fl_sequence *s, int64_t n, fl_err *err) {
    int rc = own_page(s, s->length / FL_KV_PAGE_TOKENS, err);
    if (rc) return rc;
    while (s->n_pages < fl_div_up(s->length + n, FL_KV_PAGE_TOKENS)) {
        int32_t page = fl_kv_page_alloc(&s->model->pool);
        if (page < 0) return no_page(s, err);
        s->pages[s->n_pages++] = page;
    }
    return FL_OK;
}

void fl_sequence_extend(fl_sequence *s, const int32_t *ids, int64_t n) {
    memcpy(s->ids + s->length, ids, (size_t)n * sizeof(*ids));
    if (!s->length) s->prompt_length = n;
    int64_t full = s->length / FL_KV_PAGE_TOKENS;
    s->length += n;
    for (; full < s->length / FL_KV_PAGE_TOKENS; full++) {
        fl_kv_pool *pool = &s->model->pool;
        const int32_t *page_ids = s->ids + full * FL_KV_PAGE_TOKENS;
        s->chain[full + 1] = fl_kv_chain(pool, s->chain[full], page_ids);
        if (s->model->prefix_cache)
            fl_kv_page_publish(pool, s->pages[full], s->chain[full], page_ids);
    }
}

/* The next page of the prefix from the cache; false: there is none that will do. */
static bool adopt_page(fl_sequence *s, const fl_prefix *p) {
    fl_kv_pool *pool = &s->model->pool;
    const int32_t *ids = p->ids + s->length;
    int32_t page = fl_kv_page_find(pool, s->chain[s->n_pages], ids);
    if (page < 0) return false;
    const fl_kv_scores *scores = pool->pages[page].scores;
    if (p->on_scores && (!scores || scores->n_top < p->n_top)) {
        fl_kv_page_unref(pool, page);
        return false;
    }
    if (p->on_scores) p->on_scores(p->ctx, s->length, scores);
    s->chain[s->n_pages + 1] = fl_kv_chain(pool, s->chain[s->n_pages], ids);
    s->pages[s->n_pages++] = page;
    memcpy(s->ids + s->length, ids, FL_KV_PAGE_TOKENS * sizeof(*ids));
    s->length += FL_KV_PAGE_TOKENS;
    return true;
}

int64_t fl_sequence_adopt(fl_sequence *s, const fl_prefix *p) {
    fl_model *m = s->model;
    if (s->length || s->closed || !m->prefix_cache) return 0;
    /* One token is left to run, for the logits after it. */
    const int64_t most = fl_min_i64(p->n, m->context) - 1;
    pthread_mutex_lock(&m->lock);
    s->chain[0] = fl_kv_root(&m->pool, p->salt, p->salt_len);
    while (s->length + FL_KV_PAGE_TOKENS <= most && adopt_page(s, p)) {
    }
    if (p->on_scores && s->length) s->length--;
    pthread_mutex_unlock(&m->lock);
    return s->length;
}

void fl_sequence_score_page(fl_sequence *s, int64_t i, fl_kv_scores *scores) {
    pthread_mutex_lock(&s->model->lock);
    fl_kv_page_score(&s->model->pool, s->chain[i], s->ids + i * FL_KV_PAGE_TOKENS, scores);
    pthread_mutex_unlock(&s->model->lock);
}

/* What happens to the logits of the rows from first_row on, counted over all n of a feed. */
typedef struct feed_rows {
    fl_row_fn on_row;
    void *ctx;
    int64_t first_row;
} feed_rows;

typedef struct shifted {
    const feed_rows *rows;
    int64_t by;
} shifted;

static void pass_on(void *ctx, int member, int64_t i, const float *logits) {
    const shifted *s = ctx;
    (void)member; /* it is a step of one sequence */
    s->rows->on_row(s->rows->ctx, i + s->by, logits);
}

/* Append n ids in steps of at most max_rows. */
static int advance(fl_sequence *s, const int32_t *ids, int64_t n, const feed_rows *rows,
                   fl_err *err) {
    const int64_t start = s->length, most = fl_step_max_rows(s->model);
    int rc = check_open(s, err);
    if (rc || (rc = need_logits(s, err))) return rc;
    if (n > s->model->context - start)
        return fl_fail(err, FL_E_LIMIT, "feed: %lld tokens after %lld, context is %lld",
                       (long long)n, (long long)start, (long long)s->model->context);
    /* Rows that somebody wants to see must be run. */
    const fl_prefix prefix = {.ids = ids, .n = fl_min_i64(n, rows->first_row + 1), .salt = ""};
    int64_t done = fl_sequence_adopt(s, &prefix);
    do {
        shifted to = {rows, done};
        fl_step_entry e = {.seq = s, .ids = ids + done, .on_row = pass_on, .ctx = &to};
        e.n = fl_min_i64(n - done, most);
        e.first_row = fl_min_i64(fl_max_i64(rows->first_row - done, 0), e.n);
        if ((rc = fl_step(s->model, &e, 1, NULL, err))) {
            truncate_to(s, start);
            return rc;
        }
        done += e.n;
    } while (done < n);
    if (!start) s->prompt_length = n;
    s->logits_at = s->length;
    return FL_OK;
}

static void keep_row(void *ctx, int64_t i, const float *logits) {
    fl_sequence *s = ctx;
    (void)i;
    memcpy(s->logits, logits, logits_bytes(s));
}

int fl_sequence_feed(fl_sequence *s, const int32_t *ids, int64_t n, const float **logits,
                     fl_err *err) {
    const feed_rows last = {keep_row, s, n - 1};
    int rc = advance(s, ids, n, &last, err);
    if (!rc && logits) *logits = s->logits;
    return rc;
}

/* After a rewind the logits before the next token are gone: run the last token again. */
static int refresh_logits(fl_sequence *s, fl_err *err) {
    if (s->logits_at == s->length) return FL_OK;
    const int32_t last = s->ids[s->length - 1];
    const int64_t length = s->length, prompt = s->prompt_length;
    const feed_rows rows = {keep_row, s, 0};
    shifted to = {&rows, 0};
    fl_step_entry e = {.seq = s, .ids = &last, .n = 1, .on_row = pass_on, .ctx = &to};
    int rc = need_logits(s, err);
    if (rc) return rc;
    s->length--; /* not a rewind: the page stays, so that nothing is lost on failure */
    rc = fl_step(s->model, &e, 1, NULL, err);
    s->length = length;
    s->prompt_length = prompt;
    if (!rc) s->logits_at = length;
    return rc;
}

/* The rows of a feed as predictions: each is that of the next id, the last is kept. */
typedef struct predictions {
    fl_sequence *s;
    int64_t n;
    fl_row_fn on_row;
    void *ctx;
} predictions;

static void predict_next(void *ctx, int64_t i, const float *logits) {
    const predictions *p = ctx;
    if (i + 1 < p->n)
        p->on_row(p->ctx, i + 1, logits);
    else
        keep_row(p->s, i, logits);
}

int fl_sequence_feed_rows(fl_sequence *s, const int32_t *ids, int64_t n, fl_row_fn on_row,
                          void *ctx, fl_err *err) {
    predictions p = {s, n, on_row, ctx};
    const feed_rows all = {predict_next, &p, 0};
    int rc = check_open(s, err);
    if (rc || (s->length && (rc = refresh_logits(s, err)))) return rc;
    const bool known = n > 0 && ids[0] >= 0 && ids[0] < s->model->config.vocab_size;
    if (s->length && known) on_row(ctx, 0, s->logits);
    return advance(s, ids, n, &all, err);
}
