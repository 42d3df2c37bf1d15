/* cc -std=c99 -O2 tests/test_distortion.c -o test_distortion -lm    >>distortion: sensitivity
   against noise that is put in, directions against plain sums, dither against the theorems.
   `test_distortion quick` takes fewer trials. */
#include "header.h"

#include "check.h"
#include "source.h"

static int quick;

static int near_to(double a, double b, double most)
{
    return fabs(a - b) <= most;
}

static void fill(float *x, size_t count, double sigma)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)(sigma * source_gauss());
    }
}

/* ---- sensitivity ---- */
enum { HEADS = 2, QUERIES = 6, TOKENS = 16, DIMS = 12, V_DIMS = 8 };

typedef struct sample {
    float q[HEADS * QUERIES * DIMS];
    float k[TOKENS * DIMS];
    float v[TOKENS * V_DIMS];
    float k_error[TOKENS * DIMS];
    float v_error[TOKENS * V_DIMS];
    float noise[TOKENS];
    lq_sensitivity_desc d;
} sample;

static void make_sample(sample *s, double k_sigma, double v_sigma)
{
    memset(s, 0, sizeof *s);
    fill(s->q, HEADS * QUERIES * DIMS, 1.5);
    fill(s->k, TOKENS * DIMS, 1);
    fill(s->v, TOKENS * V_DIMS, 1);
    fill(s->k_error, TOKENS * DIMS, k_sigma);
    fill(s->v_error, TOKENS * V_DIMS, v_sigma);
    s->d.q = s->q;
    s->d.k = s->k;
    s->d.v = s->v;
    s->d.k_error = k_sigma > 0 ? s->k_error : NULL;
    s->d.v_error = v_sigma > 0 ? s->v_error : NULL;
    s->d.heads = HEADS;
    s->d.queries = QUERIES;
    s->d.tokens = TOKENS;
    s->d.dims = DIMS;
    s->d.v_dims = V_DIMS;
    s->d.first = TOKENS - QUERIES;
}

static int sense(lq_sensitivity *out, const lq_sensitivity_desc *d)
{
    size_t bytes = lq_sensitivity_workspace_bytes(d);
    void *ws = source_alloc(bytes);
    CHECK(bytes > 0 && lq_sensitivity_of(out, d, ws, bytes - 1) == LQ_E_SPACE);
    int status = lq_sensitivity_of(out, d, ws, bytes);
    free(ws);
    return status;
}

/* The seeds' own form of eta_k (research/01, 1.6), expanded, and eta_v. */
static void seed_etas(double *eta_k, double *eta_v, const sample *s, const float *noise)
{
    double scale = 1 / sqrt((double)DIMS);
    double mean_noise = 0;
    *eta_k = 0;
    *eta_v = 0;
    for (int t = 0; noise && t < TOKENS; t++) {
        mean_noise += (double)noise[t] / TOKENS;
    }
    for (int i = 0; i < HEADS * QUERIES; i++) {
        double a[TOKENS], mu[V_DIMS] = {0}, with[V_DIMS] = {0};
        double sum = 0, norm = 0, squares = 0, length = 0, dot = 0, mus = 0;
        int seen = TOKENS - QUERIES + i % QUERIES + 1;
        for (int d = 0; d < DIMS; d++) {
            norm += pow((double)s->q[i * DIMS + d], 2);
        }
        for (int t = 0; t < seen; t++) {
            double x = 0;
            for (int d = 0; d < DIMS; d++) {
                x += (double)s->q[i * DIMS + d] * (double)s->k[t * DIMS + d];
            }
            a[t] = exp(x * scale);
            sum += a[t];
        }
        for (int t = 0; t < seen; t++) {
            double w = a[t] / sum;
            double v_norm = 0;
            for (int d = 0; d < V_DIMS; d++) {
                double v = (double)s->v[t * V_DIMS + d];
                mu[d] += w * v;
                with[d] += w * w * v;
                v_norm += v * v;
            }
            squares += w * w;
            length += w * w * v_norm;
            *eta_v += w * w * (noise ? (double)noise[t] / mean_noise : 1) / (HEADS * QUERIES);
        }
        for (int d = 0; d < V_DIMS; d++) {
            dot += mu[d] * with[d];
            mus += mu[d] * mu[d];
        }
        *eta_k += norm * (length - 2 * dot + mus * squares) / (DIMS * V_DIMS * HEADS * QUERIES);
    }
}

