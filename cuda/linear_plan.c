/* linear_plan.c - products of cuBLASLt: what it offers for a shape is asked once, for row counts
 * 16, 32, ... up to the most rows of a step, and kept.  A bucket of rows that it has nothing for is
 * known from then on; the others keep what they have. */
#include <stdio.h>
#include <string.h>

#include "cuda/cuda_priv.h"
#include "util/mem.h"
#include "util/num.h"

enum { FIRST_ROWS = 16, MAX_BUCKETS = 13, ALIGNMENT = 16 };

struct cuda_plan {
    cuda_plan *next;
    cuda_plan_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out;
    struct {
        cublasLtMatmulAlgo_t algo;
        bool offered; /* cuBLASLt has something for this number of rows */
    } bucket[MAX_BUCKETS];
    int buckets;
};

static int blas_check(const fl_backend *be, cublasStatus_t s, const char *what, fl_err *err) {
    if (!s) return FL_OK;
    return fl_fail(err, s == CUBLAS_STATUS_ALLOC_FAILED ? FL_E_NOMEM : FL_E_DEVICE,
                   "cuda:%d: %s: %s", be->device, what, cublasLtGetStatusString(s));
}

static int64_t size_of(cudaDataType t) {
    return t == CUDA_R_8F_E4M3 ? 1 : t == CUDA_R_32F ? 4 : 2;
}

static void plan_free(cuda_plan *p) {
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    if (p->w) cublasLtMatrixLayoutDestroy(p->w);
    if (p->x) cublasLtMatrixLayoutDestroy(p->x);
    if (p->out) cublasLtMatrixLayoutDestroy(p->out);
    fl_free(p);
}

void cuda_plans_free(fl_backend *be) {
    while (be->plans) {
        cuda_plan *p = be->plans;
        be->plans = p->next;
        plan_free(p);
    }
}

/* For cuBLASLt matrices are column-major: w is [k,n] and transposed, x [k,rows], out [n,rows]. */
static cublasStatus_t describe(cuda_plan *p) {
    const cuda_plan_key *k = &p->key;
    cublasOperation_t transposed = CUBLAS_OP_T;
    int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    cublasStatus_t s = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s)
        s = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof(transposed));
    if (!s && k->vectors)
        s = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode,
                                           sizeof(mode));
    if (!s && k->vectors)
        s = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode,
                                           sizeof(mode));
    if (!s) s = cublasLtMatrixLayoutCreate(&p->w, k->in, (uint64_t)k->k, (uint64_t)k->n, k->ldw);
    if (!s) s = cublasLtMatrixLayoutCreate(&p->x, k->in, (uint64_t)k->k, FIRST_ROWS, k->k);
    if (!s) s = cublasLtMatrixLayoutCreate(&p->out, k->out, (uint64_t)k->n, FIRST_ROWS, k->n);
    return s;
}

static cublasStatus_t set_scales(const cuda_plan *p, const float *w, const float *x) {
    if (p->key.in != CUDA_R_8F_E4M3) return CUBLAS_STATUS_SUCCESS;
    cublasStatus_t s = cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                                      &w, sizeof(w));
    return s ? s
             : cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x,
                                              sizeof(x));
}

static cublasStatus_t set_rows(const cuda_plan *p, int64_t rows, int64_t ldx, int64_t ldo) {
    uint64_t n = (uint64_t)rows;
    cublasLtMatrixLayout_t each[] = {p->x, p->out};
    int64_t ld[] = {ldx, ldo};
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 2 && !s; i++) {
        s = cublasLtMatrixLayoutSetAttribute(each[i], CUBLASLT_MATRIX_LAYOUT_COLS, &n, sizeof(n));
        if (!s)
            s = cublasLtMatrixLayoutSetAttribute(each[i], CUBLASLT_MATRIX_LAYOUT_LD, &ld[i],
                                                 sizeof(ld[i]));
    }
    return s;
}

/* The heuristic assumes 256 bytes of alignment unless it is told of less.  Where it splits K, the
 * partial sums must stay f32: the other reduction schemes round them to the type of the result. */
