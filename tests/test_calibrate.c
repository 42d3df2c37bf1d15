/* cc -std=c99 -O2 tests/test_calibrate.c -o test_calibrate -lm    Calibration, dense bases and rate control on
   groups whose covariance is known. `test_calibrate short` and `tiny` take fewer tokens. */
#include "header.h"
#include "inside.h"

#include "check.h"
#include "source.h"

#include "archive.h"

enum { SLICES_MAX = 5, PAGES_MAX = 72, TRAILER = 4, HEADER = 20, FIXED = 32 };
enum { FIRST_POSITION = 100 };

static const lq_tables *tables;
static int size; /* 2 full, 1 short, 0 tiny */
static int levels;

/* ---- groups: x = mean + mix z + noise ---- */
typedef struct group {
    lq_geometry geometry;
    uint32_t dims[SLICES_MAX];
    float freqs[3];
    lq_rope rope;
    size_t width; /* dims of all slices */
    size_t rank;
    double noise;
    double *mix;       /* (width, rank) */
    double *mean;      /* (width) */
    double *deviation; /* (rank) of the directions, where rank is width */
} group;

/* Deviations of the directions fall from `high` to `low`. A full mix is orthogonal. */
static void group_make(group *g, uint32_t stream, const uint32_t *dims, uint32_t slices, int rope,
                       size_t rank, double high, double low, double noise)
{
    memset(g, 0, sizeof *g);
    memcpy(g->dims, dims, slices * sizeof *dims);
    g->geometry.stream = stream;
    g->geometry.slice_count = slices;
    g->geometry.slice_dims = g->dims;
    g->freqs[0] = 1.0f;
    g->freqs[1] = 0.11f;
    g->freqs[2] = 0.012f;
    g->rope.freqs = g->freqs;
    g->rope.rotary_dims = 6;
    g->geometry.rope = rope ? &g->rope : NULL;
    g->width = lq_geometry_dims(&g->geometry);
    g->rank = rank ? rank : g->width;
    g->noise = noise;
    g->mix = (double *)source_zeros(g->width * g->rank * sizeof(double));
    g->mean = (double *)source_alloc(g->width * sizeof(double));
    g->deviation = (double *)source_alloc(g->rank * sizeof(double));
    for (size_t i = 0; i < g->width; i++) {
        g->mean[i] = i % 3 ? 0 : source_gauss();
        for (size_t k = 0; k < g->rank; k++) {
            g->mix[i * g->rank + k] = rank ? source_gauss() / sqrt((double)g->width) : i == k;
        }
    }
    for (int turn = 0; turn < 5 && !rank; turn++) { /* reflections: H M */
        double *v = (double *)source_alloc(2 * g->width * sizeof(double));
        double *y = v + g->width;
        double s = 0;
        for (size_t i = 0; i < g->width; i++) {
            v[i] = source_gauss();
            s += v[i] * v[i];
            y[i] = 0;
        }
        for (size_t i = 0; i < g->width; i++) {
            for (size_t k = 0; k < g->rank; k++) {
                y[k] += v[i] * g->mix[i * g->rank + k] * 2 / s;
            }
        }
        for (size_t i = 0; i < g->width; i++) {
            for (size_t k = 0; k < g->rank; k++) {
                g->mix[i * g->rank + k] -= v[i] * y[k];
            }
        }
        free(v);
    }
    for (size_t k = 0; k < g->rank; k++) {
        double x = g->rank > 1 ? (double)k / (double)(g->rank - 1) : 0;
        g->deviation[k] = high * pow(low / high, x);
        for (size_t i = 0; i < g->width; i++) {
            g->mix[i * g->rank + k] *= g->deviation[k];
        }
    }
}

static void group_free(group *g)
{
    free(g->mix);
    free(g->mean);
    free(g->deviation);
}

static lq_positions positions_from(size_t first)
{
    lq_positions p = {0, 1, NULL};
    p.first = FIRST_POSITION + (int64_t)first;
    return p;
}

static void apply_rope(const group *g, float *x, size_t tokens, const lq_positions *positions)
{
    for (uint32_t s = 0; s < g->geometry.slice_count && g->geometry.rope; s++) {
        CHECK(!lq_rope_apply_f32(x, tokens, g->dims[s], g->width, &g->rope, positions));
        x += g->dims[s];
    }
}

/* Tokens (tokens, width) as a model gives them: K after RoPE, V with a size a token about its mean.
   */
static float *draw(const group *g, size_t tokens)
{
    float *x = (float *)source_alloc(tokens * g->width * 4);
    double *z = (double *)source_alloc(g->rank * sizeof(double));
    lq_positions positions = positions_from(0);
    for (size_t t = 0; t < tokens; t++) {
        double gain = g->geometry.stream == LQ_V ? pow(2, 2 * source_uniform() - 1) : 1;
        for (size_t k = 0; k < g->rank; k++) {
            z[k] = source_gauss();
        }
        for (size_t i = 0; i < g->width; i++) {
            double v = 0;
            for (size_t k = 0; k < g->rank; k++) {
                v += g->mix[i * g->rank + k] * z[k];
            }
            v += g->noise > 0 ? g->noise * source_gauss() : 0;
            x[t * g->width + i] = (float)(g->mean[i] + v * gain);
        }
    }
    free(z);
    apply_rope(g, x, tokens, &positions);
    return x;
}

static lq_vectors vectors_of(const group *g, const float *x, const void **slices)
{
    for (uint32_t s = 0; s < g->geometry.slice_count; s++) {
        slices[s] = x;
        x += g->dims[s];
    }
    lq_vectors v;
    v.slices = slices;
    v.token_stride = g->width;
    v.type = LQ_F32;
    return v;
}

/* ---- calibrating and loading, in memory of the exact size ---- */
typedef struct blob {
    uint8_t *bytes;
    size_t count;
} blob;

static void klt_start(lq_klt *klt, void **mem, const lq_geometry *geometry)
{
    size_t bytes = lq_klt_bytes(geometry);
    *mem = source_zeros(bytes); /* compared as a whole, alignment too */
    CHECK(bytes > 0 && lq_klt_init(klt, *mem, bytes, geometry) == LQ_OK);
}

static int klt_tokens(lq_klt *klt, const group *g, const float *x, size_t tokens)
{
    size_t bytes = lq_klt_workspace_bytes(&klt->geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x, slices);
    lq_positions positions = positions_from(0);
    int status = lq_klt_add(klt, &v, &positions, tokens, workspace, bytes);
    free(workspace);
    return status;
}

static int klt_queries(lq_klt *klt, const group *g, const float *q, size_t tokens)
{
    static const uint32_t reads[SLICES_MAX] = {0, 1, 2, 3, 4};
    size_t bytes = lq_klt_workspace_bytes(&klt->geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, q, slices);
    lq_positions positions = positions_from(0);
    int status = lq_klt_add_queries(klt, &v, reads, g->geometry.slice_count, &positions, tokens,
                                    workspace, bytes);
    free(workspace);
    return status;
}

static int klt_file(const lq_klt *klt, blob *file, const lq_klt_desc *desc, lq_klt_report *report)
{
    size_t bound = lq_klt_profile_bound(klt);
    size_t bytes = lq_klt_profile_workspace_bytes(klt);
    void *workspace = source_alloc(bytes);
    uint8_t *dst = (uint8_t *)source_alloc(bound);
    int status = lq_klt_profile(klt, dst, bound, &file->count, desc, report, workspace, bytes);
    file->bytes = source_copy(dst, file->count);
    free(dst);
    free(workspace);
    return status;
}

/* K keeps its own unit: errors are then plain squares. */
static lq_klt_desc klt_desc(float step)
{
    lq_klt_desc d;
    memset(&d, 0, sizeof d);
    d.unit = 1;
    d.step = step;
    return d;
}

/* Steps relative to what the means leave of the group: the default. */
static lq_klt_desc klt_relative(float step)
{
    lq_klt_desc d = klt_desc(step);
    d.unit = 0;
    return d;
}

static lq_klt_report calibrate(blob *file, const group *g, const float *x, size_t tokens,
                               const float *q, const lq_klt_desc *desc)
{
    lq_klt_report report;
    memset(&report, 0, sizeof report);
    lq_klt klt;
    void *mem;
    klt_start(&klt, &mem, &g->geometry);
    CHECK(klt_tokens(&klt, g, x, tokens) == LQ_OK);
    CHECK(klt.tokens + klt.held_out == tokens);
    if (q) {
        CHECK(klt_queries(&klt, g, q, tokens) == LQ_OK);
        CHECK(klt.queries == tokens * g->geometry.slice_count);
    }
    CHECK(klt_file(&klt, file, desc, &report) == LQ_OK);
    free(mem);
    return report;
}

static double row_norm2(const int16_t *row, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)row[i] * row[i];
    }
    return sum;
}

/* What the products rely on: norms of at most 2^15, zeros behind odd rows. */
static void check_basis(const lq_basis *b)
{
    double most = 0;
    int padded = 1;
    for (size_t i = 0; i < b->rank; i++) {
        const int16_t *row = b->forward + i * b->forward_stride;
        most = fmax(most, row_norm2(row, b->dims));
        padded &= b->dims % 2 == 0 || row[b->dims] == 0;
    }
    for (size_t i = 0; i < b->dims; i++) {
        const int16_t *row = b->inverse + i * b->inverse_stride;
        most = fmax(most, row_norm2(row, b->rank));
        padded &= b->rank % 2 == 0 || row[b->rank] == 0;
    }
    CHECK(most <= 0x1p30);
    CHECK(padded);
}

/* The status of loading; memory is exactly what it asks for, at an odd address. */
static int load(lq_profile *p, void **mem, const uint8_t *file, size_t count)
{
    size_t needed = 99;
    size_t again = 99;
    int status = lq_profile_load(p, NULL, 0, &needed, file, count);
    *mem = NULL;
    CHECK((status == LQ_E_SPACE) == (needed != 0));
    if (status != LQ_E_SPACE) return status;
    *mem = source_alloc(needed);
    CHECK(lq_profile_load(p, *mem, needed - 1, &again, file, count) == LQ_E_SPACE);
    CHECK(again == needed);
    status = lq_profile_load(p, *mem, needed, &again, file, count);
    if (status == LQ_OK && p->dense) check_basis(p->dense);
    return status;
}

static void load_ok(lq_profile *p, void **mem, const blob *file)
{
    if (!CHECK(load(p, mem, file->bytes, file->count) == LQ_OK)) exit(1);
}

/* ---- tokens to pages and back ---- */
typedef struct trip {
    lq_codec_desc desc;
    lq_codec *codec;
    void *codec_mem;
    uint8_t *pages;
    size_t page_bytes[PAGES_MAX];
    size_t bytes;
    float *y;
} trip;

static int trip_codec(trip *r, const lq_profile *profile, const lq_geometry *geometry, float step,
                      int quantizer)
{
    memset(r, 0, sizeof *r);
    r->desc.tables = tables;
    r->desc.profile = profile;
    r->desc.geometry = *geometry;
    r->desc.step = step;
    r->desc.quantizer = quantizer;
    size_t bytes = lq_codec_bytes(&r->desc);
    r->codec_mem = source_alloc(bytes);
    return lq_codec_init(&r->codec, r->codec_mem, bytes, &r->desc);
}

static int trip_encode(trip *r, const group *g, const float *x, size_t tokens)
{
    size_t workspace_bytes = lq_codec_workspace_bytes(r->codec);
    void *workspace = source_alloc(workspace_bytes);
    size_t room = (tokens + 63) / 64 * lq_codec_page_bound(r->codec);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x, slices);
    lq_positions positions = positions_from(0);
    free(r->pages);
    r->pages = (uint8_t *)source_alloc(room);
    int status = lq_codec_encode(r->codec, r->pages, room, &r->bytes, r->page_bytes, &v, &positions,
                                 tokens, workspace, workspace_bytes);
    free(workspace);
    return status;
}

static int trip_decode(trip *r, const group *g, size_t tokens)
{
    size_t workspace_bytes = lq_codec_workspace_bytes(r->codec);
    void *workspace = source_alloc(workspace_bytes);
    lq_positions positions = positions_from(0);
    const uint8_t *at = r->pages;
    free(r->y);
    r->y = (float *)source_alloc(tokens * g->width * 4);
    float *y = r->y;
    const uint8_t *pages[PAGES_MAX];
    for (size_t i = 0; i * 64 < tokens; i++) {
        pages[i] = at;
        at += r->page_bytes[i];
    }
    void *slices[SLICES_MAX];
    for (size_t i = 0; i < g->geometry.slice_count; i++) {
        slices[i] = y;
        y += g->dims[i];
    }
    lq_vectors_out out;
    out.slices = slices;
    out.token_stride = g->width;
    out.type = LQ_F32;
    int status = lq_codec_decode(r->codec, &out, &positions, tokens, pages, r->page_bytes,
                                 workspace, workspace_bytes);
    free(workspace);
    return status;
}

static void trip_free(trip *r)
{
    free(r->codec_mem);
    free(r->pages);
    free(r->y);
}

static void trip_all(trip *r, const lq_profile *profile, const group *g, float step, const float *x,
                     size_t tokens)
{
    if (!CHECK(trip_codec(r, profile, &g->geometry, step, 0) == LQ_OK) ||
        !CHECK(trip_encode(r, g, x, tokens) == LQ_OK) ||
        !CHECK(trip_decode(r, g, tokens) == LQ_OK)) {
        exit(1);
    }
}

/* The dense basis that V's gains are for; NULL: none. */
static const lq_basis *gains_for;

/* Gain of a V vector of a slice, octaves; K: 0. */
static double gain_of(const group *g, const float *v, const double *mean, uint32_t slice)
{
    size_t dims = g->dims[slice];
    double whole = 0;
    double left = 0;
    if (g->geometry.stream == LQ_K) return 0;
    for (size_t i = 0; i < dims; i++) {
        double e = (double)v[i] - mean[i];
        whole += (double)v[i] * (double)v[i];
        left += e * e;
    }
    left = floor(2 * log2(left / (double)dims) + 0.5) / 4;
    whole = floor(2 * log2(whole / (double)dims) + 0.5) / 4;
    if (gains_for && gains_for->gain_shift[slice] > 8) return left;
    if (gains_for) return fmax(whole - gains_for->gain_shift[slice] / 4.0, left - 2);
    return whole <= left - 0.5 ? fmax(whole, left - 2) : left;
}

