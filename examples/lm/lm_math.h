/* lm_math.h - part of lm.c: threads, progress, the matrix product, the exponential

   Everything large is one kernel: a tile of LM_ROWS x LM_COLS sums held in registers. Its left
   operand lies as [k][LM_ROWS], its right operand as [k][LM_COLS]; weights are stored that way
   once, and so is the cache (see lm_cache.h), so nothing is rearranged between products. */
#ifndef LM_MATH_H
#define LM_MATH_H

#include <math.h>
#include <pthread.h>
#include <time.h>

#include "lm_gguf.h"

#if defined(__AVX512F__)
#define LM_LANES 16
#define LM_VECTORS 2
#elif defined(__AVX__)
#define LM_LANES 8
#define LM_VECTORS 1
#elif defined(__aarch64__)
#define LM_LANES 4
#define LM_VECTORS 2
#else
#define LM_LANES 4
#define LM_VECTORS 1
#endif

#define LM_ROWS 8
#define LM_COLS (LM_LANES * LM_VECTORS)

/* The compiler's own vectors (gcc and clang): loops over arrays leave the sums in memory. */
typedef float lm_vector __attribute__((vector_size(LM_LANES * 4)));

static size_t lm_round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static size_t lm__max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static double lm_seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- threads ---- */

typedef void (*lm_job)(void *context, size_t index, size_t worker);

typedef struct lm_pool {
    pthread_t *threads;
    size_t workers;
    pthread_mutex_t lock;
    pthread_cond_t start;
    pthread_cond_t done;
    lm_job job;
    void *context;
    size_t next;
    size_t count;
    size_t busy;
    size_t round;
    size_t started;
    int quit;
} lm_pool;

/* Takes indices one by one until none is left; the lock costs nothing beside a tile. */
static void lm__work(lm_pool *p, size_t worker)
{
    for (;;) {
        pthread_mutex_lock(&p->lock);
        size_t index = p->next < p->count ? p->next++ : p->count;
        pthread_mutex_unlock(&p->lock);
        if (index >= p->count) return;
        p->job(p->context, index, worker);
    }
}

static void *lm__thread(void *argument)
{
    lm_pool *p = (lm_pool *)argument;
    size_t round = 0;
    pthread_mutex_lock(&p->lock);
    size_t worker = ++p->started;
    for (;;) {
        while (p->round == round && !p->quit) {
            pthread_cond_wait(&p->start, &p->lock);
        }
        if (p->quit) break;
        round = p->round;
        pthread_mutex_unlock(&p->lock);
        lm__work(p, worker);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0) pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void lm_pool_open(lm_pool *p, size_t workers)
{
    memset(p, 0, sizeof *p);
    p->threads = (pthread_t *)lm_alloc(workers, sizeof *p->threads);
    if (pthread_mutex_init(&p->lock, NULL) != 0 || pthread_cond_init(&p->start, NULL) != 0 ||
        pthread_cond_init(&p->done, NULL) != 0) {
        lm_fail("cannot make threads");
    }
    size_t i;
    for (i = 1; i < workers; i++) {
        if (pthread_create(&p->threads[i], NULL, lm__thread, p) != 0) break;
    }
    p->workers = i;
}

static void lm_pool_close(lm_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->quit = 1;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 1; i < p->workers; i++) {
        (void)pthread_join(p->threads[i], NULL);
    }
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->start);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
}

