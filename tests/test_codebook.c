/* cc -std=c99 -O2 tests/test_codebook.c -o test_codebook -lm    Lloyd-Max levels against an
   iteration in double and Max's table, levels of samples, TurboQuant against a reference and its
   published errors, hostile codes and books. `test_codebook quick` uses fewer samples. */
#include "header.h"

#include "check.h"
#include "source.h"

static int levels;
static int quick;

static uint32_t digest_bytes(uint32_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 16777619u;
    }
    return hash;
}

static uint32_t digest_floats(uint32_t hash, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        hash = (hash ^ u) * 16777619u;
    }
    return hash;
}

/* ---- the Gaussian's levels ---- */
/* The density of a Gaussian, and its mass between a and b by Simpson's rule (erfc is what levels
   were made with). */
static double density(double t)
{
    return exp(-t * t / 2) / sqrt(2 * SOURCE_PI);
}

static double mass(double a, double b)
{
    double sum = density(a) + density(b), h = (b - a) / 64;
    for (int i = 1; i < 64; i++) {
        sum += density(a + i * h) * (i % 2 ? 4 : 2);
    }
    return sum * h / 3;
}

/* Squared error of levels (count) on N(0, 1), each number to its nearest; moved: how far the mean of
   a cell is from its level at most. With `better` levels become the means. */
static double error_of_levels(double *level, int count, double *moved, int better)
{
    double error = 0, last = 0;
    *moved = 0;
    for (int k = 0; k < count; k++) {
        double a = k ? last : -12, b = k + 1 < count ? (level[k] + level[k + 1]) / 2 : 12;
        double p = 0, f = density(a) - density(b); /* the integral of t density(t) */
        const int parts = k == 0 || k + 1 == count ? 8 : 1;
        for (int part = 0; part < parts; part++) {
            p += mass(a + (b - a) * part / parts, a + (b - a) * (part + 1) / parts);
        }
        /* of t^2 density(t): p + a density(a) - b density(b) */
        error += p + a * density(a) - b * density(b) - 2 * level[k] * f + level[k] * level[k] * p;
        *moved = fmax(*moved, fabs(f / p - level[k]));
        if (better) level[k] = f / p;
        last = b;
    }
    return error;
}

static void test_gauss(void)
{
    /* Max 1960, table I, which has 5e-6 less than the least there is for 3 to 5 bits; the least, by
       Lloyd's iteration to 1e-14 (bench/polar.c --fit) */
    static const double published[8] = {.3634, .1175, .03454, .009497, .002499, 0, 0, 0};
    static const double least[8] = {.363380228, .117481848, .034547761, .009501008,
                                    .002504668, .000644240, .000163478, .000041185};
    lq_codebook book;
    for (uint32_t bits = 0; bits <= 9; bits++) {
        int fine = bits >= 1 && bits <= 8;
        CHECK(lq_codebook_gauss(&book, bits) == (fine ? LQ_OK : LQ_E_ARG));
        if (!fine) continue;
        double level[256], moved;
        int count = 1 << bits;
        CHECK(book.bits == bits && lq_codebook_check(&book, NULL) == LQ_OK);
        for (int k = 0; k < count; k++) {
            level[k] = book.level[k] / 65536.0;
            CHECK(book.level[k] == -book.level[count - 1 - k] &&
                  (k == 0 || level[k] > level[k - 1]));
        }
        double error = error_of_levels(level, count, &moved, 0);
        CHECK(fabs(error - least[bits - 1]) < 1e-8 && moved < 5e-5);
        if (bits <= 5) CHECK(fabs(error - published[bits - 1]) < (bits < 3 ? 2e-5 : 8e-6));
        if (bits > 5) continue;
        for (int k = 0; k < count; k++) { /* from elsewhere Lloyd's iteration comes there, too */
            level[k] = 3.0 * (2 * k + 1 - count) / count;
        }
        for (int i = 0; i < (quick ? 1500 : 3000); i++) {
            (void)error_of_levels(level, count, &moved, 1);
        }
        CHECK(fabs(error_of_levels(level, count, &moved, 0) - error) < 1e-6);
    }
    CHECK(lq_codebook_gauss(NULL, 3) == LQ_E_ARG);
}

