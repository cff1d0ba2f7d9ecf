/* The parts of tokenizer.json around the model: normalizer, pre_tokenizer, decoder and
 * post_processor.  What is not known is refused by name. */
#include <stdio.h>
#include <string.h>

#include "text/tokenizer_internal.h"

static const char META[] = "\xe2\x96\x81"; /* U+2581 */

enum { MAX_NESTING = 8, MAX_CONTENT_BYTES = 1024 };

/* One step of a part, and where it is for messages: "tokenizer.json: pre_tokenizer". */
typedef struct step {
    fl_tokenizer *t;
    const char *where;
    const fl_jv *json;
    int depth;
    fl_err *err;
} step;

static int refuse(const step *s, const char *what) {
    return fl_fail(s->err, FL_E_UNSUPPORTED, "%s: %s is not supported", s->where, what);
}

/* The step's "type"; NULL: absent or no string. */
static const char *type_of(const fl_jv *json) {
    const fl_jv *type = fl_jv_get(json, "type");
    return type && type->kind == FL_JV_STRING ? type->string.data : NULL;
}

/* Call read on each step of `json`: null is none, a Sequence its members in order. */
static int each_step(const step *s, const char *members, int (*read)(const step *, const char *)) {
    if (!s->json || s->json->kind == FL_JV_NULL) return FL_OK;
    const char *type = type_of(s->json);
    if (!type) return fl_fail(s->err, FL_E_FORMAT, "%s: object with a type expected", s->where);
    if (strcmp(type, "Sequence") != 0) return read(s, type);
    const fl_jv *list = fl_jv_get(s->json, members);
    if (!list || list->kind != FL_JV_ARRAY)
        return fl_fail(s->err, FL_E_FORMAT, "%s: Sequence without \"%s\"", s->where, members);
    if (s->depth == MAX_NESTING)
        return fl_fail(s->err, FL_E_LIMIT, "%s: nested deeper than %d", s->where, MAX_NESTING);
    int rc = FL_OK;
    for (uint32_t i = 0; i < list->n && !rc; i++) {
        step inner = {s->t, s->where, &list->items[i], s->depth + 1, s->err};
        rc = each_step(&inner, members, read);
    }
    return rc;
}

static int read_flag(const step *s, const char *key, bool *out) {
    return fl_jv_bool(s->json, key, out, s->where, s->err);
}

static bool member_is(const fl_jv *object, const char *key, const char *text) {
    return fl_jv_equals(fl_jv_get(object, key), text);
}

/* ---- normalizer ---- */

/* "pattern": {"String": text} or {"Regex": text}. */
static int read_pattern(const step *s, fl_regex **out, const fl_jv **string) {
    const fl_jv *pattern = fl_jv_get(s->json, "pattern"), *regex = fl_jv_get(pattern, "Regex");
    *string = fl_jv_get(pattern, "String");
    const fl_jv *text = *string ? *string : regex;
    if (!text || text->kind != FL_JV_STRING)
        return fl_fail(s->err, FL_E_FORMAT, "%s: pattern that is no String and no Regex", s->where);
    int rc = *string ? fl_regex_literal(out, text->string.data, text->string.len, s->err)
                     : fl_regex_compile(out, text->string.data, text->string.len, s->err);
    return rc ? fl_fail_in(s->err, "%s: ", s->where) : FL_OK;
}

static int read_normalizer(const step *s, const char *type) {
    fl_normalizer *z = &s->t->normalizer;
    const bool prepend = !strcmp(type, "Prepend");
    const fl_jv *text, *string;
    if (!prepend && strcmp(type, "Replace") != 0) return refuse(s, type);
    if (z->n == FL_MAX_NORMAL_STEPS)
        return fl_fail(s->err, FL_E_LIMIT, "%s: more than %d steps", s->where, FL_MAX_NORMAL_STEPS);
    int rc = fl_jv_text(s->json, prepend ? "prepend" : "content", &text, s->where, s->err);
    if (rc) return rc;
    if (!text) return fl_fail(s->err, FL_E_FORMAT, "%s: %s without its text", s->where, type);
    if (text->string.len > MAX_CONTENT_BYTES)
        return fl_fail(s->err, FL_E_LIMIT, "%s: text of %zu bytes, at most %d", s->where,
                       text->string.len, MAX_CONTENT_BYTES);
    char *kept = fl_arena_alloc(&s->t->strings, text->string.len + 1);
    if (!kept) return fl_fail(s->err, FL_E_NOMEM, "%s: no memory", s->where);
    memcpy(kept, text->string.data, text->string.len);
    fl_normal_step one = {.text = kept, .n = text->string.len};
    if (!prepend && (rc = read_pattern(s, &one.regex, &string))) return rc;
    if (!prepend && string && string->string.len == 1) one.byte = string->string.data[0];
    z->steps[z->n++] = one;
    return FL_OK;
}

/* ---- pre_tokenizer ---- */

