/* cc -O3 bench/attend.c -o attend -lm && ./attend
   Attention of one query token over a live cache: 8 kv heads of 128 dims, 4 query heads each, 4096
   and 32768 tokens, one layer, one core. Beside it the memory floor, a streaming read of as many
   bytes as the cache's tokens take, and ggml's flash attention on one thread, where a build of it
   is at hand:
     cc -O3 -DWITH_GGML -isystem GGML/include bench/attend.c -o attend GGML/build/src/libggml-cpu.a
        GGML/build/src/libggml-base.a -lstdc++ -lm -lpthread
   Candidates take turns, one call a turn, so that each finds its bytes in memory, as a layer does
   in a model, and not in a cache that its last call filled. Thread CPU clock, median of 15 turns.
   All buffers lie in huge pages where the system has them (without: `./attend small`). ggml's keys
   and values lie head by head, which suits it better than the token by token of llama.cpp. Errors
   are those of the output, against exact attention on the f16 vectors that both sides were given:
   Gaussian ones, keys around a mean. An argument of 0 or 1 caps our CPU level. */
#if defined(__unix__) || defined(__APPLE__)
#define AB_POSIX
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1 /* madvise */
#endif
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include <sys/mman.h>
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(WITH_GGML)
#include <ggml-cpu.h>
#include <ggml.h>
#endif

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    AB_KV_HEADS = 8,
    AB_HEADS = 32,
    AB_DIMS = 128,
    AB_ROW = AB_KV_HEADS * AB_DIMS,
    AB_OUT = AB_HEADS * AB_DIMS,
    AB_TURNS = 15,
    AB_RUNS = 16
};

/* A candidate: ours or ggml's. */
typedef struct ab_run {
    const char *name;
    double seconds[AB_TURNS];
    double floor[AB_TURNS]; /* reading `bytes` once */
    size_t bytes;           /* that its tokens take */
    double bits;            /* a number */
    double error;
    uint32_t sum;
    int peer; /* ggml_type, or -1: ours */
    lq_kv kv;
    void *block;
    size_t block_bytes;
#if defined(WITH_GGML)
    struct ggml_context *context;
    struct ggml_cgraph *graph;
    struct ggml_cplan plan;
    struct ggml_tensor *result;
    void *k;
    void *v;
    size_t side_bytes;
#endif
} ab_run;

/* Our kinds of cache; keys and values alike. */
static const struct {
    const char *name;
    lq_kv_policy policy;
} ab_kinds[] = {
    {"raw f16", {LQ_KV_RAW, 0, 0, 0}},
    {"hot Z, 8 bits", {LQ_KV_HOT, LQ_Z, 8, 0}},
    {"hot Z, 6 bits", {LQ_KV_HOT, LQ_Z, 6, 0}},
    {"hot Z, 5 bits", {LQ_KV_HOT, LQ_Z, 5, 0}},
    {"hot Z, 4 bits", {LQ_KV_HOT, LQ_Z, 4, 0}},
    {"hot Z, 3 bits", {LQ_KV_HOT, LQ_Z, 3, 0}},
    {"hot Z, 2 bits", {LQ_KV_HOT, LQ_Z, 2, 0}},
    {"hot E8, 4 bits", {LQ_KV_HOT, LQ_E8, 4, 0}},
    {"warm Z, step .52", {LQ_KV_WARM, LQ_Z, 4, 0.52f}},
};

static ab_run ab_runs[AB_RUNS];
static int ab_count;
static int ab_small; /* pages */
static size_t ab_tokens;
static uint16_t *ab_k; /* (AB_KV_HEADS, ab_tokens, AB_DIMS) f16 */
static uint16_t *ab_v;
static const lq_tables *ab_tables;
static float ab_q[AB_OUT];
static float ab_out[AB_OUT];
static double ab_exact[AB_OUT];

/* What the floor reads: a part after the other, so that none is in a cache. */
static uint8_t *ab_sea;
static size_t ab_sea_at;
static uint64_t ab_sink;
enum { AB_SEA = 256 << 20 };

static void ab_must(int ok, const char *what)
{
    if (!ok) {
        (void)fprintf(stderr, "attend: %s\n", what);
        exit(1);
    }
}

