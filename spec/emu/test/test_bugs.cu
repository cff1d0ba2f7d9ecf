// Planted bugs, each in a child process: the emulator must say what is wrong.  Before them,
// the same patterns without the bug, about which it must say nothing.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

static cudaStream_t st, side;
static float *mem; // 1024 floats of the device, all written
static float *fresh; // 1024 floats, not written
static float *pinned;

// ---- kernels: bug 0 is the right form ----

__global__ void k_reduce(const float *in, float *out, int bug) {
    __shared__ float red[128];
    int t = (int)threadIdx.x;
    red[t] = in[t];
    if (bug != 1) __syncthreads();
    for (int o = 64; o; o >>= 1) {
        if (t < o) red[t] += red[t + o];
        if (bug != 2) __syncthreads();
    }
    if (t == 0) out[0] = red[0];
}

__global__ void k_warp(const float *in, float *out, int bug) {
    __shared__ float s[32];
    int t = (int)threadIdx.x;
    s[t] = in[t];
    if (bug != 1) __syncwarp();
    float v = s[31 - t];
    if (bug == 2 && t < 16) v += __shfl_xor_sync(0xffffffffu, v, 1);
    if (bug == 3 && t < 16) v += __shfl_xor_sync(0x0000ffffu, v, 16);
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    out[t] = v;
}

__global__ void k_barrier(float *out, int bug) {
    int t = (int)threadIdx.x;
    if (bug == 1 && t < 40) __syncthreads();
    if (bug == 2 && t >= 64) return;
    __syncthreads();
    out[t] = (float)t;
}

__global__ void k_index(const float *in, float *out, int shift) {
    out[threadIdx.x] = in[(int)threadIdx.x + shift];
}
__global__ void k_write(float *out, int shift) { out[(int)threadIdx.x + shift] = 1.f; }
__global__ void k_vector(const float *in, float *out, int shift) {
    float4 v = *(const float4 *)(in + shift);
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
__global__ void k_shared(float *out, int n) {
    extern __shared__ float s[];
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) s[i] = 1.f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ void k_unwritten(float *out, int bug) {
    __shared__ float s[64];
    if (!bug || threadIdx.x < 16) s[threadIdx.x] = 1.f;
    __syncthreads();
    out[threadIdx.x] = s[(threadIdx.x + 7) % 64];
}
__global__ void k_blocks(float *out, int bug) { // every block writes its own, or a shared one
    if (threadIdx.x == 0) out[bug ? 0 : blockIdx.x] = (float)blockIdx.x;
}
__global__ void k_neighbour(const float *in, float *out, int bug) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const float *from = bug ? out : in; // bug: another block writes it in this launch
    out[i] = from[(i + (int)blockDim.x) % (int)(blockDim.x * gridDim.x)];
}
__global__ void k_copy(const float *in, float *out, int bug) { // cp.async, waited for too late
    __shared__ float4 s[2][32];
    int t = (int)threadIdx.x;
    for (int i = 0; i < 2; i++) {
        unsigned to = (unsigned)__cvta_generic_to_shared(&s[i][t]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(in + (i * 32 + t) * 4) : "memory");
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    }
    if (bug == 1)
        asm volatile("cp.async.wait_group 2;\n" ::: "memory");
    else
        asm volatile("cp.async.wait_group 1;\n" ::: "memory");
    if (bug != 2) __syncwarp();
    out[t] = s[0][31 - t].x;
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
}
__global__ void k_local(float *out, int n) {
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = (float)(i + n);
    out[threadIdx.x] = a[(threadIdx.x + (unsigned)n) % 16 + (n > 100 ? 1000 : 0) - (threadIdx.x + (unsigned)n) % 16 / 8 * 8];
}
__global__ void __launch_bounds__(64) k_bounds(float *out) { out[threadIdx.x] = 1.f; }
__global__ void k_trap(float *out) {
    if (threadIdx.x == 3) __trap();
    out[threadIdx.x] = 1.f;
}
__global__ void k_sparse(float *out, unsigned meta) {
    float d[4] = {0, 0, 0, 0};
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, "
                 "{%4,%4,%4,%4}, {%4,%4,%4,%4}, {%0,%1,%2,%3}, %5, 0x0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(0x38383838u), "r"(meta));
    out[threadIdx.x] = d[0];
}

// ---- scenes ----

static cudaError_t wait() { return cudaStreamSynchronize(st); }

