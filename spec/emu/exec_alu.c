/* Arithmetic, logic, comparison and moves.  emu_alu knows every operation, one lane at a time;
 * the frequent ones have a handler over all lanes, which the compiler makes vectors of. */
#include <fenv.h>
#include <stdlib.h>

#include "exec_priv.h"

/* ---- all lanes at once ---- */

#define ALL(type, cast, expr)                                                                      \
    {                                                                                              \
        type *d = (type *)(void *)emu_r32(x, x->in->o[0]);                                         \
        const cast *a = (const cast *)(void *)emu_r32(x, x->in->o[1]);                             \
        const cast *b = (const cast *)(void *)emu_r32(x, x->in->o[2]);                             \
        const cast *c = (const cast *)(void *)emu_r32(x, x->in->o[3]);                             \
        (void)b;                                                                                   \
        (void)c;                                                                                   \
        if (x->m == ALL_LANES)                                                                     \
            for (int l = 0; l < 32; l++) d[l] = (expr);                                            \
        else                                                                                       \
            for (int l = 0; l < 32; l++) d[l] = x->m >> l & 1 ? (expr) : d[l];                     \
        return EMU_NEXT;                                                                           \
    }
#define INT(name, expr)  static emu_outcome name(emu_ctx *x) ALL(uint32_t, uint32_t, expr)
#define WIDE(name, expr) static emu_outcome name(emu_ctx *x) ALL(uint64_t, uint64_t, expr)
#define REAL(name, expr) static emu_outcome name(emu_ctx *x) ALL(float, float, expr)

INT(add_32, a[l] + b[l])
INT(sub_32, a[l] - b[l])
INT(mul_32, a[l] * b[l])
INT(mad_32, a[l] * b[l] + c[l])
INT(and_32, a[l] & b[l])
INT(or_32, a[l] | b[l])
INT(xor_32, a[l] ^ b[l])
INT(shl_32, b[l] > 31 ? 0 : a[l] << b[l])
INT(shr_32, b[l] > 31 ? 0 : a[l] >> b[l])
INT(mov_32, a[l])
INT(neg_32, 0 - a[l])
INT(not_32, ~a[l])
INT(min_u32, a[l] < b[l] ? a[l] : b[l])
INT(max_u32, a[l] > b[l] ? a[l] : b[l])
INT(min_s32, (int32_t)a[l] < (int32_t)b[l] ? a[l] : b[l])
INT(max_s32, (int32_t)a[l] > (int32_t)b[l] ? a[l] : b[l])
INT(shr_s32, (uint32_t)((int32_t)a[l] >> (b[l] > 31 ? 31 : b[l])))
INT(add_16, (a[l] + b[l]) & 0xffff)
INT(and_16, a[l] & b[l] & 0xffff)
INT(or_16, (a[l] | b[l]) & 0xffff)
INT(mov_16, a[l] & 0xffff)
WIDE(mov_64, a[l])
WIDE(add_64, a[l] + b[l])
WIDE(sub_64, a[l] - b[l])
WIDE(mul_64, a[l] * b[l])
WIDE(mad_64, a[l] * b[l] + c[l])
WIDE(and_64, a[l] & b[l])
WIDE(or_64, a[l] | b[l])
REAL(add_f32, a[l] + b[l])
REAL(sub_f32, a[l] - b[l])
REAL(mul_f32, a[l] * b[l])
REAL(fma_f32, __builtin_fmaf(a[l], b[l], c[l]))
REAL(neg_f32, -a[l])
REAL(abs_f32, fabsf(a[l]))
REAL(div_f32, a[l] / b[l])
REAL(min_f32, a[l] != a[l] ? b[l] : b[l] != b[l] ? a[l] : a[l] < b[l] ? a[l] : b[l])
REAL(max_f32, a[l] != a[l] ? b[l] : b[l] != b[l] ? a[l] : a[l] > b[l] ? a[l] : b[l])
REAL(ex2_f32, exp2f(a[l]))
REAL(ex2_ftz_f32, emu_flush(exp2f(emu_flush(a[l]))))

