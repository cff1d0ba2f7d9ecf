#include "formats/safetensors_write.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/file.h"
#include "util/map.h"
#include "util/mem.h"
#include "util/num.h"
#include "util/utf8.h"

#define DEFAULT_SHARD_BYTES UINT64_C(5000000000)
#define MAX_HEADER_BYTES    100000000u

enum { MAX_SHARDS = 4096 };

/* One tensor in writing order. */
typedef struct slot {
    fl_st_spec spec; /* name in the writer's arena */
    size_t spec_index;
    uint64_t bytes, begin; /* begin: in the shard's data buffer */
    uint32_t shard;
    int rank; /* larger comes first in the shard */
} slot;

struct fl_st_writer {
    char *dir;
    slot *slots;
    size_t n, current;   /* current: the slot whose data comes next */
    uint64_t done_bytes; /* of the current slot */
    uint32_t n_shards;
    uint32_t n_opened; /* shards begun; the last one may be open in f */
    FILE *f;
    /* dir/NAME.tmp and dir/NAME of the shard at hand: made once, so that cleaning up
     * needs no memory. */
    char *tmp_path, *path;
    size_t path_size;
    fl_arena names;
};

/* The reference writer's order of dtypes; tensors of later ones are written first. */
static int dtype_rank(fl_dtype t) {
    static const fl_dtype order[] = {
        FL_DTYPE_BOOL,     FL_DTYPE_F4,   FL_DTYPE_F6_E2M3, FL_DTYPE_F6_E3M2, FL_DTYPE_U8,
        FL_DTYPE_I8,       FL_DTYPE_E5M2, FL_DTYPE_E4M3,    FL_DTYPE_E8M0,    FL_DTYPE_E4M3FNUZ,
        FL_DTYPE_E5M2FNUZ, FL_DTYPE_I16,  FL_DTYPE_U16,     FL_DTYPE_F16,     FL_DTYPE_BF16,
        FL_DTYPE_I32,      FL_DTYPE_U32,  FL_DTYPE_F32,     FL_DTYPE_C64,     FL_DTYPE_F64,
        FL_DTYPE_I64,      FL_DTYPE_U64};
    int n = (int)(sizeof(order) / sizeof(order[0])), i = 0;
    while (i < n && order[i] != t) i++;
    return i < n ? i : -1;
}

static int writing_order(const void *a, const void *b) {
    const slot *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->rank != y->rank) return x->rank > y->rank ? -1 : 1;
    return strcmp(x->spec.name, y->spec.name);
}

static int no_memory(const fl_st_writer *w, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory to write tensors", w->dir);
}

static int fill_slot(fl_st_writer *w, slot *s, const fl_st_spec *spec, fl_err *err) {
    uint64_t bits = 1;
    size_t len = strlen(spec->name);
    s->spec = *spec;
    s->rank = dtype_rank(spec->dtype);
    bool ok = fl_utf8_valid(spec->name, len) && strcmp(spec->name, "__metadata__") &&
              s->rank >= 0 && spec->ndim >= 0 && spec->ndim <= FL_ST_MAX_DIMS;
    for (int i = 0; ok && i < spec->ndim; i++)
        ok = spec->dim[i] >= 0 && fl_mul_u64(bits, (uint64_t)spec->dim[i], &bits);
    ok = ok && fl_mul_u64(bits, (uint64_t)fl_dtype_bits(spec->dtype), &bits) && bits % 8 == 0 &&
         bits / 8 < UINT64_C(1) << 48;
    if (!ok)
        return fl_fail(err, FL_E_ARG, "%.300s: not a tensor a safetensors file can hold",
                       spec->name);
    s->bytes = bits / 8;
    if (!(s->spec.name = fl_arena_alloc(&w->names, len + 1))) return no_memory(w, err);
    memcpy((char *)(uintptr_t)s->spec.name, spec->name, len);
    return FL_OK;
}

/* Shards, order and offsets. */
static int plan(fl_st_writer *w, const fl_st_spec *specs, uint64_t shard_bytes, fl_err *err) {
    int rc = FL_OK;
    fl_map seen = {0};
    uint64_t filled = 0;
    w->n_shards = 1;
    for (size_t i = 0; i < w->n && !rc; i++) {
        slot *s = &w->slots[i];
        if ((rc = fill_slot(w, s, &specs[i], err))) break;
        fl_map_result put = fl_map_put(&seen, s->spec.name, strlen(s->spec.name), 0);
        if (put == FL_MAP_NOMEM) rc = no_memory(w, err);
        if (put == FL_MAP_EXISTS)
            rc = fl_fail(err, FL_E_ARG, "%.300s: declared twice", s->spec.name);
        if (filled && filled + s->bytes > shard_bytes) {
            w->n_shards++;
            filled = 0;
        }
        filled += s->bytes;
        s->shard = w->n_shards - 1;
        s->spec_index = i;
    }
    fl_map_free(&seen);
    if (rc) return rc;
    if (w->n_shards > MAX_SHARDS)
        return fl_fail(err, FL_E_LIMIT, "%s: %u shards, limit %d", w->dir, w->n_shards, MAX_SHARDS);
    qsort(w->slots, w->n, sizeof(*w->slots), writing_order);
    for (size_t i = 1; i < w->n; i++) {
        const slot *before = &w->slots[i - 1];
        if (before->shard == w->slots[i].shard) w->slots[i].begin = before->begin + before->bytes;
    }
    return FL_OK;
}

