/* tensor.h - a typed view of backend memory.  Plain value; owns nothing. */
#ifndef FL_BACKEND_TENSOR_H
#define FL_BACKEND_TENSOR_H

#include "util/dtype.h"

enum { FL_MAX_DIMS = 4 };

typedef struct fl_tensor {
    void *data;               /* address in the backend's memory; a host pointer on the CPU */
    int64_t dim[FL_MAX_DIMS]; /* row-major; the dims after dim[0] are contiguous */
    int64_t stride;           /* elements from index i to i+1 of dim[0] */
    int32_t ndim;
    fl_dtype dtype; /* FL_DTYPE_NONE: absent */
} fl_tensor;

static inline fl_tensor fl_tensor_1d(void *data, fl_dtype dtype, int64_t a) {
    return (fl_tensor){.data = data, .dim = {a}, .stride = 1, .ndim = 1, .dtype = dtype};
}
static inline fl_tensor fl_tensor_2d(void *data, fl_dtype dtype, int64_t a, int64_t b) {
    return (fl_tensor){.data = data, .dim = {a, b}, .stride = b, .ndim = 2, .dtype = dtype};
}
static inline fl_tensor fl_tensor_3d(void *data, fl_dtype dtype, int64_t a, int64_t b, int64_t c) {
    return (fl_tensor){.data = data, .dim = {a, b, c}, .stride = b * c, .ndim = 3, .dtype = dtype};
}

/* Elements of one index of dim[0]. */
static inline int64_t fl_tensor_row_len(const fl_tensor *t) {
    int64_t n = 1;
    for (int i = 1; i < t->ndim; i++) n *= t->dim[i];
    return n;
}

#endif
