/* Chat templates against recorded Jinja2 outputs; provenance of the text; errors, limits,
 * failing memory, mutated templates, threads. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tap.h"
#include "template_cases.h"

#if defined(__SANITIZE_ADDRESS__)
enum { MAX_ATTACK_MS = 4000 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { MAX_ATTACK_MS = 4000 };
#else
enum { MAX_ATTACK_MS = 200 };
#endif
#else
enum { MAX_ATTACK_MS = 200 };
#endif

/* ---- text -------------------------------------------------------------------------- */

static void goldens(const char *path) {
    template_cases c;
    fl_err err = {0};
    char why[512] = "";
    if (!check(!template_cases_load(&c, path, &err), "%s loads %s", path, err.msg)) return;
    for (uint32_t i = 0; i < c.cases->n; i++) {
        bool same = template_case_agrees(&c, i, why, sizeof(why));
        check(same, "case %u as Jinja2%s%s", i, same ? "" : ": ", same ? "" : why);
    }
    template_cases_free(&c);
}

/* Render with JSON values; the text is in *out, the error in *err. */
static int render(const char *source, const char *values, const char *trusted,
                  fl_template_limits limits, fl_bytes *out, fl_bytes *bits, fl_err *err) {
    fl_arena arena = {0};
    fl_jv v, t;
    fl_template *template = NULL;
    int rc = fl_template_parse(&template, source, strlen(source), err);
    if (!rc) rc = fl_jv_parse(&v, &arena, values, strlen(values), "values", err);
    if (!rc && trusted) rc = fl_jv_parse(&t, &arena, trusted, strlen(trusted), "trusted", err);
    fl_template_context c = {
        .values = &v, .trusted = trusted ? &t : NULL, .now = 1720256707, .limits = limits};
    if (!rc) rc = fl_template_render(template, &c, out, bits, err);
    fl_template_unref(template);
    fl_arena_free(&arena);
    return rc;
}

/* want: '.' for every byte that the template wrote, '#' for what came from a value. */
static const struct {
    const char *source, *text, *want;
} provenance[] = {
    {"<{{ m }}>", "<ab  cd >", ".#######."},
    {"{{ '<' + m + '>' + bos }}", "<ab  cd ><s>", ".#######...."},
    {"{{ m|trim }}|{{ m.split()[1] }}|{{ m[1:3] }}", "ab  cd|cd|b ", "######.##.##"},
    {"{{ m|upper }}{{ 'x'|upper }}", "AB  CD X", "#######."},
    {"{{ m|tojson }}", "\"ab  cd \"", ".#######."},
    {"{{ {'k': m}|tojson }}", "{\"k\": \"ab  cd \"}", ".......#######.."},
    {"{{ ['x', m] }}", "['x', 'ab  cd ']", ".......#######.."},
    {"{{ m|replace('ab', 'x') }}", "x  cd ", ".#####"},
    {"{{ 'xay'|replace('a', m) }}", "xab  cd y", ".#######."},
    {"{{ ['a', 'b']|join(m) }}", "aab  cd b", ".#######."},
    {"{{ '%s!' % m }}", "ab  cd !", "#######."},
    {"{% set q %}[{{ m }}]{% endset %}{{ q }}{{ q[1] }}", "[ab  cd ]a", ".#######.#"},
    {"{% macro f(x) %}({{ x }}){% endmacro %}{{ f(m) }}{{ f('y') }}", "(ab  cd )(y)",
     ".#######...."},
    {"{% for c in m[:2] %}{{ c }}-{% endfor %}", "a-b-", "#.#."},
    {"{% for k in o %}{{ k }}{% endfor %}{{ i }}", "key7", "###."},
    {"{{ bos }}{{ eos }}", "<s></s>", "...####"},
    {"{{ m[::-1] }}{{ m|reverse }}", " dc  ba dc  ba", "##############"},
    {"{% set ns = namespace(t='') %}{% for x in [m, 'z'] %}{% set ns.t = ns.t + x %}{% endfor %}"
     "{{ ns.t }}",
     "ab  cd z", "#######."},
    {"{{ e|tojson(ensure_ascii=true) }}", "\"\\u00e9\\n\"", ".########."},
    {"{{ m|indent(1, true) }}{{ strftime_now('%Y') }}", " ab  cd 2024", ".#######...."},
};

