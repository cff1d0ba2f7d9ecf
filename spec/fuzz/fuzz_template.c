/* A template from the input, rendered with fixed values. */
#include "fuzz.h"
#include "text/template.h"

static const char VALUES[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a <b> "
    "\\u65e5\"},{\"role\":\"assistant\",\"content\":"
    "null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1.5}}}]}],\"tools\":[]"
    ","
    "\"s\":\"Hello "
    "World\",\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":[1,2]},\"i\":7,\"f\":2.5,\"n\":null,\"t\":true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fl_arena arena = {0};
    fl_jv values;
    fl_bytes out = {0}, trusted = {0};
    fl_template *t;
    fl_err err;
    MUST(!fl_jv_parse(&values, &arena, VALUES, sizeof(VALUES) - 1, "values", &err));
    if (!fl_template_parse(&t, (const char *)data, n, &err)) {
        fl_template_context context = {
            .values = &values,
            .now = 1720256707,
            .limits = {.steps = 100000, .arena_bytes = 8 << 20, .output_bytes = 1 << 20}};
        if (!fl_template_render(t, &context, &out, &trusted, &err))
            MUST(out.len <= 1 << 20 && trusted.len == (out.len + 7) / 8);
        fl_template_unref(t);
    }
    fl_bytes_free(&out);
    fl_bytes_free(&trusted);
    fl_arena_free(&arena);
    return 0;
}
