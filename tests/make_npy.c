/* cc -std=c99 -O2 tests/make_npy.c -o make_npy -lm    Keys, values and queries of a made-up model.

   make_npy as DESCR ORDER AXES IN OUT: the numbers of IN (f2, f4 or V2, little-endian, C order, 4
   axes) as another .npy: DESCR its dtype (bf16 cuts bits off), ORDER C or F, AXES 3 (one layer), 4,
   or 5 with the batch in front of the layers, 6 behind them.

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
    for (int i = 0; i < 12; i++) {
        state = state * 1664525u + 1013904223u;
        sum += (double)(state >> 8) / 16777216.0;
    }
    return sum - 6.0;
}

static void rotate(float *x, int position)
{
    for (int i = 0; i < DIM / 2; i++) {
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
    (void)snprintf(name, sizeof name, "%s-%s.npy", prefix, what);
    FILE *file = fopen(name, "wb");
    if (!file) {
        perror(name);
        exit(1);
    }
    char front[128];
    memset(front, ' ', sizeof front);
    memcpy(front, "\223NUMPY\001\000\166\000", 10);
    int n = snprintf(front + 10, sizeof front - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d, %d), }",
                     LAYERS, HEADS, tokens, DIM);
    front[10 + n] = ' ';
    front[127] = '\n';
    (void)fwrite(front, 1, sizeof front, file);
    return file;
}

static void put(FILE *file, const float *x)
{
    for (int i = 0; i < DIM; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        uint8_t b[4];
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
    int t, d, f;
    double load[FACTORS][DIM];
    for (f = 0; f < FACTORS; f++) {
        for (d = 0; d < DIM; d++) {
            load[f][d] = gauss() * exp2(-f / 4.0);
        }
    }
    float x[DIM];
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
        if (kind != 1) rotate(x, kind == 2 ? TOKENS - QUERIES + t : t);
        put(file, x);
    }
}

/* ---- other forms of a file ---- */

static uint32_t bits_of_half(uint32_t h)
{
    double x = (h & 0x7c00u) ? ldexp((double)((h & 0x3ffu) | 0x400u), (int)(h >> 10 & 31u) - 25)
                             : ldexp((double)(h & 0x3ffu), -24);
    float y = (float)(h & 0x8000u ? -x : x);
    uint32_t u;
    memcpy(&u, &y, 4);
    return u;
}

/* Of a number that f16 holds and is not below its normal ones: as subnormal or 0 otherwise. */
static uint32_t half_of_bits(uint32_t u)
{
    uint32_t sign = u >> 16 & 0x8000u;
    uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude >= 0x38800000u) return sign | (magnitude - 0x38000000u) >> 13;
    float y;
    memcpy(&y, &magnitude, 4);
    return sign | (uint32_t)ldexp((double)y, 24);
}

/* The number with f32's bits u in the type that ends descr. */
static size_t form(uint8_t *dst, const char *descr, uint32_t u)
{
    size_t bytes = strchr(descr, '8') ? 8 : strchr(descr, '4') ? 4 : 2;
    uint64_t all = u;
    float y;
    memcpy(&y, &u, 4);
    double wide = (double)y;
    if (bytes == 8) {
        memcpy(&all, &wide, 8);
    } else if (bytes == 2) {
        all = strstr(descr, "f2") ? half_of_bits(u) : u >> 16;
    }
    for (size_t i = 0; i < bytes; i++) {
        dst[descr[0] == '>' ? bytes - 1 - i : i] = (uint8_t)(all >> (8 * i));
    }
    return bytes;
}

/* f32's bits of number i. */
static uint32_t number(const uint8_t *p, const char *descr, size_t i)
{
    if (descr[2] == '4') {
        p += 4 * i;
        return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    p += 2 * i;
    return descr[1] == 'f' ? bits_of_half(p[0] | (uint32_t)p[1] << 8)
                           : (p[0] | (uint32_t)p[1] << 8) << 16;
}

/* argv: DESCR ORDER AXES IN OUT */
static int convert(char **argv)
{
    static uint8_t data[1 << 22];
    char front[256], shape[100], descr[4];
    size_t at[4], i, count;
    FILE *in = fopen(argv[3], "rb");
    FILE *out = fopen(argv[4], "wb");
    size_t got = in && out ? fread(data, 1, sizeof data - 1, in) : 0;
    unsigned long n[4];
    int used = got > 128 ? sscanf((char *)data + 10,
                                  "{'descr': '%3[^']', 'fortran_order': False, "
                                  "'shape': (%lu, %lu, %lu, %lu)",
                                  descr, &n[0], &n[1], &n[2], &n[3])
                         : 0;
    if (used != 5) {
        (void)fprintf(stderr, "make_npy: %s is not a file of 4 axes\n", argv[3]);
        return 1;
    }
    const uint8_t *p = data + 10 + (data[8] | (size_t)data[9] << 8);
    count = n[0] * n[1] * n[2] * n[3];
    if (argv[2][0] == '3') {
        (void)snprintf(shape, sizeof shape, "%lu, %lu, %lu", n[1], n[2], n[3]);
    } else {
        (void)snprintf(shape, sizeof shape, "%s%lu, %s%lu, %lu, %lu",
                       argv[2][0] == '5' ? "1, " : "", n[0], argv[2][0] == '6' ? "1, " : "", n[1],
                       n[2], n[3]);
    }
    (void)snprintf(front, sizeof front, "{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }",
                   argv[0], argv[1][0] == 'F' ? "True" : "False", shape);
    (void)fwrite("\223NUMPY\001\000\166\000", 1, 10, out);
    (void)fprintf(out, "%-117s\n", front);
    for (i = 0; i < count; i++) { /* the number at i in the file is at these places */
        size_t rest = i, j;
        for (j = 0; j < 4; j++) {
            size_t axis = argv[1][0] == 'F' ? j : 3 - j;
            at[axis] = rest % n[axis];
            rest /= n[axis];
        }
        rest = ((at[0] * n[1] + at[1]) * n[2] + at[2]) * n[3] + at[3];
        uint8_t bytes[8];
        (void)fwrite(bytes, 1, form(bytes, argv[0], number(p, descr, rest)), out);
    }
    (void)fclose(in);
    return fclose(out) != 0;
}

int main(int argc, char **argv)
{
    static const char *const what[3] = {"k", "v", "q"};
    int kind, layer, h;
    if (argc == 7 && !strcmp(argv[1], "as")) return convert(argv + 2);
    if (argc != 4) {
        (void)fprintf(stderr, "usage: make_npy PREFIX K_BIAS V_BIAS\n"
                              "       make_npy as DESCR ORDER AXES IN OUT\n");
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
        if (fclose(file) != 0) return 1;
    }
    return 0;
}
