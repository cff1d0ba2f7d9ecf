/* tensor.cu - arithmetic on users' tensors: any type, any broadcast, in double and rounded once, as
 * on the host.  Right rather than fast: an element a thread. */
#include "cuda/device.cuh"

enum { THREADS = 256 };

__device__ __forceinline__ double load_real(const void *p, fl_dtype t, int64_t i) {
    return t == FL_DTYPE_I32 ? (double)((const int32_t *)p)[i] : (double)load_any(p, t, i);
}
__device__ __forceinline__ void store_real(void *p, fl_dtype t, int64_t i, double x) {
    if (t != FL_DTYPE_I32) {
        store_any(p, t, i, (float)x);
        return;
    }
    double in_range = fmin(fmax(x, -2147483648.0), 2147483647.0);
    ((int32_t *)p)[i] = isnan(x) ? 0 : __double2int_rn(in_range);
}

__global__ void __launch_bounds__(THREADS, 4) k_map(const cuda_map_args a) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.n) return;
    double b = a.b ? load_real(a.b, a.b_dtype, i / a.row * a.per_row + i % a.row / a.group) : a.number;
    double x = load_real(a.x, a.x_dtype, i);
    switch (a.op) {
    case CUDA_MAP_ADD: x += b; break;
    case CUDA_MAP_MUL: x *= b; break;
    case CUDA_MAP_COPY: x = b; break;
    default: x = b != 0.0 ? a.number : x;
    }
    store_real(a.t, a.t_dtype, i, x);
}

/* A row.  The maximum of a row with a NaN does not matter: its sum is NaN. */
__global__ void __launch_bounds__(THREADS, 4) k_softmax(void *t, fl_dtype dtype, int64_t n, float inverse) {
    __shared__ float red[32];
    int64_t first = (int64_t)blockIdx.x * n;
    float top = -INFINITY, sum = 0.0f;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) top = fmaxf(top, load_any(t, dtype, first + i));
    top = warp_max(top); /* block_reduce is for magnitudes */
    if ((threadIdx.x & 31) == 0) red[threadIdx.x >> 5] = top;
    __syncthreads();
    top = red[0];
    for (int w = 1; w < THREADS / 32; w++) top = fmaxf(top, red[w]);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += expf((load_any(t, dtype, first + i) - top) * inverse);
    sum = block_reduce<false>(sum, red);
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        store_any(t, dtype, first + i, expf((load_any(t, dtype, first + i) - top) * inverse) / sum);
}

/* One scale and its codes; NaN for the scale of what is not finite. */
__global__ void __launch_bounds__(THREADS, 4) k_encode(const cuda_encode_args a) {
    __shared__ float red[32];
    __shared__ int broken;
    int64_t row = blockIdx.x / a.groups, k = blockIdx.x % a.groups * a.group;
    int64_t first = row * a.n + k, n = a.n - k < a.group ? a.n - k : a.group;
    float top = 0.0f;
    if (threadIdx.x == 0) broken = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float v = (float)load_real(a.x, a.dtype, first + i);
        if (!(fabsf(v) < INFINITY)) atomicExch(&broken, 1);
        top = fmaxf(top, fabsf(v));
    }
    top = block_reduce<true>(top, red);
    float scale = a.weight ? (top > 0.0f ? top / 448.0f : 1.0f) : fmaxf(top / 448.0f, 1.0f / (448.0f * 512.0f));
    if (threadIdx.x == 0) a.scale[blockIdx.x] = broken ? NAN : scale;
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        a.q[first + i] = from_f32<e4m3>((float)load_real(a.x, a.dtype, first + i) / scale).code;
}

extern "C" cudaError_t fl_cuda_map(const cuda_map_args *a, cudaStream_t s) {
    if (a->n) k_map<<<(unsigned)((a->n + THREADS - 1) / THREADS), THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
extern "C" cudaError_t fl_cuda_softmax(void *t, fl_dtype dtype, int64_t rows, int64_t n, float inverse,
                                       cudaStream_t s) {
    if (rows && n) k_softmax<<<(unsigned)rows, THREADS, 0, s>>>(t, dtype, n, inverse);
    return cudaGetLastError();
}
extern "C" cudaError_t fl_cuda_encode(const cuda_encode_args *a, cudaStream_t s) {
    if (a->rows && a->groups) k_encode<<<(unsigned)(a->rows * a->groups), THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
