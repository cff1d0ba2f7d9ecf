#include "util/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/mem.h"

enum { BLOCK_BYTES = 65536 };

struct fl_lines {
    char *name; /* for messages */
    int fd;
    bool regular, over, begun; /* begun: past where a byte order mark may stand */
    fl_bytes data;
    size_t at, searched; /* in data: where the next line begins; up to here there is no line end */
    uint64_t whole;
};

static int fail_io(const fl_lines *l, fl_err *err) {
    return fl_fail(err, FL_E_IO, "%s: %s", l->name, strerror(errno));
}

static int open_path(fl_lines *l, const char *path, fl_err *err) {
    struct stat st;
    l->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    if (l->fd < 0 || fstat(l->fd, &st)) return fail_io(l, err);
    if (S_ISDIR(st.st_mode)) return fl_fail(err, FL_E_IO, "%s: is a directory", l->name);
    l->regular = S_ISREG(st.st_mode);
    return FL_OK;
}

int fl_lines_open(fl_lines **out, const char *path, fl_err *err) {
    fl_lines *l = fl_alloc(sizeof(*l));
    if (!l) return fl_fail(err, FL_E_NOMEM, "%s", path ? path : "stdin");
    l->fd = -1;
    l->name = fl_strdup(path ? path : "stdin");
    int rc = l->name ? open_path(l, path, err) : fl_fail(err, FL_E_NOMEM, "%s", path);
    if (rc) {
        fl_lines_free(l);
        return rc;
    }
    *out = l;
    return FL_OK;
}

void fl_lines_free(fl_lines *l) {
    if (!l) return;
    if (l->fd >= 0) close(l->fd);
    fl_bytes_free(&l->data);
    fl_free(l->name);
    fl_free(l);
}

static bool has_input(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) != 0; /* an end and an error are something to read, too */
}

/* More bytes behind data; over when there are none. */
static int fill(fl_lines *l, fl_err *err) {
    if (l->at) { /* lines that have been taken */
        l->data.len -= l->at;
        memmove(l->data.data, l->data.data + l->at, l->data.len);
        l->searched -= l->at;
        l->at = 0;
    }
    if (l->data.len > FL_MAX_LINE_BYTES)
        return fl_fail(err, FL_E_LIMIT, "%s: a line of more than %d bytes", l->name,
                       FL_MAX_LINE_BYTES);
    char *p = fl_bytes_reserve(&l->data, BLOCK_BYTES);
    if (!p) return fl_fail(err, FL_E_NOMEM, "%s: a line of %zu bytes", l->name, l->data.len);
    ssize_t n;
    while ((n = read(l->fd, p, BLOCK_BYTES)) < 0 && (errno == EINTR || errno == EAGAIN)) {
        struct pollfd wait = {.fd = l->fd, .events = POLLIN};
        if (errno == EAGAIN) poll(&wait, 1, -1);
    }
    l->data.len -= BLOCK_BYTES - (n > 0 ? (size_t)n : 0);
    if (n < 0) return fail_io(l, err);
    l->over = n == 0;
    return FL_OK;
}

static void skip_mark(fl_lines *l) {
    static const char mark[] = "\xef\xbb\xbf";
    if (l->begun || (l->data.len < 3 && !l->over)) return;
    l->begun = true;
    if (l->data.len < 3 || memcmp(l->data.data, mark, 3) != 0) return;
    l->at = l->searched = 3;
    l->whole = 3;
}

/* The line before `end`, and past its end. */
static void take(fl_lines *l, size_t end, bool ended, const char **line, size_t *n) {
    *line = l->data.data + l->at;
    *n = end - l->at;
    if (ended) l->whole += *n + 1;
    l->at = l->searched = end + ended;
    if (*n && (*line)[*n - 1] == '\r') --*n;
}

int fl_lines_next(fl_lines *l, bool wait, const char **line, size_t *n, fl_line_result *result,
                  fl_err *err) {
    for (;;) {
        skip_mark(l);
        const char *end = NULL;
        if (l->begun && l->data.len > l->searched) /* there is data, then */
            end = memchr(l->data.data + l->searched, '\n', l->data.len - l->searched);
        *result = FL_LINE;
        if (end) {
            take(l, (size_t)(end - l->data.data), true, line, n);
            return FL_OK;
        }
        if (l->begun) l->searched = l->data.len;
        if (l->over && l->at < l->data.len) {
            take(l, l->data.len, false, line, n);
            return FL_OK;
        }
        *result = FL_LINE_END;
        if (l->over) return FL_OK;
        *result = FL_LINE_LATER;
        if (!wait && !l->regular && !has_input(l->fd)) return FL_OK;
        int rc = fill(l, err);
        if (rc) return rc;
    }
}

static bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

int fl_lines_count(fl_lines *l, int64_t *count, fl_err *err) {
    *count = -1;
    const off_t begin = lseek(l->fd, 0, SEEK_CUR);
    if (!l->regular || begin < 0) return FL_OK;
    char *block = fl_alloc(BLOCK_BYTES);
    if (!block) return fl_fail(err, FL_E_NOMEM, "%s", l->name);
    ssize_t n = 0;
    int64_t lines = 0;
    bool seen = false; /* something in this line */
    for (off_t at = begin; (n = pread(l->fd, block, BLOCK_BYTES, at)) > 0; at += n) {
        for (ssize_t i = 0; i < n; i++) {
            if (block[i] == '\n')
                seen = false;
            else if (!seen && !is_blank(block[i])) {
                seen = true;
                lines++;
            }
        }
    }
    int rc = n < 0 ? fail_io(l, err) : FL_OK;
    fl_free(block);
    if (!rc) *count = lines;
    return rc;
}

uint64_t fl_lines_whole_bytes(const fl_lines *l) {
    return l->whole;
}
