/* cc -std=c99 -O2 tests/test_llvq.c -o test_llvq -lm    LLVQ: numbers to points and back, counts
   against the theta series, the E8 ball, blocks against exhaustive search, hostile codes.
   `test_llvq quick` uses fewer samples. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#include "../latticequant.h"

#include "check.h"
#include "source.h"

static int levels;
static int quick;

/* A code in memory of exactly its size; the caller frees *mem. */
static const lq_llvq *code_of(void **mem, uint32_t kind, uint32_t first, uint32_t last,
                              uint32_t gains, uint32_t search)
{
    const lq_llvq *q = NULL;
    lq_llvq_desc d;
    d.kind = kind;
    d.first_shell = first;
    d.last_shell = last;
    d.gains = gains;
    d.search = search;
    *mem = source_alloc(lq_llvq_bytes());
    CHECK(lq_llvq_init(&q, *mem, lq_llvq_bytes(), &d) == LQ_OK);
    return q;
}

/* ---- the kernel below: any number of columns, means, several blocks ---- */
static void test_columns(void)
{
    static int32_t y[48 * 112];
    static int16_t x[48 * 112], want[48 * 112];
    lq__row_data row[48];
    memset(row, 0, sizeof row);
    for (size_t columns = 16; columns <= 112; columns += 16) {
        for (size_t i = 0; i < 48; i++) {
            row[i].mean = (int32_t)source_below(100000) - 50000;
        }
        for (size_t i = 0; i < 48 * columns; i++) {
            y[i] = (int32_t)source_below(1u << 20) - (1 << 19);
        }
        int32_t most = lq__leech_blocks_c(want, y, row, 2, columns);
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            memset(x, 0x55, sizeof x);
            CHECK(lq__leech_of_level()(x, y, row, 2, columns) == most);
            CHECK(memcmp(x, want, 48 * columns * sizeof *x) == 0);
            CHECK(columns == 112 || x[48 * columns] == 0x5555);
        }
        lq_cpu_limit(-1);
        for (size_t t = 0; t < columns; t++) {
            int16_t point[24];
            for (size_t i = 0; i < 24; i++) {
                point[i] = want[(24 + i) * columns + t];
            }
            CHECK(lq_leech_contains(point));
        }
    }
}

static uint64_t source_below64(uint64_t n)
{
    return source_u64() % n; /* n is far below 2^64 */
}

/* ---- numbers ---- */
/* Its point is one of the lattice and of the shell, and has that number. */
static int right(const lq_llvq *q, uint64_t number, uint32_t first, uint32_t last)
{
    int16_t x[24];
    uint64_t back;
    int32_t norm = 0;
    if (lq_llvq_point(q, x, &number, 1) != LQ_OK || !lq_leech_contains(x)) return 0;
    for (int i = 0; i < 24; i++) {
        norm += x[i] * x[i];
    }
    if (norm < (int32_t)(16 * first) || norm > (int32_t)(16 * last)) return 0;
    return lq_llvq_number(q, &back, x, 1) == LQ_OK && back == number;
}

static void test_shells(void)
{
    uint64_t all = 0;
    for (uint32_t shell = 2; shell <= 13; shell++) {
        void *mem;
        const lq_llvq *q = code_of(&mem, LQ_LLVQ_SHAPE, shell, shell, 1, 0);
        uint64_t count = lq_llvq_count(q);
        int bad = 0;
        all += count;
        CHECK(count == lq_leech_shell_count(shell));
        CHECK(right(q, 0, shell, shell) && right(q, count - 1, shell, shell));
        for (int n = 0; n < (quick ? 1000 : 20000); n++) {
            bad += !right(q, source_below64(count), shell, shell);
        }
        CHECK(bad == 0);
        free(mem);
    }
    CHECK(all == 280974212784720u);
}

