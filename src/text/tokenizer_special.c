/* What transformers makes of tokenizer_config.json, special_tokens_map.json and added_tokens.json
 * after it has read tokenizer.json: names of special tokens, tokens added by these files, other
 * flags for those that are there, and what the class of the tokenizer puts around a text.
 *
 * Releases 4.57 and 5.24 were looked at.  Where they differ: tokens of additional_special_tokens
 * are special (4), also when added_tokens_decoder says otherwise; a class that reads add_bos_token
 * does so (4); every "..._token" with a text names a token, and extra_special_tokens may be a list (5). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_internal.h"
#include "util/file.h"

static const char *const standard_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                             "pad_token", "cls_token", "mask_token"};
enum { N_STANDARD = sizeof(standard_names) / sizeof(standard_names[0]) };

/* Names that a class has when the files give none, in the order of standard_names, and whether it
 * makes its own post_processor of add_bos_token and add_eos_token; -1: it does not, else the
 * default of add_bos_token. */
static const struct tokenizer_class {
    const char *name;
    const char *tokens[N_STANDARD];
    int adds_bos;
} classes[] = {
    {"LlamaTokenizer", {"<s>", "</s>", "<unk>"}, 1},
    {"CodeLlamaTokenizer", {"<s>", "</s>", "<unk>"}, 1},
    {"GemmaTokenizer", {"<bos>", "<eos>", "<unk>", NULL, "<pad>"}, 1},
    {"CohereTokenizer",
     {"<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", NULL, "<PAD>", "<CLS>", "<MASK_TOKEN>"},
     1},
    {"GPTNeoXTokenizer", {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"}, 0},
    {"GPT2Tokenizer", {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"}, -1},
    {"Qwen2Tokenizer", {NULL, "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>"}, -1},
};

/* A special token as a file gives it: a text, or an object with its flags. */
typedef struct mention {
    const fl_jv *content; /* string */
    fl_added_entry flags;
} mention;

typedef struct files {
    fl_added_builder *b;
    const fl_jv *root;                   /* tokenizer.json */
    fl_jv config, map, more;             /* tokenizer_config.json, special_tokens_map.json,
                                   added_tokens.json; null: there is no such file */
    fl_jv model;                         /* config.json */
    const fl_jv *decoder;                /* added_tokens_decoder, NULL: none */
    const struct tokenizer_class *class; /* NULL: another one, or none is named */
    fl_jv defaults[N_STANDARD];          /* strings the class and the padding name */
    const fl_jv **mentioned;             /* contents of all mentions, sorted */
    size_t n_mentioned, cap_mentioned;
    fl_arena arena;
    char *where; /* path of tokenizer_config.json */
    fl_err *err;
} files;

static int no_memory(const files *f) {
    return fl_fail(f->err, FL_E_NOMEM, "%s: no memory for the tokenizer", f->where);
}

static int read_file(files *f, fl_jv *out, const char *dir, const char *name) {
    char *path = fl_path_join(dir, name);
    int rc = FL_OK;
    *out = (fl_jv){.kind = FL_JV_NULL};
    if (!path) return no_memory(f);
    if (fl_file_exists(path)) {
        rc = fl_jv_load(out, &f->arena, path, f->err);
        if (!rc && out->kind != FL_JV_OBJECT)
            rc = fl_fail(f->err, FL_E_FORMAT, "%s: not an object", path);
    }
    fl_free(path);
    return rc;
}

/* ---- what is mentioned where ---- */

/* v: a string or an object with "content". */
static int read_mention(const files *f, const fl_jv *v, const char *name, mention *out) {
    char where[600];
    if (v->kind == FL_JV_STRING) {
        *out = (mention){v, {.token.special = true}};
        return FL_OK;
    }
    if (v->kind != FL_JV_OBJECT)
        return fl_fail(f->err, FL_E_FORMAT, "%s: %s is neither a text nor a token", f->where, name);
    snprintf(where, sizeof(where), "%.400s: %.100s", f->where, name);
    int rc = fl_tokenizer_content(v, &out->content, where, f->err);
    if (!rc) rc = fl_tokenizer_read_flags(v, &out->flags, where, f->err);
    return rc;
}

/* The value of a member: special_tokens_map.json goes before tokenizer_config.json, but is not
 * read at all when there is an added_tokens_decoder.  NULL: absent. */
static const fl_jv *value_of(const files *f, const char *key) {
    const fl_jv *v = f->decoder ? NULL : fl_jv_get(&f->map, key);
    return v ? v : fl_jv_get(&f->config, key);
}

/* The token of a standard name; NULL in out->content: none. */
static int standard(const files *f, int i, mention *out) {
    const fl_jv *v = value_of(f, standard_names[i]);
    *out = (mention){0};
    if (!v && f->defaults[i].kind == FL_JV_STRING) v = &f->defaults[i];
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    return read_mention(f, v, standard_names[i], out);
}

static bool is_standard(const fl_jv *name) {
    for (int i = 0; i < N_STANDARD; i++)
        if (fl_jv_equals(name, standard_names[i])) return true;
    return false;
}

/* Another member that names a token: "image_token": "<image>". */
static bool names_token(const fl_jv_member *m) {
    static const char end[] = "_token";
    const fl_jv *key = &m->key;
    size_t n = strlen(end);
    return m->value.kind == FL_JV_STRING && key->string.len > n &&
           !memcmp(key->string.data + key->string.len - n, end, n) && !is_standard(key);
}

/* name: NULL for a token of a list. */
typedef int (*mention_fn)(files *f, const char *name, const mention *m);

/* The items of a list, or of an object with names. */
static int each_in(files *f, const fl_jv *v, const char *key, mention_fn use) {
    int rc = FL_OK;
    if (!v || v->kind == FL_JV_NULL) return FL_OK;
    if (v->kind != FL_JV_ARRAY && v->kind != FL_JV_OBJECT)
        return fl_fail(f->err, FL_E_FORMAT, "%s: %s is not a list", f->where, key);
    for (uint32_t i = 0; i < v->n && !rc; i++) {
        bool list = v->kind == FL_JV_ARRAY;
        const fl_jv *item = list ? &v->items[i] : &v->members[i].value;
        mention m;
        rc = read_mention(f, item, key, &m);
        if (!rc) rc = use(f, list ? NULL : v->members[i].key.string.data, &m);
    }
    return rc;
}

/* All special tokens that the files mention, in the order in which they get ids. */
static int each_mention(files *f, mention_fn use) {
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    int rc = FL_OK;
    mention m;
    for (int i = 0; i < N_STANDARD && !rc; i++) {
        rc = standard(f, i, &m);
        if (!rc && m.content) rc = use(f, standard_names[i], &m);
    }
    for (uint32_t i = 0; f->config.kind == FL_JV_OBJECT && i < f->config.n && !rc; i++) {
        const fl_jv_member *member = &f->config.members[i];
        if (!names_token(member)) continue;
        m = (mention){&member->value, {.token.special = true}};
        rc = use(f, member->key.string.data, &m);
    }
    for (int k = 0; k < 2 && !rc; k++) {
        rc = each_in(f, fl_jv_get(&f->config, lists[k]), lists[k], use);
        if (!rc && !f->decoder) rc = each_in(f, fl_jv_get(&f->map, lists[k]), lists[k], use);
    }
    return rc;
}

/* ---- added_tokens_decoder and added_tokens.json ---- */

typedef struct numbered { /* a token by the id that the file gives it */
    int64_t id;
    const fl_jv *content;
    fl_added_entry flags;
} numbered;

typedef struct numbered_list {
    numbered *items;
    uint32_t n;
} numbered_list;

static int by_id(const void *a, const void *b) {
    const numbered *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int read_decoder_entry(const files *f, const fl_jv_member *m, numbered *out) {
    char where[600], *end;
    snprintf(where, sizeof(where), "%.400s: added_tokens_decoder %.50s", f->where,
             m->key.string.data);
    out->id = strtoll(m->key.string.data, &end, 10);
    if (!m->key.string.len || *end || out->id < 0)
        return fl_fail(f->err, FL_E_FORMAT, "%s: not an id", where);
    int rc = fl_tokenizer_content(&m->value, &out->content, where, f->err);
    return rc ? rc : fl_tokenizer_read_flags(&m->value, &out->flags, where, f->err);
}

/* What both files come down to. */
static int read_numbered(files *f, numbered_list *out) {
    const fl_jv *from = f->decoder ? f->decoder : &f->more;
    int rc = FL_OK;
    if (from->kind != FL_JV_OBJECT) return FL_OK;
    out->items = fl_arena_alloc(&f->arena, (from->n + 1) * sizeof(*out->items));
    if (!out->items) return no_memory(f);
    for (uint32_t i = 0; i < from->n && !rc; i++) {
        const fl_jv_member *m = &from->members[i];
        numbered *item = &out->items[out->n++];
        if (f->decoder) {
            rc = read_decoder_entry(f, m, item);
        } else if (m->value.kind == FL_JV_INT) {
            *item = (numbered){m->value.integer, &m->key, {.normalized = true}};
        } else {
            rc = fl_fail(f->err, FL_E_FORMAT, "added_tokens.json: token \"%.100s\" has no id",
                         m->key.string.data);
        }
    }
    if (out->n) qsort(out->items, out->n, sizeof(*out->items), by_id);
    return rc;
}

/* ---- adding ---- */

static int note_mention(files *f, const char *name, const mention *m) {
    (void)name;
    if (f->n_mentioned == f->cap_mentioned) {
        size_t cap = f->cap_mentioned ? 2 * f->cap_mentioned : 64;
        const fl_jv **grown = fl_grow(f->mentioned, cap * sizeof(*grown));
        if (!grown) return no_memory(f);
        f->mentioned = grown;
        f->cap_mentioned = cap;
    }
    f->mentioned[f->n_mentioned++] = m->content;
    return FL_OK;
}

static int by_text(const void *a, const void *b) {
    const fl_jv *x = *(const fl_jv *const *)a, *y = *(const fl_jv *const *)b;
    if (x->string.len != y->string.len) return x->string.len < y->string.len ? -1 : 1;
    return memcmp(x->string.data, y->string.data, x->string.len);
}

/* The tokens of added_tokens.json have no flags: those that are mentioned are special.  What
 * tokenizer.json says of an id goes before. */
static bool legacy_flags(files *f, numbered *item) {
    if (item->id < f->b->cap && f->b->entries[item->id].used) return false;
    bool special = f->n_mentioned && bsearch(&item->content, f->mentioned, f->n_mentioned,
                                             sizeof(*f->mentioned), by_text);
    item->flags.token.special = special;
    item->flags.normalized = !special;
    return true;
}

static int add_numbered(files *f) {
    numbered_list list = {0};
    int rc = read_numbered(f, &list);
    if (!rc && !f->decoder) rc = each_mention(f, note_mention);
    if (rc) return rc;
    if (f->n_mentioned) qsort(f->mentioned, f->n_mentioned, sizeof(*f->mentioned), by_text);
    /* The reference does not look at the ids either: a token that is new gets the next one. */
    for (uint32_t i = 0; i < list.n && !rc; i++) {
        numbered *item = &list.items[i];
        item->flags.listed = true;
        if (f->decoder || legacy_flags(f, item))
            rc = fl_tokenizer_add(f->b, item->content, &item->flags, f->err);
    }
    return rc;
}

static int keep_name(files *f, const char *name, const fl_jv *text) {
    fl_tokenizer *t = f->b->source.t;
    return fl_named_list_add(t, &t->named, name, text) ? FL_OK : no_memory(f);
}

/* A mention makes a token that is added already special and changes no other flag; not even that
 * when there is an added_tokens_decoder without it. */
static int add_mention(files *f, const char *name, const mention *m) {
    const fl_added_entry *known = fl_tokenizer_find_added(f->b, m->content);
    fl_added_entry flags = known ? *known : m->flags;
    int rc = name ? keep_name(f, name, m->content) : FL_OK;
    if (rc || (known && f->decoder && !known->listed)) return rc;
    flags.token.special = true;
    return fl_tokenizer_add(f->b, m->content, &flags, f->err);
}

/* ---- the class ---- */

static int find_class(files *f, const fl_jv **name) {
    static const char fast[] = "Fast";
    int rc = fl_jv_text(&f->config, "tokenizer_class", name, f->where, f->err);
    if (!rc && !*name && f->model.kind == FL_JV_OBJECT)
        rc = fl_jv_text(&f->model, "tokenizer_class", name, "config.json", f->err);
    if (rc || !*name) return rc;
    size_t n = (*name)->string.len, m = strlen(fast);
    if (n > m && !memcmp((*name)->string.data + n - m, fast, m)) n -= m;
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
        if (strlen(classes[i].name) == n && !memcmp(classes[i].name, (*name)->string.data, n))
            f->class = &classes[i];
    return FL_OK;
}

static bool in_vocabulary(const files *f, const char *text) {
    return fl_tokenizer_id(f->b->source.t, text, strlen(text)) >= 0;
}

/* What the class and the padding of tokenizer.json name when the files do not.  A class made for
 * SentencePiece names nothing new in a vocabulary of bytes: such a file was only labelled so. */
static void read_defaults(files *f) {
    const bool labelled = f->class && f->class->adds_bos > 0 && f->b->source.t->bpe.byte_level;
    const fl_jv *pad = fl_jv_get(fl_jv_get(f->root, "padding"), "pad_token");
    for (int i = 0; f->class && i < N_STANDARD; i++) {
        const char *text = f->class->tokens[i];
        if (text && (!labelled || in_vocabulary(f, text)))
            f->defaults[i] = (fl_jv){.kind = FL_JV_STRING, .string = {text, strlen(text)}};
    }
    for (int i = 0; pad && pad->kind == FL_JV_STRING && i < N_STANDARD; i++)
        if (!strcmp(standard_names[i], "pad_token") && f->defaults[i].kind == FL_JV_NULL)
            f->defaults[i] = *pad;
}

/* Whether the class puts BOS and EOS around a text, whatever the post_processor says.  Without
 * the name of a class a flag that is there means what it means to Llama's. */
static int read_class_tokens(files *f, bool named, fl_class_tokens *out) {
    const fl_jv *flags[] = {fl_jv_get(&f->config, "add_bos_token"),
                            fl_jv_get(&f->config, "add_eos_token")};
    const bool given =
        (flags[0] && flags[0]->kind != FL_JV_NULL) || (flags[1] && flags[1]->kind != FL_JV_NULL);
    const int adds = f->class ? f->class->adds_bos : -1;
    out->bos = adds != 0;
    out->decides = adds >= 0 || (!named && given);
    int rc = fl_jv_bool(&f->config, "add_bos_token", &out->bos, f->where, f->err);
    return rc ? rc : fl_jv_bool(&f->config, "add_eos_token", &out->eos, f->where, f->err);
}

static void put_affix(fl_affix *affix, bool wanted, int32_t id) {
    affix->n = 0;
    if (wanted && id >= 0) affix->ids[affix->n++] = id;
}

void fl_tokenizer_apply_class(fl_tokenizer *t, const fl_class_tokens *c) {
    if (!c->decides) return;
    put_affix(&t->prefix, c->bos, t->bos);
    put_affix(&t->suffix, c->eos, t->eos);
}

/* ---- the files ---- */

static int32_t id_of_named(const fl_tokenizer *t, const char *name) {
    for (size_t i = 0; i < t->named.n; i++)
        if (!strcmp(t->named.items[i].name, name))
            return fl_tokenizer_id(t, t->named.items[i].text, strlen(t->named.items[i].text));
    return -1;
}

static int read_files(files *f, const char *dir) {
    const fl_jv *decoder, *rows;
    int rc;
    if ((rc = read_file(f, &f->config, dir, "tokenizer_config.json")) ||
        (rc = read_file(f, &f->map, dir, "special_tokens_map.json")) ||
        (rc = read_file(f, &f->more, dir, "added_tokens.json")) ||
        (rc = read_file(f, &f->model, dir, "config.json")))
        return rc;
    decoder = fl_jv_get(&f->config, "added_tokens_decoder");
    if (decoder && decoder->kind != FL_JV_NULL) {
        if (decoder->kind != FL_JV_OBJECT)
            return fl_fail(f->err, FL_E_FORMAT, "%s: added_tokens_decoder is not an object",
                           f->where);
        f->decoder = decoder;
    }
    rows = fl_jv_get(&f->model, "vocab_size");
    if (rows && rows->kind == FL_JV_INT && rows->integer > 0 && rows->integer <= INT32_MAX)
        f->b->source.t->n_rows = (int32_t)rows->integer;
    return FL_OK;
}

int fl_tokenizer_read_special(fl_added_builder *b, fl_class_tokens *around, const fl_jv *root,
                              const char *dir, fl_err *err) {
    fl_tokenizer *t = b->source.t;
    files f = {.b = b, .root = root, .err = err};
    const fl_jv *class_name = NULL;
    int rc;
    f.where = fl_path_join(dir, "tokenizer_config.json");
    if (!f.where) return fl_fail(err, FL_E_NOMEM, "%s: no memory for the tokenizer", dir);
    if ((rc = read_files(&f, dir)) || (rc = find_class(&f, &class_name))) goto done;
    read_defaults(&f);
    if ((rc = add_numbered(&f)) || (rc = each_mention(&f, add_mention))) goto done;
    t->bos = id_of_named(t, "bos_token");
    t->eos = id_of_named(t, "eos_token");
    t->pad = id_of_named(t, "pad_token");
    rc = read_class_tokens(&f, class_name != NULL, around);
done:
    fl_free(f.mentioned);
    fl_free(f.where);
    fl_arena_free(&f.arena);
    return rc;
}
