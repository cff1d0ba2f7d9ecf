/* quant_rules.h - schemes for single linears, where a checkpoint has more than one. */
#ifndef FL_FORMATS_QUANT_RULES_H
#define FL_FORMATS_QUANT_RULES_H

#include "formats/quant_config.h"
#include "util/json.h"

/* How a rule names modules; of several that name one the first kind here counts. */
typedef enum {
    FL_RULE_NAME,    /* the whole name */
    FL_RULE_PATTERN, /* "re:..." (module_pattern.h); of several the first in the alphabet */
    FL_RULE_GLOB,    /* with the wildcards of fnmatch; of several the first that was added */
    FL_RULE_LINEAR,  /* every linear */
} fl_rule_kind;

int fl_quant_rules_new(fl_quant_rules **out, fl_err *err);
void fl_quant_rules_free(fl_quant_rules *r);
size_t fl_quant_rules_count(const fl_quant_rules *r);

/* scheme: act, sizes of blocks, bounds and `frozen` of the modules that `target` names; with a
 * refusal (code not FL_OK), why they cannot be run.  Of two rules with one target the later
 * counts. */
int fl_quant_rules_add(fl_quant_rules *r, fl_rule_kind kind, const char *target,
                       const fl_quant_plan *scheme, const fl_err *refusal, fl_err *err);

/* NULL: no rule names the module.  refusal: NULL or filled; code FL_OK: none. */
const fl_quant_plan *fl_quant_rules_find(const fl_quant_rules *r, const char *module,
                                         fl_err *refusal);

/* Whether a list of modules, or one of the lists of a quantization section that say what is not
 * quantized, names this one: by its name, by "re:" with an expression, with wildcards, or as
 * "Linear". */
bool fl_module_in_list(const fl_json_node *list, const char *module);
bool fl_section_ignores(const fl_json_node *section, const char *module);

/* The names of these lists; NULL ends them. */
extern const char *const fl_ignore_keys[];

#endif
