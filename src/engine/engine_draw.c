/* Which tokens of a step the device draws, and from what: the requests whose sampling is nothing
 * that src/backend/sample.h lacks. */
#include <math.h>

#include "engine/engine_priv.h"
#include "engine/sampler_stats.h"

/* The edits of one row, in the engine's array; work->count has places of ids, counted from 1. */
typedef struct edit_list {
    fl_sample_edit *edit;
    int32_t n, room, vocab, *place;
} edit_list;

/* The entry of an id; NULL: no room, or not in the vocabulary. */
static fl_sample_edit *edit_of(edit_list *l, int32_t id) {
    if (id < 0 || id >= l->vocab) return NULL;
    if (!l->place[id]) {
        if (l->n == l->room) return NULL;
        l->edit[l->n] = (fl_sample_edit){.id = id, .count = -1};
        l->place[id] = ++l->n;
    }
    return &l->edit[l->place[id] - 1];
}

static bool add_bias(edit_list *l, const fl_sampler_params *p) {
    for (size_t i = 0; i < p->n_bias; i++) {
        fl_sample_edit *e = edit_of(l, p->bias[i].id);
        if (!e || e->bias != 0.0f) return false; /* twice: one sum is not the other */
        e->bias = fmaxf(-FL_BIAS_LIMIT, fminf(FL_BIAS_LIMIT, p->bias[i].bias));
    }
    return true;
}

static bool add_penalties(edit_list *l, const fl_choice *c) {
    const fl_request *r = c->request;
    for (int64_t i = 0; i < r->n_prompt; i++) {
        fl_sample_edit *e = edit_of(l, r->prompt[i]);
        if (!e) return false;
        if (e->count < 0) e->count = 0;
    }
    for (int64_t i = 0; i < c->n_output; i++) {
        fl_sample_edit *e = edit_of(l, c->output[i]);
        if (!e) return false;
        e->count = e->count < 0 ? 1 : e->count + 1;
    }
    return true;
}

static bool add_ban(void *list, int32_t id) {
    fl_sample_edit *e = edit_of(list, id);
    if (e) e->bias = -INFINITY;
    return e != NULL;
}

static bool make_edits(edit_list *l, const fl_choice *c) {
    const fl_sampler_params *p = fl_sampler_settings(c->sampler);
    const bool penalties = p->repetition_penalty != 1.0f || p->frequency_penalty != 0.0f ||
                           p->presence_penalty != 0.0f;
    const bool fits = add_bias(l, p) && (!penalties || add_penalties(l, c)) &&
                      fl_choice_banned(c, c->n_output, add_ban, l);
    for (int32_t i = 0; i < l->n; i++) l->place[l->edit[i].id] = 0;
    return fits;
}

/* Whether the entry's one row makes c's next token, and nobody wants to see the row. */
static bool may_draw(const fl_step_entry *entry, const fl_choice *c) {
    const fl_request *r = c->request;
    const fl_params *p = &r->params;
    const int64_t end = fl_sequence_length(c->seq) + entry->n;
    const bool shared = p->n > 1 && c->index == 0 && !c->n_output; /* one row, many tokens */
    return entry->first_row == entry->n - 1 && end == r->n_prompt + c->n_output && !c->n_guesses &&
           r->max_output && !shared && !p->policy && p->logprobs <= 0;
}

void fl_engine_plan_draws(fl_engine *e, int64_t n) {
    const int32_t vocab = e->vocab;
    int32_t used = 0;
    if (!e->edits) return;
    for (int64_t i = 0; i < n; i++) {
        fl_step_entry *entry = &e->entries[i];
        fl_choice *c = entry->ctx;
        fl_step_draw *d = &e->draws[i];
        if (!may_draw(entry, c) || !fl_sampler_describe(c->sampler, vocab, &d->row)) continue;
        d->allowed = fl_sampler_allowed(c->sampler, &d->n_allowed);
        edit_list l = {e->edits + used, 0, FL_STEP_EDITS - used, vocab, e->sampling->work->count};
        if (!make_edits(&l, c)) continue;
        d->edits = l.edit;
        d->row.n_edits = l.n;
        d->row.draw = (uint64_t)c->n_output;
        d->row.logprob = c->request->params.logprobs >= 0;
        used += l.n;
        entry->draw = d;
        entry->on_sampled = fl_engine_on_sampled;
    }
}

void fl_engine_on_sampled(void *choice, const fl_sampled *token) {
    fl_choice *c = choice;
    c->pick[0].id = token->id;
    c->pick[0].logprob = token->logprob;
    c->n_picks = 1;
    c->request->engine->n_drawn++;
}
