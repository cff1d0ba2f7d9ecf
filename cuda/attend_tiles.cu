/* attend_tiles.cu - attention over the paged cache on tensor cores (flash attention).
 *
 * A query is one row of the step and one query head.  The queries of a sequence and kv head lie
 * one after the other, row by row; a warp takes 16 of them, as mma m16n8k16 wants, and the warps
 * of a block share tiles of keys and values that cp.async brings.  Decoding is a block of 16
 * queries, a prompt blocks of 64: the work of a warp is the same.  Tiles and splits lie at
 * absolute positions, and a part is merged in the same way whether splits run in blocks of their
 * own or one after the other: a row's bits depend on its sequence alone.
 *
 * Weights of positions are rounded to the act dtype before they are multiplied with values, and
 * summed as rounded; all else is f32.  Cached elements are exact in the act dtype.  A value that is
 * no finite number shows in the rows that look at it (as NaN of a whole head where others of its
 * block do not), never in those before it.
 *
 * Fragments: lane 4g + t holds queries g and g + 8 of its warp, and of 8 columns 2t and 2t + 1. */
#include "cuda/attend.cuh"

enum { QUERIES = 16, RING_BYTES = 48 << 10, TILE_ELEMENTS = 4096 };

__device__ __forceinline__ void multiply(float d[4], const uint32_t a[4], const uint32_t b[2],
                                         bf16) {
    ptx_mma_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(float d[4], const uint32_t a[4], const uint32_t b[2],
                                         f16) {
    ptx_mma_f16(d, a, b);
}

__device__ __forceinline__ bool finite(uint4 v, uint32_t exponents) {
    uint32_t low = exponents & 0xffff, high = exponents << 16, each[] = {v.x, v.y, v.z, v.w};
    bool all = true;
#pragma unroll
    for (int i = 0; i < 4; i++) all = all && (each[i] & low) != low && (each[i] & high) != high;
    return all;
}
__device__ __forceinline__ bool finite(uint4 v, bf16) {
    return finite(v, 0x7f80u);
}
__device__ __forceinline__ bool finite(uint4 v, f16) {
    return finite(v, 0x7c00u);
}

/* ---- which queries a block has ---- */

/* Sequence s has the tiles from its first row * ratio / size + s on: an upper bound that needs no
 * sum over the sequences before it. */
__device__ __forceinline__ int first_tile(const cuda_attend_args &a, int s, int ratio, int size) {
    return a.row_start[s] * ratio / size + s;
}

struct queries {
    int row, count, first; /* first row and queries of the sequence; this block's first */
    int low, last;         /* lowest and highest position of the block's */
    const int32_t *pages;
};

__device__ __forceinline__ int query_row(const queries &b, int i, int ratio) {
    return b.row + min(b.first + i, b.count - 1) / ratio;
}

__device__ __forceinline__ queries find_queries(const cuda_attend_args &a, int ratio, int size) {
    int tile = (int)blockIdx.y, low = 0, high = (int)a.n_seqs;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first_tile(a, middle, ratio, size) <= tile)
            low = middle;
        else
            high = middle;
    }
    queries b;
    b.row = a.row_start[low];
    b.count = (a.row_start[low + 1] - b.row) * ratio;
    b.first = (tile - first_tile(a, low, ratio, size)) * size;
    b.pages = a.pages + low * a.max_pages;
    b.low = INT_MAX;
    b.last = 0;
    if (b.first >= b.count) return b;
    for (int i = (int)threadIdx.x & 31; i < size; i += 32) {
        int pos = a.pos[query_row(b, i, ratio)];
        b.low = min(b.low, pos);
        b.last = max(b.last, pos);
    }
    b.low = __reduce_min_sync(ALL_LANES, b.low);
    b.last = __reduce_max_sync(ALL_LANES, b.last);
    return b;
}

/* ---- tiles of keys and values ---- */

/* C: cache, T: act dtype.  A row of a tile is DIMS of T; 16-byte chunk c of row r lies at c ^ (r % 8), so that
 * ldmatrix meets every bank once; tiles begin where an xor of the address is one of the chunk.  Codes stay codes until
 * their tile is the next. */
