/* cc -std=c99 -O2 tests/test_transform.c -o test_transform -lm    Half floats, Hadamard, RoPE and centring
   against double. `test_transform quick` sweeps fewer numbers. */
#include "header.h"
#include "inside.h"

#include "check.h"
#include "source.h"

static int levels;
static int quick;

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* ---- half floats ---- */
/* Value of a half float, finite. */
static double half_value(uint32_t h)
{
    int e = (int)(h >> 10 & 31);
    double m = (double)(h & 1023) + (e ? 1024 : 0);
    double v = ldexp(m, (e ? e : 1) - 25);
    return h & 0x8000u ? -v : v;
}

/* Nearest half of a finite double, ties to even, without bits: the reference. */
static uint32_t half_nearest(double v)
{
    double a = fabs(v);
    uint32_t sign = v < 0 || (v == 0 && 1 / v < 0) ? 0x8000u : 0;
    if (a >= 65520) return sign | 0x7c00u;
    int e;
    if (a < ldexp(1, -14)) {
        e = -14;
    } else {
        (void)frexp(a, &e);
        e--;
    }
    double m = ldexp(a, 10 - e); /* exact */
    double whole = floor(m);
    if (m - whole > 0.5 || (!(m - whole < 0.5) && fmod(whole, 2) > 0.5)) {
        whole += 1;
    }
    if (a < ldexp(1, -14)) return sign | (uint32_t)whole;
    return sign | (((uint32_t)(e + 14) << 10) + (uint32_t)whole);
}

static int is_nan_half(uint32_t h)
{
    return (h & 0x7fffu) > 0x7c00u;
}

static void test_half_exhaustive(void)
{
    int bad = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = lq_f32_from_f16((uint16_t)h);
        uint32_t u = bits_of(f);
        if ((h & 0x7c00u) == 0x7c00u) {
            bad += (u & 0x7f800000u) != 0x7f800000u || u >> 31 != h >> 15;
            bad += ((u & 0x7fffffu) != 0) != ((h & 1023u) != 0);
            bad += is_nan_half(h) && !is_nan_half(lq_f16_from_f32(f));
            bad += !is_nan_half(h) && lq_f16_from_f32(f) != h;
        } else {
            bad += fabs((double)f - half_value(h)) > 0 || u >> 31 != h >> 15;
            bad += lq_f16_from_f32(f) != h;
        }
        f = lq_f32_from_bf16((uint16_t)h);
        u = (h & 0x7fffu) > 0x7f80u ? h | 0x40u : h; /* NaNs come back quiet */
        bad += bits_of(f) << 16 != 0 || (bits_of(f) >> 16 != h && (h & 0x7fffu) <= 0x7f80u);
        bad += (h & 0x7fffu) > 0x7f80u ? (lq_bf16_from_f32(f) & 0x7fffu) <= 0x7f80u
                                       : lq_bf16_from_f32(f) != u;
    }
    CHECK(bad == 0);
}

static void check_f16(uint32_t u)
{
    float f = float_of(u);
    uint32_t h = lq_f16_from_f32(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        CHECK(is_nan_half(h) && h >> 15 == u >> 31);
    } else if ((u & 0x7fffffffu) == 0x7f800000u) {
        CHECK(h == ((u >> 16 & 0x8000u) | 0x7c00u));
    } else if (h != half_nearest((double)f)) {
        fprintf(stderr, "%08x gives %04x\n", (unsigned)u, (unsigned)h);
        CHECK(0);
    }
}

static void check_bf16(uint32_t u)
{
    uint32_t h = lq_bf16_from_f32(float_of(u));
    uint32_t low = u & 0xffffu;
    uint32_t want = u >> 16;
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        CHECK((h & 0x7fffu) > 0x7f80u && h >> 15 == u >> 31);
        return;
    }
    want += low > 0x8000u || (low == 0x8000u && (want & 1));
    if (h != want) CHECK(0);
}

