/* cc -O2 bench/polar.c -o polar -lm */

/* polar.c - polar grids, QJL, TurboQuant: bits with everything counted, error, cosine, beside Z, E8

   20,000 rows of 64 samples of N(0, 1); keys and values of the sample (tests/data: SmolLM2-135M,
   layers 10 and 20, 4,608 rows of 64 each, as the model has them), where the working directory is
   the repository's root.

       bits      a number, scales and (learnt) books counted
       MSE       squared error over the mean square
       cosine    mean over rows, in %
       / Z, E8   MSE over that of lq_compress, entropy coded, at the same bits (head and profile
                 counted; between measured points along straight lines of log MSE)
       in ( )    published: WarpQuant 0.7.0, cosines, plain and calibrated, and what rounds of QJL
                 take of a residual's length; TurboQuant, squared errors (MSE: Max 1960), of prod
                 those of products with unit vectors, times dims (bench: of rows of length 1)

   Times are of one core, medians of 5 runs, nanoseconds a number.

   ./polar --check fails where a cosine is 0.3 from what is published, or an error of TurboQuant-MSE
   1 % above it. ./polar --fit prints the tables of >>polar and >>codebook (20 s). */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum {
    PB_DIMS = 64,
    PB_ROWS = 20000,  /* of N(0, 1) */
    PB_SAMPLE = 4608, /* rows of the sample */
    PB_POINTS = 20,   /* of a curve */
    PB_WIDTHS = 7     /* radius and angle bits */
};

static const double pb_pi = 3.14159265358979323846;

/* One set of rows and what came of it. */
static float pb_x[PB_ROWS * PB_DIMS];
static float pb_y[PB_ROWS * PB_DIMS];
static uint8_t pb_code[PB_ROWS * PB_DIMS * 4];
static size_t pb_rows;

typedef struct pb_result {
    double bits;
    double mse;
    double cosine;
} pb_result;

/* Measured points of Z and of E8, rising bits. */
static pb_result pb_curve[2][PB_POINTS];

static int pb_failed;

static void pb_fail(const char *what, int status)
{
    if (!status) return;
    (void)fprintf(stderr, "polar: %s: %s\n", what, lq_status_string(status));
    exit(1);
}

static void *pb_alloc(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) pb_fail("memory", LQ_E_NOMEM);
    return p;
}

/* ---------------------------------------------------------------------------------------- data */

static double pb_uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((double)(z >> 11) + 0.5) / 9007199254740992.0;
}

/* Box-Muller. */
static void pb_gaussian(float *x, size_t count)
{
    uint64_t state = 20260420;
    for (size_t i = 0; i + 1 < count; i += 2) {
        double r = sqrt(-2.0 * log(pb_uniform(&state)));
        double angle = 2 * pb_pi * pb_uniform(&state);
        x[i] = (float)(r * cos(angle));
        x[i + 1] = (float)(r * sin(angle));
    }
}

/* Keys or values; 0: there is no such file. */
static int pb_sample(const char *which)
{
    static uint16_t half[PB_SAMPLE * PB_DIMS];
    char path[100];
    (void)snprintf(path, sizeof path, "tests/data/smollm2-135m-l10-l20-%s.npy", which);
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    int ok = !fseek(file, 128, SEEK_SET) && fread(half, sizeof half, 1, file) == 1;
    (void)fclose(file);
    if (!ok) return 0;
    pb_fail("f16", lq_f32_from_type(pb_x, half, (size_t)PB_SAMPLE * PB_DIMS, LQ_F16));
    pb_rows = PB_SAMPLE;
    return 1;
}

/* ------------------------------------------------------------------------------------- measures */

/* Of pb_y against pb_x. */
static pb_result pb_measure(double bytes)
{
    pb_result result;
    double error = 0, power = 0, cosine = 0;
    for (size_t r = 0; r < pb_rows; r++) {
        double xx = 0, yy = 0, xy = 0;
        for (size_t i = r * PB_DIMS; i < (r + 1) * PB_DIMS; i++) {
            double a = (double)pb_x[i], b = (double)pb_y[i];
            xx += a * a;
            yy += b * b;
            xy += a * b;
            error += (a - b) * (a - b);
        }
        power += xx;
        cosine += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
    }
    result.bits = 8 * bytes / (double)(pb_rows * PB_DIMS);
    result.mse = error / power;
    result.cosine = 100 * cosine / (double)pb_rows;
    return result;
}