/* Results wider than operands, 64-bit values beside 32-bit counts. */
#define MIXED(name, to, from, from2, expr)                                                         \
    static emu_outcome name(emu_ctx *x) {                                                          \
        to *d = (to *)(void *)emu_r32(x, x->in->o[0]);                                             \
        const from *a = (const from *)(void *)emu_r32(x, x->in->o[1]);                             \
        const from2 *b = (const from2 *)(void *)emu_r32(x, x->in->o[2]);                           \
        const to *c = (const to *)(void *)emu_r32(x, x->in->o[3]);                                 \
        (void)c;                                                                                   \
        for (int l = 0; l < 32; l++) d[l] = x->m >> l & 1 ? (to)(expr) : d[l];                     \
        return EMU_NEXT;                                                                           \
    }
MIXED(mul_wide_s32, int64_t, int32_t, int32_t, (int64_t)a[l] * b[l])
MIXED(mul_wide_u32, uint64_t, uint32_t, uint32_t, (uint64_t)a[l] * b[l])
MIXED(mad_wide_s32, int64_t, int32_t, int32_t, (int64_t)a[l] * b[l] + c[l])
MIXED(mad_wide_u32, uint64_t, uint32_t, uint32_t, (uint64_t)a[l] * b[l] + c[l])
MIXED(shl_64, uint64_t, uint64_t, uint32_t, b[l] > 63 ? 0 : a[l] << b[l])
MIXED(shr_u64, uint64_t, uint64_t, uint32_t, b[l] > 63 ? 0 : a[l] >> b[l])
MIXED(shr_s64, int64_t, int64_t, uint32_t, a[l] >> (b[l] > 63 ? 63 : b[l]))

static emu_handler *fast_wide(const emu_inst *in) {
    bool sg = in->type == T_S64;
    switch (in->op) {
    case OP_add:
        return add_64;
    case OP_sub:
        return sub_64;
    case OP_mul:
        return in->mode == M_LO ? mul_64 : NULL;
    case OP_mad:
        return in->mode == M_LO ? mad_64 : NULL;
    case OP_and:
        return and_64;
    case OP_or:
        return or_64;
    case OP_shl:
        return shl_64;
    case OP_shr:
        return sg ? shr_s64 : shr_u64;
    default:
        return NULL;
    }
}

static emu_handler *fast_float(const emu_inst *in) {
    if (in->type != T_F32 || in->sat || in->nan || in->rnd == R_RM) return NULL;
    if (in->op == OP_ex2) return in->ftz ? ex2_ftz_f32 : ex2_f32;
    if (in->ftz) return NULL;
    switch (in->op) {
    case OP_add:
        return add_f32;
    case OP_sub:
        return sub_f32;
    case OP_mul:
        return mul_f32;
    case OP_fma:
        return fma_f32;
    case OP_max:
        return max_f32;
    case OP_min:
        return min_f32;
    case OP_neg:
        return neg_f32;
    case OP_abs:
        return abs_f32;
    case OP_div:
        return div_f32;
    default:
        return NULL;
    }
}

static emu_handler *fast_int(const emu_inst *in) {
    bool sg = in->type == T_S32;
    switch (in->op) {
    case OP_add:
        return add_32;
    case OP_sub:
        return sub_32;
    case OP_mul:
        return in->mode == M_LO   ? mul_32
               : in->mode == M_HI ? NULL
               : sg               ? mul_wide_s32
                                  : mul_wide_u32;
    case OP_mad:
        return in->mode == M_LO   ? mad_32
               : in->mode == M_HI ? NULL
               : sg               ? mad_wide_s32
                                  : mad_wide_u32;
    case OP_and:
        return and_32;
    case OP_or:
        return or_32;
    case OP_xor:
        return xor_32;
    case OP_not:
        return not_32;
    case OP_neg:
        return neg_32;
    case OP_min:
        return sg ? min_s32 : min_u32;
    case OP_max:
        return sg ? max_s32 : max_u32;
    case OP_shl:
        return shl_32;
    case OP_shr:
        return sg ? shr_s32 : shr_32;
    default:
        return NULL;
    }
}

static emu_handler *fast_short(const emu_inst *in) {
    switch (in->op) {
    case OP_add:
        return add_16;
    case OP_and:
        return and_16;
    case OP_or:
        return or_16;
    default:
        return NULL;
    }
}

