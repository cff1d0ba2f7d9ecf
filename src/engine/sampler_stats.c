#include "engine/sampler_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "util/fp8.h"
#include "util/mem.h"

/* aligned(4): rows start anywhere. */
typedef float vecf __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t veci __attribute__((vector_size(16), aligned(4), may_alias));

enum { LANES = 4, VECS = FL_ROW_BLOCK / LANES };

#define INLINE static inline __attribute__((always_inline))

INLINE vecf splat(float x) {
    return (vecf){x, x, x, x};
}

INLINE vecf pick(veci mask, vecf yes, vecf no) {
    return (vecf)((mask & (veci)yes) | (~mask & (veci)no));
}

INLINE vecf vec_max(vecf a, vecf b) {
    return pick(b > a, b, a); /* a NaN in b loses */
}

static float max_of_block(const float *x, veci *nan) {
    const vecf *v = (const vecf *)x;
    vecf a = splat(-INFINITY), b = a;
    for (int i = 0; i < VECS; i += 2) {
        a = vec_max(a, v[i]);
        b = vec_max(b, v[i + 1]);
        *nan |= (v[i] != v[i]) | (v[i + 1] != v[i + 1]);
    }
    a = vec_max(a, b);
    float m = a[0];
    for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m;
    return m;
}

/* The last block padded with -inf, so that it takes the same path. */
static void pad_block(float out[FL_ROW_BLOCK], const float *x, int32_t n) {
    for (int i = 0; i < FL_ROW_BLOCK; i++) out[i] = i < n ? x[i] : -INFINITY;
}

float fl_row_max(const float *x, int32_t n, float *block_max, bool *has_nan) {
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
    if (has_nan) *has_nan = nan[0] | nan[1] | nan[2] | nan[3];
    return max;
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
INLINE vecf vec_exp(vecf x) {
    const vecf lowest = splat(-87.0f), magic = splat(12582912.0f); /* 1.5 * 2^23: rounds */
    vecf safe = pick(x > lowest, x, lowest);
    vecf kf = safe * splat(1.44269504f) + magic;
    veci k = (veci)kf;
    kf -= magic;
    vecf r = safe - kf * splat(0.693359375f); /* ln 2 in two parts, the first exact */
    r -= kf * splat(-2.12194440e-4f);
    vecf p = splat(1.38145988e-3f);
    p = p * r + splat(8.36871658e-3f);
    p = p * r + splat(4.16683890e-2f);
    p = p * r + splat(1.66665211e-1f);
    p = p * r + splat(4.99999940e-1f);
    p = p * (r * r) + r + splat(1.0f);
    veci scaled = (veci)p + (k << 23); /* magic's own low bits are zero */
    return pick(x > lowest, (vecf)scaled, splat(0.0f));
}

static float exp_block(const float *x, float max, float *w) {
    const vecf *v = (const vecf *)x, shift = splat(max);
    vecf a = splat(0.0f), b = a;
    for (int i = 0; i < VECS; i += 2) {
        vecf e0 = vec_exp(v[i] - shift), e1 = vec_exp(v[i + 1] - shift);
        a += e0;
        b += e1;
        if (w) {
            ((vecf *)w)[i] = e0;
            ((vecf *)w)[i + 1] = e1;
        }
    }
    a += b;
    return (a[0] + a[1]) + (a[2] + a[3]);
}

double fl_row_exp(const float *x, int32_t n, float max, float *w) {
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
    for (; n - i >= LANES; i += LANES) *(vecf *)(x + i) /= splat(divisor);
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

float fl_logsumexp(const float *logits, int32_t n) {
    float max = fl_row_max(logits, n, NULL, NULL);
    if (!(max > -INFINITY && max < INFINITY)) return max;
    return (float)((double)max + log(fl_row_exp(logits, n, max, NULL)));
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
