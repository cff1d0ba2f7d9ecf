#include "formats/dummy_checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "util/file.h"
#include "util/fp8.h"
#include "util/mem.h"
#include "util/num.h"

enum {
    WINDOW = 4 << 20,    /* bytes that repeat; a multiple of 64 KiB and of four codes */
    TENSORS_A_LAYER = 32 /* seven linears of at most four, two norms, two KV scales    */
};

/* Four uniform 16-bit numbers add up to nearly a normal one: |g| <= 3.4642 deviations. */
static const float DEVIATION = 37837.0f, LARGEST = 3.4642f, WEIGHT_DEVIATION = 0.02f;

/* Which bytes a tensor shows. */
typedef enum { CODES, RANDOM, ONES, ZEROS, WEIGHT_SCALES, INPUT_SCALES, KV_SCALES, FILLS } fill;

typedef struct dummy {
    const fl_config *config;
    const fl_quant_plan *plan;
    fl_arena names;
    fl_st_tensor *tensors;
    uint8_t *fills; /* of each tensor */
    size_t n;
    uint64_t most[FILLS]; /* bytes of the largest tensor that shows it */
    fl_mapping data[FILLS];
    fl_err *err;
    int rc; /* first failure while tensors are listed */
} dummy;

static uint64_t mix(uint64_t i) { /* splitmix64 */
    uint64_t z = i * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float normal(uint64_t i) {
    uint64_t z = mix(i);
    int32_t sum = (int32_t)((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
    return (float)(sum - 2 * 65535) / DEVIATION;
}

/* ---- which tensors there are ---- */

static void add(dummy *d, const char *name, fl_dtype dtype, fill what, const int64_t *dim,
                int ndim) {
    size_t size = strlen(name) + 1;
    char *copy = d->rc ? NULL : fl_arena_alloc(&d->names, size);
    if (!copy) {
        if (!d->rc) d->rc = fl_fail(d->err, FL_E_NOMEM, "%s", name);
        return;
    }
    memcpy(copy, name, size);
    fl_st_tensor t = {.name = copy, .file = "dummy", .dtype = dtype, .ndim = ndim};
    t.bytes = (uint64_t)fl_dtype_bytes(dtype);
    for (int i = 0; i < ndim; i++) {
        t.dim[i] = dim[i];
        t.bytes *= (uint64_t)dim[i]; /* hf_config.h bounds what is multiplied */
    }
    if (t.bytes > d->most[what]) d->most[what] = t.bytes;
    d->fills[d->n] = (uint8_t)what;
    d->tensors[d->n++] = t;
}

static void add_vector(dummy *d, const char *name, fill what, int64_t n) {
    add(d, name, d->config->dtype, what, &n, 1);
}

static void add_scale(dummy *d, const char *module, const char *leaf, fill what, const int64_t *dim,
                      int ndim) {
    char name[160];
    snprintf(name, sizeof(name), "%s.%s", module, leaf);
    add(d, name, FL_DTYPE_F32, what, dim, ndim);
}

static void add_weight_scale(dummy *d, const char *module, int64_t n, int64_t k) {
    const fl_quant_plan own = fl_quant_plan_of(d->plan, module), *p = &own;
    const int64_t rows[2] = {n, 1};
    if (p->act == FL_ACT_GROUP || p->block_k) {
        const int64_t bn = p->block_n ? p->block_n : 128, bk = p->block_k ? p->block_k : 128;
        const int64_t blocks[2] = {fl_div_up(n, bn), fl_div_up(k, bk)};
        const bool inverse = p->flavour == FL_QUANT_AUTOFP8;
        add_scale(d, module, inverse ? "weight_scale_inv" : "weight_scale", WEIGHT_SCALES, blocks,
                  2);
    } else {
        const bool by_row = p->act == FL_ACT_TOKEN && p->flavour != FL_QUANT_AUTOFP8;
        add_scale(d, module, "weight_scale", WEIGHT_SCALES, rows, by_row ? 2 : 0);
    }
    if (p->act == FL_ACT_STATIC) add_scale(d, module, "input_scale", INPUT_SCALES, NULL, 0);
}

static void add_linear(dummy *d, int64_t layer, const char *leaf, int64_t n, int64_t k) {
    const bool bias = strstr(leaf, "mlp") ? d->config->mlp_bias : d->config->attention_bias;
    const int64_t shape[2] = {n, k};
    char module[96], name[128];
    snprintf(module, sizeof(module), "model.layers.%lld.%s", (long long)layer, leaf);
    snprintf(name, sizeof(name), "%s.weight", module);
    const fl_quant_plan own = fl_quant_plan_of(d->plan, module);
    const bool quantized = own.flavour != FL_QUANT_NONE, codes = quantized && !own.frozen;
    add(d, name, codes ? FL_DTYPE_E4M3 : d->config->dtype, codes ? CODES : RANDOM, shape, 2);
    if (quantized) add_weight_scale(d, module, n, k);
    snprintf(name, sizeof(name), "%s.bias", module);
    if (bias) add_vector(d, name, ZEROS, n);
}

static void add_layer(dummy *d, int64_t i) {
    const fl_config *c = d->config;
    const int64_t h = c->hidden_size, q = c->n_heads * c->head_dim,
                  kv = c->n_kv_heads * c->head_dim;
    char name[96];
    snprintf(name, sizeof(name), "model.layers.%lld.input_layernorm.weight", (long long)i);
    add_vector(d, name, ONES, h);
    add_linear(d, i, "self_attn.q_proj", q, h);
    add_linear(d, i, "self_attn.k_proj", kv, h);
    add_linear(d, i, "self_attn.v_proj", kv, h);
    add_linear(d, i, "self_attn.o_proj", h, q);
    snprintf(name, sizeof(name), "model.layers.%lld.post_attention_layernorm.weight", (long long)i);
    add_vector(d, name, ONES, h);
    add_linear(d, i, "mlp.gate_proj", c->ffn_size, h);
    add_linear(d, i, "mlp.up_proj", c->ffn_size, h);
    add_linear(d, i, "mlp.down_proj", h, c->ffn_size);
    if (!d->plan->kv_fp8) return;
    snprintf(name, sizeof(name), "model.layers.%lld.self_attn", (long long)i);
    add_scale(d, name, "k_scale", KV_SCALES, NULL, 0);
    add_scale(d, name, "v_scale", KV_SCALES, NULL, 0);
}

static int list_tensors(dummy *d) {
    const fl_config *c = d->config;
    const int64_t vocab[2] = {c->vocab_size, c->hidden_size};
    size_t most = (size_t)c->n_layers * TENSORS_A_LAYER + 3;
    if (!(d->tensors = fl_alloc_array(most, sizeof(*d->tensors))) ||
        !(d->fills = fl_alloc_array(most, 1)))
        return fl_fail(d->err, FL_E_NOMEM, "%zu dummy tensors", most);
    add(d, "model.embed_tokens.weight", c->dtype, RANDOM, vocab, 2);
    for (int64_t i = 0; i < c->n_layers; i++) add_layer(d, i);
    add_vector(d, "model.norm.weight", ONES, c->hidden_size);
    if (!c->tied) add(d, "lm_head.weight", c->dtype, RANDOM, vocab, 2);
    return d->rc;
}

/* ---- what is in them ---- */

static void put_plain(uint8_t *window, fl_dtype dtype, size_t i, float v) {
    uint16_t half = dtype == FL_DTYPE_F16 ? fl_f32_to_f16(v) : fl_f32_to_bf16(v);
    if (dtype == FL_DTYPE_F32)
        memcpy(window + 4 * i, &v, sizeof(v));
    else
        memcpy(window + 2 * i, &half, sizeof(half));
}

/* Codes of one group of four; with 2:4 two of them, in any of the six ways. */
static void put_codes(uint8_t *codes, size_t group, bool sparse24) {
    static const uint8_t kept[6] = {0x3, 0x5, 0x6, 0x9, 0xa, 0xc};
    unsigned keep = sparse24 ? kept[mix(~(uint64_t)group) % 6] : 0xf;
    for (unsigned i = 0; i < 4; i++) {
        float x = normal(4 * group + i) * (FL_E4M3_MAX / LARGEST);
        codes[4 * group + i] = keep >> i & 1 ? fl_f32_to_e4m3(x) : 0;
    }
}

static void fill_window(const dummy *d, uint8_t *window, size_t bytes, fill what) {
    /* the largest code stands for the largest weight */
    static const float constant[FILLS] = {
        [ONES] = 1.0f, [INPUT_SCALES] = 0.02f, [KV_SCALES] = 0.05f};
    const float weight_scale = WEIGHT_DEVIATION * LARGEST / FL_E4M3_MAX;
    const fl_dtype dtype = what <= ZEROS ? d->config->dtype : FL_DTYPE_F32;
    if (what == CODES) {
        for (size_t i = 0; i < bytes / 4; i++) put_codes(window, i, d->plan->sparse24);
        return;
    }
    for (size_t i = 0; i < bytes / (size_t)fl_dtype_bytes(dtype); i++) {
        float v = what == RANDOM          ? normal(i) * WEIGHT_DEVIATION
                  : what == WEIGHT_SCALES ? weight_scale
                                          : constant[what];
        put_plain(window, dtype, i, v);
    }
}

static int fill_tensors(dummy *d) {
    int rc = FL_OK;
    uint8_t *window = fl_alloc(WINDOW);
    if (!window) return fl_fail(d->err, FL_E_NOMEM, "dummy weights");
    for (int what = 0; !rc && what < FILLS; what++) {
        if (!d->most[what]) continue;
        size_t most = (size_t)d->most[what];
        size_t bytes = most < WINDOW ? fl_round_up(most, 64 << 10) : WINDOW;
        fill_window(d, window, bytes, (fill)what);
        rc = fl_map_repeated(&d->data[what], window, bytes, most, d->err);
    }
    for (size_t i = 0; i < d->n; i++) d->tensors[i].data = d->data[d->fills[i]].data;
    fl_free(window);
    return rc;
}

static void dummy_free(void *owner) {
    dummy *d = owner;
    for (int what = 0; what < FILLS; what++) fl_file_unmap(&d->data[what]);
    fl_arena_free(&d->names);
    fl_free(d->tensors);
    fl_free(d->fills);
    fl_free(d);
}

int fl_checkpoint_dummy(fl_checkpoint **out, const char *name, const fl_config *config,
                        const fl_quant_plan *plan, fl_err *err) {
    int rc;
    dummy *d = fl_alloc(sizeof(*d));
    if (!d) return fl_fail(err, FL_E_NOMEM, "%s", name);
    *d = (dummy){.config = config, .plan = plan, .err = err};
    if ((rc = list_tensors(d)) || (rc = fill_tensors(d)) ||
        (rc = fl_checkpoint_of_memory(out, name, d->tensors, d->n, dummy_free, d, err)))
        dummy_free(d);
    return rc;
}
