/* The forms a linear can be stored in: block scales, fused rows, bitmasks, plain weights that wait
 * for their scales. */
#include "formats/linear_source.h"

#include <math.h>
#include <string.h>

#include "parts.h"
#include "tap.h"

static const fl_quant_plan blocks = {
    .flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_GROUP, .block_n = 2, .block_k = 128};
static const fl_quant_plan declared = {
    .flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_TOKEN, .sparse24 = true};
static const fl_quant_plan frozen = {
    .flavour = FL_QUANT_COMPRESSED_TENSORS, .act = FL_ACT_STATIC, .frozen = true};

typedef struct form_case {
    const char *what;
    const fl_quant_plan *plan;
    fl_linear_want want;
    part parts[MAX_PARTS];
    fl_dtype dtype;
    float value[2]; /* first and last */
    fl_act_scheme act;
    int64_t w_block;
    float scale[2]; /* first and last */
    float x_scale;
    bool sparse24;
} form_case;

#define X(rows, columns)                                                                           \
    { .module = "x", .n = (rows), .k = (columns) }
#define SECOND                                                                                     \
    {                                                                                              \
        .module = "x", .n = 2, .k = 4, .fused = "f", .fused_row = 1, .fused_n = 3, .part = 1,      \
        .parts = 2                                                                                 \
    }
#define F                                                                                          \
    {                                                                                              \
        "f.weight", "F8_E4M3", "[3,4]", 12, {                                                      \
            9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8                                                     \
        }                                                                                          \
    }
#define K8                                                                                         \
    {                                                                                              \
        "x.compressed", "F8_E4M3", "[1,4]", 4, {                                                   \
            1, 2, 3, 4                                                                             \
        }                                                                                          \
    }
/* 0x9a and its mirror: columns 1, 3, 4, 7 */
#define M8                                                                                         \
    {                                                                                              \
        "x.bitmask", "U8", "[1,1]", 1, {                                                           \
            0x9a                                                                                   \
        }                                                                                          \
    }

