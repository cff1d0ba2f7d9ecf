#include "util/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_GUARDS = 8192 }; /* twice the shards of the largest checkpoint */

typedef struct guard {
    atomic_uintptr_t base; /* 0: free; written last, and taken away first */
    atomic_size_t size;
    atomic_bool hit;
    int fd;
} guard;

static guard guards[MAX_GUARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int most_used; /* slots that were ever used: where the handler stops looking */
static struct sigaction previous;
static bool installed;
static uintptr_t page_bytes;

/* Zeros in place of all that is gone, so that one signal is enough for a file of many pages. */
static bool replace(guard *g, uintptr_t at) {
    const uintptr_t base = atomic_load(&g->base), end = base + atomic_load(&g->size);
    const uintptr_t page = at & ~(page_bytes - 1);
    if (!base || at < base || at >= end) return false;
    atomic_store(&g->hit, true);
    return mmap((void *)page, end - page, PROT_READ,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/* Only atomics and system calls.  A thread that reads must not block SIGBUS: see fl_thread_start. */
static void on_bus(int number, siginfo_t *info, void *context) {
    const int saved = errno, n = atomic_load(&most_used);
    bool ours = false;
    for (int i = 0; i < n && !ours; i++) ours = replace(&guards[i], (uintptr_t)info->si_addr);
    errno = saved;
    if (ours) return;
    if (previous.sa_flags & SA_SIGINFO)
        previous.sa_sigaction(number, info, context);
    else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN)
        signal(number, SIG_DFL); /* the access is repeated, and ends the process */
    else
        previous.sa_handler(number);
}

static void install(void) {
    struct sigaction action = {.sa_sigaction = on_bus,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (installed) return;
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&action.sa_mask);
    installed = !sigaction(SIGBUS, &action, &previous);
}

int fl_guard_add(const void *base, size_t size, int fd) {
    int i = 0, kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (kept < 0) return 0;
    pthread_mutex_lock(&lock);
    install();
    while (i < MAX_GUARDS && atomic_load(&guards[i].base)) i++;
    if (i < MAX_GUARDS) {
        guard *g = &guards[i];
        g->fd = kept;
        atomic_store(&g->hit, false);
        atomic_store(&g->size, size);
        atomic_store(&g->base, (uintptr_t)base);
        if (i >= atomic_load(&most_used)) atomic_store(&most_used, i + 1);
    }
    pthread_mutex_unlock(&lock);
    if (i < MAX_GUARDS) return i + 1;
    close(kept);
    return 0;
}

void fl_guard_remove(int number) {
    if (!number) return;
    guard *g = &guards[number - 1];
    pthread_mutex_lock(&lock);
    const int fd = g->fd;
    atomic_store(&g->base, 0);
    pthread_mutex_unlock(&lock);
    close(fd);
}

int fl_guard_check(int number, const char *path, fl_err *err) {
    struct stat st;
    if (!number) return FL_OK;
    guard *g = &guards[number - 1];
    const size_t size = atomic_load(&g->size);
    if (fstat(g->fd, &st)) return fl_fail(err, FL_E_IO, "%s: cannot be looked at any more", path);
    if ((size_t)st.st_size < size)
        return fl_fail(err, FL_E_IO,
                       "%s: the file has become shorter while it was read: %lld bytes, it had %zu",
                       path, (long long)st.st_size, size);
    if (atomic_load(&g->hit))
        return fl_fail(err, FL_E_IO, "%s: a page of its %zu bytes could not be read", path, size);
    return FL_OK;
}
