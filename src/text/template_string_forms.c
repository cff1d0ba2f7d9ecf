/* Methods of template strings that change their form (width, case, encoding), and those that
 * ask what their characters are, as Python's str has them. */
#include <string.h>

#include "text/template_run.h"
#include "util/utf8.h"

enum { MAX_WIDTH = 1 << 20 };

/* ---- width ------------------------------------------------------------------------- */

static bool put_fill(fl_trun *r, fl_ttext *t, const fl_tstr *fill, int64_t n) {
    bool ok = true;
    while (ok && n-- > 0) ok = fl_ttext_put_str(r, t, fill);
    return ok;
}

bool fl_tstr_pad(fl_trun *r, const fl_tstr *s, int64_t width, const fl_tstr *fill, fl_tpad where,
                 fl_tv *out) {
    static const fl_tstr blank = {.data = " ", .len = 1, .trusted = true};
    fl_ttext t = {0};
    int64_t n, room;
    if (width > MAX_WIDTH)
        return fl_t_fail(r, FL_E_LIMIT, "padded to more than %d characters", MAX_WIDTH);
    if (!fl_tstr_length(r, s, &n)) return false;
    if ((room = width - n) <= 0) {
        *out = fl_tv_string(s);
        return true;
    }
    if (!fill) fill = &blank;
    int64_t left = where == FL_T_PAD_LEFT ? room : 0;
    if (where == FL_T_PAD_BOTH) left = room / 2 + (room & width & 1);
    bool ok = put_fill(r, &t, fill, left) && fl_ttext_put_str(r, &t, s) &&
              put_fill(r, &t, fill, room - left);
    return fl_ttext_finish(r, &t, ok, out);
}

static bool pad(fl_trun *r, const fl_tcall *c, fl_tpad where, fl_tv *out) {
    const fl_tstr *fill = NULL;
    int64_t width, n = 1;
    if (!fl_tv_need_int(r, &c->arg[0], &width)) return false;
    if (c->arg[1].kind != FL_TV_ABSENT &&
        (!fl_tv_need_string(r, &c->arg[1], c->function->name, &fill) ||
         !fl_tstr_length(r, fill, &n)))
        return false;
    if (n != 1) return fl_t_fail(r, FL_E_ARG, "%s: one character expected", c->function->name);
    return fl_tstr_pad(r, c->self.string, width, fill, where, out);
}

static bool m_center(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return pad(r, c, FL_T_PAD_BOTH, out);
}
static bool m_ljust(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return pad(r, c, FL_T_PAD_RIGHT, out);
}
static bool m_rjust(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return pad(r, c, FL_T_PAD_LEFT, out);
}

static bool m_zfill(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    int64_t width, n;
    fl_ttext t = {0};
    if (!fl_tv_need_int(r, &c->arg[0], &width) || !fl_tstr_length(r, s, &n)) return false;
    size_t sign = s->len && (s->data[0] == '-' || s->data[0] == '+');
    bool ok = fl_ttext_put_part(r, &t, s, 0, sign);
    for (; ok && n < width; n++) ok = fl_ttext_puts(r, &t, "0");
    return fl_ttext_finish(r, &t, ok && fl_ttext_put_part(r, &t, s, sign, s->len), out);
}

static bool m_expandtabs(fl_trun *r, fl_tcall *c, fl_tv *out) {
    static const fl_tstr blank = {.data = " ", .len = 1, .trusted = true};
    const fl_tstr *s = c->self.string;
    int64_t size = 8, column = 0;
    fl_ttext t = {0};
    bool ok = c->arg[0].kind == FL_TV_ABSENT || fl_tv_need_int(r, &c->arg[0], &size);
    uint32_t cp;
    if (ok && size > MAX_WIDTH)
        return fl_t_fail(r, FL_E_LIMIT, "expandtabs: wider than %d", MAX_WIDTH);
    for (size_t i = 0, n; ok && i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        if (cp == '\t') {
            int64_t by = size > 0 ? size - column % size : 0;
            ok = put_fill(r, &t, &blank, by);
            column += by;
        } else {
            ok = fl_ttext_put_part(r, &t, s, i, i + n);
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
    }
    return fl_ttext_finish(r, &t, ok, out);
}

/* ---- case -------------------------------------------------------------------------- */

static bool change_case(fl_trun *r, const fl_tcall *c, fl_tcase how, fl_tv *out) {
    return fl_tstr_case(r, c->self.string, how, out);
}
static bool m_upper(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_UPPER, out);
}
static bool m_lower(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_LOWER, out);
}
static bool m_title(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_TITLE, out);
}
static bool m_capitalize(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_CAPITALIZE, out);
}
static bool m_swapcase(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_SWAP, out);
}
static bool m_casefold(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return change_case(r, c, FL_T_FOLD, out);
}

