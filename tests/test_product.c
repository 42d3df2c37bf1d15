/* cc -std=c99 -O2 tests/test_product.c -o test_product -lm    The integer kernels of dense bases, every SIMD
   variant against sums in 64 bits: in the bound that >>transform proves, at it, and beyond.
   `test_product short` and `tiny` try fewer shapes. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#include "../latticequant.h"

#include "check.h"
#include "source.h"

enum { TOKENS = 64, ROW_BYTES = 256, MAX = 1 << 27 };

typedef void (*product_fn)(int32_t *, const int16_t *, size_t, size_t, const int16_t *, size_t);
typedef void (*energy_fn)(uint64_t *, const int32_t *, size_t, int);
typedef void (*pair_fn)(int16_t *, const int32_t *, size_t, const uint8_t *);
typedef void (*shift_fn)(int32_t *, size_t, const uint8_t *, const int8_t *);
typedef void (*center_fn)(float *, const int32_t *, const float *, const float *, float, float);

#if LQ__X86
static const product_fn products[3] = {lq__product_c, lq__product_avx2, lq__product_avx512};
static const energy_fn energies[3] = {lq__energy_rows_c, lq__energy_rows_avx2,
                                      lq__energy_rows_avx512};
static const pair_fn pairings[3] = {lq__pair_rows_c, lq__pair_rows_avx2, lq__pair_rows_avx512};
static const shift_fn shifts[3] = {lq__shift_rows_c, lq__shift_rows_avx2, lq__shift_rows_avx512};
static const center_fn centers[3] = {lq__center_floats_c, lq__center_floats_avx2,
                                     lq__center_floats_avx512};
#elif LQ__NEON
static const product_fn products[3] = {lq__product_c, lq__product_neon, lq__product_neon};
static const energy_fn energies[3] = {lq__energy_rows_c, lq__energy_rows_neon,
                                      lq__energy_rows_neon};
static const pair_fn pairings[3] = {lq__pair_rows_c, lq__pair_rows_neon, lq__pair_rows_neon};
static const shift_fn shifts[3] = {lq__shift_rows_c, lq__shift_rows_neon, lq__shift_rows_neon};
static const center_fn centers[3] = {lq__center_floats_c, lq__center_floats_neon,
                                     lq__center_floats_neon};
#else
static const product_fn products[1] = {lq__product_c};
static const energy_fn energies[1] = {lq__energy_rows_c};
static const pair_fn pairings[1] = {lq__pair_rows_c};
static const shift_fn shifts[1] = {lq__shift_rows_c};
static const center_fn centers[1] = {lq__center_floats_c};
#endif
static int levels; /* variants that this CPU runs */

/* Exactly as many bytes as asked for, so that sanitizers see a read beyond; `skip` bytes lie in
   front: only the alignment of the element is promised. */
static void *block(size_t bytes, size_t skip, void **base)
{
    *base = source_alloc(bytes + skip);
    return (char *)*base + skip;
}

static int16_t any16(void)
{
    return (int16_t)((int32_t)source_below(65536) - 32768);
}

static int32_t within(int32_t most)
{
    return (int32_t)source_below((uint32_t)most * 2 + 1) - most;
}

/* ---- products ---- */
/* IN_BOUND: random; SPIKES: one large element; TIGHT: flat with aligned signs, |m| |x| near 2^31;
   WRAPS: any bits. */
enum { IN_BOUND, SPIKES, TIGHT, WRAPS, KINDS };

static double norm2(const int16_t *x, size_t count, size_t stride)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i * stride] * x[i * stride];
    }
    return sum;
}

static int32_t root_of(size_t n)
{
    int32_t root = 1;
    while ((size_t)(root + 1) * (size_t)(root + 1) <= n) {
        root++;
    }
    return root;
}

