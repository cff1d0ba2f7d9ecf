#include "engine/scheduler.h"
#include "tap.h"
#include "util/num.h"
#include "util/rng.h"

enum { P = 32 }; /* page_tokens */

static fl_sched_item waiting(int64_t pending) {
    return (fl_sched_item){.pending = pending};
}

static fl_sched_item running(int64_t length, int64_t pending) {
    return (fl_sched_item){
        .running = true, .length = length, .pending = pending, .pages = fl_div_up(length, P)};
}

static void test_cases(void) {
    const fl_sched_limits limits = {64, 8, 4, 100, P};
    fl_sched_item a[3] = {running(10, 1), running(20, 50), waiting(40)};
    fl_schedule(a, 3, &limits);
    check(a[0].rows == 1 && a[1].rows == 50 && a[2].rows == 13,
          "decode first, then the prompt under way, the rest of the rows to a new one");

    fl_sched_item b[2] = {waiting(100), waiting(10)};
    fl_schedule(b, 2, &limits);
    check(b[0].rows == 64 && b[1].rows == 0, "a long prompt is cut to the rows of a step");

    const fl_sched_limits full = {64, 8, 4, 0, P};
    fl_sched_item c[3] = {running(32, 1), running(32, 1), running(40, 1)};
    fl_schedule(c, 3, &full);
    check(c[0].rows == 1 && c[2].preempt && !c[2].rows, "a full pool takes from the last one");
    check(c[1].rows == 1, "and two pages serve two");

    fl_sched_item d[1] = {running(32, 1)};
    fl_schedule(d, 1, &full);
    check(!d[0].rows && !d[0].preempt, "a lone one without a page waits");

    const fl_sched_limits few = {64, 8, 2, 100, P};
    fl_sched_item e[3] = {running(5, 1), waiting(5), waiting(5)};
    fl_schedule(e, 3, &few);
    check(e[1].rows == 5 && e[2].rows == 0, "max_running holds");

    const fl_sched_limits tight = {64, 8, 4, 2, P};
    fl_sched_item f[3] = {running(5, 1), waiting(100), waiting(5)};
    fl_schedule(f, 3, &tight);
    check(!f[1].rows && !f[2].rows, "nobody overtakes a prompt that does not fit yet");

    fl_sched_item g[2] = {running(5, 1), running(5, 1)};
    g[0].parked = true;
    fl_schedule(g, 2, &limits);
    check(!g[0].rows && g[1].rows == 1, "a parked one gets no rows");
}

/* A branch far ahead of its reader must not keep the pages that others need. */
static void test_paused(void) {
    const fl_sched_limits full = {64, 8, 4, 0, P};
    fl_sched_item a[2] = {running(64, 1), running(32, 1)};
    a[0].parked = a[0].paused = true;
    fl_schedule(a, 2, &full);
    check(a[0].preempt && a[1].rows == 1, "a paused one gives its pages to one behind it");

    fl_sched_item b[2] = {running(64, 1), running(32, 1)};
    b[0].parked = true;
    fl_schedule(b, 2, &full);
    check(!b[0].preempt && b[1].preempt, "one that waits for a policy does not");

    const fl_sched_limits some = {64, 8, 4, 1, P};
    fl_sched_item c[2] = {running(64, 1), waiting(70)};
    c[0].parked = c[0].paused = true;
    fl_schedule(c, 2, &some);
    check(c[0].preempt && !c[1].rows, "and makes room for one that waits");
    fl_sched_item d[2] = {waiting(65), waiting(70)};
    d[0].parked = d[0].paused = true;
    const fl_sched_limits now = {64, 8, 4, 3, P};
    fl_schedule(d, 2, &now);
    check(!d[0].rows && d[1].rows == 64, "which then comes in");

    fl_sched_item e[2] = {running(64, 1), waiting(30)};
    e[0].parked = e[0].paused = true;
    fl_schedule(e, 2, &some);
    check(!e[0].preempt && e[1].rows == 30, "it keeps them while there are others");

    const fl_sched_limits one = {64, 8, 1, 9, P};
    fl_sched_item f[2] = {running(64, 1), waiting(30)};
    f[0].parked = f[0].paused = true;
    fl_schedule(f, 2, &one);
    check(f[0].preempt && !f[1].rows, "and its place when max_running is reached");
}

