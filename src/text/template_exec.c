/* Statements: tree -> text. */
#include <string.h>

#include "text/template_run.h"

static fl_tscope *new_scope(fl_trun *r, fl_tscope *parent) {
    fl_tscope *s = fl_t_alloc(r, sizeof(*s));
    if (s) s->parent = parent;
    return s;
}

bool fl_t_set_variable(fl_trun *r, fl_tscope *s, uint32_t id, fl_tv v) {
    uint32_t i = 0;
    while (i < s->n && s->variables[i].id != id) i++;
    r->steps += i / 16;
    if (i == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 4;
        struct fl_tvariable *grown = fl_t_alloc(r, cap * sizeof(*grown));
        if (!grown) return false;
        if (s->n) memcpy(grown, s->variables, s->n * sizeof(*grown));
        s->variables = grown;
        s->cap = cap;
    }
    s->variables[i] = (struct fl_tvariable){id, v};
    s->n += i == s->n;
    return true;
}

fl_tv fl_t_variable(fl_trun *r, const fl_tname *name) {
    for (const fl_tscope *s = r->scope; s; s = s->parent) {
        for (uint32_t i = 0; i < s->n; i++)
            if (s->variables[i].id == name->id) return s->variables[i].value;
        r->steps += s->n / 16;
    }
    return r->globals[name->id];
}

static bool assign(fl_trun *r, const fl_tnode *target, fl_tv v) {
    const fl_tlist *items;
    if (target->kind == FL_TN_NAME) return fl_t_set_variable(r, r->scope, target->name->id, v);
    if (target->kind == FL_TN_NS_REF) {
        fl_tv ns = fl_t_variable(r, target->a->name);
        if (ns.kind != FL_TV_NAMESPACE)
            return fl_t_fail(r, FL_E_ARG, "attributes can only be set on a namespace, not on '%s'",
                             fl_tv_type_name(&ns));
        return fl_t_may_set(r, &target->name->text) &&
               fl_tdict_set(r, ns.dict, fl_tv_string(&target->name->text), v);
    }
    if (!fl_tv_items(r, &v, &items)) return false;
    if (items->n != target->n_kids)
        return fl_t_fail(r, FL_E_ARG, "%zu values cannot be assigned to %u names", items->n,
                         target->n_kids);
    for (uint32_t i = 0; i < target->n_kids; i++)
        if (!assign(r, target->kids[i], items->items[i])) return false;
    return true;
}

/* What the body writes, as a string. */
static bool capture(fl_trun *r, const fl_tnode *body, fl_tv *out) {
    fl_ttext text = {0}, *outer = r->out;
    r->out = &text;
    bool ok = fl_t_exec(r, body);
    r->out = outer;
    return fl_ttext_finish(r, &text, ok, out) && fl_tv_keep_markup(r, r->autoescape, out);
}

/* The same in a scope of its own, through the filters of a block. */
static bool capture_block(fl_trun *r, const fl_tnode *body, const fl_tnode *filters, fl_tv *out) {
    fl_tscope *outer = r->scope;
    const fl_tv *outer_text = r->block_text;
    fl_tv text;
    if (!(r->scope = new_scope(r, outer))) return false;
    bool ok = capture(r, body, &text);
    r->scope = outer;
    if (!ok || !filters) {
        if (ok) *out = text;
        return ok;
    }
    r->block_text = &text;
    ok = fl_t_eval(r, filters, out);
    r->block_text = outer_text;
    return ok;
}

static bool put(fl_trun *r, const fl_tv *v) {
    const fl_targs none = {0};
    fl_tv text;
    if (!r->autoescape || v->kind == FL_TV_UNDEFINED) return fl_ttext_put_value(r, r->out, v);
    return fl_t_call_builtin(r, fl_t_filter("escape", 6), v, &none, &text) &&
           fl_ttext_put_str(r, r->out, text.string);
}

/* ---- loops ------------------------------------------------------------------------- */

/* The items that pass the `if` of a for statement. */
static bool filter_items(fl_trun *r, const fl_tnode *n, const fl_tlist *all, const fl_tlist **out) {
    fl_tscope *outer = r->scope;
    fl_tlist *kept = fl_tlist_new(r, 0);
    fl_tv v;
    bool ok = kept && (r->scope = new_scope(r, outer));
    for (size_t i = 0; ok && i < all->n; i++) {
        const fl_tlist *parts;
        fl_tv item = all->items[i];
        ok = assign(r, n->a, item) && fl_t_eval(r, n->d, &v);
        if (!ok || !fl_tv_truth(&v)) continue;
        if (n->a->kind == FL_TN_TUPLE) { /* several names make a tuple of what they took */
            if (!(ok = fl_tv_items(r, &item, &parts))) break;
            item = fl_tv_list(FL_TV_TUPLE, (fl_tlist *)parts);
        }
        ok = fl_tlist_push(r, kept, item);
    }
    r->scope = outer;
    *out = kept;
    return ok;
}

