/* guard.h - mapped files that may become shorter, or unreadable, while they are read.
 *
 * Touching a page that the file no longer has raises SIGBUS, which ends the process.  Inside a
 * guarded mapping it does not: the rest of the mapping reads as zeros from then on, and
 * fl_guard_check says so.  Whoever has read checks before the result is believed.
 *
 * The handler is installed with the first guard and stays; a SIGBUS anywhere else goes to the handler
 * that was there before.  Thread-safe. */
#ifndef FL_UTIL_GUARD_H
#define FL_UTIL_GUARD_H

#include <stddef.h>

#include "util/err.h"

/* A mapping of the first `size` bytes of the file fd, which the guard keeps open.  0: too many
 * guards, or no descriptor left. */
int fl_guard_add(const void *base, size_t size, int fd);
void fl_guard_remove(int guard); /* before the memory is unmapped; 0 is fine */
/* FL_E_IO, naming `path`, when the file is shorter than it was or a page could not be read. */
int fl_guard_check(int guard, const char *path, fl_err *err);

#endif
