/* regex.h - the part of regular expressions that tokenizer.json split patterns use, on
 * valid UTF-8, with the Unicode 16 classes of unicode.h.
 *
 * Alternation, sets (also inside sets, and with &&), \p{..} \P{..} \s \S \d \D \w \W and '.', greedy
 * and possessive quantifiers of one character, groups with an optional ?, lookahead (?=..) (?!..),
 * look behind (?<=..) (?<!..) over a bounded number of characters, ^ and $ (of a line or of the
 * text), (?i:..) for ASCII literals.  First alternative wins, as in Oniguruma.  Everything else is
 * refused at compile time. */
#ifndef FL_TEXT_REGEX_H
#define FL_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_regex fl_regex;

/* pattern: valid UTF-8.  FL_E_UNSUPPORTED: a construct outside the above; FL_E_FORMAT: not
 * a regular expression; both name the byte. */
int fl_regex_compile(fl_regex **out, const char *pattern, size_t n, fl_err *err);
void fl_regex_free(fl_regex *r);

/* A pattern that is this text. */
int fl_regex_literal(fl_regex **out, const char *text, size_t n, fl_err *err);

/* A walk over all matches in s[0..n), in order.  Fill in the first four. */
typedef struct fl_regex_scan {
    const fl_regex *regex;
    const char *s;
    size_t n;
    int64_t *steps; /* falls with the work done; at 0 the search gives up */
    size_t from, last;
    bool any;
} fl_regex_scan;

/* The next match: 1 and [*begin, *end), which may be empty, but not where the one before ended;
 * 0: no more; FL_E_LIMIT: no steps left (no pattern runs away). */
int fl_regex_next(fl_regex_scan *scan, size_t *begin, size_t *end);

#endif
