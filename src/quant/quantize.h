/* quantize.h - a BF16/F16/F32 checkpoint directory -> an FP8 one. */
#ifndef FL_QUANT_QUANTIZE_H
#define FL_QUANT_QUANTIZE_H

#include <stdint.h>

#include "util/err.h"

typedef struct fl_quantize_options {
    const char *scheme;          /* "fp8-static": AutoFP8 layout, per-tensor weights and inputs   */
    const char *calibrate;       /* JSONL of conversations, see calibrate.h                       */
    int64_t samples, max_length; /* 0: the defaults of calibrate.h                          */
    const char *device;          /* of the calibration run; NULL = "auto"                         */
    int threads;                 /* 0 = physical cores                                            */
    void (*progress)(void *ctx, const char *phase, double fraction); /* may be NULL         */
    void *progress_ctx;
} fl_quantize_options;

typedef struct fl_quantize_report {
    int64_t linears, samples, tokens;
    uint64_t bytes_in, bytes_out;
} fl_quantize_report;

/* Every decoder linear becomes E4M3 with weight_scale and input_scale (amax / 448);
 * embeddings, norms and lm_head are copied.  dst must not exist; it appears complete or
 * not at all (written beside itself as dst.tmp, then renamed; a leftover of an earlier
 * attempt is replaced).  Peak memory: the model while it is calibrated, then one tensor. */
int fl_quantize(fl_quantize_report *out, const char *src, const char *dst,
                const fl_quantize_options *o, fl_err *err);

#endif