static cublasStatus_t prefer(cublasLtMatmulPreference_t *out, uint64_t workspace) {
    static const cublasLtMatmulPreferenceAttributes_t align[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    uint32_t bytes = ALIGNMENT, schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(out);
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(*out, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof(workspace));
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(*out, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &schemes, sizeof(schemes));
    for (int i = 0; i < 4 && !s; i++)
        s = cublasLtMatmulPreferenceSetAttribute(*out, align[i], &bytes, sizeof(bytes));
    return s;
}

static bool unsupported(cublasStatus_t s) {
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE;
}

/* One bucket: offered or not; a status that is neither is an error. */
static cublasStatus_t ask_bucket(fl_backend *be, cuda_plan *p, cublasLtMatmulPreference_t prefer,
                                 int64_t rows) {
    cublasLtMatmulHeuristicResult_t r;
    int got = 0;
    cublasStatus_t s = set_rows(p, rows, p->key.k, p->key.n);
    if (!s)
        s = cublasLtMatmulAlgoGetHeuristic(be->blas, p->desc, p->w, p->x, p->out, p->out, prefer, 1,
                                           &r, &got);
    bool offered = !s && got > 0 && !r.state;
    p->bucket[p->buckets].offered = offered;
    if (offered) p->bucket[p->buckets].algo = r.algo;
    p->buckets++;
    return unsupported(s) ? CUBLAS_STATUS_SUCCESS : s;
}

static int ask(fl_backend *be, cuda_plan *p, fl_err *err) {
    cublasLtMatmulPreference_t preference = NULL;
    /* With vectors the heuristic looks whether there are any: an address stands for them. */
    const float *some = p->key.vectors ? (const float *)be->workspace : NULL;
    cublasStatus_t s = describe(p);
    if (unsupported(s)) return FL_OK; /* an older library that does not know this scale mode */
    if (!s) s = prefer(&preference, CUDA_WORKSPACE_BYTES);
    if (!s) s = set_scales(p, some, some);
    for (int64_t rows = FIRST_ROWS; !s && p->buckets < MAX_BUCKETS; rows *= 2) {
        s = ask_bucket(be, p, preference, rows);
        if (rows >= be->max_rows) break;
    }
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    return blas_check(be, s, "cublasLt heuristic", err);
}

static bool aligned(const cuda_plan_key *k) {
    return k->ldw * size_of(k->in) % ALIGNMENT == 0 && k->k * size_of(k->in) % ALIGNMENT == 0 &&
           k->n * size_of(k->out) % ALIGNMENT == 0 && (k->in != CUDA_R_8F_E4M3 || k->n % 16 == 0);
}

static bool same_key(const cuda_plan_key *a, const cuda_plan_key *b) {
    return a->n == b->n && a->k == b->k && a->ldw == b->ldw && a->in == b->in && a->out == b->out &&
           a->vectors == b->vectors;
}

int cuda_plan_get(fl_backend *be, const cuda_plan **out, const cuda_plan_key *key, fl_err *err) {
    cuda_plan *p = be->plans;
    *out = NULL;
    if (!aligned(key)) return FL_OK;
    while (p && !same_key(&p->key, key)) p = p->next;
    if (!p) {
        if (!(p = fl_alloc(sizeof(*p)))) return fl_fail(err, FL_E_NOMEM, "cublasLt plan");
        p->key = *key;
        int rc = ask(be, p, err);
        if (rc) {
            plan_free(p);
            return rc;
        }
        p->next = be->plans;
        be->plans = p;
    }
    *out = p;
    return FL_OK;
}

static int bucket_of(const cuda_plan *p, int64_t rows) {
    int bucket = 0;
    while (bucket + 1 < p->buckets && rows > (int64_t)FIRST_ROWS << bucket) bucket++;
    return bucket;
}

bool cuda_plan_takes(const cuda_plan *p, int64_t rows, const fl_tensor *out, const fl_tensor *x) {
    if (!p || !p->buckets || !p->bucket[bucket_of(p, rows)].offered) return false;
    uintptr_t addresses = (uintptr_t)x->data | (uintptr_t)out->data;
    return addresses % ALIGNMENT == 0 && x->stride * size_of(p->key.in) % ALIGNMENT == 0 &&
           out->stride * size_of(p->key.out) % ALIGNMENT == 0;
}

/* What was planned is refused: the status, the shape and the scale mode, as a report needs them. */
static int refused(const fl_backend *be, const cuda_plan *p, int64_t rows, cublasStatus_t s,
                   fl_err *err) {
    const cuda_plan_key *k = &p->key;
    char what[160];
    snprintf(what, sizeof(what), "cublasLtMatmul of %lld rows by [%lld,%lld], %s scales, status %d",
             (long long)rows, (long long)k->n, (long long)k->k,
             k->in != CUDA_R_8F_E4M3 ? "no"
             : k->vectors            ? "vector"
                                     : "scalar",
             (int)s);
    return blas_check(be, s, what, err);
}

int cuda_plan_run(fl_backend *be, const cuda_plan *p, const cuda_product *m, fl_err *err) {
    const float one = 1.0f, zero = 0.0f;
    cublasStatus_t s = set_scales(p, m->w_scale, m->x_scale);
    if (!s) s = set_rows(p, m->rows, m->ldx, m->ldo);
    if (!s)
        s = cublasLtMatmul(be->blas, p->desc, &one, m->w, p->w, m->x, p->x, &zero, m->out, p->out,
                           m->out, p->out, &p->bucket[bucket_of(p, m->rows)].algo, be->workspace,
                           CUDA_WORKSPACE_BYTES, be->stream);
    return s ? refused(be, p, m->rows, s, err) : FL_OK;
}
