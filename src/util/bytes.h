/* bytes.h - a growable byte buffer.
 *
 * Failure to grow is sticky: the put functions become no-ops and `failed` stays
 * set, so a writer checks once at the end.  Zero-initialise before first use. */
#ifndef FL_UTIL_BYTES_H
#define FL_UTIL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_bytes {
    char *data; /* len bytes, not NUL-terminated unless fl_bytes_cstr was called */
    size_t len, cap;
    size_t limit; /* most bytes it may hold; 0 = no limit */
    bool failed;
} fl_bytes;

void fl_bytes_put(fl_bytes *b, const void *p, size_t n);
void fl_bytes_puts(fl_bytes *b, const char *s);
void fl_bytes_putc(fl_bytes *b, char c);
void fl_bytes_printf(fl_bytes *b, const char *fmt, ...) FL_PRINTF(2, 3);
void *fl_bytes_reserve(fl_bytes *b, size_t n); /* n writable bytes at the end, or NULL; len grows */
const char *fl_bytes_cstr(fl_bytes *b);        /* NUL-terminated view, "" when failed */
char *fl_bytes_take(fl_bytes *b);              /* NUL-terminated block for fl_free, or NULL */
void fl_bytes_free(fl_bytes *b);

#endif
