/* Loads, stores and atomics, and the checks of every access. */
#include "exec_priv.h"
#include "settings.h"

/* Two threads touch a byte, one of them writes, and no barrier lies between. */
static bool clash(const emu_block *b, const emu_warp *w, uint16_t me, uint16_t who,
                  uint32_t epoch) {
    if (!who || who == me || epoch >> 12 != b->epoch) return false;
    bool same_warp = who != MANY && (who - 1) / 32 == w->id;
    return !same_warp || (epoch & 0xfff) == (w->epoch & 0xfff);
}

void emu_shadow_touch(emu_ctx *x, uint32_t a, uint32_t n, int lane, bool write) {
    emu_block *b = x->b;
    uint16_t me = (uint16_t)(x->w->id * 32 + lane + 1);
    uint32_t now = b->epoch << 12 | (x->w->epoch & 0xfff);
    for (uint32_t i = a; i < a + n; i++) {
        emu_shadow *s = &b->shadow[i];
        if (clash(b, x->w, me, s->writer, s->write_epoch)) {
            emu_fault(x, lane, E_LAUNCH_FAILURE,
                      "race: shared byte %u: %s after write by thread %d without a barrier", i,
                      write ? "write" : "read", s->writer - 1);
            return;
        }
        if (write && clash(b, x->w, me, s->reader, s->read_epoch)) {
            emu_fault(x, lane, E_LAUNCH_FAILURE,
                      "race: shared byte %u: write after read by thread %d without a barrier", i,
                      s->reader == MANY ? -1 : s->reader - 1);
            return;
        }
        if (write) {
            s->writer = me;
            s->write_epoch = now;
        } else if (s->read_epoch >> 12 == b->epoch && s->reader && s->reader != me &&
                   (s->reader == MANY || (s->reader - 1) / 32 != x->w->id)) {
            s->reader = MANY;
        } else {
            s->reader = me;
            s->read_epoch = now;
        }
    }
}

uint8_t *emu_shared_at(emu_ctx *x, uint32_t a, uint32_t n, int lane, bool write) {
    emu_block *b = x->b;
    if (a + n > b->shared_bytes || a + n < a) {
        emu_fault(x, lane, E_ILLEGAL_ADDRESS, "shared %s of %u bytes at %u of %u",
                  write ? "write" : "read", n, a, b->shared_bytes);
        return NULL;
    }
    if (a % n) {
        emu_fault(x, lane, E_MISALIGNED, "misaligned shared access at %u by %u", a, n);
        return NULL;
    }
    if (b->race) emu_shadow_touch(x, a, n, lane, write);
    if (write)
        memset(b->shared_init + a, 1, n);
    else if (b->init && memchr(b->shared_init + a, 0, n)) {
        emu_fault(x, lane, E_LAUNCH_FAILURE, "read of uninitialised shared memory at %u", a);
        return NULL;
    }
    return b->shared + a;
}

/* A tag names the launch (20 bits) and the block (12): SEVERAL readers, or one of them. */
enum { BLOCK_BITS = 12, SEVERAL = (1 << BLOCK_BITS) - 1 };

static bool other_block(uint32_t tag, uint32_t me) {
    return tag >> BLOCK_BITS == me >> BLOCK_BITS && tag != me && tag & SEVERAL;
}

/* Another block of this launch wrote here, or read what is written now. */
static bool grace(emu_ctx *x, uint64_t at, uint64_t a, uint32_t n, int lane, bool write) {
    const emu_view *v = &x->b->near;
    uint32_t launch = x->b->launch << BLOCK_BITS, me = launch | (x->b->id % (SEVERAL - 1) + 1);
    uint32_t *writers = v->writer + at, *readers = v->reader + at;
    for (uint32_t i = 0; i < n; i++) {
        /* Most reads are of what this block, or nobody in this launch, has touched before. */
        if (!write && readers[i] == me && writers[i] >> BLOCK_BITS != me >> BLOCK_BITS) continue;
        bool written = other_block(writers[i], me);
        if (written || (write && other_block(readers[i], me))) {
            emu_fault(x, lane, E_LAUNCH_FAILURE,
                      "race: global %s at %#lx already %s by block %u of the same launch",
                      write ? "write" : "read", a + i, written ? "written" : "read",
                      ((written ? writers[i] : readers[i]) & SEVERAL) - 1);
            return false;
        }
        if (write)
            writers[i] = me;
        else
            readers[i] = other_block(readers[i], me) ? launch | SEVERAL : me;
    }
    return true;
}

