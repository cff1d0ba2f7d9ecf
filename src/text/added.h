/* added.h - finds added tokens (special ones and others) in text before it is split into
 * words: leftmost, then longest. */
#ifndef FL_TEXT_ADDED_H
#define FL_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fl_added_token {
    int32_t id;
    bool special;
    bool lstrip, rstrip; /* swallows white space before, after */
    bool single_word;    /* only where no word character touches it */
} fl_added_token;

typedef struct fl_added { /* a trie; zero-initialise */
    struct fl_added_node *nodes;
    uint32_t n_nodes, cap_nodes;
    fl_added_token *tokens;
    uint32_t n_tokens, cap_tokens;
    uint32_t first[256]; /* node of each first byte, 0: none */
    bool any_plain;      /* one of them is not special */
} fl_added;

bool fl_added_put(fl_added *a, const char *text, size_t n, fl_added_token token); /* false: no
                                                                                     memory */
void fl_added_deinit(fl_added *a);

/* A stretch of text, valid UTF-8.  trusted: NULL, or one bit a byte, of which bit `at` belongs
 * to s[0]. */
typedef struct fl_text {
    const char *s;
    size_t n;
    const uint8_t *trusted;
    size_t at;
    bool first; /* starts where the whole text starts */
} fl_text;

/* The first token at or after *begin that ends by t->n, NULL: none; [*begin, *end) is where.
 * A special token whose bytes are not all trusted is not there. */
const fl_added_token *fl_added_find(const fl_added *a, const fl_text *t, size_t *begin,
                                    size_t *end);

#endif
