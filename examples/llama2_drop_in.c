/* cc -O2 examples/llama2_drop_in.c -o llama2_drop_in -lm */
/* A transformer in the shape of Karpathy's llama2.c (run.c), with its two float arrays of keys and
   values, and with lq_kv in their place: what changes is the block marked "drop in". The weights
   are random numbers, so the text is noise; what is compared is how far the two caches agree. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 256, HIDDEN = 512, LAYERS = 4, HEADS = 8, KV_HEADS = 4, VOCAB = 512, STEPS = 512 };
enum { HEAD = DIM / HEADS, KV_DIM = HEAD * KV_HEADS, GROUP = HEADS / KV_HEADS };

typedef struct weights {
    float embedding[VOCAB * DIM];
    float wq[LAYERS][DIM * DIM], wk[LAYERS][KV_DIM * DIM], wv[LAYERS][KV_DIM * DIM];
    float wo[LAYERS][DIM * DIM];
    float w1[LAYERS][HIDDEN * DIM], w2[LAYERS][DIM * HIDDEN], w3[LAYERS][HIDDEN * DIM];
} weights;

typedef struct state {
    float x[DIM], xb[DIM], xb2[DIM], hb[HIDDEN], hb2[HIDDEN], q[DIM], k[KV_DIM], v[KV_DIM];
    float att[STEPS], logits[VOCAB];
    float *key_cache, *value_cache; /* (LAYERS, STEPS, KV_DIM): NULL with the drop-in */
    lq_kv kv;                       /* {0} without */
} state;

static void matmul(float *out, const float *x, const float *w, int n, int d)
{
    int i, j;
    for (i = 0; i < d; i++) {
        float sum = 0;
        for (j = 0; j < n; j++) {
            sum += w[i * n + j] * x[j];
        }
        out[i] = sum;
    }
}

static void rmsnorm(float *out, const float *x)
{
    float sum = 0;
    for (int i = 0; i < DIM; i++) {
        sum += x[i] * x[i];
    }
    for (int i = 0; i < DIM; i++) {
        out[i] = x[i] / sqrtf(sum / DIM + 1e-5f);
    }
}

static void rope(float *x, int count, int pos)
{
    for (int i = 0; i < count; i += 2) {
        float angle = (float)pos * powf(10000.0f, -(float)(i % HEAD) / HEAD);
        float a = x[i], b = x[i + 1];
        x[i] = a * cosf(angle) - b * sinf(angle);
        x[i + 1] = a * sinf(angle) + b * cosf(angle);
    }
}

/* llama2.c's attention over its two arrays. */
static void attend_floats(state *s, int l, int pos)
{
    size_t at = ((size_t)l * STEPS + (size_t)pos) * KV_DIM;
    int h, t, i;
    memcpy(s->key_cache + at, s->k, sizeof s->k);
    memcpy(s->value_cache + at, s->v, sizeof s->v);
    for (h = 0; h < HEADS; h++) {
        const float *q = s->q + h * HEAD;
        float *out = s->xb + h * HEAD;
        float most = -1e30f, sum = 0;
        for (t = 0; t <= pos; t++) {
            const float *k = s->key_cache + ((size_t)l * STEPS + (size_t)t) * KV_DIM;
            s->att[t] = 0;
            for (i = 0; i < HEAD; i++) {
                s->att[t] += q[i] * k[h / GROUP * HEAD + i];
            }
            s->att[t] /= sqrtf(HEAD);
            most = s->att[t] > most ? s->att[t] : most;
        }
        memset(out, 0, HEAD * sizeof *out);
        for (t = 0; t <= pos; t++) {
            sum += s->att[t] = expf(s->att[t] - most);
        }
        for (t = 0; t <= pos; t++) {
            const float *v = s->value_cache + ((size_t)l * STEPS + (size_t)t) * KV_DIM;
            for (i = 0; i < HEAD; i++) {
                out[i] += s->att[t] / sum * v[h / GROUP * HEAD + i];
            }
        }
    }
}

/* The drop in: the same with lq_kv. Returns a status. */
static int attend_lq(state *s, int l)
{
    lq_kv_view k = {s->k, 0, 0, 0}, v = {s->v, 0, 0, 0};
    lq_kv_attend_desc a = {0};
    int status = lq_kv_append(&s->kv, (uint32_t)l, &k, &v, NULL, 1);
    a.layer = (uint32_t)l;
    a.heads = HEADS;
    a.q.data = s->q;
    a.out.data = s->xb;
    return status == LQ_OK ? lq_kv_attend(&s->kv, &a) : status;
}

