/* cc -std=c99 -O2 tests/test_profile.c -o test_profile -lm    Profiles: geometry, fitting against double,
   the file form and hostile files. `test_profile quick` mutates less. */
#include "header.h"

#include "check.h"
#include "source.h"

enum { ROWS_MAX = 1200, HEADER = 20 };

static int quick;
static int levels;

/* ---- geometry ---- */
static void test_geometry(void)
{
    static uint32_t many[4097];
    uint32_t dims[3] = {16, 8, 4};
    float freqs[4] = {1, 0.5f, 0.25f, 0.125f};
    lq_rope rope = {NULL, 4, 0, 0};
    lq_geometry g;
    lq_geometry bad;
    memset(&g, 0, sizeof g);
    rope.freqs = freqs;
    g.stream = LQ_K;
    g.slice_count = 3;
    g.slice_dims = dims;
    CHECK(lq_geometry_dims(&g) == 28 && lq_geometry_rows(&g) == 28);
    g.rope = &rope;
    CHECK(lq_geometry_rows(&g) == 28);
    g.stream = LQ_V;
    CHECK(lq_geometry_dims(&g) == 28 && lq_geometry_rows(&g) == 31);
    g.stream = LQ_K;
    CHECK(lq_geometry_dims(NULL) == 0);
#define BAD(field, value)                   \
    do {                                    \
        bad = g;                            \
        bad.field = (value);                \
        CHECK(lq_geometry_rows(&bad) == 0); \
        CHECK(lq_fit_bytes(&bad) == 0);     \
    } while (0)
    BAD(stream, 0);
    BAD(stream, 3);
    BAD(basis, 4);
    BAD(slice_count, 0);
    BAD(slice_count, 4097);
    BAD(slice_dims, NULL);
    dims[2] = 0;
    BAD(basis, 0);
    dims[2] = 2; /* fewer than rotary_dims */
    BAD(basis, 0);
    dims[2] = 16384 - 24;
    bad = g;
    CHECK(lq_geometry_rows(&bad) == 16384);
    dims[2]++;
    BAD(basis, 0);
    dims[2] = 0xffffffffu;
    BAD(basis, 0);
    dims[2] = 4;
    rope.rotary_dims = 3;
    BAD(basis, 0);
    rope.rotary_dims = 4;
#undef BAD
    for (int i = 0; i < 4097; i++) {
        many[i] = 1;
    }
    memset(&bad, 0, sizeof bad);
    bad.stream = LQ_V;
    bad.slice_dims = many;
    bad.slice_count = 4096;
    CHECK(lq_geometry_rows(&bad) == 8192);
    CHECK(lq_fit_workspace_bytes(&bad) > 0);
}

/* ---- a group to fit ---- */
typedef struct group {
    lq_geometry geometry;
    uint32_t dims[2];
    float freqs[8];
    lq_rope rope;
    lq_positions positions;
    float *x[2];
    double mean[2][48];
    size_t tokens;
} group;

static void group_make(group *g, uint32_t stream, uint32_t basis, int with_rope, size_t tokens)
{
    memset(g, 0, sizeof *g);
    g->dims[0] = 48;
    g->dims[1] = 20;
    g->geometry.stream = stream;
    g->geometry.basis = basis;
    g->geometry.slice_count = 2;
    g->geometry.slice_dims = g->dims;
    g->tokens = tokens;
    g->positions.first = 77;
    for (int i = 0; i < 8; i++) {
        g->freqs[i] = (float)pow(0.3, i);
    }
    g->rope.freqs = g->freqs;
    g->rope.rotary_dims = 16;
    g->rope.magnitude = 1.3f;
    g->geometry.rope = with_rope ? &g->rope : NULL;
    for (int s = 0; s < 2; s++) {
        g->x[s] = (float *)source_alloc(tokens * g->dims[s] * 4);
        for (size_t d = 0; d < g->dims[s]; d++) {
            double mean = d % 3 ? 0 : 4 * source_gauss();
            double sigma = pow(2, 6 * source_uniform() - 4);
            for (size_t t = 0; t < tokens; t++) {
                g->x[s][t * g->dims[s] + d] = (float)(sigma * source_gauss());
            }
            g->mean[s][d] = mean;
        }
        for (size_t t = 0; t < tokens; t++) {
            double gain = stream == LQ_V ? pow(2, 4 * source_uniform()) : 1;
            for (size_t d = 0; d < g->dims[s]; d++) {
                float *x = g->x[s] + t * g->dims[s] + d;
                *x = (float)(g->mean[s][d] + gain * (double)*x);
            }
        }
    }
}

