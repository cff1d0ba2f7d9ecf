/* sink.h - where results go: a file, a pipe or a terminal, and nothing that is lost unseen.
 *
 * Every put is one write as far as the kernel takes it whole: what has been put is with the kernel, not in a
 * buffer.  A failure stays: all later calls fail as the first one did.  One thread at a time. */
#ifndef FL_UTIL_SINK_H
#define FL_UTIL_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_sink fl_sink;

/* path NULL: standard output.  Writes go behind what a file holds; fl_sink_cut empties it.  FL_E_BUSY:
 * another process's sink has the file. */
int fl_sink_open(fl_sink **out, const char *path, fl_err *err);

/* FL_E_IO names the path and tells how many bytes of how many were written. */
int fl_sink_put(fl_sink *s, const void *data, size_t n, fl_err *err);

/* A regular file is cut to `bytes`: to 0, or before what an interrupted run left half written. */
int fl_sink_cut(fl_sink *s, uint64_t bytes, fl_err *err);

/* Bring everything to the disk, close, free.  FL_E_IO: that failed, a put had failed, or the file holds less
 * than was written.  s is gone either way. */
int fl_sink_close(fl_sink *s, fl_err *err);
void fl_sink_free(fl_sink *s); /* closes without looking; NULL is fine */

bool fl_sink_is_regular(const fl_sink *s); /* a file that keeps what is written */
/* The very file, pipe or terminal that path (NULL: standard output) leads to? */
bool fl_sink_is(const fl_sink *s, const char *path);

#endif
