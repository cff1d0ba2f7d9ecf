/* linear_rows.cuh - products of few rows: a warp makes whole columns of the output, so that each
 * weight is read once for all rows.  Lanes take 16 bytes of weights in turn; the order of the
 * sum depends on K alone. */
#ifndef FL_CUDA_LINEAR_ROWS_CUH
#define FL_CUDA_LINEAR_ROWS_CUH

#include "cuda/sparse24.cuh"

/* 16 bytes of a row; of 2:4 codes the 8 bytes and 16 bits that stand for as many columns, so
 * that sparse and dense weights are summed in the same order. */
template <typename W> struct chunk {
    enum { COLUMNS = 16 / (int)sizeof(W) };
    static __device__ __forceinline__ void load(float *f, const cuda_weight &w, int64_t row, int64_t k) {
        unpack<W>(f, ptx_ld_stream16((const W *)w.data + row * w.ld + k));
    }
};
template <> struct chunk<e4m3_24> {
    enum { COLUMNS = 16 };
    static __device__ __forceinline__ void load(float *f, const cuda_weight &w, int64_t row, int64_t k) {
        uint2 v = ptx_ld_stream8((const uint8_t *)w.data + (row * w.ld + k) / 2);
        uint32_t places = w.places[(row * w.ld + k) / 16];
        unpack<e4m3>(f, expand(v, places));
    }
};

/* How rows of x lie: anyhow, each on 16 bytes, or so and with zeros up to a multiple of 16. */
enum rows_lie { ANYHOW, ALIGNED, PADDED };

/* Columns [k, k + C) of a row of x; zeros beyond K. */
template <typename X, int C, rows_lie LIE>
__device__ __forceinline__ void load_x(float *f, const X *x, int64_t k, int64_t n) {
    bool whole = LIE == PADDED || (LIE == ALIGNED && k + C <= n);
    if (whole) {
        load_vec<X, C>(f, x + k);
        return;
    }
#pragma unroll
    for (int i = 0; i < C; i++) f[i] = k + i < n ? to_f32(x[k + i]) : 0.0f;
}

/* Rows that a warp multiplies: t of them, ld elements apart, and groups scales a row (or NULL). */
template <typename X> struct input_rows {
    const X *x;
    const float *scale;
    int64_t ld, t, groups;
};

/* Scales differ along a row: sums are scaled block by block, else once at their end. */
__device__ __forceinline__ bool in_blocks(const cuda_weight &w, int64_t groups) {
    return w.blocks > 1 || groups > 1;
}

/* acc[i][r] = row r times column n[i], in every lane; rows from t on are those of row t - 1. */
template <typename W, typename X, int R, int N, rows_lie LIE>
__device__ __forceinline__ void dots(float (&acc)[N][R], const cuda_weight &w, const int64_t (&n)[N],
                                     const input_rows<X> &in) {
    constexpr int C = chunk<W>::COLUMNS;
    bool blocks = in_blocks(w, in.groups);
    const X *x[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        x[r] = in.x + min((int64_t)r, in.t - 1) * in.ld;
#pragma unroll
        for (int i = 0; i < N; i++) acc[i][r] = 0.0f;
    }
    for (int64_t k = ((int)threadIdx.x & 31) * C; k < w.k; k += 32 * C) {
        int64_t b = k / FL_ACT_GROUP_K; /* a chunk lies in one block */
        float c[N][C], v[C], ws[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            chunk<W>::load(c[i], w, n[i], k);
            ws[i] = blocks && w.scale ? w.scale[n[i] * w.blocks + (w.blocks > 1 ? b : 0)] : 1.0f;
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            load_x<X, C, LIE>(v, x[r], k, w.k);
            float xs = 1.0f;
            if (blocks && in.scale) xs = in.scale[min((int64_t)r, in.t - 1) * in.groups + (in.groups > 1 ? b : 0)];
#pragma unroll
            for (int i = 0; i < N; i++) {
                float sum = blocks ? 0.0f : acc[i][r];
#pragma unroll
                for (int j = 0; j < C; j++) sum = fmaf(c[i][j], v[j], sum);
                acc[i][r] = blocks ? fmaf(sum, xs * ws[i], acc[i][r]) : sum;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int r = 0; r < R; r++) acc[i][r] = warp_sum(acc[i][r]);
}

/* The sum of row r and column n with its scales and bias. */
template <typename X>
__device__ __forceinline__ float finished(float y, const cuda_weight &w, int64_t n, const input_rows<X> &in,
                                          int64_t r) {
    bool blocks = in_blocks(w, in.groups);
    return scaled(y, !blocks && in.scale ? in.scale + r : nullptr, !blocks && w.scale ? w.scale + n : nullptr,
                  w.bias ? w.bias + n : nullptr);
}

#endif
