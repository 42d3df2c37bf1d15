/* nvcc -O2 -arch=sm_90 tests/test_cuda.cu -o test_cuda    latticequant_cuda.cuh against
   latticequant.h. Pages to the byte, attention against doubles. ./test_cuda quick: smaller shapes;
   long: 10^8 numbers of each kind. -DFEW: two instances, compiled in a fraction of the time. */
#include "header.h"
#ifdef FEW
#define LQ_CUDA_INSTANCES(X) X(Z4, 64) X(E8, 96)
#else
#define LQ_CUDA_INSTANCES(X) \
    X(Z8, 128)               \
    X(Z4, 128)               \
    X(Z3, 128)               \
    X(Z2, 128)               \
    X(E8, 128)               \
    X(Z4, 64) X(E8, 64) X(Z4, 96) X(Z3, 96) X(E8, 96) X(Z4, 192) X(Z4, 256) X(E8, 256) X(Z2, 256)
#endif
#define LATTICEQUANT_CUDA_IMPLEMENTATION
#include "../latticequant_cuda.cuh"

#include "check.h"
#include <algorithm>
#include <math.h>
#include <stdlib.h>
#include <vector>

static uint64_t seed = 88172645463325252u;

static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

static double gauss(void)
{
    const double u = (rnd() + 0.5) / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * ((rnd() + 0.5) / 4294967296.0));
}

static bool is_compiled(int quantizer, int bits, uint32_t dims)
{
    lq_cuda_desc d = {};
    d.kv_heads = 1;
    d.dims = dims;
    d.quantizer = quantizer;
    d.bits = bits;
    d.sequences = d.pages = d.table = 1;
    return lq_cuda_check(&d) == LQ_OK;
}

static const int quantizers[] = {LQ_Z, LQ_Z, LQ_Z, LQ_Z, LQ_E8};
static const int widths[] = {8, 4, 3, 2, 4};
static const uint32_t all_dims[] = {64, 80, 96, 112, 128, 192, 256};

/* ---- without a device ---- */
/* Tiles of any bytes become parts and tiles again. */
static void test_layout(void)
{
    for (int k = 0; k < 5; k++) {
        for (uint32_t dims : all_dims) {
            lq_cuda_desc d = {};
            const size_t tile = dims * 8 * (size_t)widths[k] + 64;
            std::vector<uint8_t> k_tile(tile), v_tile(tile), k_back(tile), v_back(tile), part;
            d.kv_heads = 1;
            d.dims = dims;
            d.quantizer = quantizers[k];
            d.bits = widths[k];
            d.sequences = d.pages = d.table = 1;
            if (lq_cuda_check(&d) != LQ_OK) continue;
            part.resize(lq_cuda_page_bytes(&d));
            for (size_t i = 0; i < tile; i++) {
                k_tile[i] = (uint8_t)rnd();
                v_tile[i] = (uint8_t)rnd();
            }
            CHECK(lq_cuda_part_from_tiles(part.data(), &d, k_tile.data(), v_tile.data(), -3, 5,
                                          64) == LQ_OK);
            int bases[2];
            CHECK(lq_cuda_part_to_tiles(k_back.data(), v_back.data(), &bases[0], &bases[1], &d,
                                        part.data(), 64) == LQ_OK);
            CHECK(k_back == k_tile && v_back == v_tile && bases[0] == -3 && bases[1] == 5);
            CHECK(lq_cuda_part_from_tiles(part.data(), &d, k_tile.data(), v_tile.data(), 0, 0,
                                          24) == LQ_OK);
            CHECK(lq_cuda_part_to_tiles(k_back.data(), v_back.data(), &bases[0], &bases[1], &d,
                                        part.data(), 40) == LQ_OK);
            CHECK(k_back[tile - 64 + 23] == k_tile[tile - 64 + 23] && k_back[tile - 40] == 0);
        }
    }
}

static void test_arguments(void)
{
    lq_cuda_desc d = {};
    CHECK(lq_cuda_check(NULL) == LQ_E_ARG && lq_cuda_check(&d) == LQ_E_ARG);
    CHECK(lq_cuda_page_bytes(&d) == 0 && lq_cuda_state_bytes(NULL) == 0);
    d.kv_heads = 2;
    d.dims = 128;
    d.sequences = 1;
    d.pages = 3;
    d.table = 2;
    if (!is_compiled(LQ_Z, 4, 128)) return;
    CHECK(lq_cuda_check(&d) == LQ_OK);
    CHECK(lq_cuda_page_bytes(&d) == 2 * (8192 + 128 + 16));
    CHECK(lq_cuda_pages_of(&d, 68) == 0 && lq_cuda_pages_of(&d, 76) == 1);
    CHECK(lq_cuda_sealed_of(&d, 76) == 8 && lq_cuda_sealed_of(&d, 83) == 8);
    lq_cuda_layer layer;
    CHECK(lq_cuda_layer_init(&layer, (void *)256, 1, (void *)256, 1, &d) == LQ_E_SPACE);
    CHECK(lq_cuda_layer_init(&layer, (void *)64, 1, (void *)256, 1, &d) == LQ_E_ARG);
    d.window = 16;
    CHECK(lq_cuda_check(&d) == LQ_E_ARG);
    d.window = 0;
    d.dims = 120;
    CHECK(lq_cuda_check(&d) == LQ_E_ARG);
    d.dims = 128;
    d.bits = 7;
    CHECK(lq_cuda_check(&d) == LQ_E_ARG);
}

