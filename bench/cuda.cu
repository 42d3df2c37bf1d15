/* nvcc -O3 -arch=sm_90 bench/cuda.cu -o cuda_bench && python3 bench/sdpa.py ./cuda_bench
   Times of latticequant_cuda.cuh on the current device: medians of graph replays over sequences
   whose pages are 300 MB or more together. A line each: name, shape, microseconds, bytes. */
#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"
#ifndef LQ_CUDA_INSTANCES
#define LQ_CUDA_INSTANCES(X) \
    X(Z8, 128) X(Z4, 128) X(Z3, 128) X(Z2, 128) X(E8, 128) X(Z4, 64) X(Z4, 256)
#endif
#define LATTICEQUANT_CUDA_IMPLEMENTATION
#include "../latticequant_cuda.cuh"

#include <algorithm>
#include <functional>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#define CU(call)                                                                  \
    do {                                                                          \
        cudaError_t error = (call);                                               \
        if (error != cudaSuccess) {                                               \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error)); \
            exit(1);                                                              \
        }                                                                         \
    } while (0)
#define LQ(call)                                                                 \
    do {                                                                         \
        int status = (call);                                                     \
        if (status != LQ_OK) {                                                   \
            printf("%s:%d: %s\n", __FILE__, __LINE__, lq_status_string(status)); \
            exit(1);                                                             \
        }                                                                        \
    } while (0)

/* Microseconds of a launch: n launches in a graph, the median of 15 replays. */
static double time_of(int n, const std::function<void(int, cudaStream_t)> &launch)
{
    cudaEvent_t from, to;
    std::vector<double> times;
    cudaStream_t stream;
    CU(cudaStreamCreate(&stream));
    launch(0, stream);
    CU(cudaStreamSynchronize(stream));
    CU(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < n; i++) {
        launch(i, stream);
    }
    cudaGraph_t graph;
    CU(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t exec;
    CU(cudaGraphInstantiate(&exec, graph, 0));
    CU(cudaEventCreate(&from));
    CU(cudaEventCreate(&to));
    for (int i = 0; i < 18; i++) {
        CU(cudaEventRecord(from, stream));
        CU(cudaGraphLaunch(exec, stream));
        CU(cudaEventRecord(to, stream));
        CU(cudaEventSynchronize(to));
        float ms;
        CU(cudaEventElapsedTime(&ms, from, to));
        if (i > 2) times.push_back(ms * 1e3 / n);
    }
    std::sort(times.begin(), times.end());
    CU(cudaGraphExecDestroy(exec));
    CU(cudaGraphDestroy(graph));
    CU(cudaStreamDestroy(stream));
    return times[times.size() / 2];
}

template <class T> static T *device(size_t count)
{
    T *p = NULL;
    CU(cudaMalloc(&p, count * sizeof(T) + 128));
    CU(cudaMemset(p, 0, count * sizeof(T)));
    return p;
}

__device__ static float noise(uint64_t i, uint32_t seed) /* about Gaussian: a sum of four */
{
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) * 40503u ^ seed;
    float sum = 0;
    for (int k = 0; k < 4; k++) {
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        x ^= x >> 16;
        sum += (float)(x & 0xffffu) * (1.0f / 65536.0f) - 0.5f;
    }
    return sum * 1.7320508f;
}

__global__ static void fill(__half *x, size_t n, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        x[i] = __float2half(noise(i, seed));
    }
}

/* Reads n vectors of 16 bytes and writes n * out / 64. */
__global__ static void copy(uint4 *to, const uint4 *from, size_t n, size_t out)
{
    for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x); i < n / 4;
         i += (size_t)gridDim.x * blockDim.x) {
        const size_t step = n / 4;
        uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
        a.x ^= b.x ^ c.x ^ d.x;
        a.y ^= b.y ^ c.y ^ d.y;
        a.z ^= b.z ^ c.z ^ d.z;
        a.w ^= b.w ^ c.w ^ d.w;
        if (i < out) {
            to[i] = a;
        } else if (a.x == 0x12345678u && a.y == 0x9abcdef0u) {
            to[0] = a;
        }
    }
}