/* ---- code points ------------------------------------------------------------------- */

static bool need_text(fl_trun *r, const fl_tcall *c, int i, const fl_tstr **out) {
    return fl_tv_need_string(r, &c->arg[i], c->function->name, out);
}

/* maketrans(x, y [, z]): characters of x become those of y, those of z go; maketrans(dict). */
static bool m_maketrans(fl_trun *r, fl_tcall *c, fl_tv *out) {
    fl_tdict *d = fl_tdict_new(r);
    const fl_tstr *from, *to, *gone = NULL;
    uint32_t a = 0, b = 0;
    size_t i = 0, k = 0;
    *out = (fl_tv){.kind = FL_TV_DICT, .dict = d};
    if (!d) return false;
    if (c->arg[1].kind == FL_TV_ABSENT && c->arg[0].kind == FL_TV_DICT) {
        for (uint32_t e = 0; e < c->arg[0].dict->n; e++) {
            fl_tv key = c->arg[0].dict->entries[e].key;
            if (key.kind == FL_TV_STRING && key.string->len) {
                fl_tstr_next(key.string, 0, &a);
                key = fl_tv_int(a);
            }
            if (!fl_tdict_set(r, d, key, c->arg[0].dict->entries[e].value)) return false;
        }
        return true;
    }
    if (!need_text(r, c, 0, &from) || !need_text(r, c, 1, &to)) return false;
    if (c->arg[2].kind != FL_TV_ABSENT && !need_text(r, c, 2, &gone)) return false;
    while (i < from->len && k < to->len) {
        i += fl_tstr_next(from, i, &a);
        k += fl_tstr_next(to, k, &b);
        if (!fl_tdict_set(r, d, fl_tv_int(a), fl_tv_int(b))) return false;
    }
    if (i < from->len || k < to->len)
        return fl_t_fail(r, FL_E_ARG, "maketrans: the first two texts must be equally long");
    for (i = 0; gone && i < gone->len;) {
        i += fl_tstr_next(gone, i, &a);
        if (!fl_tdict_set(r, d, fl_tv_int(a), fl_tv_none())) return false;
    }
    return true;
}

static bool put_translated(fl_trun *r, fl_ttext *t, const fl_tstr *s, size_t i, size_t n,
                           const fl_tv *to) {
    char utf8[4];
    int64_t cp;
    if (!to) return fl_ttext_put_part(r, t, s, i, i + n);
    if (to->kind == FL_TV_NONE) return true;
    if (to->kind == FL_TV_STRING) return fl_ttext_put_str(r, t, to->string);
    if (!fl_tv_need_int(r, to, &cp)) return false;
    if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        return fl_t_fail(r, FL_E_ARG, "translate: %lld is no character", (long long)cp);
    return fl_ttext_put(r, t, utf8, (size_t)fl_utf8_encode(utf8, (uint32_t)cp), NULL, s->trusted);
}

