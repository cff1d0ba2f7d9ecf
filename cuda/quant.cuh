/* quant.cuh - a row becomes E4M3, as the next linear wants it. */
#ifndef FL_CUDA_QUANT_CUH
#define FL_CUDA_QUANT_CUH

#include "cuda/device.cuh"

__device__ __forceinline__ float act_scale(float top) {
    return fmaxf(top / 448.0f, 1.0f / (448.0f * 512.0f));
}

template <typename T>
__device__ __forceinline__ void quant_groups(const T *x, int64_t begin, int64_t end, const cuda_quant &p, int64_t row) {
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, warps = (int)blockDim.x >> 5;
    uint8_t *q = p.q + row * p.ld;
    for (int64_t g = begin / FL_ACT_GROUP_K + warp; g * FL_ACT_GROUP_K < end; g += warps) {
        int64_t first = g * FL_ACT_GROUP_K;
        float v[FL_ACT_GROUP_K / 32], top = 0.0f;
#pragma unroll
        for (int i = 0; i < FL_ACT_GROUP_K / 32; i++) {
            int64_t at = first + i * 32 + lane;
            v[i] = at < end ? to_f32(x[at]) : 0.0f;
            top = fmaxf(top, fabsf(v[i]));
        }
        float scale = act_scale(warp_max(top));
        if (lane == 0) p.q_scale[row * p.groups + g] = scale;
#pragma unroll
        for (int i = 0; i < FL_ACT_GROUP_K / 32; i++) {
            int64_t at = first + i * 32 + lane;
            if (at < end) q[at] = from_f32<e4m3>(v[i] / scale).code;
        }
    }
}

/* Columns [begin, end) of row `row` of x (complete and visible to the whole block) -> codes and
 * scales of the same row: with GROUP whole groups, with TOKEN the whole row.  The arithmetic is
 * that of every backend: scale = max(absmax / 448, 1 / (448 * 512)), code = x / scale; STATIC
 * multiplies by 1 / scale. */
template <typename T>
__device__ __forceinline__ void quant_columns(const T *x, int64_t begin, int64_t end, const cuda_quant &p, int64_t row,
                                              float *red) {
    if (p.act == FL_ACT_GROUP) {
        quant_groups(x, begin, end, p, row);
        return;
    }
    float scale = p.x_scale, inverse = 1.0f / p.x_scale;
    bool token = p.act == FL_ACT_TOKEN;
    if (token) {
        float top = 0.0f;
        for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) top = fmaxf(top, fabsf(to_f32(x[i])));
        top = block_reduce<true>(top, red);
        if (p.x_scale_ub > 0.0f) top = fminf(top, p.x_scale_ub);
        scale = act_scale(top);
    }
    if (begin == 0 && threadIdx.x == 0) p.q_scale[row] = scale;
    uint8_t *q = p.q + row * p.ld;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
        float v = to_f32(x[i]);
        q[i] = from_f32<e4m3>(token ? v / scale : v * inverse).code;
    }
}

template <typename T>
__device__ __forceinline__ void quant_row(const T *x, int64_t n, const cuda_quant &p, int64_t row, float *red) {
    quant_columns(x, 0, n, p, row, red);
}

#endif