/* Numbers go up with the shell, and first and last of each class; random ones; the origin. */
static void test_numbers(void)
{
    void *mem;
    const lq_llvq *q = code_of(&mem, LQ_LLVQ_BALL, 2, 13, 1, 0);
    uint64_t first = 0;
    int bad = 0;
    CHECK(q->classes == 383 && lq_llvq_code_bits(q) == 48);
    for (uint32_t i = 0; i < q->classes; i++) {
        const lq__llvq_class *c = &q->of[i];
        uint64_t end = i + 1 < q->classes ? q->of[i + 1].first : lq_llvq_count(q);
        CHECK(c->first == first && end > first);
        CHECK(right(q, first, c->shell, c->shell) && right(q, end - 1, c->shell, c->shell));
        for (int n = 0; n < 100; n++) {
            bad += !right(q, first + source_below64(end - first), c->shell, c->shell);
        }
        first = end;
    }
    for (int n = 0; n < (quick ? 20000 : 1000000); n++) {
        bad += !right(q, source_below64(first), 2, 13);
    }
    CHECK(bad == 0);
    int16_t x[24];
    uint64_t back;
    CHECK(lq_llvq_point(q, x, &first, 1) == LQ_OK);
    for (int i = 0; i < 24; i++) {
        CHECK(x[i] == 0);
    }
    CHECK(lq_llvq_number(q, &back, x, 1) == LQ_OK && back == first);
    first++;
    CHECK(lq_llvq_point(q, x, &first, 1) == LQ_E_DATA);
    first = UINT64_MAX;
    CHECK(lq_llvq_point(q, x, &first, 1) == LQ_E_DATA);
    CHECK(lq_llvq_point(NULL, x, &first, 1) == LQ_E_ARG);
    CHECK(lq_llvq_point(q, NULL, &first, 1) == LQ_E_ARG);
    CHECK(lq_llvq_point(q, x, NULL, 1) == LQ_E_ARG && lq_llvq_point(q, NULL, NULL, 0) == LQ_OK);
    CHECK(lq_llvq_number(NULL, &back, x, 1) == LQ_E_ARG);
    CHECK(lq_llvq_number(q, NULL, x, 1) == LQ_E_ARG);
    CHECK(lq_llvq_number(q, &back, NULL, 1) == LQ_E_ARG);
    free(mem);
}

/* All of shell 2: each number's point is another. */
static int order_points(const void *a, const void *b)
{
    return memcmp(a, b, 48);
}

static void test_least(void)
{
    enum { COUNT = 196560 };
    void *mem;
    const lq_llvq *q = code_of(&mem, LQ_LLVQ_SHAPE, 2, 2, 1, 0);
    int16_t *x = (int16_t *)source_alloc((size_t)COUNT * 48);
    int same = 0;
    for (uint64_t n = 0; n < COUNT; n++) {
        CHECK(lq_llvq_point(q, x + 24 * n, &n, 1) == LQ_OK);
    }
    qsort(x, COUNT, 48, order_points);
    for (size_t n = 1; n < COUNT; n++) {
        same += memcmp(x + 24 * n, x + 24 * (n - 1), 48) == 0;
    }
    CHECK(same == 0);
    free(x);
    free(mem);
}

/* Integers that are no points of the code. */
static void test_no_points(void)
{
    void *mem;
    const lq_llvq *q = code_of(&mem, LQ_LLVQ_SHAPE, 3, 7, 1, 0);
    int ok = 0;
    for (int n = 0; n < 20000; n++) {
        uint64_t number = source_below64(lq_llvq_count(q));
        uint64_t back;
        int16_t x[24];
        CHECK(lq_llvq_point(q, x, &number, 1) == LQ_OK);
        x[source_below(24)] = (int16_t)source_u64();
        int64_t norm = 0;
        for (int i = 0; i < 24; i++) {
            norm += (int64_t)x[i] * x[i];
        }
        int status = lq_llvq_number(q, &back, x, 1);
        int is = lq_leech_contains(x) && norm >= 48 && norm <= 112;
        CHECK(status == (is ? LQ_OK : LQ_E_DATA));
        ok += is;
    }
    int16_t low[24] = {4, 4};
    uint64_t back;
    CHECK(lq_llvq_number(q, &back, low, 1) == LQ_E_DATA); /* of shell 2 */
    low[0] = 8;
    low[1] = 0;
    CHECK(lq_llvq_number(q, &back, low, 1) == LQ_OK && right(q, back, 4, 4));
    CHECK(lq_llvq_count(q) == 226951976160u - 196560u && ok >= 0);
    free(mem);
}

