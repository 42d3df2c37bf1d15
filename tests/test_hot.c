/* cc -std=c99 -O2 tests/test_hot.c -o test_hot -lm    Tiles and attention against plain doubles. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#include "../latticequant.h"

#include "check.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_DIMS = 512, PARTS = 5 };

/* A tile of ordinary numbers: its base is 0. */
static int seal(uint8_t *tile, int kind, int stream, size_t dims, size_t first, const float *x,
                size_t stride, size_t tokens, const float *mean, void *work)
{
    int32_t base = 0;
    int status =
        lq__hot_seal(tile, kind, stream, dims, first, x, stride, tokens, mean, &base, work);
    CHECK(base == 0);
    return status;
}

static void open_tile(float *x, size_t stride, const uint8_t *tile, int kind, int stream,
                      size_t dims, size_t first, size_t tokens, const float *mean, void *work)
{
    lq__hot_open(x, stride, tile, kind, stream, dims, first, tokens, 0, NULL, mean, work);
}

static uint64_t seed = 88172645463325252u;
static int levels;

static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

static double uniform(void)
{
    return (rnd() + 0.5) / 4294967296.0;
}

static double gauss(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

static void *room(size_t bytes) /* aligned to 64, exactly so long for the sanitizer */
{
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes ? bytes : 64)) abort();
    memset(p, 0, bytes);
    return p;
}

static uint32_t hash(const void *p, size_t n)
{
    return lq_xxh32(p, n, 1);
}

enum { KINDS = LQ__HOT_COUNT };
static const int kinds[] = {LQ__HOT_Z8, LQ__HOT_Z4, LQ__HOT_Z3, LQ__HOT_Z2,
                            LQ__HOT_E8, LQ__HOT_Z6, LQ__HOT_Z5};
/* Bounds on the relative error. */
static const double noise[] = {1e-4, 0.0095, 0.037, 0.137, 0.0072, 0.0007, 0.0024};
typedef char each_kind[sizeof kinds / sizeof *kinds == KINDS ? 1 : -1];
typedef char each_noise[sizeof noise / sizeof *noise == KINDS ? 1 : -1];

/* ---- tiles ---- */
static void test_sizes(void)
{
    CHECK(lq__hot_tile_bytes(LQ__HOT_Z4, LQ_K, 64) == 2048 + 64);
    CHECK(lq__hot_tile_bytes(LQ__HOT_Z4, LQ_V, 128) == 4096 + 64);
    CHECK(lq__hot_tile_bytes(LQ__HOT_Z3, LQ_K, 64) == 1536 + 64);
    CHECK(lq__hot_tile_bytes(LQ__HOT_E8, LQ_K, 72) == 64 * 80 / 2 + 64);
    CHECK(lq__hot_tile_bytes(LQ__HOT_Z5, LQ_K, 64) == 2560 + 64);
    CHECK(lq__hot_tile_bytes(LQ__HOT_Z6, LQ_V, 72) == 64 * 80 / 4 * 3 + 64);
    CHECK(lq__hot_tile_bytes(0, LQ_K, 64) == 0 && lq__hot_tile_bytes(LQ__HOT_END, LQ_K, 64) == 0);
    CHECK(lq__hot_tile_bytes(1, LQ_K, 0) == 0 && lq__hot_tile_bytes(1, LQ_K, 65) == 0);
    CHECK(lq__hot_tile_bytes(1, LQ_K, 1032) == 0 && lq__hot_tile_bytes(1, 3, 64) == 0);
}

static void test_round_trip(int k, int stream, size_t dims)
{
    int kind = kinds[k];
    size_t bytes = lq__hot_tile_bytes(kind, stream, dims);
    uint8_t *tile = (uint8_t *)room(bytes);
    uint8_t *again = (uint8_t *)room(bytes);
    void *work = room(lq__hot_work_bytes(dims));
    float *x = (float *)room(64 * (dims + 3) * 4);
    float *y = (float *)room(64 * dims * 4);
    float *mean = (float *)room(dims * 4);
    double error = 0, energy = 0;
    size_t i, t;
    for (i = 0; i < dims; i++) {
        mean[i] = (float)(3 * gauss());
    }
    for (t = 0; t < 64; t++) {
        double size = exp(0.5 * gauss());
        for (i = 0; i < dims; i++) {
            x[t * (dims + 3) + i] = mean[i] + (float)(size * gauss());
        }
    }
    CHECK(seal(tile, kind, stream, dims, 0, x, dims + 3, 64, mean, work) == LQ_OK);
    open_tile(y, dims, tile, kind, stream, dims, 0, 64, mean, work);
    for (t = 0; t < 64; t++) {
        double e = 0, n = 0;
        for (i = 0; i < dims; i++) {
            double a = (double)x[t * (dims + 3) + i];
            double d = a - (double)y[t * dims + i];
            e += d * d;
            n += (a - (double)mean[i]) * (a - (double)mean[i]);
        }
        error += e / n;
        energy += 1;
    }
    if (!CHECK(error / energy < noise[k] * (dims < 64 ? 1.6 : dims > 128 ? 1.25 : 1.0))) {
        fprintf(stderr, "  kind %d stream %d dims %d: %.5f\n", kind, stream, (int)dims,
                error / energy);
    }
    for (int level = 0; level < levels; level++) { /* in eights, in another order, at every level */
        (void)lq_cpu_limit(level);
        memset(again, 0xa5, bytes);
        for (i = 0; i < 8; i++) {
            t = (i * 5 + 3) % 8 * 8;
            CHECK(seal(again, kind, stream, dims, t, x + t * (dims + 3), dims + 3, 8, mean, work) ==
                  LQ_OK);
        }
        for (t = 0; t < 64; t += 7) {
            float part[2 * MAX_DIMS];
            size_t n = t + 2 <= 64 ? 2 : 1;
            open_tile(part, dims, again, kind, stream, dims, t, n, mean, work);
            if (!CHECK(memcmp(part, y + t * dims, n * dims * 4) == 0)) {
                fprintf(stderr, "  kind %d stream %d dims %d level %d token %d\n", kind, stream,
                        (int)dims, level, (int)t);
            }
        }
        CHECK(memcmp(tile, again, bytes) == 0);
    }
    (void)lq_cpu_limit(-1);
    free(tile);
    free(again);
    free(work);
    free(x);
    free(y);
    free(mean);
}

