#include "util/err.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void fl_printable(char *text) {
    for (uint8_t *p = (uint8_t *)text; *p; p++) {
        const bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0; /* U+0080 to U+009F */
        const bool c0 = (*p < 0x20 && *p != '\n' && *p != '\t') || *p == 0x7f;
        if (c0 || c1) *p = '?';
        if (c1) *++p = '?';
    }
}

int fl_fail(fl_err *err, int code, const char *fmt, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    fl_printable(err->msg);
    err->code = code;
    return code;
}

int fl_fail_in(fl_err *err, const char *fmt, ...) {
    if (!err) return FL_E_ARG;
    char old[sizeof(err->msg)];
    memcpy(old, err->msg, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(err->msg)) {
        snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, "%s", old);
    }
    fl_printable(err->msg);
    return err->code;
}

const char *fl_code_name(int code) {
    static const char *const name[] = {"OK",          "ARG",    "NOMEM", "IO",        "FORMAT",
                                       "UNSUPPORTED", "DEVICE", "LIMIT", "CANCELLED", "BUSY"};
    int i = -code;
    return i >= 0 && i < (int)(sizeof(name) / sizeof(name[0])) ? name[i] : "UNKNOWN";
}
