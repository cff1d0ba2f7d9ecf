/* config.json, up to the first NUL byte, and hf_quant_config.json behind it, when there is one:
 * what the loader takes from them keeps to what the headers say. */
#include "fuzz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/hf_config.h"
#include "formats/module_pattern.h"
#include "formats/quant_config.h"
#include "util/log.h"

static void silent(fl_log_level level, const char *msg) {
    MUST(level >= 0 && msg[0]);
}

/* Two folders: `both` has the side file too. */
static char one[] = P_tmpdir "/fuzz-config-XXXXXX", both[] = P_tmpdir "/fuzz-config-XXXXXX";
static int config_fd = -1, side_fd = -1;

static void link_to(const char *dir, const char *name, int fd) {
    char path[80], target[40];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
    MUST(!symlink(target, path));
}

static void remove_folders(void) {
    char path[80];
    for (int i = 0; i < 2; i++) {
        const char *dir = i ? both : one;
        snprintf(path, sizeof(path), "%s/config.json", dir);
        unlink(path);
        snprintf(path, sizeof(path), "%s/hf_quant_config.json", dir);
        unlink(path);
        rmdir(dir);
    }
}

static void make_folders(void) {
    config_fd = memfd_create("config.json", 0);
    side_fd = memfd_create("hf_quant_config.json", 0);
    MUST(config_fd >= 0 && side_fd >= 0 && mkdtemp(one) && mkdtemp(both));
    link_to(one, "config.json", config_fd);
    link_to(both, "config.json", config_fd);
    link_to(both, "hf_quant_config.json", side_fd);
    atexit(remove_folders);
    fl_log_set_sink(silent);
}

static void put(int fd, const uint8_t *data, size_t n) {
    MUST(!ftruncate(fd, 0) && pwrite(fd, data, n, 0) == (ssize_t)n);
}

static void check_config(const fl_config *c) {
    MUST(c->vocab_size > 0 && c->hidden_size > 0 && c->ffn_size > 0 && c->n_layers > 0);
    MUST(c->n_kv_heads > 0 && c->n_heads % c->n_kv_heads == 0 && c->head_dim > 1);
    MUST(c->head_dim % 2 == 0 && c->max_position > 0 && isfinite(c->rms_norm_eps));
    MUST(isfinite(c->rope.theta) && c->rope.factor > 0 && c->n_eos >= 0 && c->n_eos <= FL_MAX_EOS);
}

static void check_plan(const fl_quant_plan *p) {
    MUST(strcmp(fl_quant_flavour_name(p->flavour), "unknown") != 0);
    MUST(p->block_k == 0 || p->block_k == FL_ACT_GROUP_K);
    MUST((p->block_n == 0) == (p->block_k == 0) && isfinite(p->act_scale_ub));
    MUST(p->flavour != FL_QUANT_NONE || (p->act == FL_ACT_NONE && !p->frozen));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fl_config config;
    fl_generation_config generation;
    fl_quant_plan plan;
    fl_err err;
    if (config_fd < 0) make_folders();
    const uint8_t *end = memchr(data, 0, n);
    const char *dir = end ? both : one;
    size_t first = end ? (size_t)(end - data) : n;
    put(config_fd, data, first);
    if (end) put(side_fd, end + 1, n - first - 1);
    err.msg[0] = '\0';
    if (!fl_config_load(&config, &generation, dir, &err))
        check_config(&config);
    else
        MUST(err.msg[0]);
    err.msg[0] = '\0';
    if (!fl_quant_plan_load(&plan, dir, &err))
        check_plan(&plan);
    else
        MUST(err.msg[0]);
    return 0;
}
