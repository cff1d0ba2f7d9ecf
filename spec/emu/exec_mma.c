/* Tensor core instructions, ldmatrix and cp.async.
 *
 * Fragment layouts are those of the PTX manual (mma.m16n8k16, .m16n8k32, .sp m16n8k64): lane
 * 4g+t holds row g of A and C, column g of B. */
#include <stdlib.h>

#include "exec_priv.h"
#include "settings.h"

typedef struct tile {
    float a[16][64], b[64][8];
} tile;

static float element(const emu_inst *in, uint32_t word, int i) {
    if (in->type == T_E4M3) return emu_e4m3_table[word >> 8 * i & 255];
    uint16_t h = (uint16_t)(word >> 16 * i);
    return in->type == T_F16 ? emu_half_value(h) : emu_bf16_value(h);
}

static void dense_a(emu_ctx *x, tile *t) {
    const emu_inst *in = x->in;
    int per = in->type == T_E4M3 ? 4 : 2;
    for (int r = 0; r < in->g[1].n; r++) {
        const uint32_t *v = emu_r32(x, in->o[in->g[1].first + r]);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < per; i++)
                t->a[(l >> 2) + (r & 1) * 8][(l & 3) * per + i + (r >> 1) * 4 * per] =
                    element(in, v[l], i);
    }
}

/* 32 kept values a row of 64; lane 4g+t holds the 2-bit places of row g + 8*(t&1), kept
 * columns 16*(t>>1) and on. */
static bool sparse_a(emu_ctx *x, tile *t) {
    const emu_inst *in = x->in;
    const uint32_t *e = emu_r32(x, emu_arg(x, 4));
    uint32_t meta[16][2];
    memset(t->a, 0, sizeof(t->a));
    for (int l = 0; l < 32; l++) meta[(l >> 2) + 8 * (l & 1)][(l & 3) >> 1] = e[l];
    for (int r = 0; r < 4; r++) {
        const uint32_t *v = emu_r32(x, in->o[in->g[1].first + r]);
        for (int l = 0; l < 32; l++) {
            int row = (l >> 2) + (r & 1) * 8;
            for (int i = 0; i < 4; i++) {
                int c = (l & 3) * 4 + i + (r >> 1) * 16;
                uint32_t word = meta[row][c >> 4], at = word >> 2 * (c & 15) & 3;
                if ((c & 1) && (word >> 2 * ((c & 15) - 1) & 3) >= at) {
                    emu_fault(x, l, E_LAUNCH_FAILURE, "mma.sp: row %d is not in order", row);
                    return false;
                }
                t->a[row][c / 2 * 4 + (int)at] = element(in, v[l], i);
            }
        }
    }
    return true;
}

static void load_b(emu_ctx *x, tile *t) {
    const emu_inst *in = x->in;
    int per = in->type == T_E4M3 ? 4 : 2;
    for (int r = 0; r < in->g[2].n; r++) {
        const uint32_t *v = emu_r32(x, in->o[in->g[2].first + r]);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < per; i++)
                t->b[(l & 3) * per + i + r * 4 * per][l >> 2] = element(in, v[l], i);
    }
}

/* Exact products and sum, one rounding. */
static void multiply(const tile *t, int k, float c[16][8]) {
    for (int i = 0; i < 16; i++) {
        double sum[8];
        for (int j = 0; j < 8; j++) sum[j] = (double)c[i][j];
        for (int x = 0; x < k; x++)
            for (int j = 0; j < 8; j++) sum[j] += (double)t->a[i][x] * (double)t->b[x][j];
        for (int j = 0; j < 8; j++) c[i][j] = (float)sum[j];
    }
}

/* Products and c aligned to the largest exponent, and some fraction bits kept: 13 as measured on
 * Hopper's FP8 tensor cores (DeepSeek-V3 technical report, 3.3.2); 23 of F16 and BF16, as on
 * Volta, the fewest of any (Fasi, Higham, Mikaitis, Pranesh 2021). */
static float truncated(const tile *t, int k, int i, int j, float c, int bits) {
    int e, top = -1000;
    double p[65];
    for (int x = 0; x <= k; x++) {
        p[x] = x < k ? (double)t->a[i][x] * (double)t->b[x][j] : (double)c;
        if (p[x] != p[x] || isinf(p[x])) return (float)(p[x] + (double)c);
        frexp(p[x], &e);
        if (p[x] != 0 && e > top) top = e;
    }
    if (top == -1000) return 0.0f;
    double unit = ldexp(1, top - 1 - bits), sum = 0;
    for (int x = 0; x <= k; x++) sum += trunc(p[x] / unit);
    return (float)(sum * unit);
}

static bool known_shape(const emu_inst *in) {
    bool fp8 = in->type == T_E4M3, half = in->type == T_F16 || in->type == T_BF16;
    if (in->m != 16 || in->n != 8 || in->type2 != T_F32 || in->mode || !in->aligned) return false;
    if (in->sparse) return fp8 && in->k == 64 && in->g[1].n == 4 && in->g[2].n == 4;
    return (fp8 ? in->k == 32 : half && in->k == 16) && in->g[1].n == 4 && in->g[2].n == 2;
}