static void test_partial(int k, int stream, size_t dims)
{
    int kind = kinds[k];
    size_t bytes = lq__hot_tile_bytes(kind, stream, dims);
    uint8_t *tile = (uint8_t *)room(bytes);
    uint8_t *whole = (uint8_t *)room(bytes);
    void *work = room(lq__hot_work_bytes(dims));
    float *x = (float *)room(64 * dims * 4);
    float *y = (float *)room(64 * dims * 4);
    size_t i, t, n;
    for (i = 0; i < 64 * dims; i++) {
        x[i] = (float)gauss();
    }
    for (n = 1; n <= 64; n++) {
        double error = 0, energy = 0;
        memset(tile, 0, bytes);
        CHECK(seal(tile, kind, stream, dims, 0, x, dims, n, NULL, work) == LQ_OK);
        open_tile(y, dims, tile, kind, stream, dims, 0, 64, NULL, work);
        for (t = 0; t < 64; t++) {
            for (i = 0; i < dims; i++) {
                double a = t < n ? (double)x[t * dims + i] : 0.0;
                double d = a - (double)y[t * dims + i];
                CHECK(t < n || y[t * dims + i] == 0.0f);
                error += d * d;
                energy += a * a;
            }
        }
        CHECK(error < energy * noise[k] * 1.7);
    }
    /* values that are no numbers, sizes from tiny to huge */
    memcpy(whole, tile, bytes);
    for (i = 0; i < 3; i++) {
        static const uint32_t bad[3] = {0x7f800000u, 0xff800000u, 0x7fc00000u};
        float keep = x[5 * dims + 3];
        memcpy(&x[5 * dims + 3], &bad[i], 4);
        CHECK(seal(tile, kind, stream, dims, 0, x, dims, 64, NULL, work) == LQ_E_DATA);
        CHECK(memcmp(tile, whole, bytes) == 0);
        x[5 * dims + 3] = keep;
    }
    for (n = 0; n < 7; n++) { /* 17 octaves within a tile, from tiny to huge */
        static const int octaves[7] = {-90, -60, -24, 0, 15, 60, 119};
        int32_t base = 0;
        for (t = 0; t < 64; t++) {
            for (i = 0; i < dims; i++) {
                x[t * dims + i] = (float)ldexp(gauss(), octaves[n] - (int)(t * 5 % 18));
            }
        }
        memset(tile, 0, bytes);
        CHECK(lq__hot_seal(tile, kind, stream, dims, 0, x, dims, 64, NULL, &base, work) == LQ_OK);
        lq__hot_open(y, dims, tile, kind, stream, dims, 0, 64, base, NULL, NULL, work);
        for (t = 0; t < 64; t++) {
            double error = 0, energy = 0;
            for (i = 0; i < dims; i++) {
                double d = (double)x[t * dims + i] - (double)y[t * dims + i];
                error += d * d;
                energy += (double)x[t * dims + i] * (double)x[t * dims + i];
            }
            CHECK(error < energy * noise[k] * 4);
            CHECK(error <= energy * 1.01);
        }
    }
    {
        int32_t base = 0; /* rising by four octaves a token: the small ones become zeros */
        for (t = 0; t < 64; t++) {
            for (i = 0; i < dims; i++) {
                x[t * dims + i] = (float)ldexp(gauss(), (int)t * 3 - 90);
            }
        }
        memset(tile, 0, bytes);
        CHECK(lq__hot_seal(tile, kind, stream, dims, 0, x, dims, 64, NULL, &base, work) == LQ_OK);
        lq__hot_open(y, dims, tile, kind, stream, dims, 0, 64, base, NULL, NULL, work);
        for (t = 0; t < 64; t++) {
            double error = 0, energy = 0;
            for (i = 0; i < dims; i++) {
                double d = (double)x[t * dims + i] - (double)y[t * dims + i];
                error += d * d;
                energy += (double)x[t * dims + i] * (double)x[t * dims + i];
            }
            CHECK(error < energy * noise[k] * 4 || (t < 59 && error <= energy * 1.01));
        }
    }
    free(tile);
    free(whole);
    free(work);
    free(x);
    free(y);
}

