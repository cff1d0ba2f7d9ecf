/* Streams, events, and the order in which their work runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rt.h"
#include "settings.h"

typedef struct emu_event {
    emu_stream *s; /* recorded in; NULL: never */
    uint64_t seq;
    emu_capture *capture;
    int *tips, n_tips;
    double ms;
} emu_event;

pthread_mutex_t emu_rt_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t emu_rt_cond = PTHREAD_COND_INITIALIZER;
cudaError_t emu_sticky[EMU_MAX_DEVICES];
emu_stream *emu_streams[EMU_MAX_STREAMS];
int emu_n_streams;
static _Thread_local cudaError_t last_error;

uint32_t emu_rt_random(void) {
    static uint64_t state;
    if (!state) state = emu_get()->seed * 0x9e3779b97f4a7c15u + 1;
    return emu_random(&state);
}

cudaError_t emu_result(cudaError_t e) {
    if (e) last_error = e;
    return e;
}

cudaError_t emu_last(bool clear) {
    cudaError_t e = last_error;
    if (clear) last_error = cudaSuccess;
    return e ? e : emu_sticky[emu_device()];
}

cudaError_t emu_broken(void) { /* a context made before fork() is useless in the child */
    static pid_t owner;
    if (emu_get()->driver) return (cudaError_t)emu_get()->driver;
    if (!owner) owner = getpid();
    return owner != getpid() ? cudaErrorInitializationError : emu_sticky[emu_device()];
}

bool emu_alloc_fails(void) {
    static int64_t count;
    return emu_get()->fail_at && ++count == emu_get()->fail_at;
}

emu_stream *emu_stream_of(cudaStream_t s) {
    if (s && s != cudaStreamLegacy && s != cudaStreamPerThread) return (emu_stream *)s;
    emu_report("the default stream is outside the emulated subset");
    return NULL;
}

bool emu_forbidden(void) {
    bool any = false;
    for (int i = 0; i < emu_n_streams; i++) {
        emu_capture *c = emu_streams[i]->capture;
        if (!c || emu_streams[i]->dev != emu_device()) continue;
        if (c->mode == cudaStreamCaptureModeRelaxed) continue;
        if (c->mode == cudaStreamCaptureModeThreadLocal && !pthread_equal(c->owner, pthread_self()))
            continue;
        any = c->bad = true;
    }
    return any;
}

void emu_push(emu_stream *s, emu_task t) {
    emu_task *n = malloc(sizeof(*n));
    *n = t;
    n->next = NULL;
    if (s->tail)
        s->tail->next = n;
    else
        s->head = n;
    s->tail = n;
    s->queued++;
}

static void capture(emu_stream *s, emu_task t) {
    emu_capture *c = s->capture;
    if (c->n == c->cap)
        c->node = realloc(c->node, sizeof(*c->node) * (size_t)(c->cap = c->cap * 2 + 64));
    t.owned = false;
    c->node[c->n] = (emu_node){t, s->tips, s->n_tips};
    s->tips = malloc(sizeof(int));
    s->tips[0] = c->n++;
    s->n_tips = 1;
}

cudaError_t emu_enqueue(cudaStream_t handle, const emu_task *t, const void *data, size_t n) {
    emu_stream *s = emu_stream_of(handle);
    cudaError_t e = emu_broken();
    if (!s) return emu_result(cudaErrorInvalidResourceHandle);
    if (e || (e = emu_sticky[s->dev])) return emu_result(e);
    emu_task mine = *t;
    mine.data = malloc(n + 1);
    mine.owned = true;
    memcpy(mine.data, data, n);
    pthread_mutex_lock(&emu_rt_lock);
    if (s->capture)
        capture(s, mine);
    else
        emu_push(s, mine);
    pthread_cond_broadcast(&emu_rt_cond);
    pthread_mutex_unlock(&emu_rt_lock);
    return cudaSuccess;
}

