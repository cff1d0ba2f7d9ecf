/* cuda_backend.c - one GPU as a backend: open, memory, copies, and the table of ops. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cuda/cuda_priv.h"
#include "util/mem.h"
#include "util/num.h"

enum { STAGE_BYTES = CUDA_STAGE_BYTES };

int cuda_check(const fl_backend *be, cudaError_t e, const char *what, fl_err *err) {
    if (!e) return FL_OK;
    int device = be ? be->device : 0;
    int code = e == cudaErrorMemoryAllocation ? FL_E_NOMEM : FL_E_DEVICE;
    cudaGetLastError(); /* told here: the next launch must not tell it again */
    /* What a kernel has broken cannot be cleared: every later call gives it. */
    bool lost = be && be->stream && cudaPeekAtLastError();
    return fl_fail(err, code, "cuda:%d: %s: %s%s", device, what, cudaGetErrorString(e),
                   lost ? "; only a new process can use the device again" : "");
}

int cuda_current(fl_backend *be, const char *what, fl_err *err) {
    if (be->owner == getpid()) {
        int rc = cuda_check(be, cudaSetDevice(be->device), what, err);
        return rc ? rc : cuda_settle(be, err);
    }
    return fl_fail(err, FL_E_DEVICE, "cuda:%d: %s: opened in process %d, this is %d after a fork",
                   be->device, what, (int)be->owner, (int)getpid());
}

int cuda_enter(fl_backend *be, const char *op, int64_t rows, fl_err *err) {
    if (rows < 1 || rows > be->max_rows)
        return fl_fail(err, FL_E_LIMIT, "%s: %lld rows, the backend was opened for 1..%lld", op,
                       (long long)rows, (long long)be->max_rows);
    return cuda_current(be, op, err);
}

int cuda_outside(fl_backend *be, const char *op, fl_err *err) {
    if (be->recording) return fl_fail(err, FL_E_ARG, "%s: not while a step is being recorded", op);
    return cuda_current(be, op, err);
}

int cuda_alloc(const fl_backend *be, void **out, uint64_t bytes, fl_err *err) {
    size_t left = 0, total = 0;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e != cudaErrorMemoryAllocation) return cuda_check(be, e, "cudaMalloc", err);
    cudaGetLastError();
    cudaMemGetInfo(&left, &total);
    return fl_fail(err, FL_E_NOMEM, "cuda:%d: %llu bytes needed, %llu free", be->device,
                   (unsigned long long)bytes, (unsigned long long)left);
}

static int pinned_alloc(const fl_backend *be, void **out, size_t bytes, fl_err *err) {
    cudaError_t e = cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    if (e != cudaErrorMemoryAllocation) return cuda_check(be, e, "cudaHostAlloc", err);
    cudaGetLastError();
    return fl_fail(err, FL_E_NOMEM, "cuda:%d: %zu bytes of pinned host memory needed", be->device,
                   bytes);
}

/* ---- open and close ---- */

/* Not in a child after a fork: what CUDA gave is the parent's. */
static void release(fl_backend *be) {
    cudaSetDevice(be->device);
    if (be->stream) cudaStreamSynchronize(be->stream);
    if (be->blas) cublasLtDestroy(be->blas);
    for (int i = 0; i < CUDA_STAGES; i++) {
        if (be->stage[i].host) cudaFreeHost(be->stage[i].host);
        if (be->stage[i].free) cudaEventDestroy(be->stage[i].free);
    }
    if (be->fault_host) cudaFreeHost(be->fault_host);
    void *memory[] = {be->workspace, be->fault, be->parts, be->product, be->tops};
    for (size_t i = 0; i < sizeof(memory) / sizeof(memory[0]); i++)
        if (memory[i]) cudaFree(memory[i]);
    if (be->stream) cudaStreamDestroy(be->stream);
    cudaGetLastError(); /* of a device that is not there or has failed: told before */
}

static void cuda_close(fl_backend *be) {
    if (!be) return;
    if (be->owner == getpid()) release(be);
    cuda_plans_free(be);
    fl_free(be);
}

/* Devices there are; what stands in their way in words that say what to do. */
static int count_devices(const fl_backend *be, int *count, fl_err *err) {
    cudaError_t e = cudaGetDeviceCount(count);
    int driver = 0;
    if (e == cudaErrorInsufficientDriver && !cudaDriverGetVersion(&driver)) {
        cudaGetLastError();
        return driver
                   ? fl_fail(err, FL_E_DEVICE,
                             "cuda:%d: the driver is made for CUDA %d.%d, this build for CUDA %d",
                             be->device, driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000)
                   : fl_fail(err, FL_E_DEVICE, "cuda:%d: no NVIDIA driver", be->device);
    }
    if (e == cudaErrorInitializationError) {
        cudaGetLastError();
        return fl_fail(err, FL_E_DEVICE,
                       "cuda:%d: %s; in a child CUDA works only if the parent had "
                       "not used it before the fork",
                       be->device, cudaGetErrorString(e));
    }
    return cuda_check(be, e, "cudaGetDeviceCount", err);
}

