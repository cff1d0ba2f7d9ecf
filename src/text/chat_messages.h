/* chat_messages.h - what a server does with the messages of a chat around its template. */
#ifndef FL_TEXT_CHAT_MESSAGES_H
#define FL_TEXT_CHAT_MESSAGES_H

#include "text/json_value.h"
#include "text/template.h"

/* Messages (an array of objects) as clients of OpenAI's API send them -> as templates expect
 * them, the way vLLM prepares them:
 *  - members that are null count as absent, and so does an empty tool_calls;
 *  - absent content, and null in a message of an assistant or function, becomes empty; null
 *    from any other role is refused;
 *  - a list of text parts becomes one string, the parts joined by line ends, unless the
 *    template goes through lists itself; a text becomes a list of one part for a template that
 *    takes nothing else; in a message of a tool it is a string always;
 *  - tool_calls[].function.arguments that is JSON text becomes the value it stands for, and
 *    what is no JSON, null or absent an empty object;
 *  - reasoning or thinking is there as reasoning_content too.
 * Unchanged parts are shared with `messages`.  FL_E_ARG names the message at fault. */
int fl_chat_prepare(fl_jv *out, const fl_jv *messages, const fl_template *t, fl_arena *arena,
                    fl_err *err);

/* For continue_final_message: the text of the last message gets a mark at its end before it is
 * rendered, and the rendered text ends where the mark stands, so that the model goes on writing
 * there.  As in transformers, white space in front of a mark that the template has trimmed is
 * cut too.  `messages` are prepared ones; the mark goes into a copy.  FL_E_ARG when there is no
 * text to mark, and when the template does not write it as it is. */
int fl_chat_mark_final(fl_jv *messages, fl_arena *arena, fl_err *err);
int fl_chat_cut_at_mark(fl_bytes *text, const fl_jv *messages, fl_err *err);

#endif