static void trusted_bits(void) {
    static const char values[] =
        "{\"m\":\"ab  cd \",\"o\":{\"key\":1},\"i\":7,\"e\":\"\\u00e9\\n\",\"eos\":\"</s>\"}";
    for (size_t i = 0; i < sizeof(provenance) / sizeof(provenance[0]); i++) {
        fl_bytes out = {0}, bits = {0};
        fl_err err = {0};
        char got[64] = "";
        int rc = render(provenance[i].source, values, "{\"bos\":\"<s>\",\"eos\":\"<eos>\"}",
                        (fl_template_limits){0}, &out, &bits, &err);
        for (size_t k = 0; k < out.len && k + 1 < sizeof(got); k++)
            got[k] = (uint8_t)bits.data[k / 8] >> k % 8 & 1 ? '.' : '#';
        check(!rc && !strcmp(fl_bytes_cstr(&out), provenance[i].text) &&
                  !strcmp(got, provenance[i].want),
              "who wrote %s: %s %s%s", provenance[i].source, fl_bytes_cstr(&out), got, err.msg);
        fl_bytes_free(&out);
        fl_bytes_free(&bits);
    }
}

/* ---- errors ------------------------------------------------------------------------ */

static const struct {
    const char *source;
    int code;
    const char *message;
} errors[] = {
    {"a\n{% if x %}\n", FL_E_FORMAT, "template line 2: block without elif else endif"},
    {"{{ x", FL_E_FORMAT, "template line 1: tag without '}}'"},
    {"\n\n{{ 'x }}", FL_E_FORMAT, "template line 3: string without end"},
    {"{% nosuch %}", FL_E_FORMAT, "template line 1: unknown tag 'nosuch'"},
    {"{{ 1\n|nosuch }}", FL_E_FORMAT, "template line 1: no filter named 'nosuch'"},
    {"{{ a b }}", FL_E_FORMAT, "template line 1: '}}' expected, got 'b'"},
    {"{# x", FL_E_FORMAT, "template line 1: comment without end"},
    {"{% include 'x' %}", FL_E_FORMAT,
     "template line 1: include: a chat template has no other files"},
    {"{{ 99999999999999999999 }}", FL_E_FORMAT, "template line 1: integer does not fit 64 bits"},
    {"\xff", FL_E_FORMAT, "template: not valid UTF-8"},
    {"a\n{{ raise_exception('No ' ~ 'tools!') }}", FL_E_ARG, "template line 2: No tools!"},
    {"{{ nosuch.role }}", FL_E_ARG, "template line 1: 'nosuch' is undefined"},
    {"{{ messages.x.y }}", FL_E_ARG, "template line 1: attribute 'x' is undefined"},
    {"{{ 1 + 'x' }}", FL_E_ARG, "template line 1: 'int' and 'str' do not go with +"},
    {"\n{{ nosuch|tojson }}", FL_E_ARG, "template line 2: 'Undefined' cannot be written as JSON"},
    {"{{ 9223372036854775807 + 1 }}", FL_E_LIMIT, "template line 1: integer does not fit 64 bits"},
    {"{{ range(100001) }}", FL_E_LIMIT, "template line 1: range: longer than 100000"},
    {"{{ 'x'|centre }}", FL_E_FORMAT, "template line 1: no filter named 'centre'"},
    {"{{ '{:99999}'.format(1) }}", FL_E_LIMIT, "template line 1: format: more than 10000"},
    {"{{ 'x'.center(99999999) }}", FL_E_LIMIT,
     "template line 1: padded to more than 1048576 characters"},
    {"{% for i in [1, 2]|slice(9999999) %}{% endfor %}", FL_E_LIMIT,
     "template line 1: needs more than 67108864 bytes of memory"},
};

