/* The small regular expressions of split patterns: what matches where, what is refused. */
#include <string.h>

#include "text/regex.h"
#include "text/unicode.h"
#include "util/bytes.h"

#include "tap.h"

static const struct {
    const char *pattern, *text,
        *want; /* matches between bars, of an empty one its place; refused: the message's end */
} cases[] = {
    {"ab|a|b", "xabba", "ab|b|a"},
    {"a|ab", "ab", "a"}, /* the first alternative wins, not the longest */
    {"[a-c]+", "abcdcba", "abc|cba"},
    {"[^a-c]+", "abxycz", "xy|z"},
    {"[^\\s\\d]+", "ab 12\tc", "ab|c"},
    {"\\p{L}+", "a\xc3\xa9\xe6\x97\xa5 1", "a\xc3\xa9\xe6\x97\xa5"},
    {"\\p{Lu}\\p{Ll}*", "AbC\xc3\x89\xc3\xa9", "Ab|C|\xc3\x89\xc3\xa9"},
    {"\\P{L}+", "ab 12c", " 12"},
    {"\\p{^L}+", "ab 12c", " 12"},
    {"[\\p{^N}a]+", "a1b", "a|b"},
    {"\\S+", "a\xe2\x80\xa8z", "a|z"},
    {"\\s+(?!\\S)|\\s+", "  a   ", " | |   "},
    {"a+(?=b)", "aab aa", "aa"},
    {"(?!ab)[a-z]+", "abb", "bb"},
    {"a+$", "aa b aaa\naab\naa", "aaa|aa"},
    {"\\s+$", "a  b \n\n c\t ", " \n|\t "},
    {"a$?", "", "repeated group or anchor"},
    {"x(?:ab|cd)?y", "xaby xcdy xy xaby", "xaby|xcdy|xy|xaby"},
    {"x(a|ab)c", "xabc", "xabc"}, /* goes back into the group */
    {"[ab]*b", "aabab", "aabab"},
    {"a++b", "aab", "aab"},
    {"a++a", "aaa", ""}, /* possessive: gives nothing back */
    {"\\d{2}", "12345", "12|34"},
    {"\\d{2,}", "1 23 456", "23|456"},
    {"\\d{1,2}+x?", "", "quantifier of a quantifier"},
    {"(?i:'s|K)", "'S'sk\xe2\x84\xaa'\xc5\xbf", "'S|'s|k|\xe2\x84\xaa|'\xc5\xbf"},
    {"(?i:a)b", "AbAB", "Ab"},
    {"[\\]\\-\\\\]+", "a]-\\b", "]-\\"},
    {"[a-]+", "b-a", "-a"},
    {"\\u0041\\x42|\\n\\t", "AB\n\t", "AB|\n\t"},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5]+", "a\xe6\x97\xa5\xe6\x9c\xac-", "\xe6\x97\xa5\xe6\x9c\xac"},
    {"$", "a\nb", "1|3"},
    {"^", "a\nb", "0|2"},
    {"^[a-z]", "ab\ncd", "a|c"},
    {"a*", "baac", "0|aa|4"}, /* nothing is found where a match has just ended */
    {"(?:a|b?)", "abc", "a|b|3"},
    {"(?=a)", "xaa", "1|2"},
    {"", "a\xc3\xa9", "0|1|3"},
    {"a.c",
     "abca\nca\xc3\xa9"
     "c",
     "abc|a\xc3\xa9"
     "c"},
    {"\\w+|\\W", "a_1\xcc\x81\xe2\x80\x8d-", "a_1\xcc\x81|\xe2\x80\x8d|-"},
    {"\\D+", "a1\xd9\xa1 b", "a| b"},
    {"[^(\\s|[.,!?])]+", "ab, (c|d) e!", "ab|c|d|e"},
    {"[a[^b-z]]+", "ab9-c", "a|9-"},
    {"[[a-c][x-z]]+", "abmxyz", "ab|xyz"},
    {"[a-e&&[^c]]+", "abcdef", "ab|de"},
    {"[^a-e&&[^c]]+", "abcfg", "cfg"},
    {"[a-e&&b-g&&[^c]x]+", "abcdefx", "b|de"},
    {"(?<=a)b", "abbab", "b|b"},
    {"(?<!a)b", "abbab", "b"},
    {"(?<=ab|c)x", "abxcxbx", "x|x"},
    {"(?<=[ab]{1,2})x", "axabxx", "x|x"},
    {"(?<=(?<!z)a)x", "axzaxax", "x|x"},
    {"(?<=a(?=x))x", "axbx", "x"},
    {"(?<=\xc3\xa9)x", "\xc3\xa9xx", "x"},
    {"(?<=^a)b", "abab\nab", "b|b"},
    {"(?<=a+)b", "", "any number of characters"},
    {"[a-[b]]", "", "ends in a set"},
    {"[[:alpha:]]", "", "[:name:] in a set"},
    {"[a&&]", "", "without two sides"},
    {"[&&a]", "", "without two sides"},
    {"[a&&&&b]", "", "without two sides"},
    {"[[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]]", "", "nested too deeply"},
    {"[a[b]", "", "'[' without ']'"},
    {"a**", "", "quantifier of nothing"},
    {"a+?", "", "lazy quantifier"},
    {"(ab)+", "", "repeated group or anchor"},
    {"(?P<n>a)", "", "unknown kind of group"},
    {"\\b", "", "unknown escape"},
    {"\\p{Han}", "", "no general category"},
    {"\\p{L", "", "without }"},
    {"\\pL", "", "without braces"},
    {"[a", "", "'[' without ']'"},
    {"[]a]", "", "']' first in a set"},
    {"[z-a]", "", "bad range"},
    {"[a-\\s]", "", "bad range"},
    {"(a", "", "'(' without ')'"},
    {"a)", "", "')' without '('"},
    {"a{2", "", "'{' without '}'"},
    {"a{3,2}", "", "bad {..}"},
    {"a{,2}", "", "number expected in {..}"},
    {"a{1001}", "", "more than 1000 repetitions"},
    {"\\", "", "backslash at the end"},
    {"\\xg0", "", "hex digit expected"},
    {"\\ud800", "", "surrogate"},
    {"(?i:\xc3\xa9)", "", "non-ASCII character under (?i"},
    {"(?i:[a-z])", "", "range under (?i"},
    {"((((((((((((((((((a))))))))))))))))))", "", "nested too deeply"},
};

