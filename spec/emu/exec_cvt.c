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

/* ---- all lanes at once: what kernels do often ---- */

#define ALL(name, to, from, expr)                                                                  \
    static emu_outcome name(emu_ctx *x) {                                                          \
        to *d = (to *)(void *)emu_r32(x, x->in->o[0]);                                             \
        const from *a = (const from *)(void *)emu_r32(x, x->in->o[1]);                             \
        for (int l = 0; l < 32; l++) d[l] = x->m >> l & 1 ? (to)(expr) : d[l];                     \
        return EMU_NEXT;                                                                           \
    }
ALL(f16_to_f32, uint32_t, uint32_t, emu_half_table[(uint16_t)a[l]])
ALL(bf16_to_f32, uint32_t, uint32_t, a[l] << 16)
ALL(f32_to_f16, uint32_t, float, emu_half_from(a[l]))
ALL(f32_to_bf16, uint32_t, float, emu_bf16_from(a[l]))
ALL(s32_to_f32, float, int32_t, (float)a[l])
ALL(u32_to_f32, float, uint32_t, (float)a[l])
ALL(codes_to_halves, uint32_t, uint32_t,
    (uint32_t)emu_e4m3_half[a[l] >> 8 & 255] << 16 | emu_e4m3_half[a[l] & 255])

#define PAIR(name, bits, from)                                                                     \
    static emu_outcome name(emu_ctx *x) {                                                          \
        uint32_t *d = emu_r32(x, x->in->o[0]);                                                     \
        const float *high = (const float *)(void *)emu_r32(x, x->in->o[1]);                        \
        const float *low = (const float *)(void *)emu_r32(x, x->in->o[2]);                         \
        for (int l = 0; l < 32; l++)                                                               \
            d[l] = x->m >> l & 1 ? (uint32_t)from(high[l]) << bits | from(low[l]) : d[l];          \
        return EMU_NEXT;                                                                           \
    }
PAIR(pair_to_f16, 16, emu_half_from)
PAIR(pair_to_bf16, 16, emu_bf16_from)
PAIR(pair_to_codes, 8, emu_e4m3_from)

/* NULL: none; the instruction rounds to nearest, and does not saturate unless it makes codes. */
static emu_handler *quick(const emu_inst *in) {
    int from = in->type, to = in->type2;
    if (to == T_E4M3X2) return from == T_F32 && in->sat && in->rnd == R_RN ? pair_to_codes : NULL;
    if (in->sat || in->ftz || in->rnd > R_RN) return NULL;
    if (from == T_F16 && to == T_F32) return f16_to_f32;
    if (from == T_BF16 && to == T_F32) return bf16_to_f32;
    if (in->rnd != R_RN) return NULL;
    if (from == T_E4M3X2) return to == T_F16X2 ? codes_to_halves : NULL;
    if (from == T_S32) return to == T_F32 ? s32_to_f32 : NULL;
    if (from == T_U32) return to == T_F32 ? u32_to_f32 : NULL;
    if (from != T_F32) return NULL;
    return to == T_F16      ? f32_to_f16
           : to == T_BF16   ? f32_to_bf16
           : to == T_F16X2  ? pair_to_f16
           : to == T_BF16X2 ? pair_to_bf16
                            : NULL;
}

static bool is_int(int t) {
    return !emu_is_float(t) && !is_packed(t);
}

/* Registers as values of type t, and values of type t to registers: unsigned ones of fewer than
 * 32 bits have zeros above them. */
#define TAKE(type, r)                                                                              \
    for (int l = 0; l < 32; l++) v[l] = (uint64_t)(type)r[l];                                      \
    return
static void take(const emu_ctx *x, emu_operand o, int t, uint64_t v[32]) {
    const uint32_t *r = emu_r32(x, o);
    const uint64_t *wide = emu_r64(x, o);
    if (o.wide) {
        for (int l = 0; l < 32; l++) v[l] = emu_extend(wide[l], t);
        return;
    }
    switch (emu_type_bytes((emu_type)t) * (emu_is_signed(t) ? -1 : 1)) {
    case 1:
        TAKE(uint8_t, r);
    case 2:
        TAKE(uint16_t, r);
    case -1:
        TAKE(int8_t, r);
    case -2:
        TAKE(int16_t, r);
    case -4:
        TAKE(int32_t, r);
    default:
        TAKE(uint32_t, r);
    }
}

static emu_outcome ints(emu_ctx *x) {
    const emu_inst *in = x->in;
    const emu_operand o = in->o[0];
    int to = in->type2, size = emu_type_bytes((emu_type)to);
    uint64_t v[32], *wide = emu_r64(x, o);
    uint32_t *r = emu_r32(x, o), keep = size == 1 && !emu_is_signed(to) ? 0xff : ~0u;
    take(x, in->o[1], in->type, v);
    if (size == 8 && o.wide)
        for (int l = 0; l < 32; l++) wide[l] = x->m >> l & 1 ? v[l] : wide[l];
    else if (!o.wide && (size == 4 || !emu_is_signed(to)))
        for (int l = 0; l < 32; l++)
            r[l] = x->m >> l & 1 ? (uint32_t)v[l] & keep & (size == 4 ? ~0u : 0xffff) : r[l];
    else
        FOR_LANES(l, x->m) emu_set_lane(x, o, l, emu_extend(v[l], to));
    return EMU_NEXT;
}

emu_outcome emu_cvt(emu_ctx *x) {
    const emu_inst *in = x->in;
    emu_handler *all = quick(in);
    if (all) return all(x);
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
