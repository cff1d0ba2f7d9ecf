#include "util/process.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/clock.h"

/* In the child: never returns.  What goes wrong is written to the pipe. */
static void become(const fl_process *p, const sigset_t *mask, pid_t parent, int report) {
    prctl(PR_SET_PDEATHSIG, p->stop_signal);
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (getppid() == parent) execvp(p->argv[0], p->argv);
    const int e = errno;
    if (write(report, &e, sizeof(e)) < 0) _exit(126);
    _exit(127);
}

static int start(fl_process *p, const sigset_t *mask, fl_err *err) {
    int report[2], e = 0;
    const pid_t parent = getpid();
    if (pipe2(report, O_CLOEXEC)) return fl_fail(err, FL_E_IO, "pipe: %s", strerror(errno));
    p->pid = fork();
    if (p->pid == 0) become(p, mask, parent, report[1]);
    const int fork_errno = errno;
    close(report[1]);
    const bool failed = p->pid > 0 && read(report[0], &e, sizeof(e)) == sizeof(e);
    close(report[0]);
    if (p->pid > 0 && !failed) return FL_OK;
    if (p->pid > 0) waitpid(p->pid, NULL, 0);
    p->pid = 0;
    return fl_fail(err, FL_E_IO, "%s: %s", p->argv[0], strerror(failed ? e : fork_errno));
}

/* Notes every child that has ended, and ends what it left; which one did first now, or -1. */
static int reap(fl_process *p, size_t n) {
    int first = -1;
    for (size_t i = 0; i < n; i++) {
        siginfo_t ended = {.si_pid = 0};
        if (p[i].pid <= 0 || waitid(P_PID, (id_t)p[i].pid, &ended, WEXITED | WNOHANG | WNOWAIT))
            continue;
        if (ended.si_pid != p[i].pid) continue;
        kill(-p[i].pid, SIGKILL); /* before the number of the group may be another's */
        waitpid(p[i].pid, &p[i].status, 0);
        p[i].pid = 0;
        if (first < 0) first = (int)i;
    }
    return first;
}

/* Waits for a signal of the set until `deadline` (< 0: for ever): its number, 0 when time is over. */
static int next_signal(int fd, double deadline) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    struct signalfd_siginfo info;
    const double left = deadline < 0 ? -1 : deadline - fl_now();
    if (deadline >= 0 && left <= 0) return 0;
    if (poll(&wait, 1, deadline < 0 ? -1 : (int)(left * 1e3) + 1) <= 0) return 0;
    return read(fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

static void end_all(fl_process *p, size_t n, int fd, int grace_s) {
    bool hurry = false;
    for (size_t i = 0; i < n; i++) {
        const double deadline = fl_now() + grace_s;
        for (int signal = 0; p[i].pid > 0; reap(p, n)) {
            hurry = hurry || signal == SIGTERM || signal == SIGINT;
            if (hurry || fl_now() >= deadline)
                kill(-p[i].pid, SIGKILL);
            else if (!signal)
                kill(p[i].pid, p[i].stop_signal);
            signal = next_signal(fd, fl_now() + 1);
        }
    }
}

int fl_process_supervise(fl_process *p, size_t n, int grace_s, int *first, fl_err *err) {
    sigset_t set, before;
    int rc = FL_OK;
    *first = -1;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd < 0) rc = fl_fail(err, FL_E_IO, "signalfd: %s", strerror(errno));
    for (size_t i = 0; !rc && i < n; i++) rc = start(&p[i], &before, err);
    while (!rc && n) {
        const int signal = next_signal(fd, -1);
        if (signal == SIGCHLD) *first = reap(p, n);
        if (signal == SIGTERM || signal == SIGINT || *first >= 0) break;
    }
    if (fd >= 0) {
        end_all(p, n, fd, grace_s);
        close(fd);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* The descriptor stays open, also in the programs that are started: the kernel gives the lock back
 * when the last of them has ended, however that came about. */
int fl_process_lock(const char *path, fl_err *err) {
    char text[24] = "";
    const int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0) return fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        const int e = errno;
        const bool known = pread(fd, text, sizeof(text) - 1, 0) > 0;
        close(fd);
        if (e != EWOULDBLOCK) return fl_fail(err, FL_E_IO, "%s: %s", path, strerror(e));
        return fl_fail(err, FL_E_BUSY, "%s: held by process %ld, or by what it started", path,
                       known ? strtol(text, NULL, 10) : 0);
    }
    const int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (!ftruncate(fd, 0) && pwrite(fd, text, (size_t)n, 0) == n) return FL_OK;
    const int rc = fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
    close(fd);
    return rc;
}

static int try_address(const struct addrinfo *a, const char *host, int port, fl_err *err) {
    const int yes = 1;
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    int e = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
                    bind(fd, a->ai_addr, a->ai_addrlen)
                ? errno
                : 0;
    if (fd >= 0) close(fd);
    if (!e) return FL_OK;
    const char *const hint = e == EACCES ? "; ports below 1024 are root's" : "";
    return fl_fail(err, e == EADDRINUSE ? FL_E_BUSY : FL_E_IO, "%s port %d: %s%s", host, port,
                   strerror(e), hint);
}

int fl_process_check_port(const char *host, int port, fl_err *err) {
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(host, service, &hints, &list);
    if (rc) return fl_fail(err, FL_E_IO, "%s port %d: %s", host, port, gai_strerror(rc));
    for (const struct addrinfo *a = list; a && !rc; a = a->ai_next)
        rc = try_address(a, host, port, err);
    freeaddrinfo(list);
    return rc;
}
