/* cc -std=c99 -O2 tests/test_warm_kernels.c -o test_warm_kernels -lm    Attention's kernels on coded
   pages at every SIMD level against the C code: any numbers, 1 to 4 rows, 1 to 8 pages. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#include "../latticequant.h"

#include "check.h"
#include "source.h"

#include <math.h>

enum { ROWS = 140, COUNT = 128, TABLES = 20, PAGE = 8 * 64 };

static int16_t values[8][ROWS * 64];
static uint16_t row[COUNT], look[COUNT];
static float table[TABLES][32];
static float q[8 * COUNT], weights[8 * PAGE];

static float number(void) /* within +-1 */
{
    return (float)(int32_t)source_below(2001) / 1000.0f - 1.0f;
}

/* Mostly small numbers; shifts of y as those of centroids are. */
static void make(lq__warm_rows *m)
{
    size_t i, p;
    for (p = 0; p < 8; p++) {
        for (i = 0; i < ROWS * 64; i++) {
            uint32_t far = source_below(50) == 0;
            values[p][i] =
                (int16_t)(far ? (int)source_below(65536) - 32768 : (int)source_below(33) - 16);
        }
        m->values[p] = values[p];
    }
    for (i = 0; i < TABLES; i++) {
        float shift = (float)source_below(100) / 400.0f;
        for (int k = -16; k < 16; k++) {
            table[i][k & 31] = k > 0 ? (float)k - shift : k < 0 ? (float)k + shift : 0.0f;
        }
    }
    for (i = 0; i < COUNT; i++) {
        row[i] = (uint16_t)source_below(ROWS);
        look[i] = (uint16_t)source_below(TABLES);
    }
    for (i = 0; i < 8 * COUNT; i++) {
        q[i] = number();
    }
    m->row = row;
    m->look = look;
    m->y = (const float(*)[32])table;
    m->count = 1 + source_below(COUNT);
    m->pages = 1 + source_below(8);
}

/* The error of a sum is measured by the sum of magnitudes. */
static void check_dots(const lq__warm_kernels *want, const lq__warm_kernels *got,
                       const lq__warm_rows *m, size_t rows)
{
    float a[PAGE], b[PAGE], shift[8];
    size_t i, j;
    for (i = 0; i < 8; i++) {
        shift[i] = number();
    }
    want->dots(a, m, 0, q, COUNT, shift, rows);
    got->dots(b, m, 0, q, COUNT, shift, rows);
    for (j = 0; j < rows * 64; j++) {
        double all = 1;
        for (i = 0; i < m->count; i++) {
            all += fabs((double)values[0][row[i] * 64 + j % 64]);
        }
        CHECK(fabs((double)a[j] - (double)b[j]) < 2e-6 * all);
    }
}

/* Weights times gains, which each level leaves in the order that its sums want, and those sums. */
static void check_sums(const lq__warm_kernels *kernels, const lq__warm_rows *m, size_t rows,
                       const int16_t *gain, int32_t mean, float *acc, float *brought)
{
    static float w[8 * PAGE];
    memcpy(w, weights, sizeof w);
    memset(acc, 0, 4 * 8 * COUNT);
    memset(brought, 0, 4 * 16);
    for (size_t p = 0; p < m->pages; p++) {
        kernels->gains(w + p * PAGE, rows, gain, mean, brought, brought + 8);
    }
    kernels->sums(acc, COUNT, m, w, rows);
}

static void check_gains(const lq__warm_kernels *want, const lq__warm_kernels *got,
                        const lq__warm_rows *m, size_t rows)
{
    static float a[8 * COUNT], b[8 * COUNT];
    float c[16], d[16];
    int32_t mean = (int32_t)source_below(81) - 40;
    size_t i, p, r, t;
    int16_t gain[64];
    for (i = 0; i < 64; i++) {
        gain[i] = (int16_t)((int)source_below(41) - 20);
    }
    for (i = 0; i < 8 * PAGE; i++) {
        weights[i] = (float)source_below(1001) / 1000.0f; /* as of a softmax: none is negative */
    }
    check_sums(want, m, rows, gain, mean, a, c);
    check_sums(got, m, rows, gain, mean, b, d);
    for (r = 0; r < rows; r++) {
        CHECK(fabs((double)c[r] - (double)d[r]) <= 1e-5 * (double)c[r]);
        CHECK(fabs((double)c[8 + r] - (double)d[8 + r]) <= 1e-5 * (double)c[8 + r]);
        for (i = 0; i < m->count; i++) {
            double all = 1e-30;
            for (p = 0; p < m->pages; p++) {
                for (t = 0; t < 64; t++) {
                    all += fabs((double)values[p][row[i] * 64 + t]) *
                           (double)weights[p * PAGE + r * 64 + t] * exp2((gain[t] + mean) / 4.0);
                }
            }
            CHECK(fabs((double)a[r * COUNT + i] - (double)b[r * COUNT + i]) <= 1e-5 * all);
        }
    }
}

static void check_rest(const lq__warm_kernels *want, const lq__warm_kernels *got)
{
    static int16_t a[9 * 64], b[9 * 64];
    const int16_t *coset = source_below(2) ? values[1] : NULL;
    size_t rows = source_below(10);
    size_t dims = 8 * source_below(COUNT / 8 + 1);
    int8_t high[COUNT], low[COUNT];
    double all = 1e-30;
    memcpy(a, values[0], sizeof a);
    memcpy(b, values[0], sizeof b);
    want->fold(a, coset, rows);
    got->fold(b, coset, rows);
    CHECK(memcmp(a, b, sizeof a) == 0);
    for (size_t i = 0; i < COUNT; i++) {
        high[i] = (int8_t)((int)source_below(256) - 128);
        low[i] = (int8_t)((int)source_below(256) - 128);
    }
    for (size_t i = 0; i < dims; i++) {
        all += fabs((double)q[i] * high[i]) + fabs((double)q[COUNT + i] * low[i]);
    }
    CHECK(fabs((double)want->bound(q, q + COUNT, high, low, dims) -
               (double)got->bound(q, q + COUNT, high, low, dims)) <= 1e-5 * all);
}

int main(void)
{
    int levels = lq_cpu_limit(-1);
    int run, level;
    for (run = 0; run < 12; run++) {
        lq__warm_rows m;
        make(&m);
        for (level = 1; level <= levels; level++) {
            const lq__warm_kernels *want, *got;
            (void)lq_cpu_limit(0);
            want = lq__warm_of_level();
            (void)lq_cpu_limit(level);
            got = lq__warm_of_level();
            CHECK(want->dots != got->dots);
            for (size_t rows = 1; rows <= 4; rows++) {
                check_dots(want, got, &m, rows);
                check_gains(want, got, &m, rows);
                check_rest(want, got);
            }
        }
    }
    (void)lq_cpu_limit(-1);
    CHECK(levels >= 0);
    return check_report("test_warm_kernels");
}
