/* Methods of template strings that search, take apart and join, as Python's str has them. */
#include <string.h>

#include "text/template_run.h"
#include "text/unicode.h"

bool fl_tv_need_string(fl_trun *r, const fl_tv *v, const char *what, const fl_tstr **out) {
    *out = NULL;
    if (v->kind == FL_TV_STRING) {
        *out = v->string;
        return true;
    }
    if (v->kind == FL_TV_UNDEFINED) return fl_t_undefined(r, v);
    return fl_t_fail(r, FL_E_ARG, "%s: string expected, got '%s'", what, fl_tv_type_name(v));
}

static bool need_arg(fl_trun *r, const fl_tcall *c, int i, const fl_tstr **out) {
    return fl_tv_need_string(r, &c->arg[i], c->function->name, out);
}

/* ---- strip ------------------------------------------------------------------------- */

static bool in_set(const fl_tstr *set, uint32_t cp) {
    uint32_t other;
    if (!set) return fl_uc_is_str_space(cp);
    for (size_t i = 0; i < set->len;) {
        i += fl_tstr_next(set, i, &other);
        if (other == cp) return true;
    }
    return false;
}

bool fl_tstr_strip(fl_trun *r, const fl_tstr *s, const fl_tv *chars, int ends, fl_tv *out) {
    const fl_tstr *set = NULL;
    size_t from = 0, to = s->len;
    uint32_t cp;
    if (!fl_tv_is_absent(chars) && !fl_tv_need_string(r, chars, "strip", &set)) return false;
    size_t cost = set ? set->len : 0;
    while (ends & FL_T_LEFT && from < to) {
        size_t n = fl_tstr_next(s, from, &cp);
        if (!fl_t_charge(r, cost)) return false;
        if (!in_set(set, cp)) break;
        from += n;
    }
    while (ends & FL_T_RIGHT && to > from) {
        size_t i = fl_uc_back(s->data, to);
        fl_tstr_next(s, i, &cp);
        if (!fl_t_charge(r, cost)) return false;
        if (!in_set(set, cp)) break;
        to = i;
    }
    return fl_tstr_slice(r, s, from, to, out);
}

static bool m_strip(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return fl_tstr_strip(r, c->self.string, &c->arg[0], FL_T_LEFT | FL_T_RIGHT, out);
}
static bool m_lstrip(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return fl_tstr_strip(r, c->self.string, &c->arg[0], FL_T_LEFT, out);
}
static bool m_rstrip(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return fl_tstr_strip(r, c->self.string, &c->arg[0], FL_T_RIGHT, out);
}

/* ---- searching --------------------------------------------------------------------- */

/* First or last place of needle in s[from..to), SIZE_MAX: none. */
static bool find(fl_trun *r, const fl_tstr *s, size_t from, size_t to, const fl_tstr *needle,
                 bool last, size_t *out) {
    const char *found = NULL;
    *out = SIZE_MAX;
    if (!fl_t_charge(r, to - from)) return false;
    if (!last) {
        found = memmem(s->data + from, to - from, needle->data, needle->len);
        if (found) *out = (size_t)(found - s->data);
        return true;
    }
    if (needle->len > to - from) return true;
    for (size_t i = to - needle->len + 1; i-- > from;) {
        if (needle->len && s->data[i] != needle->data[0]) continue;
        if (!fl_t_charge(r, needle->len)) return false;
        if (memcmp(s->data + i, needle->data, needle->len) != 0) continue;
        *out = i;
        break;
    }
    return true;
}

/* The bytes between two optional character positions, as s[start:end]. */
static bool window(fl_trun *r, const fl_tstr *s, const fl_tv *start, const fl_tv *end, size_t *from,
                   size_t *to) {
    int64_t n, a = 0, b;
    *from = 0;
    *to = s->len;
    if (fl_tv_is_absent(start) && fl_tv_is_absent(end)) return true;
    if (!fl_tstr_length(r, s, &n)) return false;
    b = n;
    if (!fl_tv_is_absent(start) && !fl_tv_need_int(r, start, &a)) return false;
    if (!fl_tv_is_absent(end) && !fl_tv_need_int(r, end, &b)) return false;
    if (a < 0) a = a < -n ? 0 : a + n;
    if (b < 0) b = b < -n ? 0 : b + n;
    *from = a > n ? SIZE_MAX : fl_tstr_offset(s, (size_t)a); /* behind the end: nothing there */
    *to = fl_tstr_offset(s, (size_t)(b > n ? n : b));
    return true;
}