static void error_messages(void) {
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int rc = render(errors[i].source, "{\"messages\":[]}", NULL, (fl_template_limits){0}, &out,
                        NULL, &err);
        check(rc == errors[i].code && err.code == rc && !strcmp(err.msg, errors[i].message),
              "error: %s (%d, %s)", errors[i].message, rc, err.msg);
        check(out.len == 0, "nothing is written then");
        fl_bytes_free(&out);
    }
}

/* ---- limits ------------------------------------------------------------------------ */

#define MEGA      "{% set a = 'a' * 1000000 %}"
#define FOREVER   "{% for i in range(100000) %}"
#define NAMESPACE "{% set n = namespace(s='x', l=[1], d={}) %}"

/* head, then middle so many times, then tail. */
static const struct {
    const char *head, *middle;
    int times;
    const char *tail;
} attacks[] = {
    {FOREVER FOREVER "x{% endfor %}{% endfor %}", "", 0, ""},
    {FOREVER FOREVER "{% endfor %}{% endfor %}", "", 0, ""},
    {NAMESPACE "{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", "", 0, ""},
    {NAMESPACE FOREVER "{% set n.s = n.s ~ 'abcdefgh' ~ n.s %}{% endfor %}", "", 0, ""},
    {NAMESPACE "{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}", "", 0,
     ""},
    {NAMESPACE "{% for i in range(99) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l == n.l }}", "",
     0, ""},
    {NAMESPACE "{% for i in range(999) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l|tojson }}", "", 0,
     ""},
    {"{{ 'a' * 1000000000 }}", "", 0, ""},
    {"{{ [0] * 1000000000 }}", "", 0, ""},
    {"{{ (0,) * 9223372036854775807 }}", "", 0, ""},
    {FOREVER "{% set x = [i] * 1000 %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{{ 'b' in a }}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{{ a.find('b') }}{{ a.count('b') }}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{{ a.rfind('a' * 400000 ~ 'b') }}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{{ a.rsplit('aab') }}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{{ a.strip('b' * 100000) }}{% endfor %}", "", 0, ""},
    {MEGA "{% set b = 'b' * 1000 ~ 'a' %}{{ a.strip(b)|length }}" FOREVER
          "{% set c = a.strip(b) %}{% endfor %}",
     "", 0, ""},
    {MEGA FOREVER "{{ a|length }}{{ a|upper|length }}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a[::-1] %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a|list %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a[999999] %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a == 'a' * 1000000 %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a|replace('', 'bbbb') %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a|tojson %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = [a]|string %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a|wordcount %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = a.isalpha() %}{% set y = a is lower %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = {a: i} %}{% endfor %}", "", 0, ""},
    {MEGA FOREVER "{% set x = dict(a=a)|length %}{{ a is string }}{% endfor %}", "", 0, ""},
    {"{% set a = '\\n' * 1000000 %}{{ a|indent(1000, blank=true) }}", "", 0, ""},
    {"{{ range(100000)|list|tojson(indent=1000) }}", "", 0, ""},
    {"{{ (range(100000)|list * 10)|sort }}", "", 0, ""},
    {"{{ range(100000)|map('string')|list|sort|unique|list|join('x' * 1000) }}", "", 0, ""},
    {FOREVER "{{ '%1000d%1000d%1000s' % (1, 2, 3) }}{% endfor %}", "", 0, ""},
    {FOREVER "{{ 1|round(60) }}{{ 1e300|round(9) }}{{ 1e300 }}{% endfor %}", "", 0, ""},
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "", 0, ""},
    {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "", 0, ""},
    {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}",
     "", 0, ""},
    {"{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}", "", 0, ""},
    {"{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "", 0, ""},
    {"{{ 10 ** 10 ** 10 }}", "", 0, ""},
    {"{{ 2 ** 9223372036854775807 }}", "", 0, ""},
    {"{{ range(9223372036854775807) }}", "", 0, ""},
    {"{{ range(-9223372036854775807, 9223372036854775807) }}", "", 0, ""},
    {"{{ ", "(", 100000, "1"},
    {"{{ ", "[", 100000, "1"},
    {"{{ ", "-", 100000, "1 }}"},
    {"{{ ", "not ", 100000, "1 }}"},
    {"{{ 1", "|abs", 100000, " }}"},
    {"{{ 1", ".a", 100000, " }}"},
    {"{{ 1", " ~ 1", 100000, " }}"},
    {"{{ 1", " if 1 else 1", 100000, " }}"},
    {"", "{% if 1 %}", 100000, ""},
    {"", "{% for x in [1] %}", 100000, ""},
    {"", "{% macro m() %}", 100000, ""},
    {"{% set ", "(", 100000, "x"},
    {"{{ [1]|map('map', ", "'map', ", 2000, "'abs') }}"},
    {"{{ dict(", "a=1,", 2000, ") }}"},
    {"{{ ", "'x' ", 1100000, "}}"},
};

