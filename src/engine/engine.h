/* engine.h - many requests, one batch: a thread that schedules, steps, samples and emits.
 *
 * All functions may be called from any thread; none blocks but fl_request_wait,
 * fl_engine_next_parked and fl_engine_close.  The thread starts with the first request and
 * sleeps when idle; a policy that is alone makes the steps that follow its answers itself.  In a
 * child after a fork there is no such thread: fl_engine_check_owner says so, and only unref and
 * close may be called. */
#ifndef FL_ENGINE_ENGINE_H
#define FL_ENGINE_ENGINE_H

#include "engine/params.h"
#include "engine/stats.h"
#include "model/kv.h"
#include "model/model.h"
#include "text/tokenizer.h"

typedef struct fl_engine fl_engine;
typedef struct fl_request fl_request;

typedef struct fl_engine_options {  /* 0: the default */
    int64_t max_running;            /* completions that hold KV pages; 256              */
    int64_t max_queued;             /* completions of requests not begun; 1024          */
    int64_t max_step_tokens;        /* rows of a step; the model's max_step_rows        */
    int64_t max_unread;             /* unread tokens before it pauses, without policy; 4096 */
    int64_t policy_timeout_ms;      /* silence of a policy that ends its request; 30000 */
    int64_t page_timeout_ms;        /* wait for KV pages that sequences hold; 10000     */
    int64_t max_policy_rows;        /* whole rows of logits lent to policies; 64        */
    int64_t num_speculative_tokens; /* guesses a step, for requests that do not say; 0 */
    int64_t prompt_lookup_min, prompt_lookup_max; /* see fl_ngram; 2 and 4 */
    bool priority_between_keys; /* else a request's priority counts within its key only */
} fl_engine_options;

/* tokenizer may be NULL: ids only, no text, no stop texts.  Both are counted.  Engines of one model
 * and sequences share its KV pages.  A request that lacks pages waits; what is given back goes to the
 * engine that has waited longest, for which requests that nobody reads leave.  One that waits for
 * sequences fails after page_timeout_ms with FL_E_LIMIT and a message that says who has the pages. */
int fl_engine_new(fl_engine **out, fl_model *m, fl_tokenizer *t, const fl_engine_options *o,
                  fl_err *err);
fl_engine *fl_engine_ref(fl_engine *e);
void fl_engine_unref(fl_engine *e); /* requests count one each; close comes before the last */
/* No further submits; drain: finish what there is, else cancel it.  Joins the thread.
 * Idempotent; requests stay readable. */
void fl_engine_close(fl_engine *e, bool drain);
/* After close, when no call on the engine runs: the model goes back at once, though requests live. */
void fl_engine_leave(fl_engine *e);
int fl_engine_check_owner(const fl_engine *e, fl_err *err); /* FL_E_DEVICE: see above */
/* FL_E_DEVICE once a step has found the device broken: all requests have failed with that, and no
 * further one is taken. */
int fl_engine_check_device(fl_engine *e, fl_err *err);
int fl_engine_fd(const fl_engine *e); /* an eventfd: readable when any request has news */
void fl_engine_clear_fd(fl_engine *e);
/* A server brings requests from now on: news also goes to its eventfd, and
 * fl_engine_next_parked waits when there is no request.  fd -1: it has gone. */
void fl_engine_attach(fl_engine *e, int fd);

typedef struct fl_submission {
    const fl_params *params; /* copied; its lists are in the arena */
    const int32_t *ids;      /* [n_ids] prompt, in the arena */
    size_t n_ids;
    fl_arena arena; /* moved into the request */
    /* NULL, or a request with the same parameters but its prompt: its lists are shared and params
     * is not looked at */
    fl_request *like;
    fl_text key; /* between whom the engine's time is divided; {NULL, 0}: nobody's */
} fl_submission;

enum {
    FL_MAX_COMPLETIONS = 1024,        /* of one body: its prompts times n */
    FL_MAX_REQUEST_BYTES = 256 << 20, /* of log-probabilities and echoes, for one body */
    FL_MAX_PLANNED_BYTES = 1024 << 20 /* ... and for all requests of an engine */
};

/* One reference for the caller.  FL_E_ARG: empty prompt, ids outside the vocabulary, stop
 * texts without a tokenizer; FL_E_BUSY: the queue is full and the key has its part of it, or all
 * rows of logits are lent, or other requests' log-probabilities take all the memory they may;
 * FL_E_LIMIT: the prompt fills the context or the whole KV pool, or the product of n, tokens and
 * log-probabilities is too large; FL_E_DEVICE: see fl_engine_check_device.  The arena is the
 * engine's from the call on, also on failure. */
int fl_engine_submit(fl_engine *e, fl_request **out, fl_submission *s, fl_err *err);
fl_request *fl_request_ref(fl_request *r);
void fl_request_unref(fl_request *r);              /* a request nobody holds is cancelled */
fl_engine *fl_request_engine(const fl_request *r); /* borrowed */
uint64_t fl_request_arrival(const fl_request *r);  /* its number in the order of submission */
void fl_request_cancel(fl_request *r);

