#include "engine/sampler_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "util/fp8.h"
#include "util/mem.h"

/* aligned(4): rows start anywhere.  Vectors travel by pointer: without AVX there is no
 * register to pass one of 32 bytes in. */
typedef float vecf __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t veci __attribute__((vector_size(32), aligned(4), may_alias));

enum { LANES = 8, VECS = FL_ROW_BLOCK / LANES };

#define INLINE static inline __attribute__((always_inline))

/* Compile body twice on x86, for AVX2 and for the baseline, and choose at run time: the
 * same operations in the same order, so the same bits. */
#if defined(__x86_64__)
#define AVX2              __attribute__((target("avx2")))
#define BEST(avx2, plain) (__builtin_cpu_supports("avx2") ? (avx2) : (plain))
#else
#define AVX2
#define BEST(avx2, plain) (plain)
#endif

/* to = mask ? to : other */
INLINE void keep_where(vecf *to, const veci *mask, const vecf *other) {
    *to = (vecf)((*mask & (veci)*to) | (~*mask & (veci)*other));
}

INLINE void raise_to(vecf *a, const vecf *b) {
    veci higher = *b > *a; /* a NaN in b loses */
    vecf old = *a;
    *a = *b;
    keep_where(a, &higher, &old);
}

INLINE float max_of_block(const float *x, veci *nan) {
    const vecf *v = (const vecf *)x;
    vecf a = (vecf){0} - INFINITY, b = a;
    for (int i = 0; i < VECS; i += 2) {
        raise_to(&a, &v[i]);
        raise_to(&b, &v[i + 1]);
        *nan |= (v[i] != v[i]) | (v[i + 1] != v[i + 1]);
    }
    raise_to(&a, &b);
    float m = a[0];
    for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m;
    return m;
}

/* The last block padded with -inf, so that it takes the same path. */
INLINE void pad_block(float out[FL_ROW_BLOCK], const float *x, int32_t n) {
    for (int i = 0; i < FL_ROW_BLOCK; i++) out[i] = i < n ? x[i] : -INFINITY;
}

INLINE float row_max(const float *x, int32_t n, float *block_max, bool *has_nan) {
    float max = -INFINITY, tail[FL_ROW_BLOCK];
    veci nan = {0};
    for (int32_t b = 0, i = 0; i < n; b++, i += FL_ROW_BLOCK) {
        const float *block = x + i;
        if (n - i < FL_ROW_BLOCK) {
            pad_block(tail, block, n - i);
            block = tail;
        }
        float m = max_of_block(block, &nan);
        if (block_max) block_max[b] = m;
        if (m > max) max = m;
    }
    for (int i = 0; has_nan && i < LANES; i++) *has_nan = (i && *has_nan) || nan[i];
    return max;
}

AVX2 static float row_max_avx2(const float *x, int32_t n, float *block_max, bool *has_nan) {
    return row_max(x, n, block_max, has_nan);
}
static float row_max_plain(const float *x, int32_t n, float *block_max, bool *has_nan) {
    return row_max(x, n, block_max, has_nan);
}

float fl_row_max(const float *x, int32_t n, float *block_max, bool *has_nan) {
    return BEST(row_max_avx2, row_max_plain)(x, n, block_max, has_nan);
}

int32_t fl_row_argmax(const float *x, int32_t n, const float *block_max, float max) {
    int32_t i = 0;
    if (block_max) {
        int32_t b = 0, blocks = fl_row_blocks(n);
        while (b < blocks && block_max[b] != max) b++;
        i = b < blocks ? b * FL_ROW_BLOCK : 0;
    }
    for (; i < n; i++) {
        if (x[i] == max) return i;
    }
    return 0;
}

/* e^x for x <= 0, relative error below 2e-7; 0 below -87, so also for -inf.
 * e^x = 2^k * e^r, k = round(x / ln 2), |r| <= ln 2 / 2.  The polynomial is a minimax
 * fit of (e^r - 1 - r) / r^2 (weighted least squares, our own). */
