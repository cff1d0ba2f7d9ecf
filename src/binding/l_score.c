/* model:score: log-likelihood of continuations, their shared context computed once. */
#include <string.h>

#include "binding/l_model.h"
#include "engine/score.h"
#include "util/mem.h"
#include "util/num.h"

/* One continuation: the ids of context and choice together, and where the choice begins. */
typedef struct whole {
    fl_ids ids;
    size_t n_context;
} whole;

typedef struct job {
    fl_model *model;
    fl_tokenizer *tokenizer; /* NULL: context and choices are ids */
    fl_tokenizer_ctx *ctx;
    fl_ids context;
    whole *choice;
    size_t n;
    double *logprob; /* [n]; this and greedy are blocks of Lua's */
    bool *greedy;    /* [n] every id of the choice was the most likely one */
} job;

static void free_job(job *j) {
    for (size_t i = 0; j->choice && i < j->n; i++) fl_ids_free(&j->choice[i].ids);
    fl_ids_free(&j->context);
    fl_tokenizer_ctx_free(j->ctx);
    fl_free(j->choice);
}

static int encode(job *j, fl_ids *out, const char *text, size_t n, fl_err *err) {
    const fl_encode_options o = {.add_special_tokens = true};
    return fl_tokenizer_encode(j->tokenizer, j->ctx, text, n, &o, out, err);
}

static int append(fl_ids *out, const int32_t *ids, size_t n, fl_err *err) {
    for (size_t i = 0; i < n; i++) {
        if (!fl_ids_push(out, ids[i])) return fl_fail(err, FL_E_NOMEM, "score: %zu ids", n);
    }
    return FL_OK;
}

/* How many ids a block of fl_check_ids has: the table it was made of may have changed since. */
static size_t block_ids(lua_State *L, int idx) {
    return lua_rawlen(L, idx) / sizeof(int32_t) - 1;
}

/* Stack: 2 context, and what prepare left; all checked before anything is owned. */
static int collect(lua_State *L, job *j, fl_err *err) {
    size_t n;
    int rc;
    if (j->tokenizer) {
        const char *context = lua_tolstring(L, 2, &n);
        if ((rc = fl_tokenizer_ctx_new(&j->ctx, j->tokenizer, err))) return rc;
        if ((rc = encode(j, &j->context, context, n, err))) return rc;
    } else {
        const int32_t *ids = lua_touserdata(L, 4);
        if ((rc = append(&j->context, ids, block_ids(L, 4), err))) return rc;
    }
    for (size_t i = 0; i < j->n; i++) {
        whole *w = &j->choice[i];
        w->n_context = j->context.len;
        if (j->tokenizer) { /* the joined text, as lm-eval does, so that merges span the seam */
            lua_rawgeti(L, 4, (int)i + 1);
            const char *text = lua_tolstring(L, -1, &n);
            rc = encode(j, &w->ids, text, n, err);
            lua_pop(L, 1);
        } else {
            lua_rawgeti(L, 5, (int)i + 1);
            const int32_t *ids = lua_touserdata(L, -1);
            rc = append(&w->ids, j->context.data, j->context.len, err);
            if (!rc) rc = append(&w->ids, ids, block_ids(L, -1), err);
            lua_pop(L, 1);
        }
        if (rc) return rc;
        if (w->ids.len <= w->n_context)
            return fl_fail(err, FL_E_ARG, "score: choice %zu adds no token to the context", i + 1);
    }
    return FL_OK;
}

/* Longest prefix of the context that all choices begin with. */
static size_t shared_prefix(const job *j) {
    size_t p = j->context.len;
    for (size_t i = 0; i < j->n; i++) {
        const whole *w = &j->choice[i];
        size_t k = 0;
        while (k < p && w->ids.data[k] == j->context.data[k]) k++;
        p = k;
    }
    return p;
}

