/* cc -std=c99 -O2 tests/test_rows.c -o test_rows -lm    The row kernels, every SIMD level against the C code,
   bit for bit: numbers at the ends of their ranges, every count that leaves a tail, every type. The
   integer products are test_product's. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#include "../latticequant.h"

#include "check.h"
#include "source.h"

enum { TOKENS = 64, ROUNDS = 200 };

static const lq__row_kernels *plain; /* the C code */
static const lq__row_kernels *level;

static int32_t within(int32_t most)
{
    return (int32_t)((int64_t)source_below((uint32_t)most * 2 + 1) - most);
}

/* One in eight lies at an end. */
static void fill(int32_t *x, size_t count, int32_t most)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t kind = source_below(16);
        x[i] = kind == 0 ? most : kind == 1 ? -most : within(most);
    }
}

static void fill_floats(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)within(1 << 20) / 4096.0f;
    }
}

#define SAME(a, b) (memcmp(a, b, sizeof a) == 0)

/* Any bits as numbers of a type; NaNs, infinities and subnormals are frequent. */
static void fill_bits(uint8_t *src, size_t count, int type)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t u = (uint32_t)source_u64();
        uint32_t kind = source_below(8);
        if (kind < 2) u = kind ? u | 0x7f807c00u : u & 0x807f83ffu;
        uint16_t h = (uint16_t)u;
        memcpy(src + i * lq_type_bytes(type), type == LQ_F32 ? (void *)&u : (void *)&h,
               lq_type_bytes(type));
    }
}

/* ---- floats and types ---- */
static void test_types(void)
{
    static const int types[3] = {LQ_F32, LQ_F16, LQ_BF16};
    for (int round = 0; round < ROUNDS; round++) {
        int type = types[round % 3];
        size_t count = source_below(80);
        size_t bytes = lq_type_bytes(type);
        uint8_t *src = (uint8_t *)source_alloc(count * bytes + 1);
        float x[2][80], center[80];
        memset(x, 0, sizeof x);
        int32_t fixed[2][80];
        memset(fixed, 0, sizeof fixed);
        uint8_t narrow[2][320];
        memset(narrow, 0, sizeof narrow);
        fill_bits(src, count, type);
        plain->load_row(x[0], src, count, type);
        level->load_row(x[1], src, count, type);
        CHECK(SAME(x[0], x[1]));
        fill_bits((uint8_t *)x[0], count, LQ_F32);
        int beyond[2];
        beyond[0] = plain->narrow_row(narrow[0], x[0], count, type);
        beyond[1] = level->narrow_row(narrow[1], x[0], count, type);
        CHECK(SAME(narrow[0], narrow[1]));
        CHECK(beyond[1] == beyond[0] || type == LQ_F32);
        fill_floats(center, 80);
        for (size_t i = 0; i < count; i++) { /* finite, below the limit of the exponent */
            uint32_t u = lq__element_bits(src, i, type);
            lq__element_store(src, i, type, (float)(int32_t)(u >> 8) / 65536.0f);
        }
        plain->center_row(x[0], src, type, center, count);
        level->center_row(x[1], src, type, center, count);
        CHECK(memcmp(x[0], x[1], count * sizeof *center) == 0);
        uint32_t most[2];
        for (int e = -12; e <= 128; e += 35) {
            most[0] = plain->fixed_row(fixed[0], src, type, count, e);
            most[1] = level->fixed_row(fixed[1], src, type, count, e);
            CHECK(SAME(fixed[0], fixed[1]) && most[0] == most[1]);
        }
        free(src);
    }
}

static void test_floats(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        float a[2][TOKENS], b[2][TOKENS], c[TOKENS], s[TOKENS], x[2][512];
        float tall[32 * TOKENS], turned[2][8 * 32];
        int32_t row[TOKENS];
        size_t count = source_below(33);
        fill(row, TOKENS, 1 << 30);
        fill_floats(c, TOKENS);
        fill_floats(s, TOKENS);
        plain->float_row(a[0], row, c);
        level->float_row(a[1], row, c);
        CHECK(SAME(a[0], a[1]));
        plain->center_floats(b[0], row, c, s, 0.7f, 3.0f);
        level->center_floats(b[1], row, c, s, 0.7f, 3.0f);
        CHECK(SAME(b[0], b[1]));
        plain->rope_floats(a[0], b[0], c, s);
        level->rope_floats(a[1], b[1], c, s);
        CHECK(SAME(a[0], a[1]) && SAME(b[0], b[1]));
        for (size_t block = 1; block <= 512; block *= 2) {
            fill_floats(x[0], 512);
            memcpy(x[1], x[0], sizeof x[0]);
            plain->butterfly(x[0], block);
            level->butterfly(x[1], block);
            CHECK(SAME(x[0], x[1]));
        }
        memset(turned, 0, sizeof turned);
        fill_floats(tall, 32 * TOKENS);
        plain->turn_rows(turned[0], tall, count);
        level->turn_rows(turned[1], tall, count);
        CHECK(SAME(turned[0], turned[1]));
    }
}

