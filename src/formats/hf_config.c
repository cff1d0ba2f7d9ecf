#include "formats/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "util/file.h"
#include "util/json.h"
#include "util/mem.h"

/* Maxima: well above every published Llama, low enough that no product of two overflows. */
enum {
    MAX_CONFIG_BYTES = 16 << 20,
    MAX_VOCAB = 1 << 22,
    MAX_WIDTH = 1 << 20, /* hidden_size, intermediate_size */
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 1024,
    MAX_POSITION = 1 << 27,
};

static fl_json_scope top(const fl_json *doc) {
    return (fl_json_scope){doc, fl_json_root(doc), ""};
}

/* The member, also when it is null (fl_json_get takes null for absent). */
static const fl_json_node *member(const fl_json_node *object, const char *key) {
    for (const fl_json_node *v = fl_json_first(object); v; v = fl_json_next(v)) {
        if (!strcmp(fl_json_key(v), key)) return v;
    }
    return NULL;
}

static int refuse(fl_json_scope s, const char *key, const char *value, const char *what,
                  fl_err *err) {
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s%s: \"%.80s\" is not supported, only %s",
                   fl_json_name(s.doc), s.path, key, value, what);
}

/* A key that must be present, for a reason. */
static int require(fl_json_scope s, const char *key, const char *why, fl_err *err) {
    if (fl_json_get(s.object, key)) return FL_OK;
    return fl_fail(err, FL_E_FORMAT, "%s: %s%s: missing, %s needs it", fl_json_name(s.doc), s.path,
                   key, why);
}

static int check_architecture(fl_json_scope s, fl_err *err) {
    int rc;
    const char *type = NULL;
    const fl_json_node *list = fl_json_get(s.object, "architectures");
    if ((rc = fl_json_read_string(s, "model_type", &type, err))) return rc;
    if (type && strcmp(type, "llama")) return refuse(s, "model_type", type, "\"llama\"", err);
    const fl_json_node *first = fl_json_first(list);
    const char *name = first ? fl_json_string(first) : NULL;
    if (list && !name)
        return fl_fail(err, FL_E_FORMAT, "%s: architectures: need a list of names",
                       fl_json_name(s.doc));
    if (name && strcmp(name, "LlamaForCausalLM"))
        return refuse(s, "architectures", name, "\"LlamaForCausalLM\"", err);
    if (type || name) return FL_OK;
    if (fl_json_get(s.object, "architecture") && fl_json_get(s.object, "mapping"))
        return fl_fail(err, FL_E_UNSUPPORTED,
                       "%s: a TensorRT-LLM checkpoint; fp8llm reads Hugging Face ones",
                       fl_json_name(s.doc));
    return fl_fail(err, FL_E_FORMAT, "%s: neither model_type nor architectures says what this is",
                   fl_json_name(s.doc));
}

/* Variants that would change the numbers while all tensor shapes still fit. */
static int check_variants(fl_json_scope s, fl_err *err) {
    int rc;
    const char *act = "silu";
    bool interleaved = false;
    double rotary = 1.0;
    if ((rc = fl_json_read_string(s, "hidden_act", &act, err)) ||
        (rc = fl_json_read_bool(s, "rope_interleaved", &interleaved, err)) ||
        (rc = fl_json_read_number(s, "partial_rotary_factor", 0.0, 1.0, &rotary, err)))
        return rc;
    if (strcmp(act, "silu")) return refuse(s, "hidden_act", act, "\"silu\"", err);
    if (interleaved) return refuse(s, "rope_interleaved", "true", "false", err);
    if (rotary < 1.0) return refuse(s, "partial_rotary_factor", "below 1", "1", err);
    return FL_OK;
}

