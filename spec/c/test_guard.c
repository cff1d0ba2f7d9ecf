/* Mapped files that lose their end: zeros and an error in place of SIGBUS. */
#include "util/guard.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"
#include "util/file.h"
#include "util/thread.h"

enum { BYTES = 1 << 20, LEFT = 5000 };

static char path[] = "/tmp/test_guard_XXXXXX";

static bool make_file(void) {
    char *data = malloc(BYTES);
    memset(data, 7, BYTES);
    bool ok = !fl_file_write(path, data, BYTES, NULL);
    free(data);
    return ok;
}

static uint64_t sum(const fl_mapping *m) {
    uint64_t all = 0;
    for (size_t i = 0; i < m->size; i++) all += m->data[i];
    return all;
}

static void sum_part(void *ctx, int member, int members) {
    const fl_mapping *m = ctx;
    volatile uint8_t last = 0;
    for (size_t i = (size_t)member; i < m->size; i += (size_t)members) last = m->data[i];
    (void)last;
}

static void test_shorter(void) {
    fl_mapping m, other;
    fl_err err = {0};
    check(make_file() && !fl_file_map(&m, path, &err) && !fl_file_map(&other, path, &err), "maps");
    check(sum(&m) == 7ull * BYTES && !fl_file_check(&m, path, &err), "a whole file is as it was");
    check(!truncate(path, LEFT), "the file is made shorter");
    check(fl_file_check(&other, path, &err) == FL_E_IO, "which is told before anything is read");
    check(sum(&m) == 7ull * LEFT, "what is gone reads as zeros");
    check(fl_file_check(&m, path, &err) == FL_E_IO && strstr(err.msg, path) &&
              strstr(err.msg, "5000") && strstr(err.msg, "1048576"),
          "the error names the file and both sizes: %s", err.msg);
    fl_file_unmap(&m);
    fl_file_unmap(&other);
    fl_file_unmap(&other); /* twice is nothing */
}

static void test_threads(void) {
    fl_mapping m;
    fl_team *team;
    check(make_file() && !fl_file_map(&m, path, NULL) && !truncate(path, 0), "an empty file");
    check(!fl_team_new(&team, 4, NULL), "threads");
    fl_team_run(team, sum_part, &m);
    fl_team_free(team);
    check(fl_file_check(&m, path, NULL) == FL_E_IO, "is read by many threads, and told of");
    fl_file_unmap(&m);
}

/* Another file's SIGBUS is not ours: it ends the process as ever. */
static void test_foreign(void) {
    fl_mapping m;
    int status = 0;
    check(make_file() && !fl_file_map(&m, path, NULL), "a guarded mapping beside a foreign one");
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        char name[] = "/tmp/test_guard_XXXXXX";
        int fd = mkstemp(name);
        unlink(name);
        const volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        _exit(p[0]);
    }
    waitpid(child, &status, 0);
    check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0,
          "which still ends its process");
    fl_file_unmap(&m);
}

static volatile int seen;
static void on_signal(int number) {
    seen = number;
    _exit(33);
}

/* A handler that was there before is asked first for what is not ours; in a child, where no
 * guard was ever made. */
static void test_previous(void) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        char name[] = "/tmp/test_guard_XXXXXX";
        signal(SIGBUS, on_signal);
        int fd = mkstemp(name);
        unlink(name);
        fl_mapping m;
        if (!make_file() || fl_file_map(&m, path, NULL)) _exit(1);
        const volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        _exit(p[0]);
    }
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 33,
          "a handler of before gets what is not ours");
}

int main(void) {
    close(mkstemp(path));
    test_previous();
    test_shorter();
    test_threads();
    test_foreign();
    unlink(path);
    return tap_done();
}