static void group_free(group *g)
{
    free(g->x[0]);
    free(g->x[1]);
}

static int add(lq_fit *fit, const group *g, size_t first, size_t tokens)
{
    size_t bytes = lq_fit_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[2];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions p = g->positions;
    slices[0] = g->x[0] + first * g->dims[0];
    slices[1] = g->x[1] + first * g->dims[1];
    v.slices = slices;
    p.first += (int64_t)first;
    int status = lq_fit_add(fit, &v, &p, tokens, workspace, bytes);
    free(workspace);
    return status;
}

/* The mean of the first `count` tokens of a channel. */
static double mean_of(const group *g, int s, size_t d, size_t count)
{
    double sum = 0;
    for (size_t t = 0; t < count; t++) {
        sum += (double)g->x[s][t * g->dims[s] + d];
    }
    return sum / (double)count;
}

/* Coefficients of a token in double; V's less the mean of the first page, over the gain of what
   that leaves, or of the vector if it is clearly smaller. gains (2) in quarter octaves. */
static void reference(const group *g, double *y, double *gains, size_t t)
{
    double *at = y;
    for (int s = 0; s < 2; s++) {
        size_t dims = g->dims[s];
        double whole = 0;
        double sum = 0;
        for (size_t d = 0; d < dims; d++) {
            at[d] = (double)g->x[s][t * dims + d];
            whole += at[d] * at[d];
            at[d] -= g->geometry.stream == LQ_V ? mean_of(g, s, d, 64) : 0;
            sum += at[d] * at[d];
        }
        gains[s] = floor(2 * log2(sum / (double)dims) + 0.5);
        whole = floor(2 * log2(whole / (double)dims) + 0.5);
        gains[s] = whole <= gains[s] - 2 ? fmax(whole, gains[s] - 8) : gains[s];
        for (size_t d = 0; d < 8 && g->geometry.rope; d++) {
            source_rope_pair(at + d, at + d + 8, (double)(g->positions.first + (int64_t)t),
                             (double)g->freqs[d], (double)g->rope.magnitude, 1);
        }
        if (g->geometry.basis == LQ_BASIS_HADAMARD) source_rotate(at, dims, 0);
        for (size_t d = 0; d < dims && g->geometry.stream == LQ_V; d++) {
            at[d] /= pow(2, gains[s] / 4);
        }
        at += dims;
    }
}

/* A code within one of the true one; or the variance within what squares in q4 leave beside a large
   mean m: rounding errors of 1 / (16 sqrt(12)) steps, times 2 m, over sqrt(tokens), at four sigma.
   */
static int sigma_fits(int code, double sigma, double mean, double unit, size_t tokens)
{
    double m = fabs(mean) / unit;
    double variance = sigma * sigma / (unit * unit);
    double slack = 2 * m * (4 / (16 * sqrt(12.0 * (double)tokens)) + 1.0 / 8192) + 0.001;
    double coded = code == LQ_SIGMA_DEAD ? 0 : pow(2, code / 8.0) / (unit * unit);
    return (code != LQ_SIGMA_DEAD && fabs(code - 16 * log2(sigma)) <= 1) ||
           fabs(coded - variance) <= slack + 0.09 * variance;
}

/* V: the channels' means, in units that follow the gain; deviations and gains are scaled so that a
   slice keeps its squares. sum, squares: of the rows. */
