/* Loading tokenizer.json and the files beside it: what is refused and why, memory failures,
 * special tokens, chat templates. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "util/mem.h"

#include "fixture.h"
#include "tap.h"

static fixture files;
static fl_err err;

/* A valid file of five tokens; cases replace the text of one member. */
static const char *const members[][2] = {
    {"\"added_tokens\":", "[{\"id\":5,\"content\":\"<s>\",\"special\":true,\"normalized\":false,"
                          "\"lstrip\":false,\"rstrip\":false,\"single_word\":false}]"},
    {"\"normalizer\":", "null"},
    {"\"pre_tokenizer\":",
     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"},
    {"\"post_processor\":", "null"},
    {"\"decoder\":", "{\"type\":\"ByteLevel\"}"},
    {"\"vocab\":", "{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3,\"\xc4\xa0"
                   "ab\":4}"},
    {"\"merges\":", "[\"a b\",[\"\xc4\xa0\",\"ab\"]]"},
    {"\"options\":", "\"type\":\"BPE\""},
};
enum { N_MEMBERS = sizeof(members) / sizeof(members[0]) };

#define SPLIT(rest) "{\"type\":\"Split\"," rest "}"
#define TEMPLATE(single, ids)                                                                      \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{\"<s>\":"        \
    "{\"ids\":[" ids "]}}}"
#define TEXT    "{\"Sequence\":{\"id\":\"A\"}}"
#define TOKEN   "{\"SpecialToken\":{\"id\":\"<s>\"}}"
#define OTHER   "{\"SpecialToken\":{\"id\":\"<x>\"}}"
#define NEST(x) "{\"type\":\"Sequence\",\"pretokenizers\":[" x "]}"

static const struct {
    const char *key, *text; /* the member and its replacement; NULL: the whole file */
    int code;
    const char *message; /* part of it */
} cases[] = {
    {"\"normalizer\":", "null", FL_OK, ""},
    {NULL, "", FL_E_FORMAT, "line 1"},
    {NULL, "[]", FL_E_FORMAT, "no model"},
    {NULL, "{\"model\":[]}", FL_E_FORMAT, "no model"},
    {NULL, "{\"model\":{\"type\":\"Unigram\"}}", FL_E_UNSUPPORTED, "Unigram"},
    {NULL, "{\"model\":{\"type\":\"BPE\"}}", FL_E_FORMAT, "model.vocab"},
    {NULL, "{\"model\":{\"vocab\":{}}}", FL_E_FORMAT, "model.merges"},
    {NULL, "\xff", FL_E_FORMAT, "UTF-8"},
    {"\"options\":", "\"type\":\"WordPiece\"", FL_E_UNSUPPORTED, "WordPiece"},
    {"\"options\":", "\"type\":1", FL_E_FORMAT, "type is not a string"},
    {"\"options\":", "\"type\":\"BPE\",\"dropout\":0.1", FL_E_UNSUPPORTED, "dropout"},
    {"\"options\":", "\"type\":\"BPE\",\"dropout\":0.0", FL_OK, ""},
    {"\"options\":", "\"end_of_word_suffix\":\"</w>\"", FL_E_UNSUPPORTED, "end_of_word_suffix"},
    {"\"options\":", "\"ignore_merges\":1", FL_E_FORMAT, "ignore_merges is not true or false"},
    {"\"options\":", "\"unk_token\":\"?\"", FL_E_FORMAT, "unk_token \"?\""},
    {"\"options\":", "\"unk_token\":\"a\"", FL_OK, ""},
    {"\"vocab\":", "[]", FL_E_FORMAT, "model.vocab"},
    {"\"vocab\":", "{\"a\":-1}", FL_E_FORMAT, "\"a\" has no id"},
    {"\"vocab\":", "{\"a\":0.5}", FL_E_FORMAT, "\"a\" has no id"},
    {"\"vocab\":", "{\"a\":4194304}", FL_E_LIMIT, "4194304, at most 4194303"},
    {"\"vocab\":", "{\"a\":0,\"b\":0}", FL_E_FORMAT, "id 0 is given to two tokens"},
    {"\"merges\":", "{}", FL_E_FORMAT, "model.merges"},
    {"\"merges\":", "[\"a b\",\"ab\"]", FL_E_FORMAT, "merge 1 is not a pair"},
    {"\"merges\":", "[[\"a\"]]", FL_E_FORMAT, "merge 0 is not a pair"},
    {"\"merges\":", "[[\"a\",1]]", FL_E_FORMAT, "merge 0 is not a pair"},
    {"\"merges\":", "[\"a c\"]", FL_E_FORMAT, "merge 0: \"a\" and \"c\""},
    {"\"merges\":", "[\"b a\"]", FL_E_FORMAT, "merge 0: \"b\" and \"a\""},
    {"\"added_tokens\":", "{}", FL_E_FORMAT, "added_tokens is not a list"},
    {"\"added_tokens\":", "null", FL_OK, ""},
    {"\"added_tokens\":", "[1]", FL_E_FORMAT, "without content"},
    {"\"added_tokens\":", "[{\"id\":5}]", FL_E_FORMAT, "without content"},
    {"\"added_tokens\":", "[{\"content\":\"x\"}]", FL_E_FORMAT, "\"x\" has no id"},
    {"\"added_tokens\":", "[{\"content\":\"x\",\"id\":9}]", FL_E_FORMAT,
     "id 9, the next free one is 5"},
    {"\"added_tokens\":", "[{\"content\":\"ab\",\"id\":2}]", FL_OK, ""},
    {"\"added_tokens\":", "[{\"content\":\"x\",\"id\":5,\"special\":0}]", FL_E_FORMAT,
     "special is not"},
    {"\"normalizer\":", "{\"type\":\"NFC\"}", FL_E_UNSUPPORTED, "normalizer: NFC"},
    {"\"normalizer\":", "{}", FL_E_FORMAT, "normalizer: object with a type"},
    {"\"normalizer\":", "{\"type\":\"Prepend\",\"prepend\":\"_\"}", FL_OK, ""},
    {"\"normalizer\":", "{\"type\":\"Prepend\",\"prepend\":1}", FL_E_FORMAT, "prepend"},
    {"\"normalizer\":", "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"b\"}",
     FL_OK, ""},
    {"\"normalizer\":", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"b\"}",
     FL_E_FORMAT, "normalizer"},
    {"\"pre_tokenizer\":", "{\"type\":\"Whitespace\"}", FL_E_UNSUPPORTED,
     "pre_tokenizer: Whitespace"},
    {"\"pre_tokenizer\":", "{\"type\":\"Sequence\"}", FL_E_FORMAT, "\"pretokenizers\""},
    {"\"pre_tokenizer\":", NEST("{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}"), FL_E_UNSUPPORTED,
     "after ByteLevel"},
    {"\"pre_tokenizer\":", NEST(NEST(NEST(NEST(NEST(NEST(NEST(NEST(NEST(""))))))))), FL_E_LIMIT,
     "nested deeper"},
    {"\"pre_tokenizer\":",
     NEST(SPLIT(
         "\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"") ",{\"type\":\"ByteLevel\"}"),
     FL_OK, ""},
    {"\"pre_tokenizer\":",
     NEST(SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"MergedWithNext\"") ",{\"type\":"
                                                                                 "\"ByteLevel\"}"),
     FL_OK, ""},
    {"\"pre_tokenizer\":", SPLIT("\"pattern\":{},\"behavior\":\"Removed\""), FL_E_FORMAT,
     "pattern"},
    {"\"pre_tokenizer\":", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Merged\""),
     FL_E_UNSUPPORTED, "behavior"},
    {"\"pre_tokenizer\":", SPLIT("\"pattern\":{\"Regex\":\"a+?\"},\"behavior\":\"Isolated\""),
     FL_E_UNSUPPORTED, "pre_tokenizer: regular expression, byte 2: lazy"},
    {"\"pre_tokenizer\":", "{\"type\":\"Metaspace\",\"replacement\":\"_\"}", FL_E_UNSUPPORTED,
     "mark"},
    {"\"decoder\":", "null", FL_E_UNSUPPORTED, "no decoder"},
    {"\"decoder\":", "{\"type\":\"Fuse\"}", FL_E_UNSUPPORTED, "decoder: Fuse"},
    {"\"post_processor\":", "{\"type\":\"BertProcessing\"}", FL_E_UNSUPPORTED, "BertProcessing"},
    {"\"post_processor\":", TEMPLATE(TOKEN "," TEXT, "5"), FL_OK, ""},
    {"\"post_processor\":", TEMPLATE(TOKEN "," TEXT, "6"), FL_E_FORMAT, "outside the vocabulary"},
    {"\"post_processor\":", TEMPLATE(TOKEN "," TEXT, "0,0,0,0,0,0,0,0,0"), FL_E_FORMAT, "too many"},
    {"\"post_processor\":", TEMPLATE(OTHER "," TEXT, "5"), FL_E_FORMAT, "without ids"},
    {"\"post_processor\":", TEMPLATE(TOKEN, "5"), FL_E_UNSUPPORTED, "hold the text once"},
    {"\"post_processor\":", TEMPLATE("1," TEXT, "5"), FL_E_FORMAT, "piece that is no token"},
};

static void compose(fl_bytes *out, const char *key, const char *text) {
    out->len = 0;
    for (int i = 0; i < N_MEMBERS; i++) {
        const char *value = key && !strcmp(key, members[i][0]) ? text : members[i][1];
        bool in_model = i >= 5, is_options = i == N_MEMBERS - 1;
        fl_bytes_puts(out, i == 0 ? "{" : i == 5 ? ",\"model\":{" : ",");
        if (!is_options) fl_bytes_puts(out, members[i][0]);
        fl_bytes_puts(out, value);
        if (in_model && is_options) fl_bytes_puts(out, "}}");
    }
}

static void test_refusals(void) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_tokenizer *t = NULL;
        fl_bytes text = {0};
        int64_t live = fl_mem_live();
        if (cases[i].key) {
            compose(&text, cases[i].key, cases[i].text);
        } else {
            fl_bytes_puts(&text, cases[i].text);
        }
        fixture_write(&files, "tokenizer.json", text.data ? text.data : "", text.len);
        fl_bytes_free(&text);
        err.msg[0] = '\0';
        int rc = fl_tokenizer_load(&t, files.dir, &err);
        fl_tokenizer_unref(t);
        bool ok = rc == cases[i].code && strstr(err.msg, cases[i].message) &&
                  (!rc || strstr(err.msg, "tokenizer.json")) && fl_mem_live() == live;
        if (!check(ok, "%s%.60s", cases[i].key ? cases[i].key : "", cases[i].text))
            printf("# %s: %s\n", fl_code_name(rc), err.msg);
    }
    fixture_remove(&files, "tokenizer.json");
    fl_tokenizer *t;
    check(fl_tokenizer_load(&t, files.dir, &err) == FL_E_IO, "no tokenizer.json");
}

