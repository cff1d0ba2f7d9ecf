#include "mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "settings.h"

#define ARENA ((size_t)64 << 30) /* of addresses; what is used costs memory, the rest nothing */
enum { PAGE = 4096, LEAD = 256, POISON = 1 << 20 };

static struct device {
    uint8_t *va, *data, *init;
    uint32_t *writer, *reader, *read, *written;
    size_t top;
    uint64_t live;
    emu_alloc *a;
    int n, cap;
} devices[EMU_MAX_DEVICES];

static void *anonymous(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) emu_stop("no address space for %zu bytes", bytes);
    return p;
}

static void open_device(struct device *d) {
    int fd = memfd_create("emu-device", 0);
    if (fd < 0 || ftruncate(fd, (off_t)ARENA)) emu_stop("no memory file for a device");
    d->va = mmap(NULL, ARENA, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    d->data = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (d->va == MAP_FAILED || d->data == MAP_FAILED) emu_stop("a device cannot be mapped");
    close(fd);
    d->init = anonymous(ARENA);
    d->writer = anonymous(ARENA * 4);
    d->reader = anonymous(ARENA * 4);
    d->read = anonymous(ARENA / 8);
    d->written = anonymous(ARENA / 8);
    d->top = PAGE;
}

uint64_t emu_mem_alloc(int dev, size_t bytes) {
    struct device *d = &devices[dev];
    if (!d->va) open_device(d);
    size_t pages = (bytes + LEAD + PAGE - 1) / PAGE * PAGE;
    if (d->live + bytes > emu_get()->memory) return 0;
    if (d->top + pages + PAGE > ARENA) emu_stop("more than %zu bytes allocated in all", ARENA);
    if (d->n == d->cap) d->a = realloc(d->a, sizeof(*d->a) * (size_t)(d->cap = d->cap * 2 + 64));
    size_t at = d->top + LEAD;
    d->a[d->n++] = (emu_alloc){(uint64_t)(uintptr_t)(d->va + at), bytes, false};
    /* Reads of what nobody wrote are told anyway when initialisation is checked. */
    if (!emu_get()->init || bytes < POISON) memset(d->data + at, 0xff, bytes);
    d->top += pages + PAGE;
    d->live += bytes;
    return (uint64_t)(uintptr_t)(d->va + at);
}

int emu_mem_device(const void *p) {
    for (int i = 0; i < EMU_MAX_DEVICES; i++) {
        uint8_t *va = devices[i].va;
        if (va && (const uint8_t *)p >= va && (const uint8_t *)p < va + ARENA) return i;
    }
    return -1;
}

emu_alloc *emu_mem_find(uint64_t va) {
    int dev = emu_mem_device((void *)(uintptr_t)va), low = 0;
    if (dev < 0 || !devices[dev].n) return NULL;
    int high = devices[dev].n;
    emu_alloc *a = devices[dev].a;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (a[middle].va <= va)
            low = middle;
        else
            high = middle;
    }
    return a[low].va <= va ? &a[low] : NULL;
}

int emu_mem_free(uint64_t va) {
    emu_alloc *a = emu_mem_find(va);
    if (!a || a->va != va || a->freed) return -1;
    struct device *d = &devices[emu_mem_device((void *)(uintptr_t)va)];
    size_t first = (va - (uint64_t)(uintptr_t)d->va) / PAGE * PAGE;
    a->freed = true;
    d->live -= a->size;
    madvise(d->data + first, (a->size + LEAD + PAGE - 1) / PAGE * PAGE, MADV_REMOVE);
    return 0;
}

emu_view emu_mem_view(uint64_t va) {
    struct device *d = &devices[emu_mem_device((void *)(uintptr_t)va)];
    size_t at = va - (uint64_t)(uintptr_t)d->va;
    uint64_t base = (uint64_t)(uintptr_t)d->va / 32;
    return (emu_view){d->data + at,   d->init + at,   d->writer + at,
                      d->reader + at, d->read - base, d->written - base};
}

uint64_t emu_mem_live(int dev) {
    return devices[dev].live;
}

static const char *wrong(uint64_t va, size_t n, int dev, const emu_alloc *a) {
    int on = emu_mem_device((void *)(uintptr_t)va);
    if (on < 0) return "not device memory";
    if (!a || va >= a->va + a->size + PAGE) return "no allocation there";
    if (a->freed) return "freed allocation";
    if (va + n > a->va + a->size) return "past the end of its allocation";
    if (dev >= 0 && on != dev) return "memory of another device";
    return NULL;
}

uint8_t *emu_mem_check(uint64_t va, size_t n, int dev, emu_how how, const char *who) {
    emu_alloc *a = emu_mem_find(va);
    const char *e = wrong(va, n, dev, a);
    if (e) {
        emu_report("%s: %s of %zu bytes at %#lx: %s (allocation %#lx + %zu, offset %ld)", who,
                   how == EMU_WRITE ? "write" : "read", n, va, e, a ? a->va : 0, a ? a->size : 0,
                   a ? (long)(va - a->va) : 0);
        return NULL;
    }
    emu_view v = emu_mem_view(va);
    if (how == EMU_WRITE) memset(v.init, 1, n);
    const uint8_t *hole = how == EMU_READ_INIT ? memchr(v.init, 0, n) : NULL;
    if (hole) {
        emu_report("%s: read of uninitialised device memory (allocation %#lx + %zu, offset %ld)",
                   who, a->va, a->size, (long)(va + (uint64_t)(hole - v.init) - a->va));
        return NULL;
    }
    return v.data;
}

void emu_mem_leaks(void) {
    for (int i = 0; i < EMU_MAX_DEVICES; i++) {
        int n = 0;
        for (int j = 0; j < devices[i].n; j++) n += !devices[i].a[j].freed;
        if (n) emu_report("leak: %d allocations, %lu bytes on device %d", n, devices[i].live, i);
    }
}
