/* The instructions of PTX: name, modifiers, operands. */
#include "ptx.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "settings.h"

/* Modifiers that an opcode may have beside types; any other stops the emulator.  Rounding other
 * than to nearest is known for fma.rm.f32 only, which expf uses. */
#define MEMORY                                                                                     \
    " global shared shared::cta local param const nc volatile relaxed acquire release weak cta "   \
    "gpu sys v2 v4 v8 ca cg cs lu cv wb wt L1::no_allocate L1::evict_first L1::evict_last "        \
    "L2::64B L2::128B L2::256B "
#define ATOMIC                                                                                     \
    " global shared shared::cta add min max and or xor exch cas inc dec relaxed acquire release "  \
    "acq_rel cta gpu sys "
static const struct {
    emu_op op;
    const char *modifiers;
} allowed[] = {
    {OP_mov, ""},
    {OP_add, " rn ftz sat "},
    {OP_sub, " rn ftz sat "},
    {OP_mul, " lo hi wide rn ftz sat "},
    {OP_mad, " lo hi wide rn ftz sat "},
    {OP_fma, " rn rm ftz sat "},
    {OP_div, " rn full approx ftz "},
    {OP_rem, ""},
    {OP_min, " ftz NaN "},
    {OP_max, " ftz NaN "},
    {OP_neg, " ftz "},
    {OP_abs, " ftz "},
    {OP_and, ""},
    {OP_or, ""},
    {OP_xor, ""},
    {OP_not, ""},
    {OP_shl, ""},
    {OP_shr, ""},
    {OP_bfi, ""},
    {OP_bfe, ""},
    {OP_prmt, ""},
    {OP_shf, " l r wrap clamp "},
    {OP_popc, ""},
    {OP_clz, ""},
    {OP_brev, ""},
    {OP_selp, ""},
    {OP_setp, " eq ne lt le gt ge equ neu ltu leu gtu geu num nan lo ls hi hs and or xor ftz "},
    {OP_cvt, " rn rz rni rzi rmi rpi ftz sat satfinite "},
    {OP_cvta, " to global shared shared::cta local "},
    {OP_ld, MEMORY},
    {OP_st, MEMORY},
    {OP_atom, ATOMIC},
    {OP_red, ATOMIC},
    {OP_bar, " sync warp cta "},
    {OP_barrier, " sync cta aligned "},
    {OP_membar, " gl cta sys "},
    {OP_fence, " acq_rel sc cta gpu sys "},
    {OP_shfl, " sync up down bfly idx "},
    {OP_vote, " sync all any uni ballot "},
    {OP_activemask, ""},
    {OP_redux, " sync add min max and or xor "},
    {OP_mma, " sync aligned row col m16n8k16 m16n8k32 m16n8k64 sp::ordered_metadata "},
    {OP_ldmatrix, " sync aligned m8n8 x1 x2 x4 trans shared shared::cta "},
    {OP_cp, " async cg ca shared shared::cta global L2::64B L2::128B L2::256B commit_group "
            "wait_group wait_all "},
    {OP_griddepcontrol, " wait launch_dependents "},
    {OP_ret, " uni "},
    {OP_exit, ""},
    {OP_bra, " uni "},
    {OP_trap, ""},
    {OP_rcp, " rn approx ftz "},
    {OP_sqrt, " rn approx ftz "},
    {OP_rsqrt, " approx ftz "},
    {OP_ex2, " approx ftz "},
    {OP_lg2, " approx ftz "},
    {OP_sin, " approx ftz "},
    {OP_cos, " approx ftz "},
    {OP_tanh, " approx "},
    {OP_copysign, ""},
    {OP_lop3, ""},
    {OP_prefetch, " global L1 L2 "},
};

static const char *const op_names[] = {"?",
#define X(name) #name,
                                       EMU_OPS(X)
#undef X
};

static int find(const char *const list[], int n, const char *s) {
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i], s)) return i;
    return -1;
}
#define FIND(list, s) find(list, (int)(sizeof(list) / sizeof(list[0])), s)

