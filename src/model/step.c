#include "model/step.h"

#include <string.h>

#include "model/forward.h"
#include "model/sequence_priv.h"
#include "util/mem.h"
#include "util/num.h"

int64_t fl_step_max_rows(const fl_model *m) {
    return m->scratch.max_rows;
}
int64_t fl_step_max_seqs(const fl_model *m) {
    return m->step.max_seqs;
}

void fl_step_pool_get(fl_model *m, fl_step_pool *out) {
    pthread_mutex_lock(&m->lock);
    *out = (fl_step_pool){m->pool.n_pages, m->pool.n_free, m->pool.queries, m->pool.hits};
    pthread_mutex_unlock(&m->lock);
}

void fl_step_pages_of(const fl_sequence *s, int64_t *held, bool *shared_tail) {
    fl_model *m = s->model;
    pthread_mutex_lock(&m->lock);
    int64_t tail = s->length / FL_KV_PAGE_TOKENS;
    *held = s->n_pages;
    *shared_tail = tail < s->n_pages && m->pool.pages[s->pages[tail]].refs > 1;
    pthread_mutex_unlock(&m->lock);
}

void fl_step_buffers_free(fl_model *m) {
    fl_step_buffers *b = &m->step;
    if (m->be) m->ops->mem_free(m->be, b->device);
    fl_free(b->host);
    fl_free(b->logits);
    *b = (fl_step_buffers){0};
}

/* ids, pos and slot of every row, row_start, page tables: the same layout on both sides. */
static int64_t ints_needed(const fl_model *m, int64_t seqs) {
    return 3 * m->scratch.max_rows + (seqs + 1) + seqs * m->scratch.max_pages;
}

