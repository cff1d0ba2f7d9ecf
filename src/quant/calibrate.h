/* calibrate.h - run conversations through a model and keep what its activations were like. */
#ifndef FL_QUANT_CALIBRATE_H
#define FL_QUANT_CALIBRATE_H

#include <stdbool.h>

#include "model/model.h"

typedef struct fl_calibration_source {
    const char *path;   /* JSONL, a line: {"messages":[...]} or {"text":"..."}           */
    int64_t samples;    /* lines used, from the first; 0 = 512                            */
    int64_t max_length; /* tokens used of a line; 0 = 2048; the model's context bounds it */
    bool autofp8;       /* as AutoFP8 and its example do: every line padded with the end token
                           to the longest, nothing masked; static inputs quantized by its
                           scale of the largest magnitude so far (load the model with
                           max_step_rows >= max_length, as that is of whole lines)        */
    void (*progress)(void *ctx, double fraction); /* may be NULL                           */
    void *progress_ctx;
} fl_calibration_source;

typedef struct fl_calibration {
    float *absmax; /* [n_layers,FL_OBSERVED]                                    */
    float *sumsq;  /* [n_layers,fl_observed_column(config, FL_OBSERVED_INPUTS)] */
    int64_t samples, tokens;
} fl_calibration;

/* Messages go through the model directory's chat template.  FL_E_FORMAT names file and line. */
void fl_calibration_free(fl_calibration *c);
int fl_calibrate(fl_calibration *out, fl_model *m, const fl_calibration_source *src, fl_err *err);

#endif
