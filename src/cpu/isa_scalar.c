/* isa_scalar.c - plain C: any processor, and the form the fast versions are checked against. */
#include <math.h>

#include "cpu/cpu_priv.h"
#include "util/fp8.h"

enum { DOT_ROWS = 8 };

static float load(const void *src, fl_dtype t, int64_t i) {
    switch (t) {
    case FL_DTYPE_E4M3:
        return fl_e4m3_table()[((const uint8_t *)src)[i]];
    case FL_DTYPE_BF16:
        return fl_bf16_to_f32(((const uint16_t *)src)[i]);
    case FL_DTYPE_F16:
        return fl_f16_to_f32(((const uint16_t *)src)[i]);
    default:
        return ((const float *)src)[i];
    }
}

/* One group of one tile: w[k][r]. */
static void decode(float w[CPU_GROUP][CPU_TILE], const uint8_t *group, fl_dtype t) {
    for (int k = 0; k < CPU_GROUP; k++) {
        for (int r = 0; r < CPU_TILE; r++) w[k][r] = load(group + cpu_tile_offset(t, r, k), t, 0);
    }
}

/* Group g of a 2:4 tile. */
static void decode_kept(float w[CPU_GROUP][CPU_TILE], const uint8_t *tile, int64_t g, fl_dtype t) {
    for (int k = 0; k < CPU_GROUP; k++) {
        for (int r = 0; r < CPU_TILE; r++) {
            int64_t at = cpu_kept_offset(tile, t, r, g * CPU_GROUP + k);
            w[k][r] = at < 0 ? 0.0f : load(tile + at, t, 0);
        }
    }
}

/* acc[0] takes k1, k0, acc[1] takes k3, k2. */
static void accumulate(float acc[2][CPU_TILE], const float *x, float w[CPU_GROUP][CPU_TILE]) {
    for (int k = 0; k < CPU_GROUP; k++) {
        for (int r = 0; r < CPU_TILE; r++) acc[k / 2][r] += x[k ^ 1] * w[k ^ 1][r];
    }
}

/* Rows [m0, m0 + rows) of one tile, groups [begin, end), into y or scaled and added to it. */
static void dot_block(const cpu_dot *d, int64_t m0, int64_t rows, int64_t tile, int64_t begin,
                      int64_t end) {
    const int64_t bytes = cpu_group_bytes(d->w_dtype);
    const uint8_t *w = d->w + tile * cpu_tile_bytes(d->w_dtype, d->groups, d->sparse24);
    float acc[DOT_ROWS][2][CPU_TILE] = {{{0}}}, col[CPU_GROUP][CPU_TILE];
    for (int64_t g = begin; g < end; g++) {
        if (d->sparse24)
            decode_kept(col, w, g, d->w_dtype);
        else
            decode(col, w + g * bytes, d->w_dtype);
        for (int64_t m = 0; m < rows; m++)
            accumulate(acc[m], (const float *)d->x + (m0 + m) * d->ldx + 4 * g, col);
    }
    for (int64_t m = 0; m < rows; m++) {
        const cpu_scales *s = d->scales;
        const int64_t b = begin / cpu_dot_span(d);
        const float *w_scale = s ? s->w + tile * s->w_tile + b * s->w_block : NULL;
        const float x_scale = s ? s->x[(m0 + m) * s->x_row + b * s->x_block] : 1.0f;
        float *y = d->y + (m0 + m) * d->ldy + tile * CPU_TILE;
        for (int r = 0; r < CPU_TILE; r++) {
            float sum = acc[m][0][r] + acc[m][1][r];
            if (s) sum = sum * (x_scale * w_scale[r]) + (begin ? y[r] : 0.0f);
            y[r] = sum;
        }
    }
}

static void dot(const cpu_dot *d) {
    const int64_t span = cpu_dot_span(d);
    for (int64_t tile = 0; tile < d->n_tiles; tile++) {
        for (int64_t m = 0; m < d->m; m += DOT_ROWS) {
            for (int64_t g = 0; g < d->groups; g += span)
                dot_block(d, m, fl_min_i64(DOT_ROWS, d->m - m), tile, g,
                          fl_min_i64(g + span, d->groups));
        }
    }
}

