/* stats.h - what an engine counts.  Names follow vLLM's metrics where it has them. */
#ifndef FL_ENGINE_STATS_H
#define FL_ENGINE_STATS_H

#include <stdint.h>

enum { FL_HISTOGRAM_BOUNDS = 18 };

typedef struct fl_histogram {                 /* of seconds */
    uint64_t bucket[FL_HISTOGRAM_BOUNDS + 1]; /* not cumulative; the last is beyond all bounds */
    uint64_t count;
    double sum;
} fl_histogram;

/* Upper bound of bucket i, inclusive: 1, 2.5, 5 times powers of ten, from 1 ms to 500 s. */
double fl_histogram_bound(int i);
void fl_histogram_add(fl_histogram *h, double seconds, uint64_t times);

typedef struct fl_engine_stats {
    /* now */
    int64_t running, queued, parked; /* completions with pages; requests; completions */
    int64_t kv_pages, kv_pages_used; /* of the model's pool; used by a sequence        */
    /* since the engine was made */
    uint64_t requests, finished; /* submitted; ended for whatever reason           */
    uint64_t steps, preemptions;
    uint64_t prompt_tokens; /* computed, again after a preemption             */
    uint64_t cached_tokens; /* found in the prefix cache instead              */
    uint64_t output_tokens;
    uint64_t device_tokens; /* of these, drawn on the device: their logits were not read */
    uint64_t prefix_queries, prefix_hits;   /* pages looked for in the model's cache, found */
    uint64_t draft_tokens, accepted_tokens; /* guesses checked, and right                */
    double thread_s;             /* processor time of the engine's thread, model included         */
    double schedule_s, sample_s; /* of step_s: before and after the model; choosing */
    fl_histogram step_s;         /* a whole step                                   */
    fl_histogram queue_s;        /* submission to first row                        */
    fl_histogram first_token_s;  /* submission to first token of a request          */
    fl_histogram inter_token_s;  /* a token of a completion to its next             */
    fl_histogram total_s;        /* submission to the end of a request              */
    fl_histogram policy_s;       /* parked to answered                             */
} fl_engine_stats;

#endif
