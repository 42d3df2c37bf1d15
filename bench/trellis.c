/* cc -O2 bench/trellis.c -o trellis -lm */

/* trellis.c - the entropy-coded trellis: rates, errors and times

   Pages of 64 tokens of 8192 coefficients, 2^22 samples in all, deviation known. The figure is
   MSE * 4^R over the variance; Shannon's bound is 1 for a Gaussian, at least e / pi = 0.865 for a
   Laplacian. Bits are the sum of -log2 of the coder's frequencies, escapes' codes included, and for
   each page the lanes' last states (32 of 28 bits) and a trailer of 32. What real pages take is in
   bench/rd.c: the coder's rounding adds 0.004 bits.
     Z          the dead zone of the class
     Z RDO      Z's tables and centroids, each integer the one of the least e^2 + lambda bits; the
                best of three lambdas and of three classes of tables
     trellis N  N states

   ./trellis states [laplace]    all numbers of states at all rates     ./trellis z [laplace]
   ./trellis centres             where the deviation is that of a class  ./trellis speed
   ./trellis mixed               many classes in one page: excess over R(D) at the same error */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#define LQ__KEEP_INTERNALS
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum {
    TB_ROWS = 8192,
    TB_PAGE = TB_ROWS * 64,
    TB_PAGES = 8,
    TB_COUNT = TB_PAGE * TB_PAGES,
    TB_OVERHEAD = 32 * 28 + 32,
    TB_RATES = 9
};

static const double tb_rates[TB_RATES] = {0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3};
static const uint32_t tb_states[7] = {4, 8, 16, 32, 64, 128, 256};

static float *tb_x;   /* (pages, rows, 64), variance 1 */
static int32_t *tb_y; /* one page */
static int32_t *tb_decoded;
static int16_t *tb_z_rows;
static uint8_t tb_classes[TB_ROWS];
static float tb_sigma[TB_ROWS];
static lq__row_data tb_row[TB_ROWS];
static const lq_tables *tb_tables;
static lq__trellis tb_trellis;
static lq__trellis_class tb_of[LQ__TRELLIS_CLASSES];
static lq__rans_table tb_table[2][LQ__TRELLIS_CLASSES];
static void *tb_workspace;

typedef struct tb_point {
    double bits; /* a sample */
    double mse;
} tb_point;

static void *tb_alloc(size_t bytes)
{
    void *p = calloc(bytes, 1);
    if (!p) exit(1);
    return p;
}

static double tb_now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) exit(1);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ---- sources ---- */
static double tb_uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}

static void tb_fill(int laplace)
{
    uint64_t state = 20240607;
    for (size_t i = 0; i < TB_COUNT; i += 2) {
        double u = tb_uniform(&state);
        double v = tb_uniform(&state);
        double r = sqrt(-2.0 * log(u));
        tb_x[i] = (float)(laplace ? log(u) * sqrt(0.5) * (v < 0.5 ? -1 : 1)
                                  : r * cos(6.283185307179586 * v));
        u = laplace ? tb_uniform(&state) : u;
        tb_x[i + 1] = (float)(laplace ? log(u) * sqrt(0.5) * (v * 4 - floor(v * 4) < 0.5 ? -1 : 1)
                                      : r * sin(6.283185307179586 * v));
    }
}

static void tb_classes_of(double step)
{
    for (size_t i = 0; i < TB_ROWS; i++) {
        double c = floor(8 * log2((double)tb_sigma[i] / step) + 33.5);
        tb_classes[i] = (uint8_t)(c < 1 ? 0 : c > 121 ? 121 : c);
    }
}

static void tb_page(size_t page, double step)
{
    for (size_t i = 0; i < TB_PAGE; i++) {
        double x = (double)tb_x[page * TB_PAGE + i] * (double)tb_sigma[i / 64] / step;
        tb_y[i] = (int32_t)floor(x * 4096 + 0.5);
    }
}

static double tb_errors(void)
{
    double sum = 0;
    for (size_t i = 0; i < TB_PAGE; i++) {
        double e = (double)(tb_y[i] - tb_decoded[i]) / 4096;
        sum += e * e;
    }
    return sum;
}