/* Runs job(context, i, worker) for all i below count; returns when all are done. */
static void lm_parallel(lm_pool *p, lm_job job, void *context, size_t count)
{
    if (p->workers == 1 || count == 1) {
        for (size_t i = 0; i < count; i++) {
            job(context, i, 0);
        }
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->job = job;
    p->context = context;
    p->next = 0;
    p->count = count;
    p->busy = p->workers - 1;
    p->round++;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    lm__work(p, 0);
    pthread_mutex_lock(&p->lock);
    while (p->busy > 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

/* ---- chance ---- */

/* xorshift64*, to a number in [0, 1). */
static double lm_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (double)((*state * 2685821657736338717u) >> 11) * (1.0 / 9007199254740992.0);
}

/* A state for each stream of a seed, never 0 (splitmix64). */
static uint64_t lm_random_start(size_t seed, size_t stream)
{
    uint64_t z = (uint64_t)seed * 0x9e3779b97f4a7c15u + ((uint64_t)stream << 32) + 0x1234567;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) | 1;
}

/* ---- progress ---- */

typedef struct lm_progress {
    const char *what;
    double begin;
    double last;
    int shown;
} lm_progress;

static void lm_progress_begin(lm_progress *p, const char *what)
{
    p->what = what;
    p->begin = lm_seconds();
    p->last = p->begin;
    p->shown = 0;
}

/* Nothing in the first two seconds, and nothing where nobody looks. */
static void lm_progress_show(lm_progress *p, double part)
{
    double now = lm_seconds();
    if (now - p->begin < 2.0 || now - p->last < 0.2 || !isatty(2)) return;
    p->last = now;
    p->shown = 1;
    fprintf(stderr, "\r%s %3.0f %%, %.0f s left \033[K", p->what, 100.0 * part,
            (now - p->begin) * (1.0 - part) / (part > 0.001 ? part : 0.001));
    fflush(stderr);
}

static void lm_progress_end(lm_progress *p)
{
    if (p->shown) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
    }
}

/* ---- kernels ---- */

/* e^x to about 1e-7, clamped to the normal floats: 2^n times a polynomial on |r| <= ln(2) / 2.
   Branch-free, so that loops over it become vector code. */
static inline float lm_exp(float x)
{
    float n, r, y;
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    n = x * 1.44269504f + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &n, 4);
    n -= 12582912.0f;
    r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    y = 1.0f / 720.0f;
    y = y * r + 1.0f / 120.0f;
    y = y * r + 1.0f / 24.0f;
    y = y * r + 1.0f / 6.0f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    bits = (int32_t)((uint32_t)(bits - 0x4b400000 + 127) << 23);
    memcpy(&n, &bits, 4);
    return y * n;
}

/* out[m][j] = sum over k of left[k][m] * right[k][j], for a whole tile. Vectors go in and out one
   by one: a copy of the whole array would make gcc keep the sums in memory. */
static void lm_tile(float *out, const float *left, const float *right, size_t count)
{
    size_t k, m, j;
    lm_vector sum[LM_ROWS][LM_VECTORS];
    for (m = 0; m < LM_ROWS; m++) {
        for (j = 0; j < LM_VECTORS; j++) {
            sum[m][j] = (lm_vector){0};
        }
    }
    lm_vector w;
    for (k = 0; k < count; k++) {
        for (j = 0; j < LM_VECTORS; j++) {
            memcpy(&w, right + k * LM_COLS + j * LM_LANES, sizeof w);
            for (m = 0; m < LM_ROWS; m++) {
                sum[m][j] += left[k * LM_ROWS + m] * w;
            }
        }
    }
    for (m = 0; m < LM_ROWS; m++) {
        for (j = 0; j < LM_VECTORS; j++) {
            w = sum[m][j];
            memcpy(out + m * LM_COLS + j * LM_LANES, &w, sizeof w);
        }
    }
}

typedef float lm_eight __attribute__((vector_size(LM_ROWS * 4)));

/* out[b][j] = sum over k of x[k] * rows[b][k][j], for `blocks` blocks of LM_ROWS that lie `stride`
   floats apart. Four at a time, so that sums do not wait for each other. */
