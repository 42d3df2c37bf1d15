/* cc -std=c99 -O2 tests/test_bits.c -o test_bits -lm    >>bits: water-filling against its conditions
   and published numbers, choices against brute force. `test_bits quick` takes fewer cases. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { MOST = 6, POINTS = 6 }; /* components and choices of a small case */

static int quick;

static lq_bits_component component(double weight, double variance)
{
    lq_bits_component c;
    memset(&c, 0, sizeof c);
    c.weight = weight;
    c.variance = variance;
    return c;
}

static lq_bits_desc request(double target, const double *widths, size_t count)
{
    lq_bits_desc d;
    memset(&d, 0, sizeof d);
    d.target = target;
    d.widths = widths;
    d.width_count = count;
    return d;
}

static int near_to(double a, double b, double most)
{
    return fabs(a - b) <= most;
}

/* In memory of exactly its size, and refused with a byte less. */
static int choose(lq_bits_component *c, size_t count, const lq_bits_desc *d, lq_bits_report *r)
{
    size_t bytes = lq_bits_choose_workspace_bytes(c, count, d);
    void *ws = source_alloc(bytes);
    CHECK(bytes > 0);
    CHECK(lq_bits_choose(c, count, d, r, ws, bytes - 1) == LQ_E_SPACE);
    int status = lq_bits_choose(c, count, d, r, ws, bytes);
    free(ws);
    return status;
}

/* ---- published numbers ---- */
/* research/01, case 12: weights 1, 4, 16, 64 at 4 bits. */
static void test_case_12(void)
{
    const double widths[3] = {3, 4, 5};
    lq_bits_component c[4];
    lq_bits_report r;
    lq_bits_desc d = request(4, widths, 3);
    for (int i = 0; i < 4; i++) {
        c[i] = component(pow(4, i), 1);
        c[i].low = LQ_BITS_FREE;
    }
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK);
    CHECK(near_to(c[0].bits, 2.5, 1e-12) && near_to(c[1].bits, 3.5, 1e-12));
    CHECK(near_to(c[2].bits, 4.5, 1e-12) && near_to(c[3].bits, 5.5, 1e-12));
    CHECK(near_to(r.gain, 2.65625, 1e-12) && near_to(r.uniform_error / r.error, r.gain, 1e-12));
    CHECK(near_to(r.bits, 4, 1e-12) && r.uniform_bits >= 4 - 1e-12);
    CHECK(r.exact && r.at_low == 0 && r.at_high == 0);
    for (int i = 0; i < 4; i++) {
        c[i].low = 3;
        c[i].high = 5;
    }
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK && r.at_low == 1 && r.at_high == 1);
    CHECK(near_to(c[0].bits, 3, 1e-12) && near_to(c[1].bits, 3.5, 1e-12));
    CHECK(near_to(c[2].bits, 4.5, 1e-12) && near_to(c[3].bits, 5, 1e-12));
    CHECK(choose(c, 4, &d, &r) == LQ_OK && r.exact);
    CHECK(near_to(4 * r.error, 0.15625, 1e-15) && near_to(r.bits, 4, 0));
    CHECK(near_to(r.gain, 2.65625, 1e-12) && near_to(4 * r.uniform_error, 85.0 / 256, 1e-15));
}

/* Gamma times eta times variance of keys and values of each layer, as LatticeQuant (2026, MIT)
   publishes them with its allocations at 4 bits (results/allocation_*.json), to six digits. */
static const double qwen[56] = {
    2310.96,  2.00364,  6.27418,  0.333240, 0.683036, 0.120305, 2.12344,  0.160731,
    0.661174, 1.01876,  0.701483, 0.928123, 0.986222, 0.663627, 0.769996, 0.671370,
    0.903660, 0.713905, 0.540001, 0.582408, 1.16933,  0.668415, 1.66084,  0.676681,
    0.885317, 0.661889, 2.00761,  0.507284, 0.822075, 0.888762, 1.66989,  0.690185,
    0.953040, 0.685173, 0.855681, 0.757259, 0.810429, 0.727615, 1.46807,  0.604112,
    0.621095, 0.577734, 0.729555, 0.641936, 0.463058, 0.806447, 0.541120, 1.03254,
    0.626566, 0.766440, 0.443895, 1.01846,  0.730769, 1.65912,  4972.05,  1.03472};

/* Some of its bits, by place: clamped to 3 .. 5. */
static const double qwen_bits[8][2] = {{0, 5},       {1, 4.630394},  {3, 3.336397}, {5, 3},
                                       {7, 3},       {20, 4.241922}, {44, 3.573713}, {54, 5}};

