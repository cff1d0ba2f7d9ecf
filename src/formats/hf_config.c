#include "formats/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "util/file.h"
#include "util/json.h"
#include "util/log.h"
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

static int check_architecture(fl_config *c, fl_json_scope s, fl_err *err) {
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
    /* LlamaModel: saved without its head, which tied ones do not miss */
    if (name && strcmp(name, "LlamaForCausalLM") && strcmp(name, "LlamaModel"))
        return refuse(s, "architectures", name, "\"LlamaForCausalLM\"", err);
    snprintf(c->architecture, sizeof(c->architecture), "%s", name ? name : "LlamaForCausalLM");
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
    if (strcmp(act, "silu") && strcmp(act, "swish")) /* two names of one function */
        return refuse(s, "hidden_act", act, "\"silu\"", err);
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

/* One of the two objects, checked; a NULL object when it is absent, null or empty. */
static int find_rope(fl_json_scope *out, fl_json_scope s, const char *key, const char *path,
                     fl_err *err) {
    const fl_json_node *v = fl_json_get(s.object, key);
    if (v && !fl_json_is_object(v))
        return fl_fail(err, FL_E_FORMAT, "%s: %s: not an object", fl_json_name(s.doc), key);
    *out = (fl_json_scope){s.doc, fl_json_first(v) ? v : NULL, path};
    return FL_OK;
}

static const char *rope_type_of(fl_json_scope s) {
    const char *type = fl_json_string(fl_json_get(s.object, "rope_type"));
    if (!type) type = fl_json_string(fl_json_get(s.object, "type"));
    return type ? type : "default";
}

/* rope_scaling counts where both are there, as in transformers: it is what people add to a file,
 * and what older versions read.  The theta that only rope_parameters tells stays. */
static int read_rope(fl_rope_config *r, fl_json_scope s, fl_err *err) {
    fl_json_scope scaling, parameters;
    int rc;
    r->theta = 10000.0;
    r->factor = 1.0;
    if ((rc = find_rope(&scaling, s, "rope_scaling", "rope_scaling.", err)) ||
        (rc = find_rope(&parameters, s, "rope_parameters", "rope_parameters.", err)) ||
        (rc = fl_json_read_number(parameters, "rope_theta", 1.0, 1e15, &r->theta, err)) ||
        (rc = fl_json_read_number(s, "rope_theta", 1.0, 1e15, &r->theta, err)))
        return rc;
    const fl_json_scope in = scaling.object ? scaling : parameters;
    double rotary = 1.0;
    if (!in.object) return FL_OK;
    if (scaling.object && parameters.object &&
        strcmp(rope_type_of(scaling), rope_type_of(parameters)) != 0)
        fl_log(FL_LOG_WARN,
               "%s: rope_scaling says \"%.40s\", rope_parameters \"%.40s\": rope_scaling counts",
               fl_json_name(s.doc), rope_type_of(scaling), rope_type_of(parameters));
    if ((rc = fl_json_read_number(in, "partial_rotary_factor", 0.0, 1.0, &rotary, err))) return rc;
    if (rotary < 1.0) return refuse(in, "partial_rotary_factor", "below 1", "1", err);
    return read_rope_scaling(r, in, err);
}

/* "bfloat16" or, as torch itself shows it, "torch.bfloat16"; "auto" is the type that the weights
 * have, as is none at all. */
static int read_dtype(fl_config *c, fl_json_scope s, fl_err *err) {
    static const struct {
        const char *name;
        fl_dtype dtype;
    } known[] = {{"bfloat16", FL_DTYPE_BF16}, {"float16", FL_DTYPE_F16}, {"float32", FL_DTYPE_F32}};
    static const char prefix[] = "torch.";
    int rc;
    const char *name = "auto", *key = "torch_dtype";
    if (!fl_json_get(s.object, key)) key = "dtype"; /* transformers 5 */
    if ((rc = fl_json_read_string(s, key, &name, err))) return rc;
    if (!strncmp(name, prefix, sizeof(prefix) - 1)) name += sizeof(prefix) - 1;
    c->dtype = FL_DTYPE_F32;
    c->dtype_of_weights = !strcmp(name, "auto");
    if (c->dtype_of_weights) return FL_OK;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(name, known[i].name)) continue;
        c->dtype = known[i].dtype;
        return FL_OK;
    }
    return refuse(s, key, name, "\"bfloat16\", \"float16\", \"float32\" and \"auto\"", err);
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

