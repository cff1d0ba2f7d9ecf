#include "formats/stored_tensor.h"

#include <stdio.h>
#include <string.h>

#include "formats/sparse24.h"
#include "util/file.h"
#include "util/mem.h"
#include "util/num.h"

enum { MAX_NAME = 512 };

/* The tensor called prefix[0..n) + ".leaf"; NULL: absent. */
static const fl_st_tensor *piece(const fl_checkpoint *ck, const char *prefix, size_t n,
                                 const char *leaf) {
    char name[MAX_NAME];
    int len = snprintf(name, sizeof(name), "%.*s.%s", (int)n, prefix, leaf);
    return len > 0 && len < MAX_NAME ? fl_checkpoint_find(ck, name) : NULL;
}

static int wrong(const fl_st_tensor *t, const char *need, fl_err *err) {
    char shape[160];
    return fl_fail(err, FL_E_FORMAT, "%s: %s: %s %s, need %s", t->file, t->name,
                   fl_dtype_name(t->dtype), fl_st_shape(shape, t), need);
}

static int64_t i64_at(const fl_st_tensor *t, int64_t i) {
    int64_t v;
    memcpy(&v, t->data + i * 8, sizeof(v));
    return v;
}

static int64_t rows_of(const fl_stored_tensor *s) {
    return s->t.ndim == 2 ? s->t.dim[0] : 1;
}

static int64_t columns_of(const fl_stored_tensor *s) {
    return s->t.dim[s->t.ndim - 1];
}

/* The dimensions of X from M.shape. */
static int read_shape(fl_stored_tensor *s, const fl_st_tensor *shape, fl_err *err) {
    int64_t n = fl_st_numel(shape);
    if (shape->dtype != FL_DTYPE_I64 || n < 1 || n > 2)
        return wrong(shape, "I64 with one or two elements", err);
    s->t.ndim = (int32_t)n;
    for (int64_t i = 0; i < n; i++) {
        s->t.dim[i] = i64_at(shape, i);
        if (s->t.dim[i] < 1 || s->t.dim[i] > INT32_MAX)
            return fl_fail(err, FL_E_FORMAT, "%s: %s: element %lld is %lld, need 1 to %d",
                           shape->file, shape->name, (long long)i, (long long)s->t.dim[i],
                           INT32_MAX);
    }
    return FL_OK;
}

static bool has_shape(const fl_st_tensor *t, int32_t ndim, int64_t rows, int64_t columns) {
    if (t->ndim != ndim || t->dim[ndim - 1] != columns) return false;
    return ndim == 1 || t->dim[0] == rows;
}

static int check_pieces(const fl_stored_tensor *s, fl_err *err) {
    char need[80];
    const int64_t n = rows_of(s), k = columns_of(s);
    const fl_st_tensor *b = s->bitmask, *r = s->row_offsets;
    if (fl_dtype_bits(s->t.dtype) % 8) return wrong(s->kept, "a type of whole bytes", err);
    if (b->dtype != FL_DTYPE_U8 || !has_shape(b, s->t.ndim, n, fl_div_up(k, 8))) {
        snprintf(need, sizeof(need), "U8 for %lld x %lld bits", (long long)n, (long long)k);
        return wrong(b, need, err);
    }
    if (r) {
        if (s->kept->ndim != 1) return wrong(s->kept, "one dimension beside row_offsets", err);
        if (r->dtype == FL_DTYPE_I64 && fl_st_numel(r) == n) return FL_OK;
        snprintf(need, sizeof(need), "I64 with %lld elements", (long long)n);
        return wrong(r, need, err);
    }
    if (k % 4)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: %lld columns, 2:4 rows are multiples of 4",
                       s->kept->file, s->kept->name, (long long)k);
    if (has_shape(s->kept, s->t.ndim, n, k / 2)) return FL_OK;
    snprintf(need, sizeof(need), "half of %lld x %lld values", (long long)n, (long long)k);
    return wrong(s->kept, need, err);
}