static int values_fit(const group *g, const lq_profile *p, const double *sum, const double *squares)
{
    double n = (double)g->tokens;
    size_t row = 2;
    int bad = 0;
    for (int s = 0; s < 2; s++) {
        double unit = pow(2, p->mean_exponent + (p->mean[s] >> 2));
        double whole = 0;
        double left = 0;
        for (size_t d = row; d < row + g->dims[s]; d++) {
            whole += squares[d] / n;
            left += squares[d] / n - sum[d] / n * (sum[d] / n);
        }
        bad += !(fabs(p->mean[s] - sum[s] / n - 2 * log2(left / whole)) <= 1.01);
        for (size_t d = 0; d < g->dims[s]; d++, row++) {
            double sigma = sqrt((squares[row] / n - sum[row] / n * (sum[row] / n)) * whole / left);
            bad += !(fabs(p->mean[row] * unit - mean_of(g, s, d, g->tokens)) <= 0.52 * unit);
            bad += !(fabs(p->sigma[row] - 16 * log2(sigma)) <= 1.1);
        }
    }
    return bad;
}

/* Means within a unit, deviations within one code (1/16 octave) of double. */
static void check_fit(const group *g, const lq_profile *p, float step)
{
    static double sum[ROWS_MAX];
    static double squares[ROWS_MAX];
    double unit = pow(2, p->mean_exponent);
    size_t lead = g->geometry.stream == LQ_V ? 2 : 0;
    size_t rows = lq_geometry_rows(&g->geometry);
    int bad = 0;
    memset(sum, 0, sizeof sum);
    memset(squares, 0, sizeof squares);
    double y[68];
    double gains[2];
    for (size_t t = 0; t < g->tokens; t++) {
        reference(g, y, gains, t);
        for (size_t i = 0; i < rows; i++) {
            double v = i < lead ? gains[i] : y[i - lead];
            sum[i] += v;
            squares[i] += v * v;
        }
    }
    CHECK(p->stream == g->geometry.stream && p->dims == 68 && p->slice_count == 2);
    CHECK(p->basis == (g->geometry.basis ? g->geometry.basis : (uint32_t)LQ_BASIS_IDENTITY));
    CHECK(unit <= (double)step / 4 &&
          unit > (double)step / 8); /* quarters of the step's power of two */
    bad = lead ? values_fit(g, p, sum, squares) : 0;
    for (size_t i = 0; i < (lead ? lead : rows); i++) {
        double mean = sum[i] / (double)g->tokens;
        double sigma = sqrt(squares[i] / (double)g->tokens - mean * mean);
        bad += !(i < lead || fabs(p->mean[i] * unit - mean) <= 0.51 * unit + 0.002 * (double)step);
        bad += !sigma_fits(p->sigma[i], sigma, mean, i < lead ? 1 : (double)step, g->tokens);
    }
    CHECK(bad == 0);
}

/* The profile of some tokens; mem has room for 2 * 70 numbers. */
static size_t profile_file(const lq_fit *fit, lq_profile *p, int16_t *mem, uint8_t *file)
{
    size_t written = 0;
    CHECK(lq_fit_profile(fit, p, mem, lq_profile_bytes(70)) == LQ_OK);
    CHECK(lq_profile_save(file, lq_profile_save_bound(70), &written, p) == LQ_OK);
    CHECK(written <= lq_profile_save_bound(70));
    return written;
}

static void test_fit(uint32_t stream, uint32_t basis, int with_rope, float step)
{
    group g;
    uint8_t *file = (uint8_t *)source_alloc(lq_profile_save_bound(70));
    uint8_t *other = (uint8_t *)source_alloc(lq_profile_save_bound(70));
    group_make(&g, stream, basis, with_rope, 333);
    size_t bytes = lq_fit_bytes(&g.geometry);
    void *fit_mem = source_alloc(bytes);
    lq_fit fit;
    CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, step) == LQ_OK);
    lq_profile p;
    int16_t mem[2 * 70 + 1];
    CHECK(lq_fit_profile(&fit, &p, mem, sizeof mem) == LQ_E_ARG); /* no tokens */
    CHECK(add(&fit, &g, 0, g.tokens) == LQ_OK && fit.tokens == g.tokens);
    size_t count = profile_file(&fit, &p, mem, file);
    check_fit(&g, &p, step);
    for (int level = 0; level <= levels; level++) { /* other chunks, other order: the same bytes */
        size_t begin = stream == LQ_V ? 64 : 0; /* V's first page stays the first */
        size_t cut = begin + 1 + source_below(330 - 64);
        lq_cpu_limit(level);
        CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, step) == LQ_OK);
        CHECK(add(&fit, &g, 0, begin) == LQ_OK);
        CHECK(add(&fit, &g, cut, g.tokens - cut) == LQ_OK);
        for (size_t n = cut; n > begin;) {
            size_t part = 1 + source_below((uint32_t)(n - begin));
            n -= part;
            CHECK(add(&fit, &g, n, part) == LQ_OK);
        }
        CHECK(add(&fit, &g, 0, 0) == LQ_OK && fit.tokens == g.tokens);
        CHECK(profile_file(&fit, &p, mem, other) == count && memcmp(file, other, count) == 0);
    }
    lq_cpu_limit(-1);
    free(file);
    free(other);
    free(fit_mem);
    group_free(&g);
}