static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void attack(size_t i) {
    fl_bytes source = {0};
    fl_err err = {0};
    int rc = FL_OK;
    double ms = MAX_ATTACK_MS;
    fl_bytes_puts(&source, attacks[i].head);
    for (int k = 0; k < attacks[i].times; k++) fl_bytes_puts(&source, attacks[i].middle);
    fl_bytes_puts(&source, attacks[i].tail);
    /* A busy machine may spoil one measurement, not three. */
    for (int k = 0; k < 3 && ms >= MAX_ATTACK_MS; k++) {
        fl_bytes out = {0};
        double start = cpu_ms();
        rc = render(fl_bytes_cstr(&source), "{}", NULL, (fl_template_limits){0}, &out, NULL, &err);
        ms = cpu_ms() - start;
        fl_bytes_free(&out);
    }
    check(rc == FL_E_LIMIT && ms < MAX_ATTACK_MS, "attack %zu ends by a limit: %s", i, err.msg);
    if (rc != FL_E_LIMIT || ms >= MAX_ATTACK_MS)
        printf("# %.60s: %d, %.0f ms\n", source.data, rc, ms);
    fl_bytes_free(&source);
}

static void limits(void) {
    static const struct {
        fl_template_limits limits;
        const char *want;
    } own[] = {{{.steps = 1000}, "more than 1000 steps"},
               {{.arena_bytes = 4096}, "needs more than 4096 bytes of memory"},
               {{.output_bytes = 100}, "text longer than 100 bytes"}};
    for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) attack(i);
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int rc = render(FOREVER "{% set x = [i, i] %}{{ i }}{% endfor %}", "{}", NULL,
                        own[i].limits, &out, NULL, &err);
        check(rc == FL_E_LIMIT && strstr(err.msg, own[i].want), "a limit of the caller: %s",
              err.msg);
        fl_bytes_free(&out);
    }
}

/* ---- memory, mutation, threads ----------------------------------------------------- */

static const char many_features[] =
    "{% macro m(a, b=2) %}[{{ a }}|{{ b }}{{ caller() if caller }}]{% endmacro %}"
    "{% set ns = namespace(t='') %}{% for x in l if x %}{% set ns.t = ns.t ~ x ~ s %}{% endfor %}"
    "{{ ns.t }}{{ d|tojson(indent=2) }}{{ d }}{{ l|sort|map('string')|join(',') }}"
    "{% set q | upper %}{{ s|replace('l', 'xyz') }}{% endset %}{{ q }}{{ m(1) }}"
    "{% call m(s) %}{{ s.split('l') }}{% endcall %}{{ '%s %5d' % (s, 3) }}{{ s * 5000 }}"
    "{{ l|unique|list|length }}{{ d|dictsort }}{{ s.title() }}{{ strftime_now('%Y') }}"
    "{{ '{:>9,.2f}{!r:{}}'.format(2.5, s, 9) }}{{ s|wordwrap(2) }}{{ [d, d, s * 40]|pprint }}"
    "{% set c = cycler(1, 2) %}{{ c.next() }}{% set j = joiner() %}{{ j() }}{{ [[2, s], [1, "
    "s]]|groupby(0) }}"
    "{{ l|batch(3)|list }}{{ l|slice(3, 0)|list }}{{ s|truncate(4, leeway=0) }}{{ d|urlencode }}"
    "{{ '<b>&amp;'|striptags }}{{ {'a': 1}|xmlattr }}{{ '<'|e + s }}{{ s.center(9).encode() }}"
    "{% block a %}{{ s }}{% endblock %}{{ self.a() }}{% autoescape true %}{{ s }}{% endautoescape "
    "%}"
    "{{ s.translate(s.maketrans('h', 'j')) }}{{ s.expandtabs() }}{{ lipsum(1) }}";
