#include "formats/checkpoint.h"

#include <string.h>

#include "formats/inventory.h"
#include "util/file.h"
#include "util/json.h"
#include "util/log.h"
#include "util/map.h"
#include "util/mem.h"

#define INDEX_NAME "model.safetensors.index.json"

enum { MAX_SHARDS = 4096, MAX_INDEX_BYTES = 64 << 20 };

struct fl_checkpoint {
    char *dir;
    fl_safetensors **shards;
    size_t n_shards, cap_shards;
    const fl_st_tensor **tensors; /* shard by shard, by offset */
    size_t n;
    fl_map by_name; /* tensor name -> index in tensors */
    uint64_t bytes;
    fl_arena renamed;
    void (*release)(void *owner); /* of tensors in memory */
    void *owner;
};

/* What model.safetensors.index.json says. */
typedef struct shard_index {
    fl_json *doc;
    fl_map shards;    /* file name -> shard number, in order of first mention */
    fl_map placement; /* tensor name -> shard number */
} shard_index;

static int no_memory(const fl_checkpoint *ck, fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "%s: no memory for the list of tensors", ck->dir);
}

static int open_shard(fl_checkpoint *ck, const char *name, fl_err *err) {
    if (ck->n_shards == MAX_SHARDS)
        return fl_fail(err, FL_E_LIMIT, "%s: more than %d files", ck->dir, MAX_SHARDS);
    if (ck->n_shards == ck->cap_shards) {
        size_t cap = ck->cap_shards ? ck->cap_shards * 2 : 8;
        fl_safetensors **grown = fl_grow(ck->shards, cap * sizeof(fl_safetensors *));
        if (!grown) return no_memory(ck, err);
        ck->shards = grown;
        ck->cap_shards = cap;
    }
    char *path = fl_path_join(ck->dir, name);
    if (!path) return no_memory(ck, err);
    int rc = fl_safetensors_open(&ck->shards[ck->n_shards], path, err);
    if (!rc) ck->n_shards++;
    fl_free(path);
    return rc;
}

/* A shard must lie in the model's own folder. */
static bool plain_file_name(const char *s) {
    return *s && !strchr(s, '/') && !strchr(s, '\\') && !strstr(s, "..");
}

static int read_index(fl_checkpoint *ck, shard_index *ix, const char *path, fl_err *err) {
    int rc = fl_json_load(&ix->doc, path, MAX_INDEX_BYTES, err);
    if (rc) return rc;
    const fl_json_node *map = fl_json_get(fl_json_root(ix->doc), "weight_map");
    if (!fl_json_is_object(map))
        return fl_fail(err, FL_E_FORMAT, "%s: weight_map is missing or not an object", path);
    for (const fl_json_node *v = fl_json_first(map); v; v = fl_json_next(v)) {
        const char *tensor = fl_json_key(v), *file = fl_json_string(v);
        if (!file || !plain_file_name(file))
            return fl_fail(err, FL_E_FORMAT, "%s: weight_map: %.300s: \"%.200s\" is no file name",
                           path, tensor, file ? file : "");
        uint32_t shard;
        if (!fl_map_get(&ix->shards, file, strlen(file), &shard)) {
            shard = (uint32_t)ck->n_shards;
            if (fl_map_put(&ix->shards, file, strlen(file), shard) != FL_MAP_NEW)
                return no_memory(ck, err);
            if ((rc = open_shard(ck, file, err))) {
                fl_fail_in(err, "%s: ", INDEX_NAME);
                return rc;
            }
        }
        fl_map_result put = fl_map_put(&ix->placement, tensor, strlen(tensor), shard);
        if (put == FL_MAP_NOMEM) return no_memory(ck, err);
        if (put == FL_MAP_EXISTS) fl_map_set(&ix->placement, tensor, strlen(tensor), shard);
    }
    return FL_OK;
}

