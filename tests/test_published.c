/* cc -std=c99 -O2 tests/test_published.c -o test_published -lm    Figures that others publish of
   E8, reproduced with the functions of arrays: rates by parity, what falls out of a fixed box, what
   a rotation guarantees, the box of a vector's maximum; and the same bits spent by lq_compress.
   `test_published quick` uses fewer samples. */
#include "header.h"

#include "check.h"
#include "source.h"

static int quick;

/* ---- entropies of E8 points ---- */
/* Symbols of a block (LatticeQuant): the coset; seven integers; the eighth, of which the lowest bit
   is implied by the others. Histograms by coset: of the seven, of half the eighth, of the whole. */
enum { SYMBOLS = 4096, SEVEN = 0, HALF, WHOLE, TABLES };

typedef struct histograms {
    uint32_t of[2][TABLES][SYMBOLS];
    uint32_t blocks[2];
} histograms;

static void count_blocks(histograms *h, const int16_t *points, size_t count)
{
    for (size_t i = 0; i < count; i += 8) {
        const int coset = points[i] & 1;
        h->blocks[coset]++;
        for (size_t j = 0; j < 8; j++) {
            const int z = (points[i + j] - coset) / 2;
            h->of[coset][j == 7 ? WHOLE : SEVEN][z + SYMBOLS / 2]++;
            if (j == 7) h->of[coset][HALF][(z - (z & 1)) / 2 + SYMBOLS / 2]++;
        }
    }
}

/* Bits of all that is counted in one histogram. */
static double bits_of(const uint32_t *h, size_t symbols)
{
    double total = 0;
    double bits = 0;
    for (size_t i = 0; i < symbols; i++) {
        total += h[i];
    }
    for (size_t i = 0; i < symbols; i++) {
        if (h[i]) bits += h[i] * log2(total / h[i]);
    }
    return bits;
}

/* Bits a number; whole: the eighth, without what parity saves. */
static double entropy(const histograms *h, int whole)
{
    double bits = bits_of(h->blocks, 2);
    for (int coset = 0; coset < 2; coset++) {
        bits += bits_of(h->of[coset][SEVEN], SYMBOLS);
        bits += bits_of(h->of[coset][whole ? WHOLE : HALF], SYMBOLS);
    }
    return bits / (8.0 * ((double)h->blocks[0] + h->blocks[1]));
}

static double square_error(const float *x, const float *y, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += pow((double)x[i] - (double)y[i], 2);
    }
    return sum / (double)count;
}

/* The step of b bits: a^2 = 2 pi e sigma^2 4^-b, the high-rate limit. */
static float step_of(double variance, double bits)
{
    return (float)sqrt(2 * SOURCE_PI * exp(1) * variance * pow(4, -bits));
}

/* Rate with and without parity, and the error times 4^b. Part of blocks with an integer outside
   -2^(b-1) .. 2^(b-1) - 1 (of half-integer blocks those half a step below). */
static void test_parity(void)
{
    static const double known[6][5] = {/* b, rate, whole, error 4^b, out of the box */
                                       {2, 2.074, 2.178, 1.2245, 0},
                                       {2.5, 2.538, 2.652, 1.2245, 0},
                                       {3, 3.019, 3.138, 1.2245, .289},
                                       {3.5, 3.510, 3.632, 1.2245, 0},
                                       {4, 4.005, 4.128, 1.2245, .276},
                                       {5, 5.001, 5.125, 1.2245, .272}};
    const size_t count = quick ? 160000 : 1600000;
    float *x = source_gaussians(count);
    float *y = (float *)source_alloc(count * sizeof *y);
    int16_t *p = (int16_t *)source_alloc(count * sizeof *p);
    for (size_t i = 0; i < 6; i++) {
        histograms *h = (histograms *)source_zeros(sizeof *h);
        const float step = step_of(1, known[i][0]);
        CHECK(lq_lattice_nearest(p, x, count, step, LQ_E8) == LQ_OK);
        CHECK(lq_lattice_point(y, p, count, step, LQ_E8) == LQ_OK);
        count_blocks(h, p, count);
        const double error = square_error(x, y, count) * pow(4, known[i][0]);
        CHECK(fabs(entropy(h, 0) / known[i][1] - 1) < 0.004);
        CHECK(fabs(entropy(h, 1) / known[i][2] - 1) < 0.004);
        CHECK(fabs(error - known[i][3]) < 0.006);
        const int reach = 1 << ((int)known[i][0] - 1);
        size_t out = 0;
        for (size_t j = 0; j < count; j += 8) {
            int any = 0;
            for (size_t k = 0; k < 8; k++) {
                const int z = (p[j + k] - (p[j] & 1)) / 2;
                any |= z < -reach || z >= reach;
            }
            out += (size_t)any;
        }
        const double part = (double)out / ((double)count / 8);
        printf("%.1f bits: rate %.3f, %.3f without parity, error %.4f, %.3f out of the box\n",
               known[i][0], entropy(h, 0), entropy(h, 1), error, part);
        if (known[i][4] > 0) CHECK(fabs(part - known[i][4]) < 0.006);
        free(h);
    }
    free(x);
    free(y);
    free(p);
}