static void test_guesses(void) {
    const fl_sched_limits limits = {8, 8, 4, 1, P};
    fl_sched_item a[3] = {running(10, 1), running(30, 1), waiting(5)};
    a[0].guesses = a[1].guesses = 4;
    fl_schedule(a, 3, &limits);
    check(a[0].rows == 2 && a[1].rows == 1 && a[2].rows == 5, "guesses get the rows that are left");

    const fl_sched_limits one = {64, 8, 4, 1, P};
    fl_sched_item b[2] = {running(30, 1), running(10, 1)};
    b[0].guesses = 40;
    b[1].guesses = 3;
    fl_schedule(b, 2, &one);
    check(b[0].rows == 34 && b[1].rows == 4, "and the pages that are left");

    const fl_sched_limits none = {64, 8, 4, 0, P};
    fl_sched_item c[2] = {running(32, 1), running(10, 1)};
    c[0].guesses = c[1].guesses = 4;
    fl_schedule(c, 2, &none);
    check(c[0].rows == 1 && c[1].preempt, "never those of others");
}

/* The engine sorts by priority and arrival, so that the order of the items is their rank. */
static void test_rank(void) {
    const fl_sched_limits narrow = {64, 2, 8, 100, P};
    fl_sched_item a[4] = {running(5, 1), running(5, 1), running(5, 1), waiting(5)};
    fl_schedule(a, 4, &narrow);
    check(a[0].rows && a[1].rows && !a[2].rows && !a[3].rows, "the first in rank run first");

    /* Everybody decodes in every step, however long prompts are: nobody waits for one. */
    const fl_sched_limits busy = {8, 8, 8, 1000, P};
    fl_sched_item b[4] = {waiting(500), running(5, 1), running(900, 1), running(40, 300)};
    int served[4] = {0};
    for (int step = 0; step < 100; step++) {
        fl_schedule(b, 4, &busy);
        for (int i = 0; i < 4; i++) {
            served[i] += b[i].rows > 0;
            b[i].running = b[i].running || b[i].rows;
            b[i].length += b[i].rows;
            b[i].pending = b[i].pending > b[i].rows ? b[i].pending - b[i].rows : 1;
            b[i].pages = fl_div_up(b[i].length, P);
        }
    }
    check(served[1] == 100 && served[2] == 100, "those that decode do so in every step");
    check(served[0] > 0 && served[3] > 0 && b[0].length + b[3].length > 500,
          "and prompts share what is left");
}

static fl_sched_item of(int64_t share, fl_sched_item it) {
    it.share = share;
    return it;
}

/* Keys: the order of the items alternates between them. */
static void test_shares(void) {
    const fl_sched_limits full = {64, 8, 4, 100, P};
    fl_sched_item a[6] = {of(2, waiting(5)),    of(1, running(5, 1)), of(1, running(5, 1)),
                          of(1, running(5, 1)), of(1, running(5, 1)), of(1, waiting(5))};
    fl_schedule(a, 6, &full);
    check(a[4].preempt && !a[3].preempt, "one that waits takes a place of a key with all of them");
    a[4] = of(1, waiting(6));
    fl_schedule(a, 6, &full);
    check(a[0].rows == 5 && !a[4].rows && !a[5].rows, "and comes in before that key's others");

    fl_sched_item b[4] = {of(2, waiting(5)), of(1, running(5, 1)), of(3, running(5, 1)),
                          of(4, running(5, 1))};
    const fl_sched_limits three = {64, 8, 3, 100, P};
    fl_schedule(b, 4, &three);
    check(!b[1].preempt && !b[2].preempt && !b[3].preempt, "nobody loses the only place he has");

    const fl_sched_limits none = {64, 8, 8, 0, P};
    fl_sched_item c[4] = {of(2, waiting(40)), of(1, running(90, 1)), of(1, running(60, 1)),
                          of(1, running(60, 1))};
    fl_schedule(c, 4, &none);
    check(c[3].preempt && !c[1].preempt && !c[2].preempt, "the same with pages");
    fl_sched_item d[3] = {of(2, waiting(900)), of(1, running(90, 1)), of(1, running(60, 1))};
    fl_schedule(d, 3, &none);
    check(!d[1].preempt, "but not in vain");

    const fl_sched_limits narrow = {8, 8, 16, 100, P};
    fl_sched_item e[9] = {of(2, running(5, 50))};
    for (int i = 1; i < 9; i++) e[i] = of(1, running(5, 1));
    fl_schedule(e, 9, &narrow);
    check(e[0].rows > 0, "decodes of one key leave rows to the prompt of another");

    const fl_sched_limits one = {64, 1, 1, 100, P};
    fl_sched_item f[2] = {of(2, waiting(5)), of(1, running(5, 1))};
    fl_schedule(f, 2, &one);
    check(f[1].rows == 1, "but not to one for which there is no place");
    const fl_sched_limits dry = {1, 1, 8, 0, P};
    fl_sched_item g[2] = {of(2, waiting(5 * P)), of(1, running(5, 1))};
    fl_schedule(g, 2, &dry);
    check(g[1].rows == 1, "or for which there are no pages");
}

