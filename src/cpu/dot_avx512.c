/* dot_avx512.c - product sums of few rows over tiles, with f32 FMA or with BF16 dot products.
 *
 * VDPBF16PS adds two exact products to an f32.  It reads subnormal BF16 numbers as zero;
 * images of E4M3 are never subnormal, and weights or activations below 2^-126 do not show. */
#include "cpu/simd_avx512.h"

enum {
    DOT_ROWS = 12, /* 24 accumulators and 4 columns, nearly all 32 registers; 8 rows where
                      the tables of E4M3 are needed beside them */
    PREFETCH_BYTES = 4096,
};

/* 0..7 subnormal: m * 2^-9; then 8 mantissas an exponent, exponent 120 above E4M3's. */
#define NORMAL8(e)    NORMAL2(e, 0), NORMAL2(e, 2), NORMAL2(e, 4), NORMAL2(e, 6)
#define NORMAL2(e, m) BYTE((e) + 120, m), BYTE((e) + 120, (m) + 1)
#define ALL_CODES                                                                                  \
    BYTE(0, 0), BYTE(118, 0), BYTE(119, 0), BYTE(119, 4), BYTE(120, 0), BYTE(120, 2),              \
        BYTE(120, 4), BYTE(120, 6), NORMAL8(1), NORMAL8(2), NORMAL8(3), NORMAL8(4), NORMAL8(5),    \
        NORMAL8(6), NORMAL8(7), NORMAL8(8), NORMAL8(9), NORMAL8(10), NORMAL8(11), NORMAL8(12),     \
        NORMAL8(13), NORMAL8(14), NORMAL2(15, 0), NORMAL2(15, 2), NORMAL2(15, 4), BYTE(135, 6),    \
        BYTE(255, 4) /* NaN */
#define BYTE(exponent, m) (uint8_t)((exponent) >> 1)
const uint8_t cpu_e4m3_hi[128] = {ALL_CODES};
#undef BYTE
#define BYTE(exponent, m) (uint8_t)((((exponent)&1) << 7) | ((m) << 4))
const uint8_t cpu_e4m3_lo[128] = {ALL_CODES};
#undef BYTE

/* A form of the kernel; all members are constants in each instance. */
typedef struct form {
    fl_dtype t;
    bool pairs;  /* x is BF16 */
    bool sparse; /* 2:4 tiles */
    int rows;
    bool picks; /* 2:4 tiles of E4M3, one row */
} form;

typedef __m512 sums[DOT_ROWS][2][2]; /* row, tile, accumulator */

/* Where group g of x begins, in the first row of the block. */
typedef struct place {
    const void *x;
    int64_t ldx, g;
} place;

INLINE void add_pairs(sums acc, const place *at, const int rows, int tile, const int group,
                      const __m512i pair[2]) {
    const uint16_t *x = (const uint16_t *)at->x + 4 * group;
    UNROLL
    for (int m = 0; m < rows; m++, x += at->ldx) {
        UNROLL
        for (int h = 0; h < 2; h++)
            acc[m][tile][h] =
                _mm512_dpbf16_ps(acc[m][tile][h], (__m512bh)pair[h], broadcast_pair(x + 2 * h));
    }
}

INLINE void add_columns(sums acc, const place *at, const int rows, int tile, const int group,
                        const __m512 col[CPU_GROUP]) {
    const float *x = (const float *)at->x + 4 * group;
    UNROLL
    for (int m = 0; m < rows; m++, x += at->ldx) {
        UNROLL
        for (int k = 0; k < CPU_GROUP; k++)
            acc[m][tile][k / 2] =
                _mm512_fmadd_ps(_mm512_set1_ps(x[k ^ 1]), col[k ^ 1], acc[m][tile][k / 2]);
    }
}

