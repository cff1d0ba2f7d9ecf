#include <string.h>

#include "text/detok.h"
#include "text/tokenizer_internal.h"
#include "text/unicode.h"
#include "util/mem.h"
#include "util/utf8.h"

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */

enum { MAX_TEXT_BYTES = 1 << 30 }; /* positions inside a word are 32 bits */

struct fl_tokenizer_ctx {
    fl_bpe_scratch *bpe;
};

/* ---- life ---- */

fl_tokenizer *fl_tokenizer_ref(fl_tokenizer *t) {
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void fl_tokenizer_unref(fl_tokenizer *t) {
    if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) return;
    fl_vocab_deinit(&t->vocab);
    fl_bpe_deinit(&t->bpe);
    fl_added_deinit(&t->raw);
    fl_added_deinit(&t->normalized);
    fl_normalizer_deinit(&t->normalizer);
    fl_pretok_deinit(&t->pretok);
    fl_free(t->named.items);
    fl_free(t->templates.items);
    fl_arena_free(&t->strings);
    fl_free(t);
}

int fl_tokenizer_ctx_new(fl_tokenizer_ctx **out, const fl_tokenizer *t, fl_err *err) {
    (void)t;
    *out = fl_alloc(sizeof(**out));
    if (*out && ((*out)->bpe = fl_bpe_scratch_new())) return FL_OK;
    fl_tokenizer_ctx_free(*out);
    *out = NULL;
    return fl_fail(err, FL_E_NOMEM, "no memory for a tokenizer context");
}

void fl_tokenizer_ctx_free(fl_tokenizer_ctx *c) {
    if (!c) return;
    fl_bpe_scratch_free(c->bpe);
    fl_free(c);
}

bool fl_ids_push(fl_ids *ids, int32_t id) {
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        int32_t *grown = fl_grow(ids->data, cap * sizeof(*grown));
        if (!grown) return false;
        ids->data = grown;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return true;
}

void fl_ids_free(fl_ids *ids) {
    fl_free(ids->data);
    *ids = (fl_ids){0};
}

/* ---- encode ---- */

typedef struct encoder {
    const fl_tokenizer *t;
    fl_bpe_scratch *bpe;
    const fl_encode_options *options;
    fl_ids *out;
    fl_err *err;
    fl_text whole;          /* as the caller gave it */
    const uint32_t *origin; /* of the normalised bytes in their part; NULL: before that */
    size_t part_at;         /* where in the repaired text that part begins */
    size_t before;          /* ids that out had */
} encoder;

static int no_memory(const encoder *e) {
    return fl_fail(e->err, FL_E_NOMEM, "no memory to encode text");
}

static int encode_word(void *ctx, const char *word, size_t n, fl_err *err) {
    const encoder *e = ctx;
    const fl_encode_options *o = e->options;
    if (o->max_ids && e->out->len - e->before > o->max_ids) {
        if (o->too_many) *o->too_many = true;
        return fl_fail(err, FL_E_LIMIT, "text of %zu bytes: more than %zu tokens", e->whole.n,
                       o->max_ids);
    }
    if (o->stop && atomic_load_explicit(o->stop, memory_order_relaxed))
        return fl_fail(err, FL_E_CANCELLED, "text of %zu bytes: nobody waits for its tokens",
                       e->whole.n);
    return fl_bpe_encode(&e->t->bpe, e->bpe, word, n, e->out, err);
}

static int encode_words(encoder *e, const fl_text *t) {
    return fl_pretok_run(&e->t->pretok, t->s, t->n, t->first, encode_word, e, e->err);
}

static bool recognised(const fl_encode_options *o, const fl_added_token *token) {
    if (!token->special || o->special == FL_SPECIAL_ALL || o->special == FL_SPECIAL_REJECT)
        return true;
    for (size_t i = 0; o->special == FL_SPECIAL_LIST && i < o->n_list; i++)
        if (o->list[i] == token->id) return true;
    return false;
}

static bool touches_word(const fl_text *t, size_t begin, size_t end) {
    size_t bytes;
    if (begin && fl_uc_is_word(fl_uc_get(t->s + fl_uc_back(t->s, begin), &bytes))) return true;
    return end < t->n && fl_uc_is_word(fl_uc_get(t->s + end, &bytes));
}

static size_t blanks_before(const fl_text *t, size_t begin, size_t least) {
    size_t bytes;
    while (begin > least) {
        size_t before = fl_uc_back(t->s, begin);
        if (before < least || !(fl_uc_class_at(t->s + before, &bytes) & FL_UC_SPACE)) break;
        begin = before;
    }
    return begin;
}

