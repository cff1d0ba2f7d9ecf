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

/* A header in the making, and what is not zero in the data behind it. */
typedef struct maker {
    fl_bytes header;
    uint64_t at;
    int n_filled;
    struct {
        uint64_t at, bytes;
        int64_t shape[2]; /* this, or bytes of 0x33: two bits of every four */
    } filled[LAYERS * 14];
} maker;

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

static uint64_t add(maker *m, const char *name, const char *dtype, long rows, long cols) {
    static const struct {
        const char *dtype;
        uint64_t bytes;
    } size[] = {{"F8_E4M3", 1}, {"U8", 1}, {"BF16", 2}, {"I64", 8}};
    int i = 0;
    while (strcmp(size[i].dtype, dtype)) i++;
    uint64_t bytes = (uint64_t)rows * (uint64_t)(cols ? cols : 1) * size[i].bytes;
    fl_bytes_printf(&m->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld",
                    m->header.len > 1 ? "," : "", name, dtype, rows);
    if (cols) fl_bytes_printf(&m->header, ",%ld", cols);
    fl_bytes_printf(&m->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)m->at,
                    (unsigned long long)(m->at + bytes));
    m->at += bytes;
    return bytes;
}

static void fill(maker *m, uint64_t bytes, int64_t n, int64_t k) {
    m->filled[m->n_filled].at = m->at - bytes;
    m->filled[m->n_filled].bytes = bytes;
    m->filled[m->n_filled].shape[0] = n;
    m->filled[m->n_filled++].shape[1] = k;
}

static void add_linear(maker *m, const char *module, long n, long k, bool bitmask) {
    char name[160];
    if (bitmask) {
        snprintf(name, sizeof(name), "%s.compressed", module);
        add(m, name, "F8_E4M3", n, k / 2);
        snprintf(name, sizeof(name), "%s.bitmask", module);
        fill(m, add(m, name, "U8", n, k / 8), 0, 0);
        snprintf(name, sizeof(name), "%s.shape", module);
        fill(m, add(m, name, "I64", 2, 0), n, k);
    } else {
        snprintf(name, sizeof(name), "%s.weight", module);
        add(m, name, "F8_E4M3", n, k);
    }
    /* 0x0000 as a scale is refused unless the weight is all zeros, which it is. */
    snprintf(name, sizeof(name), "%s.weight_scale", module);
    add(m, name, "BF16", 1, 0);
}

static void add_layer(maker *m, int layer, bool bitmask) {
    static const struct {
        const char *name;
        long n, k;
    } linear[] = {{"self_attn.q_proj", HIDDEN, HIDDEN}, {"self_attn.k_proj", HIDDEN, HIDDEN},
                  {"self_attn.v_proj", HIDDEN, HIDDEN}, {"self_attn.o_proj", HIDDEN, HIDDEN},
                  {"mlp.gate_proj", FFN, HIDDEN},       {"mlp.up_proj", FFN, HIDDEN},
                  {"mlp.down_proj", HIDDEN, FFN}};
    char name[128];
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "model.layers.%d.%s", layer, linear[i].name);
        add_linear(m, name, linear[i].n, linear[i].k, bitmask);
    }
    snprintf(name, sizeof(name), "model.layers.%d.input_layernorm.weight", layer);
    add(m, name, "BF16", HIDDEN, 0);
    snprintf(name, sizeof(name), "model.layers.%d.post_attention_layernorm.weight", layer);
    add(m, name, "BF16", HIDDEN, 0);
}

static bool write_data(FILE *f, const maker *m, uint64_t base) {
    static uint8_t bits[HIDDEN * FFN / 8];
    memset(bits, 0x33, sizeof(bits));
    bool ok = !ftruncate(fileno(f), (off_t)(base + m->at));
    for (int i = 0; ok && i < m->n_filled; i++) {
        const void *from = m->filled[i].shape[0] ? (const void *)m->filled[i].shape : bits;
        ok = pwrite(fileno(f), from, m->filled[i].bytes, (off_t)(base + m->filled[i].at)) ==
             (ssize_t)m->filled[i].bytes;
    }
    return ok;
}

static bool write_checkpoint(bool bitmask) {
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":1024,"
        "\"intermediate_size\":4096,\"num_hidden_layers\":8,\"num_attention_heads\":8,"
        "\"vocab_size\":512,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\","
        "\"max_position_embeddings\":64,\"quantization_config\":{\"quant_method\":\"fp8\","
        "\"activation_scheme\":\"dynamic\"}}";
    static maker m;
    m = (maker){.n_filled = 0};
    fl_bytes_putc(&m.header, '{');
    add(&m, "model.embed_tokens.weight", "BF16", VOCAB, HIDDEN);
    for (int i = 0; i < LAYERS; i++) add_layer(&m, i, bitmask);
    add(&m, "model.norm.weight", "BF16", HIDDEN, 0);
    fl_bytes_putc(&m.header, '}');
    uint64_t n = m.header.len;
    mkdir("build", 0777);
    mkdir("build/spec", 0777);
    mkdir(dir, 0777);
    FILE *f = fopen("build/spec/load-memory/model.safetensors", "wb");
    bool ok = f && fwrite(&n, 8, 1, f) == 1 && fwrite(m.header.data, 1, n, f) == n && !fflush(f) &&
              write_data(f, &m, 8 + n);
    if (f) fclose(f);
    fl_bytes_free(&m.header);
    return ok &&
           !fl_file_write("build/spec/load-memory/config.json", config, sizeof(config) - 1, NULL);
}

/* The model's bytes of packed weights. */
static uint64_t test_load(bool bitmask) {
    const char *what = bitmask ? "bitmask" : "dense";
    fl_err err = {0};
    fl_model *m = NULL;
    fl_model_options o = {.context = 64, .max_step_rows = 32};
    fl_model_info info = {.weight_bytes = 0};
    if (!check(write_checkpoint(bitmask), "%s: a sparse checkpoint is written", what)) return 0;
    bool can_measure = reset_peak() && status_kib("VmHWM") > 0;
    long before = status_kib("VmRSS");
    bool loaded = !fl_model_load(&m, dir, &o, &err);
    check(loaded, "%s: it loads (%s)", what, err.msg);
    if (loaded) fl_model_info_get(m, &info);
    if (loaded && can_measure) {
        long peak = status_kib("VmHWM") - before;
        long model = (long)((info.weight_bytes + info.kv_bytes + info.scratch_bytes) >> 10);
        check(status_kib("VmRSS") - before >= (long)(info.weight_bytes >> 10),
              "%s: the packed weights are resident", what);
        check(peak * 100 <= model * 115, "%s: peak %ld KiB is at most 1.15 of the model's %ld KiB",
              what, peak, model);
    }
    fl_model_unref(m);
    return info.weight_bytes;
}

int main(void) {
    uint64_t dense = test_load(false), packed = test_load(true);
    const uint64_t weights = LAYERS * (4ull * HIDDEN * HIDDEN + 3ull * HIDDEN * FFN);
    check(packed < dense - weights / 3, "a bitmask model holds %llu KiB, the dense one %llu",
          (unsigned long long)(packed >> 10), (unsigned long long)(dense >> 10));
    return tap_done();
}
