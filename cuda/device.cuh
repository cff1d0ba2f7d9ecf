/* device.cuh - what all kernels share: element types, vectors of them, reductions. */
#ifndef FL_CUDA_DEVICE_CUH
#define FL_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "cuda/kernels.h"
#include "cuda/ptx.cuh"

typedef __nv_bfloat16 bf16;
typedef __half f16;
struct e4m3 {
    uint8_t code;
};

constexpr unsigned ALL_LANES = 0xffffffffu;

/* ---- one element ---- */

__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(e4m3 x) {
    __half_raw h = __nv_cvt_fp8_to_halfraw(x.code, __NV_E4M3);
    return __half2float(__half(h));
}
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ e4m3 from_f32<e4m3>(float x) { /* saturates, NaN: 0x7f */
    return e4m3{__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)};
}

/* Element i of an array whose type is known only when the kernel runs. */
__device__ __forceinline__ float load_any(const void *p, fl_dtype t, int64_t i) {
    switch (t) {
    case FL_DTYPE_BF16: return to_f32(((const bf16 *)p)[i]);
    case FL_DTYPE_F16: return to_f32(((const f16 *)p)[i]);
    case FL_DTYPE_E4M3: return to_f32(((const e4m3 *)p)[i]);
    default: return ((const float *)p)[i];
    }
}
__device__ __forceinline__ void store_any(void *p, fl_dtype t, int64_t i, float x) {
    switch (t) {
    case FL_DTYPE_BF16: ((bf16 *)p)[i] = from_f32<bf16>(x); break;
    case FL_DTYPE_F16: ((f16 *)p)[i] = from_f32<f16>(x); break;
    case FL_DTYPE_E4M3: ((e4m3 *)p)[i] = from_f32<e4m3>(x); break;
    default: ((float *)p)[i] = x;
    }
}

/* The same where the type is an act dtype. */
__device__ __forceinline__ float load_act(const void *p, fl_dtype t, int64_t i) {
    unsigned short raw = ((const unsigned short *)p)[i];
    return t == FL_DTYPE_BF16 ? __uint_as_float((unsigned)raw << 16) : to_f32(__ushort_as_half(raw));
}
__device__ __forceinline__ void store_act(void *p, fl_dtype t, int64_t i, float x) {
    ((unsigned short *)p)[i] = t == FL_DTYPE_BF16 ? __bfloat16_as_ushort(from_f32<bf16>(x))
                                                  : __half_as_ushort(from_f32<f16>(x));
}

/* A sum of products with its scales and bias; never contracted, so that the same sum has the
 * same bits in every kernel. */
__device__ __forceinline__ float scaled(float y, const float *x_scale, const float *w_scale, const float *bias) {
    if (x_scale) y = __fmul_rn(y, *x_scale);
    if (w_scale) y = __fmul_rn(y, *w_scale);
    if (bias) y = __fadd_rn(y, *bias);
    return y;
}

/* Element i of row t of a product that waits for its scales. */
__device__ __forceinline__ float scaled(const cuda_unscaled &u, int64_t t, int64_t i) {
    return scaled(u.y[t * u.n + i], u.x_scale ? u.x_scale + t : nullptr, u.w_scale ? u.w_scale + i : nullptr,
                  u.bias ? u.bias + i : nullptr);
}

/* Element i of row t: of the product when there is one, else of x, which points to the row. */
template <typename T>
__device__ __forceinline__ float load_scaled(const T *x, const cuda_unscaled &u, int64_t t, int64_t i) {
    return u.y ? to_f32(from_f32<T>(scaled(u, t, i))) : to_f32(x[i]);
}

/* A number as the act dtype has it. */
__device__ __forceinline__ float round_act(float x, fl_dtype t) {
    return t == FL_DTYPE_BF16 ? to_f32(from_f32<bf16>(x)) : to_f32(from_f32<f16>(x));
}

/* ---- what ops compute, the same wherever they are computed ---- */

/* RMSNorm: threads of a block of NORM_THREADS take NORM_EACH neighbours in turn, so that every
 * kernel sums a row in the same order. */
enum { NORM_THREADS = 256, NORM_EACH = 8 };

__device__ __forceinline__ float inv_rms(float sum, int64_t n, float eps) {
    return 1.0f / sqrtf(sum / (float)n + eps);
}

__device__ __forceinline__ float silu_mul(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

/* ---- vectors ---- */

__device__ __forceinline__ float2 pair_f32(uint32_t two, bf16) {
    return make_float2(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u));
}
__device__ __forceinline__ float2 pair_f32(uint32_t two, f16) {
    __half2_raw h;
    h.x = (unsigned short)two;
    h.y = (unsigned short)(two >> 16);
    return __half22float2(__half2(h));
}
__device__ __forceinline__ float2 pair_f32(uint32_t two, e4m3) {
    __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)(two & 0xffff), __NV_E4M3);
    return __half22float2(__half2(h));
}

template <typename T> __device__ __forceinline__ uint32_t pack_pair(float low, float high);
template <> __device__ __forceinline__ uint32_t pack_pair<bf16>(float low, float high) {
    __nv_bfloat162_raw two = __floats2bfloat162_rn(low, high);
    return (uint32_t)two.y << 16 | two.x;
}
template <> __device__ __forceinline__ uint32_t pack_pair<f16>(float low, float high) {
    __half2_raw two = __floats2half2_rn(low, high);
    return (uint32_t)two.y << 16 | two.x;
}

/* The 16 / sizeof(T) elements of v. */
template <typename T> __device__ __forceinline__ void unpack(float *f, uint4 v) {
    constexpr int BITS = 16 * (int)sizeof(T), PAIRS = 128 / BITS;
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        float2 two = pair_f32(word[i * BITS / 32] >> (i * BITS % 32), T());
        f[2 * i] = two.x;
        f[2 * i + 1] = two.y;
    }
}

/* N elements; p is aligned to them, up to 16 bytes. */
template <typename T, int N> __device__ __forceinline__ void load_vec(float *f, const T *p) {
    constexpr int EACH = 16 / (int)sizeof(T);
    if (N % EACH == 0) {
#pragma unroll
        for (int i = 0; i < N; i += EACH) unpack<T>(f + i, *(const uint4 *)(p + i));
    } else if (N * (int)sizeof(T) == 8) {
        uint2 v = *(const uint2 *)p;
        float all[EACH];
        unpack<T>(all, make_uint4(v.x, v.y, 0, 0));
#pragma unroll
        for (int i = 0; i < N; i++) f[i] = all[i];
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) f[i] = to_f32(p[i]);
    }
}

/* ---- reductions ---- */

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
    return v;
}

/* Over a block of whole warps, at most 32; every thread gets the result.  red: 32 floats of
 * shared memory, free again when this returns. */
template <bool MAX> __device__ __forceinline__ float block_reduce(float v, float *red) {
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, warps = (int)blockDim.x >> 5;
    v = MAX ? warp_max(v) : warp_sum(v);
    if (lane == 0) red[warp] = v;
    __syncthreads();
    v = lane < warps ? red[lane] : 0.0f; /* the maximum is of magnitudes */
    v = MAX ? warp_max(v) : warp_sum(v);
    __syncthreads();
    return v;
}

/* Calls f with a value of the C++ type of an act dtype. */
#define FOR_ACT_TYPE(dtype, f)                                                                  \
    do {                                                                                         \
        if ((dtype) == FL_DTYPE_BF16)                                                            \
            f(bf16);                                                                             \
        else                                                                                     \
            f(f16);                                                                              \
    } while (0)

#endif
