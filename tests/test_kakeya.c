/* cc -std=c99 -O2 tests/test_kakeya.c -o test_kakeya -lm    KakeyaLattice's vectors: bits as
   its authors count them and as they are, squared errors of Gaussian rows, every point of small
   boxes, hostile bytes. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#include "../latticequant.h"

#include "check.h"
#include "source.h"

enum { ROWS = 2048, DIMS = 128 };

static void test_bits(void)
{
    static const uint32_t q[4] = {4, 10, 38, 152};
    static const size_t d4[4] = {416, 576, 832, 1088}, e8[4] = {448, 608, 848, 1104};
    lq_kakeya_desc r = {LQ_E8, 37};
    CHECK(lq_kakeya_claimed_bits(&r, DIMS) == 832);
    r.q_range = 38;
    CHECK(lq_kakeya_claimed_bits(&r, 512) == 3296);
    for (int i = 0; i < 4; i++) {
        r.q_range = q[i];
        r.quantizer = LQ_D4;
        CHECK(lq_kakeya_claimed_bits(&r, DIMS) == d4[i]);
        CHECK(8 * lq_kakeya_row_bytes(&r, DIMS) == d4[i]);
        r.quantizer = LQ_E8;
        CHECK(lq_kakeya_claimed_bits(&r, DIMS) == e8[i]);
        CHECK(8 * lq_kakeya_row_bytes(&r, DIMS) == e8[i] - (i < 2 ? 16 : 0));
    }
}

static void test_errors(void)
{
    /* published ones let the clamp leave the lattice; within the box E8 has up to 0.8 % more */
    static const double d4[4] = {5.478e-2, 8.773e-3, 6.073e-4, 3.795e-5};
    static const double e8[4] = {3.625e-2, 5.805e-3, 4.018e-4, 2.516e-5};
    static const uint32_t q[4] = {4, 10, 38, 152};
    float *x = source_gaussians(ROWS * DIMS), *y = source_gaussians(ROWS * DIMS);
    uint8_t *code = (uint8_t *)source_zeros(ROWS * 256), ws[4096];
    for (int i = 0; i < 8; i++) {
        lq_kakeya_desc r = {i < 4 ? LQ_D4 : LQ_E8, q[i % 4]};
        double e = 0, all = 0, want = i < 4 ? d4[i] : e8[i - 4];
        CHECK(!lq_kakeya_encode(&r, code, ROWS * 256, x, ROWS, DIMS, ws, sizeof ws));
        CHECK(!lq_kakeya_decode(&r, y, code, ROWS * 256, ROWS, DIMS, ws, sizeof ws));
        for (size_t j = 0; j < ROWS * DIMS; j++) {
            double a = (double)x[j], d = a - (double)y[j];
            e += d * d;
            all += a * a;
        }
        CHECK(fabs(e / all / want - 1) < 0.01);
        for (int j = 0; j < 200; j++) { /* any bytes: a status, and finite numbers */
            for (size_t b = 0; b < 512; b++) {
                code[b] = (uint8_t)source_u64();
            }
            size_t bytes = source_below(512);
            int status = lq_kakeya_decode(&r, y, code, bytes, 1, DIMS, ws, sizeof ws);
            CHECK(status == LQ_OK || status == LQ_E_DATA || status == LQ_E_SPACE);
            CHECK(status || source_finite_all(y, DIMS));
        }
    }
    free(x);
    free(y);
    free(code);
}

/* Every number of a small box is a lattice point in it, whose number it is. */
static void test_boxes(void)
{
    for (uint32_t q = 1; q <= 4; q++) {
        for (int i = 0; i < 2; i++) {
            lq_kakeya_desc d = {i ? LQ_E8 : LQ_D4, i ? (q + 1) / 2 : q};
            lq__kakeya k;
            CHECK(lq__kakeya_resolve(&k, &d, DIMS));
            lq__wide code = {{0, 0, 0}};
            for (; code.word[0] < k.count.word[0]; code.word[0]++) {
                int32_t x[8], y[8], sum = 0;
                int fine = lq__kakeya_point(x, &k, &code) == LQ_OK;
                for (uint32_t j = 0; j < k.n; j++) {
                    fine &= x[j] >= -2 * k.q && x[j] <= 2 * k.q && ((x[j] ^ x[0]) & 1) == 0;
                    sum += x[j];
                    y[j] = 2048 * x[j];
                }
                fine &= (sum & 3) == 0 && (i || (x[0] & 1) == 0);
                const lq__wide back = lq__kakeya_code(&k, y);
                CHECK(fine && memcmp(&back, &code, sizeof code) == 0);
            }
            int32_t x[8];
            CHECK(lq__kakeya_point(x, &k, &code) == LQ_E_DATA);
        }
    }
}

static void test_arguments(void)
{
    lq_kakeya_desc r;
    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    uint8_t code[32], ws[256];
    memset(&r, 0, sizeof r);
    CHECK(lq_kakeya_claimed_bits(&r, DIMS) == 848 && !lq_kakeya_claimed_bits(NULL, DIMS));
    r.q_range = 2048;
    CHECK(!lq_kakeya_row_bytes(&r, DIMS));
    CHECK(lq_kakeya_encode(&r, code, 32, x, 1, 8, ws, sizeof ws) == LQ_E_ARG);
    r.q_range = 2047;
    CHECK(lq_kakeya_row_bytes(&r, DIMS) && !lq_kakeya_row_bytes(&r, 96));
    r.quantizer = LQ_Z;
    CHECK(!lq_kakeya_row_bytes(&r, DIMS));
    r.quantizer = LQ_E8;
    CHECK(lq_kakeya_encode(&r, code, 3, x, 1, 8, ws, sizeof ws) == LQ_E_SPACE);
    CHECK(lq_kakeya_encode(&r, code, 32, x, 1, 8, ws, 8) == LQ_E_SPACE);
    CHECK(!lq_kakeya_encode(&r, code, 32, x, 1, 8, ws, sizeof ws));
    CHECK(!lq_kakeya_decode(&r, x, code, 32, 1, 8, ws, sizeof ws) && x[3] == 0);
    x[1] = 1e6f;
    CHECK(lq_kakeya_encode(&r, code, 32, x, 1, 8, ws, sizeof ws) == LQ_E_RANGE);
    x[1] = (float)INFINITY;
    CHECK(lq_kakeya_encode(&r, code, 32, x, 1, 8, ws, sizeof ws) == LQ_E_DATA);
}

int main(void)
{
    test_bits();
    test_arguments();
    test_boxes();
    test_errors();
    return check_report("test_kakeya");
}
