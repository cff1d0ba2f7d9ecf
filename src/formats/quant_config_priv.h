/* quant_config_priv.h - shared by the files that read quantization sections. */
#ifndef FL_FORMATS_QUANT_CONFIG_PRIV_H
#define FL_FORMATS_QUANT_CONFIG_PRIV_H

#include "formats/quant_config.h"
#include "formats/quant_rules.h"
#include "util/json.h"

/* FL_E_UNSUPPORTED or FL_E_FORMAT, with file and path of the member. */
int fl_quant_refuse(fl_json_scope s, const char *key, const char *value, fl_err *err);
int fl_quant_unsupported(fl_json_scope s, const char *key, const char *what, fl_err *err);
int fl_quant_malformed(fl_json_scope s, const char *key, const char *what, fl_err *err);

/* A KV cache we cannot make is no reason to refuse: the model keeps BF16 keys and values. */
void fl_quant_warn_kv(fl_json_scope s, const char *scheme);

/* [rows, columns], or "128x128" in older files. */
int fl_quant_read_block(int64_t *n, int64_t *k, fl_json_scope s, const char *key, fl_err *err);

/* kv_cache_scheme: an object of compressed-tensors, or the name of a format. */
int fl_quant_read_kv(fl_quant_plan *p, fl_json_scope s, fl_err *err);

/* Tries the rules on every linear of the model whose config.json `s` is a section of: the first
 * that is refused and not ignored refuses the model; none that is named leaves flavour
 * FL_QUANT_NONE.  Takes the rules, which stay in the plan where linears differ. */
int fl_quant_settle(fl_quant_plan *p, fl_quant_flavour flavour, fl_quant_rules *rules,
                    fl_json_scope s, fl_err *err);

int fl_quant_plan_ct(fl_quant_plan *p, fl_json_scope s, fl_err *err);
int fl_quant_plan_quark(fl_quant_plan *p, fl_json_scope s, fl_err *err);

#endif