static void test_half_rounding(void)
{
    uint32_t stride = quick ? 65521 : 4093;
    for (uint64_t u = 0; u < (uint64_t)1 << 32; u += stride) {
        check_f16((uint32_t)u);
        check_bf16((uint32_t)u);
    }
    /* halves, midpoints and their neighbours, both signs */
    for (uint32_t h = 0; h < 0x7c00u; h++) {
        uint32_t a = bits_of((float)half_value(h));
        uint32_t middle =
            bits_of((float)((half_value(h) + (h == 0x7bffu ? 65536 : half_value(h + 1))) / 2));
        for (int d = -2; d <= 2; d++) {
            check_f16(a + (uint32_t)(a == 0 && d < 0 ? 0 : d));
            check_f16((a + (uint32_t)(a == 0 && d < 0 ? 0 : d)) | 0x80000000u);
            check_f16(middle + (uint32_t)d);
            check_f16((middle + (uint32_t)d) | 0x80000000u);
        }
    }
    for (uint32_t h = 0; h < 65536; h++) {
        for (int d = -1; d <= 1; d++) {
            check_bf16((h << 16) + 0x8000u + (uint32_t)d);
            check_bf16((h << 16) + (uint32_t)d);
        }
    }
    CHECK(lq_f16_from_f32(65504.0f) == 0x7bff && lq_f16_from_f32(65519.996f) == 0x7bff);
    CHECK(lq_f16_from_f32(65520.0f) == 0x7c00 && lq_f16_from_f32(-65520.0f) == 0xfc00);
    CHECK(lq_f16_from_f32(3.402823466e38f) == 0x7c00);
    CHECK(lq_f16_from_f32(float_of(0x33000000u)) == 0); /* 2^-25, a tie to even */
    CHECK(lq_f16_from_f32(float_of(0x33000001u)) == 1);
    CHECK(lq_f16_from_f32(float_of(0x00000001u)) == 0 &&
          lq_f16_from_f32(float_of(0x80000001u)) == 0x8000);
    CHECK(lq_bf16_from_f32(float_of(0x7f7fffffu)) == 0x7f80);
}

/* Arrays, at odd addresses, every length. */
static void test_type_arrays(void)
{
    enum { MOST = 70 };
    CHECK(lq_type_bytes(LQ_F32) == 4 && lq_type_bytes(LQ_F16) == 2 && lq_type_bytes(LQ_BF16) == 2);
    CHECK(lq_type_bytes(0) == 0 && lq_type_bytes(4) == 0 && lq_type_bytes(-1) == 0);
    float x[MOST];
    float back[MOST];
    for (size_t count = 0; count <= MOST; count++) {
        for (int type = LQ_F32; type <= LQ_BF16; type++) {
            size_t bytes = count * lq_type_bytes(type);
            uint8_t *mem = (uint8_t *)source_alloc(bytes + 1);
            int bad = 0;
            for (size_t i = 0; i < count; i++) {
                x[i] = (float)(source_gauss() * pow(2, 60 * source_uniform() - 40));
            }
            mem[0] = 0x5a;
            CHECK(lq_type_from_f32(mem + 1, x, count, type) == LQ_OK);
            CHECK(lq_f32_from_type(back, mem + 1, count, type) == LQ_OK);
            for (size_t i = 0; i < count; i++) {
                float want = type == LQ_F32   ? x[i]
                             : type == LQ_F16 ? lq_f32_from_f16(lq_f16_from_f32(x[i]))
                                              : lq_f32_from_bf16(lq_bf16_from_f32(x[i]));
                bad += bits_of(back[i]) != bits_of(want);
            }
            CHECK(bad == 0 && mem[0] == 0x5a);
            free(mem);
        }
    }
    CHECK(lq_f32_from_type(NULL, x, 1, LQ_F16) == LQ_E_ARG);
    CHECK(lq_f32_from_type(x, NULL, 1, LQ_F16) == LQ_E_ARG);
    CHECK(lq_f32_from_type(NULL, NULL, 0, LQ_F16) == LQ_OK);
    CHECK(lq_f32_from_type(x, back, 1, 0) == LQ_E_ARG &&
          lq_f32_from_type(x, back, 1, 4) == LQ_E_ARG);
    CHECK(lq_type_from_f32(NULL, x, 1, LQ_F16) == LQ_E_ARG);
    CHECK(lq_type_from_f32(back, NULL, 1, LQ_F16) == LQ_E_ARG);
    CHECK(lq_type_from_f32(back, x, 1, 7) == LQ_E_ARG);
}