static void test_fit_errors(void)
{
    group g;
    lq_fit fit;
    lq_fit saved;
    lq_profile p;
    lq_vectors v = {NULL, 0, LQ_F32};
    const void *slices[2];
    int16_t mem[2 * 70 + 1];
    int64_t fit_mem[4 * 70 + 1];
    int64_t saved_mem[4 * 70 + 1];
    size_t bytes;
    size_t workspace_bytes;
    void *workspace;
    group_make(&g, LQ_K, 0, 1, 100);
    bytes = lq_fit_bytes(&g.geometry);
    workspace_bytes = lq_fit_workspace_bytes(&g.geometry);
    workspace = source_alloc(workspace_bytes);
    slices[0] = g.x[0];
    slices[1] = g.x[1];
    v.slices = slices;
    CHECK(bytes <= sizeof fit_mem && lq_fit_bytes(NULL) == 0 && lq_fit_workspace_bytes(NULL) == 0);
    CHECK(lq_fit_init(NULL, fit_mem, bytes, &g.geometry, 1) == LQ_E_ARG);
    CHECK(lq_fit_init(&fit, fit_mem, bytes, NULL, 1) == LQ_E_ARG);
    CHECK(lq_fit_init(&fit, NULL, bytes, &g.geometry, 1) == LQ_E_SPACE);
    CHECK(lq_fit_init(&fit, fit_mem, bytes - 1, &g.geometry, 1) == LQ_E_SPACE);
    CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, 0) == LQ_E_ARG);
    CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, -1) == LQ_E_ARG);
    CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, lq_f32_from_f16(0x7e00)) == LQ_E_ARG);
    CHECK(lq_fit_init(&fit, fit_mem, bytes, &g.geometry, 0.01f) == LQ_OK);
    CHECK(add(&fit, &g, 0, 50) == LQ_OK);
    memcpy(saved_mem, fit_mem, bytes);
    saved = fit;
#define ADD(expected, f, from, where, space, space_bytes) \
    CHECK(lq_fit_add(f, from, where, 100, space, space_bytes) == (expected))
    ADD(LQ_E_ARG, NULL, &v, &g.positions, workspace, workspace_bytes);
    ADD(LQ_E_ARG, &fit, NULL, &g.positions, workspace, workspace_bytes);
    ADD(LQ_E_ARG, &fit, &v, NULL, workspace, workspace_bytes);
    ADD(LQ_E_ARG, &fit, &v, &g.positions, NULL, workspace_bytes);
    ADD(LQ_E_SPACE, &fit, &v, &g.positions, workspace, workspace_bytes - 1);
    v.type = 0;
    ADD(LQ_E_ARG, &fit, &v, &g.positions, workspace, workspace_bytes);
    v.type = LQ_F32;
    v.slices = NULL;
    ADD(LQ_E_ARG, &fit, &v, &g.positions, workspace, workspace_bytes);
    v.slices = slices;
    for (size_t i = 0; i < 40; i++) { /* also in the last token: then nothing at all was added */
        float *x =
            g.x[i & 1] + (i < 2 ? 100 * g.dims[i & 1] - 1 : source_below(100 * g.dims[i & 1]));
        float old = *x;
        *x = lq_f32_from_f16(0x7e00);
        ADD(LQ_E_DATA, &fit, &v, &g.positions, workspace, workspace_bytes);
        *x = lq_f32_from_f16(0xfc00);
        ADD(LQ_E_DATA, &fit, &v, &g.positions, workspace, workspace_bytes);
        *x = 700; /* 70,000 steps; 41 is far, too, but K that its mean leaves may be so far */
        ADD(LQ_E_RANGE, &fit, &v, &g.positions, workspace, workspace_bytes);
        *x = old;
    }
    CHECK(saved.tokens == fit.tokens && memcmp(saved_mem, fit_mem, bytes) == 0);
    CHECK(lq_fit_profile(NULL, &p, mem, sizeof mem) == LQ_E_ARG);
    CHECK(lq_fit_profile(&fit, NULL, mem, sizeof mem) == LQ_E_ARG);
    CHECK(lq_fit_profile(&fit, &p, NULL, sizeof mem) == LQ_E_SPACE);
    CHECK(lq_fit_profile(&fit, &p, mem, lq_profile_bytes(68) - 1) == LQ_E_SPACE);
    CHECK(lq_fit_profile(&fit, &p, mem, lq_profile_bytes(68)) == LQ_OK);