bool emu_step(emu_stream *s) {
    emu_task *t = s->head;
    if (!t || (!emu_sticky[s->dev] && t->ready && !t->ready(t, s))) return false;
    int e = emu_sticky[s->dev] ? 0 : t->run(t, s);
    if (e) {
        emu_sticky[s->dev] = (cudaError_t)e;
        emu_report("device %d failed in %.80s: error %d; every later call gives it", s->dev,
                   t->name, e);
    }
    s->head = t->next;
    if (!s->head) s->tail = NULL;
    s->done++;
    if (t->owned) free(t->data);
    free(t);
    return true;
}

static bool step_any(void) {
    int first = (int)(emu_rt_random() % (uint32_t)emu_n_streams);
    for (int i = 0; i < emu_n_streams; i++) {
        emu_stream *s = emu_streams[(i + first) % emu_n_streams];
        if (!s->dead && emu_step(s)) return true;
    }
    return false;
}

static void report_hang(void) {
    for (int i = 0; i < emu_n_streams; i++) {
        emu_stream *s = emu_streams[i];
        if (s->head)
            emu_report("hang: device %d stream %d waits in %s", s->dev, s->id, s->head->name);
    }
}

cudaError_t emu_drain(emu_stream *want, uint64_t seq) {
    if (emu_sticky[want->dev] == cudaErrorLaunchTimeout) return emu_result(cudaErrorLaunchTimeout);
    pthread_mutex_lock(&emu_rt_lock);
    while (want->done < seq) {
        bool ran = emu_rt_random() % 4 && emu_step(want);
        if (!ran) ran = step_any();
        if (ran) {
            pthread_cond_broadcast(&emu_rt_cond);
            continue;
        }
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_sec += emu_get()->hang_seconds;
        if (pthread_cond_timedwait(&emu_rt_cond, &emu_rt_lock, &t)) {
            report_hang();
            emu_sticky[want->dev] = cudaErrorLaunchTimeout;
            break;
        }
    }
    pthread_mutex_unlock(&emu_rt_lock);
    return emu_result(emu_sticky[want->dev]);
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (!(flags & cudaStreamNonBlocking)) {
        emu_report("a stream that synchronises with the default stream is not emulated");
        return emu_result(cudaErrorNotSupported);
    }
    if (emu_alloc_fails()) return emu_result(cudaErrorMemoryAllocation);
    emu_stream *s = calloc(1, sizeof(*s));
    s->dev = emu_device();
    pthread_mutex_lock(&emu_rt_lock);
    if (emu_n_streams == EMU_MAX_STREAMS) emu_stop("more than %d streams", EMU_MAX_STREAMS);
    emu_streams[emu_n_streams] = s;
    s->id = ++emu_n_streams;
    pthread_mutex_unlock(&emu_rt_lock);
    *out = (cudaStream_t)s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    emu_stream *s = emu_stream_of(handle);
    cudaError_t e = emu_broken();
    if (!s) return emu_result(cudaErrorInvalidResourceHandle);
    if (e) return emu_result(e);
    if (s->capture) {
        s->capture->bad = true;
        return emu_result(cudaErrorStreamCaptureUnsupported);
    }
    return emu_drain(s, s->queued);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    emu_stream *s = emu_stream_of(handle);
    if (!s || s->capture) return emu_result(cudaErrorStreamCaptureUnsupported);
    pthread_mutex_lock(&emu_rt_lock);
    if (emu_rt_random() % 2) emu_step(s);
    bool busy = s->head != NULL;
    pthread_mutex_unlock(&emu_rt_lock);
    return busy ? cudaErrorNotReady : emu_sticky[s->dev];
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    emu_stream *s = (emu_stream *)handle;
    cudaError_t e = emu_drain(s, s->queued);
    s->dead = true;
    return e;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *out) {
    emu_stream *s = emu_stream_of(handle);
    *out = s && s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t e = emu_broken();
    if (e) return emu_result(e);
    if (emu_forbidden()) return emu_result(cudaErrorStreamCaptureUnsupported);
    for (int i = 0; i < emu_n_streams && !e; i++) {
        emu_stream *s = emu_streams[i];
        if (s->dev == emu_device() && !s->dead) e = emu_drain(s, s->queued);
    }
    return emu_result(e);
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    cudaError_t e = emu_broken();
    (void)flags;
    if (e) return emu_result(e);
    if (emu_alloc_fails()) return emu_result(cudaErrorMemoryAllocation);
    *out = (cudaEvent_t)calloc(1, sizeof(emu_event));
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    free(((emu_event *)handle)->tips);
    free(handle);
    return cudaSuccess;
}

