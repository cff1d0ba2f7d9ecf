#include "backend/bandwidth.h"
#include "tap.h"
#include "util/mem.h"

static bool allow(void *ctx, size_t bytes) {
    int *left = ctx;
    return (void)bytes, (*left)-- > 0;
}

int main(void) {
    fl_err err = {0};
    double rate = 0;
    int64_t live = fl_mem_live();
    for (int threads = 1; threads <= 2; threads++) {
        int rc = fl_read_bandwidth(&rate, threads, 8 << 20, &err);
        check(rc == FL_OK && rate > 1e8 && rate < 1e13, "%d threads read %.1f GB/s", threads,
              rate / 1e9);
    }
    int rc = fl_read_bandwidth(&rate, 1, 1000, &err);
    check(rc == FL_E_ARG, "1000 bytes are refused: %s", err.msg);
    rc = FL_E_NOMEM;
    for (int n = 0; rc == FL_E_NOMEM && n < 20; n++) {
        int left = n;
        fl_mem_set_hook(allow, &left);
        rc = fl_read_bandwidth(&rate, 2, FL_BANDWIDTH_MIN, &err);
        fl_mem_set_hook(NULL, NULL);
        check(rc == FL_OK || rc == FL_E_NOMEM, "allocation %d fails: %d", n, rc);
    }
    check(rc == FL_OK, "and then succeeds");
    check(fl_mem_live() == live, "nothing is left behind");
    return tap_done();
}