static double tb_integer_bits(const lq__rans_table *t, int32_t k)
{
    int out = k < t->low || k > t->high;
    double bits = 16 - log2((double)t->code_freq[out ? 0 : k + t->place]);
    return bits + (out ? (double)lq__escape_bits(k) / 65536 : 0);
}

/* ---- the trellis ---- */
static void tb_init(uint32_t states)
{
    if (lq__trellis_classes(tb_of, tb_tables) || lq__trellis_init(&tb_trellis, tb_of, states))
        exit(1);
    for (int i = 1; i < LQ__TRELLIS_CLASSES; i++) {
        for (uint32_t set = 0; set < 2; set++) {
            if (lq__trellis_table(tb_tables, &tb_table[set][i], i, set)) exit(1);
        }
    }
    free(tb_workspace);
    tb_workspace = tb_alloc(lq__trellis_workspace_bytes(&tb_trellis, TB_ROWS));
}

static double tb_trellis_bits(void)
{
    uint8_t state[64] = {0};
    double sum = TB_OVERHEAD;
    for (size_t i = 0; i < TB_ROWS; i++) {
        uint32_t c = LQ__MIN(tb_classes[i], (uint32_t)LQ__CLASS_WIDE);
        for (size_t t = 0; t < 64 && c; t++) {
            sum += tb_integer_bits(&tb_table[state[t] & 1][c], tb_z_rows[i * 64 + t]);
        }
        memset(tb_decoded + i * 64, 0, 256);
        if (c)
            lq__trellis_of_level()->row(&tb_trellis, &tb_trellis.of[c], tb_decoded + i * 64, state,
                                        tb_z_rows + i * 64, 0);
    }
    return sum;
}

static tb_point tb_trellis_at(double step, size_t pages)
{
    tb_point p = {0, 0};
    tb_classes_of(step);
    for (size_t page = 0; page < pages; page++) {
        tb_page(page, step);
        int32_t most = lq__trellis_of_level()->rows(&tb_trellis, tb_z_rows, tb_y, tb_row,
                                                    tb_classes, TB_ROWS, tb_workspace);
        if (most > 32767) exit(2);
        p.bits += tb_trellis_bits();
        p.mse += tb_errors() * step * step;
    }
    p.bits /= (double)(pages * TB_PAGE);
    p.mse /= (double)(pages * TB_PAGE);
    return p;
}

/* ---- Z: with its dead zone, or the cheapest integers ---- */
static double tb_lambda; /* 0: dead zone */
static int tb_shift;     /* of the tables' class */

static int32_t tb_z_of(const lq__rans_table *t, const int32_t *point, int32_t y)
{
    int32_t a = (int32_t)((double)abs(y) / 4096 + 0.5);
    int32_t best = 0;
    double least = 1e300;
    for (int32_t k = a > 2 ? a - 2 : 0; k <= a; k++) {
        double e = (double)(abs(y) - (k < 16 ? point[k] : k * 4096)) / 4096;
        double cost = e * e + tb_lambda * tb_integer_bits(t, k);
        best = cost < least ? k : best;
        least = cost < least ? cost : least;
    }
    return y < 0 ? -best : best;
}

static tb_point tb_z_at(double step, size_t pages)
{
    tb_point p = {0, 0};
    tb_classes_of(step);
    for (size_t page = 0; page < pages; page++) {
        tb_page(page, step);
        p.bits += TB_OVERHEAD;
        for (size_t i = 0; i < TB_ROWS; i++) {
            int c = tb_classes[i] ? LQ__MAX(tb_classes[i] + tb_shift, 1) : 0;
            const lq__rans_table *t =
                &tb_tables->table[lq__table_of(LQ__MIN(c, (int)LQ__CLASS_WIDE), LQ__AT_0)];
            int32_t point[16], zone = lq__dead_zone_q12(tb_tables, (uint32_t)c);
            for (int32_t k = 0; k < 16; k++) {
                point[k] = k * 4096 - lq__centroid_q12(tb_tables, (uint32_t)c, (uint32_t)k);
            }
            for (size_t j = i * 64; j < i * 64 + 64; j++) {
                int32_t a = abs(tb_y[j]) + 2048 - zone, k;
                k = tb_lambda > 0 ? tb_z_of(t, point, tb_y[j]) : (a >> 12) * (tb_y[j] < 0 ? -1 : 1);
                k = c ? k : 0;
                a = abs(k) < 16 ? point[abs(k)] : abs(k) * 4096;
                tb_decoded[j] = k < 0 ? -a : a;
                p.bits += c ? tb_integer_bits(t, k) : 0;
            }
        }
        p.mse += tb_errors() * step * step;
    }
    p.bits /= (double)(pages * TB_PAGE);
    p.mse /= (double)(pages * TB_PAGE);
    return p;
}

