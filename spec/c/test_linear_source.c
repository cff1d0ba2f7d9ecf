/* One linear from a checkpoint: names, dtypes and shapes of scales, activation schemes,
 * and every reason to refuse it.  KV scales. */
#include "formats/linear_source.h"

#include <math.h>
#include <string.h>

#include "fixture.h"
#include "parts.h"
#include "tap.h"
#include "util/fp8.h"

static const fl_linear_want x_2x4 = {.module = "x", .n = 2, .k = 4};

static int open_linear(const fixture *f, const part *parts, const fl_quant_plan *plan,
                       fl_checkpoint **ck, fl_linear_source *s, fl_err *e) {
    *e = (fl_err){0};
    write_parts(f, parts);
    int rc = fl_checkpoint_open(ck, f->dir, e);
    return rc ? rc : fl_linear_source_open(s, *ck, plan, &x_2x4, e);
}

#define QZ                                                                                         \
    {                                                                                              \
        "x.weight", "F8_E4M3", "[2,4]", 8, {                                                       \
            0, -0.0f, 0, 0, 0, 0, 0, 0                                                             \
        }                                                                                          \
    }
#define QH                                                                                         \
    {                                                                                              \
        "x.weight", "F8_E4M3", "[2,4]", 8, {                                                       \
            1, 1, 1, 1, 0, 0, -0.0f, 0                                                             \
        }                                                                                          \
    } /* second row zero */

static const fl_quant_plan weight_only = {.flavour = FL_QUANT_COMPRESSED_TENSORS};
static const fl_quant_plan bounded = {
    .flavour = FL_QUANT_FBGEMM, .act = FL_ACT_TOKEN, .act_scale_ub = 1200};

typedef struct good_case {
    const char *what;
    const fl_quant_plan *plan;
    part parts[MAX_PARTS];
    fl_act_scheme act;
    float scale[2]; /* 0: not quantized */
    float x_scale, ub;
} good_case;

static const good_case good[] = {
    {"BF16", &plain, {{"x.weight", "BF16", "[2,4]", 8, {0}}}, FL_ACT_NONE, {0}, 0, 0},
    {"F16 in a quantized checkpoint",
     &fixed,
     {{"x.weight", "F16", "[2,4]", 8, {0}}},
     FL_ACT_NONE,
     {0},
     0,
     0},
    {"F32", &plain, {{"x.weight", "F32", "[2,4]", 8, {0}}}, FL_ACT_NONE, {0}, 0, 0},
    {"BF16 with scales left over",
     &fixed,
     {{"x.weight", "BF16", "[2,4]", 8, {0}},
      {"x.weight_scale", "F32", "[]", 1, {NAN}},
      {"x.input_scale", "F32", "[]", 1, {0}}},
     FL_ACT_NONE,
     {0},
     0,
     0},
    {"scale []",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"scale [1]",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[1]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"scale [1,1]",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[1,1]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"scale [n]",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[2]", 2, {0.25f, 3}}},
     FL_ACT_TOKEN,
     {0.25f, 3},
     0,
     0},
    {"scale [n,1]",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[2,1]", 2, {0.25f, 3}}},
     FL_ACT_TOKEN,
     {0.25f, 3},
     0,
     0},
    {"BF16 scale [n,1]",
     &dynamic,
     {Q, {"x.weight_scale", "BF16", "[2,1]", 2, {0.25f, 3}}},
     FL_ACT_TOKEN,
     {0.25f, 3},
     0,
     0},
    {"F16 scale [1]",
     &dynamic,
     {Q, {"x.weight_scale", "F16", "[1]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"weight_scale_inv is a scale all the same",
     &dynamic,
     {Q, {"x.weight_scale_inv", "F32", "[]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"static",
     &fixed,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}, {"x.input_scale", "F32", "[]", 1, {2}}},
     FL_ACT_STATIC,
     {0.25f, 0.25f},
     2,
     0},
    {"static, BF16 scales [1]",
     &fixed,
     {Q, {"x.weight_scale", "BF16", "[1]", 1, {0.25f}}, {"x.input_scale", "BF16", "[1]", 1, {2}}},
     FL_ACT_STATIC,
     {0.25f, 0.25f},
     2,
     0},
    {"static, act_scale",
     &fixed,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}, {"x.act_scale", "F32", "[]", 1, {2}}},
     FL_ACT_STATIC,
     {0.25f, 0.25f},
     2,
     0},
    {"static, activation_scale and weight_scale_inv",
     &fixed,
     {Q,
      {"x.weight_scale_inv", "F32", "[]", 1, {0.25f}},
      {"x.activation_scale", "F32", "[]", 1, {2}}},
     FL_ACT_STATIC,
     {0.25f, 0.25f},
     2,
     0},
    {"dynamic with an input scale left over",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}, {"x.input_scale", "F32", "[]", 1, {NAN}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"no plan, input scale",
     &plain,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}, {"x.input_scale", "F32", "[]", 1, {2}}},
     FL_ACT_STATIC,
     {0.25f, 0.25f},
     2,
     0},
    {"no plan, no input scale",
     &plain,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
    {"weights only",
     &weight_only,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0.25f}}},
     FL_ACT_NONE,
     {0.25f, 0.25f},
     0,
     0},
    {"FBGEMM bound",
     &bounded,
     {Q, {"x.weight_scale", "F32", "[2,1]", 2, {1, 2}}},
     FL_ACT_TOKEN,
     {1, 2},
     0,
     1200},
    {"scale 0 of a zero weight",
     &dynamic,
     {QZ, {"x.weight_scale", "F32", "[]", 1, {0}}},
     FL_ACT_TOKEN,
     {1, 1},
     0,
     0},
    {"scale 0 of a zero row",
     &dynamic,
     {QH, {"x.weight_scale", "F32", "[2]", 2, {2, 0}}},
     FL_ACT_TOKEN,
     {2, 1},
     0,
     0},
    {"zero points that are zero",
     &dynamic,
     {Q,
      {"x.weight_scale", "F32", "[]", 1, {0.25f}},
      {"x.weight_zero_point", "F8_E4M3", "[1]", 1, {-0.0f}},
      {"x.input_zero_point", "I8", "[1]", 1, {0}}},
     FL_ACT_TOKEN,
     {0.25f, 0.25f},
     0,
     0},
};

