/* Declarations, labels and blocks of PTX; ptx_inst.c reads the instructions. */
#include "ptx.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "settings.h"

void emu_parse_stop(const emu_parser *p, const char *what, const char *at) {
    emu_stop("ptx line %d%s%.60s: %s: %.80s", p->line, p->k && p->k->name ? " of " : "",
             p->k && p->k->name ? p->k->name : "", what, at);
}

void *emu_grow(void *array, int n, int *cap, size_t element) {
    if (n < *cap) return array;
    *cap = *cap * 2 + 64;
    return realloc(array, element * (size_t)*cap);
}

static void copy_name(const emu_parser *p, char *out, size_t room, const char *name) {
    size_t n = strlen(name);
    if (n >= room) emu_parse_stop(p, "name too long", name);
    memcpy(out, name, n + 1);
}

static bool comment(emu_parser *p) {
    if (p->p + 1 >= p->end || p->p[0] != '/') return false;
    if (p->p[1] == '/') {
        while (p->p < p->end && *p->p != '\n') p->p++;
        return true;
    }
    if (p->p[1] != '*') return false;
    while (p->p + 1 < p->end && !(p->p[0] == '*' && p->p[1] == '/')) p->line += *p->p++ == '\n';
    p->p += 2;
    return true;
}

void emu_skip(emu_parser *p) {
    do {
        while (p->p < p->end && isspace((unsigned char)*p->p)) p->line += *p->p++ == '\n';
    } while (comment(p));
}

static void skip_to(emu_parser *p, char c) {
    while (p->p < p->end && *p->p != c) p->line += *p->p++ == '\n';
}

bool emu_ident_char(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%';
}

bool emu_word(emu_parser *p, char *out, size_t n) {
    size_t i = 0;
    emu_skip(p);
    while (p->p < p->end) {
        size_t take = emu_ident_char(*p->p) || *p->p == '.' ? 1 : 0;
        if (p->p[0] == ':' && p->p[1] == ':') take = 2;
        if (!take) break;
        for (; take; take--, p->p++)
            if (i + 1 < n) out[i++] = *p->p;
    }
    out[i] = 0;
    return i > 0;
}

bool emu_ident(emu_parser *p, char *out, size_t n) {
    size_t i = 0;
    emu_skip(p);
    for (; p->p < p->end && emu_ident_char(*p->p); p->p++)
        if (i + 1 < n) out[i++] = *p->p;
    out[i] = 0;
    return i > 0;
}

bool emu_eat(emu_parser *p, char c) {
    emu_skip(p);
    if (p->p >= p->end || *p->p != c) return false;
    p->p++;
    return true;
}

void emu_need(emu_parser *p, char c) {
    char what[] = {'n', 'e', 'e', 'd', ' ', c, 0};
    if (!emu_eat(p, c)) emu_parse_stop(p, what, p->p);
}

static uint64_t number(emu_parser *p) {
    char *end;
    emu_skip(p);
    uint64_t v = strtoull(p->p, &end, 0);
    if (end == p->p) emu_parse_stop(p, "number", p->p);
    p->p = end;
    return v;
}

