/* cc -std=c99 -O2 tests/test_joint.c -o test_joint -lm    Groups of keys and values: one basis over
   layers, in pages, archives, by weight, and from a live cache. The model is made up: a hidden
   state of each token makes keys, with biases and different ropes, and values, with gains and a
   constant part. `test_joint quick` takes fewer tokens and looks at fewer ranges. */
#include "header.h"

#include <math.h>

#include "check.h"
#include "source.h"

#include "archive.h"

enum { LAYERS = 3, HEADS = 2, DIMS = 16, ROW = HEADS * DIMS, HIDDEN = 20, TOKENS = 3000 };
enum { FITTED = 1536, SLICES_MAX = 2 * LAYERS * HEADS, QUERIES = 256 };
enum { FILE_BYTES = 1 << 23, DIRECTORY_BYTES = 1 << 20, PLAIN = 99 };

static int quick;
static const lq_tables *tables;
static float k_data[LAYERS][TOKENS * ROW]; /* (tokens, heads, dims), turned */
static float v_data[LAYERS][TOKENS * ROW];
static float q_data[LAYERS][TOKENS * ROW];
static float freqs[2][DIMS / 2];
static lq_rope ropes[2]; /* of layers 0 and 1; layer 2 has none */

static const lq_rope *rope_of(uint32_t layer)
{
    return layer < 2 ? &ropes[layer] : NULL;
}

/* ---- the model ---- */
static void model_ropes(void)
{
    for (size_t i = 0; i < DIMS / 2; i++) {
        freqs[0][i] = (float)pow(1e4, -(double)i / (DIMS / 2));
        freqs[1][i] = (float)pow(1e6, -(double)i / (DIMS / 4));
    }
    memset(ropes, 0, sizeof ropes);
    ropes[0].freqs = freqs[0];
    ropes[0].rotary_dims = DIMS;
    ropes[0].layout = LQ_ROPE_HALF;
    ropes[0].magnitude = 1;
    ropes[1].freqs = freqs[1];
    ropes[1].rotary_dims = DIMS / 2;
    ropes[1].layout = LQ_ROPE_ADJACENT;
    ropes[1].magnitude = 1.25f;
}

static double mixing[3 * LAYERS * ROW][HIDDEN];
static double bias[2 * LAYERS * ROW];

static void model_make(void)
{
    static const lq_positions at = {0, 1, NULL};
    double state[HIDDEN] = {0};
    source_seed = 71;
    model_ropes();
    for (size_t i = 0; i < 3 * LAYERS * ROW; i++) {
        for (size_t h = 0; h < HIDDEN; h++) {
            mixing[i][h] = source_gauss() * pow(0.8, (double)h);
        }
    }
    for (size_t i = 0; i < 2 * LAYERS * ROW; i++) {
        bias[i] = source_gauss() * (i < LAYERS * ROW ? 4 : 0.5);
    }
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t h = 0; h < HIDDEN; h++) {
            state[h] = 0.5 * state[h] + source_gauss();
        }
        for (uint32_t l = 0; l < LAYERS; l++) {
            double gain = exp(0.3 * source_gauss()) * (1 + l);
            for (size_t i = 0; i < ROW; i++) {
                double x[3] = {0, 0, 0};
                for (size_t j = 0; j < 3; j++) {
                    for (size_t h = 0; h < HIDDEN; h++) {
                        x[j] += mixing[(j * LAYERS + l) * ROW + i][h] * state[h];
                    }
                }
                k_data[l][t * ROW + i] =
                    (float)(x[0] + bias[l * ROW + i] + 0.05 * source_gauss());
                v_data[l][t * ROW + i] = (float)(gain * (x[1] + 0.05 * source_gauss()) +
                                                 bias[(LAYERS + l) * ROW + i]);
                q_data[l][t * ROW + i] = (float)(x[2] + source_gauss());
            }
        }
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (size_t i = 0; i < HEADS && rope_of(l); i++) {
            CHECK(!lq_rope_apply_f32(k_data[l] + i * DIMS, TOKENS, DIMS, ROW, rope_of(l), &at));
            CHECK(!lq_rope_apply_f32(q_data[l] + i * DIMS, TOKENS, DIMS, ROW, rope_of(l), &at));
        }
    }
}

/* ---- groups of its heads ---- */
typedef struct group {
    uint32_t count;
    lq_slice slices[SLICES_MAX];
    uint32_t dims[SLICES_MAX];
    lq_role roles[SLICES_MAX];
    lq_geometry geometry;
} group;

/* Adds all heads of a layer's stream; values get the next gain together. */
static void group_add(group *g, uint32_t layer, uint32_t stream)
{
    uint32_t gain = 0;
    for (uint32_t h = 0; h < g->count; h++) {
        gain = g->slices[h].stream == LQ_V ? g->roles[h].gain + 1 : gain;
    }
    for (uint32_t h = 0; h < HEADS; h++, g->count++) {
        lq_slice *s = &g->slices[g->count];
        lq_role *r = &g->roles[g->count];
        s->layer = layer;
        s->head = h;
        s->dims = DIMS;
        s->stream = stream;
        g->dims[g->count] = DIMS;
        r->stream = stream;
        r->gain = stream == LQ_V ? gain : 0;
        r->rope = stream == LQ_K ? rope_of(layer) : NULL;
    }
    g->geometry.stream |= stream;
    g->geometry.slice_count = g->count;
    g->geometry.slice_dims = g->dims;
    g->geometry.roles = g->roles;
}

/* How groups are put together. */
enum { BY_LAYER, KEYS_FIRST, MIXED, KEYS, VALUES, ORDERS };

static void group_make(group *g, int order)
{
    memset(g, 0, sizeof *g);
    for (uint32_t l = 0; l < LAYERS && order == BY_LAYER; l++) {
        group_add(g, l, LQ_K);
        group_add(g, l, LQ_V);
    }
    for (uint32_t l = 0; l < LAYERS && (order == KEYS_FIRST || order == KEYS); l++) {
        group_add(g, l, LQ_K);
    }
    for (uint32_t l = 0; l < LAYERS && (order == KEYS_FIRST || order == VALUES); l++) {
        group_add(g, l, LQ_V);
    }
    if (order == MIXED) {
        group_add(g, 2, LQ_V);
        group_add(g, 1, LQ_K);
        group_add(g, 0, LQ_V);
        group_add(g, 1, LQ_V);
        group_add(g, 2, LQ_K);
        group_add(g, 0, LQ_K);
    }
}

static uint32_t group_dims(const group *g)
{
    return g->count * DIMS;
}

/* Where a slice's tokens are, from `first` on. */
static const float *slice_of(const group *g, uint32_t s, size_t first)
{
    const lq_slice *slice = &g->slices[s];
    const float *data = slice->stream == LQ_V ? v_data[slice->layer] : k_data[slice->layer];
    return data + first * ROW + slice->head * DIMS;
}

static lq_vectors group_vectors(const group *g, const void **rows, size_t first)
{
    lq_vectors v = {NULL, ROW, LQ_F32};
    for (uint32_t s = 0; s < g->count; s++) {
        rows[s] = slice_of(g, s, first);
    }
    v.slices = rows;
    return v;
}

/* ---- calibrated profiles ---- */
typedef struct profile {
    uint8_t *file;
    size_t count;
    lq_profile p;
    void *mem;
    lq_klt_report report;
    float unit;
    int status;
} profile;

static void profile_load(profile *p)
{
    size_t needed = 0;
    CHECK(lq_profile_load(&p->p, NULL, 0, &needed, p->file, p->count) == LQ_E_SPACE);
    p->mem = source_alloc(needed);
    CHECK(lq_profile_load(&p->p, p->mem, needed, &needed, p->file, p->count) == LQ_OK);
}

/* Of tokens [first, first + tokens), with their queries where `queries`. */
static void profile_make(profile *p, const group *g, size_t first, size_t tokens, int queries,
                         const lq_klt_desc *desc)
{
    const void *rows[SLICES_MAX];
    lq_vectors v = group_vectors(g, rows, first);
    lq_positions at = {0, 1, NULL};
    size_t bytes = lq_klt_bytes(&g->geometry);
    void *mem = source_alloc(bytes);
    memset(p, 0, sizeof *p);
    at.first = (int64_t)first;
    lq_klt klt;
    CHECK(lq_klt_init(&klt, mem, bytes, &g->geometry) == LQ_OK);
    bytes = lq_klt_workspace_bytes(&g->geometry);
    void *work = source_alloc(bytes);
    CHECK(lq_klt_add(&klt, &v, &at, tokens, work, bytes) == LQ_OK);
    for (uint32_t s = 0; s < g->count && queries; s++) {
        const void *row = q_data[g->slices[s].layer] + first * ROW + g->slices[s].head * DIMS;
        lq_vectors q = {NULL, ROW, LQ_F32};
        q.slices = &row;
        CHECK(lq_klt_add_queries(&klt, &q, &s, 1, &at, tokens, work, bytes) ==
              (g->slices[s].stream == LQ_V ? LQ_E_ARG : LQ_OK));
    }
    free(work);
    p->unit = lq_klt_unit(&klt);
    bytes = lq_klt_profile_workspace_bytes(&klt);
    work = source_alloc(bytes);
    p->file = (uint8_t *)source_alloc(lq_klt_profile_bound(&klt));
    p->status = lq_klt_profile(&klt, p->file, lq_klt_profile_bound(&klt), &p->count, desc,
                               &p->report, work, bytes);
    free(work);
    free(mem);
    if (p->status == LQ_OK) profile_load(p);
}

static void profile_free(profile *p)
{
    free(p->file);
    free(p->mem);
    memset(p, 0, sizeof *p);
}

static lq_klt_desc klt_desc(float step)
{
    lq_klt_desc d;
    memset(&d, 0, sizeof d);
    d.step = step;
    d.ratio = 3;
    return d;
}

/* The group's geometry in the profile's basis. */
static lq_geometry dense_geometry(const group *g, const profile *p)
{
    lq_geometry d = g->geometry;
    d.basis = LQ_BASIS_DENSE;
    d.dense = p->p.dense;
    return d;
}

/* ---- pages ---- */
typedef struct pages {
    uint8_t *bytes;
    size_t page_bytes[TOKENS / 64 + 1];
    size_t total;
    float *out; /* (slices, tokens, DIMS) */
} pages;

static int pages_make(pages *p, const lq_codec_desc *desc, const group *g, size_t first,
                      size_t tokens)
{
    const void *rows[SLICES_MAX];
    lq_vectors v = group_vectors(g, rows, first);
    lq_vectors_out out = {NULL, 0, LQ_F32};
    lq_positions at = {0, 1, NULL};
    size_t count = (tokens + 63) / 64;
    lq_codec *codec = NULL;
    void *mem = source_alloc(lq_codec_bytes(desc));
    size_t at_byte = 0;
    int status = lq_codec_init(&codec, mem, lq_codec_bytes(desc), desc);
    memset(p, 0, sizeof *p);
    at.first = (int64_t)first;
    if (status) {
        free(mem);
        return status;
    }
    size_t bytes = lq_codec_workspace_bytes(codec);
    void *work = source_alloc(bytes);
    p->bytes = (uint8_t *)source_alloc(count * lq_codec_page_bound(codec));
    p->out = (float *)source_alloc(tokens * group_dims(g) * sizeof(float));
    status = lq_codec_encode(codec, p->bytes, count * lq_codec_page_bound(codec), &p->total,
                             p->page_bytes, &v, &at, tokens, work, bytes);
    const uint8_t *starts[TOKENS / 64 + 1];
    for (size_t i = 0; i < count; i++) {
        starts[i] = p->bytes + at_byte;
        at_byte += p->page_bytes[i];
    }
    void *out_rows[SLICES_MAX];
    for (uint32_t s = 0; s < g->count; s++) {
        out_rows[s] = p->out + s * tokens * DIMS;
    }
    out.slices = out_rows;
    if (!status) {
        status = lq_codec_decode(codec, &out, &at, tokens, starts, p->page_bytes, work, bytes);
    }
    free(work);
    free(mem);
    return status;
}

static void pages_free(pages *p)
{
    free(p->bytes);
    free(p->out);
    memset(p, 0, sizeof *p);
}

/* Mean squares of what a group lost: of keys, and of values over the token's size of the layer. */
typedef struct loss {
    double k;
    double v;
} loss;

/* out (slices, stride tokens, DIMS), of tokens from `first` on. */
static loss loss_of(const group *g, const float *out, size_t stride, size_t first, size_t tokens)
{
    loss sum = {0, 0};
    double keys = 0;
    double values = 0;
    for (uint32_t s = 0; s < g->count; s++) {
        uint32_t layer = g->slices[s].layer;
        for (size_t t = 0; t < tokens; t++) {
            const float *x = slice_of(g, s, first + t);
            const float *y = out + (s * stride + t) * DIMS;
            double error = 0;
            double size = 0;
            for (size_t d = 0; d < DIMS; d++) {
                error += ((double)y[d] - (double)x[d]) * ((double)y[d] - (double)x[d]);
            }
            if (g->slices[s].stream == LQ_K) { /* a magnitude scales errors, too */
                double m = layer == 1 ? (1.25 * 1.25 + 1) / 2 : 1;
                sum.k += error / m;
                keys += DIMS;
                continue;
            }
            for (size_t d = 0; d < ROW; d++) {
                double y_d = (double)v_data[layer][(first + t) * ROW + d] -
                             bias[((size_t)LAYERS + layer) * ROW + d];
                size += y_d * y_d / ROW;
            }
            sum.v += error / size;
            values += DIMS;
        }
    }
    sum.k = keys > 0 ? sum.k / keys : 0;
    sum.v = values > 0 ? sum.v / values : 0;
    return sum;
}