/* What a file says that nobody needs is no reason to refuse it. */
static void ignore(const fl_err *why) {
    fl_log(FL_LOG_WARN, "%s: ignored", why->msg);
}

/* Absent: the default.  null, or no id: none, -1. */
static int32_t read_id(fl_json_scope s, const char *key, int32_t absent) {
    int64_t id = fl_json_member(s.object, key) ? -1 : absent;
    fl_err why;
    if (fl_json_read_int(s, key, -1, INT32_MAX, &id, &why)) ignore(&why);
    return (int32_t)id;
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

static int read_config(fl_config *c, const fl_json *doc, fl_err *err) {
    int rc;
    fl_json_scope s = top(doc);
    if (!fl_json_is_object(s.object))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    if ((rc = check_architecture(c, s, err)) || (rc = check_variants(s, err)) ||
        (rc = read_sizes(c, s, err)) || (rc = check_heads(c, s, err)) ||
        (rc = read_rope(&c->rope, s, err)) || (rc = read_dtype(c, s, err)) ||
        (rc = read_flags(c, s, err)))
        return rc;
    c->bos_id = read_id(s, "bos_token_id", 1);
    c->pad_id = read_id(s, "pad_token_id", -1);
    return read_eos(c, s, err);
}

/* A default of sampling, which a request may well give itself; false: the file has none that can be
 * used. */
static bool read_default(fl_json_scope s, const char *key, double min, double max, double *out) {
    fl_err why;
    if (!fl_json_get(s.object, key)) return false;
    if (!fl_json_read_number(s, key, min, max, out, &why)) return true;
    ignore(&why);
    return false;
}

static bool read_whole_default(fl_json_scope s, const char *key, int64_t min, int64_t *out) {
    fl_err why;
    if (!fl_json_get(s.object, key)) return false;
    if (!fl_json_read_int(s, key, min, INT32_MAX, out, &why)) return true;
    ignore(&why);
    return false;
}

static int read_generation(fl_config *c, fl_generation_config *g, const fl_json *doc, fl_err *err) {
    fl_err why;
    fl_json_scope s = top(doc);
    if (!fl_json_is_object(s.object))
        return fl_fail(err, FL_E_FORMAT, "%s: not a JSON object", fl_json_name(doc));
    int rc = read_eos(c, s, err);
    if (rc) return rc;
    g->has_temperature = read_default(s, "temperature", 0.0, 1e3, &g->temperature);
    g->has_top_p = read_default(s, "top_p", 0.0, 1.0, &g->top_p);
    g->has_min_p = read_default(s, "min_p", 0.0, 1.0, &g->min_p);
    g->has_repetition_penalty =
        read_default(s, "repetition_penalty", 1e-3, 1e3, &g->repetition_penalty);
    g->has_top_k = read_whole_default(s, "top_k", -1, &g->top_k);
    g->has_max_new_tokens = read_whole_default(s, "max_new_tokens", 1, &g->max_new_tokens);
    g->has_do_sample = fl_json_get(s.object, "do_sample") != NULL;
    if (fl_json_read_bool(s, "do_sample", &g->do_sample, &why)) {
        g->has_do_sample = false;
        ignore(&why);
    }
    return FL_OK;
}

/* Only when no file says anything: 2 is an ordinary token of a Llama 3. */
static void default_eos(fl_config *c, const fl_json *doc) {
    if (!c->n_eos && !fl_json_member(fl_json_root(doc), "eos_token_id")) c->eos_ids[c->n_eos++] = 2;
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