static void reduce(int bug) { k_reduce<<<1, 128, 0, st>>>(mem, mem + 512, bug); wait(); }
static void warp(int bug) { k_warp<<<1, 32, 0, st>>>(mem, mem + 512, bug); wait(); }
static void barrier(int bug) { k_barrier<<<1, 128, 0, st>>>(mem, bug); wait(); }
static void read_at(int shift) { k_index<<<1, 32, 0, st>>>(mem, mem + 512, shift); wait(); }
static void write_at(int shift) { k_write<<<1, 32, 0, st>>>(mem, shift); wait(); }
static void vector(int shift) { k_vector<<<1, 32, 0, st>>>(mem, mem + 512, shift); wait(); }
static void shared(int n) { k_shared<<<1, 64, 64 * 4, st>>>(mem, n); wait(); }
static void unwritten(int bug) { k_unwritten<<<1, 64, 0, st>>>(mem, bug); wait(); }
static void unwritten_global(int bug) { k_index<<<1, 32, 0, st>>>(bug ? fresh : mem, mem + 512, 0); wait(); }
static void blocks(int bug) { k_blocks<<<8, 32, 0, st>>>(mem, bug); wait(); }
static void neighbour(int bug) { k_neighbour<<<4, 32, 0, st>>>(mem + 512, mem, bug); wait(); }
static void async_copy(int bug) { k_copy<<<1, 32, 0, st>>>(mem, mem + 512, bug); wait(); }
static void local(int n) { k_local<<<1, 32, 0, st>>>(mem, n); wait(); }
static void bounds(int n) { k_bounds<<<1, n, 0, st>>>(mem); wait(); }
static void trap(int bug) { if (bug) k_trap<<<1, 32, 0, st>>>(mem); wait(); }
static void sparse(int bug) { k_sparse<<<1, 32, 0, st>>>(mem, bug ? 0x11111111u : 0x44444444u); wait(); }
static void freed(int bug) {
    float *p;
    cudaMalloc((void **)&p, 4096);
    cudaMemsetAsync(p, 0, 4096, st);
    if (bug) cudaFree(p);
    k_index<<<1, 32, 0, st>>>(p, mem, 0);
    wait();
}
static void too_much_shared(int bug) {
    if (!bug) cudaFuncSetAttribute((const void *)k_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000);
    k_shared<<<1, 64, 60000, st>>>(mem, 64);
    wait();
}
static void host_reads_early(int bug) {
    cudaMemcpyAsync(pinned, mem, 64, cudaMemcpyDeviceToHost, st);
    if (!bug) wait();
    if (pinned[3] != pinned[3]) fprintf(stderr, "EMU scene: the host saw NaN\n");
    wait();
}
static void other_stream(int bug) { // a copy on another stream than the kernel that writes
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    cudaMemcpyAsync(pinned, mem, 128, cudaMemcpyDeviceToHost, side);
    cudaStreamSynchronize(side);
    float before = pinned[0];
    k_write<<<1, 32, 0, st>>>(mem, 0);
    cudaEventRecord(e, st);
    if (!bug) cudaStreamWaitEvent(side, e, 0);
    cudaMemcpyAsync(pinned, mem, 128, cudaMemcpyDeviceToHost, side);
    cudaStreamSynchronize(side);
    if (pinned[0] == before) fprintf(stderr, "EMU scene: the host saw stale data\n");
    wait();
}
static void capture(int bug) { // a forked stream must be joined
    cudaGraph_t g;
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal);
    k_write<<<1, 32, 0, st>>>(mem, 0);
    cudaEventRecord(e, st);
    cudaStreamWaitEvent(side, e, 0);
    k_write<<<1, 32, 0, side>>>(mem + 512, 0);
    cudaEventRecord(e, side);
    if (bug != 1) cudaStreamWaitEvent(st, e, 0);
    void *p = nullptr;
    if (bug == 0) std::thread([&] { cudaMalloc(&p, 64); }).join(); // the mode forbids it to this thread
    cudaError_t inside = bug == 2 ? cudaMalloc(&p, 64) : bug == 3 ? cudaStreamSynchronize(st) : cudaSuccess;
    char pageable[64];
    if (bug == 4) inside = cudaMemcpyAsync(pageable, mem, 64, cudaMemcpyDeviceToHost, st);
    cudaError_t end = cudaStreamEndCapture(st, &g);
    if (inside || end) fprintf(stderr, "EMU scene: capture gave %d, its end %d\n", (int)inside, (int)end);
    if (end) return;
    cudaGraphExec_t x;
    cudaGraphInstantiate(&x, g, 0);
    cudaGraphDestroy(g);
    if (bug == 5) cudaGraphExecDestroy(x);
    if (cudaGraphLaunch(x, st)) fprintf(stderr, "EMU scene: no launch\n");
    wait();
    if (!p) fprintf(stderr, "EMU scene: no memory for another thread\n");
}
static void default_stream(int bug) { k_write<<<1, 32, 0, bug ? nullptr : st>>>(mem, 0); wait(); }
static void sticky(int bug) {
    if (bug) write_at(1 << 20);
    k_write<<<1, 32, 0, st>>>(mem, 0);
    if (cudaGetLastError()) fprintf(stderr, "EMU scene: the error stays\n");
}
static void after_fork(int bug) {
    if (bug && fork()) {
        int status;
        ::wait(&status);
        return;
    }
    if (cudaMemsetAsync(mem, 0, 64, st)) fprintf(stderr, "EMU scene: useless after fork\n");
    wait();
}
static void dereference(int bug) { // a segmentation fault, seen by the parent
    if (bug) mem[0] = 1.f;
}
static void matmul(int bug) { // [16,n] = [16,64] x [64,n] of E4M3
    cublasLtHandle_t h;
    cublasLtMatmulDesc_t d;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulPreference_t p;
    cublasLtMatmulHeuristicResult_t r;
    cublasOperation_t t = CUBLAS_OP_T;
    float one = 1.f, zero = 0.f;
    size_t room = 1 << 20;
    uint32_t align = 16;
    int got = 0, k = bug == 1 ? 60 : 64;
    void *work, *w;
    cudaMalloc(&work, room);
    cudaMalloc(&w, 16 * 64);
    cudaMemsetAsync(w, 0x38, 16 * 64, st);
    cublasLtCreate(&h);
    cublasLtMatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (bug != 2) cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof(t));
    cublasLtMatrixLayoutCreate(&a, CUDA_R_8F_E4M3, (uint64_t)k, 16, k);
    cublasLtMatrixLayoutCreate(&b, CUDA_R_8F_E4M3, (uint64_t)k, 4, k);
    cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, 16, 4, 16);
    cublasLtMatmulPreferenceCreate(&p);
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof(room));
    for (int i = 0; i < 4 && bug != 5; i++)
        cublasLtMatmulPreferenceSetAttribute(
            p, (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), &align, 4);
    if (cublasLtMatmulAlgoGetHeuristic(h, d, a, b, c, c, p, 1, &r, &got)) return;
    char *x = (char *)w + (bug == 3 ? 8 : bug == 5 ? 16 : 0);
    cublasLtMatmul(h, d, &one, w, a, x, b, &zero, mem, c, mem, c, &r.algo, work, bug == 4 ? 16 : room, st);
    wait();
}

