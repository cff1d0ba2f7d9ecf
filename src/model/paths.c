#include "model/paths.h"

#include <stdio.h>
#include <string.h>

#include "model/model_priv.h"
#include "util/log.h"
#include "util/num.h"

typedef struct operands { /* as forward.c gives them to a linear */
    const char *name;
    const fl_fused *w;
    const fl_act *x;
    const fl_tensor *y;
    int64_t most;
} operands;

typedef struct groups { /* likes are joined before they are told */
    const fl_model *m;
    fl_linear_paths last;
    void (*each)(void *ctx, const fl_linear_paths *p);
    void *ctx;
} groups;

static const char *path_at(const fl_model *m, const operands *o, int i, int64_t rows) {
    const fl_linear *lin = o->w->lin[i];
    const fl_tensor y = fl_rows(*o->y, rows), out = fl_columns(&y, o->w->column[i], lin->n);
    const fl_tensor x = fl_rows(lin->act == FL_ACT_NONE ? o->x->x : o->x->q, rows);
    return m->ops->linear_path(m->be, lin, &out, &x);
}

static void add(fl_linear_paths *p, int64_t rows, const char *path) {
    if (p->n_steps && !strcmp(p->step[p->n_steps - 1].path, path))
        p->step[p->n_steps - 1].rows = rows;
    else if (p->n_steps < FL_PATH_STEPS)
        p->step[p->n_steps++] = (fl_path_step){rows, path};
}

/* A backend changes its way at small numbers and behind powers of two. */
static bool steps_of(fl_linear_paths *p, const fl_model *m, const operands *o, int i) {
    for (int64_t top = 1; top < 2 * o->most; top *= 2) {
        const int64_t rows = fl_min_i64(top, o->most);
        const char *path = path_at(m, o, i, rows);
        if (!path) return false;
        add(p, rows, path);
    }
    return true;
}

static bool alike(const fl_linear_paths *a, const fl_linear_paths *b) {
    bool same = a->n == b->n && a->k == b->k && a->dtype == b->dtype && a->n_steps == b->n_steps &&
                a->linear && !strcmp(a->linear, b->linear);
    for (int i = 0; i < a->n_steps && same; i++)
        same = a->step[i].rows == b->step[i].rows && !strcmp(a->step[i].path, b->step[i].path);
    return same;
}

static void flush(groups *g) {
    if (g->last.count) g->each(g->ctx, &g->last);
    g->last.count = 0;
}

static void take(groups *g, const operands *o) {
    for (int i = 0; i < o->w->n; i++) {
        const fl_linear *lin = o->w->lin[i];
        fl_linear_paths p = {
            .linear = o->name, .count = 1, .n = lin->n, .k = lin->k, .dtype = lin->dtype};
        if (!steps_of(&p, g->m, o, i)) continue;
        if (g->last.count && alike(&g->last, &p)) {
            g->last.count++;
            continue;
        }
        flush(g);
        g->last = p;
    }
}

void fl_model_paths(const fl_model *m, void (*each)(void *ctx, const fl_linear_paths *p),
                    void *ctx) {
    const fl_scratch *s = &m->scratch;
    const fl_weights *w = &m->weights;
    const fl_fused head = {.lin = {w->head}, .n = 1};
    groups g = {.m = m, .each = each, .ctx = ctx};
    if (!m->ops->linear_path) return;
    for (int kind = 0; kind < 4; kind++) {
        for (int64_t i = 0; i < w->n_layers; i++) {
            const fl_layer *l = &w->layers[i];
            const operands of[] = {
                {"qkv_proj", &l->qkv, &s->normed, &s->qkv, s->max_rows},
                {"o_proj", &l->o, &s->attended, &s->delta, s->max_rows},
                {"gate_up_proj", &l->gate_up, &s->normed, &s->gate_up, s->max_rows},
                {"down_proj", &l->down, &s->ffn, &s->delta, s->max_rows},
            };
            take(&g, &of[kind]);
        }
        flush(&g);
    }
    const operands last = {"lm_head", &head, &s->head_in, &s->logits, s->logit_rows};
    take(&g, &last);
    flush(&g);
}

static void log_one(void *ctx, const fl_linear_paths *p) {
    enum { FEW = 8 }; /* more rows are a product that tensor cores make several times faster */
    char text[512];
    size_t at = 0;
    bool slow = false;
    (void)ctx;
    for (int i = 0; i < p->n_steps && at < sizeof(text); i++) {
        slow = slow || (p->step[i].rows > FEW && !strcmp(p->step[i].path, "rows"));
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%sup to %lld rows: %s", i ? ", " : "",
                               (long long)p->step[i].rows, p->step[i].path);
    }
    fl_log(slow ? FL_LOG_WARN : FL_LOG_INFO, "%lld x %s [%lld,%lld] %s: %s%s", (long long)p->count,
           p->linear, (long long)p->n, (long long)p->k, fl_dtype_name(p->dtype), text,
           slow ? " (rows: CUDA cores, slow for many rows)" : "");
}

void fl_model_log_paths(const fl_model *m) {
    fl_model_paths(m, log_one, NULL);
}
