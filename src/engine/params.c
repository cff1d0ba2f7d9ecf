#include "engine/params.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "util/bytes.h"

typedef enum { INT, INT32, FLOAT, BOOL, TEXT, TEXTS, IDS, BIAS, STAGES, SEED } kind;

static const char *const type_name[] = {
    [INT] = "integer",           [INT32] = "integer",
    [FLOAT] = "number",          [BOOL] = "boolean",
    [TEXT] = "string",           [TEXTS] = "string or list of strings",
    [IDS] = "list of ids",       [BIAS] = "object of id to bias",
    [STAGES] = "list of stages", [SEED] = "integer"};

typedef struct field {
    const char *name;
    kind kind;
    size_t offset; /* in fl_params */
    double min, max;
    double fallback; /* of a number or boolean; one outside [min, max] means: not given */
    const char *doc;
} field;

#define AT(member) offsetof(fl_params, member)
#define TWO_63     9223372036854775808.0
#define MANY       1073741824.0
#define NONE       -1.0 /* see fallback */
/* clang-format off */
static const field fields[] = {
    {"n", INT, AT(n), 1, FL_MAX_N, 1, "completions of the one prompt"},
    {"max_tokens", INT, AT(max_tokens), 0, MANY, NONE,
     "else to the end of the context; 0 only to echo or score the prompt"},
    {"min_tokens", INT, AT(min_tokens), 0, MANY, 0, "no end of text before so many tokens"},
    {"temperature", FLOAT, AT(sampler.temperature), 0, 100, 1, "0 is greedy"},
    {"top_k", INT32, AT(sampler.top_k), -1, MANY, 0, "keep the k likeliest; 0 and -1 keep all"},
    {"top_p", FLOAT, AT(sampler.top_p), 1e-6, 1, 1, "keep the likeliest that hold p together"},
    {"min_p", FLOAT, AT(sampler.min_p), 0, 1, 0, "keep those with p times the best probability"},
    {"repetition_penalty", FLOAT, AT(sampler.repetition_penalty), 0.001, 1000, 1,
     "on ids of prompt and output"},
    {"frequency_penalty", FLOAT, AT(sampler.frequency_penalty), -2, 2, 0,
     "times the count in the output"},
    {"presence_penalty", FLOAT, AT(sampler.presence_penalty), -2, 2, 0, "on ids in the output"},
    {"seed", SEED, 0, -TWO_63, TWO_63, -1,
     "same seed, same tokens; any integer of 64 bits; -1 is one from the system"},
    {"logit_bias", BIAS, 0, 0, 4096, 0, "added to the logits, each in [-100, 100]"},
    {"allowed_token_ids", IDS, AT(sampler.allowed), 1, 1 << 20, 0, "only these may be chosen"},
    {"order", STAGES, 0, 1, FL_STAGE_COUNT, 0, "order of the sampler's stages"},
    {"stop", TEXTS, AT(stop), 0, FL_MAX_STOPS, 0, "texts that end the completion"},
    {"stop_token_ids", IDS, AT(stop_token_ids), 0, 4096, 0, "ids that end the completion"},
    {"bad_words", TEXTS, AT(bad_words), 0, FL_MAX_STOPS, 0, "texts that may not be completed"},
    {"include_stop_str_in_output", BOOL, AT(include_stop), 0, 1, 0,
     "keep the stop text or the token that ends the text"},
    {"ignore_eos", BOOL, AT(ignore_eos), 0, 1, 0, "end-of-text ids do not end it"},
    {"skip_special_tokens", BOOL, AT(skip_special_tokens), 0, 1, 1, "not in the text"},
    {"echo", BOOL, AT(echo), 0, 1, 0, "the completion begins with the prompt"},
    {"logprobs", INT, AT(logprobs), 0, FL_MAX_LOGPROBS, NONE,
     "log-probability of each token and of so many alternatives"},
    {"prompt_logprobs", INT, AT(prompt_logprobs), 0, FL_MAX_LOGPROBS, NONE,
     "the same for the prompt"},
    {"truncate_prompt_tokens", INT, AT(truncate_prompt_tokens), 1, MANY, NONE,
     "keep only the last so many of the prompt"},
    {"timeout_ms", INT, AT(timeout_ms), 1, MANY, NONE, "end after so long"},
    {"priority", INT, AT(priority), -1000000, 1000000, 0, "lower runs first"},
    {"cache_salt", TEXT, AT(cache_salt), 0, 256, 0, "prefixes are shared among equal salts only"},
    {"num_speculative_tokens", INT, AT(num_speculative_tokens), 0, FL_MAX_GUESSES, NONE,
     "guesses a step of what followed the same tokens; else as the engine has it"},
    {"prompt_lookup_min", INT, AT(prompt_lookup_min), 1, FL_MAX_GUESSES, NONE,
     "equal tokens a guess needs; else as the engine has it"},
    {"prompt_lookup_max", INT, AT(prompt_lookup_max), 1, FL_MAX_GUESSES, NONE,
     "tokens compared at most; else as the engine has it"},
    {"policy", BOOL, AT(policy), 0, 1, 0, "a policy chooses the tokens"},
    {"policy_candidates", INT, AT(policy_candidates), 1, FL_MAX_CANDIDATES, 20,
     "the likeliest tokens that a policy is shown"},
    {"policy_logits", BOOL, AT(policy_logits), 0, 1, 0,
     "a policy is given whole rows of logits instead"},
};
/* clang-format on */
enum { N_FIELDS = sizeof(fields) / sizeof(fields[0]) };