static void put_json_string(fl_bytes *b, const char *s) {
    static const char short_form[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    fl_bytes_putc(b, '"');
    for (; *s; s++) {
        const char *p = short_form;
        while (*p && *p != *s) p += 2;
        if (*p)
            fl_bytes_printf(b, "\\%c", p[1]);
        else if ((unsigned char)*s < 0x20)
            fl_bytes_printf(b, "\\u%04x", (unsigned)*s);
        else
            fl_bytes_putc(b, *s);
    }
    fl_bytes_putc(b, '"');
}

static void shard_name(char out[64], const fl_st_writer *w, uint32_t shard) {
    if (w->n_shards == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05u-of-%05u.safetensors", shard + 1, w->n_shards);
}

static void set_paths(fl_st_writer *w, uint32_t shard) {
    char name[64];
    shard_name(name, w, shard);
    snprintf(w->path, w->path_size, "%s/%s", w->dir, name);
    snprintf(w->tmp_path, w->path_size, "%s/%s.tmp", w->dir, name);
}

static void put_entry(fl_bytes *b, const slot *s) {
    fl_bytes_putc(b, ',');
    put_json_string(b, s->spec.name);
    fl_bytes_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", fl_dtype_name(s->spec.dtype));
    for (int i = 0; i < s->spec.ndim; i++)
        fl_bytes_printf(b, i ? ",%lld" : "%lld", (long long)s->spec.dim[i]);
    fl_bytes_printf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)s->begin,
                    (unsigned long long)(s->begin + s->bytes));
}

static int write_header(fl_st_writer *w, uint32_t shard, fl_err *err) {
    int rc = FL_OK;
    fl_bytes b = {.limit = MAX_HEADER_BYTES};
    fl_bytes_puts(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < w->n; i++) {
        if (w->slots[i].shard == shard) put_entry(&b, &w->slots[i]);
    }
    fl_bytes_putc(&b, '}');
    while (b.len % 8 && !b.failed) fl_bytes_putc(&b, ' ');
    uint8_t size[8];
    for (int i = 0; i < 8; i++) size[i] = (uint8_t)((uint64_t)b.len >> (8 * i));
    if (b.failed)
        rc = no_memory(w, err);
    else if (fwrite(size, 1, 8, w->f) != 8 || fwrite(b.data, 1, b.len, w->f) != b.len)
        rc = fl_fail(err, FL_E_IO, "%s: %s", w->tmp_path, strerror(errno));
    fl_bytes_free(&b);
    return rc;
}

static int close_shard(fl_st_writer *w, fl_err *err) {
    int rc = FL_OK;
    if (!w->f) return FL_OK;
    bool ok = !fflush(w->f) && !fsync(fileno(w->f));
    if (fclose(w->f)) ok = false;
    w->f = NULL;
    if (!ok) rc = fl_fail(err, FL_E_IO, "%s: %s", w->tmp_path, strerror(errno));
    return rc;
}

/* Close the open shard and begin the next ones up to `shard`. */
static int enter_shard(fl_st_writer *w, uint32_t shard, fl_err *err) {
    int rc;
    while (w->n_opened <= shard) {
        if ((rc = close_shard(w, err))) return rc;
        set_paths(w, w->n_opened);
        if (!(w->f = fopen(w->tmp_path, "wbe")))
            return fl_fail(err, FL_E_IO, "%s: %s", w->tmp_path, strerror(errno));
        w->n_opened++;
        if ((rc = write_header(w, w->n_opened - 1, err))) return rc;
    }
    return FL_OK;
}

/* Step over complete tensors; empty ones complete themselves. */
static void skip_complete(fl_st_writer *w) {
    while (w->current < w->n && w->done_bytes == w->slots[w->current].bytes) {
        w->current++;
        w->done_bytes = 0;
    }
}

