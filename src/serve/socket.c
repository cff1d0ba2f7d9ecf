/* The listening socket, and telling systemd.
 *
 * The socket is bound to a name of its own and renamed over the path when everything is ready: what
 * a crash left behind is no obstacle.  A socket on which somebody listens is never replaced; to take
 * over from an older server, an operator starts the new one on another path and renames that. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "serve/serve_priv.h"

enum { BACKLOG = 1024, SOCKET_MODE = 0660 }; /* the group's members are clients */

static int fail_io(const fl_server *s, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_IO, "%s: %s: %s", s->path, what, strerror(errno));
}

/* FL_E_BUSY unless the path is free, or a socket on which nobody listens. */
static int check_free(const fl_server *s, fl_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    if (lstat(s->path, &st)) return errno == ENOENT ? FL_OK : fail_io(s, "lstat", err);
    if (!S_ISSOCK(st.st_mode))
        return fl_fail(err, FL_E_BUSY, "%s: is there, and no socket", s->path);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", s->path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fail_io(s, "socket", err);
    struct ucred peer = {.pid = 0};
    socklen_t size = sizeof(peer);
    int rc = FL_OK;
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a))) {
        if (errno == EAGAIN) /* its queue is full */
            rc = fl_fail(err, FL_E_BUSY, "%s: a process listens there", s->path);
        else if (errno != ECONNREFUSED && errno != ENOENT)
            rc = fail_io(s, "connect", err);
    } else {
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
        rc = fl_fail(err, FL_E_BUSY, "%s: process %d listens there", s->path, (int)peer.pid);
    }
    close(fd);
    return rc;
}

int fl_socket_open(fl_server *s, fl_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    int rc = check_free(s, err);
    if (rc) return rc;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", s->temporary);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->listener < 0) return fail_io(s, "socket", err);
    unlink(s->temporary);
    if (bind(s->listener, (const struct sockaddr *)&a, sizeof(a))) return fail_io(s, "bind", err);
    if (chmod(s->temporary, SOCKET_MODE) || stat(s->temporary, &st))
        return fail_io(s, "chmod", err);
    s->socket_dev = st.st_dev;
    s->socket_ino = st.st_ino;
    if (listen(s->listener, BACKLOG)) return fail_io(s, "listen", err);
    return FL_OK;
}

/* Of several that are ready at a time one looks and renames after the other: the directory is locked. */
int fl_socket_publish(fl_server *s, fl_err *err) {
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    snprintf(dir, sizeof(dir), "%s", s->path);
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = '\0';
    const int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_io(s, "open of its directory", err);
    int rc = flock(fd, LOCK_EX) ? fail_io(s, "lock of its directory", err) : check_free(s, err);
    if (!rc && rename(s->temporary, s->path)) rc = fail_io(s, "rename", err);
    close(fd);
    return rc;
}

static void unlink_ours(const fl_server *s, const char *path) {
    struct stat st;
    if (!stat(path, &st) && st.st_dev == s->socket_dev && st.st_ino == s->socket_ino) unlink(path);
}

void fl_socket_close(fl_server *s) {
    if (s->listener < 0) return;
    close(s->listener);
    s->listener = -1;
    unlink_ours(s, s->temporary);
    unlink_ours(s, s->path);
}

void fl_socket_notify(const fl_server *s, const char *state) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const size_t n = s->notify ? strlen(s->notify) : 0;
    if (!n || n >= sizeof(a.sun_path)) return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    memcpy(a.sun_path, s->notify, n);
    if (a.sun_path[0] == '@') a.sun_path[0] = 0; /* Linux's abstract names */
    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&a,
           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    close(fd);
}