static void test_good(const fixture *f) {
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        const good_case *c = &good[i];
        fl_checkpoint *ck = NULL;
        fl_linear_source s = {0};
        fl_err e;
        int rc = open_linear(f, c->parts, c->plan, &ck, &s, &e);
        bool ok = !rc && s.data && s.act == c->act && s.x_scale == c->x_scale &&
                  s.x_scale_ub == c->ub && !s.bias && (s.w_scale != NULL) == (c->scale[0] != 0);
        if (ok && s.w_scale) ok = s.w_scale[0] == c->scale[0] && s.w_scale[1] == c->scale[1];
        check(ok, "%s %s", c->what, e.msg);
        fl_linear_source_free(&s);
        fl_checkpoint_close(ck);
    }
}

typedef struct bad_case {
    const char *what;
    const fl_quant_plan *plan;
    part parts[MAX_PARTS];
    int code;
    const char *says;
} bad_case;

#define S                                                                                          \
    {                                                                                              \
        "x.weight_scale", "F32", "[]", 1, {                                                        \
            0.25f                                                                                  \
        }                                                                                          \
    }

static const bad_case bad[] = {
    {"weight missing",
     &plain,
     {{"y.weight", "F32", "[]", 1, {0}}},
     FL_E_FORMAT,
     ": x.weight is missing"},
    {"packed weight",
     &plain,
     {{"x.weight_packed", "F32", "[1]", 1, {0}}},
     FL_E_UNSUPPORTED,
     "x.weight_packed: packed"},
    {"GPTQ weight",
     &plain,
     {{"x.qweight", "F32", "[1]", 1, {0}}},
     FL_E_UNSUPPORTED,
     "x.qweight: GPTQ"},
    {"int8 weight",
     &plain,
     {{"x.weight", "I8", "[2,4]", 8, {0}}},
     FL_E_UNSUPPORTED,
     "x.weight: weights of dtype I8"},
    {"E5M2 weight",
     &plain,
     {{"x.weight", "F8_E5M2", "[2,4]", 8, {0}}},
     FL_E_UNSUPPORTED,
     "dtype F8_E5M2"},
    {"AMD's E4M3",
     &plain,
     {{"x.weight", "F8_E4M3FNUZ", "[2,4]", 8, {0}}},
     FL_E_UNSUPPORTED,
     "F8_E4M3FNUZ has another bias"},
    {"transposed",
     &plain,
     {{"x.weight", "F32", "[4,2]", 8, {0}}},
     FL_E_FORMAT,
     "x.weight: shape [4,2], config.json makes it [2,4]"},
    {"flat", &plain, {{"x.weight", "F32", "[8]", 8, {0}}}, FL_E_FORMAT, "shape [8]"},
    {"three dimensions",
     &plain,
     {{"x.weight", "F32", "[2,4,1]", 8, {0}}},
     FL_E_FORMAT,
     "shape [2,4,1]"},
    {"no scale", &dynamic, {Q}, FL_E_FORMAT, "x.weight: F8_E4M3 without x.weight_scale"},
    {"static without input scale", &fixed, {Q, S}, FL_E_FORMAT, "x.input_scale is missing"},
    {"scale 0",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[]", 1, {0}}},
     FL_E_FORMAT,
     "x.weight_scale: element 0 is 0"},
    {"scale 0 of a row that is not zero",
     &dynamic,
     {QH, {"x.weight_scale", "F32", "[2]", 2, {0, 2}}},
     FL_E_FORMAT,
     "element 0 is 0"},
    {"negative scale",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[2]", 2, {1, -1}}},
     FL_E_FORMAT,
     "element 1 is -1"},
    {"NaN scale",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[2,1]", 2, {1, NAN}}},
     FL_E_FORMAT,
     "x.weight_scale: element 1 is nan"},
    {"infinite scale",
     &dynamic,
     {Q, {"x.weight_scale", "BF16", "[1]", 1, {INFINITY}}},
     FL_E_FORMAT,
     "element 0 is inf"},
    {"too many scales",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[3]", 3, {1, 1, 1}}},
     FL_E_FORMAT,
     "shape [3]"},
    {"scales of columns",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[1,2]", 2, {1, 1}}},
     FL_E_FORMAT,
     "shape [1,2]"},
    {"block scales",
     &dynamic,
     {Q, {"x.weight_scale_inv", "F32", "[2,2]", 4, {1, 1, 1, 1}}},
     FL_E_FORMAT,
     "x.weight_scale_inv: shape [2,2]"},
    {"no scales at all",
     &dynamic,
     {Q, {"x.weight_scale", "F32", "[0]", 0, {0}}},
     FL_E_FORMAT,
     "shape [0]"},
    {"integer scale",
     &dynamic,
     {Q, {"x.weight_scale", "U8", "[1]", 1, {1}}},
     FL_E_UNSUPPORTED,
     "x.weight_scale: dtype U8"},
    {"input scale 0",
     &fixed,
     {Q, S, {"x.input_scale", "F32", "[]", 1, {0}}},
     FL_E_FORMAT,
     "x.input_scale: element 0 is 0"},
    {"negative input scale",
     &fixed,
     {Q, S, {"x.input_scale", "F32", "[]", 1, {-1}}},
     FL_E_FORMAT,
     "x.input_scale: element 0 is -1"},
    {"NaN input scale",
     &fixed,
     {Q, S, {"x.act_scale", "F32", "[]", 1, {NAN}}},
     FL_E_FORMAT,
     "x.act_scale: element 0 is nan"},
    {"two input scales",
     &fixed,
     {Q, S, {"x.input_scale", "F32", "[2]", 2, {1, 1}}},
     FL_E_UNSUPPORTED,
     "x.input_scale: shape [2]"},
    {"NaN codes",
     &dynamic,
     {{"x.weight", "F8_E4M3", "[2,4]", 8, {1, NAN, 1, 1, 1, 1, 1, NAN}}, S},
     FL_E_FORMAT,
     "x.weight: 2 of 8 values are NaN"},
    {"zero point",
     &dynamic,
     {Q, S, {"x.weight_zero_point", "I8", "[1]", 1, {3}}},
     FL_E_UNSUPPORTED,
     "x.weight_zero_point: not zero"},
    {"bias of another size",
     &plain,
     {{"x.weight", "F32", "[2,4]", 8, {0}}, {"x.bias", "F32", "[3]", 3, {0}}},
     FL_E_FORMAT,
     "x.bias: shape [3], need [2]"},
    {"a bias that is a column",
     &plain,
     {{"x.weight", "F32", "[2,4]", 8, {0}}, {"x.bias", "F32", "[2,1]", 2, {0}}},
     FL_E_FORMAT,
     "x.bias: shape [2,1], need [2]"},
    {"NaN bias",
     &plain,
     {{"x.weight", "F32", "[2,4]", 8, {0}}, {"x.bias", "F32", "[2]", 2, {0, NAN}}},
     FL_E_FORMAT,
     "x.bias: element 1 is nan"},
    {"integer bias",
     &plain,
     {{"x.weight", "F32", "[2,4]", 8, {0}}, {"x.bias", "I8", "[2]", 2, {0}}},
     FL_E_UNSUPPORTED,
     "x.bias: dtype I8"},
};