static bool find_method(fl_trun *r, const fl_tcall *c, bool last, bool required, fl_tv *out) {
    const fl_tstr *s = c->self.string, *needle;
    size_t from, to, at = SIZE_MAX;
    int64_t n_before = -1;
    if (!need_arg(r, c, 0, &needle) || !window(r, s, &c->arg[1], &c->arg[2], &from, &to))
        return false;
    if (from <= to && !find(r, s, from, to, needle, last, &at)) return false;
    if (at == SIZE_MAX && required) return fl_t_fail(r, FL_E_ARG, "substring not found");
    if (at != SIZE_MAX) {
        fl_tstr before = {.data = s->data, .len = at};
        if (!fl_tstr_length(r, &before, &n_before)) return false;
    }
    *out = fl_tv_int(n_before);
    return true;
}

static bool m_find(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return find_method(r, c, false, false, out);
}
static bool m_rfind(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return find_method(r, c, true, false, out);
}
static bool m_index(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return find_method(r, c, false, true, out);
}
static bool m_rindex(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return find_method(r, c, true, true, out);
}

static bool m_count(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string, *needle;
    size_t from, to, at;
    int64_t n = 0;
    if (!need_arg(r, c, 0, &needle) || !window(r, s, &c->arg[1], &c->arg[2], &from, &to))
        return false;
    if (!needle->len && from <= to) {
        fl_tstr part = {.data = s->data + from, .len = to - from};
        if (!fl_tstr_length(r, &part, &n)) return false;
        n++;
    }
    while (needle->len && from <= to) {
        const char *found = memmem(s->data + from, to - from, needle->data, needle->len);
        at = found ? (size_t)(found - s->data) : to;
        if (!fl_t_charge(r, at - from)) return false;
        if (!found) break;
        n++;
        from = at + needle->len;
    }
    *out = fl_tv_int(n);
    return true;
}

/* startswith and endswith: affix is a string or a tuple of them. */
static bool has_affix(fl_trun *r, const fl_tcall *c, const fl_tv *affix, bool at_end, bool *out) {
    const fl_tstr *s = c->self.string, *a;
    size_t from, to;
    *out = false;
    if (affix->kind == FL_TV_TUPLE) {
        for (size_t i = 0; !*out && i < affix->list->n; i++) {
            const fl_tv *one = &affix->list->items[i];
            if (one->kind != FL_TV_STRING)
                return fl_t_fail(r, FL_E_ARG, "%s: tuple of strings expected", c->function->name);
            if (!has_affix(r, c, one, at_end, out)) return false;
        }
        return true;
    }
    if (!fl_tv_need_string(r, affix, c->function->name, &a) ||
        !window(r, s, &c->arg[1], &c->arg[2], &from, &to) || !fl_t_charge(r, a->len))
        return false;
    *out = from <= to && a->len <= to - from &&
           !memcmp(s->data + (at_end ? to - a->len : from), a->data, a->len);
    return true;
}

static bool m_startswith(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    if (!has_affix(r, c, &c->arg[0], false, &is)) return false;
    *out = fl_tv_bool(is);
    return true;
}
static bool m_endswith(fl_trun *r, fl_tcall *c, fl_tv *out) {
    bool is;
    if (!has_affix(r, c, &c->arg[0], true, &is)) return false;
    *out = fl_tv_bool(is);
    return true;
}

static bool m_removeprefix(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string, *a;
    if (!need_arg(r, c, 0, &a) || !fl_t_charge(r, a->len)) return false;
    bool is = a->len <= s->len && !memcmp(s->data, a->data, a->len);
    return fl_tstr_slice(r, s, is ? a->len : 0, s->len, out);
}
static bool m_removesuffix(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string, *a;
    if (!need_arg(r, c, 0, &a) || !fl_t_charge(r, a->len)) return false;
    bool is = a->len <= s->len && !memcmp(s->data + s->len - a->len, a->data, a->len);
    return fl_tstr_slice(r, s, 0, is ? s->len - a->len : s->len, out);
}

/* ---- taking apart ------------------------------------------------------------------ */

static bool push_part(fl_trun *r, fl_tlist *l, const fl_tstr *s, size_t from, size_t to) {
    fl_tv v;
    return fl_tstr_slice(r, s, from, to, &v) && fl_tlist_push(r, l, v);
}

static size_t skip(const fl_tstr *s, size_t i, bool space) {
    uint32_t cp;
    while (i < s->len) {
        size_t n = fl_tstr_next(s, i, &cp);
        if (fl_uc_is_str_space(cp) != space) break;
        i += n;
    }
    return i;
}

