/* kv.h - which pages of the KV pool are in use, and by how many sequences.
 *
 * Knows page numbers and reference counts only; the inside of a page is the backend's.
 * Not thread-safe: the model's lock covers it. */
#ifndef FL_MODEL_KV_H
#define FL_MODEL_KV_H

#include <stdint.h>

#include "util/err.h"

enum { FL_KV_PAGE_TOKENS = 32 };

typedef struct fl_kv_pool {
    int64_t n_pages, n_free;
    int32_t *refs; /* [n_pages] */
    int32_t *free; /* [n_pages], the first n_free are free pages, used as a stack */
} fl_kv_pool;

int fl_kv_pool_init(fl_kv_pool *p, int64_t n_pages, fl_err *err);
void fl_kv_pool_deinit(fl_kv_pool *p);
int32_t fl_kv_page_alloc(fl_kv_pool *p); /* one reference; -1: none free */
void fl_kv_page_ref(fl_kv_pool *p, int32_t page);
void fl_kv_page_unref(fl_kv_pool *p, int32_t page);

#endif