emu_handler *emu_fast_alu(const emu_inst *in) {
    for (int i = 0; i < in->groups; i++)
        if (in->g[i].n != 1 || in->g[i].kind > K_CONST) return NULL;
    if (in->op == OP_mov && in->groups == 2 && in->type != T_PRED) {
        if (in->o[0].wide && in->o[1].wide) return mov_64;
        if (in->o[0].wide || in->o[1].wide) return NULL;
        return emu_type_bytes((emu_type)in->type) == 2 ? mov_16 : mov_32;
    }
    switch (in->type) {
    case T_F32:
        return fast_float(in);
    case T_B32:
    case T_U32:
    case T_S32:
        return fast_int(in);
    case T_B64:
    case T_U64:
    case T_S64:
        return fast_wide(in);
    case T_B16:
    case T_U16:
    case T_S16:
        return in->mode == M_WIDE ? NULL : fast_short(in);
    default:
        return NULL;
    }
}

/* ---- one lane ---- */

typedef struct lane { /* of emu_alu: operands 1..4 extended to 64 bits, and the result */
    uint64_t v[5], r;
} lane;

static double pick(double x, double y, bool greater, bool nan_wins) {
    if (x != x || y != y) {
        if (nan_wins || (x != x && y != y)) return NAN;
        return x != x ? y : x;
    }
    return (greater ? x > y : x < y) ? x : y;
}

static float fma_down(float x, float y, float z) {
    volatile float a = x, r; /* keeps the operation between the two changes of mode */
    fesetround(FE_DOWNWARD);
    r = fmaf(a, y, z);
    fesetround(FE_TONEAREST);
    return r;
}

/* In double; +, -, *, / and sqrt of f32 rounded twice are what one rounding gives. */
static bool real_op(const emu_inst *in, double x, double y, double z, double *q) {
    int t = in->type;
    switch (in->op) {
    case OP_add:
        *q = x + y;
        return true;
    case OP_sub:
        *q = x - y;
        return true;
    case OP_mul:
        *q = x * y;
        return true;
    case OP_fma:
    case OP_mad:
        if (in->rnd == R_RM) {
            *q = (double)fma_down((float)x, (float)y, (float)z);
            return t == T_F32;
        }
        *q = t == T_F32 ? (double)fmaf((float)x, (float)y, (float)z) : fma(x, y, z);
        return true;
    case OP_div:
        *q = x / y;
        return true;
    case OP_min:
        *q = pick(x, y, false, in->nan);
        return true;
    case OP_max:
        *q = pick(x, y, true, in->nan);
        return true;
    case OP_neg:
        *q = -x;
        return true;
    case OP_abs:
        *q = fabs(x);
        return true;
    case OP_rcp:
        *q = 1 / x;
        return true;
    case OP_sqrt:
        *q = sqrt(x);
        return true;
    case OP_copysign:
        *q = copysign(y, x);
        return true;
    default:
        return false;
    }
}

static bool approx_op(const emu_inst *in, double x, double *q) {
    switch (in->op) {
    case OP_rsqrt:
        *q = 1 / sqrt(x);
        return true;
    case OP_ex2:
        *q = exp2(x);
        return true;
    case OP_lg2:
        *q = log2(x);
        return true;
    case OP_sin:
        *q = sin(x);
        return true;
    case OP_cos:
        *q = cos(x);
        return true;
    case OP_tanh:
        *q = tanh(x);
        return true;
    default:
        return false;
    }
}

static bool real_lane(const emu_inst *in, int t, lane *n) {
    double a[4] = {0}, q;
    for (int i = 1; i < 4; i++) {
        a[i] = emu_real(n->v[i], t);
        if (in->ftz && t == T_F32) a[i] = (double)emu_flush((float)a[i]);
    }
    if (!real_op(in, a[1], a[2], a[3], &q) && !approx_op(in, a[1], &q)) return false;
    if (in->sat) q = q > 0 ? (q > 1 ? 1 : q) : 0;
    n->r = emu_real_bits(q, t, in->ftz);
    return true;
}

static bool packed_lane(const emu_inst *in, lane *n) {
    int t = in->type == T_F16X2 ? T_F16 : T_BF16;
    uint64_t out = 0;
    for (int h = 0; h < 2; h++) {
        lane half = {{0}, 0};
        for (int i = 1; i < 4; i++) half.v[i] = (uint16_t)(n->v[i] >> 16 * h);
        if (!real_lane(in, t, &half)) return false;
        out |= half.r << 16 * h;
    }
    n->r = out;
    return true;
}

