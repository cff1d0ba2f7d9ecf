/* block_rows.cu - a product of few rows with what comes before and after it in a layer: each block
 * makes its input rows in shared memory (residual + RMSNorm, quantization), a warp makes two columns
 * of the output that belong together, and their sums become rotated queries, keys and values of the
 * cache, SwiGLU, or part of the residual.  Arithmetic and rounding are those of the single ops. */
#include "cuda/linear_rows.cuh"
#include "cuda/quant.cuh"
#include "cuda/rope.cuh"

enum { THREADS = NORM_THREADS, WARPS = THREADS / 32, EACH = NORM_EACH, GROUP_LANES = FL_ACT_GROUP_K / EACH };

/* ---- before ---- */

/* EACH columns of a row from column c; zeros beyond n. */
__device__ __forceinline__ void load_each(float (&v)[EACH], const void *row, fl_dtype t, int64_t c, int64_t n) {
    const uint16_t *p = (const uint16_t *)row + c;
    uint4 raw;
    if (c + EACH <= n && (uintptr_t)p % 16 == 0) {
        raw = *(const uint4 *)p;
    } else {
        uint32_t word[EACH / 2];
#pragma unroll
        for (int i = 0; i < EACH / 2; i++) {
            uint32_t low = c + 2 * i < n ? p[2 * i] : 0, high = c + 2 * i + 1 < n ? p[2 * i + 1] : 0;
            word[i] = low | high << 16;
        }
        raw = make_uint4(word[0], word[1], word[2], word[3]);
    }
    if (t == FL_DTYPE_BF16)
        unpack<bf16>(v, raw);
    else
        unpack<f16>(v, raw);
}

__device__ __forceinline__ const void *row_of(const void *x, int64_t ld, int64_t r) {
    return (const uint16_t *)x + r * ld;
}

/* Columns of a row before the norm: residual + delta. */
__device__ __forceinline__ void load_sum(float (&v)[EACH], const cuda_block_args &a, int64_t r, int64_t c) {
    load_each(v, row_of(a.x, a.ldx, r), a.dtype, c, a.w.k);
    if (!a.delta) return;
    float d[EACH];
    load_each(d, row_of(a.delta, a.ld_delta, r), a.dtype, c, a.w.k);
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = round_act(v[i] + d[i], a.dtype);
}

/* Columns of a row as the product takes them, before quantization. */
__device__ __forceinline__ void load_input(float (&v)[EACH], const cuda_block_args &a, int64_t r, int64_t c,
                                           float inv) {
    if (!a.norm_weight) {
        load_each(v, row_of(a.x, a.ldx, r), a.dtype, c, a.w.k);
        return;
    }
    float g[EACH];
    load_sum(v, a, r, c);
    load_each(g, a.norm_weight, a.dtype, c, a.w.k);
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = round_act(round_act(v[i] * inv, a.dtype) * g[i], a.dtype);
}

__device__ __forceinline__ float top_of(const float (&v)[EACH], float top) {
#pragma unroll
    for (int i = 0; i < EACH; i++) top = fmaxf(top, fabsf(v[i]));
    return top;
}

/* What a block knows of its input rows. */
struct row_facts {
    float inv[FL_CUDA_FEW_ROWS], top[FL_CUDA_FEW_ROWS], part[FL_CUDA_FEW_ROWS][WARPS];
};

/* The thread's share of row r, of this warp and then of all, in the order of block_reduce. */
template <bool MAX> __device__ __forceinline__ void share_of_warp(row_facts &f, int r, float v) {
    v = MAX ? warp_max(v) : warp_sum(v);
    if ((threadIdx.x & 31) == 0) f.part[r][threadIdx.x >> 5] = v;
}
template <bool MAX> __device__ __forceinline__ float share_of_all(const row_facts &f) {
    int lane = (int)threadIdx.x & 31, r = (int)threadIdx.x >> 5; /* a warp for each row */
    float v = lane < WARPS ? f.part[r][lane] : 0.0f;             /* maxima are of magnitudes */
    return MAX ? warp_max(v) : warp_sum(v);
}

/* inv of the norm, and the largest magnitude of each row when its scale is made of that. */
__device__ __forceinline__ void measure(row_facts &f, const cuda_block_args &a) {
    float v[EACH];
    bool mine = (threadIdx.x & 31) == 0 && (threadIdx.x >> 5) < a.t;
    if (a.norm_weight) {
#pragma unroll 1
        for (int r = 0; r < a.t; r++) {
            float sum = 0.0f;
            for (int64_t c = threadIdx.x * EACH; c < a.w.k; c += THREADS * EACH) {
                load_sum(v, a, r, c);
#pragma unroll
                for (int i = 0; i < EACH; i++) sum = fmaf(v[i], v[i], sum);
            }
            share_of_warp<false>(f, r, sum);
        }
        __syncthreads();
        if ((threadIdx.x >> 5) < a.t) {
            float sum = share_of_all<false>(f);
            if (mine) f.inv[threadIdx.x >> 5] = inv_rms(sum, a.w.k, a.eps);
        }
        __syncthreads();
    }
    if (a.act != FL_ACT_TOKEN) return;
#pragma unroll 1
    for (int r = 0; r < a.t; r++) {
        float top = 0.0f;
        if (a.tops)
            for (int i = (int)threadIdx.x; i < a.n_tops; i += THREADS) top = fmaxf(top, a.tops[i * a.t + r]);
        else
            for (int64_t c = threadIdx.x * EACH; c < a.w.k; c += THREADS * EACH) {
                load_input(v, a, r, c, a.norm_weight ? f.inv[r] : 1.0f);
                top = top_of(v, top);
            }
        share_of_warp<true>(f, r, top);
    }
    __syncthreads();
    if ((threadIdx.x >> 5) < a.t) {
        float top = share_of_all<true>(f);
        if (mine) f.top[threadIdx.x >> 5] = top;
    }
    __syncthreads();
}