static void fill_row(int16_t *m, size_t columns, int kind)
{
    int32_t root = root_of(columns);
    size_t square = (size_t)root * (size_t)root;
    for (size_t i = 0; i < columns; i++) {
        switch (kind) {
        case IN_BOUND:
            m[i] = (int16_t)within(32767 / (root + 1));
            break;
        case SPIKES:
            m[i] = 0;
            break;
        case TIGHT:
            m[i] = (int16_t)(i >= square ? 0 : (i & 1 ? -1 : 1) * LQ__MIN(32768 / root, 32767));
            break;
        default:
            m[i] = source_below(2) ? INT16_MIN : any16();
            break;
        }
    }
    if (kind == SPIKES) {
        m[source_below((uint32_t)columns)] = source_below(2) ? INT16_MIN : INT16_MAX;
    }
}

static void fill_column(int16_t *x, size_t columns, int kind, int sign)
{
    int32_t root = root_of(columns);
    size_t square = (size_t)root * (size_t)root;
    for (size_t i = 0; i < columns; i++) {
        int32_t v;
        switch (kind) {
        case IN_BOUND:
            v = within(LQ__MIN(65535 / (root + 1), 32767));
            break;
        case SPIKES:
            v = i < 3 ? (source_below(2) ? 32767 : -32768) : within(1);
            break;
        case TIGHT:
            v = i >= square ? 0 : LQ__MIN(65535 / root, 32767) * ((i & 1) ? -sign : sign);
            break;
        default:
            v = source_below(2) ? INT16_MIN : any16();
            break;
        }
        x[i * TOKENS] = (int16_t)v;
    }
}

static int64_t largest; /* |sum| seen in the bound */

static void reference(int32_t *want, const int16_t *matrix, size_t stride, size_t rows,
                      const int16_t *x, size_t columns, int kind)
{
    int inside = 1;
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < TOKENS; t++) {
            int64_t sum = 0;
            for (size_t i = 0; i < columns; i++) {
                sum += matrix[r * stride + i] * x[i * TOKENS + t];
            }
            uint32_t wrapped = (uint32_t)(uint64_t)sum;
            memcpy(want + r * TOKENS + t, &wrapped, 4);
            sum = sum < 0 ? -sum : sum;
            inside &= sum < (int64_t)1 << 31;
            largest = kind == WRAPS ? largest : LQ__MAX(largest, sum);
        }
    }
    CHECK(inside || kind == WRAPS);
}

static void test_product(size_t rows, size_t columns, int kind)
{
    size_t even = columns + (columns & 1);
    size_t stride = even + 2 * source_below(3);
    size_t matrix_bytes = ((rows - 1) * stride + even) * 2; /* nothing behind the last row */
    void *base[4];
    int16_t *matrix = (int16_t *)block(matrix_bytes, 2, base);
    int16_t *x = (int16_t *)block(columns * TOKENS * 2, 0, base + 1);
    int16_t *pairs = (int16_t *)block(even * TOKENS * 2, 2, base + 2);
    int32_t *dst = (int32_t *)block(rows * ROW_BYTES, 4, base + 3);
    int32_t *want = (int32_t *)source_alloc(rows * ROW_BYTES);
    int kept = 1;
    memset(matrix, 0x77, matrix_bytes);
    for (size_t i = 0; i < rows; i++) {
        fill_row(matrix + i * stride, columns, kind);
        matrix[i * stride + even - 1] = columns & 1 ? 0 : matrix[i * stride + even - 1];
        kept &= kind == WRAPS || norm2(matrix + i * stride, columns, 1) <= 0x1p30;
    }
    for (size_t t = 0; t < TOKENS; t++) {
        fill_column(x + t, columns, kind, t & 1 ? 1 : -1);
        kept &= kind == WRAPS || norm2(x + t, columns, TOKENS) < 0x1p32;
    }
    CHECK(kept);
    memset(pairs, 0, even * TOKENS * 2);
    for (size_t i = 0; i < columns; i++) {
        for (size_t t = 0; t < TOKENS; t++) {
            pairs[(i / 2 * TOKENS + t) * 2 + (i & 1)] = x[i * TOKENS + t];
        }
    }
    reference(want, matrix, stride, rows, x, columns, kind);
    for (int v = 0; v < levels; v++) {
        memset(dst, 0x5a, rows * ROW_BYTES);
        products[v](dst, matrix, stride, rows, pairs, columns);
        CHECK(memcmp(dst, want, rows * ROW_BYTES) == 0);
    }
    for (size_t i = 0; i < 4; i++) {
        free(base[i]);
    }
    free(want);
}

