/* cc -std=c99 -O2 tests/test_page.c -o test_page -lm    The page codec: `test_page quick` makes fewer
cases. */
#include "header.h"
#include "inside.h"

#include "check.h"
#include "source.h"

enum { TRAILER = 4, SLICES_MAX = 8, DIMS_MAX = 704, TOKENS_MAX = 700 };

static const lq_tables *tables;
static int levels; /* SIMD levels to test: 0 .. levels */

/* ---- a case: a group, its vectors, a codec ---- */
typedef struct setup {
    lq_geometry geometry;
    uint32_t dims[SLICES_MAX];
    size_t all; /* dims of all slices */
    lq_rope rope;
    float freqs[DIMS_MAX / 2];
    lq_positions positions;
    int64_t list[TOKENS_MAX];
    size_t tokens;
    int type;
    size_t stride;
    const void *slices[SLICES_MAX];
    void *memory[SLICES_MAX];
    lq_vectors vectors;
    lq_profile profile;
    void *profile_mem;
    lq_codec_desc desc;
    lq_codec *codec;
    uint8_t *codec_mem;
} setup;

static setup s_;

static size_t slice_stride(const setup *s, uint32_t slice)
{
    return s->stride ? s->stride : s->dims[slice];
}

static void setup_free(setup *s)
{
    for (uint32_t i = 0; i < SLICES_MAX; i++) {
        free(s->memory[i]);
    }
    free(s->profile_mem);
    free(s->codec_mem);
    memset(s, 0, sizeof *s);
}

static void setup_group(setup *s, uint32_t stream, const uint32_t *dims, uint32_t count)
{
    memset(s, 0, sizeof *s);
    s->geometry.stream = stream;
    s->geometry.slice_count = count;
    s->geometry.slice_dims = s->dims;
    for (uint32_t i = 0; i < count; i++) {
        s->dims[i] = dims[i];
        s->all += dims[i];
    }
}

static void setup_rope(setup *s, uint32_t rotary_dims, uint32_t layout, float magnitude)
{
    for (uint32_t i = 0; i < rotary_dims / 2; i++) {
        s->freqs[i] = (float)pow(1e4, -2.0 * i / rotary_dims);
    }
    s->rope.freqs = s->freqs;
    s->rope.rotary_dims = rotary_dims;
    s->rope.layout = layout;
    s->rope.magnitude = magnitude;
    s->geometry.rope = &s->rope;
}

/* Vectors with a mean and a deviation of their own in each channel, V's with a size of their own
   about that mean. */
static void setup_vectors(setup *s, size_t tokens, int type, size_t stride)
{
    s->tokens = tokens;
    s->type = type;
    s->stride = stride;
    for (uint32_t i = 0; i < s->geometry.slice_count; i++) {
        size_t step = slice_stride(s, i);
        size_t count = tokens ? (tokens - 1) * step + s->dims[i] : 0;
        float *x = (float *)source_zeros(count * 4);
        for (size_t d = 0; d < s->dims[i]; d++) {
            double mean = source_below(3) ? 0 : 3 * source_gauss();
            double sigma = pow(2, 5 * source_uniform() - 4);
            for (size_t t = 0; t < tokens; t++) {
                int value = s->geometry.stream == LQ_V;
                double gain = value ? pow(2, 6 * fmod(0.618 * (double)t, 1) - 3) : 1;
                x[t * step + d] = (float)(mean + gain * sigma * source_gauss());
            }
        }
        s->memory[i] = source_alloc(count * lq_type_bytes(type));
        CHECK(lq_type_from_f32(s->memory[i], x, count, type) == LQ_OK);
        s->slices[i] = s->memory[i];
        free(x);
    }
    s->vectors.slices = s->slices;
    s->vectors.token_stride = stride;
    s->vectors.type = type;
}

static void setup_profile(setup *s, float step)
{
    size_t rows = lq_geometry_rows(&s->geometry);
    size_t workspace_bytes = lq_fit_workspace_bytes(&s->geometry);
    void *fit_mem = source_alloc(lq_fit_bytes(&s->geometry));
    void *workspace = source_alloc(workspace_bytes);
    s->profile_mem = source_alloc(lq_profile_bytes(rows));
    lq_fit fit;
    CHECK(lq_fit_init(&fit, fit_mem, lq_fit_bytes(&s->geometry), &s->geometry, step) == LQ_OK);
    CHECK(lq_fit_add(&fit, &s->vectors, &s->positions, s->tokens, workspace, workspace_bytes) ==
          LQ_OK);
    CHECK(lq_fit_profile(&fit, &s->profile, s->profile_mem, lq_profile_bytes(rows)) == LQ_OK);
    free(fit_mem);
    free(workspace);
}

static int setup_codec(setup *s, int page, int quantizer, int bits, int raw_type, float step)
{
    s->desc.geometry = s->geometry;
    s->desc.page = page;
    s->desc.quantizer = quantizer;
    s->desc.bits = bits;
    s->desc.type = raw_type;
    s->desc.profile_index = 7;
    if (page != LQ_PAGE_RAW) {
        s->desc.step = step;
        s->desc.profile = &s->profile;
        s->desc.tables = page == LQ_PAGE_FIXED ? NULL : tables;
    }
    size_t bytes = lq_codec_bytes(&s->desc);
    s->codec_mem = (uint8_t *)source_alloc(bytes + 3);
    return CHECK(bytes > 0) &&
           CHECK(lq_codec_init(&s->codec, s->codec_mem + 3, bytes, &s->desc) == LQ_OK);
}

/* ---- the coefficients in double ---- */
static double element(const void *src, size_t i, int type)
{
    float x;
    const uint8_t *at = (const uint8_t *)src + i * lq_type_bytes(type);
    if (lq_f32_from_type(&x, at, 1, type)) return 0;
    return (double)x;
}

static int64_t position(const setup *s, size_t t)
{
    int64_t stride = s->positions.stride ? s->positions.stride : 1;
    return s->positions.list ? s->positions.list[t] : s->positions.first + stride * (int64_t)t;
}

/* V's centre in channel i of a slice; 0 for K. */
static double center_of(const setup *s, uint32_t slice, size_t i)
{
    size_t at = s->geometry.slice_count;
    if (s->geometry.stream == LQ_K) return 0;
    for (uint32_t k = 0; k < slice; k++) {
        at += s->dims[k];
    }
    return s->profile.mean[at + i] *
           pow(2, s->profile.mean_exponent + (s->profile.mean[slice] >> 2));
}

