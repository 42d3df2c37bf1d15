/* rivals.h - the codecs that people use for a KV cache today, as exact round trips

   Each function takes n vectors (tokens of one head, in order) of d floats and writes what a reader
   of the stored form would get back; dst may be src. RV_KEY or RV_VALUE tells the two streams apart
   for the codecs that treat them differently. The bits functions count everything that is stored
   for those n vectors, scales included. Nothing is allocated; nothing here is safe to use as a
   file format, because no bytes are made: the values are what counts in a comparison.

       float k[64][128];
       rv_hq4_0(k[0], k[0], 64, 128, RV_KEY);
       double rate = (double)rv_bits_hq4_0(64, 128, RV_KEY) / (64 * 128);

   The definitions and where they come from:

   name   bits       definition
   q8_0   8.5        ggml: blocks of 32, d = max |x| / 127 in f16, q = round(x / d)
   q5_0   5.5        ggml: d = x of largest magnitude / -16, q = floor(x / d + 16.5), at most 31
   q4_1   5          ggml: d = (max - min) / 15 and min in f16, q = floor((x - min) / d + 0.5)
   q4_0   4.5        ggml: d = x of largest magnitude / -8, q = floor(x / d + 8.5), at most 15
   hq4_0  4.5        q4_0 behind a Hadamard rotation (llama.cpp's rotated caches), random signs
   tq4 .. tq2  b+16/d TurboQuant-MSE (arXiv 2504.19874): random-sign Hadamard, rms in f16, then
                     the Lloyd-Max levels of the unit Gaussian
   kivi4 kivi2  b+1  KIVI (arXiv 2402.02750): K per channel in groups of 32 tokens, V per token in
                     groups of 32 channels; minimum and scale in f16 (no window of raw tokens)
   fp8    8.25       e4m3 (no infinity, largest 448) with one f16 scale for 64 channels

   ggml divides by the scale before it is rounded to f16 and multiplies by the rounded one; so does
   this file. A block at the end of a vector whose length the block size does not divide is short
   and pays for its scale in full. MIT licence, as the rest of this repository. */
#ifndef RIVALS_H
#define RIVALS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define RV_FUNC static __attribute__((unused))
#else
#define RV_FUNC static
#endif

enum { RV_KEY = 0, RV_VALUE = 1 };

/* ---- half floats ---- */

/* Round to nearest even; overflow becomes infinity, a NaN stays a NaN. */
RV_FUNC uint16_t rv_half_from_float(float x)
{
    uint32_t u, sign, rest;
    memcpy(&u, &x, 4);
    sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) {
        uint32_t shift = 126u - (u >> 23);
        uint32_t m = (u & 0x7fffffu) | 0x800000u;
        if (shift > 24) return (uint16_t)sign;
        rest = m & ((1u << shift) - 1u);
        m >>= shift;
        m += rest > (1u << (shift - 1)) || (rest == (1u << (shift - 1)) && (m & 1u));
        return (uint16_t)(sign | m);
    }
    u -= 0x38000000u;
    rest = u & 0x1fffu;
    u >>= 13;
    u += rest > 0x1000u || (rest == 0x1000u && (u & 1u));
    return (uint16_t)(sign | u);
}

RV_FUNC float rv_float_from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t u = h & 0x7fffu;
    float x;
    if (u >= 0x7c00u) {
        u = 0x7f800000u | ((u & 0x3ffu) << 13);
    } else if (u >= 0x400u) {
        u = (u << 13) + 0x38000000u;
    } else {
        x = (float)u * (1.0f / 16777216.0f);
        memcpy(&u, &x, 4);
    }
    u |= sign;
    memcpy(&x, &u, 4);
    return x;
}

/* What a float becomes by living in an f16 field. */
RV_FUNC float rv_through_half(float x)
{
    return rv_float_from_half(rv_half_from_float(x));
}

/* ---- pieces ---- */

/* Truncation toward zero into [lo, hi]; a NaN becomes lo, so that the cast is always defined. */
RV_FUNC int rv__clamp(float x, int lo, int hi)
{
    if (!(x > (float)lo)) return lo;
    return x < (float)hi ? (int)x : hi;
}

RV_FUNC size_t rv__min(size_t a, size_t b)
{
    return a < b ? a : b;
}

RV_FUNC float rv__inverse(float x)
{
    return x != 0.0f ? 1.0f / x : 0.0f;
}

/* The sign of channel i, a hash, the same for all vectors. Patterns differ: over five of them the
   divergence that tq4 causes in SmolLM2-135M went from 0.0065 to 0.0075; this one has 0.0071. */
