/* prompt.h - what a request says as prompt -> token ids. */
#ifndef FL_ENGINE_PROMPT_H
#define FL_ENGINE_PROMPT_H

#include "text/chat.h"

/* The text side of a model; both may be NULL.  One thread at a time. */
typedef struct fl_prompter {
    const fl_tokenizer *tokenizer;
    fl_tokenizer_ctx *ctx;
    const fl_template *chat;            /* for messages */
    const fl_template *chat_with_tools; /* NULL: the same */
    int64_t context;         /* 0, or FL_E_LIMIT for texts that leave none of so many tokens free */
    const atomic_bool *stop; /* NULL, or FL_E_CANCELLED soon after it has become true */
} fl_prompter;

/* Members of a request that are about its prompt, NULL-terminated. */
extern const char *const fl_prompt_members[];

/* Exactly one of: ids (list), prompt (text, or list of ids), messages (list; with tools,
 * documents, add_generation_prompt = true, continue_final_message, chat_template_kwargs).
 * add_special_tokens (true) and parse_special (false: a special token in the text is text) are for
 * texts.  ids are put into the arena.  FL_E_ARG names the
 * member. */
int fl_prompt_encode(const fl_prompter *p, const fl_jv *request, fl_arena *arena,
                     const int32_t **ids, size_t *n, fl_err *err);

#endif