static void check_modifier(const emu_parser *p, const emu_inst *in, const char *token,
                           const char *word) {
    char spaced[64];
    snprintf(spaced, sizeof(spaced), " %s ", token);
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        if (allowed[i].op == in->op && strstr(allowed[i].modifiers, spaced)) return;
    emu_parse_stop(p, "modifier that is not emulated", word);
}

static void set_type(emu_inst *in, emu_type t) {
    if (in->op == OP_mma) { /* d, a, b, c */
        if (!in->type2)
            in->type2 = (uint8_t)t;
        else if (!in->type)
            in->type = (uint8_t)t;
        else if (t != in->type && t != in->type2)
            in->mode = 1; /* mixed inputs: the handler refuses */
        return;
    }
    in->type2 = in->type; /* cvt.destination.source */
    in->type = (uint8_t)t;
}

/* Modifiers that mean the same for every opcode that may have them. */
static bool common_modifier(emu_inst *in, const char *s) {
    static const char *const spaces[] = {"", "global", "shared", "local", "param", "const"};
    static const char *const rounds[] = {"", "rn", "rz", "rm", "rni", "rzi", "rmi", "rpi"};
    int i;
    if (!strcmp(s, "shared::cta")) s = "shared";
    if ((i = FIND(spaces, s)) > 0)
        in->space = (uint8_t)i;
    else if ((i = FIND(rounds, s)) > 0)
        in->rnd = (uint8_t)i;
    else if (s[0] == 'v' && isdigit((unsigned char)s[1]) && !s[2])
        in->vec = (uint8_t)(s[1] - '0');
    else if (!strcmp(s, "ftz"))
        in->ftz = true;
    else if (!strcmp(s, "sat") || !strcmp(s, "satfinite"))
        in->sat = true;
    else if (!strcmp(s, "NaN"))
        in->nan = true;
    else if (!strcmp(s, "wide"))
        in->mode = M_WIDE;
    else if (!strcmp(s, "to"))
        in->mode = 1;
    else if (!strcmp(s, "wrap"))
        in->wrap = true;
    else if (!strcmp(s, "aligned"))
        in->aligned = true;
    else if (!strcmp(s, "trans"))
        in->trans = true;
    else if (!strcmp(s, "sp::ordered_metadata"))
        in->sparse = true;
    else
        return false;
    return true;
}

