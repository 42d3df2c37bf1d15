/* cc -O2 bench/codec.c -o codec -lm */

/* codec.c - the speed of every public kernel, against memcpy of the same bytes

   Each kernel runs at every CPU level that this machine has; kernels, levels and memcpy take turns,
   so that a change of clock speed hits all of them alike. Times are CPU time of this thread, the
   median of 15 turns. Columns: million numbers (hashes: bytes) a second at each level, and how many
   times longer the best level takes than memcpy of the input. Checksums of the output must be equal
   at all levels. Data lie in the second-level cache or the third. */
#if defined(__unix__) || defined(__APPLE__)
#define CB_POSIX
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LATTICEQUANT_IMPLEMENTATION
#include "../latticequant.h"

enum {
    CB_COUNT = 1 << 17,
    CB_TURNS = 15,
    CB_LEVELS = 3,
    CB_TOKENS = 512,
    CB_PAGES = CB_TOKENS / 64,
    CB_DIMS = 1024, /* of the largest codec: 8 heads of 128 */
    CB_RANS_ROWS = 192,
    CB_KINDS = 7 /* of pages */
};

/* Input and output of all kernels. */
static float *cb_x;    /* (CB_TOKENS, CB_DIMS): unit Gaussians */
static uint16_t *cb_h; /* the same as f16 */
static uint8_t *cb_in; /* what the kernel of the moment decodes */
static uint8_t *cb_out;
static size_t cb_out_bytes;
static const lq_tables *cb_tables;
static void *cb_tables_mem;

/* A kernel: `run` treats `count` numbers; a and b are its parameters. */
typedef struct cb_kernel {
    const char *name;
    void (*run)(const struct cb_kernel *kernel);
    size_t count;
    size_t bytes; /* of input */
    int a;
    int b;
    size_t out; /* bytes of output to check */
    struct cb_codec *codec;
    struct cb_rans *rans;
    int repeat;
    double seconds[CB_LEVELS][CB_TURNS];
    double copy[CB_TURNS];
    uint32_t sum[CB_LEVELS];
} cb_kernel;

static void cb_must(int status, const char *what)
{
    if (status) {
        (void)fprintf(stderr, "codec: %s: %s\n", what, lq_status_string(status));
        exit(1);
    }
}

static void *cb_alloc(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    cb_must(p ? LQ_OK : LQ_E_NOMEM, "memory");
    return p;
}

static double cb_now(void)
{
#ifdef CB_POSIX
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
#endif
    return (double)clock() / CLOCKS_PER_SEC;
}

static uint64_t cb_seed = 20240607;

