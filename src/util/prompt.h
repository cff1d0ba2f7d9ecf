/* prompt.h - lines that a person types at a terminal.  For programs that are a command of ours.
 *
 * With libedit where it is installed: editing, and a history of what was remembered.  Without it the terminal's own
 * editing. */
#ifndef FL_UTIL_PROMPT_H
#define FL_UTIL_PROMPT_H

#include "util/bytes.h"

typedef enum {
    FL_PROMPT_LINE,       /* without its end                                              */
    FL_PROMPT_END,        /* end of input: Ctrl-D at the beginning of a line              */
    FL_PROMPT_INTERRUPTED /* SIGINT, while fl_interrupt_hold held it; it is pending no more */
} fl_prompt_result;

/* Shows text and appends what is typed to line.  One thread at a time. */
fl_prompt_result fl_prompt(const char *text, fl_bytes *line);

/* A line that the arrow keys find again; nothing without libedit. */
void fl_prompt_remember(const char *line);

#endif
