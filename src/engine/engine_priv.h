/* engine_priv.h - the inside of fl_engine, for src/engine only. */
#ifndef FL_ENGINE_ENGINE_PRIV_H
#define FL_ENGINE_ENGINE_PRIV_H

#include <sys/types.h>

#include "engine/ngram.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/share.h"
#include "model/holders.h"
#include "model/kv.h"
#include "model/step.h"

typedef struct fl_sampling { /* where a thread samples */
    fl_sampler_work *work;
    float *row; /* [V] a row with banned ids */
} fl_sampling;

struct fl_engine {
    atomic_int refs;
    fl_model *model;         /* NULL after fl_engine_leave */
    int32_t vocab;           /* the model's */
    fl_tokenizer *tokenizer; /* NULL: ids only */
    fl_engine_options options;
    int32_t eos[FL_MAX_EOS + 1]; /* ids that end a text: the model's and the tokenizer's */
    int n_eos;
    int64_t capacity; /* tokens one completion can have: context and pool bound it */
    pid_t owner;
    int fd, attached;     /* attached: the eventfd of a server, or -1; under the lock */
    atomic_llong n_rows;  /* lent to policies */
    atomic_llong planned; /* bytes, see fl_request_planned */

    /* The lock covers what follows up to `thread`, and the outputs of all requests. */
    pthread_mutex_t lock;
    pthread_cond_t work;   /* for the thread: fl_engine_call */
    pthread_cond_t parked; /* for policies: a completion parked, or a request ended */
    fl_request *queue, **queue_end;
    int64_t n_queued; /* completions */
    fl_share *shares;
    int64_t n_shares;
    uint64_t n_submitted;
    bool started, closing, draining;
    fl_err failure;     /* of the device: code 0 while it works; then nothing is taken any more */
    fl_choice **active; /* [n_active] admitted to scheduling, in its order */
    int64_t n_active, cap_active;
    fl_engine_stats stats;
    fl_sampler_work *answering; /* of policies' answers */
    bool called;                /* the thread has something to look at: fl_engine_call */
    bool driven;                /* somebody makes a turn, with the lock released in its step */
    bool owed;                  /* a turn, to whoever answered: the thread was not called */
    bool asleep, dozing;        /* the thread; dozing: it looks soon whether a turn is owed */
    double answered_at;         /* the last answer of a policy */
    bool has_parked;            /* a completion, and `parked` has not been told */
    bool fd_set;                /* readable: nobody has cleared it since */
    pthread_t thread;

    /* Of whoever makes the turn. */
    fl_sched_item *items;   /* [cap_active] */
    fl_choice **scheduled;  /* [cap_active] whom items[i] is about */
    fl_step_entry *entries; /* [cap_active] */
    atomic_bool wanted;     /* pages of the engine, by another one: see fl_holder */
    fl_holder holder;       /* the engine, among those that have pages of the model */
    int64_t n_drawn;        /* by the device, of the step that runs */
    fl_step_draw *draws;    /* [cap_active], where the device can draw; as edits */
    fl_sample_edit *edits;  /* [FL_STEP_EDITS] of the draws of a step */
    fl_sampling *sampling;  /* [n_sampling] of each thread that rows of a step may come to */
    int n_sampling;
};

void fl_engine_notify(fl_engine *e, fl_request *r); /* news for its readers; lock held */

/* engine_sample.c: the logits after row i of an entry; ctx is its fl_choice. */
void fl_engine_on_row(void *choice, int member, int64_t i, const float *logits);
/* For each id that may not come after n_output tokens; false as soon as fn says so. */
typedef bool (*fl_ban_fn)(void *ctx, int32_t id);
bool fl_choice_banned(const fl_choice *c, int64_t n_output, fl_ban_fn fn, void *ctx);

/* engine_pages.c, of whoever makes the turn.  Pages that a step may take: not those that others wait
 * for and have waited longer. */
int64_t fl_engine_free_pages(fl_engine *e, const fl_step_pool *pool);
/* After fl_schedule: the first completion that lacks pages claims them, or has waited too long. */
void fl_engine_claim_pages(fl_engine *e, int64_t n_items, const fl_sched_limits *limits);
/* Nobody else has pages, and there are none for one more token of c. */
bool fl_engine_has_all(fl_engine *e, const fl_choice *c);
bool fl_engine_must_yield(fl_engine *e); /* somebody else has waited longer for pages */

/* engine_draw.c: the n entries whose token the device can draw are told how. */
void fl_engine_plan_draws(fl_engine *e, int64_t n);
void fl_engine_on_sampled(void *choice, const fl_sampled *token);

/* With the lock held: the token that was picked joins its completion. */
int fl_choice_commit(fl_choice *c, fl_err *err);
void *fl_engine_thread(void *engine);
void fl_engine_pages_wanted(void *engine);
void fl_engine_call(fl_engine *e);     /* wake the thread; lock held */
void fl_engine_answered(fl_engine *e); /* a policy has: the turn is owed, or the thread called */
/* With the lock held, which its step releases: the turn that an answer is owed, made by the
 * caller's thread while the engine's sleeps.  false: none is owed, or the engine's thread makes it. */
bool fl_engine_drive(fl_engine *e);
/* n more tokens of c, at `now`. */
void fl_engine_count_tokens(fl_engine *e, fl_choice *c, int64_t n, double now);

typedef struct fl_scored_row {
    const float *logits;
    int32_t n;
    double lse; /* fl_logsumexp */
} fl_scored_row;
/* The k likeliest of a row with their log-probabilities; id -1 beyond its end. */
void fl_engine_fill_top(fl_sampler_work *work, const fl_scored_row *row, fl_top *out, int64_t k);

/* engine_policy.c: with the lock held but where a line says otherwise. */
int fl_policy_init(fl_choice *c, fl_engine *e, fl_err *err); /* not held: before the submission */
void fl_policy_deinit(fl_choice *c);                         /* not held: after the end */
int fl_policy_prepare(fl_choice *c, fl_err *err);            /* before a step: room for its row */
void fl_policy_end(fl_choice *c);                            /* the completion has ended */
/* The row, if the policy will need it (banned ids at -inf; raw is without).  Not held. */
void fl_policy_keep(fl_choice *c, const float *row, const float *raw);
void fl_policy_park(fl_choice *c);

#endif