static void test_etas(void)
{
    static sample s;
    lq_sensitivity r;
    double eta_k, eta_v;
    make_sample(&s, 0, 0);
    seed_etas(&eta_k, &eta_v, &s, NULL);
    CHECK(sense(&r, &s.d) == LQ_OK);
    CHECK(near_to(r.eta_k, eta_k, 1e-6 * eta_k) && near_to(r.eta_v, eta_v, 1e-6 * eta_v));
    CHECK(near_to(r.seen * eta_v, 1, 1e-6) && r.measured <= 0 && r.k_share <= 0);
    CHECK(r.risk == LQ_RISK_SAFE && r.key_bits == 4 && r.logit_variance <= 0);
    for (int t = 0; t < TOKENS; t++) {
        s.noise[t] = (float)(1 + t % 3);
    }
    s.d.v_noise = s.noise;
    seed_etas(&eta_k, &eta_v, &s, s.noise);
    CHECK(sense(&r, &s.d) == LQ_OK && near_to(r.eta_v, eta_v, 1e-6 * eta_v));
}

/* What noise of that size does is what the formulas say, of keys, of values and of both. */
static void test_theorem_1(void)
{
    static const double sigmas[3][2] = {{0.01, 0}, {0, 0.01}, {0.01, 0.005}};
    static sample s;
    lq_sensitivity r;
    for (int c = 0; c < 3; c++) {
        double part = 0;
        double measured = 0;
        double bound = 0;
        int trials = quick ? 100 : 2000;
        for (int n = 0; n < trials; n++) {
            source_seed = (uint64_t)n + 5;
            make_sample(&s, sigmas[c][0], sigmas[c][1]);
            CHECK(sense(&r, &s.d) == LQ_OK);
            part += r.k_part + r.v_part;
            measured += r.measured;
            CHECK((r.k_part > 0) == (c != 1) && (r.v_part > 0) == (c != 0));
            CHECK(near_to(r.k_share, r.k_part / (r.k_part + r.v_part), 1e-12));
            bound += c == 0 ? r.bound - V_DIMS * r.measured : 0;
        }
        CHECK(near_to(measured / part, 1, quick ? 0.1 : 0.03) && bound >= 0);
    }
}

/* Var_t of q'e, by hand; 1 - 1 / n_eff; n_eff and both variances of layers 0, 1 and 27 of Qwen2.5-7B
   as LatticeQuant (2026, MIT) publishes them (results/ddt/diagnosis_*_4bit.json). */
static void test_keys(void)
{
    static const double seen[3] = {5.714182174, 7.039482398, 2.545495152};
    static const double variance[3] = {244.9120275, 1.781431697, 89.10549438};
    static const double effective[3] = {202.0516461, 1.528368816, 54.10032287};
    static const double query[3] = {12.256963, 1.157893962, 18.036865234};
    static const uint32_t causes[3] = {LQ_CAUSE_QUERY | LQ_CAUSE_NOISE, LQ_CAUSE_NOISE,
                                       LQ_CAUSE_QUERY | LQ_CAUSE_NOISE};
    static const int bits[3] = {8, 5, 8};
    static sample s;
    lq_sensitivity r;
    double sum = 0;
    make_sample(&s, 0.4, 0);
    CHECK(sense(&r, &s.d) == LQ_OK);
    for (int i = 0; i < HEADS * QUERIES; i++) {
        int n = TOKENS - QUERIES + i % QUERIES + 1;
        double mean = 0, squares = 0;
        for (int t = 0; t < n; t++) {
            double x = 0;
            for (int d = 0; d < DIMS; d++) {
                x += (double)s.q[i * DIMS + d] * (double)s.k_error[t * DIMS + d];
            }
            mean += x / n;
            squares += x * x / n;
        }
        sum += (squares - mean * mean) / DIMS / (HEADS * QUERIES);
    }
    CHECK(near_to(r.logit_variance, sum, 1e-5 * sum));
    CHECK(near_to(r.effective, sum * (1 - 1 / r.seen), 1e-5 * sum));
    CHECK(r.bound > 0 && r.query > 0.5 && r.outlier >= 1);
    for (int i = 0; i < 3; i++) {
        memset(&r, 0, sizeof r);
        r.logit_variance = variance[i];
        r.effective = variance[i] * (1 - 1 / seen[i]);
        r.query = query[i];
        r.outlier = 6;
        lq_sensitivity_judge(&r);
        CHECK(near_to(r.effective, effective[i], 1e-6 * effective[i]));
        CHECK(r.risk == LQ_RISK_CRITICAL && r.causes == causes[i] && r.key_bits == bits[i]);
    }
    r.logit_variance = 0.5;
    r.effective = 0.3;
    r.outlier = 11;
    r.query = 1;
    lq_sensitivity_judge(&r);
    CHECK(r.risk == LQ_RISK_MODERATE && r.causes == LQ_CAUSE_OUTLIER && r.key_bits == 4);
    r.effective = 0.05;
    lq_sensitivity_judge(&r);
    CHECK(r.risk == LQ_RISK_SAFE && r.causes == 0);
}