static const form_case forms[] = {
    {"scales of blocks",
     &blocks,
     X(3, 4),
     {{"x.weight", "F8_E4M3", "[3,4]", 12, {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}},
      {"x.weight_scale_inv", "F32", "[2,1]", 2, {0.5f, 4}}},
     FL_DTYPE_E4M3,
     {1, 2},
     FL_ACT_GROUP,
     128,
     {0.5f, 4},
     0,
     false},
    {"scales of blocks in modelopt's four dimensions",
     &blocks,
     X(3, 4),
     {{"x.weight", "F8_E4M3", "[3,4]", 12, {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}},
      {"x.weight_scale", "F32", "[2,1,1,1]", 2, {0.5f, 4}}},
     FL_DTYPE_E4M3,
     {1, 2},
     FL_ACT_GROUP,
     128,
     {0.5f, 4},
     0,
     false},
    {"a scale of 0 for a block of zeros",
     &blocks,
     X(3, 4),
     {{"x.weight", "F8_E4M3", "[3,4]", 12, {0, -0.0f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}},
      {"x.weight_scale", "F32", "[2,1]", 2, {0, 4}}},
     FL_DTYPE_E4M3,
     {0, 2},
     FL_ACT_GROUP,
     128,
     {1, 4},
     0,
     false},
    {"one scale where blocks were declared",
     &blocks,
     X(2, 4),
     {Q, {"x.weight_scale", "F32", "[1,1]", 1, {4}}},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_GROUP,
     0,
     {4, 4},
     0,
     false},
    {"rows of a fused weight, one scale",
     &dynamic,
     SECOND,
     {F, {"f.weight_scale", "F32", "[]", 1, {2}}},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_TOKEN,
     0,
     {2, 2},
     0,
     false},
    {"rows of a fused weight, a scale for each part",
     &fixed,
     SECOND,
     {F, {"f.weight_scale", "F32", "[2]", 2, {2, 3}}, {"f.input_scale", "F32", "[2]", 2, {5, 6}}},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_STATIC,
     0,
     {3, 3},
     6,
     false},
    {"rows of a fused weight, a scale for each row",
     &dynamic,
     SECOND,
     {F, {"f.weight_scale", "BF16", "[3,1]", 3, {2, 3, 4}}},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_TOKEN,
     0,
     {3, 4},
     0,
     false},
    {"rows of a fused weight, blocks that cross the parts",
     &blocks,
     SECOND,
     {F, {"f.weight_scale_inv", "F32", "[2,1]", 2, {2, 3}}},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_GROUP,
     128,
     {2, 3},
     0,
     false},
    {"the module's own weight beside a fused one",
     &dynamic,
     SECOND,
     {Q, S, F},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_TOKEN,
     0,
     {0.25f, 0.25f},
     0,
     false},
    {"sparse-24-bitmask",
     &dynamic,
     X(1, 8),
     {K8, M8, {"x.shape", "I64", "[2,1]", 2, {1, 8}}, S},
     FL_DTYPE_E4M3,
     {0, 4},
     FL_ACT_TOKEN,
     0,
     {0.25f, 0.25f},
     0,
     true},
    {"sparse-bitmask in BF16, as compressed-tensors 0.8 wrote it",
     &plain,
     X(2, 3),
     {{"x.weight.compressed", "BF16", "[3]", 3, {1, 2, 3}},
      {"x.weight.bitmask", "U8", "[2,1]", 2, {1, 6}},
      {"x.weight.row_offsets", "I64", "[2]", 2, {0, 1}},
      {"x.weight.shape", "I64", "[2]", 2, {2, 3}}},
     FL_DTYPE_BF16,
     {1, 3},
     FL_ACT_NONE,
     0,
     {0, 0},
     0,
     false},
    {"dense and declared 2:4",
     &declared,
     X(2, 4),
     {Q, S},
     FL_DTYPE_E4M3,
     {1, 8},
     FL_ACT_TOKEN,
     0,
     {0.25f, 0.25f},
     0,
     true},
    {"plain weights beside their scales",
     &frozen,
     X(2, 4),
     {{"x.weight", "BF16", "[2,4]", 8, {1, 0, 0, 0, 0, 0, 0, 300}},
      {"x.weight_scale", "BF16", "[1]", 1, {0.5f}},
      {"x.input_scale", "BF16", "[1]", 1, {3}}},
     FL_DTYPE_E4M3,
     {2, 448},
     FL_ACT_STATIC,
     0,
     {0.5f, 0.5f},
     3,
     false},
    {"plain weights without scales in such a model",
     &frozen,
     X(2, 4),
     {{"x.weight", "BF16", "[2,4]", 8, {1, 0, 0, 0, 0, 0, 0, 300}}},
     FL_DTYPE_BF16,
     {1, 300},
     FL_ACT_NONE,
     0,
     {0, 0},
     0,
     false},
};

static bool same_form(const fl_linear_source *s, const form_case *c) {
    const fl_st_tensor t = {.data = s->data, .dtype = s->dtype};
    const int64_t blocks_k = s->w_block ? fl_act_groups(s->k) : 1;
    const float *w = s->w_scale;
    return s->dtype == c->dtype && s->n == c->want.n && s->k == c->want.k &&
           fl_st_value(&t, 0) == c->value[0] && fl_st_value(&t, s->n * s->k - 1) == c->value[1] &&
           s->act == c->act && s->w_block == c->w_block && s->x_scale == c->x_scale &&
           s->sparse24 == c->sparse24 && (w != NULL) == (c->scale[0] != 0) &&
           (!w || (w[0] == c->scale[0] && w[s->n * blocks_k - 1] == c->scale[1]));
}

