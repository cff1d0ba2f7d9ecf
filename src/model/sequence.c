#include "model/sequence.h"

#include <math.h>
#include <string.h>

#include "model/forward.h"
#include "util/mem.h"
#include "util/num.h"

struct fl_sequence {
    atomic_int refs;
    fl_model *model;
    int32_t *ids;   /* [model context] */
    int32_t *pages; /* [pages of the context] page table */
    float *logits;  /* [V] */
    int32_t *step;  /* [max_rows,3] host copy of ids, pos, slot of a step */
    int64_t length, n_pages, prompt_length;
    int64_t logits_at; /* the length `logits` belongs to; 0: none */
    bool closed;
};

int fl_sequence_new(fl_sequence **out, fl_model *m, fl_err *err) {
    fl_sequence *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "sequence");
    atomic_init(&s->refs, 1);
    s->model = fl_model_ref(m);
    s->ids = fl_alloc_array((size_t)m->context, sizeof(*s->ids));
    s->pages = fl_alloc_array((size_t)m->scratch.max_pages, sizeof(*s->pages));
    s->logits = fl_alloc_array((size_t)m->config.vocab_size, sizeof(*s->logits));
    s->step = fl_alloc_array((size_t)m->scratch.max_rows * 3, sizeof(*s->step));
    if (!s->ids || !s->pages || !s->logits || !s->step) {
        fl_sequence_unref(s);
        return fl_fail(err, FL_E_NOMEM, "sequence of %lld tokens", (long long)m->context);
    }
    *out = s;
    return FL_OK;
}