/* V's centre subtracted, RoPE undone, and rotated, one vector of one slice. */
static void coefficients(const setup *s, double *y, const void *src, int type, size_t at,
                         uint32_t slice, size_t t)
{
    size_t dims = s->dims[slice];
    for (size_t i = 0; i < dims; i++) {
        y[i] = element(src, at + i, type) - center_of(s, slice, i);
    }
    if (s->geometry.rope) {
        size_t half = s->rope.rotary_dims / 2;
        double magnitude = s->rope.magnitude == 0.0f ? 1 : (double)s->rope.magnitude;
        for (size_t i = 0; i < half; i++) {
            int adjacent = s->rope.layout == LQ_ROPE_ADJACENT;
            source_rope_pair(y + (adjacent ? 2 * i : i), y + (adjacent ? 2 * i + 1 : i + half),
                             (double)position(s, t), (double)s->freqs[i], magnitude, 1);
        }
    }
    if (s->profile.basis == LQ_BASIS_HADAMARD) source_rotate(y, dims, 0);
}

/* Quarter octaves of the root mean square of numbers that are rounded as the library does: to a 2^15th of the
   power of two below the largest. */
static double gain_of_numbers(const double *x, size_t dims)
{
    double most = 0;
    double sum = 0;
    for (size_t i = 0; i < dims; i++) {
        most = fmax(most, fabs(x[i]));
    }
    if (most < 1e-37) { /* zeros, or float32's subnormals */
        return -127;
    }
    double unit = pow(2, floor(log2(most)) - 15);
    for (size_t i = 0; i < dims; i++) {
        double q = rint(x[i] / unit);
        sum += q * q;
    }
    return floor(2 * log2(sum / (double)dims * unit * unit) + 0.5);
}

/* A gain is a whole number of quarter octaves, at least 2^-31.75: smaller vectors are coded
   relative to that. */
static double gain_of(const setup *s, uint32_t slice, size_t t)
{
    static double whole[DIMS_MAX];
    static double left[DIMS_MAX];
    if (s->geometry.stream == LQ_K) return 1;
    for (size_t i = 0; i < s->dims[slice]; i++) {
        whole[i] = element(s->slices[slice], t * slice_stride(s, slice) + i, s->type);
        left[i] = (double)(float)(whole[i] - center_of(s, slice, i));
    }
    double of_whole = gain_of_numbers(whole, s->dims[slice]);
    double gain = gain_of_numbers(left, s->dims[slice]);
    gain = of_whole <= gain - 2 ? fmax(of_whole, gain - 8) : gain;
    return pow(2, (gain < -127 ? -127 : gain) / 4);
}

static int class_of(const setup *s, size_t row)
{
    if (s->profile.sigma[row] == LQ_SIGMA_DEAD) return 0;
    double eighths = s->profile.sigma[row] / 2.0 - 8 * log2((double)s->desc.step);
    eighths = floor(eighths + 0.5) + LQ_CLASS_ONE;
    return (int)(eighths < 0 ? 0 : eighths > LQ_CLASS_MAX ? LQ_CLASS_MAX : eighths);
}

static double wiener_of(int quantizer, int class_)
{
    double moment = quantizer == LQ_D4 ? 0.10833 : 0.071682;
    return 1 / (1 + moment * pow(2, (LQ_CLASS_ONE - class_) / 4.0));
}

static int bad_cells;
static double squares;
static size_t square_count;

/* v: coefficients less the mean, in steps; e: the decoded ones. Z coded: the cell of k is at most
   [k - 1/2, k + 1/2 + dead zone] and the decoded number lies inside. */
static void check_z(double v, double e, int class_, double slack)
{
    double error = fabs(e - v);
    double dead = class_ ? lq_inside_dead_zone_q12(tables, (uint32_t)class_) / 4096.0 : 0;
    double limit = class_ == 0 ? fabs(v) : fabs(v) < 0.5 + dead ? 0.5 + dead : 1;
    bad_cells += !(error <= limit + slack);
    if (class_ > LQ_CLASS_ONE + 16) { /* fine steps: centroids are centres */
        bad_cells += !(error <= 0.53 + slack);
    }
    squares += error * error;
    square_count++;
}

/* One block of a lattice: covering radius 1 (D4 at any scale and E8), shrunk by the Wiener factor.
*/
static void check_lattice(const double *v, const double *e, const int *classes, size_t n,
                          int quantizer, double slack)
{
    double error = 0;
    double shrink = 0;
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double w = wiener_of(quantizer, classes[i]);
        most = w > most ? w : most;
        shrink += (1 - w) * v[i] * ((1 - w) * v[i]);
        error += (e[i] - v[i]) * (e[i] - v[i]);
    }
    bad_cells += !(sqrt(error) <= most + sqrt(shrink) + slack * sqrt((double)n));
    squares += error;
    square_count += n;
}

static void check_fixed_z(double v, double e, int bits, double slack)
{
    double top = (1 << (bits - 1)) - 0.5;
    double limit = fabs(v) > top ? fabs(v) - top : 0.5;
    bad_cells += !(fabs(e - v) <= (limit > 0.5 ? limit : 0.5) + slack) || !(fabs(e) <= top + slack);
}

/* Inside the box every point is within the covering radius; outside, within it and the excess. */
static void check_fixed_e8(const double *v, const double *e, double slack)
{
    double error = 0;
    double excess = 0;
    for (size_t i = 0; i < 8; i++) {
        double over = fabs(v[i]) > 6.5 ? fabs(v[i]) - 6.5 : 0;
        error += (e[i] - v[i]) * (e[i] - v[i]);
        excess += over * over;
        bad_cells += !(e[i] >= -8 - slack && e[i] <= 7.5 + slack);
    }
    bad_cells += !(sqrt(error) <= 1 + 2 * sqrt(excess) + 8 * slack);
}

/* One token: all coefficients of all slices in order, blocks run over slices. */
static void check_token(const setup *s, const double *v, const double *e, const int *classes,
                        double slack)
{
    size_t block = lq_lattice_dims(s->desc.quantizer ? s->desc.quantizer : LQ_Z);
    for (size_t i = 0; i < s->all; i += block) {
        size_t n = s->all - i < block ? s->all - i : block;
        int lattice = n == block && block > 1;
        int path = s->desc.quantizer >= LQ_TRELLIS_8;
        for (size_t j = 0; j < n; j++) {
            lattice = lattice && classes[i + j] != 0 && !(path && classes[i + j] > 53);
        }
        if (s->desc.page == LQ_PAGE_FIXED && block == 8) {
            check_fixed_e8(v + i, e + i, slack);
        } else if (lattice && path) { /* the levels that a search sees are at most so far away */
            for (size_t j = 0; j < n; j++) {
                bad_cells += !(fabs(e[i + j] - v[i + j]) <= 2.25 + slack);
            }
        } else if (lattice) {
            check_lattice(v + i, e + i, classes + i, n, s->desc.quantizer, slack);
        } else {
            for (size_t j = 0; j < n; j++) {
                if (s->desc.page == LQ_PAGE_FIXED) {
                    check_fixed_z(v[i + j], e[i + j], s->desc.bits ? s->desc.bits : 4, slack);
                } else {
                    check_z(v[i + j], e[i + j], classes[i + j], slack);
                }
            }
        }
    }
}

