/* Models in F16: every op rounds where PyTorch's float16 does, bit for bit, on every instruction
 * set.  The numbers are spec/golden/f16.txt, made by spec/support/gen_f16_goldens.py. */
#include <stdlib.h>
#include <string.h>

#include "ref_backend.h"
#include "tap.h"

#define F16 FL_DTYPE_F16

enum { MAX_ARRAYS = 16 };

static struct {
    char name[32];
    fl_tensor t;
} golden[MAX_ARRAYS];

static const fl_backend_ops *ops;
static const char *isa;

static bool read_golden(const char *path) {
    FILE *f = fopen(path, "r");
    long long rows, cols;
    if (!f || fscanf(f, "#%*[^\n]") < 0) return false;
    for (int i = 0; i < MAX_ARRAYS; i++) {
        if (fscanf(f, "%31s %lld %lld", golden[i].name, &rows, &cols) != 3) break;
        golden[i].t = ref_tensor(F16, rows, cols);
        for (long long k = 0; k < rows * cols; k++) {
            unsigned word = 0;
            if (fscanf(f, "%x", &word) != 1) return false;
            ((uint16_t *)golden[i].t.data)[k] = (uint16_t)word;
        }
    }
    return !fclose(f);
}

/* A copy, so that ops may write to it. */
static fl_tensor array(const char *name) {
    for (int i = 0; i < MAX_ARRAYS; i++) {
        const fl_tensor *t = &golden[i].t;
        if (strcmp(golden[i].name, name)) continue;
        fl_tensor copy = ref_tensor(F16, t->dim[0], t->dim[1]);
        memcpy(copy.data, t->data, (size_t)(t->dim[0] * t->dim[1] * 2));
        return copy;
    }
    fprintf(stderr, "no golden array %s\n", name);
    exit(2);
}

static void check_same(const char *what, const fl_tensor *got, const char *name) {
    fl_tensor want = array(name);
    int64_t differ = 0;
    for (int64_t i = 0; i < want.dim[0] * want.dim[1]; i++) {
        double a = ref_get(got->data, F16, i), b = ref_get(want.data, F16, i);
        bool same = ((uint16_t *)got->data)[i] == ((uint16_t *)want.data)[i];
        if (same || (a != a && b != b)) continue; /* NaN has many bits */
        if (!differ++) printf("# element %lld is %g, not %g\n", (long long)i, a, b);
    }
    check(!differ, "%s: %s is F16's (%lld differ)", isa, what, (long long)differ);
    free(want.data);
}

static fl_act act_of(fl_tensor x) {
    return (fl_act){.x = x,
                    .q = ref_tensor(FL_DTYPE_E4M3, x.dim[0], x.dim[1]),
                    .q_scale = ref_tensor(FL_DTYPE_F32, x.dim[0], fl_act_groups(x.dim[1]))};
}

static void free_act(fl_act *a) {
    free(a->x.data);
    free(a->q.data);
    free(a->q_scale.data);
}

static void test_add(fl_backend *be) {
    fl_tensor a = array("add_a"), b = array("add_b"), w = ref_tensor(F16, a.dim[1], 1);
    fl_act out = act_of(ref_tensor(F16, a.dim[0], a.dim[1]));
    fl_norm n = {.residual = a, .delta = b, .weight = w, .out = &out, .eps = 1e-5f};
    ops->norm(be, &n, NULL);
    check_same("residual + delta", &a, "add_out");
    free(a.data);
    free(b.data);
    free(w.data);
    free_act(&out);
}

static void test_norm(fl_backend *be) {
    fl_tensor x = array("norm_x"), d = array("norm_delta"), w = array("norm_weight");
    fl_act out = act_of(ref_tensor(F16, x.dim[0], x.dim[1]));
    w = fl_tensor_1d(w.data, F16, w.dim[1]);
    fl_norm n = {.residual = x, .delta = d, .weight = w, .out = &out, .eps = 1e-5f};
    ops->norm(be, &n, NULL);
    check_same("the residual of norm", &x, "norm_residual");
    check_same("norm", &out.x, "norm_out");
    free(x.data);
    free(d.data);
    free(w.data);
    free_act(&out);
}