static fl_stage *add_stage(const step *s, fl_stage_kind kind) {
    fl_pretok *p = &s->t->pretok;
    if (p->n == FL_MAX_STAGES) {
        fl_fail(s->err, FL_E_LIMIT, "%s: more than %d steps", s->where, FL_MAX_STAGES);
        return NULL;
    }
    p->stages[p->n] = (fl_stage){.kind = kind};
    return &p->stages[p->n++];
}

static int read_behavior(const step *s, fl_behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const fl_jv *v = fl_jv_get(s->json, "behavior");
    for (int i = 0; i < 5; i++) {
        if (!fl_jv_equals(v, names[i])) continue;
        *out = (fl_behavior)i;
        return FL_OK;
    }
    return refuse(s, "Split with this behavior");
}

static int read_split(const step *s) {
    const fl_jv *string, *regex = fl_jv_get(fl_jv_get(s->json, "pattern"), "Regex");
    fl_stage *stage = add_stage(s, FL_STAGE_SPLIT);
    if (!stage) return FL_E_LIMIT;
    int rc = read_flag(s, "invert", &stage->invert);
    if (!rc) rc = read_behavior(s, &stage->behavior);
    if (rc) return rc;
    if (!regex || regex->kind != FL_JV_STRING) {
        stage->pattern.kind = FL_PATTERN_REGEX;
        return read_pattern(s, &stage->pattern.regex, &string);
    }
    rc = fl_pattern_init(&stage->pattern, regex->string.data, regex->string.len, s->err);
    return rc ? fl_fail_in(s->err, "%s: ", s->where) : FL_OK;
}

static int read_byte_level(const step *s) {
    bool prefix = true, use_regex = true;
    int rc;
    if ((rc = read_flag(s, "add_prefix_space", &prefix)) ||
        (rc = read_flag(s, "use_regex", &use_regex)))
        return rc;
    if (prefix && !add_stage(s, FL_STAGE_PREFIX)) return FL_E_LIMIT;
    if (use_regex) {
        fl_stage *stage = add_stage(s, FL_STAGE_SPLIT);
        if (!stage) return FL_E_LIMIT;
        rc = fl_pattern_init(&stage->pattern, fl_pattern_gpt2, strlen(fl_pattern_gpt2), s->err);
    }
    s->t->bpe.byte_level = true;
    return rc;
}

static int read_metaspace(const step *s) {
    bool cut = true, prefix = true;
    fl_prepend prepend;
    const fl_jv *scheme;
    int rc;
    if (!member_is(s->json, "replacement", META)) return refuse(s, "Metaspace with another mark");
    if ((rc = read_flag(s, "split", &cut)) || (rc = read_flag(s, "add_prefix_space", &prefix)) ||
        (rc = fl_jv_text(s->json, "prepend_scheme", &scheme, s->where, s->err)))
        return rc;
    if (!scheme) {
        prepend = prefix ? FL_PREPEND_ALWAYS : FL_PREPEND_NEVER;
    } else if (fl_jv_equals(scheme, "always")) {
        prepend = FL_PREPEND_ALWAYS;
    } else if (fl_jv_equals(scheme, "first")) {
        prepend = FL_PREPEND_FIRST;
    } else if (fl_jv_equals(scheme, "never")) {
        prepend = FL_PREPEND_NEVER;
    } else {
        return refuse(s, "this prepend_scheme");
    }
    fl_stage *stage = add_stage(s, FL_STAGE_METASPACE);
    if (!stage) return FL_E_LIMIT;
    stage->prepend = prepend;
    stage->cut = cut;
    return FL_OK;
}

static int read_pre_tokenizer(const step *s, const char *type) {
    if (s->t->bpe.byte_level) return refuse(s, "a step after ByteLevel");
    if (!strcmp(type, "Split")) return read_split(s);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(s);
    if (!strcmp(type, "Metaspace")) return read_metaspace(s);
    if (!strcmp(type, "Digits")) {
        bool each = false;
        int rc = read_flag(s, "individual_digits", &each);
        if (rc) return rc;
        return add_stage(s, each ? FL_STAGE_DIGITS : FL_STAGE_DIGIT_RUNS) ? FL_OK : FL_E_LIMIT;
    }
    return refuse(s, type);
}

/* ---- decoder ---- */

static int read_decoder(const step *s, const char *type) {
    fl_tokenizer *t = s->t;
    if (!strcmp(type, "ByteLevel") && t->bpe.byte_level) return FL_OK;
    if (t->bpe.byte_level) return refuse(s, type);
    if (!strcmp(type, "Replace")) {
        if (!member_is(fl_jv_get(s->json, "pattern"), "String", META) ||
            !member_is(s->json, "content", " "))
            return refuse(s, "Replace of other text");
        t->blank_is_meta = true;
        return FL_OK;
    }
    if (!strcmp(type, "ByteFallback")) {
        t->byte_tokens = true;
        return FL_OK;
    }
    if (!strcmp(type, "Fuse")) return FL_OK;
    if (!strcmp(type, "Strip")) {
        const fl_jv *start = fl_jv_get(s->json, "start"), *stop = fl_jv_get(s->json, "stop");
        if (!member_is(s->json, "content", " ") || !start || start->kind != FL_JV_INT ||
            start->integer != 1 || !stop || stop->kind != FL_JV_INT || stop->integer != 0)
            return refuse(s, "Strip of anything but one leading blank");
        t->lead = FL_LEAD_STRIP_ONE;
        return FL_OK;
    }
    if (!strcmp(type, "Metaspace")) {
        if (!member_is(s->json, "replacement", META))
            return refuse(s, "Metaspace with another mark");
        t->blank_is_meta = true;
        if (!member_is(s->json, "prepend_scheme", "never")) t->lead = FL_LEAD_STRIP_FIRST_TOKEN;
        return FL_OK;
    }
    return refuse(s, type);
}

