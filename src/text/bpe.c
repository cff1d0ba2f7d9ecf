#include "text/bpe.h"

#include "text/unicode.h"

struct fl_bpe_pair {
    int32_t left, right;
    uint32_t rank;
    int32_t merged; /* -1: free slot */
};

enum {
    SHORT_WORD_SYMBOLS = 32, /* up to here a scan for the best rank beats a heap */
    LONG_WORD_SYMBOLS =
        4096, /* from here lists by rank, of as many ranks as there are, beat a heap */
    TRIM_SYMBOLS = 64 << 10, /* scratch kept between texts */
    CACHE_SLOTS = 1 << 14,   /* 1 MiB, measured: less misses too often, more leaves the L2 cache */
    CACHE_KEY_BYTES = 24,
    CACHE_IDS = 8,
};

#define NO_RANK UINT32_MAX
#define NO_POS  UINT32_MAX

typedef struct word_key { /* a word of 1 to 24 bytes in three numbers and its length */
    uint64_t parts[3];
    uint16_t n;
} word_key;

typedef struct cached_word { /* a cache line */
    uint64_t parts[3];
    uint16_t n; /* 0: free */
    uint16_t n_ids;
    int32_t ids[CACHE_IDS];
} cached_word;

typedef struct symbol {
    int32_t id;
    int32_t merged;      /* id of this one joined with the next */
    uint32_t rank;       /* of that merge, NO_RANK: there is none */
    uint32_t next, prev; /* positions, NO_POS at the ends; heap path only */
} symbol;

/* Candidates of a long word by the rank of their merge: those that its bytes give, in order of
 * position, and a chain of those that merges have given since. */
typedef struct rank_list {
    uint32_t begin, n;    /* of `first` */
    uint32_t chain, last; /* of `links`, NO_POS: none */
} rank_list;

typedef struct link {
    uint32_t pos, next;
} link;

struct fl_bpe_scratch {
    symbol *symbols;
    uint64_t *heap; /* rank << 32 | position, 4-ary, smallest first */
    size_t cap, heap_cap, n_heap;
    rank_list *lists; /* [n_ranks] of the merge table; NULL until a long word comes */
    uint64_t *listed; /* a bit for each: something is in it */
    uint32_t *first;  /* [long_cap] */
    uint32_t *order;  /* [2 * long_cap] those of one rank; the second half is for sorting */
    link *links;      /* [2 * long_cap] two for each merge */
    size_t long_cap, n_links;
    cached_word *cache; /* [CACHE_SLOTS] */
};

/* ---- the merge table ---- */

static inline uint32_t pair_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32 ^ h >> 13);
}

static inline struct fl_bpe_pair *find_pair(const fl_bpe *b, int32_t left, int32_t right) {
    for (uint32_t i = pair_hash(left, right);; i++) {
        struct fl_bpe_pair *p = &b->pairs[i & b->pair_mask];
        if (p->merged < 0 || (p->left == left && p->right == right)) return p;
    }
}

bool fl_bpe_init(fl_bpe *b, const fl_vocab *vocab, uint32_t n_merges) {
    uint32_t slots = 64;
    while (slots < n_merges + n_merges / 2) slots *= 2;
    *b = (fl_bpe){.vocab = vocab, .pair_mask = slots - 1, .unk = -1};
    memset(b->byte_id, -1, sizeof(b->byte_id));
    b->pairs = fl_alloc_array(slots, sizeof(*b->pairs));
    if (!b->pairs) return false;
    for (uint32_t i = 0; i < slots; i++) b->pairs[i].merged = -1;
    return true;
}

void fl_bpe_deinit(fl_bpe *b) {
    fl_free(b->pairs);
    b->pairs = NULL;
}

void fl_bpe_add_merge(fl_bpe *b, int32_t left, int32_t right, int32_t merged, uint32_t rank) {
    if (rank >= b->n_ranks) b->n_ranks = rank + 1;
    *find_pair(b, left, right) = (struct fl_bpe_pair){left, right, rank, merged};
}

/* ---- scratch ---- */

