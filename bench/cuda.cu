/* nvcc -O3 -arch=sm_90a bench/cuda.cu -o cuda_bench && python3 bench/sdpa.py ./cuda_bench
   Times of latticequant_cuda.cuh on the current device: medians of graph replays over sequences
   whose pages are 300 MB or more together. A line each: name, shape, microseconds, bytes. The last
   lines are of a prefix in coded pages, from pinned memory to pages of f16 and of Z, beside the
   copy of its f16 bytes; then its parts, each of all layers in one stream. `./cuda_bench FIRST
   COUNT` runs some of the rows, 20 only the last. */
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

/* ---- cold restore ---- */
enum { R_LAYERS = 32, R_TOKENS = 32768, R_HEADS = 8, R_DIMS = 128, R_LIVE = 1040, R_MADE = 4096 };
enum { R_BLOCK = 64, R_SLICES = 2 * R_HEADS, R_ALL = R_SLICES * R_DIMS, R_STREAMS = 4, R_KEPT = 8 };

/* A layer's keys and values: R_LIVE hidden numbers, whose deviations fall by 24 times. */
static void made_vectors(std::vector<uint16_t> &to, const lq_rope *rope)
{
    std::vector<float> mix((size_t)R_LIVE * R_ALL), x(R_ALL);
    std::vector<uint32_t> state(1, 1u);
    auto random = [&]() {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            state[0] = state[0] * 1664525u + 1013904223u;
            sum += (float)(state[0] >> 8) / 16777216.0f - 0.5f;
        }
        return sum * 1.7320508f;
    };
    for (float &m : mix) {
        m = random() / sqrtf((float)R_ALL);
    }
    for (uint32_t t = 0; t < R_MADE; t++) {
        const lq_positions at = {(int64_t)t, 1, NULL};
        for (uint32_t i = 0; i < R_ALL; i++) {
            x[i] = 0.01f * random() / 45.0f;
        }
        for (uint32_t h = 0; h < R_LIVE; h++) {
            const float z = random() * powf(24.0f, -(float)h / R_LIVE);
            for (uint32_t i = 0; i < R_ALL; i++) {
                x[i] += z * mix[(size_t)h * R_ALL + i];
            }
        }
        for (uint32_t s = 0; s < R_HEADS; s++) {
            LQ(lq_rope_apply_f32(&x[s * R_DIMS], 1, R_DIMS, R_DIMS, rope, &at));
        }
        LQ(lq_type_from_f32(&to[(size_t)t * R_ALL], x.data(), R_ALL, LQ_F16));
    }
}

/* What is made once on the host: pages of R_MADE tokens of a layer, in a basis of its own. */
struct Prefix {
    float freqs[R_DIMS / 2];
    lq_rope rope;
    uint32_t dims[R_SLICES];
    lq_role roles[R_SLICES];
    lq_geometry geometry;
    lq_profile profile;
    lq_codec_desc desc;
    lq_codec *codec;
    std::vector<uint8_t> tables, profile_mem, codec_mem, pages;
    std::vector<size_t> sizes;
    std::vector<uint16_t> vectors;
    uint32_t live;
};

