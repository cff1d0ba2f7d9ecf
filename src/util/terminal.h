/* terminal.h - the status line of a command on standard error, and Ctrl-C.  For programs that are a command
 * of ours; a library in somebody else's process touches neither terminal nor signals. */
#ifndef FL_UTIL_TERMINAL_H
#define FL_UTIL_TERMINAL_H

#include <stdbool.h>

#include "util/err.h"

/* Columns of the terminal that standard error is, 80 when it does not say; 0: it is none. */
int fl_terminal_columns(void);

/* Whether a person types and reads: standard input, output and error are terminals. */
bool fl_terminal_interactive(void);

/* Show text in place of what the line shows; NULL wipes it.  Errors are nobody's concern. */
void fl_terminal_status(const char *text);

/* From now on SIGINT and SIGTERM wipe the status line, then end the process as they do by default; SIGINT
 * tells the advice (NULL: none) first, of which the first 255 bytes count. */
void fl_interrupt_catch(const char *advice);

/* Between hold and release the first such signal only sets what fl_interrupt_pending tells, so that what is
 * half done can be undone; release ends the process then.  A second signal ends it at once. */
void fl_interrupt_hold(void);
void fl_interrupt_release(void);
bool fl_interrupt_pending(void);
/* Whether one is pending, which it is no more after this. */
bool fl_interrupt_take(void);
int fl_interrupt_check(
    fl_err *err); /* FL_E_CANCELLED when one is pending: for loops between the two */

#endif