static uint64_t high(const lane *n, int bits, bool sg) {
    if (bits < 64)
        return sg ? (uint64_t)((int64_t)n->v[1] * (int64_t)n->v[2] >> bits)
                  : n->v[1] * n->v[2] >> bits;
    return sg ? (uint64_t)((__int128)(int64_t)n->v[1] * (int64_t)n->v[2] >> 64)
              : (uint64_t)((unsigned __int128)n->v[1] * n->v[2] >> 64);
}

static bool int_arithmetic(const emu_inst *in, int bits, bool sg, lane *n) {
    int64_t a = (int64_t)n->v[1], b = (int64_t)n->v[2];
    switch (in->op) {
    case OP_add:
        n->r = n->v[1] + n->v[2];
        return true;
    case OP_sub:
        n->r = n->v[1] - n->v[2];
        return true;
    case OP_mul:
        n->r = in->mode == M_HI ? high(n, bits, sg) : n->v[1] * n->v[2];
        return true;
    case OP_mad:
        n->r = (in->mode == M_HI ? high(n, bits, sg) : n->v[1] * n->v[2]) + n->v[3];
        return true;
    case OP_div:
    case OP_rem:
        if (!b || (sg && b == -1 && a == INT64_MIN)) return false;
        if (in->op == OP_div)
            n->r = sg ? (uint64_t)(a / b) : n->v[1] / n->v[2];
        else
            n->r = sg ? (uint64_t)(a % b) : n->v[1] % n->v[2];
        return true;
    case OP_min:
        n->r = (sg ? a < b : n->v[1] < n->v[2]) ? n->v[1] : n->v[2];
        return true;
    case OP_max:
        n->r = (sg ? a > b : n->v[1] > n->v[2]) ? n->v[1] : n->v[2];
        return true;
    case OP_neg:
        n->r = 0 - n->v[1];
        return true;
    case OP_abs:
        n->r = a < 0 ? 0 - n->v[1] : n->v[1];
        return true;
    default:
        return false;
    }
}

static uint64_t field(const lane *n, int bits, bool sg) { /* bfe */
    uint32_t at = n->v[2] & 255, len = n->v[3] & 255;
    bool minus = sg && (int64_t)n->v[1] < 0;
    uint64_t v = at >= (uint32_t)bits ? (minus ? ~0ull : 0)
                 : sg                 ? (uint64_t)((int64_t)n->v[1] >> at)
                                      : n->v[1] >> at;
    if (len >= 64) return v;
    uint64_t low = v & ((1ull << len) - 1);
    return sg && len && v >> (len - 1) & 1 ? low | ~0ull << len : low;
}

static uint64_t insert(const lane *n) { /* bfi */
    uint32_t at = n->v[3] & 255, len = n->v[4] & 255;
    uint64_t mask = len >= 64 ? ~0ull : (1ull << len) - 1;
    if (at >= 64) return n->v[2];
    return (n->v[2] & ~(mask << at)) | ((n->v[1] & mask) << at);
}

static uint64_t permute(const lane *n) {
    uint64_t both = (n->v[1] & 0xffffffffu) | n->v[2] << 32, r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t s = (uint32_t)(n->v[3] >> 4 * i) & 15;
        uint64_t byte = both >> 8 * (s & 7) & 255;
        if (s & 8) byte = byte & 0x80 ? 255 : 0;
        r |= byte << 8 * i;
    }
    return r;
}

static uint64_t funnel(const emu_inst *in, const lane *n) {
    uint64_t both = (n->v[1] & 0xffffffffu) | n->v[2] << 32;
    uint32_t by = (uint32_t)n->v[3];
    by = in->wrap ? by & 31 : by > 32 ? 32 : by;
    return (in->mode == SHF_RIGHT ? both >> by : both << by >> 32) & 0xffffffffu;
}

static uint64_t lookup(const lane *n) { /* lop3 */
    uint64_t r = 0;
    for (int i = 0; i < 32; i++) {
        int at =
            (int)(n->v[1] >> i & 1) << 2 | (int)(n->v[2] >> i & 1) << 1 | (int)(n->v[3] >> i & 1);
        r |= (n->v[4] >> at & 1) << i;
    }
    return r;
}