static void make_prefix(Prefix *p, float step)
{
    const void *from[R_SLICES];
    lq_klt klt;
    lq_klt_desc how = {};
    size_t written = 0, needed = 0;
    lq_positions at = {0, 1, NULL};
    const lq_tables *tables = NULL;
    p->tables.resize(lq_tables_bytes());
    LQ(lq_tables_init(&tables, p->tables.data(), p->tables.size()));
    for (int i = 0; i < R_DIMS / 2; i++) {
        p->freqs[i] = powf(500000.0f, -(float)i / (R_DIMS / 2));
    }
    p->rope = {};
    p->rope.freqs = p->freqs;
    p->rope.rotary_dims = R_DIMS;
    p->vectors.resize((size_t)R_MADE * R_ALL);
    made_vectors(p->vectors, &p->rope);
    for (uint32_t s = 0; s < R_SLICES; s++) {
        p->dims[s] = R_DIMS;
        p->roles[s] = {};
        p->roles[s].stream = s < R_HEADS ? LQ_K : LQ_V;
        p->roles[s].rope = s < R_HEADS ? &p->rope : NULL;
        from[s] = &p->vectors[s * R_DIMS];
    }
    p->geometry = {};
    p->geometry.stream = LQ_KV;
    p->geometry.slice_count = R_SLICES;
    p->geometry.slice_dims = p->dims;
    p->geometry.roles = p->roles;
    lq_vectors src = {from, R_ALL, LQ_F16};
    std::vector<uint8_t> mem(lq_klt_bytes(&p->geometry)),
        work(lq_klt_workspace_bytes(&p->geometry));
    LQ(lq_klt_init(&klt, mem.data(), mem.size(), &p->geometry));
    LQ(lq_klt_add(&klt, &src, &at, R_MADE, work.data(), work.size()));
    work.resize(lq_klt_profile_workspace_bytes(&klt));
    std::vector<uint8_t> file(lq_klt_profile_bound(&klt));
    how.step = step;
    how.own = 1;
    LQ(lq_klt_profile(&klt, file.data(), file.size(), &written, &how, NULL, work.data(),
                      work.size()));
    (void)!lq_profile_load(&p->profile, NULL, 0, &needed, file.data(), written);
    p->profile_mem.resize(needed);
    LQ(lq_profile_load(&p->profile, p->profile_mem.data(), needed, &needed, file.data(), written));
    p->desc = {};
    p->desc.tables = tables;
    p->desc.profile = &p->profile;
    p->desc.geometry = p->geometry;
    p->desc.step = step;
    p->codec_mem.resize(lq_codec_bytes(&p->desc));
    LQ(lq_codec_init(&p->codec, p->codec_mem.data(), p->codec_mem.size(), &p->desc));
    work.resize(lq_codec_workspace_bytes(p->codec));
    p->sizes.resize(R_MADE / 64);
    p->pages.resize(p->sizes.size() * lq_codec_page_bound(p->codec));
    LQ(lq_codec_encode(p->codec, p->pages.data(), p->pages.size(), &written, p->sizes.data(), &src,
                       &at, R_MADE, work.data(), work.size()));
    p->pages.resize(written);
    p->live = 0;
    for (uint32_t i = 0; i < R_ALL; i++) { /* sigma above 0.21 steps */
        p->live += p->profile.sigma[p->profile.gains + i] >= 16 * (log2f(step) - 2.3f);
    }
}

