/* tokenizer_internal.h - what a tokenizer consists of; for tokenizer*.c and detok.c only. */
#ifndef FL_TEXT_TOKENIZER_INTERNAL_H
#define FL_TEXT_TOKENIZER_INTERNAL_H

#include <stdatomic.h>

#include "text/added.h"
#include "text/bpe.h"
#include "text/json_value.h"
#include "text/normalizer.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* What the decoder does with the blank that encoding puts in front of a text. */
typedef enum { FL_LEAD_KEEP, FL_LEAD_STRIP_ONE, FL_LEAD_STRIP_FIRST_TOKEN } fl_lead;

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
    int32_t n_rows; /* of the model's vocabulary; 0: not known */
    fl_named_list named, templates;
    fl_arena strings; /* of named, templates and the normalizer */
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

/* tokenizer_added.c: the added tokens, by id, until all files are read. */
typedef struct fl_added_entry {
    fl_added_token token;
    bool used, normalized; /* normalized: matched after the normalizer, as it leaves the token */
    bool listed;           /* a file beside tokenizer.json gave its flags */
} fl_added_entry;

typedef struct fl_added_builder {
    fl_tokenizer_source source;
    int32_t next;            /* the id of the next token that is new */
    fl_added_entry *entries; /* by id; freed by the loader */
    int32_t cap;
} fl_added_builder;

int fl_tokenizer_read_added(fl_added_builder *b, const fl_jv *list, fl_err *err);
/* content: a string.  A token that is there gets the flags, except that special stays. */
int fl_tokenizer_add(fl_added_builder *b, const fl_jv *content, const fl_added_entry *flags,
                     fl_err *err);
const fl_added_entry *fl_tokenizer_find_added(const fl_added_builder *b, const fl_jv *content);
/* "content", and the flags, of an added token as JSON files write it. */
int fl_tokenizer_content(const fl_jv *token, const fl_jv **out, const char *where, fl_err *err);
int fl_tokenizer_read_flags(const fl_jv *json, fl_added_entry *out, const char *where, fl_err *err);
int fl_tokenizer_index_added(fl_added_builder *b, fl_err *err);

/* tokenizer_special.c: special tokens from the files beside tokenizer.json, and what the class of
 * the tokenizer puts around a text instead of what the post_processor does. */
typedef struct fl_class_tokens {
    bool decides, bos, eos;
} fl_class_tokens;
int fl_tokenizer_read_special(fl_added_builder *b, fl_class_tokens *around, const fl_jv *root,
                              const char *dir, fl_err *err);
void fl_tokenizer_apply_class(fl_tokenizer *t, const fl_class_tokens *c);

/* tokenizer_config.c: chat templates.  Add name -> text unless the name is there; false: no
 * memory. */
int fl_tokenizer_read_templates(fl_tokenizer *t, const char *dir, fl_err *err);
bool fl_named_list_add(fl_tokenizer *t, fl_named_list *list, const char *name, const fl_jv *text);

/* tokenizer_load.c: give an unused id its token; word: see vocab.h. */
int fl_tokenizer_set_token(fl_tokenizer_source s, int32_t id, const char *piece, size_t n,
                           bool word, fl_err *err);
/* Appends what the decoder makes of a piece.  Returns whether encoding can give it. */
bool fl_tokenizer_piece_bytes(const fl_tokenizer *t, const char *s, size_t n, fl_bytes *out);
int fl_tokenizer_check_id(const fl_jv *id, const fl_jv *piece, const char *path, fl_err *err);

/* JSON members with a default; a wrong type is FL_E_FORMAT naming `where`. */
int fl_jv_bool(const fl_jv *object, const char *key, bool *out, const char *where, fl_err *err);
/* NULL in *out when absent or null. */
int fl_jv_text(const fl_jv *object, const char *key, const fl_jv **out, const char *where,
               fl_err *err);
bool fl_jv_equals(const fl_jv *string, const char *text);
/* Whole JSON file, at most 512 MiB, into the arena. */
int fl_jv_load(fl_jv *out, fl_arena *arena, const char *path, fl_err *err);

#endif
