/* cc -std=c99 -O2 tests/test_pack.c -o test_pack -lm    lq_archive_pack and lq_archive_unpack on the
   sample, and the figures that the README states. `test_pack quick` looks at fewer ranges. Runs
   from the root. */
static unsigned long long steps_done; /* bytes hashed, rows looked at, steps of searches */
#define LQ__WORK(n) ((void)(steps_done += (n)))
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include "../examples/rivals.h"
#include "check.h"
#include "source.h"

#include "archive.h"

enum { LAYERS = SAMPLE_LAYERS, HEADS = SAMPLE_HEADS, TOKENS = SAMPLE_TOKENS, DIMS = SAMPLE_DIMS };
enum { COUNT = SAMPLE_COUNT, SINKS = SAMPLE_SINKS, LAYER_COUNT = HEADS * TOKENS * DIMS };
enum { TRAILER = 4, FILE_BYTES = 1 << 22, DIRECTORY_BYTES = 1 << 20 };

static const lq_tables *tables;
static uint16_t *sample_k;
static uint16_t *sample_v;
static uint16_t *sample_q;
static float freqs[DIMS / 2];
static lq_rope rope;
static const uint32_t head_dims[HEADS] = {DIMS, DIMS, DIMS};

/* ---- an archive being written and read ---- */
static void archive_start(archive *a)
{
    archive_begin(a, FILE_BYTES, DIRECTORY_BYTES);
    CHECK(lq_archive_add_rope(&a->writer, &rope, &a->id) == LQ_OK);
}

/* A group of `heads` heads of a layer from `head` on. */
static uint32_t add_group(archive *a, uint32_t stream, uint32_t layer, uint32_t head,
                          uint32_t heads)
{
    lq_archive_group_desc g;
    uint32_t id = 0;
    memset(&g, 0, sizeof g);
    lq_slice slices[HEADS];
    memset(slices, 0, sizeof slices);
    for (uint32_t i = 0; i < heads; i++) {
        slices[i].layer = layer;
        slices[i].head = head + i;
        slices[i].first_dim = 0;
        slices[i].dims = DIMS;
    }
    g.stream = stream;
    g.rope = stream == LQ_K ? a->id : LQ_ARCHIVE_NONE;
    g.slices = slices;
    g.slice_count = heads;
    CHECK(lq_archive_add_group(&a->writer, &g, &id) == LQ_OK);
    return id;
}

static lq_archive_pack_desc pack_desc(uint32_t stream, uint32_t heads, uint32_t group, float step)
{
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.geometry.stream = stream;
    d.geometry.slice_count = heads;
    d.geometry.slice_dims = head_dims;
    d.geometry.rope = stream == LQ_K ? &rope : NULL;
    d.group = group;
    d.step = step;
    return d;
}

/* Packs tokens [first, first + tokens) of heads of the sample. */
static int pack(archive *a, const lq_archive_pack_desc *d, uint32_t layer, uint32_t head,
                size_t first, size_t tokens)
{
    const uint16_t *data = d->geometry.stream == LQ_K ? sample_k : sample_v;
    size_t workspace_bytes = lq_archive_pack_workspace_bytes(d);
    void *workspace = source_alloc(workspace_bytes);
    const void *slices[HEADS];
    lq_vectors v = {NULL, 0, LQ_F16};
    lq_positions positions = {0, 1, NULL};
    for (uint32_t i = 0; i < d->geometry.slice_count; i++) {
        slices[i] = data + ((layer * HEADS + head + i) * TOKENS + first) * DIMS;
    }
    v.slices = slices;
    positions.first = (int64_t)first;
    CHECK(workspace_bytes > 0);
    int status = lq_archive_pack(&a->writer, d, &v, &positions, tokens, workspace, workspace_bytes);
    free(workspace);
    return status;
}

/* Unpacks tokens of a group to (heads, tokens, DIMS) of `type`. */
static int unpack(const archive *a, uint32_t group, uint64_t sequence, void *dst, int type,
                  uint32_t heads, uint64_t first, size_t tokens)
{
    size_t workspace_bytes = lq_archive_unpack_workspace_bytes(&a->reader, group);
    void *workspace = source_alloc(workspace_bytes);
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.group = group;
    d.sequence = sequence;
    void *slices[HEADS];
    for (uint32_t i = 0; i < heads; i++) {
        slices[i] = (uint8_t *)dst + i * tokens * DIMS * lq_type_bytes(type);
    }
    lq_vectors_out out;
    out.slices = slices;
    out.token_stride = 0;
    out.type = type;
    int status = lq_archive_unpack(&a->reader, &d, &out, first, tokens, workspace, workspace_bytes);
    free(workspace);
    return status;
}

/* ---- errors that matter: logits of the real queries, and the output of attention ---- */
static double queries[LAYERS][SAMPLE_QUERY_HEADS][SAMPLE_QUERIES][DIMS]; /* over 8 */
static double reference_logits[LAYERS][SAMPLE_QUERY_HEADS][SAMPLE_QUERIES][TOKENS];
static double weights[LAYERS][SAMPLE_QUERY_HEADS][SAMPLE_QUERIES][TOKENS]; /* their softmax */

/* Tokens that a query sees. */
static int context(int query)
{
    return TOKENS - SAMPLE_QUERIES + query + 1;
}

static double logit(const double *query, const float *key)
{
    double sum[4] = {0, 0, 0, 0}; /* four chains: additions wait for each other */
    for (int i = 0; i < DIMS; i += 4) {
        sum[0] += query[i] * (double)key[i];
        sum[1] += query[i + 1] * (double)key[i + 1];
        sum[2] += query[i + 2] * (double)key[i + 2];
        sum[3] += query[i + 3] * (double)key[i + 3];
    }
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

static const float *head_of(const float *x, int layer, int query_head)
{
    return x + (layer * HEADS + query_head / 3) * TOKENS * DIMS;
}

/* Mean square over the causal pairs. */
static double logit_error(const float *k)
{
    double sum = 0;
    double pairs = 0;
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < SAMPLE_QUERY_HEADS; h++) {
            const float *head = head_of(k, l, h);
            for (int q = 0; q < SAMPLE_QUERIES; q++) {
                for (int t = 0; t < context(q); t++) {
                    double e =
                        logit(queries[l][h][q], head + t * DIMS) - reference_logits[l][h][q][t];
                    sum += e * e;
                }
                pairs += context(q);
            }
        }
    }
    return sum / pairs;
}

/* Mean square of the change of softmax(logits) V. */
static double output_error(const float *v)
{
    static float change[COUNT];
    double sum = 0;
    for (int i = 0; i < COUNT; i++) {
        change[i] = v[i] - lq_f32_from_f16(sample_v[i]);
    }
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < SAMPLE_QUERY_HEADS; h++) {
            const float *head = head_of(change, l, h);
            for (int q = 0; q < SAMPLE_QUERIES; q++) {
                double error[DIMS] = {0};
                for (int t = 0; t < context(q); t++) {
                    double weight = weights[l][h][q][t];
                    for (int i = 0; i < DIMS; i++) {
                        error[i] += weight * (double)head[t * DIMS + i];
                    }
                }
                for (int i = 0; i < DIMS; i++) {
                    sum += error[i] * error[i];
                }
            }
        }
    }
    return sum / (LAYERS * SAMPLE_QUERY_HEADS * SAMPLE_QUERIES * DIMS);
}

static float *floats_of(const uint16_t *half)
{
    float *x = (float *)source_alloc(COUNT * 4);
    CHECK(lq_f32_from_type(x, half, COUNT, LQ_F16) == LQ_OK);
    return x;
}

static void softmax(double *weight, const double *x, int count)
{
    double most = -1e30;
    double total = 0;
    for (int t = 0; t < count; t++) {
        most = x[t] > most ? x[t] : most;
    }
    for (int t = 0; t < count; t++) {
        weight[t] = exp(x[t] - most);
        total += weight[t];
    }
    for (int t = 0; t < count; t++) {
        weight[t] /= total;
    }
}

static void references(void)
{
    float *k = floats_of(sample_k);
    const uint16_t *from = sample_q;
    for (int l = 0; l < LAYERS; l++) {
        for (int h = 0; h < SAMPLE_QUERY_HEADS; h++) {
            for (int q = 0; q < SAMPLE_QUERIES; q++) {
                for (int t = 0; t < DIMS; t++) {
                    queries[l][h][q][t] = (double)lq_f32_from_f16(*from++) / 8;
                }
                for (int t = 0; t < context(q); t++) {
                    reference_logits[l][h][q][t] =
                        logit(queries[l][h][q], head_of(k, l, h) + t * DIMS);
                }
                softmax(weights[l][h][q], reference_logits[l][h][q], context(q));
            }
        }
    }
    free(k);
}

