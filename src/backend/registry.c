#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"

/* fp8llm_cuda.so beside the library this code is in, so that a machine without CUDA
 * libraries can still load fp8llm.so. */
static int sibling_path(char *out, size_t n, const char *file, fl_err *err) {
    Dl_info self;
    if (!dladdr((const void *)(uintptr_t)&sibling_path, &self) || !self.dli_fname)
        return fl_fail(err, FL_E_DEVICE, "%s: cannot tell which folder this library is in", file);
    const char *slash = strrchr(self.dli_fname, '/');
    int dir = slash ? (int)(slash - self.dli_fname) : 1;
    int len = snprintf(out, n, "%.*s/%s", dir, slash ? self.dli_fname : ".", file);
    if (len < 0 || (size_t)len >= n)
        return fl_fail(err, FL_E_DEVICE, "%s: path of %d bytes, limit %zu", file, len, n - 1);
    return FL_OK;
}

int fl_backend_find(const fl_backend_ops **out, const char *name, fl_err *err) {
    char path[1024];
    int rc;
    if (!strcmp(name, "cpu")) {
        *out = fl_backend_cpu();
        return FL_OK;
    }
    if (strcmp(name, "cuda")) return fl_fail(err, FL_E_ARG, "device: no backend '%s'", name);
    if ((rc = sibling_path(path, sizeof(path), "fp8llm_cuda.so", err))) return rc;
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!so) return fl_fail(err, FL_E_DEVICE, "cuda: %s", dlerror());
    const fl_backend_ops *(*entry)(void);
    *(void **)&entry = dlsym(so, "fl_backend_cuda");
    const fl_backend_ops *ops = entry ? entry() : NULL;
    if (!ops || ops->abi != FL_BACKEND_ABI) {
        dlclose(so);
        return fl_fail(err, FL_E_DEVICE, "%s: backend ABI %u, need %u", path, ops ? ops->abi : 0u,
                       (unsigned)FL_BACKEND_ABI);
    }
    *out = ops; /* never closed: the ops stay in use until the process ends */
    return FL_OK;
}

int fl_backend_device(const fl_backend_ops **out, int *ordinal, const char *device, fl_err *err) {
    char rest;
    *ordinal = 0;
    if (strncmp(device, "cuda:", 5)) return fl_backend_find(out, device, err);
    if (sscanf(device + 5, "%4d%c", ordinal, &rest) != 1 || *ordinal < 0)
        return fl_fail(err, FL_E_ARG, "device: '%s' is not cuda:N with N from 0", device);
    return fl_backend_find(out, "cuda", err);
}
