/* A linear whose weight is stored with a bitmask: sizes, pieces and bytes from the input.  What
 * loads as 2:4 is 2:4, and packs again to what it was.
 *
 * Bytes 0 to 3: flags, rows - 1, columns - 1, and which piece is wrong by how much; the rest fills
 * shape, bitmask, row_offsets, values and scale, in this order. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/linear_source.h"
#include "formats/sparse24.h"

enum { GENERAL = 1, WIDE = 2, OLD = 4, TRUE_SHAPE = 8, FUSED = 16, HEADER = 8 };

typedef struct maker {
    char header[2048];
    uint8_t data[1 << 16];
    size_t n_header, at;
    const uint8_t *in;
    size_t left;
} maker;

/* A tensor of rows x columns filled from the input, zeros where it ends. */
static uint8_t *add(maker *m, const char *name, const char *dtype, unsigned rows, unsigned columns,
                    size_t element) {
    size_t bytes = (size_t)rows * columns * element, take = bytes < m->left ? bytes : m->left;
    uint8_t *to = m->data + m->at;
    m->n_header += (size_t)snprintf(
        m->header + m->n_header, sizeof(m->header) - m->n_header,
        "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%u%s%.0u],\"data_offsets\":[%zu,%zu]}",
        m->n_header ? ',' : '{', name, dtype, rows, columns > 1 ? "," : "",
        columns > 1 ? columns : 0, m->at, m->at + bytes);
    memcpy(to, m->in, take);
    memset(to + take, 0, bytes - take);
    m->in += take;
    m->left -= take;
    m->at += bytes;
    return to;
}

static const char *name_of(char out[64], int flags, const char *leaf) {
    snprintf(out, 64, "%s%s.%s", flags & FUSED ? "f" : "x", flags & OLD ? ".weight" : "", leaf);
    return out;
}

static void make_file(maker *m, const uint8_t *head, int fd) {
    char name[64];
    const int flags = head[0];
    const unsigned n = head[1] % 16 + 1u,
                   k = flags & GENERAL ? head[2] % 64 + 1u : head[2] % 8 * 8 + 8u;
    const unsigned wrong = head[3] % 8, by = head[3] / 8 % 4; /* piece 5 to 7: none */
    const int64_t dims[2] = {n, k};
    const size_t element = flags & WIDE ? 2 : 1;
    uint8_t *shape = add(m, name_of(name, flags, "shape"), "I64", 2, 1, 8);
    if (flags & TRUE_SHAPE) memcpy(shape, dims, sizeof(dims));
    add(m, name_of(name, flags, "bitmask"), "U8", n + (wrong == 1 ? by : 0), (k + 7) / 8, 1);
    if (flags & GENERAL)
        add(m, name_of(name, flags, "row_offsets"), "I64", n + (wrong == 2 ? by : 0), 1, 8);
    unsigned kept = flags & GENERAL ? m->data[16] % 64u + 1 : n;
    add(m, name_of(name, flags, "compressed"), flags & WIDE ? "BF16" : "F8_E4M3",
        kept + (wrong == 3 ? by : 0), flags & GENERAL ? 1 : k / 2, element);
    uint8_t *scale = add(m, flags & FUSED ? "f.weight_scale" : "x.weight_scale", "F32",
                         wrong == 4 ? by + 1 : 1, 1, 4);
    if (flags & TRUE_SHAPE) memcpy(scale, "\0\0\200\077", 4); /* 1 */
    m->header[m->n_header++] = '}';
    uint64_t size = m->n_header;
    MUST(!ftruncate(fd, 0) && pwrite(fd, &size, 8, 0) == 8 &&
         pwrite(fd, m->header, m->n_header, 8) == (ssize_t)m->n_header &&
         pwrite(fd, m->data, m->at, (off_t)(8 + m->n_header)) == (ssize_t)m->at);
}

static void check_2of4(const fl_linear_source *s) {
    uint8_t kept[256], mask[64], row[256];
    for (int64_t i = 0; i < s->n; i++) {
        const uint8_t *from = s->data + i * s->k * fl_dtype_bytes(s->dtype);
        MUST(fl_sparse24_first_break(from, s->dtype, s->k) < 0);
        MUST(fl_sparse24_pack(kept, mask, from, s->dtype, s->k));
        MUST(fl_sparse24_unpack(row, kept, mask, s->dtype, s->k));
        for (int64_t c = 0; c < s->k * fl_dtype_bytes(s->dtype); c++)
            MUST(row[c] == from[c] || (from[c] == 0x80 && !row[c]));
    }
}

static char dir[] = P_tmpdir "/fuzz-bitmask-XXXXXX";

static void remove_folder(void) {
    char path[80];
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static int make_folder(void) {
    char path[80], target[40];
    int fd = memfd_create("model.safetensors", 0);
    MUST(fd >= 0 && mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
    MUST(!symlink(target, path));
    atexit(remove_folder);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int fd = -1;
    static maker m;
    fl_checkpoint *ck;
    fl_linear_source s;
    fl_err err;
    if (n < HEADER) return 0;
    if (fd < 0) fd = make_folder();
    m = (maker){.in = data + HEADER, .left = n - HEADER};
    make_file(&m, data, fd);
    if (fl_checkpoint_open(&ck, dir, &err)) return 0;
    fl_quant_plan plan = {.flavour = FL_QUANT_COMPRESSED_TENSORS, .act = FL_ACT_TOKEN};
    fl_linear_want want = {.module = "x", .n = data[4] % 16 + 1, .k = data[5] % 64 + 1};
    if (data[0] & TRUE_SHAPE) {
        want.n = data[1] % 16 + 1;
        want.k = data[0] & GENERAL ? data[2] % 64 + 1 : data[2] % 8 * 8 + 8;
    }
    if (data[0] & FUSED) {
        want.fused = "f";
        want.fused_n = want.n;
        want.fused_row = data[6] % want.n;
        want.n -= want.fused_row;
        want.parts = 2;
        want.part = 1;
    }
    err.msg[0] = '\0';
    if (!fl_linear_source_open(&s, ck, &plan, &want, &err)) {
        MUST(s.n == want.n && s.k == want.k);
        if (s.sparse24) check_2of4(&s);
        fl_linear_source_free(&s);
    } else {
        MUST(err.msg[0] && !s.owned && !s.w_scale);
    }
    fl_checkpoint_close(ck);
    return 0;
}
