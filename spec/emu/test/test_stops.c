/* What the emulator does not know it must refuse by name, and never run as something else. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "c/tap.h"
#include "exec.h"

#define HEAD ".version 9.0\n.target sm_90\n.address_size 64\n"
#define KERNEL(body)                                                                               \
    HEAD ".visible .entry k(.param .u64 p)\n{\n.reg .pred %p<2>;\n.reg .f32 %f<4>;\n"              \
         ".reg .b32 %r<8>;\n.reg .b64 %rd<4>;\n.reg .f64 %fd<4>;\n.reg .b16 %h<4>;\n" body         \
         "ret;\n}\n"

static const struct {
    const char *name, *text, *says;
} cases[] = {
    {"a kernel that is known", KERNEL("add.f32 %f1, 0f3F800000, 0f40000000;\n"), NULL},
    {"an opcode", KERNEL("wgmma.fence.sync.aligned;\n"), "opcode that is not emulated: wgmma"},
    {"a rounding of add", KERNEL("add.rz.f32 %f1, %f1, %f2;\n"), "modifier that is not emulated"},
    {"a carry", KERNEL("add.cc.u32 %r1, %r1, %r2;\n"), "modifier that is not emulated: add.cc"},
    {"TMA", KERNEL("cp.async.bulk.commit_group;\n"),
     "modifier that is not emulated: cp.async.bulk"},
    {"a type of a register", HEAD ".entry k()\n{\n.reg .b128 %q<2>;\nret;\n}\n", "register type"},
    {"a directive", HEAD ".alias a, b;\n", "directive: .alias"},
    {"a device function", HEAD ".func f()\n{\nret;\n}\n", "device functions"},
    {"a name", KERNEL("mov.u32 %r1, %clock;\n"), "unknown operand: %clock"},
    {"a label", KERNEL("bra $nowhere;\n"), "label: $nowhere"},
    {"a barrier for some threads", KERNEL("bar.sync 0, 32;\n"), "barrier with a thread count"},
    {"a shape of mma",
     KERNEL("mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32 {%f0,%f1,%f2,%f3}, "
            "{%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};\n"),
     "mma of this shape"},
    {"a conversion", KERNEL("cvt.rz.f16.f32 %h1, %f1;\n"), "is not emulated"},
    {"an operation on a type", KERNEL("rem.f32 %f1, %f1, %f2;\n"), "not emulated"},
    {"a division by zero", KERNEL("div.u32 %r1, 5, 0;\n"), "division by zero"},
};

static void run(const char *text) {
    uint64_t param = 0;
    emu_module *m = emu_ptx_parse(text, strlen(text), 0);
    emu_kernel *k = emu_ptx_kernel(m, "k");
    if (k) emu_exec(&(emu_launch){m, k, 0, {1, 1, 1}, {32, 1, 1}, 0, &param});
}

int main(void) {
    static char said[4096];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd[2];
        size_t n = 0;
        ssize_t got;
        if (pipe(fd)) return 1;
        fflush(stdout);
        if (!fork()) {
            dup2(fd[1], 2);
            run(cases[i].text);
            _exit(0);
        }
        close(fd[1]);
        while ((got = read(fd[0], said + n, sizeof(said) - 1 - n)) > 0) n += (size_t)got;
        said[n] = 0;
        close(fd[0]);
        wait(NULL);
        bool ok = cases[i].says ? strstr(said, cases[i].says) != NULL : !n;
        check(ok, "%s: %s", cases[i].name, cases[i].says ? cases[i].says : "silence");
        if (!ok) printf("# said: %s\n", said);
    }
    return tap_done();
}