static void test_forms(const fixture *f) {
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const form_case *c = &forms[i];
        fl_checkpoint *ck = NULL;
        fl_linear_source s = {0};
        fl_err e = {0};
        write_parts(f, c->parts);
        int rc = fl_checkpoint_open(&ck, f->dir, &e);
        if (!rc) rc = fl_linear_source_open(&s, ck, c->plan, &c->want, &e);
        check(!rc && same_form(&s, c), "%s %s", c->what, e.msg);
        fl_linear_source_free(&s);
        linear_sweep ctx = {ck, c->plan, &c->want};
        check(fixture_sweep(linear_open_once, &ctx) >= 0, "%s: failing allocations", c->what);
        fl_checkpoint_close(ck);
    }
}

typedef struct bad_form {
    const char *what;
    const fl_quant_plan *plan;
    fl_linear_want want;
    part parts[MAX_PARTS];
    int code;
    const char *says;
} bad_form;

#define SHAPE(rows, columns)                                                                       \
    {                                                                                              \
        "x.shape", "I64", "[2,1]", 2, {                                                            \
            (rows), (columns)                                                                      \
        }                                                                                          \
    }

static const bad_form bad_forms[] = {
    {"a fused weight of too few rows",
     &dynamic,
     SECOND,
     {{"f.weight", "F8_E4M3", "[2,4]", 8, {0}}},
     FL_E_FORMAT,
     "f.weight: shape [2,4], config.json makes it [3,4]"},
    {"a fused weight without a scale",
     &dynamic,
     SECOND,
     {F},
     FL_E_FORMAT,
     "f.weight: F8_E4M3 without f.weight_scale"},
    {"block scales of another size",
     &blocks,
     X(3, 4),
     {{"x.weight", "F8_E4M3", "[3,4]", 12, {1}}, {"x.weight_scale_inv", "F32", "[3,2]", 6, {0}}},
     FL_E_FORMAT,
     "x.weight_scale_inv: shape [3,2] is neither one scale nor one for each row or "
     "block of 2 x 128 of x.weight [3,4]"},
    {"a block scale that is not above 0",
     &blocks,
     X(3, 4),
     {{"x.weight", "F8_E4M3", "[3,4]", 12, {1}},
      {"x.weight_scale_inv", "F32", "[2,1]", 2, {1, -2}}},
     FL_E_FORMAT,
     "x.weight_scale_inv: element 1 is -2"},
    {"a bitmask that is missing",
     &dynamic,
     X(1, 8),
     {K8, SHAPE(1, 8), S},
     FL_E_FORMAT,
     "x.compressed: without x.bitmask"},
    {"a shape that is missing",
     &dynamic,
     X(1, 8),
     {K8, M8, S},
     FL_E_FORMAT,
     "x.compressed: without x.shape"},
    {"a shape of another model",
     &dynamic,
     X(1, 8),
     {K8, M8, SHAPE(8, 1), S},
     FL_E_FORMAT,
     "x.bitmask: U8 [1,1], need U8 for 8 x 1 bits"},
    {"a weight of another size",
     &dynamic,
     X(2, 8),
     {K8, M8, SHAPE(1, 8), S},
     FL_E_FORMAT,
     "x.compressed: shape [1,8], config.json makes it [2,8]"},
    {"a shape of F32",
     &dynamic,
     X(1, 8),
     {K8, M8, {"x.shape", "F32", "[2]", 2, {1, 8}}, S},
     FL_E_FORMAT,
     "x.shape: F32 [2], need I64"},
    {"a shape with a 0",
     &dynamic,
     X(1, 8),
     {K8, M8, SHAPE(0, 8), S},
     FL_E_FORMAT,
     "x.shape: element 0 is 0"},
    {"three bits in a group",
     &dynamic,
     X(1, 8),
     {K8, {"x.bitmask", "U8", "[1,1]", 1, {0x97}}, SHAPE(1, 8), S},
     FL_E_FORMAT,
     "x.bitmask: row 0: a group of four without exactly two bits"},
    {"too many kept values",
     &dynamic,
     X(1, 8),
     {{"x.compressed", "F8_E4M3", "[1,5]", 5, {1, 2, 3, 4, 5}}, M8, SHAPE(1, 8), S},
     FL_E_FORMAT,
     "x.compressed: F8_E4M3 [1,5], need half of 1 x 8 values"},
    {"columns that are no multiple of 4",
     &dynamic,
     X(1, 6),
     {{"x.compressed", "F8_E4M3", "[1,3]", 3, {1, 2, 3}},
      {"x.bitmask", "U8", "[1,1]", 1, {0x33}},
      SHAPE(1, 6),
      S},
     FL_E_FORMAT,
     "x.compressed: 6 columns, 2:4 rows are multiples of 4"},
    {"2:4 bits behind the last column",
     &dynamic,
     X(1, 4),
     {{"x.compressed", "F8_E4M3", "[1,2]", 2, {1, 2}},
      {"x.bitmask", "U8", "[1,1]", 1, {0x13}},
      SHAPE(1, 4),
      S},
     FL_E_FORMAT,
     "x.bitmask: row 0: bits behind the last column"},
    {"row offsets that run backwards",
     &plain,
     X(2, 3),
     {{"x.compressed", "BF16", "[3]", 3, {1, 2, 3}},
      {"x.bitmask", "U8", "[2,1]", 2, {1, 6}},
      {"x.row_offsets", "I64", "[2]", 2, {1, 0}},
      {"x.shape", "I64", "[2]", 2, {2, 3}}},
     FL_E_FORMAT,
     "x.row_offsets: row 0 is 1 to 0 of 3, 1 bits"},
    {"row offsets that leave the values",
     &plain,
     X(2, 3),
     {{"x.compressed", "BF16", "[3]", 3, {1, 2, 3}},
      {"x.bitmask", "U8", "[2,1]", 2, {1, 6}},
      {"x.row_offsets", "I64", "[2]", 2, {-9e18f, 9e18f}},
      {"x.shape", "I64", "[2]", 2, {2, 3}}},
     FL_E_FORMAT,
     "x.row_offsets: row 0 is -9"},
    {"fewer bits than values",
     &plain,
     X(2, 3),
     {{"x.compressed", "BF16", "[3]", 3, {1, 2, 3}},
      {"x.bitmask", "U8", "[2,1]", 2, {1, 2}},
      {"x.row_offsets", "I64", "[2]", 2, {0, 1}},
      {"x.shape", "I64", "[2]", 2, {2, 3}}},
     FL_E_FORMAT,
     "x.row_offsets: row 1 is 1 to 3 of 3, 1 bits"},
    {"bits behind the last column",
     &plain,
     X(2, 3),
     {{"x.compressed", "BF16", "[3]", 3, {1, 2, 3}},
      {"x.bitmask", "U8", "[2,1]", 2, {1, 12}},
      {"x.row_offsets", "I64", "[2]", 2, {0, 1}},
      {"x.shape", "I64", "[2]", 2, {2, 3}}},
     FL_E_FORMAT,
     "x.bitmask: row 1: bits behind the last column"},
    {"compressed integers",
     &plain,
     X(1, 8),
     {{"x.compressed", "I8", "[1,4]", 4, {1, 2, 3, 4}}, M8, SHAPE(1, 8)},
     FL_E_UNSUPPORTED,
     "x.compressed: weights of dtype I8"},
    {"NaN among the kept values",
     &dynamic,
     X(1, 8),
     {{"x.compressed", "F8_E4M3", "[1,4]", 4, {1, NAN, 3, 4}}, M8, SHAPE(1, 8), S},
     FL_E_FORMAT,
     "x.compressed: 1 of 8 values are NaN"},
    {"a bias that config.json requires",
     &dynamic,
     {.module = "x", .n = 2, .k = 4, .bias_key = "attention_bias"},
     {Q, S},
     FL_E_FORMAT,
     "x.bias is missing, config.json has attention_bias true"},
    {"NaN in a plain weight that waits for its scale",
     &frozen,
     X(2, 4),
     {{"x.weight", "BF16", "[2,4]", 8, {1, NAN}},
      {"x.weight_scale", "BF16", "[1]", 1, {1}},
      {"x.input_scale", "BF16", "[1]", 1, {3}}},
     FL_E_FORMAT,
     "x.weight: 1 of 8 values are NaN"},
};

