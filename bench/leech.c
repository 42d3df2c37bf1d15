/* cc -O2 bench/leech.c -o leech -lm */

/* leech.c - the Golay code and the Leech lattice: times, and the quantizer's figure

   Thread CPU clock, the median of 11 runs of 4096 vectors of 24 uniform numbers, at each SIMD
   level; points written. "blocks" is the kernel alone, on q12 numbers with vectors in columns. */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LQ_STATIC
#define LQ_STATIC
#endif
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum { LB_VECTORS = 4096, LB_COUNT = 24 * LB_VECTORS, LB_RUNS = 11 };

static float lb_x[LB_COUNT];
static float lb_back[LB_COUNT];
static int16_t lb_points[LB_COUNT];
static int32_t lb_y[LB_COUNT];
static uint32_t lb_words[LB_VECTORS];
static uint16_t lb_messages[LB_VECTORS];

static double lb_now(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) exit(1);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int lb_order(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

/* splitmix64, upper 24 bits. */
static float lb_uniform(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((z ^ z >> 31) >> 40) / 16777216.0f;
}

static void lb_run(int what)
{
    static const lq__row_data none[24] = {{0, 0, {0, 0, 0, 0}, 0}};
    int status = LQ_OK;
    if (what == 0) status = lq_leech_nearest(lb_points, lb_x, LB_COUNT, 1.0f);
    if (what == 1) (void)lq__leech_of_level()(lb_points, lb_y, none, 1, LB_VECTORS);
    if (what == 2) status = lq_leech_point(lb_back, lb_points, LB_COUNT, 1.0f);
    if (what == 3) status = lq_golay_encode(lb_words, lb_messages, LB_VECTORS);
    if (what == 4) status = lq_golay_decode(lb_messages, NULL, lb_words, LB_VECTORS);
    if (what == 5) status = lq_golay_decode_soft(lb_messages, lb_y, LB_VECTORS);
    if (status) exit(1);
}

static double lb_median(int what)
{
    double ns[LB_RUNS];
    for (int i = 0; i < LB_RUNS; i++) {
        double start = lb_now();
        lb_run(what);
        ns[i] = (lb_now() - start) / LB_VECTORS;
    }
    qsort(ns, LB_RUNS, sizeof ns[0], lb_order);
    return ns[LB_RUNS / 2];
}

int main(void)
{
    static const char *const names[3] = {"C", "AVX2 or NEON", "AVX-512"};
    uint64_t state = 1;
    double sum = 0;
    int levels = lq_cpu_limit(-1);
    for (int i = 0; i < LB_COUNT; i++) {
        lb_x[i] = lb_uniform(&state) * 64 - 32;
        lb_y[i] = (int32_t)(lb_x[i] * 2.8284271f * 4096);
    }
    printf("%-14s %12s %12s %12s  xxh32 of the points\n", "ns a vector", "nearest", "blocks",
           "point");
    for (int level = 0; level <= levels; level++) {
        lq_cpu_limit(level);
        double blocks = lb_median(1), nearest = lb_median(0), point = lb_median(2);
        printf("%-14s %12.1f %12.1f %12.1f  %08x\n", names[level], nearest, blocks, point,
               (unsigned)lq_xxh32(lb_points, sizeof lb_points, 0));
    }
    double encode = lb_median(3);
    for (uint32_t i = 0; i < LB_VECTORS; i++) { /* up to three errors, in most of them three */
        lb_words[i] ^= (1u << i % 24) | (1u << i % 23) | (1u << i % 19);
    }
    printf("Golay: encode %.1f ns, decode %.0f ns (3 errors), soft %.0f ns\n", encode, lb_median(4),
           lb_median(5));
    for (int i = 0; i < LB_COUNT; i++) {
        double d = (double)lb_x[i] - (double)lb_back[i];
        sum += d * d;
    }
    printf("squared error %.5f (0.06577)\n", sum / LB_COUNT);
    return 0;
}
