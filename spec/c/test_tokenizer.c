/* Ids and text against the reference tokenizer (spec/golden/tokenizer, made by
 * spec/support/gen_tokenizer_goldens.py), streams, trusted bits, long words. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/detok.h"
#include "text/json_value.h"
#include "util/file.h"

#include "fixture.h"
#include "tap.h"

#define GOLDEN "spec/golden/tokenizer/"

enum { MAX_ATOMS_A_DOC = 40, MAX_LIST = 30 };

static fixture files;
static fl_err err;

/* ---- the corpus of tokenizer_corpus.py ---- */

static uint32_t lcg_below(uint64_t *state, uint32_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % n);
}

static void random_doc(fl_bytes *out, const fl_jv *atoms, uint64_t seed) {
    out->len = 0;
    for (uint32_t n = 1 + lcg_below(&seed, MAX_ATOMS_A_DOC); n; n--) {
        const fl_jv *atom = &atoms->items[lcg_below(&seed, atoms->n)];
        fl_bytes_put(out, atom->string.data, atom->string.len);
    }
}

static void random_ids(fl_ids *out, int32_t n_vocab, uint64_t seed) {
    out->len = 0;
    for (uint32_t n = 1 + lcg_below(&seed, MAX_LIST); n; n--)
        fl_ids_push(out, (int32_t)lcg_below(&seed, (uint32_t)n_vocab));
}

static uint32_t fnv(const void *data, size_t n) {
    uint32_t h = 0x811c9dc5u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 0x01000193u;
    return h;
}

/* ---- a tokenizer from a golden variant ---- */

static void read_file(char **text, size_t *n, const char *path) {
    if (fl_file_read(text, n, path, 64 << 20, &err)) {
        printf("Bail out! %s\n", err.msg);
        exit(1);
    }
}

static fl_tokenizer *load_text(const char *text, size_t n) {
    fl_tokenizer *t = NULL;
    fixture_write(&files, "tokenizer.json", text, n);
    if (fl_tokenizer_load(&t, fixture_path(&files, "tokenizer.json"), &err))
        printf("# %s\n", err.msg);
    return t;
}

/* head and model options of the variant, then the vocabulary of its base. */
static fl_tokenizer *load_variant(const fl_jv *variant) {
    char path[128];
    size_t n;
    snprintf(path, sizeof(path), GOLDEN "%s/tokenizer.json",
             fl_jv_get(variant, "base")->string.data);
    char *base = NULL;
    read_file(&base, &n, path);
    fl_bytes text = {0};
    fl_bytes_puts(&text, fl_jv_get(variant, "head")->string.data);
    fl_bytes_puts(&text, ",\"model\":");
    fl_bytes_puts(&text, fl_jv_get(variant, "model")->string.data);
    fl_bytes_puts(&text, ",");
    fl_bytes_puts(&text, strstr(base, "\"vocab\":"));
    fl_tokenizer *t = load_text(text.data, text.len);
    fl_bytes_free(&text);
    fl_free(base);
    return t;
}

typedef struct bench { /* a tokenizer and what its tests need again and again */
    fl_tokenizer *t;
    fl_tokenizer_ctx *ctx;
    fl_bytes doc, text, stream;
    fl_ids ids;
} bench;

static bool bench_new(bench *b, fl_tokenizer *t) {
    *b = (bench){.t = t};
    return t && !fl_tokenizer_ctx_new(&b->ctx, t, &err);
}

static void bench_free(bench *b) {
    fl_tokenizer_ctx_free(b->ctx);
    fl_tokenizer_unref(b->t);
    fl_bytes_free(&b->doc);
    fl_bytes_free(&b->text);
    fl_bytes_free(&b->stream);
    fl_ids_free(&b->ids);
}

static int encode(bench *b, const char *s, size_t n, const fl_encode_options *o) {
    b->ids.len = 0;
    return fl_tokenizer_encode(b->t, b->ctx, s, n, o, &b->ids, &err);
}

