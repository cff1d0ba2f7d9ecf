/* Ignore patterns: names and the part of Python's re.match that they use. */
#include "formats/module_pattern.h"

#include <string.h>

#include "tap.h"
#include "util/mem.h"

/* What Python's re.match says of each pair. */
static const struct {
    const char *pattern, *module;
    bool match;
} cases[] = {
    {"lm_head", "lm_head", true},
    {"lm_head", "model.lm_head", false},
    {"lm.head", "lm_head", false},
    {"re:lm_head", "lm_head_2", true}, /* the start is enough */
    {"re:lm_head$", "lm_head_2", false},
    {"re:head", "lm_head", false}, /* but it must be the start */
    {"re:.*lm_head", "model.lm_head", true},
    {"re:^lm_head$", "lm_head", true},
    {"re:.*\\.down_proj", "model.layers.3.mlp.down_proj", true},
    {"re:.*\\.down_proj", "model.layers.3.mlp_down_proj", false},
    {"re:model\\.layers\\.(0|1|29)\\..*", "model.layers.1.mlp.up_proj", true},
    {"re:model\\.layers\\.(0|1|29)\\..*", "model.layers.29.mlp.up_proj", true},
    {"re:model\\.layers\\.(0|1|29)\\..*", "model.layers.2.mlp.up_proj", false},
    {"re:model\\.layers\\.\\d+\\.self_attn\\.[qkv]_proj$", "model.layers.17.self_attn.k_proj",
     true},
    {"re:model\\.layers\\.\\d+\\.self_attn\\.[qkv]_proj$", "model.layers.17.self_attn.o_proj",
     false},
    {"re:model\\.layers\\.\\d{2}\\.", "model.layers.17.mlp", true},
    {"re:model\\.layers\\.\\d{2}\\.", "model.layers.7.mlp", false},
    {"re:model\\.layers\\.\\d{2,}\\.", "model.layers.107.mlp", true},
    {"re:a{1,2}b", "aab", true},
    {"re:a{1,2}b", "aaab", false},
    {"re:[^.]+\\.[a-c]x", "mlp.bx", true},
    {"re:[^.]+\\.[a-c]x", "mlp.dx", false},
    {"re:(?:ab)*c", "ababc", true},
    {"re:(?:ab)+c", "c", false},
    {"re:(ab?)*$", "abaab", true},
    {"re:(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false},
    {"re:(a|ab)(c|bcd)$", "abcd", true},
    {"re:.*?_proj$", "q_proj", true},
    {"re:(x??y)+$", "xyy", true},
    {"re:a|b", "b", true},
    {"re:[]x]a", "]a", true},
    {"re:[a\\]]b", "]b", true},
    {"re:[\\d_]+z", "1_2z", true},
    {"re:a?", "b", true},
};

static const struct {
    const char *pattern;
    int code;
    const char *part;
} bad[] = {
    {"", FL_E_FORMAT, "empty"},
    {"re:", FL_E_FORMAT, "empty"},
    {"re:a(b", FL_E_FORMAT, "'(' without ')'"},
    {"re:a)b", FL_E_FORMAT, "')' without '('"},
    {"re:*a", FL_E_FORMAT, "nothing to repeat"},
    {"re:a**", FL_E_FORMAT, "nothing to repeat"},
    {"re:(*a)", FL_E_FORMAT, "nothing to repeat"},
    {"re:a|+", FL_E_FORMAT, "nothing to repeat"},
    {"re:[ab", FL_E_FORMAT, "'[' without ']'"},
    {"re:[]", FL_E_FORMAT, "'[' without ']'"},
    {"re:a\\", FL_E_FORMAT, "backslash"},
    {"re:[a\\", FL_E_FORMAT, "'['"},
    {"re:\\bx", FL_E_UNSUPPORTED, "unknown escape"},
    {"re:(?!x)", FL_E_UNSUPPORTED, "(?:..)"},
    {"re:(?i)x", FL_E_UNSUPPORTED, "(?:..)"},
    {"re:a{x}", FL_E_FORMAT, "number"},
    {"re:a{2", FL_E_FORMAT, "'{' without '}'"},
    {"re:a{3,2}", FL_E_FORMAT, "more at least"},
    {"re:a{5000}", FL_E_LIMIT, "1000"},
    {"re:((((((((((((((((((a))))))))))))))))))", FL_E_LIMIT, "nested"},
};

int main(void) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_err err = {0};
        check(!fl_module_pattern_check(cases[i].pattern, &err), "'%s' is a pattern (%s)",
              cases[i].pattern, err.msg);
        check(fl_module_pattern_match(cases[i].pattern, cases[i].module) == cases[i].match,
              "'%s' %s '%s'", cases[i].pattern, cases[i].match ? "matches" : "does not match",
              cases[i].module);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        fl_err err = {0};
        int rc = fl_module_pattern_check(bad[i].pattern, &err);
        check(rc == bad[i].code && strstr(err.msg, bad[i].part), "'%s' is refused: %s",
              bad[i].pattern, err.msg);
    }
    char longer[600] = "re:";
    memset(longer + 3, '(', 590);
    check(fl_module_pattern_check(longer, NULL) == FL_E_LIMIT, "a pattern of 590 bytes is refused");
    return tap_done();
}