static uint64_t draws;
static int64_t pick(int64_t n) {
    uint32_t r[4];
    const uint32_t counter[4] = {(uint32_t)draws++};
    fl_philox(r, counter, 42);
    return (int64_t)(r[0] % (uint32_t)n);
}

/* Pages a step takes, counted apart from the code under test. */
static int64_t pages_taken(const fl_sched_item *it) {
    int64_t after = fl_div_up(it->length + it->rows, P);
    return (after > it->pages ? after - it->pages : 0) + (it->shared_tail ? 1 : 0);
}

static void test_random(void) {
    int broken = 0, idle = 0;
    for (int trial = 0; trial < 20000; trial++) {
        fl_sched_item it[12];
        const int64_t n = 1 + pick(12);
        const fl_sched_limits l = {1 + pick(80), 1 + pick(12), 1 + pick(12), pick(12), P};
        int64_t rows = 0, seqs = 0, taken = 0, given = 0, running_now = 0;
        bool able = false; /* one runs and has a page for its next token */
        for (int64_t i = 0; i < n; i++) {
            it[i] = pick(2) ? running(1 + pick(100), pick(3) ? 1 : 1 + pick(60))
                            : waiting(1 + pick(90));
            it[i].share = pick(3);
            it[i].parked = !pick(5);
            if (!it[i].running) it[i].parked = false;
            it[i].paused = it[i].parked && pick(2);
            it[i].guesses = it[i].pending == 1 ? pick(6) : 0;
            it[i].shared_tail = it[i].running && it[i].length % P && !pick(4);
            running_now += it[i].running;
        }
        fl_schedule(it, n, &l);
        for (int64_t i = 0; i < n; i++) {
            if (it[i].preempt) given += it[i].pages;
            if (it[i].preempt && (it[i].rows || !it[i].running)) broken++;
            if (it[i].parked && it[i].rows) broken++;
            if (it[i].rows > it[i].pending + it[i].guesses || it[i].rows < 0) broken++;
            if (it[i].rows) {
                rows += it[i].rows;
                seqs++;
                taken += pages_taken(&it[i]);
                running_now += !it[i].running;
            }
            running_now -= it[i].preempt;
            fl_sched_item next = it[i];
            next.rows = 1;
            able |= it[i].running && !it[i].parked && pages_taken(&next) <= l.free_pages;
        }
        bool admitted = false;
        for (int64_t i = 0; i < n; i++) admitted |= it[i].rows && !it[i].running;
        if (rows > l.max_rows || seqs > l.max_seqs || taken > l.free_pages + given) broken++;
        if (admitted && running_now > l.max_running) broken++;
        idle += !rows && !given && able;
    }
    check(!broken, "20000 random states: rows, sequences and pages within their limits");
    check(!idle, "and nobody idles while there is room");
}

int main(void) {
    test_cases();
    test_paused();
    test_guesses();
    test_rank();
    test_shares();
    test_random();
    return tap_done();
}
