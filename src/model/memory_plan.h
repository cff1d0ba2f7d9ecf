/* memory_plan.h - what loading a model will take of a device's memory, told before anything large
 * is allocated, and how many KV pages fill the rest.  The same arithmetic as
 * lua/fp8llm/plan.lua, which works without loading. */
#ifndef FL_MODEL_MEMORY_PLAN_H
#define FL_MODEL_MEMORY_PLAN_H

#include "backend/backend.h"
#include "formats/checkpoint.h"
#include "formats/hf_config.h"
#include "formats/quant_config.h"

typedef struct fl_memory_plan { /* bytes */
    uint64_t total, free;       /* of the device, before the model                           */
    uint64_t budget;            /* what the model may take of it                             */
    uint64_t weights;           /* packed, as far as the headers of the files tell            */
    uint64_t activations;       /* buffers of a step                                        */
    uint64_t kv;                /* the KV pool, at least                                    */
    int64_t kv_tokens;          /* tokens that kv holds                                     */
} fl_memory_plan;

/* A device with memory of its own gives `part` of it, what is free at most; else what is free. */
uint64_t fl_memory_budget(const fl_backend_info *info, double part);

/* Bytes the weights take when packed: as they are stored, but 2:4 at 0.625 of dense E4M3 (and
 * with sparse_dense once more dense), F32 matrices as BF16, and no head beside a tied embedding. */
uint64_t fl_memory_of_weights(const fl_checkpoint *ck, const fl_config *c,
                              const fl_quant_plan *plan, bool sparse_dense);

/* FL_E_NOMEM, with the bytes of each part and those there are, unless all of it fits. */
int fl_memory_plan_check(const fl_memory_plan *p, const char *model, const char *device,
                         fl_err *err);

#endif