INLINE void exp_in_place(vecf *x) {
    const vecf zero = {0}, lowest = zero - 87.0f;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    veci in_range = *x > lowest;
    vecf safe = *x;
    keep_where(&safe, &in_range, &lowest);
    vecf kf = safe * 1.44269504f + magic;
    veci k = (veci)kf;
    kf -= magic;
    vecf r = safe - kf * 0.693359375f; /* ln 2 in two parts, the first exact */
    r -= kf * -2.12194440e-4f;
    vecf p = r * 1.38145988e-3f + 8.36871658e-3f;
    p = p * r + 4.16683890e-2f;
    p = p * r + 1.66665211e-1f;
    p = p * r + 4.99999940e-1f;
    p = p * (r * r) + r + 1.0f;
    *x = (vecf)((veci)p + (k << 23)); /* magic's own low bits are zero */
    keep_where(x, &in_range, &zero);
}

INLINE float exp_block(const float *x, float max, float *w) {
    const vecf *v = (const vecf *)x;
    vecf a = {0}, b = a;
    for (int i = 0; i < VECS; i += 2) {
        vecf e0 = v[i] - max, e1 = v[i + 1] - max;
        exp_in_place(&e0);
        exp_in_place(&e1);
        a += e0;
        b += e1;
        if (w) {
            ((vecf *)w)[i] = e0;
            ((vecf *)w)[i + 1] = e1;
        }
    }
    a += b;
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

INLINE double row_exp(const float *x, int32_t n, float max, float *w) {
    double sum = 0.0; /* f32 inside a block, double between blocks */
    int32_t i = 0;
    for (; n - i >= FL_ROW_BLOCK; i += FL_ROW_BLOCK)
        sum += (double)exp_block(x + i, max, w ? w + i : NULL);
    if (i < n) {
        float tail[FL_ROW_BLOCK];
        pad_block(tail, x + i, n - i);
        sum += (double)exp_block(tail, max, tail);
        if (w) memcpy(w + i, tail, (size_t)(n - i) * sizeof(*w));
    }
    return sum;
}

AVX2 static double row_exp_avx2(const float *x, int32_t n, float max, float *w) {
    return row_exp(x, n, max, w);
}
static double row_exp_plain(const float *x, int32_t n, float max, float *w) {
    return row_exp(x, n, max, w);
}

double fl_row_exp(const float *x, int32_t n, float max, float *w) {
    return BEST(row_exp_avx2, row_exp_plain)(x, n, max, w);
}

int32_t fl_row_collect(const float *x, int32_t n, const float *block_max, float threshold,
                       int32_t *ids) {
    int32_t m = 0;
    for (int32_t b = 0, start = 0; start < n; b++, start += FL_ROW_BLOCK) {
        if (!(block_max[b] >= threshold) || block_max[b] == -INFINITY) continue;
        int32_t end = n - start < FL_ROW_BLOCK ? n : start + FL_ROW_BLOCK;
        for (int32_t i = start; i < end; i++) { /* no branch: ids has room for every i */
            ids[m] = i;
            m += (x[i] >= threshold) & (x[i] > -INFINITY);
        }
    }
    return m;
}

void fl_row_scale(float *x, int32_t n, float divisor) {
    int32_t i = 0;
    for (; n - i >= LANES; i += LANES) *(vecf *)(x + i) /= divisor;
    for (; i < n; i++) x[i] /= divisor;
}

/* Unsigned key in the order of the floats; both zeros get one key. */
static inline uint32_t key_of(float x) {
    uint32_t u = fl_f32_bits(x + 0.0f);
    return u ^ (u >> 31 ? 0xffffffffu : 0x80000000u);
}

static float value_of(uint32_t key) {
    return fl_bits_f32(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

float fl_row_select(const float *x, const float *w, int32_t n, double target, double *above) {
    static const struct { int shift, bits; } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t prefix = 0; /* the key's leading digits found so far */
    double sum = 0.0;    /* weight of keys above every key with this prefix */
    for (int d = 0; d < 3; d++) {
        double weight[1 << 11] = {0};
        int shift = digits[d].shift, bits = digits[d].bits, buckets = 1 << bits;
        for (int32_t i = 0; i < n; i++) {
            uint32_t key = key_of(x[i]) >> shift;
            if (d && key >> bits != prefix) continue;
            /* A weight of 0 must leave a trace; 1e-300 vanishes beside any other. */
            weight[key & (uint32_t)(buckets - 1)] += w ? (double)w[i] + 1e-300 : 1.0;
        }
        int b = buckets - 1, lowest = 0;
        while (weight[lowest] == 0.0) lowest++;
        while (b > lowest && sum + weight[b] < target) sum += weight[b--];
        prefix = prefix << bits | (uint32_t)b;
    }
    *above = sum;
    return value_of(prefix);
}

float fl_row_bound(const float *block_max, int32_t n, int32_t k) {
    double above;
    int32_t blocks = fl_row_blocks(n);
    return k <= blocks ? fl_row_select(block_max, NULL, blocks, (double)k, &above) : -INFINITY;
}

double fl_logsumexp(const float *logits, int32_t n) {
    float max = fl_row_max(logits, n, NULL, NULL);
    if (!(max > -INFINITY && max < INFINITY)) return (double)max;
    return (double)max + log(fl_row_exp(logits, n, max, NULL));
}

int32_t fl_argmax(const float *logits, int32_t n) {
    return fl_row_argmax(logits, n, NULL, fl_row_max(logits, n, NULL, NULL));
}

typedef struct ranked {
    float value;
    int32_t id;
} ranked;

static int by_rank(const void *pa, const void *pb) {
    const ranked *a = pa, *b = pb;
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Ids of at least the k largest elements, few more when k is small; returns how many.
 * 0: the row holds NaN. */
static int32_t collect_top(const float *x, int32_t n, int32_t k, float *block_max, int32_t *ids) {
    double above;
    int32_t m = 0;
    bool nan;
    fl_row_max(x, n, block_max, &nan);
    if (nan) return 0;
    float bound = fl_row_bound(block_max, n, k);
    if (bound > -INFINITY) return fl_row_collect(x, n, block_max, bound, ids);
    bound = fl_row_select(x, NULL, n, (double)k, &above);
    for (int32_t i = 0; i < n; i++) {
        ids[m] = i;
        m += x[i] >= bound;
    }
    return m;
}

int fl_topk(const float *logits, int32_t n, int32_t k, int32_t *ids, float *values, fl_err *err) {
    int rc = FL_OK;
    if (k < 1 || k > n) return fl_fail(err, FL_E_ARG, "top-k: %d not in [1, %d]", (int)k, (int)n);
    float *block_max = fl_alloc_array((size_t)fl_row_blocks(n), sizeof(*block_max));
    int32_t *list = fl_alloc_array((size_t)n, sizeof(*list));
    ranked *best = NULL;
    if (!block_max || !list) goto no_memory;
    int32_t m = collect_top(logits, n, k, block_max, list);
    if (!m) {
        rc = fl_fail(err, FL_E_ARG, "top-k: the row holds nan");
        goto done;
    }
    if (!(best = fl_alloc_array((size_t)m, sizeof(*best)))) goto no_memory;
    for (int32_t i = 0; i < m; i++) best[i] = (ranked){logits[list[i]], list[i]};
    qsort(best, (size_t)m, sizeof(*best), by_rank);
    for (int32_t i = 0; i < k; i++) {
        ids[i] = best[i].id;
        values[i] = best[i].value;
    }
    goto done;
no_memory:
    rc = fl_fail(err, FL_E_NOMEM, "top-k: %d of %d", (int)k, (int)n);
done:
    fl_free(best);
    fl_free(list);
    fl_free(block_max);
    return rc;
}