/* Mean squared error a token, over the gains: what steps measure. Tokens first, first + every .. */
static double error_of(const group *g, const float *x, const float *y, size_t first, size_t every,
                       size_t tokens)
{
    double sum = 0;
    double count = 0;
    for (size_t t = first; t < tokens; t += every, count++) {
        size_t at = t * g->width;
        for (uint32_t s = 0; s < g->geometry.slice_count; s++) {
            double scale = pow(4, -gain_of(g, x + at, g->mean + (at - t * g->width), s));
            size_t end = at + g->dims[s];
            for (; at < end; at++) {
                double e = (double)x[at] - (double)y[at];
                sum += e * e * scale;
            }
        }
    }
    return sum / count;
}

/* Channels as they are, fitted to the tokens. */
static void channels(lq_profile *p, void **mem, const group *g, const float *x, size_t tokens,
                     float step)
{
    size_t rows = lq_geometry_rows(&g->geometry);
    size_t workspace_bytes = lq_fit_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(workspace_bytes);
    void *fit_mem = source_alloc(lq_fit_bytes(&g->geometry));
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x, slices);
    lq_positions positions = positions_from(0);
    *mem = source_alloc(lq_profile_bytes(rows));
    lq_fit fit;
    CHECK(!lq_fit_init(&fit, fit_mem, lq_fit_bytes(&g->geometry), &g->geometry, step));
    CHECK(!lq_fit_add(&fit, &v, &positions, tokens, workspace, workspace_bytes));
    CHECK(!lq_fit_profile(&fit, p, *mem, lq_profile_bytes(rows)));
    free(fit_mem);
    free(workspace);
}

/* ---- what a basis is worth ---- */
/* Bits that reverse water-filling needs for a total error of n Gaussians. */
static double bound_bits(const double *variance, size_t n, double error)
{
    double low = 1e-12;
    double high = 1e6;
    double bits = 0;
    for (int k = 0; k < 200; k++) {
        double level = sqrt(low * high);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += fmin(level, variance[i]);
        }
        if (sum < error) {
            low = level;
        } else {
            high = level;
        }
    }
    for (size_t i = 0; i < n; i++) {
        bits += fmax(0, 0.5 * log2(variance[i] / low));
    }
    return bits;
}

/* Variances along the eigenvectors of what V leaves over its gains. */
static void variances_of(double *variance, const group *g, const float *x, size_t tokens)
{
    size_t n = g->width;
    double *a = (double *)source_zeros(n * n * sizeof(double));
    double *mean = (double *)source_zeros(n * sizeof(double));
    double *row = (double *)source_alloc(n * sizeof(double));
    void *workspace = source_alloc(lq_inside_eigen_workspace_bytes(n));
    size_t i;
    uint32_t s;
    for (size_t t = 0; t < tokens; t++) {
        for (s = 0, i = 0; s < g->geometry.slice_count; s++) {
            double scale = pow(2, -gain_of(g, x + t * n + i, g->mean + i, s));
            size_t end = i + g->dims[s];
            for (; i < end; i++) {
                row[i] = ((double)x[t * n + i] - g->mean[i]) * scale;
                mean[i] += row[i] / (double)tokens;
            }
        }
        for (i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) {
                a[i * n + j] += row[i] * row[j] / (double)tokens;
            }
        }
    }
    for (i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            a[i * n + j] -= mean[i] * mean[j];
        }
    }
    CHECK(lq_inside_eigen(a, variance, n, workspace) == 0);
    free(a);
    free(mean);
    free(row);
    free(workspace);
}

static double bits_of(const trip *r, size_t tokens)
{
    return 8 * (double)r->bytes / (double)tokens;
}

/* Fitted to some tokens, used on others. */
static void test_recovery(uint32_t stream, int rope)
{
    static const uint32_t dims[3] = {64, 32, 7};
    size_t fitted = size ? 4096 : 2048;
    size_t tokens = size ? 2048 : 1024;
    float step = stream == LQ_V ? 0.15f : 0.3f;
    lq_klt_desc desc = klt_desc(step);
    double live = 0;
    source_seed = 10 + stream;
    group g;
    group_make(&g, stream, dims, 3, rope, 0, 4, 0.06, 0);
    float *x = draw(&g, fitted);
    float *y = draw(&g, tokens);
    blob file;
    lq_klt_report report = calibrate(&file, &g, x, fitted, NULL, &desc);
    lq_profile dense;
    void *dense_mem;
    load_ok(&dense, &dense_mem, &file);
    trip a;
    trip_all(&a, &dense, &g, step, y, tokens);
    lq_profile plain;
    void *plain_mem;
    channels(&plain, &plain_mem, &g, x, fitted, step);
    trip b;
    trip_all(&b, &plain, &g, step, y, tokens);
    double variance[103];
    if (stream == LQ_V) variances_of(variance, &g, y, tokens);
    for (size_t i = 0; i < g.width; i++) {
        variance[i] = stream == LQ_K ? g.deviation[i] * g.deviation[i] : variance[i];
        live += variance[i] > (double)(step * step) / 4;
    }
    double bound = bound_bits(variance, g.width, error_of(&g, y, a.y, 0, 1, tokens));
    bound += stream == LQ_V ? 3 * 3 : 0; /* a gain costs about 3 bits */
    bound += 84.0 * 8 / 64;              /* and the ends of a page 84 bytes */
    /* a scalar quantizer's 0.254 bits, less where few bits are */
    CHECK(bits_of(&a, tokens) > bound);
    CHECK(bits_of(&a, tokens) < bound + 0.27 * live + 0.08 * (double)g.width);
    CHECK(bits_of(&a, tokens) < bits_of(&b, tokens) - 0.6 * (double)g.width);
    CHECK(error_of(&g, y, a.y, 0, 1, tokens) < 1.3 * error_of(&g, y, b.y, 0, 1, tokens));
    /* and the report says so */
    CHECK(report.rank >= live && report.rank <= g.width);
    CHECK(report.shrinkage >= 0 && report.shrinkage < 0.1f);
    CHECK(report.basis_bits < report.channel_bits - 0.6f);
    CHECK(report.basis_loss > 0 && report.basis_loss < 0.021f);
    CHECK(dense.dense && dense.dense->rank == report.rank && dense.basis == LQ_BASIS_DENSE);
    for (size_t i = 1; i < report.rank; i++) {
        CHECK(dense.dense->sigma[i] <= dense.dense->sigma[i - 1]);
    }
    printf("%s: %.3f bits, bound %.3f, channels %.3f; expected %.3f, channels %.3f\n",
           stream == LQ_K ? "K" : "V", bits_of(&a, tokens) / 103, bound / 103,
           bits_of(&b, tokens) / 103, (double)report.basis_bits, (double)report.channel_bits);
    trip_free(&a);
    trip_free(&b);
    free(dense_mem);
    free(plain_mem);
    free(file.bytes);
    free(x);
    free(y);
    group_free(&g);
}

/* Fine steps: step^2 / 12 in every element, for tokens ten times as large as well. */
static void test_fine(uint32_t stream)
{
    static const uint32_t dims[3] = {64, 32, 7};
    enum { EVERY = 16 };
    size_t tokens = size ? 1024 : 512;
    float step = 0.05f;
    lq_klt_desc desc = klt_desc(step);
    double unit = 103 * (double)step * (double)step / 12;
    source_seed = 20 + stream;
    group g;
    group_make(&g, stream, dims, 3, stream == LQ_K, 0, 2, 0.5, 0);
    float *x = draw(&g, tokens);
    blob file;
    (void)calibrate(&file, &g, x, tokens, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    CHECK(p.dense->rank == 103);
    gains_for = p.dense;
    for (size_t t = 5; t < tokens; t += EVERY) {
        for (size_t i = 0; i < g.width; i++) {
            x[t * g.width + i] *= 10;
        }
    }
    trip r;
    trip_all(&r, &p, &g, step, x, tokens);
    CHECK(fabs(error_of(&g, x, r.y, 1, EVERY, tokens) / unit - 1) < 0.04);
    CHECK(fabs(error_of(&g, x, r.y, 5, EVERY, tokens) / unit - 1) < 0.06);
    for (int quantizer = LQ_D4; quantizer <= LQ_E8; quantizer++) { /* 7.6 and 14 % below */
        double moment = quantizer == LQ_D4 ? 0.076603 : 0.071682;
        trip_free(&r);
        CHECK(trip_codec(&r, &p, &g.geometry, step, quantizer) == LQ_OK);
        CHECK(trip_encode(&r, &g, x, tokens) == LQ_OK && trip_decode(&r, &g, tokens) == LQ_OK);
        if (quantizer == LQ_E8) {
            CHECK(fabs(error_of(&g, x, r.y, 1, EVERY, tokens) / (unit * 12 * moment) - 1) < 0.06);
        }
        CHECK(error_of(&g, x, r.y, 1, EVERY, tokens) < 1.7 * unit);
    }
    gains_for = NULL;
    trip_free(&r);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* Bits a number of values at the error that a step of 0.3 makes. Tokens differ in size by a factor of
   2 in the mean; `growing`: their mean grows with their size, else it is 0. */
static double bits_of_sizes(double growing)
{
    static const uint32_t dims[2] = {48, 40};
    size_t tokens = size ? 2048 : 1024;
    lq_klt_desc desc = klt_desc(0.3f);
    source_seed = 77;
    group g;
    group_make(&g, LQ_V, dims, 2, 0, 0, 2, 0.5, 0);
    float *x = draw(&g, tokens);
    for (size_t t = 0; t < tokens; t++) {
        double grow = pow(2, source_gauss());
        for (size_t i = 0; i < g.width; i++) {
            double mean = growing * g.deviation[0] * (i % 3 == 0 ? 1.0 : -0.4);
            double left = (double)x[t * g.width + i] - g.mean[i];
            x[t * g.width + i] = (float)((mean + left) * grow);
        }
    }
    memset(g.mean, 0, g.width * sizeof *g.mean);
    blob file;
    (void)calibrate(&file, &g, x, tokens, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    gains_for = p.dense;
    trip r;
    trip_all(&r, &p, &g, 0.3f, x, tokens);
    double bits = bits_of(&r, tokens) / (double)g.width;
    bits += log2(error_of(&g, x, r.y, 0, 1, tokens)) / 2;
    gains_for = NULL;
    trip_free(&r);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
    return bits;
}

/* Means of values that grow with them cost nothing: it is not only constants that are centred. */
static void test_sizes(void)
{
    double none = bits_of_sizes(0);
    double some = bits_of_sizes(1);
    printf("means that grow with their tokens: %.3f bits more\n", some - none);
    CHECK(fabs(some - none) < 0.05);
}

/* One unit for keys, whatever their means. */
static void test_unit(void)
{
    static const uint32_t dims[2] = {48, 40};
    size_t tokens = 512;
    double power = 0;
    source_seed = 78;
    group g;
    group_make(&g, LQ_K, dims, 2, 0, 0, 2, 0.5, 0);
    g.mean[5] += 300;
    float *x = draw(&g, tokens);
    for (size_t i = 0; i < g.width; i++) {
        power += g.deviation[i] * g.deviation[i] / (double)g.width;
    }
    void *mem = source_alloc(lq_klt_bytes(&g.geometry));
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&g.geometry), &g.geometry) == LQ_OK);
    CHECK(lq_klt_unit(NULL) == 0.0f && lq_klt_unit(&klt) == 0.0f);
    size_t bytes = lq_klt_workspace_bytes(&g.geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(&g, x, slices);
    CHECK(lq_klt_add(&klt, &v, NULL, tokens, workspace, bytes) == LQ_OK);
    printf("unit of keys %.3f, their deviation %.3f\n", (double)lq_klt_unit(&klt), sqrt(power));
    CHECK(fabs((double)lq_klt_unit(&klt) / sqrt(power) - 1) < 0.1);
    free(workspace);
    free(mem);
    free(x);
    group_free(&g);
}

/* Tokens first .. first + count of x. */
static void add_some(lq_klt *klt, const group *g, float *x, size_t first, size_t count)
{
    size_t bytes = lq_klt_workspace_bytes(&g->geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x + first * g->width, slices);
    CHECK(lq_klt_add(klt, &v, NULL, count, workspace, bytes) == LQ_OK);
    free(workspace);
}

static int near_sums(const float *a, const float *b, size_t count)
{
    double worst = 0;
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        most = fmax(most, fabs((double)a[i]));
    }
    return worst <= 1e-5 * most;
}

/* A fit in one go, and in three parts, two of them in forks. */
static void test_merge(uint32_t stream)
{
    static const uint32_t dims[2] = {48, 40};
    size_t pad = 96;
    source_seed = 79;
    group g;
    group_make(&g, stream, dims, 2, 0, 0, 2, 0.5, 0);
    float *x = draw(&g, 64 * 32);
    size_t bytes = lq_klt_bytes(&g.geometry);
    void *mem[4];
    for (size_t i = 0; i < 4; i++) {
        mem[i] = source_alloc(bytes);
    }
    lq_klt klt[4]; /* whole; first part, which the others are merged into; the two */
    CHECK(lq_klt_init(&klt[0], mem[0], bytes, &g.geometry) == LQ_OK);
    CHECK(lq_klt_init(&klt[1], mem[1], bytes, &g.geometry) == LQ_OK);
    CHECK(lq_klt_fork(&klt[2], mem[2], bytes, &klt[1]) == LQ_E_ARG); /* there is no centre */
    add_some(&klt[0], &g, x, 0, 64 * 32);
    add_some(&klt[1], &g, x, 0, 64 * 8);
    CHECK(lq_klt_fork(&klt[2], mem[2], bytes - 1, &klt[1]) == LQ_E_SPACE);
    CHECK(lq_klt_merge(&klt[1], &klt[0]) == LQ_E_ARG); /* no fork */
    for (size_t i = 2; i < 4; i++) {
        CHECK(lq_klt_fork(&klt[i], mem[i], bytes, &klt[1]) == LQ_OK && klt[i].tokens == 0);
        add_some(&klt[i], &g, x, 64 * (i == 2 ? 8 : 24), 64 * (i == 2 ? 16 : 8));
    }
    CHECK(lq_klt_merge(&klt[1], &klt[3]) == LQ_OK && lq_klt_merge(&klt[1], &klt[2]) == LQ_OK);
    CHECK(klt[1].tokens == klt[0].tokens && klt[1].held_out == klt[0].held_out);
    for (size_t i = 0; i < 2; i++) {
        CHECK(near_sums(klt[0].sum[i], klt[1].sum[i], pad));
        CHECK(near_sums(klt[0].products[i], klt[1].products[i], pad * pad));
    }
    CHECK(near_sums(klt[0].gain_sum, klt[1].gain_sum, stream == LQ_V ? 8 : 0));
    CHECK(fabs((double)lq_klt_unit(&klt[0]) / (double)lq_klt_unit(&klt[1]) - 1) < 1e-4);
    klt[2].center[3] += 1;
    CHECK(lq_klt_merge(&klt[1], &klt[2]) == LQ_E_ARG); /* about another centre */
    for (size_t i = 0; i < 4; i++) {
        free(mem[i]);
    }
    free(x);
    group_free(&g);
}

