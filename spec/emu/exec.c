/* One warp at a time, 32 lanes an instruction.  Divergent lanes are splits (pc, mask); the
 * lowest pc runs first, which reconverges structured code; an instruction of the warp whose
 * mask is not complete waits for the missing lanes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "exec_priv.h"
#include "mem.h"
#include "settings.h"

emu_outcome emu_fault(emu_ctx *x, int lane, int error, const char *fmt, ...) {
    char what[400];
    va_list ap;
    const emu_inst *in = x->in;
    const char *file = in->file && in->file < MAX_FILES ? x->b->m->files[in->file] : NULL;
    const char *slash = file ? strrchr(file, '/') : NULL;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    emu_report("%s: %s:%d (ptx line %d) %.80s block %u,%u,%u thread %d", what,
               slash  ? slash + 1
               : file ? file
                      : "?",
               in->src, in->line, x->k->name, x->b->at[0], x->b->at[1], x->b->at[2],
               x->w->id * 32 + lane);
    if (!x->b->err) x->b->err = error;
    return EMU_WAITS;
}

/* ---- control ---- */

static void drop_split(emu_warp *w, emu_split *s) {
    *s = w->split[--w->n_splits];
}

static emu_outcome run_bra(emu_ctx *x) {
    if (x->m == x->s->mask) {
        x->s->pc = x->in->target;
        return EMU_JUMPED;
    }
    if (!x->m) return EMU_NEXT;
    x->w->split[x->w->n_splits++] = (emu_split){x->in->target, SPLIT_RUNS, 0, x->m};
    x->s->mask &= ~x->m;
    return EMU_NEXT;
}

static emu_outcome run_ret(emu_ctx *x) {
    x->w->alive &= ~x->m;
    x->s->mask &= ~x->m;
    if (x->s->mask) return EMU_NEXT;
    drop_split(x->w, x->s);
    return EMU_WAITS;
}

static emu_outcome run_bar(emu_ctx *x) {
    if (x->in->op == OP_bar && x->in->mode == BAR_WARP) {
        uint32_t want = emu_r32(x, emu_arg(x, 0))[__builtin_ctz(x->m)];
        if (want & ~x->s->mask) {
            x->s->state = SPLIT_WAITS;
            return EMU_WAITS;
        }
        x->w->epoch++;
        return EMU_NEXT;
    }
    if (x->in->groups > 1)
        return emu_fault(x, 0, E_LAUNCH_FAILURE, "barrier with a thread count is not emulated");
    if (x->m != x->s->mask || x->s->mask != x->w->alive) {
        x->s->state = SPLIT_WAITS;
        return EMU_WAITS;
    }
    x->s->state = SPLIT_AT_BARRIER;
    x->s->barrier = (int)emu_r32(x, emu_arg(x, 0))[0];
    x->s->pc++;
    return EMU_WAITS;
}

static emu_outcome run_trap(emu_ctx *x) {
    return emu_fault(x, 0, E_LAUNCH_FAILURE, "trap");
}
static emu_outcome run_nothing(emu_ctx *x) {
    return (void)x, EMU_NEXT;
}

/* NULL: arithmetic, see emu_fast_alu and emu_alu */
static emu_handler *const handlers[OP_COUNT] = {
    [OP_mov] = emu_mov,       [OP_and] = emu_logic,
    [OP_or] = emu_logic,      [OP_xor] = emu_logic,
    [OP_not] = emu_logic,     [OP_selp] = emu_selp,
    [OP_setp] = emu_setp,     [OP_cvt] = emu_cvt,
    [OP_cvta] = emu_cvta,     [OP_ld] = emu_ldst,
    [OP_st] = emu_ldst,       [OP_atom] = emu_atomic,
    [OP_red] = emu_atomic,    [OP_bar] = run_bar,
    [OP_barrier] = run_bar,   [OP_membar] = run_nothing,
    [OP_fence] = run_nothing, [OP_prefetch] = run_nothing,
    [OP_shfl] = emu_shfl,     [OP_vote] = emu_vote,
    [OP_redux] = emu_redux,   [OP_activemask] = emu_activemask,
    [OP_mma] = emu_mma,       [OP_ldmatrix] = emu_ldmatrix,
    [OP_cp] = emu_cp,         [OP_griddepcontrol] = run_nothing,
    [OP_ret] = run_ret,       [OP_exit] = run_ret,
    [OP_bra] = run_bra,       [OP_trap] = run_trap,
};