#undef ADD
    free(workspace);
    group_free(&g);
}

/* Constant coefficients are dead, and a constant's mean is kept. */
static void test_dead(void)
{
    group g;
    group_make(&g, LQ_K, 0, 0, 200);
    for (size_t t = 0; t < 200; t++) {
        g.x[0][t * 48 + 5] = 0;
        g.x[0][t * 48 + 6] = 3.0f;
        g.x[1][t * 20 + 19] = -1.5f;
    }
    lq_fit fit;
    int64_t fit_mem[4 * 70 + 1];
    CHECK(lq_fit_init(&fit, fit_mem, sizeof fit_mem, &g.geometry, 0.5f) == LQ_OK);
    CHECK(add(&fit, &g, 0, 200) == LQ_OK);
    lq_profile p;
    int16_t mem[2 * 70 + 1];
    CHECK(lq_fit_profile(&fit, &p, mem, sizeof mem) == LQ_OK);
    CHECK(p.sigma[5] == LQ_SIGMA_DEAD && p.mean[5] == 0);
    CHECK(p.sigma[6] == LQ_SIGMA_DEAD && p.mean[6] * pow(2, p.mean_exponent) > 2.99 &&
          p.mean[6] * pow(2, p.mean_exponent) < 3.01);
    CHECK(p.sigma[67] == LQ_SIGMA_DEAD && p.mean[67] * pow(2, p.mean_exponent) < -1.49);
    CHECK(p.sigma[7] != LQ_SIGMA_DEAD);
    group_free(&g);
}

static void test_due(void)
{
    CHECK(!lq_fit_due(0) && lq_fit_due((uint64_t)1 << 63) && !lq_fit_due(UINT64_MAX));
    for (uint64_t pages = 1; pages < 5000; pages++) {
        uint64_t n = 1;
        while (n < pages) {
            n *= 2;
        }
        CHECK((lq_fit_due(pages) != 0) == (n == pages));
    }
}

/* ---- the file form ---- */
static int same(const lq_profile *a, const lq_profile *b)
{
    size_t rows = a->dims + a->gains;
    return a->gains == b->gains && a->stream == b->stream && a->basis == b->basis && a->slice_count == b->slice_count &&
           a->dims == b->dims && a->mean_exponent == b->mean_exponent &&
           memcmp(a->mean, b->mean, rows * 2) == 0 && memcmp(a->sigma, b->sigma, rows * 2) == 0;
}

/* Loads a copy of exact size into memory of exact size. */
static int load(lq_profile *p, int16_t **mem, const uint8_t *file, size_t count)
{
    uint8_t *copy = source_copy(file, count);
    size_t needed = 12345;
    *mem = NULL;
    memset(p, 0xee, sizeof *p);
    int status = lq_profile_load(p, NULL, 0, &needed, copy, count);
    CHECK(status != LQ_OK);
    if (status == LQ_E_SPACE) {
        CHECK(needed > 0 && needed <= lq_profile_bytes(16384 + 4096));
        *mem = (int16_t *)source_alloc(needed);
        CHECK(lq_profile_load(p, *mem, needed - 1, &needed, copy, count) == LQ_E_SPACE);
        status = lq_profile_load(p, *mem, needed, &needed, copy, count);
    } else {
        CHECK(needed == 0);
    }
    CHECK(status == LQ_OK || p->dims == 0xeeeeeeeeu); /* untouched on error */
    free(copy);
    return status;
}