/* Decode b->ids whole and as a stream; false when they differ. */
static bool decode(bench *b, bool skip) {
    fl_detok d;
    b->text.len = b->stream.len = 0;
    if (fl_tokenizer_decode(b->t, b->ids.data, b->ids.len, skip, &b->text, &err)) return false;
    fl_detok_init(&d, b->t, skip);
    for (size_t i = 0; i < b->ids.len; i++) {
        if (fl_detok_push(&d, b->ids.data[i], &b->stream, &err) || d.n_held > 3) return false;
    }
    fl_detok_finish(&d, &b->stream);
    return b->text.len == b->stream.len &&
           (!b->text.len || !memcmp(b->text.data, b->stream.data, b->text.len));
}

/* How many documents have other ids than `hashes`. */
static uint32_t wrong_ids(bench *b, const fl_jv *atoms, const fl_jv *hashes,
                          fl_special_policy special) {
    fl_encode_options o = {.add_special_tokens = true, .special = special};
    uint32_t bad = 0;
    for (uint32_t i = 0; i < hashes->n; i++) {
        random_doc(&b->doc, atoms, i);
        int rc = encode(b, b->doc.data, b->doc.len, &o);
        bad += rc || fnv(b->ids.data, b->ids.len * sizeof(int32_t)) != hashes->items[i].integer;
    }
    return bad;
}

/* How many lists of ids decode to other text, and whether streams do. */
static uint32_t wrong_text(bench *b, const fl_jv *atoms, const fl_jv *hashes, bool of_docs,
                           bool skip) {
    fl_encode_options o = {.add_special_tokens = true};
    uint32_t bad = 0;
    for (uint32_t i = 0; i < hashes->n; i++) {
        random_doc(&b->doc, atoms, i);
        if (!of_docs) {
            random_ids(&b->ids, fl_tokenizer_size(b->t), i);
        } else if (encode(b, b->doc.data, b->doc.len, &o)) {
            bad++;
        }
        bad += !decode(b, skip) || fnv(b->text.data, b->text.len) != hashes->items[i].integer;
    }
    return bad;
}

/* Where FL_SPECIAL_REJECT sees the token `name`; NULL: it sees none. */
static void check_reject(bench *b, const char *text, const char *name, size_t at) {
    fl_encode_options o = {.add_special_tokens = true, .special = FL_SPECIAL_REJECT};
    char want[100];
    int rc = encode(b, text, strlen(text), &o);
    snprintf(want, sizeof(want), "the text has the special token %s at byte %zu", name, at);
    check(name ? rc == FL_E_ARG && !strcmp(err.msg, want) && !b->ids.len : !rc,
          "reject: %s in '%s'", name ? want : "nothing", text);
}

static void test_reject(bench *b) {
    check_reject(b, "", NULL, 0);
    check_reject(b, "<|im_end| > and <|im_end", NULL, 0);
    check_reject(b, "<|im_end|>", "<|im_end|>", 0);
    check_reject(b, "one <|im_start|> two <|im_end|>", "<|im_start|>", 4);
    check_reject(b, "\xff\xf0\x9f \xc3\xa9<|im_end|>", "<|im_end|>", 6);
}

/* Here the tokens are looked for in normalised text, with the blank before them. */
static void test_reject_normalized(bench *b) {
    check_reject(b, "a b c", NULL, 0);
    check_reject(b, "a b<s>", NULL, 0);
    check_reject(b, "<s>", "<s>", 0);
    check_reject(b, "a b <s>", "<s>", 3);
    check_reject(b, "\xff b </s> <s>", "</s>", 3);
}