static double ab_now(void)
{
#ifdef AB_POSIX
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#endif
    return (double)clock() / CLOCKS_PER_SEC;
}

static uint64_t ab_seed = 20240607;

/* Sum of 4 uniforms, variance 1: near enough to a Gaussian. */
static float ab_random(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        ab_seed = ab_seed * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(ab_seed >> 40) / 16777216.0f;
    }
    return (sum - 2.0f) * 1.7320508f;
}

/* ---- memory: huge pages for both sides ---- */
static void *ab_alloc(size_t bytes)
{
    void *p = NULL;
#ifdef AB_POSIX
    bytes = (bytes + ((size_t)2 << 20) - 1) & ~(((size_t)2 << 20) - 1);
    p = mmap(NULL, bytes + ((size_t)2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0);
    ab_must(p != MAP_FAILED, "out of memory");
    p = (uint8_t *)p + ((0 - (uintptr_t)p) & (((uintptr_t)2 << 20) - 1)); /* to 2 MiB */
#ifdef MADV_HUGEPAGE
    (void)madvise(p, bytes, ab_small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
#endif
#else
    p = malloc(bytes);
    ab_must(p != NULL, "out of memory");
#endif
    memset(p, 0, bytes);
    return p;
}

static void ab_free(void *p, size_t bytes)
{
#ifdef AB_POSIX
    (void)munmap(p, (bytes + ((size_t)2 << 20) - 1) & ~(((size_t)2 << 20) - 1));
#else
    (void)bytes;
    free(p);
#endif
}

/* ---- the floor: all loads that a core can have on the way at a time ---- */
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t ab_read_avx512(const uint8_t *p, size_t bytes)
{
    __m512i a = _mm512_setzero_si512();
    __m512i b = a;
    __m512i c = a;
    __m512i d = a;
    for (size_t i = 0; i < bytes; i += 256) {
        a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    uint64_t sum[8];
    _mm512_storeu_si512(sum, a);
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

__attribute__((target("avx2"))) static uint64_t ab_read_avx2(const uint8_t *p, size_t bytes)
{
    __m256i sum[4];
    for (int j = 0; j < 4; j++) {
        sum[j] = _mm256_setzero_si256();
    }
    for (size_t i = 0; i < bytes; i += 128) {
        const __m256i *at = (const __m256i *)(const void *)(p + i);
        for (int j = 0; j < 4; j++) {
            sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(at + j));
        }
    }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    uint64_t words[4];
    memcpy(words, &sum[0], sizeof words);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}
#endif

static uint64_t ab_read_c(const uint8_t *p, size_t bytes)
{
    uint64_t sum[4] = {0, 0, 0, 0};
    for (size_t i = 0; i < bytes; i += 32) {
        uint64_t x[4];
        memcpy(x, p + i, sizeof x);
        for (int j = 0; j < 4; j++) {
            sum[j] ^= x[j];
        }
    }
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

/* Seconds of reading so many bytes once. */
static double ab_floor(size_t bytes)
{
    double start;
    const uint8_t *p;
    bytes = (bytes + 255) & ~(size_t)255;
    if (ab_sea_at + bytes > AB_SEA) ab_sea_at = 0;
    p = ab_sea + ab_sea_at;
    ab_sea_at += bytes;
    start = ab_now();
#if defined(__GNUC__) && defined(__x86_64__)
    if (lq_cpu_level() == 2) {
        ab_sink += ab_read_avx512(p, bytes);
        return ab_now() - start;
    }
    if (lq_cpu_level() == 1) {
        ab_sink += ab_read_avx2(p, bytes);
        return ab_now() - start;
    }
#endif
    ab_sink += ab_read_c(p, bytes);
    return ab_now() - start;
}

/* ---- the source and the truth ---- */
static void ab_fill(size_t tokens)
{
    size_t count = tokens * AB_ROW;
    static float mean[AB_ROW];
    ab_tokens = tokens;
    ab_k = (uint16_t *)ab_alloc(count * 2);
    ab_v = (uint16_t *)ab_alloc(count * 2);
    for (size_t i = 0; i < AB_ROW; i++) {
        mean[i] = ab_random() * (i % 16 == 0 ? 4.0f : 0.5f);
    }
    for (size_t i = 0; i < count; i++) {
        size_t head = i / (tokens * AB_DIMS);
        ab_k[i] = lq_f16_from_f32(ab_random() + mean[head * AB_DIMS + i % AB_DIMS]);
        ab_v[i] = lq_f16_from_f32(ab_random());
    }
    for (size_t i = 0; i < AB_OUT; i++) {
        ab_q[i] = ab_random(); /* logits of variance 1 */
    }
}

static void ab_solve_head(size_t head)
{
    const uint16_t *k = ab_k + head / (AB_HEADS / AB_KV_HEADS) * ab_tokens * AB_DIMS;
    const uint16_t *v = ab_v + (k - ab_k);
    const float *q = ab_q + head * AB_DIMS;
    double *out = ab_exact + head * AB_DIMS;
    double *p = (double *)malloc(ab_tokens * sizeof *p);
    double most = -1e300;
    double sum = 0;
    ab_must(p != NULL, "out of memory");
    for (size_t t = 0; t < ab_tokens; t++) {
        p[t] = 0;
        for (size_t i = 0; i < AB_DIMS; i++) {
            p[t] += (double)q[i] * (double)lq_f32_from_f16(k[t * AB_DIMS + i]);
        }
        p[t] /= sqrt((double)AB_DIMS);
        most = p[t] > most ? p[t] : most;
    }
    memset(out, 0, AB_DIMS * sizeof *out);
    for (size_t t = 0; t < ab_tokens; t++) {
        p[t] = exp(p[t] - most);
        sum += p[t];
        for (size_t i = 0; i < AB_DIMS; i++) {
            out[i] += p[t] * (double)lq_f32_from_f16(v[t * AB_DIMS + i]);
        }
    }
    for (size_t i = 0; i < AB_DIMS; i++) {
        out[i] /= sum;
    }
    free(p);
}

static double ab_error(void)
{
    double error = 0;
    double power = 0;
    for (size_t i = 0; i < AB_OUT; i++) {
        double e = (double)ab_out[i] - ab_exact[i];
        error += e * e;
        power += ab_exact[i] * ab_exact[i];
    }
    return sqrt(error / power);
}

/* ---- ours ---- */
static void ab_start(ab_run *r, const char *name, lq_kv_policy policy)
{
    lq_kv_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tables = ab_tables;
    desc.layers = 1;
    desc.kv_heads = AB_KV_HEADS;
    desc.k_dims = AB_DIMS;
    desc.tokens = ab_tokens;
    desc.k = policy;
    desc.v = policy;
    r->name = name;
    r->peer = -1;
    r->block_bytes = lq_kv_bytes(&desc);
    r->block = ab_alloc(r->block_bytes);
    ab_must(lq_kv_init(&r->kv, r->block, r->block_bytes, &desc) == LQ_OK, "lq_kv_init");
    size_t n;
    for (size_t t = 0; t < ab_tokens; t += n) {
        n = ab_tokens - t < 512 ? ab_tokens - t : 512;
        lq_kv_view k;
        k.data = ab_k + t * AB_DIMS;
        k.token_stride = AB_DIMS;
        k.head_stride = ab_tokens * AB_DIMS;
        k.type = LQ_F16;
        lq_kv_view v = k;
        v.data = ab_v + t * AB_DIMS;
        ab_must(lq_kv_append(&r->kv, 0, &k, &v, NULL, n) == LQ_OK, "lq_kv_append");
    }
    lq_kv_account account;
    ab_must(lq_kv_stats(&r->kv, &account) == LQ_OK, "lq_kv_stats");
    r->bytes = account.used_bytes;
    r->bits = (double)account.bits;
}

static void ab_attend(ab_run *r)
{
    lq_kv_attend_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.heads = AB_HEADS;
    desc.q.data = ab_q;
    desc.out.data = ab_out;
    ab_must(lq_kv_attend(&r->kv, &desc) == LQ_OK, "lq_kv_attend");
}

/* ---- ggml's ---- */
#if defined(WITH_GGML)
/* The f16 vectors as another type, head by head. */
static void *ab_convert(const uint16_t *src, enum ggml_type type, size_t bytes)
{
    size_t count = ab_tokens * AB_DIMS;
    uint8_t *dst = (uint8_t *)ab_alloc(bytes);
    float *head = (float *)malloc(count * sizeof *head);
    ab_must(head != NULL, "out of memory");
    for (size_t h = 0; h < AB_KV_HEADS; h++) {
        uint8_t *to = dst + h * (bytes / AB_KV_HEADS);
        if (type == GGML_TYPE_F16) {
            memcpy(to, src + h * count, count * 2);
            continue;
        }
        ab_must(lq_f32_from_type(head, src + h * count, count, LQ_F16) == LQ_OK, "f16");
        (void)ggml_quantize_chunk(type, head, to, 0, (int64_t)ab_tokens, AB_DIMS, NULL);
    }
    free(head);
    return dst;
}

static void ab_start_peer(ab_run *r, const char *name, enum ggml_type type)
{
    struct ggml_init_params params;
    memset(&params, 0, sizeof params);
    params.mem_size = (size_t)4 << 20;
    params.no_alloc = true;
    r->name = name;
    r->peer = (int)type;
    r->context = ggml_init(params);
    ab_must(r->context != NULL, "ggml_init");
    struct ggml_tensor *q = ggml_new_tensor_3d(r->context, GGML_TYPE_F32, AB_DIMS, 1, AB_HEADS);
    struct ggml_tensor *k =
        ggml_new_tensor_3d(r->context, type, AB_DIMS, (int64_t)ab_tokens, AB_KV_HEADS);
    struct ggml_tensor *v =
        ggml_new_tensor_3d(r->context, type, AB_DIMS, (int64_t)ab_tokens, AB_KV_HEADS);
    r->side_bytes = ggml_nbytes(k);
    r->bytes = 2 * r->side_bytes;
    r->bits = 4.0 * (double)r->bytes / (double)(ab_tokens * AB_ROW);
    r->k = ab_convert(ab_k, type, r->side_bytes);
    r->v = ab_convert(ab_v, type, r->side_bytes);
    q->data = ab_q;
    k->data = r->k;
    v->data = r->v;
    r->result = ggml_flash_attn_ext(r->context, q, k, v, NULL, 1.0f / sqrtf((float)AB_DIMS), 0, 0);
    r->result->data = ab_out;
    r->graph = ggml_new_graph(r->context);
    ggml_build_forward_expand(r->graph, r->result);
    r->plan = ggml_graph_plan(r->graph, 1, NULL);
    r->plan.work_data = (uint8_t *)malloc(r->plan.work_size ? r->plan.work_size : 1);
    ab_must(r->plan.work_data != NULL, "out of memory");
}

static void ab_attend_peer(ab_run *r)
{
    ab_must(ggml_graph_compute(r->graph, &r->plan) == GGML_STATUS_SUCCESS, "ggml_graph_compute");
}
#endif

/* ---- turns and the table ---- */
static void ab_turn(ab_run *r, int turn)
{
    double start;
    memset(ab_out, 0, sizeof ab_out);
    start = ab_now();
#if defined(WITH_GGML)
    if (r->peer >= 0) {
        ab_attend_peer(r);
    } else
#endif
    {
        ab_attend(r);
    }
    r->seconds[turn] = ab_now() - start;
    r->error = ab_error();
    r->sum = lq_xxh32(ab_out, sizeof ab_out, 0);
    r->floor[turn] = ab_floor(r->bytes);
}

static int ab_compare(const void *a, const void *b)
{
    double x;
    memcpy(&x, a, sizeof x);
    double y;
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static double ab_median(double *x)
{
    qsort(x, AB_TURNS, sizeof *x, ab_compare);
    return x[AB_TURNS / 2];
}

/* The median time of ggml with this type; 0: it is not there. */
static double ab_peer(int type)
{
    for (int i = 0; i < ab_count; i++) {
        if (ab_runs[i].peer >= 0 && ab_runs[i].peer == type) {
            return ab_runs[i].seconds[AB_TURNS / 2];
        }
    }
    return 0;
}

static void ab_print(void)
{
    double f16 = 0;
    double q4_0 = 0;
    for (int i = 0; i < ab_count; i++) {
        (void)ab_median(ab_runs[i].seconds);
        (void)ab_median(ab_runs[i].floor);
    }
#if defined(WITH_GGML)
    f16 = ab_peer((int)GGML_TYPE_F16);
    q4_0 = ab_peer((int)GGML_TYPE_Q4_0);
#else
    (void)ab_peer(-1);
#endif
    printf("%lu tokens\n%-16s %6s %8s %9s %7s %7s %9s %9s %8s\n", (unsigned long)ab_tokens, "",
           "bits", "MB", "ms", "GB/s", "x floor", "ggml f16", "ggml q4_0", "error %");
    for (int i = 0; i < ab_count; i++) {
        const ab_run *r = &ab_runs[i];
        double s = r->seconds[AB_TURNS / 2];
        printf("%-16s %6.2f %8.2f %9.3f %7.1f %7.2f %8.2fx %8.2fx %8.3f  %08lx\n", r->name, r->bits,
               1e-6 * (double)r->bytes, 1e3 * s, 1e-9 * (double)r->bytes / s,
               s / r->floor[AB_TURNS / 2], f16 / s, q4_0 / s, 100 * r->error,
               (unsigned long)r->sum);
    }
    printf("%-16s %6s %8.2f %9.3f %7.1f\n", "floor of 4 bits", "", 1e-6 * (double)ab_runs[4].bytes,
           1e3 * ab_runs[4].floor[AB_TURNS / 2],
           1e-9 * (double)ab_runs[4].bytes / ab_runs[4].floor[AB_TURNS / 2]);
}

static void ab_end(ab_run *r)
{
    if (r->peer < 0) {
        lq_kv_free(&r->kv);
        ab_free(r->block, r->block_bytes);
        return;
    }
#if defined(WITH_GGML)
    free(r->plan.work_data);
    ggml_free(r->context);
    ab_free(r->k, r->side_bytes);
    ab_free(r->v, r->side_bytes);
#endif
}

static void ab_measure(size_t tokens)
{
    memset(ab_runs, 0, sizeof ab_runs);
    ab_count = 0;
    ab_fill(tokens);
    for (size_t i = 0; i < AB_HEADS; i++) {
        ab_solve_head(i);
    }
    for (size_t i = 0; i < sizeof ab_kinds / sizeof *ab_kinds; i++) {
        ab_start(&ab_runs[ab_count++], ab_kinds[i].name, ab_kinds[i].policy);
    }
#if defined(WITH_GGML)
    ab_start_peer(&ab_runs[ab_count++], "ggml f16", GGML_TYPE_F16);
    ab_start_peer(&ab_runs[ab_count++], "ggml q8_0", GGML_TYPE_Q8_0);
    ab_start_peer(&ab_runs[ab_count++], "ggml q4_0", GGML_TYPE_Q4_0);
#endif
    for (int turn = 0; turn < AB_TURNS; turn++) {
        for (int j = 0; j < ab_count; j++) {
            ab_turn(&ab_runs[j], turn);
        }
    }
    ab_print();
    for (int j = 0; j < ab_count; j++) {
        ab_end(&ab_runs[j]);
    }
    ab_free(ab_k, tokens * AB_ROW * 2);
    ab_free(ab_v, tokens * AB_ROW * 2);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "small") == 0) {
            ab_small = 1;
        } else {
            (void)lq_cpu_limit(atoi(argv[i]));
        }
    }
    ab_sea = (uint8_t *)ab_alloc(AB_SEA);
    ab_must(lq_tables_init(&ab_tables, ab_alloc(lq_tables_bytes()), lq_tables_bytes()) == LQ_OK,
            "lq_tables_init");
    printf("one core, CPU level %d, compiler %s%s, %s pages, median of %d turns; ggml %s\n",
           lq_cpu_level(),
#if defined(__clang__)
           "clang ", __clang_version__,
#elif defined(__GNUC__)
           "gcc ", __VERSION__,
#else
           "", "unknown",
#endif
           ab_small ? "small" : "huge", AB_TURNS,
#if defined(WITH_GGML)
           ggml_version()
#else
           "left out"
#endif
    );
    ab_measure(4096);
    ab_measure(32768);
    ab_free(ab_sea, AB_SEA);
    return ab_sink == 1; /* the floor's sums are used */
}