/* ---- codes ---- */
static uint32_t bits_at(const uint8_t *p, size_t at, uint32_t count)
{
    uint32_t v = 0;
    for (uint32_t i = 0; i < count; i++, at++) {
        v |= (uint32_t)(p[at / 8] >> at % 8 & 1) << i;
    }
    return v;
}

/* Nearest levels, by looking at all of them; the numbers back; all counts, any scale. */
static void test_codes(void)
{
    static const double scales[4] = {1, 0.037, 1e-25, 3e20};
    for (uint32_t bits = 1; bits <= 8; bits++) {
        lq_codebook book;
        CHECK(lq_codebook_gauss(&book, bits) == LQ_OK);
        for (size_t count = 0; count < (quick ? 20 : 200); count++) {
            const double scale = (double)(float)scales[count % 4];
            size_t bytes = lq_codebook_bytes(count, bits);
            float *x = source_gaussians(count), *y = (float *)source_alloc(count * 4);
            uint8_t *code = (uint8_t *)source_alloc(bytes);
            int bad = 0;
            CHECK(bytes == (count * bits + 7) / 8);
            for (size_t i = 0; i < count; i++) {
                x[i] = (float)((double)x[i] * scale * (i % 17 == 3 ? 50 : 1));
            }
            CHECK(lq_codebook_encode(&book, code, bytes, x, count, (float)scale) == LQ_OK);
            CHECK(lq_codebook_decode(&book, y, code, bytes, count, (float)scale) == LQ_OK);
            for (size_t i = 0; i < count; i++) {
                double v = (double)x[i] / scale, least = 1e30;
                double got = book.level[bits_at(code, i * bits, bits)] / 65536.0;
                for (int k = 0; k < 1 << bits; k++) {
                    least = fmin(least, fabs(v - book.level[k] / 65536.0));
                }
                bad += fabs(v - got) > least + 3e-4;
                bad += fabs((double)y[i] / scale - got) > 1e-6 * fabs(got);
            }
            CHECK(bad == 0);
            free(x);
            free(y);
            free(code);
        }
    }
}

static void test_code_errors(void)
{
    static const float big[4] = {1e37f, -1e37f, 150, -150};
    lq_codebook book;
    uint8_t code[4];
    float x[4] = {1, 2, 3, 4};
    const char *message = NULL;
    CHECK(lq_codebook_gauss(&book, 7) == LQ_OK);
    CHECK(lq_codebook_encode(&book, code, 3, x, 4, 1) == LQ_E_SPACE);
    CHECK(lq_codebook_encode(NULL, code, 4, x, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, NULL, 4, x, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, code, 4, NULL, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, 0) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, -1) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, 1e30f) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, lq_f32_from_f16(0x7e00)) == LQ_E_ARG);
    CHECK(lq_codebook_encode(&book, NULL, 0, NULL, 0, 1) == LQ_OK);
    CHECK(lq_codebook_encode(&book, code, 4, big, 4, 1) == LQ_OK);
    CHECK(bits_at(code, 0, 7) == 127 && bits_at(code, 7, 7) == 0);
    CHECK(bits_at(code, 14, 7) == 127 && bits_at(code, 21, 7) == 0);
    CHECK(lq_codebook_decode(&book, x, code, 3, 4, 1) == LQ_E_SPACE);
    CHECK(lq_codebook_decode(NULL, x, code, 4, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_decode(&book, NULL, code, 4, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_decode(&book, x, NULL, 4, 4, 1) == LQ_E_ARG);
    CHECK(lq_codebook_decode(&book, x, code, 4, 4, 0) == LQ_E_ARG);
    x[3] = lq_f32_from_f16(0x7e00);
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, 1) == LQ_E_DATA);
    x[3] = (float)-HUGE_VAL;
    CHECK(lq_codebook_encode(&book, code, 4, x, 4, 1) == LQ_E_DATA);
    CHECK(lq_codebook_check(NULL, &message) == LQ_E_ARG && message);
    book.level[5] = book.level[4] - 1;
    CHECK(lq_codebook_check(&book, &message) == LQ_E_ARG && message);
    CHECK(lq_codebook_encode(&book, code, 4, x, 3, 1) == LQ_E_ARG);
    book.level[5] = (1 << 23) + 1;
    CHECK(lq_codebook_check(&book, NULL) == LQ_E_ARG);
    book.bits = 9;
    CHECK(lq_codebook_decode(&book, x, code, 4, 3, 1) == LQ_E_ARG);
    CHECK(lq_codebook_bytes(4, 0) == 0 && lq_codebook_bytes(4, 9) == 0);
    CHECK(lq_codebook_bytes(SIZE_MAX, 8) == SIZE_MAX && lq_codebook_bytes(SIZE_MAX - 8, 1) != 0);
}

