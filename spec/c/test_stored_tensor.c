/* Tensors as they are stored: dense, and the two layouts with a bitmask, matrices and vectors.
 * spec/c/test_linear_forms.c has what is refused. */
#include "formats/stored_tensor.h"

#include <string.h>

#include "parts.h"
#include "tap.h"

typedef struct stored_case {
    const char *what;
    part parts[MAX_PARTS];
    bool dense;
    int64_t dim[2];
    float row[8]; /* the last row, as BF16 */
} stored_case;

static const stored_case cases[] = {
    {"a dense matrix",
     {{"x.weight", "BF16", "[2,3]", 6, {9, 9, 9, 1, 0, 2}}},
     true,
     {2, 3},
     {1, 0, 2}},
    {"sparse-24-bitmask, the example of sparse24.h",
     {{"x.compressed", "BF16", "[2,4]", 8, {9, 9, 9, 9, 1, 2, 3, 4}},
      {"x.bitmask", "U8", "[2,1]", 2, {0x33, 0x9a}},
      {"x.shape", "I64", "[2,1]", 2, {2, 8}}},
     false,
     {2, 8},
     {0, 1, 0, 2, 3, 0, 0, 4}},
    {"sparse-24-bitmask of a row that ends inside a byte",
     {{"x.compressed", "BF16", "[2,2]", 4, {9, 9, 1, 2}},
      {"x.bitmask", "U8", "[2,1]", 2, {0x3, 0xa}},
      {"x.shape", "I64", "[2,1]", 2, {2, 4}}},
     false,
     {2, 4},
     {0, 1, 0, 2}},
    {"sparse-bitmask",
     {{"x.compressed", "BF16", "[5]", 5, {9, 9, 1, 2, 3}},
      {"x.bitmask", "U8", "[3,1]", 3, {5, 0, 7}},
      {"x.row_offsets", "I64", "[3]", 3, {0, 2, 2}},
      {"x.shape", "I64", "[2]", 2, {3, 3}}},
     false,
     {3, 3},
     {1, 2, 3}},
    {"the same under the tensor's own name, beside another module's",
     {{"x.weight.compressed", "BF16", "[1]", 1, {5}},
      {"x.weight.bitmask", "U8", "[1,1]", 1, {4}},
      {"x.weight.row_offsets", "I64", "[1]", 1, {0}},
      {"x.weight.shape", "I64", "[2]", 2, {1, 4}},
      {"y.weight", "BF16", "[1]", 1, {7}}},
     false,
     {1, 4},
     {0, 0, 5, 0}},
};

static bool same_row(const uint16_t *got, const float *want, int64_t k) {
    bool ok = true;
    for (int64_t i = 0; i < k; i++) {
        const fl_st_tensor t = {.data = (const uint8_t *)got, .dtype = FL_DTYPE_BF16};
        ok &= fl_st_value(&t, i) == want[i];
    }
    return ok;
}

static void test_matrices(const fixture *f) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const stored_case *c = &cases[i];
        fl_checkpoint *ck = NULL;
        fl_stored_tensor s;
        fl_err e = {0};
        uint16_t row[8];
        bool found = false;
        write_parts(f, c->parts);
        int rc = fl_checkpoint_open(&ck, f->dir, &e);
        if (!rc) rc = fl_stored_tensor_find(&s, &found, ck, "x.weight", &e);
        bool ok = !rc && found && s.t.ndim == 2 && s.t.dim[0] == c->dim[0] &&
                  s.t.dim[1] == c->dim[1] && (s.t.data != NULL) == c->dense;
        if (ok && c->dense)
            memcpy(row, s.t.data + (s.t.dim[0] - 1) * s.t.dim[1] * 2, (size_t)s.t.dim[1] * 2);
        else if (ok)
            ok = !fl_stored_tensor_unpack(row, &s, s.t.dim[0] - 1, 1, &e);
        check(ok && same_row(row, c->row, c->dim[1]), "%s %s", c->what, e.msg);
        fl_checkpoint_close(ck);
    }
}

static void test_vectors(const fixture *f) {
    static const part parts[MAX_PARTS] = {{"n.weight.compressed", "F32", "[3]", 3, {1.5f, -2, 4}},
                                          {"n.weight.bitmask", "U8", "[2]", 2, {0x82, 1}},
                                          {"n.weight.row_offsets", "I64", "[]", 1, {0}},
                                          {"n.weight.shape", "I64", "[1]", 1, {9}},
                                          {"d.weight", "F16", "[2]", 2, {0.5f, 3}}};
    const float want[] = {0, 1.5f, 0, 0, 0, 0, 0, -2, 4};
    fl_checkpoint *ck = NULL;
    fl_stored_tensor s;
    fl_err e = {0};
    float v[9] = {0};
    bool found = false;
    write_parts(f, parts);
    if (fl_checkpoint_open(&ck, f->dir, &e)) return;
    int rc = fl_stored_tensor_find(&s, &found, ck, "n.weight", &e);
    if (!rc) rc = fl_stored_tensor_floats(v, &s, 0, 9, &e);
    check(!rc && found && s.t.ndim == 1 && !memcmp(v, want, sizeof(want)), "a compressed vector %s",
          e.msg);
    rc = fl_stored_tensor_floats(v, &s, 7, 2, &e);
    check(!rc && v[0] == -2 && v[1] == 4, "the end of it %s", e.msg);
    rc = fl_stored_tensor_find(&s, &found, ck, "d.weight", &e);
    if (!rc) rc = fl_stored_tensor_floats(v, &s, 1, 1, &e);
    check(!rc && found && v[0] == 3, "a dense vector %s", e.msg);
    rc = fl_stored_tensor_find(&s, &found, ck, "none.weight", &e);
    check(!rc && !found, "what is not there is not found");
    fl_checkpoint_close(ck);
}

int main(void) {
    fixture f;
    fixture_new(&f);
    test_matrices(&f);
    test_vectors(&f);
    fixture_free(&f);
    return tap_done();
}
