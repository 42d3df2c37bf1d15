/* cc -std=c99 -O2 tests/test_kv.c -o test_kv -lm    lq_kv: sizes, errors, and random operations
   against a plain float cache. `test_kv 1000 7` makes 1000 sequences of 40 operations from seed 7;
   `test_kv 1 7 312` makes number 312 of them alone. */
#define LATTICEQUANT_IMPLEMENTATION
#define LQ__KEEP_INTERNALS
#include "../latticequant.h"

#include "check.h"
#include "source.h"
#include "unpack.h"

enum { LAYERS_MOST = 4, TOKENS_MOST = 700, WIDE = 160 };

/* ---- the model: every vector in plain floats ---- */
typedef struct model {
    lq_kv kv;
    int live;
    size_t tokens;
    size_t most;   /* tokens that there were at most since the last eviction, or came then */
    size_t sealed; /* as far as the last look */
    int64_t positions[TOKENS_MOST];
    uint8_t lossy[TOKENS_MOST];  /* 1: was hot once */
    uint8_t turned[TOKENS_MOST]; /* 1: was shifted: keys are compared up to rounding */
    float mass[TOKENS_MOST];
    uint8_t recoded[TOKENS_MOST]; /* times that it was raw, or moved, after being hot */
    float *given[2];              /* [layer][token][head * dims]: as they came in, f16 rounded */
    float *seen[2];               /* as the cache gave them back the last time */
} model;

static lq_kv_desc desc;
static lq_kv_layer layers[LAYERS_MOST];
static lq_kv_policy policies[LAYERS_MOST][8];
static float freqs[WIDE];
static lq_rope rope;
static float own_freqs[LAYERS_MOST][4];
static lq_rope own_ropes[LAYERS_MOST];
static model models[3];
static uint8_t *block; /* of `desc` */
static size_t block_bytes;
static lq_kv *twin;     /* gets what is appended, too, where not NULL */
static float amplitude; /* of vectors; queries are as large as makes logits of a few units */
static size_t file_room;
static float wide_x[2][TOKENS_MOST * WIDE * 2];
static int quick;

/* About Gaussian, and cheap. */
static float gauss(void)
{
    uint64_t u = source_u64();
    uint32_t sum = (uint32_t)(u & 0xffff) + (uint32_t)(u >> 16 & 0xffff) +
                   (uint32_t)(u >> 32 & 0xffff) + (uint32_t)(u >> 48);
    return ((float)sum - 131070.0f) / 37837.0f;
}

/* ---- layouts: packed, with gaps, head by head ---- */
typedef struct layout {
    size_t token_stride; /* as given to the header, 0: its default */
    size_t head_stride;
    size_t t; /* as they are */
    size_t h;
    size_t count; /* elements from the first to the last */
    int type;     /* 0: its default */
    int real;
} layout;

static layout random_layout(size_t tokens, size_t heads, size_t dims)
{
    layout a;
    memset(&a, 0, sizeof a);
    switch (source_below(5)) {
    case 0:
        a.head_stride = dims + source_below(9);
        a.token_stride = heads * a.head_stride + source_below(9);
        break;
    case 1:
        a.head_stride = dims + 1 + source_below(9);
        break;
    case 2:
        a.token_stride = dims;
        a.head_stride = tokens * dims;
        break;
    default:
        break;
    }
    a.h = a.head_stride ? a.head_stride : dims;
    a.t = a.token_stride ? a.token_stride : heads * a.h;
    a.count = (tokens - 1) * a.t + (heads - 1) * a.h + dims;
    a.real = source_below(2) ? LQ_F32 : 1 + (int)source_below(3);
    a.type = a.real == LQ_F32 && source_below(2) ? 0 : a.real;
    return a;
}

static uint8_t *layout_at(const layout *a, uint8_t *data, size_t token, size_t head)
{
    return data + (token * a->t + head * a->h) * lq_type_bytes(a->real);
}

/* Memory of exactly that size. */
static uint8_t *layout_alloc(const layout *a)
{
    return (uint8_t *)source_zeros(a->count * lq_type_bytes(a->real));
}

static lq_kv_view layout_view(const layout *a, const void *data)
{
    lq_kv_view v;
    v.data = data;
    v.token_stride = a->token_stride;
    v.head_stride = a->head_stride;
    v.type = a->type;
    return v;
}

static lq_kv_view_out layout_out(const layout *a, void *data)
{
    lq_kv_view_out v;
    v.data = data;
    v.token_stride = a->token_stride;
    v.head_stride = a->head_stride;
    v.type = a->type;
    return v;
}

static uint32_t heads_of(uint32_t l)
{
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    return layers[own].kv_heads ? layers[own].kv_heads : desc.kv_heads;
}

/* As lq_kv_desc.v_in_k, of a layer or the one that it shares. */
static uint32_t v_in_k(uint32_t l)
{
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    uint32_t x = layers[own].v_in_k ? layers[own].v_in_k : desc.v_in_k;
    return x == LQ_KV_NONE ? 0 : x;
}

static uint32_t dims_of(uint32_t l, int v)
{
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    if (v) {
        return layers[own].v_dims ? layers[own].v_dims
               : desc.v_dims      ? desc.v_dims
               : v_in_k(l)        ? dims_of(l, 0) - (v_in_k(l) - 1)
                                  : dims_of(l, 0);
    }
    return layers[own].k_dims ? layers[own].k_dims : desc.k_dims;
}

static float *row_of(float *all, uint32_t l, size_t t)
{
    return all + ((size_t)l * TOKENS_MOST + t) * WIDE;
}

static lq_kv_policy random_policy(void)
{
    static const int bits[6] = {8, 4, 3, 2, 6, 5};
    lq_kv_policy p;
    memset(&p, 0, sizeof p);
    p.kind = source_below(6) == 0 ? LQ_KV_RAW : LQ_KV_HOT;
    if (p.kind == LQ_KV_HOT) {
        p.quantizer = source_below(4) == 0 ? LQ_E8 : source_below(2) ? LQ_Z : 0;
        p.bits = p.quantizer == LQ_E8 ? 4 : bits[source_below(6)];
    }
    return p;
}

static void random_rope(void)
{
    rope.rotary_dims = 8;
    rope.layout = 1 + source_below(2);
    rope.magnitude = 1.25f;
    for (uint32_t i = 0; i < 4; i++) {
        freqs[i] = (float)source_uniform();
    }
    rope.freqs = freqs;
    desc.rope = &rope;
}

/* The rope of a layer's keys and where it begins; NULL: they do not turn. */
static const lq_rope *rope_of(uint32_t l, uint32_t *first)
{
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    const lq_rope *r = layers[own].rope ? layers[own].rope : desc.rope;
    *first = layers[own].rope ? layers[own].rope_first : desc.rope_first;
    return r && r->rotary_dims ? r : NULL;
}

/* Layers that the cache's rope does not fit, and others, have their own or none. */
static void random_ropes(void)
{
    for (uint32_t l = 0; l < desc.layers && desc.layer; l++) {
        lq_rope *own = &own_ropes[l];
        uint32_t k = dims_of(l, 0);
        if (layers[l].share || layers[l].kv_heads == LQ_KV_NONE ||
            ((!desc.rope || desc.rope_first + 8 <= k) && source_below(3))) {
            continue;
        }
        memset(own, 0, sizeof *own);
        layers[l].rope = own;
        if (source_below(3)) {
            own->freqs = source_below(3) ? own_freqs[l] : freqs;
            own->rotary_dims = 2 * (1 + source_below(4));
            own->layout = source_below(3);
            own->magnitude = source_below(2) ? 0.0f : 1.5f;
            layers[l].rope_first = source_below(k - own->rotary_dims + 1);
            for (uint32_t i = 0; i < 4; i++) {
                own_freqs[l][i] = (float)source_uniform();
            }
        }
    }
}

static void random_layer(uint32_t l, const uint32_t *sizes, uint32_t count)
{
    layers[l].window = source_below(3) ? 0 : 1 + source_below(100);
    if (l && source_below(4) == 0 && !layers[l - 1].share && layers[l - 1].kv_heads != LQ_KV_NONE) {
        layers[l].share = l;
        return;
    }
    if (source_below(6) == 0 && l + 1 < desc.layers) { /* one has its own at least */
        layers[l].kv_heads = LQ_KV_NONE;
        return;
    }
    layers[l].kv_heads = source_below(2) ? 0 : 1 + source_below(2);
    layers[l].k_dims = source_below(2) ? 0 : sizes[source_below(count)];
    layers[l].v_dims = source_below(3) ? 0 : sizes[source_below(count)];
    layers[l].k = source_below(2) ? random_policy() : layers[l].k;
    layers[l].v = source_below(2) ? random_policy() : layers[l].v;
    if (source_below(2)) {
        for (uint32_t i = 0; i < 8; i++) {
            policies[l][i] = random_policy();
        }
        layers[l].heads = policies[l];
    }
}

/* Whether values can be `count` of a layer's k dims from `first` on: they must not turn. */
static int fits(uint32_t l, uint32_t k, uint32_t first, uint32_t count)
{
    uint32_t from;
    const lq_rope *r = rope_of(l, &from);
    return first < k && count <= k - first &&
           (!r || from + r->rotary_dims <= first || first + count <= from);
}

/* Values that are among the keys: of all layers that they fit, or here and there. */
static void random_v_in_k(void)
{
    uint32_t first = 8 * source_below(desc.k_dims / 8);
    uint32_t count = desc.v_dims ? desc.v_dims : desc.k_dims - first;
    if (source_below(2) && (desc.layer || fits(0, desc.k_dims, first, count))) {
        desc.v_in_k = 1 + first;
    }
    for (uint32_t l = 0; l < desc.layers && desc.layer; l++) {
        uint32_t k = dims_of(l, 0);
        if (layers[l].share || layers[l].kv_heads == LQ_KV_NONE) continue;
        if (desc.v_in_k && (!fits(l, k, first, dims_of(l, 1)) || source_below(4) == 0)) {
            layers[l].v_in_k = LQ_KV_NONE;
        } else if (!desc.v_in_k && source_below(2)) {
            first = 8 * source_below(k / 8);
            count = 8 * (1 + source_below((k - first) / 8));
            if (fits(l, k, first, count)) {
                layers[l].v_in_k = 1 + first;
                layers[l].v_dims = count;
            }
        }
    }
}

/* One in eight is large; the others are cheap and meet every corner all the sooner. */
static void random_desc(void)
{
    static const uint32_t sizes[8] = {8, 16, 24, 8, 32, 64, 40, 80};
    static const float amplitudes[8] = {1, 1, 1, 1, 1, 0, 1e-3f, 100};
    int large = source_below(8) == 0;
    uint32_t count = large ? 8 : 3;
    memset(&desc, 0, sizeof desc);
    memset(layers, 0, sizeof layers);
    amplitude = amplitudes[source_below(8)];
    (void)lq_cpu_limit((int)source_below(4) - 1);
    desc.layers = 1 + source_below(large ? LAYERS_MOST : 3);
    desc.kv_heads = 1 + source_below(2);
    desc.k_dims = sizes[source_below(count)];
    desc.v_dims = source_below(2) ? 0 : sizes[source_below(count)];
    desc.tokens = 12 + source_below(large ? TOKENS_MOST - 20 : 120);
    desc.sequences = 3;
    desc.pages = source_below(2) ? 0 : 1 + source_below(large ? 30 : 6);
    desc.step_tokens = source_below(3) ? 1 + source_below(70) : 0;
    desc.sinks = source_below(3) == 0 ? LQ_KV_NONE : source_below(9);
    desc.window = source_below(4) == 0 ? LQ_KV_NONE : source_below(large ? 90 : 30);
    desc.type = source_below(2) ? 0 : 1 + (int)source_below(3);
    if (source_below(2)) {
        desc.k = random_policy();
        desc.v = random_policy();
    }
    random_rope();
    if (source_below(2)) {
        desc.layer = layers;
        for (uint32_t l = 0; l < desc.layers; l++) {
            random_layer(l, sizes, count);
        }
    }
    if (source_below(2)) {
        desc.rope_first = source_below(2) ? 0 : 8 * source_below(desc.k_dims / 8);
        if (source_below(4) == 0) {
            desc.rope = NULL;
            desc.rope_first = 0;
        }
        random_ropes();
        random_v_in_k();
    } else {
        random_ropes();
    }
}

static int has_own(uint32_t l)
{
    return !layers[l].share && layers[l].kv_heads != LQ_KV_NONE;
}

/* Whether the keys of some layer turn. */
static int turns(void)
{
    uint32_t first;
    for (uint32_t l = 0; l < desc.layers; l++) {
        if (has_own(l) && rope_of(l, &first)) return 1;
    }
    return 0;
}

static int hot_kind(uint32_t l, int v, size_t head)
{
    return lq__kv_kind_of(&desc, l, (uint32_t)head, heads_of(l), v);
}

static int raw_type(void)
{
    return desc.type ? desc.type : LQ_F16;
}

static float through(float x, int type)
{
    if (type == LQ_F16) return lq_f32_from_f16(lq_f16_from_f32(x));
    return type == LQ_BF16 ? lq_f32_from_bf16(lq_bf16_from_f32(x)) : x;
}

/* ---- looking: everything that the cache says, against the model ---- */
static float tolerance(int kind)
{
    return kind == LQ__HOT_Z8   ? 0.02f
           : kind == LQ__HOT_Z6 ? 0.06f
           : kind == LQ__HOT_Z5 ? 0.12f
           : kind == LQ__HOT_Z3 ? 0.4f
           : kind == LQ__HOT_Z2 ? 0.75f
                                : 0.25f;
}

/* One token and head: raw ones exactly, hot ones as before or near to what was given. */
static void look_row(model *m, uint32_t l, int v, size_t t, size_t head, const float *x)
{
    size_t dims = dims_of(l, v);
    const lq__kv_count *count = lq__kv_counts(&m->kv) + l;
    const lq__kv_sequence *s = lq__kv_sequence_of(&m->kv);
    int hot = t >= s->sinks && t < count->sealed;
    int kind = hot_kind(l, v, head);
    const float *given = row_of(m->given[v], l, t) + head * dims;
    float *seen = row_of(m->seen[v], l, t) + head * dims;
    double error = 0;
    double power = 1e-9;
    double unit = (double)amplitude * (double)amplitude;
    int same = 1;
    for (size_t i = 0; i < dims; i++) {
        double e = (double)x[i] - (double)given[i];
        error += e * e;
        power += (double)given[i] * (double)given[i];
        same = same && x[i] >= given[i] && x[i] <= given[i]; /* -0 may become 0 */
    }
    if (!hot && !m->lossy[t] && !(m->turned[t] && !v)) {
        CHECK(same);
    } else if (kind == 0 && !(m->turned[t] && !v)) {
        CHECK(same);
    } else {
        double most = kind ? (double)tolerance(kind) : 0.002;
        double times = 1 + m->recoded[t];
        CHECK(error <= (most * most * 1.5 * times + 1e-4) * (power + unit * (double)dims));
    }
    if (m->lossy[t] == 2 && hot && kind && !m->turned[t]) {
        CHECK(memcmp(seen, x, dims * 4) == 0); /* nothing moves by itself */
    }
    memcpy(seen, x, dims * 4);
}

/* The first token behind the sinks that a layer has not given back. */
static size_t gone_of(const model *m, uint32_t l)
{
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    size_t sinks = lq__kv_sequence_of(&m->kv)->sinks;
    size_t gone = lq__kv_counts(&m->kv)[own].gone;
    return gone > sinks ? gone : sinks;
}

/* A layer of its own, which has `tokens`, but for those that it has given back. */
static void look_layer(model *m, uint32_t l, size_t tokens)
{
    size_t gone = gone_of(m, l);
    size_t sinks = lq__kv_sequence_of(&m->kv)->sinks;
    size_t kept = (size_t)layers[l].window + (desc.step_tokens ? desc.step_tokens : 512);
    CHECK(gone == sinks || (layers[l].window && gone + kept <= m->most));
    for (int v = 0; v < 2; v++) {
        size_t dims = dims_of(l, v);
        lq_kv_view_out out;
        memset(&out, 0, sizeof out);
        out.data = wide_x[0];
        if (gone > sinks) {
            CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, 0, gone, NULL, 0) == LQ_E_RANGE);
            CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, gone - 1, 1, NULL, 0) == LQ_E_RANGE);
            CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, 0, sinks, NULL, 0) == LQ_OK);
            out.data = wide_x[0] + gone * heads_of(l) * dims;
            CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, gone, tokens - gone, NULL, 0) ==
                  LQ_OK);
        } else {
            CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, 0, tokens, NULL, 0) == LQ_OK);
        }
        for (size_t t = 0; t < tokens; t++) {
            if (t >= sinks && t < gone) continue;
            for (size_t h = 0; h < heads_of(l); h++) {
                look_row(m, l, v, t, h, wide_x[0] + (t * heads_of(l) + h) * dims);
            }
        }
    }
}

