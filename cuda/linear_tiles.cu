/* linear_tiles.cu - y = x w^T on tensor cores, for any number of rows and any scales: E4M3 (cuBLASLt has scales of
 * blocks and groups on 9.0 only), 2:4 E4M3, and where batches must not change a row, BF16 and F16.
 *
 * 64 x 64 results a block, 64 bytes of a row of x and w a step, 4 warps of 32 x 32, a ring of 3 steps filled by
 * cp.async.  A row of a tile is 4 chunks of 16 bytes; chunk c of row r lies at c ^ (r / 2 % 4), so that ldmatrix meets
 * every bank once.  2:4 weights pass through registers, where they become dense, a step ahead: mma.sp is FP8 work on
 * 8.9 and 12.x only, and a hundred instructions of emulation on 9.0 and 10.0.  After each 128 columns the sums are
 * scaled and added to the result: the order of a row's sum depends on K alone. */
#include "cuda/sparse24.cuh"

enum { TILE = 64, STEP = 64, STAGES = 3, TILE_BYTES = TILE * STEP, THREADS = 128 };

struct sums {
    float v[2][4][4]; /* 16 rows x 8 columns each, as mma has them */
};

__device__ __forceinline__ int place(int row, int chunk) {
    return row * STEP + (chunk ^ (row >> 1 & 3)) * 16;
}

/* 64 bytes of rows [first, first + 64) from byte k on; zeros outside [rows, bytes].  Rows lie ld bytes apart. */
__device__ __forceinline__ void fetch(uint8_t *tile, const uint8_t *src, int64_t ld, int64_t first, int64_t rows,
                                      int64_t k, int64_t bytes) {
#pragma unroll
    for (int i = 0; i < TILE * 4 / THREADS; i++) {
        int c = (int)threadIdx.x + i * THREADS, r = c >> 2, chunk = c & 3;
        bool in = first + r < rows && k + chunk * 16 < bytes;
        const uint8_t *from = in ? src + (first + r) * ld + k + chunk * 16 : src;
        ptx_cp_async16(tile + place(r, chunk), from, !in);
    }
}

/* Half a row of a 2:4 tile for each thread: 32 columns. */
struct kept {
    uint2 codes[2];
    uint32_t places[2];

    __device__ __forceinline__ void load(const cuda_weight &w, int64_t first, int64_t k) {
        int64_t row = first + (threadIdx.x >> 1), column = k + (threadIdx.x & 1) * 32;
#pragma unroll
        for (int i = 0; i < 2; i++, column += 16) {
            bool in = row < w.n && column < w.ld;
            codes[i] = in ? ptx_ld_stream8((const uint8_t *)w.data + (row * w.ld + column) / 2) : make_uint2(0, 0);
            places[i] = in ? w.places[(row * w.ld + column) / 16] : 0;
        }
    }
    __device__ __forceinline__ void store(uint8_t *tile) const {
        int row = (int)threadIdx.x >> 1, chunk = ((int)threadIdx.x & 1) * 2;
#pragma unroll
        for (int i = 0; i < 2; i++) *(uint4 *)(tile + place(row, chunk + i)) = expand(codes[i], places[i]);
    }
};

__device__ __forceinline__ void multiply_add(float d[4], const uint32_t a[4], const uint32_t b[2], e4m3) {
    ptx_mma_e4m3(d, a, b);
}
__device__ __forceinline__ void multiply_add(float d[4], const uint32_t a[4], const uint32_t b[2], bf16) {
    ptx_mma_bf16(d, a, b);
}
__device__ __forceinline__ void multiply_add(float d[4], const uint32_t a[4], const uint32_t b[2], f16) {
    ptx_mma_f16(d, a, b);
}

/* The fragments of k16 of 2 bytes are those of k32 of 1. */
template <typename X>
__device__ __forceinline__ void multiply(sums &s, const uint8_t *x, const uint8_t *w, int row, int column) {
    int lane = (int)threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < STEP / 32; half++) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) { /* rows 0-7 and 8-15, first 16 columns, then the next */
            int r = row + i * 16 + (lane & 15);
            ptx_ldmatrix_x4(a[i], ptx_shared(x + place(r, half * 2 + (lane >> 4))));
        }
#pragma unroll
        for (int j = 0; j < 2; j++) { /* 8 results of w: both halves of K, then 8 more */
            int r = column + j * 16 + (lane & 7) + (lane >> 4) * 8;
            ptx_ldmatrix_x4(b[j], ptx_shared(w + place(r, half * 2 + (lane >> 3 & 1))));
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) multiply_add(s.v[i][j], a[i], &b[j >> 1][(j & 1) * 2], X());
    }
}

