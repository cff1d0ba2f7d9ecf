#include "engine/stats.h"

double fl_histogram_bound(int i) {
    static const double bound[FL_HISTOGRAM_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                      0.1,   0.25,   0.5,   1.0,  2.5,   5.0,
                                                      10.0,  25.0,   50.0,  100,  250.0, 500.0};
    return bound[i];
}

void fl_histogram_add(fl_histogram *h, double seconds, uint64_t times) {
    int i = 0;
    while (i < FL_HISTOGRAM_BOUNDS && seconds > fl_histogram_bound(i)) i++;
    h->bucket[i] += times;
    h->count += times;
    h->sum += seconds * (double)times;
}
