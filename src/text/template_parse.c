/* The statement grammar: tokens -> tree. */
#include <string.h>

#include "text/template_run.h"

static fl_tnode *statement(fl_tparser *p);

static bool want_block_end(fl_tparser *p) {
    if (fl_t_current(p)->kind != FL_TT_BLOCK_END) return fl_t_unexpected(p, "'%}'");
    p->at++;
    return true;
}

static fl_tnode *data_node(fl_tparser *p) {
    const fl_ttoken *t = fl_t_current(p);
    fl_tnode *n = fl_t_node(p, FL_TN_DATA);
    fl_tstr *s = fl_t_tree_alloc(p, sizeof(*s));
    if (!n || !s) return NULL;
    *s = (fl_tstr){.data = t->data, .len = t->len, .trusted = true};
    n->value = fl_tv_string(s);
    p->at++;
    return n;
}

static fl_tnode *output_node(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_OUTPUT);
    p->at++;
    if (!n || !(n->a = fl_t_parse_tuple(p, true))) return NULL;
    if (fl_t_current(p)->kind != FL_TT_OUTPUT_END) {
        fl_t_unexpected(p, "'}}'");
        return NULL;
    }
    p->at++;
    return n;
}

/* Everything up to a tag of one of `ends` (separated by blanks; NULL: up to the end of the
 * template).  The current token is then the one behind the word that ended it. */
static fl_tnode *body(fl_tparser *p, const char *ends, const char **ended_by) {
    static const char *const words[] = {"elif",    "else",          "endif",    "endfor",
                                        "endset",  "endmacro",      "endcall",  "endfilter",
                                        "endwith", "endgeneration", "endblock", "endautoescape"};
    fl_tnode *n = fl_t_node(p, FL_TN_BODY), *kid;
    int line = fl_t_current(p)->line;
    if (!n) return NULL;
    for (;;) {
        const fl_ttoken *t = fl_t_current(p);
        if (t->kind == FL_TT_END) {
            if (!ends) return n;
            fl_t_syntax(p, line, "block without %s", ends);
            return NULL;
        }
        if (t->kind == FL_TT_DATA) {
            kid = data_node(p);
        } else if (t->kind == FL_TT_OUTPUT_BEGIN) {
            kid = output_node(p);
        } else {
            p->at++;
            for (size_t i = 0; ends && i < sizeof(words) / sizeof(words[0]); i++) {
                if (!strstr(ends, words[i]) || !fl_t_eat_word(p, words[i])) continue;
                *ended_by = words[i];
                return n;
            }
            kid = statement(p);
        }
        if (!kid || !fl_t_add_kid(p, n, kid)) return NULL;
    }
}

/* The body up to {% end %} and the tag itself. */
static fl_tnode *body_until(fl_tparser *p, const char *end) {
    const char *ended_by;
    fl_tnode *n = want_block_end(p) ? body(p, end, &ended_by) : NULL;
    return n && want_block_end(p) ? n : NULL;
}

static bool can_assign(fl_tparser *p, const fl_ttoken *t) {
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
        if (t->kind == FL_TT_NAME && t->len == strlen(constants[i]) &&
            !memcmp(t->data, constants[i], t->len))
            return fl_t_syntax(p, t->line, "cannot assign to %s", constants[i]);
    }
    return true;
}

static fl_tnode *target(fl_tparser *p, bool allow_ns);

static fl_tnode *single_target(fl_tparser *p, bool allow_ns) {
    fl_tnode *n, *attribute;
    if (fl_t_is_op(p, '(')) {
        if (!fl_t_deeper(p)) return NULL;
        p->at++;
        n = target(p, false);
        p->depth--;
        return n && fl_t_want_op(p, ')') ? n : NULL;
    }
    if (!can_assign(p, fl_t_current(p)) || !(n = fl_t_node(p, FL_TN_NAME)) ||
        !(n->name = fl_t_take_name(p)))
        return NULL;
    if (!allow_ns || !fl_t_eat_op(p, '.')) return n;
    if (!(attribute = fl_t_node(p, FL_TN_NS_REF))) return NULL;
    attribute->a = n;
    return (attribute->name = fl_t_take_name(p)) ? attribute : NULL;
}

/* What is assigned to: a name, ns.name, or several of them. */
static fl_tnode *target(fl_tparser *p, bool allow_ns) {
    fl_tnode *first = single_target(p, allow_ns), *n;
    if (!first || !fl_t_is_op(p, ',')) return first;
    if (!(n = fl_t_node(p, FL_TN_TUPLE)) || !fl_t_add_kid(p, n, first)) return NULL;
    while (fl_t_eat_op(p, ',')) {
        if (fl_t_is_word(p, "in") || fl_t_is_op(p, ')')) break;
        if (!fl_t_add_kid(p, n, single_target(p, allow_ns))) return NULL;
    }
    return n;
}

