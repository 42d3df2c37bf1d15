/* cc -O3 bench/dense.c -o dense -lm && ./dense
   Speed of pages in a dense basis: vectors of correlated Gaussians, a basis calibrated on them,
   then encoded and decoded on one core. Gigabytes a second are of f16 vectors, so two bytes a
   number whatever the pages hold. Groups as in SmolLM2 (heads of 64: one, three of a layer, 5 and
   10 layers) and a layer of 8 heads of 128; K with RoPE, V with gains; about 1 and 2 bits a number.
   KV: keys and values of a layer of 3 x 64, of 10 such layers and of a layer of 8 x 128 in one basis,
   a gain a layer, at about 0.55 bits and 1.5.
   Thread CPU clock, median of 11, all groups in turn. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum { DB_TOKENS = 1024, DB_PAGES = DB_TOKENS / 64, DB_TURNS = 11, DB_APART = 20 };
enum { DB_GROUPS = DB_APART + 6, DB_FIT = 2048, DB_SLICES = 60 };

typedef struct db_group {
    uint32_t stream;
    uint32_t heads;
    uint32_t head_dim;
    float step;
    size_t dims;
    uint32_t slice_dims[DB_SLICES];
    lq_role roles[DB_SLICES];
    const void *from[DB_SLICES];
    void *to[DB_SLICES];
    uint16_t *vectors;
    uint16_t *back;
    lq_geometry geometry;
    lq_profile profile;
    lq_codec *codec;
    void *profile_mem;
    void *codec_mem;
    uint8_t *pages;
    size_t page_bytes[DB_PAGES];
    const uint8_t *page[DB_PAGES];
    void *workspace;
    size_t workspace_bytes;
    size_t written;
    double encode[DB_TURNS];
    double decode[DB_TURNS];
    double error;
    uint32_t sum;
} db_group;

static const lq_tables *db_tables;
static lq_rope db_rope[2];
static float db_freqs[2][64];

static void db_must(int status, const char *what)
{
    if (status) {
        fprintf(stderr, "%s: %s\n", what, lq_status_string(status));
        exit(1);
    }
}

static void *db_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static double db_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Sum of 4 uniforms, variance 1: near enough to a Gaussian for speed. */
static float db_random(void)
{
    static uint64_t seed = 1;
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(seed >> 40) / 16777216.0f;
    }
    return (sum - 2.0f) * 1.7320508f;
}

/* Tokens that the basis is fitted to; the first DB_TOKENS are coded. */
static size_t db_fit_tokens(const db_group *g)
{
    return g->stream == LQ_KV ? DB_FIT : DB_TOKENS;
}

/* Vectors x = mean + mix z: z has fewer dims than x, of falling variance, as real keys have. */
static void db_vectors(db_group *g)
{
    size_t dims = g->dims;
    size_t rank = dims / 2;
    float *mix = (float *)db_alloc(dims * rank * sizeof *mix);
    float *x = (float *)db_alloc(dims * DB_FIT * sizeof *x);
    float *z = (float *)db_alloc(rank * sizeof *z);
    lq_positions positions = {0, 1, NULL};
    for (size_t i = 0; i < dims; i++) {
        for (size_t j = 0; j < rank; j++) {
            mix[i * rank + j] =
                db_random() * powf(0.04f, (float)j / (float)rank) / sqrtf(0.15f * (float)rank);
        }
    }
    for (size_t t = 0; t < db_fit_tokens(g); t++) {
        for (size_t j = 0; j < rank; j++) {
            z[j] = db_random();
        }
        for (size_t i = 0; i < dims; i++) {
            float sum = 0.1f * db_random() + (float)(i % 5) * 0.2f;
            for (size_t j = 0; j < rank; j++) {
                sum += mix[i * rank + j] * z[j];
            }
            x[t * dims + i] = sum;
        }
    }
    for (size_t i = 0; i < g->heads; i++) {
        const lq_rope *rope = g->geometry.roles ? g->roles[i].rope : g->geometry.rope;
        if (rope) {
            db_must(lq_rope_apply_f32(x + i * g->head_dim, db_fit_tokens(g), g->head_dim, dims,
                                      rope, &positions),
                    "lq_rope_apply_f32");
        }
    }
    db_must(lq_type_from_f32(g->vectors, x, dims * db_fit_tokens(g), LQ_F16),
            "lq_type_from_f32");
    free(mix);
    free(x);
    free(z);
}