/* EACH columns of a row in shared memory, in the type that the product takes. */
__device__ __forceinline__ void store_each(e4m3 *row, const float (&v)[EACH], float scale, bool divide) {
    uint32_t word[2] = {0, 0};
    float inverse = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        word[i / 4] |= (uint32_t)from_f32<e4m3>(divide ? v[i] / scale : v[i] * inverse).code << i % 4 * 8;
    *(uint2 *)row = make_uint2(word[0], word[1]);
}
template <typename X> __device__ __forceinline__ void store_each(X *row, const float (&v)[EACH], float, bool) {
#pragma unroll
    for (int i = 0; i < EACH; i++) row[i] = from_f32<X>(v[i]); /* exact: v has this type */
}

/* The rows of the product and their scales; complete for the block when this returns.  Whole
 * warps go round, so that lanes can make the scales of groups together. */
template <typename X>
__device__ __forceinline__ void make_input(X *x, float *scales, const cuda_block_args &a, row_facts &f) {
    float v[EACH];
    measure(f, a);
#pragma unroll 1
    for (int r = 0; r < a.t; r++) {
        float scale = 1.0f, inv = a.norm_weight ? f.inv[r] : 1.0f;
        if (a.act == FL_ACT_STATIC) scale = a.x_scale;
        if (a.act == FL_ACT_TOKEN) scale = act_scale(a.x_scale_ub > 0.0f ? fminf(f.top[r], a.x_scale_ub) : f.top[r]);
        if (threadIdx.x == 0 && a.act != FL_ACT_GROUP) scales[r] = scale;
        for (int64_t c0 = 0; c0 < a.ld_shared; c0 += THREADS * EACH) {
            int64_t c = c0 + threadIdx.x * EACH;
            load_input(v, a, r, c, inv);
            if (a.act == FL_ACT_GROUP) {
                float most = top_of(v, 0.0f);
#pragma unroll
                for (int o = GROUP_LANES / 2; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, o));
                scale = act_scale(most);
                if (threadIdx.x % GROUP_LANES == 0 && c < a.w.k) scales[r * a.x_groups + c / FL_ACT_GROUP_K] = scale;
            }
            if (c < a.ld_shared) store_each(x + r * a.ld_shared + c, v, scale, a.act != FL_ACT_STATIC);
        }
    }
    __syncthreads();
}

/* ---- after ---- */

/* The two columns that a warp makes. */
__device__ __forceinline__ void columns_of(int64_t (&n)[2], const cuda_block_args &a, int64_t unit) {
    int64_t half = a.rope.kv.head_dim / 2;
    switch (a.end) {
    case CUDA_END_QKV:
        n[0] = unit / half * a.rope.kv.head_dim + unit % half;
        n[1] = n[0] + half;
        break;
    case CUDA_END_SWIGLU:
        n[0] = unit;
        n[1] = a.w.n / 2 + unit;
        break;
    default: n[0] = 2 * unit; n[1] = min(n[0] + 1, a.w.n - 1);
    }
}

__device__ __forceinline__ void add_residual(const cuda_block_args &a, int64_t t, int64_t n, float y) {
    int64_t at = t * a.ldo + n;
    float v = load_act(a.out, a.dtype, at);
    if (a.delta) v = round_act(v + load_act(a.delta, a.dtype, t * a.ld_delta + n), a.dtype);
    store_act(a.out, a.dtype, at, v + round_act(y, a.dtype));
}

/* Elements j and j + half of a head of q, k or v. */
__device__ __forceinline__ void end_qkv(const cuda_block_args &a, int64_t t, int64_t unit, float y0, float y1) {
    const cuda_rope_args &p = a.rope;
    int half = p.kv.head_dim / 2, head = (int)(unit / half), j = (int)(unit % half);
    if (!rope_row(p, t, unit == 0)) return;
    float x0 = round_act(y0, a.dtype), x1 = round_act(y1, a.dtype);
    bool value = head >= p.n_heads + p.kv.heads;
    if (!value) {
        const float *cs = p.cos_sin + p.pos[t] * p.ld_table;
        float2 turned = rotated(x0, x1, cs[j], cs[j + half]);
        x0 = round_act(turned.x, a.dtype);
        x1 = round_act(turned.y, a.dtype);
    }
    if (head < p.n_heads) {
        store_act(p.q, a.dtype, t * p.ldq + head * p.kv.head_dim + j, x0);
        store_act(p.q, a.dtype, t * p.ldq + head * p.kv.head_dim + j + half, x1);
        return;
    }
    uint8_t *to = cache_row(p.kv, p.slot[t], (head - p.n_heads) % p.kv.heads, value);
    cache_store(p.kv, to, j, x0, value ? p.kv.v_scale : p.kv.k_scale);
    cache_store(p.kv, to, j + half, x1, value ? p.kv.v_scale : p.kv.k_scale);
    for (int e = p.kv.head_dim + j; e < p.kv.padded; e += half) cache_store(p.kv, to, e, 0.0f, 1.0f);
}

