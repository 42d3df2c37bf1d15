/* cc -std=c99 -O2 tests/test_polar.c -o test_polar -lm    Polar grids and QJL: codes against a
   reference in double, published cosines and recoveries, estimators, hostile codes and books.
   `test_polar quick` uses fewer samples. Run it from the repository's root. */
#include "header.h"

#include "check.h"
#include "source.h"

static int levels;
static int quick;

static uint32_t digest(uint32_t hash, uint32_t value)
{
    return (hash ^ value) * 16777619u;
}

static uint32_t digest_bytes(uint32_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hash = digest(hash, ((const uint8_t *)bytes)[i]);
    }
    return hash;
}

static uint32_t digest_floats(uint32_t hash, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        hash = digest(hash, u);
    }
    return hash;
}

/* Mean over rows of the cosine, and squared error over energy. */
static double cosine_of(const float *x, const float *y, size_t rows, size_t dims, double *mse)
{
    double cosine = 0, error = 0, power = 0;
    for (size_t r = 0; r < rows; r++, x += dims, y += dims) {
        double xx = source_dot(x, x, dims), yy = source_dot(y, y, dims), xy = source_dot(x, y, dims);
        cosine += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
        error += xx + yy - 2 * xy;
        power += xx;
    }
    *mse = error / power;
    return cosine / (double)rows;
}

/* ---- polar: descriptions ---- */
static lq_polar_book book_of(uint32_t radius, uint32_t angle, uint32_t group, int grid)
{
    lq_polar_book book;
    CHECK(lq_polar_init(&book, radius, angle, group, grid) == LQ_OK);
    return book;
}

static void test_books(void)
{
    lq_polar_book book;
    const char *message = NULL;
    for (uint32_t r = 0; r < 6; r++) {
        for (uint32_t a = 0; a < 6; a++) {
            for (int grid = 0; grid < 4; grid++) {
                int fine = r >= 1 && r <= 4 && a >= 1 && a <= 4 && grid >= 1 && grid <= 2;
                CHECK(lq_polar_init(&book, r, a, 0, grid) == (fine ? LQ_OK : LQ_E_ARG));
                if (fine) CHECK(lq_polar_check(&book, 64, &message) == LQ_OK && !message);
            }
        }
    }
    CHECK(lq_polar_init(NULL, 1, 1, 0, 1) == LQ_E_ARG);
    CHECK(lq_polar_init(&book, 1, 1, 3, 1) == LQ_E_ARG);
    CHECK(lq_polar_init(&book, 1, 1, 514, 1) == LQ_E_ARG);
    for (size_t dims = 0; dims <= 300; dims++) { /* which groups divide which rows */
        size_t block = dims ? source_hadamard_block(dims) : 1;
        for (uint32_t group = 0; group <= 302; group += dims % 7 ? 2 : 1) {
            size_t g = group ? group : block < 64 ? block : 64;
            int fine = dims && dims % 2 == 0 && g % 2 == 0 && dims % g == 0;
            fine = fine && (g > block ? g % block == 0 : block % g == 0);
            book = book_of(3, 2, 0, LQ_POLAR_GAUSS);
            book.group = group;
            CHECK(lq_polar_check(&book, dims, &message) == (fine ? LQ_OK : LQ_E_ARG));
            CHECK((message == NULL) == fine);
            size_t bytes = fine ? dims / g * (2 + (g / 2 * 5 + 7) / 8) : 0;
            CHECK(lq_polar_row_bytes(&book, dims) == bytes);
        }
    }
    book = book_of(2, 2, 0, LQ_POLAR_GAUSS);
    CHECK(lq_polar_check(&book, 65536, NULL) == LQ_OK);
    CHECK(lq_polar_check(&book, 65538, NULL) == LQ_E_ARG);
    CHECK(lq_polar_check(NULL, 64, &message) == LQ_E_ARG && message);
    book.radius[2] = 1;
    CHECK(lq_polar_check(&book, 64, NULL) == LQ_E_ARG);
    book = book_of(2, 2, 0, LQ_POLAR_GAUSS);
    book.angle[3][1] = -16385;
    CHECK(lq_polar_check(&book, 64, NULL) == LQ_E_ARG && lq_polar_row_bytes(&book, 64) == 0);
    book.angle[3][1] = 0;
    book.unit = 3;
    CHECK(lq_polar_check(&book, 64, NULL) == LQ_E_ARG);
}

/* ---- polar: the reference ---- */
static uint32_t bits_at(const uint8_t *p, size_t at, uint32_t count)
{
    uint32_t v = 0;
    for (uint32_t i = 0; i < count; i++, at++) {
        v |= (uint32_t)(p[at / 8] >> at % 8 & 1) << i;
    }
    return v;
}

static double scale_at(const uint8_t *p)
{
    uint32_t code = p[0] | (uint32_t)p[1] << 8;
    return code ? ldexp(256 + (code & 255), (int)(code >> 8) - 135) : 0;
}

/* A row of codes as the manual tells it. */
static void decode_row(double *x, const lq_polar_book *book, const uint8_t *src, size_t dims)
{
    size_t block = source_hadamard_block(dims);
    size_t group = book->group ? book->group : block < 64 ? block : 64;
    uint32_t bits = book->radius_bits + book->angle_bits;
    for (size_t i = 0; i < dims; i += group) {
        double scale = scale_at(src) * sqrt((double)block) / 16384;
        for (size_t n = 0; n < group; n += 2) {
            uint32_t code = bits_at(src + 2, n / 2 * bits, bits);
            double radius = book->radius[code & ((1u << book->radius_bits) - 1)] / 16384.0;
            const int16_t *ray = book->angle[code >> book->radius_bits];
            x[i + n] = scale * floor(radius * ray[0] + 0.5);
            x[i + n + 1] = scale * floor(radius * ray[1] + 0.5);
        }
        src += 2 + (group / 2 * bits + 7) / 8;
    }
    source_rotate(x, dims, 1);
}