static void test_sense_bad(void)
{
    static sample s;
    lq_sensitivity r;
    char ws[64];
    double gamma;
    make_sample(&s, 0.1, 0.1);
    CHECK(lq_sensitivity_of(NULL, &s.d, ws, 64) == LQ_E_ARG);
    CHECK(lq_sensitivity_of(&r, NULL, ws, 64) == LQ_E_ARG);
    CHECK(lq_sensitivity_of(&r, &s.d, NULL, 64) == LQ_E_ARG);
    s.d.first++;
    CHECK(lq_sensitivity_of(&r, &s.d, ws, 64) == LQ_E_ARG);
    CHECK(lq_sensitivity_workspace_bytes(&s.d) == 0);
    s.d.first--;
    s.d.scale = NAN;
    CHECK(lq_sensitivity_of(&r, &s.d, ws, 64) == LQ_E_ARG);
    s.d.scale = 0.25f;
    CHECK(sense(&r, &s.d) == LQ_OK && near_to(r.query * 16 / DIMS, 2.25, 0.5));
    s.v_error[3] = INFINITY;
    CHECK(sense(&r, &s.d) == LQ_E_DATA);
    s.v_error[3] = 0;
    s.d.v_noise = s.noise; /* all 0 */
    CHECK(sense(&r, &s.d) == LQ_E_DATA);
    s.noise[0] = 2;
    CHECK(sense(&r, &s.d) == LQ_OK);
    s.noise[1] = -1;
    CHECK(sense(&r, &s.d) == LQ_E_DATA);
    const float clean[3] = {1, 2, 3};
    const float noisy[3] = {1.5f, 2, 2};
    const float noise[2] = {0.5f, -0.5f};
    const float none[2] = {0, 0};
    CHECK(lq_propagation(&gamma, clean, noisy, 3, noise, 2) == LQ_OK);
    CHECK(near_to(gamma, 2.5, 1e-12));
    CHECK(lq_propagation(&gamma, clean, noisy, 3, none, 2) == LQ_E_ARG);
    CHECK(lq_propagation(&gamma, clean, NULL, 3, noise, 2) == LQ_E_ARG);
    CHECK(lq_propagation(&gamma, clean, noisy, 0, noise, 2) == LQ_E_ARG);
    CHECK(lq_propagation(&gamma, &s.v_error[0], s.q, 3, noise, 2) == LQ_OK);
    s.q[0] = NAN;
    CHECK(lq_propagation(&gamma, clean, s.q, 3, noise, 2) == LQ_E_DATA);
}

/* ---- directions ---- */
static int direct(lq_directional *r, double *a, double *b, const float *s, const float *e,
                  size_t tokens, size_t dims)
{
    size_t bytes = lq_directional_workspace_bytes(dims);
    void *ws = source_alloc(bytes);
    CHECK(lq_directional_of(r, a, b, s, e, tokens, dims, ws, bytes - 1) == LQ_E_SPACE);
    int status = lq_directional_of(r, a, b, s, e, tokens, dims, ws, bytes);
    free(ws);
    return status;
}

