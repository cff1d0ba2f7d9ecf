/* Loading packs each tensor and gives its source pages back: the process never holds much
 * more than the packed model.  The checkpoint is a sparse file of zeros, so that making it
 * costs nothing; dummy weights need no file at all. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model.h"
#include "tap.h"
#include "util/bytes.h"
#include "util/file.h"

enum { HIDDEN = 1024, FFN = 4096, LAYERS = 8, VOCAB = 512 };
static const char dir[] = "build/spec/load-memory";

static long status_kib(const char *key) {
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (!strncmp(line, key, strlen(key))) sscanf(line + strlen(key), ": %ld", &kib);
    }
    if (f) fclose(f);
    return kib;
}

/* VmHWM starts again from the memory of now. */
static bool reset_peak(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    return f && fputs("5", f) >= 0 && !fclose(f);
}

static void add(fl_bytes *h, uint64_t *at, const char *name, const char *dtype, long rows,
                long cols) {
    uint64_t bytes = (uint64_t)rows * (uint64_t)(cols ? cols : 1) * (dtype[1] == '8' ? 1 : 2);
    fl_bytes_printf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld", h->len > 1 ? "," : "", name,
                    dtype, rows);
    if (cols) fl_bytes_printf(h, ",%ld", cols);
    fl_bytes_printf(h, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at,
                    (unsigned long long)(*at + bytes));
    *at += bytes;
}

static void add_layer(fl_bytes *h, uint64_t *at, int layer) {
    static const struct {
        const char *name;
        long n, k;
    } linear[] = {{"self_attn.q_proj", HIDDEN, HIDDEN}, {"self_attn.k_proj", HIDDEN, HIDDEN},
                  {"self_attn.v_proj", HIDDEN, HIDDEN}, {"self_attn.o_proj", HIDDEN, HIDDEN},
                  {"mlp.gate_proj", FFN, HIDDEN},       {"mlp.up_proj", FFN, HIDDEN},
                  {"mlp.down_proj", HIDDEN, FFN}};
    char name[128];
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, linear[i].name);
        add(h, at, name, "F8_E4M3", linear[i].n, linear[i].k);
        /* 0x0000 as a scale is refused unless the weight is all zeros, which it is. */
        snprintf(name, sizeof(name), "model.layers.%d.%s.weight_scale", layer, linear[i].name);
        add(h, at, name, "BF16", 1, 0);
    }
    snprintf(name, sizeof(name), "model.layers.%d.input_layernorm.weight", layer);
    add(h, at, name, "BF16", HIDDEN, 0);
    snprintf(name, sizeof(name), "model.layers.%d.post_attention_layernorm.weight", layer);
    add(h, at, name, "BF16", HIDDEN, 0);
}

static bool write_checkpoint(void) {
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":1024,"
        "\"intermediate_size\":4096,\"num_hidden_layers\":8,\"num_attention_heads\":8,"
        "\"vocab_size\":512,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\","
        "\"max_position_embeddings\":64,\"quantization_config\":{\"quant_method\":\"fp8\","
        "\"activation_scheme\":\"dynamic\"}}";
    fl_bytes h = {0};
    uint64_t at = 0;
    fl_bytes_putc(&h, '{');
    add(&h, &at, "model.embed_tokens.weight", "BF16", VOCAB, HIDDEN);
    for (int i = 0; i < LAYERS; i++) add_layer(&h, &at, i);
    add(&h, &at, "model.norm.weight", "BF16", HIDDEN, 0);
    fl_bytes_putc(&h, '}');
    uint64_t n = h.len;
    mkdir("build", 0777);
    mkdir("build/spec", 0777);
    mkdir(dir, 0777);
    FILE *f = fopen("build/spec/load-memory/model.safetensors", "wb");
    bool ok = f && fwrite(&n, 8, 1, f) == 1 && fwrite(h.data, 1, n, f) == n && !fflush(f) &&
              !ftruncate(fileno(f), (off_t)(8 + n + at));
    if (f) fclose(f);
    fl_bytes_free(&h);
    return ok &&
           !fl_file_write("build/spec/load-memory/config.json", config, sizeof(config) - 1, NULL);
}

static void test_load(fl_load_format format, const char *what) {
    fl_err err = {0};
    fl_model *m = NULL;
    fl_model_options o = {.context = 64, .max_step_rows = 32, .load_format = format};
    bool can_measure = reset_peak() && status_kib("VmHWM") > 0;
    long before = status_kib("VmRSS");
    bool loaded = !fl_model_load(&m, dir, &o, &err);
    check(loaded, "%s load (%s)", what, err.msg);
    if (loaded && can_measure) {
        fl_model_info info;
        fl_model_info_get(m, &info);
        long peak = status_kib("VmHWM") - before;
        long model = (long)((info.weight_bytes + info.kv_bytes + info.scratch_bytes) >> 10);
        check(status_kib("VmRSS") - before >= (long)(info.weight_bytes >> 10),
              "%s: the packed weights are resident", what);
        check(peak * 100 <= model * 115, "%s: peak %ld KiB is at most 1.15 of the model's %ld KiB",
              what, peak, model);
    }
    fl_model_unref(m);
}

int main(void) {
    if (!check(write_checkpoint(), "a sparse checkpoint is written")) return tap_done();
    test_load(FL_LOAD_FILES, "files");
    unlink("build/spec/load-memory/model.safetensors");
    test_load(FL_LOAD_DUMMY, "dummy weights");
    fl_dir_remove(dir, NULL);
    return tap_done();
}