template <typename T, typename C, int DIMS, int THREADS> struct tiles {
    static constexpr int POSITIONS = TILE_ELEMENTS / DIMS, EACH = 16 / (int)sizeof(C),
                         CHUNKS = DIMS / EACH, BYTES = TILE_ELEMENTS * (int)sizeof(C),
                         WIDE = TILE_ELEMENTS * (int)sizeof(T);
    static constexpr bool CODES = sizeof(C) == 1;
    static constexpr int STAGES = (RING_BYTES - (CODES ? 2 * WIDE : 0)) / (2 * BYTES);
    uint8_t bytes[RING_BYTES]; /* stages of keys and values; codes: the tile in use as T */

    __device__ __forceinline__ uint8_t *fetched(int stage, int value) {
        return bytes + (stage * 2 + value) * BYTES;
    }
    __device__ __forceinline__ uint8_t *tile(int stage, int value) {
        return CODES ? bytes + STAGES * 2 * BYTES + value * WIDE : fetched(stage, value);
    }
    static __device__ __forceinline__ int place(int row, int chunk) {
        return row * DIMS * 2 + (chunk ^ (row & 7)) * 16;
    }

    /* Positions [at, end), at most a tile; zeros behind them. */
    __device__ __forceinline__ void fetch(int stage, const cuda_kv &kv, const int32_t *pages, int g,
                                          int at, int end) {
        int lane = (int)threadIdx.x & 31, mine = at + lane * 16; /* a page holds whole 16s */
        const int64_t row = (int64_t)kv.padded * sizeof(C), value = row * kv.heads * kv.page_tokens;
        long long base = 0;
        if (lane < POSITIONS / 16 && mine < end)
            base = pages[mine / kv.page_tokens] * kv.page_bytes +
                   (g * kv.page_tokens + mine % kv.page_tokens) * row;
        const int chunk = (int)threadIdx.x % CHUNKS;
        const bool has_chunk = chunk * EACH < kv.padded;
#pragma unroll 2
        for (int p = (int)threadIdx.x / CHUNKS; p < POSITIONS; p += THREADS / CHUNKS) {
            const uint8_t *from =
                kv.data + __shfl_sync(ALL_LANES, base, p / 16) + p % 16 * row + chunk * 16;
            bool in = at + p < end && has_chunk;
            int to = CODES ? (p * CHUNKS + chunk) * 16 : place(p, chunk);
            ptx_cp_async16(fetched(stage, 0) + to, in ? from : kv.data, !in);
            ptx_cp_async16(fetched(stage, 1) + to, in ? from + value : kv.data, !in);
        }
    }

    /* What this thread fetched, as T. */
    __device__ __forceinline__ void widen(int stage) {
        const int chunk = (int)threadIdx.x % CHUNKS;
#pragma unroll 2
        for (int p = (int)threadIdx.x / CHUNKS; p < POSITIONS; p += THREADS / CHUNKS)
#pragma unroll
            for (int v = 0; v < 2; v++) {
                float f[16];
                uint32_t pair[8];
                unpack<e4m3>(f, *(const uint4 *)(fetched(stage, v) + (p * CHUNKS + chunk) * 16));
#pragma unroll
                for (int e = 0; e < 8; e++) pair[e] = pack_pair<T>(f[2 * e], f[2 * e + 1]);
                *(uint4 *)(tile(stage, v) + place(p, chunk * 2)) =
                    make_uint4(pair[0], pair[1], pair[2], pair[3]);
                *(uint4 *)(tile(stage, v) + place(p, chunk * 2 + 1)) =
                    make_uint4(pair[4], pair[5], pair[6], pair[7]);
            }
    }

    /* Zeros for values that are no finite numbers, by whole chunks; the first row that had some, or
     * INT_MAX.  The whole block calls it. */
    __device__ __forceinline__ int mend(int stage) {
        uint4 *values = (uint4 *)tile(stage, 1);
        int first = INT_MAX;
        for (int i = ((int)threadIdx.x & 31); i < TILE_ELEMENTS / 8; i += 32)
            if (!finite(values[i], T())) first = min(first, i * 8 / DIMS);
        first = __reduce_min_sync(ALL_LANES, first);
        if (first == INT_MAX) return first;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < TILE_ELEMENTS / 8; i += THREADS)
            if (!finite(values[i], T())) values[i] = make_uint4(0, 0, 0, 0);
        __syncthreads();
        return first;
    }
};

