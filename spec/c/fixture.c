#include "fixture.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/err.h"
#include "util/mem.h"

static void give_up(const char *what) {
    perror(what);
    exit(1);
}

void fixture_new(fixture *f) {
    snprintf(f->dir, sizeof(f->dir), "%s/fp8llm-test-XXXXXX", P_tmpdir);
    if (!mkdtemp(f->dir)) give_up(f->dir);
}

const char *fixture_path(const fixture *f, const char *name) {
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return path;
}

void fixture_free(fixture *f) {
    DIR *d = opendir(f->dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) unlink(fixture_path(f, e->d_name));
    closedir(d);
    rmdir(f->dir);
}

void fixture_remove(const fixture *f, const char *name) {
    unlink(fixture_path(f, name));
}

void fixture_write(const fixture *f, const char *name, const void *data, size_t n) {
    const char *path = fixture_path(f, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file)) give_up(path);
}

void fixture_text(const fixture *f, const char *name, const char *text) {
    fixture_write(f, name, text, strlen(text));
}

void fixture_safetensors(const fixture *f, const char *name, const char *header, const void *data,
                         size_t n) {
    size_t len = strlen(header);
    uint8_t *p = malloc(8 + len + n);
    if (!p) give_up(name);
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)((uint64_t)len >> (8 * i));
    memcpy(p + 8, header, len);
    for (size_t i = 0; i < n; i++) p[8 + len + i] = data ? ((const uint8_t *)data)[i] : (uint8_t)i;
    fixture_write(f, name, p, 8 + len + n);
    free(p);
}

int fixture_flip(const fixture *f, const char *name, const char *text, int (*step)(void *ctx),
                 void *ctx) {
    size_t n = strlen(text);
    int refused = 0;
    char *copy = malloc(n + 1);
    if (!copy) give_up(name);
    memcpy(copy, text, n + 1);
    for (size_t i = 0; i < 8 * n && refused >= 0; i++) {
        copy[i / 8] ^= (char)(1u << (i % 8));
        fixture_write(f, name, copy, n);
        copy[i / 8] ^= (char)(1u << (i % 8));
        int rc = step(ctx);
        if (rc && rc != FL_E_FORMAT && rc != FL_E_UNSUPPORTED && rc != FL_E_LIMIT) {
            printf("# bit %zu of byte %zu: code %d\n", i % 8, i / 8, rc);
            refused = -1;
        } else {
            refused += rc != FL_OK;
        }
    }
    fixture_write(f, name, text, n);
    free(copy);
    return refused;
}

typedef struct countdown {
    int left; /* allocations that still succeed */
} countdown;

static bool allow(void *ctx, size_t bytes) {
    countdown *c = ctx;
    (void)bytes;
    return c->left-- != 0;
}

int fixture_sweep(int (*step)(void *ctx), void *ctx) {
    for (int n = 0; n < 100000; n++) {
        countdown c = {n};
        int64_t before = fl_mem_live();
        fl_mem_set_hook(allow, &c);
        int rc = step(ctx);
        fl_mem_set_hook(NULL, NULL);
        bool reached = c.left < 0;
        if (fl_mem_live() != before || rc != (reached ? FL_E_NOMEM : FL_OK)) {
            printf("# allocation %d: code %d, %lld blocks left\n", n + 1, rc,
                   (long long)(fl_mem_live() - before));
            return -1;
        }
        if (!reached) return n;
    }
    return -1;
}
