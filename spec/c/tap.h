/* tap.h - the C tests' reporter: one line a check, TAP, exit status 1 when any failed.
 *
 *     int main(void) { check(1 + 1 == 2, "adds"); return tap_done(); }
 */
#ifndef FL_SPEC_TAP_H
#define FL_SPEC_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failed;

/* Report one check under a name made printf-style. */
__attribute__((format(printf, 2, 3), unused)) static bool check(bool ok, const char *fmt, ...) {
    va_list ap;
    printf("%s %d - ", ok ? "ok" : "not ok", ++tap_count);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
    tap_failed += !ok;
    return ok;
}

__attribute__((unused)) static int tap_done(void) {
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif
