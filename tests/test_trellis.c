/* cc -std=c99 -O2 tests/test_trellis.c -o test_trellis -lm    The entropy-coded trellis: its codes
   against their definition, paths against a search of all paths, every SIMD level against the C
   code, and figures on a Gaussian source. `test_trellis quick` uses fewer samples. */
#define LQ__KEEP_INTERNALS
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include "check.h"
#include "source.h"

enum { ROWS = 300, PAGE = ROWS * 64, LONG_ROWS = 4096 };

static const uint32_t all_states[7] = {4, 8, 16, 32, 64, 128, 256};
static const lq_tables *tables;
static lq__trellis trellis;
static lq__trellis_class of[LQ__TRELLIS_CLASSES];
static lq__row_data row_data[LONG_ROWS];
static uint8_t classes[LONG_ROWS];
static int32_t y[LONG_ROWS * 64], back[LONG_ROWS * 64], other[LONG_ROWS * 64];
static int16_t z[LONG_ROWS * 64], z_c[LONG_ROWS * 64];
static int levels;
static int quick;

static int level_set(int level)
{
    return lq_cpu_limit(level) == level;
}

/* ---- codes ---- */
/* All states are reached from 0 in nu rows, both ways in have the set that the top bit says, and
   ways of one state differ in the lowest bit. */
static void test_codes(void)
{
    for (int s = 0; s < 7; s++) {
        uint8_t reached[256] = {1};
        int ways[256] = {0};
        int bad = 0;
        CHECK(lq__trellis_init(&trellis, of, all_states[s]) == LQ_OK);
        for (uint32_t row = 0; row < trellis.nu; row++) {
            uint8_t next[256] = {0};
            for (uint32_t n = 0; n < trellis.states; n++) {
                for (uint32_t b = 0; b < 2 && reached[n]; b++) {
                    next[lq__trellis_next(&trellis, n, b)] = 1;
                }
            }
            memcpy(reached, next, sizeof reached);
        }
        for (uint32_t n = 0; n < trellis.states; n++) {
            bad += !reached[n];
            for (uint32_t b = 0; b < 2; b++) {
                uint32_t to = lq__trellis_next(&trellis, n, b);
                uint32_t set = to >> (trellis.nu - 1);
                bad += to >= trellis.states || set != (n & 1);
                bad += ((to ^ (trellis.g0 & (0 - set)) ^ (trellis.g1 & (0 - b))) << 1 | set) != n;
                ways[to & 255]++;
            }
        }
        for (uint32_t n = 0; n < trellis.states; n++) {
            bad += ways[n] != 2;
        }
        CHECK(bad == 0);
    }
    CHECK(lq__trellis_init(&trellis, of, 2) == LQ_E_ARG);
    CHECK(lq__trellis_init(&trellis, of, 12) == LQ_E_ARG);
    CHECK(lq__trellis_init(&trellis, of, 512) == LQ_E_ARG);
}

/* ---- tables and lists ---- */
static int table_is_good(const lq__rans_table *t)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        sum += t->freq[i];
    }
    return sum == 65536 && t->low <= 0 && t->high >= 0;
}

/* Frequencies sum up; lists have the integers, levels and parities that are told; costs of a level
   are below the bound. */
static void test_tables(void)
{
    int bad = 0;
    CHECK(lq__trellis_init(&trellis, of, 8) == LQ_OK);
    for (int i = 1; i < LQ__TRELLIS_CLASSES; i++) {
        const lq__trellis_class *c = &trellis.of[i];
        for (uint32_t set = 0; set < 2; set++) {
            lq__rans_table t;
            CHECK(lq__trellis_table(tables, &t, i, set) == LQ_OK);
            bad += !table_is_good(&t);
            for (int32_t k = -20; k <= 20; k++) {
                double level = k + (set && i >= 20 ? 0.5 : set ? -0.5 * ((k > 0) - (k < 0)) : 0);
                bad += fabs(lq__trellis_point(c, set, k) / 4096.0 - level) > 0.221;
                bad += level * lq__trellis_point(c, set, k) < 0;
            }
        }
        for (uint32_t list = 0; list < 4; list++) {
            for (int32_t k = 0; k < 8; k++) {
                int64_t last = k ? c->threshold[list][k - 1] : 0;
                bad += c->bits[list][k] < 0 || c->bits[list][k] > 2 * (1 << 24);
                bad += c->threshold[list][k] < last;
            }
        }
    }
    CHECK(bad == 0);
}

/* The cost of a number at each bit is the least of all integers within three that have this bit,
   or at most what thresholds at the edge of two steps leave; and below the bound. */