static void count(emu_ctx *x, uint64_t a, uint32_t n, bool write) {
    emu_counts *c = &x->k->counts;
    uint32_t *sector = (write ? x->b->near.written : x->b->near.read) + a / 32;
    *(write ? &c->written : &c->read) += n;
    if (*sector == x->b->launch) return;
    *sector = x->b->launch;
    *(write ? &c->dram_written : &c->dram_read) += 32;
}

static bool find_global(emu_ctx *x, uint64_t a, uint32_t n, int lane, bool write) {
    emu_block *b = x->b;
    emu_how how = write ? EMU_WRITE : b->init ? EMU_READ_INIT : EMU_READ;
    if (!emu_mem_check(a, n, b->dev, how, "kernel")) {
        emu_fault(x, lane, E_ILLEGAL_ADDRESS, "global %s of %u bytes", write ? "write" : "read", n);
        return false;
    }
    emu_alloc *near = emu_mem_find(a);
    b->near = emu_mem_view(near->va);
    b->near_va = near->va;
    b->near_bytes = near->size;
    return true;
}

static bool all_written(const uint8_t *init, uint32_t n) {
    uint64_t v;
    if (n == 1) return *init;
    if (n == 4) {
        uint32_t four;
        memcpy(&four, init, 4);
        return four == 0x01010101u;
    }
    if (n % 8) return !memchr(init, 0, n);
    for (; n; n -= 8, init += 8) {
        memcpy(&v, init, 8);
        if (v != 0x0101010101010101u) return false;
    }
    return true;
}

uint8_t *emu_global_at(emu_ctx *x, uint64_t a, uint32_t n, int lane, bool write) {
    emu_block *b = x->b;
    if (a & (n - 1)) {
        emu_fault(x, lane, E_MISALIGNED, "misaligned global access at %#lx by %u", a, n);
        return NULL;
    }
    uint64_t at = a - b->near_va;
    bool near = at < b->near_bytes && at + n <= b->near_bytes;
    if (near && write)
        memset(b->near.init + at, 1, n);
    else if (near && b->init && !all_written(b->near.init + at, n))
        near = false;
    if (!near && !find_global(x, a, n, lane, write)) return NULL;
    at = a - b->near_va;
    count(x, a, n, write);
    if (b->grace && !grace(x, at, a, n, lane, write)) return NULL;
    return b->near.data + at;
}

static uint8_t *space_at(emu_ctx *x, uint64_t a, uint32_t n, int lane, bool write) {
    emu_block *b = x->b;
    int space = x->in->space;
    if (space == SP_GENERIC) {
        space = a >> 56 == SHARED_BASE >> 56  ? SP_SHARED
                : a >> 56 == LOCAL_BASE >> 56 ? SP_LOCAL
                                              : SP_GLOBAL;
        if (space != SP_GLOBAL) a &= 0xffffffffu;
    }
    if (space == SP_SHARED) return emu_shared_at(x, (uint32_t)a, n, lane, write);
    if (space == SP_GLOBAL || space == SP_CONST) return emu_global_at(x, a, n, lane, write);
    uint32_t size = space == SP_LOCAL ? b->k->local_bytes : b->k->param_bytes;
    if (a + n > size) {
        emu_fault(x, lane, E_ILLEGAL_ADDRESS, "%s access at %lu of %u",
                  space == SP_LOCAL ? "local" : "parameter", a, size);
        return NULL;
    }
    if (space == SP_LOCAL) return x->w->local + (size_t)lane * size + a;
    return (uint8_t *)(uintptr_t)b->params + a;
}

static uint64_t address(const emu_ctx *x, int group, int lane) {
    return emu_get_lane(x, emu_arg(x, group), lane) + (uint64_t)x->in->g[group].off;
}

