/* A module whose engine has a given speed: each step of the model ends on the next multiple of
 * STEP_NS, and the text of a token is the time it was made, in microseconds, and a blank.  Linked in
 * place of fl_step and fl_detok_push (see the Makefile), so that everything above them is the
 * product's own. */
#include <stdio.h>
#include <time.h>

#include "model/step.h"
#include "text/detok.h"

enum { STEP_NS = 5000000, SECOND_NS = 1000000000 };

int __real_fl_step(fl_model *m, const fl_step_entry *entries, int64_t n, double *rows_s,
                   fl_err *err);
int __wrap_fl_step(fl_model *m, const fl_step_entry *entries, int64_t n, double *rows_s,
                   fl_err *err);
int __wrap_fl_detok_push(fl_detok *d, int32_t id, fl_bytes *out, fl_err *err);

int __wrap_fl_step(fl_model *m, const fl_step_entry *entries, int64_t n, double *rows_s,
                   fl_err *err) {
    struct timespec t;
    int rc = __real_fl_step(m, entries, n, rows_s, err);
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += STEP_NS - t.tv_nsec % STEP_NS;
    if (t.tv_nsec >= SECOND_NS) {
        t.tv_nsec -= SECOND_NS;
        t.tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    return rc;
}

int __wrap_fl_detok_push(fl_detok *d, int32_t id, fl_bytes *out, fl_err *err) {
    struct timespec t;
    (void)d;
    (void)id;
    (void)err;
    clock_gettime(CLOCK_MONOTONIC, &t);
    fl_bytes_printf(out, "%lld ", (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000);
    return FL_OK;
}
