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
    const char *doc;
} field;

#define AT(member) offsetof(fl_params, member)
#define TWO_53     9007199254740992.0
#define MANY       1073741824.0
/* clang-format off */
static const field fields[] = {
    {"n", INT, AT(n), 1, FL_MAX_N, "completions of the one prompt; default 1"},
    {"max_tokens", INT, AT(max_tokens), 1, MANY, "tokens to generate; default: to the end of the context"},
    {"min_tokens", INT, AT(min_tokens), 0, MANY, "no end of text before so many tokens; default 0"},
    {"temperature", FLOAT, AT(sampler.temperature), 0, 100, "0 is greedy; default 1"},
    {"top_k", INT32, AT(sampler.top_k), -1, MANY, "keep the k likeliest; 0 and -1 keep all; default 0"},
    {"top_p", FLOAT, AT(sampler.top_p), 1e-6, 1, "keep the likeliest that hold p together; default 1"},
    {"min_p", FLOAT, AT(sampler.min_p), 0, 1, "keep those with p times the best probability; default 0"},
    {"repetition_penalty", FLOAT, AT(sampler.repetition_penalty), 0.001, 1000, "on ids of prompt and output"},
    {"frequency_penalty", FLOAT, AT(sampler.frequency_penalty), -2, 2, "times the count in the output; default 0"},
    {"presence_penalty", FLOAT, AT(sampler.presence_penalty), -2, 2, "on ids in the output; default 0"},
    {"seed", SEED, 0, -TWO_53, TWO_53, "same seed, same tokens; default -1: from the system"},
    {"logit_bias", BIAS, 0, 0, 4096, "added to the logits, each in [-100, 100]"},
    {"allowed_token_ids", IDS, AT(sampler.allowed), 1, 1 << 20, "only these may be chosen"},
    {"order", STAGES, 0, 1, FL_STAGE_COUNT, "order of the sampler's stages"},
    {"stop", TEXTS, AT(stop), 0, FL_MAX_STOPS, "texts that end the completion"},
    {"stop_token_ids", IDS, AT(stop_token_ids), 0, 4096, "ids that end the completion"},
    {"bad_words", TEXTS, AT(bad_words), 0, FL_MAX_STOPS, "texts that may not be completed"},
    {"include_stop_str_in_output", BOOL, AT(include_stop), 0, 1, "keep the stop text; default false"},
    {"ignore_eos", BOOL, AT(ignore_eos), 0, 1, "end-of-text ids do not end it; default false"},
    {"skip_special_tokens", BOOL, AT(skip_special_tokens), 0, 1, "not in the text; default true"},
    {"logprobs", INT, AT(logprobs), 0, FL_MAX_LOGPROBS, "log-probability of each token and of so many alternatives"},
    {"prompt_logprobs", INT, AT(prompt_logprobs), 0, FL_MAX_LOGPROBS, "the same for the prompt"},
    {"truncate_prompt_tokens", INT, AT(truncate_prompt_tokens), 1, MANY, "keep only the last so many of the prompt"},
    {"timeout_ms", INT, AT(timeout_ms), 1, MANY, "end after so long"},
    {"priority", INT, AT(priority), -1000000, 1000000, "lower runs first; default 0"},
    {"cache_salt", TEXT, AT(cache_salt), 0, 256, "prefixes are shared among equal salts only"},
    {"policy", BOOL, AT(policy), 0, 1, "a policy chooses the tokens; default false"},
};
/* clang-format on */
enum { N_FIELDS = sizeof(fields) / sizeof(fields[0]) };

bool fl_params_field(int i, fl_param_info *out) {
    if (i < 0 || i >= N_FIELDS) return false;
    const field *f = &fields[i];
    *out = (fl_param_info){f->name, type_name[f->kind], f->doc, f->min, f->max};
    return true;
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
    if (f->kind == INT) *(int64_t *)at = (int64_t)x;
    if (f->kind == INT32) *(int32_t *)at = (int32_t)x;
    if (f->kind == FLOAT) *(float *)at = (float)x;
    return FL_OK;
}

static int read_seed(fl_params *p, const field *f, const fl_jv *v, fl_err *err) {
    int rc = read_number(NULL, f, v, err);
    if (rc) return rc;
    double x = -1;
    number_of(v, &x);
    p->sampler.has_seed = x != -1;
    p->sampler.seed = (uint64_t)(int64_t)x;
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
    for (size_t i = 0; i < n; i++) {
        if (items[i].kind != FL_JV_STRING || !items[i].string.len ||
            items[i].string.len > FL_MAX_STOP_BYTES)
            return refuse(f, "strings of 1 to 1024 bytes", &items[i], err);
        if ((rc = copy_text(&texts[i], f, &items[i], arena, err))) return rc;
    }
    *out = (fl_text_list){texts, n};
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
    double id = 0;
    size_t i = 0;
    for (; i < key->string.len && key->string.data[i] >= '0' && key->string.data[i] <= '9'; i++)
        id = id * 10 + (key->string.data[i] - '0');
    *out = (int32_t)id;
    return i && i == key->string.len && id <= INT32_MAX;
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
    *out = (fl_params){.n = 1, .skip_special_tokens = true, .logprobs = -1, .prompt_logprobs = -1};
    fl_sampler_params_init(&out->sampler);
    if (o->kind != FL_JV_OBJECT) return fl_fail(err, FL_E_ARG, "request: need an object");
    for (uint32_t i = 0; i < o->n; i++) {
        const char *name = o->members[i].key.string.data;
        const field *f = find(name);
        if (src->field) *src->field = f ? f->name : name;
        if (o->members[i].value.kind == FL_JV_NULL) continue;
        if (!f && src->strict && !listed(src->others, name))
            return fl_fail(err, FL_E_ARG, "%.80s: not a parameter of a request", name);
        int rc = f ? read_field(out, f, &o->members[i].value, src, err) : FL_OK;
        if (rc) return rc;
    }
    if (out->max_tokens && out->min_tokens > out->max_tokens) {
        if (src->field) *src->field = "min_tokens";
        return fl_fail(err, FL_E_ARG, "min_tokens: %lld is more than max_tokens %lld",
                       (long long)out->min_tokens, (long long)out->max_tokens);
    }
    return FL_OK;
}
