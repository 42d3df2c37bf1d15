/* cc -std=c99 -O2 tests/test_rans.c -o test_rans -lm    Tests of >>rans; `test_rans quick` skips the long
sweeps. */
#define LQ__KEEP_INTERNALS
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const lq_tables *tables;
static const lq_tables *whole;
static const lq_tables *packed; /* the same */
static int levels; /* SIMD levels to test: 0 .. levels */

/* ---- sources ---- */
static uint64_t seed = 1;

static uint64_t random64(void)
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(random64() >> 32) % n;
}

static double gauss(void)
{
    double u = ((double)(random64() >> 11) + 0.5) / 9007199254740992.0;
    double v = (double)(random64() >> 11) / 9007199254740992.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static double sigma_of(int class_)
{
    return pow(2.0, (class_ - LQ_CLASS_ONE) / 8.0);
}

static int16_t clamp16(double z)
{
    return (int16_t)(z < -30000 ? -30000 : z > 30000 ? 30000 : z);
}

/* Nearest point of D4 or of a coset of D8: the error, z rounded. */
static double nearest_d(double *z, const double *x, int dims, int even)
{
    double error = 0;
    double worst = -1;
    double sum = 0;
    int which = 0;
    for (int i = 0; i < dims; i++) {
        z[i] = floor(x[i] + 0.5);
        double d = fabs(x[i] - z[i]);
        error += d * d;
        sum += z[i];
        if (d > worst) {
            worst = d;
            which = i;
        }
    }
    if (even && fmod(fabs(sum), 2) > 0.5) {
        z[which] += x[which] < z[which] ? -1 : 1;
        error += 1 - 2 * worst;
    }
    return error;
}

/* Eight integers of a path, of which only even ones escape, and the word: the state of the last one
   above the sets of all eight. The code by its definition: the bits of h0 = 13 or 103 and h1 = 4 or
   24, octal, say which bits of the next state the lowest one of the state and of the integer turn. */
static int fill_path(double (*z)[8], const double *x, const uint8_t *classes, uint32_t *state,
                     int quantizer)
{
    uint32_t h0 = quantizer == LQ_TRELLIS_8 ? 013 : 0103;
    uint32_t h1 = quantizer == LQ_TRELLIS_8 ? 04 : 024;
    uint32_t word = 0;
    for (int j = 0; j < 8; j++) {
        int class_ = classes[j];
        uint32_t set = *state & 1;
        const lq__rans_range *own = &whole->range[lq__trellis_table_of(class_, set)];
        int k = clamp16(floor(x[j] + 0.5));
        if (k < own->low || k > own->high) k -= k % 2;
        z[0][j] = k;
        word |= set << j;
        if (j == 7) word |= *state << 8;
        *state = (*state ^ (set ? h0 : 0) ^ (k % 2 ? h1 : 0)) >> 1;
    }
    return (int16_t)(uint16_t)word;
}

/* A matrix of Gaussian rows by class, quantized as the plan says. `outliers`: one value in that
   many is far out. */
static void fill(int16_t *values, const uint8_t *classes, size_t rows, size_t lead, int quantizer,
                 uint32_t outliers)
{
    size_t dims = lq_lattice_dims(quantizer);
    size_t row = 0;
    uint32_t state[64] = {0};
    int path = quantizer == LQ_TRELLIS_8 || quantizer == LQ_TRELLIS_64;
    for (size_t i = 0; i < rows;) {
        size_t block = i < lead || rows - i < dims ? 1 : dims;
        int lattice = block > 1 && lq__block_is_lattice(classes + i, lq__quantizer_of(quantizer));
        if (!lattice) memset(state, 0, sizeof state);
        for (size_t t = 0; t < 64; t++) {
            double x[8];
            double half[8];
            int coset = 0;
            for (size_t j = 0; j < block; j++) {
                x[j] = gauss() * sigma_of(classes[i + j]);
                x[j] *= outliers && below(outliers) == 0 ? exp(below(1000) * 0.008) : 1;
                x[j] = x[j] < -12000 ? -12000 : x[j] > 12000 ? 12000 : x[j];
                x[j] = classes[i + j] ? x[j] : 0;
                half[j] = x[j] - 0.5;
            }
            double z[2][8];
            if (lattice && path) {
                coset = fill_path(z, x, classes + i, &state[t], quantizer);
            } else if (lattice) {
                double e = nearest_d(z[0], x, (int)block, 1);
                if (block == 8) {
                    coset = nearest_d(z[1], half, 8, quantizer == LQ_E8) < e;
                }
            } else {
                for (size_t j = 0; j < block; j++) {
                    double dead = i < lead ? 0 : lq__dead_zone_q12(tables, classes[i + j]) / 4096.0;
                    z[0][j] = floor(fabs(x[j]) + 0.5 - dead) * (x[j] < 0 ? -1 : 1);
                }
            }
            if (block == 8) values[row * 64 + t] = (int16_t)coset;
            for (size_t j = 0; j < block; j++) {
                values[(row + (block == 8) + j) * 64 + t] = clamp16(z[path ? 0 : coset][j]);
            }
        }
        row += block + (block == 8);
        i += block;
    }
}

/* ---- one set-up: classes, plan, pages ---- */
enum { PAGES = 9, ROWS = 216, MATRIX = 243 };
typedef struct setup {
    uint8_t classes[ROWS];
    size_t rows;
    size_t lead;
    int quantizer;
    lq_rans_plan plan;
    uint8_t plan_mem[MATRIX * 40];
    int16_t values[PAGES][MATRIX * 64];
    int16_t decoded[PAGES][MATRIX * 64];
    uint8_t *bytes[PAGES];
    size_t size[PAGES];
    uint8_t *workspace;
    size_t workspace_bytes;
} setup;

static setup *setup_new(void)
{
    setup *s = (setup *)calloc(1, sizeof *s);
    for (size_t i = 0; i < PAGES; i++) {
        s->bytes[i] = (uint8_t *)malloc(lq_rans_bound(MATRIX, 64));
    }
    s->workspace_bytes = lq_rans_workspace_bytes(MATRIX, PAGES);
    s->workspace = (uint8_t *)malloc(s->workspace_bytes);
    return s;
}

static void setup_free(setup *s)
{
    for (size_t i = 0; i < PAGES; i++) {
        free(s->bytes[i]);
    }
    free(s->workspace);
    free(s);
}

static void setup_plan(setup *s, size_t rows, size_t lead, int quantizer)
{
    s->rows = rows;
    s->lead = lead;
    s->quantizer = quantizer;
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, sizeof s->plan_mem, s->classes, rows, lead,
                            quantizer) == LQ_OK);
}

static int setup_encode(setup *s, const uint32_t *tokens, size_t pages)
{
    lq_rans_page page[PAGES];
    for (size_t i = 0; i < pages; i++) {
        memset(&page[i], 0, sizeof page[i]);
        page[i].values = s->values[i];
        page[i].bytes = s->bytes[i];
        page[i].bytes_count = lq_rans_bound(s->plan.rows, tokens[i]);
        page[i].tokens = tokens[i];
    }
    int status = lq_rans_encode(tables, &s->plan, page, pages, s->workspace, s->workspace_bytes);
    for (size_t i = 0; i < pages; i++) {
        s->size[i] = page[i].written;
    }
    return status;
}