/* ---- Hadamard ---- */
/* Row i, column j of the block: -1 to the number of common ones, by definition. */
static double hadamard(size_t i, size_t j)
{
    size_t both = i & j;
    int odd = 0;
    for (; both; both &= both - 1) {
        odd ^= 1;
    }
    return odd ? -1 : 1;
}

static void test_rotation(size_t dims, size_t count)
{
    float *x = (float *)source_alloc(count * dims * 4);
    float *y = (float *)source_alloc(count * dims * 4);
    float *z = (float *)source_alloc(count * dims * 4);
    size_t block = source_hadamard_block(dims);
    double before = 0;
    double after = 0;
    double worst = 0;
    for (size_t i = 0; i < count * dims; i++) {
        x[i] = (float)source_gauss();
        y[i] = x[i];
    }
    lq_cpu_limit(0);
    CHECK(lq_rotate_f32(y, count, dims) == LQ_OK);
    for (int level = 1; level <= levels; level++) {
        lq_cpu_limit(level);
        memcpy(z, x, count * dims * 4);
        CHECK(lq_rotate_f32(z, count, dims) == LQ_OK);
        CHECK(memcmp(y, z, count * dims * 4) == 0);
        CHECK(lq_unrotate_f32(z, count, dims) == LQ_OK);
        lq_cpu_limit(0);
        {
            float *w = (float *)(void *)source_copy(y, count * dims * 4);
            CHECK(lq_unrotate_f32(w, count, dims) == LQ_OK);
            CHECK(memcmp(w, z, count * dims * 4) == 0);
            free(w);
        }
    }
    lq_cpu_limit(-1);
    for (size_t i = 0; i < dims && dims <= 600; i++) { /* the matrix itself, on the last vector */
        const float *from = x + (count - 1) * dims + i / block * block;
        double sum = 0;
        for (size_t j = 0; j < block; j++) {
            sum += hadamard(i % block, j) * source_sign(i / block * block + j) * (double)from[j];
        }
        sum /= sqrt((double)block);
        worst = fmax(worst, fabs(sum - (double)y[(count - 1) * dims + i]));
    }
    CHECK(worst < 2e-5);
    memcpy(z, y, count * dims * 4);
    CHECK(lq_unrotate_f32(z, count, dims) == LQ_OK);
    worst = 0;
    for (size_t i = 0; i < count * dims; i++) {
        before += (double)x[i] * (double)x[i];
        after += (double)y[i] * (double)y[i];
        worst = fmax(worst, fabs((double)x[i] - (double)z[i]));
    }
    CHECK(fabs(after / before - 1) < 1e-5 && worst < 2e-5);
    free(x);
    free(y);
    free(z);
}

static void test_hadamard(void)
{
    float x[4] = {1, 2, 3, 4};
    for (size_t dims = 1; dims <= (quick ? 140 : 600); dims++) {
        test_rotation(dims, 3);
    }
    test_rotation(1024, 2);
    test_rotation(1536, 2);
    test_rotation(8192, 1);
    test_rotation(65535, 1);
    test_rotation(65536, 1);
    CHECK(lq_rotate_f32(NULL, 1, 4) == LQ_E_ARG && lq_unrotate_f32(NULL, 1, 4) == LQ_E_ARG);
    CHECK(lq_rotate_f32(x, 1, 0) == LQ_E_ARG && lq_unrotate_f32(x, 1, 0) == LQ_E_ARG);
    CHECK(lq_rotate_f32(x, 1, 65537) == LQ_E_ARG && lq_unrotate_f32(x, 1, 65537) == LQ_E_ARG);
    CHECK(lq_rotate_f32(x, 0, 4) == LQ_OK && x[0] > 0.5f && x[0] < 1.5f);
}

/* ---- RoPE ---- */
typedef struct rope_case {
    uint32_t dims;
    uint32_t rotary_dims;
    uint32_t layout;
    float magnitude;
    int64_t first;
    int64_t stride;
    int list;
} rope_case;

