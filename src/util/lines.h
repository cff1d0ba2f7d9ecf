/* lines.h - a text file read line by line, once, whatever it is: a file, a pipe, a terminal.
 *
 * A line comes without its end, which is LF or CR LF; the last one may lack it.  A byte order mark at the
 * beginning is skipped.  One thread at a time. */
#ifndef FL_UTIL_LINES_H
#define FL_UTIL_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum { FL_MAX_LINE_BYTES = 1 << 28 };

typedef struct fl_lines fl_lines;

/* path NULL: standard input.  FL_E_IO: it cannot be read, or is a directory. */
int fl_lines_open(fl_lines **out, const char *path, fl_err *err);
void fl_lines_free(fl_lines *l); /* NULL is fine */

typedef enum {
    FL_LINE, /* here it is                     */
    FL_LINE_LATER /* none yet, and nobody waited    */,
    FL_LINE_END /* there is no further one */
} fl_line_result;

/* The next line, valid until the next call; NUL bytes are bytes like others.  wait: until there is one or
 * the end, which a file has at once.  FL_E_IO; FL_E_LIMIT: longer than FL_MAX_LINE_BYTES. */
int fl_lines_next(fl_lines *l, bool wait, const char **line, size_t *n, fl_line_result *result,
                  fl_err *err);

/* How many of the lines still to come are not blank; -1: that cannot be known without taking them. */
int fl_lines_count(fl_lines *l, int64_t *count, fl_err *err);
/* Bytes from the beginning up to the end of the last line that had one. */
uint64_t fl_lines_whole_bytes(const fl_lines *l);

#endif
