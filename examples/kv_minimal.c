/* cc -O2 examples/kv_minimal.c -o kv_minimal -lm */
/* The live cache in thirty lines: append, attend, and the error against exact attention. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 2, DIMS = 64, ROW = HEADS * DIMS, TOKENS = 1000 };

static float k[TOKENS][ROW], v[TOKENS][ROW], q[ROW], out[ROW];

int main(void)
{
    lq_kv_desc desc = {0}; /* 4 sinks, the last 64 tokens raw, the others in 4 bits */
    lq_kv_attend_desc attend = {0};
    lq_kv_account account;
    lq_kv kv;
    double error = 0, power = 0;
    size_t t, i, h;
    desc.layers = 1;
    desc.kv_heads = HEADS;
    desc.k_dims = DIMS;
    desc.tokens = TOKENS;
    if (lq_kv_init(&kv, malloc(lq_kv_bytes(&desc)), lq_kv_bytes(&desc), &desc) != LQ_OK) {
        return 1;
    }
    for (t = 0; t < TOKENS; t++) { /* what a model would make */
        lq_kv_view key = {0}, value = {0};
        for (i = 0; i < ROW; i++) {
            k[t][i] = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f + (t ? 0.7f * k[t - 1][i] : 0);
            v[t][i] = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
            q[i] = k[t][i];
        }
        key.data = k[t];
        value.data = v[t];
        if (lq_kv_append(&kv, 0, &key, &value, NULL, 1) != LQ_OK) {
            return 1;
        }
    }
    attend.heads = HEADS; /* layer 0, one query token */
    attend.q.data = q;
    attend.out.data = out;
    if (lq_kv_attend(&kv, &attend) != LQ_OK || lq_kv_stats(&kv, &account) != LQ_OK) {
        return 1;
    }
    for (h = 0; h < HEADS; h++) { /* the same in floats */
        double exact[DIMS] = {0}, sum = 0;
        for (t = 0; t < TOKENS; t++) {
            double p = 0;
            for (i = 0; i < DIMS; i++) {
                p += (double)q[h * DIMS + i] * (double)k[t][h * DIMS + i];
            }
            p = exp(p / sqrt(DIMS));
            sum += p;
            for (i = 0; i < DIMS; i++) {
                exact[i] += p * (double)v[t][h * DIMS + i];
            }
        }
        for (i = 0; i < DIMS; i++) {
            error += pow(exact[i] / sum - (double)out[h * DIMS + i], 2);
            power += pow(exact[i] / sum, 2);
        }
    }
    printf("attention over %d tokens: relative error %.4f; %lu bytes in use (%.2f bits a number), "
           "f16 takes %lu\n",
           TOKENS, sqrt(error / power), (unsigned long)account.used_bytes, (double)account.bits,
           (unsigned long)account.f16_bytes);
    return 0;
}
