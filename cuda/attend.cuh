/* attend.cuh - how parts of an attention become one. */
#ifndef FL_CUDA_ATTEND_CUH
#define FL_CUDA_ATTEND_CUH

#include "cuda/device.cuh"

/* Sums over positions have weights p = 2^(score - top).  Two of them are brought to the higher top
 * and added; one of no positions has the top -inf and counts for nothing, as long as it is finite. */
struct joint {
    float top, x, y;
    __device__ __forceinline__ float sum(float a, float b) const {
        return fmaf(a, x, __fmul_rn(b, y));
    }
};
__device__ __forceinline__ joint join(float x, float y) {
    float top = fmaxf(x, y);
    return joint{top, ptx_ex2(x - top), ptx_ex2(y - top)};
}

/* The result for a head dim: sum of p v, and l = sum of p. */
__device__ __forceinline__ float attended(const cuda_kv &kv, float sum, float l) {
    return sum * kv.v_scale / l;
}

#endif
