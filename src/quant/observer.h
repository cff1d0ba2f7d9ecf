/* observer.h - scales and E4M3 codes of weights. */
#ifndef FL_QUANT_OBSERVER_H
#define FL_QUANT_OBSERVER_H

#include "formats/safetensors.h"
#include "util/thread.h"

/* Largest magnitude in a BF16, F16 or F32 tensor.  FL_E_FORMAT: NaN or infinity inside. */
int fl_weight_absmax(float *out, const fl_st_tensor *w, fl_team *team, fl_err *err);

/* codes[i] = e4m3(w[i] / scale), saturating, one rounding in f32. */
int fl_weight_encode(uint8_t *codes, const fl_st_tensor *w, float scale, fl_team *team,
                     fl_err *err);

#endif
