/* cpu_detect.c - which instruction set this machine can run.  The only place that asks. */
#include <string.h>

#include "cpu/cpu_priv.h"

static bool runs_anywhere(void) {
    return true;
}

static const struct {
    const cpu_isa *isa;
    bool (*runs)(void);
    const char *needs;
} known[] = {
    {&cpu_isa_scalar, runs_anywhere, ""},
};

int cpu_isa_find(const cpu_isa **out, const char *name, fl_err *err) {
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (name && strcmp(name, known[i].isa->name)) continue;
        if (known[i].runs()) {
            *out = known[i].isa;
            return FL_OK;
        }
        if (name)
            return fl_fail(err, FL_E_UNSUPPORTED, "isa %s: this machine lacks one of %s", name,
                           known[i].needs);
    }
    return fl_fail(err, FL_E_ARG, "isa: '%s' is not scalar, avx2 or avx512", name);
}