static void look(model *m)
{
    size_t sealed = 0;
    CHECK(lq_kv_tokens(&m->kv) == m->tokens);
    for (size_t t = 0; t < m->tokens; t++) {
        int64_t p;
        CHECK(lq_kv_position(&m->kv, t, &p) == LQ_OK && p == m->positions[t]);
    }
    CHECK(memcmp(lq_kv_mass(&m->kv), m->mass, m->tokens * sizeof *m->mass) == 0);
    for (uint32_t l = 0; l < desc.layers; l++) {
        if (has_own(l)) {
            size_t own = lq__kv_counts(&m->kv)[l].sealed;
            sealed = sealed && sealed < own ? sealed : own;
            look_layer(m, l, m->tokens);
        }
    }
    for (size_t t = 0; t < m->tokens; t++) {
        if (t >= lq__kv_sequence_of(&m->kv)->sinks && t < sealed) {
            m->lossy[t] = 2;
        }
    }
    m->sealed = sealed;
}

/* Any tokens of a layer or of one that shares it, in any layout and type. */
static void op_read(model *m)
{
    uint32_t l = source_below(desc.layers);
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    int v = (int)source_below(2);
    size_t first = source_below((uint32_t)m->tokens + 1);
    size_t count = source_below((uint32_t)(m->tokens - first) + 1);
    lq_kv_view_out out;
    if (layers[l].kv_heads == LQ_KV_NONE) {
        memset(&out, 0, sizeof out);
        out.data = wide_x[0];
        CHECK(lq_kv_read(&m->kv, l, LQ_K, &out, 0, 0, NULL, 0) == LQ_E_ARG);
        return;
    }
    look(m);
    size_t dims = dims_of(own, v);
    layout a = random_layout(count ? count : 1, heads_of(own), dims);
    uint8_t *data = layout_alloc(&a);
    out = layout_out(&a, data);
    if (gone_of(m, l) > lq__kv_sequence_of(&m->kv)->sinks && first < gone_of(m, l)) {
        free(data);
        return; /* look_layer reads what is left there */
    }
    CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, first, count, NULL, 0) == LQ_OK);
    CHECK(lq_kv_read(&m->kv, l, v ? LQ_V : LQ_K, &out, first, m->tokens - first + 1, NULL, 0) ==
          LQ_E_RANGE);
    for (size_t t = 0; t < count; t++) {
        for (size_t h = 0; h < heads_of(own); h++) {
            uint8_t want[WIDE * 4];
            CHECK(lq_type_from_f32(want, row_of(m->seen[v], own, first + t) + h * dims, dims,
                                   a.real) == LQ_OK);
            CHECK(memcmp(want, layout_at(&a, data, t, h), dims * lq_type_bytes(a.real)) == 0);
        }
    }
    free(data);
}

/* Whether the slots or marks of a layer are counted rightly. */
static void check_stock(const lq__kv_pool *pool, const lq__kv_stock *stock, const uint32_t *refs)
{
    size_t used = 0;
    for (size_t p = 0; p < stock->count; p++) {
        CHECK(refs[p] == lq__kv_refs(pool, stock)[p]);
        used += refs[p] > 0;
    }
    CHECK(used + stock->free_count == stock->count);
}

/* The page table of a layer of a sequence. */
static void check_table(const lq_kv *kv, const lq__kv_layer *layer, uint32_t *slots,
                        uint32_t *marks)
{
    const lq__kv_page *page = lq__kv_pages(kv, layer);
    const lq__kv_count *count = lq__kv_count_of(kv, layer);
    size_t at = lq__kv_sequence_of(kv)->sinks;
    CHECK(count->pages <= lq__kv_pool_of(kv)->entries);
    for (size_t p = 0; p < count->pages; p++) {
        CHECK(page[p].first == at && page[p].count >= 1 && page[p].at % 8 == 0);
        CHECK(page[p].at + page[p].count <= 64 && page[p].epoch < count->epochs);
        at += page[p].count;
        if (page[p].slot == LQ__KV_NO) {
            CHECK(layer->keep && at <= count->gone && page[p].mark == LQ__KV_NO);
            continue;
        }
        slots[page[p].slot]++;
        CHECK((page[p].mark != LQ__KV_NO) == (layer->marks.count > 0));
        if (layer->marks.count) marks[page[p].mark]++;
        if (p && page[p - 1].slot == page[p].slot) {
            CHECK(page[p - 1].at + page[p - 1].count <= page[p].at);
        }
    }
    CHECK(at == count->sealed || count->pages == 0);
}

/* What must always hold inside a block. */
static void check_block(void)
{
    static uint32_t slots[8192];
    static uint32_t marks[8192];
    const lq__kv_pool *pool = NULL;
    for (size_t i = 0; i < 3; i++) {
        pool = models[i].live ? lq__kv_pool_of(&models[i].kv) : pool;
    }
    for (uint32_t l = 0; pool && l < pool->layers; l++) {
        const lq__kv_layer *layer = lq__kv_layers(pool) + l;
        memset(slots, 0, sizeof slots);
        memset(marks, 0, sizeof marks);
        for (size_t i = 0; i < 3 && layer->kv_heads; i++) {
            if (models[i].live) check_table(&models[i].kv, layer, slots, marks);
        }
        if (layer->kv_heads) {
            check_stock(pool, &layer->slots, slots);
            check_stock(pool, &layer->marks, marks);
        }
    }
    for (size_t i = 0; i < 3 && pool; i++) {
        if (models[i].live) {
            lq_kv_account a;
            CHECK(lq_kv_stats(&models[i].kv, &a) == LQ_OK);
            CHECK(a.page_bytes + a.free_bytes + a.raw_bytes + a.table_bytes + a.workspace_bytes ==
                  lq_kv_bytes(&desc));
            CHECK(a.tokens == models[i].tokens && a.hot_tokens <= a.tokens);
            CHECK(a.used_bytes <= a.page_bytes + a.raw_bytes + a.table_bytes);
            CHECK((a.f16_bytes > 0) == (a.tokens > 0));
        }
    }
}

/* ---- operations ---- */
static void set_row(model *m, uint32_t l, int v, size_t t, const float *x)
{
    size_t n = (size_t)heads_of(l) * dims_of(l, v);
    float *row = row_of(m->given[v], l, t);
    for (size_t i = 0; i < n; i++) {
        row[i] = through(x[i], raw_type());
    }
}

/* Whether a call left the block as it was; begin, then end. */
static uint8_t *unchanged_begin(void)
{
    return source_copy(block, block_bytes);
}

static void unchanged_end(uint8_t *before)
{
    CHECK(memcmp(before, block, block_bytes) == 0);
    free(before);
}

/* The same step with a number that cannot be. */
static void append_bad(model *m, uint32_t l, lq_kv_view *view, const layout *a, size_t n,
                       const lq_positions *positions)
{
    static const float bad[3] = {NAN, INFINITY, -65600.0f};
    int v = (int)source_below(v_in_k(l) ? 1 : 2);
    int which = (int)source_below(raw_type() == LQ_F16 && a[v].real == LQ_F32 ? 3 : 2);
    size_t dims = dims_of(l, v);
    uint8_t *at =
        (uint8_t *)wide_x[v] + (layout_at(&a[v], (uint8_t *)wide_x[v], source_below((uint32_t)n),
                                          source_below(heads_of(l))) -
                                (uint8_t *)wide_x[v]);
    size_t size = lq_type_bytes(a[v].real);
    at += size * source_below((uint32_t)dims);
    uint8_t keep[4];
    memcpy(keep, at, size);
    uint8_t *before = unchanged_begin();
    CHECK(lq_type_from_f32(at, &bad[which], 1, a[v].real) == LQ_OK);
    CHECK(lq_kv_append(&m->kv, l, &view[0], v_in_k(l) ? NULL : &view[1], positions, n) ==
          (which == 2 ? LQ_E_RANGE : LQ_E_DATA));
    CHECK(lq_kv_append(&m->kv, l, &view[0], v_in_k(l) ? &view[0] : NULL, positions, n) == LQ_E_ARG);
    unchanged_end(before);
    memcpy(at, keep, size);
}

/* Appends n random tokens to a layer. */
static void append_layer(model *m, uint32_t l, size_t n, const lq_positions *positions)
{
    layout a[2];
    lq_kv_view view[2];
    for (int v = 0; v < 2; v++) {
        size_t dims = dims_of(l, v);
        size_t heads = heads_of(l);
        a[v] = random_layout(n, heads, dims);
        view[v] = layout_view(&a[v], wide_x[v]);
        for (size_t t = 0; t < n; t++) {
            float row[WIDE];
            for (size_t i = 0; i < heads * dims; i++) {
                float x = (gauss() + (i % 7 == 0 && !v ? 5.0f : 0.0f)) * amplitude;
                row[i] = through(x, a[v].real);
            }
            for (size_t h = 0; h < heads; h++) {
                CHECK(lq_type_from_f32(layout_at(&a[v], (uint8_t *)wide_x[v], t, h), row + h * dims,
                                       dims, a[v].real) == LQ_OK);
            }
            for (size_t h = 0; v_in_k(l) && v && h < heads; h++) {
                memcpy(row + h * dims,
                       row_of(m->given[0], l, m->tokens + t) + h * dims_of(l, 0) + v_in_k(l) - 1,
                       4 * dims);
            }
            set_row(m, l, v, m->tokens + t, row);
        }
    }
    if (source_below(12) == 0) append_bad(m, l, view, a, n, positions);
    const lq_kv_view *values = v_in_k(l) ? NULL : &view[1];
    CHECK(lq_kv_append(&m->kv, l, &view[0], values, positions, n) == LQ_OK);
    if (twin) {
        CHECK(lq_kv_append(twin, l, &view[0], values, positions, n) == LQ_OK);
    }
}

static void attend_layer(model *m, uint32_t l);

/* Within a step: the layer that has just got its tokens is read and attended, as a model does, and
   what needs whole steps is refused. */
static void mid_step(model *m, uint32_t l, size_t n)
{
    m->tokens += n;
    m->most = m->tokens > m->most ? m->tokens : m->most;
    look_layer(m, l, m->tokens);
    attend_layer(m, l);
    if (l + 1 < desc.layers && layers[l + 1].share == l + 1) {
        attend_layer(m, l + 1);
    }
    m->tokens -= n;
    if (l != lq__kv_pool_of(&m->kv)->last) {
        uint8_t keep[TOKENS_MOST];
        uint8_t *bytes = (uint8_t *)source_alloc(64);
        memset(keep, 1, sizeof keep);
        lq_archive_writer_desc d;
        memset(&d, 0, sizeof d);
        d.mem = bytes;
        d.mem_bytes = 64;
        d.directory = keep;
        d.directory_bytes = 64;
        lq_kv child;
        CHECK(lq_kv_fork(&child, &m->kv) == LQ_E_RANGE ||
              models[0].live + models[1].live + models[2].live == 3);
        CHECK(lq_kv_evict(&m->kv, keep, m->tokens + n) == LQ_E_RANGE);
        CHECK(lq_kv_shift(&m->kv, 0, 1, 1) == (turns() ? LQ_E_RANGE : LQ_E_ARG));
        size_t workspace;
        size_t directory;
        CHECK(lq_kv_save_bytes(&m->kv, &workspace, &directory) == LQ_OK);
        lq_archive_writer writer;
        CHECK(lq_archive_writer_init(&writer, &d) == LQ_OK);
        CHECK(lq_kv_save(&m->kv, &writer, 1, wide_x[0], sizeof wide_x[0]) == LQ_E_RANGE);
        CHECK(lq_kv_truncate(&m->kv, m->tokens + 1) == LQ_E_RANGE);
        free(bytes);
    }
}

static void op_append(model *m)
{
    size_t room = lq_kv_room(&m->kv);
    size_t n = 1 + source_below(source_below(3) ? 3 : desc.tokens > 140 ? 150 : 40);
    int64_t at = m->tokens ? m->positions[m->tokens - 1] + 1 : 0;
    static int64_t list[TOKENS_MOST];
    int given = source_below(3) == 0;
    int first = 1;
    n = n < room ? n : room;
    if (n == 0) return;
    lq_positions positions;
    memset(&positions, 0, sizeof positions);
    positions.first = given ? at + source_below(20) : at;
    positions.stride = given ? source_below(4) : 1;
    for (size_t t = 0; t < n; t++) {
        int64_t stride = positions.stride ? positions.stride : 1;
        m->positions[m->tokens + t] = positions.first + (int64_t)t * stride;
        m->lossy[m->tokens + t] = 0;
        m->turned[m->tokens + t] = 0;
        m->mass[m->tokens + t] = 0;
        m->recoded[m->tokens + t] = 0;
    }
    if (given && source_below(2)) {
        for (size_t t = 0; t < n; t++) {
            list[t] = m->positions[m->tokens + t] += source_below(3) ? 0 : (int64_t)t;
            list[t] = m->positions[m->tokens + t] =
                t && list[t] <= list[t - 1] ? list[t - 1] + 1 : list[t];
        }
        positions.list = list;
    }
    for (uint32_t l = 0; l < desc.layers; l++) {
        if (has_own(l)) {
            append_layer(m, l, n, given && (first || source_below(2)) ? &positions : NULL);
            first = 0;
            if (source_below(6) == 0 && !twin) mid_step(m, l, n);
        }
    }
    m->tokens += n;
    m->most = m->tokens > m->most ? m->tokens : m->most;
}

/* What must be refused, and leave everything as it was. */
static void op_bad(model *m)
{
    size_t room = lq_kv_room(&m->kv);
    uint32_t first = lq__kv_pool_of(&m->kv)->first;
    uint8_t *before = unchanged_begin();
    lq_positions positions;
    memset(&positions, 0, sizeof positions);
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    view.data = wide_x[0]; /* not looked at: all else is checked first */
    const lq_kv_view *values = v_in_k(first) ? NULL : &view;
    CHECK(lq_kv_append(&m->kv, first, &view, values, NULL, room + 1) == LQ_E_FULL);
    if (room && m->tokens) {
        positions.first = m->positions[m->tokens - 1];
        CHECK(lq_kv_append(&m->kv, first, &view, values, &positions, 1) == LQ_E_RANGE);
        positions.first = (int64_t)1 << 48;
        CHECK(lq_kv_append(&m->kv, first, &view, values, &positions, 1) == LQ_E_RANGE);
    }
    for (uint32_t l = 0; l < desc.layers; l++) {
        if (!has_own(l)) {
            CHECK(lq_kv_append(&m->kv, l, &view, &view, NULL, 1) == LQ_E_ARG);
            CHECK(lq_kv_append(&m->kv, l, &view, NULL, NULL, 1) == LQ_E_ARG);
        } else if (l != first) {
            values = v_in_k(l) ? NULL : &view;
            CHECK(lq_kv_append(&m->kv, l, &view, values, NULL, 1) == LQ_E_RANGE);
        }
    }
    CHECK(lq_kv_append(&m->kv, desc.layers, &view, &view, NULL, 1) == LQ_E_ARG);
    lq_kv child;
    if (models[0].live + models[1].live + models[2].live == 3) {
        CHECK(lq_kv_fork(&child, &m->kv) == LQ_E_FULL);
    }
    CHECK(lq_kv_shift(&m->kv, m->tokens, 1, 1) == (turns() ? LQ_E_RANGE : LQ_E_ARG));
    CHECK(lq_kv_shift(&m->kv, 0, m->tokens, ((int64_t)1 << 49) - 1) == (!turns()    ? LQ_E_ARG
                                                                        : m->tokens ? LQ_E_RANGE
                                                                                    : LQ_OK));
    CHECK(lq_kv_position(&m->kv, m->tokens, &positions.first) == LQ_E_RANGE);
    unchanged_end(before);
}

/* Whether the next token of each layer would find all that it sees. */
static int can_truncate(const model *m, size_t n)
{
    size_t sinks = lq__kv_sequence_of(&m->kv)->sinks;
    for (uint32_t l = 0; l < desc.layers && n > sinks; l++) {
        size_t gone = has_own(l) ? gone_of(m, l) : sinks;
        if (gone > sinks &&
            (n < gone || m->positions[gone - 1] > m->positions[n - 1] + 1 - layers[l].window)) {
            return 0;
        }
    }
    return 1;
}

/* Tokens that all layers have sealed. */
static size_t least_sealed(const model *m)
{
    size_t least = SIZE_MAX;
    for (uint32_t l = 0; l < desc.layers; l++) {
        size_t own = lq__kv_counts(&m->kv)[l].sealed;
        least = has_own(l) && own < least ? own : least;
    }
    return least;
}

