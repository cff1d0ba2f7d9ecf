/* record.c - a step captured from the stream into one CUDA graph. */
#include "cuda/cuda_priv.h"
#include "util/mem.h"

struct fl_recording {
    cudaGraphExec_t graph;
};

int cuda_record(fl_backend *be, fl_err *err) {
    int rc = cuda_outside(be, "record", err);
    /* Only calls of this thread can spoil it: other models of the device may allocate. */
    if (!rc)
        rc = cuda_check(be, cudaStreamBeginCapture(be->stream, cudaStreamCaptureModeThreadLocal),
                        "cudaStreamBeginCapture", err);
    if (!rc) be->recording = true;
    return rc;
}

int cuda_record_end(fl_backend *be, fl_recording **out, fl_err *err) {
    cudaGraph_t graph = NULL;
    fl_recording *r = NULL;
    if (!be->recording) return fl_fail(err, FL_E_ARG, "record_end: nothing is being recorded");
    be->recording = false;
    int rc = cuda_current(be, "record_end", err);
    if (!rc)
        rc = cuda_check(be, cudaStreamEndCapture(be->stream, &graph), "cudaStreamEndCapture", err);
    if (rc || !out) goto done;
    if (!(r = fl_alloc(sizeof(*r)))) {
        rc = fl_fail(err, FL_E_NOMEM, "recording");
        goto done;
    }
    rc = cuda_check(be, cudaGraphInstantiate(&r->graph, graph, 0), "cudaGraphInstantiate", err);
    if (rc) goto done;
    *out = r;
    r = NULL;
done:
    if (graph) cudaGraphDestroy(graph);
    fl_free(r);
    return rc;
}

int cuda_replay(fl_backend *be, fl_recording *r, fl_err *err) {
    int rc = cuda_outside(be, "replay", err);
    return rc ? rc : cuda_check(be, cudaGraphLaunch(r->graph, be->stream), "cudaGraphLaunch", err);
}

void cuda_recording_free(fl_backend *be, fl_recording *r) {
    fl_err ignored;
    if (!cuda_current(be, "recording", &ignored)) { /* not after a fork */
        cudaStreamSynchronize(be->stream);          /* it may still run */
        cudaGraphExecDestroy(r->graph);
    }
    fl_free(r);
}