static const rope_case rope_cases[] = {
    {64, 64, 0, 0, 0, 0, 0},
    {64, 64, LQ_ROPE_HALF, 1, 1000, 1, 0},
    {64, 64, LQ_ROPE_ADJACENT, 0, 5, 3, 0},
    {128, 32, LQ_ROPE_HALF, 0, 1000000, 1, 0},
    {80, 50, LQ_ROPE_ADJACENT, 1.5f, 999983, 7, 0},
    {2, 2, LQ_ROPE_HALF, 0.75f, -1000, 1, 0},
    {7, 6, LQ_ROPE_ADJACENT, 16, -5, -2, 0},
    {64, 64, LQ_ROPE_HALF, 0, 0, 0, 1},
    {96, 64, LQ_ROPE_ADJACENT, 0.51f, 0, 0, 1},
    {64, 64, LQ_ROPE_HALF, 0, 123456789012, 1000003, 0},
};

static void test_rope_case(const rope_case *c)
{
    enum { TOKENS = 21 };
    static int64_t list[TOKENS];
    float freqs[64];
    lq_rope rope = {NULL, 0, 0, 0};
    lq_positions positions = {0, 0, NULL};
    size_t stride = c->dims + 3;
    float *x = (float *)source_alloc(TOKENS * stride * 4);
    float *y = (float *)source_alloc(TOKENS * stride * 4);
    double magnitude = c->magnitude < 0.1f ? 1 : (double)c->magnitude;
    double worst = 0;
    size_t half = c->rotary_dims / 2;
    int untouched = 1;
    for (size_t i = 0; i < half; i++) {
        freqs[i] = (float)pow(5e5, -(double)i / (double)half);
    }
    freqs[half - 1] = half > 2 ? 0 : freqs[half - 1]; /* scaled RoPE may switch pairs off */
    for (size_t i = 0; i < TOKENS; i++) {
        list[i] = (int64_t)source_below(1000000) - 1000;
    }
    rope.freqs = freqs;
    rope.rotary_dims = c->rotary_dims;
    rope.layout = c->layout;
    rope.magnitude = c->magnitude;
    positions.first = c->first;
    positions.stride = c->stride;
    positions.list = c->list ? list : NULL;
    for (size_t i = 0; i < TOKENS * stride; i++) {
        x[i] = (float)source_gauss();
        y[i] = x[i];
    }
    CHECK(lq_rope_apply_f32(y, TOKENS, c->dims, stride, &rope, &positions) == LQ_OK);
    for (size_t t = 0; t < TOKENS; t++) {
        int64_t p = c->list ? list[t] : c->first + (c->stride ? c->stride : 1) * (int64_t)t;
        for (size_t i = 0; i < half; i++) {
            size_t a = c->layout == LQ_ROPE_ADJACENT ? 2 * i : i;
            size_t b = c->layout == LQ_ROPE_ADJACENT ? 2 * i + 1 : i + half;
            double u = (double)x[t * stride + a];
            double w = (double)x[t * stride + b];
            /* float32 frequencies times positions of up to 47 bits: reduce exactly, in two parts */
            double f = (double)freqs[i];
            int64_t high = p / 1048576;
            double turns = fmod((double)high * f, 2 * SOURCE_PI) * 1048576;
            double angle =
                fmod(turns, 2 * SOURCE_PI) + fmod((double)(p % 1048576) * f, 2 * SOURCE_PI);
            double tolerance = fabs((double)p) > 1e9 ? 1e-2 : 2e-5;
            double ca = cos(angle) * magnitude;
            double sa = sin(angle) * magnitude;
            double e = fmax(fabs(u * ca - w * sa - (double)y[t * stride + a]),
                            fabs(w * ca + u * sa - (double)y[t * stride + b]));
            worst = fmax(worst, e / (tolerance * magnitude));
        }
        for (size_t i = c->rotary_dims; i < stride && (t < TOKENS - 1 || i < c->dims); i++) {
            untouched = untouched && bits_of(x[t * stride + i]) == bits_of(y[t * stride + i]);
        }
    }
    CHECK(worst < 1);
    CHECK(untouched);
    CHECK(lq_rope_undo_f32(y, TOKENS, c->dims, stride, &rope, &positions) == LQ_OK);
    worst = 0;
    for (size_t i = 0; i < TOKENS * stride; i++) {
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
    }
    CHECK(worst < 5e-6);
    free(x);
    free(y);
}

