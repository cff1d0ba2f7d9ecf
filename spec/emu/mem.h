/* mem.h - the memory of the emulated devices.
 *
 * A device is a sparse memory file mapped twice: at its device addresses without access, so
 * that host code which follows a device pointer dies there, and once more where only the
 * emulator looks.  Allocations start 256 bytes into a page (cudaMalloc promises 256 bytes of
 * alignment and no more), have a guard page, are never reused after free, and are filled with
 * 0xff: NaN in E4M3, BF16, F16 and f32. */
#ifndef EMU_MEM_H
#define EMU_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EMU_MAX_DEVICES = 8 };

typedef struct emu_alloc {
    uint64_t va;
    size_t size;
    bool freed;
} emu_alloc;

/* What the emulator keeps for the bytes from one address on. */
typedef struct emu_view {
    uint8_t *data, *init;      /* init: 1 = the byte has been written                        */
    uint32_t *writer, *reader; /* of a byte: the block and launch of the last one            */
    uint32_t *read, *written;  /* a 32-byte sector: last launch that did; index with va / 32 */
} emu_view;

typedef enum { EMU_READ, EMU_READ_INIT, EMU_WRITE } emu_how;

uint64_t emu_mem_alloc(int dev, size_t bytes); /* 0: the device is full */
int emu_mem_free(uint64_t va);                 /* -1: not the start of a live allocation */
int emu_mem_device(const void *p);             /* -1: not a device pointer */
emu_alloc *emu_mem_find(uint64_t va);          /* freed ones too; NULL: none */
emu_view emu_mem_view(uint64_t va);            /* no check */
uint64_t emu_mem_live(int dev);

/* [va, va + n) must lie in one live allocation, of device dev unless that is -1, and for
 * EMU_READ_INIT hold written bytes only; the emulator's pointer to it, or NULL after a report
 * that begins with `who`. */
uint8_t *emu_mem_check(uint64_t va, size_t n, int dev, emu_how how, const char *who);

void emu_mem_leaks(void); /* reports what is still allocated */

#endif
