/* regex.h - the part of regular expressions that tokenizer.json split patterns use, on
 * valid UTF-8, with the Unicode 16 classes of unicode.h.
 *
 * Alternation, sets, \p{..} \P{..} \s \S \d, greedy and possessive quantifiers of one
 * character, groups with an optional ?, lookahead (?=..) (?!..), $ (the end of a line or of
 * the text), (?i:..) for ASCII literals.  First alternative wins, as in Oniguruma.
 * Everything else is refused at compile time, also a pattern that can match the empty
 * string. */
#ifndef FL_TEXT_REGEX_H
#define FL_TEXT_REGEX_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_regex fl_regex;

/* pattern: valid UTF-8.  FL_E_UNSUPPORTED: a construct outside the above; FL_E_FORMAT: not
 * a regular expression; both name the byte. */
int fl_regex_compile(fl_regex **out, const char *pattern, size_t n, fl_err *err);
void fl_regex_free(fl_regex *r);

/* The first match in s[*begin..n): 1 and [*begin, *end); 0: none.  *steps falls with the
 * work done; at 0 the search gives up with FL_E_LIMIT (no pattern runs away). */
int fl_regex_find(const fl_regex *r, const char *s, size_t n, size_t *begin, size_t *end,
                  int64_t *steps);

#endif