/* ---- products of pages that hold mostly zeros ---- */
static void fill_few(int16_t *pairs, size_t columns, uint32_t share, int falling)
{
    memset(pairs, 0, (columns + 1) / 2 * ROW_BYTES);
    for (size_t i = 0; i < columns; i++) {
        uint32_t here = falling ? (uint32_t)(1000 * (columns - i) / columns) * share / 500 : share;
        for (size_t t = 0; t < TOKENS; t++) {
            int16_t x = source_below(1000) < here ? any16() : 0;
            pairs[(i / 2 * TOKENS + t) * 2 + (i & 1)] = x;
        }
    }
}

/* `share` of 1000 numbers are not 0; `falling`: most in front, as coefficients are. */
static void test_few(size_t rows, size_t columns, uint32_t share, int falling)
{
    size_t room = (falling ? 20 : 56) * (columns + (columns & 1));
    size_t even = columns + (columns & 1);
    size_t stride = even + 2 * source_below(3);
    size_t matrix_bytes = ((rows - 1) * stride + even) * 2;
    void *base[4];
    int16_t *matrix = (int16_t *)block(matrix_bytes, 2, base);
    int16_t *pairs = (int16_t *)block(even * TOKENS * 2, 2, base + 1);
    int32_t *dst = (int32_t *)block(rows * ROW_BYTES, 4, base + 2);
    int32_t *scratch = (int32_t *)block(room * 4, 4, base + 3);
    int32_t *want = (int32_t *)source_alloc(rows * ROW_BYTES);
    for (size_t i = 0; i < matrix_bytes / 2; i++) {
        matrix[i] = any16();
    }
    for (size_t r = 0; r < rows && columns & 1; r++) {
        matrix[r * stride + columns] = 0;
    }
    fill_few(pairs, columns, share, falling);
    lq__product_c(want, matrix, stride, rows, pairs, columns);
    for (int v = 0; v < levels; v++) {
        (void)lq_cpu_limit(v);
        memset(dst, 0x5a, rows * ROW_BYTES);
        memset(scratch, 0x5a, room * 4);
        lq__product_of_page(dst, matrix, stride, rows, pairs, columns, scratch, room);
        CHECK(memcmp(dst, want, rows * ROW_BYTES) == 0);
    }
    (void)lq_cpu_limit(-1);
    for (size_t i = 0; i < 4; i++) {
        free(base[i]);
    }
    free(want);
}

static void test_few_all(int tiny)
{
    static const uint32_t shares[6] = {0, 1, 20, 100, 250, 1000};
    static const size_t shapes[8][2] = {{1, 128},  {3, 300},  {64, 129},  {65, 512},
                                        {100, 201}, {257, 127}, {70, 1601}, {192, 126}};
    for (size_t i = 0; i < 8; i++) {
        for (size_t k = 0; k < 12 && (!tiny || i < 5); k++) {
            test_few(shapes[i][0], shapes[i][1], shares[k / 2], k & 1);
        }
    }
    int16_t *pairs = (int16_t *)source_zeros(200 * ROW_BYTES);
    CHECK(lq__few_begin(pairs, 200, 200) == 0); /* all are 0; too few pairs; all are not 0: */
    CHECK(lq__few_begin(pairs, 63, 63) == 63);
    CHECK(lq__few_begin(pairs, 200, 70) == 130);
    fill_few(pairs, 400, 1000, 0);
    CHECK(lq__few_begin(pairs, 200, 200) == 200);
    memset(pairs + 100 * 2 * TOKENS, 0, 100 * ROW_BYTES);
    CHECK(lq__few_begin(pairs, 200, 200) == 100);
    free(pairs);
}

