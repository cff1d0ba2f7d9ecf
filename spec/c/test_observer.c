/* Scales and codes of weights: equal to their definitions, to PyTorch's BF16 arithmetic in
 * compat, MSE at its own minimum, and 2:4 by the two scores. */
#include "quant/observer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "formats/sparse24.h"
#include "ref_backend.h"
#include "tap.h"
#include "util/mem.h"

enum { N = 150, K = 2200 }; /* more than one block and one piece, both with a rest */

static fl_team *team;
static float values[N * K], scales[N * 18];
static uint8_t data[N * K * 4], codes[N * K];

static double get(fl_dtype t, int64_t i) {
    return ref_get(data, t, i);
}

/* Random rows of different sizes; row 2 is all zero. */
static fl_st_tensor make(fl_dtype t, int64_t n, int64_t k, uint64_t seed) {
    ref_fill(values, FL_DTYPE_F32, n * k, 1.0, seed);
    for (int64_t i = 0; i < n * k; i++) {
        int64_t row = i / k;
        ref_set(data, t, i, row == 2 ? 0.0 : (double)values[i] * pow(1.07, (double)(row % 40)));
    }
    return (fl_st_tensor){.name = "w",
                          .file = "test",
                          .data = data,
                          .ndim = 2,
                          .dim = {n, k},
                          .dtype = t,
                          .bytes = (uint64_t)(n * k * fl_dtype_bytes(t))};
}

/* The index of the scale of element (row, column). */
static int64_t scale_of(const fl_weight *w, int64_t row, int64_t column) {
    int64_t dim[2];
    fl_weight_scale_shape(dim, w);
    if (w->grain == FL_GRAIN_BLOCK) return row / 128 * dim[1] + column / 128;
    return w->grain == FL_GRAIN_CHANNEL ? row : 0;
}

static int run(const fl_weight *w) {
    int rc = fl_weight_measure(scales, w, team, NULL);
    if (!rc) fl_weight_encode(codes, w, scales, team);
    return rc;
}

static void test_definitions(fl_dtype t) {
    const fl_st_tensor x = make(t, N, K, 5);
    for (fl_grain grain = FL_GRAIN_TENSOR; grain <= FL_GRAIN_BLOCK; grain++) {
        fl_weight w = {.tensor = &x, .grain = grain};
        int64_t dim[2], bad = 0, bad_scale = 0;
        fl_weight_scale_shape(dim, &w);
        double *amax = calloc((size_t)(dim[0] * dim[1]), sizeof(*amax));
        for (int64_t i = 0; i < N * K; i++) {
            double *m = &amax[scale_of(&w, i / K, i % K)];
            *m = fmax(*m, fabs(get(t, i)));
        }
        check(!run(&w), "%s, grain %d: measured", fl_dtype_name(t), (int)grain);
        for (int64_t i = 0; i < dim[0] * dim[1]; i++) {
            float want = amax[i] > 0 ? (float)amax[i] / 448.0f : 1.0f;
            bad_scale += scales[i] != want;
        }
        for (int64_t i = 0; i < N * K; i++) {
            float scale = scales[scale_of(&w, i / K, i % K)];
            bad += codes[i] != ref_e4m3((double)((float)get(t, i) / scale));
        }
        check(!bad_scale && !bad, "scales are amax / 448 (%lld wrong), codes the nearest (%lld)",
              (long long)bad_scale, (long long)bad);
        free(amax);
    }
}

/* sum of |error|^2.4 of what a scale covers, in units of that scale's largest magnitude */
static void errors(double *out, const fl_weight *w, fl_dtype t) {
    for (int64_t i = 0; i < N * K; i++) {
        int64_t s = scale_of(w, i / K, i % K);
        double e = ref_e4m3_value(codes[i]) * (double)scales[s] - get(t, i);
        out[s] += pow(fabs(e), 2.4);
    }
}

