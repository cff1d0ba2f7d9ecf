/* The expression grammar: tokens -> tree. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/template_run.h"

bool fl_t_syntax(fl_tparser *p, int line, const char *fmt, ...) {
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    fl_fail(p->err, FL_E_FORMAT, "template line %d: %s", line, message);
    return false;
}

const fl_ttoken *fl_t_current(const fl_tparser *p) {
    return &p->tokens[p->at];
}

bool fl_t_unexpected(fl_tparser *p, const char *wanted) {
    const fl_ttoken *t = fl_t_current(p);
    int n = t->len > 40 ? 40 : (int)t->len;
    switch (t->kind) {
    case FL_TT_END:
        return fl_t_syntax(p, t->line, "%s expected before the end", wanted);
    case FL_TT_OUTPUT_END:
        return fl_t_syntax(p, t->line, "%s expected before '}}'", wanted);
    case FL_TT_BLOCK_END:
        return fl_t_syntax(p, t->line, "%s expected before '%%}'", wanted);
    case FL_TT_NUMBER:
        return fl_t_syntax(p, t->line, "%s expected, got a number", wanted);
    case FL_TT_STRING:
        return fl_t_syntax(p, t->line, "%s expected, got a string", wanted);
    default:
        return fl_t_syntax(p, t->line, "%s expected, got '%.*s'", wanted, n, t->data);
    }
}

void *fl_t_tree_alloc(fl_tparser *p, size_t bytes) {
    fl_arena *a = &p->t->arena;
    void *block = fl_arena_alloc(a, bytes);
    if (block) return block;
    if (bytes > a->limit - a->used) {
        fl_fail(p->err, FL_E_LIMIT, "template: needs more than %zu bytes", a->limit);
    } else {
        fl_fail(p->err, FL_E_NOMEM, "template: no memory for the parsed template");
    }
    return NULL;
}

bool fl_t_deeper(fl_tparser *p) {
    if (++p->depth <= FL_T_PARSE_DEPTH) return true;
    fl_fail(p->err, FL_E_LIMIT, "template line %d: nested deeper than %d levels",
            fl_t_current(p)->line, FL_T_PARSE_DEPTH);
    return false;
}

fl_tnode *fl_t_node(fl_tparser *p, fl_tnode_kind kind) {
    fl_tnode *n = fl_t_tree_alloc(p, sizeof(*n));
    if (!n) return NULL;
    n->kind = (uint8_t)kind;
    n->line = fl_t_current(p)->line;
    return n;
}

bool fl_t_add_kid(fl_tparser *p, fl_tnode *n, fl_tnode *kid) {
    if (!kid) return false;
    if ((n->n_kids & (n->n_kids - 1)) == 0) { /* 0, 1, 2, 4, ...: full */
        size_t cap = n->n_kids ? n->n_kids * 2 : 1;
        fl_tnode **kids = fl_t_tree_alloc(p, cap * sizeof(*kids));
        if (!kids) return false;
        if (n->n_kids) memcpy(kids, n->kids, n->n_kids * sizeof(*kids));
        n->kids = kids;
    }
    n->kids[n->n_kids++] = kid;
    return true;
}

bool fl_t_is_op(const fl_tparser *p, char op) {
    const fl_ttoken *t = fl_t_current(p);
    return t->kind == FL_TT_OPERATOR && t->op == op;
}

bool fl_t_eat_op(fl_tparser *p, char op) {
    bool is = fl_t_is_op(p, op);
    p->at += is;
    return is;
}

bool fl_t_want_op(fl_tparser *p, char op) {
    char wanted[] = {'\'', op, '\'', '\0'};
    return fl_t_eat_op(p, op) || fl_t_unexpected(p, wanted);
}

static bool token_is_word(const fl_ttoken *t, const char *word) {
    return t->kind == FL_TT_NAME && t->len == strlen(word) && !memcmp(t->data, word, t->len);
}

bool fl_t_is_word(const fl_tparser *p, const char *word) {
    return token_is_word(fl_t_current(p), word);
}

bool fl_t_eat_word(fl_tparser *p, const char *word) {
    bool is = fl_t_is_word(p, word);
    p->at += is;
    return is;
}