/* Error of a rival, the sinks kept. */
static double rival_error(uint32_t stream, const char *name)
{
    const rv_codec *rival = rv_find(name);
    float *x = floats_of(stream == LQ_K ? sample_k : sample_v);
    if (!CHECK(rival != NULL)) return 0;
    for (size_t i = 0; i < LAYERS * HEADS; i++) {
        float *head = x + i * TOKENS * DIMS + SINKS * DIMS;
        rival->round_trip(head, head, TOKENS - SINKS, DIMS, stream == LQ_K ? RV_KEY : RV_VALUE);
    }
    double error = stream == LQ_K ? logit_error(x) : output_error(x);
    free(x);
    return error;
}

/* ---- the ideal code length ---- */
static double tail(double x) /* of the unit Gaussian above x */
{
    return 0.5 * erfc(x / 1.4142135623730951);
}

/* -log2 of the Gaussian's mass in the cell of k; dead: by how much the zero cell is wider each
   side, the others are moved.
   At most 40 bits: beyond that the tail of a Gaussian says nothing about data. */
static double cell_bits(int k, double sigma, double dead)
{
    double a = fabs((double)k);
    double p;
    if (k == 0) {
        p = 1 - 2 * tail((0.5 + dead) / sigma);
    } else {
        p = tail((a - 0.5 + dead) / sigma) - tail((a + 0.5 + dead) / sigma);
    }
    return p > 1e-12 ? -log2(p) : 40;
}

static double sigma_of(int class_)
{
    return pow(2, (class_ - LQ_CLASS_ONE) / 8.0);
}

static int class_of(int sigma, double step)
{
    double eighths = floor(sigma / 2.0 - 8 * log2(step) + 0.5) + LQ_CLASS_ONE;
    if (sigma == LQ_SIGMA_DEAD || eighths < 0) return 0;
    return (int)(eighths > LQ_CLASS_MAX ? LQ_CLASS_MAX : eighths);
}

/* Bits of the integers of a page: those of Z, and of the gains. */
static double page_ideal(const lq_rans_plan *plan, const uint8_t *classes, size_t rows, size_t lead,
                         const uint8_t *page, size_t page_bytes, uint32_t tokens)
{
    int16_t *values = (int16_t *)source_alloc(rows * 64 * 2);
    size_t workspace_bytes = lq_rans_workspace_bytes(rows, 1);
    void *workspace = source_alloc(workspace_bytes);
    uint8_t *bytes = source_copy(page, page_bytes - TRAILER);
    lq_rans_page p;
    double bits = 0;
    memset(&p, 0, sizeof p);
    p.values = values;
    p.bytes = bytes;
    p.bytes_count = page_bytes - TRAILER;
    p.tokens = tokens;
    CHECK(plan->rows == rows);
    CHECK(lq_rans_decode(tables, plan, &p, 1, workspace, workspace_bytes) == LQ_OK);
    for (size_t i = 0; i < rows; i++) {
        double sigma = sigma_of(classes[i]);
        double dead = i < lead ? 0 : lq__dead_zone_q12(tables, classes[i]) / 4096.0;
        for (size_t t = 0; t < tokens && classes[i]; t++) {
            bits += cell_bits(values[i * 64 + t], sigma, dead);
        }
    }
    free(values);
    free(workspace);
    free(bytes);
    return bits;
}

/* Bits of all coded pages of a run by its own profile. */
static double run_ideal(const archive *a, uint32_t run, size_t *profile_record)
{
    size_t rows = 0;
    double bits = 0;
    *profile_record = 0;
    lq_archive_run_info info;
    lq_archive_profile_desc file;
    if (!CHECK(lq_archive_run(&a->reader, run, &info) == LQ_OK) ||
        info.desc.code != LQ_PAGE_CODED ||
        !CHECK(lq_archive_profile(&a->reader, info.desc.profile, &file) == LQ_OK)) {
        return 0;
    }
    *profile_record = (12 + file.count + 3) / 4 * 4;
    lq_profile profile;
    size_t needed;
    CHECK(lq_profile_load(&profile, NULL, 0, &needed, file.bytes, file.count) == LQ_E_SPACE);
    void *mem = source_alloc(needed);
    CHECK(!lq_profile_load(&profile, mem, needed, &needed, file.bytes, file.count));
    rows = needed / 4;
    size_t lead = rows - profile.dims;
    uint8_t *classes = (uint8_t *)source_alloc(rows);
    for (size_t i = 0; i < rows; i++) {
        int c = class_of(profile.sigma[i], i < lead ? 1 : (double)info.desc.step);
        classes[i] = (uint8_t)(i < lead && c < LQ_CLASS_ONE ? LQ_CLASS_ONE : c);
    }
    void *plan_mem = source_alloc(lq_rans_plan_bytes(rows));
    lq_rans_plan plan;
    CHECK(!lq_rans_plan_init(&plan, plan_mem, lq_rans_plan_bytes(rows), classes, rows, lead, LQ_Z));
    for (uint32_t page = 0; page < info.page_count; page++) {
        lq_page_ref ref;
        const uint8_t *bytes = NULL;
        CHECK(lq_archive_run_page(&a->reader, run, page, &ref) == LQ_OK);
        CHECK(lq_archive_page(&a->reader, &ref, NULL, 0, &bytes) == LQ_OK);
        bits += page_ideal(&plan, classes, rows, lead, bytes, ref.bytes, ref.token_count);
    }
    free(mem);
    free(plan_mem);
    free(classes);
    return bits;
}

/* ---- one operating point ---- */
typedef struct point {
    double bits;  /* an element, everything but the raw sinks */
    double error; /* logits of K, output of V */
    double
        over; /* realised over ideal: coded pages, their runs and the footer in the directory; not
                     file header, profiles, geometry (rope, groups) and the raw sinks with their
                     runs */
} point;

/* Packs the whole stream in pages of `heads` heads and measures. */
static point measure(uint32_t stream, uint32_t heads, float step, int quantizer, uint32_t basis,
                     int with_ideal)
{
    float *decoded = (float *)source_alloc(COUNT * 4);
    point p = {0, 0, 0};
    archive a;
    double ideal = 0;
    double apart = LQ_ARCHIVE_HEADER_BYTES + 16 + 2 * DIMS;
    archive_start(&a);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t head = 0; head < HEADS; head += heads) {
            lq_archive_pack_desc d =
                pack_desc(stream, heads, add_group(&a, stream, layer, head, heads), step);
            d.quantizer = quantizer;
            d.geometry.basis = basis;
            CHECK(pack(&a, &d, layer, head, 0, TOKENS) == LQ_OK);
        }
    }
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    for (uint32_t i = 0; i < a.reader.group_count; i++) {
        CHECK(unpack(&a, i, 0, decoded + i * heads * TOKENS * DIMS, LQ_F32, heads, 0, TOKENS) ==
              LQ_OK);
    }
    double payload = (double)a.writer.offset - LAYERS * HEADS * SINKS * DIMS * 2;
    p.bits = payload * 8 / (LAYERS * HEADS * (TOKENS - SINKS) * DIMS);
    p.error = stream == LQ_K ? logit_error(decoded) : output_error(decoded);
    for (uint32_t i = 0; with_ideal && i < a.reader.run_count; i++) {
        size_t profile_record;
        ideal += run_ideal(&a, i, &profile_record);
        apart += profile_record ? (double)profile_record : TRAILER + 52 + 8; /* a run of sinks */
    }
    apart += a.reader.group_count * (20 + 8 * heads);
    p.over = with_ideal ? (payload - apart) * 8 / ideal - 1 : 0;
    archive_free(&a);
    free(decoded);
    return p;
}