struct scene {
    void (*run)(int);
    int bug;
    const char *name, *says; // says: part of the report; NULL: silence
};

static const scene scenes[] = {
    {reduce, 0, "a block reduction", nullptr},
    {reduce, 1, "no barrier before the first read", "shared"},
    {reduce, 2, "no barrier between halves", "race: shared byte"},
    {warp, 0, "an exchange through shared memory in a warp", nullptr},
    {warp, 1, "no __syncwarp between lanes", "race: shared byte"},
    {warp, 2, "shfl with the full mask in half a warp", "divergence"},
    {warp, 3, "shfl from a lane outside its mask", "which is not there"},
    {barrier, 0, "a barrier", nullptr},
    {barrier, 1, "a barrier in a divergent branch", "divergence"},
    {barrier, 2, "a warp that ends before the barrier", "divergence"},
    {read_at, 0, "a read inside", nullptr},
    {read_at, 1000, "a read past the end", "past the end of its allocation"},
    {read_at, -40, "a read before the start", "no allocation there"},
    {write_at, 1020, "a write past the end", "past the end of its allocation"},
    {vector, 4, "a vector load", nullptr},
    {vector, 1, "a misaligned vector load", "misaligned global access"},
    {shared, 64, "dynamic shared memory", nullptr},
    {shared, 65, "dynamic shared memory one element short", "shared write of 4 bytes"},
    {unwritten, 0, "shared memory written first", nullptr},
    {unwritten, 1, "shared memory that nobody wrote", "uninitialised shared memory"},
    {unwritten_global, 1, "device memory that nobody wrote", "uninitialised device memory"},
    {blocks, 0, "blocks that write apart", nullptr},
    {blocks, 1, "blocks that write the same place", "already written by block"},
    {neighbour, 0, "blocks that read what none writes", nullptr},
    {neighbour, 1, "blocks that read what others write", "of the same launch"},
    {async_copy, 0, "cp.async", nullptr},
    {async_copy, 1, "cp.async waited for one group late", "uninitialised shared memory"},
    {async_copy, 2, "cp.async without __syncwarp", "race: shared byte"},
    {local, 1, "an array in local memory", nullptr},
    {local, 200, "an index outside an array in local memory", "local access"},
    {bounds, 64, "launch bounds kept", nullptr},
    {bounds, 96, "more threads than launch bounds", "launch bounds"},
    {trap, 1, "trap", "trap"},
    {sparse, 0, "2:4 metadata in order", nullptr},
    {sparse, 1, "2:4 metadata out of order", "not in order"},
    {freed, 0, "live memory", nullptr},
    {freed, 1, "use after free", "freed allocation"},
    {too_much_shared, 0, "60000 bytes of shared memory, asked for", nullptr},
    {too_much_shared, 1, "60000 bytes of shared memory, not asked for", "dynamic shared memory"},
    {host_reads_early, 0, "the host waits for a copy", nullptr},
    {host_reads_early, 1, "the host reads before a copy is done", "the host saw NaN"},
    {other_stream, 0, "a copy after an event", nullptr},
    {other_stream, 1, "a copy on another stream without an event", "the host saw stale data"},
    {capture, 0, "a fork joined in a capture", nullptr},
    {capture, 1, "a fork not joined in a capture", "its end 904"},
    {capture, 2, "cudaMalloc in a capture", "capture gave 900"},
    {capture, 3, "synchronisation in a capture", "its end 901"},
    {capture, 4, "pageable memory in a capture", "pageable memory"},
    {capture, 5, "launch of a destroyed graph", "graph that was destroyed"},
    {default_stream, 1, "the default stream", "the default stream"},
    {sticky, 0, "no error before", nullptr},
    {sticky, 1, "a launch after a failed one", "the error stays"},
    {after_fork, 0, "no fork", nullptr},
    {after_fork, 1, "CUDA used after fork", "useless after fork"},
    {dereference, 1, "host code follows a device pointer", "signal 11"},
    {matmul, 0, "an FP8 product", nullptr},
    {matmul, 1, "an FP8 product with k = 60", "FP8 wants k"},
    {matmul, 2, "an FP8 product with A not transposed", "shapes do not match"},
    {matmul, 3, "an FP8 product of a misaligned matrix", "aligned"},
    {matmul, 4, "a workspace too small", "workspace"},
    {matmul, 5, "alignment of 16 bytes that the heuristic did not hear of", "less aligned"},
};

