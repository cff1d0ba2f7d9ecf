/* Fat binaries, functions and launches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"
#include "rt.h"
#include "settings.h"

enum { FAT_PTX = 1, MAX_ARGUMENT_BYTES = 4096 };

typedef struct fat_binary { /* one module a device: variables have addresses */
    const char *text;
    size_t len;
    emu_module *m[EMU_MAX_DEVICES];
} fat_binary;

typedef struct function {
    const void *host;
    char *name;
    fat_binary *fat;
    emu_kernel *k[EMU_MAX_DEVICES];
    size_t max_dynamic;
    struct function *next;
} function;

static function *functions;

/* ---- what nvcc's start-up code calls ---- */

static uint64_t field(const uint8_t *p, int at, int n) {
    uint64_t v = 0;
    memcpy(&v, p + at, (size_t)n);
    return v;
}

void **__cudaRegisterFatBinary(void *wrapper) {
    struct {
        int magic, version;
        const uint8_t *data;
    } *w = wrapper;
    const uint8_t *h = w->data, *end = h + field(h, 6, 2) + field(h, 8, 8);
    fat_binary *fat = calloc(1, sizeof(*fat));
    uint64_t best = 0;
    for (h += field(h, 6, 2); h < end; h += field(h, 4, 4) + field(h, 8, 8)) {
        uint64_t arch = field(h, 28, 4);
        if (field(h, 0, 2) != FAT_PTX || (int)arch > emu_get()->arch || arch < best) continue;
        best = arch;
        fat->text = (const char *)h + field(h, 4, 4);
        fat->len = strnlen(fat->text, field(h, 8, 8));
    }
    if (fat->text && !memcmp(fat->text, "\x28\xb5\x2f\xfd", 4))
        emu_stop("the PTX is compressed: build with nvcc -no-compress");
    if (!fat->text && !emu_get()->quiet)
        emu_report("no PTX for compute capability %d or less in a fat binary", emu_get()->arch);
    return (void **)fat;
}
void __cudaRegisterFatBinaryEnd(void **h) {
    (void)h;
}
void __cudaUnregisterFatBinary(void **h) {
    (void)h;
}
char __cudaInitModule(void **h) {
    return (void)h, 1;
}

void __cudaRegisterFunction(void **h, const char *host, char *device, const char *name, int limit,
                            void *tid, void *bid, void *block, void *grid, int *warp) {
    function *f = calloc(1, sizeof(*f));
    (void)device, (void)limit, (void)tid, (void)bid, (void)block, (void)grid, (void)warp;
    *f = (function){.host = host,
                    .name = strdup(name),
                    .fat = (fat_binary *)h,
                    .max_dynamic = 48 << 10,
                    .next = functions};
    functions = f;
}

void __cudaRegisterVar(void **h, char *host, char *device, const char *name, int ext, size_t size,
                       int constant, int global) {
    (void)h, (void)host, (void)device, (void)name, (void)ext, (void)size, (void)constant;
    (void)global;
}

static function *function_of(const void *host) {
    for (function *f = functions; f; f = f->next)
        if (f->host == host || (const void *)f == host) return f;
    return NULL;
}

static emu_kernel *kernel_of(function *f, int dev) { /* parsed at the first use, as it is loaded */
    if (f->k[dev] || !f->fat->text) return f->k[dev];
    pthread_mutex_lock(&emu_rt_lock);
    if (!f->fat->m[dev]) f->fat->m[dev] = emu_ptx_parse(f->fat->text, f->fat->len, dev);
    f->k[dev] = emu_ptx_kernel(f->fat->m[dev], f->name);
    pthread_mutex_unlock(&emu_rt_lock);
    if (!f->k[dev]) emu_stop("%s is not in its module", f->name);
    return f->k[dev];
}

cudaError_t __cudaGetKernel(cudaKernel_t *out, const void *host) {
    *out = (cudaKernel_t)function_of(host);
    return *out ? cudaSuccess : emu_result(cudaErrorInvalidDeviceFunction);
}

