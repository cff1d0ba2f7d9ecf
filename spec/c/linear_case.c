#include "linear_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sources start at an odd address: a checkpoint promises no alignment. */
static void *odd_copy(const void *src, int64_t bytes) {
    uint8_t *p = ref_alloc((size_t)bytes + 1);
    return memcpy(p + 1, src, (size_t)bytes);
}

static int64_t row_scales(const linear_case *c) {
    return c->w_block ? fl_act_groups(c->k) : 1;
}

/* Keep two of each four, in every combination; every ninth group keeps one or none. */
static void prune(void *w, const linear_case *c) {
    static const uint8_t drop[6][2] = {{2, 3}, {1, 3}, {1, 2}, {0, 3}, {0, 2}, {0, 1}};
    const int64_t size = fl_dtype_bytes(c->w), groups = c->n * c->k / 4;
    uint64_t seed = 4;
    for (int64_t g = 0; g < groups; g++) {
        uint64_t r = ref_random(&seed);
        uint8_t *group = (uint8_t *)w + g * 4 * size;
        for (int i = 0; i < 2; i++) memset(group + drop[r % 6][i] * size, 0, (size_t)size);
        if (g * 4 / c->k / 16 % 2) continue; /* 16 rows without zeros among the kept */
        if (g % 9 == 0) memset(group + r % 3 * size, 0, (size_t)(2 * size));
        if (g % 9 == 1) group[(drop[r % 6][0] + 1) * size - 1] = 0x80; /* -0 is a zero too */
    }
}

linear_data make_linear(const linear_case *c) {
    linear_data d = {.c = c};
    int64_t size = fl_dtype_bytes(c->w), row = 0;
    d.w = ref_alloc((size_t)(c->n * c->k * size));
    ref_fill(d.w, c->w, c->n * c->k, 0.05, 1);
    for (int64_t i = 0; c->w == E4M3 && i < c->n * c->k; i++) {
        /* 16 rows with subnormals and zeros among them, 16 without: kernels may differ. */
        uint8_t *q = (uint8_t *)d.w + i;
        if (i / c->k / 16 % 2 && !(*q & 0x78)) *q |= 0x08;
    }
    if (c->sparse24) prune(d.w, c);
    int64_t scales = c->n * row_scales(c);
    d.w_scale = ref_alloc((size_t)scales * sizeof(float));
    d.bias = ref_alloc((size_t)c->n * sizeof(float));
    for (int64_t i = 0; i < scales; i++)
        d.w_scale[i] = 0.001f * (float)(1 + (c->one_scale ? 2 : i % 7));
    ref_fill(d.bias, FL_DTYPE_F32, c->n, 1.0, 2);
    d.spec = (fl_linear_spec){.n_parts = c->parts,
                              .k = c->k,
                              .dtype = c->w,
                              .w_scale = c->w == FL_DTYPE_E4M3 ? d.w_scale : NULL,
                              .bias = c->bias ? d.bias : NULL,
                              .act = c->act,
                              .w_block = c->w_block,
                              .sparse24 = c->sparse24,
                              .x_scale = 0.017f};
    for (int i = 0; i < c->parts; i++) {
        int64_t rows = i + 1 < c->parts ? c->n / c->parts : c->n - row;
        d.spec.part[i].rows = rows;
        d.spec.part[i].data = odd_copy((uint8_t *)d.w + row * c->k * size, rows * c->k * size);
        row += rows;
    }
    d.x.x = ref_tensor(c->x, c->t, c->k);
    d.x.q = ref_tensor(FL_DTYPE_E4M3, c->t, c->k);
    d.x.q_scale = ref_tensor(F32, c->t, fl_act_groups(c->k));
    ref_fill(d.x.x.data, c->x, c->t * c->k, 1.0, 3);
    return d;
}

void free_linear(linear_data *d) {
    for (int i = 0; i < d->spec.n_parts; i++) free((uint8_t *)d->spec.part[i].data - 1);
    free(d->w);
    free(d->w_scale);
    free(d->bias);
    free(d->x.x.data);
    free(d->x.q.data);
    free(d->x.q_scale.data);
}

int64_t linear_scale_stride(const linear_case *c) {
    return c->act == FL_ACT_GROUP ? fl_act_groups(c->k) : 1;
}

/* One output as backend.h states it; *slack: how far f32 sums may be off. */
static double one_output(const linear_data *d, int64_t t, int64_t n, const double *x,
                         const double *w, double *slack) {
    const linear_case *c = d->c;
    const bool blocks = c->w_block || c->act == FL_ACT_GROUP;
    const int64_t step = blocks ? FL_ACT_GROUP_K : c->k;
    double y = 0.0;
    *slack = 0.0;
    for (int64_t k = 0, b = 0; k < c->k; k += step, b++) {
        int64_t len = k + step < c->k ? step : c->k - k;
        double mag, s = 1.0, sum = ref_dot(x + k, w + k, len, &mag);
        if (c->act != FL_ACT_NONE)
            s *= (double)((float *)d->x.q_scale
                              .data)[t * linear_scale_stride(c) + (c->act == FL_ACT_GROUP ? b : 0)];
        if (c->w == E4M3) s *= (double)d->w_scale[n * row_scales(c) + (c->w_block ? b : 0)];
        y += sum * s;
        *slack += fabs(s) * mag * (double)(len / 2 + 6 + c->k / step) * 0x1p-24;
        if (d->short_sums && c->act != FL_ACT_NONE) *slack += fabs(s) * mag * 0x1p-8;
    }
    if (c->bias) y += (double)d->bias[n];
    if (c->bias) *slack += fabs((double)d->bias[n]) * 0x1p-24;
    return y;
}

int64_t linear_errors(const linear_data *d, const fl_tensor *out) {
    const linear_case *c = d->c;
    bool fp8 = c->act != FL_ACT_NONE;
    int64_t bad = 0, step = c->n * c->k * c->t > 2000000 ? 7 : 1;
    double *x = ref_alloc((size_t)(c->k * c->t) * sizeof(double)), *w = ref_alloc((size_t)c->k * 8);
    for (int64_t i = 0; i < c->t * c->k; i++)
        x[i] = fp8 ? ref_get(d->x.q.data, FL_DTYPE_E4M3, i) : ref_get(d->x.x.data, c->x, i);
    for (int64_t n = 0; n < c->n; n += step) {
        for (int64_t k = 0; k < c->k; k++) {
            w[k] = ref_get(d->w, c->w, n * c->k + k);
            if (c->w == FL_DTYPE_F32) w[k] = ref_round(FL_DTYPE_BF16, w[k]);
        }
        for (int64_t t = 0; t < c->t; t++) {
            double slack, want = one_output(d, t, n, x + t * c->k, w, &slack);
            bad += !ref_close(c->out, ref_get(out->data, c->out, t * c->n + n), want, slack);
        }
    }
    free(x);
    free(w);
    return bad;
}