/* Decoded floats (tokens, all) lie in the cells of the source. */
static void check_cells(const setup *s, const float *decoded)
{
    static double v[DIMS_MAX];
    static double e[DIMS_MAX];
    static int classes[DIMS_MAX];
    double slack = s->profile.basis == LQ_BASIS_HADAMARD ? 0.06 : 0.02;
    size_t lead = s->geometry.stream == LQ_V ? s->geometry.slice_count : 0;
    for (size_t i = 0; i < s->all; i++) {
        classes[i] = class_of(s, lead + i);
    }
    bad_cells = 0;
    for (size_t t = 0; t < s->tokens; t++) {
        size_t at = 0;
        double rounded = 0; /* decoded values are floats, near the centre if not near 0 */
        for (uint32_t slice = 0; slice < s->geometry.slice_count; slice++) {
            double unit = (double)s->desc.step * gain_of(s, slice, t);
            for (size_t i = 0; i < s->dims[slice]; i++) {
                rounded = fmax(rounded, fabs(center_of(s, slice, i)) * 0x1p-22 / unit);
            }
            coefficients(s, v + at, s->slices[slice], s->type, t * slice_stride(s, slice), slice,
                         t);
            coefficients(s, e + at, decoded, LQ_F32, t * s->all + at, slice, t);
            for (size_t i = at; i < at + s->dims[slice]; i++) {
                double mean = lead ? 0
                                   : s->profile.mean[i] * pow(2, s->profile.mean_exponent) /
                                         (double)s->desc.step;
                v[i] = v[i] / unit - mean;
                e[i] = e[i] / unit - mean;
            }
            at += s->dims[slice];
        }
        check_token(s, v, e, classes, slack + rounded);
    }
    CHECK(bad_cells == 0);
}

/* ---- encode and decode ---- */
typedef struct pages {
    uint8_t *bytes;
    size_t count;
    size_t written;
    size_t page_bytes[TOKENS_MAX / 64 + 2];
    const uint8_t *page[TOKENS_MAX / 64 + 2];
    uint8_t *own[TOKENS_MAX / 64 + 2]; /* each page in a buffer of its exact size */
} pages;

static void pages_free(pages *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->own[i]);
    }
    free(p->bytes);
    memset(p, 0, sizeof *p);
}

static int encode(const setup *s, pages *p)
{
    size_t workspace_bytes = lq_codec_workspace_bytes(s->codec);
    uint8_t *workspace = (uint8_t *)source_alloc(workspace_bytes + 1);
    size_t at = 0;
    memset(p, 0, sizeof *p);
    p->count = (s->tokens + 63) / 64;
    size_t room = p->count * lq_codec_page_bound(s->codec);
    p->bytes = (uint8_t *)source_alloc(room);
    int status = lq_codec_encode(s->codec, p->bytes, room, &p->written, p->page_bytes, &s->vectors,
                                 &s->positions, s->tokens, workspace + 1, workspace_bytes);
    free(workspace);
    if (status) {
        free(p->bytes);
        p->bytes = NULL;
        p->count = 0;
        CHECK(p->written == 0);
        return status;
    }
    for (size_t i = 0; i < p->count; i++) {
        CHECK(p->page_bytes[i] <= lq_codec_page_bound(s->codec));
        p->own[i] = source_copy(p->bytes + at, p->page_bytes[i]);
        p->page[i] = p->own[i];
        at += p->page_bytes[i];
    }
    CHECK(at == p->written);
    return LQ_OK;
}

/* To a fresh array of `type`, (tokens, stride) a slice; gap elements keep the byte 0xa5. */
static int decode(const setup *s, const pages *p, void **slices, int type, size_t stride)
{
    size_t workspace_bytes = lq_codec_workspace_bytes(s->codec);
    uint8_t *workspace = (uint8_t *)source_alloc(workspace_bytes);
    memset(workspace, 0x7f, workspace_bytes); /* what another call may have left there */
    lq_vectors_out out;
    out.slices = slices;
    out.token_stride = stride;
    out.type = type;
    int status = lq_codec_decode(s->codec, &out, &s->positions, s->tokens, p->page, p->page_bytes,
                                 workspace, workspace_bytes);
    free(workspace);
    return status;
}

/* To floats (tokens, all). */
static int decode_floats(const setup *s, const pages *p, float *dst)
{
    void *slices[SLICES_MAX];
    size_t at = 0;
    for (uint32_t i = 0; i < s->geometry.slice_count; i++) {
        slices[i] = dst + at;
        at += s->dims[i];
    }
    return decode(s, p, slices, LQ_F32, s->all);
}

/* f16 and bf16 outputs are the floats converted; what lies between the vectors is not touched. */
static void check_output_types(const setup *s, const pages *p, const float *decoded)
{
    for (int type = LQ_F32; type <= LQ_BF16; type++) {
        size_t bytes = lq_type_bytes(type);
        size_t gap = source_below(3);
        size_t stride = s->all + gap;
        size_t total = ((s->tokens - 1) * stride + s->all) * bytes;
        uint8_t *out = (uint8_t *)source_alloc(total);
        uint8_t *want = (uint8_t *)source_alloc(total);
        size_t at = 0;
        memset(out, 0xa5, total);
        memset(want, 0xa5, total);
        void *slices[SLICES_MAX];
        for (uint32_t i = 0; i < s->geometry.slice_count; i++) {
            slices[i] = out + at * bytes;
            at += s->dims[i];
        }
        for (size_t t = 0; t < s->tokens; t++) {
            CHECK(!lq_type_from_f32(want + t * stride * bytes, decoded + t * s->all, s->all, type));
        }
        CHECK(decode(s, p, slices, type, stride) == LQ_OK);
        CHECK(memcmp(out, want, total) == 0);
        free(out);
        free(want);
    }
}