/* Collect every tensor; with an index, those it places in the shard at hand. */
static int collect(fl_checkpoint *ck, const shard_index *ix, fl_err *err) {
    size_t total = 0, skipped = 0;
    const fl_st_tensor *first_skipped = NULL;
    for (size_t s = 0; s < ck->n_shards; s++) total += fl_safetensors_count(ck->shards[s]);
    if (total >= UINT32_MAX || !(ck->tensors = fl_alloc_array(total, sizeof(*ck->tensors))))
        return no_memory(ck, err);
    for (size_t s = 0; s < ck->n_shards; s++) {
        for (size_t i = 0; i < fl_safetensors_count(ck->shards[s]); i++) {
            const fl_st_tensor *t = fl_safetensors_at(ck->shards[s], i);
            size_t len = strlen(t->name);
            uint32_t where;
            if (ix && (!fl_map_get(&ix->placement, t->name, len, &where) || where != s)) {
                if (!skipped++) first_skipped = t;
                continue;
            }
            fl_map_result put = fl_map_put(&ck->by_name, t->name, len, (uint32_t)ck->n);
            if (put == FL_MAP_NOMEM) return no_memory(ck, err);
            if (put == FL_MAP_EXISTS)
                return fl_fail(err, FL_E_FORMAT, "%s: %.300s is in %s and in %s", ck->dir, t->name,
                               fl_checkpoint_find(ck, t->name)->file, t->file);
            ck->tensors[ck->n++] = t;
            ck->bytes += t->bytes;
        }
    }
    if (skipped)
        fl_log(FL_LOG_WARN,
               "%s: %zu tensors that %s does not place there are ignored, first %s: %s", ck->dir,
               skipped, INDEX_NAME, first_skipped->file, first_skipped->name);
    return FL_OK;
}

/* Every name of weight_map must have been found in its shard. */
static int check_complete(const fl_checkpoint *ck, const shard_index *ix, fl_err *err) {
    const fl_json_node *map = fl_json_get(fl_json_root(ix->doc), "weight_map");
    for (const fl_json_node *v = fl_json_first(map); v; v = fl_json_next(v)) {
        if (fl_checkpoint_find(ck, fl_json_key(v)) || fl_tensor_unneeded(fl_json_key(v))) continue;
        return fl_fail(err, FL_E_FORMAT, "%s: %s places %.300s in %s, which does not have it",
                       ck->dir, INDEX_NAME, fl_json_key(v), fl_json_string(v));
    }
    return FL_OK;
}

static int open_indexed(fl_checkpoint *ck, const char *index_path, fl_err *err) {
    int rc;
    shard_index ix = {0};
    if ((rc = read_index(ck, &ix, index_path, err)) || (rc = collect(ck, &ix, err))) goto done;
    rc = check_complete(ck, &ix, err);
done:
    fl_map_free(&ix.placement);
    fl_map_free(&ix.shards);
    fl_json_free(ix.doc);
    return rc;
}

/* Nothing to load: say which of the usual reasons it is. */
static int explain_absence(const fl_checkpoint *ck, fl_err *err) {
    static const char *const other[] = {".bin", ".pth", ".pt", ".gguf"};
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
        char **names;
        size_t n;
        int rc = fl_dir_list(&names, &n, ck->dir, other[i], err);
        if (rc) return rc;
        if (n)
            rc = fl_fail(err, FL_E_UNSUPPORTED,
                         "%s: only %s files (%s): fp8llm reads the safetensors form of a model",
                         ck->dir, other[i], names[0]);
        fl_free(names);
        if (rc) return rc;
    }
    return fl_fail(err, FL_E_IO, "%s: no model.safetensors, no %s, no *.safetensors", ck->dir,
                   INDEX_NAME);
}

static int open_unindexed(fl_checkpoint *ck, fl_err *err) {
    char **names;
    size_t n;
    int rc = fl_dir_list(&names, &n, ck->dir, ".safetensors", err);
    if (rc) return rc;
    for (size_t i = 0; i < n && !rc; i++) {
        /* model.safetensors is the whole model; what lies beside it is something else. */
        if (!strcmp(names[i], "model.safetensors")) {
            names[0] = names[i];
            n = 1;
        }
    }
    for (size_t i = 0; i < n && !rc; i++) rc = open_shard(ck, names[i], err);
    if (!rc) rc = n ? collect(ck, NULL, err) : explain_absence(ck, err);
    fl_free(names);
    return rc;
}

int fl_checkpoint_rename(fl_checkpoint *ck, const char *from, const char *to, fl_err *err) {
    const size_t cut = strlen(from), added = strlen(to);
    for (size_t i = 0; i < ck->n; i++) {
        const fl_st_tensor *t = ck->tensors[i];
        if (strncmp(t->name, from, cut)) continue;
        const size_t rest = strlen(t->name) - cut;
        fl_st_tensor *copy = fl_arena_alloc(&ck->renamed, sizeof(*copy));
        char *name = fl_arena_alloc(&ck->renamed, added + rest + 1);
        if (!copy || !name) return no_memory(ck, err);
        memcpy(name, to, added);
        memcpy(name + added, t->name + cut, rest + 1);
        *copy = *t;
        copy->name = name;
        fl_map_result put = fl_map_put(&ck->by_name, name, added + rest, (uint32_t)i);
        if (put == FL_MAP_NOMEM) return no_memory(ck, err);
        if (put == FL_MAP_NEW) ck->tensors[i] = copy;
    }
    return FL_OK;
}