/* ---- the front in integers ---- */
static void test_front(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        static int32_t rows[2][128 * TOKENS];
        int32_t a[2][TOKENS], b[2][TOKENS], c[2][TOKENS], s[2][TOKENS];
        uint32_t u[TOKENS];
        for (size_t t = 0; t < TOKENS; t++) {
            u[t] = (uint32_t)source_u64() & ~(source_below(4) ? 0 : 0x1fffffffu);
        }
        plain->sincos_row(s[0], c[0], u);
        level->sincos_row(s[1], c[1], u);
        CHECK(SAME(s[0], s[1]) && SAME(c[0], c[1]));
        fill(a[0], TOKENS, 1 << 20);
        fill(b[0], TOKENS, 1 << 20);
        memcpy(a[1], a[0], sizeof a[0]);
        memcpy(b[1], b[0], sizeof b[0]);
        plain->rope_rows(a[0], b[0], c[0], s[0]);
        level->rope_rows(a[1], b[1], c[0], s[0]);
        CHECK(SAME(a[0], a[1]) && SAME(b[0], b[1]));
        for (size_t t = 0; t < TOKENS; t++) {
            u[t] = (1u << 29) + source_below((1u << 29) + 1);
        }
        plain->scale_row(a[0], u, 26 + round % 6);
        level->scale_row(a[1], u, 26 + round % 6);
        CHECK(SAME(a[0], a[1]));
        fill(rows[0], 128 * TOKENS, 1 << 21);
        memcpy(rows[1], rows[0], sizeof rows[0]);
        plain->butterfly_rows(rows[0], (size_t)1 << round % 8);
        level->butterfly_rows(rows[1], (size_t)1 << round % 8);
        CHECK(SAME(rows[0], rows[1]));
    }
}

static void test_sums(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        size_t count = source_below(257);
        size_t few = source_below(65);
        int32_t x[256], edge[5];
        uint64_t square[2] = {0, 0}, beyond[2][5];
        int32_t origin = within(round & 1 ? 1 << 10 : (1 << 30) - 1);
        fill(x, 256, 1 << 16);
        CHECK(plain->squares_row(x, count) == level->squares_row(x, count));
        int64_t sum[2][256];
        for (size_t i = 0; i < 256; i++) {
            sum[0][i] = sum[1][i] = within(1 << 30) * ((int64_t)1 << 20);
        }
        fill(x, 256, INT32_MAX);
        plain->add_row(sum[0], x, count);
        level->add_row(sum[1], x, count);
        CHECK(SAME(sum[0], sum[1]));
        /* 2^27 is where the vectors leave it to the C code */
        fill(x, 256, round % 3 == 0 ? (1 << 30) - 1 : round % 3 == 1 ? (1 << 27) - 1 : 1 << 20);
        origin = round % 3 == 1 ? (round & 1 ? 1 : -1) * ((1 << 27) - 1) : origin;
        square[0] = square[1] = round % 5 ? source_below(1000) : UINT64_MAX - 5;
        plain->moments_row(&sum[0][0], &square[0], x, origin, few);
        level->moments_row(&sum[1][0], &square[1], x, origin, few);
        CHECK(sum[0][0] == sum[1][0] && square[0] == square[1]);
        fill(x, 256, (4096 << 7) - 1);
        for (int j = 0; j < 5; j++) {
            edge[j] = (int32_t)source_below(round % 7 ? 4096 : 2);
            beyond[0][j] = beyond[1][j] = source_u64() >> 8;
        }
        plain->beyond_row(beyond[0], x, count, edge);
        level->beyond_row(beyond[1], x, count, edge);
        CHECK(SAME(beyond[0], beyond[1]));
    }
}

