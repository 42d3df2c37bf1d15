/* cc -std=c99 -O2 tests/test_warm.c -o test_warm -lm    warm pages of lq_kv: attention by decoding
   against plain attention to what lq_kv_read gives back, and all that can happen to such a cache.
   `test_warm 100 7` makes 100 random caches from seed 7, `test_warm quick` six. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#include "../latticequant.h"

#include "check.h"
#include "source.h"
#include "unpack.h"

enum { TOKENS_MOST = 900, TOKENS_ROOM = 1700, LAYERS_MOST = 3, NUMBERS = 4 * 128 };

static const lq_tables *tables;
static const lq_tables *packed; /* the same */
static lq_kv_desc desc;
static lq_kv_layer layers[LAYERS_MOST];
static float *given[LAYERS_MOST][2]; /* (tokens, heads * dims) */
static float *back[2];
static float freqs[64];
static lq_rope rope;
static double slack = 1; /* logits of large keys see the last bits of their steps */

/* Whether pages of a layer may be attended by their symbols, which rounds queries, weights and y to
   bytes. */
static int is_rounded(const lq_kv *kv, uint32_t l)
{
    const lq__kv_pool *pool = lq__kv_pool_of(kv);
    const lq__kv_layer *layer = lq__kv_layers(pool) + lq__kv_layers(pool)[l].owner;
    int rounded = 0;
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        const lq__kv_head *head = lq__kv_heads(pool, layer) + h;
        rounded |= lq__kv_is_warm(head, 0) && head->warm[0].quantizer == LQ_Z;
        rounded |= lq__kv_is_warm(head, 1) && head->warm[1].quantizer == LQ_Z;
    }
    return rounded && lq__warm_symbols_of_level();
}

static size_t dims_of(int v)
{
    size_t rest = desc.v_in_k ? desc.k_dims - (desc.v_in_k - 1) : desc.k_dims;
    return !v ? desc.k_dims : desc.v_dims ? desc.v_dims : rest;
}

static size_t row_of(int v)
{
    return desc.kv_heads * dims_of(v);
}

static lq_kv_policy warm(int quantizer, int bits, float step)
{
    lq_kv_policy p;
    memset(&p, 0, sizeof p);
    p.kind = LQ_KV_WARM;
    p.quantizer = quantizer;
    p.bits = bits;
    p.step = step;
    return p;
}

/* Vectors with channels of unlike width and mean, as models have them. */
static void make_tokens(size_t tokens, float scale)
{
    slack = scale > 1 ? (double)scale / 3 : 1;
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (int v = 0; v < 2; v++) {
            size_t row = row_of(v);
            for (size_t i = 0; i < tokens * row; i++) {
                size_t c = i % row;
                float width = 0.3f + (float)(c * 7 % 11) * 0.15f;
                float mean = (float)(c % 5) - 2.0f;
                given[l][v][i] = scale * (width * (float)source_gauss() + (v ? 0.2f : 1.0f) * mean);
                if (source_below(5000) == 0) given[l][v][i] *= 20.0f;
            }
        }
    }
}

/* Values that are among the keys, back from the cache: those dims of them, to the bit. */
static void check_values(const lq_kv *kv)
{
    size_t n = lq_kv_tokens(kv) * desc.kv_heads;
    int same = desc.v_in_k != 0;
    for (size_t i = 0; i < n && same; i++) {
        same = memcmp(back[1] + i * dims_of(1), back[0] + i * dims_of(0) + desc.v_in_k - 1,
                      4 * dims_of(1)) == 0;
    }
    CHECK(same || !desc.v_in_k);
}

/* Appends tokens at .. at + n to all layers. */
static int append(lq_kv *kv, size_t at, size_t n)
{
    for (uint32_t l = 0; l < desc.layers; l++) {
        lq_kv_view k;
        memset(&k, 0, sizeof k);
        lq_kv_view v;
        memset(&v, 0, sizeof v);
        k.data = given[l][0] + at * row_of(0);
        v.data = given[l][1] + at * row_of(1);
        int status = lq_kv_append(kv, l, &k, desc.v_in_k ? NULL : &v, NULL, n);
        if (status != LQ_OK) return status;
    }
    return LQ_OK;
}

static void append_steps(lq_kv *kv, size_t tokens)
{
    size_t at = lq_kv_tokens(kv);
    while (at < tokens) {
        size_t n = 1 + source_below(source_below(2) ? 5 : 200);
        n = n < tokens - at ? n : tokens - at;
        CHECK(n <= lq_kv_room(kv));
        CHECK(append(kv, at, n) == LQ_OK);
        at += n;
    }
}

static void read_all(const lq_kv *kv, uint32_t l, float *dst, int v)
{
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    out.data = dst;
    CHECK(lq_kv_read(kv, l, v ? LQ_V : LQ_K, &out, 0, lq_kv_tokens(kv), NULL, 0) == LQ_OK);
}

/* ---- plain attention ---- */
static double biased(const lq_kv_attend_desc *d, double dot, size_t h, size_t i, size_t t,
                     int64_t distance)
{
    double x = dot * (double)d->scale;
    if (d->softcap > 0) x = (double)d->softcap * tanh(x / (double)d->softcap);
    if (d->slopes) x += (double)d->slopes[h] * (double)distance;
    if (d->bias) {
        x += (double)d->bias[h * d->bias_head_stride + i * d->bias_query_stride + t - d->first];
    }
    return x;
}

/* One row of out, its lse, and mass. */
static void plain(const lq_kv *kv, const lq_kv_attend_desc *d, const float *q, size_t h, size_t i,
                  double *out, double *lse, double *mass)
{
    static double x[TOKENS_ROOM];
    size_t tokens = lq_kv_tokens(kv);
    size_t end = d->count ? d->first + d->count : tokens;
    size_t kv_head = h / (d->heads / desc.kv_heads);
    int64_t at = 0;
    double most = -1e300;
    double sum = 0;
    CHECK(lq_kv_position(kv, tokens - d->queries + i, &at) == LQ_OK);
    for (size_t t = d->first; t < end; t++) {
        int64_t p = 0;
        double dot = 0;
        CHECK(lq_kv_position(kv, t, &p) == LQ_OK);
        x[t] = -1e300;
        if ((!d->all && p > at) ||
            (d->window && d->window != LQ_KV_NONE && p <= at - (int64_t)d->window &&
             !(d->window_sinks && t < lq__kv_sequence_of(kv)->sinks))) {
            continue;
        }
        for (size_t c = 0; c < dims_of(0); c++) {
            dot += (double)q[c] * (double)back[0][(t * desc.kv_heads + kv_head) * dims_of(0) + c];
        }
        x[t] = biased(d, dot, h, i, t, p - at);
        most = x[t] > most ? x[t] : most;
    }
    memset(out, 0, dims_of(1) * sizeof *out);
    for (size_t t = d->first; t < end; t++) {
        double w = x[t] > -1e29 ? exp(x[t] - most) : 0;
        sum += w;
        for (size_t c = 0; c < dims_of(1); c++) {
            out[c] += w * (double)back[1][(t * desc.kv_heads + kv_head) * dims_of(1) + c];
        }
    }
    for (size_t c = 0; c < dims_of(1) && sum > 0; c++) {
        out[c] /= sum;
    }
    *lse = sum > 0 ? most + log(sum) : -1e30;
    for (size_t t = d->first; t < end && sum > 0; t++) {
        mass[t] += x[t] > -1e29 ? exp(x[t] - most) / sum : 0;
    }
}