static int find_device(fl_backend *be, fl_err *err) {
    struct cudaDeviceProp prop;
    int count = 0, rc;
    if ((rc = count_devices(be, &count, err))) return rc;
    if (be->device < 0 || be->device >= count)
        return fl_fail(err, FL_E_DEVICE, "cuda:%d: this machine has %d device%s", be->device, count,
                       count == 1 ? "" : "s");
    if ((rc = cuda_check(be, cudaSetDevice(be->device), "cudaSetDevice", err)) ||
        (rc = cuda_check(be, cudaGetDeviceProperties(&prop, be->device), "properties", err)))
        return rc;
    be->cc = prop.major * 10 + prop.minor;
    be->processors = prop.multiProcessorCount;
    be->shared_bytes = (int64_t)prop.sharedMemPerBlockOptin;
    snprintf(be->name, sizeof(be->name), "%.52s, sm_%d", prop.name, be->cc);
    cudaError_t e = fl_cuda_probe();
    if (e != cudaErrorNoKernelImageForDevice) return cuda_check(be, e, "kernels", err);
    cudaGetLastError();
    return fl_fail(err, FL_E_DEVICE,
                   "cuda:%d: %s: compute capability %d.%d, this build runs on others (8.9 is the "
                   "least, CUDA_ARCH chooses)",
                   be->device, prop.name, prop.major, prop.minor);
}

static int open_stages(fl_backend *be, fl_err *err) {
    for (int i = 0; i < CUDA_STAGES; i++) {
        cuda_stage *s = &be->stage[i];
        int rc = pinned_alloc(be, (void **)&s->host, STAGE_BYTES, err);
        if (rc || (rc = cuda_check(be, cudaEventCreateWithFlags(&s->free, cudaEventDisableTiming),
                                   "event", err)))
            return rc;
    }
    return FL_OK;
}

static int open_parts(fl_backend *be, fl_err *err) {
    int rc;
    if ((rc = find_device(be, err)) ||
        (rc = cuda_check(be, cudaStreamCreateWithFlags(&be->stream, cudaStreamNonBlocking),
                         "stream", err)) ||
        (rc = open_stages(be, err)) ||
        (rc = cuda_alloc(be, (void **)&be->fault, sizeof(*be->fault), err)) ||
        (rc = pinned_alloc(be, (void **)&be->fault_host, sizeof(*be->fault_host), err)) ||
        (rc = cuda_check(be, cudaMemsetAsync(be->fault, 0, sizeof(*be->fault), be->stream),
                         "memset", err)) ||
        (rc = cuda_alloc(be, (void **)&be->parts, CUDA_PARTS_BYTES, err)) ||
        (rc = cuda_alloc(be, &be->workspace, CUDA_WORKSPACE_BYTES, err)) ||
        (rc = cuda_block_open(be, err)))
        return rc;
    cublasStatus_t s = cublasLtCreate(&be->blas);
    if (s)
        return fl_fail(err, s == CUBLAS_STATUS_ALLOC_FAILED ? FL_E_NOMEM : FL_E_DEVICE,
                       "cuda:%d: cublasLtCreate: %s", be->device, cublasLtGetStatusString(s));
    return FL_OK;
}

static int cuda_open(fl_backend **out, const fl_backend_params *p, fl_err *err) {
    if (p->max_rows < 1 || p->max_rows > 65535)
        return fl_fail(err, FL_E_ARG, "max_rows: %lld outside [1,65535]", (long long)p->max_rows);
    if (p->batch_invariant && p->sparse_dense)
        return fl_fail(err, FL_E_ARG,
                       "sparse_prefill: dense is a second way of a product, which batch_invariant "
                       "does not allow");
    fl_backend *be = fl_alloc(sizeof(*be));
    if (!be) return fl_fail(err, FL_E_NOMEM, "CUDA backend");
    be->owner = getpid();
    be->device = p->device;
    be->max_rows = p->max_rows;
    be->batch_invariant = p->batch_invariant;
    be->sparse_dense = p->sparse_dense;
    int rc = open_parts(be, err);
    if (rc) {
        cuda_close(be);
        return rc;
    }
    *out = be;
    return FL_OK;
}

