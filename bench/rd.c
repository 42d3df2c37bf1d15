/* cc -O2 bench/rd.c -o rd -lm */

/* rd.c - realised rate and distortion of every quantizer on a Gaussian source

   2^22 samples of N(0, 1) go through real pages (K stream, the format's largest, 64 tokens of 8192
   dims, with a profile that knows sigma = 1) at the step that gives the wanted rate. Rates are
   bytes written: trailers, coder states and all. The figure is MSE * 4^R; Shannon's bound is 1.

       plain     points of the lattice as they are (trellises have none)
       decoded   what lq_codec_decode returns: Z's centroids, the Wiener factor of D4 and E8, the
                 trellises' levels
       limit     2 pi e G, the high-rate limit of an ideal joint coder (G: normalised second moment)
       known     measured elsewhere at that rate (research/01 section 6, case 3, and research/02,
                 section 3.3): Z decoded, D4 with a joint coder, E8 plain and decoded

   ./rd --json is for bench/plot.c. ./rd --check fails when at 3 bits MSE * 4^R exceeds 1.445 for Z decoded, 1.35 for D4, 1.28 for E8
   plain or 1.25 for E8 decoded, 1.125 for 8 states, 1.082 for 64. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum {
    RD_COUNT = 1 << 22,
    RD_DIMS = 8192,
    RD_TOKENS = RD_COUNT / RD_DIMS,
    RD_PAGES = RD_TOKENS / 64,
    RD_RATES = 10,
    RD_QUANTIZERS = 6,
    RD_FORMS = 5
};

static const double rd_rates[RD_RATES] = {0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4};

typedef struct rd_quantizer {
    const char *name;
    int id;
    double limit;
    double known_plain[RD_RATES]; /* 0: not known */
    double known_decoded[RD_RATES];
    double most_plain; /* at 3 bits, for --check; 9: any */
    double most_decoded;
} rd_quantizer;

static const rd_quantizer rd_quantizers[RD_QUANTIZERS] = {
    {"Z", LQ_Z, 1.4233, {0}, {0, 0, 0, 1.392, 1.422, 1.422, 0, 1.423, 0, 0}, 9, 1.445},
    {"D4", LQ_D4, 1.3083, {0, 0, 0, 1.342, 0, 1.309, 0, 1.309, 0, 1.308}, {0}, 1.35, 1.35},
    {"E8",
     LQ_E8,
     1.2243,
     {0, 0, 0, 1.997, 1.583, 1.376, 1.296, 1.260, 1.242, 1.234},
     {0, 0, 0, 1.385, 1.323, 1.267, 1.245, 1.236, 1.230, 1.228},
     1.28,
     1.25},
    {"E8 relaxed", LQ_E8_RELAXED, 0, {0}, {0}, 0, 0},
    {"8 states", LQ_TRELLIS_8, 0, {0}, {0}, 9, 1.125},
    {"64 states", LQ_TRELLIS_64, 0, {0}, {0}, 9, 1.082},
};

/* Everything one measurement needs. */
typedef struct rd_state {
    const lq_tables *tables;
    float *x;
    float *y;
    int16_t *points;
    uint8_t *pages;
    uint8_t *codec_mem;
    uint8_t *workspace;
    size_t pages_bytes;
    size_t codec_bytes;
    size_t workspace_bytes;
    size_t page_bytes[RD_PAGES];
    lq_profile profile;
    uint32_t dims[1];
    int failed;
} rd_state;

static void rd_fail(const char *what, int status)
{
    (void)fprintf(stderr, "rd: %s: %s\n", what, lq_status_string(status));
    exit(1);
}

static void *rd_alloc(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) rd_fail("memory", LQ_E_NOMEM);
    return p;
}

/* --------------------------------------------------------------------------------------- source */

/* splitmix64, upper 53 bits, in (0, 1). */
static double rd_uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((double)(z >> 11) + 0.5) / 9007199254740992.0;
}

/* Box-Muller. */
static void rd_gaussian(float *x, size_t count)
{
    uint64_t state = 20240607;
    for (size_t i = 0; i < count; i += 2) {
        double r = sqrt(-2.0 * log(rd_uniform(&state)));
        double angle = 6.283185307179586 * rd_uniform(&state);
        x[i] = (float)(r * cos(angle));
        x[i + 1] = (float)(r * sin(angle));
    }
}

static double rd_mse(const float *x, const float *y)
{
    double sum = 0.0;
    for (size_t i = 0; i < RD_COUNT; i++) {
        double e = (double)x[i] - (double)y[i];
        sum += e * e;
    }
    return sum / (double)RD_COUNT;
}

/* ---------------------------------------------------------------------------------------- pages */

