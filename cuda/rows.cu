/* rows.cu - ops on single rows: residual + RMSNorm + quantization, SwiGLU + quantization,
 * quantization alone.  One block a row; what a thread of the block wrote to global memory the
 * others read after a barrier, from L1 or L2. */
#include "cuda/quant.cuh"

enum { ROW_THREADS = 256 };

static unsigned row_threads(int64_t n) { return n >= 1024 ? ROW_THREADS : n >= 256 ? 128 : 32; }

/* Rounding points: residual, residual * inv, and the product with the weight. */
template <typename T>
__global__ void __launch_bounds__(NORM_THREADS) k_norm(const cuda_norm_args a) {
    __shared__ float red[32];
    int64_t row = blockIdx.x;
    T *residual = (T *)a.residual + row * a.ld_residual, *out = (T *)a.out + row * a.ld_out;
    const T *delta = (const T *)a.delta + row * a.ld_delta;
    const T *weight = (const T *)a.weight;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x * NORM_EACH; c < a.n; c += NORM_THREADS * NORM_EACH)
        for (int64_t i = c; i < min(c + NORM_EACH, a.n); i++) {
            float v = to_f32(residual[i]);
            if (a.delta) {
                T r = from_f32<T>(v + load_scaled(delta, a.unscaled, row, i));
                residual[i] = r;
                v = to_f32(r);
            }
            sum = fmaf(v, v, sum);
        }
    sum = block_reduce<false>(sum, red);
    float inv = inv_rms(sum, a.n, a.eps);
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        float unit = to_f32(from_f32<T>(to_f32(residual[i]) * inv));
        out[i] = from_f32<T>(unit * to_f32(weight[i]));
    }
    if (a.quant.act == FL_ACT_NONE) return;
    __syncthreads();
    quant_row(out, a.n, a.quant, row, red);
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) k_silu_mul(const cuda_silu_args a) {
    __shared__ float red[32];
    int64_t row = blockIdx.x;
    const T *in = (const T *)a.in + row * a.ld_in;
    T *out = (T *)a.out + row * a.ld_out;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        float gate = load_scaled(in, a.unscaled, row, i), up = load_scaled(in, a.unscaled, row, a.n + i);
        out[i] = from_f32<T>(silu_mul(gate, up));
    }
    if (a.quant.act == FL_ACT_NONE) return;
    __syncthreads();
    quant_row(out, a.n, a.quant, row, red);
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS) k_quant(const cuda_quant_args a) {
    __shared__ float red[32];
    quant_row((const T *)a.x + blockIdx.x * a.ld, a.n, a.quant, (int64_t)blockIdx.x, red);
}

extern "C" cudaError_t fl_cuda_norm(const cuda_norm_args *a, cudaStream_t s) {
#define LAUNCH(T) k_norm<T><<<(unsigned)a->t, NORM_THREADS, 0, s>>>(*a)
    FOR_ACT_TYPE(a->dtype, LAUNCH);
#undef LAUNCH
    return cudaGetLastError();
}

extern "C" cudaError_t fl_cuda_silu_mul(const cuda_silu_args *a, cudaStream_t s) {
#define LAUNCH(T) k_silu_mul<T><<<(unsigned)a->t, row_threads(a->n), 0, s>>>(*a)
    FOR_ACT_TYPE(a->dtype, LAUNCH);
#undef LAUNCH
    return cudaGetLastError();
}

extern "C" cudaError_t fl_cuda_quant(const cuda_quant_args *a, cudaStream_t s) {
#define LAUNCH(T) k_quant<T><<<(unsigned)a->t, row_threads(a->n), 0, s>>>(*a)
    FOR_ACT_TYPE(a->dtype, LAUNCH);
#undef LAUNCH
    return cudaGetLastError();
}
