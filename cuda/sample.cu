/* sample.cu - a row of logits becomes a token.  One block a row.
 *
 * All values that decide (maxima, thresholds, keys of the race) are the bits that
 * src/engine/sampler.c has: its order of operations in f32, its polynomial for e^x, double where it
 * uses double.  Sums of weights are kept in fixed point, so that they do not depend on the order
 * of threads; they differ from the CPU's f32 sums by about 1e-7 of the whole, and with them which
 * token is the last inside top_p when its edge falls that close to a token's. */
#include "cuda/device.cuh"

enum { THREADS = 512, DIGITS = 2048, EACH = DIGITS / THREADS };

typedef unsigned long long u64;

constexpr float UNIT = 17592186044416.0f; /* 2^44: of a weight in fixed point */

struct shared_space {
    u64 hist[DIGITS];
    u64 red[32];
    u64 found, before;
    int digit, bad;
};

/* ---- over the block: every thread gets the result ---- */

struct take_max {
    __device__ static u64 of(u64 a, u64 b) { return a > b ? a : b; }
};
struct take_min {
    __device__ static u64 of(u64 a, u64 b) { return a < b ? a : b; }
};
struct take_sum {
    __device__ static u64 of(u64 a, u64 b) { return a + b; }
};

template <typename OP> __device__ __forceinline__ u64 block_u64(u64 v, u64 *red) {
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
#pragma unroll
    for (int o = 16; o; o >>= 1) v = OP::of(v, __shfl_xor_sync(ALL_LANES, v, o));
    if (lane == 0) red[warp] = v;
    __syncthreads();
    v = red[lane % (THREADS / 32)];
#pragma unroll
    for (int o = THREADS / 64; o; o >>= 1) v = OP::of(v, __shfl_xor_sync(ALL_LANES, v, o));
    __syncthreads();
    return v;
}

/* ---- numbers ---- */

