#include "text/chat.h"

#include <string.h>

#include "util/mem.h"

static fl_jv string_value(const char *s) {
    return (fl_jv){.kind = FL_JV_STRING, .string = {s, strlen(s)}};
}

/* The tokenizer's named special tokens as an object; members borrow their strings. */
static int named_tokens(const fl_tokenizer *t, fl_arena *arena, fl_jv *out, fl_err *err) {
    size_t n = fl_tokenizer_n_named(t);
    fl_jv_member *members = fl_arena_alloc(arena, (n + 1) * sizeof(*members));
    if (!members) return fl_fail(err, FL_E_NOMEM, "chat: special tokens");
    for (size_t i = 0; i < n; i++) {
        const char *value;
        members[i].key = string_value(fl_tokenizer_named(t, i, &value));
        members[i].value = string_value(value);
    }
    *out = (fl_jv){.kind = FL_JV_OBJECT, .n = (uint32_t)n, .members = members};
    return FL_OK;
}

int fl_chat_render(const fl_tokenizer *t, const fl_template *tmpl, const fl_jv *values, time_t now,
                   fl_bytes *text, fl_bytes *trusted_bits, fl_err *err) {
    fl_arena arena = {0};
    fl_jv trusted;
    int rc = named_tokens(t, &arena, &trusted, err);
    if (!rc) {
        fl_template_context c = {.values = values, .trusted = &trusted, .now = now};
        rc = fl_template_render(tmpl, &c, text, trusted_bits, err);
    }
    fl_arena_free(&arena);
    return rc;
}

int fl_chat_encode(const fl_tokenizer *t, fl_tokenizer_ctx *ctx, const fl_template *tmpl,
                   const fl_jv *values, time_t now, fl_ids *out, fl_err *err) {
    fl_bytes text = {0}, bits = {0};
    int rc = fl_chat_render(t, tmpl, values, now, &text, &bits, err);
    if (!rc) {
        fl_encode_options o = {.special = FL_SPECIAL_ALL, .trusted = (const uint8_t *)bits.data};
        rc = fl_tokenizer_encode(t, ctx, text.data, text.len, &o, out, err);
    }
    fl_bytes_free(&text);
    fl_bytes_free(&bits);
    return rc;
}
