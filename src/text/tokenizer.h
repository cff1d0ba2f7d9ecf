/* tokenizer.h - text <-> token ids exactly as the checkpoint's tokenizer.json says.
 *
 * Models: BPE over bytes (GPT-2, SmolLM2, Llama-3, and split patterns within text/regex.h:
 * Qwen2, o200k, DeepSeek) and BPE converted from SentencePiece, with byte fallback (Llama-2,
 * Mistral, TinyLlama).  Anything else in the file is FL_E_UNSUPPORTED by name.
 *
 * Ids equal those of Hugging Face's package tokenizers 0.23 (spec/support/compare_tokenizer.py);
 * so does decoded text, but: byte tokens that are not UTF-8 give one U+FFFD for each maximal
 * invalid part (there: for each byte of the run), and clean_up_tokenization_spaces is ignored.
 *
 * A tokenizer is immutable after load and may be shared by threads; scratch memory and
 * the word cache are in a context, one per thread. */
#ifndef FL_TEXT_TOKENIZER_H
#define FL_TEXT_TOKENIZER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/bytes.h"
#include "util/err.h"

typedef struct fl_tokenizer fl_tokenizer;
typedef struct fl_tokenizer_ctx fl_tokenizer_ctx;

/* dir: a model directory (tokenizer.json; optional tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json, config.json, chat_template.jinja, additional_chat_templates/) or the path of
 * a tokenizer.json, then without named tokens and templates.  The files beside add tokens and
 * change flags as transformers does it (tokenizer_special.c). */
int fl_tokenizer_load(fl_tokenizer **out, const char *dir, fl_err *err);
fl_tokenizer *fl_tokenizer_ref(fl_tokenizer *t);
void fl_tokenizer_unref(fl_tokenizer *t);

int fl_tokenizer_ctx_new(fl_tokenizer_ctx **out, const fl_tokenizer *t, fl_err *err);
void fl_tokenizer_ctx_free(fl_tokenizer_ctx *c);

typedef struct fl_ids { /* growable; zero-initialise, free with fl_ids_free */
    int32_t *data;
    size_t len, cap;
} fl_ids;
bool fl_ids_push(fl_ids *ids, int32_t id); /* false: no memory */
void fl_ids_free(fl_ids *ids);

typedef enum {
    FL_SPECIAL_NONE,
    FL_SPECIAL_ALL,
    FL_SPECIAL_LIST,
    FL_SPECIAL_REJECT /* a special token in the text is FL_E_ARG with its byte offset */
} fl_special_policy;

typedef struct fl_encode_options {
    bool add_special_tokens;   /* run the post-processor: BOS and so on */
    fl_special_policy special; /* which special tokens in the text are recognised; added
                                  tokens that are not special always are */
    const int32_t *list;       /* FL_SPECIAL_LIST: their ids */
    size_t n_list;
    const uint8_t *trusted;  /* NULL, or one bit per text byte (bit i%8 of byte i/8): special
                               tokens match only where all their bytes are trusted */
    bool strict;             /* invalid UTF-8 is FL_E_FORMAT; else U+FFFD per maximal subpart */
    size_t max_ids;          /* 0, or more are FL_E_LIMIT as soon as they are there */
    bool *too_many;          /* NULL, or set when max_ids is why */
    const atomic_bool *stop; /* NULL, or FL_E_CANCELLED soon after it has become true */
} fl_encode_options;

/* Appends to *out.  Thread-safe with one ctx per thread. */
int fl_tokenizer_encode(const fl_tokenizer *t, fl_tokenizer_ctx *c, const char *text, size_t n,
                        const fl_encode_options *o, fl_ids *out, fl_err *err);
/* Ids without a token, as padded rows of a model have, give no text; ids outside
 * fl_tokenizer_rows are FL_E_ARG. */
int fl_tokenizer_decode(const fl_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                        fl_bytes *out, fl_err *err);

int32_t fl_tokenizer_size(const fl_tokenizer *t); /* largest id + 1 */
/* Ids below this may come from the model: the vocab_size of the config.json beside, where there is
 * one, and at least fl_tokenizer_size. */
int32_t fl_tokenizer_rows(const fl_tokenizer *t);
int32_t fl_tokenizer_id(const fl_tokenizer *t, const char *piece, size_t n); /* -1: unknown */
/* The token as written in tokenizer.json (byte-level alphabet), NULL when id is unused. */
const char *fl_tokenizer_piece(const fl_tokenizer *t, int32_t id, size_t *n);
/* The bytes the token stands for, before any UTF-8 repair; *n = 0 for an unused id. */
const char *fl_tokenizer_bytes(const fl_tokenizer *t, int32_t id, size_t *n);
bool fl_tokenizer_is_special(const fl_tokenizer *t, int32_t id);

/* From tokenizer_config.json, special_tokens_map.json or the class of the tokenizer; -1: none. */
int32_t fl_tokenizer_bos(const fl_tokenizer *t);
int32_t fl_tokenizer_eos(const fl_tokenizer *t);
int32_t fl_tokenizer_pad(const fl_tokenizer *t);
/* Named special tokens in order: "bos_token" -> "<s>"; the variables of a chat template. */
size_t fl_tokenizer_n_named(const fl_tokenizer *t);
const char *fl_tokenizer_named(const fl_tokenizer *t, size_t i, const char **value);
/* Source text of the chat template (chat_template.jinja, else the config field; of a list
 * the one called `name`, NULL = "default"); NULL: the model has none. */
const char *fl_tokenizer_chat_template(const fl_tokenizer *t, const char *name);

#endif
