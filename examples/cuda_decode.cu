/* nvcc -O3 -arch=sm_90 examples/cuda_decode.cu -o cuda_decode && ./cuda_decode
   A layer's cache on the GPU: a prompt is appended, one token more is, and its query attends to
   all. The CPU's cache gets the same vectors; attention to what it reads back, in doubles, is the
   reference. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"
#define LATTICEQUANT_CUDA_IMPLEMENTATION
#include "../latticequant_cuda.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { KV_HEADS = 8, HEADS = 32, DIMS = 128, TOKENS = 8193, TIMES = 100 };

static void *device(size_t bytes)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes) != cudaSuccess || cudaMemset(p, 0, bytes) != cudaSuccess) {
        printf("no memory on the device\n");
        exit(1);
    }
    return p;
}

static void must(int status, const char *what)
{
    if (status != LQ_OK) {
        printf("%s: %s\n", what, lq_status_string(status));
        exit(1);
    }
}

static float noise(void)
{
    static uint32_t x = 1;
    x = x * 1664525u + 1013904223u;
    return (float)(int32_t)x * 1.2e-9f;
}

int main(void)
{
    static uint16_t k[TOKENS][KV_HEADS][DIMS], v[TOKENS][KV_HEADS][DIMS];
    static float q[HEADS][DIMS], out[HEADS][DIMS], keys[TOKENS][KV_HEADS][DIMS],
        values[TOKENS][KV_HEADS][DIMS];
    const size_t row = KV_HEADS * DIMS;
    lq_cuda_desc desc = {}; /* 4 sinks and the last 64 tokens as f16, the others in 4 bits */
    lq_cuda_attend_desc attend = {};
    lq_cuda_batch batch = {};
    lq_kv_desc cpu = {};
    uint32_t ids[(TOKENS + 63) / 64], step[2][2] = {{0, TOKENS - 1}, {TOKENS - 1, 1}};
    double error = 0, energy = 0;
    float ms = 0;
    cudaEvent_t from, to;
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no CUDA device\n");
        return 0;
    }
    for (size_t i = 0; i < TOKENS * row; i++) {
        (&k[0][0][0])[i] = lq_f16_from_f32(noise());
        (&v[0][0][0])[i] = lq_f16_from_f32(noise());
    }
    for (size_t i = 0; i < HEADS * DIMS; i++) {
        (&q[0][0])[i] = 4 * noise();
    }

    desc.kv_heads = KV_HEADS;
    desc.dims = DIMS;
    desc.sequences = 1;
    desc.table = desc.pages = (TOKENS + 63) / 64;
    lq_cuda_layer layer;
    must(lq_cuda_layer_init(&layer, device(lq_cuda_pool_bytes(&desc)), lq_cuda_pool_bytes(&desc),
                            device(lq_cuda_state_bytes(&desc)), lq_cuda_state_bytes(&desc), &desc),
         "layer");
    for (uint32_t i = 0; i < desc.table; i++) {
        ids[i] = desc.table - 1 - i; /* pages may lie anywhere */
    }
    uint16_t *d_k = (uint16_t *)device(sizeof k), *d_v = (uint16_t *)device(sizeof v);
    uint32_t *words = (uint32_t *)device(4 * (4 + desc.table)); /* tokens, added, flags, -, table */
    cudaMemcpy(d_k, k, sizeof k, cudaMemcpyHostToDevice);
    cudaMemcpy(d_v, v, sizeof v, cudaMemcpyHostToDevice);
    cudaMemcpy(words + 4, ids, sizeof ids, cudaMemcpyHostToDevice);
    batch.count = 1;
    batch.tokens = words;
    batch.added = words + 1;
    batch.flags = words + 2;
    batch.tables = words + 4;
    for (int i = 0; i < 2; i++) { /* the prompt, then one token */
        lq_cuda_view key = {d_k + step[i][0] * row, 0, row, DIMS};
        lq_cuda_view value = {d_v + step[i][0] * row, 0, row, DIMS};
        cudaMemcpy(words, step[i], 8, cudaMemcpyHostToDevice);
        batch.most = step[i][1];
        must(lq_cuda_append(&layer, &batch, &key, &value, 0), "append");
    }
    attend.heads = HEADS;
    attend.type = LQ_F32;
    attend.workspace_bytes = lq_cuda_attend_workspace_bytes(&desc, HEADS, 1, 1);
    attend.workspace = device(attend.workspace_bytes);
    attend.q = device(sizeof q);
    attend.out = device(sizeof out);
    cudaMemcpy((void *)attend.q, q, sizeof q, cudaMemcpyHostToDevice);
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    for (int i = 0; i < TIMES + 10; i++) {
        if (i == 10) cudaEventRecord(from, 0);
        must(lq_cuda_attend(&layer, &batch, &attend, 0), "attend");
    }
    cudaEventRecord(to, 0);
    cudaMemcpy(out, attend.out, sizeof out, cudaMemcpyDeviceToHost);
    cudaMemcpy(ids, words + 2, 4, cudaMemcpyDeviceToHost);
    cudaEventElapsedTime(&ms, from, to);

    cpu.layers = 1;
    cpu.kv_heads = KV_HEADS;
    cpu.k_dims = DIMS;
    cpu.tokens = TOKENS;
    lq_kv kv;
    must(lq_kv_init(&kv, malloc(lq_kv_bytes(&cpu)), lq_kv_bytes(&cpu), &cpu), "cache");
    lq_kv_view key = {k, 0, 0, LQ_F16}, value = {v, 0, 0, LQ_F16};
    must(lq_kv_append(&kv, 0, &key, &value, NULL, TOKENS), "append");
    lq_kv_view_out key_out = {keys, 0, 0, LQ_F32}, value_out = {values, 0, 0, LQ_F32};
    must(lq_kv_read(&kv, 0, LQ_K, &key_out, 0, TOKENS, NULL, 0), "read");
    must(lq_kv_read(&kv, 0, LQ_V, &value_out, 0, TOKENS, NULL, 0), "read");
    for (int h = 0; h < HEADS; h++) {
        const int g = h / (HEADS / KV_HEADS);
        double sum = 0, want[DIMS] = {0};
        for (int t = 0; t < TOKENS; t++) {
            double logit = 0;
            for (int d = 0; d < DIMS; d++) {
                logit += (double)q[h][d] * (double)keys[t][g][d];
            }
            const double e = exp(logit / sqrt((double)DIMS));
            sum += e;
            for (int d = 0; d < DIMS; d++) {
                want[d] += e * (double)values[t][g][d];
            }
        }
        for (int d = 0; d < DIMS; d++) {
            const double e = (double)out[h][d] - want[d] / sum;
            error += e * e;
            energy += want[d] / sum * want[d] / sum;
        }
    }
    printf("%d tokens, %d kv heads of %d, %d query heads: %.1f us, flags %u, error %.1e\n", TOKENS,
           KV_HEADS, DIMS, HEADS, 1e3 * (double)ms / TIMES, ids[0], sqrt(error / energy));
    return ids[0] != 0 || !(error < 1e-6 * energy);
}