static double cb_uniform(void)
{
    uint64_t z = (cb_seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ((double)(z >> 11) + 0.5) / 9007199254740992.0;
}

static double cb_gaussian(void)
{
    double r = sqrt(-2.0 * log(cb_uniform()));
    return r * cos(6.283185307179586 * cb_uniform());
}

/* ---------------------------------------------------------------------------- kernels on arrays */

static void cb_run_from_f32(const cb_kernel *k)
{
    cb_must(lq_type_from_f32(cb_out, cb_x, k->count, k->a), k->name);
}

static void cb_run_to_f32(const cb_kernel *k)
{
    cb_must(lq_f32_from_type((float *)(void *)cb_out, cb_h, k->count, k->a), k->name);
}

static void cb_run_rotate(const cb_kernel *k)
{
    size_t dims = (size_t)k->a;
    cb_must(lq_rotate_f32((float *)(void *)cb_out, k->count / dims, dims), k->name);
}

static void cb_run_rope(const cb_kernel *k)
{
    static float freqs[64];
    lq_positions positions = {0, 1, NULL};
    size_t dims = (size_t)k->a;
    for (size_t i = 0; i < dims / 2; i++) {
        freqs[i] = 1.0f / (float)(1 + i * i);
    }
    lq_rope rope;
    rope.freqs = freqs;
    rope.rotary_dims = (uint32_t)dims;
    rope.layout = (uint32_t)k->b;
    rope.magnitude = 0.0f;
    cb_must(
        lq_rope_apply_f32((float *)(void *)cb_out, k->count / dims, dims, dims, &rope, &positions),
        k->name);
}

static void cb_run_nearest(const cb_kernel *k)
{
    cb_must(lq_lattice_nearest((int16_t *)(void *)cb_out, cb_x, k->count, 0.5f, k->a), k->name);
}

static void cb_run_fixed_encode(const cb_kernel *k)
{
    float step = 5.6f / (float)(1 << k->b);
    cb_must(lq_fixed_encode(cb_out, cb_out_bytes, cb_x, k->count, step, k->a, k->b), k->name);
}

static void cb_run_fixed_decode(const cb_kernel *k)
{
    float step = 5.6f / (float)(1 << k->b);
    cb_must(lq_fixed_decode((float *)(void *)cb_out, cb_in, k->bytes, k->count, step, k->a, k->b),
            k->name);
}

static void cb_run_xxh32(const cb_kernel *k)
{
    uint32_t hash = lq_xxh32(cb_x, k->count, 0);
    memcpy(cb_out, &hash, 4);
}

static void cb_run_blake2s(const cb_kernel *k)
{
    lq_blake2s_128(cb_out, cb_x, k->count);
}

/* ----------------------------------------------------------------------------------------- rANS */

/* 8 pages of Gaussian integers, classes from 1/4 step to 8 steps. */
typedef struct cb_rans {
    lq_rans_plan plan;
    void *plan_mem;
    lq_rans_page pages[CB_PAGES];
    lq_rans_page encoded[CB_PAGES];
    int16_t *values;
    uint8_t *workspace;
    size_t workspace_bytes;
    size_t bound;
    size_t written;
} cb_rans;

static void cb_rans_start(cb_rans *r)
{
    size_t i, t;
    uint8_t classes[CB_RANS_ROWS];
    for (i = 0; i < CB_RANS_ROWS; i++) {
        classes[i] = (uint8_t)(LQ_CLASS_ONE + 24 - i * 40 / CB_RANS_ROWS);
    }
    r->plan_mem = cb_alloc(lq_rans_plan_bytes(CB_RANS_ROWS));
    cb_must(lq_rans_plan_init(&r->plan, r->plan_mem, lq_rans_plan_bytes(CB_RANS_ROWS), classes,
                              CB_RANS_ROWS, 0, LQ_Z),
            "lq_rans_plan_init");
    r->bound = lq_rans_bound(CB_RANS_ROWS, 64);
    r->workspace_bytes = lq_rans_workspace_bytes(CB_RANS_ROWS, CB_PAGES);
    r->workspace = (uint8_t *)cb_alloc(r->workspace_bytes);
    r->values = (int16_t *)cb_alloc(CB_PAGES * CB_RANS_ROWS * 64 * sizeof *r->values);
    for (i = 0; i < CB_PAGES * CB_RANS_ROWS; i++) {
        double sigma = exp2((classes[i % CB_RANS_ROWS] - LQ_CLASS_ONE) / 8.0);
        for (t = 0; t < 64; t++) {
            r->values[i * 64 + t] = (int16_t)floor(sigma * cb_gaussian() + 0.5);
        }
    }
}

static void cb_run_rans_encode(const cb_kernel *k)
{
    cb_rans *r = k->rans;
    for (size_t i = 0; i < CB_PAGES; i++) {
        memset(&r->pages[i], 0, sizeof r->pages[i]);
        r->pages[i].values = r->values + i * CB_RANS_ROWS * 64;
        r->pages[i].bytes = cb_out + i * r->bound;
        r->pages[i].bytes_count = r->bound;
        r->pages[i].tokens = 64;
    }
    cb_must(
        lq_rans_encode(cb_tables, &r->plan, r->pages, CB_PAGES, r->workspace, r->workspace_bytes),
        k->name);
}

/* Keeps the encoder's pages in cb_in for the decoder. */
static void cb_rans_keep(cb_kernel *k)
{
    cb_rans *r = k->rans;
    cb_run_rans_encode(k);
    memcpy(cb_in, cb_out, CB_PAGES * r->bound);
    r->written = 0;
    for (size_t i = 0; i < CB_PAGES; i++) {
        r->encoded[i] = r->pages[i];
        r->encoded[i].bytes = cb_in + i * r->bound;
        r->encoded[i].bytes_count = r->pages[i].written;
        r->encoded[i].values = (int16_t *)(void *)cb_out + i * CB_RANS_ROWS * 64;
        r->written += r->pages[i].written;
    }
}

static void cb_run_rans_decode(const cb_kernel *k)
{
    cb_rans *r = k->rans;
    cb_must(
        lq_rans_decode(cb_tables, &r->plan, r->encoded, CB_PAGES, r->workspace, r->workspace_bytes),
        k->name);
}

/* ---------------------------------------------------------------------------------------- codec */

/* A codec on f16 vectors: 512 tokens of `heads` of `dims`, K, no RoPE, sigma 1, step 1/2. */
typedef struct cb_codec {
    lq_codec *codec;
    void *codec_mem;
    void *profile_mem;
    lq_profile profile;
    uint32_t dims[8];
    const void *src[8];
    void *dst[8];
    uint8_t *pages; /* what decode reads */
    uint8_t *workspace;
    size_t workspace_bytes;
    size_t page_bytes[CB_PAGES];
    size_t written;
} cb_codec;

static void cb_codec_start(cb_codec *c, uint32_t heads, uint32_t dims, int page, int quantizer)
{
    lq_codec_desc d;
    memset(&d, 0, sizeof d);
    for (uint32_t i = 0; i < heads; i++) {
        c->dims[i] = dims;
        c->src[i] = cb_h + (size_t)i * CB_TOKENS * dims;
        c->dst[i] = cb_out + (size_t)i * CB_TOKENS * dims * 2;
    }
    d.tables = cb_tables;
    d.geometry.stream = LQ_K;
    d.geometry.slice_count = heads;
    d.geometry.slice_dims = c->dims;
    d.page = page;
    d.quantizer = quantizer;
    d.step = page == LQ_PAGE_FIXED ? 0.34f : 0.5f;
    c->profile_mem = cb_alloc(lq_profile_bytes(CB_DIMS));
    cb_must(
        lq_profile_init(&c->profile, c->profile_mem, lq_profile_bytes(CB_DIMS), &d.geometry, 1.0f),
        "lq_profile_init");
    d.profile = &c->profile;
    c->codec_mem = cb_alloc(lq_codec_bytes(&d));
    cb_must(lq_codec_init(&c->codec, c->codec_mem, lq_codec_bytes(&d), &d), "lq_codec_init");
    c->workspace_bytes = lq_codec_workspace_bytes(c->codec);
    c->workspace = (uint8_t *)cb_alloc(c->workspace_bytes);
    c->pages = (uint8_t *)cb_alloc(lq_codec_page_bound(c->codec) * CB_PAGES);
}

static void cb_run_codec_encode(const cb_kernel *k)
{
    cb_codec *c = k->codec;
    lq_vectors src;
    src.slices = c->src;
    src.token_stride = 0;
    src.type = LQ_F16;
    cb_must(lq_codec_encode(c->codec, cb_out, cb_out_bytes, &c->written, c->page_bytes, &src, NULL,
                            CB_TOKENS, c->workspace, c->workspace_bytes),
            k->name);
}

static void cb_run_codec_decode(const cb_kernel *k)
{
    cb_codec *c = k->codec;
    const uint8_t *pages[CB_PAGES];
    size_t at = 0;
    for (size_t i = 0; i < CB_PAGES; i++) {
        pages[i] = c->pages + at;
        at += c->page_bytes[i];
    }
    lq_vectors_out dst;
    dst.slices = c->dst;
    dst.token_stride = 0;
    dst.type = LQ_F16;
    cb_must(lq_codec_decode(c->codec, &dst, NULL, CB_TOKENS, pages, c->page_bytes, c->workspace,
                            c->workspace_bytes),
            k->name);
}

/* ------------------------------------------------------------------------------------ measuring */

/* What a run finds: in-place kernels their numbers, decoders what they decode. */
static void cb_prepare(cb_kernel *k)
{
    memcpy(cb_out, cb_x, k->count * 4 < cb_out_bytes ? k->count * 4 : cb_out_bytes);
    if (k->run == cb_run_fixed_decode) {
        float step = 5.6f / (float)(1 << k->b);
        cb_must(lq_fixed_encode(cb_in, cb_out_bytes, cb_x, k->count, step, k->a, k->b), k->name);
    } else if (k->run == cb_run_rans_decode) {
        cb_rans_keep(k);
        k->bytes = k->rans->written;
    } else if (k->run == cb_run_codec_decode) {
        cb_run_codec_encode(k);
        memcpy(k->codec->pages, cb_out, k->codec->written);
        k->bytes = k->codec->written;
    }
}

/* Checksums at every level, and how often to repeat a run so that a turn takes 0.3 ms. */
static void cb_check(cb_kernel *k, int levels)
{
    int level, i;
    for (level = 0; level < levels; level++) {
        (void)lq_cpu_limit(level);
        cb_prepare(k);
        k->run(k);
        k->sum[level] = lq_xxh32(cb_out, k->out, 0);
    }
    double start = cb_now();
    for (i = 0; i < 5; i++) {
        k->run(k);
    }
    start = (cb_now() - start) / 5.0;
    k->repeat = start > 3e-4 ? 1 : (int)(3e-4 / (start + 1e-7)) + 1;
}

static void cb_turn(cb_kernel *k, int levels, int turn)
{
    int level, i;
    double start;
    for (level = 0; level < levels; level++) {
        (void)lq_cpu_limit(level);
        cb_prepare(k);
        k->run(k);
        start = cb_now();
        for (i = 0; i < k->repeat; i++) {
            k->run(k);
        }
        k->seconds[level][turn] = (cb_now() - start) / k->repeat;
    }
    memcpy(cb_out, cb_x, k->bytes);
    start = cb_now();
    for (i = 0; i < 8 * k->repeat; i++) {
        memcpy(cb_out, cb_x, k->bytes);
        cb_x[0] = ((volatile float *)(void *)cb_out)[0]; /* so that no copy can be left out */
    }
    k->copy[turn] = (cb_now() - start) / (8 * k->repeat);
}

static int cb_compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static double cb_median(double *times)
{
    qsort(times, CB_TURNS, sizeof *times, cb_compare);
    return times[CB_TURNS / 2];
}

static int cb_print(cb_kernel *k, int levels)
{
    double best = 1e9;
    int same = 1;
    printf("%-28s", k->name);
    for (int level = 0; level < CB_LEVELS; level++) {
        if (level < levels) {
            double t = cb_median(k->seconds[level]);
            best = t < best ? t : best;
            same = same && k->sum[level] == k->sum[0];
            printf(" %9.1f", (double)k->count / t * 1e-6);
        } else {
            printf(" %9s", "-");
        }
    }
    printf(" %9.2f  %08x%s\n", best / cb_median(k->copy), (unsigned)k->sum[0],
           same ? "" : "  LEVELS DIFFER");
    return same;
}

static void cb_print_machine(void)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            printf("CPU:     %s", strchr(line, ':') + 2);
            break;
        }
    }
    if (file) (void)fclose(file);