static void check_rows(const lq_kv *kv, const lq_kv_attend_desc *d, const float *q,
                       const float *out, const float *lse, const float *mass)
{
    static double want[128];
    static double want_mass[TOKENS_ROOM];
    size_t tokens = lq_kv_tokens(kv);
    double error = 0;
    double power = 0;
    int rounded = is_rounded(kv, d->layer);
    /* reading turns a token's coefficients back from a calibrated basis in 16 bits together */
    double limit = rounded ? 1e-3 : desc.profiles ? 1e-5 : 1e-6;
    double wide = rounded ? 16 * slack : slack;
    memset(want_mass, 0, sizeof want_mass);
    for (size_t i = 0; i < d->queries; i++) {
        for (size_t h = 0; h < d->heads; h++) {
            size_t row = i * d->heads + h;
            double want_lse;
            plain(kv, d, q + row * dims_of(0), h, i, want, &want_lse, want_mass);
            CHECK(fabs(want_lse - (double)lse[row]) <= 2e-3 * (wide + fabs(want_lse) * 1e-2) ||
                  (want_lse < -1e29 && lse[row] < -1e29f));
            for (size_t c = 0; c < dims_of(1); c++) {
                double e = (double)out[row * dims_of(1) + c] - want[c];
                error += e * e;
                power += want[c] * want[c];
            }
        }
    }
    CHECK(error <= limit * slack * power + 1e-12);
    for (size_t i = d->first; i < (d->count ? d->first + d->count : tokens) && d->mass; i++) {
        CHECK(fabs((double)mass[i - d->first] - want_mass[i]) <=
              2e-3 * wide * (0.01 + want_mass[i]));
    }
}

/* Bounds are above all logits, and all pages are as good as no choice. */
static void check_sparse(const lq_kv *kv, lq_kv_attend_desc *d, const float *q, const float *out)
{
    static float again[8 * 8 * 128];
    d->top_pages = 1 + source_below(3);
    d->out.data = again;
    d->mass = NULL;
    if (!desc.sparse) {
        CHECK(lq_kv_attend(kv, d) == LQ_E_ARG);
        return;
    }
    CHECK(lq_kv_attend(kv, d) == LQ_OK);
    d->top_pages = 1000;
    CHECK(lq_kv_attend(kv, d) == LQ_OK);
    CHECK(memcmp(out, again, 4 * d->queries * d->heads * dims_of(1)) == 0);
    if (lq__kv_sequence_of(kv)->turned || d->queries > 1) return;
    lq__kv_reader r;
    CHECK(lq__kv_reader_init(&r, kv, d) == LQ_OK);
    uint8_t *block = (uint8_t *)source_alloc(lq_kv_attend_workspace_bytes(kv));
    uint8_t *mem = block + 63 - ((uintptr_t)(block + 63) & 63);
    lq__arena arena = lq__arena_of(mem, r.pool->attend_bytes);
    lq__kv_reader_place(&r, &arena, r.pool);
    for (size_t head = 0; head < desc.kv_heads; head++) {
        lq__kv_reader_use(&r, head);
        r.rows.count = LQ__MIN(r.group, (size_t)8);
        r.rows.first = 0;
        lq__kv_ready(&r);
        for (size_t p = 0; p < lq__kv_count_of(kv, r.layer)->pages; p++) {
            const lq__kv_page *page = lq__kv_pages(kv, r.layer) + p;
            double most = -1e30;
            lq__kv_score_ready(&r, page->epoch);
            for (size_t t = page->first; t < page->first + page->count; t++) {
                for (size_t h = 0; h < r.rows.count; h++) {
                    double x = 0;
                    for (size_t c = 0; c < dims_of(0); c++) {
                        x += (double)q[(r.kv_head * r.group + h) * dims_of(0) + c] *
                             (double)back[0][(t * desc.kv_heads + r.kv_head) * dims_of(0) + c];
                    }
                    x *= (double)d->scale;
                    most = x > most ? x : most;
                }
            }
            CHECK((double)lq__kv_score(&r, page) >= most - 2.0 * slack);
        }
    }
    free(block);
}

/* Attention with random options against the plain one; heads that are hot have integer queries, so
   only warm and raw ones are compared. */
static void check_attend(const lq_kv *kv, int options)
{
    static float q[8 * 8 * 128];
    static float out[8 * 8 * 128];
    static float lse[64];
    static float mass[TOKENS_ROOM];
    static float slopes[8];
    static float *bias;
    size_t tokens = lq_kv_tokens(kv);
    if (!bias) bias = (float *)source_alloc(sizeof(float) * 64 * TOKENS_ROOM);
    lq_kv_attend_desc d;
    for (uint32_t l = 0; l < desc.layers; l++) {
        memset(&d, 0, sizeof d);
        d.layer = l;
        d.heads = desc.kv_heads * (1 + source_below(4));
        d.heads = d.heads > 8 ? desc.kv_heads : d.heads;
        d.queries = 1 + source_below(options ? 4 : 1);
        d.queries = d.queries < tokens ? d.queries : 1;
        d.scale = 0.5f / sqrtf((float)dims_of(0));
        d.window = LQ_KV_NONE;
        if (options) {
            d.softcap = source_below(3) ? 0 : 3.0f;
            d.window = source_below(2) ? LQ_KV_NONE : 1 + source_below(300);
            d.window_sinks = d.window != LQ_KV_NONE && source_below(2);
            d.all = (int)source_below(2);
            d.first = source_below(3) ? 0 : source_below((uint32_t)tokens);
            d.count = source_below(2) ? 0 : 1 + source_below((uint32_t)(tokens - d.first));
            d.slopes = source_below(2) ? NULL : slopes;
            d.bias = source_below(2) ? NULL : bias;
            d.bias_head_stride = d.queries * TOKENS_ROOM;
            d.bias_query_stride = TOKENS_ROOM;
        }
        d.lse = lse;
        d.mass = source_below(2) ? mass : NULL;
        d.q.data = q;
        d.out.data = out;
        for (size_t i = 0; i < d.queries * d.heads * dims_of(0); i++) {
            q[i] = (float)source_gauss();
        }
        for (size_t i = 0; i < 8; i++) {
            slopes[i] = (float)source_uniform() * 0.01f;
        }
        for (size_t i = 0; i < 64 * TOKENS_ROOM; i++) {
            bias[i] = source_below(9) ? (float)source_uniform() : -INFINITY;
        }
        memset(mass, 0, sizeof mass);
        read_all(kv, l, back[0], 0);
        read_all(kv, l, back[1], 1);
        check_values(kv);
        CHECK(lq_kv_attend(kv, &d) == LQ_OK);
        check_rows(kv, &d, q, out, lse, mass);
        check_sparse(kv, &d, q, out);
    }
}

/* What must always hold of the arena. */
static void check_arena(const lq_kv *kv)
{
    const lq__kv_pool *pool = lq__kv_pool_of(kv);
    size_t all = 0;
    for (uint32_t l = 0; l < pool->layers && pool->warm; l++) {
        const lq__kv_layer *layer = lq__kv_layers(pool) + l;
        size_t held = 0;
        size_t reserved = 0;
        for (int v = 0; v < 2; v++) {
            for (size_t i = 0; i < layer->marks.count && layer->warm[v]; i++) {
                uint32_t ref = *lq__kv_blob_ref(pool, l, v, (uint32_t)i);
                if (ref == LQ__KV_RESERVED) {
                    reserved += layer->least[v];
                } else if (ref) {
                    const uint8_t *blob = lq__kv_blob(pool, ref);
                    CHECK(lq__load32(blob) == 2 * l + (uint32_t)v && lq__load32(blob + 4) == i);
                    held += lq__kv_units(lq__kv_blob_size(pool, blob));
                }
            }
        }
        CHECK(held == layer->held && reserved == layer->reserved);
        CHECK(held + reserved <= layer->arena);
        all += held;
    }
    CHECK(all == pool->held && all <= pool->bump && pool->bump <= pool->arena);
    lq_kv_account a;
    CHECK(lq_kv_stats(kv, &a) == LQ_OK);
    CHECK(a.page_bytes + a.free_bytes + a.raw_bytes + a.table_bytes + a.workspace_bytes ==
          lq_kv_bytes(&desc));
}

static uint32_t digest(const lq_kv *kv)
{
    uint32_t hash = 7;
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (int v = 0; v < 2; v++) {
            const lq__kv_pool *pool = lq__kv_pool_of(kv);
            const lq__kv_layer *layer = lq__kv_layers(pool) + l;
            for (size_t i = 0; i < lq__kv_count_of(kv, layer)->pages && pool->sparse && !v; i++) {
                hash = lq_xxh32(lq__kv_bounds(pool, layer, lq__kv_pages(kv, layer)[i].mark, 0),
                                desc.kv_heads * lq__kv_bound_bytes(pool, layer), hash);
            }
            read_all(kv, l, back[v], v);
            hash = lq_xxh32(back[v], lq_kv_tokens(kv) * row_of(v) * 4, hash);
            for (size_t p = 0; p < lq__kv_count_of(kv, layer)->pages && layer->warm[v]; p++) {
                uint32_t ref = *lq__kv_blob_ref(pool, l, v, lq__kv_pages(kv, layer)[p].mark);
                if (ref > LQ__KV_RESERVED) {
                    const uint8_t *blob = lq__kv_blob(pool, ref);
                    hash = lq_xxh32(blob + LQ__KV_BEHIND, lq__kv_blob_size(pool, blob), hash);
                }
            }
        }
    }
    return hash;
}