static void op_truncate(model *m)
{
    size_t n = m->tokens ? source_below((uint32_t)m->tokens + 1) : 0;
    if (source_below(2) && m->tokens > 10) n = m->tokens - source_below(10);
    CHECK(lq_kv_truncate(&m->kv, m->tokens + 1) == LQ_E_RANGE);
    look(m);
    if (!can_truncate(m, n)) {
        uint8_t *before = unchanged_begin();
        CHECK(lq_kv_truncate(&m->kv, n) == LQ_E_RANGE);
        unchanged_end(before);
        return;
    }
    CHECK(lq_kv_truncate(&m->kv, n) == LQ_OK);
    m->tokens = n;
    for (size_t t = 0; t < n; t++) { /* what was hot and is raw now will be sealed again */
        int raw = t >= least_sealed(m);
        m->recoded[t] = (uint8_t)(m->recoded[t] + (raw && m->lossy[t]));
        m->lossy[t] = raw && m->lossy[t] ? 1 : m->lossy[t];
    }
}

/* Logits of query row (head, i) to all tokens in doubles; returns how many are seen. */
typedef struct expected {
    double out[WIDE];
    double lse;
    double p[TOKENS_MOST];
} expected;

static void expect_row(const model *m, const lq_kv_attend_desc *d, uint32_t own, size_t kv_head,
                       size_t head, size_t i, const float *q, int64_t at, expected *e)
{
    size_t kd = dims_of(own, 0);
    size_t vd = dims_of(own, 1);
    size_t end = d->count ? d->first + d->count : m->tokens;
    uint32_t window = d->window == LQ_KV_NONE ? 0 : d->window ? d->window : layers[d->layer].window;
    double scale = lq__bits_of_f32(d->scale) ? (double)d->scale : 1 / sqrt((double)kd);
    double most = -1e300;
    double sum = 0;
    memset(e, 0, sizeof *e);
    for (size_t t = d->first; t < end; t++) {
        const float *k = row_of(m->seen[0], own, t) + kv_head * kd;
        int64_t p = m->positions[t];
        double x = 0;
        int sink = d->window_sinks && t < lq__kv_sequence_of(&m->kv)->sinks;
        e->p[t] = -1e300;
        if ((!d->all && p > at) || (window && !sink && p <= at - (int64_t)window)) continue;
        for (size_t j = 0; j < kd; j++) {
            x += (double)q[j] * (double)k[j];
        }
        x *= scale;
        if (lq__bits_of_f32(d->softcap)) {
            x = (double)d->softcap * tanh(x / (double)d->softcap);
        }
        if (d->slopes) x += (double)d->slopes[head] * (double)(p - at);
        if (d->bias) {
            double b =
                (double)
                    d->bias[head * d->bias_head_stride + i * d->bias_query_stride + t - d->first];
            if (b < -1e29) continue;
            x += b;
        }
        e->p[t] = x;
        most = x > most ? x : most;
    }
    for (size_t t = d->first; t < end; t++) {
        e->p[t] = e->p[t] > -1e299 ? exp(e->p[t] - most) : 0;
        sum += e->p[t];
    }
    e->lse = sum > 0 ? most + log(sum) : (double)LQ_KV_NOTHING;
    for (size_t t = d->first; t < end && sum > 0; t++) {
        const float *x = row_of(m->seen[1], own, t) + kv_head * vd;
        e->p[t] /= sum;
        for (size_t j = 0; j < vd; j++) {
            e->out[j] += e->p[t] * (double)x[j];
        }
    }
}

static float attend_q[9 * 10 * WIDE]; /* as the layout's type has them */
static float attend_bias[10 * 9 * TOKENS_MOST];
static float attend_mass[TOKENS_MOST];
static float attend_lse[90];
static float attend_slopes[10];
static double model_mass[TOKENS_MOST];
static int64_t attend_list[9];

/* A call and what it points to. */
typedef struct attention {
    lq_kv_attend_desc d;
    lq_positions positions;
    layout q_at;
    layout out_at;
    uint8_t *q;
    uint8_t *out;
    uint8_t *workspace;
} attention;

static void random_positions(const model *m, attention *a)
{
    lq_positions *p = &a->positions;
    p->first = (m->tokens ? m->positions[m->tokens - 1] : 0) + 5 - (int64_t)source_below(80);
    p->stride = (int64_t)source_below(12) - 3; /* they need not ascend */
    if (source_below(3) == 0) {
        for (size_t i = 0; i < a->d.queries; i++) {
            attend_list[i] = p->first + source_below(20);
        }
        p->list = attend_list;
    }
    a->d.positions = p;
}

static void random_masks(const model *m, lq_kv_attend_desc *d)
{
    if (source_below(4) == 0) {
        for (size_t i = 0; i < d->heads; i++) {
            attend_slopes[i] = (float)source_uniform() * 0.1f;
        }
        d->slopes = attend_slopes;
    }
    if (m->tokens > 3 && source_below(3) == 0) {
        d->first = source_below((uint32_t)m->tokens);
        d->count = source_below((uint32_t)(m->tokens - d->first)) + (source_below(2) ? 0 : 1);
        d->first = d->count ? d->first : 0;
    }
    if (source_below(4) == 0) {
        d->bias = attend_bias;
        d->bias_query_stride = source_below(2) ? 0 : m->tokens;
        d->bias_head_stride = source_below(2) ? 0 : d->queries * m->tokens;
        size_t count = (d->heads - 1) * d->bias_head_stride +
                       (d->queries - 1) * d->bias_query_stride + m->tokens;
        for (size_t i = 0; i < count; i++) {
            attend_bias[i] = source_below(5) ? gauss() : -INFINITY;
        }
    }
}

/* Queries, results and workspace in memory of their size. */
static void random_query(const model *m, attention *a, uint32_t own)
{
    lq_kv_attend_desc *d = &a->d;
    size_t kd = dims_of(own, 0);
    float unit = lq__bits_of_f32(amplitude) ? 1.0f / amplitude : 1.0f;
    a->q_at = random_layout(d->queries, d->heads, kd);
    a->out_at = random_layout(d->queries, d->heads, dims_of(own, 1));
    a->q = layout_alloc(&a->q_at);
    a->out = layout_alloc(&a->out_at);
    for (size_t i = 0; i < d->queries; i++) {
        for (size_t h = 0; h < d->heads; h++) {
            float *q = attend_q + (i * d->heads + h) * kd;
            for (size_t j = 0; j < kd; j++) {
                q[j] = through(gauss() * unit, a->q_at.real);
            }
            CHECK(lq_type_from_f32(layout_at(&a->q_at, a->q, i, h), q, kd, a->q_at.real) == LQ_OK);
        }
    }
    d->q = layout_view(&a->q_at, a->q);
    d->out = layout_out(&a->out_at, a->out);
    if (source_below(2)) {
        d->workspace_bytes = lq_kv_attend_workspace_bytes(&m->kv);
        a->workspace = (uint8_t *)source_alloc(d->workspace_bytes);
        d->workspace = a->workspace;
    }
}

static void random_attend(model *m, uint32_t l, attention *a)
{
    lq_kv_attend_desc *d = &a->d;
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    memset(a, 0, sizeof *a);
    d->layer = l;
    d->heads = (uint32_t)(heads_of(l) * (1 + source_below(5)));
    d->queries = 1 + source_below(source_below(2) ? 1 : 9);
    if (source_below(3) == 0 || d->queries > m->tokens) random_positions(m, a);
    d->scale = source_below(2) ? 0.0f : 0.3f;
    d->softcap = source_below(4) ? 0.0f : 8.0f;
    d->window = source_below(2) ? 0 : source_below(2) ? LQ_KV_NONE : 1 + source_below(200);
    d->window_sinks = d->window != LQ_KV_NONE && (d->window || layers[l].window) && source_below(2);
    d->all = source_below(6) == 0;
    random_masks(m, d);
    random_query(m, a, own);
    d->lse = source_below(2) ? attend_lse : NULL;
    if (source_below(3) == 0) {
        d->mass = source_below(2) ? attend_mass : lq_kv_mass(&m->kv) + d->first;
        memset(attend_mass, 0, sizeof attend_mass);
    }
    memset(model_mass, 0, m->tokens * sizeof *model_mass);
}

static void attention_free(attention *a)
{
    free(a->q);
    free(a->out);
    free(a->workspace);
}

/* One row of the result. */
static void check_row(const model *m, const attention *a, uint32_t own, size_t i, size_t h)
{
    static expected e;
    const lq_kv_attend_desc *d = &a->d;
    size_t vd = dims_of(own, 1);
    double unit = (double)amplitude * (double)amplitude;
    int64_t at = d->positions ? lq__kv_nth_position(d->positions, i)
                              : m->positions[m->tokens - d->queries + i];
    double loss = a->out_at.real == LQ_BF16 ? 1e-4 : 0; /* of rounding the result */
    double error = 0;
    double power = 0;
    expect_row(m, d, own, h / (d->heads / heads_of(own)), h, i,
               attend_q + (i * d->heads + h) * dims_of(own, 0), at, &e);
    float out[WIDE];
    CHECK(lq_f32_from_type(out, layout_at(&a->out_at, a->out, i, h), vd, a->out_at.real) == LQ_OK);
    for (size_t j = 0; j < vd; j++) {
        double x = (double)out[j] - e.out[j];
        error += x * x;
        power += e.out[j] * e.out[j];
    }
    /* Queries are rounded to 8 bits: of the rows of 50,000 sequences two come to half of this. */
    if (!CHECK(error <= (1e-2 + loss) * (power + 0.02 * unit * (double)vd))) {
        printf("attend error %g of %g\n", error, power);
    }
    if (d->lse) {
        double x = (double)attend_lse[i * d->heads + h] - e.lse;
        if (!CHECK(fabs(x) < 0.08)) {
            printf("lse %g, expected %g\n", x + e.lse, e.lse);
        }
    }
    for (size_t j = 0; j < m->tokens; j++) {
        model_mass[j] += e.p[j];
    }
}

static void check_mass(model *m, const lq_kv_attend_desc *d)
{
    float *own = lq_kv_mass(&m->kv);
    size_t count = d->count ? d->count : m->tokens - d->first;
    for (size_t j = 0; d->mass && j < count; j++) {
        size_t t = d->first + j;
        double before = d->mass == attend_mass ? 0 : (double)m->mass[t];
        double x = (double)d->mass[j] - before;
        CHECK(fabs(x - model_mass[t]) < 0.08 * model_mass[t] + 4e-3);
        if (d->mass != attend_mass) m->mass[t] = own[t];
    }
}

/* The same in parts, joined. */
static void check_merge(const model *m, const attention *a, uint32_t own)
{
    static float out[2][90 * WIDE];
    static float lse[2][90];
    lq_kv_attend_desc d = a->d;
    size_t vd = dims_of(own, 1);
    size_t end = d.count ? d.first + d.count : m->tokens;
    size_t rows = d.queries * d.heads;
    size_t cut = d.first;
    int part = 0;
    double unit = (double)amplitude * (double)amplitude;
    d.mass = NULL;
    while (cut < end) {
        size_t count = 1 + source_below((uint32_t)(end - cut));
        d.out.data = out[part];
        d.out.type = LQ_F32;
        d.out.token_stride = 0;
        d.out.head_stride = 0;
        d.lse = lse[part];
        d.first = cut;
        d.count = count;
        d.bias = a->d.bias ? a->d.bias + (cut - a->d.first) : NULL;
        CHECK(lq_kv_attend(&m->kv, &d) == LQ_OK);
        if (part) {
            CHECK(lq_attend_merge(out[0], lse[0], out[1], lse[1], rows, vd) == LQ_OK);
        }
        part = 1;
        cut += count;
    }
    for (size_t i = 0; part && i < rows; i++) {
        double error = 0;
        double power = 0;
        float whole[WIDE];
        CHECK(lq_f32_from_type(whole, layout_at(&a->out_at, a->out, i / d.heads, i % d.heads), vd,
                               a->out_at.real) == LQ_OK);
        for (size_t j = 0; j < vd; j++) {
            double x = (double)out[0][i * vd + j] - (double)whole[j];
            error += x * x;
            power += (double)whole[j] * (double)whole[j];
        }
        CHECK(error <= 8e-3 * (power + 0.02 * unit * (double)vd));
        CHECK(!a->d.lse || fabs((double)lse[0][i] - (double)attend_lse[i]) < 4e-3);
    }
}

/* Whether no query sees what the layer has given back. */
static int in_sight(const model *m, const lq_kv_attend_desc *d)
{
    size_t sinks = lq__kv_sequence_of(&m->kv)->sinks;
    size_t gone = gone_of(m, d->layer);
    uint32_t window = d->window == LQ_KV_NONE ? 0 : d->window ? d->window : layers[d->layer].window;
    for (size_t i = 0; i < d->queries; i++) {
        int64_t at = d->positions ? lq__kv_nth_position(d->positions, i)
                                  : m->positions[m->tokens - d->queries + i];
        for (size_t t = sinks > d->first ? sinks : d->first; t < gone; t++) {
            if ((!d->count || t < d->first + d->count) &&
                (d->all || m->positions[t] <= at) &&
                (!window || m->positions[t] > at - (int64_t)window)) {
                return 0;
            }
        }
    }
    return 1;
}

static void attend_layer(model *m, uint32_t l)
{
    attention a;
    uint32_t own = layers[l].share ? layers[l].share - 1 : l;
    random_attend(m, l, &a);
    if (!in_sight(m, &a.d)) {
        CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_E_RANGE);
        attention_free(&a);
        return;
    }
    CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_OK);
    for (size_t i = 0; i < a.d.queries; i++) {
        for (size_t h = 0; h < a.d.heads; h++) {
            check_row(m, &a, own, i, h);
        }
    }
    check_mass(m, &a.d);
    if (source_below(4) == 0) check_merge(m, &a, own);
    attention_free(&a);
}

/* Calls that are refused; nothing changes. */
static void attend_bad(model *m, uint32_t l)
{
    attention a;
    uint8_t *before = unchanged_begin();
    float bad = source_below(2) ? NAN : INFINITY;
    random_attend(m, l, &a);
    if (!in_sight(m, &a.d)) {
        unchanged_end(before);
        attention_free(&a);
        return;
    }
    a.d.first = source_below((uint32_t)m->tokens + 1);
    a.d.count = m->tokens - a.d.first + 1;
    CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_E_RANGE);
    a.d.first = 0;
    a.d.count = 0;
    if (a.workspace) {
        a.d.workspace_bytes--;
        CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_E_SPACE);
        a.d.workspace_bytes++;
    }
    a.d.layer = desc.layers;
    CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_E_ARG);
    a.d.layer = l;
    CHECK(lq_type_from_f32(layout_at(&a.q_at, a.q, a.d.queries - 1, a.d.heads - 1), &bad, 1,
                           a.q_at.real) == LQ_OK);
    CHECK(lq_kv_attend(&m->kv, &a.d) == LQ_E_DATA);
    unchanged_end(before);
    attention_free(&a);
}

static void op_attend(model *m)
{
    uint32_t l = source_below(desc.layers);
    if (layers[l].kv_heads == LQ_KV_NONE) {
        lq_kv_attend_desc d;
        memset(&d, 0, sizeof d);
        d.layer = l;
        d.heads = 2;
        d.q.data = attend_q;
        d.out.data = attend_lse;
        CHECK(lq_kv_attend(&m->kv, &d) == LQ_E_ARG);
        return;
    }
    look(m);
    attend_layer(m, l);
    if (source_below(8) == 0) attend_bad(m, l);
}

static void copy_model(model *dst, const model *src)
{
    float *given[2];
    memcpy(given, dst->given, sizeof given);
    float *seen[2];
    memcpy(seen, dst->seen, sizeof seen);
    *dst = *src;
    for (int v = 0; v < 2; v++) {
        dst->given[v] = given[v];
        dst->seen[v] = seen[v];
        for (uint32_t l = 0; l < desc.layers; l++) {
            size_t bytes = sizeof(float) * src->tokens * WIDE;
            memcpy(row_of(dst->given[v], l, 0), row_of(src->given[v], l, 0), bytes);
            memcpy(row_of(dst->seen[v], l, 0), row_of(src->seen[v], l, 0), bytes);
        }
    }
}

static void op_fork(model *m)
{
    for (size_t i = 0; i < 3; i++) {
        if (!models[i].live) {
            lq_kv kv;
            CHECK(lq_kv_fork(&kv, &m->kv) == LQ_OK);
            copy_model(&models[i], m);
            models[i].kv = kv;
            return;
        }
    }
}

static void op_free(model *m)
{
    if (models[0].live + models[1].live + models[2].live > 1) {
        lq_kv_free(&m->kv);
        m->live = 0;
    }
}

/* ---- saving ---- */
typedef struct file {
    uint8_t *bytes;
    size_t count;
    uint8_t *directory;
    uint8_t *workspace;
    void *mem;
    lq_archive_reader reader;
} file;

