/* cc -O2 examples/kv_minimal.c -o kv_minimal -lm */
/* The live cache: append, attend, and the error against exact attention. */
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
    double error = 0, power = 0;
    size_t t, i, h;
    desc.layers = 1;
    desc.kv_heads = HEADS;
    desc.k_dims = DIMS;
    desc.tokens = TOKENS;
    lq_kv kv;
    int status = lq_kv_init(&kv, malloc(lq_kv_bytes(&desc)), lq_kv_bytes(&desc), &desc);
    for (t = 0; t < TOKENS && !status; t++) {
        lq_kv_view key = {k[t], 0, 0, 0}, value = {v[t], 0, 0, 0}; /* what a model would make */
        for (i = 0; i < ROW; i++) {
            k[t][i] = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f + (t ? 0.7f * k[t - 1][i] : 0);
            v[t][i] = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
            q[i] = k[t][i];
        }
        status = lq_kv_append(&kv, 0, &key, &value, NULL, 1);
    }
    attend.heads = HEADS; /* layer 0, one query token */
    attend.q.data = q;
    attend.out.data = out;
    lq_kv_account account;
    if (status || lq_kv_attend(&kv, &attend) || lq_kv_stats(&kv, &account)) return 1;
    for (h = 0; h < HEADS; h++) { /* the same in floats */
        double exact[DIMS] = {0}, sum = 0;
        for (t = 0; t < TOKENS; t++) {
            double p = 0;
            for (i = 0; i < DIMS; i++) p += (double)q[h * DIMS + i] * (double)k[t][h * DIMS + i];
            p = exp(p / sqrt(DIMS));
            sum += p;
            for (i = 0; i < DIMS; i++) exact[i] += p * (double)v[t][h * DIMS + i];
        }
        for (i = 0; i < DIMS; i++) {
            error += pow(exact[i] / sum - (double)out[h * DIMS + i], 2);
            power += pow(exact[i] / sum, 2);
        }
    }
    printf("attention over %d tokens: relative error %.4f; %lu bytes in use (%.2f bits a number)\n",
           TOKENS, sqrt(error / power), (unsigned long)account.used_bytes, (double)account.bits);
    return 0;
}
