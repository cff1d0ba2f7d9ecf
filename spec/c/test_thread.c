/* The thread team: every piece once, barriers, many runs, more threads than cores, fork. */
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"
#include "util/mem.h"
#include "util/thread.h"

enum { MAX_TEAM = 5, CELLS = 1000 };

typedef struct job {
    fl_team *team;
    atomic_int seen[MAX_TEAM], wrong;
    atomic_int stage[MAX_TEAM];
    atomic_int cell[CELLS];
} job;

static void count_member(void *ctx, int member, int members) {
    job *j = ctx;
    if (member < 0 || member >= members || members > MAX_TEAM)
        atomic_fetch_add(&j->wrong, 1);
    else
        atomic_fetch_add(&j->seen[member], 1);
}

static void run_stages(void *ctx, int member, int members) {
    job *j = ctx;
    for (int s = 1; s <= 20; s++) {
        atomic_store(&j->stage[member], s);
        fl_team_barrier(j->team);
        for (int m = 0; m < members; m++) { /* nobody behind, nobody two ahead */
            int at = atomic_load(&j->stage[m]);
            if (at != s && at != s + 1) atomic_fetch_add(&j->wrong, 1);
        }
        fl_team_barrier(j->team);
    }
}

static void count_cells(void *ctx, int64_t begin, int64_t end) {
    job *j = ctx;
    for (int64_t i = begin; i < end; i++) atomic_fetch_add(&j->cell[i], 1);
}

static void test_team(int size) {
    fl_team *t = NULL;
    static job j;
    memset(&j, 0, sizeof(j));
    int rc = fl_team_new(&t, size, NULL), runs = 300, bad = 0;
    if (!check(!rc && fl_team_size(t) == size, "a team of %d", size)) return;
    j.team = t;
    for (int i = 0; i < runs; i++) fl_team_run(t, count_member, &j);
    for (int m = 0; m < size; m++) bad += atomic_load(&j.seen[m]) != runs;
    check(!bad && !atomic_load(&j.wrong), "%d: each member took part in each of %d runs", size,
          runs);
    fl_team_run(t, run_stages, &j);
    check(!atomic_load(&j.wrong), "%d: nobody passes a barrier before all have come", size);
    static const int64_t grains[] = {1, 7, 333, 1000, 5000};
    for (int i = 0; i < 5; i++) fl_team_for(t, CELLS, grains[i], count_cells, &j);
    fl_team_for(t, 0, 3, count_cells, &j);
    for (int i = 0; i < CELLS; i++) bad += atomic_load(&j.cell[i]) != 5;
    check(!bad, "%d: a parallel loop runs every index once, whatever the grain", size);
    usleep(2000); /* the members are asleep by now */
    atomic_store(&j.seen[size - 1], 0);
    fl_team_run(t, count_member, &j);
    check(atomic_load(&j.seen[size - 1]) == 1, "%d: sleeping members wake for a run", size);
    fl_team_free(t);
}

static void test_fork(void) {
    fl_team *t = NULL;
    static job j;
    if (fl_team_new(&t, 3, NULL)) return;
    fl_team_run(t, count_member, &j);
    pid_t child = fork();
    if (child == 0) {
        memset(&j, 0, sizeof(j));
        fl_team_run(t, count_member, &j);
        fl_team_for(t, CELLS, 10, count_cells, &j);
        bool alone = atomic_load(&j.seen[0]) == 1 && atomic_load(&j.seen[1]) == 0;
        bool all = true;
        for (int i = 0; i < CELLS; i++) all = all && atomic_load(&j.cell[i]) == 1;
        fl_team_free(t);
        _exit(alone && all ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    check(status == 0, "in a child after fork member 0 does everything alone");
    fl_team_run(t, count_member, &j);
    check(atomic_load(&j.seen[2]) == 2, "the parent's team is whole");
    fl_team_free(t);
}

static bool refuse(void *ctx, size_t bytes) {
    (void)ctx;
    (void)bytes;
    return false;
}

int main(void) {
    int64_t live = fl_mem_live();
    fl_team *t = NULL;
    fl_err err;
    for (int size = 1; size <= MAX_TEAM; size++) test_team(size);
    test_fork();
    check(fl_team_new(&t, 100000, &err) == FL_E_ARG && !t, "refused: %s", err.msg);
    fl_mem_set_hook(refuse, NULL);
    check(fl_team_new(&t, 2, &err) == FL_E_NOMEM && !t, "no memory: %s", err.msg);
    fl_mem_set_hook(NULL, NULL);
    check(fl_physical_cores() >= 1, "this machine has %d cores for us", fl_physical_cores());
    fl_team_free(NULL);
    check(fl_mem_live() == live, "no memory is left behind");
    return tap_done();
}
