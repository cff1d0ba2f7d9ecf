/* Instructions by which the lanes of a warp exchange values. */
#include "exec_priv.h"

/* Lanes named by the mask that are not here yet are waited for. */
static bool complete(emu_ctx *x, uint32_t want) {
    if (!(want & ~x->s->mask)) return true;
    x->s->state = SPLIT_WAITS;
    return false;
}

static int source_lane(int mode, int l, uint32_t b, uint32_t c, bool *ok) {
    int segment = (int)(c >> 8 & 31), low = l & segment;
    int limit = low | (int)(c & 31 & ~(uint32_t)segment), j;
    b &= 31;
    switch (mode) {
    case SHFL_UP:
        j = l - (int)b;
        *ok = j >= limit;
        break;
    case SHFL_DOWN:
        j = l + (int)b;
        *ok = j <= limit;
        break;
    case SHFL_BFLY:
        j = l ^ (int)b;
        *ok = j <= limit;
        break;
    default:
        j = low | (int)(b & ~(uint32_t)segment);
        *ok = j <= limit;
    }
    return *ok ? j : l;
}

emu_outcome emu_shfl(emu_ctx *x) {
    const emu_inst *in = x->in;
    uint32_t want = emu_r32(x, emu_arg(x, 4))[__builtin_ctz(x->m)], from[32], valid = 0;
    if (!complete(x, want)) return EMU_WAITS;
    if (x->m & ~want)
        return emu_fault(x, 0, E_LAUNCH_FAILURE, "shfl.sync by lanes %#x with mask %#x", x->m,
                         want);
    memcpy(from, emu_r32(x, emu_arg(x, 1)), sizeof(from));
    uint32_t *d = emu_r32(x, in->o[0]);
    const uint32_t *b = emu_r32(x, emu_arg(x, 2)), *c = emu_r32(x, emu_arg(x, 3));
    bool pooled = emu_arg(x, 2).pooled && emu_arg(x, 3).pooled;
    if (in->mode == SHFL_BFLY && pooled && c[0] == 31 && b[0] < 32 && x->m == ALL_LANES) {
        for (uint32_t l = 0; l < 32; l++) d[l] = from[l ^ b[0]]; /* all lanes give and take */
        valid = ALL_LANES;
    } else
        FOR_LANES(l, x->m) {
            bool ok;
            int j = source_lane(in->mode, l, b[l], c[l], &ok);
            if (ok && !(x->m >> j & 1))
                return emu_fault(x, l, E_LAUNCH_FAILURE,
                                 "shfl.sync reads lane %d, which is not there", j);
            valid |= (uint32_t)ok << l;
            d[l] = from[j];
        }
    if (in->g[0].n == 2) emu_set_pred(x, in->o[1], valid);
    return EMU_NEXT;
}

emu_outcome emu_vote(emu_ctx *x) {
    const emu_inst *in = x->in;
    uint32_t want = emu_r32(x, emu_arg(x, 2))[__builtin_ctz(x->m)];
    uint32_t p = emu_pred(x, emu_arg(x, 1)) & want;
    if (!complete(x, want)) return EMU_WAITS;
    if (in->mode == VOTE_BALLOT) {
        FOR_LANES(l, x->m) emu_set_lane(x, in->o[0], l, p);
        return EMU_NEXT;
    }
    bool r = in->mode == VOTE_ALL ? p == want : in->mode == VOTE_ANY ? p != 0 : p == want || !p;
    emu_set_pred(x, in->o[0], r ? ALL_LANES : 0);
    return EMU_NEXT;
}

emu_outcome emu_activemask(emu_ctx *x) {
    FOR_LANES(l, x->m) emu_set_lane(x, x->in->o[0], l, x->m);
    return EMU_NEXT;
}

static uint32_t reduce(int mode, uint32_t a, uint32_t b, bool sg) {
    bool less = sg ? (int32_t)a < (int32_t)b : a < b;
    switch (mode) {
    case A_ADD:
        return a + b;
    case A_MIN:
        return less ? a : b;
    case A_MAX:
        return less ? b : a;
    case A_AND:
        return a & b;
    case A_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

emu_outcome emu_redux(emu_ctx *x) {
    const emu_inst *in = x->in;
    uint32_t want = emu_r32(x, in->o[2])[__builtin_ctz(x->m)], r = 0;
    const uint32_t *v = emu_r32(x, in->o[1]);
    bool first = true;
    if (!complete(x, want)) return EMU_WAITS;
    FOR_LANES(l, want) {
        r = first ? v[l] : reduce(in->mode, r, v[l], emu_is_signed(in->type));
        first = false;
    }
    FOR_LANES(l, x->m) emu_set_lane(x, in->o[0], l, r);
    return EMU_NEXT;
}
