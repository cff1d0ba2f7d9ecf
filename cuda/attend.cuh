/* attend.cuh - how parts of an attention become one. */
#ifndef FL_CUDA_ATTEND_CUH
#define FL_CUDA_ATTEND_CUH

#include "cuda/device.cuh"

/* Sums over positions have weights p = 2^(score - top).  Two of them, the first of earlier
 * positions, are brought to the higher top and added. */
struct joint {
    float top, x, y;
    bool empty; /* the second is of no positions */
    __device__ __forceinline__ float sum(float a, float b) const {
        return empty ? a : fmaf(a, x, __fmul_rn(b, y));
    }
};
__device__ __forceinline__ joint join(float x, float y) {
    float top = fmaxf(x, y);
    if (y == -INFINITY) return joint{x, 1.0f, 0.0f, true};
    return joint{top, ptx_ex2(x - top), ptx_ex2(y - top), false};
}

/* The result for a head dim: sum of p v, and l = sum of p. */
__device__ __forceinline__ float attended(const cuda_kv &kv, float sum, float l) {
    return sum * kv.v_scale / l;
}

#endif
