/* The emulated NCCL: collectives of several devices, one thread each or one for all in a group, and
 * what it must tell: ranks that disagree, that do not come, that one thread calls one by one. */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/tap.h"

enum { MAX_RANKS = 4, N = 37, ROUNDS = 5 };

typedef struct rank {
    int rank, n;
    ncclUniqueId id;
    ncclComm_t comm;
    cudaStream_t stream;
    float *send, *recv; /* device: [N], [MAX_RANKS * N] */
    float got[MAX_RANKS * N];
    bool ok;
} rank;

static float value(int of, int i) {
    return (float)(of * 100 + i);
}

static bool open_rank(rank *r) {
    float host[N];
    for (int i = 0; i < N; i++) host[i] = value(r->rank, i);
    return !cudaSetDevice(r->rank) &&
           !cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking) &&
           !cudaMalloc((void **)&r->send, sizeof(host)) &&
           !cudaMalloc((void **)&r->recv, sizeof(r->got)) &&
           !cudaMemcpyAsync(r->send, host, sizeof(host), cudaMemcpyHostToDevice, r->stream) &&
           !ncclCommInitRank(&r->comm, r->n, r->id, r->rank);
}

static bool read_back(rank *r, size_t n) {
    return !cudaSetDevice(r->rank) &&
           !cudaMemcpyAsync(r->got, r->recv, n * sizeof(float), cudaMemcpyDeviceToHost,
                            r->stream) &&
           !cudaStreamSynchronize(r->stream);
}

typedef enum { SUM, MAX, GATHER, BROADCAST, IN_PLACE, KINDS } kind;
static const char *const names[] = {"all-reduce", "all-reduce of the largest", "all-gather",
                                    "broadcast", "all-reduce in place"};

static bool start(rank *r, kind k) {
    if (cudaSetDevice(r->rank)) return false;
    switch (k) {
    case SUM:
        return !ncclAllReduce(r->send, r->recv, N, ncclFloat32, ncclSum, r->comm, r->stream);
    case MAX:
        return !ncclAllReduce(r->send, r->recv, N, ncclFloat32, ncclMax, r->comm, r->stream);
    case GATHER:
        return !ncclAllGather(r->send, r->recv, N, ncclFloat32, r->comm, r->stream);
    case BROADCAST:
        return !ncclBroadcast(r->send, r->recv, N, ncclFloat32, 1, r->comm, r->stream);
    default:
        return !cudaMemcpyAsync(r->recv, r->send, N * sizeof(float), cudaMemcpyDeviceToDevice,
                                r->stream) &&
               !ncclAllReduce(r->recv, r->recv, N, ncclFloat32, ncclSum, r->comm, r->stream);
    }
}

static float expected(const rank *r, kind k, int i) {
    float sum = 0;
    if (k == MAX) return value(r->n - 1, i);
    if (k == GATHER) return value(i / N, i % N);
    if (k == BROADCAST) return value(1, i);
    for (int j = 0; j < r->n; j++) sum += value(j, i);
    return sum;
}

static bool right(rank *r, kind k) {
    const int n = k == GATHER ? N * r->n : N;
    bool same = read_back(r, (size_t)n);
    for (int i = 0; i < n && same; i++) same = r->got[i] == expected(r, k, i);
    return same;
}

static void *all_kinds(void *arg) {
    rank *r = arg;
    r->ok = open_rank(r);
    for (int round = 0; round < ROUNDS; round++)
        for (int k = 0; k < KINDS && r->ok; k++) r->ok = start(r, (kind)k) && right(r, (kind)k);
    return NULL;
}

static void on_threads(rank *r, int n, void *(*f)(void *)) {
    pthread_t thread[MAX_RANKS];
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    for (int i = 0; i < n; i++) {
        r[i].rank = i;
        r[i].n = n;
        r[i].id = id;
        pthread_create(&thread[i], NULL, f, &r[i]);
    }
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
}

static void test_threads(int n) {
    rank r[MAX_RANKS] = {{0}};
    bool ok = true;
    on_threads(r, n, all_kinds);
    for (int i = 0; i < n; i++) ok = ok && r[i].ok;
    check(ok, "%d devices, a thread each: every collective gives what it must", n);
}

/* Sums of BF16 are made in f32 and rounded once. */
static void *bf16(void *arg) {
    static const uint16_t parts[] = {0x4380, 0x3f80}; /* 256 and 1: 257 needs 9 bits, so 256 */
    rank *r = arg;
    uint16_t got = 0;
    r->ok = open_rank(r) &&
            !cudaMemcpyAsync(r->send, &parts[r->rank], 2, cudaMemcpyHostToDevice, r->stream) &&
            !ncclAllReduce(r->send, r->recv, 1, ncclBfloat16, ncclSum, r->comm, r->stream) &&
            !cudaMemcpyAsync(&got, r->recv, 2, cudaMemcpyDeviceToHost, r->stream) &&
            !cudaStreamSynchronize(r->stream) && got == 0x4380;
    return NULL;
}