const fl_tname *fl_t_intern(fl_tparser *p, const char *data, size_t len) {
    fl_template *t = p->t;
    uint32_t id;
    if (fl_map_get(&p->names, data, len, &id)) return t->names[id];
    if (t->n_names == p->cap_names) {
        uint32_t cap = p->cap_names ? p->cap_names * 2 : 64;
        const fl_tname **names = fl_t_tree_alloc(p, cap * sizeof(*names));
        if (!names) return NULL;
        if (t->n_names) memcpy(names, t->names, t->n_names * sizeof(*names));
        t->names = names;
        p->cap_names = cap;
    }
    fl_tname *name = fl_t_tree_alloc(p, sizeof(*name));
    if (!name) return NULL;
    *name = (fl_tname){.text = {.data = data, .len = len, .trusted = true},
                       .hash = fl_hash_bytes(data, len),
                       .id = t->n_names};
    if (fl_map_put(&p->names, data, len, name->id) != FL_MAP_NEW) {
        fl_fail(p->err, FL_E_NOMEM, "template: no memory for the parsed template");
        return NULL;
    }
    t->names[t->n_names++] = name;
    return name;
}

const fl_tname *fl_t_take_name(fl_tparser *p) {
    const fl_ttoken *t = fl_t_current(p);
    if (t->kind != FL_TT_NAME) {
        fl_t_unexpected(p, "name");
        return NULL;
    }
    p->at++;
    return fl_t_intern(p, t->data, t->len);
}

static fl_tnode *string_constant(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_CONST);
    fl_tstr *s = fl_t_tree_alloc(p, sizeof(*s));
    size_t first = p->at, len = 0;
    if (!n || !s) return NULL;
    while (fl_t_current(p)->kind == FL_TT_STRING) len += p->tokens[p->at++].len;
    char *data = fl_t_tree_alloc(p, len + 1); /* adjacent strings are one */
    if (!data) return NULL;
    *s = (fl_tstr){.data = data, .len = len, .trusted = true};
    for (size_t i = first; i < p->at; data += p->tokens[i++].len)
        memcpy(data, p->tokens[i].data, p->tokens[i].len);
    n->value = fl_tv_string(s);
    return n;
}

static fl_tnode *name_or_constant(fl_tparser *p) {
    static const struct {
        const char *word;
        fl_tv value;
    } constants[] = {
        {"true", {.kind = FL_TV_BOOL, .boolean = true}},
        {"True", {.kind = FL_TV_BOOL, .boolean = true}},
        {"false", {.kind = FL_TV_BOOL, .boolean = false}},
        {"False", {.kind = FL_TV_BOOL, .boolean = false}},
        {"none", {.kind = FL_TV_NONE}},
        {"None", {.kind = FL_TV_NONE}},
    };
    fl_tnode *n = fl_t_node(p, FL_TN_NAME);
    for (size_t i = 0; n && i < sizeof(constants) / sizeof(constants[0]); i++) {
        if (!fl_t_eat_word(p, constants[i].word)) continue;
        n->kind = FL_TN_CONST;
        n->value = constants[i].value;
        return n;
    }
    if (!n || !(n->name = fl_t_take_name(p))) return NULL;
    if (n->name->id < FL_T_N_FIXED) p->uses |= (uint8_t)(1u << n->name->id);
    return n;
}

/* [a, b] and {k: v}; the opening bracket is the current token. */
static fl_tnode *display(fl_tparser *p, fl_tnode_kind kind, char close) {
    fl_tnode *n = fl_t_node(p, kind);
    if (!n) return NULL;
    p->at++;
    while (!fl_t_is_op(p, close)) {
        if (!fl_t_add_kid(p, n, fl_t_parse_expression(p))) return NULL;
        if (kind == FL_TN_DICT &&
            (!fl_t_want_op(p, ':') || !fl_t_add_kid(p, n, fl_t_parse_expression(p))))
            return NULL;
        if (!fl_t_is_op(p, close) && !fl_t_want_op(p, ',')) return NULL;
    }
    p->at++;
    return n;
}

static fl_tnode *parenthesized(fl_tparser *p) {
    p->at++;
    fl_tnode *n = fl_t_is_op(p, ')') ? fl_t_node(p, FL_TN_TUPLE) : fl_t_parse_tuple(p, true);
    return n && fl_t_want_op(p, ')') ? n : NULL;
}

