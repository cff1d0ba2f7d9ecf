#include "ref_backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mirror_ops.h"

static int mantissa_bits(fl_dtype t) {
    return t == FL_DTYPE_F32 ? 23 : t == FL_DTYPE_F16 ? 10 : 7;
}
static int min_exponent(fl_dtype t) { /* of normal numbers */
    return t == FL_DTYPE_F16 ? -14 : -126;
}

double ref_unit(fl_dtype t) {
    return ldexp(1.0, -mantissa_bits(t) - 1);
}
double ref_tiny(fl_dtype t) {
    return ldexp(1.0, min_exponent(t) - mantissa_bits(t));
}

double ref_round(fl_dtype t, double x) {
    if (!isfinite(x) || x == 0.0) return x;
    int e = ilogb(x);
    if (e < min_exponent(t)) e = min_exponent(t);
    double unit = ldexp(1.0, e - mantissa_bits(t)), y = nearbyint(x / unit) * unit;
    double limit = t == FL_DTYPE_F16 ? 65520.0 : ldexp(2.0 - ref_unit(t), 127);
    return fabs(y) >= limit ? copysign(INFINITY, x) : y;
}

double ref_e4m3_value(uint8_t code) {
    int e = code >> 3 & 15, m = code & 7;
    double v = e ? ldexp(1.0 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    if ((code & 0x7f) == 0x7f) v = NAN;
    return code & 0x80 ? -v : v;
}

uint8_t ref_e4m3(double x) {
    if (isnan(x)) return 0x7f;
    double mag = fabs(x), best = INFINITY;
    int code = 0;
    for (int c = 0; c < 0x7f; c++) {
        double d = fabs(mag - ref_e4m3_value((uint8_t)c));
        if (d < best || (d == best && !(c & 1))) {
            best = d;
            code = c;
        }
    }
    if (isinf(mag)) code = 0x7e;
    return (uint8_t)(code | (signbit(x) ? 0x80 : 0));
}

double ref_get(const void *data, fl_dtype t, int64_t i) {
    if (t == FL_DTYPE_E4M3) return ref_e4m3_value(((const uint8_t *)data)[i]);
    if (t == FL_DTYPE_F32) return (double)((const float *)data)[i];
    uint16_t h = ((const uint16_t *)data)[i];
    int bits = mantissa_bits(t), e = (h & 0x7fff) >> bits, m = h & ((1 << bits) - 1);
    double v = ldexp(m, min_exponent(t) - bits);
    if (e) v = ldexp((1 << bits) + m, e - 1 + min_exponent(t) - bits);
    if (e == (0x7fff >> bits)) v = m ? (double)NAN : (double)INFINITY;
    return h & 0x8000 ? -v : v;
}

void ref_set(void *data, fl_dtype t, int64_t i, double x) {
    if (t == FL_DTYPE_E4M3) {
        ((uint8_t *)data)[i] = ref_e4m3(x);
        return;
    }
    double y = ref_round(t, x);
    if (t == FL_DTYPE_F32) {
        ((float *)data)[i] = (float)y;
        return;
    }
    int bits = mantissa_bits(t), sign = signbit(x) ? 0x8000 : 0, h;
    if (isnan(y)) {
        h = 0x7fff;
    } else if (isinf(y)) {
        h = 0x7fff >> bits << bits;
    } else {
        int e = y == 0.0 ? min_exponent(t) : ilogb(y);
        if (e < min_exponent(t)) e = min_exponent(t);
        int units = (int)ldexp(fabs(y), bits - e); /* >= 2^bits when normal */
        h = ((e - min_exponent(t)) << bits) + units;
    }
    ((uint16_t *)data)[i] = (uint16_t)(sign | h);
}

bool ref_close(fl_dtype t, double got, double want, double slack) {
    if (isnan(want)) return isnan(got);
    double room = (fabs(want) + slack) * ref_unit(t) * 1.0001 + ref_tiny(t) + slack;
    if (isinf(got)) return fabs(want) + slack >= (t == FL_DTYPE_F16 ? 65504.0 : 3.38e38);
    return fabs(got - want) <= room;
}

double ref_dot(const double *x, const double *w, int64_t k, double *mag) {
    double sum = 0.0;
    *mag = 0.0;
    for (int64_t i = 0; i < k; i++) {
        sum += x[i] * w[i];
        *mag += fabs(x[i] * w[i]);
    }
    return sum;
}

double ref_silu(double x) {
    return x / (1.0 + exp(-x));
}

double ref_inv_rms(const double *x, int64_t n, double eps) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0 / sqrt(sum / (double)n + eps);
}