/* Squared error of products with random unit vectors, of unit rows, times dims. */
static double pb_product(void)
{
    uint64_t state = 99;
    double sum = 0;
    for (size_t r = 0; r < pb_rows; r++) {
        double q[PB_DIMS], qq = 0, xx = 0, d = 0;
        for (size_t i = 0; i < PB_DIMS; i++) {
            double a = (double)pb_x[r * PB_DIMS + i];
            q[i] = sqrt(-2.0 * log(pb_uniform(&state))) * cos(2 * pb_pi * pb_uniform(&state));
            qq += q[i] * q[i];
            xx += a * a;
            d += q[i] * ((double)pb_y[r * PB_DIMS + i] - a);
        }
        sum += xx > 0 ? d * d / (qq * xx) * PB_DIMS : 0;
    }
    return sum / (double)pb_rows;
}

/* The curves of lq_compress, and rows at a fixed rate. */
static void pb_curves(const lq_tables *tables)
{
    static const int quantizers[2] = {LQ_Z, LQ_E8};
    lq_compress_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tables = tables;
    for (int z = 0; z < 2; z++) {
        desc.quantizer = quantizers[z];
        size_t bytes = lq_compress_workspace_bytes(pb_rows, PB_DIMS, LQ_F32, &desc);
        void *workspace = pb_alloc(bytes);
        for (int i = 0; i < PB_POINTS; i++) {
            size_t written;
            desc.bits = 0.5f + 0.3f * (float)i;
            pb_fail("lq_compress", lq_compress(pb_code, sizeof pb_code, &written, pb_x, pb_rows,
                                               PB_DIMS, LQ_F32, &desc, workspace, bytes));
            size_t more = lq_decompress_workspace_bytes(pb_code, written);
            void *other = pb_alloc(more);
            pb_fail("lq_decompress",
                    lq_decompress(pb_y, sizeof pb_y, 0, pb_code, written, tables, other, more));
            free(other);
            pb_curve[z][i] = pb_measure((double)written);
        }
        free(workspace);
    }
}

/* MSE of a curve at so many bits; 0: beyond its ends. */
static double pb_at(const pb_result *curve, double bits)
{
    for (int i = 0; i + 1 < PB_POINTS; i++) {
        const pb_result *a = &curve[i];
        const pb_result *b = &curve[i + 1];
        if (bits >= a->bits && bits <= b->bits) {
            double t = (bits - a->bits) / (b->bits - a->bits);
            return exp(log(a->mse) * (1 - t) + log(b->mse) * t);
        }
    }
    return 0;
}

static void pb_print(const char *name, pb_result r, const char *published)
{
    double z = pb_at(pb_curve[0], r.bits), e8 = pb_at(pb_curve[1], r.bits);
    printf("  %-34s %6.3f %9.6f %7.3f  %-12s", name, r.bits, r.mse, r.cosine, published);
    if (z > 0 && e8 > 0) printf(" %6.2f %6.2f", r.mse / z, r.mse / e8);
    printf("\n");
}

/* --------------------------------------------------------------------------------------- methods */

typedef struct pb_width {
    uint32_t radius;
    uint32_t angle;
    double plain;  /* published cosine, 0: none */
    double learnt; /* calibrated */
} pb_width;

static const pb_width pb_widths[PB_WIDTHS] = {
    {4, 4, 99.2, 0}, {3, 4, 98.8, 99.1}, {3, 3, 96.9, 97.2}, {2, 4, 96.5, 98.4},
    {2, 2, 0, 0},    {1, 2, 0, 0},       {1, 1, 0, 0},
};

