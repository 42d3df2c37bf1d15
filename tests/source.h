/* Random numbers, buffers of exact size and the sample data, shared by the tests. */
#ifndef SOURCE_H
#define SOURCE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define SOURCE_FUNC static __attribute__((unused))
#else
#define SOURCE_FUNC static
#endif

#define SOURCE_PI 3.14159265358979323846

/* ---- random numbers: SplitMix64 (Steele, Lea and Flood 2014) ---- */
static uint64_t source_seed = 1;

SOURCE_FUNC uint64_t source_u64(void)
{
    uint64_t z = (source_seed += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

SOURCE_FUNC uint32_t source_below(uint32_t n)
{
    return (uint32_t)(((source_u64() >> 32) * n) >> 32);
}

/* Uniform in (0, 1). */
SOURCE_FUNC double source_uniform(void)
{
    return ((double)(source_u64() >> 12) + 0.5) / 4503599627370496.0;
}

SOURCE_FUNC double source_gauss(void)
{
    double radius = sqrt(-2 * log(source_uniform()));
    return radius * cos(2 * SOURCE_PI * source_uniform());
}

/* About Gaussian, from integer sums alone: the same on every machine. Variance 1 within 1 %. */
SOURCE_FUNC double source_integer_gauss(void)
{
    int64_t sum = 0;
    for (int i = 0; i < 12; i++) {
        sum += (int64_t)(source_u64() >> 44);
    }
    return (double)(sum - 6 * (int64_t)1048576) / 1048576.0;
}

/* ---- memory of exactly that size, so that sanitizers see one byte too many ---- */
SOURCE_FUNC void *source_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

SOURCE_FUNC void *source_zeros(size_t bytes)
{
    void *p = source_alloc(bytes);
    memset(p, 0, bytes ? bytes : 1);
    return p;
}

SOURCE_FUNC uint8_t *source_copy(const void *src, size_t bytes)
{
    uint8_t *p = (uint8_t *)source_alloc(bytes);
    if (bytes) memcpy(p, src, bytes);
    return p;
}

/* ---- arrays of floats ---- */
SOURCE_FUNC float *source_gaussians(size_t count)
{
    float *x = (float *)source_alloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)source_gauss();
    }
    return x;
}

SOURCE_FUNC int source_finite_all(const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        if ((u & 0x7fffffffu) >= 0x7f800000u) return 0;
    }
    return 1;
}

SOURCE_FUNC double source_dot(const float *x, const float *y, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

/* ---- the Hadamard rotation in double: signs, then blocks of the largest power of two ---- */
SOURCE_FUNC size_t source_hadamard_block(size_t dims)
{
    size_t block = 1;
    while (block < 512 && dims % (2 * block) == 0) {
        block *= 2;
    }
    return block;
}

/* -1 or 1: the top bit of MurmurHash3's finaliser of i + 1. */
SOURCE_FUNC double source_sign(size_t i)
{
    uint32_t h = (uint32_t)i + 1;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return h & 0x80000000u ? -1 : 1;
}

SOURCE_FUNC void source_rotate(double *x, size_t dims, int inverse)
{
    size_t block = source_hadamard_block(dims);
    for (size_t i = 0; i < dims; i++) {
        x[i] *= inverse ? 1 : source_sign(i);
    }
    for (size_t h = 1; h < block; h *= 2) {
        for (size_t i = 0; i < dims; i++) {
            if ((i & h) == 0) {
                double a = x[i];
                double b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
        }
    }
    for (size_t i = 0; i < dims; i++) {
        x[i] *= (inverse ? source_sign(i) : 1) / sqrt((double)block);
    }
}

/* RoPE of one pair in double: position times frequency, reduced in extended precision. */
SOURCE_FUNC void source_rope_pair(double *a, double *b, double position, double freq,
                                  double magnitude, int undo)
{
    double turn = 2 * SOURCE_PI;
    double angle = fmod(position * freq, turn) * (undo ? -1 : 1);
    double scale = undo ? 1 / magnitude : magnitude;
    double u = *a;
    double w = *b;
    *a = (u * cos(angle) - w * sin(angle)) * scale;
    *b = (w * cos(angle) + u * sin(angle)) * scale;
}

/* ---- the sample: SmolLM2-135M, layers 10 and 20 (data/README.md) ---- */
enum { SAMPLE_LAYERS = 2, SAMPLE_HEADS = 3, SAMPLE_TOKENS = 768, SAMPLE_DIMS = 64 };
enum { SAMPLE_QUERY_HEADS = 9, SAMPLE_QUERIES = 64, SAMPLE_SINKS = 4 };
enum { SAMPLE_COUNT = SAMPLE_LAYERS * SAMPLE_HEADS * SAMPLE_TOKENS * SAMPLE_DIMS };
enum { SAMPLE_QUERY_COUNT = SAMPLE_LAYERS * SAMPLE_QUERY_HEADS * SAMPLE_QUERIES * SAMPLE_DIMS };

/* `which`: k, v or q. Half floats behind a header of 128 bytes; exits when the file is not there.
*/
SOURCE_FUNC uint16_t *source_sample(const char *which, size_t count)
{
    char path[100];
    uint16_t *data = (uint16_t *)source_alloc(count * 2);
    snprintf(path, sizeof path, "tests/data/smollm2-135m-l10-l20-%s.npy", which);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 128, SEEK_SET) || fread(data, 2, count, file) != count) {
        fprintf(stderr, "%s: cannot be read (run from the repository's root)\n", path);
        exit(1);
    }
    fclose(file);
    return data;
}

/* RoPE frequencies of the sample: theta 100000. */
SOURCE_FUNC void source_sample_freqs(float *freqs)
{
    for (int i = 0; i < SAMPLE_DIMS / 2; i++) {
        freqs[i] = (float)pow(1e5, -i / 32.0);
    }
}

#endif