/* Median of milliseconds, of what is begun on streams[0] and joined there again. */
static double wall_of(int rounds, cudaStream_t stream, const std::function<void()> &before,
                      const std::function<void()> &run)
{
    cudaEvent_t from, to;
    std::vector<double> times;
    CU(cudaEventCreate(&from));
    CU(cudaEventCreate(&to));
    for (int i = 0; i < rounds + 1; i++) {
        float ms;
        before();
        CU(cudaDeviceSynchronize());
        CU(cudaEventRecord(from, stream));
        run();
        CU(cudaEventRecord(to, stream));
        CU(cudaEventSynchronize(to));
        CU(cudaDeviceSynchronize());
        CU(cudaEventElapsedTime(&ms, from, to));
        if (i) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* A prefix of 32,768 tokens and 32 layers of 8 x 128, at about a bit a number in a basis a layer,
   from pinned memory to pages of f16 as an engine has them, blocks of R_BLOCK tokens, and to pages
   of Z 4; beside it the copy of its f16 bytes. */
static void restore(void)
{
    Prefix p;
    make_prefix(&p, 0.47f);
    const size_t per_layer = p.pages.size() * (R_TOKENS / R_MADE);
    const uint32_t pages = R_TOKENS / 64;
    const size_t f16 = (size_t)R_TOKENS * R_ALL * 2;
    printf("restore bits %.3f live %u\n", 8.0 * (double)per_layer / ((double)R_TOKENS * R_ALL),
           p.live);
    fflush(stdout);
    uint8_t *pinned = NULL, *raw = NULL, *staging = NULL;
    CU(cudaMallocHost(&pinned, per_layer * R_LAYERS));
    CU(cudaMallocHost(&raw, f16 * R_KEPT));
    memset(raw, 0x3c, f16 * R_KEPT);
    for (size_t i = 0; i < (size_t)R_LAYERS * (R_TOKENS / R_MADE); i++) {
        memcpy(pinned + i * p.pages.size(), p.pages.data(), p.pages.size());
    }
    std::vector<uint64_t> offsets;
    std::vector<uint32_t> sizes;
    for (uint32_t i = 0, made = R_MADE / 64; i < pages; i++) {
        offsets.push_back(i ? offsets[i - 1] + sizes[i - 1] : 0);
        sizes.push_back((uint32_t)p.sizes[i % made]);
    }
    uint8_t *bytes = device<uint8_t>(per_layer * R_LAYERS);
    uint64_t *d_offsets = device<uint64_t>(pages);
    uint32_t *d_sizes = device<uint32_t>(pages), *flags = device<uint32_t>(1);
    CU(cudaMemcpy(d_offsets, offsets.data(), 8 * pages, cudaMemcpyHostToDevice));
    CU(cudaMemcpy(d_sizes, sizes.data(), 4 * pages, cudaMemcpyHostToDevice));
    lq_cuda_codec codecs[R_LAYERS];
    const size_t codec_bytes = lq_cuda_codec_bytes(&p.desc);
    CU(cudaMallocHost(&staging, lq_cuda_codec_staging_bytes(&p.desc)));
    lq_cuda_desc d = {};
    lq_cuda_layer layers[R_LAYERS];
    d.kv_heads = R_HEADS;
    d.dims = R_DIMS;
    d.table = d.pages = pages;
    d.sequences = 1;
    for (int l = 0; l < R_LAYERS; l++) {
        LQ(lq_cuda_codec_init(&codecs[l], device<uint8_t>(codec_bytes), codec_bytes, staging,
                              lq_cuda_codec_staging_bytes(&p.desc), &p.desc, 0));
        CU(cudaDeviceSynchronize());
        LQ(lq_cuda_layer_init(&layers[l], device<uint8_t>(lq_cuda_pool_bytes(&d)),
                              lq_cuda_pool_bytes(&d), device<uint8_t>(lq_cuda_state_bytes(&d)),
                              lq_cuda_state_bytes(&d), &d));
    }
    std::vector<uint32_t> table;
    for (uint32_t i = 0; i < pages; i++) {
        table.push_back(i);
    }
    uint32_t *d_table = device<uint32_t>(pages), *none = device<uint32_t>(1);
    CU(cudaMemcpy(d_table, table.data(), 4 * pages, cudaMemcpyHostToDevice));
    cudaStream_t copies, streams[R_STREAMS];
    cudaEvent_t came[R_LAYERS], done[R_STREAMS], begun;
    CU(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
    CU(cudaEventCreate(&begun));
    __half *vectors[R_STREAMS];
    void **d_slices[R_STREAMS];
    uint8_t *workspace[R_STREAMS];
    const size_t work = lq_cuda_decode_workspace_bytes(&codecs[0], R_TOKENS);
    for (int s = 0; s < R_STREAMS; s++) {
        void *slices[R_SLICES];
        CU(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
        CU(cudaEventCreate(&done[s]));
        vectors[s] = device<__half>((size_t)R_TOKENS * R_ALL);
        workspace[s] = device<uint8_t>(work);
        d_slices[s] = device<void *>(R_SLICES);
        for (int i = 0; i < R_SLICES; i++) {
            slices[i] = vectors[s] + i * R_DIMS;
        }
        CU(cudaMemcpy(d_slices[s], slices, sizeof slices, cudaMemcpyHostToDevice));
    }
    for (int l = 0; l < R_LAYERS; l++) {
        CU(cudaEventCreate(&came[l]));
    }
    auto copy = [&](int l) {
        CU(cudaMemcpyAsync(bytes + l * per_layer, pinned + l * per_layer, per_layer,
                           cudaMemcpyHostToDevice, copies));
    };
    auto decoding = [&](int l, int s) {
        lq__cu_decoding x = {};
        x.c = codecs[l];
        x.from = {
            bytes + l * per_layer, per_layer, d_offsets, d_sizes, R_TOKENS, NULL, 0, 1, flags};
        x.to = {d_slices[s], R_ALL, LQ_F16, d_table, pages, R_BLOCK, (size_t)R_BLOCK * R_ALL};
        (void)lq__cu_decode_place(&x, workspace[s]);
        return x;
    };
    auto decode = [&](int l, int s) {
        const lq_cuda_pages from = decoding(l, s).from;
        const lq_cuda_vectors to = decoding(l, s).to;
        LQ(lq_cuda_decode(&codecs[l], &to, &from, workspace[s], work, streams[s]));
    };
    auto append = [&](int l, int s) {
        lq_cuda_view k = {vectors[s], 0, R_ALL, R_DIMS};
        lq_cuda_view v = {vectors[s] + R_HEADS * R_DIMS, 0, R_ALL, R_DIMS};
        lq_cuda_batch b = {1, R_TOKENS, NULL, none, NULL, d_table, flags};
        LQ(lq_cuda_append(&layers[l], &b, &k, &v, streams[s]));
    };
    auto clear = [&]() {
        for (int l = 0; l < R_LAYERS; l++) {
            LQ(lq_cuda_clear(&layers[l], 0, 0));
        }
    };
    auto nothing = [&]() {};
    auto all = [&](bool pages_too) {
        CU(cudaEventRecord(begun, copies));
        for (int s = 0; s < R_STREAMS; s++) {
            CU(cudaStreamWaitEvent(streams[s], begun, 0));
        }
        for (int l = 0; l < R_LAYERS; l++) {
            const int s = l % R_STREAMS;
            copy(l);
            CU(cudaEventRecord(came[l], copies));
            CU(cudaStreamWaitEvent(streams[s], came[l], 0));
            decode(l, s);
            if (pages_too) append(l, s);
        }
        for (int s = 0; s < R_STREAMS; s++) {
            CU(cudaEventRecord(done[s], streams[s]));
            CU(cudaStreamWaitEvent(copies, done[s], 0));
        }
    };
    const double plain = wall_of(5, copies, nothing, [&]() {
        for (int l = 0; l < R_LAYERS; l++) {
            CU(cudaMemcpyAsync(vectors[l % R_STREAMS], raw + l % R_KEPT * f16, f16,
                               cudaMemcpyHostToDevice, copies));
        }
    });
    const double to_vectors = wall_of(7, copies, nothing, [&]() { all(false); });
    const double to_pages = wall_of(7, copies, clear, [&]() { all(true); });
    const double coded = wall_of(5, copies, nothing, [&]() {
        for (int l = 0; l < R_LAYERS; l++) {
            copy(l);
        }
    });
    auto each = [&](const std::function<void(int)> &run) {
        return wall_of(5, streams[0], clear, [&]() {
            for (int l = 0; l < R_LAYERS; l++) {
                run(l);
            }
        });
    };
    const double rans = each([&](int l) { lq__cu_rans_start(decoding(l, 0), streams[0]); });
    const double columns = each([&](int l) { lq__cu_columns_start(decoding(l, 0), streams[0]); });
    const double product = each([&](int l) { lq__cu_product_start(decoding(l, 0), streams[0]); });
    const double seal = each([&](int l) { append(l, 0); });
    double rans_many = 0; /* pages of four layers at a time */
    {
        rans_many = wall_of(5, copies, nothing, [&]() {
            CU(cudaEventRecord(begun, copies));
            for (int s = 0; s < R_STREAMS; s++) {
                CU(cudaStreamWaitEvent(streams[s], begun, 0));
            }
            for (int l = 0; l < R_LAYERS; l++) {
                lq__cu_rans_start(decoding(l, l % R_STREAMS), streams[l % R_STREAMS]);
            }
            for (int s = 0; s < R_STREAMS; s++) {
                CU(cudaEventRecord(done[s], streams[s]));
                CU(cudaStreamWaitEvent(copies, done[s], 0));
            }
        });
    }
    uint32_t f = 0;
    size_t other = 0;
    {
        std::vector<uint16_t> have((size_t)R_MADE * R_ALL), want(have.size());
        std::vector<uint8_t> room(lq_codec_workspace_bytes(p.codec));
        std::vector<const uint8_t *> at;
        void *slices[R_SLICES];
        lq_positions positions = {0, 1, NULL};
        lq_vectors_out out = {slices, R_ALL, LQ_F16};
        decode(0, 0);
        CU(cudaDeviceSynchronize());
        CU(cudaMemcpy(have.data(), vectors[0], have.size() * 2, cudaMemcpyDeviceToHost));
        for (size_t i = 0, from = 0; i < p.sizes.size(); from += p.sizes[i++]) {
            at.push_back(p.pages.data() + from);
        }
        for (int i = 0; i < R_SLICES; i++) {
            slices[i] = &want[(size_t)i * R_DIMS];
        }
        LQ(lq_codec_decode(p.codec, &out, &positions, R_MADE, at.data(), p.sizes.data(),
                           room.data(), room.size()));
        for (size_t i = 0; i < have.size(); i++) {
            other += have[i] != want[i];
        }
    }
    CU(cudaMemcpy(&f, flags, 4, cudaMemcpyDeviceToHost));
    const double numbers = (double)R_LAYERS * R_TOKENS;
    printf("restore ms: f16 copy %.2f (%.1f GB/s), to pages of f16 %.2f, to pages of z4 "
           "%.2f: 1/%.2f and 1/%.2f\n",
           plain, R_LAYERS * (double)f16 / plain / 1e6, to_vectors, to_pages, plain / to_vectors,
           plain / to_pages);
    printf(
        "restore parts ms: copy %.2f, rans %.2f (four streams %.2f, %.2f Tcoord/s of live ones), "
        "columns %.2f, product %.2f (%.0f TOP/s), append %.2f; others %zu flags %u\n",
        coded, rans, rans_many, numbers * p.live / rans_many / 1e9, columns, product,
        8.0 * numbers * R_ALL * codecs[0].wide / product / 1e9, seal, other, f);
    fflush(stdout);
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
    const size_t first = argc > 1 ? (size_t)atoi(argv[1]) : 0;
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
    if (first + count >= sizeof cases / sizeof *cases) restore();
    return 0;
}
