/* ptx.h - PTX as nvcc writes it: parsed once a device and module, then run by exec.c.
 *
 * What the parser does not know it refuses: an opcode, a modifier, a directive, a register
 * type.  A pair of opcode and type that no handler knows is refused when it is executed. */
#ifndef EMU_PTX_H
#define EMU_PTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum emu_type {
    T_NONE,
    T_PRED,
    T_B8,
    T_U8,
    T_S8,
    T_B16,
    T_U16,
    T_S16,
    T_F16,
    T_BF16,
    T_B32,
    T_U32,
    T_S32,
    T_F32,
    T_F16X2,
    T_BF16X2,
    T_E4M3X2,
    T_B64,
    T_U64,
    T_S64,
    T_F64,
    T_B128,
    T_E4M3,
} emu_type;

extern const uint8_t emu_type_sizes[]; /* ptx_parse.c */
static inline int emu_type_bytes(emu_type t) {
    return emu_type_sizes[t];
}

typedef enum emu_space {
    SP_GENERIC,
    SP_GLOBAL,
    SP_SHARED,
    SP_LOCAL,
    SP_PARAM,
    SP_CONST,
} emu_space;

/* clang-format off */
#define EMU_OPS(X)                                                                              \
    X(mov) X(add) X(sub) X(mul) X(mad) X(fma) X(div) X(rem) X(min) X(max) X(neg) X(abs) X(and)   \
    X(or) X(xor) X(not) X(shl) X(shr) X(bfi) X(bfe) X(prmt) X(shf) X(popc) X(clz) X(brev)        \
    X(selp) X(setp) X(cvt) X(cvta) X(ld) X(st) X(atom) X(red) X(bar) X(barrier) X(membar)        \
    X(fence) X(shfl) X(vote) X(activemask) X(redux) X(mma) X(ldmatrix) X(cp)                     \
    X(griddepcontrol) X(ret) X(exit) X(bra) X(trap) X(rcp) X(sqrt) X(rsqrt) X(ex2) X(lg2)        \
    X(sin) X(cos) X(tanh) X(copysign) X(lop3) X(prefetch)
/* clang-format on */
typedef enum emu_op {
    OP_BAD,
#define X(name) OP_##name,
    EMU_OPS(X)
#undef X
        OP_COUNT
} emu_op;

enum { C_EQ, C_NE, C_LT, C_LE, C_GT, C_GE, C_EQU, C_NEU, C_LTU, C_LEU, C_GTU, C_GEU, C_NUM, C_NAN };
enum { K_REG, K_CONST, K_MEM, K_VEC, K_LABEL };
enum { R_NONE, R_RN, R_RZ, R_RM, R_RNI, R_RZI, R_RMI, R_RPI };
enum { BOOL_NONE, BOOL_AND, BOOL_OR, BOOL_XOR };
/* emu_inst.mode: what it says depends on the opcode */
enum { M_LO = 1, M_HI, M_WIDE };
enum { SHFL_BFLY, SHFL_DOWN, SHFL_UP, SHFL_IDX };
enum { A_ADD, A_MIN, A_MAX, A_AND, A_OR, A_XOR, A_EXCH, A_CAS, A_INC, A_DEC };
enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };
enum { CP_COPY, CP_COMMIT, CP_WAIT, CP_WAIT_ALL };
enum { BAR_BLOCK, BAR_WARP };
enum { SHF_LEFT, SHF_RIGHT };

/* A slot is 32 lanes of 4 bytes in the register file of a warp or the constants of a kernel;
 * 8-byte values take two.  A predicate is one word of its slot, a bit a lane. */
typedef struct emu_operand {
    int32_t slot;
    bool wide;    /* 8 bytes                                                                 */
    bool pooled;  /* a constant                                                              */
    bool sink;    /* "_": no value                                                           */
    bool negated; /* "!%p"                                                                   */
} emu_operand;

typedef struct emu_group { /* one comma-separated operand: a register, {a,b}, [a+off], a|b   */
    uint8_t kind, first, n;
    int64_t off;
} emu_group;

enum { MAX_GROUPS = 8, MAX_OPERANDS = 28 };

typedef struct emu_inst emu_inst;
typedef struct emu_ctx emu_ctx;
typedef enum { EMU_NEXT, EMU_JUMPED, EMU_WAITS } emu_outcome;
typedef emu_outcome emu_handler(emu_ctx *x);

