/* exec.h - runs parsed kernels, a warp of 32 lanes at a time. */
#ifndef EMU_EXEC_H
#define EMU_EXEC_H

#include "ptx.h"

typedef struct emu_launch {
    emu_module *m;
    emu_kernel *k;
    int dev;
    unsigned grid[3], block[3];
    uint32_t dynamic_smem;
    const void *params;
} emu_launch;

/* 0, or a CUDA error number after a report.  One launch at a time (the runtime's lock). */
int emu_exec(const emu_launch *l);

#endif