static void test_bad_forms(const fixture *f) {
    for (size_t i = 0; i < sizeof(bad_forms) / sizeof(bad_forms[0]); i++) {
        const bad_form *c = &bad_forms[i];
        fl_checkpoint *ck = NULL;
        fl_linear_source s;
        fl_err e = {0};
        write_parts(f, c->parts);
        int rc = fl_checkpoint_open(&ck, f->dir, &e);
        if (!rc) rc = fl_linear_source_open(&s, ck, c->plan, &c->want, &e);
        check(rc == c->code && strstr(e.msg, c->says) && strstr(e.msg, "model.safetensors: ") &&
                  !s.owned && !s.w_scale,
              "%s: %s", c->what, e.msg);
        fl_checkpoint_close(ck);
    }
}

/* A fused bias of BF16 compressed the old way: the rows of this part. */
static void test_fused_bias(const fixture *f) {
    static const part parts[MAX_PARTS] = {F,
                                          {"f.weight_scale", "F32", "[]", 1, {2}},
                                          {"f.bias.compressed", "BF16", "[2]", 2, {1.5f, -3}},
                                          {"f.bias.bitmask", "U8", "[1]", 1, {6}},
                                          {"f.bias.row_offsets", "I64", "[]", 1, {0}},
                                          {"f.bias.shape", "I64", "[1]", 1, {3}}};
    const fl_linear_want want = SECOND;
    fl_checkpoint *ck = NULL;
    fl_linear_source s = {0};
    fl_err e = {0};
    write_parts(f, parts);
    int rc = fl_checkpoint_open(&ck, f->dir, &e);
    if (!rc) rc = fl_linear_source_open(&s, ck, &dynamic, &want, &e);
    check(!rc && s.bias && s.bias[0] == 1.5f && s.bias[1] == -3, "a fused, compressed bias %s",
          e.msg);
    fl_linear_source_free(&s);
    linear_sweep ctx = {ck, &dynamic, &want};
    check(fixture_sweep(linear_open_once, &ctx) >= 3, "failing allocations under it");
    fl_checkpoint_close(ck);
}