static void profile_random(lq_profile *p, int16_t *mem, int form)
{
    memset(p, 0, sizeof *p);
    p->stream = 1 + source_below(2);
    p->basis = 1 + source_below(2);
    p->slice_count = 1 + source_below(20);
    p->dims = p->slice_count + source_below(300);
    p->mean_exponent = (int32_t)source_below(256) - 128;
    p->gains = p->stream == LQ_V ? p->slice_count : 0;
    size_t rows = p->dims + p->gains;
    p->mean = mem;
    p->sigma = mem + rows;
    for (size_t i = 0; i < rows; i++) {
        p->mean[i] = (int16_t)(form == 0   ? (int)(10 * source_gauss())
                               : form == 1 ? (int)source_below(65535) - 32767
                                           : (i & 1 ? 32767 : -32767));
        p->sigma[i] = (int16_t)(form == 0   ? -30 + (int)(8 * source_gauss())
                                : form == 1 ? (int)source_below(8193) - 4096
                                            : (i & 1 ? 4096 : -4096));
        if (source_below(10) == 0) p->sigma[i] = LQ_SIGMA_DEAD;
    }
}

static void test_save(void)
{
    static int16_t mem[2 * ROWS_MAX + 1];
    for (int n = 0; n < 300; n++) {
        lq_profile p;
        int16_t *other = NULL;
        size_t count = 99;
        profile_random(&p, mem, n % 3);
        size_t rows = p.dims + p.gains;
        size_t bound = lq_profile_save_bound(rows);
        uint8_t *file = (uint8_t *)source_alloc(bound);
        CHECK(lq_profile_save(file, bound, &count, &p) == LQ_OK && count <= bound &&
              count > HEADER);
        lq_profile q;
        CHECK(load(&q, &other, file, count) == LQ_OK && same(&p, &q));
        /* too little room: nothing behind it is touched */
        size_t room = source_below((uint32_t)count);
        free(file);
        file = (uint8_t *)source_alloc(room);
        CHECK(lq_profile_save(file, room, &count, &p) == LQ_E_SPACE && count == 0);
        free(file);
        free(other);
    }
}

static void test_save_errors(void)
{
    static int16_t mem[2 * ROWS_MAX + 1];
    static uint8_t file[10000];
    lq_profile p;
    lq_profile bad;
    size_t count;
    size_t rows = 0;
    int16_t saved;
    profile_random(&p, mem, 0);
    CHECK(lq_profile_save(file, sizeof file, NULL, &p) == LQ_E_ARG);
#define BAD(field, value)                                                                  \
    do {                                                                                   \
        bad = p;                                                                           \
        bad.field = (value);                                                               \
        count = 7;                                                                         \
        CHECK(lq_profile_save(file, sizeof file, &count, &bad) == LQ_E_ARG && count == 0); \
    } while (0)
    count = 7;
    CHECK(lq_profile_save(NULL, sizeof file, &count, &p) == LQ_E_ARG && count == 0);
    CHECK(lq_profile_save(file, sizeof file, &count, NULL) == LQ_E_ARG);
    BAD(stream, 0);
    BAD(stream, 3);
    BAD(basis, 0);
    BAD(basis, 4);
    BAD(slice_count, 0);
    BAD(slice_count, 4097);
    BAD(dims, 0);
    BAD(dims, 16385);
    BAD(mean_exponent, 128);
    BAD(mean_exponent, -129);
    BAD(mean, NULL);
    BAD(sigma, NULL);
    saved = p.sigma[0];
    p.sigma[0] = 4097;
    BAD(basis, 1);
    p.sigma[0] = -4097;
    BAD(basis, 1);
    p.sigma[0] = saved;
    CHECK(lq_profile_save(file, sizeof file, &count, &p) == LQ_OK);
    CHECK(lq_profile_load(NULL, mem, sizeof mem, &rows, file, count) == LQ_E_ARG);
    CHECK(lq_profile_load(&bad, mem, sizeof mem, NULL, file, count) == LQ_E_ARG);
    CHECK(lq_profile_load(&bad, mem, sizeof mem, &rows, NULL, count) == LQ_E_ARG);
#undef BAD
}