/* ---- energies ---- */
static void test_energy(size_t count, int shift, int extreme)
{
    void *base[2];
    int32_t *rows = (int32_t *)block(count * ROW_BYTES, 4, base);
    uint64_t *energy = (uint64_t *)block(TOKENS * 8, 8, base + 1);
    uint64_t start[TOKENS];
    uint64_t want[TOKENS];
    const int32_t most = (1 << 24) - 1;
    for (size_t i = 0; i < TOKENS; i++) {
        start[i] = source_u64() >> 12;
        want[i] = start[i];
    }
    for (size_t i = 0; i < count * TOKENS; i++) {
        int64_t x = extreme ? (source_below(2) ? most : -most) : within(most);
        x = x * ((int64_t)1 << shift) + (int64_t)source_below(1u << shift);
        x = LQ__MIN(x, INT32_MAX);
        rows[i] = (int32_t)LQ__MAX(x, INT32_MIN);
        x = rows[i] >> shift;
        want[i % TOKENS] += (uint64_t)(x * x);
    }
    for (int v = 0; v < levels; v++) {
        memcpy(energy, start, sizeof start);
        energies[v](energy, rows, count, shift);
        CHECK(memcmp(energy, want, sizeof want) == 0);
    }
    free(base[0]);
    free(base[1]);
}

/* ---- pairs ---- */
static int32_t any32(int edges)
{
    static const int32_t edge[14] = {
        INT32_MIN, INT32_MIN + 1, -(1 << 28), 1 - (1 << 28), -32768,        -32767,   -1, 0,
        1,         32767,         1 << 28,    (1 << 28) - 1, INT32_MAX - 1, INT32_MAX};
    uint32_t u = (uint32_t)source_u64();
    int32_t bits;
    memcpy(&bits, &u, 4);
    return edges && source_below(2) ? edge[source_below(14)] : bits >> source_below(32);
}

static void test_pairs(size_t count, int edges)
{
    size_t bytes = (count + 1) / 2 * ROW_BYTES;
    void *base[2];
    int32_t *rows = (int32_t *)block(count * ROW_BYTES, 4, base);
    int16_t *pairs = (int16_t *)block(bytes, 2, base + 1);
    int16_t *want = (int16_t *)source_zeros(bytes);
    uint8_t shift[TOKENS];
    for (size_t i = 0; i < TOKENS; i++) {
        shift[i] = (uint8_t)(edges ? 30 * (i & 1) : source_below(31));
    }
    for (size_t i = 0; i < count * TOKENS; i++) {
        uint32_t s = shift[i % TOKENS];
        rows[i] = any32(edges);
        int64_t x = ((int64_t)rows[i] + (s ? (int64_t)1 << (s - 1) : 0)) >> s;
        x = LQ__MIN(x, 32767);
        want[(i / 128 * TOKENS + i % TOKENS) * 2 + (i / TOKENS & 1)] = (int16_t)LQ__MAX(x, -32767);
    }
    for (int v = 0; v < levels; v++) {
        memset(pairs, 0x5a, bytes);
        pairings[v](pairs, rows, count, shift);
        CHECK(memcmp(pairs, want, bytes) == 0);
    }
    free(base[0]);
    free(base[1]);
    free(want);
}

/* ---- shifts ---- */
static int32_t shifted(int64_t v, int s)
{
    if (s < 0) v = s < -62 ? 0 : (v + ((int64_t)1 << (-s - 1))) >> -s;
    for (; s > 0; s--) {
        v = LQ__MIN(2 * v, 2 * MAX);
        v = LQ__MAX(v, -2 * MAX);
    }
    v = LQ__MIN(v, MAX);
    return (int32_t)LQ__MAX(v, -MAX);
}

static void test_shift(size_t count, int edges)
{
    void *base[2];
    int32_t *rows = (int32_t *)block(count * ROW_BYTES, 4, base);
    int8_t *exponent = (int8_t *)block(count, 1, base + 1);
    int32_t *src = (int32_t *)source_alloc(count * ROW_BYTES);
    int32_t *want = (int32_t *)source_alloc(count * ROW_BYTES);
    uint8_t up[TOKENS];
    for (size_t i = 0; i < TOKENS; i++) {
        up[i] = (uint8_t)source_below(41);
    }
    for (size_t i = 0; i < count; i++) {
        exponent[i] = (int8_t) - (int32_t)source_below(41);
    }
    for (size_t i = 0; i < count * TOKENS; i++) {
        src[i] = any32(edges);
        want[i] = shifted(src[i], up[i % TOKENS] + exponent[i / TOKENS]);
    }
    for (int v = 0; v < levels; v++) {
        memcpy(rows, src, count * ROW_BYTES);
        shifts[v](rows, count, up, exponent);
        CHECK(memcmp(rows, want, count * ROW_BYTES) == 0);
    }
    free(base[0]);
    free(base[1]);
    free(src);
    free(want);
}

