#include "engine/ngram.h"

#include <string.h>

#include "tap.h"

typedef struct guess_case {
    const char *text; /* a letter is a token; '|' ends the prompt */
    int64_t min, max, n;
    const char *want, *name;
} guess_case;

static const guess_case cases[] = {
    {"abcdxyzab|c", 2, 4, 3, "dxy", "what followed the same tokens"},
    {"abcdxyz|", 1, 4, 3, "", "nothing where nothing repeats"},
    {"abxaby|ab", 2, 4, 2, "ya", "the latest of equal matches"},
    {"qabcX..abcY..zabc|", 1, 4, 1, "Y", "the latest of equally long ones"},
    {"qabcX..abcY..qabc|", 1, 4, 1, "X", "the longer before the later"},
    {"qabcX..abcY..qabc|", 1, 3, 1, "Y", "no longer than max"},
    {"aXbaYa|", 2, 4, 2, "", "no shorter than min"},
    {"aXbaYa|", 1, 4, 2, "Ya", "one token is enough for min 1"},
    {"ab|abab", 1, 4, 6, "ababab", "a match near the end goes on into its own guess"},
    {"|aaaa", 2, 2, 3, "aaa", "a repeated token"},
    {"a|", 1, 4, 3, "", "a single token"},
    {"|", 1, 4, 3, "", "no token"},
    {"ab|ab", 1, 4, 0, "", "none wanted"},
};

int main(void) {
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        const guess_case *g = &cases[c];
        int32_t prompt[32], output[32], out[32];
        fl_history h = {prompt, 0, output, 0};
        bool in_prompt = true, same = true;
        for (const char *p = g->text; *p; p++) {
            if (*p == '|')
                in_prompt = false;
            else if (in_prompt)
                prompt[h.n_prompt++] = *p;
            else
                output[h.n_output++] = *p;
        }
        const fl_ngram limits = {g->min, g->max};
        int64_t n = fl_ngram_guess(&limits, &h, out, g->n);
        for (int64_t i = 0; i < n; i++) same = same && out[i] == g->want[i];
        check(n == (int64_t)strlen(g->want) && same, "%s: %d tokens", g->name, (int)n);
    }
    return tap_done();
}