/* ---- the query metric ---- */
/* Mean squared logit error: queries of this many pairs, 1 .. 1024 positions behind the key. */
static double logit_error(const group *keys, const group *queries, const float *x, const float *y,
                          size_t tokens)
{
    double sum = 0;
    source_seed = 77;
    size_t i;
    for (size_t t = 0; t < tokens; t++) {
        group flat = *queries;
        lq_positions at = positions_from(t);
        size_t from = 0;
        flat.geometry.rope = NULL;
        float *q = draw(&flat, 1);
        at.first += (int64_t)pow(2, 10 * source_uniform());
        flat.geometry.rope = keys->geometry.rope;
        apply_rope(&flat, q, 1, &at);
        for (uint32_t s = 0; s < keys->geometry.slice_count; s++) {
            double dot = 0;
            for (i = from; i < from + keys->dims[s]; i++) {
                dot += (double)q[i] * (double)(x[t * keys->width + i] - y[t * keys->width + i]);
            }
            from = i;
            sum += dot * dot;
        }
        free(q);
    }
    return sum / (double)tokens;
}

static void test_queries(int rope)
{
    static const uint32_t dims[2] = {32, 16};
    size_t tokens = size ? 2048 : 1024;
    float step = 0.15f;
    source_seed = 31;
    group keys;
    group_make(&keys, LQ_K, dims, 2, rope, 0, 2, 0.3, 0);
    group queries;
    group_make(&queries, LQ_K, dims, 2, rope, 8, 6, 3, 0.1);
    memset(queries.mean, 0, queries.width * sizeof(double));
    float *x = draw(&keys, tokens);
    float *q = draw(&queries, tokens);
    double figure[3];
    lq_rate rate;
    for (int kind = 0; kind < 3;
         kind++) { /* without a metric; with beta 0.5; the metric switched off */
        lq_klt_desc desc = klt_desc(step);
        desc.unit = 0;
        desc.beta = kind == 2 ? -1.0f : 0;
        blob file;
        lq_klt_report report = calibrate(&file, &keys, x, tokens, kind ? q : NULL, &desc);
        lq_profile p;
        void *mem;
        load_ok(&p, &mem, &file);
        trip r;
        trip_all(&r, &p, &keys, step, x, tokens);
        double error = logit_error(&keys, &queries, x, r.y, tokens);
        figure[kind] = log2(error) / 2 + bits_of(&r, tokens) / (double)keys.width;
        CHECK(lq_rate_of(&rate, tables, &p, step) == LQ_OK);
        rate.error *= (double)report.logit_weight;
        printf("mean squared logit error %.5f, expected %.5f\n", error / 2, rate.error);
        CHECK(kind == 1 ? fabs(rate.error / (error / 2) - 1) < 0.2 : report.logit_weight == 0);
        trip_free(&r);
        free(mem);
        free(file.bytes);
    }
    printf("queries%s: %.3f bits less for the same logit error\n", rope ? " after RoPE" : "",
           figure[0] - figure[1]);
    CHECK(figure[1] < figure[0] - 0.25);
    CHECK(fabs(figure[2] - figure[0]) < 1e-9);
    free(x);
    free(q);
    group_free(&keys);
    group_free(&queries);
}

/* ---- few tokens ---- */
static void few(size_t fitted, int correlated)
{
    static const uint32_t dims[3] = {64, 64, 64};
    size_t tokens = size ? 1024 : 256;
    float step = 0.3f;
    lq_klt_desc desc = klt_desc(step);
    source_seed = fitted + (size_t)correlated;
    group g;
    group_make(&g, LQ_K, dims, 3, 0, 24, correlated ? 6 : 1e-3, correlated ? 3 : 1e-3, 0.6);
    float *x = draw(&g, fitted);
    float *y = draw(&g, tokens);
    blob file;
    lq_klt_report report = calibrate(&file, &g, x, fitted, NULL, &desc);
    lq_profile dense;
    void *dense_mem;
    load_ok(&dense, &dense_mem, &file);
    trip a;
    trip_all(&a, &dense, &g, step, y, tokens);
    lq_profile plain;
    void *plain_mem;
    channels(&plain, &plain_mem, &g, x, fitted, step);
    trip b;
    trip_all(&b, &plain, &g, step, y, tokens);
    double cost[2];
    cost[0] = bits_of(&a, tokens) / 192 + log2(error_of(&g, y, a.y, 0, 1, tokens)) / 2;
    cost[1] = bits_of(&b, tokens) / 192 + log2(error_of(&g, y, b.y, 0, 1, tokens)) / 2;
    printf("%lu tokens%s: %.3f bits less than channels; shrinkage %.3f\n", (unsigned long)fitted,
           correlated ? "" : " of noise", cost[1] - cost[0], (double)report.shrinkage);
    CHECK(cost[0] < cost[1] + 0.03);
    CHECK(report.rank >= 1 && report.rank <= 192);
    CHECK(report.shrinkage > 0 && report.shrinkage <= 1);
    CHECK(report.basis_bits > 0 && report.basis_bits <= report.channel_bits * 1.0001f);
    CHECK(report.basis_loss >= 0 && report.basis_loss < 0.03f);
    trip_free(&a);
    trip_free(&b);
    free(dense_mem);
    free(plain_mem);
    free(file.bytes);
    free(x);
    free(y);
    group_free(&g);
}

static void test_few(void)
{
    static const size_t counts[5] = {64, 100, 200, 512, 700};
    for (int i = 0; i < 5; i++) {
        few(counts[i], 1);
        few(counts[i], 0);
    }
}

/* Fitted to the very tokens that are coded: no worse on them than with judges among them. */
static void test_own(uint32_t stream)
{
    static const uint32_t dims[2] = {40, 24};
    enum { TOKENS = 1024 };
    float step = stream == LQ_V ? 0.2f : 0.4f;
    source_seed = 35;
    group g;
    group_make(&g, stream, dims, 2, 0, 16, 6, 2, 0.3);
    float *x = draw(&g, TOKENS);
    double cost[2];
    for (int own = 0; own < 2; own++) {
        lq_klt_desc desc = klt_desc(step);
        desc.own = own;
        blob file;
        lq_klt_report report = calibrate(&file, &g, x, TOKENS, NULL, &desc);
        CHECK(report.basis_bits > 0 && report.basis_bits < report.channel_bits);
        lq_profile p;
        void *mem;
        load_ok(&p, &mem, &file);
        trip r;
        trip_all(&r, &p, &g, step, x, TOKENS);
        cost[own] = bits_of(&r, TOKENS) / 64 + log2(error_of(&g, x, r.y, 0, 1, TOKENS)) / 2;
        trip_free(&r);
        free(mem);
        free(file.bytes);
    }
    CHECK(cost[1] < cost[0] + 0.01);
    free(x);
    group_free(&g);
}

/* Sigma of the last coefficient: of a channel that has neither bias nor RoPE. form 0: RoPE is undone;
   1: kept, and said; 2: kept, and not said. */
static int last_sigma(double bias, int form)
{
    static const uint32_t dims[1] = {16};
    lq_klt_desc desc = klt_relative(0.05f);
    source_seed = 51;
    desc.beta = -1;
    group g;
    group_make(&g, LQ_K, dims, 1, 1, 0, 1, 0.5, 0);
    g.mean[1] = bias;
    g.mean[4] = -bias;
    float *x = draw(&g, 640);
    lq_geometry geometry = g.geometry;
    geometry.rope = form ? NULL : geometry.rope;
    lq_klt klt;
    void *klt_mem;
    klt_start(&klt, &klt_mem, &geometry);
    klt.kept = form == 1 ? &g.rope : NULL;
    CHECK(klt_tokens(&klt, &g, x, 640) == LQ_OK);
    blob file;
    CHECK(klt_file(&klt, &file, &desc, NULL) == LQ_OK);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    int sigma = p.dense->sigma[15];
    klt.kept = &g.rope;
    klt.geometry.rope = &g.rope; /* both contradict each other */
    CHECK(klt_tokens(&klt, &g, x, 64) == LQ_E_ARG);
    free(klt_mem);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
    return sigma;
}

/* The unit of keys is that of what their mean leaves, RoPE undone, also where it is kept: a bias of
   norm 420 makes no other. Where nobody says that there is RoPE, the bias cannot be told apart. */
static void test_units(void)
{
    for (int form = 0; form < 2; form++) {
        CHECK(abs(last_sigma(0, form) - last_sigma(300, form)) <= 1);
    }
    CHECK(last_sigma(0, 2) - last_sigma(300, 2) > 32);
}

/* Tokens that say nothing: zeros, one value, one channel that moves. */
static void test_degenerate(void)
{
    static const uint32_t dims[2] = {12, 5};
    group g;
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (int kind = 0; kind < 3; kind++) {
            lq_klt_desc desc = klt_relative(0);
            static float x[128 * 17];
            double most = 0;
            source_seed = 3;
            group_make(&g, stream, dims, 2, 0, 0, 1, 1, 0);
            for (int i = 0; i < 128 * 17; i++) {
                x[i] = kind == 0 ? 0 : (float)(i % 17 + 1);
                x[i] += kind == 2 && i % 17 == 3 ? (float)source_gauss() : 0;
            }
            blob file;
            lq_klt_report report = calibrate(&file, &g, x, 128, NULL, &desc);
            CHECK(report.rank == 1); /* of V too: what moves is one channel about its mean */
            lq_profile p;
            void *mem;
            load_ok(&p, &mem, &file);
            trip r;
            trip_all(&r, &p, &g, 0.1f, x, 128);
            for (int i = 0; i < 128 * 17; i++) {
                most = fmax(most, fabs((double)r.y[i] - (double)x[i]));
            }
            CHECK(most <=
                  (kind ? 0.1 * 17 : 1e-9)); /* steps are relative to slices of rms 3 .. 15 */
            trip_free(&r);
            free(mem);
            free(file.bytes);
            group_free(&g);
        }
    }
}

/* What is made with LQ_OK loads. */
static int made_loads(const group *g, const float *x, size_t tokens, const float *q,
                      const lq_klt_desc *desc)
{
    lq_klt klt;
    void *klt_mem;
    void *mem = NULL;
    klt_start(&klt, &klt_mem, &g->geometry);
    CHECK(klt_tokens(&klt, g, x, tokens) == LQ_OK);
    CHECK(!q || klt_queries(&klt, g, q, tokens) == LQ_OK);
    lq_klt_report report;
    blob file;
    int status = klt_file(&klt, &file, desc, &report);
    lq_profile p;
    if (status == LQ_OK) {
        CHECK(report.basis_loss < 0.03f);
        CHECK(load(&p, &mem, file.bytes, file.count) == LQ_OK);
    } else {
        CHECK(status == LQ_E_RANGE && file.count == 0);
    }
    free(mem);
    free(klt_mem);
    free(file.bytes);
    return status;
}

/* One channel far above the others, at steps far below it; queries of one direction; numbers near
   the end of what is taken. */
static void test_range(void)
{
    static const uint32_t dims[1] = {64};
    static const float steps[3] = {0.1f, 0.02f, 0.01f};
    static const float betas[3] = {0.5f, 0.8f, 1.0f};
    size_t tokens = 512;
    source_seed = 15;
    group g;
    group_make(&g, LQ_K, dims, 1, 0, 0, 0.5, 0.5, 0);
    float *x = draw(&g, tokens);
    float *q = draw(&g, tokens);
    for (size_t i = 0; i < tokens * 64; i++) {
        x[i] *= i % 64 == 5 ? 16.0f : 1.0f;
        q[i] = q[i / 64 * 64] * (float)sin((double)(i % 64 + 1));
    }
    for (int k = 0; k < 3; k++) {
        lq_klt_desc desc = klt_desc(steps[k]);
        double unit = 64 * (double)steps[k] * (double)steps[k] / 12;
        blob file;
        CHECK(calibrate(&file, &g, x, tokens, NULL, &desc).basis_loss < 0.03f);
        lq_profile p;
        void *mem;
        load_ok(&p, &mem, &file);
        trip r;
        trip_all(&r, &p, &g, steps[k], x, tokens);
        CHECK(error_of(&g, x, r.y, 0, 1, tokens) < 1.05 * unit);
        trip_free(&r);
        free(mem);
        free(file.bytes);
        desc.unit = 0;
        for (int n = 0; n < 3; n++) {
            desc.beta = betas[n];
            CHECK(made_loads(&g, x, tokens, q, &desc) == LQ_OK || n > 0);
        }
    }
    for (size_t i = 0; i < tokens * 64; i++) {
        x[i] = (x[i] + 10) * 1e9f; /* beyond 2^31, below 2^40 */
    }
    for (int k = 0; k < 2; k++) {
        lq_klt_desc desc = klt_desc(k ? 0.1f : 1e8f);
        desc.unit = k ? 0.0f : 1.0f;
        CHECK(made_loads(&g, x, tokens, NULL, &desc) == (k ? LQ_OK : LQ_E_RANGE));
    }
    free(x);
    free(q);
    group_free(&g);
}

/* ---- the file form ---- */
static void mend(uint8_t *file, size_t count)
{
    uint32_t sum = lq_xxh32(file + HEADER, count - HEADER, lq_xxh32(file, 16, 0));
    for (int i = 0; i < 4; i++) {
        file[16 + i] = (uint8_t)(sum >> 8 * i);
    }
}

