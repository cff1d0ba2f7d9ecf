/* cublasLtMatmul with the restrictions of the real FP8 kernels: what is not supported there is
 * refused here, with the reason on stderr.  Sources: the cuBLAS 13 manual, and for scale modes
 * NVIDIA/CUDALibrarySamples #270 and #310 (outer vector and 128-blocks: 9.0 only). */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"
#include "rt.h"
#include "settings.h"

typedef struct desc {
    int32_t compute, scale, transa, transb, pointer_mode, epilogue;
    const void *scale_of[4]; /* A, B, C, D */
    const void *bias;
    int32_t mode[4], bias_type;
    int8_t fast;
} desc;
typedef struct layout {
    int32_t type;
    uint64_t rows, cols;
    int64_t ld;
} layout;
typedef struct preference {
    uint64_t workspace;
    uint32_t align[4]; /* what the caller promises of A, B, C, D */
    uint32_t schemes;  /* reductions that it allows */
} preference;
_Static_assert(sizeof(desc) <= sizeof(cublasLtMatmulDescOpaque_t) &&
                   sizeof(layout) <= sizeof(cublasLtMatrixLayoutOpaque_t),
               "fits what the caller may have reserved");

enum { ALGO_MARK = 0xa190, WORKSPACE = 1024 };
enum {
    SCALAR = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
    OUTER_VECTOR = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    if (emu_broken()) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (emu_alloc_fails()) return CUBLAS_STATUS_ALLOC_FAILED;
    *h = malloc(8);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    return free(h), CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) {
    return CUBLAS_VERSION;
}
const char *cublasLtGetStatusString(cublasStatus_t s) {
    static _Thread_local char text[40];
    snprintf(text, sizeof(text), "emulated cuBLAS status %d", (int)s);
    return text;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    desc *d = calloc(1, sizeof(cublasLtMatmulDescOpaque_t));
    d->compute = (int32_t)compute;
    d->scale = (int32_t)scale;
    d->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    d->bias_type = -1;
    *out = (cublasLtMatmulDesc_t)d;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    return free(d), CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *to, size_t size, const void *from, size_t n) {
    if (n != size) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, from, n);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t a, const void *v,
                                              size_t n) {
    desc *d = (desc *)handle;
    switch (a) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&d->transa, 4, v, n);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&d->transb, 4, v, n);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&d->epilogue, 4, v, n);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        return set(&d->fast, 1, v, n);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return set(&d->scale_of[0], 8, v, n);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return set(&d->scale_of[1], 8, v, n);
    case CUBLASLT_MATMUL_DESC_D_SCALE_POINTER:
        return set(&d->scale_of[3], 8, v, n);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        return set(&d->mode[0], 4, v, n);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return set(&d->mode[1], 4, v, n);
    default:
        emu_report("cublasLt: attribute %d is not emulated", (int)a);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    layout *l = calloc(1, sizeof(cublasLtMatrixLayoutOpaque_t));
    *l = (layout){(int32_t)type, rows, cols, ld};
    *out = (cublasLtMatrixLayout_t)l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    return free(l), CUBLAS_STATUS_SUCCESS;
}