RV_FUNC float rv__sign(size_t i)
{
    uint32_t h = ((uint32_t)i + 2000u) * 2654435761u + 0x9e3779b9u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    h *= 3266489917u;
    h ^= h >> 16;
    return (h & 1u) ? -1.0f : 1.0f;
}

/* Orthonormal Hadamard transform of each block of the largest power of two that divides d. */
RV_FUNC void rv__hadamard(float *x, size_t d)
{
    size_t block = d & (~d + 1);
    float scale = 1.0f / sqrtf((float)block);
    size_t b, half, i, j;
    for (b = 0; b < d; b += block) {
        for (half = 1; half < block; half *= 2) {
            for (i = 0; i < block; i += 2 * half) {
                for (j = i; j < i + half; j++) {
                    float u = x[b + j];
                    float v = x[b + j + half];
                    x[b + j] = u + v;
                    x[b + j + half] = u - v;
                }
            }
        }
    }
    for (i = 0; i < d; i++) {
        x[i] *= scale;
    }
}

RV_FUNC void rv__rotate(float *dst, const float *src, size_t d)
{
    for (size_t i = 0; i < d; i++) {
        dst[i] = src[i] * rv__sign(i);
    }
    rv__hadamard(dst, d);
}

RV_FUNC void rv__unrotate(float *x, size_t d)
{
    rv__hadamard(x, d);
    for (size_t i = 0; i < d; i++) {
        x[i] *= rv__sign(i);
    }
}

/* ---- ggml ---- */

/* q4_0 and q5_0: the value of largest magnitude sits exactly on the lowest level, -half. */
RV_FUNC void rv__block_signed(float *dst, const float *src, size_t n, int half)
{
    float amax = 0.0f;
    float max = 0.0f;
    float d, inverse;
    for (size_t i = 0; i < n; i++) {
        if (fabsf(src[i]) > amax) {
            amax = fabsf(src[i]);
            max = src[i];
        }
    }
    d = max / (float)-half;
    inverse = rv__inverse(d);
    d = rv_through_half(d);
    for (size_t i = 0; i < n; i++) {
        int q = rv__clamp(src[i] * inverse + ((float)half + 0.5f), 0, 2 * half - 1);
        dst[i] = (float)(q - half) * d;
    }
}

RV_FUNC void rv__block_q8_0(float *dst, const float *src, size_t n)
{
    float amax = 0.0f;
    float d, inverse;
    for (size_t i = 0; i < n; i++) {
        amax = fabsf(src[i]) > amax ? fabsf(src[i]) : amax;
    }
    d = amax / 127.0f;
    inverse = rv__inverse(d);
    d = rv_through_half(d);
    for (size_t i = 0; i < n; i++) {
        dst[i] = (float)rv__clamp(roundf(src[i] * inverse), -127, 127) * d;
    }
}

RV_FUNC void rv__block_q4_1(float *dst, const float *src, size_t n)
{
    float min = src[0];
    float max = src[0];
    float d, inverse, low;
    for (size_t i = 1; i < n; i++) {
        min = src[i] < min ? src[i] : min;
        max = src[i] > max ? src[i] : max;
    }
    d = (max - min) / 15.0f;
    inverse = rv__inverse(d);
    d = rv_through_half(d);
    low = rv_through_half(min);
    for (size_t i = 0; i < n; i++) {
        dst[i] = (float)rv__clamp((src[i] - min) * inverse + 0.5f, 0, 15) * d + low;
    }
}

RV_FUNC void rv__signed(float *dst, const float *src, size_t n, size_t d, int half)
{
    size_t t, i;
    for (t = 0; t < n; t++) {
        for (i = 0; i < d; i += 32) {
            rv__block_signed(dst + t * d + i, src + t * d + i, rv__min(32, d - i), half);
        }
    }
}

RV_FUNC void rv_q4_0(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    rv__signed(dst, src, n, d, 8);
}

RV_FUNC void rv_q5_0(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    rv__signed(dst, src, n, d, 16);
}

RV_FUNC void rv_q4_1(float *dst, const float *src, size_t n, size_t d, int stream)
{
    size_t t, i;
    (void)stream;
    for (t = 0; t < n; t++) {
        for (i = 0; i < d; i += 32) {
            rv__block_q4_1(dst + t * d + i, src + t * d + i, rv__min(32, d - i));
        }
    }
}

RV_FUNC void rv_q8_0(float *dst, const float *src, size_t n, size_t d, int stream)
{
    size_t t, i;
    (void)stream;
    for (t = 0; t < n; t++) {
        for (i = 0; i < d; i += 32) {
            rv__block_q8_0(dst + t * d + i, src + t * d + i, rv__min(32, d - i));
        }
    }
}