static void test_seeds(void)
{
    const double widths[3] = {3, 4, 5};
    lq_bits_component c[56];
    lq_bits_report r;
    lq_bits_desc d = request(4, widths, 3);
    for (int i = 0; i < 56; i++) {
        c[i] = component(qwen[i], 1);
        c[i].low = LQ_BITS_FREE;
    }
    CHECK(lq_bits_fill(c, 56, &d, &r) == LQ_OK);
    CHECK(near_to(r.gain, 122.7447, 0.001));
    CHECK(near_to(r.uniform_error / r.error, r.gain, 1e-9));
    for (int i = 0; i < 56; i++) {
        c[i].low = 3;
        c[i].high = 5;
    }
    CHECK(lq_bits_fill(c, 56, &d, &r) == LQ_OK && near_to(r.bits, 4, 1e-12));
    double real = r.error;
    for (int i = 0; i < 8; i++) {
        CHECK(near_to(c[(int)qwen_bits[i][0]].bits, qwen_bits[i][1], 2e-5));
    }
    CHECK(choose(c, 56, &d, &r) == LQ_OK && r.exact && r.error >= real);
    CHECK(r.error < r.uniform_error && c[0].bits >= 5 && c[54].bits >= 5 && c[5].bits <= 3);
}

/* ---- water-filling ---- */
/* Slope of the weighted error of one number, over a constant. */
static double slope(const lq_bits_component *c)
{
    return c->weight * c->variance * pow(4, -c->bits);
}

/* No bit is better elsewhere; bounds hold; the target is met. */
static int is_best(const lq_bits_component *c, size_t count, double target)
{
    double gains = 0;
    double costs = HUGE_VAL;
    double sum = 0;
    double numbers = 0;
    int all_high = 1;
    for (size_t i = 0; i < count; i++) {
        double n = c[i].count ? (double)c[i].count : 1;
        double high = c[i].high > 0 ? c[i].high : 500;
        if (c[i].bits < c[i].low - 1e-9 || c[i].bits > high + 1e-9) return 0;
        if (c[i].bits < high - 1e-9 && c[i].weight * c[i].variance > 0) {
            gains = fmax(gains, slope(c + i));
            all_high = 0;
        }
        if (c[i].bits > fmax(c[i].low, 0) + 1e-9) costs = fmin(costs, slope(c + i));
        sum += n * c[i].bits;
        numbers += n;
    }
    int met = sum <= target * numbers * (1 + 1e-9);
    return met && (all_high || (sum >= target * numbers * (1 - 1e-9) && gains <= costs * 1.000001));
}

static void test_fill(void)
{
    lq_bits_component c[40];
    double bits[40];
    lq_bits_report r;
    lq_bits_report back;
    int bad = 0;
    for (int n = 0; n < (quick ? 500 : 5000); n++) {
        size_t count = 1 + source_below(40);
        lq_bits_desc d = request(0.25 + 6 * source_uniform(), NULL, 0);
        for (size_t i = 0; i < count; i++) {
            double weight = exp(3 * source_gauss());
            c[i] = component(weight, exp(2 * source_gauss()));
            c[i].count = source_below(3) ? source_below(200) : 0;
            if (source_below(9) == 0) c[i].weight = 0;
            if (source_below(9) == 0) c[i].variance = 0;
            if (n % 3 == 1) c[i].high = 1 + 8 * source_uniform();
            if (n % 3 == 2) c[i].low = d.target * source_uniform();
        }
        bad += lq_bits_fill(c, count, &d, &r) != LQ_OK || !is_best(c, count, d.target);
        bad += r.error > r.uniform_error * (1 + 1e-9) || r.gain < 1 - 1e-12;
        for (size_t i = 0; i < count; i++) {
            bits[i] = c[i].bits;
        }
        if (r.error < 1e-200) continue; /* nothing matters, or the bounds leave too many bits */
        d.kind = LQ_RATE_ERROR;
        d.target = r.error;
        int status = lq_bits_fill(c, count, &d, &back);
        bad += status != LQ_OK || back.error > r.error * (1 + 1e-9) || back.bits > r.bits + 1e-6;
        for (size_t i = 0; i < count && r.at_high < count; i++) {
            int tiny = slope(c + i) < 1e-4 * r.error; /* the error hardly depends on it */
            bad += !near_to(c[i].bits, bits[i], tiny ? 1 : 1e-4);
        }
        bad += back.bits > back.uniform_bits + 1e-9;
    }
    CHECK(bad == 0);
}

