#include "util/handover.h"

#include <time.h>

#include "util/thread.h"

typedef struct game {
    pthread_mutex_t lock;
    pthread_cond_t changed[2]; /* for each of the two, that it is its turn */
    int turn;
    const fl_handover *how;
    double other_s; /* of the other thread, but for its work */
} game;

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void await_turn(game *g, int self) {
    pthread_mutex_lock(&g->lock);
    while (g->turn != self) pthread_cond_wait(&g->changed[self], &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void pass_turn(game *g, int to) {
    pthread_mutex_lock(&g->lock);
    g->turn = to;
    pthread_mutex_unlock(&g->lock);
    pthread_cond_signal(&g->changed[to]);
}

static void *answer(void *arg) {
    game *g = arg;
    const double begin = thread_seconds();
    double worked = 0;
    for (int i = 0; i < g->how->rounds; i++) {
        await_turn(g, 1);
        const double awake = thread_seconds();
        double now = awake;
        while (now < awake + g->how->work_s) now = thread_seconds();
        worked += now - awake;
        pass_turn(g, 0);
    }
    g->other_s = thread_seconds() - begin - worked;
    return NULL;
}

int fl_handover_cost(double *out, const fl_handover *h, fl_err *err) {
    game g = {.lock = PTHREAD_MUTEX_INITIALIZER,
              .changed = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER},
              .how = h};
    pthread_t other;
    int rc = fl_thread_start(&other, answer, &g, "fp8-handover", err);
    if (rc) return rc;
    const double begin = thread_seconds();
    for (int i = 0; i < h->rounds; i++) {
        pass_turn(&g, 1);
        await_turn(&g, 0);
    }
    const double own_s = thread_seconds() - begin;
    pthread_join(other, NULL);
    *out = (own_s + g.other_s) / h->rounds;
    return FL_OK;
}
