/* cc -O2 bench/append.c -o append && ./append
   What a token costs a live cache: lq_kv_append, keys and values, one token at a time, all layers a
   step. Each token that enters pushes another one out of the window, which is quantized, eight at a
   time: that is in the figures, and so is every check. Data are unit Gaussians about a mean, in
   1024 different tokens. Nanoseconds a token and layer on one core, thread CPU clock, median of 11,
   all cases in turn. The checksum is of the first layer read back; 32 layers of the same tokens
   must give the same. */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum {
    AB_TURNS = 11,
    AB_LEAD = 128, /* tokens that fill the window first */
    AB_TOKENS = 2048,
    AB_SOURCE = 1024,
    AB_DIMS = 1024, /* of a token: 8 heads of 128 */
    AB_KINDS = 8,
    AB_CASES = 2 * 2 * AB_KINDS * 2
};

typedef struct ab_case {
    uint32_t layers;
    uint32_t heads;
    uint32_t dims;
    int kind; /* of ab_kinds */
    int type;
    size_t sealed; /* tokens, while the clock ran */
    uint32_t sum;
    double ns[AB_TURNS];
} ab_case;

static const char *const ab_names[AB_KINDS] = {"Z4", "E8", "Z8", "Z6", "Z5", "Z3", "Z2", "raw"};
static const lq_kv_policy ab_policies[AB_KINDS] = {
    {LQ_KV_HOT, LQ_Z, 4, 0}, {LQ_KV_HOT, LQ_E8, 4, 0}, {LQ_KV_HOT, LQ_Z, 8, 0},
    {LQ_KV_HOT, LQ_Z, 6, 0}, {LQ_KV_HOT, LQ_Z, 5, 0},  {LQ_KV_HOT, LQ_Z, 3, 0},
    {LQ_KV_HOT, LQ_Z, 2, 0}, {LQ_KV_RAW, 0, 0, 0}};

static float ab_f32[2][AB_SOURCE * AB_DIMS];
static uint16_t ab_f16[2][AB_SOURCE * AB_DIMS];
static float ab_back[(AB_LEAD + AB_TOKENS) * AB_DIMS];

static void ab_must(int status, const char *what)
{
    if (status) {
        fprintf(stderr, "%s: %s\n", what, lq_status_string(status));
        exit(1);
    }
}

static double ab_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* Sums of 4 uniforms: near enough to Gaussians; means as keys have them. */
static void ab_fill(void)
{
    uint64_t seed = 1;
    for (int v = 0; v < 2; v++) {
        for (size_t i = 0; i < (size_t)AB_SOURCE * AB_DIMS; i++) {
            float sum = -2.0f;
            for (int j = 0; j < 4; j++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                sum += (float)(seed >> 40) / 16777216.0f;
            }
            ab_f32[v][i] = sum * 1.7320508f + (float)(i * 37 % 13) * (v ? 0.05f : 0.3f);
        }
        ab_must(lq_type_from_f32(ab_f16[v], ab_f32[v], (size_t)AB_SOURCE * AB_DIMS, LQ_F16),
                "lq_type_from_f32");
        ab_must(lq_f32_from_type(ab_f32[v], ab_f16[v], (size_t)AB_SOURCE * AB_DIMS, LQ_F16),
                "lq_f32_from_type");
    }
}

static lq_kv_desc ab_desc(const ab_case *c)
{
    lq_kv_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.layers = c->layers;
    desc.kv_heads = c->heads;
    desc.k_dims = c->dims;
    desc.tokens = AB_LEAD + AB_TOKENS;
    desc.k = ab_policies[c->kind];
    desc.v = ab_policies[c->kind];
    return desc;
}

static void ab_append(lq_kv *kv, const ab_case *c, size_t from, size_t to)
{
    size_t width = (size_t)c->heads * c->dims;
    lq_kv_view k = {NULL, 0, 0, 0};
    lq_kv_view v = {NULL, 0, 0, 0};
    k.type = c->type;
    v.type = c->type;
    for (size_t t = from; t < to; t++) {
        size_t at = t % AB_SOURCE * width;
        k.data =
            c->type == LQ_F32 ? (const void *)(ab_f32[0] + at) : (const void *)(ab_f16[0] + at);
        v.data =
            c->type == LQ_F32 ? (const void *)(ab_f32[1] + at) : (const void *)(ab_f16[1] + at);
        for (uint32_t l = 0; l < c->layers; l++) {
            ab_must(lq_kv_append(kv, l, &k, &v, NULL, 1), "lq_kv_append");
        }
    }
}

