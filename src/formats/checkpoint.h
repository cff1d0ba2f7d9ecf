/* checkpoint.h - a model directory's tensors: model.safetensors, or the shards named
 * by model.safetensors.index.json, or all *.safetensors when there is neither. */
#ifndef FL_FORMATS_CHECKPOINT_H
#define FL_FORMATS_CHECKPOINT_H

#include "formats/safetensors.h"

typedef struct fl_checkpoint fl_checkpoint;

/* Opens and validates every shard.  FL_E_UNSUPPORTED when only .bin/.pth files exist.  Tensors of a
 * model that was saved without its head are called "layers.0..." there and "model.layers.0..."
 * here. */
int fl_checkpoint_open(fl_checkpoint **out, const char *dir, fl_err *err);
/* Tensors that lie in memory instead of files; they and their data live until close, which
 * calls release(owner).  On failure the owner stays the caller's. */
int fl_checkpoint_of_memory(fl_checkpoint **out, const char *dir, const fl_st_tensor *tensors,
                            size_t n, void (*release)(void *owner), void *owner, fl_err *err);
/* Tensors whose names begin with `from` begin with `to` instead; one whose new name is taken keeps
 * its own. */
int fl_checkpoint_rename(fl_checkpoint *ck, const char *from, const char *to, fl_err *err);
/* fl_safetensors_check of all files. */
int fl_checkpoint_check(const fl_checkpoint *ck, int rc, fl_err *err);
void fl_checkpoint_close(fl_checkpoint *ck);
const char *fl_checkpoint_dir(const fl_checkpoint *ck);
size_t fl_checkpoint_count(const fl_checkpoint *ck);
const fl_st_tensor *fl_checkpoint_at(const fl_checkpoint *ck, size_t i);
const fl_st_tensor *fl_checkpoint_find(const fl_checkpoint *ck,
                                       const char *name); /* NULL: absent */
uint64_t fl_checkpoint_bytes(const fl_checkpoint *ck);    /* tensor bytes on disk */

#endif
