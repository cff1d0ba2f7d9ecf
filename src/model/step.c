#include "model/step.h"

#include <stdatomic.h>
#include <string.h>

#include "model/draws.h"
#include "model/forward.h"
#include "model/observe.h"
#include "model/sequence_priv.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/num.h"
#include "util/thread.h"

bool fl_step_draws(const fl_model *m) {
    return m->scratch.draws.data != NULL;
}
/* NULL: the rows are read from the device and handed out one after the other. */
static fl_team *team_of(const fl_model *m) {
    return m->ops->team ? m->ops->team(m->be) : NULL;
}
int fl_step_members(const fl_model *m) {
    fl_team *t = team_of(m);
    return t ? fl_team_size(t) : 1;
}
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

static void free_host(const fl_step_buffers *b) {
    fl_free(b->host);
    fl_free(b->logits);
    fl_free(b->draws);
    fl_free(b->mask);
    fl_free(b->sampled);
}

void fl_step_buffers_free(fl_model *m) {
    if (m->be) m->ops->mem_free(m->be, m->step.device);
    free_host(&m->step);
    m->step = (fl_step_buffers){0};
}

static int64_t most_recorded(const fl_model *m) {
    return fl_graph_most_rows(m->scratch.max_rows);
}

/* ids, pos and slot of every row, row_start, page tables: the same layout on both sides. */
static int64_t ints_needed(const fl_model *m, int64_t seqs) {
    return 3 * m->scratch.max_rows + (seqs + 1) + seqs * m->scratch.max_pages;
}

int fl_step_reserve_seqs(fl_model *m, int64_t n, fl_err *err) {
    fl_step_buffers b = {.max_seqs = n, .drawn = m->step.drawn};
    if (n <= m->step.max_seqs) return FL_OK;
    const size_t logits = (size_t)m->scratch.logit_rows * (size_t)m->scratch.logits.dim[1];
    int64_t ints = ints_needed(m, n <= most_recorded(m) ? fl_graph_rows(n, most_recorded(m)) : n);
    b.host = fl_alloc_array((size_t)ints, sizeof(*b.host));
    if (!team_of(m)) b.logits = fl_alloc_array(logits, sizeof(*b.logits));
    b.draws = fl_alloc_array((size_t)m->scratch.draws.dim[0], sizeof(*b.draws));
    b.mask = fl_alloc_array((size_t)m->scratch.mask.dim[1], sizeof(*b.mask));
    b.sampled = fl_alloc_array((size_t)m->scratch.sampled.dim[0], sizeof(*b.sampled));
    int rc = b.host && (b.logits || team_of(m)) && b.draws && b.mask && b.sampled
                 ? FL_OK
                 : fl_fail(err, FL_E_NOMEM, "step of %lld sequences", (long long)n);
    pthread_mutex_lock(&m->lock);
    if (!rc) rc = m->ops->mem_new(m->be, &b.device, (uint64_t)ints * sizeof(int32_t), err);
    if (rc) {
        free_host(&b);
    } else {
        fl_graphs_clear(m);
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

/* The rows of all entries, one after the other, into the host buffer and the device.  Sequences
 * from n to `seqs` fill a bucket of graphs.h with a row each. */
static int write_batch(fl_model *m, const fl_step_entry *e, int64_t n, int64_t seqs, fl_batch *b,
                       fl_err *err) {
    const int64_t max_rows = m->scratch.max_rows, max_pages = m->scratch.max_pages;
    const int32_t spare = (int32_t)m->pool.n_pages;
    int32_t *ids = m->step.host, *pos = ids + max_rows, *slot = pos + max_rows;
    int32_t *row_start = slot + max_rows, *pages = row_start + seqs + 1;
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
    for (int64_t i = n; i < seqs; i++, t++) {
        row_start[i] = (int32_t)t;
        pages[i * max_pages] = spare;
        ids[t] = pos[t] = 0;
        slot[t] = spare * FL_KV_PAGE_TOKENS + (int32_t)(i - n); /* no two rows write one place */
    }
    row_start[seqs] = (int32_t)t;
    int32_t *d = m->step.device;
    *b = (fl_batch){.n_rows = t,
                    .n_seqs = seqs,
                    .max_pages = max_pages,
                    .ids = fl_tensor_1d(d, FL_DTYPE_I32, t),
                    .pos = fl_tensor_1d(d + max_rows, FL_DTYPE_I32, t),
                    .slot = fl_tensor_1d(d + 2 * max_rows, FL_DTYPE_I32, t),
                    .row_start = fl_tensor_1d(d + 3 * max_rows, FL_DTYPE_I32, seqs + 1),
                    .pages =
                        fl_tensor_2d(d + 3 * max_rows + seqs + 1, FL_DTYPE_I32, seqs, max_pages)};
    fl_tensor all = fl_tensor_1d(d, FL_DTYPE_I32, ints_needed(m, seqs));
    return m->ops->write(m->be, &all, m->step.host, err);
}

_Static_assert((int)FL_GRAPH_ROWS >= (int)FL_LOGIT_ROWS, "scratch.logit_rows are pending");

typedef struct pending { /* rows whose logits are still to be computed */
    int64_t n;
    int32_t row[FL_GRAPH_ROWS];
    const fl_step_entry *entry[FL_GRAPH_ROWS];
    int64_t index[FL_GRAPH_ROWS]; /* of the row in its entry */
} pending;

typedef struct delivery {
    fl_model *m;
    const pending *p;
    const float *logits;  /* of row 0 */
    bool drawn;           /* some rows are tokens already */
    atomic_llong n_taken; /* entries, in their order */
} delivery;

/* Tokens of the rows that were drawn, logits of the others. */
static void give(const delivery *d, int member, int64_t j) {
    const fl_step_entry *e = d->p->entry[j];
    const fl_sampled *token = &d->m->step.sampled[j];
    if (d->drawn && token->id >= 0)
        e->on_sampled(e->ctx, token);
    else
        e->on_row(e->ctx, member, d->p->index[j], d->logits + j * d->m->scratch.logits.dim[1]);
}

static int64_t end_of_entry(const pending *p, int64_t j) {
    int64_t end = j + 1;
    while (end < p->n && p->entry[end] == p->entry[j]) end++;
    return end;
}

/* The rows of one entry after the other, as long as there are any that nobody has taken. */
static void give_entries(void *ctx, int member, int members) {
    delivery *d = ctx;
    (void)members;
    int64_t mine = atomic_fetch_add(&d->n_taken, 1);
    for (int64_t j = 0, k = 0; j < d->p->n; k++) {
        const int64_t end = end_of_entry(d->p, j);
        if (k < mine) {
            j = end;
            continue;
        }
        for (; j < end; j++) give(d, member, j);
        mine = atomic_fetch_add(&d->n_taken, 1);
    }
}

static int deliver(fl_model *m, const pending *p, fl_err *err) {
    fl_team *team = team_of(m);
    const fl_tensor logits = fl_rows(m->scratch.logits, p->n);
    delivery d = {m, p, team ? logits.data : m->step.logits, fl_draws_any(m), 0};
    int64_t drawn = 0;
    int rc = d.drawn ? fl_draws_read(m, p->n, err) : FL_OK;
    for (int64_t j = 0; j < p->n && d.drawn && !rc; j++) drawn += m->step.sampled[j].id >= 0;
    if (!rc && !team && drawn < p->n) rc = m->ops->read(m->be, m->step.logits, &logits, err);
    if (rc) return rc;
    const double begin = fl_now();
    if (team && end_of_entry(p, 0) < p->n)
        fl_team_run(team, give_entries, &d);
    else
        give_entries(&d, 0, 1);
    m->step.rows_s += fl_now() - begin;
    return FL_OK;
}

static int flush(fl_model *m, const fl_batch *b, pending *p, fl_err *err) {
    int rc = p->n ? fl_draws_write(m, p->entry, p->n, p->n, err) : FL_OK;
    if (!rc && p->n) rc = fl_forward_head(m, b, p->row, p->n, err);
    if (!rc && p->n && fl_draws_any(m)) rc = fl_draws_run(m, p->n, err);
    if (!rc && p->n) rc = deliver(m, p, err);
    p->n = 0;
    return rc;
}

/* Logits in groups of scratch.logit_rows. */
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
            if (p.n == m->scratch.logit_rows) rc = flush(m, b, &p, err);
        }
    }
    return rc ? rc : flush(m, b, &p, err);
}

