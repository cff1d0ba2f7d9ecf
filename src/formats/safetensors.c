#include "formats/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/file.h"
#include "util/fp8.h"
#include "util/json.h"
#include "util/map.h"
#include "util/mem.h"
#include "util/num.h"

/* The reference reader's limits: header bytes, and any size in the header. */
#define MAX_HEADER_BYTES 100000000u
#define MAX_SIZE         ((INT64_C(1) << 48) - 1)

struct fl_safetensors {
    char *path;
    fl_mapping map;
    fl_st_tensor *tensors; /* by offset in the file */
    size_t n;
    fl_arena names;
    fl_map by_name;
};

/* A header entry before its offsets are known to be inside the file. */
typedef struct entry {
    fl_st_tensor t;
    uint64_t begin, end; /* in the data buffer */
} entry;

static int no_memory(const fl_safetensors *st, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory for the header", st->path);
}

/* Without git-lfs a clone holds small text files in place of the weights. */
static int check_not_lfs(const fl_safetensors *st, fl_err *err) {
    static const char mark[] = "version https://git-lfs";
    const fl_mapping *m = &st->map;
    if (m->size < sizeof(mark) - 1 || memcmp(m->data, mark, sizeof(mark) - 1)) return FL_OK;
    char text[512];
    size_t n = m->size < sizeof(text) - 1 ? m->size : sizeof(text) - 1;
    memcpy(text, m->data, n);
    text[n] = '\0';
    const char *size = strstr(text, "\nsize ");
    size = size ? size + 6 : "?";
    return fl_fail(err, FL_E_FORMAT,
                   "%s: a git-lfs pointer of %zu bytes, not the file it stands for (%.*s bytes): "
                   "run `git lfs pull`",
                   st->path, m->size, (int)strcspn(size, "\n"), size);
}

static int read_header_size(const fl_safetensors *st, uint64_t *out, fl_err *err) {
    uint64_t n = 0, end;
    if (st->map.size < 8)
        return fl_fail(err, FL_E_FORMAT, "%s: %zu bytes, the header length alone takes 8", st->path,
                       st->map.size);
    for (int i = 7; i >= 0; i--) n = n << 8 | st->map.data[i];
    if (n > MAX_HEADER_BYTES)
        return fl_fail(err, FL_E_FORMAT, "%s: header length %llu, limit %u", st->path,
                       (unsigned long long)n, MAX_HEADER_BYTES);
    if (!fl_add_u64(n, 8, &end) || end > st->map.size)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: header length %llu + 8 exceeds the file's %zu bytes (truncated?)",
                       st->path, (unsigned long long)n, st->map.size);
    *out = n;
    return FL_OK;
}

static int bad_entry(const fl_safetensors *st, const char *name, const char *what, fl_err *err) {
    return fl_fail(err, FL_E_FORMAT, "%s: %.300s: %s", st->path, name, what);
}

static int read_dtype(const fl_safetensors *st, entry *e, const fl_json_node *v, fl_err *err) {
    const char *dtype = fl_json_string(v);
    if (!dtype) return bad_entry(st, e->t.name, "dtype is not a string", err);
    e->t.dtype = fl_dtype_from_name(dtype);
    if (e->t.dtype == FL_DTYPE_NONE)
        return fl_fail(err, FL_E_FORMAT, "%s: %.300s: unknown dtype \"%.40s\"", st->path, e->t.name,
                       dtype);
    return FL_OK;
}

static bool is_size(const fl_json_node *v, int64_t *out) {
    return fl_json_is_int(v, out) && *out >= 0 && *out <= MAX_SIZE;
}

static int read_shape(const fl_safetensors *st, entry *e, const fl_json_node *v, fl_err *err) {
    if (!fl_json_is_array(v)) return bad_entry(st, e->t.name, "shape is not an array", err);
    for (const fl_json_node *i = fl_json_first(v); i; i = fl_json_next(i)) {
        if (e->t.ndim == FL_ST_MAX_DIMS)
            return fl_fail(err, FL_E_LIMIT, "%s: %.300s: %zu dimensions, limit %d", st->path,
                           e->t.name, fl_json_size(v), FL_ST_MAX_DIMS);
        if (!is_size(i, &e->t.dim[e->t.ndim++]))
            return bad_entry(st, e->t.name, "shape holds something else than sizes 0..2^48-1", err);
    }
    return FL_OK;
}

