/* rope_store.cu - rotate q and k, append k and v to the paged cache.  One block a row. */
#include "cuda/device.cuh"

enum { THREADS = 128 };

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

template <typename T>
__global__ void __launch_bounds__(THREADS) k_rope_store(const cuda_rope_args a) {
    int64_t t = blockIdx.x;
    int32_t pos = a.pos[t], slot = a.slot[t];
    int half = a.kv.head_dim / 2;
    if (pos < 0 || pos >= a.max_pos || slot < 0) {
        if (threadIdx.x == 0 && atomicCAS(&a.fault->set, 0, 1) == 0) {
            a.fault->op = CUDA_FAULT_ROPE;
            a.fault->index = (int32_t)t;
            a.fault->value = slot < 0 ? slot : pos;
        }
        return;
    }
    const float *cs = a.cos_sin + pos * a.ld_table;
    for (int i = (int)threadIdx.x; i < (a.n_heads + a.kv.heads) * half; i += THREADS) {
        int head = i / half, j = i % half;
        bool key = head >= a.n_heads;
        T *q = (T *)a.q + t * a.ldq + head * a.kv.head_dim;
        const T *x = key ? (const T *)a.k + t * a.ldk + (head - a.n_heads) * a.kv.head_dim : q;
        float2 r = rotated(to_f32(x[j]), to_f32(x[j + half]), cs[j], cs[j + half]);
        T low = from_f32<T>(r.x), high = from_f32<T>(r.y);
        if (key) {
            uint8_t *to = cache_row(a.kv, slot, head - a.n_heads, false);
            cache_store(a.kv, to, j, to_f32(low), a.kv.k_scale);
            cache_store(a.kv, to, j + half, to_f32(high), a.kv.k_scale);
        } else {
            q[j] = low;
            q[j + half] = high;
        }
    }
    /* Values, and zeros where head dims are padded: a score must not meet what was there. */
    for (int i = (int)threadIdx.x; i < a.kv.heads * a.kv.padded; i += THREADS) {
        int head = i / a.kv.padded, e = i % a.kv.padded;
        bool pad = e >= a.kv.head_dim;
        float v = pad ? 0.0f : to_f32(((const T *)a.v)[t * a.ldv + head * a.kv.head_dim + e]);
        cache_store(a.kv, cache_row(a.kv, slot, head, true), e, v, a.kv.v_scale);
        if (pad) cache_store(a.kv, cache_row(a.kv, slot, head, false), e, 0.0f, 1.0f);
    }
}

extern "C" cudaError_t fl_cuda_rope_store(const cuda_rope_args *a, cudaStream_t s) {
#define LAUNCH(T) k_rope_store<T><<<(unsigned)a->t, THREADS, 0, s>>>(*a)
    FOR_ACT_TYPE(a->dtype, LAUNCH);
#undef LAUNCH
    return cudaGetLastError();
}