/* ---- what a rotation guarantees: 64 dims, the step of 4 bits for the mean variance ---- */
static void gap_of(double *gap, double *rate, const float *x, size_t count)
{
    float *y = (float *)source_alloc(count * sizeof *y);
    int16_t *p = (int16_t *)source_alloc(count * sizeof *p);
    histograms *h = (histograms *)source_zeros(sizeof *h);
    const double variance = source_dot(x, x, count) / (double)count;
    const float step = step_of(variance, 4);
    CHECK(lq_lattice_nearest(p, x, count, step, LQ_E8) == LQ_OK);
    CHECK(lq_lattice_point(y, p, count, step, LQ_E8) == LQ_OK);
    count_blocks(h, p, count);
    *gap = square_error(x, y, count) * pow(4, 4) / variance;
    *rate = entropy(h, 0);
    free(y);
    free(p);
    free(h);
}

static void test_rotation(void)
{
    enum { DIMS = 64 };
    static const double known[2][2][2] = {/* Gaussian, two large dims: plain, rotated: gap, rate */
                                          {{1.224, 4.00}, {1.224, 4.00}},
                                          {{0.097, 0.39}, {0.717, 4.00}}};
    const size_t count = (quick ? 5000 : 25000) * (size_t)DIMS;
    for (size_t i = 0; i < 2; i++) {
        float *x = source_gaussians(count);
        for (size_t j = 0; j < count && i; j++) {
            x[j] *= j % DIMS < 2 ? 10.0f : 0.01f;
        }
        for (size_t turned = 0; turned < 2; turned++) {
            double gap, rate;
            if (turned) CHECK(lq_rotate_f32(x, count / DIMS, DIMS) == LQ_OK);
            gap_of(&gap, &rate, x, count);
            printf("%s%s: error x 4^4 %.3f, rate %.2f\n", i ? "two large dims" : "Gaussian",
                   turned ? ", rotated" : "", gap, rate);
            CHECK(fabs(gap - known[i][turned][0]) < 0.01);
            CHECK(fabs(rate - known[i][turned][1]) < 0.03);
        }
        free(x);
    }
}

/* ---- the box of a vector's maximum (NexusQuant): 128 dims, L levels ---- */
/* Its search: integers to the nearest, the parity mended where the residual is least (the nearest
   point asks for the largest); half-integers without parity; the nearer of the two. */
static void shipped_block(double *q, const double *x)
{
    double best = 1e300;
    for (int coset = 0; coset < 2; coset++) {
        double z[8];
        double cost = 0;
        double least = 1e300;
        int where = 0;
        int sum = 0;
        for (int i = 0; i < 8; i++) {
            z[i] = coset ? floor(x[i]) + 0.5 : floor(x[i] + 0.5);
            if (fabs(x[i] - z[i]) < least) {
                least = fabs(x[i] - z[i]);
                where = i;
            }
            sum += coset ? 0 : (int)z[i];
        }
        if (sum & 1) z[where] += x[where] >= z[where] ? 1 : -1;
        for (int i = 0; i < 8; i++) {
            cost += pow(x[i] - z[i], 2);
        }
        if (cost < best) memcpy(q, z, 8 * sizeof *q);
        if (cost < best) best = cost;
    }
}

