/* rope_store.cu - rotate q and k, append k and v to the paged cache.  One block a row. */
#include "cuda/rope.cuh"

enum { THREADS = 128 };

template <typename T>
__global__ void __launch_bounds__(THREADS) k_rope_store(const cuda_rope_args a) {
    int64_t t = blockIdx.x;
    int half = a.kv.head_dim / 2, slot = a.slot[t];
    if (!rope_row(a, t, threadIdx.x == 0)) return;
    const float *cs = a.cos_sin + a.pos[t] * a.ld_table;
    for (int i = (int)threadIdx.x; i < (a.n_heads + a.kv.heads) * half; i += THREADS) {
        int head = i / half, j = i % half;
        bool key = head >= a.n_heads;
        int first = head * a.kv.head_dim; /* column of the head in q and k side by side */
        T *q = (T *)a.q + t * a.ldq;
        const T *x = key ? (const T *)a.k + t * a.ldk - a.n_heads * a.kv.head_dim : q;
        float x0 = load_scaled(x, a.unscaled, t, first + j), x1 = load_scaled(x, a.unscaled, t, first + j + half);
        float2 r = rotated(x0, x1, cs[j], cs[j + half]);
        T low = from_f32<T>(r.x), high = from_f32<T>(r.y);
        if (key) {
            uint8_t *to = cache_row(a.kv, slot, head - a.n_heads, false);
            cache_store(a.kv, to, j, to_f32(low), a.kv.k_scale);
            cache_store(a.kv, to, j + half, to_f32(high), a.kv.k_scale);
        } else {
            q[first + j] = low;
            q[first + j + half] = high;
        }
    }
    /* Values, and zeros where head dims are padded: a score must not meet what was there. */
    for (int i = (int)threadIdx.x; i < a.kv.heads * a.kv.padded; i += THREADS) {
        int head = i / a.kv.padded, e = i % a.kv.padded;
        bool pad = e >= a.kv.head_dim;
        int column = (a.n_heads + a.kv.heads + head) * a.kv.head_dim + e; /* of q, k and v side by side */
        const T *x = (const T *)a.v + t * a.ldv - (a.n_heads + a.kv.heads) * a.kv.head_dim;
        float v = pad ? 0.0f : load_scaled(x, a.unscaled, t, column);
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
