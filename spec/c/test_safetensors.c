/* The safetensors reader: what it reads, and every way a file can be wrong. */
#include "formats/safetensors.h"

#include <math.h>
#include <string.h>

#include "fixture.h"
#include "tap.h"

/* One wrong header with n data bytes, the code and what the message must hold. */
typedef struct wrong_case {
    const char *what, *header;
    size_t n;
    int code;
    const char *says;
} wrong_case;

#define A(dtype, shape, begin, end)                                                                \
    "\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static const wrong_case wrong[] = {
    {"empty header", "", 0, FL_E_FORMAT, "JSON"},
    {"not JSON", "{\"a\":", 0, FL_E_FORMAT, "JSON"},
    {"comma at the end of the header", "{\"1\":1,", 0, FL_E_FORMAT, "JSON"},
    {"text after the object", "{} x", 0, FL_E_FORMAT, "JSON"},
    {"two objects", "{}{}", 0, FL_E_FORMAT, "JSON"},
    {"an array", "[]", 0, FL_E_FORMAT, "not a JSON object"},
    {"invalid UTF-8", "{\"a\xff\":1}", 0, FL_E_FORMAT, "UTF-8"},
    {"escaped NUL in a name", "{\"a\\u0000b\":1}", 0, FL_E_FORMAT,
     "a\xef\xbf\xbd"
     "b: not an object"},
    {"entry is a number", "{\"a\":1}", 0, FL_E_FORMAT, "a: not an object"},
    {"entry is null", "{\"a\":null}", 0, FL_E_FORMAT, "a: not an object"},
    {"dtype missing", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, FL_E_FORMAT,
     "a: dtype is missing"},
    {"shape missing", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, FL_E_FORMAT,
     "a: shape is missing"},
    {"offsets missing", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, FL_E_FORMAT,
     "a: data_offsets is missing"},
    {"dtype twice",
     "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     FL_E_FORMAT, "a: dtype appears twice"},
    {"unknown dtype", "{" A("F33", "[1]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: unknown dtype \"F33\""},
    {"dtype NONE", "{" A("NONE", "[1]", "0", "4") "}", 4, FL_E_FORMAT, "a: unknown dtype"},
    {"dtype is a number", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     FL_E_FORMAT, "a: dtype"},
    {"shape is a number", "{" A("F32", "1", "0", "4") "}", 4, FL_E_FORMAT, "a: shape"},
    {"negative dimension", "{" A("F32", "[-1]", "0", "4") "}", 4, FL_E_FORMAT, "a: shape"},
    {"fractional dimension", "{" A("F32", "[1.5]", "0", "4") "}", 4, FL_E_FORMAT, "a: shape"},
    {"dimension is text", "{" A("F32", "[\"1\"]", "0", "4") "}", 4, FL_E_FORMAT, "a: shape"},
    {"dimension 2^48", "{" A("F32", "[281474976710656]", "0", "4") "}", 4, FL_E_FORMAT, "a: shape"},
    {"dimension 2^64-2", "{" A("F32", "[18446744073709551614]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: shape"},
    {"nine dimensions", "{" A("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, FL_E_LIMIT,
     "a: 9 dimensions"},
    {"one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, FL_E_FORMAT,
     "a: data_offsets"},
    {"offsets as an object",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"x\":0,\"y\":4}}}", 4, FL_E_FORMAT,
     "a: data_offsets"},
    {"three offsets", "{" A("F32", "[1]", "0", "4,4") "}", 4, FL_E_FORMAT, "a: data_offsets"},
    {"negative offset", "{" A("F32", "[1]", "-4", "0") "}", 4, FL_E_FORMAT, "a: data_offsets"},
    {"offset as text", "{" A("F32", "[1]", "0", "\"4\"") "}", 4, FL_E_FORMAT, "a: data_offsets"},
    {"hole before the first tensor", "{" A("F32", "[1]", "4", "8") "}", 8, FL_E_FORMAT,
     "a: data_offsets [4,8]"},
    {"end before begin",
     "{" A("F32", "[1]", "0",
           "4") ",\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,2]}}",
     4, FL_E_FORMAT, "b: data_offsets [4,2]"},
    {"hole between tensors",
     "{" A("F32", "[1]", "0",
           "4") ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
     12, FL_E_FORMAT, "b: data_offsets [8,12]"},
    {"overlap",
     "{" A("F32", "[1]", "0",
           "4") ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
     6, FL_E_FORMAT, "b: data_offsets [2,6]"},
    {"product of dimensions overflows",
     "{" A("F32", "[281474976710655,281474976710655]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: shape [281474976710655,281474976710655] overflows"},
    {"product fits, bits overflow", "{" A("F64", "[281474976710655,65536]", "0", "8") "}", 8,
     FL_E_FORMAT, "overflows"},
    {"half a byte", "{" A("F4", "[1]", "0", "1") "}", 1, FL_E_FORMAT, "a: shape [1] of F4"},
    {"shape larger than the bytes", "{" A("F32", "[2]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: shape [2] of F32 takes 8 bytes, data_offsets give 4"},
    {"shape smaller than the bytes", "{" A("BF16", "[1]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: shape"},
    {"file too short", "{" A("F32", "[2]", "0", "8") "}", 5, FL_E_FORMAT, "interrupted download"},
    {"file too long", "{" A("F32", "[1]", "0", "4") "}", 5, FL_E_FORMAT, "the file has"},
    {"data without tensors", "{}", 1, FL_E_FORMAT, "the file has 11"},
    {"name twice", "{" A("F32", "[1]", "0", "4") "," A("F32", "[1]", "0", "4") "}", 4, FL_E_FORMAT,
     "a: appears twice"},
    {"name twice, once escaped",
     "{" A("F32", "[1]", "0",
           "4") ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]}}",
     4, FL_E_FORMAT, "a: appears twice"},
    {"metadata is a string", "{\"__metadata__\":\"x\"}", 0, FL_E_FORMAT, "__metadata__"},
    {"metadata value is a number", "{\"__metadata__\":{\"format\":1}}", 0, FL_E_FORMAT,
     "__metadata__: format"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, FL_E_FORMAT, "__metadata__"},
};

static void test_wrong_headers(const fixture *f) {
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const wrong_case *c = &wrong[i];
        fl_safetensors *st = NULL;
        fl_err e = {0};
        fixture_safetensors(f, "model.safetensors", c->header, NULL, c->n);
        int rc = fl_safetensors_open(&st, fixture_path(f, "model.safetensors"), &e);
        check(rc == c->code && e.code == rc && !st && strstr(e.msg, "model.safetensors") &&
                  strstr(e.msg, c->says),
              "%s: %s", c->what, e.msg);
        fl_safetensors_close(st);
    }
}

/* Files whose first bytes are wrong. */
static void test_wrong_starts(const fixture *f) {
    static const struct {
        const char *what, *data;
        size_t n;
        const char *says;
    } cases[] = {
        {"empty file", "", 0, "0 bytes"},
        {"seven bytes", "\2\0\0\0\0\0\0", 7, "7 bytes"},
        {"header longer than the file", "\3\0\0\0\0\0\0\0{}", 10, "exceeds the file's 10 bytes"},
        {"header of 100000001 bytes", "\1\xe1\xf5\5\0\0\0\0{}", 10, "100000001"},
        {"header of 2^64-1 bytes", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "limit"},
        {"git-lfs pointer",
         "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976698672\n", 73,
         "git-lfs pointer of 73 bytes, not the file it stands for (4976698672 bytes)"},
        {"git-lfs pointer cut short", "version https://git-lfs", 23, "git-lfs pointer"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_safetensors *st;
        fl_err e = {0};
        fixture_write(f, "model.safetensors", cases[i].data, cases[i].n);
        int rc = fl_safetensors_open(&st, fixture_path(f, "model.safetensors"), &e);
        check(rc == FL_E_FORMAT && strstr(e.msg, cases[i].says), "%s: %s", cases[i].what, e.msg);
    }
    fl_safetensors *st;
    fl_err e = {0};
    check(fl_safetensors_open(&st, fixture_path(f, "none.safetensors"), &e) == FL_E_IO,
          "missing file: %s", e.msg);
    check(fl_safetensors_open(&st, f->dir, &e) == FL_E_IO, "a folder: %s", e.msg);
}

/* A header of n levels, without building it by hand. */
static void test_depth(const fixture *f) {
    char header[2000];
    memset(header, '[', 1000);
    memset(header + 1000, ']', 1000);
    header[1999] = '\0';
    fl_safetensors *st;
    fl_err e = {0};
    fixture_safetensors(f, "model.safetensors", header, NULL, 0);
    check(fl_safetensors_open(&st, fixture_path(f, "model.safetensors"), &e) == FL_E_LIMIT,
          "1000 levels: %s", e.msg);
}

static const char good_header[] =
    " \n{\"__metadata__\":{\"format\":\"pt\"},"
    "\"odd\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,3],\"data_offsets\":[14,17],\"extra\":{\"x\":[1]}}"
    ","
    "\"half\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[10,14]},"
    "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
    "\"b\\u00e9\":{\"dtype\":\"BF16\",\"shape\":[3,1],\"data_offsets\":[4,10]},"
    "\"late\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[17,21]}} \t ";

static const uint8_t good_data[21] = {0,    0,    0xc0, 0x3f,             /* 1.5 */
                                      0x80, 0x3f, 0,    0xc0, 0xc0, 0x7f, /* 1, -2, NaN */
                                      0,    0x3c, 1,    0,                /* 1, 2^-24 */
                                      0x38, 0xfe, 1,                      /* 1, -448, 2^-9 */
                                      0,    0,    0x80, 0x40};            /* 4, at an odd address */

static void test_good(const fixture *f) {
    fl_safetensors *st = NULL;
    fl_err e = {0};
    char shape[160];
    fixture_safetensors(f, "good.safetensors", good_header, good_data, sizeof(good_data));
    if (!check(!fl_safetensors_open(&st, fixture_path(f, "good.safetensors"), &e), "opens: %s",
               e.msg))
        return;
    check(fl_safetensors_count(st) == 6, "six tensors, __metadata__ is none");
    static const char *const order[] = {"scalar", "none", "b\xc3\xa9", "half", "odd", "late"};
    bool in_order = true;
    for (size_t i = 0; i < 6; i++) in_order &= !strcmp(fl_safetensors_at(st, i)->name, order[i]);
    check(in_order && !fl_safetensors_at(st, 6), "listed in file order");
    check(!fl_safetensors_find(st, "od") && !fl_safetensors_find(st, "__metadata__"),
          "other names are absent");
    static const struct {
        const char *name, *shape;
        fl_dtype dtype;
        int64_t n;
        float v[3];
    } want[] = {
        {"scalar", "[]", FL_DTYPE_F32, 1, {1.5f}},
        {"none", "[0,7]", FL_DTYPE_F32, 0, {0}},
        {"b\xc3\xa9", "[3,1]", FL_DTYPE_BF16, 3, {1, -2, NAN}},
        {"half", "[2]", FL_DTYPE_F16, 2, {1, 0x1p-24f}},
        {"odd", "[1,3]", FL_DTYPE_E4M3, 3, {1, -448, 0x1p-9f}},
        {"late", "[1]", FL_DTYPE_F32, 1, {4}},
    };
    for (size_t i = 0; i < 6; i++) {
        const fl_st_tensor *t = fl_safetensors_find(st, want[i].name);
        bool ok = t && t->dtype == want[i].dtype && fl_st_numel(t) == want[i].n &&
                  !strcmp(fl_st_shape(shape, t), want[i].shape) &&
                  !strcmp(t->file, "good.safetensors") &&
                  t->bytes == (uint64_t)(want[i].n * fl_dtype_bytes(t->dtype));
        for (int64_t k = 0; ok && k < want[i].n; k++) {
            float v = fl_st_value(t, k);
            ok = v == want[i].v[k] || (isnan(v) && isnan(want[i].v[k]));
        }
        check(ok, "%s: dtype, shape, bytes and values", want[i].name);
    }
    fl_safetensors_close(st);
    fl_safetensors_close(NULL);
}

static void test_no_tensors(const fixture *f) {
    fl_safetensors *st;
    fl_err e = {0};
    fixture_safetensors(f, "model.safetensors", "{}", NULL, 0);
    check(!fl_safetensors_open(&st, fixture_path(f, "model.safetensors"), &e) &&
              fl_safetensors_count(st) == 0 && !fl_safetensors_find(st, "a"),
          "a file without tensors");
    fl_safetensors_close(st);
}

/* The product passes 2^63 before the 0 ends it. */
static void test_wide_and_empty(const fixture *f) {
    fl_safetensors *st;
    fixture_safetensors(f, "model.safetensors",
                        "{" A("F32", "[281474976710655,65535,0]", "0", "0") "}", NULL, 0);
    int rc = fl_safetensors_open(&st, fixture_path(f, "model.safetensors"), NULL);
    check(!rc && fl_st_numel(fl_safetensors_at(st, 0)) == 0,
          "a huge shape with a 0 has no element");
    fl_safetensors_close(st);
}

static void test_shape_text(void) {
    fl_st_tensor t = {.ndim = FL_ST_MAX_DIMS};
    char shape[160];
    for (int i = 0; i < FL_ST_MAX_DIMS; i++) t.dim[i] = (INT64_C(1) << 48) - 1;
    check(strlen(fl_st_shape(shape, &t)) == 8 * 15 + 7 + 2, "the longest shape fits its text");
}

static int open_once(void *ctx) {
    fl_safetensors *st;
    int rc = fl_safetensors_open(&st, ctx, NULL);
    fl_safetensors_close(st);
    return rc;
}

/* Every byte of a small file, each of its bits: open or refuse, never crash, and what
 * opens can be read to its last value. */
static void test_bit_flips(const fixture *f) {
    size_t len = strlen(good_header), n = 8 + len + sizeof(good_data);
    uint8_t file[1024] = {0};
    int opened = 0, refused = 0, odd_code = 0;
    memcpy(file + 8, good_header, len);
    memcpy(file + 8 + len, good_data, sizeof(good_data));
    file[0] = (uint8_t)len;
    file[1] = (uint8_t)(len >> 8);
    for (size_t i = 0; i < (8 + len) * 8; i++) {
        fl_safetensors *st;
        file[i / 8] ^= (uint8_t)(1u << (i % 8));
        fixture_write(f, "flip.safetensors", file, n);
        file[i / 8] ^= (uint8_t)(1u << (i % 8));
        int rc = fl_safetensors_open(&st, fixture_path(f, "flip.safetensors"), NULL);
        opened += rc == FL_OK;
        refused += rc != FL_OK;
        odd_code += rc && rc != FL_E_FORMAT && rc != FL_E_LIMIT;
        uint8_t sum = 0;
        for (size_t k = 0; st && k < fl_safetensors_count(st); k++) {
            const fl_st_tensor *t = fl_safetensors_at(st, k);
            for (uint64_t b = 0; b < t->bytes; b++) sum = (uint8_t)(sum + t->data[b]);
        }
        (void)sum;
        fl_safetensors_close(st);
    }
    check(opened > 100 && refused > 1000 && !odd_code,
          "bit flips: %d open, %d are refused, %d with a strange code", opened, refused, odd_code);
    int truncated = 0;
    for (size_t k = 0; k < n; k++) {
        fl_safetensors *st;
        fixture_write(f, "flip.safetensors", file, k);
        truncated +=
            fl_safetensors_open(&st, fixture_path(f, "flip.safetensors"), NULL) == FL_E_FORMAT;
        fl_safetensors_close(st);
    }
    check(truncated == (int)n, "every truncation is refused (%d of %zu)", truncated, n);
}

int main(void) {
    fixture f;
    fixture_new(&f);
    test_good(&f);
    test_no_tensors(&f);
    test_wrong_headers(&f);
    test_wrong_starts(&f);
    test_depth(&f);
    test_wide_and_empty(&f);
    test_shape_text();
    char path[512];
    snprintf(path, sizeof(path), "%s", fixture_path(&f, "good.safetensors"));
    check(fixture_sweep(open_once, path) > 5, "every failing allocation is FL_E_NOMEM");
    test_bit_flips(&f);
    fixture_free(&f);
    return tap_done();
}