/* ---- attention ---- */
typedef struct problem {
    size_t dims, v_dims, rows, hot, raw; /* hot and raw parts */
    int k_kind, v_kind, type;
    float scale, softcap;
    uint8_t *k[PARTS], *v[PARTS];
    uint16_t *rk[PARTS], *rv[PARTS];      /* raw, type's elements */
    float *kf[2 * PARTS], *vf[2 * PARTS]; /* what they decode to */
    float *mean, *v_mean, *q, *bias;
    uint64_t mask[2 * PARTS];
    uint64_t masks[2 * PARTS][8];
} problem;

static void fill(float *x, size_t tokens, size_t dims, const float *mean)
{
    size_t i, t;
    for (t = 0; t < tokens; t++) {
        for (i = 0; i < dims; i++) {
            x[t * dims + i] = (float)gauss() + mean[i];
        }
    }
}

static void problem_make(problem *p)
{
    size_t i, j;
    size_t most = p->dims > p->v_dims ? p->dims : p->v_dims;
    void *work = room(lq__hot_work_bytes(most));
    p->mean = (float *)room(p->dims * 4);
    p->v_mean = (float *)room(p->v_dims * 4);
    p->q = (float *)room(8 * p->dims * 4);
    p->bias = (float *)room(8 * 64 * 4);
    for (i = 0; i < p->dims; i++) {
        p->mean[i] = (float)gauss();
    }
    for (i = 0; i < p->v_dims; i++) {
        p->v_mean[i] = (float)gauss();
    }
    for (i = 0; i < 8 * p->dims; i++) {
        p->q[i] = (float)(1.5 * gauss());
    }
    for (i = 0; i < 8 * 64; i++) {
        p->bias[i] = (float)gauss();
    }
    for (i = 0; i < p->hot + p->raw; i++) {
        int hot = i < p->hot;
        p->kf[i] = (float *)room(64 * p->dims * 4);
        p->vf[i] = (float *)room(64 * p->v_dims * 4);
        fill(p->kf[i], 64, p->dims, p->mean);
        fill(p->vf[i], 64, p->v_dims, p->v_mean);
        p->mask[i] = (uint64_t)rnd() << 32 | rnd() | (rnd() & 1 ? ~(uint64_t)0 : 0);
        for (j = 0; j < 8; j++) {
            p->masks[i][j] = rnd() % 4 ? ~(uint64_t)0 >> rnd() % 64 : rnd() % 2 ? 0 : ~(uint64_t)0;
        }
        if (hot) {
            p->k[i] = (uint8_t *)room(lq__hot_tile_bytes(p->k_kind, LQ_K, p->dims));
            p->v[i] = (uint8_t *)room(lq__hot_tile_bytes(p->v_kind, LQ_V, p->v_dims));
            CHECK(seal(p->k[i], p->k_kind, LQ_K, p->dims, 0, p->kf[i], p->dims, 64, p->mean,
                       work) == LQ_OK);
            CHECK(seal(p->v[i], p->v_kind, LQ_V, p->v_dims, 0, p->vf[i], p->v_dims, 64, p->v_mean,
                       work) == LQ_OK);
            open_tile(p->kf[i], p->dims, p->k[i], p->k_kind, LQ_K, p->dims, 0, 64, p->mean, work);
            open_tile(p->vf[i], p->v_dims, p->v[i], p->v_kind, LQ_V, p->v_dims, 0, 64, p->v_mean,
                      work);
        } else {
            size_t at = i - p->hot;
            p->rk[at] = (uint16_t *)room(64 * p->dims * 4);
            p->rv[at] = (uint16_t *)room(64 * p->v_dims * 4);
            CHECK(!lq_type_from_f32(p->rk[at], p->kf[i], 64 * p->dims, p->type));
            CHECK(!lq_type_from_f32(p->rv[at], p->vf[i], 64 * p->v_dims, p->type));
            CHECK(!lq_f32_from_type(p->kf[i], p->rk[at], 64 * p->dims, p->type));
            CHECK(!lq_f32_from_type(p->vf[i], p->rv[at], 64 * p->v_dims, p->type));
        }
    }
    free(work);
}

static void problem_free(problem *p)
{
    for (size_t i = 0; i < p->hot + p->raw; i++) {
        free(p->kf[i]);
        free(p->vf[i]);
        free(i < p->hot ? (void *)p->k[i] : (void *)p->rk[i - p->hot]);
        free(i < p->hot ? (void *)p->v[i] : (void *)p->rv[i - p->hot]);
    }
    free(p->mean);
    free(p->v_mean);
    free(p->q);
    free(p->bias);
}

