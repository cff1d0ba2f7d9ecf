/* NCCL between threads of one process.  A collective runs when it heads the stream of every
 * rank, and only if all ranks agree on operation, count and type; otherwise the mismatch is
 * reported, or the runtime reports the hang. */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "num.h"
#include "rt.h"
#include "settings.h"

typedef enum { ALL_REDUCE, ALL_GATHER, BROADCAST } kind;

typedef struct clique {
    ncclUniqueId id;
    int n, joined;
    struct ncclComm *rank[EMU_MAX_DEVICES];
    struct clique *next;
} clique;

typedef struct collective {
    struct ncclComm *c;
    kind kind;
    const void *send;
    void *recv;
    size_t n;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
} collective;

struct ncclComm {
    clique *q;
    int rank, dev;
    pthread_t owner;         /* who made it */
    bool served;             /* another rank has done the work */
    const collective *front; /* heads its stream */
};

static clique *cliques;
static uint64_t next_id = 1;
static _Thread_local int group; /* depth of ncclGroupStart */

/* In a group nothing waits before its end; here nothing but the making of communicators does. */
static _Thread_local struct ncclComm *waiting[EMU_MAX_DEVICES];
static _Thread_local int n_waiting;

ncclResult_t ncclGetVersion(int *v) {
    return *v = NCCL_VERSION_CODE, ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t r) {
    static _Thread_local char text[40];
    snprintf(text, sizeof(text), "emulated NCCL result %d", (int)r);
    return text;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof(*id));
    pthread_mutex_lock(&emu_rt_lock);
    memcpy(id->internal, &next_id, sizeof(next_id));
    next_id++;
    pthread_mutex_unlock(&emu_rt_lock);
    return ncclSuccess;
}

static clique *join(ncclUniqueId id, int n) {
    clique *q = cliques;
    while (q && memcmp(&q->id, &id, sizeof(id))) q = q->next;
    if (q) return q;
    q = calloc(1, sizeof(*q));
    q->id = id;
    q->n = n;
    q->next = cliques;
    return cliques = q;
}

/* Until all ranks of q have come; lock held. */
static ncclResult_t wait_for_all(const clique *q) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += emu_get()->hang_seconds;
    while (q->joined < q->n)
        if (pthread_cond_timedwait(&emu_rt_cond, &emu_rt_lock, &until)) {
            emu_report("nccl: %d of %d ranks came", q->joined, q->n);
            return ncclSystemError;
        }
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    group++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    ncclResult_t r = ncclSuccess;
    if (!group || --group) return group ? ncclSuccess : ncclInvalidUsage;
    pthread_mutex_lock(&emu_rt_lock);
    for (int i = 0; i < n_waiting && !r; i++) r = wait_for_all(waiting[i]->q);
    pthread_mutex_unlock(&emu_rt_lock);
    n_waiting = 0;
    return r;
}

ncclResult_t ncclCommInitRank(ncclComm_t *out, int n, ncclUniqueId id, int rank) {
    if (n < 1 || n > EMU_MAX_DEVICES || rank < 0 || rank >= n) return ncclInvalidArgument;
    pthread_mutex_lock(&emu_rt_lock);
    clique *q = join(id, n);
    if (q->n != n || q->rank[rank]) {
        pthread_mutex_unlock(&emu_rt_lock);
        return ncclInvalidArgument;
    }
    struct ncclComm *c = calloc(1, sizeof(*c));
    c->q = q;
    c->rank = rank;
    c->dev = emu_device();
    c->owner = pthread_self();
    q->rank[rank] = c;
    q->joined++;
    pthread_cond_broadcast(&emu_rt_cond);
    ncclResult_t r = ncclSuccess;
    if (group)
        waiting[n_waiting++] = c;
    else
        r = wait_for_all(q);
    pthread_mutex_unlock(&emu_rt_lock);
    *out = c;
    return r;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
    return (void)c, ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
    return (void)c, ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *r) {
    (void)c;
    return *r = ncclSuccess, ncclSuccess;
}

static size_t bytes(ncclDataType_t t) {
    if (t == ncclFloat32 || t == ncclInt32) return 4;
    if (t == ncclBfloat16 || t == ncclFloat16) return 2;
    return t == ncclInt8 || t == ncclUint8 ? 1 : 0;
}

static float get(const uint8_t *p, ncclDataType_t t, size_t i) {
    float f;
    uint16_t h;
    if (t == ncclFloat32) return memcpy(&f, p + 4 * i, 4), f;
    memcpy(&h, p + 2 * i, 2);
    return t == ncclBfloat16 ? emu_bf16_value(h) : emu_half_value(h);
}

static void put(uint8_t *p, ncclDataType_t t, size_t i, float f) {
    uint16_t h = t == ncclBfloat16 ? emu_bf16_from(f) : emu_half_from(f);
    if (t == ncclFloat32)
        memcpy(p + 4 * i, &f, 4);
    else
        memcpy(p + 2 * i, &h, 2);
}

static bool ready(emu_task *t, emu_stream *s) {
    const collective *x = t->data;
    (void)s;
    if (x->c->served) return true;
    x->c->front = x;
    for (int i = 0; i < x->c->q->n; i++) {
        const struct ncclComm *r = x->c->q->rank[i];
        if (!r || !r->front || r->served) return false;
    }
    return true;
}