static const char many_values[] = "{\"l\":[3,1,2,0],\"s\":\"hello\",\"d\":{\"a\":[1,{\"b\":null}],"
                                  "\"c\":\"x\\n\",\"e\":1.5,\"f\":{},\"g\":1,\"h\":2,\"i\":3,"
                                  "\"j\":4,\"k\":5}}";

static bool fail_after(void *left, size_t bytes) {
    (void)bytes;
    return (*(int *)left)-- > 0;
}

/* What is not reached refuses nothing, wherever it stands. */
static void not_reached(void) {
    static const char *const sources[] = {
        "{% if false %}{{ 1|nosuch }}{% endif %}ok",
        "{% for x in [] %}{{ x|nosuch }}{% endfor %}ok",
        "{% macro m(x) %}{% if x is nosuch %}{{ x|nosuch }}{% endif %}{% endmacro %}ok",
        "{{ 'ok' if true else 1|nosuch }}",
        "{{ 'ok' or 1|nosuch }}",
        "{% if false %}{% include 'x' %}{% import 'y' as z %}{% extends 'a' %}{% endif %}ok",
    };
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        fl_bytes out = {0};
        fl_err err = {0};
        int rc = render(sources[i], "{}", NULL, (fl_template_limits){0}, &out, NULL, &err);
        check(!rc && !strcmp(fl_bytes_cstr(&out), "ok"), "%s gives ok (%s)", sources[i], err.msg);
        fl_bytes_free(&out);
    }
}

static void no_memory(void) {
    int64_t live = fl_mem_live();
    int allowed = 0, rc = FL_E_NOMEM;
    bool clean = true;
    for (; rc && allowed < 10000; allowed++) {
        fl_bytes out = {0}, bits = {0};
        fl_err err = {0};
        int left = allowed;
        fl_mem_set_hook(fail_after, &left);
        rc = render(many_features, many_values, "{\"bos\":\"<s>\"}", (fl_template_limits){0}, &out,
                    &bits, &err);
        fl_mem_set_hook(NULL, NULL);
        clean = clean && (rc == FL_OK || (rc == FL_E_NOMEM && err.msg[0]));
        fl_bytes_free(&out);
        fl_bytes_free(&bits);
        clean = clean && fl_mem_live() == live;
        if (!clean) printf("# allocation %d: %d %s\n", allowed, rc, err.msg);
        if (!clean) break;
    }
    check(clean && !rc && allowed > 30, "each of %d failing allocations is reported and undone",
          allowed - 1);
}

static uint32_t random_state = 12345;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return n ? random_state % n : 0;
}

/* One small change: cut, double, overwrite, or bring in a piece of another template. */
static void mutate(fl_bytes *b, const fl_jv *other) {
    static const char bytes[] = "{}%#-+|.,'\"()[]: \n\\abx019_=<>!~*/\xc3\xa9";
    fl_bytes out = {0};
    uint32_t n = (uint32_t)b->len, at = random_below(n), k = random_below(12);
    if (k > n - at) k = n - at;
    fl_bytes_put(&out, b->data, at);
    switch (random_below(4)) {
    case 0:
        break;
    case 1:
        fl_bytes_put(&out, b->data + at, k);
        fl_bytes_put(&out, b->data + at, k);
        break;
    case 2:
        fl_bytes_putc(&out, bytes[random_below(sizeof(bytes) - 1)]);
        break;
    default: {
        uint32_t from = random_below((uint32_t)other->string.len);
        uint32_t rest = (uint32_t)other->string.len - from;
        fl_bytes_put(&out, other->string.data + from, random_below(rest < 30 ? rest : 30));
    }
    }
    fl_bytes_put(&out, b->data + at + k, n - at - k);
    fl_bytes_free(b);
    *b = out;
}

