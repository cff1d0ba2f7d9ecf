/* A model directory's tensors: one file, an index with shards, files without an index,
 * and the ways a directory can be broken. */
#include "formats/checkpoint.h"

#include <string.h>
#include <unistd.h>

#include "fixture.h"
#include "tap.h"
#include "util/log.h"

#define INDEX "model.safetensors.index.json"

/* A file of U8 tensors of one byte each, named by the letters of `names`. */
static void write_letters(const fixture *f, const char *file, const char *names) {
    char header[1024];
    int n = snprintf(header, sizeof(header), "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; names[i]; i++)
        n += snprintf(header + n, sizeof(header) - (size_t)n,
                      ",\"%c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[%d,%d]}", names[i],
                      i, i + 1);
    snprintf(header + n, sizeof(header) - (size_t)n, "}");
    fixture_safetensors(f, file, header, names, strlen(names));
}

/* Names in the checkpoint's order, as one string; each tensor's byte must be its name. */
static const char *letters(char out[64], const fl_checkpoint *ck) {
    size_t n = fl_checkpoint_count(ck);
    for (size_t i = 0; i < n; i++) {
        const fl_st_tensor *t = fl_checkpoint_at(ck, i);
        out[i] = *t->data == *(const uint8_t *)t->name ? t->name[0] : '?';
    }
    out[n] = '\0';
    return out;
}

static char warning[1024];

static void keep_warning(fl_log_level level, const char *msg) {
    if (level == FL_LOG_WARN) snprintf(warning, sizeof(warning), "%s", msg);
}

typedef struct layout_case {
    const char *what;
    const char *file[4][2]; /* name, letters of its tensors (or text of an index) */
    int code;
    const char *want; /* letters in order, or what the message must hold */
} layout_case;

static const layout_case layouts[] = {
    {"one file", {{"model.safetensors", "ab"}}, 0, "ab"},
    {"one file beside others",
     {{"adapter.safetensors", "x"}, {"model.safetensors", "ab"}, {"z.safetensors", "y"}},
     0,
     "ab"},
    {"several files, no index", {{"b.safetensors", "cd"}, {"a.safetensors", "ab"}}, 0, "abcd"},
    {"an index",
     {{INDEX, "{\"metadata\":{},\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}}"},
      {"1.safetensors", "b"},
      {"2.safetensors", "a"}},
     0,
     "ab"},
    {"an index wins over model.safetensors",
     {{INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\"}}"},
      {"1.safetensors", "a"},
      {"model.safetensors", "xyz"}},
     0,
     "a"},
    {"an index leaves tensors out",
     {{INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}"},
      {"1.safetensors", "ab"},
      {"2.safetensors", "b"}},
     0,
     "ab"},
    {"nothing", {{"config.json", "{}"}}, FL_E_IO, "no model.safetensors"},
    {"pickle files",
     {{"pytorch_model.bin", "x"}},
     FL_E_UNSUPPORTED,
     "only .bin files (pytorch_model.bin)"},
    {"a .pth file",
     {{"consolidated.00.pth", "x"}},
     FL_E_UNSUPPORTED,
     "only .pth files (consolidated.00.pth)"},
    {"a GGUF file", {{"m.gguf", "x"}}, FL_E_UNSUPPORTED, "only .gguf files (m.gguf)"},
    {"a tensor in two files",
     {{"a.safetensors", "ab"}, {"b.safetensors", "bc"}},
     FL_E_FORMAT,
     "b is in a.safetensors and in b.safetensors"},
    {"index not JSON", {{INDEX, "{"}}, FL_E_FORMAT, INDEX ": line 1"},
    {"index without weight_map", {{INDEX, "{\"metadata\":{}}"}}, FL_E_FORMAT, INDEX ": weight_map"},
    {"weight_map is a list", {{INDEX, "{\"weight_map\":[]}"}}, FL_E_FORMAT, INDEX ": weight_map"},
    {"index is a list", {{INDEX, "[]"}}, FL_E_FORMAT, INDEX ": weight_map"},
    {"shard name is a number",
     {{INDEX, "{\"weight_map\":{\"a\":1}}"}},
     FL_E_FORMAT,
     "weight_map: a:"},
    {"shard name is empty",
     {{INDEX, "{\"weight_map\":{\"a\":\"\"}}"}},
     FL_E_FORMAT,
     "weight_map: a:"},
    {"shard in another folder",
     {{INDEX, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}"}},
     FL_E_FORMAT,
     "weight_map: a: \"/etc/passwd\""},
    {"shard in the folder above",
     {{INDEX, "{\"weight_map\":{\"a\":\"..\"}}"}},
     FL_E_FORMAT,
     "weight_map: a:"},
    {"shard with a backslash",
     {{INDEX, "{\"weight_map\":{\"a\":\"x\\\\y\"}}"}},
     FL_E_FORMAT,
     "weight_map: a:"},
    {"shard missing",
     {{INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\"}}"}},
     FL_E_IO,
     "1.safetensors"},
    {"a tensor not in its shard",
     {{INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}"},
      {"1.safetensors", "ab"},
      {"2.safetensors", "c"}},
     FL_E_FORMAT,
     "places b in 2.safetensors"},
    {"a name twice in weight_map: the last counts, as in Python",
     {{INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\",\"a\":\"2."
              "safetensors\"}}"},
      {"1.safetensors", "ab"},
      {"2.safetensors", "a"}},
     FL_OK,
     "ba"},
};

static void test_layouts(void) {
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        const layout_case *c = &layouts[i];
        fixture f;
        fixture_new(&f);
        for (int k = 0; k < 4 && c->file[k][0]; k++) {
            if (strstr(c->file[k][0], ".safetensors") && !strstr(c->file[k][0], ".json"))
                write_letters(&f, c->file[k][0], c->file[k][1]);
            else
                fixture_text(&f, c->file[k][0], c->file[k][1]);
        }
        fl_checkpoint *ck;
        fl_err e = {0};
        char got[64] = "";
        int rc = fl_checkpoint_open(&ck, f.dir, &e);
        if (ck) letters(got, ck);
        check(rc == c->code && (rc ? !ck && strstr(e.msg, c->want) : !strcmp(got, c->want)),
              "%s: %s%s", c->what, got, e.msg);
        if (ck)
            check(fl_checkpoint_bytes(ck) == strlen(got) && !strcmp(fl_checkpoint_dir(ck), f.dir) &&
                      !fl_checkpoint_find(ck, "?") && !fl_checkpoint_at(ck, strlen(got)),
                  "%s: bytes, folder, absent names", c->what);
        fl_checkpoint_close(ck);
        fixture_free(&f);
    }
}

/* The index says which copy of b counts; the others are mentioned once. */
static void test_left_out(void) {
    fixture f;
    fl_checkpoint *ck;
    fixture_new(&f);
    fixture_text(&f, INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    write_letters(&f, "1.safetensors", "abc");
    write_letters(&f, "2.safetensors", "b");
    fl_log_set_sink(keep_warning);
    int rc = fl_checkpoint_open(&ck, f.dir, NULL);
    fl_log_set_sink(NULL);
    check(!rc && !strcmp(fl_checkpoint_find(ck, "b")->file, "2.safetensors") &&
              !fl_checkpoint_find(ck, "c"),
          "a tensor comes from the shard the index names");
    check(strstr(warning, "2 tensors") && strstr(warning, "1.safetensors: b"), "warned: %s",
          warning);
    fl_checkpoint_close(ck);
    fixture_free(&f);
}

static void test_broken_shard(void) {
    fixture f;
    fl_checkpoint *ck;
    fl_err e = {0};
    fixture_new(&f);
    fixture_text(&f, INDEX, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    write_letters(&f, "1.safetensors", "a");
    fixture_safetensors(&f, "2.safetensors",
                        "{\"b\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", NULL, 2);
    int rc = fl_checkpoint_open(&ck, f.dir, &e);
    check(rc == FL_E_FORMAT && strstr(e.msg, "2.safetensors") && strstr(e.msg, "66 bytes") &&
              strstr(e.msg, "has 63"),
          "a truncated shard, its sizes: %s", e.msg);
    fixture_free(&f);
    check(fl_checkpoint_open(&ck, f.dir, &e) == FL_E_IO && strstr(e.msg, f.dir), "no folder: %s",
          e.msg);
}

/* 4096 names of one file without tensors, then one more. */
static void test_file_limit(void) {
    fixture f;
    fl_checkpoint *ck;
    fl_err e = {0};
    char first[512], name[32];
    fixture_new(&f);
    write_letters(&f, "0.safetensors", "");
    snprintf(first, sizeof(first), "%s", fixture_path(&f, "0.safetensors"));
    for (int i = 1; i <= 4096; i++) {
        snprintf(name, sizeof(name), "%d.safetensors", i);
        if (link(first, fixture_path(&f, name))) break;
    }
    int rc = fl_checkpoint_open(&ck, f.dir, &e);
    check(rc == FL_E_LIMIT && strstr(e.msg, "4096 files"), "4097 files: %s", e.msg);
    fixture_remove(&f, "4096.safetensors");
    check(!fl_checkpoint_open(&ck, f.dir, &e) && fl_checkpoint_count(ck) == 0, "4096 files");
    fl_checkpoint_close(ck);
    fixture_free(&f);
}

static int open_once(void *ctx) {
    fl_checkpoint *ck;
    int rc = fl_checkpoint_open(&ck, ctx, NULL);
    fl_checkpoint_close(ck);
    return rc;
}

/* A flipped file name may well be one that does not exist. */
static int open_flipped(void *ctx) {
    int rc = open_once(ctx);
    return rc == FL_E_IO ? FL_E_FORMAT : rc;
}

static void test_allocations(void) {
    fixture f;
    fixture_new(&f);
    write_letters(&f, "1.safetensors", "ab");
    write_letters(&f, "2.safetensors", "cd");
    check(fixture_sweep(open_once, f.dir) > 10, "failing allocations, files without an index");
    static const char index[] =
        "{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}";
    fixture_text(&f, INDEX, index);
    check(fixture_sweep(open_once, f.dir) > 10, "failing allocations, with an index");
    int n_refused = fixture_flip(&f, INDEX, index, open_flipped, f.dir);
    check(n_refused > 300, "bit flips of the index: %d of %zu are refused", n_refused,
          8 * strlen(index));
    fixture_free(&f);
}

int main(void) {
    fl_log_set_sink(keep_warning);
    test_layouts();
    fl_log_set_sink(NULL);
    test_left_out();
    test_broken_shard();
    test_file_limit();
    fl_log_set_sink(keep_warning);
    test_allocations();
    return tap_done();
}
