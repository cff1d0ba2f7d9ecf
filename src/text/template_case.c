/* Upper, lower and title case of template strings. */
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"
#include "text/unicode_case.h"
#include "util/utf8.h"

static bool is_cased(uint32_t cp) {
    return (fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) <= FL_UC_LT;
}

/* Whether a word starts behind this character: str.title and the filter title differ. */
static bool ends_word(fl_tcase how, uint32_t cp) {
    if (how == FL_T_TITLE) return !is_cased(cp);
    return fl_uc_is_str_space(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
}

static bool put_mapped(fl_trun *r, fl_ttext *t, const fl_tstr *s, size_t i, uint32_t cp,
                       fl_tcase how) {
    uint32_t to[3];
    char utf8[12];
    size_t n = 0;
    int n_to = how == FL_T_UPPER   ? fl_uc_upper(cp, to)
               : how == FL_T_LOWER ? fl_uc_lower(cp, to)
                                   : fl_uc_title(cp, to);
    for (int k = 0; k < n_to; k++) n += (size_t)fl_utf8_encode(utf8 + n, to[k]);
    return fl_ttext_put(r, t, utf8, n, NULL, s->mask ? s->mask[i] : s->trusted);
}

bool fl_tstr_case(fl_trun *r, const fl_tstr *s, fl_tcase how, fl_tv *out) {
    fl_ttext t = {0};
    bool ok = true, start = true;
    uint32_t cp;
    for (size_t i = 0, n; ok && i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        fl_tcase one = how;
        if (how == FL_T_CAPITALIZE) one = i ? FL_T_LOWER : FL_T_TITLE;
        if (how == FL_T_TITLE) one = start ? FL_T_TITLE : FL_T_LOWER;
        if (how == FL_T_TITLE_WORDS) one = start ? FL_T_UPPER : FL_T_LOWER;
        ok = put_mapped(r, &t, s, i, cp, one);
        start = ends_word(how, cp);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

bool fl_tstr_is_cased(const fl_tstr *s, bool upper) {
    bool any = false;
    uint32_t cp;
    for (size_t i = 0; i < s->len;) {
        i += fl_tstr_next(s, i, &cp);
        uint32_t category = fl_uc_prop(cp) & FL_UC_CATEGORY_MASK;
        if (category > FL_UC_LT) continue;
        if (category != (upper ? FL_UC_LU : FL_UC_LL)) return false;
        any = true;
    }
    return any;
}
