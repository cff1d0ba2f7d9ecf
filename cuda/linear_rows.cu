/* linear_rows.cu - y = x w^T for few rows, any shape, types and scales, one column of the output
 * a warp; and the scales of a product that cuBLASLt left in f32. */
#include "cuda/linear_rows.cuh"

enum { WARPS = 4 };

template <typename W, typename X, int R, rows_lie LIE>
__global__ void __launch_bounds__(32 * WARPS, 4) k_linear_rows(const cuda_linear_args a) {
    int64_t n[1] = {(int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5)}, t0 = (int64_t)blockIdx.y * R;
    if (n[0] >= a.w.n) return;
    input_rows<X> in = {(const X *)a.x + t0 * a.ldx, a.x_scale ? a.x_scale + t0 * a.x_groups : nullptr, a.ldx, a.t - t0,
                        a.x_groups};
    float acc[1][R];
    dots<W, X, R, 1, LIE>(acc, a.w, n, in);
    if (threadIdx.x & 31) return;
#pragma unroll
    for (int r = 0; r < R; r++)
        if (r < in.t) store_any(a.out, a.out_dtype, (t0 + r) * a.ldo + n[0], finished(acc[0][r], a.w, n[0], in, r));
}

__global__ void __launch_bounds__(256) k_scale_rows(const cuda_scale_args a) {
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (n < a.in.n) store_any(a.out, a.dtype, t * a.ldo + n, scaled(a.in, t, n));
}

template <typename W, typename X, int R, rows_lie LIE>
static cudaError_t launch(const cuda_linear_args *a, cudaStream_t s) {
    dim3 grid((unsigned)((a->w.n + WARPS - 1) / WARPS), (unsigned)((a->t + R - 1) / R));
    k_linear_rows<W, X, R, LIE><<<grid, 32 * WARPS, 0, s>>>(*a);
    return cudaGetLastError();
}

/* Rows of x start on 16 bytes, or they do not. */
template <typename W, typename X>
static cudaError_t launch_rows(const cuda_linear_args *a, cudaStream_t s) {
    bool aligned = a->ldx * (int64_t)sizeof(X) % 16 == 0 && (uintptr_t)a->x % 16 == 0;
    if (!aligned) return launch<W, X, 4, ANYHOW>(a, s);
    if (a->t == 1) return launch<W, X, 1, ALIGNED>(a, s);
    return a->t <= 4 ? launch<W, X, 4, ALIGNED>(a, s) : launch<W, X, 8, ALIGNED>(a, s);
}

extern "C" cudaError_t fl_cuda_linear_rows(const cuda_linear_args *a, cudaStream_t s) {
    fl_dtype w = a->w.dtype, x = a->x_dtype;
    if (w == FL_DTYPE_E4M3 && x == FL_DTYPE_E4M3)
        return a->w.sparse24 ? launch_rows<e4m3_24, e4m3>(a, s) : launch_rows<e4m3, e4m3>(a, s);
    if (w == FL_DTYPE_E4M3 && a->w.sparse24)
        return x == FL_DTYPE_BF16 ? launch<e4m3_24, bf16, 4, ANYHOW>(a, s) : launch<e4m3_24, f16, 4, ANYHOW>(a, s);
    if (w == FL_DTYPE_E4M3)
        return x == FL_DTYPE_BF16 ? launch<e4m3, bf16, 4, ANYHOW>(a, s) : launch<e4m3, f16, 4, ANYHOW>(a, s);
    if (w == FL_DTYPE_BF16)
        return x == FL_DTYPE_BF16 ? launch_rows<bf16, bf16>(a, s) : launch<bf16, f16, 4, ANYHOW>(a, s);
    return x == FL_DTYPE_F16 ? launch_rows<f16, f16>(a, s) : launch<f16, bf16, 4, ANYHOW>(a, s);
}

extern "C" cudaError_t fl_cuda_scale_rows(const cuda_scale_args *a, cudaStream_t s) {
    dim3 grid((unsigned)((a->in.n + 255) / 256), (unsigned)a->t);
    k_scale_rows<<<grid, 256, 0, s>>>(*a);
    return cudaGetLastError();
}