/* Parts of pages through the rings, and nothing else: what the attention kernel is measured by. */
__global__ static void __launch_bounds__(512)
    stream_only(const uint8_t *pool, const uint32_t *ids, uint32_t heads, uint32_t levels,
                uint32_t part, uint32_t items, uint32_t halves, uint32_t *out)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t bars[64];
    const uint32_t warps = blockDim.x / 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t end = (uint32_t)((blockIdx.x + 1) * (uint64_t)items / gridDim.x);
    const uint32_t first = (uint32_t)(blockIdx.x * (uint64_t)items / gridDim.x) + warp;
    const uint32_t count = 2 * (first < end ? (end - first + warps - 1) / warps : 0);
    lq__cu_ring ring;
    uint32_t junk = 0;
    uint32_t begun = 0;
    lq__cu_ring_init(&ring, shared + warp * halves * (part - levels), bars + warp * halves, halves,
                     levels, part);
    for (uint32_t done = 0; done < count; done++) {
        for (; begun < count && begun < done + halves; begun++) {
            const uint32_t i = first + begun / 2 * warps;
            lq__cu_ring_begin(&ring, pool + ((size_t)ids[i / heads] * heads + i % heads) * part,
                              begun & 1u);
        }
        junk ^= lq__cu_lds(lq__cu_ring_wait(&ring) + threadIdx.x % 32 * 16);
        __syncwarp();
    }
    if (junk == 0x12345u) *out = junk;
}

struct Case {
    const char *name;
    int quantizer, bits;
    uint32_t dims, heads, group, batch, tokens; /* tokens 0: 1K .. 32K, 64 sequences */
    int seal;
};