static bool m_translate(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    fl_ttext t = {0};
    bool ok =
        c->arg[0].kind == FL_TV_DICT ||
        fl_t_fail(r, FL_E_ARG, "translate: dict expected, got '%s'", fl_tv_type_name(&c->arg[0]));
    uint32_t cp;
    for (size_t i = 0, n; ok && i < s->len; i += n) {
        fl_tv key, *found;
        n = fl_tstr_next(s, i, &cp);
        key = fl_tv_int(cp);
        ok =
            fl_tdict_find(r, c->arg[0].dict, &key, &found) && put_translated(r, &t, s, i, n, found);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

/* Only what every text has a form in. */
static bool need_utf8(fl_trun *r, const fl_tcall *c, const fl_tstr *s) {
    static const char *const names[] = {"utf-8", "utf8", "UTF-8", "UTF8", "ascii", NULL};
    const fl_tstr *name;
    if (c->arg[0].kind == FL_TV_ABSENT) return true;
    if (!need_text(r, c, 0, &name)) return false;
    for (const char *const *one = names; *one; one++) {
        if (!fl_tstr_is(name, *one)) continue;
        bool fits = **one != 'a';
        for (size_t i = 0; !fits && i < s->len; i++)
            if ((uint8_t)s->data[i] >= 0x80)
                return fl_t_fail(r, FL_E_ARG, "%s: not ASCII", c->function->name);
        return true;
    }
    return fl_t_fail(r, FL_E_ARG, "%s: only UTF-8 is known", c->function->name);
}

static bool m_encode(fl_trun *r, fl_tcall *c, fl_tv *out) {
    *out = (fl_tv){.kind = FL_TV_BYTES, .string = c->self.string};
    return need_utf8(r, c, c->self.string);
}

static bool b_decode(fl_trun *r, fl_tcall *c, fl_tv *out) {
    *out = fl_tv_string(c->self.string);
    return need_utf8(r, c, c->self.string);
}

/* ---- questions --------------------------------------------------------------------- */

enum {
    LETTERS = 1 << FL_UC_LU | 1 << FL_UC_LL | 1 << FL_UC_LT | 1 << FL_UC_LM | 1 << FL_UC_LO,
    NUMBERS = 1 << FL_UC_ND | 1 << FL_UC_NL | 1 << FL_UC_NO,
    MARKS = 1 << FL_UC_MN | 1 << FL_UC_MC
};

/* Digits that are no decimal ones, and numbers that are letters. */
static const uint32_t digits[][2] = {
    {0xb2, 0xb3},       {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},
    {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
    {0x2474, 0x247c},   {0x2488, 0x2490},   {0x24ea, 0x24ea},   {0x24f5, 0x24fd},
    {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},   {0x278a, 0x2792},
    {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a}};
static const uint32_t numerals[][2] = {
    {0x3405, 0x3405},   {0x3483, 0x3483},   {0x382a, 0x382a},   {0x3b4d, 0x3b4d},
    {0x4e00, 0x4e00},   {0x4e03, 0x4e03},   {0x4e07, 0x4e07},   {0x4e09, 0x4e09},
    {0x4e5d, 0x4e5d},   {0x4e8c, 0x4e8c},   {0x4e94, 0x4e94},   {0x4e96, 0x4e96},
    {0x4ebf, 0x4ec0},   {0x4edf, 0x4edf},   {0x4ee8, 0x4ee8},   {0x4f0d, 0x4f0d},
    {0x4f70, 0x4f70},   {0x5104, 0x5104},   {0x5146, 0x5146},   {0x5169, 0x5169},
    {0x516b, 0x516b},   {0x516d, 0x516d},   {0x5341, 0x5341},   {0x5343, 0x5345},
    {0x534c, 0x534c},   {0x53c1, 0x53c4},   {0x56db, 0x56db},   {0x58f1, 0x58f1},
    {0x58f9, 0x58f9},   {0x5e7a, 0x5e7a},   {0x5efe, 0x5eff},   {0x5f0c, 0x5f0e},
    {0x5f10, 0x5f10},   {0x62fe, 0x62fe},   {0x634c, 0x634c},   {0x67d2, 0x67d2},
    {0x6f06, 0x6f06},   {0x7396, 0x7396},   {0x767e, 0x767e},   {0x8086, 0x8086},
    {0x842c, 0x842c},   {0x8cae, 0x8cae},   {0x8cb3, 0x8cb3},   {0x8d30, 0x8d30},
    {0x9621, 0x9621},   {0x9646, 0x9646},   {0x964c, 0x964c},   {0x9678, 0x9678},
    {0x96f6, 0x96f6},   {0xf96b, 0xf96b},   {0xf973, 0xf973},   {0xf978, 0xf978},
    {0xf9b2, 0xf9b2},   {0xf9d1, 0xf9d1},   {0xf9d3, 0xf9d3},   {0xf9fd, 0xf9fd},
    {0x20001, 0x20001}, {0x20064, 0x20064}, {0x200e2, 0x200e2}, {0x20121, 0x20121},
    {0x2092a, 0x2092a}, {0x20983, 0x20983}, {0x2098c, 0x2098c}, {0x2099c, 0x2099c},
    {0x20aea, 0x20aea}, {0x20afd, 0x20afd}, {0x20b19, 0x20b19}, {0x22390, 0x22390},
    {0x22998, 0x22998}, {0x23b1b, 0x23b1b}, {0x2626d, 0x2626d}, {0x2f890, 0x2f890}};

static bool is_in(const uint32_t (*ranges)[2], size_t n, uint32_t cp) {
    for (size_t i = 0; i < n; i++)
        if (cp >= ranges[i][0] && cp <= ranges[i][1]) return true;
    return false;
}

static bool of_category(uint32_t cp, uint32_t categories) {
    return categories >> (fl_uc_prop(cp) & FL_UC_CATEGORY_MASK) & 1;
}

bool fl_t_is_word_char(uint32_t cp) {
    return cp == '_' || of_category(cp, LETTERS | NUMBERS);
}

static bool is_alpha(uint32_t cp) {
    return of_category(cp, LETTERS);
}
static bool is_alnum(uint32_t cp) {
    return of_category(cp, LETTERS | NUMBERS);
}
static bool is_decimal(uint32_t cp) {
    return of_category(cp, 1 << FL_UC_ND);
}
static bool is_digit(uint32_t cp) {
    return is_decimal(cp) || is_in(digits, sizeof(digits) / sizeof(digits[0]), cp);
}
static bool is_numeric(uint32_t cp) {
    return of_category(cp, NUMBERS) || is_in(numerals, sizeof(numerals) / sizeof(numerals[0]), cp);
}

/* Whether all characters pass; *out is `empty` where there is none. */
static bool all_are(fl_trun *r, const fl_tcall *c, bool (*passes)(uint32_t), bool empty,
                    fl_tv *out) {
    const fl_tstr *s = c->self.string;
    bool is = s->len > 0 || empty;
    uint32_t cp;
    for (size_t i = 0; is && i < s->len;) {
        i += fl_tstr_next(s, i, &cp);
        is = passes(cp);
    }
    *out = fl_tv_bool(is);
    return fl_t_charge(r, 4 * s->len);
}

static bool m_isalnum(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, is_alnum, false, out);
}
static bool m_isalpha(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, is_alpha, false, out);
}
static bool m_isdecimal(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, is_decimal, false, out);
}
static bool m_isdigit(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, is_digit, false, out);
}
static bool m_isnumeric(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, is_numeric, false, out);
}
static bool m_isspace(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, fl_uc_is_str_space, false, out);
}
static bool m_isprintable(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return all_are(r, c, fl_t_is_printable, true, out);
}

