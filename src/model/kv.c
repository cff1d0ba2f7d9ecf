#include "model/kv.h"

#include <assert.h>

#include "util/mem.h"

int fl_kv_pool_init(fl_kv_pool *p, int64_t n_pages, fl_err *err) {
    *p = (fl_kv_pool){.n_pages = n_pages, .n_free = n_pages};
    p->refs = fl_alloc_array((size_t)n_pages, sizeof(*p->refs));
    p->free = fl_alloc_array((size_t)n_pages, sizeof(*p->free));
    if (!p->refs || !p->free) {
        fl_kv_pool_deinit(p);
        return fl_fail(err, FL_E_NOMEM, "kv: %lld pages", (long long)n_pages);
    }
    /* The lowest page is on top, so that a lone sequence gets neighbouring pages. */
    for (int64_t i = 0; i < n_pages; i++) p->free[i] = (int32_t)(n_pages - 1 - i);
    return FL_OK;
}

void fl_kv_pool_deinit(fl_kv_pool *p) {
    fl_free(p->refs);
    fl_free(p->free);
    *p = (fl_kv_pool){0};
}

int32_t fl_kv_page_alloc(fl_kv_pool *p) {
    if (!p->n_free) return -1;
    int32_t page = p->free[--p->n_free];
    p->refs[page] = 1;
    return page;
}

void fl_kv_page_ref(fl_kv_pool *p, int32_t page) {
    assert(p->refs[page] > 0);
    p->refs[page]++;
}

void fl_kv_page_unref(fl_kv_pool *p, int32_t page) {
    assert(p->refs[page] > 0);
    if (--p->refs[page] == 0) p->free[p->n_free++] = page;
}