static void run(const Case &c)
{
    lq_cuda_desc d = {};
    lq_cuda_layer layer;
    std::vector<uint32_t> lengths, tables, slots;
    uint32_t sets;
    uint32_t longest = 0;
    size_t pages = 0, bytes;
    uint64_t all = 0;
    for (uint32_t i = 0; i < c.batch; i++) {
        lengths.push_back(c.tokens ? c.tokens : 1024 + i * 31744 / (c.batch - 1));
        all += lengths[i];
        longest = std::max(longest, lengths[i]);
    }
    d.kv_heads = c.heads;
    d.dims = c.dims;
    d.quantizer = c.quantizer;
    d.bits = c.bits;
    d.table = (longest + 63) / 64;
    d.sequences = c.batch;
    d.pages = 1;
    LQ(lq_cuda_check(&d));
    for (uint32_t i = 0; i < c.batch; i++) {
        pages += lq_cuda_pages_of(&d, lengths[i]);
    }
    bytes = pages * lq_cuda_page_bytes(&d);
    sets = (uint32_t)std::max((size_t)1, (size_t)3e8 / bytes + (bytes < 1.5e8));
    d.sequences = c.batch * sets;
    d.pages = (uint32_t)(pages * sets);
    {
        uint8_t *pool = device<uint8_t>(lq_cuda_pool_bytes(&d));
        uint8_t *state = device<uint8_t>(lq_cuda_state_bytes(&d));
        LQ(lq_cuda_layer_init(&layer, pool, lq_cuda_pool_bytes(&d), state, lq_cuda_state_bytes(&d),
                              &d));
    }
    std::vector<uint32_t> ids(d.pages);
    for (uint32_t i = 0; i < d.pages; i++) {
        ids[i] = i;
    }
    for (uint32_t i = d.pages - 1, r = 99; i > 0; i--) { /* pages lie anywhere */
        r = r * 1664525u + 1013904223u;
        std::swap(ids[i], ids[(uint32_t)((uint64_t)r * (i + 1) >> 32)]);
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < c.batch * sets; i++) {
        const uint32_t own = lq_cuda_pages_of(&d, lengths[i % c.batch]);
        slots.push_back(i);
        for (uint32_t j = 0; j < d.table; j++) {
            tables.push_back(j < own ? ids[at + j] : 0);
        }
        at += own;
    }
    const uint32_t chunk = c.seal ? 32768 : 4096;
    const size_t row = (size_t)c.heads * c.dims;
    __half *k = device<__half>(chunk * row), *v = device<__half>(chunk * row);
    uint32_t *d_slots = device<uint32_t>(slots.size()), *d_tokens = device<uint32_t>(slots.size());
    uint32_t *d_added = device<uint32_t>(slots.size()), *d_tables = device<uint32_t>(tables.size());
    uint32_t *flags = device<uint32_t>(1), *d_ids = device<uint32_t>(ids.size());
    CU(cudaMemcpy(d_slots, slots.data(), 4 * slots.size(), cudaMemcpyHostToDevice));
    CU(cudaMemcpy(d_tables, tables.data(), 4 * tables.size(), cudaMemcpyHostToDevice));
    CU(cudaMemcpy(d_ids, ids.data(), 4 * ids.size(), cudaMemcpyHostToDevice));
    lq_cuda_view views[2] = {{k, 0, row, c.dims}, {v, 0, row, c.dims}}; /* the same for all */
    lq_cuda_batch b = {};
    std::vector<uint32_t> have(slots.size(), 0), add(slots.size());
    b.flags = flags;
    for (uint32_t done = 0; done < longest; done += chunk) {
        fill<<<1024, 256>>>(k, chunk * row, done * 2 + 1);
        fill<<<1024, 256>>>(v, chunk * row, done * 2 + 2);
        for (size_t i = 0; i < slots.size(); i++) {
            const uint32_t n = lengths[i % c.batch];
            add[i] = n > done ? std::min(chunk, n - done) : 0;
        }
        CU(cudaMemcpy(d_tokens, have.data(), 4 * have.size(), cudaMemcpyHostToDevice));
        CU(cudaMemcpy(d_added, add.data(), 4 * add.size(), cudaMemcpyHostToDevice));
        for (size_t i = 0; i < slots.size(); i += 64) {
            b.count = (uint32_t)std::min((size_t)64, slots.size() - i);
            b.most = chunk;
            b.slots = d_slots + i;
            b.tokens = d_tokens + i;
            b.added = d_added + i;
            b.tables = d_tables + i * d.table;
            LQ(lq_cuda_append(&layer, &b, &views[0], &views[1], 0));
        }
        CU(cudaDeviceSynchronize());
        for (size_t i = 0; i < slots.size(); i++) {
            have[i] += add[i];
        }
    }
    CU(cudaMemcpy(d_tokens, have.data(), 4 * have.size(), cudaMemcpyHostToDevice));
    CU(cudaMemset(d_added, 0, 4 * add.size()));
    if (c.seal) { /* a chunk again, into the pages where it begins */
        const size_t in = 2 * chunk * row * 2;
        lq__cu_plan p;
        lq__cu_batch lb;
        lq__cu_source src[2];
        uint32_t zero = 4 + 64, more = chunk;
        std::vector<uint32_t> start(sets, zero), adds(sets, more);
        CU(cudaMemcpy(d_tokens, start.data(), 4 * sets, cudaMemcpyHostToDevice));
        CU(cudaMemcpy(d_added, adds.data(), 4 * sets, cudaMemcpyHostToDevice));
        __half *kk = device<__half>(sets * chunk * row), *vv = device<__half>(sets * chunk * row);
        fill<<<1024, 256>>>(kk, sets * chunk * row, 5);
        fill<<<1024, 256>>>(vv, sets * chunk * row, 6);
        LQ(lq__cu_plan_of(&p, &layer));
        auto batch_at = [&](int i) {
            b.count = 1;
            b.slots = d_slots + i % sets;
            b.tokens = d_tokens + i % sets;
            b.added = d_added + i % sets;
            b.tables = d_tables + (size_t)(i % sets) * d.table;
        };
        const double whole = time_of((int)std::max(8u, 2 * sets), [&](int i, cudaStream_t s) {
            lq_cuda_view w[2] = {{kk + i % sets * chunk * row, 0, row, c.dims},
                                 {vv + i % sets * chunk * row, 0, row, c.dims}};
            batch_at(i);
            LQ(lq_cuda_append(&layer, &b, &w[0], &w[1], s));
        });
        const double alone = time_of((int)std::max(8u, 2 * sets), [&](int i, cudaStream_t s) {
            lq_cuda_view w[2] = {{kk + i % sets * chunk * row, 0, row, c.dims},
                                 {vv + i % sets * chunk * row, 0, row, c.dims}};
            batch_at(i);
            (void)lq__cu_batch_of(&lb, &b);
            (void)lq__cu_source_of(&src[0], &w[0]);
            (void)lq__cu_source_of(&src[1], &w[1]);
#define SEAL(name, wide)                                                             \
    if (p.kind == LQ__CU_##name && p.steps * 32 == (wide)) {                         \
        lq__cu_seal_start<LQ__CU_##name, (wide) / 32>(&p, &lb, &src[0], &src[1], s); \
    }
            LQ_CUDA_INSTANCES(SEAL)
        });
        const size_t out = chunk / 64 * lq_cuda_page_bytes(&d);
        const double floor = time_of((int)std::max(8u, 2 * sets), [&](int i, cudaStream_t s) {
            copy<<<1056, 256, 0, s>>>((uint4 *)(void *)(layer.pool + (size_t)(i % sets) * out),
                                      (const uint4 *)(const void *)(kk + i % sets * chunk * row),
                                      in / 2 / 16, out / 16);
            (void)vv;
        });
        printf("seal %s tokens %u us %.2f seal_alone %.2f half_copy %.2f numbers %zu\n", c.name,
               chunk, whole, alone, floor, 2 * chunk * row);
        CU(cudaFree(kk));
        CU(cudaFree(vv));
    } else {
        const uint32_t heads = c.heads * c.group;
        lq_cuda_attend_desc a = {};
        a.heads = heads;
        a.q = device<__half>((size_t)c.batch * heads * c.dims);
        a.out = device<__half>((size_t)c.batch * heads * c.dims);
        fill<<<64, 256>>>((__half *)a.q, (size_t)c.batch * heads * c.dims, 77);
        a.workspace_bytes = lq_cuda_attend_workspace_bytes(&d, heads, 1, c.batch);
        a.workspace = device<uint8_t>(a.workspace_bytes);
        b.count = c.batch;
        b.most = 0;
        const double us = time_of((int)std::max(8u, 2 * sets), [&](int i, cudaStream_t s) {
            const size_t first = (size_t)(i % sets) * c.batch;
            b.slots = d_slots + first;
            b.tokens = d_tokens + first;
            b.added = d_added + first;
            b.tables = d_tables + first * d.table;
            LQ(lq_cuda_attend(&layer, &b, &a, s));
        });
        lq__cu_plan p;
        LQ(lq__cu_plan_of(&p, &layer));
        double floor = 0;
        int sm = 0;
        CU(cudaDeviceGetAttribute(&sm, cudaDevAttrMultiProcessorCount, 0));
        for (uint32_t blocks = 1; blocks <= 2; blocks++) { /* the better shape of launch */
            const uint32_t warps = 16 / blocks;
            const uint32_t half = p.part - p.levels;
            const uint32_t halves = std::min(4u, 226000 / 16 / half);
            const uint32_t bytes = warps * halves * half;
            if (halves == 0) continue;
            CU(cudaFuncSetAttribute(stream_only, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)bytes));
            const double one = time_of((int)std::max(8u, 2 * sets), [&](int i, cudaStream_t s) {
                stream_only<<<blocks * sm, warps * 32, bytes, s>>>(
                    layer.pool, d_ids + (size_t)(i % sets) * pages, c.heads, p.levels, p.part,
                    (uint32_t)pages * c.heads, halves, flags);
            });
            CU(cudaGetLastError());
            floor = floor == 0 ? one : std::min(floor, one);
        }
        uint32_t f = 0;
        CU(cudaMemcpy(&f, flags, 4, cudaMemcpyDeviceToHost));
        printf(
            "attend %s batch %u tokens %u heads %u group %u dims %u us %.2f stream %.2f bytes %zu "
            "sum_of_tokens %llu flags %u\n",
            c.name, c.batch, c.tokens, c.heads, c.group, c.dims, us, floor, bytes,
            (unsigned long long)all, f);
        CU(cudaFree((void *)a.q));
        CU(cudaFree(a.out));
        CU(cudaFree(a.workspace));
    }
    fflush(stdout);
    CU(cudaFree(layer.pool));
    CU(cudaFree(layer.state));
    CU(cudaFree(k));
    CU(cudaFree(v));
    CU(cudaFree(d_slots));
    CU(cudaFree(d_tokens));
    CU(cudaFree(d_added));
    CU(cudaFree(d_tables));
    CU(cudaFree(flags));
    CU(cudaFree(d_ids));
}