/* Unsigned, in the order of the floats; both zeros get one key. */
__device__ __forceinline__ uint32_t key_of(float x) {
    uint32_t u = __float_as_uint(__fadd_rn(x, 0.0f));
    return u ^ (u >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float value_of(uint32_t key) {
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

/* e^x for x <= 0 as in src/engine/sampler_stats.c, without contraction. */
__device__ __forceinline__ float weight_of(float x) {
    const float magic = 12582912.0f;
    if (!(x > -87.0f)) return 0.0f;
    float kf = __fadd_rn(__fmul_rn(x, 1.44269504f), magic);
    int k = __float_as_int(kf);
    kf = __fsub_rn(kf, magic);
    float r = __fsub_rn(x, __fmul_rn(kf, 0.693359375f));
    r = __fsub_rn(r, __fmul_rn(kf, -2.12194440e-4f));
    float p = __fadd_rn(__fmul_rn(r, 1.38145988e-3f), 8.36871658e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.16683890e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.66665211e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 4.99999940e-1f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    return __int_as_float(__float_as_int(p) + (int)((unsigned)k << 23));
}

__device__ __forceinline__ u64 fixed(float weight) { return __float2ull_rn(__fmul_rn(weight, UNIT)); }

/* philox4x32-10, as fl_philox. */
__device__ __forceinline__ uint4 philox(uint32_t group, u64 draw, u64 seed) {
    uint32_t c0 = group, c1 = (uint32_t)draw, c2 = (uint32_t)(draw >> 32), c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
        uint32_t h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c2 = h0 ^ c3 ^ k1;
        c1 = l1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}
__device__ __forceinline__ uint32_t word_of(uint4 w, int i) {
    return i & 2 ? (i & 1 ? w.w : w.z) : (i & 1 ? w.y : w.x);
}

/* ---- the row ---- */

/* Logits after edits and mask, divided by the temperature.  Those below `floor` (before the
 * division, with room for its rounding) are passed over. */
struct row_view {
    const float *x;
    const uint32_t *mask; /* NULL: none */
    int n;
    float temperature, floor;

    __device__ __forceinline__ float raw(int i) const {
        return mask && !(mask[i >> 5] >> (i & 31) & 1) ? -INFINITY : x[i];
    }
    /* -inf: passed over */
    __device__ __forceinline__ float at(int i) const {
        if (!(x[i] >= floor)) return -INFINITY;
        float v = raw(i);
        return v == -INFINITY ? v : __fdiv_rn(v, temperature);
    }
    /* Nothing below v will be asked for. */
    __device__ __forceinline__ void raise_floor(float v) {
        float t = v * temperature;
        floor = t - fabsf(t) * 1e-6f;
    }
};

/* Largest value and the first id that has it, as key << 32 | ~id; 0: no id.  NaN and +inf are told
 * in sh.bad. */
template <bool RAW> __device__ __forceinline__ u64 top_of(const row_view &r, shared_space &sh) {
    u64 top = 0;
    bool bad = false;
    for (int i = (int)threadIdx.x; i < r.n; i += THREADS) {
        float v = RAW ? r.x[i] : r.raw(i);
        bad |= !(v < INFINITY);
        u64 key = (u64)key_of(v) << 32 | (uint32_t)~i;
        if (v > -INFINITY && key > top) top = key;
    }
    if (bad) atomicOr(&sh.bad, 1);
    return block_u64<take_max>(top, sh.red);
}

/* Values > -inf and >= low. */
struct all_from {
    float low;
    __device__ __forceinline__ bool has(float v) const { return v > -INFINITY && v >= low; }
};

__device__ __forceinline__ u64 sum_of(const row_view &r, const all_from &kept, float max, shared_space &sh) {
    u64 sum = 0;
    for (int i = (int)threadIdx.x; i < r.n; i += THREADS) {
        float v = r.at(i);
        if (kept.has(v)) sum += fixed(weight_of(__fsub_rn(v, max)));
    }
    return block_u64<take_sum>(sum, sh.red);
}

/* What a selection weighs, by what order. */
struct by_count {
    all_from kept;
    __device__ __forceinline__ u64 weight(int, float v) const { return kept.has(v); }
    __device__ __forceinline__ uint32_t key(int, float v) const { return key_of(v); }
};
struct by_weight {
    all_from kept;
    float max;
    /* A weight of 0 must leave a trace. */
    __device__ __forceinline__ u64 weight(int, float v) const {
        u64 w = kept.has(v) ? fixed(weight_of(__fsub_rn(v, max))) : 0;
        return kept.has(v) && !w ? 1 : w;
    }
    __device__ __forceinline__ uint32_t key(int, float v) const { return key_of(v); }
};
struct by_id { /* of those that are equal to v, lower ids first */
    float value;
    __device__ __forceinline__ u64 weight(int, float v) const { return v == value; }
    __device__ __forceinline__ uint32_t key(int i, float) const { return (uint32_t)~i; }
};

/* The first digit from above at which the weights so far reach the target, or the lowest that has
 * weight: into sh.digit, with the weight above it in sh.before and its own in sh.found. */
__device__ __forceinline__ void find_digit(u64 target, u64 before, int digits, shared_space &sh) {
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    u64 own = 0, up;
#pragma unroll
    for (int j = 0; j < EACH; j++) own += sh.hist[DIGITS - 1 - ((int)threadIdx.x * EACH + j)];
    up = own;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        u64 other = __shfl_up_sync(ALL_LANES, up, o);
        if (lane >= o) up += other;
    }
    if (lane == 31) sh.red[warp] = up;
    __syncthreads();
    u64 total = before;
    for (int w = 0; w < THREADS / 32; w++) {
        if (w < warp) up += sh.red[w];
        total += sh.red[w];
    }
    if (target > total) target = total; /* the lowest */
    u64 sum = before + up - own;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int digit = DIGITS - 1 - ((int)threadIdx.x * EACH + j);
        u64 w = sh.hist[digit];
        if (w && sum < target && sum + w >= target) {
            sh.digit = digit;
            sh.before = sum;
            sh.found = w;
        }
        sum += w;
    }
    __syncthreads();
}

/* The key k with weight(keys > k) < target <= weight(keys >= k), or the lowest; sh.before and
 * sh.found: the weight above it and its own. */
template <typename BY>
__device__ __forceinline__ uint32_t select_key(const row_view &r, const BY &by, u64 target, shared_space &sh) {
    uint32_t prefix = 0;
    u64 before = 0;
    for (int d = 0; d < 3; d++) {
        int shift = d == 0 ? 21 : d == 1 ? 10 : 0, bits = d == 2 ? 10 : 11;
        for (int i = (int)threadIdx.x; i < DIGITS; i += THREADS) sh.hist[i] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < r.n; i += THREADS) {
            float v = r.at(i);
            u64 w = by.weight(i, v);
            uint32_t key = by.key(i, v) >> shift;
            if (w && (d == 0 || key >> bits == prefix)) atomicAdd(&sh.hist[key & ((1u << bits) - 1)], w);
        }
        __syncthreads();
        find_digit(target, before, 1 << bits, sh);
        prefix = prefix << bits | (uint32_t)sh.digit;
        before = sh.before;
    }
    return prefix;
}

/* Tokens above `low`, and those equal to it up to an id. */
struct survivors {
    float low;
    int last_tie;
    __device__ __forceinline__ bool has(int i, float v) const {
        return v > -INFINITY && (v > low || (v == low && i <= last_tie));
    }
};

__device__ __forceinline__ survivors cut_top_p(row_view &r, float low, float max, float top_p, shared_space &sh) {
    double p = top_p, sum = (double)sum_of(r, all_from{low}, max, sh), target = p * sum;
    /* What is below (1 - p) / n holds less than 1 - p of the sum together: none of it is wanted. */
    float least = (float)((double)max + log(0.99 * (1.0 - p) / (double)r.n));
    if (least > low) r.raise_floor(least);
    by_weight by = {{low}, max};
    survivors s = {value_of(select_key(r, by, (u64)ceil(target), sh)), 0x7fffffff};
    u64 edge = fixed(weight_of(__fsub_rn(s.low, max)));
    double ties = edge ? ceil((target - (double)sh.before) / (double)edge) : 1e9;
    u64 equal = edge ? sh.found / edge : 1, keep = ties < 1.0 ? 1 : (u64)ties;
    __syncthreads();
    if (keep < equal) s.last_tie = (int)~select_key(r, by_id{s.low}, keep, sh);
    return s;
}

/* ---- the race ---- */

struct race {
    double best;
    int winner;

    __device__ __forceinline__ void enter(int id, float weight, uint32_t word) {
        double u = ((double)word + 0.5) * 0x1p-32;
        if (u > (double)weight * best) return; /* -log1p(-u) >= u */
        double key = -log(1.0 - u) / (double)weight; /* 1 - u is exact */
        if (key < best || (key == best && id < winner)) {
            best = key;
            winner = id;
        }
    }
};

/* Four ids share a random number's four words. */
__device__ __forceinline__ int draw(const row_view &r, const survivors &kept, float max, int top,
                                    const fl_sample_row &p, shared_space &sh) {
    race t = {INFINITY, 0x7fffffff};
    t.enter(top, 1.0f, word_of(philox((uint32_t)top >> 2, p.draw, p.seed), top & 3));
    for (int g = (int)threadIdx.x; 4 * g < r.n; g += THREADS) {
        uint4 words;
        bool drawn = false;
#pragma unroll 1
        for (int i = 4 * g; i < min(4 * g + 4, r.n); i++) {
            float v = r.at(i);
            if (!kept.has(i, v)) continue;
            float w = weight_of(__fsub_rn(v, max));
            if (!(w > 0.0f) || (double)w * t.best < 0x1p-33) continue; /* u >= 2^-33 */
            if (!drawn) words = philox((uint32_t)g, p.draw, p.seed);
            drawn = true;
            t.enter(i, w, word_of(words, i & 3));
        }
    }
    u64 key = (u64)__double_as_longlong(t.best), least = block_u64<take_min>(key, sh.red);
    return (int)block_u64<take_min>(key == least ? (u64)t.winner : ~0ull, sh.red);
}

/* The id, or an FL_SAMPLED_ code. */
__device__ __forceinline__ int choose(row_view &r, const fl_sample_row &p, shared_space &sh) {
    u64 best = top_of<false>(r, sh);
    int top = (int)~(uint32_t)best;
    if (sh.bad) return FL_SAMPLED_BAD;
    if (!best) return FL_SAMPLED_NOTHING;
    if (p.mode == FL_SAMPLE_GREEDY) return top;
    r.temperature = p.temperature;
    float max = __fdiv_rn(value_of((uint32_t)(best >> 32)), p.temperature), low = -INFINITY;
    if (!(max < INFINITY)) return FL_SAMPLED_BAD;
    if (max == -INFINITY) return FL_SAMPLED_NOTHING;
    if (p.min_p > 0.0f) {
        low = (float)((double)max + log((double)p.min_p));
        r.raise_floor(low);
    }
    if (p.top_k > 0 && p.top_k < r.n) {
        low = value_of(select_key(r, by_count{{low}}, (u64)p.top_k, sh));
        r.raise_floor(low);
    }
    survivors kept = {low, 0x7fffffff};
    if (p.top_p < 1.0f) kept = cut_top_p(r, low, max, p.top_p, sh);
    r.raise_floor(kept.low);
    return draw(r, kept, max, top, p, sh);
}

/* log of the sum of e^x */
__device__ __forceinline__ double logsumexp(const row_view &r, shared_space &sh) {
    u64 best = top_of<true>(r, sh);
    if (!best) return -INFINITY;
    float max = value_of((uint32_t)(best >> 32));
    double sum = (double)sum_of(r, all_from{-INFINITY}, max, sh) / (double)UNIT;
    return (double)max + log(sum);
}

__device__ __forceinline__ void apply(float *x, int n, fl_sample_edit *e, const fl_sample_row &p) {
    if (e->id < 0 || e->id >= n) return;
    float v = e->logit = x[e->id];
    if (e->bias != 0.0f) v = __fadd_rn(v, e->bias);
    if (e->count >= 0) {
        v = v > 0.0f ? __fdiv_rn(v, p.repetition) : __fmul_rn(v, p.repetition);
        v = __fsub_rn(v, __fmul_rn(p.frequency, (float)e->count));
        if (e->count > 0) v = __fsub_rn(v, p.presence);
    }
    x[e->id] = v;
}

__global__ void __launch_bounds__(THREADS, 1) k_sample(const cuda_sample_args a) {
    __shared__ shared_space sh;
    const fl_sample_row p = a.rows[blockIdx.x];
    if (p.mode == FL_SAMPLE_NONE) return;
    float *x = a.logits + (int64_t)blockIdx.x * a.ld;
    fl_sample_edit *edits = a.edits + p.first_edit;
    row_view r = {x, NULL, (int)a.n, 1.0f, -INFINITY};
    if (threadIdx.x == 0) sh.bad = 0;
    __syncthreads();
    double lse = p.logprob ? logsumexp(r, sh) : 0.0;
    for (int j = (int)threadIdx.x; j < p.n_edits; j += THREADS) apply(x, r.n, &edits[j], p);
    __syncthreads();
    if (p.masked) r.mask = a.mask + (int64_t)blockIdx.x * a.ld_mask;
    int id = choose(r, p, sh);
    __syncthreads();
    for (int j = (int)threadIdx.x; j < p.n_edits; j += THREADS)
        if (edits[j].id >= 0 && edits[j].id < r.n) x[edits[j].id] = edits[j].logit;
    __syncthreads();
    if (threadIdx.x == 0)
        a.out[blockIdx.x] = fl_sampled{id, p.logprob && id >= 0 ? (float)((double)x[id] - lse) : 0.0f};
}

extern "C" cudaError_t fl_cuda_sample(const cuda_sample_args *a, cudaStream_t s) {
    k_sample<<<(unsigned)a->t, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