/* Errors are the level, or the variance where that is less (Cover and Thomas, theorem 10.3.3). */
static void test_levels(void)
{
    const double variance[4] = {16, 4, 0.0625, 0};
    lq_bits_component c[4];
    lq_bits_report r;
    lq_bits_desc d = request(0.75, NULL, 0);
    for (int i = 0; i < 4; i++) {
        c[i] = component(1, variance[i]);
    }
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK); /* 3 bits on two: a level of 1 */
    CHECK(near_to(c[0].bits, 2, 1e-12) && near_to(c[1].bits, 1, 1e-12));
    CHECK(near_to(c[2].bits, 0, 0) && near_to(c[3].bits, 0, 0));
    CHECK(near_to(4 * r.error, 2.0625, 1e-12) && r.at_low == 2);
    d.constant = 1.423; /* moves the error and no bits */
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK && near_to(c[0].bits, 2, 1e-12));
    CHECK(near_to(4 * r.error, 2.0625 * 1.423, 1e-12));
    d.kind = LQ_RATE_ERROR;
    d.target = 2.0625 / 4;
    d.constant = 0;
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK && near_to(r.bits, 0.75, 1e-9));
    d.target = 100; /* no bits are needed */
    CHECK(lq_bits_fill(c, 4, &d, &r) == LQ_OK && near_to(r.bits, 0, 0) && r.at_low == 4);
}

/* ---- choices ---- */
static double rate_of(const lq_bits_component *c, const lq_bits_desc *d, size_t k)
{
    return c->rates ? c->rates[k] : d->widths[k];
}

static double error_of(const lq_bits_component *c, const lq_bits_desc *d, size_t k)
{
    double n = c->count ? (double)c->count : 1;
    double unit = d->curve ? d->curve[k] : pow(4, -rate_of(c, d, k));
    return n * c->weight * (c->errors ? c->errors[k] : c->variance * unit);
}

static double cost_of(const lq_bits_component *c, const lq_bits_desc *d, size_t k)
{
    double rate = rate_of(c, d, k);
    if (rate < c->low || (c->high > 0 && rate > c->high)) return -1;
    return (c->count ? (double)c->count : 1) * floor(rate * 256 + 0.5);
}

/* What all combinations of choices reach: the least error within the bits, or the fewest bits within
   the error; -1: none. */
static double brute(const lq_bits_component *c, size_t count, const lq_bits_desc *d, double budget)
{
    size_t at[MOST] = {0};
    double best = -1;
    for (;;) {
        double bits = 0;
        double error = 0;
        for (size_t i = 0; i < count; i++) {
            double cost = cost_of(c + i, d, at[i]);
            bits = cost < 0 ? HUGE_VAL : bits + cost;
            error += error_of(c + i, d, at[i]);
        }
        if (bits < HUGE_VAL && d->kind == LQ_RATE_ERROR && error <= budget * (1 + 1e-12)) {
            best = best < 0 ? bits : fmin(best, bits);
        } else if (d->kind != LQ_RATE_ERROR && bits <= budget) {
            best = best < 0 ? error : fmin(best, error);
        }
        size_t i = 0;
        while (i < count && ++at[i] == d->width_count) {
            at[i++] = 0;
        }
        if (i == count) return best;
    }
}

/* A case's own points of one component: convex, any, or of no order. */
static void random_points(double *rates, double *errors, size_t choices, int how)
{
    double error = 1;
    double gain = 0.5;
    for (size_t k = 0; k < choices; k++) {
        rates[k] = how == 1 ? (double)k + 1 : (k ? rates[k - 1] : 0) + source_uniform() * 3;
        errors[k] = error;
        error -= how == 3 ? 0.3 * (source_uniform() - 0.3) : gain;
        error = fmax(error, 0);
        gain *= how == 1 ? 0.5 : source_uniform();
    }
    if (how == 3 && choices > 1) { /* rates of no order */
        double first = rates[0];
        rates[0] = rates[choices - 1];
        rates[choices - 1] = first;
    }
}

/* Numbers of all of them. */
static double numbers(const lq_bits_component *c, size_t count)
{
    double n = 0;
    for (size_t i = 0; i < count; i++) {
        n += c[i].count ? (double)c[i].count : 1;
    }
    return n;
}

