/* Upper, lower and title case of template strings. */
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"
#include "text/unicode_case.h"
#include "util/utf8.h"

static bool is_cased(uint32_t cp) {
    return (fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) <= FL_UC_LT;
}

/* Marks and signs that stand inside of words. */
static bool ignores_case(uint32_t cp) {
    static const uint32_t categories =
        1 << FL_UC_MN | 1 << FL_UC_ME | 1 << FL_UC_CF | 1 << FL_UC_LM | 1 << FL_UC_SK;
    return cp == '\'' || cp == '.' || cp == ':' || cp == 0xb7 || cp == 0x2019 ||
           categories >> (fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) & 1;
}

/* Whether a word starts behind this character: str.title and the filter title differ. */
static bool ends_word(fl_tcase how, uint32_t cp) {
    if (how == FL_T_TITLE) return !is_cased(cp);
    return fl_uc_is_str_space(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
}

/* Full case folding: lower case of upper case, but for a dotless i and for Cherokee, whose
 * letters fold to upper case. */
static int fold(uint32_t cp, uint32_t out[3]) {
    uint32_t lower[3], upper[3], back[3];
    int n = 0;
    if (cp == 0x131 || (cp >= 0x13a0 && cp <= 0x13f5)) {
        out[0] = cp;
        return 1;
    }
    if ((cp >= 0x13f8 && cp <= 0x13fd) || (cp >= 0xab70 && cp <= 0xabbf))
        return fl_uc_upper(cp, out);
    int n_lower = fl_uc_lower(cp, lower);
    for (int i = 0; i < n_lower; i++) {
        int n_upper = fl_uc_upper(lower[i], upper);
        for (int k = 0; k < n_upper && n < 3; k++) {
            fl_uc_lower(upper[k], back);
            out[n++] = back[0];
        }
    }
    return n;
}

static int map_case(uint32_t cp, fl_tcase how, uint32_t to[3]) {
    if (how == FL_T_SWAP) {
        to[0] = cp;
        if ((fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) == FL_UC_LT) return 1;
        int n = fl_uc_upper(cp, to);
        return n == 1 && to[0] == cp ? fl_uc_lower(cp, to) : n;
    }
    if (how == FL_T_UPPER) return fl_uc_upper(cp, to);
    if (how == FL_T_LOWER) return fl_uc_lower(cp, to);
    return how == FL_T_FOLD ? fold(cp, to) : fl_uc_title(cp, to);
}

enum { MAX_WORD = 100 }; /* as far as a sigma looks around */

/* A sigma at the end of a word has a lower case of its own. */
static bool is_final_sigma(const fl_tstr *s, size_t i, size_t n) {
    uint32_t cp;
    bool before = false, after = false;
    for (size_t k = i, far = 0; k > 0 && !before && far < MAX_WORD; far++) {
        k = fl_uc_back(s->data, k);
        fl_tstr_next(s, k, &cp);
        before = is_cased(cp);
        if (!before && !ignores_case(cp)) break;
    }
    for (size_t k = i + n, far = 0; k < s->len && !after && far < MAX_WORD; far++) {
        k += fl_tstr_next(s, k, &cp);
        after = is_cased(cp);
        if (!after && !ignores_case(cp)) break;
    }
    return before && !after;
}

static bool put_mapped(fl_trun *r, fl_ttext *t, const fl_tstr *s, size_t i, uint32_t cp,
                       fl_tcase how) {
    uint32_t to[3];
    char utf8[12];
    size_t n = 0;
    int n_to = map_case(cp, how, to);
    if (cp == 0x3a3 && to[0] == 0x3c3 && how != FL_T_FOLD && is_final_sigma(s, i, 2)) to[0] = 0x3c2;
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
    return fl_ttext_finish(r, &t, ok, out) && fl_tv_keep_markup(r, s->markup, out);
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
