/* linear_rows.cu - y = x w^T for few rows, any shape, types and scales: one warp a column of
 * the output, so that each weight is read once for up to 8 rows; and the scales of a product
 * that cuBLASLt left in f32.
 *
 * Lanes take 16 bytes of weights in turn; the order of the sum depends on K alone. */
#include "cuda/device.cuh"

enum { WARPS = 4 };

/* Two kept codes of 4 columns -> the 4 codes. */
__device__ __forceinline__ uint32_t spread(uint32_t two, uint32_t places) {
    return (two & 0xff) << (places & 3) * 8 | (two >> 8 & 0xff) << (places >> 2 & 3) * 8;
}

struct e4m3_24 { /* 2:4 codes */
    uint8_t code;
};

/* 16 bytes of a row; of 2:4 codes the 8 bytes and 16 bits that stand for as many columns, so
 * that sparse and dense weights are summed in the same order. */
template <typename W> struct chunk {
    enum { COLUMNS = 16 / (int)sizeof(W) };
    static __device__ __forceinline__ void load(float *f, const cuda_weight &w, int64_t row, int64_t k) {
        unpack<W>(f, ptx_ld_stream16((const W *)w.data + row * w.ld + k));
    }
};
template <> struct chunk<e4m3_24> {
    enum { COLUMNS = 16 };
    static __device__ __forceinline__ void load(float *f, const cuda_weight &w, int64_t row, int64_t k) {
        uint2 v = ptx_ld_stream8((const uint8_t *)w.data + (row * w.ld + k) / 2);
        uint32_t places = w.places[(row * w.ld + k) / 16];
        unpack<e4m3>(f, make_uint4(spread(v.x, places), spread(v.x >> 16, places >> 4),
                                   spread(v.y, places >> 8), spread(v.y >> 16, places >> 12)));
    }
};

/* Columns [k, k + C) of a row of x; zeros beyond K. */
template <typename X, int C, bool ALIGNED>
__device__ __forceinline__ void load_x(float *f, const X *x, int64_t k, int64_t n) {
    if (ALIGNED && k + C <= n) {
        load_vec<X, C>(f, x + k);
        return;
    }
#pragma unroll
    for (int i = 0; i < C; i++) f[i] = k + i < n ? to_f32(x[k + i]) : 0.0f;
}

template <typename W, typename X, int R, bool ALIGNED>
__global__ void __launch_bounds__(32 * WARPS, 4) k_linear_rows(const cuda_linear_args a) {
    constexpr int C = chunk<W>::COLUMNS;
    int lane = (int)threadIdx.x & 31;
    int64_t n = (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5), t0 = (int64_t)blockIdx.y * R;
    if (n >= a.w.n) return;
    bool blocks = a.w.blocks > 1 || a.x_groups > 1;
    float acc[R];
    const X *x[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        acc[r] = 0.0f;
        x[r] = (const X *)a.x + min(t0 + r, a.t - 1) * a.ldx;
    }
    for (int64_t k = lane * C; k < a.w.k; k += 32 * C) {
        float w[C], v[C];
        chunk<W>::load(w, a.w, n, k);
        int64_t b = k / FL_ACT_GROUP_K; /* a chunk lies in one block */
        float ws = 1.0f;
        if (blocks && a.w.scale) ws = a.w.scale[n * a.w.blocks + (a.w.blocks > 1 ? b : 0)];
#pragma unroll
        for (int r = 0; r < R; r++) {
            load_x<X, C, ALIGNED>(v, x[r], k, a.w.k);
            float sum = blocks ? 0.0f : acc[r];
#pragma unroll
            for (int i = 0; i < C; i++) sum = fmaf(w[i], v[i], sum);
            if (blocks) {
                float xs = 1.0f;
                if (a.x_scale) xs = a.x_scale[min(t0 + r, a.t - 1) * a.x_groups + (a.x_groups > 1 ? b : 0)];
                sum = fmaf(sum, xs * ws, acc[r]);
            }
            acc[r] = sum;
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        float y = warp_sum(acc[r]);
        int64_t t = t0 + r;
        if (lane || t >= a.t) continue;
        if (!blocks && a.x_scale) y *= a.x_scale[t];
        if (!blocks && a.w.scale) y *= a.w.scale[n];
        if (a.w.bias) y += a.w.bias[n];
        store_any(a.out, a.out_dtype, t * a.ldo + n, y);
    }
}

__global__ void __launch_bounds__(256) k_scale_rows(const cuda_linear_args a, const float *y) {
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (n >= a.w.n) return;
    float v = y[t * a.w.n + n];
    if (a.x_scale) v *= a.x_scale[t];
    if (a.w.scale) v *= a.w.scale[n];
    if (a.w.bias) v += a.w.bias[n];
    store_any(a.out, a.out_dtype, t * a.ldo + n, v);
}

template <typename W, typename X, int R, bool ALIGNED>
static cudaError_t launch(const cuda_linear_args *a, cudaStream_t s) {
    dim3 grid((unsigned)((a->w.n + WARPS - 1) / WARPS), (unsigned)((a->t + R - 1) / R));
    k_linear_rows<W, X, R, ALIGNED><<<grid, 32 * WARPS, 0, s>>>(*a);
    return cudaGetLastError();
}

/* Rows of x start on 16 bytes, or they do not. */
template <typename W, typename X>
static cudaError_t launch_rows(const cuda_linear_args *a, cudaStream_t s) {
    bool aligned = a->ldx * (int64_t)sizeof(X) % 16 == 0 && (uintptr_t)a->x % 16 == 0;
    if (!aligned) return launch<W, X, 4, false>(a, s);
    if (a->t == 1) return launch<W, X, 1, true>(a, s);
    return a->t <= 4 ? launch<W, X, 4, true>(a, s) : launch<W, X, 8, true>(a, s);
}

extern "C" cudaError_t fl_cuda_linear_rows(const cuda_linear_args *a, cudaStream_t s) {
    fl_dtype w = a->w.dtype, x = a->x_dtype;
    if (w == FL_DTYPE_E4M3 && x == FL_DTYPE_E4M3)
        return a->w.sparse24 ? launch_rows<e4m3_24, e4m3>(a, s) : launch_rows<e4m3, e4m3>(a, s);
    if (w == FL_DTYPE_E4M3 && a->w.sparse24)
        return x == FL_DTYPE_BF16 ? launch<e4m3_24, bf16, 4, false>(a, s) : launch<e4m3_24, f16, 4, false>(a, s);
    if (w == FL_DTYPE_E4M3)
        return x == FL_DTYPE_BF16 ? launch<e4m3, bf16, 4, false>(a, s) : launch<e4m3, f16, 4, false>(a, s);
    if (w == FL_DTYPE_BF16)
        return x == FL_DTYPE_BF16 ? launch_rows<bf16, bf16>(a, s) : launch<bf16, f16, 4, false>(a, s);
    return x == FL_DTYPE_F16 ? launch_rows<f16, f16>(a, s) : launch<f16, bf16, 4, false>(a, s);
}

extern "C" cudaError_t fl_cuda_scale_rows(const cuda_linear_args *a, const float *y, cudaStream_t s) {
    dim3 grid((unsigned)((a->w.n + 255) / 256), (unsigned)a->t);
    k_scale_rows<<<grid, 256, 0, s>>>(*a, y);
    return cudaGetLastError();
}