#if defined(__clang__)
    printf("built:   clang %s", __clang_version__);
#elif defined(__GNUC__)
    printf("built:   gcc %s", __VERSION__);
#else
    printf("built:   unknown compiler");
#endif
#if defined(CB_FLAGS)
    printf(", " CB_FLAGS "\n");
#elif defined(__OPTIMIZE__)
    printf(", optimised (-DCB_FLAGS='\"...\"' tells more)\n");
#else
    printf(", NOT optimised\n");
#endif
}

/* ----------------------------------------------------------------------------------------- list */

typedef struct cb_list {
    cb_kernel *at;
    size_t count;
} cb_list;

static cb_kernel *cb_add(cb_list *list, const char *name, void (*run)(const cb_kernel *),
                         size_t count, size_t bytes, size_t out, int a, int b)
{
    cb_kernel *k = &list->at[list->count++];
    memset(k, 0, sizeof *k);
    k->name = name;
    k->run = run;
    k->count = count;
    k->bytes = bytes;
    k->out = out;
    k->a = a;
    k->b = b;
    return k;
}

static void cb_add_arrays(cb_list *l)
{
    const size_t n = CB_COUNT;
    (void)cb_add(l, "f16 from f32", cb_run_from_f32, n, n * 4, n * 2, LQ_F16, 0);
    (void)cb_add(l, "f32 from f16", cb_run_to_f32, n, n * 2, n * 4, LQ_F16, 0);
    (void)cb_add(l, "bf16 from f32", cb_run_from_f32, n, n * 4, n * 2, LQ_BF16, 0);
    (void)cb_add(l, "f32 from bf16", cb_run_to_f32, n, n * 2, n * 4, LQ_BF16, 0);
    (void)cb_add(l, "rotate, 64 dims", cb_run_rotate, n, n * 4, n * 4, 64, 0);
    (void)cb_add(l, "rotate, 128 dims", cb_run_rotate, n, n * 4, n * 4, 128, 0);
    (void)cb_add(l, "rope half, 64 dims", cb_run_rope, n, n * 4, n * 4, 64, LQ_ROPE_HALF);
    (void)cb_add(l, "rope adjacent, 128 dims", cb_run_rope, n, n * 4, n * 4, 128, LQ_ROPE_ADJACENT);
    (void)cb_add(l, "nearest, Z", cb_run_nearest, n, n * 4, n * 2, LQ_Z, 0);
    (void)cb_add(l, "nearest, D4", cb_run_nearest, n, n * 4, n * 2, LQ_D4, 0);
    (void)cb_add(l, "nearest, E8", cb_run_nearest, n, n * 4, n * 2, LQ_E8, 0);
    (void)cb_add(l, "nearest, E8 relaxed", cb_run_nearest, n, n * 4, n * 2, LQ_E8_RELAXED, 0);
    (void)cb_add(l, "fixed encode, Z 8 bit", cb_run_fixed_encode, n, n * 4, n, LQ_Z, 8);
    (void)cb_add(l, "fixed encode, Z 4 bit", cb_run_fixed_encode, n, n * 4, n / 2, LQ_Z, 4);
    (void)cb_add(l, "fixed encode, Z 3 bit", cb_run_fixed_encode, n, n * 4, n / 8 * 3, LQ_Z, 3);
    (void)cb_add(l, "fixed encode, Z 2 bit", cb_run_fixed_encode, n, n * 4, n / 4, LQ_Z, 2);
    (void)cb_add(l, "fixed encode, E8 4 bit", cb_run_fixed_encode, n, n * 4, n / 2, LQ_E8, 4);
    (void)cb_add(l, "fixed decode, Z 8 bit", cb_run_fixed_decode, n, n, n * 4, LQ_Z, 8);
    (void)cb_add(l, "fixed decode, Z 4 bit", cb_run_fixed_decode, n, n / 2, n * 4, LQ_Z, 4);
    (void)cb_add(l, "fixed decode, Z 3 bit", cb_run_fixed_decode, n, n / 8 * 3, n * 4, LQ_Z, 3);
    (void)cb_add(l, "fixed decode, Z 2 bit", cb_run_fixed_decode, n, n / 4, n * 4, LQ_Z, 2);
    (void)cb_add(l, "fixed decode, E8 4 bit", cb_run_fixed_decode, n, n / 2, n * 4, LQ_E8, 4);
    (void)cb_add(l, "xxh32 (bytes)", cb_run_xxh32, n * 4, n * 4, 4, 0, 0);
    (void)cb_add(l, "blake2s_128 (bytes)", cb_run_blake2s, n * 4, n * 4, 16, 0, 0);
}

