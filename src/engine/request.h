/* request.h - one request: its prompt, its completions, and what a reader has seen.
 *
 * The engine thread writes, readers on any thread read; the engine's lock covers both.
 * Outputs accumulate here and each reader call takes what is new: nothing is ever lost,
 * and memory is bounded by the context.  Private to src/engine. */
#ifndef FL_ENGINE_REQUEST_H
#define FL_ENGINE_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "model/sequence.h"
#include "text/detok.h"

typedef struct fl_choice { /* one completion; the scheduler's unit */
    fl_request *request;
    int64_t index;
    int64_t place;    /* among those of its key: see share.h */
    fl_sequence *seq; /* NULL: waiting, holds no pages */
    fl_sampler *sampler;
    fl_detok detok;
    int32_t *output; /* [n_output] */
    float *logprob;  /* [n_output], with logprobs */
    fl_top *top;     /* [n_output * logprobs] */
    int64_t n_output, cap;
    fl_bytes text;       /* whole characters, stop texts cut off; with echo the prompt's first */
    size_t text_start;   /* where the output's begins */
    size_t released;     /* bytes of text a reader may have: the rest may become a stop text */
    int64_t seen_tokens; /* with echo those of the prompt count */
    size_t seen_bytes;
    fl_finish finish;
    int32_t stop_id;          /* FL_FINISH_STOP by an id, else -1 */
    const fl_text *stop_text; /* FL_FINISH_STOP by a text, else NULL */
    bool finish_seen;
    /* Of the step that runs, of whoever makes it: guesses stand behind the output, picks
     * are what was chosen at their places and, when all were right, after them. */
    int64_t n_guesses, n_picks;
    fl_pick *pick; /* [1 + params.num_speculative_tokens] */
    fl_top *pick_top;
    bool parked;     /* waits for a policy, which may change `row` until it answers */
    bool handed;     /* ... and one has it */
    uint64_t ticket; /* counts the times it was parked: a stale answer is refused */
    fl_row *row;     /* with policy_logits, or log-probabilities */
    fl_top_list candidate;
    double parked_at, last_token_at;
    double lacking_since; /* pages, as the first of its engine that does; 0: no */
    fl_err error;         /* of a row that gave no pick */
} fl_choice;

struct fl_request {
    atomic_int refs;
    int handles; /* of users; at 0 the request is cancelled; under the lock */
    atomic_bool cancelled;
    fl_engine *engine;      /* counted; NULL until the request is complete */
    fl_arena arena;         /* holds params' lists and the prompt */
    fl_request *like;       /* NULL, or who has params' lists: counted */
    struct fl_share *share; /* of its key, while the engine has it */
    int64_t planned;        /* bytes */
    fl_params params;
    const int32_t *prompt;
    int64_t n_prompt;
    fl_id_list *bad; /* [n_bad] token sequences of bad_words, each of >= 1 id */
    size_t n_bad;
    int64_t max_output; /* max_tokens, or what the context leaves */
    fl_choice *choice;  /* [params.n] */
    int64_t n_done;
    int64_t n_active; /* completions among the engine's active ones */
    int watch;        /* an eventfd for its news, or -1 */
    bool wants_all;   /* a reader waits for the end: never ahead of it */
    bool begun;       /* has had rows: no longer counts as queued */
    uint64_t arrival;
    double submitted_at, begun_at, first_token_at, last_token_at, deadline; /* seconds; 0: none */
    fl_err error;                                                           /* FL_FINISH_ERROR */
    float *prompt_logprob; /* [n_prompt], with prompt_logprobs */
    fl_top *prompt_top;    /* [n_prompt * prompt_logprobs] */
    int64_t n_prompt_scored;
    int64_t n_pages_scored; /* pages of the prompt whose scores the cache has been offered */
    int64_t cached_tokens;
    pthread_cond_t news, ended; /* whoever waits for the end is not woken by each token */
    fl_request *next;           /* in the queue */
};

/* Takes over the arena (also on failure).  One reference. */
int fl_request_new(fl_request **out, fl_engine *e, const fl_submission *s, fl_err *err);

void fl_request_drop(fl_request *r); /* one of refs */

/* With the engine's lock held. */
bool fl_request_has_news(const fl_request *r);
int fl_choice_take(fl_choice *c, fl_update *u, fl_err *err); /* what is new in one completion */
int fl_request_take(fl_request *r, fl_update *u, fl_read_result *result, fl_err *err);

/* Append a token to a completion: text, stop texts and ids, lengths.  Sets finish when that
 * ends it. */
int fl_choice_append(fl_choice *c, const fl_pick *pick, fl_err *err);
int64_t fl_choice_unread(const fl_choice *c);          /* tokens that a reader could have */
void fl_choice_finish(fl_choice *c, fl_finish why);    /* idempotent: the first reason stays */
bool fl_choice_room(fl_choice *c, int64_t n);          /* for n more tokens; false: no memory */
bool fl_choice_is_end(const fl_choice *c, int32_t id); /* ends the text unless ignore_eos */

#endif
