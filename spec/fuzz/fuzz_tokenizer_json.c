/* tokenizer.json from the input; one that loads encodes and decodes a text. */
#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "text/tokenizer.h"

static const char TEXT[] = "Hello  world's 1234 <s><|im_end|>\n\t\xe6\x97\xa5\xcc\x81 \xff\xf0\x9f";

static void use(const fl_tokenizer *t) {
    fl_encode_options o = {.add_special_tokens = true, .special = FL_SPECIAL_ALL};
    fl_tokenizer_ctx *ctx;
    fl_bytes text = {0};
    fl_ids ids = {0};
    fl_err err;
    MUST(!fl_tokenizer_ctx_new(&ctx, t, &err));
    if (!fl_tokenizer_encode(t, ctx, TEXT, sizeof(TEXT) - 1, &o, &ids, &err)) {
        for (size_t i = 0; i < ids.len; i++)
            MUST(ids.data[i] >= 0 && ids.data[i] < fl_tokenizer_size(t));
        MUST(!fl_tokenizer_decode(t, ids.data, ids.len, false, &text, &err));
    }
    fl_bytes_free(&text);
    fl_ids_free(&ids);
    fl_tokenizer_ctx_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int fd = -1;
    char path[40];
    fl_tokenizer *t;
    fl_err err;
    if (fd < 0) fd = memfd_create("tokenizer.json", 0);
    MUST(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, data, n, 0) == (ssize_t)n);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (!fl_tokenizer_load(&t, path, &err)) {
        use(t);
        fl_tokenizer_unref(t);
    } else {
        MUST(err.msg[0]);
    }
    return 0;
}