static const char config[] =
    "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"ab\","
    "\"model_max_length\":1000000000000000019884624838656,\"additional_special_tokens\":[],"
    "\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"tool_use\","
    "\"template\":\"T\"}]}";

static bool template_is(const fl_tokenizer *t, const char *name, const char *want) {
    const char *got = fl_tokenizer_chat_template(t, name);
    return want ? got && !strcmp(got, want) : !got;
}

static fl_tokenizer *load(void) {
    fl_tokenizer *t = NULL;
    check(!fl_tokenizer_load(&t, files.dir, &err), "loads");
    return t;
}

static int encode_ab(fl_tokenizer *t, fl_ids *ids) {
    fl_tokenizer_ctx *c = NULL;
    fl_encode_options o = {.add_special_tokens = true, .special = FL_SPECIAL_ALL};
    int rc = fl_tokenizer_ctx_new(&c, t, &err);
    if (!rc) rc = fl_tokenizer_encode(t, c, "ab ab\xff<s>", 9, &o, ids, &err);
    fl_tokenizer_ctx_free(c);
    return rc;
}

static void test_config(void) {
    static const int32_t want[] = {5, 0, 1, 3, 0, 1, 5};
    const char *value;
    fl_ids ids = {0};
    fixture_text(&files, "tokenizer_config.json", config);
    fixture_text(&files, "special_tokens_map.json",
                 "{\"eos_token\":\"b\",\"pad_token\":{\"content\":\"a\"}}");
    fl_tokenizer *t = load();
    check(fl_tokenizer_bos(t) == 5 && fl_tokenizer_eos(t) == 1 && fl_tokenizer_pad(t) == 0,
          "named tokens: the map before the config");
    check(fl_tokenizer_n_named(t) == 3 && !strcmp(fl_tokenizer_named(t, 1, &value), "eos_token") &&
              !strcmp(value, "b"),
          "named tokens in order");
    check(template_is(t, NULL, "D") && template_is(t, "tool_use", "T") && template_is(t, "x", NULL),
          "a list of templates");
    check(!encode_ab(t, &ids) && ids.len == 7 && !memcmp(ids.data, want, sizeof(want)),
          "add_bos_token without a post_processor or class, pieces that have names");
    fl_ids_free(&ids);
    fl_tokenizer_unref(t);

    fixture_text(&files, "chat_template.jinja", "J");
    t = load();
    check(template_is(t, NULL, "J") && template_is(t, "tool_use", "T"), "chat_template.jinja wins");
    fl_tokenizer_unref(t);
    fixture_text(&files, "tokenizer_config.json", "{\"chat_template\":1}");
    check(fl_tokenizer_load(&t, files.dir, &err) == FL_E_FORMAT && strstr(err.msg, "chat_template"),
          "a chat_template that is a number");
    fixture_text(&files, "tokenizer_config.json", config);
}

