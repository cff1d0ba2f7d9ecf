#include "util/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/mem.h"

struct fl_sink {
    char *name; /* for messages */
    int fd;
    bool regular;
    uint64_t begin, written; /* size at the start; bytes put since */
    fl_err failed;           /* code 0: nothing has failed */
};

static int fail_io(fl_sink *s, fl_err *err) {
    fl_fail(&s->failed, FL_E_IO, "%s: %s", s->name, strerror(errno));
    if (err) *err = s->failed;
    return FL_E_IO;
}

static int open_path(fl_sink *s, const char *path, fl_err *err) {
    struct stat st;
    const int how = O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND;
    s->fd = path ? open(path, how, 0666) : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (s->fd < 0 || fstat(s->fd, &st)) return fail_io(s, err);
    s->regular = S_ISREG(st.st_mode);
    if (!s->regular || !path) return FL_OK;
    if (flock(s->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return fl_fail(err, FL_E_BUSY, "%s: another process writes to it", s->name);
    s->begin = (uint64_t)st.st_size;
    return FL_OK;
}

int fl_sink_open(fl_sink **out, const char *path, fl_err *err) {
    fl_sink *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "%s", path ? path : "stdout");
    s->fd = -1;
    s->name = fl_strdup(path ? path : "stdout");
    int rc = s->name ? open_path(s, path, err) : fl_fail(err, FL_E_NOMEM, "%s", path);
    if (rc) {
        fl_sink_free(s);
        return rc;
    }
    *out = s;
    return FL_OK;
}

/* A descriptor that somebody else has made non-blocking. */
static void wait_for_room(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    poll(&p, 1, -1);
}

int fl_sink_put(fl_sink *s, const void *data, size_t n, fl_err *err) {
    const char *p = data;
    size_t done = 0;
    if (s->failed.code) {
        if (err) *err = s->failed;
        return s->failed.code;
    }
    while (done < n) {
        const ssize_t k = write(s->fd, p + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            wait_for_room(s->fd);
            continue;
        }
        if (k <= 0) {
            if (!k) errno = ENOSPC;
            int rc = fl_fail(&s->failed, FL_E_IO, "%s: %zu of %zu bytes written: %s", s->name, done,
                             n, strerror(errno));
            if (err) *err = s->failed;
            return rc;
        }
        done += (size_t)k;
        s->written += (uint64_t)k;
    }
    return FL_OK;
}

int fl_sink_cut(fl_sink *s, uint64_t bytes, fl_err *err) {
    if (!s->regular) return fl_fail(err, FL_E_ARG, "%s: not a regular file", s->name);
    if (ftruncate(s->fd, (off_t)bytes)) return fail_io(s, err);
    s->begin = bytes;
    s->written = 0;
    return FL_OK;
}

/* What cannot be synchronized (a pipe, a terminal, a socket) says EINVAL or the like. */
static bool synced(const fl_sink *s) {
    return !fsync(s->fd) ||
           (!s->regular && (errno == EINVAL || errno == EROFS || errno == ENOTSUP));
}

int fl_sink_close(fl_sink *s, fl_err *err) {
    struct stat st;
    const uint64_t all = s->begin + s->written;
    int rc = s->failed.code;
    if (rc && err) *err = s->failed;
    if (!rc && !synced(s)) rc = fail_io(s, err);
    if (!rc && s->regular && !fstat(s->fd, &st) && (uint64_t)st.st_size < all)
        rc = fl_fail(err, FL_E_IO, "%s: holds %llu bytes of %llu written", s->name,
                     (unsigned long long)st.st_size, (unsigned long long)all);
    if (close(s->fd) && !rc) rc = fail_io(s, err);
    s->fd = -1;
    fl_sink_free(s);
    return rc;
}

void fl_sink_free(fl_sink *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    fl_free(s->name);
    fl_free(s);
}

bool fl_sink_is_regular(const fl_sink *s) {
    return s->regular;
}

bool fl_sink_is(const fl_sink *s, const char *path) {
    struct stat a, b;
    if (fstat(s->fd, &a) || (path ? stat(path, &b) : fstat(STDOUT_FILENO, &b))) return false;
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}