/* Pages to be decoded from bytes. */
static void setup_pages(setup *s, lq_rans_page *page, uint8_t *const *bytes, const uint32_t *tokens,
                        size_t pages)
{
    for (size_t i = 0; i < pages; i++) {
        memset(&page[i], 0, sizeof page[i]);
        memset(s->decoded[i], 0x55, sizeof s->decoded[i]);
        page[i].values = s->decoded[i];
        page[i].bytes = bytes[i];
        page[i].bytes_count = s->size[i];
        page[i].tokens = tokens[i];
    }
}

static int setup_decode(setup *s, const uint32_t *tokens, size_t pages)
{
    lq_rans_page page[PAGES];
    setup_pages(s, page, s->bytes, tokens, pages);
    return lq_rans_decode(tables, &s->plan, page, pages, s->workspace, s->workspace_bytes);
}

/* Decoded values are the encoded ones; unused columns are zero. */
static int setup_equal(const setup *s, size_t page, uint32_t tokens)
{
    for (size_t i = 0; i < s->plan.rows; i++) {
        for (uint32_t t = 0; t < 64; t++) {
            if (s->decoded[page][i * 64 + t] != (t < tokens ? s->values[page][i * 64 + t] : 0)) {
                return 0;
            }
        }
    }
    return 1;
}

/* Round trip at every level, bytes the same at all. */
static void round_trip(setup *s, const uint32_t *tokens, size_t pages)
{
    static uint8_t first[PAGES][65536 * 3];
    size_t first_size[PAGES];
    memset(first_size, 0, sizeof first_size);
    for (int level = 0; level < 2 * (levels + 1); level++) { /* and once more with packed tables */
        lq_cpu_limit(level % (levels + 1));
        tables = level <= levels ? whole : packed;
        if (s->plan.path_rows && tables == packed) {
            CHECK(setup_encode(s, tokens, pages) == LQ_E_ARG);
            CHECK(setup_decode(s, tokens, pages) == LQ_E_ARG);
            continue;
        }
        CHECK(setup_encode(s, tokens, pages) == LQ_OK);
        for (size_t i = 0; i < pages; i++) {
            CHECK(s->size[i] > 0 && s->size[i] <= lq_rans_bound(s->plan.rows, tokens[i]));
            if (level == 0) {
                first_size[i] = s->size[i];
                memcpy(first[i], s->bytes[i], s->size[i]);
            }
            CHECK(s->size[i] == first_size[i] && !memcmp(first[i], s->bytes[i], s->size[i]));
        }
        CHECK(setup_decode(s, tokens, pages) == LQ_OK);
        for (size_t i = 0; i < pages; i++) {
            CHECK(setup_equal(s, i, tokens[i]));
        }
    }
    tables = whole;
    lq_cpu_limit(-1);
}

/* ---- tables ---- */
static double normal(double x)
{
    return 0.5 * erfc(-x * 0.7071067811865476);
}

static double edge_of(int k, uint32_t offset, double dead)
{
    double e = k - 0.5;
    return offset == 0 ? e + (k > 0 ? dead : -dead) : offset == 4 ? e : e + offset * 0.25;
}

static void test_table_layout(const lq__rans_table *t)
{
    uint32_t sum = 0;
    uint32_t s;
    uint32_t bad = 0;
    uint32_t single = 1;
    for (s = 0; s < t->count; s++) {
        bad |= t->begin[s] != sum || t->freq[s] < 16;
        sum += t->freq[s];
        bad |= t->end[s] != sum - 1;
        bad |= s > 0 && t->code_begin[t->value[s] + 16] != t->begin[s];
        bad |= s > 0 && t->code_freq[t->value[s] + 16] != t->freq[s];
        bad |= s > 0 && (t->value[s] < t->low || t->value[s] > t->high);
    }
    CHECK(!bad && sum == 65536 && t->count <= 32 && t->count >= 2);
    CHECK((int)t->count == t->high - t->low + 2);
    s = 0;
    for (uint32_t slot = 0; slot < 65536; slot++) {
        uint32_t found = t->start[slot >> 10];
        found += slot > t->end[found];
        found += slot > t->end[found];
        s += slot > t->end[s];
        bad |= found != s;
    }
    CHECK(!bad);
    for (s = 0; s < 64; s++) { /* boundaries strictly inside a bucket */
        uint32_t inside = 0;
        for (uint32_t i = 1; i < t->count; i++) {
            inside += t->begin[i] > s * 1024 && t->begin[i] < s * 1024 + 1024;
        }
        bad |= inside > 2;
        single &= inside < 2;
    }
    CHECK(!bad && single == t->single);
}

/* The dead zone: 0.06 / s^2 + 0.0007 / s^6 in 16 bits, at most 0.45, none in wide classes. */
static double dead_of(int class_)
{
    double s = sigma_of(class_);
    double dead = (3932 / (s * s) + (s < 2 ? 46 / pow(s, 6) : 0)) / 65536;
    return class_ > LQ__CLASS_WIDE ? 0 : dead < 0.45 ? dead : 0.45;
}

/* Small tables: what they were packed from. */
static void test_packed(void)
{
    CHECK(lq_tables_small_bytes() < 21000);
    for (uint32_t i = 0; i < LQ__T_SMALL; i++) {
        lq__rans_table own;
        CHECK(lq__table_look(packed, i, &own) == &own && lq__table_buckets(&own) == LQ_OK);
        CHECK(memcmp(&own, &tables->table[i], sizeof own) == 0);
        CHECK(memcmp(&packed->range[i], &tables->range[i], sizeof *packed->range) == 0);
    }
    CHECK(memcmp(packed->centroid, tables->centroid, sizeof(int16_t[LQ__CLASS_WIDE + 1][16])) == 0);
}

static void test_tables(void)
{
    for (uint32_t i = 0; i < LQ__T_COUNT; i++) {
        test_table_layout(&tables->table[i]);
    }
    for (int class_ = -LQ__T_LOW; class_ <= LQ__CLASS_WIDE; class_++) {
        double sigma = sigma_of(class_);
        double dead = lq__dead_zone_q16(class_) / 65536.0;
        CHECK(fabs(dead - dead_of(class_)) < 2.0 / 65536);
        for (uint32_t offset = 0; offset < LQ__T_OFFSETS; offset++) {
            const lq__rans_table *t = &tables->table[lq__table_of(class_, offset)];
            double worst = 0;
            double bits = 0; /* lost to the layout */
            uint32_t bigs = 0;
            uint32_t most = 0;
            for (uint32_t i = 1; i < t->count; i++) {
                most = t->freq[i] > t->freq[most] ? i : most;
            }
            for (uint32_t i = 1; i < t->count; i++) {
                double p = normal(edge_of(t->value[i] + 1, offset, dead) / sigma) -
                           normal(edge_of(t->value[i], offset, dead) / sigma);
                double d = fabs(p * 65536 - t->freq[i]);
                CHECK(lq__freq(tables, class_, offset, t->value[i]) == t->freq[i]);
                bigs += p * 65536 > 1024;
                bits += p > 0 ? p * log2(p * 65536 / t->freq[i]) : 0;
                if (t->freq[i] + 40u > t->freq[most]) { /* where the sum was mended */
                    CHECK(d < (t->single ? 1024 : 17 + t->freq[0]));
                } else if (t->single && p * 65536 > 1023) {
                    CHECK(d < 1024);
                } else {
                    worst = d > worst ? d : worst;
                }
            }
            CHECK(worst < 0.5 + 65536e-6);
            CHECK(bits < 0.003);
            CHECK(t->single || t->count > 2 * bigs + 1);
        }
    }
}

