/* paths.h - which way the backend takes for each linear of a model: see linear_path of backend.h. */
#ifndef FL_MODEL_PATHS_H
#define FL_MODEL_PATHS_H

#include "backend/backend.h"

struct fl_model;

enum { FL_PATH_STEPS = 24 };

typedef struct fl_path_step { /* steps of more rows than those before it, up to `rows` */
    int64_t rows;
    const char *path; /* static */
} fl_path_step;

typedef struct fl_linear_paths {
    const char *linear; /* "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"; static */
    int64_t count;      /* linears of that name which are alike, in layers that follow each other */
    int64_t n, k;
    fl_dtype dtype;
    int n_steps;
    fl_path_step step[FL_PATH_STEPS];
} fl_linear_paths;

/* Calls `each` for the linears in the order of the forward pass; for none where the backend has
 * one way.  Rows go from 1 to the most of a step. */
void fl_model_paths(const struct fl_model *m, void (*each)(void *ctx, const fl_linear_paths *p),
                    void *ctx);
/* Says the same in the log: as a warning where more than 8 rows are made without tensor cores. */
void fl_model_log_paths(const struct fl_model *m);

#endif