/* Codes of the published grid, in double: how many differ (numbers on an edge may). */
static size_t differ_square(const lq_polar_book *book, const float *src, const uint8_t *code,
                            size_t dims)
{
    double x[512];
    size_t differ = 0;
    size_t block = source_hadamard_block(dims);
    size_t group = book->group ? book->group : block < 64 ? block : 64;
    uint32_t bits = book->radius_bits + book->angle_bits;
    double most_level = (1 << book->radius_bits) - 1;
    for (size_t i = 0; i < dims; i++) {
        x[i] = (double)src[i];
    }
    source_rotate(x, dims, 0);
    for (size_t i = 0; i < dims; i += group) {
        double most = 0;
        for (size_t n = i; n < i + group; n += 2) {
            most = fmax(most, hypot(x[n], x[n + 1]));
        }
        for (size_t n = 0; n < group; n += 2) {
            double r = hypot(x[i + n], x[i + n + 1]) / most, least = 9;
            uint32_t k = 0, turns = 1u << book->angle_bits;
            for (uint32_t level = 0; level <= most_level; level++) {
                double d = fabs(r - level / most_level * (level / most_level));
                if (d < least) k = level;
                least = fmin(least, d);
            }
            double angle = atan2(x[i + n + 1], x[i + n]) / (2 * SOURCE_PI) * turns;
            uint32_t j = (uint32_t)((int)floor(angle + 0.5) + (int)turns) & (turns - 1);
            uint32_t got = bits_at(code + 2, n / 2 * bits, bits);
            differ += got != (k | j << book->radius_bits);
        }
        code += 2 + (group / 2 * bits + 7) / 8;
    }
    return differ;
}

/* Rows of many shapes: decoding against the reference, the published grid's codes, the scale of the
   least error, products, the same bytes at every level. */
static void test_reference(void)
{
    static const size_t shapes[][2] = {{64, 0},  {128, 0}, {128, 128}, {2, 0},    {96, 0},
                                       {96, 96}, {80, 80}, {512, 512}, {512, 16}, {6, 6}};
    size_t pairs = 0, differ = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const size_t dims = shapes[s][0];
        for (uint32_t w = 0; w < 32; w++) {
            const int grid = 1 + (int)(w >> 4);
            lq_polar_book book =
                book_of(1 + (w & 3), 1 + (w >> 2 & 3), (uint32_t)shapes[s][1], grid);
            const size_t rows = quick ? 2 : 8, bytes = rows * lq_polar_row_bytes(&book, dims);
            float *x = source_gaussians(rows * dims), *y = (float *)source_alloc(rows * dims * 4);
            float *query = source_gaussians(dims), logits[8];
            uint8_t *code = (uint8_t *)source_alloc(bytes), *other = (uint8_t *)source_alloc(bytes);
            size_t ws_bytes = lq_polar_logits_workspace_bytes(&book, dims);
            void *ws = source_alloc(ws_bytes);
            double reference[512], worst = 0, apart = 0;
            for (int level = 0; level <= levels; level++) {
                lq_cpu_limit(level);
                memset(other, 0x55, bytes);
                CHECK(lq_polar_encode(&book, level ? other : code, bytes, x, rows, dims) == LQ_OK);
                CHECK(level == 0 || memcmp(code, other, bytes) == 0);
            }
            lq_cpu_limit(-1);
            CHECK(lq_polar_decode(&book, y, code, bytes, rows, dims) == LQ_OK);
            CHECK(lq_polar_logits(&book, logits, query, code, bytes, rows, dims, ws, ws_bytes) ==
                  LQ_OK);
            for (size_t r = 0; r < rows; r++) {
                const uint8_t *row = code + r * (bytes / rows);
                decode_row(reference, &book, row, dims);
                for (size_t i = 0; i < dims; i++) {
                    worst = fmax(worst, fabs(reference[i] - (double)y[r * dims + i]));
                }
                apart = fmax(apart, fabs((double)logits[r] - source_dot(query, y + r * dims, dims)) /
                                        sqrt(source_dot(query, query, dims)));
                differ += grid == 1 ? differ_square(&book, x + r * dims, row, dims) : 0;
                pairs += grid == 1 ? dims / 2 : 0;
            }
            CHECK(worst < 3e-4 && apart < 3e-4 && source_finite_all(y, rows * dims));
            free(x);
            free(y);
            free(query);
            free(code);
            free(other);
            free(ws);
        }
    }
    CHECK(pairs > 20000 && differ * 2000 < pairs);
}

/* Of a group, no scale beside the stored one has less error: the factor on what is decoded is 1 but
   for its 9 bits. And the nearest point of the grid is taken: no code of a pair is better. */
static void test_least(void)
{
    for (uint32_t w = 0; w < 32; w++) {
        lq_polar_book book = book_of(1 + (w & 3), 1 + (w >> 2 & 3), 0, 1 + (int)(w >> 4));
        uint8_t code[40], other[40];
        float *x = source_gaussians(64), y[64], z[64];
        size_t bytes = lq_polar_row_bytes(&book, 64);
        uint32_t bits = book.radius_bits + book.angle_bits;
        CHECK(lq_polar_encode(&book, code, bytes, x, 1, 64) == LQ_OK);
        CHECK(lq_polar_decode(&book, y, code, bytes, 1, 64) == LQ_OK);
        double yy = source_dot(y, y, 64), xy = source_dot(x, y, 64), xx = source_dot(x, x, 64);
        CHECK(fabs(xy / yy - 1) < 0.0025);
        double error = xx + yy - 2 * xy;
        for (int n = 0; n < 32 && book.unit == LQ_POLAR_RMS; n++) {
            for (uint32_t c = 0; c < 1u << bits; c++) {
                memcpy(other, code, bytes);
                for (uint32_t i = 0; i < bits; i++) {
                    size_t at = 16 + (size_t)n * bits + i;
                    other[at / 8] = (uint8_t)(other[at / 8] & ~(1u << at % 8));
                    other[at / 8] = (uint8_t)(other[at / 8] | (c >> i & 1) << at % 8);
                }
                CHECK(lq_polar_decode(&book, z, other, bytes, 1, 64) == LQ_OK);
                double d = xx + source_dot(z, z, 64) - 2 * source_dot(x, z, 64);
                /* a pair beside an edge may lie over it: the last scale is not that it was for */
                CHECK(d > error * (1 - 0.03));
            }
        }
        free(x);
    }
}

