/* Memory of a backend: writes, reads and copies of all shapes, in the order they were asked for.
 * Argument: the device, "cpu" when there is none. */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "tap.h"
#include "util/err.h"

enum { STAGE = 8 << 20, GAP = 0x5a }; /* STAGE: what the CUDA backend copies at once */

static const fl_backend_ops *ops;
static fl_backend *be;

static uint8_t *noise(int64_t n, uint32_t seed) {
    uint8_t *p = malloc((size_t)n + 1);
    for (int64_t i = 0; i < n; i++) p[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
    return p;
}

static void *memory(int64_t bytes) {
    void *p = NULL;
    fl_err err = {0};
    if (ops->mem_new(be, &p, (uint64_t)bytes, &err)) check(false, "%s", err.msg);
    return p;
}

static fl_tensor bytes_at(void *p, int64_t at, int64_t n) {
    return fl_tensor_1d((uint8_t *)p + at, FL_DTYPE_E4M3, n);
}

static bool holds(void *p, int64_t at, const uint8_t *want, int64_t n) {
    fl_tensor t = bytes_at(p, at, n);
    uint8_t *got = noise(n, 1);
    bool same = !ops->read(be, got, &t, NULL) && !memcmp(got, want, (size_t)n);
    free(got);
    return same;
}

static void test_new(void) {
    const int64_t sizes[] = {1, 100, STAGE + 1000};
    for (int i = 0; i < 3; i++) {
        uint8_t *zeros = calloc(1, (size_t)sizes[i]);
        void *p = memory(sizes[i]);
        check((uintptr_t)p % 64 == 0 && holds(p, 0, zeros, sizes[i]),
              "%lld new bytes are aligned and zero", (long long)sizes[i]);
        ops->mem_free(be, p);
        free(zeros);
    }
    ops->mem_free(be, NULL);
}

typedef struct shape {
    int64_t rows, len, stride;
} shape;

/* Rows with gaps between them: the gaps keep what they held, and come back to nobody. */
static void test_rows(const shape *s) {
    const int64_t span = (s->rows - 1) * s->stride + s->len, n = s->rows * s->len;
    uint8_t *src = noise(n, (uint32_t)n), *back = noise(n, 7), *want = malloc((size_t)span);
    memset(want, GAP, (size_t)span);
    void *p = memory(span);
    fl_tensor all = bytes_at(p, 0, span), t = fl_tensor_2d(p, FL_DTYPE_E4M3, s->rows, s->len);
    t.stride = s->stride;
    bool ok = !ops->write(be, &all, want, NULL) && !ops->write(be, &t, src, NULL);
    for (int64_t i = 0; i < s->rows; i++)
        memcpy(want + i * s->stride, src + i * s->len, (size_t)s->len);
    ok = ok && holds(p, 0, want, span);
    if (s->len <= STAGE || s->stride == s->len)
        ok = ok && !ops->read(be, back, &t, NULL) && !memcmp(back, src, (size_t)n);
    check(ok, "%lld rows of %lld bytes, %lld apart, there and back", (long long)s->rows,
          (long long)s->len, (long long)s->stride);
    ops->mem_free(be, p);
    free(src);
    free(back);
    free(want);
}

/* Many writes with nothing waited for in between; the source changes as soon as one returns. */
static void test_many(void) {
    enum { N = 40, LEN = 3000 };
    uint8_t *want = noise(N * LEN, 3), src[LEN];
    void *p = memory(N * LEN);
    bool ok = true;
    for (int i = 0; i < N; i++) {
        fl_tensor t = bytes_at(p, i * LEN, LEN);
        memcpy(src, want + i * LEN, LEN);
        ok = ok && !ops->write(be, &t, src, NULL);
        memset(src, GAP, LEN);
    }
    check(ok && holds(p, 0, want, N * LEN), "%d writes keep their order and their bytes", N);
    ops->mem_free(be, p);
    free(want);
}

static void test_copy(void) {
    enum { LEN = 100000 };
    uint8_t *first = noise(LEN, 5), *second = noise(LEN, 6);
    void *a = memory(LEN), *b = memory(LEN);
    fl_tensor t = bytes_at(a, 0, LEN);
    bool ok = !ops->write(be, &t, first, NULL) && !ops->copy(be, b, a, LEN, NULL) &&
              !ops->write(be, &t, second, NULL) && !ops->sync(be, NULL);
    check(ok && holds(a, 0, second, LEN) && holds(b, 0, first, LEN),
          "a copy holds what was there when it was asked for");
    ops->mem_free(be, a);
    ops->mem_free(be, b);
    free(first);
    free(second);
}

int main(int argc, char **argv) {
    static const shape shapes[] = {
        {1, 13, 13},
        {5, 12, 12},
        {7, 24, 100},
        {3000, 4000, 4100},         /* several stages of whole rows */
        {2, STAGE + 5, STAGE + 5},  /* one run of several stages */
        {2, STAGE + 5, STAGE + 64}, /* rows longer than a stage */
    };
    const fl_backend_params p = {.max_rows = 4};
    int device;
    fl_err err;
    if (fl_backend_device(&ops, &device, argc > 1 ? argv[1] : "cpu", &err) ||
        ops->open(&be, &p, &err)) {
        check(false, "%s", err.msg);
        return tap_done();
    }
    test_new();
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) test_rows(&shapes[i]);
    test_many();
    test_copy();
    ops->close(be);
    return tap_done();
}