static size_t blanks_after(const fl_text *t, size_t end) {
    size_t bytes;
    while (end < t->n && (fl_uc_class_at(t->s + end, &bytes) & FL_UC_SPACE)) end += bytes;
    return end;
}

static int pass_part(encoder *e, const fl_text *t, size_t begin, size_t end,
                     int (*next)(encoder *, const fl_text *)) {
    fl_text part = {t->s + begin, end - begin, t->trusted, t->at + begin, t->first && !begin};
    return part.n ? next(e, &part) : FL_OK;
}

/* Where byte `at` of the repaired text was before the repair. */
static size_t before_repair(const fl_text *whole, size_t at) {
    size_t i = 0, repaired = 0;
    while (i < whole->n && repaired < at) {
        uint32_t cp;
        int k = fl_utf8_decode(whole->s + i, whole->n - i, &cp, NULL);
        repaired += k < 0 ? strlen(REPLACEMENT) : (size_t)k;
        i += (size_t)(k < 0 ? -k : k);
    }
    return i;
}

static int reject(const encoder *e, const fl_text *t, const fl_added_token *token, size_t at) {
    size_t n;
    const char *piece = fl_tokenizer_piece(e->t, token->id, &n);
    at = e->origin ? e->part_at + e->origin[at] : t->at + at;
    return fl_fail(e->err, FL_E_ARG, "the text has the special token %.*s at byte %zu",
                   (int)(n < 100 ? n : 100), piece, before_repair(&e->whole, at));
}

/* Emit the tokens of `added` and hand what is between them to next. */
static int split_added(encoder *e, const fl_added *added, const fl_text *t,
                       int (*next)(encoder *, const fl_text *)) {
    size_t done = 0, begin = 0, end = 0;
    const fl_added_token *token;
    int rc;
    /* No token could be accepted: spare the search. */
    if (e->options->special == FL_SPECIAL_NONE && !added->any_plain) return next(e, t);
    while ((token = fl_added_find(added, t, &begin, &end))) {
        size_t from = begin, to = end;
        begin = end; /* the reference skips the text of a match that it then rejects */
        if (!recognised(e->options, token)) continue;
        if (token->single_word && touches_word(t, from, to)) continue;
        if (token->special && e->options->special == FL_SPECIAL_REJECT)
            return reject(e, t, token, from);
        if (token->lstrip) from = blanks_before(t, from, done);
        if (token->rstrip) to = blanks_after(t, to);
        if (from > done && (rc = pass_part(e, t, done, from, next))) return rc;
        if (!fl_ids_push(e->out, token->id)) return no_memory(e);
        done = to;
    }
    return pass_part(e, t, done, t->n, next);
}

static inline bool bit(const uint8_t *bits, size_t i) {
    return bits[i / 8] >> (i % 8) & 1;
}

/* Add n equal bits to a bit string that has `at` of them. */
static void put_bits(fl_bytes *bits, size_t at, size_t n, bool value) {
    for (size_t i = at; i < at + n; i++) {
        if (i % 8 == 0) fl_bytes_putc(bits, '\0');
        if (!bits->failed && value) bits->data[i / 8] |= (char)(1 << (i % 8));
    }
}

static int encode_normalized(encoder *e, const fl_text *t) {
    const bool origins = e->options->special == FL_SPECIAL_REJECT;
    fl_normal_text text = {0};
    if (!e->t->normalizer.n) return split_added(e, &e->t->normalized, t, encode_words);
    int rc = fl_normalize(&e->t->normalizer, t, origins, &text, e->err);
    if (!rc && text.s.len) {
        const uint8_t *bits = t->trusted ? (const uint8_t *)text.trusted.data : NULL;
        fl_text whole = {text.s.data, text.s.len, bits, 0, t->first};
        e->origin = origins ? (const uint32_t *)(const void *)text.origin.data : NULL;
        e->part_at = t->at;
        rc = split_added(e, &e->t->normalized, &whole, encode_words);
        e->origin = NULL;
    }
    fl_normal_text_free(&text);
    return rc;
}

/* Replace invalid UTF-8 by U+FFFD, which nobody vouches for. */
static void repair(const fl_text *t, fl_bytes *out, fl_bytes *trusted) {
    for (size_t i = 0; i < t->n;) {
        uint32_t cp;
        int k = fl_utf8_decode(t->s + i, t->n - i, &cp, NULL);
        size_t used = (size_t)(k < 0 ? -k : k);
        if (t->trusted) {
            if (k < 0) put_bits(trusted, out->len, strlen(REPLACEMENT), false);
            for (int b = 0; b < k; b++)
                put_bits(trusted, out->len + (size_t)b, 1, bit(t->trusted, i + (size_t)b));
        }
        fl_bytes_put(out, k < 0 ? REPLACEMENT : t->s + i, k < 0 ? strlen(REPLACEMENT) : used);
        i += used;
    }
}

