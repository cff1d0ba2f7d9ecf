/* Compares with many recorded templates: make test-templates CASES=cases.json
 * The format of the file is in spec/c/template_cases.h. */
#include <stdio.h>
#include <stdlib.h>

#include "template_cases.h"

int main(int argc, char **argv) {
    template_cases c;
    fl_err err = {0};
    uint32_t n_same = 0;
    char why[512];
    setenv("TZ", "UTC", 1);
    if (argc != 2 || template_cases_load(&c, argv[1], &err)) {
        fprintf(stderr, "%s\n", argc == 2 ? err.msg : "usage: run_template_cases cases.json");
        return 2;
    }
    for (uint32_t i = 0; i < c.cases->n; i++) {
        bool same = template_case_agrees(&c, i, why, sizeof(why));
        if (!same) printf("%s: %s\n", template_case_name(&c, i), why);
        n_same += same;
    }
    printf("%u of %u cases agree\n", n_same, c.cases->n);
    bool all = n_same == c.cases->n;
    template_cases_free(&c);
    return !all;
}
