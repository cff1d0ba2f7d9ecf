#include "quant/recipe.h"

#include <string.h>

static bool same(const char *word, const char *text) {
    return word && !strcmp(word, text);
}

static int unknown(const char *option, const char *word, const char *need, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: '%.60s', need %s", option, word ? word : "", need);
}

static int clash(const char *what, const char *why, fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s", what, why);
}

static int read_scheme(fl_recipe *r, const fl_quantize_options *o, fl_err *err) {
    const bool dynamic = same(o->scheme, "fp8-dynamic"), block = same(o->scheme, "fp8-block");
    if (!dynamic && !block && !same(o->scheme, "fp8-static"))
        return unknown("scheme", o->scheme, "fp8-static, fp8-dynamic or fp8-block", err);
    r->act = dynamic ? FL_ACT_TOKEN : block ? FL_ACT_GROUP : FL_ACT_STATIC;
    r->format = dynamic ? FL_QUANT_COMPRESSED_TENSORS : FL_QUANT_AUTOFP8;
    if (same(o->format, "autofp8"))
        r->format = FL_QUANT_AUTOFP8;
    else if (same(o->format, "compressed-tensors"))
        r->format = FL_QUANT_COMPRESSED_TENSORS;
    else if (same(o->format, "modelopt"))
        r->format = FL_QUANT_MODELOPT;
    else if (o->format)
        return unknown("format", o->format, "autofp8, compressed-tensors or modelopt", err);
    if (block && r->format == FL_QUANT_MODELOPT)
        return clash("scheme fp8-block with format modelopt",
                     "modelopt has block scales for weights only, without FP8 inputs", err);
    bool rows = dynamic && r->format != FL_QUANT_AUTOFP8; /* AutoFP8 has one scale per weight */
    r->grain = block ? FL_GRAIN_BLOCK : rows ? FL_GRAIN_CHANNEL : FL_GRAIN_TENSOR;
    return FL_OK;
}

static int read_sparse(fl_recipe *r, const fl_quantize_options *o, fl_err *err) {
    r->prune = o->sparse != NULL;
    if (o->sparse && strcmp(o->sparse, "2:4")) return unknown("sparse", o->sparse, "2:4", err);
    if (!r->prune && (o->sparse_method || o->sparse_format))
        return fl_fail(err, FL_E_ARG, "%s: needs sparse 2:4",
                       o->sparse_method ? "sparse_method" : "sparse_format");
    if (o->sparse_method && !same(o->sparse_method, "wanda") &&
        !same(o->sparse_method, "magnitude"))
        return unknown("sparse_method", o->sparse_method, "wanda or magnitude", err);
    r->wanda = r->prune && !same(o->sparse_method, "magnitude");
    r->bitmask = same(o->sparse_format, "bitmask");
    if (o->sparse_format && !r->bitmask && strcmp(o->sparse_format, "dense"))
        return unknown("sparse_format", o->sparse_format, "dense or bitmask", err);
    if (r->bitmask && r->format != FL_QUANT_COMPRESSED_TENSORS)
        return clash("sparse_format bitmask", "only format compressed-tensors has it", err);
    if (r->bitmask && r->grain == FL_GRAIN_BLOCK)
        return clash("sparse_format bitmask with scheme fp8-block", "no reader multiplies it", err);
    return FL_OK;
}

static int read_compat(fl_recipe *r, const fl_quantize_options *o, fl_err *err) {
    if (!o->compat) return FL_OK;
    if (r->mse)
        return clash("compat with observer mse", "only minmax is repeated bit for bit", err);
    if (r->format == FL_QUANT_MODELOPT)
        return clash("compat with format modelopt", "its arithmetic is not repeated", err);
    if (r->format == FL_QUANT_AUTOFP8 && r->grain == FL_GRAIN_BLOCK)
        return clash("compat with scheme fp8-block", "AutoFP8 did not make such files", err);
    r->arithmetic =
        r->format == FL_QUANT_AUTOFP8 ? FL_ARITHMETIC_AUTOFP8 : FL_ARITHMETIC_COMPRESSED_TENSORS;
    return FL_OK;
}