static void test_silu(fl_backend *be) {
    fl_tensor in = array("silu_gate_up");
    fl_act out = act_of(ref_tensor(F16, in.dim[0], in.dim[1] / 2));
    ops->silu_mul(be, &out, &in, NULL, NULL);
    check_same("silu_mul", &out.x, "silu_out");
    free(in.data);
    free_act(&out);
}

static void test_linear(fl_backend *be) {
    fl_tensor w = array("linear_w");
    fl_act x = act_of(array("linear_x"));
    fl_tensor out = ref_tensor(F16, x.x.dim[0], w.dim[0]);
    fl_linear_spec spec = {.part = {{w.data, w.dim[0]}}, .n_parts = 1, .k = w.dim[1], .dtype = F16};
    fl_linear *lin = NULL;
    ops->linear_new(be, &lin, &spec, NULL);
    ops->linear(be, &out, &x, lin, NULL);
    check_same("linear", &out, "linear_out");
    ops->linear_free(be, lin);
    free(w.data);
    free(out.data);
    free_act(&x);
}

/* All finite numbers through an F16 page: a row that sees only itself gets its value back. */
static void test_cache(fl_backend *be) {
    enum { T = 31, E = 64, G = 16, P = 32 }; /* T * E * G: 31744 positive finite numbers */
    fl_kv_layer kv = {.shape = {G, E, P, F16}, .k_scale = 1.0f, .v_scale = 1.0f};
    ops->mem_new(be, &kv.data, T * ops->kv_page_bytes(be, &kv.shape), NULL);
    fl_tensor q = ref_tensor(F16, T, G * E), k = ref_tensor(F16, T, G * E);
    fl_tensor v = ref_tensor(F16, T, G * E), out = ref_tensor(F16, T, G * E);
    fl_tensor angle = ref_tensor(FL_DTYPE_F32, 1, E);
    int32_t zero[T] = {0}, slot[T], start[T + 1] = {0}, page[T];
    for (int i = 0; i < E / 2; i++) ((float *)angle.data)[i] = 1.0f;
    for (int i = 0; i < T * G * E; i++) ((uint16_t *)v.data)[i] = (uint16_t)(i | (i % 2) << 15);
    for (int i = 0; i < T; i++) slot[i] = i * P, start[i + 1] = i + 1, page[i] = i;
    fl_batch b = {.n_rows = T,
                  .n_seqs = T,
                  .max_pages = 1,
                  .pos = fl_tensor_1d(zero, FL_DTYPE_I32, T),
                  .slot = fl_tensor_1d(slot, FL_DTYPE_I32, T),
                  .row_start = fl_tensor_1d(start, FL_DTYPE_I32, T + 1),
                  .pages = fl_tensor_2d(page, FL_DTYPE_I32, T, 1)};
    fl_tensor heads[4] = {q, k, v, out};
    for (int i = 0; i < 4; i++) heads[i] = fl_tensor_3d(heads[i].data, F16, T, G, E);
    fl_rope rope = {heads[0], heads[1], heads[2], angle};
    fl_err err = {0};
    int rc = ops->rope_store(be, &rope, &kv, &b, &err);
    fl_act result = {.x = out};
    if (!rc) rc = ops->attend(be, &result, &heads[0], &kv, &b, 0.125f, NULL, &err);
    check(!rc && !memcmp(out.data, v.data, T * G * E * 2),
          "%s: every finite number comes out of an F16 page as it went in %s", isa, err.msg);
    ops->mem_free(be, kv.data);
    fl_tensor *all[] = {&q, &k, &v, &out, &angle};
    for (int i = 0; i < 5; i++) free(all[i]->data);
}

int main(int argc, char **argv) {
    if (!check(read_golden("spec/golden/f16.txt"), "spec/golden/f16.txt can be read")) return 1;
    ops = ref_ops(argc, argv);
    while (ref_next_isa(ops, &isa)) {
        fl_backend *be = ref_open(ops, isa, 2, 64);
        test_add(be);
        test_norm(be);
        test_silu(be);
        test_linear(be);
        test_cache(be);
        ops->close(be);
    }
    for (int i = 0; i < MAX_ARRAYS; i++) free(golden[i].t.data);
    return tap_done();
}