/* ---- levels of samples ---- */
static double learn(lq_codebook *book, float *scale, uint32_t bits, const float *x, size_t count)
{
    size_t ws_bytes = lq_codebook_learn_workspace_bytes(count);
    size_t bytes = lq_codebook_bytes(count, bits);
    void *ws = source_alloc(ws_bytes);
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    float *y = (float *)source_alloc(count * 4);
    double sum = 0, mean[256] = {0}, many[256] = {0};
    int bad = 0;
    CHECK(lq_codebook_learn(book, scale, bits, x, count, ws, ws_bytes) == LQ_OK);
    CHECK(lq_codebook_check(book, NULL) == LQ_OK && book->bits == bits);
    CHECK(lq_codebook_encode(book, code, bytes, x, count, *scale) == LQ_OK);
    CHECK(lq_codebook_decode(book, y, code, bytes, count, *scale) == LQ_OK);
    for (size_t i = 0; i < count; i++) {
        uint32_t k = bits_at(code, i * bits, bits);
        double d = (double)x[i] - (double)y[i];
        mean[k] += (double)x[i];
        many[k]++;
        sum += d * d;
    }
    for (int k = 0; k < 1 << bits; k++) { /* each is the mean of what takes it */
        double level = book->level[k] / 65536.0 * (double)*scale;
        bad += many[k] > 0 && fabs(mean[k] / many[k] - level) > 2e-3 * (double)*scale;
    }
    CHECK(bad == 0);
    free(ws);
    free(code);
    free(y);
    return sum / (double)count;
}