/* An archive in memory of so much room. */
static void file_write(file *f, lq_archive_writer *writer, size_t room, size_t directory)
{
    memset(f, 0, sizeof *f);
    lq_archive_writer_desc d;
    memset(&d, 0, sizeof d);
    f->bytes = (uint8_t *)source_alloc(room);
    f->directory = (uint8_t *)source_alloc(directory);
    d.mem = f->bytes;
    d.mem_bytes = room;
    d.directory = f->directory;
    d.directory_bytes = directory;
    CHECK(lq_archive_writer_init(writer, &d) == LQ_OK);
}

static int file_save(file *f, const lq_kv *kv, uint64_t sequence)
{
    size_t workspace;
    size_t directory;
    CHECK(lq_kv_save_bytes(kv, &workspace, &directory) == LQ_OK);
    lq_archive_writer writer;
    file_write(f, &writer, file_room, directory);
    f->workspace = (uint8_t *)source_alloc(workspace);
    CHECK(lq_kv_save(kv, &writer, sequence, f->workspace, workspace - 1) == LQ_E_SPACE);
    int status = lq_kv_save(kv, &writer, sequence, f->workspace, workspace);
    if (status == LQ_OK) {
        CHECK(lq_archive_finish(&writer) == LQ_OK);
        f->count = (size_t)writer.offset;
    }
    return status;
}

static int file_open(file *f)
{
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = f->bytes;
    source.size = f->count;
    free(f->mem);
    f->mem = source_alloc(1 << 16);
    size_t needed;
    return lq_archive_open(&f->reader, &source, f->mem, 1 << 16, &needed);
}

static int file_load(file *f, lq_kv *kv, uint64_t sequence)
{
    size_t room = lq_kv_load_workspace_bytes(kv);
    uint8_t *workspace = (uint8_t *)source_alloc(room);
    int status = lq_kv_load(kv, &f->reader, sequence, workspace, room);
    free(workspace);
    return status;
}

static void file_free(file *f)
{
    free(f->bytes);
    free(f->directory);
    free(f->workspace);
    free(f->mem);
}

/* Wrong bytes: refused whole, or they were none that count. */
static void load_damaged(file *f, model *m)
{
    for (int j = 0; j < 4; j++) {
        size_t at = source_below((uint32_t)f->count);
        uint8_t was = f->bytes[at];
        f->bytes[at] = (uint8_t)(was ^ (1u << source_below(8)));
        int status = file_open(f);
        status = status == LQ_OK ? file_load(f, &m->kv, 7) : status;
        if (status != LQ_OK) {
            CHECK(lq_kv_tokens(&m->kv) == 0);
        } else {
            look(m);
            CHECK(lq_kv_truncate(&m->kv, 0) == LQ_OK);
        }
        f->bytes[at] = was;
    }
}

/* Whether both have room for as many means: else one may go on with those that the other renews. */
static int same_epochs(const lq_kv *a, const lq_kv *b)
{
    int same = lq__kv_pool_of(a)->epochs == lq__kv_pool_of(b)->epochs;
    /* and whether both give tokens back */
    for (uint32_t l = 0; l < lq__kv_pool_of(a)->layers; l++) {
        same = same && lq__kv_layers(lq__kv_pool_of(a))[l].keep ==
                           lq__kv_layers(lq__kv_pool_of(b))[l].keep;
    }
    return same;
}

/* Whether raw tokens lie alike, too: else attention adds them up in another order. */
static int same_ring(const lq_kv *a, const lq_kv *b)
{
    const lq__kv_pool *pool = lq__kv_pool_of(a);
    size_t n = pool->ring_tokens;
    int same = same_epochs(a, b) && n == lq__kv_pool_of(b)->ring_tokens;
    for (uint32_t l = 0; l < pool->layers && same; l++) {
        same = lq__kv_counts(a)[l].ring % n == lq__kv_counts(b)[l].ring % n;
    }
    return same;
}

static int file_read(void *user, uint64_t offset, void *dst, size_t count)
{
    const file *f = (const file *)user;
    memcpy(dst, f->bytes + offset, count);
    return 0;
}

/* A cache that knows nothing but the file, in memory that grows until it is enough. */
static uint8_t *file_import(const file *f, lq_kv *kv, const lq_kv_import_desc *with)
{
    lq_archive_source source;
    uint8_t *mem = NULL;
    size_t bytes = 0;
    int calls = 0;
    memset(&source, 0, sizeof source);
    source.size = f->count;
    if (source_below(2)) {
        source.bytes = f->bytes;
    } else {
        source.read_fn = file_read;
        source.user = (void *)(uintptr_t)f;
    }
    int status;
    for (;;) {
        size_t had = bytes;
        status = lq_kv_import(kv, mem, bytes, &bytes, &source, with);
        calls++;
        if (status != LQ_E_SPACE || !CHECK(bytes > had && kv->pool == NULL)) break;
        free(mem);
        mem = (uint8_t *)source_alloc(bytes);
    }
    CHECK(status == LQ_OK && calls <= 5);
    return mem;
}

/* Loads into another block, of other room; both go on alike, to the bit. */
static void load_twin(file *f, model *m)
{
    lq_kv_desc other = desc;
    uint32_t l = source_below(desc.layers);
    size_t room = lq__kv_pool_of(&m->kv)->tokens;
    other.tokens += source_below(50);
    other.sequences = source_below(3);
    other.pages = 0;
    lq_kv_import_desc with;
    uint8_t *mem;
    lq_kv kv;
    if (source_below(2)) {
        memset(&with, 0, sizeof with);
        with.tokens = other.tokens;
        with.sequences = other.sequences;
        with.sequence = 7;
        mem = file_import(f, &kv, &with);
    } else {
        mem = (uint8_t *)source_alloc(lq_kv_bytes(&other));
        CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&other), &other) == LQ_OK);
        CHECK(file_load(f, &kv, 7) == LQ_OK);
    }
    CHECK(lq_kv_tokens(&kv) == m->tokens);
    CHECK(lq_kv_load_check(&kv, &f->reader, 7, NULL) == LQ_OK);
    twin = &kv;
    op_append(m);
    op_append(m);
    twin = NULL;
    look(m);
    attention a;
    if (layers[l].kv_heads != LQ_KV_NONE) {
        random_attend(m, l, &a);
        a.d.mass = NULL;
        size_t bytes = a.out_at.count * lq_type_bytes(a.out_at.real);
        CHECK(lq_kv_attend(&m->kv, &a.d) == (in_sight(m, &a.d) ? LQ_OK : LQ_E_RANGE));
        uint8_t *first = source_copy(a.out, bytes);
        if (a.d.workspace_bytes < lq_kv_attend_workspace_bytes(&kv)) { /* more pages, more parts */
            a.d.workspace = NULL;
            a.d.workspace_bytes = 0;
        }
        int status = lq_kv_attend(&kv, &a.d);
        CHECK(status == LQ_OK || (status == LQ_E_RANGE && gone_of(m, l) > 0));
        if (in_sight(m, &a.d) && same_ring(&m->kv, &kv)) {
            CHECK(memcmp(first, a.out, bytes) == 0);
        }
        free(first);
        attention_free(&a);
    }
    file_free(f);
    lq__kv_pool_of(&m->kv)->tokens = other.tokens; /* which the file tells */
    file g;
    CHECK(file_save(f, &m->kv, 7) == LQ_OK && file_save(&g, &kv, 7) == LQ_OK);
    lq__kv_pool_of(&m->kv)->tokens = room;
    if (same_epochs(&m->kv, &kv)) {
        CHECK(g.count == f->count && memcmp(f->bytes, g.bytes, f->count) == 0);
    }
    file_free(&g);
    free(mem);
}

/* Whether there are slots for another sequence of these pages. */
static int has_room(const lq_kv *kv)
{
    const lq__kv_pool *pool = lq__kv_pool_of(kv);
    for (uint32_t l = 0; l < pool->layers; l++) {
        const lq__kv_layer *layer = lq__kv_layers(pool) + l;
        const lq__kv_page *page = lq__kv_pages(kv, layer);
        size_t slots = 0;
        for (size_t p = 0; layer->kv_heads && p < lq__kv_counts(kv)[l].pages; p++) {
            slots += page[p].slot != LQ__KV_NO && (p == 0 || page[p - 1].slot != page[p].slot);
        }
        if (layer->kv_heads && slots > layer->slots.free_count) return 0;
    }
    return 1;
}

/* Saves, and loads into a second sequence of the block, which then lives on. */
static void op_save(model *m)
{
    look(m);
    size_t i;
    for (i = 0; i < 3 && models[i].live; i++) {
    }
    if (i == 3) return;
    file f;
    CHECK(file_save(&f, &m->kv, 7) == LQ_OK && file_open(&f) == LQ_OK);
    copy_model(&models[i], m);
    CHECK(lq_kv_fork(&models[i].kv, &m->kv) == LQ_OK);
    if (m->tokens) CHECK(file_load(&f, &models[i].kv, 7) == LQ_E_ARG);
    CHECK(lq_kv_truncate(&models[i].kv, 0) == LQ_OK);
    file g;
    if (has_room(&m->kv)) {
        CHECK(file_load(&f, &models[i].kv, 8) == LQ_E_RANGE);
        load_damaged(&f, &models[i]);
        CHECK(file_open(&f) == LQ_OK && file_load(&f, &models[i].kv, 7) == LQ_OK);
        CHECK(file_save(&g, &models[i].kv, 7) == LQ_OK);
        CHECK(g.count == f.count && memcmp(f.bytes, g.bytes, f.count) == 0);
        file_free(&g);
        models[i].live = 1;
        look(&models[i]);
    } else {
        CHECK(file_load(&f, &models[i].kv, 7) == LQ_E_FULL);
        lq_kv_free(&models[i].kv);
        models[i].live = 0;
    }
    load_twin(&f, m);
    file_free(&f);
}

/* The first layers of a step, then back. Layers that went ahead lose what they sealed. */
static void op_rollback(model *m)
{
    size_t n = 1 + source_below(70);
    size_t done = 0;
    look(m);
    n = LQ__MIN(n, lq_kv_room(&m->kv));
    n = LQ__MIN(n, desc.step_tokens ? desc.step_tokens : 512);
    if (n == 0) return;
    for (uint32_t l = 0; l < desc.layers; l++) {
        if (has_own(l) && (done == 0 || source_below(2))) {
            append_layer(m, l, n, NULL);
            done++;
            if (source_below(2)) break;
        } else if (has_own(l)) {
            break;
        }
    }
    m->most = m->tokens + n > m->most ? m->tokens + n : m->most;
    CHECK(lq_kv_truncate(&m->kv, m->tokens) == LQ_OK);
    for (size_t t = 0; t < m->tokens; t++) {
        int raw = t >= least_sealed(m);
        m->recoded[t] = (uint8_t)(m->recoded[t] + raw);
        if (raw || m->lossy[t] == 0) m->lossy[t] = 1;
    }
}

/* ---- evicting and shifting ---- */
/* The model's part of an eviction; the cache's tokens have moved up by then. */
static void model_evict(model *m, const uint8_t *keep)
{
    size_t to = 0;
    for (size_t t = 0; t < m->tokens; t++) {
        if (!keep[t]) continue;
        m->positions[to] = m->positions[t];
        m->lossy[to] = m->lossy[t];
        m->turned[to] = m->turned[t];
        m->mass[to] = m->mass[t];
        m->recoded[to] = m->recoded[t];
        for (uint32_t l = 0; l < desc.layers && to != t; l++) {
            for (int v = 0; v < 2; v++) {
                memcpy(row_of(m->given[v], l, to), row_of(m->given[v], l, t), 4 * WIDE);
                memcpy(row_of(m->seen[v], l, to), row_of(m->seen[v], l, t), 4 * WIDE);
            }
        }
        to++;
    }
    m->tokens = to;
    m->most = TOKENS_MOST + 1000; /* what was given back may be less far back now */
}

/* Whether values of LQ_E8 may have been coded again. */
static int has_joint_values(void)
{
    for (uint32_t l = 0; l < desc.layers; l++) {
        for (uint32_t h = 0; has_own(l) && h < heads_of(l); h++) {
            if (hot_kind(l, 1, h) == LQ__HOT_E8 && !v_in_k(l)) return 1;
        }
    }
    return 0;
}

static void forget_exact(model *m)
{
    for (size_t t = 0; t < m->tokens && has_joint_values(); t++) {
        m->recoded[t] = (uint8_t)(m->recoded[t] + (m->lossy[t] > 0));
        m->lossy[t] = m->lossy[t] ? 1 : 0;
    }
}

static void op_evict(model *m)
{
    uint32_t rate = 1 + source_below(20);
    size_t run = 1 + source_below(80);
    look(m);
    uint8_t keep[TOKENS_MOST];
    for (size_t t = 0; t < m->tokens; t++) {
        keep[t] = t % run ? keep[t - 1] : source_below(rate) != 0;
    }
    CHECK(lq_kv_evict(&m->kv, keep, m->tokens + 1) == LQ_E_ARG);
    int status = lq_kv_evict(&m->kv, keep, m->tokens);
    if (status == LQ_E_FULL) {
        CHECK(!has_room(&m->kv));
        look(m);
        check_block();
        return;
    }
    CHECK(status == LQ_OK);
    model_evict(m, keep);
    forget_exact(m);
    look(m);
    check_block();
}

static void op_evict_by(model *m)
{
    static double score[TOKENS_MOST];
    size_t sinks = 0;
    size_t gone = 0;
    int any = 1; /* no layer has all keys */
    look(m);
    lq_kv_evict_desc d;
    memset(&d, 0, sizeof d);
    d.scorer = (int)source_below(4);
    d.first = source_below(2) ? LQ_KV_NONE : source_below(9);
    d.last = source_below(2) ? LQ_KV_NONE : source_below(20);
    d.tokens = source_below((uint32_t)desc.tokens);
    size_t first = d.first == LQ_KV_NONE ? 0 : d.first ? d.first : lq__kv_pool_of(&m->kv)->sinks;
    size_t last = d.last == LQ_KV_NONE ? 0 : d.last ? d.last : lq__kv_pool_of(&m->kv)->window;
    if (first + last > d.tokens) {
        CHECK(lq_kv_evict_by(&m->kv, &d) == LQ_E_ARG);
        return;
    }
    for (uint32_t l = 0; l < desc.layers; l++) {
        sinks = lq__kv_sequence_of(&m->kv)->sinks;
        any = any && !(has_own(l) && gone_of(m, l) == sinks);
        gone = has_own(l) && gone_of(m, l) > gone ? gone_of(m, l) : gone;
    }
    uint8_t keep[TOKENS_MOST];
    for (size_t t = 0; t < m->tokens; t++) {
        m->mass[t] = (float)source_below(4);
        lq_kv_mass(&m->kv)[t] = m->mass[t];
        score[t] = d.scorer <= LQ_KV_BY_MASS ? (double)m->mass[t] : 0;
        for (uint32_t l = 0; l < desc.layers && d.scorer == LQ_KV_BY_NORM; l++) {
            const float *k = row_of(m->seen[0], l, t);
            int counts = has_own(l) && (any || gone_of(m, l) == sinks);
            for (size_t i = 0; counts && i < (size_t)heads_of(l) * dims_of(l, 0); i++) {
                score[t] -= (double)k[i] * (double)k[i];
            }
        }
        if (d.scorer == LQ_KV_BY_NORM && any && t >= sinks && t < gone) {
            score[t] = -1e38; /* no layer has all of its keys */
        }
        keep[t] = 1;
    }
    last = m->tokens - LQ__MIN(m->tokens, last);
    for (size_t i = m->tokens; i > d.tokens; i--) { /* the worst one goes, of equals the oldest */
        size_t worst = TOKENS_MOST;
        for (size_t t = first; t < last; t++) {
            if (keep[t] && (worst == TOKENS_MOST || score[t] < score[worst])) {
                worst = t;
            }
        }
        keep[worst] = 0;
    }
    int status = lq_kv_evict_by(&m->kv, &d);
    if (status == LQ_OK) {
        model_evict(m, keep);
        forget_exact(m);
    } else {
        CHECK(status == LQ_E_FULL);
    }
    look(m);
    check_block();
}

