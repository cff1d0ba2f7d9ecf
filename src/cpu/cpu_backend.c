/* cpu_backend.c - one thread team as a backend: open, memory, and the table of ops. */
#include <stdio.h>
#include <string.h>

#include "cpu/cpu_priv.h"
#include "util/mem.h"

static void cpu_close(fl_backend *be) {
    if (!be) return;
    cpu_attend_close(be);
    fl_unmap_pages(be->panel, (size_t)be->panel_bytes);
    fl_unmap_pages(be->work, (size_t)be->work_bytes);
    fl_team_free(be->team);
    fl_free(be);
}

static int cpu_open(fl_backend **out, const fl_backend_params *p, fl_err *err) {
    int rc = FL_OK;
    if (p->max_rows < 1 || p->max_rows > INT32_MAX)
        return fl_fail(err, FL_E_ARG, "max_rows: %lld outside [1,%d]", (long long)p->max_rows,
                       INT32_MAX);
    if (p->sparse_dense)
        return fl_fail(err, FL_E_ARG, "sparse_prefill: dense is for a GPU; the CPU has one form");
    fl_backend *be = fl_alloc(sizeof(*be));
    if (!be) return fl_fail(err, FL_E_NOMEM, "CPU backend");
    be->max_rows = p->max_rows;
    if ((rc = cpu_isa_find(&be->isa, p->isa, err)) ||
        (rc = fl_team_new(&be->team, p->threads, err)) || (rc = cpu_attend_open(be, err)))
        goto done;
    *out = be;
    be = NULL;
done:
    cpu_close(be);
    return rc;
}

static void cpu_info(fl_backend *be, fl_backend_info *out) {
    unsigned long long kib;
    char line[128];
    int threads = fl_team_size(be->team);
    *out = (fl_backend_info){0};
    snprintf(out->name, sizeof(out->name), "CPU %s, %d thread%s", be->isa->name, threads,
             threads == 1 ? "" : "s");
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1) out->mem_total = kib << 10;
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) out->mem_free = kib << 10;
    }
    if (f) fclose(f);
}

enum { HEADER = 64 }; /* before each block: its size, keeping the block aligned */

static int cpu_mem_new(fl_backend *be, void **out, uint64_t bytes, fl_err *err) {
    (void)be;
    uint64_t total;
    uint8_t *p = fl_add_u64(bytes, HEADER, &total) ? fl_map_pages(total) : NULL;
    if (!p) return fl_fail(err, FL_E_NOMEM, "%llu bytes", (unsigned long long)bytes);
    memcpy(p, &total, sizeof(total));
    *out = p + HEADER;
    return FL_OK;
}

static void cpu_mem_free(fl_backend *be, void *p) {
    (void)be;
    if (!p) return;
    uint8_t *block = (uint8_t *)p - HEADER;
    uint64_t total;
    memcpy(&total, block, sizeof(total));
    fl_unmap_pages(block, total);
}

/* Row bytes of t, or all its bytes as one row when the rows follow each other. */
static int64_t run_bytes(const fl_tensor *t, int64_t *rows) {
    int64_t len = fl_tensor_row_len(t), bytes = len * fl_dtype_bytes(t->dtype);
    *rows = t->stride == len ? 1 : t->dim[0];
    return t->stride == len ? bytes * t->dim[0] : bytes;
}

static int cpu_write(fl_backend *be, const fl_tensor *dst, const void *src, fl_err *err) {
    (void)be;
    (void)err;
    int64_t rows, bytes = run_bytes(dst, &rows);
    for (int64_t i = 0; i < rows; i++)
        memcpy(cpu_row(dst, i), (const uint8_t *)src + i * bytes, (size_t)bytes);
    return FL_OK;
}

static int cpu_read(fl_backend *be, void *dst, const fl_tensor *src, fl_err *err) {
    (void)be;
    (void)err;
    int64_t rows, bytes = run_bytes(src, &rows);
    for (int64_t i = 0; i < rows; i++)
        memcpy((uint8_t *)dst + i * bytes, cpu_row(src, i), (size_t)bytes);
    return FL_OK;
}

static int cpu_copy(fl_backend *be, void *dst, const void *src, uint64_t bytes, fl_err *err) {
    (void)be;
    (void)err;
    memmove(dst, src, (size_t)bytes);
    return FL_OK;
}

static int cpu_sync(fl_backend *be, fl_err *err) {
    (void)be;
    (void)err;
    return FL_OK; /* every op has finished when it returns */
}

static fl_team *cpu_team(fl_backend *be) {
    return be->team;
}

const fl_backend_ops *fl_backend_cpu(void) {
    static const fl_backend_ops ops = {
        .abi = FL_BACKEND_ABI,
        .name = "cpu",
        .open = cpu_open,
        .close = cpu_close,
        .info = cpu_info,
        .mem_new = cpu_mem_new,
        .mem_free = cpu_mem_free,
        .write = cpu_write,
        .read = cpu_read,
        .copy = cpu_copy,
        .sync = cpu_sync,
        .linear_new = cpu_linear_new,
        .linear_free = cpu_linear_free,
        .embed = cpu_embed,
        .norm = cpu_norm,
        .quant = cpu_quant,
        .linear = cpu_linear,
        .rope_store = cpu_rope_store,
        .attend = cpu_attend,
        .silu_mul = cpu_silu_mul,
        .gather = cpu_gather,
        .absmax = cpu_absmax,
        .sumsq = cpu_sumsq,
        .kv_page_bytes = cpu_kv_page_bytes,
        .team = cpu_team,
    };
    return &ops;
}
