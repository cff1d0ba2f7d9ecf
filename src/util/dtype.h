/* dtype.h - element types, shared by files, tensors and backends. */
#ifndef FL_UTIL_DTYPE_H
#define FL_UTIL_DTYPE_H

#include <stdint.h>

typedef enum {
    FL_DTYPE_NONE = 0, /* "this operand is absent" */
    FL_DTYPE_F32,
    FL_DTYPE_BF16,
    FL_DTYPE_F16,
    FL_DTYPE_E4M3, /* OCP FP8, finite only, max 448 */
    FL_DTYPE_I32,
    /* Known to safetensors; not computed with. */
    FL_DTYPE_E5M2,
    FL_DTYPE_E4M3FNUZ,
    FL_DTYPE_E5M2FNUZ,
    FL_DTYPE_E8M0,
    FL_DTYPE_F4,
    FL_DTYPE_F6_E2M3,
    FL_DTYPE_F6_E3M2,
    FL_DTYPE_BOOL,
    FL_DTYPE_U8,
    FL_DTYPE_I8,
    FL_DTYPE_U16,
    FL_DTYPE_I16,
    FL_DTYPE_U32,
    FL_DTYPE_U64,
    FL_DTYPE_I64,
    FL_DTYPE_F64,
    FL_DTYPE_C64,
    FL_DTYPE_COUNT
} fl_dtype;

int fl_dtype_bits(fl_dtype t);                 /* bits per element: 4, 6, 8, 16, 32 or 64 */
const char *fl_dtype_name(fl_dtype t);         /* safetensors spelling: "F8_E4M3", "BF16" */
fl_dtype fl_dtype_from_name(const char *name); /* FL_DTYPE_NONE: unknown */

static inline int64_t fl_dtype_bytes(fl_dtype t) {
    return fl_dtype_bits(t) / 8;
}

/* How the input of a linear is brought to E4M3. */
typedef enum {
    FL_ACT_NONE,   /* not at all: activations keep their type                */
    FL_ACT_STATIC, /* one calibrated scale for all tokens                    */
    FL_ACT_TOKEN,  /* absmax / 448 of each row                               */
    FL_ACT_GROUP,  /* absmax / 448 of each 128 columns of a row (block FP8)  */
} fl_act_scheme;

enum { FL_ACT_GROUP_K = 128 }; /* columns of a group and of a block of weights; the last is short */

/* Groups, or blocks, of k columns. */
static inline int64_t fl_act_groups(int64_t k) {
    return (k + FL_ACT_GROUP_K - 1) / FL_ACT_GROUP_K;
}

#endif
