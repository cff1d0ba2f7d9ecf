/* lt_probe.c - what cuBLASLt offers for the products of Llama 3 8B and of a rank of the 405B among
 * eight, and how fast it is: each linear, rows 1 to 2048, FP8 with one scale, with vectors of scales and
 * with scales of 128-blocks, sums in f32 or fast; the heads in BF16.  Run by the GPU kit.
 *
 *     lt_probe [small]
 *
 * One line a product, fields between tabs:
 *     lt N K ROWS TYPE SCALES SUMS OFFERED BEST US TFLOP/S GB/S
 * OFFERED algorithms of at most eight, or the status of the refusal; BEST the index of the fastest.
 * Weights rotate over more than 200 MB, so that no cache holds them; the times are those of a stream
 * filled with products, between two events.  `small`: tiny shapes, for an emulated GPU. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum { ALGORITHMS = 8, WORKSPACE = 32 << 20 };

typedef struct shape {
    const char *name;
    int64_t n, k;
    bool head;
} shape;

static const shape large[] = {
    {"8B qkv", 6144, 4096, false},       {"8B o", 4096, 4096, false},
    {"8B gate_up", 28672, 4096, false},  {"8B down", 4096, 14336, false},
    {"8B head", 128256, 4096, true},     {"405B/8 qkv", 2304, 16384, false},
    {"405B/8 o", 16384, 2048, false},    {"405B/8 gate_up", 13312, 16384, false},
    {"405B/8 down", 16384, 6656, false}, {"405B/8 head", 16032, 16384, true},
};
static const shape small[] = {{"small", 64, 128, false}, {"small head", 96, 64, true}};

typedef enum scales { SCALAR, VECTORS, BLOCKS, NONE } scales;
static const char *const scale_names[] = {"scalar", "vectors", "blocks", "none"};

static struct {
    cublasLtHandle_t lt;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    uint8_t *weights, *x, *out, *workspace;
    float *scale;
    int64_t pool; /* bytes of weights */
    int repeats;
} g;

static void must(int status, const char *what) {
    if (!status) return;
    printf("not ok %d - %s: status %d\n1..%d\n", tap_count + 1, what, status, tap_count + 1);
    exit(1);
}

static void *device(size_t bytes) {
    void *p = NULL;
    must(cudaMalloc(&p, bytes), "cudaMalloc");
    return p;
}

/* Small numbers of either sign; a product of zeros takes less power. */
static void fill(uint8_t *p, int64_t bytes) {
    enum { PIECE = 1 << 20 };
    static uint8_t host[PIECE];
    uint32_t state = 1;
    for (int i = 0; i < PIECE; i++)
        host[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24) & 0xb7;
    for (int64_t at = 0; at < bytes; at += PIECE)
        must(cudaMemcpyAsync(p + at, host, (size_t)(bytes - at < PIECE ? bytes - at : PIECE),
                             cudaMemcpyHostToDevice, g.stream),
             "fill");
    must(cudaStreamSynchronize(g.stream), "fill");
}

static void set_up(bool tiny) {
    const size_t floats = tiny ? 1 << 12 : 1 << 20;
    float *ones = malloc(floats * sizeof(*ones));
    for (size_t i = 0; i < floats; i++) ones[i] = 1;
    must(cublasLtCreate(&g.lt), "cublasLtCreate");
    must(cudaStreamCreateWithFlags(&g.stream, cudaStreamNonBlocking), "stream");
    must(cudaEventCreateWithFlags(&g.begin, cudaEventDefault), "event");
    must(cudaEventCreateWithFlags(&g.end, cudaEventDefault), "event");
    g.pool = tiny ? 1 << 16 : 1100 << 20; /* the head of the 8B has 1051 MB in BF16 */
    g.repeats = tiny ? 1 : 6;
    g.weights = device((size_t)g.pool);
    g.x = device(tiny ? 1 << 20 : 2048 * 16384 * 2);
    g.out = device(tiny ? 1 << 20 : (size_t)2048 * 128256 * 4);
    g.workspace = device(WORKSPACE);
    g.scale = device(floats * sizeof(*ones));
    fill(g.weights, g.pool);
    fill(g.x, tiny ? 1 << 20 : 2048 * 16384 * 2);
    must(cudaMemcpyAsync(g.scale, ones, floats * sizeof(*ones), cudaMemcpyHostToDevice, g.stream),
         "scales");
    must(cudaStreamSynchronize(g.stream), "scales");
    free(ones);
}

typedef struct product {
    const shape *s;
    int64_t rows;
    scales scales;
    bool fast;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out;
} product;

static cublasStatus_t set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v,
                          size_t n) {
    return cublasLtMatmulDescSetAttribute(d, a, v, n);
}

static cublasStatus_t describe_fp8(product *p) {
    static const int32_t modes[][2] = {
        {CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F},
        {CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F},
        {CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F}};
    const int32_t *mode = modes[p->scales];
    const int8_t fast = p->fast;
    const float *one = g.scale;
    cublasStatus_t s = set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode[0], sizeof(*mode));
    if (!s) s = set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode[1], sizeof(*mode));
    if (!s) s = set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &one, sizeof(one));
    if (!s) s = set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &one, sizeof(one));
    if (!s) s = set(p->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast));
    return s;
}