fl_bpe_scratch *fl_bpe_scratch_new(void) {
    fl_bpe_scratch *s = fl_alloc(sizeof(*s));
    if (!s) return NULL;
    s->cache = fl_alloc_aligned(CACHE_SLOTS * sizeof(*s->cache), 64);
    if (s->cache) {
        memset(s->cache, 0, CACHE_SLOTS * sizeof(*s->cache));
    } else {
        fl_bpe_scratch_free(s);
        s = NULL;
    }
    return s;
}

static void free_long(fl_bpe_scratch *s) {
    fl_free(s->lists);
    fl_free(s->listed);
    fl_free(s->first);
    fl_free(s->order);
    fl_free(s->links);
    s->lists = NULL;
    s->listed = NULL;
    s->first = s->order = NULL;
    s->links = NULL;
    s->long_cap = 0;
}

void fl_bpe_scratch_free(fl_bpe_scratch *s) {
    if (!s) return;
    free_long(s);
    fl_free(s->symbols);
    fl_free(s->heap);
    fl_free_aligned(s->cache);
    fl_free(s);
}

void fl_bpe_scratch_trim(fl_bpe_scratch *s) {
    if (s->cap <= TRIM_SYMBOLS) return;
    free_long(s);
    fl_free(s->symbols);
    fl_free(s->heap);
    s->symbols = NULL;
    s->heap = NULL;
    s->cap = s->heap_cap = 0;
}

static bool grow_heap(fl_bpe_scratch *s, size_t cap) {
    if (cap <= s->heap_cap) return true;
    uint64_t *grown = fl_grow(s->heap, cap * sizeof(*grown));
    if (!grown) return false;
    s->heap = grown;
    s->heap_cap = cap;
    return true;
}

static bool reserve_long(const fl_bpe *b, fl_bpe_scratch *s, size_t n) {
    const size_t words = b->n_ranks / 64 + 1;
    if (!s->lists) s->lists = fl_alloc_array(b->n_ranks + 1, sizeof(*s->lists));
    if (!s->listed) s->listed = fl_alloc_array(words, sizeof(*s->listed));
    if (!s->lists || !s->listed) return false;
    if (n <= s->long_cap) return true;
    uint32_t *first = fl_grow(s->first, n * sizeof(*first));
    if (first) s->first = first;
    uint32_t *order = fl_grow(s->order, 2 * n * sizeof(*order));
    if (order) s->order = order;
    link *links = fl_grow(s->links, 2 * n * sizeof(*links));
    if (links) s->links = links;
    if (!first || !order || !links) return false;
    s->long_cap = n;
    return true;
}

/* Bytes of working memory for each symbol: 20, and 24 of a word of more than SHORT_WORD_SYMBOLS or
 * 28 of one of LONG_WORD_SYMBOLS and more. */
static bool reserve(const fl_bpe *b, fl_bpe_scratch *s, size_t n) {
    if (n > s->cap) {
        const size_t cap = n < TRIM_SYMBOLS ? 2 * n : n;
        symbol *grown = fl_grow(s->symbols, cap * sizeof(*grown));
        if (!grown) return false;
        s->symbols = grown;
        s->cap = cap;
    }
    if (n <= SHORT_WORD_SYMBOLS) return true;
    if (n >= LONG_WORD_SYMBOLS) return reserve_long(b, s, n);
    return grow_heap(s, 3 * n); /* a position comes once at the start and at most twice a merge */
}

/* ---- merging ---- */

static void heap_push(fl_bpe_scratch *s, uint64_t key) {
    size_t i = s->n_heap++;
    for (; i && s->heap[(i - 1) / 4] > key; i = (i - 1) / 4) s->heap[i] = s->heap[(i - 1) / 4];
    s->heap[i] = key;
}

static uint64_t heap_pop(fl_bpe_scratch *s) {
    uint64_t top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0, n = s->n_heap;
    for (size_t child; (child = 4 * i + 1) < n;) {
        size_t best = child, end = child + 4 < n ? child + 4 : n;
        for (size_t j = child + 1; j < end; j++)
            if (s->heap[j] < s->heap[best]) best = j;
        if (s->heap[best] >= last) break;
        s->heap[i] = s->heap[best];
        i = best;
    }
    s->heap[i] = last;
    return top;
}

