#include "engine/score.h"

#include "engine/sampler.h"

typedef struct score_job {
    const int32_t *ids;
    int32_t vocab;
    float *logprob;
    bool *greedy;
} score_job;

static void score_row(void *ctx, int64_t i, const float *logits) {
    const score_job *j = ctx;
    const float logit = logits[j->ids[i]];
    j->logprob[i] = fl_logprob(logit, fl_logsumexp(logits, j->vocab));
    if (j->greedy) j->greedy[i] = logit == logits[fl_argmax(logits, j->vocab)];
}

int fl_score(fl_sequence *s, const int32_t *ids, int64_t n, float *logprob, bool *greedy,
             fl_err *err) {
    const fl_model *m = fl_sequence_model(s);
    if (!m) return fl_fail(err, FL_E_ARG, "sequence is closed");
    const fl_config *config = fl_model_config(m);
    score_job j = {ids, (int32_t)config->vocab_size, logprob, greedy};
    if (n > 0) {
        logprob[0] = 0.0f;
        if (greedy) greedy[0] = false;
    }
    return fl_sequence_feed_rows(s, ids, n, score_row, &j, err);
}
