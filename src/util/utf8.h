/* utf8.h - UTF-8 as the Unicode standard defines it: no surrogates, no overlong
 * forms, nothing above U+10FFFF. */
#ifndef FL_UTIL_UTF8_H
#define FL_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode one code point from s[0..n), n > 0.  Returns the bytes used (1..4), or
 * minus the length of the maximal invalid subpart (-1..-3), which a lossy reader
 * replaces by one U+FFFD (W3C/WHATWG practice).  *truncated, when not NULL, tells
 * whether the subpart could still become valid with more bytes. */
int fl_utf8_decode(const char *s, size_t n, uint32_t *cp, bool *truncated);
int fl_utf8_encode(char out[4], uint32_t cp); /* bytes written; cp must be a scalar value */
bool fl_utf8_valid(const char *s, size_t n);

#endif