/* Addresses of all lanes; those that do not execute have any. */
static void addresses(const emu_ctx *x, int group, uint64_t at[32]) {
    emu_operand o = emu_arg(x, group);
    const uint64_t off = (uint64_t)x->in->g[group].off, *wide = emu_r64(x, o);
    const uint32_t *narrow = emu_r32(x, o);
    if (o.wide)
        for (int l = 0; l < 32; l++) at[l] = wide[l] + off;
    else
        for (int l = 0; l < 32; l++) at[l] = narrow[l] + off;
}

/* Whether no other block has written these bytes and this one, alone, has read them before. */
#define READ_BEFORE(n)                                                                             \
    for (int i = 0; i < n; i++) differ |= (readers[i] ^ me) | !((writers[i] ^ me) >> BLOCK_BITS);
static bool read_before(const uint32_t *writers, const uint32_t *readers, uint32_t me, uint32_t n) {
    uint32_t differ = 0;
    if (n == 16)
        READ_BEFORE(16)
    else if (n == 8)
        READ_BEFORE(8)
    else if (n == 4)
        READ_BEFORE(4)
    else
        return false;
    return !differ;
}

/* A load of global memory by all lanes from the allocation of the access before, of bytes that
 * are written: where each is, checked and counted as emu_global_at does; false: not such a load. */
static bool load_near(emu_ctx *x, const uint64_t at[32], uint32_t n, uint8_t *p[32]) {
    emu_block *b = x->b;
    const uint64_t room = b->near_bytes - n;
    uint64_t far = b->near_bytes < n, last = ~0ull;
    uint32_t me = b->launch << BLOCK_BITS | (b->id % (SEVERAL - 1) + 1);
    for (int l = 0; l < 32; l++) far |= (uint64_t)(at[l] - b->near_va > room) | (at[l] & (n - 1));
    if (far) return false;
    for (int l = 0; l < 32; l++)
        if (b->init && !all_written(b->near.init + (at[l] - b->near_va), n)) return false;
    for (int l = 0; l < 32; l++) {
        uint64_t i = at[l] - b->near_va;
        p[l] = b->near.data + i;
        if (at[l] == last) {
            x->k->counts.read += n;
            continue;
        }
        last = at[l];
        count(x, at[l], n, false);
        if (b->grace && !read_before(b->near.writer + i, b->near.reader + i, me, n) &&
            !grace(x, i, at[l], n, l, false))
            p[l] = NULL;
    }
    return true;
}

/* Where each executing lane of a load or store finds its bytes; false after a fault. */
static bool places(emu_ctx *x, int group, uint32_t n, bool write, uint8_t *p[32]) {
    uint64_t at[32];
    int space = x->in->space;
    addresses(x, group, at);
    bool global = space == SP_GLOBAL || (space == SP_GENERIC && !(at[0] >> 56));
    if (global && !write && x->m == ALL_LANES && load_near(x, at, n, p)) return !x->b->err;
    FOR_LANES(l, x->m)
    if (!(p[l] = space_at(x, at[l], n, l, write))) return false;
    return true;
}

/* Parameters at a fixed place: one value for all lanes. */
static emu_outcome load_param(emu_ctx *x) {
    const emu_inst *in = x->in;
    uint32_t size = (uint32_t)emu_type_bytes((emu_type)in->type);
    const uint8_t *p = space_at(x, address(x, 1, 0), size * in->vec, 0, false);
    if (!p) return EMU_WAITS;
    for (int i = 0; i < in->g[0].n; i++, p += size) {
        uint64_t v = 0;
        memcpy(&v, p, size);
        v = emu_extend(v, in->type);
        FOR_LANES(l, x->m) emu_set_lane(x, in->o[i], l, v);
    }
    return EMU_NEXT;
}

/* Element i of every lane that executes, between memory and a register. */
#define MOVE(word, reg)                                                                            \
    {                                                                                              \
        word v;                                                                                    \
        FOR_LANES(l, m) {                                                                          \
            uint8_t *at = p[l] + i * sizeof(word);                                                 \
            if (load) {                                                                            \
                memcpy(&v, at, sizeof(v));                                                         \
                reg[l] = v;                                                                        \
            } else {                                                                               \
                v = (word)reg[l];                                                                  \
                memcpy(at, &v, sizeof(v));                                                         \
            }                                                                                      \
        }                                                                                          \
        return;                                                                                    \
    }
