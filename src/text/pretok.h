/* pretok.h - splits text into the words that are encoded one by one: the pre_tokenizer of
 * tokenizer.json as a list of stages, each of which cuts the pieces of the one before. */
#ifndef FL_TEXT_PRETOK_H
#define FL_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/regex.h"
#include "util/err.h"

/* Patterns that most models share have a matcher by hand, chosen by exact spelling. */
typedef enum {
    FL_PATTERN_NONE,
    FL_PATTERN_GPT2,
    FL_PATTERN_LLAMA3,
    FL_PATTERN_REGEX
} fl_pattern_kind;

typedef struct fl_pattern {
    fl_pattern_kind kind;
    fl_regex *regex; /* FL_PATTERN_REGEX; owned */
} fl_pattern;

extern const char fl_pattern_gpt2[]; /* the pattern inside "ByteLevel" with use_regex */

/* FL_PATTERN_REGEX unless the text is a known pattern. */
int fl_pattern_init(fl_pattern *p, const char *text, size_t n, fl_err *err);

typedef enum {
    FL_STAGE_SPLIT,      /* into the matches of the pattern and what is between them */
    FL_STAGE_DIGITS,     /* each number character alone */
    FL_STAGE_DIGIT_RUNS, /* runs of number characters apart from the rest */
    FL_STAGE_PREFIX,     /* a blank in front of every piece that has none */
    FL_STAGE_METASPACE   /* blanks become U+2581, one in front, cut before each */
} fl_stage_kind;

/* What becomes of a match: a piece, nothing, a part of the piece before or behind it (a match beside
 * a match stays alone), or one piece with the matches beside it. */
typedef enum {
    FL_SPLIT_ISOLATED,
    FL_SPLIT_REMOVED,
    FL_SPLIT_PREVIOUS,
    FL_SPLIT_NEXT,
    FL_SPLIT_CONTIGUOUS
} fl_behavior;

typedef enum { FL_PREPEND_NEVER, FL_PREPEND_FIRST, FL_PREPEND_ALWAYS } fl_prepend;

typedef struct fl_stage {
    fl_stage_kind kind;
    fl_pattern pattern;   /* SPLIT */
    fl_behavior behavior; /* SPLIT */
    bool invert;          /* SPLIT: matches and gaps change places */
    fl_prepend prepend;   /* METASPACE */
    bool cut;             /* METASPACE: false = no cutting */
} fl_stage;

enum { FL_MAX_STAGES = 8 };

typedef struct fl_pretok {
    fl_stage stages[FL_MAX_STAGES];
    int n;
} fl_pretok;

void fl_pretok_deinit(fl_pretok *p);

/* Receives the words in order; a result other than FL_OK ends the run with it. */
typedef int (*fl_word_fn)(void *ctx, const char *word, size_t n, fl_err *err);

/* s[0..n): valid UTF-8, not empty; at_start: it starts the whole text.  Regular expressions
 * have 1000 steps a byte (FL_E_LIMIT). */
int fl_pretok_run(const fl_pretok *p, const char *s, size_t n, bool at_start, fl_word_fn word,
                  void *ctx, fl_err *err);

#endif