static void test_centroids(void)
{
    for (int class_ = 1; class_ <= LQ_CLASS_MAX; class_++) {
        double s = sigma_of(class_);
        double dead = dead_of(class_);
        CHECK(fabs(lq__dead_zone_q12(tables, (uint32_t)class_) - dead * 4096) < 0.6);
        for (uint32_t k = 1; k <= 20; k++) {
            double a = (k - 0.5 + dead) / s;
            double b = (k + 0.5 + dead) / s;
            double p = normal(-a) - normal(-b);
            double c = s * (exp(-a * a / 2) - exp(-b * b / 2)) / (p * 2.5066282746310002);
            int32_t shift = lq__centroid_q12(tables, (uint32_t)class_, k);
            if (class_ <= LQ__CLASS_WIDE && k <= 15 && a < 30) {
                CHECK(fabs(shift - (k - c) * 4096) < (p > 1e-6 ? 2.5 : 40));
            } else if (class_ > LQ__CLASS_WIDE) {
                CHECK(fabs(shift - (k - c) * 4096) < 2);
            }
        }
        CHECK(lq__centroid_q12(tables, (uint32_t)class_, 0) == 0);
        CHECK(lq__centroid_q12(tables, (uint32_t)class_, 60000) <= 2048);
    }
    CHECK(lq__centroid_q12(tables, 0, 3) == 0);
}

/* ---- the quotient of the SIMD encoders ---- */
#if LQ__X86
LQ__TARGET_AVX512 static void quotients_512(uint16_t *q, uint16_t *r, const uint16_t *hi,
                                            const uint16_t *lo, uint32_t freq)
{
    uint32_t reciprocal = lq__reciprocal_bits(freq);
    for (uint32_t i = 0; i < 64; i += 32) {
        lq__coded_512 c;
        c.freq = _mm512_set1_epi16((int16_t)freq);
        c.begin = c.freq;
        c.reciprocal[0] = _mm512_set1_epi16((int16_t)(reciprocal & 65535));
        c.reciprocal[1] = _mm512_set1_epi16((int16_t)(reciprocal >> 16));
        __m512i a;
        __m512i b;
        if (freq > LQ__FREQ_NARROW) {
            lq__quotient_512(&a, &b, _mm512_loadu_si512(hi + i), _mm512_loadu_si512(lo + i), &c, 1);
        } else {
            lq__quotient_512(&a, &b, _mm512_loadu_si512(hi + i), _mm512_loadu_si512(lo + i), &c, 0);
        }
        _mm512_storeu_si512(q + i, a);
        _mm512_storeu_si512(r + i, b);
    }
}

LQ__TARGET_AVX2 static void quotients_256(uint16_t *q, uint16_t *r, const uint16_t *hi,
                                          const uint16_t *lo, uint32_t freq)
{
    uint32_t reciprocal = lq__reciprocal_bits(freq);
    for (uint32_t i = 0; i < 64; i += 16) {
        __m256i a;
        __m256i b;
        lq__quotient_256(&a, &b, lq__load_256(hi + i), lq__load_256(lo + i),
                         _mm256_set1_epi16((int16_t)freq),
                         _mm256_set1_epi16((int16_t)(reciprocal & 65535)),
                         _mm256_set1_epi16((int16_t)(reciprocal >> 16)));
        _mm256_storeu_si256((__m256i *)(void *)(q + i), a);
        _mm256_storeu_si256((__m256i *)(void *)(r + i), b);
    }
}

static void quotients(int level, uint16_t *q, uint16_t *r, const uint16_t *hi, const uint16_t *lo,
                      uint32_t freq)
{
    if (level == 2) {
        quotients_512(q, r, hi, lo, freq);
    } else {
        quotients_256(q, r, hi, lo, freq);
    }
}
#elif LQ__NEON
static void quotients(int level, uint16_t *q, uint16_t *r, const uint16_t *hi, const uint16_t *lo,
                      uint32_t freq)
{
    uint32_t reciprocal = lq__reciprocal_bits(freq);
    (void)level;
    for (uint32_t i = 0; i < 64; i += 4) {
        uint32_t x[4], quotient[4], rest[4];
        for (uint32_t j = 0; j < 4; j++) {
            x[j] = (uint32_t)hi[i + j] << 16 | lo[i + j];
        }
        uint32x4_t b;
        vst1q_u32(quotient, lq__quotient_neon(&b, vld1q_u32(x), vdupq_n_u32(freq),
                                              vdupq_n_u32(reciprocal)));
        vst1q_u32(rest, b);
        for (uint32_t j = 0; j < 4; j++) {
            q[i + j] = (uint16_t)quotient[j];
            r[i + j] = (uint16_t)rest[j];
        }
    }
}
#endif

#if LQ__X86 || LQ__NEON
/* States at which a quotient is hardest: next to multiples of f, and at both ends. */
static uint32_t state_of(uint32_t f, uint32_t i)
{
    uint64_t top = (uint64_t)f << 16;
    uint64_t x;
    if (i < 16) {
        x = top - 1 - i;
    } else if (i < 32) {
        x = 65536 + i - 16;
    } else {
        x = (random64() >> 32) % (top / f) * f + (random64() >> 32) % 5 + f - 2;
    }
    x = x < 65536 ? 65536 : x;
    return (uint32_t)(x >= top ? top - 1 : x);
}

static int quotients_ok(int level)
{
    uint32_t bad = 0;
    for (uint32_t f = LQ__FREQ_LEAST; f <= 65535; f++) {
        uint16_t hi[64];
        uint16_t lo[64];
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t x = f == 16 && i < 32 ? 65536 + i : state_of(f, i);
            hi[i] = (uint16_t)(x >> 16);
            lo[i] = (uint16_t)x;
        }
        uint16_t q[64];
        uint16_t r[64];
        quotients(level, q, r, hi, lo, f);
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t x = (uint32_t)hi[i] << 16 | lo[i];
            bad |= q[i] != x / f || r[i] != x % f;
        }
    }
    return !bad;
}
#endif

/* ---- round trips ---- */
static void random_classes(setup *s, size_t rows, uint32_t low, uint32_t span)
{
    for (size_t i = 0; i < rows; i++) {
        s->classes[i] = (uint8_t)(low + below(span));
    }
}

static void test_round_trips(int quick)
{
    setup *s = setup_new();
    for (int quantizer = LQ_Z; quantizer <= LQ_TRELLIS_64; quantizer++) {
        for (uint32_t run = 0; run < (quick ? 24u : 160u); run++) {
            size_t rows = 1 + below(run % 4 ? 60 : ROWS);
            size_t lead = run % 3 ? 0 : below((uint32_t)rows < 9 ? (uint32_t)rows + 1 : 9);
            size_t pages = 1 + below(PAGES);
            static const uint32_t span[8][2] = {{0, 122}, {20, 30}, {1, 60},  {0, 12},
                                                {44, 30}, {33, 12}, {50, 14}, {60, 62}};
            random_classes(s, rows, span[run % 8][0], span[run % 8][1]);
            if (run % 5 == 0) s->classes[below((uint32_t)rows)] = 0;
            setup_plan(s, rows, lead, quantizer);
            CHECK(s->plan.rows == lq_rans_matrix_rows(rows, lead, quantizer));
            uint32_t tokens[PAGES];
            for (size_t i = 0; i < pages; i++) {
                tokens[i] = run % 2 ? 64 : 1 + below(64);
                fill(s->values[i], s->classes, rows, lead, quantizer,
                     run % 3 == 1 ? 0
                     : run % 3    ? 500
                                  : 20);
            }
            round_trip(s, tokens, pages);
        }
        for (uint32_t run = 1; run <= 64; run++) { /* every token count */
            random_classes(s, 24, 14, 46);
            setup_plan(s, 24, 0, quantizer);
            fill(s->values[0], s->classes, 24, 0, quantizer, 200);
            round_trip(s, &run, 1);
        }
        for (uint32_t run = 1; run <= LQ_CLASS_MAX; run++) { /* every class */
            uint32_t tokens = 64;
            memset(s->classes, (int)run, 17);
            setup_plan(s, 17, 1, quantizer);
            fill(s->values[0], s->classes, 17, 1, quantizer, 300);
            round_trip(s, &tokens, 1);
        }
    }
    setup_free(s);
}

