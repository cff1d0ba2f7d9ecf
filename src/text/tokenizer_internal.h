/* tokenizer_internal.h - what a tokenizer consists of; for tokenizer*.c and detok.c only. */
#ifndef FL_TEXT_TOKENIZER_INTERNAL_H
#define FL_TEXT_TOKENIZER_INTERNAL_H

#include <stdatomic.h>

#include "text/added.h"
#include "text/bpe.h"
#include "text/json_value.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* What the decoder does with the blank that encoding puts in front of a text. */
typedef enum { FL_LEAD_KEEP, FL_LEAD_STRIP_ONE, FL_LEAD_STRIP_FIRST_TOKEN } fl_lead;

typedef struct fl_normalizer { /* the two steps that SentencePiece conversions have */
    bool prepend;              /* U+2581 in front of text that is not empty */
    bool replace_blank;        /* each blank becomes U+2581 */
} fl_normalizer;

enum { FL_MAX_AFFIX = 8 };
typedef struct fl_affix { /* ids the post-processor adds */
    int32_t ids[FL_MAX_AFFIX];
    int n;
} fl_affix;

typedef struct fl_named_text {
    const char *name, *text;
} fl_named_text;

typedef struct fl_named_list {
    fl_named_text *items;
    size_t n;
} fl_named_list;

struct fl_tokenizer {
    atomic_int refs;
    fl_vocab vocab;
    fl_bpe bpe;
    fl_normalizer normalizer;
    fl_added raw, normalized; /* added tokens matched before and after normalising */
    fl_pretok pretok;
    fl_lead lead;
    bool blank_is_meta; /* decoding turns U+2581 into a blank */
    bool byte_tokens;   /* decoding turns <0xXX> into the byte */
    fl_affix prefix, suffix;
    int32_t bos, eos, pad;
    fl_named_list named, templates;
    fl_arena strings; /* of named and templates */
};

/* tokenizer_load.c uses these in this order.  path opens every error message. */
typedef struct fl_tokenizer_source {
    fl_tokenizer *t;
    const char *path;
} fl_tokenizer_source;

/* tokenizer_pipeline.c: normalizer, pre_tokenizer, decoder, then, when the vocabulary is there,
 * the post_processor. */
int fl_tokenizer_read_pipeline(fl_tokenizer_source s, const fl_jv *root, fl_err *err);
int fl_tokenizer_read_post_processor(fl_tokenizer_source s, const fl_jv *root, fl_err *err);
/* tokenizer_config.c: special token names and chat templates from the files beside it. */
int fl_tokenizer_read_config(fl_tokenizer *t, const char *dir, fl_err *err);

/* Append text as the normalizer leaves it; trusted bits (NULL: none) of the new bytes from
 * those of the old: bit `at` belongs to s[0]. */
void fl_normalize(const fl_normalizer *n, const fl_text *text, fl_bytes *out, fl_bytes *trusted);

/* JSON members with a default; a wrong type is FL_E_FORMAT naming `where`. */
int fl_jv_bool(const fl_jv *object, const char *key, bool *out, const char *where, fl_err *err);
/* NULL in *out when absent or null. */
int fl_jv_text(const fl_jv *object, const char *key, const fl_jv **out, const char *where,
               fl_err *err);
bool fl_jv_equals(const fl_jv *string, const char *text);
/* Whole JSON file, at most 512 MiB, into the arena. */
int fl_jv_load(fl_jv *out, fl_arena *arena, const char *path, fl_err *err);

#endif