static bool bit_op(const emu_inst *in, int bits, bool sg, lane *n) {
    uint32_t by = (uint32_t)n->v[2], most = (uint32_t)bits;
    switch (in->op) {
    case OP_and:
        return n->r = n->v[1] & n->v[2], true;
    case OP_or:
        return n->r = n->v[1] | n->v[2], true;
    case OP_xor:
        return n->r = n->v[1] ^ n->v[2], true;
    case OP_not:
        return n->r = ~n->v[1], true;
    case OP_shl:
        return n->r = by >= most ? 0 : n->v[1] << by, true;
    case OP_shr:
        if (sg)
            n->r = (uint64_t)((int64_t)n->v[1] >> (by >= most ? most - 1 : by));
        else
            n->r = by >= most ? 0 : n->v[1] >> by;
        return true;
    case OP_popc:
        return n->r = (uint64_t)__builtin_popcountll(n->v[1]), true;
    case OP_clz:
        n->r = n->v[1] ? (uint64_t)(__builtin_clzll(n->v[1]) - (64 - bits)) : (uint64_t)bits;
        return true;
    case OP_brev:
        n->r = 0;
        for (int i = 0; i < bits; i++) n->r |= (n->v[1] >> i & 1) << (bits - 1 - i);
        return true;
    case OP_bfe:
        return n->r = field(n, bits, sg), true;
    case OP_bfi:
        return n->r = insert(n), true;
    case OP_prmt:
        return n->r = permute(n), true;
    case OP_shf:
        return n->r = funnel(in, n), true;
    case OP_lop3:
        return n->r = lookup(n), true;
    default:
        return false;
    }
}

/* Type of operand i (from 1): shift counts and fields are 32 bits, mad.wide adds 64. */
static int operand_type(const emu_inst *in, int i) {
    bool count = (i == 2 && (in->op == OP_shl || in->op == OP_shr)) ||
                 (i >= 2 && in->op == OP_bfe) || (i >= 3 && in->op == OP_bfi);
    if (count) return T_U32;
    if (i == 3 && in->op == OP_mad && in->mode == M_WIDE) return T_U64;
    return in->type;
}

emu_outcome emu_alu(emu_ctx *x) {
    const emu_inst *in = x->in;
    int t = in->type, bits = emu_type_bytes((emu_type)t) * 8;
    bool sg = emu_is_signed(t);
    FOR_LANES(l, x->m) {
        lane n = {{0}, 0};
        bool ok;
        for (int g = 1; g < in->groups && g < 5; g++)
            n.v[g] = emu_extend(emu_get_lane(x, emu_arg(x, g), l), operand_type(in, g));
        if (t == T_F16X2 || t == T_BF16X2)
            ok = packed_lane(in, &n);
        else if (emu_is_float(t))
            ok = real_lane(in, t, &n);
        else
            ok = int_arithmetic(in, bits, sg, &n) || bit_op(in, bits, sg, &n);
        if (!ok)
            return emu_fault(x, l, E_LAUNCH_FAILURE,
                             "operation %d on type %d: not emulated, or a division by zero", in->op,
                             t);
        if (bits == 16 && in->mode != M_WIDE) n.r &= 0xffff;
        emu_set_lane(x, in->o[0], l, n.r);
    }
    return EMU_NEXT;
}

/* ---- predicates, selection, moves ---- */

static bool compare_real(int c, double a, double b) {
    bool unordered = a != a || b != b;
    if (c == C_NUM || c == C_NAN) return unordered == (c == C_NAN);
    if (unordered) return c >= C_EQU;
    switch (c >= C_EQU ? c - C_EQU + C_EQ : c) {
    case C_EQ:
        return a == b;
    case C_NE:
        return a != b;
    case C_LT:
        return a < b;
    case C_LE:
        return a <= b;
    case C_GT:
        return a > b;
    default:
        return a >= b;
    }
}

static bool compare_int(int c, uint64_t a, uint64_t b, bool sg) {
    bool less = sg ? (int64_t)a < (int64_t)b : a < b;
    switch (c) {
    case C_EQ:
        return a == b;
    case C_NE:
        return a != b;
    case C_LT:
        return less;
    case C_LE:
        return less || a == b;
    case C_GT:
        return !less && a != b;
    default:
        return !less;
    }
}

/* A bit for each of 32 bytes that are 0 or 1. */
static uint32_t bits_of(const uint8_t y[32]) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t v;
        memcpy(&v, y + 8 * i, 8);
        bits |= (uint32_t)(v * 0x0102040810204080ull >> 56) << 8 * i;
    }
    return bits;
}

