#include "backend/device.h"

#include <stdio.h>

#include "util/mem.h"

int fl_device_open(fl_device **out, const fl_backend_ops *ops, int ordinal, fl_err *err) {
    const fl_backend_params p = {.device = ordinal, .max_rows = FL_DEVICE_ROWS};
    fl_device *d = fl_alloc(sizeof(*d));
    if (!d) return fl_fail(err, FL_E_NOMEM, "%s", ops->name);
    int rc = ops->open(&d->be, &p, err);
    if (rc) {
        fl_free(d);
        return rc;
    }
    d->ops = ops;
    atomic_init(&d->refs, 1);
    snprintf(d->name, sizeof(d->name), "%s:%d", ops->name, ordinal);
    *out = d;
    return FL_OK;
}

fl_device *fl_device_ref(fl_device *d) {
    atomic_fetch_add(&d->refs, 1);
    return d;
}

void fl_device_unref(fl_device *d) {
    if (!d || atomic_fetch_sub(&d->refs, 1) > 1) return;
    d->ops->close(d->be);
    fl_free(d);
}