static bool m_isascii(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    size_t i = 0;
    while (i < s->len && (uint8_t)s->data[i] < 0x80) i++;
    *out = fl_tv_bool(i == s->len);
    return fl_t_charge(r, s->len);
}

static bool m_isidentifier(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    const uint32_t start = LETTERS | 1 << FL_UC_NL, more = MARKS | 1 << FL_UC_ND | 1 << FL_UC_PC;
    bool is = s->len > 0;
    uint32_t cp;
    for (size_t i = 0, n; is && i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        is = cp == '_' || of_category(cp, i ? start | more : start);
    }
    *out = fl_tv_bool(is);
    return fl_t_charge(r, 4 * s->len);
}

static bool m_isupper(fl_trun *r, fl_tcall *c, fl_tv *out) {
    *out = fl_tv_bool(fl_tstr_is_cased(c->self.string, true));
    return fl_t_charge(r, 4 * c->self.string->len);
}
static bool m_islower(fl_trun *r, fl_tcall *c, fl_tv *out) {
    *out = fl_tv_bool(fl_tstr_is_cased(c->self.string, false));
    return fl_t_charge(r, 4 * c->self.string->len);
}

static bool m_istitle(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    bool is = true, any = false, inside = false;
    uint32_t cp;
    for (size_t i = 0; is && i < s->len;) {
        i += fl_tstr_next(s, i, &cp);
        uint32_t category = fl_uc_prop(cp) & FL_UC_CATEGORY_MASK;
        bool cased = category <= FL_UC_LT;
        if (cased) is = inside == (category == FL_UC_LL);
        inside = cased;
        any |= cased;
    }
    *out = fl_tv_bool(is && any);
    return fl_t_charge(r, 4 * s->len);
}

const fl_tfunction *fl_t_string_form(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"capitalize", "", m_capitalize},
        {"casefold", "", m_casefold},
        {"center", ". .=", m_center},
        {"encode", "encoding= errors=", m_encode},
        {"expandtabs", "tabsize=", m_expandtabs},
        {"isalnum", "", m_isalnum},
        {"isalpha", "", m_isalpha},
        {"isascii", "", m_isascii},
        {"isdecimal", "", m_isdecimal},
        {"isdigit", "", m_isdigit},
        {"isidentifier", "", m_isidentifier},
        {"islower", "", m_islower},
        {"isnumeric", "", m_isnumeric},
        {"isprintable", "", m_isprintable},
        {"isspace", "", m_isspace},
        {"istitle", "", m_istitle},
        {"isupper", "", m_isupper},
        {"ljust", ". .=", m_ljust},
        {"lower", "", m_lower},
        {"maketrans", ". .= .=", m_maketrans},
        {"rjust", ". .=", m_rjust},
        {"swapcase", "", m_swapcase},
        {"title", "", m_title},
        {"translate", ".", m_translate},
        {"upper", "", m_upper},
        {"zfill", ".", m_zfill},
        {NULL, NULL, NULL},
    };
    return fl_t_find(table, name, n);
}

const fl_tfunction *fl_t_bytes_method(const char *name, size_t n) {
    static const fl_tfunction table[] = {{"decode", "encoding= errors=", b_decode},
                                         {NULL, NULL, NULL}};
    return fl_t_find(table, name, n);
}