static void pb_polar_row(const char *kind, const lq_polar_book *book, double more, double published)
{
    char name[40], text[16] = "";
    size_t bytes = pb_rows * lq_polar_row_bytes(book, PB_DIMS);
    pb_fail("lq_polar_encode",
            lq_polar_encode(book, pb_code, sizeof pb_code, pb_x, pb_rows, PB_DIMS));
    pb_fail("lq_polar_decode", lq_polar_decode(book, pb_y, pb_code, bytes, pb_rows, PB_DIMS));
    pb_result r = pb_measure((double)bytes + more);
    (void)snprintf(name, sizeof name, "polar %u/%u %s", (unsigned)book->radius_bits,
                   (unsigned)book->angle_bits, kind);
    if (published > 0) {
        (void)snprintf(text, sizeof text, "(%.1f)", published);
        pb_failed += fabs(r.cosine - published) > 0.3;
    }
    pb_print(name, r, text);
}

static void pb_polar(void)
{
    size_t bytes = lq_polar_learn_workspace_bytes(pb_rows, PB_DIMS);
    void *workspace = pb_alloc(bytes);
    for (int i = 0; i < PB_WIDTHS; i++) {
        const pb_width *w = &pb_widths[i];
        lq_polar_book book;
        pb_fail("square", lq_polar_init(&book, w->radius, w->angle, 0, LQ_POLAR_SQUARE));
        pb_polar_row("square", &book, 0, w->plain);
        pb_fail("gauss", lq_polar_init(&book, w->radius, w->angle, 0, LQ_POLAR_GAUSS));
        pb_polar_row("gauss", &book, 0, w->learnt);
        pb_fail("learn", lq_polar_learn(&book, pb_x, pb_rows, PB_DIMS, workspace, bytes));
        pb_polar_row("learnt", &book, (double)sizeof book, w->learnt);
    }
    free(workspace);
}

static const lq_qjl *pb_sketch(void **mem, uint32_t projection, uint32_t rounds, uint32_t scale)
{
    const lq_qjl *q;
    lq_qjl_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.dims = PB_DIMS;
    desc.projection = projection;
    desc.rounds = rounds;
    desc.scale = scale;
    *mem = pb_alloc(lq_qjl_bytes(&desc));
    pb_fail("lq_qjl_init", lq_qjl_init(&q, *mem, lq_qjl_bytes(&desc), &desc));
    return q;
}

/* Sketches of rows, and of what polar codes leave of them: what part of their length is taken. */
static void pb_qjl(const lq_polar_book *book)
{
    static const double published[2][3] = {{.23, .40, .54}, {.40, .64, .79}};
    const size_t count = pb_rows * PB_DIMS;
    float *rest = (float *)pb_alloc(sizeof pb_x), *base = (float *)pb_alloc(sizeof pb_x);
    size_t before = book ? pb_rows * lq_polar_row_bytes(book, PB_DIMS) : 0;
    double length = 0;
    if (book) {
        pb_fail("polar", lq_polar_encode(book, pb_code, sizeof pb_code, pb_x, pb_rows, PB_DIMS));
        pb_fail("polar", lq_polar_decode(book, base, pb_code, before, pb_rows, PB_DIMS));
    }
    for (size_t i = 0; i < count; i++) {
        rest[i] = pb_x[i] - base[i];
        length += (double)rest[i] * (double)rest[i];
    }
    for (uint32_t projection = book ? 2 : 1; projection <= 2; projection++) {
        for (uint32_t rounds = 1; rounds <= 3; rounds++) {
            char name[48], text[32];
            void *mem;
            const lq_qjl *q = pb_sketch(&mem, projection, rounds, 0);
            size_t bytes = pb_rows * lq_qjl_row_bytes(q), more = lq_qjl_workspace_bytes(q);
            void *workspace = pb_alloc(more);
            double left = 0;
            pb_fail("lq_qjl_encode",
                    lq_qjl_encode(q, pb_code, sizeof pb_code, rest, pb_rows, workspace, more));
            pb_fail("lq_qjl_decode",
                    lq_qjl_decode(q, pb_y, pb_code, bytes, pb_rows, workspace, more));
            for (size_t i = 0; i < count; i++) {
                left += ((double)rest[i] - (double)pb_y[i]) * ((double)rest[i] - (double)pb_y[i]);
                pb_y[i] += base[i];
            }
            (void)snprintf(name, sizeof name, "%sQJL %s x %u", book ? "polar 3/3 gauss, " : "",
                           projection == 1 ? "Gaussian" : "Hadamard", (unsigned)rounds);
            (void)snprintf(text, sizeof text, "%.3f (%.2f)", 1 - sqrt(left / length),
                           published[projection - 1][rounds - 1]);
            pb_print(name, pb_measure((double)(before + bytes)), text);
            free(workspace);
            free(mem);
        }
    }
    free(rest);
    free(base);
}