static int same_basis(const lq_basis *a, const lq_basis *b)
{
    return memcmp(a->hash, b->hash, 16) == 0 && a->dims == b->dims && a->rank == b->rank &&
           a->slice_count == b->slice_count && a->stream == b->stream && a->encodes == b->encodes &&
           a->center_exponent == b->center_exponent && a->mean_exponent == b->mean_exponent &&
           memcmp(a->mean, b->mean, a->dims * 2) == 0 && !a->center == !b->center &&
           (!a->center || memcmp(a->center, b->center, a->dims * 2) == 0) && a->gains == b->gains &&
           memcmp(&a->ratio, &b->ratio, sizeof a->ratio) == 0 && a->model == b->model &&
           memcmp(a->gain_shift, b->gain_shift, a->slice_count) == 0 &&
           memcmp(a->slice_gain, b->slice_gain, a->slice_count * 2) == 0 &&
           memcmp(a->forward, b->forward, (size_t)a->rank * a->forward_stride * 2) == 0 &&
           memcmp(a->inverse, b->inverse, (size_t)a->dims * a->inverse_stride * 2) == 0 &&
           memcmp(a->forward_exponent, b->forward_exponent, a->rank) == 0 &&
           memcmp(a->inverse_exponent, b->inverse_exponent, a->dims) == 0 &&
           memcmp(a->sigma, b->sigma, a->rank * 2) == 0;
}

static void test_file(uint32_t stream)
{
    static const uint32_t dims[2] = {9, 6};
    lq_klt_desc desc = klt_relative(0.2f);
    int loaded = 0;
    source_seed = 40 + stream;
    group g;
    group_make(&g, stream, dims, 2, stream == LQ_K, 0, 3, 0.1, 0);
    float *x = draw(&g, 200);
    lq_profile p[2];
    void *mem[2];
    blob file[2];
    for (int k = 0; k < 2; k++) {
        (void)calibrate(&file[k], &g, x, 200, stream == LQ_K ? x : NULL, &desc);
        load_ok(&p[k], &mem[k], &file[k]);
    }
    CHECK(file[0].count == file[1].count && !memcmp(file[0].bytes, file[1].bytes, file[0].count));
    CHECK(same_basis(p[0].dense, p[1].dense));
    uint8_t digest[16];
    lq_blake2s_128(digest, file[0].bytes, file[0].count);
    CHECK(memcmp(digest, p[0].basis_hash, 16) == 0 && memcmp(digest, p[0].dense->hash, 16) == 0);
    CHECK(p[0].stream == stream && p[0].slice_count == 2 && p[0].dims == 15 && p[0].dense->encodes);
    CHECK(p[0].dense->slice_dims[0] == 9 && p[0].dense->slice_dims[1] == 6);
    size_t count = file[0].count;
    void *none;
    for (size_t i = 0; i < count; i++) { /* shorter, with and without a checksum that is right */
        uint8_t *copy = source_copy(file[0].bytes, i);
        CHECK(load(&p[1], &none, copy, i) == LQ_E_DATA);
        free(none);
        if (i >= HEADER) {
            mend(copy, i);
            CHECK(load(&p[1], &none, copy, i) == LQ_E_DATA);
            free(none);
        }
        free(copy);
    }
    for (size_t i = 0; i < 8 * count; i += size == 2 ? 1 : 5) { /* every bit */
        uint8_t *copy = source_copy(file[0].bytes, count);
        copy[i / 8] ^= (uint8_t)(1u << i % 8);
        int status = load(&p[1], &none, copy, count);
        CHECK(status == LQ_E_DATA || (status == LQ_E_FORMAT && (i / 8 == 4 || i / 8 == 6)));
        free(none);
        mend(copy, count);
        status = load(&p[1], &none, copy, count);
        CHECK(status == LQ_OK || status == LQ_E_DATA || status == LQ_E_FORMAT);
        if (status == LQ_OK && p[1].dense && (i / 8 < 16 || i / 8 >= HEADER)) {
            CHECK(memcmp(p[1].basis_hash, digest, 16) != 0);
            loaded++;
        }
        free(none);
        free(copy);
    }
    CHECK(loaded > 0);
    {
        uint8_t *longer = (uint8_t *)source_alloc(count + 1);
        memcpy(longer, file[0].bytes, count);
        longer[count] = 0;
        mend(longer, count + 1);
        CHECK(load(&p[1], &none, longer, count + 1) == LQ_E_DATA);
        free(none);
        free(longer);
    }
    for (int k = 0; k < 2; k++) {
        free(mem[k]);
        free(file[k].bytes);
    }
    free(x);
    group_free(&g);
}

/* The metric left out: the same decoder, and nothing else. */
static void test_stripped(void)
{
    static const uint32_t dims[2] = {9, 6};
    lq_klt_desc desc = klt_relative(0.2f);
    lq_positions positions = positions_from(0);
    source_seed = 44;
    group g;
    group_make(&g, LQ_K, dims, 2, 1, 0, 3, 0.1, 0);
    float *x = draw(&g, 200);
    blob file;
    (void)calibrate(&file, &g, x, 200, x, &desc);
    lq_profile p[2];
    void *mem[2];
    load_ok(&p[0], &mem[0], &file);
    size_t i = file.count;
    for (size_t count = 0; count < file.count; count++) {
        uint8_t *copy = source_copy(file.bytes, count);
        size_t left = lq_profile_strip(copy, count);
        CHECK(left <= count);
        free(copy);
    }
    {
        uint8_t *copy = source_copy(file.bytes, file.count);
        copy[6] = LQ_BASIS_IDENTITY; /* any other form stays */
        CHECK(lq_profile_strip(copy, file.count) == file.count && copy[22] == 1);
        free(copy);
    }
    CHECK(lq_profile_strip(NULL, 100) == 100);
    file.count = lq_profile_strip(file.bytes, file.count);
    CHECK(p[0].dense->query && file.count == i - (9 * 10 + 6 * 7) - (1 + 2 * 9 + 1 + 2 * 6));
    CHECK(lq_profile_strip(file.bytes, file.count) == file.count);
    load_ok(&p[1], &mem[1], &file);
    CHECK(p[1].dense->encodes == 0 && p[1].dense->rank == p[0].dense->rank);
    CHECK(p[1].dense->query == NULL && file.bytes[29] == 0);
    CHECK(memcmp(p[0].dense->inverse, p[1].dense->inverse,
                 (size_t)p[0].dims * p[0].dense->inverse_stride * 2) == 0);
    trip a;
    trip_all(&a, &p[0], &g, 0.2f, x, 200);
    trip b;
    CHECK(trip_codec(&b, &p[1], &g.geometry, 0.2f, 0) == LQ_OK);
    CHECK(trip_encode(&b, &g, x, 200) == LQ_E_FORMAT && b.bytes == 0);
    free(b.pages);
    b.pages = source_copy(a.pages, a.bytes);
    memcpy(b.page_bytes, a.page_bytes, sizeof a.page_bytes);
    CHECK(trip_decode(&b, &g, 200) == LQ_OK);
    CHECK(memcmp(a.y, b.y, 200 * g.width * 4) == 0);
    lq_geometry dense = g.geometry;
    dense.basis = LQ_BASIS_DENSE;
    dense.dense = p[1].dense;
    void *fit_mem = source_alloc(lq_fit_bytes(&dense));
    void *workspace = source_alloc(lq_fit_workspace_bytes(&dense));
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(&g, x, slices);
    lq_fit fit;
    CHECK(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&dense), &dense, 0.2f) == LQ_OK);
    CHECK(lq_fit_add(&fit, &v, &positions, 200, workspace, lq_fit_workspace_bytes(&dense)) ==
          LQ_E_FORMAT);
    CHECK(fit.tokens == 0);
    free(fit_mem);
    free(workspace);
    trip_free(&a);
    trip_free(&b);
    free(mem[0]);
    free(mem[1]);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* ---- geometry ---- */
/* What lq_codec_init says of a profile and a geometry. */
static int codec_status(const lq_profile *p, const lq_geometry *g)
{
    trip r;
    int status = trip_codec(&r, p, g, 0.3f, 0);
    CHECK(status == LQ_OK || r.codec == NULL);
    trip_free(&r);
    return status;
}

static void test_geometry(void)
{
    static const uint32_t dims[2] = {8, 8};
    static const uint32_t other_dims[2] = {9, 7};
    lq_klt_desc desc = klt_desc(0.3f);
    lq_profile p[2];
    void *mem[2];
    blob file[2];
    lq_geometry g;
    group k;
    float *x;
    source_seed = 50;
    group_make(&k, LQ_K, dims, 2, 0, 0, 3, 0.5, 0);
    x = draw(&k, 256);
    for (int i = 0; i < 2; i++) {
        (void)calibrate(&file[i], &k, x, (size_t)(128 + 128 * i), NULL, &desc);
        load_ok(&p[i], &mem[i], &file[i]);
    }
    g = k.geometry;
    CHECK(codec_status(&p[0], &g) == LQ_OK);
    g.basis = LQ_BASIS_DENSE;
    CHECK(codec_status(&p[0], &g) == LQ_OK);
    CHECK(lq_geometry_rows(&g) == 0 && lq_fit_bytes(&g) == 0); /* no basis there */
    g.dense = p[0].dense;
    CHECK(codec_status(&p[0], &g) == LQ_OK && lq_geometry_rows(&g) == 16);
    g.dense = p[1].dense; /* another basis of the same dims */
    CHECK(codec_status(&p[0], &g) == LQ_E_FORMAT);
    g.basis = 0;
    CHECK(lq_geometry_rows(&g) == 0);
    g = k.geometry;
    for (int i = LQ_BASIS_IDENTITY; i <= LQ_BASIS_HADAMARD; i++) {
        g.basis = (uint32_t)i;
        CHECK(codec_status(&p[0], &g) == LQ_E_FORMAT);
        g.dense = p[0].dense;
        CHECK(lq_geometry_rows(&g) == 0);
        CHECK(codec_status(&p[0], &g) == LQ_E_ARG);
        g.dense = NULL;
    }
#define DIFFERENT(field, value)                             \
    do {                                                    \
        int status;                                         \
        g = k.geometry;                                     \
        g.field = (value);                                  \
        status = codec_status(&p[0], &g);                   \
        CHECK(status == LQ_E_ARG || status == LQ_E_FORMAT); \
        g.basis = LQ_BASIS_DENSE;                           \
        g.dense = p[0].dense;                               \
        CHECK(lq_geometry_rows(&g) == 0);                   \
        CHECK(codec_status(&p[0], &g) == LQ_E_ARG);         \
    } while (0)
    DIFFERENT(stream, LQ_V);
    DIFFERENT(slice_count, 1);
    DIFFERENT(slice_dims, other_dims);
#undef DIFFERENT
    {
        lq_codec_desc d; /* fixed pages have no dense basis */
        memset(&d, 0, sizeof d);
        d.tables = tables;
        d.profile = &p[0];
        d.geometry = k.geometry;
        d.page = LQ_PAGE_FIXED;
        d.step = 0.3f;
        CHECK(lq_codec_bytes(&d) == 0);
        d.page = LQ_PAGE_RAW;
        d.step = 0;
        CHECK(lq_codec_bytes(&d) > 0);
    }
    for (int i = 0; i < 2; i++) {
        free(mem[i]);
        free(file[i].bytes);
    }
    free(x);
    group_free(&k);
}

/* ---- fitting in a dense basis; refits ---- */
static void fit_dense(lq_fit *fit, void **mem, const group *g, const lq_basis *basis,
                      const float *x, size_t tokens, float step)
{
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x, slices);
    lq_positions positions = positions_from(0);
    lq_geometry dense = g->geometry;
    dense.basis = LQ_BASIS_DENSE;
    dense.dense = basis;
    size_t workspace_bytes = lq_fit_workspace_bytes(&dense);
    void *workspace = source_alloc(workspace_bytes);
    *mem = source_alloc(lq_fit_bytes(&dense));
    CHECK(!lq_fit_init(fit, *mem, lq_fit_bytes(&dense), &dense, step));
    CHECK(!lq_fit_add(fit, &v, &positions, tokens, workspace, workspace_bytes));
    free(workspace);
}

static int pays(const lq_fit *fit, const lq_profile *p, uint64_t tokens)
{
    int answer = -1;
    CHECK(lq_fit_pays(&answer, fit, p, tokens) == LQ_OK);
    CHECK(answer == 0 || answer == 1);
    return answer;
}

