/* side_files.h - what a model's folder holds beside its weights and its configuration. */
#ifndef FL_QUANT_SIDE_FILES_H
#define FL_QUANT_SIDE_FILES_H

#include "util/err.h"

/* Copies all that loaders read (tokenizers in every form, templates, also the named ones of the
 * folder additional_chat_templates, generation_config.json, licences ...) from one folder into
 * another.  Weights in any format, config.json, hf_quant_config.json and the description of the
 * source (README) stay behind. */
int fl_side_files_copy(const char *from, const char *to, fl_err *err);

#endif