/* form of bias: 0 none, 1 shared, 2 a row each; form of masks: 0 all, 1 shared, 2 rows */
static void reference(const problem *p, int biases, int masks, double *out, double *lse,
                      double *logits)
{
    size_t r, i, t, d;
    size_t n = p->hot + p->raw;
    for (r = 0; r < p->rows; r++) {
        double most = -1e300, sum = 0;
        for (i = 0; i < n; i++) {
            for (t = 0; t < 64; t++) {
                double l = 0;
                double *at = &logits[(r * 2 * PARTS + i) * 64 + t];
                uint64_t mask = masks ? p->mask[i] : ~(uint64_t)0;
                mask &= masks == 2 ? p->masks[i][r] : ~(uint64_t)0;
                for (d = 0; d < p->dims; d++) {
                    l += (double)p->q[r * p->dims + d] * (double)p->kf[i][t * p->dims + d];
                }
                l *= (double)p->scale;
                l = p->softcap > 0 ? (double)p->softcap * tanh(l / (double)p->softcap) : l;
                l += biases ? (double)p->bias[(biases == 2 ? r * 64 : 0) + t] : 0;
                *at = mask >> t & 1 ? l : -1e300;
                most = *at > most ? *at : most;
            }
        }
        memset(out + r * p->v_dims, 0, p->v_dims * sizeof *out);
        for (i = 0; i < n && most > -1e299; i++) {
            for (t = 0; t < 64; t++) {
                double w = exp(logits[(r * 2 * PARTS + i) * 64 + t] - most);
                sum += w;
                for (d = 0; d < p->v_dims; d++) {
                    out[r * p->v_dims + d] += w * (double)p->vf[i][t * p->v_dims + d];
                }
            }
        }
        for (d = 0; d < p->v_dims && sum > 0; d++) {
            out[r * p->v_dims + d] /= sum;
        }
        lse[r] = sum > 0 ? most + log(sum) : -1e300;
    }
}

static void parts_make(const problem *p, int biases, int masks, lq__hot_part *parts)
{
    memset(parts, 0, 2 * PARTS * sizeof *parts);
    for (size_t i = 0; i < p->hot + p->raw; i++) {
        int hot = i < p->hot;
        parts[i].k = hot ? (const void *)p->k[i] : (const void *)p->rk[i - p->hot];
        parts[i].v = hot ? (const void *)p->v[i] : (const void *)p->rv[i - p->hot];
        parts[i].k_unit = 1.0f;
        parts[i].v_unit = 1.0f;
        parts[i].mask = masks ? p->mask[i] : ~(uint64_t)0;
        parts[i].masks = masks == 2 ? p->masks[i] : NULL;
        parts[i].bias = biases ? p->bias : NULL;
        parts[i].bias_stride = biases == 2 ? 64 : 0;
    }
}

static void test_attention(problem *p, double tolerance)
{
    lq__hot_state state, other;
    void *qm = room(lq__hot_query_bytes(p->dims));
    void *sm = room(lq__hot_state_bytes(p->v_dims));
    void *om = room(lq__hot_state_bytes(p->v_dims));
    float *out = (float *)room(8 * p->v_dims * 4);
    float *out2 = (float *)room(8 * p->v_dims * 4);
    double *want = (double *)room(8 * p->v_dims * 8);
    double *logits = (double *)room(8 * 2 * PARTS * 64 * 8);
    float shift[8], lse[8], lse2[8];
    lq__hot_form hot = {p->k_kind, p->v_kind, 0, 0, NULL, NULL, 0, NULL};
    lq__hot_form raw = {p->type, p->type, p->dims, p->v_dims, NULL, NULL, 0, NULL};
    int level, biases, masks, split;
    size_t r, d, i, t;
    problem_make(p);
    hot.v_mean = p->v_mean;
    lq__hot_query query;
    double want_lse[8];
    lq__hot_part parts[2 * PARTS];
    for (level = 0; level < levels; level++) {
        (void)lq_cpu_limit(level);
        for (biases = 0; biases < 3; biases++) {
            for (masks = 0; masks < 3; masks++) {
                reference(p, biases, masks, want, want_lse, logits);
                parts_make(p, biases, masks, parts);
                for (split = 0; split < 2; split++) {
                    lq__hot_query_init(&query, qm, p->q, p->dims, p->rows, p->dims, p->scale,
                                       p->softcap);
                    lq__hot_query_shift(shift, &query, p->mean);
                    hot.k_shift = shift;
                    lq__hot_state_init(&state, sm, p->rows, p->v_dims);
                    lq__hot_state_init(&other, om, p->rows, p->v_dims);
                    lq__hot_attend(split ? &other : &state, &query, &hot, parts, p->hot);
                    lq__hot_attend_raw(&state, &query, &raw, parts + p->hot, p->raw);
                    lq__hot_state_finish(&state, out, p->v_dims, lse);
                    if (split) {
                        lq__hot_state_finish(&other, out2, p->v_dims, lse2);
                        CHECK(!lq_attend_merge(out, lse, out2, lse2, p->rows, p->v_dims));
                    }
                    for (r = 0; r < p->rows; r++) {
                        double error = 0, energy = 0;
                        for (d = 0; d < p->v_dims; d++) {
                            double e = (double)out[r * p->v_dims + d] - want[r * p->v_dims + d];
                            error += e * e;
                            energy += want[r * p->v_dims + d] * want[r * p->v_dims + d];
                        }
                        if (!CHECK(sqrt(error) <= tolerance * sqrt(energy + 0.2))) {
                            fprintf(stderr, "  level %d kind %d %d dims %d row %d: %g of %g\n",
                                    level, p->k_kind, p->v_kind, (int)p->dims, (int)r, sqrt(error),
                                    sqrt(energy));
                        }
                        CHECK(want_lse[r] < -1e299
                                  ? lse[r] == LQ__HOT_NONE
                                  : fabs((double)lse[r] - want_lse[r]) < tolerance * 4);
                    }
                }
                for (i = 0; i < p->hot + p->raw; i++) { /* logits and mass */
                    float mass[64];
                    int is_raw = i >= p->hot;
                    memset(mass, 0, sizeof mass);
                    float got[8 * 64];
                    lq__hot_logits(got, &query, is_raw ? &raw : &hot, &parts[i], is_raw);
                    lq__hot_mass(mass, got, lse, p->rows);
                    for (t = 0; t < 64; t++) {
                        double sum = 0;
                        for (r = 0; r < p->rows; r++) {
                            double l = logits[(r * 2 * PARTS + i) * 64 + t];
                            float g = got[r * 64 + t];
                            sum += want_lse[r] < -1e299 ? 0 : exp(l - want_lse[r]);
                            CHECK(l < -1e299 ? g <= LQ__HOT_NONE
                                             : fabs((double)g - l) < tolerance * 12);
                        }
                        CHECK(fabs(sum - (double)mass[t]) < tolerance * 12);
                    }
                }
            }
        }
    }
    (void)lq_cpu_limit(-1);
    problem_free(p);
    free(qm);
    free(sm);
    free(om);
    free(out);
    free(out2);
    free(want);
    free(logits);
}