/* Bytes and decoded numbers are the same at every level. Returns the decoded floats. */
static float *round_trip(const setup *s, pages *p)
{
    size_t count = s->tokens * s->all;
    float *decoded = (float *)source_zeros(count * 4);
    lq_cpu_limit(0);
    if (!CHECK(encode(s, p) == LQ_OK) || !CHECK(decode_floats(s, p, decoded) == LQ_OK)) {
        lq_cpu_limit(-1);
        return decoded;
    }
    for (int level = 1; level <= levels; level++) {
        float *other = (float *)source_zeros(count * 4);
        lq_cpu_limit(level);
        pages q;
        CHECK(encode(s, &q) == LQ_OK && q.written == p->written &&
              memcmp(q.bytes, p->bytes, p->written) == 0);
        CHECK(decode_floats(s, p, other) == LQ_OK && memcmp(other, decoded, count * 4) == 0);
        pages_free(&q);
        free(other);
    }
    lq_cpu_limit(-1);
    return decoded;
}

/* ---- random cases ---- */
typedef struct shape {
    uint32_t count;
    uint32_t dims[SLICES_MAX];
} shape;

static const shape shapes[] = {
    {1, {64}},          {3, {64, 64, 64}}, {1, {128}},
    {1, {8}},           {2, {48, 16}},     {3, {96, 32, 8}},
    {1, {1}},           {1, {5}},          {2, {3, 10}},
    {1, {80}},          {2, {512, 64}},    {1, {576}},
    {4, {7, 7, 7, 11}}, {2, {24, 2}},      {8, {8, 8, 8, 8, 8, 8, 8, 8}},
};

static void setup_shape(setup *s, uint32_t stream, size_t which)
{
    uint32_t least = 100000;
    setup_group(s, stream, shapes[which].dims, shapes[which].count);
    for (uint32_t i = 0; i < shapes[which].count; i++) {
        least = shapes[which].dims[i] < least ? shapes[which].dims[i] : least;
    }
    if (least >= 2 && source_below(3)) { /* V with RoPE is legal too, if odd */
        uint32_t rotary = source_below(2) ? least / 2 * 2 : 2 + 2 * source_below(least / 2);
        setup_rope(s, rotary, source_below(3),
                   source_below(3) ? 0.0f : (float)(0.6 + 2 * source_uniform()));
    }
    s->positions.first = source_below(2) ? 0 : (int64_t)source_below(1000000);
    s->positions.stride = (int64_t)source_below(4);
    if (source_below(4) == 0) {
        for (uint32_t i = 0; i < TOKENS_MAX; i++) {
            s->list[i] = (int64_t)source_below(100000);
        }
        s->positions.list = s->list;
    }
}

static void random_case(size_t n)
{
    static const int fixed_bits[5] = {8, 4, 3, 2, 0};
    setup *s = &s_;
    uint32_t stream = n & 1 ? LQ_K : LQ_V;
    size_t tokens = 1 + n % 200;
    int type = 1 + (int)source_below(3);
    float step = (float)pow(2, 4 * source_uniform() - 3.03);
    int bits = 0;
    setup_shape(s, stream, source_below(sizeof shapes / sizeof shapes[0]));
    s->geometry.basis = source_below(3);
    setup_vectors(s, tokens, type, source_below(2) ? 0 : s->all + source_below(9));
    int page = source_below(3) ? LQ_PAGE_CODED : LQ_PAGE_FIXED;
    int quantizer = (int)source_below(7);
    if (page == LQ_PAGE_FIXED) {
        bits = fixed_bits[source_below(5)];
        quantizer = s->all % 8 == 0 && (bits == 0 || bits == 4) && source_below(2) ? LQ_E8 : 0;
        step = bits == 8 ? step / 4 : bits == 2 ? 2 * step : step;
    }
    setup_profile(s, step);
    if (!setup_codec(s, page, quantizer, bits, 0, step)) {
        setup_free(s);
        return;
    }
    pages p;
    float *decoded = round_trip(s, &p);
    if (p.count) {
        check_cells(s, decoded);
        if (n % 4 == 0) check_output_types(s, &p, decoded);
        lq_page_info info;
        CHECK(lq_page_inspect(&info, p.page[p.count - 1], p.page_bytes[p.count - 1]) == LQ_OK);
        CHECK(info.page == page && info.quantizer == (quantizer ? quantizer : LQ_Z));
        CHECK(info.bits == (page == LQ_PAGE_CODED ? 0 : bits ? bits : 4) && info.type == 0);
        CHECK(info.tokens == (tokens - 1) % 64 + 1 && info.profile_index == 7);
    }
    pages_free(&p);
    free(decoded);
    setup_free(s);
}

/* More tokens than the pages in flight hold, all at once and page by page: the same bytes. */
static void test_batches(void)
{
    setup *s = &s_;
    const uint32_t dims[1] = {16};
    size_t at = 0;
    setup_group(s, LQ_K, dims, 1);
    setup_rope(s, 16, 0, 0);
    s->positions.first = 5;
    setup_vectors(s, TOKENS_MAX, LQ_F32, 0);
    setup_profile(s, 0.3f);
    if (!setup_codec(s, 0, LQ_D4, 0, 0, 0.3f)) return;
    pages p;
    float *decoded = round_trip(s, &p);
    check_cells(s, decoded);
    CHECK(p.count == (TOKENS_MAX + 63) / 64);
    size_t workspace_bytes = lq_codec_workspace_bytes(s->codec);
    uint8_t *workspace = (uint8_t *)source_alloc(workspace_bytes);
    uint8_t *page = (uint8_t *)source_alloc(lq_codec_page_bound(s->codec));
    for (size_t i = 0; i < p.count; i++) {
        const void *slices[1];
        size_t n = s->tokens - 64 * i < 64 ? s->tokens - 64 * i : 64;
        lq_vectors part = {NULL, 0, LQ_F32};
        lq_positions from = {0, 1, NULL};
        slices[0] = (const float *)s->memory[0] + 64 * i * 16;
        part.slices = slices;
        from.first = 5 + 64 * (int64_t)i;
        size_t written;
        size_t page_bytes;
        CHECK(lq_codec_encode(s->codec, page, lq_codec_page_bound(s->codec), &written, &page_bytes,
                              &part, &from, n, workspace, workspace_bytes) == LQ_OK);
        CHECK(written == p.page_bytes[i] && page_bytes == written &&
              memcmp(page, p.bytes + at, written) == 0);
        at += written;
    }
    free(workspace);
    free(page);
    free(decoded);
    pages_free(&p);
    setup_free(s);
}