/* ---- symbols ---- */
enum { FLIGHT = 8, ESCAPES = 400 };
typedef struct flight {
    uint8_t *bytes[FLIGHT]; /* as long as the streams and what may be read behind them */
    uint8_t symbols[MATRIX * FLIGHT * 64];
    lq__rans_escape escapes[ESCAPES];
    size_t count;
} flight;

static int flight_decode(setup *s, flight *f, const uint32_t *tokens)
{
    lq_rans_page page[FLIGHT];
    setup_pages(s, page, f->bytes, tokens, FLIGHT);
    memset(f->symbols, 0x55, sizeof f->symbols);
    return lq__rans_symbols(tables, &s->plan, page, f->symbols, f->escapes, ESCAPES, &f->count,
                            s->workspace, s->workspace_bytes);
}

/* Whether symbols, escapes and the rows that are neither stand for the values. */
static int flight_equal(const setup *s, const flight *f)
{
    size_t escaped = 0;
    for (size_t i = 0; i < s->plan.coded_rows; i++) {
        const lq_rans_row *r = &s->plan.coded[i];
        const lq__rans_table *table = &tables->table[r->table[0]];
        for (size_t g = 0; g < FLIGHT; g++) {
            for (uint32_t t = 0; t < 64; t++) {
                size_t at = (size_t)r->row * 64 + t;
                uint8_t symbol = f->symbols[(i * FLIGHT + g) * 64 + LQ__RANS_PLACE(t)];
                int value = s->decoded[g][at];
                uint32_t number = lq__row_is_symbols(r) ? symbol >> r->raw[0] : 0;
                if (number > 0) {
                    value = table->value[number & 31];
                    value = r->raw[0] ? 2 * value + (symbol & 1) : value;
                }
                escaped += lq__row_is_symbols(r) && number == 0;
                if (value != s->values[g][at] || number > 31) return 0;
            }
        }
    }
    for (size_t i = 0; i < f->count; i++) {
        const lq__rans_escape *e = &f->escapes[i];
        uint32_t place = LQ__RANS_PLACE((uint32_t)e->token);
        uint8_t symbol = f->symbols[((size_t)e->row * FLIGHT + e->page) * 64 + place];
        if (symbol >> s->plan.coded[e->row].raw[0]) return 0;
    }
    return escaped == f->count;
}

/* Eight pages to symbols, whole and damaged: what lq_rans_decode refuses is refused. */
static void test_symbols(int quick)
{
    setup *s = setup_new();
    flight *f = (flight *)calloc(1, sizeof *f);
    uint32_t tokens[FLIGHT] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint32_t full = 0;
    uint32_t run;
    for (run = 0; run < (quick ? 40u : 400u) && LQ__X86 && levels == 2; run++) {
        static const uint32_t span[5][2] = {{0, 122}, {17, 30}, {34, 12}, {48, 20}, {1, 60}};
        size_t rows = 1 + below(run % 4 ? 60 : ROWS);
        random_classes(s, rows, span[run % 5][0], span[run % 5][1]);
        setup_plan(s, rows, run % 2, LQ_Z);
        for (size_t i = 0; i < FLIGHT; i++) {
            static const uint32_t outliers[6] = {0, 0, 2000, 4000, 15, 8000};
            fill(s->values[i], s->classes, rows, run % 2, LQ_Z, outliers[run % 6]);
        }
        if (run % 2 && s->classes[0]) { /* of the lead row, which is none of symbols */
            s->values[1 + below(7)][below(64)] = 3000;
        }
        CHECK(setup_encode(s, tokens, FLIGHT) == LQ_OK);
        for (size_t i = 0; i < FLIGHT; i++) {
            f->bytes[i] = (uint8_t *)calloc(s->size[i] + LQ__ROW_BYTES, 1);
            memcpy(f->bytes[i], s->bytes[i], s->size[i]);
        }
        int status = flight_decode(s, f, tokens);
        CHECK(status == LQ_OK ? flight_equal(s, f) : status == LQ_E_SPACE && f->count == ESCAPES);
        full += status != LQ_OK;
        for (uint32_t damage = 0; damage < 8; damage++) {
            size_t page = below(FLIGHT);
            size_t at = below((uint32_t)s->size[page]);
            uint8_t bit = (uint8_t)(1u << below(8));
            s->bytes[page][at] ^= bit;
            f->bytes[page][at] ^= bit;
            int refused = setup_decode(s, tokens, FLIGHT);
            status = flight_decode(s, f, tokens);
            CHECK(refused ? status != LQ_OK : status == LQ_OK || status == LQ_E_SPACE);
            s->bytes[page][at] ^= bit;
            f->bytes[page][at] ^= bit;
        }
        for (size_t i = 0; i < FLIGHT; i++) {
            free(f->bytes[i]);
        }
    }
    CHECK(run == 0 || (full > 0 && full < run / 2));
    free(f);
    setup_free(s);
}

/* Values at the ends of int16, everywhere. */
static void test_extremes(void)
{
    setup *s = setup_new();
    uint32_t tokens[2] = {64, 33};
    for (uint32_t run = 0; run < 40; run++) {
        random_classes(s, 20, run % 2 ? 1 : 40, run % 2 ? 30 : 80);
        setup_plan(s, 20, 4, LQ_Z);
        for (size_t i = 0; i < 20 * 64; i++) {
            s->values[0][i] = (int16_t)(below(2) ? -32768 + (int)below(3) : 32767 - (int)below(3));
            s->values[1][i] = (int16_t)random64();
        }
        round_trip(s, tokens, 2);
    }
    setup_free(s);
}

