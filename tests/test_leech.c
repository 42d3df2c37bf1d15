/* cc -std=c99 -O2 tests/test_leech.c -o test_leech -lm    The Golay code and the Leech lattice
   against exhaustive decoders, their counts against theory, every SIMD level. `test_leech quick`
   uses fewer samples. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { ONE = 4096, WORDS = 4096 };

static int levels;
static int quick;
static uint32_t words[WORDS];

static int ones(uint32_t x)
{
    int n = 0;
    for (; x; x &= x - 1) {
        n++;
    }
    return n;
}

/* ---- the Golay code ---- */
/* Linear, with the weights of the only such code. */
static void test_words(void)
{
    static const int want[25] = {1, 0, 0, 0,   0, 0, 0, 0, 759, 0, 0, 0, 2576,
                                 0, 0, 0, 759, 0, 0, 0, 0, 0,   0, 0, 1};
    int found[25] = {0};
    static uint16_t messages[WORDS], back[WORDS];
    static uint8_t wrong[WORDS];
    int bad = 0;
    for (uint32_t i = 0; i < WORDS; i++) {
        messages[i] = (uint16_t)i;
    }
    CHECK(lq_golay_encode(words, messages, WORDS) == LQ_OK);
    for (uint32_t i = 0; i < WORDS; i++) {
        uint32_t low = i & (0 - i); /* each is the sum of those of its bits */
        bad += words[i] >> 24 != 0 || (words[i] ^ words[low] ^ words[i ^ low]) != words[0];
        found[ones(words[i])]++;
    }
    CHECK(bad == 0 && words[0] == 0);
    CHECK(memcmp(found, want, sizeof want) == 0);
    CHECK(lq_golay_decode(back, wrong, words, WORDS) == LQ_OK);
    CHECK(memcmp(back, messages, sizeof back) == 0);
    for (uint32_t i = 0; i < WORDS; i++) {
        bad += wrong[i] != 0;
    }
    CHECK(bad == 0);
}

/* Words of one bit's messages: part of every format that has them. */
static void test_basis(void)
{
    static const uint32_t want[12] = {0xf0000fu, 0xf000f0u, 0xf00f00u, 0xf0f000u,
                                      0xff0000u, 0xcccc00u, 0xaaaa00u, 0xcc00ccu,
                                      0xaa00aau, 0x6ac0c0u, 0xc6a0a0u, 0x1eeeeeu};
    for (uint32_t i = 0; i < 12; i++) {
        CHECK(words[1u << i] == want[i]);
    }
}

static uint32_t word_of(uint32_t message)
{
    return words[message & (WORDS - 1)];
}

/* Up to three errors anywhere. */
static void test_mended(void)
{
    int bad = 0;
    for (uint32_t a = 0; a < 24; a++) {
        for (uint32_t b = a; b < 24; b++) {
            for (uint32_t c = b; c < 24; c++) {
                uint32_t errors = (1u << a) | (1u << b) | (1u << c);
                uint16_t message = (uint16_t)source_below(WORDS), back;
                uint32_t word = word_of(message) ^ errors;
                uint8_t wrong;
                bad += lq_golay_decode(&back, &wrong, &word, 1) != LQ_OK;
                bad += back != message || wrong != ones(errors);
            }
        }
    }
    CHECK(bad == 0);
}

/* Every coset of the code: by what is added to the words of one. */
static void test_cosets(void)
{
    int bad = 0;
    int four = 0;
    uint8_t *seen = (uint8_t *)source_zeros(1 << 12);
    uint32_t check[12]; /* the code is its own dual */
    for (uint32_t i = 0; i < 12; i++) {
        check[i] = word_of(1u << i);
    }
    for (uint32_t pattern = 0, cosets = 0; cosets < 4096; pattern++) {
        uint32_t syndrome = 0;
        for (uint32_t i = 0; i < 12; i++) {
            syndrome |= (uint32_t)(ones(pattern & check[i]) & 1) << i;
        }
        if (seen[syndrome]) continue;
        seen[syndrome] = 1;
        cosets++;
        uint16_t message;
        uint8_t wrong;
        int least = 24;
        for (uint32_t i = 0; i < WORDS; i++) {
            int d = ones(pattern ^ words[i]);
            least = d < least ? d : least;
        }
        bad += lq_golay_decode(&message, &wrong, &pattern, 1) != LQ_OK || wrong != least;
        bad += ones(word_of(message) ^ pattern) != least;
        four += least == 4;
    }
    CHECK(bad == 0 && four == 1771);
    free(seen);
}