/* ---- the work of a warp ---- */

/* 16 queries and where they may look. */
template <typename T, int DIMS> struct asked {
    static constexpr int POSITIONS = TILE_ELEMENTS / DIMS, ROW = DIMS * 2;
    uint32_t q[DIMS / 16][4];
    int pos[2], low; /* of queries g and g + 8; the lowest of the warp */

    __device__ __forceinline__ void load(const cuda_attend_args &a, const queries &b, int first,
                                         int g, int ratio) {
        int lane = (int)threadIdx.x & 31;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = first + (lane >> 2) + h * 8, row = query_row(b, i, ratio);
            int head = g * ratio + min(b.first + i, b.count - 1) % ratio;
            const T *from = (const T *)a.q + row * a.ldq + head * a.kv.head_dim;
#pragma unroll
            for (int k = 0; k < DIMS / 8; k++) {
                int dim = k * 8 + (lane & 3) * 2;
                q[k / 2][k % 2 * 2 + h] = dim < a.kv.head_dim ? *(const uint32_t *)(from + dim) : 0;
            }
            pos[h] = a.pos[row];
        }
        low = __reduce_min_sync(ALL_LANES, min(pos[0], pos[1]));
    }

    /* Scores of a tile whose first position is `at`; -inf where a query must not look. */
    __device__ __forceinline__ void score(float s[POSITIONS / 8][4], uint32_t keys, int at,
                                          float scale) const {
        int lane = (int)threadIdx.x & 31;
        bool all_in = at + POSITIONS - 1 <= low;
        keys += (lane & 7) * ROW + ((lane >> 3) ^ (lane & 7)) * 16;
#pragma unroll
        for (int n = 0; n < POSITIONS / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = 0.0f;
#pragma unroll
            for (int k = 0; k < DIMS / 16; k += 2) { /* four chunks of 8 positions */
                uint32_t b[4];
                ptx_ldmatrix_x4(b, (keys + n * 8 * ROW) ^ k * 32);
                multiply(s[n], q[k], b, T());
                multiply(s[n], q[k + 1], b + 2, T());
            }
        }
#pragma unroll
        for (int n = 0; n < POSITIONS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int p = at + n * 8 + (lane & 3) * 2 + (e & 1);
                s[n][e] = all_in || p <= pos[e >> 1] ? __fmul_rn(s[n][e], scale) : -INFINITY;
            }
    }
};