/* One turn of a case in the block. */
static void ab_turn(ab_case *c, void *mem, size_t bytes, int turn)
{
    lq_kv_desc desc = ab_desc(c);
    lq_kv_view_out out = {NULL, 0, 0, LQ_F32};
    size_t count = (size_t)(AB_LEAD + AB_TOKENS) * c->heads * c->dims;
    lq_kv kv;
    ab_must(lq_kv_init(&kv, mem, bytes, &desc), "lq_kv_init");
    ab_append(&kv, c, 0, AB_LEAD);
    lq_kv_account before;
    ab_must(lq_kv_stats(&kv, &before), "lq_kv_stats");
    double start = ab_now();
    ab_append(&kv, c, AB_LEAD, AB_LEAD + AB_TOKENS);
    c->ns[turn] = (ab_now() - start) / (double)AB_TOKENS / c->layers;
    lq_kv_account after;
    ab_must(lq_kv_stats(&kv, &after), "lq_kv_stats");
    c->sealed = after.hot_tokens - before.hot_tokens;
    c->sum = 0;
    out.data = ab_back;
    for (int stream = LQ_K; stream <= LQ_V; stream++) {
        ab_must(lq_kv_read(&kv, 0, (uint32_t)stream, &out, 0, AB_LEAD + AB_TOKENS, NULL, 0), "lq_kv_read");
        c->sum = lq_xxh32(ab_back, count * sizeof *ab_back, c->sum);
    }
    lq_kv_free(&kv);
}

static int ab_compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double ab_median(ab_case *c)
{
    qsort(c->ns, AB_TURNS, sizeof *c->ns, ab_compare);
    return c->ns[AB_TURNS / 2];
}

static void ab_print_machine(void)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            printf("%s", strchr(line, ':') + 2);
            break;
        }
    }
    if (f) (void)fclose(f);
#if defined(__clang__)
    printf("clang %s", __clang_version__);
#elif defined(__GNUC__)
    printf("gcc %s", __VERSION__);
#endif
    printf(", CPU level %d, one core\n", lq_cpu_level());
}

int main(int argc, char **argv)
{
    static ab_case cases[AB_CASES];
    size_t bytes = 0;
    if (argc > 1) {
        (void)lq_cpu_limit(atoi(argv[1])); /* at most this level */
    }
    ab_fill();
    for (int i = 0; i < AB_CASES; i++) {
        cases[i].type = i % 2 ? LQ_F32 : LQ_F16;
        cases[i].kind = i / 2 % AB_KINDS;
        cases[i].layers = i / 2 / AB_KINDS % 2 ? 32 : 1;
        cases[i].heads = i / 4 / AB_KINDS ? 3 : 8;
        cases[i].dims = i / 4 / AB_KINDS ? 64 : 128;
        lq_kv_desc desc = ab_desc(&cases[i]);
        size_t need = lq_kv_bytes(&desc);
        bytes = need > bytes ? need : bytes;
    }
    void *mem = malloc(bytes);
    if (!mem || !bytes) {
        fprintf(stderr, "out of memory\n");
        return 1;
    }
    memset(mem, 0, bytes); /* so that no case pays for the pages */
    for (int turn = 0; turn < AB_TURNS; turn++) {
        for (int i = 0; i < AB_CASES; i++) {
            ab_turn(&cases[i], mem, bytes, turn);
        }
    }
    ab_print_machine();
    printf("ns a token and layer   f16 source  f32 source  tokens sealed  checksum\n");
    for (int i = 0; i < AB_CASES; i += 2) {
        const ab_case *c = &cases[i];
        printf("%2u layer%s %u x %3u  %-3s   %8.0f    %8.0f  %10lu     %08x\n", (unsigned)c->layers,
               c->layers > 1 ? "s" : " ", (unsigned)c->heads, (unsigned)c->dims, ab_names[c->kind],
               ab_median(&cases[i]), ab_median(&cases[i + 1]), (unsigned long)c->sealed,
               (unsigned)c->sum);
        if (c->sum != cases[i + 1].sum ||
            c->sum != cases[(i + 2 * AB_KINDS * (c->layers == 1)) % AB_CASES].sum) {
            printf("checksums differ\n");
            return 1;
        }
    }
    free(mem);
    return 0;
}
