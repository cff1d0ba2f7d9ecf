#include "util/utf8.h"

#include <string.h>

int fl_utf8_decode(const char *s, size_t n, uint32_t *cp, bool *truncated) {
    const uint8_t *b = (const uint8_t *)s;
    if (truncated) *truncated = false;
    if (b[0] < 0x80) {
        *cp = b[0];
        return 1;
    }
    int len = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (b[0] < 0xc2 || b[0] > 0xf4) return -1;
    /* The second byte's range excludes overlong forms, surrogates and > U+10FFFF. */
    uint8_t lo = b[0] == 0xe0 ? 0xa0 : b[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = b[0] == 0xed ? 0x9f : b[0] == 0xf4 ? 0x8f : 0xbf;
    uint32_t c = b[0] & (0xffu >> (len + 1));
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) {
            if (truncated) *truncated = true;
            return -i;
        }
        if (b[i] < lo || b[i] > hi) return -i;
        c = (c << 6) | (b[i] & 0x3fu);
        lo = 0x80;
        hi = 0xbf;
    }
    *cp = c;
    return len;
}

int fl_utf8_encode(char out[4], uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80u | (cp & 0x3fu));
        cp >>= 6;
    }
    out[0] = (char)(cp | (0xf00u >> len & 0xffu));
    return len;
}

bool fl_utf8_valid(const char *s, size_t n) {
    size_t i = 0;
    uint32_t cp;
    while (i < n) {
        uint64_t word;
        if (n - i >= 8 && (memcpy(&word, s + i, 8), !(word & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        int k = fl_utf8_decode(s + i, n - i, &cp, NULL);
        if (k < 0) return false;
        i += (size_t)k;
    }
    return true;
}