static void test_arguments(void)
{
    setup *s = setup_new();
    uint32_t tokens = 64;
    static uint8_t small[64];
    lq_rans_page page;
    memset(&page, 0, sizeof page);
    const lq_tables *t;
    CHECK(lq_tables_init(&t, NULL, 1 << 20) == LQ_E_ARG);
    CHECK(lq_tables_init(&t, small, sizeof small) == LQ_E_SPACE);
    memset(s->classes, 33, 16);
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, 8, s->classes, 16, 0, LQ_E8) == LQ_E_SPACE);
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, 4096, s->classes, 16, 0, 0) == LQ_E_ARG);
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, 4096, s->classes, 16, 17, 1) == LQ_E_ARG);
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, 4096, s->classes, 0, 0, 1) == LQ_E_ARG);
    s->classes[3] = LQ_CLASS_MAX + 1;
    CHECK(lq_rans_plan_init(&s->plan, s->plan_mem, 4096, s->classes, 16, 0, 1) == LQ_E_ARG);
    s->classes[3] = 33;
    CHECK(lq_rans_bound(0, 64) == 0 && lq_rans_bound(1, 0) == 0 && lq_rans_bound(1, 65) == 0);
    CHECK(lq_rans_workspace_bytes(0, 1) == 0 && lq_rans_plan_bytes(0) == 0);
    CHECK(lq_rans_matrix_rows(16, 0, LQ_E8) == 18 && lq_rans_matrix_rows(16, 1, LQ_E8) == 17);
    setup_plan(s, 16, 0, LQ_E8);
    fill(s->values[0], s->classes, 16, 0, LQ_E8, 0);
    CHECK(setup_encode(s, &tokens, 1) == LQ_OK);
    s->values[0][5 * 64 + 63] ^= 1; /* an odd sum, then a wrong coset */
    for (tokens = 1; tokens <= 64; tokens += 21) {
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            CHECK(setup_encode(s, &tokens, 1) == (tokens == 64 ? LQ_E_ARG : LQ_OK));
        }
        s->values[0][64 * 9] = 2;
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            CHECK(setup_encode(s, &tokens, 1) == LQ_E_ARG && s->size[0] == 0);
        }
        s->values[0][64 * 9] = 0;
        setup_plan(s, 16, 0, LQ_E8);
        fill(s->values[0], s->classes, 16, 0, LQ_E8, 0);
        s->values[0][5 * 64 + 63] ^= 1;
    }
    lq_cpu_limit(-1);
    page.values = s->values[0];
    page.bytes = s->bytes[0];
    page.tokens = 65;
    CHECK(lq_rans_encode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes) == LQ_E_ARG);
    CHECK(lq_rans_decode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes) == LQ_E_ARG);
    page.tokens = 64;
    CHECK(lq_rans_decode(tables, &s->plan, &page, 1, s->workspace, 64) == LQ_E_SPACE);
    CHECK(lq_rans_decode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes) ==
          LQ_E_DATA);
    page.values = NULL;
    CHECK(lq_rans_decode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes) == LQ_E_ARG);
    CHECK(lq_rans_decode(tables, &s->plan, NULL, 0, s->workspace, s->workspace_bytes) == LQ_OK);
    setup_free(s);
}

/* Room for every length but the right one is LQ_E_SPACE. */
/* The encoder makes a path's words itself, whatever stands there; an integer that escapes is even. */
static void test_paths(void)
{
    setup *s = setup_new();
    uint32_t tokens = 50;
    for (int quantizer = LQ_TRELLIS_8; quantizer <= LQ_TRELLIS_64; quantizer++) {
        static int16_t want[MATRIX * 64];
        random_classes(s, 40, 20, 20);
        setup_plan(s, 40, 0, quantizer);
        CHECK(s->plan.path_rows == 40);
        fill(s->values[0], s->classes, 40, 0, quantizer, 0);
        memcpy(want, s->values[0], sizeof want);
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            for (size_t i = 0; i < 45; i += 9) {
                memset(s->values[0] + i * 64, 0x5a + level, 128);
            }
            CHECK(setup_encode(s, &tokens, 1) == LQ_OK);
            for (size_t i = 0; i < 45 * 64; i++) {
                if (i % 64 < tokens && !CHECK(s->values[0][i] == want[i])) break;
            }
            CHECK(setup_decode(s, &tokens, 1) == LQ_OK && setup_equal(s, 0, tokens));
            for (int k = -401; k <= 401; k++) {
                if (k >= -30 && k <= 30) continue;
                s->values[0][14 * 64 + 49] = (int16_t)k; /* of the last token in use, */
                s->values[0][14 * 64 + 50] = 33;         /* and behind it */
                CHECK(setup_encode(s, &tokens, 1) == (k % 2 ? LQ_E_ARG : LQ_OK));
            }
            memcpy(s->values[0], want, sizeof want);
        }
    }
    lq_cpu_limit(-1);
    setup_free(s);
}

static void test_space(void)
{
    setup *s = setup_new();
    uint32_t tokens = 50;
    random_classes(s, 12, 20, 44);
    setup_plan(s, 12, 0, LQ_Z);
    fill(s->values[0], s->classes, 12, 0, LQ_Z, 40);
    CHECK(setup_encode(s, &tokens, 1) == LQ_OK);
    lq_rans_page page;
    for (size_t n = 0; n <= s->size[0]; n++) {
        uint8_t *exact = (uint8_t *)malloc(n + (n == 0));
        memset(&page, 0, sizeof page);
        page.values = s->values[0];
        page.bytes = exact;
        page.bytes_count = n;
        page.tokens = tokens;
        CHECK(lq_rans_encode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes) ==
              (n == s->size[0] ? LQ_OK : LQ_E_SPACE));
        CHECK(page.written == (n == s->size[0] ? n : 0));
        free(exact);
    }
    setup_free(s);
}

/* ---- hostile bytes ---- */
/* Decodes at every level from an exact-size heap copy: all levels agree. */
static int hostile_decode(setup *s, const uint8_t *bytes, size_t count, uint32_t tokens)
{
    uint8_t *exact = (uint8_t *)malloc(count + (count == 0));
    int status[3] = {0, 0, 0};
    memcpy(exact, bytes, count);
    for (int level = 0; level <= levels; level++) {
        lq_rans_page page;
        memset(&page, 0, sizeof page);
        page.values = s->decoded[level];
        page.bytes = exact;
        page.bytes_count = count;
        page.tokens = tokens;
        lq_cpu_limit(level);
        status[level] =
            lq_rans_decode(tables, &s->plan, &page, 1, s->workspace, s->workspace_bytes);
        CHECK(status[level] == page.status && status[level] == status[0]);
        CHECK(status[level] == LQ_OK || status[level] == LQ_E_DATA);
        CHECK(status[level] || !memcmp(s->decoded[0], s->decoded[level], s->plan.rows * 128));
        if (level == (int)(count % ((size_t)levels + 1)) && !s->plan.path_rows) {
            CHECK(lq_rans_decode(packed, &s->plan, &page, 1, s->workspace, s->workspace_bytes) ==
                  status[0]);
            CHECK(status[0] || !memcmp(s->decoded[0], s->decoded[level], s->plan.rows * 128));
        }
    }
    lq_cpu_limit(-1);
    free(exact);
    return status[0];
}

static void test_hostile(int quick)
{
    setup *s = setup_new();
    size_t accepted = 0;
    for (int quantizer = LQ_Z; quantizer <= LQ_TRELLIS_64; quantizer++) {
        uint32_t tokens = quantizer == LQ_D4 ? 19 : 64;
        random_classes(s, 24, 16, 44);
        setup_plan(s, 24, 0, quantizer);
        fill(s->values[0], s->classes, 24, 0, quantizer, 100);
        CHECK(setup_encode(s, &tokens, 1) == LQ_OK);
        uint8_t *copy = (uint8_t *)malloc(s->size[0] + 4);
        memcpy(copy, s->bytes[0], s->size[0]);
        memset(copy + s->size[0], 0, 4);
        for (size_t n = 0; n < s->size[0] + 4; n++) {
            int status = hostile_decode(s, copy, n, tokens);
            CHECK((status == LQ_OK) == (n == s->size[0]));
        }
        for (size_t n = 0; n < s->size[0]; n++) {
            for (uint32_t v = 1; v < 256; v += quick ? 37 : 1) {
                copy[n] = (uint8_t)(copy[n] ^ v);
                accepted += hostile_decode(s, copy, s->size[0], tokens) == LQ_OK;
                copy[n] = (uint8_t)(copy[n] ^ v);
            }
        }
        free(copy);
        for (uint32_t run = 0; run < (quick ? 1000u : 25000u); run++) {
            if (run % 64 == 0) {
                random_classes(s, 16, run % 128 ? 1 : 30, run % 128 ? 20 : 90);
                setup_plan(s, 16, 0, quantizer);
            }
            uint8_t noise[700];
            for (size_t n = 0; n < sizeof noise; n++) {
                noise[n] = (uint8_t)(run % 3 ? random64() : run % 2 ? 0 : 255);
            }
            accepted += hostile_decode(s, noise, below(sizeof noise + 1), 1 + below(64)) == LQ_OK;
        }
    }
    /* Many bytes are streams: the states' bits are free payload. Pages carry a check of their own. */
    printf("  %u of the hostile streams were valid ones\n", (unsigned)accepted);
    setup_free(s);
}