fl_sequence *fl_sequence_ref(fl_sequence *s) {
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

/* Give back the pages beyond those that n tokens need. */
static void drop_pages(fl_sequence *s, int64_t n) {
    int64_t keep = fl_div_up(n, FL_KV_PAGE_TOKENS);
    while (s->n_pages > keep) fl_kv_page_unref(&s->model->pool, s->pages[--s->n_pages]);
}

void fl_sequence_close(fl_sequence *s) {
    if (s->closed) return;
    pthread_mutex_lock(&s->model->lock);
    drop_pages(s, 0);
    pthread_mutex_unlock(&s->model->lock);
    s->closed = true;
}

void fl_sequence_unref(fl_sequence *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    fl_sequence_close(s);
    fl_model_unref(s->model);
    fl_free(s->ids);
    fl_free(s->pages);
    fl_free(s->logits);
    fl_free(s->step);
    fl_free(s);
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
    memcpy(f->logits, s->logits, (size_t)s->model->config.vocab_size * sizeof(*f->logits));
    f->length = s->length;
    f->n_pages = s->n_pages;
    f->prompt_length = s->prompt_length;
    f->logits_at = s->logits_at;
    pthread_mutex_lock(&s->model->lock);
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
    pthread_mutex_lock(&s->model->lock);
    drop_pages(s, n);
    pthread_mutex_unlock(&s->model->lock);
    s->length = n;
    s->prompt_length = fl_min_i64(s->prompt_length, n);
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

/* The page that is written next must be this sequence's alone: copy it when shared. */
static int own_last_page(fl_sequence *s, int64_t begin, fl_err *err) {
    fl_model *m = s->model;
    int64_t i = begin / FL_KV_PAGE_TOKENS;
    if (i >= s->n_pages || m->pool.refs[s->pages[i]] == 1) return FL_OK;
    int32_t old = s->pages[i], copy = fl_kv_page_alloc(&m->pool);
    if (copy < 0)
        return fl_fail(err, FL_E_LIMIT, "kv: no free page of %lld", (long long)m->pool.n_pages);
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

/* Pages for positions [begin, end). */
static int reserve(fl_sequence *s, int64_t begin, int64_t end, fl_err *err) {
    int rc = own_last_page(s, begin, err);
    if (rc) return rc;
    while (s->n_pages < fl_div_up(end, FL_KV_PAGE_TOKENS)) {
        int32_t page = fl_kv_page_alloc(&s->model->pool);
        if (page < 0)
            return fl_fail(err, FL_E_LIMIT, "kv: %lld pages of %d tokens are all in use",
                           (long long)s->model->pool.n_pages, FL_KV_PAGE_TOKENS);
        s->pages[s->n_pages++] = page;
    }
    return FL_OK;
}

/* Rows [begin, begin+n) of s->ids as one step; the caller holds the lock. */
static int run_step(fl_sequence *s, int64_t begin, int64_t n, fl_batch *b, fl_err *err) {
    fl_model *m = s->model;
    fl_scratch *c = &m->scratch;
    int32_t *pos = s->step + n, *slot = s->step + 2 * n, row_start[2] = {0, (int32_t)n};
    int rc = reserve(s, begin, begin + n, err);
    if (rc) return rc;
    memcpy(s->step, s->ids + begin, (size_t)n * sizeof(*s->step));
    for (int64_t i = 0; i < n; i++) {
        int64_t p = begin + i;
        pos[i] = (int32_t)p;
        slot[i] =
            s->pages[p / FL_KV_PAGE_TOKENS] * FL_KV_PAGE_TOKENS + (int32_t)(p % FL_KV_PAGE_TOKENS);
    }
    *b = (fl_batch){.n_rows = n,
                    .n_seqs = 1,
                    .max_pages = c->max_pages,
                    .ids = fl_rows(c->ids, n),
                    .pos = fl_rows(c->pos, n),
                    .slot = fl_rows(c->slot, n),
                    .row_start = fl_rows(c->row_start, 2),
                    .pages = fl_rows(c->pages, 1)};
    fl_tensor table = fl_tensor_1d(c->pages.data, FL_DTYPE_I32, s->n_pages);
    if ((rc = m->ops->write(m->be, &b->ids, s->step, err))) return rc;
    if ((rc = m->ops->write(m->be, &b->pos, pos, err))) return rc;
    if ((rc = m->ops->write(m->be, &b->slot, slot, err))) return rc;
    if ((rc = m->ops->write(m->be, &b->row_start, row_start, err))) return rc;
    if ((rc = m->ops->write(m->be, &table, s->pages, err))) return rc;
    return fl_forward_layers(m, b, err);
}

static int check_feed(const fl_sequence *s, const int32_t *ids, int64_t n, fl_err *err) {
    const fl_model *m = s->model;
    int rc = check_open(s, err);
    if (rc) return rc;
    if (n < 1) return fl_fail(err, FL_E_ARG, "feed: no tokens");
    if (n > m->context - s->length)
        return fl_fail(err, FL_E_LIMIT, "feed: %lld tokens after %lld, context is %lld",
                       (long long)n, (long long)s->length, (long long)m->context);
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= m->config.vocab_size)
            return fl_fail(err, FL_E_ARG, "feed: token id %d at %lld, vocabulary has %lld", ids[i],
                           (long long)i, (long long)m->config.vocab_size);
    }
    return FL_OK;
}

/* Logits of one row into s->logits (the last FL_LOGIT_ROWS may be wider than V). */
static int read_logits(fl_sequence *s, const fl_batch *b, int32_t row, fl_err *err) {
    fl_model *m = s->model;
    int rc = fl_forward_head(m, b, &row, 1, err);
    if (rc) return rc;
    fl_tensor v = fl_tensor_1d(m->scratch.logits.data, FL_DTYPE_F32, m->config.vocab_size);
    return m->ops->read(m->be, s->logits, &v, err);
}

/* What a step leaves besides the cache; called with the lock held. */
typedef int (*step_reader)(fl_sequence *s, const fl_batch *b, int64_t begin, void *ctx,
                           fl_err *err);

static int advance(fl_sequence *s, const int32_t *ids, int64_t n, step_reader reader, void *ctx,
                   fl_err *err) {
    fl_model *m = s->model;
    const int64_t start = s->length;
    int rc = check_feed(s, ids, n, err);
    if (rc) return rc;
    memcpy(s->ids + start, ids, (size_t)n * sizeof(*ids));
    for (int64_t done = 0; done < n && !rc;) {
        fl_batch b;
        int64_t rows = fl_min_i64(n - done, m->scratch.max_rows);
        pthread_mutex_lock(&m->lock);
        rc = run_step(s, start + done, rows, &b, err);
        if (!rc && reader) rc = reader(s, &b, start + done, ctx, err);
        if (!rc && done + rows == n) rc = read_logits(s, &b, (int32_t)rows - 1, err);
        if (rc) drop_pages(s, start);
        pthread_mutex_unlock(&m->lock);
        done += rows;
    }
    if (rc) return rc;
    s->length = s->logits_at = start + n;
    if (!start) s->prompt_length = n;
    return FL_OK;
}

int fl_sequence_feed(fl_sequence *s, const int32_t *ids, int64_t n, const float **logits,
                     fl_err *err) {
    int rc = advance(s, ids, n, NULL, NULL, err);
    if (!rc && logits) *logits = s->logits;
    return rc;
}

typedef struct score_out {
    float *logprob;
    bool *greedy;
    float *logits; /* [FL_LOGIT_ROWS, head rows] on the host */
    int64_t start, end;
} score_out;

static void score_row(score_out *o, const float *logits, int64_t vocab, int32_t id, int64_t i) {
    float max = logits[0];
    for (int64_t v = 1; v < vocab; v++) max = logits[v] > max ? logits[v] : max;
    double sum = 0;
    for (int64_t v = 0; v < vocab; v++) sum += (double)expf(logits[v] - max);
    o->logprob[i] = logits[id] - max - (float)log(sum);
    if (o->greedy) o->greedy[i] = logits[id] == max;
}

/* Row r of the step predicts the id after it: score those that belong to this call. */
static int score_step(fl_sequence *s, const fl_batch *b, int64_t begin, void *ctx, fl_err *err) {
    score_out *o = ctx;
    fl_model *m = s->model;
    const int64_t width = m->scratch.logits.dim[1];
    int64_t last = fl_min_i64(begin + b->n_rows, o->end - 1) - begin;
    for (int64_t row = 0; row < last; row += FL_LOGIT_ROWS) {
        int32_t rows[FL_LOGIT_ROWS];
        int64_t n = fl_min_i64(FL_LOGIT_ROWS, last - row);
        for (int64_t i = 0; i < n; i++) rows[i] = (int32_t)(row + i);
        int rc = fl_forward_head(m, b, rows, n, err);
        fl_tensor logits = fl_rows(m->scratch.logits, n);
        if (rc || (rc = m->ops->read(m->be, o->logits, &logits, err))) return rc;
        for (int64_t i = 0; i < n; i++) {
            int64_t next = begin + row + i + 1;
            score_row(o, o->logits + i * width, m->config.vocab_size, s->ids[next],
                      next - o->start);
        }
    }
    return FL_OK;
}

/* After a rewind the logits before the next token are gone: run the last token again. */
static int refresh_logits(fl_sequence *s, fl_err *err) {
    fl_batch b;
    if (s->logits_at == s->length) return FL_OK;
    pthread_mutex_lock(&s->model->lock);
    int rc = run_step(s, s->length - 1, 1, &b, err);
    if (!rc) rc = read_logits(s, &b, 0, err);
    pthread_mutex_unlock(&s->model->lock);
    if (!rc) s->logits_at = s->length;
    return rc;
}

int fl_sequence_score(fl_sequence *s, const int32_t *ids, int64_t n, float *logprob, bool *greedy,
                      fl_err *err) {
    fl_model *m = s->model;
    score_out o = {logprob, greedy, NULL, s->length, s->length + n};
    int rc = check_feed(s, ids, n, err);
    if (rc || (s->length && (rc = refresh_logits(s, err)))) return rc;
    size_t floats = (size_t)FL_LOGIT_ROWS * (size_t)m->scratch.logits.dim[1];
    if (!(o.logits = fl_alloc_array(floats, sizeof(float))))
        return fl_fail(err, FL_E_NOMEM, "score: %zu logits", floats);
    logprob[0] = 0.0f;
    if (greedy) greedy[0] = false;
    if (s->length) score_row(&o, s->logits, m->config.vocab_size, ids[0], 0);
    rc = advance(s, ids, n, score_step, &o, err);
    fl_free(o.logits);
    return rc;
}