static void cb_add_coders(cb_list *l, cb_rans *rans, cb_codec *codecs)
{
    static const char *const names[4][CB_KINDS] = {
        {"encode 3 x 64, Z", "encode 3 x 64, D4", "encode 3 x 64, E8", "encode 3 x 64, E8 relaxed",
         "encode 3 x 64, 8 states", "encode 3 x 64, 64 states", "encode 3 x 64, fixed Z 4"},
        {"decode 3 x 64, Z", "decode 3 x 64, D4", "decode 3 x 64, E8", "decode 3 x 64, E8 relaxed",
         "decode 3 x 64, 8 states", "decode 3 x 64, 64 states", "decode 3 x 64, fixed Z 4"},
        {"encode 8 x 128, Z", "encode 8 x 128, D4", "encode 8 x 128, E8",
         "encode 8 x 128, E8 relaxed", "encode 8 x 128, 8 states", "encode 8 x 128, 64 states",
         "encode 8 x 128, fixed Z 4"},
        {"decode 8 x 128, Z", "decode 8 x 128, D4", "decode 8 x 128, E8",
         "decode 8 x 128, E8 relaxed", "decode 8 x 128, 8 states", "decode 8 x 128, 64 states",
         "decode 8 x 128, fixed Z 4"}};
    static const int quantizers[CB_KINDS] = {LQ_Z,         LQ_D4,         LQ_E8, LQ_E8_RELAXED,
                                             LQ_TRELLIS_8, LQ_TRELLIS_64, LQ_Z};
    size_t n = CB_PAGES * CB_RANS_ROWS * 64;
    cb_rans_start(rans);
    cb_kernel *k = cb_add(l, "rans encode, 8 pages", cb_run_rans_encode, n, n * 2, n / 4, 0, 0);
    k->rans = rans;
    k = cb_add(l, "rans decode, 8 pages", cb_run_rans_decode, n, n / 2, n * 2, 0, 0);
    k->rans = rans;
    for (int i = 0; i < 2 * CB_KINDS; i++) {
        int kind = i % CB_KINDS;
        int row = i / CB_KINDS * 2;
        uint32_t heads = i < CB_KINDS ? 3 : 8;
        uint32_t dims = i < CB_KINDS ? 64 : 128;
        cb_codec_start(&codecs[i], heads, dims,
                       kind == CB_KINDS - 1 ? LQ_PAGE_FIXED : LQ_PAGE_CODED, quantizers[kind]);
        n = (size_t)heads * dims * CB_TOKENS;
        k = cb_add(l, names[row][kind], cb_run_codec_encode, n, n * 2, n / 4, 0, 0);
        k->codec = &codecs[i];
        k = cb_add(l, names[row + 1][kind], cb_run_codec_decode, n, n / 4, n * 2, 0, 0);
        k->codec = &codecs[i];
    }
}

