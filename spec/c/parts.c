#include "parts.h"

#include <stdio.h>
#include <string.h>

#include "util/fp8.h"

static size_t encode(uint8_t *out, const part *p) {
    size_t at = 0;
    for (int i = 0; i < p->n; i++) {
        uint32_t bits = fl_f32_bits(p->v[i]);
        size_t bytes = 4;
        if (!strcmp(p->dtype, "BF16")) {
            bits = fl_f32_to_bf16(p->v[i]);
            bytes = 2;
        } else if (!strcmp(p->dtype, "F16")) {
            bits = fl_f32_to_f16(p->v[i]);
            bytes = 2;
        } else if (!strncmp(p->dtype, "F8", 2)) {
            bits = fl_f32_to_e4m3(p->v[i]);
            bytes = 1;
        } else if (!strcmp(p->dtype, "I64")) {
            int64_t whole = (int64_t)p->v[i];
            memcpy(out + at, &whole, sizeof(whole));
            at += sizeof(whole);
            continue;
        } else if (!strcmp(p->dtype, "I8") || !strcmp(p->dtype, "U8")) {
            bits = (uint8_t)(int)p->v[i];
            bytes = 1;
        }
        memcpy(out + at, &bits, bytes); /* little-endian, as every machine we build for */
        at += bytes;
    }
    return at;
}

void write_parts(const fixture *f, const part parts[MAX_PARTS]) {
    char header[4096];
    uint8_t data[1024] = {0};
    size_t at = 1;
    int n = snprintf(header, sizeof(header),
                     "{\"odd\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}");
    for (int i = 0; i < MAX_PARTS && parts[i].dtype; i++) {
        size_t bytes = encode(data + at, &parts[i]);
        n += snprintf(header + n, sizeof(header) - (size_t)n,
                      ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                      parts[i].name, parts[i].dtype, parts[i].shape, at, at + bytes);
        at += bytes;
    }
    snprintf(header + n, sizeof(header) - (size_t)n, "}");
    fixture_safetensors(f, "model.safetensors", header, data, at);
}

int linear_open_once(void *ctx) {
    const linear_sweep *c = ctx;
    fl_linear_source s;
    int rc = fl_linear_source_open(&s, c->ck, c->plan, c->want, NULL);
    fl_linear_source_free(&s);
    return rc;
}