/* Sines are a function of position * frequency modulo a turn: huge positions are exact too. A
   frequency of 2 pi / 2^k in float32 is off by at most 2^-25 of itself; 0.75 is exact, so compare
   with 3/4 n. */
static void test_rope_large(void)
{
    static const float freq[1] = {0.75f};
    lq_rope rope = {NULL, 2, 0, 0};
    rope.freqs = freq;
    for (int n = 0; n < 1000; n++) {
        lq_positions p = {0, 0, NULL};
        float x[2] = {1, 0};
        int64_t position = (int64_t)source_below(1u << 31);
        double angle = fmod((double)position * 0.75, 2 * SOURCE_PI);
        p.first = n & 1 ? -position : position;
        CHECK(lq_rope_apply_f32(x, 1, 2, 2, &rope, &p) == LQ_OK);
        CHECK(fabs((double)x[0] - cos(angle)) < 2e-6);
        CHECK(fabs((double)x[1] - sin(n & 1 ? -angle : angle)) < 2e-6);
    }
}

static void test_rope_errors(void)
{
    float freqs[4] = {1, 0.5f, 0.25f, 0.125f};
    float x[16] = {0};
    lq_rope good = {NULL, 8, 0, 0};
    lq_positions p = {0, 0, NULL};
    lq_rope r;
    static const float bad_freqs[5] = {-1, 256, 1e30f, -0.0f, 300};
    static const float bad_magnitudes[5] = {0.5f, -1, 16.001f, 1e30f, 0.25f};
    good.freqs = freqs;
#define BAD(tokens, dims, rope)                                             \
    do {                                                                    \
        CHECK(lq_rope_apply_f32(x, tokens, dims, 8, rope, &p) == LQ_E_ARG); \
        CHECK(lq_rope_undo_f32(x, tokens, dims, 8, rope, &p) == LQ_E_ARG);  \
    } while (0)
    CHECK(lq_rope_apply_f32(x, 2, 8, 8, &good, &p) == LQ_OK);
    CHECK(lq_rope_apply_f32(NULL, 2, 8, 8, &good, &p) == LQ_E_ARG);
    CHECK(lq_rope_apply_f32(x, 2, 8, 8, NULL, &p) == LQ_E_ARG);
    CHECK(lq_rope_apply_f32(x, 2, 8, 8, &good, NULL) == LQ_E_ARG);
    CHECK(lq_rope_undo_f32(NULL, 2, 8, 8, &good, &p) == LQ_E_ARG);
    CHECK(lq_rope_undo_f32(x, 2, 8, 8, NULL, &p) == LQ_E_ARG);
    CHECK(lq_rope_undo_f32(x, 2, 8, 8, &good, NULL) == LQ_E_ARG);
    BAD(2, 7, &good);
    r = good;
    r.freqs = NULL;
    BAD(2, 8, &r);
    r = good;
    r.rotary_dims = 0;
    BAD(2, 8, &r);
    r.rotary_dims = 7;
    BAD(2, 8, &r);
    r = good;
    r.layout = 3;
    BAD(2, 8, &r);
    for (int i = 0; i < 5; i++) {
        r = good;
        r.magnitude = bad_magnitudes[i];
        BAD(2, 8, &r);
        freqs[3] = bad_freqs[i];
        BAD(2, 8, &good);
        freqs[3] = 0.125f;
    }
    r = good;
    r.magnitude = float_of(0x7fc00000u);
    BAD(2, 8, &r);
    r.magnitude = float_of(0x7f800000u);
    BAD(2, 8, &r);
    freqs[0] = float_of(0x7fc00000u);
    BAD(2, 8, &good);
    freqs[0] = float_of(0x7f800000u);
    BAD(2, 8, &good);
    freqs[0] = 1;
    CHECK(lq_rope_apply_f32(x, 0, 8, 8, &good, &p) == LQ_OK);
#undef BAD
}