emu_type emu_type_named(const char *s) {
    static const struct {
        const char *name;
        emu_type t;
    } all[] = {{"pred", T_PRED}, {"b8", T_B8},       {"u8", T_U8},         {"s8", T_S8},
               {"b16", T_B16},   {"u16", T_U16},     {"s16", T_S16},       {"f16", T_F16},
               {"bf16", T_BF16}, {"b32", T_B32},     {"u32", T_U32},       {"s32", T_S32},
               {"f32", T_F32},   {"f16x2", T_F16X2}, {"bf16x2", T_BF16X2}, {"e4m3x2", T_E4M3X2},
               {"b64", T_B64},   {"u64", T_U64},     {"s64", T_S64},       {"f64", T_F64},
               {"b128", T_B128}, {"e4m3", T_E4M3}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (!strcmp(s, all[i].name)) return all[i].t;
    return T_NONE;
}

const uint8_t emu_type_sizes[] = {
    [T_NONE] = 4, [T_PRED] = 4, [T_B8] = 1,    [T_U8] = 1,     [T_S8] = 1,     [T_B16] = 2,
    [T_U16] = 2,  [T_S16] = 2,  [T_F16] = 2,   [T_BF16] = 2,   [T_B32] = 4,    [T_U32] = 4,
    [T_S32] = 4,  [T_F32] = 4,  [T_F16X2] = 4, [T_BF16X2] = 4, [T_E4M3X2] = 2, [T_B64] = 8,
    [T_U64] = 8,  [T_S64] = 8,  [T_F64] = 8,   [T_B128] = 16,  [T_E4M3] = 1,
};

/* ---- registers and variables ---- */

static void declare_registers(emu_parser *p) {
    char b[200];
    emu_word(p, b, sizeof(b));
    emu_type t = emu_type_named(b + 1);
    if (t == T_NONE || t == T_B128) emu_parse_stop(p, "register type", b);
    do {
        emu_ident(p, b, sizeof(b));
        p->reg = emu_grow(p->reg, p->n_reg, &p->cap_reg, sizeof(*p->reg));
        emu_reg *r = &p->reg[p->n_reg++];
        *r = (emu_reg){.first = p->k->n_slots, .scope = p->scope, .type = t};
        copy_name(p, r->name, sizeof(r->name), b);
        if (emu_eat(p, '<')) {
            r->count = (int)number(p);
            emu_need(p, '>');
        }
        p->k->n_slots += (r->count ? r->count : 1) * (emu_type_bytes(t) == 8 ? 2 : 1);
    } while (emu_eat(p, ','));
    emu_need(p, ';');
}

emu_reg *emu_find_reg(emu_parser *p, const char *name, int *slot) {
    for (int i = p->n_reg - 1; i >= 0; i--) {
        emu_reg *r = &p->reg[i];
        size_t n = strlen(r->name);
        char *end;
        if (strncmp(r->name, name, n)) continue;
        if (!r->count) {
            *slot = r->first;
            if (!name[n]) return r;
        } else if (isdigit((unsigned char)name[n])) {
            long index = strtol(name + n, &end, 10);
            *slot = r->first + (int)index * (emu_type_bytes(r->type) == 8 ? 2 : 1);
            if (!*end && index < r->count) return r;
        }
    }
    return NULL;
}

emu_var *emu_find_var(emu_parser *p, const char *name) {
    for (int i = p->n_local - 1; i >= 0; i--)
        if (!strcmp(p->local[i].name, name)) return &p->local[i];
    for (int i = 0; i < p->m->n_vars; i++)
        if (!strcmp(p->m->v[i].name, name)) return &p->m->v[i];
    return NULL;
}

static void initializer(emu_parser *p, emu_var *v, int element) {
    bool list = emu_eat(p, '{');
    v->init = calloc(1, v->size + 16);
    do {
        emu_skip(p);
        if (*p->p == '}') break;
        bool negative = emu_eat(p, '-'), real = *p->p == '0' && (p->p[1] == 'f' || p->p[1] == 'F');
        char *end;
        uint64_t x = strtoull(p->p + (real ? 2 : 0), &end, real ? 16 : 0);
        if (end == p->p || v->n_init + (uint32_t)element > v->size)
            emu_parse_stop(p, "initializer", p->p);
        p->p = end;
        if (negative) x = 0 - x;
        memcpy(v->init + v->n_init, &x, (size_t)element);
        v->n_init += (uint32_t)element;
    } while (emu_eat(p, ','));
    if (list) emu_need(p, '}');
}

static uint32_t place(uint32_t *used, const emu_var *v) {
    uint32_t at = (*used + v->align - 1) / v->align * v->align;
    *used = at + v->size;
    return at;
}

static uint64_t place_global(emu_parser *p, const emu_var *v) {
    uint64_t va = emu_mem_alloc(p->dev, v->size);
    if (!va) emu_stop("device %d has no room for variable %s", p->dev, v->name);
    emu_view view = emu_mem_view(va);
    memset(view.data, 0, v->size);
    memset(view.init, 1, v->size);
    if (v->init) memcpy(view.data, v->init, v->size);
    return va;
}

static void declare_variable(emu_parser *p, emu_space space, bool external) {
    char b[256];
    emu_var v = {.space = space, .align = 1};
    emu_type t = T_NONE;
    for (emu_skip(p); *p->p == '.'; emu_skip(p)) {
        emu_word(p, b, sizeof(b));
        if (!strcmp(b, ".align"))
            v.align = (uint32_t)number(p);
        else if (!(t = emu_type_named(b + 1)))
            emu_parse_stop(p, "type of a variable", b);
    }
    emu_ident(p, b, sizeof(b));
    v.name = strdup(b);
    uint64_t n = 1;
    if (emu_eat(p, '[')) {
        emu_skip(p);
        n = *p->p == ']' ? 0 : number(p);
        emu_need(p, ']');
    }
    v.size = (uint32_t)(n * (uint64_t)emu_type_bytes(t));
    if (v.align < (uint32_t)emu_type_bytes(t)) v.align = (uint32_t)emu_type_bytes(t);
    if (emu_eat(p, '=')) initializer(p, &v, emu_type_bytes(t));
    emu_need(p, ';');
    v.external = external;
    if (space == SP_SHARED && !external && (!p->k || p->k->n))
        emu_parse_stop(p, "shared memory declared outside a kernel or after its code", v.name);
    if (space == SP_SHARED && !external)
        v.addr = place(&p->k->shared_bytes, &v);
    else if (space == SP_LOCAL)
        v.addr = place(&p->k->local_bytes, &v);
    else if (space != SP_SHARED)
        v.addr = place_global(p, &v);
    emu_var **list = p->k ? &p->local : &p->m->v;
    int *count = p->k ? &p->n_local : &p->m->n_vars;
    *list = realloc(*list, sizeof(v) * (size_t)(*count + 1));
    (*list)[(*count)++] = v;
}

/* ---- the body of a kernel ---- */

static void add_label(emu_parser *p, const char *name) {
    p->label = emu_grow(p->label, p->n_label, &p->cap_label, sizeof(*p->label));
    p->label[p->n_label].at = p->k->n;
    copy_name(p, p->label[p->n_label++].name, sizeof(p->label[0].name), name);
}

static void body_directive(emu_parser *p, const char *name) {
    if (!strcmp(name, ".reg"))
        declare_registers(p);
    else if (!strcmp(name, ".shared"))
        declare_variable(p, SP_SHARED, false);
    else if (!strcmp(name, ".local"))
        declare_variable(p, SP_LOCAL, false);
    else if (!strcmp(name, ".loc")) {
        p->file = (int)number(p);
        p->src = (int)number(p);
        skip_to(p, '\n');
    } else if (!strcmp(name, ".pragma"))
        skip_to(p, ';');
    else
        emu_parse_stop(p, "directive", name);
}

static void statement(emu_parser *p) {
    char b[300];
    int line = p->line, pred = -1;
    bool negate = false;
    if (emu_eat(p, '@')) {
        negate = emu_eat(p, '!');
        emu_ident(p, b, sizeof(b));
        if (!emu_find_reg(p, b, &pred)) emu_parse_stop(p, "guard", b);
    }
    if (!emu_word(p, b, sizeof(b))) emu_parse_stop(p, "statement", p->p);
    emu_skip(p);
    if (*p->p == ':') {
        p->p++;
        add_label(p, b);
        return;
    }
    if (b[0] == '.') {
        body_directive(p, b);
        return;
    }
    emu_kernel *k = p->k;
    k->in = emu_grow(k->in, k->n, &p->cap_in, sizeof(*k->in));
    k->in[k->n] = (emu_inst){.pred = pred,
                             .negate = negate,
                             .line = line,
                             .target = -1,
                             .vec = 1,
                             .file = p->file,
                             .src = p->src};
    emu_parse_inst(p, &k->in[k->n], b);
    k->n++;
}

static void body(emu_parser *p) {
    for (;;) {
        emu_skip(p);
        if (*p->p == '{') {
            p->p++;
            p->scope++;
        } else if (*p->p == '}') {
            p->p++;
            if (p->scope > 1)
                while (p->n_reg && p->reg[p->n_reg - 1].scope == p->scope) p->n_reg--;
            if (!--p->scope) return;
        } else if (*p->p == ';')
            p->p++;
        else
            statement(p);
    }
}

static void resolve_jumps(emu_parser *p) {
    for (int i = 0; i < p->n_jump; i++) {
        int pc = -1;
        for (int j = 0; j < p->n_label; j++)
            if (!strcmp(p->label[j].name, p->jump[i].name)) pc = p->label[j].at;
        if (pc < 0) emu_parse_stop(p, "label", p->jump[i].name);
        p->k->in[p->jump[i].at].target = pc;
    }
}

static void parameter(emu_parser *p) {
    char b[400];
    emu_param q = {0};
    emu_kernel *k = p->k;
    emu_type t = T_NONE;
    bool pointee = false; /* what follows .ptr tells of the memory it points to */
    for (emu_skip(p); *p->p == '.'; emu_skip(p)) {
        emu_word(p, b, sizeof(b));
        if (!strcmp(b, ".ptr"))
            pointee = true;
        else if (!strcmp(b, ".align"))
            *(pointee ? &q.size : &q.align) = (uint32_t)number(p);
        else if (emu_type_named(b + 1))
            t = emu_type_named(b + 1);
        else if (strcmp(b, ".param") && strcmp(b, ".global"))
            emu_parse_stop(p, "attribute of a parameter", b);
    }
    emu_ident(p, b, sizeof(b));
    q.name = strdup(b);
    q.size = (uint32_t)emu_type_bytes(t);
    if (!q.align) q.align = q.size;
    if (emu_eat(p, '[')) {
        q.size *= (uint32_t)number(p);
        emu_need(p, ']');
    }
    q.off = (k->param_bytes + q.align - 1) / q.align * q.align;
    k->param_bytes = q.off + q.size;
    k->params = realloc(k->params, sizeof(q) * (size_t)(k->n_params + 1));
    k->params[k->n_params++] = q;
    emu_eat(p, ',');
}

static void kernel_attributes(emu_parser *p) {
    char b[100];
    for (emu_skip(p); *p->p == '.'; emu_skip(p)) {
        emu_word(p, b, sizeof(b));
        int product = 1;
        do product *= (int)number(p);
        while (emu_eat(p, ','));
        if (!strcmp(b, ".maxntid"))
            p->k->max_threads = product;
        else if (strcmp(b, ".minnctapersm") && strcmp(b, ".maxnreg"))
            emu_parse_stop(p, "attribute of a kernel", b);
    }
}

static void entry(emu_parser *p) {
    char b[400];
    emu_module *m = p->m;
    m->k = realloc(m->k, sizeof(*m->k) * (size_t)(m->n_kernels + 1));
    emu_kernel *k = p->k = &m->k[m->n_kernels++];
    *k = (emu_kernel){.n_slots = 1}; /* slot 0 is never named: a default operand is harmless */
    memset(k->special, -1, sizeof(k->special));
    p->n_reg = p->n_label = p->n_jump = p->scope = p->cap_in = p->cap_pool = p->n_local = 0;
    emu_ident(p, b, sizeof(b));
    k->name = strdup(b);
    if (emu_eat(p, '('))
        while (!emu_eat(p, ')')) parameter(p);
    kernel_attributes(p);
    body(p);
    resolve_jumps(p);
    emu_bind(k);
    p->k = NULL;
}

/* ---- the module ---- */

static emu_module *modules[64];
static int n_modules;

static void file_directive(emu_parser *p) {
    int index = (int)number(p);
    while (p->p < p->end && *p->p != '"' && *p->p != '\n') p->p++;
    const char *close = *p->p == '"' ? strchr(p->p + 1, '"') : NULL;
    if (close && index < MAX_FILES)
        p->m->files[index] = strndup(p->p + 1, (size_t)(close - p->p - 1));
    skip_to(p, '\n');
}

static void module_directive(emu_parser *p, const char *name, bool external) {
    char b[256];
    if (!strcmp(name, ".version") || !strcmp(name, ".address_size"))
        emu_word(p, b, sizeof(b));
    else if (!strcmp(name, ".target"))
        do emu_word(p, b, sizeof(b));
        while (emu_eat(p, ','));
    else if (!strcmp(name, ".entry"))
        entry(p);
    else if (!strcmp(name, ".shared"))
        declare_variable(p, SP_SHARED, external);
    else if (!strcmp(name, ".global"))
        declare_variable(p, SP_GLOBAL, external);
    else if (!strcmp(name, ".const"))
        declare_variable(p, SP_CONST, external);
    else if (!strcmp(name, ".file"))
        file_directive(p);
    else if (!strcmp(name, ".section")) {
        skip_to(p, '}');
        p->p++;
    } else if (!strcmp(name, ".func"))
        emu_parse_stop(p, "device functions are outside the emulated subset (inline them)", p->p);
    else if (name[0] == '$')
        skip_to(p, '\n'); /* labels of debug sections */
    else
        emu_parse_stop(p, "directive", name);
}

emu_module *emu_ptx_parse(const char *text, size_t len, int dev) {
    emu_module *m = calloc(1, sizeof(*m));
    m->text = strndup(text, len);
    emu_parser p = {.m = m, .p = m->text, .end = m->text + strlen(m->text), .line = 1, .dev = dev};
    char b[256];
    bool external = false;
    for (;;) {
        emu_skip(&p);
        if (p.p >= p.end) break;
        if (*p.p == ';') {
            p.p++;
            continue;
        }
        if (!emu_word(&p, b, sizeof(b))) emu_parse_stop(&p, "directive", p.p);
        if (!strcmp(b, ".extern"))
            external = true;
        else if (strcmp(b, ".visible") && strcmp(b, ".weak")) {
            module_directive(&p, b, external);
            external = false;
        }
    }
    free(p.reg);
    free(p.label);
    free(p.jump);
    if (n_modules == sizeof(modules) / sizeof(modules[0])) emu_stop("more than 64 modules");
    modules[n_modules++] = m;
    return m;
}

emu_kernel *emu_ptx_kernel(emu_module *m, const char *name) {
    for (int i = 0; i < m->n_kernels; i++)
        if (!strcmp(m->k[i].name, name)) return &m->k[i];
    return NULL;
}

void emu_ptx_coverage(const char *path) {
    FILE *f = fopen(path, "a");
    if (!f) emu_stop("%s cannot be written", path);
    for (int i = 0; i < n_modules; i++) {
        emu_module *m = modules[i];
        for (int j = 0; j < m->n_kernels; j++) {
            for (int n = 0; n < m->k[j].n; n++) {
                const emu_inst *in = &m->k[j].in[n];
                const char *file = in->file < MAX_FILES ? m->files[in->file] : NULL;
                if (in->file && file) fprintf(f, "%s:%d %lu\n", file, in->src, in->hits);
            }
        }
    }
    fclose(f);
}

void emu_ptx_stats(const char *path) {
    FILE *f = fopen(path, "a");
    if (!f) emu_stop("%s cannot be written", path);
    for (int i = 0; i < n_modules; i++) {
        for (int j = 0; j < modules[i]->n_kernels; j++) {
            const emu_kernel *k = &modules[i]->k[j];
            const emu_counts *c = &k->counts;
            if (!c->launches) continue;
            fprintf(f, "%s launches %lu inst %lu lane_inst %lu read %lu written %lu ", k->name,
                    c->launches, c->inst, c->lane_inst, c->read, c->written);
            fprintf(f, "dram_read %lu dram_written %lu\n", c->dram_read, c->dram_written);
        }
    }
    fclose(f);
}
