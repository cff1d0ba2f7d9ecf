/* parts.h - a checkpoint out of a table of small tensors. */
#ifndef FL_SPEC_PARTS_H
#define FL_SPEC_PARTS_H

#include "fixture.h"

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

#endif
