/* Frequencies against values computed with NumPy in f32 from the published formula. */
#include <math.h>

#include "model/rope.h"
#include "tap.h"
#include "util/mem.h"

typedef struct golden {
    int i;
    float value;
} golden;

static bool near(float got, float want) {
    return fabsf(got - want) <= 4e-7f * fabsf(want);
}

static void check_all(const char *what, const fl_rope_config *c, int64_t head_dim, const golden *g,
                      int n) {
    float f[64];
    fl_rope_frequencies(f, c, head_dim);
    for (int k = 0; k < n; k++)
        check(near(f[g[k].i], g[k].value), "%s: frequency %d is %.9g, want %.9g", what, g[k].i,
              (double)f[g[k].i], (double)g[k].value);
}

int main(void) {
    const fl_rope_config llama31 = {FL_ROPE_LLAMA3, 5e5, 8, 1, 4, 8192};
    const fl_rope_config llama32 = {FL_ROPE_LLAMA3, 5e5, 32, 1, 4, 8192};
    const fl_rope_config plain = {.type = FL_ROPE_DEFAULT, .theta = 5e5};
    const fl_rope_config linear = {.type = FL_ROPE_LINEAR, .theta = 5e5, .factor = 4};
    static const golden g31[] = {{1, .814617217f},      {29, .00216657063f},
                                 {31, .00085675146f},   {34, .000178507791f},
                                 {35, 9.55621217e-05f}, {63, 3.06892588e-07f}};
    static const golden g32[] = {{15, .00129054801f},
                                 {16, .000429556705f},
                                 {17, 9.70828623e-05f},
                                 {18, 1.94616387e-05f},
                                 {31, 9.41830649e-08f}};
    static const golden gplain[] = {{1, .814617217f}, {29, .00261609908f}, {34, .000938473851f}};
    static const golden glinear[] = {{1, .814617217f / 4}, {34, .000938473851f / 4}};
    check_all("llama 3.1", &llama31, 128, g31, 6);
    check_all("llama 3.2", &llama32, 64, g32, 5);
    check_all("default", &plain, 128, gplain, 3);
    check_all("linear", &linear, 128, glinear, 2);

    float table[3 * 4];
    fl_err err;
    check(!fl_rope_table(table, &plain, 4, 3, &err), "a table of 3 positions");
    float second = 1.0f / powf(5e5f, 0.5f);
    check(table[0] == 1 && table[1] == 1 && table[2] == 0 && table[3] == 0,
          "position 0 rotates by 0");
    check(near(table[8], (float)cos(2.0)) && near(table[10], (float)sin(2.0)),
          "position 2, first pair: cosine then sine");
    check(near(table[9], (float)cos(2.0 * (double)second)), "position 2, second pair");
    return tap_done();
}
