/* file.h - files as the loader needs them: mapped or whole, regular files only,
 * errors with the path. */
#ifndef FL_UTIL_FILE_H
#define FL_UTIL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

/* A read-only private mapping.  What a file loses while it is mapped reads as zeros, see guard.h:
 * check after reading, before what was read is believed. */
typedef struct fl_mapping {
    const uint8_t *data; /* size bytes; NULL when size is 0 */
    size_t size;
    int guard; /* 0: none */
} fl_mapping;

int fl_file_map(fl_mapping *out, const char *path, fl_err *err);
/* FL_E_IO when the file, called `path`, has become shorter or unreadable. */
int fl_file_check(const fl_mapping *m, const char *path, fl_err *err);
void fl_file_unmap(fl_mapping *m);
/* `size` bytes in which a window repeats, in the memory of one window: what fl_file_release gives
 * back reads the same again.  window_bytes: a multiple of 64 KiB, which any page size divides. */
int fl_map_repeated(fl_mapping *out, const void *window, size_t window_bytes, size_t size,
                    fl_err *err);
/* Give the whole pages inside [p, p+n) back; reading them again reads the file. */
void fl_file_release(const void *p, size_t n);
/* Only single pages of [p, p+n) will be read: no read-ahead, which can be megabytes a page. */
void fl_file_no_readahead(const void *p, size_t n);

/* Whole file, NUL-terminated after *size bytes; FL_E_LIMIT above max bytes.  Free with fl_free. */
int fl_file_read(char **out, size_t *size, const char *path, size_t max, fl_err *err);
/* Write to path.tmp in the same folder, flush, rename over path. */
int fl_file_write(const char *path, const void *data, size_t n, fl_err *err);

bool fl_file_exists(const char *path); /* any file type, links followed */
bool fl_dir_exists(const char *path);
int fl_dir_make(const char *path, fl_err *err);        /* one level; existing directory is fine */
int fl_dir_remove(const char *path, fl_err *err);      /* with all that is in it; absent is fine */
char *fl_path_join(const char *dir, const char *name); /* fl_free; NULL: no memory */

/* Names in a directory that end in suffix, sorted, one block freed with fl_free. */
int fl_dir_list(char ***names, size_t *n, const char *dir, const char *suffix, fl_err *err);

#endif