int fl_recipe_read(fl_recipe *out, const fl_quantize_options *o, fl_err *err) {
    fl_recipe r = {.arithmetic = FL_ARITHMETIC_F32};
    int rc = read_scheme(&r, o, err);
    if (rc) return rc;
    r.mse = same(o->observer, "mse");
    if (o->observer && !r.mse && strcmp(o->observer, "minmax"))
        return unknown("observer", o->observer, "minmax or mse", err);
    r.kv = o->kv != NULL;
    if (o->kv && strcmp(o->kv, "fp8")) return unknown("kv", o->kv, "fp8", err);
    if ((rc = read_sparse(&r, o, err)) || (rc = read_compat(&r, o, err))) return rc;
    r.calibrate = r.act == FL_ACT_STATIC || r.kv || r.wanda;
    if (r.calibrate && !o->calibrate)
        return fl_fail(err, FL_E_ARG, "calibrate: %s needs a JSONL file",
                       r.act == FL_ACT_STATIC ? "scheme fp8-static"
                       : r.kv                 ? "kv fp8"
                                              : "sparse 2:4 by wanda");
    if (!r.calibrate && o->calibrate)
        return fl_fail(err, FL_E_ARG, "calibrate: nothing of scheme %s is calibrated", o->scheme);
    *out = r;
    return FL_OK;
}

/* ---- JSON ---- */

static void put_string(fl_bytes *b, const char *s) {
    fl_bytes_putc(b, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fl_bytes_putc(b, '\\');
        if ((unsigned char)*s < ' ')
            fl_bytes_printf(b, "\\u%04x", (unsigned)*s);
        else
            fl_bytes_putc(b, *s);
    }
    fl_bytes_putc(b, '"');
}

static void put_names(fl_bytes *b, const char *key, const char *const *names, size_t n) {
    fl_bytes_printf(b, "\"%s\": [", key);
    for (size_t i = 0; i < n; i++) {
        if (i) fl_bytes_puts(b, ", ");
        put_string(b, names[i]);
    }
    fl_bytes_puts(b, "]");
}

/* compressed-tensors' member; our loader reads it with every layout. */
static void put_sparsity(fl_bytes *b, const fl_recipe *r, const char *const *skipped, size_t n) {
    if (!r->prune) return;
    fl_bytes_printf(b,
                    ",\n    \"sparsity_config\": {\n      \"format\": \"%s\",\n"
                    "      \"sparsity_structure\": \"2:4\",\n      \"global_sparsity\": 0.5,\n"
                    "      \"targets\": [\"Linear\"],\n      ",
                    r->bitmask ? "sparse-24-bitmask" : "dense");
    put_names(b, "ignore", skipped, n);
    fl_bytes_puts(b, ",\n      \"registry_requires_subclass\": false\n    }");
}

static void put_autofp8(fl_bytes *b, const fl_recipe *r, const char *const *skipped, size_t n) {
    const bool block = r->grain == FL_GRAIN_BLOCK;
    fl_bytes_printf(b,
                    "{\n    \"quant_method\": \"fp8\",\n    \"activation_scheme\": \"%s\",\n    ",
                    r->act == FL_ACT_STATIC ? "static" : "dynamic");
    if (block) fl_bytes_puts(b, "\"fmt\": \"e4m3\",\n    \"weight_block_size\": [128, 128],\n    ");
    if (r->kv) fl_bytes_puts(b, "\"kv_cache_scheme\": \"static\",\n    ");
    /* block scales are not AutoFP8's but those of transformers, which spells it so */
    put_names(b, block ? "modules_to_not_convert" : "ignored_layers", skipped, n);
    put_sparsity(b, r, skipped, n);
    fl_bytes_puts(b, "\n  }");
}

/* QuantizationArgs of compressed-tensors. */
static void put_args(fl_bytes *b, const char *strategy, bool dynamic, const char *observer) {
    const bool group = !strcmp(strategy, "group"), block = !strcmp(strategy, "block");
    fl_bytes_printf(b,
                    "{\"num_bits\": 8, \"type\": \"float\", \"symmetric\": true, "
                    "\"strategy\": \"%s\", \"dynamic\": %s, \"group_size\": %s, "
                    "\"block_structure\": %s, \"actorder\": null, \"observer\": ",
                    strategy, dynamic ? "true" : "false", group ? "128" : "null",
                    block ? "[128, 128]" : "null");
    fl_bytes_printf(b, observer ? "\"%s\"" : "null", observer);
    fl_bytes_puts(b, ", \"observer_kwargs\": {}}");
}

