/* The safetensors writer: the reference's bytes, shards and their index, streaming in
 * pieces, refusals, and nothing left behind by a failure. */
#include "formats/safetensors_write.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fixture.h"
#include "formats/checkpoint.h"
#include "tap.h"
#include "util/file.h"
#include "util/mem.h"

#define GOLDEN "spec/golden/reference.safetensors" /* spec/support/gen_safetensors.py */

static const fl_st_spec specs[] = {
    {"z", FL_DTYPE_E4M3, 2, {3, 5}},
    {"model.norm.weight", FL_DTYPE_BF16, 1, {8}},
    {"b", FL_DTYPE_F32, 0, {0}},
    {"a", FL_DTYPE_F32, 2, {2, 1}},
    {"quote\"and\\back", FL_DTYPE_F16, 1, {1}},
    {"tab\tand\xc3\xa9", FL_DTYPE_U8, 1, {3}},
    {"empty", FL_DTYPE_F32, 2, {0, 4}},
    {"wide \x01\x1f", FL_DTYPE_I64, 2, {1, 2}},
    {"i", FL_DTYPE_I32, 1, {1}},
    {"bool", FL_DTYPE_BOOL, 1, {1}},
};
enum { N_SPECS = sizeof(specs) / sizeof(specs[0]) };

/* Byte i of tensor t, as the generator of the golden file makes it. */
static uint8_t byte_of(size_t t, uint64_t i) {
    return (uint8_t)(7 * i + t);
}

/* Everything, at most `piece` bytes a call. */
static int write_all(const char *dir, uint64_t shard_bytes, size_t piece, fl_err *err) {
    fl_st_writer *w;
    int rc = fl_st_writer_new(&w, dir, specs, N_SPECS, shard_bytes, err);
    if (rc) return rc;
    uint64_t left;
    size_t t, last = N_SPECS;
    uint64_t at = 0;
    while ((t = fl_st_writer_next(w, &left)) < N_SPECS) {
        uint8_t data[64];
        size_t n = left < piece ? (size_t)left : piece;
        if (t != last) at = 0;
        last = t;
        for (size_t i = 0; i < n; i++) data[i] = byte_of(t, at + i);
        at += n;
        if ((rc = fl_st_writer_put(w, data, n, err))) {
            fl_st_writer_abort(w);
            return rc;
        }
    }
    return fl_st_writer_finish(w, err);
}

static bool same_file(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    bool same = !fl_file_read(&x, &n, a, 1 << 20, NULL) &&
                !fl_file_read(&y, &m, b, 1 << 20, NULL) && n == m && !memcmp(x, y, n);
    fl_free(x);
    fl_free(y);
    return same;
}

static bool complete(const char *dir) {
    fl_checkpoint *ck;
    bool ok = !fl_checkpoint_open(&ck, dir, NULL) && fl_checkpoint_count(ck) == N_SPECS;
    for (size_t t = 0; ok && t < N_SPECS; t++) {
        const fl_st_tensor *x = fl_checkpoint_find(ck, specs[t].name);
        ok = x && x->dtype == specs[t].dtype && x->ndim == specs[t].ndim;
        for (int i = 0; ok && i < x->ndim; i++) ok = x->dim[i] == specs[t].dim[i];
        for (uint64_t i = 0; ok && i < x->bytes; i++) ok = x->data[i] == byte_of(t, i);
    }
    fl_checkpoint_close(ck);
    return ok;
}

static size_t count_files(const char *dir, const char *suffix) {
    char **names = NULL;
    size_t n = 0;
    fl_dir_list(&names, &n, dir, suffix, NULL);
    fl_free(names);
    return n;
}

static void test_reference_bytes(void) {
    static const size_t pieces[] = {64, 5, 1};
    for (size_t i = 0; i < 3; i++) {
        fixture f;
        fl_err e = {0};
        fixture_new(&f);
        check(!write_all(f.dir, 0, pieces[i], &e) &&
                  same_file(GOLDEN, fixture_path(&f, "model.safetensors")),
              "the reference writer's bytes, %zu bytes a call %s", pieces[i], e.msg);
        check(count_files(f.dir, "") == 3, "no other file"); /* with . and .. */
        fixture_free(&f);
    }
}