static void test_mse(void) {
    const fl_dtype t = FL_DTYPE_BF16;
    const fl_st_tensor x = make(t, N, K, 6);
    for (fl_grain grain = FL_GRAIN_TENSOR; grain <= FL_GRAIN_BLOCK; grain++) {
        double plain[N * 18] = {0}, mse[N * 18] = {0}, old[N * 18];
        fl_weight w = {.tensor = &x, .grain = grain};
        int64_t dim[2], worse = 0, better = 0, strange = 0;
        fl_weight_scale_shape(dim, &w);
        run(&w);
        for (int64_t i = 0; i < dim[0] * dim[1]; i++) old[i] = (double)scales[i];
        errors(plain, &w, t);
        w.mse = true;
        run(&w);
        errors(mse, &w, t);
        for (int64_t i = 0; i < dim[0] * dim[1]; i++) {
            double p = (double)scales[i] / old[i];
            worse += mse[i] > plain[i] * (1 + 1e-5);
            better += mse[i] < plain[i] * (1 - 1e-5);
            strange += p > 1.0 + 1e-6 || p < 0.21 - 1e-6 || fabs(p * 100 - rint(p * 100)) > 1e-4;
        }
        check(!worse, "mse, grain %d: never a larger error than minmax (%lld)", (int)grain,
              (long long)worse);
        check((better || grain == FL_GRAIN_TENSOR) && !strange,
              "a smaller one for %lld of %lld scales, p in steps of 0.01", (long long)better,
              (long long)(dim[0] * dim[1]));
    }
}

/* The best p of a row, by trying all 80. */
static double best_scale(int n) {
    double least = INFINITY, amax = 0, best = 0;
    for (int i = 0; i < n; i++) amax = fmax(amax, fabs(get(FL_DTYPE_F32, i)));
    for (int c = 0; c < 80; c++) {
        double scale = (1 - c / 100.0) * amax / 448, sum = 0;
        for (int i = 0; i < n; i++) {
            double v = get(FL_DTYPE_F32, i);
            sum += pow(fabs(ref_e4m3_value(ref_e4m3(v / scale)) * scale - v), 2.4);
        }
        if (sum < least * (1 - 1e-5)) {
            least = sum;
            best = scale;
        }
    }
    return best;
}

static void test_mse_minimum(void) {
    int bad = 0, shrunk = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        const fl_st_tensor x = make(FL_DTYPE_F32, 1, 64, seed);
        fl_weight w = {.tensor = &x, .grain = FL_GRAIN_CHANNEL};
        double best = best_scale(64);
        run(&w);
        shrunk += best < 0.995 * (double)scales[0];
        w.mse = true;
        run(&w);
        bad += !(fabs((double)scales[0] / best - 1) < 1e-5);
    }
    check(!bad && shrunk, "mse finds the best of 80 scales (%d not), of %d rows below p = 1", bad,
          shrunk);
}

static double score(const float *sumsq, int64_t i) {
    return fabs(get(FL_DTYPE_BF16, i)) * (sumsq ? sqrt((double)sumsq[i % K]) : 1.0);
}

static void test_prune(void) {
    static float sumsq[K];
    static uint8_t magnitude[N * K];
    const fl_st_tensor x = make(FL_DTYPE_BF16, N, K, 7);
    ref_fill(sumsq, FL_DTYPE_F32, K, 3.0, 8);
    for (int i = 0; i < K; i++) sumsq[i] = sumsq[i] * sumsq[i];
    for (int mse = 0; mse < 2; mse++) {
        for (int wanda = 0; wanda < 2; wanda++) {
            const float *s = wanda ? sumsq : NULL;
            fl_weight w = {&x, FL_GRAIN_CHANNEL, FL_ARITHMETIC_F32, mse, true, s};
            int64_t kept = 0, bad = 0, low = 0;
            check(!run(&w), "2:4 by %s%s", wanda ? "Wanda" : "magnitude", mse ? ", mse" : "");
            check(fl_sparse24_first_break(codes, FL_DTYPE_E4M3, N * K) < 0, "every group obeys");
            for (int64_t i = 0; i < N * K; i++) {
                bool zero = !(codes[i] & 0x7f);
                kept += !zero;
                float scale = scales[i / K];
                bad +=
                    !zero && codes[i] != ref_e4m3((double)((float)get(FL_DTYPE_BF16, i) / scale));
                if (zero) continue;
                int above = 0;
                for (int64_t g = i / 4 * 4; g < i / 4 * 4 + 4; g++)
                    above += score(s, g) > score(s, i) * (1 + 1e-6);
                low += above > 1;
            }
            check(
                !bad && !low && kept > (N - 1) * K / 2 * 9 / 10,
                "%lld kept, with the two highest scores (%lld not), as without pruning (%lld not)",
                (long long)kept, (long long)low, (long long)bad);
            if (!wanda) memcpy(magnitude, codes, N * K);
        }
        check(memcmp(magnitude, codes, N * K), "Wanda keeps others than magnitude does");
    }
}