static void test_soft(void)
{
    for (int round = 0; round < (quick ? 200 : 3000); round++) {
        int32_t weights[24];
        uint32_t most = round % 3 == 0 ? 3 : round % 3 == 1 ? 1000 : 1u << 26;
        for (int i = 0; i < 24; i++) {
            weights[i] = (int32_t)source_below(most + 1) - (int32_t)(most / 2);
        }
        uint16_t message = 0;
        CHECK(lq_golay_decode_soft(&message, weights, 1) == LQ_OK);
        int64_t best = INT64_MIN;
        int64_t have = 0;
        for (uint32_t n = 0; n < WORDS; n++) {
            int64_t sum = 0;
            for (int i = 0; i < 24; i++) {
                sum += words[n] >> i & 1 ? weights[i] : 0;
            }
            best = sum > best ? sum : best;
            have = n == message ? sum : have;
        }
        CHECK(message < WORDS && have == best);
    }
}

static void test_golay_errors(void)
{
    uint32_t word = 1u << 24;
    uint16_t message = 4096;
    int32_t weights[24] = {0};
    CHECK(lq_golay_encode(NULL, &message, 1) == LQ_E_ARG);
    CHECK(lq_golay_encode(&word, NULL, 1) == LQ_E_ARG);
    CHECK(lq_golay_encode(NULL, NULL, 0) == LQ_OK);
    CHECK(lq_golay_encode(&word, &message, 1) == LQ_E_DATA);
    CHECK(lq_golay_decode(NULL, NULL, &word, 1) == LQ_E_ARG);
    CHECK(lq_golay_decode(&message, NULL, NULL, 1) == LQ_E_ARG);
    CHECK(lq_golay_decode(&message, NULL, &word, 1) == LQ_E_DATA);
    word = 0xffffff;
    CHECK(lq_golay_decode(&message, NULL, &word, 1) == LQ_OK && word_of(message) == word);
    CHECK(lq_golay_decode_soft(NULL, weights, 1) == LQ_E_ARG);
    CHECK(lq_golay_decode_soft(&message, NULL, 1) == LQ_E_ARG);
    for (int i = 0; i < 24; i++) {
        weights[i] = 1 << 25;
        CHECK(lq_golay_decode_soft(&message, weights, 1) == LQ_OK);
        weights[i] = -(1 << 25);
        CHECK(lq_golay_decode_soft(&message, weights, 1) == LQ_OK);
        weights[i] = (1 << 25) + 1;
        CHECK(lq_golay_decode_soft(&message, weights, 1) == LQ_E_RANGE);
        weights[i] = INT32_MIN;
        CHECK(lq_golay_decode_soft(&message, weights, 1) == LQ_E_RANGE);
        weights[i] = 1 << 25;
    }
}

/* ---- nearest points by going through all words, in integers ---- */
/* Eight coordinates with eight bits of a word: the squared distance (2^-24) of the integers that
   have these residues, what the cheapest move of one by 4 adds, the sum of z modulo 2. */
typedef struct third {
    int64_t cost;
    int64_t move;
    int odd;
} third;

static third third_of(const int32_t *y, int p, uint32_t bits)
{
    third t = {0, INT64_MAX, 0};
    for (int i = 0; i < 8; i++) {
        int32_t residue = p + 2 * (int32_t)(bits >> i & 1);
        double z = floor(((double)y[i] / ONE - residue) / 4 + 0.5);
        int64_t d = y[i] - (residue + 4 * (int64_t)z) * ONE;
        int64_t other = (d < 0 ? -d : d) - 4 * (int64_t)ONE;
        t.cost += d * d;
        t.move = other * other - d * d < t.move ? other * other - d * d : t.move;
        t.odd ^= (int)((int64_t)z & 1);
    }
    return t;
}