/* ---- raw pages ---- */
static void random_bits(setup *s, size_t tokens, int type)
{
    s->tokens = tokens;
    s->type = type;
    for (uint32_t i = 0; i < s->geometry.slice_count; i++) {
        size_t bytes = tokens * s->dims[i] * lq_type_bytes(type);
        uint8_t *x = (uint8_t *)source_alloc(bytes);
        /* every fourth byte pair is of the NaNs and infinities */
        for (size_t k = 0; k < bytes; k++) {
            x[k] = (uint8_t)(k / 2 % 4 == 3 && (k & 1) ? 0x7f : source_below(256));
        }
        s->memory[i] = x;
        s->slices[i] = x;
    }
    s->vectors.slices = s->slices;
    s->vectors.token_stride = 0;
    s->vectors.type = type;
}

/* What a page makes of numbers beyond the range of its type: the largest one, not infinity. */
static void keep_finite(uint8_t *dst, const float *x, size_t count, int type)
{
    for (size_t i = 0; i < count && type != LQ_F32; i++) {
        uint16_t h;
        memcpy(&h, dst + 2 * i, 2);
        uint32_t u;
        memcpy(&u, x + i, 4);
        if ((h & 0x7fffu) == (type == LQ_F16 ? 0x7c00u : 0x7f80u) &&
            (u & 0x7fffffffu) < 0x7f800000u) {
            h--;
            memcpy(dst + 2 * i, &h, 2);
        }
    }
}

static void test_raw(uint32_t stream, int source_type, int raw_type, size_t tokens)
{
    static const uint32_t dims[3] = {7, 64, 2};
    setup *s = &s_;
    setup_group(s, stream, dims, 3);
    setup_rope(s, 2, 0, 0); /* raw pages keep vectors as they are */
    random_bits(s, tokens, source_type);
    if (!setup_codec(s, LQ_PAGE_RAW, 0, 0, raw_type, 0)) return;
    raw_type = raw_type ? raw_type : LQ_F16;
    pages p;
    CHECK(encode(s, &p) == LQ_OK);
    CHECK(p.written == tokens * 73 * lq_type_bytes(raw_type) + TRAILER * p.count);
    void *slices[3];
    for (uint32_t i = 0; i < 3; i++) {
        slices[i] = source_zeros(tokens * dims[i] * lq_type_bytes(raw_type));
    }
    CHECK(decode(s, &p, slices, raw_type, 0) == LQ_OK);
    for (uint32_t i = 0; i < 3; i++) {
        size_t count = tokens * dims[i];
        uint8_t *want = (uint8_t *)source_alloc(count * 4);
        float *x = (float *)source_alloc(count * 4);
        if (raw_type == source_type) { /* every bit */
            memcpy(want, s->memory[i], count * lq_type_bytes(raw_type));
        } else {
            CHECK(lq_f32_from_type(x, s->memory[i], count, source_type) == LQ_OK);
            CHECK(lq_type_from_f32(want, x, count, raw_type) == LQ_OK);
            keep_finite(want, x, count, raw_type);
        }
        CHECK(memcmp(slices[i], want, count * lq_type_bytes(raw_type)) == 0);
        free(want);
        free(x);
        free(slices[i]);
    }
    pages_free(&p);
    setup_free(s);
}

static void test_raw_all(void)
{
    for (int a = LQ_F32; a <= LQ_BF16; a++) {
        for (int b = 0; b <= LQ_BF16; b++) {
            test_raw(LQ_K, a, b, 1);
            test_raw(LQ_V, a, b, 100);
        }
    }
    for (size_t tokens = 1; tokens <= 130; tokens++) {
        test_raw(LQ_K, LQ_F16, 0, tokens);
    }
}

/* ---- dead coefficients, zeros, extremes ---- */
static void test_zeros(void)
{
    static const uint32_t dims[2] = {16, 8};
    static const int page_of[3] = {LQ_PAGE_CODED, LQ_PAGE_FIXED, LQ_PAGE_FIXED};
    static const int quantizer_of[3] = {LQ_Z, LQ_Z, LQ_E8};
    setup *s = &s_;
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (int which = 0; which < 3; which++) {
            setup_group(s, stream, dims, 2);
            setup_vectors(s, 70, LQ_F32, 0);
            memset(s->memory[0], 0, 70 * 16 * 4);
            memset(s->memory[1], 0, 70 * 8 * 4);
            setup_profile(s, 0.5f);
            for (size_t i = 0; i < 24; i++) {
                CHECK(s->profile.sigma[(stream == LQ_V ? 2 : 0) + i] == LQ_SIGMA_DEAD);
            }
            pages p;
            if (setup_codec(s, page_of[which], quantizer_of[which], 0, 0, 0.5f)) {
                float *decoded = round_trip(s, &p);
                for (size_t i = 0; i < 70 * 24; i++) { /* the half-integer grid has no zero */
                    double most = which == 1 && stream == LQ_K ? 0.25 : which == 1 ? 1e-9 : 0;
                    CHECK(fabs((double)decoded[i]) <= most);
                }
                if (which == 0) {
                    CHECK(p.written < 2 * 140); /* dead rows cost nothing */
                }
                pages_free(&p);
                free(decoded);
            }
            setup_free(s);
        }
    }
}

/* One value far out among ordinary ones, up to the limit of 2048 steps: still in its cell. */
static void test_outliers(void)
{
    static const uint32_t dims[1] = {64};
    setup *s = &s_;
    for (int quantizer = LQ_Z; quantizer <= LQ_TRELLIS_64; quantizer++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            setup_group(s, LQ_K, dims, 1);
            setup_vectors(s, 64, LQ_F32, 0);
            setup_profile(s, 0.5f);
            ((float *)s->memory[0])[64 * 9 + 17] = (float)sign * 1024.0f;
            ((float *)s->memory[0])[64 * 63 + 63] = (float)sign * 500.3f;
            ((float *)s->memory[0])[0] = (float)sign * 20;
            pages p;
            if (setup_codec(s, 0, quantizer, 0, 0, 0.5f)) {
                float *decoded = round_trip(s, &p);
                if (quantizer == LQ_Z) { /* the lattices' factor shrinks outliers: see the bound */
                    double error = (double)decoded[64 * 9 + 17] - sign * 1024.0;
                    CHECK(fabs(error) <= 0.51);
                }
                check_cells(s, decoded);
                pages_free(&p);
                free(decoded);
            }
            setup_free(s);
        }
    }
}