static void test_desc(void)
{
    const lq_llvq *q;
    lq_llvq_desc d;
    const char *message = NULL;
    void *mem = source_alloc(lq_llvq_bytes() + 64);
    memset(&d, 0, sizeof d);
    CHECK(lq_llvq_check(NULL, NULL) == LQ_OK && lq_llvq_check(&d, &message) == LQ_OK && !message);
    CHECK(lq_llvq_init(NULL, mem, lq_llvq_bytes(), &d) == LQ_E_ARG);
    CHECK(lq_llvq_init(&q, NULL, lq_llvq_bytes(), &d) == LQ_E_ARG);
    CHECK(lq_llvq_init(&q, mem, lq_llvq_bytes() - 1, &d) == LQ_E_SPACE);
    for (size_t i = 0; i < 64; i++) {
        CHECK(lq_llvq_init(&q, (uint8_t *)mem + i, lq_llvq_bytes(), NULL) == LQ_OK);
        CHECK(lq_llvq_count(q) == 111043117458000u && lq_llvq_code_bits(q) == 48);
    }
    for (uint32_t kind = 0; kind < 4; kind++) {
        for (uint32_t first = 0; first < 16; first++) {
            for (uint32_t last = 0; last < 16; last++) {
                for (uint32_t gains = 0; gains < 18; gains++) {
                    uint32_t most = last ? last : kind == 2 ? 13 : 12;
                    uint32_t least = first ? first : 2;
                    int fine = kind < 3 && least >= 2 && least <= most && most <= 13;
                    fine = fine && gains <= 16 && (gains & (gains - 1)) == 0;
                    fine = fine && (kind != 2 || gains < 2);
                    d.kind = kind;
                    d.first_shell = first;
                    d.last_shell = last;
                    d.gains = gains;
                    CHECK(lq_llvq_check(&d, &message) == (fine ? LQ_OK : LQ_E_ARG));
                    CHECK((message == NULL) == fine);
                }
            }
        }
    }
    memset(&d, 0, sizeof d);
    d.search = 4;
    CHECK(lq_llvq_init(&q, mem, lq_llvq_bytes(), &d) == LQ_E_ARG);
    free(mem);
}

/* ---- the E8 ball ---- */
static int e8_member(const int16_t *x)
{
    int sum = 0;
    for (int i = 0; i < 8; i++) {
        if ((x[i] ^ x[0]) & 1) return 0;
        sum += x[i];
    }
    return sum % 4 == 0;
}

static int32_t norm_of(const int16_t *x, int dims)
{
    int32_t norm = 0;
    for (int i = 0; i < dims; i++) {
        norm += x[i] * x[i];
    }
    return norm;
}

static int16_t e8_points[65536 * 8];

