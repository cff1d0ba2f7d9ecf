/* recipe.h - the words of a quantization request, checked against each other.
 *
 *              weights             inputs           formats
 * fp8-static   one scale           one scale        autofp8, compressed-tensors, modelopt
 * fp8-dynamic  a scale for a row   of each token    compressed-tensors, modelopt
 *              one scale           of each token    autofp8
 * fp8-block    128 x 128           of 128 columns   autofp8, compressed-tensors */
#ifndef FL_QUANT_RECIPE_H
#define FL_QUANT_RECIPE_H

#include "formats/quant_config.h"
#include "quant/observer.h"
#include "quant/quantize.h"
#include "util/bytes.h"

typedef struct fl_recipe {
    fl_quant_flavour format;
    fl_act_scheme act;
    fl_grain grain;
    fl_arithmetic arithmetic;
    bool mse, prune, wanda, bitmask, kv;
    bool calibrate; /* something is measured on activations */
} fl_recipe;

/* A word that is unknown, or words that no reader understands together, by name. */
int fl_recipe_read(fl_recipe *out, const fl_quantize_options *o, fl_err *err);

/* The object that becomes quantization_config in config.json.  skipped: the modules that stay
 * as they are. */
void fl_recipe_config(fl_bytes *out, const fl_recipe *r, const char *const *skipped, size_t n);

/* modelopt: the whole of hf_quant_config.json. */
void fl_recipe_side_file(fl_bytes *out, const fl_recipe *r, const char *const *skipped, size_t n);

#endif
