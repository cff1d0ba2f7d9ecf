#include "text/vocab.h"

bool fl_vocab_init(fl_vocab *v, int32_t n) {
    uint32_t slots = 64;
    while (slots < (uint32_t)n * 2) slots *= 2;
    *v = (fl_vocab){.n = n, .cap = n, .mask = slots - 1};
    v->tokens = fl_alloc_array((size_t)n, sizeof(*v->tokens));
    v->by_piece = fl_alloc_array(slots, sizeof(*v->by_piece));
    v->by_bytes = fl_alloc_array(slots, sizeof(*v->by_bytes));
    if (!v->tokens || !v->by_piece || !v->by_bytes) return false;
    memset(v->by_piece, -1, slots * sizeof(*v->by_piece));
    memset(v->by_bytes, -1, slots * sizeof(*v->by_bytes));
    return true;
}

void fl_vocab_deinit(fl_vocab *v) {
    fl_free(v->tokens);
    fl_free(v->by_piece);
    fl_free(v->by_bytes);
    fl_arena_free(&v->text);
    *v = (fl_vocab){0};
}

static bool same(const char *a, size_t n_a, const char *b, size_t n_b) {
    return n_a == n_b && !memcmp(a, b, n_a);
}

/* The slot that holds the piece, or the free one where it belongs. */
static int32_t *piece_slot(const fl_vocab *v, const char *s, size_t n) {
    for (uint32_t i = fl_vocab_hash(s, n);; i++) {
        int32_t *slot = &v->by_piece[i & v->mask];
        if (*slot < 0) return slot;
        const fl_vocab_token *t = &v->tokens[*slot];
        if (same(t->piece, t->n_piece, s, n)) return slot;
    }
}

static int32_t *bytes_slot(const fl_vocab *v, const char *s, size_t n) {
    for (uint32_t i = fl_vocab_hash(s, n);; i++) {
        int32_t *slot = &v->by_bytes[i & v->mask];
        if (*slot < 0) return slot;
        const fl_vocab_token *t = &v->tokens[*slot];
        if (same(t->bytes, t->n_bytes, s, n)) return slot;
    }
}

static bool grow_tokens(fl_vocab *v, int32_t n) {
    int32_t cap = n + n / 8;
    fl_vocab_token *grown = fl_grow(v->tokens, (size_t)cap * sizeof(*grown));
    if (!grown) return false;
    memset(grown + v->cap, 0, (size_t)(cap - v->cap) * sizeof(*grown));
    v->tokens = grown;
    v->cap = cap;
    return true;
}

/* Twice the slots; each table is filled again from what it had. */
static bool grow_tables(fl_vocab *v) {
    const uint32_t slots = v->mask + 1;
    int32_t *old[] = {v->by_piece, v->by_bytes};
    int32_t *tables[] = {fl_alloc_array(2 * (size_t)slots, sizeof(int32_t)),
                         fl_alloc_array(2 * (size_t)slots, sizeof(int32_t))};
    if (!tables[0] || !tables[1]) {
        fl_free(tables[0]);
        fl_free(tables[1]);
        return false;
    }
    v->mask = 2 * slots - 1;
    v->by_piece = tables[0];
    v->by_bytes = tables[1];
    for (int k = 0; k < 2; k++) {
        memset(tables[k], -1, 2 * (size_t)slots * sizeof(int32_t));
        for (uint32_t i = 0; i < slots; i++) {
            if (old[k][i] < 0) continue;
            const fl_vocab_token *t = &v->tokens[old[k][i]];
            *(k ? bytes_slot(v, t->bytes, t->n_bytes) : piece_slot(v, t->piece, t->n_piece)) =
                old[k][i];
        }
        fl_free(old[k]);
    }
    return true;
}

bool fl_vocab_grow(fl_vocab *v, int32_t n) {
    if (n > v->cap && !grow_tokens(v, n)) return false;
    if ((uint32_t)n * 2 > v->mask + 1 && !grow_tables(v)) return false;
    if (n > v->n) v->n = n;
    return true;
}

static const char *keep(fl_vocab *v, const char *s, size_t n) {
    char *copy = fl_arena_alloc(&v->text, n + 1);
    if (copy && n) memcpy(copy, s, n);
    return copy;
}

fl_vocab_result fl_vocab_set(fl_vocab *v, int32_t id, const char *piece, size_t n_piece,
                             const char *bytes, size_t n_bytes, bool word) {
    fl_vocab_token *t = &v->tokens[id];
    int32_t *slot = piece_slot(v, piece, n_piece);
    if (t->piece || *slot >= 0) return FL_VOCAB_TAKEN;
    const char *kept_piece = keep(v, piece, n_piece);
    const char *kept_bytes =
        same(piece, n_piece, bytes, n_bytes) ? kept_piece : keep(v, bytes, n_bytes);
    if (!kept_piece || !kept_bytes) return FL_VOCAB_NOMEM;
    *t = (fl_vocab_token){.piece = kept_piece,
                          .bytes = kept_bytes,
                          .n_piece = (uint16_t)n_piece,
                          .n_bytes = (uint16_t)n_bytes,
                          .word = word};
    *slot = id;
    if (!word) return FL_VOCAB_OK;
    slot = bytes_slot(v, bytes, n_bytes);
    if (*slot < 0) *slot = id;
    return FL_VOCAB_OK;
}

bool fl_vocab_set_bytes(fl_vocab *v, int32_t id, const char *bytes, size_t n) {
    const char *kept = keep(v, bytes, n);
    if (!kept) return false;
    v->tokens[id].bytes = kept;
    v->tokens[id].n_bytes = (uint16_t)n;
    return true;
}

int32_t fl_vocab_find_piece(const fl_vocab *v, const char *s, size_t n) {
    return *piece_slot(v, s, n);
}

int32_t fl_vocab_find_bytes(const fl_vocab *v, const char *s, size_t n) {
    return *bytes_slot(v, s, n);
}