static int read_sizes(fl_config *c, fl_json_scope s, fl_err *err) {
    int rc;
    c->vocab_size = 32000;
    c->hidden_size = 4096;
    c->ffn_size = 11008;
    c->n_layers = c->n_heads = 32;
    c->max_position = 2048;
    c->rms_norm_eps = 1e-6;
    if ((rc = fl_json_read_int(s, "vocab_size", 1, MAX_VOCAB, &c->vocab_size, err)) ||
        (rc = fl_json_read_int(s, "hidden_size", 1, MAX_WIDTH, &c->hidden_size, err)) ||
        (rc = fl_json_read_int(s, "intermediate_size", 1, MAX_WIDTH, &c->ffn_size, err)) ||
        (rc = fl_json_read_int(s, "num_hidden_layers", 1, MAX_LAYERS, &c->n_layers, err)) ||
        (rc = fl_json_read_int(s, "num_attention_heads", 1, MAX_HEADS, &c->n_heads, err)) ||
        (rc = fl_json_read_int(s, "max_position_embeddings", 1, MAX_POSITION, &c->max_position,
                               err)) ||
        (rc = fl_json_read_number(s, "rms_norm_eps", 0.0, 1.0, &c->rms_norm_eps, err)))
        return rc;
    c->n_kv_heads = c->n_heads;
    return fl_json_read_int(s, "num_key_value_heads", 1, MAX_HEADS, &c->n_kv_heads, err);
}

static int check_heads(fl_config *c, fl_json_scope s, fl_err *err) {
    const char *file = fl_json_name(s.doc);
    if (c->n_heads % c->n_kv_heads)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                       file, (long long)c->n_heads, (long long)c->n_kv_heads);
    int rc = fl_json_read_int(s, "head_dim", 2, MAX_HEAD_DIM, &c->head_dim, err);
    if (rc) return rc;
    if (!c->head_dim) {
        if (c->hidden_size % c->n_heads)
            return fl_fail(err, FL_E_FORMAT,
                           "%s: hidden_size %lld is no multiple of num_attention_heads %lld and "
                           "head_dim is absent",
                           file, (long long)c->hidden_size, (long long)c->n_heads);
        c->head_dim = c->hidden_size / c->n_heads;
    }
    if (c->head_dim < 2 || c->head_dim > MAX_HEAD_DIM || c->head_dim % 2)
        return fl_fail(err, FL_E_FORMAT, "%s: head_dim %lld: need an even size in [2, %d]", file,
                       (long long)c->head_dim, MAX_HEAD_DIM);
    return FL_OK;
}

static int read_llama3_rope(fl_rope_config *r, fl_json_scope s, fl_err *err) {
    static const char *const keys[] = {"factor", "low_freq_factor", "high_freq_factor",
                                       "original_max_position_embeddings"};
    int rc;
    for (int i = 0; i < 4; i++) {
        if ((rc = require(s, keys[i], "rope type llama3", err))) return rc;
    }
    if ((rc = fl_json_read_number(s, keys[0], 1.0, 1e6, &r->factor, err)) ||
        (rc = fl_json_read_number(s, keys[1], 1e-6, 1e6, &r->low_freq_factor, err)) ||
        (rc = fl_json_read_number(s, keys[2], 1e-6, 1e6, &r->high_freq_factor, err)) ||
        (rc = fl_json_read_int(s, keys[3], 1, MAX_POSITION, &r->original_max_position, err)))
        return rc;
    if (r->high_freq_factor <= r->low_freq_factor)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %shigh_freq_factor %g is not above low_freq_factor %g",
                       fl_json_name(s.doc), s.path, r->high_freq_factor, r->low_freq_factor);
    r->type = FL_ROPE_LLAMA3;
    return FL_OK;
}

/* s: rope_scaling, or rope_parameters of transformers 5, which also holds rope_theta. */
static int read_rope_scaling(fl_rope_config *r, fl_json_scope s, fl_err *err) {
    int rc;
    const char *type = "default";
    if ((rc = fl_json_read_string(s, "type", &type, err)) ||
        (rc = fl_json_read_string(s, "rope_type", &type, err)) ||
        (rc = fl_json_read_number(s, "rope_theta", 1.0, 1e15, &r->theta, err)))
        return rc;
    if (!strcmp(type, "default")) return FL_OK;
    if (!strcmp(type, "llama3")) return read_llama3_rope(r, s, err);
    if (strcmp(type, "linear"))
        return refuse(s, "rope_type", type, "\"default\", \"linear\" and \"llama3\"", err);
    if ((rc = require(s, "factor", "rope type linear", err))) return rc;
    r->type = FL_ROPE_LINEAR;
    return fl_json_read_number(s, "factor", 1e-6, 1e6, &r->factor, err);
}