static inline void rate(const fl_bpe *b, symbol *left, const symbol *right) {
    const struct fl_bpe_pair *p = find_pair(b, left->id, right->id);
    left->rank = p->merged < 0 ? NO_RANK : p->rank;
    left->merged = p->merged;
}

/* Returns how many symbols remain. */
static size_t merge_short(const fl_bpe *b, symbol *s, size_t n) {
    for (size_t i = 0; i + 1 < n; i++) rate(b, &s[i], &s[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (s[i].rank < s[best].rank) best = i;
        if (s[best].rank == NO_RANK) break;
        s[best].id = s[best].merged;
        n--;
        s[best].rank = s[best + 1].rank;
        memmove(&s[best + 1], &s[best + 2], (n - best - 1) * sizeof(*s));
        if (best + 1 < n) rate(b, &s[best], &s[best + 1]);
        if (best) rate(b, &s[best - 1], &s[best]);
    }
    return n;
}

/* The neighbour at `pos` changed: look its merge up again. */
static void rate_again(const fl_bpe *b, fl_bpe_scratch *scratch, uint32_t pos, uint32_t old_rank) {
    symbol *s = scratch->symbols;
    rate(b, &s[pos], &s[s[pos].next]);
    if (s[pos].rank != NO_RANK && s[pos].rank != old_rank)
        heap_push(scratch, (uint64_t)s[pos].rank << 32 | pos);
}

static size_t merge_long(const fl_bpe *b, fl_bpe_scratch *scratch, size_t n) {
    symbol *s = scratch->symbols;
    scratch->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i].prev = i ? i - 1 : NO_POS;
        s[i].next = i + 1 < n ? i + 1 : NO_POS;
        s[i].rank = NO_RANK;
        if (i + 1 < n) rate_again(b, scratch, i, NO_RANK);
    }
    while (scratch->n_heap) {
        uint64_t top = heap_pop(scratch);
        uint32_t i = (uint32_t)top;
        if (s[i].rank != (uint32_t)(top >> 32)) continue; /* overtaken by another merge */
        uint32_t gone = s[i].next, next = s[gone].next;
        s[i].id = s[i].merged;
        s[i].rank = s[gone].rank = NO_RANK;
        s[i].next = next;
        if (next != NO_POS) {
            s[next].prev = i;
            rate_again(b, scratch, i, NO_RANK);
        }
        if (s[i].prev != NO_POS) rate_again(b, scratch, s[i].prev, s[s[i].prev].rank);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != NO_POS; i = s[i].next) s[kept++].id = s[i].id;
    return kept;
}

/* ---- merging long words ---- */

/* A heap of a million positions is as slow as memory is. Lists by rank are read in order: ranks from
 * the lowest, as merges of a trained vocabulary only ever make candidates of higher ranks, and of
 * each the positions from the left. What has a lower rank all the same goes through the heap, which
 * comes before the list whenever its top does. */

static void push_link(fl_bpe_scratch *s, uint32_t rank, uint32_t pos) {
    const uint32_t at = (uint32_t)s->n_links++;
    rank_list *l = &s->lists[rank];
    s->links[at] = (link){pos, NO_POS};
    if (l->chain == NO_POS)
        l->chain = at;
    else
        s->links[l->last].next = at;
    l->last = at;
    s->listed[rank / 64] |= (uint64_t)1 << rank % 64;
}

static void list_bytes(const fl_bpe *b, fl_bpe_scratch *scratch, size_t n) {
    symbol *s = scratch->symbols;
    rank_list *lists = scratch->lists;
    memset(scratch->listed, 0, (b->n_ranks / 64 + 1) * sizeof(*scratch->listed));
    for (uint32_t r = 0; r < b->n_ranks; r++) lists[r] = (rank_list){0, 0, NO_POS, NO_POS};
    scratch->n_heap = scratch->n_links = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i].prev = i ? i - 1 : NO_POS;
        s[i].next = i + 1 < n ? i + 1 : NO_POS;
        s[i].rank = NO_RANK;
        if (i + 1 < n) rate(b, &s[i], &s[i + 1]);
        if (s[i].rank == NO_RANK) continue;
        lists[s[i].rank].n++;
        scratch->listed[s[i].rank / 64] |= (uint64_t)1 << s[i].rank % 64;
    }
    uint32_t at = 0;
    for (uint32_t r = 0; r < b->n_ranks; r++) {
        lists[r].begin = at;
        at += lists[r].n;
        lists[r].n = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (s[i].rank == NO_RANK) continue;
        rank_list *l = &lists[s[i].rank];
        scratch->first[l->begin + l->n++] = i;
    }
}

