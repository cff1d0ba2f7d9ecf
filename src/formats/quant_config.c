#include "formats/quant_config.h"

#include <string.h>

#include "util/file.h"
#include "util/json.h"
#include "util/mem.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

const char *fl_quant_flavour_name(fl_quant_flavour f) {
    switch (f) {
    case FL_QUANT_NONE:
        return "none";
    case FL_QUANT_AUTOFP8:
        return "autofp8";
    case FL_QUANT_COMPRESSED_TENSORS:
        return "compressed-tensors";
    case FL_QUANT_MODELOPT:
        return "modelopt";
    case FL_QUANT_FBGEMM:
        return "fbgemm";
    }
    return "unknown";
}

static int refuse(fl_json_scope s, const char *what, const char *value, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s \"%.80s\" is not supported",
                   fl_json_name(s.doc), s.path, what, value);
}

/* quant_method "fp8": AutoFP8, and block FP8 when weight_block_size is there. */
static int plan_autofp8(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *scheme = NULL;
    int rc = fl_json_read_string(s, "activation_scheme", &scheme, err);
    if (rc) return rc;
    if (fl_json_get(s.object, "weight_block_size"))
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: %sweight_block_size: block-scaled FP8 is not supported",
                       fl_json_name(s.doc), s.path);
    if (!scheme)
        return fl_fail(err, FL_E_FORMAT, "%s: %sactivation_scheme is missing", fl_json_name(s.doc),
                       s.path);
    if (!strcmp(scheme, "static"))
        p->act = FL_ACT_STATIC;
    else if (!strcmp(scheme, "dynamic"))
        p->act = FL_ACT_TOKEN;
    else
        return refuse(s, "activation_scheme", scheme, err);
    p->flavour = FL_QUANT_AUTOFP8;
    p->kv_fp8 = fl_json_get(s.object, "kv_cache_scheme") != NULL; /* a string here: "static" */
    return FL_OK;
}

static int plan_from(fl_quant_plan *p, fl_json_scope s, fl_err *err) {
    const char *method = NULL;
    int rc = fl_json_read_string(s, "quant_method", &method, err);
    if (rc) return rc;
    if (!method)
        return fl_fail(err, FL_E_FORMAT, "%s: %squant_method is missing", fl_json_name(s.doc),
                       s.path);
    if (!strcmp(method, "fp8")) return plan_autofp8(p, s, err);
    return refuse(s, "quant_method", method, err);
}

/* The quantization section of config.json; NULL object: none. */
static int find_section(fl_json_scope *out, const fl_json *doc, fl_err *err) {
    static const char *const keys[][2] = {{"quantization_config", "quantization_config."},
                                          {"compression_config", "compression_config."}};
    const fl_json_node *root = fl_json_root(doc);
    if (!fl_json_is_object(root))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    *out = (fl_json_scope){.doc = doc};
    for (int i = 0; i < 2; i++) {
        const fl_json_node *v = fl_json_get(root, keys[i][0]);
        if (!v) continue;
        if (!fl_json_is_object(v))
            return fl_fail(err, FL_E_FORMAT, "%s: %s: not an object", fl_json_name(doc),
                           keys[i][0]);
        *out = (fl_json_scope){doc, v, keys[i][1]};
        return FL_OK;
    }
    return FL_OK;
}

int fl_quant_plan_load(fl_quant_plan *out, const char *dir, fl_err *err) {
    int rc;
    fl_json *doc = NULL;
    fl_json_scope s;
    fl_quant_plan p = {.flavour = FL_QUANT_NONE};
    char *path = fl_path_join(dir, "config.json");
    char *side = fl_path_join(dir, "hf_quant_config.json");
    if (!path || !side) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    if ((rc = fl_json_load(&doc, path, MAX_CONFIG_BYTES, err)) || (rc = find_section(&s, doc, err)))
        goto done;
    if (s.object)
        rc = plan_from(&p, s, err);
    else if (fl_file_exists(side))
        rc = fl_fail(err, FL_E_UNSUPPORTED, "%s: modelopt quantization is not supported", side);
    if (!rc) *out = p;
done:
    fl_json_free(doc);
    fl_free(side);
    fl_free(path);
    return rc;
}