static int read_rope(fl_rope_config *r, fl_json_scope s, fl_err *err) {
    int rc;
    r->theta = 10000.0;
    r->factor = 1.0;
    if ((rc = fl_json_read_number(s, "rope_theta", 1.0, 1e15, &r->theta, err))) return rc;
    bool v5 = fl_json_get(s.object, "rope_parameters") != NULL;
    const char *key = v5 ? "rope_parameters" : "rope_scaling";
    const fl_json_node *scaling = fl_json_get(s.object, key);
    if (!scaling) return FL_OK;
    if (!fl_json_is_object(scaling))
        return fl_fail(err, FL_E_FORMAT, "%s: %s: not an object", fl_json_name(s.doc), key);
    fl_json_scope in = {s.doc, scaling, v5 ? "rope_parameters." : "rope_scaling."};
    double rotary = 1.0;
    if ((rc = fl_json_read_number(in, "partial_rotary_factor", 0.0, 1.0, &rotary, err))) return rc;
    if (rotary < 1.0) return refuse(in, "partial_rotary_factor", "below 1", "1", err);
    return read_rope_scaling(r, in, err);
}

static int read_dtype(fl_config *c, fl_json_scope s, fl_err *err) {
    static const struct {
        const char *name;
        fl_dtype dtype;
    } known[] = {{"bfloat16", FL_DTYPE_BF16}, {"float16", FL_DTYPE_F16}, {"float32", FL_DTYPE_F32}};
    int rc;
    const char *name = "float32", *key = "torch_dtype";
    if (!fl_json_get(s.object, key)) key = "dtype"; /* transformers 5 */
    if ((rc = fl_json_read_string(s, key, &name, err))) return rc;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(name, known[i].name)) continue;
        c->dtype = known[i].dtype;
        return FL_OK;
    }
    return refuse(s, key, name, "\"bfloat16\", \"float16\" and \"float32\"", err);
}

static int read_flags(fl_config *c, fl_json_scope s, fl_err *err) {
    int rc;
    bool legacy = false; /* `bias`, before attention_bias had its name */
    if ((rc = fl_json_read_bool(s, "tie_word_embeddings", &c->tied, err)) ||
        (rc = fl_json_read_bool(s, "bias", &legacy, err)) ||
        (rc = fl_json_read_bool(s, "attention_bias", &c->attention_bias, err)) ||
        (rc = fl_json_read_bool(s, "mlp_bias", &c->mlp_bias, err)))
        return rc;
    c->attention_bias |= legacy;
    return FL_OK;
}

/* Absent: the default.  null: none, -1. */
static int read_id(int32_t *out, fl_json_scope s, const char *key, int32_t absent, fl_err *err) {
    int64_t id = member(s.object, key) ? -1 : absent;
    int rc = fl_json_read_int(s, key, -1, INT32_MAX, &id, err);
    if (!rc) *out = (int32_t)id;
    return rc;
}

static int add_eos(fl_config *c, fl_json_scope s, int64_t id, fl_err *err) {
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos_ids[i] == id) return FL_OK;
    }
    if (c->n_eos == FL_MAX_EOS)
        return fl_fail(err, FL_E_LIMIT, "%s: eos_token_id: more than %d end tokens",
                       fl_json_name(s.doc), FL_MAX_EOS);
    c->eos_ids[c->n_eos++] = (int32_t)id;
    return FL_OK;
}

static int read_eos(fl_config *c, fl_json_scope s, fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, "eos_token_id");
    if (!v) return FL_OK;
    const fl_json_node *item = fl_json_is_array(v) ? fl_json_first(v) : v;
    while (item) {
        int64_t id;
        if (!fl_json_is_int(item, &id) || id < 0 || id > INT32_MAX)
            return fl_fail(err, FL_E_FORMAT, "%s: eos_token_id: need a token id or a list of them",
                           fl_json_name(s.doc));
        int rc = add_eos(c, s, id, err);
        if (rc) return rc;
        item = item == v ? NULL : fl_json_next(item);
    }
    return FL_OK;
}

static int read_tokens(fl_config *c, fl_json_scope s, fl_err *err) {
    int rc;
    if ((rc = read_id(&c->bos_id, s, "bos_token_id", 1, err)) ||
        (rc = read_id(&c->pad_id, s, "pad_token_id", -1, err)))
        return rc;
    return read_eos(c, s, err);
}