static void test_e8_ball(void)
{
    static const int counts[7] = {1, 240, 2160, 6720, 17520, 30240, 8655};
    int found[7] = {0};
    int bad = 0;
    int32_t last = 0;
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t c = (uint16_t)code, back = 0;
        int16_t *x = e8_points + 8 * code;
        CHECK(lq_e8_ball_point(x, &c, 1) == LQ_OK && lq_e8_ball_code(&back, x, 1) == LQ_OK);
        int32_t norm = norm_of(x, 8);
        bad += back != c || !e8_member(x) || norm % 8 || norm < last;
        found[norm / 8]++;
        last = norm;
    }
    CHECK(bad == 0 && memcmp(found, counts, sizeof counts) == 0);
    int none = 0;
    for (int n = 0; n < 50000; n++) { /* integers that are none: no code, or the right one */
        int16_t x[8], back[8];
        uint16_t code;
        memcpy(x, e8_points + 8 * source_below(65536), sizeof x);
        x[source_below(8)] = (int16_t)(source_below(4) ? source_below(17) - 8 : source_u64());
        if (lq_e8_ball_code(&code, x, 1) == LQ_OK) {
            bad += lq_e8_ball_point(back, &code, 1) != LQ_OK || memcmp(x, back, sizeof x) != 0;
        } else {
            bad += e8_member(x) && norm_of(x, 8) <= 40;
            none++;
        }
    }
    uint16_t code;
    CHECK(bad == 0 && none > 20000);
    CHECK(lq_e8_ball_point(NULL, &code, 1) == LQ_E_ARG);
    CHECK(lq_e8_ball_point(e8_points, NULL, 1) == LQ_E_ARG);
    CHECK(lq_e8_ball_code(NULL, e8_points, 1) == LQ_E_ARG);
    CHECK(lq_e8_ball_code(&code, NULL, 1) == LQ_E_ARG && lq_e8_ball_code(NULL, NULL, 0) == LQ_OK);
}

/* Eights of an array take the nearest point of all: but for the last class, see >>llvq. */
static void test_e8_nearest(const lq_llvq *q)
{
    int off = 0;
    for (int n = 0; n < (quick ? 200 : 2000); n++) {
        float x[8], y[8];
        uint8_t code[2];
        double have = 0, best = 1e30;
        for (int i = 0; i < 8; i++) {
            x[i] = (float)(source_gauss() * (n % 10 ? 1 : 3));
        }
        CHECK(lq_llvq_encode(q, code, 2, x, 8, 1) == LQ_OK);
        CHECK(lq_llvq_decode(q, y, code, 2, 8, 1) == LQ_OK);
        for (size_t k = 0; k < 65536; k++) {
            double d = 0;
            for (size_t i = 0; i < 8; i++) {
                double e = (double)x[i] - e8_points[8 * k + i] * 0.4905;
                d += e * e;
            }
            best = d < best ? d : best;
        }
        for (int i = 0; i < 8; i++) {
            have += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        }
        CHECK(have > best - 1e-4);
        off += have > best + 2e-3;
    }
    CHECK(off * 20 < (quick ? 200 : 2000));
}

/* ---- blocks ---- */
static double error_of(const lq_llvq *q, const float *x, size_t count, float sigma)
{
    size_t bytes = lq_llvq_encode_bytes(q, count);
    uint8_t *code = (uint8_t *)source_alloc(bytes);
    uint8_t *other = (uint8_t *)source_alloc(bytes);
    float *y = (float *)source_alloc(count * 4);
    double sum = 0, power = 0;
    for (int level = levels; level >= 0; level--) {
        lq_cpu_limit(level);
        memset(other, 0x5a, bytes);
        size_t part = level == levels || count < 960 ? count : 960; /* C is slow */
        CHECK(lq_llvq_encode(q, level == levels ? code : other, bytes, x, part, sigma) == LQ_OK);
        if (level < levels) {
            CHECK(memcmp(code, other, part / 24 * lq_llvq_code_bits(q) / 8) == 0);
        }
    }
    lq_cpu_limit(-1);
    CHECK(lq_llvq_decode(q, y, code, bytes, count, sigma) == LQ_OK);
    for (size_t i = 0; i < count; i++) {
        double d = (double)x[i] - (double)y[i];
        sum += d * d;
        power += (double)x[i] * (double)x[i];
    }
    free(code);
    free(other);
    free(y);
    return sum / power;
}

