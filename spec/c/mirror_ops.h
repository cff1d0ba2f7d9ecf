/* mirror_ops.h - a backend with memory of its own, behind the host memory that the tests of
 * ops use: each op copies its operands there, runs, waits, and copies the results back. */
#ifndef FL_SPEC_MIRROR_OPS_H
#define FL_SPEC_MIRROR_OPS_H

#include "backend/backend.h"

/* One device backend in a process at a time. */
const fl_backend_ops *mirror_ops(const fl_backend_ops *device);

#endif
