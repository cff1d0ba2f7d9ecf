#include "util/decimal.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_DIGITS = 1000 }; /* a double is decided by fewer than 800 */

static const char *digits(const char *p, const char *end) {
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

const char *fl_decimal_end(const char *p, const char *end, bool *whole) {
    *whole = true;
    if (p < end && *p == '-') p++;
    const char *first = p;
    p = digits(p, end);
    if (p == first || (*first == '0' && p - first > 1)) return NULL;
    if (p < end && *p == '.') {
        const char *fraction = p + 1;
        p = digits(fraction, end);
        if (p == fraction) return NULL;
        *whole = false;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        const char *exponent = p;
        p = digits(exponent, end);
        if (p == exponent) return NULL;
        *whole = false;
    }
    return p;
}

/* The decimal point depends on the process's locale: hand strtod the digits without one. */
double fl_decimal_value(const char *p, const char *end) {
    char buf[MAX_DIGITS + 48];
    size_t n = 0;
    long exponent = 0;
    bool fraction = false;
    for (; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            fraction = true;
        } else if (n < MAX_DIGITS) {
            buf[n++] = *p;
            exponent -= fraction;
        } else {
            exponent += !fraction;
        }
    }
    if (p < end) {
        bool negative = p + 1 < end && p[1] == '-';
        long e = 0; /* below 1,000,000: beyond 100,000 nothing changes */
        for (p += 1 + (p + 1 < end && (p[1] == '-' || p[1] == '+')); p < end; p++)
            if (e < 100000) e = e * 10 + (*p - '0');
        exponent += negative ? -e : e;
    }
    snprintf(buf + n, sizeof(buf) - n, "e%ld", exponent);
    return strtod(buf, NULL);
}
