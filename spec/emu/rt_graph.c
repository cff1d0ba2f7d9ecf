/* Graphs: a capture is the graph, and its executable form too. */
#include <stdlib.h>
#include <string.h>

#include "rt.h"
#include "settings.h"

emu_totals emu_total;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
    emu_stream *s = emu_stream_of(handle);
    if (!s) return emu_result(cudaErrorStreamCaptureUnsupported);
    if (s->capture) return emu_result(cudaErrorIllegalState);
    s->capture = calloc(1, sizeof(*s->capture));
    s->capture->origin = s;
    s->capture->mode = mode;
    s->capture->owner = pthread_self();
    s->tips = NULL;
    s->n_tips = 0;
    return cudaSuccess;
}

/* Whether node `what` is `from` or runs before it. */
static bool precedes(const emu_capture *c, int what, int from) {
    if (what == from) return true;
    if (what > from) return false; /* a node depends on earlier ones only */
    for (int i = 0; i < c->node[from].n_before; i++)
        if (precedes(c, what, c->node[from].before[i])) return true;
    return false;
}

static bool joined(const emu_capture *c, const emu_stream *origin, const emu_stream *side) {
    for (int t = 0; t < side->n_tips; t++) {
        bool found = false;
        for (int i = 0; i < origin->n_tips && !found; i++)
            found = precedes(c, side->tips[t], origin->tips[i]);
        if (!found) return false;
    }
    return true;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out) {
    emu_stream *s = emu_stream_of(handle);
    emu_capture *c = s ? s->capture : NULL;
    *out = NULL;
    if (!c || c->origin != s) return emu_result(cudaErrorStreamCaptureUnmatched);
    cudaError_t e = c->bad ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    for (int i = 0; i < emu_n_streams && !e; i++) {
        emu_stream *t = emu_streams[i];
        if (t->capture == c && t != s && !joined(c, s, t)) e = cudaErrorStreamCaptureUnjoined;
    }
    for (int i = 0; i < emu_n_streams; i++) {
        emu_stream *t = emu_streams[i];
        if (t->capture != c) continue;
        t->capture = NULL;
        t->tips = NULL;
        t->n_tips = 0;
    }
    if (!e) *out = (cudaGraph_t)c;
    return emu_result(e);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    if (emu_alloc_fails()) return emu_result(cudaErrorMemoryAllocation);
    *out = (cudaGraphExec_t)g;
    emu_total.live_graphs++;
    return cudaSuccess;
}

/* Some node whose predecessors are all in the queue. */
static int choose(const emu_capture *c, const char *queued) {
    int pick = -1, seen = 0;
    for (int i = 0; i < c->n && seen < 8; i++) {
        bool ready = !queued[i];
        for (int d = 0; d < c->node[i].n_before && ready; d++) ready = queued[c->node[i].before[d]];
        if (ready && emu_rt_random() % (uint32_t)++seen == 0) pick = i;
    }
    return pick;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
    const emu_capture *c = (emu_capture *)exec;
    emu_stream *s = emu_stream_of(handle);
    cudaError_t e = emu_broken();
    if (!s || s->capture) return emu_result(cudaErrorStreamCaptureUnsupported);
    if (c->gone) {
        emu_report("launch of a graph that was destroyed");
        return emu_result(cudaErrorInvalidValue);
    }
    if (e || (e = emu_sticky[s->dev])) return emu_result(e);
    char *queued = calloc(1, (size_t)c->n + 1);
    pthread_mutex_lock(&emu_rt_lock);
    for (int n = 0; n < c->n; n++) {
        int i = choose(c, queued);
        queued[i] = 1;
        emu_push(s, c->node[i].task);
    }
    emu_total.graphs++;
    pthread_cond_broadcast(&emu_rt_cond);
    pthread_mutex_unlock(&emu_rt_lock);
    free(queued);
    return cudaSuccess;
}

/* The graph and its executable share their nodes; what is launched may still use them. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) {
    ((emu_capture *)x)->gone = true;
    emu_total.live_graphs--;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    return (void)g, cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) {
    if (nodes) return emu_result(cudaErrorNotSupported);
    *n = (size_t)((emu_capture *)g)->n;
    return cudaSuccess;
}