/* The step at which the error is the target, by bisection of its logarithm. */
static float step_for(uint32_t stream, uint32_t basis, double target)
{
    double low = stream == LQ_K ? 0.4 : 0.2;
    double high = stream == LQ_K ? 1.2 : 0.5;
    for (int i = 0; i < 7; i++) {
        double middle = sqrt(low * high);
        if (measure(stream, HEADS, (float)middle, LQ_Z, basis, 0).error < target) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return (float)low;
}

static void test_point(const char *name, uint32_t stream, double target, double bits_limit)
{
    float step = step_for(stream, LQ_BASIS_IDENTITY, target);
    point layer = measure(stream, HEADS, step, LQ_Z, LQ_BASIS_IDENTITY, 1);
    point head = measure(stream, 1, step, LQ_Z, LQ_BASIS_IDENTITY, 1);
    printf("%s: step %.4f, %.4f bits at error %.3e (limit %.2f at %.3e); over the ideal %.2f %% by "
           "layer, %.2f %% by head\n",
           name, (double)step, layer.bits, layer.error, bits_limit, target, 100 * layer.over,
           100 * head.over);
    CHECK(layer.error <= target && layer.bits <= bits_limit);
    CHECK(layer.over <= 0.02);
    CHECK(head.over <= 0.04);
    CHECK(layer.over > -0.01 && head.over > -0.01); /* the ideal is one */
}

static void test_figures(void)
{
    double q4_0 = rival_error(LQ_K, "q4_0");
    double hq4_0 = rival_error(LQ_K, "hq4_0");
    double tq4 = rival_error(LQ_V, "tq4");
    printf("q4_0 %.4f, Hadamard + q4_0 %.4f, Lloyd-Max 4-bit V %.3e\n", q4_0, hq4_0, tq4);
    CHECK(fabs(q4_0 - 0.22) < 0.011 && fabs(hq4_0 - 0.115) < 0.006);
    test_point("K at q4_0's", LQ_K, 0.22, 2.25);
    test_point("K at Hadamard + q4_0's", LQ_K, 0.115, 2.7);
    test_point("V at Lloyd-Max 4-bit's", LQ_V, tq4, 3.85);
}

/* ---- Gaussian rate and distortion, realised bytes ---- */
static void gaussian(int quantizer, double limit)
{
    enum { WIDE = 8192, LONG = 128 }; /* 2^20 samples in two pages */
    static float x[WIDE * LONG];
    static float y[WIDE * LONG];
    const uint32_t dims = WIDE;
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_vectors_out out = {NULL, 0, LQ_F32};
    lq_codec_desc d;
    void *profile_mem = source_alloc(lq_profile_bytes(WIDE));
    double low = 0.4;
    double high = 0.65;
    double bits = 0;
    double mse = 0;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.geometry.stream = LQ_K;
    d.geometry.slice_count = 1;
    d.geometry.slice_dims = &dims;
    lq_profile profile;
    d.profile = &profile;
    d.quantizer = quantizer;
    const void *slices[1];
    slices[0] = x;
    void *slices_out[1];
    slices_out[0] = y;
    v.slices = slices;
    out.slices = slices_out;
    source_seed = 2024;
    for (size_t i = 0; i < WIDE * LONG; i++) {
        x[i] = (float)source_gauss();
    }
    CHECK(!lq_profile_init(&profile, profile_mem, lq_profile_bytes(WIDE), &d.geometry, 1.0f));
    for (int round = 0; round < 10; round++) {
        lq_codec *codec = NULL;
        d.step = (float)sqrt(low * high);
        void *mem = source_alloc(lq_codec_bytes(&d));
        CHECK(lq_codec_init(&codec, mem, lq_codec_bytes(&d), &d) == LQ_OK);
        size_t workspace_bytes = lq_codec_workspace_bytes(codec);
        void *workspace = source_alloc(workspace_bytes);
        size_t bound = 2 * lq_codec_page_bound(codec);
        uint8_t *bytes = (uint8_t *)source_alloc(bound);
        size_t page_bytes[2];
        size_t written;
        CHECK(!lq_codec_encode(codec, bytes, bound, &written, page_bytes, &v, NULL, LONG, workspace,
                               workspace_bytes));
        const uint8_t *pages[2];
        pages[0] = bytes;
        pages[1] = bytes + page_bytes[0];
        CHECK(!lq_codec_decode(codec, &out, NULL, LONG, pages, page_bytes, workspace,
                               workspace_bytes));
        bits = (double)written * 8 / (WIDE * LONG);
        mse = 0;
        for (size_t i = 0; i < WIDE * LONG; i++) {
            mse += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        }
        mse /= WIDE * LONG;
        if (bits > 3) {
            low = (double)d.step;
        } else {
            high = (double)d.step;
        }
        free(mem);
        free(workspace);
        free(bytes);
    }
    printf("quantizer %d: %.4f bits, MSE %.6f, MSE * 4^R = %.4f (limit %.2f)\n", quantizer, bits,
           mse, mse * pow(4, bits), limit);
    CHECK(fabs(bits - 3) < 0.01);
    CHECK(mse * pow(4, bits) <= limit && mse * pow(4, bits) > 1);
    free(profile_mem);
}

/* ---- round trips ---- */
/* Any range is the same part of the whole, in any type, from memory and through a callback. */
static void check_ranges(archive *a, uint32_t group, uint64_t sequence, uint32_t heads,
                         size_t tokens, int rounds)
{
    float *whole = (float *)source_alloc(heads * tokens * DIMS * 4);
    CHECK(unpack(a, group, sequence, whole, LQ_F32, heads, 0, tokens) == LQ_OK);
    for (int i = 0; i < rounds; i++) {
        size_t first = i == 0 ? tokens - 1 : source_below((uint32_t)tokens);
        size_t count = i == 1   ? 0
                       : i == 2 ? tokens - first
                                : 1 + source_below((uint32_t)(tokens - first));
        int type = 1 + i % 3;
        size_t bytes = count * DIMS * lq_type_bytes(type);
        uint8_t *part = (uint8_t *)source_alloc(heads * bytes);
        uint8_t *want = (uint8_t *)source_alloc(bytes);
        archive_open(a, i & 1);
        CHECK(unpack(a, group, sequence, part, type, heads, first, count) == LQ_OK);
        for (uint32_t h = 0; h < heads; h++) {
            CHECK(!lq_type_from_f32(want, whole + (h * tokens + first) * DIMS, count * DIMS, type));
            CHECK(bytes == 0 || memcmp(want, part + h * bytes, bytes) == 0);
        }
        free(part);
        free(want);
    }
    CHECK(unpack(a, group, sequence, whole, LQ_F32, heads, 1, tokens) == LQ_E_RANGE);
    CHECK(unpack(a, group, sequence + 100, whole, LQ_F32, heads, 0, 1) == LQ_E_RANGE);
    free(whole);
}

/* `sinks` first tokens come back bit for bit, the others with a relative error below the limit. */
static void check_against_sample(const archive *a, uint32_t group, uint64_t sequence,
                                 uint32_t stream, uint32_t layer, size_t tokens, size_t sinks,
                                 double limit)
{
    const uint16_t *data = (stream == LQ_K ? sample_k : sample_v) + layer * LAYER_COUNT;
    uint16_t *back = (uint16_t *)source_alloc(HEADS * tokens * DIMS * 2);
    double error = 0;
    double power = 0;
    CHECK(unpack(a, group, sequence, back, LQ_F16, HEADS, 0, tokens) == LQ_OK);
    for (size_t h = 0; h < HEADS; h++) {
        const uint16_t *x = data + h * TOKENS * DIMS;
        const uint16_t *y = back + h * tokens * DIMS;
        CHECK(memcmp(x, y, sinks * DIMS * 2) == 0);
        for (size_t i = sinks * DIMS; i < tokens * DIMS; i++) {
            double u = (double)lq_f32_from_f16(x[i]);
            double e = u - (double)lq_f32_from_f16(y[i]);
            error += e * e;
            power += u * u;
        }
    }
    CHECK(error <= limit * power);
    free(back);
}

static void test_kinds(int rounds)
{
    static const struct {
        int page;
        int quantizer;
        int bits;
        float step;
        double k_limit;
        double v_limit;
    } kinds[] = {
        {0, 0, 0, 0.3f, 0.004, 0.01},
        {LQ_PAGE_CODED, LQ_D4, 0, 0.3f, 0.004, 0.01},
        {0, LQ_E8, 0, 0.3f, 0.004, 0.01},
        {0, LQ_E8_RELAXED, 0, 0.3f, 0.004, 0.01},
        {0, LQ_TRELLIS_8, 0, 0.3f, 0.004, 0.01},
        {0, LQ_TRELLIS_64, 0, 0.3f, 0.004, 0.01},
        {LQ_PAGE_FIXED, 0, 8, 0.1f, 0.001, 0.001},
        {LQ_PAGE_FIXED, LQ_E8, 0, 0.5f, 0.02, 0.03},
        {LQ_PAGE_FIXED, 0, 3, 0.9f, 0.06, 0.08},
        {LQ_PAGE_FIXED, 0, 2, 1.2f, 0.2, 0.2},
        {LQ_PAGE_RAW, 0, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
            for (uint32_t basis = 0; basis <= LQ_BASIS_HADAMARD; basis++) {
                archive a;
                uint32_t refit = basis == LQ_BASIS_HADAMARD;
                size_t tokens = 300;
                archive_start(&a);
                lq_archive_pack_desc d =
                    pack_desc(stream, HEADS, add_group(&a, stream, 0, 0, HEADS), kinds[i].step);
                d.page = kinds[i].page;
                d.quantizer = kinds[i].quantizer;
                d.bits = kinds[i].bits;
                d.geometry.basis = basis;
                d.refit = (int)refit;
                CHECK(pack(&a, &d, 0, 0, 0, tokens) == LQ_OK);
                CHECK(lq_archive_finish(&a.writer) == LQ_OK);
                archive_open(&a, 0);
                if (kinds[i].page == LQ_PAGE_RAW) {
                    CHECK(a.reader.profile_count == 0 && a.reader.run_count == 1);
                } else { /* fits after 1, 2 and 4 pages: 64, 128 and the rest */
                    CHECK(a.reader.profile_count == (refit ? 4u : 1u));
                    CHECK(a.reader.run_count == (refit ? 5u : 2u));
                }
                check_ranges(&a, d.group, 0, HEADS, tokens, rounds);
                check_against_sample(&a, d.group, 0, stream, 0, tokens,
                                     kinds[i].page == LQ_PAGE_RAW ? tokens : SINKS,
                                     stream == LQ_K ? kinds[i].k_limit * 2 : kinds[i].v_limit * 2);
                archive_free(&a);
            }
        }
    }
}

/* Two sequences in one group, the second in two calls; sinks as asked. */
static void test_sequences(int rounds)
{
    archive a;
    uint64_t count = 0;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_K, HEADS, add_group(&a, LQ_K, 1, 0, HEADS), 0.4f);
    d.sequence = 7;
    d.sinks = 20;
    CHECK(pack(&a, &d, 1, 0, 0, 100) == LQ_OK);
    d.sequence = 0xffffffffffffffffu;
    d.sinks = LQ_NO_SINKS;
    CHECK(pack(&a, &d, 1, 0, 0, 64) == LQ_OK);
    d.first_token = 64;
    d.sinks = 0;
    CHECK(pack(&a, &d, 1, 0, 64, 131) == LQ_OK);
    d.sequence = 9; /* fewer tokens than sinks */
    d.first_token = 0;
    CHECK(pack(&a, &d, 1, 0, 0, 3) == LQ_OK);
    d.sequence = 10;
    CHECK(pack(&a, &d, 1, 0, 0, 0) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    CHECK(!lq_archive_tokens(&a.reader, d.group, 7, &count) && count == 100);
    CHECK(!lq_archive_tokens(&a.reader, d.group, 0xffffffffffffffffu, &count) && count == 195);
    CHECK(!lq_archive_tokens(&a.reader, d.group, 9, &count) && count == 3);
    CHECK(!lq_archive_tokens(&a.reader, d.group, 10, &count) && count == 0);
    check_against_sample(&a, d.group, 7, LQ_K, 1, 100, 20, 0.01);
    check_against_sample(&a, d.group, 0xffffffffffffffffu, LQ_K, 1, 195, 0, 0.01);
    check_against_sample(&a, d.group, 9, LQ_K, 1, 3, 3, 0);
    check_ranges(&a, d.group, 7, HEADS, 100, rounds);
    check_ranges(&a, d.group, 0xffffffffffffffffu, HEADS, 195, rounds);
    archive_free(&a);
}

/* A profile that is kept elsewhere, named by its hash. */
static void test_external_profile(void)
{
    const lq_rope *const k_rope = &rope;
    lq_geometry g;
    lq_archive_pack_desc d;
    lq_archive_unpack_desc u;
    lq_vectors_out out;
    size_t rows = HEADS * DIMS;
    void *mem = source_alloc(lq_profile_bytes(rows));
    uint8_t *blob = (uint8_t *)source_alloc(lq_profile_save_bound(rows));
    float *x = (float *)source_alloc(LAYER_COUNT * 4);
    void *workspace;
    size_t workspace_bytes;
    size_t blob_bytes;
    archive a;
    memset(&g, 0, sizeof g);
    lq_archive_profile_desc named;
    memset(&named, 0, sizeof named);
    memset(&u, 0, sizeof u);
    g.stream = LQ_K;
    g.slice_count = HEADS;
    g.slice_dims = head_dims;
    g.rope = k_rope;
    lq_profile profile;
    CHECK(lq_profile_init(&profile, mem, lq_profile_bytes(rows), &g, 2.0f) == LQ_OK);
    CHECK(!lq_profile_save(blob, lq_profile_save_bound(rows), &blob_bytes, &profile));
    uint8_t digest[16];
    lq_blake2s_128(digest, blob, blob_bytes);
    named.hash = digest;
    archive_start(&a);
    d = pack_desc(LQ_K, HEADS, add_group(&a, LQ_K, 0, 0, HEADS), 0.4f);
    d.profile = &profile;
    CHECK(lq_archive_add_profile(&a.writer, &named, &d.profile_id) == LQ_OK);
    CHECK(pack(&a, &d, 0, 0, 0, 200) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    workspace_bytes = lq_archive_unpack_workspace_bytes(&a.reader, d.group);
    workspace = source_alloc(workspace_bytes);
    void *slices[HEADS];
    for (size_t i = 0; i < HEADS; i++) {
        slices[i] = x + i * TOKENS * DIMS;
    }
    out.slices = slices;
    out.token_stride = 0;
    out.type = LQ_F32;
    u.tables = tables;
    u.group = d.group;
#define UNPACK(expected) \
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 0, 200, workspace, workspace_bytes) == (expected))
    UNPACK(LQ_E_FORMAT);
    u.profile = blob;
    u.profile_bytes = blob_bytes;
    UNPACK(LQ_OK);
    for (size_t i = 0; i < 200 * DIMS; i++) {
        CHECK(fabs((double)x[i] - (double)lq_f32_from_f16(sample_k[i])) < 0.7);
    }
    blob[blob_bytes - 1] ^= 1;
    UNPACK(LQ_E_FORMAT);
    blob[blob_bytes - 1] ^= 1;
    u.profile_bytes--;
    UNPACK(LQ_E_FORMAT);
    u.profile_bytes++;
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 0, 200, workspace, workspace_bytes / 4) ==
          LQ_E_SPACE);
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 0, 200, NULL, workspace_bytes) == LQ_E_SPACE);
    CHECK(lq_archive_unpack(NULL, &u, &out, 0, 200, workspace, workspace_bytes) == LQ_E_ARG);
    CHECK(lq_archive_unpack(&a.reader, NULL, &out, 0, 200, workspace, workspace_bytes) == LQ_E_ARG);
    CHECK(lq_archive_unpack(&a.reader, &u, NULL, 0, 200, workspace, workspace_bytes) == LQ_E_ARG);
    CHECK(lq_archive_unpack(&a.reader, &u, &out, UINT64_MAX, 200, workspace, workspace_bytes) ==
          LQ_E_RANGE);
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 100, 101, workspace, workspace_bytes) ==
          LQ_E_RANGE);
    u.tables = NULL;
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 0, 200, workspace, workspace_bytes) != LQ_OK);
    u.tables = tables;
    u.group = 1;
    UNPACK(LQ_E_RANGE);
    u.group = d.group;
    out.type = 0;
    UNPACK(LQ_E_ARG);
    CHECK(lq_archive_unpack_workspace_bytes(&a.reader, 1) == 0);