static lq_codec_desc codec_desc(const group *g, const profile *p, float step)
{
    lq_codec_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.geometry = dense_geometry(g, p);
    d.profile = &p->p;
    d.step = step;
    return d;
}

/* ---- pages of joint groups ---- */
/* Encodes at every level to the same bytes; the codec's pages stay in *out. */
static int same_at_levels(pages *out, const lq_codec_desc *desc, const group *g, size_t first,
                          size_t tokens)
{
    int most = lq_cpu_limit(PLAIN);
    int status = pages_make(out, desc, g, first, tokens);
    for (int level = 0; level < most; level++) {
        CHECK(lq_cpu_limit(level) == level);
        pages other;
        CHECK(pages_make(&other, desc, g, first, tokens) == status);
        CHECK(other.total == out->total);
        if (!status && other.total == out->total) {
            size_t far = 0;
            CHECK(memcmp(other.bytes, out->bytes, out->total) == 0);
            for (size_t i = 0; i < tokens * group_dims(g); i++) {
                far += fabs((double)other.out[i] - (double)out->out[i]) > 1e-4;
            }
            CHECK(far == 0);
        }
        pages_free(&other);
    }
    CHECK(lq_cpu_limit(PLAIN) == most);
    return status;
}

/* Layers' keys, and values, each by themselves at the same steps: bytes of all pages. */
static size_t apart_bytes(float step, float unit, double ratio, size_t first, size_t tokens)
{
    size_t bytes = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t stream = LQ_K; stream <= LQ_V; stream++) {
            lq_klt_desc desc = klt_desc(stream == LQ_V ? step * (float)ratio : step);
            group g;
            memset(&g, 0, sizeof g);
            group_add(&g, l, stream);
            desc.unit = unit;
            profile p;
            profile_make(&p, &g, 0, FITTED, stream == LQ_K, &desc);
            CHECK(p.status == LQ_OK);
            lq_codec_desc d = codec_desc(&g, &p, desc.step);
            pages out;
            CHECK(pages_make(&out, &d, &g, first, tokens) == LQ_OK);
            bytes += out.total;
            pages_free(&out);
            profile_free(&p);
        }
    }
    return bytes;
}

static void test_basis_fields(const group *g, const profile *p, float ratio, uint64_t model)
{
    const lq_basis *b = p->p.dense;
    CHECK(p->p.stream == g->geometry.stream && b->stream == g->geometry.stream);
    CHECK(p->p.slice_count == g->count && p->p.dims == group_dims(g));
    CHECK(p->p.gains == b->gains);
    CHECK(p->p.gains == (g->geometry.stream == LQ_K ? 0u : (uint32_t)LAYERS));
    CHECK(fabs((double)(b->ratio - ratio)) < 1.0 / 512 && b->model == model);
    for (uint32_t s = 0; s < g->count; s++) {
        CHECK(b->slice_dims[s] == DIMS);
        CHECK(b->slice_gain[s] ==
              (g->slices[s].stream == LQ_K ? LQ_GAIN_NONE : g->roles[s].gain));
    }
    CHECK(lq_geometry_rows(&g->geometry) == group_dims(g) + p->p.gains);
}

/* Every order of slices, with and without queries: errors are what steps say. */
static void test_orders(void)
{
    static const float steps[2] = {0.1f, 0.4f};
    size_t tokens = quick ? 320 : 1200;
    for (int order = 0; order < ORDERS; order++) {
        lq_klt_desc desc = klt_desc(0.1f);
        group g;
        group_make(&g, order);
        desc.ratio = order == MIXED ? 2.0f : order == KEYS_FIRST ? 0.0f : 3.0f;
        desc.model = order == MIXED ? 0x123456789abcdef0u : 0;
        desc.beta = order == KEYS_FIRST ? -1.0f : 0; /* no metric */
        profile p;
        profile_make(&p, &g, 0, FITTED, order != VALUES && order != KEYS_FIRST, &desc);
        if (!CHECK(p.status == LQ_OK)) continue;
        test_basis_fields(&g, &p,
                          order == KEYS || order == VALUES ? 1.0f
                          : order == KEYS_FIRST            ? 1.4f /* the default */
                                                           : desc.ratio,
                          desc.model);
        for (int i = 0; i < 2; i++) {
            lq_codec_desc d = codec_desc(&g, &p, steps[i]);
            double ratio = (double)p.p.dense->ratio * (double)steps[i];
            double unit = (double)p.unit * (double)steps[i];
            pages out;
            if (!CHECK(same_at_levels(&out, &d, &g, FITTED, tokens + (i ? 0 : 17)) == LQ_OK)) {
                continue;
            }
            loss l = loss_of(&g, out.out, tokens + (i ? 0 : 17), FITTED, tokens);
            printf("order %d step %.2f: %.3f bits, k %.3f, v %.3f of a cell\n", order,
                   (double)steps[i], 8 * (double)out.total / (double)tokens / group_dims(&g),
                   sqrt(12 * l.k) / unit, sqrt(12 * l.v) / ratio);
            if (order != VALUES) { /* a metric lets some directions go */
                CHECK(sqrt(12 * l.k) < unit * (order == KEYS_FIRST ? 1.1 : 2.0));
                CHECK(sqrt(12 * l.k) > unit * 0.2);
            }
            if (order != KEYS) {
                CHECK(sqrt(12 * l.v) < ratio * 1.3 && sqrt(12 * l.v) > ratio * 0.2);
            }
            if (order == BY_LAYER) {
                size_t apart = apart_bytes(steps[i], p.unit, 3, FITTED, tokens);
                printf("  by themselves %.3f bits\n",
                       8 * (double)apart / (double)tokens / group_dims(&g));
                CHECK(out.total < apart);
            }
            pages_free(&out);
        }
        profile_free(&p);
    }
}

/* Keys of one rope: as roles, and as the geometry's. */
static void test_roles_of_one_rope(void)
{
    lq_klt_desc desc = klt_desc(0.2f);
    group roles;
    memset(&roles, 0, sizeof roles);
    group_add(&roles, 0, LQ_K);
    group_add(&roles, 1, LQ_K);
    for (uint32_t s = 0; s < roles.count; s++) {
        roles.roles[s].rope = &ropes[0];
    }
    group plain = roles;
    roles.geometry.roles = roles.roles;
    roles.geometry.slice_dims = plain.geometry.slice_dims = roles.dims;
    plain.geometry.roles = NULL;
    plain.geometry.rope = &ropes[0];
    profile a;
    profile_make(&a, &roles, 0, FITTED, 1, &desc);
    profile b;
    profile_make(&b, &plain, 0, FITTED, 1, &desc);
    if (CHECK(a.status == LQ_OK && b.status == LQ_OK && a.count == b.count) &&
        CHECK(memcmp(a.file, b.file, a.count) == 0)) {
        for (int kind = 0; kind < 4; kind++) { /* dense; and coded and fixed without a basis, raw */
            lq_codec_desc da = codec_desc(&roles, &a, 0.2f);
            lq_codec_desc db = codec_desc(&plain, &b, 0.2f);
            int16_t rows[2 * 4 * DIMS + 1];
            lq_profile flat;
            if (kind) {
                da.geometry.basis = db.geometry.basis = kind == 1 ? LQ_BASIS_HADAMARD : 0;
                da.geometry.dense = db.geometry.dense = NULL;
                CHECK(!lq_profile_init(&flat, rows, sizeof rows, &da.geometry, 3.0f));
                da.profile = db.profile = kind == 3 ? NULL : &flat;
                da.page = db.page = kind == 1 ? 0 : kind == 2 ? LQ_PAGE_FIXED : LQ_PAGE_RAW;
                da.bits = db.bits = kind == 2 ? 8 : 0;
                da.step = db.step = kind == 3 ? 0 : 0.2f;
                da.type = db.type = kind == 3 ? LQ_F32 : 0;
            }
            pages pa;
            CHECK(same_at_levels(&pa, &da, &roles, 64, 200) == LQ_OK);
            pages pb;
            CHECK(pages_make(&pb, &db, &plain, 64, 200) == LQ_OK);
            CHECK(pa.total == pb.total && memcmp(pa.bytes, pb.bytes, pa.total) == 0);
            CHECK(memcmp(pa.out, pb.out, 200 * 4 * DIMS * sizeof(float)) == 0);
            pages_free(&pa);
            pages_free(&pb);
        }
    }
    profile_free(&a);
    profile_free(&b);
}

/* What only dense bases code is refused elsewhere, and raw pages take it. */
static void test_only_dense(void)
{
    group g;
    lq_codec_desc d;
    pages out;
    lq_profile flat;
    int16_t rows[2 * (SLICES_MAX * DIMS + SLICES_MAX) + 1];
    lq_fit fit;
    for (int order = 0; order < ORDERS; order++) {
        group_make(&g, order);
        memset(&d, 0, sizeof d);
        d.geometry = g.geometry;
        d.page = LQ_PAGE_RAW;
        d.type = LQ_F32;
        CHECK(pages_make(&out, &d, &g, 5, 100) == LQ_OK);
        if (out.out) {
            for (uint32_t s = 0; s < g.count; s++) {
                for (size_t t = 0; t < 100; t++) {
                    CHECK(!memcmp(out.out + (s * 100 + t) * DIMS, slice_of(&g, s, 5 + t),
                                  DIMS * sizeof(float)));
                }
            }
        }
        pages_free(&out);
        CHECK(lq_profile_init(&flat, rows, sizeof rows, &g.geometry, 1.0f) == LQ_OK);
        d.page = 0;
        d.type = 0;
        d.tables = tables;
        d.step = 0.1f;
        d.profile = &flat;
        const char *why;
        CHECK(lq_codec_check(&d, &why) == (order == KEYS ? LQ_OK : LQ_E_ARG));
        CHECK(order == KEYS || strncmp(why, "dense:", 6) == 0);
        size_t bytes = lq_fit_bytes(&g.geometry);
        uint8_t *mem = (uint8_t *)source_alloc(bytes);
        CHECK(lq_fit_init(&fit, mem, bytes, &g.geometry, 0.1f) ==
              (order == KEYS ? LQ_OK : LQ_E_ARG));
        free(mem);
    }
}

static void archive_start(archive *a)
{
    archive_begin(a, FILE_BYTES, DIRECTORY_BYTES);
}

/* ---- a live cache ---- */
typedef struct cache {
    lq_kv kv;
    void *mem;
    lq_kv_desc desc;
    lq_kv_layer layer[LAYERS];
} cache;

static lq_rope no_rope;

static void cache_make(cache *c, int kind, uint32_t window, size_t room)
{
    memset(c, 0, sizeof *c);
    for (uint32_t l = 0; l < LAYERS; l++) {
        c->layer[l].rope = l < 2 ? &ropes[l] : &no_rope;
    }
    c->layer[1].window = window;
    c->desc.layers = LAYERS;
    c->desc.layer = c->layer;
    c->desc.kv_heads = HEADS;
    c->desc.k_dims = DIMS;
    c->desc.tokens = room;
    c->desc.type = kind == LQ_KV_RAW ? LQ_F32 : LQ_F16;
    c->desc.k.kind = c->desc.v.kind = kind;
    c->desc.tables = tables;
    c->desc.step_tokens = window ? 64 : 0;
    if (kind == LQ_KV_WARM) {
        c->desc.k.step = 0.1f;
        c->desc.v.step = 0.1f;
    } else if (kind == LQ_KV_HOT) {
        c->desc.k.bits = c->desc.v.bits = 8;
    }
    c->mem = source_alloc(lq_kv_bytes(&c->desc));
    CHECK(lq_kv_init(&c->kv, c->mem, lq_kv_bytes(&c->desc), &c->desc) == LQ_OK);
}

static void cache_fill(cache *c, size_t tokens, size_t step)
{
    for (size_t t = 0; t < tokens; t += step) {
        size_t n = tokens - t < step ? tokens - t : step;
        for (uint32_t l = 0; l < LAYERS; l++) {
            lq_kv_view k = {NULL, 0, 0, LQ_F32};
            lq_kv_view v = {NULL, 0, 0, LQ_F32};
            k.data = k_data[l] + t * ROW;
            v.data = v_data[l] + t * ROW;
            CHECK(lq_kv_append(&c->kv, l, &k, &v, NULL, n) == LQ_OK);
        }
    }
}

static void cache_free(cache *c)
{
    lq_kv_free(&c->kv);
    free(c->mem);
    memset(c, 0, sizeof *c);
}

/* All of a cache's tokens of a group's slices: (slices, tokens, DIMS). */
static float *cache_read(const cache *c, const group *g, size_t first, size_t tokens)
{
    float *out = (float *)source_alloc(g->count * tokens * DIMS * sizeof(float));
    float *row = (float *)source_alloc(tokens * ROW * sizeof(float));
    for (uint32_t s = 0; s < g->count; s++) {
        lq_kv_view_out view = {NULL, 0, 0, LQ_F32};
        view.data = row;
        CHECK(lq_kv_read(&c->kv, g->slices[s].layer, g->slices[s].stream, &view, first, tokens,
                         NULL, 0) == LQ_OK);
        for (size_t t = 0; t < tokens; t++) {
            memcpy(out + (s * tokens + t) * DIMS, row + t * ROW + g->slices[s].head * DIMS,
                   DIMS * sizeof(float));
        }
    }
    free(row);
    return out;
}