/* How many documents without special tokens have other ids when no byte is trusted. */
static uint32_t wrong_untrusted(bench *b, const fl_jv *atoms, uint32_t n_docs) {
    static const uint8_t no_trust[4096];
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n_docs; i++) {
        fl_encode_options o = {.special = FL_SPECIAL_REJECT};
        random_doc(&b->doc, atoms, i);
        if (b->doc.len > 8 * sizeof(no_trust) || encode(b, b->doc.data, b->doc.len, &o)) continue;
        uint32_t want = fnv(b->ids.data, b->ids.len * sizeof(int32_t));
        o.special = FL_SPECIAL_ALL;
        o.trusted = no_trust;
        int rc = encode(b, b->doc.data, b->doc.len, &o);
        bad += rc || fnv(b->ids.data, b->ids.len * sizeof(int32_t)) != want;
    }
    return bad;
}

static void test_goldens(void) {
    fl_arena arena = {0};
    fl_jv root;
    size_t n;
    char *text = NULL;
    read_file(&text, &n, GOLDEN "goldens.json");
    if (!check(!fl_jv_parse(&root, &arena, text, n, "goldens.json", &err), "goldens.json")) return;
    const fl_jv *atoms = fl_jv_get(&root, "atoms"), *variants = fl_jv_get(&root, "variants");
    check(variants->n >= 20, "%u variants", variants->n);
    for (uint32_t i = 0; i < variants->n; i++) {
        const fl_jv *v = &variants->items[i];
        const char *name = fl_jv_get(v, "name")->string.data;
        bool of_docs = *fl_jv_get(v, "base")->string.data == 's';
        bench b;
        if (check(bench_new(&b, load_variant(v)), "%s: loads", name)) {
            check(!wrong_ids(&b, atoms, fl_jv_get(v, "none"), FL_SPECIAL_NONE), "%s: ids", name);
            check(!wrong_ids(&b, atoms, fl_jv_get(v, "all"), FL_SPECIAL_ALL),
                  "%s: ids with special tokens", name);
            check(!wrong_text(&b, atoms, fl_jv_get(v, "decoded"), of_docs, false),
                  "%s: text, whole and streamed", name);
            check(!wrong_text(&b, atoms, fl_jv_get(v, "skipped"), of_docs, true),
                  "%s: text without special tokens", name);
            check(!wrong_untrusted(&b, atoms, fl_jv_get(v, "none")->n),
                  "%s: bits of trust do not change harmless text", name);
            if (!strcmp(name, "normalized specials")) test_reject_normalized(&b);
        }
        bench_free(&b);
    }
    fl_arena_free(&arena);
    fl_free(text);
}

/* ---- which special tokens are seen ---- */

static const int32_t only_start[] = {1};

static const struct {
    const char *what, *text, *trusted; /* a character a byte, '1' = trusted; NULL: no bits */
    fl_special_policy special;
    int n_special; /* how many ids < 3 come out */
} policy_cases[] = {
    {"none", "<|im_start|>a<|im_end|>", NULL, FL_SPECIAL_NONE, 0},
    {"all", "<|im_start|>a<|im_end|>", NULL, FL_SPECIAL_ALL, 2},
    {"a list", "<|im_start|>a<|im_end|>", NULL, FL_SPECIAL_LIST, 1},
    {"the trusted of all", "<|im_end|>a<|im_end|>", "111111111100000000000", FL_SPECIAL_ALL, 1},
    {"none of the trusted", "<|im_end|>", "1111111111", FL_SPECIAL_NONE, 0},
    {"not one byte short of trust", "<|im_end|>", "1111111110", FL_SPECIAL_ALL, 0},
    {"not half template, half user", "<|im_end|>", "1111100000", FL_SPECIAL_ALL, 0},
    {"a trusted one after a broken one", "<|im_<|im_end|>", "000001111111111", FL_SPECIAL_ALL, 1},
    {"trusted behind invalid bytes", "\xff\xf0\x9f<|im_end|>", "0001111111111", FL_SPECIAL_ALL, 1},
    {"untrusted behind invalid bytes", "\xff\xf0\x9f<|im_end|>", "1110000000000", FL_SPECIAL_ALL,
     0},
};