static void pb_turbo(int gaussian)
{
    static const double mse[5] = {.3634, .1175, .03454, .009497, .002499};
    static const double prod[4] = {1.57, .56, .18, .047};
    for (uint32_t bits = 1; bits <= 9; bits++) {
        char name[40], text[48];
        void *mem = NULL;
        const uint32_t width = bits <= 5 ? bits : bits - 5; /* then with a sketch */
        const lq_qjl *q = bits <= 5 ? NULL : pb_sketch(&mem, LQ_QJL_GAUSSIAN, 1, LQ_QJL_UNBIASED);
        size_t bytes = pb_rows * lq_turbo_row_bytes(PB_DIMS, width, q);
        size_t more = lq_turbo_workspace_bytes(PB_DIMS, width, q);
        void *workspace = pb_alloc(more);
        pb_fail("lq_turbo_encode", lq_turbo_encode(pb_code, sizeof pb_code, pb_x, pb_rows, PB_DIMS,
                                                   width, q, workspace, more));
        pb_fail("lq_turbo_decode",
                lq_turbo_decode(pb_y, pb_code, bytes, pb_rows, PB_DIMS, width, q, workspace, more));
        pb_result r = pb_measure((double)bytes);
        double product = pb_product();
        (void)snprintf(name, sizeof name, "TurboQuant-%s %u", q ? "prod" : "MSE", (unsigned)width);
        (void)snprintf(text, sizeof text, "%.4f (%.4g)", product,
                       q ? prod[width - 1] : mse[width - 1]);
        pb_print(name, r, text);
        if (gaussian && !q) pb_failed += r.mse / mse[width - 1] > 1.01;
        free(workspace);
        free(mem);
    }
}

/* Rows of lq_quantize, rotated before: what fixed width can do. */
static void pb_fixed(void)
{
    static const int forms[4][2] = {{LQ_Z, 2}, {LQ_Z, 3}, {LQ_Z, 4}, {LQ_E8, 4}};
    const size_t dims = pb_rows ? PB_DIMS : 0; /* gcc 12 warns of a constant */
    float *rotated = (float *)pb_alloc(sizeof pb_x);
    memcpy(rotated, pb_x, sizeof pb_x);
    pb_fail("rotate", lq_rotate_f32(rotated, pb_rows, PB_DIMS));
    for (int i = 0; i < 4; i++) {
        char name[40];
        const int quantizer = forms[i][0], bits = forms[i][1];
        size_t bytes = pb_rows * lq_quantize_row_bytes(dims, quantizer, bits);
        pb_fail("lq_quantize", lq_quantize(pb_code, sizeof pb_code, rotated, pb_rows, dims, LQ_F32,
                                           quantizer, bits));
        pb_fail("lq_dequantize", lq_dequantize(pb_y, sizeof pb_y, LQ_F32, pb_code, bytes, pb_rows,
                                               dims, quantizer, bits));
        pb_fail("unrotate", lq_unrotate_f32(pb_y, pb_rows, PB_DIMS));
        (void)snprintf(name, sizeof name, "lq_quantize %s %d", quantizer == LQ_Z ? "Z" : "E8",
                       bits);
        pb_print(name, pb_measure((double)bytes), "");
    }
    free(rotated);
}

static void pb_all(const char *title, const lq_tables *tables, int gaussian)
{
    lq_polar_book book;
    printf("%s: %lu rows of %d\n", title, (unsigned long)pb_rows, PB_DIMS);
    printf("  %-34s %6s %9s %7s  %-12s %6s %6s\n", "", "bits", "MSE", "cosine", "(published)",
           "/ Z", "/ E8");
    pb_curves(tables);
    pb_fixed();
    pb_polar();
    pb_qjl(NULL);
    pb_fail("gauss", lq_polar_init(&book, 3, 3, 0, LQ_POLAR_GAUSS));
    pb_qjl(&book);
    pb_turbo(gaussian);
    printf("  Z, E8, entropy coded: bits, MSE, cosine\n");
    for (int i = 0; i < PB_POINTS; i += 2) {
        const pb_result *z = &pb_curve[0][i], *e = &pb_curve[1][i];
        printf("  %42.3f %9.6f %7.3f  %7.3f %9.6f %7.3f\n", z->bits, z->mse, z->cosine, e->bits,
               e->mse, e->cosine);
    }
}