static lq_codec *rd_codec(rd_state *s, int page, int quantizer, int bits, float step)
{
    lq_codec_desc d;
    memset(&d, 0, sizeof d);
    d.tables = s->tables;
    d.profile = &s->profile;
    d.geometry.stream = LQ_K;
    d.geometry.slice_count = 1;
    d.geometry.slice_dims = s->dims;
    d.page = page;
    d.quantizer = quantizer;
    d.bits = bits;
    d.step = step;
    if (lq_codec_bytes(&d) > s->codec_bytes) {
        s->codec_bytes = lq_codec_bytes(&d);
        free(s->codec_mem);
        s->codec_mem = (uint8_t *)rd_alloc(s->codec_bytes);
    }
    lq_codec *codec;
    int status = lq_codec_init(&codec, s->codec_mem, s->codec_bytes, &d);
    if (status) rd_fail("lq_codec_init", status);
    if (lq_codec_page_bound(codec) * RD_PAGES > s->pages_bytes) {
        s->pages_bytes = lq_codec_page_bound(codec) * RD_PAGES;
        free(s->pages);
        s->pages = (uint8_t *)rd_alloc(s->pages_bytes);
    }
    if (lq_codec_workspace_bytes(codec) > s->workspace_bytes) {
        s->workspace_bytes = lq_codec_workspace_bytes(codec);
        free(s->workspace);
        s->workspace = (uint8_t *)rd_alloc(s->workspace_bytes);
    }
    return codec;
}

/* Bits a sample of the pages of all samples. */
static double rd_encode(rd_state *s, const lq_codec *codec)
{
    const void *slices[1];
    slices[0] = s->x;
    lq_vectors src;
    src.slices = slices;
    src.token_stride = 0;
    src.type = LQ_F32;
    size_t written;
    int status = lq_codec_encode(codec, s->pages, s->pages_bytes, &written, s->page_bytes, &src,
                                 NULL, RD_TOKENS, s->workspace, s->workspace_bytes);
    if (status) rd_fail("lq_codec_encode", status);
    return 8.0 * (double)written / (double)RD_COUNT;
}

static void rd_decode(rd_state *s, const lq_codec *codec)
{
    const uint8_t *pages[RD_PAGES];
    const uint8_t *at = s->pages;
    for (size_t i = 0; i < RD_PAGES; i++) {
        pages[i] = at;
        at += s->page_bytes[i];
    }
    void *slices[1];
    slices[0] = s->y;
    lq_vectors_out dst;
    dst.slices = slices;
    dst.token_stride = 0;
    dst.type = LQ_F32;
    int status = lq_codec_decode(codec, &dst, NULL, RD_TOKENS, pages, s->page_bytes, s->workspace,
                                 s->workspace_bytes);
    if (status) rd_fail("lq_codec_decode", status);
}

/* -------------------------------------------------------------------------------- entropy coded */

/* y, as decoded, becomes the plain points behind it. Z: the integer whose cell holds the centroid.
   Lattices: the nearest points, after a check that y is those times one factor; numbers at the
   border of two cells after rounding to 2^-12 steps, 1 in 300 or so, may fall to either side. */
static void rd_plain(rd_state *s, int quantizer, float step)
{
    double yp = 0.0;
    double pp = 0.0;
    size_t other = 0;
    int status = lq_lattice_nearest(s->points, s->x, RD_COUNT, step, quantizer);
    if (status) rd_fail("lq_lattice_nearest", status);
    if (quantizer == LQ_Z) {
        for (size_t i = 0; i < RD_COUNT; i++) {
            s->y[i] = (float)(floor((double)s->y[i] / (double)step + 0.5) * (double)step);
        }
        return;
    }
    for (size_t i = 0; i < RD_COUNT; i++) {
        yp += (double)s->y[i] * s->points[i];
        pp += (double)s->points[i] * s->points[i];
    }
    for (size_t i = 0; i < RD_COUNT; i++) {
        other += fabs((double)s->y[i] - yp / pp * s->points[i]) > 0.01 * (double)step;
    }
    if (other > RD_COUNT / 100) {
        printf("  %d of the points in the pages are not the nearest\n", (int)other);
        s->failed = 1;
    }
    status = lq_lattice_point(s->y, s->points, RD_COUNT, step, quantizer);
    if (status) rd_fail("lq_lattice_point", status);
}

/* The step at which the pages take `rate` bits, within 1e-4, and the codec of it. */
static lq_codec *rd_find(rd_state *s, int quantizer, double rate, float *step, double *real)
{
    double log_step = 2.05 - rate;
    for (int i = 0;; i++) {
        *step = (float)exp2(log_step);
        lq_codec *codec = rd_codec(s, LQ_PAGE_CODED, quantizer, 0, *step);
        *real = rd_encode(s, codec);
        if (fabs(*real - rate) < 1e-4 || i == 30) return codec;
        log_step += (*real - rate) * (i < 15 ? 1.0 : 0.5);
    }
}