/* Calibrates a profile on the vectors and loads it. */
static void db_calibrate(db_group *g, const lq_vectors *src)
{
    lq_positions positions = {0, 1, NULL};
    size_t klt_bytes = lq_klt_bytes(&g->geometry);
    size_t add_bytes = lq_klt_workspace_bytes(&g->geometry);
    void *klt_mem = db_alloc(klt_bytes);
    void *add_mem = db_alloc(add_bytes);
    lq_klt klt;
    db_must(lq_klt_init(&klt, klt_mem, klt_bytes, &g->geometry), "lq_klt_init");
    db_must(lq_klt_add(&klt, src, &positions, db_fit_tokens(g), add_mem, add_bytes),
            "lq_klt_add");
    size_t bound = lq_klt_profile_bound(&klt);
    size_t bytes = lq_klt_profile_workspace_bytes(&klt);
    uint8_t *file = (uint8_t *)db_alloc(bound);
    void *mem = db_alloc(bytes);
    lq_klt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.step = g->step;
    desc.ratio = 1.4f;
    desc.own = g->stream == LQ_KV;
    db_must(lq_klt_profile(&klt, file, bound, &bound, &desc, NULL, mem, bytes), "lq_klt_profile");
    size_t needed;
    if (lq_profile_load(&g->profile, NULL, 0, &needed, file, bound) != LQ_E_SPACE) {
        db_must(LQ_E_INTERNAL, "lq_profile_load");
    }
    g->profile_mem = db_alloc(needed);
    db_must(lq_profile_load(&g->profile, g->profile_mem, needed, &needed, file, bound),
            "lq_profile_load");
    free(klt_mem);
    free(add_mem);
    free(file);
    free(mem);
}

static void db_start(db_group *g, uint32_t stream, uint32_t heads, uint32_t head_dim, float step)
{
    uint32_t of_layer = head_dim == 128 ? 8 : 3;
    memset(g, 0, sizeof *g);
    g->stream = stream;
    g->heads = heads;
    g->head_dim = head_dim;
    g->step = step;
    g->dims = (size_t)heads * head_dim;
    g->vectors = (uint16_t *)db_alloc(g->dims * DB_FIT * 2);
    g->back = (uint16_t *)db_alloc(g->dims * DB_TOKENS * 2);
    for (uint32_t i = 0; i < heads; i++) {
        g->slice_dims[i] = head_dim;
        g->from[i] = g->vectors + (size_t)i * head_dim;
        g->to[i] = g->back + (size_t)i * head_dim;
        g->roles[i].stream = i / of_layer % 2 ? LQ_V : LQ_K;
        g->roles[i].gain = i / of_layer % 2 ? i / of_layer / 2 : 0;
        g->roles[i].rope = i / of_layer % 2 ? NULL : &db_rope[head_dim == 128];
    }
    g->geometry.stream = stream;
    g->geometry.slice_count = heads;
    g->geometry.slice_dims = g->slice_dims;
    g->geometry.rope = stream == LQ_K ? &db_rope[head_dim == 128] : NULL;
    g->geometry.roles = stream == LQ_KV ? g->roles : NULL;
    db_vectors(g);
    lq_vectors src;
    src.slices = g->from;
    src.token_stride = g->dims;
    src.type = LQ_F16;
    db_calibrate(g, &src);
    lq_codec_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tables = db_tables;
    desc.profile = &g->profile;
    desc.geometry = g->geometry;
    desc.step = step;
    g->codec_mem = db_alloc(lq_codec_bytes(&desc));
    db_must(lq_codec_init(&g->codec, g->codec_mem, lq_codec_bytes(&desc), &desc), "lq_codec_init");
    g->workspace_bytes = lq_codec_workspace_bytes(g->codec);
    g->workspace = db_alloc(g->workspace_bytes);
    g->pages = (uint8_t *)db_alloc(DB_PAGES * lq_codec_page_bound(g->codec));
}