#undef UNPACK
    free(mem);
    free(blob);
    free(x);
    free(workspace);
    archive_free(&a);
}

/* A second writer goes on where the first ended. */
static void test_append(int rounds)
{
    archive a;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_K, HEADS, add_group(&a, LQ_K, 0, 0, HEADS), 0.4f);
    CHECK(pack(&a, &d, 0, 0, 0, 150) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    uint64_t end = a.reader.end;
    CHECK(end == a.writer.offset);
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = a.file + end;
    w.mem_bytes = FILE_BYTES - (size_t)end;
    w.directory = a.directory;
    w.directory_bytes = DIRECTORY_BYTES;
    CHECK(lq_archive_writer_append(&a.writer, &w, &a.reader) == LQ_OK);
    d.first_token = 150;
    CHECK(pack(&a, &d, 0, 0, 150, 100) == LQ_OK);
    CHECK(lq_archive_flush_segment(&a.writer) == LQ_OK);
    uint32_t v_group = add_group(&a, LQ_V, 0, 0, HEADS);
    CHECK(v_group == d.group + 1);
    d = pack_desc(LQ_V, HEADS, v_group, 0.4f);
    CHECK(pack(&a, &d, 0, 0, 0, 250) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    CHECK(a.reader.group_count == 2 && a.reader.segment_count == 3);
    check_ranges(&a, 0, 0, HEADS, 250, rounds);
    check_ranges(&a, v_group, 0, HEADS, 250, rounds);
    check_against_sample(&a, 0, 0, LQ_K, 0, 250, SINKS, 0.01);
    check_against_sample(&a, v_group, 0, LQ_V, 0, 250, SINKS, 0.03);
    archive_free(&a);
}

/* A newer run over part of an older page: its tokens count, the others stay. */
static void test_overwritten(void)
{
    float *x = (float *)source_alloc(LAYER_COUNT * 4);
    float *y = (float *)source_alloc(LAYER_COUNT * 4);
    archive a;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_V, HEADS, add_group(&a, LQ_V, 0, 0, HEADS), 0.4f);
    CHECK(pack(&a, &d, 0, 0, 0, 200) == LQ_OK);
    d.page = LQ_PAGE_RAW;
    d.first_token = 70;
    CHECK(pack(&a, &d, 1, 0, 300, 30) == LQ_OK); /* other vectors, as after another continuation */
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 1);
    CHECK(unpack(&a, 0, 0, x, LQ_F32, HEADS, 0, 200) == LQ_OK);
    for (size_t t = 0; t < 200; t++) {
        lq_page_ref ref;
        CHECK(lq_archive_find(&a.reader, 0, 0, t, &ref) == LQ_OK);
        CHECK(ref.run == (t < 4 ? 0u : t >= 70 && t < 100 ? 2u : 1u));
        CHECK(unpack(&a, 0, 0, y, LQ_F32, HEADS, t, 1) == LQ_OK);
        for (size_t i = 0; i < HEADS; i++) {
            const uint16_t *other = sample_v + ((HEADS + i) * TOKENS + 300 + t - 70) * DIMS;
            CHECK(memcmp(x + (i * 200 + t) * DIMS, y + i * DIMS, DIMS * 4) == 0);
            CHECK(t < 70 || t >= 100 || y[i * DIMS + 5] == lq_f32_from_f16(other[5]));
        }
    }
    free(x);
    free(y);
    archive_free(&a);
}

