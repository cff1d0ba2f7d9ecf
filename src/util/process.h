/* process.h - run other programs and look after them: for a command that starts several. */
#ifndef FL_UTIL_PROCESS_H
#define FL_UTIL_PROCESS_H

#include <stddef.h>

#include "util/err.h"

typedef struct fl_process {
    char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH */
    int stop_signal;   /* what asks it to end, e.g. SIGTERM             */
    int pid;           /* 0: not running                                */
    int status;        /* of waitpid, once it has ended                 */
} fl_process;

/* Starts all and waits until one ends or SIGTERM or SIGINT arrives; then ends the others in
 * order, each after the one before has ended: its stop_signal once a second, as a program that
 * is starting may miss one, and SIGKILL to its group when grace_s are over or a second signal
 * comes.  *first: which process ended by itself, or -1 for a signal.  The processes are in groups
 * of their own, so that a terminal's Ctrl-C reaches the caller only, and get their stop_signal when
 * the caller dies; what is left of a group whose first process has ended is killed.  Signals and
 * children of the calling process must be nobody else's.  FL_E_IO: one could not be started; none
 * is left running then. */
int fl_process_supervise(fl_process *p, size_t n, int grace_s, int *first, fl_err *err);

/* Whether a server could listen at this address (a name or number; no brackets) and port now.
 * FL_E_BUSY: another one does; FL_E_IO: there is no such address, or it may not be used. */
int fl_process_check_port(const char *host, int port, fl_err *err);

/* Takes the lock file at `path` for this process and those it starts, until all of them have ended.
 * FL_E_BUSY, naming the process that took it: somebody has it. */
int fl_process_lock(const char *path, fl_err *err);

#endif
