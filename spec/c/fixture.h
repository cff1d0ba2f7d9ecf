/* fixture.h - what several C tests need: a temporary folder, small files in it, and a
 * sweep that lets every allocation fail once. */
#ifndef FL_SPEC_FIXTURE_H
#define FL_SPEC_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

typedef struct fixture {
    char dir[256];
} fixture;

/* These end the test program when the machine has no room for a temporary file. */
void fixture_new(fixture *f);
void fixture_free(fixture *f); /* the folder and the files in it */
void fixture_write(const fixture *f, const char *name, const void *data, size_t n);
void fixture_text(const fixture *f, const char *name, const char *text);
void fixture_remove(const fixture *f, const char *name);
const char *fixture_path(const fixture *f, const char *name); /* valid until the next call */

/* A safetensors file: header length, header, n bytes of data (NULL: 0,1,2,...). */
void fixture_safetensors(const fixture *f, const char *name, const char *header, const void *data,
                         size_t n);

/* Write `text` with one bit flipped, for every bit, and call step(ctx) each time.  Returns how
 * often it returned something else than FL_OK, or -1 for a code other than FORMAT,
 * UNSUPPORTED or LIMIT. */
int fixture_flip(const fixture *f, const char *name, const char *text, int (*step)(void *ctx),
                 void *ctx);

/* Call step(ctx) with the 1st, 2nd, 3rd ... allocation failing, until it runs without
 * reaching the failing one.  step returns an fl_code and frees what it made.  Returns the
 * number of allocations, or -1 when a failure was not FL_E_NOMEM, a block was left, or
 * the undisturbed run did not return FL_OK. */
int fixture_sweep(int (*step)(void *ctx), void *ctx);

#endif
