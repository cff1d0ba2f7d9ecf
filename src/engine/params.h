/* params.h - what a request may ask for: one table of fields gives names, types, ranges,
 * defaults, documentation and error messages.
 *
 * Values arrive as JSON values (a Lua table or an HTTP body); names and meaning are those
 * of the OpenAI API and of vLLM. */
#ifndef FL_ENGINE_PARAMS_H
#define FL_ENGINE_PARAMS_H

#include "engine/sampler.h"
#include "text/json_value.h"

enum {
    FL_MAX_STOPS = 32,
    FL_MAX_STOP_BYTES = 1024,
    FL_MAX_N = 128,
    FL_MAX_LOGPROBS = 64,
    FL_MAX_GUESSES = 32,
    FL_MAX_CANDIDATES = 256
};

typedef struct fl_text { /* in the arena */
    const char *data;
    size_t len;
} fl_text;

typedef struct fl_text_list {
    const fl_text *items;
    size_t n;
} fl_text_list;

typedef struct fl_id_list {
    const int32_t *ids;
    size_t n;
} fl_id_list;

typedef struct fl_params {
    fl_sampler_params sampler; /* bias and allowed are in the arena              */
    int64_t n;                 /* completions of the one prompt                  */
    int64_t max_tokens;        /* -1: until the context is full                  */
    int64_t min_tokens;        /* end ids are banned before                      */
    fl_text_list stop, bad_words;
    fl_id_list stop_token_ids;
    bool include_stop, ignore_eos, skip_special_tokens;
    bool echo;                      /* the completion begins with the prompt     */
    int64_t logprobs;               /* alternatives per token; -1: none asked    */
    int64_t prompt_logprobs;        /* the same for the prompt                   */
    int64_t truncate_prompt_tokens; /* keep the last so many; 0: all             */
    int64_t timeout_ms;             /* 0: none                                   */
    int64_t priority;               /* lower runs first                          */
    fl_text cache_salt;
    bool policy, policy_logits; /* somebody else chooses the tokens; from whole rows */
    int64_t policy_candidates;
    fl_text policy_name;            /* not in the table: a server sets it; {NULL, 0}: none */
    int64_t num_speculative_tokens; /* -1: as the engine has it    */
    int64_t prompt_lookup_min, prompt_lookup_max; /* 0: as the engine has them   */
} fl_params;

/* Read the members of `object`; a member that is null counts as absent.  Members in
 * `others` (NULL-terminated) are somebody else's; any further one is FL_E_ARG when
 * `strict`, else ignored.  The arena keeps lists and texts.  FL_E_ARG
 * tells field, need and value; *field (may be NULL) is then the field's name. */
typedef struct fl_params_source {
    const fl_jv *object;
    const char *const *others;
    bool strict;
    bool lua; /* from a Lua table: a list as logit_bias has the ids 1, 2, ... as keys */
    fl_arena *arena;
    const char **field;
} fl_params_source;
int fl_params_read(fl_params *out, const fl_params_source *src, fl_err *err);

/* Field i of the table, NULL past the last. */
typedef struct fl_param_info {
    const char *name, *type, *doc;
    double min, max; /* of a number; of the items of a list; of the bytes of a text */
    bool has_default;
    double fallback; /* of a number or boolean */
} fl_param_info;
bool fl_params_field(int i, fl_param_info *out);

#endif
