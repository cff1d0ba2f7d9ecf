#include "util/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
} info[FL_DTYPE_COUNT] = {
    [FL_DTYPE_NONE] = {"NONE", 0},
    [FL_DTYPE_F32] = {"F32", 32},
    [FL_DTYPE_BF16] = {"BF16", 16},
    [FL_DTYPE_F16] = {"F16", 16},
    [FL_DTYPE_E4M3] = {"F8_E4M3", 8},
    [FL_DTYPE_I32] = {"I32", 32},
    [FL_DTYPE_E5M2] = {"F8_E5M2", 8},
    [FL_DTYPE_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [FL_DTYPE_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [FL_DTYPE_E8M0] = {"F8_E8M0", 8},
    [FL_DTYPE_F4] = {"F4", 4},
    [FL_DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [FL_DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [FL_DTYPE_BOOL] = {"BOOL", 8},
    [FL_DTYPE_U8] = {"U8", 8},
    [FL_DTYPE_I8] = {"I8", 8},
    [FL_DTYPE_U16] = {"U16", 16},
    [FL_DTYPE_I16] = {"I16", 16},
    [FL_DTYPE_U32] = {"U32", 32},
    [FL_DTYPE_U64] = {"U64", 64},
    [FL_DTYPE_I64] = {"I64", 64},
    [FL_DTYPE_F64] = {"F64", 64},
    [FL_DTYPE_C64] = {"C64", 64},
};

int fl_dtype_bits(fl_dtype t) {
    return info[t].bits;
}
const char *fl_dtype_name(fl_dtype t) {
    return info[t].name;
}

fl_dtype fl_dtype_from_name(const char *name) {
    for (int t = FL_DTYPE_NONE + 1; t < FL_DTYPE_COUNT; t++) {
        if (!strcmp(info[t].name, name)) return (fl_dtype)t;
    }
    return FL_DTYPE_NONE;
}
