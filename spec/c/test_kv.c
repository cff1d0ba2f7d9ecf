#include "model/kv.h"
#include "tap.h"
#include "util/mem.h"

static bool refuse(void *ctx, size_t bytes) {
    (void)bytes;
    return (*(int *)ctx)-- > 0;
}

int main(void) {
    fl_kv_pool p;
    fl_err err;
    check(!fl_kv_pool_init(&p, 3, &err), "a pool of 3 pages");
    check(fl_kv_page_alloc(&p) == 0 && fl_kv_page_alloc(&p) == 1 && fl_kv_page_alloc(&p) == 2,
          "pages come in order");
    check(fl_kv_page_alloc(&p) == -1, "a fourth page is refused");
    fl_kv_page_ref(&p, 1);
    fl_kv_page_unref(&p, 1);
    check(p.n_free == 0, "a shared page stays in use");
    fl_kv_page_unref(&p, 1);
    check(p.n_free == 1 && fl_kv_page_alloc(&p) == 1, "the last reference frees it");
    fl_kv_pool_deinit(&p);
    for (int allowed = 0; allowed < 2; allowed++) {
        int left = allowed;
        fl_mem_set_hook(refuse, &left);
        check(fl_kv_pool_init(&p, 3, &err) == FL_E_NOMEM, "out of memory after %d blocks", allowed);
    }
    fl_mem_set_hook(NULL, NULL);
    check(fl_mem_live() == 0, "nothing is left allocated");
    return tap_done();
}
