/* template.h - chat templates: the Jinja that model repositories ship, with the
 * environment and semantics of transformers' apply_chat_template.
 *
 * A parsed template is immutable and may be shared by threads.  No template can read
 * files, call out, or run unbounded: depth, steps, memory and output are limited. */
#ifndef FL_TEXT_TEMPLATE_H
#define FL_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "text/json_value.h"
#include "util/bytes.h"
#include "util/err.h"

typedef struct fl_template fl_template;

/* Syntax errors are FL_E_FORMAT with the template line; at most 4 MiB of source. */
int fl_template_parse(fl_template **out, const char *source, size_t n, fl_err *err);
fl_template *fl_template_ref(fl_template *t);
void fl_template_unref(fl_template *t);

typedef struct fl_template_limits { /* 0: default */
    uint64_t steps;                 /* 2,000,000 */
    size_t arena_bytes;             /* 64 MiB    */
    size_t output_bytes;            /* 16 MiB    */
} fl_template_limits;

typedef struct fl_template_context {
    const fl_jv *values;  /* object: messages, tools, add_generation_prompt, ...; untrusted */
    const fl_jv *trusted; /* object or NULL: bos_token and the like; its text may hold special
                             tokens.  `values` wins when both have a name */
    time_t now;           /* for strftime_now; 0 = the clock */
    fl_template_limits limits;
} fl_template_context;

/* Renders to the end of *out.  When `trusted_bits` is not NULL it receives one bit per byte of
 * the new text (bit i%8 of byte i/8): 1 = written by the template itself or a trusted value, 0 = came
 * from `values`.  raise_exception and undefined errors are FL_E_ARG with line and text;
 * limits FL_E_LIMIT. */
int fl_template_render(const fl_template *t, const fl_template_context *c, fl_bytes *out,
                       fl_bytes *trusted_bits, fl_err *err);

/* Whether the template goes through the content of a message as a list of parts. */
bool fl_template_takes_parts(const fl_template *t);
/* Whether it asks if the content is a string: it takes texts beside lists of parts then. */
bool fl_template_takes_text(const fl_template *t);

#endif
