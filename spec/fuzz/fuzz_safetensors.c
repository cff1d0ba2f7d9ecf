/* A safetensors file from the input; every tensor of one that opens is inside the file and is
 * found by its name. */
#include "fuzz.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/safetensors.h"

static void use(const fl_safetensors *st, size_t size) {
    static volatile uint8_t sink;
    char shape[160];
    uint64_t bytes = 0;
    for (size_t i = 0; i < fl_safetensors_count(st); i++) {
        const fl_st_tensor *t = fl_safetensors_at(st, i);
        MUST(fl_safetensors_find(st, t->name) == t);
        MUST(t->ndim >= 0 && t->ndim <= FL_ST_MAX_DIMS && fl_st_shape(shape, t) == shape);
        MUST(t->bytes == (uint64_t)fl_st_numel(t) * (uint64_t)fl_dtype_bits(t->dtype) / 8);
        bytes += t->bytes;
        if (t->bytes) sink = (uint8_t)(sink + t->data[0] + t->data[t->bytes - 1]);
        if (t->bytes && t->dtype == FL_DTYPE_BF16) (void)fl_st_value(t, fl_st_numel(t) - 1);
    }
    MUST(bytes <= size);
    MUST(!fl_safetensors_at(st, fl_safetensors_count(st)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int fd = -1;
    char path[40];
    fl_safetensors *st;
    fl_err err;
    if (fd < 0) fd = memfd_create("model.safetensors", 0);
    MUST(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, data, n, 0) == (ssize_t)n);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (!fl_safetensors_open(&st, path, &err)) {
        use(st, n);
        fl_safetensors_close(st);
    } else {
        MUST(err.msg[0]);
    }
    return 0;
}
