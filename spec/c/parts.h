/* parts.h - a checkpoint out of a table of small tensors. */
#ifndef FL_SPEC_PARTS_H
#define FL_SPEC_PARTS_H

#include "fixture.h"
#include "formats/linear_source.h"

enum { MAX_PARTS = 8 };

/* A tensor of n values of its type; what a type cannot hold exactly is rounded. */
typedef struct part {
    const char *name;
    const char *dtype; /* NULL ends the list */
    const char *shape;
    int n;
    float v[24];
} part;

/* parts as model.safetensors, behind one odd byte so that nothing is aligned. */
void write_parts(const fixture *f, const part parts[MAX_PARTS]);

/* A quantized weight of a linear of 2 rows and 4 columns, and its scale. */
#define Q                                                                                          \
    {                                                                                              \
        "x.weight", "F8_E4M3", "[2,4]", 8, {                                                       \
            1, -2, 448, 0, 0.5f, 3, -448, 8                                                        \
        }                                                                                          \
    }
#define S                                                                                          \
    {                                                                                              \
        "x.weight_scale", "F32", "[]", 1, {                                                        \
            0.25f                                                                                  \
        }                                                                                          \
    }

/* Plans that many tables need. */
static const fl_quant_plan plain = {.flavour = FL_QUANT_NONE};
static const fl_quant_plan dynamic = {.flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_TOKEN};
static const fl_quant_plan fixed = {.flavour = FL_QUANT_AUTOFP8, .act = FL_ACT_STATIC};

/* For fixture_sweep: a linear is opened and freed. */
typedef struct linear_sweep {
    const fl_checkpoint *ck;
    const fl_quant_plan *plan;
    const fl_linear_want *want;
} linear_sweep;
int linear_open_once(void *ctx);

#endif