static void test_bad(const fixture *f) {
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const bad_case *c = &bad[i];
        fl_checkpoint *ck = NULL;
        fl_linear_source s;
        fl_err e;
        int rc = open_linear(f, c->parts, c->plan, &ck, &s, &e);
        bool names_file = strstr(e.msg, "model.safetensors: ") || strstr(e.msg, f->dir);
        check(rc == c->code && strstr(e.msg, c->says) && names_file && !s.w_scale && !s.bias,
              "%s: %s", c->what, e.msg);
        fl_checkpoint_close(ck);
    }
}

static void test_bias(const fixture *f) {
    static const part parts[MAX_PARTS] = {Q, S, {"x.bias", "BF16", "[2]", 2, {-1.5f, 2}}};
    fl_checkpoint *ck;
    fl_linear_source s;
    fl_err e;
    int rc = open_linear(f, parts, &dynamic, &ck, &s, &e);
    check(!rc && s.bias && s.bias[0] == -1.5f && s.bias[1] == 2, "a bias becomes f32 %s", e.msg);
    fl_linear_source_free(&s);
    fl_checkpoint_close(ck);
}

#define ATTN "model.layers.7.self_attn."

typedef struct kv_case {
    const char *what;
    part parts[MAX_PARTS];
    int code;
    float k, v;
    const char *says;
} kv_case;

