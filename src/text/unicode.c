#include "text/unicode.h"

bool fl_uc_is_word(uint32_t cp) {
    uint8_t category = fl_uc_prop(cp) & FL_UC_CATEGORY_MASK;
    if (category <= FL_UC_NL || category == FL_UC_PC) return true; /* L*, M*, Nd, Nl, Pc */
    if (cp == 0x200c || cp == 0x200d) return true;                 /* Join_Control */
    /* The only Alphabetic code points elsewhere: circled and squared Latin letters. */
    return (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
           (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
}

uint32_t fl_uc_categories(const char *name, size_t n) {
    static const char names[FL_UC_N_CATEGORIES][3] = {
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
        "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
    uint32_t set = 0;
    for (int i = 0; i < FL_UC_N_CATEGORIES; i++) {
        bool match =
            n >= 1 && n <= 2 && names[i][0] == name[0] && (n == 1 || names[i][1] == name[1]);
        set |= (uint32_t)match << i;
    }
    return set;
}

bool fl_uc_is_str_space(uint32_t cp) {
    return (cp >= 0x1c && cp <= 0x1f) || (cp <= 0x10ffff && fl_uc_prop(cp) & FL_UC_WHITE_SPACE);
}