static void cb_free(cb_list *list, cb_rans *rans, cb_codec *codecs)
{
    for (int i = 0; i < 2 * CB_KINDS; i++) {
        free(codecs[i].codec_mem);
        free(codecs[i].profile_mem);
        free(codecs[i].pages);
        free(codecs[i].workspace);
    }
    free(rans->plan_mem);
    free(rans->values);
    free(rans->workspace);
    free(rans);
    free(codecs);
    free(list->at);
    free(cb_x);
    free(cb_h);
    free(cb_in);
    free(cb_out);
    free(cb_tables_mem);
}

int main(void)
{
    const size_t n = CB_TOKENS * CB_DIMS;
    int levels = lq_cpu_limit(-1) + 1;
    cb_rans *rans = (cb_rans *)cb_alloc(sizeof *rans);
    cb_codec *codecs = (cb_codec *)cb_alloc(2 * CB_KINDS * sizeof *codecs);
    cb_list list = {NULL, 0};
    int same = 1;
    levels = levels > CB_LEVELS ? CB_LEVELS : levels;
    list.at = (cb_kernel *)cb_alloc(64 * sizeof *list.at);
    cb_out_bytes = n * 8;
    cb_x = (float *)cb_alloc(n * sizeof *cb_x);
    cb_h = (uint16_t *)cb_alloc(n * sizeof *cb_h);
    cb_in = (uint8_t *)cb_alloc(cb_out_bytes);
    cb_out = (uint8_t *)cb_alloc(cb_out_bytes);
    cb_tables_mem = cb_alloc(lq_tables_bytes());
    cb_must(lq_tables_init(&cb_tables, cb_tables_mem, lq_tables_bytes()), "lq_tables_init");
    for (size_t i = 0; i < n; i++) {
        cb_x[i] = (float)cb_gaussian();
    }
    cb_must(lq_type_from_f32(cb_h, cb_x, n, LQ_F16), "lq_type_from_f32");
    cb_add_arrays(&list);
    cb_add_coders(&list, rans, codecs);
    for (size_t i = 0; i < list.count; i++) {
        cb_check(&list.at[i], levels);
    }
    for (int turn = 0; turn < CB_TURNS; turn++) {
        for (size_t i = 0; i < list.count; i++) {
            cb_turn(&list.at[i], levels, turn);
        }
    }
    (void)lq_cpu_limit(-1);
    cb_print_machine();
    printf("\n%-28s %9s %9s %9s %9s  %s\n", "million numbers a second", "C", "AVX2", "AVX-512",
           "x memcpy", "checksum");
    for (size_t i = 0; i < list.count; i++) {
        same = cb_print(&list.at[i], levels) && same;
    }
    cb_free(&list, rans, codecs);
    return !same;
}