/* The least squared distance of a point of parity p. */
static int64_t exhaustive(const int32_t *y, int p)
{
    static third thirds[3][256];
    int64_t best = INT64_MAX;
    for (int t = 0; t < 3; t++) {
        for (uint32_t bits = 0; bits < 256; bits++) {
            thirds[t][bits] = third_of(y + 8 * t, p, bits);
        }
    }
    for (int n = 0; n < WORDS; n++) {
        const third *a = &thirds[0][words[n] & 255];
        const third *b = &thirds[1][words[n] >> 8 & 255];
        const third *c = &thirds[2][words[n] >> 16];
        int64_t move = a->move < b->move ? a->move : b->move;
        move = c->move < move ? c->move : move;
        int64_t cost = a->cost + b->cost + c->cost + ((a->odd ^ b->odd ^ c->odd) != p ? move : 0);
        best = cost < best ? cost : best;
    }
    return best;
}

/* Membership by the definition. */
static int member(const int16_t *x)
{
    int p = x[0] & 1;
    int sum = 0;
    uint32_t word = 0;
    for (int i = 0; i < 24; i++) {
        int z = x[i] - p;
        if (z & 1) return 0;
        word |= (uint32_t)(z >> 1 & 1) << i;
        sum += (z - 2 * (z >> 1 & 1)) / 4;
    }
    if ((sum & 1) != p) return 0;
    for (int n = 0; n < WORDS; n++) {
        if (words[n] == word) return 1;
    }
    return 0;
}

/* Inputs: anywhere, around points, on grids of an eighth to 2 (ties), far out, deepest holes. */
static void fill(int32_t *y, int form)
{
    for (int i = 0; i < 24; i++) {
        int32_t whole = (int32_t)source_below(41) - 20;
        switch (form) {
        case 0:
        case 1:
            y[i] = (int32_t)source_below(64u * ONE) - 32 * ONE;
            break;
        case 2:
            y[i] = (int32_t)source_below(2000u * ONE) - 1000 * ONE;
            break;
        case 3:
            y[i] = (int32_t)source_below(9) - 4 + (int32_t)(source_below(2)) * 4 * ONE;
            break;
        case 4:
            y[i] = whole * (ONE / 8);
            break;
        case 5:
            y[i] = whole * (ONE / 2);
            break;
        case 6:
            y[i] = whole * ONE;
            break;
        default:
            y[i] = whole * 2 * ONE + (int32_t)source_below(3) - 1;
            break;
        }
    }
    if (form == 3 && source_below(4) == 0) {
        memset(y, 0, 24 * sizeof *y);
        y[source_below(24)] = 4 * ONE;
    }
}

static void test_nearest(size_t vectors)
{
    const size_t count = vectors * 24;
    const float step = (float)sqrt(8); /* step / sqrt(8) is 1 to the last bit */
    int32_t *y = (int32_t *)source_alloc(count * 4);
    float *src = (float *)source_alloc(count * 4);
    int16_t *points = (int16_t *)source_alloc(count * 2);
    int16_t *other = (int16_t *)source_alloc(count * 2);
    int bad = 0;
    for (size_t n = 0; n < vectors; n++) {
        fill(y + 24 * n, n % 3 == 0 ? (int)(n / 3 % 8) : 0);
    }
    for (size_t i = 0; i < count; i++) {
        src[i] = (float)y[i] / ONE;
    }
    lq_cpu_limit(0);
    CHECK(lq_leech_nearest(points, src, count, step) == LQ_OK);
    for (size_t n = 0; n < vectors; n++) {
        int64_t even = exhaustive(y + 24 * n, 0);
        int64_t odd = exhaustive(y + 24 * n, 1);
        int64_t have = 0;
        for (size_t i = 24 * n; i < 24 * n + 24; i++) {
            int64_t d = y[i] - (int64_t)points[i] * ONE;
            have += d * d;
        }
        bad += have != (even <= odd ? even : odd) || (points[24 * n] & 1) != (odd < even);
        bad += have > (int64_t)16 * ONE * ONE; /* the covering radius */
        bad += n < 5000 && !member(points + 24 * n);
        bad += !lq_leech_contains(points + 24 * n);
    }
    CHECK(bad == 0);
    for (int level = 1; level <= levels; level++) {
        lq_cpu_limit(level);
        memset(other, 0x55, count * 2);
        CHECK(lq_leech_nearest(other, src, count, step) == LQ_OK);
        CHECK(memcmp(points, other, count * 2) == 0);
        for (size_t n = 0; n < 70; n++) { /* any number of vectors */
            memset(other, 0x55, 71 * 48);
            CHECK(lq_leech_nearest(other, src + 24, 24 * n, step) == LQ_OK);
            CHECK(memcmp(points + 24, other, 48 * n) == 0 && other[24 * n] == 0x5555);
        }
    }
    lq_cpu_limit(-1);
    free(y);
    free(src);
    free(points);
    free(other);
}