static void mix(const cpu_mix *x) {
    int64_t group_bytes = cpu_group_bytes(x->dtype);
    for (int64_t g = x->group_begin; g < x->group_end; g++) {
        for (int64_t tile = 0; tile < x->n_tiles; tile++) {
            float col[CPU_GROUP][CPU_TILE];
            decode(col, x->block[g / 4] + (tile * 4 + g % 4) * group_bytes, x->dtype);
            for (int64_t m = 0; m < x->m; m++) {
                float *acc = x->acc + (m * x->n_tiles + tile) * 2 * CPU_TILE;
                accumulate((float(*)[CPU_TILE])acc, x->p + m * x->ldp + 4 * g, col);
            }
        }
    }
}

static float softmax(float *s, int64_t n, float factor, float *max) {
    float top = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        s[i] *= factor;
        if (s[i] > top) top = s[i];
    }
    for (int64_t i = 0; i < n; i++) {
        s[i] = expf(s[i] - top);
        sum += s[i];
    }
    for (int64_t i = n; i % CPU_TILE; i++) s[i] = 0.0f;
    *max = top;
    return sum;
}

static void store(void *dst, fl_dtype t, int64_t i, float x) {
    switch (t) {
    case FL_DTYPE_BF16:
        ((uint16_t *)dst)[i] = fl_f32_to_bf16(x);
        break;
    case FL_DTYPE_F16:
        ((uint16_t *)dst)[i] = fl_f32_to_f16(x);
        break;
    default:
        ((float *)dst)[i] = x;
    }
}

static void to_f32(float *dst, const void *src, fl_dtype t, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = load(src, t, i);
}

static void from_f32(void *dst, fl_dtype t, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) store(dst, t, i, src[i]);
}

static void quantize(uint8_t *q, const void *x, fl_dtype t, int64_t n, float scale, bool divide) {
    for (int64_t i = 0; i < n; i++) {
        float v = load(x, t, i);
        q[i] = fl_f32_to_e4m3(divide ? v / scale : v * scale);
    }
}

static float absmax(const void *x, fl_dtype t, int64_t n) {
    float top = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        float v = fabsf(load(x, t, i));
        if (v > top) top = v;
    }
    return top;
}

static float round_to(fl_dtype t, float x) {
    return t == FL_DTYPE_F16 ? fl_f16_to_f32(fl_f32_to_f16(x)) : fl_bf16_round(x);
}

static void norm(const cpu_norm_row *r) {
    float sum = 0.0f;
    for (int64_t i = 0; i < r->n; i++) {
        float v = load(r->residual, r->dtype, i);
        if (r->delta) {
            v = round_to(r->dtype, v + load(r->delta, r->dtype, i));
            store(r->residual, r->dtype, i, v);
        }
        sum += v * v;
    }
    float inv = 1.0f / sqrtf(sum / (float)r->n + r->eps);
    for (int64_t i = 0; i < r->n; i++) {
        float v = round_to(r->dtype, load(r->residual, r->dtype, i) * inv);
        store(r->out, r->dtype, i, v * load(r->weight, r->dtype, i));
    }
}

static void silu_mul(void *out, const void *gate, const void *up, fl_dtype t, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float g = load(gate, t, i);
        store(out, t, i, g / (1.0f + expf(-g)) * load(up, t, i));
    }
}

static void finish(const cpu_finish *f) {
    for (int64_t m = 0; m < f->m; m++) {
        for (int64_t i = 0; i < f->n; i++) {
            float v = f->y[m * f->ldy + i] * (f->x_scale ? f->x_scale[m] : 1.0f);
            if (f->w_scale) v *= f->w_scale[i];
            store((uint8_t *)f->out + m * f->out_bytes, f->t, i, f->bias ? v + f->bias[i] : v);
        }
    }
}

const cpu_isa cpu_isa_scalar = {
    .name = "scalar",
    .dot = dot,
    .mix = mix,
    .softmax = softmax,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .quantize = quantize,
    .absmax = absmax,
    .norm = norm,
    .silu_mul = silu_mul,
    .finish = finish,
};