struct emu_inst {
    emu_handler *run;
    uint8_t op, type, type2; /* cvt: type2 -> is the destination; mma: type2 the accumulator */
    uint8_t space, vec, cmp, combine, rnd, mode, num, groups;
    bool ftz, sat, nan, negate, trans, sparse, wrap, aligned;
    uint8_t m, n, k;   /* mma */
    int32_t pred;      /* slot of the guard, -1: none                                         */
    int32_t target;    /* of bra                                                              */
    int32_t line;      /* in the PTX                                                          */
    int32_t file, src; /* .loc of -lineinfo                                                  */
    uint64_t hits;
    emu_group g[MAX_GROUPS];
    emu_operand o[MAX_OPERANDS];
};

typedef struct emu_param {
    char *name;
    uint32_t off, size, align;
} emu_param;

typedef struct emu_var {
    char *name;
    emu_space space;
    uint64_t addr;
    uint32_t size, align, n_init;
    uint8_t *init;
    bool external;
} emu_var;

enum {
    S_TID_X,
    S_TID_Y,
    S_TID_Z,
    S_NTID_X,
    S_NTID_Y,
    S_NTID_Z,
    S_CTAID_X,
    S_CTAID_Y,
    S_CTAID_Z,
    S_NCTAID_X,
    S_NCTAID_Y,
    S_NCTAID_Z,
    S_LANEID,
    S_WARPID,
    S_LT,
    S_LE,
    S_EQ,
    S_GT,
    S_GE,
    S_DYNAMIC_SMEM,
    N_SPECIAL
};

typedef struct emu_counts {
    uint64_t launches, inst, lane_inst; /* warp instructions; the same times active lanes     */
    uint64_t read, written;             /* bytes of global memory asked for, lane by lane     */
    uint64_t dram_read, dram_written;   /* 32 x distinct sectors of each launch, summed       */
} emu_counts;

typedef struct emu_kernel {
    char *name;
    emu_param *params;
    int n_params;
    uint32_t param_bytes;
    emu_inst *in;
    int n;
    int n_slots;    /* of the register file */
    uint32_t *pool; /* constants */
    int n_pool;
    uint32_t shared_bytes, local_bytes; /* declared in the kernel */
    int max_threads;                    /* .maxntid, 0: none */
    int special[N_SPECIAL];             /* slots, -1: not used */
    emu_counts counts;
} emu_kernel;

enum { MAX_FILES = 512 };
typedef struct emu_module {
    char *text;
    emu_kernel *k;
    int n_kernels;
    emu_var *v;
    int n_vars;
    char *files[MAX_FILES];
} emu_module;

/* The module's .global and .const variables are put into the memory of device dev. */
emu_module *emu_ptx_parse(const char *text, size_t len, int dev);
emu_kernel *emu_ptx_kernel(emu_module *m, const char *name); /* NULL: none */

/* Of all modules: "file:line hits" (a line counts as often as its hottest instruction), and
 * one line of counts for each kernel that ran; appended to the file at path. */
void emu_ptx_coverage(const char *path);
void emu_ptx_stats(const char *path);

/* ---- between ptx_parse.c and ptx_inst.c ---- */

typedef struct emu_reg { /* ".reg .f32 %f<7>;" or ".reg .pred p;" (count 0) */
    char name[64];
    int first, count, scope;
    emu_type type;
} emu_reg;

typedef struct emu_label {
    char name[200];
    int at; /* pc of a label; instruction that jumps to it */
} emu_label;

typedef struct emu_parser {
    emu_module *m;
    emu_kernel *k;
    int dev;
    const char *p, *end;
    int line, file, src, scope;
    emu_reg *reg;
    int n_reg, cap_reg;
    emu_label *label, *jump;
    int n_label, cap_label, n_jump, cap_jump, cap_in, cap_pool;
    emu_var *local; /* .shared and .local of this kernel */
    int n_local;
} emu_parser;

void emu_parse_stop(const emu_parser *p, const char *what, const char *at)
    __attribute__((noreturn));
void emu_skip(emu_parser *p);
bool emu_ident_char(char c);
bool emu_word(emu_parser *p, char *out, size_t n); /* with dots: an opcode or a directive */
bool emu_ident(emu_parser *p, char *out, size_t n);
bool emu_eat(emu_parser *p, char c);
void emu_need(emu_parser *p, char c);
emu_type emu_type_named(const char *s); /* T_NONE: no type */
emu_reg *emu_find_reg(emu_parser *p, const char *name, int *slot);
emu_var *emu_find_var(emu_parser *p, const char *name);
/* Room for one more element of an array that grows. */
void *emu_grow(void *array, int n, int *cap, size_t element);
/* Reads the operands of an instruction whose dotted name is `word`; in->pred is set. */
void emu_parse_inst(emu_parser *p, emu_inst *in, const char *word);

/* ---- exec.c ---- */
void emu_bind(emu_kernel *k); /* chooses the handler of every instruction */

#endif