/* Other steps: idempotent, and near what doubles say. */
static void test_steps(void)
{
    for (int round = 0; round < 500; round++) {
        float step = (float)pow(2, 190 * source_uniform() - 95);
        float src[48], back[48];
        int16_t points[48], again[48];
        double cost[2] = {0, 0};
        int32_t y[24];
        for (int i = 0; i < 48; i++) {
            src[i] = (float)((source_uniform() - 0.5) * 1400 * (double)step);
        }
        CHECK(lq_leech_nearest(points, src, 48, step) == LQ_OK);
        CHECK(lq_leech_contains(points) && lq_leech_contains(points + 24));
        CHECK(lq_leech_point(back, points, 48, step) == LQ_OK);
        CHECK(lq_leech_nearest(again, back, 48, step) == LQ_OK);
        CHECK(memcmp(points, again, sizeof points) == 0);
        for (int i = 0; i < 24; i++) {
            double v = (double)src[i] / (double)step * sqrt(8);
            double d = v - (double)back[i] / (double)step * sqrt(8);
            y[i] = (int32_t)floor(v * ONE + 0.5);
            cost[0] += d * d;
        }
        int64_t even = exhaustive(y, 0);
        int64_t odd = exhaustive(y, 1);
        cost[1] = (double)(even < odd ? even : odd) / ONE / ONE;
        CHECK(fabs(sqrt(cost[0]) - sqrt(cost[1])) < 8.0 / ONE + 2e-4);
    }
}

/* The mean squared error of uniform numbers, at one point per unit volume: 0.065771. */
static void test_second_moment(void)
{
    const size_t count = 24 * (quick ? 10000 : 100000);
    float *x = (float *)source_alloc(count * 4);
    float *y = (float *)source_alloc(count * 4);
    int16_t *p = (int16_t *)source_alloc(count * 2);
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)(source_uniform() * 64 - 32);
    }
    CHECK(lq_leech_nearest(p, x, count, 1) == LQ_OK && lq_leech_point(y, p, count, 1) == LQ_OK);
    for (size_t i = 0; i < count; i++) {
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    }
    CHECK(fabs(sum / (double)count / 0.065771 - 1) < (quick ? 0.01 : 0.003));
    free(x);
    free(y);
    free(p);
}

/* 65520 / 691 (sigma_11 - tau), tau from the product. */
static void test_shells(void)
{
    enum { MOST = 24 };
    int64_t product[MOST + 1] = {1};
    for (int n = 1; n <= MOST; n++) {
        for (int k = 0; k < 24; k++) {
            for (int i = MOST; i >= n; i--) {
                product[i] -= product[i - n];
            }
        }
    }
    CHECK(lq_leech_shell_count(0) == 1 && lq_leech_shell_count(1) == 0);
    CHECK(lq_leech_shell_count(2) == 196560 && lq_leech_shell_count(MOST + 1) == 0);
    CHECK(lq_leech_shell_count(0xffffffffu) == 0);
    for (int m = 1; m <= MOST; m++) {
        int64_t sigma = 0;
        for (int d = 1; d <= m; d++) {
            int64_t power = 1;
            for (int k = 0; k < 11; k++) {
                power *= d;
            }
            sigma += m % d ? 0 : power;
        }
        int64_t rest = sigma - product[m - 1];
        CHECK(rest % 691 == 0);
        CHECK(lq_leech_shell_count((uint32_t)m) == (uint64_t)(rest / 691) * 65520);
    }
}

