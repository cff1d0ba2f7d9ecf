/* normalizer.h - what happens to text before it is cut into words: the steps Prepend and Replace
 * of tokenizer.json's normalizer. */
#ifndef FL_TEXT_NORMALIZER_H
#define FL_TEXT_NORMALIZER_H

#include "text/added.h"
#include "text/regex.h"
#include "util/bytes.h"
#include "util/err.h"

typedef struct fl_normal_step {
    fl_regex
        *regex; /* each match becomes text; NULL: text is put before what is not empty; owned */
    char byte;  /* not 0: the regex is this ASCII character, which is found faster */
    const char *text;
    size_t n;
} fl_normal_step;

enum { FL_MAX_NORMAL_STEPS = 8 };

typedef struct fl_normalizer {
    fl_normal_step steps[FL_MAX_NORMAL_STEPS];
    int n;
} fl_normalizer;

void fl_normalizer_deinit(fl_normalizer *z);

/* Text with what is known of its bytes; zero-initialise, free with fl_normal_text_free. */
typedef struct fl_normal_text {
    fl_bytes s;
    fl_bytes trusted; /* one bit a byte, when the input has bits: a byte that replaces others is
                         trusted when all of them are, one that was prepended is not */
    fl_bytes origin;  /* uint32_t a byte, when asked for: where in the input it comes from */
} fl_normal_text;

void fl_normal_text_free(fl_normal_text *t);

/* *out: empty.  FL_E_LIMIT: a pattern took more than 1000 steps a byte. */
int fl_normalize(const fl_normalizer *z, const fl_text *text, bool origins, fl_normal_text *out,
                 fl_err *err);

#endif