static void test_init(void)
{
    group g;
    group_make(&g, LQ_V, LQ_BASIS_HADAMARD, 1, 1);
    lq_profile p;
    int16_t mem[2 * 70 + 1];
    CHECK(lq_profile_init(&p, mem, sizeof mem, &g.geometry, 2.0f) == LQ_OK);
    CHECK(p.stream == LQ_V && p.basis == LQ_BASIS_HADAMARD && p.slice_count == 2 && p.dims == 68);
    for (size_t i = 0; i < 70; i++) { /* gains: one octave, that is 4 quarters */
        CHECK(p.mean[i] == 0 && p.sigma[i] == (i < 2 ? 32 : 16));
    }
    CHECK(lq_profile_init(&p, mem, sizeof mem, &g.geometry, 0.7f) == LQ_OK && p.sigma[9] == -8);
    CHECK(lq_profile_init(NULL, mem, sizeof mem, &g.geometry, 1) == LQ_E_ARG);
    CHECK(lq_profile_init(&p, NULL, sizeof mem, &g.geometry, 1) == LQ_E_SPACE);
    CHECK(lq_profile_init(&p, mem, lq_profile_bytes(70) - 1, &g.geometry, 1) == LQ_E_SPACE);
    CHECK(lq_profile_init(&p, mem, sizeof mem, NULL, 1) == LQ_E_ARG);
    CHECK(lq_profile_init(&p, mem, sizeof mem, &g.geometry, 0) == LQ_E_ARG);
    CHECK(lq_profile_init(&p, mem, sizeof mem, &g.geometry, lq_f32_from_f16(0x7c00)) == LQ_E_ARG);
    g.geometry.stream = 0;
    CHECK(lq_profile_init(&p, mem, sizeof mem, &g.geometry, 1) == LQ_E_ARG);
    group_free(&g);
}

/* ---- hostile files ---- */
static void mend(uint8_t *file, size_t count)
{
    uint32_t h = lq_xxh32(file + HEADER, count - HEADER, lq_xxh32(file, 16, 0));
    for (int i = 0; i < 4; i++) {
        file[16 + i] = (uint8_t)(h >> 8 * i);
    }
}

/* What loads is a profile: saving it works, and loading that gives it back. */
static void check_loaded(const lq_profile *p)
{
    size_t rows = p->dims + (p->stream == LQ_V ? p->slice_count : 0);
    uint8_t *file = (uint8_t *)source_alloc(lq_profile_save_bound(rows));
    size_t count;
    CHECK(lq_profile_save(file, lq_profile_save_bound(rows), &count, p) == LQ_OK);
    lq_profile q;
    int16_t *mem;
    CHECK(load(&q, &mem, file, count) == LQ_OK && same(p, &q));
    free(mem);
    free(file);
}

static void test_hostile(void)
{
    static int16_t own[2 * ROWS_MAX];
    static uint8_t file[10000];
    size_t count = 0;
    int mended_ok = 0;
    source_seed = 5;
    lq_profile p;
    do {
        profile_random(&p, own, 0);
    } while (p.dims > 80 || p.stream == LQ_K);
    CHECK(lq_profile_save(file, sizeof file, &count, &p) == LQ_OK);
    lq_profile q;
    int16_t *mem;
    for (size_t length = 0; length < count; length++) {
        CHECK(load(&q, &mem, file, length) == LQ_E_DATA);
        free(mem);
    }
    file[count] = 0;
    CHECK(load(&q, &mem, file, count + 1) == LQ_E_DATA);
    free(mem);
    for (size_t i = 0; i < count; i++) { /* every byte, every other value: header, checksum, body */
        for (uint32_t value = 1; value < 256; value += quick ? 41 : 1) {
            uint8_t saved[4];
            memcpy(saved, file + 16, 4);
            file[i] ^= (uint8_t)value;
            int status = load(&q, &mem, file, count);
            CHECK(status == LQ_E_DATA || (status == LQ_E_FORMAT && (i == 4 || i == 6)));
            free(mem);
            mend(file, count);
            status = load(&q, &mem, file, count);
            CHECK(status == LQ_OK || status == LQ_E_DATA || status == LQ_E_FORMAT);
            if (status == LQ_OK) {
                check_loaded(&q);
                mended_ok++;
            }
            free(mem);
            memcpy(file + 16, saved, 4);
            if (i < 16 || i >= HEADER) file[i] ^= (uint8_t)value;
        }
    }
    CHECK(mended_ok > 0);
    CHECK(load(&q, &mem, file, count) == LQ_OK && same(&p, &q));
    free(mem);
    for (uint32_t n = 0; n < (quick ? 2000u : 30000u);
         n++) { /* several bytes, another length, checksum right */
        uint8_t *copy = source_copy(file, count + 8);
        size_t shorter =
            source_below(4) ? count : HEADER + source_below((uint32_t)count - HEADER + 8);
        int changes = 1 + (int)source_below(6);
        while (changes--) {
            copy[source_below((uint32_t)shorter)] = (uint8_t)source_below(256);
        }
        mend(copy, shorter);
        int status = load(&q, &mem, copy, shorter);
        if (status == LQ_OK) check_loaded(&q);
        free(mem);
        free(copy);
    }
}

