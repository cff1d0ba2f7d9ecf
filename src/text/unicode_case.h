/* unicode_case.h - upper, lower and title case of code points, as Python's str has them
 * (Unicode's UnicodeData and SpecialCasing; no locale rules, no final sigma). */
#ifndef FL_TEXT_UNICODE_CASE_H
#define FL_TEXT_UNICODE_CASE_H

#include <stdint.h>

/* Each writes 1 to 3 code points and returns how many. */
int fl_uc_upper(uint32_t cp, uint32_t out[3]);
int fl_uc_lower(uint32_t cp, uint32_t out[3]);
int fl_uc_title(uint32_t cp, uint32_t out[3]);

#endif