RV_FUNC void rv_hq4_0(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    for (size_t t = 0; t < n; t++) {
        rv__rotate(dst + t * d, src + t * d, d);
        rv__signed(dst + t * d, dst + t * d, 1, d, 8);
        rv__unrotate(dst + t * d, d);
    }
}

/* ---- TurboQuant ---- */

/* Positive halves of the Lloyd-Max levels of the unit Gaussian (fixed point of Lloyd's iteration
   in double; mean-square errors 0.11748, 0.03455, 0.00950). The quantiser is symmetric. */
static const float rv__lloyd2[2] = {0.452780035f, 1.510417608f};
static const float rv__lloyd3[4] = {0.245094179f, 0.756005281f, 1.343909279f, 2.151945705f};
static const float rv__lloyd4[8] = {0.128395030f, 0.388048299f, 0.656759119f, 0.942340456f,
                                    1.256231197f, 1.618046386f, 2.069017227f, 2.732589571f};

/* Nearest level to x of the 2 * count levels. */
RV_FUNC float rv__nearest(const float *levels, size_t count, float x)
{
    float a = fabsf(x);
    size_t i = 0;
    while (i + 1 < count && a > 0.5f * (levels[i] + levels[i + 1])) {
        i++;
    }
    return x < 0.0f ? -levels[i] : levels[i];
}

RV_FUNC void rv__turbo(float *dst, const float *src, size_t n, size_t d, const float *levels,
                       size_t count)
{
    size_t t, i;
    for (t = 0; t < n; t++) {
        float *y = dst + t * d;
        float sum = 0.0f;
        float rms, inverse;
        rv__rotate(y, src + t * d, d);
        for (i = 0; i < d; i++) {
            sum += y[i] * y[i];
        }
        rms = rv_through_half(sqrtf(sum / (float)d));
        inverse = rv__inverse(rms);
        for (i = 0; i < d; i++) {
            y[i] = rv__nearest(levels, count, y[i] * inverse) * rms;
        }
        rv__unrotate(y, d);
    }
}

RV_FUNC void rv_tq4(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    rv__turbo(dst, src, n, d, rv__lloyd4, 8);
}

RV_FUNC void rv_tq3(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    rv__turbo(dst, src, n, d, rv__lloyd3, 4);
}

RV_FUNC void rv_tq2(float *dst, const float *src, size_t n, size_t d, int stream)
{
    (void)stream;
    rv__turbo(dst, src, n, d, rv__lloyd2, 2);
}

/* ---- KIVI ---- */

/* One group of count values that lie stride floats apart. */
RV_FUNC void rv__kivi_group(float *dst, const float *src, size_t count, size_t stride, int top)
{
    float min = src[0];
    float max = src[0];
    float scale, inverse;
    for (size_t i = 1; i < count; i++) {
        min = src[i * stride] < min ? src[i * stride] : min;
        max = src[i * stride] > max ? src[i * stride] : max;
    }
    min = rv_through_half(min);
    scale = rv_through_half((max - min) / (float)top);
    inverse = rv__inverse(scale);
    for (size_t i = 0; i < count; i++) {
        int q = rv__clamp((src[i * stride] - min) * inverse + 0.5f, 0, top);
        dst[i * stride] = (float)q * scale + min;
    }
}

RV_FUNC void rv__kivi(float *dst, const float *src, size_t n, size_t d, int stream, int top)
{
    size_t t, i;
    for (t = 0; t < n; t += stream == RV_KEY ? 32 : 1) {
        for (i = 0; i < d; i += stream == RV_KEY ? 1 : 32) {
            size_t at = t * d + i;
            if (stream == RV_KEY) {
                rv__kivi_group(dst + at, src + at, rv__min(32, n - t), d, top);
            } else {
                rv__kivi_group(dst + at, src + at, rv__min(32, d - i), 1, top);
            }
        }
    }
}

RV_FUNC void rv_kivi4(float *dst, const float *src, size_t n, size_t d, int stream)
{
    rv__kivi(dst, src, n, d, stream, 15);
}

RV_FUNC void rv_kivi2(float *dst, const float *src, size_t n, size_t d, int stream)
{
    rv__kivi(dst, src, n, d, stream, 3);
}

/* ---- fp8 ---- */