typedef struct configuration {
    dim3 grid, block;
    size_t smem;
    void *stream;
} configuration;
static _Thread_local configuration pending;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t smem, void *stream) {
    pending = (configuration){grid, block, smem, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *smem, void *stream) {
    *grid = pending.grid;
    *block = pending.block;
    *smem = pending.smem;
    *(void **)stream = pending.stream;
    return cudaSuccess;
}

/* ---- launches ---- */

typedef struct launch {
    emu_launch l;
    uint8_t params[MAX_ARGUMENT_BYTES];
} launch;

static int run_kernel(emu_task *t, emu_stream *s) {
    launch *l = t->data;
    (void)s;
    if (++emu_total.kernels == emu_get()->fail_launch) return cudaErrorIllegalAddress;
    l->l.params = l->params;
    return emu_exec(&l->l);
}

static int shared_limit(void) {
    return emu_get()->arch == 89 || emu_get()->arch == 120 ? 99 << 10 : 227 << 10;
}

static bool bad_shape(dim3 g, dim3 b) {
    return !g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || !b.x || !b.y || !b.z ||
           b.x * b.y * b.z > 1024;
}

cudaError_t cudaLaunchKernel(const void *host, dim3 g, dim3 b, void **args, size_t smem,
                             cudaStream_t stream) {
    function *f = function_of(host);
    emu_stream *s = emu_stream_of(stream);
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (!f || !s) return emu_result(cudaErrorInvalidDeviceFunction);
    if (s->dev != emu_device()) {
        emu_report("launch of %.60s on a stream of device %d, current is %d", f->name, s->dev,
                   emu_device());
        return emu_result(cudaErrorInvalidResourceHandle);
    }
    emu_kernel *k = kernel_of(f, s->dev);
    if (!k) return emu_result(cudaErrorNoKernelImageForDevice);
    if (smem > f->max_dynamic) {
        emu_report("%zu bytes of dynamic shared memory, %zu allowed: %s", smem, f->max_dynamic,
                   f->name);
        return emu_result(cudaErrorInvalidValue);
    }
    if (bad_shape(g, b) || k->param_bytes > MAX_ARGUMENT_BYTES) {
        emu_report("grid %u,%u,%u block %u,%u,%u: %s", g.x, g.y, g.z, b.x, b.y, b.z, f->name);
        return emu_result(cudaErrorInvalidConfiguration);
    }
    launch l = {.l = {.m = f->fat->m[s->dev],
                      .k = k,
                      .dev = s->dev,
                      .grid = {g.x, g.y, g.z},
                      .block = {b.x, b.y, b.z},
                      .dynamic_smem = (uint32_t)smem}};
    for (int i = 0; i < k->n_params; i++)
        memcpy(l.params + k->params[i].off, args[i], k->params[i].size);
    return emu_enqueue(stream, &(emu_task){.name = f->name, .run = run_kernel}, &l, sizeof(l));
}

cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **args, size_t smem,
                               cudaStream_t s) {
    return cudaLaunchKernel((const void *)k, g, b, args, smem, s);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *host, void **args) {
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization) {
            emu_report("launch attribute %d is not emulated", (int)c->attrs[i].id);
            return emu_result(cudaErrorNotSupported);
        }
    return cudaLaunchKernel(host, c->gridDim, c->blockDim, args, c->dynamicSmemBytes, c->stream);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *host) {
    function *f = function_of(host);
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (!f) return emu_result(cudaErrorInvalidDeviceFunction);
    emu_kernel *k = kernel_of(f, emu_device());
    if (!k) return emu_result(cudaErrorNoKernelImageForDevice);
    memset(out, 0, sizeof(*out));
    out->sharedSizeBytes = k->shared_bytes;
    out->maxDynamicSharedSizeBytes = (int)f->max_dynamic;
    out->ptxVersion = out->binaryVersion = emu_get()->arch;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *host, enum cudaFuncAttribute a, int v) {
    function *f = function_of(host);
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (!f) return emu_result(cudaErrorInvalidDeviceFunction);
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    emu_kernel *k = kernel_of(f, emu_device());
    if (!k) return emu_result(cudaErrorNoKernelImageForDevice);
    if (v + (int)k->shared_bytes > shared_limit()) return emu_result(cudaErrorInvalidValue);
    f->max_dynamic = (size_t)v;
    return cudaSuccess;
}

__attribute__((destructor)) static void report(void) {
    const emu_settings *s = emu_get();
    if (s->leaks) emu_mem_leaks();
    if (s->leaks && emu_total.live_graphs)
        emu_report("leak: %ld graphs were not destroyed", (long)emu_total.live_graphs);
    if (s->cover) emu_ptx_coverage(s->cover);
    if (!s->stats) return;
    emu_ptx_stats(s->stats);
    FILE *f = fopen(s->stats, "a");
    if (!f) return;
    fprintf(f, "total kernels %lu graph_launches %lu copies %lu bytes_to_host %lu\n",
            emu_total.kernels, emu_total.graphs, emu_total.copies, emu_total.to_host);
    fclose(f);
}