static void test_attentions(void)
{
    static const size_t dims[7] = {64, 128, 8, 72, 96, 256, 512};
    size_t i, rows;
    for (i = 0; i < 7; i++) {
        for (int k = 0; k < KINDS; k++) {
            for (rows = 1; rows <= 8; rows += i ? 1 + rnd() % 4 : 1) {
                problem p;
                memset(&p, 0, sizeof p);
                p.dims = dims[i];
                p.v_dims = rnd() % 3 ? dims[i] : dims[rnd() % 7];
                p.rows = rows;
                p.hot = rnd() % 4 ? 3 : 0;
                p.raw = p.hot ? rnd() % 3 : 2;
                p.k_kind = kinds[k];
                p.v_kind = kinds[rnd() % 3 ? (uint32_t)k : rnd() % KINDS];
                p.type = LQ_F32 + (int)(rnd() % 3);
                p.scale = (float)(1.0 / sqrt((double)dims[i]));
                p.softcap = rnd() % 3 ? 0.0f : 5.0f;
                test_attention(&p, p.k_kind == LQ__HOT_Z8 && p.v_kind == LQ__HOT_Z8 ? 4e-3 : 0.03);
            }
        }
    }
}

/* Integers of every level, on any bytes. */
static void test_levels_agree(void)
{
    static const size_t all[6] = {16, 32, 64, 80, 128, 512};
    int k, level;
    for (size_t n = 0; n < 6; n++) {
        size_t wide = all[n];
        for (k = 0; k < KINDS; k++) {
            size_t bytes = lq__hot_tile_bytes(kinds[k], LQ_K, wide);
            uint8_t *tile = (uint8_t *)room(bytes);
            int8_t *q8 = (int8_t *)room(8 * wide);
            float unit[4] = {1.0f, 1.0f, 1.0f, 1.0f};
            float *acc = (float *)room(4 * wide * 4);
            float *want = (float *)room(4 * wide * 4);
            size_t i, r, rows;
            for (i = 0; i < bytes; i++) {
                tile[i] = (uint8_t)(rnd() >> 8);
            }
            for (i = 0; i < 8 * wide; i++) {
                q8[i] = (int8_t)((int)(rnd() >> 8 & 255) - 128);
            }
            uint8_t weights[4 * 64];
            for (i = 0; i < 4 * 64; i++) {
                weights[i] = (uint8_t)(rnd() >> 8);
            }
            int32_t sum[4];
            for (r = 0; r < 4; r++) {
                sum[r] = 0;
                for (i = 0; i < wide; i++) {
                    sum[r] += q8[r * wide + i];
                }
            }
            int32_t dots[2][4 * 64];
            for (rows = 1; rows <= 4; rows++) {
                for (level = 0; level < levels; level++) {
                    (void)lq_cpu_limit(level);
                    memset(dots[level > 0], 0, sizeof dots[0]);
                    memset(acc, 0, 4 * wide * 4);
                    lq__hot_of_level()->dots(dots[level > 0], tile, kinds[k], q8, sum, wide, rows,
                                             0);
                    lq__hot_of_level()->sums(acc, unit, tile, kinds[k], weights, wide, rows, 0);
                    if (level == 0) {
                        memcpy(want, acc, 4 * wide * 4);
                        continue;
                    }
                    CHECK(memcmp(dots[0], dots[1], rows * 64 * 4) == 0);
                    CHECK(memcmp(want, acc, rows * wide * 4) == 0);
                }
            }
            for (rows = 1; rows <= 4; rows++) { /* sums of a K tile, some of its dims */
                size_t first = rnd() % (wide / 16) * 16;
                size_t last = first + 16 + rnd() % ((wide - first) / 16) * 16;
                size_t d, t;
                for (level = 0; level < levels; level++) {
                    int same = 1;
                    (void)lq_cpu_limit(level);
                    memset(acc, 0, 4 * wide * 4);
                    lq__hot_of_level()->across(acc, unit, tile, kinds[k], weights, wide, rows,
                                               first, last);
                    for (r = 0; r < 4; r++) {
                        for (d = 0; d < wide; d++) {
                            int32_t sum_of = 0;
                            for (t = 0; t < 64 && r < rows && d >= first && d < last; t++) {
                                sum_of += weights[r * 64 + t] *
                                          lq__hot_level(tile, kinds[k], LQ_K, wide, t, d);
                            }
                            same = same && acc[r * wide + d] == (float)sum_of;
                        }
                    }
                    if (!CHECK(same)) {
                        fprintf(stderr, "  kind %d level %d rows %d dims %d .. %d of %d\n",
                                kinds[k], level, (int)rows, (int)first, (int)last, (int)wide);
                    }
                }
            }
            free(tile);
            free(q8);
            free(acc);
            free(want);
        }
    }
    (void)lq_cpu_limit(-1);
}

