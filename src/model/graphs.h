/* graphs.h - steps in which every sequence gets one token, recorded once for each number of rows
 * and replayed: on a GPU one graph launch for embedding, layers, head and the draw of tokens.
 *
 * Row counts are rounded up to buckets (1..8, 16, 24, 32, 48, 64, 96, 128, ... 256), so that there
 * are few recordings.  The rows that fill a bucket are harmless: each writes a place of its own in
 * a KV page that belongs to nobody, and nobody reads its logits.  No bucket has rows on both sides
 * of a number where a backend changes its way of computing (8, powers of two): a row's result is
 * the same, bit for bit, recorded or not.
 *
 * A bucket is recorded when it is used for the second time: the first step in it runs op by op and
 * has loaded every kernel and library that a recording must not load.  Nothing is recorded ahead
 * for numbers of rows that never come. */
#ifndef FL_MODEL_GRAPHS_H
#define FL_MODEL_GRAPHS_H

#include "backend/backend.h"

enum {
    FL_GRAPH_ROWS = 256,   /* more rows are not recorded */
    FL_GRAPH_BUCKETS = 19, /* numbers of rows up to FL_GRAPH_ROWS */
    FL_GRAPH_PAGES = 1,    /* KV pages after those of the pool, for the rows that fill a bucket */
};

struct fl_model;

typedef struct fl_graphs {
    bool offered; /* by the backend: logits of as many rows are computed at once, graphs or not */
    bool on;
    bool used[FL_GRAPH_BUCKETS]; /* a step has run in this bucket */
    fl_recording *recording[FL_GRAPH_BUCKETS];
} fl_graphs;

/* The most rows of a recorded step of a model with max_rows. */
int64_t fl_graph_most_rows(int64_t max_rows);
/* The rows of n's bucket, 1 <= n <= most. */
int64_t fl_graph_rows(int64_t n, int64_t most);

/* The step of b, whose n_rows are those of a bucket: scratch.logits [n_rows, head rows].  When
 * recording fails, graphs are off from then on. */
int fl_graphs_step(struct fl_model *m, const fl_batch *b, fl_err *err);
/* Before memory that steps use is freed.  They are recorded anew. */
void fl_graphs_clear(struct fl_model *m);

#endif
