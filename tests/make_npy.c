/* cc -std=c99 -O2 tests/make_npy.c -o make_npy -lm    Keys, values and queries of a made-up model.

   make_npy PREFIX K_BIAS V_BIAS: 8 layers of 2 heads, for pack_kv and calibrate, as PREFIX-k.npy,
   -v.npy, -q.npy. The keys (before RoPE) and values of layer 0 have biases of these norms on 8
   channels of each head; whatever these are, all other numbers are the same. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 8, HEADS = 2, TOKENS = 644, QUERIES = 64, DIM = 64, FACTORS = 6 };

static uint32_t state;

/* Nearly Gaussian, variance 1. */
static double gauss(void)
{
    double sum = 0.0;
    int i;
    for (i = 0; i < 12; i++) {
        state = state * 1664525u + 1013904223u;
        sum += (double)(state >> 8) / 16777216.0;
    }
    return sum - 6.0;
}

static void rotate(float *x, int position)
{
    int i;
    for (i = 0; i < DIM / 2; i++) {
        double angle = position * pow(1e5, -2.0 * i / DIM);
        double a = (double)x[i];
        double b = (double)x[i + DIM / 2];
        x[i] = (float)(a * cos(angle) - b * sin(angle));
        x[i + DIM / 2] = (float)(b * cos(angle) + a * sin(angle));
    }
}

static FILE *begin(const char *prefix, const char *what, int tokens)
{
    char name[1024];
    char front[128];
    FILE *file;
    int n;
    (void)snprintf(name, sizeof name, "%s-%s.npy", prefix, what);
    file = fopen(name, "wb");
    if (!file) {
        perror(name);
        exit(1);
    }
    memset(front, ' ', sizeof front);
    memcpy(front, "\223NUMPY\001\000\166\000", 10);
    n = snprintf(front + 10, sizeof front - 10,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d, %d), }", LAYERS,
                 HEADS, tokens, DIM);
    front[10 + n] = ' ';
    front[127] = '\n';
    (void)fwrite(front, 1, sizeof front, file);
    return file;
}

static void put(FILE *file, const float *x)
{
    int i;
    for (i = 0; i < DIM; i++) {
        uint32_t u;
        uint8_t b[4];
        memcpy(&u, x + i, 4);
        b[0] = (uint8_t)u;
        b[1] = (uint8_t)(u >> 8);
        b[2] = (uint8_t)(u >> 16);
        b[3] = (uint8_t)(u >> 24);
        (void)fwrite(b, 1, 4, file);
    }
}

/* Keys (kind 0), values (1) or queries (2) of a head: few factors and some noise, so that a basis
   of their own pays, scaled by layer; tokens of values have sizes of their own. */
static void head(FILE *file, int kind, int layer, double bias, int tokens)
{
    double scale = 0.3 + 0.4 * layer;
    double load[FACTORS][DIM];
    float x[DIM];
    int t, d, f;
    for (f = 0; f < FACTORS; f++) {
        for (d = 0; d < DIM; d++) {
            load[f][d] = gauss() * exp2(-f / 4.0);
        }
    }
    for (t = 0; t < tokens; t++) {
        double factor[FACTORS];
        double size = scale * (kind == 1 ? exp2(0.5 * gauss()) : 1.0);
        for (f = 0; f < FACTORS; f++) {
            factor[f] = gauss();
        }
        for (d = 0; d < DIM; d++) {
            double sum = 0.15 * gauss();
            for (f = 0; f < FACTORS; f++) {
                sum += load[f][d] * factor[f];
            }
            x[d] = (float)(size * sum + (d % 8 == 3 ? bias / sqrt(8.0) : 0.0));
        }
        if (kind != 1) {
            rotate(x, kind == 2 ? TOKENS - QUERIES + t : t);
        }
        put(file, x);
    }
}

int main(int argc, char **argv)
{
    static const char *const what[3] = {"k", "v", "q"};
    int kind, layer, h;
    if (argc != 4) {
        (void)fprintf(stderr, "usage: make_npy PREFIX K_BIAS V_BIAS\n");
        return 1;
    }
    for (kind = 0; kind < 3; kind++) {
        int tokens = kind == 2 ? QUERIES : TOKENS;
        FILE *file = begin(argv[1], what[kind], tokens);
        state = (uint32_t)kind;
        for (layer = 0; layer < LAYERS; layer++) {
            double bias = layer || kind == 2 ? 0.0 : atof(argv[2 + kind]);
            for (h = 0; h < HEADS; h++) {
                head(file, kind, layer, bias, tokens);
            }
        }
        if (fclose(file) != 0) {
            return 1;
        }
    }
    return 0;
}