static void put_compressed_tensors(fl_bytes *b, const fl_recipe *r, const char *const *skipped,
                                   size_t n) {
    static const char *const grains[] = {"tensor", "channel", "block"};
    const char *input = r->act == FL_ACT_STATIC  ? "tensor"
                        : r->act == FL_ACT_TOKEN ? "token"
                                                 : "group";
    const bool dynamic = r->act != FL_ACT_STATIC;
    fl_bytes_puts(b, "{\n    \"quant_method\": \"compressed-tensors\",\n"
                     "    \"quantization_status\": \"compressed\",\n"
                     "    \"format\": \"float-quantized\",\n    \"config_groups\": {\n"
                     "      \"group_0\": {\n        \"targets\": [\"Linear\"],\n"
                     "        \"weights\": ");
    put_args(b, grains[r->grain], false, r->mse ? "mse" : "minmax");
    fl_bytes_puts(b, ",\n        \"input_activations\": ");
    put_args(b, input, dynamic, dynamic ? NULL : "minmax");
    fl_bytes_puts(b, ",\n        \"output_activations\": null\n      }\n    },\n    ");
    put_names(b, "ignore", skipped, n);
    fl_bytes_puts(b, ",\n    \"kv_cache_scheme\": ");
    if (r->kv)
        put_args(b, "tensor", false, "minmax");
    else
        fl_bytes_puts(b, "null");
    put_sparsity(b, r, skipped, n);
    fl_bytes_puts(b, "\n  }");
}

static const char *algorithm(const fl_recipe *r) {
    return r->act == FL_ACT_STATIC ? "FP8" : "FP8_PER_CHANNEL_PER_TOKEN";
}

/* Readers know modelopt's files by this name; the version says whose layout it is. */
static const char producer[] =
    "\"producer\": {\"name\": \"modelopt\", \"version\": \"0.31.0+fp8llm\"}";

static void put_modelopt(fl_bytes *b, const fl_recipe *r, const char *const *skipped, size_t n) {
    const char *dynamic = r->act == FL_ACT_STATIC ? "false" : "true";
    fl_bytes_printf(b, "{\n    \"quant_method\": \"modelopt\",\n    \"quant_algo\": \"%s\",\n    ",
                    algorithm(r));
    if (r->kv)
        fl_bytes_puts(b, "\"kv_cache_scheme\": "
                         "{\"dynamic\": false, \"num_bits\": 8, \"type\": \"float\"},\n    ");
    put_names(b, "ignore", skipped, n);
    fl_bytes_printf(b,
                    ",\n    \"config_groups\": {\n      \"group_0\": {\n"
                    "        \"targets\": [\"Linear\"],\n        \"weights\": {\"dynamic\": false, "
                    "\"num_bits\": 8, \"type\": \"float\"},\n        \"input_activations\": "
                    "{\"dynamic\": %s, \"num_bits\": 8, \"type\": \"float\"}\n      }\n    },\n"
                    "    %s",
                    dynamic, producer);
    put_sparsity(b, r, skipped, n);
    fl_bytes_puts(b, "\n  }");
}

void fl_recipe_config(fl_bytes *out, const fl_recipe *r, const char *const *skipped, size_t n) {
    if (r->format == FL_QUANT_AUTOFP8)
        put_autofp8(out, r, skipped, n);
    else if (r->format == FL_QUANT_MODELOPT)
        put_modelopt(out, r, skipped, n);
    else
        put_compressed_tensors(out, r, skipped, n);
}

void fl_recipe_side_file(fl_bytes *out, const fl_recipe *r, const char *const *skipped, size_t n) {
    fl_bytes_printf(out,
                    "{\n  %s,\n  \"quantization\": {\n    \"quant_algo\": \"%s\",\n"
                    "    \"kv_cache_quant_algo\": %s,\n    ",
                    producer, algorithm(r), r->kv ? "\"FP8\"" : "null");
    put_names(out, "exclude_modules", skipped, n);
    fl_bytes_puts(out, "\n  }\n}\n");
}