static bool is_single(kind k) {
    return k == INT || k == INT32 || k == FLOAT || k == BOOL || k == SEED;
}

bool fl_params_field(int i, fl_param_info *out) {
    if (i < 0 || i >= N_FIELDS) return false;
    const field *f = &fields[i];
    *out = (fl_param_info){.name = f->name,
                           .type = type_name[f->kind],
                           .doc = f->doc,
                           .min = f->min,
                           .max = f->max,
                           .has_default = is_single(f->kind) && f->fallback >= f->min,
                           .fallback = f->fallback};
    return true;
}

static void put_number(void *at, kind k, double x) {
    if (k == INT) *(int64_t *)at = (int64_t)x;
    if (k == INT32) *(int32_t *)at = (int32_t)x;
    if (k == FLOAT) *(float *)at = (float)x;
    if (k == BOOL) *(bool *)at = x != 0;
}

static void put_defaults(fl_params *p) {
    *p = (fl_params){0};
    fl_sampler_params_init(&p->sampler);
    for (int i = 0; i < N_FIELDS; i++)
        put_number((char *)p + fields[i].offset, fields[i].kind, fields[i].fallback);
}

static int refuse(const field *f, const char *want, const fl_jv *v, fl_err *err) {
    fl_bytes got = {0};
    fl_jv_write(&got, v);
    int rc = fl_fail(err, FL_E_ARG, "%s: need %s, got %.80s", f->name, want, fl_bytes_cstr(&got));
    fl_bytes_free(&got);
    return rc;
}

static int refuse_range(const field *f, const char *what, const fl_jv *v, fl_err *err) {
    fl_err want;
    fl_fail(&want, FL_E_ARG, "%s in [%.10g, %.10g]", what, f->min, f->max);
    return refuse(f, want.msg, v, err);
}

static bool number_of(const fl_jv *v, double *out) {
    if (v->kind == FL_JV_INT)
        *out = (double)v->integer;
    else if (v->kind == FL_JV_FLOAT)
        *out = v->number;
    else
        return false;
    return true;
}

static int read_number(void *at, const field *f, const fl_jv *v, fl_err *err) {
    double x = NAN;
    bool whole = f->kind != FLOAT;
    if (!number_of(v, &x) || !(x >= f->min && x <= f->max) || (whole && x != floor(x)))
        return refuse_range(f, whole ? "an integer" : "a number", v, err);
    put_number(at, f->kind, x);
    return FL_OK;
}