/* One run of the loop body for each item.  *completed: some run reached its end. */
static bool run_loop(fl_trun *r, fl_tloop *loop, bool *completed) {
    const fl_tnode *n = loop->node;
    fl_tscope *outer = r->scope, *scope = new_scope(r, loop->scope);
    bool ok = scope != NULL;
    *completed = false;
    r->scope = scope;
    for (loop->index = 0; ok && loop->index < loop->items->n; loop->index++) {
        scope->n = 0; /* a macro of an earlier run sees the variables of this one */
        ok = fl_t_set_variable(r, scope, FL_T_LOOP, (fl_tv){.kind = FL_TV_LOOP, .loop = loop}) &&
             assign(r, n->a, loop->items->items[loop->index]) && fl_t_exec(r, n->e);
        if (r->flow == FL_T_NEXT) *completed = true;
        bool stop = r->flow == FL_T_BREAK;
        r->flow = FL_T_NEXT;
        if (stop) break;
    }
    r->scope = outer;
    return ok;
}

static bool exec_items(fl_trun *r, const fl_tnode *n, const fl_tv *iterable, int depth) {
    fl_tloop *loop = fl_t_alloc(r, sizeof(*loop));
    fl_tscope *outer = r->scope;
    bool completed;
    if (!loop || !fl_tv_items(r, iterable, &loop->items)) return false;
    if (n->d && !filter_items(r, n, loop->items, &loop->items)) return false;
    loop->node = n;
    loop->depth = depth;
    loop->scope = outer;
    loop->last_changed.kind = FL_TV_ABSENT;
    if (!run_loop(r, loop, &completed)) return false;
    if (completed || !n->c) return true;
    if (!(r->scope = new_scope(r, outer))) return false;
    bool ok = fl_t_exec(r, n->c);
    r->scope = outer;
    return ok;
}

static bool exec_for(fl_trun *r, const fl_tnode *n) {
    fl_tv iterable;
    return fl_t_eval(r, n->b, &iterable) && exec_items(r, n, &iterable, 1);
}

bool fl_t_recurse(fl_trun *r, const fl_tloop *loop, const fl_tv *items, fl_tv *out) {
    fl_ttext text = {0}, *outer_out = r->out;
    fl_tscope *outer = r->scope;
    if (!loop->node->uses) return fl_t_fail(r, FL_E_ARG, "the loop is not marked recursive");
    if (!fl_t_enter(r)) return false;
    r->out = &text;
    r->scope = loop->scope;
    bool ok = exec_items(r, loop->node, items, loop->depth + 1);
    r->scope = outer;
    r->out = outer_out;
    r->depth--;
    return fl_ttext_finish(r, &text, ok, out);
}

/* ---- macros ------------------------------------------------------------------------ */

static bool make_macro(fl_trun *r, const fl_tnode *n, fl_tv *out) {
    fl_tmacro *m = fl_t_alloc(r, sizeof(*m));
    if (!m) return false;
    *m = (fl_tmacro){.node = n, .scope = r->scope};
    *out = (fl_tv){.kind = FL_TV_MACRO, .macro = m};
    return true;
}

static const char *macro_name(const fl_tmacro *m, int *n) {
    const fl_tname *name = m->node->name;
    *n = name ? (int)(name->text.len > 40 ? 40 : name->text.len) : 6;
    return name ? name->text.data : "caller";
}

/* The parameter i: positional, by name, its default, or undefined. */
static bool bind_parameter(fl_trun *r, const fl_tnode *param, size_t i, const fl_targs *args,
                           bool *used) {
    fl_tv v = fl_tv_undefined(&param->name->text, false);
    bool given = i < args->n_positional;
    if (given) v = args->positional[i];
    for (size_t k = 0; !given && k < args->n_keywords; k++) {
        if (args->keys[k]->len != param->name->text.len ||
            memcmp(args->keys[k]->data, param->name->text.data, args->keys[k]->len) != 0)
            continue;
        v = args->keywords[k];
        used[k] = given = true;
    }
    if (!given && param->a && !fl_t_eval(r, param->a, &v)) return false;
    return fl_t_set_variable(r, r->scope, param->name->id, v);
}