/* V is coded relative to its gain, at any scale of which gains have 2^-31.75 .. 2^31.75. */
static void test_scales(void)
{
    static const uint32_t dims[1] = {32};
    setup *s = &s_;
    for (int exponent = -38; exponent <= 38; exponent += 2) {
        for (int page = LQ_PAGE_FIXED; page <= LQ_PAGE_CODED; page++) {
            setup_group(s, LQ_V, dims, 1);
            setup_vectors(s, 40, LQ_F32, 0);
            setup_profile(s, 0.4f);
            for (size_t i = 0; i < 40 * 32; i++) {
                ((float *)s->memory[0])[i] *= (float)pow(2, exponent) * 0.125f;
            }
            if (exponent <= 26) {
                free(s->profile_mem);
                setup_profile(s, 0.4f);
            }
            pages p;
            if (setup_codec(s, page, 0, page == LQ_PAGE_FIXED ? 8 : 0, 0, 0.4f) && exponent <= 26) {
                float *decoded = round_trip(s, &p);
                check_cells(s, decoded);
                pages_free(&p);
                free(decoded);
            } else if (exponent >= 36) {
                CHECK(encode(s, &p) == LQ_E_RANGE);
            }
            setup_free(s);
        }
    }
}

static void test_extreme_steps(void)
{
    static const uint32_t dims[1] = {8};
    static const int exponents[8] = {-100, -99, -98, -80, 80, 95, 99, 100};
    setup *s = &s_;
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        for (int i = 0; i < 8; i++) {
            float step = (float)pow(2, exponents[i]);
            setup_group(s, stream, dims, 1);
            setup_vectors(s, 10, LQ_F32, 0);
            for (size_t k = 0; k < 80; k++) {
                float x = ((float *)s->memory[0])[k];
                ((float *)s->memory[0])[k] = stream == LQ_K ? x * step : 0.0f;
            }
            setup_profile(s, step);
            pages p;
            if (setup_codec(s, 0, 0, 0, 0, step)) {
                float *decoded = round_trip(s, &p);
                if (stream == LQ_K) {
                    check_cells(s, decoded);
                } else { /* zeros stay zeros */
                    for (size_t k = 0; k < 80; k++) {
                        CHECK(fabs((double)decoded[k]) == 0);
                    }
                }
                pages_free(&p);
                free(decoded);
            }
            setup_free(s);
        }
    }
}

/* ---- errors ---- */
static int encode_once(const setup *s)
{
    pages p;
    int status = encode(s, &p);
    pages_free(&p);
    return status;
}

/* A NaN or an infinity anywhere is LQ_E_DATA, a number beyond the limit LQ_E_RANGE. */
static void test_bad_values(void)
{
    static const uint32_t dims[2] = {24, 8};
    const float nan = lq_f32_from_f16(0x7e01);
    const float infinity = lq_f32_from_f16(0x7c00);
    setup *s = &s_;
    for (int page = LQ_PAGE_FIXED; page <= LQ_PAGE_CODED; page++) {
        for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
            setup_group(s, stream, dims, 2);
            setup_vectors(s, 130, LQ_F32, 0);
            setup_profile(s, 0.01f);
            if (!setup_codec(s, page, 0, 0, 0, 0.01f)) return;
            CHECK(encode_once(s) == LQ_OK);
            for (size_t k = 0; k < 200; k++) {
                uint32_t slice = source_below(2);
                size_t at = k == 0   ? 0
                            : k == 1 ? 129 * dims[slice]
                                     : source_below(130 * dims[slice]);
                float *x = (float *)s->memory[slice] + at;
                float old = *x;
                *x = nan;
                CHECK(encode_once(s) == LQ_E_DATA);
                *x = k & 1 ? infinity : -infinity;
                CHECK(encode_once(s) == LQ_E_DATA);
                *x = stream == LQ_V ? 3e18f : k & 1 ? 1e9f : -200.0f; /* V: gain above 2^31.75 */
                CHECK(encode_once(s) == LQ_E_RANGE);
                *x = stream == LQ_V ? old : k & 1 ? 150.0f : -150.0f;
                CHECK(encode_once(s) == LQ_OK);
                *x = old;
            }
            setup_free(s);
        }
    }
}