static void test_learn(void)
{
    const size_t count = quick ? 5000 : 100000;
    lq_codebook book, gauss;
    float scale, *x;
    source_seed = 21;
    x = source_gaussians(count);
    for (uint32_t bits = 1; bits <= 8;
         bits++) { /* on a Gaussian: what the table has, and a little */
        uint8_t *code = (uint8_t *)source_alloc(count);
        float *y = (float *)source_alloc(count * 4);
        double sum = 0, got = learn(&book, &scale, bits, x, count);
        CHECK(lq_codebook_gauss(&gauss, bits) == LQ_OK);
        CHECK(lq_codebook_encode(&gauss, code, count, x, count, 1) == LQ_OK);
        CHECK(lq_codebook_decode(&gauss, y, code, count, count, 1) == LQ_OK);
        for (size_t i = 0; i < count; i++) {
            sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        }
        double ratio = got / (sum / (double)count);
        CHECK(ratio < 1.01 && ratio > (quick ? 0.6 : 0.95));
        free(code);
        free(y);
    }
    for (size_t i = 0; i < count; i++) { /* five values: found exactly, in any order */
        static const float values[5] = {-7, -1.5f, 0, 0.25f, 1000};
        x[i] = values[source_below(5)] * 1e-10f;
    }
    CHECK(learn(&book, &scale, 3, x, count) < 1e-26);
    CHECK(learn(&book, &scale, 8, x, count) < 1e-26);
    for (size_t i = 0; i < count; i++) {
        x[i] = -3;
    }
    CHECK(learn(&book, &scale, 4, x, count) < 1e-9);
    CHECK(learn(&book, &scale, 8, x, 1) < 1e-9 && learn(&book, &scale, 1, x, 3) < 1e-9);
    memset(x, 0, count * 4);
    CHECK(learn(&book, &scale, 2, x, count) == 0);
    size_t bytes = lq_codebook_learn_workspace_bytes(8);
    void *ws = source_alloc(bytes);
    CHECK(lq_codebook_learn(&book, &scale, 2, x, 8, ws, bytes - 64) == LQ_E_SPACE);
    CHECK(lq_codebook_learn(&book, &scale, 2, x, 8, NULL, bytes) == LQ_E_SPACE);
    CHECK(lq_codebook_learn(&book, &scale, 0, x, 8, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(&book, &scale, 9, x, 8, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(NULL, &scale, 2, x, 8, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(&book, NULL, 2, x, 8, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(&book, &scale, 2, NULL, 8, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(&book, &scale, 2, x, 0, ws, bytes) == LQ_E_ARG);
    CHECK(lq_codebook_learn(&book, &scale, 2, x, SIZE_MAX, ws, bytes) == LQ_E_ARG);
    x[7] = lq_f32_from_f16(0x7e00);
    CHECK(lq_codebook_learn(&book, &scale, 2, x, 8, ws, bytes) == LQ_E_DATA);
    x[7] = 1e31f;
    CHECK(lq_codebook_learn(&book, &scale, 2, x, 8, ws, bytes) == LQ_E_RANGE);
    free(ws);
    free(x);
}

/* ---- TurboQuant ---- */
static const lq_qjl *sketch_of(void **mem, uint32_t dims, uint32_t rounds, uint32_t projection,
                               uint32_t scale, uint32_t seed)
{
    const lq_qjl *q = NULL;
    lq_qjl_desc d;
    memset(&d, 0, sizeof d);
    d.dims = dims;
    d.rounds = rounds;
    d.projection = projection;
    d.scale = scale;
    d.seed = seed;
    *mem = source_alloc(lq_qjl_bytes(&d));
    CHECK(lq_qjl_init(&q, *mem, lq_qjl_bytes(&d), &d) == LQ_OK);
    return q;
}

static void there_and_back(float *y, const float *x, size_t rows, size_t dims, uint32_t bits,
                           const lq_qjl *q)
{
    size_t bytes = rows * lq_turbo_row_bytes(dims, bits, q);
    size_t ws_bytes = lq_turbo_workspace_bytes(dims, bits, q);
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    void *ws = source_alloc(ws_bytes);
    CHECK(lq_turbo_encode(code, bytes, x, rows, dims, bits, q, ws, ws_bytes) == LQ_OK);
    CHECK(lq_turbo_decode(y, code, bytes, rows, dims, bits, q, ws, ws_bytes) == LQ_OK);
    free(code);
    free(ws);
}

/* Codes and numbers of MSE in double: rotated, over the deviation, to the nearest level, and back.
   Of prod: MSE of one bit less, and the sketch of what it leaves. */
static void test_reference(void)
{
    static const size_t shapes[7] = {64, 128, 1, 96, 80, 1024, 7};
    for (size_t s = 0; s < 7; s++) {
        for (uint32_t bits = 1; bits <= 8; bits++) {
            const size_t dims = shapes[s], rows = 3;
            size_t bytes = rows * lq_turbo_row_bytes(dims, bits, NULL);
            size_t ws_bytes = lq_turbo_workspace_bytes(dims, bits, NULL);
            float *x = source_gaussians(rows * dims), *y = (float *)source_alloc(rows * dims * 4);
            uint8_t *code = (uint8_t *)source_alloc(bytes), *other = (uint8_t *)source_alloc(bytes);
            void *ws = source_alloc(ws_bytes);
            double z[1024], worst = 0;
            lq_codebook book;
            int differ = 0;
            CHECK(lq_codebook_gauss(&book, bits) == LQ_OK);
            CHECK(bytes == rows * (2 + (dims * bits + 7) / 8));
            for (int level = 0; level <= levels; level++) {
                lq_cpu_limit(level);
                CHECK(lq_turbo_encode(level ? other : code, bytes, x, rows, dims, bits, NULL, ws,
                                      ws_bytes) == LQ_OK);
                CHECK(level == 0 || memcmp(code, other, bytes) == 0);
            }
            lq_cpu_limit(-1);
            CHECK(lq_turbo_decode(y, code, bytes, rows, dims, bits, NULL, ws, ws_bytes) == LQ_OK);
            for (size_t r = 0; r < rows; r++) {
                const uint8_t *row = code + r * (bytes / rows);
                double norm = sqrt(source_dot(x + r * dims, x + r * dims, dims));
                for (size_t i = 0; i < dims; i++) {
                    z[i] = (double)x[r * dims + i] / norm * sqrt((double)dims);
                }
                source_rotate(z, dims, 0);
                for (size_t i = 0; i < dims; i++) {
                    double got = book.level[bits_at(row + 2, i * bits, bits)] / 65536.0, least = 9;
                    for (int k = 0; k < 1 << bits; k++) {
                        least = fmin(least, fabs(z[i] - book.level[k] / 65536.0));
                    }
                    differ += fabs(z[i] - got) > least + 2e-4;
                    z[i] = got * norm / sqrt((double)dims);
                }
                source_rotate(z, dims, 1);
                for (size_t i = 0; i < dims; i++) { /* the scale has 9 bits */
                    worst = fmax(worst, fabs(z[i] - (double)y[r * dims + i]) / (0.3 + fabs(z[i])));
                }
            }
            CHECK(differ == 0 && worst < 0.003);
            free(x);
            free(y);
            free(code);
            free(other);
            free(ws);
        }
    }
}

/* Of prod: what MSE of as many bits less leaves, sketched. */
static void test_prod(void)
{
    for (uint32_t w = 0; w < 24; w++) {
        const uint32_t rounds = 1 + w % 3, bits = rounds + w / 6, dims = w & 1 ? 64 : 48;
        void *mem;
        const lq_qjl *q = sketch_of(&mem, dims, rounds, 1 + (w >> 1 & 1), 1 + (w >> 2 & 1), w);
        size_t ws_bytes = lq_qjl_workspace_bytes(q);
        void *ws = source_alloc(ws_bytes);
        float *x = source_gaussians(dims), y[64], mse[64] = {0}, left[64], sketch[64];
        uint8_t code[64];
        there_and_back(y, x, 1, dims, bits, q);
        if (bits > rounds) there_and_back(mse, x, 1, dims, bits - rounds, NULL);
        for (size_t i = 0; i < dims; i++) {
            left[i] = x[i] - mse[i];
        }
        CHECK(lq_turbo_row_bytes(dims, bits, q) ==
              lq_turbo_row_bytes(dims, bits - rounds, NULL) + lq_qjl_row_bytes(q));
        CHECK(lq_qjl_encode(q, code, sizeof code, left, 1, ws, ws_bytes) == LQ_OK);
        CHECK(lq_qjl_decode(q, sketch, code, sizeof code, 1, ws, ws_bytes) == LQ_OK);
        for (size_t i = 0; i < dims; i++) { /* a sign of nearly 0 may be another */
            sketch[i] += mse[i] - y[i];
        }
        CHECK(source_dot(sketch, sketch, dims) < 1e-3 * source_dot(x, x, dims));
        free(x);
        free(ws);
        free(mem);
    }
}

/* arXiv 2504.19874: squared errors of rows, and of products with unit vectors, times dims. */
static void test_published(void)
{
    enum { DIMS = 128 };
    static const double mse[4] = {.3634, .1175, .0345, .0095};
    static const double prod[4] = {1.571, .571, .1846, .0543}; /* pi / 2 times 1 and those of MSE */
    const size_t rows = quick ? 400 : 3000;
    const uint32_t seeds = quick ? 2 : 4;
    float *x, *y = (float *)source_alloc(rows * DIMS * 4), *q;
    source_seed = 22;
    x = source_gaussians(rows * DIMS);
    q = source_gaussians(rows * DIMS);
    for (uint32_t bits = 1; bits <= 4; bits++) {
        double error = 0, product = 0, mean = 0, square = 0;
        there_and_back(y, x, rows, DIMS, bits, NULL);
        for (size_t r = 0; r < rows; r++) {
            const float *a = x + r * DIMS, *b = y + r * DIMS;
            error += (source_dot(a, a, DIMS) + source_dot(b, b, DIMS) - 2 * source_dot(a, b, DIMS)) / source_dot(a, a, DIMS);
        }
        error /= (double)rows; /* of 128 numbers on a sphere it is up to 2 % less */
        CHECK(error < mse[bits - 1] * 1.01 && error > mse[bits - 1] * 0.96);
        for (uint32_t seed = 0; seed < seeds; seed++) {
            void *mem;
            const lq_qjl *sketch = sketch_of(&mem, DIMS, 1, LQ_QJL_GAUSSIAN, LQ_QJL_UNBIASED, seed);
            there_and_back(y, x, rows, DIMS, bits, sketch);
            for (size_t r = 0; r < rows; r++) {
                const float *a = x + r * DIMS, *b = y + r * DIMS, *c = q + r * DIMS;
                double d = source_dot(c, b, DIMS) - source_dot(c, a, DIMS);
                double along = source_dot(a, b, DIMS) / source_dot(a, a, DIMS) - 1;
                product += d * d / (source_dot(a, a, DIMS) * source_dot(c, c, DIMS)) * DIMS;
                mean += along; /* bias shows in products with the row itself */
                square += along * along;
            }
            free(mem);
        }
        double n = (double)rows * seeds;
        CHECK(fabs(product / n / prod[bits - 1] - 1) < (quick ? 0.15 : 0.05));
        CHECK(fabs(mean / n) < 4 * sqrt(square / n / n) + 2e-4);
        there_and_back(y, x, rows, DIMS, bits, NULL); /* MSE is biased, and the test sees that */
        mean = 0;
        for (size_t r = 0; r < rows; r++) {
            mean +=
                source_dot(x + r * DIMS, y + r * DIMS, DIMS) / source_dot(x + r * DIMS, x + r * DIMS, DIMS) - 1;
        }
        CHECK(mean / (double)rows < -0.8 * mse[bits - 1]);
    }
    free(x);
    free(y);
    free(q);
}

static void test_turbo_errors(void)
{
    void *mem;
    const lq_qjl *q = sketch_of(&mem, 24, 2, 0, 0, 0);
    float x[48] = {1, -2, 3}, y[48];
    uint8_t code[64];
    CHECK(lq_turbo_row_bytes(0, 3, NULL) == 0 && lq_turbo_row_bytes(65537, 3, NULL) == 0);
    CHECK(lq_turbo_row_bytes(24, 0, NULL) == 0 && lq_turbo_row_bytes(24, 9, NULL) == 0);
    CHECK(lq_turbo_row_bytes(24, 1, q) == 0 && lq_turbo_row_bytes(24, 11, q) == 0);
    CHECK(lq_turbo_row_bytes(48, 3, q) == 0 && lq_turbo_workspace_bytes(48, 3, q) == 0);
    CHECK(lq_turbo_row_bytes(24, 2, q) == 10 && lq_turbo_row_bytes(24, 10, q) == 36);
    for (uint32_t bits = 2; bits <= 5; bits++) {
        const lq_qjl *with = bits & 1 ? q : NULL;
        size_t bytes = 2 * lq_turbo_row_bytes(24, bits, with);
        size_t ws_bytes = lq_turbo_workspace_bytes(24, bits, with);
        void *ws = source_alloc(ws_bytes);
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, bits, with, ws, ws_bytes) == LQ_OK);
        CHECK(lq_turbo_encode(code, bytes - 1, x, 2, 24, bits, with, ws, ws_bytes) == LQ_E_SPACE);
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, bits, with, ws, ws_bytes - 64) == LQ_E_SPACE);
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, bits, with, NULL, ws_bytes) == LQ_E_SPACE);
        CHECK(lq_turbo_encode(NULL, bytes, x, 2, 24, bits, with, ws, ws_bytes) == LQ_E_ARG);
        CHECK(lq_turbo_encode(code, bytes, NULL, 2, 24, bits, with, ws, ws_bytes) == LQ_E_ARG);
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, 12, with, ws, ws_bytes) == LQ_E_ARG);
        CHECK(lq_turbo_decode(y, code, bytes, 2, 24, bits, with, ws, ws_bytes) == LQ_OK);
        CHECK(source_dot(y + 24, y + 24, 24) == 0); /* zeros stay zeros */
        CHECK(lq_turbo_decode(y, code, bytes - 1, 2, 24, bits, with, ws, ws_bytes) == LQ_E_SPACE);
        CHECK(lq_turbo_decode(y, code, bytes, 2, 24, bits, with, ws, ws_bytes - 64) == LQ_E_SPACE);
        CHECK(lq_turbo_decode(NULL, code, bytes, 2, 24, bits, with, ws, ws_bytes) == LQ_E_ARG);
        CHECK(lq_turbo_decode(y, NULL, bytes, 2, 24, bits, with, ws, ws_bytes) == LQ_E_ARG);
        CHECK(lq_turbo_decode(y, code, bytes, 2, 24, 0, with, ws, ws_bytes) == LQ_E_ARG);
        x[47] = lq_f32_from_f16(0x7e00);
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, bits, with, ws, ws_bytes) == LQ_E_DATA);
        x[47] = -1e30f;
        CHECK(lq_turbo_encode(code, bytes, x, 2, 24, bits, with, ws, ws_bytes) == LQ_E_RANGE);
        x[47] = 0;
        for (int e = -79; e <= 97; e++) { /* any size */
            float big[24];
            for (size_t i = 0; i < 24; i++) {
                big[i] = (float)ldexp(0.5 + (double)(i % 5) / 8, e);
            }
            there_and_back(y, big, 1, 24, bits, with);
            double worst = 0;
            for (size_t i = 0; i < 24; i++) {
                worst = fmax(worst, fabs(ldexp((double)y[i] - (double)big[i], -e)));
            }
            CHECK(worst < 1.2);
        }
        free(ws);
    }
    free(mem);
}