/* Against sums over pairs of tokens: tr(M Sigma) is the mean of (s_t'e_u)^2. */
static void test_directional(void)
{
    enum { N = 30, D = 10 };
    float s[N * D], e[N * D];
    double a[D], b[D], mean[D] = {0};
    lq_directional r;
    fill(s, N * D, 1);
    fill(e, N * D, 0.1);
    double first = 0, norm = 0, risk = 0, bias = 0;
    for (int i = 0; i < N * D; i++) {
        e[i] += i % D == 3 ? 0.2f : 0.0f;
        s[i] *= i % D == 3 ? 2.0f : 1.0f;
        first += (double)s[i] * (double)e[i];
        norm += (double)e[i] * (double)e[i];
        mean[i % D] += (double)e[i] / N;
    }
    for (int t = 0; t < N; t++) {
        double dot = 0;
        for (int i = 0; i < D; i++) {
            dot += (double)s[t * D + i] * mean[i];
        }
        bias += dot * dot / N; /* mu' M mu */
        for (int u = 0; u < N; u++) {
            dot = 0;
            for (int i = 0; i < D; i++) {
                dot += (double)s[t * D + i] * (double)e[u * D + i];
            }
            risk += dot * dot / (N * N);
        }
    }
    CHECK(direct(&r, a, b, s, e, N, D) == LQ_OK);
    CHECK(near_to(r.first, first, 1e-9) && near_to(r.norm, sqrt(norm), 1e-9));
    CHECK(near_to(r.risk, risk, 1e-9) && near_to(r.error, norm / N, 1e-9));
    CHECK(near_to(r.centered, risk - bias, 1e-9) && near_to(r.drift, bias / risk, 1e-9));
    CHECK(r.drift > 0.3); /* the bias lies where it matters */
    double low = 0, high = 0, trace = 0, sum = 0;
    for (int i = 0; i < D; i++) {
        CHECK(i == 0 || (a[i] <= a[i - 1] && b[i] <= b[i - 1]));
        low += a[i] * b[D - 1 - i];
        high += a[i] * b[i];
        trace += a[i];
        sum += b[i];
    }
    CHECK(near_to(sum, r.error, 1e-9) && near_to(r.isotropic, trace * sum / D, 1e-9));
    CHECK(near_to(r.low, low, 1e-9) && near_to(r.high, high, 1e-9));
    CHECK(low <= r.risk && r.risk <= high && low <= r.isotropic && r.isotropic <= high);
    CHECK(near_to(r.position, (risk - low) / (high - low), 1e-9));
    CHECK(near_to(r.s_top, a[0] / trace, 1e-9) && near_to(r.e_top, b[0] / sum, 1e-9));
    CHECK(direct(&r, NULL, NULL, s, e, N, D) == LQ_OK);
    e[5] = NAN;
    CHECK(direct(&r, a, b, s, e, N, D) == LQ_E_DATA);
    CHECK(lq_directional_of(&r, a, b, s, e, N, 0, s, 8) == LQ_E_ARG);
    CHECK(lq_directional_of(&r, a, b, NULL, e, N, D, s, 8) == LQ_E_ARG);
    CHECK(lq_directional_workspace_bytes(0) == 0);
}

/* Eigenvalues of noise end at the edge; a direction that stands out passes the threshold. */
static void test_noise(void)
{
    enum { N = 512, D = 64 };
    static float s[N * D], e[N * D];
    double a[D], b[D];
    lq_directional r;
    fill(s, N * D, 0.5);
    for (int i = 0; i < N * D; i++) {
        e[i] = s[i];
    }
    for (int t = 0; t < N; t++) {
        e[t * D + 5] += (float)source_gauss();
    }
    double edge = lq_noise_edge(0.25, D, N);
    double threshold = lq_noise_threshold(0.25, D, N);
    CHECK(near_to(edge, 0.25 * pow(1 + sqrt(0.125), 2), 1e-12));
    CHECK(direct(&r, a, b, s, e, N, D) == LQ_OK);
    CHECK(near_to(a[0], edge, 0.08 * edge) && edge < threshold);
    CHECK(b[0] > threshold && b[1] < threshold);
    /* a square matrix: 4 / sqrt(3) (Gavish and Donoho 2014) */
    CHECK(near_to(lq_noise_threshold(1, 9, 9), 16.0 / 3, 1e-12));
    CHECK(near_to(lq_noise_threshold(1, 200, 100), 2 * lq_noise_threshold(1, 100, 200), 1e-9));
    CHECK(near_to(lq_noise_edge(1, 0, 9), 0, 0) && near_to(lq_noise_threshold(1, 9, 0), 0, 0));
}

static int isotropy(lq_isotropy *r, const double *a, const double *b, size_t dims, size_t count,
                    uint64_t seed)
{
    size_t bytes = lq_isotropy_workspace_bytes(dims);
    void *ws = source_alloc(bytes);
    CHECK(lq_isotropy_of(r, a, b, dims, count, seed, ws, bytes - 1) == LQ_E_SPACE);
    int status = lq_isotropy_of(r, a, b, dims, count, seed, ws, bytes);
    free(ws);
    return status;
}