/* A run by hand whose pages are of several kinds and profiles: LQ_ARCHIVE's "mixed". */
static void test_mixed_run(void)
{
    enum { PAGES = 12 };
    static const uint32_t dims = DIMS;
    archive a;
    float *x = (float *)source_alloc(PAGES * 64 * DIMS * 4);
    float *y = (float *)source_alloc(PAGES * 64 * DIMS * 4);
    archive_start(&a);
    lq_archive_run_desc run;
    memset(&run, 0, sizeof run);
    run.group = add_group(&a, LQ_V, 0, 0, 1);
    lq_codec *codecs[4];
    void *memories[4];
    lq_profile profiles[2];
    void *profile_mem[2];
    for (uint32_t i = 0; i < 4; i++) { /* profile 0 Z, profile 1 Z, profile 1 E8, raw */
        uint32_t which = i > 0;
        lq_codec_desc d;
        memset(&d, 0, sizeof d);
        d.geometry.stream = LQ_V;
        d.geometry.slice_count = 1;
        d.geometry.slice_dims = &dims;
        if (i < 2) {
            lq_archive_profile_desc file = {NULL, 0, NULL};
            uint32_t id = 0;
            profile_mem[i] = source_alloc(lq_profile_bytes(DIMS + 1));
            CHECK(!lq_profile_init(&profiles[i], profile_mem[i], lq_profile_bytes(DIMS + 1),
                                   &d.geometry, i ? 1.0f : 0.5f));
            uint8_t blob[2000];
            CHECK(!lq_profile_save(blob, sizeof blob, &file.count, &profiles[i]));
            file.bytes = blob;
            CHECK(lq_archive_add_profile(&a.writer, &file, &id) == LQ_OK && id == i);
        }
        if (i < 3) {
            d.tables = tables;
            d.profile = &profiles[which];
            d.profile_index = which;
            d.quantizer = i == 2 ? LQ_E8 : LQ_Z;
            d.step = 0.3f;
        } else {
            d.page = LQ_PAGE_RAW;
        }
        memories[i] = source_alloc(lq_codec_bytes(&d));
        CHECK(lq_codec_init(&codecs[i], memories[i], lq_codec_bytes(&d), &d) == LQ_OK);
    }
    run.token_count = PAGES * 64;
    run.step = 0.3f;
    CHECK(lq_archive_run_begin(&a.writer, &run) == LQ_OK);
    for (uint32_t i = 0; i < PAGES; i++) { /* 0 0 0 1 1 1 2 2 3 3 0 0 */
        const lq_codec *codec = codecs[i / 3 == 2 ? (i < 8 ? 2 : 3) : i == 9 ? 3 : i / 3 % 3];
        const void *slices[1];
        lq_vectors v = {NULL, 0, LQ_F16};
        lq_vectors_out out = {NULL, 0, LQ_F32};
        size_t workspace_bytes = lq_codec_workspace_bytes(codec);
        void *workspace = source_alloc(workspace_bytes);
        uint8_t *page = (uint8_t *)source_alloc(lq_codec_page_bound(codec));
        size_t written = 0;
        size_t page_bytes = 0;
        slices[0] = sample_v + i * 64 * DIMS;
        void *slices_out[1];
        slices_out[0] = x + i * 64 * DIMS;
        v.slices = slices;
        out.slices = slices_out;
        const uint8_t *pages[2];
        pages[0] = page;
        CHECK(!lq_codec_encode(codec, page, lq_codec_page_bound(codec), &written, &page_bytes, &v,
                               NULL, 64, workspace, workspace_bytes));
        CHECK(!lq_codec_decode(codec, &out, NULL, 64, pages, &page_bytes, workspace,
                               workspace_bytes));
        CHECK(lq_archive_write_page(&a.writer, page, written) == LQ_OK);
        free(workspace);
        free(page);
    }
    CHECK(lq_archive_run_end(&a.writer) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    for (int with_callback = 0; with_callback < 2; with_callback++) {
        archive_open(&a, with_callback);
        memset(y, 0, PAGES * 64 * DIMS * 4);
        CHECK(unpack(&a, 0, 0, y, LQ_F32, 1, 0, PAGES * 64) == LQ_OK);
        CHECK(memcmp(x, y, PAGES * 64 * DIMS * 4) == 0);
        CHECK(unpack(&a, 0, 0, y, LQ_F32, 1, 65, PAGES * 64 - 66) == LQ_OK);
        CHECK(memcmp(x + 65 * DIMS, y, (PAGES * 64 - 66) * DIMS * 4) == 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        free(memories[i]);
    }
    free(profile_mem[0]);
    free(profile_mem[1]);
    free(x);
    free(y);
    archive_free(&a);
}

/* Positions as a list and with a stride come back with the keys. */
static void test_positions(void)
{
    enum { N = 100 };
    static int64_t list[N];
    for (int form = 0; form < 3; form++) {
        lq_positions positions = {0, 0, NULL};
        float *x = (float *)source_zeros(N * DIMS * 4);
        float *back = (float *)source_zeros(N * DIMS * 4);
        lq_vectors v = {NULL, 0, LQ_F32};
        archive a;
        archive_start(&a);
        lq_archive_pack_desc d = pack_desc(LQ_K, 1, add_group(&a, LQ_K, 0, 0, 1), 0.05f);
        const void *slices[1];
        slices[0] = x;
        v.slices = slices;
        for (size_t i = 0; i < N; i++) {
            list[i] = (int64_t)(i * i % 77) * 1000 - 5;
        }
        positions.first = form == 1 ? -1000000 : 123456789;
        positions.stride = form == 1 ? -3 : 5000000000;
        positions.list = form == 0 ? list : NULL;
        for (size_t i = 0; i < N * DIMS; i++) { /* the same vector at every position, then RoPE */
            x[i] = (float)(i % DIMS) / 16 - 2;
        }
        CHECK(lq_rope_apply_f32(x, N, DIMS, DIMS, &rope, &positions) == LQ_OK);
        size_t workspace_bytes = lq_archive_pack_workspace_bytes(&d);
        void *workspace = source_alloc(workspace_bytes);
        CHECK(!lq_archive_pack(&a.writer, &d, &v, &positions, N, workspace, workspace_bytes));
        CHECK(lq_archive_finish(&a.writer) == LQ_OK);
        archive_open(&a, 0);
        CHECK(unpack(&a, 0, 0, back, LQ_F32, 1, 0, N) == LQ_OK);
        for (size_t i = 0; i < N * DIMS; i++) { /* constant before RoPE: all of it is in the mean */
            CHECK(fabs((double)x[i] - (double)back[i]) < 0.03);
        }
        CHECK(a.writer.offset < 4 * DIMS * 4 + 1500 + N * 8);
        free(x);
        free(back);
        free(workspace);
        archive_free(&a);
    }
}

/* ---- errors of packing ---- */
static int pack_floats(archive *a, const lq_archive_pack_desc *d, const float *x, size_t tokens,
                       size_t workspace_bytes)
{
    void *workspace = source_alloc(workspace_bytes);
    const void *slices[1];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions positions = {0, 1, NULL};
    slices[0] = x;
    v.slices = slices;
    int status = lq_archive_pack(&a->writer, d, &v, &positions, tokens, workspace, workspace_bytes);
    free(workspace);
    return status;
}

/* Without positions: the ordinals are they, with RoPE and without. */
static void test_pack_follow(void)
{
    static float x[100 * DIMS];
    const void *slices[1];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions positions = {1000, 1, NULL};
    slices[0] = x;
    v.slices = slices;
    for (size_t i = 0; i < 100 * DIMS; i++) {
        x[i] = (float)source_gauss();
    }
    archive a[2];
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (size_t i = 0; i < 2; i++) {
            archive_start(&a[i]);
            lq_archive_pack_desc d = pack_desc(stream, 1, add_group(&a[i], stream, 0, 0, 1), 0.2f);
            d.first_token = 1000;
            d.refit = stream == LQ_K;
            size_t bytes = lq_archive_pack_workspace_bytes(&d);
            void *workspace = source_alloc(bytes);
            CHECK(lq_archive_pack(&a[i].writer, &d, &v, i ? &positions : NULL, 100, workspace,
                                  bytes) == LQ_OK);
            CHECK(lq_archive_finish(&a[i].writer) == LQ_OK);
            free(workspace);
        }
        CHECK(a[0].writer.offset == a[1].writer.offset &&
              memcmp(a[0].file, a[1].file, (size_t)a[0].writer.offset) == 0);
        archive_free(&a[0]);
        archive_free(&a[1]);
    }
}

static void test_pack_errors(void)
{
    static float x[100 * DIMS];
    const void *slices[1];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_positions positions = {0, 1, NULL};
    lq_archive_pack_desc good;
    lq_archive_pack_desc d;
    size_t bytes;
    void *workspace;
    uint64_t count;
    archive a;
    slices[0] = x;
    v.slices = slices;
    for (size_t i = 0; i < 100 * DIMS; i++) {
        x[i] = (float)source_gauss();
    }
    archive_start(&a);
    good = pack_desc(LQ_K, 1, add_group(&a, LQ_K, 0, 0, 1), 0.2f);
    bytes = lq_archive_pack_workspace_bytes(&good);
    workspace = source_alloc(bytes);
    CHECK(bytes > 0 && lq_archive_pack_workspace_bytes(NULL) == 0);
#define PACK(expected, w, from, vectors, where, count, space, space_bytes) \
    CHECK(lq_archive_pack(w, from, vectors, where, count, space, space_bytes) == (expected))
    PACK(LQ_E_ARG, NULL, &good, &v, &positions, 100, workspace, bytes);
    PACK(LQ_E_ARG, &a.writer, NULL, &v, &positions, 100, workspace, bytes);
    PACK(LQ_E_ARG, &a.writer, &good, NULL, &positions, 100, workspace, bytes);
    d = good;
    d.first_token = INT64_MAX - 99; /* whose positions would not be there */
    PACK(LQ_E_ARG, &a.writer, &d, &v, NULL, 101, workspace, bytes);
    PACK(LQ_E_SPACE, &a.writer, &good, &v, &positions, 100, NULL, bytes);
    PACK(LQ_E_SPACE, &a.writer, &good, &v, &positions, 100, workspace, bytes / 2);
    PACK(LQ_E_ARG, &a.writer, &good, &v, &positions, (size_t)1 << 31, workspace, bytes);
    v.type = 0;
    PACK(LQ_E_ARG, &a.writer, &good, &v, &positions, 100, workspace, bytes);
    v.type = LQ_F32;
    d = good;
    d.geometry.stream = 0;
    CHECK(lq_archive_pack_workspace_bytes(&d) == 0);
    PACK(LQ_E_ARG, &a.writer, &d, &v, &positions, 100, workspace, bytes);
    d = good;
    d.group = 5;
    PACK(LQ_E_RANGE, &a.writer, &d, &v, &positions, 100, workspace, bytes);
    CHECK(a.writer.run_count == 0);
#define PACK_BAD(expected)                                                              \
    do {                                                                                \
        d.sinks = LQ_NO_SINKS;                                                          \
        CHECK(pack_floats(&a, &d, x, 100, bytes) == (expected));                        \
        CHECK(a.writer.run_count == 0 && !a.writer.in_run && a.writer.page_count == 0); \
    } while (0)
    d = good;
    d.step = 0;
    PACK_BAD(LQ_E_ARG);
    d.step = lq_f32_from_f16(0x7e00);
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.tables = NULL;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.quantizer = 9;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.page = 9;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.bits = 4;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.geometry.basis = 3;
    PACK_BAD(LQ_E_ARG);
    d = good;
    d.step = 1e-5f;
    PACK_BAD(LQ_E_RANGE);
    d = good;
    for (size_t i = 0; i < 100 * DIMS; i += 997) {
        float old = x[i];
        x[i] = lq_f32_from_f16(0x7e00);
        PACK_BAD(LQ_E_DATA);
        x[i] = lq_f32_from_f16(0xfc00);
        PACK_BAD(LQ_E_DATA);
        x[i] = old;
    }
    /* NaN in the sinks is kept, behind them refused: then the sinks are a whole run */
    d = good;
    x[3] = lq_f32_from_f16(0x7e00);
    CHECK(pack_floats(&a, &d, x, 4, bytes) == LQ_OK && a.writer.run_count == 1);
    x[3] = 1;
    x[99 * DIMS] = lq_f32_from_f16(0x7e00);
    d.sequence = 1;
    CHECK(pack_floats(&a, &d, x, 100, bytes) == LQ_E_DATA && a.writer.run_count == 2);
    d.page = LQ_PAGE_RAW;
    d.sequence = 2;
    CHECK(pack_floats(&a, &d, x, 100, bytes) == LQ_OK);
    x[99 * DIMS] = 1;
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    CHECK(pack_floats(&a, &good, x, 100, bytes) == LQ_E_ARG);
    archive_open(&a, 0);
    CHECK(!lq_archive_tokens(&a.reader, 0, 0, &count) && count == 4);
    CHECK(!lq_archive_tokens(&a.reader, 0, 1, &count) && count == 4);
    CHECK(!lq_archive_tokens(&a.reader, 0, 2, &count) && count == 100);
#undef PACK
#undef PACK_BAD
    free(workspace);
    archive_free(&a);
}

/* Every size of file memory and directory: LQ_E_SPACE or success, never a partial run. */
static void test_pack_space(void)
{
    static float x[70 * DIMS];
    uint8_t *file = (uint8_t *)source_alloc(1 << 16);
    uint8_t *directory = (uint8_t *)source_alloc(1 << 16);
    for (size_t i = 0; i < 70 * DIMS; i++) {
        x[i] = (float)source_gauss();
    }
    lq_archive_writer_desc w;
    for (int which = 0; which < 2; which++) {
        int spaces = 0;
        int fits = 0;
        for (size_t room = which ? 48 : 64; room < 12000; room += which ? 13 : 97) {
            lq_slice slice = {0, 0, 0, DIMS, 0, 0};
            archive a;
            memset(&a, 0, sizeof a);
            memset(&w, 0, sizeof w);
            lq_archive_group_desc g;
            memset(&g, 0, sizeof g);
            w.mem = file;
            w.mem_bytes = which ? 1 << 16 : room;
            w.directory = directory;
            w.directory_bytes = which ? room : 1 << 16;
            CHECK(lq_archive_writer_init(&a.writer, &w) == LQ_OK);
            g.stream = LQ_V;
            g.rope = LQ_ARCHIVE_NONE;
            g.slices = &slice;
            g.slice_count = 1;
            CHECK(lq_archive_add_group(&a.writer, &g, NULL) == LQ_OK);
            lq_archive_pack_desc d = pack_desc(LQ_V, 1, 0, 0.2f);
            int status = pack_floats(&a, &d, x, 70, lq_archive_pack_workspace_bytes(&d));
            CHECK(status == LQ_OK || status == LQ_E_SPACE);
            spaces += status == LQ_E_SPACE;
            if (status == LQ_OK) {
                status = lq_archive_finish(&a.writer);
                CHECK(status == LQ_OK || status == LQ_E_SPACE);
                fits += status == LQ_OK;
            } else {
                CHECK(!a.writer.in_run && a.writer.run_count <= 1);
            }
        }
        CHECK(spaces > 0 && fits > 0);
    }
    free(file);
    free(directory);
}

/* ---- calibrated bases on the sample ---- */
/* Fits a basis to tokens [SINKS, SINKS + tokens) of a layer, K in its own unit. */
static void *calibrated_file(lq_profile *p, uint32_t stream, uint32_t layer, size_t tokens,
                             float step, uint8_t **bytes_of_file, size_t *count_of_file)
{
    const uint16_t *data = stream == LQ_K ? sample_k : sample_v;
    lq_archive_pack_desc d = pack_desc(stream, HEADS, 0, step);
    lq_positions positions = {SINKS, 1, NULL};
    lq_vectors v = {NULL, 0, LQ_F16};
    lq_klt klt;
    void *mem = source_alloc(lq_klt_bytes(&d.geometry));
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&d.geometry), &d.geometry) == LQ_OK);
    size_t bytes = lq_klt_profile_workspace_bytes(&klt) + lq_klt_workspace_bytes(&d.geometry);
    void *workspace = source_alloc(bytes);
    const void *slices[HEADS];
    for (uint32_t i = 0; i < HEADS; i++) {
        slices[i] = data + ((layer * HEADS + i) * TOKENS + SINKS) * DIMS;
    }
    v.slices = slices;
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = step;
    desc.unit = 1;
    CHECK(lq_klt_add(&klt, &v, &positions, tokens, workspace, bytes) == LQ_OK);
    uint8_t *file = (uint8_t *)source_alloc(lq_klt_profile_bound(&klt));
    size_t count;
    CHECK(lq_klt_profile(&klt, file, lq_klt_profile_bound(&klt), &count, &desc, NULL, workspace,
                         bytes) == LQ_OK);
    CHECK(lq_profile_load(p, NULL, 0, &bytes, file, count) == LQ_E_SPACE);
    void *profile_mem = source_alloc(bytes);
    CHECK(lq_profile_load(p, profile_mem, bytes, &bytes, file, count) == LQ_OK);
    *bytes_of_file = file;
    *count_of_file = count;
    free(workspace);
    free(mem);
    return profile_mem;
}