static int read_seed(fl_params *p, const field *f, const fl_jv *v, fl_err *err) {
    int64_t seed = v->kind == FL_JV_INT ? v->integer : 0;
    if (v->kind != FL_JV_INT) { /* 2^63 itself is the first one that does not fit */
        int rc = read_number(NULL, f, v, err);
        if (rc) return rc;
        if (v->number >= TWO_63) return refuse_range(f, "an integer", v, err);
        seed = (int64_t)v->number;
    }
    p->sampler.has_seed = seed != -1;
    p->sampler.seed = (uint64_t)seed;
    return FL_OK;
}

static int need_items(const field *f, const fl_jv *v, const char *what, fl_err *err) {
    if (v->kind == FL_JV_ARRAY && v->n >= f->min && v->n <= f->max) return FL_OK;
    fl_err want;
    fl_fail(&want, FL_E_ARG, "a list of %.10g to %.10g %s", f->min, f->max, what);
    return refuse(f, want.msg, v, err);
}

static int copy_text(fl_text *out, const field *f, const fl_jv *v, fl_arena *arena, fl_err *err) {
    char *copy = fl_arena_alloc(arena, v->string.len + 1);
    if (!copy) return fl_fail(err, FL_E_NOMEM, "%s", f->name);
    memcpy(copy, v->string.data, v->string.len);
    *out = (fl_text){copy, v->string.len};
    return FL_OK;
}

static int read_texts(fl_text_list *out, const field *f, const fl_jv *v, fl_arena *arena,
                      fl_err *err) {
    const fl_jv *items = v->kind == FL_JV_STRING ? v : v->items;
    const size_t n = v->kind == FL_JV_STRING ? 1 : v->n;
    int rc = v->kind == FL_JV_STRING ? FL_OK : need_items(f, v, "strings", err);
    if (rc) return rc;
    fl_text *texts = fl_arena_alloc(arena, (n + 1) * sizeof(*texts));
    if (!texts) return fl_fail(err, FL_E_NOMEM, "%s", f->name);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (items[i].kind != FL_JV_STRING || items[i].string.len > FL_MAX_STOP_BYTES)
            return refuse(f, "strings of at most 1024 bytes", &items[i], err);
        if (!items[i].string.len) continue; /* clients send an empty text for none */
        if ((rc = copy_text(&texts[kept++], f, &items[i], arena, err))) return rc;
    }
    *out = (fl_text_list){texts, kept};
    return FL_OK;
}

static bool id_of(const fl_jv *v, int32_t *out) {
    double x;
    if (!number_of(v, &x) || x < 0 || x > INT32_MAX || x != floor(x)) return false;
    *out = (int32_t)x;
    return true;
}

static int read_ids(fl_params *p, const field *f, const fl_jv *v, fl_arena *arena, fl_err *err) {
    int rc = need_items(f, v, "ids", err);
    if (rc) return rc;
    int32_t *ids = fl_arena_alloc(arena, (v->n + 1) * sizeof(*ids));
    if (!ids) return fl_fail(err, FL_E_NOMEM, "%s", f->name);
    for (uint32_t i = 0; i < v->n; i++) {
        if (!id_of(&v->items[i], &ids[i]))
            return refuse(f, "ids in [0, 2147483647]", &v->items[i], err);
    }
    if (f->offset == AT(stop_token_ids)) {
        p->stop_token_ids = (fl_id_list){ids, v->n};
    } else {
        p->sampler.allowed = ids;
        p->sampler.n_allowed = v->n;
    }
    return FL_OK;
}

static bool id_name(const fl_jv *key, int32_t *out) {
    int64_t id = 0;
    size_t i = 0;
    for (; i < key->string.len && key->string.data[i] >= '0' && key->string.data[i] <= '9'; i++) {
        id = id * 10 + (key->string.data[i] - '0');
        if (id > INT32_MAX) return false;
    }
    *out = (int32_t)id;
    return i && i == key->string.len;
}