static lq_kv_pack_group pack_group(const group *g, const profile *p, float step)
{
    lq_kv_pack_group d;
    memset(&d, 0, sizeof d);
    d.slices = g->slices;
    d.slice_count = g->count;
    d.profile = &p->p;
    d.step = step;
    return d;
}

static lq_kv_pack_desc kv_pack_desc(const lq_kv_pack_group *groups, size_t count)
{
    lq_kv_pack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.groups = groups;
    d.group_count = count;
    return d;
}

/* Packs into an archive with no byte more than said; one less is refused. */
static int cache_pack(archive *a, const cache *c, const lq_kv_pack_desc *d)
{
    size_t work_bytes = 0;
    size_t directory_bytes = 0;
    const char *why = "x";
    int said = lq_kv_pack_check(&c->kv, d, &why);
    int status = lq_kv_pack_bytes(&c->kv, d, &work_bytes, &directory_bytes);
    CHECK((said == LQ_OK) == (why == NULL));
    if (status) {
        archive_start(a);
        CHECK(lq_kv_pack(&c->kv, &a->writer, d, a, 0) == said);
        return said;
    }
    uint8_t *work = (uint8_t *)source_alloc(work_bytes);
    archive_begin(a, FILE_BYTES, directory_bytes);
    if (said == LQ_OK) {
        CHECK(lq_kv_pack(&c->kv, &a->writer, d, work, work_bytes - 1) == LQ_E_SPACE);
        CHECK(a->writer.offset == LQ_ARCHIVE_HEADER_BYTES || a->writer.offset == 0);
    }
    status = lq_kv_pack(&c->kv, &a->writer, d, work, work_bytes);
    CHECK(said == LQ_OK || status == said);
    free(work);
    if (status == LQ_OK) {
        CHECK(lq_archive_finish(&a->writer) == LQ_OK);
        archive_open(a, 0);
    }
    return status;
}

static int cache_unpack(cache *c, const archive *a, const lq_profile *const *profiles,
                        size_t count)
{
    size_t bytes = lq_kv_unpack_workspace_bytes(&c->kv, &a->reader, 0);
    uint8_t *work = (uint8_t *)source_alloc(bytes);
    lq_kv_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.profiles = profiles;
    d.profile_count = count;
    CHECK(bytes > 0);
    CHECK(bytes == 0 || lq_kv_unpack(&c->kv, &a->reader, &d, work, bytes - 1) == LQ_E_SPACE);
    int status = lq_kv_unpack(&c->kv, &a->reader, &d, work, bytes);
    CHECK(status == LQ_OK || lq_kv_tokens(&c->kv) == 0);
    free(work);
    return status;
}

/* Packed from caches of all kinds, and back. */
static void test_cache_kinds(const profile *p, const group *g)
{
    static const int kinds[3] = {LQ_KV_RAW, LQ_KV_HOT, LQ_KV_WARM};
    static const char *const names[3] = {"raw", "hot", "warm"};
    static const size_t chunks[4] = {0, 64, 100, 5000};
    size_t tokens = quick ? 700 : 1500;
    const lq_profile *known[3] = {NULL, NULL, NULL};
    float *first = NULL;
    known[1] = &p->p;
    for (int i = 0; i < 3; i++) {
        cache c;
        cache_make(&c, kinds[i], 0, 2048);
        cache_fill(&c, tokens, 128);
        for (size_t j = 0; j < 4; j++) {
            lq_kv_pack_group part = pack_group(g, p, 0.2f);
            lq_kv_pack_desc d = kv_pack_desc(&part, 1);
            d.chunk = chunks[j];
            archive a;
            CHECK(cache_pack(&a, &c, &d) == LQ_OK);
            cache back;
            cache_make(&back, LQ_KV_RAW, 0, 2048);
            CHECK(cache_unpack(&back, &a, NULL, 0) == LQ_E_FORMAT);
            CHECK(cache_unpack(&back, &a, known, 1) == LQ_E_FORMAT);
            if (CHECK(cache_unpack(&back, &a, known, 3) == LQ_OK) &&
                CHECK(lq_kv_tokens(&back.kv) == tokens)) {
                float *out = cache_read(&back, g, 0, tokens);
                loss l = loss_of(g, out, tokens, 0, tokens);
                if (j == 0) {
                    float *at_hand = cache_read(&c, g, 0, tokens);
                    loss had = loss_of(g, at_hand, tokens, 0, tokens);
                    printf("%s cache, packed at %.3f bits: k %.3f of a cell, v %.3f; before that "
                           "%.3f and %.3f\n",
                           names[i], 8 * (double)a.writer.offset / (double)tokens / group_dims(g),
                           sqrt(12 * l.k) / ((double)p->unit * 0.2), sqrt(12 * l.v) / 0.6,
                           sqrt(12 * had.k) / ((double)p->unit * 0.2), sqrt(12 * had.v) / 0.6);
                    free(at_hand);
                    free(first);
                    first = out;
                } else { /* chunks are not seen in the numbers */
                    size_t far = 0;
                    for (size_t n = 0; n < tokens * group_dims(g); n++) {
                        far += out[n] != first[n];
                    }
                    CHECK(far == 0);
                    free(out);
                }
                CHECK(sqrt(12 * l.k) < (double)p->unit * 0.2 * 1.5);
                CHECK(sqrt(12 * l.v) < 0.6 * 1.5);
            }
            cache_free(&back);
            archive_free(&a);
        }
        cache_free(&c);
    }
    free(first);
}

/* Groups of all orders, alone or two at a time, with layers left to themselves. */
static void test_cache_groups(void)
{
    size_t tokens = quick ? 400 : 1100;
    cache c;
    cache_make(&c, LQ_KV_RAW, 0, 2048);
    cache_fill(&c, tokens, 200);
    for (int order = 0; order < ORDERS + 2; order++) {
        lq_klt_desc desc = klt_desc(0.1f);
        group g[2];
        size_t count = 1;
        if (order < ORDERS) {
            group_make(&g[0], order);
        } else if (order == ORDERS) { /* two groups, layer 0 by itself */
            count = 2;
            memset(g, 0, sizeof g);
            group_add(&g[0], 2, LQ_V);
            group_add(&g[0], 1, LQ_K);
            group_add(&g[1], 2, LQ_K);
            group_add(&g[1], 1, LQ_V);
        } else { /* keys of a layer, values of another */
            count = 2;
            memset(g, 0, sizeof g);
            group_add(&g[0], 2, LQ_K); /* no rope */
            group_add(&g[1], 0, LQ_V);
        }
        lq_kv_pack_group groups[2];
        const lq_profile *known[2];
        profile p[2];
        if (count == 2) { /* structs were copied nowhere: their arrays are their own */
            g[1].geometry.roles = g[1].roles;
            profile_make(&p[1], &g[1], 0, FITTED, 1, &desc);
            groups[1] = pack_group(&g[1], &p[1], 0.2f);
            known[0] = &p[1].p;
        }
        profile_make(&p[0], &g[0], 0, FITTED, 1, &desc);
        groups[0] = pack_group(&g[0], &p[0], 0.2f);
        known[count - 1] = &p[0].p;
        lq_kv_pack_desc d = kv_pack_desc(groups, count);
        d.k_step = 0.5f;
        d.v_step = 0.3f;
        archive a;
        CHECK(cache_pack(&a, &c, &d) == LQ_OK);
        cache back;
        cache_make(&back, LQ_KV_RAW, 0, 2048);
        if (CHECK(cache_unpack(&back, &a, known, count) == LQ_OK)) {
            for (size_t i = 0; i < count; i++) {
                float *out = cache_read(&back, &g[i], 0, tokens);
                loss l = loss_of(&g[i], out, tokens, 0, tokens);
                CHECK(sqrt(12 * l.k) < (double)p[i].unit * 0.2 * 1.5);
                CHECK(sqrt(12 * l.v) < 0.2 * (double)p[i].p.dense->ratio * 1.5);
                free(out);
            }
        } else {
            printf("order %d of a cache's groups\n", order);
        }
        cache_free(&back);
        archive_free(&a);
        profile_free(&p[0]);
        if (count == 2) profile_free(&p[1]);
    }
    cache_free(&c);
}

/* ---- archives of joint groups ---- */
/* The group's record, with ropes by id, and its profile: embedded, stripped or by name. */
enum { EMBEDDED, STRIPPED, NAMED };

static uint32_t archive_group(archive *a, const group *g)
{
    uint32_t ids[2] = {0, 0};
    uint32_t id = 0;
    CHECK(lq_archive_add_rope(&a->writer, &ropes[0], &ids[0]) == LQ_OK);
    CHECK(lq_archive_add_rope(&a->writer, &ropes[1], &ids[1]) == LQ_OK);
    lq_archive_group_desc d;
    memset(&d, 0, sizeof d);
    lq_slice slices[SLICES_MAX];
    memcpy(slices, g->slices, sizeof slices);
    for (uint32_t s = 0; s < g->count; s++) {
        if (slices[s].stream == LQ_K) {
            slices[s].rope = slices[s].layer < 2 ? 1 + ids[slices[s].layer] : LQ_ARCHIVE_NONE;
        }
    }
    d.stream = g->geometry.stream;
    d.rope = g->geometry.stream == LQ_V ? LQ_ARCHIVE_NONE : ids[1]; /* slices say otherwise */
    d.slices = slices;
    d.slice_count = g->count;
    CHECK(lq_archive_group_check(&a->writer, &d, NULL) == LQ_OK);
    CHECK(lq_archive_add_group(&a->writer, &d, &id) == LQ_OK);
    return id;
}

static void archive_group_is(const archive *a, uint32_t id, const group *g)
{
    lq_slice slices[SLICES_MAX];
    lq_archive_group_desc d;
    CHECK(lq_archive_group(&a->reader, id, &d, slices, g->count - 1) == LQ_E_SPACE);
    CHECK(lq_archive_group(&a->reader, id, &d, slices, SLICES_MAX) == LQ_OK);
    CHECK(d.stream == g->geometry.stream && d.slice_count == g->count);
    for (uint32_t s = 0; s < g->count; s++) {
        const lq_slice *x = &slices[s];
        const lq_slice *y = &g->slices[s];
        uint32_t stream = x->stream ? x->stream : d.stream;
        CHECK(x->layer == y->layer && x->head == y->head && x->dims == y->dims);
        CHECK(x->first_dim == 0 && stream == y->stream);
        CHECK(y->stream == LQ_V ? x->rope == 0
              : y->layer == 2   ? x->rope == LQ_ARCHIVE_NONE
                                : x->rope == 1 + y->layer);
    }
}

static uint32_t archive_profile(archive *a, const profile *p, int how)
{
    lq_archive_profile_desc d = {NULL, 0, NULL};
    uint8_t *file = source_copy(p->file, p->count);
    uint32_t id = 0;
    d.bytes = how == NAMED ? NULL : file;
    d.count = how == NAMED ? 0 : how == STRIPPED ? lq_profile_strip(file, p->count) : p->count;
    d.hash = how == NAMED ? p->p.dense->hash : NULL;
    CHECK(lq_archive_add_profile(&a->writer, &d, &id) == LQ_OK);
    free(file);
    return id;
}

static lq_archive_pack_desc archive_pack_desc(const group *g, const profile *p, uint32_t id,
                                              uint32_t profile_id, float step)
{
    lq_archive_pack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.geometry = g->geometry;
    d.group = id;
    d.step = step;
    d.profile = &p->p;
    d.profile_id = profile_id;
    return d;
}

static float *typed[2 * LAYERS]; /* the model's numbers in another type, or NULL */

/* Packs the model's tokens [first, first + tokens). */
static int archive_pack(archive *a, const lq_archive_pack_desc *d, const group *g, size_t first,
                        size_t tokens, int type)
{
    size_t bytes = lq_archive_pack_workspace_bytes(d);
    void *work = source_alloc(bytes);
    lq_vectors v = {NULL, ROW, 0};
    lq_positions at = {0, 1, NULL};
    size_t element = lq_type_bytes(type);
    CHECK(bytes > 0);
    v.type = type;
    const void *rows[SLICES_MAX];
    v.slices = rows;
    at.first = (int64_t)first;
    for (uint32_t s = 0; s < g->count; s++) {
        const lq_slice *slice = &g->slices[s];
        const uint8_t *data = (const uint8_t *)(const void *)slice_of(g, s, first);
        if (type != LQ_F32) {
            data = (const uint8_t *)typed[slice->layer + (slice->stream == LQ_V ? LAYERS : 0)];
            data += (first * ROW + slice->head * DIMS) * element;
        }
        rows[s] = data;
    }
    CHECK(lq_archive_pack(&a->writer, d, &v, &at, tokens, work, 64) != LQ_OK);
    int status = lq_archive_pack(&a->writer, d, &v, &at, tokens, work, bytes);
    free(work);
    return status;
}

/* Tokens of a group to (slices, tokens, DIMS) of a type. */
static int archive_unpack(const archive *a, uint32_t id, uint64_t sequence, void *dst, int type,
                          uint32_t slices, uint64_t first, size_t tokens,
                          const lq_profile *const *known, size_t known_count)
{
    size_t bytes = lq_archive_unpack_workspace_bytes(&a->reader, id);
    void *work = source_alloc(bytes);
    lq_archive_unpack_desc d;
    memset(&d, 0, sizeof d);
    d.tables = tables;
    d.group = id;
    d.sequence = sequence;
    d.calibrated = known;
    d.calibrated_count = known_count;
    void *rows[SLICES_MAX];
    for (uint32_t s = 0; s < slices; s++) {
        rows[s] = (uint8_t *)dst + s * tokens * DIMS * lq_type_bytes(type);
    }
    lq_vectors_out out;
    out.slices = rows;
    out.token_stride = 0;
    out.type = type;
    CHECK(lq_archive_unpack(&a->reader, &d, &out, first, tokens, work, 64) == LQ_E_SPACE);
    int status = lq_archive_unpack(&a->reader, &d, &out, first, tokens, work, bytes);
    free(work);
    return status;
}