static void test_policy(bench *b) {
    for (size_t i = 0; i < sizeof(policy_cases) / sizeof(policy_cases[0]); i++) {
        uint8_t bits[8] = {0};
        const char *text = policy_cases[i].text, *trusted = policy_cases[i].trusted;
        for (size_t k = 0; trusted && k < strlen(trusted); k++)
            bits[k / 8] |= (uint8_t)((trusted[k] == '1') << (k % 8));
        fl_encode_options o = {.special = policy_cases[i].special,
                               .list = only_start,
                               .n_list = 1,
                               .trusted = trusted ? bits : NULL};
        int specials = 0, rc = encode(b, text, strlen(text), &o);
        for (size_t k = 0; k < b->ids.len; k++) specials += b->ids.data[k] < 3;
        check(!rc && specials == policy_cases[i].n_special, "special tokens: %s",
              policy_cases[i].what);
        bool valid = (uint8_t)*text < 0x80;
        check(!valid || (decode(b, false) && b->text.len == strlen(text) &&
                         !memcmp(b->text.data, text, b->text.len)),
              "special tokens: %s: the text comes back", policy_cases[i].what);
    }
}

static void test_invalid_text(bench *b) {
    fl_encode_options o = {.strict = true};
    check(encode(b, "a\xff", 2, &o) == FL_E_FORMAT && !b->ids.len, "strict: invalid UTF-8");
    o.strict = false;
    check(!encode(b, "a\xf0\x9f\x98 \xc0", 6, &o) && decode(b, false) && b->text.len == 8 &&
              !memcmp(b->text.data, "a\xef\xbf\xbd \xef\xbf\xbd", 8),
          "one U+FFFD for each maximal invalid part");
    check(!encode(b, "", 0, &o) && !b->ids.len, "no text, no ids");
    check(!encode(b, "a\0b", 3, &o) && decode(b, false) && b->text.len == 3, "NUL is text");
    int32_t id = fl_tokenizer_size(b->t);
    fl_bytes out = {0};
    check(fl_tokenizer_decode(b->t, &id, 1, false, &out, &err) == FL_E_ARG, "id = size");
    id = -1;
    check(fl_tokenizer_decode(b->t, &id, 1, false, &out, &err) == FL_E_ARG, "id = -1");
    fl_bytes_free(&out);
}

static void test_long_words(bench *b, const char *name) {
    static const char *const parts[] = {"a", " ",  "\n", " \n",      "ab", "\xe6\x97\xa5", "!",
                                        "7", "'s", "<|", "\xcc\x81", "aA", "e\xcc\x81 "};
    fl_encode_options o = {.special = FL_SPECIAL_ALL};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        b->doc.len = 0;
        while (b->doc.len < 1000000) fl_bytes_puts(&b->doc, parts[i]);
        clock_t start = clock(); /* of this process: others may use the machine */
        int rc = encode(b, b->doc.data, b->doc.len, &o);
        double took = (double)(clock() - start) / CLOCKS_PER_SEC;
        check(!rc && took < 1, "%s: 1 MB of one word, part %zu: %.2f s", name, i, took);
    }
}

int main(void) {
    size_t n;
    bench b;
    fixture_new(&files);
    test_goldens();
    static const char *const bases[] = {"byte_level", "sentencepiece"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof(path), GOLDEN "%s/tokenizer.json", bases[i]);
        char *text = NULL;
        read_file(&text, &n, path);
        if (check(bench_new(&b, load_text(text, n)), "%s loads", bases[i])) {
            test_long_words(&b, bases[i]);
            if (i == 0) test_policy(&b);
            if (i == 0) test_reject(&b);
            if (i == 0) test_invalid_text(&b);
        }
        bench_free(&b);
        fl_free(text);
    }
    fixture_free(&files);
    return tap_done();
}