static void *calibrated_profile(lq_profile *p, uint32_t stream, uint32_t layer, size_t tokens,
                                float step)
{
    uint8_t *file;
    size_t count;
    void *mem = calibrated_file(p, stream, layer, tokens, step, &file, &count);
    free(file);
    return mem;
}

static int unpack_calibrated(const archive *a, const lq_profile *profile, float *x)
{
    size_t bytes = lq_archive_unpack_workspace_bytes(&a->reader, 0);
    void *workspace = source_alloc(bytes);
    lq_archive_unpack_desc d;
    lq_vectors_out out = {NULL, 0, LQ_F32};
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.calibrated = &profile;
    d.calibrated_count = 1;
    void *slices[HEADS];
    for (uint32_t i = 0; i < HEADS; i++) {
        slices[i] = x + i * TOKENS * DIMS;
    }
    out.slices = slices;
    int status = lq_archive_unpack(&a->reader, &d, &out, 0, TOKENS, workspace, bytes);
    free(workspace);
    return status;
}

/* Mean squared error of a layer behind the sinks. */
static double layer_error(const float *x, uint32_t stream, uint32_t layer)
{
    const uint16_t *data = (stream == LQ_K ? sample_k : sample_v) + layer * LAYER_COUNT;
    double sum = 0;
    for (int i = 0; i < LAYER_COUNT; i++) {
        double e = (double)x[i] - (double)lq_f32_from_f16(data[i]);
        sum += i / DIMS % TOKENS < SINKS ? 0 : e * e;
    }
    return sum / LAYER_COUNT;
}