static void cuda_info(fl_backend *be, fl_backend_info *out) {
    size_t left = 0, total = 0;
    *out = (fl_backend_info){0};
    memcpy(out->name, be->name, sizeof(out->name));
    out->own_memory = true;
    cudaSetDevice(be->device);
    if (cudaMemGetInfo(&left, &total)) return;
    out->mem_free = left;
    out->mem_total = total;
}

/* ---- memory ---- */

static int cuda_mem_new(fl_backend *be, void **out, uint64_t bytes, fl_err *err) {
    int rc = cuda_outside(be, "mem_new", err);
    if (rc || (rc = cuda_alloc(be, out, bytes, err))) return rc;
    rc = cuda_check(be, cudaMemsetAsync(*out, 0, bytes, be->stream), "memset", err);
    if (rc) cudaFree(*out);
    return rc;
}

void cuda_mem_free(fl_backend *be, void *p) {
    if (!p || be->owner != getpid()) return;
    cudaSetDevice(be->device);
    cuda_settle(be, NULL);
    cudaFree(p); /* waits for what still uses it */
}

int cuda_stage_take(fl_backend *be, cuda_stage **out, fl_err *err) {
    cuda_stage *s = &be->stage[be->next_stage];
    be->next_stage = (be->next_stage + 1) % CUDA_STAGES;
    *out = s;
    return cuda_check(be, cudaEventSynchronize(s->free), "staging", err);
}

int cuda_stage_send(fl_backend *be, cuda_stage *s, void *dst, int64_t bytes, fl_err *err) {
    cudaError_t e =
        cudaMemcpyAsync(dst, s->host, (size_t)bytes, cudaMemcpyHostToDevice, be->stream);
    if (!e) e = cudaEventRecord(s->free, be->stream);
    return cuda_check(be, e, "upload", err);
}

/* One pass through a stage: rows of bytes, dense in src, pitch apart on the device. */
static int upload_piece(fl_backend *be, uint8_t *dst, int64_t pitch, const uint8_t *src,
                        int64_t bytes, int64_t rows, fl_err *err) {
    cuda_stage *s;
    int rc = cuda_stage_take(be, &s, err);
    if (rc) return rc;
    memcpy(s->host, src, (size_t)(bytes * rows));
    if (rows == 1) return cuda_stage_send(be, s, dst, bytes, err);
    cudaError_t e = cudaMemcpy2DAsync(dst, (size_t)pitch, s->host, (size_t)bytes, (size_t)bytes,
                                      (size_t)rows, cudaMemcpyHostToDevice, be->stream);
    if (!e) e = cudaEventRecord(s->free, be->stream);
    return cuda_check(be, e, "upload", err);
}

/* A row is longer than a stage, or all rows follow each other. */
static int upload_run(fl_backend *be, uint8_t *dst, const uint8_t *src, int64_t bytes,
                      fl_err *err) {
    int rc = FL_OK;
    for (int64_t at = 0; at < bytes && !rc; at += STAGE_BYTES) {
        int64_t n = fl_min_i64(STAGE_BYTES, bytes - at);
        rc = upload_piece(be, dst + at, n, src + at, n, 1, err);
    }
    return rc;
}

int cuda_upload(fl_backend *be, void *dst, int64_t pitch, const void *src, int64_t bytes,
                int64_t rows, fl_err *err) {
    const uint8_t *from = src;
    uint8_t *to = dst;
    int rc = FL_OK;
    if (pitch == bytes) return upload_run(be, to, from, bytes * rows, err);
    int64_t most = fl_max_i64(STAGE_BYTES / fl_max_i64(bytes, 1), 1);
    for (int64_t i = 0; i < rows && !rc; i += most) {
        int64_t n = fl_min_i64(most, rows - i);
        rc = bytes > STAGE_BYTES
                 ? upload_run(be, to + i * pitch, from + i * bytes, bytes, err)
                 : upload_piece(be, to + i * pitch, pitch, from + i * bytes, bytes, n, err);
    }
    return rc;
}

static int64_t row_bytes(const fl_tensor *t) {
    return fl_tensor_row_len(t) * fl_dtype_bytes(t->dtype);
}

static int cuda_write(fl_backend *be, const fl_tensor *dst, const void *src, fl_err *err) {
    int rc = cuda_outside(be, "write", err);
    if (rc) return rc;
    return cuda_upload(be, dst->data, dst->stride * fl_dtype_bytes(dst->dtype), src, row_bytes(dst),
                       dst->dim[0], err);
}