/* Nearest e4m3 value, ties to even, saturating at 448; the steps below 2^-6 are 2^-9. */
RV_FUNC float rv__through_e4m3(float x)
{
    float a = fabsf(x);
    float step, y;
    if (!(a < 448.0f)) return x < 0.0f ? -448.0f : 448.0f;
    int e;
    (void)frexpf(a, &e);
    step = ldexpf(1.0f, (e < -5 ? -5 : e) - 4);
    y = floorf(a / step);
    a = a / step - y;
    if (a > 0.5f || (a == 0.5f && fmodf(y, 2.0f) != 0.0f)) y += 1.0f;
    return (x < 0.0f ? -y : y) * step;
}

RV_FUNC void rv_fp8(float *dst, const float *src, size_t n, size_t d, int stream)
{
    size_t t, b, i;
    (void)stream;
    for (t = 0; t < n; t++) {
        for (b = 0; b < d; b += 64) {
            const float *x = src + t * d + b;
            float *y = dst + t * d + b;
            size_t count = rv__min(64, d - b);
            float amax = 0.0f;
            float scale, inverse;
            for (i = 0; i < count; i++) {
                amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
            }
            scale = rv_through_half(amax / 448.0f);
            inverse = rv__inverse(scale);
            for (i = 0; i < count; i++) {
                y[i] = rv__through_e4m3(x[i] * inverse) * scale;
            }
        }
    }
}

/* ---- bits ---- */

RV_FUNC size_t rv__blocks(size_t n, size_t size)
{
    return (n + size - 1) / size;
}

RV_FUNC size_t rv_bits_q8_0(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (8 * d + 16 * rv__blocks(d, 32));
}

RV_FUNC size_t rv_bits_q5_0(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (5 * d + 16 * rv__blocks(d, 32));
}

RV_FUNC size_t rv_bits_q4_1(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (4 * d + 32 * rv__blocks(d, 32));
}

RV_FUNC size_t rv_bits_q4_0(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (4 * d + 16 * rv__blocks(d, 32));
}

RV_FUNC size_t rv_bits_hq4_0(size_t n, size_t d, int stream)
{
    return rv_bits_q4_0(n, d, stream);
}

RV_FUNC size_t rv_bits_tq4(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (4 * d + 16);
}

RV_FUNC size_t rv_bits_tq3(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (3 * d + 16);
}

RV_FUNC size_t rv_bits_tq2(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (2 * d + 16);
}

RV_FUNC size_t rv__bits_kivi(size_t n, size_t d, int stream, size_t width)
{
    size_t groups = stream == RV_KEY ? rv__blocks(n, 32) * d : n * rv__blocks(d, 32);
    return n * d * width + 32 * groups;
}

RV_FUNC size_t rv_bits_kivi4(size_t n, size_t d, int stream)
{
    return rv__bits_kivi(n, d, stream, 4);
}

RV_FUNC size_t rv_bits_kivi2(size_t n, size_t d, int stream)
{
    return rv__bits_kivi(n, d, stream, 2);
}

RV_FUNC size_t rv_bits_fp8(size_t n, size_t d, int stream)
{
    (void)stream;
    return n * (8 * d + 16 * rv__blocks(d, 64));
}

/* ---- the table ---- */

#define RV_CODECS(X)                 \
    X(q8_0, "llama.cpp q8_0")        \
    X(fp8, "fp8 e4m3, scale per 64") \
    X(q5_0, "llama.cpp q5_0")        \
    X(q4_1, "llama.cpp q4_1")        \
    X(q4_0, "llama.cpp q4_0")        \
    X(hq4_0, "Hadamard + q4_0")      \
    X(tq4, "TurboQuant-MSE 4 bit")   \
    X(tq3, "TurboQuant-MSE 3 bit")   \
    X(tq2, "TurboQuant-MSE 2 bit")   \
    X(kivi4, "KIVI 4 bit")           \
    X(kivi2, "KIVI 2 bit")

typedef struct rv_codec {
    const char *name;
    const char *title;
    size_t (*bits)(size_t n, size_t d, int stream);
    void (*round_trip)(float *dst, const float *src, size_t n, size_t d, int stream);
} rv_codec;

#define RV__ROW(id, title) {#id, title, rv_bits_##id, rv_##id},
static const rv_codec rv_codecs[] = {RV_CODECS(RV__ROW)};
#undef RV__ROW

enum { RV_CODEC_COUNT = (int)(sizeof rv_codecs / sizeof rv_codecs[0]) };

/* The codec of that name, or NULL. */
RV_FUNC const rv_codec *rv_find(const char *name)
{
    for (size_t i = 0; i < sizeof rv_codecs / sizeof rv_codecs[0]; i++) {
        if (strcmp(rv_codecs[i].name, name) == 0) return &rv_codecs[i];
    }
    return NULL;
}

#endif