/* ---- centring ---- */
static void test_centring(void)
{
    enum { TOKENS = 37, DIMS = 19 };
    static float x[TOKENS * DIMS];
    static float y[TOKENS * DIMS];
    double worst = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t d = 0; d < DIMS; d++) {
            x[t * DIMS + d] = (float)(source_gauss() + (double)d);
        }
    }
    memcpy(y, x, sizeof x);
    float again[DIMS];
    CHECK(lq_mean_f32(again, x, TOKENS, DIMS) == LQ_OK);
    float mean[DIMS];
    CHECK(lq_center_f32(y, TOKENS, DIMS, mean) == LQ_OK);
    CHECK(memcmp(mean, again, sizeof mean) == 0);
    for (size_t d = 0; d < DIMS; d++) {
        double sum = 0;
        double left = 0;
        for (size_t t = 0; t < TOKENS; t++) {
            sum += (double)x[t * DIMS + d];
            left += (double)y[t * DIMS + d];
        }
        worst = fmax(worst, fabs(sum / TOKENS - (double)mean[d]));
        worst = fmax(worst, fabs(left / TOKENS));
    }
    CHECK(worst < 1e-5);
    CHECK(lq_uncenter_f32(y, TOKENS, DIMS, mean) == LQ_OK);
    for (size_t t = 0; t < TOKENS * DIMS; t++) {
        worst = fmax(worst, fabs((double)x[t] - (double)y[t]));
    }
    CHECK(worst < 1e-5);
    CHECK(lq_mean_f32(NULL, x, 1, 1) == LQ_E_ARG && lq_mean_f32(mean, NULL, 1, 1) == LQ_E_ARG);
    CHECK(lq_mean_f32(mean, x, 0, 1) == LQ_E_ARG && lq_mean_f32(mean, x, 1, 0) == LQ_E_ARG);
    CHECK(lq_center_f32(NULL, 1, 1, mean) == LQ_E_ARG && lq_center_f32(x, 1, 1, NULL) == LQ_E_ARG);
    CHECK(lq_center_f32(x, 0, 1, mean) == LQ_E_ARG && lq_center_f32(x, 1, 0, mean) == LQ_E_ARG);
    CHECK(lq_uncenter_f32(NULL, 1, 1, mean) == LQ_E_ARG &&
          lq_uncenter_f32(x, 1, 1, NULL) == LQ_E_ARG);
    CHECK(lq_uncenter_f32(x, 0, 1, mean) == LQ_E_ARG && lq_uncenter_f32(x, 1, 0, mean) == LQ_E_ARG);
}

/* ---- the library's own ---- */
static void test_library(void)
{
    CHECK(lq_version() == LQ_VERSION);
    for (int status = 0; status >= LQ_E_INTERNAL; status--) {
        CHECK(lq_status_string(status) != NULL && lq_status_string(status)[0] != 0);
        CHECK(status == 0 || strcmp(lq_status_string(status), lq_status_string(0)) != 0);
    }
    CHECK(lq_status_string(1) != NULL && lq_status_string(-100) != NULL);
    for (int level = 0; level <= 5; level++) {
        int want = level < levels ? level : levels;
        CHECK(lq_cpu_limit(level) == want && lq_cpu_level() == want);
    }
    CHECK(lq_cpu_limit(-1) == levels && lq_cpu_level() == levels && levels >= 0 && levels <= 2);
}

/* The largest magnitude that 32 bits hold has no positive twin. */
static void test_fixed(void)
{
    CHECK(lq_inside_fixed_of_bits(0xcf000000u, 0) == INT32_MIN); /* -2^31 */
    CHECK(lq_inside_fixed_of_bits(0xceffffffu, 0) == -2147483520);
    CHECK(lq_inside_fixed_of_bits(0x4effffffu, 0) == 2147483520);
    CHECK(lq_inside_fixed_of_bits(0xc0200000u, 0) == -2); /* -2.5, to even */
    CHECK(lq_inside_fixed_of_bits(0xc0600000u, 0) == -4);
    CHECK(lq_inside_fixed_of_bits(0xbf800000u, -20) == -(1 << 20));
}

int main(int argc, char **argv)
{
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    levels = lq_cpu_limit(-1);
    test_library();
    test_fixed();
    test_half_exhaustive();
    test_half_rounding();
    test_type_arrays();
    test_hadamard();
    for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++) {
        test_rope_case(&rope_cases[i]);
    }
    test_rope_large();
    test_rope_errors();
    test_centring();
    return check_report("test_transform");
}
