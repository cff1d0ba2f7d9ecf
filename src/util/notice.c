#include "util/notice.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int fl_notice_open(int *fd, fl_err *err) {
    *fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return *fd < 0 ? fl_fail(err, FL_E_IO, "eventfd: %s", strerror(errno)) : FL_OK;
}

void fl_notice_set(int fd) {
    const uint64_t one = 1;
    while (fd >= 0 && write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

void fl_notice_clear(int fd) {
    uint64_t count;
    while (fd >= 0 && read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
}