/* Lane t has the sums of row t; returns the magnitude of what the next product will take. */
__device__ __forceinline__ float end_unit(const cuda_block_args &a, int64_t t, int64_t unit, const int64_t (&n)[2],
                                          float y0, float y1) {
    if (a.end == CUDA_END_QKV) {
        end_qkv(a, t, unit, y0, y1);
    } else if (a.end == CUDA_END_RESIDUAL) {
        add_residual(a, t, n[0], y0);
        if (n[1] != n[0]) add_residual(a, t, n[1], y1);
    } else {
        float v = round_act(silu_mul(round_act(y0, a.dtype), round_act(y1, a.dtype)), a.dtype);
        store_act(a.out, a.dtype, t * a.ldo + unit, v);
        return fabsf(v);
    }
    return 0.0f;
}

template <typename W, typename X, int R>
__global__ void __launch_bounds__(THREADS, 2) k_block_rows(const cuda_block_args a) {
    extern __shared__ uint4 shared[];
    __shared__ row_facts facts;
    X *x = (X *)shared;
    float *scales = (float *)(x + a.t * a.ld_shared);
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    make_input(x, scales, a, facts);
    input_rows<X> in = {x, a.act == FL_ACT_NONE ? nullptr : scales, a.ld_shared, a.t, a.x_groups};
    int64_t first = (int64_t)blockIdx.x * a.units_each, last = min(first + a.units_each, a.units);
    float top = 0.0f;
    for (int64_t unit = first + warp; unit < last; unit += WARPS) {
        int64_t n[2];
        float acc[2][R], y0 = 0.0f, y1 = 0.0f;
        columns_of(n, a, unit);
        dots<W, X, R, 2, PADDED>(acc, a.w, n, in);
#pragma unroll
        for (int r = 0; r < R; r++) {
            y0 = lane == r ? acc[0][r] : y0;
            y1 = lane == r ? acc[1][r] : y1;
        }
        if (lane >= a.t) continue;
        y0 = finished(y0, a.w, n[0], in, lane);
        y1 = finished(y1, a.w, n[1], in, lane);
        top = fmaxf(top, end_unit(a, lane, unit, n, y0, y1));
    }
    if (!a.tops_out) return;
    if (lane < a.t) facts.part[lane][warp] = top;
    __syncthreads();
    if (threadIdx.x >= a.t) return;
    for (int i = 0; i < WARPS; i++) top = fmaxf(top, facts.part[threadIdx.x][i]);
    a.tops_out[blockIdx.x * a.t + threadIdx.x] = top;
}

typedef void block_kernel(cuda_block_args);

template <typename W, typename X> static block_kernel *for_rows(int64_t t) {
    return t == 1 ? k_block_rows<W, X, 1> : t <= 4 ? k_block_rows<W, X, 4> : k_block_rows<W, X, 8>;
}

static block_kernel *kernel_of(const cuda_block_args *a) {
    if (a->w.dtype == FL_DTYPE_E4M3)
        return a->w.sparse24 ? for_rows<e4m3_24, e4m3>(a->t) : for_rows<e4m3, e4m3>(a->t);
    return a->w.dtype == FL_DTYPE_BF16 ? for_rows<bf16, bf16>(a->t) : for_rows<f16, f16>(a->t);
}

extern "C" cudaError_t fl_cuda_block_rows(const cuda_block_args *a, cudaStream_t s) {
    int64_t x_bytes = a->w.dtype == FL_DTYPE_E4M3 ? 1 : 2;
    size_t shared = (size_t)(a->t * (a->ld_shared * x_bytes + a->x_groups * (int64_t)sizeof(float)));
    kernel_of(a)<<<(unsigned)((a->units + a->units_each - 1) / a->units_each), THREADS, shared, s>>>(*a);
    return cudaGetLastError();
}

extern "C" cudaError_t fl_cuda_block_open(size_t shared) {
    cuda_block_args a = {};
    cudaError_t e = cudaSuccess;
    for (int way = 0; way < 4; way++)
        for (a.t = 1; a.t <= FL_CUDA_FEW_ROWS && !e; a.t *= 2) {
            a.w.dtype = way == 0 ? FL_DTYPE_BF16 : way == 1 ? FL_DTYPE_F16 : FL_DTYPE_E4M3;
            a.w.sparse24 = way == 3;
            e = cudaFuncSetAttribute(kernel_of(&a), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        }
    return e;
}