static int forward(state *s, const weights *w, int token, int pos)
{
    int l, i;
    memcpy(s->x, w->embedding + token * DIM, sizeof s->x);
    for (l = 0; l < LAYERS; l++) {
        rmsnorm(s->xb, s->x);
        matmul(s->q, s->xb, w->wq[l], DIM, DIM);
        matmul(s->k, s->xb, w->wk[l], DIM, KV_DIM);
        matmul(s->v, s->xb, w->wv[l], DIM, KV_DIM);
        rope(s->q, DIM, pos);
        rope(s->k, KV_DIM, pos);
        if (s->key_cache) {
            attend_floats(s, l, pos);
        } else if (attend_lq(s, l) != LQ_OK) { /* drop in */
            return 0;
        }
        matmul(s->xb2, s->xb, w->wo[l], DIM, DIM);
        for (i = 0; i < DIM; i++) {
            s->x[i] += s->xb2[i];
        }
        rmsnorm(s->xb, s->x);
        matmul(s->hb, s->xb, w->w1[l], DIM, HIDDEN);
        matmul(s->hb2, s->xb, w->w3[l], DIM, HIDDEN);
        for (i = 0; i < HIDDEN; i++) {
            s->hb[i] *= s->hb2[i] / (1 + expf(-s->hb[i]));
        }
        matmul(s->xb2, s->hb, w->w2[l], HIDDEN, DIM);
        for (i = 0; i < DIM; i++) {
            s->x[i] += s->xb2[i];
        }
    }
    rmsnorm(s->x, s->x);
    matmul(s->logits, s->x, w->embedding, DIM, VOCAB);
    return 1;
}

static int best(const float *logits)
{
    int i, top = 0;
    for (i = 1; i < VOCAB; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    return top;
}

/* Llama-like statistics, roughly: a strong residual stream and attention that looks somewhere. */
static void make_weights(weights *w)
{
    float *all = (float *)w;
    for (size_t i = 0; i < sizeof *w / sizeof(float); i++) {
        all[i] = (2.0f * (float)rand() / (float)RAND_MAX - 1.0f) * sqrtf(3.0f / DIM);
    }
    for (size_t i = 0; i < VOCAB * DIM; i++) {
        w->embedding[i] *= 16.0f;
    }
    for (size_t i = 0; i < (size_t)LAYERS * DIM * DIM; i++) {
        w->wq[i / (DIM * DIM)][i % (DIM * DIM)] *= 3.0f;
    }
}

/* Both caches side by side. */
static int compare(const char *name, const weights *w, int kind, int bits)
{
    state *a = (state *)calloc(1, sizeof *a), *b = (state *)calloc(1, sizeof *b);
    lq_kv_desc desc = {0};
    size_t count = (size_t)LAYERS * STEPS * KV_DIM, i;
    double error = 0, power = 0;
    int pos, token = 1, same = 0;
    desc.layers = LAYERS; /* drop in: instead of two callocs */
    desc.kv_heads = KV_HEADS;
    desc.k_dims = HEAD;
    desc.tokens = STEPS;
    desc.k.kind = desc.v.kind = kind;
    desc.k.bits = desc.v.bits = bits;
    void *mem = malloc(lq_kv_bytes(&desc));
    if (!a || !b || lq_kv_init(&b->kv, mem, lq_kv_bytes(&desc), &desc) != LQ_OK) return 0;
    a->key_cache = (float *)calloc(count, sizeof(float)); /* llama2.c's malloc_run_state */
    a->value_cache = (float *)calloc(count, sizeof(float));
    if (!a->key_cache || !a->value_cache) return 0;
    for (pos = 0; pos < STEPS; pos++) {
        if (!forward(a, w, token, pos) || !forward(b, w, token, pos)) return 0;
        same += best(a->logits) == best(b->logits);
        for (i = 0; i < VOCAB; i++) {
            error += pow((double)(a->logits[i] - b->logits[i]), 2);
            power += pow((double)a->logits[i], 2);
        }
        token = (token * 31 + 7 + (best(a->logits) & 1)) % VOCAB;
    }
    printf("%s: the same best token %.1f %%, relative error of logits %.4f, %lu bytes "
           "(floats: %lu)\n",
           name, 100.0 * same / STEPS, sqrt(error / power), (unsigned long)lq_kv_bytes(&desc),
           (unsigned long)(2 * count * sizeof(float)));
    free(a->key_cache);
    free(a->value_cache);
    free(mem);
    free(a);
    free(b);
    return 1;
}

int main(void)
{
    weights *w = (weights *)malloc(sizeof *w);
    if (!w) return 1;
    make_weights(w);
    return !(compare("raw f16    ", w, LQ_KV_RAW, 0) && compare("hot, 8 bits", w, LQ_KV_HOT, 8) &&
             compare("hot, 4 bits", w, LQ_KV_HOT, 4));
}
