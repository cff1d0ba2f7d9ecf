/* quantize.h - a BF16/F16/F32 checkpoint directory -> an FP8 one. */
#ifndef FL_QUANT_QUANTIZE_H
#define FL_QUANT_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_quantize_options {
    const char *scheme;        /* "fp8-static", "fp8-dynamic", "fp8-block": see recipe.h          */
    const char *format;        /* "autofp8", "compressed-tensors", "modelopt"; NULL: autofp8, for
                                  fp8-dynamic compressed-tensors                                  */
    const char *observer;      /* "minmax" (NULL), "mse": of weights, see observer.h              */
    const char *sparse;        /* "2:4"; NULL: no pruning                                         */
    const char *sparse_method; /* "wanda" (NULL), "magnitude"                                     */
    const char *sparse_format; /* "dense" (NULL), "bitmask"                                       */
    const char *kv;            /* "fp8": calibrated scales of the KV cache; NULL: none            */
    bool compat;               /* weights and their scales as the format's own tool makes them, bit
                                  for bit (observer.h); input and KV scales in its arithmetic, for
                                  autofp8 measured on the quantized model and on padded lines    */
    uint64_t max_shard_bytes;  /* of tensors in one file; 0: 5 GB                                 */
    const char *const *ignore; /* n_ignore patterns (module_pattern.h) of linears to leave alone  */
    size_t n_ignore;
    const char *calibrate;       /* JSONL of conversations, see calibrate.h                       */
    int64_t samples, max_length; /* 0: the defaults of calibrate.h                          */
    const char *device;          /* of the calibration run; NULL = "auto"                         */
    double gpu_memory_utilization; /* part of its memory the model may take; 0 = 0.9              */
    int threads; /* 0 = physical cores                                            */
    void (*progress)(void *ctx, const char *phase, double fraction); /* may be NULL         */
    void *progress_ctx;
} fl_quantize_options;

typedef struct fl_quantize_report {
    int64_t linears, ignored, samples, tokens;
    uint64_t bytes_in, bytes_out;
} fl_quantize_report;

/* Every decoder linear that no pattern names becomes E4M3 with its scales; the rest is copied.
 * dst must not exist; it appears complete or not at all (written beside itself as dst.tmp, then
 * renamed; a leftover of an earlier attempt is replaced).  Peak memory: the model while it is
 * calibrated, then one tensor. */
int fl_quantize(fl_quantize_report *out, const char *src, const char *dst,
                const fl_quantize_options *o, fl_err *err);

#endif