/* The columns of an activation or result may change between calls of one plan. */
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t a, const void *v,
                                                size_t n) {
    layout *l = (layout *)handle;
    if (a == CUBLASLT_MATRIX_LAYOUT_ROWS) return set(&l->rows, 8, v, n);
    if (a == CUBLASLT_MATRIX_LAYOUT_COLS) return set(&l->cols, 8, v, n);
    if (a == CUBLASLT_MATRIX_LAYOUT_LD) return set(&l->ld, 8, v, n);
    emu_report("cublasLt: layout attribute %d is not emulated", (int)a);
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    preference *p = calloc(1, sizeof(cublasLtMatmulPreferenceOpaque_t));
    for (int i = 0; i < 4; i++) p->align[i] = 256; /* the documented default */
    p->schemes = CUBLASLT_REDUCTION_SCHEME_MASK;   /* likewise: all of them */
    *out = (cublasLtMatmulPreference_t)p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    return free(p), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t a,
                                                    const void *v, size_t n) {
    preference *to = (preference *)p;
    if (a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return set(&to->workspace, 8, v, n);
    if (a == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return set(&to->schemes, 4, v, n);
    if (a >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
        a <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
        return set(&to->align[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], 4, v, n);
    emu_report("cublasLt: preference %d is not emulated", (int)a);
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

/* ---- what is supported ---- */

static int64_t bytes(int32_t type) {
    if (type == CUDA_R_8F_E4M3) return 1;
    if (type == CUDA_R_16BF || type == CUDA_R_16F) return 2;
    return type == CUDA_R_32F ? 4 : 0;
}

static cublasStatus_t refuse(cublasStatus_t s, const char *why) {
    if (!emu_get()->quiet) emu_report("cublasLt: %s", why);
    return s;
}
#define INVALID(why)     return refuse(CUBLAS_STATUS_INVALID_VALUE, why)
#define UNSUPPORTED(why) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why)

static cublasStatus_t check_scales(const desc *d, int32_t out_type) {
    int arch = emu_get()->arch;
    if (d->scale_of[3] && out_type != CUDA_R_8F_E4M3) INVALID("D scale, D is not FP8");
    if (d->mode[0] != d->mode[1]) UNSUPPORTED("scale modes of A and B differ");
    if (d->mode[0] == SCALAR) return CUBLAS_STATUS_SUCCESS;
    if (d->mode[0] != OUTER_VECTOR) UNSUPPORTED("scale mode that is not emulated");
    if (arch != 90) UNSUPPORTED("outer vector scales are on 9.0 only");
    if (!d->scale_of[0] || !d->scale_of[1]) INVALID("outer vector without scales");
    if (out_type == CUDA_R_8F_E4M3) UNSUPPORTED("outer vector with FP8 D");
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_fp8(const desc *d, const layout *a, const layout *b, const layout *c,
                                const layout *o) {
    int arch = emu_get()->arch;
    if (a->type != b->type) UNSUPPORTED("FP8 with another type");
    if (arch != 100 && (d->transa != CUBLAS_OP_T || d->transb != CUBLAS_OP_N))
        UNSUPPORTED("FP8 wants A transposed and B not");
    if (a->rows % 16 || o->rows % 16 || a->ld % 16 || b->ld % 16 || o->ld * bytes(o->type) % 16)
        UNSUPPORTED("FP8 wants k, m and leading dimensions of 16 bytes");
    if (o->type == CUDA_R_8F_E4M3 ? c->type != CUDA_R_16BF && c->type != CUDA_R_16F
                                  : c->type != o->type)
        UNSUPPORTED("FP8: type of C");
    return check_scales(d, o->type);
}

static cublasStatus_t check(const desc *d, const layout *a, const layout *b, const layout *c,
                            const layout *o) {
    uint64_t m = o->rows, n = o->cols, k = d->transa ? a->rows : a->cols;
    if ((d->transa ? a->cols : a->rows) != m || (d->transb ? b->cols : b->rows) != k ||
        (d->transb ? b->rows : b->cols) != n || c->rows != m || c->cols != n || !m || !n || !k)
        INVALID("shapes do not match");
    if (d->compute != CUBLAS_COMPUTE_32F || d->scale != CUDA_R_32F)
        UNSUPPORTED("only compute 32F with scale 32F is emulated");
    if (d->epilogue != CUBLASLT_EPILOGUE_DEFAULT) UNSUPPORTED("epilogues are not emulated");
    if (a->ld < (int64_t)a->rows || b->ld < (int64_t)b->rows || o->ld < (int64_t)o->rows)
        INVALID("leading dimension");
    if (!bytes(a->type) || !bytes(b->type) || !bytes(o->type)) UNSUPPORTED("type");
    if (a->type == CUDA_R_8F_E4M3 || b->type == CUDA_R_8F_E4M3) return check_fp8(d, a, b, c, o);
    for (int i = 0; i < 4; i++)
        if (d->scale_of[i]) INVALID("scale of a matrix that is not FP8");
    if (a->type != b->type || c->type != o->type || a->type == CUDA_R_32F)
        UNSUPPORTED("types of A, B, C, D");
    if (o->type != a->type && o->type != CUDA_R_32F) UNSUPPORTED("type of D");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t o,
                                              cublasLtMatmulPreference_t p, int want,
                                              cublasLtMatmulHeuristicResult_t r[], int *got) {
    const preference *prefer = (preference *)p;
    (void)h;
    *got = 0;
    cublasStatus_t s = check((desc *)d, (layout *)a, (layout *)b, (layout *)c, (layout *)o);
    if (s || want < 1) return s;
    if (prefer->workspace < WORKSPACE) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((int64_t)((layout *)o)->cols == emu_get()->lt_refuse)
        UNSUPPORTED("EMU_LT_REFUSE: no algorithm for so many columns");
    memset(r, 0, sizeof(*r));
    r->state = CUBLAS_STATUS_SUCCESS;
    r->workspaceSize = WORKSPACE;
    r->algo.data[0] = ALGO_MARK;
    for (int i = 0; i < 4; i++) r->algo.data[1 + i] = prefer->align[i];
    r->algo.data[5] = prefer->schemes & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    *got = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ---- */

typedef struct matmul {
    desc d;
    layout a, b, c, o;
    float alpha, beta;
    bool coarse; /* K is split, and partial sums are rounded to the type of D */
    const void *pa, *pb, *pc;
    void *po;
} matmul;

static float get(const uint8_t *p, int32_t type) {
    float f;
    uint16_t h;
    if (type == CUDA_R_8F_E4M3) return emu_e4m3_table[*p];
    if (type == CUDA_R_32F) return memcpy(&f, p, 4), f;
    memcpy(&h, p, 2);
    return type == CUDA_R_16BF ? emu_bf16_value(h) : emu_half_value(h);
}

static void put(uint8_t *p, int32_t type, float f) {
    uint16_t h = type == CUDA_R_16BF ? emu_bf16_from(f) : emu_half_from(f);
    if (type == CUDA_R_8F_E4M3)
        *p = emu_e4m3_from(f);
    else
        memcpy(p, type == CUDA_R_32F ? (void *)&f : (void *)&h, type == CUDA_R_32F ? 4 : 2);
}

/* [outer, k] floats of a matrix; NULL after a report. */
static float *expand(const layout *l, const void *p, bool k_first, uint64_t k, int dev,
                     const char *who) {
    uint64_t outer = k_first ? l->cols : l->rows, size = (uint64_t)bytes(l->type);
    float *f = malloc(sizeof(*f) * outer * k);
    for (uint64_t col = 0; col < l->cols; col++) {
        const uint8_t *s = emu_mem_check((uintptr_t)p + col * (uint64_t)l->ld * size,
                                         l->rows * size, dev, EMU_READ_INIT, who);
        if (!s) {
            free(f);
            return NULL;
        }
        for (uint64_t r = 0; r < l->rows; r++)
            f[k_first ? col * k + r : r * k + col] = get(s + r * size, l->type);
    }
    return f;
}

static float dot(const float *a, const float *b, uint64_t k) {
    float sum[16] = {0}, all = 0;
    uint64_t i = 0;
    for (; i + 16 <= k; i += 16)
        for (int j = 0; j < 16; j++) sum[j] += a[i + (uint64_t)j] * b[i + (uint64_t)j];
    for (; i < k; i++) sum[0] += a[i] * b[i];
    for (int j = 0; j < 16; j++) all += sum[j];
    return all;
}

static float rounded(int32_t type, float f) {
    uint8_t p[4];
    put(p, type, f);
    return get(p, type);
}

/* What a reduction may do that keeps partial sums in the type of D. */
static float coarse_dot(const float *a, const float *b, uint64_t k, int32_t type) {
    float all = 0;
    for (uint64_t i = 0; i < k; i += 16)
        all = rounded(type, all + rounded(type, dot(a + i, b + i, k - i < 16 ? k - i : 16)));
    return all;
}

static int column(const matmul *x, const float *a, const float *b, uint64_t j, int dev,
                  const float *const scale[2]) {
    uint64_t m = x->o.rows, k = x->d.transa ? x->a.rows : x->a.cols,
             size = (uint64_t)bytes(x->o.type);
    bool vector = x->d.mode[0] == OUTER_VECTOR;
    uint64_t at = j * (uint64_t)x->o.ld * size,
             at_c = j * (uint64_t)x->c.ld * (uint64_t)bytes(x->c.type);
    const uint8_t *c = NULL;
    if (x->beta != 0.0f &&
        !(c = emu_mem_check((uintptr_t)x->pc + at_c, m * (uint64_t)bytes(x->c.type), dev,
                            EMU_READ_INIT, "cublasLt C")))
        return cudaErrorIllegalAddress;
    uint8_t *o = emu_mem_check((uintptr_t)x->po + at, m * size, dev, EMU_WRITE, "cublasLt D");
    if (!o) return cudaErrorIllegalAddress;
    for (uint64_t i = 0; i < m; i++) {
        float v = x->alpha * (x->coarse ? coarse_dot(a + i * k, b + j * k, k, x->o.type)
                                        : dot(a + i * k, b + j * k, k));
        if (scale[0]) v *= scale[0][vector ? i : 0];
        if (scale[1]) v *= scale[1][vector ? j : 0];
        if (c) v += x->beta * get(c + i * (uint64_t)bytes(x->c.type), x->c.type);
        put(o + i * size, x->o.type, v);
    }
    return 0;
}

static int run_matmul(emu_task *t, emu_stream *s) {
    const matmul *x = t->data;
    uint64_t m = x->o.rows, n = x->o.cols, k = x->d.transa ? x->a.rows : x->a.cols;
    const float *scale[2] = {NULL, NULL};
    emu_num_init();
    for (int i = 0; i < 2; i++) {
        uint64_t count = x->d.mode[i] == OUTER_VECTOR ? (i ? n : m) : 1;
        if (!x->d.scale_of[i]) continue;
        scale[i] = (const float *)(void *)emu_mem_check((uintptr_t)x->d.scale_of[i], count * 4,
                                                        s->dev, EMU_READ_INIT, "cublasLt scale");
        if (!scale[i]) return cudaErrorIllegalAddress;
    }
    float *a = expand(&x->a, x->pa, x->d.transa != CUBLAS_OP_N, k, s->dev, "cublasLt A");
    float *b = expand(&x->b, x->pb, x->d.transb == CUBLAS_OP_N, k, s->dev, "cublasLt B");
    int e = a && b ? 0 : cudaErrorIllegalAddress;
    for (uint64_t j = 0; j < n && !e; j++) e = column(x, a, b, j, s->dev, scale);
    free(a);
    free(b);
    return e;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *o, cublasLtMatrixLayout_t lo,
                              const cublasLtMatmulAlgo_t *algo, void *work, size_t work_bytes,
                              cudaStream_t stream) {
    matmul x = {*(desc *)d,
                *(layout *)la,
                *(layout *)lb,
                *(layout *)lc,
                *(layout *)lo,
                *(float *)alpha,
                *(float *)beta,
                algo && algo->data[5],
                a,
                b,
                c,
                o};
    cublasStatus_t s = check(&x.d, &x.a, &x.b, &x.c, &x.o);
    (void)h;
    if (s) return s;
    static uint64_t calls;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) == emu_get()->lt_fail)
        UNSUPPORTED("EMU_LT_FAIL: this product");
    if (!algo || algo->data[0] != ALGO_MARK) INVALID("algorithm that no heuristic gave");
    const void *pointer[4] = {a, b, c, o};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointer[i] % (algo->data[1 + i] ? algo->data[1 + i] : 1))
            UNSUPPORTED("pointer less aligned than the heuristic was told (default: 256 bytes)");
    if (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)o) & 15)
        UNSUPPORTED("pointers must be aligned to 16 bytes");
    if (work_bytes < WORKSPACE || ((uintptr_t)work & 15)) INVALID("workspace");
    if (!emu_mem_check((uintptr_t)work, WORKSPACE, emu_device(), EMU_WRITE, "cublasLt workspace"))
        return CUBLAS_STATUS_INVALID_VALUE;
    emu_task t = {.name = "cublasLtMatmul", .run = run_matmul};
    return emu_enqueue(stream, &t, &x, sizeof(x)) ? CUBLAS_STATUS_EXECUTION_FAILED
                                                  : CUBLAS_STATUS_SUCCESS;
}