/* ---- points ---- */
/* Every quantizer, two blocks of it, with rows of 64 columns or fewer. */
static void test_points(void)
{
    enum { DIMS = 2 * (int)LQ__BLOCK_DIMS, ROWS = 2 * (int)LQ__BLOCK_ROWS };
    for (int round = 0; round < 5 * ROUNDS; round++) {
        int32_t y[DIMS * TOKENS], back[2][TOKENS], mean[DIMS], shift[4];
        lq__row_data row[DIMS];
        int32_t most = round % 3 ? 1 << 16 : (1 << 26) - 4096; /* z fits 16 bits */
        int32_t dead = (int32_t)source_below(LQ__ONE / 2 + 1);
        size_t columns = 16 + 16 * source_below(4);
        memset(row, 0, sizeof row);
        fill(y, DIMS * TOKENS, most);
        fill(mean, DIMS, most);
        fill(shift, 4, 2048);
        for (size_t i = 0; i < DIMS * TOKENS && round % 5 == 0; i++) {
            y[i] = y[i] / 1024 * 1024; /* ties */
            mean[i % DIMS] = 0;
        }
        for (size_t i = 0; i < DIMS; i++) {
            row[i].mean = mean[i];
            row[i].dead_zone = dead;
        }
        int16_t z[2][ROWS * TOKENS];
        for (int q = 1; q < LQ__QUANTIZER_END; q++) {
            memset(z, 0, sizeof z);
            CHECK(plain->blocks[q](z[0], y, row, 2, columns) ==
                  level->blocks[q](z[1], y, row, 2, columns));
            CHECK(SAME(z[0], z[1]));
        }
        plain->centroid_row(back[0], z[0], shift, mean[1] >> 8);
        level->centroid_row(back[1], z[0], shift, mean[1] >> 8);
        CHECK(SAME(back[0], back[1]));
        int16_t half[TOKENS];
        for (size_t i = 0; i < TOKENS; i++) {
            half[i] = (int16_t)source_below(2);
            z[0][i] = (int16_t)(i == 0 ? -32768 : i == 1 ? 32767 : (int)source_below(65536) - 32768);
        }
        int32_t wiener = round % 2 ? 32768 : (int32_t)source_below(32769);
        plain->point_row(back[0], z[0], half, wiener, mean[1] >> 8);
        level->point_row(back[1], z[0], half, wiener, mean[1] >> 8);
        CHECK(SAME(back[0], back[1]));
        for (size_t i = 0; i < TOKENS; i++) {
            int64_t p = (2 * (int64_t)z[0][i] + half[i]) * wiener;
            CHECK(back[0][i] == (int32_t)(p >> 4) + (mean[1] >> 8));
        }
    }
}

/* Rows of lq_quantize: points that are in the code's box or not. */
static void test_box(void)
{
    static const lq__row_data none[8] = {{0, 0, {0, 0, 0, 0}, 0}};
    for (int round = 0; round < 5 * ROUNDS; round++) {
        int32_t x[8 * 16], y[2][8 * TOKENS], yp[2][16], pp[2][16];
        size_t blocks = source_below(9);
        size_t stride = 8 + source_below(9);
        fill(x, 8 * 16, 1 << 20);
        fill(y[0], 8 * TOKENS, (round % 4 == 0 ? 6 : 12) * 4096);
        memcpy(y[1], y[0], sizeof y[0]);
        plain->block_rows(y[0], x, stride, blocks);
        level->block_rows(y[1], x, stride, blocks);
        CHECK(SAME(y[0], y[1]));
        fill(y[0], 8 * TOKENS, (round % 4 == 0 ? 6 : 12) * 4096);
        int16_t z[2][9 * TOKENS];
        (void)plain->blocks[LQ_E8](z[0], y[0], none, 1, TOKENS);
        memcpy(z[1], z[0], sizeof z[0]);
        plain->box_rows(z[0], y[0]);
        level->box_rows(z[1], y[0]);
        CHECK(SAME(z[0], z[1]));
        uint32_t word[2][16];
        plain->word_rows(word[0], yp[0], pp[0], z[0], y[0]);
        level->word_rows(word[1], yp[1], pp[1], z[0], y[0]);
        CHECK(SAME(word[0], word[1]) && SAME(yp[0], yp[1]) && SAME(pp[0], pp[1]));
    }
}

int main(void)
{
    int levels = lq_cpu_limit(-1);
    (void)lq_cpu_limit(0);
    plain = lq__rows_of_level();
    for (int i = levels > 0; i <= levels; i++) { /* without SIMD, the C code twice */
        (void)lq_cpu_limit(i);
        level = lq__rows_of_level();
        test_types();
        test_floats();
        test_front();
        test_sums();
        test_points();
        test_box();
    }
    return check_report("test_rows");
}