static int read_offsets(const fl_safetensors *st, entry *e, const fl_json_node *v, fl_err *err) {
    int64_t offset[2];
    int n = 0;
    if (!fl_json_is_array(v) || fl_json_size(v) != 2)
        return bad_entry(st, e->t.name, "data_offsets is not a pair", err);
    for (const fl_json_node *i = fl_json_first(v); i; i = fl_json_next(i)) {
        if (!is_size(i, &offset[n++]))
            return bad_entry(st, e->t.name,
                             "data_offsets holds something else than sizes 0..2^48-1", err);
    }
    e->begin = (uint64_t)offset[0];
    e->end = (uint64_t)offset[1];
    return FL_OK;
}

static int read_entry(const fl_safetensors *st, entry *e, const fl_json_node *item, fl_err *err) {
    static const struct {
        const char *key;
        int (*read)(const fl_safetensors *, entry *, const fl_json_node *, fl_err *);
    } field[] = {{"dtype", read_dtype}, {"shape", read_shape}, {"data_offsets", read_offsets}};
    bool seen[3] = {0};
    if (!fl_json_is_object(item)) return bad_entry(st, e->t.name, "not an object", err);
    for (const fl_json_node *v = fl_json_first(item); v; v = fl_json_next(v)) {
        for (int i = 0; i < 3; i++) {
            if (strcmp(fl_json_key(v), field[i].key)) continue;
            if (seen[i])
                return fl_fail(err, FL_E_FORMAT, "%s: %.300s: %s appears twice", st->path,
                               e->t.name, field[i].key);
            seen[i] = true;
            int rc = field[i].read(st, e, v, err);
            if (rc) return rc;
        }
    }
    for (int i = 0; i < 3; i++) {
        if (!seen[i])
            return fl_fail(err, FL_E_FORMAT, "%s: %.300s: %s is missing", st->path, e->t.name,
                           field[i].key);
    }
    return FL_OK;
}

static int check_metadata(const fl_safetensors *st, const fl_json_node *item, fl_err *err) {
    if (!fl_json_is_object(item)) return bad_entry(st, "__metadata__", "not an object", err);
    for (const fl_json_node *v = fl_json_first(item); v; v = fl_json_next(v)) {
        if (!fl_json_string(v))
            return fl_fail(err, FL_E_FORMAT, "%s: __metadata__: %.300s: not a string", st->path,
                           fl_json_key(v));
    }
    return FL_OK;
}

/* Every header entry into entries[st->n]. */
static int read_entries(fl_safetensors *st, entry *entries, const fl_json_node *root, fl_err *err) {
    bool metadata = false;
    for (const fl_json_node *item = fl_json_first(root); item; item = fl_json_next(item)) {
        const char *key = fl_json_key(item);
        int rc;
        if (!strcmp(key, "__metadata__")) {
            if (metadata) return bad_entry(st, key, "appears twice", err);
            metadata = true;
            if ((rc = check_metadata(st, item, err))) return rc;
            continue;
        }
        size_t len = strlen(key);
        char *name = fl_arena_alloc(&st->names, len + 1);
        if (!name) return no_memory(st, err);
        memcpy(name, key, len);
        entries[st->n].t.name = name;
        if ((rc = read_entry(st, &entries[st->n++], item, err))) return rc;
    }
    return FL_OK;
}

static int check_names(fl_safetensors *st, const entry *entries, fl_err *err) {
    for (size_t i = 0; i < st->n; i++) {
        const char *name = entries[i].t.name;
        fl_map_result put = fl_map_put(&st->by_name, name, strlen(name), 0);
        if (put == FL_MAP_EXISTS) return bad_entry(st, name, "appears twice in the header", err);
        if (put != FL_MAP_NEW) return no_memory(st, err);
    }
    fl_map_free(&st->by_name);
    return FL_OK;
}