static size_t skip_back(const fl_tstr *s, size_t i, bool space) {
    uint32_t cp;
    while (i) {
        size_t before = fl_uc_back(s->data, i);
        fl_tstr_next(s, before, &cp);
        if (fl_uc_is_str_space(cp) != space) break;
        i = before;
    }
    return i;
}

static bool split_words(fl_trun *r, const fl_tstr *s, int64_t max, fl_tlist *l) {
    for (size_t i = skip(s, 0, true); i < s->len; max--) {
        size_t end = max ? skip(s, i, false) : s->len;
        if (!push_part(r, l, s, i, end) || !fl_t_charge(r, end - i)) return false;
        if (!max) return true;
        i = skip(s, end, true);
    }
    return true;
}

static bool rsplit_words(fl_trun *r, const fl_tstr *s, int64_t max, fl_tlist *l) {
    for (size_t i = skip_back(s, s->len, true); i; max--) {
        size_t start = max ? skip_back(s, i, false) : 0;
        if (!push_part(r, l, s, start, i) || !fl_t_charge(r, i - start)) return false;
        if (!max) return true;
        i = skip_back(s, start, true);
    }
    return true;
}

static bool split_at(fl_trun *r, const fl_tstr *s, const fl_tstr *by, int64_t max, fl_tlist *l) {
    size_t from = 0, at;
    for (;; max--) {
        const char *found = max ? memmem(s->data + from, s->len - from, by->data, by->len) : NULL;
        at = found ? (size_t)(found - s->data) : s->len;
        if (!fl_t_charge(r, at - from) || !push_part(r, l, s, from, at)) return false;
        if (!found) return true;
        from = at + by->len;
    }
}

static bool rsplit_at(fl_trun *r, const fl_tstr *s, const fl_tstr *by, int64_t max, fl_tlist *l) {
    size_t to = s->len, at = 0;
    for (; max && at != SIZE_MAX; max--) {
        if (!find(r, s, 0, to, by, true, &at)) return false;
        if (at == SIZE_MAX) break;
        if (!push_part(r, l, s, at + by->len, to)) return false;
        to = at;
    }
    return push_part(r, l, s, 0, to);
}

static void reverse_list(fl_tlist *l) {
    for (size_t i = 0; i < l->n / 2; i++) {
        fl_tv swap = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = swap;
    }
}

static bool split_method(fl_trun *r, const fl_tcall *c, bool from_right, fl_tv *out) {
    const fl_tstr *s = c->self.string, *by = NULL;
    int64_t max = -1;
    fl_tlist *l = fl_tlist_new(r, 0);
    bool ok;
    if (!l || (!fl_tv_is_absent(&c->arg[0]) && !need_arg(r, c, 0, &by))) return false;
    if (c->arg[1].kind != FL_TV_ABSENT && !fl_tv_need_int(r, &c->arg[1], &max)) return false;
    if (by && !by->len) return fl_t_fail(r, FL_E_ARG, "empty separator");
    if (by) {
        ok = from_right ? rsplit_at(r, s, by, max, l) : split_at(r, s, by, max, l);
    } else {
        ok = from_right ? rsplit_words(r, s, max, l) : split_words(r, s, max, l);
    }
    if (from_right) reverse_list(l);
    *out = fl_tv_list(FL_TV_LIST, l);
    return ok;
}

static bool m_split(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return split_method(r, c, false, out);
}
static bool m_rsplit(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return split_method(r, c, true, out);
}

size_t fl_tstr_line(const fl_tstr *s, size_t i, size_t *next) {
    uint32_t cp;
    for (size_t n; i < s->len; i += n) {
        n = fl_tstr_next(s, i, &cp);
        bool ends = (cp >= '\n' && cp <= '\r') || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                    cp == 0x2028 || cp == 0x2029;
        if (!ends) continue;
        *next = i + n + (cp == '\r' && i + 1 < s->len && s->data[i + 1] == '\n');
        return i;
    }
    *next = s->len;
    return s->len;
}

static bool m_splitlines(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *s = c->self.string;
    fl_tlist *l = fl_tlist_new(r, 0);
    bool keep = fl_tv_truth(&c->arg[0]), ok = l != NULL;
    for (size_t i = 0, next; ok && i < s->len; i = next) {
        size_t end = fl_tstr_line(s, i, &next);
        ok = push_part(r, l, s, i, keep ? next : end) && fl_t_charge(r, next - i);
    }
    *out = fl_tv_list(FL_TV_LIST, l);
    return ok;
}