static int load_and_encode(void *ctx) {
    fl_tokenizer *t = NULL;
    fl_ids ids = {0};
    fl_bytes text = {0};
    (void)ctx;
    int rc = fl_tokenizer_load(&t, files.dir, &err);
    if (!rc) rc = encode_ab(t, &ids);
    if (!rc) rc = fl_tokenizer_decode(t, ids.data, ids.len, false, &text, &err);
    fl_bytes_free(&text);
    fl_ids_free(&ids);
    fl_tokenizer_unref(t);
    return rc;
}

/* Forms that take memory of their own on the way. */
static const char *const sweep_cases[][2] = {
    {"\"normalizer\":", "null"},
    {"\"pre_tokenizer\":", "{\"type\":\"ByteLevel\"}"},
    {"\"pre_tokenizer\":", NEST(SPLIT("\"pattern\":{\"Regex\":\"a|(?:b)|[^c]\"},\"behavior\":"
                                      "\"Isolated\"") ",{\"type\":\"ByteLevel\"}")},
};

static void test_memory(void) {
    fl_bytes text = {0};
    for (int i = 0; i < 3; i++) {
        compose(&text, sweep_cases[i][0], sweep_cases[i][1]);
        fixture_write(&files, "tokenizer.json", text.data, text.len);
        int n = fixture_sweep(load_and_encode, NULL);
        check(n > 20, "each of %d allocations may fail: %s", n, sweep_cases[i][1]);
    }
    fl_bytes_free(&text);
    fixture_text(
        &files, "tokenizer_config.json",
        "{\"added_tokens_decoder\":{\"5\":{\"content\":\"<s>\"},\"6\":{\"content\":\"<e>\"}},"
        "\"tokenizer_class\":\"GPT2Tokenizer\",\"extra_special_tokens\":[\"x1\",\"x2\",\"x3\","
        "\"x4\",\"x5\",\"x6\",\"x7\",\"x8\",\"x9\",\"y0\",\"y1\",\"y2\",\"y3\",\"y4\","
        "\"y5\",\"y6\",\"y7\",\"y8\",\"y9\",\"z0\",\"z1\",\"z2\",\"z3\",\"z4\"]}");
    check(fixture_sweep(load_and_encode, NULL) > 20, "each allocation may fail: many added tokens");
    fixture_text(&files, "tokenizer_config.json", config);
    fixture_text(&files, "tokenizer.json",
                 "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"normalized\":true}],"
                 "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
                 "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"},"
                 "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"},"
                 "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}");
    int n = fixture_sweep(load_and_encode, NULL);
    check(n > 20, "each of %d allocations may fail: a SentencePiece form", n);
}