static void test_branches(void)
{
    int bad = 0;
    int worse = 0;
    int count = 0;
    for (int n = 0; n < (quick ? 20000 : 200000); n++) {
        int i = 1 + (int)source_below(LQ__CLASS_WIDE);
        const lq__trellis_class *c = &trellis.of[i];
        double sigma = exp2((i - 33) / 8.0) * 4096 * (1 + (n & 3));
        int32_t v = (int32_t)(source_gauss() * sigma);
        lq__trellis_step b;
        lq__trellis_branch(&b, c, v);
        for (uint32_t set = 0; set < 2; set++) {
            lq__rans_table t;
            if (n % 16) break;
            if (lq__trellis_table(tables, &t, i, set)) bad++;
            for (uint32_t one = 0; one < 2; one++) {
                double least = 1e300;
                int32_t near = v / 4096;
                for (int32_t k = near - 4; k <= near + 4; k++) {
                    double e = (v - lq__trellis_point(c, set, k)) / 4096.0;
                    double cost = e * e + lq__trellis_bits(&t, k) / 16777216.0;
                    if (((uint32_t)k & 1) == one && cost < least) least = cost;
                }
                if (abs(v) > c->limit[set] || abs(v) > 12 * 4096) continue;
                double own = b.cost[set][one] / 262144.0;
                count++;
                bad += own < least - 0.02;
                worse += own > least + 0.02;
            }
        }
        for (uint32_t set = 0; set < 2; set++) {
            bad += b.cost[set][0] >= 1 << 21 || b.cost[set][0] < 0;
            bad += b.cost[set][1] >= (1 << 21) + LQ__TRELLIS_FAR || b.cost[set][1] < 0;
        }
    }
    CHECK(bad == 0);
    CHECK(worse * 100 < count);
}

/* ---- paths ---- */
static void page_of(double spread, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        classes[i] = (uint8_t)(source_below(8) ? 1 + source_below(LQ__CLASS_WIDE) : 0);
        row_data[i].mean = (int32_t)source_below(20000) - 10000;
        for (size_t t = 0; t < 64; t++) {
            double sigma = exp2((classes[i] - 33) / 8.0) * spread;
            y[i * 64 + t] = row_data[i].mean + (int32_t)(4096 * sigma * source_gauss());
        }
    }
}

static int32_t encode(int16_t *to, size_t rows)
{
    size_t bytes = lq__trellis_workspace_bytes(&trellis, rows);
    uint8_t *workspace = (uint8_t *)source_alloc(bytes + 1);
    int32_t most =
        lq__trellis_of_level()->rows(&trellis, to, y, row_data, classes, rows, workspace + 1);
    free(workspace);
    return most;
}

static void decode(int32_t *to, const int16_t *from, size_t rows)
{
    uint8_t state[64] = {0};
    for (size_t i = 0; i < rows; i++) {
        for (size_t t = 0; t < 64; t++) {
            to[i * 64 + t] = row_data[i].mean;
        }
        if (classes[i]) {
            lq__trellis_of_level()->row(&trellis, lq__trellis_class_of(&trellis, classes[i]),
                                        to + i * 64, state, from + i * 64, row_data[i].mean);
        }
    }
}

/* The cost of what a path of 8 rows chooses is the least of all 2^8. */
static void test_least(void)
{
    int bad = 0;
    for (int s = 0; s < 7; s++) {
        CHECK(lq__trellis_init(&trellis, of, all_states[s]) == LQ_OK);
        page_of(1, 8);
        CHECK(encode(z, 8) <= 32767);
        for (size_t t = 0; t < 64; t++) {
            int64_t least = INT64_MAX;
            int64_t own = 0;
            uint32_t state = 0;
            lq__trellis_step b[8];
            for (size_t i = 0; i < 8; i++) {
                lq__trellis_branch(&b[i], lq__trellis_class_of(&trellis, classes[i]),
                                   y[i * 64 + t] - row_data[i].mean);
                if (classes[i] == 0) continue;
                uint32_t one = (uint32_t)z[i * 64 + t] & 1;
                own += b[i].cost[state & 1][one];
                state = lq__trellis_next(&trellis, state, one);
            }
            for (uint32_t path = 0; path < 256; path++) {
                int64_t sum = 0;
                state = 0;
                for (size_t i = 0; i < 8; i++) {
                    uint32_t one = path >> i & 1;
                    if (classes[i] == 0) continue;
                    sum += b[i].cost[state & 1][one];
                    state = lq__trellis_next(&trellis, state, one);
                }
                least = sum < least ? sum : least;
            }
            bad += own != least;
        }
    }
    CHECK(bad == 0);
}

