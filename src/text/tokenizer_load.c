/* tokenizer.json: the model (vocabulary and merges) and the added tokens. */
#include <stdio.h>
#include <string.h>

#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include "util/file.h"
#include "util/json.h"

static const char META[] = "\xe2\x96\x81"; /* U+2581 */

enum { MAX_FILE_BYTES = 512 << 20 };

typedef struct loader {
    fl_tokenizer *t;
    const char *path;
    const fl_jv *model, *vocab, *merges, *added;
    fl_err *err;
} loader;

/* ---- JSON helpers ---- */

int fl_jv_bool(const fl_jv *object, const char *key, bool *out, const char *where, fl_err *err) {
    const fl_jv *v = fl_jv_get(object, key);
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind != FL_JV_BOOL)
        return fl_fail(err, FL_E_FORMAT, "%s: %s is not true or false", where, key);
    *out = v->boolean;
    return FL_OK;
}

int fl_jv_text(const fl_jv *object, const char *key, const fl_jv **out, const char *where,
               fl_err *err) {
    const fl_jv *v = fl_jv_get(object, key);
    *out = NULL;
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind != FL_JV_STRING)
        return fl_fail(err, FL_E_FORMAT, "%s: %s is not a string", where, key);
    *out = v;
    return FL_OK;
}

bool fl_jv_equals(const fl_jv *string, const char *text) {
    size_t n = strlen(text);
    return string && string->kind == FL_JV_STRING && string->string.len == n &&
           !memcmp(string->string.data, text, n);
}

int fl_jv_load(fl_jv *out, fl_arena *arena, const char *path, fl_err *err) {
    char *text = NULL;
    size_t n;
    int rc = fl_file_read(&text, &n, path, MAX_FILE_BYTES, err);
    if (!rc) rc = fl_json_check_size(text, n, path, err);
    if (!rc) rc = fl_jv_parse(out, arena, text, n, path, err);
    fl_free(text);
    return rc;
}

static int no_memory(const loader *l) {
    return fl_fail(l->err, FL_E_NOMEM, "%s: no memory for the tokenizer", l->path);
}

/* ---- the bytes a piece stands for ---- */

/* GPT-2's alphabet shows each byte as one visible character: printable Latin-1 as itself, the
 * rest in order from U+0100.  -1: not in the alphabet. */
static int byte_of_char(uint32_t cp) {
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return (int)cp;
    if (cp < 256 || cp >= 256 + 68) return -1;
    uint32_t k = cp - 256;
    return (int)(k < 33 ? k : k < 67 ? k - 33 + 127 : 173);
}

