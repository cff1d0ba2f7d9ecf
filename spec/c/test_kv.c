#include "model/kv.h"

#include <string.h>

#include "tap.h"
#include "util/mem.h"
#include "util/rng.h"

static bool refuse(void *ctx, size_t bytes) {
    (void)bytes;
    return (*(int *)ctx)-- > 0;
}

static void fill(int32_t *ids, int32_t seed) {
    for (int i = 0; i < FL_KV_PAGE_TOKENS; i++) ids[i] = seed * 1000 + i;
}

static void test_references(void) {
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
}

static void test_prefixes(void) {
    fl_kv_pool p;
    int32_t ids[2][FL_KV_PAGE_TOKENS];
    fill(ids[0], 1);
    fill(ids[1], 2);
    fl_kv_pool_init(&p, 3, NULL);
    const uint64_t root = fl_kv_root(&p, "", 0), salted = fl_kv_root(&p, "x", 1);
    const uint64_t next = fl_kv_chain(&p, root, ids[0]);
    check(root != salted, "a salt begins another chain");
    int32_t a = fl_kv_page_alloc(&p), b = fl_kv_page_alloc(&p);
    fl_kv_page_publish(&p, a, root, ids[0]);
    fl_kv_page_publish(&p, b, next, ids[1]);
    check(fl_kv_page_find(&p, root, ids[0]) == a && fl_kv_page_find(&p, next, ids[1]) == b,
          "published pages are found in their place");
    check(fl_kv_page_find(&p, salted, ids[0]) < 0 && fl_kv_page_find(&p, root, ids[1]) < 0,
          "and nowhere else");
    for (int i = 0; i < 2; i++) { /* as a sequence does: the last page first */
        fl_kv_page_unref(&p, b);
        fl_kv_page_unref(&p, a);
    }
    check(p.n_free == 3 && fl_kv_page_find(&p, root, ids[0]) == a, "they are kept unreferenced");
    fl_kv_page_unref(&p, a);
    fl_kv_page_alloc(&p); /* the empty one */
    check(fl_kv_page_alloc(&p) == b && p.evictions == 1, "the least recently used goes first");
    check(fl_kv_page_find(&p, next, ids[1]) < 0, "and is forgotten");
    check(fl_kv_page_find(&p, root, ids[0]) == a, "the other is not");
    fl_kv_page_unpublish(&p, a);
    check(fl_kv_page_find(&p, root, ids[0]) < 0, "a page that is written again is not found");
    fl_kv_pool_deinit(&p);
}

static fl_kv_scores *scores_of(int32_t n_top) {
    fl_kv_scores *s = fl_alloc(sizeof(*s) + (size_t)(FL_KV_PAGE_TOKENS * n_top) * sizeof(*s->top));
    if (s) s->n_top = n_top;
    return s;
}

static void test_scores(void) {
    fl_kv_pool p;
    int32_t ids[2][FL_KV_PAGE_TOKENS];
    const int64_t before = fl_mem_live();
    fill(ids[0], 1);
    fill(ids[1], 2);
    fl_kv_pool_init(&p, 2, NULL);
    const uint64_t root = fl_kv_root(&p, "", 0);
    int32_t page = fl_kv_page_alloc(&p);
    fl_kv_page_score(&p, root, ids[0], scores_of(1));
    fl_kv_page_publish(&p, page, root, ids[0]);
    check(!p.pages[page].scores, "scores of a page that is not published are dropped");
    fl_kv_page_score(&p, root, ids[1], scores_of(1));
    fl_kv_page_score(&p, root, ids[0], scores_of(2));
    check(p.pages[page].scores && p.pages[page].scores->n_top == 2,
          "those of a published one stay");
    fl_kv_page_score(&p, root, ids[0], scores_of(1));
    check(p.pages[page].scores->n_top == 2, "fewer alternatives do not replace more");
    fl_kv_page_score(&p, root, ids[0], scores_of(5));
    check(p.pages[page].scores->n_top == 5, "more do");
    fl_kv_page_unref(&p, page);
    check(p.pages[page].scores != NULL, "they stay while the page can be found");
    fl_kv_page_alloc(&p);
    fl_kv_page_alloc(&p);
    check(!p.pages[page].scores, "and go with it");
    fl_kv_page_publish(&p, page, root, ids[1]);
    fl_kv_page_score(&p, root, ids[1], scores_of(3));
    fl_kv_pool_deinit(&p);
    check(fl_mem_live() == before, "or with the pool");
}

/* Random use against a plain model: who has a reference, and what is published. */
static void test_random(void) {
    enum { PAGES = 40, KEYS = 90 };
    fl_kv_pool p;
    int32_t refs[PAGES] = {0}, key_of[PAGES], wrong = 0, free_pages = PAGES;
    fl_kv_pool_init(&p, PAGES, NULL);
    const uint64_t root = fl_kv_root(&p, "", 0);
    for (int i = 0; i < PAGES; i++) key_of[i] = -1;
    for (uint32_t n = 0; n < 60000; n++) {
        uint32_t r[4];
        int32_t ids[FL_KV_PAGE_TOKENS];
        const uint32_t counter[4] = {n};
        fl_philox(r, counter, 7);
        const int32_t key = (int32_t)(r[1] % KEYS), any = (int32_t)(r[2] % PAGES);
        fill(ids, key);
        if (r[0] % 3 == 0) {
            int32_t page = fl_kv_page_alloc(&p);
            wrong += (page < 0) != (free_pages == 0);
            if (page < 0) continue;
            wrong += refs[page] != 0;
            refs[page] = 1;
            free_pages--;
            key_of[page] = -1;
            for (int i = 0; i < PAGES; i++) {
                if (key_of[i] == key) goto next;
            }
            fl_kv_page_publish(&p, page, root, ids);
            key_of[page] = key;
        } else if (r[0] % 3 == 1 && refs[any]) {
            fl_kv_page_unref(&p, any);
            free_pages += --refs[any] == 0;
        } else {
            int32_t page = fl_kv_page_find(&p, root, ids), want = -1;
            for (int i = 0; i < PAGES; i++) want = key_of[i] == key ? i : want;
            wrong += page != want;
            if (page >= 0) free_pages -= refs[page]++ == 0;
        }
    next:
        wrong += p.n_free != free_pages;
    }
    check(!wrong, "60000 random calls agree with a plain model");
    check(p.evictions > 1000 && p.hits > 1000, "with %llu evictions and %llu hits",
          (unsigned long long)p.evictions, (unsigned long long)p.hits);
    fl_kv_pool_deinit(&p);
}

int main(void) {
    fl_kv_pool p;
    fl_err err;
    test_references();
    test_prefixes();
    test_scores();
    test_random();
    for (int allowed = 0; allowed < 3; allowed++) {
        int left = allowed;
        fl_mem_set_hook(refuse, &left);
        check(fl_kv_pool_init(&p, 3, &err) == FL_E_NOMEM, "out of memory after %d blocks", allowed);
    }
    fl_mem_set_hook(NULL, NULL);
    check(fl_mem_live() == 0, "nothing is left allocated");
    return tap_done();
}
