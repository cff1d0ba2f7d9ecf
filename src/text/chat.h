/* chat.h - a conversation -> the prompt's token ids: template, then tokenizer, with
 * special tokens recognised only where the template (not a message) wrote them. */
#ifndef FL_TEXT_CHAT_H
#define FL_TEXT_CHAT_H

#include "text/template.h"
#include "text/tokenizer.h"

/* values: object with messages, add_generation_prompt, tools, ...; the tokenizer's named
 * special tokens (bos_token, ...) are added as trusted variables.  now: for strftime_now,
 * 0 = the clock.  Appends to *out; no post-processor runs, the template writes BOS. */
int fl_chat_encode(const fl_tokenizer *t, fl_tokenizer_ctx *ctx, const fl_template *tmpl,
                   const fl_jv *values, time_t now, fl_ids *out, fl_err *err);

/* The same text without encoding it. */
int fl_chat_render(const fl_tokenizer *t, const fl_template *tmpl, const fl_jv *values, time_t now,
                   fl_bytes *text, fl_bytes *trusted_bits, fl_err *err);

#endif