/* A layer packed in four ways: fitted channels; a basis of its own, stored; a basis of its first 512
   tokens, named; the same with refits. */
static void test_calibrated(uint32_t stream, uint32_t layer)
{
    float *x = (float *)source_alloc(LAYER_COUNT * 4);
    float step = stream == LQ_K ? 0.5f : 0.4f;
    double bits[4];
    double error[4];
    lq_profile p;
    lq_profile other;
    void *mem = calibrated_profile(&p, stream, layer, 512, step);
    void *other_mem = calibrated_profile(&other, stream, layer, 448, step);
    for (int way = 0; way < 4; way++) {
        lq_archive_profile_desc named = {NULL, 0, NULL};
        archive a;
        archive_start(&a);
        lq_archive_pack_desc d =
            pack_desc(stream, HEADS, add_group(&a, stream, layer, 0, HEADS), step);
        d.calibrate = way == 1;
        named.hash = p.basis_hash;
        if (way >= 2) {
            d.profile = &p;
            d.refit = way == 3;
            CHECK(lq_archive_add_profile(&a.writer, &named, &d.profile_id) == LQ_OK);
        }
        CHECK(pack(&a, &d, layer, 0, 0, TOKENS) == LQ_OK);
        CHECK(lq_archive_finish(&a.writer) == LQ_OK);
        archive_open(&a, way & 1);
        CHECK(unpack_calibrated(&a, &p, x) == LQ_OK);
        error[way] = layer_error(x, stream, layer);
        bits[way] = 8 * (double)a.writer.offset / LAYER_COUNT;
        CHECK(unpack_calibrated(&a, NULL, x) == (way < 2 ? LQ_OK : LQ_E_FORMAT));
        CHECK(unpack_calibrated(&a, &other, x) == (way < 2 ? LQ_OK : LQ_E_FORMAT));
        archive_free(&a);
    }
    printf("%s, bits and mean squared error: channels %.3f %.5f, own basis %.3f %.5f, named %.3f "
           "%.5f, refitted %.3f\n",
           stream == LQ_K ? "K" : "V", bits[0], error[0], bits[1], error[1], bits[2], error[2],
           bits[3]);
    CHECK(bits[1] < 1.01 * bits[0]);
    /* without the profile's bytes, at the same error: half a bit of K, an eighth of V */
    CHECK(bits[2] + log2(error[2] / error[0]) / 2 < bits[0] - (stream == LQ_K ? 0.5 : 0.125));
    CHECK(bits[3] < bits[2] + 0.01);
    free(mem);
    free(other_mem);
    free(x);
}

/* Another profile: one number of its centre and its checksum differ. */
static void change_profile(uint8_t *file, size_t count, uint32_t variant)
{
    size_t means = 40 + 6 * HEADS;
    file[means] = (uint8_t)variant;
    file[means + 2] = (uint8_t)(variant >> 8);
    uint32_t checksum = lq_xxh32(file + 20, count - 20, lq_xxh32(file, 16, 0));
    for (int i = 0; i < 4; i++) {
        file[16 + i] = (uint8_t)(checksum >> 8 * i);
    }
}

/* The file form of a profile that is fitted to 80 tokens and names the dense basis of another;
   both memories are to be freed. */
static uint8_t *fitted_file(lq_profile *fitted, void **mem, const lq_profile *p, size_t *count)
{
    lq_archive_pack_desc d = pack_desc(LQ_V, HEADS, 0, 0.4f);
    lq_positions positions = {0, 1, NULL};
    lq_vectors v = {NULL, 0, LQ_F16};
    const void *slices[HEADS];
    size_t room = lq_profile_save_bound(lq_profile_bytes(HEADS * (DIMS + 1)));
    uint8_t *file = (uint8_t *)source_alloc(room);
    for (uint32_t i = 0; i < HEADS; i++) {
        slices[i] = sample_v + (i * TOKENS + SINKS) * DIMS;
    }
    v.slices = slices;
    d.geometry.basis = LQ_BASIS_DENSE;
    d.geometry.dense = p->dense;
    void *fit_mem = source_alloc(lq_fit_bytes(&d.geometry));
    void *workspace = source_alloc(lq_fit_workspace_bytes(&d.geometry));
    *mem = source_alloc(lq_profile_bytes(HEADS * (DIMS + 1)));
    lq_fit fit;
    CHECK(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&d.geometry), &d.geometry, 0.4f) == LQ_OK);
    CHECK(lq_fit_add(&fit, &v, &positions, 80, workspace, lq_fit_workspace_bytes(&d.geometry)) ==
          LQ_OK);
    CHECK(lq_fit_profile(&fit, fitted, *mem, lq_profile_bytes(HEADS * (DIMS + 1))) == LQ_OK);
    CHECK(lq_profile_save(file, room, count, fitted) == LQ_OK && file[6] == LQ__FORM_NAMED);
    free(workspace);
    free(fit_mem);
    return file;
}

/* The same by a reader that has the basis. */
static int unpack_named(const archive *a, const lq_profile *p, float *y, size_t tokens)
{
    lq_archive_unpack_desc u;
    size_t room = lq_archive_unpack_workspace_bytes(&a->reader, 0);
    void *workspace = source_alloc(room);
    lq_vectors_out out = {NULL, 0, LQ_F32};
    memset(&u, 0, sizeof u);
    u.tables = tables;
    u.calibrated = &p;
    u.calibrated_count = 1;
    void *slices[HEADS];
    for (uint32_t i = 0; i < HEADS; i++) {
        slices[i] = y + i * tokens * DIMS;
    }
    out.slices = slices;
    int status = lq_archive_unpack(&a->reader, &u, &out, 0, tokens, workspace, room);
    free(workspace);
    return status;
}