static void *make(lq_kv *kv)
{
    size_t bytes = lq_kv_bytes(&desc);
    void *mem = source_alloc(bytes ? bytes : 1);
    CHECK(bytes > 0);
    memset(mem, 0xa5, bytes);
    CHECK(lq_kv_init(kv, mem, bytes, &desc) == LQ_OK);
    return mem;
}

static void basic_desc(void)
{
    memset(&desc, 0, sizeof desc);
    memset(layers, 0, sizeof layers);
    desc.layers = 2;
    desc.kv_heads = 2;
    desc.k_dims = 64;
    desc.tokens = TOKENS_MOST;
    desc.tables = tables;
    desc.k = warm(0, 0, 0.4f);
    desc.v = warm(0, 0, 0.4f);
}

/* ---- tests ---- */
static void test_arguments(void)
{
    basic_desc();
    CHECK(lq_kv_bytes(&desc) > 0);
    desc.tables = NULL;
    CHECK(lq_kv_bytes(&desc) == 0);
    desc.tables = tables;
    desc.k.step = 0;
    CHECK(lq_kv_bytes(&desc) == 0);
    desc.k.step = -1.0f;
    CHECK(lq_kv_bytes(&desc) == 0);
    desc.k.step = 1.0f;
    desc.k.bits = 9;
    CHECK(lq_kv_bytes(&desc) == 0);
    desc.k.bits = 0;
    for (int quantizer = LQ_TRELLIS_8; quantizer <= 7; quantizer++) {
        desc.k.quantizer = quantizer;
        CHECK(lq_kv_bytes(&desc) == 0);
    }
    desc.k.quantizer = LQ_D4;
    desc.v.step = 100.0f;
    CHECK(lq_kv_bytes(&desc) == 0);
    desc.v.step = 0.5f;
    desc.k.kind = LQ_KV_HOT;
    CHECK(lq_kv_bytes(&desc) == 0); /* a step */
    lq_kv kv;
    (void)kv;
}

static void op_evict(lq_kv *kv);
static void check_saved(lq_kv *kv, int flips);

static void test_plain(int quantizer, int level, int v_in_k)
{
    basic_desc();
    desc.k.quantizer = quantizer;
    desc.v.quantizer = quantizer;
    if (v_in_k) {
        desc.v_in_k = 9;
        desc.v_dims = 40;
        desc.v = warm(77, 0, -1.0f); /* is not looked at */
    }
    CHECK(lq_cpu_limit(level) >= 0);
    lq_kv kv;
    void *mem = make(&kv);
    make_tokens(700, 1.0f);
    append_steps(&kv, 700);
    check_arena(&kv);
    for (size_t n = 0; n < 6; n++) {
        check_attend(&kv, n > 0);
    }
    lq_kv_free(&kv);
    free(mem);
    (void)lq_cpu_limit(-1);
}

/* Caches of fewer than eight pages, whose coders have tables of their own: of one kind (values then
   have another quantizer), or mixed. */
static void test_small(int quantizer, int level, int mixed)
{
    static const size_t sizes[4] = {128, 200, 260, 520};
    for (size_t s = 0; s < 4; s++) {
        basic_desc();
        desc.tokens = sizes[s];
        desc.k.quantizer = quantizer;
        desc.v.quantizer = quantizer % 4 + 1;
        if (mixed) memset(s % 2 ? &desc.k : &desc.v, 0, sizeof desc.k);
        desc.tables = (s + (size_t)mixed) % 2 ? packed : tables;
        CHECK(lq_cpu_limit(level) >= 0);
        lq_kv kv;
        void *mem = make(&kv);
        make_tokens(sizes[s], 1.0f);
        append_steps(&kv, sizes[s]);
        check_arena(&kv);
        check_attend(&kv, 0);
        check_attend(&kv, 1);
        op_evict(&kv);
        check_attend(&kv, 1);
        check_arena(&kv);
        desc.tables = desc.tables == tables ? packed : tables; /* they are not told apart */
        check_saved(&kv, 1);
        lq_kv_free(&kv);
        free(mem);
    }
    (void)lq_cpu_limit(-1);
}

/* Eight pages at a time, which some levels attend by their symbols: one number in `rare` is 20
   steps from the others, one channel in three is wider or narrower. */
static void test_flights(int level, uint32_t rare, float channels)
{
    basic_desc();
    desc.tokens = TOKENS_ROOM;
    CHECK(lq_cpu_limit(level) >= 0);
    lq_kv kv;
    void *mem = make(&kv);
    make_tokens(1650, 1.0f);
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (int v = 0; v < 2; v++) {
            for (size_t i = 0; i < 1650 * row_of(v); i++) {
                given[l][v][i] *= rare < 20 ? 0.2f : 1.0f;
                given[l][v][i] += source_below(rare) == 0 ? i & 1 ? 8.0f : -8.0f : 0.0f;
                given[l][v][i] *= i % row_of(v) % 3 == 0 ? channels : 1.0f;
            }
        }
    }
    slack = (double)(channels > 1 ? channels : 1.0f);
    append_steps(&kv, 1650);
    for (size_t n = 0; n < 4; n++) {
        check_attend(&kv, n > 1);
    }
    lq_kv_free(&kv);
    free(mem);
    (void)lq_cpu_limit(-1);
}

/* Weights as bytes: each within a unit, and of many small ones beside a large one the sum stays. */
static void test_weights(void)
{
    const lq__warm_symbol_kernels *kernels = lq__warm_symbols_of_level();
    static float weights[LQ__WARM_FLIGHT * LQ__HOT_ROWS * LQ__TOKENS];
    static uint8_t bytes[LQ__WARM_FLIGHT * LQ__WARM_WEIGHTS];
    for (int run = 0; run < 60 && kernels; run++) {
        double small = run % 6 ? pow(10.0, -run % 6) : 0;
        double sum = 0;
        double got = 0;
        uint32_t high = 0;
        for (size_t i = 0; i < 512; i++) {
            size_t at = i / 64 * LQ__HOT_ROWS * LQ__TOKENS + i % 64;
            weights[at] = (float)(small * (0.5 + source_below(1000) / 1000.0));
            weights[at] = i == 77 && run < 40 ? 1.0f : weights[at];
        }
        double unit = (double)kernels->weights(bytes, weights, &high);
        for (size_t i = 0; i < 512; i++) {
            size_t at = i / 64 * LQ__HOT_ROWS * LQ__TOKENS + i % 64;
            size_t token = i % 64 / 32 * 32; /* the even ones of 32 come first in weights */
            token += i % 32 < 16 ? i % 32 * 2 : i % 32 * 2 - 31;
            size_t place = i / 64 * LQ__WARM_WEIGHTS + LQ__RANS_PLACE(token);
            double w = unit * (bytes[place] + 256 * bytes[place + 64]);
            CHECK(fabs(w - (double)weights[at]) <= unit * 1.001);
            CHECK(bytes[place + 64] == 0 || (high >> i / 64 & 1));
            sum += (double)weights[at];
            got += w;
        }
        CHECK(fabs(got - sum) <= 40 * unit); /* of 512 roundings: 4 deviations */
    }
}

/* Keys and values of unlike kinds are read as floats. */
static void test_mixed(void)
{
    for (int kind = 0; kind < 4; kind++) {
        basic_desc();
        desc.v_dims = kind & 1 ? 128 : 0;
        lq_kv_policy other;
        memset(&other, 0, sizeof other);
        other.kind = kind & 2 ? LQ_KV_HOT : LQ_KV_RAW;
        if (kind & 1) {
            desc.k = other;
        } else {
            desc.v = other;
        }
        make_tokens(600, 1.0f);
        lq_kv kv;
        void *mem = make(&kv);
        append_steps(&kv, 600);
        for (int n = 0; n < 3; n++) {
            check_attend(&kv, 1);
        }
        op_evict(&kv);
        check_attend(&kv, 1);
        check_saved(&kv, 3);
        lq_kv_free(&kv);
        free(mem);
    }
}

