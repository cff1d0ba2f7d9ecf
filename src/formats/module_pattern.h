/* module_pattern.h - which modules a checkpoint's ignore list means: "lm_head" is one module,
 * "re:..." is a regular expression that must match at the start of the name (Python's
 * re.match).
 *
 * The part of Python's syntax that such lists use: characters, '.', sets, \. \d \w \s and their
 * opposites, groups with |, (?:..), ^ and $, and the quantifiers * + ? {m,n}, also lazy. */
#ifndef FL_FORMATS_MODULE_PATTERN_H
#define FL_FORMATS_MODULE_PATTERN_H

#include <stdbool.h>

#include "util/err.h"

/* FL_E_FORMAT, FL_E_UNSUPPORTED or FL_E_LIMIT: names pattern and byte. */
int fl_module_pattern_check(const char *pattern, fl_err *err);

/* pattern: has passed the check.  Work is bounded: a pattern that takes more than a million
 * steps does not match. */
bool fl_module_pattern_match(const char *pattern, const char *module);

#endif
