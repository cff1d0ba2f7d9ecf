/* detok.h - token ids one at a time -> whole UTF-8 pieces.
 *
 * Emits every byte as soon as it completes a character; holds back at most 3 bytes.
 * The pieces concatenated with the tail equal fl_tokenizer_decode of all ids. */
#ifndef FL_TEXT_DETOK_H
#define FL_TEXT_DETOK_H

#include "text/tokenizer.h"

typedef struct fl_detok {
    const fl_tokenizer *tokenizer; /* not owned */
    bool skip_special;
    bool started;    /* something was pushed: no leading-blank rule any more */
    uint8_t held[4]; /* an incomplete character */
    uint8_t n_held;
} fl_detok;

void fl_detok_init(fl_detok *d, const fl_tokenizer *t, bool skip_special);
/* Appends complete characters to *out (maybe none); a row of the model without a token has none.
 * FL_E_ARG: id outside fl_tokenizer_rows. */
int fl_detok_push(fl_detok *d, int32_t id, fl_bytes *out, fl_err *err);
void fl_detok_finish(fl_detok *d, fl_bytes *out); /* U+FFFD for a held incomplete character */

#endif