static void typed_make(int type)
{
    size_t element = lq_type_bytes(type);
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        const float *x = i < LAYERS ? k_data[i] : v_data[i - LAYERS];
        free(typed[i]);
        typed[i] = (float *)source_alloc(sizeof(float) + (size_t)TOKENS * ROW * element);
        CHECK(lq_type_from_f32(typed[i], x, (size_t)TOKENS * ROW, type) == LQ_OK);
    }
}

static void typed_free(void)
{
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        free(typed[i]);
        typed[i] = NULL;
    }
}

/* Any range of a sequence is the same as in the whole; all of `whole` (slices, tokens, DIMS). */
static void check_ranges(archive *a, uint32_t id, uint32_t slices, const float *whole,
                         size_t tokens, const lq_profile *const *known, size_t known_count)
{
    float *part = (float *)source_alloc(tokens * slices * DIMS * sizeof(float));
    int rounds = quick ? 12 : 60;
    for (int i = 0; i < rounds; i++) {
        size_t first = source_below((uint32_t)tokens);
        size_t most = i % 3 ? tokens - first : (tokens - first) / 20 + 1;
        size_t count = 1 + source_below((uint32_t)most);
        archive_open(a, i & 1);
        CHECK(archive_unpack(a, id, 0, part, LQ_F32, slices, first, count, known,
                             known_count) == LQ_OK);
        for (uint32_t s = 0; s < slices; s++) {
            CHECK(!memcmp(part + s * count * DIMS, whole + (s * tokens + first) * DIMS,
                          count * DIMS * sizeof(float)));
        }
    }
    archive_open(a, 0);
    CHECK(archive_unpack(a, id, 0, part, LQ_F32, slices, tokens, 1, known, known_count) ==
          LQ_E_RANGE);
    free(part);
}

static void check_sinks(const group *g, const float *whole, size_t tokens, int type)
{
    for (uint32_t s = 0; s < g->count && type == LQ_F32; s++) {
        for (size_t t = 0; t < 4; t++) {
            CHECK(!memcmp(whole + (s * tokens + t) * DIMS, slice_of(g, s, t),
                          DIMS * sizeof(float)));
        }
    }
}

/* Packed and unpacked in all ways. */
static void test_archives(void)
{
    static const int types[3] = {LQ_F32, LQ_F16, LQ_BF16};
    size_t tokens = quick ? 500 : 1300;
    for (int order = 0; order < ORDERS; order++) {
        lq_klt_desc desc = klt_desc(0.1f);
        float *whole = (float *)source_alloc(SLICES_MAX * tokens * DIMS * sizeof(float));
        float *named = (float *)source_alloc(SLICES_MAX * tokens * DIMS * sizeof(float));
        const lq_profile *known[4] = {NULL, NULL, NULL, NULL};
        group g;
        group_make(&g, order);
        profile p;
        profile_make(&p, &g, 0, FITTED, 1, &desc);
        profile other;
        profile_make(&other, &g, 64, FITTED, 1, &desc);
        known[1] = &other.p;
        known[3] = &p.p;
        for (int i = 0; i < 3; i++) {
            typed_make(types[i]);
            for (int how = EMBEDDED; how <= NAMED; how++) {
                archive a;
                archive_start(&a);
                uint32_t id = archive_group(&a, &g);
                lq_archive_pack_desc d =
                    archive_pack_desc(&g, &p, id, archive_profile(&a, &p, how), 0.2f);
                d.refit = how == EMBEDDED && i == 1;
                d.quantizer = i == 2 ? LQ_E8 : 0;
                if (!CHECK(archive_pack(&a, &d, &g, 0, tokens, types[i]) == LQ_OK)) {
                    printf("order %d type %d how %d\n", order, i, how);
                }
                CHECK(lq_archive_finish(&a.writer) == LQ_OK);
                archive_open(&a, how == NAMED);
                archive_group_is(&a, id, &g);
                if (how == NAMED) {
                    CHECK(archive_unpack(&a, id, 0, whole, LQ_F32, g.count, 0, tokens, NULL, 0) ==
                          LQ_E_FORMAT);
                    CHECK(archive_unpack(&a, id, 0, whole, LQ_F32, g.count, 0, tokens, known, 3) ==
                          LQ_E_FORMAT);
                    CHECK(archive_unpack(&a, id, 0, whole, LQ_F32, g.count, 0, 4, NULL, 0) ==
                          LQ_OK); /* sinks need none */
                }
                if (CHECK(archive_unpack(&a, id, 0, whole, LQ_F32, g.count, 0, tokens,
                                         how == NAMED ? known : NULL, how == NAMED ? 4 : 0) ==
                          LQ_OK)) {
                    check_sinks(&g, whole, tokens, types[i]);
                    check_ranges(&a, id, g.count, whole, tokens, how == NAMED ? known : NULL,
                                 how == NAMED ? 4 : 0);
                    loss l = loss_of(&g, whole, tokens, 0, tokens);
                    CHECK(sqrt(12 * l.k) < (double)p.unit * 0.2 * 1.5);
                    CHECK(sqrt(12 * l.v) < 0.2 * (double)p.p.dense->ratio * 1.5);
                    if (how == STRIPPED) { /* the same pages, whatever the name */
                        memcpy(named, whole, g.count * tokens * DIMS * sizeof(float));
                    } else if (how == NAMED) {
                        size_t far = 0;
                        for (size_t t = 0; t < g.count * tokens * DIMS; t++) {
                            far += named[t] != whole[t];
                        }
                        CHECK(far == 0);
                    }
                }
                archive_free(&a);
            }
        }
        profile_free(&p);
        profile_free(&other);
        free(whole);
        free(named);
    }
    typed_free();
}

/* Records and profiles that do not belong together. */
static void test_archive_other(void)
{
    lq_klt_desc desc = klt_desc(0.2f);
    float *out = (float *)source_alloc(SLICES_MAX * 100 * DIMS * sizeof(float));
    group g;
    group_make(&g, BY_LAYER);
    profile p;
    profile_make(&p, &g, 0, FITTED, 0, &desc);
    for (int kind = 0; kind < 6; kind++) {
        group lie = g; /* what the record says */
        archive a;
        archive_start(&a);
        if (kind == 1) { /* slices in another order: values where keys are */
            lie.slices[0].stream = LQ_V;
            lie.slices[2].stream = LQ_K;
        } else if (kind == 2) {
            lie.slices[3].dims = DIMS + 1;
            lie.slices[2].dims = DIMS - 1;
        } else if (kind == 3) {
            lie.count = g.count - 1;
        } else if (kind == 4) { /* all of one stream */
            group_make(&lie, KEYS);
            lie.geometry.stream = LQ_K;
        } else if (kind == 5) { /* another's basis of the same slices, but gains of their own */
            for (uint32_t s = 0; s < lie.count; s++) {
                lie.roles[s].gain = lie.roles[s].stream == LQ_V ? s / 4 * 2 + s % 2 : 0;
            }
            lie.geometry.roles = lie.roles;
        }
        uint32_t id = archive_group(&a, kind == 5 ? &g : &lie);
        lq_archive_pack_desc d =
            archive_pack_desc(&g, &p, id, archive_profile(&a, &p, EMBEDDED), 0.2f);
        if (kind == 5) {
            d.geometry = lie.geometry;
            d.geometry.roles = lie.roles;
            CHECK(lq_archive_pack_check(&a.writer, &d, NULL) != LQ_OK);
            CHECK(archive_pack(&a, &d, &g, 0, 100, LQ_F32) != LQ_OK);
            archive_free(&a);
            continue;
        }
        int status = archive_pack(&a, &d, &g, 0, 100, LQ_F32);
        CHECK(status == LQ_OK);
        CHECK(lq_archive_finish(&a.writer) == LQ_OK);
        archive_open(&a, 0);
        memset(out, 0, SLICES_MAX * 100 * DIMS * sizeof(float));
        status = archive_unpack(&a, id, 0, out, LQ_F32, lie.count, 4, kind == 2 ? 1 : 90, NULL, 0);
        CHECK(kind ? status == LQ_E_FORMAT || status == LQ_E_DATA : status == LQ_OK);
        if (kind && status != LQ_E_FORMAT) {
            printf("a record of other slices, kind %d: %s\n", kind, lq_status_string(status));
        }
        archive_free(&a);
    }
    profile_free(&p);
    free(out);
}

/* ---- tokens by weight ---- */
static float token_weights[TOKENS];

/* Equal ones, those of a long tail, or rising ones. */
static void weights_make(int kind)
{
    source_seed = 5;
    for (size_t t = 0; t < TOKENS; t++) {
        double tail = exp(2 * source_gauss());
        token_weights[t] = kind == 0   ? 0.37f
                           : kind == 1 ? (float)(tail * 1e-3)
                           : kind == 2 ? (float)(t / 64 + 1)
                                       : (t % 7 ? 0.0f : (float)tail);
    }
}

/* An archive of tokens [0, tokens) in pieces: names of runs do not matter. */
static void weighed_archive(archive *a, const group *g, const profile *p, size_t tokens,
                            size_t piece, const float *weights, float mean, uint32_t *id)
{
    archive_start(a);
    *id = archive_group(a, g);
    uint32_t profile_id = archive_profile(a, p, NAMED);
    lq_archive_pack_desc d;
    for (size_t t = 0; t < tokens; t += piece) {
        size_t n = tokens - t < piece ? tokens - t : piece;
        d = archive_pack_desc(g, p, *id, profile_id, 0.2f);
        d.first_token = t;
        d.weights = weights ? weights + t : NULL;
        d.weight_mean = mean;
        CHECK(archive_pack(a, &d, g, t, n, LQ_F32) == LQ_OK);
    }
    CHECK(lq_archive_finish(&a->writer) == LQ_OK);
    archive_open(a, 0);
}

/* Pages hold each token once, those of a block by weight, at the steps of their weights. */
static void check_order(const archive *a, uint32_t id, size_t tokens, float mean)
{
    uint8_t *seen = (uint8_t *)source_zeros(tokens);
    double *page_step = (double *)source_zeros(tokens * sizeof(double));
    for (uint32_t r = 0; r < a->reader.run_count; r++) {
        lq_archive_run_info info;
        CHECK(lq_archive_run(&a->reader, r, &info) == LQ_OK);
        CHECK(info.ordered == (info.desc.code == LQ_PAGE_CODED));
        CHECK(info.page_count == (info.desc.token_count + 63) / 64);
        for (uint32_t i = 0; i < info.page_count; i++) {
            double want = 0; /* octaves */
            lq_page_ref ref;
            CHECK(lq_archive_run_page(&a->reader, r, i, &ref) == LQ_OK);
            CHECK(ref.ordered == info.ordered && ref.run == r && ref.page == i);
            CHECK(ref.token_count ==
                  (i + 1 < info.page_count ? 64 : (info.desc.token_count - 1) % 64 + 1));
            uint64_t list[64];
            CHECK(lq_archive_page_tokens(&a->reader, &ref, list) == LQ_OK);
            for (uint32_t j = 0; j < ref.token_count; j++) {
                if (!CHECK(list[j] < tokens && (j == 0 || list[j] > list[j - 1]))) continue;
                CHECK(!seen[list[j]]);
                seen[list[j]] = 1;
                page_step[list[j]] = (double)ref.step;
                CHECK((list[j] - info.desc.first_token) / 1024 == i / LQ_ARCHIVE_BLOCK);
                double by = -0.25 * log((double)token_weights[list[j]] / (double)mean) / log(2.0);
                want += (by > 2 ? 2 : by < -2 ? -2 : by) / ref.token_count;
                lq_page_ref found;
                CHECK(lq_archive_find(&a->reader, id, 0, list[j], &found) == LQ_OK);
                CHECK(found.run == r && found.page == i && found.offset == ref.offset);
                CHECK(memcmp(&found.step, &ref.step, sizeof ref.step) == 0);
            }
            if (info.ordered && mean > 0) {
                double is = log((double)ref.step / 0.2) / log(2.0);
                CHECK(fabs(is - floor(4 * is + 0.5) / 4) < 1e-5);
                CHECK(fabs(is - want) < 0.126);
            }
            ref.page = info.page_count;
            CHECK(lq_archive_page_tokens(&a->reader, &ref, list) == LQ_E_RANGE);
            ref.run = a->reader.run_count;
            CHECK(lq_archive_page_tokens(&a->reader, &ref, list) == LQ_E_RANGE);
        }
        /* within a block */
        for (uint32_t i = 0; i + 1 < info.desc.token_count && info.ordered; i++) {
            size_t x = (size_t)info.desc.first_token + i;
            size_t y = (size_t)info.desc.first_token + i / 1024 * 1024 +
                       (i % 1024 + 1 + source_below(1024)) % 1024;
            if (y < info.desc.first_token + info.desc.token_count) {
                CHECK((token_weights[x] < token_weights[y]) == 0 || page_step[x] >= page_step[y]);
            }
        }
    }
    for (size_t t = 0; t < tokens; t++) {
        CHECK(seen[t]);
    }
    free(seen);
    free(page_step);
}

static double mean_of_weights(size_t first, size_t tokens)
{
    double sum = 0;
    for (size_t t = first; t < tokens; t++) {
        sum += log((double)token_weights[t] < 9.094947e-13 ? 9.094947e-13
                                                           : (double)token_weights[t]);
    }
    return exp(sum / (double)(tokens - first));
}

