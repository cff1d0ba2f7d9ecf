/* thread.h - a team of threads for data-parallel work.
 *
 * The caller of fl_team_run is member 0; the others sleep between runs (after a
 * short spin), so an idle team costs nothing.  One run at a time per team: the
 * caller serialises.  In a child after fork the workers are gone; a run then uses
 * member 0 alone. */
#ifndef FL_UTIL_THREAD_H
#define FL_UTIL_THREAD_H

#include <pthread.h>
#include <stdint.h>

#include "util/err.h"

/* A thread with all signals blocked, so that they reach the threads of the host program;
 * name: at most 15 bytes, for people who look at the process. */
int fl_thread_start(pthread_t *out, void *(*fn)(void *), void *arg, const char *name, fl_err *err);

typedef struct fl_team fl_team;

/* Called once on each member: 0 <= member < members. */
typedef void (*fl_team_fn)(void *ctx, int member, int members);

/* threads <= 0: one per physical core this process may run on. */
int fl_team_new(fl_team **out, int threads, fl_err *err);
void fl_team_free(fl_team *t);
int fl_team_size(const fl_team *t);
void fl_team_run(fl_team *t, fl_team_fn fn, void *ctx);

/* Inside a run: wait until all members have arrived. */
void fl_team_barrier(fl_team *t);

/* Split [0, n) into pieces of `grain` (the last may be shorter); members take the
 * next piece when free.  fn must not depend on which member runs a piece. */
typedef void (*fl_range_fn)(void *ctx, int64_t begin, int64_t end);
void fl_team_for(fl_team *t, int64_t n, int64_t grain, fl_range_fn fn, void *ctx);

int fl_physical_cores(void); /* >= 1, within this process's affinity mask */

#endif
