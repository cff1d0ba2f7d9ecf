#include "engine/ngram.h"

static int32_t token_at(const fl_history *h, int64_t i) {
    const int64_t n_prompt = (int64_t)h->n_prompt;
    return i < n_prompt ? h->prompt[i] : h->output[i - n_prompt];
}

/* How many tokens up to and including `end` equal the last ones, at most `max`. */
static int64_t match(const fl_history *h, int64_t length, int64_t end, int64_t max) {
    int64_t k = 0;
    while (k < max && k <= end && token_at(h, end - k) == token_at(h, length - 1 - k)) k++;
    return k;
}

int64_t fl_ngram_guess(const fl_ngram *g, const fl_history *h, int32_t *out, int64_t n) {
    const int64_t length = (int64_t)(h->n_prompt + h->n_output);
    int64_t best = 0, from = 0;
    for (int64_t end = length - 2; end >= 0 && best < g->max; end--) {
        int64_t k = match(h, length, end, g->max);
        if (k <= best) continue;
        best = k;
        from = end + 1;
    }
    if (best < g->min) return 0;
    for (int64_t i = 0; i < n; i++)
        out[i] = from + i < length ? token_at(h, from + i) : out[from + i - length];
    return n;
}