void emu_bind(emu_kernel *k) {
    for (int i = 0; i < k->n; i++) {
        emu_inst *in = &k->in[i];
        in->run = handlers[in->op];
        emu_handler *fast = emu_fast_alu(in);
        if (fast)
            in->run = fast;
        else if (!in->run)
            in->run = emu_alu;
    }
}

/* ---- a warp ---- */

/* Joins splits at the same pc; the one that holds split i afterwards. */
static int merge(emu_warp *w, int i) {
    for (int j = 0; j < w->n_splits; j++) {
        if (j == i || w->split[j].pc != w->split[i].pc || w->split[j].state == SPLIT_AT_BARRIER)
            continue;
        w->split[i].mask |= w->split[j].mask;
        w->split[i].state = SPLIT_RUNS;
        drop_split(w, &w->split[j]);
        return merge(w, i == w->n_splits ? j : i);
    }
    return i;
}

static bool must_yield(const emu_warp *w, const emu_split *s) {
    for (int j = 0; j < w->n_splits; j++) {
        const emu_split *t = &w->split[j];
        if (t == s || t->state == SPLIT_AT_BARRIER) continue;
        if (t->pc == s->pc || (t->state == SPLIT_RUNS && t->pc < s->pc)) return true;
    }
    return false;
}

/* Runs one split until it branches apart, meets another, blocks or ends. */
static void run_split(emu_block *b, emu_warp *w, emu_split *s) {
    emu_ctx x = {.b = b, .w = w, .k = b->k, .s = s};
    while (!b->err) {
        if (w->n_splits > 1 && must_yield(w, s)) return;
        if (s->pc >= b->k->n) { /* the end without ret */
            w->alive &= ~s->mask;
            drop_split(w, s);
            return;
        }
        emu_inst *in = &b->k->in[s->pc];
        x.in = in;
        x.m = s->mask;
        if (in->pred >= 0) {
            uint32_t p = w->reg[32 * (size_t)in->pred];
            x.m &= in->negate ? ~p : p;
        }
        in->hits++;
        b->k->counts.inst++;
        b->k->counts.lane_inst += (uint64_t)__builtin_popcount(x.m);
        emu_outcome next = x.m || in->op == OP_bra ? in->run(&x) : EMU_NEXT;
        if (next == EMU_WAITS) return;
        if (next == EMU_NEXT) s->pc++;
    }
}

static bool is_block_barrier(const emu_inst *in) {
    return in->op == OP_barrier || (in->op == OP_bar && in->mode == BAR_BLOCK);
}

/* A waiting split that merging or the exit of other lanes has completed. */
static bool wake_one(emu_block *b, emu_warp *w) {
    for (int i = 0; i < w->n_splits; i++) {
        if (w->split[i].state != SPLIT_WAITS) continue;
        emu_split *s = &w->split[merge(w, i)];
        if (s->state == SPLIT_RUNS) return true;
        if (is_block_barrier(&b->k->in[s->pc]) && s->mask == w->alive) {
            s->state = SPLIT_RUNS;
            return true;
        }
        i = (int)(s - w->split);
    }
    return false;
}

static void report_divergence(emu_block *b, emu_warp *w) {
    for (int i = 0; i < w->n_splits; i++) {
        emu_split *s = &w->split[i];
        if (s->state != SPLIT_WAITS) continue;
        emu_ctx x = {.b = b, .w = w, .k = b->k, .s = s, .in = &b->k->in[s->pc], .m = s->mask};
        emu_fault(&x, __builtin_ctz(s->mask), E_LAUNCH_FAILURE,
                  "divergence: %s reached by lanes %#x of %#x only",
                  is_block_barrier(x.in) ? "barrier" : "warp-synchronous instruction", s->mask,
                  w->alive);
        return;
    }
}

static void run_warp(emu_block *b, emu_warp *w) { /* until all lanes end or wait for the block */
    while (!b->err) {
        int best = -1;
        if (!w->n_splits) {
            w->done = true;
            return;
        }
        for (int i = 0; i < w->n_splits; i++)
            if (w->split[i].state == SPLIT_RUNS && (best < 0 || w->split[i].pc < w->split[best].pc))
                best = i;
        if (best >= 0)
            run_split(b, w, &w->split[merge(w, best)]);
        else if (!wake_one(b, w)) {
            report_divergence(b, w);
            return; /* at the barrier of the block, or with an error */
        }
    }
}

