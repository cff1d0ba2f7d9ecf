/* mem.h - every allocation of fp8llm goes through here.
 *
 * All functions return NULL when memory is exhausted or when the test hook says
 * so; callers turn that into FL_E_NOMEM.  Memory from fl_alloc, fl_grow,
 * fl_strdup and fl_memdup is freed with fl_free; memory from fl_alloc_aligned
 * and fl_map_pages with their own partners.  Thread-safe. */
#ifndef FL_UTIL_MEM_H
#define FL_UTIL_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *fl_alloc(size_t bytes);                    /* zeroed; bytes == 0 gives a valid pointer */
void *fl_alloc_array(size_t count, size_t size); /* zeroed; checks count * size */
void *fl_grow(void *p, size_t bytes);            /* realloc; on NULL the old block stays valid */
void fl_free(void *p);                           /* NULL is fine */
char *fl_strdup(const char *s);
char *fl_memdup(const void *p, size_t bytes); /* copy with a NUL byte appended */

/* align: power of two >= 8.  Not zeroed.  Free with fl_free_aligned. */
void *fl_alloc_aligned(size_t bytes, size_t align);
void fl_free_aligned(void *p);

/* Zeroed anonymous pages, 2 MiB aligned and huge-page advised when that pays.
 * Release with fl_unmap_pages and the same byte count. */
void *fl_map_pages(size_t bytes);
void fl_unmap_pages(void *p, size_t bytes);

/* Blocks alive now; tests compare it before and after. */
int64_t fl_mem_live(void);

/* Test hook: when set, called before each allocation; returning false makes it
 * fail.  Set it only while no other thread allocates. */
typedef bool (*fl_mem_hook)(void *ctx, size_t bytes);
void fl_mem_set_hook(fl_mem_hook hook, void *ctx);

/* An arena: many small blocks, freed together.  Not thread-safe. */
typedef struct fl_arena {
    struct fl_arena_block *head;
    size_t used;  /* bytes handed out */
    size_t limit; /* fl_arena_alloc fails beyond this many bytes; 0 = no limit */
} fl_arena;

void *fl_arena_alloc(fl_arena *a, size_t bytes); /* 16-byte aligned, zeroed; NULL: exhausted */
void fl_arena_free(fl_arena *a);                 /* frees all blocks; the arena can be used again */

#endif
