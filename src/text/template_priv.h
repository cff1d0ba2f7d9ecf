/* template_priv.h - what the files of the template engine share; nobody else includes it.
 *
 * source -> template_lex.c -> tokens -> template_parse.c, template_expr.c -> tree
 * tree + values -> template_exec.c (statements), template_eval.c (expressions) -> text
 * with the values of template_value.c, their operators and text forms in template_ops.c and
 * template_format.c, and the built-in names in template_filters.c, template_sequence.c,
 * template_text_filters.c (with template_pprint.c), template_tests.c and template_functions.c;
 * methods of text are in template_strings.c, template_string_forms.c and template_strformat.c.
 *
 * Functions that can fail return false and leave the reason in run->err; nothing may be
 * used after that but what the caller itself must free. */
#ifndef FL_TEXT_TEMPLATE_PRIV_H
#define FL_TEXT_TEMPLATE_PRIV_H

#include "text/template.h"
#include "util/map.h"

enum {
    FL_T_MAX_SOURCE = 4 << 20,
    FL_T_MAX_TREE = 64 << 20,
    FL_T_PARSE_DEPTH = 100,
    FL_T_EVAL_DEPTH = 400,
    FL_T_MAX_RANGE = 100000, /* what Jinja's sandbox allows */
    FL_T_MAX_ARGS = 1000,
    FL_T_MAX_PARAMS = 8,
    FL_T_MAX_INDENT = 1000
};

/* ---- values ------------------------------------------------------------------------ */

typedef enum {
    FL_TV_UNDEFINED,
    FL_TV_NONE,
    FL_TV_BOOL,
    FL_TV_INT,
    FL_TV_FLOAT,
    FL_TV_STRING,
    FL_TV_LIST,
    FL_TV_TUPLE,
    FL_TV_DICT,
    FL_TV_NAMESPACE, /* a dict that `set ns.name` may change */
    FL_TV_VIEW,      /* keys(), values(), items() of a dict */
    FL_TV_RANGE,
    FL_TV_GENERATOR, /* what map, select and the like give: always true, one pass */
    FL_TV_MACRO,
    FL_TV_FUNCTION,
    FL_TV_METHOD,
    FL_TV_LOOP,
    FL_TV_BYTES,  /* what encode gives, in `string` */
    FL_TV_CYCLER, /* list->items, list->taken is the position */
    FL_TV_JOINER, /* list->items[0], list->taken once it has been called */
    FL_TV_SELF,   /* the blocks of the template */
    FL_TV_BLOCK,
    FL_TV_ABSENT /* an argument that was not given */
} fl_tv_kind;

typedef struct fl_trun fl_trun;
typedef struct fl_tnode fl_tnode;
typedef struct fl_tdict fl_tdict;
typedef struct fl_tlist fl_tlist;
typedef struct fl_tmacro fl_tmacro;
typedef struct fl_tmethod fl_tmethod;
typedef struct fl_tloop fl_tloop;
typedef struct fl_tscope fl_tscope;
typedef struct fl_tfunction fl_tfunction;

/* UTF-8, not NUL-terminated, immutable. */
typedef struct fl_tstr {
    const char *data;
    size_t len;
    const uint8_t *mask;  /* NULL: all bytes are as `trusted` says; else one byte each */
    struct fl_tbuf *room; /* NULL, or the growing buffer that data begins (fl_tstr_concat) */
    bool trusted;
    bool markup; /* escaped or safe: + and autoescape leave it alone and escape what is not */
} fl_tstr;

typedef struct fl_tv {
    uint8_t kind;      /* fl_tv_kind */
    bool is_attribute; /* an undefined: name is an attribute, not a variable */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const fl_tstr *string;
        fl_tlist *list;
        fl_tdict *dict;
        const fl_tstr *name; /* of an undefined; may be NULL */
        fl_tmacro *macro;
        const fl_tfunction *function;
        fl_tmethod *method;
        fl_tloop *loop;
        const fl_tnode *block;
    };
} fl_tv;