/* Every sum of shifts, far beyond those in use, on the edges. */
static void test_shift_all(void)
{
    for (int e = -128; e < 128; e++) {
        int8_t exponent = (int8_t)e;
        for (int u = 0; u < 256; u += TOKENS) {
            int32_t src[TOKENS];
            int32_t want[TOKENS];
            uint8_t up[TOKENS];
            int same = 1;
            for (int i = 0; i < TOKENS; i++) {
                int s = LQ__MAX(u + i + e, -40);
                up[i] = (uint8_t)(u + i);
                src[i] = any32(1);
                want[i] = shifted(src[i], LQ__MIN(s, 40));
            }
            int32_t row[TOKENS];
            for (int v = 0; v < levels; v++) {
                memcpy(row, src, sizeof row);
                shifts[v](row, 1, up, &exponent);
                same &= memcmp(row, want, sizeof want) == 0;
            }
            CHECK(same);
        }
    }
}

/* ---- floats ---- */
/* Within three roundings of the exact number, in every variant. */
static void test_center(void)
{
    int32_t row[TOKENS];
    float unit[TOKENS];
    float gain[TOKENS];
    float scale = ldexpf(1, (int)source_below(12) - 6);
    float center = (float)(source_gauss() * 100);
    for (int i = 0; i < TOKENS; i++) {
        row[i] = any32(1);
        unit[i] = (float)(source_uniform() * 1e-6);
        gain[i] = i % 7 ? (float)source_uniform() : 0;
    }
    float dst[TOKENS];
    for (int v = 0; v < levels; v++) {
        int bad = 0;
        memset(dst, 0xff, sizeof dst);
        centers[v](dst, row, unit, gain, scale, center);
        for (int i = 0; i < TOKENS; i++) {
            double a = (double)row[i] * (double)unit[i] * (double)scale;
            double b = (double)center * (double)gain[i];
            bad += !(fabs((double)dst[i] - (a + b)) <= 3 * 0x1p-24 * (fabs(a) + fabs(b)));
        }
        CHECK(bad == 0);
    }
}

int main(int argc, char **argv)
{
    static const size_t large[8][2] = {{64, 64},  {192, 192}, {100, 961}, {13, 1920},
                                       {7, 8191}, {5, 8192},  {1921, 65}, {8192, 3}};
    int is_short = argc > 1 && strcmp(argv[1], "short") == 0;
    int tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    size_t most = tiny ? 7 : is_short ? 19 : 37;
    int many = tiny ? 1 : is_short ? 4 : 8;
    levels = LQ__X86 ? lq_cpu_limit(-1) + 1 : 1;
    for (size_t rows = 1; rows <= most; rows++) {
        for (size_t columns = 1; columns <= most; columns++) {
            for (int kind = 0; kind < KINDS; kind++) {
                test_product(rows, columns, kind);
            }
        }
        for (int kind = 0; kind < 2; kind++) {
            test_pairs(rows, kind);
            test_shift(rows, kind);
        }
        for (int i = 0; i < 8; i++) {
            test_energy(rows, i, i == 7);
        }
    }
    for (int i = 0; i < many; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            test_product(large[i][0], large[i][1], kind);
        }
    }
    test_few_all(tiny);
    CHECK(tiny || largest > 0x7f000000); /* the bound was reached */
    test_energy(tiny ? 64 : 8192, 0, 1);
    test_energy(tiny ? 64 : 8192, 3, 1);
    test_shift_all();
    for (int i = 0; i < 50; i++) {
        test_center();
    }
    return check_report("test_product");
}