static void op_shift(model *m)
{
    size_t first = m->tokens ? source_below((uint32_t)m->tokens) : 0;
    size_t count = m->tokens ? source_below((uint32_t)(m->tokens - first) + 1) : 0;
    int64_t delta = (int64_t)source_below(60) - 30;
    int fine = 1;
    look(m);
    if (!turns()) return;
    if (source_below(2)) count = m->tokens - first;
    int status = lq_kv_shift(&m->kv, first, count, delta);
    for (size_t t = first; t < first + count; t++) {
        m->positions[t] += delta;
    }
    for (size_t t = 1; t < m->tokens; t++) {
        fine = fine && m->positions[t] > m->positions[t - 1];
    }
    CHECK(fine == (status == LQ_OK));
    for (size_t t = first; t < first + count; t++) {
        if (!fine) {
            m->positions[t] -= delta;
            continue;
        }
        m->turned[t] = 1;
        double a;
        double b;
        for (uint32_t l = 0; l < desc.layers; l++) {
            uint32_t from;
            const lq_rope *of = rope_of(l, &from);
            for (size_t h = 0; has_own(l) && of && h < heads_of(l); h++) {
                float *k = row_of(m->given[0], l, t) + h * dims_of(l, 0) + from;
                for (size_t i = 0; i < of->rotary_dims / 2; i++) {
                    size_t p = of->layout == LQ_ROPE_ADJACENT ? 2 * i : i;
                    size_t q = of->layout == LQ_ROPE_ADJACENT ? 2 * i + 1 : i + of->rotary_dims / 2;
                    a = (double)k[p];
                    b = (double)k[q];
                    source_rope_pair(&a, &b, (double)delta, (double)of->freqs[i], 1, 0);
                    k[p] = (float)a;
                    k[q] = (float)b;
                }
            }
        }
    }
    look(m);
}

/* ---- cold ---- */
static double cold_error(const lq_kv *a, const lq_kv *b, uint32_t stream, size_t numbers)
{
    lq_kv_view_out out;
    double error = 0;
    double power = 0;
    size_t tokens = lq_kv_tokens(a);
    memset(&out, 0, sizeof out);
    for (uint32_t l = 0; l < 3; l += 2) {
        out.data = wide_x[0];
        CHECK(lq_kv_read(a, l, stream, &out, 0, tokens, NULL, 0) == LQ_OK);
        out.data = wide_x[1];
        CHECK(lq_kv_read(b, l, stream, &out, 0, tokens, NULL, 0) == LQ_OK);
        for (size_t i = 0; i < tokens * numbers; i++) {
            double e = (double)wide_x[0][i] - (double)wide_x[1][i];
            error += e * e;
            power += (double)wide_x[0][i] * (double)wide_x[0][i];
        }
    }
    return sqrt(error / power);
}

static void cold_fill(lq_kv *kv, size_t tokens)
{
    static float row[64];
    for (size_t t = 0; t < tokens; t++) {
        lq_positions p;
        memset(&p, 0, sizeof p);
        p.first = (int64_t)(t + t / 100 * 5); /* gaps */
        for (uint32_t l = 0; l < 3; l += 2) {
            lq_kv_view view;
            memset(&view, 0, sizeof view);
            for (size_t i = 0; i < 64; i++) {
                row[i] = (float)(source_gauss() + (i % 16 == 3 ? 6 : 0));
            }
            view.data = row;
            CHECK(lq_kv_append(kv, l, &view, &view, &p, 1) == LQ_OK);
        }
    }
}

static void test_v_in_k_cold(const lq_tables *tables);
static void test_slide_cold(const lq_tables *tables);
static void fill(float *x, size_t count);
static lq_kv_desc small_desc(void);

static void test_cold(void)
{
    lq_kv_desc d;
    uint8_t *tables_mem = (uint8_t *)source_alloc(lq_tables_bytes());
    memset(&d, 0, sizeof d);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    lq_kv_layer layer[3];
    memset(layer, 0, sizeof layer);
    layer[1].kv_heads = LQ_KV_NONE;
    d.layers = 3;
    d.layer = layer;
    d.kv_heads = 2;
    d.k_dims = 32;
    d.tokens = 600;
    d.k.kind = d.v.kind = LQ_KV_HOT;
    d.k.bits = d.v.bits = 8;
    rope.rotary_dims = 8;
    rope.layout = LQ_ROPE_HALF;
    rope.magnitude = 1.25f;
    for (size_t i = 0; i < 4; i++) {
        freqs[i] = (float)source_uniform();
    }
    rope.freqs = freqs;
    d.rope = &rope;
    uint8_t *mem[2];
    for (size_t i = 0; i < 2; i++) {
        mem[i] = (uint8_t *)source_alloc(lq_kv_bytes(&d));
    }
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem[0], lq_kv_bytes(&d), &d) == LQ_OK);
    lq_kv back;
    CHECK(lq_kv_init(&back, mem[1], lq_kv_bytes(&d), &d) == LQ_OK);
    cold_fill(&kv, 500);
    CHECK(lq_kv_shift(&kv, 200, 300, 1000) == LQ_OK);
    CHECK(lq_tables_init(&pack.tables, tables_mem, lq_tables_bytes()) == LQ_OK);
    pack.sequence = 3;
    pack.k_step = 0.3f;
    pack.v_step = 0.3f;
    pack.chunk = 256;
    size_t needed;
    size_t directory;
    CHECK(lq_kv_pack_bytes(&kv, &pack, &needed, &directory) == LQ_OK);
    uint8_t *workspace = (uint8_t *)source_alloc(needed);
    lq_archive_writer writer;
    file f;
    file_write(&f, &writer, (size_t)1 << 23, directory);
    CHECK(lq_kv_pack(&kv, &writer, &pack, workspace, needed - 1) == LQ_E_SPACE);
    CHECK(lq_kv_pack(&kv, &writer, &pack, workspace, needed) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    f.count = (size_t)writer.offset;
    free(workspace);
    printf("packed: %.3f bits a number\n", 8.0 * (double)f.count / (500 * 2 * 128));
    CHECK(file_open(&f) == LQ_OK);
    CHECK(lq_kv_unpack_workspace_bytes(&back, &f.reader, 4) == 0);
    needed = lq_kv_unpack_workspace_bytes(&back, &f.reader, 3);
    workspace = (uint8_t *)source_alloc(needed);
    CHECK(unpack(&back, &f.reader, pack.tables, 4, workspace, needed) == LQ_E_RANGE);
    CHECK(unpack(&back, &f.reader, pack.tables, 3, workspace, needed - 1) == LQ_E_SPACE);
    CHECK(unpack(&kv, &f.reader, pack.tables, 3, workspace, needed) == LQ_E_ARG);
    CHECK(unpack(&back, &f.reader, pack.tables, 3, workspace, needed) == LQ_OK);
    int64_t p;
    CHECK(lq_kv_tokens(&back) == 500 && lq_kv_position(&back, 499, &p) == LQ_OK && p == 1519);
    CHECK(cold_error(&kv, &back, LQ_K, 64) < 0.08 && cold_error(&kv, &back, LQ_V, 64) < 0.12);
    /* a wrong byte: refused whole, or it is padding */
    for (size_t i = 0; i < (quick ? 10u : 200u); i++) {
        size_t at = source_below((uint32_t)f.count);
        CHECK(lq_kv_truncate(&back, 0) == LQ_OK);
        f.bytes[at] ^= 0x10;
        if (file_open(&f) == LQ_OK) {
            int status = unpack(&back, &f.reader, pack.tables, 3, workspace, needed);
            CHECK(lq_kv_tokens(&back) == (status == LQ_OK ? 500u : 0u));
        }
        f.bytes[at] ^= 0x10;
    }
    free(workspace);
    file_free(&f);
    test_v_in_k_cold(pack.tables);
    test_slide_cold(pack.tables);
    free(tables_mem);
    free(mem[0]);
    free(mem[1]);
}

/* ---- layers with windows ---- */
enum { SLIDE_TOKENS = 2000, SLIDE_WINDOW = 100, SLIDE_STEP = 64, SLIDE_ROW = 2 * 32 };

static float slide_x[2][SLIDE_TOKENS * SLIDE_ROW];

/* Two layers with a window and one without; `keep`: nothing is given back. */
static lq_kv_desc slide_desc(lq_kv_layer *l, int keep)
{
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    memset(l, 0, 3 * sizeof *l);
    d.layers = 3;
    d.kv_heads = 2;
    d.k_dims = 32;
    d.tokens = SLIDE_TOKENS;
    d.layer = l;
    d.step_tokens = keep ? SLIDE_TOKENS : SLIDE_STEP;
    l[0].window = l[2].window = SLIDE_WINDOW;
    return d;
}

static void slide_append(lq_kv *kv, size_t at, size_t n)
{
    lq_kv_view view[2];
    memset(view, 0, sizeof view);
    for (int v = 0; v < 2; v++) {
        view[v].data = slide_x[v] + at * SLIDE_ROW;
    }
    for (uint32_t l = 0; l < 3; l++) {
        CHECK(lq_kv_append(kv, l, &view[0], &view[1], NULL, n) == LQ_OK);
    }
}

/* Attention of the last n tokens' queries in all layers. */
static int slide_attend(const lq_kv *kv, size_t n, float *out)
{
    int status = LQ_OK;
    for (uint32_t l = 0; l < 3 && status == LQ_OK; l++) {
        lq_kv_attend_desc a;
        memset(&a, 0, sizeof a);
        a.layer = l;
        a.heads = 4;
        a.queries = n;
        a.q.data = slide_x[0] + 7;
        a.out.data = out + l * n * 128;
        status = lq_kv_attend(kv, &a);
    }
    return status;
}

/* A cache that gives tokens back is, for all that a query sees, the one that keeps them, to the
   bit; and so are two that got their tokens in other steps. */
static void test_slide(void)
{
    static float out[2][3 * 64 * 128];
    static float read[2][64 * SLIDE_ROW];
    fill(slide_x[0], SLIDE_TOKENS * SLIDE_ROW);
    fill(slide_x[1], SLIDE_TOKENS * SLIDE_ROW);
    lq_kv_view_out o;
    memset(&o, 0, sizeof o);
    lq_kv_layer l[3];
    lq_kv_desc d[2];
    lq_kv kv[3];
    uint8_t *mem[3];
    for (size_t i = 0; i < 3; i++) {
        d[i % 2] = slide_desc(l, i == 1);
        mem[i] = (uint8_t *)source_alloc(lq_kv_bytes(&d[i % 2]));
        CHECK(lq_kv_init(&kv[i], mem[i], lq_kv_bytes(&d[i % 2]), &d[i % 2]) == LQ_OK);
    }
    lq_kv_account account[2];
    for (size_t i = 0; i < 2; i++) {
        CHECK(lq_kv_stats(&kv[i], &account[i]) == LQ_OK);
    }
    printf("2000 tokens, 3 layers, windows of 100 in 2: pages of %lu bytes, all kept %lu\n",
           (unsigned long)account[0].free_bytes, (unsigned long)account[1].free_bytes);
    CHECK((double)account[0].free_bytes < 0.5 * (double)account[1].free_bytes);
    CHECK(lq_kv_bytes(&d[1]) - lq_kv_bytes(&d[0]) >=
          account[1].free_bytes - account[0].free_bytes);
    for (size_t t = 0; t < 1500; t += 50) {
        slide_append(&kv[0], t, 50);
        slide_append(&kv[1], t, 50);
        CHECK(slide_attend(&kv[0], 50, out[0]) == LQ_OK);
        CHECK(slide_attend(&kv[1], 50, out[1]) == LQ_OK);
        CHECK(memcmp(out[0], out[1], sizeof out[0] / 64 * 50) == 0);
    }
    slide_append(&kv[2], 0, 1500);
    file f[2];
    CHECK(file_save(&f[0], &kv[0], 7) == LQ_OK && file_save(&f[1], &kv[2], 7) == LQ_OK);
    CHECK(f[0].count == f[1].count && memcmp(f[0].bytes, f[1].bytes, f[0].count) == 0);
    size_t gone = lq__kv_counts(&kv[0])[0].gone;
    CHECK(gone > 1200 && gone <= 1500 - SLIDE_WINDOW - SLIDE_STEP);
    CHECK(lq__kv_counts(&kv[0])[1].gone == 0 && lq__kv_counts(&kv[1])[0].gone == 0);
    CHECK(slide_attend(&kv[2], SLIDE_STEP, out[0]) == LQ_OK); /* of a longer step: its last ones */
    float *all = (float *)source_alloc(sizeof(float) * 3 * 1500 * 128);
    CHECK(slide_attend(&kv[2], 1500, all) == LQ_E_RANGE);
    free(all);
    o.data = read[0];
    CHECK(lq_kv_read(&kv[0], 0, LQ_V, &o, gone - 1, 1, NULL, 0) == LQ_E_RANGE);
    CHECK(lq_kv_read(&kv[0], 0, LQ_V, &o, gone, 64, NULL, 0) == LQ_OK);
    o.data = read[1];
    CHECK(lq_kv_read(&kv[1], 0, LQ_V, &o, gone, 64, NULL, 0) == LQ_OK);
    CHECK(memcmp(read[0], read[1], sizeof read[0]) == 0);
    CHECK(lq_kv_truncate(&kv[0], 1300) == LQ_E_RANGE && lq_kv_tokens(&kv[0]) == 1500);
    CHECK(lq_kv_truncate(&kv[0], 1500 - SLIDE_STEP) == LQ_OK);
    CHECK(lq_kv_truncate(&kv[1], 1500 - SLIDE_STEP) == LQ_OK);
    CHECK(slide_attend(&kv[0], 1, out[0]) == LQ_OK && slide_attend(&kv[1], 1, out[1]) == LQ_OK);
    CHECK(memcmp(out[0], out[1], sizeof out[0] / 64) == 0);
    CHECK(file_open(&f[0]) == LQ_OK && lq_kv_truncate(&kv[2], 0) == LQ_OK);
    CHECK(file_load(&f[0], &kv[2], 7) == LQ_OK && lq_kv_tokens(&kv[2]) == 1500);
    slide_append(&kv[2], 1500, 500);
    CHECK(lq_kv_room(&kv[2]) == 0);
    for (size_t i = 0; i < 3; i++) {
        free(mem[i]);
    }
    file_free(&f[0]);
    file_free(&f[1]);
}

/* Packed and unpacked, a sequence of which layers gave tokens back: the rest is there, with each
   layer's own RoPE undone and applied; what is not stays so. */