static void test_weights(const profile *p, const group *g)
{
    static const size_t counts[9] = {5, 67, 68, 69, 1027, 1028, 1029, 1090, 2901};
    const lq_profile *known = &p->p;
    float *plain = (float *)source_alloc(SLICES_MAX * TOKENS * DIMS * sizeof(float));
    float *sorted = (float *)source_alloc(SLICES_MAX * TOKENS * DIMS * sizeof(float));
    for (int kind = 0; kind < 4; kind++) {
        weights_make(kind);
        for (size_t c = 0; c < 9; c++) {
            size_t tokens = counts[c];
            archive a;
            uint32_t id;
            weighed_archive(&a, g, p, tokens, tokens, token_weights, 0, &id);
            CHECK(archive_unpack(&a, id, 0, sorted, LQ_F32, g->count, 0, tokens, &known, 1) ==
                  LQ_OK);
            check_order(&a, id, tokens, kind < 3 ? (float)mean_of_weights(4, tokens) : 0);
            check_sinks(g, sorted, tokens, LQ_F32);
            if (!quick || c == 6 || c == 8) {
                check_ranges(&a, id, g->count, sorted, tokens, &known, 1);
            }
            archive b;
            weighed_archive(&b, g, p, tokens, tokens, NULL, 0, &id);
            if (kind == 0) { /* the same numbers, and what the order costs */
                double cost = 8 * ((double)a.writer.offset - (double)b.writer.offset);
                CHECK(archive_unpack(&b, id, 0, plain, LQ_F32, g->count, 0, tokens, &known, 1) ==
                      LQ_OK);
                for (size_t i = 0; i < g->count * tokens * DIMS; i++) {
                    if (plain[i] < sorted[i] || plain[i] > sorted[i]) {
                        CHECK(0 && "equal weights change a number");
                        break;
                    }
                }
                printf("%u tokens: an order costs %.2f bits a token\n", (unsigned)tokens,
                       cost / (double)tokens);
                CHECK(tokens < 1000 || cost / (double)tokens < 4.5); /* 0.01 a number at 450 dims */
            } else if (tokens > 2000) {
                double error[2] = {0, 0};
                double count[2] = {0, 0};
                double middle = kind == 3 ? 1e-6 : mean_of_weights(4, tokens);
                for (uint32_t s = 0; s < g->count; s++) {
                    for (size_t t = 4; t < tokens; t++) {
                        const float *x = slice_of(g, s, t);
                        int heavy = (double)token_weights[t] > middle;
                        for (size_t d = 0; d < DIMS && g->slices[s].stream == LQ_K; d++) {
                            double e = (double)sorted[(s * tokens + t) * DIMS + d] - (double)x[d];
                            error[heavy] += e * e;
                            count[heavy]++;
                        }
                    }
                }
                printf("weights %d: error of light tokens %.3f, of heavy ones %.3f\n", kind,
                       sqrt(error[0] / count[0]), sqrt(error[1] / count[1]));
                CHECK(error[0] / count[0] > 1.2 * error[1] / count[1]);
            }
            archive_free(&a);
            archive_free(&b);
        }
    }
    /* in pieces, about one mean: each piece has runs of its own */
    weights_make(1);
    for (size_t c = 0; c < 3; c++) {
        static const size_t pieces[3] = {100, 1024, 1500};
        archive a;
        uint32_t id;
        float mean = (float)mean_of_weights(4, TOKENS);
        weighed_archive(&a, g, p, TOKENS, pieces[c], token_weights, mean, &id);
        CHECK(archive_unpack(&a, id, 0, sorted, LQ_F32, g->count, 0, TOKENS, &known, 1) == LQ_OK);
        check_order(&a, id, TOKENS, mean);
        check_ranges(&a, id, g->count, sorted, TOKENS, &known, 1);
        archive_free(&a);
    }
    free(plain);
    free(sorted);
}

/* Weights that are none, and what goes with weights: nothing is written. */
static void test_weight_errors(const profile *p, const group *g)
{
    static const float wrong[5] = {-1.0f, -1e-40f, NAN, INFINITY, -INFINITY};
    static const size_t where[4] = {0, 3, 4, 199};
    archive a;
    archive_start(&a);
    uint32_t id = archive_group(&a, g);
    uint32_t profile_id = archive_profile(&a, p, NAMED);
    uint64_t offset = a.writer.offset;
    size_t used = a.writer.directory_used;
    lq_archive_pack_desc d;
    for (int i = 0; i < 20; i++) {
        weights_make(1);
        token_weights[where[i % 4]] = wrong[i / 4];
        d = archive_pack_desc(g, p, id, profile_id, 0.2f);
        d.weights = token_weights;
        CHECK(archive_pack(&a, &d, g, 0, 200, LQ_F32) == LQ_E_DATA);
        CHECK(a.writer.offset == offset && a.writer.directory_used == used);
        CHECK(a.writer.run_count == 0 && !a.writer.in_run);
    }
    d.model = 78;
    CHECK(archive_pack(&a, &d, g, 0, 200, LQ_F32) == LQ_E_FORMAT);
    CHECK(a.writer.offset == offset && a.writer.directory_used == used);
    d.model = 77;
    weights_make(1);
    token_weights[7] = -0.0f;
    token_weights[8] = 3e38f;
    token_weights[9] = 1e-45f;
    CHECK(archive_pack(&a, &d, g, 0, 200, LQ_F32) == LQ_OK);
    CHECK(lq_archive_finish(&a.writer) == LQ_OK);
    archive_free(&a);
}

/* ---- a live cache: what slides, weighs, goes wrong ---- */
/* What a cache lost of all heads of a layer. */
static loss layer_loss(const cache *c, uint32_t layer, size_t first, size_t tokens)
{
    group g;
    memset(&g, 0, sizeof g);
    group_add(&g, layer, LQ_K);
    group_add(&g, layer, LQ_V);
    float *out = cache_read(c, &g, first, tokens);
    loss l = loss_of(&g, out, tokens, first, tokens);
    free(out);
    return l;
}

/* Layer 1 has a window and gave tokens back: it goes into a group of its own, where nothing else
   feels that; with others it is refused. */
static void test_cache_slides(void)
{
    size_t tokens = quick ? 700 : 1900;
    for (int i = 0; i < 5; i++) {
        lq_klt_desc desc = klt_desc(0.1f);
        lq_kv_pack_group parts[2];
        lq_kv_pack_desc d = kv_pack_desc(parts, i == 4 ? 1 : 2);
        group g[2];
        memset(g, 0, sizeof g);
        for (uint32_t l = 0; l < LAYERS; l++) {
            group_add(&g[l == 1 && i < 4], l, LQ_K);
            group_add(&g[l == 1 && i < 4], l, LQ_V);
        }
        const lq_profile *known[2];
        profile p[2];
        for (uint32_t l = 0; l < (i == 4 ? 1 : 2); l++) {
            profile_make(&p[l], &g[l], 0, FITTED, 1, &desc);
            parts[l] = pack_group(&g[l], &p[l], 0.2f);
            known[l] = &p[l].p;
        }
        weights_make(1);
        cache c;
        cache_make(&c, i == 3 ? LQ_KV_HOT : LQ_KV_RAW, 128, 2048);
        cache_fill(&c, tokens, 64);
        d.chunk = i == 1 ? 200 : i == 2 ? 64 : 0;
        d.weights = i == 2 || i == 3 ? token_weights : NULL;
        archive a;
        CHECK(cache_pack(&a, &c, &d) == (i < 4 ? LQ_OK : LQ_E_RANGE));
        cache back;
        cache_make(&back, LQ_KV_RAW, 128, 2048);
        if (i < 4 && CHECK(cache_unpack(&back, &a, known, 2) == LQ_OK) &&
            CHECK(lq_kv_tokens(&back.kv) == tokens)) {
            lq_kv_view_out view = {NULL, 0, 0, LQ_F32};
            for (uint32_t l = 0; l < LAYERS; l++) {
                size_t first = l == 1 ? tokens - 128 : 0;
                loss lost = layer_loss(&back, l, first, tokens - first);
                CHECK(sqrt(12 * lost.k) < (double)p[l == 1].unit * 0.2 * 1.7);
                CHECK(sqrt(12 * lost.v) < 0.6 * 1.7);
            }
            float row[ROW];
            view.data = row; /* what the layer gave back is not there */
            CHECK(lq_kv_read(&c.kv, 1, LQ_K, &view, 100, 1, NULL, 0) == LQ_E_RANGE);
            CHECK(lq_kv_read(&back.kv, 1, LQ_K, &view, 100, 1, NULL, 0) == LQ_E_RANGE);
        }
        cache_free(&back);
        cache_free(&c);
        archive_free(&a);
        profile_free(&p[0]);
        if (i < 4) profile_free(&p[1]);
    }
}

typedef struct sink {
    uint8_t *bytes;
    size_t count;
} sink;

static int write_sink(void *user, const void *bytes, size_t count)
{
    sink *s = (sink *)user;
    memcpy(s->bytes + s->count, bytes, count);
    s->count += count;
    return 0;
}

/* One call each way, with a note. */
static void test_cache_export(const profile *p, const group *g)
{
    size_t tokens = 300;
    lq_kv_pack_group part = pack_group(g, p, 0.2f);
    lq_kv_pack_desc d = kv_pack_desc(&part, 1);
    const lq_profile *known[2] = {NULL, NULL};
    void *mem = NULL;
    size_t needed = 0;
    known[1] = &p->p;
    cache c;
    cache_make(&c, LQ_KV_HOT, 0, 512);
    cache_fill(&c, tokens, 300);
    weights_make(1);
    d.weights = token_weights;
    lq_kv_export_desc e;
    memset(&e, 0, sizeof e);
    e.pack = &d;
    e.note = "note";
    e.note_bytes = 4;
    size_t bytes = lq_kv_export_workspace_bytes(&c.kv, &e);
    void *work = source_alloc(bytes);
    sink s;
    s.bytes = (uint8_t *)source_alloc(FILE_BYTES);
    s.count = 0;
    CHECK(lq_kv_export(&c.kv, write_sink, &s, &e, work, bytes - 1) == LQ_E_SPACE && s.count == 0);
    d.model = 78;
    CHECK(lq_kv_export(&c.kv, write_sink, &s, &e, work, bytes) == LQ_E_FORMAT && s.count == 0);
    d.model = 77;
    CHECK(lq_kv_export(&c.kv, write_sink, &s, &e, work, bytes) == LQ_OK);
    free(work);
    lq_archive_source source;
    memset(&source, 0, sizeof source);
    source.bytes = s.bytes;
    source.size = s.count;
    lq_kv_import_desc with;
    memset(&with, 0, sizeof with);
    uint8_t missing[16];
    with.missing = missing;
    lq_kv kv;
    for (with.profile_count = 0; with.profile_count <= 2; with.profile_count += 2) {
        with.profiles = known;
        int status = LQ_E_SPACE;
        while (status == LQ_E_SPACE) {
            free(mem);
            mem = source_alloc(needed);
            status = lq_kv_import(&kv, mem, needed, &needed, &source, &with);
        }
        if (with.profile_count == 0) {
            CHECK(status == LQ_E_FORMAT && kv.pool == NULL && kv.sequence == NULL);
            continue;
        }
        if (CHECK(status == LQ_OK)) {
            cache back = c;
            back.kv = kv;
            CHECK(lq_kv_tokens(&kv) == tokens);
            float *out = cache_read(&back, g, 0, tokens);
            loss l = loss_of(g, out, tokens, 0, tokens);
            CHECK(sqrt(12 * l.k) < (double)p->unit * 0.2 * 2.0 && sqrt(12 * l.v) < 0.6 * 2.0);
            free(out);
            lq_kv_free(&kv);
        }
    }
    uint8_t name[16];
    CHECK(lq_kv_profile_name(&p->p, name) == LQ_OK);
    free(mem);
    free(s.bytes);
    cache_free(&c);
}

/* Weights of the whole and of one group; equal ones change nothing. */
static void test_cache_weights(const profile *p, const group *g)
{
    size_t tokens = quick ? 600 : 1300;
    static const float scale[4] = {1, 1e-20f, 1e20f, 3e38f};
    const lq_profile *known = &p->p;
    float *plain = NULL;
    cache c;
    cache_make(&c, LQ_KV_RAW, 0, 2048);
    cache_fill(&c, tokens, 300);
    for (int i = 0; i < 9; i++) {
        lq_kv_pack_group part = pack_group(g, p, 0.2f);
        lq_kv_pack_desc d = kv_pack_desc(&part, 1);
        weights_make(i == 8 ? 1 : 0);
        for (size_t t = 0; t < TOKENS; t++) {
            token_weights[t] = i == 8 ? token_weights[t] : i == 5 ? 0 : scale[i % 4];
        }
        d.weights = i && i != 6 ? token_weights : NULL;
        part.weights = i == 6 || i == 7 ? token_weights : NULL;
        d.chunk = i == 4 ? 128 : 0;
        archive a;
        CHECK(cache_pack(&a, &c, &d) == LQ_OK);
        cache back;
        cache_make(&back, LQ_KV_RAW, 0, 2048);
        if (CHECK(cache_unpack(&back, &a, &known, 1) == LQ_OK)) {
            float *out = cache_read(&back, g, 0, tokens);
            if (i == 0) {
                plain = out;
            } else {
                size_t far = 0;
                for (size_t t = 0; t < tokens * group_dims(g); t++) {
                    far += out[t] < plain[t] || out[t] > plain[t];
                }
                CHECK((far == 0) == (i < 8));
                if ((far == 0) != (i < 8)) {
                    printf("weights %d of a cache: %u numbers differ\n", i, (unsigned)far);
                }
                free(out);
            }
        } else {
            printf("weights %d of a cache\n", i);
        }
        cache_free(&back);
        archive_free(&a);
    }
    free(plain);
    cache_free(&c);
}

