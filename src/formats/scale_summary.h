/* scale_summary.h - what the values of a scale tensor are like, for people who look at one. */
#ifndef FL_FORMATS_SCALE_SUMMARY_H
#define FL_FORMATS_SCALE_SUMMARY_H

#include <stdbool.h>

#include "formats/safetensors.h"

typedef struct fl_scale_summary {
    float min, median, max;   /* of the usable values; 0 when there is none            */
    int64_t n, zeros, broken; /* all; those that are 0; negative, infinite or NaN ones */
} fl_scale_summary;

/* Is this the name of a scale (weight_scale, input_scale, k_scale, weight_scale_inv, ...)? */
bool fl_is_scale(const fl_st_tensor *t);

/* dtype F32, BF16 or F16, else FL_E_UNSUPPORTED. */
int fl_scale_summarize(fl_scale_summary *out, const fl_st_tensor *t, fl_err *err);

#endif