/* Theorem C (research/01, case 14): d 128, an anisotropic Sigma, M of rank 1, 200 rotations. */
static void test_theorem_c(void)
{
    enum { D = 128 };
    double a[D] = {0}, b[D], one[D], bounds[2] = {0, 0}, trace = 0;
    size_t count = quick ? 20 : 200;
    lq_isotropy r, again;
    a[0] = 3;
    for (int i = 0; i < D; i++) {
        b[i] = exp(-i / 16.0);
        one[i] = 0.25;
        trace += b[i];
    }
    bounds[0] = a[0] * b[D - 1];
    bounds[1] = a[0] * b[0];
    CHECK(isotropy(&r, a, b, D, count, 1) == LQ_OK && r.range > 0.1);
    CHECK(r.least >= bounds[0] && r.most <= bounds[1] && r.least < r.most);
    CHECK(r.least < 3 * trace / D && r.most > 3 * trace / D);
    CHECK(near_to(r.range, (r.most - r.least) / (3 * trace / D), 1e-12));
    CHECK(isotropy(&again, a, b, D, count, 1) == LQ_OK && near_to(again.most, r.most, 0));
    CHECK(isotropy(&again, a, b, D, count, 2) == LQ_OK && !near_to(again.most, r.most, 0));
    CHECK(isotropy(&r, a, one, D, count, 1) == LQ_OK && r.range < 1e-12);
    CHECK(isotropy(&r, one, b, D, 5, 1) == LQ_OK && r.range < 1e-12);
    /* of 2 dims: u_11^2 is the squared cosine of an even angle; its mean 1/2, its range all */
    double two[2] = {1, 0}, sum = 0, squares = 0;
    for (uint64_t n = 0; n < 4000; n++) {
        CHECK(isotropy(&r, two, two, 2, 1, n) == LQ_OK);
        sum += r.most / 4000;
        squares += r.most * r.most / 4000;
    }
    CHECK(near_to(sum, 0.5, 0.02) && near_to(squares, 0.375, 0.02));
    a[3] = -1;
    CHECK(isotropy(&r, a, b, D, 1, 1) == LQ_E_DATA);
    CHECK(lq_isotropy_of(&r, a, b, 0, 1, 1, a, 8) == LQ_E_ARG);
    CHECK(lq_isotropy_of(&r, NULL, b, D, 1, 1, a, 8) == LQ_E_ARG);
    CHECK(lq_isotropy_of(&r, a, b, D, 0, 1, a, 8) == LQ_E_ARG);
}

/* A rotation in 5 dims as likely as any other: fourth moments of its numbers. */
static void test_rotations(void)
{
    enum { D = 5 };
    int trials = quick ? 4000 : 40000;
    for (int i = 0; i < D; i += 2) {
        double a[D] = {0}, b[D] = {0}, sum = 0, squares = 0;
        lq_isotropy r;
        a[i] = 1;
        b[D - 1 - i] = 1;
        for (int n = 0; n < trials; n++) {
            CHECK(isotropy(&r, a, b, D, 1, (uint64_t)n) == LQ_OK);
            sum += r.most / trials;
            squares += r.most * r.most / trials;
        }
        CHECK(near_to(sum, 1.0 / D, quick ? 0.01 : 0.004));
        CHECK(near_to(squares, 3.0 / (D * (D + 2)), quick ? 0.01 : 0.004));
    }
}

/* ---- blocks of like dims ---- */
static void test_caba(void)
{
    enum { N = 64, D = 32 };
    float x[N * D];
    size_t order[D];
    double squares[D];
    uint8_t has[D] = {0};
    lq_caba r;
    for (int i = 0; i < N * D; i++) { /* four sizes, one beside the other */
        x[i] = (float)(ldexp(1, 2 * (i % D % 4)) * (i / D % 2 ? 1 : -1));
    }
    CHECK(lq_caba_of(&r, order, squares, x, N, D, 8) == LQ_OK);
    /* in each block 1, 16, 256, 4096 twice: 1092.25 / 64 */
    CHECK(near_to(r.mean_before, 17.06640625, 1e-9) && near_to(r.most_before, 17.06640625, 1e-9));
    CHECK(near_to(r.mean_after, 1, 1e-9) && near_to(r.most_after, 1, 1e-9));
    for (int i = 0; i < D; i++) {
        has[order[i]] = 1;
        CHECK(i == 0 || squares[order[i]] <= squares[order[i - 1]]);
        CHECK(near_to(squares[i], pow(16, i % 4), 1e-9));
    }
    CHECK(memchr(has, 0, D) == NULL);
    CHECK(lq_caba_of(&r, order, squares, x, N, D, 5) == LQ_E_ARG);
    CHECK(lq_caba_of(&r, order, squares, x, 0, D, 8) == LQ_E_ARG);
    CHECK(lq_caba_of(&r, NULL, squares, x, N, D, 8) == LQ_E_ARG);
    x[9] = NAN;
    CHECK(lq_caba_of(&r, order, squares, x, N, D, 8) == LQ_E_DATA);
}

