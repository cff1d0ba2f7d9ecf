#include "model/graphs.h"

#include "model/draws.h"
#include "model/forward.h"
#include "util/log.h"
#include "util/num.h"

/* Buckets up to `last` rows are `step` apart.  No step is longer than a KV page. */
static const struct range {
    int64_t last, step;
} ranges[] = {{8, 1}, {32, 8}, {64, 16}, {FL_GRAPH_ROWS, 32}};

int64_t fl_graph_most_rows(int64_t max_rows) {
    return fl_min_i64(max_rows, FL_GRAPH_ROWS);
}

static const struct range *range_of(int64_t n) {
    const struct range *r = ranges;
    while (n > r->last) r++;
    return r;
}

int64_t fl_graph_rows(int64_t n, int64_t most) {
    return fl_min_i64((int64_t)fl_round_up((uint64_t)n, (uint64_t)range_of(n)->step), most);
}

static int bucket_of(int64_t n) {
    const struct range *of = range_of(n);
    int64_t before = 0, bucket = 0;
    for (const struct range *r = ranges; r < of; before = r->last, r++)
        bucket += (r->last - before) / r->step;
    return (int)(bucket + fl_div_up(n - before, of->step) - 1);
}

static int run(fl_model *m, const fl_batch *b, fl_err *err) {
    int rc = fl_forward_layers(m, b, err);
    if (!rc) rc = fl_forward_head_all(m, b, err);
    return rc ? rc : fl_draws_run(m, b->n_rows, err);
}

static int record(fl_model *m, const fl_batch *b, fl_recording **out, fl_err *err) {
    fl_err ignored;
    int rc = m->ops->record(m->be, err);
    if (rc) return rc;
    if ((rc = run(m, b, err))) {
        m->ops->record_end(m->be, NULL, &ignored);
        return rc;
    }
    return m->ops->record_end(m->be, out, err);
}

int fl_graphs_step(fl_model *m, const fl_batch *b, fl_err *err) {
    fl_graphs *g = &m->graphs;
    const int i = bucket_of(b->n_rows);
    fl_err why;
    if (g->used[i] && !g->recording[i] && record(m, b, &g->recording[i], &why)) {
        fl_log(FL_LOG_WARN, "%s: steps are no longer recorded: %s", m->dir, why.msg);
        g->on = false;
    }
    g->used[i] = true;
    return g->recording[i] ? m->ops->replay(m->be, g->recording[i], err) : run(m, b, err);
}

void fl_graphs_clear(fl_model *m) {
    for (int i = 0; i < FL_GRAPH_BUCKETS; i++) {
        if (m->graphs.recording[i]) m->ops->recording_free(m->be, m->graphs.recording[i]);
        m->graphs.recording[i] = NULL;
    }
}