/* Any bytes: finite numbers, or LQ_E_DATA. */
static void test_hostile(void)
{
    int fine = 0, refused = 0;
    for (uint32_t n = 0; n < (quick ? 500 : 5000); n++) {
        const uint32_t dims = 1 + source_below(100), rounds = source_below(4);
        const uint32_t bits = rounds + 1 + source_below(8);
        void *mem = NULL;
        const lq_qjl *q = rounds ? sketch_of(&mem, dims, rounds, 2, 1, n) : NULL;
        size_t bytes = lq_turbo_row_bytes(dims, bits, q);
        size_t ws_bytes = lq_turbo_workspace_bytes(dims, bits, q);
        uint8_t *code = (uint8_t *)source_alloc(bytes);
        float *y = (float *)source_alloc(dims * 4);
        void *ws = source_alloc(ws_bytes);
        for (size_t i = 0; i < bytes; i++) {
            code[i] = (uint8_t)source_u64();
        }
        int status = lq_turbo_decode(y, code, bytes, 1, dims, bits, q, ws, ws_bytes);
        CHECK(status == LQ_E_DATA || (status == LQ_OK && source_finite_all(y, dims)));
        fine += status == LQ_OK;
        refused += status == LQ_E_DATA;
        free(code);
        free(y);
        free(ws);
        free(mem);
    }
    CHECK(fine > 50 && refused > 50);
    for (int n = 0; n < 20000;
         n++) { /* books of any bytes: a status, and numbers where it is fine */
        lq_codebook book;
        uint8_t code[8] = {1, 2, 3, 255, 5, 6, 7, 8};
        float y[8], x[8] = {1, 2, 3, -4, 5, 6e7f, 7, 8};
        memset(&book, 0, sizeof book);
        book.bits = source_below(11);
        for (int k = 0; k < 256; k++) {
            book.level[k] = (int32_t)(source_below(3) ? k * 65536 - (1 << 22) : 0);
            if (n % 2) book.level[k] = (int32_t)(uint32_t)source_u64();
        }
        int status = lq_codebook_check(&book, NULL);
        CHECK(lq_codebook_decode(&book, y, code, 8, 8, 1) == status);
        CHECK(status || source_finite_all(y, 8));
        CHECK(lq_codebook_encode(&book, code, 8, x, 8, 1) == status);
    }
}

