/* json_value.h - JSON that keeps what chat templates and requests need: integers and
 * floats apart, NUL bytes, member order.  (Model files use util/json.h.)
 *
 * Values live in the caller's arena and are immutable. */
#ifndef FL_TEXT_JSON_VALUE_H
#define FL_TEXT_JSON_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/bytes.h"
#include "util/err.h"
#include "util/mem.h"

typedef enum {
    FL_JV_NULL,
    FL_JV_BOOL,
    FL_JV_INT,   /* written without '.', 'e': fits int64 */
    FL_JV_FLOAT, /* everything else that is a number */
    FL_JV_STRING,
    FL_JV_ARRAY,
    FL_JV_OBJECT
} fl_jv_kind;

typedef struct fl_jv {
    fl_jv_kind kind;
    uint32_t n; /* items of an array or object */
    union {
        bool boolean;
        int64_t integer;
        double number;
        struct {
            const char *data; /* UTF-8, NUL-terminated, may hold NUL bytes */
            size_t len;
        } string;
        const struct fl_jv *items;          /* array [n] */
        const struct fl_jv_member *members; /* object [n], in order; a repeated key keeps
                                               its first place and its last value */
    };
} fl_jv;

typedef struct fl_jv_member {
    fl_jv key; /* FL_JV_STRING */
    fl_jv value;
} fl_jv_member;

/* text[0..n): one value, nested at most 200 deep; NaN, Infinity and -Infinity are
 * accepted as Python's json does.  Errors name `name`, line and column. */
int fl_jv_parse(fl_jv *out, fl_arena *arena, const char *text, size_t n, const char *name,
                fl_err *err);
/* Whether v is this string and nothing more: "a\0b" is not "a". */
bool fl_jv_is(const fl_jv *v, const char *text);
const fl_jv *fl_jv_get(const fl_jv *object, const char *key); /* NULL: absent or no object */
/* Compact JSON, the inverse of parse. */
void fl_jv_write(fl_bytes *out, const fl_jv *v);
/* The fewest digits that read back as v, laid out as Python's json does: 1.0, 1e+22, NaN. */
void fl_jv_write_float(fl_bytes *out, double v);

#endif