/* Numbers that are no point: a point with one coordinate, or two, moved. */
static void test_contains(void)
{
    int16_t x[24] = {0};
    CHECK(lq_leech_contains(x) == 1 && lq_leech_contains(NULL) == 0);
    for (int i = 0; i < 24; i++) {
        x[i] = 1;
    }
    CHECK(lq_leech_contains(x) == 0);
    x[5] = -3;
    CHECK(lq_leech_contains(x) == 1);
    for (int round = 0; round < 20000; round++) {
        int moves = 1 + (int)source_below(3);
        int16_t point[24];
        memcpy(point, x, sizeof x);
        for (int i = 0; i < moves; i++) {
            int by = ((int)source_below(9) - 4) * (round % 2 ? 4 : 1);
            size_t at = source_below(24);
            point[at] = (int16_t)(point[at] + by);
        }
        CHECK(lq_leech_contains(point) == member(point));
    }
}

static void test_errors(void)
{
    const float nan = lq_f32_from_f16(0x7e00);
    const float infinity = lq_f32_from_f16(0x7c00);
    static float x[24 * 40];
    static int16_t p[24 * 40];
    CHECK(lq_leech_nearest(NULL, NULL, 0, 1) == LQ_OK && lq_leech_point(NULL, NULL, 0, 1) == LQ_OK);
    CHECK(lq_leech_nearest(NULL, x, 24, 1) == LQ_E_ARG);
    CHECK(lq_leech_nearest(p, NULL, 24, 1) == LQ_E_ARG);
    CHECK(lq_leech_nearest(p, x, 23, 1) == LQ_E_ARG && lq_leech_point(x, p, 25, 1) == LQ_E_ARG);
    CHECK(lq_leech_point(NULL, p, 24, 1) == LQ_E_ARG && lq_leech_point(x, NULL, 24, 1) == LQ_E_ARG);
    CHECK(lq_leech_nearest(p, x, 24, 0) == LQ_E_ARG && lq_leech_nearest(p, x, 24, nan) == LQ_E_ARG);
    CHECK(lq_leech_nearest(p, x, 24, -1) == LQ_E_ARG && lq_leech_point(x, p, 24, -1) == LQ_E_ARG);
    CHECK(lq_leech_nearest(p, x, 24, (float)pow(2, 100)) == LQ_OK);
    CHECK(lq_leech_nearest(p, x, 24, (float)pow(2, -100)) == LQ_OK);
    CHECK(lq_leech_point(x, p, 24, (float)pow(2, -100)) == LQ_OK);
    CHECK(lq_leech_nearest(p, x, 24, infinity) == LQ_E_ARG);
    for (size_t i = 0; i < 24 * 40; i += 13) {
        x[i] = nan;
        CHECK(lq_leech_nearest(p, x, 24 * 40, 0.25f) == LQ_E_DATA);
        x[i] = -infinity;
        CHECK(lq_leech_nearest(p, x, 24 * 40, 0.25f) == LQ_E_DATA);
        x[i] = 1e30f;
        CHECK(lq_leech_nearest(p, x, 24 * 40, 0.25f) == LQ_E_RANGE);
        x[i] = -724 * 0.25f;
        CHECK(lq_leech_nearest(p, x, 24 * 40, 0.25f) == LQ_OK);
        x[i] = 0;
    }
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_words();
    test_basis();
    test_mended();
    test_cosets();
    test_soft();
    test_golay_errors();
    test_nearest(quick ? 3000 : 100000);
    test_steps();
    test_second_moment();
    test_shells();
    test_contains();
    test_errors();
    return check_report("test_leech");
}