#define REFUSED(want, field, change)                                                        \
    do {                                                                                    \
        const char *why = "x";                                                              \
        archive a;                                                                          \
        lq_slice slices[SLICES_MAX];                                                        \
        lq_profile one = p->p;                                                              \
        lq_kv_pack_group part = pack_group(g, p, 0.2f);                                    \
        lq_kv_pack_desc d = kv_pack_desc(&part, 1);                                        \
        memcpy(slices, g->slices, sizeof slices);                                           \
        part.slices = slices;                                                              \
        part.profile = &one;                                                               \
        change;                                                                             \
        CHECK(lq_kv_pack_check(&c.kv, &d, &why) == (want));                                 \
        if (!CHECK((want) == LQ_OK ? why == NULL                                            \
                                   : why && strncmp(why, field ":", sizeof field) == 0)) { \
            fprintf(stderr, "  %s wanted: %s\n", field, why ? why : "nothing");            \
        }                                                                                   \
        archive_start(&a);                                                                  \
        CHECK(lq_kv_pack(&c.kv, &a.writer, &d, work, work_bytes) == (want));                \
        CHECK((want) == LQ_OK || (a.writer.group_count == 0 && a.writer.run_count == 0 &&   \
                                  a.writer.profile_count == 0));                            \
        archive_free(&a);                                                                   \
    } while (0)

/* All that a descriptor can say wrong. */
static void test_cache_errors(const profile *p, const group *g)
{
    static const float steps[6] = {0.0f, -1.0f, 1e38f, NAN, INFINITY, -INFINITY};
    static const float wrong[5] = {-1.0f, -1e-40f, NAN, INFINITY, -INFINITY};
    size_t work_bytes = 1 << 24;
    void *work = source_alloc(work_bytes);
    cache c;
    cache_make(&c, LQ_KV_RAW, 0, 256);
    cache_fill(&c, 200, 200);
    REFUSED(LQ_OK, "", (void)0);
    REFUSED(LQ_OK, "", d.model = 77);
    REFUSED(LQ_E_FORMAT, "model", d.model = 78);
    REFUSED(LQ_E_ARG, "groups", d.groups = NULL);
    REFUSED(LQ_E_ARG, "tables", d.tables = NULL);
    REFUSED(LQ_E_ARG, "quantizer", d.quantizer = 77);
    REFUSED(LQ_E_ARG, "quantizer", d.quantizer = -1);
    REFUSED(LQ_E_RANGE, "sequence", d.sequence = (uint64_t)1 << 32);
    for (int i = 0; i < 6; i++) {
        REFUSED(LQ_E_ARG, "step", part.step = steps[i]);
        if (i) {
            REFUSED(LQ_E_ARG, "exponent", (d.weights = token_weights, d.exponent = steps[i]));
        }
    }
    REFUSED(LQ_E_ARG, "exponent", d.exponent = 1.01f);
    REFUSED(LQ_E_ARG, "slices", part.slices = NULL);
    REFUSED(LQ_E_ARG, "slices", part.slice_count = 0);
    REFUSED(LQ_E_ARG, "slices", part.slice_count = 4097);
    REFUSED(LQ_E_ARG, "profile", part.slice_count--);
    REFUSED(LQ_E_ARG, "profile", part.profile = NULL);
    REFUSED(LQ_E_ARG, "profile", one.dense = NULL);
    REFUSED(LQ_E_ARG, "profile", one.dims = 0);
    REFUSED(LQ_E_ARG, "slices", slices[0].layer = 3);
    REFUSED(LQ_E_ARG, "slices", slices[0].layer = 0xffffffffu);
    REFUSED(LQ_E_ARG, "slices", slices[0].head = 2);
    REFUSED(LQ_E_ARG, "slices", slices[0].head = 1);
    REFUSED(LQ_E_ARG, "slices", slices[0].first_dim = 1);
    REFUSED(LQ_E_ARG, "slices", slices[0].dims = 8);
    REFUSED(LQ_E_ARG, "slices", slices[0].dims = 17);
    REFUSED(LQ_E_ARG, "slices", slices[0].stream = 0);
    REFUSED(LQ_E_ARG, "slices", slices[0].stream = LQ_KV);
    REFUSED(LQ_E_ARG, "slices", slices[0].rope = 1);
    REFUSED(LQ_E_ARG, "slices", slices[1] = slices[0]);
    REFUSED(LQ_E_ARG, "profile", slices[0].stream = LQ_V);
    for (int i = 0; i < 10; i++) {
        weights_make(1);
        token_weights[i / 5 ? 199 : 0] = wrong[i % 5];
        {
            lq_kv_pack_group part = pack_group(g, p, 0.2f);
            lq_kv_pack_desc d = kv_pack_desc(&part, 1);
            if (i % 2) {
                part.weights = token_weights;
            } else {
                d.weights = token_weights;
            }
            archive a;
            archive_start(&a);
            CHECK(lq_kv_pack(&c.kv, &a.writer, &d, work, work_bytes) == LQ_E_DATA);
            CHECK(a.writer.group_count == 0 && a.writer.run_count == 0);
            archive_free(&a);
        }
    }
    weights_make(1);
    REFUSED(LQ_E_ARG, "weights", (d.weights = token_weights, d.groups = NULL, d.group_count = 0,
                                  d.k_step = 1, d.v_step = 1));
    free(work);
    cache_free(&c);
}

/* Damage in a packed cache: a status, and an empty cache. */
static void test_cache_damage(const profile *p, const group *g)
{
    lq_kv_pack_group part = pack_group(g, p, 0.2f);
    lq_kv_pack_desc d = kv_pack_desc(&part, 1);
    const lq_profile *known = &p->p;
    size_t tokens = 300;
    weights_make(1);
    d.weights = token_weights;
    cache c;
    cache_make(&c, LQ_KV_RAW, 0, 512);
    cache_fill(&c, tokens, tokens);
    archive a;
    CHECK(cache_pack(&a, &c, &d) == LQ_OK);
    cache back;
    cache_make(&back, LQ_KV_RAW, 0, 512);
    for (int i = 0; i < (quick ? 40 : 400); i++) {
        size_t at = source_below((uint32_t)a.writer.offset);
        a.file[at] ^= (uint8_t)(1u << i % 8);
        lq_archive_source source;
        memset(&source, 0, sizeof source);
        source.bytes = a.file;
        source.size = a.writer.offset;
        size_t needed;
        if (lq_archive_open(&a.reader, &source, NULL, 0, &needed) == LQ_E_SPACE) {
            void *mem = source_alloc(needed);
            if (lq_archive_open(&a.reader, &source, mem, needed, &needed) == LQ_OK) {
                size_t bytes = lq_kv_unpack_workspace_bytes(&back.kv, &a.reader, 0);
                void *work = source_alloc(bytes);
                lq_kv_unpack_desc u;
                memset(&u, 0, sizeof u);
                u.tables = tables;
                u.profiles = &known;
                u.profile_count = 1;
                int status = lq_kv_unpack(&back.kv, &a.reader, &u, work, bytes);
                CHECK(lq_kv_tokens(&back.kv) == (status == LQ_OK ? tokens : 0));
                CHECK(lq_kv_truncate(&back.kv, 0) == LQ_OK);
                free(work);
            }
            free(mem);
        }
        a.file[at] ^= (uint8_t)(1u << i % 8);
    }
    { /* a cache of other dims */
        cache other;
        cache_make(&other, LQ_KV_RAW, 0, 512);
        lq_kv_free(&other.kv);
        free(other.mem);
        other.layer[0].k_dims = 24;
        other.mem = source_alloc(lq_kv_bytes(&other.desc));
        CHECK(lq_kv_init(&other.kv, other.mem, lq_kv_bytes(&other.desc), &other.desc) == LQ_OK);
        archive_open(&a, 0);
        {
            lq_kv_unpack_desc u;
            size_t bytes = lq_kv_unpack_workspace_bytes(&other.kv, &a.reader, 0);
            void *work = source_alloc(bytes);
            memset(&u, 0, sizeof u);
            u.tables = tables;
            u.profiles = &known;
            u.profile_count = 1;
            CHECK(lq_kv_unpack(&other.kv, &a.reader, &u, work, bytes) == LQ_E_FORMAT);
            u.profiles = NULL;
            CHECK(lq_kv_unpack(&other.kv, &a.reader, &u, work, bytes) == LQ_E_ARG);
            CHECK(lq_kv_tokens(&other.kv) == 0);
            free(work);
        }
        cache_free(&other);
    }
    cache_free(&c);
    cache_free(&back);
    archive_free(&a);
}

/* ---- too few tokens ---- */
/* Keys, or values, of a layer without a rotation of channels, fitted to as many tokens, at the same
   steps: bytes of pages that were not fitted, and the loss. */
static size_t channel_bytes(float unit, float step, size_t fitted, size_t first, size_t tokens,
                            loss *lost)
{
    size_t bytes = 0;
    lost->k = lost->v = 0;
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        lq_positions at = {0, 1, NULL};
        group g;
        memset(&g, 0, sizeof g);
        group_add(&g, i / 2, i % 2 ? LQ_V : LQ_K);
        g.roles[1].gain = i % 2; /* values have a gain a head here */
        const void *at_rows[SLICES_MAX];
        lq_vectors v = group_vectors(&g, at_rows, 0);
        lq_codec_desc d;
        memset(&d, 0, sizeof d);
        d.tables = tables;
        d.geometry = g.geometry;
        lq_profile fit_p;
        d.profile = &fit_p;
        d.step = i % 2 ? 3 * step : unit * step;
        void *mem = source_alloc(lq_fit_bytes(&g.geometry));
        void *work = source_alloc(lq_fit_workspace_bytes(&g.geometry));
        lq_fit fit;
        CHECK(!lq_fit_init(&fit, mem, lq_fit_bytes(&g.geometry), &g.geometry, d.step));
        CHECK(!lq_fit_add(&fit, &v, &at, fitted, work, lq_fit_workspace_bytes(&g.geometry)));
        int16_t rows[2 * (ROW + HEADS) + 1];
        CHECK(lq_fit_profile(&fit, &fit_p, rows, sizeof rows) == LQ_OK);
        pages out;
        CHECK(pages_make(&out, &d, &g, first, tokens) == LQ_OK);
        bytes += out.total;
        loss l = loss_of(&g, out.out, tokens, first, tokens);
        lost->k += l.k / LAYERS;
        lost->v += l.v / LAYERS;
        pages_free(&out);
        free(mem);
        free(work);
    }
    return bytes;
}

static void test_few_tokens(void)
{
    static const size_t counts[7] = {63, 64, 65, 128, 192, 300, 512};
    size_t tokens = quick ? 320 : 1280;
    group g;
    group_make(&g, BY_LAYER);
    for (size_t c = 0; c < 7; c++) {
        for (int queries = 0; queries < 2; queries++) {
            lq_klt_desc desc = klt_desc(0.2f);
            profile p;
            profile_make(&p, &g, 0, counts[c], queries, &desc);
            CHECK((p.status == LQ_E_ARG) == (counts[c] < 64));
            if (p.status) {
                profile_free(&p);
                continue;
            }
            lq_codec_desc d = codec_desc(&g, &p, 0.2f);
            pages out;
            CHECK(pages_make(&out, &d, &g, FITTED, tokens) == LQ_OK);
            loss lost = loss_of(&g, out.out, tokens, FITTED, tokens);
            loss had;
            size_t plain = channel_bytes(p.unit, 0.2f, counts[c], FITTED, tokens, &had);
            printf("%u tokens for %u dims: %.3f bits (k %.3f, v %.3f of a cell), channels %.3f "
                   "(%.3f, %.3f); said %.3f and %.3f, shrinkage %.2f\n",
                   (unsigned)counts[c], (unsigned)group_dims(&g),
                   8 * (double)out.total / (double)tokens / group_dims(&g),
                   sqrt(12 * lost.k) / ((double)p.unit * 0.2), sqrt(12 * lost.v) / 0.6,
                   8 * (double)plain / (double)tokens / group_dims(&g),
                   sqrt(12 * had.k) / ((double)p.unit * 0.2), sqrt(12 * had.v) / 0.6,
                   (double)p.report.basis_bits, (double)p.report.channel_bits,
                   (double)p.report.shrinkage);
            CHECK(p.report.basis_bits <= p.report.channel_bits * 1.001f);
            CHECK(out.total <= plain + plain / 50);
            pages_free(&out);
            profile_free(&p);
        }
    }
}

/* ---- 16,384 dims ---- */
enum { WIDE = 16384, WIDE_RANK = 40, WIDE_SLICES = 4, WIDE_TOKENS = 70, WIDE_SIGMA = 32 };

/* Rows of the basis by hand. */
enum { WALSH, UNITS, LONG, HUGE_ONE, WIDE_KINDS };

typedef struct bits {
    uint8_t *bytes;
    size_t at;
} bits;

static void bits_put(bits *b, uint32_t value, uint32_t count)
{
    for (; count; count--, value >>= 1, b->at++) {
        b->bytes[b->at / 8] = (uint8_t)(b->bytes[b->at / 8] | (value & 1) << b->at % 8);
    }
}