static bool partition(fl_trun *r, const fl_tcall *c, bool last, fl_tv *out) {
    const fl_tstr *s = c->self.string, *by;
    fl_tlist *l = fl_tlist_new(r, 3);
    size_t at;
    if (!l || !need_arg(r, c, 0, &by)) return false;
    if (!by->len) return fl_t_fail(r, FL_E_ARG, "empty separator");
    if (!find(r, s, 0, s->len, by, last, &at)) return false;
    bool found = at != SIZE_MAX;
    size_t left = found ? at : last ? 0 : s->len;
    size_t right = found ? at + by->len : left;
    *out = fl_tv_list(FL_TV_TUPLE, l);
    return push_part(r, l, s, 0, left) && push_part(r, l, s, left, right) &&
           push_part(r, l, s, right, s->len);
}

static bool m_partition(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return partition(r, c, false, out);
}
static bool m_rpartition(fl_trun *r, fl_tcall *c, fl_tv *out) {
    return partition(r, c, true, out);
}

/* ---- building ---------------------------------------------------------------------- */

bool fl_tstr_replace(fl_trun *r, const fl_tstr *s, const fl_tstr *from, const fl_tstr *to,
                     int64_t max, fl_tv *out) {
    fl_ttext t = {0};
    size_t i = 0;
    uint32_t cp;
    bool ok = true;
    for (; ok && max && i <= s->len; max--) {
        const char *found = memmem(s->data + i, s->len - i, from->data, from->len);
        if (!found) break;
        size_t at = (size_t)(found - s->data);
        ok = fl_ttext_put_part(r, &t, s, i, at) && fl_ttext_put_str(r, &t, to) &&
             fl_t_charge(r, at - i);
        i = at + from->len;
        if (from->len) continue;
        size_t n = i < s->len ? fl_tstr_next(s, i, &cp) : 0; /* "" is before every character */
        ok = ok && fl_ttext_put_part(r, &t, s, i, i + n);
        i += n ? n : 1;
    }
    ok = ok && (i >= s->len || fl_ttext_put_part(r, &t, s, i, s->len));
    return fl_ttext_finish(r, &t, ok, out);
}

static bool m_replace(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tstr *from, *to;
    int64_t max = -1;
    return need_arg(r, c, 0, &from) && need_arg(r, c, 1, &to) &&
           (c->arg[2].kind == FL_TV_ABSENT || fl_tv_need_int(r, &c->arg[2], &max)) &&
           fl_tstr_replace(r, c->self.string, from, to, max, out);
}

static bool m_join(fl_trun *r, fl_tcall *c, fl_tv *out) {
    const fl_tlist *items;
    fl_ttext t = {0};
    bool ok = fl_tv_items(r, &c->arg[0], &items);
    for (size_t i = 0; ok && i < items->n; i++) {
        const fl_tstr *s;
        ok = fl_tv_need_string(r, &items->items[i], "join", &s) &&
             (!i || fl_ttext_put_str(r, &t, c->self.string)) && fl_ttext_put_str(r, &t, s);
    }
    return fl_ttext_finish(r, &t, ok, out);
}

const fl_tfunction *fl_t_string_method(const char *name, size_t n) {
    static const fl_tfunction table[] = {
        {"count", ". .= .=", m_count},
        {"endswith", ". .= .=", m_endswith},
        {"find", ". .= .=", m_find},
        {"format", "*", fl_t_format_method},
        {"format_map", ".", fl_t_format_method},
        {"index", ". .= .=", m_index},
        {"join", ".", m_join},
        {"lstrip", ".=", m_lstrip},
        {"partition", ".", m_partition},
        {"removeprefix", ".", m_removeprefix},
        {"removesuffix", ".", m_removesuffix},
        {"replace", ". . .=", m_replace},
        {"rfind", ". .= .=", m_rfind},
        {"rindex", ". .= .=", m_rindex},
        {"rpartition", ".", m_rpartition},
        {"rsplit", "sep= maxsplit=", m_rsplit},
        {"rstrip", ".=", m_rstrip},
        {"split", "sep= maxsplit=", m_split},
        {"splitlines", "keepends=", m_splitlines},
        {"startswith", ". .= .=", m_startswith},
        {"strip", ".=", m_strip},
        {NULL, NULL, NULL},
    };
    const fl_tfunction *f = fl_t_find(table, name, n);
    return f ? f : fl_t_string_form(name, n);
}