/* Appends nothing and returns false when a character is not in the alphabet. */
static bool byte_level_bytes(const char *s, size_t n, fl_bytes *out) {
    size_t before = out->len, bytes;
    for (size_t i = 0; i < n; i += bytes) {
        int b = byte_of_char(fl_uc_get(s + i, &bytes));
        if (b < 0) {
            out->len = before;
            return false;
        }
        fl_bytes_putc(out, (char)b);
    }
    return true;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of "<0xXX>", -1: another piece. */
static int byte_token(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

bool fl_tokenizer_piece_bytes(const fl_tokenizer *t, const char *s, size_t n, fl_bytes *out) {
    if (t->bpe.byte_level) {
        if (byte_level_bytes(s, n, out)) return true;
        fl_bytes_put(out, s, n);
        return false;
    }
    int byte = t->byte_tokens ? byte_token(s, n) : -1;
    if (byte >= 0) {
        fl_bytes_putc(out, (char)byte);
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        bool meta = t->blank_is_meta && n - i >= 3 && !memcmp(s + i, META, 3);
        fl_bytes_putc(out, meta ? ' ' : s[i]);
        if (meta) i += 2;
    }
    return true;
}

/* ---- vocabulary ---- */

int fl_tokenizer_set_token(fl_tokenizer_source s, int32_t id, const char *piece, size_t n,
                           bool word, fl_err *err) {
    fl_bytes bytes = {0};
    int rc = FL_OK;
    if (n > FL_VOCAB_MAX_TOKEN_BYTES)
        return fl_fail(err, FL_E_LIMIT, "%s: token %d has %zu bytes, at most %d", s.path, id, n,
                       FL_VOCAB_MAX_TOKEN_BYTES);
    word = fl_tokenizer_piece_bytes(s.t, piece, n, &bytes) && word;
    fl_vocab_result set = bytes.failed
                              ? FL_VOCAB_NOMEM
                              : fl_vocab_set(&s.t->vocab, id, piece, n,
                                             bytes.data ? bytes.data : "", bytes.len, word);
    if (set == FL_VOCAB_NOMEM)
        rc = fl_fail(err, FL_E_NOMEM, "%s: no memory for the tokenizer", s.path);
    if (set == FL_VOCAB_TAKEN)
        rc = fl_fail(err, FL_E_FORMAT, "%s: id %d is given to two tokens, one is \"%.100s\"",
                     s.path, id, piece);
    fl_bytes_free(&bytes);
    return rc;
}

int fl_tokenizer_check_id(const fl_jv *id, const fl_jv *piece, const char *path, fl_err *err) {
    if (!id || id->kind != FL_JV_INT || id->integer < 0)
        return fl_fail(err, FL_E_FORMAT, "%s: token \"%.100s\" has no id", path,
                       piece->string.data);
    if (id->integer > FL_VOCAB_MAX_ID)
        return fl_fail(err, FL_E_LIMIT, "%s: token \"%.100s\" has id %lld, at most %d", path,
                       piece->string.data, (long long)id->integer, FL_VOCAB_MAX_ID);
    return FL_OK;
}

/* Largest id of the model. */
static int find_max_id(const loader *l, int64_t *max) {
    int rc = FL_OK;
    for (uint32_t i = 0; i < l->vocab->n && !rc; i++) {
        const fl_jv_member *m = &l->vocab->members[i];
        rc = fl_tokenizer_check_id(&m->value, &m->key, l->path, l->err);
        if (!rc && m->value.integer > *max) *max = m->value.integer;
    }
    return rc;
}

static int read_vocab(loader *l) {
    int64_t max = -1;
    int rc = find_max_id(l, &max);
    if (rc) return rc;
    if (max < 0 && !(l->added && l->added->n))
        return fl_fail(l->err, FL_E_FORMAT, "%s: empty vocabulary", l->path);
    if (!fl_vocab_init(&l->t->vocab, (int32_t)max + 1)) return no_memory(l);
    for (uint32_t i = 0; i < l->vocab->n && !rc; i++) {
        const fl_jv_member *m = &l->vocab->members[i];
        rc = fl_tokenizer_set_token((fl_tokenizer_source){l->t, l->path}, (int32_t)m->value.integer,
                                    m->key.string.data, m->key.string.len, true, l->err);
    }
    return rc;
}

/* ---- merges ---- */

typedef struct merge_text {
    const char *left, *right;
    size_t n_left, n_right;
} merge_text;

/* "a b" or ["a", "b"]. */
static bool merge_halves(const fl_jv *v, merge_text *m) {
    if (v->kind == FL_JV_STRING) {
        const char *end = v->string.data + v->string.len;
        const char *blank = memchr(v->string.data, ' ', v->string.len);
        if (!blank) return false;
        *m = (merge_text){v->string.data, blank + 1, (size_t)(blank - v->string.data),
                          (size_t)(end - blank - 1)};
        return true;
    }
    if (v->kind != FL_JV_ARRAY || v->n != 2 || v->items[0].kind != FL_JV_STRING ||
        v->items[1].kind != FL_JV_STRING)
        return false;
    *m = (merge_text){v->items[0].string.data, v->items[1].string.data, v->items[0].string.len,
                      v->items[1].string.len};
    return true;
}

static int shown(size_t n) {
    return n < 100 ? (int)n : 100;
}

static int read_merge(loader *l, uint32_t rank, fl_bytes *joined) {
    const fl_vocab *v = &l->t->vocab;
    merge_text m;
    if (!merge_halves(&l->merges->items[rank], &m))
        return fl_fail(l->err, FL_E_FORMAT, "%s: merge %u is not a pair of tokens", l->path, rank);
    joined->len = 0;
    fl_bytes_put(joined, m.left, m.n_left);
    fl_bytes_put(joined, m.right, m.n_right);
    if (joined->failed) return no_memory(l);
    int32_t left = fl_vocab_find_piece(v, m.left, m.n_left);
    int32_t right = fl_vocab_find_piece(v, m.right, m.n_right);
    int32_t merged = fl_vocab_find_piece(v, joined->data ? joined->data : "", joined->len);
    if (left < 0 || right < 0 || merged < 0)
        return fl_fail(l->err, FL_E_FORMAT,
                       "%s: merge %u: \"%.*s\" and \"%.*s\" or both joined are no tokens", l->path,
                       rank, shown(m.n_left), m.left, shown(m.n_right), m.right);
    fl_bpe_add_merge(&l->t->bpe, left, right, merged, rank);
    return FL_OK;
}

static int read_merges(loader *l) {
    fl_bytes joined = {0};
    fl_bpe *b = &l->t->bpe;
    uint32_t n = l->merges->n;
    int rc = FL_OK;
    if (!fl_bpe_init(b, &l->t->vocab, n)) return no_memory(l);
    for (uint32_t i = 0; i < n && !rc; i++) rc = read_merge(l, i, &joined);
    fl_bytes_free(&joined);
    return rc;
}

/* ---- model ---- */

/* Members that change the encoding in ways not done here. */
static int refuse_options(const loader *l) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const fl_jv *dropout = fl_jv_get(l->model, "dropout");
    if (dropout && dropout->kind != FL_JV_NULL &&
        !(dropout->kind == FL_JV_INT && dropout->integer == 0) &&
        !(dropout->kind == FL_JV_FLOAT && dropout->number == 0))
        return fl_fail(l->err, FL_E_UNSUPPORTED, "%s: BPE dropout is not supported", l->path);
    for (int i = 0; i < 2; i++) {
        const fl_jv *text;
        int rc = fl_jv_text(l->model, affixes[i], &text, l->path, l->err);
        if (rc) return rc;
        if (text && text->string.len)
            return fl_fail(l->err, FL_E_UNSUPPORTED, "%s: %s is not supported", l->path,
                           affixes[i]);
    }
    return FL_OK;
}

/* The tokens of single bytes, and the token for what has none. */
static int read_fallbacks(loader *l, bool byte_fallback) {
    fl_bpe *b = &l->t->bpe;
    const fl_vocab *v = &l->t->vocab;
    const fl_jv *unk;
    bool complete = true;
    for (int i = 0; i < 256; i++) {
        char byte = (char)i, name[8];
        snprintf(name, sizeof(name), "<0x%02X>", (unsigned)i);
        b->byte_id[i] = b->byte_level   ? fl_vocab_find_bytes(v, &byte, 1)
                        : byte_fallback ? fl_vocab_find_piece(v, name, 6)
                                        : -1;
        complete = complete && b->byte_id[i] >= 0;
    }
    int rc = fl_jv_text(l->model, "unk_token", &unk, l->path, l->err);
    if (rc || !unk) return rc;
    b->unk = fl_vocab_find_piece(v, unk->string.data, unk->string.len);
    if (b->unk < 0 && !complete)
        return fl_fail(l->err, FL_E_FORMAT, "%s: unk_token \"%.100s\" is no token", l->path,
                       unk->string.data);
    return FL_OK;
}

static int read_model(loader *l) {
    bool byte_level = l->t->bpe.byte_level, byte_fallback = false, ignore_merges = false;
    bool fuse_unk = false;
    int rc;
    if ((rc = refuse_options(l)) ||
        (rc = fl_jv_bool(l->model, "byte_fallback", &byte_fallback, l->path, l->err)) ||
        (rc = fl_jv_bool(l->model, "ignore_merges", &ignore_merges, l->path, l->err)) ||
        (rc = fl_jv_bool(l->model, "fuse_unk", &fuse_unk, l->path, l->err)) ||
        (rc = read_vocab(l)) || (rc = read_merges(l)))
        return rc;
    l->t->bpe.byte_level = byte_level;
    l->t->bpe.ignore_merges = ignore_merges;
    l->t->bpe.fuse_unk = fuse_unk;
    return read_fallbacks(l, byte_fallback);
}

/* ---- the file ---- */

static int find_members(loader *l, const fl_jv *root) {
    const fl_jv *type;
    l->model = fl_jv_get(root, "model");
    l->vocab = fl_jv_get(l->model, "vocab");
    l->merges = fl_jv_get(l->model, "merges");
    l->added = fl_jv_get(root, "added_tokens");
    if (l->added && l->added->kind == FL_JV_NULL) l->added = NULL;
    if (!l->model || l->model->kind != FL_JV_OBJECT)
        return fl_fail(l->err, FL_E_FORMAT, "%s: no model", l->path);
    int rc = fl_jv_text(l->model, "type", &type, l->path, l->err);
    if (rc) return rc;
    if (type && !fl_jv_equals(type, "BPE"))
        return fl_fail(l->err, FL_E_UNSUPPORTED, "%s: model type %.100s is not supported", l->path,
                       type->string.data);
    if (!l->vocab || l->vocab->kind != FL_JV_OBJECT)
        return fl_fail(l->err, FL_E_FORMAT, "%s: model.vocab is not an object", l->path);
    if (!l->merges || l->merges->kind != FL_JV_ARRAY)
        return fl_fail(l->err, FL_E_FORMAT, "%s: model.merges is not a list", l->path);
    if (l->added && l->added->kind != FL_JV_ARRAY)
        return fl_fail(l->err, FL_E_FORMAT, "%s: added_tokens is not a list", l->path);
    return FL_OK;
}

/* dir: NULL, or the folder whose other files say more about the special tokens. */
static int load_file(fl_tokenizer *t, const char *path, const char *dir, fl_err *err) {
    fl_arena json = {0};
    fl_jv root;
    loader l = {.t = t, .path = path, .err = err};
    fl_tokenizer_source source = {t, path};
    fl_added_builder added = {.source = source};
    fl_class_tokens around = {0};
    int rc = fl_jv_load(&root, &json, path, err);
    if (!rc) rc = find_members(&l, &root);
    if (!rc) rc = fl_tokenizer_read_pipeline(source, &root, err);
    if (!rc) rc = read_model(&l);
    if (!rc) added.next = (int32_t)l.vocab->n;
    if (!rc) rc = fl_tokenizer_read_added(&added, l.added, err);
    if (!rc && dir) rc = fl_tokenizer_read_special(&added, &around, &root, dir, err);
    if (!rc) rc = fl_tokenizer_index_added(&added, err);
    if (!rc) rc = fl_tokenizer_read_post_processor(source, &root, err);
    if (!rc) fl_tokenizer_apply_class(t, &around);
    fl_free(added.entries);
    fl_arena_free(&json);
    return rc;
}

int fl_tokenizer_load(fl_tokenizer **out, const char *dir, fl_err *err) {
    bool is_dir = fl_dir_exists(dir);
    char *path = is_dir ? fl_path_join(dir, "tokenizer.json") : fl_strdup(dir);
    fl_tokenizer *t = fl_alloc(sizeof(*t));
    int rc = FL_OK;
    *out = NULL;
    if (t) t->refs = 1;
    if (!path || !t) {
        rc = fl_fail(err, FL_E_NOMEM, "%s: no memory for the tokenizer", dir);
        goto done;
    }
    t->bos = t->eos = t->pad = -1;
    rc = load_file(t, path, is_dir ? dir : NULL, err);
    if (!rc && is_dir) rc = fl_tokenizer_read_templates(t, dir, err);
    if (rc) goto done;
    *out = t;
    t = NULL;
done:
    fl_tokenizer_unref(t);
    fl_free(path);
    return rc;
}
