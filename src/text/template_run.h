/* template_run.h - one rendering: its state, and what can be done with values in it.
 * Like template_priv.h for the files of the template engine only. */
#ifndef FL_TEXT_TEMPLATE_RUN_H
#define FL_TEXT_TEMPLATE_RUN_H

#include "text/template_priv.h"
#include "text/unicode.h"

/* Text that grows: the output, or what a block or a filter collects. */
typedef struct fl_ttext {
    fl_bytes data;
    fl_bytes mask; /* as long as data once the text is mixed */
    bool mixed;
    bool trusted; /* of all bytes, while not mixed */
} fl_ttext;

struct fl_tscope {
    fl_tscope *parent;
    struct fl_tvariable {
        uint32_t id;
        fl_tv value;
    } * variables;
    uint32_t n, cap;
};

typedef enum { FL_T_NEXT, FL_T_BREAK, FL_T_CONTINUE } fl_tflow;

struct fl_trun {
    const fl_template *t;
    fl_err *err;
    fl_arena arena;
    uint64_t steps, max_steps;
    size_t max_output;
    int depth, line;
    time_t now;
    fl_tv *globals; /* by name id: what the caller gave, built-in functions, undefined */
    fl_tscope *scope, *root;
    fl_ttext *out;
    const fl_tv *block_text; /* the input of a filter without one */
    fl_tflow flow;
    bool autoescape;  /* inside {% autoescape true %} */
    bool sorted_repr; /* dicts in the order of their keys, as pprint has them */
};

typedef struct fl_targs {
    fl_tv *positional;
    size_t n_positional;
    const fl_tstr **keys;
    fl_tv *keywords;
    size_t n_keywords;
} fl_targs;

/* A built-in filter, test, method or function.  params: names in order, "." for one that
 * cannot be given by name, "=" behind an optional one; "*" alone: anything (c->all). */
typedef struct fl_tcall {
    const fl_tfunction *function;
    fl_tv self;
    fl_tv arg[FL_T_MAX_PARAMS]; /* FL_TV_ABSENT where not given */
    const fl_targs *all;
} fl_tcall;
struct fl_tfunction {
    const char *name;
    const char *params;
    bool (*run)(fl_trun *r, fl_tcall *c, fl_tv *out);
};

/* ---- template_run.c: limits, failure, text ----------------------------------------- */

bool fl_t_fail(fl_trun *r, int code, const char *fmt, ...) FL_PRINTF(3, 4); /* false */
bool fl_t_undefined(fl_trun *r, const fl_tv *v); /* fails: 'name' is undefined */
bool fl_t_charge(fl_trun *r, size_t bytes);      /* one step for each 16 bytes touched */
bool fl_t_enter(fl_trun *r);                     /* one level deeper; leave with r->depth-- */
void *fl_t_alloc(fl_trun *r, size_t bytes);      /* in the arena, zeroed; NULL: failed */

/* Append; mask NULL: all bytes as `trusted` says. */
bool fl_ttext_put(fl_trun *r, fl_ttext *t, const char *p, size_t n, const uint8_t *mask,
                  bool trusted);
bool fl_ttext_puts(fl_trun *r, fl_ttext *t, const char *s); /* trusted */
bool fl_ttext_put_str(fl_trun *r, fl_ttext *t, const fl_tstr *s);
bool fl_ttext_put_part(fl_trun *r, fl_ttext *t, const fl_tstr *s, size_t from, size_t to);
void fl_ttext_free(fl_ttext *t);
/* The text as a string value when ok; frees t either way and returns success. */
bool fl_ttext_finish(fl_trun *r, fl_ttext *t, bool ok, fl_tv *out);
/* When `markup`, a string value becomes one that is marked as such. */
bool fl_tv_keep_markup(fl_trun *r, bool markup, fl_tv *v);

/* ---- template_value.c: strings, lists, dicts --------------------------------------- */