static void mutants(int count) {
    template_cases c;
    int parsed = 0, rendered = 0, odd = 0;
    if (template_cases_load(&c, "spec/golden/template/features.json", NULL)) return;
    const fl_jv *sources = fl_jv_get(&c.root, "templates");
    int64_t live = fl_mem_live();
    for (int i = 0; i < count; i++) {
        const fl_jv *source = &sources->items[random_below(sources->n)];
        fl_bytes text = {0}, out = {0}, bits = {0};
        fl_template *t = NULL;
        fl_err err = {0};
        fl_bytes_put(&text, source->string.data, source->string.len);
        for (uint32_t k = random_below(4) + 1; k && text.len; k--)
            mutate(&text, &sources->items[random_below(sources->n)]);
        int rc = fl_template_parse(&t, text.data ? text.data : "", text.len, &err);
        parsed += !rc;
        fl_template_context context = {.values = fl_jv_get(&c.root, "ctx"),
                                       .limits = {.steps = 20000, .output_bytes = 1 << 16}};
        if (!rc) rc = fl_template_render(t, &context, &out, &bits, &err);
        rendered += !rc;
        odd += rc ? !err.msg[0] : bits.len != (out.len + 7) / 8;
        fl_template_unref(t);
        fl_bytes_free(&text);
        fl_bytes_free(&out);
        fl_bytes_free(&bits);
    }
    check(!odd && fl_mem_live() == live && parsed > count / 10 && rendered > count / 20,
          "%d mutants: %d parse, %d render, the others say why, nothing leaks", count, parsed,
          rendered);
    template_cases_free(&c);
}

typedef struct shared {
    const fl_template *t;
    const fl_jv *values;
    const char *want;
    bool same;
} shared;

static void *render_often(void *arg) {
    shared *s = arg;
    s->same = true;
    for (int i = 0; i < 50; i++) {
        fl_template_context c = {.values = s->values, .now = 1720256707};
        fl_bytes out = {0};
        int rc = fl_template_render(s->t, &c, &out, NULL, NULL);
        s->same = s->same && !rc && !strcmp(fl_bytes_cstr(&out), s->want);
        fl_bytes_free(&out);
    }
    return NULL;
}

static void threads(void) {
    fl_arena arena = {0};
    fl_jv values;
    fl_template *t = NULL;
    fl_bytes want = {0};
    pthread_t ids[4];
    shared each[4];
    bool same = true;
    render(many_features, many_values, NULL, (fl_template_limits){0}, &want, NULL, NULL);
    if (fl_jv_parse(&values, &arena, many_values, strlen(many_values), "values", NULL) ||
        fl_template_parse(&t, many_features, strlen(many_features), NULL))
        same = false;
    for (int i = 0; same && i < 4; i++) {
        each[i] = (shared){t, &values, fl_bytes_cstr(&want), false};
        pthread_create(&ids[i], NULL, render_often, &each[i]);
    }
    for (int i = 0; i < 4 && t; i++) {
        pthread_join(ids[i], NULL);
        same = same && each[i].same;
    }
    check(same, "four threads render one template alike");
    fl_template_unref(t);
    fl_bytes_free(&want);
    fl_arena_free(&arena);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    goldens("spec/golden/template/features.json");
    goldens("spec/golden/template/chats.json");
    trusted_bits();
    error_messages();
    limits();
    not_reached();
    no_memory();
    mutants(3000);
    threads();
    return tap_done();
}