static fl_tnode *parse_if(fl_tparser *p) {
    fl_tnode *first = NULL, *last = NULL;
    const char *ended_by = "elif";
    while (!strcmp(ended_by, "elif")) {
        fl_tnode *n = fl_t_node(p, FL_TN_IF);
        if (!n || !(n->a = fl_t_parse_tuple(p, false)) || !want_block_end(p) ||
            !(n->b = body(p, "elif else endif", &ended_by)))
            return NULL;
        if (last) last->c = n;
        if (!first) first = n;
        last = n;
    }
    if (!strcmp(ended_by, "else")) {
        if (!(last->c = body_until(p, "endif"))) return NULL;
    } else if (!want_block_end(p)) {
        return NULL;
    }
    return first;
}

static fl_tnode *parse_for(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_FOR);
    const char *ended_by;
    if (!n || !(n->a = target(p, false))) return NULL;
    if (!fl_t_eat_word(p, "in")) {
        fl_t_unexpected(p, "'in'");
        return NULL;
    }
    if (!(n->b = fl_t_parse_tuple(p, false))) return NULL;
    p->t->takes_parts |= fl_t_is_content(n->b);
    if (fl_t_eat_word(p, "if") && !(n->d = fl_t_parse_expression(p))) return NULL;
    n->uses = fl_t_eat_word(p, "recursive");
    if (!want_block_end(p) || !(n->e = body(p, "else endfor", &ended_by))) return NULL;
    if (!strcmp(ended_by, "else")) {
        if (!(n->c = body_until(p, "endfor"))) return NULL;
    } else if (!want_block_end(p)) {
        return NULL;
    }
    return n;
}

/* Filters of a block: the innermost takes the block's text. */
static fl_tnode *block_filters(fl_tparser *p) {
    fl_tnode *n = NULL;
    do {
        if (!(n = fl_t_parse_filter(p, n))) return NULL;
    } while (fl_t_eat_op(p, '|'));
    return n;
}

static fl_tnode *parse_set(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_SET);
    if (!n || !(n->a = target(p, true))) return NULL;
    if (fl_t_eat_op(p, '='))
        return (n->b = fl_t_parse_tuple(p, true)) && want_block_end(p) ? n : NULL;
    n->kind = FL_TN_SET_BLOCK;
    if (fl_t_eat_op(p, '|') && !(n->c = block_filters(p))) return NULL;
    return (n->b = body_until(p, "endset")) ? n : NULL;
}

/* (a, b=1) of a macro or call block. */
static bool signature(fl_tparser *p, fl_tnode *macro) {
    bool defaults = false;
    if (!fl_t_want_op(p, '(')) return false;
    while (!fl_t_is_op(p, ')')) {
        fl_tnode *param = fl_t_node(p, FL_TN_PARAM);
        int line = fl_t_current(p)->line;
        if (!can_assign(p, fl_t_current(p)) || !param || !(param->name = fl_t_take_name(p)))
            return false;
        if (fl_t_eat_op(p, '=')) {
            if (!(param->a = fl_t_parse_expression(p))) return false;
            defaults = true;
        } else if (defaults) {
            return fl_t_syntax(p, line, "parameter without default behind one with default");
        }
        if (!fl_t_add_kid(p, macro, param)) return false;
        if (!fl_t_is_op(p, ')') && !fl_t_want_op(p, ',')) return false;
    }
    p->at++;
    return true;
}

/* Signature and body of a macro, and which of the special names it uses. */
static bool macro_body(fl_tparser *p, fl_tnode *macro, const char *end) {
    uint8_t outer = p->uses;
    p->uses = 0;
    if (!signature(p, macro) || !(macro->b = body_until(p, end))) return false;
    macro->uses = p->uses;
    p->uses = outer;
    return true;
}

static fl_tnode *parse_macro(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_MACRO);
    if (!n || !can_assign(p, fl_t_current(p)) || !(n->name = fl_t_take_name(p)) ||
        !macro_body(p, n, "endmacro"))
        return NULL;
    return n;
}

static fl_tnode *parse_call(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_CALL_BLOCK), *macro = fl_t_node(p, FL_TN_MACRO);
    if (!n || !macro || (fl_t_is_op(p, '(') && !signature(p, macro)) ||
        !(n->a = fl_t_parse_expression(p)))
        return NULL;
    if (n->a->kind != FL_TN_CALL) {
        fl_t_syntax(p, n->line, "call block without a call");
        return NULL;
    }
    n->c = macro;
    return (macro->b = body_until(p, "endcall")) ? n : NULL;
}

static fl_tnode *parse_filter(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_FILTER_BLOCK);
    if (!n || !(n->a = block_filters(p))) return NULL;
    return (n->b = body_until(p, "endfilter")) ? n : NULL;
}