/* All levels give the C code's integers and numbers; no integer that is odd escapes. */
static void test_levels(void)
{
    static const double spreads[5] = {0.3, 1, 4, 40, 3000};
    for (int s = 0; s < 7; s++) {
        CHECK(lq__trellis_init(&trellis, of, all_states[s]) == LQ_OK);
        for (int n = 0; n < 5; n++) {
            page_of(spreads[n], ROWS);
            if (n == 0) memset(classes + 60, 0, 140);
            CHECK(level_set(0));
            int32_t want = encode(z_c, ROWS);
            decode(back, z_c, ROWS);
            for (int level = 1; level <= levels; level++) {
                CHECK(level_set(level));
                CHECK(encode(z, ROWS) == want);
                CHECK(memcmp(z, z_c, PAGE * 2) == 0);
                decode(other, z, ROWS);
                CHECK(memcmp(back, other, PAGE * 4) == 0);
            }
            CHECK(n > 2 || want <= 32767);
        }
    }
}

static void test_escapes(void)
{
    int bad = 0;
    CHECK(lq__trellis_init(&trellis, of, 8) == LQ_OK);
    for (int n = 0; n < 10; n++) {
        uint8_t state[64] = {0};
        page_of(1.5, ROWS);
        CHECK(encode(z, ROWS) <= 32767);
        for (size_t i = 0; i < ROWS; i++) {
            lq__rans_table t[2];
            for (uint32_t set = 0; set < 2 && classes[i]; set++) {
                int c = classes[i] < LQ__CLASS_WIDE ? classes[i] : LQ__CLASS_WIDE;
                bad += lq__trellis_table(tables, &t[set], c, set) != LQ_OK;
            }
            for (size_t j = 0; j < 64 && classes[i]; j++) {
                const lq__rans_table *own = &t[state[j] & 1];
                int32_t k = z[i * 64 + j];
                bad += (k & 1) && (k < own->low || k > own->high);
                state[j] = (uint8_t)lq__trellis_next(&trellis, state[j], (uint32_t)k & 1);
            }
        }
    }
    CHECK(bad == 0);
}

/* ---- figures ---- */
static double bits_of(const lq__rans_table *t, int32_t k)
{
    int out = k < t->low || k > t->high;
    double bits = 16 - log2((double)t->code_freq[out ? 0 : k + t->place]);
    return bits + (out ? (double)lq__escape_bits(k) / 65536 : 0);
}

/* MSE 4^R of a Gaussian of deviation sigma steps; bits are those of the tables. */
static double figure(double sigma)
{
    lq__rans_table t[2];
    uint8_t state[64] = {0};
    double bits = 0;
    double error = 0;
    int c = (int)floor(8 * log2(sigma) + 33.5);
    for (size_t i = 0; i < LONG_ROWS; i++) {
        classes[i] = (uint8_t)c;
        row_data[i].mean = 0;
        for (size_t j = 0; j < 64; j++) {
            y[i * 64 + j] = (int32_t)floor(4096 * sigma * source_gauss() + 0.5);
        }
    }
    CHECK(lq__trellis_table(tables, &t[0], c, 0) == LQ_OK);
    CHECK(lq__trellis_table(tables, &t[1], c, 1) == LQ_OK);
    CHECK(encode(z, LONG_ROWS) <= 32767);
    decode(back, z, LONG_ROWS);
    for (size_t i = 0; i < LONG_ROWS * 64; i++) {
        double e = (double)(y[i] - back[i]) / 4096;
        error += e * e;
        bits += bits_of(&t[state[i % 64] & 1], z[i]);
        state[i % 64] = (uint8_t)lq__trellis_next(&trellis, state[i % 64], (uint32_t)z[i] & 1);
    }
    bits /= LONG_ROWS * 64;
    return error / (LONG_ROWS * 64) / (sigma * sigma) * exp2(2 * bits);
}

static void test_figures(void)
{
    static const double most[7] = {1.146, 1.124, 1.112, 1.098, 1.085, 1.076, 1.069};
    for (int s = 0; s < (quick ? 4 : 7); s++) {
        CHECK(lq__trellis_init(&trellis, of, all_states[s]) == LQ_OK);
        CHECK(figure(1.94) < most[s]);
        CHECK(figure(0.5) < most[s]);
        CHECK(figure(0.354) < most[s]);
    }
}

int main(int argc, char **argv)
{
    void *mem = source_alloc(lq_tables_bytes());
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_level();
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    CHECK(lq__trellis_classes(of, tables) == LQ_OK);
    test_codes();
    test_tables();
    test_branches();
    test_least();
    test_levels();
    test_escapes();
    CHECK(level_set(levels));
    test_figures();
    free(mem);
    return check_report("trellis");
}