static int read_config(fl_config *c, const fl_json *doc, fl_err *err) {
    int rc;
    fl_json_scope s = top(doc);
    if (!fl_json_is_object(s.object))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    if ((rc = check_architecture(s, err)) || (rc = check_variants(s, err)) ||
        (rc = read_sizes(c, s, err)) || (rc = check_heads(c, s, err)) ||
        (rc = read_rope(&c->rope, s, err)) || (rc = read_dtype(c, s, err)) ||
        (rc = read_flags(c, s, err)))
        return rc;
    return read_tokens(c, s, err);
}

static int read_generation(fl_config *c, fl_generation_config *g, const fl_json *doc, fl_err *err) {
    int rc;
    fl_json_scope s = top(doc);
    if (!fl_json_is_object(s.object))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    if ((rc = read_eos(c, s, err)) ||
        (rc = fl_json_read_number(s, "temperature", 0.0, 1e3, &g->temperature, err)) ||
        (rc = fl_json_read_number(s, "top_p", 0.0, 1.0, &g->top_p, err)) ||
        (rc = fl_json_read_number(s, "min_p", 0.0, 1.0, &g->min_p, err)) ||
        (rc = fl_json_read_number(s, "repetition_penalty", 1e-3, 1e3, &g->repetition_penalty,
                                  err)) ||
        (rc = fl_json_read_int(s, "top_k", -1, INT32_MAX, &g->top_k, err)) ||
        (rc = fl_json_read_int(s, "max_new_tokens", 1, INT32_MAX, &g->max_new_tokens, err)) ||
        (rc = fl_json_read_bool(s, "do_sample", &g->do_sample, err)))
        return rc;
    g->has_temperature = fl_json_get(s.object, "temperature") != NULL;
    g->has_top_p = fl_json_get(s.object, "top_p") != NULL;
    g->has_min_p = fl_json_get(s.object, "min_p") != NULL;
    g->has_repetition_penalty = fl_json_get(s.object, "repetition_penalty") != NULL;
    g->has_top_k = fl_json_get(s.object, "top_k") != NULL;
    g->has_max_new_tokens = fl_json_get(s.object, "max_new_tokens") != NULL;
    g->has_do_sample = fl_json_get(s.object, "do_sample") != NULL;
    return FL_OK;
}

/* Only when no file says anything: 2 is an ordinary token of a Llama 3. */
static void default_eos(fl_config *c, const fl_json *doc) {
    if (!c->n_eos && !member(fl_json_root(doc), "eos_token_id")) c->eos_ids[c->n_eos++] = 2;
}

int fl_config_parse(fl_config *out, const char *text, const char *name, fl_err *err) {
    fl_json *doc;
    fl_config c = {0};
    int rc = fl_json_parse(&doc, text, strlen(text), name, err);
    if (rc) return rc;
    if (!(rc = read_config(&c, doc, err))) {
        default_eos(&c, doc);
        *out = c;
    }
    fl_json_free(doc);
    return rc;
}

int fl_config_load(fl_config *out, fl_generation_config *gen, const char *dir, fl_err *err) {
    int rc;
    fl_json *doc = NULL, *gen_doc = NULL;
    fl_config c = {0};
    fl_generation_config g = {.temperature = 1.0, .top_p = 1.0, .repetition_penalty = 1.0};
    char *path = fl_path_join(dir, "config.json");
    char *gen_path = fl_path_join(dir, "generation_config.json");
    if (!path || !gen_path) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    if ((rc = fl_json_load(&doc, path, MAX_CONFIG_BYTES, err)) || (rc = read_config(&c, doc, err)))
        goto done;
    if (fl_file_exists(gen_path)) {
        if ((rc = fl_json_load(&gen_doc, gen_path, MAX_CONFIG_BYTES, err)) ||
            (rc = read_generation(&c, &g, gen_doc, err)))
            goto done;
    }
    default_eos(&c, doc);
    *out = c;
    if (gen) *gen = g;
done:
    fl_json_free(gen_doc);
    fl_json_free(doc);
    fl_free(gen_path);
    fl_free(path);
    return rc;
}