/* Integers and f32, all lanes; false: not one of these.  16 bits lie in a register of 32. */
#define COMPARE(type, word)                                                                        \
    {                                                                                              \
        const word *a = (const word *)(void *)emu_r32(x, emu_arg(x, 1));                           \
        const word *b = (const word *)(void *)emu_r32(x, emu_arg(x, 2));                           \
        for (int l = 0; l < 32; l++) {                                                             \
            type u = (type)a[l], v = (type)b[l];                                                   \
            bool less = u<v, same = u == v, more = u> v;                                           \
            y[l] = (less & if_less) | (same & if_same) | (more & if_more) |                        \
                   (!(less | same | more) & if_none);                                              \
        }                                                                                          \
        break;                                                                                     \
    }
static bool compare_fast(const emu_ctx *x, uint32_t *yes) {
    /* What each comparison holds for: less 1, same 2, more 4, not ordered 8. */
    static const uint8_t holds[] = {
        [C_EQ] = 2,   [C_NE] = 5,   [C_LT] = 1,   [C_LE] = 3,  [C_GT] = 4,
        [C_GE] = 6,   [C_EQU] = 10, [C_NEU] = 13, [C_LTU] = 9, [C_LEU] = 11,
        [C_GTU] = 12, [C_GEU] = 14, [C_NUM] = 7,  [C_NAN] = 8};
    const uint8_t h = holds[x->in->cmp];
    const bool if_less = h & 1, if_same = h >> 1 & 1, if_more = h >> 2 & 1, if_none = h >> 3;
    uint8_t y[32];
    switch (x->in->type) {
    case T_S16:
        COMPARE(int16_t, uint32_t)
    case T_U16:
    case T_B16:
        COMPARE(uint16_t, uint32_t)
    case T_S32:
        COMPARE(int32_t, int32_t)
    case T_U32:
    case T_B32:
        COMPARE(uint32_t, uint32_t)
    case T_S64:
        COMPARE(int64_t, int64_t)
    case T_U64:
    case T_B64:
        COMPARE(uint64_t, uint64_t)
    case T_F32:
        COMPARE(float, float)
    default:
        return false;
    }
    *yes = bits_of(y);
    return true;
}

emu_outcome emu_setp(emu_ctx *x) {
    const emu_inst *in = x->in;
    int t = in->type;
    uint32_t yes = 0;
    if (t == T_F16X2 || t == T_BF16X2)
        return emu_fault(x, 0, E_LAUNCH_FAILURE, "setp of packed halves is not emulated");
    uint32_t rest = compare_fast(x, &yes) ? 0 : x->m;
    FOR_LANES(l, rest) {
        uint64_t a = emu_extend(emu_get_lane(x, emu_arg(x, 1), l), t);
        uint64_t b = emu_extend(emu_get_lane(x, emu_arg(x, 2), l), t);
        bool r = emu_is_float(t) ? compare_real(in->cmp, emu_real(a, t), emu_real(b, t))
                                 : compare_int(in->cmp, a, b, emu_is_signed(t));
        yes |= (uint32_t)r << l;
    }
    uint32_t no = ~yes, with = in->combine ? emu_pred(x, emu_arg(x, 3)) : 0;
    if (in->combine == BOOL_AND) {
        yes &= with;
        no &= with;
    } else if (in->combine == BOOL_OR) {
        yes |= with;
        no |= with;
    } else if (in->combine == BOOL_XOR) {
        yes ^= with;
        no ^= with;
    }
    emu_set_pred(x, in->o[0], yes);
    if (in->g[0].n == 2) emu_set_pred(x, in->o[1], no);
    return EMU_NEXT;
}

emu_outcome emu_logic(emu_ctx *x) {
    const emu_inst *in = x->in;
    if (in->type != T_PRED) return emu_alu(x);
    uint32_t a = emu_pred(x, in->o[1]), b = in->groups > 2 ? emu_pred(x, in->o[2]) : 0;
    emu_set_pred(x, in->o[0],
                 in->op == OP_and   ? a & b
                 : in->op == OP_or  ? a | b
                 : in->op == OP_xor ? a ^ b
                                    : ~a);
    return EMU_NEXT;
}

