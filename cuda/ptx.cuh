/* ptx.cuh - every inline PTX instruction of the backend: one wrapper each, so that the list of
 * what the hardware and the emulated GPU must know stays short and in one place. */
#ifndef FL_CUDA_PTX_CUH
#define FL_CUDA_PTX_CUH

#include <stdint.h>

/* 2^x, 2 units in the last place; ex2(-inf) = 0. */
__device__ __forceinline__ float ptx_ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 16 or 8 bytes that are read once: weights do not displace activations in L1. */
__device__ __forceinline__ uint4 ptx_ld_stream16(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ uint2 ptx_ld_stream8(const void *p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

#endif