/* ---- dither ---- */
static const int cells[4] = {LQ_Z, LQ_D4, LQ_E8, LQ_LEECH};

static lq_dither dither_of(int cell, float step, int kind, uint64_t seed)
{
    lq_dither d;
    memset(&d, 0, sizeof d);
    d.cell = cell;
    d.step = step;
    d.kind = kind;
    d.seed = seed;
    return d;
}

static void through(float *dst, const float *src, size_t count, const lq_dither *d)
{
    int16_t points[24 * 64];
    for (size_t i = 0; i < count; i += 24 * 64) {
        lq_dither part = *d;
        size_t some = count - i < 24 * 64 ? count - i : 24 * 64;
        part.first += i;
        CHECK(lq_dither_nearest(points, src + i, some, &part) == LQ_OK);
        CHECK(lq_dither_point(dst + i, points, some, &part) == LQ_OK);
    }
}

/* The dither is in its cell, its covariance G I within 2 %; and so is the error of any number. */
static void test_lemma(void)
{
    size_t count = (quick ? 2000 : 20000) * 24;
    float *u = (float *)source_alloc(count * sizeof *u);
    float *x = (float *)source_alloc(count * sizeof *x);
    float *y = (float *)source_alloc(count * sizeof *y);
    for (int c = 0; c < 4; c++) {
        size_t n = lq_cell_dims(cells[c]);
        double g = lq_cell_moment(cells[c]);
        for (int which = 0; which < 4; which++) { /* the dither; errors of 0, a deep hole, any */
            lq_dither d = dither_of(cells[c], which > 1 ? 0.5f : 1.0f, LQ_DITHER_SUBTRACTIVE, 3);
            double moment[24 * 24] = {0}, cross = 0, means = 0;
            double step = (double)d.step;
            for (size_t i = 0; i < count; i++) {
                double hole = i % n == 0 ? 1 : 0; /* of D4 and E8; half of Z's */
                x[i] = which == 3 ? (float)(5 * source_gauss()) : (float)(which - 1) * (float)hole;
                x[i] *= which == 3 ? 1.0f : c ? 0.5f : 0.25f;
            }
            d.seed = (uint64_t)which;
            CHECK(lq_dither_values(u, count, &d) == LQ_OK);
            if (which) through(y, x, count, &d);
            for (size_t i = 0; i < count; i++) {
                if (which) u[i] = (float)((double)y[i] - (double)x[i]) / d.step;
                means += (double)u[i] / (double)count;
                cross += (double)u[i] * (double)x[i] / (double)count;
            }
            for (size_t b = 0; b < count; b += n) {
                for (size_t i = 0; i < n; i++) {
                    for (size_t j = 0; j < n; j++) {
                        moment[i * n + j] += (double)u[b + i] * (double)u[b + j];
                    }
                }
            }
            double trace = 0;
            double blocks = (double)(count / n);
            double slack = quick ? 3 : 1;
            for (size_t i = 0; i < n; i++) {
                for (size_t j = 0; j < n; j++) {
                    double want = i == j ? g : 0;
                    double sd = g / sqrt(blocks); /* about, of one number of the covariance */
                    CHECK(near_to(moment[i * n + j] / blocks, want, 5 * sd));
                }
                trace += moment[i * n + i] / blocks / (double)n;
            }
            CHECK(near_to(trace / g, 1, 0.007 * slack));
            CHECK(near_to(means, 0, 0.003 * slack));
            CHECK(near_to(cross / step, 0, 0.02 * slack));
        }
    }
    free(u);
    free(x);
    free(y);
}

/* Theorem B (research/01, case 13; seed 000: 5,000 trials): the variance of the sum of s'e is the
   sum of the variances, 1 +- 0.06, its mean is within 0.1 deviations of 0. Without dither the sum
   is the same in every trial. */