/* `runs` runs whose profiles name one of `runs` embedded bases: work of reading all of it. */
static double named_work(const lq_profile *p, const uint8_t *file, size_t count, uint32_t runs,
                         double *bytes)
{
    enum { EACH = 40 }; /* tokens of a run */
    size_t named_count = 0;
    lq_profile fitted;
    void *fitted_mem;
    uint8_t *named = fitted_file(&fitted, &fitted_mem, p, &named_count);
    uint8_t *variant = source_copy(file, count);
    float *x = (float *)source_alloc(sizeof(float) * HEADS * EACH * runs * DIMS);
    float *y = (float *)source_alloc(sizeof(float) * HEADS * EACH * runs * DIMS);
    archive a;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_V, HEADS, add_group(&a, LQ_V, 0, 0, HEADS), 0.4f);
    for (uint32_t i = 0; i < runs; i++) {
        lq_archive_profile_desc embedded = {NULL, 0, NULL};
        embedded.bytes = i == runs - 1 ? file : variant;
        embedded.count = count;
        change_profile(variant, count, i);
        uint32_t id;
        CHECK(lq_archive_add_profile(&a.writer, &embedded, &id) == LQ_OK);
    }
    d.profile = &fitted;
    d.geometry.basis = LQ_BASIS_DENSE;
    d.geometry.dense = p->dense;
    for (uint32_t i = 0; i < runs; i++) {
        lq_archive_profile_desc embedded = {NULL, 0, NULL};
        embedded.bytes = named;
        embedded.count = named_count;
        CHECK(lq_archive_add_profile(&a.writer, &embedded, &d.profile_id) == LQ_OK);
        d.first_token = EACH * i;
        CHECK(pack(&a, &d, 0, 0, i % 8 * EACH, EACH) == LQ_OK);
    }
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    *bytes = (double)a.writer.offset;
    steps_done = 0;
    archive_open(&a, 0);
    CHECK(unpack(&a, 0, 0, x, LQ_F32, HEADS, 0, EACH * runs) == LQ_OK);
    double all = (double)steps_done;
    CHECK(unpack_named(&a, p, y, EACH * runs) == LQ_OK);
    CHECK(memcmp(x, y, sizeof(float) * HEADS * EACH * runs * DIMS) == 0);
    archive_free(&a);
    free(x);
    free(y);
    free(variant);
    free(named);
    free(fitted_mem);
    return all;
}

/* A run a token, of two bases in turn. */
static void test_alternating(const lq_profile *p, const uint8_t *file, size_t count)
{
    enum { RUNS = 100 };
    uint8_t *variant = source_copy(file, count);
    float *x = (float *)source_alloc(LAYER_COUNT * 4);
    size_t needed = 0;
    lq_archive_profile_desc embedded = {NULL, 0, NULL};
    change_profile(variant, count, 1);
    lq_profile other;
    CHECK(lq_profile_load(&other, NULL, 0, &needed, variant, count) == LQ_E_SPACE);
    void *mem = source_alloc(needed);
    CHECK(lq_profile_load(&other, mem, needed, &needed, variant, count) == LQ_OK);
    archive a;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_V, HEADS, add_group(&a, LQ_V, 0, 0, HEADS), 8.0f);
    embedded.count = count;
    uint32_t id[2];
    for (uint32_t i = 0; i < 2; i++) {
        embedded.bytes = i ? variant : file;
        CHECK(lq_archive_add_profile(&a.writer, &embedded, &id[i]) == LQ_OK);
    }
    d.sinks = LQ_NO_SINKS;
    for (uint32_t i = 0; i < RUNS; i++) {
        d.profile = i % 2 ? &other : p;
        d.profile_id = id[i % 2];
        d.first_token = i;
        CHECK(pack(&a, &d, 0, 0, 10 + i, 1) == LQ_OK);
    }
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, 0);
    CHECK(unpack(&a, 0, 0, x, LQ_F32, HEADS, 0, 12) == LQ_OK);
    CHECK(unpack(&a, 0, 0, x, LQ_F32, HEADS, RUNS - 12, 12) == LQ_OK);
    steps_done = 0;
    CHECK(unpack(&a, 0, 0, x, LQ_F32, HEADS, 0, RUNS) == LQ_E_FORMAT);
    CHECK((double)steps_done < 60.0 * (double)a.writer.offset);
    archive_free(&a);
    free(mem);
    free(x);
    free(variant);
}

/* Twice the file is twice the work. */
static void test_work(void)
{
    lq_profile p;
    uint8_t *file;
    size_t count;
    void *mem = calibrated_file(&p, LQ_V, 0, 256, 0.4f, &file, &count);
    double bytes[3];
    double all[3];
    for (int i = 0; i < 3; i++) {
        all[i] = named_work(&p, file, count, 8u << i, &bytes[i]);
        printf("%.0f bytes of bases and runs that name them: %.2f steps a byte\n", bytes[i],
               all[i] / bytes[i]);
    }
    CHECK(all[1] / bytes[1] < 1.1 * all[0] / bytes[0] &&
          all[2] / bytes[2] < 1.1 * all[1] / bytes[1]);
    test_alternating(&p, file, count);
    free(file);
    free(mem);
}

/* A small file of a wide group: workspace for what its one page holds. */
static void test_wide(int with_callback)
{
    enum { WIDE = 8192 };
    static const uint32_t dims = WIDE;
    static float x[WIDE];
    static float y[WIDE];
    lq_slice slice = {0, 0, 0, WIDE, 0, 0};
    const void *rows[1];
    lq_vectors v = {NULL, 0, LQ_F32};
    lq_vectors_out out = {NULL, 0, LQ_F32};
    rows[0] = x;
    void *out_rows[1];
    out_rows[0] = y;
    v.slices = rows;
    out.slices = out_rows;
    lq_archive_group_desc g;
    memset(&g, 0, sizeof g);
    g.stream = LQ_V;
    g.rope = LQ_ARCHIVE_NONE;
    g.slices = &slice;
    g.slice_count = 1;
    archive a;
    archive_start(&a);
    lq_archive_pack_desc d = pack_desc(LQ_V, 1, 0, 0.5f);
    d.geometry.slice_dims = &dims;
    d.sinks = LQ_NO_SINKS;
    CHECK(lq_archive_add_group(&a.writer, &g, &d.group) == LQ_OK);
    for (size_t i = 0; i < WIDE; i++) {
        x[i] = i % 64 ? 0.0f : 1.0f;
    }
    size_t bytes = lq_archive_pack_workspace_bytes(&d);
    void *workspace = source_alloc(bytes);
    CHECK(lq_archive_pack(&a.writer, &d, &v, NULL, 1, workspace, bytes) == LQ_OK);
    free(workspace);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_open(&a, with_callback);
    bytes = lq_archive_unpack_workspace_bytes(&a.reader, 0);
    printf("a group of %d dims, %lu bytes of file: a workspace of %lu\n", WIDE,
           (unsigned long)a.writer.offset, (unsigned long)bytes);
    CHECK(bytes < 6 * 4 * 64 * WIDE); /* six pages of floats */
    workspace = source_alloc(bytes);
    lq_archive_unpack_desc u;
    memset(&u, 0, sizeof u);
    u.tables = tables;
    CHECK(lq_archive_unpack(&a.reader, &u, &out, 0, 1, workspace, bytes) == LQ_OK);
    CHECK(y[0] > 0.5f && y[0] < 1.5f && y[1] < 0.5f && y[1] > -0.5f);
    free(workspace);
    archive_free(&a);
}

int main(int argc, char **argv)
{
    int quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    int rounds = quick ? 6 : 40;
    void *memory = source_alloc(lq_tables_bytes());
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    sample_k = source_sample("k", SAMPLE_COUNT);
    sample_v = source_sample("v", SAMPLE_COUNT);
    sample_q = source_sample("q", SAMPLE_QUERY_COUNT);
    source_sample_freqs(freqs);
    rope.freqs = freqs;
    rope.rotary_dims = DIMS;
    references();
    test_kinds(rounds);
    test_sequences(rounds);
    test_external_profile();
    test_append(rounds);
    test_overwritten();
    test_mixed_run();
    test_positions();
    test_pack_follow();
    test_pack_errors();
    test_pack_space();
    test_work();
    test_wide(0);
    test_wide(1);
    test_calibrated(LQ_K, 0);
    test_calibrated(LQ_V, 1);
    test_figures();
    gaussian(LQ_Z, 1.44);
    gaussian(LQ_D4, 1.35);
    gaussian(LQ_E8, 1.28);
    free(sample_k);
    free(sample_v);
    free(sample_q);
    free(memory);
    return check_report("test_pack");
}
