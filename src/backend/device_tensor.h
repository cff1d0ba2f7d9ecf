/* device_tensor.h - tensors in the memory of a device, with the arithmetic of host tensors there.
 *
 * A device is an open backend, counted; its tensors keep it open.  A device tensor is a contiguous
 * view of a counted storage, of the types of host_tensor.h; the shapes it takes are those of host
 * tensors.  One thread at a time uses a device and its tensors.  Results are those of host tensors,
 * but for softmax, which is f32 (relative error below 1e-5).
 * All functions: FL_E_DEVICE when the device fails, FL_E_NOMEM. */
#ifndef FL_BACKEND_DEVICE_TENSOR_H
#define FL_BACKEND_DEVICE_TENSOR_H

#include "backend/host_tensor.h"

typedef struct fl_device fl_device;

/* name: "cuda" or "cuda:N".  FL_E_ARG: any other; FL_E_DEVICE: it cannot be used. */
int fl_device_open(fl_device **out, const char *name, fl_err *err);
fl_device *fl_device_ref(fl_device *d);
void fl_device_unref(fl_device *d);
const char *fl_device_name(const fl_device *d); /* "cuda:0" */
const fl_backend_ops *fl_device_ops(const fl_device *d);
fl_backend *fl_device_backend(const fl_device *d);

typedef struct fl_device_tensor {
    fl_tensor t; /* data: backend memory */
    struct fl_device_storage *storage;
} fl_device_tensor;

fl_device *fl_device_of(const fl_device_tensor *t); /* borrowed */

int fl_device_tensor_upload(fl_device_tensor **out, fl_device *d, const fl_host_tensor *t,
                            fl_err *err);
int fl_device_tensor_download(fl_host_tensor **out, const fl_device_tensor *t, fl_err *err);
/* The four of host tensors: on the same device. */
int fl_device_tensor_convert(fl_device_tensor **out, const fl_device_tensor *t, fl_dtype dtype,
                             fl_err *err);
int fl_device_tensor_row(fl_device_tensor **out, const fl_device_tensor *t, int64_t i, fl_err *err);
void fl_device_tensor_free(fl_device_tensor *t); /* NULL is fine */

/* One element, row-major. */
int fl_device_tensor_load(double *out, const fl_device_tensor *t, int64_t at, fl_err *err);
int fl_device_tensor_store(fl_device_tensor *t, double v, int64_t at, fl_err *err);

/* In place; FL_E_ARG when shapes disagree.  b and mask are on t's device. */
int fl_device_tensor_apply(fl_device_tensor *t, fl_map_op op, const fl_device_tensor *b,
                           double number, fl_err *err);
int fl_device_tensor_apply_number(fl_device_tensor *t, fl_map_op op, double b, fl_err *err);
int fl_device_tensor_softmax(fl_device_tensor *t, double temperature, fl_err *err);

int fl_device_tensor_quantize(fl_device_tensor **q, fl_device_tensor **scale,
                              const fl_device_tensor *t, fl_quant_scheme scheme, fl_err *err);
int fl_device_tensor_dequantize(fl_device_tensor **out, const fl_device_tensor *q,
                                const fl_device_tensor *scale, fl_dtype dtype, fl_err *err);

#endif