/* Published errors of a Gaussian source, and bits. */
static void test_gaussian(void)
{
    static const struct {
        uint32_t kind, first, last, gains, search, bits;
        double most;
    } rows[] = {
        {0, 0, 0, 0, 0, 48, 0.078},   {1, 2, 13, 1, 1, 48, 0.0855}, {1, 2, 12, 2, 1, 48, 0.0788},
        {1, 2, 11, 4, 2, 48, 0.0796}, {1, 2, 10, 16, 2, 48, 0.085}, {1, 12, 12, 2, 2, 48, 0.0817},
        {2, 2, 13, 1, 2, 48, 0.0783}, {1, 2, 2, 1, 2, 18, 0.415},   {1, 2, 2, 16, 2, 22, 0.405},
        {1, 3, 5, 8, 2, 36, 0.19},    {2, 2, 4, 1, 2, 29, 0.24},    {1, 13, 13, 1, 2, 48, 0.09},
    };
    size_t blocks = quick ? 300 : 3000;
    float *x = (float *)source_alloc(blocks * 96);
    double power = 0;
    source_seed = 4;
    for (size_t i = 0; i < blocks * 24; i++) {
        x[i] = (float)source_gauss();
        power += (double)x[i] * (double)x[i];
    }
    float sigma = (float)sqrt(power / (double)(blocks * 24));
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        void *mem;
        const lq_llvq *q =
            code_of(&mem, rows[r].kind, rows[r].first, rows[r].last, rows[r].gains, rows[r].search);
        CHECK(lq_llvq_code_bits(q) == rows[r].bits);
        CHECK(error_of(q, x, blocks * 24, sigma) < rows[r].most * (quick ? 1.03 : 1.01));
        free(mem);
    }
    free(x);
}

/* The best point of shell 2, by looking at all of them; then searches against each other. */
static void test_exact(void)
{
    int differ = 0;
    for (int kind = 1; kind <= 2; kind++) {
        void *mem[2];
        const lq_llvq *words = code_of(&mem[0], (uint32_t)kind, 2, 2, 1, LQ_LLVQ_WORDS);
        const lq_llvq *exact = code_of(&mem[1], (uint32_t)kind, 2, 2, 1, LQ_LLVQ_EXACT);
        for (int n = 0; n < (quick ? 2 : 30); n++) {
            float x[24];
            uint8_t code[3], other[3];
            double most = -1e30;
            int16_t p[24];
            for (int i = 0; i < 24; i++) {
                x[i] = (float)source_gauss();
            }
            CHECK(lq_llvq_encode(exact, code, 3, x, 24, 1) == LQ_OK);
            CHECK(lq_llvq_encode(words, other, 3, x, 24, 1) == LQ_OK);
            differ += memcmp(code, other, 3) != 0;
            uint64_t number = code[0] | (uint64_t)code[1] << 8 | (uint64_t)(code[2] & 3) << 16;
            for (uint64_t k = 0; k <= 196560; k++) { /* the last: what was found */
                uint64_t at = k < 196560 ? k : number;
                double dot = 0;
                CHECK(lq_llvq_point(exact, p, &at, 1) == LQ_OK);
                for (int i = 0; i < 24; i++) {
                    dot += (double)x[i] * p[i];
                }
                if (k == 196560) CHECK(dot > most - 2e-3);
                most = dot > most ? dot : most;
            }
        }
        free(mem[0]);
        free(mem[1]);
    }
    void *mem[2]; /* larger codes: no worse than by words, nearly always the same */
    const lq_llvq *words = code_of(&mem[0], 1, 2, 12, 2, LQ_LLVQ_WORDS);
    const lq_llvq *exact = code_of(&mem[1], 1, 2, 12, 2, LQ_LLVQ_EXACT);
    for (int n = 0; n < (quick ? 5 : 200); n++) {
        float x[24];
        for (int i = 0; i < 24; i++) {
            x[i] = (float)source_gauss();
        }
        lq_cpu_limit(-1);
        lq__llvq_block a, b;
        a.q = words;
        b.q = exact;
        CHECK(lq__llvq_fixed(a.y, x, 24, 1, words->unit) == LQ_OK);
        memcpy(b.y, a.y, sizeof b.y);
        (void)lq__llvq_code(&a);
        (void)lq__llvq_code(&b);
        CHECK(a.key <= b.key);
        differ += a.key != b.key;
    }
    CHECK(differ <= 4);
    free(mem[0]);
    free(mem[1]);
}