static void rd_known(double known)
{
    if (known > 0.0) {
        printf(" %7.3f", known);
    } else {
        printf(" %7s", "-");
    }
}

/* A point of the plot: dB of the squared error above Shannon's bound. */
static void rd_point(const char *curve, double rate, double factor)
{
    printf("{\"codec\":\"%s\",\"curve\":\"%s\",\"bits\":%.4f,\"decibel\":%.3f}\n", curve, curve,
           rate, 10.0 * log10(factor));
}

static void rd_coded(rd_state *s, const rd_quantizer *q, int check, int json)
{
    for (int i = 0; i < RD_RATES; i++) {
        double rate, plain, decoded, mse;
        float step;
        lq_codec *codec = rd_find(s, q->id, rd_rates[i], &step, &rate);
        rd_decode(s, codec);
        mse = rd_mse(s->x, s->y);
        decoded = mse * pow(4.0, rate);
        if (json) {
            /* no step gives some of the low rates: a class of coefficients lives or is dead */
            if (fabs(rate - rd_rates[i]) < 0.1) rd_point(q->name, rate, decoded);
            continue;
        }
        plain = 0.0;
        if (q->id < LQ_TRELLIS_8) {
            rd_plain(s, q->id, step);
            plain = rd_mse(s->x, s->y) * pow(4.0, rate);
        }
        printf("%-11s %7.4f %8.4f %9.6f", q->name, rate, (double)step, mse);
        if (plain > 0.0) {
            printf(" %8.4f %6.2f", plain, 10.0 * log10(plain));
        } else {
            printf(" %8s %6s", "-", "-");
        }
        printf(" %8.4f %6.2f", decoded, 10.0 * log10(decoded));
        rd_known(q->limit);
        rd_known(q->known_plain[i]);
        rd_known(q->known_decoded[i]);
        printf("\n");
        if (check && rd_rates[i] > 2.9 && rd_rates[i] < 3.1 && q->most_plain > 0.0) {
            int good = plain <= q->most_plain && decoded <= q->most_decoded;
            printf("  check at 3 bits: %s\n", good ? "ok" : "FAILED");
            s->failed |= !good;
        }
    }
}

/* ---------------------------------------------------------------------------------- fixed width */

typedef struct rd_form {
    const char *name;
    int id;
    int bits;
} rd_form;

static const rd_form rd_forms[RD_FORMS] = {
    {"Z 8 bit", LQ_Z, 8}, {"Z 4 bit", LQ_Z, 4},   {"Z 3 bit", LQ_Z, 3},
    {"Z 2 bit", LQ_Z, 2}, {"E8 4 bit", LQ_E8, 4},
};

/* Exact mean-square error of Z's half-integer grid of 2^bits levels on N(0, 1). */
static double rd_uniform_mse(int bits, double step)
{
    int levels = 1 << (bits - 1);
    double sum = 0.0;
    for (int i = 0; i < levels; i++) {
        double a = i * step;
        double b = i + 1 < levels ? a + step : 40.0;
        double y = a + step / 2.0;
        double pa = exp(-a * a / 2.0) / sqrt(6.283185307179586);
        double pb = exp(-b * b / 2.0) / sqrt(6.283185307179586);
        double mass = (erfc(a * sqrt(0.5)) - erfc(b * sqrt(0.5))) / 2.0;
        sum += mass + a * pa - b * pb - 2.0 * y * (pa - pb) + y * y * mass;
    }
    return 2.0 * sum;
}

/* What the golden-section search minimises: the exact error (s NULL) or the measured one. */
static double rd_fixed_mse(rd_state *s, const rd_form *f, double step)
{
    size_t bytes = lq_fixed_bytes(RD_COUNT, f->id, f->bits);
    if (!s) return rd_uniform_mse(f->bits, step);
    int status =
        lq_fixed_encode(s->pages, s->pages_bytes, s->x, RD_COUNT, (float)step, f->id, f->bits);
    if (!status) {
        status = lq_fixed_decode(s->y, s->pages, bytes, RD_COUNT, (float)step, f->id, f->bits);
    }
    if (status) rd_fail(f->name, status);
    return rd_mse(s->x, s->y);
}

static double rd_best_step(rd_state *s, const rd_form *f)
{
    double low = 2.0 / (1 << f->bits);
    double high = 14.0 / (1 << f->bits);
    for (int i = 0; i < 24; i++) {
        double a = low + 0.381966 * (high - low);
        double b = low + 0.618034 * (high - low);
        if (rd_fixed_mse(s, f, a) < rd_fixed_mse(s, f, b)) {
            high = b;
        } else {
            low = a;
        }
    }
    return (low + high) / 2.0;
}

