/* linear_tiles.cu - y = x w^T of E4M3 on tensor cores, with scales of blocks and groups of 128
 * columns: cuBLASLt has those on 9.0 only.
 *
 * 64 x 64 results a block, 64 columns of K a step, 4 warps of 32 x 32, a ring of 3 steps filled
 * by cp.async.  A row of a tile is 64 bytes = 4 chunks of 16; chunk c of row r lies at
 * c ^ (r / 2 % 4), so that ldmatrix meets every bank once.  After each 128 columns the sums are
 * scaled and added to the result: the order of a row's sum depends on K alone. */
#include "cuda/device.cuh"

enum { TILE = 64, STEP = 64, STAGES = 3, TILE_BYTES = TILE * STEP, THREADS = 128 };

struct sums {
    float v[2][4][4]; /* 16 rows x 8 columns each, as mma has them */
};

__device__ __forceinline__ int place(int row, int chunk) {
    return row * STEP + (chunk ^ (row >> 1 & 3)) * 16;
}

/* Rows [first, first + 64) of 64 codes from column k on; zeros outside [rows, columns]. */
__device__ __forceinline__ void fetch(uint8_t *tile, const uint8_t *src, int64_t ld, int64_t first, int64_t rows,
                                      int64_t k, int64_t columns) {
#pragma unroll
    for (int i = 0; i < TILE * 4 / THREADS; i++) {
        int c = (int)threadIdx.x + i * THREADS, r = c >> 2, chunk = c & 3;
        bool in = first + r < rows && k + chunk * 16 < columns;
        const uint8_t *from = in ? src + (first + r) * ld + k + chunk * 16 : src;
        ptx_cp_async16(tile + place(r, chunk), from, !in);
    }
}

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
            for (int j = 0; j < 4; j++) ptx_mma_e4m3(s.v[i][j], a[i], &b[j >> 1][(j & 1) * 2]);
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

__global__ void __launch_bounds__(THREADS) k_linear_tiles(const cuda_linear_args a) {
    __shared__ __align__(128) uint8_t ring[2][STAGES][TILE_BYTES];
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, row = (warp >> 1) * 32, column = (warp & 1) * 32;
    int64_t t0 = (int64_t)blockIdx.y * TILE, n0 = (int64_t)blockIdx.x * TILE;
    int64_t my_row = t0 + row + (lane >> 2), my_column = n0 + column + (lane & 3) * 2;
    int steps = (int)((a.w.k + STEP - 1) / STEP);
    const uint8_t *x = (const uint8_t *)a.x, *w = (const uint8_t *)a.w.data;
    sums total = {}, part = {};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            fetch(ring[0][s], x, a.ldx, t0, a.t, (int64_t)s * STEP, a.w.k);
            fetch(ring[1][s], w, a.w.ld, n0, a.w.n, (int64_t)s * STEP, a.w.k);
        }
        ptx_cp_async_commit();
    }
    for (int s = 0; s < steps; s++) {
        int next = s + STAGES - 1;
        ptx_cp_async_wait<STAGES - 2>();
        __syncthreads(); /* step s is there for all, and nobody reads step s - 1 any more */
        if (next < steps) {
            fetch(ring[0][next % STAGES], x, a.ldx, t0, a.t, (int64_t)next * STEP, a.w.k);
            fetch(ring[1][next % STAGES], w, a.w.ld, n0, a.w.n, (int64_t)next * STEP, a.w.k);
        }
        ptx_cp_async_commit();
        multiply(part, ring[0][s % STAGES], ring[1][s % STAGES], row, column);
        if (s % 2 || s + 1 == steps) add_block(total, part, a, s / 2, my_row, my_column);
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

extern "C" cudaError_t fl_cuda_linear_tiles(const cuda_linear_args *a, cudaStream_t s) {
    if (a->w.k % 16 || a->ldx % 16 || (uintptr_t)a->x % 16) return cudaErrorNotSupported;
    dim3 grid((unsigned)((a->w.n + TILE - 1) / TILE), (unsigned)((a->t + TILE - 1) / TILE));
    k_linear_tiles<<<grid, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