/* One case against brute force, 1 if right; *took becomes which way it went. */
static int one_case(int n, int *took)
{
    static const double hot[POINTS] = {2, 3, 4, 5, 6, 8};
    static const double odd[POINTS] = {0, 1.5, 2.25, 3.3, 4.4, 7};
    double rates[MOST][POINTS];
    double errors[MOST][POINTS];
    lq_bits_component c[MOST];
    lq_bits_report r;
    size_t count = 1 + source_below(MOST - 1);
    size_t choices = 1 + source_below(POINTS);
    lq_bits_desc d = request(1 + 6 * source_uniform(), n % 2 ? hot : odd, choices);
    int how = n / 2 % 4;
    for (size_t i = 0; i < count; i++) {
        double weight = exp(2 * source_gauss());
        c[i] = component(weight, exp(source_gauss()));
        random_points(rates[i], errors[i], choices, how);
        if (how) c[i].errors = errors[i];
        if (how) c[i].rates = rates[i];
        if (n % 5 == 0) c[i].count = 1 + source_below(9);
        if (source_below(16) == 0) c[i].weight = 0;
        if (n % 7 == 0) c[i].low = fmin(rate_of(c + i, &d, 0), rate_of(c + i, &d, choices - 1));
        if (n % 7 == 1) c[i].high = 0.001 + rate_of(c + i, &d, source_below((uint32_t)choices));
    }
    if (n % 3 == 0) { /* the error of an average number */
        d.kind = LQ_RATE_ERROR;
        d.target = exp(-6 * source_uniform());
    } else if (n % 11 == 0) {
        d.target = rate_of(c, &d, choices / 2) + 0.001; /* one that may be met exactly */
    }
    double all = numbers(c, count);
    double target = d.target * 256;
    for (size_t i = 0; i < count * choices; i++) { /* rates are rounded: then the target is, too */
        double rate = 256 * rate_of(c + i / choices, &d, i % choices);
        if (floor(rate) < rate) target = fmax(target, floor(d.target * 256 + 0.5));
    }
    double budget = d.kind == LQ_RATE_ERROR ? d.target * all : floor(target * all + 1.0 / 64);
    double best = brute(c, count, &d, budget);
    int status = choose(c, count, &d, &r);
    if (best < 0) return status == LQ_E_RANGE;
    if (status != LQ_OK || !r.exact) return 0;
    double cost = 0;
    double error = 0;
    for (size_t i = 0; i < count; i++) {
        double own = cost_of(c + i, &d, c[i].choice);
        if (own < 0 || !near_to(c[i].bits, rate_of(c + i, &d, c[i].choice), 0)) return 0;
        cost += own;
        error += error_of(c + i, &d, c[i].choice);
    }
    if (!near_to(error, r.error * all, 1e-9 * error)) return 0;
    if (d.kind == LQ_RATE_ERROR ? error > budget * (1 + 1e-9) : cost > budget) return 0;
    if (d.kind == LQ_RATE_ERROR ? cost > best : error > best * (1 + 1e-12)) return 0;
    if (r.uniform_bits > 0 && d.kind != LQ_RATE_ERROR && r.error > r.uniform_error) return 0;
    *took = how;
    lq_bits_report g; /* the greedy search: its bound holds, one width is not better */
    d.search = LQ_BITS_GREEDY;
    if (choose(c, count, &d, &g) != LQ_OK) return 0;
    double got = d.kind == LQ_RATE_ERROR ? g.bits : g.error;
    double least = d.kind == LQ_RATE_ERROR ? r.bits : r.error;
    double slack = 1e-9 + (d.kind == LQ_RATE_ERROR ? 2.0 / 256 : 0); /* rates are rounded */
    if (g.exact && got > least * (1 + 1e-12) + (d.kind == LQ_RATE_ERROR ? slack : 0)) return 0;
    if (g.bound > least * (1 + 1e-9) + slack || got < least * (1 - 1e-9) - slack) return 0;
    double flat = d.kind == LQ_RATE_ERROR ? g.uniform_bits : g.uniform_error;
    return (g.uniform_bits <= 0 && g.uniform_error <= 0) || got <= flat * (1 + 1e-12) + slack;
}

static void test_brute(void)
{
    int took[4] = {0};
    int bad = 0;
    for (int n = 0; n < (quick ? 2000 : 20000); n++) {
        int how = 0;
        int ok = one_case(n, &how);
        if (!ok && !bad) fprintf(stderr, "case %d\n", n);
        bad += !ok;
        took[how]++;
    }
    CHECK(bad == 0);
    CHECK(took[1] > 100 && took[2] > 100 && took[3] > 100);
}

/* Where the steepest step does not fit, two others do: 1.5 and 1.5 bits instead of 2. */
static void test_knapsack(void)
{
    const double rates[3][2] = {{0, 2}, {0, 1.5}, {0, 1.5}};
    const double errors[3][2] = {{10, 0}, {7, 0}, {7, 0}};
    lq_bits_component c[3];
    lq_bits_report r;
    lq_bits_desc d = request(1, NULL, 2);
    for (int i = 0; i < 3; i++) {
        c[i] = component(1, 0);
        c[i].rates = rates[i];
        c[i].errors = errors[i];
    }
    CHECK(choose(c, 3, &d, &r) == LQ_OK && r.exact);
    CHECK(c[0].choice == 0 && c[1].choice == 1 && c[2].choice == 1);
    CHECK(near_to(3 * r.error, 10, 1e-12) && near_to(r.bits, 1, 1e-12));
    d.search = LQ_BITS_GREEDY;
    CHECK(choose(c, 3, &d, &r) == LQ_OK && !r.exact && c[0].choice == 1 && c[1].choice == 0);
    CHECK(near_to(3 * r.error, 14, 1e-12) && near_to(3 * r.bound, 24 - 10 - 7 / 1.5, 1e-12));
}