/* Memory of any alignment: arrays are laid where their elements may lie. */
static void test_alignment(void)
{
    uint8_t mem[1 + sizeof(int16_t) * 2 * 70 + 64];
    uint8_t file[1024];
    for (size_t off = 0; off < 8; off++) {
        static const uint32_t dims[2] = {40, 28};
        lq_geometry geometry;
        size_t count = 0;
        size_t needed = 0;
        lq_vectors src = {NULL, 0, LQ_F32};
        float x[2 * 40] = {1.0f};
        memset(&geometry, 0, sizeof geometry);
        geometry.stream = LQ_V;
        geometry.slice_count = 2;
        geometry.slice_dims = dims;
        lq_profile p;
        CHECK(lq_profile_init(&p, mem + off, lq_profile_bytes(70), &geometry, 2.0f) == LQ_OK);
        CHECK((uintptr_t)p.mean % 2 == 0 && (uintptr_t)p.sigma % 2 == 0);
        CHECK((uint8_t *)(p.sigma + 70) <= mem + off + lq_profile_bytes(70));
        CHECK(lq_profile_save(file, sizeof file, &count, &p) == LQ_OK);
        lq_profile back;
        CHECK(lq_profile_load(&back, NULL, 0, &needed, file, count) == LQ_E_SPACE);
        CHECK(lq_profile_load(&back, mem + off, needed, &needed, file, count) == LQ_OK);
        CHECK((uintptr_t)back.mean % 2 == 0 && back.sigma[69] == 16);
        const void *slices[2];
        slices[0] = x;
        slices[1] = x + 40;
        src.slices = slices;
        src.token_stride = 40;
        uint8_t *fit_mem = (uint8_t *)source_alloc(lq_fit_bytes(&geometry) + off);
        uint8_t *workspace = (uint8_t *)source_alloc(lq_fit_workspace_bytes(&geometry) + off);
        lq_fit fit;
        CHECK(!lq_fit_init(&fit, fit_mem + off, lq_fit_bytes(&geometry), &geometry, 0.5f));
        CHECK((uintptr_t)fit.sum % sizeof(int64_t) == 0);
        CHECK((uint8_t *)(fit.sum_squares + 70) <= fit_mem + off + lq_fit_bytes(&geometry));
        CHECK(!lq_fit_add(&fit, &src, NULL, 1, workspace + off, lq_fit_workspace_bytes(&geometry)));
        CHECK(!lq_fit_profile(&fit, &p, mem + off, lq_profile_bytes(70)));
        CHECK((uintptr_t)p.mean % 2 == 0);
        free(workspace);
        free(fit_mem);
    }
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_geometry();
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (uint32_t basis = 0; basis <= LQ_BASIS_HADAMARD; basis++) {
            for (int rope = 0; rope < 2; rope++) {
                test_fit(stream, basis, rope, 0.5f);
                test_fit(stream, basis, rope, 0.11f);
                test_fit(stream, basis, rope, 1.99f);
            }
        }
    }
    test_fit_errors();
    test_dead();
    test_due();
    test_init();
    test_alignment();
    test_save();
    test_save_errors();
    test_hostile();
    return check_report("test_profile");
}