static int by_offset(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->t.name, y->t.name);
}

/* Shape x dtype must be exactly the bytes between the offsets. */
static int check_size(const fl_safetensors *st, const entry *e, fl_err *err) {
    uint64_t n = 1;
    char shape[160];
    for (int i = 0; i < e->t.ndim; i++) {
        if (!fl_mul_u64(n, (uint64_t)e->t.dim[i], &n)) goto overflow;
    }
    if (!fl_mul_u64(n, (uint64_t)fl_dtype_bits(e->t.dtype), &n)) goto overflow;
    if (n % 8)
        return fl_fail(err, FL_E_FORMAT, "%s: %.300s: shape %s of %s ends inside a byte", st->path,
                       e->t.name, fl_st_shape(shape, &e->t), fl_dtype_name(e->t.dtype));
    if (n / 8 != e->end - e->begin)
        return fl_fail(err, FL_E_FORMAT,
                       "%s: %.300s: shape %s of %s takes %llu bytes, data_offsets give %llu",
                       st->path, e->t.name, fl_st_shape(shape, &e->t), fl_dtype_name(e->t.dtype),
                       (unsigned long long)(n / 8), (unsigned long long)(e->end - e->begin));
    return FL_OK;
overflow:
    return fl_fail(err, FL_E_FORMAT, "%s: %.300s: shape %s overflows", st->path, e->t.name,
                   fl_st_shape(shape, &e->t));
}

/* The tensors must tile the data buffer: no hole, no overlap, nothing left over. */
static int check_layout(const fl_safetensors *st, const entry *entries, uint64_t data_bytes,
                        fl_err *err) {
    uint64_t end = 0;
    for (size_t i = 0; i < st->n; i++) {
        const entry *e = &entries[i];
        if (e->begin != end || e->end < e->begin)
            return fl_fail(err, FL_E_FORMAT,
                           "%s: %.300s: data_offsets [%llu,%llu], the tensor before ends at %llu",
                           st->path, e->t.name, (unsigned long long)e->begin,
                           (unsigned long long)e->end, (unsigned long long)end);
        end = e->end;
    }
    for (size_t i = 0; i < st->n; i++) {
        int rc = check_size(st, &entries[i], err);
        if (rc) return rc;
    }
    if (end != data_bytes)
        return fl_fail(err, FL_E_FORMAT, "%s: the header describes %llu bytes, the file has %zu%s",
                       st->path, (unsigned long long)(end + (st->map.size - data_bytes)),
                       st->map.size, end > data_bytes ? " (interrupted download?)" : "");
    return FL_OK;
}

/* Move the checked entries into st->tensors and index their names. */
static int keep_entries(fl_safetensors *st, const entry *entries, const uint8_t *data,
                        fl_err *err) {
    const char *slash = strrchr(st->path, '/');
    if (!(st->tensors = fl_alloc_array(st->n, sizeof(*st->tensors)))) return no_memory(st, err);
    for (size_t i = 0; i < st->n; i++) {
        fl_st_tensor *t = &st->tensors[i];
        *t = entries[i].t;
        t->file = slash ? slash + 1 : st->path;
        t->data = data + entries[i].begin;
        t->bytes = entries[i].end - entries[i].begin;
        if (fl_map_put(&st->by_name, t->name, strlen(t->name), (uint32_t)i) != FL_MAP_NEW)
            return no_memory(st, err);
    }
    return FL_OK;
}

/* The entries of the header, and how many bytes it has. */
static int parse_header(fl_safetensors *st, entry **entries, uint64_t *header_bytes, fl_err *err) {
    fl_json *doc;
    int rc;
    if ((rc = check_not_lfs(st, err)) || (rc = read_header_size(st, header_bytes, err)) ||
        (rc = fl_json_parse(&doc, (const char *)st->map.data + 8, (size_t)*header_bytes, st->path,
                            err)))
        return rc;
    const fl_json_node *root = fl_json_root(doc);
    const size_t count = fl_json_size(root);
    if (!fl_json_is_object(root))
        rc = fl_fail(err, FL_E_FORMAT, "%s: the header is not a JSON object", st->path);
    else if (count >= UINT32_MAX || !(*entries = fl_alloc_array(count, sizeof(**entries))))
        rc = no_memory(st, err);
    else
        rc = read_entries(st, *entries, root, err);
    fl_json_free(doc);
    return rc;
}