/* Matches of `pattern` in `text` between bars, or the error message. */
static void matches(const char *pattern, const char *text, fl_bytes *out) {
    fl_regex *r;
    fl_err err;
    size_t begin, end;
    int64_t steps = 10000;
    if (fl_regex_compile(&r, pattern, strlen(pattern), &err)) {
        fl_bytes_puts(out, err.msg);
        return;
    }
    fl_regex_scan scan = {.regex = r, .s = text, .n = strlen(text), .steps = &steps};
    for (bool first = true; fl_regex_next(&scan, &begin, &end) == 1; first = false) {
        if (!first) fl_bytes_putc(out, '|');
        if (begin == end) fl_bytes_printf(out, "%zu", begin);
        fl_bytes_put(out, text + begin, end - begin);
    }
    fl_regex_free(r);
}

static void test_steps(void) {
    static char text[100000];
    fl_regex *r;
    fl_err err;
    size_t begin, end;
    int64_t steps = 1000000;
    fl_regex_scan scan = {.s = text, .n = sizeof(text), .steps = &steps};
    memset(text, 'a', sizeof(text));
    check(!fl_regex_compile(&r, "a*a*a*a*b", 9, &err), "a slow pattern compiles");
    scan.regex = r;
    check(fl_regex_next(&scan, &begin, &end) == FL_E_LIMIT, "and gives up when its steps are used");
    fl_regex_free(r);
}

static void test_unicode(void) {
    int letters = 0, numbers = 0, spaces = 0, newlines = 0, ascii = 0;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        uint8_t prop = fl_uc_prop(cp), class = fl_uc_class_of_prop[prop];
        letters += class == FL_UC_LETTER;
        numbers += class == FL_UC_NUMBER;
        spaces += class == FL_UC_SPACE;
        if (cp >= 128) continue;
        newlines += fl_uc_ascii_class[cp] == FL_UC_NEWLINE;
        ascii +=
            (fl_uc_ascii_class[cp] & FL_UC_SPACE ? FL_UC_SPACE : fl_uc_ascii_class[cp]) == class;
    }
    check(letters == 141028 && numbers == 1911 && spaces == 25,
          "Unicode 16: %d letters, %d numbers, %d white space", letters, numbers, spaces);
    check(newlines == 2 && ascii == 128, "the ASCII classes agree with the table");
    check(fl_uc_is_word('_') && fl_uc_is_word(0x24b6) && fl_uc_is_word(0x200d) &&
              fl_uc_is_word(0x301) && !fl_uc_is_word('-') && !fl_uc_is_word(0xb2),
          "word characters");
}

int main(void) {
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fl_bytes got = {0};
        const char *want = cases[i].want;
        matches(cases[i].pattern, cases[i].text, &got);
        const char *text = fl_bytes_cstr(&got);
        size_t n = strlen(want);
        bool ok = *cases[i].text ? !strcmp(text, want)
                                 : got.len >= n && strstr(text, want) && strstr(text, "regular");
        if (!check(ok, "%s", cases[i].pattern)) printf("# got %s\n", text);
        fl_bytes_free(&got);
    }
    test_steps();
    test_unicode();
    return tap_done();
}