static void test_shards(void) {
    static const struct {
        uint64_t limit;
        size_t files;
    } cases[] = {{1, 9}, {16, 6}, {31, 3}, {50, 2}, {69, 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fixture f;
        fl_err e = {0};
        fixture_new(&f);
        int rc = write_all(f.dir, cases[i].limit, 64, &e);
        size_t n = count_files(f.dir, ".safetensors");
        check(!rc && n == cases[i].files && complete(f.dir),
              "shards of %llu bytes: %zu files hold every tensor %s",
              (unsigned long long)cases[i].limit, n, e.msg);
        check(fl_file_exists(fixture_path(&f, "model.safetensors.index.json")) == (n > 1) &&
                  !count_files(f.dir, ".tmp"),
              "an index when there are several, no .tmp");
        fixture_free(&f);
    }
}

static void test_index_text(void) {
    static const char want[] =
        "{\n  \"metadata\": {\n    \"total_size\": 3\n  },\n  \"weight_map\": {\n"
        "    \"a\": \"model-00002-of-00002.safetensors\",\n"
        "    \"b\": \"model-00001-of-00002.safetensors\"\n  }\n}\n";
    static const fl_st_spec two[] = {{"b", FL_DTYPE_U8, 1, {1}}, {"a", FL_DTYPE_U8, 1, {2}}};
    fixture f;
    fl_st_writer *w;
    char *text = NULL;
    size_t n = 0;
    fixture_new(&f);
    bool ok = !fl_st_writer_new(&w, f.dir, two, 2, 1, NULL) && !fl_st_writer_put(w, "x", 1, NULL) &&
              !fl_st_writer_put(w, "yz", 2, NULL) && !fl_st_writer_finish(w, NULL);
    fl_file_read(&text, &n, fixture_path(&f, "model.safetensors.index.json"), 4096, NULL);
    check(ok && text && !strcmp(text, want), "the index as the reference libraries lay it out");
    fl_free(text);
    fixture_free(&f);
}

static void test_nothing(void) {
    fixture f;
    fl_st_writer *w;
    fl_checkpoint *ck = NULL;
    fixture_new(&f);
    check(!fl_st_writer_new(&w, f.dir, NULL, 0, 0, NULL) && !fl_st_writer_finish(w, NULL) &&
              !fl_checkpoint_open(&ck, f.dir, NULL) && fl_checkpoint_count(ck) == 0,
          "no tensors: an empty, valid file");
    fl_checkpoint_close(ck);
    fixture_free(&f);
}

static void test_limits(void) {
    static const fl_st_spec eight = {"a", FL_DTYPE_U8, 8, {1, 1, 1, 1, 1, 1, 1, 1}};
    enum { N = 4097 };
    fl_st_spec *many = fl_alloc_array(N, sizeof(*many));
    char(*names)[16] = fl_alloc_array(N, sizeof(*names));
    fl_st_writer *w;
    fl_err e = {0};
    fixture f;
    fixture_new(&f);
    check(!fl_st_writer_new(&w, f.dir, &eight, 1, 0, NULL), "eight dimensions");
    fl_st_writer_abort(w);
    for (int i = 0; many && names && i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "%d", i);
        many[i] = (fl_st_spec){names[i], FL_DTYPE_U8, 1, {1}};
    }
    check(!fl_st_writer_new(&w, f.dir, many, N - 1, 1, NULL), "4096 shards");
    fl_st_writer_abort(w);
    check(fl_st_writer_new(&w, f.dir, many, N, 1, &e) == FL_E_LIMIT, "4097 shards: %s", e.msg);
    fl_free(names);
    fl_free(many);
    fixture_free(&f);
}

