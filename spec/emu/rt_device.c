/* Devices, memory and copies. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rt.h"
#include "settings.h"

static _Thread_local int current;

int emu_device(void) {
    return current;
}

static int shared_limit(void) {
    return emu_get()->arch == 89 || emu_get()->arch == 120 ? 99 << 10 : 227 << 10;
}

cudaError_t cudaGetDeviceCount(int *n) {
    cudaError_t e = emu_broken();
    *n = e ? 0 : emu_get()->devices;
    return emu_result(e);
}

cudaError_t cudaSetDevice(int dev) {
    if (emu_get()->driver) return emu_result((cudaError_t)emu_get()->driver);
    if (dev < 0 || dev >= emu_get()->devices) return emu_result(cudaErrorInvalidDevice);
    current = dev;
    return emu_result(emu_broken());
}

cudaError_t cudaGetDevice(int *dev) {
    *dev = current;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return emu_last(true);
}
cudaError_t cudaPeekAtLastError(void) {
    return emu_last(false);
}

const char *cudaGetErrorString(cudaError_t e) {
    static _Thread_local char text[40];
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorInitializationError:
        return "initialization error";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    default:
        snprintf(text, sizeof(text), "emulated error %d", (int)e);
        return text;
    }
}
const char *cudaGetErrorName(cudaError_t e) {
    return cudaGetErrorString(e);
}

cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = emu_get()->driver == cudaErrorInsufficientDriver ? 12000 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int dev) {
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (dev < 0 || dev >= emu_get()->devices) return emu_result(cudaErrorInvalidDevice);
    switch (a) {
    case cudaDevAttrComputeCapabilityMajor:
        *v = emu_get()->arch / 10;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *v = emu_get()->arch % 10;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *v = 4; /* few, so that tiny sizes are split as large ones are */
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *v = shared_limit();
        return cudaSuccess;
    default:
        emu_report("device attribute %d is not emulated", (int)a);
        return emu_result(cudaErrorInvalidValue);
    }
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int dev) {
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (dev < 0 || dev >= emu_get()->devices) return emu_result(cudaErrorInvalidDevice);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated");
    p->major = emu_get()->arch / 10;
    p->minor = emu_get()->arch % 10;
    p->multiProcessorCount = 4;
    p->totalGlobalMem = emu_get()->memory;
    p->sharedMemPerBlockOptin = (size_t)shared_limit();
    p->warpSize = 32;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    cudaError_t e = emu_broken();
    *total = emu_get()->memory;
    *free_bytes = *total - emu_mem_live(current);
    return emu_result(e);
}

/* ---- allocation ---- */

