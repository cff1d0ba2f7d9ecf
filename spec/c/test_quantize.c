/* fl_quantize without calibration: the bitmask layout against the dense one, sources that are
 * not what config.json says, and every allocation failing once. */
#include "quant/quantize.h"

#include <string.h>

#include "fixture.h"
#include "formats/checkpoint.h"
#include "formats/sparse24.h"
#include "ref_backend.h"
#include "tap.h"
#include "util/bytes.h"
#include "util/file.h"
#include "util/mem.h"

enum { D = 32, F = 64, V = 16 };

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":16,"
    "\"hidden_size\":32,\"intermediate_size\":64,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"hidden_act\":\"silu\","
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,"
    "\"torch_dtype\":\"bfloat16\"}";

static const struct {
    const char *name;
    int n, k;
} tensors[] = {{"embed_tokens", V, D},
               {"layers.0.input_layernorm", D, 0},
               {"layers.0.self_attn.q_proj", D, D},
               {"layers.0.self_attn.k_proj", D / 2, D},
               {"layers.0.self_attn.v_proj", D / 2, D},
               {"layers.0.self_attn.o_proj", D, D},
               {"layers.0.post_attention_layernorm", D, 0},
               {"layers.0.mlp.gate_proj", F, D},
               {"layers.0.mlp.up_proj", F, D},
               {"layers.0.mlp.down_proj", D, F},
               {"norm", D, 0}};
enum { N_TENSORS = sizeof(tensors) / sizeof(tensors[0]) };

static fixture files, outputs;

/* Without tensor `left_out`; tensor `flat` has one dimension.  -1: none. */
static void write_model(int left_out, int flat, bool nan) {
    static uint8_t data[(V + 8 * F + 8 * D) * D * 2];
    fl_bytes h = {0};
    unsigned long at = 0;
    for (int i = 0; i < N_TENSORS; i++) {
        int n = tensors[i].n, k = tensors[i].k;
        unsigned long count = (unsigned long)(n * (k ? k : 1));
        if (i == left_out) continue;
        fl_bytes_printf(&h, "%s\"model.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[", at ? "," : "{",
                        tensors[i].name);
        if (i == flat)
            fl_bytes_printf(&h, "%lu", count);
        else
            fl_bytes_printf(&h, k ? "%d,%d" : "%d", n, k);
        fl_bytes_printf(&h, "],\"data_offsets\":[%lu,%lu]}", at, at + 2 * count);
        ref_fill(data + at, FL_DTYPE_BF16, (int64_t)count, 0.2, (uint64_t)i + 1);
        if (nan && i == 9) memset(data + at + 2, 0xff, 2);
        at += 2 * count;
    }
    fl_bytes_puts(&h, "}");
    fixture_safetensors(&files, "model.safetensors", fl_bytes_cstr(&h), data, at);
    fl_bytes_free(&h);
}

static const char *output(const char *name) {
    return fixture_path(&outputs, name);
}

static void test_bitmask(void) {
    fl_quantize_options o = {
        .scheme = "fp8-dynamic", .sparse = "2:4", .sparse_method = "magnitude", .threads = 2};
    fl_quantize_report dense_report, report;
    fl_checkpoint *dense = NULL, *packed = NULL;
    fl_err err = {0};
    check(!fl_quantize(&dense_report, files.dir, output("dense"), &o, &err), "dense (%s)", err.msg);
    o.sparse_format = "bitmask";
    check(!fl_quantize(&report, files.dir, output("packed"), &o, &err), "bitmask (%s)", err.msg);
    check(report.linears == 7 && report.bytes_out < dense_report.bytes_out,
          "%llu bytes, dense %llu", (unsigned long long)report.bytes_out,
          (unsigned long long)dense_report.bytes_out);
    if (fl_checkpoint_open(&dense, output("dense"), &err) ||
        fl_checkpoint_open(&packed, output("packed"), &err)) {
        check(false, "%s", err.msg);
        return;
    }
    check(fl_checkpoint_bytes(packed) == report.bytes_out, "the report counts what is there");
    for (int i = 0; i < N_TENSORS; i++) {
        char name[128];
        uint8_t row[F];
        int bad = 0, n = tensors[i].n, k = tensors[i].k;
        if (!strstr(tensors[i].name, "proj")) continue;
        const fl_st_tensor *t[4];
        static const char *const leaves[] = {"weight", "compressed", "bitmask", "shape"};
        for (int j = 0; j < 4; j++) {
            snprintf(name, sizeof(name), "model.%s.%s", tensors[i].name, leaves[j]);
            t[j] = fl_checkpoint_find(j ? packed : dense, name);
        }
        for (int r = 0; r < n; r++) {
            bad += !fl_sparse24_unpack(row, t[1]->data + r * k / 2, t[2]->data + r * k / 8,
                                       FL_DTYPE_E4M3, k);
            bad += !!memcmp(row, t[0]->data + r * k, (size_t)k);
        }
        int64_t shape[2];
        memcpy(shape, t[3]->data, sizeof(shape));
        check(!bad && shape[0] == n && shape[1] == k, "%s unpacks to the dense codes (%d not)",
              tensors[i].name, bad);
    }
    fl_checkpoint_close(dense);
    fl_checkpoint_close(packed);
}

static void refused(int code, const char *part, const char *what) {
    fl_quantize_options o = {.scheme = "fp8-dynamic", .threads = 1};
    fl_quantize_report report;
    fl_err err = {0};
    int rc = fl_quantize(&report, files.dir, output("refused"), &o, &err);
    check(rc == code && strstr(err.msg, part), "%s: %s", what, err.msg);
    check(!fl_dir_exists(output("refused")) && !fl_dir_exists(output("refused.tmp")),
          "nothing is left");
}

static int step(void *ctx) {
    fl_quantize_report report;
    int rc = fl_quantize(&report, files.dir, output("sweep"), ctx, NULL);
    if (!rc) {
        fl_mem_set_hook(NULL, NULL);
        rc = fl_dir_remove(output("sweep"), NULL);
    }
    return rc;
}

static void test_sweep(void) {
    static const char *const ignore[] = {"re:.*o_proj"};
    fl_quantize_options each[] = {
        {.scheme = "fp8-dynamic",
         .sparse = "2:4",
         .sparse_method = "magnitude",
         .sparse_format = "bitmask",
         .threads = 1},
        {.scheme = "fp8-dynamic",
         .format = "modelopt",
         .ignore = ignore,
         .n_ignore = 1,
         .threads = 1},
        {.scheme = "fp8-dynamic", .format = "autofp8", .observer = "mse", .threads = 1}};
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
        int n = fixture_sweep(step, &each[i]);
        check(n > 20, "each of %d allocations may fail", n);
    }
}

int main(void) {
    fixture_new(&files);
    fixture_new(&outputs);
    fixture_text(&files, "config.json", config);
    write_model(-1, -1, false);
    test_bitmask();
    test_sweep();
    write_model(3, -1, false);
    refused(FL_E_UNSUPPORTED, "6 linears", "a linear is missing");
    write_model(-1, 7, false);
    refused(FL_E_FORMAT, "gate_proj.weight: shape [2048]", "a linear of one dimension");
    write_model(-1, -1, true);
    refused(FL_E_FORMAT, "down_proj.weight: holds NaN", "NaN");
    fl_dir_remove(output("dense"), NULL);
    fl_dir_remove(output("packed"), NULL);
    fixture_free(&files);
    fixture_free(&outputs);
    return tap_done();
}