static void test_slide_cold(const lq_tables *tables)
{
    static float other[16];
    lq_kv_layer l[3];
    lq_kv_desc d = slide_desc(l, 0);
    lq_archive_group_desc group;
    memset(&group, 0, sizeof group);
    lq_rope ropes[2];
    memset(ropes, 0, sizeof ropes);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    lq_kv_view_out o;
    memset(&o, 0, sizeof o);
    for (size_t i = 0; i < 16; i++) {
        freqs[i] = (float)pow(1e4, -(double)i / 16);
        other[i] = (float)pow(1e6, -(double)i / 16);
    }
    ropes[0].freqs = freqs;
    ropes[1].freqs = other;
    ropes[0].rotary_dims = ropes[1].rotary_dims = 32;
    d.rope = &ropes[0];
    l[1].rope = &ropes[1]; /* the layer that sees all has another base */
    d.k.kind = d.v.kind = LQ_KV_HOT;
    d.k.bits = d.v.bits = 8;
    lq_kv kv[2];
    uint8_t *mem[2];
    for (size_t i = 0; i < 2; i++) {
        mem[i] = (uint8_t *)source_alloc(lq_kv_bytes(&d));
        CHECK(lq_kv_init(&kv[i], mem[i], lq_kv_bytes(&d), &d) == LQ_OK);
    }
    slide_append(&kv[0], 0, 1500);
    CHECK(lq_kv_shift(&kv[0], 700, 800, 1000) == LQ_OK);
    pack.tables = tables;
    pack.k_step = pack.v_step = 0.2f;
    size_t needed;
    size_t directory;
    CHECK(lq_kv_pack_bytes(&kv[0], &pack, &needed, &directory) == LQ_OK);
    uint8_t *workspace = (uint8_t *)source_alloc(needed);
    lq_archive_writer writer;
    file f;
    file_write(&f, &writer, (size_t)1 << 22, directory);
    CHECK(lq_kv_pack(&kv[0], &writer, &pack, workspace, needed) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    free(workspace);
    f.count = (size_t)writer.offset;
    CHECK(file_open(&f) == LQ_OK);
    for (uint32_t k = 0; k < 6; k += 2) {
        CHECK(lq_archive_group(&f.reader, 0, &group, NULL, 0) == LQ_OK);
        uint32_t first = group.rope;
        CHECK(lq_archive_group(&f.reader, k, &group, NULL, 0) == LQ_OK);
        CHECK((group.rope == first) == (k != 2) && group.rope != LQ_ARCHIVE_NONE);
    }
    needed = lq_kv_unpack_workspace_bytes(&kv[1], &f.reader, 0);
    workspace = (uint8_t *)source_alloc(needed);
    CHECK(unpack(&kv[1], &f.reader, tables, 0, workspace, needed) == LQ_OK);
    CHECK(lq_kv_tokens(&kv[1]) == 1500);
    for (uint32_t k = 0; k < 6; k++) {
        size_t gone = lq__kv_counts(&kv[0])[k / 2].gone;
        size_t n = 1500 - gone;
        double error = 0;
        CHECK((gone > 1000) == (k / 2 != 1));
        for (size_t i = 0; i < 2; i++) {
            o.data = wide_x[i];
            CHECK(lq_kv_read(&kv[i], k / 2, 1 + k % 2, &o, gone, n, NULL, 0) == LQ_OK);
        }
        for (size_t i = 0; i < n * SLIDE_ROW; i++) {
            error += pow((double)wide_x[0][i] - (double)wide_x[1][i], 2) / (double)(n * SLIDE_ROW);
        }
        CHECK(error < 0.09 * 0.09); /* of steps of .2: .058 */
        CHECK(lq_kv_read(&kv[1], k / 2, 1 + k % 2, &o, gone - (gone > 0), 1, NULL, 0) ==
              (gone ? LQ_E_RANGE : LQ_OK));
        o.data = wide_x[0];
        CHECK(lq_kv_read(&kv[1], k / 2, LQ_V, &o, 0, 4, NULL, 0) == LQ_OK); /* sinks */
        CHECK(fabs((double)wide_x[0][5] - (double)slide_x[1][5]) < 1e-2);
    }
    CHECK(slide_attend(&kv[1], 1, wide_x[0]) == LQ_OK);
    slide_append(&kv[1], 1500, 100);
    free(workspace);
    file_free(&f);
    free(mem[0]);
    free(mem[1]);
}

/* A shift turns the keys of each layer by its own RoPE. */
static void test_two_bases(void)
{
    static float x[20 * 32];
    static float other[8];
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    lq_kv_layer l[3];
    memset(l, 0, sizeof l);
    lq_rope ropes[3];
    memset(ropes, 0, sizeof ropes);
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    for (size_t i = 0; i < 8; i++) {
        freqs[i] = (float)pow(1e4, -(double)i / 8);
        other[i] = (float)pow(1e6, -(double)i / 8);
    }
    ropes[0].freqs = freqs;
    ropes[0].rotary_dims = 16;
    ropes[1].freqs = other;
    ropes[1].rotary_dims = 12;
    ropes[1].layout = LQ_ROPE_ADJACENT;
    ropes[1].magnitude = 1.5f; /* keys have it already */
    d.layers = 3;
    d.kv_heads = 1;
    d.k_dims = 32;
    d.tokens = 20;
    d.type = LQ_F32;
    d.layer = l;
    d.rope = &ropes[0];
    l[1].rope = &ropes[1];
    l[1].rope_first = 5;
    l[2].rope = &ropes[2]; /* none */
    fill(x, 20 * 32);
    view.data = x;
    uint8_t *mem = (uint8_t *)source_alloc(lq_kv_bytes(&d));
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK(lq_kv_append(&kv, k, &view, &view, NULL, 20) == LQ_OK);
    }
    CHECK(lq_kv_shift(&kv, 0, 20, 123456789) == LQ_OK);
    for (uint32_t k = 0; k < 3; k++) {
        out.data = wide_x[0];
        CHECK(lq_kv_read(&kv, k, LQ_K, &out, 0, 20, NULL, 0) == LQ_OK);
        for (size_t i = 0; i < 20 * 32; i++) {
            size_t c = i % 32;
            double a = (double)x[i];
            double b;
            if (k == 0 && c < 16) {
                b = (double)x[c < 8 ? i + 8 : i - 8];
                source_rope_pair(c < 8 ? &a : &b, c < 8 ? &b : &a, 123456789, (double)freqs[c % 8],
                                 1, 0);
            } else if (k == 1 && c >= 5 && c < 17) {
                int second = (c - 5) % 2;
                b = (double)x[second ? i - 1 : i + 1];
                source_rope_pair(second ? &b : &a, second ? &a : &b, 123456789,
                                 (double)other[(c - 5) / 2], 1, 0);
            }
            CHECK(fabs(a - (double)wide_x[0][i]) < 4e-6);
        }
    }
    free(mem);
}

/* A cache saved in a block that is smaller than its sinks or window loads into a larger one and
   goes on there like one that was made in it. */
static void test_grow(void)
{
    static float x[300 * 2 * 32];
    static const size_t tokens[6] = {1, 3, 8, 40, 63, 90};
    fill(x, sizeof x / 4);
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    view.data = x;
    for (size_t i = 0; i < 6; i++) {
        for (int how = 0; how < 4; how++) { /* defaults; sinks above; full or not */
            lq_kv_desc d = small_desc();
            size_t n = how % 2 ? (tokens[i] + 1) / 2 : tokens[i];
            d.window = 0;
            d.v_dims = 16;
            d.sinks = how / 2 ? 70 : 0;
            lq_kv kv[3];
            uint8_t *mem[3];
            for (size_t s = 0; s < 3; s++) {
                d.tokens = s ? 300 : tokens[i];
                mem[s] = (uint8_t *)source_alloc(lq_kv_bytes(&d));
                CHECK(lq_kv_init(&kv[s], mem[s], lq_kv_bytes(&d), &d) == LQ_OK);
            }
            for (uint32_t l = 0; l < 2; l++) {
                CHECK(lq_kv_append(&kv[0], l, &view, &view, NULL, n) == LQ_OK);
                CHECK(lq_kv_append(&kv[2], l, &view, &view, NULL, n) == LQ_OK);
            }
            file f[2];
            CHECK(file_save(&f[0], &kv[0], 7) == LQ_OK && file_open(&f[0]) == LQ_OK);
            CHECK(file_load(&f[0], &kv[1], 7) == LQ_OK && lq_kv_tokens(&kv[1]) == n);
            file_free(&f[0]);
            for (size_t s = 1; s < 3; s++) {
                for (uint32_t l = 0; l < 2; l++) {
                    CHECK(lq_kv_append(&kv[s], l, &view, &view, NULL, 300 - n) == LQ_OK);
                }
                CHECK(file_save(&f[s - 1], &kv[s], 7) == LQ_OK);
            }
            CHECK(f[0].count == f[1].count && memcmp(f[0].bytes, f[1].bytes, f[0].count) == 0);
            file_free(&f[0]);
            file_free(&f[1]);
            for (size_t s = 0; s < 3; s++) {
                free(mem[s]);
            }
        }
    }
}

static void test_policies(void)
{
    static const float k[6] = {9, 1, 1, 1, 1, 5};
    static const float v[6] = {1, 1, 1, 1, 1, 1};
    lq_kv_layer l[6];
    float nan[6] = {NAN, 1, 1, 1, 1, 1};
    int sum = 0;
    memset(l, 0, sizeof l);
    lq_kv_policy raw;
    memset(&raw, 0, sizeof raw);
    lq_kv_policy bad;
    memset(&bad, 0, sizeof bad);
    raw.kind = LQ_KV_RAW;
    bad.kind = LQ_KV_HOT;
    bad.bits = 7;
    CHECK(lq_kv_layers_edge(l, 6, 2, &raw, &bad) == LQ_E_ARG);
    CHECK(lq_kv_layers_edge(l, 6, 2, &raw, &raw) == LQ_OK);
    size_t i;
    for (i = 0; i < 6; i++) {
        CHECK((l[i].k.kind == LQ_KV_RAW) == (i < 2 || i > 3) && l[i].v.kind == l[i].k.kind);
    }
    CHECK(lq_kv_layers_graded(l, 6, 7, 2) == LQ_E_ARG);
    CHECK(lq_kv_layers_graded(l, 6, 2, 8) == LQ_OK);
    for (i = 0; i < 6; i++) { /* every width */
        static const int widths[6] = {2, 3, 4, 5, 6, 8};
        CHECK(l[i].k.bits == widths[i] && l[i].v.bits == widths[i]);
    }
    CHECK(lq_kv_layers_graded(l, 6, 4, 2) == LQ_OK);
    CHECK(l[0].k.bits == 4 && l[1].v.bits == 4 && l[2].k.bits == 3 && l[3].k.bits == 3 &&
          l[4].k.bits == 2 && l[5].v.bits == 2);
    l[3].kv_heads = LQ_KV_NONE;
    l[3].k.bits = 77;
    CHECK(lq_kv_layers_adaptive(l, 6, nan, v, 3) == LQ_E_DATA);
    CHECK(lq_kv_layers_adaptive(l, 6, k, v, 1) == LQ_E_ARG);
    CHECK(lq_kv_layers_adaptive(l, 6, k, v, 3) == LQ_OK);
    for (i = 0; i < 6; i++) {
        sum += i == 3 ? 0 : l[i].k.bits + l[i].v.bits;
    }
    CHECK(sum == 30 && l[0].k.bits == 4 && l[5].k.bits == 4 && l[3].k.bits == 77);
    l[1].v_in_k = 1; /* one stream, with both sensitivities */
    CHECK(lq_kv_layers_adaptive(l, 6, v, nan, 3) == LQ_E_DATA);
    nan[0] = 1;
    nan[1] = 9;
    CHECK(lq_kv_layers_adaptive(l, 6, v, nan, 3) == LQ_OK);
    for (i = 0, sum = 0; i < 6; i++) {
        sum += i == 3 ? 0 : i == 1 ? l[i].k.bits : l[i].k.bits + l[i].v.bits;
    }
    CHECK(sum == 27 && l[1].k.bits == 4 && l[0].k.bits <= 3 && l[5].k.bits <= 3);
}

/* ---- fixed tests ---- */
static void fill(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)source_gauss();
    }
}

/* What a 2,048-token, 32-layer, 8 x 128 cache of 4 bits takes. */
static void test_memory(void)
{
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    d.layers = 32;
    d.kv_heads = 8;
    d.k_dims = 128;
    d.tokens = 2048;
    CHECK(lq_kv_bytes(&d) <= 78000000u);
    printf("2048 tokens, 32 layers, 8 x 128: %lu bytes", (unsigned long)lq_kv_bytes(&d));
    d.window = 32; /* ideally 69.9 MB; as f16 268 */
    d.sinks = LQ_KV_NONE;
    CHECK(lq_kv_bytes(&d) <= 75000000u);
    printf(", %lu with a window of 32 and no sinks", (unsigned long)lq_kv_bytes(&d));
    d.sinks = 0;
    d.window = 16;
    CHECK(lq_kv_bytes(&d) <= 74000000u);
    printf(", %lu with a window of 16\n", (unsigned long)lq_kv_bytes(&d));
    memset(&d, 0, sizeof d); /* the same as f16: 32,768 */
    d.layers = 1;
    d.kv_heads = 1;
    d.k_dims = 64;
    d.tokens = 128;
    CHECK(lq_kv_bytes(&d) <= 48000u);
    printf("128 tokens, 1 x 64: %lu bytes", (unsigned long)lq_kv_bytes(&d));
    d.k.kind = d.v.kind = LQ_KV_WARM;
    d.k.step = d.v.step = 1.0f;
    d.tables = (const lq_tables *)(const void *)&d; /* any will do here */
    CHECK(lq_kv_bytes(&d) + lq_tables_small_bytes() <= 160000u);
    printf(", %lu warm and %lu of tables\n", (unsigned long)lq_kv_bytes(&d),
           (unsigned long)lq_tables_small_bytes());
}

/* That a descriptor is refused, and the message is about that field. */
static void check_refused(const lq_kv_desc *d, const char *field)
{
    const char *message = NULL;
    CHECK(lq_kv_bytes(d) == 0 && lq_kv_check(d, NULL) == LQ_E_ARG);
    CHECK(lq_kv_check(d, &message) == LQ_E_ARG && message);
    lq_kv kv;
    uint8_t mem[64];
    CHECK(lq_kv_init(&kv, mem, sizeof mem, d) == LQ_E_ARG);
    int named =
        message && strncmp(message, field, strlen(field)) == 0 && message[strlen(field)] == ':';
    CHECK(named);
    if (!named) printf("  %s: %s\n", field, message ? message : "no message");
}

static void check_accepted(const lq_kv_desc *d)
{
    const char *message = "x";
    CHECK(lq_kv_bytes(d) > 0 && lq_kv_check(d, &message) == LQ_OK && message == NULL);
}

#define BAD(field, change)       \
    do {                         \
        d = good;                \
        change;                  \
        check_refused(&d, field); \
    } while (0)

/* Every field of a policy, as keys' and as values'. */
static void test_bad_policy(lq_kv_desc good)
{
    lq_kv_desc d;
    for (int v = 0; v < 2; v++) {
        lq_kv_policy *p = v ? &d.v : &d.k;
        BAD("kind", p->kind = 4);
        BAD("kind", p->kind = -1);
        BAD("quantizer", (p->kind = LQ_KV_HOT, p->quantizer = LQ_D4));
        BAD("quantizer", (p->kind = LQ_KV_HOT, p->quantizer = 77));
        BAD("quantizer", (p->kind = LQ_KV_RAW, p->quantizer = LQ_Z));
        BAD("quantizer", (p->kind = LQ_KV_WARM, p->quantizer = 77, p->step = 1));
        BAD("quantizer", (p->kind = LQ_KV_WARM, p->quantizer = -1, p->step = 1));
        BAD("bits", p->bits = 7); /* without a kind: hot */
        BAD("bits", p->bits = -4);
        BAD("bits", (p->kind = LQ_KV_HOT, p->bits = 1));
        BAD("bits", (p->kind = LQ_KV_HOT, p->bits = 9));
        BAD("bits", (p->kind = LQ_KV_HOT, p->quantizer = LQ_E8, p->bits = 3));
        BAD("bits", (p->quantizer = LQ_E8, p->bits = 8));
        BAD("bits", (p->kind = LQ_KV_RAW, p->bits = 4));
        BAD("bits", (p->kind = LQ_KV_WARM, p->bits = 9, p->step = 1));
        BAD("bits", (p->kind = LQ_KV_WARM, p->bits = -1, p->step = 1));
        BAD("step", p->kind = LQ_KV_WARM);
        BAD("step", (p->kind = LQ_KV_WARM, p->step = -1));
        BAD("step", (p->kind = LQ_KV_WARM, p->step = 2e9f));
        BAD("step", (p->kind = LQ_KV_WARM, p->step = INFINITY));
        BAD("step", (p->kind = LQ_KV_HOT, p->step = 1));
        BAD("step", p->step = 1);
        BAD("step", (p->kind = LQ_KV_RAW, p->step = 1));
        BAD("tables", (p->kind = LQ_KV_WARM, p->step = 1));
        d = good; /* {bits 8} is hot */
        p->bits = 8;
        check_accepted(&d);
        d = good;
        p->bits = 5 + v;
        check_accepted(&d);
        d = good;
        p->quantizer = LQ_E8;
        check_accepted(&d);
    }
    good.tables = (const lq_tables *)(const void *)&good; /* any will do here */
    good.v.kind = LQ_KV_WARM;
    BAD("step", d.v.step = 33);
    BAD("step", d.v.step = 0.03f);
    good.v.step = 1;
    check_accepted(&good);
    lq_profile none;
    memset(&none, 0, sizeof none);
    const lq_profile *profiles[8];
    for (int v = 0; v < 8; v++) {
        profiles[v] = &none; /* of nothing */
    }
    BAD("profiles", d.profiles = profiles);
}