static void setp_modifier(emu_inst *in, const char *s) {
    static const char *const compare[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                          "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    static const char *const unsigneds[] = {"lo", "ls", "hi", "hs"};
    static const char *const bools[] = {"", "and", "or", "xor"};
    int i;
    if ((i = FIND(compare, s)) >= 0)
        in->cmp = (uint8_t)i;
    else if ((i = FIND(unsigneds, s)) >= 0)
        in->cmp = (uint8_t)(C_LT + i);
    else if ((i = FIND(bools, s)) > 0)
        in->combine = (uint8_t)i;
}

static void modifier(emu_inst *in, const char *s) {
    static const char *const shuffles[] = {"bfly", "down", "up", "idx"};
    static const char *const atomics[] = {"add", "min",  "max", "and", "or",
                                          "xor", "exch", "cas", "inc", "dec"};
    static const char *const votes[] = {"all", "any", "uni", "ballot"};
    static const char *const copies[] = {"", "commit_group", "wait_group", "wait_all"};
    int i = -1, m, n, k;
    if (in->op != OP_vote && common_modifier(in, s)) return;
    switch (in->op) {
    case OP_setp:
        setp_modifier(in, s);
        return;
    case OP_mul:
    case OP_mad:
        in->mode = !strcmp(s, "hi") ? M_HI : !strcmp(s, "lo") ? M_LO : in->mode;
        return;
    case OP_shfl:
        i = FIND(shuffles, s);
        break;
    case OP_atom:
    case OP_red:
    case OP_redux:
        i = FIND(atomics, s);
        break;
    case OP_vote:
        i = FIND(votes, s);
        break;
    case OP_bar:
        i = !strcmp(s, "warp") ? BAR_WARP : -1;
        break;
    case OP_cp:
        i = FIND(copies, s);
        break;
    case OP_shf:
        i = !strcmp(s, "r") ? SHF_RIGHT : !strcmp(s, "l") ? SHF_LEFT : -1;
        break;
    case OP_mma:
        if (sscanf(s, "m%dn%dk%d", &m, &n, &k) == 3) {
            in->m = (uint8_t)m;
            in->n = (uint8_t)n;
            in->k = (uint8_t)k;
        }
        return;
    case OP_ldmatrix:
        if (s[0] == 'x') in->num = (uint8_t)(s[1] - '0');
        return;
    default:
        return;
    }
    if (i >= 0) in->mode = (uint8_t)i;
}

/* ---- operands ---- */

static emu_operand constant(emu_parser *p, uint64_t v, bool wide) {
    emu_kernel *k = p->k;
    emu_operand o = {.slot = k->n_pool, .wide = wide, .pooled = true};
    while (k->n_pool + 2 > p->cap_pool) k->pool = emu_grow(k->pool, p->cap_pool, &p->cap_pool, 128);
    for (int i = 0; i < 32; i++) {
        if (wide)
            memcpy(k->pool + 32 * k->n_pool + 2 * i, &v, 8);
        else
            k->pool[32 * k->n_pool + i] = (uint32_t)v;
    }
    k->n_pool += wide ? 2 : 1;
    return o;
}

static int special(emu_parser *p, const char *s) {
    static const char *const names[N_SPECIAL] = {
        "%tid.x",       "%tid.y",       "%tid.z",       "%ntid.x",      "%ntid.y",
        "%ntid.z",      "%ctaid.x",     "%ctaid.y",     "%ctaid.z",     "%nctaid.x",
        "%nctaid.y",    "%nctaid.z",    "%laneid",      "%warpid",      "%lanemask_lt",
        "%lanemask_le", "%lanemask_eq", "%lanemask_gt", "%lanemask_ge", "%dynamic_smem_size"};
    int i = find(names, N_SPECIAL, s);
    if (i < 0) return -1;
    if (p->k->special[i] < 0) p->k->special[i] = p->k->n_slots++;
    return p->k->special[i];
}

static emu_operand immediate(emu_parser *p, emu_type t, bool negative) {
    bool wide = emu_type_bytes(t) == 8, decimal = false;
    char *end;
    uint64_t v;
    if (p->p[0] == '0' && (p->p[1] == 'f' || p->p[1] == 'F')) {
        v = strtoull(p->p + 2, &end, 16) ^ (negative ? 0x80000000u : 0);
        p->p = end;
        return constant(p, v, false);
    }
    if (p->p[0] == '0' && (p->p[1] == 'd' || p->p[1] == 'D')) {
        v = strtoull(p->p + 2, &end, 16) ^ (negative ? 1ull << 63 : 0);
        p->p = end;
        return constant(p, v, true);
    }
    v = strtoull(p->p, &end, 0);
    decimal = *end == '.' || *end == 'e';
    if (decimal) emu_parse_stop(p, "decimal real number", p->p);
    p->p = end;
    if (*p->p == 'U') p->p++;
    return constant(p, negative ? 0 - v : v, wide);
}

static emu_operand operand(emu_parser *p, emu_type t) {
    char b[256];
    int slot;
    emu_skip(p);
    if (p->p[0] == '_' && !emu_ident_char(p->p[1])) {
        p->p++;
        return (emu_operand){.sink = true};
    }
    bool negative = emu_eat(p, '-');
    if (isdigit((unsigned char)*p->p)) return immediate(p, t, negative);
    if (negative) emu_parse_stop(p, "operand", p->p);
    emu_ident(p, b, sizeof(b));
    if (*p->p == '.' && b[0] == '%') {
        size_t n = strlen(b);
        snprintf(b + n, sizeof(b) - n, ".%c", p->p[1]);
        p->p += 2;
    }
    emu_reg *r = emu_find_reg(p, b, &slot);
    if (r) return (emu_operand){.slot = slot, .wide = emu_type_bytes(r->type) == 8};
    if ((slot = special(p, b)) >= 0) return (emu_operand){.slot = slot};
    emu_var *v = emu_find_var(p, b);
    /* Dynamic shared memory begins after the declared one; exec.c knows where that ends. */
    if (v && v->space == SP_SHARED && v->external)
        return constant(p, (p->k->shared_bytes + 127u) / 128 * 128, emu_type_bytes(t) == 8);
    if (v) return constant(p, v->addr, emu_type_bytes(t) == 8);
    for (int i = 0; i < p->k->n_params; i++)
        if (!strcmp(p->k->params[i].name, b)) return constant(p, p->k->params[i].off, true);
    emu_parse_stop(p, "unknown operand", b);
}

/* Width of an immediate at operand `index` (from 1) of in. */
static emu_type immediate_type(const emu_inst *in, int index) {
    switch (in->op) {
    case OP_mad:
        return in->mode == M_WIDE && index == 4 ? T_B64 : (emu_type)in->type;
    case OP_shfl:
    case OP_bar:
    case OP_barrier:
    case OP_cp:
    case OP_vote:
    case OP_mma:
        return T_B32;
    case OP_shl:
    case OP_shr:
        return index == 3 ? T_B32 : (emu_type)in->type;
    case OP_bfe:
        return index >= 3 ? T_B32 : (emu_type)in->type;
    case OP_bfi:
        return index >= 4 ? T_B32 : (emu_type)in->type;
    case OP_cvt:
        return index == 1 ? (emu_type)in->type2 : (emu_type)in->type;
    default:
        return (emu_type)in->type;
    }
}

static void one_operand(emu_parser *p, emu_inst *in, emu_group *g, int *n, emu_type t) {
    if (emu_eat(p, '{')) {
        g->kind = K_VEC;
        g->n = 0;
        do {
            in->o[(*n)++] = operand(p, t);
            g->n++;
        } while (emu_eat(p, ','));
        emu_need(p, '}');
        return;
    }
    if (emu_eat(p, '[')) {
        g->kind = K_MEM;
        in->o[(*n)++] = operand(p, T_B64);
        emu_eat(p, '+');
        emu_skip(p);
        char *end;
        g->off = strtoll(p->p, &end, 0);
        p->p = end;
        emu_need(p, ']');
        return;
    }
    bool negated = emu_eat(p, '!');
    in->o[*n] = operand(p, t);
    in->o[*n].negated = negated;
    g->kind = in->o[*n].pooled ? K_CONST : K_REG;
    (*n)++;
    if (emu_eat(p, '|')) {
        in->o[(*n)++] = operand(p, T_PRED);
        g->n = 2;
    }
}

static void add_jump(emu_parser *p) {
    p->jump = emu_grow(p->jump, p->n_jump, &p->cap_jump, sizeof(*p->jump));
    p->jump[p->n_jump].at = p->k->n;
    emu_ident(p, p->jump[p->n_jump++].name, sizeof(p->jump[0].name));
}

void emu_parse_inst(emu_parser *p, emu_inst *in, const char *word) {
    char copy[200], *save = NULL;
    int n = 0;
    snprintf(copy, sizeof(copy), "%s", word);
    char *token = strtok_r(copy, ".", &save);
    int op = find(op_names, OP_COUNT, token);
    if (op <= 0) emu_parse_stop(p, "opcode that is not emulated", word);
    in->op = (uint8_t)op;
    while ((token = strtok_r(NULL, ".", &save))) {
        emu_type t = emu_type_named(token);
        if (t)
            set_type(in, t);
        else {
            check_modifier(p, in, token, word);
            modifier(in, token);
        }
    }
    emu_skip(p);
    while (*p->p != ';') {
        if (in->groups == MAX_GROUPS || n > MAX_OPERANDS - 8)
            emu_parse_stop(p, "too many operands", word);
        emu_group *g = &in->g[in->groups++];
        g->first = (uint8_t)n;
        g->n = 1;
        if (in->op == OP_bra) {
            g->kind = K_LABEL;
            add_jump(p);
        } else
            one_operand(p, in, g, &n, immediate_type(in, in->groups));
        if (!emu_eat(p, ',')) break;
    }
    emu_need(p, ';');
}
