/* openai_request.h - the body of an OpenAI request -> what the engine is to do.
 *
 * Names, types and ranges are those of engine/params.h; here is only what OpenAI's API calls
 * differently.  Members nobody knows are ignored, what is known and not offered is refused by name. */
#ifndef FL_SERVE_OPENAI_REQUEST_H
#define FL_SERVE_OPENAI_REQUEST_H

#include "engine/engine.h"
#include "engine/prompt.h"
#include "formats/hf_config.h"

enum { FL_MAX_PROMPTS = 256 }; /* of one body */

typedef enum { FL_OPENAI_COMPLETION, FL_OPENAI_CHAT } fl_openai_kind;

typedef struct fl_openai_request { /* values live in the arena of the body */
    fl_openai_kind kind;
    fl_jv_member *members; /* [n_members], room for one more: those of fl_params and the prompt */
    uint32_t n_members;
    const fl_jv *prompts; /* completion: [n_prompts]; chat: NULL */
    uint32_t n_prompts;   /* >= 1 */
    int64_t completions;  /* of all prompts, if its n can be served at all */
    const char *model;    /* NULL: not said */
    fl_text policy;       /* {NULL, 0}: none */
    fl_text request_id;   /* likewise */
    bool stream, include_usage, continuous_usage_stats;
    bool return_token_ids, return_tokens_as_token_ids;
} fl_openai_request;

/* defaults (may be NULL): the model's own sampling parameters, for what the body leaves out.
 * FL_E_ARG; *field is then the member at fault, or NULL. */
int fl_openai_read(fl_openai_request *out, fl_openai_kind kind, const fl_jv *body,
                   const fl_generation_config *defaults, fl_arena *arena, const char **field,
                   fl_err *err);

/* Whether a body may have the member: others are nobody's, and a body that a program wrote itself
 * should have none. */
bool fl_openai_knows(fl_openai_kind kind, const char *name);

/* Prompt i as a submission; params is the caller's storage, the arena in s the caller's until
 * it is submitted.  Parameters are read with prompt 0 only: the others are `like` its request.
 * Errors as above. */
int fl_openai_prompt(fl_submission *s, fl_params *params, const fl_openai_request *r, uint32_t i,
                     const fl_prompter *p, const char **field, fl_err *err);

/* Which member of the body a message is about, as its first word tells; else the prompt's. */
const char *fl_openai_param(const fl_openai_request *r, const fl_err *err);

#endif