/* Sums over positions for queries g and g + 8: weights p = 2^(score - top), l = sum p, acc = sum p v of OUT dims. */
template <typename T, int OUT> struct part {
    float top[2], l[2], acc[OUT / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            top[h] = -INFINITY;
            l[h] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < OUT / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[n][e] = 0.0f;
    }

    /* Weights of a tile's positions from their scores; sums so far are brought to the new top. */
    template <int N>
    __device__ __forceinline__ void weigh(uint32_t p[N / 2][4], const float (&s)[N][4]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float now = top[h], sum = 0.0f;
#pragma unroll
            for (int n = 0; n < N; n++) now = fmaxf(now, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
            float base = now == -INFINITY ? 0.0f : now, keep = ptx_ex2(top[h] - base);
#pragma unroll
            for (int n = 0; n < OUT / 8; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) acc[n][e] *= keep;
#pragma unroll
            for (int n = 0; n < N; n++) {
                uint32_t two =
                    pack_pair<T>(ptx_ex2(s[n][2 * h] - base), ptx_ex2(s[n][2 * h + 1] - base));
                float2 rounded = pair_f32(two, T());
                p[n / 2][n % 2 * 2 + h] = two;
                sum += rounded.x + rounded.y;
            }
            top[h] = now;
            l[h] = fmaf(l[h], keep, sum); /* of this lane's columns until the split ends */
        }
    }

    /* A tile of N * 8 values, of which `dim` is the first that counts. */
    template <int N>
    __device__ __forceinline__ void add(const uint32_t (&p)[N / 2][4], uint32_t values, int row,
                                        int dim) {
        int lane = (int)threadIdx.x & 31;
        values += (lane & 15) * row + ((lane >> 4) ^ (lane & 7)) * 16;
#pragma unroll
        for (int j = 0; j < N / 2; j++)
#pragma unroll
            for (int n = 0; n < OUT / 8; n += 2) {
                uint32_t b[4];
                ptx_ldmatrix_x4_trans(b, (values + j * 16 * row) ^ (dim / 8 + n) * 16);
                multiply(acc[n], p[j], b, T());
                multiply(acc[n + 1], p[j], b + 2, T());
            }
    }

    /* The sums of a split that has ended join those of the splits before. */
    __device__ __forceinline__ void join_split(part &split) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = split.l[h] + __shfl_xor_sync(ALL_LANES, split.l[h], 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            joint j = join(top[h], split.top[h]);
            top[h] = j.top;
            l[h] = j.sum(l[h], sum);
#pragma unroll
            for (int n = 0; n < OUT / 8; n++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++)
                    acc[n][e] = j.sum(acc[n][e], split.acc[n][e]);
        }
        split.clear();
    }
};

/* Results, or parts of them, of the warp whose first query is `first`; dims from `dim` on. */
template <typename T, int OUT>
__device__ __forceinline__ void store(const cuda_attend_args &a, const queries &b,
                                      const part<T, OUT> &all, int first, int dim, int g) {
    int lane = (int)threadIdx.x & 31, dims = a.kv.head_dim, ratio = a.n_heads / a.kv.heads;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int i = first + (lane >> 2) + h * 8;
        if (b.first + i >= b.count) continue;
        int64_t row = query_row(b, i, ratio);
        int head = g * ratio + (b.first + i) % ratio;
        float *to = a.parts + ((row * a.n_heads + head) * a.splits + blockIdx.z) * (dims + 2);
        T *out = (T *)a.out + row * a.ldo + head * dims;
#pragma unroll
        for (int n = 0; n < OUT / 8; n++) {
            int at = dim + n * 8 + (lane & 3) * 2;
            if (at >= dims) continue;
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float sum = all.acc[n][2 * h + e];
                if (a.apart)
                    to[at + e] = sum;
                else
                    out[at + e] = from_f32<T>(attended(a.kv, sum, all.l[h]));
            }
        }
        if (a.apart && dim == 0 && (lane & 3) == 0) {
            to[dims] = all.top[h];
            to[dims + 1] = all.l[h];
        }
    }
}

template <typename T, typename C, int DIMS, int GROUPS> struct layout {
    static constexpr int OUT = DIMS == 128 && GROUPS > 1 ? 128 : 64, SIDES = DIMS / OUT,
                         THREADS = 32 * GROUPS * SIDES;
    typedef tiles<T, C, DIMS, THREADS> ring;
};

/* GROUPS of 16 queries, each of SIDES warps that have their part of the head dims: sums over all 256 would not fit a
 * warp, and a block of few queries has no other warps. */