/* What is equal: the first component first, the shortest step of a straight line; a target is not
   rounded where rates are not; what does not matter has 0 bits; errors that are the formula's. */
static void test_edges(void)
{
    const double widths[3] = {3, 4, 5};
    const double line[3] = {3, 2, 1};
    const double more[3] = {4, 5, 6}; /* a bit more each, at a quarter of the weight */
    double errors[3][3];
    lq_bits_component c[3];
    lq_bits_report r;
    lq_bits_desc d = request(10.0 / 3, widths, 3);
    for (int i = 0; i < 3; i++) {
        c[i] = component(1, 1);
    }
    CHECK(choose(c, 3, &d, &r) == LQ_OK && r.exact);
    CHECK(c[0].choice == 1 && c[1].choice == 0 && c[2].choice == 0);
    d.search = LQ_BITS_GREEDY;
    d.curve = line;
    CHECK(choose(c, 3, &d, &r) == LQ_OK && r.exact);
    CHECK(c[0].choice == 1 && c[1].choice == 0 && c[2].choice == 0);
    d = request(3.999, widths, 3);
    CHECK(choose(c, 1, &d, &r) == LQ_OK && c[0].choice == 0);
    c[0].weight = 0;
    c[1].variance = 0;
    c[0].low = c[1].low = c[2].low = LQ_BITS_FREE;
    c[1].high = -1;
    CHECK(lq_bits_fill(c, 3, &d, &r) == LQ_OK && near_to(c[0].bits, 0, 0));
    CHECK(near_to(c[1].bits, -1, 0) && near_to(c[2].bits, 3 * 3.999 + 1, 1e-9));
    for (int i = 0; i < 3; i++) {
        c[i] = component(pow(3, i), 0);
        c[i].errors = errors[i];
        for (int k = 0; k < 3; k++) {
            errors[i][k] = pow(4, -widths[k]);
        }
    }
    CHECK(choose(c, 3, &d, &r) == LQ_OK && near_to(r.gain, 13.0 / 9, 1e-12));
    c[2].rates = more;
    c[2].weight *= 0.25;
    d.target = 4;
    CHECK(choose(c, 3, &d, &r) == LQ_OK && near_to(r.gain, 13.0 / 9, 1e-12));
    c[2].rates = NULL;
    c[2].weight *= 4;
    d.target = 3.999;
    errors[1][0] *= 2; /* at the width that all would have */
    CHECK(choose(c, 3, &d, &r) == LQ_OK && near_to(r.gain, 16 / (3 * pow(54, 1.0 / 3)), 1e-12));
}

/* Targets that cannot be met: the nearest. */
static void test_range(void)
{
    const double widths[3] = {3, 4, 5};
    lq_bits_component c[2] = {component(1, 1), component(2, 1)};
    lq_bits_report r;
    lq_bits_desc d = request(2.5, widths, 3);
    CHECK(choose(c, 2, &d, &r) == LQ_E_RANGE);
    CHECK(near_to(r.bits, 3, 0) && near_to(c[0].bits, 3, 0) && near_to(c[1].bits, 3, 0));
    CHECK(near_to(r.error, 1.5 / 64, 1e-15) && !r.exact && near_to(r.uniform_bits, 0, 0));
    d.target = 6; /* more than they can take */
    CHECK(choose(c, 2, &d, &r) == LQ_OK && near_to(r.bits, 5, 0) && r.at_high == 2);
    d.kind = LQ_RATE_ERROR;
    d.target = 1.4 / 1024;
    CHECK(choose(c, 2, &d, &r) == LQ_E_RANGE && near_to(r.bits, 5, 0));
    CHECK(near_to(r.error, 1.5 / 1024, 1e-15));
    d.target = 1.5 / 1024;
    CHECK(choose(c, 2, &d, &r) == LQ_OK && near_to(r.bits, 5, 0));
    d.target = 3;
    CHECK(choose(c, 2, &d, &r) == LQ_OK && near_to(r.bits, 3, 0) && r.at_low == 2);
    c[0].low = c[1].low = 3;
    c[0].high = c[1].high = 5;
    d = request(2.5, NULL, 0);
    CHECK(lq_bits_fill(c, 2, &d, &r) == LQ_E_RANGE && near_to(r.bits, 3, 1e-12) && !r.exact);
    CHECK(near_to(c[0].bits, 3, 0) && near_to(r.uniform_error, 0, 0));
    d.kind = LQ_RATE_ERROR;
    d.target = 1.4 / 1024;
    CHECK(lq_bits_fill(c, 2, &d, &r) == LQ_E_RANGE && near_to(r.bits, 5, 1e-12));
    CHECK(near_to(r.error, 1.5 / 1024, 1e-12) && r.at_high == 2);
}

