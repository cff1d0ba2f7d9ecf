#include "util/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/num.h"

enum { ARENA_BLOCK_BYTES = 64 << 10, HUGE_PAGE_BYTES = 2 << 20 };

static atomic_llong live_blocks;
static fl_mem_hook hook;
static void *hook_ctx;

static bool allowed(size_t bytes) {
    return !hook || hook(hook_ctx, bytes);
}

static void *counted(void *p) {
    if (p) atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return p;
}

void *fl_alloc(size_t bytes) {
    if (!allowed(bytes)) return NULL;
    return counted(calloc(1, bytes ? bytes : 1));
}

void *fl_alloc_array(size_t count, size_t size) {
    uint64_t bytes;
    if (!fl_mul_u64(count, size, &bytes)) return NULL;
    return fl_alloc((size_t)bytes);
}

void *fl_grow(void *p, size_t bytes) {
    if (!p) return fl_alloc(bytes);
    if (!allowed(bytes)) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void fl_free(void *p) {
    if (!p) return;
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    free(p);
}

char *fl_strdup(const char *s) {
    return fl_memdup(s, strlen(s));
}

char *fl_memdup(const void *p, size_t bytes) {
    if (bytes == SIZE_MAX) return NULL;
    char *copy = fl_alloc(bytes + 1);
    if (copy && bytes) memcpy(copy, p, bytes);
    return copy;
}

void *fl_alloc_aligned(size_t bytes, size_t align) {
    if (!allowed(bytes)) return NULL;
    void *p = NULL;
    if (posix_memalign(&p, align, bytes ? bytes : align)) return NULL;
    return counted(p);
}

void fl_free_aligned(void *p) {
    fl_free(p);
}

void *fl_map_pages(size_t bytes) {
    if (!allowed(bytes) || bytes > SIZE_MAX - 2 * (size_t)HUGE_PAGE_BYTES) return NULL;
    size_t size = fl_round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES);
    /* mmap aligns to 4 KiB only: map one huge page more, cut both ends off. */
    uint8_t *p = mmap(NULL, size + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t head = (size_t)(fl_round_up((uintptr_t)p, HUGE_PAGE_BYTES) - (uintptr_t)p);
    if (head) munmap(p, head);
    if (head < HUGE_PAGE_BYTES) munmap(p + head + size, HUGE_PAGE_BYTES - head);
    if (size >= 4 * (size_t)HUGE_PAGE_BYTES) madvise(p + head, size, MADV_HUGEPAGE);
    return counted(p + head);
}

void fl_unmap_pages(void *p, size_t bytes) {
    if (!p) return;
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    munmap(p, fl_round_up(bytes ? bytes : 1, HUGE_PAGE_BYTES));
}

int64_t fl_mem_live(void) {
    return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

void fl_mem_set_hook(fl_mem_hook h, void *ctx) {
    hook = h;
    hook_ctx = ctx;
}

struct fl_arena_block {
    struct fl_arena_block *next;
    size_t size, used;
    _Alignas(16) uint8_t data[];
};

void *fl_arena_alloc(fl_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = fl_round_up(bytes ? bytes : 1, 16);
    if (a->limit && bytes > a->limit - a->used) return NULL;
    struct fl_arena_block *b = a->head;
    if (!b || bytes > b->size - b->used) {
        size_t size = bytes > ARENA_BLOCK_BYTES ? bytes : ARENA_BLOCK_BYTES;
        b = fl_alloc(sizeof(*b) + size);
        if (!b) return NULL;
        b->size = size;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    a->used += bytes;
    return p;
}

void fl_arena_free(fl_arena *a) {
    while (a->head) {
        struct fl_arena_block *b = a->head;
        a->head = b->next;
        fl_free(b);
    }
    a->used = 0;
}
