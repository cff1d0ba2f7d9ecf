/* Conversions between number formats. */
#include "exec_priv.h"

static double rounded(double d, int how) {
    switch (how) {
    case R_RNI:
        return rint(d);
    case R_RZI:
        return trunc(d);
    case R_RMI:
        return floor(d);
    case R_RPI:
        return ceil(d);
    default:
        return d;
    }
}

static uint64_t real_to_int(double d, int t, int rnd) {
    int bits = emu_type_bytes((emu_type)t) * 8;
    bool sg = emu_is_signed(t);
    double v = rounded(d, rnd), low = sg ? -ldexp(1, bits - 1) : 0;
    double high = sg ? ldexp(1, bits - 1) : ldexp(1, bits); /* the first that is too large */
    if (v != v) return 0;
    if (v <= low) return (uint64_t)(int64_t)low;
    if (v >= high)
        return sg ? (1ull << (bits - 1)) - 1 : bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
    return sg ? (uint64_t)(int64_t)v : (uint64_t)v;
}

static uint64_t int_to_real(uint64_t v, int from, int to) {
    double d = emu_is_signed(from) ? (double)(int64_t)v : (double)v;
    if (to == T_F32) return emu_bits(emu_is_signed(from) ? (float)(int64_t)v : (float)v);
    return emu_real_bits(d, to, false);
}

static uint64_t int_to_int(uint64_t v, int from, int to, bool sat) {
    int bits = emu_type_bytes((emu_type)to) * 8;
    if (sat && bits < 64) {
        int64_t low = emu_is_signed(to) ? -(1ll << (bits - 1)) : 0;
        int64_t high = emu_is_signed(to) ? (1ll << (bits - 1)) - 1 : (1ll << bits) - 1;
        if (emu_is_signed(from) && (int64_t)v < low) return (uint64_t)low;
        if (emu_is_signed(from) ? (int64_t)v > high : v > (uint64_t)high) return (uint64_t)high;
    }
    return emu_extend(v, to);
}

/* Two f32 become a pair of small ones: the first operand is the high half. */
static bool pair(const emu_inst *in, float high, float low, uint64_t *out) {
    if (in->type2 == T_E4M3X2) {
        *out = (uint64_t)emu_e4m3_from(high) << 8 | emu_e4m3_from(low);
        return in->sat; /* without .satfinite there is no such instruction */
    }
    if (in->sat) return false;
    if (in->type2 == T_BF16X2)
        *out = (uint64_t)emu_bf16_from(high) << 16 | emu_bf16_from(low);
    else if (in->type2 == T_F16X2)
        *out = (uint64_t)emu_half_from(high) << 16 | emu_half_from(low);
    else
        return false;
    return true;
}

static bool packed(const emu_inst *in, uint64_t a, uint64_t b, uint64_t *out) {
    if (in->rnd != R_RN) return false;
    if (in->type == T_F32) return pair(in, emu_f32((uint32_t)a), emu_f32((uint32_t)b), out);
    if (in->type == T_E4M3X2 && in->type2 == T_F16X2) {
        *out = (uint64_t)emu_e4m3_half[a >> 8 & 255] << 16 | emu_e4m3_half[a & 255];
        return true;
    }
    if (in->type == T_F16X2 && in->type2 == T_E4M3X2)
        return pair(in, emu_half_value((uint16_t)(a >> 16)), emu_half_value((uint16_t)a), out);
    return false;
}

static bool is_packed(int t) {
    return t == T_E4M3X2 || t == T_F16X2 || t == T_BF16X2;
}

static bool convert(const emu_inst *in, uint64_t a, uint64_t b, uint64_t *out) {
    int from = in->type, to = in->type2;
    bool real_from = emu_is_float(from), real_to = emu_is_float(to);
    if (is_packed(from) || is_packed(to)) return packed(in, a, b, out);
    a = emu_extend(a, from);
    if (real_from && real_to) {
        bool shrinks = emu_type_bytes((emu_type)to) < emu_type_bytes((emu_type)from);
        double v = rounded(emu_real(a, from), in->rnd);
        if ((shrinks && (in->rnd == R_RZ || from == T_F64) && !(from == T_F64 && to == T_F32)) ||
            (in->rnd == R_RZ && shrinks))
            return false;
        if (in->sat) v = v > 0 ? (v > 1 ? 1 : v) : 0;
        *out = emu_real_bits(v, to, in->ftz);
    } else if (real_from) {
        if (in->rnd < R_RNI) return false;
        *out = real_to_int(emu_real(a, from), to, in->rnd);
    } else if (real_to) {
        if (in->rnd != R_RN) return false;
        *out = int_to_real(a, from, to);
    } else
        *out = int_to_int(a, from, to, in->sat);
    return true;
}

static emu_outcome halves_to_f32(emu_ctx *x) {
    uint32_t *d = emu_r32(x, x->in->o[0]);
    const uint32_t *a = emu_r32(x, x->in->o[1]);
    FOR_LANES(l, x->m) d[l] = emu_half_table[(uint16_t)a[l]];
    return EMU_NEXT;
}

static emu_outcome codes_to_halves(emu_ctx *x) {
    uint32_t *d = emu_r32(x, x->in->o[0]);
    const uint32_t *a = emu_r32(x, x->in->o[1]);
    FOR_LANES(l, x->m)
    d[l] = (uint32_t)emu_e4m3_half[a[l] >> 8 & 255] << 16 | emu_e4m3_half[a[l] & 255];
    return EMU_NEXT;
}

static bool is_int(int t) {
    return !emu_is_float(t) && !is_packed(t);
}

static emu_outcome ints(emu_ctx *x) {
    const emu_inst *in = x->in;
    bool narrow = emu_type_bytes((emu_type)in->type2) <= 2 && !emu_is_signed(in->type2);
    FOR_LANES(l, x->m) {
        uint64_t v = emu_extend(emu_get_lane(x, in->o[1], l), in->type);
        v = emu_extend(v, in->type2);
        emu_set_lane(x, in->o[0], l, narrow ? v & 0xffff : v);
    }
    return EMU_NEXT;
}

emu_outcome emu_cvt(emu_ctx *x) {
    const emu_inst *in = x->in;
    if (in->type == T_F16 && in->type2 == T_F32 && !in->sat) return halves_to_f32(x);
    if (in->type == T_E4M3X2 && in->type2 == T_F16X2 && in->rnd == R_RN) return codes_to_halves(x);
    if (is_int(in->type) && is_int(in->type2) && !in->sat) return ints(x);
    FOR_LANES(l, x->m) {
        uint64_t r, b = in->groups > 2 ? emu_get_lane(x, in->o[2], l) : 0;
        if (!convert(in, emu_get_lane(x, in->o[1], l), b, &r))
            return emu_fault(x, l, E_LAUNCH_FAILURE,
                             "cvt to type %d from type %d, rounding %d, is not emulated", in->type2,
                             in->type, in->rnd);
        bool narrow = emu_type_bytes((emu_type)in->type2) <= 2 && !emu_is_signed(in->type2);
        emu_set_lane(x, in->o[0], l, narrow ? r & 0xffff : r);
    }
    return EMU_NEXT;
}