typedef enum {
    FL_FINISH_NONE,
    FL_FINISH_STOP,
    FL_FINISH_LENGTH,
    FL_FINISH_CANCELLED,
    FL_FINISH_TIMEOUT,
    FL_FINISH_ERROR
} fl_finish;
const char *fl_finish_name(fl_finish f); /* "stop", "length", "cancelled", ... */

/* What is new in one completion since it was last read.  Zero-initialise before the first
 * use, reuse, free with fl_update_free. */
typedef struct fl_update {
    int64_t index;  /* which completion */
    int32_t *ids;   /* [n] */
    float *logprob; /* [n], when asked for */
    fl_top *top;    /* [n * n_top] */
    int64_t n, n_top, cap, cap_top;
    fl_bytes text;
    fl_finish finish;  /* FL_FINISH_NONE: more to come */
    int32_t stop_id;   /* the id that ended it, or -1 */
    fl_text stop_text; /* the text that ended it; valid while the request lives */
} fl_update;
void fl_update_free(fl_update *u);

typedef enum { FL_READ_NONE, FL_READ_UPDATE, FL_READ_DONE } fl_read_result;
/* Everything of completion `index` so far, read or not.  FL_E_ARG: no such completion. */
int fl_request_result(fl_request *r, int64_t index, fl_update *u, fl_err *err);
/* NONE: nothing new yet; DONE: every completion's end has been read. */
int fl_request_read(fl_request *r, fl_update *u, fl_read_result *result, fl_err *err);
/* Until there is something to read, or ms passed (< 0: for ever). */
bool fl_request_wait(fl_request *r, int64_t ms);
void fl_request_wait_end(fl_request *r); /* until every completion has ended; counts as reading */
void fl_request_collect(
    fl_request *r); /* nobody reads before the end: it never waits for a reader */
/* From now on news of r also set that notice (util/notice.h), which whoever reads clears before; it is
 * set now.  -1: none, after which the fd may be closed. */
void fl_request_watch(fl_request *r, int fd);
bool fl_request_ended(fl_request *r); /* every completion has */

typedef struct fl_usage {
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    double queue_s, first_token_s, total_s; /* since submit; 0: not yet */
} fl_usage;
void fl_request_usage(fl_request *r, fl_usage *out);
const fl_params *fl_request_params(const fl_request *r);
int64_t fl_request_planned(const fl_request *r); /* bytes, see FL_MAX_REQUEST_BYTES */
const int32_t *fl_request_prompt(const fl_request *r, int64_t *n); /* ids, while r lives */
const fl_err *fl_request_error(const fl_request *r);               /* after FL_FINISH_ERROR */
/* Prompt log-probabilities, complete once a completion has its first token; entry 0 is 0. */
const float *fl_request_prompt_logprobs(fl_request *r, const fl_top **top, int64_t *n);

/* ---- policies: a parked completion waits for somebody to choose its next token ---- */

/* A row of logits lent to a policy.  Counted: it stays readable after the answer, and the
 * completion is given another one; FL_E_BUSY ends it when there are too many. */
typedef struct fl_row fl_row;
fl_row *fl_row_ref(fl_row *r);
void fl_row_unref(fl_row *r);
float *fl_row_logits(fl_row *r);

typedef struct fl_parked {
    fl_request *request; /* counted, until fl_parked_release */
    int64_t index;
    uint64_t ticket; /* names this one parking: answers with an old one are refused */
    int32_t vocab;
    fl_top_list candidates; /* descending, valid until the answer; none with policy_logits */
    fl_row *row; /* with policy_logits: yours to change until answer or release, not counted */
} fl_parked;
/* Waits for a parked completion that has not been handed out yet, of `only` or (NULL) of
 * all; false when there can be none any more: that request, or all, have ended and no server
 * is attached.  When the engine has nothing else to do, the step after an answer is made here:
 * waking another thread for each token would cost more than most policies.  It is made by the
 * engine's thread if nobody comes here within 20 ms. */
bool fl_engine_next_parked(fl_engine *e, fl_request *only, fl_parked *out);
/* Valid until the answer. */
void fl_parked_history(const fl_parked *p, fl_history *out);

typedef struct fl_pick { /* a token that was chosen */
    int32_t id;
    float logprob; /* when the request has logprobs */
    fl_top *top;   /* [params.logprobs] */
} fl_pick;
typedef struct fl_parked_choice {
    int32_t id;          /* < 0: the request's sampler chooses */
    const float *logits; /* not NULL: among the candidates, with these instead of theirs */
} fl_parked_choice;
/* Without candidates the sampler works on the row as it is now; with them on what the whole
 * row was, or on a->logits.  chosen->top is not filled.  FL_E_ARG: id outside the vocabulary;
 * FL_E_CANCELLED: the completion has ended. */
int fl_parked_answer(const fl_parked *p, const fl_parked_choice *a, fl_pick *chosen, fl_err *err);
int fl_parked_stop(const fl_parked *p, fl_finish why, fl_err *err);
void fl_parked_release(fl_parked *p); /* its end, answered or not; twice is fine */

/* Tokens that one completion can have, prompt included: context and pool bound it.  For ever the same. */
int64_t fl_engine_capacity(const fl_engine *e);
void fl_engine_stats_get(fl_engine *e, fl_engine_stats *out);

#endif