/* Few pages answer the query: choosing them is as good as attending all, in storage of any kind. */
static void test_needle(void)
{
    static float q[2 * 64];
    static float out[2][2 * 64];
    for (int kind = 0; kind < 3; kind++) {
        double error = 0;
        double power = 0;
        basic_desc();
        desc.sparse = 1;
        desc.type = LQ_F32;
        if (kind) {
            memset(&desc.k, 0, sizeof desc.k);
            desc.k.kind = kind == 1 ? LQ_KV_HOT : LQ_KV_RAW;
            desc.v = desc.k;
        }
        make_tokens(800, 1.0f);
        for (size_t i = 0; i < 128; i++) {
            q[i] = (float)source_gauss();
            for (size_t t = 430; t < 440; t++) {
                given[0][0][t * 128 + i] += q[i] * 3.0f;
            }
        }
        lq_kv kv;
        void *mem = make(&kv);
        append_steps(&kv, 800);
        lq_kv_attend_desc d;
        memset(&d, 0, sizeof d);
        d.heads = 2;
        d.q.data = q;
        d.out.data = out[0];
        CHECK(lq_kv_attend(&kv, &d) == LQ_OK);
        d.out.data = out[1];
        d.top_pages = 4;
        CHECK(lq_kv_attend(&kv, &d) == LQ_OK);
        for (size_t i = 0; i < 128; i++) {
            error += pow((double)out[0][i] - (double)out[1][i], 2);
            power += pow((double)out[0][i], 2);
        }
        CHECK(error < 1e-3 * power);
        lq_kv_free(&kv);
        free(mem);
    }
}

/* Any steps, any level: the same bytes. */
static void test_steps(void)
{
    basic_desc();
    desc.sparse = 1;
    make_tokens(500, 1.0f);
    lq_kv a;
    void *mem[2];
    mem[0] = make(&a);
    CHECK(append(&a, 0, 500) == LQ_OK);
    uint32_t hash[3];
    hash[0] = digest(&a);
    lq_kv b;
    for (int i = 0; i < 3; i++) {
        CHECK(lq_cpu_limit(i) >= 0);
        mem[1] = make(&b);
        append_steps(&b, 500);
        CHECK(digest(&b) == hash[0]);
        lq_kv_free(&b);
        free(mem[1]);
    }
    (void)lq_cpu_limit(-1);
    lq_kv_free(&a);
    free(mem[0]);
}

/* ---- random caches and operations ---- */
static lq_kv_policy policies[LAYERS_MOST][8];

static lq_kv_policy random_policy(int v)
{
    static const float steps[4] = {0.15f, 0.3f, 0.5f, 1.0f};
    lq_kv_policy p = warm((int)source_below(5), (int)source_below(9), steps[source_below(4)]);
    (void)v;
    if (source_below(4) == 0) {
        memset(&p, 0, sizeof p);
        p.kind = LQ_KV_RAW;
    }
    return p;
}

static void random_desc(void)
{
    static const uint32_t sizes[5] = {8, 32, 64, 40, 128};
    basic_desc();
    desc.layers = 1 + source_below(LAYERS_MOST);
    desc.kv_heads = 1 + source_below(3);
    desc.k_dims = sizes[source_below(5)];
    desc.v_dims = source_below(2) ? 0 : sizes[source_below(5)];
    desc.sequences = 2;
    desc.sinks = source_below(3) ? 0 : LQ_KV_NONE;
    desc.window = source_below(3) ? source_below(100) : LQ_KV_NONE;
    desc.type = source_below(2) ? 0 : LQ_F32;
    desc.pages = source_below(2) ? 0 : 8 + source_below(8);
    desc.k = random_policy(0);
    desc.v = random_policy(1);
    desc.layer = layers;
    uint32_t h;
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (h = 0; h < 2 * desc.kv_heads && source_below(2); h++) {
            policies[l][h] = random_policy(h >= desc.kv_heads);
            layers[l].heads = policies[l];
        }
        for (; h < 2 * desc.kv_heads; h++) {
            memset(&policies[l][h], 0, sizeof policies[l][h]);
        }
    }
    desc.sparse = (int)source_below(2);
    rope.rotary_dims = 8;
    rope.layout = 1 + source_below(2);
    rope.freqs = freqs;
    for (uint32_t l = 0; l < 4; l++) {
        freqs[l] = (float)source_uniform();
    }
    desc.rope = &rope;
    if (source_below(3) == 0 && desc.k_dims > 8) {
        desc.v_in_k = 9 + 8 * source_below((desc.k_dims - 8) / 8);
        desc.v_dims = source_below(2) ? 0 : 8;
    }
}

/* Appends what there is room for, up to n tokens. */
static void op_append(lq_kv *kv, size_t n)
{
    size_t room = lq_kv_room(kv);
    size_t at = lq_kv_tokens(kv);
    n = n < room ? n : room;
    n = n < TOKENS_MOST - at ? n : TOKENS_MOST - at;
    if (n) CHECK(append(kv, at, n) == LQ_OK);
    if (lq_kv_room(kv) < desc.tokens - lq_kv_tokens(kv)) {
        CHECK(append(kv, 0, lq_kv_room(kv) + 1) == LQ_E_FULL);
    }
}

/* Dropped tokens are gone, all others as they were, to the bit. */
static void op_evict(lq_kv *kv)
{
    static uint8_t keep[TOKENS_MOST];
    static float before[2][LAYERS_MOST][TOKENS_MOST * NUMBERS];
    size_t tokens = lq_kv_tokens(kv);
    size_t t;
    uint32_t share = source_below(10);
    for (t = 0; t < tokens; t++) {
        keep[t] = source_below(10) > share || (t / 50) % 3 == 1;
    }
    for (uint32_t l = 0; l < desc.layers; l++) {
        read_all(kv, l, before[0][l], 0);
        read_all(kv, l, before[1][l], 1);
    }
    int status = lq_kv_evict(kv, keep, tokens);
    CHECK(status == LQ_OK || status == LQ_E_FULL);
    if (status != LQ_OK) memset(keep, 1, sizeof keep);
    size_t to;
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (int v = 0; v < 2; v++) {
            size_t row = row_of(v);
            int same = 1;
            read_all(kv, l, back[v], v);
            for (t = 0, to = 0; t < tokens; t++) {
                if (keep[t]) {
                    same = same && memcmp(back[v] + to * row, before[v][l] + t * row, row * 4) == 0;
                    to++;
                }
            }
            CHECK(same && to == lq_kv_tokens(kv));
        }
    }
}

/* What is sealed stays to the bit, what becomes raw stays near. */
static void op_truncate(lq_kv *kv)
{
    static float before[2][LAYERS_MOST][TOKENS_MOST * NUMBERS];
    size_t left = source_below((uint32_t)lq_kv_tokens(kv) + 1);
    for (uint32_t l = 0; l < desc.layers; l++) {
        read_all(kv, l, before[0][l], 0);
        read_all(kv, l, before[1][l], 1);
    }
    CHECK(lq_kv_truncate(kv, left) == LQ_OK);
    CHECK(lq_kv_tokens(kv) == left);
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (int v = 0; v < 2; v++) {
            double worst = 0;
            read_all(kv, l, back[v], v);
            for (size_t i = 0; i < left * row_of(v); i++) {
                /* shifted keys are rotated with their pair */
                const float *pair = before[v][l] + i - i % dims_of(v);
                double a = 1e-3 * fabs((double)before[v][l][i]) + 1e-6;
                double e = fabs((double)back[v][i] - (double)before[v][l][i]);
                for (size_t j = 0; j < 8 && !v; j++) {
                    a += 1e-3 * fabs((double)pair[j]);
                }
                worst = e / a > worst ? e / a : worst;
            }
            CHECK(worst <= 1);
        }
    }
}

