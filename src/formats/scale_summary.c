#include "formats/scale_summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

static bool ends_in(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

bool fl_is_scale(const fl_st_tensor *t) {
    return ends_in(t->name, "_scale") || ends_in(t->name, "_scale_inv");
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int fl_scale_summarize(fl_scale_summary *out, const fl_st_tensor *t, fl_err *err) {
    fl_scale_summary s = {.n = fl_st_numel(t)};
    if (!fl_st_is_float(t->dtype))
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need F64, F32, BF16 or F16",
                       t->file, t->name, fl_dtype_name(t->dtype));
    float *v = fl_alloc_array((size_t)s.n, sizeof(*v));
    if (!v) return fl_fail(err, FL_E_NOMEM, "%s: %s", t->file, t->name);
    size_t n = 0;
    for (int64_t i = 0; i < s.n; i++) {
        float x = fl_st_value(t, i);
        if (x == 0.0f)
            s.zeros++;
        else if (!isfinite(x) || x < 0.0f)
            s.broken++;
        else
            v[n++] = x;
    }
    qsort(v, n, sizeof(*v), ascending);
    if (n) {
        s.min = v[0];
        s.median = v[n / 2];
        s.max = v[n - 1];
    }
    fl_free(v);
    *out = s;
    return FL_OK;
}
