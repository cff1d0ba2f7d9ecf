/* JSON on the wire. */
#include <string.h>

#include "serve/serve_priv.h"
#include "util/utf8.h"

/* The longest beginning of text[0..n) that may stand in JSON as it is. */
static size_t plain_bytes(const char *text, size_t n) {
    size_t i = 0;
    while (i < n) {
        const uint8_t c = (uint8_t)text[i];
        int used = 1;
        uint32_t cp;
        if (c < 0x20 || c == '"' || c == '\\') break;
        if (c >= 0x80 && (used = fl_utf8_decode(text + i, n - i, &cp, NULL)) < 0) break;
        i += (size_t)used;
    }
    return i;
}

static void put_escaped(fl_bytes *out, char c) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        const char pair[2] = {'\\', to[found - from]};
        fl_bytes_put(out, pair, 2);
    } else {
        fl_bytes_printf(out, "\\u%04x", (unsigned)(uint8_t)c);
    }
}

void fl_put_text(fl_bytes *out, const char *text, size_t n) {
    fl_bytes_putc(out, '"');
    for (size_t i = 0; i < n;) {
        const size_t plain = plain_bytes(text + i, n - i);
        uint32_t cp;
        fl_bytes_put(out, text + i, plain);
        i += plain;
        if (i == n) break;
        if ((uint8_t)text[i] < 0x80) {
            put_escaped(out, text[i++]);
        } else {
            i += (size_t)-fl_utf8_decode(text + i, n - i, &cp, NULL);
            fl_bytes_puts(out, "\xef\xbf\xbd");
        }
    }
    fl_bytes_putc(out, '"');
}

void fl_put_ids(fl_bytes *out, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++) fl_bytes_printf(out, i ? ",%d" : "%d", ids[i]);
}

void fl_put_token(fl_bytes *out, const fl_tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *bytes = t && id < fl_tokenizer_size(t) ? fl_tokenizer_bytes(t, id, &n) : NULL;
    if (!n || fl_utf8_valid(bytes, n)) {
        fl_put_text(out, bytes, n);
        return;
    }
    for (size_t i = 0; i < n; i++) fl_bytes_printf(out, i ? ",%d" : "[%d", (uint8_t)bytes[i]);
    fl_bytes_putc(out, ']');
}

void fl_put_error(fl_bytes *out, const fl_refusal *why) {
    fl_bytes_printf(out, "{\"error\":{\"code\":\"%s\",\"message\":", fl_code_name(why->err.code));
    fl_put_text(out, why->err.msg, strlen(why->err.msg));
    if (why->param) {
        fl_bytes_puts(out, ",\"param\":");
        fl_put_text(out, why->param, strlen(why->param));
    }
    if (why->retry_after)
        fl_bytes_printf(out, ",\"retry_after\":%lld", (long long)why->retry_after);
    fl_bytes_puts(out, "}}\n");
}