static void all_reduce(const collective *x, const uint8_t **in, uint8_t **out) {
    int ranks = x->c->q->n;
    for (size_t i = 0; i < x->n; i++) {
        float sum = get(in[0], x->type, i);
        for (int r = 1; r < ranks; r++) {
            float v = get(in[r], x->type, i);
            sum = x->op == ncclMax ? fmaxf(sum, v) : sum + v;
        }
        for (int r = 0; r < ranks; r++) put(out[r], x->type, i, sum);
    }
}

static void move(const collective *x, const uint8_t **in, uint8_t **out) {
    int ranks = x->c->q->n;
    size_t n = x->n * bytes(x->type);
    uint8_t *all = malloc(n * (size_t)ranks);
    for (int r = 0; r < ranks; r++)
        memcpy(all + (size_t)r * n, in[x->kind == BROADCAST ? x->root : r], n);
    for (int r = 0; r < ranks; r++)
        memcpy(out[r], all, x->kind == ALL_GATHER ? n * (size_t)ranks : n);
    free(all);
}

static bool agree(const collective *x, const collective *y) {
    if (y->kind == x->kind && y->n == x->n && y->type == x->type && y->op == x->op &&
        y->root == x->root)
        return true;
    emu_report("nccl: ranks %d and %d disagree: kind %d and %d, count %zu and %zu, type %d and %d",
               x->c->rank, y->c->rank, (int)x->kind, (int)y->kind, x->n, y->n, (int)x->type,
               (int)y->type);
    return false;
}

static int fail_all(const clique *q) {
    for (int r = 0; r < q->n; r++) emu_sticky[q->rank[r]->dev] = cudaErrorLaunchFailure;
    return cudaErrorLaunchFailure;
}

static int run(emu_task *t, emu_stream *s) { /* the first rank to run works for all */
    const collective *x = t->data;
    clique *q = x->c->q;
    const uint8_t *in[EMU_MAX_DEVICES];
    uint8_t *out[EMU_MAX_DEVICES];
    size_t n = x->n * bytes(x->type);
    (void)s;
    if (x->c->served) {
        x->c->served = false;
        x->c->front = NULL;
        return 0;
    }
    for (int r = 0; r < q->n; r++) {
        const collective *y = q->rank[r]->front;
        size_t room = x->kind == ALL_GATHER ? n * (size_t)q->n : n;
        if (!agree(x, y)) return fail_all(q);
        in[r] = emu_mem_check((uintptr_t)y->send, n, q->rank[r]->dev, EMU_READ_INIT, "nccl send");
        out[r] = emu_mem_check((uintptr_t)y->recv, room, q->rank[r]->dev, EMU_WRITE, "nccl recv");
        if (!in[r] || !out[r]) return cudaErrorIllegalAddress;
    }
    if (x->kind == ALL_REDUCE)
        all_reduce(x, in, out);
    else
        move(x, in, out);
    for (int r = 0; r < q->n; r++) q->rank[r]->served = q->rank[r] != x->c;
    x->c->front = NULL;
    return 0;
}

/* The real one may wait inside a call for the others, who are never called. */
static bool alone(const struct ncclComm *c) {
    for (int r = 0; r < c->q->n && !group; r++) {
        const struct ncclComm *other = c->q->rank[r];
        if (other == c || !pthread_equal(other->owner, c->owner)) continue;
        emu_report("nccl: ranks %d and %d are one thread's: their calls need a group", c->rank,
                   other->rank);
        return false;
    }
    return true;
}

static ncclResult_t enqueue(const collective *x, cudaStream_t stream) {
    emu_stream *s = emu_stream_of(stream);
    if (!alone(x->c)) return ncclInvalidUsage;
    if (!s || s->dev != x->c->dev) {
        emu_report("nccl: stream of another device than communicator's %d", x->c->dev);
        return ncclInvalidUsage;
    }
    bool real = x->type == ncclFloat32 || x->type == ncclBfloat16 || x->type == ncclFloat16;
    if (!bytes(x->type) ||
        (x->kind == ALL_REDUCE && (!real || (x->op != ncclSum && x->op != ncclMax)))) {
        emu_report("nccl: type %d with operation %d is not emulated", (int)x->type, (int)x->op);
        return ncclInvalidArgument;
    }
    emu_task t = {.name = "nccl", .run = run, .ready = ready};
    return emu_enqueue(stream, &t, x, sizeof(*x)) ? ncclUnhandledCudaError : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t n, ncclDataType_t t, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t s) {
    return enqueue(&(collective){c, ALL_REDUCE, send, recv, n, t, op, 0}, s);
}
ncclResult_t ncclAllGather(const void *send, void *recv, size_t n, ncclDataType_t t, ncclComm_t c,
                           cudaStream_t s) {
    return enqueue(&(collective){c, ALL_GATHER, send, recv, n, t, ncclSum, 0}, s);
}
ncclResult_t ncclBroadcast(const void *send, void *recv, size_t n, ncclDataType_t t, int root,
                           ncclComm_t c, cudaStream_t s) {
    return enqueue(&(collective){c, BROADCAST, send, recv, n, t, ncclSum, root}, s);
}