/* ---- bad input ---- */
static int fill_of(double weight, double variance, double low, double high, double target)
{
    lq_bits_component c[2] = {component(1, 1), component(weight, variance)};
    lq_bits_desc d = request(target, NULL, 0);
    c[1].low = low;
    c[1].high = high;
    return lq_bits_fill(c, 2, &d, NULL);
}

static void test_bad(void)
{
    const double nan = (double)NAN;
    double widths[3] = {3, 4, 5};
    double errors[3] = {1, 0.5, 0.25};
    lq_bits_component c[2] = {component(1, 1), component(2, 1)};
    lq_bits_report r;
    lq_bits_desc d = request(4, widths, 3);
    char ws[4096];
    CHECK(fill_of(1, 1, 0, 0, 4) == LQ_OK && fill_of(-0.0, 1, 0, 0, 4) == LQ_OK);
    CHECK(fill_of(-1, 1, 0, 0, 4) == LQ_E_DATA && fill_of(nan, 1, 0, 0, 4) == LQ_E_DATA);
    CHECK(fill_of(HUGE_VAL, 1, 0, 0, 4) == LQ_E_DATA && fill_of(1e61, 1, 0, 0, 4) == LQ_E_DATA);
    CHECK(fill_of(1, -1, 0, 0, 4) == LQ_E_DATA && fill_of(1, nan, 0, 0, 4) == LQ_E_DATA);
    CHECK(fill_of(1, 1, 0, 0, 0) == LQ_E_ARG && fill_of(1, 1, 0, 0, nan) == LQ_E_ARG);
    CHECK(fill_of(1, 1, 0, 0, -1) == LQ_E_ARG && fill_of(1, 1, 0, 0, HUGE_VAL) == LQ_E_ARG);
    CHECK(fill_of(1, 1, 5, 4, 4) == LQ_E_ARG && fill_of(1, 1, nan, 4, 4) == LQ_E_ARG);
    CHECK(fill_of(1, 1, -501, 0, 4) == LQ_E_ARG && fill_of(1, 1, 0, nan, 4) == LQ_E_ARG);
    CHECK(fill_of(1, 1, 0, -1, 4) == LQ_E_ARG && fill_of(1, 1, -2, -1, 4) == LQ_OK);
    CHECK(lq_bits_fill(NULL, 2, &d, &r) == LQ_E_ARG && lq_bits_fill(c, 0, &d, &r) == LQ_E_ARG);
    CHECK(lq_bits_fill(c, 2, NULL, &r) == LQ_E_ARG);
    c[0].count = (size_t)-1;
    CHECK(sizeof(size_t) < 8 || lq_bits_fill(c, 2, &d, &r) == LQ_E_ARG);
    c[0].count = 0;
    d.kind = 3;
    CHECK(lq_bits_fill(c, 2, &d, &r) == LQ_E_ARG);
    d.kind = 0;
    d.constant = nan;
    CHECK(lq_bits_fill(c, 2, &d, &r) == LQ_E_ARG);
    d.constant = 0;
    CHECK(choose(c, 2, &d, NULL) == LQ_OK);
    CHECK(lq_bits_choose(c, 2, &d, &r, NULL, 4096) == LQ_E_ARG);
    d.search = 3;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_ARG);
    CHECK(lq_bits_choose_workspace_bytes(c, 2, &d) == 0);
    d.search = 0;
    d.width_count = 65;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_ARG);
    d.width_count = 0;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_ARG);
    d.width_count = 3;
    d.widths = NULL;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_ARG);
    d.widths = widths;
    c[0].high = 2.5; /* no width is in its bounds */
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_ARG);
    c[0].high = 0;
    c[0].weight = nan;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_DATA);
    c[0].weight = 1;
    c[0].errors = errors;
    errors[2] = -1;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_DATA);
    errors[2] = 0;
    d.curve = errors;
    CHECK(choose(c, 2, &d, &r) == LQ_OK && r.error >= 0);
    errors[1] = nan;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_DATA);
    errors[1] = 0.5;
    widths[0] = -1;
    CHECK(lq_bits_choose(c, 2, &d, &r, ws, sizeof ws) == LQ_E_DATA);
}