static void play(const scene *s) {
    cudaStreamCreateWithFlags(&st, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaMalloc((void **)&mem, 4096);
    cudaMalloc((void **)&fresh, 4096);
    cudaMallocHost((void **)&pinned, 4096);
    cudaMemsetAsync(mem, 0, 4096, st);
    wait();
    s->run(s->bug);
}

// What a child says on stderr, with "signal N" when it died of one.
static void listen(size_t scene_index, const char *seed, char *out, size_t room) {
    int fd[2], status;
    size_t n = 0;
    if (pipe(fd)) exit(1);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        dup2(fd[1], 2);
        setenv("EMU_SEED", seed, 1);
        close(fd[0]);
        close(fd[1]);
        char index[16];
        snprintf(index, sizeof(index), "%zu", scene_index);
        execl("/proc/self/exe", "test_bugs", index, (char *)nullptr);
        exit(1);
    }
    close(fd[1]);
    for (ssize_t got; n + 1 < room && (got = read(fd[0], out + n, room - n - 1)) > 0;) n += (size_t)got;
    out[n] = 0;
    close(fd[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) snprintf(out + n, room - n, "signal %d", WTERMSIG(status));
}

int main(int argc, char **argv) {
    int failed = 0, n = 0;
    static char said[65536];
    if (argc > 1) return play(&scenes[atoi(argv[1])]), 0;
    for (const scene &s : scenes) {
        bool ok = false;
        // Some bugs show in some orders only; silence must hold in all of them.
        for (const char *seed : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
            listen((size_t)n, seed, said, sizeof(said));
            ok = s.says ? strstr(said, s.says) != nullptr : !said[0];
            if (ok == (s.says != nullptr)) break;
            if (!s.says && *seed == '3') break;
        }
        printf("%s %d - %s: %s\n", ok ? "ok" : "not ok", ++n, s.name, s.says ? s.says : "silence");
        if (!ok) printf("# said: %.600s\n", said);
        failed += !ok;
    }
    printf("1..%d\n", n);
    return failed != 0;
}
