/* fl_checkpoint_dummy: the tensors of every flavour, their values, every allocation failing. */
#include "formats/dummy_checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "tap.h"
#include "util/file.h"
#include "util/fp8.h"

static fl_config config = {.vocab_size = 300,
                           .hidden_size = 192,
                           .ffn_size = 264,
                           .n_layers = 2,
                           .n_heads = 3,
                           .n_kv_heads = 1,
                           .head_dim = 64,
                           .dtype = FL_DTYPE_BF16,
                           .attention_bias = true};

static const struct {
    const char *name;
    fl_quant_plan plan;
    fl_dtype dtype;
    const char *tensor; /* of layer 1, with its dtype and shape; NULL: count only */
    fl_dtype tensor_dtype;
    const char *shape;
    size_t count;
} cases[] = {
    {"BF16", {0}, FL_DTYPE_BF16, "mlp.down_proj.weight", FL_DTYPE_BF16, "[192,264]", 29},
    {"F16", {0}, FL_DTYPE_F16, "self_attn.k_proj.bias", FL_DTYPE_F16, "[64]", 29},
    {"F32", {0}, FL_DTYPE_F32, "self_attn.o_proj.weight", FL_DTYPE_F32, "[192,192]", 29},
    {"AutoFP8 static with KV scales",
     {.flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_STATIC, .kv_fp8 = true},
     FL_DTYPE_BF16,
     "self_attn.v_scale",
     FL_DTYPE_F32,
     "[]",
     29 + 14 * 2 + 4},
    {"AutoFP8 dynamic",
     {.flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_TOKEN},
     FL_DTYPE_BF16,
     "mlp.up_proj.weight_scale",
     FL_DTYPE_F32,
     "[]",
     29 + 14},
    {"block scales",
     {.flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_GROUP, .block_n = 128, .block_k = 128},
     FL_DTYPE_BF16,
     "mlp.up_proj.weight_scale_inv",
     FL_DTYPE_F32,
     "[3,2]",
     29 + 14},
    {"compressed-tensors by channel, 2:4",
     {.flavour = FL_QUANT_COMPRESSED_TENSORS, .act = FL_ACT_TOKEN, .sparse24 = true},
     FL_DTYPE_BF16,
     "mlp.up_proj.weight_scale",
     FL_DTYPE_F32,
     "[264,1]",
     29 + 14},
    {"weight-only",
     {.flavour = FL_QUANT_COMPRESSED_TENSORS, .act = FL_ACT_NONE},
     FL_DTYPE_BF16,
     "mlp.up_proj.weight",
     FL_DTYPE_E4M3,
     "[264,192]",
     29 + 14},
};

static const char layer[] = "model.layers.1.";

static const fl_st_tensor *find(const fl_checkpoint *ck, const char *name) {
    char full[128];
    snprintf(full, sizeof(full), "%s%s", layer, name);
    return fl_checkpoint_find(ck, full);
}

static void test_flavours(void) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_checkpoint *ck;
        fl_err err = {0};
        char shape[160];
        config.dtype = cases[i].dtype;
        if (fl_checkpoint_dummy(&ck, "shape", &config, &cases[i].plan, &err)) {
            check(false, "%s: %s", cases[i].name, err.msg);
            continue;
        }
        const fl_st_tensor *t = find(ck, cases[i].tensor);
        check(t && t->dtype == cases[i].tensor_dtype &&
                  !strcmp(fl_st_shape(shape, t), cases[i].shape),
              "%s: %s %s", cases[i].name, cases[i].tensor, t ? shape : "is missing");
        check(fl_checkpoint_count(ck) == cases[i].count, "%s: %zu tensors", cases[i].name,
              fl_checkpoint_count(ck));
        uint64_t bytes = 0;
        for (size_t k = 0; k < fl_checkpoint_count(ck); k++)
            bytes += fl_checkpoint_at(ck, k)->bytes;
        check(bytes == fl_checkpoint_bytes(ck), "%s: %llu bytes", cases[i].name,
              (unsigned long long)bytes);
        fl_checkpoint_close(ck);
    }
    config.dtype = FL_DTYPE_BF16;
}