/* ---- heads, channels, layers ---- */
static void test_variance(void)
{
    enum { TOKENS = 50, HEADS = 3, DIMS = 4 };
    static const double widths[5] = {0, 1, 2, 3, 4};
    static const double lloyd[5] = {1, 0.3634, 0.1175, 0.03454, 0.009497};
    float x[TOKENS * HEADS * DIMS];
    lq_bits_component c[HEADS * DIMS];
    lq_bits_report r;
    memset(c, 0, sizeof c);
    for (size_t i = 0; i < TOKENS * HEADS * DIMS; i++) {
        size_t head = i / DIMS % HEADS;
        x[i] = (float)(ldexp(source_gauss(), (int)(2 * head)) + 100);
    }
    CHECK(lq_bits_variance(c, HEADS, x, TOKENS, DIMS, 1) == LQ_OK);
    for (size_t h = 0; h < HEADS; h++) {
        double sum = 0;
        for (size_t d = 0; d < DIMS; d++) {
            double mean = 0;
            for (size_t t = 0; t < TOKENS; t++) {
                mean += (double)x[t * HEADS * DIMS + h * DIMS + d] / TOKENS;
            }
            for (size_t t = 0; t < TOKENS; t++) {
                sum += pow((double)x[t * HEADS * DIMS + h * DIMS + d] - mean, 2);
            }
        }
        CHECK(c[h].count == DIMS && near_to(c[h].variance, sum / (TOKENS * DIMS), 1e-9 * sum));
        c[h].weight = 1;
    }
    lq_bits_desc d = request(2, widths, 5);
    CHECK(choose(c, HEADS, &d, &r) == LQ_OK); /* two octaves are two bits */
    CHECK(c[0].choice == 0 && c[1].choice == 2 && c[2].choice == 4 && r.exact);
    CHECK(lq_bits_variance(c, HEADS, x, TOKENS, DIMS, 0) == LQ_OK && c[0].variance > 9000);
    CHECK(lq_bits_variance(c, HEADS * DIMS, x, TOKENS, 1, 1) == LQ_OK && c[0].count == 1);
    for (size_t i = 0; i < HEADS * DIMS; i++) {
        c[i].weight = 1;
    }
    d.curve = lloyd; /* channels with Lloyd and Max's quantizers */
    CHECK(choose(c, HEADS * DIMS, &d, &r) == LQ_OK && r.exact && near_to(r.bits, 2, 1e-12));
    CHECK(r.error < r.uniform_error && c[11].choice == 4);
    x[7] = NAN;
    CHECK(lq_bits_variance(c, HEADS, x, TOKENS, DIMS, 1) == LQ_E_DATA);
    CHECK(lq_bits_variance(c, HEADS, NULL, TOKENS, DIMS, 1) == LQ_E_ARG);
    CHECK(lq_bits_variance(NULL, HEADS, x, TOKENS, DIMS, 1) == LQ_E_ARG);
    CHECK(lq_bits_variance(c, HEADS, x, 0, DIMS, 1) == LQ_E_ARG);
}

/* Never worse than lq_kv_layers_adaptive, over all widths of hot pages. */
static void test_layers(void)
{
    static const double hot[6] = {2, 3, 4, 5, 6, 8};
    int bad = 0;
    int better = 0;
    for (int n = 0; n < (quick ? 200 : 2000); n++) {
        enum { LAYERS = 8 };
        lq_kv_layer layers[LAYERS];
        lq_bits_component c[2 * LAYERS];
        float k[LAYERS];
        float v[LAYERS];
        lq_bits_report r;
        double bits = 2 + source_below(6 * 16 + 1) / 16.0;
        double error = 0;
        memset(layers, 0, sizeof layers);
        for (int i = 0; i < LAYERS; i++) {
            k[i] = (float)exp(3 * source_gauss());
            v[i] = (float)exp(3 * source_gauss());
            c[2 * i] = component((double)k[i], 1);
            c[2 * i + 1] = component((double)v[i], 1);
        }
        bad += lq_kv_layers_adaptive(layers, LAYERS, k, v, (float)bits) != LQ_OK;
        lq_bits_desc d = request(bits, hot, 6);
        bad += choose(c, 2 * LAYERS, &d, &r) != LQ_OK || r.bits > bits + 1e-9;
        for (int i = 0; i < LAYERS; i++) {
            error += (double)k[i] * pow(4, -layers[i].k.bits);
            error += (double)v[i] * pow(4, -layers[i].v.bits);
        }
        bad += r.error * 2 * LAYERS > error * (1 + 1e-9);
        better += r.error * 2 * LAYERS < error * 0.999999;
    }
    CHECK(bad == 0 && better > 0);
}

