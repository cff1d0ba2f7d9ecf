/* Text to ids and back with two small tokenizers, whole and streamed; bits of trust from the
 * input.  Byte 0 of the input chooses tokenizer and options, the rest is text. */
#include "fuzz.h"

#include <string.h>

#include "text/detok.h"
#include "text/tokenizer.h"

static const char *const DIRS[] = {"spec/golden/tokenizer/byte_level",
                                   "spec/golden/tokenizer/sentencepiece"};

typedef struct result {
    fl_ids ids;
    fl_bytes text, stream;
} result;

static void decode(const fl_tokenizer *t, result *r, bool skip) {
    fl_detok d;
    fl_err err;
    r->text.len = r->stream.len = 0;
    MUST(!fl_tokenizer_decode(t, r->ids.data, r->ids.len, skip, &r->text, &err));
    fl_detok_init(&d, t, skip);
    for (size_t i = 0; i < r->ids.len; i++) {
        MUST(!fl_detok_push(&d, r->ids.data[i], &r->stream, &err) && d.n_held <= 3);
    }
    fl_detok_finish(&d, &r->stream);
    MUST(r->text.len == r->stream.len &&
         (!r->text.len || !memcmp(r->text.data, r->stream.data, r->text.len)));
}

/* Any ids, among them wrong ones. */
static void decode_any(const fl_tokenizer *t, result *r, const uint8_t *s, size_t n) {
    r->ids.len = 0;
    for (size_t i = 0; i + 1 < n; i += 2) {
        int32_t id = s[i] + 256 * s[i + 1];
        MUST(fl_ids_push(&r->ids, id % fl_tokenizer_size(t)));
    }
    decode(t, r, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static fl_tokenizer *tokenizers[2];
    static fl_tokenizer_ctx *contexts[2];
    result r = {0};
    fl_err err;
    if (!n) return 0;
    int which = data[0] & 1;
    if (!tokenizers[which]) {
        MUST(!fl_tokenizer_load(&tokenizers[which], DIRS[which], &err));
        MUST(!fl_tokenizer_ctx_new(&contexts[which], tokenizers[which], &err));
    }
    const fl_tokenizer *t = tokenizers[which];
    const uint8_t *text = data + 1;
    n--;
    fl_encode_options o = {.add_special_tokens = data[0] & 2,
                           .special = (fl_special_policy)(data[0] >> 2 & 3),
                           .trusted = data[0] & 16 ? text : NULL, /* longer than it need be */
                           .strict = data[0] & 32,
                           .list = (const int32_t[]){1},
                           .n_list = 1};
    int rc = fl_tokenizer_encode(t, contexts[which], (const char *)text, n, &o, &r.ids, &err);
    MUST(!rc || (rc == FL_E_FORMAT && o.strict) ||
         (rc == FL_E_ARG && o.special == FL_SPECIAL_REJECT));
    MUST(!rc || !r.ids.len);
    decode(t, &r, data[0] & 64);
    decode_any(t, &r, text, n);
    fl_ids_free(&r.ids);
    fl_bytes_free(&r.text);
    fl_bytes_free(&r.stream);
    return 0;
}