static fl_tnode *parse_with(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_WITH);
    while (n && fl_t_current(p)->kind != FL_TT_BLOCK_END) {
        if (n->n_kids && !fl_t_want_op(p, ',')) return NULL;
        fl_tnode *set = fl_t_node(p, FL_TN_SET);
        if (!set || !(set->a = single_target(p, false)) || !fl_t_want_op(p, '=') ||
            !(set->b = fl_t_parse_expression(p)) || !fl_t_add_kid(p, n, set))
            return NULL;
    }
    return n && (n->b = body_until(p, "endwith")) ? n : NULL;
}

/* Marks what the model wrote, for training; rendering only sees a scope. */
static fl_tnode *parse_generation(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_SCOPE);
    return n && (n->b = body_until(p, "endgeneration")) ? n : NULL;
}

static fl_tnode *parse_autoescape(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_AUTOESCAPE);
    return n && (n->a = fl_t_parse_expression(p)) && (n->b = body_until(p, "endautoescape")) ? n
                                                                                             : NULL;
}

/* {% block name scoped required %}: nothing can override it here. */
static fl_tnode *parse_block(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_BLOCK);
    const char *ended_by;
    if (!n || !(n->name = fl_t_take_name(p))) return NULL;
    if (fl_t_find_block(p->t, &n->name->text)) {
        fl_t_syntax(p, n->line, "block '%.*s' is defined twice", (int)n->name->text.len,
                    n->name->text.data);
        return NULL;
    }
    if (!p->t->blocks && !(p->t->blocks = fl_t_node(p, FL_TN_BODY))) return NULL;
    if (!fl_t_add_kid(p, p->t->blocks, n)) return NULL;
    n->uses = fl_t_eat_word(p, "scoped");
    if (fl_t_is_word(p, "required")) {
        fl_t_syntax(p, n->line, "a required block needs another file");
        return NULL;
    }
    if (!want_block_end(p) || !(n->b = body(p, "endblock", &ended_by))) return NULL;
    if (fl_t_current(p)->kind == FL_TT_NAME && fl_t_take_name(p) != n->name) {
        fl_t_unexpected(p, "the name of the block");
        return NULL;
    }
    return want_block_end(p) ? n : NULL;
}

/* {% print a, b %} */
static fl_tnode *parse_print(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_BODY);
    while (n && fl_t_current(p)->kind != FL_TT_BLOCK_END) {
        if (n->n_kids && !fl_t_want_op(p, ',')) return NULL;
        fl_tnode *output = fl_t_node(p, FL_TN_OUTPUT);
        if (!output || !(output->a = fl_t_parse_expression(p)) || !fl_t_add_kid(p, n, output))
            return NULL;
    }
    return n && want_block_end(p) ? n : NULL;
}

/* include, import, from, extends: they fail when they are reached, not before. */
static fl_tnode *parse_other_file(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_OTHER_FILE);
    const fl_ttoken *word = fl_t_current(p) - 1;
    if (!n || !(n->name = fl_t_intern(p, word->data, word->len))) return NULL;
    while (fl_t_current(p)->kind != FL_TT_BLOCK_END && fl_t_current(p)->kind != FL_TT_END) p->at++;
    return want_block_end(p) ? n : NULL;
}

static fl_tnode *parse_break(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_BREAK);
    return n && want_block_end(p) ? n : NULL;
}

static fl_tnode *parse_continue(fl_tparser *p) {
    fl_tnode *n = fl_t_node(p, FL_TN_CONTINUE);
    return n && want_block_end(p) ? n : NULL;
}

/* The current token is the tag's word. */
static fl_tnode *statement(fl_tparser *p) {
    static const struct {
        const char *word;
        fl_tnode *(*parse)(fl_tparser *p);
    } statements[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call},
        {"filter", parse_filter},
        {"with", parse_with},
        {"generation", parse_generation},
        {"break", parse_break},
        {"continue", parse_continue},
        {"block", parse_block},
        {"autoescape", parse_autoescape},
        {"print", parse_print},
        {"include", parse_other_file},
        {"import", parse_other_file},
        {"from", parse_other_file},
        {"extends", parse_other_file},
    };
    const fl_ttoken *t = fl_t_current(p);
    fl_tnode *n = NULL;
    if (!fl_t_deeper(p)) return NULL;
    for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
        if (!fl_t_eat_word(p, statements[i].word)) continue;
        n = statements[i].parse(p);
        p->depth--;
        return n;
    }
    if (t->kind == FL_TT_NAME) {
        fl_t_syntax(p, t->line, "unknown tag '%.*s'", t->len > 40 ? 40 : (int)t->len, t->data);
    } else {
        fl_t_unexpected(p, "tag name");
    }
    return NULL;
}

bool fl_t_parse(fl_tparser *p) {
    static const char *const fixed[FL_T_N_FIXED] = {"loop", "caller", "varargs", "kwargs"};
    for (size_t i = 0; i < FL_T_N_FIXED; i++)
        if (!fl_t_intern(p, fixed[i], strlen(fixed[i]))) return false;
    return (p->t->body = body(p, NULL, NULL)) != NULL;
}