static int run_record(emu_task *t, emu_stream *s) {
    struct timespec now;
    (void)s;
    clock_gettime(CLOCK_MONOTONIC, &now);
    (*(emu_event **)t->data)->ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
    return 0;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
    emu_event *e = (emu_event *)handle;
    emu_stream *s = emu_stream_of(stream);
    if (!s) return emu_result(cudaErrorInvalidResourceHandle);
    e->capture = s->capture;
    if (s->capture) {
        size_t bytes = sizeof(int) * (size_t)s->n_tips;
        e->tips = realloc(e->tips, bytes + 1);
        memcpy(e->tips, s->tips, bytes);
        e->n_tips = s->n_tips;
        return cudaSuccess;
    }
    cudaError_t r =
        emu_enqueue(stream, &(emu_task){.name = "event record", .run = run_record}, &e, sizeof(e));
    e->s = s;
    e->seq = s->queued;
    return r;
}

typedef struct waited {
    emu_stream *s;
    uint64_t seq;
} waited;

static int run_wait(emu_task *t, emu_stream *s) {
    return (void)t, (void)s, 0;
}
static bool wait_ready(emu_task *t, emu_stream *s) {
    const waited *w = t->data;
    (void)s;
    return w->s->done >= w->seq;
}

static cudaError_t join_capture(emu_stream *s, const emu_event *e) {
    if (s->capture && s->capture != e->capture) return cudaErrorStreamCaptureMerge;
    s->capture = e->capture;
    s->tips = realloc(s->tips, sizeof(int) * (size_t)(s->n_tips + e->n_tips + 1));
    memcpy(s->tips + s->n_tips, e->tips, sizeof(int) * (size_t)e->n_tips);
    s->n_tips += e->n_tips;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags) {
    const emu_event *e = (emu_event *)handle;
    emu_stream *s = emu_stream_of(stream);
    (void)flags;
    if (!s) return emu_result(cudaErrorInvalidResourceHandle);
    if (e->capture) return emu_result(join_capture(s, e));
    if (s->capture) return e->s ? emu_result(cudaErrorStreamCaptureIsolation) : cudaSuccess;
    if (!e->s) return cudaSuccess;
    waited w = {e->s, e->seq};
    return emu_enqueue(stream,
                       &(emu_task){.name = "event wait", .run = run_wait, .ready = wait_ready}, &w,
                       sizeof(w));
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    const emu_event *e = (emu_event *)handle;
    if (e->capture) return emu_result(cudaErrorCapturedEvent);
    return e->s ? emu_drain(e->s, e->seq) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    const emu_event *e = (emu_event *)handle;
    pthread_mutex_lock(&emu_rt_lock);
    if (e->s && emu_rt_random() % 2) emu_step(e->s);
    bool ready = !e->s || e->s->done >= e->seq;
    pthread_mutex_unlock(&emu_rt_lock);
    return ready ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)(((emu_event *)to)->ms - ((emu_event *)from)->ms);
    return cudaSuccess;
}

typedef struct host_call {
    cudaHostFn_t f;
    void *arg;
} host_call;
static int run_host(emu_task *t, emu_stream *s) {
    const host_call *h = t->data;
    (void)s;
    h->f(h->arg);
    return 0;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *arg) {
    host_call h = {f, arg};
    return emu_enqueue(s, &(emu_task){.name = "host function", .run = run_host}, &h, sizeof(h));
}