static int encode_text(encoder *e, fl_text text) {
    fl_bytes repaired = {0}, trusted = {0};
    int rc = FL_OK;
    if (!fl_utf8_valid(text.s, text.n)) {
        if (e->options->strict)
            return fl_fail(e->err, FL_E_FORMAT, "text of %zu bytes is not valid UTF-8", text.n);
        repair(&text, &repaired, &trusted);
        if (repaired.failed || trusted.failed) rc = no_memory(e);
        text.s = repaired.data;
        text.n = repaired.len;
        if (text.trusted) text.trusted = (const uint8_t *)trusted.data;
    }
    if (!rc && text.n) rc = split_added(e, &e->t->raw, &text, encode_normalized);
    fl_bytes_free(&repaired);
    fl_bytes_free(&trusted);
    return rc;
}

static int push_affix(encoder *e, const fl_affix *affix) {
    for (int i = 0; e->options->add_special_tokens && i < affix->n; i++)
        if (!fl_ids_push(e->out, affix->ids[i])) return no_memory(e);
    return FL_OK;
}

int fl_tokenizer_encode(const fl_tokenizer *t, fl_tokenizer_ctx *c, const char *text, size_t n,
                        const fl_encode_options *o, fl_ids *out, fl_err *err) {
    encoder e = {t, c->bpe, o, out, err, {text, n, o->trusted, 0, true}, NULL, 0, out->len};
    int rc;
    if (n > MAX_TEXT_BYTES)
        return fl_fail(err, FL_E_LIMIT, "text of %zu bytes, at most %d", n, MAX_TEXT_BYTES);
    if ((rc = push_affix(&e, &t->prefix)) || (rc = encode_text(&e, e.whole)) ||
        (rc = push_affix(&e, &t->suffix)))
        out->len = e.before;
    fl_bpe_scratch_trim(c->bpe);
    return rc;
}

/* ---- decode and look up ---- */

int fl_tokenizer_decode(const fl_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                        fl_bytes *out, fl_err *err) {
    fl_detok d;
    size_t before = out->len;
    int rc = FL_OK;
    fl_detok_init(&d, t, skip_special);
    for (size_t i = 0; i < n && !rc; i++) rc = fl_detok_push(&d, ids[i], out, err);
    fl_detok_finish(&d, out);
    if (rc) {
        out->len = before;
    } else if (out->failed) {
        rc = fl_fail(err, FL_E_NOMEM, "no memory to decode %zu tokens", n);
    }
    return rc;
}

int32_t fl_tokenizer_size(const fl_tokenizer *t) {
    return t->vocab.n;
}

int32_t fl_tokenizer_rows(const fl_tokenizer *t) {
    return t->n_rows > t->vocab.n ? t->n_rows : t->vocab.n;
}

int32_t fl_tokenizer_id(const fl_tokenizer *t, const char *piece, size_t n) {
    return fl_vocab_find_piece(&t->vocab, piece, n);
}

static const fl_vocab_token *token_of(const fl_tokenizer *t, int32_t id) {
    static const fl_vocab_token none;
    return id >= 0 && id < t->vocab.n ? &t->vocab.tokens[id] : &none;
}

const char *fl_tokenizer_piece(const fl_tokenizer *t, int32_t id, size_t *n) {
    *n = token_of(t, id)->n_piece;
    return token_of(t, id)->piece;
}

const char *fl_tokenizer_bytes(const fl_tokenizer *t, int32_t id, size_t *n) {
    *n = token_of(t, id)->n_bytes;
    return token_of(t, id)->bytes;
}

bool fl_tokenizer_is_special(const fl_tokenizer *t, int32_t id) {
    return token_of(t, id)->special;
}

int32_t fl_tokenizer_bos(const fl_tokenizer *t) {
    return t->bos;
}

int32_t fl_tokenizer_eos(const fl_tokenizer *t) {
    return t->eos;
}

int32_t fl_tokenizer_pad(const fl_tokenizer *t) {
    return t->pad;
}

size_t fl_tokenizer_n_named(const fl_tokenizer *t) {
    return t->named.n;
}

const char *fl_tokenizer_named(const fl_tokenizer *t, size_t i, const char **value) {
    *value = t->named.items[i].text;
    return t->named.items[i].name;
}

const char *fl_tokenizer_chat_template(const fl_tokenizer *t, const char *name) {
    for (size_t i = 0; i < t->templates.n; i++)
        if (!strcmp(t->templates.items[i].name, name ? name : "default"))
            return t->templates.items[i].text;
    return NULL;
}