/* Ten thousand channels: no table, and in no time. */
static void test_many(void)
{
    enum { MANY = 10000 };
    double widths[9];
    lq_bits_component *c = (lq_bits_component *)source_alloc(MANY * sizeof *c);
    lq_bits_report r;
    for (int k = 0; k < 9; k++) {
        widths[k] = k;
    }
    lq_bits_desc d = request(2.5, widths, 9);
    for (int i = 0; i < MANY; i++) {
        c[i] = component(1, exp(2 * source_gauss()));
    }
    CHECK(lq_bits_choose_workspace_bytes(c, MANY, &d) < 64 * MANY);
    CHECK(choose(c, MANY, &d, &r) == LQ_OK && r.exact && near_to(r.bits, 2.5, 1e-9));
    CHECK(r.error < r.uniform_error / 5);
    double error = r.error;
    CHECK(lq_bits_fill(c, MANY, &d, &r) == LQ_OK && r.error <= error && r.error > error * 0.9);
    free(c);
}

/* Steps of coded pages: points of lq_rate_of, and the one slope of lq_rate_split. */
static void test_steps(void)
{
    enum { GROUPS = 3, STEPS = 41 };
    void *mem = source_alloc(lq_tables_bytes());
    const lq_tables *tables = NULL;
    int16_t sigma[GROUPS][64];
    int16_t mean[64] = {0};
    lq_profile p[GROUPS];
    lq_rate_group g[GROUPS];
    double rates[GROUPS][STEPS];
    double errors[GROUPS][STEPS];
    lq_bits_component c[GROUPS];
    lq_bits_report r;
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    memset(p, 0, sizeof p);
    memset(g, 0, sizeof g);
    for (int i = 0; i < GROUPS; i++) {
        for (int d = 0; d < 64; d++) {
            sigma[i][d] = (int16_t)(16 * (2 * i - 1) - d);
        }
        p[i].stream = LQ_K;
        p[i].basis = LQ_BASIS_IDENTITY;
        p[i].slice_count = 1;
        p[i].dims = 64;
        p[i].mean = mean;
        p[i].sigma = sigma[i];
        g[i].profile = &p[i];
        g[i].weight = i + 1;
        c[i] = component(i + 1, 0);
        c[i].rates = rates[i];
        c[i].errors = errors[i];
        for (int k = 0; k < STEPS; k++) { /* of a token; a component is one number here */
            lq_rate rate;
            CHECK(lq_rate_of(&rate, tables, &p[i], (float)pow(2, k / 8.0 - 3)) == LQ_OK);
            rates[i][k] = rate.bits / 64;
            errors[i][k] = rate.error / 64;
        }
    }
    lq_bits_desc d = request(2, NULL, STEPS);
    CHECK(choose(c, GROUPS, &d, &r) == LQ_OK && r.exact);
    CHECK(lq_rate_split(g, GROUPS, tables, LQ_RATE_BITS, 2 * 64 * GROUPS) == LQ_OK);
    double error = 0;
    for (int i = 0; i < GROUPS; i++) {
        error += g[i].rate.error * g[i].weight / (64 * GROUPS);
        double step = pow(2, (double)c[i].choice / 8 - 3);
        CHECK(fabs(log(step / (double)g[i].step)) < 0.2);
    }
    CHECK(near_to(r.error, error, 0.03 * error) && r.error < r.uniform_error);
    free(mem);
}

/* The same choices on every machine: one hash. */
static void test_same(void)
{
    uint32_t hash = 0;
    source_seed = 77;
    for (int n = 0; n < 200; n++) {
        double widths[POINTS];
        lq_bits_component c[24];
        uint8_t got[24];
        lq_bits_report r;
        for (int k = 0; k < POINTS; k++) {
            widths[k] = n % 2 ? k + 1.5 : k * (k + 3) / 4.0;
        }
        lq_bits_desc d = request(1 + (double)source_below(1000) / 256, widths, POINTS);
        for (int i = 0; i < 24; i++) {
            double weight = 1 + source_below(1000); /* in this order */
            c[i] = component(weight, 1 + source_below(9) * 0.125);
            c[i].count = 1 + source_below(4);
        }
        if (n % 2 && d.target < 1.5) d.target = 1.5;
        CHECK(choose(c, 24, &d, &r) == LQ_OK && r.exact);
        for (int i = 0; i < 24; i++) {
            got[i] = (uint8_t)c[i].choice;
        }
        hash = lq_xxh32(got, sizeof got, hash);
    }
    if (!CHECK(hash == 0xbf469b2cu)) fprintf(stderr, "hash %08x\n", (unsigned)hash);
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    test_case_12();
    test_seeds();
    test_fill();
    test_levels();
    test_brute();
    test_knapsack();
    test_edges();
    test_range();
    test_bad();
    test_variance();
    test_layers();
    test_many();
    test_steps();
    test_same();
    return check_report("test_bits");
}