static fl_tnode *primary(fl_tparser *p) {
    const fl_ttoken *t = fl_t_current(p);
    fl_tnode *n = NULL;
    if (t->kind == FL_TT_NAME) return name_or_constant(p);
    if (t->kind == FL_TT_STRING) return string_constant(p);
    if (t->kind == FL_TT_NUMBER) {
        if (!(n = fl_t_node(p, FL_TN_CONST))) return NULL;
        n->value = t->value;
        p->at++;
        return n;
    }
    if (!fl_t_deeper(p)) return NULL;
    if (fl_t_is_op(p, '(')) {
        n = parenthesized(p);
    } else if (fl_t_is_op(p, '[')) {
        n = display(p, FL_TN_LIST, ']');
    } else if (fl_t_is_op(p, '{')) {
        n = display(p, FL_TN_DICT, '}');
    } else {
        fl_t_unexpected(p, "expression");
    }
    p->depth--;
    return n;
}

/* One argument of a call; keywords must not be followed by plain ones. */
static fl_tnode *argument(fl_tparser *p, const fl_tnode *before) {
    const fl_ttoken *t = fl_t_current(p);
    fl_tnode *n;
    if (fl_t_is_op(p, '*') || fl_t_is_op(p, '^')) {
        if (!(n = fl_t_node(p, FL_TN_STAR))) return NULL;
        n->op = t->op;
        p->at++;
        return (n->a = fl_t_parse_expression(p)) ? n : NULL;
    }
    if (t->kind == FL_TT_NAME && t[1].kind == FL_TT_OPERATOR && t[1].op == '=') {
        if (!(n = fl_t_node(p, FL_TN_PARAM)) || !(n->name = fl_t_take_name(p))) return NULL;
        p->at++;
        return (n->a = fl_t_parse_expression(p)) ? n : NULL;
    }
    if (before && (before->kind == FL_TN_PARAM || before->kind == FL_TN_STAR)) {
        fl_t_syntax(p, t->line, "positional argument behind a keyword or * argument");
        return NULL;
    }
    return fl_t_parse_expression(p);
}

static bool arguments(fl_tparser *p, fl_tnode *call) {
    if (!fl_t_want_op(p, '(')) return false;
    while (!fl_t_is_op(p, ')')) {
        const fl_tnode *before = call->n_kids ? call->kids[call->n_kids - 1] : NULL;
        if (!fl_t_add_kid(p, call, argument(p, before))) return false;
        if (!fl_t_is_op(p, ')') && !fl_t_want_op(p, ',')) return false;
    }
    p->at++;
    return true;
}

static fl_tnode *call(fl_tparser *p, fl_tnode *callee) {
    fl_tnode *n = fl_t_node(p, FL_TN_CALL);
    if (!n || !arguments(p, n)) return NULL;
    n->a = callee;
    return n;
}

/* One entry inside [ ]: an expression or a slice. */
static fl_tnode *subscript_entry(fl_tparser *p) {
    fl_tnode *start = NULL, *n;
    if (!fl_t_is_op(p, ':')) {
        if (!(start = fl_t_parse_expression(p))) return NULL;
        if (!fl_t_is_op(p, ':')) return start;
    }
    if (!(n = fl_t_node(p, FL_TN_SLICE))) return NULL;
    n->b = start;
    p->at++;
    if (!fl_t_is_op(p, ':') && !fl_t_is_op(p, ']') && !fl_t_is_op(p, ',') &&
        !(n->c = fl_t_parse_expression(p)))
        return NULL;
    if (fl_t_eat_op(p, ':') && !fl_t_is_op(p, ']') && !fl_t_is_op(p, ',') &&
        !(n->d = fl_t_parse_expression(p)))
        return NULL;
    return n;
}

static fl_tnode *subscript(fl_tparser *p, fl_tnode *object) {
    fl_tnode *n = fl_t_node(p, FL_TN_ITEM), *tuple;
    if (!n) return NULL;
    n->a = object;
    p->at++;
    if (!(n->b = subscript_entry(p))) return NULL;
    if (fl_t_is_op(p, ',')) {
        if (!(tuple = fl_t_node(p, FL_TN_TUPLE)) || !fl_t_add_kid(p, tuple, n->b)) return NULL;
        n->b = tuple;
        while (fl_t_eat_op(p, ',') && !fl_t_is_op(p, ']'))
            if (!fl_t_add_kid(p, tuple, subscript_entry(p))) return NULL;
    }
    return fl_t_want_op(p, ']') ? n : NULL;
}

static fl_tnode *attribute(fl_tparser *p, fl_tnode *object) {
    const fl_ttoken *t = &p->tokens[++p->at];
    fl_tnode *n = fl_t_node(p, FL_TN_ATTRIBUTE);
    if (!n) return NULL;
    n->a = object;
    if (t->kind != FL_TT_NUMBER) return (n->name = fl_t_take_name(p)) ? n : NULL;
    if (t->value.kind != FL_TV_INT) {
        fl_t_unexpected(p, "name or whole number");
        return NULL;
    }
    n->kind = FL_TN_ITEM;
    return (n->b = primary(p)) ? n : NULL;
}