static void test_fit(uint32_t stream)
{
    static const uint32_t dims[2] = {40, 24};
    size_t tokens = size ? 2048 : 1024;
    float step = stream == LQ_V ? 0.8f : 2.0f;
    lq_klt_desc desc = klt_desc(step);
    size_t lead = stream == LQ_V ? 2 : 0;
    size_t rows = 64 + lead;
    int worst = 0;
    source_seed = 60 + stream;
    group g;
    group_make(&g, stream, dims, 2, stream == LQ_K, 12, 6, 3, 0.04);
    lq_profile p[2];
    void *mem[2];
    blob file[2];
    float *x;
    for (int k = 0; k < 2; k++) {
        x = draw(&g, tokens);
        (void)calibrate(&file[k], &g, x, tokens, NULL, &desc);
        load_ok(&p[k], &mem[k], &file[k]);
        free(x);
    }
    size_t rank = p[0].dense->rank;
    CHECK(rank < 64);
    /* the same statistics: the same deviations, and nothing to gain */
    x = draw(&g, tokens);
    void *fit_mem;
    lq_fit fit;
    fit_dense(&fit, &fit_mem, &g, p[0].dense, x, tokens, step);
    void *refit_mem = source_alloc(lq_profile_bytes(rows));
    lq_profile refit;
    CHECK(lq_fit_profile(&fit, &refit, refit_mem, lq_profile_bytes(rows)) == LQ_OK);
    CHECK(refit.basis == LQ_BASIS_DENSE && refit.dense == p[0].dense &&
          memcmp(refit.basis_hash, p[0].basis_hash, 16) == 0);
    for (size_t i = 0; i < rank; i++) {
        int differ = abs(refit.sigma[lead + i] - p[0].sigma[lead + i]);
        worst = differ > worst ? differ : worst;
    }
    CHECK(worst <= 4);
    for (size_t i = lead + rank; i < rows; i++) {
        CHECK(refit.sigma[i] == LQ_SIGMA_DEAD && refit.mean[i] == 0);
    }
    CHECK(!pays(&fit, &p[0], tokens) && !pays(&fit, &refit, tokens));
    free(fit_mem);
    /* twice as much of every second coefficient: pays when many tokens follow */
    for (size_t i = 0; i < tokens * g.width; i++) {
        x[i] *= stream == LQ_K || i % g.width % 2 ? 3.0f : 1.0f;
    }
    fit_dense(&fit, &fit_mem, &g, p[0].dense, x, tokens, step);
    CHECK(pays(&fit, &p[0], tokens) && !pays(&fit, &p[0], 0));
    free(fit_mem);
    /* the prior counts 128 tokens: of two alone little moves */
    fit_dense(&fit, &fit_mem, &g, p[0].dense, x, 2, step);
    CHECK(lq_fit_profile(&fit, &refit, refit_mem, lq_profile_bytes(rows)) == LQ_OK);
    worst = 0;
    for (size_t i = 0; i < rank; i++) {
        int differ = abs(refit.sigma[lead + i] - p[0].sigma[lead + i]);
        worst = differ > worst ? differ : worst;
    }
    CHECK(worst <= 12);
    free(fit_mem);
    /* its file form names the basis and holds no more */
    fit_dense(&fit, &fit_mem, &g, p[0].dense, x, tokens, step);
    CHECK(lq_fit_profile(&fit, &refit, refit_mem, lq_profile_bytes(rows)) == LQ_OK);
    blob saved;
    saved.bytes = (uint8_t *)source_alloc(lq_profile_save_bound(rows));
    CHECK(!lq_profile_save(saved.bytes, lq_profile_save_bound(rows), &saved.count, &refit));
    CHECK(saved.count < 300 && memcmp(saved.bytes + HEADER, p[0].basis_hash, 16) == 0);
    lq_profile loaded;
    void *loaded_mem;
    for (size_t i = 0; i < saved.count; i++) {
        size_t written = 99;
        uint8_t *dst = (uint8_t *)source_alloc(i);
        CHECK(lq_profile_save(dst, i, &written, &refit) == LQ_E_SPACE && written == 0);
        free(dst);
        CHECK(load(&loaded, &loaded_mem, saved.bytes, i) == LQ_E_DATA);
        free(loaded_mem);
    }
    CHECK(load(&loaded, &loaded_mem, saved.bytes, saved.count) == LQ_OK);
    CHECK(loaded.dense == NULL && memcmp(loaded.basis_hash, p[0].basis_hash, 16) == 0 &&
          memcmp(loaded.mean, refit.mean, rows * 2) == 0 &&
          memcmp(loaded.sigma, refit.sigma, rows * 2) == 0);
    lq_geometry geometry = g.geometry;
    CHECK(codec_status(&loaded, &geometry) == LQ_E_ARG); /* where is the basis? */
    geometry.basis = LQ_BASIS_DENSE;
    CHECK(codec_status(&loaded, &geometry) == LQ_E_ARG);
    geometry.dense = p[1].dense;
    CHECK(codec_status(&loaded, &geometry) == LQ_E_FORMAT);
    geometry.dense = p[0].dense;
    trip a;
    CHECK(trip_codec(&a, &loaded, &geometry, step, 0) == LQ_OK);
    CHECK(trip_encode(&a, &g, x, tokens) == LQ_OK && trip_decode(&a, &g, tokens) == LQ_OK);
    trip b;
    trip_all(&b, &p[0], &g, step, x, tokens);
    CHECK(a.bytes < b.bytes);
    CHECK(error_of(&g, x, a.y, 0, 1, tokens) < 1.05 * error_of(&g, x, b.y, 0, 1, tokens));
    /* coefficients beyond the rank have no row in the matrices */
    for (size_t i = lead + rank; i < rows; i++) {
        loaded.sigma[i] = 60;
    }
    if (codec_status(&loaded, &geometry) == LQ_OK) {
        trip_free(&a);
        CHECK(trip_codec(&a, &loaded, &geometry, step, 0) == LQ_OK);
        CHECK(a.codec && lq_inside_codec_alive(a.codec) <= rank); /* dead, then */
    }
    trip_free(&a);
    trip_free(&b);
    free(loaded_mem);
    free(saved.bytes);
    free(fit_mem);
    free(refit_mem);
    for (int k = 0; k < 2; k++) {
        free(mem[k]);
        free(file[k].bytes);
    }
    free(x);
    group_free(&g);
}

/* ---- levels ---- */
static double most_of(const float *x, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        double a = fabs((double)x[i]);
        most = a <= most ? most : a;
    }
    return most;
}

/* The same matrices, pages and, but for the last bit, floats at every level. */
static void at_levels(const blob *file, const group *g, const float *x, size_t tokens, float step,
                      int quantizer)
{
    void *first_mem = NULL;
    trip first;
    memset(&first, 0, sizeof first);
    lq_profile first_profile;
    for (int level = 0; level <= levels; level++) {
        lq_cpu_limit(level);
        lq_profile p;
        void *mem;
        load_ok(&p, &mem, file);
        trip r;
        CHECK(trip_codec(&r, &p, &g->geometry, step, quantizer) == LQ_OK);
        if (CHECK(trip_encode(&r, g, x, tokens) == LQ_OK)) {
            CHECK(trip_decode(&r, g, tokens) == LQ_OK);
        }
        if (level == 0) {
            first = r;
            first_profile = p;
            first_mem = mem;
            continue;
        }
        CHECK(same_basis(p.dense, first_profile.dense));
        CHECK(r.bytes == first.bytes && !memcmp(r.pages, first.pages, r.bytes));
        if (r.y && first.y) {
            double most = most_of(r.y, tokens * g->width);
            double differ = 0;
            for (size_t i = 0; i < tokens * g->width; i++) {
                differ = fmax(differ, fabs((double)r.y[i] - (double)first.y[i]));
            }
            CHECK(differ <= most * 0x1p-22);
        }
        trip_free(&r);
        free(mem);
    }
    lq_cpu_limit(-1);
    free(first_mem);
    trip_free(&first);
}