int fl_stored_tensor_find(fl_stored_tensor *out, bool *found, const fl_checkpoint *ck,
                          const char *name, fl_err *err) {
    static const char leaf[] = ".weight";
    const size_t whole = strlen(name), cut = sizeof(leaf) - 1;
    size_t prefix = whole;
    const fl_st_tensor *t = fl_checkpoint_find(ck, name);
    fl_stored_tensor s = {.kept = NULL};
    *found = t != NULL;
    if (t) {
        s.t = *t;
        *out = s;
        return FL_OK;
    }
    s.kept = piece(ck, name, prefix, "compressed");
    if (!s.kept && whole > cut && !strcmp(name + whole - cut, leaf)) {
        prefix = whole - cut;
        s.kept = piece(ck, name, prefix, "compressed");
    }
    if (!s.kept) return FL_OK;
    const fl_st_tensor *shape = piece(ck, name, prefix, "shape");
    s.bitmask = piece(ck, name, prefix, "bitmask");
    s.row_offsets = piece(ck, name, prefix, "row_offsets");
    if (!shape || !s.bitmask)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: without %.*s.%s", s.kept->file, s.kept->name,
                       (int)prefix, name, shape ? "bitmask" : "shape");
    s.t = *s.kept;
    s.t.data = NULL;
    int rc = read_shape(&s, shape, err);
    if (rc || (rc = check_pieces(&s, err))) return rc;
    s.t.bytes = (uint64_t)fl_st_numel(&s.t) * (uint64_t)fl_dtype_bytes(s.t.dtype);
    *out = s;
    *found = true;
    return FL_OK;
}

static int bad_row(const fl_stored_tensor *s, int64_t row, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT, "%s: %s: row %lld: %s", s->bitmask->file, s->bitmask->name,
                   (long long)row, what);
}

/* One row of the sparse-bitmask form. */
static int scatter(uint8_t *out, const fl_stored_tensor *s, int64_t row, fl_err *err) {
    const fl_st_tensor *r = s->row_offsets;
    const int64_t k = columns_of(s), bytes = fl_dtype_bytes(s->t.dtype), mask = fl_div_up(k, 8);
    const int64_t begin = i64_at(r, row), all = s->kept->dim[0];
    const int64_t end = row + 1 < rows_of(s) ? i64_at(r, row + 1) : all;
    const uint8_t *bits = s->bitmask->data + row * mask;
    int64_t count = 0;
    for (int64_t i = 0; i < mask; i++) count += __builtin_popcount(bits[i]);
    if (begin < 0 || end < begin || end > all || end - begin != count)
        return fl_fail(err, FL_E_FORMAT, "%s: %s: row %lld is %lld to %lld of %lld, %lld bits",
                       r->file, r->name, (long long)row, (long long)begin, (long long)end,
                       (long long)all, (long long)count);
    const uint8_t *in = s->kept->data + begin * bytes;
    memset(out, 0, (size_t)(k * bytes));
    for (int64_t c = 0; c < k; c++) {
        if (!(bits[c / 8] >> c % 8 & 1)) continue;
        memcpy(out + c * bytes, in, (size_t)bytes);
        in += bytes;
    }
    return FL_OK;
}

int fl_stored_tensor_unpack(void *out, const fl_stored_tensor *s, int64_t first, int64_t n,
                            fl_err *err) {
    const int64_t k = columns_of(s), bytes = fl_dtype_bytes(s->t.dtype), mask = fl_div_up(k, 8);
    uint8_t *to = out;
    for (int64_t row = first; row < first + n; row++, to += k * bytes) {
        int rc = FL_OK;
        const uint8_t *bits = s->bitmask->data + row * mask;
        if (k % 8 && bits[mask - 1] >> k % 8)
            rc = bad_row(s, row, "bits behind the last column", err);
        else if (s->row_offsets)
            rc = scatter(to, s, row, err);
        else if (!fl_sparse24_unpack(to, s->kept->data + row * (k / 2) * bytes, bits, s->t.dtype,
                                     k))
            rc = bad_row(s, row, "a group of four without exactly two bits", err);
        if (rc) return rc;
    }
    fl_file_release(s->bitmask->data, s->bitmask->bytes);
    fl_file_release(s->kept->data, s->kept->bytes);
    return FL_OK;
}

int fl_stored_tensor_floats(float *out, const fl_stored_tensor *s, int64_t first, int64_t n,
                            fl_err *err) {
    fl_st_tensor t = s->t;
    void *dense = s->kept ? fl_alloc_array((size_t)t.dim[0], sizeof(float)) : NULL;
    int rc = FL_OK;
    if (s->kept) {
        if (!dense) return fl_fail(err, FL_E_NOMEM, "%s: %s", t.file, t.name);
        rc = fl_stored_tensor_unpack(dense, s, 0, 1, err);
        t.data = dense;
    }
    for (int64_t i = 0; !rc && i < n; i++) out[i] = fl_st_value(&t, first + i);
    fl_free(dense);
    return rc;
}
