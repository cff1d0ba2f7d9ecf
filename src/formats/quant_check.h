/* quant_check.h - what config.json says of single modules, against the tensors there are.
 *
 * Lists of modules are exact names, "re:" with an expression (module_pattern.h), names with the
 * wildcards of fnmatch, or the class name "Linear". */
#ifndef FL_FORMATS_QUANT_CHECK_H
#define FL_FORMATS_QUANT_CHECK_H

#include "formats/checkpoint.h"
#include "formats/quant_config.h"

/* Log what the configuration and the tensors disagree about; each kind once.  The tensors win. */
void fl_quant_cross_check(const fl_checkpoint *ck, const fl_quant_plan *plan);

/* Whether the 2:4 sparsity that config.json declares is said of this module too. */
bool fl_sparsity_covers(const fl_checkpoint *ck, const char *module);

#endif