/* The float stages of every level: every scale code, masks, softcap, bias; rows that see nothing. */
static void test_softmax_agrees(void)
{
    float bias[4 * 64], scale[4], shift[4], base[4];
    int n, level;
    size_t i, r;
    uint8_t codes[256];
    for (i = 0; i < 256; i++) {
        codes[i] = (uint8_t)i;
    }
    int32_t dots[2][4 * 64];
    for (n = 0; n < 64; n++) {
        float logits[3][4 * 64], weights[4 * 64], most[3][4], sums[3][4][16], unit[3][4];
        uint8_t high[3][4 * 64], low[3][4 * 64];
        lq__hot_step step;
        memset(&step, 0, sizeof step);
        for (i = 0; i < 4 * 64; i++) {
            dots[0][i] = (int32_t)(rnd() % 400001) - 200000;
            dots[1][i] = (int32_t)(rnd() % 400001) - 200000;
            bias[i] = (float)gauss();
        }
        for (r = 0; r < 4; r++) {
            scale[r] = (float)uniform() * 1e-5f;
            shift[r] = (float)gauss();
            step.mask[r] = rnd() % 8 ? (uint64_t)rnd() << 32 | rnd() : 0;
        }
        step.high = dots[0];
        step.low = n & 1 ? dots[1] : NULL;
        step.codes = codes + 64 * (n % 4);
        step.scale = scale;
        step.shift = shift;
        step.bias = n & 2 ? bias : NULL;
        step.bias_stride = n & 4 ? 64 : 0;
        step.softcap = n & 8 ? 3.0f : 0.0f;
        lq__hot_weights w;
        for (level = 0; level < levels; level++) {
            (void)lq_cpu_limit(level);
            step.logits = logits[level];
            lq__hot_of_level()->logits(most[level], &step, 4);
            for (i = 0; i < 4 * 64; i++) {
                float a = logits[0][i], b = logits[level][i];
                CHECK(a == b || fabs((double)(a - b)) < 1e-5 * (1 + fabs((double)a)));
            }
            for (r = 0; r < 4; r++) {
                float m = most[level][r];
                most[level][r] = m <= LQ__HOT_NONE ? 0.0f : m;
                base[r] = most[0][r] + (float)(n % 5);
            }
            memcpy(weights, logits[level], sizeof weights);
            w.weights = weights;
            w.most = most[0];
            w.base = base;
            w.codes = codes + 64 * (n / 4 % 4);
            w.high = high[level];
            w.low = n & 16 ? low[level] : NULL;
            w.unit = unit[level];
            memset(sums[level], 0, sizeof sums[0]);
            w.sum = sums[level];
            lq__hot_of_level()->weigh(&w, 4);
            for (r = 0; r < 4; r++) {
                double a = 0, b = 0;
                for (i = 0; i < 16; i++) {
                    a += (double)sums[0][r][i];
                    b += (double)sums[level][r][i];
                }
                CHECK(fabs(a - b) <= 1e-4 * a);
                CHECK(!step.mask[r] ||
                      fabs((double)(unit[0][r] - unit[level][r])) <= 1e-4 * (double)unit[0][r]);
                CHECK(step.mask[r] || b == 0);
            }
            for (i = 0; i < 4 * 64; i++) {
                int a = high[0][i] * 256 + (w.low ? low[0][i] : 0);
                int b = high[level][i] * 256 + (w.low ? low[level][i] : 0);
                CHECK(abs(a - b) <= (w.low ? 12 : 256));
            }
        }
    }
    (void)lq_cpu_limit(-1);
}

/* Many small weights beside a large one: their sum counts. */
static void test_small_weights(void)
{
    enum { D = 64 };
    size_t t, d;
    double worst = 0;
    for (int level = 0; level < levels; level++) {
        (void)lq_cpu_limit(level);
        for (int n = 0; n < 40; n++) {
            static float x[64 * D], work[8192], qm[16384], sm[16384], out[D];
            static uint8_t k[4096], v[4096];
            double gap = 3 + 0.1 * n, small = exp(-gap), sum = 1 + 63 * small, error = 0;
            lq__hot_form form = {LQ__HOT_Z4, LQ__HOT_Z4, 0, 0, NULL, NULL, 0, NULL};
            lq__hot_part part = {k, v, ~(uint64_t)0, NULL, NULL, 0, NULL, NULL, 1, 1};
            float bias[64], q[D];
            for (t = 0; t < 64; t++) {
                for (d = 0; d < D; d++) {
                    x[t * D + d] = t == 17 ? 0.0f : 1.0f;
                }
                bias[t] = t == 17 ? (float)gap : 0.0f;
            }
            memset(q, 0, sizeof q);
            CHECK(!seal(k, LQ__HOT_Z4, LQ_K, D, 0, x, D, 64, NULL, work));
            CHECK(!seal(v, LQ__HOT_Z4, LQ_V, D, 0, x, D, 64, NULL, work));
            v[lq__hot_tile_bytes(LQ__HOT_Z4, LQ_V, D) - 64 + 17] = /* a scale like the others' */
                v[lq__hot_tile_bytes(LQ__HOT_Z4, LQ_V, D) - 64 + 18];
            part.bias = bias;
            open_tile(x, D, v, LQ__HOT_Z4, LQ_V, D, 0, 64, NULL, work);
            lq__hot_query query;
            lq__hot_query_init(&query, qm, q, D, 1, D, 0.125f, 0.0f);
            lq__hot_state state;
            lq__hot_state_init(&state, sm, 1, D);
            lq__hot_attend(&state, &query, &form, &part, 1);
            lq__hot_state_finish(&state, out, D, NULL);
            for (d = 0; d < D; d++) {
                double want = (double)x[17 * D + d];
                for (t = 0; t < 64; t++) {
                    want += t == 17 ? 0 : small * (double)x[t * D + d];
                }
                error += fabs(want / sum - (double)out[d]) / D;
            }
            worst = error > worst ? error : worst;
        }
    }
    if (!CHECK(worst < 0.01)) fprintf(stderr, "  small weights: %g\n", worst);
    (void)lq_cpu_limit(-1);
}

