/* rt.h - the emulated runtime: streams are queues that run only when the host waits, in an
 * order the seed picks, so a missing synchronisation shows as stale or poisoned data. */
#ifndef EMU_RT_H
#define EMU_RT_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>

#include "mem.h"

typedef struct emu_stream emu_stream;
typedef struct emu_task emu_task;

/* Work of a stream.  run and ready are called under emu_rt_lock; run gives 0 or a
 * cudaError_t, which the device keeps for ever. */
struct emu_task {
    const char *name;
    int (*run)(emu_task *t, emu_stream *s);
    bool (*ready)(emu_task *t, emu_stream *s); /* NULL: always */
    void *data;                                /* immutable while queued */
    bool owned;                                /* data is freed with the task, not by a graph */
    emu_task *next;
};

typedef struct emu_node {
    emu_task task;
    int *before, n_before; /* nodes that must have run */
} emu_node;

typedef struct emu_capture emu_capture;
struct emu_capture {
    emu_node *node;
    int n, cap;
    emu_stream *origin;
    enum cudaStreamCaptureMode mode;
    pthread_t owner;
    bool bad;  /* a forbidden call was made */
    bool gone; /* its executable form was destroyed */
};

struct emu_stream {
    int dev, id;
    emu_task *head, *tail;
    uint64_t queued, done;
    emu_capture *capture;
    int *tips, n_tips; /* nodes the next captured one depends on */
    bool dead;
};

enum { EMU_MAX_STREAMS = 4096 };
extern emu_stream *emu_streams[EMU_MAX_STREAMS];
extern int emu_n_streams;

extern pthread_mutex_t emu_rt_lock;
extern pthread_cond_t emu_rt_cond;
extern cudaError_t emu_sticky[EMU_MAX_DEVICES];

/* A copy of data[0..n) goes with the task. */
cudaError_t emu_enqueue(cudaStream_t s, const emu_task *t, const void *data, size_t n);
/* Runs what must run before task `seq` of the stream is done, and some of the rest. */
cudaError_t emu_drain(emu_stream *s, uint64_t seq);
bool emu_step(emu_stream *s);              /* lock held: runs the first task if it can */
void emu_push(emu_stream *s, emu_task t);  /* lock held */
emu_stream *emu_stream_of(cudaStream_t s); /* NULL after a report: the default stream */
uint32_t emu_rt_random(void);
int emu_device(void);
/* Whether a capture on the current device forbids this thread to allocate or wait; the capture
 * is then spoilt. */
bool emu_forbidden(void);
bool emu_alloc_fails(void); /* EMU_FAIL_AT */
/* Error every call must give: no driver, a fork since the first use, a failed device. */
cudaError_t emu_broken(void);
cudaError_t emu_result(cudaError_t e); /* remembers e for cudaGetLastError */
cudaError_t emu_last(bool clear);

typedef struct emu_totals {
    uint64_t kernels, graphs, copies, to_host; /* to_host: bytes */
    int64_t live_graphs;
} emu_totals;
extern emu_totals emu_total;

#endif