static void test_compat(void) {
    static const struct {
        const char *name;
        fl_grain grain;
        fl_arithmetic arithmetic;
    } cases[] = {{"autofp8", FL_GRAIN_TENSOR, FL_ARITHMETIC_AUTOFP8},
                 {"tensor", FL_GRAIN_TENSOR, FL_ARITHMETIC_COMPRESSED_TENSORS},
                 {"channel", FL_GRAIN_CHANNEL, FL_ARITHMETIC_COMPRESSED_TENSORS},
                 {"block", FL_GRAIN_BLOCK, FL_ARITHMETIC_COMPRESSED_TENSORS}};
    fl_safetensors *st;
    fl_err err;
    int rc = fl_safetensors_open(&st, "spec/golden/quant.safetensors", &err);
    check(!rc, "spec/golden/quant.safetensors opens (%s)", rc ? err.msg : "");
    if (rc) return;
    const fl_st_tensor *x = fl_safetensors_find(st, "weight");
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        char name[64];
        snprintf(name, sizeof(name), "%s.codes", cases[c].name);
        const fl_st_tensor *want = fl_safetensors_find(st, name);
        snprintf(name, sizeof(name), "%s.scale", cases[c].name);
        const fl_st_tensor *scale = fl_safetensors_find(st, name);
        fl_weight w = {.tensor = x, .grain = cases[c].grain, .arithmetic = cases[c].arithmetic};
        int64_t bad = run(&w);
        for (int64_t i = 0; i < fl_st_numel(scale); i++) bad += scales[i] != fl_st_value(scale, i);
        check(!bad, "compat %s: scales as PyTorch's (%lld differ)", cases[c].name, (long long)bad);
        for (int64_t i = 0; i < fl_st_numel(want); i++) bad += codes[i] != want->data[i];
        check(!bad, "codes as PyTorch's (%lld differ)", (long long)bad);
    }
    fl_safetensors_close(st);
}

/* 448 / amax is two roundings in PyTorch: 1512 of these 5376 differ from one. */
static void test_autofp8_scale(void) {
    float amax = 0.69921875f;
    check(fl_arithmetic_scale(FL_ARITHMETIC_AUTOFP8, amax) == 0.0015625f,
          "AutoFP8: amax 0.69921875 has scale 1/640");
    int different = 0;
    for (uint16_t i = 0x3000; i < 0x4500; i++) {
        float a = (float)ref_get(&i, FL_DTYPE_BF16, 0);
        float m = (float)ref_round(FL_DTYPE_BF16, 448.0 / (double)a);
        different += fl_arithmetic_scale(FL_ARITHMETIC_AUTOFP8, a) != 1.0f / m;
    }
    check(different == 1512, "448 / amax rounds twice (%d)", different);
}

static void test_refusals(void) {
    fl_st_tensor x = make(FL_DTYPE_F16, 4, 12, 9);
    fl_weight w = {.tensor = &x};
    fl_err err;
    w.prune = true;
    check(fl_weight_measure(scales, &w, team, &err) == FL_E_UNSUPPORTED && strstr(err.msg, "2:4"),
          "12 columns for 2:4: %s", err.msg);
    w.prune = false;
    w.arithmetic = FL_ARITHMETIC_AUTOFP8;
    check(fl_weight_measure(scales, &w, team, &err) == FL_E_UNSUPPORTED && strstr(err.msg, "F16"),
          "compat of F16: %s", err.msg);
    w.arithmetic = FL_ARITHMETIC_F32;
    x.dtype = FL_DTYPE_I32;
    check(fl_weight_measure(scales, &w, team, &err) == FL_E_UNSUPPORTED && strstr(err.msg, "I32"),
          "dtype: %s", err.msg);
    for (int pruned = 0; pruned < 2; pruned++) {
        x = make(FL_DTYPE_F32, 4, 16, 10);
        ref_set(data, FL_DTYPE_F32, 37, NAN);
        w.prune = pruned;
        check(fl_weight_measure(scales, &w, team, &err) == FL_E_FORMAT && strstr(err.msg, "NaN"),
              "NaN%s: %s", pruned ? ", although pruning could drop it" : "", err.msg);
    }
}

static int mse_step(void *ctx) {
    return fl_weight_measure(scales, ctx, team, NULL);
}

int main(void) {
    fl_err err;
    if (fl_team_new(&team, 3, &err)) return 1;
    test_definitions(FL_DTYPE_BF16);
    test_definitions(FL_DTYPE_F16);
    test_definitions(FL_DTYPE_F32);
    test_mse();
    test_mse_minimum();
    test_prune();
    test_compat();
    test_autofp8_scale();
    test_refusals();
    const fl_st_tensor x = make(FL_DTYPE_BF16, 8, 64, 12);
    fl_weight w = {.tensor = &x, .mse = true};
    int n = fixture_sweep(mse_step, &w);
    check(n == 1, "one allocation, and it may fail (%d)", n);
    fl_team_free(team);
    return tap_done();
}