/* As cuda/linear_plan.c describes it: column-major, weights transposed, results in BF16. */
static cublasStatus_t describe(product *p) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t in = p->s->head ? CUDA_R_16BF : CUDA_R_8F_E4M3;
    const cudaDataType_t to = p->s->head ? CUDA_R_32F : CUDA_R_16BF;
    const uint64_t n = (uint64_t)p->s->n, k = (uint64_t)p->s->k, t = (uint64_t)p->rows;
    cublasStatus_t s = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s) s = set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (!s && !p->s->head) s = describe_fp8(p);
    if (!s) s = cublasLtMatrixLayoutCreate(&p->w, in, k, n, p->s->k);
    if (!s) s = cublasLtMatrixLayoutCreate(&p->x, in, k, t, p->s->k);
    if (!s) s = cublasLtMatrixLayoutCreate(&p->out, to, n, t, p->s->n);
    return s;
}

static void drop(product *p) {
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    if (p->w) cublasLtMatrixLayoutDestroy(p->w);
    if (p->x) cublasLtMatrixLayoutDestroy(p->x);
    if (p->out) cublasLtMatrixLayoutDestroy(p->out);
}

static cublasStatus_t offers(const product *p, cublasLtMatmulHeuristicResult_t r[], int *got) {
    const uint64_t workspace = WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreference_t prefer = NULL;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&prefer);
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(prefer, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof(workspace));
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(prefer, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &schemes, sizeof(schemes));
    if (!s)
        s = cublasLtMatmulAlgoGetHeuristic(g.lt, p->desc, p->w, p->x, p->out, p->out, prefer,
                                           ALGORITHMS, r, got);
    if (prefer) cublasLtMatmulPreferenceDestroy(prefer);
    return s;
}

/* Seconds of one product, weights taking turns; below 0: refused. */
static double time_algorithm(const product *p, const cublasLtMatmulAlgo_t *algo) {
    const float one = 1, zero = 0;
    const int64_t bytes = p->s->n * p->s->k * (p->s->head ? 2 : 1);
    const int64_t places = g.pool / bytes;
    float ms = 0;
    for (int i = -1; i < g.repeats; i++) { /* the first one loads the kernel */
        if (i == 0) must(cudaEventRecord(g.begin, g.stream), "event");
        const uint8_t *w = g.weights + (i + 1) % places * bytes;
        if (cublasLtMatmul(g.lt, p->desc, &one, w, p->w, g.x, p->x, &zero, g.out, p->out, g.out,
                           p->out, algo, g.workspace, WORKSPACE, g.stream))
            return -1;
    }
    must(cudaEventRecord(g.end, g.stream), "event");
    must(cudaStreamSynchronize(g.stream), "product");
    must(cudaEventElapsedTime(&ms, g.begin, g.end), "event");
    return ms > 0 ? (double)ms / 1000 / g.repeats : 1e-9;
}

static void probe(const shape *s, int64_t rows, scales of, bool fast) {
    cublasLtMatmulHeuristicResult_t r[ALGORITHMS];
    product p = {.s = s, .rows = rows, .scales = of, .fast = fast};
    int got = 0, best = -1;
    double seconds = 0;
    cublasStatus_t status = describe(&p);
    if (!status) status = offers(&p, r, &got);
    for (int i = 0; i < got && !status; i++) {
        const double t = r[i].state ? -1 : time_algorithm(&p, &r[i].algo);
        if (t > 0 && (best < 0 || t < seconds)) {
            seconds = t;
            best = i;
        }
    }
    drop(&p);
    printf("lt\t%lld\t%lld\t%lld\t%s\t%s\t%s\t", (long long)s->n, (long long)s->k, (long long)rows,
           s->head ? "BF16" : "FP8", scale_names[of], fast ? "fast" : "f32");
    if (best < 0) {
        printf("refused %d\t-\t-\t-\t-\n", (int)status);
    } else {
        const double bytes = (double)(s->n * s->k) * (s->head ? 2 : 1);
        printf("%d\t%d\t%.2f\t%.1f\t%.0f\n", got, best, 1e6 * seconds,
               2e-12 * (double)(s->n * s->k) * (double)rows / seconds, bytes / seconds / 1e9);
    }
    fflush(stdout);
}

static void probe_shape(const shape *s, int64_t most) {
    printf("# %s\n", s->name);
    for (int64_t rows = 1; rows <= most; rows *= 2) {
        if (s->head) {
            probe(s, rows, NONE, false);
            continue;
        }
        for (int of = SCALAR; of <= BLOCKS; of++)
            for (int fast = 0; fast < 2; fast++) probe(s, rows, (scales)of, fast);
    }
}

int main(int argc, char **argv) {
    const bool tiny = argc > 1 && !strcmp(argv[1], "small");
    const shape *all = tiny ? small : large;
    const size_t n = tiny ? sizeof(small) / sizeof(*small) : sizeof(large) / sizeof(*large);
    set_up(tiny);
    for (size_t i = 0; i < n; i++) {
        probe_shape(&all[i], tiny ? 16 : 2048);
        check(!cudaStreamSynchronize(g.stream), "cuBLASLt was asked for %s", all[i].name);
    }
    return tap_done();
}
