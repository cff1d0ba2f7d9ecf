// One source, run by the host compiler and by the emulator on what nvcc makes of it: the
// results must be the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#define BOTH __host__ __device__ __forceinline__
typedef unsigned long long u64;

struct input {
    int a, b, c;
    unsigned u, v;
    long long x, y;
    u64 w;
    float f, g, h;
    short s;
    unsigned short us;
    signed char ch;
    unsigned char uc;
};

BOTH unsigned bits(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}

enum { N_OPS = 46, N = 4096 };

BOTH u64 integer_op(int i, const input &p) {
    switch (i) {
    case 0: return (unsigned)(p.a + p.b * p.c);
    case 1: return (unsigned)(p.a / (p.b | 1));
    case 2: return (unsigned)(p.a % ((p.b & 0xff) + 1));
    case 3: return p.u / (p.v | 1);
    case 4: return p.u % (p.v | 1);
    case 5: return (unsigned)(p.a >> (p.u & 31));
    case 6: return p.u >> (p.v & 31);
    case 7: return p.u << (p.v & 31);
    case 8: return (u64)(p.x * p.y);
    case 9: return (u64)(p.x / (p.y | 1));
    case 10: return p.w % ((u64)p.y | 1);
    case 11: return (u64)(p.x >> (p.u & 63));
    case 12: return p.w << (p.v & 63);
    case 13: return (u64)p.a * (u64)p.u;
    case 14: return (u64)((long long)p.a * p.b);
    case 15: return p.a < p.b ? p.u : p.v;
    case 16: return (unsigned)(p.a < p.b ? p.a : p.b) ^ (p.u > p.v ? p.u : p.v);
    case 17: return (unsigned)(p.s + p.us * 3 + p.ch - p.uc);
    case 18: return (unsigned)(short)(p.a * 7);
    case 19: return (unsigned)((unsigned char)(p.u >> 3) + (signed char)p.v);
    case 20: return (p.u & 0xff00) >> 8 | (p.v & 7) << 20;
    case 21: return (unsigned)((p.a ^ p.b) & ~p.c) | p.u >> 31;
    case 22: return ((u64)p.u << 32 | p.v) >> (p.c & 31);
    case 23: return (unsigned)(p.a < 0 ? -(p.a | 1) : p.a | 1) + (unsigned)(-p.b);
    case 24: {
        unsigned s = 0;
        for (unsigned k = p.u & 15; k; k--) s = s * 31 + k;
        return s;
    }
    default: {
        unsigned h = p.u;
        while (h > 100) h = h & 1 ? h / 3 : h >> 2;
        return h;
    }
    }
}

BOTH u64 real_op(int i, const input &p) {
    switch (i) {
    case 0: return bits(p.f + p.g);
    case 1: return bits(p.f * p.g);
    case 2: return bits(fmaf(p.f, p.g, p.h));
    case 3: return bits(p.f / p.g);
    case 4: return bits(sqrtf(fabsf(p.f)));
    case 5: return bits(1.f / p.g);
    case 6: return bits((float)p.a);
    case 7: return bits((float)p.u);
    case 8: return bits((float)p.x);
    case 9: return (unsigned)(int)(p.f * 1e-30f + p.s);
    case 10: return bits(rintf(p.g * 1e-20f));
    case 11: return bits(floorf((float)p.s / 7)) ^ bits(ceilf((float)p.ch / 3));
    case 12: return bits(fminf(p.f, p.g)) ^ bits(fmaxf(p.g, p.h));
    case 13: return p.f < p.g ? 1 : p.f == p.g ? 2 : p.f > p.h ? 3 : 4;
    case 14: return __half_as_ushort(__float2half_rn(p.f * 1e-4f));
    case 15: return __bfloat16_as_ushort(__float2bfloat16_rn(p.g));
    case 16: return bits(__half2float(__ushort_as_half(p.us & 0x7bff)));
    case 17: return bits(__bfloat162float(__ushort_as_bfloat16(p.us & 0x7f7f)));
    case 18: return bits(copysignf(p.f, p.g));
    default: {
        double d = (double)p.f * (double)p.g + (double)p.h;
        u64 u;
        memcpy(&u, &d, 8);
        return u;
    }
    }
}

BOTH u64 op(int i, const input &p) { return i < 26 ? integer_op(i, p) : real_op(i - 26, p); }

__global__ void k_both(const input *p, u64 *o) {
    int t = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < N_OPS; i++) o[t * N_OPS + i] = op(i, p[t]);
}

static unsigned random_word() {
    static u64 s = 99;
    s = s * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(s >> 32);
}

static float random_float() { // of moderate size: exponents far out would all overflow
    unsigned b = random_word();
    if ((b >> 23 & 255) > 200) b &= ~(0x40u << 23);
    if ((b >> 23 & 255) < 60) b |= 0x40u << 23;
    float f;
    memcpy(&f, &b, 4);
    return f;
}

static void fill(input *p) {
    memset(p, 0, sizeof(*p));
    p->a = (int)random_word(), p->b = (int)random_word(), p->c = (int)random_word();
    p->u = random_word(), p->v = random_word();
    p->x = (long long)((u64)random_word() << 32 | random_word());
    p->y = (long long)((u64)random_word() << 32 | random_word()) >> (p->c & 40);
    p->w = (u64)random_word() << 32 | random_word();
    p->f = random_float(), p->g = random_float(), p->h = random_float();
    p->s = (short)random_word(), p->us = (unsigned short)random_word();
    p->ch = (signed char)random_word(), p->uc = (unsigned char)random_word();
}

int main() {
    static input h[N];
    static u64 o[N * N_OPS];
    input *d;
    u64 *q;
    cudaStream_t st;
    for (int i = 0; i < N; i++) fill(&h[i]);
    cudaStreamCreateWithFlags(&st, cudaStreamNonBlocking);
    cudaMalloc((void **)&d, sizeof(h));
    cudaMalloc((void **)&q, sizeof(o));
    cudaMemcpyAsync(d, h, sizeof(h), cudaMemcpyHostToDevice, st);
    k_both<<<N / 128, 128, 0, st>>>(d, q);
    cudaMemcpyAsync(o, q, sizeof(o), cudaMemcpyDeviceToHost, st);
    bool ran = cudaStreamSynchronize(st) == cudaSuccess;
    int failed = 0;
    for (int j = 0; j < N_OPS; j++) {
        int bad = 0;
        for (int i = 0; i < N; i++) bad += o[i * N_OPS + j] != op(j, h[i]);
        printf("%s %d - expression %d is the same bits on host and emulator (%d of %d differ)\n",
               ran && !bad ? "ok" : "not ok", j + 1, j, bad, N);
        failed += !ran || bad;
    }
    printf("1..%d\n", N_OPS);
    return failed != 0;
}