/* ---- realised against ideal length ---- */
/* -log2 of the cell of each value of Z, by the true Gaussian. */
static double ideal_bits(const int16_t *values, const uint8_t *classes, size_t rows)
{
    double bits = 0;
    for (size_t i = 0; i < rows; i++) {
        double s = sigma_of(classes[i]);
        double dead = dead_of(classes[i]);
        for (size_t t = 0; t < 64 && classes[i]; t++) {
            double k = abs(values[i * 64 + t]);
            double a = k > 0 ? (k - 0.5 + dead) / s : -(0.5 + dead) / s;
            bits -= log2(normal(-a) - normal(-(k + 0.5 + dead) / s));
        }
    }
    return bits;
}

static void test_length(size_t rows, double limit)
{
    setup *s = setup_new();
    double ideal = 0;
    double real = 0;
    uint32_t tokens[8] = {64, 64, 64, 64, 64, 64, 64, 64};
    for (uint32_t run = 0; run < 12; run++) {
        for (size_t i = 0; i < rows; i++) {
            s->classes[i] =
                (uint8_t)(50 - 35 * i / rows + below(3)); /* falling variance, 2.25 bits */
        }
        setup_plan(s, rows, 0, LQ_Z);
        for (size_t i = 0; i < 8; i++) {
            fill(s->values[i], s->classes, rows, 0, LQ_Z, 0);
        }
        CHECK(setup_encode(s, tokens, 8) == LQ_OK);
        for (size_t i = 0; i < 8; i++) {
            ideal += ideal_bits(s->values[i], s->classes, rows);
            real += 8.0 * (double)s->size[i];
        }
    }
    printf("  64 x %u: %.4f bits a value, ideal %.4f, loss %.2f %% (limit %.1f %%)\n",
           (unsigned)rows, real / (12 * 8 * 64.0 * (double)rows),
           ideal / (12 * 8 * 64.0 * (double)rows), 100 * (real / ideal - 1), 100 * limit);
    CHECK(real / ideal - 1 < limit);
    setup_free(s);
}

/* ---- tables of counts ---- */
enum { COUNTS_ROWS = 96, COUNTS_PAGES = 6 };
static uint32_t histogram[65536];

/* Histograms of all kinds; *low is that of values. */
static lq_histogram make_histogram(int kind)
{
    lq_histogram h = {histogram, 0, 0};
    memset(histogram, 0, sizeof histogram);
    switch (kind) {
    case 0: /* binary, fair */
    case 1: /* binary, skewed */
    case 2: /* one symbol */
        h.count = kind == 2 ? 1 : 2;
        histogram[0] = kind ? 100000 : 5000;
        histogram[1] = kind ? 120 : 5000;
        break;
    case 3: /* uniform, three numbers */
    case 4: /* uniform, 31 numbers around 0 */
    case 5: /* uniform, 256 */
    case 6: /* uniform, all */
        h.count = kind == 3 ? 3 : kind == 4 ? 31 : kind == 5 ? 256 : 65536;
        h.low = kind == 4 ? -15 : kind == 6 ? -32768 : 0;
        for (size_t i = 0; i < h.count; i++) {
            histogram[i] = kind == 6 ? 3 : 4000000000u;
        }
        break;
    case 7: /* two numbers far from zero, and far apart */
        h.count = 3001;
        h.low = 20000;
        histogram[0] = 7;
        histogram[3000] = 1;
        break;
    case 8: /* Laplace */
    case 9: /* Gaussian */
    case 10: /* heavy tails */
        h.count = 8001;
        h.low = -4000;
        for (size_t i = 0; i < h.count; i++) {
            double x = (double)i - 4000;
            double y = kind == 8   ? exp(-fabs(x) / 3)
                       : kind == 9 ? exp(-x * x / 18)
                                   : 1 / (1 + x * x / 9);
            histogram[i] = (uint32_t)(y * 1e6);
        }
        break;
    case 11: /* bytes as of a text: 1 / rank in no order */
    case 12: /* geometric in no order: all sizes from 2^-1 to 2^-24 */
    case 13: /* 300 numbers at random */
        h.count = kind == 13 ? 300 : 256;
        h.low = kind == 13 ? -100 : 0;
        for (size_t i = 0; i < h.count; i++) {
            size_t rank = i * 77 % 256;
            histogram[i] = kind == 11   ? (uint32_t)(1000000 / (rank + 1))
                           : kind == 12 ? (rank < 25 ? 1u << (24 - rank) : 0)
                                        : below(100000);
        }
        break;
    case 16: /* numbers in a row far from zero, and at both ends */
    case 17:
    case 18:
        h.count = kind == 16 ? 2 : 20;
        h.low = kind == 16 ? 15990 : kind == 17 ? 32748 : -32768;
        for (size_t i = 0; i < h.count; i++) {
            histogram[i] = (uint32_t)(1 + i);
        }
        break;
    case 14: /* one frequent number and 30 rare ones */
    default: /* one frequent number and a tail */
        h.count = kind == 14 ? 31 : 200;
        for (size_t i = 0; i < h.count; i++) {
            histogram[i] = i == 9 ? 100000 : kind == 14 ? 300 : (uint32_t)(2000 / (i + 1));
        }
        break;
    }
    return h;
}

enum { HISTOGRAMS = 19 };

static double entropy_of(const lq_histogram *h)
{
    double total = 0;
    double sum = 0;
    for (size_t i = 0; i < h->count; i++) {
        total += h->counts[i];
    }
    for (size_t i = 0; i < h->count; i++) {
        double p = h->counts[i] / total;
        sum -= h->counts[i] ? p * log(p) / log(2.0) : 0;
    }
    return sum;
}

/* What the tables of a set ask for, by their histogram. */
static double bits_of(const lq_rans_counts *counts, uint32_t table, const lq_histogram *h)
{
    double total = 0;
    double sum = 0;
    for (size_t i = 0; i < h->count; i++) {
        if (h->counts[i]) {
            uint64_t bits = lq__value_bits(lq__counts_tables(counts), table, h->low + (int32_t)i);
            total += h->counts[i];
            sum += (double)h->counts[i] * (double)bits / 65536;
        }
    }
    return sum / total;
}

static int16_t draw(const lq_histogram *h, const double *sums)
{
    double x = ((double)(random64() >> 11) + 0.5) / 9007199254740992.0 * sums[h->count - 1];
    size_t low = 0;
    size_t high = h->count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sums[middle] > x) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return (int16_t)(h->low + (int32_t)low);
}

typedef struct counted {
    int16_t values[COUNTS_PAGES][COUNTS_ROWS * 64];
    int16_t decoded[COUNTS_ROWS * 64];
    uint8_t bytes[COUNTS_PAGES][COUNTS_ROWS * 400];
    uint8_t again[COUNTS_PAGES][COUNTS_ROWS * 400];
    uint8_t plan_mem[COUNTS_ROWS * 40];
    double sums[65536];
} counted;