/* ---- caches on both sides ---- */
#define CU(call)                                                             \
    do {                                                                     \
        cudaError_t error = (call);                                          \
        if (!CHECK(error == cudaSuccess)) {                                  \
            fprintf(stderr, "  %s: %s\n", #call, cudaGetErrorString(error)); \
            exit(check_report("test_cuda"));                                 \
        }                                                                    \
    } while (0)

template <class T> static T *on_device(size_t count)
{
    T *p = NULL;
    CU(cudaMalloc(&p, count * sizeof(T) + 128));
    CU(cudaMemset(p, 0, count * sizeof(T) + 128));
    return p;
}

template <class T> static void upload(T *to, const std::vector<T> &from)
{
    CU(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
}

template <class T> static std::vector<T> download(const T *from, size_t count)
{
    std::vector<T> x(count);
    CU(cudaMemcpy(x.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost));
    return x;
}

static int to_vector(void *user, const void *bytes, size_t count)
{
    std::vector<uint8_t> *v = (std::vector<uint8_t> *)user;
    v->insert(v->end(), (const uint8_t *)bytes, (const uint8_t *)bytes + count);
    return 0;
}

/* A sequence: its vectors (tokens, heads, dims) as they come, and the CPU's cache of them. */
struct Sequence {
    std::vector<uint16_t> k, v;
    std::vector<uint8_t> mem;
    lq_kv kv;
    uint32_t tokens;
};

struct Shape {
    int quantizer, bits, type;
    uint32_t dims, heads, group, queries, sinks, window;
    float softcap;
    uint32_t sliding;
    int window_sinks, alibi;
    double peak; /* size of queries */
    int out_type;
};

static uint16_t half_of(float f, int type)
{
    return type == LQ_F16 ? lq_f16_from_f32(f) : lq_bf16_from_f32(f);
}

static float float_of(uint16_t h, int type)
{
    return type == LQ_F16 ? lq_f32_from_f16(h) : lq_f32_from_bf16(h);
}

static void make_vectors(Sequence *s, const Shape *c, uint32_t tokens, int odd)
{
    const size_t row = (size_t)c->heads * c->dims;
    std::vector<float> mean(2 * row), size(2 * row);
    for (size_t i = 0; i < 2 * row; i++) {
        mean[i] = (float)(gauss() * (rnd() % 8 == 0 ? 4 : 0.3));
        size[i] = i < row && rnd() % 16 == 0 ? 8.0f : 1.0f;
    }
    s->k.resize(tokens * row);
    s->v.resize(tokens * row);
    for (uint32_t t = 0; t < tokens; t++) {
        float scale = odd && rnd() % 64 == 0 ? exp2f((float)(rnd() % 30) - 22.0f) : 1.0f;
        for (size_t i = 0; i < row; i++) {
            const float k = mean[i] + (float)gauss() * size[i];
            const float v = mean[row + i] + (float)gauss();
            s->k[t * row + i] = half_of(k * scale, c->type);
            s->v[t * row + i] = half_of(v * scale, c->type);
        }
        if (odd && rnd() % 97 == 0) {
            std::fill(s->v.begin() + t * row, s->v.begin() + (t + 1) * row, (uint16_t)0);
        }
    }
    s->tokens = 0;
}

static void make_cache(Sequence *s, const Shape *c, uint32_t room)
{
    lq_kv_desc d = {};
    d.layers = 1;
    d.kv_heads = c->heads;
    d.k_dims = c->dims;
    d.tokens = room;
    d.sinks = c->sinks;
    d.window = c->window;
    d.type = c->type;
    d.k.quantizer = d.v.quantizer = c->quantizer;
    d.k.bits = d.v.bits = c->bits;
    s->mem.resize(lq_kv_bytes(&d));
    CHECK(lq_kv_init(&s->kv, s->mem.data(), s->mem.size(), &d) == LQ_OK);
}

static void append_cpu(Sequence *s, const Shape *c, uint32_t tokens)
{
    const size_t row = (size_t)c->heads * c->dims;
    lq_kv_view k = {s->k.data() + s->tokens * row, 0, 0, c->type};
    lq_kv_view v = {s->v.data() + s->tokens * row, 0, 0, c->type};
    if (tokens) {
        CHECK(lq_kv_append(&s->kv, 0, &k, &v, NULL, tokens) == LQ_OK);
        s->tokens += tokens;
    }
}

/* The device's side: a layer with room for each sequence twice, appended to and loaded. */
struct Device {
    lq_cuda_desc desc;
    lq_cuda_layer layer;
    uint32_t count;
    std::vector<uint32_t> slots, tables, tokens;
    uint32_t *d_slots, *d_tables, *d_tokens, *d_added, *flags;
    uint8_t *pool, *state;
    std::vector<void *> others;
};

static void make_device(Device *d, const Shape *c, uint32_t count, uint32_t table)
{
    std::vector<uint32_t> ids;
    d->desc = {};
    d->desc.kv_heads = c->heads;
    d->desc.dims = c->dims;
    d->desc.quantizer = c->quantizer;
    d->desc.bits = c->bits;
    d->desc.type = c->type;
    d->desc.sinks = c->sinks;
    d->desc.window = c->window;
    d->desc.sequences = 2 * count + 1;
    d->desc.table = table;
    d->desc.pages = 2 * count * table + 3;
    d->count = count;
    d->pool = on_device<uint8_t>(lq_cuda_pool_bytes(&d->desc));
    d->state = on_device<uint8_t>(lq_cuda_state_bytes(&d->desc));
    CU(cudaMemset(d->pool, 0x5a, lq_cuda_pool_bytes(&d->desc)));
    CHECK(lq_cuda_layer_init(&d->layer, d->pool, lq_cuda_pool_bytes(&d->desc), d->state,
                             lq_cuda_state_bytes(&d->desc), &d->desc) == LQ_OK);
    for (uint32_t i = 0; i < d->desc.pages; i++) {
        ids.push_back(i);
    }
    for (uint32_t i = d->desc.pages - 1; i > 0; i--) {
        std::swap(ids[i], ids[rnd() % (i + 1)]);
    }
    d->tables.assign(ids.begin(), ids.begin() + 2 * count * table);
    d->slots.clear();
    for (uint32_t i = 0; i < 2 * count; i++) {
        d->slots.push_back(2 * count - i);
    }
    d->tokens.assign(2 * count, 0);
    d->d_slots = on_device<uint32_t>(2 * count);
    d->d_tables = on_device<uint32_t>(2 * count * table);
    d->d_tokens = on_device<uint32_t>(2 * count);
    d->d_added = on_device<uint32_t>(2 * count);
    d->flags = on_device<uint32_t>(1);
    upload(d->d_slots, d->slots);
    upload(d->d_tables, d->tables);
}

static void free_device(Device *d)
{
    cudaFree(d->pool);
    cudaFree(d->state);
    cudaFree(d->d_slots);
    cudaFree(d->d_tables);
    cudaFree(d->d_tokens);
    cudaFree(d->d_added);
    cudaFree(d->flags);
}

/* Sequences first .. first + d->count - 1 of the device's table. */
static lq_cuda_batch batch_of(const Device *d, uint32_t first, uint32_t most)
{
    lq_cuda_batch b = {};
    b.count = d->count;
    b.most = most;
    b.slots = d->d_slots + first;
    b.tokens = d->d_tokens + first;
    b.added = d->d_added + first;
    b.tables = d->d_tables + (size_t)first * d->desc.table;
    b.flags = d->flags;
    return b;
}

/* A step: added[i] tokens of each sequence. */
static void append_device(Device *d, const Shape *c, std::vector<Sequence> &s, uint32_t first,
                          const std::vector<uint32_t> &added)
{
    const size_t row = (size_t)c->heads * c->dims;
    const uint32_t most = *std::max_element(added.begin(), added.end());
    std::vector<uint16_t> k((size_t)d->count * most * row), v(k.size());
    uint16_t *d_k = on_device<uint16_t>(k.size());
    uint16_t *d_v = on_device<uint16_t>(v.size());
    lq_cuda_batch b = batch_of(d, first, most);
    lq_cuda_view views[2] = {{d_k, most * row, row, c->dims}, {d_v, most * row, row, c->dims}};
    for (uint32_t i = 0; i < d->count; i++) {
        const size_t from = d->tokens[first + i] * row;
        std::copy_n(s[i].k.begin() + from, added[i] * row, k.begin() + i * most * row);
        std::copy_n(s[i].v.begin() + from, added[i] * row, v.begin() + i * most * row);
    }
    upload(d_k, k);
    upload(d_v, v);
    upload(d->d_tokens, d->tokens);
    CU(cudaMemcpy(d->d_added + first, added.data(), added.size() * 4, cudaMemcpyHostToDevice));
    CHECK(lq_cuda_append(&d->layer, &b, &views[0], &views[1], 0) == LQ_OK);
    CU(cudaDeviceSynchronize());
    for (uint32_t i = 0; i < d->count; i++) {
        d->tokens[first + i] += added[i];
    }
    cudaFree(d_k);
    cudaFree(d_v);
}

/* Loads what the CPU has into sequences first .. */
static void load_device(Device *d, std::vector<Sequence> &s, uint32_t first)
{
    for (uint32_t i = 0; i < d->count; i++) {
        std::vector<uint8_t> file, work(lq_kv_export_workspace_bytes(&s[i].kv, NULL)), mem;
        lq_archive_source source = {};
        size_t needed = 0;
        uint32_t tokens = 0;
        uint8_t *staging = NULL;
        const uint32_t *ids = d->tables.data() + (size_t)(first + i) * d->desc.table;
        CHECK(lq_kv_export(&s[i].kv, to_vector, &file, NULL, work.data(), work.size()) == LQ_OK);
        source.bytes = file.data();
        source.size = file.size();
        lq_archive_reader reader;
        int status = lq_archive_open(&reader, &source, NULL, 0, &needed);
        mem.resize(needed);
        status = lq_archive_open(&reader, &source, mem.data(), mem.size(), &needed);
        CHECK(status == LQ_OK);
        status = lq_cuda_load(&d->layer, d->slots[first + i], ids, d->desc.table, &reader, 0, 0,
                              &tokens, NULL, 0, 0);
        CHECK(status == LQ_E_SPACE && tokens == s[i].tokens);
        size_t bytes = lq_cuda_load_bytes(&d->desc, tokens);
        CU(cudaMallocHost(&staging, bytes));
        status = lq_cuda_load(&d->layer, d->slots[first + i], ids, d->desc.table, &reader, 0, 0,
                              &tokens, staging, bytes, 0);
        if (!CHECK(status == LQ_OK && tokens == s[i].tokens)) {
            fprintf(stderr, "  load: %s\n", lq_status_string(status));
        }
        CU(cudaDeviceSynchronize());
        cudaFreeHost(staging);
        d->tokens[first + i] = tokens;
    }
}

/* Whether two sequences of the device hold the same: pages, raw tokens, sums, means, shapes. */
static void compare(Device *d, uint32_t a, uint32_t b, const char *what)
{
    lq_cuda_desc *desc = &d->desc;
    const uint32_t n = d->tokens[a];
    const size_t page = lq_cuda_page_bytes(desc);
    const uint32_t sealed = lq_cuda_sealed_of(desc, n);
    const size_t tile = desc->dims * 8 * (size_t)(desc->bits ? desc->bits : 4) + 64;
    const size_t part = page / desc->kv_heads;
    size_t wrong = 0;
    CHECK(d->tokens[b] == n);
    for (uint32_t j = 0; j < lq_cuda_pages_of(desc, n); j++) {
        const uint32_t ids[2] = {d->tables[(size_t)a * desc->table + j],
                                 d->tables[(size_t)b * desc->table + j]};
        const uint32_t tokens = std::min(64u, sealed - 64 * j);
        std::vector<uint8_t> x = download(d->pool + ids[0] * page, page);
        std::vector<uint8_t> y = download(d->pool + ids[1] * page, page);
        if (tokens == 64 && desc->dims % 32 == 0) {
            wrong += x != y;
            continue;
        }
        for (uint32_t h = 0; h < desc->kv_heads; h++) {
            std::vector<uint8_t> k(tile), v(tile), k2(tile), v2(tile);
            int bases[4];
            (void)!lq_cuda_part_to_tiles(k.data(), v.data(), bases, bases + 1, desc, &x[h * part],
                                         tokens);
            (void)!lq_cuda_part_to_tiles(k2.data(), v2.data(), bases + 2, bases + 3, desc,
                                         &y[h * part], tokens);
            wrong += k != k2 || v != v2 || bases[0] != bases[2] || bases[1] != bases[3];
        }
    }
    if (!CHECK(wrong == 0)) {
        fprintf(stderr, "  %s: quantizer %d bits %d dims %u tokens %u: %zu pages or parts differ\n",
                what, desc->quantizer, desc->bits, desc->dims, n, wrong);
    }
    lq__cu_plan p;
    CHECK(lq__cu_plan_of(&p, &d->layer) == LQ_OK);
    {
        std::vector<uint8_t> x = download(d->state + d->slots[a] * p.slot, p.slot);
        std::vector<uint8_t> y = download(d->state + d->slots[b] * p.slot, p.slot);
        wrong = 0;
        for (int v = 0; v < 2; v++) {
            const size_t sums = (size_t)p.heads * p.dims * 8;
            const size_t means = (v ? p.shapes : p.raw[1]) - p.means[v];
            const int w = memcmp(&x[p.sums[v]], &y[p.sums[v]], sums) != 0;
            const int m = memcmp(&x[p.means[v]], &y[p.means[v]], means) != 0;
            if (w || m) {
                fprintf(stderr, "  stream %d: sums %d means %d\n", v, w, m);
            }
            wrong += (size_t)(w + m);
            for (uint32_t t = 0; t < n; t++) {
                const uint32_t row = t < p.sinks ? t : p.sinks + (t - p.sinks) % p.ring;
                if (t >= p.sinks && t < p.sinks + sealed) continue;
                for (uint32_t h = 0; h < p.heads; h++) {
                    const size_t at =
                        p.raw[v] + ((size_t)h * (p.sinks + p.ring) + row) * p.dims * 2;
                    wrong += memcmp(&x[at], &y[at], p.dims * 2) != 0;
                }
            }
        }
        wrong += memcmp(&x[p.shapes], &y[p.shapes],
                        (size_t)((p.epochs + 3) / 4) * p.heads * p.shape) != 0;
        if (!CHECK(wrong == 0)) {
            fprintf(stderr,
                    "  %s: quantizer %d bits %d dims %u tokens %u: %zu differences of states\n",
                    what, desc->quantizer, desc->bits, desc->dims, n, wrong);
        }
    }
}

/* ---- attention ---- */
struct Row { /* of a reference */
    std::vector<double> out;
    double lse;
    double reach; /* the largest |query| |key| of the tokens that were seen, in units of logits */
};

static Row attend_exactly(Sequence *s, const Shape *c, const float *k, const float *v,
                          const float *q, uint32_t query, uint32_t head, float slope)
{
    const size_t row = (size_t)c->heads * c->dims;
    const uint32_t kv = head / c->group;
    const int64_t position = (int64_t)s->tokens - c->queries + query;
    std::vector<double> logits(s->tokens, -INFINITY);
    double most = -INFINITY;
    double sum = 0;
    Row r;
    double length = 0;
    for (uint32_t d = 0; d < c->dims; d++) {
        length += (double)q[d] * (double)q[d];
    }
    r.reach = 0;
    r.out.assign(c->dims, 0.0);
    for (int64_t t = 0; t <= position; t++) {
        double x = 0;
        double size = 0;
        if (c->sliding && t + c->sliding <= position &&
            !(c->window_sinks && c->sinks != LQ_KV_NONE && t < c->sinks)) {
            continue;
        }
        for (uint32_t d = 0; d < c->dims; d++) {
            x += (double)q[d] * (double)k[t * row + kv * c->dims + d];
            size += (double)k[t * row + kv * c->dims + d] * (double)k[t * row + kv * c->dims + d];
        }
        r.reach = std::max(r.reach, sqrt(length * size / c->dims));
        x /= sqrt((double)c->dims);
        if (c->softcap > 0) x = c->softcap * tanh(x / c->softcap);
        x += slope * (double)(t - position);
        logits[t] = x;
        most = std::max(most, x);
    }
    for (int64_t t = 0; t <= position; t++) {
        const double e = exp(logits[t] - most);
        if (e > 0) {
            sum += e;
            for (uint32_t d = 0; d < c->dims; d++) {
                r.out[d] += e * (double)v[t * row + kv * c->dims + d];
            }
        }
    }
    for (double &x : r.out) {
        x = sum > 0 ? x / sum : 0;
    }
    r.lse = sum > 0 ? most + log(sum) : (double)LQ_KV_NOTHING;
    return r;
}

static void compare_attention(Device *d, const Shape *c, std::vector<Sequence> &s, uint32_t first)
{
    const uint32_t heads = c->heads * c->group;
    const size_t per = (size_t)c->queries * heads * c->dims;
    const size_t size = c->out_type == LQ_F32 ? 4 : 2;
    std::vector<uint8_t> q(d->count * per * size);
    std::vector<float> real(d->count * per), slopes(heads, 0.0f);
    uint8_t *d_q = on_device<uint8_t>(q.size());
    uint8_t *d_out = on_device<uint8_t>(q.size());
    float *d_slopes = on_device<float>(heads);
    float *d_lse = on_device<float>((size_t)d->count * c->queries * heads);
    lq_cuda_attend_desc a = {};
    lq_cuda_batch b = batch_of(d, first, 0);
    std::vector<uint8_t> out;
    std::vector<float> lse;
    double error = 0, energy = 0, lse_error = 0, lse_reach = 0, lse_wanted = 0;
    for (size_t i = 0; i < real.size(); i++) {
        float x = (float)(gauss() * c->peak);
        if (c->out_type == LQ_F32) {
            memcpy(&q[4 * i], &x, 4);
        } else {
            const uint16_t h = half_of(x, c->out_type);
            x = float_of(h, c->out_type);
            memcpy(&q[2 * i], &h, 2);
        }
        real[i] = x;
    }
    for (uint32_t h = 0; h < heads && c->alibi; h++) {
        slopes[h] = exp2f(-1.0f - (float)(h % 8)) / 8;
    }
    upload(d_q, q);
    upload(d_slopes, slopes);
    CU(cudaMemset(d_out, 0xff, q.size()));
    upload(d->d_tokens, d->tokens);
    CU(cudaMemset(d->d_added, 0, 8 * d->count));
    a.heads = heads;
    a.queries = c->queries;
    a.type = c->out_type;
    a.q = d_q;
    a.out = d_out;
    a.softcap = c->softcap;
    a.window = c->sliding;
    a.window_sinks = c->window_sinks;
    a.slopes = c->alibi ? d_slopes : NULL;
    a.lse = d_lse;
    a.workspace_bytes = lq_cuda_attend_workspace_bytes(&d->desc, heads, c->queries, d->count);
    CHECK(a.workspace_bytes > 0);
    a.workspace = on_device<uint8_t>(a.workspace_bytes);
    for (int again = 0; again < 2; again++) {
        CHECK(lq_cuda_attend(&d->layer, &b, &a, 0) == LQ_OK);
        CU(cudaDeviceSynchronize());
        if (again) {
            CHECK(out == download(d_out, q.size())); /* the same from run to run */
        }
        out = download(d_out, q.size());
    }
    lse = download(d_lse, (size_t)d->count * c->queries * heads);
    for (uint32_t i = 0; i < d->count; i++) {
        const size_t row = (size_t)c->heads * c->dims;
        std::vector<float> k(s[i].tokens * row), v(s[i].tokens * row);
        lq_kv_view_out view = {k.data(), 0, 0, LQ_F32};
        CHECK(lq_kv_read(&s[i].kv, 0, LQ_K, &view, 0, s[i].tokens, NULL, 0) == LQ_OK);
        view.data = v.data();
        CHECK(lq_kv_read(&s[i].kv, 0, LQ_V, &view, 0, s[i].tokens, NULL, 0) == LQ_OK);
        for (uint32_t r = 0; r < c->queries * heads; r++) {
            const size_t at = i * per + (size_t)r * c->dims;
            const Row want = attend_exactly(&s[i], c, k.data(), v.data(), &real[at], r / heads,
                                            r % heads, slopes[r % heads]);
            for (uint32_t e = 0; e < c->dims; e++) {
                float x;
                if (c->out_type == LQ_F32) {
                    memcpy(&x, &out[4 * (at + e)], 4);
                } else {
                    uint16_t h;
                    memcpy(&h, &out[2 * (at + e)], 2);
                    x = float_of(h, c->out_type);
                }
                error += ((double)x - want.out[e]) * ((double)x - want.out[e]);
                energy += want.out[e] * want.out[e];
            }
            const double off =
                fabs((double)lse[(size_t)i * c->queries * heads + r] - want.lse) / (1 + want.reach);
            if (off > lse_error) {
                lse_error = off;
                lse_reach = want.reach;
                lse_wanted = want.lse;
            }
        }
    }
    error = sqrt(error / energy);
    {
        const double most = c->out_type == LQ_F32 ? 1e-3 : c->out_type == LQ_F16 ? 1.2e-3 : 4e-3;
        static double worst = 0;
        static double worst_lse = 0;
        if ((c->out_type == LQ_F32 && error > worst) || lse_error > worst_lse) {
            worst = c->out_type == LQ_F32 ? std::max(worst, error) : worst;
            worst_lse = std::max(worst_lse, lse_error);
            printf(
                "attention: error %.2e; of log-sum-exp %.2e, %.2e of itself (quantizer %d bits %d "
                "dims %u group %u)\n",
                error, lse_error, lse_error * (1 + lse_reach) / std::max(1.0, fabs(lse_wanted)),
                c->quantizer, c->bits, c->dims, c->group);
        }
        /* a query is rounded at 15 bits of its largest number, so what a logit is off by goes with
           the lengths of query and key, however small the logit is */
        if (!CHECK(error < most && lse_error < 2e-5)) {
            fprintf(
                stderr,
                "  attention: quantizer %d bits %d dims %u heads %u group %u queries %u type %d: "
                "error %.2e lse %.2e\n",
                c->quantizer, c->bits, c->dims, c->heads, c->group, c->queries, c->type, error,
                lse_error);
        }
    }
    cudaFree(d_q);
    cudaFree(d_out);
    cudaFree(d_slopes);
    cudaFree(d_lse);
    cudaFree(a.workspace);
}

/* Sequences of these lengths: appended on both sides, compared, attended; then both go on. */
static void test_shape(const Shape *c, const std::vector<uint32_t> &lengths, int odd)
{
    const uint32_t count = (uint32_t)lengths.size();
    const uint32_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::vector<Sequence> s(count);
    std::vector<uint32_t> added(count);
    if (!is_compiled(c->quantizer, c->bits, c->dims)) return;
    Device d;
    make_device(&d, c, count, longest / 64 + 2);
    for (uint32_t i = 0; i < count; i++) {
        make_vectors(&s[i], c, lengths[i] + 40, odd);
        make_cache(&s[i], c, lengths[i] + 40);
        append_cpu(&s[i], c, lengths[i]);
    }
    for (int step = 0;; step++) { /* a prompt, then a few tokens at a time, then the rest */
        bool any = false;
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t left = lengths[i] - d.tokens[i];
            const uint32_t n = step == 0 ? lengths[i] / 2 : step < 5 ? rnd() % 12 : left;
            added[i] = std::min(left, n);
            any = any || added[i];
        }
        if (any) {
            append_device(&d, c, s, 0, added);
        } else if (step > 5) {
            break;
        }
    }
    uint32_t flags = download(d.flags, 1)[0];
    CHECK((flags & ~(uint32_t)(odd ? LQ_CUDA_CUT : 0)) == 0);
    load_device(&d, s, count);
    for (uint32_t i = 0; i < count; i++) {
        compare(&d, i, count + i, "appended");
    }
    compare_attention(&d, c, s, 0);
    for (uint32_t i = 0; i < count; i++) {
        append_cpu(&s[i], c, 40);
        added[i] = 40;
    }
    append_device(&d, c, s, count, added); /* what was loaded goes on */
    append_device(&d, c, s, 0, added);
    for (uint32_t i = 0; i < count; i++) {
        compare(&d, i, count + i, "both gone on");
    }
    load_device(&d, s, 0);
    for (uint32_t i = 0; i < count; i++) {
        compare(&d, i, count + i, "gone on");
    }
    compare_attention(&d, c, s, count);
    free_device(&d);
}

static Shape plain(int k, uint32_t dims)
{
    Shape c = {};
    c.quantizer = quantizers[k];
    c.bits = widths[k];
    c.type = LQ_F16;
    c.dims = dims;
    c.heads = 2;
    c.group = 4;
    c.queries = 1;
    c.sinks = 4;
    c.window = 64;
    c.peak = 1;
    c.out_type = LQ_F32;
    return c;
}

/* Records of saved caches with bytes changed or cut off: a status, before anything is copied. */
static void test_records(int rounds)
{
    const uint32_t dims = is_compiled(LQ_Z, 4, 128) ? 128 : 64;
    Shape c = plain(1, dims);
    std::vector<uint8_t> file, work, mem, record, staging;
    lq_archive_source source = {};
    lq_cuda_desc desc = {};
    const uint8_t *bytes = NULL;
    size_t count = 0;
    size_t needed = 0;
    std::vector<uint32_t> ids(8, 0);
    int accepted = 0;
    Sequence s;
    make_vectors(&s, &c, 400, 0);
    make_cache(&s, &c, 400);
    append_cpu(&s, &c, 400);
    work.resize(lq_kv_export_workspace_bytes(&s.kv, NULL));
    CHECK(lq_kv_export(&s.kv, to_vector, &file, NULL, work.data(), work.size()) == LQ_OK);
    source.bytes = file.data();
    source.size = file.size();
    lq_archive_reader reader;
    CHECK(lq_archive_open(&reader, &source, NULL, 0, &needed) == LQ_E_SPACE || needed == 0);
    mem.resize(needed);
    CHECK(lq_archive_open(&reader, &source, mem.data(), mem.size(), &needed) == LQ_OK);
    CHECK(lq_archive_meta(&reader, 0x564b514cu, &bytes, &count) == LQ_OK);
    record.assign(bytes, bytes + count);
    desc.kv_heads = c.heads;
    desc.dims = dims;
    desc.sequences = 1;
    desc.pages = 8;
    desc.table = 8;
    lq_cuda_layer layer;
    CHECK(lq_cuda_layer_init(&layer, (void *)256, (size_t)1 << 40, (void *)256, (size_t)1 << 40,
                             &desc) == LQ_OK);
    staging.resize(lq_cuda_load_bytes(&desc, 600));
    for (int r = 0; r < rounds; r++) {
        std::vector<uint8_t> bad = record, out(record.size() + 4096), directory(record.size() + 64);
        lq_archive_writer_desc to = {};
        uint32_t tokens = 0;
        for (int n = r ? 1 + (int)(rnd() % 3) : 0; n; n--) {
            const size_t limit = rnd() % 2 ? bad.size() : std::min(bad.size(), (size_t)200);
            bad[rnd() % limit] = rnd() % 3 ? (uint8_t)rnd() : (uint8_t)(rnd() % 4);
        }
        if (rnd() % 8 == 0 && r) bad.resize(rnd() % bad.size());
        to.mem = out.data();
        to.mem_bytes = out.size();
        to.directory = directory.data();
        to.directory_bytes = directory.size();
        lq_archive_writer writer;
        CHECK(lq_archive_writer_init(&writer, &to) == LQ_OK);
        CHECK(lq_archive_add_meta(&writer, 0x564b514cu, bad.data(), bad.size()) == LQ_OK);
        CHECK(lq_archive_finish(&writer) == LQ_OK);
        source.bytes = out.data();
        source.size = writer.written;
        int status = lq_archive_open(&reader, &source, mem.data(), mem.size(), &needed);
        CHECK(status == LQ_OK);
        status = lq_cuda_load(&layer, 0, ids.data(), ids.size(), &reader, 0, 0, &tokens,
                              staging.data(), staging.size(), 0);
        CHECK(status < 0); /* its pages are not there */
        accepted += status == LQ_E_DATA && tokens != 0;
        if (r == 0) CHECK(status == LQ_E_DATA && tokens == 400);
    }
    CHECK(accepted > 0);
}

static void test_kinds(void)
{
    for (int k = 0; k < 5; k++) {
        for (uint32_t dims : all_dims) {
            Shape c = plain(k, dims);
            test_shape(&c, {700, 75, 3, 1281}, 0);
            c.type = LQ_BF16;
            test_shape(&c, {333}, 1);
        }
    }
    for (int k = 0; k < 5; k++) { /* steps so long that blocks share the sums */
        Shape c = plain(k, is_compiled(LQ_Z, 4, 128) ? 128 : 64);
        test_shape(&c, {4100, 2050}, k % 2);
    }
}

static void test_ways(bool quick)
{
    const uint32_t groups[] = {1, 2, 4, 7, 8, 16};
    const uint32_t dims = is_compiled(LQ_Z, 4, 128) ? 128 : 64;
    for (int i = 0; i < (quick ? 12 : 40); i++) {
        Shape c = plain(i % 3 == 2 ? 4 : 1, i % 4 == 3 ? 64 : dims);
        std::vector<uint32_t> lengths;
        c.group = groups[i % 6];
        c.heads = 1 + rnd() % 3;
        c.queries = i < 6 ? 1 : 1 + rnd() % 8;
        c.sinks = i % 5 == 4 ? LQ_KV_NONE : 4;
        c.window = i % 7 == 6 ? 24 + rnd() % 80 : 64;
        c.type = i % 2 ? LQ_BF16 : LQ_F16;
        c.out_type = i % 4 == 1 ? LQ_F16 : i % 4 == 2 ? LQ_BF16 : LQ_F32;
        c.softcap = i % 4 == 2 ? 20.0f : 0.0f;
        c.sliding = i % 5 == 3 ? 1 + rnd() % 600 : 0;
        c.window_sinks = i % 2;
        c.alibi = i % 6 == 5;
        c.peak = i % 8 == 7 ? 12 : i % 8 == 3 ? 0.01 : 1;
        for (uint32_t n = 1 + rnd() % 5; n; n--) {
            lengths.push_back(c.queries + rnd() % (n == 1 ? 3000 : 500));
        }
        test_shape(&c, lengths, 0);
    }
}

/* 10^8 numbers of a kind. */
static void test_many(int k, uint32_t tokens)
{
    Shape c = plain(k, 128);
    std::vector<Sequence> s(1);
    if (!is_compiled(c.quantizer, c.bits, 128)) return;
    c.heads = 8;
    Device d;
    make_device(&d, &c, 1, tokens / 64 + 2);
    make_vectors(&s[0], &c, tokens, 0);
    make_cache(&s[0], &c, tokens);
    append_cpu(&s[0], &c, tokens);
    append_device(&d, &c, s, 0, {tokens});
    load_device(&d, s, 1);
    compare(&d, 0, 1, "many");
    free_device(&d);
}

/* Forks share pages. */
static void test_fork(void)
{
    Shape c = plain(1, 128);
    std::vector<Sequence> s(1);
    if (!is_compiled(LQ_Z, 4, 128)) return;
    Device d;
    make_device(&d, &c, 1, 8);
    make_vectors(&s[0], &c, 300, 0);
    make_cache(&s[0], &c, 300);
    append_device(&d, &c, s, 0, {252});
    uint32_t pages = lq_cuda_pages_of(&d.desc, 252);
    CHECK(pages == 3);
    for (uint32_t j = 0; j + 1 < pages; j++) {
        d.tables[d.desc.table + j] = d.tables[j];
    }
    upload(d.d_tables, d.tables);
    CHECK(lq_cuda_fork(&d.layer, d.slots[1], d.slots[0], d.tables[d.desc.table + pages - 1],
                       d.tables[pages - 1], 0) == LQ_OK);
    d.tokens[1] = d.tokens[0];
    append_device(&d, &c, s, 0, {48});
    append_device(&d, &c, s, 1, {48});
    append_cpu(&s[0], &c, 300);
    compare(&d, 0, 1, "forked");
    compare_attention(&d, &c, s, 1);
    free_device(&d);
}

/* Anything may stand in tables, pages and states. */
static void test_hostile(int rounds)
{
    for (int r = 0; r < rounds; r++) {
        const int k = r % 5;
        Shape c = plain(k, 128);
        std::vector<uint8_t> noise;
        std::vector<uint16_t> rows(4 * 20 * 2 * 128);
        uint16_t *d_rows = on_device<uint16_t>(rows.size());
        lq_cuda_view view = {d_rows, 20 * 256, 256, 128};
        lq_cuda_attend_desc a = {};
        std::vector<uint32_t> words(8);
        if (!is_compiled(c.quantizer, c.bits, 128)) {
            cudaFree(d_rows);
            continue;
        }
        c.group = r % 2 ? 4 : 8;
        Device d;
        make_device(&d, &c, 4, 9);
        noise.resize(lq_cuda_pool_bytes(&d.desc));
        for (uint8_t &x : noise) {
            x = (uint8_t)rnd();
        }
        upload(d.pool, noise);
        noise.resize(lq_cuda_state_bytes(&d.desc));
        for (uint8_t &x : noise) {
            x = (uint8_t)rnd();
        }
        upload(d.state, noise);
        for (uint16_t &x : rows) {
            x = (uint16_t)rnd();
        }
        upload(d_rows, rows);
        for (uint32_t &x : d.tables) {
            x = rnd() % 4 ? x : rnd() % 2 ? rnd() : d.desc.pages;
        }
        upload(d.d_tables, d.tables);
        for (uint32_t i = 0; i < 8; i++) {
            words[i] = rnd() % 3 ? rnd() % 700 : rnd();
        }
        upload(d.d_tokens, words);
        for (uint32_t i = 0; i < 8; i++) {
            words[i] = rnd() % 4 ? rnd() % 21 : rnd();
        }
        upload(d.d_added, words);
        for (uint32_t i = 0; i < 8; i++) {
            words[i] = rnd() % 4 ? rnd() % 9 : rnd();
        }
        upload(d.d_slots, words);
        lq_cuda_batch b = batch_of(&d, 0, 20);
        CHECK(lq_cuda_append(&d.layer, &b, &view, &view, 0) == LQ_OK);
        a.heads = 2 * c.group;
        a.queries = 1 + r % 3;
        a.q = on_device<uint16_t>(4 * a.queries * a.heads * 128);
        CU(cudaMemset((void *)(uintptr_t)a.q, r % 2 ? 0x3c : 0x7f, 8 * a.queries * a.heads * 128));
        a.out = on_device<uint16_t>(4 * a.queries * a.heads * 128);
        a.workspace_bytes = lq_cuda_attend_workspace_bytes(&d.desc, a.heads, a.queries, 4);
        a.workspace = on_device<uint8_t>(a.workspace_bytes);
        CHECK(lq_cuda_attend(&d.layer, &b, &a, 0) == LQ_OK);
        CU(cudaDeviceSynchronize());
        CHECK(download(d.flags, 1)[0] != 0);
        cudaFree((void *)(uintptr_t)a.q);
        cudaFree(a.out);
        cudaFree(a.workspace);
        cudaFree(d_rows);
        free_device(&d);
    }
}

/* ---- coded pages ---- */
/* A group whose vectors are made of few hidden numbers, its calibrated basis, and its codec. */
struct Group {
    std::vector<uint32_t> dims;
    std::vector<lq_role> roles;
    std::vector<float> freqs[2];
    lq_rope ropes[2];
    lq_geometry geometry;
    std::vector<std::vector<uint16_t>> from;
    std::vector<const void *> slices;
    std::vector<uint8_t> file, profile_mem, codec_mem, pages;
    std::vector<size_t> sizes;
    lq_profile profile;
    lq_codec_desc desc;
    lq_codec *codec;
    uint32_t tokens;
    int type;
};

static const lq_tables *coder_tables(void)
{
    static std::vector<uint8_t> mem(lq_tables_bytes());
    static const lq_tables *tables = NULL;
    if (!tables) CHECK(lq_tables_init(&tables, mem.data(), mem.size()) == LQ_OK);
    return tables;
}

static void group_vectors(Group *g, uint32_t hidden, double tail)
{
    size_t all = 0;
    for (uint32_t d : g->dims) {
        all += d;
    }
    std::vector<float> mix(all * hidden), state(hidden), x(all * g->tokens);
    for (float &m : mix) {
        m = (float)gauss();
    }
    for (uint32_t t = 0; t < g->tokens; t++) {
        const double gain = exp(0.4 * gauss()) * (rnd() % 50 == 0 ? tail : 1.0);
        for (uint32_t h = 0; h < hidden; h++) {
            state[h] = (float)(gauss() * pow(0.03, (double)h / hidden));
        }
        for (size_t i = 0; i < all; i++) {
            double sum = 0.02 * gauss() + (double)(i % 7) * 0.3;
            for (uint32_t h = 0; h < hidden; h++) {
                sum += gain * (double)mix[i * hidden + h] * (double)state[h];
            }
            x[t * all + i] = (float)sum;
        }
    }
    g->from.clear();
    g->slices.clear();
    for (size_t s = 0, first = 0; s < g->dims.size(); first += g->dims[s++]) {
        std::vector<uint16_t> v((size_t)g->tokens * 256, 0);
        for (size_t t = 0; t < g->tokens; t++) {
            for (uint32_t d = 0; d < g->dims[s]; d++) {
                v[t * 256 + d] = half_of(x[t * all + first + d], g->type);
            }
        }
        g->from.push_back(v);
    }
    for (std::vector<uint16_t> &v : g->from) {
        g->slices.push_back(v.data());
    }
}

/* stream LQ_K, LQ_V, LQ_KV: half of the slices are keys. way: of its ropes. */
static void make_group(Group *g, uint32_t stream, const std::vector<uint32_t> &dims, int way,
                       uint32_t tokens, float step, double tail)
{
    lq_klt klt;
    lq_klt_desc how = {};
    size_t written = 0, needed = 0;
    lq_positions at = {5, 3, NULL};
    uint32_t gain = 0;
    g->dims = dims;
    g->roles.clear();
    g->tokens = tokens;
    g->type = way & 1 ? LQ_BF16 : LQ_F16;
    for (int r = 0; r < 2; r++) {
        g->freqs[r].clear();
        g->ropes[r] = {};
        g->ropes[r].rotary_dims = r ? dims[0] / 4 * 2 : dims[0] / 2 * 2;
        g->ropes[r].layout = r ? LQ_ROPE_ADJACENT : LQ_ROPE_HALF;
        g->ropes[r].magnitude = r ? 1.25f : 0.0f;
        for (uint32_t i = 0; i < g->ropes[r].rotary_dims / 2; i++) {
            g->freqs[r].push_back(powf(r ? 1e6f : 1e4f, -(float)i / 20.0f));
        }
        g->ropes[r].freqs = g->freqs[r].data();
    }
    for (size_t s = 0; s < dims.size(); s++) {
        lq_role role = {};
        const uint32_t own = s < dims.size() / 2 ? (uint32_t)LQ_K : (uint32_t)LQ_V;
        role.stream = stream == LQ_KV ? own : stream;
        if (role.stream == LQ_V) {
            role.gain = way & 2 ? gain++ : 0;
        } else if (way < 3 && dims[s] >= g->ropes[0].rotary_dims) {
            role.rope = &g->ropes[way == 2 ? s % 2 : way];
        }
        g->roles.push_back(role);
    }
    g->geometry = {};
    g->geometry.stream = stream;
    g->geometry.slice_count = (uint32_t)dims.size();
    g->geometry.slice_dims = g->dims.data();
    g->geometry.roles = g->roles.data();
    group_vectors(g, (uint32_t)dims[0] / 2, tail);
    lq_vectors src = {g->slices.data(), 256, g->type};
    std::vector<uint8_t> mem(lq_klt_bytes(&g->geometry)),
        work(lq_klt_workspace_bytes(&g->geometry));
    CHECK(lq_klt_init(&klt, mem.data(), mem.size(), &g->geometry) == LQ_OK);
    CHECK(lq_klt_add(&klt, &src, &at, tokens, work.data(), work.size()) == LQ_OK);
    work.resize(lq_klt_profile_workspace_bytes(&klt));
    g->file.resize(lq_klt_profile_bound(&klt));
    how.step = step;
    how.own = 1;
    CHECK(lq_klt_profile(&klt, g->file.data(), g->file.size(), &written, &how, NULL, work.data(),
                         work.size()) == LQ_OK);
    CHECK(lq_profile_load(&g->profile, NULL, 0, &needed, g->file.data(), written) == LQ_E_SPACE);
    g->profile_mem.resize(needed);
    CHECK(lq_profile_load(&g->profile, g->profile_mem.data(), needed, &needed, g->file.data(),
                          written) == LQ_OK);
    g->desc = {};
    g->desc.tables = coder_tables();
    g->desc.profile = &g->profile;
    g->desc.geometry = g->geometry;
    g->desc.step = step;
    g->desc.profile_index = 3;
    g->codec_mem.resize(lq_codec_bytes(&g->desc));
    CHECK(lq_codec_init(&g->codec, g->codec_mem.data(), g->codec_mem.size(), &g->desc) == LQ_OK);
}

/* Pages of the first tokens, one behind the other. */
static void group_encode(Group *g, uint32_t tokens, const lq_positions *at)
{
    std::vector<uint8_t> work(lq_codec_workspace_bytes(g->codec));
    lq_vectors src = {g->slices.data(), 256, g->type};
    size_t written = 0;
    g->sizes.resize((tokens + 63) / 64);
    g->pages.resize(g->sizes.size() * lq_codec_page_bound(g->codec));
    CHECK(lq_codec_encode(g->codec, g->pages.data(), g->pages.size(), &written, g->sizes.data(),
                          &src, at, tokens, work.data(), work.size()) == LQ_OK);
    g->pages.resize(written);
}

/* Decodes g->pages on both sides. Returns the CPU's status; whether the device said the same, and
   how many numbers are other ones, are checked. */
static int compare_restored(Group *g, const lq_cuda_codec *codec, uint32_t tokens,
                            const lq_positions *at, int out_type)
{
    const size_t slices = g->dims.size();
    const size_t pages = g->sizes.size();
    std::vector<std::vector<uint16_t>> want(slices);
    std::vector<void *> host(slices), device(slices);
    std::vector<const uint8_t *> sources;
    std::vector<uint64_t> offsets;
    std::vector<uint32_t> sizes;
    std::vector<int64_t> list;
    std::vector<uint8_t> work(lq_codec_workspace_bytes(g->codec));
    lq_vectors_out out = {host.data(), 260, out_type};
    size_t begin = 0;
    for (size_t s = 0; s < slices; s++) {
        want[s].assign((size_t)tokens * 260, 0);
        host[s] = want[s].data();
        device[s] = on_device<uint16_t>((size_t)(tokens + 16) * 260);
    }
    for (size_t i = 0; i < pages; begin += g->sizes[i++]) {
        sources.push_back(g->pages.data() + begin);
        offsets.push_back(begin);
        sizes.push_back((uint32_t)g->sizes[i]);
    }
    int status = lq_codec_decode(g->codec, &out, at, tokens, sources.data(), g->sizes.data(),
                                 work.data(), work.size());
    lq_cuda_pages p = {};
    uint8_t *d_bytes = on_device<uint8_t>(g->pages.size());
    uint64_t *d_offsets = on_device<uint64_t>(pages);
    uint32_t *d_sizes = on_device<uint32_t>(pages);
    int64_t *d_list = on_device<int64_t>(tokens);
    void **d_slices = on_device<void *>(slices);
    upload(d_bytes, g->pages);
    upload(d_offsets, offsets);
    upload(d_sizes, sizes);
    upload(d_slices, device);
    for (uint32_t t = 0; t < tokens && at->list; t++) {
        list.push_back(at->list[t]);
    }
    if (at->list) upload(d_list, list);
    p.bytes = d_bytes;
    p.bytes_count = g->pages.size();
    p.offsets = d_offsets;
    p.sizes = d_sizes;
    p.tokens = tokens;
    p.positions = at->list ? d_list : NULL;
    p.first = at->first;
    p.stride = at->stride;
    p.flags = on_device<uint32_t>(1);
    const uint32_t block = tokens % 4 ? 0 : 16; /* of some the blocks are in reverse */
    std::vector<uint32_t> blocks;
    for (uint32_t i = 0; i < (tokens + 15) / 16; i++) {
        blocks.push_back((tokens + 15) / 16 - 1 - i);
    }
    uint32_t *d_blocks = on_device<uint32_t>(blocks.size());
    upload(d_blocks, blocks);
    lq_cuda_vectors to = {
        d_slices, 260, out_type, d_blocks, (uint32_t)blocks.size(), block, (size_t)block * 260};
    const size_t bytes = lq_cuda_decode_workspace_bytes(codec, tokens);
    uint8_t *workspace = on_device<uint8_t>(bytes);
    CU(cudaMemset(workspace, 0xa5, bytes));
    CHECK(lq_cuda_decode(codec, &to, &p, workspace, bytes - 1, 0) == LQ_E_SPACE);
    if (block && status == LQ_OK) { /* a block outside */
        to.block_count--;
        CHECK(lq_cuda_decode(codec, &to, &p, workspace, bytes, 0) == LQ_OK);
        CU(cudaDeviceSynchronize());
        CHECK(download(p.flags, 1)[0] == LQ_CUDA_BAD_PAGE);
        CU(cudaMemset(p.flags, 0, 4));
        to.block_count++;
    }
    to.blocks = NULL;
    CHECK(!block || lq_cuda_decode(codec, &to, &p, workspace, bytes, 0) == LQ_E_ARG);
    to.blocks = d_blocks;
    CHECK(lq_cuda_decode(codec, &to, &p, workspace, bytes, 0) == LQ_OK);
    CU(cudaDeviceSynchronize());
    const uint32_t flags = download(p.flags, 1)[0];
    if (!CHECK((status == LQ_OK) == (flags == 0) && (flags & ~(uint32_t)LQ_CUDA_BAD_DATA) == 0)) {
        fprintf(stderr, "  restore: status %d flags %u tokens %u\n", status, flags, tokens);
    }
    size_t other = 0, far = 0, all = 0;
    for (size_t s = 0; s < slices && status == LQ_OK; s++) {
        std::vector<uint16_t> have =
            download((const uint16_t *)device[s], (size_t)(tokens + 16) * 260);
        for (size_t i = 0; i < blocks.size() / 2 && block; i++) { /* as they follow each other */
            std::swap_ranges(have.begin() + i * 16 * 260, have.begin() + (i + 1) * 16 * 260,
                             have.begin() + (blocks.size() - 1 - i) * 16 * 260);
        }
        have.resize((size_t)tokens * 260);
        for (uint32_t t = 0; t < tokens; t++) { /* floats of 24 bits: what is near 0 may be off */
            const uint16_t *x = &have[(size_t)t * 260];
            const uint16_t *y = &want[s][(size_t)t * 260];
            float top = 0;
            for (uint32_t e = 0; e < g->dims[s]; e++) {
                top = std::max(top, fabsf(float_of(y[e], out_type)));
            }
            for (uint32_t e = 0; e < 260; e++) {
                const int32_t apart = (int16_t)x[e] - (int16_t)y[e];
                const float off = fabsf(float_of(x[e], out_type) - float_of(y[e], out_type));
                other += apart != 0;
                far += (apart < -1 || apart > 1) && !(off <= top * 1e-6f);
            }
        }
        all += (size_t)tokens * g->dims[s];
    }
    if (!CHECK(far == 0 && other * 1000 <= all + 4000)) {
        fprintf(stderr, "  restore: of %zu numbers %zu are others, %zu far; stream %u tokens %u\n",
                all, other, far, g->geometry.stream, tokens);
    }
    for (void *x : device) {
        cudaFree(x);
    }
    cudaFree(d_bytes);
    cudaFree(d_offsets);
    cudaFree(d_sizes);
    cudaFree(d_list);
    cudaFree(d_slices);
    cudaFree(d_blocks);
    cudaFree(p.flags);
    cudaFree(workspace);
    return status;
}

static uint8_t *make_codec(lq_cuda_codec *codec, const Group *g)
{
    const size_t bytes = lq_cuda_codec_bytes(&g->desc);
    uint8_t *mem = on_device<uint8_t>(bytes);
    uint8_t *staging = NULL;
    CU(cudaMallocHost(&staging, lq_cuda_codec_staging_bytes(&g->desc)));
    CHECK(lq_cuda_codec_init(codec, mem, bytes - 1, staging, lq_cuda_codec_staging_bytes(&g->desc),
                             &g->desc, 0) == LQ_E_SPACE);
    CHECK(lq_cuda_codec_init(codec, mem, bytes, staging, lq_cuda_codec_staging_bytes(&g->desc),
                             &g->desc, 0) == LQ_OK);
    CU(cudaDeviceSynchronize());
    cudaFreeHost(staging);
    return mem;
}

/* Pages from the CPU's encoder, whole and damaged, are the same numbers on both sides. */
static void test_restore(bool quick)
{
    const std::vector<uint32_t> shapes[] = {{64, 64, 64, 64}, {128, 128}, {80, 80, 24, 24, 24},
                                            {50, 50, 7, 7},   {192, 64},  {16, 16}};
    const uint32_t streams[] = {LQ_KV, LQ_KV, LQ_KV, LQ_K, LQ_V, LQ_KV};
    const float steps[] = {0.7f, 0.1f, 0.004f, 2.5f};
    const uint32_t lengths[] = {700, 1, 31, 32, 33, 63, 64, 65, 96, 129, 300};
    size_t damaged = 0, refused = 0;
    for (int i = 0; i < (quick ? 6 : 24); i++) {
        Group g;
        lq_cuda_codec codec;
        make_group(&g, streams[i % 6], shapes[i % 6], (i + i / 6) % 4, 700, steps[(i + i / 4) % 4],
                   i % 3 ? 1.0 : 30.0);
        CHECK(lq_cuda_codec_bytes(&g.desc) > 0);
        uint8_t *mem = make_codec(&codec, &g);
        for (uint32_t tokens : lengths) {
            std::vector<int64_t> list;
            for (uint32_t t = 0; t < tokens; t++) {
                list.push_back((int64_t)(rnd() % 100000) - 500);
            }
            lq_positions at = {i == 1 ? -77 : 1000, tokens % 2 ? 0 : 5, NULL};
            if (tokens % 3 == 0) at = {0, 0, list.data()};
            group_encode(&g, tokens, &at);
            CHECK(compare_restored(&g, &codec, tokens, &at, tokens % 2 ? LQ_F16 : LQ_BF16) ==
                  LQ_OK);
        }
        for (int n = 0; n < (quick ? 8 : 40); n++) { /* damaged ones */
            const uint32_t tokens = 1 + rnd() % 200;
            lq_positions at = {0, 1, NULL};
            group_encode(&g, tokens, &at);
            for (uint32_t k = rnd() % 4 + 1; k; k--) {
                g.pages[rnd() % 3 ? rnd() % g.pages.size()
                                  : rnd() % std::min(g.pages.size(), (size_t)120)] ^=
                    (uint8_t)(1u << rnd() % 8);
            }
            if (n % 8 == 7) { /* cut */
                const size_t cut = std::min(g.sizes.back(), (size_t)(rnd() % 9));
                g.pages.erase(g.pages.end() - (ptrdiff_t)g.sizes.back(),
                              g.pages.end() - (ptrdiff_t)(g.sizes.back() - cut));
                g.sizes.back() -= cut;
            }
            damaged++;
            refused += compare_restored(&g, &codec, tokens, &at, LQ_F16) != LQ_OK;
        }
        cudaFree(mem);
    }
    CHECK(refused > 0);
    printf("restore: of %zu damaged sequences of pages %zu are refused, by both sides\n", damaged,
           refused);
}

/* What the device does not decode is refused, without one too. */
static void test_codecs(void)
{
    Group g;
    lq_cuda_codec codec;
    uint64_t memory[64];
    void *at = (void *)(((uintptr_t)memory + 127) / 128 * 128);
    make_group(&g, LQ_KV, {32, 32}, 0, 200, 0.5f, 1.0);
    const size_t bytes = lq_cuda_codec_bytes(&g.desc);
    CHECK(bytes > 0 && lq_cuda_codec_staging_bytes(&g.desc) > bytes);
    CHECK(lq_cuda_codec_bytes(NULL) == 0 && lq_cuda_decode_workspace_bytes(NULL, 64) == 0);
    CHECK(lq_cuda_codec_init(&codec, at, 0, at, 0, &g.desc, 0) == LQ_E_SPACE);
    CHECK(lq_cuda_codec_init(&codec, (void *)((uintptr_t)at + 8), 0, at, 0, &g.desc, 0) ==
          LQ_E_ARG);
    CHECK(lq_cuda_codec_init(&codec, at, 0, at, 0, NULL, 0) == LQ_E_ARG);
    g.desc.quantizer = LQ_E8;
    CHECK(lq_cuda_codec_bytes(&g.desc) == 0);
    CHECK(lq_cuda_codec_init(&codec, at, 0, at, 0, &g.desc, 0) == LQ_E_FORMAT);
    g.desc.quantizer = 0;
    g.desc.step = 0;
    CHECK(lq_cuda_codec_init(&codec, at, 0, at, 0, &g.desc, 0) == LQ_E_ARG);
}

int main(int argc, char **argv)
{
    const bool quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    const bool many = argc > 1 && strcmp(argv[1], "long") == 0;
    int devices = 0;
    test_layout();
    test_arguments();
    test_records(quick ? 500 : 5000);
    test_codecs();
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no CUDA device, so only layout and records were tested\n");
        return check_report("test_cuda");
    }
    for (int k = 0; k < 5 && many; k++) {
        test_many(k, 49000);
    }
    if (!many) {
        test_kinds();
        test_ways(quick);
        test_fork();
        test_restore(quick);
        test_hostile(quick ? 10 : 60);
    }
    return check_report("test_cuda");
}
