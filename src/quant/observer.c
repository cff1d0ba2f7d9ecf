#include "quant/observer.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "util/fp8.h"
#include "util/num.h"

enum { PIECE = 4096 }; /* elements converted at once: fits the first-level cache */

typedef struct job {
    const fl_st_tensor *w;
    uint8_t *codes; /* NULL: only the maximum is wanted */
    float scale;
    atomic_uint absmax_bits; /* bits of non-negative floats compare like the floats */
} job;

/* n elements from `first` as f32, from data of any alignment. */
static void load_piece(float *out, const fl_st_tensor *w, int64_t first, int64_t n) {
    if (w->dtype == FL_DTYPE_F32) {
        memcpy(out, w->data + first * 4, (size_t)n * 4);
        return;
    }
    uint16_t half[PIECE];
    memcpy(half, w->data + first * 2, (size_t)n * 2);
    if (w->dtype == FL_DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) out[i] = fl_bf16_to_f32(half[i]);
    } else {
        for (int64_t i = 0; i < n; i++) out[i] = fl_f16_to_f32(half[i]);
    }
}

static void raise_to(atomic_uint *max, unsigned bits) {
    unsigned old = atomic_load_explicit(max, memory_order_relaxed);
    while (bits > old && !atomic_compare_exchange_weak(max, &old, bits)) {
    }
}

static void run_piece(void *ctx, int64_t begin, int64_t end) {
    job *j = ctx;
    float x[PIECE];
    load_piece(x, j->w, begin, end - begin);
    if (j->codes) {
        for (int64_t i = begin; i < end; i++) j->codes[i] = fl_f32_to_e4m3(x[i - begin] / j->scale);
        return;
    }
    unsigned max = 0; /* NaN and infinity have the largest bits: they survive */
    for (int64_t i = 0; i < end - begin; i++) {
        unsigned bits = fl_f32_bits(x[i]) & 0x7fffffffu;
        max = bits > max ? bits : max;
    }
    raise_to(&j->absmax_bits, max);
}

static int check_dtype(const fl_st_tensor *w, fl_err *err) {
    if (w->dtype == FL_DTYPE_F32 || w->dtype == FL_DTYPE_BF16 || w->dtype == FL_DTYPE_F16)
        return FL_OK;
    return fl_fail(err, FL_E_UNSUPPORTED, "%s: %s: dtype %s, need BF16, F16 or F32", w->file,
                   w->name, fl_dtype_name(w->dtype));
}

int fl_weight_absmax(float *out, const fl_st_tensor *w, fl_team *team, fl_err *err) {
    job j = {.w = w};
    int rc = check_dtype(w, err);
    if (rc) return rc;
    fl_team_for(team, fl_st_numel(w), PIECE, run_piece, &j);
    *out = fl_bits_f32(atomic_load(&j.absmax_bits));
    if (!isfinite(*out))
        return fl_fail(err, FL_E_FORMAT, "%s: %s: holds NaN or infinity", w->file, w->name);
    return FL_OK;
}

int fl_weight_encode(uint8_t *codes, const fl_st_tensor *w, float scale, fl_team *team,
                     fl_err *err) {
    job j = {.w = w, .codes = codes, .scale = scale};
    int rc = check_dtype(w, err);
    if (!rc) fl_team_for(team, fl_st_numel(w), PIECE, run_piece, &j);
    return rc;
}