/* All lengths, zeros, blocks far too small and too large, errors. */
static void test_arrays(void)
{
    const float nan = lq_f32_from_f16(0x7e00);
    void *mem;
    const lq_llvq *q = code_of(&mem, 1, 2, 5, 2, 0); /* 34 bits */
    CHECK(lq_llvq_code_bits(q) == 34);
    for (size_t count = 0; count <= 120; count++) {
        size_t bytes = lq_llvq_encode_bytes(q, count);
        CHECK(bytes == (count % 8 ? 0 : (count / 24 * 34 + 7) / 8 + count % 24 / 4));
        if (count % 8) continue;
        float *x = (float *)source_alloc(count * 4);
        float *y = (float *)source_alloc(count * 4);
        uint8_t *code = (uint8_t *)source_alloc(bytes);
        for (size_t i = 0; i < count; i++) {
            x[i] = (float)source_gauss() * 0.01f;
        }
        CHECK(lq_llvq_encode(q, code, bytes, x, count, 0.01f) == LQ_OK);
        CHECK(lq_llvq_decode(q, y, code, bytes, count, 0.01f) == LQ_OK);
        for (size_t i = 0; i < count; i++) {
            CHECK(fabs((double)x[i] - (double)y[i]) < 0.06);
        }
        if (count) {
            CHECK(lq_llvq_encode(q, code, bytes - 1, x, count, 1) == LQ_E_SPACE);
            CHECK(lq_llvq_decode(q, y, code, bytes - 1, count, 1) == LQ_E_SPACE);
            CHECK(lq_llvq_encode(q, NULL, bytes, x, count, 1) == LQ_E_ARG);
            CHECK(lq_llvq_encode(q, code, bytes, NULL, count, 1) == LQ_E_ARG);
            CHECK(lq_llvq_decode(q, NULL, code, bytes, count, 1) == LQ_E_ARG);
            CHECK(lq_llvq_decode(q, y, NULL, bytes, count, 1) == LQ_E_ARG);
            CHECK(lq_llvq_encode(NULL, code, bytes, x, count, 1) == LQ_E_ARG);
            CHECK(lq_llvq_encode(q, code, bytes, x, count - 1, 1) == LQ_E_ARG);
            CHECK(lq_llvq_encode(q, code, bytes, x, count, 0) == LQ_E_ARG);
            CHECK(lq_llvq_encode(q, code, bytes, x, count, nan) == LQ_E_ARG);
            CHECK(lq_llvq_decode(q, y, code, bytes, count, -1) == LQ_E_ARG);
            x[count - 1] = nan;
            CHECK(lq_llvq_encode(q, code, bytes, x, count, 1) == LQ_E_DATA);
            x[count - 1] = 400;
            CHECK(lq_llvq_encode(q, code, bytes, x, count, 1) == LQ_OK);
            x[count - 1] = 1e20f;
            CHECK(lq_llvq_encode(q, code, bytes, x, count, 1) == LQ_E_RANGE);
            memset(x, 0, count * 4);
            CHECK(lq_llvq_encode(q, code, bytes, x, count, (float)pow(2, 98)) == LQ_OK);
            CHECK(lq_llvq_decode(q, y, code, bytes, count, (float)pow(2, -98)) == LQ_OK);
            CHECK(memcmp(x, y, count * 4) == 0); /* zeros stay zeros */
            x[0] = 1e-30f;
            CHECK(lq_llvq_encode(q, code, bytes, x, count, 1) == LQ_OK);
        }
        free(x);
        free(y);
        free(code);
    }
    CHECK(lq_llvq_encode_bytes(NULL, 24) == 0 && lq_llvq_encode_bytes(q, SIZE_MAX - 7) == 0);
    CHECK(lq_llvq_count(NULL) == 0 && lq_llvq_code_bits(NULL) == 0);
    test_e8_nearest(q);
    free(mem);
}