/* Pair of groups g, g+1 with picks. */
INLINE void add_picked(__m512 acc[2], const void *all, const place *at, const bool pairs,
                       const uint8_t *unit, const e4m3_lut *lut) {
    const float *picks = (const float *)all + (at->g >> 1) * CPU_PICKS;
    const __m512 table[2] = {_mm512_loadu_ps(picks), _mm512_loadu_ps(picks + 16)};
    const int64_t p = cpu_pair_of(at->g);
    __m512i name = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(unit + p * CPU_TILE)));
    __m512i kept[2];
    load_pairs(kept, unit + CPU_NAMES + p * 64, FL_DTYPE_E4M3, lut);
    UNROLL
    for (int i = 0; i < 2; i++) {
        const __m512i which = i ? _mm512_srli_epi32(name, 4) : name, seven = _mm512_set1_epi32(7);
        __m512 x0 = _mm512_permutexvar_ps(which, table[0]);
        __m512 x1 = _mm512_permutexvar_ps(which, table[1]);
        if (pairs) {
            acc[0] = _mm512_dpbf16_ps(acc[0], (__m512bh)kept[i], (__m512bh)_mm512_castps_si512(x0));
            acc[1] = _mm512_dpbf16_ps(acc[1], (__m512bh)kept[i], (__m512bh)_mm512_castps_si512(x1));
            continue;
        }
        const float *x = (const float *)at->x + 4 * i;
        const __mmask16 both0 = _mm512_testn_epi32_mask(which, seven);
        const __mmask16 both1 =
            _mm512_cmpeq_epi32_mask(_mm512_and_si512(which, seven), _mm512_set1_epi32(5));
        __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(kept[i], 16));
        __m512 w1 =
            _mm512_castsi512_ps(_mm512_and_si512(kept[i], _mm512_set1_epi32((int)0xffff0000u)));
        acc[0] = _mm512_mask3_fmadd_ps(_mm512_set1_ps(x[1]), w1, acc[0], both0);
        acc[0] = _mm512_fmadd_ps(x0, w0, acc[0]);
        acc[1] = _mm512_fmadd_ps(x1, w1, acc[1]);
        acc[1] = _mm512_mask3_fmadd_ps(_mm512_set1_ps(x[2]), w0, acc[1], both1);
    }
}

/* The group at `at`, or two groups of 2:4 weights, of the tile at w. */
INLINE void add_group(sums acc, const void *picks, const place *at, const form f, int tile,
                      const uint8_t *w, const e4m3_lut *lut) {
    if (f.picks) {
        add_picked(acc[0][tile], picks, at, f.pairs, cpu_unit_of(w, f.t, at->g), lut);
    } else if (f.sparse) {
        __m512i pair[2][2];
        load_kept(pair, cpu_unit_of(w, f.t, at->g), cpu_pair_of(at->g), f.t, lut);
        UNROLL
        for (int i = 0; i < 2; i++) {
            __m512 col[CPU_GROUP];
            if (!f.pairs) pairs_to_columns(col, pair[i]);
            if (f.pairs)
                add_pairs(acc, at, f.rows, tile, i, pair[i]);
            else
                add_columns(acc, at, f.rows, tile, i, col);
        }
    } else if (f.pairs) {
        __m512i pair[2];
        load_pairs(pair, w + at->g * cpu_group_bytes(f.t), f.t, lut);
        add_pairs(acc, at, f.rows, tile, 0, pair);
    } else {
        __m512 col[CPU_GROUP];
        load_columns(col, w + at->g * cpu_group_bytes(f.t), f.t, lut);
        add_columns(acc, at, f.rows, tile, 0, col);
    }
}

/* The sums of block b, or of all columns, into y. */
INLINE void put_block(const cpu_dot *d, int64_t row, int64_t tile, const int rows, const int tiles,
                      int64_t b, sums acc) {
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int i = 0; i < tiles; i++)
            put_sum(d->y + (row + m) * d->ldy + (tile + i) * CPU_TILE,
                    _mm512_add_ps(acc[m][i][0], acc[m][i][1]), d->scales, row + m, tile + i, b);
    }
}