static void lm_blocks(float *out, const float *x, const float *rows, size_t stride, size_t count,
                      size_t blocks)
{
    size_t b, k;
    lm_eight w;
    for (b = 0; b + 4 <= blocks; b += 4) {
        const float *at = rows + b * stride;
        lm_eight s0 = {0};
        lm_eight s1 = {0};
        lm_eight s2 = {0};
        lm_eight s3 = {0};
        for (k = 0; k < count; k++, at += LM_ROWS) {
            memcpy(&w, at, sizeof w);
            s0 += x[k] * w;
            memcpy(&w, at + stride, sizeof w);
            s1 += x[k] * w;
            memcpy(&w, at + 2 * stride, sizeof w);
            s2 += x[k] * w;
            memcpy(&w, at + 3 * stride, sizeof w);
            s3 += x[k] * w;
        }
        memcpy(out + b * LM_ROWS, &s0, sizeof s0);
        memcpy(out + (b + 1) * LM_ROWS, &s1, sizeof s1);
        memcpy(out + (b + 2) * LM_ROWS, &s2, sizeof s2);
        memcpy(out + (b + 3) * LM_ROWS, &s3, sizeof s3);
    }
    for (; b < blocks; b++) {
        lm_eight sum = {0};
        for (k = 0; k < count; k++) {
            memcpy(&w, rows + b * stride + k * LM_ROWS, sizeof w);
            sum += x[k] * w;
        }
        memcpy(out + b * LM_ROWS, &sum, sizeof sum);
    }
}

/* ---- products ---- */

/* A weight matrix as panels of LM_COLS outputs: [panel][input][LM_COLS], zeros at the end; and what
   is added to the outputs, or NULL. */
typedef struct lm_matrix {
    size_t outputs;
    size_t inputs;
    float *panels;
    float *bias;
} lm_matrix;

/* out[token][output], the tokens stride floats apart. */
typedef struct lm_product {
    const lm_matrix *matrix;
    float *out;
    size_t stride;
} lm_product;

typedef struct lm__product_job {
    const lm_product *products;
    size_t tokens;
    const float *left;
} lm__product_job;

static void lm_matrix_free(lm_matrix *m)
{
    free(m->panels);
    free(m->bias);
}

static size_t lm_panels(const lm_matrix *m)
{
    return lm_round_up(m->outputs, LM_COLS) / LM_COLS;
}

static void lm__multiply_panel(void *context, size_t index, size_t worker)
{
    const lm__product_job *job = (const lm__product_job *)context;
    const lm_product *p = job->products;
    size_t t, m, j, width;
    (void)worker;
    while (index >= lm_panels(p->matrix)) {
        index -= lm_panels(p->matrix);
        p++;
    }
    width = p->matrix->outputs - index * LM_COLS;
    width = width < LM_COLS ? width : LM_COLS;
    const float *bias = p->matrix->bias;
    float tile[LM_ROWS * LM_COLS];
    for (t = 0; t < job->tokens; t += LM_ROWS) {
        lm_tile(tile, job->left + t * p->matrix->inputs,
                p->matrix->panels + index * p->matrix->inputs * LM_COLS, p->matrix->inputs);
        for (m = 0; m < LM_ROWS && t + m < job->tokens; m++) {
            float *out = p->out + (t + m) * p->stride + index * LM_COLS;
            memcpy(out, tile + m * LM_COLS, width * sizeof(float));
            for (j = 0; bias != NULL && j < width; j++) {
                out[j] += bias[index * LM_COLS + j];
            }
        }
    }
}

/* Tokens [tokens][inputs] into blocks of LM_ROWS tokens: [block][input][LM_ROWS]. */
static void lm__pack_left(float *dst, const float *x, size_t tokens, size_t inputs)
{
    size_t t, m, i;
    for (t = 0; t < tokens; t += LM_ROWS) {
        float *block = dst + t * inputs;
        for (m = 0; m < LM_ROWS; m++) {
            for (i = 0; i < inputs; i++) {
                block[i * LM_ROWS + m] = t + m < tokens ? x[(t + m) * inputs + i] : 0.0f;
            }
        }
    }
}

/* Several products of the same tokens; left holds round_up(tokens, LM_ROWS) * inputs floats. */
static void lm_multiply(lm_pool *pool, float *left, const float *x, size_t tokens,
                        const lm_product *products, size_t count)
{
    size_t panels = 0;
    lm__pack_left(left, x, tokens, products[0].matrix->inputs);
    for (size_t i = 0; i < count; i++) {
        panels += lm_panels(products[i].matrix);
    }
    lm__product_job job;
    job.products = products;
    job.tokens = tokens;
    job.left = left;
    lm_parallel(pool, lm__multiply_panel, &job, panels);
}

#endif
