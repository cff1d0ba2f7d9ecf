/* kv.h - which pages of the KV pool are in use, by how many sequences, and what full pages
 * hold, so that a later sequence with the same beginning can share them.
 *
 * Knows page numbers, token ids and reference counts; the inside of a page is the
 * backend's.  A full page may be published under a hash of its tokens and of everything
 * before them (salt included).  Published pages that nobody references stay findable
 * until their memory is needed, the least recently used going first.
 * Not thread-safe: the model's lock covers it.
 *
 * A published page may have scores: the log-probabilities of its tokens, which depend on
 * nothing but the tokens up to it, as the page itself. */
#ifndef FL_MODEL_KV_H
#define FL_MODEL_KV_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum { FL_KV_PAGE_TOKENS = 32 };

typedef struct fl_top { /* an alternative */
    int32_t id;         /* -1: none */
    float logprob;
} fl_top;

typedef struct fl_kv_scores {
    int32_t n_top;                    /* alternatives of each token */
    float logprob[FL_KV_PAGE_TOKENS]; /* of token i of the page, given everything before it */
    fl_top top[];                     /* [FL_KV_PAGE_TOKENS * n_top] */
} fl_kv_scores;

typedef struct fl_kv_page { /* what a page holds, when it is published */
    uint64_t parent, hash;  /* hash of the tokens before it, and including it; 0: not published */
    int32_t ids[FL_KV_PAGE_TOKENS];
    int32_t refs;
    uint8_t holders;      /* what kinds of them, while holders.c counts; else 0 */
    fl_kv_scores *scores; /* owned; NULL: none */
    int32_t newer, older; /* neighbours in the list of unreferenced published pages */
} fl_kv_page;

typedef struct fl_kv_pool {
    int64_t n_pages;
    int64_t n_free;         /* pages an alloc can have: never used or unreferenced */
    fl_kv_page *pages;      /* [n_pages] */
    int32_t *free;          /* [n_pages] stack of pages that hold nothing */
    int64_t n_empty;        /* on that stack */
    int32_t newest, oldest; /* ends of the list, -1: empty */
    int32_t *table;         /* [n_slots] open addressing over published pages; -1: free slot */
    uint64_t n_slots;       /* power of two, at least 2 * n_pages */
    uint64_t key;           /* random: nobody can construct tokens that collide */
    uint64_t queries, hits, evictions; /* pages looked for, found, forgotten */
} fl_kv_pool;

int fl_kv_pool_init(fl_kv_pool *p, int64_t n_pages, fl_err *err);
void fl_kv_pool_deinit(fl_kv_pool *p);
int32_t fl_kv_page_alloc(fl_kv_pool *p); /* one reference; -1: none free */
void fl_kv_page_ref(fl_kv_pool *p, int32_t page);
void fl_kv_page_unref(fl_kv_pool *p, int32_t page);

/* Where a chain of hashes begins: sequences share pages only under the same salt. */
uint64_t fl_kv_root(const fl_kv_pool *p, const void *salt, size_t n);
/* The hash after FL_KV_PAGE_TOKENS more ids; never 0. */
uint64_t fl_kv_chain(const fl_kv_pool *p, uint64_t parent, const int32_t *ids);
/* A page with these ids after `parent`, one more reference; -1: none. */
int32_t fl_kv_page_find(fl_kv_pool *p, uint64_t parent, const int32_t *ids);
/* The page is full and holds these ids after `parent`.  When another page is already
 * published for them, that one stays. */
void fl_kv_page_publish(fl_kv_pool *p, int32_t page, uint64_t parent, const int32_t *ids);
/* Scores, from fl_alloc, for the page published for these ids after `parent`; taken over, and
 * freed when there is no such page or it has scores with as many alternatives. */
void fl_kv_page_score(fl_kv_pool *p, uint64_t parent, const int32_t *ids, fl_kv_scores *scores);
/* Before a page is written again. */
void fl_kv_page_unpublish(fl_kv_pool *p, int32_t page);

#endif