/* Pages of a plan: the same bytes at every level, and back. `bits` are those of all values. */
static void check_counted(counted *c, const lq_rans_plan *plan, double *bits)
{
    size_t ws_bytes = lq_rans_plan_workspace_bytes(plan, COUNTS_PAGES);
    uint8_t *ws = (uint8_t *)malloc(ws_bytes + 1);
    *bits = 0;
    lq_rans_page pages[COUNTS_PAGES];
    size_t sizes[COUNTS_PAGES];
    for (int level = 0; level <= levels; level++) {
        lq_cpu_limit(level);
        memset(pages, 0, sizeof pages);
        for (size_t p = 0; p < COUNTS_PAGES; p++) {
            pages[p].values = c->values[p];
            pages[p].bytes = level ? c->again[p] : c->bytes[p];
            pages[p].bytes_count = sizeof c->bytes[p];
            pages[p].tokens = p == 1 ? 37 : p == 2 ? 1 : 64;
        }
        CHECK(lq_rans_encode(NULL, plan, pages, COUNTS_PAGES, ws + 1, ws_bytes) == LQ_OK);
        for (size_t p = 0; p < COUNTS_PAGES; p++) {
            CHECK(pages[p].written <= lq_rans_bound(plan->rows, pages[p].tokens));
            CHECK(!level || (sizes[p] == pages[p].written &&
                             !memcmp(c->bytes[p], c->again[p], sizes[p])));
            sizes[p] = pages[p].written;
        }
        for (size_t p = 0; p < COUNTS_PAGES; p++) {
            int same = 1;
            pages[p].bytes_count = sizes[p];
            pages[p].values = c->decoded;
            memset(c->decoded, 85, sizeof c->decoded);
            CHECK(lq_rans_decode(NULL, plan, &pages[p], 1, ws, ws_bytes) == LQ_OK);
            for (size_t i = 0; i < plan->rows; i++) {
                for (size_t t = 0; t < 64; t++) {
                    int16_t want = t < pages[p].tokens ? c->values[p][i * 64 + t] : (int16_t)0;
                    same &= c->decoded[i * 64 + t] == want;
                }
            }
            CHECK(same);
            *bits += p > 2 && !level ? 8.0 * (double)sizes[p] / ((COUNTS_PAGES - 3) * 64) : 0;
        }
    }
    lq_cpu_limit(-1);
    free(ws);
}

static void test_counts(void)
{
    static counted c;
    for (int kind = 0; kind < HISTOGRAMS; kind++) {
        lq_histogram h = make_histogram(kind);
        size_t bytes = lq_rans_counts_bytes(&h, 1);
        uint8_t *mem = (uint8_t *)malloc(bytes + 1);
        uint8_t *mem2 = (uint8_t *)malloc(bytes);
        const lq_rans_counts *counts;
        double entropy = entropy_of(&h);
        CHECK(lq_rans_counts_init(&counts, mem + 1, bytes, &h, 1) == LQ_OK);
        double bits = bits_of(counts, 0, &h);
        if (!CHECK(bits >= entropy - 1e-4 && bits <= 1.005 * entropy + 0.004)) {
            fprintf(stderr, "kind %d: %.5f bits, entropy %.5f\n", kind, bits, entropy);
        }
        size_t file_bytes = lq_rans_counts_save_bytes(counts);
        uint8_t *file = (uint8_t *)malloc(file_bytes);
        size_t written;
        CHECK(lq_rans_counts_save(file, file_bytes - 1, &written, counts) == LQ_E_SPACE);
        CHECK(lq_rans_counts_save(file, file_bytes, &written, counts) == LQ_OK &&
              written == file_bytes);
        const lq_rans_counts *loaded;
        size_t needed;
        CHECK(lq_rans_counts_load(&loaded, NULL, 0, &needed, file, file_bytes) == LQ_E_SPACE);
        CHECK(needed <= bytes);
        CHECK(lq_rans_counts_load(&loaded, mem2, needed - 1, &needed, file, file_bytes) ==
              LQ_E_SPACE);
        CHECK(lq_rans_counts_load(&loaded, mem2, needed, &needed, file, file_bytes) == LQ_OK);
        uint8_t *again = (uint8_t *)malloc(file_bytes);
        CHECK(lq_rans_counts_save(again, file_bytes, &written, loaded) == LQ_OK &&
              written == file_bytes && !memcmp(file, again, file_bytes));
        free(again);
        for (size_t i = 0; i < h.count; i++) {
            c.sums[i] = (i ? c.sums[i - 1] : 0) + h.counts[i];
        }
        /* the last three pages as counted, others with more */
        for (size_t p = 0; p < COUNTS_PAGES; p++) {
            for (size_t i = 0; i < COUNTS_ROWS * 64; i++) {
                c.values[p][i] = draw(&h, c.sums);
                if (p < 3 && below(9) == 0) {
                    c.values[p][i] = (int16_t)(random64() & (p & 1 ? 65535 : 63));
                }
            }
        }
        lq_rans_plan plan;
        CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, loaded, NULL,
                                  COUNTS_ROWS) == LQ_OK);
        double real;
        check_counted(&c, &plan, &real);
        /* states, and what chance adds */
        CHECK(real / COUNTS_ROWS <= bits * 1.03 + 0.25);
        free(file);
        free(mem);
        free(mem2);
    }
}

/* Rows of several tables in one plan. */
static void test_counts_rows(void)
{
    static counted c;
    static uint32_t copies[4][300];
    static const int kinds[4] = {0, 11, 5, 13};
    lq_histogram h[4];
    double want = 0;
    for (size_t i = 0; i < 4; i++) {
        h[i] = make_histogram(kinds[i]);
        memcpy(copies[i], histogram, h[i].count * sizeof *histogram);
        h[i].counts = copies[i];
    }
    size_t bytes = lq_rans_counts_bytes(h, 4);
    uint8_t *mem = (uint8_t *)malloc(bytes);
    const lq_rans_counts *counts;
    CHECK(lq_rans_counts_init(&counts, mem, bytes, h, 4) == LQ_OK);
    uint16_t table_of[COUNTS_ROWS];
    for (size_t i = 0; i < COUNTS_ROWS; i++) {
        table_of[i] = (uint16_t)below(4);
        want += bits_of(counts, table_of[i], &h[table_of[i]]);
        for (size_t k = 0; k < h[table_of[i]].count; k++) {
            c.sums[k] = (k ? c.sums[k - 1] : 0) + copies[table_of[i]][k];
        }
        for (size_t p = 0; p < COUNTS_PAGES; p++) {
            for (size_t t = 0; t < 64; t++) {
                c.values[p][i * 64 + t] = draw(&h[table_of[i]], c.sums);
            }
        }
    }
    lq_rans_plan plan;
    CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, counts, table_of,
                              COUNTS_ROWS) == LQ_OK);
    double real;
    check_counted(&c, &plan, &real);
    CHECK(real <= want * 1.02 + 10);
    CHECK(lq_rans_plan_counts(&plan, c.plan_mem, lq_rans_plan_bytes(COUNTS_ROWS) - 1, counts,
                              table_of, COUNTS_ROWS) == LQ_E_SPACE);
    CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, counts, table_of, 0) ==
          LQ_E_ARG);
    table_of[50] = 4;
    CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, counts, table_of,
                              COUNTS_ROWS) == LQ_E_ARG);
    CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, NULL, NULL, 4) == LQ_E_ARG);
    CHECK(lq_rans_plan_workspace_bytes(NULL, 1) == 0);
    free(mem);
}