static bool open_group(rank *r, int n) {
    ncclUniqueId id;
    bool ok = !ncclGetUniqueId(&id) && !ncclGroupStart();
    for (int i = 0; i < n && ok; i++) {
        r[i] = (rank){.rank = i, .n = n, .id = id};
        ok = open_rank(&r[i]);
    }
    return !ncclGroupEnd() && ok;
}

static void test_group(int n) {
    rank r[MAX_RANKS];
    bool ok = open_group(r, n);
    for (int k = 0; k < KINDS && ok; k++) {
        ncclGroupStart();
        for (int i = 0; i < n; i++) ok = start(&r[i], (kind)k) && ok;
        ncclGroupEnd();
        bool same = ok;
        for (int i = 0; i < n && same; i++) same = right(&r[i], (kind)k);
        check(same, "%d devices, one thread and a group: %s", n, names[k]);
    }
    if (!ok) check(false, "%d devices of one thread", n);
}

static bool two_threads(void *(*f)(void *)) {
    rank r[2] = {{0}};
    on_threads(r, 2, f);
    return r[0].ok && r[1].ok;
}

/* ---- what must be told ---- */

static void *disagree(void *arg) {
    rank *r = arg;
    if (!open_rank(r)) return NULL;
    ncclAllReduce(r->send, r->recv, (size_t)(N - r->rank), ncclFloat32, ncclSum, r->comm,
                  r->stream);
    r->ok = cudaStreamSynchronize(r->stream) != cudaSuccess;
    return NULL;
}
static bool disagreeing(void) {
    return two_threads(disagree);
}

static bool missing_at_start(void) {
    rank r = {.n = 2};
    ncclGetUniqueId(&r.id);
    return !open_rank(&r);
}

static void *half(void *arg) { /* rank 1 forgets its call */
    rank *r = arg;
    if (!open_rank(r)) return NULL;
    if (r->rank == 0) ncclAllReduce(r->send, r->recv, N, ncclFloat32, ncclSum, r->comm, r->stream);
    r->ok = (cudaStreamSynchronize(r->stream) != cudaSuccess) == (r->rank == 0);
    return NULL;
}
static bool missing_in_a_call(void) {
    return two_threads(half);
}

static bool no_group(void) {
    rank r[2];
    return open_group(r, 2) && !start(&r[0], SUM);
}

static bool wrong_stream(void) {
    rank r[2];
    if (!open_group(r, 2)) return false;
    ncclGroupStart();
    bool refused = ncclAllReduce(r[0].send, r[0].recv, N, ncclFloat32, ncclSum, r[0].comm,
                                 r[1].stream) != ncclSuccess;
    ncclGroupEnd();
    return refused;
}

static const struct {
    const char *name, *says;
    bool (*f)(void);
} faults[] = {
    {"ranks that disagree about a count", "nccl: ranks", disagreeing},
    {"a rank that does not come", "nccl: 1 of 2 ranks came", missing_at_start},
    {"a rank that leaves a call out", "hang: device 0", missing_in_a_call},
    {"ranks of one thread without a group", "need a group", no_group},
    {"a stream of another device", "stream of another device", wrong_stream},
};

static void test_fault(int i) {
    static char said[4096];
    int fd[2], status = 1;
    size_t n = 0;
    ssize_t got;
    if (pipe(fd)) return;
    fflush(stdout);
    if (!fork()) {
        dup2(fd[1], 2);
        _exit(faults[i].f() ? 0 : 1);
    }
    close(fd[1]);
    while ((got = read(fd[0], said + n, sizeof(said) - 1 - n)) > 0) n += (size_t)got;
    said[n] = 0;
    close(fd[0]);
    wait(&status);
    if (!check(!status && strstr(said, faults[i].says), "%s: told, and an error", faults[i].name))
        printf("# status %d, said: %s\n", status, said);
}

int main(void) {
    setenv("EMU_DEVICES", "4", 1);
    setenv("EMU_HANG", "1", 1);
    for (int i = 0; i < (int)(sizeof(faults) / sizeof(faults[0])); i++) test_fault(i);
    test_threads(2);
    test_threads(4);
    check(two_threads(bf16), "BF16 is summed in f32 and rounded once");
    test_group(2);
    test_group(4);
    return tap_done();
}
