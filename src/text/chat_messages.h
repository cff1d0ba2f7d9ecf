/* chat_messages.h - what a server does with the messages of a chat around its template. */
#ifndef FL_TEXT_CHAT_MESSAGES_H
#define FL_TEXT_CHAT_MESSAGES_H

#include "text/json_value.h"
#include "text/template.h"

/* Messages (an array of objects) as templates expect them:
 *  - tool_calls[].function.arguments that is JSON text becomes the value it stands for,
 *  - a message without `content` gets content null,
 *  - content that is a list of text parts becomes one string, the parts joined by line
 *    ends, when the template does not go through lists itself.
 * Unchanged parts are shared with `messages`.  FL_E_ARG names the message at fault. */
int fl_chat_prepare(fl_jv *out, const fl_jv *messages, const fl_template *t, fl_arena *arena,
                    fl_err *err);

/* For continue_final_message: cut the rendered text behind the content of the last message,
 * so that the model goes on writing it.  FL_E_ARG when the text does not contain it. */
int fl_chat_cut_after_final(fl_bytes *text, const fl_jv *messages, fl_err *err);

#endif
