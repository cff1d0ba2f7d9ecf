/* safetensors_write.h - a new checkpoint's tensors, written as a stream.
 *
 * All names, dtypes and shapes are declared first; that fixes shards, order and headers.
 * Then the data is appended tensor by tensor in the writer's own order, so memory holds
 * what the caller is about to append and nothing else. */
#ifndef FL_FORMATS_SAFETENSORS_WRITE_H
#define FL_FORMATS_SAFETENSORS_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/safetensors.h"
#include "util/err.h"

typedef struct fl_st_spec {
    const char *name;
    fl_dtype dtype;
    int32_t ndim;
    int64_t dim[FL_ST_MAX_DIMS];
} fl_st_spec;

typedef struct fl_st_writer fl_st_writer;

/* Shards are filled in the order of `specs` up to shard_bytes of data (0: 5 GB; a larger
 * tensor gets a shard of its own).  One shard is dir/model.safetensors; more are
 * dir/model-00001-of-0000N.safetensors and dir/model.safetensors.index.json.  Within a
 * shard tensors lie by element size, largest first, then by name, as the reference
 * writer lays them.  Specs are copied.  FL_E_ARG: a name twice, a size that overflows. */
int fl_st_writer_new(fl_st_writer **out, const char *dir, const fl_st_spec *specs, size_t n,
                     uint64_t shard_bytes, fl_err *err);

/* The index in `specs` of the tensor whose data comes next; n when all are complete.
 * *bytes, when not NULL: how many of its bytes are still to come. */
size_t fl_st_writer_next(const fl_st_writer *w, uint64_t *bytes);

/* Append bytes of that tensor: the whole or a part, never past its end (FL_E_ARG). */
int fl_st_writer_put(fl_st_writer *w, const void *data, size_t bytes, fl_err *err);

/* Flush, rename the .tmp files to their names, the index last, and free w.  FL_E_ARG,
 * and nothing renamed, when a tensor is incomplete.  w is gone either way. */
int fl_st_writer_finish(fl_st_writer *w, fl_err *err);
void fl_st_writer_abort(fl_st_writer *w); /* removes the .tmp files; NULL is fine */

#endif
