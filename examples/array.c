/* cc -O2 examples/array.c -o array -lm */
/* An array in two calls each way: lq_compress (entropy coded, one piece of bytes) and lq_quantize
   (a fixed number of bytes a row, each row readable on its own). */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 1000, DIMS = 128, COUNT = ROWS * DIMS };

static float x[COUNT], y[COUNT];

static void report(const char *name, size_t bytes, int status)
{
    double error = 0, power = 0;
    for (int i = 0; i < COUNT; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        power += (double)x[i] * (double)x[i];
    }
    printf("%s: %s, %.3f bits a number, relative error %.4f\n", name, lq_status_string(status),
           8.0 * (double)bytes / COUNT, sqrt(error / power));
}

int main(void)
{
    lq_compress_desc desc = {0}; /* 4 bits a number, entropy coded; or: */
    size_t bound = lq_compress_bound(ROWS, DIMS, LQ_F32);
    size_t work_bytes, bytes, row_bytes = lq_quantize_row_bytes(DIMS, LQ_E8, 4);
    unsigned char *packed = (unsigned char *)malloc(bound), *rows;
    int status, i, k;
    desc.quantizer = LQ_E8;
    desc.bits = 3;
    for (i = 0; i < COUNT; i++) { /* about Gaussian */
        for (k = 0; k < 12; k++) {
            x[i] += (float)rand() / (float)RAND_MAX - 0.5f;
        }
    }
    work_bytes = lq_compress_workspace_bytes(ROWS, DIMS, LQ_F32, &desc);
    void *work = malloc(work_bytes); /* decoding takes less */
    status = lq_compress(packed, bound, &bytes, x, ROWS, DIMS, LQ_F32, &desc, work, work_bytes);
    if (!status) {
        status = lq_decompress(y, sizeof y, LQ_F32, packed, bytes, NULL, work, work_bytes);
    }
    report("lq_compress", bytes, status);

    rows = (unsigned char *)malloc(ROWS * row_bytes);
    i = lq_quantize(rows, ROWS * row_bytes, x, ROWS, DIMS, LQ_F32, LQ_E8, 4);
    if (!i) {
        i = lq_dequantize(y, sizeof y, LQ_F32, rows, ROWS * row_bytes, ROWS, DIMS, LQ_E8, 4);
    }
    report("lq_quantize", ROWS * row_bytes, i);
    return status || i;
}