/* ---- polar: published figures ---- */
/* Case 9 of research/01 section 6: mean cosines of 20,000 Gaussian rows of 64, and of the sample;
   WarpQuant's README, uncalibrated and calibrated, and what its recipe gives. */
static const struct {
    uint32_t radius, angle;
    double published, square, calibrated, gauss;
} cosines[] = {{4, 4, 99.2, 99.24, 0, 99.30},    {3, 4, 98.8, 98.83, 99.1, 99.13},
               {3, 3, 96.9, 96.92, 97.2, 97.22}, {2, 4, 96.5, 96.51, 98.4, 98.42},
               {2, 2, 0, 87.43, 0, 89.15},       {1, 2, 0, 75.25, 0, 86.81},
               {1, 1, 0, 53.25, 0, 61.44}};

static void test_cosines(const float *x, size_t rows, int gaussian)
{
    float *y = (float *)source_alloc(rows * 64 * 4);
    uint8_t *code = (uint8_t *)source_alloc(rows * 40);
    for (size_t i = 0; i < sizeof cosines / sizeof cosines[0]; i++) {
        for (int grid = 1; grid <= 2; grid++) {
            lq_polar_book book = book_of(cosines[i].radius, cosines[i].angle, 0, grid);
            size_t bytes = rows * lq_polar_row_bytes(&book, 64);
            double mse, said = grid == 1 ? cosines[i].published : cosines[i].calibrated;
            double known = grid == 1 ? cosines[i].square : cosines[i].gauss;
            CHECK(8.0 * (double)bytes / (double)(rows * 64) ==
                  (book.radius_bits + book.angle_bits) / 2.0 + 0.25);
            CHECK(lq_polar_encode(&book, code, bytes, x, rows, 64) == LQ_OK);
            CHECK(lq_polar_decode(&book, y, code, bytes, rows, 64) == LQ_OK);
            double got = 100 * cosine_of(x, y, rows, 64, &mse);
            CHECK(said == 0 || fabs(got - said) < 0.3);
            if (gaussian && (grid == 1 || i < 4)) CHECK(fabs(got - known) < (quick ? 0.4 : 0.08));
            if (gaussian) CHECK(got > known - (quick ? 0.4 : 0.08));
        }
    }
    free(y);
    free(code);
}

/* The rest of case 9: E8, entropy coded, has larger cosines at the same bits, even where only the
   codes' are counted; and less squared error where everything is. */
static void test_against_e8(const float *x, size_t rows)
{
    static const struct {
        uint32_t radius, angle;
        double bits, cosine;
    } known[6] = {{4, 4, 4, 99.76}, {3, 4, 3.5, 99.52}, {3, 3, 3, 99.03},
                  {2, 2, 2, 95.97}, {1, 2, 1.5, 91.38}, {1, 1, 1, 80.89}};
    size_t bound = lq_compress_bound(rows, 64, LQ_F32), written;
    uint8_t *code = (uint8_t *)source_alloc(bound);
    float *y = (float *)source_alloc(rows * 64 * 4);
    for (int i = 0; i < 6; i++) {
        lq_polar_book book = book_of(known[i].radius, known[i].angle, 0, LQ_POLAR_GAUSS);
        lq_compress_desc d;
        double mse, polar_mse;
        memset(&d, 0, sizeof d);
        d.quantizer = LQ_E8;
        d.bits = (float)known[i].bits;
        size_t ws_bytes = lq_compress_workspace_bytes(rows, 64, LQ_F32, &d);
        void *ws = source_alloc(ws_bytes);
        CHECK(lq_compress(code, bound, &written, x, rows, 64, LQ_F32, &d, ws, ws_bytes) == LQ_OK);
        free(ws);
        CHECK(8.0 * (double)written / (double)(rows * 64) < known[i].bits + 0.25);
        ws_bytes = lq_decompress_workspace_bytes(code, written);
        ws = source_alloc(ws_bytes);
        CHECK(lq_decompress(y, rows * 256, 0, code, written, NULL, ws, ws_bytes) == LQ_OK);
        free(ws);
        double e8 = 100 * cosine_of(x, y, rows, 64, &mse);
        CHECK(e8 > known[i].cosine - 0.05 && e8 < known[i].cosine + 2);
        CHECK(lq_polar_encode(&book, code, bound, x, rows, 64) == LQ_OK);
        CHECK(lq_polar_decode(&book, y, code, bound, rows, 64) == LQ_OK);
        CHECK(100 * cosine_of(x, y, rows, 64, &polar_mse) < e8 && polar_mse > 1.5 * mse);
    }
    free(code);
    free(y);
}

static void test_published(void)
{
    const size_t rows = quick ? 1500 : 20000;
    float *x;
    source_seed = 11;
    x = source_gaussians(rows * 64);
    test_cosines(x, rows, 1);
    test_against_e8(x, quick ? rows : 6000);
    free(x);
    for (int v = 0; v < 2; v++) {
        uint16_t *half = source_sample(v ? "v" : "k", SAMPLE_COUNT);
        x = (float *)source_alloc(SAMPLE_COUNT * 4);
        size_t n = 0;
        for (size_t i = 0; i < SAMPLE_COUNT; i++) { /* little-endian in the file */
            const uint8_t *b = (const uint8_t *)(half + i);
            half[i] = (uint16_t)(b[0] | b[1] << 8);
        }
        for (size_t r = 0; r < SAMPLE_COUNT / 64; r += quick ? 4 : 1, n++) {
            CHECK(lq_f32_from_type(x + n * 64, half + r * 64, 64, LQ_F16) == LQ_OK);
        }
        test_cosines(x, n, 0);
        free(half);
        free(x);
    }
}

