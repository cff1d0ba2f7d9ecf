/* safetensors.h - one .safetensors file: mapped, fully validated, looked up by name.
 *
 * Makes every check of the reference reader plus: duplicate names, git-lfs pointer
 * files.  Data is never assumed to be aligned. */
#ifndef FL_FORMATS_SAFETENSORS_H
#define FL_FORMATS_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/dtype.h"
#include "util/err.h"

enum { FL_ST_MAX_DIMS = 8 };

typedef struct fl_st_tensor {
    const char *name;    /* lives as long as the file                       */
    const char *file;    /* base name of the file it is in, for messages    */
    const uint8_t *data; /* `bytes` bytes in the mapping, any alignment     */
    uint64_t bytes;
    int64_t dim[FL_ST_MAX_DIMS];
    int32_t ndim; /* 0: a scalar with one element                           */
    fl_dtype dtype;
} fl_st_tensor;

typedef struct fl_safetensors fl_safetensors;

int fl_safetensors_open(fl_safetensors **out, const char *path, fl_err *err);
/* What a file loses while it is open reads as zeros.  So whoever has read tensors, with the result
 * rc, checks before that is believed: FL_E_IO when the file has become shorter, else rc. */
int fl_safetensors_check(const fl_safetensors *st, int rc, fl_err *err);
void fl_safetensors_close(fl_safetensors *st); /* views die with it */
size_t fl_safetensors_count(const fl_safetensors *st);
const fl_st_tensor *fl_safetensors_at(const fl_safetensors *st, size_t i); /* file order */
const fl_st_tensor *fl_safetensors_find(const fl_safetensors *st, const char *name);

/* "[4096,14336]" into out (for messages). */
const char *fl_st_shape(char out[160], const fl_st_tensor *t);
int64_t fl_st_numel(const fl_st_tensor *t);
/* F64, F32, BF16 or F16. */
bool fl_st_is_float(fl_dtype t);
/* Element i as f32; of these types or E4M3. */
float fl_st_value(const fl_st_tensor *t, int64_t i);

#endif