static int score_choice(job *j, fl_sequence *base, size_t i, fl_err *err) {
    const whole *w = &j->choice[i];
    size_t from = (size_t)fl_sequence_length(base), n = w->ids.len - from;
    fl_sequence *s = NULL;
    float *logprob = fl_alloc_array(n, sizeof(*logprob));
    bool *greedy = fl_alloc_array(n, sizeof(*greedy));
    int rc = logprob && greedy ? FL_OK : fl_fail(err, FL_E_NOMEM, "score: %zu tokens", n);
    if (!rc) rc = fl_sequence_fork(&s, base, err);
    if (!rc) rc = fl_score(s, w->ids.data + from, (int64_t)n, logprob, greedy, err);
    j->greedy[i] = true;
    for (size_t k = w->n_context - from; !rc && k < n; k++) {
        j->logprob[i] += (double)logprob[k];
        j->greedy[i] = j->greedy[i] && greedy[k];
    }
    fl_sequence_unref(s);
    fl_free(logprob);
    fl_free(greedy);
    return rc;
}

static int score_all(job *j, fl_err *err) {
    fl_sequence *base;
    int rc = fl_sequence_new(&base, j->model, err);
    if (rc) return rc;
    size_t shared = shared_prefix(j);
    if (shared) rc = fl_sequence_feed(base, j->context.data, (int64_t)shared, NULL, err);
    for (size_t i = 0; !rc && i < j->n; i++) rc = score_choice(j, base, i, err);
    fl_sequence_unref(base);
    return rc;
}

/* Check all arguments and leave at 4 (and 5) what collect reads: strings are joined with
 * the context, id tables become blocks that Lua owns. */
static bool prepare(lua_State *L, size_t *n) {
    size_t unused;
    bool text = lua_type(L, 2) == LUA_TSTRING;
    fl_check_type(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    *n = lua_rawlen(L, 3);
    if (!text) fl_check_ids(L, 2, &unused);
    lua_createtable(L, (int)*n, 0);
    for (size_t i = 1; i <= *n; i++) {
        int top = lua_gettop(L);
        lua_rawgeti(L, 3, (int)i);
        if (text) {
            if (lua_type(L, -1) != LUA_TSTRING) fl_arg_error(L, 3, "choices must be strings");
            lua_pushvalue(L, 2);
            lua_insert(L, -2);
            lua_concat(L, 2);
        } else {
            fl_check_ids(L, -1, &unused);
        }
        lua_rawseti(L, top, (int)i);
        lua_settop(L, top);
    }
    return text;
}

/* model:score(context, {choice, ...}) -> {logprob, ...}, {greedy, ...}; context and choices
 * are texts, or tables of ids.  An empty context scores from the second token on. */
int fl_l_score(lua_State *L) {
    fl_err err;
    job j = {0};
    fl_check_model(L, 1);
    bool text = prepare(L, &j.n);
    int rc = FL_OK;
    j.logprob = lua_newuserdata(L, (j.n + 1) * sizeof(*j.logprob));
    j.greedy = lua_newuserdata(L, (j.n + 1) * sizeof(*j.greedy));
    memset(j.logprob, 0, (j.n + 1) * sizeof(*j.logprob));
    j.model = fl_check_model(L, 1);
    if (text && fl_model_tokenizer(L, 1, &j.tokenizer, &err)) return fl_push_err(L, &err);
    j.choice = fl_alloc_array(j.n, sizeof(*j.choice));
    if (!j.choice) rc = fl_fail(&err, FL_E_NOMEM, "score: %zu choices", j.n);
    if (!rc) rc = collect(L, &j, &err);
    if (!rc) rc = score_all(&j, &err);
    free_job(&j);
    if (rc) return fl_push_err(L, &err);
    lua_createtable(L, (int)j.n, 0);
    lua_createtable(L, (int)j.n, 0);
    for (size_t i = 0; i < j.n; i++) {
        lua_pushnumber(L, (lua_Number)j.logprob[i]);
        lua_rawseti(L, -3, (int)i + 1);
        lua_pushboolean(L, j.greedy[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 2;
}