static void test_init_errors(void)
{
    static const uint32_t dims[2] = {24, 8};
    setup *s = &s_;
    lq_codec *codec = NULL;
    lq_codec_desc d;
    lq_profile other;
    int16_t other_mem[2 * 34 + 1];
    uint8_t *mem;
    size_t bytes;
    int16_t saved;
    setup_group(s, LQ_K, dims, 2);
    setup_vectors(s, 10, LQ_F32, 0);
    setup_profile(s, 0.5f);
    CHECK(setup_codec(s, 0, 0, 0, 0, 0.5f));
    bytes = lq_codec_bytes(&s->desc);
    mem = (uint8_t *)source_alloc(2 * bytes);
#define INIT(expected) \
    CHECK(lq_codec_init(&codec, mem, 2 * bytes, &d) == (expected) && codec == NULL)
    d = s->desc;
    CHECK(lq_codec_init(NULL, mem, bytes, &d) == LQ_E_ARG);
    CHECK(lq_codec_init(&codec, mem, bytes, NULL) == LQ_E_ARG);
    CHECK(lq_codec_init(&codec, NULL, bytes, &d) == LQ_E_SPACE);
    CHECK(lq_codec_init(&codec, mem, bytes - 1, &d) == LQ_E_SPACE);
    CHECK(lq_codec_bytes(NULL) == 0 && codec == NULL);
#define BAD(field, value)               \
    do {                                \
        d = s->desc;                    \
        d.field = (value);              \
        CHECK(lq_codec_bytes(&d) == 0); \
        INIT(LQ_E_ARG);                 \
    } while (0)
    BAD(tables, NULL);
    BAD(profile, NULL);
    BAD(page, 4);
    BAD(page, -1);
    BAD(quantizer, 7);
    BAD(quantizer, -1);
    BAD(bits, 4); /* only fixed pages have bits */
    BAD(type, LQ_F16);
    BAD(step, 0.0f);
    BAD(step, -1.0f);
    BAD(step, lq_f32_from_f16(0x7e00));
    BAD(step, lq_f32_from_f16(0x7c00));
    BAD(step, 1e-31f);
    BAD(step, 2e30f);
    BAD(profile_index, 256);
    BAD(geometry.stream, 0);
    BAD(geometry.stream, 3);
    BAD(geometry.basis, 3);
    BAD(geometry.slice_count, 0);
    BAD(geometry.slice_count, 4097);
    BAD(geometry.slice_dims, NULL);
#define BAD_PAGE(kind, field, value)    \
    do {                                \
        d = s->desc;                    \
        d.page = (kind);                \
        d.quantizer = 0;                \
        d.field = (value);              \
        CHECK(lq_codec_bytes(&d) == 0); \
        INIT(LQ_E_ARG);                 \
    } while (0)
    BAD_PAGE(LQ_PAGE_FIXED, bits, 5);
    BAD_PAGE(LQ_PAGE_FIXED, bits, -4);
    BAD_PAGE(LQ_PAGE_FIXED, quantizer, LQ_D4);
    BAD_PAGE(LQ_PAGE_FIXED, type, LQ_F32);
    BAD_PAGE(LQ_PAGE_RAW, bits, 4);
    BAD_PAGE(LQ_PAGE_RAW, quantizer, LQ_Z);
    BAD_PAGE(LQ_PAGE_RAW, type, 4);
    d = s->desc; /* E8 has no 3-bit form */
    d.page = LQ_PAGE_FIXED;
    d.quantizer = LQ_E8;
    d.bits = 3;
    INIT(LQ_E_ARG);
    d = s->desc; /* the profile's basis is the identity */
    d.geometry.basis = LQ_BASIS_HADAMARD;
    INIT(LQ_E_FORMAT);
    other = s->profile;
    d = s->desc;
    d.profile = &other;
    d.geometry.stream = LQ_V;
    CHECK(lq_profile_init(&other, other_mem, sizeof other_mem, &d.geometry, 1.0f) == LQ_OK);
    d.geometry.stream = LQ_K;
    INIT(LQ_E_FORMAT);
    other = s->profile;
    other.dims = 31;
    INIT(LQ_E_FORMAT);
    other = s->profile;
    other.slice_count = 1;
    INIT(LQ_E_FORMAT);
    other = s->profile;
    other.mean = NULL;
    INIT(LQ_E_FORMAT);
    other = s->profile;
    saved = other.mean[3];
    other.mean[3] = 32767;
    other.mean_exponent = 20;
    INIT(LQ_E_RANGE);
    other.mean[3] = saved;
    saved = other.sigma[3];
    other = s->profile;
    other.sigma[3] = 5000;
    INIT(LQ_E_FORMAT);
    other.sigma[3] = saved;
    CHECK(lq_codec_init(&codec, mem, bytes, &d) == LQ_OK && codec != NULL);
#undef INIT
#undef BAD
#undef BAD_PAGE
    free(mem);
    setup_free(s);
}

static void test_call_errors(void)
{
    static const uint32_t dims[1] = {16};
    setup *s = &s_;
    size_t workspace_bytes;
    size_t bound;
    uint8_t *workspace;
    uint8_t *dst;
    size_t written;
    size_t sizes[2];
    static float out[70 * 16];
    void *slices[1];
    lq_vectors v;
    lq_vectors_out o = {NULL, 0, LQ_F32};
    lq_page_info info;
    const uint8_t *pointers[2];
    setup_group(s, LQ_K, dims, 1);
    setup_rope(s, 16, 0, 0);
    setup_vectors(s, 70, LQ_F16, 0);
    setup_profile(s, 0.5f);
    CHECK(setup_codec(s, 0, 0, 0, 0, 0.5f));
    workspace_bytes = lq_codec_workspace_bytes(s->codec);
    bound = lq_codec_page_bound(s->codec);
    workspace = (uint8_t *)source_alloc(workspace_bytes);
    dst = (uint8_t *)source_alloc(2 * bound);
    slices[0] = out;
    o.slices = slices;
    CHECK(lq_codec_page_bound(NULL) == 0 && lq_codec_workspace_bytes(NULL) == 0);
#define ENCODE(expected, codec, to, room, size, from, where, count, space, space_bytes)   \
    do {                                                                                  \
        written = 99;                                                                     \
        CHECK(lq_codec_encode(codec, to, room, &written, size, from, where, count, space, \
                              space_bytes) == (expected));                                \
        CHECK((expected) == LQ_OK || written == 0);                                       \
    } while (0)
    v = s->vectors;
    ENCODE(LQ_OK, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    CHECK(lq_codec_encode(s->codec, dst, 2 * bound, NULL, sizes, &v, &s->positions, 70, workspace,
                          workspace_bytes) == LQ_E_ARG);
    ENCODE(LQ_E_ARG, NULL, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    ENCODE(LQ_E_ARG, s->codec, NULL, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, NULL, &v, &s->positions, 70, workspace,
           workspace_bytes);
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, sizes, NULL, &s->positions, 70, workspace,
           workspace_bytes);
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, sizes, &v, NULL, 70, workspace, workspace_bytes);
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, NULL, workspace_bytes);
    ENCODE(LQ_E_SPACE, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes - 1);
    ENCODE(LQ_E_SPACE, s->codec, dst, 0, sizes, &v, &s->positions, 70, workspace, workspace_bytes);
    ENCODE(LQ_OK, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 0, workspace,
           workspace_bytes);
    v.type = 0;
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    v = s->vectors;
    v.slices = NULL;
    ENCODE(LQ_E_ARG, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    v = s->vectors;
    ENCODE(LQ_OK, s->codec, dst, 2 * bound, sizes, &v, &s->positions, 70, workspace,
           workspace_bytes);
    pointers[0] = dst;
    pointers[1] = dst + sizes[0];
#define DECODE(expected, codec, to, where, from, size, space, space_bytes) \
    CHECK(lq_codec_decode(codec, to, where, 70, from, size, space, space_bytes) == (expected))
    DECODE(LQ_OK, s->codec, &o, &s->positions, pointers, sizes, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, NULL, &o, &s->positions, pointers, sizes, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, s->codec, NULL, &s->positions, pointers, sizes, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, s->codec, &o, NULL, pointers, sizes, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, s->codec, &o, &s->positions, NULL, sizes, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, s->codec, &o, &s->positions, pointers, NULL, workspace, workspace_bytes);
    DECODE(LQ_E_ARG, s->codec, &o, &s->positions, pointers, sizes, NULL, workspace_bytes);
    DECODE(LQ_E_SPACE, s->codec, &o, &s->positions, pointers, sizes, workspace,
           workspace_bytes - 1);
    o.type = 9;
    DECODE(LQ_E_ARG, s->codec, &o, &s->positions, pointers, sizes, workspace, workspace_bytes);
    o.type = LQ_F32;
    o.slices = NULL;
    DECODE(LQ_E_ARG, s->codec, &o, &s->positions, pointers, sizes, workspace, workspace_bytes);
    o.slices = slices;
    pointers[1] = NULL;
    CHECK(lq_codec_decode(s->codec, &o, &s->positions, 70, pointers, sizes, workspace,
                          workspace_bytes) != LQ_OK);
    pointers[1] = dst + sizes[0];
    CHECK(lq_codec_decode(s->codec, &o, &s->positions, 69, pointers, sizes, workspace,
                          workspace_bytes) == LQ_E_DATA);
    CHECK(lq_page_inspect(NULL, dst, sizes[0]) == LQ_E_ARG);
    CHECK(lq_page_inspect(&info, NULL, sizes[0]) == LQ_E_ARG);
    CHECK(lq_page_inspect(&info, dst, TRAILER - 1) == LQ_E_DATA);
#undef ENCODE
#undef DECODE
    free(workspace);
    free(dst);
    setup_free(s);
}