int fl_step_reserve_seqs(fl_model *m, int64_t n, fl_err *err) {
    fl_step_buffers b = {.max_seqs = n};
    if (n <= m->step.max_seqs) return FL_OK;
    const size_t logits = (size_t)FL_LOGIT_ROWS * (size_t)m->scratch.logits.dim[1];
    int64_t ints = ints_needed(m, n);
    b.host = fl_alloc_array((size_t)ints, sizeof(*b.host));
    b.logits = fl_alloc_array(logits, sizeof(*b.logits));
    int rc = b.host && b.logits ? FL_OK
                                : fl_fail(err, FL_E_NOMEM, "step of %lld sequences", (long long)n);
    pthread_mutex_lock(&m->lock);
    if (!rc) rc = m->ops->mem_new(m->be, &b.device, (uint64_t)ints * sizeof(int32_t), err);
    if (rc) {
        fl_free(b.host);
        fl_free(b.logits);
    } else {
        fl_step_buffers_free(m);
        m->step = b;
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int check_entry(const fl_model *m, const fl_step_entry *e, fl_err *err) {
    const fl_sequence *s = e->seq;
    if (s->closed) return fl_fail(err, FL_E_ARG, "sequence is closed");
    if (e->n < 1) return fl_fail(err, FL_E_ARG, "feed: no tokens");
    if (e->n > m->context - s->length)
        return fl_fail(err, FL_E_LIMIT, "feed: %lld tokens after %lld, context is %lld",
                       (long long)e->n, (long long)s->length, (long long)m->context);
    for (int64_t i = 0; i < e->n; i++) {
        if (e->ids[i] < 0 || e->ids[i] >= m->config.vocab_size)
            return fl_fail(err, FL_E_ARG, "feed: token id %d at %lld, vocabulary has %lld",
                           e->ids[i], (long long)i, (long long)m->config.vocab_size);
    }
    return FL_OK;
}

static int check_step(const fl_model *m, const fl_step_entry *e, int64_t n, fl_err *err) {
    int64_t rows = 0;
    if (n > m->step.max_seqs)
        return fl_fail(err, FL_E_LIMIT, "step: %lld sequences, limit %lld", (long long)n,
                       (long long)m->step.max_seqs);
    for (int64_t i = 0; i < n; i++) {
        int rc = check_entry(m, &e[i], err);
        if (rc) return rc;
        rows += e[i].n;
    }
    if (rows > m->scratch.max_rows)
        return fl_fail(err, FL_E_LIMIT, "step: %lld rows, limit %lld", (long long)rows,
                       (long long)m->scratch.max_rows);
    return FL_OK;
}

/* The rows of all entries, one after the other, into the host buffer and the device. */
static int write_batch(fl_model *m, const fl_step_entry *e, int64_t n, fl_batch *b, fl_err *err) {
    const int64_t max_rows = m->scratch.max_rows, max_pages = m->scratch.max_pages;
    int32_t *ids = m->step.host, *pos = ids + max_rows, *slot = pos + max_rows;
    int32_t *row_start = slot + max_rows, *pages = row_start + n + 1;
    int64_t t = 0;
    for (int64_t i = 0; i < n; i++) {
        const fl_sequence *s = e[i].seq;
        row_start[i] = (int32_t)t;
        memcpy(pages + i * max_pages, s->pages, (size_t)s->n_pages * sizeof(*pages));
        for (int64_t k = 0; k < e[i].n; k++, t++) {
            int64_t p = s->length + k;
            ids[t] = e[i].ids[k];
            pos[t] = (int32_t)p;
            slot[t] = s->pages[p / FL_KV_PAGE_TOKENS] * FL_KV_PAGE_TOKENS +
                      (int32_t)(p % FL_KV_PAGE_TOKENS);
        }
    }
    row_start[n] = (int32_t)t;
    int32_t *d = m->step.device;
    *b = (fl_batch){.n_rows = t,
                    .n_seqs = n,
                    .max_pages = max_pages,
                    .ids = fl_tensor_1d(d, FL_DTYPE_I32, t),
                    .pos = fl_tensor_1d(d + max_rows, FL_DTYPE_I32, t),
                    .slot = fl_tensor_1d(d + 2 * max_rows, FL_DTYPE_I32, t),
                    .row_start = fl_tensor_1d(d + 3 * max_rows, FL_DTYPE_I32, n + 1),
                    .pages = fl_tensor_2d(d + 3 * max_rows + n + 1, FL_DTYPE_I32, n, max_pages)};
    fl_tensor all = fl_tensor_1d(d, FL_DTYPE_I32, ints_needed(m, n));
    return m->ops->write(m->be, &all, m->step.host, err);
}

typedef struct pending { /* rows whose logits are still to be computed */
    int64_t n;
    int32_t row[FL_LOGIT_ROWS];
    const fl_step_entry *entry[FL_LOGIT_ROWS];
    int64_t index[FL_LOGIT_ROWS]; /* of the row in its entry */
} pending;

static int flush(fl_model *m, const fl_batch *b, pending *p, fl_err *err) {
    const int64_t width = m->scratch.logits.dim[1];
    fl_tensor logits = fl_rows(m->scratch.logits, p->n);
    int rc = p->n ? fl_forward_head(m, b, p->row, p->n, err) : FL_OK;
    if (!rc && p->n) rc = m->ops->read(m->be, m->step.logits, &logits, err);
    for (int64_t j = 0; !rc && j < p->n; j++)
        p->entry[j]->on_row(p->entry[j]->ctx, p->index[j], m->step.logits + j * width);
    p->n = 0;
    return rc;
}

/* Logits in groups of FL_LOGIT_ROWS, handed out in the order of the rows. */
static int hand_out(fl_model *m, const fl_step_entry *e, int64_t n, const fl_batch *b,
                    fl_err *err) {
    pending p = {0};
    int64_t start = 0;
    int rc = FL_OK;
    for (int64_t i = 0; !rc && i < n; start += e[i].n, i++) {
        for (int64_t k = e[i].first_row; !rc && k < e[i].n; k++) {
            p.entry[p.n] = &e[i];
            p.index[p.n] = k;
            p.row[p.n++] = (int32_t)(start + k);
            if (p.n == FL_LOGIT_ROWS) rc = flush(m, b, &p, err);
        }
    }
    return rc ? rc : flush(m, b, &p, err);
}

/* After a device has failed nothing runs on it again: its memory may hold anything. */
static int check_device(const fl_model *m, fl_err *err) {
    return m->failure.code ? fl_fail(err, FL_E_DEVICE, "%s", m->failure.msg) : FL_OK;
}

int fl_step(fl_model *m, const fl_step_entry *e, int64_t n, fl_err *err) {
    fl_batch b;
    pthread_mutex_lock(&m->lock);
    int rc = check_device(m, err);
    if (!rc) rc = check_step(m, e, n, err);
    for (int64_t i = 0; i < n; i++) e[i].seq->n_pages_before = e[i].seq->n_pages;
    for (int64_t i = 0; !rc && i < n; i++) rc = fl_sequence_reserve(e[i].seq, e[i].n, err);
    if (!rc) rc = write_batch(m, e, n, &b, err);
    if (!rc) rc = fl_forward_layers(m, &b, err);
    if (!rc) rc = hand_out(m, e, n, &b, err);
    if (rc == FL_E_DEVICE && !m->failure.code) m->failure = *err;
    for (int64_t i = 0; i < n; i++) {
        if (rc)
            fl_sequence_drop_pages(e[i].seq, e[i].seq->n_pages_before);
        else
            fl_sequence_extend(e[i].seq, e[i].ids, e[i].n);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}