/* By bytes, the lowest first; `other` has as much room. */
static void sort_positions(uint32_t *list, uint32_t *other, size_t n) {
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++) all |= list[i];
    for (int shift = 0; shift < 32 && all >> shift; shift += 8) {
        size_t counts[256] = {0}, at = 0;
        for (size_t i = 0; i < n; i++) counts[list[i] >> shift & 255]++;
        for (int d = 0; d < 256; d++) {
            const size_t count = counts[d];
            counts[d] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++) other[counts[list[i] >> shift & 255]++] = list[i];
        memcpy(list, other, n * sizeof(*list));
    }
}

static void sort_few(uint32_t *list, size_t n) {
    for (size_t i = 1; i < n; i++) {
        const uint32_t pos = list[i];
        size_t k = i;
        for (; k && list[k - 1] > pos; k--) list[k] = list[k - 1];
        list[k] = pos;
    }
}

static bool push_early(fl_bpe_scratch *scratch, uint32_t rank, uint32_t pos) {
    if (scratch->n_heap == scratch->heap_cap && !grow_heap(scratch, 2 * scratch->heap_cap + 64))
        return false;
    heap_push(scratch, (uint64_t)rank << 32 | pos);
    return true;
}

/* The candidates of a rank into `order`, *n from the left.  false: no memory. */
static bool take_list(fl_bpe_scratch *scratch, uint32_t rank, size_t *n) {
    enum { FEW = 64 };
    const rank_list l = scratch->lists[rank];
    uint32_t *order = scratch->order;
    bool sorted = true;
    memcpy(order, scratch->first + l.begin, l.n * sizeof(*order));
    *n = l.n;
    scratch->lists[rank].n = 0;
    scratch->lists[rank].chain = NO_POS;
    for (uint32_t at = l.chain; at != NO_POS; at = scratch->links[at].next) {
        const uint32_t pos = scratch->links[at].pos;
        if (scratch->symbols[pos].rank != rank) continue; /* overtaken by another merge */
        if (*n == scratch->long_cap) { /* some are listed twice: no vocabulary seen does that */
            if (!push_early(scratch, rank, pos)) return false;
            continue;
        }
        sorted = sorted && (!*n || order[*n - 1] <= pos);
        order[(*n)++] = pos;
    }
    if (!sorted && *n <= FEW) sort_few(order, *n);
    if (!sorted && *n > FEW) sort_positions(order, order + scratch->long_cap, *n);
    return true;
}

/* As rate_again; now: the rank whose list is being read. */
static bool list_again(const fl_bpe *b, fl_bpe_scratch *scratch, uint32_t pos, uint32_t old_rank,
                       uint32_t now) {
    symbol *s = scratch->symbols;
    rate(b, &s[pos], &s[s[pos].next]);
    const uint32_t rank = s[pos].rank;
    if (rank == NO_RANK || rank == old_rank) return true;
    if (rank <= now) return push_early(scratch, rank, pos);
    push_link(scratch, rank, pos);
    return true;
}

/* Joins i with the next one. false: no memory. */
static bool join(const fl_bpe *b, fl_bpe_scratch *scratch, uint32_t i, uint32_t now) {
    symbol *s = scratch->symbols;
    const uint32_t gone = s[i].next, next = s[gone].next, prev = s[i].prev;
    s[i].id = s[i].merged;
    s[i].rank = s[gone].rank = NO_RANK;
    s[i].next = next;
    if (next != NO_POS) {
        s[next].prev = i;
        if (!list_again(b, scratch, i, NO_RANK, now)) return false;
    }
    return prev == NO_POS || list_again(b, scratch, prev, s[prev].rank, now);
}

