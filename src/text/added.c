#include "text/added.h"

#include "util/mem.h"

struct fl_added_node {
    uint32_t child, sibling; /* 0: none; node 0 is not used */
    uint32_t token;          /* index + 1, 0: no token ends here */
    uint8_t byte;
};

static uint32_t new_node(fl_added *a, uint8_t byte) {
    if (a->n_nodes == a->cap_nodes) {
        uint32_t cap = a->cap_nodes ? a->cap_nodes * 2 : 256;
        struct fl_added_node *grown = fl_grow(a->nodes, cap * sizeof(*grown));
        if (!grown) return 0;
        a->nodes = grown;
        a->cap_nodes = cap;
        if (!a->n_nodes) a->n_nodes = 1;
    }
    a->nodes[a->n_nodes] = (struct fl_added_node){.byte = byte};
    return a->n_nodes++;
}

static uint32_t child_of(const fl_added *a, uint32_t node, uint8_t byte) {
    uint32_t c = a->nodes[node].child;
    while (c && a->nodes[c].byte != byte) c = a->nodes[c].sibling;
    return c;
}

/* The node after one more byte, made when missing; 0: no memory. */
static uint32_t step_to(fl_added *a, uint32_t node, uint8_t byte) {
    uint32_t c = node ? child_of(a, node, byte) : a->first[byte];
    if (c || !(c = new_node(a, byte))) return c;
    if (node) {
        a->nodes[c].sibling = a->nodes[node].child;
        a->nodes[node].child = c;
    } else {
        a->first[byte] = c;
    }
    return c;
}

bool fl_added_put(fl_added *a, const char *text, size_t n, fl_added_token token) {
    if (a->n_tokens == a->cap_tokens) {
        uint32_t cap = a->cap_tokens ? a->cap_tokens * 2 : 64;
        fl_added_token *grown = fl_grow(a->tokens, cap * sizeof(*grown));
        if (!grown) return false;
        a->tokens = grown;
        a->cap_tokens = cap;
    }
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++)
        if (!(node = step_to(a, node, (uint8_t)text[i]))) return false;
    a->tokens[a->n_tokens++] = token;
    a->nodes[node].token = a->n_tokens;
    a->any_plain = a->any_plain || !token.special;
    return true;
}

void fl_added_deinit(fl_added *a) {
    fl_free(a->nodes);
    fl_free(a->tokens);
    *a = (fl_added){0};
}

static bool is_trusted(const fl_text *t, size_t i) {
    i += t->at;
    return !t->trusted || (t->trusted[i / 8] >> (i % 8) & 1);
}

/* The longest token that starts at begin, NULL: none. */
static const fl_added_token *longest_at(const fl_added *a, const fl_text *t, size_t begin,
                                        size_t *end) {
    const fl_added_token *best = NULL;
    uint32_t node = a->first[(uint8_t)t->s[begin]];
    bool trusted = true;
    for (size_t i = begin; node;) {
        trusted = trusted && is_trusted(t, i);
        i++;
        uint32_t token = a->nodes[node].token;
        if (token && (trusted || !a->tokens[token - 1].special)) {
            best = &a->tokens[token - 1];
            *end = i;
        }
        node = i < t->n ? child_of(a, node, (uint8_t)t->s[i]) : 0;
    }
    return best;
}

const fl_added_token *fl_added_find(const fl_added *a, const fl_text *t, size_t *begin,
                                    size_t *end) {
    for (; *begin < t->n; ++*begin) {
        if (!a->first[(uint8_t)t->s[*begin]]) continue;
        const fl_added_token *found = longest_at(a, t, *begin, end);
        if (found) return found;
    }
    return NULL;
}
