/* Values from the input (JSON) for a fixed template that looks at all of them. */
#include "fuzz.h"
#include "text/chat_messages.h"
#include "text/template.h"

static const char SOURCE[] =
    "{%- macro show(v, depth) %}"
    "{%- if depth > 3 or v is undefined %}.{% elif v is string %}{{ v|trim }}{{ v.split(' "
    "')|join('+') }}"
    "{{ v|title }}{{ v|replace('a', 'b') }}{{ v[1:] }}{{ v|indent(1) }}"
    "{%- elif v is mapping %}{% for k, x in v.items() %}{{ k }}={{ show(x, depth + 1) }}{% endfor "
    "%}{{ v|dictsort|length }}"
    "{%- elif v is iterable %}{% for x in v %}{{ loop.index }}{{ show(x, depth + 1) }}{% endfor "
    "%}{{ v[::-1] }}"
    "{%- elif v is number %}{{ v * 2 }}{{ v|round(1) }}{{ v // 3 }}{{ v|int }}"
    "{%- else %}{{ v }}{% endif %}{% endmacro -%}"
    "{%- for m in messages %}<|{{ m.role }}|>{{ show(m.content, 0) }}{{ m['content']|tojson }}"
    "{%- if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.arguments|tojson(indent=2) "
    "}}{% endfor %}{% endif %}"
    "{% endfor %}{{ tools|tojson(ensure_ascii=true) }}{{ show(tools, 0) }}{{ x }}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fl_arena arena = {0};
    fl_jv values;
    fl_bytes out = {0}, trusted = {0};
    fl_template *t;
    fl_err err;
    MUST(!fl_template_parse(&t, SOURCE, sizeof(SOURCE) - 1, &err));
    if (!fl_jv_parse(&values, &arena, (const char *)data, n, "input", &err) &&
        values.kind == FL_JV_OBJECT) {
        fl_template_context context = {
            .values = &values,
            .now = 1720256707,
            .limits = {.steps = 100000, .arena_bytes = 8 << 20, .output_bytes = 1 << 20}};
        if (!fl_template_render(t, &context, &out, &trusted, &err))
            MUST(out.len <= 1 << 20 && trusted.len == (out.len + 7) / 8);
    }
    fl_template_unref(t);
    fl_bytes_free(&out);
    fl_bytes_free(&trusted);
    fl_arena_free(&arena);
    return 0;
}