/* All of `order`, and what comes before it in the heap. */
static bool join_listed(const fl_bpe *b, fl_bpe_scratch *scratch, size_t n, uint32_t rank) {
    const symbol *s = scratch->symbols;
    for (size_t k = 0; k < n || scratch->n_heap;) {
        const uint64_t listed = k < n ? (uint64_t)rank << 32 | scratch->order[k] : UINT64_MAX;
        const bool from_heap = scratch->n_heap && scratch->heap[0] < listed;
        const uint64_t key = from_heap ? heap_pop(scratch) : listed;
        k += !from_heap;
        if (k + 8 < n) __builtin_prefetch(&s[scratch->order[k + 8]]);
        if (s[(uint32_t)key].rank == key >> 32 && !join(b, scratch, (uint32_t)key, rank))
            return false;
    }
    return true;
}

/* false: no memory. */
static bool merge_listed(const fl_bpe *b, fl_bpe_scratch *scratch, size_t *n) {
    symbol *s = scratch->symbols;
    list_bytes(b, scratch, *n);
    for (uint32_t word = 0; word < b->n_ranks / 64 + 1; word++) {
        while (scratch->listed[word]) { /* merges add to later ones, also of this word */
            const uint32_t bit = (uint32_t)__builtin_ctzll(scratch->listed[word]);
            const uint32_t rank = word * 64 + bit;
            scratch->listed[word] &= scratch->listed[word] - 1;
            size_t listed;
            if (!take_list(scratch, rank, &listed) || !join_listed(b, scratch, listed, rank))
                return false;
        }
    }
    *n = 0;
    for (uint32_t i = 0; i != NO_POS; i = s[i].next) s[(*n)++].id = s[i].id;
    return true;
}

/* ---- a word's first symbols ---- */

/* The model's token with this text; -1: none. */
static int32_t find_word(const fl_bpe *b, const char *s, size_t n) {
    if (b->byte_level) return fl_vocab_find_bytes(b->vocab, s, n);
    int32_t id = fl_vocab_find_piece(b->vocab, s, n);
    return id >= 0 && b->vocab->tokens[id].word ? id : -1;
}

static size_t symbols_of_bytes(const fl_bpe *b, symbol *s, const char *word, size_t n) {
    size_t count = 0;
    bool after_unk = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[(uint8_t)word[i]];
        bool unk = id < 0;
        if (unk) id = b->unk;
        if (id >= 0 && !(unk && after_unk && b->fuse_unk)) s[count++].id = id;
        after_unk = unk;
    }
    return count;
}

static bool all_have_bytes(const fl_bpe *b, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (b->byte_id[(uint8_t)s[i]] < 0) return false;
    return true;
}

static size_t symbols_of_chars(const fl_bpe *b, symbol *s, const char *word, size_t n) {
    size_t count = 0, bytes;
    bool after_unk = false;
    for (size_t i = 0; i < n; i += bytes) {
        fl_uc_get(word + i, &bytes);
        int32_t id = find_word(b, word + i, bytes);
        bool unk = id < 0;
        if (unk && all_have_bytes(b, word + i, bytes)) {
            for (size_t k = 0; k < bytes; k++) s[count++].id = b->byte_id[(uint8_t)word[i + k]];
            unk = false;
        } else if (!unk) {
            s[count++].id = id;
        } else if (b->unk >= 0 && !(after_unk && b->fuse_unk)) {
            s[count++].id = b->unk;
        }
        after_unk = unk;
    }
    return count;
}

static bool more_room(fl_ids *out, size_t n) {
    size_t cap = out->cap * 2 > out->len + n ? out->cap * 2 : out->len + n + 64;
    int32_t *grown = fl_grow(out->data, cap * sizeof(*grown));
    if (!grown) return false;
    out->data = grown;
    out->cap = cap;
    return true;
}

static inline bool has_room(fl_ids *out, size_t n) {
    return out->cap - out->len >= n || more_room(out, n);
}

