/* json.h - JSON files of a model (config.json, indexes, safetensors headers),
 * read strictly and queried with errors that name the file and the JSON path.
 *
 * The only user of cJSON.  Numbers are doubles; integers are exact to 2^53.  Text
 * that needs int/float apart, NUL bytes or exact order is text/json_value.h. */
#ifndef FL_UTIL_JSON_H
#define FL_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

typedef struct fl_json fl_json;    /* a parsed document; owns all its nodes */
typedef struct cJSON fl_json_node; /* one value; lives as long as its document */

/* text[0..n) must be one UTF-8 JSON value, white space around it allowed, nested at
 * most 100 deep, without "\u0000" (cJSON would cut the string there).  `name` is
 * copied and opens every error message.  FL_E_FORMAT with line number. */
int fl_json_parse(fl_json **out, const char *text, size_t n, const char *name, fl_err *err);
int fl_json_load(fl_json **out, const char *path, size_t max_bytes, fl_err *err);
void fl_json_free(fl_json *doc);
const fl_json_node *fl_json_root(const fl_json *doc);
const char *fl_json_name(const fl_json *doc);

/* Plain queries: NULL / false when absent or of another type. */
const fl_json_node *fl_json_get(const fl_json_node *object, const char *key); /* null: absent */
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
int fl_json_read_bool(fl_json_scope s, const char *key, bool *out, fl_err *err);
int fl_json_read_string(fl_json_scope s, const char *key, const char **out, fl_err *err);

#endif
