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

/* ---- copies to shared memory and tensor cores ---- */

__device__ __forceinline__ uint32_t ptx_shared(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, or 16 zeros; visible after the wait for its group and
 * a barrier. */
__device__ __forceinline__ void ptx_cp_async16(void *to, const void *from, bool zeros) {
    int bytes = zeros ? 0 : 16;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared(to)), "l"(from), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void ptx_cp_async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the newest N groups of this thread have landed. */
template <int N> __device__ __forceinline__ void ptx_cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8x8 matrices of 16-bit elements in shared memory; lane l names row l % 8 of matrix l / 8. */
__device__ __forceinline__ void ptx_ldmatrix_x4(uint32_t r[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/* The same, each matrix turned: register i of lane 4g + t holds rows 2t and 2t + 1 of column g. */
__device__ __forceinline__ void ptx_ldmatrix_x4_trans(uint32_t r[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

/* d += a [16,16] x b [16,8] of F16, or of BF16; sums in f32. */
__device__ __forceinline__ void ptx_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void ptx_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a [16,32] x b [32,8] of E4M3, sums in f32. */
__device__ __forceinline__ void ptx_mma_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
