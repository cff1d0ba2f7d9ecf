/* The added tokens: collected by id while the files are read, the later word on one of them wins,
 * then put where encoding looks for them. */
#include <string.h>

#include "text/tokenizer_internal.h"

enum { MAX_ADDED_BYTES = 1024 };

static int no_memory(const fl_added_builder *b, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory for the tokenizer", b->source.path);
}

int fl_tokenizer_read_flags(const fl_jv *json, fl_added_entry *out, const char *where,
                            fl_err *err) {
    int rc;
    *out = (fl_added_entry){.used = true};
    if ((rc = fl_jv_bool(json, "special", &out->token.special, where, err))) return rc;
    out->normalized = !out->token.special; /* the reference's default */
    if ((rc = fl_jv_bool(json, "normalized", &out->normalized, where, err)) ||
        (rc = fl_jv_bool(json, "lstrip", &out->token.lstrip, where, err)) ||
        (rc = fl_jv_bool(json, "rstrip", &out->token.rstrip, where, err)))
        return rc;
    return fl_jv_bool(json, "single_word", &out->token.single_word, where, err);
}

int fl_tokenizer_content(const fl_jv *token, const fl_jv **out, const char *where, fl_err *err) {
    int rc = fl_jv_text(token, "content", out, where, err);
    if (!rc && !*out) rc = fl_fail(err, FL_E_FORMAT, "%s: added token without content", where);
    return rc;
}

const fl_added_entry *fl_tokenizer_find_added(const fl_added_builder *b, const fl_jv *content) {
    int32_t id =
        fl_vocab_find_piece(&b->source.t->vocab, content->string.data, content->string.len);
    return id >= 0 && id < b->cap && b->entries[id].used ? &b->entries[id] : NULL;
}

/* Room for an entry of each id of the vocabulary. */
static bool reserve(fl_added_builder *b) {
    int32_t cap = b->source.t->vocab.cap;
    if (b->cap >= cap) return true;
    fl_added_entry *grown = fl_grow(b->entries, (size_t)cap * sizeof(*grown));
    if (!grown) return false;
    memset(grown + b->cap, 0, (size_t)(cap - b->cap) * sizeof(*grown));
    b->entries = grown;
    b->cap = cap;
    return true;
}

/* A token that the vocabulary does not have gets the next free id. */
static int new_token(fl_added_builder *b, const fl_jv *content, int32_t *id, fl_err *err) {
    fl_vocab *v = &b->source.t->vocab;
    if (b->next > FL_VOCAB_MAX_ID)
        return fl_fail(err, FL_E_LIMIT, "%s: added token \"%.100s\" would have id %d, at most %d",
                       b->source.path, content->string.data, b->next, FL_VOCAB_MAX_ID);
    *id = b->next;
    if (*id >= v->n && !fl_vocab_grow(v, *id + 1)) return no_memory(b, err);
    return fl_tokenizer_set_token(b->source, *id, content->string.data, content->string.len, false,
                                  err);
}

int fl_tokenizer_add(fl_added_builder *b, const fl_jv *content, const fl_added_entry *flags,
                     fl_err *err) {
    fl_vocab *v = &b->source.t->vocab;
    int rc;
    if (content->string.len > MAX_ADDED_BYTES)
        return fl_fail(err, FL_E_LIMIT, "%s: added token of %zu bytes, at most %d", b->source.path,
                       content->string.len, MAX_ADDED_BYTES);
    if (!content->string.len) return FL_OK;
    int32_t id = fl_vocab_find_piece(v, content->string.data, content->string.len);
    if (id < 0 && (rc = new_token(b, content, &id, err))) return rc;
    if (!reserve(b)) return no_memory(b, err);
    /* once special, always special: decoding leaves it out, and no message may forge it */
    v->tokens[id].special |= flags->token.special;
    b->entries[id] = *flags;
    b->entries[id].used = true;
    b->entries[id].token.id = id;
    b->entries[id].token.special = v->tokens[id].special;
    if (id >= b->next) b->next = id + 1;
    return FL_OK;
}

/* The reference gives a new added token the next free id whatever the file says, so another
 * id in the file means that the two disagree about the model's input. */
static int read_one(fl_added_builder *b, const fl_jv *json, fl_err *err) {
    const char *path = b->source.path;
    const fl_jv *content, *id = fl_jv_get(json, "id");
    fl_added_entry flags;
    int rc;
    if ((rc = fl_tokenizer_content(json, &content, path, err)) ||
        (rc = fl_tokenizer_check_id(id, content, path, err)) ||
        (rc = fl_tokenizer_read_flags(json, &flags, path, err)))
        return rc;
    bool known =
        fl_vocab_find_piece(&b->source.t->vocab, content->string.data, content->string.len) >= 0;
    if (!known && content->string.len && id->integer != b->next)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: added token \"%.100s\" has id %lld, the next free one is %d", path,
                       content->string.data, (long long)id->integer, b->next);
    return fl_tokenizer_add(b, content, &flags, err);
}

int fl_tokenizer_read_added(fl_added_builder *b, const fl_jv *list, fl_err *err) {
    int rc = FL_OK;
    for (uint32_t i = 0; list && i < list->n && !rc; i++) rc = read_one(b, &list->items[i], err);
    return rc;
}

static int index_one(fl_added_builder *b, const fl_added_entry *e, fl_err *err) {
    fl_tokenizer *t = b->source.t;
    const fl_vocab_token *token = &t->vocab.tokens[e->token.id];
    const bool normal = e->normalized && t->normalizer.n;
    fl_text plain = {.s = token->piece, .n = token->n_piece};
    fl_normal_text text = {0};
    fl_bytes bytes = {0};
    int rc = normal ? fl_normalize(&t->normalizer, &plain, false, &text, err) : FL_OK;
    if (!rc && normal) plain = (fl_text){.s = text.s.data, .n = text.s.len};
    if (!rc && plain.n > FL_VOCAB_MAX_TOKEN_BYTES)
        rc = fl_fail(err, FL_E_LIMIT, "%s: token %d normalises to %zu bytes, at most %d",
                     b->source.path, e->token.id, plain.n, FL_VOCAB_MAX_TOKEN_BYTES);
    bool ok = rc || !plain.n ||
              fl_added_put(e->normalized ? &t->normalized : &t->raw, plain.s, plain.n, e->token);
    if (!rc && normal) {
        /* what matched is also what it decodes to: blank and all */
        fl_tokenizer_piece_bytes(t, plain.s, plain.n, &bytes);
        ok = ok && !bytes.failed &&
             fl_vocab_set_bytes(&t->vocab, e->token.id, bytes.data ? bytes.data : "", bytes.len);
    }
    fl_normal_text_free(&text);
    fl_bytes_free(&bytes);
    return ok ? rc : no_memory(b, err);
}

int fl_tokenizer_index_added(fl_added_builder *b, fl_err *err) {
    int rc = FL_OK;
    for (int32_t id = 0; id < b->cap && !rc; id++)
        if (b->entries[id].used) rc = index_one(b, &b->entries[id], err);
    return rc;
}