/* ---- polar: books from samples ---- */
static lq_polar_book learnt(const float *x, size_t rows, size_t dims, uint32_t radius,
                            uint32_t angle)
{
    lq_polar_book book;
    size_t bytes = lq_polar_learn_workspace_bytes(rows, dims);
    void *ws = source_alloc(bytes);
    memset(&book, 0, sizeof book);
    book.radius_bits = radius;
    book.angle_bits = angle;
    CHECK(lq_polar_learn(&book, x, rows, dims, ws, bytes) == LQ_OK);
    CHECK(lq_polar_learn(&book, x, rows, dims, ws, bytes - 64) == LQ_E_SPACE);
    CHECK(lq_polar_check(&book, dims, NULL) == LQ_OK);
    free(ws);
    return book;
}

static double error_of(const lq_polar_book *book, const float *x, size_t rows, size_t dims)
{
    size_t bytes = rows * lq_polar_row_bytes(book, dims);
    float *y = (float *)source_alloc(rows * dims * 4);
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    double mse;
    CHECK(lq_polar_encode(book, code, bytes, x, rows, dims) == LQ_OK);
    CHECK(lq_polar_decode(book, y, code, bytes, rows, dims) == LQ_OK);
    (void)cosine_of(x, y, rows, dims, &mse);
    free(y);
    free(code);
    return mse;
}

static void test_learn(void)
{
    const size_t rows = quick ? 300 : 1000;
    float *x;
    source_seed = 12;
    x = source_gaussians(rows * 64); /* nothing to gain, and nothing lost */
    for (uint32_t w = 0; w < 16; w += quick ? 5 : 1) {
        lq_polar_book gauss = book_of(1 + w % 4, 1 + w / 4, 0, LQ_POLAR_GAUSS);
        lq_polar_book book = learnt(x, rows, 64, 1 + w % 4, 1 + w / 4);
        double ratio = error_of(&book, x, rows, 64) / error_of(&gauss, x, rows, 64);
        CHECK(ratio > 0.97 && ratio < 1.002);
    }
    for (size_t r = 0; r < rows; r++) { /* two circles and four rays, 17 degrees off */
        for (size_t i = 0; i < 64; i += 2) {
            double radius = i % 4 ? 0.6 : 1.4;
            double angle = 17 * SOURCE_PI / 180 + SOURCE_PI / 2 * source_below(4);
            x[r * 64 + i] = (float)(radius * cos(angle));
            x[r * 64 + i + 1] = (float)(radius * sin(angle));
        }
    }
    CHECK(lq_unrotate_f32(x, rows, 64) == LQ_OK);
    lq_polar_book gauss = book_of(1, 2, 0, LQ_POLAR_GAUSS);
    lq_polar_book book = learnt(x, rows, 64, 1, 2);
    CHECK(error_of(&gauss, x, rows, 64) > 0.05 && error_of(&book, x, rows, 64) < 1e-4);
    double turn = atan2(book.angle[0][1], book.angle[0][0]) * 180 / SOURCE_PI;
    CHECK(fabs(turn - 17) < 0.2 && fabs(book.radius[1] / (double)book.radius[0] - 7.0 / 3) < 0.01);
    size_t bytes = lq_polar_learn_workspace_bytes(2, 64);
    void *ws = source_alloc(bytes);
    memset(x, 0, 2 * 64 * 4);
    CHECK(lq_polar_learn(&book, x, 2, 64, ws, bytes) == LQ_E_DATA);
    x[64] = 1; /* one row of one number: all pairs alike but for signs */
    CHECK(lq_polar_learn(&book, x, 2, 64, ws, bytes) == LQ_OK);
    x[64] = (float)HUGE_VAL;
    CHECK(lq_polar_learn(&book, x, 2, 64, ws, bytes) == LQ_E_DATA);
    x[64] = 1e30f;
    CHECK(lq_polar_learn(&book, x, 2, 64, ws, bytes) == LQ_E_RANGE);
    CHECK(lq_polar_learn(NULL, x, 2, 64, ws, bytes) == LQ_E_ARG);
    CHECK(lq_polar_learn(&book, NULL, 2, 64, ws, bytes) == LQ_E_ARG);
    CHECK(lq_polar_learn(&book, x, 0, 64, ws, bytes) == LQ_E_ARG);
    CHECK(lq_polar_learn(&book, x, 2, 63, ws, bytes) == LQ_E_ARG);
    CHECK(lq_polar_learn(&book, x, 2, 64, NULL, bytes) == LQ_E_SPACE);
    book.angle_bits = 5;
    CHECK(lq_polar_learn(&book, x, 2, 64, ws, bytes) == LQ_E_ARG);
    CHECK(lq_polar_learn_workspace_bytes(SIZE_MAX / 2, 64) == 0);
    free(ws);
    free(x);
}

