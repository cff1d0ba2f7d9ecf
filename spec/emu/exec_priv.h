/* exec_priv.h - a running block, its warps, and the handlers of instructions. */
#ifndef EMU_EXEC_PRIV_H
#define EMU_EXEC_PRIV_H

#include "exec.h"
#include "mem.h"
#include "num.h"

#define ALL_LANES   0xffffffffu
#define SHARED_BASE 0x0100000000000000ull /* generic addresses of shared memory */
#define LOCAL_BASE  0x0200000000000000ull

/* cudaError_t values, so that this part needs no CUDA header */
enum { E_ILLEGAL_ADDRESS = 700, E_MISALIGNED = 716, E_LAUNCH_FAILURE = 719, E_CONFIGURATION = 9 };

enum { SPLIT_RUNS, SPLIT_AT_BARRIER, SPLIT_WAITS };
typedef struct emu_split { /* lanes of a warp that are at the same instruction */
    int pc, state, barrier;
    uint32_t mask;
} emu_split;

typedef struct emu_copy { /* a cp.async that has not landed */
    uint64_t src;
    uint32_t dst, n, src_n;
    int lane, group;
} emu_copy;

typedef struct emu_warp {
    uint32_t *reg, alive, full;
    emu_split split[33];
    int n_splits, id;
    bool done;
    uint32_t epoch; /* counts __syncwarp within a block epoch */
    emu_copy *copy;
    int n_copies, cap_copies, group[32];
    uint8_t *local;
} emu_warp;

/* Last writer and first reader of a byte of shared memory: thread + 1, MANY for several; the
 * epochs are block barriers << 12 | __syncwarps since. */
enum { MANY = 0xffff };
typedef struct emu_shadow {
    uint16_t writer, reader;
    uint32_t write_epoch, read_epoch;
} emu_shadow;

typedef struct emu_block {
    emu_module *m;
    emu_kernel *k;
    int dev, n_warps, err;
    unsigned grid[3], block[3], at[3], threads, id;
    uint8_t *shared, *shared_init;
    emu_shadow *shadow;
    uint32_t shared_bytes, epoch, launch;
    const uint8_t *params;
    emu_warp *w;
    bool race, init, grace;
    uint64_t near_va, near_bytes; /* the allocation of the last global access, and its view   */
    emu_view near;
} emu_block;

struct emu_ctx {
    emu_block *b;
    emu_warp *w;
    emu_kernel *k;
    emu_inst *in;
    emu_split *s;
    uint32_t m; /* lanes that execute: of the split, and the guard holds */
};

static inline uint32_t *emu_r32(const emu_ctx *x, emu_operand o) {
    return (o.pooled ? x->k->pool : x->w->reg) + 32 * (size_t)o.slot;
}
static inline uint64_t *emu_r64(const emu_ctx *x, emu_operand o) {
    return (uint64_t *)(void *)emu_r32(x, o);
}
static inline uint64_t emu_get_lane(const emu_ctx *x, emu_operand o, int lane) {
    return o.wide ? emu_r64(x, o)[lane] : emu_r32(x, o)[lane];
}
static inline void emu_set_lane(const emu_ctx *x, emu_operand o, int lane, uint64_t v) {
    if (o.sink) return;
    if (o.wide)
        emu_r64(x, o)[lane] = v;
    else
        emu_r32(x, o)[lane] = (uint32_t)v;
}
/* Operand of group g. */
static inline emu_operand emu_arg(const emu_ctx *x, int g) {
    return x->in->o[x->in->g[g].first];
}
static inline uint32_t emu_pred(const emu_ctx *x, emu_operand o) {
    uint32_t v = emu_r32(x, o)[0];
    if (o.pooled) v = v ? ALL_LANES : 0;
    return o.negated ? ~v : v;
}
static inline void emu_set_pred(const emu_ctx *x, emu_operand o, uint32_t v) {
    uint32_t *d = emu_r32(x, o);
    if (!o.sink) d[0] = (d[0] & ~x->m) | (v & x->m);
}
static inline bool emu_is_signed(int t) {
    return t == T_S8 || t == T_S16 || t == T_S32 || t == T_S64;
}
static inline bool emu_is_float(int t) {
    return t == T_F32 || t == T_F64 || t == T_F16 || t == T_BF16;
}
/* The low bits of v as a value of type t, sign- or zero-extended. */
static inline uint64_t emu_extend(uint64_t v, int t) {
    switch (emu_type_bytes((emu_type)t)) {
    case 1:
        return t == T_S8 ? (uint64_t)(int64_t)(int8_t)v : (uint8_t)v;
    case 2:
        return t == T_S16 ? (uint64_t)(int64_t)(int16_t)v : (uint16_t)v;
    case 4:
        return t == T_S32 ? (uint64_t)(int64_t)(int32_t)v : (uint32_t)v;
    default:
        return v;
    }
}
#define FOR_LANES(l, mask)                                                                         \
    for (int l = 0; l < 32; l++)                                                                   \
        if ((mask) >> l & 1)

/* Reports `what` with the place in the source, the block and the thread; sets the error. */
emu_outcome emu_fault(emu_ctx *x, int lane, int error, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Bounds, alignment, initialisation and race checks of an access; NULL after a fault. */
uint8_t *emu_shared_at(emu_ctx *x, uint32_t a, uint32_t n, int lane, bool write);
uint8_t *emu_global_at(emu_ctx *x, uint64_t a, uint32_t n, int lane, bool write);
void emu_shadow_touch(emu_ctx *x, uint32_t a, uint32_t n, int lane, bool write);

emu_handler emu_ldst, emu_atomic;                                      /* exec_mem.c  */
emu_handler emu_alu, emu_setp, emu_selp, emu_mov, emu_cvta, emu_logic; /* exec_alu.c  */
emu_handler emu_cvt;                                                   /* exec_cvt.c  */
emu_handler emu_shfl, emu_vote, emu_redux, emu_activemask;             /* exec_warp.c */
emu_handler emu_mma, emu_ldmatrix, emu_cp;                             /* exec_mma.c  */
emu_handler *emu_fast_alu(const emu_inst *in); /* NULL: none, take emu_alu */

#endif
