#include "engine/sampler_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "util/fp8.h"
#include "util/mem.h"
#include "util/rng.h"

/* aligned(4): rows start anywhere.  Vectors travel by pointer: without AVX there is no
 * register to pass one of 32 bytes in. */
typedef float vecf __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t veci __attribute__((vector_size(32), aligned(4), may_alias));

enum { LANES = 8, VECS = FL_ROW_BLOCK / LANES };

#define INLINE static inline __attribute__((always_inline))

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

INLINE void row_scale(float *to, const float *x, int32_t n, float divisor) {
    int32_t i = 0;
    for (; n - i >= LANES; i += LANES) *(vecf *)(to + i) = *(const vecf *)(x + i) / divisor;
    for (; i < n; i++) to[i] = x[i] / divisor;
}

/* ---- the race ---- */

/* The largest random number with which a token of this weight may have a key of at most `best`,
 * with some room for rounding; -1: none, 0 being too large. */
INLINE int64_t highest_word(float weight, double best) {
    const double bound = (double)weight * best * (1.001 * 0x1p32);
    if (bound < 0.5) return -1;
    return bound < 0x1p32 ? (int64_t)bound : UINT32_MAX;
}

static int32_t contender_plain(const fl_row_race *r, int32_t b, double best,
                               uint32_t words[FL_ROW_BLOCK]) {
    for (; b < r->blocks; b++) {
        const int64_t highest = highest_word(r->weight[b], best);
        bool found = false;
        for (uint32_t i = 0; i < FL_ROW_BLOCK && highest >= 0; i += 4) {
            const uint32_t counter[4] = {((uint32_t)b * FL_ROW_BLOCK + i) / 4, (uint32_t)r->draw,
                                         (uint32_t)(r->draw >> 32), 0};
            fl_philox(words + i, counter, r->seed);
            for (uint32_t k = i; k < i + 4; k++) found |= words[k] <= highest;
        }
        if (found) return b;
    }
    return b;
}

#if defined(__x86_64__)

typedef uint32_t vecu __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint64_t vecw __attribute__((vector_size(32), aligned(4), may_alias));

/* Philox in lanes of 64 bits, so that a product stays where it is: words are the lower halves,
 * what is above them is of no meaning. */
enum { COUNTERS = 4, CHAINS = FL_ROW_BLOCK / 4 / COUNTERS, ROUNDS = 10 };

typedef struct philox {
    vecw factor[2], key[ROUNDS][2], draw[2];
} philox;

/* GCC has no vector operation for these two, clang finds them in the plain form. */
#if defined(__clang__)
INLINE void multiply(vecw *product, const vecw *a, const vecw *b) {
    *product = (*a & 0xffffffffu) * (*b & 0xffffffffu);
}
INLINE void lower_to(vecu *least, const vecu *a) {
    const vecu less = (vecu)(*a < *least);
    *least = (less & *a) | (~less & *least);
}
#else
INLINE void multiply(vecw *product, const vecw *a, const vecw *b) {
    __asm__("vpmuludq %2, %1, %0" : "=v"(*product) : "v"(*a), "v"(*b));
}
INLINE void lower_to(vecu *least, const vecu *a) {
    __asm__("vpminud %1, %0, %0" : "+v"(*least) : "v"(*a));
}
#endif

INLINE void philox_init(philox *p, uint64_t seed, uint64_t draw) {
    const vecw zero = {0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    p->factor[0] = zero + 0xD2511F53u;
    p->factor[1] = zero + 0xCD9E8D57u;
    p->draw[0] = zero + (uint32_t)draw;
    p->draw[1] = zero + (uint32_t)(draw >> 32);
    for (int i = 0; i < ROUNDS; i++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        p->key[i][0] = zero + k0;
        p->key[i][1] = zero + k1;
    }
}

/* fl_philox for the counters {group + i, draw, draw >> 32, 0}, 0 <= i < FL_ROW_BLOCK / 4. */
INLINE void philox_block(vecw c[CHAINS][4], const philox *p, uint32_t group) {
#pragma GCC unroll 4
    for (int j = 0; j < CHAINS; j++) {
        c[j][0] = (vecw){0, 1, 2, 3} + (group + (uint32_t)(j * COUNTERS));
        c[j][1] = p->draw[0];
        c[j][2] = p->draw[1];
        c[j][3] = (vecw){0};
    }
#pragma GCC unroll 10
    for (int i = 0; i < ROUNDS; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < CHAINS; j++) { /* side by side: each waits for itself */
            vecw p0, p1;
            multiply(&p0, &c[j][0], &p->factor[0]);
            multiply(&p1, &c[j][2], &p->factor[1]);
            c[j][0] = (p1 >> 32) ^ c[j][1] ^ p->key[i][0];
            c[j][2] = (p0 >> 32) ^ c[j][3] ^ p->key[i][1];
            c[j][1] = p1;
            c[j][3] = p0;
        }
    }
}

