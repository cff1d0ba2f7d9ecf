/* map.h - string -> u32, open addressing.  Keys are copied and may hold any
 * byte.  Not thread-safe while it changes; read-only use is. */
#ifndef FL_UTIL_MAP_H
#define FL_UTIL_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/mem.h"

typedef struct fl_map {
    struct fl_map_slot *slots;
    uint32_t n_slots, n_used; /* n_slots: power of two */
    fl_arena keys;
} fl_map;

typedef enum { FL_MAP_NEW, FL_MAP_EXISTS, FL_MAP_NOMEM } fl_map_result;

/* Insert key -> value.  FL_MAP_EXISTS: nothing changed. Zero-initialise *m first. */
fl_map_result fl_map_put(fl_map *m, const char *key, size_t len, uint32_t value);
/* Another value for a key that is there. */
void fl_map_set(fl_map *m, const char *key, size_t len, uint32_t value);
bool fl_map_get(const fl_map *m, const char *key, size_t len, uint32_t *value);
void fl_map_free(fl_map *m);

uint64_t fl_hash_bytes(const void *p, size_t n); /* FNV-1a with a final mix */

#endif