/* After a device has failed nothing runs on it again: its memory may hold anything. */
static int check_device(const fl_model *m, fl_err *err) {
    return m->failure.code ? fl_fail(err, FL_E_DEVICE, "%s", m->failure.msg) : FL_OK;
}

/* The rows of the step as it is recorded; 0: it is not.  Observing looks between the ops. */
static int64_t recorded_rows(const fl_model *m, const fl_step_entry *e, int64_t n) {
    bool fits = m->graphs.on && n <= most_recorded(m) && !fl_observing(m);
    for (int64_t i = 0; i < n && fits; i++) fits = e[i].n == 1 && e[i].first_row == 0;
    return fits ? fl_graph_rows(n, most_recorded(m)) : 0;
}

/* One token of each sequence. */
static int recorded_step(fl_model *m, const fl_step_entry *e, int64_t n, int64_t rows,
                         fl_err *err) {
    pending p = {.n = n};
    fl_batch b;
    int rc;
    for (int64_t i = 0; i < n; i++) p.entry[i] = &e[i];
    if ((rc = write_batch(m, e, n, rows, &b, err)) ||
        (rc = fl_draws_write(m, p.entry, n, rows, err)) || (rc = fl_graphs_step(m, &b, err)))
        return rc;
    return deliver(m, &p, err);
}

static int plain_step(fl_model *m, const fl_step_entry *e, int64_t n, fl_err *err) {
    fl_batch b;
    int rc = write_batch(m, e, n, n, &b, err);
    if (rc || (rc = fl_forward_layers(m, &b, err))) return rc;
    return hand_out(m, e, n, &b, err);
}

int fl_step(fl_model *m, const fl_step_entry *e, int64_t n, double *rows_s, fl_err *err) {
    pthread_mutex_lock(&m->lock);
    m->step.rows_s = 0;
    int rc = check_device(m, err);
    if (!rc) rc = check_step(m, e, n, err);
    const int64_t rows = rc ? 0 : recorded_rows(m, e, n);
    for (int64_t i = 0; i < n; i++) e[i].seq->n_pages_before = e[i].seq->n_pages;
    for (int64_t i = 0; !rc && i < n; i++) rc = fl_sequence_reserve(e[i].seq, e[i].n, err);
    if (!rc) rc = rows ? recorded_step(m, e, n, rows, err) : plain_step(m, e, n, err);
    if (rc == FL_E_DEVICE && !m->failure.code) m->failure = *err;
    for (int64_t i = 0; i < n; i++) {
        if (rc)
            fl_sequence_drop_pages(e[i].seq, e[i].seq->n_pages_before);
        else
            fl_sequence_extend(e[i].seq, e[i].ids, e[i].n);
    }
    if (rows_s) *rows_s = m->step.rows_s;
    pthread_mutex_unlock(&m->lock);
    return rc;
}