emu_outcome emu_selp(emu_ctx *x) {
    uint32_t p = emu_pred(x, emu_arg(x, 3));
    emu_operand to = x->in->o[0], yes = emu_arg(x, 1), no = emu_arg(x, 2);
    if (to.wide || yes.wide || no.wide) {
        FOR_LANES(l, x->m)
        emu_set_lane(x, to, l, emu_get_lane(x, p >> l & 1 ? yes : no, l));
        return EMU_NEXT;
    }
    uint32_t *d = emu_r32(x, to);
    const uint32_t *a = emu_r32(x, yes), *b = emu_r32(x, no);
    for (int l = 0; l < 32; l++) d[l] = x->m >> l & 1 ? (p >> l & 1 ? a[l] : b[l]) : d[l];
    return EMU_NEXT;
}

/* Two registers made of the halves of one. */
static emu_outcome halves_of(emu_ctx *x) {
    const emu_inst *in = x->in;
    const uint32_t *from = emu_r32(x, in->o[in->g[1].first]);
    const uint64_t *wide = emu_r64(x, in->o[in->g[1].first]);
    for (int i = 0; i < 2; i++) {
        uint32_t *d = emu_r32(x, in->o[i]);
        if (in->o[i].sink) continue;
        if (emu_type_bytes((emu_type)in->type) == 8)
            for (int l = 0; l < 32; l++)
                d[l] = x->m >> l & 1 ? (uint32_t)(wide[l] >> 32 * i) : d[l];
        else
            for (int l = 0; l < 32; l++) d[l] = x->m >> l & 1 ? from[l] >> 16 * i & 0xffff : d[l];
    }
    return EMU_NEXT;
}

/* One register made of two halves. */
static emu_outcome of_halves(emu_ctx *x) {
    const emu_inst *in = x->in;
    const uint32_t *low = emu_r32(x, in->o[1]), *high = emu_r32(x, in->o[2]);
    uint32_t *d = emu_r32(x, in->o[0]);
    uint64_t *wide = emu_r64(x, in->o[0]);
    if (emu_type_bytes((emu_type)in->type) == 8)
        for (int l = 0; l < 32; l++)
            wide[l] = x->m >> l & 1 ? low[l] | (uint64_t)high[l] << 32 : wide[l];
    else
        for (int l = 0; l < 32; l++)
            d[l] = x->m >> l & 1 ? (low[l] & 0xffff) | high[l] << 16 : d[l];
    return EMU_NEXT;
}

emu_outcome emu_mov(emu_ctx *x) { /* what emu_fast_alu left: predicates, packing, widths */
    const emu_inst *in = x->in;
    int bits = emu_type_bytes((emu_type)in->type) * 8, n;
    if (in->type == T_PRED) {
        emu_set_pred(x, in->o[0], emu_pred(x, in->o[1]));
        return EMU_NEXT;
    }
    bool unpack = in->g[0].kind == K_VEC, pack = in->g[1].kind == K_VEC;
    n = unpack ? in->g[0].n : pack ? in->g[1].n : 1;
    int each = bits / n;
    if (n == 2 && each >= 16 && !(unpack && pack)) return unpack ? halves_of(x) : of_halves(x);
    uint64_t mask = each == 64 ? ~0ull : (1ull << each) - 1;
    FOR_LANES(l, x->m) {
        uint64_t v = emu_get_lane(x, emu_arg(x, 1), l), packed = 0;
        for (int i = 0; i < n && unpack; i++) emu_set_lane(x, in->o[i], l, v >> each * i & mask);
        for (int i = 0; i < n && pack; i++)
            packed |= (emu_get_lane(x, in->o[1 + i], l) & mask) << each * i;
        if (!unpack) emu_set_lane(x, in->o[0], l, pack ? packed : v & mask);
    }
    return EMU_NEXT;
}

emu_outcome emu_cvta(emu_ctx *x) { /* .to: generic -> offset; without: back */
    int space = x->in->space;
    uint64_t base = space == SP_SHARED ? SHARED_BASE : space == SP_LOCAL ? LOCAL_BASE : 0;
    if (!base && x->m == ALL_LANES && x->in->o[0].wide && x->in->o[1].wide) {
        memcpy(emu_r64(x, x->in->o[0]), emu_r64(x, x->in->o[1]), 32 * sizeof(uint64_t));
        return EMU_NEXT;
    }
    FOR_LANES(l, x->m) {
        uint64_t v = emu_get_lane(x, x->in->o[1], l);
        if (x->in->mode && base) v &= 0xffffffffu;
        emu_set_lane(x, x->in->o[0], l, x->in->mode ? v : v | base);
    }
    return EMU_NEXT;
}