INLINE void dot_block(const cpu_dot *d, int64_t row, int64_t tile, const int tiles, const form f) {
    const int64_t tile_bytes = cpu_tile_bytes(f.t, d->groups, f.sparse);
    const int64_t bytes = f.sparse ? cpu_unit_bytes(f.t) / (CPU_UNIT / 2) : cpu_group_bytes(f.t);
    const int64_t span = cpu_dot_span(d), step = f.sparse ? 2 : 1;
    const uint8_t *w = d->w + tile * tile_bytes;
    const e4m3_lut lut = load_lut(d->w_nan);
    /* Past the end of its tile the prefetch goes on in the tile that is read next: of two
     * read side by side, not the neighbour but the one after it. */
    const int64_t jump = (tiles - 1) * tile_bytes;
    const uint8_t *ahead = w + PREFETCH_BYTES, *end = w + tile_bytes;
    const int64_t x_bytes = f.pairs ? 2 : 4;
    const char *x = (const char *)d->x + row * d->ldx * x_bytes;
    for (int64_t begin = 0, b = 0; begin < d->groups; begin += span, b++) {
        sums acc;
        UNROLL
        for (int m = 0; m < f.rows; m++) {
            UNROLL
            for (int i = 0; i < tiles; i++) acc[m][i][0] = acc[m][i][1] = _mm512_setzero_ps();
        }
        for (int64_t g = begin; g < fl_min_i64(begin + span, d->groups); g += step) {
            const uint8_t *p = ahead + (ahead < end ? 0 : jump);
            const place at = {x, d->ldx, g};
            UNROLL
            for (int i = 0; i < tiles; i++, p += tile_bytes) {
                _mm_prefetch((const char *)p, _MM_HINT_T0);
                if (bytes > 64) _mm_prefetch((const char *)(p + 64), _MM_HINT_T0);
                if (bytes > 128) _mm_prefetch((const char *)(p + 128), _MM_HINT_T0);
                add_group(acc, d->picks, &at, f, i, w + i * tile_bytes, &lut);
            }
            ahead += bytes;
            x += step * CPU_GROUP * x_bytes;
        }
        put_block(d, row, tile, f.rows, tiles, b, acc);
    }
}

/* Few rows: their sums are few chains of dependent additions, so two tiles at once. */
INLINE void dot_rows(const cpu_dot *d, int64_t row, const form f) {
    int64_t tile = 0;
    if (f.rows <= 2) {
        for (; tile + 2 <= d->n_tiles; tile += 2) dot_block(d, row, tile, 2, f);
    }
    for (; tile < d->n_tiles; tile++) dot_block(d, row, tile, 1, f);
}

/* Blocks of 12, 8, 6, 4, 3, 2 or 1 rows: an instance of the kernel for each. */
INLINE void dot_form(const cpu_dot *d, fl_dtype t, const bool pairs, const bool sparse) {
    if (d->picks && sparse && t == FL_DTYPE_E4M3) {
        dot_rows(d, 0, (form){t, pairs, true, 1, true});
        return;
    }
    const bool wide = (pairs || t != FL_DTYPE_E4M3) && !sparse;
    for (int64_t row = 0, n; row < d->m; row += n) {
        n = d->m - row;
        if (n >= DOT_ROWS && wide)
            dot_rows(d, row, (form){t, pairs, sparse, (int)(n = DOT_ROWS), false});
        else if (n >= 8)
            dot_rows(d, row, (form){t, pairs, sparse, (int)(n = 8), false});
        else if (n >= 6)
            dot_rows(d, row, (form){t, pairs, sparse, (int)(n = 6), false});
        else if (n >= 4)
            dot_rows(d, row, (form){t, pairs, sparse, (int)(n = 4), false});
        else if (n == 3)
            dot_rows(d, row, (form){t, pairs, sparse, 3, false});
        else if (n == 2)
            dot_rows(d, row, (form){t, pairs, sparse, 2, false});
        else
            dot_rows(d, row, (form){t, pairs, sparse, 1, false});
    }
}

void cpu_dot_avx512(const cpu_dot *d) {
    const bool pairs = d->x_dtype == FL_DTYPE_BF16, e4m3 = d->w_dtype == FL_DTYPE_E4M3;
    if (d->w_dtype == FL_DTYPE_F16)
        dot_form(d, FL_DTYPE_F16, false, false);
    else if (d->sparse24 && e4m3 && pairs)
        dot_form(d, FL_DTYPE_E4M3, true, true);
    else if (d->sparse24 && e4m3)
        dot_form(d, FL_DTYPE_E4M3, false, true);
    else if (d->sparse24 && pairs)
        dot_form(d, FL_DTYPE_BF16, true, true);
    else if (d->sparse24)
        dot_form(d, FL_DTYPE_BF16, false, true);
    else if (e4m3 && pairs)
        dot_form(d, FL_DTYPE_E4M3, true, false);
    else if (e4m3)
        dot_form(d, FL_DTYPE_E4M3, false, false);
    else if (pairs)
        dot_form(d, FL_DTYPE_BF16, true, false);
    else
        dot_form(d, FL_DTYPE_BF16, false, false);
}