/* Any bytes: finite results, no stray read (the sanitizer says). */
static void test_hostile(int rounds)
{
    static const size_t dims[4] = {64, 72, 128, 512};
    for (int n = 0; n < rounds; n++) {
        int kind = kinds[rnd() % KINDS];
        size_t d = dims[rnd() % 4];
        size_t bytes = lq__hot_tile_bytes(kind, LQ_K, d);
        uint8_t *k = (uint8_t *)room(bytes);
        uint8_t *v = (uint8_t *)room(bytes);
        float *x = (float *)room(64 * d * 4);
        void *work = room(lq__hot_work_bytes(d));
        void *qm = room(lq__hot_query_bytes(d));
        void *sm = room(lq__hot_state_bytes(d));
        float *q = (float *)room(8 * d * 4);
        lq__hot_form form = {kind, kind, 0, 0, NULL, NULL, 0, NULL};
        lq__hot_part part = {k, v, ~(uint64_t)0, NULL, NULL, 0, NULL, NULL, 1, 1};
        size_t rows = 1 + rnd() % 8;
        int bad = 0;
        for (size_t i = 0; i < bytes; i++) {
            k[i] = (uint8_t)(rnd() >> 8);
            v[i] = (uint8_t)(rnd() >> 8);
        }
        for (size_t i = 0; i < 8 * d; i++) {
            q[i] = (float)gauss();
        }
        (void)lq_cpu_limit(n % levels);
        open_tile(x, d, v, kind, LQ_V, d, 0, 64, NULL, work);
        lq__hot_query query;
        lq__hot_query_init(&query, qm, q, d, rows, d, 0.1f, 0.0f);
        lq__hot_state state;
        lq__hot_state_init(&state, sm, rows, d);
        lq__hot_attend(&state, &query, &form, &part, 1);
        lq__hot_state_finish(&state, x, d, NULL);
        for (size_t i = 0; i < rows * d; i++) {
            bad += !(x[i] > -1e30f && x[i] < 1e30f);
        }
        CHECK(!bad);
        free(k);
        free(v);
        free(x);
        free(work);
        free(qm);
        free(sm);
        free(q);
    }
    (void)lq_cpu_limit(-1);
}

/* The cell's middle is as near as can be, but for the rounding. */
static void test_cells(int kind)
{
    const lq__hot_cells *cells = lq__hot_cells_in(kind);
    uint32_t half = 1u << lq__hot_bits(kind) >> 1;
    double unit = pow(2, (16 * 12 - cells->octaves) / 12.0);
    uint32_t a, last = 0;
    CHECK(cells->cuts <= LQ__HOT_CUTS);
    for (a = 0; a < 128 && cells->cuts; a++) {
        const int8_t *level = lq__hot_row(kind)->levels + half;
        uint32_t j, k;
        double y = (a + 0.5) * unit;
        double e = sqrt((double)lq__hot_cell_level(cells, a, &j)) / 2 * unit;
        CHECK(j < half && fabs(e - fabs(y - level[j])) < 0.26 * unit);
        CHECK(j == last || j == last + 1); /* none is left out */
        last = j;
        for (k = 0; k < half; k++) {
            CHECK(fabs(y - level[j]) < fabs(y - level[k]) + unit);
            CHECK(level[k] == -level[-1 - (int)k]);
        }
    }
    CHECK(!cells->cuts || last == half - 1);
}

static void test_bound(int kind, int stream)
{
    static const double edges[] = {127,        127 * 1.08, 127 * 1.25, 127 * 1.7,
                                   127 * 1.05, 127 * 0.98, 127};
    const lq__hot_bound *bound = lq__hot_bound_in(kind, stream);
    int i, j;
    for (i = 0; kinds[i] != kind; i++) {
    }
    for (j = -1; j < 14; j++) {
        int32_t code = LQ__HOT_SCALE_ONE + bound->base + 12 * 13 + j;
        CHECK(bound->factor[j + 1] == lq__hot_factor(kind, 0, code));
    }
    for (j = 0; j < 2000; j++) {
        uint32_t x = rnd() >> (1 + rnd() % 30) | 1;
        int edge = kind == LQ__HOT_E8 && stream == LQ_V ? 0 : i;
        double want = 12 * log2(x / edges[edge]);
        int got = lq__hot_rung(x, bound) + bound->base + 12 * (int)lq__log2_floor(x);
        CHECK(got > want - 1e-6 && got < want + 1 + 1e-6);
    }
}

