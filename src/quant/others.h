/* others.h - what other engines make of a checkpoint that is written here. */
#ifndef FL_QUANT_OTHERS_H
#define FL_QUANT_OTHERS_H

#include "formats/hf_config.h"
#include "quant/recipe.h"

/* Warns of each thing that fp8llm reads and engines in wide use do not.  skipped: the modules that
 * stayed as they were. */
void fl_warn_of_others(const char *dst, const fl_recipe *r, const fl_config *c,
                       const char *const *skipped, size_t n);

#endif
