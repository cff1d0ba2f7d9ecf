/* vocab.h - the tokens of a tokenizer: id <-> text as written in the file <-> bytes.
 *
 * Built once by the loader, then immutable. */
#ifndef FL_TEXT_VOCAB_H
#define FL_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "util/mem.h"

enum { FL_VOCAB_MAX_ID = (1 << 22) - 1, FL_VOCAB_MAX_TOKEN_BYTES = 65535 };

typedef struct fl_vocab_token {
    const char *piece; /* as written in tokenizer.json; NULL: the id is unused */
    const char *bytes; /* what it decodes to */
    uint16_t n_piece, n_bytes;
    bool word; /* of the model: encoding a word may give it; else an added token only */
    bool special;
} fl_vocab_token;

typedef struct fl_vocab {
    fl_vocab_token *tokens; /* [n] */
    int32_t n, cap;         /* largest id + 1; room in tokens */
    int32_t *by_piece;      /* hash tables of mask + 1 slots, -1 = free */
    int32_t *by_bytes;
    uint32_t mask;
    fl_arena text;
} fl_vocab;

bool fl_vocab_init(fl_vocab *v, int32_t n); /* false: no memory */
void fl_vocab_deinit(fl_vocab *v);
/* Make ids below n, at least v->n, usable; those that are new are unused.  False: no memory. */
bool fl_vocab_grow(fl_vocab *v, int32_t n);

typedef enum { FL_VOCAB_OK, FL_VOCAB_TAKEN, FL_VOCAB_NOMEM } fl_vocab_result;
/* Set the text of an unused id and index it.  FL_VOCAB_TAKEN: the id is used or the piece is
 * known.  word: see above; only then by_bytes leads to it. */
fl_vocab_result fl_vocab_set(fl_vocab *v, int32_t id, const char *piece, size_t n_piece,
                             const char *bytes, size_t n_bytes, bool word);

/* Give a token other bytes than it was set with; by_bytes is not changed. */
bool fl_vocab_set_bytes(fl_vocab *v, int32_t id, const char *bytes, size_t n); /* false: no
                                                                                  memory */

/* Short keys in a few multiplications; not for tables an attacker can fill. */
static inline uint32_t fl_vocab_hash(const char *s, size_t n) {
    uint64_t h = 0x9e3779b97f4a7c15u ^ n, word;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    word = 0;
    if (n >= 4) { /* two overlapping halves instead of a loop over the rest */
        uint32_t low, high;
        memcpy(&low, s, 4);
        memcpy(&high, s + n - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (n) {
        word = (uint64_t)(uint8_t)s[0] | (uint64_t)(uint8_t)s[n / 2] << 8 |
               (uint64_t)(uint8_t)s[n - 1] << 16;
    }
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    return (uint32_t)(h >> 32 ^ h >> 13);
}

int32_t fl_vocab_find_piece(const fl_vocab *v, const char *s, size_t n); /* -1: none */
int32_t fl_vocab_find_bytes(const fl_vocab *v, const char *s, size_t n); /* of the words */

#endif
