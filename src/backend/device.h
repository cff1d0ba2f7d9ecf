/* device.h - an open backend for users' tensors, counted: whatever lies in its memory keeps it open.
 * Counting is thread-safe; one thread at a time uses the backend. */
#ifndef FL_BACKEND_DEVICE_H
#define FL_BACKEND_DEVICE_H

#include <stdatomic.h>

#include "backend/backend.h"

enum { FL_DEVICE_ROWS = 256 }; /* most rows of one forward op */

typedef struct fl_device {
    const fl_backend_ops *ops;
    fl_backend *be;
    atomic_int refs;
    char name[16]; /* "cuda:0" */
} fl_device;

/* ops and ordinal as fl_backend_device gives them.  FL_E_DEVICE: it cannot be used; FL_E_NOMEM. */
int fl_device_open(fl_device **out, const fl_backend_ops *ops, int ordinal, fl_err *err);
fl_device *fl_device_ref(fl_device *d);
void fl_device_unref(fl_device *d); /* NULL is fine */

#endif
