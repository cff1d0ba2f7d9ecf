#include "text/detok.h"

#include <string.h>

#include "text/tokenizer_internal.h"
#include "util/utf8.h"

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */

void fl_detok_init(fl_detok *d, const fl_tokenizer *t, bool skip_special) {
    *d = (fl_detok){.tokenizer = t, .skip_special = skip_special};
}

/* Complete the held character with bytes of s; returns how many were used. */
static size_t complete(fl_detok *d, const char *s, size_t n, fl_bytes *out) {
    size_t used = 0;
    while (d->n_held && used < n) {
        uint32_t cp;
        bool truncated;
        d->held[d->n_held] = (uint8_t)s[used];
        int k = fl_utf8_decode((const char *)d->held, d->n_held + 1u, &cp, &truncated);
        if (k < 0 && !truncated) { /* the byte is no continuation: it starts anew */
            fl_bytes_puts(out, REPLACEMENT);
            d->n_held = 0;
            break;
        }
        d->n_held++;
        used++;
        if (k < 0) continue;
        fl_bytes_put(out, d->held, (size_t)k);
        d->n_held = 0;
    }
    return used;
}

static void put_bytes(fl_detok *d, const char *s, size_t n, fl_bytes *out) {
    size_t i = complete(d, s, n, out), start = i;
    while (i < n) {
        uint32_t cp;
        bool truncated;
        int k = fl_utf8_decode(s + i, n - i, &cp, &truncated);
        if (k > 0) {
            i += (size_t)k;
            continue;
        }
        fl_bytes_put(out, s + start, i - start);
        if (truncated) {
            d->n_held = (uint8_t)(n - i);
            memcpy(d->held, s + i, n - i);
            return;
        }
        fl_bytes_puts(out, REPLACEMENT);
        i += (size_t)-k;
        start = i;
    }
    fl_bytes_put(out, s + start, n - start);
}

/* The first token of a text, without the blank that encoding put in front. */
static void put_first(fl_detok *d, const char *s, size_t n, fl_bytes *out) {
    fl_lead lead = d->tokenizer->lead;
    for (size_t i = 0; i < n; i++) {
        bool drop = s[i] == ' ' &&
                    (lead == FL_LEAD_STRIP_FIRST_TOKEN || (lead == FL_LEAD_STRIP_ONE && i == 0));
        if (!drop) put_bytes(d, s + i, 1, out);
    }
}

int fl_detok_push(fl_detok *d, int32_t id, fl_bytes *out, fl_err *err) {
    const fl_vocab *v = &d->tokenizer->vocab;
    if (id < 0 || id >= fl_tokenizer_rows(d->tokenizer))
        return fl_fail(err, FL_E_ARG, "token id %d outside the vocabulary of %d", id,
                       fl_tokenizer_rows(d->tokenizer));
    /* The model's vocabulary may be padded beyond the tokenizer's: such ids have no text. */
    if (id >= v->n) return FL_OK;
    const fl_vocab_token *token = &v->tokens[id];
    if ((d->skip_special && token->special) || !token->n_bytes) return FL_OK;
    if (d->started) {
        put_bytes(d, token->bytes, token->n_bytes, out);
    } else {
        put_first(d, token->bytes, token->n_bytes, out);
    }
    d->started = true;
    return FL_OK;
}

void fl_detok_finish(fl_detok *d, fl_bytes *out) {
    if (d->n_held) fl_bytes_puts(out, REPLACEMENT);
    d->n_held = 0;
}