static const kv_case kv[] = {
    {"none", {{"x", "F32", "[]", 1, {5}}}, 0, 1, 1, ""},
    {"k_scale, v_scale",
     {{ATTN "k_scale", "F32", "[]", 1, {2}}, {ATTN "v_scale", "F32", "[]", 1, {3}}},
     0,
     2,
     3,
     ""},
    {"kv_scale", {{ATTN "kv_scale", "F32", "[]", 1, {2}}}, 0, 2, 2, ""},
    {"k_proj.k_scale",
     {{ATTN "k_proj.k_scale", "BF16", "[1]", 1, {2}},
      {ATTN "v_proj.v_scale", "F32", "[1]", 1, {3}}},
     0,
     2,
     3,
     ""},
    {"output_scale",
     {{ATTN "k_proj.output_scale", "F32", "[]", 1, {2}},
      {ATTN "v_proj.output_scale", "F32", "[]", 1, {3}}},
     0,
     2,
     3,
     ""},
    {"qkv_proj",
     {{ATTN "qkv_proj.k_scale", "F32", "[]", 1, {2}},
      {ATTN "qkv_proj.v_scale", "F32", "[]", 1, {3}}},
     0,
     2,
     3,
     ""},
    {"attn",
     {{ATTN "attn.k_scale", "F32", "[]", 1, {2}}, {ATTN "attn.v_scale", "F32", "[]", 1, {3}}},
     0,
     2,
     3,
     ""},
    {"only k", {{ATTN "k_scale", "F32", "[]", 1, {2}}}, 0, 2, 2, ""},
    {"only v", {{ATTN "v_scale", "F32", "[]", 1, {3}}}, 0, 3, 3, ""},
    {"not set",
     {{ATTN "k_scale", "F32", "[]", 1, {-1}}, {ATTN "v_scale", "F32", "[]", 1, {0}}},
     0,
     1,
     1,
     ""},
    {"another layer's", {{"model.layers.17.self_attn.k_scale", "F32", "[]", 1, {2}}}, 0, 1, 1, ""},
    {"NaN",
     {{ATTN "k_scale", "F32", "[]", 1, {NAN}}},
     FL_E_FORMAT,
     0,
     0,
     "model.safetensors: " ATTN "k_scale: element 0 is nan"},
    {"one for each head",
     {{ATTN "v_scale", "F32", "[2,1,1]", 2, {1, 1}}},
     FL_E_UNSUPPORTED,
     0,
     0,
     ATTN "v_scale: shape [2,1,1], a KV scale for each head"},
    {"integers",
     {{ATTN "k_scale", "U8", "[]", 1, {1}}},
     FL_E_UNSUPPORTED,
     0,
     0,
     ATTN "k_scale: dtype U8"},
};

static void test_kv(const fixture *f) {
    for (size_t i = 0; i < sizeof(kv) / sizeof(kv[0]); i++) {
        const kv_case *c = &kv[i];
        fl_checkpoint *ck;
        fl_err e = {0};
        float k = 0, v = 0;
        bool found = false;
        write_parts(f, c->parts);
        int rc = fl_checkpoint_open(&ck, f->dir, &e);
        if (!rc) rc = fl_kv_scales_read(&k, &v, &found, ck, 7, &e);
        check(rc == c->code && found == (k * v > 1) && k == c->k && v == c->v &&
                  strstr(e.msg, c->says),
              "KV scales: %s %s", c->what, e.msg);
        fl_checkpoint_close(ck);
    }
}

int main(void) {
    static const part full[MAX_PARTS] = {
        Q, S, {"x.input_scale", "F32", "[]", 1, {2}}, {"x.bias", "F32", "[2]", 2, {1, 2}}};
    fixture f;
    fl_checkpoint *ck;
    fixture_new(&f);
    test_good(&f);
    test_bias(&f);
    test_bad(&f);
    test_kv(&f);
    write_parts(&f, full);
    if (check(!fl_checkpoint_open(&ck, f.dir, NULL), "a linear with everything")) {
        linear_sweep ctx = {ck, &fixed, &x_2x4};
        check(fixture_sweep(linear_open_once, &ctx) == 2, "every failing allocation is FL_E_NOMEM");
        fl_checkpoint_close(ck);
    }
    fixture_free(&f);
    return tap_done();
}
