#include "model/memory_plan.h"

#include <string.h>

#include "util/num.h"

uint64_t fl_memory_budget(const fl_backend_info *info, double part) {
    const double whole = (double)info->mem_total * part;
    if (!info->own_memory || (double)info->mem_free <= whole) return info->mem_free;
    return (uint64_t)whole;
}

static bool ends_in(const char *name, const char *end) {
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && !strcmp(name + n - k, end);
}

uint64_t fl_memory_of_weights(const fl_checkpoint *ck, const fl_config *c,
                              const fl_quant_plan *plan, bool sparse_dense) {
    uint64_t sum = 0;
    for (size_t i = 0; i < fl_checkpoint_count(ck); i++) {
        const fl_st_tensor *t = fl_checkpoint_at(ck, i);
        if (c->tied && !strcmp(t->name, "lm_head.weight")) continue;
        uint64_t bytes = t->bytes;
        if (t->dtype == FL_DTYPE_F32 && t->ndim == 2 && ends_in(t->name, ".weight")) bytes /= 2;
        if (plan->sparse24 && t->dtype == FL_DTYPE_E4M3 && ends_in(t->name, "_proj.weight"))
            bytes = bytes / 8 * (sparse_dense ? 8 + 5 : 5);
        if (sparse_dense && t->dtype == FL_DTYPE_E4M3 && ends_in(t->name, ".compressed"))
            bytes *= 3; /* half of the values, and all of them */
        sum += bytes;
    }
    return sum;
}

int fl_memory_plan_check(const fl_memory_plan *p, const char *model, const char *device,
                         fl_err *err) {
    uint64_t need;
    bool fits = fl_add_u64(p->weights, p->activations, &need) && fl_add_u64(need, p->kv, &need);
    if (!p->free || (fits && need <= p->budget)) return FL_OK;
    return fl_fail(err, FL_E_NOMEM,
                   "%s: needs %llu bytes (weights %llu, activations %llu, KV cache of %lld tokens "
                   "%llu), %s has %llu for it: %llu of %llu are free",
                   model, (unsigned long long)(fits ? need : UINT64_MAX),
                   (unsigned long long)p->weights, (unsigned long long)p->activations,
                   (long long)p->kv_tokens, (unsigned long long)p->kv, device,
                   (unsigned long long)p->budget, (unsigned long long)p->free,
                   (unsigned long long)p->total);
}