static void test_bad_desc(void)
{
    lq_kv_desc good;
    memset(&good, 0, sizeof good);
    lq_kv_layer layer[2];
    memset(layer, 0, sizeof layer);
    lq_kv_policy heads[4];
    memset(heads, 0, sizeof heads);
    good.layers = 2;
    good.kv_heads = 2;
    good.k_dims = 16;
    good.tokens = 100;
    check_accepted(&good);
    CHECK(lq_kv_bytes(NULL) == 0 && lq_kv_check(NULL, NULL) == LQ_E_ARG);
    test_bad_policy(good);
    lq_kv_desc d;
    BAD("layers", d.layers = 0);
    BAD("layers", d.layers = 4097);
    BAD("kv_heads", d.kv_heads = 1025);
    BAD("kv_heads", d.kv_heads = 0);
    BAD("kv_heads", d.kv_heads = 70000);
    BAD("kv_heads", d.kv_heads = LQ_KV_NONE);
    BAD("k_dims", d.k_dims = 0);
    BAD("k_dims", d.k_dims = 12);
    BAD("k_dims", d.k_dims = 1032);
    BAD("v_dims", d.v_dims = 4);
    BAD("v_dims", d.v_dims = 20);
    BAD("v_dims", d.v_dims = 1032);
    BAD("tokens", d.tokens = 0);
    BAD("tokens", d.tokens = (size_t)1 << 31);
    BAD("sequences", d.sequences = 70000);
    BAD("pages", d.pages = (size_t)1 << 30);
    BAD("sinks", d.sinks = 0x80000000u);
    BAD("window", d.window = 0x80000000u);
    BAD("type", d.type = 4);
    BAD("type", d.type = -1);
    BAD("sparse", d.sparse = 2);
    BAD("sparse", d.sparse = -1);
    BAD("v_in_k", d.v_in_k = 2);
    BAD("v_in_k", d.v_in_k = 17);
    BAD("v_dims", (d.v_in_k = 9, d.v_dims = 16));
    BAD("tokens", (d.k_dims = d.v_dims = 1024, d.kv_heads = 1024, d.layers = 4096,
                   d.tokens = 0x7fffffff, d.sequences = 65536));
    lq_rope bad;
    memset(&bad, 0, sizeof bad);
    BAD("rope", d.rope = &bad);
    bad.freqs = freqs; /* a rope must lie within the keys of each layer */
    bad.rotary_dims = 18;
    BAD("rope", d.rope = &bad);
    bad.rotary_dims = 8;
    BAD("rope", (d.rope = &bad, d.rope_first = 9));
    BAD("rope_first", (d.rope = &bad, d.rope_first = 17));
    BAD("rope_first", d.rope_first = 1);
    BAD("v_in_k", (d.rope = &bad, d.v_in_k = 1));
    d = good;
    d.rope = &bad;
    d.rope_first = 8;
    check_accepted(&d);
    d.layer = layer;
    layer[1].k_dims = 8;
    check_refused(&d, "rope");
    layer[1].rope = &bad;
    check_accepted(&d);
    layer[1].rope_first = 1;
    check_refused(&d, "rope");
    memset(layer, 0, sizeof layer);
    layer[1].rope_first = 1; /* without one of its own */
    check_refused(&d, "layer[].rope_first");
    memset(layer, 0, sizeof layer);
    layer[1].share = 1;
    layer[1].rope = &bad;
    check_refused(&d, "layer[].share");
    memset(layer, 0, sizeof layer);
    d = good;
    d.layer = layer;
    check_accepted(&d);
    layer[0].share = 1;
    check_refused(&d, "layer[].share");
    layer[0].share = 0;
    layer[1].share = 2;
    check_refused(&d, "layer[].share");
    layer[1].share = 1;
    check_accepted(&d);
    layer[1].kv_heads = 3;
    check_refused(&d, "layer[].share");
    layer[0].kv_heads = LQ_KV_NONE;
    layer[1].share = 0;
    check_accepted(&d);
    layer[0].heads = heads;
    check_refused(&d, "layer[].kv_heads");
    layer[0].heads = NULL;
    layer[1].kv_heads = LQ_KV_NONE; /* nothing at all */
    check_refused(&d, "layer");
    memset(layer, 0, sizeof layer);
    layer[1].k.bits = 7;
    check_refused(&d, "bits");
    memset(layer, 0, sizeof layer);
    layer[1].heads = heads;
    heads[3].kind = 9;
    check_refused(&d, "kind");
    heads[3].kind = LQ_KV_RAW;
    check_accepted(&d);
    layer[1].v_dims = 1;
    check_refused(&d, "v_dims");
}
#undef BAD

static lq_kv_desc small_desc(void)
{
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    d.layers = 2;
    d.kv_heads = 2;
    d.k_dims = 16;
    d.v_dims = 32;
    d.tokens = 200;
    d.window = 16;
    return d;
}

static void test_errors(void)
{
    static float x[200 * 2 * 32];
    static float out[4 * 4 * 32];
    lq_kv_desc d = small_desc();
    size_t bytes = lq_kv_bytes(&d);
    uint8_t *mem = (uint8_t *)source_alloc(bytes);
    uint8_t *before = (uint8_t *)source_alloc(bytes);
    lq_kv none;
    memset(&none, 0, sizeof none);
    memset(mem, 0, bytes);
    lq_kv_view v;
    memset(&v, 0, sizeof v);
    lq_kv_view_out o;
    memset(&o, 0, sizeof o);
    lq_positions p;
    memset(&p, 0, sizeof p);
    lq_kv_attend_desc a;
    memset(&a, 0, sizeof a);
    fill(x, sizeof x / 4);
    v.data = x;
    o.data = out;
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, bytes - 1, &d) == LQ_E_SPACE);
    CHECK(lq_kv_init(NULL, mem, bytes, &d) == LQ_E_ARG);
    CHECK(lq_kv_init(&kv, mem, bytes, &d) == LQ_OK);
    CHECK(lq_kv_room(&kv) == 200);
    a.heads = 4;
    a.q.data = x;
    a.out.data = out;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_RANGE); /* no tokens, no positions */
    a.positions = &p;
    CHECK(lq_kv_attend(&kv, &a) == LQ_OK && lq__bits_of_f32(out[5]) == 0);
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 40) == LQ_OK);
    CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, 40) == LQ_OK);
    memcpy(before, mem, bytes);
    CHECK(lq_kv_append(&none, 0, &v, &v, NULL, 1) == LQ_E_ARG);
    CHECK(lq_kv_append(&kv, 2, &v, &v, NULL, 1) == LQ_E_ARG);
    CHECK(lq_kv_append(&kv, 0, NULL, &v, NULL, 1) == LQ_E_ARG);
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 0) == LQ_E_ARG);
    v.type = 9;
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 1) == LQ_E_ARG);
    v.type = 0;
    CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, 1) == LQ_E_RANGE); /* out of turn */
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 161) == LQ_E_FULL);
    p.first = 39;
    CHECK(lq_kv_append(&kv, 0, &v, &v, &p, 1) == LQ_E_RANGE);
    p.first = 40;
    p.stride = -1;
    CHECK(lq_kv_append(&kv, 0, &v, &v, &p, 2) == LQ_E_RANGE);
    p.first = (int64_t)1 << 48;
    CHECK(lq_kv_append(&kv, 0, &v, &v, &p, 1) == LQ_E_RANGE);
    x[63] = NAN;
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 2) == LQ_E_DATA);
    x[63] = INFINITY;
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 2) == LQ_E_DATA);
    x[63] = 65505.0f;
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 2) == LQ_E_RANGE);
    x[63] = 1.0f;
    CHECK(lq_kv_truncate(&kv, 41) == LQ_E_RANGE);
    CHECK(lq_kv_fork(&none, &kv) == LQ_E_FULL); /* one sequence */
    CHECK(lq_kv_evict(&kv, before, 41) == LQ_E_ARG);
    CHECK(lq_kv_shift(&kv, 0, 1, 1) == LQ_E_ARG); /* no rope */
    CHECK(lq_kv_read(&kv, 0, 3, &o, 0, 1, NULL, 0) == LQ_E_ARG);
    CHECK(lq_kv_read(&kv, 0, LQ_K, &o, 40, 1, NULL, 0) == LQ_E_RANGE);
    a.positions = NULL;
    a.queries = 41;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_RANGE);
    a.queries = 1;
    a.heads = 3;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_ARG);
    a.heads = 4;
    a.first = 30;
    a.count = 11;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_RANGE);
    a.count = 0;
    a.workspace = out;
    a.workspace_bytes = 8;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_SPACE);
    a.workspace = NULL;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_ARG);
    a.workspace_bytes = 0;
    x[1] = NAN;
    CHECK(lq_kv_attend(&kv, &a) == LQ_E_DATA);
    CHECK(memcmp(before, mem, bytes) == 0); /* nothing has changed */
    x[1] = 1;
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 2) == LQ_OK);
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 1) == LQ_E_RANGE); /* layer 1 is due */
    CHECK(lq_kv_fork(&none, &kv) == LQ_E_RANGE);
    CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, 3) == LQ_E_RANGE);
    p.first = 41;
    p.stride = 1;
    CHECK(lq_kv_append(&kv, 1, &v, &v, &p, 2) == LQ_E_RANGE); /* other positions */
    CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, 1) == LQ_OK);
    CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, 1) == LQ_OK);
    lq_kv_account account;
    CHECK(lq_kv_stats(&kv, &account) == LQ_OK && account.tokens == 42);
    lq_kv_free(&kv);
    CHECK(lq_kv_tokens(&kv) == 0 && lq_kv_stats(&kv, &account) == LQ_E_ARG);
    lq_kv_free(&kv);
    free(before);
    free(mem);
}

/* The same tokens in steps of any length are the same cache, to the bit. */
static void test_steps(void)
{
    static float x[300 * 2 * 32];
    static const size_t steps[5] = {1, 7, 64, 131, 300};
    fill(x, sizeof x / 4);
    file first;
    memset(&first, 0, sizeof first);
    for (size_t s = 0; s < 5; s++) {
        lq_kv_desc d = small_desc();
        (void)lq_cpu_limit((int)s - 1); /* nor does the CPU matter */
        d.tokens = 300;
        d.k.kind = d.v.kind = LQ_KV_HOT;
        d.k.quantizer = LQ_E8;
        d.v.bits = 3;
        uint8_t *mem = (uint8_t *)source_alloc(lq_kv_bytes(&d));
        lq_kv kv;
        CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
        for (size_t t = 0; t < 300; t += steps[s]) {
            size_t n = LQ__MIN(steps[s], 300 - t);
            for (uint32_t l = 0; l < 2; l++) {
                lq_kv_view k;
                memset(&k, 0, sizeof k);
                lq_kv_view v;
                memset(&v, 0, sizeof v);
                k.data = x + t * 64;
                k.token_stride = 64;
                v.data = x + t * 64;
                CHECK(lq_kv_append(&kv, l, &k, &v, NULL, n) == LQ_OK);
            }
        }
        file f;
        CHECK(file_save(&f, &kv, 0) == LQ_OK);
        if (s == 0) {
            first = f;
        } else {
            size_t i = 0;
            CHECK(f.count == first.count);
            while (i < f.count && f.bytes[i] == first.bytes[i]) {
                i++;
            }
            if (!CHECK(i == f.count)) {
                printf("step %d: byte %d of %d\n", (int)steps[s], (int)i, (int)f.count);
            }
            file_free(&f);
        }
        free(mem);
    }
    (void)lq_cpu_limit(-1);
    file_free(&first);
}

/* A file that was cut anywhere: what had been saved before, or nothing; never something else. */
static void test_cut(void)
{
    static float x[120 * 64];
    lq_kv_desc d = small_desc();
    fill(x, sizeof x / 4);
    lq_kv_view v;
    memset(&v, 0, sizeof v);
    v.data = x;
    uint8_t *mem[2];
    for (int i = 0; i < 2; i++) {
        mem[i] = (uint8_t *)source_alloc(lq_kv_bytes(&d));
    }
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem[0], lq_kv_bytes(&d), &d) == LQ_OK);
    lq_kv back;
    CHECK(lq_kv_init(&back, mem[1], lq_kv_bytes(&d), &d) == LQ_OK);
    file f;
    lq_archive_writer writer;
    file_write(&f, &writer, (size_t)1 << 23, 1 << 20);
    size_t first = 0;
    size_t workspace;
    size_t directory;
    for (int i = 0; i < 2; i++) { /* 60 tokens, then 100 */
        size_t n = i ? 40 : 60;
        CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, n) == LQ_OK);
        CHECK(lq_kv_append(&kv, 1, &v, &v, NULL, n) == LQ_OK);
        CHECK(lq_kv_save_bytes(&kv, &workspace, &directory) == LQ_OK);
        f.workspace = (uint8_t *)source_alloc(workspace);
        CHECK(lq_kv_save(&kv, &writer, 1, f.workspace, workspace) == LQ_OK);
        CHECK(lq_archive_flush_segment(&writer) == LQ_OK);
        first = i ? first : (size_t)writer.offset;
        free(f.workspace);
        f.workspace = NULL;
    }
    for (size_t cut = 0; cut <= writer.offset;
         cut += cut < 200 || cut > writer.offset - 9 ? 1 : 7) {
        lq_archive_source source;
        size_t tokens = 0;
        memset(&source, 0, sizeof source);
        source.bytes = f.bytes;
        source.size = cut;
        source.recover_bytes = UINT64_MAX;
        free(f.mem);
        f.mem = source_alloc(1 << 17);
        size_t needed;
        int status = lq_archive_open(&f.reader, &source, f.mem, 1 << 17, &needed);
        if (status == LQ_OK && file_load(&f, &back, 1) == LQ_OK) {
            tokens = lq_kv_tokens(&back);
        }
        CHECK(tokens == (cut < first ? 0u : cut < writer.offset ? 60u : 100u));
        CHECK(lq_kv_truncate(&back, 0) == LQ_OK);
    }
    file_free(&f);
    free(mem[0]);
    free(mem[1]);
}

/* ---- an allocator that counts ---- */
typedef struct counter {
    size_t bytes;
    size_t calls;
} counter;

static void *count_alloc(void *user, size_t bytes)
{
    counter *c = (counter *)user;
    c->bytes += bytes;
    c->calls++;
    return c->calls > 1 ? NULL : malloc(bytes);
}

static void count_free(void *user, void *mem, size_t bytes)
{
    ((counter *)user)->bytes -= bytes;
    free(mem);
}

static void test_create(void)
{
    lq_kv_desc d = small_desc();
    counter c;
    memset(&c, 0, sizeof c);
    lq_allocator a;
    a.user = &c;
    a.alloc_fn = count_alloc;
    a.free_fn = count_free;
    d.sequences = 2;
    lq_kv kv[3];
    CHECK(lq_kv_create(&kv[0], &d, NULL) == LQ_E_ARG);
    CHECK(lq_kv_create(&kv[0], &d, &a) == LQ_OK && c.bytes == lq_kv_bytes(&d));
    CHECK(lq_kv_create(&kv[2], &d, &a) == LQ_E_NOMEM);
    c.bytes = lq_kv_bytes(&d);
    CHECK(lq_kv_fork(&kv[1], &kv[0]) == LQ_OK);
    lq_kv_free(&kv[0]);
    CHECK(c.bytes > 0 && lq_kv_tokens(&kv[1]) == 0 && lq_kv_room(&kv[1]) == 200);
    lq_kv_free(&kv[1]);
    CHECK(c.bytes == 0);
}

/* Parts of the tokens, merged, are the whole. */
static void test_merge(void)
{
    static float x[200 * 64];
    static float out[3][4 * 32];
    lq_kv_desc d = small_desc();
    uint8_t *mem = (uint8_t *)source_alloc(lq_kv_bytes(&d));
    fill(x, sizeof x / 4);
    lq_kv_view v;
    memset(&v, 0, sizeof v);
    v.data = x;
    lq_kv kv;
    CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    CHECK(lq_kv_append(&kv, 0, &v, &v, NULL, 190) == LQ_OK);
    float lse[3][4];
    lq_kv_attend_desc a;
    for (size_t i = 0; i < 3; i++) { /* all; the first 101; the others */
        uint8_t *workspace = (uint8_t *)source_alloc(lq_kv_attend_workspace_bytes(&kv));
        memset(&a, 0, sizeof a);
        a.heads = 4;
        a.q.data = x + 777;
        a.out.data = out[i];
        a.lse = lse[i];
        a.first = i == 2 ? 101 : 0;
        a.count = i == 1 ? 101 : 0;
        a.workspace = workspace;
        a.workspace_bytes = lq_kv_attend_workspace_bytes(&kv);
        CHECK(lq_kv_attend(&kv, &a) == LQ_OK);
        free(workspace);
    }
    CHECK(lq_attend_merge(out[1], lse[1], out[2], lse[2], 4, 32) == LQ_OK);
    for (size_t i = 0; i < 4 * 32; i++) {
        CHECK(fabs((double)out[1][i] - (double)out[0][i]) < 1e-2);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK(fabs((double)lse[1][i] - (double)lse[0][i]) < 1e-4);
    }
    CHECK(lq_attend_merge(out[1], lse[1], NULL, lse[2], 4, 32) == LQ_E_ARG);
    free(mem);
}

/* ---- values among the keys ---- */
enum { MLA_TOKENS = 400, MLA_K = 576, MLA_V = 512, MLA_HEADS = 20 };

/* A layer of latents with a part with RoPE behind them, or (first 64) in front. */
static lq_kv_desc mla_desc(const lq_kv_policy *policy, uint32_t first)
{
    lq_kv_desc d;
    memset(&d, 0, sizeof d);
    d.layers = 1;
    d.kv_heads = 1;
    d.k_dims = MLA_K;
    d.v_dims = MLA_V;
    d.tokens = MLA_TOKENS;
    d.k = d.v = *policy;
    d.v_in_k = 1 + first;
    return d;
}