static void test_random(void)
{
    int live = 0;
    random_desc();
    make_tokens(TOKENS_MOST, source_below(4) ? 1.0f : 30.0f);
    lq_kv kv[2];
    void *mem = make(&kv[0]);
    for (int i = 0; i < 14; i++) {
        lq_kv *one = &kv[live ? source_below(2) : 0];
        switch (source_below(8)) {
        case 0:
            op_truncate(one);
            break;
        case 1:
            op_evict(one);
            break;
        case 2:
            if (live) {
                lq_kv_free(&kv[1]);
                live = 0;
            } else {
                CHECK(lq_kv_fork(&kv[1], &kv[0]) == LQ_OK);
                CHECK(digest(&kv[1]) == digest(&kv[0]));
                live = 1;
            }
            break;
        case 3:
            if (lq_kv_tokens(one) > 20) {
                size_t first = lq_kv_tokens(one) / 2;
                CHECK(lq_kv_shift(one, first, lq_kv_tokens(one) - first, 3 + source_below(40)) ==
                      LQ_OK);
            }
            break;
        default:
            op_append(one, 1 + source_below(source_below(2) ? 20 : 300));
        }
        check_arena(&kv[0]);
        if (lq_kv_tokens(one)) check_attend(one, 1);
    }
    check_saved(&kv[0], 3);
    if (live) lq_kv_free(&kv[1]);
    lq_kv_free(&kv[0]);
    free(mem);
}

/* ---- saving ---- */
static uint8_t file[16 << 20];