static int read_bias(fl_params *p, const field *f, const fl_jv *v, const fl_params_source *src,
                     fl_err *err) {
    bool list = v->kind == FL_JV_ARRAY && (src->lua || !v->n);
    if ((!list && v->kind != FL_JV_OBJECT) || v->n > f->max)
        return refuse(f, "an object of at most 4096 ids", v, err);
    fl_logit_bias *bias = fl_arena_alloc(src->arena, (v->n + 1) * sizeof(*bias));
    if (!bias) return fl_fail(err, FL_E_NOMEM, "%s", f->name);
    for (uint32_t i = 0; i < v->n; i++) {
        const fl_jv *value = list ? &v->items[i] : &v->members[i].value;
        int32_t id = (int32_t)i + 1;
        double x;
        if (!list && !id_name(&v->members[i].key, &id))
            return refuse(f, "token ids as names", &v->members[i].key, err);
        if (!number_of(value, &x) || !(x >= -100 && x <= 100))
            return refuse(f, "biases in [-100, 100]", value, err);
        bias[i] = (fl_logit_bias){id, (float)x};
    }
    p->sampler.bias = bias;
    p->sampler.n_bias = v->n;
    return FL_OK;
}

static int read_stages(fl_params *p, const field *f, const fl_jv *v, fl_err *err) {
    int rc = need_items(f, v, "stages", err);
    if (rc) return rc;
    for (uint32_t i = 0; i < v->n; i++) {
        const fl_jv *s = &v->items[i];
        if (s->kind != FL_JV_STRING || !fl_stage_from_name(s->string.data, &p->sampler.order[i]))
            return refuse(f, "names of stages", s, err);
    }
    p->sampler.n_order = v->n;
    return FL_OK;
}

static int read_field(fl_params *p, const field *f, const fl_jv *v, const fl_params_source *src,
                      fl_err *err) {
    fl_arena *arena = src->arena;
    void *at = (char *)p + f->offset;
    switch (f->kind) {
    case INT:
    case INT32:
    case FLOAT:
        return read_number(at, f, v, err);
    case SEED:
        return read_seed(p, f, v, err);
    case TEXTS:
        return read_texts(at, f, v, arena, err);
    case IDS:
        return read_ids(p, f, v, arena, err);
    case BIAS:
        return read_bias(p, f, v, src, err);
    case STAGES:
        return read_stages(p, f, v, err);
    case BOOL:
        if (v->kind != FL_JV_BOOL) return refuse(f, "true or false", v, err);
        *(bool *)at = v->boolean;
        return FL_OK;
    case TEXT:
        if (v->kind != FL_JV_STRING || v->string.len > f->max)
            return refuse(f, "a string of at most 256 bytes", v, err);
        return copy_text(at, f, v, arena, err);
    }
    return FL_OK;
}

static const field *find(const char *name) {
    for (int i = 0; i < N_FIELDS; i++) {
        if (!strcmp(fields[i].name, name)) return &fields[i];
    }
    return NULL;
}

static bool listed(const char *const *names, const char *name) {
    for (; names && *names; names++) {
        if (!strcmp(*names, name)) return true;
    }
    return false;
}

int fl_params_read(fl_params *out, const fl_params_source *src, fl_err *err) {
    const fl_jv *o = src->object;
    put_defaults(out);
    if (o->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "request: need an object");
    for (uint32_t i = 0; i < o->n; i++) {
        const char *name = o->members[i].key.string.data;
        const bool cut = o->members[i].key.string.len != strlen(name); /* by a NUL: another name */
        const field *f = cut ? NULL : find(name);
        if (src->field) *src->field = f ? f->name : name;
        if (o->members[i].value.kind == FL_JV_NULL) continue;
        if (!f && src->strict && (cut || !listed(src->others, name)))
            return fl_fail(err, FL_E_ARG, "%.80s: not a parameter of a request", name);
        int rc = f ? read_field(out, f, &o->members[i].value, src, err) : FL_OK;
        if (rc) return rc;
    }
    if (out->max_tokens >= 0 && out->min_tokens > out->max_tokens) {
        if (src->field) *src->field = "min_tokens";
        return fl_fail(err, FL_E_ARG, "min_tokens: %lld is more than max_tokens %lld",
                       (long long)out->min_tokens, (long long)out->max_tokens);
    }
    return FL_OK;
}