static bool bind_varargs(fl_trun *r, const fl_tnode *macro, const fl_targs *args) {
    fl_tlist *rest = fl_tlist_new(r, 0);
    if (!rest) return false;
    for (size_t i = macro->n_kids; i < args->n_positional; i++)
        if (!fl_tlist_push(r, rest, args->positional[i])) return false;
    return fl_t_set_variable(r, r->scope, FL_T_VARARGS, fl_tv_list(FL_TV_TUPLE, rest));
}

/* Keywords that are no parameters: caller, and the rest for kwargs. */
static bool bind_keywords(fl_trun *r, const fl_tmacro *m, const fl_targs *args, const bool *used) {
    fl_tdict *rest = fl_tdict_new(r);
    int n;
    const char *name = macro_name(m, &n);
    for (size_t i = 0; rest && i < args->n_keywords; i++) {
        const fl_tstr *key = args->keys[i];
        if (used[i]) continue;
        if (fl_tstr_is(key, "caller") && m->node->uses & 1 << FL_T_CALLER) {
            if (!fl_t_set_variable(r, r->scope, FL_T_CALLER, args->keywords[i])) return false;
        } else if (m->node->uses & 1 << FL_T_KWARGS) {
            if (!fl_tdict_set(r, rest, fl_tv_string(key), args->keywords[i])) return false;
        } else {
            return fl_t_fail(r, FL_E_ARG, "macro '%.*s' takes no keyword argument '%.*s'", n, name,
                             key->len > 40 ? 40 : (int)key->len, key->data);
        }
    }
    if (!rest || !(m->node->uses & 1 << FL_T_KWARGS)) return rest != NULL;
    return fl_t_set_variable(r, r->scope, FL_T_KWARGS, (fl_tv){.kind = FL_TV_DICT, .dict = rest});
}

static bool bind_macro(fl_trun *r, const fl_tmacro *m, const fl_targs *args) {
    static const fl_tstr caller = {.data = "caller", .len = 6};
    const fl_tnode *macro = m->node;
    bool *used = fl_t_alloc(r, args->n_keywords);
    int n;
    const char *name = macro_name(m, &n);
    if (!used) return false;
    if (macro->uses & 1 << FL_T_CALLER &&
        !fl_t_set_variable(r, r->scope, FL_T_CALLER, fl_tv_undefined(&caller, false)))
        return false;
    if (args->n_positional > macro->n_kids && !(macro->uses & 1 << FL_T_VARARGS))
        return fl_t_fail(r, FL_E_ARG, "macro '%.*s' takes %u arguments, got %zu", n, name,
                         macro->n_kids, args->n_positional);
    for (uint32_t i = 0; i < macro->n_kids; i++)
        if (!bind_parameter(r, macro->kids[i], i, args, used)) return false;
    if (macro->uses & 1 << FL_T_VARARGS && !bind_varargs(r, macro, args)) return false;
    return bind_keywords(r, m, args, used);
}

bool fl_t_call_macro(fl_trun *r, const fl_tmacro *m, const fl_targs *args, fl_tv *out) {
    fl_tscope *outer = r->scope;
    if (!fl_t_enter(r)) return false;
    bool ok = (r->scope = new_scope(r, m->scope)) && bind_macro(r, m, args) &&
              capture(r, m->node->b, out);
    r->scope = outer;
    r->depth--;
    if (ok && r->flow != FL_T_NEXT) return fl_t_fail(r, FL_E_FORMAT, "break outside of a loop");
    return ok;
}

static bool exec_macro(fl_trun *r, const fl_tnode *n) {
    fl_tv v;
    return make_macro(r, n, &v) && fl_t_set_variable(r, r->scope, n->name->id, v);
}

static bool exec_call_block(fl_trun *r, const fl_tnode *n) {
    fl_tv caller, v;
    return make_macro(r, n->c, &caller) && fl_t_eval_call(r, n->a, &caller, &v) && put(r, &v);
}

/* ---- the other statements ---------------------------------------------------------- */

static bool exec_with(fl_trun *r, const fl_tnode *n) {
    fl_tscope *outer = r->scope, *inner = new_scope(r, outer);
    fl_tv v;
    bool ok = inner != NULL;
    for (uint32_t i = 0; ok && i < n->n_kids; i++) { /* the values see the outer scope */
        const fl_tnode *set = n->kids[i];
        ok = fl_t_eval(r, set->b, &v) && fl_t_set_variable(r, inner, set->a->name->id, v);
    }
    r->scope = inner;
    ok = ok && fl_t_exec(r, n->b);
    r->scope = outer;
    return ok;
}

