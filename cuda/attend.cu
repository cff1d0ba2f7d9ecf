/* attend.cu - attention of single rows over the paged cache (flash decoding).
 *
 * A block serves one row and up to HB query heads of one kv head.  8 head dims a lane: LPT
 * lanes read one position, a warp reads 32 / LPT positions at once, and every key and value is
 * used for all HB heads.  Positions are cut into splits of split_tokens at absolute positions;
 * the part of a split is merged in the same way whether the splits run in blocks of their own
 * or one after the other, so the result does not depend on the batch. */
#include "cuda/quant.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, LANE_DIMS = 8, MERGE_THREADS = 512 };

/* Sums over positions: weights p = 2^(score - top), l = sum p, a = sum p v. */
struct part {
    float top, l, a;
};

__device__ __forceinline__ part merged(part x, part y) {
    if (y.top == -INFINITY) return x;
    float top = fmaxf(x.top, y.top), cx = ptx_ex2(x.top - top), cy = ptx_ex2(y.top - top);
    return part{top, fmaf(x.l, cx, __fmul_rn(y.l, cy)), fmaf(x.a, cx, __fmul_rn(y.a, cy))};
}

__device__ __forceinline__ int sequence_of(const cuda_attend_args &a, int t) {
    int low = 0, high = (int)a.n_seqs;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (a.row_start[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return low;
}

template <typename C, int LPT, int HB> struct worker {
    float q[HB][LANE_DIMS], top[HB], l[HB], acc[HB][LANE_DIMS];

    __device__ __forceinline__ void load_q(const cuda_attend_args &a, int64_t t, int head, int heads, int dim) {
#pragma unroll
        for (int h = 0; h < HB; h++)
#pragma unroll
            for (int i = 0; i < LANE_DIMS; i++) {
                bool in = h < heads && dim + i < a.kv.head_dim;
                int64_t at = t * a.ldq + (head + h) * a.kv.head_dim + dim + i;
                q[h][i] = in ? load_act(a.q, a.dtype, at) * a.scale : 0.0f;
            }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int h = 0; h < HB; h++) {
            top[h] = -INFINITY;
            l[h] = 0.0f;
#pragma unroll
            for (int i = 0; i < LANE_DIMS; i++) acc[h][i] = 0.0f;
        }
    }

    /* One position a group of LPT lanes; `in` is false where the split has ended. */
    __device__ __forceinline__ void add(const C *k, const C *v, bool loads, bool in) {
        float x[LANE_DIMS], s[HB];
#pragma unroll
        for (int i = 0; i < LANE_DIMS; i++) x[i] = 0.0f;
        if (loads) load_vec<C, LANE_DIMS>(x, k);
#pragma unroll
        for (int h = 0; h < HB; h++) {
            s[h] = 0.0f;
#pragma unroll
            for (int i = 0; i < LANE_DIMS; i++) s[h] = fmaf(q[h][i], x[i], s[h]);
#pragma unroll
            for (int o = LPT / 2; o; o >>= 1) s[h] += __shfl_xor_sync(ALL_LANES, s[h], o);
        }
        if (loads) load_vec<C, LANE_DIMS>(x, v);
        if (!in) return;
#pragma unroll
        for (int h = 0; h < HB; h++) {
            float now = fmaxf(top[h], s[h]), keep = ptx_ex2(top[h] - now), p = ptx_ex2(s[h] - now);
            top[h] = now;
            l[h] = fmaf(l[h], keep, p);
#pragma unroll
            for (int i = 0; i < LANE_DIMS; i++) acc[h][i] = fmaf(acc[h][i], keep, __fmul_rn(p, x[i]));
        }
    }

    /* The groups of the warp become one; the first group's lanes hold the sums. */
    __device__ __forceinline__ void merge_groups() {
#pragma unroll
        for (int h = 0; h < HB; h++)
#pragma unroll
            for (int o = LPT; o < 32; o <<= 1) {
                float t2 = __shfl_xor_sync(ALL_LANES, top[h], o), l2 = __shfl_xor_sync(ALL_LANES, l[h], o);
                float now = fmaxf(top[h], t2);
                float c1 = now == -INFINITY ? 0.0f : ptx_ex2(top[h] - now);
                float c2 = now == -INFINITY ? 0.0f : ptx_ex2(t2 - now);
                top[h] = now;
                l[h] = fmaf(l[h], c1, __fmul_rn(l2, c2));
#pragma unroll
                for (int i = 0; i < LANE_DIMS; i++) {
                    float other = __shfl_xor_sync(ALL_LANES, acc[h][i], o);
                    acc[h][i] = fmaf(acc[h][i], c1, __fmul_rn(other, c2));
                }
            }
    }
};

/* Head dims of one head of a warp, then top and l. */
__device__ __forceinline__ float *slot_of(float *sm, int warp, int h, int hb, int dims) {
    return sm + (warp * hb + h) * (dims + 2);
}

template <typename C, int LPT, int HB>
__global__ void __launch_bounds__(THREADS, 3) k_attend(const cuda_attend_args a) {
    constexpr int DIMS = LPT * LANE_DIMS, AT_ONCE = 32 / LPT, MINE = (HB * DIMS + THREADS - 1) / THREADS;
    __shared__ float sm[WARPS * HB * (DIMS + 2)];
    int ratio = a.n_heads / a.kv.heads, chunks = (ratio + HB - 1) / HB;
    int g = (int)blockIdx.x / chunks, first = (int)blockIdx.x % chunks * HB, heads = min(HB, ratio - first);
    int64_t t = blockIdx.y;
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, group = lane / LPT, dim = lane % LPT * LANE_DIMS;
    int head = g * ratio + first, length = a.pos[t] + 1;
    int from = a.apart ? (int)blockIdx.z : 0, to = a.apart ? from + 1 : a.splits;
    const int32_t *pages = a.pages + sequence_of(a, (int)t) * a.max_pages;
    const int64_t value = (int64_t)a.kv.heads * a.kv.page_tokens * a.kv.padded;
    if (from * a.split_tokens >= length) return; /* the merge does not ask for it */
    worker<C, LPT, HB> w;
    w.load_q(a, t, head, heads, dim);
    part total[MINE];
#pragma unroll
    for (int i = 0; i < MINE; i++) total[i] = part{-INFINITY, 0.0f, 0.0f};
    for (int s = from; s < to && s * a.split_tokens < length; s++) {
        int begin = s * a.split_tokens, end = min(begin + a.split_tokens, length);
        w.clear();
        for (int p = begin + warp * AT_ONCE; p < end; p += WARPS * AT_ONCE) {
            int at = min(p + group, end - 1);
            const C *k = (const C *)(a.kv.data + pages[at / a.kv.page_tokens] * a.kv.page_bytes) +
                         ((int64_t)g * a.kv.page_tokens + at % a.kv.page_tokens) * a.kv.padded + dim;
            w.add(k, k + value, dim < a.kv.padded, p + group < end);
        }
        w.merge_groups();
#pragma unroll
        for (int h = 0; h < HB; h++) {
            float *slot = slot_of(sm, warp, h, HB, DIMS);
            if (group == 0)
#pragma unroll
                for (int i = 0; i < LANE_DIMS; i++) slot[dim + i] = w.acc[h][i];
            if (lane == 0) {
                slot[DIMS] = w.top[h];
                slot[DIMS + 1] = w.l[h];
            }
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MINE; m++) {
            int i = (int)threadIdx.x + m * THREADS;
            if (i >= HB * DIMS) break;
            part split = {-INFINITY, 0.0f, 0.0f};
            for (int x = 0; x < WARPS; x++) {
                const float *slot = slot_of(sm, x, i / DIMS, HB, DIMS);
                split = merged(split, part{slot[DIMS], slot[DIMS + 1], slot[i % DIMS]});
            }
            total[m] = a.apart ? split : merged(total[m], split);
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MINE; m++) {
        int i = (int)threadIdx.x + m * THREADS, h = i / DIMS, e = i % DIMS;
        if (i >= HB * DIMS || h >= heads || e >= a.kv.head_dim) continue;
        if (a.apart) {
            float *out = a.parts + ((t * a.n_heads + head + h) * a.splits + from) * (a.kv.head_dim + 2);
            out[e] = total[m].a;
            if (e == 0) {
                out[a.kv.head_dim] = total[m].top;
                out[a.kv.head_dim + 1] = total[m].l;
            }
        } else
            store_act(a.out, a.dtype, t * a.ldo + (head + h) * a.kv.head_dim + e,
                      total[m].a * a.kv.v_scale / total[m].l);
    }
}

/* The parts of `columns` columns of a row, and their quantization. */
__global__ void __launch_bounds__(MERGE_THREADS) k_merge(const cuda_attend_args a, int columns) {
    __shared__ float red[32];
    int64_t t = blockIdx.y;
    int dims = a.kv.head_dim, used = (a.pos[t] + a.split_tokens) / a.split_tokens;
    int begin = (int)blockIdx.x * columns, end = min(begin + columns, a.n_heads * dims);
    for (int i = begin + (int)threadIdx.x; i < end; i += (int)blockDim.x) {
        int head = i / dims, e = i % dims;
        const float *parts = a.parts + (t * a.n_heads + head) * a.splits * (dims + 2);
        part total = {-INFINITY, 0.0f, 0.0f};
        for (int s = 0; s < used; s++) {
            const float *p = parts + (int64_t)s * (dims + 2);
            total = merged(total, part{p[dims], p[dims + 1], p[e]});
        }
        store_act(a.out, a.dtype, t * a.ldo + i, total.a * a.kv.v_scale / total.l);
    }
    if (a.quant.act == FL_ACT_NONE) return;
    __syncthreads();
    if (a.dtype == FL_DTYPE_BF16)
        quant_columns((const bf16 *)a.out + t * a.ldo, begin, end, a.quant, t, red);
    else
        quant_columns((const f16 *)a.out + t * a.ldo, begin, end, a.quant, t, red);
}

/* Columns that one block merges: as few as their quantization can look at. */
static int merge_columns(const cuda_attend_args *a) {
    int dims = a->kv.head_dim, all = a->n_heads * dims;
    if (a->quant.act == FL_ACT_TOKEN) return all;
    if (a->quant.act != FL_ACT_GROUP || dims % FL_ACT_GROUP_K == 0) return dims;
    return all < FL_ACT_GROUP_K ? all : FL_ACT_GROUP_K;
}

static cudaError_t merge(const cuda_attend_args *a, cudaStream_t s) {
    int columns = merge_columns(a), threads = (columns + 31) / 32 * 32;
    dim3 grid((unsigned)((a->n_heads * a->kv.head_dim + columns - 1) / columns), (unsigned)a->t);
    k_merge<<<grid, threads < MERGE_THREADS ? threads : MERGE_THREADS, 0, s>>>(*a, columns);
    return cudaGetLastError();
}

template <typename C, int LPT, int HB> static cudaError_t launch(const cuda_attend_args *a, cudaStream_t s) {
    int ratio = a->n_heads / a->kv.heads, chunks = (ratio + HB - 1) / HB;
    dim3 grid((unsigned)(a->kv.heads * chunks), (unsigned)a->t, (unsigned)(a->apart ? a->splits : 1));
    k_attend<C, LPT, HB><<<grid, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}

template <typename C> static cudaError_t launch_cache(const cuda_attend_args *a, cudaStream_t s) {
    if (a->kv.padded <= 64) return launch<C, 8, 4>(a, s);
    return a->kv.padded <= 128 ? launch<C, 16, 4>(a, s) : launch<C, 32, 4>(a, s);
}

extern "C" cudaError_t fl_cuda_attend(const cuda_attend_args *a, cudaStream_t s) {
    cudaError_t e = a->kv.dtype == FL_DTYPE_E4M3   ? launch_cache<e4m3>(a, s)
                    : a->kv.dtype == FL_DTYPE_BF16 ? launch_cache<bf16>(a, s)
                                                   : launch_cache<f16>(a, s);
    return e || !a->apart ? e : merge(a, s);
}