/* Standard deviation of weights, and groups of four with more than two that are not zero. */
static double deviation(const fl_checkpoint *ck, const char *name, double scale, int *dense) {
    const fl_st_tensor *t = find(ck, name);
    double sum = 0;
    *dense = 0;
    for (int64_t i = 0; i < fl_st_numel(t); i += 4) {
        int n = 0;
        for (int64_t k = i; k < i + 4; k++) {
            double v = fl_st_value(t, k) * scale;
            sum += v * v;
            n += v != 0;
        }
        *dense += n > 2;
    }
    return sqrt(sum / (double)fl_st_numel(t));
}

static void test_values(void) {
    fl_checkpoint *plain, *sparse;
    int dense;
    const fl_quant_plan *by_row = &cases[6].plan;
    if (fl_checkpoint_dummy(&plain, "plain", &config, &cases[0].plan, NULL) ||
        fl_checkpoint_dummy(&sparse, "sparse", &config, by_row, NULL)) {
        check(false, "made");
        return;
    }
    double d = deviation(plain, "mlp.up_proj.weight", 1, &dense);
    check(fabs(d - 0.02) < 0.0005 && dense > 0, "plain weights deviate by %g", d);
    double scale = fl_st_value(find(sparse, "mlp.up_proj.weight_scale"), 7);
    d = deviation(sparse, "mlp.up_proj.weight", scale, &dense);
    check(fabs(d - 0.02 / sqrt(2)) < 0.0005 && !dense, "half of them kept: %g, %d groups not 2:4",
          d, dense);
    const fl_st_tensor *w = find(sparse, "mlp.down_proj.weight");
    unsigned largest = 0;
    for (uint64_t i = 0; i < w->bytes; i++)
        largest = (w->data[i] & 0x7fu) > largest ? w->data[i] & 0x7fu : largest;
    check(largest > 0x78 && largest < 0x7f, "codes use the range, none is NaN: 0x%x", largest);
    check(fl_e4m3_count_nan(w->data, (size_t)w->bytes) == 0, "no NaN");
    check(fl_st_value(find(plain, "input_layernorm.weight"), 191) == 1.0f, "norms are 1");
    check(fl_st_value(find(plain, "self_attn.q_proj.bias"), 5) == 0.0f, "biases are 0");
    fl_checkpoint_close(plain);
    fl_checkpoint_close(sparse);
}

/* More than one window: it repeats, and pages that were given back read the same. */
static void test_repeats(void) {
    fl_mapping m;
    static uint8_t window[128 << 10];
    for (size_t i = 0; i < sizeof(window); i++) window[i] = (uint8_t)(i * 7 + i / 251);
    const size_t size = 5 * sizeof(window) + 100;
    if (fl_map_repeated(&m, window, sizeof(window), size, NULL)) {
        check(false, "mapped");
        return;
    }
    for (int round = 0; round < 2; round++) {
        int bad = 0;
        for (size_t i = 0; i < size; i++) bad += m.data[i] != window[i % sizeof(window)];
        check(!bad, "%d of %zu bytes differ, round %d", bad, size, round);
        fl_file_release(m.data, size);
    }
    fl_file_unmap(&m);
    check(!m.data, "unmapped");
}

static int step(void *ctx) {
    fl_checkpoint *ck;
    int rc = fl_checkpoint_dummy(&ck, "sweep", &config, ctx, NULL);
    if (!rc) fl_checkpoint_close(ck);
    return rc;
}

int main(void) {
    test_flavours();
    test_values();
    test_repeats();
    fl_quant_plan plan = cases[3].plan;
    int n = fixture_sweep(step, &plan);
    check(n > 8, "each of %d allocations may fail", n);
    return tap_done();
}
