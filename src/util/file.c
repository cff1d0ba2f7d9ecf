#include "util/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/guard.h"
#include "util/mem.h"
#include "util/num.h"

/* O_NONBLOCK: a FIFO in a checkpoint folder must not hang the loader. */
static int open_regular(int *fd, size_t *size, const char *path, fl_err *err) {
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
    int rc = FL_OK;
    if (fstat(*fd, &st))
        rc = fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = fl_fail(err, FL_E_IO, "%s: not a regular file", path);
    else
        *size = (size_t)st.st_size;
    if (rc) close(*fd);
    return rc;
}

int fl_file_map(fl_mapping *out, const char *path, fl_err *err) {
    int fd, rc;
    size_t size;
    *out = (fl_mapping){0};
    if ((rc = open_regular(&fd, &size, path, err))) return rc;
    if (size) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            rc = fl_fail(err, FL_E_IO, "%s: mmap: %s", path, strerror(errno));
        } else {
            *out = (fl_mapping){p, size, fl_guard_add(p, size, fd)};
            if (!out->guard) {
                fl_file_unmap(out);
                rc = fl_fail(err, FL_E_LIMIT, "%s: too many open files", path);
            }
        }
    }
    close(fd);
    return rc;
}

int fl_file_check(const fl_mapping *m, const char *path, fl_err *err) {
    return fl_guard_check(m->guard, path, err);
}

void fl_file_unmap(fl_mapping *m) {
    fl_guard_remove(m->guard);
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (fl_mapping){0};
}

int fl_map_repeated(fl_mapping *out, const void *window, size_t window_bytes, size_t size,
                    fl_err *err) {
    int rc = FL_OK, fd = memfd_create("fp8llm", MFD_CLOEXEC);
    *out = (fl_mapping){0};
    if (fd < 0 || write(fd, window, window_bytes) != (ssize_t)window_bytes) {
        rc = fl_fail(err, FL_E_NOMEM, "repeated pages: %s", strerror(errno));
        goto done;
    }
    /* One reservation that unmap removes whole; the windows are laid over it. */
    uint8_t *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        rc = fl_fail(err, FL_E_NOMEM, "%zu repeated bytes: %s", size, strerror(errno));
        goto done;
    }
    *out = (fl_mapping){p, size, 0};
    for (size_t at = 0; !rc && at < size; at += window_bytes) {
        size_t n = size - at < window_bytes ? size - at : window_bytes;
        if (mmap(p + at, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            rc = fl_fail(err, FL_E_NOMEM, "%zu repeated bytes: %s", size, strerror(errno));
    }
    if (rc) fl_file_unmap(out);
done:
    if (fd >= 0) close(fd);
    return rc;
}

void fl_file_release(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = fl_round_up((uintptr_t)p, page), end = ((uintptr_t)p + n) & ~(page - 1);
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void fl_file_no_readahead(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)p & ~(page - 1);
    if (n) madvise((void *)begin, (uintptr_t)p + n - begin, MADV_RANDOM);
}

int fl_file_read(char **out, size_t *size, const char *path, size_t max, fl_err *err) {
    int fd, rc;
    size_t n, got = 0;
    char *p = NULL;
    if ((rc = open_regular(&fd, &n, path, err))) return rc;
    if (n > max) {
        rc = fl_fail(err, FL_E_LIMIT, "%s: %zu bytes, limit %zu", path, n, max);
        goto done;
    }
    if (!(p = fl_alloc(n + 1))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s: %zu bytes", path, n);
        goto done;
    }
    while (got < n) {
        ssize_t k = read(fd, p + got, n - got);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            rc = fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
            goto done;
        }
        if (k == 0) break;
        got += (size_t)k;
    }
    *out = p;
    *size = got;
    p = NULL;
done:
    fl_free(p);
    close(fd);
    return rc;
}

int fl_file_write(const char *path, const void *data, size_t n, fl_err *err) {
    int rc = FL_OK;
    size_t len = strlen(path) + 5;
    char *tmp = fl_alloc(len);
    if (!tmp) return fl_fail(err, FL_E_NOMEM, "%s", path);
    snprintf(tmp, len, "%s.tmp", path);
    FILE *f = fopen(tmp, "wbe");
    if (!f) {
        rc = fl_fail(err, FL_E_IO, "%s: %s", tmp, strerror(errno));
        goto done;
    }
    bool ok = fwrite(data, 1, n, f) == n && !fflush(f) && !fsync(fileno(f));
    if (fclose(f)) ok = false;
    if (!ok || rename(tmp, path)) {
        rc = fl_fail(err, FL_E_IO, "%s: %s", ok ? path : tmp, strerror(errno));
        unlink(tmp);
    }
done:
    fl_free(tmp);
    return rc;
}

bool fl_file_exists(const char *path) {
    struct stat st;
    return !stat(path, &st);
}

bool fl_dir_exists(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

int fl_dir_make(const char *path, fl_err *err) {
    if (!mkdir(path, 0777) || (errno == EEXIST && fl_dir_exists(path))) return FL_OK;
    return fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno));
}

char *fl_path_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    char *p = fl_alloc(a + b + 2);
    if (!p) return NULL;
    memcpy(p, dir, a);
    if (a && dir[a - 1] != '/') p[a++] = '/';
    memcpy(p + a, name, b + 1);
    return p;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool ends_with(const char *s, const char *suffix) {
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && !strcmp(s + n - k, suffix);
}

int fl_dir_list(char ***names, size_t *n, const char *dir, const char *suffix, fl_err *err) {
    DIR *d = opendir(dir);
    if (!d) return fl_fail(err, FL_E_IO, "%s: %s", dir, strerror(errno));
    size_t count = 0, text_bytes = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!ends_with(e->d_name, suffix)) continue;
        count++;
        text_bytes += strlen(e->d_name) + 1;
    }
    rewinddir(d);
    /* The folder may change between the two passes: the second one never exceeds the first. */
    char **list = fl_alloc(count * sizeof(*list) + text_bytes);
    if (!list) {
        closedir(d);
        return fl_fail(err, FL_E_NOMEM, "%s: %zu names", dir, count);
    }
    char *text = (char *)(list + count);
    size_t k = 0, left = text_bytes;
    for (struct dirent *e; k < count && (e = readdir(d));) {
        size_t len = strlen(e->d_name) + 1;
        if (!ends_with(e->d_name, suffix) || len > left) continue;
        list[k++] = memcpy(text, e->d_name, len);
        text += len;
        left -= len;
    }
    closedir(d);
    qsort(list, k, sizeof(*list), by_name);
    *names = list;
    *n = k;
    return FL_OK;
}

int fl_dir_remove(const char *path, fl_err *err) {
    char **names = NULL;
    size_t n = 0;
    if (!fl_dir_exists(path)) return FL_OK;
    int rc = fl_dir_list(&names, &n, path, "", err);
    for (size_t i = 0; !rc && i < n; i++) {
        if (!strcmp(names[i], ".") || !strcmp(names[i], "..")) continue;
        char *file = fl_path_join(path, names[i]);
        if (!file)
            rc = fl_fail(err, FL_E_NOMEM, "%s", path);
        else if (unlink(file))
            rc = errno == EISDIR ? fl_dir_remove(file, err)
                                 : fl_fail(err, FL_E_IO, "%s: %s", file, strerror(errno));
        fl_free(file);
    }
    fl_free(names);
    if (rc) return rc;
    return rmdir(path) ? fl_fail(err, FL_E_IO, "%s: %s", path, strerror(errno)) : FL_OK;
}