/* Blocks of 128 columns: row 1's second block has the scale of [0][1]. */
static void test_block_columns(const fixture *f) {
    enum { K = 130, N = 3 };
    char header[512];
    uint8_t data[N * K + 2 * 2 * 4];
    const float scales[] = {1, 2, 3, 4};
    fl_checkpoint *ck = NULL;
    fl_linear_source s = {0};
    fl_err e = {0};
    memset(data, 0x38, N * K);
    memcpy(data + N * K, scales, sizeof(scales));
    snprintf(
        header, sizeof(header),
        "{\"x.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[3,130],\"data_offsets\":[0,390]},"
        "\"x.weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[390,406]}}");
    fixture_safetensors(f, "model.safetensors", header, data, sizeof(data));
    const fl_linear_want want = X(N, K);
    int rc = fl_checkpoint_open(&ck, f->dir, &e);
    if (!rc) rc = fl_linear_source_open(&s, ck, &blocks, &want, &e);
    const float expect[] = {1, 2, 1, 2, 3, 4};
    check(!rc && s.w_block == 128 && !memcmp(s.w_scale, expect, sizeof(expect)),
          "scales of blocks become scales of rows %s", e.msg);
    fl_linear_source_free(&s);
    fl_checkpoint_close(ck);
}

int main(void) {
    fixture f;
    fixture_new(&f);
    test_forms(&f);
    test_block_columns(&f);
    test_bad_forms(&f);
    test_fused_bias(&f);
    fixture_free(&f);
    return tap_done();
}