/* transformers reads a model without the prefix of its base model, and so does this. */
static int add_base_prefix(fl_checkpoint *ck, fl_err *err) {
    static const char *const parts[][2] = {{"layers.", "model.layers."},
                                           {"embed_tokens.", "model.embed_tokens."},
                                           {"norm.", "model.norm."}};
    bool bare = false;
    for (size_t i = 0; i < ck->n; i++) {
        if (!strncmp(ck->tensors[i]->name, "model.", 6)) return FL_OK;
        bare |= !strncmp(ck->tensors[i]->name, "layers.0.", 9);
    }
    for (int i = 0; bare && i < 3; i++) {
        int rc = fl_checkpoint_rename(ck, parts[i][0], parts[i][1], err);
        if (rc) return rc;
    }
    return FL_OK;
}

int fl_checkpoint_open(fl_checkpoint **out, const char *dir, fl_err *err) {
    int rc;
    *out = NULL;
    char *index = NULL;
    fl_checkpoint *ck = fl_alloc(sizeof(*ck));
    if (!ck || !(ck->dir = fl_strdup(dir)) || !(index = fl_path_join(dir, INDEX_NAME))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    rc = fl_file_exists(index) ? open_indexed(ck, index, err) : open_unindexed(ck, err);
    if (rc || (rc = add_base_prefix(ck, err))) goto done;
    *out = ck;
    ck = NULL;
done:
    fl_free(index);
    fl_checkpoint_close(ck);
    return rc;
}

int fl_checkpoint_of_memory(fl_checkpoint **out, const char *dir, const fl_st_tensor *tensors,
                            size_t n, void (*release)(void *owner), void *owner, fl_err *err) {
    int rc = FL_OK;
    fl_checkpoint *ck = fl_alloc(sizeof(*ck));
    *out = NULL;
    if (!ck || !(ck->dir = fl_strdup(dir)) || n >= UINT32_MAX ||
        !(ck->tensors = fl_alloc_array(n, sizeof(*ck->tensors)))) {
        rc = fl_fail(err, FL_E_NOMEM, "%s", dir);
        goto done;
    }
    for (; ck->n < n; ck->n++) {
        const fl_st_tensor *t = &tensors[ck->n];
        if (fl_map_put(&ck->by_name, t->name, strlen(t->name), (uint32_t)ck->n) != FL_MAP_NEW) {
            rc = no_memory(ck, err);
            goto done;
        }
        ck->tensors[ck->n] = t;
        ck->bytes += t->bytes;
    }
    ck->release = release;
    ck->owner = owner;
    *out = ck;
    ck = NULL;
done:
    fl_checkpoint_close(ck);
    return rc;
}

int fl_checkpoint_check(const fl_checkpoint *ck, int rc, fl_err *err) {
    int lost = FL_OK;
    for (size_t i = 0; !lost && i < ck->n_shards; i++)
        lost = fl_safetensors_check(ck->shards[i], FL_OK, err);
    return lost ? lost : rc;
}

void fl_checkpoint_close(fl_checkpoint *ck) {
    if (!ck) return;
    if (ck->release) ck->release(ck->owner);
    for (size_t i = 0; i < ck->n_shards; i++) fl_safetensors_close(ck->shards[i]);
    fl_free(ck->shards);
    fl_free(ck->tensors);
    fl_map_free(&ck->by_name);
    fl_arena_free(&ck->renamed);
    fl_free(ck->dir);
    fl_free(ck);
}

const char *fl_checkpoint_dir(const fl_checkpoint *ck) {
    return ck->dir;
}

size_t fl_checkpoint_count(const fl_checkpoint *ck) {
    return ck->n;
}

const fl_st_tensor *fl_checkpoint_at(const fl_checkpoint *ck, size_t i) {
    return i < ck->n ? ck->tensors[i] : NULL;
}

const fl_st_tensor *fl_checkpoint_find(const fl_checkpoint *ck, const char *name) {
    uint32_t i;
    return fl_map_get(&ck->by_name, name, strlen(name), &i) ? ck->tensors[i] : NULL;
}

uint64_t fl_checkpoint_bytes(const fl_checkpoint *ck) {
    return ck->bytes;
}