/* ---- to a rate ---- */
static tb_point tb_to_rate(tb_point (*at)(double, size_t), double rate)
{
    double low = -4; /* log2 of the step */
    double high = 4;
    for (int i = 0; i < 16; i++) {
        double middle = (low + high) / 2;
        if (at(exp2(middle), 1).bits > rate) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return at(exp2((low + high) / 2), TB_PAGES);
}

static double tb_figure(tb_point p)
{
    return p.mse * exp2(2 * p.bits);
}

static void tb_print(tb_point p)
{
    printf(" %.3f/%.4f", p.bits, tb_figure(p));
    (void)fflush(stdout);
}

static void tb_header(int laplace)
{
    tb_fill(laplace);
    for (size_t i = 0; i < TB_ROWS; i++) {
        tb_sigma[i] = 1;
    }
    printf("%s, bits/figure at", laplace ? "Laplacian" : "Gaussian");
    for (int r = 0; r < TB_RATES; r++) {
        printf(" %.2f", tb_rates[r]);
    }
    printf("\n");
}

static void tb_z(void)
{
    printf("%-11s", "Z");
    tb_lambda = 0;
    tb_shift = 0;
    for (int r = 0; r < TB_RATES; r++) {
        tb_print(tb_to_rate(tb_z_at, tb_rates[r]));
    }
    printf("\n%-11s", "Z RDO");
    for (int r = 0; r < TB_RATES; r++) {
        tb_point least = {0, 9};
        for (int l = 0; l < 3; l++) {
            for (tb_shift = -2; tb_shift <= 0; tb_shift++) {
                tb_lambda = 0.06 + 0.06 * l;
                tb_point p = tb_to_rate(tb_z_at, tb_rates[r]);
                least = tb_figure(p) < tb_figure(least) ? p : least;
            }
        }
        tb_print(least);
    }
    printf("\n");
}

static void tb_states_at_rates(uint32_t states)
{
    char name[20];
    tb_init(states);
    (void)snprintf(name, sizeof name, "trellis %u", states);
    printf("%-11s", name);
    for (int r = 0; r < TB_RATES; r++) {
        tb_print(tb_to_rate(tb_trellis_at, tb_rates[r]));
    }
    printf("\n");
}

/* With the deviation of a class exactly, about 3.04 bits and 1.01 bits. */
static void tb_centres(void)
{
    tb_header(0);
    for (int s = 0; s < 7; s++) {
        tb_init(tb_states[s]);
        printf("trellis %-3u", tb_states[s]);
        tb_print(tb_trellis_at(0.5, TB_PAGES));
        tb_print(tb_trellis_at(2, TB_PAGES));
        printf("\n");
    }
}

static void tb_speed(void)
{
    int levels = lq_cpu_level();
    tb_header(0);
    for (int level = levels; level >= 0; level--) {
        (void)lq_cpu_limit(level);
        printf("level %d, search, Msamples/s:", level);
        for (int s = 0; s < (level ? 7 : 2); s++) {
            double best = 1e300;
            tb_init(tb_states[s]);
            tb_classes_of(0.5);
            tb_page(0, 0.5);
            for (int n = 0; n < 7; n++) {
                double ns = tb_now();
                (void)lq__trellis_of_level()->rows(&tb_trellis, tb_z_rows, tb_y, tb_row, tb_classes,
                                                   TB_ROWS, tb_workspace);
                ns = tb_now() - ns;
                best = ns < best ? ns : best;
            }
            printf("  %u: %.0f", tb_states[s], TB_PAGE * 1e3 / best);
        }
        printf("\n");
    }
}

/* ---- coefficients of many classes ---- */
/* Bits by reverse water-filling at the mean error of p. */
static double tb_shannon(tb_point p)
{
    double low = 0;
    double high = 100;
    double bits = 0;
    for (int n = 0; n < 60; n++) {
        double water = (low + high) / 2;
        double sum = 0;
        bits = 0;
        for (size_t i = 0; i < TB_ROWS; i++) {
            double v = (double)tb_sigma[i] * (double)tb_sigma[i];
            sum += v < water ? v : water;
            bits += v > water ? 0.5 * log2(v / water) : 0;
        }
        if (sum / TB_ROWS > p.mse) {
            high = water;
        } else {
            low = water;
        }
    }
    return bits / TB_ROWS;
}

static void tb_excess(const char *name, tb_point p)
{
    double shannon = tb_shannon(p);
    printf("%-12s %7.4f bits, R(D) %7.4f, %5.2f %% more\n", name, p.bits, shannon,
           100 * (p.bits / shannon - 1));
}

static void tb_mixed(int top, int bottom, int shuffled)
{
    uint64_t seed = 7;
    tb_fill(0);
    for (size_t i = 0; i < TB_ROWS; i++) {
        double c = top - (top - bottom) * ((double)i + 0.5) / TB_ROWS;
        tb_sigma[i] = (float)exp2((c - 33) / 8);
    }
    for (size_t i = TB_ROWS; shuffled && i-- > 1;) {
        size_t j = (size_t)(tb_uniform(&seed) * (double)(i + 1));
        float s = tb_sigma[i];
        tb_sigma[i] = tb_sigma[j];
        tb_sigma[j] = s;
    }
    printf("classes %d to %d, %s\n", top, bottom, shuffled ? "in any order" : "falling");
    tb_lambda = 0;
    tb_shift = 0;
    tb_excess("Z", tb_z_at(1, 2));
    for (tb_lambda = 0.06; tb_lambda < 0.2; tb_lambda += 0.03) {
        for (tb_shift = -2; tb_shift <= 0; tb_shift++) {
            char name[40];
            (void)snprintf(name, sizeof name, "Z %.2f %d", tb_lambda, tb_shift);
            tb_excess(name, tb_z_at(1, 2));
        }
    }
    for (int s = 0; s < 7; s++) {
        char name[40];
        tb_init(tb_states[s]);
        (void)snprintf(name, sizeof name, "trellis %u", tb_states[s]);
        tb_excess(name, tb_trellis_at(1, 2));
    }
}

int main(int argc, char **argv)
{
    void *tables = tb_alloc(lq_tables_bytes());
    const char *what = argc > 1 ? argv[1] : "states";
    int laplace = argc > 2;
    tb_x = (float *)tb_alloc(TB_COUNT * sizeof(float));
    tb_y = (int32_t *)tb_alloc(TB_PAGE * 4);
    tb_decoded = (int32_t *)tb_alloc(TB_PAGE * 4);
    tb_z_rows = (int16_t *)tb_alloc(TB_PAGE * 2);
    if (lq_tables_init(&tb_tables, tables, lq_tables_bytes())) return 1;
    if (strcmp(what, "mixed") == 0) {
        tb_mixed(45, 10, 0);
        tb_mixed(45, 10, 1);
        tb_mixed(33, 10, 1);
        tb_mixed(27, 10, 0);
    } else if (strcmp(what, "speed") == 0) {
        tb_speed();
    } else if (strcmp(what, "centres") == 0) {
        tb_centres();
    } else if (strcmp(what, "z") == 0) {
        tb_header(laplace);
        tb_z();
    } else {
        tb_header(laplace);
        for (int s = 0; s < 7; s++) {
            tb_states_at_rates(tb_states[s]);
        }
    }
    return 0;
}