/* ---- a block ---- */

static uint32_t special_value(const emu_block *b, int which, uint32_t warp, uint32_t lane) {
    uint32_t t = warp * 32 + lane;
    switch (which) {
    case S_TID_X:
        return t % b->block[0];
    case S_TID_Y:
        return t / b->block[0] % b->block[1];
    case S_TID_Z:
        return t / b->block[0] / b->block[1];
    case S_LANEID:
        return lane;
    case S_WARPID:
        return warp;
    case S_LT:
        return (1u << lane) - 1;
    case S_LE:
        return (uint32_t)((2ull << lane) - 1);
    case S_EQ:
        return 1u << lane;
    case S_GT:
        return ~(uint32_t)((2ull << lane) - 1);
    case S_GE:
        return ~((1u << lane) - 1);
    case S_DYNAMIC_SMEM:
        return b->shared_bytes - (b->k->shared_bytes + 127) / 128 * 128;
    default:
        if (which >= S_NCTAID_X) return b->grid[which - S_NCTAID_X];
        if (which >= S_CTAID_X) return b->at[which - S_CTAID_X];
        return b->block[which - S_NTID_X];
    }
}

static void start_warp(emu_block *b, int i) {
    emu_warp *w = &b->w[i];
    int lanes = (int)b->threads - i * 32;
    w->id = i;
    w->full = w->alive = lanes >= 32 ? ALL_LANES : (1u << lanes) - 1;
    w->split[0] = (emu_split){0, SPLIT_RUNS, 0, w->alive};
    w->n_splits = 1;
    w->done = false;
    w->epoch = 0;
    w->n_copies = 0;
    memset(w->group, 0, sizeof(w->group));
    for (int s = 0; s < N_SPECIAL; s++) {
        if (b->k->special[s] < 0) continue;
        uint32_t *r = w->reg + 32 * (size_t)b->k->special[s];
        for (uint32_t l = 0; l < 32; l++) r[l] = special_value(b, s, (uint32_t)i, l);
    }
}

/* All warps stand at a barrier or have ended: whether they may go on. */
static bool pass_barrier(emu_block *b) {
    int waiting = 0, done = 0, id = -1;
    for (int i = 0; i < b->n_warps; i++) {
        emu_warp *w = &b->w[i];
        if (w->done) {
            done++;
            continue;
        }
        waiting++;
        if (id >= 0 && id != w->split[0].barrier) {
            emu_report("divergence: warps wait at barriers %d and %d: %.80s", id,
                       w->split[0].barrier, b->k->name);
            b->err = E_LAUNCH_FAILURE;
            return false;
        }
        id = w->split[0].barrier;
    }
    if (waiting && done) {
        emu_report("divergence: %d warps wait at a barrier, %d have ended: %.80s block %u", waiting,
                   done, b->k->name, b->id);
        b->err = E_LAUNCH_FAILURE;
        return false;
    }
    for (int i = 0; i < b->n_warps && waiting; i++) {
        b->w[i].split[0].state = SPLIT_RUNS;
        b->w[i].epoch = 0;
    }
    b->epoch++;
    return waiting > 0;
}

/* The shadow of shared memory stays from launch to launch; kernels run one at a time. */
static emu_shadow *shadow;
static uint32_t shadow_bytes, epoch;
enum { LAST_EPOCH = 1 << 19 }; /* of 20 bits; a block has fewer barriers than are left */

static void run_block(emu_block *b, uint64_t *rng) {
    memset(b->shared, 0xff, b->shared_bytes);
    memset(b->shared_init, 0, b->shared_bytes);
    /* Epochs go on from block to block: what the shadow tells of earlier ones is past. */
    if (++b->epoch >= LAST_EPOCH) {
        if (shadow) memset(shadow, 0, sizeof(*shadow) * shadow_bytes);
        b->epoch = 1;
    }
    for (int i = 0; i < b->n_warps; i++) start_warp(b, i);
    do {
        /* Another warp goes first after each barrier. */
        int first = b->n_warps > 1 ? (int)(emu_random(rng) % (uint32_t)b->n_warps) : 0;
        for (int i = 0; i < b->n_warps && !b->err; i++) {
            emu_warp *w = &b->w[(i + first) % b->n_warps];
            if (!w->done) run_warp(b, w);
        }
    } while (!b->err && pass_barrier(b));
}

