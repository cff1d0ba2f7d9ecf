/* bpe.h - byte-pair encoding of one word: adjacent symbols whose merge has the lowest rank
 * are joined, leftmost first, until no merge applies. */
#ifndef FL_TEXT_BPE_H
#define FL_TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct fl_bpe { /* immutable after load */
    const fl_vocab *vocab;
    struct fl_bpe_pair *pairs; /* hash table: two ids -> rank and merged id */
    uint32_t pair_mask;
    uint32_t n_ranks;     /* of merges: above the highest one */
    bool byte_level;      /* words are bytes; else characters of the piece text */
    bool ignore_merges;   /* a word that is a token needs no merges */
    bool fuse_unk;        /* adjacent unknown characters give one unk */
    int32_t unk;          /* for what has no token, -1: it is dropped */
    int32_t byte_id[256]; /* byte_level: token of the byte; else of <0xXX>; -1: none */
} fl_bpe;

/* Room for n merges; false: no memory. */
bool fl_bpe_init(fl_bpe *b, const fl_vocab *vocab, uint32_t n_merges);
void fl_bpe_deinit(fl_bpe *b);
/* At most n_merges calls.  The same pair again replaces the former rank. */
void fl_bpe_add_merge(fl_bpe *b, int32_t left, int32_t right, int32_t merged, uint32_t rank);

/* Working memory and the cache of short words; one per thread, one tokenizer only. */
typedef struct fl_bpe_scratch fl_bpe_scratch;
fl_bpe_scratch *fl_bpe_scratch_new(void); /* NULL: no memory */
void fl_bpe_scratch_free(fl_bpe_scratch *s);
void fl_bpe_scratch_trim(fl_bpe_scratch *s); /* give back what only a huge word needed */

/* Append the ids of word s[0..n), valid UTF-8.  Time n, as far as merges make candidates of higher
 * ranks only, which those of trained vocabularies do; else n log n.  Working memory: 48 bytes for
 * each byte of the longest word, and 24 for each merge of the vocabulary. */
int fl_bpe_encode(const fl_bpe *b, fl_bpe_scratch *scratch, const char *s, size_t n, fl_ids *out,
                  fl_err *err);

#endif
