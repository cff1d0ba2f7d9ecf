#include "backend/bandwidth.h"

#include <stdatomic.h>
#include <string.h>

#include "util/clock.h"
#include "util/mem.h"
#include "util/num.h"
#include "util/thread.h"

typedef uint64_t words __attribute__((vector_size(16)));

typedef struct reading {
    const words *buffer;
    size_t n_words;
    _Atomic uint64_t sum; /* keeps the loads from being left out */
} reading;

static void share(const reading *r, int member, int members, size_t *begin, size_t *end) {
    *begin = r->n_words / (size_t)members * (size_t)member;
    *end = member + 1 == members ? r->n_words : r->n_words / (size_t)members * ((size_t)member + 1);
}

static void fill_share(void *ctx, int member, int members) {
    reading *r = ctx;
    size_t begin, end;
    share(r, member, members, &begin, &end);
    memset((void *)(uintptr_t)(r->buffer + begin), 1, (end - begin) * sizeof(words));
}

static void read_share(void *ctx, int member, int members) {
    reading *r = ctx;
    size_t begin, end;
    share(r, member, members, &begin, &end);
    words a = {0}, b = {0}, c = {0}, d = {0};
    const words *p = r->buffer + begin;
    for (size_t n = (end - begin) / 4; n; n--, p += 4) {
        a += p[0];
        b += p[1];
        c += p[2];
        d += p[3];
    }
    a += b + c + d;
    atomic_fetch_add(&r->sum, a[0] + a[1]);
}

int fl_read_bandwidth(double *bytes_per_second, int threads, uint64_t bytes, fl_err *err) {
    fl_team *team = NULL;
    void *buffer = NULL;
    int rc = FL_OK;
    if (bytes < FL_BANDWIDTH_MIN || bytes > SIZE_MAX / 2) {
        return fl_fail(err, FL_E_ARG, "bytes: %llu, at least %d expected",
                       (unsigned long long)bytes, FL_BANDWIDTH_MIN);
    }
    if (!(buffer = fl_map_pages((size_t)bytes))) {
        return fl_fail(err, FL_E_NOMEM, "no memory for a buffer of %llu bytes",
                       (unsigned long long)bytes);
    }
    if ((rc = fl_team_new(&team, threads, err))) goto done;
    reading r = {.buffer = buffer, .n_words = (size_t)bytes / sizeof(words)};
    fl_team_run(team, fill_share, &r);
    double begin = fl_now(), best = 0, t = begin;
    for (int pass = 0; pass < 5 || t - begin < 0.25; pass++) {
        double t0 = fl_now();
        fl_team_run(team, read_share, &r);
        t = fl_now();
        if ((double)bytes / (t - t0) > best) best = (double)bytes / (t - t0);
    }
    *bytes_per_second = best;
done:
    fl_team_free(team);
    fl_unmap_pages(buffer, (size_t)bytes);
    return rc;
}