cudaError_t cudaMalloc(void **p, size_t n) {
    cudaError_t e = emu_broken();
    *p = NULL;
    if (e) return emu_result(e);
    if (emu_forbidden()) return emu_result(cudaErrorStreamCaptureUnsupported);
    pthread_mutex_lock(&emu_rt_lock);
    uint64_t va = emu_alloc_fails() ? 0 : emu_mem_alloc(current, n);
    pthread_mutex_unlock(&emu_rt_lock);
    *p = (void *)(uintptr_t)va;
    return va ? cudaSuccess : emu_result(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *p) { /* waits for the device, as the real one does */
    if (!p) return emu_result(emu_broken());
    cudaError_t e = cudaDeviceSynchronize();
    if (e) return e;
    pthread_mutex_lock(&emu_rt_lock);
    int wrong = emu_mem_free((uint64_t)(uintptr_t)p);
    pthread_mutex_unlock(&emu_rt_lock);
    if (wrong) emu_report("cudaFree of %p, which is not a live allocation", p);
    return wrong ? emu_result(cudaErrorInvalidValue) : cudaSuccess;
}

static struct pinned {
    uint8_t *p;
    size_t n;
} pinned[4096];
static int n_pinned;

static bool is_pinned(const void *p, size_t n) {
    for (int i = 0; i < n_pinned; i++)
        if ((const uint8_t *)p >= pinned[i].p &&
            (const uint8_t *)p + n <= pinned[i].p + pinned[i].n)
            return true;
    return false;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags) {
    cudaError_t e = emu_broken();
    (void)flags;
    *p = NULL;
    if (e) return emu_result(e);
    if (n_pinned == sizeof(pinned) / sizeof(pinned[0])) emu_stop("more than %d pinned", n_pinned);
    if (emu_alloc_fails() || !(*p = aligned_alloc(4096, (n + 4095) / 4096 * 4096)))
        return emu_result(cudaErrorMemoryAllocation);
    if (n < 1 << 20) memset(*p, 0xff, n); /* large ones: copies poison what they will fill */
    pinned[n_pinned++] = (struct pinned){*p, n};
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n) {
    return cudaHostAlloc(p, n, 0);
}

cudaError_t cudaFreeHost(void *p) {
    for (int i = 0; i < n_pinned; i++) {
        if (pinned[i].p != p) continue;
        pinned[i] = pinned[--n_pinned];
        free(p);
        return cudaSuccess;
    }
    emu_report("cudaFreeHost of %p, which is not pinned memory", p);
    return emu_result(cudaErrorInvalidValue);
}

/* ---- copies ---- */

typedef struct copy { /* rows of `width` bytes; contiguous memory is one row */
    uint8_t *dst;
    const uint8_t *src;
    size_t dst_pitch, src_pitch, width, rows;
    int kind;
    bool snapshot; /* pageable source: its bytes follow, as they were at the call */
} copy;

static int run_copy(emu_task *t, emu_stream *s) {
    const copy *c = t->data;
    const uint8_t *from = c->snapshot ? (const uint8_t *)(c + 1) : c->src;
    (void)s;
    emu_total.copies++;
    if (c->kind == cudaMemcpyDeviceToHost) emu_total.to_host += c->width * c->rows;
    for (size_t i = 0; i < c->rows; i++) {
        const uint8_t *a = from + i * (c->snapshot ? c->width : c->src_pitch);
        uint8_t *b = c->dst + i * c->dst_pitch;
        if (c->kind != cudaMemcpyHostToDevice &&
            !(a = emu_mem_check((uintptr_t)a, c->width, -1,
                                emu_get()->init ? EMU_READ_INIT : EMU_READ, "copy")))
            return cudaErrorIllegalAddress;
        if (c->kind != cudaMemcpyDeviceToHost &&
            !(b = emu_mem_check((uintptr_t)b, c->width, -1, EMU_WRITE, "copy")))
            return cudaErrorIllegalAddress;
        memmove(b, a, c->width);
    }
    return 0;
}

static bool kind_fits(const copy *c) {
    bool to = emu_mem_device(c->dst) >= 0, from = emu_mem_device(c->src) >= 0;
    if ((c->kind == cudaMemcpyHostToDevice && to && !from) ||
        (c->kind == cudaMemcpyDeviceToHost && !to && from) ||
        (c->kind == cudaMemcpyDeviceToDevice && to && from))
        return true;
    emu_report("copy of kind %d to %s from %s memory", c->kind, to ? "device" : "host",
               from ? "device" : "host");
    return false;
}

static cudaError_t copy_rows(copy c, cudaStream_t stream) {
    emu_stream *s = emu_stream_of(stream);
    if (!c.width || !c.rows) return cudaSuccess;
    if (!s) return emu_result(cudaErrorInvalidResourceHandle);
    if (!kind_fits(&c)) return emu_result(cudaErrorInvalidMemcpyDirection);
    bool in = c.kind == cudaMemcpyHostToDevice, out = c.kind == cudaMemcpyDeviceToHost;
    size_t to_span = (c.rows - 1) * c.dst_pitch + c.width;
    bool fast = in    ? is_pinned(c.src, (c.rows - 1) * c.src_pitch + c.width)
                : out ? is_pinned(c.dst, to_span)
                      : true;
    if (s->capture && !fast) {
        emu_report("pageable memory in a captured copy");
        return emu_result(cudaErrorStreamCaptureUnsupported);
    }
    c.snapshot = in && !fast;
    size_t tail = c.snapshot ? c.rows * c.width : 0;
    uint8_t *data = malloc(sizeof(c) + tail);
    memcpy(data, &c, sizeof(c));
    for (size_t i = 0; i < c.rows && tail; i++)
        memcpy(data + sizeof(c) + i * c.width, c.src + i * c.src_pitch, c.width);
    if (out && fast && !s->capture) /* who reads before synchronising sees NaN */
        for (size_t i = 0; i < c.rows; i++) memset(c.dst + i * c.dst_pitch, 0xff, c.width);
    cudaError_t e =
        emu_enqueue(stream, &(emu_task){.name = "copy", .run = run_copy}, data, sizeof(c) + tail);
    free(data);
    return e || !out || fast ? e : cudaStreamSynchronize(stream);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s) {
    return copy_rows((copy){dst, src, n, n, n, 1, (int)kind, false}, s);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t rows, enum cudaMemcpyKind kind, cudaStream_t s) {
    if (dst_pitch < width || src_pitch < width) return emu_result(cudaErrorInvalidPitchValue);
    return copy_rows((copy){dst, src, dst_pitch, src_pitch, width, rows, (int)kind, false}, s);
}

typedef struct fill {
    void *p;
    int v;
    size_t n;
} fill;

static int run_fill(emu_task *t, emu_stream *s) {
    const fill *f = t->data;
    uint8_t *p = emu_mem_check((uintptr_t)f->p, f->n, -1, EMU_WRITE, "memset");
    (void)s;
    if (!p) return cudaErrorIllegalAddress;
    memset(p, f->v, f->n);
    return 0;
}

cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) {
    fill f = {p, v, n};
    if (!n) return cudaSuccess;
    return emu_enqueue(s, &(emu_task){.name = "memset", .run = run_fill}, &f, sizeof(f));
}

cudaError_t cudaDeviceCanAccessPeer(int *yes, int a, int b) {
    (void)a, (void)b;
    *yes = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int dev, unsigned flags) {
    (void)dev, (void)flags;
    return cudaSuccess;
}