static uint32_t bits_zigzag(int v)
{
    return v < 0 ? 2 * (uint32_t)-v - 1 : 2 * (uint32_t)v;
}

static void bits_golomb(bits *b, int v)
{
    uint32_t n = bits_zigzag(v) + 1;
    uint32_t length = 0;
    while (n >> (length + 1)) {
        length++;
    }
    bits_put(b, 0, length);
    bits_put(b, 1, 1);
    bits_put(b, n, length);
}

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Element j of row i in units of 2^-12: rows are orthonormal but for LONG and HUGE_ONE. */
static int wide_element(int kind, size_t i, size_t j)
{
    uint32_t parity = (uint32_t)(i & j);
    parity ^= parity >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    if (kind == WALSH) { /* 1 / 128 each; row 0: all alike */
        return parity & 1 ? -32 : 32;
    } else if (kind == UNITS) {
        return j == i * 401 ? 4096 : 0;
    } else if (kind == LONG) { /* norm 249 */
        return parity & 1 ? -7968 : 7968;
    }
    return j == i * 401 ? (i ? 4096 : 32767) : (int)((i * 7 + j * 13) % 5) - 2;
}

/* The file form: metric 0, means and centres 0. values: the last two slices are V, of one gain. */
static uint8_t *wide_file(int kind, int values, size_t *count)
{
    size_t room = (size_t)WIDE * WIDE_RANK * 6 + 4 * WIDE + 4096;
    uint8_t *f = (uint8_t *)source_zeros(room);
    uint8_t *at = f + 40;
    memcpy(f, "LQPF\1", 5);
    f[5] = (uint8_t)(values ? LQ_KV : LQ_K);
    f[6] = 3; /* a dense basis is there */
    put16(f + 8, WIDE_SLICES);
    put16(f + 10, WIDE);
    put16(f + 14, values ? 1 : 0);
    put16(f + 20, WIDE_RANK);
    put16(f + 24, (uint32_t)(WIDE_SIGMA - 48 * 4)); /* so that units are 2^-12 */
    put16(f + 26, 0xf000u);
    put16(f + 30, 256);
    for (size_t i = 0; i < WIDE_SLICES; i++, at += 6) {
        put16(at, WIDE / WIDE_SLICES);
        put16(at + 4, values && i > 1 ? 0 : LQ_GAIN_NONE);
    }
    at += 2 * WIDE + (values ? WIDE : 0);
    bits b;
    b.bytes = at;
    b.at = 0;
    if (values) { /* the gain: sigma in sixteenths of an octave, mean */
        bits_golomb(&b, 0);
        bits_golomb(&b, 0);
    }
    for (size_t i = 0; i < WIDE_RANK; i++) {
        bits_golomb(&b, i == 0 ? WIDE_SIGMA : 0);
        bits_golomb(&b, 0);
    }
    for (size_t i = 0; i < WIDE_RANK; i++) {
        int k = kind == UNITS || kind == HUGE_ONE ? 1 : kind == WALSH ? 6 : 14;
        bits_put(&b, 0, 4);
        bits_put(&b, (uint32_t)k, 4);
        for (size_t j = 0; j < WIDE; j++) {
            uint32_t n = bits_zigzag(wide_element(kind, i, j));
            if (n >> k < 24) {
                bits_put(&b, (1u << (n >> k)) - 1, (n >> k) + 1);
                bits_put(&b, n, (uint32_t)k);
            } else {
                bits_put(&b, (1u << 24) - 1, 24);
                bits_put(&b, n, 16);
            }
        }
    }
    *count = (size_t)(at - f) + (b.at + 7) / 8;
    CHECK(*count <= room);
    uint32_t checksum = lq_xxh32(f + 20, *count - 20, lq_xxh32(f, 16, 0));
    put16(f + 16, checksum & 65535);
    put16(f + 18, checksum >> 16);
    return f;
}

static float wide_x[WIDE_TOKENS * WIDE];

/* Tokens of the basis, or extreme ones. */
static void wide_tokens(int kind, int extreme)
{
    for (size_t t = 0; t < WIDE_TOKENS; t++) {
        float *x = wide_x + t * WIDE;
        double c[WIDE_RANK];
        for (size_t i = 0; i < WIDE_RANK; i++) {
            c[i] = 4 * source_gauss() / (kind == LONG ? 249 * 249 : 1);
        }
        for (size_t j = 0; j < WIDE; j++) {
            double sum = 0.02 * source_gauss();
            for (size_t i = 0; i < WIDE_RANK && !extreme; i++) {
                sum += c[i] * wide_element(kind, i, j) / 4096;
            }
            x[j] = (float)sum;
            if (extreme == 1) { /* all alike, as large as it gets */
                x[j] = 60.0f / (float)(1 + t);
            } else if (extreme == 2) {
                x[j] = j == t * 401 ? 250.0f : 0.0f;
            } else if (extreme == 3) {
                x[j] = (float)(j % 2 ? 1000 : -1000) / (float)(1u << (t % 32));
            }
        }
    }
}

typedef struct wide_pages {
    uint8_t *bytes;
    size_t count;
    int status;
    float *out;
} wide_pages;

static wide_pages wide_make(const lq_codec_desc *d)
{
    lq_vectors v = {NULL, WIDE, LQ_F32};
    lq_vectors_out out = {NULL, WIDE, LQ_F32};
    size_t page_bytes[2] = {0, 0};
    lq_codec *codec = NULL;
    void *mem = source_alloc(lq_codec_bytes(d));
    wide_pages p;
    memset(&p, 0, sizeof p);
    p.status = lq_codec_init(&codec, mem, lq_codec_bytes(d), d);
    if (p.status) {
        free(mem);
        return p;
    }
    const void *rows[WIDE_SLICES];
    for (size_t s = 0; s < WIDE_SLICES; s++) {
        rows[s] = wide_x + s * (WIDE / WIDE_SLICES);
    }
    v.slices = rows;
    void *out_rows[WIDE_SLICES];
    out.slices = out_rows;
    size_t bytes = lq_codec_workspace_bytes(codec);
    void *work = source_alloc(bytes);
    p.bytes = (uint8_t *)source_alloc(2 * lq_codec_page_bound(codec));
    p.out = (float *)source_zeros(sizeof wide_x);
    for (size_t s = 0; s < WIDE_SLICES; s++) {
        out_rows[s] = p.out + s * (WIDE / WIDE_SLICES);
    }
    p.status = lq_codec_encode(codec, p.bytes, 2 * lq_codec_page_bound(codec), &p.count,
                               page_bytes, &v, NULL, WIDE_TOKENS, work, bytes);
    const uint8_t *starts[2];
    starts[0] = p.bytes;
    starts[1] = p.bytes + page_bytes[0];
    if (!p.status) {
        CHECK(lq_codec_decode(codec, &out, NULL, WIDE_TOKENS, starts, page_bytes, work, bytes) ==
              LQ_OK);
    }
    free(work);
    free(mem);
    return p;
}

static void wide_free(wide_pages *p)
{
    free(p->bytes);
    free(p->out);
    memset(p, 0, sizeof *p);
}

/* No row of the matrices is longer than 2^15: what sums of products rely on. */
static void wide_norms(const lq_basis *b)
{
    double most = 0;
    for (size_t i = 0; i < (size_t)b->rank + b->dims; i++) {
        const int16_t *row = i < b->rank ? b->forward + i * b->forward_stride
                                         : b->inverse + (i - b->rank) * b->inverse_stride;
        double sum = 0;
        for (size_t j = 0; j < (i < b->rank ? b->forward_stride : b->inverse_stride); j++) {
            sum += (double)row[j] * (double)row[j];
        }
        most = sum > most ? sum : most;
    }
    CHECK(most <= 1073741824.0);
}

/* Coefficients of what came out against those of what went in, in doubles; rows orthonormal. */
static void wide_against_doubles(int kind, const wide_pages *p, double step)
{
    double error = 0;
    double beside = 0;
    for (size_t t = 0; t < WIDE_TOKENS; t++) {
        const float *x = wide_x + t * WIDE;
        const float *y = p->out + t * WIDE;
        double left = 0;
        for (size_t j = 0; j < WIDE; j++) {
            left += (double)y[j] * (double)y[j];
        }
        for (size_t i = 0; i < WIDE_RANK; i++) {
            double a = 0;
            double b = 0;
            for (size_t j = 0; j < WIDE; j++) {
                int e = wide_element(kind, i, j);
                a += (double)x[j] * e / 4096;
                b += (double)y[j] * e / 4096;
            }
            error += (a - b) * (a - b);
            left -= b * b;
        }
        beside += left;
    }
    error = sqrt(12 * error / (WIDE_TOKENS * WIDE_RANK)) / step;
    beside = sqrt(12 * (beside > 0 ? beside : 0) / (WIDE_TOKENS * WIDE_RANK)) / step;
    printf("%d dims, basis %d: error %.3f of a cell, outside of the basis %.4f\n", (int)WIDE, kind,
           error, beside);
    CHECK(error > 0.8 && error < 1.1);
    CHECK(beside < 0.05);
}

static void test_wide(void)
{
    static const uint32_t dims[WIDE_SLICES] = {WIDE / 4, WIDE / 4, WIDE / 4, WIDE / 4};
    static const lq_role roles[WIDE_SLICES] = {
        {LQ_K, 0, NULL}, {LQ_K, 0, NULL}, {LQ_V, 0, NULL}, {LQ_V, 0, NULL}};
    int most = lq_cpu_limit(PLAIN);
    source_seed = 16384;
    for (int kind = 0; kind < WIDE_KINDS; kind++) {
        for (int values = 0; values < 2; values++) {
            size_t count;
            uint8_t *file = wide_file(kind, values, &count);
            lq_profile p;
            size_t needed = 0;
            CHECK(lq_profile_load(&p, NULL, 0, &needed, file, count) == LQ_E_SPACE);
            void *mem = source_alloc(needed);
            if (!CHECK(lq_profile_load(&p, mem, needed, &needed, file, count) == LQ_OK)) {
                free(mem);
                free(file);
                continue;
            }
            for (int level = 0; level < most; level++) { /* the matrices are made alike */
                void *other_mem = source_alloc(needed);
                (void)lq_cpu_limit(level);
                lq_profile other;
                CHECK(lq_profile_load(&other, other_mem, needed, &needed, file, count) == LQ_OK);
                CHECK(!memcmp(other.dense->forward, p.dense->forward,
                              (size_t)WIDE * WIDE_RANK * sizeof(int16_t)));
                free(other_mem);
            }
            (void)lq_cpu_limit(PLAIN);
            wide_norms(p.dense);
            lq_codec_desc d;
            memset(&d, 0, sizeof d);
            d.tables = tables;
            d.geometry.stream = values ? LQ_KV : LQ_K;
            d.geometry.basis = LQ_BASIS_DENSE;
            d.geometry.slice_count = WIDE_SLICES;
            d.geometry.slice_dims = dims;
            d.geometry.dense = p.dense;
            d.geometry.roles = values ? roles : NULL;
            d.profile = &p;
            d.step = 0.25f;
            for (int extreme = 0; extreme < 4; extreme++) {
                if (quick && (values != extreme % 2 || kind % 2)) continue;
                wide_tokens(kind, extreme);
                wide_pages whole = wide_make(&d);
                CHECK(whole.status == LQ_OK || whole.status == LQ_E_RANGE);
                printf("basis %d, values %d, tokens %d: %s, %u bytes\n", kind, values, extreme,
                       lq_status_string(whole.status), (unsigned)whole.count);
                for (int level = 0; level < most; level++) {
                    (void)lq_cpu_limit(level);
                    wide_pages other = wide_make(&d);
                    CHECK(other.status == whole.status && other.count == whole.count);
                    if (!whole.status && other.count == whole.count) {
                        size_t far = 0;
                        CHECK(memcmp(other.bytes, whole.bytes, whole.count) == 0);
                        for (size_t i = 0; i < (size_t)WIDE_TOKENS * WIDE; i++) {
                            double x = (double)whole.out[i];
                            far += fabs(x - (double)other.out[i]) > 1e-4 * (1 + fabs(x));
                        }
                        CHECK(far == 0);
                    }
                    wide_free(&other);
                }
                (void)lq_cpu_limit(PLAIN);
                if (!whole.status && !extreme && !values && kind <= UNITS) {
                    wide_against_doubles(kind, &whole, 0.25);
                }
                wide_free(&whole);
            }
            free(mem);
            free(file);
        }
    }
}

/* ---- what will be looked at ---- */
static float expected[TOKENS];
static double mean_query[SLICES_MAX][DIMS]; /* with what makes logits of octaves */

/* The mean of the queries that read each slice, turned back. */
static void mean_queries(const group *g)
{
    static float q[FITTED * ROW];
    static const lq_positions at = {0, 1, NULL};
    memset(mean_query, 0, sizeof mean_query);
    for (uint32_t s = 0; s < g->count; s++) {
        uint32_t layer = g->slices[s].layer;
        if (g->slices[s].stream == LQ_V) continue;
        memcpy(q, q_data[layer], sizeof q);
        const float *row = q + g->slices[s].head * DIMS;
        if (rope_of(layer)) {
            CHECK(!lq_rope_undo_f32(q + g->slices[s].head * DIMS, FITTED, DIMS, ROW,
                                    rope_of(layer), &at));
        }
        for (size_t i = 0; i < FITTED * (size_t)DIMS; i++) {
            mean_query[s][i % DIMS] += (double)row[i / DIMS * ROW + i % DIMS] / FITTED *
                                       1.4426950408889634 / sqrt((double)DIMS);
        }
    }
}