/* ---- polar: what is refused ---- */
static void test_polar_errors(void)
{
    lq_polar_book book = book_of(3, 3, 16, LQ_POLAR_GAUSS);
    size_t bytes = 3 * lq_polar_row_bytes(&book, 64);
    size_t ws_bytes = lq_polar_logits_workspace_bytes(&book, 64);
    float *x = source_gaussians(3 * 64), *y = source_gaussians(3 * 64), logits[3];
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    void *ws = source_alloc(ws_bytes);
    CHECK(lq_polar_encode(&book, code, bytes - 1, x, 3, 64) == LQ_E_SPACE);
    CHECK(lq_polar_encode(&book, code, bytes, x, SIZE_MAX, 64) == LQ_E_SPACE);
    CHECK(lq_polar_encode(NULL, code, bytes, x, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_encode(&book, NULL, bytes, x, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_encode(&book, code, bytes, NULL, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_encode(&book, code, bytes, x, 3, 62) == LQ_E_ARG);
    CHECK(lq_polar_encode(&book, NULL, 0, NULL, 0, 64) == LQ_OK);
    for (size_t i = 0; i < 3 * 64; i += 7) {
        static const double bad[4] = {HUGE_VAL, -HUGE_VAL, 1e30, -3.2e29};
        float was = x[i];
        for (int n = 0; n < 5; n++) {
            x[i] = n < 4 ? (float)bad[n] : lq_f32_from_f16(0x7e01);
            int status = n == 2 || n == 3 ? LQ_E_RANGE : LQ_E_DATA;
            CHECK(lq_polar_encode(&book, code, bytes, x, 3, 64) == status);
        }
        x[i] = was;
    }
    CHECK(lq_polar_encode(&book, code, bytes, x, 3, 64) == LQ_OK);
    CHECK(lq_polar_decode(&book, y, code, bytes - 1, 3, 64) == LQ_E_SPACE);
    CHECK(lq_polar_decode(NULL, y, code, bytes, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_decode(&book, NULL, code, bytes, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_decode(&book, y, NULL, bytes, 3, 64) == LQ_E_ARG);
    CHECK(lq_polar_logits(&book, logits, x, code, bytes - 1, 3, 64, ws, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_polar_logits(&book, logits, x, code, bytes, 3, 64, ws, ws_bytes - 64) == LQ_E_SPACE);
    CHECK(lq_polar_logits(&book, logits, x, code, bytes, 3, 64, NULL, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_polar_logits(NULL, logits, x, code, bytes, 3, 64, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_polar_logits(&book, NULL, x, code, bytes, 3, 64, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_polar_logits(&book, logits, NULL, code, bytes, 3, 64, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_polar_logits(&book, logits, x, NULL, bytes, 3, 64, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_polar_logits_workspace_bytes(&book, 62) == 0);
    x[5] = lq_f32_from_f16(0x7e01);
    CHECK(lq_polar_logits(&book, logits, x, code, bytes, 3, 64, ws, ws_bytes) == LQ_E_DATA);
    for (int e = -100; e <= 97; e++) { /* sizes: far below 1 all are zeros, else nothing changes */
        double mse;
        for (size_t i = 0; i < 3 * 64; i++) {
            x[i] = (float)ldexp(0.2 + (double)(i * 37 % 64) / 80, e);
        }
        CHECK(lq_polar_encode(&book, code, bytes, x, 3, 64) == LQ_OK);
        CHECK(lq_polar_decode(&book, y, code, bytes, 3, 64) == LQ_OK);
        for (size_t i = 0; i < 3 * 64; i++) {
            x[i] = (float)ldexp((double)x[i], -e);
            y[i] = (float)ldexp((double)y[i], -e);
        }
        (void)cosine_of(x, y, 3, 64, &mse);
        CHECK(e < -79 ? mse == 1 : mse < 0.08);
    }
    free(x);
    free(y);
    free(code);
    free(ws);
}

/* Any bytes, any valid book: finite numbers or LQ_E_DATA; books of random bytes. */
static void test_polar_hostile(void)
{
    static const size_t shapes[][2] = {{64, 0}, {128, 4},   {96, 96},
                                       {30, 2}, {512, 512}, {510, 510}};
    int fine = 0, refused = 0, books = 0;
    for (int n = 0; n < (quick ? 2000 : 30000); n++) {
        const size_t *shape = shapes[source_below(6)];
        lq_polar_book book;
        uint64_t random[2] = {source_u64(), source_u64()};
        book = book_of(1 + source_below(4), 1 + source_below(4), (uint32_t)shape[1], 2);
        for (int k = 1; k < 16; k++) { /* rising, far apart */
            book.radius[k] = (uint16_t)(book.radius[k - 1] + random[k & 1] % 4000);
            book.angle[k][k & 1] = (int16_t)((int)(random[k & 1] >> 32) % 16385);
        }
        if (lq_polar_check(&book, shape[0], NULL) != LQ_OK) continue;
        size_t bytes = lq_polar_row_bytes(&book, shape[0]);
        size_t ws_bytes = lq_polar_logits_workspace_bytes(&book, shape[0]);
        uint8_t *code = (uint8_t *)source_alloc(bytes);
        float *y = (float *)source_alloc(shape[0] * 4), logit;
        void *ws = source_alloc(ws_bytes);
        uint64_t mild = source_below(8); /* scales that are more often valid */
        for (size_t i = 0; i < bytes; i++) {
            code[i] = (uint8_t)(mild ? 0x1b + source_u64() % 0xc8 : source_u64());
        }
        int status = lq_polar_decode(&book, y, code, bytes, 1, shape[0]);
        CHECK(status == LQ_E_DATA || (status == LQ_OK && source_finite_all(y, shape[0])));
        memset(y, 0, shape[0] * 4);
        CHECK(lq_polar_logits(&book, &logit, y, code, bytes, 1, shape[0], ws, ws_bytes) == status);
        CHECK(status || logit == 0);
        fine += status == LQ_OK;
        refused += status == LQ_E_DATA;
        free(code);
        free(y);
        free(ws);
        for (size_t i = 0; i < sizeof book; i++) { /* nothing but a status */
            ((uint8_t *)&book)[i] = (uint8_t)(source_below(2) ? source_u64() : 1);
        }
        books += lq_polar_check(&book, 64, NULL) == LQ_OK;
    }
    CHECK(fine > 100 && refused > 20 && books < 30000);
}

/* ---- QJL ---- */
static const lq_qjl *sketch_of(void **mem, uint32_t dims, uint32_t signs, uint32_t rounds,
                               uint32_t projection, uint32_t scale, uint32_t seed)
{
    const lq_qjl *q = NULL;
    lq_qjl_desc d;
    d.dims = dims;
    d.signs = signs;
    d.rounds = rounds;
    d.projection = projection;
    d.scale = scale;
    d.seed = seed;
    *mem = source_alloc(lq_qjl_bytes(&d));
    CHECK(lq_qjl_init(&q, *mem, lq_qjl_bytes(&d), &d) == LQ_OK);
    return q;
}

/* Rows there and back. */
static void there_and_back(const lq_qjl *q, float *y, const float *x, size_t rows)
{
    size_t bytes = rows * lq_qjl_row_bytes(q), ws_bytes = lq_qjl_workspace_bytes(q);
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    void *ws = source_alloc(ws_bytes);
    CHECK(lq_qjl_encode(q, code, bytes, x, rows, ws, ws_bytes) == LQ_OK);
    CHECK(lq_qjl_decode(q, y, code, bytes, rows, ws, ws_bytes) == LQ_OK);
    free(code);
    free(ws);
}

/* random(i) of a round, as the manual tells it. */
static uint64_t random_of(uint64_t seed, uint64_t round, uint64_t i)
{
    uint64_t z = ((seed << 32) + (round << 30) + i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* One sign decodes to a row of the matrix: against Box and Muller in double; moments. */
static void test_projections(void)
{
    double moment[5] = {0, 0, 0, 0, 0};
    double worst = 0;
    const int seeds = quick ? 10 : 60;
    for (int seed = 0; seed < seeds; seed++) {
        static float x[2048], y[2048];
        void *mem;
        const lq_qjl *q = sketch_of(&mem, 2048, 1, 1, LQ_QJL_GAUSSIAN, 0, (uint32_t)seed);
        uint8_t row[3] = {0, 0x7f, 1}; /* 2^0 S_1 */
        size_t bytes = lq_qjl_workspace_bytes(q);
        void *ws = source_alloc(bytes);
        memset(x, 0, sizeof x);
        CHECK(lq_qjl_decode(q, y, row, 3, 1, ws, bytes) == LQ_OK);
        for (uint32_t i = 0; i < 2048; i++) {
            uint64_t bits = random_of((uint32_t)seed, 0, i & ~1u);
            double radius = sqrt(-2 * log(((double)(bits >> 32) + 1) / 4294967296.0));
            double angle = 2 * SOURCE_PI * (double)(uint32_t)bits / 4294967296.0;
            double v = (double)y[i] / 4096;
            worst = fmax(worst, fabs(v - radius * (i & 1 ? sin(angle) : cos(angle))));
            for (int k = 1; k <= 4; k++) {
                moment[k] += pow(v, k) / (2048.0 * seeds);
            }
        }
        free(ws);
        free(mem);
    }
    double se = 1 / sqrt(2048.0 * seeds);
    CHECK(worst < 0.02 && fabs(moment[1]) < 4 * se && fabs(moment[2] - 1) < 4 * 1.42 * se);
    CHECK(fabs(moment[3]) < 4 * 3.9 * se && fabs(moment[4] - 3) < 4 * 9.8 * se);
}

/* Case 10 of research/01 section 6: how much of a row's length 1, 2 and 3 rounds take, the mean over
   rows and seeds, 64 dims; squared errors of the unbiased scale. */
static void test_rounds(void)
{
    static const double want[2][3] = {{.23, .40, .54}, {.40, .64, .79}};
    const size_t rows = quick ? 100 : 1000;
    const uint32_t seeds = 16;
    float *x, *y = (float *)source_alloc(rows * 64 * 4);
    source_seed = 13;
    x = source_gaussians(rows * 64);
    for (uint32_t projection = 1; projection <= 2; projection++) {
        for (uint32_t rounds = 1; rounds <= 4; rounds++) { /* 4: one, unbiased */
            double sum = 0, energy = 0;
            for (uint32_t seed = 0; seed < seeds; seed++) {
                void *mem;
                const lq_qjl *q = sketch_of(&mem, 64, 0, rounds < 4 ? rounds : 1, projection,
                                            rounds < 4 ? 1 : 2, seed);
                there_and_back(q, y, x, rows);
                for (size_t r = 0; r < rows; r++) {
                    const float *a = x + r * 64, *b = y + r * 64;
                    double xx = source_dot(a, a, 64);
                    double left = (xx + source_dot(b, b, 64) - 2 * source_dot(a, b, 64)) / xx;
                    sum += sqrt(left) / (double)rows / seeds;
                    energy += left / (double)rows / seeds;
                }
                free(mem);
            }
            if (rounds < 4) CHECK(fabs(1 - sum - want[projection - 1][rounds - 1]) < .01);
            if (rounds == 3 && projection == 1)
                CHECK(1 - sum > .535); /* fitted together; else .533 */
            if (rounds == 1 && projection == 2) CHECK(fabs(energy - .363) < .01);
            /* 1 / (c^2 64) - 1, and pi / 2 (63 / 64) + (pi / 2 - 1) / 64; research/01 has .571, that
               of many dims, and 1.49 */
            if (rounds == 4)
                CHECK(fabs(energy - (projection == 1 ? 1.555 : .559)) < (quick ? .04 : .02));
        }
    }
    free(x);
    free(y);
}

/* Products of pairs that have something in common, estimated without bias: 10^6 pairs of each
   projection, 200 seeds. Of two rounds errors of one seed are alike, so their deviation is that of
   the seeds' means. The scale of the least error is biased, and the test must see that. */
static void test_unbiased(void)
{
    enum { DIMS = 24, POOL = 5000, LEAST = 3 };
    float *x, *y = (float *)source_alloc(POOL * DIMS * 4);
    source_seed = 14;
    x = source_gaussians(POOL * DIMS);
    for (uint32_t kind = 0; kind <= LEAST; kind++) {
        const uint32_t seeds = quick ? 10 : kind < 2 ? 200 : 40;
        double sum = 0, squares = 0, means = 0;
        for (uint32_t seed = 0; seed < seeds; seed++) {
            void *mem;
            const lq_qjl *q = sketch_of(&mem, DIMS, 0, kind == 2 ? 2 : 1, kind == 1 ? 2 : 1,
                                        kind == LEAST ? 1 : 2, 1000 * kind + seed);
            size_t with = 1 + source_below(POOL - 1);
            double own = 0;
            there_and_back(q, y, x, POOL);
            for (size_t r = 0; r < POOL; r++) {
                const float *a = x + r * DIMS, *b = y + r * DIMS;
                const float *c = x + (r + with) % POOL * DIMS;
                double aa = 0, product = 0; /* the query is a + c */
                for (size_t i = 0; i < DIMS; i++) {
                    double query = (double)a[i] + (double)c[i];
                    product += query * ((double)b[i] - (double)a[i]);
                    aa += (double)a[i] * (double)a[i];
                }
                own += product / aa;
                squares += product / aa * (product / aa);
            }
            sum += own;
            means += own / POOL * (own / POOL);
            free(mem);
        }
        double n = (double)POOL * seeds, mean = sum / n;
        double se = sqrt((squares / n - mean * mean) / n);
        double se_seeds = sqrt((means / seeds - mean * mean) / seeds);
        double apart = fabs(mean) / fmax(se, se_seeds);
        CHECK(kind < LEAST ? apart < 3 : apart > 30);
    }
    free(x);
    free(y);
}

/* Estimates as decoded rows times the query; signs that are not dims; the same bytes at every level;
   any size of numbers. */
static void test_sketches(void)
{
    static const uint32_t shapes[][2] = {{64, 64}, {1, 1},     {7, 7},
                                         {96, 96}, {128, 128}, {2048, 2048}};
    for (uint32_t s = 0; s < 6; s++) {
        for (uint32_t w = 0; w < 12; w++) {
            uint32_t dims = shapes[s][0], projection = 1 + (w & 1), rounds = 1 + w / 4;
            if (dims == 2048 && projection == 1 && rounds > 1) continue;
            uint32_t signs = projection == 1 ? 1 + source_below(dims) : 0;
            void *mem;
            const lq_qjl *q = sketch_of(&mem, dims, signs, rounds, projection, 1 + (w >> 1 & 1), w);
            size_t rows = 3, bytes = rows * lq_qjl_row_bytes(q);
            size_t ws_bytes = lq_qjl_workspace_bytes(q);
            float *x = source_gaussians(rows * dims), *y = (float *)source_alloc(rows * dims * 4);
            float *query = source_gaussians(dims), logits[3];
            uint8_t *code = (uint8_t *)source_alloc(bytes), *other = (uint8_t *)source_alloc(bytes);
            void *ws = source_alloc(ws_bytes);
            CHECK(bytes == rows * rounds * (2 + ((signs ? signs : dims) + 7) / 8));
            for (int level = 0; level <= levels; level++) {
                lq_cpu_limit(level);
                memset(other, 0x55, bytes);
                CHECK(lq_qjl_encode(q, level ? other : code, bytes, x, rows, ws, ws_bytes) ==
                      LQ_OK);
                CHECK(level == 0 || memcmp(code, other, bytes) == 0);
            }
            lq_cpu_limit(-1);
            CHECK(lq_qjl_decode(q, y, code, bytes, rows, ws, ws_bytes) == LQ_OK);
            CHECK(lq_qjl_logits(q, logits, query, code, bytes, rows, ws, ws_bytes) == LQ_OK);
            for (size_t r = 0; r < rows; r++) {
                double length =
                    sqrt(source_dot(query, query, dims) * source_dot(y + r * dims, y + r * dims, dims));
                double apart = (double)logits[r] - source_dot(query, y + r * dims, dims);
                CHECK(fabs(apart) < 1e-4 * length + 1e-6);
            }
            for (size_t i = 0; i < rows * dims; i++) { /* a power of two changes but the scale */
                x[i] = (float)ldexp((double)x[i], -70);
            }
            there_and_back(q, x, x, rows);
            double worst = 0;
            for (size_t i = 0; i < rows * dims; i++) {
                worst = fmax(worst, fabs(ldexp((double)x[i], 70) - (double)y[i]));
            }
            CHECK(worst == 0);
            free(x);
            free(y);
            free(query);
            free(code);
            free(other);
            free(ws);
            free(mem);
        }
    }
}

static void test_qjl_errors(void)
{
    lq_qjl_desc d;
    const lq_qjl *q;
    const char *message = NULL;
    memset(&d, 0, sizeof d);
    CHECK(lq_qjl_check(&d, &message) == LQ_E_ARG && message && lq_qjl_bytes(&d) == 0);
    CHECK(lq_qjl_check(NULL, &message) == LQ_E_ARG && message);
    for (uint32_t i = 0; i < 4096; i++) {
        static const uint32_t sizes[8] = {0, 1, 8, 64, 65, 2048, 2049, 0xffffffffu};
        d.dims = sizes[i & 7];
        d.signs = sizes[i >> 3 & 7];
        d.rounds = i >> 6 & 3;
        d.projection = i >> 8 & 3;
        d.scale = i >> 10 & 3;
        int fine = d.dims && d.dims <= 2048 && d.signs <= 2048 && d.projection < 3 && d.scale < 3;
        fine = fine && (d.projection == 1 || d.signs == 0 || d.signs == d.dims);
        CHECK(lq_qjl_check(&d, &message) == (fine ? LQ_OK : LQ_E_ARG));
        CHECK((message == NULL) == fine && (lq_qjl_bytes(&d) != 0) == fine);
    }
    memset(&d, 0, sizeof d);
    d.dims = 16;
    d.rounds = 4;
    CHECK(lq_qjl_check(&d, NULL) == LQ_E_ARG);
    d.rounds = 2;
    size_t bytes = lq_qjl_bytes(&d);
    uint8_t *mem = (uint8_t *)source_alloc(bytes + 64);
    CHECK(lq_qjl_init(NULL, mem, bytes, &d) == LQ_E_ARG);
    CHECK(lq_qjl_init(&q, NULL, bytes, &d) == LQ_E_ARG);
    CHECK(lq_qjl_init(&q, mem, bytes, NULL) == LQ_E_ARG);
    CHECK(lq_qjl_init(&q, mem, bytes - 1, &d) == LQ_E_SPACE);
    CHECK(lq_qjl_init(&q, mem + 13, bytes, &d) == LQ_OK);
    CHECK(lq_qjl_row_bytes(NULL) == 0 && lq_qjl_workspace_bytes(NULL) == 0);
    size_t ws_bytes = lq_qjl_workspace_bytes(q);
    void *ws = source_alloc(ws_bytes);
    uint8_t code[8] = {0};
    float x[16] = {1, 2, 3}, y[16];
    CHECK(lq_qjl_row_bytes(q) == 8);
    CHECK(lq_qjl_encode(q, code, 8, x, 1, ws, ws_bytes) == LQ_OK);
    CHECK(lq_qjl_encode(q, code, 7, x, 1, ws, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_qjl_encode(q, code, 8, x, 1, ws, ws_bytes - 1) == LQ_E_SPACE);
    CHECK(lq_qjl_encode(q, code, 8, x, 1, NULL, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_qjl_encode(NULL, code, 8, x, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_encode(q, NULL, 8, x, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_encode(q, code, 8, NULL, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_decode(q, y, code, 7, 1, ws, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_qjl_decode(q, y, code, 8, 1, ws, ws_bytes - 1) == LQ_E_SPACE);
    CHECK(lq_qjl_decode(q, NULL, code, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_decode(q, y, NULL, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_decode(NULL, y, code, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_logits(q, y, x, code, 7, 1, ws, ws_bytes) == LQ_E_SPACE);
    CHECK(lq_qjl_logits(q, y, x, code, 8, 1, ws, ws_bytes - 1) == LQ_E_SPACE);
    CHECK(lq_qjl_logits(q, NULL, x, code, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_logits(q, y, NULL, code, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_logits(q, y, x, NULL, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    CHECK(lq_qjl_logits(NULL, y, x, code, 8, 1, ws, ws_bytes) == LQ_E_ARG);
    x[15] = (float)-HUGE_VAL;
    CHECK(lq_qjl_encode(q, code, 8, x, 1, ws, ws_bytes) == LQ_E_DATA);
    CHECK(lq_qjl_logits(q, y, x, code, 8, 1, ws, ws_bytes) == LQ_E_DATA);
    x[15] = lq_f32_from_f16(0x7e01);
    CHECK(lq_qjl_encode(q, code, 8, x, 1, ws, ws_bytes) == LQ_E_DATA);
    x[15] = 1e30f;
    CHECK(lq_qjl_encode(q, code, 8, x, 1, ws, ws_bytes) == LQ_E_RANGE);
    memset(x, 0, sizeof x); /* zeros stay zeros */
    there_and_back(q, y, x, 1);
    CHECK(source_dot(y, y, 16) == 0);
    free(ws);
    free(mem);
}

static void test_qjl_hostile(void)
{
    int fine = 0, refused = 0;
    for (uint32_t n = 0; n < (quick ? 300 : 5000); n++) {
        uint32_t dims = 1 + source_below(n % 50 ? 80 : 2048), projection = 1 + source_below(2);
        void *mem;
        const lq_qjl *q = sketch_of(&mem, dims, projection == 1 ? 1 + source_below(40) : 0,
                                    1 + source_below(3), projection, 1, n);
        size_t bytes = lq_qjl_row_bytes(q), ws_bytes = lq_qjl_workspace_bytes(q);
        uint8_t *code = (uint8_t *)source_alloc(bytes);
        float *y = (float *)source_alloc(dims * 4), logit;
        void *ws = source_alloc(ws_bytes);
        for (size_t i = 0; i < bytes; i++) {
            code[i] = (uint8_t)source_u64();
        }
        int status = lq_qjl_decode(q, y, code, bytes, 1, ws, ws_bytes);
        CHECK(status == LQ_E_DATA || (status == LQ_OK && source_finite_all(y, dims)));
        memset(y, 0, dims * 4);
        CHECK(lq_qjl_logits(q, &logit, y, code, bytes, 1, ws, ws_bytes) == status);
        fine += status == LQ_OK;
        refused += status == LQ_E_DATA;
        free(code);
        free(y);
        free(ws);
        free(mem);
    }
    CHECK(fine > 50 && refused > 50);
}

/* What may not change: codes of rows, the numbers that they stand for, books of samples. */
static void test_format(void)
{
    static float x[24 * 64], y[24 * 64];
    static uint8_t code[24 * 64];
    uint32_t hash[3] = {2166136261u, 2166136261u, 2166136261u};
    source_seed = 9;
    for (size_t i = 0; i < 24 * 64; i++) {
        x[i] = (float)source_integer_gauss();
    }
    for (uint32_t w = 0; w < 48; w++) {
        lq_polar_book book = book_of(1 + (w & 3), 1 + (w >> 2 & 3), 0, w < 16 ? 1 : 2);
        if (w >= 32) {
            book = learnt(x, 24, 64, book.radius_bits, book.angle_bits);
            for (int k = 0; k < 16; k++) {
                hash[1] =
                    digest(digest(digest(hash[1], book.radius[k]), (uint16_t)book.angle[k][0]),
                           (uint16_t)book.angle[k][1]);
            }
        }
        size_t dims = w % 3 ? 64 : 96, rows = 24 * 64 / dims;
        size_t bytes = rows * lq_polar_row_bytes(&book, dims);
        CHECK(bytes <= sizeof code && lq_polar_encode(&book, code, bytes, x, rows, dims) == LQ_OK);
        CHECK(lq_polar_decode(&book, y, code, bytes, rows, dims) == LQ_OK);
        hash[0] = digest_floats(digest_bytes(hash[0], code, bytes), y, rows * dims);
    }
    for (uint32_t w = 0; w < 12; w++) {
        void *mem;
        const lq_qjl *q =
            sketch_of(&mem, 96, w & 1 ? 0 : 50, 1 + w / 4, 1 + (w & 1), 1 + (w >> 1 & 1), w);
        size_t bytes = 16 * lq_qjl_row_bytes(q), ws_bytes = lq_qjl_workspace_bytes(q);
        void *ws = source_alloc(ws_bytes);
        CHECK(bytes <= sizeof code && lq_qjl_encode(q, code, bytes, x, 16, ws, ws_bytes) == LQ_OK);
        CHECK(lq_qjl_decode(q, y, code, bytes, 16, ws, ws_bytes) == LQ_OK);
        hash[2] = digest_floats(digest_bytes(hash[2], code, bytes), y, 16 * 96);
        free(ws);
        free(mem);
    }
    if (!CHECK(hash[0] == 0xade0fcf7u && hash[1] == 0x1aed8a3au && hash[2] == 0x0cb4b5ebu)) {
        fprintf(stderr, "0x%08xu 0x%08xu 0x%08xu\n", (unsigned)hash[0], (unsigned)hash[1],
                (unsigned)hash[2]);
    }
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_books();
    test_reference();
    test_least();
    test_published();
    test_learn();
    test_polar_errors();
    test_polar_hostile();
    test_projections();
    test_rounds();
    test_unbiased();
    test_sketches();
    test_qjl_errors();
    test_qjl_hostile();
    test_format();
    return check_report("test_polar");
}