/* A page of one codec given to another. */
static void test_wrong_codec(void)
{
    static const uint32_t dims[1] = {16};
    setup *s = &s_;
    static float out[64 * 16];
    int count = 0;
    setup_group(s, LQ_K, dims, 1);
    setup_vectors(s, 64, LQ_F16, 0);
    setup_profile(s, 0.5f);
    CHECK(setup_codec(s, 0, LQ_Z, 0, 0, 0.5f));
    pages p;
    CHECK(encode(s, &p) == LQ_OK);
    lq_codec *others[8];
    uint8_t *memories[8];
    lq_codec_desc d;
    for (int i = 0; i < 7; i++) {
        d = s->desc;
        switch (i) {
        case 0:
            d.profile_index = 8;
            break;
        case 1:
            d.quantizer = LQ_E8;
            break;
        case 2:
            d.quantizer = LQ_E8_RELAXED;
            break;
        case 3:
            d.page = LQ_PAGE_FIXED;
            break;
        case 4:
            d.page = LQ_PAGE_FIXED;
            d.bits = 8;
            break;
        case 5:
            d.page = LQ_PAGE_RAW;
            d.quantizer = 0;
            break;
        default:
            d.page = LQ_PAGE_RAW;
            d.quantizer = 0;
            d.type = LQ_F32;
            break;
        }
        memories[count] = (uint8_t *)source_alloc(lq_codec_bytes(&d));
        CHECK(lq_codec_init(&others[count], memories[count], lq_codec_bytes(&d), &d) == LQ_OK);
        count++;
    }
    for (int i = 0; i < count; i++) {
        lq_codec *own = s->codec;
        s->codec = others[i];
        CHECK(decode_floats(s, &p, out) == LQ_E_FORMAT);
        s->codec = own;
        free(memories[i]);
    }
    CHECK(decode_floats(s, &p, out) == LQ_OK);
    pages_free(&p);
    setup_free(s);
}

/* ---- truncated and corrupted pages, each in a buffer of its exact size ---- */
static void test_corrupted(int page, int quantizer, uint32_t stream, uint32_t step_of_values)
{
    static const uint32_t dims[2] = {8, 12};
    static float out[20 * 20];
    setup *s = &s_;
    setup_group(s, stream, dims, page == LQ_PAGE_FIXED && quantizer == LQ_E8 ? 1 : 2);
    setup_vectors(s, 20, LQ_F16, 0);
    setup_profile(s, 0.5f);
    pages p;
    if (!setup_codec(s, page, quantizer, 0, 0, 0.5f) || !CHECK(encode(s, &p) == LQ_OK)) return;
    uint8_t *good = p.own[0];
    size_t whole = p.page_bytes[0];
    for (size_t length = 0; length < whole; length++) {
        p.own[0] = source_copy(good, length);
        p.page[0] = p.own[0];
        p.page_bytes[0] = length;
        CHECK(decode_floats(s, &p, out) != LQ_OK);
        free(p.own[0]);
        p.own[0] =
            source_copy(good + (whole - length), length); /* its tail: the trailer is right */
        p.page[0] = p.own[0];
        CHECK(decode_floats(s, &p, out) != LQ_OK);
        free(p.own[0]);
    }
    p.page_bytes[0] = whole;
    p.own[0] = source_copy(good, whole);
    p.page[0] = p.own[0];
    for (size_t i = 0; i < whole; i++) {
        for (uint32_t value = 1; value < 256; value += step_of_values) {
            p.own[0][i] = (uint8_t)(good[i] ^ value);
            int status = decode_floats(s, &p, out);
            if (i >= whole - TRAILER) {
                CHECK(status == LQ_E_FORMAT || status == LQ_E_DATA);
            } else {
                CHECK(status == LQ_OK || status == LQ_E_DATA);
            }
        }
        p.own[0][i] = good[i];
    }
    CHECK(decode_floats(s, &p, out) == LQ_OK);
    free(good);
    pages_free(&p);
    setup_free(s);
}

int main(int argc, char **argv)
{
    int quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    size_t cases = quick ? 200 : 2000;
    void *memory = source_alloc(lq_tables_bytes());
    levels = lq_cpu_limit(-1);
    CHECK(lq_tables_init(&tables, memory, lq_tables_bytes()) == LQ_OK);
    for (size_t n = 0; n < cases; n++) {
        random_case(n);
    }
    CHECK(square_count > 0 && squares / (double)square_count < 0.2);
    test_batches();
    test_raw_all();
    test_zeros();
    test_outliers();
    test_scales();
    test_extreme_steps();
    test_bad_values();
    test_init_errors();
    test_call_errors();
    test_wrong_codec();
    for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
        test_corrupted(LQ_PAGE_CODED, LQ_Z, stream, quick ? 37 : 1);
        test_corrupted(LQ_PAGE_CODED, LQ_D4, stream, quick ? 37 : 3);
        test_corrupted(LQ_PAGE_CODED, LQ_E8, stream, quick ? 37 : 1);
        test_corrupted(LQ_PAGE_CODED, LQ_E8_RELAXED, stream, quick ? 37 : 3);
        test_corrupted(LQ_PAGE_CODED, LQ_TRELLIS_8, stream, quick ? 37 : 3);
        test_corrupted(LQ_PAGE_CODED, LQ_TRELLIS_64, stream, quick ? 37 : 3);
        test_corrupted(LQ_PAGE_FIXED, LQ_Z, stream, quick ? 37 : 3);
        test_corrupted(LQ_PAGE_FIXED, LQ_E8, stream, quick ? 37 : 3);
    }
    free(memory);
    return check_report("test_page");
}