/* Any bytes: numbers, or LQ_E_DATA. */
static void test_hostile(void)
{
    int fine = 0, refused = 0;
    for (uint32_t last = 2; last <= 13; last++) {
        for (uint32_t gains = 1; gains <= 16; gains *= 2) {
            void *mem;
            const lq_llvq *q = code_of(&mem, 1, 2 + source_below(last - 1), last, gains, 0);
            for (int n = 0; n < 300; n++) {
                float y[56];
                uint8_t code[20];
                size_t bytes = lq_llvq_encode_bytes(q, 56);
                for (size_t i = 0; i < sizeof code; i++) {
                    code[i] = (uint8_t)source_u64();
                }
                CHECK(bytes <= sizeof code);
                int status = lq_llvq_decode(q, y, code, bytes, 56, 1);
                CHECK(status == LQ_OK || status == LQ_E_DATA);
                fine += status == LQ_OK;
                refused += status == LQ_E_DATA;
            }
            free(mem);
        }
    }
    CHECK(fine > 1000 && refused > 1000);
}

/* What may not change: points of numbers, codes of blocks and eights, the numbers they stand for. */
static uint32_t digest(uint32_t hash, uint32_t value)
{
    return (hash ^ value) * 16777619u;
}

static void test_format(void)
{
    void *mem;
    const lq_llvq *q = code_of(&mem, LQ_LLVQ_BALL, 2, 13, 1, 0);
    uint32_t hash[3] = {2166136261u, 2166136261u, 2166136261u};
    static float x[24 * 50 + 16], y[24 * 50 + 16];
    static uint8_t code[304];
    for (uint64_t k = 0; k < 5000; k++) {
        uint64_t number = lq_llvq_count(q) / 4999 * k;
        int16_t p[24];
        CHECK(lq_llvq_point(q, p, &number, 1) == LQ_OK);
        for (int i = 0; i < 24; i++) {
            hash[0] = digest(hash[0], (uint32_t)p[i]);
        }
    }
    for (size_t i = 0; i < 8 * 65536; i++) {
        hash[0] = digest(hash[0], (uint32_t)e8_points[i]);
    }
    free(mem);
    source_seed = 9;
    for (size_t i = 0; i < 24 * 50 + 16; i++) {
        x[i] = (float)source_integer_gauss();
    }
    for (uint32_t kind = 1; kind <= 2; kind++) {
        q = code_of(&mem, kind, 0, 0, 0, 0);
        CHECK(lq_llvq_encode(q, code, sizeof code, x, 24 * 50 + 16, 0.9f) == LQ_OK);
        CHECK(lq_llvq_encode_bytes(q, 24 * 50 + 16) == sizeof code);
        CHECK(lq_llvq_decode(q, y, code, sizeof code, 24 * 50 + 16, 0.9f) == LQ_OK);
        for (size_t i = 0; i < sizeof code; i++) {
            hash[kind] = digest(hash[kind], code[i]);
        }
        for (size_t i = 0; i < 24 * 50 + 16; i++) {
            hash[kind] = digest(hash[kind], lq__bits_of_f32(y[i]));
        }
        free(mem);
    }
    CHECK(hash[0] == 0xc76db3bdu && hash[1] == 0xb9ce55cbu && hash[2] == 0xcd19ea1eu);
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_columns();
    test_shells();
    test_numbers();
    test_least();
    test_no_points();
    test_desc();
    test_e8_ball();
    test_arrays();
    test_hostile();
    test_gaussian();
    test_exact();
    test_format();
    return check_report("test_llvq");
}
