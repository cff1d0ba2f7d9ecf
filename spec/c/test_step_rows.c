/* How the rows of a step are handed out: an entry's in order, entries at the same time on the
 * threads of the model, the same logits whatever their number, and the time that takes. */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/step.h"
#include "tap.h"
#include "util/clock.h"

enum { VOCAB = 100, ENTRIES = 40, MOST = 3, ROWS = ENTRIES * MOST };

typedef struct place { /* what an entry got */
    float logits[MOST][VOCAB];
    int64_t first, n; /* rows so far */
    int member;
    bool in_order;
} place;

static void keep(void *ctx, int member, int64_t i, const float *logits) {
    place *p = ctx;
    p->in_order &= i == p->first + p->n;
    p->member = member;
    memcpy(p->logits[i], logits, sizeof(p->logits[i]));
    p->n++;
}

static fl_model *load(int threads) {
    static const char config[] =
        "{\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":48,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
        "\"vocab_size\":100,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
        "\"torch_dtype\":\"bfloat16\"}";
    fl_model_options o = {.context = 128,
                          .kv_tokens = ENTRIES * 32,
                          .max_step_rows = ROWS,
                          .load_format = FL_LOAD_DUMMY,
                          .config_json = config,
                          .threads = threads,
                          .no_prefix_cache = true};
    fl_model *m = NULL;
    fl_err err;
    if (!fl_model_load(&m, "dummy", &o, &err) && !fl_step_reserve_seqs(m, ENTRIES, &err)) return m;
    printf("Bail out! %s\n", err.msg);
    exit(2);
}

/* Entries have 1 to MOST tokens and want the rows from any of them on, or none. */
static int64_t tokens_of(int i) {
    return 1 + i % MOST;
}
static int64_t first_of(int i) {
    return (i / MOST) % (tokens_of(i) + 1);
}

static bool step(fl_model *m, const int *order, place *places) {
    static const int32_t ids[MOST] = {7, 31, 58};
    fl_step_entry e[ENTRIES];
    fl_err err;
    bool ok = true;
    for (int k = 0; k < ENTRIES; k++) {
        const int i = order[k];
        const int32_t begin = i;
        places[i] = (place){.first = first_of(i), .in_order = true};
        e[k] = (fl_step_entry){.ids = ids,
                               .n = tokens_of(i),
                               .first_row = first_of(i),
                               .on_row = keep,
                               .ctx = &places[i]};
        ok = ok && !fl_sequence_new(&e[k].seq, m, &err) &&
             !fl_sequence_feed(e[k].seq, &begin, 1, NULL, &err);
    }
    ok = ok && !fl_step(m, e, ENTRIES, NULL, &err);
    if (!ok) printf("# %s\n", err.msg);
    for (int k = 0; k < ENTRIES; k++) fl_sequence_unref(e[k].seq);
    return ok;
}

static void test_rows(void) {
    static place alone[ENTRIES], team[ENTRIES];
    int order[ENTRIES], back[ENTRIES];
    for (int i = 0; i < ENTRIES; i++) order[i] = back[ENTRIES - 1 - i] = i;
    fl_model *one = load(1), *three = load(3);
    check(fl_step_members(one) == 1 && fl_step_members(three) == 3, "as many members as threads");
    if (!check(step(one, order, alone), "a step on one thread")) return;
    for (int round = 0; round < 20; round++) {
        int lost = 0, disordered = 0, wrong = 0, members = 0;
        bool ok = step(three, round % 2 ? back : order, team);
        for (int i = 0; i < ENTRIES; i++) {
            lost += team[i].n != tokens_of(i) - first_of(i);
            disordered += !team[i].in_order;
            members |= team[i].member < 0 || team[i].member > 2;
            wrong += memcmp(team[i].logits, alone[i].logits, sizeof(team[i].logits)) != 0;
        }
        if (ok && !lost && !disordered && !members && !wrong) continue;
        check(false, "round %d: %d entries lack rows, %d out of order, %d wrong", round, lost,
              disordered, wrong);
    }
    check(true, "20 steps on three: every row once, an entry's in order, the same bits");
    fl_model_unref(one);
    fl_model_unref(three);
}

/* ---- at the same time ---- */

typedef struct meeting {
    bool met;
    double busy; /* seconds */
} meeting;

static atomic_int arrived;

/* Waits for the other entry's row, then both take 20 ms. */
static void meet(void *ctx, int member, int64_t i, const float *logits) {
    meeting *m = ctx;
    const double begin = fl_now();
    (void)member, (void)i, (void)logits;
    atomic_fetch_add(&arrived, 1);
    while (atomic_load(&arrived) < 2 && fl_now() < begin + 10) sched_yield();
    m->met = atomic_load(&arrived) == 2;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    m->busy = fl_now() - begin;
}

static void test_together(void) {
    fl_model *m = load(2);
    static const int32_t id = 5;
    meeting met[2];
    fl_step_entry e[2];
    fl_err err;
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        e[i] = (fl_step_entry){.ids = &id, .n = 1, .on_row = meet, .ctx = &met[i]};
        ok = ok && !fl_sequence_new(&e[i].seq, m, &err);
    }
    for (int round = 0; round < 2; round++) {
        double seconds = 0;
        const double begin = fl_now();
        atomic_store(&arrived, 0);
        met[0] = met[1] = (meeting){false, 0};
        ok = ok && !fl_step(m, e, 2, &seconds, &err);
        const double all = fl_now() - begin;
        check(ok && met[0].met && met[1].met, "rows of two entries at the same time");
        check(seconds >= 0.02 && seconds <= all && seconds < met[0].busy + met[1].busy,
              "%.1f ms with them, of the step's %.1f; %.1f and %.1f in each", 1e3 * seconds,
              1e3 * all, 1e3 * met[0].busy, 1e3 * met[1].busy);
    }
    for (int i = 0; i < 2; i++) fl_sequence_unref(e[i].seq);
    fl_model_unref(m);
}

int main(void) {
    test_rows();
    test_together();
    return tap_done();
}
