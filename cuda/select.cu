/* select.cu - rows chosen by index (embed, gather), and what calibration collects (absmax,
 * sumsq). */
#include "cuda/device.cuh"

enum { THREADS = 256 };

/* False after noting the fault: an index must not become an address. */
__device__ __forceinline__ bool index_ok(cuda_fault *f, int op, int64_t index, int32_t value, int64_t limit) {
    if (value >= 0 && value < limit) return true;
    if (threadIdx.x == 0 && atomicCAS(&f->set, 0, 1) == 0) {
        f->op = op;
        f->index = (int32_t)index;
        f->value = value;
    }
    return false;
}

/* Element [row,k] of a weight. */
__device__ __forceinline__ float weight_at(const cuda_weight &w, int64_t row, int64_t k) {
    if (!w.sparse24) return load_any(w.data, w.dtype, row * w.ld + k);
    const e4m3 *kept = (const e4m3 *)w.data + row * w.ld / 2 + k / 4 * 2;
    uint32_t places = (uint32_t)w.places[(row * w.ld + k) / 16] >> (k / 4 % 4 * 4);
    if ((places & 3) == k % 4) return to_f32(kept[0]);
    return (places >> 2 & 3) == k % 4 ? to_f32(kept[1]) : 0.0f;
}

__global__ void __launch_bounds__(THREADS, 4) k_embed(const cuda_rows_args a) {
    int64_t t = blockIdx.x;
    int32_t id = a.index[t];
    bool ok = index_ok(a.fault, CUDA_FAULT_EMBED, t, id, a.limit);
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        float v = 0.0f;
        if (ok) {
            v = weight_at(a.table, id, i);
            if (a.table.scale)
                v *= a.table.scale[id * a.table.blocks + (a.table.blocks > 1 ? i / FL_ACT_GROUP_K : 0)];
        }
        store_any(a.out, a.dtype, t * a.ldo + i, v);
    }
}

/* Act dtypes have 2 bytes: what they mean does not matter here. */
__global__ void __launch_bounds__(THREADS) k_gather(const cuda_rows_args a) {
    int64_t t = blockIdx.x;
    int32_t row = a.index[t];
    bool ok = index_ok(a.fault, CUDA_FAULT_GATHER, t, row, a.limit);
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        ((uint16_t *)a.out)[t * a.ldo + i] = ok ? ((const uint16_t *)a.x)[row * a.ldx + i] : 0;
}

/* Bits of magnitudes order like the numbers. */
__global__ void __launch_bounds__(THREADS) k_absmax(float *out, const cuda_quant_args a) {
    __shared__ float red[32];
    float top = 0.0f;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        top = fmaxf(top, fabsf(load_any(a.x, a.dtype, blockIdx.x * a.ld + i)));
    top = block_reduce<true>(top, red);
    if (threadIdx.x == 0) atomicMax((int *)out, __float_as_int(top));
}

/* One thread a column, rows in order: the sums do not depend on how the rows were split. */
__global__ void __launch_bounds__(THREADS) k_sumsq(float *out, const cuda_quant_args a) {
    int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= a.n) return;
    float sum = out[k];
    for (int64_t t = 0; t < a.t; t++) {
        float v = load_any(a.x, a.dtype, t * a.ld + k);
        sum = __fadd_rn(sum, __fmul_rn(v, v));
    }
    out[k] = sum;
}

extern "C" cudaError_t fl_cuda_probe(void) {
    cudaFuncAttributes a;
    return cudaFuncGetAttributes(&a, k_embed);
}
extern "C" cudaError_t fl_cuda_embed(const cuda_rows_args *a, cudaStream_t s) {
    k_embed<<<(unsigned)a->t, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
extern "C" cudaError_t fl_cuda_gather(const cuda_rows_args *a, cudaStream_t s) {
    k_gather<<<(unsigned)a->t, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
extern "C" cudaError_t fl_cuda_absmax(float *out, const cuda_quant_args *a, cudaStream_t s) {
    k_absmax<<<(unsigned)a->t, THREADS, 0, s>>>(out, *a);
    return cudaGetLastError();
}
extern "C" cudaError_t fl_cuda_sumsq(float *out, const cuda_quant_args *a, cudaStream_t s) {
    k_sumsq<<<(unsigned)((a->n + THREADS - 1) / THREADS), THREADS, 0, s>>>(out, *a);
    return cudaGetLastError();
}
