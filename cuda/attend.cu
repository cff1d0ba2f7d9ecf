/* attend.cu - the splits of an attention become its result, and that E4M3. */
#include "cuda/attend.cuh"
#include "cuda/quant.cuh"

enum { MERGE_THREADS = 512 };

/* The parts of `columns` columns of a row, and their quantization. */
__global__ void __launch_bounds__(MERGE_THREADS) k_merge(const cuda_attend_args a, int columns) {
    __shared__ float red[32];
    int64_t t = blockIdx.y;
    int dims = a.kv.head_dim, used = (a.pos[t] + a.split_tokens) / a.split_tokens;
    int begin = (int)blockIdx.x * columns, end = min(begin + columns, a.n_heads * dims);
    for (int i = begin + (int)threadIdx.x; i < end; i += (int)blockDim.x) {
        int head = i / dims, e = i % dims;
        const float *parts = a.parts + (t * a.n_heads + head) * a.splits * (dims + 2);
        float top = -INFINITY, l = 0.0f, sum = 0.0f;
        for (int s = 0; s < used; s++) {
            const float *p = parts + (int64_t)s * (dims + 2);
            joint j = join(top, p[dims]);
            top = j.top;
            l = j.sum(l, p[dims + 1]);
            sum = j.sum(sum, p[e]);
        }
        store_act(a.out, a.dtype, t * a.ldo + i, attended(a.kv, sum, l));
    }
    if (a.quant.act == FL_ACT_NONE) return;
    __syncthreads();
    if (a.dtype == FL_DTYPE_BF16)
        quant_columns((const bf16 *)a.out + t * a.ldo, begin, end, a.quant, t, red);
    else
        quant_columns((const f16 *)a.out + t * a.ldo, begin, end, a.quant, t, red);
}

/* Columns that one block merges: as few as their quantization can look at. */
static int merge_columns(const cuda_attend_args *a) {
    int dims = a->kv.head_dim, all = a->n_heads * dims;
    if (a->quant.act == FL_ACT_TOKEN) return all;
    if (a->quant.act != FL_ACT_GROUP || dims % FL_ACT_GROUP_K == 0) return dims;
    return all < FL_ACT_GROUP_K ? all : FL_ACT_GROUP_K;
}

extern "C" cudaError_t fl_cuda_attend_merge(const cuda_attend_args *a, cudaStream_t s) {
    int columns = merge_columns(a), threads = (columns + 31) / 32 * 32;
    dim3 grid((unsigned)((a->n_heads * a->kv.head_dim + columns - 1) / columns), (unsigned)a->t);
    k_merge<<<grid, threads < MERGE_THREADS ? threads : MERGE_THREADS, 0, s>>>(*a, columns);
    return cudaGetLastError();
}