static size_t save(const lq_kv *kv)
{
    size_t workspace;
    size_t directory;
    CHECK(lq_kv_save_bytes(kv, &workspace, &directory) == LQ_OK);
    uint8_t *work = (uint8_t *)source_alloc(workspace);
    uint8_t *room = (uint8_t *)source_alloc(directory + 64);
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = file;
    w.mem_bytes = sizeof file;
    w.directory = room;
    w.directory_bytes = directory + 64;
    lq_archive_writer writer;
    CHECK(lq_archive_writer_init(&writer, &w) == LQ_OK);
    CHECK(lq_kv_save(kv, &writer, 5, work, workspace) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    free(work);
    free(room);
    return (size_t)writer.offset;
}

/* A status, and the cache when that is LQ_OK. */
static int load(lq_kv *kv, size_t bytes)
{
    lq_archive_source source;
    size_t needed = 0;
    memset(&source, 0, sizeof source);
    source.bytes = file;
    source.size = bytes;
    lq_archive_reader reader;
    (void)!lq_archive_open(&reader, &source, NULL, 0, &needed);
    uint8_t *index = (uint8_t *)source_alloc(needed + 1);
    int status = lq_archive_open(&reader, &source, index, needed, NULL);
    if (status == LQ_OK) {
        uint8_t *work = (uint8_t *)source_alloc(lq_kv_load_workspace_bytes(kv));
        status = lq_kv_load(kv, &reader, 5, work, lq_kv_load_workspace_bytes(kv));
        free(work);
    }
    free(index);
    return status;
}

/* A loaded cache is the saved one and goes on like it; flipped bytes of pages are refused or give a
   cache that works. */
static void check_saved(lq_kv *kv, int flips)
{
    lq_kv copy;
    void *mem = make(&copy);
    size_t bytes = save(kv);
    CHECK(load(&copy, bytes) == LQ_OK);
    CHECK(lq_kv_tokens(&copy) == lq_kv_tokens(kv));
    CHECK(digest(&copy) == digest(kv));
    check_arena(&copy);
    lq_kv fork;
    if (lq_kv_tokens(kv) < 700 && lq_kv_fork(&fork, kv) == LQ_OK) {
        if (lq_kv_room(&copy) >= 150 && lq_kv_room(&fork) >= 150) {
            CHECK(append(&copy, 0, 150) == LQ_OK);
            CHECK(append(&fork, 0, 150) == LQ_OK);
            CHECK(digest(&copy) == digest(&fork));
        }
        lq_kv_free(&fork);
    }
    for (int i = 0; i < flips; i++) {
        size_t at = source_below((uint32_t)bytes);
        uint8_t old = file[at];
        CHECK(lq_kv_truncate(&copy, 0) == LQ_OK);
        file[at] = (uint8_t)(old ^ (1 + source_below(255)));
        if (load(&copy, bytes) == LQ_OK) {
            check_attend(&copy, 0);
        } else {
            CHECK(lq_kv_tokens(&copy) == 0 && lq__kv_pool_of(&copy)->held == 0);
        }
        file[at] = old;
    }
    lq_kv_free(&copy);
    free(mem);
}

/* Packed cold and unpacked into another warm cache. */
static void test_packed(void)
{
    size_t workspace = 0;
    size_t directory = 0;
    size_t needed = 0;
    double error = 0;
    double power = 0;
    basic_desc();
    make_tokens(700, 1.0f);
    lq_kv kv;
    void *mem = make(&kv);
    lq_kv other;
    void *mem2 = make(&other);
    append_steps(&kv, 700);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    pack.tables = tables;
    pack.sequence = 3;
    pack.k_step = 0.1f;
    pack.v_step = 0.1f;
    CHECK(lq_kv_pack_bytes(&kv, &pack, &workspace, &directory) == LQ_OK);
    void *work = source_alloc(workspace);
    void *room = source_alloc(directory + 64);
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    w.mem = file;
    w.mem_bytes = sizeof file;
    w.directory = room;
    w.directory_bytes = directory + 64;
    lq_archive_writer writer;
    CHECK(lq_archive_writer_init(&writer, &w) == LQ_OK);
    CHECK(lq_kv_pack(&kv, &writer, &pack, work, workspace) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    free(work);
    free(room);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = file;
    source.size = writer.offset;
    lq_archive_reader reader;
    (void)!lq_archive_open(&reader, &source, NULL, 0, &needed);
    room = source_alloc(needed + 1);
    CHECK(lq_archive_open(&reader, &source, room, needed, NULL) == LQ_OK);
    workspace = lq_kv_unpack_workspace_bytes(&other, &reader, 3);
    work = source_alloc(workspace);
    CHECK(unpack(&other, &reader, tables, 3, work, workspace) == LQ_OK);
    CHECK(lq_kv_tokens(&other) == 700);
    read_all(&kv, 1, back[0], 0);
    read_all(&other, 1, back[1], 0);
    for (size_t i = 0; i < 700 * row_of(0); i++) {
        error += pow((double)back[0][i] - (double)back[1][i], 2);
        power += pow((double)back[0][i], 2);
    }
    CHECK(error < 0.02 * power);
    check_arena(&other);
    free(work);
    free(room);
    lq_kv_free(&kv);
    lq_kv_free(&other);
    free(mem);
    free(mem2);
}

/* Hostile blobs: what lq__kv_read_blob lets through can be attended. */
static void test_hostile(int rounds)
{
    int passed = 0;
    basic_desc();
    desc.layers = 1;
    desc.k_dims = 32;
    desc.k.quantizer = LQ_E8;
    make_tokens(300, 1.0f);
    lq_kv kv;
    void *mem = make(&kv);
    lq_kv other;
    void *mem2 = make(&other);
    CHECK(append(&kv, 0, 300) == LQ_OK);
    CHECK(append(&other, 0, 300) == LQ_OK);
    for (int i = 0; i < rounds; i++) {
        lq__kv_pool *pool = lq__kv_pool_of(&kv);
        const lq__kv_page *page = lq__kv_pages(&kv, lq__kv_layers(pool)) +
                                  source_below((uint32_t)lq__kv_counts(&kv)[0].pages);
        int v = (int)source_below(2);
        const uint8_t *blob = lq__kv_blob(pool, *lq__kv_blob_ref(pool, 0, v, page->mark));
        size_t count = lq__kv_blob_size(pool, blob);
        uint8_t *bytes = (uint8_t *)source_alloc(count);
        int flips = 1 + (int)source_below(4);
        memcpy(bytes, blob + LQ__KV_BEHIND, count);
        while (flips--) {
            bytes[source_below((uint32_t)(source_below(2) ? count : 60))] ^=
                (uint8_t)(1u << source_below(8));
        }
        if (lq__kv_read_blob(&other, lq__kv_layers(pool), v, page, bytes, count) == LQ_OK) {
            lq_kv_attend_desc d;
            memset(&d, 0, sizeof d);
            float q[64];
            memset(q, 0, sizeof q);
            d.heads = 2;
            d.q.data = q;
            float out[64];
            d.out.data = out;
            CHECK(lq_kv_attend(&other, &d) == LQ_OK);
            passed++;
        }
        free(bytes);
    }
    CHECK(passed >= 0);
    lq_kv_free(&kv);
    lq_kv_free(&other);
    free(mem);
    free(mem2);
}

/* Hostile numbers: units and gains that no fit makes are refused, all classes are taken. */
static void test_numbers(void)
{
    basic_desc();
    make_tokens(400, 1.0f);
    lq_kv kv;
    void *mem = make(&kv);
    CHECK(append(&kv, 0, 400) == LQ_OK);
    for (int v = 0; v < 2; v++) {
        const lq__kv_layer *layer = lq__kv_layers(lq__kv_pool_of(&kv));
        size_t dims = layer->dims[v];
        size_t mean = lq__kv_mean_bytes(dims);
        CHECK(layer->number_bytes[v] == layer->kv_heads * (mean + 2 + dims));
        CHECK(lq__kv_check_numbers(&kv, 0, v));
        lq__kv_lane lane = lq__kv_lane_of(&kv, layer, (size_t)v * layer->kv_heads + 1);
        uint8_t *numbers = lq__kv_numbers(&lane, 2);
        for (size_t i = 1; i < mean; i++) {
            numbers[i] = (uint8_t)source_below(256);
        }
        for (size_t i = 0; i < dims; i++) {
            numbers[mean + 2 + i] = (uint8_t)source_below(256);
        }
        CHECK(lq__kv_check_numbers(&kv, 0, v));
        numbers[mean] = 128; /* -128 quarter octaves */
        CHECK(lq__kv_check_numbers(&kv, 0, v) == !v);
        numbers[mean] = 127;
        numbers[mean + 1] = 255;
        CHECK(lq__kv_check_numbers(&kv, 0, v));
        numbers[0] = 25;
        CHECK(!lq__kv_check_numbers(&kv, 0, v));
    }
    lq_kv_free(&kv);
    free(mem);
}

/* Room runs out at 4 bits with pages of 7: pages are coded coarser, then there is none. */
static void test_room(void)
{
    basic_desc();
    desc.k = warm(0, 2, 0.05f);
    desc.v = warm(0, 2, 0.05f);
    make_tokens(TOKENS_MOST, 1.0f);
    lq_kv kv;
    void *mem = make(&kv);
    size_t n;
    for (n = 0; n < TOKENS_MOST && append(&kv, n, 1) == LQ_OK; n++) {
        if (n % 64 == 0) check_arena(&kv);
    }
    CHECK(n == TOKENS_MOST && lq_kv_room(&kv) == 0); /* `tokens` are a promise */
    lq_kv_account a;
    CHECK(lq_kv_stats(&kv, &a) == LQ_OK && a.hot_tokens % 64 == 0);
    check_attend(&kv, 0);
    op_evict(&kv);
    check_arena(&kv);
    CHECK(lq_kv_truncate(&kv, 40) == LQ_OK);
    for (n = 0; n < 3; n++) {
        op_append(&kv, 150);
        check_attend(&kv, 1);
        op_truncate(&kv);
        check_arena(&kv);
    }
    CHECK(lq_kv_truncate(&kv, 0) == LQ_OK);
    CHECK(lq__kv_pool_of(&kv)->held == 0 && lq__kv_layers(lq__kv_pool_of(&kv))->reserved == 0);
    lq_kv_free(&kv);
    free(mem);
}

/* `tokens` are a promise: a prompt of them in one step fits, whatever the kinds, windows and sizes;
   and what eviction frees can be filled again, but for a tenth. */
enum { PROMISE_KINDS = 9 };

static void promise_desc(int kind, size_t tokens, uint32_t window)
{
    memset(&desc, 0, sizeof desc);
    memset(layers, 0, sizeof layers);
    desc.layers = 2;
    desc.kv_heads = 2;
    desc.k_dims = 16;
    desc.tokens = tokens;
    desc.window = window;
    desc.tables = tables;
    desc.layer = layers;
    layers[1].window = kind % 2 ? 40 : 0;
    desc.step_tokens = 64;
    desc.k.kind = desc.v.kind = LQ_KV_HOT;
    switch (kind) {
    case 0:
        break;
    case 1:
        desc.v.quantizer = LQ_E8;
        break;
    case 2:
        desc.k.bits = 3;
        desc.v.kind = LQ_KV_RAW;
        break;
    case 3:
    case 4:
        desc.k = warm(0, 2, 0.02f); /* a step much too fine for 2 bits */
        desc.v = warm(LQ_E8, 2, 0.04f);
        break;
    case 5:
        desc.k = warm(0, 0, 0.3f);
        desc.v = warm(LQ_D4, 0, 0.3f);
        break;
    case 6:
        desc.v = warm(0, 1, 0.04f); /* and keys are hot */
        break;
    case 7:
        desc.k = warm(0, 3, 0.1f);
        layers[0].v.kind = LQ_KV_RAW;
        break;
    default:
        desc.sparse = 1;
        break;
    }
}

static void test_promise(void)
{
    static const size_t sizes[9] = {1, 5, 40, 63, 69, 129, 700, 1000, 2000};
    static const uint32_t windows[4] = {0, LQ_KV_NONE, 9, 130};
    uint8_t keep[2000];
    for (int kind = 0; kind < PROMISE_KINDS; kind++) {
        for (size_t i = 0; i < 9; i++) {
            for (int w = 0; w < 4; w++) {
                promise_desc(kind, sizes[i], windows[w]);
                if (w == 0) make_tokens(sizes[i], 1.0f);
                lq_kv kv;
                void *mem = make(&kv);
                CHECK(lq_kv_room(&kv) == sizes[i]);
                CHECK(append(&kv, 0, sizes[i]) == LQ_OK && lq_kv_room(&kv) == 0);
                check_arena(&kv);
                for (size_t t = 0; t < 1000 && sizes[i] == 1000; t++) { /* masks of four kinds */
                    int odd = w == 3 ? source_below(2) != 0 : t % 2 != 0;
                    keep[t] = (uint8_t)(w == 1 ? t >= 500 : w == 2 ? t % 100 < 50 : odd);
                }
                if (sizes[i] == 1000) {
                    CHECK(lq_kv_evict(&kv, keep, 1000) == LQ_OK);
                    size_t room = lq_kv_room(&kv);
                    if (!CHECK(room + 50 >= 1000 - lq_kv_tokens(&kv))) {
                        printf("kind %d, mask %d: room %d after %d tokens\n", kind, w, (int)room,
                               (int)lq_kv_tokens(&kv));
                    }
                    CHECK(append(&kv, 0, room) == LQ_OK);
                    check_arena(&kv);
                }
                lq_kv_free(&kv);
                free(mem);
            }
        }
    }
}

/* A step that breaks off gives back what it set aside. */
static void test_broken_step(void)
{
    basic_desc();
    make_tokens(400, 1.0f);
    lq_kv kv;
    void *mem = make(&kv);
    CHECK(append(&kv, 0, 200) == LQ_OK);
    lq_kv_view k;
    memset(&k, 0, sizeof k);
    lq_kv_view v;
    memset(&v, 0, sizeof v);
    k.data = given[0][0];
    v.data = given[0][1];
    CHECK(lq_kv_append(&kv, 0, &k, &v, NULL, 200) == LQ_OK);
    CHECK(lq__kv_layers(lq__kv_pool_of(&kv))[1].reserved > 0);
    check_arena(&kv);
    CHECK(lq_kv_truncate(&kv, 200) == LQ_OK);
    CHECK(lq__kv_layers(lq__kv_pool_of(&kv))[1].reserved == 0);
    check_arena(&kv);
    CHECK(append(&kv, 200, 200) == LQ_OK);
    check_attend(&kv, 1);
    lq_kv_free(&kv);
    free(mem);
}

/* Numbers of all sizes: steps are doubled until the codec takes them. */
static void test_sizes(void)
{
    static const float scales[6] = {1e-30f, 1e-4f, 100.0f, 1e5f, 5e8f, 0.0f};
    for (int i = 0; i < 6; i++) {
        double power = 0;
        double error = 0;
        basic_desc();
        desc.type = LQ_F32;
        make_tokens(300, scales[i] > 1e8f ? 1e6f : scales[i]);
        for (uint32_t l = 0; l < desc.layers; l++) {
            for (int v = 0; v < 2; v++) {
                for (size_t j = 0; j < 300 * row_of(v); j++) {
                    float m = given[l][v][j];
                    given[l][v][j] = m > 1e9f ? 1e9f : m < -1e9f ? -1e9f : m;
                }
            }
        }
        lq_kv kv;
        void *mem = make(&kv);
        append_steps(&kv, 300);
        lq_kv_account a;
        CHECK(lq_kv_stats(&kv, &a) == LQ_OK && a.hot_tokens >= 192);
        for (uint32_t l = 0; l < desc.layers; l++) {
            read_all(&kv, l, back[0], 0);
            read_all(&kv, l, back[1], 1);
            for (int v = 0; v < 2; v++) {
                for (size_t j = 0; j < 300 * row_of(v); j++) {
                    double x = (double)given[l][v][j];
                    double e = (double)back[v][j] - x;
                    power += x * x;
                    error += e * e;
                }
            }
        }
        CHECK(error <= (scales[i] < 1e4f ? 0.1 : 0.6) * power + 0.3 * 300 * 256);
        lq_kv_free(&kv);
        free(mem);
    }
    basic_desc();
    desc.type = LQ_F32;
    {
        lq_kv kv;
        void *mem = make(&kv);
        make_tokens(2, 1.0f);
        given[0][0][3] = 2e9f;
        CHECK(append(&kv, 0, 2) == LQ_E_RANGE);
        given[0][0][3] = NAN;
        CHECK(append(&kv, 0, 2) == LQ_E_DATA);
        lq_kv_free(&kv);
        free(mem);
    }
}

/* ---- calibrated profiles ---- */
static const lq_profile *calibrate(lq_profile *profile, int v, const float *x, size_t stride,
                                   size_t tokens, int absolute)
{
    static uint32_t dims;
    lq_geometry g;
    memset(&g, 0, sizeof g);
    lq_klt_desc how;
    memset(&how, 0, sizeof how);
    dims = (uint32_t)dims_of(v);
    g.stream = v ? LQ_V : LQ_K;
    g.slice_count = 1;
    g.slice_dims = &dims;
    how.unit = absolute ? 1.0f : 0.0f;
    const void *slices[1];
    slices[0] = x;
    lq_vectors src;
    src.slices = slices;
    src.token_stride = stride;
    src.type = LQ_F32;
    void *mem = source_alloc(lq_klt_bytes(&g));
    void *work = source_alloc(lq_klt_workspace_bytes(&g));
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, lq_klt_bytes(&g), &g) == LQ_OK);
    CHECK(lq_klt_add(&klt, &src, NULL, tokens, work, lq_klt_workspace_bytes(&g)) == LQ_OK);
    free(work);
    size_t count = lq_klt_profile_bound(&klt);
    uint8_t *bytes = (uint8_t *)source_alloc(count);
    work = source_alloc(lq_klt_profile_workspace_bytes(&klt));
    size_t written;
    CHECK(lq_klt_profile(&klt, bytes, count, &written, &how, NULL, work,
                         lq_klt_profile_workspace_bytes(&klt)) == LQ_OK);
    free(work);
    free(mem);
    size_t needed;
    CHECK(lq_profile_load(profile, NULL, 0, &needed, bytes, written) == LQ_E_SPACE);
    CHECK(lq_profile_load(profile, source_alloc(needed), needed, &needed, bytes, written) == LQ_OK);
    free(bytes);
    return profile;
}

