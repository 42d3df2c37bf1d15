/* cc -O2 examples/quantize_weights.c -o quantize_weights -lm */

/* quantize_weights.c - a weight matrix in 2 bits a number: LLVQ, the E8 ball, Z

       ./quantize_weights                           a Gaussian matrix
       ./quantize_weights M.gguf                    the first matrix that has enough columns
       ./quantize_weights M.gguf blk.3.ffn_up.weight

   Each row has a scale, its root mean square in half a float, which is counted. Error: the squared
   error over the sum of squares. "rotated" is behind lq_rotate_f32, which makes weights Gaussian
   whose rows have numbers of unlike size; a decoder rotates back, or rotates activations. A model
   needs more than this: errors that follow one another, as GPTQ feeds them on. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" /* of lm_gguf.h */
#endif

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "lm/lm_gguf.h"

enum { QW_ROWS = 256, QW_LLVQ = 0, QW_E8, QW_Z, QW_FORMS };

static void qw_must(int status)
{
    if (status) lm_fail("%s", lq_status_string(status));
}

typedef struct qw_sum {
    double error;
    double power;
    double bytes;
    double seconds;
} qw_sum;

/* A row there and back; returns its bytes. */
static size_t qw_row(float *back, uint8_t *code, const float *x, size_t cols, int form,
                     const lq_llvq *llvq)
{
    size_t bytes = cols * 4;
    double power = 0;
    if (form == QW_Z) {
        size_t need = lq_quantize_row_bytes(cols, LQ_Z, 2);
        qw_must(lq_quantize(code, bytes, x, 1, cols, LQ_F32, LQ_Z, 2));
        qw_must(lq_dequantize(back, bytes, LQ_F32, code, need, 1, cols, LQ_Z, 2));
        return need;
    }
    for (size_t i = 0; i < cols; i++) {
        power += (double)x[i] * (double)x[i];
    }
    float sigma = lq_f32_from_f16(lq_f16_from_f32((float)sqrt(power / (double)cols)));
    sigma = sigma > 0 ? sigma : 1.0f / 65536;
    size_t each = form == QW_LLVQ ? cols : 8; /* eights take the E8 ball */
    for (size_t i = 0; i < cols; i += each) {
        qw_must(lq_llvq_encode(llvq, code + i / 4, bytes - i / 4, x + i, each, sigma));
        qw_must(lq_llvq_decode(llvq, back + i, code + i / 4, bytes - i / 4, each, sigma));
    }
    return 2 + (form == QW_LLVQ ? lq_llvq_encode_bytes(llvq, cols) : cols / 4);
}

static void qw_matrix(const float *x, size_t rows, size_t cols, const char *how)
{
    static const char *const names[QW_FORMS] = {"LLVQ 47 + 1", "E8 ball", "Z"};
    const lq_llvq *llvq;
    void *mem = lm_alloc(lq_llvq_bytes(), 1);
    float *back = (float *)lm_alloc(cols, sizeof *back);
    uint8_t *code = (uint8_t *)lm_alloc(cols, 4);
    qw_must(lq_llvq_init(&llvq, mem, lq_llvq_bytes(), NULL));
    for (int form = 0; form < QW_FORMS; form++) {
        qw_sum s = {0, 0, 0, 0};
        clock_t start = clock();
        for (size_t r = 0; r < rows; r++) {
            s.bytes += (double)qw_row(back, code, x + r * cols, cols, form, llvq);
            for (size_t i = 0; i < cols; i++) {
                double d = (double)x[r * cols + i] - (double)back[i];
                s.error += d * d;
                s.power += (double)x[r * cols + i] * (double)x[r * cols + i];
            }
        }
        s.seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        printf("%-12s %-8s %7.4f bits, error %.5f, %6.0f ns a number\n", names[form], how,
               8 * s.bytes / (double)(rows * cols), s.error / s.power,
               1e9 * s.seconds / (double)(rows * cols));
    }
    free(code);
    free(back);
    free(mem);
}

/* The tensor of that name; NULL: the first that is a matrix of a multiple of 8 columns. */
static const lm_tensor *qw_find(const lm_gguf *g, const char *name)
{
    for (size_t i = 0; i < g->tensor_count; i++) {
        const lm_tensor *t = &g->tensors[i];
        if (name ? lm_same(t->name, name) : t->rows > 1 && t->cols % 8 == 0 && t->cols > 64) {
            return t;
        }
    }
    lm_fail("%s: no such matrix", g->path);
}

int main(int argc, char **argv)
{
    size_t rows = QW_ROWS, cols = 1000;
    float *x = NULL;
    if (argc > 1) {
        lm_gguf g;
        lm_gguf_open(&g, argv[1]);
        lm_gguf_tensors(&g);
        const lm_tensor *t = qw_find(&g, argc > 2 ? argv[2] : NULL);
        if (t->cols % 8 || t->cols > 65536) lm_fail("columns: a multiple of 8, up to 65536");
        rows = t->rows < QW_ROWS ? t->rows : QW_ROWS;
        cols = t->cols;
        x = (float *)lm_alloc(rows * cols, sizeof *x);
        for (size_t r = 0; r < rows; r++) {
            lm_tensor_row(x + r * cols, t, r * (t->rows / rows));
        }
        printf("%.*s: %zu of %zu rows of %zu\n", (int)t->name.count, (const char *)t->name.at, rows,
               t->rows, cols);
        lm_gguf_close(&g);
    } else {
        x = (float *)lm_alloc(rows * cols, sizeof *x);
        for (size_t i = 0; i < rows * cols; i++) { /* about Gaussian */
            for (int k = 0; k < 12; k++) {
                x[i] += (float)rand() / (float)RAND_MAX - 0.5f;
            }
        }
    }
    qw_matrix(x, rows, cols, "as it is");
    qw_must(lq_rotate_f32(x, rows, cols));
    qw_matrix(x, rows, cols, "rotated");
    free(x);
    return 0;
}