static void move(const emu_ctx *x, emu_operand o, uint8_t *const p[32], size_t i, bool load) {
    int type = x->in->type;
    uint32_t size = (uint32_t)emu_type_bytes((emu_type)type), *narrow = emu_r32(x, o), m = x->m;
    uint64_t *wide = emu_r64(x, o);
    if (load && o.sink) return;
    if (size == 8 && o.wide) MOVE(uint64_t, wide)
    if (size == 4 && !o.wide) MOVE(uint32_t, narrow)
    if (size == 2 && !o.wide && !emu_is_signed(type)) MOVE(uint16_t, narrow)
    if (size == 1 && !o.wide && !emu_is_signed(type)) MOVE(uint8_t, narrow)
    FOR_LANES(l, m) {
        uint64_t v = load ? 0 : emu_get_lane(x, o, l);
        memcpy(load ? (void *)&v : p[l] + i * size, load ? p[l] + i * size : (void *)&v, size);
        if (load) emu_set_lane(x, o, l, emu_extend(v, type));
    }
}

emu_outcome emu_ldst(emu_ctx *x) {
    const emu_inst *in = x->in;
    bool load = in->op == OP_ld;
    if (load && in->space == SP_PARAM && in->o[in->g[1].first].pooled) return load_param(x);
    const emu_group *val = &in->g[load ? 0 : 1];
    uint8_t *p[32];
    if (!places(x, load ? 1 : 0, (uint32_t)emu_type_bytes((emu_type)in->type) * in->vec, !load, p))
        return EMU_WAITS;
    for (int i = 0; i < val->n; i++) move(x, in->o[val->first + i], p, (size_t)i, load);
    return EMU_NEXT;
}

static bool atomic_value(const emu_inst *in, uint64_t old, uint64_t v, uint64_t third,
                         uint64_t *out) {
    bool sg = emu_is_signed(in->type);
    int64_t so = (int64_t)emu_extend(old, in->type), sv = (int64_t)emu_extend(v, in->type);
    if (emu_is_float(in->type)) {
        *out = emu_bits(emu_f32((uint32_t)old) + emu_f32((uint32_t)v));
        return in->type == T_F32 && in->mode == A_ADD;
    }
    switch (in->mode) {
    case A_ADD:
        *out = old + v;
        break;
    case A_MIN:
        *out = (sg ? so < sv : old < v) ? old : v;
        break;
    case A_MAX:
        *out = (sg ? so > sv : old > v) ? old : v;
        break;
    case A_AND:
        *out = old & v;
        break;
    case A_OR:
        *out = old | v;
        break;
    case A_XOR:
        *out = old ^ v;
        break;
    case A_EXCH:
        *out = v;
        break;
    case A_CAS:
        *out = old == v ? third : old;
        break;
    case A_INC:
        *out = old >= v ? 0 : old + 1;
        break;
    default:
        *out = !old || old > v ? v : old - 1;
    }
    return true;
}

emu_outcome emu_atomic(emu_ctx *x) {
    const emu_inst *in = x->in;
    int g = in->op == OP_atom ? 1 : 0;
    uint32_t size = (uint32_t)emu_type_bytes((emu_type)in->type);
    FOR_LANES(l, x->m) {
        bool race = x->b->race, grace_on = x->b->grace;
        uint64_t a = address(x, g, l), old = 0, now, v = emu_get_lane(x, emu_arg(x, g + 1), l);
        uint64_t third = in->groups > g + 2 ? emu_get_lane(x, emu_arg(x, g + 2), l) : 0;
        x->b->race = x->b->grace = false; /* atomics do not race */
        uint8_t *p = space_at(x, a, size, l, false);
        if (p) p = space_at(x, a, size, l, true);
        x->b->race = race;
        x->b->grace = grace_on;
        if (!p) return EMU_WAITS;
        memcpy(&old, p, size);
        if (!atomic_value(in, old, emu_extend(v, in->type), third, &now))
            return emu_fault(x, l, E_LAUNCH_FAILURE, "atomic that is not emulated");
        memcpy(p, &now, size);
        if (in->op == OP_atom) emu_set_lane(x, emu_arg(x, 0), l, old);
    }
    return EMU_NEXT;
}
