#include "quant/side_files.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "util/file.h"
#include "util/log.h"
#include "util/mem.h"

enum { MAX_BYTES = 256 << 20 }; /* no tokenizer comes near it */

static bool ends_in(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcasecmp(s + n - k, end);
}

/* Weights, what is written anew, what describes another model, hidden files. */
static bool stays_behind(const char *name) {
    static const char *const ends[] = {
        ".safetensors", ".index.json", ".bin", ".pth",    ".pt",  ".gguf", ".onnx", ".onnx_data",
        ".h5",          ".msgpack",    ".ot",  ".tflite", ".npz", ".tmp",  NULL};
    if (*name == '.' || !strcmp(name, "config.json") || !strcmp(name, "hf_quant_config.json") ||
        !strncasecmp(name, "README", 6))
        return true;
    for (int i = 0; ends[i]; i++)
        if (ends_in(name, ends[i])) return true;
    return false;
}

static int copy_file(const char *from, const char *to, fl_err *err) {
    char *data = NULL;
    size_t n;
    int rc = fl_file_read(&data, &n, from, MAX_BYTES, err);
    if (!rc) rc = fl_file_write(to, data, n, err);
    fl_free(data);
    return rc;
}

/* One name of a folder; folders in it, and files too large to be a tokenizer's, are left out. */
static int copy_name(const char *from_dir, const char *to_dir, const char *name, fl_err *err) {
    fl_err why;
    char *from = fl_path_join(from_dir, name), *to = fl_path_join(to_dir, name);
    int rc = FL_OK;
    if (!from || !to) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", name);
    } else if (!fl_dir_exists(from) && fl_file_exists(from) &&
               (rc = copy_file(from, to, &why)) == FL_E_LIMIT) {
        fl_log(FL_LOG_WARN, "%s: not copied", why.msg);
        rc = FL_OK;
    } else if (rc) {
        rc = fl_fail(err, rc, "%s", why.msg);
    }
    fl_free(from);
    fl_free(to);
    return rc;
}

static int copy_all(const char *from, const char *to, const char *suffix, fl_err *err) {
    char **names;
    size_t n;
    int rc = fl_dir_list(&names, &n, from, suffix, err);
    if (rc) return rc;
    for (size_t i = 0; i < n && !rc; i++)
        if (!stays_behind(names[i])) rc = copy_name(from, to, names[i], err);
    fl_free(names);
    return rc;
}

int fl_side_files_copy(const char *from, const char *to, fl_err *err) {
    static const char templates[] = "additional_chat_templates";
    char *inner_from = fl_path_join(from, templates), *inner_to = fl_path_join(to, templates);
    int rc = inner_from && inner_to ? copy_all(from, to, "", err)
                                    : fl_fail(err, FL_E_NOMEM, "%s", templates);
    if (!rc && fl_dir_exists(inner_from) && !(rc = fl_dir_make(inner_to, err)))
        rc = copy_all(inner_from, inner_to, ".jinja", err);
    fl_free(inner_from);
    fl_free(inner_to);
    return rc;
}