void ref_rotate(double *x, int64_t n, const float *cos_sin) {
    for (int64_t j = 0; j < n / 2; j++) {
        double a = x[j], b = x[j + n / 2];
        double c = (double)cos_sin[j], s = (double)cos_sin[n / 2 + j];
        x[j] = a * c - b * s;
        x[j + n / 2] = b * c + a * s;
    }
}

double ref_attend(double *out, double *mag, const double *q, const double *k, const double *v,
                  int64_t n, int64_t stride, int64_t head_dim, double scale) {
    double *p = ref_alloc((size_t)n * sizeof(double)), top = -INFINITY, sum = 0.0, worst = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double m;
        p[i] = ref_dot(q, k + i * stride, head_dim, &m) * scale;
        top = fmax(top, p[i]);
        worst = fmax(worst, m * scale);
    }
    for (int64_t i = 0; i < n; i++) sum += p[i] = exp(p[i] - top);
    for (int64_t e = 0; e < head_dim; e++) out[e] = mag[e] = 0.0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t e = 0; e < head_dim; e++) {
            out[e] += p[i] / sum * v[i * stride + e];
            mag[e] += p[i] / sum * fabs(v[i * stride + e]);
        }
    }
    free(p);
    return worst;
}

uint64_t ref_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void ref_fill(void *data, fl_dtype t, int64_t n, double spread, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = ref_random(&seed);
        if (t == FL_DTYPE_E4M3) {
            uint8_t code = (uint8_t)r;
            ((uint8_t *)data)[i] = (code & 0x7f) == 0x7f ? 0x38 : code;
            continue;
        }
        double x = 0.0; /* sum of four uniform numbers: about normal, variance 1/3 */
        for (int j = 0; j < 4; j++) x += (double)(r >> (16 * j) & 0xffff) / 65536.0 - 0.5;
        ref_set(data, t, i, x * 1.7320508 * spread);
    }
}

fl_backend *ref_open(const fl_backend_ops *ops, const char *isa, int threads, int64_t max_rows) {
    fl_backend *be = NULL;
    fl_err err;
    fl_backend_params p = {.threads = threads, .max_rows = max_rows, .isa = isa};
    if (ops->open(&be, &p, &err)) {
        fprintf(stderr, "%s: %s\n", isa, err.msg);
        exit(2);
    }
    return be;
}

const fl_backend_ops *ref_ops(int argc, char **argv) {
    const fl_backend_ops *ops;
    fl_err err;
    const char *name = argc > 1 ? argv[1] : "cpu";
    if (fl_backend_find(&ops, name, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(2);
    }
    return strcmp(name, "cpu") ? mirror_ops(ops) : ops;
}

bool ref_is_cpu(const fl_backend_ops *ops) {
    return !strcmp(ops->name, "cpu");
}

static bool next_device(const fl_backend_ops *ops, const char **isa) {
    static fl_backend_info info;
    if (*isa) return false;
    fl_backend *be = ref_open(ops, NULL, 1, 1);
    ops->info(be, &info);
    ops->close(be);
    *isa = strstr(info.name, "sm_") ? strstr(info.name, "sm_") : info.name;
    return true;
}

bool ref_next_isa(const fl_backend_ops *ops, const char **isa) {
    if (!ref_is_cpu(ops)) return next_device(ops, isa);
    static const char *const all[] = {"scalar", "avx2", "avx512", "avx512_bf16", NULL};
    int i = 0;
    while (*isa && strcmp(all[i], *isa)) i++;
    for (i += *isa != NULL; all[i]; i++) {
        fl_backend *be = NULL;
        fl_err err;
        fl_backend_params p = {.threads = 1, .max_rows = 1, .isa = all[i]};
        int rc = ops->open(&be, &p, &err);
        ops->close(be);
        *isa = all[i];
        if (rc != FL_E_UNSUPPORTED) return true;
        printf("# %s: %s\n", all[i], err.msg);
    }
    return false;
}

void *ref_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "%zu bytes of test memory\n", bytes);
        exit(2);
    }
    return p;
}

fl_tensor ref_tensor(fl_dtype t, int64_t a, int64_t b) {
    return fl_tensor_2d(ref_alloc((size_t)(a * b * fl_dtype_bytes(t))), t, a, b);
}
