/* rope.cuh - one pair of a head turned, and where its keys and values go in the paged cache. */
#ifndef FL_CUDA_ROPE_CUH
#define FL_CUDA_ROPE_CUH

#include "cuda/device.cuh"

/* x[j], x[j + half] turned; no contraction, so that every backend has the same bits. */
__device__ __forceinline__ float2 rotated(float a, float b, float c, float s) {
    return make_float2(__fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s)), __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s)));
}

__device__ __forceinline__ void cache_store(const cuda_kv &kv, uint8_t *row, int e, float x, float scale) {
    store_any(row, kv.dtype, e, kv.dtype == FL_DTYPE_E4M3 ? x / scale : x);
}

/* Where the keys (or values) of a head and position begin. */
__device__ __forceinline__ uint8_t *cache_row(const cuda_kv &kv, int64_t slot, int head, bool value) {
    int64_t page = slot / kv.page_tokens, offset = slot % kv.page_tokens;
    int64_t row = ((value ? kv.heads : 0) + head) * (int64_t)kv.page_tokens + offset;
    return kv.data + page * kv.page_bytes + row * kv.padded * (kv.dtype == FL_DTYPE_E4M3 ? 1 : 2);
}

/* Whether a row's position and slot can be; the first row of which that is not so is kept. */
__device__ __forceinline__ bool rope_row(const cuda_rope_args &a, int64_t t, bool tells) {
    int32_t pos = a.pos[t], slot = a.slot[t];
    if (pos >= 0 && pos < a.max_pos && slot >= 0) return true;
    if (tells && atomicCAS(&a.fault->set, 0, 1) == 0) {
        a.fault->op = CUDA_FAULT_ROPE;
        a.fault->index = (int32_t)t;
        a.fault->value = slot < 0 ? slot : pos;
    }
    return false;
}

#endif