int fl_st_writer_new(fl_st_writer **out, const char *dir, const fl_st_spec *specs, size_t n,
                     uint64_t shard_bytes, fl_err *err) {
    int rc;
    *out = NULL;
    fl_st_writer *w = fl_alloc(sizeof(*w));
    char *index = fl_path_join(dir, "model.safetensors.index.json");
    if (!w || !index || !(w->dir = fl_strdup(dir)) ||
        !(w->slots = fl_alloc_array(n, sizeof(*w->slots))) ||
        !(w->path = fl_alloc(strlen(dir) + 80)) || !(w->tmp_path = fl_alloc(strlen(dir) + 80))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s: no memory to write tensors", dir);
        goto done;
    }
    w->n = n;
    w->path_size = strlen(dir) + 80;
    if ((rc = plan(w, specs, shard_bytes ? shard_bytes : DEFAULT_SHARD_BYTES, err))) goto done;
    if (w->n_shards == 1 && fl_file_exists(index)) {
        rc = fl_fail(err, FL_E_ARG, "%s: is in the way, a reader would prefer it", index);
        goto done;
    }
    skip_complete(w);
    *out = w;
    w = NULL;
done:
    fl_free(index);
    fl_st_writer_abort(w);
    return rc;
}

size_t fl_st_writer_next(const fl_st_writer *w, uint64_t *bytes) {
    bool more = w->current < w->n;
    if (bytes) *bytes = more ? w->slots[w->current].bytes - w->done_bytes : 0;
    return more ? w->slots[w->current].spec_index : w->n;
}

int fl_st_writer_put(fl_st_writer *w, const void *data, size_t bytes, fl_err *err) {
    if (!bytes) return FL_OK;
    if (w->current == w->n)
        return fl_fail(err, FL_E_ARG, "%s: %zu bytes after the last tensor", w->dir, bytes);
    const slot *s = &w->slots[w->current];
    if (bytes > s->bytes - w->done_bytes)
        return fl_fail(err, FL_E_ARG, "%.300s: %zu bytes, %llu are missing", s->spec.name, bytes,
                       (unsigned long long)(s->bytes - w->done_bytes));
    int rc = enter_shard(w, s->shard, err);
    if (rc) return rc;
    if (fwrite(data, 1, bytes, w->f) != bytes)
        return fl_fail(err, FL_E_IO, "%s: %s", w->tmp_path, strerror(errno));
    w->done_bytes += bytes;
    skip_complete(w);
    return FL_OK;
}

static int by_name(const void *a, const void *b) {
    const slot *const *x = a, *const *y = b;
    return strcmp((*x)->spec.name, (*y)->spec.name);
}

static int write_index(const fl_st_writer *w, fl_err *err) {
    int rc;
    uint64_t total = 0;
    fl_bytes b = {0};
    char *path = fl_path_join(w->dir, "model.safetensors.index.json");
    const slot **sorted = fl_alloc_array(w->n, sizeof(*sorted));
    if (!path || !sorted) {
        rc = no_memory(w, err);
        goto done;
    }
    for (size_t i = 0; i < w->n; i++) {
        sorted[i] = &w->slots[i];
        total += sorted[i]->bytes;
    }
    qsort(sorted, w->n, sizeof(*sorted), by_name);
    fl_bytes_printf(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
                    (unsigned long long)total);
    for (size_t i = 0; i < w->n; i++) {
        char name[64];
        fl_bytes_puts(&b, i ? ",\n    " : "\n    ");
        put_json_string(&b, sorted[i]->spec.name);
        shard_name(name, w, sorted[i]->shard);
        fl_bytes_printf(&b, ": \"%s\"", name);
    }
    fl_bytes_puts(&b, "\n  }\n}\n");
    rc = b.failed ? no_memory(w, err) : fl_file_write(path, b.data, b.len, err);
done:
    fl_bytes_free(&b);
    fl_free(sorted);
    fl_free(path);
    return rc;
}

static int rename_shards(fl_st_writer *w, fl_err *err) {
    for (uint32_t i = 0; i < w->n_shards; i++) {
        set_paths(w, i);
        if (rename(w->tmp_path, w->path))
            return fl_fail(err, FL_E_IO, "%s: %s", w->path, strerror(errno));
    }
    return FL_OK;
}

int fl_st_writer_finish(fl_st_writer *w, fl_err *err) {
    int rc;
    if (w->current < w->n) {
        rc =
            fl_fail(err, FL_E_ARG, "%.300s: %llu bytes are missing", w->slots[w->current].spec.name,
                    (unsigned long long)(w->slots[w->current].bytes - w->done_bytes));
        goto done;
    }
    if ((rc = enter_shard(w, w->n_shards - 1, err)) || (rc = close_shard(w, err)) ||
        (rc = rename_shards(w, err)))
        goto done;
    if (w->n_shards > 1) rc = write_index(w, err);
done:
    fl_st_writer_abort(w);
    return rc;
}

void fl_st_writer_abort(fl_st_writer *w) {
    if (!w) return;
    if (w->f) fclose(w->f);
    for (uint32_t i = 0; i < w->n_opened; i++) {
        set_paths(w, i);
        unlink(w->tmp_path); /* gone already when it was renamed */
    }
    fl_arena_free(&w->names);
    fl_free(w->tmp_path);
    fl_free(w->path);
    fl_free(w->slots);
    fl_free(w->dir);
    fl_free(w);
}