int main(int argc, char **argv)
{
    static const Case cases[] = {
        {"z4", LQ_Z, 4, 128, 8, 4, 8, 32768, 0},   {"z4", LQ_Z, 4, 128, 8, 4, 1, 131072, 0},
        {"z4", LQ_Z, 4, 128, 8, 4, 1, 32768, 0},   {"e8", LQ_E8, 4, 128, 8, 4, 8, 32768, 0},
        {"e8", LQ_E8, 4, 128, 8, 4, 1, 131072, 0}, {"e8", LQ_E8, 4, 128, 8, 4, 1, 32768, 0},
        {"z8", LQ_Z, 8, 128, 8, 4, 8, 32768, 0},   {"z3", LQ_Z, 3, 128, 8, 4, 8, 32768, 0},
        {"z2", LQ_Z, 2, 128, 8, 4, 8, 32768, 0},   {"z4", LQ_Z, 4, 128, 8, 1, 8, 32768, 0},
        {"z4", LQ_Z, 4, 128, 8, 7, 8, 32768, 0},   {"z4", LQ_Z, 4, 128, 8, 8, 8, 32768, 0},
        {"z4", LQ_Z, 4, 64, 8, 4, 8, 65536, 0},    {"z4", LQ_Z, 4, 256, 8, 4, 8, 16384, 0},
        {"z4", LQ_Z, 4, 128, 8, 4, 64, 0, 0},      {"z4", LQ_Z, 4, 128, 8, 4, 1, 8192, 0},
        {"z4", LQ_Z, 4, 128, 8, 4, 1, 4096, 0},    {"z4", LQ_Z, 4, 128, 8, 0, 1, 34816, 1},
        {"e8", LQ_E8, 4, 128, 8, 0, 1, 34816, 1},  {"z8", LQ_Z, 8, 128, 8, 0, 1, 34816, 1}};
    cudaDeviceProp properties;
    const size_t first = argc > 1 ? (size_t)atoi(argv[1]) : 0; /* ./cuda_bench FIRST COUNT */
    const size_t count = argc > 2 ? (size_t)atoi(argv[2]) : sizeof cases / sizeof *cases;
    if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
        printf("skipped: no CUDA device\n");
        return 0;
    }
    printf("# %s, %d multiprocessors, CUDA %d\n", properties.name, properties.multiProcessorCount,
           CUDART_VERSION);
    for (size_t i = first; i < first + count && i < sizeof cases / sizeof *cases; i++) {
        run(cases[i]);
    }
    return 0;
}