/* What may not change: levels, codes, the numbers that they stand for. */
static void test_format(void)
{
    static float x[16 * 96], y[16 * 96];
    static uint8_t code[16 * 96 * 2];
    uint32_t hash[3] = {2166136261u, 2166136261u, 2166136261u};
    lq_codebook book;
    float scale;
    source_seed = 9;
    for (size_t i = 0; i < 16 * 96; i++) {
        x[i] = (float)source_integer_gauss();
    }
    size_t ws_bytes = lq_codebook_learn_workspace_bytes(16 * 96);
    void *ws = source_alloc(ws_bytes);
    for (uint32_t bits = 1; bits <= 8; bits++) {
        for (int learnt = 0; learnt < 2; learnt++) {
            size_t bytes = lq_codebook_bytes(16 * 96, bits);
            scale = 0.9f;
            CHECK(lq_codebook_gauss(&book, bits) == LQ_OK);
            if (learnt) {
                CHECK(lq_codebook_learn(&book, &scale, bits, x, 16 * 96, ws, ws_bytes) == LQ_OK);
            }
            for (int k = 0; k < 1 << bits; k++) {
                hash[0] = (hash[0] ^ (uint32_t)book.level[k]) * 16777619u;
            }
            CHECK(lq_codebook_encode(&book, code, bytes, x, 16 * 96, scale) == LQ_OK);
            CHECK(lq_codebook_decode(&book, y, code, bytes, 16 * 96, scale) == LQ_OK);
            hash[1] = digest_floats(digest_bytes(hash[1], code, bytes), y, 16 * 96);
        }
    }
    free(ws);
    for (uint32_t w = 0; w < 24; w++) {
        void *mem = NULL;
        const lq_qjl *q =
            w % 3 ? sketch_of(&mem, 96, w % 3, 1 + (w & 1), 1 + (w >> 1 & 1), w) : NULL;
        uint32_t bits = 1 + w / 3 + w % 3;
        size_t bytes = 16 * lq_turbo_row_bytes(96, bits, q);
        ws_bytes = lq_turbo_workspace_bytes(96, bits, q);
        ws = source_alloc(ws_bytes);
        CHECK(bytes && bytes <= sizeof code);
        CHECK(lq_turbo_encode(code, bytes, x, 16, 96, bits, q, ws, ws_bytes) == LQ_OK);
        CHECK(lq_turbo_decode(y, code, bytes, 16, 96, bits, q, ws, ws_bytes) == LQ_OK);
        hash[2] = digest_floats(digest_bytes(hash[2], code, bytes), y, 16 * 96);
        free(ws);
        free(mem);
    }
    if (!CHECK(hash[0] == 0x1e7171b6u && hash[1] == 0xfa9c9b15u && hash[2] == 0x5bbbbeaeu)) {
        fprintf(stderr, "0x%08xu 0x%08xu 0x%08xu\n", (unsigned)hash[0], (unsigned)hash[1],
                (unsigned)hash[2]);
    }
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_gauss();
    test_codes();
    test_code_errors();
    test_learn();
    test_reference();
    test_prod();
    test_published();
    test_turbo_errors();
    test_hostile();
    test_format();
    return check_report("test_codebook");
}