static void test_calibrated(void)
{
    static lq_profile made[8];
    static lq_profile relative[8];
    basic_desc();
    make_tokens(800, 1.0f);
    const lq_profile *profiles[8];
    for (uint32_t l = 0; l < 2; l++) { /* channels that go together */
        for (int v = 0; v < 2; v++) {
            for (size_t i = 0; i < 800 * row_of(v); i++) {
                given[l][v][i] += i % 8 ? given[l][v][i - 1] : 0.0f;
            }
            for (uint32_t h = 0; h < 2; h++) {
                profiles[4 * l + 2 * (size_t)v + h] = calibrate(
                    &made[4 * l + 2 * (size_t)v + h], v, given[l][v] + h * 64, row_of(v), 500, 1);
            }
        }
    }
    desc.profiles = profiles;
    profiles[6] = NULL;
    for (size_t i = 0; i < 4; i++) { /* steps that can only be in another unit */
        float *step = i % 2 ? &desc.v.step : &desc.k.step;
        float old = *step;
        *step = i % 2 ? 31.0f : i < 2 ? 400.0f : 1e-5f;
        CHECK(lq_kv_bytes(&desc) == 0);
        *step = old;
    }
    slack = 4; /* reading rounds a token's coefficients to 16 bits together */
    lq_kv kv;
    lq_kv other;
    lq_kv_account a;
    lq_kv_account b;
    void *mem;
    for (size_t i = 0; i < 4; i++) {
        desc.k.quantizer = (int)(i == 0 ? 0 : i + 1);
        desc.v.quantizer = desc.k.quantizer;
        mem = make(&kv);
        append_steps(&kv, 800);
        check_attend(&kv, 0);
        check_attend(&kv, 1);
        check_arena(&kv);
        op_evict(&kv);
        check_saved(&kv, 3);
        CHECK(lq_kv_truncate(&kv, 0) == LQ_OK);
        append_steps(&kv, 800);
        CHECK(lq_kv_stats(&kv, &a) == LQ_OK);
        size_t bytes = save(&kv);
        desc.profiles = NULL;
        void *mem2 = make(&other);
        CHECK(load(&other, bytes) == LQ_E_FORMAT);
        append_steps(&other, 800);
        CHECK(lq_kv_stats(&other, &b) == LQ_OK);
        CHECK(a.bits < b.bits);
        desc.profiles = profiles;
        lq_kv_free(&kv);
        lq_kv_free(&other);
        free(mem);
        free(mem2);
    }
    desc.v_in_k = 17; /* the keys' profiles alone; steps relative to their size */
    desc.k.quantizer = 0;
    desc.k.step = 0.1f;
    for (size_t i = 0; i < 8; i++) {
        profiles[i] =
            i % 4 < 2 ? calibrate(&relative[i], 0, given[i / 4][0] + i % 4 * 64, row_of(0), 500, 0)
                      : &made[0];
    }
    CHECK(relative[0].dense->slice_exponent[0] != 0);
    mem = make(&kv);
    append_steps(&kv, 800);
    check_attend(&kv, 0);
    check_attend(&kv, 1);
    check_saved(&kv, 3);
    lq_kv_free(&kv);
    free(mem);
}

/* A profile that is fitted beforehand, of any basis; its memory. */
static void *fit_profile(lq_profile *profile, int basis, int v, const float *x)
{
    static uint32_t dims;
    lq_geometry g;
    memset(&g, 0, sizeof g);
    dims = (uint32_t)dims_of(v);
    g.stream = v ? LQ_V : LQ_K;
    g.basis = (uint32_t)basis;
    g.slice_count = 1;
    g.slice_dims = &dims;
    const void *slices[1];
    slices[0] = x;
    lq_vectors src;
    src.slices = slices;
    src.token_stride = row_of(v);
    src.type = LQ_F32;
    void *mem = source_alloc(lq_fit_bytes(&g));
    void *work = source_alloc(lq_fit_workspace_bytes(&g));
    size_t bytes = lq_profile_bytes(dims + 1);
    void *numbers = source_alloc(bytes);
    lq_fit fit;
    CHECK(lq_fit_init(&fit, mem, lq_fit_bytes(&g), &g, 0.4f) == LQ_OK);
    CHECK(lq_fit_add(&fit, &src, NULL, 500, work, lq_fit_workspace_bytes(&g)) == LQ_OK);
    CHECK(lq_fit_profile(&fit, profile, numbers, bytes) == LQ_OK);
    free(work);
    free(mem);
    return numbers;
}