static fl_tnode *postfix(fl_tparser *p, fl_tnode *n) {
    while (n) {
        if (fl_t_is_op(p, '.')) {
            n = attribute(p, n);
        } else if (fl_t_is_op(p, '[')) {
            n = subscript(p, n);
        } else if (fl_t_is_op(p, '(')) {
            n = call(p, n);
        } else {
            break;
        }
    }
    return n;
}

/* The name of a filter or test, looked up.  One that is not known fails when it is used. */
static bool take_function(fl_tparser *p, fl_tnode *n) {
    if (!(n->name = fl_t_take_name(p))) return false;
    const char *name = n->name->text.data;
    n->function = n->kind == FL_TN_FILTER ? fl_t_filter(name, n->name->text.len)
                                          : fl_t_test(name, n->name->text.len);
    while (fl_t_eat_op(p, '.')) { /* Jinja allows dots here; no built-in name has one */
        if (!fl_t_take_name(p)) return false;
        n->function = NULL;
    }
    return true;
}

fl_tnode *fl_t_parse_filter(fl_tparser *p, fl_tnode *input) {
    fl_tnode *n = fl_t_node(p, FL_TN_FILTER);
    if (!n || !take_function(p, n) || (fl_t_is_op(p, '(') && !arguments(p, n))) return NULL;
    n->a = input;
    return n;
}

bool fl_t_is_content(const fl_tnode *n) {
    if (n->kind == FL_TN_ITEM && n->b->kind == FL_TN_CONST && n->b->value.kind == FL_TV_STRING)
        return fl_tstr_is(n->b->value.string, "content");
    return (n->kind == FL_TN_NAME || n->kind == FL_TN_ATTRIBUTE) &&
           fl_tstr_is(&n->name->text, "content");
}

/* Behind `is`: the test may take one plain argument without parentheses. */
static fl_tnode *test(fl_tparser *p, fl_tnode *input) {
    bool negated = fl_t_eat_word(p, "not");
    fl_tnode *n = fl_t_node(p, FL_TN_TEST);
    if (!n || !take_function(p, n)) return NULL;
    n->a = input;
    p->t->takes_text |= fl_tstr_is(&n->name->text, "string") && fl_t_is_content(input);
    const fl_ttoken *t = fl_t_current(p);
    bool starts = t->kind == FL_TT_STRING || t->kind == FL_TT_NUMBER || fl_t_is_op(p, '[') ||
                  fl_t_is_op(p, '{') ||
                  (t->kind == FL_TT_NAME && !fl_t_is_word(p, "else") && !fl_t_is_word(p, "or") &&
                   !fl_t_is_word(p, "and"));
    if (fl_t_is_op(p, '(')) {
        if (!arguments(p, n)) return NULL;
    } else if (starts) {
        if (fl_t_is_word(p, "is")) {
            fl_t_syntax(p, t->line, "tests cannot be chained with is");
            return NULL;
        }
        if (!fl_t_add_kid(p, n, postfix(p, primary(p)))) return NULL;
    }
    if (!negated) return n;
    fl_tnode *not = fl_t_node(p, FL_TN_UNARY);
    if (!not ) return NULL;
    not ->op = '!';
    not ->a = n;
    return not ;
}

static fl_tnode *filters(fl_tparser *p, fl_tnode *n) {
    while (n) {
        if (fl_t_eat_op(p, '|')) {
            n = fl_t_parse_filter(p, n);
        } else if (fl_t_eat_word(p, "is")) {
            n = test(p, n);
        } else if (fl_t_is_op(p, '(')) {
            n = call(p, n);
        } else {
            break;
        }
    }
    return n;
}

/* The sign binds tighter than a filter but not than . [] (): -x.y|abs is (-(x.y))|abs. */
static fl_tnode *signed_primary(fl_tparser *p) {
    if (!fl_t_is_op(p, '-') && !fl_t_is_op(p, '+')) return postfix(p, primary(p));
    fl_tnode *n = fl_t_node(p, FL_TN_UNARY);
    if (!n || !fl_t_deeper(p)) return NULL;
    n->op = fl_t_current(p)->op;
    p->at++;
    n->a = signed_primary(p);
    p->depth--;
    return n->a ? postfix(p, n) : NULL;
}

fl_tnode *fl_t_parse_unary(fl_tparser *p) {
    return filters(p, signed_primary(p));
}

