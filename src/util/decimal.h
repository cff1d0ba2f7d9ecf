/* decimal.h - decimal numbers of JSON, whatever the process's locale is. */
#ifndef FL_UTIL_DECIMAL_H
#define FL_UTIL_DECIMAL_H

#include <stdbool.h>

/* The end of the JSON number that starts at p, at most `end`; NULL when there is none.
 * *whole: it has neither fraction nor exponent. */
const char *fl_decimal_end(const char *p, const char *end, bool *whole);

/* The double nearest to the JSON number [p, end), which fl_decimal_end has found. */
double fl_decimal_value(const char *p, const char *end);

#endif