static inline fl_tv fl_tv_none(void) {
    return (fl_tv){.kind = FL_TV_NONE};
}
static inline fl_tv fl_tv_bool(bool b) {
    return (fl_tv){.kind = FL_TV_BOOL, .boolean = b};
}
static inline fl_tv fl_tv_int(int64_t i) {
    return (fl_tv){.kind = FL_TV_INT, .integer = i};
}
static inline fl_tv fl_tv_float(double d) {
    return (fl_tv){.kind = FL_TV_FLOAT, .number = d};
}
static inline fl_tv fl_tv_undefined(const fl_tstr *name, bool is_attribute) {
    return (fl_tv){.kind = FL_TV_UNDEFINED, .is_attribute = is_attribute, .name = name};
}
static inline fl_tv fl_tv_string(const fl_tstr *s) {
    return (fl_tv){.kind = FL_TV_STRING, .string = s};
}
static inline fl_tv fl_tv_list(fl_tv_kind kind, fl_tlist *l) {
    return (fl_tv){.kind = (uint8_t)kind, .list = l};
}
static inline bool fl_tv_is_number(const fl_tv *v) {
    return v->kind == FL_TV_INT || v->kind == FL_TV_FLOAT || v->kind == FL_TV_BOOL;
}
static inline bool fl_tv_is_whole(const fl_tv *v) {
    return v->kind == FL_TV_INT || v->kind == FL_TV_BOOL;
}
static inline int64_t fl_tv_whole(const fl_tv *v) {
    return v->kind == FL_TV_BOOL ? v->boolean : v->integer;
}
static inline double fl_tv_number(const fl_tv *v) {
    return v->kind == FL_TV_FLOAT ? v->number : (double)fl_tv_whole(v);
}
static inline bool fl_tv_is_absent(const fl_tv *v) { /* not given, or None */
    return v->kind == FL_TV_ABSENT || v->kind == FL_TV_NONE;
}
static inline bool fl_tv_is_sequence(const fl_tv *v) { /* list or tuple */
    return v->kind == FL_TV_LIST || v->kind == FL_TV_TUPLE;
}

bool fl_tstr_is(const fl_tstr *s, const char *text);
size_t fl_tstr_next(const fl_tstr *s, size_t i, uint32_t *cp);    /* bytes of the character at i */
bool fl_tv_text(fl_trun *r, const char *p, size_t n, fl_tv *out); /* a trusted copy */
bool fl_tstr_slice(fl_trun *r, const fl_tstr *s, size_t from, size_t to, fl_tv *out);
bool fl_tstr_concat(fl_trun *r, const fl_tstr *a, const fl_tstr *b, fl_tv *out);
bool fl_tstr_length(fl_trun *r, const fl_tstr *s, int64_t *out); /* in characters */
size_t fl_tstr_offset(const fl_tstr *s, size_t n_chars);         /* bytes of the first n_chars */

fl_tlist *fl_tlist_new(fl_trun *r, size_t cap); /* NULL: failed */
bool fl_tlist_push(fl_trun *r, fl_tlist *l, fl_tv v);
bool fl_tv_pair(fl_trun *r, fl_tv a, fl_tv b, fl_tv *out);

fl_tdict *fl_tdict_new(fl_trun *r); /* NULL: failed */
bool fl_tdict_set(fl_trun *r, fl_tdict *d, fl_tv key, fl_tv value);
/* NULL in *out: no such key.  Fails for a key that cannot be hashed. */
bool fl_tdict_find(fl_trun *r, const fl_tdict *d, const fl_tv *key, fl_tv **out);
fl_tv *fl_tdict_get(fl_trun *r, const fl_tdict *d, const fl_tstr *key); /* NULL: none */
bool fl_tv_is_hashable(const fl_tv *v); /* lists and dicts are not */
bool fl_tv_from_json(fl_trun *r, const fl_jv *j, bool trusted, fl_tv *out);

