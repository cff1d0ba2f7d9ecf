/* model_priv.h - the inside of fl_model, for src/model only. */
#ifndef FL_MODEL_MODEL_PRIV_H
#define FL_MODEL_MODEL_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/graphs.h"
#include "model/kv.h"
#include "model/memory_plan.h"
#include "model/model.h"
#include "model/scratch.h"
#include "model/weights.h"

typedef struct fl_step_buffers { /* of step.c: the integers of a batch, and its logits */
    int64_t max_seqs;
    int32_t *host;
    void *device;
    float *logits; /* [scratch.logit_rows, head rows]; NULL: read where they are */
    /* Where the backend samples (draws.h). */
    int32_t *draws;      /* as scratch.draws */
    uint32_t *mask;      /* a row of scratch.mask */
    fl_sampled *sampled; /* [scratch.logit_rows] */
    bool drawn;          /* some row of scratch.draws is to be drawn */
    double rows_s;       /* of the step that runs: see fl_step */
} fl_step_buffers;

void fl_step_buffers_free(fl_model *m);

struct fl_model {
    atomic_int refs;
    char *dir;
    fl_config config;
    fl_generation_config generation;
    fl_quant_plan plan;
    fl_checkpoint *checkpoint;
    const fl_backend_ops *ops;
    fl_backend *be;
    bool times_ops; /* ops and be are those of op_times.h */
    fl_memory_plan memory;
    fl_weights weights;
    fl_scratch scratch;
    fl_step_buffers step;
    fl_graphs graphs;
    fl_tensor cos_sin; /* [context,E] f32 */
    fl_kv_layer *kv;   /* [n_layers] */
    void *kv_data;     /* one allocation, layer after layer */
    uint64_t kv_bytes, kv_page_bytes;
    fl_kv_pool pool;
    struct fl_holder *holders;     /* engines on the model; under the lock, as what follows */
    struct fl_sequence *sequences; /* all that are open, the newest first */
    uint64_t last_ticket;          /* of claims */
    bool prefix_cache;             /* full pages are published and looked for */
    pthread_mutex_t lock;          /* covers pool, scratch and every call into be */
    int64_t context;
    fl_err failure;       /* what the device said when it failed: code 0 while it works; for ever */
    struct {              /* calibration; absent otherwise */
        fl_tensor absmax; /* [n_layers,FL_OBSERVED] f32                            */
        fl_tensor sumsq;  /* [n_layers, columns] f32                               */
        const fl_input_rule *rule;
        fl_tensor qkv; /* [max_rows,(H+2G)*E]: a copy whose keys may be rotated */
    } observed;
    char quantization[64];
};

#endif