typedef struct part {
    const char *key, *members;
    int (*read)(const step *, const char *);
} part;

static int read_part(fl_tokenizer_source s, const fl_jv *root, const part *p, fl_err *err) {
    char where[512];
    snprintf(where, sizeof(where), "%.400s: %s", s.path, p->key);
    step st = {s.t, where, fl_jv_get(root, p->key), 0, err};
    return each_step(&st, p->members, p->read);
}

int fl_tokenizer_read_pipeline(fl_tokenizer_source s, const fl_jv *root, fl_err *err) {
    static const part parts[] = {{"normalizer", "normalizers", read_normalizer},
                                 {"pre_tokenizer", "pretokenizers", read_pre_tokenizer},
                                 {"decoder", "decoders", read_decoder}};
    int rc = FL_OK;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !rc; i++)
        rc = read_part(s, root, &parts[i], err);
    if (rc) return rc;
    const fl_jv *decoder = fl_jv_get(root, "decoder");
    if (!decoder || decoder->kind == FL_JV_NULL)
        return fl_fail(err, FL_E_UNSUPPORTED, "%s: no decoder", s.path);
    return FL_OK;
}

/* ---- post_processor ---- */

static int malformed(const step *s, const char *what) {
    return fl_fail(s->err, FL_E_FORMAT, "%s: %s", s->where, what);
}

static bool affix_push(fl_affix *a, const fl_jv *id, int32_t n_vocab) {
    if (id->kind != FL_JV_INT || id->integer < 0 || id->integer >= n_vocab || a->n == FL_MAX_AFFIX)
        return false;
    a->ids[a->n++] = (int32_t)id->integer;
    return true;
}

/* Both lists in one: first, then second. */
static bool affix_join(fl_affix *out, const fl_affix *first, const fl_affix *second) {
    fl_affix joined = *first;
    if (first->n + second->n > FL_MAX_AFFIX) return false;
    memcpy(joined.ids + joined.n, second->ids, (size_t)second->n * sizeof(second->ids[0]));
    joined.n += second->n;
    *out = joined;
    return true;
}

/* One piece of "single": {"SpecialToken": {"id": NAME}} or {"Sequence": {"id": "A"}}. */
static int read_template_piece(const step *s, const fl_jv *piece, fl_affix *to) {
    const fl_jv *name = fl_jv_get(fl_jv_get(piece, "SpecialToken"), "id");
    if (!name || name->kind != FL_JV_STRING) return malformed(s, "piece that is no token");
    const fl_jv *tokens = fl_jv_get(s->json, "special_tokens");
    const fl_jv *ids = fl_jv_get(fl_jv_get(tokens, name->string.data), "ids");
    if (!ids || ids->kind != FL_JV_ARRAY) return malformed(s, "token without ids");
    for (uint32_t k = 0; k < ids->n; k++)
        if (!affix_push(to, &ids->items[k], s->t->vocab.n))
            return malformed(s, "token id outside the vocabulary, or too many of them");
    return FL_OK;
}

static int read_template(const step *s) {
    fl_affix prefix = {.n = 0}, suffix = {.n = 0};
    const fl_jv *single = fl_jv_get(s->json, "single");
    int sequences = 0;
    if (!single || single->kind != FL_JV_ARRAY) return malformed(s, "\"single\" is no list");
    for (uint32_t i = 0; i < single->n; i++) {
        const fl_jv *sequence = fl_jv_get(&single->items[i], "Sequence");
        if (sequence) {
            if (!member_is(sequence, "id", "A")) return refuse(s, "a template with sequence B");
            sequences++;
            continue;
        }
        int rc = read_template_piece(s, &single->items[i], sequences ? &suffix : &prefix);
        if (rc) return rc;
    }
    if (sequences != 1) return refuse(s, "a template that does not hold the text once");
    if (!affix_join(&s->t->prefix, &prefix, &s->t->prefix) ||
        !affix_join(&s->t->suffix, &s->t->suffix, &suffix))
        return malformed(s, "too many tokens around the text");
    return FL_OK;
}

static int read_post_processor(const step *s, const char *type) {
    if (!strcmp(type, "ByteLevel")) return FL_OK; /* changes offsets only */
    if (!strcmp(type, "TemplateProcessing")) return read_template(s);
    return refuse(s, type);
}

int fl_tokenizer_read_post_processor(fl_tokenizer_source s, const fl_jv *root, fl_err *err) {
    static const part post = {"post_processor", "processors", read_post_processor};
    return read_part(s, root, &post, err);
}