static void test_counts_arguments(void)
{
    static uint32_t three[3] = {1, 0, 2};
    static uint32_t zeros[3];
    uint8_t mem[20000];
    lq_histogram h = {three, 3, -1};
    size_t bytes = lq_rans_counts_bytes(&h, 1);
    size_t written = 7;
    CHECK(bytes && bytes <= sizeof mem);
    const lq_rans_counts *counts;
    CHECK(lq_rans_counts_init(&counts, mem, bytes - 1, &h, 1) == LQ_E_SPACE);
    CHECK(lq_rans_counts_init(&counts, NULL, bytes, &h, 1) == LQ_E_ARG);
    CHECK(lq_rans_counts_init(NULL, mem, bytes, &h, 1) == LQ_E_ARG);
    CHECK(lq_rans_counts_init(&counts, mem, bytes, NULL, 1) == LQ_E_ARG);
    CHECK(lq_rans_counts_bytes(&h, 0) == 0);
    CHECK(lq_rans_counts_bytes(&h, LQ_RANS_TABLES_MAX + 1) == 0);
    CHECK(lq_rans_counts_init(&counts, mem, sizeof mem, &h, 1) == LQ_OK);
    CHECK(lq_rans_counts_save(NULL, 100, &written, counts) == LQ_E_ARG && written == 0);
    uint8_t file[100];
    CHECK(lq_rans_counts_save(file, 100, &written, NULL) == LQ_E_ARG);
    CHECK(lq_rans_counts_save(file, 100, NULL, counts) == LQ_E_ARG);
    CHECK(lq_rans_counts_save_bytes(NULL) == 0);
    CHECK(lq_rans_counts_load(&counts, mem, sizeof mem, NULL, file, 100) == LQ_E_ARG);
    CHECK(lq_rans_counts_load(&counts, mem, sizeof mem, &written, NULL, 100) == LQ_E_ARG);
    CHECK(lq_rans_counts_load(NULL, mem, sizeof mem, &written, file, 100) == LQ_E_ARG);
    h.counts = zeros;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
    CHECK(lq_rans_counts_init(&counts, mem, sizeof mem, &h, 1) == LQ_E_ARG);
    h.counts = NULL;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
    h.counts = three;
    h.low = 32766;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
    h.low = -32769;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
    h.low = 32765;
    h.count = 65537;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
    h.count = 0;
    CHECK(lq_rans_counts_bytes(&h, 1) == 0);
}

/* Damaged files of tables are refused, or are tables that decode whatever there is. */
static void test_counts_hostile(int quick)
{
    static counted c;
    static uint8_t file[2000];
    static uint8_t hurt[2000];
    int loaded_some = 0;
    int refused = 0;
    for (int kind = 0; kind < HISTOGRAMS; kind++) {
        lq_histogram h = make_histogram(kind);
        size_t bytes = lq_rans_counts_bytes(&h, 1);
        uint8_t *mem = (uint8_t *)malloc(bytes);
        const lq_rans_counts *counts;
        size_t size = 0;
        CHECK(lq_rans_counts_init(&counts, mem, bytes, &h, 1) == LQ_OK);
        CHECK(lq_rans_counts_save(file, sizeof file, &size, counts) == LQ_OK);
        size_t needed;
        for (int turn = 0; turn < (int)size; turn++) {
            CHECK(lq_rans_counts_load(&counts, NULL, 0, &needed, file, (size_t)turn) < 0 &&
                  needed == 0);
        }
        for (int turn = 0; turn < (quick ? 400 : 20000); turn++) {
            memcpy(hurt, file, size);
            for (uint32_t i = 0; i <= below(3); i++) {
                size_t at = LQ__COUNTS_FILE + below(40) % (size - LQ__COUNTS_FILE);
                at = turn & 1 ? below((uint32_t)size) : at;
                hurt[at] ^= (uint8_t)(1u << below(8));
            }
            int status = lq_rans_counts_load(&counts, NULL, 0, &needed, hurt, size);
            refused += status == LQ_E_DATA || status == LQ_E_FORMAT;
            lq__store32(hurt + 8, lq__counts_checksum(hurt, size)); /* and with a right one */
            status = lq_rans_counts_load(&counts, NULL, 0, &needed, hurt, size);
            if (status != LQ_E_SPACE) {
                CHECK(status == LQ_E_DATA || status == LQ_E_FORMAT);
                continue;
            }
            uint8_t *room = (uint8_t *)malloc(needed);
            status = lq_rans_counts_load(&counts, room, needed, &needed, hurt, size);
            if (CHECK(status == LQ_OK)) {
                lq_rans_plan plan;
                CHECK(lq_rans_plan_counts(&plan, c.plan_mem, sizeof c.plan_mem, counts, NULL, 8) ==
                      LQ_OK);
                size_t ws_bytes = lq_rans_plan_workspace_bytes(&plan, 1);
                uint8_t *ws = (uint8_t *)malloc(ws_bytes);
                lq_rans_page page;
                memset(&page, 0, sizeof page);
                for (uint32_t i = 0; i < 8 * 64; i++) {
                    c.values[0][i] = (int16_t)(random64() & (turn & 2 ? 31 : 65535));
                }
                page.values = c.values[0];
                page.bytes = c.bytes[0];
                page.bytes_count = sizeof c.bytes[0];
                page.tokens = 64;
                CHECK(lq_rans_encode(NULL, &plan, &page, 1, ws, ws_bytes) == LQ_OK);
                page.bytes_count = page.written;
                page.values = c.decoded;
                CHECK(lq_rans_decode(NULL, &plan, &page, 1, ws, ws_bytes) == LQ_OK);
                CHECK(!memcmp(c.decoded, c.values[0], 8 * 128));
                for (uint32_t i = 0; i < page.bytes_count; i++) {
                    page.bytes[i] = (uint8_t)random64();
                }
                status = lq_rans_decode(NULL, &plan, &page, 1, ws, ws_bytes);
                CHECK(status == LQ_OK || status == LQ_E_DATA);
                free(ws);
                loaded_some++;
            }
            free(room);
        }
        free(mem);
    }
    CHECK(refused > 100);
    CHECK(loaded_some > 100);
}

int main(int argc, char **argv)
{
    int quick = argc > 1 && !strcmp(argv[1], "quick");
    void *mem = malloc(lq_tables_bytes());
    void *small = malloc(lq_tables_small_bytes());
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    CHECK(lq_tables_small_init(&packed, NULL, lq_tables_small_bytes()) == LQ_E_ARG);
    CHECK(lq_tables_small_init(NULL, small, lq_tables_small_bytes()) == LQ_E_ARG);
    CHECK(lq_tables_small_init(&packed, small, lq_tables_small_bytes() - 1) == LQ_E_SPACE);
    CHECK(lq_tables_small_init(&packed, small, lq_tables_small_bytes()) == LQ_OK);
    whole = tables;
    levels = lq_cpu_limit(-1);
    test_packed();
    test_tables();
    test_centroids();
#if LQ__X86 || LQ__NEON
    {
        for (int level = 1; level <= levels; level++) {
            CHECK(quotients_ok(level));
        }
    }
#endif
    test_arguments();
    test_paths();
    test_space();
    test_extremes();
    test_round_trips(quick);
    test_symbols(quick);
    test_hostile(quick);
    test_counts();
    test_counts_rows();
    test_counts_arguments();
    test_counts_hostile(quick);
    test_length(192, 0.013);
    test_length(64, 0.032);
    free(small);
    free(mem);
    return check_report("rans");
}
