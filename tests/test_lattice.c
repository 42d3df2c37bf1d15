/* cc -std=c99 -O2 tests/test_lattice.c -o test_lattice -lm    Nearest points and fixed forms against brute
   force, and the Gaussian figures of the literature. `test_lattice quick` uses fewer samples. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { ONE = 4096 }; /* inputs are multiples of 1 / 4096: what nearest points are exact for */

static int levels;
static int quick;

/* ---- nearest points by brute force, in integers ---- */
typedef struct best {
    int64_t cost[2];     /* least squared distance in each coset, units of 2^-24 */
    int32_t point[2][8]; /* doubled coordinates */
} best;

static int32_t round_down(int32_t a, int32_t b) /* floor(a / b) */
{
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/* Walks the cube of `wide` candidates a coordinate around x (in units of 1 / 4096). Parity of the
   sum has to be even, but where `any` says otherwise for the coset. Coordinates stay in [low,
   high]. */
static void search(best *b, const int32_t *x, int dims, int coset, int any, int wide, int low,
                   int high)
{
    int count = 1;
    b->cost[coset] = INT64_MAX;
    int32_t start[8];
    for (int i = 0; i < dims;
         i++) { /* the nearest integer, and wide / 2 on both sides, shifted inside */
        int32_t nearest = round_down(x[i] - coset * ONE / 2 + ONE / 2, ONE);
        start[i] = nearest - wide / 2;
        start[i] = start[i] > high - wide + 1 ? high - wide + 1 : start[i];
        start[i] = start[i] < low ? low : start[i];
        count *= wide;
    }
    int32_t z[8];
    for (int n = 0; n < count; n++) {
        int64_t cost = 0;
        int32_t sum = 0;
        int rest = n;
        for (int i = 0; i < dims; i++) {
            z[i] = start[i] + rest % wide;
            rest /= wide;
            int64_t d = x[i] - coset * ONE / 2 - z[i] * ONE;
            cost += d * d;
            sum += z[i];
        }
        if ((any || sum % 2 == 0) && cost < b->cost[coset]) {
            b->cost[coset] = cost;
            for (int i = 0; i < dims; i++) {
                b->point[coset][i] = 2 * z[i] + coset;
            }
        }
    }
}

static int64_t distance(const int16_t *points, const int32_t *x, int dims, int doubled)
{
    int64_t cost = 0;
    for (int i = 0; i < dims; i++) {
        int64_t d = x[i] - points[i] * (doubled ? ONE / 2 : ONE);
        cost += d * d;
    }
    return cost;
}

/* A point is one of the lattice: parity and coset. Returns the coset, -1 if it is none. */
static int member(const int16_t *points, int quantizer)
{
    int n = (int)lq_lattice_dims(quantizer);
    int sum = 0;
    int odd = 0;
    if (quantizer == LQ_Z) return 0;
    for (int i = 0; i < n; i++) {
        odd += points[i] & 1;
        sum += points[i];
    }
    if (quantizer == LQ_D4) return sum % 2 == 0 ? 0 : -1;
    if (odd != 0 && odd != 8) return -1;
    if (odd == 8) { /* z = (p - 1) / 2 */
        return quantizer == LQ_E8_RELAXED || (sum - 8) % 4 == 0 ? 1 : -1;
    }
    return sum % 4 == 0 ? 0 : -1;
}

static void check_block(const int16_t *points, const int32_t *x, int quantizer)
{
    int dims = (int)lq_lattice_dims(quantizer);
    int eight = dims == 8;
    int coset = member(points, quantizer);
    int64_t cost = distance(points, x, dims, eight);
    if (!CHECK(coset >= 0)) return;
    best b;
    search(&b, x, dims, 0, quantizer == LQ_Z, eight ? 3 : 5, -100000, 100000);
    b.cost[1] = INT64_MAX;
    if (eight) {
        search(&b, x, dims, 1, quantizer == LQ_E8_RELAXED, 3, -100000, 100000);
    }
    CHECK(cost == (b.cost[0] < b.cost[1] ? b.cost[0] : b.cost[1]));
    CHECK(b.cost[0] > b.cost[1] || coset == 0); /* ties go to the integer coset */
}

/* Inputs: anywhere, near the points, on a grid of halves and quarters (ties), on the points. */
static int32_t input(int form)
{
    int32_t whole = (int32_t)source_below(41) - 20;
    switch (form) {
    case 0:
        return whole * ONE + (int32_t)source_below(ONE);
    case 1:
        return whole * ONE + (int32_t)source_below(9) - 4;
    case 2:
        return whole * (ONE / 4);
    case 3:
        return whole * (ONE / 2);
    case 4:
        return whole * ONE;
    default:
        return (int32_t)(source_below(4000u * ONE)) - 2000 * ONE;
    }
}

static void test_nearest(int quantizer, int blocks)
{
    size_t dims = lq_lattice_dims(quantizer);
    size_t count = (size_t)blocks * dims;
    float *src = (float *)source_alloc(count * 4);
    float *again = (float *)source_alloc(count * 4);
    int32_t *x = (int32_t *)source_alloc(count * 4);
    int16_t *points = (int16_t *)source_alloc(count * 2);
    int16_t *other = (int16_t *)source_alloc(count * 2);
    static const float steps[4] = {1.0f, 0.25f, 1024.0f, 1.0f / 65536};
    for (size_t i = 0; i < count; i++) {
        x[i] = input((int)(i / dims % 6));
        src[i] = (float)x[i] / ONE;
    }
    lq_cpu_limit(0);
    CHECK(lq_lattice_nearest(points, src, count, 1.0f, quantizer) == LQ_OK);
    for (size_t i = 0; i < count; i += dims) {
        check_block(points + i, x + i, quantizer);
    }
    for (int level = 0; level <= levels; level++) { /* every level, odd alignments, other steps */
        lq_cpu_limit(level);
        for (size_t s = 0; s < 4; s++) {
            for (size_t i = 0; i < count; i++) {
                again[i] = src[i] * steps[s];
            }
            CHECK(lq_lattice_nearest(other, again, count, steps[s], quantizer) == LQ_OK);
            CHECK(memcmp(points, other, count * 2) == 0);
            CHECK(lq_lattice_point(again, points, count, steps[s], quantizer) == LQ_OK);
            CHECK(lq_lattice_nearest(other, again, count, steps[s], quantizer) == LQ_OK);
            CHECK(memcmp(points, other, count * 2) == 0); /* idempotent */
        }
        for (size_t i = 1; i < 40 && i * dims <= count; i++) {
            CHECK(lq_lattice_nearest(other + dims, src + dims, count - i * dims, 1.0f, quantizer) ==
                  LQ_OK);
            CHECK(memcmp(points + dims, other + dims, (count - i * dims) * 2) == 0);
        }
        lq_cpu_limit(-1);
    }
    free(src);
    free(again);
    free(x);
    free(points);
    free(other);
}

/* Any step: the number that is rounded is src / step within 2^-12 and a bit. */
static void test_steps(int quantizer)
{
    size_t dims = lq_lattice_dims(quantizer);
    for (int round = 0; round < (dims == 8 ? 400 : 2000); round++) {
        float step = (float)pow(2, 190 * source_uniform() - 95);
        float src[8];
        int32_t x[8];
        double cost = 0;
        for (size_t i = 0; i < dims; i++) {
            src[i] = (float)((source_uniform() - 0.5) * 40 * (double)step);
            x[i] = (int32_t)floor((double)src[i] / (double)step * ONE + 0.5);
        }
        int16_t points[8];
        CHECK(lq_lattice_nearest(points, src, dims, step, quantizer) == LQ_OK);
        CHECK(member(points, quantizer) >= 0);
        best b;
        search(&b, x, (int)dims, 0, quantizer == LQ_Z, 3, -100000, 100000);
        b.cost[1] = INT64_MAX;
        if (dims == 8) {
            search(&b, x, 8, 1, quantizer == LQ_E8_RELAXED, 3, -100000, 100000);
        }
        for (size_t i = 0; i < dims; i++) {
            double p = points[i] / (dims == 8 ? 2.0 : 1.0);
            double d = (double)src[i] / (double)step - p;
            cost += d * d;
        }
        CHECK(sqrt(cost) <= sqrt((double)(b.cost[0] < b.cost[1] ? b.cost[0] : b.cost[1])) / ONE +
                                3.0 * sqrt((double)dims) / ONE);
    }
}

static void test_errors(void)
{
    const float nan = lq_f32_from_f16(0x7e00);
    const float infinity = lq_f32_from_f16(0x7c00);
    CHECK(lq_lattice_dims(0) == 0 && lq_lattice_dims(7) == 0 && lq_lattice_dims(-1) == 0);
    CHECK(lq_lattice_dims(LQ_Z) == 1 && lq_lattice_dims(LQ_D4) == 4 && lq_lattice_dims(LQ_E8) == 8);
    CHECK(lq_lattice_dims(LQ_LEECH) == 24);
    float x[200];
    for (size_t i = 0; i < 200; i++) {
        x[i] = (float)i / 10;
    }
    float y[200];
    int16_t p[200];
    for (int quantizer = LQ_Z; quantizer <= LQ_E8_RELAXED; quantizer++) {
        CHECK(lq_lattice_nearest(NULL, x, 8, 1, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, NULL, 8, 1, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(NULL, NULL, 0, 1, quantizer) == LQ_OK);
        CHECK(lq_lattice_nearest(p, x, 9, 1, quantizer) == (quantizer == LQ_Z ? LQ_OK : LQ_E_ARG));
        CHECK(lq_lattice_nearest(p, x, 8, 0, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, x, 8, -1, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, x, 8, nan, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, x, 8, infinity, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, x, 8, (float)pow(2, 100), quantizer) == LQ_OK);
        CHECK(lq_lattice_nearest(p, x, 8, (float)pow(2, 101), quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_nearest(p, x, 8, (float)pow(2, -101), quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_point(NULL, p, 8, 1, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_point(y, NULL, 8, 1, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_point(y, p, 8, 0, quantizer) == LQ_E_ARG);
        CHECK(lq_lattice_point(y, p, 9, 1, quantizer) == (quantizer == LQ_Z ? LQ_OK : LQ_E_ARG));
        for (size_t i = 0; i < 200; i += 7) {
            float old = x[i];
            x[i] = nan;
            CHECK(lq_lattice_nearest(p, x, 200, 0.25f, quantizer) == LQ_E_DATA);
            x[i] = -infinity;
            CHECK(lq_lattice_nearest(p, x, 200, 0.25f, quantizer) == LQ_E_DATA);
            x[i] = 1025; /* 4100 steps: above the 4096 that a step's power of two may allow */
            CHECK(lq_lattice_nearest(p, x, 200, 0.25f, quantizer) == LQ_E_RANGE);
            x[i] = -512;
            CHECK(lq_lattice_nearest(p, x, 200, 0.25f, quantizer) == LQ_OK);
            x[i] = 1e-45f;
            CHECK(lq_lattice_nearest(p, x, 200, 0.25f, quantizer) == LQ_OK);
            x[i] = old;
        }
    }
    CHECK(lq_lattice_nearest(p, x, 8, 1, 0) == LQ_E_ARG);
    CHECK(lq_lattice_nearest(p, x, 8, 1, 5) == LQ_E_ARG);
    CHECK(lq_lattice_point(y, p, 8, 1, 5) == LQ_E_ARG);
}

/* The Leech lattice under the name that it has among lattices. */
static void test_leech(void)
{
    float x[240];
    for (size_t i = 0; i < 240; i++) {
        x[i] = (float)source_gauss();
    }
    int16_t own[240];
    int16_t p[240];
    CHECK(lq_leech_nearest(own, x, 240, 0.3f) == LQ_OK);
    CHECK(lq_lattice_nearest(p, x, 240, 0.3f, LQ_LEECH) == LQ_OK);
    CHECK(memcmp(own, p, sizeof p) == 0);
    float back[240];
    float y[240];
    CHECK(lq_leech_point(back, own, 240, 0.3f) == LQ_OK);
    CHECK(lq_lattice_point(y, p, 240, 0.3f, LQ_LEECH) == LQ_OK);
    CHECK(memcmp(back, y, sizeof y) == 0);
    CHECK(lq_lattice_nearest(p, x, 239, 0.3f, LQ_LEECH) == LQ_E_ARG);
    CHECK(lq_lattice_nearest(p, x, 240, 0, LQ_LEECH) == LQ_E_ARG);
    CHECK(lq_lattice_point(y, p, 232, 0.3f, LQ_LEECH) == LQ_E_ARG);
    CHECK(lq_fixed_bytes(24, LQ_LEECH, 2) == 0);
    x[9] = 300.0f;
    CHECK(lq_lattice_nearest(p, x, 240, 0.3f, LQ_LEECH) == LQ_E_RANGE);
}

/* ---- fixed width ---- */
/* All counts: the layout (lowest bit first), the nearest level, saturation. */
static void test_fixed_z(int bits)
{
    float x[140];
    for (size_t count = 0; count <= 140; count++) {
        size_t bytes = lq_fixed_bytes(count, LQ_Z, bits);
        uint8_t *code = (uint8_t *)source_alloc(bytes);
        float *back = (float *)source_alloc(count * 4);
        uint8_t *want = (uint8_t *)source_zeros(bytes + 1);
        int half = 1 << (bits - 1);
        int bad = 0;
        CHECK(bytes == (count * (size_t)bits + 7) / 8);
        for (size_t i = 0; i < count; i++) {
            int32_t v = input(i % 9 == 8 ? 5 : (int)(i % 3)) / (i % 2 ? 1 : 4);
            x[i] = (float)v / ONE * 0.5f;
            int64_t u = (int64_t)round_down(v, ONE) + half;
            u = u < 0 ? 0 : u > 2 * half - 1 ? 2 * half - 1 : u;
            for (int b = 0; b < bits; b++) {
                want[(i * (size_t)bits + (size_t)b) / 8] |=
                    (uint8_t)((u >> b & 1) << (i * (size_t)bits + (size_t)b) % 8);
            }
        }
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            memset(code, 0xa5, bytes);
            if (count) {
                CHECK(lq_fixed_encode(code, bytes, x, count, 0.5f, LQ_Z, bits) == LQ_OK);
                CHECK(memcmp(code, want, bytes) == 0);
                CHECK(lq_fixed_decode(back, code, bytes, count, 0.5f, LQ_Z, bits) == LQ_OK);
                CHECK(lq_fixed_encode(code, bytes - 1, x, count, 0.5f, LQ_Z, bits) == LQ_E_SPACE);
                CHECK(lq_fixed_decode(back, code, bytes - 1, count, 0.5f, LQ_Z, bits) ==
                      LQ_E_SPACE);
            }
        }
        lq_cpu_limit(-1);
        for (size_t i = 0; i < count; i++) {
            double top = (half - 0.5) * 0.5;
            double v = (double)x[i];
            double nearest = v > top ? top : v < -top ? -top : (floor(v / 0.5) + 0.5) * 0.5;
            bad += fabs((double)back[i] - nearest) > 1e-6;
        }
        CHECK(bad == 0);
        free(code);
        free(back);
        free(want);
    }
}

static uint32_t load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void check_word(uint32_t word)
{
    uint8_t code[4];
    int range = 1;
    for (int i = 0; i < 4; i++) {
        code[i] = (uint8_t)(word >> 8 * i);
    }
    float x[8];
    CHECK(lq_fixed_decode(x, code, 4, 8, 2.0f, LQ_E8, 4) == LQ_OK);
    int16_t points[8];
    for (int i = 0; i < 8; i++) {
        points[i] = (int16_t)x[i]; /* at a step of 2 the doubled coordinates */
        range = range && (float)points[i] == x[i] && points[i] >= -16 && points[i] <= 15;
    }
    CHECK(range && member(points, LQ_E8) >= 0);
    uint8_t back[4];
    CHECK(lq_fixed_encode(back, 4, x, 8, 2.0f, LQ_E8, 4) == LQ_OK && load32(back) == word);
}

/* Words, and the nearest point in the box against brute force, in it and far outside. */
static void test_fixed_e8(void)
{
    int words = quick ? 50000 : 1000000;
    int blocks = quick ? 300 : 2000;
    for (int n = 0; n < words; n++) {
        check_word((uint32_t)source_u64());
    }
    for (uint32_t i = 0; i < 32; i++) {
        check_word(1u << i);
        check_word(~(1u << i));
        check_word(0xffffffffu >> i);
    }
    for (int n = 0; n < blocks; n++) {
        int32_t x[8];
        float src[8];
        int64_t cost = 0;
        for (uint32_t i = 0; i < 8; i++) {
            x[i] = input(n % 5) * (n % 3 ? 1 : 0) / (n % 7 ? 2 : 1) + input((n + 1) % 4) / 4;
            src[i] = (float)x[i] / ONE;
        }
        uint8_t code[4];
        CHECK(lq_fixed_encode(code, 4, src, 8, 1.0f, LQ_E8, 4) == LQ_OK);
        float back[8];
        CHECK(lq_fixed_decode(back, code, 4, 8, 1.0f, LQ_E8, 4) == LQ_OK);
        best b;
        search(&b, x, 8, 0, 0, 3, -8, 7);
        search(&b, x, 8, 1, 0, 3, -8, 7);
        for (uint32_t i = 0; i < 8; i++) {
            int64_t d = x[i] - (int64_t)(back[i] * 2) * (ONE / 2);
            cost += d * d;
        }
        CHECK(cost == (b.cost[0] < b.cost[1] ? b.cost[0] : b.cost[1]));
    }
}

static void test_fixed_errors(void)
{
    const float nan = lq_f32_from_f16(0x7e00);
    float x[200] = {0};
    uint8_t code[200];
    for (int bits = -1; bits <= 9; bits++) {
        int z = bits == 2 || bits == 3 || bits == 4 || bits == 8;
        CHECK((lq_fixed_bytes(16, LQ_Z, bits) != 0) == z);
        CHECK((lq_fixed_bytes(16, LQ_E8, bits) != 0) == (bits == 4));
        CHECK(lq_fixed_bytes(16, LQ_D4, bits) == 0 && lq_fixed_bytes(16, LQ_E8_RELAXED, bits) == 0);
        CHECK(lq_fixed_encode(code, 200, x, 16, 1, LQ_Z, bits) == (z ? LQ_OK : LQ_E_ARG));
        CHECK(lq_fixed_decode(x, code, 200, 16, 1, LQ_Z, bits) == (z ? LQ_OK : LQ_E_ARG));
        CHECK(lq_fixed_encode(code, 200, x, 0, 1, LQ_Z, bits) == (z ? LQ_OK : LQ_E_ARG));
    }
    CHECK(lq_fixed_bytes(12, LQ_E8, 4) == 0);
    CHECK(lq_fixed_encode(code, 200, x, 12, 1, LQ_E8, 4) == LQ_E_ARG);
    CHECK(lq_fixed_encode(code, 200, x, 16, 1, LQ_D4, 4) == LQ_E_ARG);
    CHECK(lq_fixed_encode(code, 200, x, 16, 0, LQ_Z, 4) == LQ_E_ARG);
    CHECK(lq_fixed_decode(x, code, 200, 16, nan, LQ_Z, 4) == LQ_E_ARG);
    CHECK(lq_fixed_encode(NULL, 200, x, 16, 1, LQ_Z, 4) == LQ_E_ARG);
    CHECK(lq_fixed_encode(code, 200, NULL, 16, 1, LQ_Z, 4) == LQ_E_ARG);
    CHECK(lq_fixed_decode(NULL, code, 200, 16, 1, LQ_Z, 4) == LQ_E_ARG);
    CHECK(lq_fixed_decode(x, NULL, 200, 16, 1, LQ_Z, 4) == LQ_E_ARG);
    memset(x, 0, sizeof x);
    x[199] = nan;
    CHECK(lq_fixed_encode(code, 200, x, 200, 1, LQ_Z, 4) == LQ_E_DATA);
    CHECK(lq_fixed_encode(code, 200, x, 200, 1, LQ_E8, 4) == LQ_E_DATA);
    x[199] = 5000;
    CHECK(lq_fixed_encode(code, 200, x, 200, 1, LQ_Z, 8) == LQ_E_RANGE);
    x[199] = 2048;
    CHECK(lq_fixed_encode(code, 200, x, 200, 1, LQ_Z, 8) == LQ_OK && code[199] == 255);
}

/* ---- the literature's figures for E8 on a unit Gaussian (LatticeQuant, and our own) ---- */
enum { Z_HALF = 40, Z_SPAN = 2 * Z_HALF + 1 };

typedef struct figures {
    double mse;       /* of the point itself */
    double wiener;    /* of the point times its best factor */
    double rate;      /* entropy of coset, seven symbols and the half symbol, a dim */
    double rate_full; /* with the eighth symbol whole */
} figures;

static double entropy(const uint32_t *counts, size_t n)
{
    double total = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        total += counts[i];
        sum += counts[i] ? counts[i] * log2((double)counts[i]) : 0;
    }
    return total > 0 ? total * log2(total) - sum : 0; /* bits for all of them */
}

static float *gaussians;
static int16_t *gauss_points;
static size_t gauss_count;

static figures e8_figures(double step)
{
    static uint32_t counts[2][9][Z_SPAN]; /* [8]: floor(z7 / 2) */
    static uint32_t cosets[2];
    figures f = {0, 0, 0, 0};
    double cross = 0;
    double energy = 0;
    memset(counts, 0, sizeof counts);
    memset(cosets, 0, sizeof cosets);
    CHECK(lq_lattice_nearest(gauss_points, gaussians, gauss_count, (float)step, LQ_E8) == LQ_OK);
    int c;
    for (size_t i = 0; i < gauss_count; i += 8) {
        c = gauss_points[i] & 1;
        cosets[c]++;
        for (int j = 0; j < 8; j++) {
            int z = (gauss_points[i + (size_t)j] - c) / 2;
            double x = (double)gaussians[i + (size_t)j];
            double q = gauss_points[i + (size_t)j] * step / 2;
            f.mse += (x - q) * (x - q);
            cross += x * q;
            energy += q * q;
            z = z < -Z_HALF ? -Z_HALF : z > Z_HALF ? Z_HALF : z;
            counts[c][j][z + Z_HALF]++;
            if (j == 7) {
                counts[c][8][(z + Z_HALF) / 2]++; /* Z_HALF is even */
            }
        }
    }
    f.wiener = (f.mse + 2 * cross - energy - cross * cross / energy) / (double)gauss_count;
    f.mse /= (double)gauss_count;
    f.rate = entropy(cosets, 2);
    for (c = 0; c < 2; c++) {
        for (int j = 0; j < 7; j++) {
            f.rate += entropy(counts[c][j], Z_SPAN);
        }
        f.rate_full += entropy(counts[c][7], Z_SPAN);
        f.rate += entropy(counts[c][8], Z_SPAN);
        f.rate_full -= entropy(counts[c][8], Z_SPAN);
    }
    f.rate /= (double)gauss_count;
    f.rate_full = f.rate + f.rate_full / (double)gauss_count;
    return f;
}

static void test_gaussian(void)
{
    static const struct {
        double b;
        double rate; /* 0: not given */
        double rate_full;
    } theorem2[] = {
        {2, 2.074, 2.178}, {2.5, 2.538, 2.652}, {3, 3.019, 3.138}, {3.5, 3.510, 3.632},
        {4, 4.005, 4.128}, {5, 5.001, 5.125},   {6, 0, 0},
    };
    static const struct {
        double rate;
        double plain;
        double wiener;
    } honest[] = {
        {1, 1.997, 1.385}, {1.5, 1.583, 1.323}, {2, 1.376, 1.267}, {2.5, 1.296, 1.245},
        {3, 1.260, 1.236}, {3.5, 1.242, 1.230}, {4, 1.234, 1.228},
    };
    double slack = quick ? 0.012 : 0.006;
    gauss_count = quick ? 400000 : 2000000;
    gaussians = (float *)source_alloc(gauss_count * 4);
    gauss_points = (int16_t *)source_alloc(gauss_count * 2);
    source_seed = 99;
    for (size_t i = 0; i < gauss_count; i++) {
        gaussians[i] = (float)source_gauss();
    }
    /* volume 1: step = V^(1/8) */
    for (size_t i = 0; i < sizeof theorem2 / sizeof theorem2[0]; i++) {
        double b = theorem2[i].b;
        figures f = e8_figures(sqrt(2 * SOURCE_PI * 2.718281828459045 * pow(4, -b)));
        CHECK(fabs(f.mse * pow(4, b) - 1.2245) < slack);
        if (b < 5.5) {
            CHECK(fabs(f.rate - theorem2[i].rate) < slack);
            CHECK(fabs(f.rate_full - theorem2[i].rate_full) < slack);
        }
    }
    for (size_t i = 0; i < sizeof honest / sizeof honest[0]; i++) {
        double low = 0.1;
        double high = 4;
        figures f = {0, 0, 0, 0};
        for (int round = 0; round < 13; round++) {
            double step = sqrt(low * high);
            f = e8_figures(step);
            if (f.rate > honest[i].rate) {
                low = step;
            } else {
                high = step;
            }
        }
        CHECK(fabs(f.rate - honest[i].rate) < 0.002);
        CHECK(fabs(f.mse * pow(4, f.rate) - honest[i].plain) < slack);
        CHECK(fabs(f.wiener * pow(4, f.rate) - honest[i].wiener) < slack);
    }
    free(gaussians);
    free(gauss_points);
}

/* Second moments: uniform inputs give the textbook's numbers at volume 1. */
static void test_second_moments(void)
{
    static const double moments[5] = {0, 1.0 / 12, 0.076603, 0.0716821, 0};
    for (int quantizer = LQ_Z; quantizer <= LQ_E8; quantizer++) {
        size_t count = quick ? 160000 : 1600000;
        float *x = (float *)source_alloc(count * 4);
        float *y = (float *)source_alloc(count * 4);
        int16_t *p = (int16_t *)source_alloc(count * 2);
        double volume = quantizer == LQ_D4 ? 2 : 1;
        double sum = 0;
        for (size_t i = 0; i < count; i++) {
            x[i] = (float)(source_uniform() * 64 - 32);
        }
        CHECK(lq_lattice_nearest(p, x, count, 1, quantizer) == LQ_OK);
        CHECK(lq_lattice_point(y, p, count, 1, quantizer) == LQ_OK);
        for (size_t i = 0; i < count; i++) {
            sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        }
        sum /= (double)count * pow(volume, 2.0 / (double)lq_lattice_dims(quantizer));
        CHECK(fabs(sum / moments[quantizer] - 1) < (quick ? 0.01 : 0.003));
        free(x);
        free(y);
        free(p);
    }
}

int main(int argc, char **argv)
{
    static const int fixed[4] = {8, 4, 3, 2};
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    for (int quantizer = LQ_Z; quantizer <= LQ_E8_RELAXED; quantizer++) {
        int blocks = quantizer == LQ_Z ? 20000 : quantizer == LQ_D4 ? 10000 : 1200;
        test_nearest(quantizer, quick ? blocks / 5 : blocks);
        test_steps(quantizer);
    }
    for (int i = 0; i < 4; i++) {
        test_fixed_z(fixed[i]);
    }
    test_errors();
    test_leech();
    test_fixed_e8();
    test_fixed_errors();
    test_second_moments();
    test_gaussian();
    return check_report("test_lattice");
}
