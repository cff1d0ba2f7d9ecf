/* json.h - JSON files of a model (config.json, indexes, safetensors headers),
 * read as Python's json reads them and queried with errors that name the file and the
 * JSON path.
 *
 * Numbers are doubles; integers are exact to 2^53.  Text that needs int/float apart, NUL
 * bytes or exact order is text/json_value.h. */
#ifndef FL_UTIL_JSON_H
#define FL_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_json fl_json;           /* a parsed document; owns all its nodes */
typedef struct fl_json_node fl_json_node; /* one value; lives as long as its document */

/* text[0..n) must be one UTF-8 JSON value, white space around it allowed, nested at
 * most 900 deep.  As in Python NaN, Infinity and -Infinity are numbers and the last of
 * several members of one name counts; "\u0000" and surrogates without a partner, which a C
 * string cannot hold, become U+FFFD.  `name` is copied and opens every error message.
 * FL_E_FORMAT with line number; FL_E_LIMIT for text that fl_json_check_size refuses.  Takes at
 * most 8 bytes of memory for each of the text. */
int fl_json_parse(fl_json **out, const char *text, size_t n, const char *name, fl_err *err);
int fl_json_load(fl_json **out, const char *path, size_t max_bytes, fl_err *err);
void fl_json_free(fl_json *doc);
const fl_json_node *fl_json_root(const fl_json *doc);
const char *fl_json_name(const fl_json *doc);

/* Files of models hold at most one value in four bytes; text with 65,536 more of them than that
 * is made to take memory, and is FL_E_LIMIT. */
int fl_json_check_size(const char *text, size_t n, const char *name, fl_err *err);

/* Plain queries: NULL / false when absent or of another type. */
const fl_json_node *fl_json_get(const fl_json_node *object, const char *key); /* null: absent */
/* The same, and a null is there. */
const fl_json_node *fl_json_member(const fl_json_node *object, const char *key);
/* Members in the order of the text, also those that a later one of the same name replaces. */
const fl_json_node *fl_json_first(const fl_json_node *container);
const fl_json_node *fl_json_next(const fl_json_node *item);
const char *fl_json_key(const fl_json_node *item);    /* member name, NULL in arrays */
const char *fl_json_string(const fl_json_node *item); /* NULL: not a string */
bool fl_json_is_object(const fl_json_node *item);
bool fl_json_is_array(const fl_json_node *item);
bool fl_json_is_bool(const fl_json_node *item, bool *out);
bool fl_json_is_number(const fl_json_node *item, double *out);
/* A whole number with |value| <= 2^53. */
bool fl_json_is_int(const fl_json_node *item, int64_t *out);
size_t fl_json_size(const fl_json_node *container);

/* Checked getters.  A missing or null member leaves *out (the default) alone; a
 * wrong type or a value outside [min, max] is FL_E_FORMAT naming file and member. */
typedef struct fl_json_scope { /* where errors point: file and enclosing path */
    const fl_json *doc;
    const fl_json_node *object;
    const char *path; /* "" at the top, else "rope_scaling." */
} fl_json_scope;

int fl_json_read_int(fl_json_scope s, const char *key, int64_t min, int64_t max, int64_t *out,
                     fl_err *err);
int fl_json_read_number(fl_json_scope s, const char *key, double min, double max, double *out,
                        fl_err *err);
/* 0 and 1 are false and true, as they are in Python. */
int fl_json_read_bool(fl_json_scope s, const char *key, bool *out, fl_err *err);
int fl_json_read_string(fl_json_scope s, const char *key, const char **out, fl_err *err);

#endif