/* Without the cache. */
static bool encode_word(const fl_bpe *b, fl_bpe_scratch *scratch, const char *word, size_t n,
                        fl_ids *out) {
    size_t count;
    if (b->ignore_merges) {
        int32_t id = find_word(b, word, n);
        if (id >= 0) {
            if (!has_room(out, 1)) return false;
            out->data[out->len++] = id;
            return true;
        }
    }
    if (!reserve(b, scratch, n)) return false;
    symbol *s = scratch->symbols;
    count = b->byte_level ? symbols_of_bytes(b, s, word, n) : symbols_of_chars(b, s, word, n);
    if (count <= SHORT_WORD_SYMBOLS)
        count = merge_short(b, s, count);
    else if (n < LONG_WORD_SYMBOLS)
        count = merge_long(b, scratch, count);
    else if (!merge_listed(b, scratch, &count))
        return false;
    if (!has_room(out, count)) return false;
    for (size_t i = 0; i < count; i++) out->data[out->len + i] = s[i].id;
    out->len += count;
    return true;
}

/* ---- the cache ---- */

static inline uint64_t load8(const char *s) {
    uint64_t v;
    memcpy(&v, s, 8);
    return v;
}

/* 1 to 8 bytes; different texts of one length give different numbers. */
static inline uint64_t load_part(const char *s, size_t n) {
    if (n == 8) return load8(s);
    if (n >= 4) { /* two halves that may overlap */
        uint32_t low, high;
        memcpy(&low, s, 4);
        memcpy(&high, s + n - 4, 4);
        return (uint64_t)high << 32 | low;
    }
    return (uint64_t)(uint8_t)s[0] | (uint64_t)(uint8_t)s[n / 2] << 8 |
           (uint64_t)(uint8_t)s[n - 1] << 16;
}

static inline word_key key_of(const char *s, size_t n) {
    word_key k = {.n = (uint16_t)n};
    if (n <= 8) {
        k.parts[0] = load_part(s, n);
        return k;
    }
    k.parts[0] = load8(s);
    k.parts[1] = load8(n <= 16 ? s + n - 8 : s + 8);
    if (n > 16) k.parts[2] = load8(s + n - 8);
    return k;
}

static inline uint32_t slot_of(const word_key *k) {
    uint64_t h = (k->parts[0] ^ k->n) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 29 ^ k->parts[1]) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 32 ^ k->parts[2]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 40) % CACHE_SLOTS;
}

static inline bool holds(const cached_word *c, const word_key *k) {
    return !((c->parts[0] ^ k->parts[0]) | (c->parts[1] ^ k->parts[1]) |
             (c->parts[2] ^ k->parts[2]) | (uint64_t)(c->n ^ k->n));
}

static bool encode_cached(const fl_bpe *b, fl_bpe_scratch *scratch, const char *s, size_t n,
                          fl_ids *out) {
    word_key key = key_of(s, n);
    cached_word *hit = &scratch->cache[slot_of(&key)];
    size_t before = out->len;
    if (holds(hit, &key)) {
        if (!has_room(out, CACHE_IDS)) return false;
        memcpy(out->data + out->len, hit->ids, sizeof(hit->ids)); /* all: no loop */
        out->len += hit->n_ids;
        return true;
    }
    if (!encode_word(b, scratch, s, n, out)) return false;
    if (out->len - before > CACHE_IDS) return true;
    memcpy(hit->parts, key.parts, sizeof(key.parts));
    hit->n = key.n;
    hit->n_ids = (uint16_t)(out->len - before);
    memcpy(hit->ids, out->data + before, hit->n_ids * sizeof(*hit->ids));
    return true;
}

int fl_bpe_encode(const fl_bpe *b, fl_bpe_scratch *scratch, const char *s, size_t n, fl_ids *out,
                  fl_err *err) {
    bool ok = n && n <= CACHE_KEY_BYTES ? encode_cached(b, scratch, s, n, out)
                                        : encode_word(b, scratch, s, n, out);
    return ok ? FL_OK : fl_fail(err, FL_E_NOMEM, "no memory to encode a word of %zu bytes", n);
}