/* Binary operators from the loosest to the tightest; all group to the left. */
static fl_tnode *binary(fl_tparser *p, int level) {
    static const char *const operators[] = {"+-", "~", "*/i%", "^"};
    if (level == 4) return fl_t_parse_unary(p);
    fl_tnode *left = binary(p, level + 1);
    while (left) {
        const fl_ttoken *t = fl_t_current(p);
        if (t->kind != FL_TT_OPERATOR || !strchr(operators[level], t->op)) break;
        fl_tnode *n = fl_t_node(p, FL_TN_BINARY);
        if (!n) return NULL;
        n->op = t->op;
        n->a = left;
        p->at++;
        if (!(n->b = binary(p, level + 1))) return NULL;
        left = n;
    }
    return left;
}

/* The comparison at the current token, consumed; 0: none. */
static char comparison(fl_tparser *p) {
    const fl_ttoken *t = fl_t_current(p);
    char op = 0;
    if (t->kind == FL_TT_OPERATOR && strchr("e!<>lg", t->op)) op = (char)t->op;
    if (token_is_word(t, "in")) op = 'n';
    if (token_is_word(t, "not") && token_is_word(t + 1, "in")) op = 'N';
    p->at += (op != 0) + (op == 'N');
    return op == 'e' ? '=' : op;
}

static fl_tnode *compare(fl_tparser *p) {
    fl_tnode *first = binary(p, 0), *n = NULL;
    char op;
    while (first && (op = comparison(p))) {
        if (!n) {
            if (!(n = fl_t_node(p, FL_TN_COMPARE))) return NULL;
            n->a = first;
        }
        fl_tnode *operand = fl_t_node(p, FL_TN_OPERAND);
        if (!operand) return NULL;
        operand->op = (uint8_t)op;
        if (!(operand->a = binary(p, 0)) || !fl_t_add_kid(p, n, operand)) return NULL;
    }
    return n ? n : first;
}

static fl_tnode *negation(fl_tparser *p) {
    if (!fl_t_eat_word(p, "not")) return compare(p);
    fl_tnode *n = fl_t_node(p, FL_TN_UNARY);
    if (!n || !fl_t_deeper(p)) return NULL;
    n->op = '!';
    n->a = negation(p);
    p->depth--;
    return n->a ? n : NULL;
}

static fl_tnode *conjunction(fl_tparser *p, fl_tnode_kind kind) {
    bool is_or = kind == FL_TN_OR;
    fl_tnode *left = is_or ? conjunction(p, FL_TN_AND) : negation(p);
    while (left && fl_t_eat_word(p, is_or ? "or" : "and")) {
        fl_tnode *n = fl_t_node(p, kind);
        if (!n) return NULL;
        n->a = left;
        n->b = is_or ? conjunction(p, FL_TN_AND) : negation(p);
        if (!n->b) return NULL;
        left = n;
    }
    return left;
}

/* a if b else c; without `conditional`, as in `for x in a if b`, the if is not ours. */
static fl_tnode *expression(fl_tparser *p, bool conditional) {
    if (!fl_t_deeper(p)) return NULL;
    fl_tnode *n = conjunction(p, FL_TN_OR);
    while (n && conditional && fl_t_eat_word(p, "if")) {
        fl_tnode *c = fl_t_node(p, FL_TN_CONDITIONAL);
        if (!c) return NULL;
        c->a = n;
        if (!(c->b = conjunction(p, FL_TN_OR))) return NULL;
        if (fl_t_eat_word(p, "else") && !(c->c = expression(p, true))) return NULL;
        n = c;
    }
    p->depth--;
    return n;
}

fl_tnode *fl_t_parse_expression(fl_tparser *p) {
    return expression(p, true);
}

fl_tnode *fl_t_parse_tuple(fl_tparser *p, bool conditional) {
    fl_tnode *first = expression(p, conditional);
    if (!first || !fl_t_is_op(p, ',')) return first;
    fl_tnode *n = fl_t_node(p, FL_TN_TUPLE);
    if (!n || !fl_t_add_kid(p, n, first)) return NULL;
    while (fl_t_eat_op(p, ',')) {
        const fl_ttoken *t = fl_t_current(p);
        if (t->kind == FL_TT_OUTPUT_END || t->kind == FL_TT_BLOCK_END || fl_t_is_op(p, ')')) break;
        if (!fl_t_add_kid(p, n, expression(p, conditional))) return NULL;
    }
    return n;
}