/* ---- a launch ---- */

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    return b ? common_divisor(b, a % b) : a;
}

static void run_grid(emu_block *b, uint64_t blocks) { /* in a shuffled order */
    static uint64_t rng;
    if (!rng) rng = emu_get()->seed * 2654435761u + 1;
    uint64_t n = emu_random(&rng) % blocks, step = 1;
    if (blocks > 2) do
            step = emu_random(&rng) % blocks | 1;
        while (common_divisor(step, blocks) != 1);
    for (uint64_t i = 0; i < blocks && !b->err; i++, n = (n + step) % blocks) {
        b->id = (unsigned)n;
        b->at[0] = (unsigned)(n % b->grid[0]);
        b->at[1] = (unsigned)(n / b->grid[0] % b->grid[1]);
        b->at[2] = (unsigned)(n / b->grid[0] / b->grid[1]);
        run_block(b, &rng);
    }
}

/* Registers of a warp stay from launch to launch too. */
enum { MAX_WARPS = 1024 / 32 };
static struct {
    uint32_t *at;
    size_t bytes;
} registers[MAX_WARPS];

static uint32_t *take_registers(int warp, size_t bytes) {
    if (registers[warp].bytes < bytes) {
        free(registers[warp].at);
        registers[warp].at = aligned_alloc(128, registers[warp].bytes = bytes);
        memset(registers[warp].at, 0xff, bytes);
    }
    return registers[warp].at;
}

static void alloc_block(emu_block *b) {
    size_t bytes = 128 * (size_t)(b->k->n_slots + 1), shared = b->shared_bytes + 16u;
    b->shared = malloc(shared);
    b->shared_init = malloc(shared);
    if (b->race && shared > shadow_bytes) {
        free(shadow);
        shadow = calloc(shadow_bytes = (uint32_t)shared, sizeof(*shadow));
    }
    b->shadow = shadow;
    b->w = calloc((size_t)b->n_warps, sizeof(*b->w));
    for (int i = 0; i < b->n_warps; i++) {
        b->w[i].reg = take_registers(i, bytes);
        b->w[i].local = malloc((size_t)b->k->local_bytes * 32 + 1);
        memset(b->w[i].local, 0xff, (size_t)b->k->local_bytes * 32 + 1);
    }
}

static void free_block(emu_block *b) {
    for (int i = 0; i < b->n_warps; i++) {
        free(b->w[i].local);
        free(b->w[i].copy);
    }
    free(b->w);
    free(b->shared);
    free(b->shared_init);
}

int emu_exec(const emu_launch *l) {
    static uint32_t launches;
    const emu_settings *set = emu_get();
    emu_num_init();
    emu_block b = {.m = l->m,
                   .k = l->k,
                   .dev = l->dev,
                   .params = l->params,
                   .launch = ++launches,
                   .epoch = epoch,
                   .race = set->race,
                   .init = set->init,
                   .grace = set->grace};
    memcpy(b.grid, l->grid, sizeof(b.grid));
    memcpy(b.block, l->block, sizeof(b.block));
    b.threads = b.block[0] * b.block[1] * b.block[2];
    b.n_warps = (int)(b.threads + 31) / 32;
    uint64_t blocks = (uint64_t)b.grid[0] * b.grid[1] * b.grid[2];
    if (!b.threads || b.threads > 1024 || !blocks || b.grid[1] > 65535 || b.grid[2] > 65535)
        return E_CONFIGURATION;
    if (l->k->max_threads && (int)b.threads > l->k->max_threads) {
        emu_report("launch of %u threads, launch bounds %d: %s", b.threads, l->k->max_threads,
                   l->k->name);
        return E_LAUNCH_FAILURE;
    }
    b.shared_bytes = (l->k->shared_bytes + 127) / 128 * 128 + l->dynamic_smem;
    alloc_block(&b);
    l->k->counts.launches++;
    run_grid(&b, blocks);
    epoch = b.epoch;
    free_block(&b);
    return b.err;
}
