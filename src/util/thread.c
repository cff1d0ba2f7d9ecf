#include "util/thread.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/mem.h"
#include "util/num.h"

/* SPINS pauses take 20 to 190 us, depending on the processor: longer than the gap between two ops
 * of a step, shorter than a reader notices. */
enum { SPINS = 4000, YIELDS = 8, NAP_NS = 50000, MAX_THREADS = 512 };

typedef struct worker {
    fl_team *team;
    pthread_t thread;
    int member;
} worker;

struct fl_team {
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    atomic_uint epoch;   /* one more for each run */
    atomic_int running;  /* workers still inside the current run */
    atomic_int arrived;  /* members at the barrier */
    atomic_uint barrier; /* barrier generations passed */
    atomic_bool quit;
    fl_team_fn fn;
    void *ctx;
    pid_t owner; /* the process that has the workers */
    int size, active;
    worker workers[];
};

int fl_thread_start(pthread_t *out, void *(*fn)(void *), void *arg, const char *name, fl_err *err) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* of this thread's own reading: guard.h */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) return fl_fail(err, FL_E_NOMEM, "thread %s: %s", name, strerror(rc));
    pthread_setname_np(*out, name);
    return FL_OK;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Sleep until a run newer than `seen`, or quit. */
static bool await_run(fl_team *t, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&t->epoch, memory_order_acquire) != seen) return true;
        if (atomic_load_explicit(&t->quit, memory_order_acquire)) return false;
        relax();
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load(&t->epoch) == seen && !atomic_load(&t->quit))
        pthread_cond_wait(&t->wake, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return !atomic_load(&t->quit);
}

static void *work(void *arg) {
    worker *w = arg;
    fl_team *t = w->team;
    unsigned seen = 0;
    while (await_run(t, seen)) {
        seen++;
        t->fn(t->ctx, w->member, t->active);
        if (atomic_fetch_sub(&t->running, 1) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->idle);
            pthread_mutex_unlock(&t->lock);
        }
    }
    return NULL;
}

/* Distinct (package, core) pairs among the CPUs this process may use. */
int fl_physical_cores(void) {
    cpu_set_t set;
    int seen[MAX_THREADS], n = 0;
    if (sched_getaffinity(0, sizeof(set), &set)) return 1;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < MAX_THREADS; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        static const char *const part[] = {"physical_package_id", "core_id"};
        int id[2] = {0, cpu};
        for (int i = 0; i < 2; i++) {
            char path[96];
            snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, part[i]);
            FILE *f = fopen(path, "re");
            if (!f) continue;
            if (fscanf(f, "%d", &id[i]) != 1) id[i] = i ? cpu : 0;
            fclose(f);
        }
        int key = id[0] * 65536 + id[1], k = 0;
        while (k < n && seen[k] != key) k++;
        if (k == n) seen[n++] = key;
    }
    return n ? n : 1;
}

int fl_team_new(fl_team **out, int threads, fl_err *err) {
    if (threads <= 0) threads = fl_physical_cores();
    if (threads > MAX_THREADS)
        return fl_fail(err, FL_E_ARG, "threads: %d, limit %d", threads, MAX_THREADS);
    fl_team *t = fl_alloc(sizeof(*t) + (size_t)threads * sizeof(worker));
    if (!t) return fl_fail(err, FL_E_NOMEM, "thread team");
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    pthread_cond_init(&t->idle, NULL);
    t->owner = getpid();
    t->size = 1;
    for (int i = 1; i < threads; i++) {
        worker *w = &t->workers[i];
        w->team = t;
        w->member = i;
        int rc = fl_thread_start(&w->thread, work, w, "fp8-compute", err);
        if (rc) {
            fl_team_free(t);
            return rc;
        }
        t->size++;
    }
    *out = t;
    return FL_OK;
}

void fl_team_free(fl_team *t) {
    if (!t) return;
    if (t->owner == getpid()) {
        pthread_mutex_lock(&t->lock);
        atomic_store(&t->quit, true);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
        for (int i = 1; i < t->size; i++) pthread_join(t->workers[i].thread, NULL);
        pthread_cond_destroy(&t->wake);
        pthread_cond_destroy(&t->idle);
        pthread_mutex_destroy(&t->lock);
    }
    fl_free(t);
}

int fl_team_size(const fl_team *t) {
    return t->size;
}

void fl_team_run(fl_team *t, fl_team_fn fn, void *ctx) {
    t->active = t->owner == getpid() ? t->size : 1;
    if (t->active == 1) {
        fn(ctx, 0, 1);
        return;
    }
    t->fn = fn;
    t->ctx = ctx;
    atomic_store(&t->running, t->active - 1);
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add_explicit(&t->epoch, 1, memory_order_release);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    fn(ctx, 0, t->active);
    for (int i = 0; i < SPINS && atomic_load(&t->running); i++) relax();
    if (!atomic_load_explicit(&t->running, memory_order_acquire)) return;
    pthread_mutex_lock(&t->lock);
    while (atomic_load(&t->running)) pthread_cond_wait(&t->idle, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void fl_team_barrier(fl_team *t) {
    unsigned generation = atomic_load_explicit(&t->barrier, memory_order_acquire);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) == t->active - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->barrier, 1, memory_order_release);
        return;
    }
    for (int i = 1; atomic_load_explicit(&t->barrier, memory_order_acquire) == generation; i++) {
        relax();
        if (i % SPINS) continue;
        /* More threads than free cores: the one we wait for needs ours.  A yield alone gives a
         * core only to a thread that the scheduler holds for owed more than us. */
        if (i <= YIELDS * SPINS) {
            sched_yield();
        } else {
            nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
            i = YIELDS * SPINS;
        }
    }
}

typedef struct range_job {
    fl_range_fn fn;
    void *ctx;
    int64_t n, grain;
    atomic_llong next;
} range_job;

static void run_ranges(void *arg, int member, int members) {
    (void)member;
    (void)members;
    range_job *job = arg;
    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&job->next, job->grain, memory_order_relaxed);
        if (begin >= job->n) return;
        job->fn(job->ctx, begin, fl_min_i64(begin + job->grain, job->n));
    }
}

void fl_team_for(fl_team *t, int64_t n, int64_t grain, fl_range_fn fn, void *ctx) {
    range_job job = {.fn = fn, .ctx = ctx, .n = n, .grain = fl_max_i64(grain, 1)};
    atomic_init(&job.next, 0);
    if (n <= job.grain) {
        if (n > 0) fn(ctx, 0, n);
        return;
    }
    fl_team_run(t, run_ranges, &job);
}