static void rd_fixed(rd_state *s, const rd_form *f, int json)
{
    double step = rd_best_step(s, f);
    lq_codec *codec = rd_codec(s, LQ_PAGE_FIXED, f->id, f->bits, (float)step);
    double rate = rd_encode(s, codec);
    rd_decode(s, codec);
    double mse = rd_mse(s->x, s->y);
    if (json) {
        const char *name = f->id == LQ_Z ? "Z, fixed width" : "E8, fixed width";
        if (f->bits < 8) rd_point(name, rate, mse * pow(4.0, rate)); /* the others would be small */
        return;
    }
    printf("%-11s %7.4f %8.4f %9.3e %8.4f %6.2f", f->name, rate, step, mse, mse * pow(4.0, rate),
           10.0 * log10(mse * pow(4.0, rate)));
    if (f->id == LQ_Z) {
        double best = rd_best_step(NULL, f);
        printf("   exact: step %.4f, MSE %.3e", best, rd_uniform_mse(f->bits, best));
    }
    printf("\n");
}

/* The 47 bits of a Leech point and a gain of 1: no pages, so the array's own bytes. */
static void rd_llvq(rd_state *s, int json)
{
    const lq_llvq *llvq;
    size_t most = lq_llvq_bytes();
    void *memory = rd_alloc(most);
    int status = lq_llvq_init(&llvq, memory, most, NULL);
    if (status) rd_fail("lq_llvq_init", status);
    size_t bytes = lq_llvq_encode_bytes(llvq, RD_COUNT);
    if (bytes > s->pages_bytes) rd_fail("lq_llvq_encode_bytes", LQ_E_SPACE);
    status = lq_llvq_encode(llvq, s->pages, bytes, s->x, RD_COUNT, 1.0f);
    if (!status) status = lq_llvq_decode(llvq, s->y, s->pages, bytes, RD_COUNT, 1.0f);
    if (status) rd_fail("lq_llvq", status);
    double rate = 8.0 * (double)bytes / RD_COUNT;
    double mse = rd_mse(s->x, s->y);
    double factor = mse * pow(4.0, rate);
    if (json) {
        rd_point("LLVQ", rate, factor);
    } else {
        printf("%-11s %7.4f %8s %9.3e %8.4f %6.2f\n", "LLVQ 2 bit", rate, "-", mse, factor,
               10.0 * log10(factor));
    }
    free(memory);
}

int main(int argc, char **argv)
{
    int check = argc == 2 && !strcmp(argv[1], "--check");
    int json = argc == 2 && !strcmp(argv[1], "--json");
    void *tables = rd_alloc(lq_tables_bytes());
    void *profile = rd_alloc(lq_profile_bytes(RD_DIMS));
    int i, status;
    if (argc > 1 && !check && !json) {
        (void)fprintf(stderr, "usage: rd [--check | --json]\n");
        return 1;
    }
    rd_state s;
    memset(&s, 0, sizeof s);
    lq_geometry geometry;
    memset(&geometry, 0, sizeof geometry);
    s.dims[0] = RD_DIMS;
    geometry.stream = LQ_K;
    geometry.slice_count = 1;
    geometry.slice_dims = s.dims;
    s.x = (float *)rd_alloc(RD_COUNT * sizeof *s.x);
    s.y = (float *)rd_alloc(RD_COUNT * sizeof *s.y);
    s.points = (int16_t *)rd_alloc(RD_COUNT * sizeof *s.points);
    rd_gaussian(s.x, RD_COUNT);
    status = lq_tables_init(&s.tables, tables, lq_tables_bytes());
    if (!status) {
        status = lq_profile_init(&s.profile, profile, lq_profile_bytes(RD_DIMS), &geometry, 1.0f);
    }
    if (status) rd_fail("start", status);
    if (!json) {
        printf("2^22 samples of N(0, 1), pages of 64 x %d, bytes as written\n\n", RD_DIMS);
        printf("%-11s %7s %8s %9s %8s %6s %8s %6s %7s %7s %7s\n", "", "bits", "step", "MSE",
               "plain", "dB", "decoded", "dB", "limit", "known", "known");
        printf("%-11s %7s %8s %9s %8s %6s %8s %6s %7s %7s %7s\n", "", "", "", "decoded", "x 4^R",
               "", "x 4^R", "", "", "plain", "decoded");
    }
    for (i = 0; i < RD_QUANTIZERS; i++) {
        rd_coded(&s, &rd_quantizers[i], check, json);
    }
    if (!json) {
        printf("\n%-11s %7s %8s %9s %8s %6s\n", "fixed", "bits", "step", "MSE", "x 4^R", "dB");
    }
    for (i = 0; i < RD_FORMS; i++) {
        rd_fixed(&s, &rd_forms[i], json);
    }
    rd_llvq(&s, json);
    free(s.x);
    free(s.y);
    free(s.points);
    free(s.pages);
    free(s.codec_mem);
    free(s.workspace);
    free(tables);
    free(profile);
    return s.failed;
}