/* ---- template_ops.c: operators ----------------------------------------------------- */

const char *fl_tv_type_name(const fl_tv *v); /* as Python calls it */
bool fl_tv_truth(const fl_tv *v);
bool fl_tv_equal(fl_trun *r, const fl_tv *a, const fl_tv *b, bool *out);
/* op: '<' '>' 'l' 'g' */
bool fl_tv_compare(fl_trun *r, char op, const fl_tv *a, const fl_tv *b, bool *out);
bool fl_tv_binary(fl_trun *r, char op, const fl_tv *a, const fl_tv *b, fl_tv *out);
bool fl_tv_contains(fl_trun *r, const fl_tv *container, const fl_tv *item, bool *out);
/* What a for loop sees: the list itself, or a fresh one of keys, characters, ...; takes
 * all that is left of a generator. */
bool fl_tv_items(fl_trun *r, const fl_tv *v, const fl_tlist **out);
bool fl_tv_length(fl_trun *r, const fl_tv *v, int64_t *out);
typedef struct fl_tsort {
    fl_tv key, value;
} fl_tsort;
bool fl_tv_sort(fl_trun *r, fl_tsort *a, size_t n, bool reverse); /* stable, by key */
/* Keys of a dict as pprint orders them; those of several types stay as they are. */
bool fl_tv_sort_keys(fl_trun *r, fl_tsort *a, size_t n);
bool fl_tv_need_int(fl_trun *r, const fl_tv *v, int64_t *out);

/* ---- template_format.c: text forms ------------------------------------------------- */

typedef struct fl_tjson { /* options of tojson */
    bool ascii, sort;
    const fl_tstr *indent; /* NULL: one line */
    const fl_tstr *item_separator, *key_separator;
} fl_tjson;

bool fl_tv_str(fl_trun *r, const fl_tv *v, const fl_tstr **out);  /* str(v) */
bool fl_ttext_put_value(fl_trun *r, fl_ttext *t, const fl_tv *v); /* str(v) */
bool fl_ttext_put_repr(fl_trun *r, fl_ttext *t, const fl_tv *v);  /* repr(v) */
bool fl_ttext_put_ascii(fl_trun *r, fl_ttext *t, const fl_tv *v); /* ascii(v) */
bool fl_ttext_put_json(fl_trun *r, fl_ttext *t, const fl_tv *v, const fl_tjson *o, int level);
bool fl_tv_percent(fl_trun *r, const fl_tstr *format, const fl_tv *args, fl_tv *out);
bool fl_t_is_printable(uint32_t cp); /* str.isprintable */
/* str.format and str.format_map (template_strformat.c). */
bool fl_t_format_method(fl_trun *r, fl_tcall *c, fl_tv *out);
/* The filter urlize (template_urlize.c). */
bool fl_t_urlize(fl_trun *r, fl_tcall *c, fl_tv *out);
/* pprint.pformat(v) (template_pprint.c). */
bool fl_t_pformat(fl_trun *r, const fl_tv *v, fl_tv *out);

/* ---- template_eval.c and template_exec.c ------------------------------------------- */

bool fl_t_eval(fl_trun *r, const fl_tnode *n, fl_tv *out);
/* getattr(v, name) of Python.  *found: it has such an attribute; else *out is undefined. */
bool fl_t_python_attribute(fl_trun *r, const fl_tv *v, const fl_tstr *name, fl_tv *out,
                           bool *found);
/* v.name and v[key] of a template: attributes and items stand in for each other. */
bool fl_t_attribute(fl_trun *r, const fl_tv *v, const fl_tstr *name, fl_tv *out);
bool fl_t_item(fl_trun *r, const fl_tv *v, const fl_tv *key, fl_tv *out);
bool fl_t_call(fl_trun *r, const fl_tv *callee, const fl_targs *args, fl_tv *out);
bool fl_t_call_builtin(fl_trun *r, const fl_tfunction *f, const fl_tv *self, const fl_targs *args,
                       fl_tv *out);
