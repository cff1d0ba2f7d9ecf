#include "formats/quant_rules.h"

#include <fnmatch.h>
#include <string.h>

#include "formats/module_pattern.h"
#include "util/mem.h"

typedef struct rule {
    fl_rule_kind kind;
    const char *target;
    fl_quant_plan scheme;
    int code; /* of the refusal */
    const char *refusal;
} rule;

struct fl_quant_rules {
    fl_arena block; /* targets, refusals */
    rule *rules;
    size_t n, cap;
};

const char *const fl_ignore_keys[] = {
    "ignored_layers", "modules_to_not_convert", "ignore", "exclude_modules", "exclude", NULL};

static int no_memory(fl_err *err) {
    return fl_fail(err, FL_E_NOMEM, "no memory for the schemes of linears");
}

int fl_quant_rules_new(fl_quant_rules **out, fl_err *err) {
    *out = fl_alloc(sizeof(**out));
    return *out ? FL_OK : no_memory(err);
}

void fl_quant_rules_free(fl_quant_rules *r) {
    if (!r) return;
    fl_arena_free(&r->block);
    fl_free(r->rules);
    fl_free(r);
}

size_t fl_quant_rules_count(const fl_quant_rules *r) {
    return r->n;
}

static const char *keep(fl_quant_rules *r, const char *text) {
    const size_t len = strlen(text) + 1;
    char *copy = fl_arena_alloc(&r->block, len);
    return copy ? memcpy(copy, text, len) : NULL;
}

int fl_quant_rules_add(fl_quant_rules *r, fl_rule_kind kind, const char *target,
                       const fl_quant_plan *scheme, const fl_err *refusal, fl_err *err) {
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        rule *grown = fl_grow(r->rules, cap * sizeof(*grown));
        if (!grown) return no_memory(err);
        r->rules = grown;
        r->cap = cap;
    }
    const bool refused = refusal && refusal->code;
    const char *name = keep(r, target), *why = keep(r, refused ? refusal->msg : "");
    if (!name || !why) return no_memory(err);
    r->rules[r->n++] = (rule){kind, name, *scheme, refused ? refusal->code : FL_OK, why};
    return FL_OK;
}

/* An expression we cannot read names nothing. */
static bool pattern_names(const char *pattern, const char *module) {
    return !fl_module_pattern_check(pattern, NULL) && fl_module_pattern_match(pattern, module);
}

static bool names(const rule *r, const char *module) {
    switch (r->kind) {
    case FL_RULE_NAME:
        return !strcmp(r->target, module);
    case FL_RULE_PATTERN:
        return pattern_names(r->target, module);
    case FL_RULE_GLOB:
        return !fnmatch(r->target, module, 0);
    case FL_RULE_LINEAR:
        return true;
    }
    return false;
}

/* Whether a counts before b, which was added earlier. */
static bool precedes(const rule *a, const rule *b) {
    if (a->kind != b->kind) return a->kind < b->kind;
    if (a->kind == FL_RULE_GLOB) return false;
    return a->kind != FL_RULE_PATTERN || strcmp(a->target, b->target) <= 0;
}

const fl_quant_plan *fl_quant_rules_find(const fl_quant_rules *r, const char *module,
                                         fl_err *refusal) {
    const rule *best = NULL;
    for (size_t i = 0; i < r->n; i++) {
        const rule *one = &r->rules[i];
        if ((!best || precedes(one, best)) && names(one, module)) best = one;
    }
    if (refusal) {
        refusal->code = FL_OK;
        if (best && best->code) fl_fail(refusal, best->code, "%s", best->refusal);
    }
    return best ? &best->scheme : NULL;
}

static bool entry_names(const char *entry, const char *module) {
    if (!strcmp(entry, module) || !strcmp(entry, "Linear")) return true;
    if (!strncmp(entry, "re:", 3)) return pattern_names(entry, module);
    return strpbrk(entry, "*?[") && !fnmatch(entry, module, 0);
}

bool fl_module_in_list(const fl_json_node *list, const char *module) {
    for (const fl_json_node *v = fl_json_first(list); v; v = fl_json_next(v)) {
        if (fl_json_string(v) && entry_names(fl_json_string(v), module)) return true;
    }
    return false;
}

bool fl_section_ignores(const fl_json_node *section, const char *module) {
    for (size_t i = 0; fl_ignore_keys[i]; i++) {
        if (fl_module_in_list(fl_json_get(section, fl_ignore_keys[i]), module)) return true;
    }
    return false;
}