/* total += part * scales of block b; part = 0. */
__device__ __forceinline__ void add_block(sums &total, sums &part, const cuda_linear_args &a, int64_t b, int64_t row,
                                          int64_t column) {
    float xs[2][2], ws[4][2];
    int64_t xb = a.x_groups > 1 ? b : 0, wb = a.w.blocks > 1 ? b : 0;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            xs[i][h] = a.x_scale ? a.x_scale[min(row + i * 16 + h * 8, a.t - 1) * a.x_groups + xb] : 1.0f;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            ws[j][h] = a.w.scale ? a.w.scale[min(column + j * 8 + h, a.w.n - 1) * a.w.blocks + wb] : 1.0f;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                total.v[i][j][e] = fmaf(part.v[i][j][e], xs[i][e >> 1] * ws[j][e & 1], total.v[i][j][e]);
                part.v[i][j][e] = 0.0f;
            }
}

/* X: an element of x, and of w where that is dense. */
template <typename X, bool SPARSE> __global__ void __launch_bounds__(THREADS) k_linear_tiles(const cuda_linear_args a) {
    constexpr int BLOCK_STEPS = FL_ACT_GROUP_K * (int)sizeof(X) / STEP;
    __shared__ __align__(128) uint8_t ring[2][STAGES][TILE_BYTES];
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, row = (warp >> 1) * 32, column = (warp & 1) * 32;
    int64_t t0 = (int64_t)blockIdx.y * TILE, n0 = (int64_t)blockIdx.x * TILE;
    int64_t my_row = t0 + row + (lane >> 2), my_column = n0 + column + (lane & 3) * 2;
    const int64_t bytes = a.w.k * sizeof(X), ldx = a.ldx * sizeof(X), ldw = a.w.ld * sizeof(X);
    int steps = (int)((bytes + STEP - 1) / STEP);
    const uint8_t *x = (const uint8_t *)a.x, *w = (const uint8_t *)a.w.data;
    sums total = {}, part = {};
    kept ahead;
    auto fetch_step = [&](int s) {
        if (s < steps) {
            fetch(ring[0][s % STAGES], x, ldx, t0, a.t, (int64_t)s * STEP, bytes);
            if (!SPARSE) fetch(ring[1][s % STAGES], w, ldw, n0, a.w.n, (int64_t)s * STEP, bytes);
        }
        ptx_cp_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch_step(s);
    if (SPARSE) {
        ahead.load(a.w, n0, 0);
        ahead.store(ring[1][0]);
        ahead.load(a.w, n0, STEP);
    }
    for (int s = 0; s < steps; s++) {
        int next = s + STAGES - 1;
        ptx_cp_async_wait<STAGES - 2>();
        __syncthreads(); /* step s is there for all, and nobody reads step s - 1 any more */
        fetch_step(next);
        if (SPARSE) {
            ahead.store(ring[1][(s + 1) % STAGES]);
            ahead.load(a.w, n0, (int64_t)(s + 2) * STEP);
        }
        multiply<X>(part, ring[0][s % STAGES], ring[1][s % STAGES], row, column);
        if ((s + 1) % BLOCK_STEPS == 0 || s + 1 == steps) add_block(total, part, a, s / BLOCK_STEPS, my_row, my_column);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int64_t t = my_row + i * 16 + (e >> 1) * 8, n = my_column + j * 8 + (e & 1);
                if (t >= a.t || n >= a.w.n) continue;
                float y = total.v[i][j][e] + (a.w.bias ? a.w.bias[n] : 0.0f);
                store_any(a.out, a.out_dtype, t * a.ldo + n, y);
            }
}

template <typename X, bool SPARSE> static cudaError_t launch(const cuda_linear_args *a, cudaStream_t s) {
    constexpr int EACH = 16 / (int)sizeof(X);
    if (a->w.k % EACH || a->ldx % EACH || (uintptr_t)a->x % 16) return cudaErrorNotSupported;
    dim3 grid((unsigned)((a->w.n + TILE - 1) / TILE), (unsigned)((a->t + TILE - 1) / TILE));
    k_linear_tiles<X, SPARSE><<<grid, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}

extern "C" cudaError_t fl_cuda_linear_tiles(const cuda_linear_args *a, cudaStream_t s) {
    if (a->x_dtype != a->w.dtype) return cudaErrorNotSupported;
    if (a->w.dtype == FL_DTYPE_BF16) return launch<bf16, false>(a, s);
    if (a->w.dtype == FL_DTYPE_F16) return launch<f16, false>(a, s);
    return a->w.sparse24 ? launch<e4m3, true>(a, s) : launch<e4m3, false>(a, s);
}