static void test_theorem_b(void)
{
    enum { N = 4, D = 24 };
    int trials = quick ? 1000 : 5000;
    double width = quick ? 0.14 : 0.06;
    for (int c = 0; c < 4; c++) {
        float s[N * D], x[N * D], y[N * D], variances[N];
        float step[N];
        double want = 0, sum = 0, squares = 0, plain = 0;
        fill(s, N * D, 1);
        fill(x, N * D, 2);
        for (int t = 0; t < N; t++) { /* as the seed has it: the root mean square of the token */
            double energy = 0;
            for (int i = 0; i < D; i++) {
                energy += pow((double)x[t * D + i], 2) / D;
            }
            step[t] = (float)sqrt(energy);
            variances[t] = (float)(lq_cell_moment(cells[c]) * energy);
        }
        CHECK(lq_variance_sum(&want, s, variances, N, D) == LQ_OK);
        for (int n = -2; n < trials; n++) { /* two without dither */
            double first = 0;
            for (int t = 0; t < N; t++) {
                int kind = n < 0 ? 0 : LQ_DITHER_SUBTRACTIVE;
                lq_dither d = dither_of(cells[c], step[t], kind, (uint64_t)(n + 2) * N + 1);
                d.first = (uint64_t)t * D;
                through(y + t * D, x + t * D, D, &d);
                for (int i = t * D; i < t * D + D; i++) {
                    first += (double)s[i] * ((double)y[i] - (double)x[i]);
                }
            }
            if (n == -2) plain = first;
            CHECK(n != -1 || near_to(first, plain, 0));
            sum += n < 0 ? 0 : first;
            squares += n < 0 ? 0 : first * first;
        }
        double mean = sum / trials;
        double variance = squares / trials - mean * mean;
        CHECK(near_to(variance / want, 1, width));
        CHECK(fabs(mean) / sqrt(variance) < 0.1);
    }
}

/* Dither that stays: the mean error is 0. Of Z: one, twice 1/12 on average and nothing at 0; two,
   3/12 everywhere. Of lattices likewise, by their own moments. */
static void test_added(void)
{
    size_t count = (quick ? 1000 : 10000) * 24;
    float *x = (float *)source_alloc(count * sizeof *x);
    float *y = (float *)source_alloc(count * sizeof *y);
    for (int c = 0; c < 4; c++) {
        double g = lq_cell_moment(cells[c]);
        for (int kind = LQ_DITHER_ADDED; kind <= LQ_DITHER_TWICE; kind++) {
            double error[3];
            for (int which = 0; which < 3; which++) { /* 0, what the dither is like, halves */
                lq_dither d = dither_of(cells[c], 1, 0, 99);
                double squares = 0, means = 0;
                CHECK(lq_dither_values(x, count, &d) == LQ_OK && near_to((double)x[7], 0, 0));
                d.kind = LQ_DITHER_SUBTRACTIVE;
                if (which == 1) CHECK(lq_dither_values(x, count, &d) == LQ_OK);
                for (size_t i = 0; which == 2 && i < count; i++) {
                    x[i] = i % lq_cell_dims(cells[c]) ? 0.0f : 0.5f;
                }
                d.seed = 5;
                d.kind = kind;
                through(y, x, count, &d);
                for (size_t i = 0; i < count; i++) {
                    double e = (double)y[i] - (double)x[i];
                    squares += e * e / (double)count;
                    means += e / (double)count;
                }
                error[which] = squares / g;
                CHECK(near_to(means, 0, quick ? 0.02 : 0.006));
            }
            if (kind == LQ_DITHER_ADDED) {
                CHECK(near_to(error[0], 0, 0.005)); /* numbers are rounded to 2^-12 first */
                CHECK(near_to(error[1], 2, quick ? 0.15 : 0.05));
                CHECK(c || near_to(error[2], 3, 1e-6));
            } else {
                for (int i = 0; i < 3; i++) {
                    CHECK(near_to(error[i], 3, quick ? 0.25 : 0.08));
                }
            }
        }
    }
    free(x);
    free(y);
}