struct fl_tlist {
    fl_tv *items;
    size_t n, cap;
    size_t taken;      /* items a generator has given away */
    const char *label; /* of a view: "dict_keys"; of what groupby gives: "group"; else NULL */
    int64_t start, stop, step;
};

typedef struct fl_tentry {
    fl_tv key, value;
    uint64_t hash;
} fl_tentry;

struct fl_tdict { /* in insertion order */
    fl_tentry *entries;
    uint32_t n, cap;
    uint32_t *slots; /* index + 1 by hash; NULL while small */
    uint32_t n_slots;
};

struct fl_tmethod {
    fl_tv self;
    const fl_tfunction *function;
};

struct fl_tmacro {
    const fl_tnode *node;
    fl_tscope *scope;
};

struct fl_tloop {
    const fl_tlist *items;
    size_t index;
    int depth;
    const fl_tnode *node; /* of the statement */
    fl_tscope *scope;     /* that the statement stands in */
    fl_tv last_changed;
};

/* ---- the tree ---------------------------------------------------------------------- */

typedef struct fl_tname { /* an identifier; equal names are the same object */
    fl_tstr text;
    uint64_t hash;
    uint32_t id;
} fl_tname;

/* Names that the engine itself sets have fixed ids. */
enum { FL_T_LOOP, FL_T_CALLER, FL_T_VARARGS, FL_T_KWARGS, FL_T_N_FIXED };

typedef enum {
    FL_TN_BODY,         /* kids */
    FL_TN_DATA,         /* value */
    FL_TN_OUTPUT,       /* a */
    FL_TN_IF,           /* a: condition, b: body, c: else, a body or another if */
    FL_TN_FOR,          /* a: target, b: iterable, c: else, d: filter, e: body */
    FL_TN_SET,          /* a: target, b: value */
    FL_TN_SET_BLOCK,    /* a: target, b: body, c: filters or NULL */
    FL_TN_MACRO,        /* name, kids: parameters, b: body, uses */
    FL_TN_CALL_BLOCK,   /* a: call, c: macro */
    FL_TN_FILTER_BLOCK, /* a: filters, b: body */
    FL_TN_WITH,         /* kids: FL_TN_SET, b: body */
    FL_TN_SCOPE,        /* b: body */
    FL_TN_AUTOESCAPE,   /* a: condition, b: body */
    FL_TN_BLOCK,        /* name, b: body, uses: 1 if scoped */
    FL_TN_OTHER_FILE,   /* include and the like: there are no other files */
    FL_TN_BREAK,
    FL_TN_CONTINUE,
    FL_TN_PARAM,     /* name, a: default; also keyword arguments: name, a: value */
    FL_TN_CONST,     /* value */
    FL_TN_NAME,      /* name */
    FL_TN_NS_REF,    /* a: FL_TN_NAME, name: attribute */
    FL_TN_ATTRIBUTE, /* a, name */
    FL_TN_ITEM,      /* a, b */
    FL_TN_SLICE,     /* b: start, c: stop, d: step; in the b of FL_TN_ITEM only */
    FL_TN_CALL,      /* a, kids: arguments */
    FL_TN_FILTER,    /* a (NULL: the text of the block), name, function, kids */
    FL_TN_TEST,      /* a, name, function, kids */
    FL_TN_STAR,      /* a: *list; op '*' or ** dict: op '^' */
    FL_TN_UNARY,     /* a, op: '-', '+', '!' */
    FL_TN_BINARY,    /* a, op, b */
    FL_TN_AND,
    FL_TN_OR,
    FL_TN_CONDITIONAL, /* a if b else c */
    FL_TN_COMPARE,     /* a, kids: FL_TN_OPERAND */
    FL_TN_OPERAND,     /* op, a */
    FL_TN_LIST,        /* kids */
    FL_TN_TUPLE,       /* kids */
    FL_TN_DICT         /* kids: key, value, ... */
} fl_tnode_kind;

