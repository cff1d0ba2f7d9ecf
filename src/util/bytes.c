#include "util/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "util/mem.h"

/* Room for n more bytes and a NUL. */
static bool room(fl_bytes *b, size_t n) {
    if (b->failed) return false;
    if (n > SIZE_MAX / 4 || (b->limit && n > b->limit - b->len)) goto fail;
    size_t need = b->len + n + 1;
    if (need <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) cap *= 2;
    char *data = fl_grow(b->data, cap);
    if (!data) goto fail;
    b->data = data;
    b->cap = cap;
    return true;
fail:
    b->failed = true;
    return false;
}

void fl_bytes_put(fl_bytes *b, const void *p, size_t n) {
    if (!room(b, n)) return;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
}

void fl_bytes_puts(fl_bytes *b, const char *s) {
    fl_bytes_put(b, s, strlen(s));
}

void fl_bytes_putc(fl_bytes *b, char c) {
    fl_bytes_put(b, &c, 1);
}

void fl_bytes_printf(fl_bytes *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && room(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void *fl_bytes_reserve(fl_bytes *b, size_t n) {
    if (!room(b, n)) return NULL;
    void *p = b->data + b->len;
    b->len += n;
    return p;
}

const char *fl_bytes_cstr(fl_bytes *b) {
    if (!room(b, 0)) return "";
    b->data[b->len] = '\0';
    return b->data;
}

char *fl_bytes_take(fl_bytes *b) {
    char *p = NULL;
    if (room(b, 0)) {
        p = b->data;
        p[b->len] = '\0';
        b->data = NULL;
    }
    fl_bytes_free(b);
    return p;
}

void fl_bytes_free(fl_bytes *b) {
    fl_free(b->data);
    *b = (fl_bytes){.limit = b->limit};
}