/* Whether a word is at most `highest`. */
INLINE bool any_word_below(const vecw c[CHAINS][4], uint32_t highest) {
    vecu least = (vecu){0} - 1u;
#pragma GCC unroll 4
    for (int j = 0; j < CHAINS; j++) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) lower_to(&least, (const vecu *)&c[j][k]);
    }
    const vecu in = (vecu)(least <= (vecu){0} + highest);
    const vecw w = (vecw)in;
    return (uint32_t)(w[0] | w[1] | w[2] | w[3]);
}

INLINE int32_t row_contender(const fl_row_race *r, int32_t b, double best,
                             uint32_t words[FL_ROW_BLOCK]) {
    philox p;
    philox_init(&p, r->seed, r->draw);
    for (; b < r->blocks; b++) {
        const int64_t highest = highest_word(r->weight[b], best);
        vecw c[CHAINS][4];
        if (highest < 0) continue;
        philox_block(c, &p, (uint32_t)b * (FL_ROW_BLOCK / 4));
        if (!any_word_below(c, (uint32_t)highest)) continue;
        for (int i = 0; i < FL_ROW_BLOCK / 4; i++) {
            for (int k = 0; k < 4; k++)
                words[4 * i + k] = (uint32_t)c[i / COUNTERS][k][i % COUNTERS];
        }
        return b;
    }
    return b;
}
#endif

/* ---- one form of the passes for each instruction set ---- */

/* The same operations in the same order, so the same bits. */
#define FORM(isa, attribute)                                                                       \
    attribute static float max_##isa(const float *x, int32_t n, float *block_max, bool *nan) {     \
        return row_max(x, n, block_max, nan);                                                      \
    }                                                                                              \
    attribute static double exp_##isa(const float *x, int32_t n, float max, float *w) {            \
        return row_exp(x, n, max, w);                                                              \
    }                                                                                              \
    attribute static void scale_##isa(float *to, const float *x, int32_t n, float divisor) {       \
        row_scale(to, x, n, divisor);                                                              \
    }                                                                                              \
    static const fl_row_form isa = {#isa, max_##isa, exp_##isa, scale_##isa, contender_##isa}

FORM(plain, );

#if defined(__x86_64__)
#define AVX2   __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw")))

AVX2 static int32_t contender_avx2(const fl_row_race *r, int32_t b, double best, uint32_t *words) {
    return row_contender(r, b, best, words);
}
AVX512 static int32_t contender_avx512(const fl_row_race *r, int32_t b, double best,
                                       uint32_t *words) {
    return row_contender(r, b, best, words);
}
FORM(avx2, AVX2);
FORM(avx512, AVX512);

static bool runs_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

const fl_row_form *fl_row_form_at(int i) {
    const fl_row_form *form[3];
    int n = 0;
    if (runs_avx512()) form[n++] = &avx512;
    if (__builtin_cpu_supports("avx2")) form[n++] = &avx2;
    form[n++] = &plain;
    return i < n ? form[i] : NULL;
}
#else
const fl_row_form *fl_row_form_at(int i) {
    return i ? NULL : &plain;
}
#endif

float fl_row_max(const float *x, int32_t n, float *block_max, bool *has_nan) {
    return fl_row_form_at(0)->max(x, n, block_max, has_nan);
}

double fl_row_exp(const float *x, int32_t n, float max, float *w) {
    return fl_row_form_at(0)->exp(x, n, max, w);
}

void fl_row_scale(float *to, const float *x, int32_t n, float divisor) {
    fl_row_form_at(0)->scale(to, x, n, divisor);
}

int32_t fl_row_contender(const fl_row_race *r, int32_t b, double best,
                         uint32_t words[FL_ROW_BLOCK]) {
    return fl_row_form_at(0)->contender(r, b, best, words);
}

/* ---- what does not gain by wider vectors ---- */

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

enum { FEW = 24 };

/* The k-th largest by insertion: for a small k less than the passes of fl_row_select. */
static float kth_of_few(const float *x, int32_t n, int32_t k) {
    float best[FEW];
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        if (m == k && !(x[i] > best[m - 1])) continue;
        int32_t at = m < k ? m++ : m - 1;
        for (; at && x[i] > best[at - 1]; at--) best[at] = best[at - 1];
        best[at] = x[i];
    }
    return best[k - 1];
}