static void test_levels(uint32_t stream, uint32_t width)
{
    static const int quantizers[] = {LQ_Z,          LQ_D4,        LQ_E8,
                                     LQ_E8_RELAXED, LQ_TRELLIS_8, LQ_TRELLIS_64};
    size_t tokens = width > 200 ? 70 : 150;
    float step = 0.1f;
    lq_klt_desc desc = klt_desc(step);
    uint32_t dims[3];
    uint32_t slices = width < 3 ? 1 : 3;
    dims[0] = width < 3 ? width : width / 2;
    dims[1] = width / 4 ? width / 4 : 1;
    dims[2] = width - dims[0] - dims[1];
    source_seed = 70 + width;
    group g;
    group_make(&g, stream, dims, slices, stream == LQ_K && width > 60, width > 300 ? 8u : 0u, 4,
               0.05, width > 300 ? 0.2 : 0);
    float *x = draw(&g, tokens);
    blob file;
    (void)calibrate(&file, &g, x, tokens, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    at_levels(&file, &g, x, tokens, step, quantizers[width % 6]);
    for (size_t t = 3; t < tokens && stream == LQ_K; t += 7) { /* from zero to nearly 2048 steps */
        double scale = pow(2, (double)(t % 40)) / 1e9;
        for (size_t i = 0; i < width; i++) {
            double v = (double)x[t * width + i] * scale;
            x[t * width + i] = (float)fmin(fmax(v, -200), 200);
        }
    }
    if (width < 200) { /* coefficients of more than 32767 steps are refused */
        at_levels(&file, &g, x, tokens, step, 0);
    }
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* ---- the bound of the products, attacked ---- */
/* Columns that lq_inside_dense_pairs makes: norms below 2^15, whatever the rows hold. */
static void test_pairs(void)
{
    size_t counts[6] = {1, 2, 63, 192, 1000, 8192};
    for (int k = 0; k < (size == 2 ? 6 : 5); k++) {
        size_t count = counts[k];
        int32_t *rows = (int32_t *)source_alloc(count * 256);
        int16_t *pairs = (int16_t *)source_alloc((count + 1) / 2 * 256);
        for (int kind = 0; kind < 6; kind++) {
            double most = 0;
            double lost = 0;
            source_seed = 80;
            for (size_t i = 0; i < count * 64; i++) {
                double scale = pow(2, (double)(i % 64) / 64 * 27);
                int32_t v = (1 << 28) - 1;
                v = kind == 1 ? -v : kind == 2 ? 15 : kind == 3 ? -16 : v;
                v = kind == 4 ? (int32_t)scale : v;
                v = kind == 5 ? (int32_t)(scale * source_gauss() / 4) : v;
                rows[i] = v;
            }
            uint8_t shift[64];
            lq_inside_dense_pairs(pairs, shift, rows, count);
            for (size_t t = 0; t < 64; t++) {
                double norm = 0;
                for (size_t i = 0; i < count; i++) {
                    double q = pairs[(i / 2 * 64 + t) * 2 + (i & 1)];
                    double e = rows[i * 64 + t] - ldexp(q, shift[t]);
                    norm += q * q;
                    lost = fmax(lost, fabs(e) / ldexp(1, shift[t]));
                }
                most = fmax(most, norm);
                CHECK(shift[t] == 0 || norm > 0x1p26); /* no shift in vain */
            }
            CHECK(most < 32767.0 * 32767.0);
            CHECK(lost <= 0.5);
        }
        free(rows);
        free(pairs);
    }
}

/* Vectors along and against the rows of the forward matrix, as long as they may be. */
static void test_extreme_vectors(void)
{
    static const uint32_t dims[2] = {64, 64};
    enum { TOKENS = 256 };
    float step = 0.1f;
    lq_klt_desc desc = klt_desc(step);
    source_seed = 85;
    group g;
    group_make(&g, LQ_K, dims, 2, 0, 0, 4, 0.5, 0);
    float *x = draw(&g, TOKENS);
    blob file;
    (void)calibrate(&file, &g, x, TOKENS, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    CHECK(p.dense->rank == 128);
    for (size_t t = 0; t < TOKENS; t++) {
        const int16_t *row = p.dense->forward + t % 128 * p.dense->forward_stride;
        for (size_t i = 0; i < 128; i++) { /* flat with the row's signs: the largest sums */
            x[t * 128 + i] = (row[i] < 0) == (t < 128) ? 204.0f : -204.0f;
        }
    }
    trip r;
    trip_all(&r, &p, &g, step, x, TOKENS);
    /* a column's unit is 2^-15 of its length of 2040 sqrt(128) steps */
    CHECK(error_of(&g, x, r.y, 0, 1, TOKENS) < 2 * 128 * (double)step * (double)step / 12);
    trip_free(&r);
    at_levels(&file, &g, x, TOKENS, step, 0);
    for (size_t i = 0; i < TOKENS * 128; i++) {
        x[i] *= 0.1f * (float)(i / 128 % 11);
    }
    at_levels(&file, &g, x, TOKENS, step, 0);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* A page of integers of any size, which no encoder makes: into a page by the coder itself. */
static void page_of(trip *r, const int16_t *values)
{
    size_t workspace_bytes = lq_rans_workspace_bytes(lq_inside_codec_rows(r->codec), 1);
    void *workspace = source_alloc(workspace_bytes);
    size_t bound = lq_codec_page_bound(r->codec);
    lq_rans_page page;
    memset(&page, 0, sizeof page);
    free(r->pages);
    r->pages = (uint8_t *)source_alloc(bound);
    page.values = (int16_t *)(void *)source_copy(values, lq_inside_codec_rows(r->codec) * 128);
    page.bytes = r->pages;
    page.bytes_count = bound - TRAILER;
    page.tokens = 64;
    CHECK(lq_rans_encode(tables, lq_inside_codec_plan(r->codec), &page, 1, workspace,
                         workspace_bytes) == LQ_OK);
    r->pages[page.written] = LQ_PAGE_CODED;
    r->pages[page.written + 1] = LQ_Z;
    r->pages[page.written + 2] = 64;
    r->pages[page.written + 3] = 0;
    r->page_bytes[0] = page.written + TRAILER;
    free(page.values);
    free(workspace);
}

/* Coefficients of up to 32767 steps in every row: decoded as doubles would, at all levels. */
static void test_extreme_pages(uint32_t stream)
{
    static const uint32_t dims[2] = {80, 49};
    float step = 0.125f;
    lq_klt_desc desc = klt_desc(step);
    size_t lead = stream == LQ_V ? 2 : 0;
    source_seed = 90 + stream;
    group g;
    group_make(&g, stream, dims, 2, 0, 0, 4, 0.5, 0);
    float *x = draw(&g, 512);
    blob file;
    (void)calibrate(&file, &g, x, 512, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    CHECK(p.dense->rank == 129);
    trip r;
    CHECK(trip_codec(&r, &p, &g.geometry, step, 0) == LQ_OK);
    CHECK(lq_inside_codec_rows(r.codec) == 129 + lead);
    int16_t *values = (int16_t *)source_zeros((129 + lead) * 128);
    for (int kind = 0; kind < 4; kind++) {
        const lq_basis *b = p.dense;
        double worst = 0;
        float *of_c = NULL;
        for (size_t i = 0; i < 129 * 64; i++) {
            const int16_t *row = b->inverse + i % 64 * b->inverse_stride; /* token t: dim t */
            int v = kind == 0 ? 32767 : kind == 1 ? -32767 : row[i / 64] < 0 ? -32767 : 32767;
            values[lead * 64 + i] =
                (int16_t)(kind == 3 ? (source_below(9) ? 0 : (int)source_below(65535) - 32767) : v);
        }
        page_of(&r, values);
        for (int level = 0; level <= levels; level++) {
            lq_cpu_limit(level);
            CHECK(trip_decode(&r, &g, 64) == LQ_OK);
            if (level == 0) {
                of_c = r.y;
                r.y = NULL;
                continue;
            }
            CHECK(most_of(of_c, 64 * 129) > 1);
            for (size_t i = 0; i < 64 * 129; i++) {
                worst = fmax(worst, fabs((double)of_c[i] - (double)r.y[i]));
            }
            CHECK(worst <= most_of(of_c, 64 * 129) * 0x1p-22);
        }
        lq_cpu_limit(-1);
        worst = 0;
        for (size_t t = 0; t < 64; t++) { /* in double */
            double norm = 0;
            for (size_t i = 0; i < 129; i++) {
                norm += pow(values[(lead + i) * 64 + t], 2);
            }
            for (size_t i = 0; i < 129; i++) {
                const int16_t *row = b->inverse + i * b->inverse_stride;
                double unit = ldexp((double)step, b->inverse_exponent[i] - 15);
                double gain = lead ? pow(2, lq_inside_codec_gain_mean(r.codec, i >= 80) / 4.0) : 1;
                double y = ldexp(b->mean[i], b->mean_exponent);
                for (size_t k = 0; k < 129; k++) {
                    y += row[k] * unit * values[(lead + k) * 64 + t];
                }
                worst = fmax(worst, fabs((double)of_c[t * 129 + i] / gain - y) /
                                        (unit * 32768 * (sqrt(norm) + 100)));
            }
        }
        CHECK(worst < 0x1p-12); /* centroids included; a column has 15 bits for its length */
        free(of_c);
    }
    trip_free(&r);
    free(values);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* Bases that no calibration makes: norms are kept, all levels agree. */
static void test_hostile_matrices(void)
{
    static const uint32_t dims[2] = {16, 17};
    int rounds = size == 2 ? 400 : size ? 100 : 20;
    lq_klt_desc desc = klt_desc(0.05f);
    int loaded = 0;
    source_seed = 95;
    group g;
    group_make(&g, LQ_K, dims, 2, 0, 0, 4, 0.05, 0);
    float *x = draw(&g, 80);
    blob file;
    (void)calibrate(&file, &g, x, 80, x, &desc);
    for (int n = 0; n < rounds; n++) {
        blob copy;
        int changes = 1 + (int)source_below(6);
        copy.count = file.count;
        copy.bytes = source_copy(file.bytes, file.count);
        while (changes--) {
            uint32_t from = source_below(2) ? 20 : source_below(2) ? FIXED + 8 + 66 : 700;
            size_t at = from + source_below((uint32_t)file.count - from);
            copy.bytes[at] = (uint8_t)source_below(256);
        }
        mend(copy.bytes, copy.count);
        lq_profile p;
        void *mem;
        if (load(&p, &mem, copy.bytes, copy.count) == LQ_OK) {
            trip r;
            int status = trip_codec(&r, &p, &g.geometry, 0.05f, 0);
            if (!status) status = trip_encode(&r, &g, x, 80);
            CHECK(status == LQ_OK || status == LQ_E_RANGE);
            trip_free(&r);
            loaded++;
            if (status == LQ_OK) at_levels(&copy, &g, x, 80, 0.05f, 0);
        }
        free(mem);
        free(copy.bytes);
    }
    CHECK(loaded > rounds / 10);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* ---- archives ---- */
enum { FILE_BYTES = 1 << 21, DIRECTORY_BYTES = 1 << 19 };

static void archive_start(archive *a, const group *g)
{
    lq_archive_group_desc desc;
    memset(&desc, 0, sizeof desc);
    archive_begin(a, FILE_BYTES, DIRECTORY_BYTES);
    desc.stream = g->geometry.stream;
    desc.rope = LQ_ARCHIVE_NONE;
    if (g->geometry.rope) {
        CHECK(lq_archive_add_rope(&a->writer, g->geometry.rope, &desc.rope) == LQ_OK);
    }
    lq_slice slices[SLICES_MAX];
    for (uint32_t s = 0; s < g->geometry.slice_count; s++) {
        lq_slice slice = {1, 0, 0, 0, 0, 0};
        slice.head = s;
        slice.dims = g->dims[s];
        slices[s] = slice;
    }
    desc.slices = slices;
    desc.slice_count = g->geometry.slice_count;
    CHECK(lq_archive_add_group(&a->writer, &desc, &a->id) == LQ_OK);
}

static void archive_done(archive *a)
{
    CHECK(lq_archive_finish(&a->writer) == LQ_OK);
    archive_open(a, 0);
}

static lq_archive_pack_desc pack_desc(const archive *a, const group *g, float step)
{
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.geometry = g->geometry;
    d.group = a->id;
    d.step = step;
    return d;
}

static int pack(archive *a, const lq_archive_pack_desc *d, const group *g, const float *x,
                size_t tokens)
{
    size_t bytes = lq_archive_pack_workspace_bytes(d);
    void *workspace = source_alloc(bytes);
    const void *slices[SLICES_MAX];
    lq_vectors v = vectors_of(g, x, slices);
    lq_positions positions = positions_from((size_t)d->first_token);
    int status = lq_archive_pack(&a->writer, d, &v, &positions, tokens, workspace, bytes);
    free(workspace);
    return status;
}

/* Tokens to y (tokens, width). */
static int unpack(const archive *a, const group *g, const lq_profile *calibrated, float *y,
                  size_t first, size_t tokens)
{
    size_t bytes = lq_archive_unpack_workspace_bytes(&a->reader, a->id);
    void *workspace = source_alloc(bytes);
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.group = a->id;
    d.calibrated = &calibrated;
    d.calibrated_count = 1;
    void *slices[SLICES_MAX];
    for (uint32_t s = 0; s < g->geometry.slice_count; s++) {
        slices[s] = y;
        y += g->dims[s];
    }
    lq_vectors_out out;
    out.slices = slices;
    out.token_stride = g->width;
    out.type = LQ_F32;
    int status = lq_archive_unpack(&a->reader, &d, &out, first, tokens, workspace, bytes);
    free(workspace);
    return status;
}

/* Profiles of an archive in the form: 3 dense, 4 named. */
static int profiles_of_form(const archive *a, int form)
{
    int count = 0;
    for (uint32_t i = 0; i < a->reader.profile_count; i++) {
        lq_archive_profile_desc d;
        CHECK(lq_archive_profile(&a->reader, i, &d) == LQ_OK);
        count += d.bytes && d.count > 6 && d.bytes[6] == form;
    }
    return count;
}

/* One archive of the tokens; its size, whether it holds a dense basis, its error behind the sinks. */
static size_t packed(const group *g, const float *x, size_t tokens, const float *q, int calibrated,
                     uint32_t basis, int *dense, double *error)
{
    static const uint32_t reads[SLICES_MAX] = {0, 1, 2, 3, 4};
    const void *slices[SLICES_MAX];
    lq_vectors queries = vectors_of(g, q ? q : x, slices);
    float *y = (float *)source_alloc(tokens * g->width * 4);
    float *part = (float *)source_alloc(10 * g->width * 4);
    archive a;
    archive_start(&a, g);
    lq_archive_pack_desc d = pack_desc(&a, g, 0.25f);
    d.calibrate = calibrated;
    d.geometry.basis = basis;
    d.queries = q ? &queries : NULL;
    d.reads = q ? reads : NULL;
    d.query_heads = q ? g->geometry.slice_count : 0;
    CHECK(pack(&a, &d, g, x, tokens) == LQ_OK);
    archive_done(&a);
    size_t bytes = (size_t)a.writer.offset;
    *dense = profiles_of_form(&a, 3);
    CHECK(a.reader.profile_count == 1);
    CHECK(unpack(&a, g, NULL, y, 0, tokens) == LQ_OK);
    CHECK(memcmp(x, y, 4 * g->width * 4) == 0); /* sinks are raw */
    *error = error_of(g, x, y, 4, 1, tokens);
    CHECK(unpack(&a, g, NULL, part, tokens - 30, 10) == LQ_OK);
    CHECK(memcmp(part, y + (tokens - 30) * g->width, 10 * g->width * 4) == 0);
    archive_free(&a);
    free(y);
    free(part);
    return bytes;
}

static void test_pack_calibrate(uint32_t stream)
{
    static const uint32_t dims[3] = {16, 16, 8};
    size_t tokens = size ? 2048 : 1024;
    source_seed = 100 + stream;
    group g;
    group_make(&g, stream, dims, 3, stream == LQ_K, 10, 8, 4, 0.1);
    group noise;
    group_make(&noise, stream, dims, 3, stream == LQ_K, 1, 1e-3, 1e-3, 1);
    group queries;
    group_make(&queries, LQ_K, dims, 3, 1, 6, 6, 3, 0.1);
    float *x = draw(&g, tokens);
    float *q = draw(&queries, tokens);
    double error[3];
    size_t bytes[3];
    int dense;
    bytes[0] = packed(&g, x, tokens, NULL, 0, 0, &dense, &error[0]);
    CHECK(dense == 0);
    bytes[1] = packed(&g, x, tokens, NULL, 1, 0, &dense, &error[1]);
    CHECK(dense == 1 && (double)bytes[1] < 0.75 * (double)bytes[0]);
    CHECK(8 * ((double)bytes[0] - (double)bytes[1]) / (double)(tokens * g.width) >
          log2(error[1] / error[0]) / 2 + 0.5); /* half a bit at the same error */
    printf("archive of %s: %lu bytes, calibrated %lu\n", stream == LQ_K ? "K" : "V",
           (unsigned long)bytes[0], (unsigned long)bytes[1]);
    if (stream == LQ_K) { /* the same step, the error where queries do not look */
        bytes[2] = packed(&g, x, tokens, q, 1, 0, &dense, &error[2]);
        CHECK(dense == 1 && bytes[2] < bytes[0]);
    }
    for (uint32_t basis = LQ_BASIS_IDENTITY; basis <= LQ_BASIS_HADAMARD; basis++) {
        (void)packed(&g, x, tokens, NULL, 1, basis, &dense, &error[2]);
        CHECK(dense == 1);
    }
    (void)packed(&g, x, 100, NULL, 1, 0, &dense, &error[2]); /* too short to try */
    CHECK(dense == 0);
    for (size_t k = 140; k < 500; k += 90) { /* around where it begins to pay: never larger */
        bytes[0] = packed(&g, x, k, NULL, 0, 0, &dense, &error[0]);
        bytes[1] = packed(&g, x, k, NULL, 1, 0, &dense, &error[1]);
        CHECK((double)bytes[1] < 1.01 * (double)bytes[0] + 64);
    }
    free(x);
    x = draw(&noise, tokens);
    (void)packed(&noise, x, tokens, NULL, 1, 0, &dense, &error[2]);
    CHECK(dense == 0);
    free(x);
    free(q);
    group_free(&g);
    group_free(&noise);
    group_free(&queries);
}

/* A calibrated profile by its name or as a whole; tokens that change, so that refits pay. */
static void external(uint32_t stream, int embedded, int refit)
{
    static const uint32_t dims[3] = {16, 16, 8};
    size_t tokens = 1300;
    size_t done = 0;
    float step = 0.25f;
    lq_klt_desc desc = klt_desc(step);
    lq_archive_profile_desc stored = {NULL, 0, NULL};
    source_seed = 110;
    group g;
    group_make(&g, stream, dims, 3, stream == LQ_K, 10, 6, 2, 0.3);
    lq_profile p[2];
    void *mem[2];
    blob file[2];
    float *x;
    for (int k = 0; k < 2; k++) {
        x = draw(&g, 600);
        (void)calibrate(&file[k], &g, x, 600, NULL, &desc);
        load_ok(&p[k], &mem[k], &file[k]);
        free(x);
    }
    g.noise = 2;
    x = draw(&g, tokens);
    float *y = (float *)source_alloc(tokens * g.width * 4);
    float *z = (float *)source_alloc(tokens * g.width * 4);
    archive a;
    archive_start(&a, &g);
    lq_archive_pack_desc d = pack_desc(&a, &g, step);
    d.refit = refit;
    d.profile = &p[0];
    stored.hash = embedded ? NULL : p[0].basis_hash;
    stored.bytes = embedded ? file[0].bytes : NULL;
    stored.count = embedded ? file[0].count : 0;
    CHECK(lq_archive_add_profile(&a.writer, &stored, &d.profile_id) == LQ_OK);
    CHECK(pack(&a, &d, &g, x, 1000) == LQ_OK);
    done = 1000;
    d.first_token = done; /* and a second call, another segment */
    CHECK(lq_archive_flush_segment(&a.writer) == LQ_OK);
    CHECK(pack(&a, &d, &g, x + done * g.width, tokens - done) == LQ_OK);
    archive_done(&a);
    CHECK(profiles_of_form(&a, 3) == embedded);
    CHECK((profiles_of_form(&a, 4) > 0) == refit);
    CHECK(unpack(&a, &g, &p[0], y, 0, tokens) == LQ_OK);
    CHECK(error_of(&g, x, y, 4, 1, tokens) <
          (refit ? 1.3 : 1.6) * 40 * (double)step * (double)step / 12);
    memset(z, 0, tokens * g.width * 4);
    CHECK(unpack(&a, &g, NULL, z, 0, tokens) == (embedded ? LQ_OK : LQ_E_FORMAT));
    CHECK(!embedded || memcmp(y, z, tokens * g.width * 4) == 0);
    memset(z, 0, tokens * g.width * 4);
    CHECK(unpack(&a, &g, &p[1], z, 0, tokens) == (embedded ? LQ_OK : LQ_E_FORMAT));
    CHECK(!embedded || memcmp(y, z, tokens * g.width * 4) == 0);
    for (int k = 0; k < 20; k++) { /* any part is the same part */
        size_t first = source_below((uint32_t)tokens);
        size_t count = 1 + source_below((uint32_t)(tokens - first));
        CHECK(unpack(&a, &g, &p[0], z, first, count) == LQ_OK);
        CHECK(memcmp(z, y + first * g.width, count * g.width * 4) == 0);
    }
    archive_free(&a);
    for (int k = 0; k < 2; k++) {
        free(mem[k]);
        free(file[k].bytes);
    }
    free(x);
    free(y);
    free(z);
    group_free(&g);
}

/* Refits are smaller where the tokens differ from the calibration's, and no larger where not. */
static void test_refit_size(void)
{
    static const uint32_t dims[2] = {16, 16};
    float step = 0.25f;
    lq_klt_desc desc = klt_desc(step);
    source_seed = 120;
    group g;
    group_make(&g, LQ_K, dims, 2, 0, 10, 6, 2, 0.4);
    float *x = draw(&g, 4096);
    blob file;
    (void)calibrate(&file, &g, x, 4096, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    free(x);
    for (int changed = 0; changed < 2; changed++) {
        lq_archive_profile_desc stored = {NULL, 0, NULL};
        g.noise = changed ? 2 : 0.4;
        x = draw(&g, 1024);
        stored.hash = p.basis_hash;
        uint64_t bytes[2];
        for (int refit = 0; refit < 2; refit++) {
            archive a;
            archive_start(&a, &g);
            lq_archive_pack_desc d = pack_desc(&a, &g, step);
            d.refit = refit;
            d.profile = &p;
            CHECK(lq_archive_add_profile(&a.writer, &stored, &d.profile_id) == LQ_OK);
            CHECK(pack(&a, &d, &g, x, 1024) == LQ_OK);
            archive_done(&a);
            CHECK((profiles_of_form(&a, 4) > 0) == (refit && changed));
            bytes[refit] = a.writer.offset;
            archive_free(&a);
        }
        CHECK(changed ? bytes[1] + 1000 < bytes[0] : bytes[1] < bytes[0] + 700);
        free(x);
    }
    free(mem);
    free(file.bytes);
    group_free(&g);
}

/* ---- rates ---- */
/* In the basis of a calibration and as channels; deviations fitted to these very tokens, so that only
   the model of the coder is judged. */
static void test_rate_of(uint32_t stream)
{
    static const uint32_t dims[2] = {64, 64};
    static const float steps[5] = {0.06f, 0.15f, 0.4f, 1.0f, 2.0f};
    size_t tokens = size ? 4096 : 2048;
    size_t rows = 128 + (stream == LQ_V ? 2u : 0u);
    lq_klt_desc desc = klt_desc(0.05f);
    source_seed = 130 + stream;
    group g;
    group_make(&g, stream, dims, 2, 0, 0, 4, 0.1, 0);
    memset(g.mean, 0, g.width * sizeof *g.mean);
    float *x = draw(&g, tokens);
    blob file;
    (void)calibrate(&file, &g, x, tokens, NULL, &desc);
    lq_profile calibrated;
    void *calibrated_mem;
    load_ok(&calibrated, &calibrated_mem, &file);
    void *fit_mem;
    lq_fit fit;
    fit_dense(&fit, &fit_mem, &g, calibrated.dense, x, tokens, 0.05f);
    void *mem[2];
    mem[0] = source_alloc(lq_profile_bytes(rows));
    lq_profile p[2];
    CHECK(lq_fit_profile(&fit, &p[0], mem[0], lq_profile_bytes(rows)) == LQ_OK);
    channels(&p[1], &mem[1], &g, x, tokens, 0.05f);
    for (int i = 0; i < (stream == LQ_V ? 3 : 5); i++) { /* V's coefficients are at most about 1 */
        for (int k = 0; k < 2; k++) {
            trip r;
            trip_all(&r, &p[k], &g, steps[i], x, tokens);
            lq_rate rate;
            CHECK(lq_rate_of(&rate, tables, &p[k], steps[i]) == LQ_OK);
            double bits = 8 * ((double)r.bytes - TRAILER * (double)tokens / 64) / (double)tokens;
            double error = error_of(&g, x, r.y, 0, 1, tokens);
            CHECK(fabs(rate.bits / bits - 1) < 0.05);
            CHECK(fabs(rate.error / error - 1) < 0.05);
            trip_free(&r);
        }
    }
    free(calibrated_mem);
    free(fit_mem);
    free(mem[0]);
    free(mem[1]);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* Coefficients that are all of one class, one class after the other. */
static void test_rate_of_classes(void)
{
    static const uint32_t dims[1] = {64};
    size_t tokens = size ? 4096 : 1024;
    double worst = 0;
    source_seed = 150;
    group g;
    group_make(&g, LQ_K, dims, 1, 0, 0, 1, 1, 0);
    float *x = draw(&g, tokens);
    for (int class_ = 22; class_ < 50; class_++) {
        float step = (float)pow(2, (LQ_CLASS_ONE - class_) / 8.0);
        lq_profile p;
        void *mem;
        channels(&p, &mem, &g, x, tokens, step);
        trip r;
        trip_all(&r, &p, &g, step, x, tokens);
        lq_rate rate;
        CHECK(lq_rate_of(&rate, tables, &p, step) == LQ_OK);
        worst = fmax(worst, fabs(rate.error / error_of(&g, x, r.y, 0, 1, tokens) - 1));
        trip_free(&r);
        free(mem);
    }
    printf("errors of single classes: at most %.1f %% off\n", 100 * worst);
    CHECK(worst < 0.03);
    free(x);
    group_free(&g);
}

enum { GROUPS = 4 };
static lq_profile rate_profiles[GROUPS];
static void *rate_mem[GROUPS];

/* Dense K, dense V, channels of K and of V. */
static void rate_groups(lq_rate_group *groups)
{
    static const uint32_t dims[2] = {64, 32};
    static const double weights[GROUPS] = {1, 0.3, 40, 0.002};
    lq_klt_desc desc = klt_desc(0.05f);
    memset(groups, 0, GROUPS * sizeof *groups);
    for (int i = 0; i < GROUPS; i++) {
        source_seed = 140 + (uint64_t)i;
        group g;
        group_make(&g, i % 2 ? LQ_V : LQ_K, dims, 2, 0, 0, i ? 1.5 : 6, 0.1, 0);
        float *x = draw(&g, 512);
        for (size_t k = 0; k < 512 * g.width; k++) { /* channels of all sizes */
            x[k] *= i < 2 ? 1.0f : ldexpf(1, (int)(k % g.width % 16) / 2 - 4) * (k & 1 ? 1.4f : 1);
        }
        blob file;
        if (i < 2) {
            (void)calibrate(&file, &g, x, 512, NULL, &desc);
            load_ok(&rate_profiles[i], &rate_mem[i], &file);
            free(file.bytes);
        } else {
            channels(&rate_profiles[i], &rate_mem[i], &g, x, 512, 0.2f);
        }
        groups[i].profile = &rate_profiles[i];
        groups[i].weight = weights[i];
        free(x);
        group_free(&g);
    }
}

static double rate_total(const lq_rate_group *groups, int kind)
{
    double sum = 0;
    for (int i = 0; i < GROUPS; i++) {
        sum += kind == LQ_RATE_BITS ? groups[i].rate.bits : groups[i].rate.error * groups[i].weight;
    }
    return sum;
}

/* Bits moved from group j to group i, or back, do not lessen the error. */
static void check_slopes(const lq_rate_group *groups)
{
    static const float factors[4] = {0.5f, 0.75f, 1.4f, 2.0f};
    for (int i = 0; i < GROUPS; i++) {
        for (int j = 0; j < GROUPS; j++) {
            for (int k = 0; k < 4 && i != j; k++) {
                lq_rate a;
                double low = (double)groups[j].step / 64;
                double high = (double)groups[j].step * 64;
                double before = groups[i].rate.error * groups[i].weight +
                                groups[j].rate.error * groups[j].weight;
                CHECK(!lq_rate_of(&a, tables, groups[i].profile, groups[i].step * factors[k]));
                lq_rate b;
                for (int n = 0; n < 40; n++) { /* the finest step that the bits left allow */
                    double middle = sqrt(low * high);
                    CHECK(!lq_rate_of(&b, tables, groups[j].profile, (float)middle));
                    if (a.bits + b.bits > groups[i].rate.bits + groups[j].rate.bits) {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                CHECK(!lq_rate_of(&b, tables, groups[j].profile, (float)high));
                if (a.bits + b.bits > groups[i].rate.bits + groups[j].rate.bits) {
                    continue; /* j has not so many bits to give */
                }
                double after = a.error * groups[i].weight + b.error * groups[j].weight;
                CHECK(after > before * 0.9); /* classes: bits move in steps of 1/16 octave */
            }
        }
    }
}

static void test_rate_split(void)
{
    static const double bits[5] = {60, 200, 500, 1200, 3000};
    static const double errors[4] = {40, 3, 0.1, 0.001};
    lq_rate_group groups[GROUPS];
    lq_rate_group bad[GROUPS];
    double last = 1e300;
    double nan = (double)lq_f32_from_f16(0x7e00);
    rate_groups(groups);
    for (int i = 0; i < 9; i++) {
        int kind = i < 5 ? LQ_RATE_BITS : LQ_RATE_ERROR;
        double target = i < 5 ? bits[i] : errors[i - 5];
        CHECK(lq_rate_split(groups, GROUPS, tables, kind, target) == LQ_OK);
        CHECK(rate_total(groups, kind) <= target);
        CHECK(rate_total(groups, kind) > target * (kind == LQ_RATE_BITS ? 0.96 : 0.93));
        for (int k = 0; k < GROUPS; k++) {
            lq_rate rate;
            CHECK(!lq_rate_of(&rate, tables, groups[k].profile, groups[k].step));
            CHECK(fabs(rate.bits - groups[k].rate.bits) < 1e-12);
            CHECK(fabs(rate.error - groups[k].rate.error) <= 1e-12 * rate.error);
        }
        check_slopes(groups);
        if (kind == LQ_RATE_BITS) {
            CHECK(rate_total(groups, LQ_RATE_ERROR) < last);
            last = rate_total(groups, LQ_RATE_ERROR);
        }
    }
    CHECK(lq_rate_split(groups, GROUPS, tables, LQ_RATE_BITS, 1e-3) == LQ_E_RANGE); /* V's gains */
    CHECK(lq_rate_split(groups, GROUPS, tables, LQ_RATE_ERROR, 1e-30) == LQ_E_RANGE);
#define SPLIT_BAD(g, count, t, kind, target) \
    CHECK(lq_rate_split(g, count, t, kind, target) == LQ_E_ARG)
    SPLIT_BAD(NULL, GROUPS, tables, LQ_RATE_BITS, 100);
    SPLIT_BAD(groups, 0, tables, LQ_RATE_BITS, 100);
    SPLIT_BAD(groups, GROUPS, NULL, LQ_RATE_BITS, 100);
    SPLIT_BAD(groups, GROUPS, tables, 0, 100);
    SPLIT_BAD(groups, GROUPS, tables, 3, 100);
    SPLIT_BAD(groups, GROUPS, tables, LQ_RATE_BITS, 0);
    SPLIT_BAD(groups, GROUPS, tables, LQ_RATE_BITS, -1);
    SPLIT_BAD(groups, GROUPS, tables, LQ_RATE_BITS, nan);
    for (int i = 0; i < 5; i++) {
        memcpy(bad, groups, sizeof bad);
        bad[2].weight = i == 0 ? 0 : i == 1 ? -1 : i == 2 ? nan : i == 3 ? 1e13 : 1;
        bad[2].profile = i == 4 ? NULL : bad[2].profile;
        SPLIT_BAD(bad, GROUPS, tables, LQ_RATE_ERROR, 1);
    }
#undef SPLIT_BAD
    {
        lq_profile p = rate_profiles[2];
        CHECK(lq_rate_of(NULL, tables, &p, 1) == LQ_E_ARG);
        lq_rate rate;
        CHECK(lq_rate_of(&rate, NULL, &p, 1) == LQ_E_ARG);
        CHECK(lq_rate_of(&rate, tables, NULL, 1) == LQ_E_ARG);
        CHECK(lq_rate_of(&rate, tables, &p, 0) == LQ_E_ARG);
        CHECK(lq_rate_of(&rate, tables, &p, -1) == LQ_E_ARG);
        CHECK(lq_rate_of(&rate, tables, &p, (float)nan) == LQ_E_ARG);
        p.stream = 7;
        CHECK(lq_rate_of(&rate, tables, &p, 1) == LQ_E_ARG);
        p.stream = LQ_K;
        p.basis = 0;
        CHECK(lq_rate_of(&rate, tables, &p, 1) == LQ_E_ARG);
    }
    for (int i = 0; i < GROUPS; i++) {
        free(rate_mem[i]);
    }
}

/* ---- errors ---- */
static void test_add_errors(uint32_t stream)
{
    static const uint32_t dims[2] = {9, 6};
    const float nan = lq_f32_from_f16(0x7e00);
    const float infinite = lq_f32_from_f16(0x7c00);
    const float values[5] = {nan, infinite, -infinite, 2e12f, -3e38f};
    const void *slices[SLICES_MAX];
    uint32_t reads[2] = {0, 1};
    lq_positions at = positions_from(0);
    lq_vectors v;
    lq_klt klt;
    lq_klt before;
    group g;
    float *x;
    void *mem;
    void *workspace;
    uint8_t *saved;
    size_t bytes;
    size_t mem_bytes;
    source_seed = 150;
    group_make(&g, stream, dims, 2, stream == LQ_K, 0, 2, 0.5, 0);
    x = draw(&g, 300);
    v = vectors_of(&g, x, slices);
    bytes = lq_klt_workspace_bytes(&g.geometry);
    workspace = source_alloc(bytes);
    mem_bytes = lq_klt_bytes(&g.geometry);
    klt_start(&klt, &mem, &g.geometry);
#define ADD(expected, k, vectors, where, space, space_bytes) \
    CHECK(lq_klt_add(k, vectors, where, 300, space, space_bytes) == (expected))
#define QUERIES(expected, k, vectors, r, where, space, space_bytes) \
    CHECK(lq_klt_add_queries(k, vectors, r, 2, where, 300, space, space_bytes) == (expected))
    ADD(LQ_E_ARG, NULL, &v, &at, workspace, bytes);
    ADD(LQ_E_ARG, &klt, NULL, &at, workspace, bytes);
    ADD(LQ_E_ARG, &klt, &v, &at, NULL, bytes);
    ADD(LQ_E_SPACE, &klt, &v, &at, workspace, bytes - 1);
    QUERIES(LQ_E_ARG, NULL, &v, reads, &at, workspace, bytes);
    QUERIES(LQ_E_ARG, &klt, NULL, reads, &at, workspace, bytes);
    QUERIES(LQ_E_ARG, &klt, &v, NULL, &at, workspace, bytes);
    QUERIES(LQ_E_ARG, &klt, &v, reads, &at, NULL, bytes);
    if (stream == LQ_K) {
        QUERIES(LQ_E_SPACE, &klt, &v, reads, &at, workspace, bytes - 1);
        ADD(LQ_E_ARG, &klt, &v, NULL, workspace, bytes); /* there is a rope to undo */
        QUERIES(LQ_E_ARG, &klt, &v, reads, NULL, workspace, bytes);
        reads[1] = 2;
        QUERIES(LQ_E_ARG, &klt, &v, reads, &at, workspace, bytes);
        reads[1] = 1;
    } else {
        QUERIES(LQ_E_ARG, &klt, &v, reads, &at, workspace, bytes);
    }
    v.type = 9;
    ADD(LQ_E_ARG, &klt, &v, &at, workspace, bytes);
    QUERIES(LQ_E_ARG, &klt, &v, reads, &at, workspace, bytes);
    v.type = LQ_F32;
    v.slices = NULL;
    ADD(LQ_E_ARG, &klt, &v, &at, workspace, bytes);
    QUERIES(LQ_E_ARG, &klt, &v, reads, &at, workspace, bytes);
    v.slices = slices;
    CHECK(klt.tokens == 0 && klt.held_out == 0 && klt.queries == 0 && klt.blocks == 0);
    /* what is not finite or too large leaves everything as it was */
    ADD(LQ_OK, &klt, &v, &at, workspace, bytes);
    before = klt;
    saved = source_copy(mem, mem_bytes);
    for (int i = 0; i < 5 * 3; i++) {
        size_t where = (size_t)(i % 3) * 140 * 15 + 14 - (size_t)(i % 2) * 10;
        float old = x[where];
        int expected = i / 3 < 3 ? LQ_E_DATA : LQ_E_RANGE;
        x[where] = values[i / 3];
        ADD(expected, &klt, &v, &at, workspace, bytes);
        if (stream == LQ_K) {
            QUERIES(expected, &klt, &v, reads, &at, workspace, bytes);
        }
        CHECK(memcmp(&klt, &before, sizeof klt) == 0 && memcmp(mem, saved, mem_bytes) == 0);
        x[where] = old;
    }
    if (stream == LQ_V) { /* gains end at 2^31.75 */
        x[200 * 15 + 3] = 1e11f;
        CHECK(lq_klt_add(&klt, &v, &at, 300, workspace, bytes) <= 0);
        CHECK((klt.tokens == 600 - 64 && klt.held_out == 64) ||
              (memcmp(&klt, &before, sizeof klt) == 0 && memcmp(mem, saved, mem_bytes) == 0));
    }
    CHECK(lq_klt_add(&klt, &v, &at, 0, workspace, bytes) == LQ_OK);
    CHECK(memcmp(&klt, &before, sizeof klt) == 0 || stream == LQ_V);
#undef ADD
#undef QUERIES
    free(saved);
    free(mem);
    free(workspace);
    free(x);
    group_free(&g);
}

static void test_profile_errors(void)
{
    static const uint32_t dims[2] = {9, 6};
    const float nan = lq_f32_from_f16(0x7e00);
    lq_klt_desc good = klt_relative(0);
    lq_klt klt;
    group g;
    float *x;
    void *mem;
    void *workspace;
    uint8_t *dst;
    size_t written;
    size_t bound;
    size_t bytes;
    source_seed = 160;
    group_make(&g, LQ_K, dims, 2, 1, 0, 2, 0.5, 0);
    x = draw(&g, 64);
    lq_geometry geometry = g.geometry;
    CHECK(lq_klt_bytes(NULL) == 0 && lq_klt_workspace_bytes(NULL) == 0);
    CHECK(lq_klt_profile_bound(NULL) == 0 && lq_klt_profile_workspace_bytes(NULL) == 0);
    bytes = lq_klt_bytes(&geometry);
    mem = source_alloc(bytes);
    CHECK(lq_klt_init(NULL, mem, bytes, &geometry) == LQ_E_ARG);
    CHECK(lq_klt_init(&klt, mem, bytes, NULL) == LQ_E_ARG);
    CHECK(lq_klt_init(&klt, NULL, bytes, &geometry) == LQ_E_SPACE);
    CHECK(lq_klt_init(&klt, mem, bytes - 1, &geometry) == LQ_E_SPACE);
    geometry.stream = 3;
    CHECK(lq_klt_bytes(&geometry) == 0);
    CHECK(lq_klt_init(&klt, mem, bytes, &geometry) == LQ_E_ARG);
    geometry.stream = LQ_K;
    geometry.basis = LQ_BASIS_DENSE; /* does not count */
    CHECK(lq_klt_bytes(&geometry) == bytes);
    CHECK(lq_klt_init(&klt, mem, bytes, &geometry) == LQ_OK);
    bound = lq_klt_profile_bound(&klt);
    bytes = lq_klt_profile_workspace_bytes(&klt);
    workspace = source_alloc(bytes);
    dst = (uint8_t *)source_alloc(bound);
    CHECK(klt_tokens(&klt, &g, x, 63) == LQ_OK);
#define PROFILE(expected, k, to, room, d, space, space_bytes)                                    \
    do {                                                                                         \
        written = 99;                                                                            \
        CHECK(lq_klt_profile(k, to, room, &written, d, NULL, space, space_bytes) == (expected)); \
        CHECK((written == 0) == ((expected) != LQ_OK));                                          \
    } while (0)
    PROFILE(LQ_E_ARG, &klt, dst, bound, &good, workspace, bytes); /* too few tokens */
    free(mem);
    klt_start(&klt, &mem, &g.geometry);
    CHECK(klt_tokens(&klt, &g, x, 64) == LQ_OK);
    PROFILE(LQ_E_ARG, NULL, dst, bound, &good, workspace, bytes);
    PROFILE(LQ_E_ARG, &klt, NULL, bound, &good, workspace, bytes);
    PROFILE(LQ_E_ARG, &klt, dst, bound, NULL, workspace, bytes);
    PROFILE(LQ_E_ARG, &klt, dst, bound, &good, NULL, bytes);
    PROFILE(LQ_E_SPACE, &klt, dst, bound - 1, &good, workspace, bytes);
    PROFILE(LQ_E_SPACE, &klt, dst, bound, &good, workspace, bytes - 1);
    CHECK(lq_klt_profile(&klt, dst, bound, NULL, &good, NULL, workspace, bytes) == LQ_E_ARG);
    for (int i = 0; i < 12; i++) {
        lq_klt_desc bad = good;
        bad.step = i == 0 ? -1.0f : i == 1 ? nan : i == 2 ? 1e-35f : i == 3 ? 1e35f : 0.0f;
        bad.beta = i == 4 ? 1.01f : i == 5 ? nan : 0.0f;
        bad.tolerance = i == 6 ? -0.1f : i == 7 ? nan : i == 8 ? 1.5f : 0.0f;
        bad.unit = i == 9 ? -1.0f : 0;
        bad.own = i == 10 ? -1 : i == 11 ? 2 : 0;
        PROFILE(LQ_E_ARG, &klt, dst, bound, &bad, workspace, bytes);
    }
    PROFILE(LQ_OK, &klt, dst, bound, &good, workspace, bytes);
#undef PROFILE
    free(workspace);
    free(dst);
    free(mem);
    free(x);
    group_free(&g);
}

static void test_pays_errors(void)
{
    static const uint32_t dims[1] = {8};
    lq_klt_desc desc = klt_desc(0.2f);
    source_seed = 170;
    group g;
    group_make(&g, LQ_K, dims, 1, 0, 0, 2, 0.5, 0);
    float *x = draw(&g, 128);
    blob file;
    (void)calibrate(&file, &g, x, 128, NULL, &desc);
    lq_profile p;
    void *mem;
    load_ok(&p, &mem, &file);
    void *fit_mem;
    lq_fit fit;
    fit_dense(&fit, &fit_mem, &g, p.dense, x, 128, 0.2f);
    CHECK(lq_fit_pays(NULL, &fit, &p, 100) == LQ_E_ARG);
    int answer;
    CHECK(lq_fit_pays(&answer, NULL, &p, 100) == LQ_E_ARG);
    CHECK(lq_fit_pays(&answer, &fit, NULL, 100) == LQ_E_ARG);
    lq_fit empty = fit;
    empty.tokens = 0;
    CHECK(lq_fit_pays(&answer, &empty, &p, 100) == LQ_E_ARG);
    lq_profile bad = p;
    bad.stream = LQ_V; /* one row more */
    CHECK(lq_fit_pays(&answer, &fit, &bad, 100) == LQ_E_ARG);
    bad = p;
    bad.dims = 7;
    CHECK(lq_fit_pays(&answer, &fit, &bad, 100) == LQ_E_ARG);
    bad = p;
    bad.sigma = NULL;
    CHECK(lq_fit_pays(&answer, &fit, &bad, 100) == LQ_E_ARG);
    CHECK(lq_fit_pays(&answer, &fit, &p, UINT64_MAX) == LQ_OK);
    free(fit_mem);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

static void test_pack_errors(void)
{
    static const uint32_t dims[2] = {16, 16};
    static const uint32_t reads[2] = {0, 1};
    static const uint32_t wrong[2] = {0, 2};
    lq_klt_desc desc = klt_desc(0.25f);
    const void *slices[SLICES_MAX];
    lq_vectors q;
    lq_archive_pack_desc good;
    lq_archive_pack_desc d;
    lq_profile p;
    void *mem;
    blob file;
    archive a;
    group g;
    float *x;
    size_t bytes;
    void *workspace;
    source_seed = 180;
    group_make(&g, LQ_K, dims, 2, 1, 4, 6, 2, 0.2);
    x = draw(&g, 300);
    q = vectors_of(&g, x, slices);
    (void)calibrate(&file, &g, x, 300, NULL, &desc);
    load_ok(&p, &mem, &file);
    archive_start(&a, &g);
    good = pack_desc(&a, &g, 0.25f);
    good.calibrate = 1;
    good.sinks = LQ_NO_SINKS;
#define PACK_BAD(expected)                                                              \
    do {                                                                                \
        CHECK(pack(&a, &d, &g, x, 300) == (expected));                                  \
        CHECK(a.writer.run_count == 0 && !a.writer.in_run && a.writer.page_count == 0); \
    } while (0)
    d = good;
    d.refit = 1;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.profile = &p;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.queries = &q;
    PACK_BAD(LQ_E_ARG); /* which slices do they read? */
    d.reads = wrong;
    d.query_heads = 2;
    PACK_BAD(LQ_E_ARG);
    d.reads = reads;
    d.calibrate = 0;
    PACK_BAD(LQ_E_ARG);
    d.calibrate = 1;
    q.type = 0;
    PACK_BAD(LQ_E_ARG);
    q.type = LQ_F32;
    q.slices = NULL;
    PACK_BAD(LQ_E_ARG);
    q.slices = slices;
    x[200 * 32 + 5] = lq_f32_from_f16(0x7e00);
    PACK_BAD(LQ_E_DATA);
    d = good;
    PACK_BAD(LQ_E_DATA);
    x[200 * 32 + 5] = 0;
    d = good; /* a workspace that suffices without calibration */
    d.calibrate = 0;
    bytes = lq_archive_pack_workspace_bytes(&d);
    CHECK(lq_archive_pack_workspace_bytes(&good) > bytes);
    workspace = source_alloc(bytes);
    {
        lq_positions at = positions_from(0);
        CHECK(lq_archive_pack(&a.writer, &good, &q, &at, 300, workspace, bytes) == LQ_E_SPACE);
    }
    free(workspace);
    d = good; /* the profile is of another group */
    d.calibrate = 0;
    d.profile = &p;
    d.geometry.slice_count = 1;
    PACK_BAD(LQ_E_ARG);
#undef PACK_BAD
    d = good;
    d.queries = &q;
    d.reads = reads;
    d.query_heads = 2;
    CHECK(pack(&a, &d, &g, x, 300) == LQ_OK);
    archive_free(&a);
    free(mem);
    free(file.bytes);
    free(x);
    group_free(&g);
}

/* A run that names a calibrated profile of other vectors than its group's. */
static void test_unpack_misfit(void)
{
    static const uint32_t dims[2] = {16, 16};
    static const uint32_t fewer[1] = {16};
    lq_klt_desc desc = klt_desc(0.25f);
    lq_archive_profile_desc stored = {NULL, 0, NULL};
    static float y[100 * 32];
    source_seed = 190;
    lq_profile p[2];
    void *mem[2];
    blob file[2];
    group g[2];
    float *x[2];
    for (int k = 0; k < 2; k++) {
        group_make(&g[k], LQ_K, k ? fewer : dims, k ? 1 : 2, 0, 0, 2, 0.5, 0);
        x[k] = draw(&g[k], 128);
        (void)calibrate(&file[k], &g[k], x[k], 128, NULL, &desc);
        load_ok(&p[k], &mem[k], &file[k]);
    }
    archive a;
    archive_start(&a, &g[0]);
    lq_archive_pack_desc d = pack_desc(&a, &g[0], 0.25f);
    d.sinks = LQ_NO_SINKS;
    d.profile = &p[0];
    stored.hash = p[1].basis_hash;
    CHECK(lq_archive_add_profile(&a.writer, &stored, &d.profile_id) == LQ_OK);
    CHECK(pack(&a, &d, &g[0], x[0], 100) == LQ_OK);
    archive_done(&a);
    CHECK(unpack(&a, &g[0], &p[0], y, 0, 100) == LQ_E_FORMAT);
    CHECK(unpack(&a, &g[0], &p[1], y, 0, 100) == LQ_E_FORMAT);
    archive_free(&a);
    for (int k = 0; k < 2; k++) {
        free(x[k]);
        free(mem[k]);
        free(file[k].bytes);
        group_free(&g[k]);
    }
}

static void test_all_levels(void)
{
    static const uint32_t widths[8] = {1, 2, 3, 64, 65, 192, 257, 960};
    static const int least[8] = {0, 0, 0, 0, 0, 1, 2, 2}; /* the size that runs it */
    for (int i = 0; i < 8; i++) {
        if (size >= least[i]) {
            test_levels(LQ_K, widths[i]);
            if (widths[i] < 960) test_levels(LQ_V, widths[i]);
        }
    }
}

int main(int argc, char **argv)
{
    void *memory = source_alloc(lq_tables_bytes());
    size = argc < 2 ? 2 : strcmp(argv[1], "full") == 0 ? 2 : strcmp(argv[1], "tiny") == 0 ? 0 : 1;
    levels = lq_cpu_limit(-1);
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        test_recovery(stream, stream == LQ_K);
        test_fine(stream);
        test_file(stream);
        test_fit(stream);
        test_extreme_pages(stream);
        test_pack_calibrate(stream);
        for (int k = 0; k < 4; k++) {
            external(stream, k & 1, k >> 1);
        }
        test_rate_of(stream);
        test_add_errors(stream);
    }
    test_sizes();
    test_unit();
    test_merge(LQ_K);
    test_merge(LQ_V);
    test_rate_of_classes();
    test_queries(0);
    test_queries(1);
    test_few();
    test_own(LQ_K);
    test_own(LQ_V);
    test_degenerate();
    test_units();
    test_range();
    test_stripped();
    test_geometry();
    test_all_levels();
    test_pairs();
    test_extreme_vectors();
    test_hostile_matrices();
    test_refit_size();
    test_rate_split();
    test_profile_errors();
    test_pays_errors();
    test_pack_errors();
    test_unpack_misfit();
    free(memory);
    return check_report("test_calibrate");
}