/* A cache that holds the values once or (two) apart from the keys. */
static uint8_t *mla_make(lq_kv *kv, lq_kv_desc d, int two, const float *x)
{
    size_t first = d.v_in_k - 1;
    lq_kv_view k;
    memset(&k, 0, sizeof k);
    d.v_in_k = two ? 0 : d.v_in_k;
    uint8_t *mem = (uint8_t *)source_alloc(lq_kv_bytes(&d));
    k.data = x;
    lq_kv_view v = k;
    v.data = x + first;
    v.token_stride = MLA_K;
    CHECK(lq_kv_init(kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
    CHECK(lq_kv_append(kv, 0, &k, two ? &v : NULL, NULL, MLA_TOKENS) == LQ_OK);
    return mem;
}

static void mla_attend(const lq_kv *kv, const float *q, float *out, float *lse, size_t top)
{
    lq_kv_attend_desc a;
    memset(&a, 0, sizeof a);
    a.heads = MLA_HEADS;
    a.scale = 0.08f;
    a.q.data = q;
    a.out.data = out;
    a.lse = lse;
    a.top_pages = top;
    CHECK(lq_kv_attend(kv, &a) == LQ_OK);
}

/* Against the same cache with values apart: raw ones to the bit, others near; keys and what is read
   of the values always to the bit. */
static void test_v_in_k(void)
{
    static const lq_kv_policy policy[6] = {{LQ_KV_RAW, 0, 0, 0},    {LQ_KV_HOT, LQ_Z, 8, 0},
                                           {LQ_KV_HOT, LQ_Z, 4, 0}, {LQ_KV_HOT, LQ_Z, 3, 0},
                                           {LQ_KV_HOT, LQ_Z, 2, 0}, {LQ_KV_HOT, LQ_E8, 4, 0}};
    static const double most[6] = {0, 0.02, 0.12, 0.25, 0.5, 0.12};
    static float out[2][MLA_HEADS * MLA_V];
    static float lse[2][MLA_HEADS];
    static float q[MLA_HEADS * MLA_K];
    static float keys[2][MLA_TOKENS * MLA_K];
    float *x = (float *)source_alloc(sizeof(float) * MLA_TOKENS * MLA_K);
    fill(x, MLA_TOKENS * MLA_K);
    fill(q, MLA_HEADS * MLA_K);
    for (size_t i = 0; i < MLA_TOKENS * MLA_K; i++) {
        x[i] += (float)(i % MLA_K % 9) - 4.0f;
    }
    for (size_t p = 0; p < 12; p++) {
        lq_kv_desc d = mla_desc(&policy[p / 2], p % 2 ? 64 : 0);
        lq_kv_desc apart = d;
        d.sparse = apart.sparse = p % 3 == 0;
        apart.v_in_k = 0;
        lq_kv_view_out o;
        memset(&o, 0, sizeof o);
        lq_kv kv[2];
        uint8_t *mem[2];
        for (size_t i = 0; i < 2; i++) {
            mem[i] = mla_make(&kv[i], d, (int)i, x);
            o.data = keys[i];
            CHECK(lq_kv_read(&kv[i], 0, LQ_K, &o, 0, MLA_TOKENS, NULL, 0) == LQ_OK);
        }
        CHECK(memcmp(keys[0], keys[1], sizeof keys[0]) == 0);
        o.data = keys[1];
        CHECK(lq_kv_read(&kv[0], 0, LQ_V, &o, 0, MLA_TOKENS, NULL, 0) == LQ_OK);
        for (size_t t = 0; t < MLA_TOKENS; t++) {
            CHECK(memcmp(keys[1] + t * MLA_V, keys[0] + t * MLA_K + d.v_in_k - 1, 4 * MLA_V) == 0);
        }
        file f;
        CHECK(file_save(&f, &kv[0], 7) == LQ_OK && file_open(&f) == LQ_OK);
        CHECK(lq_kv_truncate(&kv[1], 0) == LQ_OK && file_load(&f, &kv[1], 7) == LQ_E_FORMAT);
        file_free(&f);
        free(mem[1]);
        mem[1] = mla_make(&kv[1], d, 1, x);
        for (int level = 0; level < 3; level++) {
            double error = 0;
            double power = 0;
            (void)lq_cpu_limit(level);
            mla_attend(&kv[0], q, out[0], lse[0], d.sparse ? 3 : 0);
            mla_attend(&kv[1], q, out[1], lse[1], d.sparse ? 3 : 0);
            CHECK(memcmp(lse[0], lse[1], sizeof lse[0]) == 0);
            for (size_t i = 0; i < MLA_HEADS * MLA_V; i++) {
                double e = (double)out[0][i] - (double)out[1][i];
                error += e * e;
                power += (double)out[1][i] * (double)out[1][i];
            }
            if (!CHECK(p / 2 ? sqrt(error / power) < most[p / 2]
                             : memcmp(out[0], out[1], sizeof out[0]) == 0)) {
                printf("values among keys, policy %d: %g\n", (int)p / 2, sqrt(error / power));
            }
        }
        (void)lq_cpu_limit(-1);
        free(mem[0]);
        free(mem[1]);
    }
    free(x);
}

/* What a layer of 4,096 tokens takes; less workspace, about half. */
static void test_v_in_k_bytes(void)
{
    static const lq_kv_policy hot = {LQ_KV_HOT, LQ_Z, 4, 0};
    lq_kv_desc d = mla_desc(&hot, 0);
    d.tokens = 4096;
    size_t bytes[2];
    size_t room[2];
    lq_kv kv;
    for (int i = 0; i < 2; i++) {
        d.v_in_k = (uint32_t)i;
        bytes[i] = lq_kv_bytes(&d);
        uint8_t *mem = (uint8_t *)source_alloc(bytes[i]);
        CHECK(lq_kv_init(&kv, mem, bytes[i], &d) == LQ_OK);
        lq_kv_account a;
        CHECK(lq_kv_stats(&kv, &a) == LQ_OK);
        room[i] = a.free_bytes + a.raw_bytes;
        free(mem);
    }
    CHECK((double)room[1] < 0.54 * (double)room[0]);
    printf("4096 tokens, 1 x 576, values 512 of them: %lu bytes, held apart %lu\n",
           (unsigned long)bytes[1], (unsigned long)bytes[0]);
}

static void test_v_in_k_arguments(void)
{
    static const lq_kv_policy hot = {LQ_KV_HOT, LQ_Z, 4, 0};
    lq_kv_desc d = mla_desc(&hot, 0);
    lq_kv_layer layer[2];
    size_t bytes = lq_kv_bytes(&d);
    memset(layer, 0, sizeof layer);
    lq_rope turn;
    memset(&turn, 0, sizeof turn);
    CHECK(bytes > 0);
    d.v.kind = 99; /* is not looked at */
    CHECK(lq_kv_bytes(&d) == bytes);
    d.v_in_k = 65;
    CHECK(lq_kv_bytes(&d) == bytes);
    d.v_in_k = 64; /* no multiple of 8 */
    CHECK(lq_kv_bytes(&d) == 0);
    d.v_in_k = 73; /* 512 do not follow */
    CHECK(lq_kv_bytes(&d) == 0);
    d.v_dims = 0;
    CHECK(lq_kv_bytes(&d) > 0);
    d.v_in_k = MLA_K + 1;
    CHECK(lq_kv_bytes(&d) == 0);
    d.v_in_k = 65;
    freqs[0] = freqs[1] = 1.0f;
    turn.freqs = freqs;
    turn.rotary_dims = 64;
    d.rope = &turn;
    CHECK(lq_kv_bytes(&d) > 0);
    turn.rotary_dims = 66; /* the values would turn */
    CHECK(lq_kv_bytes(&d) == 0);
    turn.rotary_dims = 64;
    d.v_in_k = 1;
    d.v_dims = MLA_V;
    CHECK(lq_kv_bytes(&d) == 0);
    d.rope_first = 512;
    CHECK(lq_kv_bytes(&d) > 0);
    d.rope_first = 511;
    CHECK(lq_kv_bytes(&d) == 0);
    d.rope_first = 0;
    d.v_in_k = 65;
    d.v_dims = 0;
    d.rope = NULL;
    CHECK(lq_kv_bytes(&d) > 0);
    d.rope_first = 8; /* without a rope */
    CHECK(lq_kv_bytes(&d) == 0);
    d.rope_first = 0;
    d.layers = 2;
    d.layer = layer;
    d.v.kind = LQ_KV_HOT;
    bytes = lq_kv_bytes(&d);
    layer[1].v_in_k = LQ_KV_NONE;
    CHECK(lq_kv_bytes(&d) > bytes);
    layer[1].v_in_k = 1;
    layer[1].v_dims = MLA_K;
    CHECK(lq_kv_bytes(&d) == bytes);
    layer[1].share = 1; /* and a place of its own for the values */
    layer[1].v_dims = 0;
    CHECK(lq_kv_bytes(&d) == 0);
    layer[1].v_in_k = 0;
    CHECK(lq_kv_bytes(&d) > 0 && lq_kv_bytes(&d) < bytes);
}

/* Packed and unpacked: one group a layer, RoPE undone in front of the values. */
static void test_v_in_k_cold(const lq_tables *tables)
{
    static float x[2][300 * 64];
    lq_kv_desc d;
    double error = 0;
    memset(&d, 0, sizeof d);
    lq_kv_pack_desc pack;
    memset(&pack, 0, sizeof pack);
    lq_kv_view view;
    memset(&view, 0, sizeof view);
    lq_kv_view_out out;
    memset(&out, 0, sizeof out);
    d.layers = 2;
    d.kv_heads = 1;
    d.k_dims = 64;
    d.v_in_k = 9;
    d.tokens = 300;
    d.k.kind = LQ_KV_HOT;
    d.k.bits = 8;
    d.rope = &rope;
    fill(x[0], 300 * 64);
    view.data = x[0];
    lq_kv kv[2];
    uint8_t *mem[2];
    for (size_t i = 0; i < 2; i++) {
        mem[i] = (uint8_t *)source_alloc(lq_kv_bytes(&d));
        CHECK(lq_kv_init(&kv[i], mem[i], lq_kv_bytes(&d), &d) == LQ_OK);
    }
    for (size_t i = 0; i < 2; i++) {
        CHECK(lq_kv_append(&kv[0], (uint32_t)i, &view, NULL, NULL, 300) == LQ_OK);
    }
    pack.tables = tables;
    pack.k_step = 0.1f; /* there are no values that would need a step */
    size_t needed;
    size_t directory;
    CHECK(lq_kv_pack_bytes(&kv[0], &pack, &needed, &directory) == LQ_OK);
    uint8_t *workspace = (uint8_t *)source_alloc(needed);
    lq_archive_writer writer;
    file f;
    file_write(&f, &writer, (size_t)1 << 20, directory);
    CHECK(lq_kv_pack(&kv[0], &writer, &pack, workspace, needed) == LQ_OK);
    CHECK(lq_archive_finish(&writer) == LQ_OK);
    free(workspace);
    f.count = (size_t)writer.offset;
    CHECK(file_open(&f) == LQ_OK);
    lq_archive_group_desc group;
    CHECK(lq_archive_group(&f.reader, 1, &group, NULL, 0) == LQ_OK && group.stream == LQ_K);
    CHECK(lq_archive_group(&f.reader, 2, &group, NULL, 0) != LQ_OK);
    needed = lq_kv_unpack_workspace_bytes(&kv[1], &f.reader, 0);
    workspace = (uint8_t *)source_alloc(needed);
    CHECK(unpack(&kv[1], &f.reader, tables, 0, workspace, needed) == LQ_OK);
    for (size_t i = 0; i < 2; i++) {
        out.data = x[i];
        CHECK(lq_kv_read(&kv[i], 1, LQ_V, &out, 0, 300, NULL, 0) == LQ_OK);
    }
    for (size_t i = 0; i < 300 * 56; i++) {
        error += pow((double)x[0][i] - (double)x[1][i], 2) / (300 * 56);
    }
    CHECK(error < 0.05 * 0.05);
    free(workspace);
    file_free(&f);
    free(mem[0]);
    free(mem[1]);
}

static void random_operation(model *m)
{
    static void (*const operations[])(model *) = {
        op_truncate, op_fork,     op_free,   op_attend,   op_attend, op_attend,
        op_save,     op_rollback, op_evict,  op_evict_by, op_shift,  op_read,
        op_bad,      op_append,   op_append, op_append,   op_append, op_append};
    operations[source_below((uint32_t)(sizeof operations / sizeof *operations))](m);
}

/* Rounding has no preferred direction: the mean of many tokens comes back much better than one. */
static void test_mean(void)
{
    enum { MANY = 4096, DIMS = 64 };
    static const lq_kv_policy policy[5] = {{LQ_KV_HOT, LQ_Z, 8, 0},
                                           {LQ_KV_HOT, LQ_Z, 4, 0},
                                           {LQ_KV_HOT, LQ_Z, 3, 0},
                                           {LQ_KV_HOT, LQ_Z, 2, 0},
                                           {LQ_KV_HOT, LQ_E8, 4, 0}};
    static const double most[5] = {4e-4, 3e-3, 6e-3, 1.1e-2, 3e-3}; /* 1.8 of pure noise */
    float *x = (float *)source_alloc(sizeof(float) * MANY * DIMS);
    float *y = (float *)source_alloc(sizeof(float) * MANY * DIMS);
    for (size_t i = 0; i < MANY * DIMS; i++) {
        x[i] = gauss();
    }
    for (size_t p = 0; p < 10; p++) { /* values apart, and among the keys */
        lq_kv_desc d = small_desc();
        lq_kv_view v;
        double power = 0;
        memset(&v, 0, sizeof v);
        lq_kv_view_out out;
        memset(&out, 0, sizeof out);
        d.layers = d.kv_heads = 1;
        d.k_dims = d.v_dims = DIMS;
        d.tokens = MANY;
        d.k = d.v = policy[p % 5];
        d.v_in_k = (uint32_t)(p / 5);
        uint8_t *mem = (uint8_t *)source_alloc(lq_kv_bytes(&d));
        v.data = x;
        out.data = y;
        lq_kv kv;
        CHECK(lq_kv_init(&kv, mem, lq_kv_bytes(&d), &d) == LQ_OK);
        CHECK(lq_kv_append(&kv, 0, &v, p < 5 ? &v : NULL, NULL, MANY) == LQ_OK);
        CHECK(lq_kv_read(&kv, 0, LQ_V, &out, 0, MANY, NULL, 0) == LQ_OK);
        for (size_t i = 0; i < DIMS; i++) {
            double sum = 0;
            for (size_t t = 0; t < MANY; t++) {
                sum += (double)y[t * DIMS + i] - (double)x[t * DIMS + i];
            }
            power += sum * sum;
        }
        if (!CHECK(sqrt(power / DIMS) / MANY < most[p % 5])) {
            printf("bias of kind %d: %g\n", (int)p, sqrt(power / DIMS) / MANY);
        }
        free(mem);
    }
    free(x);
    free(y);
}

static void fixed_tests(void)
{
    test_mean();
    test_memory();
    test_bad_desc();
    test_errors();
    test_steps();
    test_cut();
    test_create();
    test_merge();
    test_policies();
    test_two_bases();
    test_slide();
    test_grow();
    test_cold();
    test_v_in_k();
    test_v_in_k_bytes();
    test_v_in_k_arguments();
}

/* One cache from birth to death. */
static void random_life(size_t operations)
{
    size_t shift = source_below(64);
    random_desc();
    block_bytes = lq_kv_bytes(&desc);
    if (!CHECK(block_bytes > 0)) return;
    uint8_t *mem = (uint8_t *)source_zeros(block_bytes + shift);
    block = mem + shift;
    file_room = 2 * block_bytes + 65536;
    for (size_t i = 0; i < 3; i++) {
        models[i].live = 0;
    }
    models[0].tokens = 0;
    models[0].live = 1;
    CHECK(lq_kv_init(&models[0].kv, block, block_bytes - 1, &desc) == LQ_E_SPACE);
    CHECK(lq_kv_init(&models[0].kv, block, block_bytes, &desc) == LQ_OK);
    for (size_t i = 0; i < operations; i++) {
        model *m = models + source_below(3);
        while (!m->live) {
            m = models + source_below(3);
        }
        random_operation(m);
        if (m->live && source_below(quick ? 1 : 3) == 0) {
            look(m);
            check_block();
        }
    }
    for (size_t i = 0; i < 3; i++) {
        if (models[i].live) {
            look(&models[i]);
            lq_kv_free(&models[i].kv);
        }
    }
    free(mem);
    (void)lq_cpu_limit(-1);
}

int main(int argc, char **argv)
{
    size_t lives = argc > 1 ? (size_t)atoi(argv[1]) : 500;
    uint64_t seed = argc > 2 ? (uint64_t)atoi(argv[2]) : 1;
    size_t first = argc > 3 ? (size_t)atoi(argv[3]) : 0;
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    lives = quick ? 200 : lives;
    file_room = (size_t)1 << 23;
    source_seed = seed;
    for (size_t i = 0; i < 3; i++) {
        for (int v = 0; v < 2; v++) {
            models[i].given[v] = (float *)malloc(sizeof(float) * LAYERS_MOST * TOKENS_MOST * WIDE);
            models[i].seen[v] = (float *)malloc(sizeof(float) * LAYERS_MOST * TOKENS_MOST * WIDE);
        }
    }
    fixed_tests();
    for (size_t i = first; i < first + lives; i++) {
        source_seed = seed << 32 | i;
        (void)source_u64();
        source_seed = source_u64();
        random_life(40);
        if (check_failed) {
            printf("sequence %lu of seed %lu\n", (unsigned long)i, (unsigned long)seed);
            break;
        }
    }
    for (size_t i = 0; i < 3; i++) {
        for (int v = 0; v < 2; v++) {
            free(models[i].given[v]);
            free(models[i].seen[v]);
        }
    }
    return check_report("test_kv");
}