struct fl_tnode {
    uint8_t kind; /* fl_tnode_kind */
    uint8_t op;   /* '+' '-' '*' '/' 'i' for // '%' '^' for ** '~'; '=' '!' '<' '>' 'l' 'g'
                     for <= >=; 'n' in, 'N' not in */
    uint8_t uses; /* of a macro: 1 << FL_T_CALLER and so on; of a for: 1 if recursive */
    int line;
    uint32_t n_kids;
    const fl_tname *name;
    const fl_tfunction *function; /* NULL: no such filter or test */
    fl_tv value;
    fl_tnode *a, *b, *c, *d, *e;
    fl_tnode **kids;
};

struct fl_template {
    _Atomic int refs;
    fl_arena arena; /* holds everything below */
    fl_tnode *body;
    fl_tnode *blocks;       /* FL_TN_BODY of all FL_TN_BLOCK, or NULL */
    const fl_tname **names; /* by id */
    uint32_t n_names;
    bool takes_parts, takes_text; /* see fl_template_takes_parts */
};

typedef enum {
    FL_TT_END,
    FL_TT_DATA,
    FL_TT_OUTPUT_BEGIN,
    FL_TT_OUTPUT_END,
    FL_TT_BLOCK_BEGIN,
    FL_TT_BLOCK_END,
    FL_TT_NAME,
    FL_TT_STRING,
    FL_TT_NUMBER,
    FL_TT_OPERATOR
} fl_ttoken_kind;

typedef struct fl_ttoken {
    uint8_t kind; /* fl_ttoken_kind */
    uint8_t op;   /* of an operator: its character; 'i' //, '^' **, 'e' ==, '!' !=, 'g' >=,
                     'l' <= */
    int line;
    const char *data; /* the source text; of a string token the unescaped text */
    size_t len;
    fl_tv value; /* of a number */
} fl_ttoken;

typedef struct fl_tparser {
    fl_template *t;
    fl_err *err;
    fl_ttoken *tokens;
    size_t n_tokens, cap_tokens, at;
    fl_map names; /* -> id */
    uint32_t cap_names;
    int depth;
    uint8_t uses; /* of the innermost macro, see fl_tnode */
} fl_tparser;

bool fl_t_lex(fl_tparser *p, const char *source, size_t n);
bool fl_t_parse(fl_tparser *p); /* tokens -> p->t->body */
/* Pieces of the expression grammar that statements use; NULL or false: failed. */
fl_tnode *fl_t_parse_expression(fl_tparser *p);
fl_tnode *fl_t_parse_tuple(fl_tparser *p, bool conditional);
fl_tnode *fl_t_parse_unary(fl_tparser *p);
fl_tnode *fl_t_parse_filter(fl_tparser *p, fl_tnode *input); /* the current token is its name */
/* Whether it is message.content, message['content'], or a variable of that name. */
bool fl_t_is_content(const fl_tnode *n);
fl_tnode *fl_t_node(fl_tparser *p, fl_tnode_kind kind);
bool fl_t_add_kid(fl_tparser *p, fl_tnode *n, fl_tnode *kid);
const fl_tname *fl_t_intern(fl_tparser *p, const char *data, size_t len); /* data must stay */
const fl_tname *fl_t_take_name(fl_tparser *p);
bool fl_t_deeper(fl_tparser *p);
bool fl_t_is_op(const fl_tparser *p, char op);
bool fl_t_is_word(const fl_tparser *p, const char *word);
bool fl_t_eat_op(fl_tparser *p, char op);
bool fl_t_eat_word(fl_tparser *p, const char *word);
bool fl_t_want_op(fl_tparser *p, char op);
const fl_ttoken *fl_t_current(const fl_tparser *p);
bool fl_t_syntax(fl_tparser *p, int line, const char *fmt, ...) FL_PRINTF(3, 4); /* false */
bool fl_t_unexpected(fl_tparser *p, const char *wanted); /* false: names the current token */
void *fl_t_tree_alloc(fl_tparser *p, size_t bytes);      /* NULL: failed */

#endif