static void test_math(void)
{
    double worst = 0;
    int i;
    for (i = 0; i < 200000; i++) {
        float x = (float)(-87.0 * uniform());
        double e = fabs((double)lq__exp(x) / exp((double)x) - 1);
        worst = e > worst ? e : worst;
    }
    CHECK(worst < 8e-6);
    CHECK(lq__exp(0.0f) == 1.0f && lq__exp(-88.0f) == 0.0f && lq__exp(LQ__HOT_NONE) == 0.0f);
    for (i = 0, worst = 0; i < 200000; i++) {
        float x = (float)exp(80 * uniform() - 40);
        double e = fabs((double)lq__log(x) - log((double)x));
        worst = e > worst ? e : worst;
    }
    CHECK(worst < 2e-5);
    for (i = 1, worst = 0; i < 256; i++) {
        double e = fabs((double)lq__hot_scale((uint32_t)i) / pow(2, (i - 192) / 12.0) - 1);
        worst = e > worst ? e : worst;
    }
    CHECK(worst < 1e-6 && lq__hot_scale(0) == 0.0f);
    for (i = 0; i < 31; i++) {
        uint32_t j = (uint32_t)i, c;
        for (c = 0; c < 2; c++) {
            CHECK(lq__hot_brackets[3 * c][i] == lq__hot_rising_e8[lq__hot_first(j, c)]);
            CHECK(lq__hot_brackets[3 * c + 1][i] == lq__hot_rising_e8[lq__hot_second(j, c)]);
            CHECK(lq__hot_brackets[3 * c + 2][i] == (int8_t)(lq__hot_second(j, c) >> 1));
            CHECK(lq__hot_first(j, c) >> 1 == (j + 1 - c) >> 1);
        }
    }
    for (i = 0; i < 128; i++) { /* the last level at or below */
        int j = lq__hot_bracket[i];
        CHECK(lq__hot_rising_e8[j] <= i && (j == 30 || lq__hot_rising_e8[j + 1] > i));
    }
    for (i = 0; i < KINDS; i++) {
        test_cells(kinds[i]);
        test_bound(kinds[i], LQ_K);
        test_bound(kinds[i], LQ_V);
    }
    for (i = 0; i < 1024; i++) {
        CHECK(lq__hot_sign((size_t)i) == lq__sign_bit((uint32_t)i));
    }
}

/* Bytes pinned: the same on every machine, compiler and flag set. */
static void test_pinned(void)
{
    static const uint32_t want[KINDS][2] = {{0x122204b2u, 0xa02ee761u}, {0x66b9c921u, 0xcfc10efau},
                                            {0x7c9e20a5u, 0x5cd2dc3bu}, {0xdf29d77au, 0x93fc52aau},
                                            {0xcd7b8068u, 0x2584a16cu}, {0xddc7dca5u, 0x3dbf3d51u},
                                            {0xa7f3de19u, 0x7f2f98efu}};
    int k, s, level;
    uint32_t state = 1;
    float *x = (float *)room(64 * 128 * 4);
    float *mean = (float *)room(128 * 4);
    void *work = room(lq__hot_work_bytes(128));
    for (size_t i = 0; i < 64 * 128; i++) {
        int32_t sum = 0;
        for (int j = 0; j < 8; j++) {
            state = state * 1664525u + 1013904223u;
            sum += (int32_t)(state >> 16) - 32768;
        }
        x[i] = (float)sum / 65536.0f;
        mean[i % 128] = (float)(state >> 8) / 16777216.0f;
    }
    for (level = 0; level < levels; level++) {
        (void)lq_cpu_limit(level);
        for (k = 0; k < KINDS; k++) {
            for (s = 0; s < 2; s++) {
                size_t bytes = lq__hot_tile_bytes(kinds[k], LQ_K + s, 128);
                uint8_t *tile = (uint8_t *)room(bytes);
                CHECK(!seal(tile, kinds[k], LQ_K + s, 128, 0, x, 128, 61, mean, work));
                if (!CHECK(hash(tile, bytes) == want[k][s])) {
                    fprintf(stderr, "  pinned %d %d: 0x%08x\n", k, s, hash(tile, bytes));
                }
                free(tile);
            }
        }
    }
    (void)lq_cpu_limit(-1);
    free(x);
    free(mean);
    free(work);
}

int main(int argc, char **argv)
{
    static const size_t dims[8] = {8, 16, 64, 72, 80, 96, 128, 512};
    int k, s;
    levels = lq_cpu_limit(-1) + 1;
    test_math();
    test_sizes();
    for (k = 0; k < KINDS; k++) {
        for (s = LQ_K; s <= LQ_V; s++) {
            for (size_t i = 0; i < 8; i++) {
                test_round_trip(k, s, dims[i]);
            }
            test_partial(k, s, 64);
            test_partial(k, s, 72);
        }
    }
    test_pinned();
    test_levels_agree();
    test_softmax_agrees();
    test_small_weights();
    test_attentions();
    test_hostile(argc > 1 ? atoi(argv[1]) : 200);
    return check_report("hot");
}