float fl_row_bound(const float *block_max, int32_t n, int32_t k) {
    double above;
    const int32_t blocks = fl_row_blocks(n);
    if (k > blocks) return -INFINITY;
    if (k <= FEW) return kth_of_few(block_max, blocks, k);
    return fl_row_select(block_max, NULL, blocks, (double)k, &above);
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

/* Ids of elements among which the k largest are, into the work rows, and their values;
 * block_max is that of x. */
static int32_t collect_top(fl_sampler_work *w, const float *x, int32_t n, int32_t k) {
    const float bound = fl_row_bound(w->block_max, n, k);
    int32_t m = bound > -INFINITY ? fl_row_collect(x, n, w->block_max, bound, w->ids) : n;
    for (int32_t i = 0; m == n && i < n; i++) w->ids[i] = i;
    for (int32_t i = 0; i < m; i++) w->v[i] = x[w->ids[i]];
    return m;
}

/* The first k of the ranking: by insertion, for a k that is small. */
static void rank_few(const fl_sampler_work *w, int32_t m, fl_top_list *out) {
    int32_t n = 0;
    for (int32_t i = 0; i < m; i++) {
        const float value = w->v[i];
        if (n == out->n && !(value > out->logit[n - 1])) continue;
        int32_t at = n < out->n ? n++ : n - 1;
        for (; at && value > out->logit[at - 1]; at--) { /* equal ones came by lower id */
            out->logit[at] = out->logit[at - 1];
            out->id[at] = out->id[at - 1];
        }
        out->logit[at] = value;
        out->id[at] = w->ids[i];
    }
}

static int rank_many(const fl_sampler_work *w, int32_t m, fl_top_list *out, fl_err *err) {
    ranked *all = fl_alloc_array((size_t)m, sizeof(*all));
    if (!all) return fl_fail(err, FL_E_NOMEM, "top-k: %d of %d", (int)out->n, (int)m);
    for (int32_t i = 0; i < m; i++) all[i] = (ranked){w->v[i], w->ids[i]};
    qsort(all, (size_t)m, sizeof(*all), by_rank);
    for (int32_t i = 0; i < out->n; i++) {
        out->id[i] = all[i].id;
        out->logit[i] = all[i].value;
    }
    fl_free(all);
    return FL_OK;
}

int fl_row_top(fl_sampler_work *w, const float *x, int32_t n, fl_top_list *out, fl_err *err) {
    const int32_t m = collect_top(w, x, n, out->n);
    if (out->n > 256) return rank_many(w, m, out, err);
    rank_few(w, m, out);
    return FL_OK;
}

static int top_with(fl_sampler_work *w, const float *x, int32_t n, fl_top_list *out, fl_err *err) {
    bool nan;
    int rc = fl_sampler_work_reserve(w, n, err);
    if (rc) return rc;
    fl_row_max(x, n, w->block_max, &nan);
    if (nan) return fl_fail(err, FL_E_ARG, "top-k: the row holds nan");
    return fl_row_top(w, x, n, out, err);
}

int fl_topk(fl_sampler_work *w, const float *logits, int32_t n, fl_top_list *out, fl_err *err) {
    fl_sampler_work *own = NULL;
    if (out->n < 1 || out->n > n)
        return fl_fail(err, FL_E_ARG, "top-k: %d not in [1, %d]", (int)out->n, (int)n);
    int rc = w ? FL_OK : fl_sampler_work_new(&own, n, err);
    if (!rc) rc = top_with(w ? w : own, logits, n, out, err);
    fl_sampler_work_free(own);
    return rc;
}

/* ---- work rows ---- */

static void drop_rows(fl_sampler_work *w) {
    fl_free(w->x);
    fl_free(w->v);
    fl_free(w->w);
    fl_free(w->block_max);
    fl_free(w->ids);
    fl_free(w->count);
    *w = (fl_sampler_work){0};
}

int fl_sampler_work_reserve(fl_sampler_work *w, int32_t n, fl_err *err) {
    if (n <= w->cap) return FL_OK;
    drop_rows(w);
    w->x = fl_alloc_array((size_t)n, sizeof(*w->x));
    w->v = fl_alloc_array((size_t)n, sizeof(*w->v));
    w->w = fl_alloc_array((size_t)n, sizeof(*w->w));
    w->block_max = fl_alloc_array((size_t)fl_row_blocks(n), sizeof(*w->block_max));
    w->ids = fl_alloc_array((size_t)n, sizeof(*w->ids));
    w->count = fl_alloc_array((size_t)n, sizeof(*w->count));
    if (!w->x || !w->v || !w->w || !w->block_max || !w->ids || !w->count) {
        drop_rows(w);
        return fl_fail(err, FL_E_NOMEM, "sampler: work space for %d logits", (int)n);
    }
    w->cap = n;
    return FL_OK;
}

int fl_sampler_work_new(fl_sampler_work **out, int32_t n, fl_err *err) {
    fl_sampler_work *w = fl_alloc(sizeof(*w));
    if (!w) return fl_fail(err, FL_E_NOMEM, "sampler: work space");
    int rc = fl_sampler_work_reserve(w, n, err);
    if (rc)
        fl_sampler_work_free(w);
    else
        *out = w;
    return rc;
}

void fl_sampler_work_free(fl_sampler_work *w) {
    if (!w) return;
    drop_rows(w);
    fl_free(w);
}