template <typename T, typename C, int DIMS, int GROUPS>
__global__ void __launch_bounds__(layout<T, C, DIMS, GROUPS>::THREADS, 1)
    k_attend(const cuda_attend_args a) {
    typedef layout<T, C, DIMS, GROUPS> L;
    typedef typename L::ring R;
    __shared__ __align__(1024) R sm;
    int ratio = a.n_heads / a.kv.heads, g = (int)blockIdx.x, warp = (int)threadIdx.x >> 5;
    int first = warp / L::SIDES * QUERIES, dim = warp % L::SIDES * L::OUT;
    int from = a.apart ? (int)blockIdx.z : 0, to = a.apart ? from + 1 : a.splits;
    queries b = find_queries(a, ratio, GROUPS * QUERIES);
    int begin = from * a.split_tokens, end = min(to * a.split_tokens, b.last + 1);
    if (b.first >= b.count || begin >= end) return; /* no part of it is asked for */
    bool busy = b.first + first < b.count;
    int n_tiles = (end - begin + R::POSITIONS - 1) / R::POSITIONS, broken = INT_MAX;
    asked<T, DIMS> asks;
    part<T, L::OUT> split, all;
    asks.load(a, b, first, g, ratio);
    split.clear();
    all.clear();
    for (int i = 0; i < R::STAGES - 1; i++) {
        if (i < n_tiles) sm.fetch(i, a.kv, b.pages, g, begin + i * R::POSITIONS, end);
        ptx_cp_async_commit();
    }
    for (int i = 0; i < n_tiles; i++) {
        int at = begin + i * R::POSITIONS, next = i + R::STAGES - 1, stage = i % R::STAGES;
        ptx_cp_async_wait<R::STAGES - 2>();
        __syncthreads(); /* tile i is there for all, and nobody reads tile i - 1 any more */
        if (next < n_tiles)
            sm.fetch(next % R::STAGES, a.kv, b.pages, g, begin + next * R::POSITIONS, end);
        ptx_cp_async_commit();
        if (R::CODES) {
            sm.widen(stage);
            __syncthreads();
        }
        /* A query weighs what it must not look at with 0, but 0 times infinity is no number. */
        if (min(at + R::POSITIONS, end) - 1 > b.low) {
            int row = sm.mend(stage);
            if (row != INT_MAX) broken = min(broken, at + row);
        }
        if (busy) {
            float scores[R::POSITIONS / 8][4];
            uint32_t weights[R::POSITIONS / 16][4];
            asks.score(scores, ptx_shared(sm.tile(stage, 0)), at, a.scale);
            split.weigh<R::POSITIONS / 8>(weights, scores);
            split.add<R::POSITIONS / 8>(weights, ptx_shared(sm.tile(stage, 1)), DIMS * 2, dim);
        }
        if (i + 1 == n_tiles || (at + R::POSITIONS) % a.split_tokens == 0) all.join_split(split);
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (asks.pos[h] >= broken) all.l[h] = NAN;
    store(a, b, all, first, dim, g);
}

template <typename T, typename C, int DIMS, int GROUPS>
static cudaError_t launch(const cuda_attend_args *a, cudaStream_t s) {
    int64_t ratio = a->n_heads / a->kv.heads, tiles = a->t * ratio / (GROUPS * QUERIES) + a->n_seqs;
    dim3 grid((unsigned)a->kv.heads, (unsigned)tiles, (unsigned)(a->apart ? a->splits : 1));
    k_attend<T, C, DIMS, GROUPS><<<grid, layout<T, C, DIMS, GROUPS>::THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}

/* One group where a sequence has no more queries than that. */
template <typename T, typename C, int DIMS>
static cudaError_t launch_groups(const cuda_attend_args *a, cudaStream_t s) {
    bool few = a->t * a->n_heads / a->kv.heads <= a->n_seqs * QUERIES;
    return few ? launch<T, C, DIMS, 1>(a, s) : launch < T, C, DIMS, DIMS == 256 ? 2 : 4 > (a, s);
}

template <typename T, typename C>
static cudaError_t launch_dims(const cuda_attend_args *a, cudaStream_t s) {
    if (a->kv.padded <= 64) return launch_groups<T, C, 64>(a, s);
    return a->kv.padded <= 128 ? launch_groups<T, C, 128>(a, s) : launch_groups<T, C, 256>(a, s);
}

template <typename T> static cudaError_t launch_cache(const cuda_attend_args *a, cudaStream_t s) {
    return a->kv.dtype == FL_DTYPE_E4M3 ? launch_dims<T, e4m3>(a, s) : launch_dims<T, T>(a, s);
}

extern "C" cudaError_t fl_cuda_attend(const cuda_attend_args *a, cudaStream_t s) {
    cudaError_t e = a->dtype == FL_DTYPE_BF16 ? launch_cache<bf16>(a, s) : launch_cache<f16>(a, s);
    return e || !a->apart ? e : fl_cuda_attend_merge(a, s);
}