/* Squared error and entropy a number: of the nearest points, of those of its search. */
static void test_box(int levels, double right, double theirs)
{
    enum { DIMS = 128 };
    const size_t rows = quick ? 2000 : 10000;
    float *x = source_gaussians(rows * DIMS);
    double error[2] = {0, 0};
    for (size_t r = 0; r < rows; r++) {
        const float *row = x + r * DIMS;
        int16_t p[DIMS];
        float most = 0;
        for (size_t i = 0; i < DIMS; i++) {
            most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
        }
        const float step = most / (float)(levels / 2);
        CHECK(lq_lattice_nearest(p, row, DIMS, step, LQ_E8) == LQ_OK);
        for (size_t i = 0; i < DIMS; i += 8) {
            double scaled[8];
            double q[8];
            for (size_t j = 0; j < 8; j++) {
                scaled[j] = (double)row[i + j] / (double)step;
            }
            shipped_block(q, scaled);
            for (size_t j = 0; j < 8; j++) {
                const double edge = levels / 2;
                const double own = fmin(fmax(p[i + j] / 2.0, -edge), edge);
                const double other = fmin(fmax(q[j], -edge), edge);
                error[0] += pow((scaled[j] - own) * (double)step, 2);
                error[1] += pow((scaled[j] - other) * (double)step, 2);
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        error[i] /= (double)(rows * DIMS);
    }
    printf("%d levels: nearest points %.4f, relaxed search %.4f\n", levels, error[0], error[1]);
    CHECK(fabs(error[0] / right - 1) < 0.015 && fabs(error[1] / theirs - 1) < 0.015);
    CHECK(error[0] < error[1]);
    free(x);
}

/* ---- equal bits: a vector of 128 in B bits all counted, squared error over the square ---- */
static void test_equal_bits(void)
{
    enum { DIMS = 128 };
    static const double known[5][3] = {/* B, E8 entropy coded, KakeyaLattice */
                                       {448, 1.16e-2, 3.63e-2},
                                       {608, 2.02e-3, 5.81e-3},
                                       {832, 1.78e-4, 4.24e-4},
                                       {848, 1.50e-4, 4.02e-4},
                                       {1104, 9.3e-6, 2.52e-5}};
    const size_t rows = 4096;
    const size_t count = rows * DIMS;
    float *x = source_gaussians(count);
    float *y = (float *)source_alloc(count * sizeof *y);
    for (size_t i = 0; i < (quick ? 2 : 5); i++) {
        lq_compress_desc d;
        memset(&d, 0, sizeof d);
        d.quantizer = LQ_E8;
        d.bits = (float)((known[i][0] - 16) / DIMS);
        size_t bound = lq_compress_bound(rows, DIMS, LQ_F32);
        size_t need = lq_compress_workspace_bytes(rows, DIMS, LQ_F32, &d);
        uint8_t *bytes = (uint8_t *)source_alloc(bound);
        void *work = source_alloc(need);
        size_t written = 0;
        CHECK(lq_compress(bytes, bound, &written, x, rows, DIMS, LQ_F32, &d, work, need) == LQ_OK);
        free(work);
        need = lq_decompress_workspace_bytes(bytes, written);
        work = source_alloc(need);
        CHECK(lq_decompress(y, count * sizeof *y, LQ_F32, bytes, written, NULL, work, need) ==
              LQ_OK);
        const double error = square_error(x, y, count) * (double)count / source_dot(x, x, count);
        const double bits = 8.0 * (double)written / (double)rows;
        printf("%.0f bits: %.1f taken, error %.3g (others %.3g)\n", known[i][0], bits, error,
               known[i][2]);
        CHECK(bits <= known[i][0]);
        CHECK(error < 1.03 * known[i][1] && 2 * error < known[i][2]);
        free(work);
        free(bytes);
    }
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    test_parity();
    test_rotation();
    test_box(4, .1450, .1487);
    test_box(8, .0363, .0372);
    test_equal_bits();
    return check_report("test_published");
}