/* Waits, and tells of an index that a kernel found to be outside its table. */
static int finish(fl_backend *be, const char *what, fl_err *err) {
    static const char *const ops[] = {"?", "embed", "gather", "rope_store"};
    cuda_fault *f = be->fault_host;
    cudaError_t e = cudaMemcpyAsync(f, be->fault, sizeof(*f), cudaMemcpyDeviceToHost, be->stream);
    if (!e) e = cudaStreamSynchronize(be->stream);
    if (e || !f->set) return cuda_check(be, e, what, err);
    int rc = cuda_check(be, cudaMemsetAsync(be->fault, 0, sizeof(*f), be->stream), what, err);
    if (rc) return rc;
    return fl_fail(err, FL_E_ARG, "%s: row %d: index %d is outside its table", ops[f->op & 3],
                   f->index, f->value);
}

static int cuda_sync(fl_backend *be, fl_err *err) {
    int rc = cuda_outside(be, "sync", err);
    return rc ? rc : finish(be, "sync", err);
}

/* `rows` rows of `bytes` from the device, through one stage. */
static int read_piece(fl_backend *be, uint8_t *dst, const uint8_t *src, int64_t pitch,
                      int64_t bytes, int64_t rows, fl_err *err) {
    cuda_stage *s;
    int rc = cuda_stage_take(be, &s, err);
    if (rc) return rc;
    cudaError_t e =
        rows == 1 ? cudaMemcpyAsync(s->host, src, (size_t)bytes, cudaMemcpyDeviceToHost, be->stream)
                  : cudaMemcpy2DAsync(s->host, (size_t)bytes, src, (size_t)pitch, (size_t)bytes,
                                      (size_t)rows, cudaMemcpyDeviceToHost, be->stream);
    if ((rc = cuda_check(be, e, "read", err)) || (rc = finish(be, "read", err))) return rc;
    memcpy(dst, s->host, (size_t)(bytes * rows));
    return FL_OK;
}

static int cuda_read(fl_backend *be, void *dst, const fl_tensor *src, fl_err *err) {
    int64_t bytes = row_bytes(src), rows = src->dim[0];
    int64_t pitch = src->stride * fl_dtype_bytes(src->dtype);
    const uint8_t *from = src->data;
    uint8_t *to = dst;
    int rc = cuda_outside(be, "read", err);
    if (pitch == bytes || rows == 1) {
        for (int64_t at = 0; at < bytes * rows && !rc; at += STAGE_BYTES) {
            int64_t n = fl_min_i64(STAGE_BYTES, bytes * rows - at);
            rc = read_piece(be, to + at, from + at, n, n, 1, err);
        }
        return rc;
    }
    if (bytes > STAGE_BYTES)
        return fl_fail(err, FL_E_LIMIT, "read: rows of %lld bytes, limit %d", (long long)bytes,
                       STAGE_BYTES);
    int64_t most = STAGE_BYTES / fl_max_i64(bytes, 1);
    for (int64_t i = 0; i < rows && !rc; i += most)
        rc = read_piece(be, to + i * bytes, from + i * pitch, pitch, bytes,
                        fl_min_i64(most, rows - i), err);
    return rc;
}

static int cuda_copy(fl_backend *be, void *dst, const void *src, uint64_t bytes, fl_err *err) {
    int rc = cuda_outside(be, "copy", err);
    if (rc) return rc;
    return cuda_check(be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, be->stream),
                      "copy", err);
}

__attribute__((visibility("default"))) const fl_backend_ops *fl_backend_cuda(void);

const fl_backend_ops *fl_backend_cuda(void) {
    static const fl_backend_ops ops = {
        .abi = FL_BACKEND_ABI,
        .name = "cuda",
        .open = cuda_open,
        .close = cuda_close,
        .info = cuda_info,
        .mem_new = cuda_mem_new,
        .mem_free = cuda_mem_free,
        .write = cuda_write,
        .read = cuda_read,
        .copy = cuda_copy,
        .sync = cuda_sync,
        .linear_new = cuda_linear_new,
        .linear_free = cuda_linear_free,
        .embed = cuda_embed,
        .norm = cuda_norm,
        .quant = cuda_quantize,
        .linear = cuda_linear,
        .linear_path = cuda_linear_path,
        .rope_store = cuda_rope_store,
        .attend = cuda_attend,
        .silu_mul = cuda_silu_mul,
        .gather = cuda_gather,
        .absmax = cuda_absmax,
        .sumsq = cuda_sumsq,
        .attn_block = cuda_attn_block,
        .mlp_block = cuda_mlp_block,
        .kv_page_bytes = cuda_kv_page_bytes,
        .map = cuda_map,
        .softmax = cuda_softmax,
        .encode = cuda_encode,
        .sample = cuda_sample,
        .record = cuda_record,
        .record_end = cuda_record_end,
        .replay = cuda_replay,
        .recording_free = cuda_recording_free,
    };
    return &ops;
}