static void test_refusals(void) {
    static const struct {
        const char *what;
        fl_st_spec spec[2];
        size_t n;
    } cases[] = {
        {"a name twice", {{"a", FL_DTYPE_F32, 0, {0}}, {"a", FL_DTYPE_F32, 0, {0}}}, 2},
        {"the name __metadata__", {{"__metadata__", FL_DTYPE_F32, 0, {0}}}, 1},
        {"a name that is not UTF-8", {{"\xff", FL_DTYPE_F32, 0, {0}}}, 1},
        {"no dtype", {{"a", FL_DTYPE_NONE, 0, {0}}}, 1},
        {"a negative dimension", {{"a", FL_DTYPE_F32, 1, {-1}}}, 1},
        {"nine dimensions", {{"a", FL_DTYPE_F32, 9, {1}}}, 1},
        {"half a byte", {{"a", FL_DTYPE_F4, 1, {1}}}, 1},
        {"overflow", {{"a", FL_DTYPE_F32, 2, {INT64_C(1) << 40, INT64_C(1) << 40}}}, 1},
        {"2^48 bytes", {{"a", FL_DTYPE_U8, 1, {INT64_C(1) << 48}}}, 1},
    };
    fixture f;
    fixture_new(&f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_st_writer *w;
        fl_err e = {0};
        int rc = fl_st_writer_new(&w, f.dir, cases[i].spec, cases[i].n, 0, &e);
        check(rc == FL_E_ARG && !w, "refused: %s: %s", cases[i].what, e.msg);
    }
    static const fl_st_spec one = {"a", FL_DTYPE_U8, 1, {2}};
    fl_st_writer *w;
    fl_err e = {0};
    fl_st_writer_new(&w, f.dir, &one, 1, 0, NULL);
    check(fl_st_writer_put(w, "xyz", 3, &e) == FL_E_ARG, "too many bytes: %s", e.msg);
    check(!fl_st_writer_put(w, "x", 1, NULL) && fl_st_writer_finish(w, &e) == FL_E_ARG,
          "unfinished: %s", e.msg);
    fl_st_writer_new(&w, f.dir, &one, 1, 0, NULL);
    check(!fl_st_writer_put(w, "xy", 2, NULL) && fl_st_writer_next(w, NULL) == 1 &&
              !fl_st_writer_put(w, "", 0, NULL) && fl_st_writer_put(w, "z", 1, &e) == FL_E_ARG,
          "data after the end: %s", e.msg);
    fl_st_writer_abort(w);
    check(count_files(f.dir, "") == 2, "an unfinished writer leaves no file");
    fixture_text(&f, "model.safetensors.index.json", "{}");
    check(fl_st_writer_new(&w, f.dir, &one, 1, 0, &e) == FL_E_ARG, "an old index: %s", e.msg);
    fixture_free(&f);
    fl_st_writer_new(&w, f.dir, &one, 1, 0, NULL);
    check(fl_st_writer_put(w, "xy", 2, &e) == FL_E_IO, "no folder: %s", e.msg);
    fl_st_writer_abort(w);
}

/* A full disk, played by the limit on the size of a file. */
static void test_full_disk(void) {
    static const fl_st_spec big[] = {{"a", FL_DTYPE_U8, 1, {9000}}, {"b", FL_DTYPE_U8, 1, {1}}};
    static const uint8_t data[9000];
    struct rlimit old, small;
    fixture f;
    fl_st_writer *w;
    fl_err e = {0};
    fixture_new(&f);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 8192;
    fl_st_writer_new(&w, f.dir, big, 2, 0, NULL);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = fl_st_writer_put(w, data, sizeof(data), &e);
    if (!rc) rc = fl_st_writer_put(w, data, 1, &e);
    rc = rc ? (fl_st_writer_abort(w), rc) : fl_st_writer_finish(w, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    check(rc == FL_E_IO && strstr(e.msg, "model.safetensors.tmp"), "no room: %s", e.msg);
    check(count_files(f.dir, "") == 2, "and nothing is left");
    fixture_free(&f);
}

static int write_once(void *ctx) {
    const fixture *f = ctx;
    fixture_remove(f, "model.safetensors.index.json");
    int rc = write_all(f->dir, 20, 64, NULL);
    return access(fixture_path(f, "model-00001-of-00005.safetensors.tmp"), F_OK) ? rc : FL_E_ARG;
}

int main(void) {
    test_reference_bytes();
    test_shards();
    test_index_text();
    test_nothing();
    test_limits();
    test_refusals();
    test_full_disk();
    fixture f;
    fixture_new(&f);
    check(fixture_sweep(write_once, &f) > 10, "every failing allocation is FL_E_NOMEM");
    check(!count_files(f.dir, ".tmp"), "and leaves no .tmp");
    fixture_free(&f);
    return tap_done();
}