static int read_header(fl_safetensors *st, fl_err *err) {
    uint64_t header_bytes = 0;
    entry *entries = NULL;
    int rc = parse_header(st, &entries, &header_bytes, err);
    if (rc || (rc = check_names(st, entries, err))) goto done;
    qsort(entries, st->n, sizeof(*entries), by_offset);
    uint64_t data_bytes = st->map.size - 8 - header_bytes;
    if ((rc = check_layout(st, entries, data_bytes, err))) goto done;
    rc = keep_entries(st, entries, st->map.data + 8 + header_bytes, err);
done:
    fl_free(entries);
    return rc;
}

int fl_safetensors_open(fl_safetensors **out, const char *path, fl_err *err) {
    int rc;
    *out = NULL;
    fl_safetensors *st = fl_alloc(sizeof(*st));
    if (!st || !(st->path = fl_strdup(path))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", path);
        goto done;
    }
    if ((rc = fl_file_map(&st->map, path, err))) goto done;
    if ((rc = fl_safetensors_check(st, read_header(st, err), err))) goto done;
    *out = st;
    st = NULL;
done:
    fl_safetensors_close(st);
    return rc;
}

void fl_safetensors_close(fl_safetensors *st) {
    if (!st) return;
    fl_file_unmap(&st->map);
    fl_map_free(&st->by_name);
    fl_arena_free(&st->names);
    fl_free(st->tensors);
    fl_free(st->path);
    fl_free(st);
}

int fl_safetensors_check(const fl_safetensors *st, int rc, fl_err *err) {
    const int lost = fl_file_check(&st->map, st->path, err);
    return lost ? lost : rc;
}

size_t fl_safetensors_count(const fl_safetensors *st) {
    return st->n;
}

const fl_st_tensor *fl_safetensors_at(const fl_safetensors *st, size_t i) {
    return i < st->n ? &st->tensors[i] : NULL;
}

const fl_st_tensor *fl_safetensors_find(const fl_safetensors *st, const char *name) {
    uint32_t i;
    return fl_map_get(&st->by_name, name, strlen(name), &i) ? &st->tensors[i] : NULL;
}

const char *fl_st_shape(char out[160], const fl_st_tensor *t) {
    int n = snprintf(out, 160, "[");
    for (int i = 0; i < t->ndim; i++)
        n += snprintf(out + n, 160 - (size_t)n, i ? ",%lld" : "%lld", (long long)t->dim[i]);
    snprintf(out + n, 160 - (size_t)n, "]");
    return out;
}

int64_t fl_st_numel(const fl_st_tensor *t) {
    uint64_t n = 1; /* unsigned: before a 0 the product may exceed 2^63 */
    for (int i = 0; i < t->ndim; i++) n *= (uint64_t)t->dim[i];
    return (int64_t)n;
}

bool fl_st_is_float(fl_dtype t) {
    return t == FL_DTYPE_F64 || t == FL_DTYPE_F32 || t == FL_DTYPE_BF16 || t == FL_DTYPE_F16;
}

float fl_st_value(const fl_st_tensor *t, int64_t i) {
    const uint8_t *p = t->data + i * fl_dtype_bytes(t->dtype);
    uint32_t word = 0;
    double wide;
    memcpy(&word, p, (size_t)fl_min_i64(fl_dtype_bytes(t->dtype), 4));
    switch (t->dtype) {
    case FL_DTYPE_BF16:
        return fl_bf16_to_f32((uint16_t)word);
    case FL_DTYPE_F16:
        return fl_f16_to_f32((uint16_t)word);
    case FL_DTYPE_F64:
        memcpy(&wide, p, sizeof(wide));
        return (float)wide;
    case FL_DTYPE_E4M3:
        return fl_e4m3_to_f32((uint8_t)word);
    default:
        return fl_bits_f32(word);
    }
}