/* Given profiles without a basis of their own: eights of pages and fewer. */
static void test_given(int basis)
{
    static lq_profile made[8];
    basic_desc();
    desc.tokens = TOKENS_ROOM;
    const lq_profile *profiles[8];
    desc.profiles = profiles;
    make_tokens(1000, 1.0f);
    slack = 4; /* reading rounds coefficients of a Hadamard basis to a 64th of a step */
    void *numbers[8];
    for (int i = 0; i < 8; i++) {
        numbers[i] =
            fit_profile(&made[i], basis, i / 2 % 2, given[i / 4][i / 2 % 2] + (size_t)(i % 2) * 64);
        profiles[i] = &made[i];
    }
    lq_kv kv;
    void *mem = make(&kv);
    append_steps(&kv, 1000);
    check_attend(&kv, 0);
    check_attend(&kv, 1);
    lq_kv_free(&kv);
    free(mem);
    for (int i = 0; i < 8; i++) {
        free(numbers[i]);
    }
}

/* ---- a bias changes neither errors nor bits ---- */
/* What came of a cache: squared errors of each layer's keys and values, and bytes. */
typedef struct outcome {
    double error[2][2];
    double bytes;
} outcome;

/* Tokens of two layers, the same but for biases of norm 600 of layer 0's heads on 8 channels, keys'
   before RoPE. */
static void make_biased(size_t tokens, double bias)
{
    uint64_t seed = source_seed;
    source_seed = 77;
    for (uint32_t l = 0; l < 2; l++) {
        for (int v = 0; v < 2; v++) {
            for (size_t i = 0; i < tokens * row_of(v); i++) {
                double x = pow(2, -(double)(i % 16) / 8) * source_gauss();
                given[l][v][i] = (float)(x + (l == 0 && i % 8 == 3 ? bias / sqrt(8.0) : 0));
            }
        }
        for (size_t t = 0; t < tokens && desc.rope; t++) {
            lq_positions at = {0, 1, NULL};
            at.first = (int64_t)t;
            for (size_t i = 0; i < desc.kv_heads; i++) {
                CHECK(lq_rope_apply_f32(given[l][0] + t * row_of(0) + i * 64, 1, 64, 64, &rope,
                                        &at) == LQ_OK);
            }
        }
    }
    source_seed = seed;
}

/* Packs kv and unpacks it into `other`; returns the archive's bytes. */
static double repack(lq_kv *kv, lq_kv *other)
{
    lq_kv_pack_desc pack;
    size_t bytes = 0;
    size_t directory = 0;
    size_t needed = 0;
    memset(&pack, 0, sizeof pack);
    lq_archive_writer_desc w;
    memset(&w, 0, sizeof w);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    pack.tables = tables;
    pack.k_step = 0.3f;
    pack.v_step = 0.3f;
    CHECK(lq_kv_pack_bytes(kv, &pack, &bytes, &directory) == LQ_OK);
    void *work = source_alloc(bytes);
    void *room = source_alloc(directory);
    w.mem = file;
    w.mem_bytes = sizeof file;
    w.directory = room;
    w.directory_bytes = directory;
    lq_archive_writer writer;
    CHECK(lq_archive_writer_init(&writer, &w) == LQ_OK);
    CHECK(lq_kv_pack(kv, &writer, &pack, work, bytes) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    free(work);
    free(room);
    source.bytes = file;
    source.size = writer.offset;
    lq_archive_reader reader;
    (void)!lq_archive_open(&reader, &source, NULL, 0, &needed);
    room = source_alloc(needed);
    CHECK(lq_archive_open(&reader, &source, room, needed, NULL) == LQ_OK);
    bytes = lq_kv_unpack_workspace_bytes(other, &reader, 0);
    work = source_alloc(bytes);
    CHECK(unpack(other, &reader, tables, 0, work, bytes) == LQ_OK);
    free(work);
    free(room);
    return (double)writer.offset;
}

static outcome biased_outcome(double bias, int packs)
{
    enum { COUNT = 840, RAW = 4 };
    outcome o;
    lq_kv kv;
    lq_kv other;
    void *mem = make(&kv);
    void *mem2 = make(&other);
    memset(&o, 0, sizeof o);
    make_biased(COUNT, bias);
    append_steps(&kv, COUNT);
    lq_kv_account account;
    CHECK(lq_kv_stats(&kv, &account) == LQ_OK);
    o.bytes = packs ? repack(&kv, &other) : (double)account.used_bytes;
    for (uint32_t l = 0; l < 2; l++) {
        for (int v = 0; v < 2; v++) {
            read_all(packs ? &other : &kv, l, back[v], v);
            for (size_t i = RAW * row_of(v); i < COUNT * row_of(v); i++) {
                double e = (double)back[v][i] - (double)given[l][v][i];
                o.error[l][v] += e * e;
            }
        }
    }
    lq_kv_free(&kv);
    lq_kv_free(&other);
    free(mem);
    free(mem2);
    return o;
}

static void test_bias(void)
{
    basic_desc();
    desc.type = LQ_F32;
    desc.k = warm(0, 0, 0.3f);
    desc.v = warm(0, 0, 0.3f);
    desc.window = LQ_KV_NONE;
    memset(&rope, 0, sizeof rope);
    for (int i = 0; i < 32; i++) {
        freqs[i] = (float)pow(1e5, -i / 32.0);
    }
    rope.freqs = freqs;
    rope.rotary_dims = 64;
    /* warm pages, then lq_kv_pack of raw ones; keys with RoPE, without */
    for (int i = 0; i < 4; i++) {
        desc.k.kind = desc.v.kind = i < 2 ? LQ_KV_WARM : LQ_KV_RAW;
        desc.k.step = desc.v.step = i < 2 ? 0.3f : 0.0f;
        desc.rope = i % 2 ? NULL : &rope;
        outcome plain_one = biased_outcome(0, i >= 2);
        outcome biased_one = biased_outcome(600, i >= 2);
        for (int n = 0; n < 4; n++) {
            double ratio = biased_one.error[n / 2][n % 2] / plain_one.error[n / 2][n % 2];
            printf("%s %s: error of layer %d %s, biased over plain: %.4f\n",
                   i < 2 ? "warm" : "packed", desc.rope ? "with RoPE" : "without", n / 2,
                   n % 2 ? "V" : "K", ratio);
            CHECK(fabs(ratio - 1) < 0.05);
        }
        printf("bytes: %.0f and %.0f\n", plain_one.bytes, biased_one.bytes);
        CHECK(fabs(biased_one.bytes / plain_one.bytes - 1) < 0.015); /* half of them are layer 0 */
    }
}

int main(int argc, char **argv)
{
    void *mem = source_alloc(lq_tables_bytes());
    void *small = source_alloc(lq_tables_small_bytes());
    int quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    int rounds = argc > 1 && !quick ? atoi(argv[1]) : quick ? 6 : 30;
    source_seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    CHECK(lq_tables_small_init(&packed, small, lq_tables_small_bytes()) == LQ_OK);
    for (int i = 0; i < 2; i++) {
        for (uint32_t l = 0; l < LAYERS_MOST; l++) {
            given[l][i] = (float *)source_alloc(sizeof(float) * TOKENS_ROOM * NUMBERS);
        }
        back[i] = (float *)source_alloc(sizeof(float) * TOKENS_ROOM * NUMBERS);
    }
    test_arguments();
    for (int level = 0; level < 3; level++) {
        for (int i = 0; i <= LQ_E8_RELAXED; i++) {
            test_plain(i, level, 0);
            test_plain(i, level, 1);
            test_small(i, level, 0);
            test_small(i, level, 1);
        }
    }
    for (int level = quick ? 2 : 0; level < 3; level++) {
        test_flights(level, 3000, 1.0f);
        test_flights(level, 16, 1.0f);
        test_flights(level, 3000, 12.0f);
        test_flights(level, 3000, 0.02f);
    }
    test_steps();
    test_weights();
    test_mixed();
    test_needle();
    test_room();
    test_promise();
    test_broken_step();
    test_sizes();
    test_packed();
    test_bias();
    test_calibrated();
    test_given(LQ_BASIS_IDENTITY);
    test_given(LQ_BASIS_HADAMARD);
    test_hostile(quick ? 50 : 500);
    test_numbers();
    for (int i = 0; i < rounds; i++) {
        test_random();
    }
    return check_report("test_warm");
}