/* ----------------------------------------------------------------------------------------- times */

static double pb_now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) exit(1);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int pb_order(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

enum { PB_RUNS = 5, PB_TIMED = 4000 };

/* What is timed: encoding, decoding, products; of a grid, a sketch, or TurboQuant with 4 bits. */
static void pb_call(int what, const lq_polar_book *book, const lq_qjl *q, void *ws, size_t bytes)
{
    const size_t rows = PB_TIMED;
    int status = LQ_E_ARG;
    if (book) {
        status = what == 0   ? lq_polar_encode(book, pb_code, sizeof pb_code, pb_x, rows, PB_DIMS)
                 : what == 1 ? lq_polar_decode(book, pb_y, pb_code, sizeof pb_code, rows, PB_DIMS)
                             : lq_polar_logits(book, pb_y, pb_x, pb_code, sizeof pb_code, rows,
                                               PB_DIMS, ws, bytes);
    } else if (q) {
        status = what == 0 ? lq_qjl_encode(q, pb_code, sizeof pb_code, pb_x, rows, ws, bytes)
                 : what == 1
                     ? lq_qjl_decode(q, pb_y, pb_code, sizeof pb_code, rows, ws, bytes)
                     : lq_qjl_logits(q, pb_y, pb_x, pb_code, sizeof pb_code, rows, ws, bytes);
    } else {
        status =
            what == 0
                ? lq_turbo_encode(pb_code, sizeof pb_code, pb_x, rows, PB_DIMS, 4, NULL, ws, bytes)
                : lq_turbo_decode(pb_y, pb_code, sizeof pb_code, rows, PB_DIMS, 4, NULL, ws, bytes);
    }
    pb_fail("timed", status);
}

static void pb_times_of(const char *name, const lq_polar_book *book, const lq_qjl *q)
{
    size_t bytes = book ? lq_polar_logits_workspace_bytes(book, PB_DIMS)
                   : q  ? lq_qjl_workspace_bytes(q)
                        : lq_turbo_workspace_bytes(PB_DIMS, 4, NULL);
    void *ws = pb_alloc(bytes);
    printf("  %-34s", name);
    for (int what = 0; what < (book || q ? 3 : 2); what++) {
        double ns[PB_RUNS];
        for (int i = 0; i < PB_RUNS; i++) {
            double start = pb_now();
            pb_call(what, book, q, ws, bytes);
            ns[i] = (pb_now() - start) / (PB_TIMED * PB_DIMS);
        }
        qsort(ns, PB_RUNS, sizeof ns[0], pb_order);
        printf(" %8.2f", ns[PB_RUNS / 2]);
    }
    printf("\n");
    free(ws);
}

static void pb_times(void)
{
    lq_polar_book book;
    void *mem;
    printf("times%39s %8s %8s\n", "encode", "decode", "products");
    pb_fail("square", lq_polar_init(&book, 4, 4, 0, LQ_POLAR_SQUARE));
    pb_times_of("polar 4/4 square", &book, NULL);
    pb_fail("gauss", lq_polar_init(&book, 3, 3, 0, LQ_POLAR_GAUSS));
    pb_times_of("polar 3/3 gauss", &book, NULL);
    pb_times_of("QJL Gaussian x 1", NULL, pb_sketch(&mem, LQ_QJL_GAUSSIAN, 1, 0));
    free(mem);
    pb_times_of("QJL Hadamard x 1", NULL, pb_sketch(&mem, LQ_QJL_HADAMARD, 1, 0));
    free(mem);
    pb_times_of("TurboQuant-MSE 4", NULL, NULL);
}

/* ------------------------------------------------------------------------------------------ fits */

/* The mass of a Gaussian above t, and its density. */
static double pb_above(double t)
{
    return erfc(t * sqrt(0.5)) / 2;
}

static double pb_density(double t)
{
    return exp(-t * t / 2) / sqrt(2 * pb_pi);
}

/* Levels above 0 for a Gaussian, by Lloyd's iteration until nothing moves. */
static void pb_fit_codebook(uint32_t bits)
{
    double level[128];
    const int half = 1 << (bits - 1);
    double moved = 1, mse = 1;
    for (int k = 0; k < half; k++) {
        level[k] = 3.0 * (k + 0.5) / half;
    }
    for (int round = 0; round < 3000000 && moved > 1e-14; round++) {
        double p = 0.5, g = pb_density(0);
        moved = 0;
        mse = 1;
        for (int k = 0; k < half; k++) {
            double edge = k + 1 < half ? (level[k] + level[k + 1]) / 2 : 40;
            double above = pb_above(edge), density = pb_density(edge);
            double best = (g - density) / (p - above);
            moved = fmax(moved, fabs(best - level[k]));
            mse -= 2 * (p - above) * best * best;
            level[k] = best;
            p = above;
            g = density;
        }
    }
    printf("%u bits, squared error %.9f:", (unsigned)bits, mse);
    for (int k = 0; k < half; k++) {
        printf(" %.0f,", level[k] * 65536);
    }
    printf("\n");
}

/* Radii of LQ_POLAR_GAUSS: sums over a fine grid of exp(-t^2) erf(t tan(pi / rays)). */
static void pb_fit_polar(uint32_t radius_bits, uint32_t angle_bits)
{
    enum { STEPS = 200000 };
    static double mass[STEPS + 1], moment[STEPS + 1];
    const double h = 7.0 / STEPS;
    const double slope = angle_bits == 1 ? 1e10 : tan(pb_pi / (1 << angle_bits));
    const int radii = 1 << radius_bits;
    double level[16], before = 0;
    for (int i = 1; i <= STEPS; i++) {
        double t = (i - 0.5) * h, f = exp(-t * t) * erf(t * slope);
        mass[i] = mass[i - 1] + f * h;
        moment[i] = moment[i - 1] + f * h * t;
    }
    for (int k = 0; k < radii; k++) {
        level[k] = 2.2 * (k + 0.5) / radii;
    }
    for (int round = 0; round < 20000; round++) {
        double p = 0, m = 0;
        for (int k = 0; k < radii; k++) {
            double at = k + 1 < radii ? (level[k] + level[k + 1]) / 2 / h : STEPS;
            int i = (int)at < STEPS ? (int)at : STEPS - 1;
            double p1 = mass[i] + (at - i) * (mass[i + 1] - mass[i]);
            double m1 = moment[i] + (at - i) * (moment[i + 1] - moment[i]);
            level[k] = (m1 - m) / (p1 - p);
            p = p1;
            m = m1;
        }
        if (level[0] == before) break;
        before = level[0];
    }
    printf("%u %u:", (unsigned)radius_bits, (unsigned)angle_bits);
    for (int k = 0; k < radii; k++) {
        printf(" %.0f,", level[k] * 16384);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    const lq_tables *tables;
    if (argc > 1 && !strcmp(argv[1], "--fit")) {
        for (uint32_t i = 0; i < 16; i++) {
            pb_fit_polar(1 + i / 4, 1 + i % 4);
        }
        for (uint32_t bits = 1; bits <= 8; bits++) {
            pb_fit_codebook(bits);
        }
        return 0;
    }
    void *mem = pb_alloc(lq_tables_bytes());
    pb_fail("lq_tables_init", lq_tables_init(&tables, mem, lq_tables_bytes()));
    pb_rows = PB_ROWS;
    pb_gaussian(pb_x, (size_t)PB_ROWS * PB_DIMS);
    pb_all("N(0, 1)", tables, 1);
    pb_times();
    if (pb_sample("k")) pb_all("keys", tables, 0);
    if (pb_sample("v")) pb_all("values", tables, 0);
    free(mem);
    return argc > 1 && !strcmp(argv[1], "--check") && pb_failed;
}