/* Any run by itself; one hash on every machine; what is refused. */
static void test_dither_same(void)
{
    enum { COUNT = 24 * 40 };
    float x[COUNT], u[COUNT], part[48];
    int16_t points[COUNT], some[48];
    uint32_t hash = 0;
    source_seed = 7;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)((int)(source_u64() >> 50) - 8192) / 1024.0f;
    }
    for (int c = 0; c < 4; c++) {
        for (int kind = 0; kind <= LQ_DITHER_TWICE; kind++) {
            lq_dither d = dither_of(cells[c], 0.37f, kind, 1234567890123u);
            CHECK(lq_dither_nearest(points, x, COUNT, &d) == LQ_OK);
            CHECK(lq_dither_values(u, COUNT, &d) == LQ_OK);
            for (int i = 0; i < COUNT; i++) {
                uint8_t bytes[2] = {(uint8_t)((uint16_t)points[i] & 255),
                                    (uint8_t)((uint16_t)points[i] >> 8)};
                hash = lq_xxh32(bytes, 2, hash);
            }
            d.first = 24 * 7;
            CHECK(lq_dither_nearest(some, x + 24 * 7, 48, &d) == LQ_OK);
            CHECK(memcmp(some, points + 24 * 7, sizeof some) == 0);
            CHECK(lq_dither_values(part, 48, &d) == LQ_OK);
            CHECK(memcmp(part, u + 24 * 7, sizeof part) == 0);
        }
    }
    if (!CHECK(hash == 0xa639627fu)) fprintf(stderr, "hash %08x\n", (unsigned)hash);
    lq_dither d = dither_of(LQ_E8, 1, LQ_DITHER_SUBTRACTIVE, 1);
    CHECK(lq_dither_nearest(points, x, 12, &d) == LQ_E_ARG);
    CHECK(lq_dither_nearest(points, NULL, 8, &d) == LQ_E_ARG);
    CHECK(lq_dither_nearest(NULL, NULL, 0, &d) == LQ_OK);
    CHECK(lq_dither_nearest(points, x, 8, NULL) == LQ_E_ARG);
    CHECK(lq_dither_point(NULL, points, 8, &d) == LQ_E_ARG);
    CHECK(lq_dither_values(NULL, 8, &d) == LQ_E_ARG);
    d.first = 4;
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_ARG);
    d.first = 0;
    d.kind = 4;
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_ARG);
    d.kind = 1;
    d.cell = LQ_E8_RELAXED; /* no lattice */
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_ARG && lq_cell_dims(d.cell) == 0);
    d.cell = LQ_E8;
    d.step = 0;
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_ARG);
    d.step = 1;
    x[2] = NAN;
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_DATA);
    x[2] = 1e6f;
    CHECK(lq_dither_nearest(points, x, 8, &d) == LQ_E_RANGE);
    double sum;
    float bad = -1;
    CHECK(lq_variance_sum(&sum, x, &bad, 1, 4) == LQ_E_DATA);
    CHECK(lq_variance_sum(&sum, x, NULL, 1, 4) == LQ_E_ARG);
    CHECK(lq_variance_sum(&sum, x, u, 0, 4) == LQ_E_ARG);
    CHECK(near_to(lq_cell_moment(0), 0, 0));
}

/* research/01, case 1: E8 at the step of theorem 2: squared error times 4^b is 2 pi e G, 1.2245. */
static void test_case_1(void)
{
    static const double bits[5] = {2, 3, 3.5, 4, 6};
    size_t count = quick ? 40000 : 800000;
    float *x = (float *)source_alloc(count * sizeof *x);
    float *y = (float *)source_alloc(count * sizeof *y);
    int16_t *points = (int16_t *)source_alloc(count * sizeof *points);
    double unit = 2 * SOURCE_PI * exp(1) * lq_cell_moment(LQ_E8);
    fill(x, count, 1);
    CHECK(near_to(unit, 1.2243, 0.0002));
    for (int i = 0; i < 5; i++) {
        double error = 0;
        float step = (float)sqrt(2 * SOURCE_PI * exp(1) * pow(4, -bits[i]));
        CHECK(lq_lattice_nearest(points, x, count, step, LQ_E8) == LQ_OK);
        CHECK(lq_lattice_point(y, points, count, step, LQ_E8) == LQ_OK);
        for (size_t k = 0; k < count; k++) {
            error += pow((double)y[k] - (double)x[k], 2) / (double)count;
        }
        CHECK(near_to(error * pow(4, bits[i]), 1.2245, quick ? 0.015 : 0.004));
    }
    free(x);
    free(y);
    free(points);
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    test_etas();
    test_theorem_1();
    test_keys();
    test_sense_bad();
    test_directional();
    test_noise();
    test_theorem_c();
    test_rotations();
    test_caba();
    test_lemma();
    test_theorem_b();
    test_added();
    test_dither_same();
    test_case_1();
    return check_report("test_distortion");
}
