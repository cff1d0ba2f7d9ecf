#include "util/terminal.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/bytes.h"

static const char wipe[] = "\r\x1b[K";
static atomic_bool shown;
static atomic_int held, pending; /* pending: the number of the signal */
static char advice[256];

int fl_terminal_columns(void) {
    struct winsize size;
    if (!isatty(STDERR_FILENO)) return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col) return 80;
    return size.ws_col;
}

bool fl_terminal_interactive(void) {
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
}

static void put(const char *text, size_t n) {
    if (write(STDERR_FILENO, text, n) < 0) return; /* a status that nobody sees */
}

void fl_terminal_status(const char *text) {
    fl_bytes line = {0};
    if (!text && !atomic_exchange(&shown, false)) return;
    if (text) {
        atomic_store(&shown, true);
        fl_bytes_printf(&line, "\r%s\x1b[K", text);
        put(fl_bytes_cstr(&line), line.len);
        fl_bytes_free(&line);
    } else {
        put(wipe, sizeof(wipe) - 1);
    }
}

static void end_process(int number) {
    fl_terminal_status(NULL);
    if (number == SIGINT) put(advice, strlen(advice));
    signal(number, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void on_signal(int number) {
    if (atomic_load(&held) && !atomic_exchange(&pending, number)) return;
    end_process(number);
}

void fl_interrupt_catch(const char *words) {
    snprintf(advice, sizeof(advice), "%s", words ? words : "");
    struct sigaction how = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &how, NULL);
    sigaction(SIGTERM, &how, NULL);
}

void fl_interrupt_hold(void) {
    atomic_fetch_add(&held, 1);
}

void fl_interrupt_release(void) {
    const int number = atomic_fetch_sub(&held, 1) == 1 ? atomic_load(&pending) : 0;
    if (number) end_process(number);
}

bool fl_interrupt_pending(void) {
    return atomic_load(&pending) != 0;
}

int fl_interrupt_check(fl_err *err) {
    return fl_interrupt_pending() ? fl_fail(err, FL_E_CANCELLED, "interrupted") : FL_OK;
}

bool fl_interrupt_take(void) {
    return atomic_exchange(&pending, 0) != 0;
}