static void db_turn(db_group *g, int turn)
{
    lq_positions positions = {0, 1, NULL};
    lq_vectors src;
    size_t at = 0;
    src.slices = g->from;
    src.token_stride = g->dims;
    src.type = LQ_F16;
    lq_vectors_out dst;
    dst.slices = g->to;
    dst.token_stride = g->dims;
    dst.type = LQ_F16;
    double start = db_now();
    db_must(lq_codec_encode(g->codec, g->pages, DB_PAGES * lq_codec_page_bound(g->codec),
                            &g->written, g->page_bytes, &src, &positions, DB_TOKENS, g->workspace,
                            g->workspace_bytes),
            "lq_codec_encode");
    g->encode[turn] = db_now() - start;
    for (size_t i = 0; i < DB_PAGES; i++) {
        g->page[i] = g->pages + at;
        at += g->page_bytes[i];
    }
    start = db_now();
    db_must(lq_codec_decode(g->codec, &dst, &positions, DB_TOKENS, g->page, g->page_bytes,
                            g->workspace, g->workspace_bytes),
            "lq_codec_decode");
    g->decode[turn] = db_now() - start;
}

static int db_compare(const void *a, const void *b)
{
    double x;
    memcpy(&x, a, sizeof x);
    double y;
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void db_print(db_group *g)
{
    size_t count = g->dims * DB_TOKENS;
    double error = 0;
    double power = 0;
    qsort(g->encode, DB_TURNS, sizeof *g->encode, db_compare);
    qsort(g->decode, DB_TURNS, sizeof *g->decode, db_compare);
    for (size_t i = 0; i < count; i++) {
        double x = (double)lq_f32_from_f16(g->vectors[i]);
        double e = (double)lq_f32_from_f16(g->back[i]) - x;
        error += e * e;
        power += x * x;
    }
    printf("%s %2u x %3u  %6.2f bits  %7.1f %% error  %6.2f GB/s in  %6.2f GB/s out  %08x\n",
           g->stream == LQ_KV  ? "KV"
           : g->stream == LQ_K ? " K"
                               : " V", (unsigned)g->heads, (unsigned)g->head_dim,
           8.0 * (double)g->written / (double)count, 100 * sqrt(error / power),
           2e-9 * (double)count / g->encode[DB_TURNS / 2],
           2e-9 * (double)count / g->decode[DB_TURNS / 2],
           (unsigned)lq_xxh32(g->pages, g->written, 0));
}

int main(void)
{
    static const uint32_t shape[5][2] = {{1, 64}, {3, 64}, {15, 64}, {30, 64}, {8, 128}};
    static const uint32_t joint[3][2] = {{6, 64}, {60, 64}, {16, 128}};
    static const float steps[2][2] = {{0.5f, 0.22f}, {0.5f, 0.22f}}; /* K, V: coarse, fine */
    db_group *groups = (db_group *)db_alloc(DB_GROUPS * sizeof *groups);
    void *tables_mem = db_alloc(lq_tables_bytes());
    db_must(lq_tables_init(&db_tables, tables_mem, lq_tables_bytes()), "lq_tables_init");
    for (int i = 0; i < 2; i++) {
        int half = i ? 64 : 32;
        for (int j = 0; j < half; j++) {
            db_freqs[i][j] = powf(10000.0f, -(float)j / (float)half);
        }
        db_rope[i].freqs = db_freqs[i];
        db_rope[i].rotary_dims = (uint32_t)half * 2;
    }
    for (int i = 0; i < DB_GROUPS - DB_APART; i++) {
        const uint32_t *s = joint[i / 2];
        db_start(&groups[DB_APART + i], LQ_KV, s[0], s[1], i % 2 ? 0.32f : 1.1f);
    }
    for (int i = 0; i < DB_APART; i++) {
        const uint32_t *s = shape[i / 4];
        db_start(&groups[i], i % 4 < 2 ? LQ_K : LQ_V, s[0], s[1], steps[i % 4 >= 2][i % 2]);
    }
    for (int turn = 0; turn < DB_TURNS; turn++) {
        for (int i = 0; i < DB_GROUPS; i++) {
            db_turn(&groups[i], turn);
        }
    }
    printf("one core, CPU level %d, %d tokens\n", lq_cpu_level(), DB_TOKENS);
    for (int i = 0; i < DB_GROUPS; i++) {
        db_print(&groups[i]);
        free(groups[i].vectors);
        free(groups[i].back);
        free(groups[i].profile_mem);
        free(groups[i].codec_mem);
        free(groups[i].pages);
        free(groups[i].workspace);
    }
    free(groups);
    free(tables_mem);
    return 0;
}
