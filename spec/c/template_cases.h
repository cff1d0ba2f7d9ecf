/* template_cases.h - recorded templates: what Jinja2 made of them and what we make.
 *
 * A file of cases is {"templates": [source, ...], "cases": [{"name", "t": index of the
 * template, "ctx": variables, and "out": text, or "err": kind and "msg": text}, ...]};
 * "ctx" and "now" (Unix time, UTC) of the file hold for cases without their own. */
#ifndef FL_SPEC_TEMPLATE_CASES_H
#define FL_SPEC_TEMPLATE_CASES_H

#include "text/template.h"

typedef struct template_cases {
    fl_arena arena;
    char *text;
    fl_jv root;
    const fl_jv *cases; /* array */
    fl_template **templates;
    fl_err *errors; /* of the templates that are NULL */
    uint32_t n_templates;
} template_cases;

int template_cases_load(template_cases *c, const char *path, fl_err *err);
void template_cases_free(template_cases *c);
const char *template_case_name(const template_cases *c, uint32_t i);
/* Both failing agrees; when the template itself raised ("err": "raise") the message must be
 * part of ours.  *why (n bytes) says what differs.  Times are UTC: set TZ before. */
bool template_case_agrees(const template_cases *c, uint32_t i, char *why, size_t n);

#endif