/* Softmax of a slice's keys at tokens [first, end), times their count, onto sum. */
static void expect_slice(double *sum, const group *g, uint32_t s, size_t first, size_t end,
                         uint32_t ahead)
{
    static double logit[TOKENS];
    uint32_t samples = ahead < 256 ? ahead : 256;
    float q[DIMS];
    double turned[DIMS] = {0};
    double most = -1e300;
    double total = 0;
    const lq_rope *rope = rope_of(g->slices[s].layer);
    for (uint32_t j = 0; j < samples; j++) {
        lq_positions at = {0, 1, NULL};
        at.first = (int64_t)(end + (2 * j + 1) * ahead / (2 * samples));
        for (size_t d = 0; d < DIMS; d++) {
            q[d] = (float)mean_query[s][d];
        }
        if (rope) CHECK(!lq_rope_apply_f32(q, 1, DIMS, DIMS, rope, &at));
        for (size_t d = 0; d < DIMS; d++) {
            turned[d] += (double)q[d] / samples;
        }
    }
    for (size_t t = first; t < end; t++) {
        logit[t] = 0;
        for (size_t d = 0; d < DIMS; d++) {
            logit[t] += turned[d] * (double)slice_of(g, s, t)[d];
        }
        most = logit[t] > most ? logit[t] : most;
    }
    for (size_t t = first; t < end; t++) {
        total += exp2(logit[t] - most);
    }
    for (size_t t = first; t < end; t++) {
        sum[t] += exp2(logit[t] - most) / total * (double)(end - first);
    }
}

static int expect(const profile *p, const lq_geometry *d, const lq_vectors *v, size_t tokens,
                  const lq_expect_desc *desc)
{
    static const lq_positions at = {0, 1, NULL};
    size_t bytes = lq_profile_expect_workspace_bytes(d, tokens);
    uint8_t *work = (uint8_t *)source_alloc(bytes + 1);
    int status;
    CHECK(lq_profile_expect(expected, &p->p, d, v, &at, tokens, desc, work, bytes - 1) ==
          LQ_E_SPACE);
    status = lq_profile_expect(expected, &p->p, d, v, &at, tokens, desc, work + 1, bytes);
    free(work);
    return status;
}

/* Against doubles; no matter which level, type or basis of the geometry; V is not read. */
static void test_expect(const profile *p, const group *g)
{
    static const uint32_t aheads[4] = {0, 1, 20, 3000};
    size_t tokens = quick ? 700 : TOKENS;
    const void *rows[SLICES_MAX];
    lq_geometry plain = g->geometry;
    lq_geometry dense = dense_geometry(g, p);
    mean_queries(g);
    for (uint32_t s = 0; s < g->count; s++) {
        for (size_t d = 0; d < DIMS; d++) {
            double unit = pow(2, p->p.dense->query_exponent[s]);
            double x = (double)p->p.dense->query[s * DIMS + d] * unit;
            CHECK(fabs(x - mean_query[s][d]) <= 0.6 * unit + 1e-5);
        }
    }
    for (size_t i = 0; i < 8; i++) {
        lq_expect_desc desc = {0, 0};
        size_t n = i < 4 ? tokens : 5;
        desc.ahead = aheads[i % 4];
        desc.sinks = i % 2 ? 4 : 0;
        lq_vectors v = group_vectors(g, rows, 0);
        static double sum[TOKENS];
        double mean = 0;
        memset(sum, 0, sizeof sum);
        for (uint32_t s = 0; s < g->count; s++) {
            if (g->slices[s].stream == LQ_V) {
                rows[s] = NULL;
            } else {
                expect_slice(sum, g, s, desc.sinks, n, desc.ahead ? desc.ahead : 4096);
            }
        }
        for (int level = lq_cpu_limit(PLAIN); level >= 0; level--) {
            static float first[TOKENS];
            (void)lq_cpu_limit(level);
            CHECK(expect(p, level ? &dense : &plain, &v, n, i ? &desc : NULL) == LQ_OK);
            if (level == lq_cpu_limit(-1)) memcpy(first, expected, sizeof first);
            CHECK(memcmp(first, expected, n * sizeof *first) == 0 || level != lq_cpu_limit(-1));
        }
        (void)lq_cpu_limit(PLAIN);
        for (size_t t = 0; t < n; t++) {
            double want = sum[t] / (LAYERS * HEADS);
            CHECK(fabs((double)expected[t] - want) < 0.01 * want + 1e-4);
            CHECK(t >= desc.sinks || lq_xxh32(expected + t, 4, 0) == lq_xxh32("\0\0\0", 4, 0));
            mean += (double)expected[t] / (double)(n - desc.sinks);
        }
        CHECK(fabs(mean - 1) < 0.001);
    }
}

/* Nothing else is taken; 0 tokens are no error; numbers of any size are none but NaN. */
static void test_expect_errors(const profile *p, const group *g)
{
    static const lq_positions at = {0, 1, NULL};
    static float x[64 * DIMS];
    const void *rows[SLICES_MAX];
    uint8_t *work = (uint8_t *)source_alloc(1 << 16);
    lq_vectors v = group_vectors(g, rows, 0);
    lq_vectors bad = v;
    lq_expect_desc all = {0, 1000};
    lq_geometry geometry = g->geometry;
#define EXPECT(profile, geometry, src, positions, tokens) \
    lq_profile_expect(expected, profile, geometry, src, positions, tokens, NULL, work, 1 << 16)
    CHECK(EXPECT(NULL, &geometry, &v, &at, 9) == LQ_E_ARG);
    CHECK(EXPECT(&p->p, NULL, &v, &at, 9) == LQ_E_ARG);
    CHECK(EXPECT(&p->p, &geometry, NULL, &at, 9) == LQ_E_ARG);
    CHECK(EXPECT(&p->p, &geometry, &v, NULL, 9) == LQ_E_ARG);
    bad.type = 7;
    CHECK(EXPECT(&p->p, &geometry, &bad, &at, 9) == LQ_E_ARG);
    CHECK(EXPECT(&p->p, &geometry, &v, &at, 0) == LQ_OK);
    CHECK(lq_profile_expect(expected, &p->p, &geometry, &v, &at, 9, &all, work, 1 << 16) == LQ_OK);
    CHECK(expected[0] <= 0 && expected[8] <= 0);
    geometry.slice_count--;
    CHECK(EXPECT(&p->p, &geometry, &v, &at, 9) == LQ_E_FORMAT);
    geometry = g->geometry;
    lq_profile none = p->p;
    lq_basis basis = *p->p.dense;
    none.dense = NULL;
    CHECK(EXPECT(&none, &geometry, &v, &at, 9) == LQ_E_FORMAT);
    basis.query = NULL;
    none.dense = &basis;
    CHECK(EXPECT(&none, &geometry, &v, &at, 9) == LQ_E_FORMAT);
    static const float sizes[6] = {0.0f, 1e-45f, 1e-38f, 1e30f, -3e38f, 5.0f};
    uint32_t first = g->slices[0].stream == LQ_K ? 0 : 1;
    rows[first] = x;
    for (size_t i = 0; i < 64 * DIMS; i++) {
        x[i] = sizes[i % 6];
    }
    v.token_stride = DIMS;
    CHECK(EXPECT(&p->p, &geometry, &v, &at, 64) == LQ_OK);
    for (size_t t = 0; t < 64; t++) {
        CHECK(expected[t] >= 0 && expected[t] < 1e9f);
    }
    static const uint32_t wrong[3] = {0x7f800000u, 0xff800000u, 0x7fc00001u};
    for (size_t i = 0; i < 3; i++) {
        memcpy(x + 63 * DIMS + 5 * i, &wrong[i], 4);
        CHECK(EXPECT(&p->p, &geometry, &v, &at, 64) == LQ_E_DATA);
        x[63 * DIMS + 5 * i] = 0;
    }
#undef EXPECT
    CHECK(lq_profile_expect_workspace_bytes(&geometry, SIZE_MAX / 12) == 0);
    free(work);
}

/* From a cache: of one whose tokens are raw the same to the bit, of others about that. */
static void test_cache_expect(const profile *p, const group *g)
{
    static float of_cache[TOKENS];
    static const int kinds[3] = {LQ_KV_RAW, LQ_KV_HOT, LQ_KV_WARM};
    size_t tokens = 700;
    lq_expect_desc desc = {100, 4};
    const void *rows[SLICES_MAX];
    lq_vectors v = group_vectors(g, rows, 0);
    lq_kv_pack_group part = pack_group(g, p, 0);
    CHECK(expect(p, &g->geometry, &v, tokens, &desc) == LQ_OK);
    for (int i = 0; i < 4; i++) {
        cache c;
        cache_make(&c, kinds[i % 3], i == 3 ? 128 : 0, 1024);
        size_t bytes = lq_kv_expect_workspace_bytes(&c.kv);
        void *work = source_alloc(bytes);
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, &desc, work, bytes) == LQ_OK);
        free(work);
        cache_fill(&c, tokens, i == 3 ? 64 : 300);
        bytes = lq_kv_expect_workspace_bytes(&c.kv);
        work = source_alloc(bytes);
        desc.sinks = 77; /* does not count */
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, &desc, work, bytes - 1) == LQ_E_SPACE);
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, &desc, work, bytes) == LQ_OK);
        CHECK(i > 0 || memcmp(of_cache, expected, tokens * sizeof *expected) == 0);
        double far = 0;
        for (size_t t = 4; t < tokens && i < 3; t++) {
            double off = fabs(log2((double)of_cache[t] / (double)expected[t]));
            far = off > far ? off : far;
        }
        CHECK(far < 0.3);
        lq_basis basis = *p->p.dense;
        lq_profile none = p->p;
        none.dense = &basis;
        basis.query = NULL;
        part.profile = &none;
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, NULL, work, bytes) == LQ_E_FORMAT);
        part.profile = &p->p;
        part.slice_count--;
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, NULL, work, bytes) == LQ_E_ARG);
        part.slice_count++;
        CHECK(lq_kv_expect(NULL, of_cache, &part, NULL, work, bytes) == LQ_E_ARG);
        CHECK(lq_kv_expect(&c.kv, of_cache, NULL, NULL, work, bytes) == LQ_E_ARG);
        lq_kv_view k = {NULL, 0, 0, LQ_F32};
        k.data = k_data[0];
        CHECK(lq_kv_append(&c.kv, 0, &k, &k, NULL, 1) == LQ_OK);
        CHECK(lq_kv_expect(&c.kv, of_cache, &part, NULL, work, bytes) == LQ_E_RANGE);
        free(work);
        cache_free(&c);
    }
    CHECK(lq_kv_expect_workspace_bytes(NULL) == 0);
}

static void test_mix(void)
{
    float a[64];
    float b[64];
    float out[64];
    static const float shares[4] = {0, 0.25f, 0.5f, 1};
    static const float wrong[4] = {-1.0f, 1.1f, NAN, INFINITY};
    for (size_t i = 0; i < 64; i++) {
        a[i] = (float)exp2((double)(i % 8) * 10.0 - 39.9);
        b[i] = (float)exp2((double)(i / 8) * 12.0 - 39.9);
    }
    for (size_t s = 0; s < 4; s++) {
        double share = (double)shares[s];
        CHECK(lq_weights_mix(out, a, b, shares[s], 64) == LQ_OK);
        for (size_t i = 0; i < 64; i++) {
            double want = (1 - share) * log2((double)a[i]) + share * log2((double)b[i]);
            CHECK(fabs(log2((double)out[i]) - want) < 1e-4);
        }
        CHECK(lq_weights_mix(out, a, b, wrong[s], 64) == LQ_E_ARG);
        float kept = b[9];
        b[9] = s == 1 ? -1e-30f : wrong[s];
        CHECK(lq_weights_mix(out, a, b, 0.5f, 64) == LQ_E_DATA);
        b[9] = kept;
    }
    a[0] = -0.0f;
    b[0] = 0;
    a[1] = b[1] = 3e38f;
    CHECK(lq_weights_mix(a, a, b, 0.5f, 64) == LQ_OK);
    CHECK(a[0] > 0 && a[0] < 1e-12f && a[1] > 2.9e38f && a[1] < 3.1e38f);
    CHECK(lq_weights_mix(NULL, a, b, 0.5f, 64) == LQ_E_ARG);
    CHECK(lq_weights_mix(out, NULL, b, 0.5f, 64) == LQ_E_ARG);
    CHECK(lq_weights_mix(out, a, NULL, 0.5f, 64) == LQ_E_ARG);
}

int main(int argc, char **argv)
{
    void *mem = source_alloc(lq_tables_bytes());
    lq_klt_desc desc = klt_desc(0.1f);
    quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    CHECK(lq_tables_init(&tables, mem, lq_tables_bytes()) == LQ_OK);
    model_make();
    group g;
    group_make(&g, BY_LAYER);
    desc.model = 77;
    profile p;
    profile_make(&p, &g, 0, FITTED, 1, &desc);
    CHECK(p.status == LQ_OK);
    test_orders();
    test_roles_of_one_rope();
    test_only_dense();
    test_archives();
    test_archive_other();
    test_weights(&p, &g);
    test_weight_errors(&p, &g);
    test_cache_kinds(&p, &g);
    test_cache_groups();
    test_cache_slides();
    test_cache_export(&p, &g);
    test_cache_weights(&p, &g);
    test_cache_errors(&p, &g);
    test_cache_damage(&p, &g);
    test_expect(&p, &g);
    test_expect_errors(&p, &g);
    test_cache_expect(&p, &g);
    test_mix();
    test_few_tokens();
    test_wide();
    profile_free(&p);
    free(mem);
    return check_report("test_joint");
}