/* ---- damaged files ---- */

static const char *const scraps[] = {"null",
                                     "[]",
                                     "{}",
                                     "\"\"",
                                     "-1",
                                     "0",
                                     "5",
                                     "1e9",
                                     "true",
                                     "\"a\"",
                                     ",",
                                     ":",
                                     "{\"type\":\"Sequence\"}",
                                     "\"Regex\"",
                                     "\\\\p{L}+",
                                     "(?i:a|b)?",
                                     "\"normalized\":true,",
                                     "\"lstrip\":true,",
                                     "\"single_word\":true,",
                                     "\"unk_token\":\"a\",",
                                     "\"byte_fallback\":true,",
                                     "\\u0000"};
enum { N_SCRAPS = sizeof(scraps) / sizeof(scraps[0]) };

static uint32_t below(uint64_t *state, size_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

/* A random edit: bytes dropped, repeated, changed, or a scrap put in. */
static void damage(fl_bytes *b, uint64_t *state) {
    size_t at = below(state, b->len), n = 1 + below(state, 20);
    if (n > b->len - at) n = b->len - at;
    const char *put = scraps[below(state, N_SCRAPS)];
    char part[32];
    uint32_t how = below(state, 4);
    fl_bytes out = {0};
    memcpy(part, b->data + at, n);
    fl_bytes_put(&out, b->data, at);
    if (how == 0) part[0] = (char)below(state, 256);
    if (how != 1) fl_bytes_put(&out, part, n);
    if (how == 2) fl_bytes_put(&out, part, n);
    if (how == 3) fl_bytes_puts(&out, put);
    fl_bytes_put(&out, b->data + at + n, b->len - at - n);
    fl_bytes_free(b);
    *b = out;
}

/* Work is bounded: an encoding ends when there are too many tokens, or nobody waits for them. */
static void test_bounds(void) {
    enum { WORDS = 1000 };
    char text[4 * WORDS];
    fl_tokenizer *t = load();
    fl_tokenizer_ctx *c = NULL;
    fl_ids ids = {0};
    atomic_bool stop = false;
    bool too_many = false;
    for (size_t i = 0; i < sizeof(text); i++) text[i] = " ab b"[i % 4 + 1];
    fl_encode_options o = {.max_ids = 10, .too_many = &too_many, .stop = &stop};
    check(!fl_tokenizer_ctx_new(&c, t, &err), "a context");
    int rc = fl_tokenizer_encode(t, c, text, sizeof(text), &o, &ids, &err);
    check(rc == FL_E_LIMIT && too_many && !ids.len, "too many tokens: %s", err.msg);
    o.max_ids = sizeof(text);
    rc = fl_tokenizer_encode(t, c, text, sizeof(text), &o, &ids, &err);
    check(!rc && ids.len > 10, "as many as are allowed: %zu", ids.len);
    ids.len = 0;
    atomic_store(&stop, true);
    rc = fl_tokenizer_encode(t, c, text, sizeof(text), &o, &ids, &err);
    check(rc == FL_E_CANCELLED && !ids.len, "nobody waits: %s", err.msg);
    fl_ids_free(&ids);
    fl_tokenizer_ctx_free(c);
    fl_tokenizer_unref(t);
}

static void test_damage(long rounds) {
    int64_t live = fl_mem_live();
    long loaded = 0, strange = 0;
    fixture_remove(&files, "tokenizer_config.json");
    for (long i = 0; i < rounds; i++) {
        fl_bytes text = {0};
        uint64_t state = (uint64_t)i;
        size_t k = below(&state, sizeof(cases) / sizeof(cases[0]));
        compose(&text, cases[k].key, cases[k].text);
        for (uint32_t edits = 1 + below(&state, 3); edits; edits--) damage(&text, &state);
        fixture_write(&files, "tokenizer.json", text.data, text.len);
        fl_bytes_free(&text);
        int rc = load_and_encode(NULL);
        loaded += !rc;
        strange += rc && rc != FL_E_FORMAT && rc != FL_E_UNSUPPORTED && rc != FL_E_LIMIT;
    }
    check(!strange && loaded && loaded < rounds && fl_mem_live() == live,
          "%ld damaged files, %ld of them good enough", rounds, loaded);
}

int main(int argc, char **argv) {
    fl_bytes text = {0};
    fixture_new(&files);
    test_refusals();
    compose(&text, NULL, NULL);
    fixture_write(&files, "tokenizer.json", text.data, text.len);
    fl_bytes_free(&text);
    test_config();
    test_bounds();
    test_memory();
    test_damage(argc > 1 ? atol(argv[1]) : 2000); /* more: test_tokenizer_load N */
    fixture_free(&files);
    return tap_done();
}