static bool exec_autoescape(fl_trun *r, const fl_tnode *n) {
    const bool outer = r->autoescape;
    fl_tscope *scope = r->scope;
    fl_tv v;
    if (!fl_t_eval(r, n->a, &v) || !(r->scope = new_scope(r, scope))) return false;
    r->autoescape = fl_tv_truth(&v);
    bool ok = fl_t_exec(r, n->b);
    r->autoescape = outer;
    r->scope = scope;
    return ok;
}

const fl_tnode *fl_t_find_block(const fl_template *t, const fl_tstr *name) {
    for (uint32_t i = 0; t->blocks && i < t->blocks->n_kids; i++) {
        const fl_tstr *other = &t->blocks->kids[i]->name->text;
        if (other->len == name->len && !memcmp(other->data, name->data, name->len))
            return t->blocks->kids[i];
    }
    return NULL;
}

static bool exec_block(fl_trun *r, const fl_tnode *n, bool scoped) {
    fl_tscope *outer = r->scope;
    if (!(r->scope = new_scope(r, scoped ? outer : r->root))) return false;
    bool ok = fl_t_exec(r, n->b);
    r->scope = outer;
    return ok && (r->flow == FL_T_NEXT || fl_t_fail(r, FL_E_FORMAT, "break outside of a loop"));
}

bool fl_t_call_block(fl_trun *r, const fl_tnode *block, fl_tv *out) {
    fl_ttext text = {0}, *outer = r->out;
    if (!fl_t_enter(r)) return false;
    r->out = &text;
    bool ok = exec_block(r, block, false);
    r->out = outer;
    r->depth--;
    return fl_ttext_finish(r, &text, ok, out);
}

/* Jinja does not turn what a filter block gives into text. */
static bool put_filtered(fl_trun *r, const fl_tv *v) {
    const fl_tstr *s;
    return fl_tv_need_string(r, v, "filter block", &s) && fl_ttext_put_str(r, r->out, s);
}

static bool exec_if(fl_trun *r, const fl_tnode *n) {
    fl_tv v;
    while (n && n->kind == FL_TN_IF) {
        if (!fl_t_eval(r, n->a, &v)) return false;
        if (fl_tv_truth(&v)) return fl_t_exec(r, n->b);
        n = n->c;
    }
    return !n || fl_t_exec(r, n);
}

static bool exec_node(fl_trun *r, const fl_tnode *n) {
    fl_tv v;
    switch (n->kind) {
    case FL_TN_BODY:
        for (uint32_t i = 0; i < n->n_kids && r->flow == FL_T_NEXT; i++)
            if (!fl_t_exec(r, n->kids[i])) return false;
        return true;
    case FL_TN_DATA:
        return fl_ttext_put_str(r, r->out, n->value.string);
    case FL_TN_OUTPUT:
        return fl_t_eval(r, n->a, &v) && put(r, &v);
    case FL_TN_IF:
        return exec_if(r, n);
    case FL_TN_FOR:
        return exec_for(r, n);
    case FL_TN_SET:
        return fl_t_eval(r, n->b, &v) && assign(r, n->a, v);
    case FL_TN_SET_BLOCK:
        return capture_block(r, n->b, n->c, &v) && (r->flow || assign(r, n->a, v));
    case FL_TN_MACRO:
        return exec_macro(r, n);
    case FL_TN_CALL_BLOCK:
        return exec_call_block(r, n);
    case FL_TN_FILTER_BLOCK:
        return capture_block(r, n->b, n->a, &v) && (r->flow || put_filtered(r, &v));
    case FL_TN_WITH:
    case FL_TN_SCOPE:
        return exec_with(r, n);
    case FL_TN_AUTOESCAPE:
        return exec_autoescape(r, n);
    case FL_TN_BLOCK:
        return exec_block(r, n, n->uses);
    case FL_TN_OTHER_FILE:
        return fl_t_fail(r, FL_E_FORMAT, "%.*s: a chat template has no other files",
                         (int)n->name->text.len, n->name->text.data);
    case FL_TN_BREAK:
        r->flow = FL_T_BREAK;
        return true;
    case FL_TN_CONTINUE:
        r->flow = FL_T_CONTINUE;
        return true;
    default:
        return fl_t_fail(r, FL_E_FORMAT, "not a statement");
    }
}

bool fl_t_exec(fl_trun *r, const fl_tnode *n) {
    r->line = n->line;
    if (!fl_t_charge(r, 0) || !fl_t_enter(r)) return false;
    bool ok = exec_node(r, n);
    r->depth--;
    return ok;
}