/* A FL_TN_CALL; caller: a macro passed as keyword `caller`, or NULL. */
bool fl_t_eval_call(fl_trun *r, const fl_tnode *n, const fl_tv *caller, fl_tv *out);
bool fl_t_exec(fl_trun *r, const fl_tnode *n);
bool fl_t_call_macro(fl_trun *r, const fl_tmacro *m, const fl_targs *args, fl_tv *out);
/* What a block writes; it sees what the top level of the template has set. */
bool fl_t_call_block(fl_trun *r, const fl_tnode *block, fl_tv *out);
const fl_tnode *fl_t_find_block(const fl_template *t, const fl_tstr *name); /* NULL: none */
bool fl_t_recurse(fl_trun *r, const fl_tloop *loop, const fl_tv *items, fl_tv *out);
bool fl_t_may_set(fl_trun *r, const fl_tstr *name); /* in a namespace */
bool fl_t_set_variable(fl_trun *r, fl_tscope *s, uint32_t id, fl_tv v);
fl_tv fl_t_variable(fl_trun *r, const fl_tname *name);

/* ---- built-in names: NULL when there is none --------------------------------------- */

/* In a table that ends with a nameless entry. */
const fl_tfunction *fl_t_find(const fl_tfunction *table, const char *name, size_t n);
const fl_tfunction *fl_t_filter(const char *name, size_t n);
const fl_tfunction *fl_t_sequence_filter(const char *name, size_t n); /* part of the former */
const fl_tfunction *fl_t_text_filter(const char *name, size_t n);     /* and this */
const fl_tfunction *fl_t_test(const char *name, size_t n);
const fl_tfunction *fl_t_global(const char *name, size_t n);
const fl_tfunction *fl_t_method(const fl_tv *self, const char *name, size_t n);
const fl_tfunction *fl_t_string_method(const char *name, size_t n); /* part of the former */
const fl_tfunction *fl_t_string_form(const char *name, size_t n);   /* and this */
const fl_tfunction *fl_t_bytes_method(const char *name, size_t n);

/* Shared by filters, tests and methods. */
bool fl_tv_need_string(fl_trun *r, const fl_tv *v, const char *what, const fl_tstr **out);
enum { FL_T_LEFT = 1, FL_T_RIGHT = 2 };
/* chars: a string, none or absent for white space. */
bool fl_tstr_strip(fl_trun *r, const fl_tstr *s, const fl_tv *chars, int ends, fl_tv *out);
bool fl_tstr_replace(fl_trun *r, const fl_tstr *s, const fl_tstr *from, const fl_tstr *to,
                     int64_t max, fl_tv *out); /* max < 0: all */
/* The end of the line that starts at byte i, and where the next one starts. */
size_t fl_tstr_line(const fl_tstr *s, size_t i, size_t *next);
typedef enum {
    FL_T_UPPER,
    FL_T_LOWER,
    FL_T_CAPITALIZE,
    FL_T_TITLE,
    FL_T_TITLE_WORDS,
    FL_T_SWAP,
    FL_T_FOLD
} fl_tcase;
bool fl_tstr_case(fl_trun *r, const fl_tstr *s, fl_tcase how, fl_tv *out);
bool fl_tstr_is_cased(const fl_tstr *s, bool upper); /* isupper, islower */
bool fl_t_is_word_char(uint32_t cp);                 /* \w of Python: letters, numbers and _ */
/* s between blanks or `fill`, width characters wide at least. */
typedef enum { FL_T_PAD_LEFT, FL_T_PAD_RIGHT, FL_T_PAD_BOTH } fl_tpad;
bool fl_tstr_pad(fl_trun *r, const fl_tstr *s, int64_t width, const fl_tstr *fill, fl_tpad where,
                 fl_tv *out);

#endif