emu_outcome emu_mma(emu_ctx *x) {
    const emu_inst *in = x->in;
    tile t;
    float c[16][8];
    if (!known_shape(in) || (in->sparse && emu_r32(x, emu_arg(x, 5))[0]))
        return emu_fault(x, 0, E_LAUNCH_FAILURE, "mma of this shape or type is not emulated");
    if (x->m != x->w->full) {
        x->s->state = SPLIT_WAITS;
        return EMU_WAITS;
    }
    if (in->sparse ? !sparse_a(x, &t) : (dense_a(x, &t), false)) return EMU_WAITS;
    load_b(x, &t);
    for (int r = 0; r < 4; r++) {
        const float *v = (const float *)(void *)emu_r32(x, in->o[in->g[3].first + r]);
        for (int l = 0; l < 32; l++) c[(l >> 2) + (r >> 1) * 8][(l & 3) * 2 + (r & 1)] = v[l];
    }
    if (emu_get()->trunc13) {
        int bits = in->type == T_E4M3 ? 13 : 23;
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) c[i][j] = truncated(&t, in->k, i, j, c[i][j], bits);
    } else
        multiply(&t, in->k, c);
    for (int r = 0; r < 4; r++) {
        float *d = (float *)(void *)emu_r32(x, in->o[in->g[0].first + r]);
        for (int l = 0; l < 32; l++) d[l] = c[(l >> 2) + (r >> 1) * 8][(l & 3) * 2 + (r & 1)];
    }
    return EMU_NEXT;
}

emu_outcome emu_ldmatrix(emu_ctx *x) {
    const emu_inst *in = x->in;
    uint8_t *row[32];
    if (x->m != x->w->full) {
        x->s->state = SPLIT_WAITS;
        return EMU_WAITS;
    }
    for (int l = 0; l < 8 * in->num; l++) {
        uint64_t a = emu_get_lane(x, emu_arg(x, 1), l) + (uint64_t)in->g[1].off;
        if (!(row[l] = emu_shared_at(x, (uint32_t)a, 16, l, false))) return EMU_WAITS;
    }
    for (int j = 0; j < in->num; j++) {
        uint32_t *d = emu_r32(x, in->o[in->g[0].first + j]);
        for (int l = 0; l < 32; l++) {
            uint16_t half[2];
            for (int i = 0; i < 2; i++) {
                const uint8_t *from = in->trans ? row[j * 8 + (l & 3) * 2 + i] + (l >> 2) * 2
                                                : row[j * 8 + (l >> 2)] + (l & 3) * 4 + i * 2;
                memcpy(&half[i], from, 2);
            }
            d[l] = (uint32_t)half[1] << 16 | half[0];
        }
    }
    return EMU_NEXT;
}

/* ---- cp.async: a copy lands only at the wait that covers it ---- */

static emu_outcome land(emu_ctx *x, int keep) { /* all but the last `keep` groups */
    emu_warp *w = x->w;
    int left = 0;
    for (int i = 0; i < w->n_copies; i++) {
        emu_copy c = w->copy[i];
        if (!(x->m >> c.lane & 1) || c.group >= w->group[c.lane] - keep) {
            w->copy[left++] = c;
            continue;
        }
        uint8_t *to = emu_shared_at(x, c.dst, c.n, c.lane, true);
        if (!to) return EMU_WAITS;
        memset(to, 0, c.n);
        for (uint32_t at = 0; at < c.src_n; at += c.src_n) {
            uint8_t *from = emu_global_at(x, c.src, c.src_n, c.lane, false);
            if (!from) return EMU_WAITS;
            memcpy(to, from, c.src_n);
        }
    }
    w->n_copies = left;
    return EMU_NEXT;
}

static emu_outcome start_copy(emu_ctx *x, int l) {
    const emu_inst *in = x->in;
    emu_warp *w = x->w;
    uint32_t n = emu_r32(x, emu_arg(x, 2))[l];
    uint32_t src_n = in->groups > 3 ? emu_r32(x, emu_arg(x, 3))[l] : n;
    uint32_t dst = (uint32_t)(emu_get_lane(x, emu_arg(x, 0), l) + (uint64_t)in->g[0].off);
    uint64_t src = emu_get_lane(x, emu_arg(x, 1), l) + (uint64_t)in->g[1].off;
    if (src_n > n || (src_n && src_n != n) || src % n || dst % n)
        return emu_fault(x, l, E_MISALIGNED, "cp.async of %u (%u) bytes from %#lx to %u", n, src_n,
                         src, dst);
    if (dst + n > x->b->shared_bytes)
        return emu_fault(x, l, E_ILLEGAL_ADDRESS, "cp.async to %u of %u", dst, x->b->shared_bytes);
    if (x->b->race) emu_shadow_touch(x, dst, n, l, true); /* the hazard starts here */
    memset(x->b->shared_init + dst, 0, n);
    memset(x->b->shared + dst, 0xff, n);
    if (w->n_copies == w->cap_copies) {
        w->cap_copies = w->cap_copies * 2 + 256;
        w->copy = realloc(w->copy, sizeof(*w->copy) * (size_t)w->cap_copies);
    }
    w->copy[w->n_copies++] = (emu_copy){src, dst, n, src_n, l, w->group[l]};
    return EMU_NEXT;
}

emu_outcome emu_cp(emu_ctx *x) {
    int mode = x->in->mode;
    if (mode == CP_WAIT) return land(x, (int)emu_r32(x, x->in->o[0])[0]);
    if (mode == CP_COMMIT || mode == CP_WAIT_ALL) {
        FOR_LANES(l, x->m) x->w->group[l]++;
        return mode == CP_COMMIT ? EMU_NEXT : land(x, 0);
    }
    FOR_LANES(l, x->m)
    if (start_copy(x, l) == EMU_WAITS && x->b->err) return EMU_WAITS;
    return EMU_NEXT;
}
